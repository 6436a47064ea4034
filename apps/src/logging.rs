//! Logs on standard error: a level, or levels by target (`info,bywash::tcp=debug`).

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::AppError;

/// Starts logging with what `--log` said.
///
/// # Errors
/// [`AppError::Usage`] when it is no filter.
pub fn init(filter: &str) -> Result<(), AppError> {
    let targets = parse(filter)?;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second call in one process keeps the first one's settings.
    let _ = tracing_subscriber::registry().with(targets).with(layer).try_init();
    Ok(())
}

fn parse(filter: &str) -> Result<Targets, AppError> {
    let wrong = |why: &str| {
        AppError::Usage(format!(
            "--log {filter}: {why}; use off, error, warn, info, debug, trace or target=level,..."
        ))
    };
    // A word alone would be taken for a target at all levels, and silence everything else: a level misspelt.
    let unknown = |part: &&str| !part.contains('=') && part.trim().parse::<LevelFilter>().is_err();
    if let Some(part) = filter.split(',').find(unknown) {
        return Err(wrong(&format!("`{part}` is no level")));
    }
    filter.parse().map_err(|error: ParseError| wrong(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_taken_and_misspelt_levels_refused() {
        for good in ["off", "warn", "INFO", "info,bywash::tcp=debug", "bywash=trace"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["loud", "info,loud", "bywash=loud"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--log {bad}: ")) && error.contains("use off"), "{error}");
        }
    }
}
