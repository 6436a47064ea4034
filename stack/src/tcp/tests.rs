//! Scripts against the whole engine, by topic.

mod basics;
mod pair;
