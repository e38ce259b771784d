//! The dictionary against a model of two collections, through seals, merges, erasures and
//! reopenings; and against damaged files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use roaring::RoaringBitmap;

use super::*;
use crate::batch::{IdColumn, TextColumn};
use crate::storage::{MemoryStorage, write_sealed};

const SEED: u64 = 0x1234_5678_9abc_def0;

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    ids: Vec<Option<String>>,
    latest: HashMap<String, u32>,
}

impl Model {
    fn assign_anew(&mut self, id: &str) -> u32 {
        let ordinal = self.ids.len() as u32;
        self.ids.push(Some(id.to_owned()));
        self.latest.insert(id.to_owned(), ordinal);
        ordinal
    }

    fn find_or_assign(&mut self, id: &str) -> u32 {
        match self.latest.get(id) {
            Some(&ordinal) => ordinal,
            None => self.assign_anew(id),
        }
    }

    fn erase(&mut self, ordinal: u32) {
        let Some(id) = self.ids[ordinal as usize].take() else {
            return;
        };
        let same = |other: &Option<String>| other.as_ref() == Some(&id);
        match self.ids.iter().rposition(same) {
            Some(former) => self.latest.insert(id, former as u32),
            None => self.latest.remove(&id),
        };
    }

    /// Every answer of the snapshot is the model's.
    fn check(&self, snapshot: &DictionarySnapshot, others: &[String]) {
        assert_eq!(snapshot.len() as usize, self.ids.len());
        for id in self.ids.iter().flatten().chain(others) {
            let found = snapshot.find(UserKey::from_text(id)).unwrap();
            assert_eq!(found, self.latest.get(id).copied(), "{id}");
        }
        let mut read = vec![None; self.ids.len()];
        let ordinals = (0..snapshot.len() + 3).chain([u32::MAX]);
        let put = |ordinal: u32, key: UserKey<'_>| read[ordinal as usize] = Some(key.to_string());
        snapshot.with_ids(ordinals, put).unwrap();
        assert_eq!(read, self.ids);
        for (ordinal, id) in self.ids.iter().enumerate().rev() {
            let found = snapshot
                .id(ordinal as u32)
                .unwrap()
                .map(|id| id.to_string());
            assert_eq!(&found, id);
        }
    }
}

/// A dictionary in a store that forgets everything but its runs when it is reopened.
struct Bench {
    storage: Arc<MemoryStorage>,
    dictionary: Dictionary,
    model: Model,
    file: u64,
    pinned: Vec<(DictionarySnapshot, Model)>,
}

impl Bench {
    fn new() -> Self {
        let storage = Arc::new(MemoryStorage::new());
        storage.make_directory("ids").unwrap();
        Self {
            dictionary: open(&storage, &[]),
            storage,
            model: Model::default(),
            file: 0,
            pinned: Vec::new(),
        }
    }

    fn next_file(&mut self) -> u64 {
        self.file += 1;
        self.file
    }

    fn seal(&mut self) {
        let number = self.next_file();
        if let Some(sealed) = self.dictionary.seal(number).unwrap() {
            let name = run::file_name(number);
            write_sealed(&*self.storage, "ids", &name, &sealed.image).unwrap();
            self.dictionary.install(sealed.meta).unwrap();
        }
        assert_eq!(self.dictionary.unsealed(), 0);
    }

    fn merge(&mut self, runs: &[RunMeta], erased: &RoaringBitmap) {
        let number = self.next_file();
        let mut file = self.storage.create(&run::file_name(number)).unwrap();
        let merged = self.dictionary.merge(runs, erased, number, &mut *file);
        file.sync().unwrap();
        self.dictionary
            .install_merged(runs, merged.unwrap())
            .unwrap();
        for run in runs {
            self.storage.remove(&run::file_name(run.number)).unwrap();
        }
    }

    fn erase(&mut self, ordinals: &[u32]) {
        self.seal();
        let erased: RoaringBitmap = ordinals
            .iter()
            .map(|ordinal| ordinal % (self.dictionary.len().max(1)))
            .collect();
        for run in self.dictionary.runs() {
            if erased.range_cardinality(run.first..run.first + run.count) > 0 {
                self.merge(&[run], &erased);
                let ordinals = erased.range(run.first..run.first + run.count);
                ordinals.for_each(|ordinal| self.model.erase(ordinal));
            }
        }
    }

