//! How a camera's picture is brought into the form in which it is looked at: deinterlaced, turned,
//! mirrored and cut, in this order.
//!
//! What comes out is the captured frame: its pixels are those of boxes, landmarks, zones and masks.
//! Only what is asked for is put into the pipeline, behind `videoconvert`:
//!
//! ```text
//! ... ! videoconvert ! deinterlace fields=top ! videocrop left=16 ! videoflip video-direction=90r ! appsink
//! ```

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::CaptureError;
use super::source::{element, finish};

/// How the picture is brought into the form in which it is looked at: deinterlaced, turned, mirrored
/// and cut, in this order. All that is said of pixels elsewhere means the picture that comes out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PictureSettings {
    /// Turn it clockwise by so many degrees: 0, 90, 180 or 270. For a camera that hangs overhead, 180.
    pub rotate_deg: u32,
    /// Turn and mirror it as a mark in the stream says, such as phones set one.
    pub rotate_as_marked: bool,
    /// Swap left and right, or top and bottom, after turning.
    pub mirror: Mirror,
    /// What is cut off, after turning and mirroring.
    pub crop: Crop,
    /// Make whole pictures of half ones, for cameras that give every other row at a time.
    pub deinterlace: Deinterlace,
}

/// Which sides are swapped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mirror {
    /// None.
    #[default]
    None,
    /// Left and right.
    Horizontal,
    /// Top and bottom.
    Vertical,
}

/// What is cut off at each side, in pixels; even numbers, since colour has half the pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Crop {
    /// At the left.
    pub left_px: u32,
    /// At the top.
    pub top_px: u32,
    /// At the right.
    pub right_px: u32,
    /// At the bottom.
    pub bottom_px: u32,
}

/// Which pictures are deinterlaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Deinterlace {
    /// None.
    #[default]
    Off,
    /// Those that the stream says are interlaced.
    AsMarked,
    /// All.
    Always,
}

/// The greatest cut: no camera is larger.
const WIDEST_PX: u32 = 16384;

impl PictureSettings {
    /// What is wrong, if anything: the field, its value, and what it may be.
    pub(super) fn range_problem(&self) -> Option<(&'static str, u32, &'static str)> {
        if ![0, 90, 180, 270].contains(&self.rotate_deg) {
            return Some(("picture.rotate_deg", self.rotate_deg, "0, 90, 180 or 270"));
        }
        let Crop { left_px, top_px, right_px, bottom_px } = self.crop;
        let margins = [
            ("picture.crop.left_px", left_px),
            ("picture.crop.top_px", top_px),
            ("picture.crop.right_px", right_px),
            ("picture.crop.bottom_px", bottom_px),
        ];
        let wrong = margins.into_iter().find(|(_, px)| *px > WIDEST_PX || px % 2 == 1);
        wrong.map(|(field, px)| (field, px, "an even number up to 16384"))
    }

    /// Width and height of what comes out of a picture of this size, as far as the settings alone tell:
    /// a mark may turn it too.
    pub fn size_of(&self, (width, height): (u32, u32)) -> (u32, u32) {
        let (width, height) = match self.rotate_deg {
            90 | 270 => (height, width),
            _ => (width, height),
        };
        let Crop { left_px, top_px, right_px, bottom_px } = self.crop;
        let left_of =
            |px: u32, cut: [u32; 2]| cut.iter().fold(px, |px, cut| px.saturating_sub(*cut));
        (left_of(width, [left_px, right_px]), left_of(height, [top_px, bottom_px]))
    }

    /// Whether marks and numbers would both turn it.
    pub(super) fn contradicts_itself(&self) -> bool {
        self.rotate_as_marked && (self.rotate_deg != 0 || self.mirror != Mirror::None)
    }

    /// What `videoflip` calls the turn and the mirror together; none if nothing is to be done.
    fn direction(&self) -> Option<&'static str> {
        use Mirror::{Horizontal, None as Straight, Vertical};
        if self.rotate_as_marked {
            return Some("auto");
        }
        match (self.rotate_deg, self.mirror) {
            (90, Straight) => Some("90r"),
            (180, Straight) => Some("180"),
            (270, Straight) => Some("90l"),
            (0, Horizontal) | (180, Vertical) => Some("horiz"),
            (0, Vertical) | (180, Horizontal) => Some("vert"),
            (90, Horizontal) | (270, Vertical) => Some("ul-lr"),
            (90, Vertical) | (270, Horizontal) => Some("ur-ll"),
            _ => None,
        }
    }

    /// The cut as it lies in the picture before it is mirrored and turned.
    fn crop_before_turning(&self) -> Crop {
        let Crop { mut left_px, mut top_px, mut right_px, mut bottom_px } = self.crop;
        match self.mirror {
            Mirror::None => {}
            Mirror::Horizontal => std::mem::swap(&mut left_px, &mut right_px),
            Mirror::Vertical => std::mem::swap(&mut top_px, &mut bottom_px),
        }
        // In the order left, top, right, bottom; a clockwise turn brings the bottom to the left.
        let mut sides = [left_px, top_px, right_px, bottom_px];
        sides.rotate_left(self.rotate_deg as usize / 90);
        let [left_px, top_px, right_px, bottom_px] = sides;
        Crop { left_px, top_px, right_px, bottom_px }
    }
}

