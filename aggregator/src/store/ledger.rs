//! Which `seq` of an epoch are accounted for: a set of ranges, kept for ever.
//!
//! A camera that never loses a frame is one range however long its epoch lasts, so the ledger stays
//! small without expiry, and a resend is recognised even after its document has expired.

use picket_wire::{CameraKey, EpochId};

use super::bulk::Update;
use super::client::Store;
use super::documents::{CentreAccounts, LedgerDocument, collection};
use super::encode;
use super::error::StoreError;

/// Most ranges of a ledger: 35 bytes each, of the 16 MiB that a document may have.
const MOST_RANGES: usize = 20_000;

/// Disjoint ranges of `seq`, both ends included, in ascending order, with a hole between any two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Whether `seq` is in one of them.
    pub fn contains(&self, seq: u64) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= seq);
        after > 0 && self.0[after - 1].1 >= seq
    }

    /// Adds `first` to `last`; returns how many of them were new.
    pub fn insert(&mut self, first: u64, last: u64) -> u64 {
        if first > last {
            return 0;
        }
        // Ranges that overlap or touch the new one, by their place in the list.
        let begin = self.0.partition_point(|&(_, end)| end.saturating_add(1) < first);
        let end = self.0.partition_point(|&(start, _)| start <= last.saturating_add(1));
        let touched = &self.0[begin..end];
        let known: u64 = touched.iter().map(|&range| overlap(range, (first, last))).sum();
        let low = touched.first().map_or(first, |range| range.0.min(first));
        let high = touched.last().map_or(last, |range| range.1.max(last));
        self.0.splice(begin..end, [(low, high)]);
        (last - first + 1) - known
    }

    /// Takes `first` to `last` out; returns how many of them were in.
    pub fn remove(&mut self, first: u64, last: u64) -> u64 {
        if first > last {
            return 0;
        }
        let begin = self.0.partition_point(|&(_, end)| end < first);
        let end = self.0.partition_point(|&(start, _)| start <= last);
        let touched = &self.0[begin..end];
        let known = touched.iter().map(|&range| overlap(range, (first, last))).sum();
        let before = touched.first().filter(|range| range.0 < first);
        let before = before.map(|range| (range.0, first - 1));
        let after = touched.last().filter(|range| range.1 > last).map(|range| (last + 1, range.1));
        self.0.splice(begin..end, before.into_iter().chain(after));
        known
    }

    /// What of `first` to `last` is in none of them.
    pub fn holes_within(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let (mut holes, mut next) = (Vec::new(), Some(first));
        let begin = self.0.partition_point(|&(_, end)| end < first);
        for &(start, end) in self.0[begin..].iter().take_while(|(start, _)| *start <= last) {
            if let Some(from) = next.filter(|from| *from < start) {
                holes.push((from, start - 1));
            }
            next = end.checked_add(1);
        }
        holes.extend(next.filter(|from| *from <= last).map(|from| (from, last)));
        holes
    }

    /// What is missing before the first range, or else between the first two.
    pub fn first_hole(&self) -> Option<(u64, u64)> {
        let &(first, last) = self.0.first()?;
        if first > 1 {
            return Some((1, first - 1));
        }
        self.0.get(1).map(|&(next, _)| (last + 1, next - 1))
    }

    /// The highest `seq` up to which nothing from 1 on is missing; 0 if 1 itself is missing.
    pub fn complete_until(&self) -> u64 {
        match self.0.first() {
            Some(&(first, last)) if first <= 1 => last,
            _ => 0,
        }
    }

    /// The last `seq` of the range that holds this one.
    pub fn end_of_run(&self, seq: u64) -> Option<u64> {
        let after = self.0.partition_point(|&(first, _)| first <= seq);
        let (_, last) = *self.0.get(after.checked_sub(1)?)?;
        (last >= seq).then_some(last)
    }

    /// The first `seq` from this one on that is in one of them.
    pub fn next_from(&self, seq: u64) -> Option<u64> {
        let at = self.0.partition_point(|&(_, last)| last < seq);
        self.0.get(at).map(|&(first, _)| first.max(seq))
    }

    /// The highest `seq`.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|&(_, last)| last)
    }

    /// Leaves out ranges that end at a `seq` or before it; whether there were any.
    pub fn forget_until(&mut self, seq: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|&(_, last)| last > seq);
        self.0.len() != before
    }

    /// The ranges.
    pub fn as_slice(&self) -> &[(u64, u64)] {
        &self.0
    }
}

fn overlap(a: (u64, u64), b: (u64, u64)) -> u64 {
    let (first, last) = (a.0.max(b.0), a.1.min(b.1));
    if first > last { 0 } else { last - first + 1 }
}

/// The ledger of one epoch of one camera, in memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EpochLedger {
    /// What is accounted for.
    pub accounted: Ranges,
    /// What is not, and is not waited for any more.
    pub given_up: Ranges,
    /// Totals of the epoch.
    pub accounts: CentreAccounts,
    /// Whether it differs from what is stored.
    pub dirty: bool,
}

