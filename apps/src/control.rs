//! Asking running processes through their control sockets: which there are, what they answer, and what is wrong with those
//! that do not. For `bywash ss` and `bywash ct`.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bywash::runtime::control_socket::{self, VERSION};
use clap::Args;
use serde_json::Value;

use crate::error::AppError;

/// How long a process may take for its next line.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which processes are asked: all that are found unless one is named.
#[derive(Clone, Debug, Args)]
pub struct ProcessArgs {
    /// Ask this process only
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Ask at this control socket only
    #[arg(long, value_name = "PATH", conflicts_with = "pid")]
    pub control: Option<PathBuf>,
}

/// Why an answer was not shown to its end.
#[derive(Debug)]
pub enum Failure {
    /// What was to be shown cannot be written.
    Output(io::Error),
    /// The process does not do what it was asked for.
    Refused {
        /// Its control socket.
        path: PathBuf,
        /// Which reason, for programs.
        code: String,
        /// The reason.
        message: String,
    },
    /// What was asked for did not come about: no process, no proper answer, nothing found.
    Unsuccessful(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl Failure {
    /// What a command comes to that ends with it. Who reads no further (`bywash ss | head`) has seen enough.
    ///
    /// # Errors
    /// All but that.
    pub fn into_result(self) -> Result<(), AppError> {
        match self {
            Self::Output(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Self::Output(error) => Err(AppError::System { what: "write the list", error }),
            Self::Refused { path, message, .. } => {
                Err(AppError::Unsuccessful(format!("{}: {message}", path.display())))
            }
            Self::Unsuccessful(message) => Err(AppError::Unsuccessful(message)),
        }
    }
}

/// A process that can be asked.
#[derive(Debug)]
pub struct Process {
    path: PathBuf,
    stream: UnixStream,
}

/// The processes to ask, connected.
///
/// # Errors
/// There is none, or none that may be asked.
pub fn processes(args: &ProcessArgs) -> Result<Vec<Process>, Failure> {
    find(args).map_err(Failure::Unsuccessful)
}

fn find(args: &ProcessArgs) -> Result<Vec<Process>, String> {
    if let Some(path) = &args.control {
        return connect(path).map(|process| vec![process]).map_err(|error| said(path, &error));
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
    let mut processes = Vec::new();
    for path in found {
        if args.pid.is_some_and(|pid| pid_of(&path) != Some(pid)) {
            continue;
        }
        match connect(&path) {
            Ok(process) => processes.push(process),
            // Left by a process that was killed: no process that could be asked.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && args.pid.is_none() => {}
            Err(error) => hidden = Some(said(&path, &error)),
        }
    }
    match (processes.is_empty(), hidden) {
        (false, None) => Ok(processes),
        (false, Some(message)) => {
            tracing::warn!("{message}");
            Ok(processes)
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

fn connect(path: &Path) -> io::Result<Process> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Process { path: path.to_owned(), stream })
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

impl Process {
    /// Sends a request (a JSON object without the version) and gives each line of the answer between header and end to
    /// `each`, with the process' id.
    ///
    /// # Errors
    /// The process refuses, goes away or answers nonsense; what `each` says.
    pub fn ask(
        &self,
        request: &Value,
        mut each: impl FnMut(u64, Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let broken = |what: String| Failure::Unsuccessful(format!("{}: {what}", self.path.display()));
        let mut request = request.clone();
        request["version"] = VERSION.into();
        let mut sending: &UnixStream = &self.stream;
        sending
            .write_all(format!("{request}\n").as_bytes())
            .map_err(|error| broken(format!("the process does not take the request: {error}")))?;
        let mut pid = 0;
        for line in BufReader::new(&self.stream).lines() {
            let line = line.map_err(|error| broken(format!("the process does not answer: {error}")))?;
            let value: Value = serde_json::from_str(&line)
                .map_err(|error| broken(format!("no answer of a bywash: {error}")))?;
            if let Some(error) = value.get("error") {
                let text =
                    |name: &str| error.get(name).and_then(Value::as_str).unwrap_or("it refused").into();
                let (code, message) = (text("code"), text("message"));
                return Err(Failure::Refused { path: self.path.clone(), code, message });
            }
            if let Some(end) = value.get("end") {
                warn_of_silent_shards(pid, end);
                return Ok(());
            }
            match value.get("pid").and_then(Value::as_u64) {
                Some(number) => pid = number,
                None => each(pid, value)?,
            }
        }
        Err(broken("the process ended before its answer did".into()))
    }
}

/// Says which shards did not answer in time, if there are any, as a part of an answer names them.
pub fn warn_of_silent_shards(pid: u64, part: &Value) {
    let silent = part.get("silent_shards").and_then(Value::as_array);
    if let Some(silent) = silent.filter(|silent| !silent.is_empty()) {
        tracing::warn!(
            "process {pid}: shards {silent:?} did not answer in time; what is shown is incomplete"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_missing_a_stale_and_a_foreign_socket_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("7.sock");
        let args = ProcessArgs { pid: None, control: Some(path.clone()) };
        let error = || match processes(&args) {
            Err(Failure::Unsuccessful(message)) => message,
            other => panic!("{other:?}"),
        };
        assert!(error().contains("no control socket"));
        drop(UnixListener::bind(&path).unwrap());
        assert!(error().contains("stale"));
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
        let process = &processes(&args).unwrap()[0];
        let answer = process.ask(&json!({"request": "sockets"}), |_, _| panic!("there is no line"));
        let Err(Failure::Unsuccessful(message)) = answer else { panic!("{answer:?}") };
        assert!(message.contains("no answer of a bywash"), "{message}");
        foreign.join().unwrap();
    }
}
