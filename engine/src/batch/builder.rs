//! Building batches: row by row, or from whole columns.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::{
    Column, EventBatch, IdColumn, ListColumn, Part, Presence, Property, TextColumn, TraitsBatch,
    Values,
};
use crate::error::{BatchError, BatchProblem};
use crate::ids::UserKey;
use crate::limits;
use crate::value::{Scalar, Value};

/// Builds an [`EventBatch`] row by row.
///
/// ```
/// # use pugmark_engine::BatchBuilder;
/// let mut batch = BatchBuilder::new();
/// batch.event("ann", 1_569_888_000_000_000, "view").property("price", 35.79);
/// batch.event("ann", 1_569_888_060_000_000, "purchase").property("price", 35.79).message_id("m-1");
/// assert_eq!(batch.finish()?.len(), 2);
/// # Ok::<(), pugmark_engine::BatchError>(())
/// ```
#[derive(Debug, Default)]
pub struct BatchBuilder {
    users: Interner,
    integer_users: Option<Vec<i64>>,
    times: Vec<i64>,
    events: Interner,
    message_ids: Option<Interner>,
    properties: Vec<(String, ColumnBuilder)>,
    property_index: HashMap<String, usize>,
    /// The property that is likely to be set next.
    next_property: usize,
}

/// One event under construction, from [`BatchBuilder::event`].
#[derive(Debug)]
pub struct RowBuilder<'a> {
    batch: &'a mut BatchBuilder,
    row: u32,
}

/// Whole columns of a batch, to be checked by [`BatchColumns::finish`].
#[derive(Clone, Debug)]
pub struct BatchColumns {
    /// User ids, one a row.
    pub users: IdColumn,
    /// Microseconds since 1970-01-01 UTC, one a row.
    pub times: Vec<i64>,
    /// Event names, one a row.
    pub events: TextColumn,
    /// De-duplication ids, one a row; empty text is "none".
    pub message_ids: Option<TextColumn>,
    /// Properties; each column spans all rows.
    pub properties: Vec<Property>,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        Self {
            integer_users: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Number of events so far.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// True before the first event.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Number of properties that events so far have.
    pub fn property_count(&self) -> usize {
        self.properties.len()
    }

    /// Begins an event of `user` at `time` (microseconds since 1970-01-01 UTC) named `event`.
    pub fn event(&mut self, user: &str, time: i64, event: &str) -> RowBuilder<'_> {
        self.event_of(UserKey::from_text(user), time, event)
    }

    /// As [`BatchBuilder::event`], for an id already in its inner form.
    pub fn event_of(&mut self, user: UserKey<'_>, time: i64, event: &str) -> RowBuilder<'_> {
        let row = self.times.len() as u32;
        match (user, &mut self.integer_users) {
            (UserKey::Int(id), Some(ids)) => ids.push(id),
            (user, integers) => {
                for id in integers.take().into_iter().flatten() {
                    self.users.push(&id.to_string());
                }
                self.users.push(&user.text());
            }
        }
        self.times.push(time);
        self.events.push(event);
        if let Some(ids) = &mut self.message_ids {
            ids.push("");
        }
        RowBuilder { batch: self, row }
    }

    /// Checks the whole batch.
    ///
    /// # Errors
    /// The first offending row and field, where an id, a name or a value is empty, too long, or a
    /// list inside a list. Nothing of the batch is usable then.
    pub fn finish(self) -> Result<EventBatch, BatchError> {
        self.columns()?.finish()
    }

    /// As [`BatchBuilder::finish`], for updates of traits: each row sets its properties as traits of its
    /// user, as of its time. Rows have no event name (an empty one).
    ///
    /// # Errors
    /// As [`BatchBuilder::finish`].
    pub fn finish_traits(self) -> Result<TraitsBatch, BatchError> {
        let columns = self.columns()?;
        let named = |&row: &usize| !columns.events.get(row).is_empty();
        if let Some(row) = (0..columns.times.len()).find(named) {
            return Err(BatchError {
                row,
                field: "event".to_owned(),
                problem: BatchProblem::Inconsistent("traits have no event name"),
            });
        }
        columns.finish_traits().map(TraitsBatch)
    }

    pub(super) fn columns(self) -> Result<BatchColumns, BatchError> {
        let rows = self.times.len() as u32;
        let users = match self.integer_users {
            Some(ids) => IdColumn::Int(ids),
            None => IdColumn::Text(self.users.column),
        };
        let mut properties = Vec::with_capacity(self.properties.len());
        for (name, builder) in self.properties {
            let column = builder.finish(rows).map_err(|(row, problem)| BatchError {
                row: row as usize,
                field: name.clone(),
                problem,
            })?;
            if !column.parts.is_empty() {
                properties.push(Property { name, column });
            }
        }
        Ok(BatchColumns {
            users,
            times: self.times,
            events: self.events.column,
            message_ids: self.message_ids.map(|ids| ids.column),
            properties,
        })
    }

    fn column(&mut self, name: &str) -> &mut ColumnBuilder {
        // Most events have the properties of the one before, in their order.
        let next = self.next_property;
        let expected = self.properties.get(next);
        let is_next = expected.is_some_and(|(expected, _)| expected == name);
        let index = match is_next {
            true => next,
            false => self.column_index(name),
        };
        self.next_property = match index + 1 < self.properties.len() {
            true => index + 1,
            false => 0,
        };
        &mut self.properties[index].1
    }

    fn column_index(&mut self, name: &str) -> usize {
        match self.property_index.get(name) {
            Some(&index) => index,
            None => {
                self.properties
                    .push((name.to_owned(), ColumnBuilder::default()));
                self.property_index
                    .insert(name.to_owned(), self.properties.len() - 1);
                self.properties.len() - 1
            }
        }
    }
}

impl RowBuilder<'_> {
    /// Sets a property of this event.
    pub fn property(self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        self.value(name, &value)
    }

