//! How many recordings are read at a time.
//!
//! A folder may hold hundreds of videos, and a pipeline costs memory and threads. Reading more of
//! them at once than there are processors makes none of them faster.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use picket_wire::CameraName;

/// Longest wait before a camera looks whether the agent stops.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// Seats for recordings that are read as fast as possible, given in the order of asking.
#[derive(Debug)]
pub struct Seats {
    free: Mutex<Free>,
    changed: Condvar,
}

#[derive(Debug)]
struct Free {
    seats: usize,
    waiting: VecDeque<CameraName>,
}

/// A place in the queue, and then a seat, until it is let go.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    camera: CameraName,
}

impl Seats {
    /// So many, and at least one.
    pub fn new(seats: usize) -> Arc<Self> {
        let free = Free { seats: seats.max(1), waiting: VecDeque::new() };
        Arc::new(Self { free: Mutex::new(free), changed: Condvar::new() })
    }

    /// One for each processor, and at least two, so that one slow video does not hold up all.
    pub fn for_this_machine() -> Arc<Self> {
        Self::new(std::thread::available_parallelism().map_or(2, |n| n.get().max(2)))
    }

    /// Queues a camera. To be called in the order in which they are to be read.
    pub fn queue(self: &Arc<Self>, camera: CameraName) -> Seat {
        self.lock().waiting.push_back(camera.clone());
        Seat { seats: Arc::clone(self), camera }
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        // Nothing panics while it is held.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Waits until it is this camera's turn; false if `stopped` says so before.
    pub fn wait(&self, stopped: impl Fn() -> bool) -> bool {
        let mut free = self.seats.lock();
        loop {
            if stopped() {
                return false;
            }
            if free.seats > 0 && free.waiting.front() == Some(&self.camera) {
                free.waiting.pop_front();
                free.seats -= 1;
                self.seats.changed.notify_all();
                return true;
            }
            let waited = self.seats.changed.wait_timeout(free, LOOK_AROUND);
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut free = self.seats.lock();
        match free.waiting.iter().position(|waiting| *waiting == self.camera) {
            Some(place) => drop(free.waiting.remove(place)),
            None => free.seats += 1,
        }
        self.seats.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: [&str; 3]) -> [CameraName; 3] {
        names.map(|name| name.parse().unwrap())
    }

    #[test]
    fn seats_are_given_in_the_order_of_asking_and_given_back() {
        let seats = Seats::new(1);
        let [first, second, third] = names(["c", "a", "b"]).map(|name| seats.queue(name));
        let now = |seat: &Seat| {
            let looks = std::cell::Cell::new(0);
            seat.wait(|| looks.replace(looks.get() + 1) > 0)
        };
        assert!(!now(&second), "the first has not been seated");
        assert!(now(&first));
        assert!(!now(&second), "there is one seat");
        drop(first);
        assert!(!now(&third), "the second is before it");
        drop(second);
        assert!(now(&third), "who leaves the queue holds up nobody");
    }

    #[test]
    fn a_camera_that_waits_for_a_seat_stops_when_told_to() {
        let seats = Seats::new(1);
        let [first, second, _] = names(["a", "b", "c"]).map(|name| seats.queue(name));
        assert!(first.wait(|| false));
        assert!(!second.wait(|| true));
    }
}
