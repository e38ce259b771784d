//! Properties and traits as Arrow columns.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Float64Builder, Int64Builder, StringViewBuilder, TimestampMicrosecondBuilder,
    make_view,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, StringViewArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field};
use hashbrown::HashMap;
use pugmark_engine::batch::Kind;
use pugmark_engine::codec::{CodedText, ColumnView, PartView};
use pugmark_engine::{Corruption, Scalar, Value};

use super::answers::value_text;
use super::catalog::{ColumnType, ScalarType, time_type};

/// The values of `rows` of a property, which has values of these kinds only.
pub(super) fn property_array(
    column: Option<&ColumnView<'_>>,
    column_type: ColumnType,
    zone: &Arc<str>,
    rows: Range<u32>,
) -> Result<ArrayRef, Corruption> {
    let Some(column) = column else {
        return Ok(new_null_array(&column_type.arrow(zone), rows.len()));
    };
    match column_type {
        ColumnType::I64 => {
            let (values, nulls) = ints(column, Kind::I64, &rows)?;
            Ok(Arc::new(Int64Array::new(values.into(), nulls)))
        }
        ColumnType::Timestamp => {
            let (values, nulls) = ints(column, Kind::Timestamp, &rows)?;
            let times = TimestampMicrosecondArray::new(values.into(), nulls);
            Ok(Arc::new(times.with_timezone(Arc::clone(zone))))
        }
        ColumnType::F64 => floats(column, &rows),
        ColumnType::Bool => bools(column, &rows),
        ColumnType::Text => texts(column, &rows),
        ColumnType::List(_) => {
            let mut values = ValueColumn::new(column_type, zone, rows.len());
            for row in rows {
                values.append(column.value(row)?.as_ref());
            }
            Ok(values.finish())
        }
    }
}

/// Puts the values of a part at their places among `rows`; marks where there are some.
fn place<T: Copy>(
    part: &PartView<'_>,
    rows: &Range<u32>,
    values: Vec<T>,
    into: &mut [T],
    present: &mut Option<Vec<bool>>,
) {
    let indices = part.indices(rows.clone());
    if indices.len() == rows.len() {
        into.copy_from_slice(&values);
        *present = None;
        return;
    }
    let mut places = Vec::with_capacity(indices.len());
    part.fill_rows(indices, &mut places);
    let marks = present.get_or_insert_with(|| vec![false; rows.len()]);
    for (row, value) in places.into_iter().zip(values) {
        let place = (row - rows.start) as usize;
        into[place] = value;
        marks[place] = true;
    }
}

fn nulls(present: Option<Vec<bool>>) -> Option<NullBuffer> {
    present.map(NullBuffer::from)
}

/// Nothing is there until a part says otherwise.
fn absent(rows: &Range<u32>) -> Option<Vec<bool>> {
    Some(vec![false; rows.len()])
}

fn ints(
    column: &ColumnView<'_>,
    kind: Kind,
    rows: &Range<u32>,
) -> Result<(Vec<i64>, Option<NullBuffer>), Corruption> {
    let mut all = vec![0; rows.len()];
    let mut present = absent(rows);
    if let Some(part) = column.part(kind) {
        let mut values = Vec::with_capacity(rows.len());
        part.ints(part.indices(rows.clone()), &mut values)?;
        place(part, rows, values, &mut all, &mut present);
    }
    Ok((all, nulls(present)))
}

fn floats(column: &ColumnView<'_>, rows: &Range<u32>) -> Result<ArrayRef, Corruption> {
    let mut all = vec![0.0; rows.len()];
    let mut present = absent(rows);
    if let Some(part) = column.part(Kind::I64) {
        let mut values = Vec::with_capacity(rows.len());
        part.ints(part.indices(rows.clone()), &mut values)?;
        let values = values.into_iter().map(|value| value as f64).collect();
        place(part, rows, values, &mut all, &mut present);
    }
    if let Some(part) = column.part(Kind::F64) {
        let mut values = Vec::with_capacity(rows.len());
        part.floats(part.indices(rows.clone()), &mut values)?;
        place(part, rows, values, &mut all, &mut present);
    }
    Ok(Arc::new(Float64Array::new(all.into(), nulls(present))))
}

