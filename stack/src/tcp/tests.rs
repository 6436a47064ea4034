//! Scripts against the whole engine, by topic.

mod basics;
mod behaviour;
mod pair;
mod wire;
