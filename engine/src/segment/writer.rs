//! Laying a segment out: run by run, then the footer.

use std::collections::BTreeMap;

use super::area::Area;
use super::counts;
use super::days::DayBuilder;
use super::layout::{self, ContainerStart, DayEntry, Footer, NAMES_PROPERTY, RunEntry, RunIndex};
use super::order::{OrderedRows, WrittenRun};
use super::times::TimeForm;
use super::values::{self, UserRuns};
use super::{Partition, SegmentImage, SegmentMeta};
use crate::batch::{Column, Part, Presence, Property, TextColumn, Values};
use crate::bitmap::{BitmapBuilder, BitmapView, Words, split};
use crate::codec::encode_properties;
use crate::format::{BlockRef, ImageWriter};

/// The rows of one run, sorted by (ordinal, time, arrival).
#[derive(Clone, Debug, Default)]
pub(super) struct RunRows {
    /// The run's users, ascending.
    pub(super) users: Vec<u32>,
    /// How many rows each user has, at least 1.
    pub(super) counts: Vec<u32>,
    /// Microseconds since 1970-01-01 UTC, one a row.
    pub(super) times: Vec<i64>,
    /// `[row, rank]` of the rows that share user and time with rows of another run.
    pub(super) ties: Vec<[u32; 2]>,
}

impl RunRows {
    /// Room for `rows` rows.
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self {
            times: Vec::with_capacity(rows),
            ..Self::default()
        }
    }

    /// Appends a row, which must not come before the last.
    pub(super) fn push(&mut self, user: u32, time: i64, rank: u32) {
        if self.users.last() == Some(&user) {
            if let Some(count) = self.counts.last_mut() {
                *count += 1;
            }
        } else {
            self.users.push(user);
            self.counts.push(1);
        }
        if rank > 0 {
            self.ties.push([self.times.len() as u32, rank]);
        }
        self.times.push(time);
    }
}

/// Builds the image of one segment. Runs come in the order of their names, overflow last.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    image: ImageWriter,
    partition: Partition,
    arrival: (u64, u64),
    has_overflow: bool,
    compressed: bool,
    runs: Vec<RunEntry>,
    /// The users of all runs.
    users: BTreeMap<u16, Words>,
}

/// A run whose rows are written and whose properties are not yet.
#[derive(Debug)]
pub(super) struct OpenRun {
    rows: u32,
    form: TimeForm,
    users: Vec<u32>,
    counts: Vec<u32>,
    users_block: BlockRef,
    containers: Vec<ContainerStart>,
    counts_area: Area,
    times: Area,
    ties: Vec<[u32; 2]>,
    ties_area: Area,
    days: Vec<DayEntry>,
    day_bitmaps: Area,
}

impl SegmentWriter {
    pub(super) fn new(partition: Partition, arrival: (u64, u64), compressed: bool) -> Self {
        Self {
            image: ImageWriter::new(&layout::header()),
            partition,
            arrival,
            has_overflow: false,
            compressed,
            runs: Vec::new(),
            users: BTreeMap::new(),
        }
    }

    /// Appends the rows of a run, of which there must be some. Its properties follow with
    /// [`SegmentWriter::end_run`], so that the rows need no memory any more when they are made.
    pub(super) fn begin_run(&mut self, rows: RunRows) -> OpenRun {
        let RunRows {
            users,
            counts,
            times,
            ties,
        } = rows;
        let (bitmap, containers) = self.users(&users, &counts);
        let users_block = self.image.block(&bitmap);
        let counts_area = counts::write(&mut self.image, &counts);
        let form = TimeForm::of(&times);
        let times_area = form.write(&mut self.image, &times);
        let ties_area = Area::write(&mut self.image, bytemuck::cast_slice(&ties));
        let (days, day_bitmaps) = match self.partition {
            Partition::Traits => Default::default(),
            Partition::Events(_) => {
                DayBuilder::of(&users, &counts, &times).write(&mut self.image, users.len() as u32)
            }
        };
        OpenRun {
            rows: times.len() as u32,
            form,
            users,
            counts,
            users_block,
            containers,
            counts_area,
            times: times_area,
            ties,
            ties_area,
            days,
            day_bitmaps,
        }
    }

