//! How many bytes a camera's settings will make in a day, for `check-config`. Pure.
//!
//! It is an estimate before anything was captured, and says what it assumes. What the source does not
//! tell is assumed; so is how much happens before the camera. Records are counted as they lie in the
//! spool; on the way to the broker they are compressed to less than half of that.

use std::fmt;

use crate::capture::CameraSettings;
use crate::capture::settings::{Sampling, Source};
use crate::detect::PublishPolicy;

const DAY_S: f64 = 86_400.0;
/// The longest month.
const MONTH_DAYS: f64 = 31.0;
/// Of a source that does not say.
const ASSUMED_FPS: f64 = 25.0;
const ASSUMED_PX: (u32, u32) = (1920, 1080);
/// How long a person stays: each visit has its moments before and after.
const VISIT_S: f64 = 10.0;
/// Width of a face, as a share of the picture's.
const FACE_WIDTH: f64 = 0.1;
/// A record as it lies in the spool, headers included: a frame without a face, one more face, a skip.
const EMPTY_BYTES: f64 = 900.0;
const FACE_BYTES: f64 = 420.0;
const SKIP_BYTES: f64 = 700.0;
/// Bits that a pixel of a camera's picture takes as a JPEG with chroma at half of both sizes, by
/// quality; between these it is taken as a line. Scenes differ by a factor of two either way.
const BITS_PER_PIXEL: [(f64, f64); 8] = [
    (1.0, 0.15),
    (30.0, 0.6),
    (50.0, 0.85),
    (75.0, 1.3),
    (85.0, 1.8),
    (90.0, 2.3),
    (95.0, 3.4),
    (100.0, 7.0),
];
/// Tables and markers of a JPEG.
const JPEG_HEAD_BYTES: f64 = 620.0;

/// What one camera makes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Captured frames per second, and whether the source's rate had to be assumed.
    pub fps: (f64, bool),
    /// Pixels of the frame, and whether they had to be assumed.
    pub px: ((u32, u32), bool),
    /// Records: bytes a day.
    pub record_bytes: f64,
    /// Pictures and crops: bytes a day.
    pub picture_bytes: f64,
}

impl Estimate {
    /// Of a camera before which there is a face for this share of the day.
    pub fn of(camera: &CameraSettings, faces: f64) -> Self {
        let (fps, px) = (fps(camera), px(camera));
        let still = still(camera, faces);
        let looks = match camera.is_gated() {
            true => (1000.0 / f64::from(camera.motion.look_every_ms)).min(fps.0),
            false => fps.0,
        };
        // In a second without motion: so many looks, and a skip between two of them.
        let (busy_s, still_s) = ((1.0 - still) * DAY_S, still * DAY_S);
        let skips = if looks < fps.0 { looks.max(1.0) } else { 0.0 };
        let looked_at = busy_s * fps.0 + still_s * looks;
        let record_bytes = looked_at * EMPTY_BYTES
            + faces * DAY_S * fps.0 * FACE_BYTES
            + still_s * skips * SKIP_BYTES;
        let picture_bytes = pictures(camera, faces, fps.0, looked_at) * picture(camera, px.0)
            + crops(camera, faces) * crop(camera, px.0);
        Self { fps, px, record_bytes, picture_bytes }
    }

    /// Records and pictures.
    pub fn bytes(&self) -> f64 {
        self.record_bytes + self.picture_bytes
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let assumed = |is_assumed| if is_assumed { " (assumed)" } else { "" };
        let ((fps, fps_assumed), ((width, height), px_assumed)) = (self.fps, self.px);
        write!(
            f,
            "about {} a day: {} of records, {} of pictures, at {fps:.1} frames a second{} of {width}x{height}{}",
            megabytes(self.bytes()),
            megabytes(self.record_bytes),
            megabytes(self.picture_bytes),
            assumed(fps_assumed),
            assumed(px_assumed),
        )
    }
}

/// What is assumed of what happens, in words.
pub fn assumptions(faces: f64) -> String {
    format!(
        "assumed: one face for {:.0} % of the day, in visits of {VISIT_S:.0} s (--faces sets the \
         share), and as much motion without a face; JPEGs of an ordinary scene, which may take half \
         or double",
        faces * 100.0
    )
}

/// A number of bytes, to two digits that mean something.
pub fn megabytes(bytes: f64) -> String {
    let mb = bytes / 1e6;
    match mb {
        1000.0.. => format!("{:.1} GB", mb / 1000.0),
        10.0.. => format!("{mb:.0} MB"),
        _ => format!("{mb:.1} MB"),
    }
}

