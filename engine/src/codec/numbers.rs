//! Sequences of numbers: how they are cut into blocks and encoded.
//!
//! A number is a word of 64 bits: a whole number (two's complement) or the bits of a float. This
//! module owns the descriptor of a sequence and the bytes of its blocks; `numbers_read` reads
//! them. It knows nothing of rows, presence or what the numbers stand for.
//!
//! A sequence's descriptor is one byte for its layout, then
//! * `EMPTY`: nothing;
//! * `CONSTANT`: the word that every value is;
//! * `INLINE`: form, width, exponent (a byte each), least and greatest word, and the payload;
//! * `BLOCKS`: least and greatest word of all, then an entry of `ENTRY_BYTES` for each block
//!   of `block_values` numbers.
//!
//! An entry is least word, greatest word, reference of the payload (20 bytes), form, width,
//! exponent, zero. Within a block every number is found by its index alone.

use super::bits;
use super::sink::{Sink, write_ref};
use crate::format::Writer;

pub(super) const EMPTY: u8 = 0;
pub(super) const CONSTANT: u8 = 1;
pub(super) const INLINE: u8 = 2;
pub(super) const BLOCKS: u8 = 3;

/// Bytes of a block's entry.
pub(super) const ENTRY_BYTES: usize = 40;

/// Every number of the block is its least one; there is no payload.
pub(super) const FORM_CONSTANT: u8 = 0;
/// Whole numbers: (value - least) / divisor, bit-packed.
pub(super) const FORM_PACKED: u8 = 1;
/// Floats that are whole numbers over a power of ten, and those packed as above.
pub(super) const FORM_DECIMAL: u8 = 2;
/// Floats as they are.
pub(super) const FORM_RAW: u8 = 3;
/// The bits of a form byte that say which of the above it is.
pub(super) const FORM_MASK: u8 = 0x0f;
/// The payload begins with the divisor, 8 bytes; without this flag it is 1.
pub(super) const FLAG_DIVISOR: u8 = 0x10;
/// The payload is one zstd frame.
pub(super) const FLAG_ZSTD: u8 = 0x20;

/// Most decimal digits after the point that floats are tried with.
pub(super) const MAX_EXPONENT: u8 = 6;
/// 10^0 … 10^[`MAX_EXPONENT`], all exact.
pub(super) const POWERS: [f64; MAX_EXPONENT as usize + 1] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];
/// Whole numbers up to here are exact as floats.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// What the words of a sequence are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repr {
    /// Whole numbers, compared as `i64`.
    Int,
    /// Bits of floats, compared as numbers.
    Float,
}

/// How a sequence is used, which decides what may be done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Mostly in order: blocks may be compressed, since one of them is kept decompressed.
    Scanned,
    /// At random: no block is compressed.
    Random,
}

/// A block before it is written.
struct Block {
    form: u8,
    width: u8,
    exponent: u8,
    least: u64,
    greatest: u64,
    payload: Vec<u8>,
}

/// Whether compressing was worth its time so far.
#[derive(Default)]
struct Trials {
    seen: u32,
    tried: u32,
    won: u32,
}

impl Trials {
    /// The first blocks decide; then every eighth is tried again, as data drifts.
    fn worth_trying(&mut self) -> bool {
        self.seen += 1;
        self.tried < 4 || self.won * 4 >= self.tried || self.seen.is_multiple_of(8)
    }
}

