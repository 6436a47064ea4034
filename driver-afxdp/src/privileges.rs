//! What this thread may do: its effective capabilities and the locked-memory limit, to say what is missing.

use core::fmt;
use std::fs;

/// A capability this driver needs for something (capabilities(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// Its name.
    pub name: &'static str,
    bit: u32,
}

/// AF_XDP sockets.
pub const NET_RAW: Capability = Capability { name: "CAP_NET_RAW", bit: 13 };
/// Attaching XDP programs.
pub const NET_ADMIN: Capability = Capability { name: "CAP_NET_ADMIN", bit: 12 };
/// Taking over the maps and the link of a program that another process loaded.
pub const SYS_ADMIN: Capability = Capability { name: "CAP_SYS_ADMIN", bit: 21 };
/// Loading programs and maps.
pub const BPF: Capability = Capability { name: "CAP_BPF", bit: 39 };
/// Loading programs that compare and add to pointers as compiled C does: without it the verifier rules that out.
pub const PERFMON: Capability = Capability { name: "CAP_PERFMON", bit: 38 };

impl Capability {
    /// Whether the calling thread has it, or `CAP_SYS_ADMIN`, which the kernel takes for `CAP_BPF`, `CAP_PERFMON` and,
    /// where programs are concerned, `CAP_NET_ADMIN`.
    #[must_use]
    pub fn is_effective(self) -> bool {
        let Some(effective) = effective() else { return false };
        let has = |capability: Self| effective >> capability.bit & 1 == 1;
        has(self) || ([BPF, PERFMON, NET_ADMIN].contains(&self) && has(SYS_ADMIN))
    }
}

/// The capabilities that something takes, and which of them the process lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    needed: &'static [Capability],
    lacking: Vec<Capability>,
}

impl Missing {
    /// What of `needed` the calling thread lacks.
    #[must_use]
    pub fn of(needed: &'static [Capability]) -> Self {
        let lacking = needed.iter().copied().filter(|capability| !capability.is_effective()).collect();
        Self { needed, lacking }
    }

    /// The capabilities that are missing; none when the kernel refused for another reason.
    #[must_use]
    pub fn lacking(&self) -> &[Capability] {
        &self.lacking
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |list: &[Capability]| list.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
        if self.lacking.is_empty() {
            // A user namespace's root has the bits but not the say.
            write!(
                f,
                "it takes {} in the initial user namespace, and no security module that forbids it",
                names(self.needed)
            )
        } else {
            write!(
                f,
                "this process lacks {}; run it as root, or `setcap {}+ep` on the program",
                names(&self.lacking),
                self.needed.iter().map(|c| c.name.to_lowercase()).collect::<Vec<_>>().join(",")
            )
        }
    }
}

/// Effective capabilities of the calling thread, or `None` without /proc.
fn effective() -> Option<u64> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

/// The locked-memory limit in words.
pub(crate) fn locked_memory_limit() -> String {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } != 0 {
        return "unknown".to_owned();
    }
    match limit.rlim_cur {
        libc::RLIM_INFINITY => "unlimited".to_owned(),
        bytes => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let missing = Missing { needed: &[NET_RAW, BPF], lacking: vec![NET_RAW] };
        let text = missing.to_string();
        assert!(
            text.contains("lacks CAP_NET_RAW;") && text.contains("setcap cap_net_raw,cap_bpf+ep"),
            "{text}"
        );
        let refused = Missing { needed: &[NET_RAW], lacking: Vec::new() };
        assert!(refused.to_string().contains("CAP_NET_RAW in the initial user namespace"));
    }
}
