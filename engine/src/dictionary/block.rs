//! One block of ids in ordinal order: bytes of a run file, encoded and read with O(1) access.
//!
//! ```text
//! integers: u8 0 | u8 bits | 6 zero bytes | i64 base | ceil(count * bits / 64) words
//! mixed:    u8 1 | u8 form, 255 = one for each id | u16 width, 0 = ends | u32 payload length
//!           | forms, count x u8 | ends, count x u16 | payload
//! ```

use super::spelling::{Form, Spelling};

/// Ids in a block: few enough that the first touch verifies only some kilobytes.
pub(super) const BLOCK_IDS: usize = 128;

const INTEGERS: u8 = 0;
const MIXED: u8 = 1;
const EACH_ITS_FORM: u8 = 255;
const INTEGERS_HEAD: usize = 16;
const MIXED_HEAD: usize = 8;

const _: () = assert!(BLOCK_IDS * crate::limits::MAX_NAME_BYTES <= u16::MAX as usize);

/// Gathers up to [`BLOCK_IDS`] ids.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    forms: Vec<u8>,
    integers: Vec<i64>,
    ends: Vec<u16>,
    payload: Vec<u8>,
}

impl BlockBuilder {
    pub(super) fn len(&self) -> usize {
        self.forms.len()
    }

    pub(super) fn push(&mut self, id: Spelling<'_>) {
        assert!(self.len() < BLOCK_IDS, "a block takes {BLOCK_IDS} ids");
        let form = match id {
            Spelling::Int(number) => {
                self.integers.push(number);
                self.payload
                    .extend_from_slice(shortest(&number.to_le_bytes()));
                Form::Int
            }
            Spelling::Bytes(form, bytes) => {
                self.payload.extend_from_slice(bytes);
                form
            }
            Spelling::Erased => Form::Erased,
        };
        self.forms.push(form as u8);
        self.ends.push(self.payload.len() as u16);
    }

    /// The block's bytes; the builder is empty afterwards.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let block = if self.integers.len() == self.len() {
            integers(&self.integers)
        } else {
            self.mixed()
        };
        self.forms.clear();
        self.integers.clear();
        self.ends.clear();
        self.payload.clear();
        block
    }

    fn mixed(&self) -> Vec<u8> {
        let form = match self.forms.first() {
            Some(&first) if self.forms.iter().all(|&form| form == first) => first,
            _ => EACH_ITS_FORM,
        };
        let width = self.ends.first().copied().unwrap_or(0);
        let even = (1u32..)
            .zip(&self.ends)
            .all(|(ids, &end)| ids * u32::from(width) == u32::from(end));
        let width = if even { width } else { 0 };
        let mut block = vec![MIXED, form];
        block.extend_from_slice(&width.to_le_bytes());
        block.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        if form == EACH_ITS_FORM {
            block.extend_from_slice(&self.forms);
        }
        if width == 0 {
            self.ends
                .iter()
                .for_each(|end| block.extend_from_slice(&end.to_le_bytes()));
        }
        block.extend_from_slice(&self.payload);
        block
    }
}

/// Little-endian two's complement without the bytes that sign extension restores; at least one.
fn shortest(bytes: &[u8; 8]) -> &[u8] {
    let fill = if bytes[7] & 0x80 == 0 { 0 } else { 0xff };
    let mut len = 8;
    while len > 1 && bytes[len - 1] == fill && (bytes[len - 2] ^ fill) & 0x80 == 0 {
        len -= 1;
    }
    &bytes[..len]
}

fn extend_sign(bytes: &[u8]) -> Option<i64> {
    let fill = if bytes.last()? & 0x80 == 0 { 0 } else { 0xff };
    let mut whole = [fill; 8];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(whole))
}

fn integers(ids: &[i64]) -> Vec<u8> {
    let base = ids.iter().copied().min().unwrap_or(0);
    let spread = |id: i64| id.wrapping_sub(base) as u64;
    let widest = ids.iter().map(|&id| spread(id)).max().unwrap_or(0);
    let bits = 64 - widest.leading_zeros() as usize;
    let mut words = vec![0u64; (ids.len() * bits).div_ceil(64)];
    if bits > 0 {
        for (index, &id) in ids.iter().enumerate() {
            let (word, shift) = (index * bits / 64, index * bits % 64);
            words[word] |= spread(id) << shift;
            if shift + bits > 64 {
                words[word + 1] |= spread(id) >> (64 - shift);
            }
        }
    }
    let mut block = vec![INTEGERS, bits as u8, 0, 0, 0, 0, 0, 0];
    block.extend_from_slice(&base.to_le_bytes());
    block.extend_from_slice(bytemuck::cast_slice(&words));
    block
}

fn fixed<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The id at `index` of a block of `count` ids.
///
/// # Errors
/// What is wrong, where the bytes are no such block.
pub(super) fn id_at(
    block: &[u8],
    count: usize,
    index: usize,
) -> Result<Spelling<'_>, &'static str> {
    debug_assert!(index < count);
    match block.first() {
        Some(&INTEGERS) => integer_at(block, count, index)
            .map(Spelling::Int)
            .ok_or("a block of integer ids has a wrong length"),
        Some(&MIXED) => mixed_at(block, count, index).ok_or("a block of ids is inconsistent"),
        _ => Err("a block of ids is of no known kind"),
    }
}

