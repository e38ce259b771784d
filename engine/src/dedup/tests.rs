//! Message ids against a model of one map, through seals, merges, expiry and reopenings; and
//! against damaged files.

use std::collections::HashMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::error::Corruption;
use crate::storage::{MemoryStorage, write_sealed};

const SEED: u64 = 0xfeed_f00d_1234_5678;
const WINDOW_MILLIS: i64 = 1_000;

/// The meaning: the last accepted arrival of each id.
#[derive(Default)]
struct Model {
    seen: HashMap<String, i64>,
}

impl Model {
    fn duplicate(&self, id: &str, millis: i64) -> bool {
        let within = |seen: &i64| i128::from(millis) - i128::from(*seen) <= WINDOW_MILLIS.into();
        self.seen.get(id).is_some_and(within)
    }
}

struct Bench {
    storage: Arc<MemoryStorage>,
    ids: MessageIds,
    /// Sealed, but not installed yet.
    waiting: Vec<SealedMessageIds>,
    model: Model,
    file: u64,
}

fn open(storage: &Arc<MemoryStorage>, runs: &[DedupRunMeta]) -> MessageIds {
    let storage: Arc<dyn Storage> = storage.clone();
    MessageIds::open(storage, SEED, WINDOW_MILLIS * 1_000, runs).unwrap()
}

impl Bench {
    fn new() -> Self {
        let storage = Arc::new(MemoryStorage::new());
        storage.make_directory("dedup").unwrap();
        Self {
            ids: open(&storage, &[]),
            storage,
            waiting: Vec::new(),
            model: Model::default(),
            file: 0,
        }
    }

    fn check(&mut self, id: &str, micros: i64) {
        let duplicate = self.model.duplicate(id, micros.div_euclid(1_000));
        assert_eq!(self.ids.contains(id, micros).unwrap(), duplicate);
        let new = self.ids.check_and_insert(&[id], micros).unwrap()[0];
        assert_eq!(new, !duplicate, "{id} at {micros}");
        if new {
            let millis = micros.div_euclid(1_000);
            self.model.seen.insert(id.to_owned(), millis);
        }
    }

    fn seal(&mut self) {
        self.seal_only();
        self.install_all();
        assert_eq!(self.ids.heap_len(), 0);
    }

    fn seal_only(&mut self) {
        self.file += 1;
        let count = self.ids.unsealed();
        let sealed = self.ids.seal(self.file).unwrap();
        let sealed_count = sealed.as_ref().map_or(0, |sealed| sealed.meta.count);
        assert_eq!(sealed_count as usize, count);
        self.waiting.extend(sealed);
    }

    fn install_all(&mut self) {
        for sealed in self.waiting.drain(..) {
            let name = run::file_name(sealed.meta.number);
            write_sealed(&*self.storage, "dedup", &name, &sealed.image).unwrap();
            self.ids.install(sealed.meta).unwrap();
        }
    }

    fn merge(&mut self, plan: &MergePlan) {
        self.file += 1;
        let mut file = self.storage.create(&run::file_name(self.file)).unwrap();
        let merged = plan.write(self.file, &mut *file).unwrap();
        file.sync().unwrap();
        self.ids.install_merged(plan, merged).unwrap();
    }

    fn merge_all(&mut self) {
        if !self.ids.runs.is_empty() {
            self.merge(&MergePlan {
                metas: self.ids.runs(),
                runs: self.ids.runs.clone(),
                seed: SEED,
            });
        }
    }

    /// Drops what expired at a time no later than any check to come.
    fn expire(&mut self, now_micros: i64) {
        let expired = self.ids.expired(now_micros);
        self.ids.drop_runs(&expired);
        for number in expired {
            self.storage.remove(&run::file_name(number)).unwrap();
        }
        let now = now_micros.div_euclid(1_000);
        let left = self.ids.runs().into_iter();
        left.for_each(|run| assert!(run.max_arrival_millis >= now - WINDOW_MILLIS));
    }

