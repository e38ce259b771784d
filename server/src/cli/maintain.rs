//! `pugmark stats`, `pugmark verify`, `pugmark compact`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use pugmark_engine::time::format_rfc3339;
use pugmark_engine::{Options, Stats, Store};

use super::progress::say;
use super::{CliError, grouped};

/// Say what a store holds.
#[derive(Debug, Args)]
#[command(after_help = "It may be asked while another process writes to the store.")]
pub(super) struct StatsArgs {
    /// The store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
}

/// Read everything and check every checksum.
#[derive(Debug, Args)]
#[command(after_help = "Nothing is changed; the first damage found is told with file and offset.")]
pub(super) struct VerifyArgs {
    /// The store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
}

/// Merge what can be merged, so that questions meet few files.
#[derive(Debug, Args)]
#[command(after_help = "The store does this by itself while it is open; this does it all at once.")]
pub(super) struct CompactArgs {
    /// The store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
}

impl StatsArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let store = Store::builder(&self.store).read_only().open()?;
        let text = figures(&store.stats()?);
        let mut out = std::io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|source| CliError::Output {
            path: PathBuf::from("standard output"),
            source,
        })
    }
}

impl VerifyArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let store = Store::builder(&self.store).read_only().open()?;
        let report = store.verify()?;
        say(&format!(
            "{} files, {} bytes, {} rows, {} ids: all is well",
            grouped(report.files),
            grouped(report.bytes),
            grouped(report.rows),
            grouped(report.ids)
        ));
        Ok(())
    }
}

impl CompactArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        // It would begin to merge by itself, on one thread.
        let options = Options {
            background_compaction: false,
            ..Options::default()
        };
        let store = Store::builder(&self.store).options(options);
        let store = store.existing().open()?;
        let before = store.stats()?;
        store.compact()?;
        let after = store.stats()?;
        say(&format!(
            "{} segments of {} bytes are now {} of {}",
            grouped(before.segments),
            grouped(before.segment_bytes),
            grouped(after.segments),
            grouped(after.segment_bytes)
        ));
        Ok(store.close()?)
    }
}

/// The figures of a store, a line each.
fn figures(stats: &Stats) -> String {
    let mut lines = vec![
        ("events".to_owned(), grouped(stats.events)),
        ("users".to_owned(), grouped(stats.users)),
    ];
    if let Some((first, last)) = stats.times {
        lines.push(("first".to_owned(), format_rfc3339(first)));
        lines.push(("last".to_owned(), format_rfc3339(last)));
    }
    let bytes = stats.segment_bytes + stats.id_bytes + stats.message_id_bytes;
    for (name, figure) in [
        ("trait updates", stats.trait_updates),
        ("segments", stats.segments),
        ("bytes of segments", stats.segment_bytes),
        ("bytes of ids", stats.id_bytes),
        ("bytes of message ids", stats.message_id_bytes),
        ("events in memory", stats.events_in_memory),
    ] {
        lines.push((name.to_owned(), grouped(figure)));
    }
    if stats.events > stats.events_in_memory {
        let per_event = bytes as f64 / (stats.events - stats.events_in_memory) as f64;
        lines.push(("bytes an event".to_owned(), format!("{per_event:.2}")));
    }
    let mut names: Vec<(&String, &u64)> = stats.events_by_name.iter().collect();
    names.sort_by_key(|&(name, count)| (std::cmp::Reverse(*count), name));
    let names = names
        .into_iter()
        .map(|(name, count)| (format!("event {name}"), grouped(*count)));
    lines.extend(names);
    let width = lines
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    lines
        .iter()
        .map(|(name, figure)| format!("{name:<width$}  {figure:>15}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_lines() {
        let mut stats = Stats::default();
        stats.events = 2_000;
        stats.segment_bytes = 9_000;
        stats.events_by_name = [("view".to_owned(), 1_500), ("cart".to_owned(), 500)].into();
        let text = figures(&stats);
        assert!(
            text.contains("events                          2 000\n"),
            "{text}"
        );
        assert!(
            text.contains("bytes an event                   4.50\n"),
            "{text}"
        );
        let (view, cart) = (
            text.find("event view").unwrap(),
            text.find("event cart").unwrap(),
        );
        assert!(view < cart);
    }
}
