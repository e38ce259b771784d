//! The service, as clients meet it: over sockets, and across its death.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pugmark_engine::Store;
use pugmark_server::serve::Server;
use pugmark_server::serve::config::{Config, Listen, ServeFlags, beside};
use pugmark_server::serve::keys::{KeyFile, Limits, Scope};
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

/// A service on a thread of its own, which ends when this is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) pg: SocketAddr,
    pub(crate) flight: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Running {
    pub(crate) fn start(flags: ServeFlags) -> Self {
        let server = Server::start(Config::new(&flags).unwrap()).unwrap();
        let address = server.address().unwrap();
        let (pg, flight) = (
            server.pg_address().unwrap(),
            server.flight_address().unwrap(),
        );
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let end = async {
                let _dropped = ended.await;
            };
            server.run(end).unwrap();
        });
        Self {
            address,
            pg,
            flight,
            end: Some(end),
            thread: Some(thread),
        }
    }

    pub(crate) fn over(store: &Path) -> Self {
        Self::start(flags(store))
    }

    /// With keys, one of which it tells.
    pub(crate) fn locked(store: &Path, scope: Scope) -> (Self, String) {
        let keys = KeyFile::new(&beside(store));
        let (_, key) = keys
            .create("test", BTreeSet::from([scope]), Limits::default(), 0)
            .unwrap();
        (Self::over(store), key)
    }

    pub(crate) fn text(&self, path: &str) -> String {
        self.ask("GET", path, &[], b"").text().trim().to_owned()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        request(self.address, method, path, headers, body)
    }

    pub(crate) fn send(&self, path: &str, body: &Json) -> Answer {
        self.ask("POST", path, &[], body.to_string().as_bytes())
    }

    pub(crate) fn sql(&self, sql: &str) -> Json {
        let answer = self.ask("POST", "/v1/sql", &[], sql.as_bytes());
        assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
        answer.json()["rows"].clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

pub(crate) fn flags(store: &Path) -> ServeFlags {
    ServeFlags {
        store: Some(store.to_owned()),
        http: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        pg: Some(Listen::At(SocketAddr::from(([127, 0, 0, 1], 0)))),
        flight: Some(Listen::At(SocketAddr::from(([127, 0, 0, 1], 0)))),
        ..ServeFlags::default()
    }
}

/// Asks once, over a connection of its own.
fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let timeout = Some(Duration::from_secs(60));
    stream.set_read_timeout(timeout).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    // Whoever refuses a body may close before all of it was sent.
    let _refused = stream.write_all(body);
    read_answer(&mut stream).unwrap()
}

/// Reads until the connection closes; `None` where it closed before a whole head.
fn read_answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    let _reset = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let rest = &bytes[end + 4..];
    Some(Answer {
        status,
        headers,
        body: if chunked {
            unchunked(rest)
        } else {
            rest.to_vec()
        },
    })
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let chunk = &rest[end + 2..];
        if size == 0 || chunk.len() < size + 2 {
            break;
        }
        body.extend_from_slice(&chunk[..size]);
        rest = &chunk[size + 2..];
    }
    body
}

