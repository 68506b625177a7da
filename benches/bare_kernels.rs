//! The least that any program must compute for the same result, as a yardstick for the agent: decode,
//! resize, model, JPEG. One thread beside the decoder's, nothing kept, nothing sent, no colours put
//! right in the JPEG. Straight from the crates, so that what the agent's own stages waste shows.
//!
//! ```text
//! bare-kernels VIDEO MODEL RUNTIME EVERY
//! ```
//! Prints a line of JSON: frames, looked at, with faces, and CPU seconds since the first frame.

use std::env;
use std::error::Error;

use fast_image_resize as fir;
use fir::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fir::pixels::U8;
use gstreamer::prelude::*;
use gstreamer::{PadProbeReturn, PadProbeType, QueryViewMut};
use gstreamer_app::AppSink;
use gstreamer_video::prelude::*;
use gstreamer_video::{VideoFrame, VideoInfo, VideoMeta, video_frame::Readable};
use ort::session::Session;
use ort::value::TensorRef;
use turbojpeg::{Compressor, Subsamp, YuvPlanesImage};

const INPUT_WIDTH_PX: usize = 320;
const QUALITY: i32 = 85;
const SCORE: f32 = 0.6;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = env::args().skip(1);
    let mut argument = |name: &str| arguments.next().ok_or(format!("{name} is missing"));
    let (video, model) = (argument("VIDEO")?, argument("MODEL")?);
    let (runtime, every) = (argument("RUNTIME")?, argument("EVERY")?.parse::<u64>()?);
    gstreamer::init()?;
    let mut kernels = Kernels::load(&model, &runtime)?;
    let (pipeline, sink) = decode(&video)?;
    pipeline.set_state(gstreamer::State::Playing)?;
    let (mut frames, mut began_s) = (0, None);
    while let Ok(sample) = sink.pull_sample() {
        began_s.get_or_insert_with(cpu_s);
        if frames % every == 0 {
            let caps = sample.caps().ok_or("a sample without caps")?;
            let info = VideoInfo::from_caps(caps)?;
            let buffer = sample.buffer_owned().ok_or("a sample without a buffer")?;
            let frame = VideoFrame::from_buffer_readable(buffer, &info).map_err(|_| "no frame")?;
            kernels.look_at(&frame)?;
        }
        frames += 1;
        if sink.is_eos() {
            break;
        }
    }
    let cpu_s = cpu_s() - began_s.unwrap_or_default();
    pipeline.set_state(gstreamer::State::Null)?;
    let Kernels { looked_at, with_faces, .. } = kernels;
    println!(
        r#"{{"frames": {frames}, "looked_at": {looked_at}, "with_faces": {with_faces}, "cpu_s": {cpu_s:.4}}}"#
    );
    Ok(())
}

fn decode(video: &str) -> Result<(gstreamer::Pipeline, AppSink), Failure> {
    let line = format!(
        "filesrc location={video} ! qtdemux ! h264parse ! avdec_h264 max-threads=1 \
         ! appsink name=sink max-buffers=2 sync=false caps=video/x-raw,format=I420"
    );
    let pipeline = gstreamer::parse::launch(&line)?.downcast::<gstreamer::Pipeline>();
    let pipeline = pipeline.map_err(|_| "the launch line is no pipeline")?;
    let sink = pipeline.by_name("sink").and_then(|sink| sink.downcast::<AppSink>().ok());
    let sink = sink.ok_or("no sink")?;
    // Frames may have gaps between their rows: without that word the decoder copies each.
    let pad = sink.static_pad("sink").ok_or("a sink without a pad")?;
    pad.add_probe(PadProbeType::QUERY_DOWNSTREAM, |_, info| {
        match info.query_mut().map(|query| query.view_mut()) {
            Some(QueryViewMut::Allocation(query)) => {
                query.add_allocation_meta::<VideoMeta>(None);
                PadProbeReturn::Handled
            }
            _ => PadProbeReturn::Ok,
        }
    });
    Ok((pipeline, sink))
}

struct Kernels {
    session: Session,
    resizer: fir::Resizer,
    compressor: Compressor,
    planes: [Vec<u8>; 3],
    input: Vec<f32>,
    looked_at: u64,
    with_faces: u64,
}

impl Kernels {
    fn load(model: &str, runtime: &str) -> Result<Self, Failure> {
        let environment = ort::init_from(runtime)?.with_telemetry(false).build()?;
        let session = Session::builder(&environment)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .commit_from_file(model)?;
        let mut compressor = Compressor::new()?;
        compressor.set_quality(QUALITY)?;
        Ok(Self {
            session,
            resizer: fir::Resizer::new(),
            compressor,
            planes: Default::default(),
            input: Vec::new(),
            looked_at: 0,
            with_faces: 0,
        })
    }

