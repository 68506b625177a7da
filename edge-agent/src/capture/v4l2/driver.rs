//! What a camera's driver answers.
//!
//! By the `v4l` crate's structures and requests, and not by its `Device`: that one panics on a name
//! that was cut off in the middle of a character and on controls of a type that it does not know, and
//! asks a multi-planar device for single-planar formats.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use v4l::Fraction;
use v4l::capability::Flags;
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::v4l_sys::{
    v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE, v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE,
    v4l2_capability, v4l2_control, v4l2_fmtdesc, v4l2_format, v4l2_frmivalenum, v4l2_frmsizeenum,
    v4l2_query_ext_ctrl, v4l2_querymenu,
};
use v4l::v4l2::vidioc;

use super::control::{Control, Nature};
use super::error::V4l2Error;
use super::format::{Format, Rate, Rates, Size, SizeRange};

/// More entries of a list than any driver has: one that never ends its list is left there.
const LONGEST_LIST: u32 = 512;

/// What a device is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Abilities {
    /// What the camera calls itself.
    pub name: String,
    /// Where it is plugged in.
    pub bus: String,
    /// The kernel driver.
    pub driver: String,
    /// Whether it gives pictures: each camera has other device files, for metadata.
    pub captures: bool,
    /// Whether it gives them in shared buffers, and not only by reading.
    pub streams: bool,
    pub(super) planar: bool,
}

/// An open device.
pub struct Driver {
    path: PathBuf,
    file: File,
}