/// Encodes `count` numbers; `fill` appends those of a range of indices. The descriptor goes to
/// `out`, which another sequence may share, the payloads to blocks of the image.
pub(super) fn encode(
    sink: &mut Sink<'_>,
    out: &mut Writer,
    count: u32,
    (repr, access): (Repr, Access),
    fill: &mut dyn FnMut(std::ops::Range<u32>, &mut Vec<u64>),
) {
    if count == 0 {
        return out.u8(EMPTY);
    }
    let block_values = sink.params.block_values;
    let mut words = Vec::with_capacity(count.min(block_values) as usize);
    if count <= block_values {
        fill(0..count, &mut words);
        let block = encode_block(&words, repr);
        if block.form == FORM_CONSTANT {
            out.u8(CONSTANT);
            return out.u64(block.least);
        }
        if block.payload.len() <= sink.params.inline_bytes {
            return write_inline(&block, out);
        }
    }
    let (mut entries, mut bounds) = (Writer::new(), None);
    let (mut trials, mut all_constant) = (Trials::default(), true);
    for start in (0..count).step_by(block_values as usize) {
        words.clear();
        fill(
            start..start.saturating_add(block_values).min(count),
            &mut words,
        );
        let mut block = encode_block(&words, repr);
        let (least, greatest) = bounds.unwrap_or((block.least, block.greatest));
        all_constant &= block.form == FORM_CONSTANT && block.least == least;
        bounds = Some((
            lesser(repr, least, block.least),
            greater(repr, greatest, block.greatest),
        ));
        let may_compress = sink.params.compressed && access == Access::Scanned;
        if may_compress && block.form != FORM_CONSTANT && trials.worth_trying() {
            trials.tried += 1;
            trials.won += u32::from(compress(sink, &mut block, words.len()));
        }
        write_block(sink, &block, &mut entries);
    }
    let (least, greatest) = bounds.unwrap_or_default();
    if all_constant {
        out.u8(CONSTANT);
        return out.u64(least);
    }
    out.u8(BLOCKS);
    out.u64(least);
    out.u64(greatest);
    out.raw(&entries.finish());
}

/// Least and greatest of `count` numbers, as [`encode`] stores them. Floats of nothing but NaN
/// give bounds that are reversed.
pub(super) fn bounds(
    repr: Repr,
    count: u32,
    fill: &mut dyn FnMut(std::ops::Range<u32>, &mut Vec<u64>),
) -> (u64, u64) {
    let (mut least, mut greatest) = match repr {
        Repr::Int => (i64::MAX as u64, i64::MIN as u64),
        Repr::Float => (f64::INFINITY.to_bits(), f64::NEG_INFINITY.to_bits()),
    };
    let mut words = Vec::new();
    for start in (0..count).step_by(8_192) {
        words.clear();
        fill(start..start.saturating_add(8_192).min(count), &mut words);
        for &word in &words {
            least = lesser(repr, least, word);
            greatest = greater(repr, greatest, word);
        }
    }
    (least, greatest)
}

/// The lesser of two words; an empty pair of float bounds (infinite, reversed) loses.
fn lesser(repr: Repr, a: u64, b: u64) -> u64 {
    match repr {
        Repr::Int => (a as i64).min(b as i64) as u64,
        Repr::Float => f64::from_bits(a).min(f64::from_bits(b)).to_bits(),
    }
}

fn greater(repr: Repr, a: u64, b: u64) -> u64 {
    match repr {
        Repr::Int => (a as i64).max(b as i64) as u64,
        Repr::Float => f64::from_bits(a).max(f64::from_bits(b)).to_bits(),
    }
}

fn write_inline(block: &Block, out: &mut Writer) {
    out.u8(INLINE);
    out.u8(block.form);
    out.u8(block.width);
    out.u8(block.exponent);
    out.u64(block.least);
    out.u64(block.greatest);
    out.raw(&block.payload);
}

fn write_block(sink: &mut Sink<'_>, block: &Block, entries: &mut Writer) {
    entries.u64(block.least);
    entries.u64(block.greatest);
    if block.form == FORM_CONSTANT {
        entries.raw(&[0; super::sink::REF_BYTES]);
    } else {
        write_ref(&sink.block(&block.payload), entries);
    }
    entries.raw(&[block.form, block.width, block.exponent, 0]);
}

fn encode_block(words: &[u64], repr: Repr) -> Block {
    let first = words.first().copied().unwrap_or_default();
    if words.iter().all(|&word| word == first) {
        return Block {
            form: FORM_CONSTANT,
            width: 0,
            exponent: 0,
            least: first,
            greatest: first,
            payload: Vec::new(),
        };
    }
    match repr {
        Repr::Int => pack_ints(words.iter().map(|&word| word as i64), FORM_PACKED),
        Repr::Float => match decimals(words) {
            Some((exponent, ints)) => {
                let mut block = pack_ints(ints.iter().copied(), FORM_DECIMAL);
                let scale = POWERS[exponent as usize];
                let float = |word: u64| (word as i64 as f64 / scale).to_bits();
                block.exponent = exponent;
                block.least = float(block.least);
                block.greatest = float(block.greatest);
                block
            }
            None => raw_floats(words),
        },
    }
}

