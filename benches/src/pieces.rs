//! A store of the population that nobody has compacted: the same events in as many layers of
//! segments as there were flushes.

use pugmark_engine::{Options as StoreOptions, Store};
use pugmark_query::population::{Population, PopulationConfig};
use serde_json::{Value, json};

use crate::{BenchError, Options};

/// Names the load in the store's ledger; there is only this one.
const LOAD: u128 = 1;

/// Writes `--events` events into a new store in `--pieces` pieces of about the same size, cut in
/// order of time as a stream's flushes are. A piece is some of the population's batches, so there
/// are at most as many pieces as batches.
pub(crate) fn write(options: &Options) -> Result<Value, BenchError> {
    let mut config = PopulationConfig::of_events(options.number("events")?);
    (config.days, config.seed) = (options.number("days")?, options.number("seed")?);
    let pieces = options.number::<u64>("pieces")?.max(1);
    let settings = StoreOptions {
        background_compaction: false,
        bulk_rows: config.events.div_ceil(pieces).max(1) as usize,
        ..StoreOptions::default()
    };
    let store = Store::builder(options.store()?).options(settings).open()?;
    let mut load = store.bulk_load(LOAD)?;
    let mut rows = 0;
    for batch in Population::new(config).batches() {
        rows += batch.len() as u64;
        load.append(batch, rows)?;
    }
    load.finish(rows)?;
    let segments = store.stats()?.segments;
    store.close()?;
    Ok(json!({ "events": rows, "segments": segments }))
}
