//! Writes the log to standard error, from a thread of its own.
//!
//! A reader of our log that stalls, or a disk that is full, must not delay the lease: the queue is
//! bounded, lines beyond it are lost and counted, and write errors are ignored.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::log::{Level, Record};
use crate::time::Stamp;

/// Lines that wait for a slow reader.
const QUEUE: usize = 1024;
/// Longest that [`Log::finish`] waits for the last lines.
const FINISH_MAX: Duration = Duration::from_millis(300);

/// The way into the log.
pub struct Log {
    lines: SyncSender<String>,
    lost: Arc<AtomicU64>,
    done: Receiver<()>,
}

impl Log {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel has no thread for us.
    pub fn start() -> std::io::Result<Self> {
        let (lines, queue) = sync_channel(QUEUE);
        let (ended, done) = mpsc::channel();
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            write(&queue, &counter);
            drop(ended);
        })?;
        Ok(Self { lines, lost, done })
    }

    /// Queues a line; never blocks.
    pub fn record(&self, record: &Record, now: Stamp) {
        if self.lines.try_send(format!("time={now} {record}\n")).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits, within reason, until everything is written.
    pub fn finish(self) {
        drop(self.lines);
        let _ = self.done.recv_timeout(FINISH_MAX);
    }
}

fn write(queue: &Receiver<String>, lost: &AtomicU64) {
    let mut out = std::io::stderr();
    while let Ok(line) = queue.recv() {
        let _ = out.write_all(line.as_bytes());
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            let record = Record::new(Level::Warn, "log_lines_lost").with("count", count);
            let _ = writeln!(out, "{record}");
        }
    }
}