/// How the bytes of a day compare with the budget of a month.
pub fn against_budget(bytes_a_day: f64, budget_bytes: u64) -> String {
    let (month, budget) = (bytes_a_day * MONTH_DAYS, budget_bytes as f64);
    let (of_month, of_budget) = (megabytes(month), megabytes(budget));
    if month <= budget {
        return format!(
            "uplink.monthly_budget_bytes: about {of_month} a month, within {of_budget}"
        );
    }
    format!(
        "WARNING: uplink.monthly_budget_bytes: about {of_month} a month; {of_budget} would be used \
         up after some {:.0} days, and pictures left out from then on",
        budget / bytes_a_day
    )
}

fn fps(camera: &CameraSettings) -> (f64, bool) {
    let (source_fps, is_assumed) = match &camera.source {
        Source::V4l2(v4l2) => (f64::from(v4l2.ask().fps), v4l2.fps.is_none()),
        Source::Csi(csi) => (f64::from(csi.fps), false),
        Source::TestPattern(pattern) => (f64::from(pattern.fps), false),
        _ => (ASSUMED_FPS, true),
    };
    match camera.sampling {
        Sampling::Fps(fps) => (fps.min(source_fps), is_assumed && fps > source_fps),
        Sampling::Every(n) => (source_fps / f64::from(n.max(1)), is_assumed),
    }
}

/// Of the frame: the source's, turned and cut.
fn px(camera: &CameraSettings) -> ((u32, u32), bool) {
    let (source_px, is_assumed) = match &camera.source {
        Source::V4l2(v4l2) => {
            (v4l2.ask().size_px, v4l2.width_px.is_none() || v4l2.height_px.is_none())
        }
        Source::Csi(csi) => ((csi.width_px, csi.height_px), false),
        Source::TestPattern(pattern) => ((pattern.width_px, pattern.height_px), false),
        _ => (ASSUMED_PX, true),
    };
    let (width, height) = camera.picture.size_of(source_px);
    // A cut that leaves nothing of it is refused by capture, which knows the size.
    ((width.max(1), height.max(1)), is_assumed)
}

/// Share of the day in which nothing is looked at but from time to time.
fn still(camera: &CameraSettings, faces: f64) -> f64 {
    if camera.is_gated() { (1.0 - 2.0 * faces).max(0.0) } else { 0.0 }
}

/// Pictures a day.
fn pictures(camera: &CameraSettings, faces: f64, fps: f64, looked_at: f64) -> f64 {
    let publish = &camera.publish;
    match publish.policy {
        PublishPolicy::All => looked_at,
        PublishPolicy::ObservationsOnly => 0.0,
        PublishPolicy::WithDetections => {
            let visits = faces * DAY_S / VISIT_S;
            let around_s = f64::from(publish.before_ms + publish.after_ms) / 1000.0;
            ((faces * DAY_S + visits * around_s) * fps).min(looked_at)
        }
    }
}

/// Crops a day: a window opens with a face.
fn crops(camera: &CameraSettings, faces: f64) -> f64 {
    let every_ms = camera.publish.best_crop.map(|best_crop| best_crop.every_ms);
    every_ms.map_or(0.0, |every_ms| faces * DAY_S / (f64::from(every_ms) / 1000.0))
}

fn picture(camera: &CameraSettings, (width, height): (u32, u32)) -> f64 {
    let (width, height) = (f64::from(width), f64::from(height));
    let published = camera.publish.width_px.map_or(width, |px| f64::from(px).min(width));
    jpeg_bytes(published * published * height / width, camera.publish.quality)
}

/// A face is a third higher than wide.
fn crop(camera: &CameraSettings, (width, _): (u32, u32)) -> f64 {
    let Some(best_crop) = camera.publish.best_crop else { return 0.0 };
    let side = f64::from(width) * FACE_WIDTH * (1.0 + 2.0 * f64::from(best_crop.margin));
    let side = best_crop.width_px.map_or(side, |px| side.min(f64::from(px)));
    jpeg_bytes(side * side * 4.0 / 3.0, camera.publish.quality)
}