impl Driver {
    /// Opens a device file. Others may stream from it meanwhile.
    pub fn open(path: &Path) -> Result<Self, V4l2Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        match options.open(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file }),
            Err(source) => {
                let path = path.to_owned();
                Err(V4l2Error::Ask { path, what: "anything (it cannot be opened)", source })
            }
        }
    }

    /// Its device file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn abilities(&self) -> Result<Abilities, V4l2Error> {
        // SAFETY: a structure of plain numbers, for which zeros are valid.
        let mut answer: v4l2_capability = unsafe { std::mem::zeroed() };
        self.ask(vidioc::VIDIOC_QUERYCAP, &mut answer)
            .map_err(|source| self.failed("what it is", source))?;
        let flags = Flags::from(match Flags::from(answer.capabilities) {
            all if all.contains(Flags::DEVICE_CAPS) => answer.device_caps,
            _ => answer.capabilities,
        });
        let planar = flags.contains(Flags::VIDEO_CAPTURE_MPLANE);
        Ok(Abilities {
            name: text(&answer.card),
            bus: text(&answer.bus_info),
            driver: text(&answer.driver),
            captures: planar || flags.contains(Flags::VIDEO_CAPTURE),
            streams: flags.contains(Flags::STREAMING),
            planar,
        })
    }

    /// What it can give. Of a range of sizes it is asked how fast it is at the largest, and at those
    /// that would be taken of the range for these sizes.
    pub fn formats(
        &self,
        abilities: &Abilities,
        wanted_px: &[(u32, u32)],
    ) -> Result<Vec<Format>, V4l2Error> {
        let kind = match abilities.planar {
            true => v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE,
            false => v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE,
        };
        let mut formats = Vec::new();
        for index in 0..LONGEST_LIST {
            // SAFETY: a structure of plain numbers, for which zeros are valid.
            let mut entry: v4l2_fmtdesc = unsafe { std::mem::zeroed() };
            (entry.index, entry.type_) = (index, kind);
            match self.ask(vidioc::VIDIOC_ENUM_FMT, &mut entry) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                Err(source) => return Err(self.failed("for its formats", source)),
            }
            formats.push(Format {
                fourcc: fourcc(entry.pixelformat),
                description: text(&entry.description),
                sizes: self.sizes(kind, entry.pixelformat, wanted_px),
            });
        }
        Ok(formats)
    }

    /// What is set now, where the driver does not say.
    fn sizes(&self, kind: u32, pixel_format: u32, wanted_px: &[(u32, u32)]) -> Vec<Size> {
        let mut sizes = Vec::new();
        for index in 0..LONGEST_LIST {
            // SAFETY: a structure of plain numbers, for which zeros are valid.
            let mut entry: v4l2_frmsizeenum = unsafe { std::mem::zeroed() };
            (entry.index, entry.pixel_format) = (index, pixel_format);
            if self.ask(vidioc::VIDIOC_ENUM_FRAMESIZES, &mut entry).is_err() {
                break;
            }
            let (size_px, range) = match FrameSizeEnum::try_from(entry) {
                Ok(FrameSizeEnum::Discrete(size)) => ((size.width, size.height), None),
                Ok(FrameSizeEnum::Stepwise(range)) => (
                    (range.max_width, range.max_height),
                    Some(SizeRange {
                        from_px: (range.min_width, range.min_height),
                        step_px: (range.step_width, range.step_height),
                    }),
                ),
                Err(_) => continue,
            };
            sizes.push(size(size_px, range, wanted_px, |at| self.rates(pixel_format, at)));
        }
        if sizes.is_empty() {
            sizes.extend(self.size_now(kind));
        }
        sizes
    }

    fn size_now(&self, kind: u32) -> Option<Size> {
        // SAFETY: a structure of plain numbers, for which zeros are valid.
        let mut format: v4l2_format = unsafe { std::mem::zeroed() };
        format.type_ = kind;
        self.ask(vidioc::VIDIOC_G_FMT, &mut format).ok()?;
        // SAFETY: width and height are plain numbers, and stand first in the single-planar and in the
        // multi-planar structure alike.
        let pix = unsafe { format.fmt.pix };
        let rates = Rates::Listed(Vec::new());
        Some(Size { size_px: (pix.width, pix.height), range: None, rates, rates_at: Vec::new() })
    }

    fn rates(&self, pixel_format: u32, (width, height): (u32, u32)) -> Rates {
        // A rate is one over the interval that drivers speak of.
        let rate = |interval: &Fraction| Rate {
            frames: interval.denominator,
            seconds: interval.numerator.max(1),
        };
        let mut listed = Vec::new();
        for index in 0..LONGEST_LIST {
            // SAFETY: a structure of plain numbers, for which zeros are valid.
            let mut entry: v4l2_frmivalenum = unsafe { std::mem::zeroed() };
            (entry.index, entry.pixel_format) = (index, pixel_format);
            (entry.width, entry.height) = (width, height);
            if self.ask(vidioc::VIDIOC_ENUM_FRAMEINTERVALS, &mut entry).is_err() {
                break;
            }
            match FrameIntervalEnum::try_from(entry) {
                Ok(FrameIntervalEnum::Discrete(interval)) => listed.push(rate(&interval)),
                Ok(FrameIntervalEnum::Stepwise(range)) => {
                    let (slowest, fastest) = (rate(&range.max), rate(&range.min));
                    return Rates::Between { slowest, fastest };
                }
                Err(_) => {}
            }
        }
        Rates::Listed(listed)
    }

    /// Its settings, with their values of now.
    pub fn controls(&self) -> Vec<Control> {
        let mut controls = Vec::new();
        let mut last = 0;
        for _ in 0..LONGEST_LIST {
            // SAFETY: a structure of plain numbers and arrays of them, for which zeros are valid.
            let mut entry: v4l2_query_ext_ctrl = unsafe { std::mem::zeroed() };
            entry.id = last | v4l::control::Flags::NEXT_CTRL.bits();
            if self.ask(vidioc::VIDIOC_QUERY_EXT_CTRL, &mut entry).is_err() {
                break;
            }
            last = entry.id;
            controls.extend(self.control(&entry));
        }
        controls
    }

    /// None for headings, and for what is switched off for good or only to be read.
    fn control(&self, entry: &v4l2_query_ext_ctrl) -> Option<Control> {
        use v4l::control::{Flags, Type};
        let flags = Flags::from(entry.flags);
        if flags.intersects(Flags::DISABLED | Flags::READ_ONLY) {
            return None;
        }
        let nature = match Type::try_from(entry.type_) {
            Ok(Type::Integer | Type::Bitmask) => Nature::Number,
            Ok(Type::Boolean) => Nature::Switch,
            Ok(Type::Menu | Type::IntegerMenu) => Nature::List(self.items(entry)),
            Ok(Type::Button) => Nature::Button,
            Ok(Type::CtrlClass) => return None,
            _ => Nature::Other,
        };
        let has_value = !matches!(nature, Nature::Button | Nature::Other);
        let name: Vec<u8> = entry.name.iter().map(|&c| c as u8).collect();
        Some(Control {
            id: entry.id,
            title: text(&name),
            nature,
            least: entry.minimum,
            most: entry.maximum,
            step: entry.step,
            default: entry.default_value,
            value: has_value.then(|| self.value(entry)).flatten(),
        })
    }

    fn items(&self, entry: &v4l2_query_ext_ctrl) -> Vec<(i64, String)> {
        let mut items = Vec::new();
        for index in entry.minimum..=entry.maximum.min(entry.minimum + i64::from(LONGEST_LIST)) {
            // SAFETY: a structure of plain numbers, for which zeros are valid.
            let mut item: v4l2_querymenu = unsafe { std::mem::zeroed() };
            item.id = entry.id;
            let Ok(number) = u32::try_from(index) else { continue };
            item.index = number;
            // Lists have gaps: what the camera lacks is refused one by one.
            if self.ask(vidioc::VIDIOC_QUERYMENU, &mut item).is_err() {
                continue;
            }
            let of_numbers = entry.type_ == u32::from(v4l::control::Type::IntegerMenu);
            // SAFETY: both are plain bytes and were set to zero before the driver wrote either.
            let name = match of_numbers {
                true => unsafe { item.__bindgen_anon_1.value }.to_string(),
                false => text(&unsafe { item.__bindgen_anon_1.name }),
            };
            items.push((index, name));
        }
        items
    }

    fn value(&self, entry: &v4l2_query_ext_ctrl) -> Option<i64> {
        let mut control = v4l2_control { id: entry.id, value: 0 };
        self.ask(vidioc::VIDIOC_G_CTRL, &mut control).ok()?;
        // Bits have no sign.
        let is_bits = entry.type_ == u32::from(v4l::control::Type::Bitmask);
        Some(if is_bits { control.value.cast_unsigned().into() } else { control.value.into() })
    }

    /// Sets a control to what [`control::setting`](super::control::setting) found to be right.
    pub fn set(&self, id: u32, value: i32) -> io::Result<()> {
        self.ask(vidioc::VIDIOC_S_CTRL, &mut v4l2_control { id, value })
    }

    /// One request to the driver. `T` is the structure that goes with the request: each call above
    /// stands beside its type.
    fn ask<T>(&self, request: vidioc::_IOC_TYPE, structure: &mut T) -> io::Result<()> {
        // SAFETY: the descriptor is open for as long as the file, and the driver reads and writes
        // only the structure, whose size is part of the request.
        unsafe {
            v4l::v4l2::ioctl(self.file.as_raw_fd(), request, std::ptr::from_mut(structure).cast())
        }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> V4l2Error {
        V4l2Error::Ask { path: self.path.clone(), what, source }
    }
}

