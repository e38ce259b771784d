use super::super::{ColumnType, Delimiter, Format, Problem, TimeFormat};
use super::*;

#[test]
fn quotes_line_ends_marks_and_empty_cells() {
    let files = Files::new();
    let text = "\u{feff}user,time,event,note,n\r\n\
        7,2019-10-01 00:00:00 UTC,view,\"a, \"\"b\"\"\nc\",1\r\n\
        \r\n\
        8,2019-10-01,cart,,\r\n";
    let (events, report) = import_one(&files.write("a.csv", text), &options(&files));
    assert_eq!(
        events,
        [
            "7 2019-10-01T00:00:00Z view note=\"a, \\\"b\\\"\\nc\" n=1",
            "8 2019-10-01T00:00:00Z cart",
        ]
    );
    assert_eq!((report.rows, report.events), (2, 2));
    assert_eq!(report.rejects_file, None);
}

#[test]
fn types_are_the_narrowest_of_the_whole_column() {
    let files = Files::new();
    let text = "user,time,event,code,price,flag,when,big\n\
        a,1,e,7,33.20,true,2019-10-01T00:00:00Z,2103807459595387724\n\
        007,2,e,007,35.79,false,2019-10-01T00:00:00.5Z,9223372036854775809\n\
        b,3,e,,,,,\n";
    let (events, report) = import_one(&files.write("a.csv", text), &options(&files));
    assert_eq!(
        events,
        [
            "a 1970-01-01T00:00:01Z e code=\"7\" price=33.2 flag=true when=\"2019-10-01T00:00:00Z\" big=\"2103807459595387724\"",
            "007 1970-01-01T00:00:02Z e code=\"007\" price=35.79 flag=false when=\"2019-10-01T00:00:00.5Z\" big=\"9223372036854775809\"",
            "b 1970-01-01T00:00:03Z e",
        ]
    );
    assert_eq!(types(&report)["price"], [("f64", 2)]);
}

#[test]
fn types_by_hand_and_columns_left_out() {
    let files = Files::new();
    let path = files.write(
        "a.csv",
        "user,time,event,item,at,x\n1,5,e,7,1569888000,q\n1,6,e,z,2019-10-01,r\n",
    );
    let mut options = options(&files);
    options.types = vec![
        ("item".to_owned(), ColumnType::I64),
        ("at".to_owned(), ColumnType::Timestamp),
    ];
    options.skip = vec!["x".to_owned()];
    let (events, report) = import_one(&path, &options);
    assert_eq!(
        events,
        [
            "1 1970-01-01T00:00:05Z e item=7 at=2019-10-01T00:00:00Z",
            "1 1970-01-01T00:00:06Z e item=\"z\" at=2019-10-01T00:00:00Z",
        ]
    );
    assert_eq!(report.kept_as_text, [("item".to_owned(), 1)].into());
    options.types = vec![("item".to_owned(), ColumnType::Text)];
    assert!(import_one(&path, &options).0[0].contains("item=\"7\""));
    options.types = vec![("no such".to_owned(), ColumnType::Text)];
    let error = import(&[&path], &options, &mut Collector::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} has no column `no such`; it has: user, time, event, item, at, x",
            path.display()
        )
    );
}