/// Bytes of a JPEG of so many pixels.
pub fn jpeg_bytes(pixels: f64, quality: u8) -> f64 {
    let quality = f64::from(quality);
    let mut pairs = BITS_PER_PIXEL.iter().zip(&BITS_PER_PIXEL[1..]);
    let between = pairs.clone().find(|(_, (to, _))| quality <= *to).or(pairs.next_back());
    let bits = between.map_or(0.0, |((from, low), (to, high))| {
        low + (quality - from) / (to - from) * (high - low)
    });
    JPEG_HEAD_BYTES + pixels * bits / 8.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn camera(change: &str) -> CameraSettings {
        let text = format!(
            "name = 'cam'\nsampling = {{ fps = 10.0 }}\n{change}\n\
             [source.test-pattern]\nwidth_px = 1280\nheight_px = 720\nfps = 30\n"
        );
        toml::from_str(&text).unwrap()
    }

    fn close(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 0.01
    }

    #[test]
    fn without_a_gate_every_frame_is_a_record_and_those_with_a_face_have_a_picture() {
        let estimate = Estimate::of(&camera("motion = { gate = false }"), 0.1);
        assert_eq!((estimate.fps, estimate.px), ((10.0, false), ((1280, 720), false)));
        let (frames, with_face) = (864_000.0, 86_400.0);
        assert!(close(estimate.record_bytes, frames * EMPTY_BYTES + with_face * FACE_BYTES));
        assert!(close(estimate.picture_bytes, with_face * jpeg_bytes(1280.0 * 720.0, 85)));
    }

    #[test]
    fn the_gate_saves_the_records_of_the_still_part_of_the_day_and_no_picture() {
        let gated = Estimate::of(&camera(""), 0.1);
        let all = Estimate::of(&camera("motion = { gate = false }"), 0.1);
        assert!(gated.record_bytes < all.record_bytes / 2.0, "{gated} / {all}");
        assert_eq!(gated.picture_bytes, all.picture_bytes);
    }

    #[test]
    fn each_setting_of_what_is_published_shows() {
        let bytes = |change: &str| Estimate::of(&camera(change), 0.1).picture_bytes;
        let usual = bytes("");
        assert_eq!(bytes("publish = { policy = 'observations-only' }"), 0.0);
        assert!(bytes("publish = { policy = 'all' }") > usual);
        assert!(bytes("publish = { before_ms = 2000, after_ms = 3000 }") > 1.4 * usual);
        assert!(bytes("publish = { best_crop = {} }") > usual);
        assert!(close(4.0 * bytes("publish = { width_px = 640 }"), usual));
        assert!(bytes("publish = { quality = 50 }") < 0.6 * usual);
    }

    #[test]
    fn a_picture_that_is_turned_and_cut_is_estimated_as_it_comes_out() {
        let crop = "picture = { rotate_deg = 90, crop = { left_px = 20, bottom_px = 80 } }";
        let estimate = Estimate::of(&camera(crop), 0.1);
        assert_eq!(estimate.px, ((700, 1200), false));
        let narrow = "publish = { width_px = 350 }";
        let both = Estimate::of(&camera(&format!("{crop}\n{narrow}")), 0.1);
        assert!(close(both.picture_bytes, 86_400.0 * jpeg_bytes(350.0 * 600.0, 85)), "{both}");
    }

    #[test]
    fn what_is_asked_of_a_camera_is_what_is_estimated() {
        let text = "name = 'cam'\n[source.v4l2]\ndevice = '/dev/video0'\n";
        let default = crate::capture::v4l2::mode::Ask::default();
        let of = |text: &str| Estimate::of(&toml::from_str(text).unwrap(), 0.1);
        assert_eq!(of(text).px, (default.size_px, true));
        assert_eq!(of(text).fps, (f64::from(default.fps), true));
        let sized = format!("{text}width_px = 640\nheight_px = 480\nfps = 5\n");
        assert_eq!((of(&sized).px, of(&sized).fps), (((640, 480), false), (5.0, false)));
    }

    #[test]
    fn what_the_source_does_not_tell_is_said_to_be_assumed() {
        let text = "name = 'cam'\n[source.rtsp]\nurl = 'rtsp://10.0.0.1/'";
        let estimate = Estimate::of(&toml::from_str(text).unwrap(), 0.1).to_string();
        assert!(estimate.contains("25.0 frames a second (assumed) of 1920x1080 (assumed)"));
    }

    #[test]
    fn a_budget_that_a_month_would_exceed_is_said_to_end_after_so_many_days() {
        let within = against_budget(1e9, 31_000_000_000);
        assert!(within.contains("31.0 GB") && !within.contains("WARNING"), "{within}");
        let beyond = against_budget(1e9, 10_000_000_000);
        assert!(beyond.contains("WARNING") && beyond.contains("some 10 days"), "{beyond}");
    }

    #[test]
    fn bytes_are_written_as_people_read_them() {
        for (bytes, text) in [(3.44e6, "3.4 MB"), (123.4e6, "123 MB"), (4.56e9, "4.6 GB")] {
            assert_eq!(megabytes(bytes), text);
        }
    }
}
