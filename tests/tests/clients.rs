//! Clients that people have already, against the service: SDKs, drivers and readers from the
//! registries.
//!
//! They are installed once, into a folder of the user's cache. Where that cannot be done the tests
//! say so loudly, and test nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use pugmark_server::serve::config::ServeFlags;
use pugmark_server::serve::keys::Scope;
use sha2::{Digest, Sha256};

use crate::service::{Running, flags};

/// Where the scripts are.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");

/// A folder of the user's cache for what is wanted, filled once; `None`, said loudly, where it
/// cannot be filled.
fn installed(
    what: &str,
    wanted: &str,
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or(home)?;
    let digest = Sha256::digest(wanted.as_bytes());
    let name: String = digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let folder = cache.join("pugmark/clients").join(format!("{what}-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::open(&folder).unwrap();
    lock.lock().unwrap();
    let done = folder.join("installed");
    if !done.exists() {
        if let Err(problem) = install(&folder) {
            skipped(&format!("{what} cannot be installed: {problem}"));
            return None;
        }
        std::fs::write(done, "").unwrap();
    }
    Some(folder)
}

/// Says that something is not tested, past the harness, which shows nothing that a passing test prints.
fn skipped(why: &str) {
    let told = format!("\n*** SKIPPED: {why}\n");
    std::io::stderr().write_all(told.as_bytes()).unwrap();
}

/// True where a program is there; said loudly where it is not.
fn there_is(program: &str) -> bool {
    let found = output(Command::new(program).arg("--version"));
    if let Err(problem) = &found {
        skipped(&format!("there is no {program}: {problem}"));
    }
    found.is_ok()
}

/// A Python with the clients.
fn python() -> Option<PathBuf> {
    let requirements = format!("{SCRIPTS}/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).unwrap();
    let folder = installed("python", &wanted, |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        let install = ["-m", "pip", "install", "--quiet", "-r", &requirements];
        run(Command::new(folder.join("bin/python")).args(install))
    })?;
    Some(folder.join("bin/python"))
}

/// A folder of packages of npm, with the scripts beside them.
fn node() -> Option<PathBuf> {
    let package = format!("{SCRIPTS}/package.json");
    let wanted = std::fs::read_to_string(&package).unwrap();
    let folder = installed("node", &wanted, |folder| {
        std::fs::copy(&package, folder.join("package.json")).map_err(|error| error.to_string())?;
        let install = ["install", "--no-audit", "--no-fund", "--silent"];
        run(Command::new("npm").args(install).current_dir(folder))
    })?;
    for script in ["node.mjs", "browser.mjs"] {
        std::fs::copy(format!("{SCRIPTS}/{script}"), folder.join(script)).unwrap();
    }
    Some(folder)
}

/// A package of Debian's, unpacked.
fn debian(package: &str) -> Option<PathBuf> {
    installed(package, package, |folder| {
        run(Command::new("apt-get")
            .args(["download", package])
            .current_dir(folder))?;
        let files = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
        for file in files.flatten() {
            if file.path().extension().is_some_and(|end| end == "deb") {
                run(Command::new("dpkg-deb")
                    .arg("-x")
                    .arg(file.path())
                    .arg(folder))?;
            }
        }
        Ok(())
    })
}

fn run(command: &mut Command) -> Result<(), String> {
    output(command).map(|_| ())
}

/// What a command writes.
fn output(command: &mut Command) -> Result<String, String> {
    let done = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    match done.status.success() {
        true => Ok(told),
        false => Err(format!(
            "{command:?}: {told}{}",
            String::from_utf8_lossy(&done.stderr)
        )),
    }
}

fn script(name: &str) -> String {
    format!("{SCRIPTS}/{name}")
}

#[test]
fn sdks_send_and_arrow_reads() {
    let Some(python) = python() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let running = Running::over(&directory.path().join("shop.pug"));
    run(Command::new(python)
        .arg(script("service.py"))
        .arg(running.url()))
    .unwrap();
}

#[test]
fn drivers_of_postgresql_ask() {
    let Some(python) = python() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let running = Running::over(&directory.path().join("shop.pug"));
    let mut asked = Command::new(python);
    asked.arg(script("postgres.py")).arg(running.url());
    run(asked.arg(running.pg.to_string())).unwrap();
    jdbc(&running);
    psql(&running);
}

/// The driver for Java, over the events that the others left.
fn jdbc(running: &Running) {
    // Java compiles the script, too.
    if !there_is("javac") {
        return;
    }
    let Some(driver) = debian("libpostgresql-jdbc-java") else {
        return;
    };
    let url = format!(
        "jdbc:postgresql://{}/pugmark?user=ann&password=any",
        running.pg
    );
    let mut java = Command::new("java");
    java.arg("-cp")
        .arg(driver.join("usr/share/java/postgresql.jar"));
    run(java.arg(script("Postgres.java")).arg(url)).unwrap();
}

/// psql, and what other programs ask the catalog for.
fn psql(running: &Running) {
    let url = format!("postgresql://ann@{}/pugmark", running.pg);
    if !there_is("psql") {
        return;
    }
    let psql = |args: &[&str]| {
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "-v", "ON_ERROR_STOP=1", &url])
            .args(args);
        output(&mut psql)
    };
    let told = psql(&["-c", "\\dt"]).unwrap();
    assert!(
        told.contains("| events | table") && told.contains("| users  | table"),
        "{told}"
    );
    let told = psql(&["-c", "\\d events"]).unwrap();
    assert!(
        told.contains(" time    | timestamp with time zone |           | not null"),
        "{told}"
    );
    for meta in [
        "\\d",
        "\\l",
        "\\dn",
        "\\du",
        "\\df",
        "\\dv",
        "\\di",
        "\\dT",
        "\\d users",
        "\\conninfo",
    ] {
        psql(&["-c", meta]).unwrap();
    }
    psql(&["-q", "-f", &script("catalog.sql")]).unwrap();
    let answer = "SELECT to_regclass('events') IS NOT NULL, to_regclass('nothing') IS NULL";
    assert_eq!(psql(&["-At", "-c", answer]).unwrap(), "t|t\n");
    let wrong = psql(&["-c", "SELECT 1\n FROM evnts"]).unwrap_err();
    assert!(
        wrong.contains("did you mean `events`?\nLINE 2:  FROM evnts\n              ^"),
        "{wrong}"
    );
    // What is sent is there in the same moment.
    let event = serde_json::json!({"userId": "zoe", "event": "hello"});
    running.send("/v1/track", &event);
    let hello = "SELECT user_id FROM users WHERE did('hello')";
    assert_eq!(psql(&["-At", "-c", hello]).unwrap(), "zoe\n");
}

