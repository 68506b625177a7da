//! The way out of a camera: into a bounded channel, in `seq` order, with nothing left out.
//!
//! Two ways, by what the source can bear:
//! - A live source cannot wait. A frame that finds the channel full joins the *run* of frames that
//!   nobody will look at. The run is closed, and takes its place in the channel, before the next frame
//!   that does fit; or after a second, so that the centre is not left waiting for it. While the
//!   channel stays full the run goes on growing: it costs no memory, and nothing is lost.
//! - A recording waits for room. Its number is given back if the agent stops meanwhile, so that no
//!   number is given out for a frame that nobody got.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, select};
use picket_wire::observation::{Reason, Skip, Stamp};
use picket_wire::{CameraKey, EpochId, ObservationId};

use super::frame::{Captured, Frame, SourcePosition};
use super::planes::Planes;
use super::seq::{ReserveError, ReserveSeq, SeqBlocks};
use super::state::CameraAccount;

/// Longest age of a run of skipped frames, while there is room for it in the channel.
const LONGEST_RUN: Duration = Duration::from_secs(1);

/// How long a stopping camera tries to hand on its last run. The detector empties the channel at the
/// end, so there will be room; a second or two are not enough for a slow one. Less than the agent
/// waits for its cameras.
const LAST_RUN_PATIENCE: Duration = Duration::from_secs(10);

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// It is on its way: as a frame, or in a run.
    On,
    /// The agent is stopping; the frame got no number.
    Stopping,
}

/// A sampled frame without its number.
#[derive(Debug)]
pub struct Sampled {
    /// When it was captured.
    pub stamp: Stamp,
    /// The picture.
    pub planes: Planes,
    /// Of a recording: where in it.
    pub position: Option<SourcePosition>,
}

/// One camera's way out.
pub struct Outlet {
    key: CameraKey,
    epoch: EpochId,
    seq: SeqBlocks,
    reserve: Arc<dyn ReserveSeq>,
    out: Sender<Captured>,
    stop: Receiver<()>,
    account: Arc<CameraAccount>,
    run: Option<(Skip, Instant)>,
}

impl Outlet {
    /// A way out that gives the frames of this camera numbers from `reserve`.
    pub fn new(
        key: CameraKey,
        epoch: EpochId,
        reserve: Arc<dyn ReserveSeq>,
        out: Sender<Captured>,
        stop: Receiver<()>,
        account: Arc<CameraAccount>,
    ) -> Self {
        Self { key, epoch, seq: SeqBlocks::default(), reserve, out, stop, account, run: None }
    }

    /// Takes over the numbers that the camera had in hand.
    pub fn go_on_from(&mut self, seq: SeqBlocks) {
        self.seq = seq;
    }

    /// The numbers that the camera still has in hand.
    pub fn into_numbers(self) -> SeqBlocks {
        self.seq
    }

    /// Gives a number to a time in which nothing is captured. False if there is no number, or the
    /// agent stops: then it may be tried again.
    pub fn miss(&mut self, reason: Reason) -> bool {
        self.flush();
        let Ok(seq) = self.number() else {
            return false;
        };
        let id = ObservationId { key: self.key.clone(), epoch: self.epoch, seq };
        let sent = select! {
            send(self.out, Captured::Missed { id, reason }) -> sent => sent.is_ok(),
            recv(self.stop) -> _ => false,
        };
        match sent {
            true => self.account.missed(seq),
            false => self.seq.put_back(),
        }
        sent
    }

    /// Whether what captures as fast as it can has to wait before it takes a number.
    pub fn has_room(&self) -> bool {
        self.reserve.has_room()
    }

    /// The next frame's number, which must be used at once by `offer` or `hand_on`.
    pub fn number(&mut self) -> Result<u64, ReserveError> {
        self.seq.take(&self.key.camera, &*self.reserve)
    }

    /// Hands a frame on without waiting; if there is no room it joins the run of skipped frames.
    pub fn offer(&mut self, seq: u64, sampled: Sampled) -> Handed {
        let frame = self.frame(seq, sampled);
        self.account.captured((frame.planes.width(), frame.planes.height()));
        // Closing the run takes one place and the frame another. With a single free place the run
        // would close, the frame open the next one, and the detector get runs instead of frames.
        let places_needed = self.out.capacity().unwrap_or(2).min(2);
        let places = self.out.capacity().map_or(2, |all| all.saturating_sub(self.out.len()));
        if self.run.is_some() && places >= places_needed {
            self.close_run();
        }
        if self.run.is_some() {
            self.skip(frame);
            self.close_old_run();
            return Handed::On;
        }
        match self.out.try_send(Captured::Frame(frame)) {
            Ok(()) => self.account.handed_on(seq),
            Err(TrySendError::Full(Captured::Frame(frame))) => self.skip(frame),
            // Whoever took our frames is gone, which happens only when the agent stops.
            Err(_) => return Handed::Stopping,
        }
        Handed::On
    }

