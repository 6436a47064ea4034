//! `bywash ct`: the flows that running processes track, asked for through their control sockets: listed, ended, counted and
//! followed as conntrack(8) does with the kernel's.

pub mod args;
mod follow;
mod show;

use std::io::{self, Write};

use bywash::flow::listed::{FlowCounts, FlowKinds, ListedFlow};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::control::{self, Failure, Process};
use crate::error::AppError;
use args::{CtArgs, Output};
use show::Place;

/// Runs the command.
///
/// # Errors
/// Options that make no sense; no process, none that tracks flows or that may be asked; no flow to show (-G) or to end (-D).
pub fn run(args: &CtArgs) -> Result<(), AppError> {
    if let Some(contradiction) = args.filter.contradiction() {
        return Err(AppError::Usage(contradiction.into()));
    }
    let filter = args.filter.filter();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = if args.event {
        let request = json!({"request": "follow-flows", "filter": filter, "events": args.events()});
        follow::run(args, &request, &mut out)
    } else if args.count {
        count(args, &mut out)
    } else if args.flush {
        ask_all(args, &json!({"request": "flush-flows"}), |_, _| Ok(()))
            .map(|()| eprintln!("bywash: connection tracking table has been emptied."))
    } else if args.get {
        if filter.tuple().is_none() {
            let text =
                "-G needs all of one flow: -p, -s, -d, and --sport and --dport or --icmp-type and --icmp-id";
            return Err(AppError::Usage(text.into()));
        }
        list(args, &json!({"request": "flows", "filter": filter}), &mut out).and_then(|shown| {
            closing(shown, "shown");
            if shown == 0 { Err(Failure::Unsuccessful("such a flow does not exist".into())) } else { Ok(()) }
        })
    } else if args.delete {
        list(args, &json!({"request": "delete-flows", "filter": filter}), &mut out).and_then(|deleted| {
            if deleted == 0 {
                return Err(Failure::Unsuccessful("0 flow entries have been deleted.".into()));
            }
            closing(deleted, "deleted");
            Ok(())
        })
    } else {
        list(args, &json!({"request": "flows", "filter": filter}), &mut out)
            .map(|shown| closing(shown, "shown"))
    };
    done.and_then(|()| Ok(out.flush()?)).or_else(Failure::into_result)
}

fn closing(flows: u64, done: &str) {
    eprintln!("bywash: {flows} flow entries have been {done}.");
}

/// Shows the flows that the processes answer with; how many.
fn list(args: &CtArgs, request: &Value, out: &mut impl Write) -> Result<u64, Failure> {
    #[derive(Deserialize)]
    struct Line {
        shard: u64,
        flow: ListedFlow,
    }
    let mut shown = 0;
    ask_all(args, request, |pid, value| {
        shown += 1;
        if args.shows(Output::Json) {
            return Ok(writeln!(out, "{}", with_pid(pid, value))?);
        }
        let Line { shard, flow } = read(pid, value)?;
        Ok(writeln!(out, "{}", show::flow(args, Place { pid, shard }, &flow))?)
    })?;
    out.flush()?;
    Ok(shown)
}

fn count(args: &CtArgs, out: &mut impl Write) -> Result<(), Failure> {
    let (extended, as_json) = (args.shows(Output::Extended), args.shows(Output::Json));
    let request = json!({"request": "count-flows", "kinds": extended});
    let (mut counts, mut kinds) = (FlowCounts::default(), FlowKinds::default());
    ask_all(args, &request, |pid, mut value| {
        if as_json {
            return Ok(writeln!(out, "{}", with_pid(pid, value))?);
        }
        if let Some(of_process) = value.get_mut("counts").map(Value::take) {
            let FlowCounts { entries, maximum } = read(pid, of_process)?;
            counts.entries += entries;
            counts.maximum += maximum;
        } else if let Some(of_process) = value.get_mut("kinds").map(Value::take) {
            kinds.merge(&read(pid, of_process)?);
        }
        Ok(())
    })?;
    match (as_json, extended) {
        (true, _) => {}
        (false, true) => writeln!(out, "{}", show::counts(counts, &kinds))?,
        (false, false) => writeln!(out, "{}", counts.entries)?,
    }
    Ok(())
}

/// Asks all processes that are meant. Those that track no flows matter only when none does.
fn ask_all(
    args: &CtArgs,
    request: &Value,
    mut each: impl FnMut(u64, Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut answers = Answers::default();
    for process in control::processes(&args.process)? {
        answers.take(process.ask(request, &mut each))?;
    }
    answers.end()
}

/// How the processes answered.
#[derive(Default)]
struct Answers {
    tracking: bool,
    /// The last that tracks no flows.
    untracked: Option<Failure>,
}

impl Answers {
    /// Takes one process' answer in.
    ///
    /// # Errors
    /// What it failed with, but for not tracking flows.
    fn take(&mut self, answer: Result<(), Failure>) -> Result<(), Failure> {
        match answer {
            Err(Failure::Refused { path, code, message }) if hint(&code).is_some() => {
                let hint = hint(&code).unwrap_or_default();
                self.untracked =
                    Some(Failure::Unsuccessful(format!("{}: {message}; {hint}", path.display())));
                Ok(())
            }
            answer => {
                self.tracking = true;
                answer
            }
        }
    }

    /// # Errors
    /// No process tracks flows.
    fn end(self) -> Result<(), Failure> {
        self.untracked.filter(|_| !self.tracking).map_or(Ok(()), Err)
    }
}

/// What makes a process track flows that refused with this code; `None`: it refused for another reason.
fn hint(code: &str) -> Option<&'static str> {
    match code {
        "no-rules" => Some(
            "start the process with --rules FILE (a gateway: `rules` in its configuration) and, in the file, a rule that asks for \
             flows, such as `-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT`",
        ),
        "not-tracked" => Some(
            "add a rule that does, such as `-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT`, and send the \
             process SIGHUP",
        ),
        _ => None,
    }
}

fn read<T: DeserializeOwned>(pid: u64, value: Value) -> Result<T, Failure> {
    serde_json::from_value(value)
        .map_err(|error| Failure::Unsuccessful(format!("process {pid} sent what is no flow: {error}")))
}

fn with_pid(pid: u64, mut value: Value) -> Value {
    value["pid"] = pid.into();
    value
}
