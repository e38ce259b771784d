//! `pugmark generate`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use arrow_schema::DataType;
use clap::Args;
use indicatif::ProgressBar;
use pugmark_engine::EventBatch;
use pugmark_query::population::{Population, PopulationConfig};
use xxhash_rust::xxh3::xxh3_128;

use super::progress::{bar, say};
use super::{CliError, grouped, open_or_create};
use crate::export::ParquetEvents;

/// Properties of generated events, with their types.
pub(crate) const PROPERTIES: [(&str, DataType); 7] = [
    ("product_id", DataType::Int64),
    ("category_code", DataType::Utf8),
    ("price", DataType::Float64),
    ("platform", DataType::Utf8),
    ("campaign", DataType::Utf8),
    ("order_id", DataType::Int64),
    ("amount", DataType::Float64),
];

/// Generate the events of a shop's visitors, for trials and benchmarks.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Generate the events of a shop's visitors, for trials and benchmarks.

The same numbers and seed give the same events everywhere. There are 18 names of events (visit, \
view, search, cart, purchase, email_sent, card_purchase …), a few very active users and many who \
come once, campaigns, orders and returns.",
    after_long_help = "\
Examples:
  A store to play with, then what is in it:
    pugmark generate --events 1000000 --store demo.pug && pugmark stats --store demo.pug
  A file that other programs read too:
    pugmark generate --events 100000000 --parquet events.parquet"
)]
pub(super) struct GenerateArgs {
    /// How many events
    #[arg(long)]
    events: u64,
    /// How many users [default: 4.5 % of the events]
    #[arg(long)]
    users: Option<u64>,
    /// Over how many days, from 2025-01-01 on
    #[arg(long, default_value_t = 90)]
    days: u32,
    /// Another seed, another population of the same kind
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The store to put them in; it is created where there is none
    #[arg(long, value_name = "DIR", required_unless_present = "parquet")]
    store: Option<PathBuf>,
    /// The Parquet file to write them to instead
    #[arg(long, value_name = "FILE", conflicts_with = "store")]
    parquet: Option<PathBuf>,
}

impl GenerateArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut config = PopulationConfig::of_events(self.events);
        config.users = self.users.unwrap_or(config.users);
        (config.days, config.seed) = (self.days, self.seed);
        let population = Population::new(config);
        let begun = Instant::now();
        let bar = bar(self.events, "events");
        bar.set_message("generating");
        let generated = match (&self.store, &self.parquet) {
            (Some(store), _) => into_store(&population, store, &bar)?,
            (None, Some(file)) => into_parquet(&population, file, &bar)?,
            (None, None) => 0,
        };
        bar.finish_and_clear();
        let seconds = begun.elapsed().as_secs_f64();
        let rate = grouped((generated as f64 / seconds.max(0.001)) as u64);
        let (events, users) = (grouped(generated), grouped(population.config().users));
        say(&format!(
            "{events} events of {users} users in {seconds:.1} s, {rate} a second"
        ));
        if generated < self.events {
            say("the rest was generated before: the same population is not stored twice");
        }
        Ok(())
    }
}

/// Generates on a thread of its own and hands over the batches. `take` gets each with the number
/// of events before it.
fn each_batch(
    population: &Population,
    skip: u64,
    bar: &ProgressBar,
    mut take: impl FnMut(EventBatch, u64) -> Result<(), CliError>,
) -> Result<u64, CliError> {
    std::thread::scope(|scope| {
        let (sender, batches) = sync_channel(2);
        scope.spawn(move || {
            for batch in population.batches() {
                if sender.send(batch).is_err() {
                    return;
                }
            }
        });
        // Owned here, so that an error ends the generating thread before it is waited for.
        let batches: Receiver<EventBatch> = batches;
        let (mut before, mut taken) = (0, 0);
        for batch in batches {
            let rows = batch.len() as u64;
            // Progress is noted after whole batches, so one is skipped whole or not at all.
            if before + rows > skip {
                take(batch, before)?;
                taken += rows;
            }
            before += rows;
            bar.set_position(before);
        }
        Ok(taken)
    })
}

pub(super) fn into_store(
    population: &Population,
    path: &Path,
    bar: &ProgressBar,
) -> Result<u64, CliError> {
    let store = open_or_create(path)?;
    let key = xxh3_128(format!("generate 1 {:?}", population.config()).as_bytes());
    let mut load = store.bulk_load(key)?;
    if load.is_complete() {
        return Ok(0);
    }
    let done = load.rows_done();
    let taken = each_batch(population, done, bar, |batch, before| {
        let rows_done = before + batch.len() as u64;
        Ok(load.append(batch, rows_done)?)
    })?;
    load.finish(population.config().events)?;
    store.close()?;
    Ok(taken)
}

fn into_parquet(population: &Population, path: &Path, bar: &ProgressBar) -> Result<u64, CliError> {
    let fail = |source| CliError::Parquet {
        path: path.to_owned(),
        source,
    };
    let file = File::create(path);
    let file = file.map_err(|source| CliError::Output {
        path: path.to_owned(),
        source,
    })?;
    let mut writer = ParquetEvents::new(file, &PROPERTIES).map_err(fail)?;
    let taken = each_batch(population, 0, bar, |batch, _| {
        writer.write(&batch).map_err(fail)
    })?;
    writer.finish().map_err(fail)?;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pugmark_engine::Store;

    #[test]
    fn a_population_is_stored_once() {
        let directory = tempfile::tempdir().unwrap();
        let population = Population::new(PopulationConfig::of_events(100_000));
        let bar = ProgressBar::hidden();
        assert_eq!(
            into_store(&population, directory.path(), &bar).unwrap(),
            100_000
        );
        assert_eq!(into_store(&population, directory.path(), &bar).unwrap(), 0);
        let store = Store::builder(directory.path()).open().unwrap();
        let stats = store.stats().unwrap();
        assert_eq!((stats.events, stats.users), (100_000, 4_500));
        assert_eq!(stats.events_by_name.len(), 18);
    }
}
