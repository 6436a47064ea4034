//! The engine's counters under Linux's names, where `nstat` finds them: scripts run it to see what was counted. It reads the files
//! that two environment variables name, and these name two of this process's memory.

use std::fmt::Write;
use std::sync::LazyLock;

use bywash::counters::{Counters, DropReason};
use libc::c_int;

use crate::errno::{Errno, last};

/// Files in memory that stand for `/proc/net/netstat` and `/proc/net/snmp`; none where the system has no such.
static FILES: LazyLock<Option<[c_int; 2]>> = LazyLock::new(|| {
    let file = || {
        // SAFETY: the name is a C string; the descriptor is ours to keep.
        let fd = unsafe { libc::memfd_create(c"counters".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 { Err(last()) } else { Ok(fd) }
    };
    Some([file().ok()?, file().ok()?])
});

/// Lets commands that this process runs find the counters.
///
/// # Safety
/// No other thread reads or changes the environment meanwhile.
pub(crate) unsafe fn announce() {
    for (name, fd) in ["PROC_NET_NETSTAT", "PROC_NET_SNMP"].iter().zip(FILES.iter().flatten()) {
        // SAFETY: the caller's promise.
        unsafe { std::env::set_var(name, format!("/proc/{}/fd/{fd}", std::process::id())) };
    }
}

/// Counters as they were written last.
#[derive(Default)]
pub(crate) struct Statistics {
    told: Option<[String; 2]>,
}

impl Statistics {
    /// Writes what changed.
    pub(crate) fn tell(&mut self, counters: &Counters) {
        let Some(files) = *FILES else { return };
        let texts = [table("TcpExt", &extended(counters)), table("Tcp", &standard(counters))];
        if self.told.as_ref() == Some(&texts) {
            return;
        }
        for (fd, text) in files.into_iter().zip(&texts) {
            // What could not be written leaves the counters of before: nothing depends on them but what a script finds.
            let _ = write(fd, text.as_bytes());
        }
        self.told = Some(texts);
    }
}

fn write(fd: c_int, bytes: &[u8]) -> Result<(), Errno> {
    // SAFETY: the bytes are a slice's; truncating touches no memory.
    let written = unsafe {
        libc::ftruncate(fd, 0);
        libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), 0)
    };
    if written < 0 { Err(last()) } else { Ok(()) }
}

/// A line of names and a line of numbers, as in `/proc/net/netstat`.
fn table(title: &str, counters: &[(&str, u64)]) -> String {
    let (mut names, mut numbers) = (format!("{title}:"), format!("{title}:"));
    for (name, number) in counters {
        // Writing to a String cannot fail.
        let _ = write!(names, " {name}");
        let _ = write!(numbers, " {number}");
    }
    format!("{names}\n{numbers}\n")
}

fn extended(counters: &Counters) -> Vec<(&'static str, u64)> {
    let dropped = |reason| counters.dropped(reason);
    let overflows = counters.tcp_accept_overflows;
    vec![
        ("SyncookiesSent", counters.tcp_syn_cookies_tx),
        ("SyncookiesRecv", counters.tcp_syn_cookies_rx),
        ("SyncookiesFailed", counters.tcp_syn_cookies_failed),
        ("OutOfWindowIcmps", dropped(DropReason::BadIcmp)),
        ("TW", counters.tcp_time_wait),
        ("TWRecycled", counters.tcp_time_wait_recycled),
        ("PAWSEstab", dropped(DropReason::TcpPaws)),
        ("BeyondWindow", dropped(DropReason::TcpOutOfWindow)),
        ("ListenOverflows", overflows),
        ("ListenDrops", overflows + dropped(DropReason::TcpSynQueueFull)),
        ("TCPSACKReneging", counters.tcp_sack_reneging),
        ("TCPTimeouts", counters.tcp_timeouts),
        ("TCPLossProbes", counters.tcp_tail_probes),
        ("TCPRcvQDrop", dropped(DropReason::TcpReceiveBufferFull)),
        ("TCPDSACKOldSent", counters.tcp_dsacks_tx),
        ("TCPDSACKRecv", counters.tcp_dsacks_rx),
        ("TCPAbortOnTimeout", counters.tcp_timeout_drops + counters.tcp_keepalive_drops),
        ("TCPOFOQueue", counters.tcp_out_of_order_rx),
        ("TCPChallengeACK", counters.tcp_challenge_acks),
        ("TCPFastOpenActive", counters.tcp_fastopen_active),
        ("TCPFastOpenActiveFail", counters.tcp_fastopen_active_fails),
        ("TCPFastOpenPassive", counters.tcp_fastopen_passive),
        ("TCPFastOpenPassiveFail", counters.tcp_fastopen_passive_fails),
        ("TCPFastOpenListenOverflow", counters.tcp_fastopen_listen_overflows),
        ("TCPFastOpenCookieReqd", counters.tcp_fastopen_cookie_requests),
        ("TCPFastOpenPassiveAltKey", counters.tcp_fastopen_passive_old_key),
        ("TCPKeepAlive", counters.tcp_keepalive_probes),
        ("TCPMTUPSuccess", counters.tcp_mtu_probes),
    ]
}

fn standard(counters: &Counters) -> Vec<(&'static str, u64)> {
    vec![
        ("ActiveOpens", counters.tcp_active_opens),
        ("PassiveOpens", counters.tcp_passive_opens),
        ("AttemptFails", counters.tcp_attempt_fails),
        ("EstabResets", counters.tcp_established_resets),
        ("InSegs", counters.tcp_segments_rx),
        ("OutSegs", counters.tcp_segments_tx.saturating_sub(counters.tcp_retransmits)),
        ("RetransSegs", counters.tcp_retransmits),
        ("InErrs", counters.dropped(DropReason::BadTcpChecksum) + counters.dropped(DropReason::BadTcpHeader)),
        ("OutRsts", counters.tcp_resets_tx),
        ("InCsumErrors", counters.dropped(DropReason::BadTcpChecksum)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stand_under_their_names() {
        let mut counters = Counters::default();
        counters.tcp_timeouts = 3;
        counters.drop(DropReason::TcpOutOfWindow);
        let text = table("TcpExt", &extended(&counters));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
        let of = |name: &str| lines[0].iter().position(|word| *word == name).map(|at| lines[1][at]);
        assert_eq!((of("TCPTimeouts"), of("BeyondWindow"), of("TW")), (Some("3"), Some("1"), Some("0")));
        assert_eq!((lines[0][0], lines[1][0]), ("TcpExt:", "TcpExt:"));
    }
}