    fn reopen(&mut self) {
        self.seal();
        self.ids = open(&self.storage, &self.ids.runs());
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// An id, and how much later (or earlier) it arrives, in microseconds.
    Check(u8, i64),
    Seal,
    SealOnly,
    PlannedMerges,
    MergeAll,
    Expire,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let near = (WINDOW_MILLIS - 2) * 1_000..(WINDOW_MILLIS + 3) * 1_000;
    let later = prop_oneof![4 => 0i64..40_000, 2 => near, 1 => -90_000i64..0];
    prop_oneof![
        20 => (0u8..12, later).prop_map(|(id, later)| Step::Check(id, later)),
        3 => Just(Step::Seal),
        1 => Just(Step::SealOnly),
        1 => Just(Step::PlannedMerges),
        1 => Just(Step::MergeAll),
        1 => Just(Step::Expire),
        1 => Just(Step::Reopen),
    ]
}

fn run_steps(steps: &[Step], start_micros: i64) {
    let mut bench = Bench::new();
    let (mut now, mut horizon) = (start_micros, start_micros);
    for step in steps {
        match step {
            Step::Check(id, later) => {
                // Runs were dropped up to the horizon; an earlier clock may know less.
                now = now.saturating_add(*later).max(horizon);
                bench.check(&format!("message {id}"), now);
            }
            Step::Seal => bench.seal(),
            Step::SealOnly => bench.seal_only(),
            Step::PlannedMerges => {
                while let Some(plan) = bench.ids.plan_merge() {
                    bench.merge(&plan);
                }
            }
            Step::MergeAll => bench.merge_all(),
            Step::Expire => {
                bench.expire(now);
                horizon = now;
            }
            Step::Reopen => bench.reopen(),
        }
    }
    bench.ids.verify().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn answers_are_the_models(
        steps in prop::collection::vec(step(), 1..80),
        start in prop_oneof![Just(0), Just(1_790_000_000_000_000), Just(i64::MIN), Just(i64::MAX)],
    ) {
        run_steps(&steps, start);
    }

    #[test]
    fn no_damage_gives_another_answer(bit in 0usize..1 << 20, len in 0usize..1 << 20) {
        let (meta, image) = sample();
        let right = read_all(image.clone(), meta).unwrap();
        let mut damaged = image.clone();
        let bit = bit % (image.len() * 8);
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(answers) = read_all(damaged, meta) {
            prop_assert_eq!(answers, right);
        }
        prop_assert!(read_all(image[..len % image.len()].to_vec(), meta).is_err());
    }
}

/// A run of two blocks.
fn sample() -> (DedupRunMeta, Vec<u8>) {
    let mut bench = Bench::new();
    for number in 0..4_200 {
        bench
            .ids
            .insert(&number.to_string(), 1_000_000 + number * 500);
    }
    let sealed = bench.ids.seal(1).unwrap().unwrap();
    (sealed.meta, sealed.image.to_vec())
}

fn read_all(image: Vec<u8>, meta: DedupRunMeta) -> Result<Vec<Option<i64>>, Corruption> {
    let run = Run::from_bytes(image.into(), Path::new("test"), SEED, meta)?;
    let hash = |number: i64| xxh3_128_with_seed(number.to_string().as_bytes(), SEED);
    let found: Result<_, _> = (0..4_300).map(|number| run.find(hash(number))).collect();
    run.verify()?;
    found
}

#[test]
fn every_id_of_a_run_is_found_with_its_arrival() {
    let (meta, image) = sample();
    let found = read_all(image, meta).unwrap();
    let expected = |number: i64| (number < 4_200).then_some(1_000 + number / 2);
    assert!(found.into_iter().eq((0..4_300).map(expected)));
    assert_eq!(
        (meta.min_arrival_millis, meta.max_arrival_millis),
        (1_000, 3_099)
    );
}

/// A small run, flipped at every bit.
#[test]
fn every_flip_of_a_small_run_is_noticed() {
    let mut bench = Bench::new();
    (0..7).for_each(|number| bench.ids.insert(&number.to_string(), number * 1_000));
    let sealed = bench.ids.seal(1).unwrap().unwrap();
    let read = |bytes: Vec<u8>| {
        let run = Run::from_bytes(bytes.into(), Path::new("test"), SEED, sealed.meta)?;
        run.verify()
    };
    read(sealed.image.to_vec()).unwrap();
    let mut passed = 0;
    for bit in 0..sealed.image.len() * 8 {
        let mut damaged = sealed.image.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        passed += usize::from(read(damaged).is_ok());
    }
    assert_eq!(passed, 0, "padding is checked too");
}

#[test]
fn the_window_ends_exactly() {
    for sealed in [false, true] {
        let mut bench = Bench::new();
        // Arrived within the millisecond 5; the window reaches through the millisecond 1 005.
        assert!(bench.ids.check_and_insert(&["a"], 5_999).unwrap()[0]);
        if sealed {
            bench.seal();
        }
        assert!(bench.ids.contains("a", 5_999).unwrap());
        assert!(bench.ids.contains("a", 1_005_999).unwrap());
        assert!(!bench.ids.contains("a", 1_006_000).unwrap());
        assert!(!bench.ids.check_and_insert(&["a"], 1_005_999).unwrap()[0]);
        // The duplicate did not prolong the window, the acceptance does.
        assert!(bench.ids.check_and_insert(&["a"], 1_006_000).unwrap()[0]);
        assert!(!bench.ids.check_and_insert(&["a"], 2_006_999).unwrap()[0]);
        assert!(bench.ids.check_and_insert(&["a"], 2_007_000).unwrap()[0]);
    }
}

/// More than are searched together, some of them twice, some in a run, on the heap, or new.
#[test]
fn many_ids_at_once_are_told_as_one_after_another() {
    let mut bench = Bench::new();
    let name = |number: u32| format!("m-{number}");
    (0..200)
        .step_by(3)
        .for_each(|number| bench.check(&name(number), 1_000));
    bench.seal();
    (0..200)
        .step_by(7)
        .for_each(|number| bench.check(&name(number), 2_000));
    let names: Vec<String> = (0..300).map(|number| name(number * 11 % 250)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let new = bench.ids.check_and_insert(&names, 3_000).unwrap();
    for (place, name) in names.iter().enumerate() {
        let earlier = names[..place].contains(name) || bench.model.duplicate(name, 3);
        assert_eq!(new[place], !earlier, "{name}");
        assert!(bench.ids.contains(name, 3_000).unwrap());
    }
    assert_eq!(bench.ids.check_and_insert(&[], 3_000).unwrap(), []);
}

#[test]
fn a_damaged_run_refuses_all_ids_and_none_is_remembered() {
    let bench = Bench::new();
    let (meta, mut image) = sample();
    let hash = xxh3_128_with_seed(b"7", SEED).to_le_bytes();
    let place = image.windows(16).position(|bytes| bytes == hash).unwrap();
    image[place] ^= 1;
    write_sealed(&*bench.storage, "dedup", &run::file_name(1), &image).unwrap();
    let mut ids = open(&bench.storage, &[meta]);
    // Both blocks of the run are asked, and only one of them is damaged.
    let names: Vec<String> = (5_000..5_100).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(ids.check_and_insert(&names, 1_500_000).is_err());
    assert_eq!(ids.unsealed(), 0);
}

#[test]
fn a_run_is_dropped_just_after_its_window() {
    let mut bench = Bench::new();
    bench.check("a", 0);
    bench.check("b", 700_000);
    bench.seal();
    assert_eq!(bench.ids.expired(1_700_999), [0u64; 0]);
    assert_eq!(bench.ids.expired(1_701_000), [1]);
    bench.ids.drop_runs(&[1]);
    assert!(bench.ids.runs().is_empty());
}

#[test]
fn a_clock_that_jumps_by_centuries_changes_no_answer() {
    let mut bench = Bench::new();
    let century = 3_155_760_000_000_000;
    bench.check("future", century);
    bench.check("past", -century);
    bench.check("now", 0);
    bench.check("end", i64::MAX);
    bench.check("begin", i64::MIN);
    bench.seal();
    bench.check("now", 1_000_000);
    bench.check("now", 1_001_000);
    bench.check("future", 0);
    bench.check("past", 0);
    bench.check("end", i64::MIN);
    bench.check("begin", i64::MIN + 2_000_000);
    bench.reopen();
    bench.merge_all();
    bench.check("future", century + 1_000_000);
    bench.check("begin", i64::MIN + 2_500_000);
    bench.ids.verify().unwrap();
}

#[test]
fn many_seals_keep_few_runs() {
    let mut bench = Bench::new();
    for number in 0..2_000i64 {
        let micros = number * 2_000;
        bench.ids.insert(&number.to_string(), micros);
        bench.seal();
        while let Some(plan) = bench.ids.plan_merge() {
            bench.merge(&plan);
        }
        bench.expire(micros);
        assert!(bench.ids.runs.len() <= 16, "{}", bench.ids.runs.len());
    }
    let kept: u32 = bench.ids.runs().iter().map(|run| run.count).sum();
    let within = 500;
    assert!((within..within * 3 / 2).contains(&kept), "{kept} ids kept");
}

#[test]
fn runs_of_other_stores_are_refused() {
    let (meta, image) = sample();
    let open = |seed, meta| Run::from_bytes(image.clone().into(), Path::new("test"), seed, meta);
    assert!(open(SEED, meta).is_ok());
    assert!(open(SEED ^ 1, meta).is_err());
    let fewer = DedupRunMeta {
        count: meta.count - 1,
        ..meta
    };
    assert!(open(SEED, fewer).is_err());
    let earlier = DedupRunMeta {
        min_arrival_millis: 0,
        ..meta
    };
    assert!(open(SEED, earlier).is_err());
}

/// The format's fixture: these bytes may never change within version 1.
#[test]
fn the_stored_bytes_are_pinned() {
    let (meta, image) = sample();
    assert_eq!(meta.length, image.len() as u64);
    assert_eq!(
        (image.len(), crate::format::checksum(&image)),
        (84_224, 6_192_745_212_689_952_360)
    );
}

#[test]
fn an_id_costs_twenty_bytes() {
    let (meta, _) = sample();
    let bytes = meta.length as f64 / f64::from(meta.count);
    assert!(bytes < 20.1, "{bytes} bytes an id");
}
