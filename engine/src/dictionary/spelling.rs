//! How an id is spelt in memory and on disk: integers as integers, hexadecimal text as its
//! bytes, other text as it is. Each id has exactly one spelling, so equal spellings mean equal ids.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::UserKey;

/// Longest packed form: 64 hexadecimal digits (a SHA-256) are 32 bytes.
const MAX_PACKED_BYTES: usize = 32;
/// Longest text that a packed form unfolds to.
const MAX_UNPACKED_BYTES: usize = 2 * MAX_PACKED_BYTES;
const UUID_BYTES: usize = 16;
const UUID_TEXT_BYTES: usize = 36;
const UUID_HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// Which form a spelling has; the numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Form {
    /// A 64-bit integer.
    Int = 0,
    /// UTF-8 text.
    Text = 1,
    /// A lower-case UUID with hyphens: 16 bytes.
    Uuid = 2,
    /// An even number of lower-case hexadecimal digits: half as many bytes.
    Hex = 3,
    /// The id was erased; its ordinal stays taken.
    Erased = 4,
}

impl Form {
    pub(super) fn from_stored(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Int,
            1 => Self::Text,
            2 => Self::Uuid,
            3 => Self::Hex,
            4 => Self::Erased,
            _ => return None,
        })
    }
}

/// An id as it is stored, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling<'a> {
    Int(i64),
    /// Text, UUID or hexadecimal: the form and its bytes.
    Bytes(Form, &'a [u8]),
    Erased,
}

impl Spelling<'_> {
    /// The keyed hash that finds an id; pinned by what is stored.
    pub(super) fn hash(&self, seed: u64) -> u64 {
        match self {
            Self::Int(number) => xxh3_64_with_seed(&number.to_le_bytes(), seed),
            Self::Bytes(_, bytes) => xxh3_64_with_seed(bytes, seed),
            Self::Erased => 0,
        }
    }

    /// Calls `then` with the id, or with `None` where it was erased.
    ///
    /// # Errors
    /// What is wrong with the bytes, where no id is spelt so.
    pub(super) fn with_key<R>(
        self,
        then: impl FnOnce(Option<UserKey<'_>>) -> R,
    ) -> Result<R, &'static str> {
        let mut scratch = [0; MAX_UNPACKED_BYTES];
        let text = match self {
            Self::Erased => return Ok(then(None)),
            Self::Int(number) => return Ok(then(Some(UserKey::Int(number)))),
            Self::Bytes(Form::Uuid, bytes) => {
                unpack_uuid(bytes, &mut scratch).ok_or("a UUID has a wrong length")?
            }
            Self::Bytes(Form::Hex, bytes) => {
                unpack_hex(bytes, &mut scratch).ok_or("a hexadecimal id has a wrong length")?
            }
            Self::Bytes(_, bytes) => bytes,
        };
        let text = std::str::from_utf8(text).map_err(|_| "a user id is not UTF-8")?;
        Ok(then(Some(UserKey::Text(text))))
    }
}

/// The spelling of a [`UserKey`], with the packed bytes that it may need.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeySpelling<'k> {
    Int(i64),
    Text(&'k str),
    Packed {
        form: Form,
        len: u8,
        bytes: [u8; MAX_PACKED_BYTES],
    },
}

impl<'k> KeySpelling<'k> {
    pub(super) fn new(key: UserKey<'k>) -> Self {
        // A caller may have built `Text` by hand from digits; those are the integer too.
        let text = match key {
            UserKey::Int(number) => return Self::Int(number),
            UserKey::Text(text) => match UserKey::from_text(text) {
                UserKey::Int(number) => return Self::Int(number),
                UserKey::Text(text) => text,
            },
        };
        let mut bytes = [0; MAX_PACKED_BYTES];
        if pack_uuid(text.as_bytes(), &mut bytes).is_some() {
            return Self::Packed {
                form: Form::Uuid,
                len: UUID_BYTES as u8,
                bytes,
            };
        }
        match pack_hex(text.as_bytes(), &mut bytes) {
            Some(len) => Self::Packed {
                form: Form::Hex,
                len: len as u8,
                bytes,
            },
            None => Self::Text(text),
        }
    }

