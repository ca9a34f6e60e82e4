//! Being told to stop: Ctrl-C, termination, a closed terminal; and a mapped file that becomes shorter.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{Error, Result};

/// A run that was interrupted ends as a shell expects of Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// A flag that becomes true when the process is told to stop. The second time it ends at once.
///
/// # Errors
/// If the system does not let signals be watched.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = vec![SIGINT, SIGTERM];
    #[cfg(unix)]
    signals.push(signal_hook::consts::SIGHUP);
    let watch = |signal| {
        // In this order: the first signal finds the flag down and raises it, the second finds it up.
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(INTERRUPTED), Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))
    };
    for signal in signals {
        watch(signal).map_err(|e| Error::resources("watch for Ctrl-C", e))?;
    }
    // A file size limit kills by default; with a handler the write fails, with a message and a clean end.
    #[cfg(unix)]
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
    Ok(stop)
}

/// Calls `act` in a thread of its own at every Ctrl-C.
///
/// # Errors
/// If the system does not let signals be watched.
pub fn on_interrupt(act: impl Fn() + Send + 'static) -> Result<()> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT]).map_err(|e| Error::resources("watch for Ctrl-C", e))?;
    std::thread::spawn(move || signals.forever().for_each(|_| act()));
    Ok(())
}

/// What is said when a mapped file ends before its mapping: the system has no other way to tell than a signal.
#[cfg(unix)]
const CUT_SHORT: &[u8] =
    b"error: a model file became shorter while it was being read, or its disk failed; nothing was \
written under the output's name; run again once the file is whole\n";
#[cfg(unix)]
const CUT_SHORT_JSON: &[u8] =
    b"{\"error\":\"a model file became shorter while it was being read, or its disk failed; run \
again once the file is whole\"}\n";

/// Ends the process with a message and exit code 1, instead of a bare signal, when reading a mapped file fails.
///
/// # Errors
/// If the system does not let the signal be watched.
pub fn explain_lost_files(json: bool) -> Result<()> {
    #[cfg(unix)]
    {
        let act = move || {
            // Nothing can be done if nobody can be told.
            let _ = rustix::io::write(rustix::stdio::stderr(), CUT_SHORT);
            if json {
                let _ = rustix::io::write(rustix::stdio::stdout(), CUT_SHORT_JSON);
            }
            signal_hook::low_level::exit(1);
        };
        // SAFETY: the action makes two system calls and ends the process: it takes no lock, allocates nothing and
        // cannot panic, which is what a signal handler must keep to.
        unsafe { signal_hook::low_level::register(signal_hook::consts::SIGBUS, act) }
            .map_err(|e| Error::resources("watch for lost files", e))?;
    }
    #[cfg(not(unix))]
    let _ = json;
    Ok(())
}
