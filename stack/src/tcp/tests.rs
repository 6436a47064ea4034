//! Scripts against the whole engine, by topic; `pair` runs two engines over a bad link; `behaviour` tests the same things
//! once more, written without knowledge of the engine, on its own harness (`wire`); `rfc9293` goes through the events of RFC
//! 9293 section 3.10, state by state.

mod accurate_ecn;
mod basics;
mod behaviour;
mod chaos;
mod checks;
mod close;
mod ecn;
mod fast_path;
mod fastopen;
mod gso;
mod info;
mod ip_fields;
mod look_ahead;
mod open;
mod pair;
mod path_mtu;
mod recovery;
mod rfc9293;
mod sending;
mod socket_options;
mod syn_cookies;
mod windows;
mod wire;
