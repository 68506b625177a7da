//! Encrypting and decrypting, without any file.

use std::borrow::Cow;
use std::cell::Cell;

use picket_wire::Topic;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::error::KeyError;
use crate::spool::record::{Row, RowId};
use crate::spool::worth::Worth;

/// Names a batch key: no row that it encrypts has a lower number.
pub type KeyNumber = RowId;

/// Bytes of every key here.
pub const KEY_BYTES: usize = 32;

/// It does not open: another key, or other bytes than were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cipher refuses it")]
pub struct CipherError;

/// A key of ChaCha20-Poly1305. What it makes is nonce, ciphertext, tag.
pub struct Key(LessSafeKey);

impl Key {
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Result<Self, CipherError> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).map_err(|_| CipherError)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// No two calls on one key may have the same nonce.
    pub fn encrypt(
        &self,
        nonce: [u8; NONCE_LEN],
        bound_to: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, CipherError> {
        let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + CHACHA20_POLY1305.tag_len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let (_, text) = sealed.split_at_mut(NONCE_LEN);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(bound_to), text);
        sealed.extend_from_slice(tag.map_err(|_| CipherError)?.as_ref());
        Ok(sealed)
    }

    pub fn decrypt(&self, bound_to: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CipherError> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(CipherError)?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.0.open_in_place(nonce, Aad::from(bound_to), &mut text);
        let bytes = plain.map_err(|_| CipherError)?.len();
        text.truncate(bytes);
        Ok(text)
    }
}

/// What the value of a row is bound to. The headers hold the record's id and kind, and reach to the end,
/// so that no two rows give the same bytes.
pub fn bound_to(topic: Topic, key: &str, headers: &str) -> Vec<u8> {
    let key_bytes = (key.len() as u64).to_le_bytes();
    [b"picket spool value 1\0", topic.suffix().as_bytes(), b"\0", &key_bytes, key.as_bytes()]
        .into_iter()
        .chain([headers.as_bytes()])
        .flatten()
        .copied()
        .collect()
}

/// The key that is in use: made in this run, and never read from a file.
pub struct InUse {
    pub number: KeyNumber,
    key: Key,
    /// Values that it has encrypted: the next nonce.
    count: Cell<u64>,
}

impl InUse {
    pub fn new(number: KeyNumber, key: Key) -> Self {
        Self { number, key, count: Cell::new(0) }
    }

    fn encrypt(&self, bound_to: &[u8], plain: &[u8]) -> Result<Vec<u8>, CipherError> {
        let count = self.count.get();
        self.count.set(count.checked_add(1).ok_or(CipherError)?);
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&count.to_be_bytes());
        self.key.encrypt(nonce, bound_to, plain)
    }
}

/// A value as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<'a> {
    pub value: Cow<'a, [u8]>,
    /// What it is encrypted by, if it is.
    pub batch_key: Option<KeyNumber>,
}

impl<'a> Stored<'a> {
    /// In the clear.
    pub fn plain(value: &'a [u8]) -> Self {
        Self { value: Cow::Borrowed(value), batch_key: None }
    }
}

/// How the writer writes values.
#[derive(Clone, Copy)]
pub enum Cipher<'a> {
    /// Without encryption.
    None,
    /// With encryption, before the first key of it was needed.
    NoKeyYet,
    /// With this key.
    With(&'a InUse),
}