fn bools(column: &ColumnView<'_>, rows: &Range<u32>) -> Result<ArrayRef, Corruption> {
    let mut all = vec![false; rows.len()];
    let mut present = absent(rows);
    if let Some(part) = column.part(Kind::Bool) {
        let mut values = Vec::with_capacity(rows.len());
        part.bools(part.indices(rows.clone()), &mut values)?;
        place(part, rows, values, &mut all, &mut present);
    }
    Ok(Arc::new(BooleanArray::new(all.into(), nulls(present))))
}

/// Text as it is, and other values by their canonical text.
fn texts(column: &ColumnView<'_>, rows: &Range<u32>) -> Result<ArrayRef, Corruption> {
    let mut others = column.parts().iter().filter(|part| {
        !matches!(part.kind(), Kind::Text | Kind::Null) && !part.indices(rows.clone()).is_empty()
    });
    if others.next().is_some() {
        let mut all = StringViewBuilder::with_capacity(rows.len());
        for row in rows.clone() {
            match column.value(row)? {
                None | Some(Value::Null) => all.append_null(),
                Some(value) => all.append_value(value_text(&value)),
            }
        }
        return Ok(Arc::new(all.finish()));
    }
    match column.part(Kind::Text) {
        Some(part) => match part.coded() {
            Some(text) => coded_texts(part, text, rows),
            None => plain_texts(part, rows),
        },
        None => Ok(new_null_array(&DataType::Utf8View, rows.len())),
    }
}

/// Each distinct text is stored once; rows point to it.
fn coded_texts(
    part: &PartView<'_>,
    text: &CodedText<'_>,
    rows: &Range<u32>,
) -> Result<ArrayRef, Corruption> {
    let indices = part.indices(rows.clone());
    let mut codes = Vec::with_capacity(indices.len());
    text.codes(indices, &mut codes)?;
    let mut known: HashMap<u32, u128> = HashMap::new();
    let mut bytes: Vec<u8> = Vec::new();
    let mut views = Vec::with_capacity(codes.len());
    for code in codes {
        let view = match known.get(&code) {
            Some(view) => *view,
            None => {
                let value = text.value(code)?.as_bytes();
                let view = make_view(value, 0, bytes.len() as u32);
                bytes.extend_from_slice(value);
                known.insert(code, view);
                view
            }
        };
        views.push(view);
    }
    let mut all = vec![0u128; rows.len()];
    let mut present = absent(rows);
    place(part, rows, views, &mut all, &mut present);
    let buffers: Arc<[Buffer]> = Arc::new([Buffer::from_vec(bytes)]);
    // Views were made of valid UTF-8 and point into the buffer; the checked constructor sees to it.
    let array = StringViewArray::try_new(ScalarBuffer::from(all), buffers, nulls(present));
    Ok(Arc::new(array.map_err(|_| too_long())?))
}

fn plain_texts(part: &PartView<'_>, rows: &Range<u32>) -> Result<ArrayRef, Corruption> {
    let indices = part.indices(rows.clone());
    let mut all = StringViewBuilder::with_capacity(rows.len());
    let mut next = rows.start;
    if let Some(text) = part.plain() {
        let mut places = Vec::with_capacity(indices.len());
        part.fill_rows(indices.clone(), &mut places);
        let first = indices.start;
        text.for_each(indices, |index, value| {
            let row = places[(index - first) as usize];
            while next < row {
                all.append_null();
                next += 1;
            }
            all.append_value(value);
            next += 1;
        })?;
    }
    while next < rows.end {
        all.append_null();
        next += 1;
    }
    Ok(Arc::new(all.finish()))
}

fn too_long() -> Corruption {
    Corruption::new(
        std::path::Path::new("events"),
        0,
        "texts of one block do not fit a column",
    )
}

/// Values one by one as a column.
pub(super) struct ValueColumn {
    values: ScalarBuilder,
    /// Where each list ends, and which lists there are; `None` for a column of scalars.
    lists: Option<(Vec<usize>, Vec<bool>)>,
}

