use super::super::{ColumnType, Problem};
use super::*;

#[test]
fn objects_nested_and_not() {
    let files = Files::new();
    let text = "\u{feff}{\"user\":{\"id\":5},\"time\":1569888000123,\"event\":\"view\",\"p\":{\"price\":2.5,\"tags\":[\"a\",\"b\"]}}\r\n\
        \n\
        {\"time\":\"1569888000124\",\"event\":\"cart\",\"user\":{\"id\":\"x\"},\"ok\":true,\"p\":null,\"items\":[{\"sku\":\"q\"},{\"sku\":7}]}\n\
        {\"time\":\"2019-10-01\",\"event\":\"e\",\"user\":{\"id\":18446744073709551615}}\n";
    let mut options = options(&files);
    options.user = "user.id".to_owned();
    let (events, report) = import_one(&files.write("a.ndjson", text), &options);
    assert_eq!(
        events,
        [
            "5 2019-10-01T00:00:00.123Z view p.price=2.5 p.tags=[\"a\" \"b\"]",
            "x 2019-10-01T00:00:00.124Z cart ok=true items[].sku=[\"q\" 7]",
            "18446744073709551615 2019-10-01T00:00:00Z e",
        ]
    );
    assert_eq!((report.rows, report.events), (3, 3));
}

#[test]
fn bad_lines_cost_themselves_only() {
    let files = Files::new();
    let ok = r#"{"user":1,"time":5,"event":"e"}"#;
    let lines: Vec<Vec<u8>> = [
        ok,
        "nonsense",
        "[1]",
        r#"{"user":1,"time":5,"event":"e","a":1,"a":2}"#,
        r#"{"user":1,"time":5,"event":"e","a.b":1,"a":{"b":2}}"#,
        r#"{"user":null,"time":5,"event":"e"}"#,
        r#"{"user":"","time":5,"event":"e"}"#,
        r#"{"user":[1],"time":5,"event":"e"}"#,
        r#"{"user":1,"event":"e"}"#,
        r#"{"user":1,"time":true,"event":"e"}"#,
        r#"{"user":1,"time":5}"#,
        r#"{"user":1,"time":5,"event":"e","":1}"#,
        r#"{"user":1,"time":5,"event":"e","s":"\ud800"}"#,
        ok,
    ]
    .iter()
    .map(|line| line.as_bytes().to_vec())
    .chain([b"{\"user\":1,\"time\":5,\"event\":\"\xFF\"}".to_vec()])
    .collect();
    let list = format!(
        r#"{{"user":1,"time":5,"event":"e","l":[{}]}}"#,
        vec!["1"; 65_537].join(",")
    );
    let keys: Vec<String> = (0..9_000).map(|key| format!("\"k{key}\":1")).collect();
    let keys = format!(r#"{{"user":1,"time":5,"event":"e",{}}}"#, keys.join(","));
    let text = [lines.join(&b'\n'), list.into_bytes(), keys.into_bytes()].join(&b'\n');
    let path = files.write("a.jsonl", text);
    let (events, report) = import_one(&path, &options(&files));
    assert_eq!(
        events,
        ["1 1970-01-01T00:00:05Z e", "1 1970-01-01T00:00:05Z e"]
    );
    assert_eq!(report.rows, 17);
    assert_eq!(
        rejected(&report),
        [
            ("a list of over 65536 elements", 1),
            ("a property given twice", 2),
            ("a property's name empty or too long", 1),
            ("a time that cannot be read", 1),
            ("no event name", 1),
            ("no time", 1),
            ("no user id", 3),
            ("not UTF-8", 1),
            ("not a JSON object", 3),
            ("too many properties", 1),
        ]
    );
    let mut strict = options(&files);
    strict.strict = true;
    let error = import(&[&path], &strict, &mut Collector::default()).unwrap_err();
    assert!(
        error.to_string().contains(", line 2: not a JSON object"),
        "{error}"
    );
}

#[test]
fn exploded_events_inherit_from_their_parent() {
    let files = Files::new();
    let text = r#"{"events":[{"ts":1659304800025,"type":"clicks","aid":1},{"ts":1659304900000,"type":"carts","aid":2,"shop":"own"},{"type":"lost"},7],"session":12,"shop":"de"}
{"session":13,"shop":"fr"}
{"session":14,"events":[]}
"#;
    let mut options = options(&files);
    options.explode = Some("events".to_owned());
    options.user = "session".to_owned();
    options.time = "ts".to_owned();
    options.naming.columns = vec!["type".to_owned()];
    let (events, report) = import_one(&files.write("a.jsonl", text), &options);
    assert_eq!(
        events,
        [
            "12 2022-07-31T22:00:00.025Z clicks aid=1 shop=\"de\"",
            "12 2022-07-31T22:01:40Z carts aid=2 shop=\"own\"",
        ]
    );
    assert_eq!((report.rows, report.events), (3, 2));
    assert_eq!(
        rejected(&report),
        [("no time", 1), ("nothing to explode", 2)]
    );
}

#[test]
fn types_by_hand() {
    let files = Files::new();
    let text = r#"{"user":1,"time":5,"event":"e","sku":7,"at":"2019-10-01","n":["1","x"]}"#;
    let mut options = options(&files);
    options.types = vec![
        ("sku".to_owned(), ColumnType::Text),
        ("at".to_owned(), ColumnType::Timestamp),
        ("n".to_owned(), ColumnType::I64),
    ];
    let (events, report) = import_one(&files.write("a.jsonl", text), &options);
    assert_eq!(
        events,
        ["1 1970-01-01T00:00:05Z e sku=\"7\" at=2019-10-01T00:00:00Z n=[1 \"x\"]",]
    );
    assert_eq!(report.kept_as_text, [("n".to_owned(), 1)].into());
}

#[test]
fn keys_without_end_close_batches_early() {
    let files = Files::new();
    let line = |row: usize| {
        let keys: Vec<String> = (0..1_000)
            .map(|key| format!("\"k{row}_{key}\":1"))
            .collect();
        format!(
            "{{\"user\":1,\"time\":5,\"event\":\"e\",{}}}\n",
            keys.join(",")
        )
    };
    let text: String = (0..40).map(line).collect();
    let mut collector = Collector::default();
    let path = files.write("a.jsonl", text);
    import(&[&path], &options(&files), &mut collector).unwrap();
    assert_eq!(
        collector
            .batches
            .iter()
            .map(|batch| batch.len())
            .sum::<usize>(),
        40
    );
    assert!(collector.batches.len() > 1);
}

#[test]
fn one_array_is_told_how_to_become_lines() {
    let files = Files::new();
    let path = files.write("a.json", "[{\"user\":1}]");
    let error = import(&[&path], &options(&files), &mut Collector::default()).unwrap_err();
    assert!(error.to_string().contains("jq -c"), "{error}");
}

#[test]
fn a_repeated_property_leaves_no_trace() {
    // The row after a refused one has the same number within its batch.
    let files = Files::new();
    let text = "{\"user\":1,\"time\":5,\"event\":\"e\",\"a\":1,\"b\":1,\"b\":2}\n\
        {\"user\":1,\"time\":6,\"event\":\"e\",\"a\":1,\"b\":3}\n";
    let (events, report) = import_one(&files.write("a.jsonl", text), &options(&files));
    assert_eq!(events, ["1 1970-01-01T00:00:06Z e a=1 b=3"]);
    assert_eq!(report.rejected.values().sum::<u64>(), 1);
    assert_eq!(
        Problem::Repeated {
            property: "b".to_owned()
        }
        .to_string(),
        "`b` is given twice"
    );
}
