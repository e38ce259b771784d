//! Rows that could not be taken: counted by reason and written to a file of their own.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use super::error::{ImportError, Place, Problem};

/// Collects the refused rows of one input.
#[derive(Debug)]
pub(crate) struct Rejects {
    input: PathBuf,
    path: PathBuf,
    append: bool,
    strict: bool,
    writer: Option<csv::Writer<File>>,
    counts: BTreeMap<&'static str, u64>,
}

impl Rejects {
    /// For the rows of `input`, written to `path` once there is one; with `append`, after what is
    /// there already.
    pub(crate) fn new(input: &Path, path: &Path, append: bool, strict: bool) -> Self {
        Self {
            input: input.to_owned(),
            path: path.to_owned(),
            append,
            strict,
            writer: None,
            counts: BTreeMap::new(),
        }
    }

    /// Notes a refused row.
    ///
    /// # Errors
    /// Where rows must not be refused, or the file cannot be written.
    pub(crate) fn reject(
        &mut self,
        place: Place,
        problem: &Problem,
        row: &[u8],
    ) -> Result<(), ImportError> {
        if self.strict {
            let (path, problem) = (self.input.clone(), problem.clone());
            return Err(ImportError::Strict {
                path,
                place,
                problem,
            });
        }
        *self.counts.entry(problem.kind()).or_default() += 1;
        let (Place::Line(number) | Place::Row(number)) = place;
        let (number, problem) = (number.to_string(), problem.to_string());
        let input = self.input.to_string_lossy().into_owned();
        let path = self.path.clone();
        let writer = self.writer()?;
        writer
            .write_record([input.as_bytes(), number.as_bytes(), problem.as_bytes(), row])
            .map_err(|error| ImportError::io("write", &path, error.into()))
    }

    fn writer(&mut self) -> Result<&mut csv::Writer<File>, ImportError> {
        if self.writer.is_none() {
            let fail = |error| ImportError::io("write", &self.path, error);
            let mut open = OpenOptions::new();
            open.create(true)
                .write(true)
                .append(self.append)
                .truncate(!self.append);
            let file = open.open(&self.path).map_err(fail)?;
            let empty = file.metadata().map_err(fail)?.len() == 0;
            let mut writer = csv::Writer::from_writer(file);
            if empty {
                let names = ["file", "line", "reason", "row"];
                writer
                    .write_record(names)
                    .map_err(|error| fail(error.into()))?;
            }
            self.writer = Some(writer);
        }
        match &mut self.writer {
            Some(writer) => Ok(writer),
            None => Err(ImportError::io(
                "write",
                &self.path,
                std::io::ErrorKind::Other.into(),
            )),
        }
    }

    /// Writes out what is buffered.
    pub(crate) fn flush(&mut self) -> Result<(), ImportError> {
        match &mut self.writer {
            Some(writer) => writer
                .flush()
                .map_err(|error| ImportError::io("write", &self.path, error)),
            None => Ok(()),
        }
    }

    /// Refused rows by the kind of their problem.
    pub(crate) fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// The file, if any row was written to it.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.writer.as_ref().map(|_| self.path.as_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r.csv");
        let write = |append| {
            let mut rejects = Rejects::new(Path::new("in.csv"), &path, append, false);
            rejects
                .reject(Place::Line(3), &Problem::NoUser, b"a,\"b\"\xFF")
                .unwrap();
            rejects.flush().unwrap();
            assert_eq!(rejects.counts()["no user id"], 1);
            assert_eq!(rejects.file(), Some(path.as_path()));
        };
        write(false);
        write(true);
        let line = b"in.csv,3,no user id,\"a,\"\"b\"\"\xFF\"\n";
        let expected = [b"file,line,reason,row\n".as_slice(), line, line].concat();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        write(false);
        let expected = [b"file,line,reason,row\n".as_slice(), line].concat();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn strict_stops_at_the_first() {
        let mut rejects = Rejects::new(Path::new("in.csv"), Path::new("/nowhere/r"), false, true);
        let error = rejects
            .reject(Place::Line(3), &Problem::NoUser, b"")
            .unwrap_err();
        assert_eq!(error.to_string(), "in.csv, line 3: no user id");
    }
}
