//! `%{ assert tcpi_... }%`: the assertions of a script, with the values they ask for at their time, are collected into one
//! Python program that runs at the end.

use std::fmt::Write;
use std::process::Command;

use libc::c_int;

use crate::interface::Interface;

/// Names and widths of `struct tcp_info` behind its first eight bytes, in order.
const FIELDS: &[(&str, usize)] = &[
    ("rto", 4),
    ("ato", 4),
    ("snd_mss", 4),
    ("rcv_mss", 4),
    ("unacked", 4),
    ("sacked", 4),
    ("lost", 4),
    ("retrans", 4),
    ("fackets", 4),
    ("last_data_sent", 4),
    ("last_ack_sent", 4),
    ("last_data_recv", 4),
    ("last_ack_recv", 4),
    ("pmtu", 4),
    ("rcv_ssthresh", 4),
    ("rtt", 4),
    ("rttvar", 4),
    ("snd_ssthresh", 4),
    ("snd_cwnd", 4),
    ("advmss", 4),
    ("reordering", 4),
    ("rcv_rtt", 4),
    ("rcv_space", 4),
    ("total_retrans", 4),
    ("pacing_rate", 8),
    ("max_pacing_rate", 8),
    ("bytes_acked", 8),
    ("bytes_received", 8),
    ("segs_out", 4),
    ("segs_in", 4),
    ("notsent_bytes", 4),
    ("min_rtt", 4),
    ("data_segs_in", 4),
    ("data_segs_out", 4),
    ("delivery_rate", 8),
    ("busy_time", 8),
    ("rwnd_limited", 8),
    ("sndbuf_limited", 8),
    ("delivered", 4),
    ("delivered_ce", 4),
    ("bytes_sent", 8),
    ("bytes_retrans", 8),
    ("dsack_dups", 4),
    ("reord_seen", 4),
    ("rcv_ooopack", 4),
    ("snd_wnd", 4),
    ("rcv_wnd", 4),
    ("rehash", 4),
    ("total_rto", 2),
    ("total_rto_recoveries", 2),
    ("total_rto_time", 4),
    ("received_ce", 4),
    ("delivered_e1_bytes", 4),
    ("delivered_e0_bytes", 4),
    ("delivered_ce_bytes", 4),
    ("received_e1_bytes", 4),
    ("received_e0_bytes", 4),
    ("received_ce_bytes", 4),
];

/// `SO_MEMINFO`, and its counts in order.
const SO_MEMINFO: c_int = 55;
const MEMORY: &[&str] = &[
    "RMEM_ALLOC",
    "RCVBUF",
    "WMEM_ALLOC",
    "SNDBUF",
    "FWD_ALLOC",
    "WMEM_QUEUED",
    "OPTMEM",
    "BACKLOG",
    "DROPS",
];

const BYTES: &[&str] = &["state", "ca_state", "retransmits", "probes", "backoff", "options"];

const CONSTANTS: &str = "\
TCP_ESTABLISHED, TCP_SYN_SENT, TCP_SYN_RECV, TCP_FIN_WAIT1, TCP_FIN_WAIT2 = 1, 2, 3, 4, 5
TCP_TIME_WAIT, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_LISTEN, TCP_CLOSING = 6, 7, 8, 9, 10, 11
TCP_CA_Open, TCP_CA_Disorder, TCP_CA_CWR, TCP_CA_Recovery, TCP_CA_Loss = 0, 1, 2, 3, 4
TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK, TCPI_OPT_WSCALE, TCPI_OPT_ECN, TCPI_OPT_ECN_SEEN = 1, 2, 4, 8, 16
TCPI_OPT_SYN_DATA = 32
";

/// The program so far.
#[derive(Default)]
pub struct Assertions(String);

impl Assertions {
    /// Takes note of the figures of `fd` now, and of the code that asks for them.
    pub fn note(&mut self, interface: &Interface, fd: c_int, line: usize, code: &str) -> Result<(), String> {
        let info = interface.getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, 512).ok_or("no TCP_INFO")?;
        let program = &mut self.0;
        if program.is_empty() {
            program.push_str(CONSTANTS);
        }
        let number = |at: usize, width: usize| {
            let mut bytes = [0; 8];
            if let Some(field) = info.get(at..at + width) {
                bytes[..width].copy_from_slice(field);
            }
            u64::from_le_bytes(bytes)
        };
        for (at, name) in BYTES.iter().enumerate() {
            let _ = writeln!(program, "tcpi_{name} = {}", number(at, 1));
        }
        let _ = writeln!(program, "tcpi_snd_wscale = {}", number(6, 1) & 15);
        let _ = writeln!(program, "tcpi_rcv_wscale = {}", number(6, 1) >> 4);
        let _ = writeln!(program, "tcpi_fastopen_client_fail = {}", number(7, 1) >> 1 & 3);
        let mut at = 8;
        for (name, width) in FIELDS {
            let _ = writeln!(program, "tcpi_{name} = {}", number(at, *width));
            at += width;
        }
        let memory = interface.getsockopt(fd, libc::SOL_SOCKET, SO_MEMINFO, 64).unwrap_or_default();
        for (name, value) in MEMORY.iter().zip(memory.chunks_exact(4)) {
            let value = u32::from_le_bytes(value.try_into().unwrap_or_default());
            let _ = writeln!(program, "SK_MEMINFO_{name} = {value}");
        }
        let _ = writeln!(program, "line = {line}\n{}", code.trim());
        Ok(())
    }

    /// Runs the program. Without Python it says so and passes.
    pub fn check(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        let program = format!(
            "import sys, traceback\nline = 0\nprogram = {:?}\ntry:\n    exec(program)\nexcept AssertionError as error:\n    sys.exit(f'line {{line}}: assertion failed: {{error}} in {{traceback.format_exc().splitlines()[-2:]}}')\n",
            self.0
        );
        match Command::new("python3").args(["-c", &program]).output() {
            Err(_) => {
                eprintln!("  SKIPPED the script's assertions: there is no python3");
                Ok(())
            }
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}
