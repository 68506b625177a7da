//! The file that carries records by hand, from a box that no network reaches.
//!
//! # Format 1
//!
//! Units, one behind the other, each of a line of JSON, what that line announces, and a line with
//! 64 hex digits: the SHA-256 of every byte of the file before that line.
//!
//! ```text
//! {"picket-spool-export":{"version":1,"agent_version":"0.1.0","exported_at":"2026-05-05T01:00:00Z"}}
//! b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c
//! {"record":{"topic":"observations","key":"gate/north","headers":[["picket-kind","skip"],...],"bytes":161}}
//! <161 bytes, as they lay in the spool>
//! 7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730
//! ...
//! {"end":{"records":1,"bytes":161}}
//! bf07a7fbb825fc0aae7bf4a1177b2b31fcf8a3feeaf7092761e18c859ee52a9c
//! ```
//!
//! It is written front to back, so that it can go into a pipe, and read in the memory of one record.
//! Each digest vouches for all before it: a record that is altered, missing, doubled or moved shows
//! at its place, what is before that place is known to be whole, and a file without its `end` is torn.
//! `head -n -1 FILE | sha256sum` gives the last line. The digests tell damage; against somebody who
//! means it they prove nothing, since anybody can make new ones.
//!
//! Refused in its place: an SQLite file like the spool's (a torn one cannot say what of it is whole,
//! and the importing machine would run a stranger's database through its SQLite); tar (512 bytes and
//! more around observations of 500, and no digest of contents); WARC, CBOR sequences, MCAP and Avro
//! files (no end mark, or no place for a record's headers, and a library each); base64 within the
//! JSON (a third more of mostly pictures).

use std::io::{self, BufRead, Read, Write};

use jiff::Timestamp;
use picket_service::config::hex;
use picket_wire::{CameraKey, Topic};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::spooled::Spooled;

/// The format that this build writes, and the newest that it reads.
const VERSION: u32 = 1;
/// Longest line: a record's headers fit many times.
const MAX_LINE_BYTES: u64 = 256 * 1024;
/// A digest, in hex.
const DIGEST_BYTES: usize = 64;

/// The line that begins a unit.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    PicketSpoolExport(Preamble),
    Record(RecordLine),
    End(Count),
}

/// What the file says of itself; all but the version is for people.
#[derive(Debug, Serialize, Deserialize)]
struct Preamble {
    version: u32,
    agent_version: String,
    /// None if the clock was not set.
    exported_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordLine {
    topic: Topic,
    key: CameraKey,
    headers: Vec<(String, String)>,
    bytes: u64,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Records and pictures.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
}

/// Why a file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum CarriedError {
    /// The disk.
    #[error("cannot be read{}", after(*.whole))]
    Read {
        /// Records that were read whole.
        whole: u64,
        /// Why.
        source: io::Error,
    },
    /// Some other file.
    #[error("is not what `spool export` writes: it does not begin with picket-spool-export")]
    NotCarried,
    /// Written by a later program.
    #[error("has format {found}, and this program reads up to {VERSION}: use a newer one")]
    NewerFormat {
        /// Its format.
        found: u32,
    },
    /// It breaks off.
    #[error("is torn: it breaks off{}; copy it again, or export again", after(*.whole))]
    Torn {
        /// Records that are whole.
        whole: u64,
    },
    /// It is not what was written.
    #[error("is altered or damaged{}: {what}; copy it again, or export again", after(*.whole))]
    Altered {
        /// Records that are whole.
        whole: u64,
        /// What does not fit.
        what: &'static str,
    },
}

fn after(whole: u64) -> String {
    match whole {
        0 => " before its first record".to_owned(),
        1 => " after 1 whole record".to_owned(),
        n => format!(" after {n} whole records"),
    }
}

/// Writes such a file.
pub struct CarriedWriter<W> {
    out: W,
    digest: Sha256,
    count: Count,
}

impl<W: Write> CarriedWriter<W> {
    /// Begins one.
    pub fn begin(out: W, exported_at: Option<Timestamp>) -> io::Result<Self> {
        let mut this = Self { out, digest: Sha256::new(), count: Count::default() };
        let agent_version = env!("CARGO_PKG_VERSION").to_owned();
        let preamble = Preamble { version: VERSION, agent_version, exported_at };
        this.unit(&Line::PicketSpoolExport(preamble), None)?;
        Ok(this)
    }

