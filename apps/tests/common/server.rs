//! `bywash` as a process in the stack's namespace: started, watched through its log and its counters, ended.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{Bed, STACK4, STACK6, wait_until};

/// How long a start may take: queues are opened, memory is locked, on a machine that may be busy.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running `bywash`.
pub struct Server {
    child: Option<Child>,
    pub directory: tempfile::TempDir,
    /// When it said that it was ready.
    pub ready_after: Duration,
}

impl Server {
    /// `bywash http` on the stack's own addresses, serving `www` of its directory, on port 80.
    pub fn http(bed: &Bed, more: &[&str]) -> Self {
        let (four, six) = (format!("{STACK4}/24"), format!("{STACK6}/64"));
        let mut arguments = vec!["http", "--address", &four, "--address", &six];
        arguments.extend(more);
        Self::start(bed, &arguments)
    }

    /// `bywash echo` on the stack's own addresses and port 7.
    pub fn echo(bed: &Bed, more: &[&str]) -> Self {
        let (four, six) = (format!("{STACK4}/24"), format!("{STACK6}/64"));
        let mut arguments = vec!["echo", "--address", &four, "--address", &six];
        arguments.extend(more);
        Self::start(bed, &arguments)
    }

    /// Starts `bywash` with these arguments, on the stack's interface, in a directory of its own, and waits until it
    /// is ready.
    pub fn start(bed: &Bed, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        fs::create_dir(directory.path().join("www")).expect("make a directory");
        fs::write(directory.path().join("www/index.html"), "<h1>hello</h1>\n").expect("write a file");
        Self::run(bywash(bed, arguments), directory)
    }

    /// Runs `command` in `www` of the directory, and waits until it is ready.
    pub fn run(mut command: Command, directory: tempfile::TempDir) -> Self {
        let log = fs::File::create(directory.path().join("log")).expect("make a log");
        let summary = fs::File::create(directory.path().join("summary")).expect("make a summary");
        command.current_dir(directory.path().join("www")).stdout(summary).stderr(log).stdin(Stdio::null());
        let start = Instant::now();
        let child = command.spawn().expect("start bywash");
        let mut server = Self { child: Some(child), directory, ready_after: Duration::ZERO };
        wait_until(START_LIMIT, "bywash is ready", || {
            let ended = server.child.as_mut().expect("started above").try_wait().expect("wait for bywash");
            assert!(ended.is_none(), "bywash ended at once: {}", server.log());
            server.log().contains("ready: ")
        });
        server.ready_after = start.elapsed();
        server
    }

    /// Adds a file to what is served.
    pub fn serve_file(&self, name: &str, content: &[u8]) {
        fs::write(self.directory.path().join("www").join(name), content).expect("write a file");
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A file of the server's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("still running").id()
    }

    /// The counters, by name with labels as in `/metrics`.
    pub fn metrics(&self, bed: &Bed) -> Metrics {
        Metrics::of_answer(bed.get(STACK4, "/metrics"))
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("run kill");
        assert!(status.success(), "kill -s {name}");
    }

    /// SIGINT; the exit code must be 0. Returns the summary.
    pub fn stop(self) -> String {
        self.stop_and_keep().1
    }

    /// As [`Server::stop`], with the directory that holds what it wrote.
    pub fn stop_and_keep(mut self) -> (tempfile::TempDir, String) {
        self.signal("INT");
        let status = self.wait(Duration::from_secs(20));
        assert!(status.success(), "bywash ended with {status}: {}", self.log());
        let summary = fs::read_to_string(self.path("summary")).expect("read the summary");
        let kept = std::mem::replace(&mut self.directory, tempfile::tempdir().expect("make a directory"));
        (kept, summary)
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(mut self) {
        self.signal("KILL");
        self.wait(Duration::from_secs(10));
    }

    /// Waits for the end, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("ended once");
        let mut status = None;
        wait_until(limit, "bywash ends", || {
            status = child.try_wait().expect("wait for bywash");
            status.is_some()
        });
        status.expect("waited until there was one")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                eprintln!("--- bywash's log:\n{}", self.log());
            }
        }
    }
}

/// `bywash` with these arguments on the stack's interface, inside its namespace.
pub fn bywash(bed: &Bed, arguments: &[&str]) -> Command {
    let mut command = bed.pair.stack.command(env!("CARGO_BIN_EXE_bywash"));
    command.env_remove("BYWASH_LOG").args(arguments).args(["--interface", &bed.pair.stack_interface]);
    command
}

/// Counters of all shards.
#[derive(Debug)]
pub struct Metrics {
    values: BTreeMap<String, f64>,
}

impl Metrics {
    /// From the answer to `GET /metrics`.
    pub fn of_answer((status, text): (u16, Vec<u8>)) -> Self {
        assert_eq!(status, 200);
        Self::parse(&String::from_utf8(text).expect("metrics are text"))
    }

    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self { values: text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect() }
    }

    /// The sum over the shards of everything whose name begins with `name` and that has `label`.
    pub fn sum(&self, name: &str, label: &str) -> u64 {
        let fits = |key: &str| {
            let (base, labels) = key.split_once('{').unwrap_or((key, ""));
            base == format!("bywash_{name}") && labels.contains(label)
        };
        let found: Vec<f64> =
            self.values.iter().filter(|(key, _)| fits(key)).map(|(_, value)| *value).collect();
        assert!(!found.is_empty(), "no metric {name} with {label}: {:?}", self.values.keys());
        found.iter().sum::<f64>() as u64
    }

    /// A counter of all shards.
    pub fn total(&self, name: &str) -> u64 {
        self.sum(name, "")
    }

    /// A counter of one shard.
    pub fn of_shard(&self, name: &str, shard: usize) -> u64 {
        self.sum(name, &format!("shard=\"{shard}\""))
    }

    /// Connections in a state: `open`, `time_wait`, `syn_received`.
    pub fn connections(&self, state: &str) -> u64 {
        self.sum("tcp_connections", &format!("state=\"{state}\""))
    }

    /// CPU seconds of all shards.
    pub fn cpu(&self) -> f64 {
        let seconds = |key: &str| key.starts_with("bywash_cpu_seconds_total");
        self.values.iter().filter(|(key, _)| seconds(key)).map(|(_, value)| value).sum()
    }

    /// Frames neither free nor in a ring: packets under way, and payload held by connections.
    pub fn frames_held(&self) -> u64 {
        self.sum("pool_frames", "place=\"packets\"") + self.sum("pool_frames", "place=\"shared\"")
    }

    /// Drops by reason, those above zero.
    pub fn drops(&self) -> Vec<(String, u64)> {
        let drops =
            self.values.iter().filter(|(key, value)| key.starts_with("bywash_drops_total") && **value > 0.0);
        drops.map(|(key, value)| (key.clone(), *value as u64)).collect()
    }
}
