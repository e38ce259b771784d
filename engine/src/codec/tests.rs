//! Round trips, damage and sizes of whole runs of properties.

use std::path::Path;

use proptest::prelude::*;

use super::encode::encode_into;
use super::sink::{Params, Sink};
use super::{ColumnView, PartView, PropertiesView};
use crate::batch::testing::{assert_sound, bits, cells, column_of, rows_of};
use crate::batch::{Column, Kind, Property};
use crate::error::Corruption;
use crate::format::{BlockRef, ImageWriter, Sealed};
use crate::value::Value;

type Rows = Vec<Option<Value>>;

/// Sizes at which a handful of rows takes every way through the code.
fn tiny(block_values: u32, inline_bytes: usize) -> Params {
    Params {
        block_values,
        inline_bytes,
        page_bytes: 64,
        text_block_bytes: 24,
    }
}

fn params() -> impl Strategy<Value = Params> {
    let tiny = (
        prop::sample::select(vec![1u32, 2, 3, 5, 8, 13, 64]),
        prop::sample::select(vec![0usize, 8, 40]),
    )
        .prop_map(|(values, inline)| tiny(values, inline));
    prop_oneof![4 => tiny, 1 => Just(Params::default())]
}

/// An encoded run, in memory.
struct Run {
    bytes: Vec<u8>,
    blocks: u32,
    directory: BlockRef,
    rows: u32,
}

impl Run {
    fn new(properties: &[Property], rows: u32, params: Params) -> Self {
        let mut image = ImageWriter::new(b"test");
        let directory = encode_into(&mut Sink::new(&mut image, params), properties, rows);
        let blocks = image.blocks();
        Self {
            bytes: image.finish(),
            blocks,
            directory,
            rows,
        }
    }

    fn seal(&self) -> Sealed {
        self.seal_bytes(self.bytes.clone())
    }

    fn seal_bytes(&self, bytes: Vec<u8>) -> Sealed {
        Sealed::new(bytes.into(), Path::new("run"), self.blocks)
    }

    fn open<'a>(&self, sealed: &'a Sealed) -> Result<PropertiesView<'a>, Corruption> {
        PropertiesView::open(sealed, &self.directory, self.rows)
    }
}

fn properties_of(columns: &[Rows]) -> Vec<Property> {
    let property = |(at, rows): (usize, &Rows)| Property {
        // Not in order, so that sorting them matters.
        name: format!("p{}", (at * 7 + 3) % 10),
        column: column_of(rows),
    };
    columns.iter().enumerate().map(property).collect()
}

/// Columns of equally many rows.
fn runs() -> impl Strategy<Value = Vec<Rows>> {
    (1usize..70).prop_flat_map(|rows| prop::collection::vec(cells(rows..rows + 1), 1..5))
}

/// Everything that a view says, in every way that it can be asked.
fn read_all(view: &PropertiesView<'_>) -> Result<Vec<(String, Column)>, Corruption> {
    let mut found = Vec::new();
    for name in view.names() {
        let Some(column) = view.get(name)? else {
            continue;
        };
        for part in column.parts() {
            read_part(part)?;
        }
        for row in 0..column.rows() {
            column.value(row)?;
        }
        found.push((name.to_owned(), column.decode(0..column.rows())?));
    }
    Ok(found)
}

/// Asks a part for everything; ranges must equal single values.
fn read_part(part: &PartView<'_>) -> Result<(), Corruption> {
    let all = 0..part.len();
    for block in 0..part.blocks() {
        part.block_bounds(block)?;
    }
    match part.kind() {
        Kind::Null => {}
        Kind::Bool => {
            let mut values = Vec::new();
            part.bools(all.clone(), &mut values)?;
            for (index, value) in all.zip(values) {
                assert_eq!(part.bool_at(index)?, value);
            }
        }
        Kind::I64 | Kind::Timestamp => {
            let (mut values, mut floats) = (Vec::new(), Vec::new());
            part.ints(all.clone(), &mut values)?;
            part.floats(all.clone(), &mut floats)?;
            for (index, value) in all.zip(values) {
                assert_eq!(part.int_at(index)?, value);
                assert_eq!(floats[index as usize], value as f64);
            }
        }
        Kind::F64 => {
            let mut values = Vec::new();
            part.floats(all.clone(), &mut values)?;
            for (index, value) in all.zip(values) {
                assert_eq!(part.float_at(index)?.to_bits(), value.to_bits());
            }
        }
        Kind::Text => read_text(part)?,
        Kind::List => {
            let list = part.list().expect("a part of lists has lists");
            let mut ends = Vec::new();
            list.ends(all.clone(), &mut ends)?;
            for (index, end) in all.zip(ends) {
                assert_eq!(list.bounds(index)?.end, end);
            }
            for part in list.elements().parts() {
                read_part(part)?;
            }
        }
    }
    Ok(())
}

