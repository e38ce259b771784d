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
use crate::error::Corruption;
use crate::format::{ImageWriter, Sealed};

/// Users in a group.
pub(super) const GROUP_USERS: usize = BitPacker8x::BLOCK_LEN;
/// Bytes of a group's entry in the table.
const GROUP_BYTES: u64 = 12;
/// Packed groups begin at multiples of this: one bit of each of 256 users.
const PACKED_UNIT: usize = GROUP_USERS / 8;

/// Where the counts of so many users are stored, who have so many rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) area: &'a Area,
    pub(super) users: u32,
    pub(super) rows: u32,
}

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

/// Appends the counts of the users numbered `users`, of whom there is one at least, to `counts`
/// and returns their rows. Costs at most two partial groups more than asked for.
pub(super) fn read(
    sealed: &Sealed,
    stored: Stored<'_>,
    users: Range<u32>,
    counts: &mut Vec<u32>,
) -> Result<Range<u32>, Corruption> {
    let from = counts.len();
    let first_group = users.start / GROUP_USERS as u32;
    let last_group = users.end.saturating_sub(1) / GROUP_USERS as u32;
    let found = Groups::open(sealed, stored, first_group..last_group + 1)?.decode(counts)?;
    let skip = from + users.start as usize % GROUP_USERS;
    let end = skip + users.len();
    let skipped: u32 = counts[from..skip].iter().sum();
    let dropped: u32 = counts[end..].iter().sum();
    counts.truncate(end);
    counts.drain(from..skip);
    Ok(found.start + skipped..found.end - dropped)
}

/// The rows of the user numbered `user`.
pub(super) fn read_one(
    sealed: &Sealed,
    stored: Stored<'_>,
    user: u32,
) -> Result<Range<u32>, Corruption> {
    let group = user / GROUP_USERS as u32;
    let mut counts = Vec::with_capacity(GROUP_USERS);
    let rows = Groups::open(sealed, stored, group..group + 1)?.decode(&mut counts)?;
    let (before, from) = counts.split_at(user as usize % GROUP_USERS);
    let start = rows.start + before.iter().sum::<u32>();
    Ok(start..start + from.first().ok_or_else(|| wrong(sealed, stored))?)
}

/// Neighbouring groups and their packed bytes.
struct Groups<'a> {
    sealed: &'a Sealed,
    stored: Stored<'a>,
    groups: Range<u32>,
    /// The groups' entries, and where there is one the next group's.
    table: &'a [[u8; GROUP_BYTES as usize]],
    packed: &'a [u8],
    /// Where `packed` begins among the packed bytes.
    packed_from: u64,
}

impl<'a> Groups<'a> {
    fn open(
        sealed: &'a Sealed,
        stored: Stored<'a>,
        groups: Range<u32>,
    ) -> Result<Self, Corruption> {
        let table_len = table_len(stored.users);
        let start = u64::from(groups.start) * GROUP_BYTES;
        let end = u64::from(groups.end) * GROUP_BYTES + GROUP_BYTES;
        let table = stored.area.slice(sealed, start..end.min(table_len))?;
        let mut opened = Self {
            sealed,
            stored,
            groups,
            table: table.as_chunks().0,
            packed: &[],
            packed_from: 0,
        };
        let (Some((start, _)), Some((_, end))) = (
            opened.packed_range(0),
            opened.packed_range(opened.groups.len() - 1),
        ) else {
            return Err(wrong(sealed, stored));
        };
        if start < end {
            let range = table_len + start..table_len + end;
            opened.packed = stored.area.slice(sealed, range)?;
            opened.packed_from = start;
        }
        Ok(opened)
    }