    /// Appends the properties of a run and ends it. `name` is `None` for the overflow run, whose
    /// rows have the event names `names`. Gives what the order of its rows among others follows
    /// from.
    pub(super) fn end_run(
        &mut self,
        run: OpenRun,
        name: Option<&str>,
        properties: &[Property],
        names: Option<TextColumn>,
    ) -> WrittenRun {
        let users = UserRuns {
            users: &run.users,
            counts: &run.counts,
        };
        let (values, value_bitmaps) = values::write(&mut self.image, properties, users);
        let properties = encode_properties(properties, run.rows, self.compressed, &mut self.image);
        let names = names.map(|names| {
            let column = Column {
                rows: run.rows,
                parts: vec![Part {
                    presence: Presence::All,
                    values: Values::Text(names),
                }],
            };
            let name = NAMES_PROPERTY.to_owned();
            let names = [Property { name, column }];
            encode_properties(&names, run.rows, self.compressed, &mut self.image)
        });
        let index = RunIndex {
            rows: run.rows,
            users: run.users.len() as u32,
            times_form: run.form,
            users_block: run.users_block,
            users_shape: BitmapView::EMPTY.shape(),
            containers: run.containers,
            counts: run.counts_area,
            times: run.times,
            ties: run.ties_area,
            days: run.days,
            day_bitmaps: run.day_bitmaps,
            value_bitmaps,
            properties,
            values,
            names,
        };
        let times = index.times.offset() as usize;
        let times = times..times + index.times.len() as usize;
        let index = self.image.block(&index.encode());
        assert!(
            self.runs.len() < layout::MAX_RUNS,
            "a segment's runs are numbered in 16 bits"
        );
        self.has_overflow = name.is_none();
        self.runs.push(RunEntry {
            name: name.unwrap_or_default().into(),
            rows: run.rows,
            users: run.users.len() as u32,
            min_time: run.form.min,
            max_time: run.form.max,
            index,
        });
        WrittenRun {
            users: run.users,
            counts: run.counts,
            form: run.form,
            times,
            ties: run.ties,
        }
    }

    /// The order of all rows, for whoever does not know it; see [`OrderedRows::of_runs`].
    pub(super) fn order<E>(
        &self,
        runs: &[WrittenRun],
        check: impl Fn() -> Result<(), E>,
    ) -> Result<OrderedRows, E> {
        OrderedRows::of_runs(self.image.bytes(), &self.users, runs, check)
    }

    /// The bitmap of a run's users and where each container begins.
    fn users(&mut self, users: &[u32], counts: &[u32]) -> (Vec<u8>, Vec<ContainerStart>) {
        let mut builder = BitmapBuilder::new();
        let mut containers = Vec::new();
        let (mut user, mut row) = (0, 0);
        let mut lows = Vec::new();
        for (key, range) in containers_of(users) {
            containers.push(ContainerStart { user, row });
            lows.clear();
            lows.extend(users[range.clone()].iter().map(|&user| user as u16));
            builder.push(key, &lows);
            self.users
                .entry(key)
                .or_default()
                .extend(lows.iter().copied());
            user += range.len() as u32;
            row += counts[range].iter().sum::<u32>();
        }
        containers.push(ContainerStart { user, row });
        (builder.finish(), containers)
    }

    /// The finished segment, of which `order` is the order of all rows; `None` where it has none.
    pub(super) fn finish(mut self, order: OrderedRows) -> Option<SegmentImage> {
        let first_container = *self.users.keys().next()?;
        let last_container = *self.users.keys().next_back()?;
        let mut builder = BitmapBuilder::new();
        for (&key, words) in &self.users {
            builder.push_words(key, words);
        }
        let users = self.image.block(&builder.finish());
        let order = order.write(&mut self.image, self.runs.len());
        let order = self.image.block(&order.encode());
        let meta = SegmentMeta {
            partition: self.partition,
            first_container,
            last_container,
            arrival: self.arrival,
            rows: self.runs.iter().map(|run| run.rows).sum(),
            min_time: self.runs.iter().map(|run| run.min_time).min()?,
            max_time: self.runs.iter().map(|run| run.max_time).max()?,
        };
        let footer = Footer {
            meta,
            users,
            order,
            has_overflow: self.has_overflow,
            runs: self.runs,
            body: 0,
        };
        let bytes = footer.seal(self.image);
        Some(SegmentImage { meta, bytes })
    }
}

/// The containers of ascending ordinals, each with the range of its users.
pub(super) fn containers_of(users: &[u32]) -> impl Iterator<Item = (u16, std::ops::Range<usize>)> {
    let mut start = 0;
    users
        .chunk_by(|&left, &right| split(left).0 == split(right).0)
        .map(move |chunk| {
            let range = start..start + chunk.len();
            start = range.end;
            (split(chunk[0]).0, range)
        })
}
