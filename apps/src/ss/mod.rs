//! `bywash ss`: the sockets of running processes, asked for through their control sockets and shown as ss(8) does.

mod filter;
mod model;
mod show;

use std::io::{self, BufRead as _, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bywash::runtime::control_socket::{self, VERSION};
use serde_json::Value;

use crate::cli::SsArgs;
use crate::error::AppError;
use filter::Filter;
use model::{Line, Socket, State};
use show::Summary;

/// How long a process may take for its next line.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the command.
///
/// # Errors
/// A wrong filter; no process, none that may be asked, or one that does not answer as it should.
pub fn run(args: &SsArgs) -> Result<(), AppError> {
    let args = args.clone().completed();
    let filter = Filter::parse(&args.filter).map_err(|error| AppError::Usage(error.to_string()))?;
    let output = Output { args: &args, filter, summary: Summary::default(), json: Vec::new() };
    let mut out = io::BufWriter::new(io::stdout().lock());
    match list(output, &mut out).and_then(|()| Ok(out.flush()?)) {
        // `bywash ss | head` has seen enough.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(Failure::Output(error)) => Err(AppError::System { what: "write the list", error }),
        Err(Failure::Process(message)) => Err(AppError::Unsuccessful(message)),
        Ok(()) => Ok(()),
    }
}

/// Why a list ends early.
enum Failure {
    Output(io::Error),
    Process(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn list(mut output: Output<'_>, out: &mut impl Write) -> Result<(), Failure> {
    let streams = processes(output.args).map_err(Failure::Process)?;
    if !output.args.json && !output.args.summary && !output.args.no_header {
        writeln!(out, "{}", show::titles(output.args))?;
    }
    for (path, stream) in streams {
        ask(&path, &stream, |pid, line| output.show(pid, line, out))?;
    }
    if output.args.json {
        serde_json::to_writer_pretty(&mut *out, &output.json).map_err(io::Error::from)?;
        writeln!(out)?;
    } else if output.args.summary {
        writeln!(out, "{}", output.summary)?;
    }
    Ok(())
}

/// What becomes of the sockets.
struct Output<'a> {
    args: &'a SsArgs,
    filter: Filter,
    summary: Summary,
    json: Vec<Value>,
}

impl Output<'_> {
    fn show(&mut self, pid: u64, value: Value, out: &mut impl Write) -> Result<(), Failure> {
        let line: Line = serde_json::from_value(value.clone()).map_err(|error| {
            Failure::Process(format!("process {pid} sent a socket that is none: {error}"))
        })?;
        if !self.wanted(&line.socket) {
            return Ok(());
        }
        if self.args.json {
            let mut object = value;
            object["pid"] = pid.into();
            self.json.push(object);
        } else if self.args.summary {
            self.summary.add(&line.socket);
        } else {
            writeln!(out, "{}", show::row(self.args, pid as u32, line.shard, &line.socket))?;
        }
        Ok(())
    }

    fn wanted(&self, socket: &Socket) -> bool {
        let args = self.args;
        let protocol = if socket.protocol == "udp" { args.udp } else { args.tcp };
        let family = match socket.local.is_ipv4() {
            true => args.ipv4 || !args.ipv6,
            false => args.ipv6 || !args.ipv4,
        };
        let state = socket.state();
        let shown = match &self.filter.states {
            Some(states) => states.contains(&state),
            None if args.all || args.summary => true,
            None if args.listening => matches!(state, State::Listen | State::Closed),
            None => !matches!(state, State::Listen | State::Closed | State::TimeWait | State::SynReceived),
        };
        protocol && family && shown && self.filter.fits(socket)
    }
}

/// The control sockets to ask, connected.
fn processes(args: &SsArgs) -> Result<Vec<(PathBuf, UnixStream)>, String> {
    if let Some(path) = &args.control {
        return connect(path).map(|stream| vec![(path.clone(), stream)]).map_err(|error| said(path, &error));
    }
    let directories = control_socket::directories();
    let mut found: Vec<PathBuf> = Vec::new();
    let mut hidden = None;
    for directory in &directories {
        match std::fs::read_dir(directory) {
            Ok(entries) => {
                found.extend(
                    entries.flatten().map(|entry| entry.path()).filter(|path| pid_of(path).is_some()),
                );
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => hidden = Some(said(directory, &error)),
        }
    }
    found.sort();
    let mut streams = Vec::new();
    for path in found {
        if args.pid.is_some_and(|pid| pid_of(&path) != Some(pid)) {
            continue;
        }
        match connect(&path) {
            Ok(stream) => streams.push((path, stream)),
            // Left by a process that was killed: no process that could be asked.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && args.pid.is_none() => {}
            Err(error) => hidden = Some(said(&path, &error)),
        }
    }
    match (streams.is_empty(), hidden) {
        (false, None) => Ok(streams),
        (false, Some(message)) => {
            tracing::warn!("{message}");
            Ok(streams)
        }
        (true, Some(message)) => Err(message),
        (true, None) => {
            let places: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
            let which = args.pid.map_or_else(String::new, |pid| format!(" with pid {pid}"));
            Err(format!(
                "no running bywash process{which} has a control socket in {}; for one started with --control PATH, say \
                 the same here",
                places.join(" or ")
            ))
        }
    }
}

fn pid_of(path: &Path) -> Option<u32> {
    path.extension().filter(|extension| *extension == "sock")?;
    path.file_stem()?.to_str()?.parse().ok()
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What it means that a control socket cannot be used, and what to do.
fn said(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        ErrorKind::PermissionDenied => {
            format!("{path}: permission denied; run this as the user that runs the process, or as root")
        }
        ErrorKind::ConnectionRefused => {
            format!("{path} is stale: its process has ended without removing it, and it can be deleted")
        }
        ErrorKind::NotFound => format!("{path}: there is no control socket; is the process running?"),
        _ => format!("{path}: {error}"),
    }
}

/// Asks one process for its sockets and gives each to `each`.
fn ask(
    path: &Path,
    stream: &UnixStream,
    mut each: impl FnMut(u64, Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let broken = |what: String| Failure::Process(format!("{}: {what}", path.display()));
    let request = format!("{{\"version\":{VERSION},\"request\":\"sockets\"}}\n");
    let mut sending: &UnixStream = stream;
    sending.write_all(request.as_bytes()).map_err(|error| broken(error.to_string()))?;
    let mut pid = 0;
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(|error| broken(format!("the process does not answer: {error}")))?;
        let value: Value =
            serde_json::from_str(&line).map_err(|error| broken(format!("no answer of a bywash: {error}")))?;
        if let Some(error) = value.get("error") {
            let message = error.get("message").and_then(Value::as_str).unwrap_or("it refused");
            return Err(broken(message.to_owned()));
        }
        if let Some(end) = value.get("end") {
            let silent = end.get("silent_shards").and_then(Value::as_array);
            if let Some(silent) = silent.filter(|silent| !silent.is_empty()) {
                tracing::warn!(
                    "process {pid}: shards {silent:?} did not answer in time; the list is incomplete"
                );
            }
            return Ok(());
        }
        if value.get("socket").is_some() {
            each(pid, value)?;
        } else if let Some(number) = value.get("pid").and_then(Value::as_u64) {
            pid = number;
        }
    }
    Err(broken("the process ended before its answer did".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::os::unix::net::UnixListener;

    fn args(more: &[&str]) -> SsArgs {
        let line = ["bywash", "ss"].iter().chain(more);
        match crate::cli::Cli::parse_from(line).command {
            crate::cli::Command::Ss(args) => args.completed(),
            other => panic!("{other:?}"),
        }
    }

    fn socket(protocol: &str, state: &str, local: &str) -> Socket {
        Socket {
            protocol: protocol.into(),
            state: state.into(),
            local: local.parse().unwrap(),
            ..Socket::default()
        }
    }

    #[test]
    fn options_choose_protocol_family_and_states() {
        let (four, six) = ("192.0.2.1:80", "[2001:db8::1]:80");
        let all = [
            socket("tcp", "LISTEN", four),
            socket("tcp", "ESTABLISHED", four),
            socket("tcp", "ESTABLISHED", six),
            socket("tcp", "TIME-WAIT", four),
            socket("tcp", "SYN-RECEIVED", four),
            socket("udp", "CLOSED", four),
        ];
        for (line, expected) in [
            (&[][..], &[1, 2][..]),
            (&["-l"], &[0]),
            (&["-a"], &[0, 1, 2, 3, 4]),
            (&["-ta4"], &[0, 1, 3, 4]),
            (&["-6"], &[2]),
            (&["-ua"], &[5]),
            (&["-tul"], &[0, 5]),
            (&["state", "time-wait"], &[3]),
            (&["-n", "exclude", "established"], &[0, 3, 4]),
        ] {
            let args = args(line);
            let filter = Filter::parse(&args.filter).unwrap();
            let output = Output { args: &args, filter, summary: Summary::default(), json: Vec::new() };
            let shown: Vec<_> = (0..all.len()).filter(|&index| output.wanted(&all[index])).collect();
            assert_eq!(shown, expected, "{line:?}");
        }
    }

    #[test]
    fn a_missing_a_stale_and_a_foreign_socket_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("7.sock");
        let text = path.to_str().unwrap();
        let error = |args: &SsArgs| run(args).unwrap_err().to_string();
        assert!(error(&args(&["--control", text])).contains("no control socket"));
        drop(UnixListener::bind(&path).unwrap());
        assert!(error(&args(&["--control", text])).contains("stale"));
        assert_eq!(
            (pid_of(&path), pid_of(Path::new("x.sock")), pid_of(Path::new("7"))),
            (Some(7), None, None)
        );

        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let foreign = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
        });
        assert!(error(&args(&["--control", text])).contains("no answer of a bywash"));
        foreign.join().unwrap();
    }
}
