//! `pugmark import`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};
use pugmark_engine::Store;
use pugmark_engine::time::format_rfc3339;

use super::progress::{Watch, say};
use super::{CliError, grouped};
use crate::import::{
    ColumnType, Delimiter, DryRun, EventNaming, EventRule, FileReport, Format, ImportOptions,
    Meter, OptionError, TimeFormat, TimeUnit, import_files, parse_column_type,
};
use crate::load::StoreTarget;

/// Import events from CSV, TSV, JSON lines or Parquet files.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Import events from CSV, TSV, JSON lines or Parquet files, plain or compressed (gzip, zstd, bzip2).

Three columns say who, when and what; all others become properties. In CSV nothing is typed, so a \
column becomes numbers only where every value of it prints back identically (`007` stays text); an \
empty cell is a missing property. Nested JSON is flattened with dots, arrays are multi-valued.

Rows that cannot be taken (no user, a broken time, too few fields …) are counted and written to a \
file beside their reasons. Importing the same file again with the same options changes nothing; an \
interrupted import goes on where it was.",
    after_long_help = "\
Examples:
  A shop's log:
    pugmark import --store shop.pug --user user_id --time event_time --event event_type 2019-*.csv.gz
  One kind of event, told apart by a rule: invoices that begin with C are cancellations:
    pugmark import --store retail.pug --user CustomerID --time InvoiceDate \\
        --event-name purchase --event-if 'InvoiceNo^=C:cancel' online-retail.csv.gz
  A name of two columns, `A_SUBMITTED|COMPLETE`:
    pugmark import --store loans.pug --user case_id --time timestamp --event activity,lifecycle bpic2012.csv
  Columns between blanks, dates like 19970101:
    pugmark import --store cdnow.pug --user customer_id --time date --event-name purchase \\
        --delimiter blanks --time-format %Y%m%d cdnow.txt
  Sessions with an array of events each:
    pugmark import --store otto.pug --user session --time ts --event type --explode events otto.jsonl
  From another program:
    zcat *.gz | pugmark import --store s.pug --format ndjson --user u.id --time ts --event name -"
)]
pub(super) struct ImportArgs {
    /// The store; it is created where there is none
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    store: Option<PathBuf>,
    /// The column of user ids
    #[arg(long, value_name = "COLUMN")]
    user: String,
    /// The column of times
    #[arg(long, value_name = "COLUMN")]
    time: String,
    /// The column of event names; several are joined with `|`
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    #[arg(required_unless_present = "event_name", conflicts_with = "event_name")]
    event: Vec<String>,
    /// The name of every event
    #[arg(long, value_name = "NAME")]
    event_name: Option<String>,
    /// Another name for events with a certain field
    ///
    /// COLUMN OP TEXT:NAME without blanks, where OP is one of = (is), != (is not), ^= (starts
    /// with), $= (ends with), *= (contains). May be given several times: the first that holds
    /// names the event, --event or --event-name all others. An empty field is the empty text:
    /// `coupon!=:discounted` names events with any coupon.
    #[arg(long, value_name = "RULE")]
    event_if: Vec<EventRule>,
    /// The column of message ids: the same id again within the store's window is not stored again
    #[arg(long, value_name = "COLUMN")]
    message_id: Option<String>,
    /// What the files are; by default their names or first bytes tell
    #[arg(long)]
    format: Option<FormatArg>,
    /// The unit of numeric times; by default the size of the column's numbers tells
    #[arg(long, value_name = "UNIT")]
    time_unit: Option<UnitArg>,
    /// The layout of times, as strptime has it: `%d.%m.%Y %H:%M`; UTC unless it has `%z`
    #[arg(long, value_name = "LAYOUT", value_parser = TimeFormat::new)]
    time_format: Option<TimeFormat>,
    /// What lies between fields: one character, `tab` or `blanks` (any number of them)
    #[arg(long, value_name = "CHARACTER")]
    delimiter: Option<Delimiter>,
    /// Take `"` as a character like any other
    #[arg(long)]
    no_quotes: bool,
    /// The names of the columns, for files that do not begin with them
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// The type of a column by hand: text, i64, f64, bool or timestamp
    #[arg(long = "type", value_name = "COLUMN=TYPE", value_parser = column_type)]
    types: Vec<(String, ColumnType)>,
    /// Columns to leave out
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    skip: Vec<String>,
    /// The array (JSON) whose elements are the events; they inherit the fields around it
    #[arg(long, value_name = "KEY")]
    explode: Option<String>,
    /// Stop at the first row that cannot be taken
    #[arg(long)]
    strict: bool,
    /// Where rows that cannot be taken are written [default: <file>.rejects.csv]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Read and report, but store nothing
    #[arg(long)]
    dry_run: bool,
    /// Files, in the order in which their events arrived; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    Csv,
    Tsv,
    Ndjson,
    Parquet,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UnitArg {
    S,
    Ms,
    Us,
}

fn column_type(text: &str) -> Result<(String, ColumnType), OptionError> {
    parse_column_type(text)
}

impl ImportArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (store, dry_run, files) = (self.store.clone(), self.dry_run, self.files.clone());
        let options = self.options();
        let begun = Instant::now();
        let meter = Arc::new(Meter::default());
        let watch = Watch::new(&meter);
        let mut closing = Vec::new();
        let reports = match store {
            Some(path) if !dry_run => {
                let mut target = StoreTarget::new(Store::builder(&path));
                let reports = import_files(&files, &options, &mut target, &meter)?;
                if target.duplicates() > 0 {
                    let duplicates = grouped(target.duplicates());
                    closing.push(format!(
                        "{duplicates} events had arrived before (same message id)"
                    ));
                }
                if let Some(store) = target.store() {
                    let stats = store.stats()?;
                    let (events, users) = (grouped(stats.events), grouped(stats.users));
                    closing.push(format!(
                        "{} holds {events} events of {users} users",
                        path.display()
                    ));
                    store.clone().close()?;
                }
                reports
            }
            _ => {
                let mut target = DryRun::default();
                let reports = import_files(&files, &options, &mut target, &meter)?;
                closing.push(format!(
                    "{} users; nothing was stored",
                    grouped(target.users())
                ));
                reports
            }
        };
        drop(watch);
        reports.iter().flat_map(summary).for_each(|line| say(&line));
        let (rows, seconds) = (
            reports.iter().map(|report| report.rows).sum::<u64>(),
            begun.elapsed().as_secs_f64(),
        );
        let rate = (rows as f64 / seconds.max(0.001)) as u64;
        say(&format!(
            "{} rows in {seconds:.1} s, {} a second",
            grouped(rows),
            grouped(rate)
        ));
        closing.iter().for_each(|line| say(line));
        Ok(())
    }

    fn options(self) -> ImportOptions {
        ImportOptions {
            format: self.format.map(|format| match format {
                FormatArg::Csv => Format::Csv,
                FormatArg::Tsv => Format::Tsv,
                FormatArg::Ndjson => Format::Ndjson,
                FormatArg::Parquet => Format::Parquet,
            }),
            user: self.user,
            time: self.time,
            naming: EventNaming {
                rules: self.event_if,
                columns: self.event,
                fixed: self.event_name,
            },
            message_id: self.message_id,
            time_unit: self.time_unit.map(|unit| match unit {
                UnitArg::S => TimeUnit::Seconds,
                UnitArg::Ms => TimeUnit::Millis,
                UnitArg::Us => TimeUnit::Micros,
            }),
            time_format: self.time_format,
            delimiter: self.delimiter,
            quotes: !self.no_quotes,
            columns: self.columns,
            types: self.types,
            skip: self.skip,
            explode: self.explode,
            strict: self.strict,
            rejects: self.rejects,
        }
    }
}

