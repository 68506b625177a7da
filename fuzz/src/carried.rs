//! Files that were carried by hand, as `spool import` reads them.
//!
//! Nearly every change to such a file fails at its next digest. So each input is read twice: as it is,
//! and with the digests that it would have, where it leaves them out.

use std::io::Cursor;

use picket_edge_agent::spool::{CarriedError, CarriedReader, CarriedWriter, Spooled};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Reads it; what was taken must come out the same when it is carried again.
pub fn target(input: &[u8]) {
    for file in [input, &proved(input)] {
        let (given, whole) = read(file);
        if whole.is_ok() {
            let again = written(&given);
            let (read, whole) = read(&again);
            assert!(whole.is_ok(), "what was written is refused: {whole:?}");
            assert_eq!(read, given, "what was written is not what was read");
        }
    }
}

/// The records up to the end, or to what is wrong.
fn read(file: &[u8]) -> (Vec<Spooled>, Result<(), CarriedError>) {
    let mut given = Vec::new();
    let mut reader = match CarriedReader::open(Cursor::new(file)) {
        Ok(reader) => reader,
        Err(error) => return (given, Err(error)),
    };
    loop {
        match reader.next_record() {
            Ok(Some(record)) => given.push(record),
            Ok(None) => return (given, Ok(())),
            Err(error) => return (given, Err(error)),
        }
        let bytes: u64 = given.iter().map(|record| record.value.len() as u64).sum();
        assert_eq!(reader.so_far().bytes, bytes, "the bytes so far");
        assert!(bytes <= file.len() as u64, "more came out than stands in the file");
    }
}

fn written(records: &[Spooled]) -> Vec<u8> {
    let mut writer = CarriedWriter::begin(Vec::new(), None).unwrap();
    records.iter().for_each(|record| writer.push(record).unwrap());
    writer.finish().unwrap().0
}

/// Puts the digests in, behind each line and what it announces.
fn proved(input: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let value = serde_json::from_slice::<Value>(&rest[..line]).ok();
        let value = value.and_then(|line| line.get("record")?.get("bytes")?.as_u64());
        let value =
            value.map_or(0, |bytes| usize::try_from(bytes).map_or(0, |n| n.saturating_add(1)));
        let unit = line.saturating_add(value).min(rest.len());
        file.extend_from_slice(&rest[..unit]);
        let digest: String = Sha256::digest(&file).iter().map(|b| format!("{b:02x}")).collect();
        file.extend_from_slice(digest.as_bytes());
        file.push(b'\n');
        rest = &rest[unit..];
    }
    file
}
