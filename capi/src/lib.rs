//! Bywash behind a C interface: the shared object that a packetdrill-style script runner loads to drive the TCP engine in
//! virtual time (`packetdrill --so_filename=libbywash_packetdrill.so`).
//!
//! A call comes in through `abi` (C types, errno, no unwinding), takes the one lock of `monitor` (blocking, the virtual
//! clock, who may move it), works on the descriptors of `sockets`, `poll` and `epoll` with the options of `sockopt` and the
//! error queue of `notices`, and ends in `stack`: the TCP engine, with the packets it sent in memory. `sysctl` turns `/proc/sys/net` and the runner's
//! flags into its configuration, `address` and `tcp_info` know Linux's layouts.

pub mod abi;
mod address;
mod bursts;
mod device;
mod epoll;
mod errno;
mod flags;
mod io;
mod monitor;
mod notices;
mod poll;
mod sockets;
mod sockopt;
mod stack;
mod statistics;
mod sysctl;
mod tcp_info;
mod urgent;
