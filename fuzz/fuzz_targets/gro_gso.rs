//! Bursts of segments through GRO, forwarding and GSO; the checks are in `bywash_fuzz::gro_gso`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bywash_fuzz::gro_gso::run(data));
