//! Statements that mean harm or nothing: answered or refused, without a panic, in time.

use super::fuzzing::statement;
use crate::testing::cases;

/// Statements that once did harm, or could.
const KNOWN: &[&str] = &[
    "SELECT repeat('x', 2000000000)",
    "SELECT lpad('x', 2000000000, 'y')",
    "SELECT length(rpad('x', 2147483647))",
    "SELECT generate_series(1, 100000000000)",
    "SELECT range(0, 9223372036854775807)",
    "SELECT generate_series(TIMESTAMP '0001-01-01', TIMESTAMP '9999-01-01', INTERVAL '1 microsecond')",
    "SELECT generate_series(DATE '0001-01-01', DATE '9999-01-01', INTERVAL '1 day')",
    "SELECT array_repeat('xxxxxxxxxxxxxxx', 1000000000)",
    "SELECT list_resize([1], 1000000000, 7)",
    "SELECT length(replace(repeat('x', 1000000), 'x', repeat('y', 1000000)))",
    "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))",
    "SELECT count(*) FROM generate_series(1, 100000000000)",
    "SELECT * FROM generate_series(1, 5, 0)",
    "SELECT array_agg(a.value) FROM generate_series(1, 100000000) a",
    "SELECT string_agg(repeat('x', 1000), ',') FROM generate_series(1, 10000000)",
    "WITH RECURSIVE t AS (SELECT 1 n UNION ALL SELECT n + 1 FROM t) SELECT * FROM t",
    "WITH RECURSIVE t AS (SELECT 1 n UNION SELECT n + 1 FROM t) SELECT count(*) FROM t",
    "SELECT * FROM events a, events b, events c, events d, events e",
    "SELECT sum(a.price) OVER (ORDER BY a.time ROWS BETWEEN 1000000 PRECEDING AND CURRENT ROW) \
     FROM events a, events b, events c",
    "SELECT \u{0}1",
    "SELECT '\u{0}', \"\u{0}\" FROM events",
    "SELECT 1e999999999, -9223372036854775808, 99999999999999999999999999999999999999999",
    "SELECT INTERVAL '999999999999 years', DATE '999999-01-01', now() - INTERVAL '-1e30 days'",
    "SELECT user_id FROM users WHERE did('view', at_least => 99999999999999999999)",
    "SELECT * FROM funnel('view', 'cart', within => INTERVAL '9223372036854775807 days')",
    "SELECT * FROM funnel_times('view', 'cart', bins => 1000000000)",
    "SELECT * FROM retention('view', 'cart', periods => 9223372036854775807)",
    "SELECT * FROM lifecycle(active => true, since => '0001-01-01', until => '9999-01-01')",
    "SELECT * FROM stickiness(active => true, unit => 'hour', since => '0001-01-01')",
    "SELECT * FROM paths(anchor => true, steps => 1000000000)",
    "SELECT * FROM sessions(gap => INTERVAL '-1 day')",
    "SELECT * FROM users WHERE did(true, since => '-200000-01-01', until => '+200000-01-01')",
    "EXPLAIN ANALYZE VERBOSE SELECT * FROM events",
    "COPY (SELECT 1) TO '/nowhere/x.csv'",
    "SELECT * FROM '/etc/passwd'",
    "CREATE TABLE t AS SELECT 1",
    "SELECT $1",
];

#[test]
fn what_could_do_harm_is_answered_or_refused() {
    for sql in KNOWN {
        let _answered_or_not = statement(sql);
    }
    let corpus = "../fuzz/sql/corpus/sql";
    for entry in std::fs::read_dir(corpus).unwrap() {
        let sql = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let _answered_or_not = statement(&sql);
    }
    let nested = |open: &str, close: &str, times: usize| {
        format!("SELECT {}1{}", open.repeat(times), close.repeat(times))
    };
    for times in [40, 60, 5_000] {
        for (open, close) in [
            ("(", ")"),
            ("(SELECT ", ")"),
            ("[", "]"),
            ("CASE WHEN true THEN ", " END"),
            ("NOT ", ""),
            ("-", ""),
            ("abs(", ")"),
            ("did('view', then => ", ")"),
            ("EXISTS (SELECT ", ")"),
            ("CAST(", " AS INT)"),
            ("1 IN (", ")"),
            ("position(", " IN 'x')"),
            ("substring(", " FROM 1)"),
            ("INTERVAL (", ")"),
            ("array[", "]"),
            ("(x) -> (", ")"),
            ("(1, (", "))"),
            ("{'a': ", "}"),
            ("1 FROM ((", "))"),
            ("1 FROM (SELECT * FROM (", ") a) b"),
            ("f(x => ", ")"),
        ] {
            let _answered_or_not = statement(&nested(open, close, times));
            let _answered_or_not = statement(&nested(open, close, 18));
        }
        for link in [
            " + 1",
            " AND true",
            " UNION SELECT 1",
            "::int",
            "[1]",
            " || 'x'",
            ".a",
        ] {
            let _answered_or_not = statement(&format!("SELECT 1{}", link.repeat(times)));
        }
        let from: Vec<String> = (0..times).map(|n| format!("(SELECT {n})")).collect();
        let _answered_or_not = statement(&format!("SELECT 1 FROM {}", from.join(", ")));
    }
}

