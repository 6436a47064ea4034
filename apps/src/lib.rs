//! The `bywash` command's parts, as a library so that each can be tested on its own.
//!
//! [`cli`] and [`config_file`] say what the user wants; [`stack`] opens the NIC and starts the runtime for it, with
//! [`kernel_net`] reading what the kernel knows of the NIC, [`reservation`] looking for services that would lose their
//! port, and [`signals`] ending it; [`echo`], [`http`], [`ping`], [`get`] and [`gateway`] are the applications; [`nic`] shows a NIC
//! without starting anything; [`ss`] and [`ct`] ask others that run through their control sockets ([`control`]). [`run`] puts
//! them together.

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}

pub mod cli;
pub mod config_file;
pub mod control;
pub mod ct;
pub mod echo;
pub mod error;
pub mod gateway;
pub mod get;
pub mod http;
pub mod kernel_net;
pub mod logging;
pub mod nic;
pub mod ping;
pub mod reservation;
pub mod signals;
pub mod ss;
pub mod stack;
pub mod units;

use std::ffi::OsString;
use std::process::ExitCode;

use cli::Command;
use config_file::ConfigFileError;
use error::AppError;

/// Runs the command line and returns its exit code; errors are one line on standard error.
#[must_use]
pub fn run(argv: Vec<OsString>) -> ExitCode {
    let cli = match config_file::parse(argv) {
        Ok(cli) => cli,
        Err(ConfigFileError::Usage(error)) => error.exit(),
        Err(error) => return fail(&error.into()),
    };
    if let Err(error) = logging::init(&cli.global.log) {
        return fail(&error);
    }
    let result = match &cli.command {
        Command::Echo(args) => echo::run(args),
        Command::Http(args) => http::server::run(args),
        Command::Nic(args) => nic::run(args),
        Command::Ping(args) => ping::run(args),
        Command::Get(args) => get::run(args),
        Command::Gateway(args) => gateway::run(args, &cli.global),
        Command::Ss(args) => ss::run(args),
        Command::Ct(args) => ct::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &AppError) -> ExitCode {
    eprintln!("bywash: {}", error.one_line());
    error.exit_code()
}
