//! `bywash`.
fn main() {}