    /// As [`RowBuilder::property`], for a borrowed value.
    pub fn value(self, name: &str, value: &Value) -> Self {
        let row = self.row;
        self.batch.column(name).push(row, value);
        self
    }

    /// As [`RowBuilder::property`], for a borrowed scalar: the way without allocations.
    pub fn scalar(self, name: &str, value: Scalar<'_>) -> Self {
        let row = self.row;
        self.batch.column(name).push_scalar(row, value);
        self
    }

    /// Sets the de-duplication id of this event. An empty text is none.
    pub fn message_id(self, id: &str) -> Self {
        let row = self.row as usize;
        let ids = self.batch.message_ids.get_or_insert_with(|| {
            let mut ids = Interner::default();
            (0..=row).for_each(|_| ids.push(""));
            ids
        });
        let code = ids.intern(id);
        ids.column.codes[row] = code;
        self
    }
}

/// Texts with equal ones stored once.
#[derive(Debug, Default)]
struct Interner {
    column: TextColumn,
    /// Codes by the hash of their text.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Interner {
    fn intern(&mut self, text: &str) -> u32 {
        let Self {
            column,
            index,
            hasher,
        } = self;
        let values = &mut column.values;
        let found = index.entry(
            hasher.hash_one(text),
            |&code| values.get(code as usize) == text,
            |&code| hasher.hash_one(values.get(code as usize)),
        );
        match found {
            Entry::Occupied(found) => *found.get(),
            Entry::Vacant(place) => *place.insert(values.push(text)).get(),
        }
    }

    fn push(&mut self, text: &str) {
        let code = self.intern(text);
        self.column.codes.push(code);
    }
}

/// Collects the values of one property, part by part.
#[derive(Debug, Default)]
struct ColumnBuilder {
    parts: Vec<(Vec<u32>, PartBuilder)>,
    repeated: Option<u32>,
    nested: Option<u32>,
    last_row: Option<u32>,
}

#[derive(Debug)]
enum PartBuilder {
    Null(u32),
    Bool(Vec<bool>),
    I64(Vec<i64>),
    F64(Vec<f64>),
    Timestamp(Vec<i64>),
    Text(Interner),
    List {
        ends: Vec<u32>,
        rows: u32,
        elements: Box<ColumnBuilder>,
    },
}

macro_rules! part {
    ($builder:expr, $row:expr, $variant:ident, $empty:expr) => {{
        let found = $builder
            .parts
            .iter()
            .position(|(_, part)| matches!(part, PartBuilder::$variant { .. }));
        let index = found.unwrap_or_else(|| {
            $builder.parts.push((Vec::new(), $empty));
            $builder.parts.len() - 1
        });
        let (rows, part) = &mut $builder.parts[index];
        rows.push($row);
        part
    }};
}

