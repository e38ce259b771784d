//! Files as streams of plain bytes: compression, byte-order marks, standard input.
//!
//! Every file is read more than once (to hash it, to find its types, to load it), so standard
//! input and pipes are spooled to a temporary file first.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tempfile::NamedTempFile;
use xxhash_rust::xxh3::Xxh3;

use super::error::ImportError;
use super::options::Format;

const BUFFER_BYTES: usize = 256 << 10;
/// Bytes of a file that are hashed as one piece.
const HASHED_BYTES: u64 = 16 << 20;
/// Longest row of a text file; a longer one is an unclosed quote or no text at all.
pub(crate) const MAX_ROW_BYTES: u64 = 64 << 20;

/// A stream of plain bytes.
pub(crate) type Stream = Box<dyn BufRead + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
}

/// A file to import, or standard input or a pipe spooled to one.
#[derive(Debug)]
pub(crate) struct Input {
    /// What messages call it.
    pub(crate) name: PathBuf,
    path: PathBuf,
    compression: Compression,
    size: u64,
    modified: Option<SystemTime>,
    _spool: Option<NamedTempFile>,
}

impl Input {
    /// Opens `path`; `-` is standard input.
    pub(crate) fn open(path: &Path) -> Result<Self, ImportError> {
        if path == Path::new("-") {
            let name = PathBuf::from("standard input");
            return Self::spooled(name, &mut io::stdin().lock());
        }
        Self::of_file(path.to_owned(), path.to_owned(), None)
    }

    /// The stream's bytes in a temporary file.
    fn spooled(name: PathBuf, stream: &mut dyn Read) -> Result<Self, ImportError> {
        let spool = NamedTempFile::new();
        let mut spool = spool.map_err(|error| ImportError::io("spool", &name, error))?;
        io::copy(stream, &mut spool).map_err(|error| ImportError::io("spool", &name, error))?;
        spool
            .flush()
            .map_err(|error| ImportError::io("spool", &name, error))?;
        Self::of_file(name, spool.path().to_owned(), Some(spool))
    }

