//! Run lengths: how many rows each user has, in the order of the users' bitmap.
//!
//! Users are taken in groups of 256. A table has for each group its first row, its smallest
//! count, and where and how wide the differences to it are packed; a group whose counts are all
//! equal has width 0 and no packed bytes. Only the last group may have fewer users.
//!
//! ```text
//! group, 12 bytes   first row u32 | smallest count u32 | packed at (32-byte units) << 6 + width
//! packed            whole groups as `bitpacking` lays out 256 integers (32 * width bytes),
//!                   a short last group lowest bit first
//! ```

use std::ops::Range;

use bitpacking::{BitPacker, BitPacker8x};

use super::area::{Area, AreaWriter};
use super::layout::RunIndex;
use crate::error::Corruption;
use crate::format::{ImageWriter, Sealed};

/// Users in a group.
pub(super) const GROUP_USERS: usize = BitPacker8x::BLOCK_LEN;
/// Bytes of a group's entry in the table.
const GROUP_BYTES: u64 = 12;
/// Packed groups begin at multiples of this: one bit of each of 256 users.
const PACKED_UNIT: usize = GROUP_USERS / 8;

/// Appends the counts of a run's users, which are at least 1 each.
pub(super) fn write(image: &mut ImageWriter, counts: &[u32]) -> Area {
    let packer = BitPacker8x::new();
    let mut table = Vec::with_capacity(counts.len().div_ceil(GROUP_USERS) * GROUP_BYTES as usize);
    let mut packed = Vec::new();
    let mut first_row = 0u32;
    for group in counts.chunks(GROUP_USERS) {
        let least = group.iter().copied().min().unwrap_or_default();
        let most = group.iter().copied().max().unwrap_or_default();
        let width = u32::BITS - (most - least).leading_zeros();
        let at = (packed.len() / PACKED_UNIT) as u32;
        for field in [first_row, least, at << 6 | width] {
            table.extend_from_slice(&field.to_le_bytes());
        }
        let above: Vec<u32> = group.iter().map(|count| count - least).collect();
        if group.len() == GROUP_USERS {
            let start = packed.len();
            packed.resize(start + width as usize * PACKED_UNIT, 0);
            packer.compress(&above, &mut packed[start..], width as u8);
        } else {
            pack_short(&above, width, &mut packed);
        }
        first_row += group.iter().sum::<u32>();
    }
    let mut area = AreaWriter::new(image);
    area.extend(&table);
    area.extend(&packed);
    area.finish()
}

