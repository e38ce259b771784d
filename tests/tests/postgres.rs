//! PostgreSQL's port, as those meet it who mean no good, or do not know what they do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pugmark_server::serve::config::{ServeFlags, beside};
use pugmark_server::serve::keys::{KeyFile, Limits, Scope};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::child;
use crate::service::{Running, flags};

/// A connection that sends what it is told to.
struct Raw(TcpStream);

impl Raw {
    fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        let timeout = Some(Duration::from_secs(20));
        stream.set_read_timeout(timeout).unwrap();
        Self(stream)
    }

    /// A session that may ask.
    fn session(address: SocketAddr) -> (Self, [u8; 8]) {
        Self::with(address, "").unwrap_or_else(|code| panic!("{code}"))
    }

    /// A session with a key, or the code that it is refused with.
    fn with(address: SocketAddr, shown: &str) -> Result<(Self, [u8; 8]), String> {
        let mut raw = Self::to(address);
        raw.send(&startup());
        let mut key = [0; 8];
        loop {
            let (letter, body) = raw.message().unwrap();
            match letter {
                b'R' if body == [0, 0, 0, 3] => raw.send(&frame(b'p', &zero(shown))),
                b'K' => key.copy_from_slice(&body),
                b'Z' => return Ok((raw, key)),
                b'E' => return Err(field(&body, b'C')),
                _ => {}
            }
        }
    }

    /// The first value of what a statement answers.
    fn value(&mut self, sql: &str) -> String {
        column(self, sql).swap_remove(0)
    }

    fn send(&mut self, bytes: &[u8]) {
        let _closed = self.0.write_all(bytes);
    }

    /// A message of the service; `None` where the connection is closed.
    fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let mut body = vec![0; length.checked_sub(4)?];
        self.0.read_exact(&mut body).ok()?;
        Some((head[0], body))
    }

    /// The code of the failure that a statement ends with, if it does.
    fn ask(&mut self, sql: &str) -> Option<String> {
        self.send(&frame(b'Q', &zero(sql)));
        let mut code = None;
        loop {
            let (letter, body) = self.message().expect("an answer in time");
            match letter {
                b'E' => code = Some(field(&body, b'C')),
                b'Z' => return code,
                _ => {}
            }
        }
    }
}

fn zero(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn field(body: &[u8], wanted: u8) -> String {
    let fields = body.split(|byte| *byte == 0);
    let found = fields.filter(|field| field.first() == Some(&wanted));
    let texts = found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned());
    texts.collect()
}

fn frame(letter: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[letter][..], &length, body].concat()
}

fn startup() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0ann\0database\0pugmark\0\0";
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&length[..], body].concat()
}

/// What an honest client sends, message by message.
fn captured() -> Vec<Vec<u8>> {
    let parse = [
        zero("s"),
        zero("SELECT $1::bigint + 1"),
        b"\0\x01\0\0\0\x14".to_vec(),
    ]
    .concat();
    let value = b"\0\x01\0\x01\0\x01\0\0\0\x08\0\0\0\0\0\0\0\x07\0\x01\0\x01";
    vec![
        frame(
            b'Q',
            &zero("SELECT event, count(*) FROM events GROUP BY event"),
        ),
        frame(b'P', &parse),
        frame(b'D', b"Ss\0"),
        frame(b'B', &[&zero("p")[..], &zero("s"), value].concat()),
        frame(b'D', b"Pp\0"),
        frame(b'E', b"p\0\0\0\0\x01"),
        frame(b'E', b"p\0\0\0\0\0"),
        frame(b'C', b"Pp\0"),
        frame(b'H', b""),
        frame(b'S', b""),
        frame(
            b'Q',
            &zero("BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH 5 FROM c; CLOSE c; COMMIT"),
        ),
        frame(
            b'Q',
            &zero("COPY (SELECT 1, NULL) TO STDOUT (FORMAT binary)"),
        ),
        frame(b'Q', &zero("SELECT relname FROM pg_catalog.pg_class")),
        frame(b'X', b""),
    ]
}

/// A number that depends on the one before.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Changes some bytes.
fn mutate(bytes: &mut Vec<u8>, state: &mut u64) {
    for _ in 0..next(state) % 6 {
        let place = next(state) as usize % bytes.len().max(1);
        match (next(state) % 4, bytes.get_mut(place)) {
            (0, Some(byte)) => *byte ^= 1 << (next(state) % 8),
            (1, Some(byte)) => *byte = next(state) as u8,
            (2, _) => bytes.truncate(place),
            (_, _) => bytes.insert(place.min(bytes.len()), next(state) as u8),
        }
    }
}