/// A size or a range of sizes, with how fast it is: a range at more than one of its sizes.
fn size(
    size_px: (u32, u32),
    range: Option<SizeRange>,
    wanted_px: &[(u32, u32)],
    rates: impl Fn((u32, u32)) -> Rates,
) -> Size {
    let mut size = Size { size_px, range, rates: rates(size_px), rates_at: Vec::new() };
    if range.is_some() {
        let taken: BTreeSet<_> = wanted_px.iter().map(|wanted| size.nearest(*wanted)).collect();
        size.rates_at = taken.into_iter().map(|at| (at, rates(at))).collect();
    }
    size
}

/// The four characters; the highest bit says that the bytes come in the other order.
fn fourcc(pixel_format: u32) -> String {
    const OTHER_ORDER: u32 = 1 << 31;
    let characters = text(&(pixel_format & !OTHER_ORDER).to_le_bytes());
    let other_order = if pixel_format & OTHER_ORDER == 0 { "" } else { "-BE" };
    characters + other_order
}

/// Up to the first zero. A name may be cut off in the middle of a character.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::v4l2::mode::{self, Ask};

    #[test]
    fn of_a_range_of_sizes_the_rate_is_that_of_the_size_that_is_chosen() {
        let range = SizeRange { from_px: (32, 32), step_px: (2, 2) };
        // As fast as it reads its lines: 15 a second of the largest picture.
        let rates = |(_, height): (u32, u32)| {
            Rates::Listed(vec![Rate { frames: 15 * 1944 / height, seconds: 1 }])
        };
        let asks = [((640, 480), 60), ((1281, 721), 30), ((9000, 9000), 15)]
            .map(|(size_px, fps)| Ask { size_px, fps, kind: None });
        let wanted = asks.map(|ask| ask.size_px);
        let sizes = vec![size((2592, 1944), Some(range), &wanted, rates)];
        let format = Format { fourcc: "YU12".to_owned(), description: String::new(), sizes };
        let chosen = asks.map(|ask| mode::choose(std::slice::from_ref(&format), &ask).unwrap());
        let chosen = chosen.map(|choice| choice.mode.to_string());
        let expected = ["640x480 at 60 fps", "1280x720 at 40 fps", "2592x1944 at 15 fps"];
        assert_eq!(chosen, expected.map(|mode| format!("raw (YU12) {mode}")));
    }

    #[test]
    fn a_format_is_called_as_v4l2_ctl_calls_it() {
        let of = |characters: &[u8; 4]| u32::from_le_bytes(*characters);
        assert_eq!(fourcc(of(b"YUYV")), "YUYV");
        assert_eq!(fourcc(of(b"Y10 ")), "Y10");
        assert_eq!(fourcc(of(b"Y16 ") | 1 << 31), "Y16-BE");
    }
}
