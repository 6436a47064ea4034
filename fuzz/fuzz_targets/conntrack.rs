//! Sequences of packets through a router's gate; the checks are in `bywash_fuzz::conntrack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bywash_fuzz::conntrack::run(data));
