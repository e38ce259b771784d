//! The footer of a segment and the index block of each run: where everything lies.
//!
//! Both are decoded once, whole and checked against themselves and each other, so that readers
//! only meet values that make sense. The diagrams are in `docs/format.md`.

use std::path::Path;

use super::area::Area;
use super::counts;
use super::times::TimeForm;
use super::{Partition, SegmentMeta};
use crate::bitmap::{BitmapShape, BitmapView};
use crate::error::Corruption;
use crate::format::{BlockRef, ImageWriter, Reader, Sealed, WireError, Writer, checksum, matches};
use crate::limits;

/// First bytes of a segment, and the last.
pub(super) const MAGIC: [u8; 8] = *b"PUGSEG\0\0";
/// Version of this format.
pub(super) const VERSION: u32 = 1;
/// The hidden property of an overflow run that has the event names.
pub(super) const NAMES_PROPERTY: &str = "\0event";
/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 16;
/// Bytes of the trailer.
pub(super) const TRAILER_BYTES: usize = 40;
/// Most runs of a segment: the order of rows numbers them in 16 bits.
pub(super) const MAX_RUNS: usize = 1 << 16;
const _: () = assert!(limits::MAX_NAME_RUNS < MAX_RUNS);
/// Least bytes of a run's entry in the footer.
const ENTRY_BYTES: usize = 4 + 4 + 4 + 8 + 8 + BlockRef::ENCODED_BYTES;

/// A run's entry in the footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunEntry {
    pub(super) name: Box<str>,
    pub(super) rows: u32,
    pub(super) users: u32,
    pub(super) min_time: i64,
    pub(super) max_time: i64,
    pub(super) index: BlockRef,
}

/// The footer: what the segment holds, its users, and its runs sorted by name. The overflow
/// run, if there is one, comes last and has an empty name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) meta: SegmentMeta,
    pub(super) users: BlockRef,
    /// The index of the order of all rows.
    pub(super) order: BlockRef,
    pub(super) has_overflow: bool,
    pub(super) runs: Vec<RunEntry>,
    /// Checksum of all bytes before the footer, which nothing but a full check looks at: it
    /// covers the padding between blocks too.
    pub(super) body: u64,
}

/// Where a container's users and rows begin in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContainerStart {
    pub(super) user: u32,
    pub(super) row: u32,
}

/// A UTC day that has rows, and its users' bitmap in the area of day bitmaps. A length of 0
/// stands for the bitmap of the run: every user has rows on that day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DayEntry {
    pub(super) day: i32,
    pub(super) users: u32,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// The index block of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunIndex {
    pub(super) rows: u32,
    pub(super) users: u32,
    pub(super) times_form: TimeForm,
    pub(super) users_block: BlockRef,
    pub(super) users_shape: BitmapShape,
    /// One for each container of the users' bitmap, and one behind the last.
    pub(super) containers: Vec<ContainerStart>,
    pub(super) counts: Area,
    pub(super) times: Area,
    pub(super) ties: Area,
    pub(super) days: Vec<DayEntry>,
    pub(super) day_bitmaps: Area,
    pub(super) value_bitmaps: Area,
    /// The directory of value bitmaps.
    pub(super) values: Option<BlockRef>,
    /// The directory of properties.
    pub(super) properties: BlockRef,
    /// The directory of the one hidden property with the event names of an overflow run.
    pub(super) names: Option<BlockRef>,
}

impl Footer {
    /// The whole file: the image's blocks, this footer and the trailer.
    /// The checksum of the body is filled in.
    pub(super) fn seal(self, image: ImageWriter) -> Vec<u8> {
        let blocks = image.blocks();
        self.seal_body(image.finish(), blocks)
    }

    /// As [`Footer::seal`], for the bytes of `blocks` blocks.
    pub(super) fn seal_body(mut self, mut bytes: Vec<u8>, blocks: u32) -> Vec<u8> {
        self.body = checksum(&bytes);
        let mut out = Writer::new();
        let meta = &self.meta;
        let (kind, number) = match meta.partition {
            Partition::Traits => (0, 0),
            Partition::Events(number) => (1, number),
        };
        out.u32(kind);
        out.u32(blocks);
        out.i64(number);
        out.u16(meta.first_container);
        out.u16(meta.last_container);
        out.u32(meta.rows);
        out.u64(meta.arrival.0);
        out.u64(meta.arrival.1);
        out.i64(meta.min_time);
        out.i64(meta.max_time);
        self.users.encode(&mut out);
        self.order.encode(&mut out);
        out.u32(u32::from(self.has_overflow));
        out.u32(self.runs.len() as u32);
        for run in &self.runs {
            out.text(&run.name);
            out.u32(run.rows);
            out.u32(run.users);
            out.i64(run.min_time);
            out.i64(run.max_time);
            run.index.encode(&mut out);
        }
        out.u64(self.body);
        let footer = out.finish();
        let mut trailer = Writer::new();
        trailer.u64(bytes.len() as u64);
        trailer.u64(footer.len() as u64);
        trailer.u64(checksum(&footer));
        trailer.u32(blocks);
        trailer.u32(VERSION);
        trailer.raw(&MAGIC);
        bytes.extend_from_slice(&footer);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend_from_slice(&trailer.finish());
        bytes
    }