enum ScalarBuilder {
    Bool(BooleanBuilder),
    I64(Int64Builder),
    F64(Float64Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Text(StringViewBuilder),
}

impl ScalarBuilder {
    fn new(scalar: ScalarType, zone: &Arc<str>, capacity: usize) -> Self {
        match scalar {
            ScalarType::Bool => Self::Bool(BooleanBuilder::with_capacity(capacity)),
            ScalarType::I64 => Self::I64(Int64Builder::with_capacity(capacity)),
            ScalarType::F64 => Self::F64(Float64Builder::with_capacity(capacity)),
            ScalarType::Timestamp => Self::Timestamp(times(zone)),
            ScalarType::Text => Self::Text(StringViewBuilder::with_capacity(capacity)),
        }
    }

    fn append(&mut self, value: Option<&Value>) {
        match self {
            Self::Bool(builder) => builder.append_option(value.and_then(as_bool)),
            Self::I64(builder) => builder.append_option(value.and_then(as_i64)),
            Self::F64(builder) => builder.append_option(value.and_then(as_f64)),
            Self::Timestamp(builder) => builder.append_option(value.and_then(as_time)),
            Self::Text(builder) => builder.append_option(value.map(value_text)),
        }
    }
}

fn times(zone: &Arc<str>) -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::new().with_data_type(time_type(zone))
}

fn as_bool(value: &Value) -> Option<bool> {
    match value.as_scalar()? {
        Scalar::Bool(value) => Some(value),
        _ => None,
    }
}

fn as_i64(value: &Value) -> Option<i64> {
    match value.as_scalar()? {
        Scalar::I64(value) => Some(value),
        _ => None,
    }
}

fn as_f64(value: &Value) -> Option<f64> {
    match value.as_scalar()? {
        Scalar::I64(value) => Some(value as f64),
        Scalar::F64(value) => Some(value),
        _ => None,
    }
}

fn as_time(value: &Value) -> Option<i64> {
    match value.as_scalar()? {
        Scalar::Timestamp(value) => Some(value),
        _ => None,
    }
}

impl ValueColumn {
    pub(super) fn new(column_type: ColumnType, zone: &Arc<str>, capacity: usize) -> Self {
        let (scalar, is_list) = match column_type {
            ColumnType::Bool => (ScalarType::Bool, false),
            ColumnType::I64 => (ScalarType::I64, false),
            ColumnType::F64 => (ScalarType::F64, false),
            ColumnType::Timestamp => (ScalarType::Timestamp, false),
            ColumnType::Text => (ScalarType::Text, false),
            ColumnType::List(element) => (element, true),
        };
        Self {
            values: ScalarBuilder::new(scalar, zone, capacity),
            lists: is_list.then(Default::default),
        }
    }

    /// Appends a value; NULL where it is missing.
    pub(super) fn append(&mut self, value: Option<&Value>) {
        let value = value.filter(|value| **value != Value::Null);
        let Some((lengths, present)) = &mut self.lists else {
            return self.values.append(value);
        };
        let elements = match value {
            Some(Value::List(elements)) => elements.as_slice(),
            Some(single) => std::slice::from_ref(single),
            None => &[],
        };
        elements
            .iter()
            .for_each(|element| self.values.append(Some(element)));
        lengths.push(elements.len());
        present.push(value.is_some());
    }

    pub(super) fn finish(self) -> ArrayRef {
        let values: ArrayRef = match self.values {
            ScalarBuilder::Bool(mut builder) => Arc::new(builder.finish()),
            ScalarBuilder::I64(mut builder) => Arc::new(builder.finish()),
            ScalarBuilder::F64(mut builder) => Arc::new(builder.finish()),
            ScalarBuilder::Timestamp(mut builder) => Arc::new(builder.finish()),
            ScalarBuilder::Text(mut builder) => Arc::new(builder.finish()),
        };
        let Some((lengths, present)) = self.lists else {
            return values;
        };
        let element = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths(lengths);
        Arc::new(ListArray::new(
            element,
            offsets,
            values,
            Some(present.into()),
        ))
    }
}
