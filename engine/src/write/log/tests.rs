//! The log under truncation, flipped bits, crashes and lost files.

use proptest::prelude::*;

use super::*;
use crate::storage::{MemoryStorage, write_sealed};

/// A log file in memory: its bytes, and for each record its payload, where its frame ends, and
/// whether it was synced before the next was written.
struct Sample {
    bytes: Vec<u8>,
    payloads: Vec<Vec<u8>>,
    ends: Vec<usize>,
    settled: Vec<bool>,
}

const NUMBER: u64 = 7;
const FIRST: u64 = 100;

/// Writes `groups` of payloads, each group with one commit.
fn sample(groups: &[(Vec<Vec<u8>>, bool)], seal: bool) -> Sample {
    let storage = storage();
    let mut writer = LogWriter::create(&storage, NUMBER, FIRST).unwrap();
    let (mut payloads, mut settled, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    let mut end = HEADER_BYTES;
    for (group, sync) in groups {
        for payload in group {
            writer.append(payload);
            end += frame_bytes(payload.len());
            ends.push(end);
            payloads.push(payload.clone());
            settled.push(false);
        }
        writer.commit(*sync).unwrap();
        if *sync {
            settled.fill(true);
        }
    }
    if seal {
        writer.seal().unwrap();
        settled.fill(true);
    }
    Sample {
        bytes: storage.read(&log_name(NUMBER)).unwrap(),
        payloads,
        ends,
        settled,
    }
}

/// The last group's settled state is known only to the writer: no later frame tells it.
fn provably_settled(sample: &Sample, groups: &[(Vec<Vec<u8>>, bool)], seal: bool) -> usize {
    if seal {
        return sample.payloads.len();
    }
    // A group's frames say that all synced groups before it are settled.
    let mut proven = 0;
    let mut synced = 0;
    let mut count = 0;
    for (group, sync) in groups.iter().filter(|(group, _)| !group.is_empty()) {
        proven = synced;
        count += group.len();
        if *sync {
            synced = count;
        }
    }
    assert!(sample.settled[..proven].iter().all(|&settled| settled));
    proven
}

fn storage() -> MemoryStorage {
    let storage = MemoryStorage::new();
    storage.make_directory(LOG_DIRECTORY).unwrap();
    storage
}

fn decode(bytes: &[u8]) -> Result<LogContents, Corruption> {
    decode_log(&Bytes::copy_from_slice(bytes), Path::new("log/7"), NUMBER)
}

fn payloads(contents: &LogContents) -> Vec<Vec<u8>> {
    let first = contents.first_record.unwrap_or_default();
    for (index, record) in contents.records.iter().enumerate() {
        assert_eq!(record.number, first + index as u64);
    }
    let copied = contents
        .records
        .iter()
        .map(|record| record.payload.to_vec());
    copied.collect()
}

fn groups() -> impl Strategy<Value = Vec<(Vec<Vec<u8>>, bool)>> {
    let payload = prop_oneof![
        Just(Vec::new()),
        proptest::collection::vec(any::<u8>(), 0..40),
        (0usize..3_000).prop_map(|len| vec![0xab; len]),
    ];
    let group = proptest::collection::vec(payload, 0..4);
    proptest::collection::vec((group, any::<bool>()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_reads_back(groups in groups(), seal: bool) {
        let sample = sample(&groups, seal);
        let contents = decode(&sample.bytes).unwrap();
        prop_assert_eq!(contents.first_record, Some(FIRST));
        prop_assert_eq!(contents.next_record(), Some(FIRST + sample.payloads.len() as u64));
        prop_assert_eq!(payloads(&contents), sample.payloads);
        prop_assert_eq!((contents.sealed, contents.proven), (seal, seal));
        prop_assert_eq!(contents.valid_len, sample.bytes.len() as u64);
    }

    #[test]
    fn a_log_cut_anywhere_reads_as_the_records_before(groups in groups(), seal: bool) {
        let sample = sample(&groups, seal);
        let sealed_from = sample.bytes.len() - FRAME_BYTES;
        for len in 0..sample.bytes.len() {
            let contents = decode(&sample.bytes[..len]).unwrap();
            prop_assert_eq!(contents.sealed, seal && len >= sealed_from);
            prop_assert!(!contents.proven);
            let whole = sample.ends.partition_point(|&end| end <= len);
            prop_assert_eq!(&payloads(&contents)[..], &sample.payloads[..whole]);
            prop_assert_eq!(contents.first_record.is_some(), len >= HEADER_BYTES);
            let valid = match whole {
                _ if contents.sealed => sealed_from,
                _ if len < HEADER_BYTES => 0,
                0 => HEADER_BYTES,
                _ => sample.ends[whole - 1],
            };
            prop_assert_eq!(contents.valid_len, valid as u64);
        }
    }

    /// Any damage at all gives an error or a prefix that holds every record known to be settled,
    /// where anything is left to tell it by.
    #[test]
    fn damage_never_yields_other_records(
        groups in groups(),
        seal: bool,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let sample = sample(&groups, seal);
        let mut bytes = sample.bytes.clone();
        for (place, value) in changes {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(contents) = decode(&bytes) {
            prop_assert!(sample.payloads.starts_with(&payloads(&contents)));
        }
    }

    #[test]
    fn arbitrary_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// All eight flips of every byte.
    #[test]
    fn every_flipped_bit_is_noticed_or_cuts_the_unsettled_end(groups in groups(), seal: bool) {
        let groups: Vec<_> = groups.into_iter().map(|(mut group, sync)| {
            group.iter_mut().for_each(|payload| payload.truncate(60));
            (group, sync)
        }).collect();
        let sample = sample(&groups, seal);
        let proven = provably_settled(&sample, &groups, seal);
        for at in 0..sample.bytes.len() * 8 {
            let mut bytes = sample.bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            let hit = sample.ends.partition_point(|&end| end <= at / 8);
            match decode(&bytes) {
                Err(error) => {
                    prop_assert_eq!(&error.file, Path::new("log/7"));
                    prop_assert!(error.offset <= (at / 8) as u64);
                }
                Ok(contents) if at / 8 < HEADER_BYTES => {
                    prop_assert_eq!(contents.first_record, None);
                    prop_assert!(sample.payloads.is_empty() && !seal);
                }
                Ok(contents) => {
                    prop_assert!(!contents.proven);
                    let in_proof = seal && at / 8 >= sample.bytes.len() - FRAME_BYTES;
                    prop_assert_eq!(contents.sealed, in_proof);
                    prop_assert!(hit >= proven, "bit {} of record {}", at, hit);
                    prop_assert_eq!(&payloads(&contents)[..], &sample.payloads[..hit]);
                }
            }
        }
    }
}

#[test]
fn a_flip_in_a_settled_record_is_corruption_and_in_the_last_a_torn_tail() {
    let groups = [(vec![b"one".to_vec()], true), (vec![b"two".to_vec()], true)];
    let sample = sample(&groups, false);
    let mut bytes = sample.bytes.clone();
    bytes[sample.ends[0] - 8] ^= 1;
    let error = decode(&bytes).unwrap_err();
    assert_eq!(error.offset, HEADER_BYTES as u64);

    let mut bytes = sample.bytes.clone();
    bytes[sample.ends[1] - 8] ^= 1;
    let contents = decode(&bytes).unwrap();
    assert_eq!(payloads(&contents), [b"one".to_vec()]);
    assert_eq!(contents.valid_len, sample.ends[0] as u64);
    assert_eq!(contents.len, bytes.len() as u64);
}

/// Writes of one group may reach the disk in any order: a lost first and a kept second record of
/// a group that was never synced are no damage.
#[test]
fn a_hole_in_the_unsynced_end_is_a_torn_tail() {
    let groups = [
        (vec![b"kept".to_vec()], true),
        (vec![b"lost".to_vec(), b"whole".to_vec()], false),
    ];
    let sample = sample(&groups, false);
    let mut bytes = sample.bytes.clone();
    bytes[sample.ends[0]..sample.ends[1]].fill(0);
    assert_eq!(payloads(&decode(&bytes).unwrap()), [b"kept".to_vec()]);
}

#[test]
fn a_seal_is_the_end_and_every_record_before_it_counts() {
    let sample = sample(&[(vec![vec![1; 20], vec![2; 20]], false)], true);
    let mut longer = sample.bytes.clone();
    longer.extend_from_slice(&[0; 8]);
    assert!(decode(&longer).is_err());
    let mut damaged = sample.bytes.clone();
    damaged[sample.ends[1] - 10] ^= 4;
    assert!(decode(&damaged).is_err(), "the last record before the seal");
}

/// A payload may be anything, also the bytes of a log; torn, it must not pass for frames that
/// prove damage.
#[test]
fn log_bytes_inside_a_payload_are_not_frames() {
    let inner = sample(
        &[(vec![vec![1; 30]], true), (vec![vec![2; 30]], true)],
        true,
    );
    let groups = [(vec![b"first".to_vec()], true), (vec![inner.bytes], true)];
    let outer = sample(&groups, false);
    for at in outer.ends[0]..outer.ends[0] + FRAME_BYTES {
        let mut bytes = outer.bytes.clone();
        bytes[at] ^= 0x10;
        assert_eq!(payloads(&decode(&bytes).unwrap()), [b"first".to_vec()]);
    }
}

#[test]
fn records_out_of_order_are_corruption() {
    let groups = [(vec![vec![1; 8]], true), (vec![vec![2; 8]], true)];
    let sample = sample(&groups, false);
    let mut swapped = sample.bytes.clone();
    let (start, middle, end) = (HEADER_BYTES, sample.ends[0], sample.ends[1]);
    swapped[start..].rotate_left(middle - start);
    assert_eq!(swapped.len(), end);
    assert!(decode(&swapped).is_err());
    let mut repeated = sample.bytes.clone();
    repeated.extend_from_slice(&sample.bytes[middle..end]);
    assert_eq!(decode(&repeated).unwrap_err().offset, end as u64);
}

#[test]
fn a_log_under_another_name_or_of_a_newer_release_is_refused() {
    let sample = sample(&[], false);
    let bytes = Bytes::from(sample.bytes.clone());
    assert!(decode_log(&bytes, Path::new("x"), NUMBER + 1).is_err());
    let mut newer = sample.bytes;
    newer[8] = 2;
    let sum = checksum(&newer[..40]);
    newer[40..48].copy_from_slice(&sum.to_le_bytes());
    let error = decode(&newer).unwrap_err();
    assert_eq!(error.what, "was written by a newer release");
}

/// Logs of the first release must be read for ever.
#[test]
fn the_format_is_pinned() {
    let storage = storage();
    let file = storage.create("golden").unwrap();
    let mut writer = LogWriter::start(file, NUMBER, FIRST, 0x5a17).unwrap();
    writer.append(b"hello");
    writer.commit(true).unwrap();
    writer.append(b"");
    writer.append(&[7; 16]);
    writer.seal().unwrap();
    let bytes = storage.read("golden").unwrap();
    assert_eq!(bytes.len(), 48 + (48 + 8) + 48 + (48 + 16) + 48 + 48);
    assert_eq!(checksum(&bytes), GOLDEN_CHECKSUM);
}

const GOLDEN_CHECKSUM: u64 = 13_408_595_390_261_396_658;

#[test]
fn names_and_numbers_belong_together() {
    assert_eq!(log_name(12), "log/000000000012.log");
    assert_eq!(log_number("000000000012.log"), Some(12));
    assert_eq!(log_number("1000000000000.log"), Some(1_000_000_000_000));
    for other in [
        "12.log",
        "+00000000012.log",
        "000000000012.log.new",
        "x.log",
        "0000000000012.log",
    ] {
        assert_eq!(log_number(other), None, "{other}");
    }
}

/// Three sealed files with two records each and an open one with one, from record 0.
fn four_files() -> MemoryStorage {
    let storage = storage();
    let mut next = 0;
    for number in [1, 2, 5] {
        let mut writer = LogWriter::create(&storage, number, next).unwrap();
        writer.append(&[next as u8]);
        writer.append(&[next as u8 + 1]);
        writer.seal().unwrap();
        next += 2;
    }
    let mut writer = LogWriter::create(&storage, 6, next).unwrap();
    writer.append(&[next as u8]);
    writer.commit(true).unwrap();
    storage
}

fn numbers(logs: &Logs) -> Vec<u64> {
    let check = |record: &LogRecord| {
        assert_eq!(record.payload[..], [record.number as u8]);
        record.number
    };
    logs.records.iter().map(check).collect()
}

#[test]
fn several_files_read_as_one_sequence() {
    let storage = four_files();
    let logs = read_logs(&storage, &[1, 2, 5, 6], 0).unwrap();
    assert_eq!((numbers(&logs), logs.next_record), ((0..7).collect(), 7));
    let logs = read_logs(&storage, &[2, 5, 6], 3).unwrap();
    assert_eq!((numbers(&logs), logs.next_record), ((3..7).collect(), 7));
    let logs = read_logs(&storage, &[], 9).unwrap();
    assert_eq!((numbers(&logs), logs.next_record), (vec![], 9));
    let logs = read_logs(&storage, &[6], 9).unwrap();
    assert_eq!((numbers(&logs), logs.next_record), (vec![], 9));
}

#[test]
fn missing_repeated_and_unfinished_files_are_corruption() {
    let storage = four_files();
    let refused = |numbers: &[u64], first| {
        let error = read_logs(&storage, numbers, first).unwrap_err();
        assert!(matches!(error, ReadError::Corrupt(_)), "{error}");
    };
    refused(&[1, 5, 6], 0);
    refused(&[2, 5, 6], 1);
    refused(&[1, 2, 6], 0);
    refused(&[2, 1], 0);
    refused(&[1, 2, 1], 0);
    // What is missing below the first wanted record does not matter.
    assert!(read_logs(&storage, &[1, 5, 6], 4).is_ok());
    let mut writer = LogWriter::create(&storage, 7, 7).unwrap();
    writer.append(&[7]);
    writer.seal().unwrap();
    refused(&[1, 2, 5, 6, 7], 0);
    assert!(read_logs(&storage, &[1, 2, 3], 0).is_err());
}

#[test]
fn recovery_seals_the_last_file_for_good() {
    let storage = four_files();
    storage
        .damage(&log_name(6), |bytes| bytes.extend_from_slice(&[9; 100]))
        .unwrap();
    let logs = recover_logs(&storage, &[1, 2, 5, 6], 0).unwrap();
    assert_eq!(numbers(&logs), (0..7).collect::<Vec<_>>());
    for seed in 0..50 {
        let after = storage.crash(seed);
        let contents = read_log(&after, 6).unwrap();
        assert!(contents.sealed && contents.records.len() == 1);
        let again = read_logs(&after, &[1, 2, 5, 6], 0).unwrap();
        assert_eq!(numbers(&again), numbers(&logs));
    }
}

#[test]
fn recovery_makes_an_empty_log_of_a_torn_header() {
    for len in [0, 10, 48] {
        let storage = four_files();
        recover_logs(&storage, &[1, 2, 5, 6], 0).unwrap();
        write_sealed(&storage, LOG_DIRECTORY, &log_name(8), &vec![0; len]).unwrap();
        let logs = recover_logs(&storage, &[1, 2, 5, 6, 8], 0).unwrap();
        assert_eq!(logs.next_record, 7);
        let mut writer = LogWriter::create(&storage, 9, logs.next_record).unwrap();
        writer.append(&[7]);
        writer.commit(true).unwrap();
        let logs = read_logs(&storage, &[1, 2, 5, 6, 8, 9], 0).unwrap();
        assert_eq!(numbers(&logs), (0..8).collect::<Vec<_>>());
    }
}

#[test]
fn recovery_steps_over_its_own_leftovers() {
    let storage = four_files();
    let leftover = format!("{}.new", log_name(6));
    write_sealed(&storage, LOG_DIRECTORY, &leftover, b"half of").unwrap();
    recover_logs(&storage, &[1, 2, 5, 6], 0).unwrap();
    assert!(read_log(&storage, 6).unwrap().sealed);
}
