//! The control socket: a Unix socket through which other processes of the same user look into a running stack (`bywash ss`,
//! `bywash ct`).
//!
//! Requests and answers are lines of JSON. `{"version":1,"request":"sockets"}` is answered by a header with the process'
//! id, one line for each socket (`{"shard":0,"socket":{...}}`, see [`crate::listing::Listed`]) and `{"end":{...}}`; what
//! cannot be answered by `{"version":1,"error":{"code":...,"message":...}}`. Threads of its own do the work: a shard only
//! gives out portions of [`limits::LISTING_PLACES`] places, one at a time.
//!
//! Requests about flows are answered in the same way; `filter` is a [`crate::flow::FlowFilter`], all flows unless given:
//!
//! | request | lines between header and end |
//! |---|---|
//! | `{"version":1,"request":"flows","filter":{...}}` | `{"shard":0,"flow":{...}}`, see [`crate::flow::listed::ListedFlow`] |
//! | `delete-flows`, with a filter | the same, of flows that have ended by it |
//! | `flush-flows` | none; the end says how many flows have ended |
//! | `count-flows`, with `"kinds":true` if wanted | `{"counts":{...}}`, and `{"kinds":{...}}` |
//! | `follow-flows`, with a filter and `"events":["NEW","UPDATE","DESTROY"]` | `{"following":{...}}`, then `{"shard":0,"event":"NEW","flow":{...}}`, `{"lost":N}`, `{"alive":true}` for as long as the client reads |
//!
//! A field that is not known is an error there: who asks for a deletion by a condition must not get one without it.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::control::Handle;
use super::local::Local;
use crate::limits;
use crate::listing::{Cursor, Listed};
use crate::shard::Shard;
use crate::time::Instant;

mod flows;

/// The protocol's version: a request of another one is refused. New requests and new fields do not change it.
pub const VERSION: u32 = 1;

/// Where the control sockets of root's processes are, each named after its process: `<pid>.sock`.
pub const SYSTEM_DIRECTORY: &str = "/run/bywash";

/// The directories in which processes have their control sockets unless told otherwise, those of this user last.
#[must_use]
pub fn directories() -> Vec<PathBuf> {
    let user = std::env::var_os("XDG_RUNTIME_DIR").map(|directory| PathBuf::from(directory).join("bywash"));
    core::iter::once(PathBuf::from(SYSTEM_DIRECTORY)).chain(user).collect()
}