/// Panics of the service's threads.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            if thread
                .name()
                .is_some_and(|name| name.starts_with("pugmark"))
            {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            before(panic);
        }));
    });
}

/// Waits until nobody is connected but who asks.
fn all_gone(running: &Running) {
    let begun = Instant::now();
    loop {
        let metrics = running.text("/metrics");
        let line = metrics
            .lines()
            .find(|line| line.starts_with("pugmark_http_connections"));
        let open: u64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        if open <= 1 {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{open} connections are left over"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn over(store: &std::path::Path) -> Running {
    let running = Running::over(store);
    for user in 0..50 {
        let event =
            json!({"userId": format!("u{user}"), "event": "view", "properties": {"n": user}});
        running.send("/v1/track", &event);
    }
    running
}

#[test]
fn mutated_conversations_neither_panic_nor_leak() {
    count_panics();
    let directory = tempfile::tempdir().unwrap();
    let running = over(&directory.path().join("shop.pug"));
    let before = PANICS.load(Ordering::Relaxed);
    let rounds = std::env::var("PUGMARK_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for round in 0..rounds.unwrap_or(300_u64) {
        let mut bytes = startup();
        match round % 4 {
            // The stream as a whole, and what it begins with.
            0 => {
                if round % 8 != 0 {
                    bytes.extend_from_slice(&captured().concat());
                }
                mutate(&mut bytes, &mut state);
            }
            // Bodies of messages, in frames that fit them: what is inside is looked at.
            _ => {
                let messages = captured();
                for _ in 0..4 {
                    let message = &messages[next(&mut state) as usize % messages.len()];
                    let mut body = message[5..].to_vec();
                    mutate(&mut body, &mut state);
                    bytes.extend_from_slice(&frame(message[0], &body));
                }
                bytes.extend_from_slice(&frame(b'S', b""));
            }
        }
        let mut raw = Raw::to(running.pg);
        raw.0
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        raw.send(&bytes);
        while raw.message().is_some() {}
    }
    assert_eq!(PANICS.load(Ordering::Relaxed), before);
    all_gone(&running);
    let (mut raw, _) = Raw::session(running.pg);
    assert_eq!(raw.ask("SELECT 1"), None);
}

#[test]
fn honest_conversations_are_answered() {
    let directory = tempfile::tempdir().unwrap();
    let running = over(&directory.path().join("shop.pug"));
    let (mut raw, _) = Raw::session(running.pg);
    raw.send(&captured().concat());
    let mut letters = String::new();
    while let Some((letter, body)) = raw.message() {
        assert_ne!(letter, b'E', "{}", String::from_utf8_lossy(&body));
        letters.push(letter as char);
    }
    let catalog = letters
        .trim_start_matches("TDCZ1tT2TDsC3ZCCTDCCCZHddcCZT")
        .trim_start_matches('D');
    assert_eq!(catalog, "CZ", "{letters}");
}

#[test]
fn cancelled_statements_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let running = over(&directory.path().join("shop.pug"));
    let endless = "SELECT count(*) FROM events a, events b, events c, events d, events e, events f \
                   WHERE a.n + b.n + c.n + d.n + e.n + f.n = -1";
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let (mut raw, key) = Raw::session(running.pg);
    let mut before = 0;
    for round in 0..200 {
        raw.send(&frame(b'Q', &zero(endless)));
        std::thread::sleep(Duration::from_millis(10 * (round % 3)));
        let cancel = [&[0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e][..], &key].concat();
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            assert!(Instant::now() < until, "round {round} is not cancelled");
            // One that comes before its statement is about nothing.
            Raw::to(running.pg).send(&cancel);
            raw.0
                .set_read_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            if let Some((b'E', body)) = raw.message() {
                assert_eq!(field(&body, b'C'), "57014");
                break;
            }
        }
        raw.0
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        assert_eq!(raw.message().map(|(letter, _)| letter), Some(b'Z'));
        if round == 20 {
            before = threads();
        }
    }
    // One that came late may still stop what came next.
    assert!((0..10).any(|_| raw.ask("SELECT 1").is_none()));
    drop(raw);
    all_gone(&running);
    let begun = Instant::now();
    while running.text("/v1/queries") != "{\"queries\":[]}" || threads() > before + 8 {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{} threads",
            threads()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn statements_that_want_too_much_are_refused_and_others_answered() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(ServeFlags {
        query_memory: Some("24MB".to_owned()),
        ..flags(&directory.path().join("shop.pug"))
    });
    for user in 0..200 {
        let event =
            json!({"userId": format!("u{user}"), "event": "view", "properties": {"n": user}});
        running.send("/v1/track", &event);
    }
    let (mut raw, _) = Raw::session(running.pg);
    let all = "SELECT string_agg(a.user_id || b.user_id || c.user_id || repeat('x', 50), '') \
               FROM events a, events b, events c";
    assert_eq!(raw.ask(all).as_deref(), Some("53200"));
    assert_eq!(
        raw.ask("SET memory_limit = '1GB'").as_deref(),
        Some("53200")
    );
    assert_eq!(raw.ask("SET memory_limit = '16MB'"), None);
    assert_eq!(
        raw.ask("SELECT count(*) FROM users WHERE did('view')"),
        None
    );
}

#[test]
fn a_keys_limits_hold_for_its_sessions() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("shop.pug");
    let file = KeyFile::new(&beside(&store));
    let limits = Limits {
        rate_limit: Some(2),
        query_memory_bytes: Some(32 << 20),
        query_deadline_ms: Some(20_000),
        ..Limits::default()
    };
    let (_, key) = file
        .create("board", [Scope::Query].into(), limits, 0)
        .unwrap();
    let (_, sender) = file
        .create("shop", [Scope::Ingest].into(), Limits::default(), 0)
        .unwrap();
    let running = Running::over(&store);
    assert_eq!(
        Raw::with(running.pg, "pmk_none").err().as_deref(),
        Some("28P01")
    );
    assert_eq!(
        Raw::with(running.pg, &sender).err().as_deref(),
        Some("42501")
    );
    let (mut raw, _) = Raw::with(running.pg, &key).unwrap();
    assert_eq!(raw.value("SHOW memory_limit"), "32768kB");
    assert_eq!(raw.value("SHOW statement_timeout"), "20000ms");
    assert_eq!(
        raw.ask("SET memory_limit = '33MB'").as_deref(),
        Some("53200")
    );
    assert_eq!(raw.ask("SET statement_timeout = 0"), None);
    assert_eq!(raw.value("SHOW statement_timeout"), "20000ms");
    assert_eq!(raw.ask("SET memory_limit = '16MB'"), None);
    assert_eq!(raw.ask("RESET ALL"), None);
    assert_eq!(raw.value("SHOW memory_limit"), "32768kB");
    let refused = (0..100).find_map(|_| raw.ask("SELECT 1"));
    assert_eq!(refused.as_deref(), Some("53400"));
}