impl ColumnBuilder {
    fn begin(&mut self, row: u32) -> bool {
        if self.last_row == Some(row) {
            self.repeated.get_or_insert(row);
            return false;
        }
        self.last_row = Some(row);
        true
    }

    fn push_scalar(&mut self, row: u32, value: Scalar<'_>) {
        if !self.begin(row) {
            return;
        }
        match value {
            Scalar::Bool(value) => {
                if let PartBuilder::Bool(values) =
                    part!(self, row, Bool, PartBuilder::Bool(Vec::new()))
                {
                    values.push(value);
                }
            }
            Scalar::I64(value) => {
                if let PartBuilder::I64(values) =
                    part!(self, row, I64, PartBuilder::I64(Vec::new()))
                {
                    values.push(value);
                }
            }
            Scalar::F64(value) => {
                if let PartBuilder::F64(values) =
                    part!(self, row, F64, PartBuilder::F64(Vec::new()))
                {
                    values.push(value);
                }
            }
            Scalar::Timestamp(value) => {
                let part = part!(self, row, Timestamp, PartBuilder::Timestamp(Vec::new()));
                if let PartBuilder::Timestamp(values) = part {
                    values.push(value);
                }
            }
            Scalar::Text(value) => {
                let part = part!(self, row, Text, PartBuilder::Text(Interner::default()));
                if let PartBuilder::Text(values) = part {
                    values.push(value);
                }
            }
        }
    }

    fn push(&mut self, row: u32, value: &Value) {
        match value {
            Value::Null => {
                if self.begin(row)
                    && let PartBuilder::Null(count) = part!(self, row, Null, PartBuilder::Null(0))
                {
                    *count += 1;
                }
            }
            Value::List(elements) => self.push_list(row, elements),
            single => {
                if let Some(scalar) = single.as_scalar() {
                    self.push_scalar(row, scalar);
                }
            }
        }
    }

    /// An empty list, or one of nulls only, is a missing property.
    fn push_list(&mut self, row: u32, elements: &[Value]) {
        if elements
            .iter()
            .any(|element| matches!(element, Value::List(_)))
        {
            self.nested.get_or_insert(row);
        }
        if elements.iter().all(|element| element.as_scalar().is_none()) || !self.begin(row) {
            return;
        }
        let empty = PartBuilder::List {
            ends: Vec::new(),
            rows: 0,
            elements: Box::default(),
        };
        if let PartBuilder::List {
            ends,
            rows,
            elements: column,
        } = part!(self, row, List, empty)
        {
            for element in elements.iter().filter_map(Value::as_scalar) {
                column.push_scalar(*rows, element);
                *rows += 1;
            }
            ends.push(*rows);
        }
    }

    fn finish(self, rows: u32) -> Result<Column, (u32, BatchProblem)> {
        if let Some(row) = self.repeated {
            return Err((row, BatchProblem::Repeated));
        }
        if let Some(row) = self.nested {
            return Err((row, BatchProblem::NestedList));
        }
        let mut parts = Vec::with_capacity(self.parts.len());
        for (present, part) in self.parts {
            let presence = if present.len() == rows as usize {
                Presence::All
            } else {
                Presence::Rows(present)
            };
            let values = match part {
                PartBuilder::Null(count) => Values::Null(count),
                PartBuilder::Bool(values) => Values::Bool(values),
                PartBuilder::I64(values) => Values::I64(values),
                PartBuilder::F64(values) => Values::F64(values),
                PartBuilder::Timestamp(values) => Values::Timestamp(values),
                PartBuilder::Text(values) => Values::Text(values.column),
                PartBuilder::List {
                    ends,
                    rows,
                    elements,
                } => Values::List(ListColumn {
                    ends,
                    elements: Box::new(elements.finish(rows)?),
                }),
            };
            parts.push(Part { presence, values });
        }
        Ok(Column { rows, parts })
    }
}

impl BatchColumns {
    /// Checks the columns against each other and the store's limits.
    ///
    /// # Errors
    /// The first offending field with its row.
    pub fn finish(mut self) -> Result<EventBatch, BatchError> {
        check_names(&self.events, "event", false)?;
        for property in &mut self.properties {
            property
                .column
                .parts
                .retain(|part| !matches!(part.values, Values::Null(_)));
        }
        self.properties
            .retain(|property| !property.column.parts.is_empty());
        self.check()
    }

