//! `bywash ct -E`: a thread for each process reads its events, one shows them, until Ctrl-C or until all processes have gone.

use std::io::Write;
use std::sync::mpsc::{self, Receiver, RecvError, SyncSender, TryRecvError};
use std::time::{Duration, SystemTime};

use bywash::flow::conntrack::EventKind;
use bywash::flow::listed::ListedFlow;
use serde::Deserialize;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::args::{CtArgs, Output};
use super::show::{self, Place};
use super::{Answers, Process, read, with_pid};
use crate::control::{self, Failure};

/// Lines read and not yet shown; beyond it the processes keep what happens, up to a bound of theirs.
const WAITING_LINES: usize = 256;

enum Message {
    Line(u64, Value),
    /// A process' answer is over.
    Ended(Result<(), Failure>),
    /// Ctrl-C.
    Stop,
}

/// Shows events until Ctrl-C or until no process is left.
pub(super) fn run(args: &CtArgs, request: &Value, out: &mut impl Write) -> Result<(), Failure> {
    let processes = control::processes(&args.process)?;
    let mut running = processes.len();
    let (sender, messages) = mpsc::sync_channel(WAITING_LINES);
    stop_on_signal(sender.clone())?;
    for process in processes {
        let (sender, request) = (sender.clone(), request.clone());
        std::thread::spawn(move || read_all(&process, &request, &sender));
    }
    drop(sender);
    let (mut shown, mut answers) = (0u64, Answers::default());
    while running > 0 {
        match next(&messages, out)? {
            Ok(Message::Line(pid, value)) => shown += u64::from(show_line(args, pid, value, out)?),
            Ok(Message::Ended(answer)) => {
                running -= 1;
                match answers.take(answer) {
                    Err(Failure::Unsuccessful(message)) => tracing::warn!("{message}"),
                    other => other?,
                }
            }
            Ok(Message::Stop) | Err(RecvError) => break,
        }
    }
    out.flush()?;
    answers.end()?;
    eprintln!("bywash: {shown} flow events have been shown.");
    Ok(())
}

/// The next message; before a wait what was shown is written.
fn next(messages: &Receiver<Message>, out: &mut impl Write) -> Result<Result<Message, RecvError>, Failure> {
    match messages.try_recv() {
        Ok(message) => Ok(Ok(message)),
        Err(TryRecvError::Disconnected) => Ok(Err(RecvError)),
        Err(TryRecvError::Empty) => {
            out.flush()?;
            Ok(messages.recv())
        }
    }
}

fn read_all(process: &Process, request: &Value, sender: &SyncSender<Message>) {
    let gone = |_| Failure::Unsuccessful("nobody reads any more".into());
    let answer = process.ask(request, |pid, value| sender.send(Message::Line(pid, value)).map_err(gone));
    // The other end may have stopped.
    let _ = sender.send(Message::Ended(answer));
}

fn stop_on_signal(sender: SyncSender<Message>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let _ = sender.send(Message::Stop);
        }
    });
    Ok(())
}

/// Shows a line of an answer; whether it is an event.
fn show_line(args: &CtArgs, pid: u64, value: Value, out: &mut impl Write) -> Result<bool, Failure> {
    #[derive(Deserialize)]
    struct Line {
        shard: u64,
        event: EventKind,
        flow: ListedFlow,
    }
    if let Some(lost) = value.get("lost") {
        tracing::warn!("process {pid}: {lost} events were lost: they came faster than they were read");
        return Ok(false);
    }
    if let Some(following) = value.get("following") {
        control::warn_of_silent_shards(pid, following);
        return Ok(false);
    }
    if value.get("event").is_none() {
        return Ok(false);
    }
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    if args.shows(Output::Json) {
        let mut value = with_pid(pid, value);
        if args.shows(Output::Timestamp) {
            value["timestamp"] = time.as_secs_f64().into();
        }
        writeln!(out, "{value}")?;
    } else {
        let Line { shard, event, flow } = read(pid, value)?;
        writeln!(out, "{}", show::event(args, time, event, Place { pid, shard }, &flow))?;
    }
    Ok(true)
}
