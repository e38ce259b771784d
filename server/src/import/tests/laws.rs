//! What holds for every file: nothing is lost, nothing is invented, whatever the batches.

use proptest::prelude::*;
use pugmark_engine::Scalar;

use super::*;

/// A cell: numbers of many forms, texts with everything that needs quotes, nothing.
fn cell() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => any::<i16>().prop_map(|value| value.to_string()),
        2 => (any::<i16>(), 0usize..3).prop_map(|(value, k)| format!("{:.k$}", f64::from(value) / 10.0)),
        2 => Just(String::new()),
        1 => "[a-c,\"\n\r\té ]{0,6}",
        1 => prop_oneof![Just("true"), Just("007"), Just("2019-10-01T00:00:00Z")].prop_map(str::to_owned),
    ]
}

/// Rows of three cells, each column mostly of one kind.
fn rows() -> impl Strategy<Value = Vec<[String; 3]>> {
    let integers = any::<i16>().prop_map(|value| value.to_string());
    let prices = any::<u16>().prop_map(|value| format!("{:.2}", f64::from(value) / 100.0));
    prop::collection::vec([integers.boxed(), prices.boxed(), cell().boxed()], 0..12)
}

/// Whether `value` says what the cell says.
fn says(value: &Value, cell: &str) -> bool {
    match value.as_scalar() {
        Some(Scalar::Text(text)) => text == cell,
        Some(Scalar::I64(value)) => value.to_string() == cell,
        Some(Scalar::F64(value)) => cell.parse() == Ok(value),
        Some(Scalar::Bool(value)) => value.to_string() == cell,
        Some(Scalar::Timestamp(micros)) => format_rfc3339(micros) == cell,
        None => false,
    }
}

fn csv_of(rows: &[[String; 3]], delimiter: u8) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new()
        .delimiter(delimiter)
        .from_writer(Vec::new());
    writer
        .write_record(["user", "time", "event", "a", "b", "c"])
        .unwrap();
    for (at, [a, b, c]) in rows.iter().enumerate() {
        let (user, time) = ((at % 3).to_string(), (at + 1).to_string());
        writer.write_record([&user, &time, "e", a, b, c]).unwrap();
    }
    writer.into_inner().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_cell_is_found_again(rows in rows(), delimiter in prop_oneof![Just(b','), Just(b'\t')]) {
        let files = Files::new();
        let name = if delimiter == b',' { "a.csv" } else { "a.tsv" };
        let path = files.write(name, csv_of(&rows, delimiter));
        let mut collector = Collector::default();
        let report = import(&[&path], &options(&files), &mut collector).unwrap().remove(0);
        prop_assert_eq!(report.events as usize, rows.len());
        let mut at = 0;
        for batch in &collector.batches {
            for row in 0..batch.len() {
                for (name, cell) in ["a", "b", "c"].into_iter().zip(&rows[at]) {
                    let property = batch.properties().iter().find(|property| property.name == name);
                    let value = property.and_then(|property| property.column.value(row as u32));
                    match value {
                        None => prop_assert!(cell.is_empty(), "{:?} of {} is lost", cell, name),
                        Some(value) => prop_assert!(says(&value, cell), "{:?} became {:?}", cell, value),
                    }
                }
                at += 1;
            }
        }
    }

    #[test]
    fn bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..100) {
        let files = Files::new();
        let mut whole = csv_of(&[["1", "2.00", "x"].map(str::to_owned), ["2", "3.00", "y"].map(str::to_owned)], b',');
        let at = at.min(whole.len());
        whole.splice(at..at, bytes.iter().copied());
        for name in ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a"] {
            let path = files.write(name, &whole);
            let mut collector = Collector::default();
            if let Ok(reports) = import(&[&path], &options(&files), &mut collector) {
                let stored: usize = collector.batches.iter().map(|batch| batch.len()).sum();
                prop_assert_eq!(reports[0].events as usize, stored);
                prop_assert_eq!(reports[0].rows, reports[0].events + reports[0].rejected.values().sum::<u64>());
            }
        }
    }

    #[test]
    fn json_scalars_are_found_again(rows in prop::collection::vec(
        (any::<i64>(), any::<f64>().prop_filter("JSON has no others", |value| value.is_finite()), "\\PC{0,5}", any::<bool>()),
        0..8,
    )) {
        let files = Files::new();
        let mut text = String::new();
        for (n, x, s, b) in &rows {
            let quoted = serde_json::to_string(s).unwrap();
            text.push_str(&format!("{{\"user\":1,\"time\":5,\"event\":\"e\",\"p\":{{\"n\":{n},\"x\":{x:?},\"s\":{quoted}}},\"b\":{b}}}\n"));
        }
        let path = files.write("a.jsonl", text);
        let mut collector = Collector::default();
        import(&[&path], &options(&files), &mut collector).unwrap();
        let expected: Vec<[Value; 4]> = rows
            .iter()
            .map(|(n, x, s, b)| [Value::I64(*n), Value::F64(*x), Value::from(s.as_str()), Value::Bool(*b)])
            .collect();
        let mut found = Vec::new();
        for batch in &collector.batches {
            for row in 0..batch.len() {
                found.push(["p.n", "p.x", "p.s", "b"].map(|name| {
                    let property = batch.properties().iter().find(|property| property.name == name);
                    property.and_then(|property| property.column.value(row as u32)).unwrap_or(Value::Null)
                }));
            }
        }
        prop_assert_eq!(found, expected);
    }
}
