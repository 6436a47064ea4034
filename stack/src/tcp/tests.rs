//! Scripts against the whole engine, by topic.

mod basics;
mod checks;
mod close;
mod open;
mod pair;
mod sending;
mod windows;
