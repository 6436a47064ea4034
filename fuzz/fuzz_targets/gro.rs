//! Bursts of segments through GRO; the checks are in `bywash_fuzz::gro`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bywash_fuzz::gro::run(data));
