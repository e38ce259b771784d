//! Events and distinct users of each value of one property.
//!
//! All rows of a user lie in one morsel, so its pairs of user and value are sorted and each is
//! counted once; nobody holds a set of users for a value.

use std::collections::BTreeMap;
use std::ops::Range;

use hashbrown::HashMap;
use pugmark_engine::batch::Kind;
use pugmark_engine::codec::{Bounds, ColumnView, PartView};
use pugmark_engine::segment::{NameRun, UserStarts};
use pugmark_engine::{Corruption, Snapshot};

use crate::behaviour::{Condition, Skipped, TimeRange};

use super::Executor;
use super::columns::table_of;
use super::control::{Control, QueryError};
use super::digits;
use super::effort;
use super::intern::Interner;
use super::memory::Reservation;
use super::morsel::{self, Morsel};
use super::scan::{RunScan, Scan, Verdicts};
use super::traits::TraitTable;

/// Values of more bits make no number with a user that sorts fast.
const MOST_VALUE_BITS: u32 = 40;
/// Most values of a column of texts without codes: of more, most are different.
const MOST_LISTED: u32 = 1 << 10;

/// Whose events are counted, by which property: one of whole numbers, or of single texts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Audience {
    pub(crate) condition: Condition,
    pub(crate) range: TimeRange,
    pub(crate) property: String,
}

/// A value that events have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AudienceRow {
    /// `None` for the events without one.
    pub(crate) value: Option<AudienceValue>,
    pub(crate) events: u64,
    pub(crate) users: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AudienceValue {
    Whole(i64),
    Text(String),
}

/// How many events and users a value has.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    events: u64,
    users: u64,
}

impl Audience {
    /// True where this way of counting can answer about the snapshot.
    pub(crate) fn fits(&self, snapshot: &Snapshot) -> Result<bool, Corruption> {
        let mut span = Span::default();
        for source in &self.scan(snapshot).runs {
            let column = source.run.properties()?.get(&self.property)?;
            if !span.take(column.as_ref()) {
                return Ok(false);
            }
        }
        Ok(span.bits() <= MOST_VALUE_BITS)
    }

    fn scan<'a>(&self, snapshot: &'a Snapshot) -> Scan<'a> {
        Scan::prepare(snapshot, &[&self.condition], self.range, false)
    }
}

/// The numbers that values are.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    /// Least and greatest; `None` where there is no number.
    whole: Option<(i64, i64)>,
    /// Number of texts, some perhaps counted twice.
    texts: u64,
}

impl Span {
    /// Takes the values of a column in; false where they cannot be counted.
    fn take(&mut self, column: Option<&ColumnView<'_>>) -> bool {
        values_of(column).into_iter().all(|part| {
            let listed = part.plain().is_some() && part.len() <= MOST_LISTED;
            match (part.kind(), part.bounds(), part.coded()) {
                (Kind::I64, Bounds::Ints { min, max }, _) if self.texts == 0 => {
                    let (least, greatest) = self.whole.unwrap_or((min, max));
                    self.whole = Some((least.min(min), greatest.max(max)));
                    true
                }
                (Kind::Text, _, Some(coded)) if self.whole.is_none() => {
                    self.texts += u64::from(coded.len());
                    true
                }
                (Kind::Text, _, None) if listed && self.whole.is_none() => {
                    self.texts += u64::from(part.len());
                    true
                }
                _ => false,
            }
        })
    }

    /// The number that counts as 0.
    fn first(&self) -> i64 {
        self.whole.map_or(0, |(least, _)| least)
    }

    /// Beyond the numbers of all values.
    fn end(&self) -> u64 {
        match self.whole {
            Some((least, greatest)) => (greatest.wrapping_sub(least) as u64).saturating_add(1),
            None => self.texts,
        }
    }

    /// Bits of the numbers, that of no value included.
    fn bits(&self) -> u32 {
        u64::BITS - self.end().leading_zeros()
    }
}

impl Executor {
    /// Counts; rows come in the order of values, those without one last.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub(crate) fn audience(
        &self,
        audience: &Audience,
    ) -> Result<(Vec<AudienceRow>, Skipped), QueryError> {
        let control = Control::start(self.options());
        let (mut memory, mut tables) = (control.reservation(), control.reservation());
        let of = self.snapshot();
        let prepared = Prepared::new(audience, of, (&mut memory, &mut tables))?;
        let mut containers = BTreeMap::new();
        prepared.scan.count_rows(&mut containers, true)?;
        let morsels = morsel::cut(&containers, self.options().morsel_rows);
        let states = morsel::run(
            &morsels,
            self.threads(),
            &control,
            || Counting::new(&control),
            |counting, morsel| counting.morsel(&prepared, morsel),
        )?;
        let mut skipped = Skipped::default();
        let mut whole: HashMap<u64, Count> = HashMap::new();
        for state in states {
            skipped.merge(&state.skipped);
            for (number, count) in state.counts {
                let sum = whole.entry(number).or_default();
                sum.events += count.events;
                sum.users += count.users;
                memory.at_least(table_bytes(&whole))?;
            }
        }
        Ok((prepared.rows(whole, &mut memory)?, skipped))
    }
}

