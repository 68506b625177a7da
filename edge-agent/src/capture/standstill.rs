//! Pipelines that stopped without a word.
//!
//! GStreamer's `decodebin` keeps to itself what an element says that it is just taking in: when a
//! recording proves to be unreadable at that moment, no error comes out, and no end either. That no
//! thread of the pipeline moves data any more is all that shows.

use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;

/// For so long nothing may move before it is said: between two elements' threads there is a moment.
const SURE: Duration = Duration::from_secs(2);

/// Watches over one pipeline.
#[derive(Debug, Default)]
pub struct Standstill {
    since: Option<Instant>,
}

impl Standstill {
    /// Something came out.
    pub fn moved(&mut self) {
        self.since = None;
    }

    /// Whether nothing has moved for a while. To be asked again and again while nothing comes out.
    pub fn is_sure(&mut self, pipeline: &gst::Pipeline) -> bool {
        if any_moves(pipeline) {
            self.since = None;
            return false;
        }
        self.since.get_or_insert_with(Instant::now).elapsed() >= SURE
    }
}

/// Whether a thread of the pipeline moves data, or waits until there is room for more.
fn any_moves(pipeline: &gst::Pipeline) -> bool {
    pipeline
        .iterate_recurse()
        .into_iter()
        .flatten()
        .any(|element| element.pads().iter().any(|pad| pad.task_state() == gst::TaskState::Started))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn playing(line: &str) -> gst::Pipeline {
        gst::init().unwrap();
        let pipeline = gst::parse::launch(line).unwrap().downcast::<gst::Pipeline>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        pipeline
    }

    #[test]
    fn a_pipeline_that_waits_for_room_does_not_stand_still() {
        let pipeline = playing("videotestsrc ! queue ! appsink max-buffers=1");
        let (_, state, _) = pipeline.state(gst::ClockTime::from_seconds(10));
        assert_eq!(state, gst::State::Playing);
        assert!(any_moves(&pipeline));
        assert!(!Standstill { since: Instant::now().checked_sub(SURE) }.is_sure(&pipeline));
        pipeline.set_state(gst::State::Null).unwrap();
    }

    #[test]
    fn a_pipeline_whose_threads_have_all_ended_stands_still() {
        let pipeline = playing("videotestsrc num-buffers=1 ! fakesink");
        let until = Instant::now() + Duration::from_secs(10);
        while any_moves(&pipeline) {
            assert!(Instant::now() < until, "its thread goes on");
            std::thread::yield_now();
        }
        assert!(!Standstill::default().is_sure(&pipeline));
        let mut standstill = Standstill { since: Instant::now().checked_sub(SURE) };
        assert!(standstill.is_sure(&pipeline));
        standstill.moved();
        assert!(!standstill.is_sure(&pipeline));
        pipeline.set_state(gst::State::Null).unwrap();
    }
}
