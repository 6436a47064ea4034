//! The differential test's parts: packets and what is read from them, the routers, scripts and the differences known.

pub mod known;
pub mod link;
pub mod memory;
pub mod packets;
pub mod router;
pub mod scenarios;
pub mod script;
pub mod show;
pub mod wire;
