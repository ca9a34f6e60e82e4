//! Signals: Ctrl-C, termination, a closed terminal, and a mapped file that is truncated.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{Error, Result};

/// Exit code of an interrupted run, as shells expect after Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// A flag that becomes true when the process is told to stop. A second signal ends the process at once.
///
/// # Errors
/// If signal handlers cannot be installed.
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

/// Calls `act`, in its own thread, on every Ctrl-C.
///
/// # Errors
/// If signal handlers cannot be installed.
pub fn on_interrupt(act: impl Fn() + Send + 'static) -> Result<()> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT]).map_err(|e| Error::resources("watch for Ctrl-C", e))?;
    std::thread::spawn(move || signals.forever().for_each(|_| act()));
    Ok(())
}

/// The message when a mapped file ends before its mapping, which the system reports only by a signal.
#[cfg(unix)]
const CUT_SHORT: &[u8] =
    b"error: a model file was truncated while it was being read, or its disk failed; no output was \
     written; run again once the file is complete\n";
#[cfg(unix)]
const CUT_SHORT_JSON: &[u8] =
    b"{\"error\":\"a model file was truncated while it was being read, or its disk failed; run \
    again once the file is complete\"}\n";

/// Ends the process with a message and exit code 1, instead of a bare signal, when reading a mapped file fails.
///
/// # Errors
/// If the signal handler cannot be installed.
pub fn explain_lost_files(json: bool) -> Result<()> {
    #[cfg(unix)]
    {
        let act = move || {
            // If nobody can be told, there is nothing left to do.
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
