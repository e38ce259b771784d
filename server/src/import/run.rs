//! An import from beginning to end: each file is hashed, looked up in the ledger, surveyed, and
//! loaded, reading on one thread while the sink works on another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pugmark_engine::EventBatch;

use super::delimited::{self, Delimited, delimiter_of};
use super::error::ImportError;
use super::input::Input;
use super::ndjson::{self, Ndjson};
use super::options::{Format, ImportOptions};
use super::parquet::{self, ParquetSource};
use super::rejects::Rejects;
use super::sink::{Begun, EventSink, ImportTarget};
use super::source::{PropertySummary, RowSource, SourceBatch, summarize};

/// Batches that wait between reading and storing: enough to hide their unevenness.
const WAITING_BATCHES: usize = 2;

/// What an import is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Hashing and finding the types of columns.
    Surveying = 0,
    /// Storing.
    Loading = 1,
}

/// Where an import is, for somebody to look at from another thread.
#[derive(Debug, Default)]
pub struct Meter {
    position: Arc<AtomicU64>,
    total: AtomicU64,
    phase: AtomicU8,
    file: Mutex<PathBuf>,
}

impl Meter {
    /// The file being read.
    pub fn file(&self) -> PathBuf {
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What is being done with it.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Surveying,
            _ => Phase::Loading,
        }
    }

    /// How far, and of how much: bytes of the file while surveying, rows while loading.
    pub fn position(&self) -> (u64, u64) {
        (
            self.position.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        )
    }

    fn begin(&self, file: &Path, phase: Phase, total: u64, position: u64) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file.to_owned();
        self.position.store(position, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }
}

/// What became of one file.
#[derive(Clone, Debug, Default)]
pub struct FileReport {
    /// The file.
    pub file: PathBuf,
    /// True where the ledger says that it was imported before; nothing else is told then.
    pub imported_before: bool,
    /// Rows that an earlier, interrupted run dealt with.
    pub resumed_after: u64,
    /// Rows dealt with in this run.
    pub rows: u64,
    /// Events stored in this run.
    pub events: u64,
    /// Rows refused in this run, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Where they were written.
    pub rejects_file: Option<PathBuf>,
    /// The earliest and the latest time, in microseconds since 1970-01-01 UTC.
    pub times: Option<(i64, i64)>,
    /// Events by name; beyond 1 000 names the rest are under `(other)`.
    pub names: BTreeMap<String, u64>,
    /// Properties and their types.
    pub properties: BTreeMap<String, PropertySummary>,
    /// Values of columns typed by hand that were not of that type and stayed text.
    pub kept_as_text: BTreeMap<String, u64>,
}

/// Imports files in the order given; `-` is standard input.
///
/// # Errors
/// The first that stops the import. Files before it are imported; of its own file, what was
/// stored so far stays, and the same import begun again goes on from there.
pub fn import_files(
    files: &[PathBuf],
    options: &ImportOptions,
    target: &mut dyn ImportTarget,
    meter: &Meter,
) -> Result<Vec<FileReport>, ImportError> {
    let mut reports: Vec<FileReport> = Vec::with_capacity(files.len());
    for file in files {
        let shared =
            options.rejects.is_some() && reports.iter().any(|report| report.rejects_file.is_some());
        reports.push(import_file(file, options, target, meter, shared)?);
    }
    Ok(reports)
}

fn import_file(
    file: &Path,
    options: &ImportOptions,
    target: &mut dyn ImportTarget,
    meter: &Meter,
    append_rejects: bool,
) -> Result<FileReport, ImportError> {
    let input = Input::open(file)?;
    let format = match options.format {
        Some(format) => format,
        None => input.detect_format()?,
    };
    meter.begin(&input.name, Phase::Surveying, input.size(), 0);
    let mut identity = options.fingerprint(format);
    if file == Path::new("-") {
        // What a pipe gives is new each time, even where it looks the same.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        identity.push_str(&format!(" {} {}", now.as_nanos(), std::process::id()));
    }
    let key = input.ledger_key(&identity)?;
    check(&input, format, options)?;
    let (skip, sink) = match target.begin(key, options.message_id.is_some())? {
        Begun::Complete => {
            let file = input.name.clone();
            return Ok(FileReport {
                file,
                imported_before: true,
                ..FileReport::default()
            });
        }
        Begun::From { rows_done, sink } => (rows_done, sink),
    };
    let source = open_source(&input, format, options, meter, skip)?;
    let rejects_path = options
        .rejects
        .clone()
        .unwrap_or_else(|| default_rejects(&input.name));
    let append = append_rejects || skip > 0;
    let rejects = Rejects::new(&input.name, &rejects_path, append, options.strict);
    let report = FileReport {
        file: input.name.clone(),
        resumed_after: skip,
        ..FileReport::default()
    };
    let load = Load {
        input: &input,
        meter,
        report,
    };
    load.run(source, rejects, sink)
}

/// `<file>.rejects.csv` in the working directory.
fn default_rejects(input: &Path) -> PathBuf {
    let name = input.file_name().unwrap_or(input.as_os_str());
    let mut name = name.to_string_lossy().replace(' ', "_");
    name.push_str(".rejects.csv");
    PathBuf::from(name)
}

