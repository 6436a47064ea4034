//! The `bywash` command's parts, as a library so that each can be tested on its own.
//!
//! [`cli`] and [`config_file`] say what the user wants; [`stack`] opens the NIC and starts the runtime for it, with
//! [`kernel_net`] reading what the kernel knows of the NIC and [`signals`] ending it; [`echo`], [`http`], [`ping`] and
//! [`get`] are the applications; [`nic`] shows a NIC without starting anything.

pub mod cli;
pub mod config_file;
pub mod http;
pub mod units;
