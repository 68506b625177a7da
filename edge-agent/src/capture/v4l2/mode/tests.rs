//! On the modes of real cameras, as `v4l2-ctl --list-formats-ext` shows them.

use super::*;
use crate::capture::v4l2::format::{Rates, Size, SizeRange};

fn format(fourcc: &str, sizes: &[((u32, u32), &[u32])]) -> Format {
    let sizes = sizes.iter().map(|&(size_px, rates)| {
        let rates = rates.iter().map(|&frames| Rate { frames, seconds: 1 }).collect();
        Size { size_px, range: None, rates: Rates::Listed(rates), rates_at: vec![] }
    });
    Format { fourcc: fourcc.to_owned(), description: String::new(), sizes: sizes.collect() }
}

const UP_TO_30: &[u32] = &[30, 24, 20, 15, 10, 7, 5];

/// Logitech C920 of the first years, which encodes H.264 itself.
fn c920() -> Vec<Format> {
    let compressed: &[((u32, u32), &[u32])] = &[
        ((640, 480), UP_TO_30),
        ((160, 90), UP_TO_30),
        ((640, 360), UP_TO_30),
        ((1280, 720), UP_TO_30),
        ((1920, 1080), UP_TO_30),
    ];
    let raw: &[((u32, u32), &[u32])] = &[
        ((640, 480), UP_TO_30),
        ((640, 360), UP_TO_30),
        ((1280, 720), &[10, 7, 5]),
        ((1920, 1080), &[5]),
        ((2304, 1536), &[2]),
    ];
    vec![format("YUYV", raw), format("H264", compressed), format("MJPG", compressed)]
}

/// A nameless one: fast only as MJPEG, and at one size only raw.
fn cheap_uvc() -> Vec<Format> {
    vec![
        format("MJPG", &[((1280, 720), &[30]), ((640, 480), &[30])]),
        format("YUYV", &[((1280, 720), &[9]), ((640, 480), &[30]), ((352, 288), &[30])]),
    ]
}

/// The first Raspberry Pi camera by `bcm2835-v4l2`: ranges instead of lists.
fn pi_camera() -> Vec<Format> {
    let range = SizeRange { from_px: (32, 32), step_px: (2, 2) };
    let rates = Rates::Between {
        slowest: Rate { frames: 1, seconds: 1 },
        fastest: Rate { frames: 90, seconds: 1 },
    };
    let size = Size { size_px: (2592, 1944), range: Some(range), rates, rates_at: vec![] };
    ["YU12", "YUYV", "RGB3", "JPEG", "H264", "MJPG", "BGR3"]
        .map(|fourcc| Format {
            fourcc: fourcc.to_owned(),
            description: String::new(),
            sizes: vec![size.clone()],
        })
        .to_vec()
}

/// The kernel's virtual camera as a webcam: raw in many formats.
fn vivid() -> Vec<Format> {
    let sizes: &[((u32, u32), &[u32])] = &[
        ((320, 180), &[1, 2, 4, 5, 10, 15, 25, 30, 50, 60]),
        ((640, 360), &[1, 2, 4, 5, 10, 15, 25, 30, 50]),
        ((640, 480), &[1, 2, 4, 5, 10, 15, 25, 30]),
        ((1280, 720), &[1, 2, 4, 5, 10, 15, 25]),
        ((1920, 1080), &[1, 2, 4, 5, 10, 15]),
    ];
    ["YUYV", "UYVY", "422P", "YU12", "NV12", "GREY", "RGB3", "BA81"]
        .map(|fourcc| format(fourcc, sizes))
        .to_vec()
}

/// A Raspberry Pi camera by `unicam`: the sensor's bare mosaic.
fn bare_sensor() -> Vec<Format> {
    vec![format("pBAA", &[((1920, 1080), &[])]), format("BG10", &[((1920, 1080), &[])])]
}

fn ask(size_px: (u32, u32), fps: u32) -> Ask {
    Ask { size_px, fps, kind: None }
}

fn chosen(formats: &[Format], ask: Ask) -> (String, String) {
    let choice = choose(formats, &ask).unwrap();
    (choice.mode.to_string(), choice.why)
}

