//! The books of a camera, as an operator reads them: the device's accounts and the centre's side by
//! side, what is on the way between them, and whether it all adds up. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use picket_wire::CameraKey;
use picket_wire::status::Books;
use serde::Serialize;

use crate::store::documents::CentreAccounts;

/// Whether a camera's accounts add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every captured frame is kept somewhere.
    Balanced,
    /// Every captured frame is kept somewhere or was counted as dropped.
    BalancedWithLosses,
    /// The device has not sent its accounts.
    Unknown,
    /// Frames are missing, or counted twice.
    Unbalanced,
}

/// One line of the books, in frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BooksRow {
    /// `<device>/<camera>`.
    pub camera: String,
    /// The device's side; null until it has sent a status.
    pub device: Option<Books>,
    /// When the broker received the device's side.
    pub as_of: Option<Timestamp>,
    /// Of the captured, lost before the centre; all reasons together.
    pub dropped: u64,
    /// The same by reason.
    pub dropped_by_reason: BTreeMap<String, u64>,
    /// Acknowledged by the broker, not yet accounted for at the centre.
    pub on_the_way: u64,
    /// Observations in MongoDB.
    pub stored: u64,
    /// Of the stored, those that came too late to be tracked.
    pub late: u64,
    /// In skip records at the centre: captured, and not looked at.
    pub skipped_at_centre: u64,
    /// Not taken by the centre; all reasons together.
    pub refused: u64,
    /// The same by reason.
    pub refused_by_reason: BTreeMap<String, u64>,
    /// Acknowledged by the broker, missing at the centre for longer than `consume.horizon_hours`, and not
    /// waited for any more.
    pub given_up: u64,
    /// Pictures lost whose observation is not.
    pub pictures_dropped: u64,
    /// Whether it adds up.
    pub verdict: Verdict,
    /// The verdict in words.
    pub says: String,
}

/// Counts of the centre are int64 as BSON has no other; a negative one means a broken document and
/// shows as 0 rather than as 18 trillion frames.
fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn total(by_reason: &BTreeMap<String, u64>) -> u64 {
    by_reason.values().fold(0, |sum, n| sum.saturating_add(*n))
}

fn by_word<K: ToString>(counts: &BTreeMap<K, u64>) -> BTreeMap<String, u64> {
    counts.iter().filter(|(_, n)| **n > 0).map(|(k, n)| (k.to_string(), *n)).collect()
}

fn centre_by_word(counts: &BTreeMap<String, i64>) -> BTreeMap<String, u64> {
    counts.iter().filter(|(_, n)| **n > 0).map(|(k, n)| (k.clone(), count(*n))).collect()
}

/// One camera's line from what the device says and what the centre has.
pub fn row(camera: &str, device: Option<(&Books, Timestamp)>, centre: &CentreAccounts) -> BooksRow {
    let stored = count(centre.stored);
    let skipped_at_centre = count(centre.skipped);
    let refused_by_reason = centre_by_word(&centre.refused);
    let refused = total(&refused_by_reason);
    let given_up = count(centre.given_up);
    let settled = [stored, skipped_at_centre, refused, given_up];
    let accounted = settled.into_iter().fold(0, u64::saturating_add);
    // Without a status, the gap records that came through are all that is known of losses.
    let dropped_by_reason = match device {
        Some((books, _)) => by_word(&books.dropped),
        None => centre_by_word(&centre.dropped),
    };
    let pictures_dropped = match device {
        Some((books, _)) => total(&by_word(&books.pictures_dropped)),
        None => total(&centre_by_word(&centre.pictures_dropped)),
    };
    let dropped = total(&dropped_by_reason);
    let (verdict, says) = judge(device.map(|(books, _)| books), dropped, given_up);
    BooksRow {
        camera: camera.to_owned(),
        // The status is a snapshot and the centre has moved on since: more accounted for than
        // acknowledged is not a fault, so the floor is 0.
        on_the_way: device.map_or(0, |(books, _)| books.acknowledged.saturating_sub(accounted)),
        device: device.map(|(books, _)| books.clone()),
        as_of: device.map(|(_, as_of)| as_of),
        dropped,
        dropped_by_reason,
        stored,
        late: count(centre.late),
        skipped_at_centre,
        refused,
        refused_by_reason,
        given_up,
        pictures_dropped,
        verdict,
        says,
    }
}

/// Both sides of every camera's books, to make a line anew when either side changes.
#[derive(Debug, Default)]
pub struct BooksTable {
    sides: BTreeMap<CameraKey, Sides>,
}

#[derive(Debug, Default)]
struct Sides {
    device: Option<(Books, Timestamp)>,
    centre: CentreAccounts,
}

impl BooksTable {
    /// The device's side of a camera, and when the broker received it; returns the camera's line.
    pub fn set_device(&mut self, camera: &CameraKey, books: &Books, as_of: Timestamp) -> BooksRow {
        let sides = self.sides.entry(camera.clone()).or_default();
        sides.device = Some((books.clone(), as_of));
        sides.row(camera)
    }

    /// The centre's side of a camera; returns the camera's line.
    pub fn set_centre(&mut self, camera: &CameraKey, accounts: &CentreAccounts) -> BooksRow {
        let sides = self.sides.entry(camera.clone()).or_default();
        sides.centre = accounts.clone();
        sides.row(camera)
    }

    /// All lines, by name of the camera.
    pub fn rows(&self) -> Vec<BooksRow> {
        self.sides.iter().map(|(camera, sides)| sides.row(camera)).collect()
    }
}

