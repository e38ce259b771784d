//! Columns in new shapes: rows picked in a new order, cut out, or joined end to end.
//!
//! Flush and compaction run on these, so every function works on whole parts: first it finds for
//! each picked row the source and the index of its value, then it copies values kind by kind.
//! Nothing here knows why rows move, nor anything of files.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;

use hashbrown::HashMap;

use super::{Column, Kind, ListColumn, Part, Presence, StringTable, TextColumn, Values};

/// Stands for "no entry" in the tables of codes and positions below.
const NONE: u32 = u32::MAX;

/// Below this many times the picked rows, a table over all rows of a source is worth building.
const TABLE_FACTOR: usize = 8;

/// Picks that are looked up together; in tests, few.
const PICKS_AT_ONCE: usize = if cfg!(test) { 16 } else { 1 << 10 };

/// Where a value lies: the source and the index among its part's values.
type Found = (u32, u32);

/// The columns one after the other; `None` stands for that many rows without a value.
///
/// Cost: one copy of each value; texts of several columns are hashed once for each entry of
/// their dictionaries that is in use.
pub fn concat(columns: &[(Option<&Column>, u32)]) -> Column {
    let sources: Vec<Option<&Column>> = columns.iter().map(|(column, _)| *column).collect();
    let rows = columns.iter().map(|(_, rows)| rows).sum();
    let parts = kinds_of(&sources).map(|kind| {
        let (mut present, mut found) = (Vec::new(), Vec::new());
        let mut first_row = 0;
        for (source, &(column, rows)) in (0u32..).zip(columns) {
            if let Some(part) = column.and_then(|column| column.part(kind)) {
                found.extend((0..part.values.len() as u32).map(|index| (source, index)));
                match &part.presence {
                    Presence::All => present.extend(first_row..first_row + rows),
                    Presence::Rows(rows) => present.extend(rows.iter().map(|row| first_row + row)),
                }
            }
            first_row += rows;
        }
        part_of(kind, &sources, present, &found, rows)
    });
    let parts = parts.collect();
    Column { rows, parts }
}

/// The rows `rows` of a column, in that order; a row may be picked more than once.
///
/// Panics where a row is out of range, as slices do.
pub fn gather(column: &Column, rows: &[u32]) -> Column {
    let picks: Vec<Found> = rows.iter().map(|&row| (0, row)).collect();
    gather_many(&[Some(column)], &picks)
}

/// Picks rows `(source, row)` of several columns, in that order; `None` is a source without any
/// value. Where many columns are gathered by the same picks, [`Picks`] saves work; where one is
/// gathered by several picks, [`Sources`] does.
///
/// Panics where a source or a row is out of range, as slices do.
pub fn gather_many(sources: &[Option<&Column>], picks: &[(u32, u32)]) -> Column {
    Picks::new(picks).column(&Sources::new(sources, picks.len()))
}

/// The rows in a range of a column.
///
/// Cost: grows with the values in the range, hardly with the column.
pub fn slice(column: &Column, rows: Range<u32>) -> Column {
    let sources = [Some(column)];
    let length = rows.end - rows.start;
    let mut parts = Vec::with_capacity(column.parts.len());
    for part in &column.parts {
        let indices = indices_in(&part.presence, &rows);
        if indices.is_empty() {
            continue;
        }
        let present = match &part.presence {
            Presence::All => (0..length).collect(),
            Presence::Rows(present) => present[indices.start as usize..indices.end as usize]
                .iter()
                .map(|row| row - rows.start)
                .collect(),
        };
        let found: Vec<Found> = indices.map(|index| (0, index)).collect();
        let kind = part.values.kind();
        parts.push(part_of(kind, &sources, present, &found, length));
    }
    Column {
        rows: length,
        parts,
    }
}

/// The indices of the values of a range of rows.
fn indices_in(presence: &Presence, rows: &Range<u32>) -> Range<u32> {
    match presence {
        Presence::All => rows.clone(),
        Presence::Rows(present) => {
            let start = present.partition_point(|&row| row < rows.start);
            let end = present.partition_point(|&row| row < rows.end);
            start as u32..end as u32
        }
    }
}