/// The path for this process unless told otherwise, in the first of [`directories`] that there is or that can be made.
/// Sockets there whose processes have gone are removed.
///
/// # Errors
/// When there is no such directory: neither `/run/bywash` can be written nor is `XDG_RUNTIME_DIR` set.
pub fn default_path() -> io::Result<PathBuf> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no directory for it");
    for directory in directories() {
        match prepare_directory(&directory) {
            Ok(()) => return Ok(directory.join(format!("{}.sock", std::process::id()))),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn prepare_directory(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    // Whether a socket can be made in it shows by making something.
    let probe = directory.join(format!(".{}.probe", std::process::id()));
    fs::write(&probe, [])?;
    fs::remove_file(&probe)?;
    for entry in fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "sock") && is_stale(&path) {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}

/// Whether it is a socket that nobody listens on any more.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(refused)
}

/// A control socket that is served; dropping it ends that and removes the file.
pub(super) struct ControlSocket {
    path: PathBuf,
    /// Device and inode: another process may have put its own in place.
    identity: (u64, u64),
    ended: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl ControlSocket {
    /// Listens at `path`, readable and writable for this user only, in place of a stale socket if there is one.
    pub(super) fn open(path: &Path, handle: Handle) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok() && !is_stale(path) {
            let text = "it is in use, or no socket: choose another path";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        // Made beside it, so that it is there only with its final mode, and takes the stale one's place at once.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        let made = fs::set_permissions(&beside, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&beside, path))
            .and_then(|()| fs::symlink_metadata(path));
        let metadata = made.inspect_err(|_| drop(fs::remove_file(&beside)))?;
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let acceptor = std::thread::Builder::new()
            .name("bywash-control".into())
            .spawn(move || accept(&listener, &handle, &flag))?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self { path: path.to_owned(), identity, ended, acceptor: Some(acceptor) })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        // The acceptor looks at the flag when a client comes. Without its file nobody can be one: it goes with the process.
        if ours && UnixStream::connect(&self.path).is_ok() {
            let joined = self.acceptor.take().map(JoinHandle::join);
            drop(joined);
        }
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn accept(listener: &UnixListener, handle: &Handle, ended: &AtomicBool) {
    let clients = Arc::new(AtomicUsize::new(0));
    while let Ok((stream, _)) = listener.accept() {
        if ended.load(Ordering::Acquire) {
            return;
        }
        let (handle, counted) = (handle.clone(), Arc::clone(&clients));
        let _ = stream.set_read_timeout(Some(limits::CONTROL_CLIENT_PATIENCE));
        let _ = stream.set_write_timeout(Some(limits::CONTROL_CLIENT_PATIENCE));
        if clients.fetch_add(1, Ordering::AcqRel) >= limits::CONTROL_CLIENTS {
            clients.fetch_sub(1, Ordering::AcqRel);
            let _ = write_line(&mut &stream, &Refusal::new("busy", "too many clients; try again later"));
            continue;
        }
        let serve = move || {
            // A client that goes away, or is too slow, is no matter of the stack's.
            let _ = serve(&stream, &handle);
            counted.fetch_sub(1, Ordering::AcqRel);
        };
        if std::thread::Builder::new().name("bywash-client".into()).spawn(serve).is_err() {
            clients.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[derive(Deserialize)]
struct Request {
    version: u32,
    request: String,
}

#[derive(Serialize)]
struct Refusal<'a> {
    version: u32,
    error: RefusalText<'a>,
}

#[derive(Serialize)]
struct RefusalText<'a> {
    code: &'a str,
    message: &'a str,
}

impl<'a> Refusal<'a> {
    fn new(code: &'a str, message: &'a str) -> Self {
        Self { version: VERSION, error: RefusalText { code, message } }
    }
}

#[derive(Serialize)]
struct Header {
    version: u32,
    answer: &'static str,
    pid: u32,
    /// The process' command line.
    command: String,
    shards: usize,
}

impl Header {
    fn new(answer: &'static str, handle: &Handle) -> Self {
        let command = fs::read("/proc/self/cmdline").unwrap_or_default();
        let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
        Self { version: VERSION, answer, pid: std::process::id(), command, shards: handle.shards() }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    shard: usize,
    socket: &'a Listed,
}

#[derive(Serialize)]
struct End {
    end: Totals,
}

#[derive(Serialize)]
struct Totals {
    sockets: u64,
    /// Shards that did not answer in time.
    silent_shards: Vec<usize>,
}

fn write_line(stream: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *stream, line)?;
    stream.write_all(b"\n")
}

/// Answers one client's requests until it has none left.
fn serve(stream: &UnixStream, handle: &Handle) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = BufWriter::new(stream);
    loop {
        let mut line = Vec::new();
        let longest = limits::CONTROL_REQUEST_BYTES as u64;
        if reader.by_ref().take(longest).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            write_line(
                &mut writer,
                &Refusal::new("bad-request", "a request is one line of at most 4096 bytes"),
            )?;
            return writer.flush();
        }
        match serde_json::from_slice::<Request>(&line) {
            Err(error) => write_line(&mut writer, &Refusal::new("bad-request", &error.to_string()))?,
            Ok(request) if request.version != VERSION => {
                let text = format!("version {} is not spoken here, {VERSION} is", request.version);
                write_line(&mut writer, &Refusal::new("bad-version", &text))?;
            }
            Ok(request) => match request.request.as_str() {
                "sockets" => answer_sockets(&mut writer, handle)?,
                other => match flows::Request::parse(other, &line) {
                    None => {
                        let others = flows::REQUESTS.join("`, `");
                        let text = format!("no request `{other}`: there are `sockets`, `{others}`");
                        write_line(&mut writer, &Refusal::new("unknown-request", &text))?;
                    }
                    Some(Err(error)) => {
                        write_line(&mut writer, &Refusal::new("bad-request", &error.to_string()))?;
                    }
                    Some(Ok(request)) => request.answer(stream, &mut writer, handle)?,
                },
            },
        }
        writer.flush()?;
    }
}

fn answer_sockets(writer: &mut impl Write, handle: &Handle) -> io::Result<()> {
    write_line(writer, &Header::new("sockets", handle))?;
    let mut totals = Totals { sockets: 0, silent_shards: Vec::new() };
    for shard in 0..handle.shards() {
        let mut cursor = Cursor::default();
        while !cursor.is_at_end() {
            let portion = ask(handle, shard, move |stack, now| {
                let mut next = cursor;
                (stack.list_sockets(now, &mut next, limits::LISTING_PLACES), next)
            });
            let Some((portion, next)) = portion else {
                totals.silent_shards.push(shard);
                break;
            };
            cursor = next;
            totals.sockets += portion.len() as u64;
            for socket in &portion {
                write_line(writer, &Line { shard, socket })?;
            }
        }
    }
    write_line(writer, &End { end: totals })
}

/// Has a shard answer between two bursts; `None`: it does not in time.
fn ask<T: Send + 'static>(
    handle: &Handle,
    shard: usize,
    question: impl FnOnce(&mut Shard, Instant) -> T + Send + 'static,
) -> Option<T> {
    on_thread(handle, shard, |local| local.with(question).ok())?
}

/// As [`ask`], with what belongs to the shard's thread.
fn on_thread<T: Send + 'static>(
    handle: &Handle,
    shard: usize,
    question: impl FnOnce(&Local) -> T + Send + 'static,
) -> Option<T> {
    let (sender, answer) = crossbeam_channel::bounded(1);
    let ask = move |local: &Rc<Local>| {
        let _ = sender.try_send(question(local));
    };
    handle.try_send(shard, Box::new(ask)).ok()?;
    answer.recv_timeout(limits::LISTING_PATIENCE).ok()
}
