//! What kind of machine a benchmark ran on, as far as the figures depend on it; nothing that names the machine.

use std::fs;

use serde::{Deserialize, Serialize};

/// A kind of machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// CPUs that this process may use.
    pub cpus: usize,
    /// The processor's name, from the kernel.
    pub cpu: String,
    /// Whether there is a hypervisor below.
    pub virtual_machine: bool,
    /// Kernel version, as `6.18`.
    pub kernel: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown CPU").to_owned(),
            virtual_machine: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            kernel: release.split('.').take(2).collect::<Vec<_>>().join("."),
        }
    }

    /// In one line.
    #[must_use]
    pub fn describe(&self) -> String {
        let kind = if self.virtual_machine { "virtual machine" } else { "machine" };
        let cores = if self.cpus == 1 { "core" } else { "cores" };
        format!("{kind} with {} {cores} ({}), Linux {}", self.cpus, self.cpu, self.kernel)
    }
}

/// The value of the first line `name : value`.
fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let cpuinfo = "model\t\t: 17\nmodel name\t: Some CPU\nflags\t\t: fpu hypervisor\n";
        assert_eq!(field(cpuinfo, "model name"), Some("Some CPU"));
        assert_eq!(field(cpuinfo, "name"), None);
    }

    #[test]
    fn a_description_says_cores_cpu_and_kernel() {
        let machine =
            Machine { cpus: 2, cpu: "Some CPU".into(), virtual_machine: true, kernel: "6.18".into() };
        assert_eq!(machine.describe(), "virtual machine with 2 cores (Some CPU), Linux 6.18");
    }
}
