//! Where a source is opened, read and closed: on a thread of its own.
//!
//! A driver may keep the thread that calls it for ever, and nothing can end such a thread. So the
//! camera's own thread never calls one. It holds what must not be lost (the numbers, the way out) and
//! only listens to this thread; when nothing is heard for too long it leaves this thread behind and
//! starts another. What a thread that was left behind still gives goes nowhere: its frames have no
//! numbers yet.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};

use super::error::CaptureError;
use super::pipeline::{InUse, Next, Opening, Picture, Pipeline};
use super::v4l2::Opened;

/// How often a thread that waits for a frame says that it is alive.
const TURN: Duration = Duration::from_millis(100);

/// How long a source may take to close when the agent stops.
const AT_STOP: Duration = Duration::from_secs(2);

/// What is heard of a source.
#[derive(Debug)]
pub(super) enum Report {
    /// A V4L2 camera was found and told what to do.
    Opened(Box<Opened>),
    /// The first frame is there, and follows.
    Began(InUse),
    /// A frame.
    Picture(Picture),
    /// Nothing yet.
    Nothing,
    /// The driver says whether the camera's input has a signal.
    Signal(bool),
    /// The stream is over.
    End {
        /// How long the source said that it is.
        duration_ns: Option<u64>,
    },
}

/// A thread that reads a source.
pub(super) struct Reader {
    heard: Receiver<Result<Report, CaptureError>>,
    /// Asks it to begin again.
    again: Sender<()>,
    /// Disconnected when the thread has closed the source.
    closed: Receiver<()>,
    thread: JoinHandle<()>,
    source_name: String,
    patience: Duration,
    /// Since when the camera's thread listens in vain.
    listening_since: Option<Instant>,
}

impl Reader {
    /// Starts a thread, which opens the source. Nothing may be heard of it for as long as `patience`.
    pub fn start(camera: &str, opening: Opening, patience: Duration) -> Result<Self, CaptureError> {
        // One report waits at most: a frame more would only hold the decoder's memory.
        let (tell, heard) = bounded(1);
        let (again, asked_again) = bounded(1);
        let (open, closed) = bounded(0);
        let source_name = super::source::name(&opening.source);
        let thread = std::thread::Builder::new()
            .name(format!("src-{camera}"))
            .spawn(move || {
                let _open: Sender<()> = open;
                read(opening, &tell, &asked_again);
            })
            .map_err(|source| CaptureError::Thread { camera: camera.to_owned(), source })?;
        Ok(Self { heard, again, closed, thread, source_name, patience, listening_since: None })
    }

    /// What it says next, waiting for it so long at most.
    pub fn next(&mut self, wait: Duration) -> Result<Report, CaptureError> {
        match self.heard.recv_timeout(wait) {
            Ok(report) => {
                self.listening_since = None;
                report
            }
            Err(RecvTimeoutError::Timeout) => {
                let since = *self.listening_since.get_or_insert_with(Instant::now);
                if since.elapsed() < self.patience {
                    return Ok(Report::Nothing);
                }
                let (source_name, silence) = (self.source_name.clone(), since.elapsed());
                Err(CaptureError::Stuck { source_name, silence })
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(CaptureError::BrokeOff { source_name: self.source_name.clone() })
            }
        }
    }

    /// After the end of the stream: lets it begin again.
    pub fn rewind(&self) {
        // A thread that is gone shows at the next look.
        let _ = self.again.try_send(());
    }

    /// Has it close the source, and waits for that: as long as it may be silent, and when the agent
    /// stops, a moment. A thread that does not end is given back.
    pub fn close(self, stop: &Receiver<()>) -> Option<JoinHandle<()>> {
        let Self { heard, again, closed, thread, patience, listening_since, .. } = self;
        drop((heard, again));
        // One that was silent for too long already gets no second wait.
        let was_silent = listening_since.is_some_and(|since| since.elapsed() >= patience);
        let patience = if was_silent { Duration::ZERO } else { patience };
        let ended = select! {
            recv(closed) -> _ => true,
            recv(stop) -> _ => closed.recv_timeout(AT_STOP) != Err(RecvTimeoutError::Timeout),
            default(patience) => false,
        };
        (!ended).then_some(thread)
    }
}

/// Whoever listened is gone, and the source is to be closed.
struct Unheard;

fn read(opening: Opening, tell: &Sender<Result<Report, CaptureError>>, again: &Receiver<()>) {
    let say = |report| tell.send(report).map_err(|_| Unheard);
    let read = || -> Result<Result<(), CaptureError>, Unheard> {
        let mut pipeline = match Pipeline::open_as(&opening) {
            Ok(pipeline) => pipeline,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(opened) = pipeline.opened() {
            say(Ok(Report::Opened(Box::new(opened.clone()))))?;
        }
        loop {
            match pipeline.next(TURN) {
                Ok(Next::Picture(picture)) => {
                    if pipeline.pictures() == 1 {
                        say(Ok(Report::Began(pipeline.in_use())))?;
                    }
                    say(Ok(Report::Picture(picture)))?;
                }
                Ok(Next::Nothing) => say(Ok(Report::Nothing))?,
                Ok(Next::End) => {
                    say(Ok(Report::End { duration_ns: pipeline.duration_ns() }))?;
                    again.recv().map_err(|_| Unheard)?;
                    if let Err(error) = pipeline.rewind() {
                        return Ok(Err(error));
                    }
                }
                Err(error) => return Ok(Err(error)),
            }
            if let Some(there) = pipeline.signal() {
                say(Ok(Report::Signal(there)))?;
            }
        }
    };
    // Said when the source was closed, so that it is free to be opened again.
    if let Ok(Err(error)) = read() {
        drop(say(Err(error)));
    }
}
