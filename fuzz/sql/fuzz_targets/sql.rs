#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _answered_or_not = pugmark_query::sql::fuzzing::statement(text);
});
