//! What a person, or a program, is shown of letters. They come from outside: nothing in them may move
//! a terminal's cursor.

use std::io::{self, Write};

use jiff::Timestamp;
use picket_aggregator::consume::letters::{Cut, Letter, Standing};
use serde::Serialize;

/// Most bytes of a value that is no JSON that are shown.
const HEAD_BYTES: usize = 256;
const BYTES_A_LINE: usize = 16;

/// A letter without its bytes.
#[derive(Serialize)]
pub struct Line {
    /// PARTITION/OFFSET.
    place: String,
    partition: i32,
    offset: i64,
    /// When it was put aside, by the broker.
    at: Option<Timestamp>,
    from_topic: Option<String>,
    from_partition: Option<i32>,
    from_offset: Option<i64>,
    /// As text; bytes that are none as `0x` and hex.
    key: Option<String>,
    reason: String,
    detail: String,
    /// `open`, `retrying`, `retried`, `stored`, `dropped`.
    state: &'static str,
    value_bytes: usize,
}

impl Line {
    /// Of a letter.
    pub fn of(letter: &Letter, standing: Standing) -> Self {
        let from = letter.from.clone();
        Self {
            place: letter.place.to_string(),
            partition: letter.place.partition,
            offset: letter.place.offset,
            at: Timestamp::from_millisecond(letter.record.broker_time_ms).ok(),
            from_partition: from.as_ref().map(|from| from.partition),
            from_offset: from.as_ref().map(|from| from.offset),
            from_topic: from.map(|from| from.topic),
            key: letter.record.key.as_deref().map(text_or_hex),
            reason: letter.reason.clone(),
            detail: letter.detail.clone(),
            state: standing.as_str(),
            value_bytes: letter.record.body().len(),
        }
    }

    /// As a line of text, or of JSON.
    pub fn print(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            return writeln!(out);
        }
        let at = self.at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        let from = match (&self.from_topic, self.from_partition, self.from_offset) {
            (Some(topic), Some(partition), Some(offset)) => {
                format!("{}/{partition}/{offset}", plain(topic))
            }
            _ => "-".to_owned(),
        };
        let key = self.key.as_deref().map_or("-".to_owned(), plain);
        let (reason, detail) = (plain(&self.reason), plain(&self.detail));
        writeln!(
            out,
            "{:<9} {at:<24} {:<8} {reason:<17} {key:<24} {from:<28} {detail}",
            self.place, self.state
        )
    }
}

/// Shows a letter whole.
pub fn show(letter: &Letter, standing: Standing) -> io::Result<()> {
    let line = Line::of(letter, standing);
    let mut out = io::stdout().lock();
    let at = line.at.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let from = letter.from.as_ref();
    let from =
        from.map(|from| format!("{}/{}/{}", plain(&from.topic), from.partition, from.offset));
    for (name, value) in [
        ("letter", line.place),
        ("put aside at", at),
        ("state", standing.as_str().to_owned()),
        ("from", from.unwrap_or_else(|| "it does not say".to_owned())),
        ("reason", plain(&letter.reason)),
        ("detail", plain(&letter.detail)),
        ("message", letter.id.clone()),
        ("key", line.key.map_or_else(|| "none".to_owned(), |key| plain(&key))),
    ] {
        writeln!(out, "{:<14}{value}", format!("{name}:"))?;
    }
    if let Some(cut) = &letter.cut {
        let Cut { value_bytes, value_sha256 } = cut;
        writeln!(
            out,
            "cut:          it was too long to be put aside whole, and cannot be put back; the value had \
             {value_bytes} bytes with the SHA-256 {}, and headers and key may be cut too",
            plain(value_sha256)
        )?;
    }
    writeln!(out, "headers:")?;
    for (name, value) in &letter.record.headers {
        writeln!(out, "  {}: {}", plain(name), plain(&text_or_hex(value)))?;
    }
    let body = letter.record.body();
    let none = if letter.record.value.is_none() { ", there is none" } else { "" };
    writeln!(out, "value ({} bytes{none}):", body.len())?;
    value(&mut out, body)
}

/// JSON set out for reading, or else the first bytes.
fn value(out: &mut impl Write, body: &[u8]) -> io::Result<()> {
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) {
        serde_json::to_writer_pretty(&mut *out, &json)?;
        return writeln!(out);
    }
    for (row, bytes) in body[..body.len().min(HEAD_BYTES)].chunks(BYTES_A_LINE).enumerate() {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String = bytes
            .iter()
            .map(
                |byte| {
                    if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }
                },
            )
            .collect();
        writeln!(out, "  {:04x}  {:<47}  {text}", row * BYTES_A_LINE, hex.join(" "))?;
    }
    if body.len() > HEAD_BYTES {
        writeln!(out, "  ... {} more; --value FILE writes them all", body.len() - HEAD_BYTES)?;
    }
    Ok(())
}

fn text_or_hex(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("0x{hex}")
        }
    }
}

/// On one line, and without anything that a terminal would act upon.
fn plain(text: &str) -> String {
    let is_safe = |c: char| !c.is_control();
    text.chars()
        .map(|c| if is_safe(c) { c.to_string() } else { c.escape_default().to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(body: &[u8]) -> String {
        let mut out = Vec::new();
        value(&mut out, body).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_set_out_and_other_bytes_are_shown_as_hex_up_to_a_bound() {
        assert_eq!(shown(br#"{"a":[1]}"#), "{\n  \"a\": [\n    1\n  ]\n}\n");
        assert!(shown(&[0xff, 0xd8, b'a']).starts_with("  0000  ff d8 61 "), "{}", shown(b"\xff"));
        let long = shown(&[0; HEAD_BYTES + 44]);
        assert_eq!(long.lines().count(), HEAD_BYTES / BYTES_A_LINE + 1);
        assert!(long.ends_with("... 44 more; --value FILE writes them all\n"), "{long}");
        assert_eq!(shown(b""), "");
    }

    #[test]
    fn what_comes_from_outside_cannot_write_on_a_terminal() {
        assert_eq!(plain("a\u{1b}[2J\nb"), "a\\u{1b}[2J\\nb");
        assert_eq!(text_or_hex(&[0xff, 0x00]), "0xff00");
        assert_eq!(text_or_hex("ä".as_bytes()), "ä");
    }
}
