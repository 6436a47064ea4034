//! What ends a command: one clear line, with a hint where there is something to do, and the exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config_file::ConfigFileError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The options do not make sense together.
    #[error("{0}")]
    Usage(String),
    /// The command line or the configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// The NIC cannot be used as asked.
    #[error(transparent)]
    Nic(#[from] bywash_afxdp::Error),
    /// The stack did not start.
    #[error(transparent)]
    Start(#[from] bywash::runtime::StartError),
    /// The stack ended with an error.
    #[error(transparent)]
    Run(#[from] bywash::runtime::RunError),
    /// A file or directory of the user's.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// `read`, `write`, `serve`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The kernel did not tell something, or refused something that no option changes.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
    /// The command ran, and what it was to do did not come about; everything was said already.
    #[error("{0}")]
    Unsuccessful(String),
}

impl AppError {
    /// 2 where the command line or configuration is to be changed, otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Config(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// The error and its causes in one line.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors repeat their cause in their own text.
            if !line.contains(&text) {
                line += ": ";
                line += &text;
            }
            cause = error.source();
        }
        line
    }
}