/// A question made ready for a snapshot.
struct Prepared<'a> {
    scan: Scan<'a>,
    /// For each run, what its rows hold.
    columns: Vec<Column<'a>>,
    span: Span,
    texts: Interner,
}

impl<'a> Prepared<'a> {
    fn new(
        audience: &Audience,
        snapshot: &'a Snapshot,
        (memory, tables): (&mut Reservation<'_>, &mut Reservation<'_>),
    ) -> Result<Self, QueryError> {
        let scan = audience.scan(snapshot);
        let (mut span, mut texts) = (Span::default(), Interner::default());
        let mut columns = Vec::with_capacity(scan.runs.len());
        let mut numbers_len = 0;
        for source in &scan.runs {
            let column = source.run.properties()?.get(&audience.property)?;
            span.take(column.as_ref());
            let column = Column::new(source.run, &audience.property, &mut texts, tables)?;
            numbers_len += column.numbers.len();
            memory.at_least(texts.byte_len() + numbers_len * size_of::<u32>())?;
            columns.push(column);
        }
        Ok(Self {
            scan,
            columns,
            span,
            texts,
        })
    }

    fn rows(
        self,
        counts: HashMap<u64, Count>,
        memory: &mut Reservation<'_>,
    ) -> Result<Vec<AudienceRow>, QueryError> {
        let (end, first) = (self.span.end(), self.span.first());
        memory
            .grow(counts.len() * size_of::<(u64, Count, AudienceRow)>() + self.texts.byte_len())?;
        let is_whole = self.span.whole.is_some();
        let texts = self.texts.into_texts();
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable_by_key(|&(number, _)| number);
        let row = |(number, count): (u64, Count)| {
            let value = match number {
                none if none == end => None,
                number if is_whole => Some(AudienceValue::Whole(first.wrapping_add(number as i64))),
                number => texts
                    .get(number as usize)
                    .map(|text| AudienceValue::Text(text.clone())),
            };
            AudienceRow {
                value,
                events: count.events,
                users: count.users,
            }
        };
        Ok(counts.into_iter().map(row).collect())
    }
}

/// A property in one run.
struct Column<'a> {
    run: NameRun<'a>,
    property: String,
    /// The number of each code's text, or of each text where there are no codes.
    numbers: Vec<u32>,
    /// The whole numbers that the values are stored through: unpacked here once, and not for every morsel.
    table: Vec<i64>,
}

/// The values that are no nulls, where there are any.
fn values_of<'c, 'a>(column: Option<&'c ColumnView<'a>>) -> Vec<&'c PartView<'a>> {
    let parts = column.map_or(&[][..], |column| column.parts());
    let is_value = |part: &&PartView<'_>| part.kind() != Kind::Null;
    parts.iter().filter(is_value).collect()
}

impl<'a> Column<'a> {
    fn new(
        run: NameRun<'a>,
        property: &str,
        texts: &mut Interner,
        tables: &mut Reservation<'_>,
    ) -> Result<Self, Corruption> {
        let column = run.properties()?.get(property)?;
        let (mut numbers, mut table) = (Vec::new(), Vec::new());
        for part in values_of(column.as_ref()) {
            if part.kind() == Kind::I64 {
                table = table_of(part, tables)?;
            } else if let Some(coded) = part.coded() {
                for code in 0..coded.len() {
                    numbers.push(texts.number(coded.value(code)?));
                }
            } else if let Some(plain) = part.plain() {
                plain.for_each(0..part.len(), |_, text| numbers.push(texts.number(text)))?;
            }
        }
        Ok(Self {
            run,
            property: property.to_owned(),
            numbers,
            table,
        })
    }

    /// What neighbouring rows hold, as numbers; `span.end()` for nothing.
    fn read(
        &self,
        span: &Span,
        rows: &Range<u32>,
        scratch: &mut ColumnScratch,
    ) -> Result<(), Corruption> {
        let ColumnScratch {
            values,
            ints,
            codes,
            present,
        } = scratch;
        values.clear();
        values.resize(rows.len(), span.end());
        let column = self.run.properties()?.get(&self.property)?;
        for part in values_of(column.as_ref()) {
            let indices = part.indices(rows.clone());
            codes.clear();
            ints.clear();
            if part.kind() == Kind::I64 && !self.table.is_empty() {
                part.table_codes(indices.clone(), codes)?;
                ints.extend(codes.iter().map(|&code| self.table[code as usize]));
            } else if part.kind() == Kind::I64 {
                part.ints(indices.clone(), ints)?;
            } else if let Some(coded) = part.coded() {
                coded.codes(indices.clone(), codes)?;
            } else {
                codes.extend(indices.clone());
            }
            let first = span.first();
            // Damaged values may be beyond their bounds.
            let whole = |&value: &i64| (value.wrapping_sub(first) as u64).min(span.end());
            let text = |&code: &u32| u64::from(self.numbers[code as usize]);
            let is_whole = part.kind() == Kind::I64;
            let number = |place: usize| match is_whole {
                true => whole(&ints[place]),
                false => text(&codes[place]),
            };
            if indices.len() == rows.len() {
                for (place, value) in values.iter_mut().enumerate() {
                    *value = number(place);
                }
                continue;
            }
            present.clear();
            part.fill_rows(indices, present);
            for (place, row) in present.iter().enumerate() {
                // Damaged rows may be anybody's.
                if rows.contains(row) {
                    values[(row - rows.start) as usize] = number(place);
                }
            }
        }
        Ok(())
    }
}

