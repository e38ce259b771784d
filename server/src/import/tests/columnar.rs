use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::types::{Float64Type, Int32Type};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    StructArray, TimestampMillisecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow_schema::{DataType, Field, Fields};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::*;

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    write_with(path, columns, WriterProperties::builder().build());
}

fn write_with(path: &Path, columns: Vec<(&str, ArrayRef)>, properties: WriterProperties) {
    let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(nullable).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn texts(texts: &[Option<&str>]) -> ArrayRef {
    Arc::new(texts.iter().copied().collect::<StringArray>())
}

#[test]
fn every_type() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let dictionary: DictionaryArray<Int32Type> = [Some("x"), None, Some("x")].into_iter().collect();
    let inner: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]));
    let structs = StructArray::from(vec![(
        Arc::new(Field::new("in", DataType::Int32, true)),
        inner,
    )]);
    let lists = ListArray::from_iter_primitive::<Float64Type, _, _>([
        Some(vec![Some(1.5), None, Some(2.5)]),
        Some(vec![]),
        None,
    ]);
    let decimals = Decimal128Array::from(vec![Some(1_050), Some(7_00), None]);
    write(
        &path,
        vec![
            ("user", Arc::new(Int64Array::from(vec![1, 2, 3]))),
            (
                "time",
                Arc::new(TimestampMillisecondArray::from(vec![5_000, 5_001, 5_002])),
            ),
            ("event", texts(&[Some("a"), Some("b"), Some("a")])),
            ("t", texts(&[Some("p"), None, Some("")])),
            ("dict", Arc::new(dictionary)),
            (
                "bytes",
                Arc::new(BinaryArray::from(vec![Some(b"q".as_slice()), None, None])),
            ),
            (
                "flag",
                Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            ),
            (
                "f32",
                Arc::new(Float32Array::from(vec![Some(0.5), None, None])),
            ),
            ("f64", Arc::new(Float64Array::from(vec![1.25, 2.0, 3.0]))),
            ("u64", Arc::new(UInt64Array::from(vec![1, u64::MAX, 2]))),
            (
                "dec",
                Arc::new(decimals.with_precision_and_scale(10, 2).unwrap()),
            ),
            (
                "day",
                Arc::new(Date32Array::from(vec![Some(1), None, None])),
            ),
            (
                "nanos",
                Arc::new(TimestampNanosecondArray::from(vec![
                    Some(1_999),
                    Some(-1),
                    None,
                ])),
            ),
            ("s", Arc::new(structs)),
            ("l", Arc::new(lists)),
            ("none", texts(&[None, None, None])),
        ],
    );
    let (events, report) = import_one(&path, &options(&files));
    assert_eq!(
        events,
        [
            "1 1970-01-01T00:00:05Z a t=\"p\" dict=\"x\" bytes=\"q\" flag=true f32=0.5 f64=1.25 u64=1 dec=10.5 day=1970-01-02T00:00:00Z nanos=1970-01-01T00:00:00.000001Z s.in=1 l=[1.5 2.5]",
            "2 1970-01-01T00:00:05.001Z b f64=2.0 u64=\"18446744073709551615\" dec=7.0 nanos=1969-12-31T23:59:59.999999Z",
            "3 1970-01-01T00:00:05.002Z a t=\"\" dict=\"x\" flag=false f64=3.0 u64=2 s.in=3",
        ]
    );
    assert_eq!((report.rows, report.events), (3, 3));
}

#[test]
fn lists_of_structs() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let fields = Fields::from(vec![Field::new("sku", DataType::Utf8, true)]);
    let mut builder = ListBuilder::new(StructBuilder::from_fields(fields, 4));
    for skus in [&[Some("x"), Some("y")][..], &[], &[None, Some("z")]] {
        for sku in skus {
            let skus: &mut StringBuilder = builder.values().field_builder(0).unwrap();
            skus.append_option(*sku);
            builder.values().append(true);
        }
        builder.append(true);
    }
    write(
        &path,
        vec![
            ("user", texts(&[Some("7"), Some("8"), Some("9")])),
            ("time", Arc::new(Int64Array::from(vec![5, 6, 7]))),
            ("event", texts(&[Some("e"); 3])),
            ("products", Arc::new(builder.finish())),
        ],
    );
    assert_eq!(
        import_one(&path, &options(&files)).0,
        [
            "7 1970-01-01T00:00:05Z e products[].sku=[\"x\" \"y\"]",
            "8 1970-01-01T00:00:06Z e",
            "9 1970-01-01T00:00:07Z e products[].sku=[\"z\"]",
        ]
    );
}

#[test]
fn bad_rows_are_filtered_out() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let long = "e".repeat(256);
    let huge = "p".repeat((1 << 20) + 1);
    write(
        &path,
        vec![
            (
                "user",
                Arc::new(Int64Array::from(vec![
                    Some(1),
                    None,
                    Some(3),
                    Some(4),
                    Some(5),
                    Some(6),
                ])),
            ),
            (
                "time",
                texts(&[
                    Some("2019-10-01"),
                    Some("2019-10-01"),
                    Some("x"),
                    None,
                    Some("1569888000"),
                    Some("5"),
                ]),
            ),
            (
                "event",
                texts(&[
                    Some("a"),
                    Some("a"),
                    Some("a"),
                    Some("a"),
                    Some(&long),
                    Some("a"),
                ]),
            ),
            (
                "p",
                texts(&[Some("ok"), None, None, None, None, Some(&huge)]),
            ),
        ],
    );
    let mut options = options(&files);
    let (events, report) = import_one(&path, &options);
    assert_eq!(events, ["1 2019-10-01T00:00:00Z a p=\"ok\""]);
    assert_eq!(
        rejected(&report),
        [
            ("a text over 1 MiB", 1),
            ("a time that cannot be read", 1),
            ("a user id, event name or message id over 255 bytes", 1),
            ("no time", 1),
            ("no user id", 1),
        ]
    );
    let rejects = std::fs::read_to_string(files.path("rejects.csv")).unwrap();
    assert!(
        rejects.contains(",2,no user id,\",2019-10-01,a,\"\n"),
        "{}",
        &rejects[..200]
    );
    options.strict = true;
    let error = import(&[&path], &options, &mut Collector::default()).unwrap_err();
    assert!(error.to_string().contains(", row 2: no user id"), "{error}");
}

