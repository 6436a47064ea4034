//! Raw bytes through [`bywash::parse::parse`]; the checks are in `bywash_fuzz::parse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bywash_fuzz::parse::run(data));
