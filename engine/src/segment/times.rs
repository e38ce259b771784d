//! Times: offsets from the run's minimum in its coarsest lossless unit, read in place.

use std::ops::Range;

use super::area::{Area, AreaWriter};
use crate::format::ImageWriter;
use crate::time::MICROS_PER_SECOND;

/// The units that times are stored in, in microseconds, coarsest first.
const UNITS: [u64; 3] = [MICROS_PER_SECOND as u64, 1_000, 1];

/// Offsets up to this number are counted, beyond they are searched.
const COUNTED: usize = 16;

/// Times of neighbouring rows, read where they lie.
#[derive(Clone, Copy, Debug)]
pub struct Times<'a> {
    /// The time that offset 0 stands for, in microseconds since 1970-01-01 UTC.
    pub base: i64,
    /// Microseconds in one unit of the offsets: 1, 1 000 or 1 000 000.
    pub unit_micros: u64,
    /// The offsets from `base`, in units.
    pub offsets: Offsets<'a>,
}

/// Offsets of 2, 4 or 8 bytes.
#[derive(Clone, Copy, Debug)]
pub enum Offsets<'a> {
    /// Two bytes each.
    U16(&'a [u16]),
    /// Four bytes each.
    U32(&'a [u32]),
    /// Eight bytes each.
    U64(&'a [u64]),
}

impl<'a> Times<'a> {
    /// Number of times.
    #[inline]
    pub fn len(&self) -> usize {
        match self.offsets {
            Offsets::U16(offsets) => offsets.len(),
            Offsets::U32(offsets) => offsets.len(),
            Offsets::U64(offsets) => offsets.len(),
        }
    }

    /// True where there is no time.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The offset at `index`, in units. Panics where `index` is out of range, as slices do.
    #[inline]
    pub fn offset(&self, index: usize) -> u64 {
        match self.offsets {
            Offsets::U16(offsets) => u64::from(offsets[index]),
            Offsets::U32(offsets) => u64::from(offsets[index]),
            Offsets::U64(offsets) => offsets[index],
        }
    }

    /// The time at `index`, in microseconds since 1970-01-01 UTC. Panics where `index` is out of
    /// range, as slices do.
    #[inline]
    pub fn get(&self, index: usize) -> i64 {
        self.time_of(self.offset(index))
    }

    /// The time that an offset stands for.
    #[inline]
    pub fn time_of(&self, offset: u64) -> i64 {
        self.base
            .wrapping_add(offset.wrapping_mul(self.unit_micros) as i64)
    }

    /// The smallest offset whose time is at least `time`: a bound to compare offsets with.
    #[inline]
    pub fn offset_from(&self, time: i64) -> u64 {
        if time <= self.base {
            return 0;
        }
        let micros = time.wrapping_sub(self.base) as u64;
        // A division by a constant is a multiplication; by a variable it would cost ten times.
        match self.unit_micros {
            1 => micros,
            1_000 => micros.div_ceil(1_000),
            1_000_000 => micros.div_ceil(1_000_000),
            unit => micros.div_ceil(unit),
        }
    }

    /// The first index of `within`, whose times ascend, that is at `time` or later; its end where
    /// none is. Panics where `within` is out of range, as slices do.
    #[inline]
    pub fn first_from(&self, within: Range<usize>, time: i64) -> usize {
        let start = within.start;
        let found = match self.offsets {
            Offsets::U16(offsets) => self.lower_bound(&offsets[within], time),
            Offsets::U32(offsets) => self.lower_bound(&offsets[within], time),
            Offsets::U64(offsets) => self.lower_bound(&offsets[within], time),
        };
        start + found
    }

    #[inline]
    fn lower_bound<T: Copy + Ord + TryFrom<u64>>(&self, offsets: &[T], time: i64) -> usize {
        let Ok(bound) = T::try_from(self.offset_from(time)) else {
            return offsets.len();
        };
        // Most users have few rows, which are counted faster than searched.
        if offsets.len() <= COUNTED {
            return offsets.iter().filter(|&&offset| offset < bound).count();
        }
        offsets.partition_point(|&offset| offset < bound)
    }

    /// The times in `range`. Panics where it is out of range, as slices do.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let offsets = match self.offsets {
            Offsets::U16(offsets) => Offsets::U16(&offsets[range]),
            Offsets::U32(offsets) => Offsets::U32(&offsets[range]),
            Offsets::U64(offsets) => Offsets::U64(&offsets[range]),
        };
        Self { offsets, ..*self }
    }

    /// Appends all times to `out`, in microseconds since 1970-01-01 UTC.
    pub fn append_to(&self, out: &mut Vec<i64>) {
        match self.offsets {
            Offsets::U16(offsets) => {
                out.extend(offsets.iter().map(|&offset| self.time_of(offset.into())));
            }
            Offsets::U32(offsets) => {
                out.extend(offsets.iter().map(|&offset| self.time_of(offset.into())));
            }
            Offsets::U64(offsets) => out.extend(offsets.iter().map(|&offset| self.time_of(offset))),
        }
    }

    /// Views aligned little-endian bytes as offsets of `width` bytes; `None` where they are not.
    pub(super) fn view(base: i64, unit_micros: u64, width: u32, bytes: &'a [u8]) -> Option<Self> {
        let offsets = match width {
            _ if bytes.is_empty() => Offsets::U16(&[]),
            2 => Offsets::U16(bytemuck::try_cast_slice(bytes).ok()?),
            4 => Offsets::U32(bytemuck::try_cast_slice(bytes).ok()?),
            8 => Offsets::U64(bytemuck::try_cast_slice(bytes).ok()?),
            _ => return None,
        };
        Some(Self {
            base,
            unit_micros,
            offsets,
        })
    }
}

