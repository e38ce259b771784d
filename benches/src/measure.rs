//! What the kernel tells of this process, and how fast the machine streams. Linux only.

use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_thp_disable;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Far more than any cache holds.
const STREAMED_BYTES: usize = 1 << 30;

/// The best of so many: the machine may be shared.
const STREAM_RUNS: usize = 7;

/// Seconds that all threads of this process have computed so far.
pub(crate) fn cpu_seconds() -> f64 {
    seconds_of(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// Seconds that this thread has computed so far.
pub(crate) fn thread_cpu_seconds() -> f64 {
    seconds_of(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn seconds_of(clock: ClockId) -> f64 {
    clock_gettime(clock).map_or(f64::NAN, |time| Duration::from(time).as_secs_f64())
}

/// Bytes of memory that belong to no file: heap and stacks.
pub(crate) fn anonymous_bytes() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(kilobytes)
        .ok_or_else(|| io::Error::other("no RssAnon in /proc/self/status"))
}

/// Runs `work` and gives the most anonymous bytes seen, looking twice a millisecond.
pub(crate) fn peak_anonymous_bytes<T>(work: impl FnOnce() -> T) -> io::Result<(T, u64)> {
    let done = AtomicBool::new(false);
    let peak = AtomicU64::new(anonymous_bytes()?);
    let look = || anonymous_bytes().map(|bytes| peak.fetch_max(bytes, Ordering::Relaxed));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) && look().is_ok() {
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        look()?;
        Ok((result, peak.load(Ordering::Relaxed)))
    })
}

/// Has files mapped from now on by pages of 4 KiB only: of a page of 2 MiB the kernel could not tell
/// which part was touched.
pub(crate) fn map_small_pages() -> io::Result<()> {
    Ok(set_thp_disable(true)?)
}

/// Makes the kernel forget which pages of this process were touched.
pub(crate) fn forget_references() -> io::Result<()> {
    std::fs::write("/proc/self/clear_refs", "1")
}

/// Bytes of the pages touched since [`forget_references`] in mappings of files below `directory`.
pub(crate) fn referenced_bytes(directory: &Path) -> io::Result<u64> {
    let directory = std::fs::canonicalize(directory)?;
    let directory = directory.to_string_lossy();
    let maps = std::fs::read_to_string("/proc/self/smaps")?;
    let (mut inside, mut total) = (false, 0);
    for line in maps.lines() {
        if let Some(figure) = line.strip_prefix("Referenced:") {
            total += kilobytes(figure).filter(|_| inside).unwrap_or(0);
        } else if !line
            .split_whitespace()
            .next()
            .is_some_and(|word| word.ends_with(':'))
        {
            inside = line.contains(&*directory);
        }
    }
    Ok(total)
}

fn kilobytes(figure: &str) -> Option<u64> {
    let figure = figure.trim().strip_suffix("kB")?.trim();
    figure
        .parse::<u64>()
        .ok()
        .map(|kilobytes| kilobytes * 1_024)
}

/// How many bytes a second `threads` threads read from memory in order, adding them up.
pub(crate) fn stream(threads: usize) -> Value {
    let threads = threads.max(1);
    let words: Vec<u64> = (0..STREAMED_BYTES as u64 / 8).collect();
    let share = words.len().div_ceil(threads);
    let seconds = (0..STREAM_RUNS).map(|_| {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for part in words.chunks(share) {
                scope.spawn(|| black_box(sum(part)));
            }
        });
        begun.elapsed().as_secs_f64()
    });
    let seconds = seconds.fold(f64::INFINITY, f64::min);
    json!({ "threads": threads, "bytes_per_second": STREAMED_BYTES as f64 / seconds })
}

/// Eight sums side by side, so that memory is waited for and not the addition.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 8];
    for chunk in words.chunks_exact(8) {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_kernel() {
        assert_eq!(kilobytes("     12 kB"), Some(12 * 1_024));
        assert_eq!(kilobytes("twelve"), None);
        assert!(anonymous_bytes().unwrap() > 0);
    }

    #[test]
    fn a_peak_that_is_gone_was_seen() {
        let held = 64 << 20;
        let before = anonymous_bytes().unwrap();
        let work = || {
            let bytes = black_box(vec![1u8; held]);
            std::thread::sleep(Duration::from_millis(50));
            bytes.len()
        };
        let (length, peak) = peak_anonymous_bytes(work).unwrap();
        assert_eq!(length, held);
        assert!(peak >= before + held as u64 / 2);
    }

    #[test]
    fn sums_are_sums() {
        let words: Vec<u64> = (0..800).collect();
        assert_eq!(sum(&words), 800 * 799 / 2);
    }
}
