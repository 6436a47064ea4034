//! Logs on standard error: a level, or levels by target (`info,bywash::tcp=debug`).

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::AppError;

/// Starts logging with what `--log` said.
///
/// # Errors
/// [`AppError::Usage`] when it is no filter.
pub fn init(filter: &str) -> Result<(), AppError> {
    let targets: Targets = filter.parse().map_err(|error| {
        AppError::Usage(format!(
            "--log {filter}: {error}; use off, error, warn, info, debug, trace or target=level,..."
        ))
    })?;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second call in one process keeps the first one's settings.
    let _ = tracing_subscriber::registry().with(targets).with(layer).try_init();
    Ok(())
}