    /// What the log holds comes again, in the same order.
    fn reopen(&mut self) {
        let runs = self.dictionary.runs();
        self.dictionary = open(&self.storage, &runs);
        for ordinal in self.dictionary.len() as usize..self.model.ids.len() {
            let id = self.model.ids[ordinal].clone().unwrap();
            let given = self.dictionary.assign_anew(UserKey::from_text(&id));
            assert_eq!(given.unwrap() as usize, ordinal);
        }
    }
}

fn open(storage: &Arc<MemoryStorage>, runs: &[RunMeta]) -> Dictionary {
    let storage: Arc<dyn Storage> = storage.clone();
    let mut dictionary = Dictionary::open(storage, SEED, runs).unwrap();
    dictionary.part_ids = 50;
    dictionary
}

#[derive(Clone, Debug)]
enum Step {
    Integers(Vec<i64>),
    /// Texts, and the codes of the rows; codes wrap around.
    Texts(Vec<String>, Vec<u32>),
    /// Batches that are looked up, ids that are given ordinals meanwhile, and whether these are sealed then.
    Several(Vec<Vec<i64>>, Vec<i64>, bool),
    One(String),
    Anew(String),
    Seal,
    SealAndFail,
    PlannedMerges,
    MergeAll,
    Erase(Vec<u32>),
    Reopen,
    Pin,
}

fn id() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (-9i64..60).prop_map(|id| id.to_string()),
        1 => any::<i64>().prop_map(|id| id.to_string()),
        2 => "[ab0]{1,3}",
        1 => "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{24}",
        1 => "[é☃x]{1,85}",
        1 => Just("z".repeat(255)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = prop_oneof![3 => -20i64..400, 1 => any::<i64>()];
    let texts = (
        prop::collection::vec(id(), 1..60),
        prop::collection::vec(any::<u32>(), 0..90),
    );
    let batch = |rows| prop::collection::vec(-20i64..400, 0..rows);
    let several = (
        prop::collection::vec(batch(150), 0..4),
        batch(30),
        any::<bool>(),
    );
    prop_oneof![
        2 => several.prop_map(|(batches, meanwhile, sealed)| {
            Step::Several(batches, meanwhile, sealed)
        }),
        3 => prop::collection::vec(numbers, 0..200).prop_map(Step::Integers),
        3 => texts.prop_map(|(ids, codes)| Step::Texts(ids, codes)),
        1 => id().prop_map(Step::One),
        1 => id().prop_map(Step::Anew),
        3 => Just(Step::Seal),
        1 => Just(Step::SealAndFail),
        1 => Just(Step::PlannedMerges),
        1 => Just(Step::MergeAll),
        1 => prop::collection::vec(any::<u32>(), 1..40).prop_map(Step::Erase),
        1 => Just(Step::Reopen),
        1 => Just(Step::Pin),
    ]
}

fn text_column(ids: &[String], codes: &[u32]) -> IdColumn {
    let mut column = TextColumn::default();
    for id in ids {
        column.values.push(id);
    }
    let wrap = |code: &u32| code % ids.len() as u32;
    column.codes = codes.iter().map(wrap).collect();
    IdColumn::Text(column)
}

impl Bench {
    fn assign_all(&mut self, ids: &IdColumn) {
        let text = |row: usize| ids.key(row).to_string();
        let known: Vec<Option<u32>> = (0..ids.len())
            .map(|row| self.model.latest.get(&text(row)).copied())
            .collect();
        assert_eq!(self.dictionary.find_many(ids).unwrap(), known);
        let given = self.dictionary.find_or_assign_many(ids).unwrap();
        let expected: Vec<u32> = (0..ids.len())
            .map(|row| self.model.find_or_assign(&text(row)))
            .collect();
        assert_eq!(given, expected);
    }

