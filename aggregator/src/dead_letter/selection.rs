//! Which letters a command is about.

use anyhow::{Result, bail};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use picket_aggregator::consume::letters::{
    AT_ONCE, AT_ONCE_BYTES, Letter, LetterPlace, Shelf, ShelfError,
};

/// Letters by what they are.
#[derive(Args, Default)]
pub struct Filter {
    /// Only those that were put aside for this reason, such as `unknown-major`.
    #[arg(long)]
    reason: Option<String>,
    /// Only those of this camera (DEVICE/CAMERA), or of this device with all its cameras.
    #[arg(long, visible_alias = "camera")]
    key: Option<String>,
    /// Only those that were put aside since then: a time such as 2026-01-02T03:04:05Z, or so long ago,
    /// such as 2h or 7d.
    #[arg(long, value_parser = since)]
    since: Option<Timestamp>,
}

fn since(text: &str) -> Result<Timestamp> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    // A day is 24 hours here: what is asked for is how long ago, not which date.
    let ago = match text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok()) {
        Some(days) => days.checked_mul(24 * 60 * 60).map(SignedDuration::from_secs),
        None => text.parse().ok(),
    };
    match ago.filter(|ago| !ago.is_negative()).map(|ago| Timestamp::now().checked_sub(ago)) {
        Some(Ok(time)) => Ok(time),
        _ => {
            bail!("is neither a time such as 2026-01-02T03:04:05Z nor a duration such as 2h or 7d")
        }
    }
}

impl Filter {
    /// Milliseconds since 1970.
    pub fn since_ms(&self) -> Option<i64> {
        self.since.map(Timestamp::as_millisecond)
    }

    /// Whether it is about this letter.
    pub fn takes(&self, letter: &Letter) -> bool {
        let of_key = |wanted: &String| {
            let key = letter.record.key.as_deref().unwrap_or_default();
            let rest = key.strip_prefix(wanted.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.reason.as_ref().is_none_or(|reason| *reason == letter.reason)
            && self.key.as_ref().is_none_or(of_key)
    }

    fn is_empty(&self) -> bool {
        self.reason.is_none() && self.key.is_none() && self.since.is_none()
    }
}

/// Letters to do something about.
#[derive(Args)]
pub struct Selection {
    /// PARTITION/OFFSET of each, as `list` has it.
    #[arg(required_unless_present_any = ["all", "reason", "key", "since"])]
    #[arg(conflicts_with_all = ["all", "reason", "key", "since"])]
    places: Vec<LetterPlace>,
    /// All that are open.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

type Part = Result<Vec<Letter>, ShelfError>;

impl Selection {
    /// Whether each is named.
    pub fn is_by_place(&self) -> bool {
        !self.places.is_empty()
    }

    /// Whether no reason is named: then what can do nothing but fail is left alone.
    pub fn is_all(&self) -> bool {
        !self.is_by_place() && self.filter.reason.is_none()
    }

    /// The letters, some at a time.
    pub fn letters<'a>(&'a self, shelf: &'a Shelf) -> Result<Box<dyn Iterator<Item = Part> + 'a>> {
        if self.is_by_place() {
            let letters = self.places.iter().map(|place| shelf.letter(*place));
            return Ok(Box::new(in_parts(letters, |_| true)));
        }
        if self.filter.is_empty() && !self.all {
            bail!("name letters by PARTITION/OFFSET, or ask for --all");
        }
        let letters = shelf.letters(self.filter.since_ms())?;
        Ok(Box::new(in_parts(letters, |letter| self.filter.takes(letter))))
    }
}

/// As many letters at a time as memory is meant to hold. Those before an error come before it.
pub fn in_parts<'a>(
    mut letters: impl Iterator<Item = Result<Letter, ShelfError>> + 'a,
    takes: impl Fn(&Letter) -> bool + 'a,
) -> impl Iterator<Item = Part> + 'a {
    let mut failed = None;
    std::iter::from_fn(move || {
        if let Some(error) = failed.take() {
            return Some(Err(error));
        }
        let (mut part, mut bytes) = (Vec::new(), 0);
        while part.len() < AT_ONCE && bytes < AT_ONCE_BYTES {
            match letters.next() {
                Some(Ok(letter)) if takes(&letter) => {
                    bytes += letter.record.bytes();
                    part.push(letter);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) if part.is_empty() => return Some(Err(error)),
                Some(Err(error)) => {
                    failed = Some(error);
                    break;
                }
                None => break,
            }
        }
        (!part.is_empty()).then_some(Ok(part))
    })
}

/// The newest of many.
pub struct Newest<K, T> {
    most: usize,
    items: Vec<(K, T)>,
}

impl<K: Ord, T> Newest<K, T> {
    /// So many.
    pub fn new(most: usize) -> Self {
        Self { most, items: Vec::new() }
    }

    /// One more.
    pub fn add(&mut self, age: K, item: T) {
        self.items.push((age, item));
        // Seldom: twice as many may lie here for a while.
        if self.items.len() >= self.most.saturating_mul(2).max(64) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.items.sort_by(|a, b| a.0.cmp(&b.0));
        let surplus = self.items.len().saturating_sub(self.most);
        self.items.drain(..surplus);
    }

    /// The newest last.
    pub fn into_sorted(mut self) -> impl Iterator<Item = T> {
        self.cut();
        self.items.into_iter().map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use picket_aggregator::consume::letters::Received;
    use picket_wire::TopicNames;

    use super::*;

    #[test]
    fn letters_before_one_that_is_not_there_come_before_its_error() {
        let topic = || "picket.dead-letter".to_owned();
        let letter = |offset| {
            let record =
                Received { offset, broker_time_ms: 0, key: None, headers: Vec::new(), value: None };
            Ok(Letter::open(7, record, &TopicNames::default()))
        };
        let missing = Err(ShelfError::Silent { topic: topic() });
        let mut parts = in_parts([letter(42), letter(43), missing].into_iter(), |_| true);
        let offsets = |part: Part| -> Vec<i64> {
            part.unwrap().iter().map(|letter| letter.place.offset).collect()
        };
        assert_eq!(parts.next().map(offsets), Some(vec![42, 43]));
        assert!(matches!(parts.next(), Some(Err(ShelfError::Silent { .. }))));
        assert!(parts.next().is_none());
    }

    #[test]
    fn of_many_the_newest_stay_in_their_order() {
        let mut newest = Newest::new(3);
        for number in (0..1000).map(|n| n * 7919 % 1000) {
            newest.add(number, number);
        }
        assert_eq!(newest.into_sorted().collect::<Vec<_>>(), [997, 998, 999]);
        assert_eq!(Newest::<i32, i32>::new(3).into_sorted().count(), 0);
    }

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        assert_eq!(since("2026-01-02T03:04:05Z").unwrap().as_second(), 1_767_323_045);
        for (text, seconds) in [("2h", 7200), ("90m", 5400), ("7d", 604_800)] {
            let ago = Timestamp::now().as_second() - since(text).unwrap().as_second();
            assert!((seconds..seconds + 60).contains(&ago), "{text}: {ago}");
        }
        for text in ["", "soon", "-2h", "99999999999999999d"] {
            assert!(since(text).unwrap_err().to_string().contains("neither"), "{text}");
        }
    }
}
