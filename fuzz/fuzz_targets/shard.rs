//! Frames, segments, time jumps and user calls into a live shard; the checks are in `bywash_fuzz::shard`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bywash_fuzz::shard::run(data));
