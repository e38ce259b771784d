//! Children: this test binary run again by a test, as another process that may be killed.
//!
//! A child is told what to do by environment variables and reports on standard output. Its entry
//! is an ordinary test that returns at once unless a parent asks for more.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use pugmark_engine::{OpenError, Options, Store};
use pugmark_tests::events::{DAY, START};
use pugmark_tests::history::{HandClock, Script, tiny_options};

use crate::postgres::connect_idly;

const MODE: &str = "PUGMARK_CHILD";
const DIRECTORY: &str = "PUGMARK_CHILD_DIRECTORY";
const SEED: &str = "PUGMARK_CHILD_SEED";
const SKIP: &str = "PUGMARK_CHILD_SKIP";
const ADDRESSES: &str = "PUGMARK_CHILD_ADDRESSES";
const NUMBER: &str = "PUGMARK_CHILD_NUMBER";
const POINT: &str = "PUGMARK_CHILD_POINT";
/// Steps that a client takes before the child ends by itself.
const MOST_STEPS: usize = 2_000;

/// Users of the two clients of a working child. The first one's old events are dropped now and
/// then; the second one's are much later.
pub(crate) const CLIENTS: [&str; 2] = ["a", "b"];

/// The steps of a client of a working child.
pub(crate) fn script(seed: u64, client: usize) -> Script {
    // Another seed for each, or their loads would have the same keys.
    let script = Script::new(seed ^ client as u64, CLIENTS[client], client == 0);
    if client == 0 {
        script
    } else {
        script.later_by(7_300 * DAY)
    }
}

/// The options that a working child opens its store with.
pub(crate) fn options() -> Options {
    Options {
        clock: HandClock::at(START).clock(),
        ..tiny_options()
    }
}

/// What a working child is told.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) seed: u64,
    /// Steps of each client that earlier children took.
    pub(crate) skip: [usize; 2],
    /// Kill yourself at this crash point, when it is passed for so manieth time.
    pub(crate) point: Option<(&'a str, u64)>,
}

/// A child process and the lines it has printed.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let child = command
            .args(["child::child", "--exact", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn();
        let mut child = child.expect("the test binary can be run again");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // Lines of the test harness itself begin otherwise.
                if let Some(line) = line.split_once("> ").map(|(_, line)| line.to_owned())
                    && sender.send(line).is_err()
                {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Self {
            child,
            stdin,
            lines,
        }
    }

    /// Starts a child that works on a store.
    pub(crate) fn work(work: &Work<'_>) -> Self {
        let mut command = this_binary("work", work.directory);
        command.env(SEED, work.seed.to_string());
        command.env(SKIP, format!("{} {}", work.skip[0], work.skip[1]));
        if let Some((point, hit)) = work.point {
            command.env(POINT, format!("{point} {hit}"));
        }
        Self::start(&mut command)
    }

    /// Starts a child that opens a store for writing and keeps it until its input ends.
    pub(crate) fn lock(directory: &Path) -> Self {
        Self::start(&mut this_binary("lock", directory))
    }

    /// Starts a child that holds idle connections to a service until its input ends.
    pub(crate) fn connect(addresses: [SocketAddr; 2], number: usize) -> Self {
        let mut command = this_binary("connect", Path::new(""));
        command.env(ADDRESSES, format!("{} {}", addresses[0], addresses[1]));
        command.env(NUMBER, number.to_string());
        Self::start(&mut command)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line, if there is one within the time.
    pub(crate) fn line(&self, patience: Duration) -> Result<String, RecvTimeoutError> {
        self.lines.recv_timeout(patience)
    }

    /// Lets the child end by itself.
    pub(crate) fn release(&mut self) {
        self.stdin = None;
    }

    /// Kills the child, if it still runs, and returns the lines not yet taken.
    pub(crate) fn kill(mut self) -> Vec<String> {
        let _gone_already = self.child.kill();
        self.child.wait().expect("the child can be waited for");
        self.lines.iter().collect()
    }

    /// Waits for the end of the child and returns whether it went well.
    pub(crate) fn wait(mut self) -> bool {
        self.release();
        self.child
            .wait()
            .expect("the child can be waited for")
            .success()
    }
}

fn this_binary(mode: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
    command.env(MODE, mode).env(DIRECTORY, directory);
    command
}

/// Reports to the parent. The mark tells the lines from those of the test harness.
fn say(line: &str) {
    println!("> {line}");
    std::io::stdout().flush().unwrap();
}

/// Not a test: the entry of children.
#[test]
fn child() {
    let Ok(mode) = std::env::var(MODE) else {
        return;
    };
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    match mode.as_str() {
        "work" => work(directory),
        "lock" => hold_the_lock(directory),
        "connect" => hold_connections(),
        other => panic!("no child does {other}"),
    }
}

fn work(directory: &Path) {
    if let Ok(point) = std::env::var(POINT) {
        let (point, hit) = point.split_once(' ').unwrap();
        die_at(point.to_owned(), hit.parse().unwrap());
    }
    let number = |text: &str| text.parse().unwrap();
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let skip: Vec<usize> = std::env::var(SKIP)
        .unwrap()
        .split(' ')
        .map(number)
        .collect();
    let store = Store::builder(directory).options(options()).open().unwrap();
    say("open");
    let printing = Mutex::new(());
    std::thread::scope(|scope| {
        for (client, &skip) in skip.iter().enumerate() {
            let (store, printing) = (&store, &printing);
            scope.spawn(move || {
                let steps = script(seed, client)
                    .take(skip + MOST_STEPS)
                    .enumerate()
                    .skip(skip);
                for (index, step) in steps {
                    step.take(store).unwrap();
                    let _one_at_a_time = printing.lock().unwrap();
                    say(&format!("ack {client} {index}"));
                }
            });
        }
    });
    say("end");
}

/// Orders this process to be killed when it passes a crash point for the `hit`th time.
fn die_at(point: String, hit: u64) {
    let passed = AtomicU64::new(0);
    let name = point.clone();
    let die = move || {
        if passed.fetch_add(1, Ordering::SeqCst) + 1 == hit {
            say(&format!("hit {point}"));
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
            // The signal may take a moment; nothing may happen in it.
            loop {
                std::thread::park();
            }
        }
    };
    fail::cfg_callback(name, die).unwrap();
}

fn hold_connections() {
    let addresses = std::env::var(ADDRESSES).unwrap();
    let (http, pg) = addresses.split_once(' ').unwrap();
    let number = std::env::var(NUMBER).unwrap().parse().unwrap();
    let idle = connect_idly([http, pg].map(|address| address.parse().unwrap()), number);
    say(&idle.len().to_string());
    let _end = std::io::stdin().read_to_end(&mut Vec::new());
}

fn hold_the_lock(directory: &Path) {
    match Store::builder(directory).open() {
        Ok(_store) => {
            say("won");
            let _end = std::io::stdin().read_to_end(&mut Vec::new());
        }
        Err(error @ OpenError::Locked { .. }) => say(&format!("locked: {error}")),
        Err(error) => say(&format!("failed: {error}")),
    }
}