    /// First row, smallest count and packed place of the group at `place`.
    fn entry(&self, place: usize) -> Option<[u32; 3]> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *self.table.get(place)?;
        let fields = [[a, b, c, d], [e, f, g, h], [i, j, k, l]];
        Some(fields.map(u32::from_le_bytes))
    }

    /// Users of the group at `place`.
    fn users(&self, place: usize) -> usize {
        let before = (self.groups.start as usize + place) * GROUP_USERS;
        (self.stored.users as usize - before).min(GROUP_USERS)
    }

    /// Where the packed bytes of the group at `place` begin and end.
    fn packed_range(&self, place: usize) -> Option<(u64, u64)> {
        let [_, _, packed] = self.entry(place)?;
        let start = u64::from(packed >> 6) * PACKED_UNIT as u64;
        let bits = self.users(place) as u64 * u64::from(packed & 63);
        Some((start, start + bits.div_ceil(8)))
    }

    /// Appends the counts of all groups; returns their rows, which the counts add up to.
    fn decode(&self, counts: &mut Vec<u32>) -> Result<Range<u32>, Corruption> {
        let mut rows: Option<Range<u32>> = None;
        for place in 0..self.groups.len() {
            let found = self.decode_group(place, counts)?;
            rows = Some(rows.map_or(found.start, |rows| rows.start)..found.end);
        }
        Ok(rows.unwrap_or_default())
    }

    /// Appends the counts of the group at `place`; returns its rows, which they add up to.
    fn decode_group(&self, place: usize, counts: &mut Vec<u32>) -> Result<Range<u32>, Corruption> {
        let mut group = [0; GROUP_USERS];
        let (rows, least) = self.unpack_group(place, &mut group)?;
        let group = &group[..self.users(place)];
        counts.extend(group.iter().map(|above| above + least));
        Ok(rows)
    }

    /// Unpacks how far the counts of the group at `place` are above the smallest, which comes with
    /// the group's rows. Checks that the counts add up to these.
    fn unpack_group(
        &self,
        place: usize,
        group: &mut [u32; GROUP_USERS],
    ) -> Result<(Range<u32>, u32), Corruption> {
        let wrong = || wrong(self.sealed, self.stored);
        let [first_row, least, packed] = self.entry(place).ok_or_else(wrong)?;
        let [end_row, _, _] = self.entry(place + 1).unwrap_or([self.stored.rows, 0, 0]);
        let (width, users) = (packed & 63, self.users(place));
        if width > 32 {
            return Err(wrong());
        }
        let group = &mut group[..users];
        if width == 0 {
            group.fill(0);
        } else {
            let (start, end) = self.packed_range(place).ok_or_else(wrong)?;
            let at = |byte: u64| byte.checked_sub(self.packed_from).map(|at| at as usize);
            let range = at(start).zip(at(end)).ok_or_else(wrong)?;
            let packed = self.packed.get(range.0..range.1).ok_or_else(wrong)?;
            if users == GROUP_USERS {
                BitPacker8x::new().decompress(packed, group, width as u8);
            } else {
                unpack_short(packed, width, group);
            }
        }
        // 256 numbers of up to 24 bits add up to 32; a sum of 64 bits takes twice as long.
        let above = if width <= 24 {
            u64::from(group.iter().sum::<u32>())
        } else {
            group.iter().map(|&count| u64::from(count)).sum()
        };
        let sum = above + u64::from(least) * users as u64;
        // A sum in 64 bits that fits between two rows of 32 cannot have wrapped anywhere.
        if u64::from(first_row) + sum != u64::from(end_row) || end_row > self.stored.rows {
            return Err(wrong());
        }
        Ok((first_row..end_row, least))
    }
}

fn wrong(sealed: &Sealed, stored: Stored<'_>) -> Corruption {
    let what = "the rows of a run's users do not add up";
    Corruption::new(sealed.file(), stored.area.offset(), what)
}

/// Finds the rows of users in ascending order, decoding each group once and only if asked for.
pub(super) struct GroupCursor<'a> {
    groups: Groups<'a>,
    /// The group unpacked last, by its place, and the first row of its first user.
    place: Option<usize>,
    row: u32,
    /// Its smallest count, and how far the counts are above it.
    least: u32,
    above: [u32; GROUP_USERS],
    /// From the second question about a group on: the first row of each of its users, and the end of the last one's.
    starts: Option<[u32; GROUP_USERS + 1]>,
}

impl<'a> GroupCursor<'a> {
    /// A cursor over the users numbered `users`, of whom there is one at least.
    pub(super) fn open(
        sealed: &'a Sealed,
        stored: Stored<'a>,
        users: Range<u32>,
    ) -> Result<Self, Corruption> {
        if users.is_empty() || users.end > stored.users {
            return Err(wrong(sealed, stored));
        }
        let group = |user: u32| user / GROUP_USERS as u32;
        Ok(Self {
            groups: Groups::open(sealed, stored, group(users.start)..group(users.end - 1) + 1)?,
            place: None,
            row: 0,
            least: 0,
            above: [0; GROUP_USERS],
            starts: None,
        })
    }

    /// The rows of the user numbered `user`. Users of one group are best asked for together.
    pub(super) fn rows(&mut self, user: u32) -> Result<Range<u32>, Corruption> {
        let wrong = || wrong(self.groups.sealed, self.groups.stored);
        let group = user / GROUP_USERS as u32;
        let place = group
            .checked_sub(self.groups.groups.start)
            .ok_or_else(wrong)? as usize;
        let user = user as usize % GROUP_USERS;
        if place >= self.groups.groups.len() || user >= self.groups.users(place) {
            return Err(wrong());
        }
        if self.place != Some(place) {
            self.place = None;
            let (rows, least) = self.groups.unpack_group(place, &mut self.above)?;
            (self.row, self.least, self.starts) = (rows.start, least, None);
            self.place = Some(place);
            let before: u32 = self.above[..user].iter().sum();
            let start = self.row + before + least * user as u32;
            return Ok(start..start + least + self.above[user]);
        }
        let starts = self.starts.get_or_insert_with(|| {
            let (mut starts, mut row) = ([self.row; GROUP_USERS + 1], self.row);
            for (next, above) in starts[1..].iter_mut().zip(&self.above) {
                // Behind the last user of a short group there is nothing of meaning.
                row = row.wrapping_add(self.least.wrapping_add(*above));
                *next = row;
            }
            starts
        });
        Ok(starts[user]..starts[user + 1])
    }
}
