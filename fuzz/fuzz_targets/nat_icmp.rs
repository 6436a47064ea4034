//! ICMP errors and what they quote, translated; the checks are in `bywash_fuzz::nat_icmp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bywash_fuzz::nat_icmp::run(data));