fn read_text(part: &PartView<'_>) -> Result<(), Corruption> {
    let all = 0..part.len();
    if let Some(text) = part.coded() {
        let mut codes = Vec::new();
        text.codes(all, &mut codes)?;
        for (index, &code) in (0u32..).zip(&codes) {
            assert_eq!(text.code_at(index)?, code);
            assert_eq!(text.value(code)?, part.text_at(index)?);
        }
        for code in 0..text.len() {
            text.code_of(text.value(code)?)?;
        }
    } else {
        let mut values = Vec::new();
        let text = part.plain().expect("text is coded or plain");
        text.for_each(all, |index, text| values.push((index, text.to_owned())))?;
        for (index, value) in values {
            assert_eq!(part.text_at(index)?, value);
        }
    }
    Ok(())
}

/// The facts about a part that the query side relies on.
fn check_part(column: &ColumnView<'_>, part: &PartView<'_>, expected: &Rows) {
    use super::Bounds;
    let present: Vec<u32> = (0..column.rows())
        .filter(|&row| part.index_of(row).is_some())
        .collect();
    assert_eq!(present.len(), part.len() as usize);
    assert_eq!(part.is_all(), part.len() == column.rows());
    let mut filled = Vec::new();
    part.fill_rows(0..part.len(), &mut filled);
    assert_eq!(filled, present);
    for (index, &row) in (0u32..).zip(&present) {
        assert_eq!(part.index_of(row), Some(index));
        assert_eq!(part.row_of(index), row);
        let value = part.value(index).expect("is not damaged");
        assert_eq!(
            bits(&[Some(value)]),
            bits(&[expected[row as usize].clone()])
        );
    }
    for block in 0..part.blocks() {
        let bounds = part.block_bounds(block).expect("is not damaged");
        for index in part.block_indices(block) {
            match (part.value(index).expect("is not damaged"), bounds) {
                (Value::I64(value) | Value::Timestamp(value), Bounds::Ints { min, max }) => {
                    assert!(min <= value && value <= max);
                }
                (Value::Bool(value), Bounds::Ints { min, max }) => {
                    assert!(min <= i64::from(value) && i64::from(value) <= max);
                }
                (Value::F64(value), Bounds::Floats { min, max }) => {
                    assert!(value.is_nan() || min <= value && value <= max);
                }
                (Value::F64(value), bounds) => {
                    assert!(value.is_nan() && bounds == Bounds::Empty);
                }
                (Value::Text(value), Bounds::Ints { min, max }) => {
                    let text = part.coded().expect("only codes have bounds");
                    let code = text
                        .code_of(&value)
                        .expect("is not damaged")
                        .expect("is known");
                    assert!(min <= i64::from(code) && i64::from(code) <= max);
                }
                (Value::Null, Bounds::Empty) => {}
                (Value::Text(_) | Value::List(_), Bounds::Unknown) => {}
                (value, bounds) => panic!("{value:?} within {bounds:?}"),
            }
        }
    }
}

fn check_run(properties: &[Property], columns: &[Rows], rows: u32, params: Params) {
    let run = Run::new(properties, rows, params);
    let sealed = run.seal();
    let view = run.open(&sealed).expect("is not damaged");
    let mut names: Vec<&str> = Vec::new();
    for (property, expected) in properties.iter().zip(columns) {
        let column = view.get(&property.name).expect("is not damaged");
        if expected.iter().all(Option::is_none) {
            assert!(column.is_none());
            continue;
        }
        names.push(&property.name);
        let column = column.expect("the property has values");
        assert_eq!(column.rows(), rows);
        for (row, expected) in (0..rows).zip(expected) {
            let found = column.value(row).expect("is not damaged");
            assert_eq!(bits(&[found]), bits(std::slice::from_ref(expected)));
        }
        for part in column.parts() {
            check_part(&column, part, expected);
        }
    }
    names.sort_unstable();
    assert!(view.names().eq(names));
    assert!(view.get("absent").expect("is not damaged").is_none());
    for (_, column) in read_all(&view).expect("is not damaged") {
        assert_sound(&column);
    }
}

proptest! {
    #[test]
    fn what_is_encoded_reads_back(columns in runs(), params in params()) {
        let rows = columns[0].len() as u32;
        check_run(&properties_of(&columns), &columns, rows, params);
    }

    #[test]
    fn ranges_decode_as_slices(
        rows in cells(1..90),
        params in params(),
        ends in any::<(prop::sample::Index, prop::sample::Index)>(),
    ) {
        let (a, b) = (ends.0.index(rows.len() + 1), ends.1.index(rows.len() + 1));
        let range = a.min(b)..a.max(b);
        let properties = properties_of(std::slice::from_ref(&rows));
        let run = Run::new(&properties, rows.len() as u32, params);
        let sealed = run.seal();
        let view = run.open(&sealed).expect("is not damaged");
        if let Some(column) = view.get(&properties[0].name).expect("is not damaged") {
            let found = column
                .decode(range.start as u32..range.end as u32)
                .expect("is not damaged");
            assert_sound(&found);
            prop_assert_eq!(bits(&rows_of(&found)), bits(&rows[range]));
        }
    }
}