    /// As [`BatchColumns::finish`], for trait updates, which have no event name.
    pub(crate) fn finish_traits(self) -> Result<EventBatch, BatchError> {
        check_names(&self.events, "event", true)?;
        self.check()
    }

    fn check(self) -> Result<EventBatch, BatchError> {
        let rows = self.times.len();
        check_count(rows, limits::MAX_BATCH_ROWS)?;
        check_count(self.properties.len(), limits::MAX_BATCH_PROPERTIES)?;
        check_length("user_id", self.users.len(), rows)?;
        check_length("event", self.events.codes.len(), rows)?;
        if let IdColumn::Text(ids) = &self.users {
            check_names(ids, "user_id", false)?;
        }
        if let Some(ids) = &self.message_ids {
            check_length("message_id", ids.codes.len(), rows)?;
            check_names(ids, "message_id", true)?;
        }
        check_properties(&self.properties, rows)?;
        let Self {
            users,
            times,
            events,
            message_ids,
            properties,
        } = self;
        Ok(EventBatch {
            users,
            times,
            events,
            message_ids,
            properties,
        })
    }
}

fn check_count(count: usize, limit: usize) -> Result<(), BatchError> {
    if count <= limit {
        return Ok(());
    }
    Err(BatchError {
        row: 0,
        field: "batch".to_owned(),
        problem: BatchProblem::TooMany { count, limit },
    })
}

fn check_length(field: &str, found: usize, expected: usize) -> Result<(), BatchError> {
    if found == expected {
        return Ok(());
    }
    Err(BatchError {
        row: 0,
        field: field.to_owned(),
        problem: BatchProblem::LengthMismatch { found, expected },
    })
}

/// Ids and names: codes in range, 1..=255 bytes (0 where `may_be_empty`).
fn check_names(column: &TextColumn, field: &str, may_be_empty: bool) -> Result<(), BatchError> {
    let problem_of = |text: &str| {
        if text.is_empty() && !may_be_empty {
            return Some(BatchProblem::Empty);
        }
        let (bytes, limit) = (text.len(), limits::MAX_NAME_BYTES);
        (bytes > limit).then_some(BatchProblem::TooLong { bytes, limit })
    };
    check_codes(column, field, 0)?;
    let bad: Vec<Option<BatchProblem>> = column.values.iter().map(problem_of).collect();
    if bad.iter().any(Option::is_some) {
        for (row, &code) in column.codes.iter().enumerate() {
            if let Some(problem) = &bad[code as usize] {
                return Err(BatchError {
                    row,
                    field: field.to_owned(),
                    problem: problem.clone(),
                });
            }
        }
    }
    Ok(())
}

fn check_codes(column: &TextColumn, field: &str, row: usize) -> Result<(), BatchError> {
    let entries = column.values.len();
    match column
        .codes
        .iter()
        .position(|&code| code as usize >= entries)
    {
        Some(at) => Err(BatchError {
            row: row + at,
            field: field.to_owned(),
            problem: BatchProblem::Inconsistent("a code beyond the string table"),
        }),
        None => Ok(()),
    }
}

fn check_properties(properties: &[Property], rows: usize) -> Result<(), BatchError> {
    let mut seen = hashbrown::HashSet::with_capacity(properties.len());
    for Property { name, column } in properties {
        let fail = |row: usize, problem| {
            Err(BatchError {
                row,
                field: name.clone(),
                problem,
            })
        };
        let first_row = column.parts.first().map_or(0, |part| match &part.presence {
            Presence::All => 0,
            Presence::Rows(rows) => rows.first().map_or(0, |&row| row as usize),
        });
        if name.is_empty() {
            return Err(BatchError {
                row: first_row,
                field: "property name".to_owned(),
                problem: BatchProblem::Empty,
            });
        }
        if name.len() > limits::MAX_PROPERTY_NAME_BYTES {
            let (bytes, limit) = (name.len(), limits::MAX_PROPERTY_NAME_BYTES);
            return fail(first_row, BatchProblem::TooLong { bytes, limit });
        }
        if !seen.insert(name.as_str()) {
            return fail(first_row, BatchProblem::Repeated);
        }
        if column.rows as usize != rows {
            let found = column.rows as usize;
            return fail(
                0,
                BatchProblem::LengthMismatch {
                    found,
                    expected: rows,
                },
            );
        }
        if let Err((row, problem)) = check_column(column, true) {
            return fail(row, problem);
        }
    }
    Ok(())
}

