//! Unsigned numbers of a fixed bit width, back to back: written once, read at any index.
//!
//! Value `i` of width `w` takes bits `i * w .. (i + 1) * w`, counted from the lowest bit of the
//! first byte. Nothing here knows what the numbers mean.

/// Bits that the largest of the numbers needs.
pub(super) fn width_of(largest: u64) -> u8 {
    (64 - largest.leading_zeros()) as u8
}

/// Bytes that `count` numbers of `width` bits take.
pub(super) fn packed_len(count: usize, width: u8) -> usize {
    (count as u64 * u64::from(width)).div_ceil(8) as usize
}

/// Appends numbers that need at most `width` bits each.
pub(super) fn pack(values: impl IntoIterator<Item = u64>, width: u8, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let (mut pending, mut bits) = (0u128, 0u32);
    for value in values {
        debug_assert!(width_of(value) <= width, "the value fits its width");
        pending |= u128::from(value) << bits;
        bits += u32::from(width);
        if bits >= 64 {
            out.extend_from_slice(&(pending as u64).to_le_bytes());
            pending >>= 64;
            bits -= 64;
        }
    }
    let rest = (pending as u64).to_le_bytes();
    out.extend_from_slice(&rest[..bits.div_ceil(8) as usize]);
}

/// The number at `index`; bits beyond the bytes read as zero.
#[inline]
pub(super) fn get(bytes: &[u8], width: u8, index: usize) -> u64 {
    let bit = index as u64 * u64::from(width);
    let (byte, shift) = ((bit / 8) as usize, (bit % 8) as u32);
    let mask = mask(width);
    // Up to 57 bits lie within one window of eight bytes, whatever the shift.
    if width <= 57
        && let Some(window) = bytes.get(byte..).and_then(|rest| rest.first_chunk::<8>())
    {
        return (u64::from_le_bytes(*window) >> shift) & mask;
    }
    let rest = bytes.get(byte..).unwrap_or_default();
    let mut window = [0; 16];
    let len = rest.len().min(16);
    window[..len].copy_from_slice(&rest[..len]);
    ((u128::from_le_bytes(window) >> shift) as u64) & mask
}

fn mask(width: u8) -> u64 {
    match width {
        0 => 0,
        width => u64::MAX >> (64 - width.min(64)),
    }
}

/// Calls `each` with the numbers `start..start + count`, in order. The bytes must hold them all.
#[inline]
pub(super) fn for_each(
    bytes: &[u8],
    width: u8,
    start: usize,
    count: usize,
    mut each: impl FnMut(u64),
) {
    let aligned = |bytes_each: usize| {
        let range = start * bytes_each..(start + count) * bytes_each;
        bytes.get(range).unwrap_or_default()
    };
    match width {
        0 => (0..count).for_each(|_| each(0)),
        8 => aligned(1).iter().for_each(|&value| each(value.into())),
        16 => {
            let (values, _) = aligned(2).as_chunks();
            values
                .iter()
                .for_each(|&value| each(u16::from_le_bytes(value).into()));
        }
        32 => {
            let (values, _) = aligned(4).as_chunks();
            values
                .iter()
                .for_each(|&value| each(u32::from_le_bytes(value).into()));
        }
        64 => {
            let (values, _) = aligned(8).as_chunks();
            values
                .iter()
                .for_each(|&value| each(u64::from_le_bytes(value)));
        }
        _ => for_each_window(bytes, width, start, count, each),
    }
}

/// Eight numbers of `width` bits take `width` whole bytes, so from every eighth number on, the
/// windows of a group lie in one slice whose bounds are checked once.
#[inline]
fn for_each_window(bytes: &[u8], width: u8, start: usize, count: usize, mut each: impl FnMut(u64)) {
    let (end, width_bytes, mask) = (start + count, width as usize, mask(width));
    let mut at = start;
    while at < end && !at.is_multiple_of(8) {
        each(get(bytes, width, at));
        at += 1;
    }
    while width <= 57 && at + 8 <= end {
        let first = at / 8 * width_bytes;
        let Some(group) = bytes.get(first..first + width_bytes + 8) else {
            break;
        };
        for lane in 0..8 {
            let bit = lane * width_bytes;
            let Some(window) = group
                .get(bit / 8..)
                .and_then(|rest| rest.first_chunk::<8>())
            else {
                break;
            };
            each((u64::from_le_bytes(*window) >> (bit % 8)) & mask);
        }
        at += 8;
    }
    (at..end).for_each(|at| each(get(bytes, width, at)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_reads_back(
            width in 0u8..=64,
            seeds in prop::collection::vec(any::<u64>(), 0..70),
            start in any::<prop::sample::Index>(),
        ) {
            let values: Vec<u64> = seeds.iter().map(|seed| seed & mask(width)).collect();
            let mut bytes = Vec::new();
            pack(values.iter().copied(), width, &mut bytes);
            prop_assert_eq!(bytes.len(), packed_len(values.len(), width));
            for (index, &value) in values.iter().enumerate() {
                prop_assert_eq!(get(&bytes, width, index), value);
            }
            let start = start.index(values.len() + 1);
            for count in 0..=values.len() - start {
                let mut read = Vec::new();
                for_each(&bytes, width, start, count, |value| read.push(value));
                prop_assert_eq!(&read, &values[start..start + count]);
            }
        }
    }

    #[test]
    fn widths() {
        assert_eq!(
            [0, 1, 2, 255, 256, u64::MAX].map(width_of),
            [0, 1, 2, 8, 9, 64]
        );
        assert_eq!(get(&[], 64, 3), 0, "beyond the bytes");
    }
}
