//! Ctrl-C and SIGTERM: the first asks the runtime to finish its connections, the second ends the process at once. The
//! kernel takes the steering program away in either case. SIGHUP reads again what can be read again (`--rules`).

use std::io;
use std::sync::OnceLock;

use bywash::runtime::Handle;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Exit code of a process that ended because of SIGINT, as shells count.
const EXIT_INTERRUPTED: i32 = 128 + SIGINT;

static RUNTIME: OnceLock<Handle> = OnceLock::new();

/// What SIGHUP does.
pub type Reload = Box<dyn Fn(&Handle) + Send>;

/// Starts to listen for signals, once, before there is a runtime: a signal that comes before [`drain_on_signal`] ends the process.
/// Without `reload`, SIGHUP ends it as it does every program.
///
/// # Errors
/// When the system refuses the handlers or the thread.
pub fn install(reload: Option<Reload>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    if reload.is_some() {
        signals.add_signal(SIGHUP)?;
    }
    let watch = move || {
        let mut asked = false;
        for signal in signals.forever() {
            match RUNTIME.get() {
                Some(runtime) if signal == SIGHUP => {
                    if let Some(reload) = &reload {
                        reload(runtime);
                    }
                }
                Some(runtime) if !asked => {
                    tracing::info!("finishing connections; once more ends at once");
                    runtime.shutdown();
                    asked = true;
                }
                _ => std::process::exit(EXIT_INTERRUPTED),
            }
        }
    };
    std::thread::Builder::new().name("bywash-signals".into()).spawn(watch)?;
    Ok(())
}

/// From now on the first signal shuts this runtime down. A process has one runtime; later ones are ignored.
pub fn drain_on_signal(runtime: Handle) {
    let _ = RUNTIME.set(runtime);
}