    /// Adds a record.
    pub fn push(&mut self, record: &Spooled) -> io::Result<()> {
        let key = record.key.parse().map_err(io::Error::other)?;
        let (topic, headers) = (record.topic, record.headers.clone());
        let bytes = record.value.len() as u64;
        self.unit(&Line::Record(RecordLine { topic, key, headers, bytes }), Some(&record.value))?;
        self.count.records += 1;
        self.count.bytes += bytes;
        Ok(())
    }

    /// Ends it: only now it is whole.
    pub fn finish(mut self) -> io::Result<(W, Count)> {
        self.unit(&Line::End(self.count), None)?;
        self.out.flush()?;
        Ok((self.out, self.count))
    }

    fn unit(&mut self, line: &Line, value: Option<&[u8]>) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.write(&text)?;
        if let Some(value) = value {
            self.write(value)?;
            self.write(b"\n")?;
        }
        let digest = hex(&self.digest.clone().finalize());
        self.write(digest.as_bytes())?;
        self.write(b"\n")
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }
}

/// Reads such a file, record by record; what it gives out is proved.
pub struct CarriedReader<R> {
    from: R,
    digest: Sha256,
    count: Count,
}

impl<R: BufRead> CarriedReader<R> {
    /// Reads how it begins.
    pub fn open(from: R) -> Result<Self, CarriedError> {
        let mut this = Self { from, digest: Sha256::new(), count: Count::default() };
        let line = match this.line() {
            Err(CarriedError::Altered { .. } | CarriedError::Torn { .. }) => None,
            other => Some(other?),
        };
        let Some(Line::PicketSpoolExport(preamble)) = line else {
            return Err(CarriedError::NotCarried);
        };
        if preamble.version > VERSION {
            return Err(CarriedError::NewerFormat { found: preamble.version });
        }
        this.prove()?;
        Ok(this)
    }

    /// How much was read.
    pub fn so_far(&self) -> Count {
        self.count
    }

    /// The next record, numbered from 1; none at the end, which was proved then too.
    pub fn next_record(&mut self) -> Result<Option<Spooled>, CarriedError> {
        match self.line()? {
            Line::Record(record) => self.record(record).map(Some),
            Line::End(count) => {
                self.prove()?;
                if count != self.count {
                    return Err(self.altered("the count at its end is another"));
                }
                let mut more = [0];
                match self.from.read(&mut more) {
                    Ok(0) => Ok(None),
                    Ok(_) => Err(self.altered("something stands behind its end")),
                    Err(source) => Err(CarriedError::Read { whole: self.count.records, source }),
                }
            }
            Line::PicketSpoolExport(_) => Err(self.altered("it begins twice")),
        }
    }

    fn record(&mut self, line: RecordLine) -> Result<Spooled, CarriedError> {
        let RecordLine { topic, key, headers, bytes } = line;
        if !matches!(topic, Topic::Observations | Topic::Frames) {
            return Err(self.altered("a record is for a topic that no spool keeps"));
        }
        if bytes > u64::from(topic.max_message_bytes()) {
            return Err(self.altered("a record is longer than its topic takes"));
        }
        let mut value = Vec::new();
        self.take(bytes + 1, |from| from.read_to_end(&mut value).map(|read| read as u64))?;
        self.digest.update(&value);
        if value.len() as u64 != bytes + 1 {
            return Err(CarriedError::Torn { whole: self.count.records });
        }
        if value.pop() != Some(b'\n') {
            return Err(self.altered("a record is longer than its line says"));
        }
        self.prove()?;
        self.count.records += 1;
        self.count.bytes += bytes;
        let id = i64::try_from(self.count.records).unwrap_or(i64::MAX);
        Ok(Spooled { topic, id, key: key.to_string(), headers, value })
    }

    fn line(&mut self) -> Result<Line, CarriedError> {
        let line = self.text(MAX_LINE_BYTES)?;
        self.digest.update(&line);
        serde_json::from_slice(&line).map_err(|_| self.altered("a line is not one of its kind"))
    }

    /// Compares with the digest that stands here.
    fn prove(&mut self) -> Result<(), CarriedError> {
        let expected = hex(&self.digest.clone().finalize());
        let line = self.text(DIGEST_BYTES as u64 + 1)?;
        self.digest.update(&line);
        if line.strip_suffix(b"\n") != Some(expected.as_bytes()) {
            return Err(self.altered("a digest does not fit what is before it"));
        }
        Ok(())
    }

    /// A line with its end.
    fn text(&mut self, limit: u64) -> Result<Vec<u8>, CarriedError> {
        let mut line = Vec::new();
        self.take(limit, |from| from.read_until(b'\n', &mut line).map(|read| read as u64))?;
        match line.last() {
            Some(b'\n') => Ok(line),
            _ if line.len() as u64 == limit => Err(self.altered("a line has no end")),
            _ => Err(CarriedError::Torn { whole: self.count.records }),
        }
    }