/// The examples of the documentation.
fn examples() -> Vec<String> {
    let docs = std::path::Path::new("../docs");
    let mut examples: Vec<String> = KNOWN.iter().map(|sql| (*sql).to_owned()).collect();
    for page in ["query-language.md", "scenarios.md"] {
        let text = std::fs::read_to_string(docs.join(page)).unwrap();
        let blocks = text.split("```sql\n").skip(1);
        examples.extend(blocks.filter_map(|block| Some(block.split_once("```")?.0.to_owned())));
    }
    examples
}

/// Words, numbers, texts and signs of a statement, with what stands between them.
fn pieces(sql: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut kind = ' ';
    for letter in sql.chars() {
        let own = match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => 'w',
            letter if letter.is_whitespace() => ' ',
            other => other,
        };
        match pieces.last_mut() {
            Some(piece) if own == kind && matches!(own, 'w' | ' ') => piece.push(letter),
            _ => pieces.push(letter.to_string()),
        }
        kind = own;
    }
    pieces
}

const STRANGE: &[&str] = &[
    "NULL",
    "''",
    "'",
    "\"",
    "(",
    ")",
    ",",
    ";",
    "*",
    "=>",
    "::",
    "[",
    "]",
    "--",
    "/*",
    "$1",
    "%",
    "-1",
    "0",
    "9223372036854775807",
    "1e308",
    "'\u{0}'",
    "'\u{1f600}'",
    "\u{202e}",
    "\u{feff}",
    "NaN",
    "'NaN'::double",
    "DISTINCT",
    "LATERAL",
    "OVER ()",
    "FILTER (WHERE false)",
    "LIMIT 0",
    "OFFSET 3",
    "UNION ALL",
    "did('view')",
    "did(true, at_least => 0)",
    "users.plan",
    "events.*",
    "interval '1 day'",
    "now()",
    "true",
    "NOT",
    "IN (SELECT 1)",
    "EXISTS (SELECT 1)",
    "CASE",
    "END",
    "user_id",
    "time",
    "event",
    "price",
    "step(",
    "funnel(",
    "WITH x AS (SELECT 1)",
    "GROUP BY 1",
    "HAVING true",
    "ORDER BY 1",
    "array[1]",
    "'2025-03-01'",
    "LIKE '%_%'",
    "AND",
    "OR",
    "JOIN",
];

/// A few changes of a statement, each drawn from `random`.
fn changed(examples: &[String], mut random: impl FnMut(usize) -> usize) -> String {
    let mut parts = pieces(&examples[random(examples.len())]);
    for _ in 0..1 + random(4) {
        let (one, other) = (random(parts.len()), random(parts.len()));
        match random(8) {
            0 => drop(parts.remove(one)),
            1 => parts.insert(one, parts[other].clone()),
            2 => parts.swap(one, other),
            3 => parts.insert(one, format!(" {} ", STRANGE[random(STRANGE.len())])),
            4 => parts[one] = STRANGE[random(STRANGE.len())].to_owned(),
            5 => {
                let text = parts[one].repeat(1 + random(60));
                parts.insert(one, text);
            }
            6 => {
                let from = pieces(&examples[random(examples.len())]);
                let start = random(from.len());
                let end = (start + 1 + random(12)).min(from.len());
                parts.splice(one..one, from[start..end].to_vec());
            }
            _ => parts.truncate(one.max(1)),
        }
        if parts.is_empty() {
            parts.push("SELECT".to_owned());
        }
    }
    parts.concat()
}

#[test]
fn random_statements_are_answered_or_refused() {
    let examples = examples();
    for case in 0..u64::from(cases(300).cases) {
        let mut state = case;
        let random = |below: usize| {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ mixed >> 31) % below.max(1) as u64) as usize
        };
        let _answered_or_not = statement(&changed(&examples, random));
    }
}
