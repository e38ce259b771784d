//! Round trips, damage and sizes of whole runs of properties.

use std::path::Path;

use proptest::prelude::*;

use super::encode::encode_into;
use super::sink::{Params, Sink};
use super::{ColumnView, PartView, PropertiesView};
use crate::batch::testing::{assert_sound, bits, cells, column_of, rows_of};
use crate::batch::{Column, Kind, ListColumn, Part, Presence, Property, Values};
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
        least_dependent: 16,
        compressed: true,
    }
}

fn params() -> impl Strategy<Value = Params> {
    let tiny = (
        prop::sample::select(vec![1u32, 2, 3, 5, 8, 13, 64]),
        prop::sample::select(vec![0usize, 8, 40]),
    )
        .prop_map(|(values, inline)| tiny(values, inline));
    let params = prop_oneof![4 => tiny, 1 => Just(Params::default())];
    let brief = Params {
        compressed: false,
        ..self::tiny(8, 8)
    };
    prop_oneof![4 => params, 1 => Just(Params::brief()), 1 => Just(brief)]
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

/// One property of each sort, 40 rows: small enough to flip every bit.
fn every_sort() -> Vec<Property> {
    let column = |value: &dyn Fn(i64) -> Option<Value>| -> Column {
        column_of(&(0..40).map(value).collect::<Rows>())
    };
    let texts = ["", "a", "b", "cc", "日本"];
    let columns = [
        column(&|_| Some(Value::I64(7))),
        column(&|row| Some(Value::I64(row * row * 1_000))),
        column(&|row| Some(Value::F64(row as f64 / 100.0))),
        column(&|row| Some(Value::F64((row as f64).sqrt()))),
        column(&|row| (row % 3 != 0).then_some(Value::Bool(row % 2 == 0))),
        column(&|row| Some(Value::from(texts[row as usize % texts.len()]))),
        column(&|row| Some(Value::Text(format!("text number {row} of them all")))),
        column(&|row| (row == 5 || row == 39).then_some(Value::Timestamp(row))),
        column(&|row| match row % 4 {
            0 => Some(Value::Null),
            1 => Some(Value::I64(row)),
            2 => Some(Value::from("x")),
            _ => Some(Value::List(vec![Value::I64(row), Value::from("y")])),
        }),
    ];
    let property = |(at, column)| Property {
        name: format!("p{at}"),
        column,
    };
    columns.into_iter().enumerate().map(property).collect()
}

/// What a run reads as, or that it is damaged.
fn read_run(run: &Run, bytes: Vec<u8>) -> Result<Vec<(String, Column)>, Corruption> {
    let sealed = run.seal_bytes(bytes);
    read_all(&run.open(&sealed)?)
}

#[test]
fn every_flipped_bit_is_noticed() {
    for params in [tiny(8, 16), Params::default()] {
        let run = Run::new(&every_sort(), 40, params);
        let whole = read_run(&run, run.bytes.clone()).expect("is not damaged");
        let whole: Vec<_> = whole
            .iter()
            .map(|(_, column)| bits(&rows_of(column)))
            .collect();
        let (mut noticed, mut harmless) = (0, 0);
        for at in 0..run.bytes.len() {
            for bit in 0..8 {
                let mut bytes = run.bytes.clone();
                bytes[at] ^= 1 << bit;
                match read_run(&run, bytes) {
                    Err(_) => noticed += 1,
                    Ok(found) => {
                        let found = found.iter().map(|(_, column)| bits(&rows_of(column)));
                        assert!(found.eq(whole.iter().cloned()), "byte {at}, bit {bit}");
                        harmless += 1;
                    }
                }
            }
        }
        assert!(noticed > harmless, "only padding may change without notice");
    }
}

#[test]
fn every_truncation_is_noticed() {
    let run = Run::new(&every_sort(), 40, tiny(8, 16));
    let unpadded = run.directory.offset as usize + run.directory.len as usize;
    for len in 0..unpadded {
        assert!(
            read_run(&run, run.bytes[..len].to_vec()).is_err(),
            "cut to {len}"
        );
    }
    assert!(read_run(&run, run.bytes[..unpadded].to_vec()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Bytes that are wrong but rightly checksummed may read as anything, but never panic.
    #[test]
    fn forged_blocks_do_not_panic(
        forged in prop::collection::vec((0u64..40, any::<prop::sample::Index>(), any::<u8>()), 1..4),
        params in params(),
    ) {
        let mut image = ImageWriter::new(b"test");
        let mut sink = Sink::new(&mut image, params);
        let mut number = 0;
        sink.forge = Some(Box::new(move |bytes| {
            for (_, at, value) in forged.iter().filter(|(block, ..)| *block == number) {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = *value;
                }
            }
            number += 1;
        }));
        let directory = encode_into(&mut sink, &every_sort(), 40);
        let run = Run { blocks: image.blocks(), bytes: image.finish(), directory, rows: 40 };
        let sealed = run.seal();
        if let Ok(view) = run.open(&sealed) {
            for name in view.names() {
                if let Ok(Some(column)) = view.get(name) {
                    touch(&column);
                }
            }
        }
    }
}

/// Asks for everything, whatever the answers.
fn touch(column: &ColumnView<'_>) {
    let rows = column.rows().min(200);
    let _ = column.decode(0..rows);
    for row in 0..rows {
        let _ = column.value(row);
    }
    for part in column.parts() {
        let _ = part.bounds();
        let indices = part.indices(0..rows);
        part.fill_rows(indices, &mut Vec::new());
        for block in 0..part.blocks().min(100) {
            let _ = part.block_bounds(block);
        }
        for index in 0..part.len().min(200) {
            part.row_of(index);
            let _ = part.value(index);
        }
        if let Some(text) = part.coded() {
            let _ = text.code_of("b");
        }
        let indices = part.indices(0..rows);
        match part.kind() {
            Kind::I64 | Kind::Timestamp => {
                let _ = part.ints(indices.clone(), &mut Vec::new());
                let _ = part.floats(indices.clone(), &mut Vec::new());
            }
            Kind::F64 => {
                let _ = part.floats(indices.clone(), &mut Vec::new());
            }
            _ => {}
        }
        if part.table_len().is_some() {
            touch_table(part, indices);
        }
        if let Some(list) = part.list() {
            touch(list.elements());
        }
    }
}

/// Codes are within the table, and stand for the values, where nothing is noticed.
fn touch_table(part: &PartView<'_>, indices: std::ops::Range<u32>) {
    let (mut codes, mut values) = (Vec::new(), Vec::new());
    let (Ok(table), Ok(())) = (part.table(), part.table_codes(indices.clone(), &mut codes)) else {
        return;
    };
    if part.ints(indices, &mut values).is_ok() {
        let found: Vec<i64> = codes.iter().map(|&code| table[code as usize]).collect();
        assert_eq!(found, values);
    }
}

/// A number between 0 and 2^32 that looks random, the same in every run.
fn noise(row: u32, salt: u32) -> u32 {
    let mixed = (u64::from(row) << 32 | u64::from(salt)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32
}

/// Small products are met often, great ones seldom.
fn product(row: u32, products: u32) -> u32 {
    let share = f64::from(noise(row, 1)) / 4_294_967_296.0;
    (share * share * f64::from(products)) as u32
}

/// The columns of a shop: what follows from the product and what does not.
fn shop(rows: u32, products: u32) -> Vec<Property> {
    let column = |value: &dyn Fn(u32) -> Option<Value>| -> Column {
        column_of(&(0..rows).map(value).collect::<Rows>())
    };
    let id = |row: u32| i64::from(product(row, products));
    let category = |row: u32| id(row) * 7 % 23;
    let columns = [
        (
            "product",
            column(&|row| Some(Value::Text(format!("product {}", id(row))))),
        ),
        (
            "sku",
            column(&|row| Some(Value::I64(id(row) * 104_729 + 1_000_000_000))),
        ),
        (
            "category",
            column(&|row| {
                // One in fifty was filed elsewhere.
                let moved = i64::from(row % 50 == 49);
                Some(Value::Text(format!("category {}", category(row) + moved)))
            }),
        ),
        (
            "price",
            column(&|row| Some(Value::F64((id(row) * 37 % 9_999) as f64 / 100.0))),
        ),
        (
            "paid",
            column(&|row| {
                // One in sixteen was promoted.
                let cents = id(row) * 37 % 9_999;
                let off = if noise(row, 6).is_multiple_of(16) {
                    cents / 5
                } else {
                    0
                };
                Some(Value::F64((cents - off) as f64 / 100.0))
            }),
        ),
        (
            "brand",
            column(&|row| {
                let brand = Value::Text(format!("brand {}", id(row) % 19));
                (!noise(row, 2).is_multiple_of(3)).then_some(brand)
            }),
        ),
        (
            "colour",
            column(&|row| {
                let known = !noise(row, 2).is_multiple_of(3);
                known.then_some(Value::I64(id(row) % 11 * 1_000))
            }),
        ),
        ("heavy", column(&|row| Some(Value::Bool(id(row) % 2 == 0)))),
        (
            "amount",
            column(&|row| Some(Value::I64(i64::from(noise(row, 3) % 1_000)))),
        ),
        (
            "ratio",
            column(&|row| Some(Value::F64(f64::from(noise(row, 4)).sqrt()))),
        ),
        (
            "page",
            column(&|row| {
                let path = noise(row, 5);
                Some(Value::Text(format!(
                    "https://shop.example/catalogue/{path:08x}"
                )))
            }),
        ),
        (
            "platform",
            column(&|row| {
                Some(Value::from(
                    ["web", "app", "till"][noise(row / 100, 6) as usize % 3],
                ))
            }),
        ),
        ("currency", column(&|_| Some(Value::from("EUR")))),
        (
            "day",
            column(&|row| {
                Some(Value::Timestamp(
                    i64::from(noise(row, 7) % 30) * 86_400_000_000,
                ))
            }),
        ),
        (
            "rare",
            column(&|row| (row % (rows / 3) == 1).then_some(Value::I64(row.into()))),
        ),
        (
            "tags",
            column(&|row| {
                let tag = |at: u32| Value::Text(format!("tag {}", noise(row, at) % 40));
                (row % 4 == 0).then(|| Value::List((0..1 + row % 3).map(tag).collect()))
            }),
        ),
    ];
    let property = |(name, column): (&str, Column)| Property {
        name: name.to_owned(),
        column,
    };
    columns.into_iter().map(property).collect()
}

/// Bytes that a run takes with only these of its properties.
fn size_of(properties: &[Property], names: &[&str]) -> usize {
    let some: Vec<Property> = properties
        .iter()
        .filter(|property| names.contains(&property.name.as_str()))
        .cloned()
        .collect();
    assert_eq!(some.len(), names.len());
    let rows = some[0].column.rows;
    Run::new(&some, rows, Params::default()).bytes.len()
}

#[test]
fn a_shop_reads_back() {
    for (rows, products, params) in [
        (30_000, 500, Params::default()),
        (3_000, 60, tiny(64, 16)),
        (1_000, 20, tiny(7, 0)),
    ] {
        let properties = shop(rows, products);
        let run = Run::new(&properties, rows, params);
        let sealed = run.seal();
        let view = run.open(&sealed).expect("is not damaged");
        for property in &properties {
            let column = view.get(&property.name).expect("is not damaged");
            let column = column.expect("the property has values");
            let expected = bits(&rows_of(&property.column));
            let found: Result<Rows, _> = (0..rows).map(|row| column.value(row)).collect();
            assert_eq!(
                bits(&found.expect("is not damaged")),
                expected,
                "{}",
                property.name
            );
            column
                .parts()
                .iter()
                .try_for_each(read_part)
                .expect("is not damaged");
            for range in [0..rows, 5..6, rows / 3..rows / 2, rows - 1..rows, 9..9] {
                let found = column.decode(range.clone()).expect("is not damaged");
                assert_sound(&found);
                let range = range.start as usize..range.end as usize;
                assert_eq!(bits(&rows_of(&found)), expected[range], "{}", property.name);
            }
        }
    }
}

#[test]
fn what_follows_from_the_product_costs_next_to_nothing() {
    let rows = 100_000;
    let properties = shop(rows, 1_000);
    let per_row = |names: &[&str]| size_of(&properties, names) as f64 / f64::from(rows);
    let product = per_row(&["product"]);
    assert!(product < 1.5, "{product}");
    for (dependent, most) in [
        ("category", 0.1),
        ("price", 0.1),
        ("paid", 0.5),
        ("heavy", 0.1),
        ("brand", 0.25),
    ] {
        let alone = per_row(&[dependent]);
        let beside = per_row(&["product", dependent]) - product;
        assert!(
            beside < most,
            "{dependent}: {beside} beside the product, {alone} alone"
        );
        assert!(
            beside < alone,
            "{dependent}: {beside} beside the product, {alone} alone"
        );
    }
    // Whole numbers determine as texts do, and rows that both have are stored once.
    let sku = per_row(&["sku"]);
    assert!(per_row(&["sku", "category", "price"]) - sku < 0.15);
    let apart = per_row(&["brand"]) + per_row(&["colour"]);
    assert!(per_row(&["brand", "colour"]) < apart - 0.12);
}

#[test]
fn sizes_are_as_the_values_need() {
    let rows = 100_000;
    let properties = shop(rows, 1_000);
    let per_row = |name: &str| size_of(&properties, &[name]) as f64 / f64::from(rows);
    for name in ["currency", "rare"] {
        let size = size_of(&properties, &[name]);
        assert!(size < 200, "{name} takes {size} bytes");
    }
    for (name, most) in [
        ("sku", 1.4),
        ("price", 1.8),
        ("amount", 1.3),
        ("day", 0.7),
        ("ratio", 8.1),
        ("platform", 0.05),
        ("heavy", 0.14),
        // 32 random bits in 8 digits, of 38 bytes.
        ("page", 8.0),
    ] {
        let size = per_row(name);
        assert!(size < most, "{name} takes {size} bytes a row");
    }
}

#[test]
fn thousands_of_rare_properties_are_cheap() {
    let rare = |at: u32| {
        let mut rows = vec![None; 10_000];
        for row in 0..3 {
            rows[(at + row * 3_000) as usize] = Some(Value::I64(i64::from(row) * 100));
        }
        Property {
            name: format!("property {at:04}"),
            column: column_of(&rows),
        }
    };
    let properties: Vec<Property> = (0..1_000).map(rare).collect();
    let run = Run::new(&properties, 10_000, Params::default());
    let each = run.bytes.len() / 1_000;
    assert!(each < 100, "a property of three rows takes {each} bytes");
    let sealed = run.seal();
    let view = run.open(&sealed).expect("is not damaged");
    assert_eq!(view.len(), 1_000);
    let column = view
        .get("property 0777")
        .expect("is not damaged")
        .expect("is there");
    assert_eq!(
        column.value(3_777).expect("is not damaged"),
        Some(Value::I64(100))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// As above, for runs in which parts depend on each other.
    #[test]
    fn forged_dependences_do_not_panic(
        forged in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..6),
        block_values in prop::sample::select(vec![16u32, 100]),
    ) {
        let properties = shop(200, 8);
        let blocks = Run::new(&properties, 200, tiny(block_values, 64)).blocks as usize;
        let mut image = ImageWriter::new(b"test");
        let mut sink = Sink::new(&mut image, tiny(block_values, 64));
        let mut number = 0;
        sink.forge = Some(Box::new(move |bytes| {
            for (_, at, value) in forged.iter().filter(|(block, ..)| block.index(blocks) == number) {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = *value;
                }
            }
            number += 1;
        }));
        let directory = encode_into(&mut sink, &properties, 200);
        let run = Run { blocks: image.blocks(), bytes: image.finish(), directory, rows: 200 };
        let sealed = run.seal();
        if let Ok(view) = run.open(&sealed) {
            for name in view.names() {
                if let Ok(Some(column)) = view.get(name) {
                    touch(&column);
                }
            }
        }
    }
}

#[test]
fn texts_are_found_by_value() {
    let properties = shop(3_000, 60);
    let run = Run::new(&properties, 3_000, tiny(64, 16));
    let sealed = run.seal();
    let view = run.open(&sealed).expect("is not damaged");
    let column = view
        .get("product")
        .expect("is not damaged")
        .expect("is there");
    let text = column.parts()[0].coded().expect("products repeat");
    assert!(text.len() <= 60);
    for code in 0..text.len() {
        let value = text.value(code).expect("is not damaged").to_owned();
        assert_eq!(text.code_of(&value).expect("is not damaged"), Some(code));
        assert_eq!(text.lower_bound(&value).expect("is not damaged"), code);
        let above = value.clone() + "\0";
        assert_eq!(text.code_of(&above).expect("is not damaged"), None);
        assert_eq!(text.lower_bound(&above).expect("is not damaged"), code + 1);
    }
    assert_eq!(text.code_of("").expect("is not damaged"), None);
    assert!(text.value(text.len()).is_err());
}

#[test]
fn a_directory_of_other_rows_is_refused() {
    let run = Run::new(&every_sort(), 40, Params::default());
    let sealed = run.seal();
    assert!(PropertiesView::open(&sealed, &run.directory, 41).is_err());
}

#[test]
fn a_run_without_properties_is_empty() {
    let run = Run::new(&[], 10, Params::default());
    let sealed = run.seal();
    let view = run.open(&sealed).expect("is not damaged");
    assert!(view.is_empty() && view.names().next().is_none());
    assert!(view.get("any").expect("is not damaged").is_none());
}

/// Nesting would let few bytes recurse deeply.
#[test]
fn a_list_inside_a_list_is_refused() {
    let list = |elements: Column| Column {
        rows: 1,
        parts: vec![Part {
            presence: Presence::All,
            values: Values::List(ListColumn {
                ends: vec![1],
                elements: Box::new(elements),
            }),
        }],
    };
    let numbers = column_of(&[Some(Value::I64(1))]);
    for (column, sound) in [(list(numbers.clone()), true), (list(list(numbers)), false)] {
        let name = "nested".to_owned();
        let run = Run::new(&[Property { name, column }], 1, Params::default());
        let sealed = run.seal();
        let view = run.open(&sealed).expect("is not damaged");
        assert_eq!(view.get("nested").is_ok(), sound);
    }
}