/// Parts are disjoint, in row order, one of each kind, and their values in bounds.
fn check_column(column: &Column, lists: bool) -> Result<(), (usize, BatchProblem)> {
    let mut taken: Vec<u64> = vec![0; (column.rows as usize).div_ceil(64)];
    let several = column.parts.len() > 1;
    let mut kinds = [false; 8];
    for part in &column.parts {
        let kind = &mut kinds[kind_of(&part.values)];
        if std::mem::replace(kind, true) {
            return Err((0, BatchProblem::Inconsistent("two parts of one type")));
        }
        let expected = match &part.presence {
            Presence::All if several => {
                return Err((0, BatchProblem::Inconsistent("two values for one row")));
            }
            Presence::All => column.rows as usize,
            Presence::Rows(rows) => {
                check_rows(rows, column.rows, &mut taken)?;
                rows.len()
            }
        };
        if part.values.len() != expected {
            let found = part.values.len();
            return Err((0, BatchProblem::LengthMismatch { found, expected }));
        }
        check_values(part, lists)?;
    }
    Ok(())
}

fn kind_of(values: &Values) -> usize {
    match values {
        Values::Null(_) => 0,
        Values::Bool(_) => 1,
        Values::I64(_) => 2,
        Values::F64(_) => 3,
        Values::Timestamp(_) => 4,
        Values::Text(_) => 5,
        Values::List(_) => 6,
    }
}

fn check_rows(rows: &[u32], limit: u32, taken: &mut [u64]) -> Result<(), (usize, BatchProblem)> {
    let mut previous = None;
    for &row in rows {
        if row >= limit || previous.is_some_and(|previous| previous >= row) {
            let problem = BatchProblem::Inconsistent("rows out of order or out of range");
            return Err((row as usize, problem));
        }
        previous = Some(row);
        let (word, bit) = (&mut taken[row as usize / 64], 1u64 << (row % 64));
        if *word & bit != 0 {
            return Err((
                row as usize,
                BatchProblem::Inconsistent("two values for one row"),
            ));
        }
        *word |= bit;
    }
    Ok(())
}

fn check_values(part: &Part, lists: bool) -> Result<(), (usize, BatchProblem)> {
    let row_of = |index: usize| match &part.presence {
        Presence::All => index,
        Presence::Rows(rows) => rows.get(index).map_or(index, |&row| row as usize),
    };
    match &part.values {
        Values::Text(text) => {
            check_codes(text, "", 0).map_err(|error| (row_of(error.row), error.problem))?;
            let limit = limits::MAX_TEXT_BYTES;
            if text.values.iter().any(|value| value.len() > limit)
                && let Some(at) = (0..text.codes.len()).find(|&at| text.get(at).len() > limit)
            {
                let bytes = text.get(at).len();
                return Err((row_of(at), BatchProblem::TooLong { bytes, limit }));
            }
            Ok(())
        }
        Values::List(_) if !lists => Err((row_of(0), BatchProblem::NestedList)),
        Values::List(list) => check_list(list, row_of),
        _ => Ok(()),
    }
}

fn check_list(
    list: &ListColumn,
    row_of: impl Fn(usize) -> usize,
) -> Result<(), (usize, BatchProblem)> {
    let mut start = 0u32;
    for (index, &end) in list.ends.iter().enumerate() {
        if end <= start {
            return Err((row_of(index), BatchProblem::Inconsistent("an empty list")));
        }
        let (count, limit) = ((end - start) as usize, limits::MAX_LIST_ELEMENTS);
        if count > limit {
            return Err((row_of(index), BatchProblem::TooMany { count, limit }));
        }
        start = end;
    }
    let present: usize = list
        .elements
        .parts
        .iter()
        .map(|part| part.values.len())
        .sum();
    if start != list.elements.rows || present != start as usize {
        return Err((
            row_of(0),
            BatchProblem::Inconsistent("list ends and elements differ"),
        ));
    }
    check_column(&list.elements, false).map_err(|(element, problem)| {
        (
            row_of(list.ends.partition_point(|&end| end as usize <= element)),
            problem,
        )
    })
}