/// How the times of a run are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeForm {
    pub(super) min: i64,
    pub(super) max: i64,
    pub(super) unit_micros: u64,
    pub(super) width: u32,
}

impl TimeForm {
    /// The coarsest unit that loses nothing, and the narrowest offsets in it.
    pub(super) fn of(times: &[i64]) -> Self {
        let min = times.iter().copied().min().unwrap_or_default();
        let max = times.iter().copied().max().unwrap_or_default();
        let mut level = 0;
        for &time in times {
            let offset = time.wrapping_sub(min) as u64;
            while !offset.is_multiple_of(UNITS[level]) {
                level += 1;
            }
            if level + 1 == UNITS.len() {
                break;
            }
        }
        let unit_micros = UNITS[level];
        let most = max.wrapping_sub(min) as u64 / unit_micros;
        let width = match most {
            0..=0xffff => 2,
            0x1_0000..=0xffff_ffff => 4,
            _ => 8,
        };
        Self {
            min,
            max,
            unit_micros,
            width,
        }
    }

    /// The time of a row whose run's offsets are written as `bytes`.
    #[inline]
    pub(super) fn written(&self, bytes: &[u8], row: usize) -> i64 {
        fn at<const N: usize>(bytes: &[u8], row: usize) -> [u8; N] {
            bytes.as_chunks().0[row]
        }
        let offset = match self.width {
            2 => u64::from(u16::from_le_bytes(at(bytes, row))),
            4 => u64::from(u32::from_le_bytes(at(bytes, row))),
            _ => u64::from_le_bytes(at(bytes, row)),
        };
        let since = offset.wrapping_mul(self.unit_micros);
        self.min.wrapping_add(since as i64)
    }

    /// True where a unit and width of this kind exist.
    pub(super) fn is_valid(&self) -> bool {
        UNITS.contains(&self.unit_micros) && matches!(self.width, 2 | 4 | 8) && self.min <= self.max
    }

    /// Appends the times' offsets.
    pub(super) fn write(&self, image: &mut ImageWriter, times: &[i64]) -> Area {
        let mut area = AreaWriter::new(image);
        let mut bytes = Vec::new();
        // A division by a constant is a multiplication; by a variable it would cost ten times.
        let mut put = |divide: fn(u64) -> u64| {
            for piece in times.chunks(8_192) {
                bytes.clear();
                let offsets = piece
                    .iter()
                    .map(|time| divide(time.wrapping_sub(self.min) as u64));
                match self.width {
                    2 => bytes.extend(offsets.flat_map(|offset| (offset as u16).to_le_bytes())),
                    4 => bytes.extend(offsets.flat_map(|offset| (offset as u32).to_le_bytes())),
                    _ => bytes.extend(offsets.flat_map(u64::to_le_bytes)),
                }
                area.extend(&bytes);
            }
        };
        match self.unit_micros {
            1 => put(|offset| offset),
            1_000 => put(|offset| offset / 1_000),
            _ => put(|offset| offset / MICROS_PER_SECOND as u64),
        }
        area.finish()
    }
}