#[test]
fn many_rows_row_groups_codecs_and_resuming() {
    let files = Files::new();
    let rows = 200_000i64;
    let users: Int64Array = (0..rows).map(|row| row % 999).collect();
    let times: Int64Array = (0..rows).map(|row| 1_569_888_000 + row).collect();
    let names: StringArray = (0..rows)
        .map(|row| Some(["view", "cart", "buy"][row as usize % 3]))
        .collect();
    let unique: StringArray = (0..rows)
        .map(|row| Some(format!("session-{}", row / 2)))
        .collect();
    let columns = || -> Vec<(&str, ArrayRef)> {
        vec![
            ("user", Arc::new(users.clone())),
            ("time", Arc::new(times.clone())),
            ("event", Arc::new(names.clone())),
            ("session", Arc::new(unique.clone())),
        ]
    };
    let mut first = None;
    for (at, codec) in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::GZIP(Default::default()),
        Compression::LZ4_RAW,
    ]
    .into_iter()
    .enumerate()
    {
        let path = files.path(&format!("{at}.parquet"));
        let properties = WriterProperties::builder()
            .set_compression(codec)
            .set_max_row_group_row_count(Some(70_001))
            .set_dictionary_page_size_limit(10_000);
        write_with(&path, columns(), properties.build());
        let mut broken = Collector {
            fail_at: Some(1),
            ..Collector::default()
        };
        import(&[&path], &options(&files), &mut broken).unwrap_err();
        let report = import(&[&path], &options(&files), &mut broken)
            .unwrap()
            .remove(0);
        assert_eq!(report.resumed_after, 65_536);
        let found = events(&broken);
        assert_eq!(found.len(), rows as usize);
        assert_eq!(
            found[123_456],
            "579 2019-10-02T10:17:36Z view session=\"session-61728\""
        );
        assert!(
            first.get_or_insert_with(|| found.clone()) == &found,
            "{codec:?}"
        );
    }
}

#[test]
fn columns_that_cannot_be_read_may_be_left_out() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let nested = {
        let mut builder = ListBuilder::new(ListBuilder::new(StringBuilder::new()));
        builder.values().values().append_value("x");
        builder.values().append(true);
        builder.append(true);
        builder.finish()
    };
    write(
        &path,
        vec![
            ("user", texts(&[Some("007")])),
            ("time", Arc::new(Float64Array::from(vec![1_569_888_000.5]))),
            ("event", texts(&[Some("a")])),
            ("nested", Arc::new(nested)),
        ],
    );
    let mut options = options(&files);
    let error = import(&[&path], &options, &mut Collector::default()).unwrap_err();
    assert!(error.to_string().contains("--skip nested"), "{error}");
    options.skip = vec!["nested".to_owned()];
    assert_eq!(
        import_one(&path, &options).0,
        ["007 2019-10-01T00:00:00.500Z a"]
    );
}

#[test]
fn names_by_rule_and_from_several_columns() {
    let files = Files::new();
    let path = files.path("a.parquet");
    write(
        &path,
        vec![
            ("user", Arc::new(Int32Array::from(vec![1, 2, 3]))),
            ("time", Arc::new(Int64Array::from(vec![5, 6, 7]))),
            ("what", texts(&[Some("A"), Some("A"), None])),
            ("how", texts(&[Some("x"), None, None])),
            ("n", Arc::new(Int64Array::from(vec![-1, 1, 1]))),
        ],
    );
    let mut options = options(&files);
    options.naming.columns = vec!["what".to_owned(), "how".to_owned()];
    options.naming.rules = vec!["n^=-:minus".parse().unwrap()];
    options.message_id = Some("how".to_owned());
    let (events, report) = import_one(&path, &options);
    assert_eq!(
        events,
        [
            "1 1970-01-01T00:00:05Z minus #x what=\"A\" n=-1",
            "2 1970-01-01T00:00:06Z A| # what=\"A\" n=1",
        ]
    );
    assert_eq!(rejected(&report), [("no event name", 1)]);
}

#[test]
fn damaged_files_are_errors() {
    let files = Files::new();
    let path = files.path("a.parquet");
    let ids: Int64Array = (0..500).collect();
    write(
        &path,
        vec![
            ("user", Arc::new(ids.clone())),
            ("time", Arc::new(ids)),
            ("event", texts(&[Some("a"); 500])),
        ],
    );
    let whole = std::fs::read(&path).unwrap();
    let load = |bytes: &[u8]| {
        let path = files.write("b.parquet", bytes);
        import(&[&path], &options(&files), &mut Collector::default())
    };
    assert!(load(&whole).is_ok());
    for length in [0, 3, 8, whole.len() / 2, whole.len() - 1] {
        assert!(load(&whole[..length]).is_err(), "cut to {length}");
    }
    for at in (0..whole.len()).step_by(7) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x55;
        // The format checks little; what matters is that nothing panics through.
        let _result = load(&flipped);
    }
}
