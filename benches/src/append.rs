//! Streaming appends: writers that append small batches as fast as the store takes them, and what
//! each append took. The harness compacts the store afterwards and counts the bytes written.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pugmark_engine::{Durability, Store};
use serde_json::{Value, json};

use crate::shoppers::{Kind, Shoppers};
use crate::{BenchError, Options, measure};

/// What the writers share.
struct Stream {
    store: Store,
    kind: Kind,
    batches: u64,
    next: AtomicU64,
}

/// What one writer did.
#[derive(Default)]
struct Written {
    nanos: Vec<u64>,
    making_seconds: f64,
    bytes: u64,
    stored: u64,
}

/// Appends `--batches` batches of `--rows` events by `--writers` threads to a new store.
pub(crate) fn run(options: &Options) -> Result<Value, BenchError> {
    let (batches, rows) = (options.number("batches")?, options.number("rows")?);
    let kind = Kind {
        events: batches * rows,
        rows,
        late: options.number("late")?,
        message_ids: options.flag("message-ids")?,
        seed: options.number("seed")?,
    };
    let stream = Stream {
        store: new_store(&options.store()?, durability(options)?)?,
        kind,
        batches,
        next: AtomicU64::new(0),
    };
    let (begun, cpu) = (Instant::now(), measure::cpu_seconds());
    let mut written = stream.write(options.number("writers")?)?;
    let seconds = begun.elapsed().as_secs_f64();
    stream.store.flush()?;
    let flushed_seconds = begun.elapsed().as_secs_f64();
    let cpu_seconds = measure::cpu_seconds() - cpu;
    stream.store.close()?;
    written.nanos.sort_unstable();
    let latency = |share| rank(&written.nanos, share) as f64 / 1e9;
    Ok(json!({
        "events": written.stored,
        "seconds": seconds,
        "flushed_seconds": flushed_seconds,
        "cpu_seconds": cpu_seconds,
        "making_seconds": written.making_seconds,
        "raw_bytes": written.bytes,
        "p50_seconds": latency(0.5),
        "p99_seconds": latency(0.99),
        "max_seconds": latency(1.0),
    }))
}

/// A store with events in it would be another measurement.
fn new_store(path: &Path, durability: Durability) -> Result<Store, BenchError> {
    let store = Store::builder(path).durability(durability).open()?;
    if store.snapshot()?.events() > 0 {
        return Err(BenchError::Usage("the store has events".to_owned()));
    }
    Ok(store)
}

fn durability(options: &Options) -> Result<Durability, BenchError> {
    match options.text("durability")? {
        "commit" => Ok(Durability::EveryCommit),
        "interval" => {
            let millis = options.number("interval-millis")?;
            Ok(Durability::Interval(Duration::from_millis(millis)))
        }
        "none" => Ok(Durability::None),
        other => Err(BenchError::Usage(format!("no durability `{other}`"))),
    }
}

impl Stream {
    /// All writers together, each on a thread.
    fn write(&self, writers: usize) -> Result<Written, BenchError> {
        let mut all = Written::default();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..writers)
                .map(|_| scope.spawn(|| self.write_one()))
                .collect();
            for writer in writers {
                let panicked = |_| std::io::Error::other("a writer panicked");
                let one = writer.join().map_err(panicked)??;
                all.nanos.extend(one.nanos);
                all.making_seconds += one.making_seconds;
                all.bytes += one.bytes;
                all.stored += one.stored;
            }
            Ok(all)
        })
    }

    /// One writer: makes the next batch, appends it, waits for the acknowledgement, and so on.
    fn write_one(&self) -> Result<Written, BenchError> {
        let mut shoppers = Shoppers::new(self.kind);
        let mut written = Written::default();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.batches {
                return Ok(written);
            }
            let cpu = measure::thread_cpu_seconds();
            let (batch, bytes) = shoppers.batch(number)?;
            written.making_seconds += measure::thread_cpu_seconds() - cpu;
            let begun = Instant::now();
            let appended = self.store.append(batch)?;
            written.nanos.push(begun.elapsed().as_nanos() as u64);
            written.bytes += bytes;
            written.stored += appended.stored;
        }
    }
}

/// The smallest of sorted figures that is not below `share` of them.
fn rank(sorted: &[u64], share: f64) -> u64 {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_nearest_ranks() {
        let sorted: Vec<u64> = (1..=200).collect();
        assert_eq!(rank(&sorted, 0.5), 100);
        assert_eq!(rank(&sorted, 0.99), 198);
        assert_eq!(rank(&sorted, 1.0), 200);
        assert_eq!(rank(&[], 0.5), 0);
    }

    #[test]
    fn all_that_is_streamed_is_stored() {
        let directory = tempfile::tempdir().unwrap();
        let store = new_store(directory.path(), Durability::None).unwrap();
        let kind = Kind {
            events: 2_000,
            rows: 100,
            late: 0.1,
            message_ids: true,
            seed: 1,
        };
        let stream = Stream {
            store,
            kind,
            batches: 20,
            next: AtomicU64::new(0),
        };
        let written = stream.write(3).unwrap();
        assert_eq!((written.stored, written.nanos.len()), (2_000, 20));
        assert_eq!(stream.store.snapshot().unwrap().events(), 2_000);
    }
}