#[test]
fn what_is_sent_is_asked_for_in_the_same_second() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("shop.pug");
    let running = Running::over(&store);
    let calls = [
        (
            "/v1/track",
            json!({"userId": "ann", "event": "view", "properties": {"price": 3}}),
        ),
        (
            "/t",
            json!({"userId": "ann", "event": "cart", "messageId": "m1"}),
        ),
        (
            "/v1/t",
            json!({"userId": "ann", "event": "cart", "messageId": "m1"}),
        ),
        (
            "/v1/page",
            json!({"anonymousId": "bob", "name": "Home", "writeKey": "any"}),
        ),
        (
            "/v1/identify",
            json!({"userId": "ann", "anonymousId": "x", "messageId": "m2", "traits": {"plan": "gold"}}),
        ),
        ("/v1/group", json!({"userId": "ann", "groupId": "g"})),
        ("/v1/alias", json!({"userId": "ann", "previousId": "y"})),
        (
            "/v1/batch",
            json!({"batch": [
                {"type": "screen", "userId": 7, "name": "Start"},
                {"type": "track", "userId": 7},
                {"type": "track", "userId": 7, "event": "view", "context": {"ip": "::1"}},
            ]}),
        ),
    ];
    for (path, call) in calls {
        let answer = running.send(path, &call);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.json()["success"], true);
        if path == "/v1/batch" {
            assert_eq!(answer.json()["accepted"], 2);
            assert_eq!(answer.json()["rejected"][0]["index"], 1);
        }
    }
    let names = "SELECT event, count(*) AS n FROM events GROUP BY event ORDER BY event";
    let expected = json!([
        {"event": "$alias", "n": 1}, {"event": "$identify", "n": 1}, {"event": "cart", "n": 1},
        {"event": "page", "n": 1}, {"event": "screen", "n": 1}, {"event": "view", "n": 2},
    ]);
    assert_eq!(running.sql(names), expected);
    let traits = "SELECT user_id, plan, group_id FROM users WHERE plan IS NOT NULL";
    let expected = json!([{"user_id": "ann", "plan": "gold", "group_id": "g"}]);
    assert_eq!(running.sql(traits), expected);
    let kept = "SELECT anonymous_id, previous_id FROM events WHERE event LIKE '$%' ORDER BY event";
    let expected = json!([
        {"anonymous_id": null, "previous_id": "y"}, {"anonymous_id": "x", "previous_id": null},
    ]);
    assert_eq!(running.sql(kept), expected);
    drop(running);
    let again = Running::over(&store);
    assert_eq!(
        again.sql("SELECT count(*) AS n FROM events"),
        json!([{"n": 7}])
    );
}

#[test]
fn bad_requests_are_told_and_good_ones_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(ServeFlags {
        max_body_bytes: Some(2_000),
        ..flags(&directory.path().join("shop.pug"))
    });
    let large = vec![b' '; 3_000];
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8], u16);
    let cases: [Case<'_>; 17] = [
        ("POST", "/v1/track", &[], b"", 400),
        ("POST", "/v1/track", &[], b"{\"userId\": \"\xff\"}", 400),
        ("POST", "/v1/track", &[], b"{\"userId\": \"u\"}", 400),
        ("POST", "/v1/batch", &[], b"{\"batch\": [5]}", 400),
        ("POST", "/v1/track", &[], &large, 413),
        (
            "POST",
            "/v1/track",
            &[("content-encoding", "br")],
            b"{}",
            415,
        ),
        (
            "POST",
            "/v1/track",
            &[("content-encoding", "gzip")],
            b"{}",
            400,
        ),
        ("GET", "/v1/track", &[], b"", 405),
        ("GET", "/nothing", &[], b"", 404),
        ("POST", "/v1/sql", &[], b"SELEC 1", 400),
        ("POST", "/v1/sql", &[], b"SELECT 1; SELECT 2", 400),
        (
            "POST",
            "/v1/sql",
            &[("accept", "image/png")],
            b"SELECT 1",
            406,
        ),
        (
            "POST",
            "/v1/sql",
            &[("content-type", "application/json")],
            b"SELECT 1",
            400,
        ),
        ("DELETE", "/v1/queries/none", &[], b"", 404),
        ("DELETE", "/v1/queries/%ff", &[], b"", 400),
        ("GET", "/v1/sql", &[], b"", 400),
        (
            "GET",
            "/v1/sql?query=INSERT%20INTO%20events%20VALUES%20(1)",
            &[],
            b"",
            405,
        ),
    ];
    for (method, path, headers, body, status) in cases {
        let answer = running.ask(method, path, headers, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        let told = answer.json();
        assert!(
            told["code"].is_string() && told["message"].is_string(),
            "{told}"
        );
        assert!(answer.header("x-request-id").is_some());
    }
    let good = json!({"userId": "u", "event": "e"});
    assert_eq!(running.send("/v1/track", &good).status, 200);
    assert_eq!(running.ask("GET", "/health", &[], b"").status, 200);
    assert_eq!(running.ask("GET", "/ready", &[], b"").status, 200);
    let metrics = running.ask("GET", "/metrics", &[], b"").text();
    assert!(
        metrics.contains("pugmark_ingest_events_total 1\n"),
        "{metrics}"
    );
    let route = "route=\"/v1/track\",status=\"413\"} 1\n";
    assert!(metrics.contains(route), "{metrics}");
}