    pub(super) fn spelling(&self) -> Spelling<'_> {
        match self {
            Self::Int(number) => Spelling::Int(*number),
            Self::Text(text) => Spelling::Bytes(Form::Text, text.as_bytes()),
            Self::Packed { form, len, bytes } => Spelling::Bytes(*form, &bytes[..*len as usize]),
        }
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// Packs lower-case hexadecimal digits; the number of bytes, or `None` for any other text.
fn pack_hex(text: &[u8], out: &mut [u8; MAX_PACKED_BYTES]) -> Option<usize> {
    if text.is_empty() || !text.len().is_multiple_of(2) || text.len() > MAX_UNPACKED_BYTES {
        return None;
    }
    for (pair, byte) in text.chunks_exact(2).zip(out.iter_mut()) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(text.len() / 2)
}

fn pack_uuid(text: &[u8], out: &mut [u8; MAX_PACKED_BYTES]) -> Option<()> {
    if text.len() != UUID_TEXT_BYTES || UUID_HYPHENS.iter().any(|&at| text[at] != b'-') {
        return None;
    }
    let mut digits = [0; 2 * UUID_BYTES];
    let mut filled = 0;
    for (at, &byte) in text.iter().enumerate() {
        if !UUID_HYPHENS.contains(&at) {
            digits[filled] = byte;
            filled += 1;
        }
    }
    pack_hex(&digits, out).map(|_| ())
}

fn unpack_hex<'s>(bytes: &[u8], out: &'s mut [u8; MAX_UNPACKED_BYTES]) -> Option<&'s [u8]> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if bytes.is_empty() || bytes.len() > MAX_PACKED_BYTES {
        return None;
    }
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    Some(&out[..bytes.len() * 2])
}

fn unpack_uuid<'s>(bytes: &[u8], out: &'s mut [u8; MAX_UNPACKED_BYTES]) -> Option<&'s [u8]> {
    if bytes.len() != UUID_BYTES {
        return None;
    }
    let mut digits = [0; MAX_UNPACKED_BYTES];
    let mut next = unpack_hex(bytes, &mut digits)?.iter();
    for (at, byte) in out[..UUID_TEXT_BYTES].iter_mut().enumerate() {
        *byte = if UUID_HYPHENS.contains(&at) {
            b'-'
        } else {
            *next.next()?
        };
    }
    Some(&out[..UUID_TEXT_BYTES])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form_and_text(text: &str) -> (Form, String) {
        let held = KeySpelling::new(UserKey::Text(text));
        let form = match held.spelling() {
            Spelling::Int(_) => Form::Int,
            Spelling::Bytes(form, _) => form,
            Spelling::Erased => Form::Erased,
        };
        let back = held
            .spelling()
            .with_key(|key| key.map(|key| key.text().into_owned()));
        (form, back.unwrap().unwrap())
    }

    #[test]
    fn each_kind_of_id_takes_its_form() {
        let uuid = "0123abcd-4567-89ef-0123-456789abcdef";
        for (text, form) in [
            ("42", Form::Int),
            ("-9223372036854775808", Form::Int),
            ("042", Form::Text),
            ("0042", Form::Hex),
            ("ab", Form::Hex),
            ("AB", Form::Text),
            ("abc", Form::Text),
            ("507f1f77bcf86cd799439011", Form::Hex),
            (uuid, Form::Uuid),
            ("0123ABCD-4567-89ef-0123-456789abcdef", Form::Text),
            ("0123abcd-4567-89ef-0123_456789abcdef", Form::Text),
            ("ä", Form::Text),
        ] {
            assert_eq!(form_and_text(text), (form, text.to_owned()));
        }
        assert_eq!(form_and_text(&"a".repeat(64)).0, Form::Hex);
        assert_eq!(form_and_text(&"a".repeat(66)).0, Form::Text);
    }

    /// What is stored must be found again for ever, so these may never change.
    #[test]
    fn hashes_are_pinned() {
        assert_eq!(
            Spelling::Int(1).hash(7),
            xxh3_64_with_seed(&[1, 0, 0, 0, 0, 0, 0, 0], 7)
        );
        assert_eq!(
            Spelling::Bytes(Form::Text, b"user").hash(7),
            13_926_863_920_855_134_953
        );
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in "[0-9a-f]{1,70}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\\PC{1,60}") {
            prop_assert_eq!(form_and_text(&text).1, text);
        }
    }
}
