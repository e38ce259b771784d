//! A real process is killed at random moments and at every named crash point.
//!
//! This finds what depends on real files and real threads; what depends on the loss of unsynced
//! bytes is found by simulated losses of power.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use pugmark_engine::{CRASH_POINTS, Store};
use pugmark_tests::dice::Dice;
use pugmark_tests::events::START;
use pugmark_tests::history::States;
use pugmark_tests::kills;
use pugmark_tests::trail::dump;

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

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let mut dice = Dice::new(2_026);
    let mut hit = BTreeSet::new();
    let mut killed = 0;
    let mut points = CRASH_POINTS.iter().copied();
    while killed < kills(20) || hit.len() < CRASH_POINTS.len() {
        let directory = tempfile::tempdir().unwrap();
        let mut victim = Victim::new(directory.path(), dice.any());
        for _ in 0..KILLS_OF_ONE_STORE {
            killed += 1;
            let point = points.next();
            if let Some(point) = point {
                // A process recovers once.
                let passes = if point.starts_with("recover.") {
                    1
                } else {
                    1 + dice.below(3)
                };
                let running = victim.start(Some((point, passes)));
                let (lines, was_hit) = run_to_the_point(running, point);
                assert!(was_hit, "{point} was not passed {passes} times");
                hit.insert(point);
                victim.bury(
                    &lines,
                    &format!("kill {killed} at {point}, passed {passes} times"),
                );
            } else {
                let lines = kill_some_time(victim.start(None), &mut dice);
                victim.bury(&lines, &format!("kill {killed}"));
                if killed % 50 == 0 {
                    points = CRASH_POINTS.iter().copied();
                }
            }
            if killed >= kills(20) && hit.len() == CRASH_POINTS.len() {
                break;
            }
        }
    }
    assert_eq!(hit.len(), CRASH_POINTS.len(), "every point was passed");
}