impl Sides {
    fn row(&self, camera: &CameraKey) -> BooksRow {
        let device = self.device.as_ref().map(|(books, as_of)| (books, *as_of));
        row(&camera.to_string(), device, &self.centre)
    }
}

fn frames(n: u64) -> String {
    if n == 1 { "1 frame".to_owned() } else { format!("{n} frames") }
}

fn judge(books: Option<&Books>, dropped: u64, given_up: u64) -> (Verdict, String) {
    let Some(books) = books else {
        return (Verdict::Unknown, "no accounts from the device yet".to_owned());
    };
    let kept = books.in_memory.saturating_add(books.spooled).saturating_add(books.acknowledged);
    let known = kept.saturating_add(dropped);
    if books.captured > known {
        let missing = frames(books.captured - known);
        (Verdict::Unbalanced, format!("{missing} unaccounted for"))
    } else if books.captured < known {
        let twice = frames(known - books.captured);
        (Verdict::Unbalanced, format!("{twice} counted twice"))
    } else if dropped > 0 || given_up > 0 {
        let lost = frames(dropped.saturating_add(given_up));
        (Verdict::BalancedWithLosses, format!("adds up, {lost} lost"))
    } else {
        (Verdict::Balanced, "adds up, nothing lost".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use picket_wire::observation::Reason;

    fn device(captured: u64, acknowledged: u64, dropped: u64) -> Books {
        let mut books =
            Books { captured, acknowledged, in_memory: 1, spooled: 4, ..Books::default() };
        if dropped > 0 {
            books.dropped.insert(Reason::from(Reason::SPOOL_FULL), dropped);
        }
        books
    }

    fn centre(stored: i64, skipped: i64) -> CentreAccounts {
        CentreAccounts { stored, skipped, ..CentreAccounts::default() }
    }

    #[test]
    fn what_was_acknowledged_and_is_not_accounted_for_is_on_the_way() {
        let mut accounts = centre(70, 10);
        accounts.refused.insert("late".to_owned(), 5);
        let row = row("gate/north", Some((&device(105, 100, 0), Timestamp::UNIX_EPOCH)), &accounts);
        assert_eq!((row.on_the_way, row.refused, row.as_of), (15, 5, Some(Timestamp::UNIX_EPOCH)));
        assert_eq!(row.verdict, Verdict::Balanced);
    }

    #[test]
    fn a_centre_that_is_ahead_of_the_last_status_has_nothing_on_the_way() {
        let row =
            row("gate/north", Some((&device(105, 100, 0), Timestamp::UNIX_EPOCH)), &centre(130, 0));
        assert_eq!(row.on_the_way, 0);
    }

    #[test]
    fn a_counted_loss_balances_and_is_named() {
        let row =
            row("gate/north", Some((&device(108, 100, 3), Timestamp::UNIX_EPOCH)), &centre(100, 0));
        assert_eq!(row.verdict, Verdict::BalancedWithLosses);
        assert_eq!(row.says, "adds up, 3 frames lost");
        assert_eq!(row.dropped_by_reason, BTreeMap::from([("spool-full".to_owned(), 3)]));
    }

    #[test]
    fn what_the_centre_has_given_up_is_lost_and_on_the_way_no_more() {
        let accounts = CentreAccounts { given_up: 20, late: 2, ..centre(80, 0) };
        let row = row("gate/north", Some((&device(105, 100, 0), Timestamp::UNIX_EPOCH)), &accounts);
        assert_eq!((row.on_the_way, row.given_up, row.late), (0, 20, 2));
        assert_eq!(row.verdict, Verdict::BalancedWithLosses);
        assert_eq!(row.says, "adds up, 20 frames lost");
    }

    #[test]
    fn a_frame_that_is_nowhere_or_twice_is_said() {
        let missing =
            row("gate/north", Some((&device(106, 100, 0), Timestamp::UNIX_EPOCH)), &centre(100, 0));
        assert_eq!(
            (missing.verdict, &*missing.says),
            (Verdict::Unbalanced, "1 frame unaccounted for")
        );
        let twice =
            row("gate/north", Some((&device(103, 100, 0), Timestamp::UNIX_EPOCH)), &centre(100, 0));
        assert_eq!((twice.verdict, &*twice.says), (Verdict::Unbalanced, "2 frames counted twice"));
    }

    #[test]
    fn the_verdict_is_that_of_the_wire_for_any_small_books() {
        for captured in 0..6 {
            for (acknowledged, dropped) in [(0, 0), (1, 0), (0, 1), (2, 1), (5, 0), (0, 5)] {
                let mut books = Books { captured, acknowledged, ..Books::default() };
                books.dropped.insert(Reason::from(Reason::CRASH), dropped);
                let row =
                    row("a/b", Some((&books, Timestamp::UNIX_EPOCH)), &CentreAccounts::default());
                assert_eq!(row.verdict != Verdict::Unbalanced, books.balanced(), "{books:?}");
            }
        }
    }

    #[test]
    fn without_a_status_the_losses_are_those_the_centre_knows_of() {
        let mut accounts = centre(9, 0);
        accounts.dropped.insert("crash".to_owned(), 2);
        let row = row("gate/north", None, &accounts);
        assert_eq!((row.verdict, row.dropped, row.on_the_way), (Verdict::Unknown, 2, 0));
    }

    #[test]
    fn absurd_counts_do_not_overflow() {
        let books =
            Books { captured: 1, acknowledged: u64::MAX, spooled: u64::MAX, ..Books::default() };
        let row = row("gate/north", Some((&books, Timestamp::UNIX_EPOCH)), &centre(-5, 0));
        assert_eq!((row.verdict, row.stored), (Verdict::Unbalanced, 0));
    }
}
