//! Whole files through every reader into a collecting sink.

mod answers;
mod columnar;
mod delimited;
mod json;
mod laws;
mod real;
#[cfg(feature = "sql")]
mod statements;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pugmark_engine::Value;
use pugmark_engine::time::format_rfc3339;

use super::{Collector, FileReport, ImportError, ImportOptions, Meter, import_files};

/// A directory for a test's files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// `user`, `time`, `event`, with rejects beside the files.
fn options(files: &Files) -> ImportOptions {
    let mut options = ImportOptions::new("user", "time", "event");
    options.rejects = Some(files.path("rejects.csv"));
    options
}

fn import(
    paths: &[&Path],
    options: &ImportOptions,
    collector: &mut Collector,
) -> Result<Vec<FileReport>, ImportError> {
    let paths: Vec<PathBuf> = paths.iter().map(|&path| path.to_owned()).collect();
    import_files(&paths, options, collector, &Meter::default())
}

/// Imports one file that must succeed, and gives its events as text beside the report.
fn import_one(path: &Path, options: &ImportOptions) -> (Vec<String>, FileReport) {
    let mut collector = Collector::default();
    let mut reports = import(&[path], options, &mut collector).unwrap();
    (events(&collector), reports.pop().unwrap())
}

/// Each event as `user time event {property=value …}`, in order.
fn events(collector: &Collector) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in &collector.batches {
        for row in 0..batch.len() {
            let mut line = format!(
                "{} {} {}",
                batch.users().key(row),
                format_rfc3339(batch.times()[row]),
                batch.events().get(row)
            );
            if let Some(ids) = batch.message_ids() {
                line.push_str(&format!(" #{}", ids.get(row)));
            }
            for property in batch.properties() {
                if let Some(value) = property.column.value(row as u32) {
                    line.push_str(&format!(" {}={}", property.name, show(&value)));
                }
            }
            lines.push(line);
        }
    }
    lines
}

fn show(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        Value::I64(value) => value.to_string(),
        Value::F64(value) => format!("{value:?}"),
        Value::Bool(value) => value.to_string(),
        Value::Timestamp(micros) => format_rfc3339(*micros),
        Value::Null => "null".to_owned(),
        Value::List(values) => {
            format!(
                "[{}]",
                values.iter().map(show).collect::<Vec<_>>().join(" ")
            )
        }
    }
}

fn rejected(report: &FileReport) -> Vec<(&str, u64)> {
    report
        .rejected
        .iter()
        .map(|(reason, count)| (*reason, *count))
        .collect()
}

fn types(report: &FileReport) -> BTreeMap<&str, Vec<(&str, u64)>> {
    let properties = report.properties.iter();
    let of = |summary: &super::PropertySummary| {
        summary
            .values
            .iter()
            .map(|(kind, count)| (*kind, *count))
            .collect()
    };
    properties
        .map(|(name, summary)| (name.as_str(), of(summary)))
        .collect()
}