/// Id of an epoch's ledger.
pub fn ledger_id(key: &CameraKey, epoch: EpochId) -> String {
    format!("{key}/{epoch}")
}

impl EpochLedger {
    /// The oldest hole, where there are more than a document has room for.
    pub fn excess_hole(&self) -> Option<(u64, u64)> {
        let is_excess = self.accounted.as_slice().len() > MOST_RANGES;
        is_excess.then(|| self.accounted.first_hole()).flatten()
    }

    /// As a document. A `seq` always fits 63 bits: ids are checked where they are read.
    pub fn document(&self, key: &CameraKey, epoch: EpochId) -> LedgerDocument {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let pairs = |ranges: &Ranges| {
            let ranges = ranges.as_slice().iter();
            ranges.map(|&(first, last)| [signed(first), signed(last)]).collect()
        };
        LedgerDocument {
            id: ledger_id(key, epoch),
            device: key.device.to_string(),
            camera: key.camera.to_string(),
            accounted: pairs(&self.accounted),
            given_up: pairs(&self.given_up),
            accounts: self.accounts.clone(),
        }
    }

    /// The write that stores it.
    pub fn update(&self, key: &CameraKey, epoch: EpochId) -> Result<Update, StoreError> {
        let document = self.document(key, epoch);
        Ok(Update::set(&document.id, encode(collection::LEDGER, &document)?))
    }
}

impl From<LedgerDocument> for EpochLedger {
    fn from(document: LedgerDocument) -> Self {
        let unsigned = |n: i64| u64::try_from(n).unwrap_or_default();
        let ranges = |pairs: Vec<[i64; 2]>| {
            let mut ranges = Ranges::default();
            // Inserted one by one, so that a document edited by hand still gives sorted ranges.
            for [first, last] in pairs {
                ranges.insert(unsigned(first), unsigned(last));
            }
            ranges
        };
        let (accounted, given_up) = (ranges(document.accounted), ranges(document.given_up));
        Self { accounted, given_up, accounts: document.accounts, dirty: false }
    }
}

impl Store {
    /// The ledgers of these ids that exist.
    pub async fn ledgers(&self, ids: &[String]) -> Result<Vec<LedgerDocument>, StoreError> {
        self.find_by_ids(collection::LEDGER, ids, None).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_equal_a_plain_set_whatever_is_inserted() {
        // A generator without a crate: the test needs variety, not quality.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for _ in 0..40 {
                let first = next(120) + 1;
                let last = first + next(9);
                let holes = ranges.holes_within(first, last);
                let within = holes.iter().flat_map(|&(first, last)| first..=last);
                assert!(within.eq((first..=last).filter(|n| !set.contains(n))), "{holes:?}");
                assert!(holes.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{holes:?}");
                let new = (first..=last).filter(|&n| set.insert(n)).count() as u64;
                assert_eq!(ranges.insert(first, last), new);
            }
            for seq in 0..140 {
                assert_eq!(ranges.contains(seq), set.contains(&seq), "{seq} in {ranges:?}");
                let run = (seq..).take_while(|n| set.contains(n)).last();
                assert_eq!(ranges.end_of_run(seq), run, "{seq} in {ranges:?}");
                assert_eq!(ranges.next_from(seq), set.range(seq..).next().copied());
            }
            assert_eq!(ranges.last(), set.last().copied());
            let first_hole = ranges.holes_within(1, ranges.last().unwrap()).first().copied();
            assert_eq!(ranges.first_hole(), first_hole);
            let complete = (1..).take_while(|n| set.contains(n)).count() as u64;
            assert_eq!(ranges.complete_until(), complete);
            assert!(ranges.as_slice().windows(2).all(|w| w[0].1 + 1 < w[1].0), "{ranges:?}");
            for _ in 0..20 {
                let first = next(120) + 1;
                let last = first + next(30);
                let gone = (first..=last).filter(|n| set.remove(n)).count() as u64;
                assert_eq!(ranges.remove(first, last), gone);
                let left = ranges.as_slice().iter().flat_map(|&(first, last)| first..=last);
                assert!(left.eq(set.iter().copied()), "{ranges:?}");
            }
        }
    }

    #[test]
    fn the_largest_seq_does_not_overflow() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.insert(u64::MAX - 1, u64::MAX), 2);
        assert_eq!(ranges.insert(1, 1), 1);
        assert!(ranges.contains(u64::MAX));
        assert_eq!(ranges.holes_within(1, u64::MAX), [(2, u64::MAX - 2)]);
    }

    #[test]
    fn a_ledger_reads_back_from_its_document() {
        let mut ledger = EpochLedger::default();
        ledger.accounted.insert(1, 10);
        ledger.accounted.insert(12, 20);
        ledger.given_up.insert(11, 11);
        ledger.accounts.dropped.insert("spool-full".to_owned(), 3);
        let key: CameraKey = "gate/north".parse().unwrap();
        let document = ledger.document(&key, "3-0a1b2c3d".parse().unwrap());
        assert_eq!(document.id, "gate/north/3-0a1b2c3d");
        assert_eq!(EpochLedger::from(document), ledger);
    }
}
