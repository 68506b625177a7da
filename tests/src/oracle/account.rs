//! The account of one epoch of one camera, and what can be wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use picket_wire::observation::Reason;

/// Most numbers that one crash may take of a camera: two blocks of reserved numbers, of which one may
/// lie ready, and what was between capture and commit.
pub(super) const MOST_BY_A_CRASH: u64 = 2 * 256 + 64;

/// What became of the frames of one epoch of one camera.
#[derive(Debug, Default, Clone)]
pub struct Account {
    /// Highest `seq` that anybody knows of.
    pub last_seq: u64,
    /// Stored observations.
    pub stored: BTreeSet<u64>,
    /// How many observations the centre's ledger counts as stored.
    pub counted_stored: u64,
    /// In stored skip records.
    pub skipped: BTreeSet<u64>,
    /// In stored gap records of observations, with the reason.
    pub dropped: BTreeMap<u64, String>,
    /// Settled by two records of one kind.
    pub doubled: BTreeSet<u64>,
    /// Crash gaps: first and last `seq`.
    pub crash_gaps: Vec<(u64, u64)>,
    /// What the next epoch's record says of this one: last committed and reserved `seq`.
    pub ended_at: Option<(u64, u64)>,
    /// Settled by records that still lie in the spool.
    pub spooled: BTreeSet<u64>,
    /// Observations whose picture was to be published.
    pub pictures_due: BTreeSet<u64>,
    /// Observations whose picture is neither published nor may be.
    pub pictures_withheld: BTreeSet<u64>,
    /// Stored pictures of whole frames.
    pub pictures_stored: BTreeSet<u64>,
    /// Of which observations crops are stored. None is due: a window without a good face has none.
    pub crops_stored: BTreeSet<u64>,
    /// Pictures in the spool.
    pub pictures_spooled: BTreeSet<u64>,
    /// Gap records of frames: first and last `seq`, and how many pictures in between are lost.
    pub picture_gaps: Vec<(u64, u64, u64)>,
}

impl Account {
    /// Each `seq` from 1 to the last that is nowhere.
    pub fn missing(&self) -> Vec<u64> {
        let known = |seq: &u64| {
            self.stored.contains(seq)
                || self.skipped.contains(seq)
                || self.dropped.contains_key(seq)
                || self.spooled.contains(seq)
        };
        (1..=self.last_seq).filter(|seq| !known(seq)).collect()
    }

    /// Each published picture that is nowhere. A gap record of frames explains no more pictures than
    /// it counts; an epoch that ended by a crash, those of observations that were sent before they were
    /// kept (`durability = "offline"`), which are behind the last that was.
    pub fn missing_pictures(&self) -> Vec<u64> {
        let (committed, reserved) = self.ended_at.unwrap_or((u64::MAX, u64::MAX));
        let here = |seq: &&u64| {
            self.pictures_stored.contains(seq)
                || self.pictures_spooled.contains(seq)
                || (**seq > committed && **seq <= reserved)
        };
        let mut missing: Vec<u64> =
            self.pictures_due.iter().filter(|seq| !here(seq)).copied().collect();
        for &(first, last, count) in &self.picture_gaps {
            let mut left = count;
            missing.retain(|seq| {
                let explained = left > 0 && (first..=last).contains(seq);
                left -= u64::from(explained);
                !explained
            });
        }
        missing
    }

    /// Each picture that its observation says was not kept, and that came all the same.
    pub fn unwanted_pictures(&self) -> Vec<u64> {
        self.pictures_withheld.intersection(&self.pictures_stored).copied().collect()
    }

    /// Each crop of a frame in which nothing can have been found: nobody looked at it, or nobody
    /// knows of it.
    pub fn crops_of_nothing(&self) -> Vec<u64> {
        let looked_at = |seq: &&u64| {
            self.stored.contains(seq)
                || self.dropped.contains_key(seq)
                || self.spooled.contains(seq)
        };
        self.crops_stored.iter().filter(|seq| !looked_at(seq)).copied().collect()
    }

    /// Each `seq` that two records settle, of one kind or of two.
    pub fn settled_twice(&self) -> Vec<u64> {
        let kinds = |seq: &u64| {
            usize::from(self.stored.contains(seq))
                + usize::from(self.skipped.contains(seq))
                + usize::from(self.dropped.contains_key(seq))
        };
        let twice = |seq: &u64| kinds(seq) > 1 || self.doubled.contains(seq);
        (1..=self.last_seq).filter(twice).collect()
    }

    /// What is wrong with what was put down to crashes: nothing but an epoch that follows can tell of
    /// one, it takes nothing that was committed, and it takes no more than was reserved.
    pub fn wrong_crashes(&self) -> Vec<String> {
        let (committed, reserved) = self.ended_at.unwrap_or_default();
        let bounded = |(first, last): &&(u64, u64)| *first <= committed || *last > reserved;
        let beyond = self.crash_gaps.iter().filter(bounded).map(|(first, last)| {
            format!("a crash is said to have taken {first} to {last}, of {committed} to {reserved}")
        });
        let taken = reserved.saturating_sub(committed);
        let too_many = (taken > MOST_BY_A_CRASH)
            .then(|| format!("a crash may have taken {taken} numbers, at most {MOST_BY_A_CRASH}"));
        beyond.chain(too_many).collect()
    }

    pub(super) fn skip(&mut self, first: u64, last: u64) {
        for seq in first..=last {
            if !self.skipped.insert(seq) {
                self.doubled.insert(seq);
            }
        }
        self.last_seq = self.last_seq.max(last);
    }

    pub(super) fn lose(&mut self, first: u64, last: u64, reason: &str) {
        for seq in first..=last {
            if self.dropped.insert(seq, reason.to_owned()).is_some() {
                self.doubled.insert(seq);
            }
        }
        if reason == Reason::CRASH {
            self.crash_gaps.push((first, last));
        }
        self.last_seq = self.last_seq.max(last);
    }

    /// How many were dropped, by reason.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut drops = BTreeMap::new();
        for reason in self.dropped.values() {
            *drops.entry(reason.clone()).or_default() += 1;
        }
        drops
    }
}