/// What became of a file, in lines.
fn summary(report: &FileReport) -> Vec<String> {
    let name = report.file.display();
    if report.imported_before {
        return vec![format!("{name}: imported before, nothing to do")];
    }
    let mut lines = Vec::new();
    let resumed = match report.resumed_after {
        0 => String::new(),
        rows => format!(" (after {} rows of an earlier run)", grouped(rows)),
    };
    let (rows, events) = (grouped(report.rows), grouped(report.events));
    lines.push(format!("{name}: {rows} rows, {events} events{resumed}"));
    if let Some((first, last)) = report.times {
        lines.push(format!(
            "  from {} to {}",
            format_rfc3339(first),
            format_rfc3339(last)
        ));
        if let Some(hint) = dates_taken_for_seconds(first, last) {
            lines.push(format!("  {hint}"));
        }
    }
    let mut names: Vec<(&String, &u64)> = report.names.iter().collect();
    names.sort_by_key(|&(name, count)| (std::cmp::Reverse(*count), name));
    for (name, count) in names.iter().take(20) {
        lines.push(format!("  {:>15}  {name}", grouped(**count)));
    }
    if names.len() > 20 {
        lines.push(format!(
            "  {:>15}  more event names",
            grouped(names.len() as u64 - 20)
        ));
    }
    lines.extend(properties(report));
    for (reason, count) in &report.rejected {
        lines.push(format!("  {} rows: {reason}", grouped(*count)));
    }
    if let Some(path) = &report.rejects_file {
        lines.push(format!("  these rows are in {}", path.display()));
    }
    lines
}

fn properties(report: &FileReport) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, summary) in report.properties.iter().take(100) {
        let kinds: Vec<&str> = summary.values.keys().copied().collect();
        let count = grouped(summary.values.values().sum());
        lines.push(format!("  {:<9} {name}: {count} values", kinds.join("/")));
    }
    if report.properties.len() > 100 {
        lines.push(format!(
            "  and {} more properties",
            report.properties.len() - 100
        ));
    }
    for (name, count) in &report.kept_as_text {
        lines.push(format!(
            "  {} values of {name} are not of its type and stay text",
            grouped(*count)
        ));
    }
    lines
}

/// Dates like 19970101, read as seconds, are days in August 1970.
fn dates_taken_for_seconds(first: i64, last: i64) -> Option<&'static str> {
    let second = 1_000_000;
    let like_dates = first >= 19_000_101 * second && last <= 21_001_231 * second;
    like_dates.then_some("are the times dates like 19970101? then give --time-format %Y%m%d")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_as_seconds_are_noticed() {
        let second = 1_000_000;
        assert!(dates_taken_for_seconds(19_970_101 * second, 19_980_630 * second).is_some());
        assert!(dates_taken_for_seconds(1_569_888_000 * second, 1_569_888_001 * second).is_none());
    }

    #[test]
    fn a_summary_tells_everything() {
        let report = FileReport {
            file: PathBuf::from("a.csv"),
            rows: 541_909,
            events: 406_829,
            rejected: [("no user id", 135_080)].into(),
            rejects_file: Some(PathBuf::from("a.csv.rejects.csv")),
            times: Some((0, 1_569_888_000_000_000)),
            names: [("purchase".to_owned(), 406_829)].into(),
            kept_as_text: [("n".to_owned(), 3)].into(),
            ..FileReport::default()
        };
        assert_eq!(
            summary(&report),
            [
                "a.csv: 541 909 rows, 406 829 events",
                "  from 1970-01-01T00:00:00Z to 2019-10-01T00:00:00Z",
                "          406 829  purchase",
                "  3 values of n are not of its type and stay text",
                "  135 080 rows: no user id",
                "  these rows are in a.csv.rejects.csv",
            ]
        );
    }
}