#[test]
fn drivers_of_flight_sql_read() {
    let Some(python) = python() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let (running, key) = Running::locked(&directory.path().join("shop.pug"), Scope::Admin);
    let mut asked = Command::new(python);
    asked.arg(script("flight.py")).arg(running.url());
    run(asked.arg(running.flight.to_string()).arg(key)).unwrap();
}

#[test]
fn sdks_of_node_and_browsers_send() {
    let Some(folder) = node() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let running = Running::over(&directory.path().join("shop.pug"));
    let node = |script: &str| {
        let mut node = Command::new("node");
        node.arg(script).arg(running.url()).current_dir(&folder);
        node.output().unwrap()
    };
    let counted = |user: &str| {
        let sql = format!(
            "SELECT event, count(*) AS n FROM events WHERE user_id = '{user}' GROUP BY 1 ORDER BY 1"
        );
        running.sql(&sql)
    };
    let done = node("node.mjs");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let wanted = serde_json::json!([
        {"event": "$alias", "n": 1},
        {"event": "$identify", "n": 1},
        {"event": "page", "n": 1},
        {"event": "view", "n": 50},
    ]);
    assert_eq!(counted("node"), wanted);
    let done = node("browser.mjs");
    let told = String::from_utf8_lossy(&done.stderr);
    if done.status.code() == Some(77) {
        skipped(&format!("Chromium does not start: {told}"));
        return;
    }
    assert!(done.status.success(), "{told}");
    let wanted = serde_json::json!([
        {"event": "$identify", "n": 1},
        {"event": "click", "n": 5},
        {"event": "page", "n": 1},
    ]);
    assert_eq!(counted("browser"), wanted);
    let plans = running.sql("SELECT user_id, plan FROM users ORDER BY 1");
    let wanted = serde_json::json!([
        {"user_id": "browser", "plan": "free"},
        {"user_id": "node", "plan": "gold"},
    ]);
    assert_eq!(plans, wanted);
}

#[test]
fn connections_are_encrypted() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]);
    openssl.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    openssl
        .arg("-keyout")
        .arg(at("key.pem"))
        .arg("-out")
        .arg(at("cert.pem"));
    if let Err(problem) = run(&mut openssl) {
        skipped(&format!("openssl makes no certificate: {problem}"));
        return;
    }
    if !there_is("curl") {
        return;
    }
    let running = Running::start(ServeFlags {
        tls_cert: Some(at("cert.pem")),
        tls_key: Some(at("key.pem")),
        ..flags(&at("shop.pug"))
    });
    let curl = |scheme: &str, event: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--cacert"])
            .arg(at("cert.pem"));
        curl.args(["-d", event])
            .arg(format!("{scheme}://{}/v1/track", running.address));
        output(&mut curl)
    };
    let event = r#"{"userId": "ann", "event": "view"}"#;
    assert_eq!(curl("https", event).unwrap(), r#"{"success":true}"#);
    curl("http", event).unwrap_err();
    let psql = |mode: &str, roots: &str| {
        let url = format!(
            "postgresql://ann@{}/pugmark?sslmode={mode}&sslrootcert={roots}",
            running.pg
        );
        let mut psql = Command::new("psql");
        psql.args([
            "--no-psqlrc",
            "-At",
            "-c",
            "SELECT count(*) FROM events",
            &url,
        ]);
        output(&mut psql)
    };
    if !there_is("psql") {
        return;
    }
    assert_eq!(
        psql("verify-full", at("cert.pem").to_str().unwrap()).unwrap(),
        "1\n"
    );
}

/// Requests made of the OpenAPI document: none fails by the service's fault, and each answer is as it says.
#[test]
fn what_is_served_is_what_the_document_says() {
    let wanted = "schemathesis==4.32.5";
    let tool = installed("schemathesis", wanted, |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        let install = ["-m", "pip", "install", "--quiet", wanted];
        run(Command::new(folder.join("bin/python")).args(install))
    });
    let Some(tool) = tool else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let running = Running::over(&directory.path().join("shop.pug"));
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
                  response_schema_conformance";
    let mut asked = Command::new(tool.join("bin/schemathesis"));
    asked
        .arg("run")
        .arg(format!("{}/openapi.json", running.url()));
    asked.args(["--checks", checks, "--max-examples", "15", "--seed", "7"]);
    // What it keeps of its examples.
    run(asked.current_dir(directory.path())).unwrap();
}