#[test]
fn answers_come_in_every_form_and_with_parameters() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::over(&directory.path().join("shop.pug"));
    for (user, price) in [("ann", 1.5), ("bob", 20.0)] {
        let call = json!({"userId": user, "event": "view", "properties": {"price": price}});
        assert_eq!(running.send("/v1/track", &call).status, 200);
    }
    let asked = json!({
        "sql": "SELECT user_id, did(event = $name AND price > $price) AS rich FROM users ORDER BY user_id",
        "params": {"name": "view", "price": 10},
    });
    let kind = ("content-type", "application/json");
    let ask = |accept: &str, asked: &Json| {
        let headers = [kind, ("accept", accept)];
        running.ask("POST", "/v1/sql", &headers, asked.to_string().as_bytes())
    };
    let answer = ask("application/json", &asked);
    let json = answer.json();
    let rows = json!([{"user_id": "ann", "rich": false}, {"user_id": "bob", "rich": true}]);
    assert_eq!(json["rows"], rows, "{json}");
    assert_eq!(
        json["columns"][1],
        json!({"name": "rich", "type": "Boolean"})
    );
    assert_eq!(json["statistics"]["rows"], 2);
    assert_eq!(json["query_id"], answer.header("x-query-id").unwrap());
    assert_eq!(
        ask("text/csv", &asked).text(),
        "user_id,rich\nann,false\nbob,true\n"
    );
    let lines = "{\"user_id\":\"ann\",\"rich\":false}\n{\"user_id\":\"bob\",\"rich\":true}\n";
    assert_eq!(ask("application/x-ndjson", &asked).text(), lines);
    assert!(
        ask("text/plain", &asked)
            .text()
            .contains("| ann     | false |")
    );
    let parquet = ask("application/vnd.apache.parquet", &asked).body;
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
    let arrow = ask("application/vnd.apache.arrow.stream", &asked).body;
    assert!(arrow.starts_with(&[255, 255, 255, 255]));
    let missing = json!({"sql": "SELECT $name", "params": {"other": 1}});
    let answer = ask("*/*", &missing);
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("no value is given for `$name`"));
    let empty = running.sql("SELECT user_id FROM users WHERE did('nothing')");
    assert_eq!(empty, json!([]));
    let address = "/v1/sql?query=SELECT%20count(*)%20AS%20n%20FROM%20users";
    assert_eq!(
        running.ask("GET", address, &[], b"").json()["rows"],
        json!([{"n": 2}])
    );
    // No file of the machine is read.
    let answer = running.ask("POST", "/v1/sql", &[], b"SELECT * FROM '/etc/passwd.csv'");
    assert_eq!(answer.status, 400);
    let document = running.ask("GET", "/openapi.json", &[], b"").json();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/v1/sql"]["post"].is_object());
}

