//! Arrow arrays as columns of a batch, without an allocation for each row.

use std::borrow::Cow;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowDictionaryKeyType, ArrowPrimitiveType, Date32Type, Date64Type, Decimal128Type,
    Decimal256Type, DecimalType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray, UInt64Array};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use pugmark_engine::batch::{Column, ListColumn, StringTable, TextColumn, Values};

use super::columns::{TextBuilder, part};

/// A column of a type that events cannot have.
#[derive(Debug)]
pub(super) enum Unread {
    /// The type.
    Kind(DataType),
    /// Arrow's own complaint.
    Arrow(ArrowError),
}

impl From<ArrowError> for Unread {
    fn from(error: ArrowError) -> Self {
        Self::Arrow(error)
    }
}

/// The leaves of structs inside structs, their names joined with dots.
pub(super) fn flatten(name: &str, array: &ArrayRef, out: &mut Vec<(String, ArrayRef)>) {
    match array.as_struct_opt() {
        Some(structs) => {
            for (field, child) in structs.fields().iter().zip(structs.columns()) {
                flatten(&format!("{name}.{}", field.name()), child, out);
            }
        }
        None => out.push((name.to_owned(), array.clone())),
    }
}

/// The properties that one array gives: itself, or one for each field of a list of structs.
pub(super) fn properties(
    name: &str,
    array: &ArrayRef,
) -> Result<Vec<(String, Option<Column>)>, Unread> {
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            lists(name, array, list.values(), &|row| {
                (
                    list.value_offsets()[row] as u64,
                    list.value_offsets()[row + 1] as u64,
                )
            })
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            lists(name, array, list.values(), &|row| {
                (
                    list.value_offsets()[row] as u64,
                    list.value_offsets()[row + 1] as u64,
                )
            })
        }
        DataType::FixedSizeList(_, size) => {
            let list = array.as_fixed_size_list();
            let size = *size as u64;
            let start = |row: usize| {
                (
                    list.value_offset(row) as u64,
                    list.value_offset(row) as u64 + size,
                )
            };
            lists(name, array, list.values(), &start)
        }
        _ => Ok(vec![(name.to_owned(), scalar_column(array)?)]),
    }
}

/// Multi-valued properties from the elements of lists; `span` gives a row's elements.
fn lists(
    name: &str,
    array: &ArrayRef,
    elements: &ArrayRef,
    span: &dyn Fn(usize) -> (u64, u64),
) -> Result<Vec<(String, Option<Column>)>, Unread> {
    let mut leaves = Vec::new();
    match elements.as_struct_opt() {
        Some(structs) => {
            for (field, child) in structs.fields().iter().zip(structs.columns()) {
                flatten(&format!("{name}[].{}", field.name()), child, &mut leaves);
            }
        }
        None => leaves.push((name.to_owned(), elements.clone())),
    }
    let mut properties = Vec::new();
    for (name, leaf) in leaves {
        properties.push((name, list_column(array, &leaf, span)?));
    }
    Ok(properties)
}

fn list_column(
    array: &ArrayRef,
    leaf: &ArrayRef,
    span: &dyn Fn(usize) -> (u64, u64),
) -> Result<Option<Column>, Unread> {
    let (rows, missing) = (array.len(), leaf.logical_nulls());
    let (mut present, mut ends, mut taken) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..rows {
        if array.is_null(row) {
            continue;
        }
        let (start, end) = span(row);
        let before = taken.len();
        let there = |&at: &u64| {
            missing
                .as_ref()
                .is_none_or(|nulls| nulls.is_valid(at as usize))
        };
        taken.extend((start..end).filter(there));
        if taken.len() > before {
            present.push(row as u32);
            ends.push(taken.len() as u32);
        }
    }
    if present.is_empty() {
        return Ok(None);
    }
    let taken = arrow_select::take::take(leaf, &UInt64Array::from(taken), None)?;
    let Some(elements) = scalar_column(&taken)? else {
        return Ok(None);
    };
    let values = Values::List(ListColumn {
        ends,
        elements: Box::new(elements),
    });
    let rows = rows as u32;
    Ok(Some(Column {
        rows,
        parts: vec![part(present, values, rows)],
    }))
}