/// Rows to pick, `(source, row)` each, for any number of columns.
#[derive(Debug)]
pub struct Picks<'a> {
    picks: &'a [(u32, u32)],
    positions: OnceCell<Option<Positions>>,
}

/// Columns to pick from, any number of times; `None` is a source without any value.
#[derive(Debug)]
pub struct Sources<'a> {
    columns: Vec<Option<&'a Column>>,
    /// The kinds that occur, each with how values are found in each source.
    kinds: Vec<(Kind, Vec<Locator<'a>>)>,
}

impl<'a> Sources<'a> {
    /// Prepares columns of which about `picks` rows will be picked in all.
    ///
    /// Cost: a step for each row that a column has a value for, where some rows have none.
    pub fn new(columns: &[Option<&'a Column>], picks: usize) -> Self {
        let locators = |kind: Kind| {
            let part = |column: &Option<&'a Column>| column.and_then(|column| column.part(kind));
            let presence = columns
                .iter()
                .map(|column| part(column).map(|part| &part.presence));
            let locators = presence.map(|presence| Locator::new(presence, picks));
            (kind, locators.collect())
        };
        Self {
            kinds: kinds_of(columns).map(locators).collect(),
            columns: columns.to_vec(),
        }
    }
}

/// For each row of each source, the position at which it is picked.
#[derive(Debug)]
struct Positions {
    /// First entry of each source in `positions`.
    starts: Vec<usize>,
    positions: Vec<u32>,
}

impl<'a> Picks<'a> {
    /// Picks these rows, in this order.
    pub fn new(picks: &'a [(u32, u32)]) -> Self {
        assert!(
            u32::try_from(picks.len()).is_ok(),
            "a column holds under 2^32 rows"
        );
        Self {
            picks,
            positions: OnceCell::new(),
        }
    }

    /// The picked rows of the columns `sources`.
    ///
    /// Cost: a few nanoseconds for each picked value; where the sources hold few values, about
    /// the number of these, not of the picks.
    pub fn column(&self, sources: &Sources<'_>) -> Column {
        let rows = self.picks.len() as u32;
        let mut parts = Vec::new();
        for (kind, locators) in &sources.kinds {
            let found = self.find(*kind, locators, &sources.columns);
            if !found.1.is_empty() {
                parts.push(part_of(*kind, &sources.columns, found.0, &found.1, rows));
            }
        }
        Column { rows, parts }
    }