#[test]
fn a_statement_is_listed_and_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::over(&directory.path().join("shop.pug"));
    let endless = "SELECT count(*) FROM generate_series(1, 100000000000) a(x) WHERE x % 7 = 3";
    let address = running.address;
    let asking =
        std::thread::spawn(move || request(address, "POST", "/v1/sql", &[], endless.as_bytes()));
    let until = Instant::now() + Duration::from_secs(30);
    let id = loop {
        let listed = running.ask("GET", "/v1/queries", &[], b"").json();
        if let Some(id) = listed["queries"][0]["query_id"].as_str() {
            assert_eq!(listed["queries"][0]["sql"], endless);
            break id.to_owned();
        }
        assert!(Instant::now() < until, "the statement is not listed");
        std::thread::sleep(Duration::from_millis(5));
    };
    let answer = running.ask("DELETE", &format!("/v1/queries/{id}"), &[], b"");
    assert_eq!(answer.status, 200);
    let answer = asking.join().unwrap();
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (409, Some("cancelled"))
    );
    assert_eq!(
        running.ask("GET", "/v1/queries", &[], b"").json()["queries"],
        json!([])
    );
}

#[test]
fn keys_open_what_they_are_for() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("shop.pug");
    let file = KeyFile::new(&beside(&store));
    let key = |scope| {
        file.create("test", [scope].into(), Limits::default(), 0)
            .unwrap()
    };
    let ((ingest_id, ingest), (_, query), (_, admin)) =
        ({ key(Scope::Ingest) }, { key(Scope::Query) }, {
            key(Scope::Admin)
        });
    let running = Running::over(&store);
    let call = json!({"userId": "u", "event": "e"}).to_string();
    let cases = [
        (
            "POST",
            "/v1/track",
            call.as_str(),
            [401, 401, 200, 403, 200],
        ),
        ("POST", "/v1/sql", "SELECT 1", [401, 401, 403, 200, 200]),
        (
            "GET",
            "/v1/sql?query=SELECT%201",
            "",
            [401, 401, 403, 200, 200],
        ),
        ("GET", "/v1/queries", "", [401, 401, 403, 200, 200]),
        ("DELETE", "/v1/queries/x", "", [401, 401, 403, 404, 404]),
        ("GET", "/metrics", "", [401, 401, 403, 403, 200]),
        ("GET", "/health", "", [200; 5]),
        ("GET", "/ready", "", [200; 5]),
        ("GET", "/openapi.json", "", [200; 5]),
        ("GET", "/v1/projects/k/settings", "", [200; 5]),
    ];
    for (method, path, body, statuses) in cases {
        let shown = [
            None,
            Some("pmk_wrong"),
            Some(&*ingest),
            Some(&*query),
            Some(&*admin),
        ];
        for (shown, status) in shown.into_iter().zip(statuses) {
            let bearer = shown.map(|key| format!("Bearer {key}"));
            let header = bearer.as_deref().map(|bearer| ("authorization", bearer));
            let headers: Vec<_> = header.into_iter().collect();
            let answer = running.ask(method, path, &headers, body.as_bytes());
            assert_eq!(answer.status, status, "{method} {path} {shown:?}");
        }
    }
    let in_body = json!({"userId": "u", "event": "e", "writeKey": ingest});
    assert_eq!(running.send("/v1/track", &in_body).status, 200);
    let insert = "INSERT INTO events (user_id, time, event) VALUES ('u', now(), 'e')";
    let bearer = format!("Bearer {query}");
    let headers = [("authorization", bearer.as_str())];
    let answer = running.ask("POST", "/v1/sql", &headers, insert.as_bytes());
    assert_eq!(answer.status, 403, "{}", answer.text());
    file.revoke(&ingest_id.id).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while running.send("/v1/track", &in_body).status != 401 {
        assert!(Instant::now() < until, "a revoked key still works");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A browser here may show pages of any site: they send events, and ask nothing.
#[test]
fn pages_of_other_sites_ask_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::over(&directory.path().join("shop.pug"));
    let origin = ("origin", "https://shop.example");
    let call = json!({"anonymousId": "a", "event": "view"}).to_string();
    let answer = running.ask("POST", "/v1/t", &[origin], call.as_bytes());
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let asked = [
        ("POST", "/v1/sql"),
        ("GET", "/v1/sql?query=SELECT%201"),
        ("GET", "/v1/queries"),
        ("GET", "/metrics"),
    ];
    for (method, path) in asked {
        let answer = running.ask(method, path, &[origin], b"SELECT 1");
        assert_eq!(answer.status, 403, "{method} {path}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

/// What breaks off does not look like an answer: the last chunk is missing.
#[test]
fn a_stopped_answer_is_not_a_whole_one() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::over(&directory.path().join("shop.pug"));
    let mut stream = TcpStream::connect(running.address).unwrap();
    let sql = "SELECT x FROM generate_series(1, 100000000000) a(x)";
    let head = format!(
        "POST /v1/sql HTTP/1.1\r\nhost: localhost\r\naccept: text/csv\r\ncontent-length: {}\r\n\r\n{sql}",
        sql.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut begun = [0; 4_096];
    stream.read_exact(&mut begun).unwrap();
    let listed = running.ask("GET", "/v1/queries", &[], b"").json();
    let id = listed["queries"][0]["query_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        running
            .ask("DELETE", &format!("/v1/queries/{id}"), &[], b"")
            .status,
        200
    );
    let mut rest = Vec::new();
    let _reset = stream.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"));
}

#[test]
fn a_key_sends_no_more_than_its_rate() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("shop.pug");
    let file = KeyFile::new(&beside(&store));
    let (_, key) = file
        .create("test", [Scope::Ingest].into(), Limits::default(), 0)
        .unwrap();
    let running = Running::start(ServeFlags {
        rate_limit: Some(2),
        ..flags(&store)
    });
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let call = json!({"userId": "u", "event": "e"}).to_string();
    let answers: Vec<_> = (0..20)
        .map(|_| running.ask("POST", "/v1/track", &headers, call.as_bytes()))
        .collect();
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(answers[0].status, 200);
}

/// A statement that takes long, and hardly any memory.
const LONG: &str = "SELECT sum(sin(value)) AS n FROM generate_series(1, 10000000)";

#[test]
fn a_keys_limits_are_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("shop.pug");
    let file = KeyFile::new(&beside(&store));
    let key = |limits| {
        let scopes = [Scope::Ingest, Scope::Query].into();
        file.create("test", scopes, limits, 0).unwrap()
    };
    let small = Limits {
        query_memory_bytes: Some(8 << 20),
        ..Limits::default()
    };
    let short = Limits {
        query_deadline_ms: Some(20),
        ..Limits::default()
    };
    let ((_, small), (short_id, short), (_, free)) =
        ({ key(small) }, { key(short) }, { key(Limits::default()) });
    let running = Running::start(ServeFlags {
        query_memory: Some("64MB".to_owned()),
        query_deadline: Some("40s".to_owned()),
        ..flags(&store)
    });
    let ask = |key: &str, path, body: &str| {
        let bearer = format!("Bearer {key}");
        running.ask("POST", path, &[("authorization", &bearer)], body.as_bytes())
    };
    let events =
        (0..60).map(|user| json!({"type": "track", "event": "e", "userId": format!("u{user}")}));
    let batch = json!({"batch": events.collect::<Vec<_>>()}).to_string();
    assert_eq!(ask(&free, "/v1/batch", &batch).status, 200);
    // 12 MB of texts: within the service's limit, and over the key's.
    let sql = "SELECT length(string_agg(a.user_id || b.user_id || c.user_id || repeat('x', 50), '')) AS n \
               FROM events a, events b, events c";
    let (refused, answered) = (ask(&small, "/v1/sql", sql), ask(&free, "/v1/sql", sql));
    assert_eq!(
        refused.json()["code"],
        "out_of_memory",
        "{}",
        refused.text()
    );
    assert_eq!(answered.status, 200, "{}", answered.text());
    let slow = ask(&short, "/v1/sql", LONG);
    assert_eq!(slow.json()["code"], "too_slow", "{}", slow.text());
    // A limit that is lifted.
    let any = Limits {
        query_deadline_ms: Some(0),
        ..Limits::default()
    };
    file.limit(&short_id.id, |_| any).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while ask(&short, "/v1/sql", LONG).status != 200 {
        assert!(Instant::now() < until, "the old limit still stands");
    }
}

#[test]
fn without_keys_nobody_else_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let everywhere = ServeFlags {
        http: Some(SocketAddr::from(([0, 0, 0, 0], 0))),
        ..flags(&directory.path().join("shop.pug"))
    };
    let refused = Server::start(Config::new(&everywhere).unwrap());
    let told = refused.err().unwrap().to_string();
    assert!(told.contains("pugmark keys create"), "{told}");
    assert!(!directory.path().join("shop.pug").exists());
}