    /// Looks up the ids of several batches, gives ordinals to others meanwhile, and then to those.
    fn assign_several(&mut self, batches: &[Vec<i64>], meanwhile: &[i64], sealed: bool) {
        let batches: Vec<_> = batches.iter().cloned().map(IdColumn::Int).collect();
        let columns: Vec<&IdColumn> = batches.iter().collect();
        let looked_up = self.dictionary.look_up(&columns).unwrap();
        self.assign_all(&IdColumn::Int(meanwhile.to_vec()));
        if sealed {
            self.seal();
        }
        let given = self.dictionary.assign(looked_up).unwrap();
        let expected: Vec<Vec<u32>> = batches
            .iter()
            .map(|ids| {
                let texts = (0..ids.len()).map(|row| ids.key(row).to_string());
                texts.map(|id| self.model.find_or_assign(&id)).collect()
            })
            .collect();
        assert_eq!(given, expected);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Integers(ids) => self.assign_all(&IdColumn::Int(ids.clone())),
            Step::Several(batches, meanwhile, sealed) => {
                self.assign_several(batches, meanwhile, *sealed);
            }
            Step::Texts(ids, codes) => self.assign_all(&text_column(ids, codes)),
            Step::One(id) => {
                let given = self.dictionary.find_or_assign(UserKey::from_text(id));
                assert_eq!(given.unwrap(), self.model.find_or_assign(id));
            }
            Step::Anew(id) => {
                let given = self.dictionary.assign_anew(UserKey::from_text(id));
                assert_eq!(given.unwrap(), self.model.assign_anew(id));
            }
            Step::Seal => self.seal(),
            Step::SealAndFail => {
                let number = self.next_file();
                let sealed = self.dictionary.seal(number).unwrap();
                assert_eq!(sealed.is_some(), self.dictionary.unsealed() > 0);
            }
            Step::PlannedMerges => {
                while let Some(runs) = self.dictionary.plan_merge() {
                    self.merge(&runs, &RoaringBitmap::new());
                }
            }
            Step::MergeAll => {
                let runs = self.dictionary.runs();
                if !runs.is_empty() {
                    self.merge(&runs, &RoaringBitmap::new());
                }
            }
            Step::Erase(ordinals) => self.erase(ordinals),
            Step::Reopen => self.reopen(),
            Step::Pin => {
                let pinned = (self.dictionary.snapshot(), self.model.clone());
                self.pinned.push(pinned);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn answers_are_the_models(steps in prop::collection::vec(step(), 1..25)) {
        let mut bench = Bench::new();
        for step in &steps {
            bench.take(step);
        }
        let others = bench.model.latest.keys().cloned().collect::<Vec<_>>();
        bench.model.check(&bench.dictionary.snapshot(), &["never seen".to_owned()]);
        for (snapshot, model) in &bench.pinned {
            model.check(snapshot, &others);
        }
        bench.dictionary.verify().unwrap();
        bench.seal();
        bench.reopen();
        bench.model.check(&bench.dictionary.snapshot(), &others);
    }
}

fn sealed_run(ids: &[&str]) -> (RunMeta, Vec<u8>) {
    let storage = Arc::new(MemoryStorage::new());
    let dictionary = open(&storage, &[]);
    for id in ids {
        dictionary.find_or_assign(UserKey::from_text(id)).unwrap();
    }
    let sealed = dictionary.seal(1).unwrap().unwrap();
    (sealed.meta, sealed.image)
}

const SAMPLE: [&str; 9] = [
    "17",
    "a",
    "-9223372036854775808",
    "0123abcd-4567-89ef-0123-456789abcdef",
    "507f1f77bcf86cd799439011",
    "someone@example.org",
    "☃",
    "18",
    "007",
];

fn read_all(image: Vec<u8>, meta: RunMeta) -> Result<Vec<(String, Option<u32>)>, Corruption> {
    let run = Run::from_bytes(image.into(), Path::new("test"), SEED, meta)?;
    let mut answers = Vec::new();
    for position in 0..meta.count {
        let name = run
            .id(position)?
            .with_key(|key| key.map(|key| key.to_string()).unwrap_or_default());
        let name = name.map_err(|what| Corruption::new(Path::new("test"), 0, what))?;
        answers.push((name, Some(position)));
    }
    for (answer, id) in answers.iter_mut().zip(SAMPLE) {
        let held = KeySpelling::new(UserKey::from_text(id));
        answer.1 = run.find(held.spelling(), held.spelling().hash(SEED))?;
    }
    run.verify(SEED)?;
    Ok(answers)
}

#[test]
fn no_flipped_bit_and_no_truncation_gives_another_answer() {
    let (meta, image) = sealed_run(&SAMPLE);
    let right = read_all(image.clone(), meta).unwrap();
    let expected = SAMPLE.iter().map(|id| (*id).to_owned());
    assert!(right.iter().map(|(id, _)| id.clone()).eq(expected));
    assert!(right.iter().map(|(_, at)| *at).eq((0..9).map(Some)));
    let mut refused = 0;
    for bit in 0..image.len() * 8 {
        let mut damaged = image.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match read_all(damaged, meta) {
            Ok(answers) => assert_eq!(answers, right),
            Err(_) => refused += 1,
        }
    }
    // Only padding between blocks may differ unnoticed.
    assert!(
        refused >= (image.len() - 4 * 7) * 8,
        "{refused} flips refused"
    );
    for len in 0..image.len() {
        assert!(read_all(image[..len].to_vec(), meta).is_err());
    }
}

#[test]
fn runs_of_other_stores_and_other_ordinals_are_refused() {
    let (meta, image) = sealed_run(&SAMPLE);
    let open = |seed, meta| Run::from_bytes(image.clone().into(), Path::new("test"), seed, meta);
    assert!(open(SEED, meta).is_ok());
    assert!(open(SEED + 1, meta).is_err());
    assert!(open(SEED, RunMeta { first: 1, ..meta }).is_err());
    assert!(open(SEED, RunMeta { count: 8, ..meta }).is_err());
}

#[test]
fn runs_must_cover_the_ordinals_once() {
    let mut bench = Bench::new();
    for ids in [1i64..4, 10..14, 20..25] {
        bench.assign_all(&IdColumn::Int(ids.collect()));
        bench.seal();
    }
    let runs = bench.dictionary.runs();
    let opens = |runs: &[RunMeta]| {
        let storage: Arc<dyn Storage> = bench.storage.clone();
        Dictionary::open(storage, SEED, runs).is_ok()
    };
    assert!(opens(&runs));
    assert!(opens(&[runs[2], runs[0], runs[1]]));
    assert!(opens(&runs[..2]));
    assert!(!opens(&runs[1..]));
    assert!(!opens(&[runs[0], runs[2]]));
    assert!(!opens(&[runs[0], runs[0]]));
    let longer = RunMeta {
        length: runs[0].length + 1,
        ..runs[0]
    };
    assert!(!opens(&[longer]));
    bench.storage.remove(&run::file_name(1)).unwrap();
    assert!(!opens(&runs));
}

/// The format's fixture: these bytes may never change within version 1.
#[test]
fn the_stored_bytes_are_pinned() {
    let (_, image) = sealed_run(&SAMPLE);
    assert_eq!(
        (image.len(), crate::format::checksum(&image)),
        (372, 2_436_725_262_882_533_096)
    );
}

#[test]
fn text_that_spells_an_integer_is_the_integer() {
    let bench = Bench::new();
    let dictionary = &bench.dictionary;
    assert_eq!(dictionary.find_or_assign(UserKey::Int(-5)).unwrap(), 0);
    assert_eq!(dictionary.find_or_assign(UserKey::Text("-5")).unwrap(), 0);
    assert_eq!(dictionary.find_or_assign(UserKey::Text("-05")).unwrap(), 1);
    assert_eq!(dictionary.id(0).unwrap(), Some(UserId::Int(-5)));
    assert_eq!(dictionary.find(UserKey::Text("-5")).unwrap(), Some(0));
}

#[test]
fn ordinals_end_below_the_largest_number() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let dictionary = Dictionary::with_runs(storage, SEED, Vec::new(), u32::MAX - 2);
    let ids = IdColumn::Int(vec![1, 2, 1]);
    let expected = [u32::MAX - 2, u32::MAX - 1, u32::MAX - 2];
    assert_eq!(dictionary.find_or_assign_many(&ids).unwrap(), expected);
    let full = |result| matches!(result, Err(WriteError::TooManyUsers));
    assert!(full(dictionary.find_or_assign(UserKey::Int(3))));
    let more = dictionary.find_or_assign_many(&IdColumn::Int(vec![2, 3]));
    assert!(matches!(more, Err(WriteError::TooManyUsers)));
    assert_eq!(
        dictionary.find_or_assign(UserKey::Int(2)).unwrap(),
        u32::MAX - 1
    );
    assert_eq!(dictionary.len(), u32::MAX);
}

/// Several blocks of directory, tags and positions, and several parts of the tail.
#[test]
fn a_large_run_answers_at_its_seams() {
    let mut bench = Bench::new();
    bench.dictionary.part_ids = 100_000;
    let count = 300_000u32;
    let ids: Vec<i64> = (0..i64::from(count)).map(|id| id * 7_919 - 12).collect();
    let given = bench
        .dictionary
        .find_or_assign_many(&IdColumn::Int(ids.clone()));
    assert!(given.unwrap().into_iter().eq(0..count));
    bench.seal();
    let runs = bench.dictionary.runs();
    assert_eq!(runs.len(), 1);
    let bytes = runs[0].length as f64 / f64::from(count);
    assert!(bytes < 10.0, "{bytes} bytes an id");
    bench.reopen_without_replay();
    let ids = IdColumn::Int(ids);
    let found = bench.dictionary.find_many(&ids).unwrap();
    assert!(found.into_iter().eq((0..count).map(Some)));
    let absent = IdColumn::Int((0..100_000).map(|id| id * 7_919 - 11).collect());
    let found = bench.dictionary.find_many(&absent).unwrap();
    assert!(found.iter().all(Option::is_none));
    let mut next = 0;
    let count_up = |ordinal: u32, key: UserKey<'_>| {
        assert_eq!(key, UserKey::Int(i64::from(next) * 7_919 - 12));
        assert_eq!(ordinal, next);
        next += 1;
    };
    let snapshot = bench.dictionary.snapshot();
    snapshot.with_ids(0..count, count_up).unwrap();
    bench.dictionary.verify().unwrap();
}