    /// The output rows that have a value of `kind`, and where each value lies. The rows are left
    /// empty where that is every row.
    fn find(
        &self,
        kind: Kind,
        locators: &[Locator<'_>],
        sources: &[Option<&Column>],
    ) -> (Vec<u32>, Cow<'a, [Found]>) {
        let everywhere = |locator: &Locator<'_>| matches!(locator, Locator::All);
        if locators.iter().all(everywhere) {
            return (Vec::new(), Cow::Borrowed(self.picks));
        }
        let parts: Vec<Option<&Part>> = sources
            .iter()
            .map(|source| source.and_then(|column| column.part(kind)))
            .collect();
        let values: usize = parts.iter().flatten().map(|part| part.values.len()).sum();
        let sparse = values.saturating_mul(TABLE_FACTOR) < self.picks.len();
        let (present, found) = match self.positions().filter(|_| sparse) {
            Some(positions) => positions.find(&parts),
            None => self.look_up(locators),
        };
        (present, Cow::Owned(found))
    }

    /// Asks for each pick whether its row has a value.
    fn look_up(&self, locators: &[Locator<'_>]) -> (Vec<u32>, Vec<Found>) {
        let (mut present, mut found) = (Vec::new(), Vec::new());
        let bits: Option<Vec<&[(u64, u32)]>> = locators.iter().map(Locator::bits).collect();
        if let Some(bits) = bits {
            self.look_up_bits(&bits, &mut present, &mut found);
            return (present, found);
        }
        for (position, &(source, row)) in (0u32..).zip(self.picks) {
            if let Some(index) = locators[source as usize].index_of(row) {
                present.push(position);
                found.push((source, index));
            }
        }
        (present, found)
    }

    /// The same, where bits tell. They lie anywhere in memory, and which are set nobody can foresee: each pick
    /// is written and mostly overwritten, so that nothing waits for one.
    fn look_up_bits(&self, bits: &[&[(u64, u32)]], present: &mut Vec<u32>, found: &mut Vec<Found>) {
        let mut some = [(0, (0, 0)); PICKS_AT_ONCE];
        for (picks, first) in self
            .picks
            .chunks(PICKS_AT_ONCE)
            .zip((0u32..).step_by(PICKS_AT_ONCE))
        {
            let mut count = 0;
            for (&(source, row), position) in picks.iter().zip(first..) {
                let word = bits[source as usize].get(row as usize / 64);
                let (word, before) = word.copied().unwrap_or_default();
                let bit = 1u64 << (row % 64);
                let index = before + (word & (bit - 1)).count_ones();
                some[count % PICKS_AT_ONCE] = (position, (source, index));
                count += usize::from(word & bit != 0);
            }
            present.extend(some[..count].iter().map(|&(position, _)| position));
            found.extend(some[..count].iter().map(|&(_, found)| found));
        }
    }

    /// The inverse of the picks; none where a row is picked twice, or the picks are so few of
    /// the sources' rows that the table would cost more than it saves.
    fn positions(&self) -> Option<&Positions> {
        self.positions.get_or_init(|| self.invert()).as_ref()
    }

    fn invert(&self) -> Option<Positions> {
        let mut lengths: Vec<usize> = Vec::new();
        for &(source, row) in self.picks {
            let source = source as usize;
            if source >= lengths.len() {
                lengths.resize(source + 1, 0);
            }
            lengths[source] = lengths[source].max(row as usize + 1);
        }
        let mut total = 0;
        let starts: Vec<usize> = lengths
            .iter()
            .map(|length| {
                total += length;
                total - length
            })
            .collect();
        if total > self.picks.len().saturating_mul(TABLE_FACTOR) {
            return None;
        }
        let mut positions = vec![NONE; total];
        for (position, &(source, row)) in (0u32..).zip(self.picks) {
            let slot = &mut positions[starts[source as usize] + row as usize];
            if std::mem::replace(slot, position) != NONE {
                return None;
            }
        }
        Some(Positions { starts, positions })
    }
}

impl Positions {
    /// Asks for each value whether its row is picked, and where.
    fn find(&self, parts: &[Option<&Part>]) -> (Vec<u32>, Vec<Found>) {
        let mut picked: Vec<(u32, Found)> = Vec::new();
        for (source, part) in parts.iter().enumerate() {
            let Some(part) = part else { continue };
            let mut look_at = |row: u32, index: u32| {
                let position = self.position(source, row as usize);
                if position != NONE {
                    picked.push((position, (source as u32, index)));
                }
            };
            match &part.presence {
                Presence::All => (0..part.values.len() as u32).for_each(|row| look_at(row, row)),
                Presence::Rows(rows) => {
                    (0u32..)
                        .zip(rows)
                        .for_each(|(index, &row)| look_at(row, index));
                }
            }
        }
        picked.sort_unstable_by_key(|(position, _)| *position);
        picked.into_iter().unzip()
    }

    fn position(&self, source: usize, row: usize) -> u32 {
        let Some(&start) = self.starts.get(source) else {
            return NONE;
        };
        let end = self.starts.get(source + 1).copied();
        let end = end.unwrap_or(self.positions.len());
        self.positions[start..end].get(row).copied().unwrap_or(NONE)
    }
}

/// Finds the index of a row's value, in the way that fits the number of questions.
#[derive(Debug)]
enum Locator<'a> {
    Missing,
    All,
    Search(&'a [u32]),
    /// A bit for each row, and the number of present rows before each word.
    Bits(Vec<(u64, u32)>),
}

impl<'a> Locator<'a> {
    fn new(presence: Option<&'a Presence>, questions: usize) -> Self {
        let rows = match presence {
            None => return Self::Missing,
            Some(Presence::All) => return Self::All,
            Some(Presence::Rows(rows)) => rows,
        };
        let words = rows.last().map_or(0, |&last| last as usize / 64 + 1);
        if words > questions {
            return Self::Search(rows);
        }
        let mut bits = vec![(0u64, 0u32); words];
        for row in rows {
            bits[*row as usize / 64].0 |= 1 << (row % 64);
        }
        let mut before = 0;
        for (word, rank) in &mut bits {
            *rank = before;
            before += word.count_ones();
        }
        Self::Bits(bits)
    }

    /// The bits that tell of every row, where they do.
    fn bits(&self) -> Option<&[(u64, u32)]> {
        match self {
            Self::Missing => Some(&[]),
            Self::Bits(bits) => Some(bits),
            Self::All | Self::Search(_) => None,
        }
    }

    fn index_of(&self, row: u32) -> Option<u32> {
        match self {
            Self::Missing => None,
            Self::All => Some(row),
            Self::Search(rows) => rows.binary_search(&row).ok().map(|index| index as u32),
            Self::Bits(bits) => {
                let &(word, before) = bits.get(row as usize / 64)?;
                let bit = 1u64 << (row % 64);
                (word & bit != 0).then(|| before + (word & (bit - 1)).count_ones())
            }
        }
    }
}

/// The kinds that occur in any of the columns, in a fixed order.
fn kinds_of(sources: &[Option<&Column>]) -> impl Iterator<Item = Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for part in sources.iter().flatten().flat_map(|column| &column.parts) {
        let kind = part.values.kind();
        if !kinds.contains(&kind) && !part.values.is_empty() {
            kinds.push(kind);
        }
    }
    kinds.sort_unstable();
    kinds.into_iter()
}

/// The part of `kind` with the values `found`, on the rows `present` out of `rows`.
fn part_of(
    kind: Kind,
    sources: &[Option<&Column>],
    present: Vec<u32>,
    found: &[Found],
    rows: u32,
) -> Part {
    let presence = if found.len() == rows as usize {
        Presence::All
    } else {
        Presence::Rows(present)
    };
    let values: Vec<Option<&Values>> = sources
        .iter()
        .map(|source| Some(&source.as_ref()?.part(kind)?.values))
        .collect();
    Part {
        presence,
        values: pick_values(kind, &values, found),
    }
}

/// Copies the values at `found` out of `$sources`, which are slices behind one variant.
macro_rules! pick {
    ($sources:expr, $found:expr, $variant:ident) => {{
        let slices: Vec<&[_]> = $sources
            .iter()
            .map(|source| match source {
                Some(Values::$variant(values)) => values.as_slice(),
                _ => &[],
            })
            .collect();
        Values::$variant(pick_slices(&slices, $found))
    }};
}

fn pick_values(kind: Kind, sources: &[Option<&Values>], found: &[Found]) -> Values {
    match kind {
        Kind::Null => Values::Null(found.len() as u32),
        Kind::Bool => pick!(sources, found, Bool),
        Kind::I64 => pick!(sources, found, I64),
        Kind::F64 => pick!(sources, found, F64),
        Kind::Timestamp => pick!(sources, found, Timestamp),
        Kind::Text => Values::Text(pick_texts(sources, found)),
        Kind::List => Values::List(pick_lists(sources, found)),
    }
}

fn pick_slices<T: Copy>(sources: &[&[T]], found: &[Found]) -> Vec<T> {
    if let [only] = sources {
        return found
            .iter()
            .map(|&(_, index)| only[index as usize])
            .collect();
    }
    found
        .iter()
        .map(|&(source, index)| sources[source as usize][index as usize])
        .collect()
}

/// From a source's codes to those of the text column under construction.
enum Remap {
    Table(Vec<u32>),
    /// For few picks from a large dictionary.
    Map(HashMap<u32, u32>),
}

impl Remap {
    fn new(dictionary: usize, picks: usize) -> Self {
        if dictionary > picks.saturating_mul(TABLE_FACTOR) {
            Self::Map(HashMap::new())
        } else {
            Self::Table(vec![NONE; dictionary])
        }
    }

