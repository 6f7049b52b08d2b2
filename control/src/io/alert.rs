//! Delivers alerts: each attempt in a task of its own, bounded in time, beside the loop.

use std::error::Error;
use std::path::Path;

use tokio::sync::mpsc;

use super::Event;
use super::{command, mail, webhook};
use crate::alert::{Delivery, How};
use crate::config::show_duration;
use crate::node::Input;

/// Largest file of certificates, in bytes.
const CERTIFICATES_MAX: u64 = 4 << 20;

/// Starts an attempt; its result comes back as an input, whatever happens.
pub(super) fn start(delivery: Delivery, events: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        let id = delivery.id;
        // A task of its own, so that even a panic is a result.
        let result = match tokio::spawn(deliver(delivery)).await {
            Ok(result) => result,
            Err(error) => Err(format!("the attempt failed: {error}")),
        };
        let result = result.map_err(|reason| printable(&reason));
        let _ = events.send(Event::Input(Input::Alerted(id, result))).await;
    });
}

async fn deliver(delivery: Delivery) -> Result<(), String> {
    let Delivery { target, message, .. } = delivery;
    let attempt = async {
        match &target.how {
            How::Mail(settings) => mail::send(settings, &target, &message).await,
            How::Webhook(settings) => webhook::post(settings, &message).await,
            How::Command(settings) => command::run(settings, &message).await,
        }
    };
    match tokio::time::timeout(target.timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(format!("not done within {}", show_duration(target.timeout))),
    }
}

/// A file of certificates, read beside the loop.
pub(super) async fn certificates(path: &Path) -> Result<Vec<u8>, String> {
    let (path, shown) = (path.to_owned(), path.display().to_string());
    let read = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(&path)?.take(CERTIFICATES_MAX).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    });
    let read = read.await.map_err(|e| format!("{shown}: cannot read: {e}"))?;
    read.map_err(|e| format!("{shown}: cannot read: {e}"))
}

/// A secret, read beside the loop for each attempt, so that a new one counts at once.
pub(super) async fn secret(path: &Path) -> Result<String, String> {
    let (path, shown) = (path.to_owned(), path.display().to_string());
    let read = tokio::task::spawn_blocking(move || super::secret::read(&path)).await;
    read.unwrap_or_else(|e| Err(format!("{shown}: cannot read: {e}")))
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What a stranger answered, fit for a log and a terminal.
pub(super) fn printable(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(300).collect::<String>().trim().to_owned()
}