    /// Where the footer of a file that [`Footer::open`] took begins.
    pub(super) fn offset(bytes: &[u8]) -> usize {
        let trailer = bytes.len().checked_sub(TRAILER_BYTES);
        let offset = trailer.and_then(|at| bytes.get(at..)?.first_chunk());
        offset.map_or(0, |&offset| u64::from_le_bytes(offset) as usize)
    }

    /// Reads header, trailer and footer of the file `bytes`; the number of its blocks comes too.
    pub(super) fn open(bytes: &[u8], file: &Path) -> Result<(Self, u32), Corruption> {
        let wrong = |offset: usize, what| Corruption::new(file, offset as u64, what);
        if bytes.len() < HEADER_BYTES + TRAILER_BYTES || !bytes.len().is_multiple_of(8) {
            return Err(wrong(0, "a segment has an impossible length"));
        }
        if bytes[..HEADER_BYTES] != header() {
            return Err(wrong(0, "is not a segment of this version"));
        }
        let trailer_at = bytes.len() - TRAILER_BYTES;
        let trailer = (|| {
            let mut trailer = Reader::new(&bytes[trailer_at..]);
            let place = (trailer.u64()?, trailer.u64()?, trailer.u64()?);
            let blocks = trailer.u32()?;
            let ends_well = trailer.u32()? == VERSION && trailer.raw(8)? == MAGIC;
            Ok::<_, WireError>((place, blocks, ends_well))
        })();
        let Ok(((offset, len, sum), blocks, true)) = trailer else {
            return Err(wrong(trailer_at, "a segment does not end as one"));
        };
        let footer_at = usize::try_from(offset).unwrap_or(usize::MAX);
        let footer_end = usize::try_from(len)
            .ok()
            .and_then(|len| footer_at.checked_add(len));
        let footer_end = footer_end.filter(|&end| {
            footer_at % 8 == 0 && end <= trailer_at && trailer_at - end < 8 && footer_at <= end
        });
        let Some(footer_end) = footer_end else {
            return Err(wrong(trailer_at, "a segment's footer lies outside"));
        };
        let footer = &bytes[footer_at..footer_end];
        if !matches(footer, sum) || bytes[footer_end..trailer_at].iter().any(|&byte| byte != 0) {
            return Err(wrong(
                footer_at,
                "a segment's footer does not match its checksum",
            ));
        }
        let (footer, written_blocks) =
            Self::decode(footer).map_err(|error| wrong(footer_at + error.at, error.what))?;
        // A block is at least 8 bytes long, so the set of verified blocks stays small.
        if blocks != written_blocks || blocks as usize > bytes.len() / 8 {
            return Err(wrong(trailer_at, "a segment's number of blocks is wrong"));
        }
        Ok((footer, blocks))
    }