    fn get_or(&mut self, code: u32, new: impl FnOnce() -> u32) -> u32 {
        match self {
            Self::Table(table) => {
                let slot = &mut table[code as usize];
                if *slot == NONE {
                    *slot = new();
                }
                *slot
            }
            Self::Map(map) => *map.entry(code).or_insert_with(new),
        }
    }
}

fn pick_texts(sources: &[Option<&Values>], found: &[Found]) -> TextColumn {
    let texts: Vec<Option<&TextColumn>> = sources
        .iter()
        .map(|source| match source {
            Some(Values::Text(text)) => Some(text),
            _ => None,
        })
        .collect();
    let mut remaps: Vec<Remap> = texts
        .iter()
        .map(|text| Remap::new(text.map_or(0, |text| text.values.len()), found.len()))
        .collect();
    // Entries of one dictionary are distinct as a rule; only several can share texts.
    let several = texts.iter().flatten().count() > 1;
    let mut known: HashMap<&str, u32> = HashMap::new();
    let mut values = StringTable::default();
    let slices: Vec<&[u32]> = texts
        .iter()
        .map(|text| text.map_or(&[][..], |text| &text.codes))
        .collect();
    // The codes lie anywhere in memory. Nothing waits for one of them before they are all asked for.
    let mut codes = pick_slices(&slices, found);
    for (code, &(source, _)) in codes.iter_mut().zip(found) {
        let old = *code;
        *code = remaps[source as usize].get_or(old, || {
            let entry = texts[source as usize].map_or("", |text| text.values.get(old as usize));
            if several {
                *known.entry(entry).or_insert_with(|| values.push(entry))
            } else {
                values.push(entry)
            }
        });
    }
    TextColumn { codes, values }
}

fn pick_lists(sources: &[Option<&Values>], found: &[Found]) -> ListColumn {
    let lists: Vec<Option<&ListColumn>> = sources
        .iter()
        .map(|source| match source {
            Some(Values::List(list)) => Some(list),
            _ => None,
        })
        .collect();
    let mut ends = Vec::with_capacity(found.len());
    let mut picks: Vec<Found> = Vec::new();
    for &(source, index) in found {
        let Some(list) = lists[source as usize] else {
            continue;
        };
        picks.extend(list.range(index as usize).map(|element| (source, element)));
        ends.push(picks.len() as u32);
    }
    let elements: Vec<Option<&Column>> = lists
        .iter()
        .map(|list| list.map(|list| &*list.elements))
        .collect();
    // Sources without lists have no picks, and would hide that all others are complete.
    let elements = Box::new(gather_many(&elements, &picks));
    ListColumn { ends, elements }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::testing::{assert_sound, bits, cells, column_of, rows_of};
    use crate::value::Value;

    type Rows = Vec<Option<Value>>;

    /// Several columns, some missing altogether.
    fn sources() -> impl Strategy<Value = Vec<(Option<Rows>, u32)>> {
        prop::collection::vec((any::<bool>(), cells(0..40)), 1..5).prop_map(|sources| {
            let source = |(missing, rows): (bool, Rows)| {
                let length = rows.len() as u32;
                ((!missing).then_some(rows), length)
            };
            sources.into_iter().map(source).collect()
        })
    }

    fn columns(sources: &[(Option<Rows>, u32)]) -> Vec<Option<Column>> {
        let column = |(rows, _): &(Option<Rows>, u32)| rows.as_deref().map(column_of);
        sources.iter().map(column).collect()
    }

    fn check(found: &Column, expected: &[Option<Value>]) {
        assert_eq!(bits(&rows_of(found)), bits(expected));
        assert_eq!(found.rows as usize, expected.len());
        assert_sound(found);
        for part in &found.parts {
            assert!(!part.values.is_empty());
            if let Values::Text(text) = &part.values {
                let mut used = vec![false; text.values.len()];
                text.codes
                    .iter()
                    .for_each(|&code| used[code as usize] = true);
                assert!(
                    used.into_iter().all(|used| used),
                    "unused entries are dropped"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn concat_is_one_after_the_other(sources in sources()) {
            let columns = columns(&sources);
            let pairs: Vec<_> = columns.iter().map(Option::as_ref)
                .zip(sources.iter().map(|(_, rows)| *rows)).collect();
            let expected: Rows = sources.iter().flat_map(|(rows, length)| {
                rows.clone().unwrap_or_else(|| vec![None; *length as usize])
            }).collect();
            check(&concat(&pairs), &expected);
        }

        #[test]
        fn gather_many_picks_rows(
            sources in sources(),
            picks in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..80),
            once in any::<bool>(),
        ) {
            let columns = columns(&sources);
            let mut picks: Vec<(u32, u32)> = picks.into_iter().filter_map(|(source, row)| {
                let source = source.index(sources.len());
                let rows = sources[source].1 as usize;
                (rows > 0).then(|| (source as u32, row.index(rows) as u32))
            }).collect();
            if once {
                let mut seen = std::collections::HashSet::new();
                picks.retain(|pick| seen.insert(*pick));
            }
            let expected: Rows = picks.iter().map(|&(source, row)| {
                sources[source as usize].0.as_ref().and_then(|rows| rows[row as usize].clone())
            }).collect();
            let borrowed: Vec<_> = columns.iter().map(Option::as_ref).collect();
            check(&gather_many(&borrowed, &picks), &expected);
        }

        #[test]
        fn gather_picks_rows(rows in cells(1..60), picks in prop::collection::vec(any::<prop::sample::Index>(), 0..80)) {
            let picks: Vec<u32> = picks.iter().map(|pick| pick.index(rows.len()) as u32).collect();
            let expected: Rows = picks.iter().map(|&row| rows[row as usize].clone()).collect();
            check(&gather(&column_of(&rows), &picks), &expected);
        }

        #[test]
        fn slice_cuts_rows(rows in cells(0..60), ends in any::<(prop::sample::Index, prop::sample::Index)>()) {
            let (a, b) = (ends.0.index(rows.len() + 1), ends.1.index(rows.len() + 1));
            let range = a.min(b)..a.max(b);
            let found = slice(&column_of(&rows), range.start as u32..range.end as u32);
            check(&found, &rows[range]);
        }

        /// The three ways to find a value's index agree.
        #[test]
        fn locators_agree(rows in prop::collection::btree_set(0u32..300, 0..40), questions in 0usize..8) {
            let presence = Presence::Rows(rows.iter().copied().collect());
            for locator in [Locator::new(Some(&presence), questions), Locator::new(Some(&presence), 1_000)] {
                for row in 0..310 {
                    let expected = rows.contains(&row).then(|| rows.range(..row).count() as u32);
                    prop_assert_eq!(locator.index_of(row), expected);
                }
            }
        }
    }

    /// Few values among many picks take the way over the values, with and without repeats.
    #[test]
    fn sparse_sources_are_found_either_way() {
        let mut rows: Rows = vec![None; 1_000];
        for row in [3usize, 500, 999] {
            rows[row] = Some(Value::I64(row as i64));
        }
        let column = column_of(&rows);
        let mut picks: Vec<u32> = (0..1_000).rev().collect();
        let expected: Rows = picks
            .iter()
            .map(|&row| rows[row as usize].clone())
            .collect();
        check(&gather(&column, &picks), &expected);
        picks.push(500);
        let expected: Rows = picks
            .iter()
            .map(|&row| rows[row as usize].clone())
            .collect();
        check(&gather(&column, &picks), &expected);
    }
}
