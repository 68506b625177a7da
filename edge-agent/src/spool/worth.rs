//! What rows are worth when something has to go, and how much of each a camera has.

use picket_wire::{Kind, Topic};

/// What a row is worth; gap, epoch and clock records, which never go, have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// A picture of a whole frame.
    Frame,
    /// A picture of what was found.
    Crop,
    /// What was found, or a run that was not looked at.
    Observation,
}

impl Worth {
    /// In the order in which they go.
    pub const LEAST_FIRST: [Self; 3] = [Self::Frame, Self::Crop, Self::Observation];

    /// Of a row of this kind.
    pub fn of(kind: &str) -> Option<Self> {
        let is = |worth: &Self| worth.kinds().iter().any(|one| one.as_str() == kind);
        Self::LEAST_FIRST.into_iter().find(is)
    }

    /// What is worth as much.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Frame => &[Kind::Frame],
            Self::Crop => &[Kind::Crop],
            Self::Observation => &[Kind::Observation, Kind::Skip],
        }
    }

    /// Whose rows these are.
    pub fn topic(self) -> Topic {
        match self {
            Self::Frame | Self::Crop => Topic::Frames,
            Self::Observation => Topic::Observations,
        }
    }
}

/// Bytes of one camera's rows, by what they are worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weights {
    /// Of whole frames.
    pub frames: u64,
    /// Of crops.
    pub crops: u64,
    /// Of observations and skips.
    pub observations: u64,
}

impl Weights {
    /// A row came in.
    pub fn add(&mut self, worth: Worth, bytes: u64) {
        *self.part(worth) += bytes;
    }

    /// A row went.
    pub fn subtract(&mut self, worth: Worth, bytes: u64) {
        let part = self.part(worth);
        *part = part.saturating_sub(bytes);
    }

    /// Bytes of what is worth so much.
    pub fn of(mut self, worth: Worth) -> u64 {
        *self.part(worth)
    }

    fn part(&mut self, worth: Worth) -> &mut u64 {
        match worth {
            Worth::Frame => &mut self.frames,
            Worth::Crop => &mut self.crops,
            Worth::Observation => &mut self.observations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_centres_accounts_stand_on_has_no_worth_and_never_goes() {
        for kind in [Kind::Gap, Kind::Epoch, Kind::Clock, Kind::Certificate] {
            assert_eq!(Worth::of(kind.as_str()), None, "{kind:?}");
        }
        assert_eq!(Worth::of("skip"), Some(Worth::Observation));
        assert!(Worth::Frame < Worth::Crop && Worth::Crop < Worth::Observation);
    }
}
