//! Two agents that run at once as one device: a copied card, or one certificate on two boxes.
//!
//! Their ids never meet, since each start draws an instance. But they tell one device's books in turns,
//! and their cameras' tracks mix, so a person has to hear of it. An agent has one epoch from its start
//! to its end, and its heartbeats end with it: an epoch that comes back after another came is that of
//! a second agent. A restart, an outage or a lost spool brings no epoch back.
//!
//! Pure: time is the broker's. Where the partition moves to another instance the looking begins anew,
//! and a heartbeat a second soon tells again.

use std::collections::HashMap;

use picket_wire::{DeviceName, EpochId};

/// How often it is said while it lasts.
const REMIND_EVERY_MS: i64 = 60_000;
/// What was silent for so long is forgotten where many devices are known.
const FORGET_AFTER_MS: i64 = 600_000;
const MANY: usize = 10_000;

/// What is known of a device.
#[derive(Debug)]
struct Seen {
    epoch: EpochId,
    before: Option<EpochId>,
    at_ms: i64,
    told_ms: Option<i64>,
}

/// A second agent.
#[derive(Debug, PartialEq, Eq)]
pub struct Twin {
    /// The epoch that came back, and the one that came meanwhile.
    pub epochs: [EpochId; 2],
    /// Whether it is time to say so.
    pub is_news: bool,
}

/// The devices of a partition.
#[derive(Debug, Default)]
pub struct Twins(HashMap<DeviceName, Seen>);

impl Twins {
    /// Takes a heartbeat in.
    pub fn heed(&mut self, device: &DeviceName, epoch: EpochId, at_ms: i64) -> Option<Twin> {
        let Some(seen) = self.0.get_mut(device) else {
            if self.0.len() >= MANY {
                self.0.retain(|_, seen| at_ms - seen.at_ms < FORGET_AFTER_MS);
            }
            let seen = Seen { epoch, before: None, at_ms, told_ms: None };
            self.0.insert(device.clone(), seen);
            return None;
        };
        seen.at_ms = at_ms;
        if seen.epoch == epoch {
            return None;
        }
        let came_back = seen.before == Some(epoch);
        let meanwhile = std::mem::replace(&mut seen.epoch, epoch);
        seen.before = Some(meanwhile);
        came_back.then(|| {
            let is_news = seen.told_ms.is_none_or(|told| at_ms - told >= REMIND_EVERY_MS);
            if is_news {
                seen.told_ms = Some(at_ms);
            }
            Twin { epochs: [epoch, meanwhile], is_news }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: EpochId = EpochId { number: 4, instance: 0xa };
    const B: EpochId = EpochId { number: 4, instance: 0xb };
    const C: EpochId = EpochId { number: 5, instance: 0xc };

    fn device() -> DeviceName {
        "gate".parse().unwrap()
    }

    #[test]
    fn restarts_however_many_are_no_second_agent() {
        let mut twins = Twins::default();
        for (second, epoch) in [A, A, C, C, B, B].into_iter().enumerate() {
            assert_eq!(twins.heed(&device(), epoch, second as i64 * 1000), None);
        }
    }

    #[test]
    fn an_epoch_that_comes_back_is_a_second_agent_and_is_said_once_a_minute() {
        let mut twins = Twins::default();
        assert_eq!(twins.heed(&device(), A, 0), None);
        assert_eq!(twins.heed(&device(), B, 500), None);
        let back = twins.heed(&device(), A, 1000);
        assert_eq!(back, Some(Twin { epochs: [A, B], is_news: true }));
        let again = twins.heed(&device(), B, 1500);
        assert_eq!(again, Some(Twin { epochs: [B, A], is_news: false }));
        let later = twins.heed(&device(), A, 1000 + REMIND_EVERY_MS);
        assert!(later.unwrap().is_news);
        assert_eq!(twins.heed(&"yard".parse().unwrap(), B, 0), None, "another device");
    }

    #[test]
    fn devices_that_went_silent_are_forgotten() {
        let mut twins = Twins::default();
        for number in 0..MANY {
            twins.heed(&format!("box-{number}").parse().unwrap(), A, 0);
        }
        twins.heed(&device(), A, FORGET_AFTER_MS);
        assert_eq!(twins.0.len(), 1);
    }
}