    fn decode(bytes: &[u8]) -> Result<(Self, u32), WireError> {
        let mut bytes = Reader::new(bytes);
        let kind = bytes.u32()?;
        let blocks = bytes.u32()?;
        let partition = match (kind, bytes.i64()?) {
            (0, 0) => Partition::Traits,
            (1, number) => Partition::Events(number),
            _ => return Err(bytes.error("a partition is of no known kind")),
        };
        let meta = SegmentMeta {
            partition,
            first_container: bytes.u16()?,
            last_container: bytes.u16()?,
            rows: bytes.u32()?,
            arrival: (bytes.u64()?, bytes.u64()?),
            min_time: bytes.i64()?,
            max_time: bytes.i64()?,
        };
        let users = BlockRef::decode(&mut bytes)?;
        let order = BlockRef::decode(&mut bytes)?;
        let has_overflow = match bytes.u32()? {
            0 => false,
            1 => true,
            _ => return Err(bytes.error("a flag is neither 0 nor 1")),
        };
        let count = bytes.count(ENTRY_BYTES)?;
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            runs.push(RunEntry {
                name: bytes.text()?.into(),
                rows: bytes.u32()?,
                users: bytes.u32()?,
                min_time: bytes.i64()?,
                max_time: bytes.i64()?,
                index: BlockRef::decode(&mut bytes)?,
            });
        }
        let footer = Self {
            meta,
            users,
            order,
            has_overflow,
            runs,
            body: bytes.u64()?,
        };
        footer.check().map_err(|what| bytes.error(what))?;
        bytes.finish()?;
        Ok((footer, blocks))
    }

    /// The invariants within the footer.
    fn check(&self) -> Result<(), &'static str> {
        let meta = &self.meta;
        let own =
            &self.runs[..self.runs.len() - usize::from(self.has_overflow).min(self.runs.len())];
        let overflow = self.runs.get(own.len());
        let rows: u64 = self.runs.iter().map(|run| u64::from(run.rows)).sum();
        let min = self.runs.iter().map(|run| run.min_time).min();
        let max = self.runs.iter().map(|run| run.max_time).max();
        let sound = |run: &RunEntry| {
            run.users > 0
                && run.users <= run.rows
                && run.min_time <= run.max_time
                && run.name.len() <= limits::MAX_NAME_BYTES
        };
        if rows != u64::from(meta.rows) || min != Some(meta.min_time) || max != Some(meta.max_time)
        {
            return Err("a segment and its runs differ");
        }
        if self.runs.len() > MAX_RUNS {
            return Err("a segment has too many runs");
        }
        if meta.first_container > meta.last_container || meta.arrival.0 > meta.arrival.1 {
            return Err("a segment's range is reversed");
        }
        if !self.runs.iter().all(sound) || !own.is_sorted_by(|a, b| a.name < b.name) {
            return Err("a segment's runs are out of order or empty");
        }
        if self.has_overflow && overflow.is_none_or(|run| !run.name.is_empty()) {
            return Err("a segment's overflow run is missing or named");
        }
        Ok(())
    }
}

/// The first bytes of every segment.
pub(super) fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

impl RunIndex {
    /// Where the users' counts are.
    pub(super) fn stored_counts(&self) -> counts::Stored<'_> {
        counts::Stored {
            area: &self.counts,
            users: self.users,
            rows: self.rows,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u32(self.rows);
        out.u32(self.users);
        out.i64(self.times_form.min);
        out.i64(self.times_form.max);
        out.u32(self.times_form.unit_micros as u32);
        out.u32(self.times_form.width);
        self.users_block.encode(&mut out);
        out.u32(self.containers.len() as u32);
        for start in &self.containers {
            out.u32(start.user);
            out.u32(start.row);
        }
        self.counts.encode(&mut out);
        self.times.encode(&mut out);
        self.ties.encode(&mut out);
        out.u32(self.days.len() as u32);
        for day in &self.days {
            out.u32(day.day as u32);
            out.u32(day.users);
            out.u64(day.offset);
            out.u32(day.len);
        }
        self.day_bitmaps.encode(&mut out);
        self.value_bitmaps.encode(&mut out);
        self.properties.encode(&mut out);
        for block in [self.values, self.names] {
            out.u32(u32::from(block.is_some()));
            if let Some(block) = block {
                block.encode(&mut out);
            }
        }
        out.finish()
    }

    /// Reads the index of the run `entry`, and the structure of its users' bitmap with it.
    pub(super) fn open(sealed: &Sealed, entry: &RunEntry) -> Result<Self, Corruption> {
        let block = &entry.index;
        let bytes = sealed.block(block)?;
        let index = Self::decode(sealed, bytes).map_err(|error| match error {
            Broken::Wire(error) => sealed.corrupt(block, error),
            Broken::Found(corruption) => corruption,
        })?;
        let what = index.check(entry).and_then(|()| {
            let users = sealed.block(&index.users_block);
            let users = users.map_err(|_| "a run's users are damaged")?;
            index.check_containers(BitmapView::from_shape(users, index.users_shape))
        });
        match what {
            Ok(()) => Ok(index),
            Err(what) => Err(Corruption::new(sealed.file(), block.offset, what)),
        }
    }

