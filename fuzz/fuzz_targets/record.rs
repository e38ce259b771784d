#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pugmark_tests::fuzzing::record(bytes));