    fn of_file(
        name: PathBuf,
        path: PathBuf,
        spool: Option<NamedTempFile>,
    ) -> Result<Self, ImportError> {
        let fail = |error| ImportError::io("read", &name, error);
        let mut file = File::open(&path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if metadata.is_dir() {
            return Err(fail(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        if !metadata.is_file() {
            // A pipe by name, as a shell's `<(…)`, can be read but once.
            return Self::spooled(path, &mut file);
        }
        let mut magic = Vec::new();
        (&mut file).take(4).read_to_end(&mut magic).map_err(fail)?;
        let compression = match magic.as_slice() {
            [0x1F, 0x8B, ..] => Compression::Gzip,
            [0x28, 0xB5, 0x2F, 0xFD] => Compression::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9'] => Compression::Bzip2,
            _ => Compression::None,
        };
        let (size, modified) = (metadata.len(), metadata.modified().ok());
        Ok(Self {
            name,
            path,
            compression,
            size,
            modified,
            _spool: spool,
        })
    }

    /// Bytes of the file as it lies there.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// A hash of the file's bytes and of `options`.
    pub(crate) fn ledger_key(&self, options: &str) -> Result<u128, ImportError> {
        let pieces = self.size.div_ceil(HASHED_BYTES);
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = (threads as u64).min(pieces).max(1);
        let digests = std::thread::scope(|scope| {
            let hashing =
                |first| move || self.hash_pieces((first..pieces).step_by(threads as usize));
            let workers: Vec<_> = (0..threads)
                .map(|first| scope.spawn(hashing(first)))
                .collect();
            let digests = workers.into_iter().map(|worker| {
                let panicked = || Err(std::io::Error::other("hashing failed"));
                worker.join().unwrap_or_else(|_| panicked())
            });
            digests.collect::<Result<Vec<_>, _>>()
        });
        let digests = digests.map_err(|error| ImportError::io("read", &self.name, error))?;
        let mut hash = Xxh3::new();
        for piece in 0..pieces {
            let digest = digests[(piece % threads) as usize][(piece / threads) as usize];
            hash.update(&digest.to_le_bytes());
        }
        hash.update(&self.size.to_le_bytes());
        hash.update(options.as_bytes());
        Ok(hash.digest128())
    }

    /// The digests of pieces of the file, by their numbers.
    fn hash_pieces(&self, pieces: impl Iterator<Item = u64>) -> std::io::Result<Vec<u128>> {
        let mut file = File::open(&self.path)?;
        let mut buffer = vec![0; 1 << 18];
        let mut digests = Vec::new();
        for piece in pieces {
            file.seek(SeekFrom::Start(piece * HASHED_BYTES))?;
            let mut hash = Xxh3::new();
            let mut rest = (&mut file).take(HASHED_BYTES);
            loop {
                let count = rest.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                hash.update(&buffer[..count]);
            }
            digests.push(hash.digest128());
        }
        Ok(digests)
    }

    /// Whether the file is still what it was when it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), ImportError> {
        let metadata = std::fs::metadata(&self.path);
        let metadata = metadata.map_err(|error| ImportError::io("read", &self.name, error))?;
        if metadata.len() != self.size || metadata.modified().ok() != self.modified {
            let path = self.name.clone();
            return Err(ImportError::Changed { path });
        }
        Ok(())
    }

    /// The plain bytes from the beginning, without a byte-order mark. `position` follows the
    /// reading, in bytes of the file as it lies there.
    pub(crate) fn stream(&self, position: &Arc<AtomicU64>) -> Result<Stream, ImportError> {
        let fail = |error| ImportError::io("read", &self.name, error);
        position.store(0, Ordering::Relaxed);
        let file = File::open(&self.path).map_err(fail)?;
        let position = Arc::clone(position);
        let raw = BufReader::with_capacity(BUFFER_BYTES, Counted { file, position });
        let plain: Box<dyn Read + Send> = match self.compression {
            Compression::None => Box::new(raw),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
            Compression::Zstd => {
                Box::new(zstd::stream::read::Decoder::with_buffer(raw).map_err(fail)?)
            }
            Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(raw)),
        };
        let mut plain = BufReader::with_capacity(BUFFER_BYTES, plain);
        let mut head = Vec::with_capacity(3);
        (&mut plain).take(3).read_to_end(&mut head).map_err(fail)?;
        match head.as_slice() {
            [0xEF, 0xBB, 0xBF] => head.clear(),
            [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => {
                let problem = "is UTF-16; convert it to UTF-8 first, as with `iconv -f UTF-16`";
                return Err(ImportError::Contents {
                    path: self.name.clone(),
                    problem,
                });
            }
            _ => {}
        }
        Ok(Box::new(io::Cursor::new(head).chain(plain)))
    }

    /// The file, for formats that are read back and forth; a compressed one is unpacked first.
    pub(crate) fn seekable(&self) -> Result<File, ImportError> {
        let fail = |error| ImportError::io("read", &self.name, error);
        if self.compression == Compression::None {
            return File::open(&self.path).map_err(fail);
        }
        let mut plain = tempfile::tempfile().map_err(fail)?;
        io::copy(&mut self.stream(&Arc::default())?, &mut plain).map_err(fail)?;
        plain.rewind().map_err(fail)?;
        Ok(plain)
    }

    /// The format, by the file's name, else by its first bytes.
    pub(crate) fn detect_format(&self) -> Result<Format, ImportError> {
        let name = self.name.to_string_lossy().to_lowercase();
        let plain = [".gz", ".zst", ".bz2"]
            .iter()
            .find_map(|ending| name.strip_suffix(ending));
        let plain = plain.unwrap_or(&name);
        match plain.rsplit_once('.').map(|(_, extension)| extension) {
            Some("csv") => return Ok(Format::Csv),
            Some("tsv" | "tab") => return Ok(Format::Tsv),
            Some("json" | "jsonl" | "ndjson") => return Ok(Format::Ndjson),
            Some("parquet" | "pq") => return Ok(Format::Parquet),
            _ => {}
        }
        let mut head = Vec::new();
        let stream = self.stream(&Arc::default())?;
        let read = stream.take(64 << 10).read_to_end(&mut head);
        read.map_err(|error| ImportError::io("read", &self.name, error))?;
        Ok(sniff(&head))
    }
}

fn sniff(head: &[u8]) -> Format {
    if head.starts_with(b"PAR1") {
        return Format::Parquet;
    }
    if matches!(head.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return Format::Ndjson;
    }
    let first_line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if first_line.contains(&b'\t') && !first_line.contains(&b',') {
        return Format::Tsv;
    }
    Format::Csv
}

/// Counts the bytes read from a file.
struct Counted {
    file: File,
    position: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.position.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// What came of reading a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line, without its end.
    Read,
    /// A line over [`MAX_ROW_BYTES`]; it was passed over, its beginning kept.
    TooLong,
    /// The end of the stream.
    End,
}

/// Reads a line of bounded length into `line`, without its `\n` or `\r\n`.
pub(crate) fn read_line(stream: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let count = stream.take(MAX_ROW_BYTES).read_until(b'\n', line)?;
    if count == 0 {
        return Ok(Line::End);
    }
    if line.last() != Some(&b'\n') && count as u64 == MAX_ROW_BYTES {
        line.truncate(1_024);
        pass_over_line(stream)?;
        return Ok(Line::TooLong);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    Ok(Line::Read)
}

fn pass_over_line(stream: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let buffer = stream.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        match buffer.iter().position(|&byte| byte == b'\n') {
            Some(at) => {
                stream.consume(at + 1);
                return Ok(());
            }
            None => {
                let count = buffer.len();
                stream.consume(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input_of(name: &str, bytes: &[u8]) -> Input {
        Input::spooled(PathBuf::from(name), &mut &bytes[..]).unwrap()
    }

    fn plain(input: &Input) -> Result<Vec<u8>, io::Error> {
        let mut bytes = Vec::new();
        input
            .stream(&Arc::default())
            .unwrap()
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn packed() -> [Vec<u8>; 3] {
        let text = b"a,b\n1,2\n";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(text).unwrap();
        let zstd = zstd::stream::encode_all(&text[..], 1).unwrap();
        [gzip.finish().unwrap(), bzip2.finish().unwrap(), zstd]
    }

    #[test]
    fn packed_files_are_unpacked_several_members_too() {
        for packed in packed() {
            assert_eq!(plain(&input_of("x", &packed)).unwrap(), b"a,b\n1,2\n");
            let twice = [packed.as_slice(), &packed].concat();
            assert_eq!(
                plain(&input_of("x", &twice)).unwrap(),
                b"a,b\n1,2\na,b\n1,2\n"
            );
            let torn = &packed[..packed.len() - 3];
            assert!(
                plain(&input_of("x", torn)).is_err(),
                "a torn file is an error"
            );
            let mut file = input_of("x", &packed).seekable().unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "a,b\n1,2\n");
        }
    }

    #[test]
    fn byte_order_marks() {
        assert_eq!(plain(&input_of("x", b"\xEF\xBB\xBFa")).unwrap(), b"a");
        assert_eq!(plain(&input_of("x", b"a")).unwrap(), b"a");
        assert_eq!(plain(&input_of("x", b"")).unwrap(), b"");
        assert!(
            input_of("x", b"\xFF\xFEa\0")
                .stream(&Arc::default())
                .is_err()
        );
    }

    #[test]
    fn formats() {
        for (name, bytes, format) in [
            ("a.csv.gz", "{", Format::Csv),
            ("a.JSONL", "", Format::Ndjson),
            ("a.pq", "", Format::Parquet),
            ("a.tsv.zst", "", Format::Tsv),
            ("a.txt", "a\tb\n1,\t2", Format::Tsv),
            ("a", "a,b\tc", Format::Csv),
            ("a", "  {\"a\":1}", Format::Ndjson),
            ("a", "PAR1xxxx", Format::Parquet),
        ] {
            assert_eq!(
                input_of(name, bytes.as_bytes()).detect_format().unwrap(),
                format,
                "{name}"
            );
        }
    }

    #[test]
    fn keys_tell_bytes_and_options_apart() {
        let key = |bytes: &[u8], options| input_of("x", bytes).ledger_key(options).unwrap();
        assert_eq!(key(b"abc", "o"), key(b"abc", "o"));
        assert_ne!(key(b"abc", "o"), key(b"abd", "o"));
        assert_ne!(key(b"abc", "o"), key(b"abc", "p"));
        assert_ne!(key(b"abc", "o"), key(b"ab", "co"));
    }

    #[test]
    fn lines() {
        let mut stream: &[u8] = b"a\r\n\nb";
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while read_line(&mut stream, &mut line).unwrap() == Line::Read {
            lines.push(line.clone());
        }
        assert_eq!(lines, [b"a".to_vec(), b"".to_vec(), b"b".to_vec()]);
    }

    #[test]
    fn a_changed_file_is_noticed() {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(b"a").unwrap();
        let input = Input::open(file.path()).unwrap();
        input.check_unchanged().unwrap();
        file.write_all(b"b").unwrap();
        assert!(matches!(
            input.check_unchanged(),
            Err(ImportError::Changed { .. })
        ));
    }
}