    /// Hands a frame on, waiting for room.
    pub fn hand_on(&mut self, seq: u64, sampled: Sampled) -> Handed {
        let size_px = (sampled.planes.width(), sampled.planes.height());
        let frame = self.frame(seq, sampled);
        let sent = select! {
            send(self.out, Captured::Frame(frame)) -> sent => sent.is_ok(),
            recv(self.stop) -> _ => false,
        };
        if !sent {
            self.seq.put_back();
            return Handed::Stopping;
        }
        self.account.captured(size_px);
        self.account.handed_on(seq);
        Handed::On
    }

    /// Closes a run that is old enough; to be called from time to time.
    pub fn close_old_run(&mut self) {
        if self.run.as_ref().is_some_and(|(_, since)| since.elapsed() >= LONGEST_RUN) {
            self.close_run();
        }
    }

    /// Hands on the last run, waiting for room also while the agent stops.
    pub fn flush(&mut self) {
        let Some((run, _)) = self.run.take() else {
            return;
        };
        let (first, last) = (run.first, run.last);
        let message = Captured::Skipped(run);
        let sent = select! {
            send(self.out, message.clone()) -> sent => sent.is_ok(),
            recv(self.stop) -> _ => self.out.send_timeout(message, LAST_RUN_PATIENCE).is_ok(),
        };
        if sent {
            self.account.handed_on(last);
        } else {
            // The numbers lie below the reserved bound, so that the next epoch's record accounts for
            // them as taken by a crash.
            tracing::error!(
                target: "capture", camera = %self.key.camera, first, last,
                "camera {}: a run of skipped frames could not be handed on before the stop",
                self.key.camera
            );
            metrics::counter!(
                "picket_agent_capture_lost_total", "camera" => self.key.camera.to_string()
            )
            .increment(last - first + 1);
        }
    }

    /// Says that nothing follows. False if nobody listens any more.
    pub fn end(&mut self, position: Option<SourcePosition>) -> bool {
        self.flush();
        let ended = Captured::Ended { camera: self.key.camera.clone(), position };
        select! {
            send(self.out, ended) -> sent => sent.is_ok(),
            recv(self.stop) -> _ => false,
        }
    }

    fn frame(&self, seq: u64, sampled: Sampled) -> Frame {
        let id = ObservationId { key: self.key.clone(), epoch: self.epoch, seq };
        let Sampled { stamp, planes, position } = sampled;
        Frame { id, stamp, planes, position }
    }

    fn skip(&mut self, frame: Frame) {
        self.account.skipped();
        let Frame { id, stamp, .. } = frame;
        let seq = id.seq;
        let fresh = || {
            let reason = Reason::from(Reason::DETECTOR_BUSY);
            (Skip { id, stamp, first: seq, last: seq, reason }, Instant::now())
        };
        self.run.get_or_insert_with(fresh).0.last = seq;
    }