#[test]
fn each_camera_gives_its_best_mode_for_what_is_asked() {
    let default = Ask::default();
    for (camera, formats, ask, expected) in [
        ("C920", c920(), default, "H.264 (H264) 1280x720 at 15 fps"),
        ("C920", c920(), ask((1920, 1080), 30), "H.264 (H264) 1920x1080 at 30 fps"),
        ("C920", c920(), ask((640, 480), 25), "H.264 (H264) 640x480 at 30 fps"),
        ("C920", c920(), ask((2304, 1536), 2), "raw (YUYV) 2304x1536 at 2 fps"),
        ("C920", c920(), ask((1024, 700), 15), "H.264 (H264) 1280x720 at 15 fps"),
        ("C920", c920(), ask((4096, 2160), 15), "raw (YUYV) 2304x1536 at 2 fps"),
        ("cheap", cheap_uvc(), default, "MJPEG (MJPG) 1280x720 at 30 fps"),
        ("cheap", cheap_uvc(), ask((352, 288), 15), "raw (YUYV) 352x288 at 30 fps"),
        ("cheap", cheap_uvc(), ask((1920, 1080), 30), "MJPEG (MJPG) 1280x720 at 30 fps"),
        ("Pi", pi_camera(), default, "H.264 (H264) 1280x720 at 15 fps"),
        ("Pi", pi_camera(), ask((641, 481), 120), "H.264 (H264) 640x480 at 90 fps"),
        ("vivid", vivid(), default, "raw (YU12) 1280x720 at 15 fps"),
        ("vivid", vivid(), ask((640, 480), 20), "raw (YU12) 640x480 at 25 fps"),
        ("vivid", vivid(), ask((1920, 1080), 30), "raw (YU12) 1920x1080 at 15 fps"),
    ] {
        assert_eq!(chosen(&formats, ask).0, expected, "{camera}, {ask:?}");
    }
}

#[test]
fn the_choice_says_why_no_better_kind_of_format_was_taken() {
    let why = |formats: &[Format], ask| chosen(formats, ask).1;
    assert_eq!(why(&c920(), Ask::default()), "the size asked for");
    assert_eq!(
        why(&c920(), ask((2304, 1536), 2)),
        "H.264 only 1920x1080 at 5 fps; MJPEG only 1920x1080 at 5 fps; the size asked for"
    );
    assert_eq!(
        why(&cheap_uvc(), ask((1920, 1080), 60)),
        "no H.264; the largest there is; 1920x1080 was asked for; no faster, 60 fps were asked for"
    );
    assert_eq!(why(&c920(), ask((1024, 700), 15)), "the smallest that holds 1024x700");
}

#[test]
fn a_kind_asked_for_is_taken_alone_and_its_lack_is_an_error_that_names_what_there_is() {
    let only = |kind| Ask { kind: Some(kind), ..Ask::default() };
    assert_eq!(chosen(&c920(), only(Kind::Raw)).0, "raw (YUYV) 1280x720 at 10 fps");
    assert_eq!(chosen(&c920(), only(Kind::Mjpeg)).0, "MJPEG (MJPG) 1280x720 at 15 fps");
    let refused = choose(&cheap_uvc(), &only(Kind::H264)).unwrap_err();
    assert!(refused.contains("H.264") && refused.contains("MJPG"), "{refused}");
}

#[test]
fn a_bare_sensor_is_refused_with_what_it_needs() {
    let refused = choose(&bare_sensor(), &Ask::default()).unwrap_err();
    assert!(refused.contains("pBAA") && refused.contains("libcamera"), "{refused}");
    let refused = choose(&[], &Ask::default()).unwrap_err();
    assert!(refused.contains("no format"), "{refused}");
}

#[test]
fn a_driver_that_does_not_say_its_sizes_in_a_list_or_its_rates_is_used_all_the_same() {
    let formats = vec![format("MJPG", &[((1280, 720), &[])])];
    assert_eq!(chosen(&formats, Ask::default()).0, "MJPEG (MJPG) 1280x720 at the driver's rate");
}
