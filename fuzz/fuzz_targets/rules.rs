//! Any text as rules; the checks are in `bywash_fuzz::rules`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bywash_fuzz::rules::run(data));