#[test]
fn many_idle_connections_keep_nobody_out() {
    let directory = tempfile::tempdir().unwrap();
    let running = over(&directory.path().join("shop.pug"));
    let files = as_many_files_as_may_be();
    // Other tests have some, too.
    let number = files.saturating_sub(4_000).min(10_000);
    if number < 10_000 {
        let told =
            format!("\n*** {number} connections instead of 10000: {files} files may be open\n");
        std::io::stderr().write_all(told.as_bytes()).unwrap();
    }
    // Their other ends are files of another process.
    let idle = child::Running::connect([running.address, running.pg], number);
    let held = idle.line(Duration::from_secs(60)).unwrap();
    assert_eq!(held, number.to_string());
    let (mut raw, _) = Raw::session(running.pg);
    assert_eq!(raw.ask("SELECT count(*) FROM events"), None);
    let event = json!({"userId": "late", "event": "view"});
    assert_eq!(running.send("/v1/track", &event).status, 200);
    assert_eq!(running.sql("SELECT count(*) AS n FROM users")[0]["n"], 51);
    drop(raw);
    assert!(idle.wait());
    all_gone(&running);
}

/// Idle connections to a service: sessions, and those who say nothing at all.
pub(crate) fn connect_idly([http, pg]: [SocketAddr; 2], number: usize) -> Vec<TcpStream> {
    as_many_files_as_may_be();
    let idle = (0..number).map(|place| match place % 10 {
        0 => Raw::session(pg).0.0,
        1..5 => TcpStream::connect(pg).unwrap(),
        _ => TcpStream::connect(http).unwrap(),
    });
    idle.collect()
}

/// Lets this process open as many files as the system allows; their number.
fn as_many_files_as_may_be() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, most).unwrap();
    usize::try_from(limit.maximum.unwrap_or(1 << 20)).unwrap_or(usize::MAX)
}

/// The texts of the only column of an answer.
fn column(raw: &mut Raw, sql: &str) -> Vec<String> {
    raw.send(&frame(b'Q', &zero(sql)));
    let mut texts = Vec::new();
    loop {
        match raw.message().unwrap() {
            (b'D', body) => texts.push(String::from_utf8_lossy(&body[6..]).into_owned()),
            (b'E', body) => panic!("{sql}: {}", String::from_utf8_lossy(&body)),
            (b'Z', _) => return texts,
            _ => {}
        }
    }
}