impl Bench {
    fn reopen_without_replay(&mut self) {
        let runs = self.dictionary.runs();
        self.dictionary = open(&self.storage, &runs);
    }
}

#[test]
fn readers_are_never_wrong_while_ids_come_seal_and_merge() {
    let mut bench = Bench::new();
    let (done, total) = (AtomicBool::new(false), 20_000i64);
    let key = |ordinal: u32| UserKey::Int(i64::from(ordinal) * 3);
    // The bench writes through its own dictionary; the readers share it by reference.
    let storage = Arc::clone(&bench.storage);
    let shared = Arc::new(std::mem::replace(
        &mut bench.dictionary,
        open(&storage, &[]),
    ));
    std::thread::scope(|scope| {
        for start in [0u32, 7] {
            let (dictionary, done) = (Arc::clone(&shared), &done);
            scope.spawn(move || {
                let mut ordinal = start;
                while !done.load(Ordering::Relaxed) {
                    let snapshot = dictionary.snapshot();
                    if !snapshot.is_empty() {
                        ordinal = (ordinal + 997) % snapshot.len();
                        assert_eq!(snapshot.find(key(ordinal)).unwrap(), Some(ordinal));
                        let id = snapshot.id(ordinal).unwrap().unwrap();
                        assert_eq!(id.key(), key(ordinal));
                        assert_eq!(snapshot.find(key(snapshot.len())).unwrap(), None);
                    }
                }
            });
        }
        let mut file = 0;
        for ids in (0..total).collect::<Vec<_>>().chunks(500) {
            let ids = ids.iter().map(|id| id * 3).collect();
            shared.find_or_assign_many(&IdColumn::Int(ids)).unwrap();
            file += 1;
            let sealed = shared.seal(file).unwrap().unwrap();
            let name = run::file_name(file);
            write_sealed(&*storage, "ids", &name, &sealed.image).unwrap();
            shared.install(sealed.meta).unwrap();
            while let Some(runs) = shared.plan_merge() {
                file += 1;
                let mut out = storage.create(&run::file_name(file)).unwrap();
                let none = RoaringBitmap::new();
                let merged = shared.merge(&runs, &none, file, &mut *out).unwrap();
                out.sync().unwrap();
                shared.install_merged(&runs, merged).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(i64::from(shared.len()), total);
}
