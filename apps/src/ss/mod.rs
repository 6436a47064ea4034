//! `bywash ss`: the sockets of running processes, asked for through their control sockets and shown as ss(8) does.

mod filter;
mod model;
mod show;

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cli::SsArgs;
use crate::control::{self, Failure};
use crate::error::AppError;
use filter::Filter;
use model::{Line, Socket, State};
use show::Summary;

/// Runs the command.
///
/// # Errors
/// A wrong filter; no process, none that may be asked, or one that does not answer as it should.
pub fn run(args: &SsArgs) -> Result<(), AppError> {
    let args = args.clone().completed();
    let filter = Filter::parse(&args.filter).map_err(|error| AppError::Usage(error.to_string()))?;
    let output = Output { args: &args, filter, summary: Summary::default(), json: Vec::new() };
    let mut out = io::BufWriter::new(io::stdout().lock());
    list(output, &mut out).and_then(|()| Ok(out.flush()?)).or_else(Failure::into_result)
}

fn list(mut output: Output<'_>, out: &mut impl Write) -> Result<(), Failure> {
    let processes = control::processes(&output.args.process)?;
    if !output.args.json && !output.args.summary && !output.args.no_header {
        writeln!(out, "{}", show::titles(output.args))?;
    }
    for process in processes {
        process.ask(&json!({"request": "sockets"}), |pid, line| output.show(pid, line, out))?;
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
            Failure::Unsuccessful(format!("process {pid} sent a socket that is none: {error}"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

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
}
