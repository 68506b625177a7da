//! Threads that a driver keeps.

use std::thread::JoinHandle;

use picket_wire::CameraName;

/// So many threads of a camera may hang; then it is not opened again before one of them came back.
/// Each keeps its stack, and whatever its pipeline holds.
const MOST: usize = 3;

/// The threads of a camera that were left behind.
#[derive(Debug)]
pub(super) struct LeftBehind {
    camera: CameraName,
    threads: Vec<JoinHandle<()>>,
}

impl LeftBehind {
    /// None yet.
    pub fn new(camera: CameraName) -> Self {
        Self { camera, threads: Vec::new() }
    }

    /// Leaves one behind.
    pub fn add(&mut self, thread: JoinHandle<()>) {
        self.threads.push(thread);
        self.look();
    }

    /// How many still hang, and whether that is too many to start another.
    pub fn look(&mut self) -> (usize, bool) {
        let before = self.threads.len();
        self.threads.retain(|thread| !thread.is_finished());
        let hanging = self.threads.len();
        if hanging < before {
            tracing::info!(
                target: "capture", camera = %self.camera, hanging,
                "camera {}: a thread that its driver had kept came back", self.camera
            );
        }
        metrics::gauge!(
            "picket_agent_capture_hanging_threads", "camera" => self.camera.to_string()
        )
        .set(hanging as f64);
        (hanging, hanging >= MOST)
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, bounded, never};

    use super::*;

    fn hang(until: Receiver<()>) -> JoinHandle<()> {
        std::thread::spawn(move || {
            let _ = until.recv();
        })
    }

    #[test]
    fn three_hanging_threads_are_the_most_until_one_comes_back() {
        let mut left = LeftBehind::new("cam".parse().unwrap());
        let (let_go, until) = bounded::<()>(0);
        left.add(hang(until));
        left.add(hang(never()));
        assert_eq!(left.look(), (2, false));
        left.add(hang(never()));
        assert_eq!(left.look(), (3, true));
        drop(let_go);
        while left.look() != (2, false) {
            std::thread::yield_now();
        }
    }
}
