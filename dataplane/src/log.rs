//! The log: lines on standard error, written by a thread of their own.
//!
//! A reader of our log that stalls, a disk that is full or a pipe that is closed must hold up neither
//! the steward nor a worker, and must not end the process, as `eprintln!` would. The queue is bounded;
//! lines beyond it are lost and counted.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use anyhow::Context;

/// Lines that wait for a slow reader.
const QUEUE: usize = 1024;
/// Longest that [`finish`] waits for the last lines.
const FINISH_MAX: Duration = Duration::from_millis(300);

static QUEUED: OnceLock<SyncSender<Item>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

enum Item {
    Line(String),
    /// Answered when everything before has been written.
    Flush(Sender<()>),
}

/// Starts the thread; its first act is `confine`. A panic of any thread is a line of the log too: the
/// usual way would let a thread that dies hang on a reader that stalls.
///
/// # Errors
/// The kernel has no thread for us, or `confine` failed.
pub fn start(confine: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> anyhow::Result<()> {
    let (queue, items) = sync_channel(QUEUE);
    let (confined, outcome) = channel();
    let thread = std::thread::Builder::new().name("log".to_owned());
    let run = move || {
        let confinement = confine();
        let go = confinement.is_ok();
        let _ = confined.send(confinement);
        if go {
            write(&items);
        }
    };
    thread.spawn(run).context("log thread")?;
    outcome.recv().context("log thread")?.context("log thread")?;
    let _ = QUEUED.set(queue);
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.to_string();
        line(format_args!("level=error event=panic reason={message:?}"));
    }));
    Ok(())
}

/// Queues a line; never blocks once [`start`] has been called.
pub fn line(text: fmt::Arguments<'_>) {
    let text = format!("{text}\n");
    match QUEUED.get() {
        Some(queue) => {
            if queue.try_send(Item::Line(text)).is_err() {
                LOST.fetch_add(1, Ordering::Relaxed);
            }
        }
        // A short-lived helper, or a test.
        None => put(&text),
    }
}

/// Waits, not for long, until what has been queued is written.
pub fn finish() {
    let (written, done) = channel();
    if QUEUED.get().is_some_and(|queue| queue.try_send(Item::Flush(written)).is_ok()) {
        let _ = done.recv_timeout(FINISH_MAX);
    }
}

fn write(items: &Receiver<Item>) {
    for item in items {
        match item {
            Item::Line(text) => put(&text),
            Item::Flush(written) => {
                let _ = written.send(());
            }
        }
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            put(&format!("level=warn event=log-lost lines={lost}\n"));
        }
    }
}

/// A log that cannot be written is no reason to do anything else.
fn put(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Writes a line of the log: `level=… event=… key=value`.
#[macro_export]
macro_rules! log {
    ($($text:tt)*) => { $crate::log::line(::core::format_args!($($text)*)) };
}