/// The column of an array of scalars; `None` where every row is null.
pub(super) fn scalar_column(array: &ArrayRef) -> Result<Option<Column>, Unread> {
    let rows = array.len() as u32;
    let nulls = array.logical_nulls();
    let present: Vec<u32> = match &nulls {
        None => (0..rows).collect(),
        Some(nulls) => nulls.valid_indices().map(|row| row as u32).collect(),
    };
    if present.is_empty() {
        return Ok(None);
    }
    let values = match array.data_type() {
        DataType::Boolean => {
            let bools = array.as_boolean();
            Values::Bool(
                present
                    .iter()
                    .map(|&row| bools.value(row as usize))
                    .collect(),
            )
        }
        DataType::Float16 => floats::<Float16Type>(array, &present, |value| value.to_f64()),
        DataType::Float32 => floats::<Float32Type>(array, &present, f64::from),
        DataType::Float64 => floats::<Float64Type>(array, &present, |value| value),
        DataType::UInt64 | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            return Ok(Some(numbers_by_text(array, &present)?));
        }
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            let (read, late) = instants(array, &present)?;
            if late.is_empty() {
                Values::Timestamp(read)
            } else {
                return Ok(Some(by_text(array, &present)?));
            }
        }
        kind if kind.is_integer() => {
            Values::I64(integers(array, &present).ok_or_else(|| Unread::Kind(kind.clone()))?)
        }
        _ => Values::Text(texts(array, &present)?),
    };
    Ok(Some(Column {
        rows,
        parts: vec![part(present, values, rows)],
    }))
}

fn floats<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    present: &[u32],
    float: impl Fn(T::Native) -> f64,
) -> Values {
    let values = array.as_primitive::<T>().values();
    Values::F64(
        present
            .iter()
            .map(|&row| float(values[row as usize]))
            .collect(),
    )
}

/// The integers of the rows `present`, for every integer type but the one that does not fit.
pub(super) fn integers(array: &ArrayRef, present: &[u32]) -> Option<Vec<i64>> {
    fn of<T: ArrowPrimitiveType>(array: &ArrayRef, present: &[u32]) -> Vec<i64>
    where
        T::Native: Into<i64>,
    {
        let values = array.as_primitive::<T>().values();
        if present.len() == values.len() {
            return values.iter().map(|&value| value.into()).collect();
        }
        present
            .iter()
            .map(|&row| values[row as usize].into())
            .collect()
    }
    Some(match array.data_type() {
        DataType::Int8 => of::<Int8Type>(array, present),
        DataType::Int16 => of::<Int16Type>(array, present),
        DataType::Int32 => of::<Int32Type>(array, present),
        DataType::Int64 => of::<Int64Type>(array, present),
        DataType::UInt8 => of::<UInt8Type>(array, present),
        DataType::UInt16 => of::<UInt16Type>(array, present),
        DataType::UInt32 => of::<UInt32Type>(array, present),
        _ => return None,
    })
}

/// Microseconds since 1970-01-01 UTC of the rows `present`, and the rows too far from it to say.
pub(super) fn instants(array: &ArrayRef, present: &[u32]) -> Result<(Vec<i64>, Vec<u32>), Unread> {
    fn of<T: ArrowPrimitiveType>(
        array: &ArrayRef,
        present: &[u32],
        micros: impl Fn(i64) -> Option<i64>,
    ) -> (Vec<i64>, Vec<u32>)
    where
        T::Native: Into<i64>,
    {
        let values = array.as_primitive::<T>().values();
        let mut late = Vec::new();
        let read = present.iter().map(|&row| {
            micros(values[row as usize].into()).unwrap_or_else(|| {
                late.push(row);
                0
            })
        });
        (read.collect(), late)
    }
    let times = |factor: i64| move |value: i64| value.checked_mul(factor);
    Ok(match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            of::<TimestampSecondType>(array, present, times(1_000_000))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            of::<TimestampMillisecondType>(array, present, times(1_000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            of::<TimestampMicrosecondType>(array, present, Some)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            of::<TimestampNanosecondType>(array, present, |value| Some(value.div_euclid(1_000)))
        }
        DataType::Date32 => of::<Date32Type>(array, present, times(86_400_000_000)),
        DataType::Date64 => of::<Date64Type>(array, present, times(1_000)),
        other => return Err(Unread::Kind(other.clone())),
    })
}