    fn look_at(&mut self, frame: &VideoFrame<Readable>) -> Result<(), Failure> {
        self.looked_at += 1;
        let (width, height) = (frame.width() as usize, frame.height() as usize);
        let small = (INPUT_WIDTH_PX.min(width), height * INPUT_WIDTH_PX.min(width) / width);
        for index in 0..3 {
            let from = match index {
                0 => (width, height),
                _ => (width.div_ceil(2), height.div_ceil(2)),
            };
            self.resize(frame, index, from, small)?;
        }
        let padded = (small.0.next_multiple_of(32), small.1.next_multiple_of(32));
        self.write_input(small, padded);
        if self.compute(padded)? {
            self.with_faces += 1;
            self.encode(frame)?;
        }
        Ok(())
    }

    fn resize(
        &mut self,
        frame: &VideoFrame<Readable>,
        index: usize,
        from: (usize, usize),
        to: (usize, usize),
    ) -> Result<(), Failure> {
        let stride = u32::try_from(frame.plane_stride()[index])?;
        let data = frame.plane_data(index as u32)?;
        let whole = TypedImageRef::<U8>::from_buffer(stride, from.1 as u32, data)?;
        let source = TypedCroppedImage::from_ref(&whole, 0, 0, from.0 as u32, from.1 as u32)?;
        self.planes[index].resize(to.0 * to.1, 0);
        let mut resized =
            TypedImage::<U8>::from_buffer(to.0 as u32, to.1 as u32, &mut self.planes[index])?;
        let bilinear = fir::ResizeAlg::Convolution(fir::FilterType::Bilinear);
        let options = fir::ResizeOptions::new().resize_alg(bilinear);
        Ok(self.resizer.resize_typed(&source, &mut resized, &options)?)
    }

    /// BT.709, limited range: what a 1080p camera gives.
    fn write_input(&mut self, (width, height): (usize, usize), padded: (usize, usize)) {
        let area = padded.0 * padded.1;
        self.input.resize(3 * area, 0.0);
        let (blue, rest) = self.input.split_at_mut(area);
        let (green, red) = rest.split_at_mut(area);
        let [y, u, v] = &self.planes;
        for row in 0..height {
            let (from, to) = (row * width..(row + 1) * width, row * padded.0);
            let samples = y[from.clone()].iter().zip(&u[from.clone()]).zip(&v[from]);
            let out = blue[to..].iter_mut().zip(&mut green[to..]).zip(&mut red[to..]);
            for (((b, g), r), ((y, u), v)) in out.zip(samples) {
                let luma = 1.164_4 * (f32::from(*y) - 16.0);
                let (u, v) = (f32::from(*u) - 128.0, f32::from(*v) - 128.0);
                *b = (luma + 2.112_4 * u).clamp(0.0, 255.0);
                *g = (luma - 0.213_2 * u - 0.532_9 * v).clamp(0.0, 255.0);
                *r = (luma + 1.792_7 * v).clamp(0.0, 255.0);
            }
        }
    }

    /// Whether anybody is there. Where exactly is not asked: it costs next to nothing.
    fn compute(&mut self, (width, height): (usize, usize)) -> Result<bool, Failure> {
        let input = TensorRef::from_array_view(([1, 3, height, width], self.input.as_slice()))?;
        let outputs = self.session.run(ort::inputs!["input" => input])?;
        let values = |name: &str| -> Result<&[f32], Failure> {
            Ok(outputs.get(name).ok_or("an output is missing")?.try_extract_tensor::<f32>()?.1)
        };
        let mut somebody = false;
        for (class, object) in [("cls_8", "obj_8"), ("cls_16", "obj_16"), ("cls_32", "obj_32")] {
            let mut scores = values(class)?.iter().zip(values(object)?).map(|(c, o)| c * o);
            somebody |= scores.any(|score| score >= SCORE * SCORE);
        }
        Ok(somebody)
    }

    fn encode(&mut self, frame: &VideoFrame<Readable>) -> Result<(), Failure> {
        let stride = |index: usize| usize::try_from(frame.plane_stride()[index]);
        let image = YuvPlanesImage {
            y_plane: frame.plane_data(0)?,
            u_plane: frame.plane_data(1)?,
            v_plane: frame.plane_data(2)?,
            width: frame.width() as usize,
            height: frame.height() as usize,
            y_stride: stride(0)?,
            u_stride: stride(1)?,
            v_stride: stride(2)?,
            subsamp: Subsamp::Sub2x2,
        };
        std::hint::black_box(self.compressor.compress_yuv_planes_to_vec(&image)?);
        Ok(())
    }
}

/// CPU seconds of this process, all its threads.
fn cpu_s() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure is the kernel's own, and all zeros is a value of it.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
