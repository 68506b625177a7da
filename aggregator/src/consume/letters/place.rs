//! Where a letter lies.

use std::fmt;
use std::str::FromStr;

/// Partition and offset of a letter on the dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterPlace {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

/// A text that is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not PARTITION/OFFSET, such as 7/42, as `dead-letter list` shows it")]
pub struct PlaceError {
    text: String,
}

impl fmt::Display for LetterPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}/{}", self.partition, self.offset);
        f.pad(&text)
    }
}

impl FromStr for LetterPlace {
    type Err = PlaceError;
    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let parse = || {
            let (partition, offset) = text.split_once('/')?;
            let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
            let is_number = digits(partition) && digits(offset);
            let place = Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? };
            is_number.then_some(place)
        };
        parse().ok_or_else(|| PlaceError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_as_it_was_written_and_nothing_else_does() {
        assert_eq!("7/42".parse(), Ok(LetterPlace { partition: 7, offset: 42 }));
        assert_eq!(LetterPlace { partition: 7, offset: 42 }.to_string(), "7/42");
        for text in ["", "7", "7/", "/42", "7/42/1", "-1/2", "7/-1", "a/b", "7/+4", "4294967296/1"]
        {
            let error = text.parse::<LetterPlace>().unwrap_err();
            assert!(error.to_string().contains("PARTITION/OFFSET"), "{text}");
        }
    }
}
