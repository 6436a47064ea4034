//! The scripts of `tests/packetdrill` as tests: hands its arguments to the runner (`runner/`), which speaks the test harness's
//! language and builds along with the shared object.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let status = Command::new(env!("CARGO_BIN_EXE_run-pkt")).args(std::env::args().skip(1)).status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot run {}: {error}", env!("CARGO_BIN_EXE_run-pkt"));
            ExitCode::FAILURE
        }
    }
}