    fn decode(sealed: &Sealed, bytes: &[u8]) -> Result<Self, Broken> {
        let mut bytes = Reader::new(bytes);
        let (rows, users) = (bytes.u32()?, bytes.u32()?);
        let times_form = TimeForm {
            min: bytes.i64()?,
            max: bytes.i64()?,
            unit_micros: u64::from(bytes.u32()?),
            width: bytes.u32()?,
        };
        let users_block = BlockRef::decode(&mut bytes)?;
        let users_view = BitmapView::open(sealed.block(&users_block)?)
            .map_err(|error| sealed.corrupt(&users_block, error))?;
        let count = bytes.count(8)?;
        let mut containers = Vec::with_capacity(count);
        for _ in 0..count {
            let (user, row) = (bytes.u32()?, bytes.u32()?);
            containers.push(ContainerStart { user, row });
        }
        let counts = Area::decode(&mut bytes)?;
        let times = Area::decode(&mut bytes)?;
        let ties = Area::decode(&mut bytes)?;
        let count = bytes.count(20)?;
        let mut days = Vec::with_capacity(count);
        for _ in 0..count {
            days.push(DayEntry {
                day: bytes.u32()? as i32,
                users: bytes.u32()?,
                offset: bytes.u64()?,
                len: bytes.u32()?,
            });
        }
        let index = Self {
            rows,
            users,
            times_form,
            users_block,
            users_shape: users_view.shape(),
            containers,
            counts,
            times,
            ties,
            days,
            day_bitmaps: Area::decode(&mut bytes)?,
            value_bitmaps: Area::decode(&mut bytes)?,
            properties: BlockRef::decode(&mut bytes)?,
            values: optional_block(&mut bytes)?,
            names: optional_block(&mut bytes)?,
        };
        bytes.finish()?;
        Ok(index)
    }

    /// The invariants within the index, and between it and the footer.
    fn check(&self, entry: &RunEntry) -> Result<(), &'static str> {
        let form = &self.times_form;
        if (self.rows, self.users) != (entry.rows, entry.users)
            || (form.min, form.max) != (entry.min_time, entry.max_time)
        {
            return Err("a run and its entry in the footer differ");
        }
        if !form.is_valid() || self.times.len() != u64::from(self.rows) * u64::from(form.width) {
            return Err("a run's times have an impossible form");
        }
        if self.counts.len() < counts::table_len(self.users)
            || !self.ties.len().is_multiple_of(8)
            || self.ties.len() / 8 > u64::from(self.rows)
        {
            return Err("a run's counts or ties have an impossible size");
        }
        let fits = |day: &DayEntry| {
            day.offset.saturating_add(u64::from(day.len)) <= self.day_bitmaps.len()
                && day.users <= self.users
                && (day.len > 0 || day.users == self.users)
        };
        if !self.days.iter().all(fits) || !self.days.is_sorted_by(|a, b| a.day < b.day) {
            return Err("a run's days are inconsistent");
        }
        Ok(())
    }

    fn check_containers(&self, users: BitmapView<'_>) -> Result<(), &'static str> {
        if users.cardinality() != u64::from(self.users) {
            return Err("a run's containers do not cover it");
        }
        ContainerStart::check(&self.containers, users, self.rows)
    }
}

impl ContainerStart {
    /// The starts of containers agree with the users' bitmap, and rows are at least users.
    pub(super) fn check(
        containers: &[Self],
        users: BitmapView<'_>,
        rows: u32,
    ) -> Result<(), &'static str> {
        let first = Self { user: 0, row: 0 };
        let last = Self {
            user: users.cardinality() as u32,
            row: rows,
        };
        let ends = (containers.first(), containers.last());
        if ends != (Some(&first), Some(&last)) || containers.len() != users.container_count() + 1 {
            return Err("containers do not cover all rows");
        }
        for (pair, (_, cardinality)) in containers.windows(2).zip(users.keys()) {
            let users = pair[1].user.checked_sub(pair[0].user);
            let rows = pair[1].row.checked_sub(pair[0].row);
            if users != Some(cardinality) || rows < users {
                return Err("containers and their users differ");
            }
        }
        Ok(())
    }
}

/// What can be wrong with an index block: its own bytes, or a block that it names.
enum Broken {
    Wire(WireError),
    Found(Corruption),
}

impl From<WireError> for Broken {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<Corruption> for Broken {
    fn from(error: Corruption) -> Self {
        Self::Found(error)
    }
}

fn optional_block(bytes: &mut Reader<'_>) -> Result<Option<BlockRef>, WireError> {
    match bytes.u32()? {
        0 => Ok(None),
        1 => BlockRef::decode(bytes).map(Some),
        _ => Err(bytes.error("a flag is neither 0 nor 1")),
    }
}
