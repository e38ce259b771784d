//! Columns for tests: from plain rows of values, and back to values that compare by bits.

use proptest::prelude::*;

use super::{BatchBuilder, BatchColumns, Column};
use crate::value::Value;

/// The column with these values by row; `None` is a row without one.
pub(crate) fn column_of(rows: &[Option<Value>]) -> Column {
    let mut batch = BatchBuilder::new();
    for value in rows {
        let row = batch.event("u", 0, "e");
        if let Some(value) = value {
            row.value("p", value);
        }
    }
    let batch = batch.columns().and_then(BatchColumns::finish_traits);
    let batch = batch.expect("the values are legal");
    match batch.properties() {
        [] => Column {
            rows: rows.len() as u32,
            parts: Vec::new(),
        },
        [property, ..] => property.column.clone(),
    }
}

/// The values of a column by row.
pub(crate) fn rows_of(column: &Column) -> Vec<Option<Value>> {
    (0..column.rows).map(|row| column.value(row)).collect()
}

/// Values with floats as their bits, so that NaN equals itself and 0.0 differs from -0.0.
pub(crate) fn bits(rows: &[Option<Value>]) -> Vec<String> {
    fn of(value: &Value) -> String {
        match value {
            Value::F64(value) => format!("F64 {:x}", value.to_bits()),
            Value::List(elements) => elements.iter().map(|value| of(value) + ";").collect(),
            other => format!("{other:?}"),
        }
    }
    rows.iter()
        .map(|value| value.as_ref().map_or_else(String::new, of))
        .collect()
}

/// Asserts the invariants that every column keeps: one part of each kind, rows ascending and in
/// no other part, as many values as rows, codes within the dictionary.
pub(crate) fn assert_sound(column: &Column) {
    use super::{Presence, Values};
    let mut taken = vec![false; column.rows as usize];
    let mut kinds = Vec::new();
    for part in &column.parts {
        let rows: Vec<u32> = match &part.presence {
            Presence::All => (0..column.rows).collect(),
            Presence::Rows(rows) => rows.clone(),
        };
        assert_eq!(rows.len(), part.values.len());
        assert!(rows.is_sorted_by(|a, b| a < b));
        for row in rows {
            assert!(!std::mem::replace(&mut taken[row as usize], true));
        }
        assert!(!kinds.contains(&part.values.kind()));
        kinds.push(part.values.kind());
        match &part.values {
            Values::Text(text) => {
                let entries = text.values.len() as u32;
                assert!(text.codes.iter().all(|&code| code < entries));
            }
            Values::List(list) => {
                assert!(list.ends.is_sorted());
                assert_eq!(list.ends.last().copied().unwrap_or(0), list.elements.rows);
                assert_sound(&list.elements);
            }
            _ => {}
        }
    }
}

/// Any scalar, with the extremes that encodings trip over.
pub(crate) fn scalar() -> impl Strategy<Value = Value> + Clone {
    let special = prop::sample::select(vec![
        f64::NAN,
        -f64::NAN,
        f64::from_bits(0x7ff8_0000_0000_0001),
        -0.0,
        0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE,
        f64::MAX,
        9_007_199_254_740_992.0,
        0.1 + 0.2,
    ]);
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::I64),
        (-3i64..4).prop_map(|value| Value::I64(value * 1_000)),
        prop::sample::select(vec![i64::MIN, i64::MAX, 0, -1]).prop_map(Value::I64),
        special.prop_map(Value::F64),
        any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
        (-10_000i32..10_000).prop_map(|cents| Value::F64(f64::from(cents) / 100.0)),
        any::<i64>().prop_map(Value::Timestamp),
        (0i64..50).prop_map(|day| Value::Timestamp(day * 86_400_000_000)),
        prop::sample::select(vec!["", "a", "ab", "ä", "日本", "zebra"]).prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::Text),
    ]
}

/// Any value of an event's property, or of a trait (which may be null), or none.
pub(crate) fn cell() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Value::Null)),
        8 => scalar().prop_map(Some),
        2 => prop::collection::vec(scalar(), 1..5).prop_map(|list| Some(Value::List(list))),
    ]
}

/// Rows of a column, of one type as a rule (with or without gaps), of any mixture sometimes.
pub(crate) fn cells(rows: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Option<Value>>> {
    let one_type = (
        scalar(),
        prop::collection::vec((any::<u8>(), scalar()), rows.clone()),
    )
        .prop_flat_map(|(model, others)| {
            let gaps = prop::sample::select(vec![0u8, 40, 250]);
            gaps.prop_map(move |gaps| {
                let cell = |(chance, other): &(u8, Value)| {
                    let same = std::mem::discriminant(other) == std::mem::discriminant(&model);
                    let value = if same { other.clone() } else { model.clone() };
                    (*chance >= gaps).then_some(value)
                };
                others.iter().map(cell).collect::<Vec<_>>()
            })
        });
    prop_oneof![one_type, prop::collection::vec(cell(), rows)]
}