#[test]
fn bad_rows_are_written_beside_with_their_reasons() {
    let files = Files::new();
    let long = "u".repeat(256);
    let mut text = b"user,time,event,p\n".to_vec();
    for row in [
        b"1,5,e,ok\n".as_slice(),
        b"1,5,e\n",
        b"1,5,e,p,q\n",
        b"1,5,e,\xFF\n",
        b",5,e,\"a\nb\"\n",
        b"1,,e,\n",
        b"1,tomorrow,e,\n",
        b"1,5,,\n",
        format!("{long},5,e,\n").as_bytes(),
        format!("1,5,e,{}\n", "p".repeat((1 << 20) + 1)).as_bytes(),
        b"2,6,e,ok\n",
    ] {
        text.extend_from_slice(row);
    }
    let path = files.write("a.csv", text);
    let mut options = options(&files);
    let (events, report) = import_one(&path, &options);
    assert_eq!(
        events,
        [
            "1 1970-01-01T00:00:05Z e p=\"ok\"",
            "2 1970-01-01T00:00:06Z e p=\"ok\""
        ]
    );
    assert_eq!((report.rows, report.events), (11, 2));
    assert_eq!(
        rejected(&report),
        [
            ("a text over 1 MiB", 1),
            ("a time that cannot be read", 1),
            ("a user id, event name or message id over 255 bytes", 1),
            ("more or fewer fields than columns", 2),
            ("no event name", 1),
            ("no time", 1),
            ("no user id", 1),
            ("not UTF-8", 1),
        ]
    );
    let written = std::fs::read(files.path("rejects.csv")).unwrap();
    let mut reader = csv::ReaderBuilder::new().from_reader(written.as_slice());
    let rows: Vec<csv::ByteRecord> = reader.byte_records().map(Result::unwrap).collect();
    let field = |row: usize, at: usize| String::from_utf8_lossy(&rows[row][at]).into_owned();
    assert_eq!(
        (field(0, 1), field(0, 2)),
        (
            "3".to_owned(),
            "3 fields where there are 4 columns".to_owned()
        )
    );
    assert_eq!(&rows[2][3], b"1,5,e,\xFF");
    assert_eq!(
        (field(3, 1), field(3, 3)),
        ("6".to_owned(), ",5,e,\"a\nb\"".to_owned())
    );
    assert_eq!(
        (field(5, 1), field(5, 2)),
        ("9".to_owned(), "`tomorrow` is no time".to_owned())
    );
    options.strict = true;
    let error = import(&[&path], &options, &mut Collector::default()).unwrap_err();
    let ImportError::Strict { place, problem, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(place.to_string(), "line 3");
    assert_eq!(
        *problem,
        Problem::Fields {
            found: 3,
            expected: 4
        }
    );
}

#[test]
fn a_quote_that_is_never_closed_is_an_error() {
    let files = Files::new();
    let text = format!("user,time,event\n1,5,\"e\n{}", "x\n".repeat(40 << 20));
    let path = files.write("a.csv", text);
    let error = import(&[&path], &options(&files), &mut Collector::default()).unwrap_err();
    assert!(
        error.to_string().contains("is a quote not closed?"),
        "{error}"
    );
    let path = files.write("b.csv", "user,time,event\n1,5,\"e\n");
    let mut options = options(&files);
    options.quotes = false;
    assert_eq!(
        import_one(&path, &options).0,
        ["1 1970-01-01T00:00:05Z \"e"]
    );
}

#[test]
fn epoch_units_are_the_columns() {
    let files = Files::new();
    let load = |name: &str, times: &[&str]| {
        let rows: Vec<String> = times.iter().map(|time| format!("1,{time},e\n")).collect();
        let text = format!("user,time,event\n{}", rows.concat());
        import_one(&files.write(name, text), &options(&files)).0
    };
    assert_eq!(
        load("s.csv", &["1569888000", "1569888000.25", "5"])[1],
        "1 2019-10-01T00:00:00.250Z e"
    );
    // One number of milliseconds makes all of them milliseconds.
    assert_eq!(
        load("ms.csv", &["5000", "1569888000000"])[0],
        "1 1970-01-01T00:00:05Z e"
    );
    assert_eq!(
        load("us.csv", &["1569888000000000"])[0],
        "1 2019-10-01T00:00:00Z e"
    );
    let mut options = options(&files);
    options.time_unit = Some(super::super::TimeUnit::Millis);
    let path = files.write("u.csv", "user,time,event\n1,5000,e\n");
    assert_eq!(import_one(&path, &options).0, ["1 1970-01-01T00:00:05Z e"]);
}

#[test]
fn other_delimiters() {
    let files = Files::new();
    let mut options = options(&files);
    let expected = ["1 1970-01-01T00:00:05Z e p=\"a b\""];
    let path = files.write("a.tsv", "user\ttime\tevent\tp\n1\t5\te\ta b\n");
    assert_eq!(import_one(&path, &options).0, expected);
    options.delimiter = Some(Delimiter::Byte(b';'));
    let path = files.write("a.csv", "user;time;event;p\n1;5;e;a b\n");
    assert_eq!(import_one(&path, &options).0, expected);
    options.delimiter = Some(Delimiter::Blanks);
    options.columns = Some(["user", "time", "p"].map(str::to_owned).to_vec());
    options.naming.columns.clear();
    options.naming.fixed = Some("buy".to_owned());
    options.time_format = Some(TimeFormat::new("%Y%m%d").unwrap());
    let path = files.write(
        "a.txt",
        " 00001 19970101   11.77\r\n\r\n 00001\t19970231 1\n 2 19970102 5.00 6\n",
    );
    let (events, report) = import_one(&path, &options);
    assert_eq!(events, ["00001 1997-01-01T00:00:00Z buy p=11.77"]);
    assert_eq!(report.rejected.values().sum::<u64>(), 2);
    let rejects = std::fs::read_to_string(files.path("rejects.csv")).unwrap();
    assert!(
        rejects.contains(",3,`19970231` is no time,00001 19970231 1\n"),
        "{rejects}"
    );
}

#[test]
fn names_from_several_columns_and_rules() {
    let files = Files::new();
    let path = files.write(
        "a.csv",
        "user,time,what,how,id\n1,5,A,START,C7\n1,6,A,END,8\n1,7,,,9\n",
    );
    let mut options = options(&files);
    options.naming.columns = vec!["what".to_owned(), "how".to_owned()];
    options.message_id = Some("id".to_owned());
    options.naming.rules = vec!["id^=C:cancel".parse().unwrap()];
    let (events, report) = import_one(&path, &options);
    assert_eq!(
        events,
        [
            "1 1970-01-01T00:00:05Z cancel #C7 what=\"A\" how=\"START\"",
            "1 1970-01-01T00:00:06Z A|END #8 what=\"A\" how=\"END\"",
        ]
    );
    assert_eq!(rejected(&report), [("no event name", 1)]);
    assert_eq!(
        report.names,
        [("A|END".to_owned(), 1), ("cancel".to_owned(), 1)].into()
    );
}

#[test]
fn headers_that_cannot_be_used() {
    let files = Files::new();
    let load = |name: &str, text: &[u8]| {
        let path = files.write(name, text);
        import(&[&path], &options(&files), &mut Collector::default())
            .unwrap_err()
            .to_string()
    };
    assert!(load("a.csv", b"").contains("has no column `user`"));
    assert!(load("b.csv", b"user,time\n").contains("has no column `event`"));
    assert!(load("c.csv", b"user,time,event,x,x\n").contains("two columns `x`"));
    assert!(load("d.csv", b"user,time,event,\xFF\n").contains("not UTF-8"));
    assert!(load("e.csv", b"\xFF\xFEu\0").contains("UTF-16"));
    let (events, _) = import_one(
        &files.write("f.csv", ",user,time,event\n0,1,5,e\n"),
        &options(&files),
    );
    assert_eq!(events, ["1 1970-01-01T00:00:05Z e column_1=0"]);
}

#[test]
fn a_second_import_is_nothing_and_a_broken_one_resumes() {
    let files = Files::new();
    let mut text = "user,time,event,n\n".to_owned();
    for row in 0..200_000 {
        let user = if row % 1_000 == 7 {
            String::new()
        } else {
            (row % 77).to_string()
        };
        text.push_str(&format!("{user},{row},e,{row}\n"));
    }
    let path = files.write("a.csv", &text);
    let options = options(&files);
    let mut whole = Collector::default();
    let report = import(&[&path], &options, &mut whole).unwrap().remove(0);
    assert_eq!((report.rows, report.events), (200_000, 199_800));
    let again = import(&[&path], &options, &mut whole).unwrap().remove(0);
    assert!(again.imported_before && again.events == 0);

    let mut broken = Collector {
        fail_at: Some(2),
        ..Collector::default()
    };
    assert!(matches!(
        import(&[&path], &options, &mut broken),
        Err(ImportError::Write(_))
    ));
    let rest = import(&[&path], &options, &mut broken).unwrap().remove(0);
    assert!(rest.resumed_after > 100_000 && rest.resumed_after + rest.rows == 200_000);
    assert_eq!(events(&broken), events(&whole));

    let copy = files.write("b.csv", &text);
    let mut other = options.clone();
    assert!(
        import(&[&copy], &other, &mut whole).unwrap()[0].imported_before,
        "same bytes"
    );
    other.skip = vec!["n".to_owned()];
    assert!(
        !import(&[&copy], &other, &mut whole).unwrap()[0].imported_before,
        "other options"
    );
}

#[test]
fn files_in_the_order_given_each_with_its_own_types() {
    let files = Files::new();
    let first = files.write("2.csv", "user,time,event,n\n1,9,e,5\n");
    let second = files.write("1.csv", "user,time,event,n\n1,9,e,x\n,1,e,\n");
    let third = files.write("3.csv", "user,time,event,n\n,1,e,\n");
    let mut collector = Collector::default();
    let reports = import(&[&first, &second, &third], &options(&files), &mut collector).unwrap();
    assert_eq!(
        events(&collector),
        [
            "1 1970-01-01T00:00:09Z e n=5",
            "1 1970-01-01T00:00:09Z e n=\"x\""
        ]
    );
    assert_eq!(reports.len(), 3);
    let rejects = std::fs::read_to_string(files.path("rejects.csv")).unwrap();
    assert_eq!(
        rejects.lines().count(),
        3,
        "one file for all of them: {rejects}"
    );
}

#[test]
fn text_closes_a_batch_early() {
    let files = Files::new();
    let mut text = "user,time,event,p\n".to_owned();
    for row in 0..1_000 {
        text.push_str(&format!("1,{row},e,{row}{}\n", "x".repeat(100_000)));
    }
    let mut collector = Collector::default();
    let path = files.write("a.csv", text);
    import(&[&path], &options(&files), &mut collector).unwrap();
    assert!(collector.batches.len() > 1);
    assert_eq!(
        collector
            .batches
            .iter()
            .map(|batch| batch.len())
            .sum::<usize>(),
        1_000
    );
}

#[test]
fn the_format_asked_for_wins() {
    let files = Files::new();
    let mut options = options(&files);
    options.format = Some(Format::Tsv);
    let path = files.write("a.csv", "user\ttime\tevent\n1\t5\ta,b\n");
    assert_eq!(
        import_one(&path, &options).0,
        ["1 1970-01-01T00:00:05Z a,b"]
    );
}

/// A pipe by name can be read but once, and is read to its end before anything else.
#[cfg(unix)]
#[test]
fn a_named_pipe_is_read_like_a_file() {
    let files = Files::new();
    let text: String = std::iter::once("user,time,event\n".to_owned())
        .chain((0..20_000).map(|row| format!("u{row},{},view\n", 1_700_000_000 + row)))
        .collect();
    let file = files.write("events.csv", &text);
    let pipe = files.path("pipe.csv");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let (expected, _) = import_one(&file, &options(&files));
    let (found, report) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| std::fs::write(&pipe, &text));
        let found = import_one(&pipe, &options(&files));
        writing.join().unwrap().unwrap();
        found
    });
    assert_eq!((report.events, found.len()), (20_000, 20_000));
    assert_eq!(found, expected);
}