impl Crop {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn leaves_nothing_of(&self, (width, height): (u32, u32)) -> bool {
        self.left_px + self.right_px >= width || self.top_px + self.bottom_px >= height
    }
}

/// The elements that do it, in their order; none if nothing is to be done.
pub(super) fn elements(picture: &PictureSettings) -> Result<Vec<gst::Element>, CaptureError> {
    let mut elements = Vec::new();
    let mode = match picture.deinterlace {
        Deinterlace::Off => None,
        Deinterlace::AsMarked => Some("auto"),
        Deinterlace::Always => Some("interlaced"),
    };
    if let Some(mode) = mode {
        // One picture of both fields, not one of each: twice the pictures would be twice the work.
        let builder = element("deinterlace")?
            .property_from_str("mode", mode)
            .property_from_str("fields", "top")
            .property_from_str("method", "linear");
        elements.push(finish(builder)?);
    }
    let flip = match picture.direction() {
        Some(direction) => {
            let builder = element("videoflip")?.property_from_str("video-direction", direction);
            Some(finish(builder)?)
        }
        None => None,
    };
    if picture.rotate_as_marked {
        // Which side is which shows only in the stream.
        elements.extend(flip);
        elements.extend(cropper(&picture.crop)?);
    } else {
        // What is cut off first need not be turned.
        elements.extend(cropper(&picture.crop_before_turning())?);
        elements.extend(flip);
    }
    Ok(elements)
}

fn cropper(crop: &Crop) -> Result<Option<gst::Element>, CaptureError> {
    if crop.is_nothing() {
        return Ok(None);
    }
    let px = |px: u32| i32::try_from(px).unwrap_or(i32::MAX);
    let builder = element("videocrop")?
        .property("left", px(crop.left_px))
        .property("top", px(crop.top_px))
        .property("right", px(crop.right_px))
        .property("bottom", px(crop.bottom_px));
    finish(builder).map(Some)
}

/// Posts an error when a picture comes that the cut leaves nothing of: GStreamer itself would only say
/// that the elements do not agree. To be watched where the stream's size is first known.
pub(super) fn watch_size(convert: &gst::Element, picture: &PictureSettings) {
    let crop = picture.crop_before_turning();
    let Some(inlet) = convert.static_pad("sink").filter(|_| !crop.is_nothing()) else {
        return;
    };
    let as_marked = picture.rotate_as_marked;
    let reporter = convert.downgrade();
    inlet.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let caps = match info.event().map(|event| event.view()) {
            Some(gst::EventView::Caps(caps)) => caps.caps_owned(),
            _ => return gst::PadProbeReturn::Ok,
        };
        let Ok(video) = gst_video::VideoInfo::from_caps(&caps) else {
            return gst::PadProbeReturn::Ok;
        };
        let (width, height) = (video.width(), video.height());
        let nothing_lying = crop.leaves_nothing_of((width, height));
        let nothing_standing = crop.leaves_nothing_of((height, width));
        let nothing = if as_marked { nothing_lying && nothing_standing } else { nothing_lying };
        if let Some(reporter) = reporter.upgrade().filter(|_| nothing) {
            let what = format!("crop leaves nothing of a picture of {width}x{height} pixels");
            gst::element_error!(reporter, gst::LibraryError::Settings, ("{what}"));
        }
        gst::PadProbeReturn::Ok
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_at_the_left_of_the_turned_picture_is_made_at_the_side_that_comes_to_lie_there() {
        let crop = Crop { left_px: 2, top_px: 4, right_px: 6, bottom_px: 8 };
        let before = |rotate_deg, mirror| {
            let picture =
                PictureSettings { rotate_deg, mirror, crop, ..PictureSettings::default() };
            let Crop { left_px, top_px, right_px, bottom_px } = picture.crop_before_turning();
            [left_px, top_px, right_px, bottom_px]
        };
        assert_eq!(before(0, Mirror::None), [2, 4, 6, 8]);
        assert_eq!(before(90, Mirror::None), [4, 6, 8, 2]);
        assert_eq!(before(180, Mirror::None), [6, 8, 2, 4]);
        assert_eq!(before(270, Mirror::None), [8, 2, 4, 6]);
        assert_eq!(before(0, Mirror::Horizontal), [6, 4, 2, 8]);
        assert_eq!(before(90, Mirror::Vertical), [8, 6, 4, 2]);
    }

    #[test]
    fn a_turn_by_other_angles_and_a_cut_between_colour_pixels_are_refused() {
        let turned = PictureSettings { rotate_deg: 45, ..PictureSettings::default() };
        assert_eq!(turned.range_problem().unwrap().0, "picture.rotate_deg");
        let crop = Crop { top_px: 3, ..Crop::default() };
        let cut = PictureSettings { crop, ..PictureSettings::default() };
        assert_eq!(cut.range_problem().unwrap().0, "picture.crop.top_px");
    }
}
