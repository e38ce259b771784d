//! Clients that people have already, against the service: SDKs and readers from the registry.
//!
//! They are installed once, into a folder of the user's cache. Where that cannot be done the tests
//! say so loudly, and test nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::service::Running;

const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/requirements.txt");

/// A Python with the clients; `None`, said loudly, where there is none.
fn python() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or(home)?;
    let wanted = std::fs::read_to_string(REQUIREMENTS).unwrap();
    let name = wanted.replace("==", "-").replace('\n', "+");
    let folder = cache
        .join("pugmark/clients")
        .join(name.trim_end_matches('+'));
    let python = folder.join("bin/python");
    let done = folder.join("installed");
    if !done.exists() {
        let made = run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
        let install = ["-m", "pip", "install", "--quiet", "-r", REQUIREMENTS];
        if let Err(problem) = made.and_then(|()| run(Command::new(&python).args(install))) {
            // Past the harness, which shows nothing that a passing test prints.
            let told = format!("\n*** SKIPPED: clients cannot be installed: {problem}\n");
            std::io::stderr().write_all(told.as_bytes()).unwrap();
            return None;
        }
        std::fs::write(done, "").unwrap();
    }
    Some(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        )),
    }
}

#[test]
fn sdks_send_and_arrow_reads() {
    let Some(python) = python() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let running = Running::over(&directory.path().join("shop.pug"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/service.py");
    let url = format!("http://{}", running.address);
    run(Command::new(python).arg(script).arg(url)).unwrap();
}