impl Cipher<'_> {
    /// The value of a row as it is to be written. What the centre's accounts stand on stays readable
    /// whatever becomes of the keys.
    pub fn stored<'r>(&self, row: &'r Row) -> Result<Stored<'r>, KeyError> {
        let key = match self {
            Self::None => return Ok(Stored::plain(&row.value)),
            _ if Worth::of(row.kind.as_str()).is_none() => return Ok(Stored::plain(&row.value)),
            Self::NoKeyYet => return Err(KeyError::NoneInUse),
            Self::With(key) => key,
        };
        let bound_to = bound_to(row.topic, &row.key.to_string(), &row.headers);
        let value = key.encrypt(&bound_to, &row.value).map_err(KeyError::Encrypt)?;
        Ok(Stored { value: Cow::Owned(value), batch_key: Some(key.number) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use picket_wire::observation::{ClockState, GapOf, Reason, Stamp};
    use picket_wire::{ObservationId, Picture};

    use super::*;
    use crate::spool::record::Dropped;

    const STAMP: Stamp = Stamp { mono_us: 5, captured_at: None, clock: ClockState::Unset };

    fn key(byte: u8) -> Key {
        Key::new(&[byte; KEY_BYTES]).unwrap()
    }

    fn id(seq: u64) -> ObservationId {
        format!("gate/north/1-0a1b2c3d/{seq}").parse().unwrap()
    }

    fn picture(seq: u64) -> Row {
        let jpeg = b"\xff\xd8\xff\xe0 a face".to_vec();
        let (id, redacted) = (id(seq), "none".to_owned());
        Row::of_picture(Picture {
            id,
            crop: None,
            stamp: STAMP,
            width: 64,
            height: 32,
            redacted,
            jpeg,
        })
    }

    fn bound(row: &Row) -> Vec<u8> {
        bound_to(row.topic, &row.key.to_string(), &row.headers)
    }

    /// The vector of RFC 8439, 2.8.2: that it is the cipher that it is said to be, and not only one
    /// that opens what it closed.
    #[test]
    fn it_is_chacha20_poly1305_as_the_standard_has_it() {
        let key: Vec<u8> = (0x80..0xa0).collect();
        let key = Key::new(key.as_slice().try_into().unwrap()).unwrap();
        let nonce = [7, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];
        let bound_to = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let plain =
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
                      the future, sunscreen would be it.";
        let sealed = key.encrypt(nonce, &bound_to, plain).unwrap();
        assert_eq!(sealed[12..20], [0xd3, 0x1a, 0x8d, 0x34, 0x64, 0x8e, 0x60, 0xdb]);
        let tag = [
            0x1a, 0xe1, 0x0b, 0x59, 0x4f, 0x09, 0xe2, 0x6a, 0x7e, 0x90, 0x2e, 0xcb, 0xd0, 0x60,
            0x06, 0x91,
        ];
        assert_eq!(sealed[sealed.len() - 16..], tag);
        assert_eq!(key.decrypt(&bound_to, &sealed).unwrap(), plain);
    }

    #[test]
    fn a_value_opens_with_its_key_in_its_row_whole_and_in_no_other_way() {
        let (row, other) = (picture(7), picture(8));
        let in_use = InUse::new(1, key(1));
        let Stored { value, batch_key } = Cipher::With(&in_use).stored(&row).unwrap();
        assert_eq!(batch_key, Some(1));
        assert!(!value.windows(6).any(|bytes| bytes == b"a face"));
        assert_eq!(key(1).decrypt(&bound(&row), &value).as_ref(), Ok(&row.value));
        assert_eq!(key(2).decrypt(&bound(&row), &value), Err(CipherError));
        assert_eq!(key(1).decrypt(&bound(&other), &value), Err(CipherError), "another row's");
        for length in 0..value.len() {
            assert_eq!(key(1).decrypt(&bound(&row), &value[..length]), Err(CipherError));
        }
        for bit in 0..value.len() * 8 {
            let mut flipped = value.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key(1).decrypt(&bound(&row), &flipped), Err(CipherError), "bit {bit}");
        }
    }

    #[test]
    fn what_a_value_is_bound_to_cannot_be_cut_in_another_place() {
        let (key, headers) = ("gate/north", "[[\"a\",\"b\"]]");
        let topic = Topic::Frames;
        let it = bound_to(topic, key, headers);
        assert_ne!(it, bound_to(topic, "gate/nort", &format!("h{headers}")));
        assert_ne!(it, bound_to(Topic::Observations, key, headers));
        assert_ne!(it, bound_to(topic, key, "[]"));
    }

    #[test]
    fn no_nonce_is_used_twice_under_one_key_also_for_the_same_row() {
        let (row, in_use) = (picture(7), InUse::new(1, key(1)));
        let nonces: BTreeSet<_> = (0..1000)
            .map(|_| Cipher::With(&in_use).stored(&row).unwrap().value[..NONCE_LEN].to_vec())
            .collect();
        assert_eq!(nonces.len(), 1000);
    }

    #[test]
    fn what_the_centres_accounts_stand_on_is_written_in_the_clear() {
        let gap = Dropped::picture(id(7), Reason::SPOOL_FULL.into(), STAMP);
        assert_eq!(gap.of, GapOf::Frames);
        let gap = gap.gap_row().unwrap();
        let in_use = InUse::new(1, key(1));
        for cipher in [Cipher::None, Cipher::NoKeyYet, Cipher::With(&in_use)] {
            assert_eq!(cipher.stored(&gap).unwrap(), Stored::plain(&gap.value));
        }
    }

    #[test]
    fn nothing_is_written_in_the_clear_for_want_of_a_key() {
        let row = picture(7);
        assert_eq!(Cipher::None.stored(&row).unwrap(), Stored::plain(&row.value));
        assert!(matches!(Cipher::NoKeyYet.stored(&row), Err(KeyError::NoneInUse)));
    }
}