/// Packs a short group lowest bit first.
fn pack_short(values: &[u32], width: u32, out: &mut Vec<u8>) {
    let (mut pending, mut bits) = (0u64, 0);
    for &value in values {
        pending |= u64::from(value) << bits;
        bits += width;
        while bits >= 8 {
            out.push(pending as u8);
            pending >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        out.push(pending as u8);
    }
}

fn unpack_short(packed: &[u8], width: u32, values: &mut [u32]) {
    let mask = (1u64 << width) - 1;
    let (mut pending, mut bits) = (0u64, 0);
    let mut bytes = packed.iter();
    for value in values {
        while bits < width {
            pending |= u64::from(bytes.next().copied().unwrap_or_default()) << bits;
            bits += 8;
        }
        *value = (pending & mask) as u32;
        pending >>= width;
        bits -= width;
    }
}

/// Bytes of the table of `groups` groups: the least that the counts' area holds.
pub(super) fn table_len(users: u32) -> u64 {
    u64::from(users.div_ceil(GROUP_USERS as u32)) * GROUP_BYTES
}

/// Appends the counts of the users numbered `users` to `counts`, and checks that their rows are
/// exactly `rows`. Costs at most two partial groups more than asked for.
pub(super) fn read(
    sealed: &Sealed,
    index: &RunIndex,
    users: Range<u32>,
    rows: Range<u32>,
    counts: &mut Vec<u32>,
) -> Result<(), Corruption> {
    if users.is_empty() {
        return Ok(());
    }
    let from = counts.len();
    let first_group = users.start / GROUP_USERS as u32;
    let last_group = (users.end - 1) / GROUP_USERS as u32;
    let (mut start_row, mut end_row) = (None, 0);
    for group in first_group..=last_group {
        let found = read_group(sealed, index, group, counts)?;
        start_row.get_or_insert(found.start);
        end_row = found.end;
    }
    // The groups' rows join by construction, so only the two ends remain to be compared.
    let skip = from + users.start as usize % GROUP_USERS;
    let end = skip + users.len();
    let skipped: u32 = counts[from..skip].iter().sum();
    let dropped: u32 = counts[end..].iter().sum();
    counts.truncate(end);
    counts.drain(from..skip);
    let found = start_row.unwrap_or_default() + skipped..end_row - dropped;
    if found == rows {
        Ok(())
    } else {
        Err(wrong(sealed, index))
    }
}

/// Appends the counts of one group; returns its rows, which the counts add up to.
fn read_group(
    sealed: &Sealed,
    index: &RunIndex,
    group: u32,
    counts: &mut Vec<u32>,
) -> Result<Range<u32>, Corruption> {
    let wrong = || wrong(sealed, index);
    let at = u64::from(group) * GROUP_BYTES;
    let is_last = (group + 1) * GROUP_USERS as u32 >= index.users;
    let next_bytes = if is_last { 0 } else { 4 };
    let entry = index
        .counts
        .slice(sealed, at..at + GROUP_BYTES + next_bytes)?;
    let field = |number: usize| {
        let bytes = entry.get(number * 4..).and_then(|rest| rest.first_chunk());
        bytes.map(|&bytes| u32::from_le_bytes(bytes))
    };
    let first_row = field(0).ok_or_else(wrong)?;
    let least = field(1).ok_or_else(wrong)?;
    let place = field(2).ok_or_else(wrong)?;
    let end_row = field(3).unwrap_or(index.rows);
    let users = (index.users - group * GROUP_USERS as u32).min(GROUP_USERS as u32) as usize;
    let (width, start) = (place & 63, u64::from(place >> 6) * PACKED_UNIT as u64);
    if width > 32 {
        return Err(wrong());
    }
    let from = counts.len();
    counts.resize(from + users, 0);
    if width > 0 {
        let len = (users * width as usize).div_ceil(8) as u64;
        let start = table_len(index.users) + start;
        let packed = index.counts.slice(sealed, start..start + len)?;
        if users == GROUP_USERS {
            BitPacker8x::new().decompress(packed, &mut counts[from..], width as u8);
        } else {
            unpack_short(packed, width, &mut counts[from..]);
        }
    }
    let mut sum = 0u64;
    for count in &mut counts[from..] {
        *count = count.checked_add(least).ok_or_else(wrong)?;
        sum += u64::from(*count);
    }
    // A sum in 64 bits that fits between two rows of 32 cannot have wrapped anywhere.
    if u64::from(first_row) + sum == u64::from(end_row) && end_row <= index.rows {
        Ok(first_row..end_row)
    } else {
        Err(wrong())
    }
}

fn wrong(sealed: &Sealed, index: &RunIndex) -> Corruption {
    let what = "the rows of a run's users do not add up";
    Corruption::new(sealed.file(), index.counts.offset(), what)
}

/// The rows of the user numbered `user`.
pub(super) fn read_one(
    sealed: &Sealed,
    index: &RunIndex,
    user: u32,
) -> Result<Range<u32>, Corruption> {
    let mut counts = Vec::with_capacity(GROUP_USERS);
    let group = read_group(sealed, index, user / GROUP_USERS as u32, &mut counts)?;
    let place = user as usize % GROUP_USERS;
    let before: u32 = counts.iter().take(place).sum();
    let Some(count) = counts.get(place) else {
        return Err(wrong(sealed, index));
    };
    let start = group.start + before;
    Ok(start..start + count)
}

/// Finds the rows of users in ascending order, decoding each group once and only if asked for.
#[derive(Debug)]
pub(super) struct GroupCursor {
    group: Option<u32>,
    counts: Vec<u32>,
    /// First row of each user of the group, and the end of the last one's.
    starts: Vec<u32>,
}

impl GroupCursor {
    pub(super) fn new() -> Self {
        Self {
            group: None,
            counts: Vec::with_capacity(GROUP_USERS),
            starts: Vec::with_capacity(GROUP_USERS + 1),
        }
    }

    /// The rows of the user numbered `user`.
    pub(super) fn rows(
        &mut self,
        sealed: &Sealed,
        index: &RunIndex,
        user: u32,
    ) -> Result<Range<u32>, Corruption> {
        let group = user / GROUP_USERS as u32;
        if self.group != Some(group) {
            self.counts.clear();
            let mut row = read_group(sealed, index, group, &mut self.counts)?.start;
            self.starts.clear();
            self.starts.push(row);
            self.starts.extend(self.counts.iter().map(|count| {
                row += count;
                row
            }));
            self.group = Some(group);
        }
        let place = user as usize % GROUP_USERS;
        match (self.starts.get(place), self.starts.get(place + 1)) {
            (Some(&start), Some(&end)) => Ok(start..end),
            _ => Err(wrong(sealed, index)),
        }
    }
}