/// Numbers whose type may be too wide: integers and floats where they say the same, else text.
fn numbers_by_text(array: &ArrayRef, present: &[u32]) -> Result<Column, Unread> {
    let mut integers = (Vec::new(), Vec::new());
    let mut floats = (Vec::new(), Vec::new());
    let mut others = (Vec::new(), TextBuilder::default());
    for &row in present {
        let text = text_at(array, row as usize)?;
        if let Ok(integer) = text.parse::<i64>() {
            integers.0.push(row);
            integers.1.push(integer);
            continue;
        }
        // A float keeps 15 digits whatever they are.
        let digits = text
            .trim_end_matches('0')
            .bytes()
            .filter(u8::is_ascii_digit)
            .count();
        match text.parse::<f64>() {
            Ok(float) if digits <= 15 && text.contains('.') => {
                floats.0.push(row);
                floats.1.push(float);
            }
            _ => {
                others.0.push(row);
                others.1.push(&text);
            }
        }
    }
    let rows = array.len() as u32;
    let parts = [
        (integers.0, Values::I64(integers.1)),
        (floats.0, Values::F64(floats.1)),
        (others.0, Values::Text(others.1.finish())),
    ];
    let parts = parts.into_iter().filter(|(present, _)| !present.is_empty());
    let parts = parts
        .map(|(present, values)| part(present, values, rows))
        .collect();
    Ok(Column { rows, parts })
}

/// Every value as its text.
fn by_text(array: &ArrayRef, present: &[u32]) -> Result<Column, Unread> {
    let mut builder = TextBuilder::default();
    for &row in present {
        builder.push(&text_at(array, row as usize)?);
    }
    let rows = array.len() as u32;
    let values = Values::Text(builder.finish());
    Ok(Column {
        rows,
        parts: vec![part(present.to_vec(), values, rows)],
    })
}

/// Text of the rows `present`: codes as they are where the array is a dictionary.
pub(super) fn texts(array: &ArrayRef, present: &[u32]) -> Result<TextColumn, Unread> {
    if let DataType::Dictionary(key, _) = array.data_type() {
        return match key.as_ref() {
            DataType::Int8 => dictionary::<Int8Type>(array, present),
            DataType::Int16 => dictionary::<Int16Type>(array, present),
            DataType::Int32 => dictionary::<Int32Type>(array, present),
            DataType::Int64 => dictionary::<Int64Type>(array, present),
            DataType::UInt8 => dictionary::<UInt8Type>(array, present),
            DataType::UInt16 => dictionary::<UInt16Type>(array, present),
            DataType::UInt32 => dictionary::<UInt32Type>(array, present),
            other => Err(Unread::Kind(other.clone())),
        };
    }
    let mut builder = TextBuilder::default();
    for &row in present {
        builder.push(&text_at(array, row as usize)?);
    }
    Ok(builder.finish())
}