/// Refuses what can be refused at a glance, before a store is created for it.
fn check(input: &Input, format: Format, options: &ImportOptions) -> Result<(), ImportError> {
    let name = input.name.as_path();
    let delimiter = match format {
        Format::Parquet => return parquet::check(name, &input.seekable()?, options),
        Format::Ndjson => return Ok(()),
        Format::Csv => delimiter_of(options, b','),
        Format::Tsv => delimiter_of(options, b'\t'),
    };
    delimited::check(name, input.stream(&Arc::default())?, delimiter, options)
}

/// Surveys the input and opens it for loading.
fn open_source(
    input: &Input,
    format: Format,
    options: &ImportOptions,
    meter: &Meter,
    skip: u64,
) -> Result<Box<dyn RowSource>, ImportError> {
    let name = input.name.as_path();
    let stream = || input.stream(&meter.position);
    let load_stream = || input.stream(&Arc::default());
    let delimiter = match format {
        Format::Parquet => {
            let file = input.seekable()?;
            let survey = parquet::survey(name, &file, options)?;
            meter.begin(name, Phase::Loading, survey.rows, skip);
            return Ok(Box::new(ParquetSource::open(
                name, file, options, survey, skip,
            )?));
        }
        Format::Ndjson => {
            let survey = ndjson::survey(name, stream()?, options)?;
            meter.begin(name, Phase::Loading, survey.rows, skip);
            return Ok(Box::new(Ndjson::open(
                name,
                load_stream()?,
                options,
                survey,
                skip,
            )?));
        }
        Format::Csv => delimiter_of(options, b','),
        Format::Tsv => delimiter_of(options, b'\t'),
    };
    let survey = delimited::survey(name, stream()?, delimiter, options)?;
    meter.begin(name, Phase::Loading, survey.rows, skip);
    Ok(Box::new(Delimited::open(
        name,
        load_stream()?,
        delimiter,
        options,
        survey,
        skip,
    )?))
}

/// One file being loaded.
struct Load<'a> {
    input: &'a Input,
    meter: &'a Meter,
    report: FileReport,
}

/// What the reading thread leaves behind.
type Read = Result<(Rejects, BTreeMap<String, u64>), ImportError>;

impl Load<'_> {
    fn run(
        mut self,
        source: Box<dyn RowSource>,
        rejects: Rejects,
        mut sink: Box<dyn EventSink + '_>,
    ) -> Result<FileReport, ImportError> {
        let (sender, batches) = sync_channel(WAITING_BATCHES);
        let (stored, read) = std::thread::scope(|scope| {
            let reading = scope.spawn(move || read_all(source, rejects, &sender));
            let stored = self.store_all(batches, sink.as_mut());
            let problem = "the reader failed on these bytes";
            let path = self.input.name.clone();
            let read = reading
                .join()
                .unwrap_or(Err(ImportError::Contents { path, problem }));
            (stored, read)
        });
        // A sink that fails ends the reading too, so its error comes first.
        let rows_done = stored?;
        let (rejects, kept_as_text) = read?;
        self.input.check_unchanged()?;
        sink.finish(rows_done)?;
        let mut report = self.report;
        report.rows = rows_done - report.resumed_after;
        report.rejected = rejects.counts().clone();
        report.rejects_file = rejects.file().map(Path::to_owned);
        report.kept_as_text = kept_as_text;
        Ok(report)
    }

    /// Stores what comes until it ends; gives the rows dealt with.
    fn store_all(
        &mut self,
        batches: Receiver<SourceBatch>,
        sink: &mut dyn EventSink,
    ) -> Result<u64, ImportError> {
        let mut done = self.report.resumed_after;
        for SourceBatch { batch, rows_done } in batches {
            self.note(&batch);
            if !batch.is_empty() {
                sink.append(batch, rows_done)?;
            }
            done = rows_done;
            self.meter.position.store(rows_done, Ordering::Relaxed);
        }
        Ok(done)
    }

    fn note(&mut self, batch: &EventBatch) {
        let report = &mut self.report;
        report.events += batch.len() as u64;
        for &time in batch.times() {
            let (first, last) = report.times.get_or_insert((time, time));
            (*first, *last) = ((*first).min(time), (*last).max(time));
        }
        let events = batch.events();
        let mut counts = vec![0u64; events.values.len()];
        events
            .codes
            .iter()
            .for_each(|&code| counts[code as usize] += 1);
        for (name, count) in events
            .values
            .iter()
            .zip(counts)
            .filter(|&(_, count)| count > 0)
        {
            let known = report.names.contains_key(name);
            let name = if known || report.names.len() < 1_000 {
                name
            } else {
                "(other)"
            };
            *report.names.entry(name.to_owned()).or_default() += count;
        }
        summarize(batch, &mut report.properties);
    }
}

fn read_all(
    mut source: Box<dyn RowSource>,
    mut rejects: Rejects,
    batches: &SyncSender<SourceBatch>,
) -> Read {
    while let Some(batch) = source.next_batch(&mut rejects)? {
        // Refused rows reach their file before the ledger says that they are dealt with.
        rejects.flush()?;
        if batches.send(batch).is_err() {
            break;
        }
    }
    rejects.flush()?;
    Ok((rejects, source.kept_as_text()))
}
