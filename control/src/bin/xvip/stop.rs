//! Being told to stop (Ctrl-C, `kill`, a terminal that goes away) while something has to be put in
//! order first.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// How we end if we are told so twice: as if the second signal had killed us.
const KILLED: i32 = 128;

/// From now on the first signal only sets a flag; the second one ends us.
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn on_signals() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let twice = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first one finds the flag not set yet.
            flag::register_conditional_shutdown(signal, KILLED + signal, Arc::clone(&twice))?;
            flag::register(signal, Arc::clone(&twice))?;
            flag::register(signal, Arc::clone(&stop))?;
        }
        Ok(Self(stop))
    }

    /// Whether we have been told since this was last asked.
    pub(crate) fn now(&mut self) -> bool {
        self.0.swap(false, Relaxed)
    }
}