/// Working memory of [`Column::read`].
#[derive(Default)]
struct ColumnScratch {
    /// A number for each row.
    values: Vec<u64>,
    ints: Vec<i64>,
    codes: Vec<u32>,
    present: Vec<u32>,
}

/// What a row takes while it is read.
const ROW_BYTES: usize = 2 * (size_of::<u64>() + size_of::<u32>());

/// What a thread counts.
struct Counting<'c> {
    counts: HashMap<u64, Count>,
    /// Users and values of a morsel's rows, as numbers.
    pairs: Vec<u64>,
    spare: Vec<u64>,
    found: UserStarts,
    column: ColumnScratch,
    skipped: Skipped,
    control: &'c Control,
    memory: Reservation<'c>,
}

impl<'c> Counting<'c> {
    fn new(control: &'c Control) -> Self {
        Self {
            counts: HashMap::new(),
            pairs: Vec::new(),
            spare: Vec::new(),
            found: UserStarts::default(),
            column: ColumnScratch::default(),
            skipped: Skipped::default(),
            control,
            memory: control.reservation(),
        }
    }

    fn morsel(&mut self, prepared: &Prepared<'_>, morsel: &Morsel) -> Result<(), QueryError> {
        self.pairs.clear();
        for (source, column) in prepared.scan.runs.iter().zip(&prepared.columns) {
            self.put(prepared, source, column, morsel)?;
        }
        let bits = prepared.span.bits();
        let width = morsel.lows.end - morsel.lows.start;
        let low_bits = u32::BITS - (width - 1).leading_zeros();
        digits::sort(&mut self.pairs, &mut self.spare, 0..bits + low_bits);
        for same in self.pairs.chunk_by(|one, other| one == other) {
            let count = self.counts.entry(same[0] & ((1 << bits) - 1)).or_default();
            count.events += same.len() as u64;
            count.users += 1;
        }
        self.reserve(0)
    }

    /// Adds the pairs of one run's rows.
    fn put(
        &mut self,
        prepared: &Prepared<'_>,
        source: &RunScan<'_>,
        column: &Column<'_>,
        morsel: &Morsel,
    ) -> Result<(), QueryError> {
        let (lows, found) = (morsel.lows.clone(), &mut self.found);
        source.run.user_starts(morsel.key, lows, found)?;
        let rows = found.rows();
        if rows.is_empty() {
            return Ok(());
        }
        effort::rows(rows.len());
        effort::values(rows.len(), 1);
        self.reserve(rows.len())?;
        let (traits, skipped) = (TraitTable::default(), &mut self.skipped);
        let verdicts = source.evaluate(&rows, &Vec::new, &traits, self.control, skipped)?;
        if matches!(verdicts[0], Verdicts::None) {
            return Ok(());
        }
        let times = source.run.times(rows.clone())?;
        column.read(&prepared.span, &rows, &mut self.column)?;
        let is_counted = |row: usize| {
            let inside = source.whole || prepared.scan.range.contains(times.get(row));
            inside && verdicts[0].at(row)
        };
        let every_row = source.whole && matches!(verdicts[0], Verdicts::All);
        let bits = prepared.span.bits();
        let values = &self.column.values;
        let pairs = &mut self.pairs;
        self.found.for_each(|low, own| {
            let user = (u64::from(low) - u64::from(morsel.lows.start)) << bits;
            let own = (own.start - rows.start) as usize..(own.end - rows.start) as usize;
            let counted = own.filter(|&row| every_row || is_counted(row));
            pairs.extend(counted.map(|row| user | values[row]));
        });
        Ok(())
    }

    /// Reserves what is held, and what so many rows more take.
    fn reserve(&mut self, rows: usize) -> Result<(), QueryError> {
        let pairs = (self.pairs.len() + rows) * 2 * size_of::<u64>();
        let held = pairs + rows * ROW_BYTES + table_bytes(&self.counts);
        self.memory.at_least(held)
    }
}

/// What a table holds, the room that it keeps free included.
fn table_bytes(counts: &HashMap<u64, Count>) -> usize {
    counts.capacity() * 2 * (size_of::<(u64, Count)>() + 1)
}
