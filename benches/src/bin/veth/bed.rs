//! Where everything runs: two network namespaces joined by a veth pair, the server on the first core and its client or
//! peer on the last. The namespaces have no names and vanish with this process; programs started in them end with it.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bywash_afxdp::testing::{Namespace, VethOptions, VethPair};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::Result;

// Addresses that RFC 5737 keeps for documentation.

/// The address of Bywash, and of the raw programs in its place.
pub const STACK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The address of servers on the kernel's TCP, at the same interface.
pub const KERNEL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
/// The address of the client or peer.
pub const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(15);

/// The first and the last core that this process may use.
pub fn cores() -> Result<[usize; 2]> {
    let allowed = sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    let first = cpus.next().ok_or("no CPU to run on")?;
    Ok([first, cpus.next_back().unwrap_or(first)])
}

/// A side of the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// What is measured.
    Server,
    /// What makes it work.
    Client,
}

/// The wire and its two ends.
pub struct Bed {
    /// Namespaces and interfaces: the server's is `stack`.
    pub pair: VethPair,
    cores: [usize; 2],
}

impl Bed {
    /// A pair of this MTU. `offloads`: checksums, TSO, GSO and GRO of both ends, which veth has on by default.
    pub fn new(mtu: usize, offloads: bool) -> Result<Self> {
        let pair = VethPair::new(VethOptions { queues: 1, mtu, peer_offloads: offloads });
        if !offloads {
            pair.stack.sh("ethtool", &format!("-K {} tx off tso off gso off gro off", pair.stack_interface));
        }
        pair.stack_address(&format!("{KERNEL}/24"));
        pair.peer_address(&format!("{PEER}/24"));
        // Ten thousands of short connections: all ports, and those in TIME-WAIT again after a second.
        pair.peer.sysctl("net/ipv4/ip_local_port_range", "1024 65535");
        pair.peer.sysctl("net/ipv4/tcp_tw_reuse", "1");
        pair.stack.sysctl("net/core/somaxconn", "8192");
        // Linux's default and ours, whatever this machine's is. Where namespaces may not choose CUBIC they may choose Reno:
        // without losses both do the same. Neither paces, as BBR does.
        for namespace in [&pair.stack, &pair.peer] {
            let choose = |name| fs::write("/proc/sys/net/ipv4/tcp_congestion_control", name);
            namespace.run(|| choose("cubic").or_else(|_| choose("reno")))?;
        }
        Ok(Self { pair, cores: cores()? })
    }

    fn namespace(&self, side: Side) -> &Namespace {
        match side {
            Side::Server => &self.pair.stack,
            Side::Client => &self.pair.peer,
        }
    }

    /// The core of a side.
    pub fn core(&self, side: Side) -> usize {
        self.cores[side as usize]
    }

    /// Puts the calling thread into a side's namespace and onto its core, for good.
    pub fn enter(&self, side: Side) -> Result<()> {
        self.namespace(side).enter();
        let mut cpus = CpuSet::new();
        cpus.set(self.core(side));
        sched_setaffinity(None, &cpus)?;
        Ok(())
    }

    /// Runs `work` on a thread of a side and waits for it.
    pub fn on<T: Send>(&self, side: Side, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let entered = || self.enter(side).and_then(|()| work());
        thread::scope(|scope| scope.spawn(entered).join()).unwrap_or_else(|_| Err("a thread panicked".into()))
    }

    /// A command of a side: in its namespace, on its core, gone when this process is.
    pub fn command(&self, side: Side, program: impl AsRef<Path>) -> Command {
        let mut command = self.namespace(side).command("setpriv");
        command.args(["--pdeathsig", "KILL", "taskset", "--cpu-list", &self.core(side).to_string()]);
        command.arg(program.as_ref()).stdin(Stdio::null());
        command
    }

    /// Runs a command of the client's side to its end and returns its output.
    pub fn run(&self, command: &mut Command) -> Result<String> {
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{command:?}: {}\n{text}{errors}", output.status).into());
        }
        Ok(text)
    }

    /// Starts `bywash` with these arguments on the server's side, at [`STACK`], and waits until it accepts on `port`.
    pub fn bywash(&self, command: &str, arguments: &[&str], port: u16) -> Result<Server> {
        let mut bywash = self.command(Side::Server, sibling("bywash")?);
        bywash.args([
            command,
            "--interface",
            &self.pair.stack_interface,
            "--address",
            &format!("{STACK}/24"),
        ]);
        bywash.args(["--cpus", &self.core(Side::Server).to_string(), "--port", &port.to_string()]);
        bywash.args(["--no-control", "--log", "error"]).args(arguments);
        bywash.stdout(Stdio::null());
        let server = Server(bywash.spawn()?);
        self.await_port(STACK, port)?;
        Ok(server)
    }

    /// Waits until a server answers.
    pub fn await_port(&self, address: Ipv4Addr, port: u16) -> Result<()> {
        let started = Instant::now();
        self.on(Side::Client, || {
            let address = (address, port).into();
            loop {
                match std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
                    Ok(_) => return Ok(()),
                    Err(error) if started.elapsed() > PATIENCE => {
                        return Err(format!("no server at {address}: {error}").into());
                    }
                    Err(_) => thread::sleep(Duration::from_millis(20)),
                }
            }
        })
    }
}

/// A server that ends when this is dropped.
pub struct Server(Child);

impl Server {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// What it says, if that is piped.
    pub fn stdout(&mut self) -> Option<&mut ChildStdout> {
        self.0.stdout.as_mut()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM to the process itself: `setpriv` and `taskset` have become it.
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(3) {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program that ends when the returned value is dropped.
pub fn start(command: &mut Command) -> Result<Server> {
    // A group of its own: Ctrl-C ends this process, which ends it.
    Ok(Server(command.process_group(0).spawn()?))
}

/// The program `name` beside this one.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !fs::exists(&path)? {
        return Err(format!("{} is not built: cargo build --release", path.display()).into());
    }
    Ok(path)
}

/// A program in the path, or unpacked below the target directory by apps/scripts/setup.sh.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let exe = std::env::current_exe().unwrap_or_default();
    let target = exe.ancestors().nth(2).unwrap_or(Path::new("target"));
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), target.join("bench-nginx/usr/sbin")])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}