#[test]
fn open_cursors_keep_no_turn() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(ServeFlags {
        queries: Some(1),
        ..flags(&directory.path().join("shop.pug"))
    });
    for user in 0..50 {
        let event =
            json!({"userId": format!("u{user}"), "event": "view", "properties": {"n": user}});
        running.send("/v1/track", &event);
    }
    let large = "SELECT a.n FROM events a, events b, events c";
    let (mut one, _) = Raw::session(running.pg);
    let (mut other, _) = Raw::session(running.pg);
    let begin =
        format!("BEGIN; DECLARE c CURSOR FOR {large}; FETCH 1 FROM c; SELECT count(*) FROM events");
    assert_eq!(one.ask(&begin), None);
    assert_eq!(other.ask(&begin), None);
    assert_eq!(one.ask("FETCH 20000 FROM c"), None);
    assert_eq!(other.ask("SELECT count(*) FROM users"), None);
    // Two of one connection, one right after the other.
    let second = format!("DECLARE d CURSOR FOR {large}; FETCH 1 FROM d");
    assert_eq!(one.ask(&second), None);
    assert_eq!(one.ask("FETCH 20000 FROM c; FETCH 20000 FROM d"), None);
    assert_eq!(one.ask("CLOSE d"), None);
    // Four may pause for each that may run, and a fifth is told so and does not begin anew.
    let mut others: Vec<Raw> = (0..4).map(|_| Raw::session(running.pg).0).collect();
    let refused = others.iter_mut().map(|raw| {
        assert_eq!(raw.ask(&begin), None);
        raw.ask("FETCH 1 FROM c")
    });
    let refused: Vec<String> = refused.flatten().collect();
    assert_eq!(refused, ["53400", "53400"]);
    assert_eq!(one.ask("COMMIT"), None);
    assert_eq!(one.ask("FETCH 1 FROM c").as_deref(), Some("34000"));
    // A client that goes while others wait for it leaves nothing behind.
    let execute = [
        frame(b'P', &[zero("s"), zero(large), b"\0\0".to_vec()].concat()),
        frame(
            b'B',
            &[zero("p"), zero("s"), b"\0\0\0\0\0\0".to_vec()].concat(),
        ),
        frame(b'E', b"p\0\0\0\0\x01"),
        frame(
            b'B',
            &[zero("q"), zero("s"), b"\0\0\0\0\0\0".to_vec()].concat(),
        ),
        frame(b'E', b"q\0\0\0\0\x01"),
        frame(b'S', b""),
    ];
    one.send(&execute.concat());
    drop(one);
    assert_eq!(other.ask("SELECT count(*) FROM users"), None);
    drop((other, others));
    all_gone(&running);
}

#[test]
fn names_of_the_catalog_change_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let running = over(&directory.path().join("shop.pug"));
    let (mut raw, _) = Raw::session(running.pg);
    let last = "SELECT (SELECT n FROM events ORDER BY n DESC LIMIT 1) FROM pg_catalog.pg_namespace \
                WHERE current_schema() = 'public' LIMIT 1";
    assert_eq!(column(&mut raw, last), ["49"]);
    assert_eq!(
        column(
            &mut raw,
            "SELECT relname FROM pg_class WHERE relname = 'events'"
        ),
        ["events"]
    );
    assert_eq!(raw.ask("SET threads = 100000000"), None);
    assert_eq!(
        column(
            &mut raw,
            "SELECT count(*) FROM (SELECT n, count(*) FROM events GROUP BY n)"
        ),
        ["50"]
    );
    assert_eq!(
        raw.ask("SELECT set_config('statement_timeout', '10h', false)"),
        None
    );
    assert_eq!(column(&mut raw, "SHOW statement_timeout"), ["60000ms"]);
    assert_eq!(raw.ask("SET \"a.b\" = 'x'"), None);
    assert_eq!(
        raw.ask("SET client_encoding = 'LATIN1'").as_deref(),
        Some("22023")
    );
    let zone = "SET timezone = 'Asia/Kolkata'; SELECT min(time) FROM events";
    let told = column(&mut raw, zone);
    assert!(told[0].ends_with("+05:30"), "{told:?}");
    raw.send(&frame(
        b'Q',
        &zero("COPY (SELECT n, user_id FROM events WHERE n = 1) TO STDOUT WITH CSV HEADER"),
    ));
    let mut copied = Vec::new();
    loop {
        match raw.message().unwrap() {
            (b'd', body) => copied.extend_from_slice(&body),
            (b'Z', _) => break,
            _ => {}
        }
    }
    assert_eq!(String::from_utf8(copied).unwrap(), "n,user_id\n1,u1\n");
}