fn dictionary<K: ArrowDictionaryKeyType>(
    array: &ArrayRef,
    present: &[u32],
) -> Result<TextColumn, Unread>
where
    K::Native: TryInto<u32>,
{
    let array = array.as_dictionary::<K>();
    let (keys, entries) = (array.keys().values(), array.values());
    let code = |row: &u32| keys[*row as usize].try_into().unwrap_or(0);
    let mut codes: Vec<u32> = present.iter().map(code).collect();
    let mut values = StringTable::default();
    if entries.len() <= present.len() {
        for at in 0..entries.len() {
            values.push(&text_at(entries, at)?);
        }
        return Ok(TextColumn { codes, values });
    }
    // A dictionary larger than the batch: only what is used.
    let mut used = vec![u32::MAX; entries.len()];
    for code in &mut codes {
        let entry = &mut used[*code as usize];
        if *entry == u32::MAX {
            *entry = values.push(&text_at(entries, *code as usize)?);
        }
        *code = *entry;
    }
    Ok(TextColumn { codes, values })
}

/// The array without a dictionary, for those who ask row by row.
pub(super) fn plain(array: &ArrayRef) -> Result<ArrayRef, Unread> {
    match array.as_any_dictionary_opt() {
        Some(dictionary) => Ok(arrow_select::take::take(
            dictionary.values(),
            dictionary.keys(),
            None,
        )?),
        None => Ok(array.clone()),
    }
}

/// A value's text; empty for null. Numbers as they print, instants in their own unit. A dictionary
/// is to be made [`plain`] first.
pub(super) fn text_at(array: &dyn Array, row: usize) -> Result<Cow<'_, str>, Unread> {
    fn number<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> T::Native {
        let array: &PrimitiveArray<T> = array.as_primitive();
        array.value(row)
    }
    fn decimal<T: DecimalType + ArrowPrimitiveType>(array: &dyn Array, row: usize) -> String {
        array.as_primitive::<T>().value_as_string(row)
    }
    if array.is_null(row) {
        return Ok(Cow::Borrowed(""));
    }
    Ok(match array.data_type() {
        DataType::Utf8 => Cow::Borrowed(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Cow::Borrowed(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Cow::Borrowed(array.as_string_view().value(row)),
        DataType::Boolean => Cow::Borrowed(if array.as_boolean().value(row) {
            "true"
        } else {
            "false"
        }),
        DataType::Int8 => Cow::Owned(number::<Int8Type>(array, row).to_string()),
        DataType::Int16 => Cow::Owned(number::<Int16Type>(array, row).to_string()),
        DataType::Int32 => Cow::Owned(number::<Int32Type>(array, row).to_string()),
        DataType::Int64 => Cow::Owned(number::<Int64Type>(array, row).to_string()),
        DataType::UInt8 => Cow::Owned(number::<UInt8Type>(array, row).to_string()),
        DataType::UInt16 => Cow::Owned(number::<UInt16Type>(array, row).to_string()),
        DataType::UInt32 => Cow::Owned(number::<UInt32Type>(array, row).to_string()),
        DataType::UInt64 => Cow::Owned(number::<UInt64Type>(array, row).to_string()),
        DataType::Float16 => Cow::Owned(number::<Float16Type>(array, row).to_f64().to_string()),
        DataType::Float32 => Cow::Owned(f64::from(number::<Float32Type>(array, row)).to_string()),
        DataType::Float64 => Cow::Owned(number::<Float64Type>(array, row).to_string()),
        DataType::Decimal128(..) => Cow::Owned(decimal::<Decimal128Type>(array, row)),
        DataType::Decimal256(..) => Cow::Owned(decimal::<Decimal256Type>(array, row)),
        DataType::Date32 => Cow::Owned(number::<Date32Type>(array, row).to_string()),
        DataType::Date64 => Cow::Owned(number::<Date64Type>(array, row).to_string()),
        DataType::Timestamp(TimeUnit::Second, _) => {
            Cow::Owned(number::<TimestampSecondType>(array, row).to_string())
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Cow::Owned(number::<TimestampMillisecondType>(array, row).to_string())
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Cow::Owned(number::<TimestampMicrosecondType>(array, row).to_string())
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Cow::Owned(number::<TimestampNanosecondType>(array, row).to_string())
        }
        other => return Err(Unread::Kind(other.clone())),
    })
}