#[inline]
fn integer_at(block: &[u8], count: usize, index: usize) -> Option<i64> {
    let bits = usize::from(*block.get(1)?);
    let base = i64::from_le_bytes(fixed(block, 8)?);
    if bits > 64 || block.len() != INTEGERS_HEAD + (count * bits).div_ceil(64) * 8 {
        return None;
    }
    if bits == 0 {
        return Some(base);
    }
    let (at, shift) = (INTEGERS_HEAD + index * bits / 64 * 8, index * bits % 64);
    let mut spread = u64::from_le_bytes(fixed(block, at)?) >> shift;
    if shift + bits > 64 {
        spread |= u64::from_le_bytes(fixed(block, at + 8)?) << (64 - shift);
    }
    Some(base.wrapping_add((spread & (u64::MAX >> (64 - bits))) as i64))
}

fn mixed_at(block: &[u8], count: usize, index: usize) -> Option<Spelling<'_>> {
    let form = *block.get(1)?;
    let width = usize::from(u16::from_le_bytes(fixed(block, 2)?));
    let payload_len = u32::from_le_bytes(fixed(block, 4)?) as usize;
    let forms_len = if form == EACH_ITS_FORM { count } else { 0 };
    let ends_len = if width == 0 { 2 * count } else { 0 };
    let ends_at = MIXED_HEAD + forms_len;
    let payload = block.get(ends_at + ends_len..)?;
    if payload.len() != payload_len {
        return None;
    }
    let form = if form == EACH_ITS_FORM {
        *block.get(MIXED_HEAD + index)?
    } else {
        form
    };
    let (start, end) = if width == 0 {
        let end_of = |index: usize| fixed(block, ends_at + 2 * index).map(u16::from_le_bytes);
        let start = if index == 0 { 0 } else { end_of(index - 1)? };
        (usize::from(start), usize::from(end_of(index)?))
    } else {
        (index * width, (index + 1) * width)
    };
    let bytes = payload.get(start..end)?;
    match Form::from_stored(form)? {
        Form::Int => extend_sign(bytes).map(Spelling::Int),
        Form::Erased => bytes.is_empty().then_some(Spelling::Erased),
        form => (!bytes.is_empty()).then_some(Spelling::Bytes(form, bytes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dictionary::spelling::KeySpelling;
    use crate::ids::UserKey;

    fn block_of(ids: &[Option<String>]) -> Vec<u8> {
        let mut builder = BlockBuilder::default();
        for id in ids {
            match id {
                Some(text) => builder.push(KeySpelling::new(UserKey::from_text(text)).spelling()),
                None => builder.push(Spelling::Erased),
            }
        }
        builder.finish()
    }

    fn read(block: &[u8], count: usize) -> Result<Vec<Option<String>>, &'static str> {
        let text = |key: Option<UserKey<'_>>| key.map(|key| key.text().into_owned());
        (0..count)
            .map(|index| id_at(block, count, index)?.with_key(text))
            .collect()
    }

    #[test]
    fn integers_of_every_width_read_back() {
        for bits in 0..=62 {
            let ids: Vec<_> = [0, 1, (1i64 << bits) - 1, -(1i64 << bits)]
                .into_iter()
                .cycle()
                .take(127)
                .chain([i64::MIN + bits])
                .map(|id| Some(id.to_string()))
                .collect();
            assert_eq!(read(&block_of(&ids), ids.len()).unwrap(), ids);
            assert_eq!(read(&block_of(&ids[..127]), 127).unwrap(), ids[..127]);
        }
    }

    #[test]
    fn dense_integers_take_a_byte_each() {
        let ids: Vec<_> = (0..128)
            .map(|id| Some((1i64 << 40 | id).to_string()))
            .collect();
        assert_eq!(block_of(&ids).len(), INTEGERS_HEAD + 128 * 7 / 8);
    }

    #[test]
    fn the_longest_ids_fit() {
        let ids = vec![Some("é".repeat(127) + "x"); BLOCK_IDS];
        assert_eq!(read(&block_of(&ids), BLOCK_IDS).unwrap(), ids);
    }

    fn id() -> impl Strategy<Value = Option<String>> {
        prop_oneof![
            any::<i64>().prop_map(|id| Some(id.to_string())),
            (-300i64..300).prop_map(|id| Some(id.to_string())),
            "[a-z0-9]{1,9}|[0-9a-f]{24}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}".prop_map(Some),
            Just(None),
        ]
    }

    proptest! {
        #[test]
        fn mixed_ids_read_back(ids in prop::collection::vec(id(), 1..=BLOCK_IDS)) {
            prop_assert_eq!(read(&block_of(&ids), ids.len()).unwrap(), ids);
        }

        /// Bytes whose checksum a forger made fit must still not panic.
        #[test]
        fn any_bytes_read_as_ids_or_an_error(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            kind in 0u8..2,
            count in 1usize..=BLOCK_IDS,
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = read(&bytes, count);
        }
    }
}