#[test]
fn slow_and_silent_clients_are_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(ServeFlags {
        header_seconds: Some(1),
        body_seconds: Some(1),
        ..flags(&directory.path().join("shop.pug"))
    });
    let connect = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(running.address).unwrap();
        let timeout = Some(Duration::from_secs(30));
        stream.set_read_timeout(timeout).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let mut silent = connect(b"");
    let mut half_a_head = connect(b"POST /v1/track HTTP/1.1\r\nhost: x\r\n");
    let mut half_a_body = connect(
        b"POST /v1/track HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 50\r\n\r\n{",
    );
    let begun = Instant::now();
    assert!(read_answer(&mut silent).is_none_or(|answer| answer.status == 408));
    assert!(read_answer(&mut half_a_head).is_none_or(|answer| answer.status == 408));
    assert_eq!(read_answer(&mut half_a_body).unwrap().status, 408);
    assert!(begun.elapsed() < Duration::from_secs(20));
    let good = json!({"userId": "u", "event": "e"});
    assert_eq!(running.send("/v1/track", &good).status, 200);
}

/// Names of the environment that make this binary a service.
const CHILD_STORE: &str = "PUGMARK_TEST_SERVICE";

/// Not a test: the entry of the service that is killed.
#[test]
fn served_child() {
    let Some(store) = std::env::var_os(CHILD_STORE) else {
        return;
    };
    let server = Server::start(Config::new(&flags(Path::new(&store))).unwrap()).unwrap();
    println!("> {}", server.address().unwrap());
    server.run(std::future::pending()).unwrap();
}

