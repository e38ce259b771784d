//! The main job in one run: a sample population, a segment, a funnel, abandoned carts, sleepers.
//!
//! `cargo run --release -p pugmark-query --example demo [EVENTS]`

#![expect(clippy::print_stdout, reason = "a demonstration is there to print")]

use std::error::Error;
use std::time::{Duration, Instant};

use pugmark_engine::{Clock, Durability, Store};
use pugmark_query::behaviour::FunnelRow;
use pugmark_query::population::{Population, PopulationConfig};
use pugmark_query::{Executor, Funnel, QueryOptions, days, did, event, hours, not, property, step};

const EVENTS: u64 = 2_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let events = match std::env::args().nth(1) {
        Some(count) => count.replace('_', "").parse()?,
        None => EVENTS,
    };
    let directory = tempfile::tempdir()?;
    let population = Population::new(PopulationConfig::of_events(events));
    let present = population.end_micros();
    let store = Store::builder(directory.path())
        .durability(Durability::None)
        .clock(Clock::custom(move || present))
        .open()?;
    load(&store, &population)?;
    let options = QueryOptions {
        as_of: Some(present - 1),
        ..QueryOptions::default()
    };
    let executor = Executor::new(store.snapshot()?).with_options(options);
    segment(&executor)?;
    funnel(&executor)?;
    abandoned_carts(&executor)?;
    sleepers(&executor)
}

fn load(store: &Store, population: &Population) -> Result<(), Box<dyn Error>> {
    let config = population.config();
    println!(
        "A shop of {} users and {} events in 90 days.",
        grouped(config.users),
        grouped(config.events)
    );
    let started = Instant::now();
    let mut load = store.bulk_load(1)?;
    let mut done = 0;
    for batch in population.batches() {
        done += batch.len() as u64;
        load.append(batch, done)?;
    }
    load.finish(done)?;
    let loaded = started.elapsed();
    store.compact()?;
    let stats = store.stats()?;
    let bytes = stats.segment_bytes + stats.id_bytes;
    println!(
        "Generated and loaded in {} ({} events a second), compacted in {}: {:.1} bytes an event.\n",
        readable(loaded),
        grouped((done as f64 / loaded.as_secs_f64()) as u64),
        readable(started.elapsed() - loaded),
        bytes as f64 / done as f64,
    );
    Ok(())
}

fn segment(executor: &Executor) -> Result<(), Box<dyn Error>> {
    ask("Who viewed electronics at least twice in the last 7 days, and never bought anything?");
    let electronics = event("view").and(property("category_code").starts_with("electronics"));
    let segment = did(electronics)
        .at_least(2)
        .last(days(7))
        .and(not(did("purchase")));
    let (users, took) = timed(|| executor.users(segment))?;
    answer(&format!("{} users", grouped(users.len())), took);
    Ok(())
}

fn funnel(executor: &Executor) -> Result<(), Box<dyn Error>> {
    ask("How many go from a view to the cart and on to a purchase, within one day?");
    let funnel = Funnel::new([step("view"), step("cart"), step("purchase")]).within(days(1));
    let (result, took) = timed(|| executor.funnel(&funnel))?;
    draw(&result.rows);
    answer("", took);
    Ok(())
}

/// A bar for each step, as wide as its share of the first.
fn draw(rows: &[FunnelRow]) {
    println!(
        "  {:<10}{:>10}  {:<40}{:>8}{:>10}  median",
        "step", "users", "", "of all", "of step"
    );
    for row in rows {
        let share = row.from_start.unwrap_or(0.0);
        let bar = "█".repeat((share * 40.0).ceil() as usize);
        let of_step = row.from_previous.map_or(String::new(), percent);
        let median = match row.median_seconds {
            Some(found) if row.step > 1 => readable(Duration::from_secs_f64(found)),
            _ => String::new(),
        };
        let (name, users, of_all) = (&row.name, grouped(row.users), percent(share));
        println!("  {name:<10}{users:>10}  {bar:<40}{of_all:>8}{of_step:>10}  {median}");
    }
}

fn abandoned_carts(executor: &Executor) -> Result<(), Box<dyn Error>> {
    ask("Who put something in the cart in the last day, and let an hour pass without buying it?");
    let abandoned = did("cart")
        .last(days(1))
        .not_then("purchase")
        .then_within(hours(1))
        .holding("product_id");
    let (users, took) = timed(|| executor.users(abandoned))?;
    let mut first = Vec::new();
    users.for_each_id(|id| {
        if first.len() < 8 {
            first.push(id.to_string());
        }
    })?;
    answer(
        &format!("{} users: {} …", grouped(users.len()), first.join(", ")),
        took,
    );
    Ok(())
}

fn sleepers(executor: &Executor) -> Result<(), Box<dyn Error>> {
    ask("Who was sent e-mail, and has not opened any for 90 days?");
    let asleep = did("email_sent").and(not(did("email_open").last(days(90))));
    let (count, took) = timed(|| executor.count(&asleep))?;
    answer(&format!("{} users", grouped(count)), took);
    Ok(())
}

fn ask(question: &str) {
    println!("? {question}");
}

fn answer(text: &str, took: Duration) {
    let gap = if text.is_empty() { "" } else { "  " };
    println!("  {text}{gap}({})\n", readable(took));
}

fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, Duration), E> {
    let started = Instant::now();
    work().map(|result| (result, started.elapsed()))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A duration in the unit that suits it.
fn readable(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        _ if seconds < 1e-3 => format!("{:.0} us", seconds * 1e6),
        _ if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 120.0 => format!("{seconds:.1} s"),
        _ if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3_600.0),
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
