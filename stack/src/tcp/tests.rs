//! Scripts against the whole engine, by topic; `pair` runs two engines over a bad link; `behaviour` tests the same things
//! once more, written without knowledge of the engine, on its own harness (`wire`).

mod basics;
mod behaviour;
mod chaos;
mod checks;
mod close;
mod fastopen;
mod info;
mod open;
mod pair;
mod recovery;
mod sending;
mod syn_cookies;
mod windows;
mod wire;
