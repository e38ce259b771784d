//! A real process is killed at random moments and at every named crash point.
//!
//! This finds what depends on real files and real threads; what depends on the loss of unsynced
//! bytes is found by simulated losses of power.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pugmark_engine::{CRASH_POINTS, OpenError, Store};
use pugmark_tests::dice::Dice;
use pugmark_tests::events::START;
use pugmark_tests::history::States;
use pugmark_tests::trail::dump;
use pugmark_tests::{kills, scratch};

use crate::child::{CLIENTS, Running, Work, options, script};

/// A child that passes a crash point does so within this time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Kills before a fresh store is begun, so that stores stay small.
const KILLS_OF_ONE_STORE: u32 = 25;

/// A store on which children work one after the other, and the book that the parent keeps.
struct Victim<'a> {
    directory: &'a Path,
    seed: u64,
    taken: [usize; 2],
    states: [States; 2],
}

impl<'a> Victim<'a> {
    fn new(directory: &'a Path, seed: u64) -> Self {
        let empty = States::new(&options());
        Self {
            directory,
            seed,
            taken: [0; 2],
            states: [empty.clone(), empty],
        }
    }

    fn start(&self, point: Option<(&str, u64)>) -> Running {
        let (directory, seed, skip) = (self.directory, self.seed, self.taken);
        Running::work(&Work {
            directory,
            seed,
            skip,
            point,
        })
    }

    /// Takes note of what a child had acknowledged before it died, and checks what it left.
    fn bury(&mut self, lines: &[String], context: &str) {
        for line in lines {
            let Some(ack) = line.strip_prefix("ack ") else {
                continue;
            };
            let (client, index) = ack.split_once(' ').unwrap();
            let (client, index): (usize, usize) = (client.parse().unwrap(), index.parse().unwrap());
            assert_eq!(
                index, self.taken[client],
                "{context}: acknowledgements in order"
            );
            let step = script(self.seed, client).nth(index).unwrap();
            self.states[client].done(&step, START);
            self.taken[client] += 1;
        }
        let opening = Instant::now();
        let store = Store::builder(self.directory)
            .options(options())
            .existing()
            .open();
        let store = match store {
            Ok(store) => store,
            // Killed before there was a store at all.
            Err(_) if self.taken == [0; 2] && !lines.iter().any(|line| line == "open") => return,
            Err(error) => panic!("{context}: {error}"),
        };
        assert!(
            opening.elapsed() < Duration::from_secs(10),
            "{context}: opening takes too long"
        );
        let found =
            dump(&store.snapshot().unwrap()).unwrap_or_else(|error| panic!("{context}: {error}"));
        for (client, users) in CLIENTS.iter().enumerate() {
            // The step that it was at, which is never taken again.
            let step = script(self.seed, client).nth(self.taken[client]).unwrap();
            self.states[client].perhaps(&step, START);
            self.taken[client] += 1;
            let context = || format!("{context}, client {users}, step {}", self.taken[client]);
            self.states[client].settle(&found.of_users(users), &context);
        }
        if let Err(error) = store.verify() {
            panic!("{context}: {error}");
        }
        store.close().unwrap();
    }
}

/// Reads a store all the time while its writers are killed, recover and go on. Only once there is
/// a store; from then on every snapshot can be had, is consistent, and never loses an event
/// (the clients of [`Victim`] drop events, but only those of client `a`).
fn read_all_the_time(directory: &Path, done: &AtomicBool) -> u64 {
    let (mut most, mut snapshots) = (0, 0);
    while !done.load(Ordering::SeqCst) {
        let reader = Store::builder(directory)
            .options(options())
            .read_only()
            .open();
        let reader = match reader {
            Ok(reader) => reader,
            Err(OpenError::NotAStore { .. }) => continue,
            Err(error) => panic!("a reader beside killed writers: {error}"),
        };
        for _ in 0..5 {
            let snapshot = reader
                .snapshot()
                .unwrap_or_else(|error| panic!("a reader: {error}"));
            let found = dump(&snapshot).unwrap_or_else(|error| panic!("a reader: {error}"));
            let count = found.of_users(CLIENTS[1]).event_count();
            assert!(
                count >= most,
                "a reader saw {most} events of {}, then {count}",
                CLIENTS[1]
            );
            most = count;
            snapshots += 1;
        }
    }
    snapshots
}

/// Lets a child run until it kills itself at the point. Returns what it printed, and whether it
/// got there.
fn run_to_the_point(running: Running, point: &str) -> (Vec<String>, bool) {
    let started = Instant::now();
    let mut lines = Vec::new();
    while let Ok(line) = running.line(PATIENCE.saturating_sub(started.elapsed())) {
        let is_end = line == "end";
        lines.push(line);
        if is_end {
            break;
        }
    }
    lines.extend(running.kill());
    let hit = lines.iter().any(|line| *line == format!("hit {point}"));
    (lines, hit)
}

/// Kills a child at some moment: while it opens the store, or while it works.
fn kill_some_time(running: Running, dice: &mut Dice) -> Vec<String> {
    let mut lines = Vec::new();
    if !dice.one_in(6) {
        lines.extend(running.line(PATIENCE));
    }
    std::thread::sleep(Duration::from_micros(dice.below(120_000)));
    lines.extend(running.kill());
    lines
}

/// Which points are still to be passed, and how many processes were killed.
struct Campaign {
    dice: Dice,
    points: VecDeque<&'static str>,
    hit: BTreeSet<&'static str>,
    killed: u32,
}

impl Campaign {
    fn is_over(&self) -> bool {
        self.killed >= kills(20) && self.hit.len() == CRASH_POINTS.len()
    }

    /// Starts a child, kills it, and looks at what it left.
    fn kill(&mut self, victim: &mut Victim<'_>) {
        self.killed += 1;
        let Some(point) = self.points.pop_front() else {
            let lines = kill_some_time(victim.start(None), &mut self.dice);
            victim.bury(&lines, &format!("kill {}", self.killed));
            if self.killed.is_multiple_of(50) {
                self.points.extend(CRASH_POINTS);
            }
            return;
        };
        // A process recovers once.
        let most = if point.starts_with("recover.") { 1 } else { 3 };
        let passes = 1 + self.dice.below(most);
        let running = victim.start(Some((point, passes)));
        let (lines, was_hit) = run_to_the_point(running, point);
        assert!(was_hit, "{point} was not passed {passes} times");
        self.hit.insert(point);
        let context = format!("kill {} at {point}, passed {passes} times", self.killed);
        victim.bury(&lines, &context);
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let mut campaign = Campaign {
        dice: Dice::new(2_026),
        points: CRASH_POINTS.iter().copied().collect(),
        hit: BTreeSet::new(),
        killed: 0,
    };
    while !campaign.is_over() {
        let directory = scratch();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_all_the_time(directory.path(), &done));
            let killed = catch_unwind(AssertUnwindSafe(|| {
                let mut victim = Victim::new(directory.path(), campaign.dice.any());
                for _ in 0..KILLS_OF_ONE_STORE {
                    if !campaign.is_over() {
                        campaign.kill(&mut victim);
                    }
                }
            }));
            done.store(true, Ordering::SeqCst);
            let snapshots = reader.join().unwrap();
            killed.unwrap_or_else(|panicked| resume_unwind(panicked));
            assert!(snapshots > 0, "the reader read nothing");
        });
    }
}