fn spawn_service(store: &Path) -> (Child, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["service::served_child", "--exact", "--nocapture"])
        .env(CHILD_STORE, store)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    let address = std::io::BufRead::lines(out)
        .map_while(Result::ok)
        .find_map(|line| line.split_once("> ").map(|(_, address)| address.to_owned()))
        .unwrap();
    (child, address.parse().unwrap())
}

/// Kills the service while clients send, again and again: what was acknowledged is there once.
#[test]
fn a_killed_service_keeps_what_it_acknowledged() {
    const ROUNDS: usize = 4;
    const CLIENTS: usize = 4;
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("shop.pug");
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let (mut child, address) = spawn_service(&store);
        let clients = (0..CLIENTS).map(|client| {
            std::thread::spawn(move || {
                let mut done = Vec::new();
                for number in 0.. {
                    let id = format!("{round}-{client}-{number}");
                    if !send_until_killed(address, &id) {
                        break;
                    }
                    done.push(id);
                }
                done
            })
        });
        let clients: Vec<_> = clients.collect();
        std::thread::sleep(Duration::from_millis(150 + 70 * round as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        for client in clients {
            acknowledged.extend(client.join().unwrap());
        }
    }
    assert!(
        acknowledged.len() > ROUNDS * CLIENTS,
        "{}",
        acknowledged.len()
    );
    let running = Running::over(&store);
    // What was acknowledged is there, and sent again it is not there twice.
    for id in acknowledged.iter().rev().take(50) {
        let call = json!({"userId": id, "event": "e", "messageId": id});
        assert_eq!(running.send("/v1/track", &call).status, 200);
    }
    let rows = running.sql("SELECT user_id, count(*) AS n FROM events GROUP BY user_id");
    let rows = rows.as_array().unwrap();
    assert!(rows.iter().all(|row| row["n"] == 1));
    let stored: BTreeSet<&str> = rows
        .iter()
        .map(|row| row["user_id"].as_str().unwrap())
        .collect();
    assert!(acknowledged.iter().all(|id| stored.contains(id.as_str())));
    drop(running);
    Store::builder(&store).open().unwrap().verify().unwrap();
}

/// Sends an event; false where nobody acknowledged it any more.
fn send_until_killed(address: SocketAddr, id: &str) -> bool {
    let body = json!({"userId": id, "event": "e", "messageId": id}).to_string();
    let head = format!(
        "POST /v1/track HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let sent = stream.write_all(head.as_bytes());
    let sent = sent.and_then(|()| stream.write_all(body.as_bytes()));
    sent.is_ok() && read_answer(&mut stream).is_some_and(|answer| answer.status == 200)
}

#[test]
fn files_are_imported_in_parts_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::over(&directory.path().join("shop.pug"));
    let rows: String = (0..30_000)
        .map(|row| format!("u{},{row},view,{row}\n", row % 100))
        .collect();
    let file = format!("user,time,event,n\n{rows}x,never,view,1\n");
    let path = "/v1/import?user=user&time=time&event=event";
    let key = ("Idempotency-Key", "march");
    // A client that dies on the way.
    let mut stream = TcpStream::connect(running.address).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\nidempotency-key: march\r\ncontent-length: {}\r\n\r\n",
        running.address,
        file.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&file.as_bytes()[..100_000]).unwrap();
    let progress = || running.ask("GET", "/v1/imports/march", &[], b"").json();
    while progress()["received"] != 100_000 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let busy = running.ask("POST", path, &[key], b"");
    assert_eq!(busy.status, 409, "{}", busy.text());
    drop(stream);
    while running
        .ask("POST", path, &[key, ("Upload-Offset", "7")], b"")
        .text()
        .contains("sent or stored")
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    let rest = &file.as_bytes()[100_000..];
    let done = running.ask("POST", path, &[key, ("Upload-Offset", "100000")], rest);
    assert_eq!(done.status, 200, "{}", done.text());
    let report = done.json();
    assert_eq!(
        (report["events"].clone(), report["rows"].clone()),
        (json!(30_000), json!(30_001))
    );
    assert!(
        report["rejected_rows"]
            .as_str()
            .unwrap()
            .contains("the file,30002,"),
        "{report}"
    );
    assert_eq!(progress()["state"], "done");
    let again = running.ask("POST", path, &[key], file.as_bytes());
    assert_eq!(again.json()["imported_before"], true);
    assert_eq!(
        running.sql("SELECT count(*) AS n FROM events")[0]["n"],
        30_000
    );
    let wrong = running.ask(
        "POST",
        "/v1/import?user=user&time=time&event=kind",
        &[],
        file.as_bytes(),
    );
    assert_eq!(wrong.status, 400);
    assert!(
        wrong.text().contains("the file has no column `kind`"),
        "{}",
        wrong.text()
    );
    let parquet = [("Accept", "application/vnd.apache.parquet")];
    let parquet = running.ask(
        "POST",
        "/v1/sql",
        &parquet,
        b"SELECT user_id, time, n FROM events LIMIT 500",
    );
    let named = "/v1/import?user=user_id&time=time&event_name=copied&format=parquet";
    assert_eq!(
        running.ask("POST", named, &[], &parquet.body).json()["events"],
        500
    );
    assert_eq!(
        running.ask("GET", "/v1/imports/nothing", &[], b"").status,
        404
    );
}