    fn take(
        &mut self,
        limit: u64,
        read: impl FnOnce(&mut io::Take<&mut R>) -> io::Result<u64>,
    ) -> Result<u64, CarriedError> {
        let whole = self.count.records;
        read(&mut (&mut self.from).take(limit))
            .map_err(|source| CarriedError::Read { whole, source })
    }

    fn altered(&self, what: &'static str) -> CarriedError {
        CarriedError::Altered { whole: self.count.records, what }
    }
}

impl<R: BufRead> Iterator for CarriedReader<R> {
    type Item = Result<Spooled, CarriedError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Spooled> {
        let record = |(id, value): (i64, &[u8])| {
            let topic = if id == 2 { Topic::Frames } else { Topic::Observations };
            let headers = vec![("picket-id".to_owned(), format!("gate/north/1-0a1b2c3d/{id}"))];
            Spooled { topic, id, key: "gate/north".to_owned(), headers, value: value.to_vec() }
        };
        let values: [(i64, &[u8]); 3] =
            [(1, b"{\"a\":1}"), (2, &[0xff, 0xd8, b'\n', 0, 0xff]), (3, b"")];
        values.map(record).to_vec()
    }

    fn written() -> Vec<u8> {
        let mut writer = CarriedWriter::begin(Vec::new(), None).unwrap();
        records().iter().for_each(|record| writer.push(record).unwrap());
        writer.finish().unwrap().0
    }

    fn read(bytes: &[u8]) -> Result<Vec<Spooled>, CarriedError> {
        CarriedReader::open(bytes)?.collect()
    }

    #[test]
    fn what_was_written_is_read_byte_for_byte_and_any_tool_can_check_it() {
        let bytes = written();
        assert_eq!(read(&bytes).unwrap(), records());
        let before = bytes.len() - DIGEST_BYTES - 1;
        let digest = hex(&Sha256::digest(&bytes[..before]));
        assert_eq!(&bytes[before..bytes.len() - 1], digest.as_bytes());
    }

    #[test]
    fn a_file_cut_at_any_byte_is_torn_and_says_how_much_is_whole() {
        let bytes = written();
        let mut most_whole = 0;
        for cut in 0..bytes.len() {
            match read(&bytes[..cut]) {
                Err(CarriedError::Torn { whole }) => most_whole = most_whole.max(whole),
                Err(CarriedError::NotCarried) if most_whole == 0 => {}
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
        assert_eq!(most_whole, 3);
    }

    #[test]
    fn a_byte_changed_anywhere_is_noticed_and_no_record_behind_it_is_given_out() {
        let bytes = written();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let Ok(mut reader) = CarriedReader::open(changed.as_slice()) else { continue };
            let mut given = Vec::new();
            let error = loop {
                match reader.next_record() {
                    Ok(Some(record)) => given.push(record),
                    Ok(None) => panic!("a change at {at} went unnoticed"),
                    Err(error) => break error,
                }
            };
            assert_eq!(given, records()[..given.len()], "{at}: {error}");
        }
    }

    #[test]
    fn a_record_taken_out_or_doubled_is_noticed() {
        let bytes = written();
        let text = |needle: &[u8]| bytes.windows(needle.len()).position(|w| w == needle).unwrap();
        let second = text(b"{\"record\":{\"topic\":\"frames\"");
        let first = text(b"{\"record\":{\"topic\":\"observations\"");
        let without = [&bytes[..first], &bytes[second..]].concat();
        let twice = [&bytes[..second], &bytes[first..]].concat();
        for wrong in [without, twice] {
            assert!(matches!(read(&wrong), Err(CarriedError::Altered { .. })));
        }
        let longer = [&bytes[..], b"\n"].concat();
        let error = read(&longer).unwrap_err().to_string();
        assert!(
            error.contains("after 3 whole records") && error.contains("behind its end"),
            "{error}"
        );
    }

    #[test]
    fn another_file_and_a_newer_format_are_told_apart() {
        for other in [&b""[..], b"SQLite format 3\0", b"{\"record\":1}\n", &[0xff; 300_000]] {
            assert!(matches!(read(other), Err(CarriedError::NotCarried)));
        }
        let text = String::from_utf8_lossy(&written()).replace("\"version\":1", "\"version\":2");
        let error = read(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("format 2"), "{error}");
    }
}
