//! The client's end of the agent socket: one task for each connection to the data plane.
//!
//! Reads and writes at the same time, so that two large messages cannot wait for each other.

use std::path::PathBuf;
use std::time::Duration;

use dataplane_api::message::{LINE_MAX, Reply, Request};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Event;
use super::line::{self, Line};
use crate::node::Input;

/// Longest wait for the data plane to take a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A connection to the data plane, or the attempt.
pub(super) struct Session {
    number: u64,
    // Not bounded here: the core has only so many requests on their way.
    requests: mpsc::UnboundedSender<Box<Request>>,
    task: JoinHandle<()>,
}

impl Session {
    /// Starts connecting.
    pub(super) fn start(number: u64, path: PathBuf, events: mpsc::Sender<Event>) -> Self {
        let (requests, queue) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let reason = converse(number, &path, &events, queue).await;
            let _ = events.send(Event::Input(Input::Disconnected(number, reason))).await;
        });
        Self { number, requests, task }
    }

    /// Sends, if `number` is still this connection.
    pub(super) fn send(&self, number: u64, request: Box<Request>) {
        if number == self.number {
            // If the task has ended, the core hears of it as a disconnection.
            let _ = self.requests.send(request);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects and relays until something ends it; why it ended.
async fn converse(
    number: u64,
    path: &std::path::Path,
    events: &mpsc::Sender<Event>,
    requests: mpsc::UnboundedReceiver<Box<Request>>,
) -> String {
    let shown = path.display();
    let stream = match tokio::time::timeout(CONNECT_MAX, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return format!("cannot connect to {shown}: {error}"),
        Err(_) => return format!("cannot connect to {shown}: no answer"),
    };
    if events.send(Event::Input(Input::Connected(number))).await.is_err() {
        return "stopping".to_owned();
    }
    let (reader, writer) = stream.into_split();
    tokio::select! {
        reason = read(number, reader, events) => reason,
        reason = write(writer, requests) => reason,
    }
}

async fn read(number: u64, reader: OwnedReadHalf, events: &mpsc::Sender<Event>) -> String {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        match line::read(&mut reader, &mut buffer, LINE_MAX).await {
            Ok(Line::Whole) => {}
            Ok(Line::End) => return "the data plane closed the connection".to_owned(),
            Ok(Line::TooLong) => return format!("a reply is longer than {LINE_MAX} bytes"),
            Err(error) => return format!("cannot read from the data plane: {error}"),
        }
        let reply: Reply = match serde_json::from_slice(&buffer) {
            Ok(reply) => reply,
            Err(error) => return format!("a reply is not understood: {error}"),
        };
        if events.send(Event::Input(Input::Agent(number, Box::new(reply)))).await.is_err() {
            return "stopping".to_owned();
        }
        if buffer.capacity() > 1 << 20 {
            buffer = Vec::new();
        }
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut requests: mpsc::UnboundedReceiver<Box<Request>>,
) -> String {
    while let Some(request) = requests.recv().await {
        let mut line = match serde_json::to_vec(&request) {
            Ok(line) => line,
            Err(error) => return format!("cannot write a request as JSON: {error}"),
        };
        line.push(b'\n');
        if line.len() > LINE_MAX {
            return format!("the configuration is too large for one message of {LINE_MAX} bytes");
        }
        if let Err(error) = writer.write_all(&line).await {
            return format!("cannot write to the data plane: {error}");
        }
    }
    "stopping".to_owned()
}
