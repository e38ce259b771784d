//! Which runs to merge, so that there are few; and writing one run out of several.

use roaring::RoaringBitmap;

use super::RunMeta;
use super::run::{Run, RunWriter, Sink};
use super::spelling::Spelling;
use crate::error::WriteError;

/// Most ids of one run: its table is built on the heap (420 MB at this size).
pub(super) const MAX_RUN_IDS: u32 = 1 << 26;

/// The range of runs to merge next, given their counts by ordinal.
///
/// Merges the youngest runs with an older one as soon as they hold as many ids together, so
/// that each run holds more ids than all younger ones together and an id is rewritten about
/// log2(ids / ids per seal) times. Runs that are too large to be merged stand aside.
pub(super) fn plan(counts: &[u32]) -> Option<std::ops::Range<usize>> {
    let mut younger = 0u64;
    let mut begin = None;
    for (index, &count) in counts.iter().enumerate().rev() {
        let together = younger + u64::from(count);
        if together > u64::from(MAX_RUN_IDS) {
            break;
        }
        if u64::from(count) <= younger {
            begin = Some(index);
        }
        younger = together;
    }
    begin.map(|begin| begin..counts.len())
}

/// Writes the ids of adjacent `runs`, without those of the `erased` ordinals, as one run.
pub(super) fn write(
    runs: &[&Run],
    erased: &RoaringBitmap,
    seed: u64,
    number: u64,
    sink: Sink<'_>,
) -> Result<RunMeta, WriteError> {
    let first = runs.first().map_or(0, |run| run.meta().first);
    let count = runs.iter().map(|run| run.meta().count).sum();
    let mut writer = RunWriter::new(sink, seed, first, count);
    for run in runs {
        let mut cursor = run.cursor();
        for position in 0..run.meta().count {
            let id = cursor.id(position)?;
            if erased.contains(run.meta().first + position) {
                writer.push(Spelling::Erased)?;
            } else {
                writer.push(id)?;
            }
        }
    }
    Ok(writer.finish(number)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge_while_planned(counts: &mut Vec<u32>) -> u64 {
        let mut written = 0;
        while let Some(range) = plan(counts) {
            let sum = counts.drain(range).sum();
            written += u64::from(sum);
            counts.push(sum);
        }
        written
    }

    #[test]
    fn few_runs_stay_and_ids_are_rarely_rewritten() {
        let (mut counts, mut written) = (Vec::new(), 0);
        for seal in 1..=1_000 {
            counts.push(20_000);
            written += merge_while_planned(&mut counts);
            assert!(
                counts.len() <= 10,
                "{} runs after {seal} seals",
                counts.len()
            );
        }
        assert!(
            written <= 10 * 20_000 * 1_000,
            "{written} ids were rewritten"
        );
    }

    #[test]
    fn a_run_never_outgrows_its_limit() {
        let mut counts = Vec::new();
        for _ in 0..400 {
            counts.push(1_000_000);
            merge_while_planned(&mut counts);
            assert!(counts.iter().all(|&count| count <= MAX_RUN_IDS));
        }
        assert!(counts.len() < 25, "{} runs", counts.len());
    }

    #[test]
    fn nothing_to_merge() {
        assert_eq!(plan(&[]), None);
        assert_eq!(plan(&[5]), None);
        assert_eq!(plan(&[100, 50, 20]), None);
        assert_eq!(plan(&[100, 50, 30, 30]), Some(0..4));
    }
}