fn pack_ints(values: impl Iterator<Item = i64> + Clone, form: u8) -> Block {
    let (mut least, mut greatest) = (i64::MAX, i64::MIN);
    for value in values.clone() {
        least = least.min(value);
        greatest = greatest.max(value);
    }
    let offset = |value: i64| value.wrapping_sub(least) as u64;
    let mut divisor = 0;
    for value in values.clone() {
        divisor = common_divisor(offset(value), divisor);
        if divisor == 1 {
            break;
        }
    }
    let (plain, divided) = (offset(greatest), offset(greatest) / divisor.max(1));
    let saved_bits = u64::from(bits::width_of(plain) - bits::width_of(divided));
    let count = values.clone().count() as u64;
    let mut payload = Vec::new();
    let (mut form, mut divide_by) = (form, 1);
    // The divisor itself takes eight bytes.
    if saved_bits * count > 64 {
        divide_by = divisor;
        form |= FLAG_DIVISOR;
        payload.extend_from_slice(&divisor.to_le_bytes());
    }
    let width = bits::width_of(plain / divide_by);
    if divide_by == 1 {
        bits::pack(values.map(offset), width, &mut payload);
    } else {
        bits::pack(
            values.map(|value| offset(value) / divide_by),
            width,
            &mut payload,
        );
    }
    Block {
        form,
        width,
        exponent: 0,
        least: least as u64,
        greatest: greatest as u64,
        payload,
    }
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while a != 0 {
        (a, b) = (b % a, a);
    }
    b
}

/// The number that `value` is over `POWERS[exponent]`, if dividing gives back its very bits.
pub(super) fn decimal(value: f64, exponent: u8) -> Option<i64> {
    let scale = POWERS[exponent as usize];
    let scaled = (value * scale).round();
    if scaled.is_nan() || scaled.abs() > MAX_EXACT {
        return None;
    }
    let whole = scaled as i64;
    ((whole as f64 / scale).to_bits() == value.to_bits()).then_some(whole)
}

/// The least exponent with which every float is a decimal, and the whole numbers.
fn decimals(words: &[u64]) -> Option<(u8, Vec<i64>)> {
    let mut exponent = 0;
    for &word in words {
        while decimal(f64::from_bits(word), exponent).is_none() {
            exponent += 1;
            if exponent > MAX_EXPONENT {
                return None;
            }
        }
    }
    // What passed with fewer digits need not pass with more, where numbers are large.
    let ints = words
        .iter()
        .map(|&word| decimal(f64::from_bits(word), exponent));
    Some((exponent, ints.collect::<Option<Vec<i64>>>()?))
}

fn raw_floats(words: &[u64]) -> Block {
    // NaN compares with nothing, so it stays out of the bounds; `min` and `max` pass it over.
    let (mut least, mut greatest) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in words.iter().map(|&word| f64::from_bits(word)) {
        least = least.min(value);
        greatest = greatest.max(value);
    }
    Block {
        form: FORM_RAW,
        width: 64,
        exponent: 0,
        least: least.to_bits(),
        greatest: greatest.to_bits(),
        payload: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
    }
}

/// Replaces the payload by a compressed one where that saves a quarter or more.
///
/// zstd sees bytes, not bits, so it is given numbers of whole bytes.
fn compress(sink: &mut Sink<'_>, block: &mut Block, count: usize) -> bool {
    let limit = block.payload.len() / 4 * 3;
    let head = if block.form & FLAG_DIVISOR == 0 { 0 } else { 8 };
    let width = block.width.max(1).next_multiple_of(8).next_power_of_two();
    let mut raw = block.payload[..head].to_vec();
    if width == block.width {
        raw.clone_from(&block.payload);
    } else {
        let packed = &block.payload[head..];
        let bytes = usize::from(width / 8);
        bits::for_each(packed, block.width, 0, count, |value| {
            raw.extend_from_slice(&value.to_le_bytes()[..bytes]);
        });
    }
    let Some(payload) = sink.compress(&raw, limit) else {
        return false;
    };
    block.payload = payload;
    block.width = width;
    block.form |= FLAG_ZSTD;
    true
}