    fn close_run(&mut self) {
        let Some((run, since)) = self.run.take() else {
            return;
        };
        let last = run.last;
        match self.out.try_send(Captured::Skipped(run)) {
            Ok(()) => self.account.handed_on(last),
            Err(TrySendError::Full(Captured::Skipped(run))) => self.run = Some((run, since)),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;
    use std::sync::atomic::{AtomicU64, Ordering};

    use crossbeam_channel::{bounded, never};
    use picket_wire::CameraName;
    use picket_wire::observation::ClockState;

    use super::super::planes::{Matrix, Range};
    use super::*;

    struct Numbers(AtomicU64);

    impl ReserveSeq for Numbers {
        fn reserve(&self, _: &CameraName, n: u64) -> Result<RangeInclusive<u64>, ReserveError> {
            let first = self.0.fetch_add(n, Ordering::Relaxed) + 1;
            Ok(first..=first + n - 1)
        }
    }

    #[test]
    fn the_last_run_waits_for_a_slow_detector_also_after_the_stop() {
        let (mut outlet, taken) = outlet(1);
        let (source, stop) = bounded::<()>(0);
        outlet.stop = stop;
        (0..5).for_each(|_| offer(&mut outlet));
        drop(source);
        let flushed = std::thread::spawn(move || outlet.flush());
        // A detector that needs longer than a second for a frame.
        let _ = never::<()>().recv_timeout(Duration::from_millis(1200));
        let got: Vec<_> = taken.iter().flat_map(|captured| seqs(&captured)).collect();
        flushed.join().unwrap();
        assert_eq!(got, [1, 2, 3, 4, 5]);
    }

    fn outlet(capacity: usize) -> (Outlet, Receiver<Captured>) {
        let (out, taken) = bounded(capacity);
        let key: CameraKey = "box/cam".parse().unwrap();
        let account = Arc::new(CameraAccount::new(key.camera.clone()));
        let epoch = EpochId { number: 1, instance: 1 };
        (
            Outlet::new(key, epoch, Arc::new(Numbers(AtomicU64::new(0))), out, never(), account),
            taken,
        )
    }

    fn sampled() -> Sampled {
        let planes = [(vec![0; 4], 2), (vec![0], 1), (vec![0], 1)];
        Sampled {
            stamp: Stamp { mono_us: 1, captured_at: None, clock: ClockState::Unset },
            planes: Planes::from_vecs(2, 2, planes, Matrix::Bt601, Range::Full).unwrap(),
            position: None,
        }
    }

    fn offer(outlet: &mut Outlet) {
        let seq = outlet.number().unwrap();
        outlet.offer(seq, sampled());
    }

    fn seqs(captured: &Captured) -> RangeInclusive<u64> {
        match captured {
            Captured::Frame(frame) => frame.id.seq..=frame.id.seq,
            Captured::Skipped(skip) => skip.first..=skip.last,
            Captured::Missed { id, .. } => id.seq..=id.seq,
            Captured::Ended { .. } => panic!("ended"),
        }
    }

    #[test]
    fn every_number_comes_out_once_and_in_order_whenever_the_detector_takes() {
        for pattern in 1u32..64 {
            let (mut outlet, taken) = outlet(2);
            let mut got = Vec::new();
            for frame in 0..60 {
                offer(&mut outlet);
                if pattern >> (frame % 6) & 1 == 1 {
                    got.extend(taken.try_iter().take(1).flat_map(|c| seqs(&c)));
                }
            }
            got.extend(taken.try_iter().flat_map(|c| seqs(&c)));
            outlet.flush();
            got.extend(taken.try_iter().flat_map(|c| seqs(&c)));
            assert_eq!(got, (1..=60).collect::<Vec<_>>(), "pattern {pattern:06b}");
            let view = outlet.account.view();
            assert_eq!((view.captured, view.last_seq), (60, 60));
        }
    }

    #[test]
    fn a_slow_detector_gets_frames_and_not_only_runs() {
        let (mut outlet, taken) = outlet(2);
        let mut frames = 0;
        for n in 0..300 {
            offer(&mut outlet);
            if n % 5 == 4 {
                // It passes over runs at once, and works on a frame for five of the camera's.
                frames += usize::from(
                    taken.try_iter().any(|captured| matches!(captured, Captured::Frame(_))),
                );
            }
        }
        assert!(frames >= 58, "{frames}");
    }

    #[test]
    fn a_time_without_frames_takes_one_number_behind_the_run_before_it() {
        let (mut outlet, taken) = outlet(2);
        (0..5).for_each(|_| offer(&mut outlet));
        let missing = std::thread::spawn(move || {
            assert!(outlet.miss(Reason::PAUSED.into()));
            outlet
        });
        let mut got: Vec<_> = taken.iter().take(4).collect();
        let mut outlet = missing.join().unwrap();
        offer(&mut outlet);
        got.extend(taken.try_iter());
        assert!(matches!(&got[3], Captured::Missed { id, .. } if id.seq == 6), "{got:?}");
        assert_eq!(got.iter().flat_map(seqs).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
        let view = outlet.account.view();
        assert_eq!((view.captured, view.last_seq), (7, 7));
        let mut next = outlet.into_numbers();
        let numbers = Numbers(AtomicU64::new(900));
        assert_eq!(next.take(&"cam".parse().unwrap(), &numbers).unwrap(), 8);
    }

    #[test]
    fn a_recording_that_stops_while_it_waits_gives_its_number_back() {
        let (mut outlet, taken) = outlet(1);
        let (source, stop) = bounded::<()>(0);
        outlet.stop = stop;
        let seq = outlet.number().unwrap();
        assert_eq!(outlet.hand_on(seq, sampled()), Handed::On);
        drop(source);
        let seq = outlet.number().unwrap();
        assert_eq!(outlet.hand_on(seq, sampled()), Handed::Stopping);
        assert_eq!(taken.try_iter().count(), 1);
        let view = outlet.account.view();
        assert_eq!((view.captured, view.last_seq), (1, 1));
    }
}
