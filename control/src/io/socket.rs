//! The control socket: a bounded number of clients, each with one request at a time.
//!
//! A client can waste nothing but its own slot: lines, waiting and writing are bounded, and the
//! next request is read only when the reply to the last one has been written.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::Event;
use super::line::{self, Line};
use crate::node::{ClientId, Input, Peer, Role};
use crate::verbs::{Code, Failure, PLAN_MAX, REQUEST_MAX};

/// Operators served at a time.
pub const CLIENTS_MAX: u32 = 32;
/// Readers served at a time, beside the operators: neither can keep the other out.
pub const READERS_MAX: u32 = 16;
/// Requests longer than [`REQUEST_MAX`] read at a time.
const LARGE_MAX: usize = 2;
/// Longest time a request may take to arrive once it has begun, and a reply to be taken.
pub const TRANSFER_MAX: Duration = Duration::from_secs(5);
/// Longest time a client may keep its slot without asking anything.
pub const IDLE_MAX: Duration = Duration::from_secs(60);

/// The listening socket; its file goes with it.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    slots: Arc<Semaphore>,
    reader_slots: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// Whether it is open to all users: then we say who may do what, and not the kernel.
    shared: bool,
    /// Clients being told that there is no slot.
    refusals: Arc<Semaphore>,
    /// Strangers being told that they are.
    strangers: Arc<Semaphore>,
    closing: watch::Sender<bool>,
    next: u64,
}

impl Socket {
    /// Listens at `path`, in place of whatever is there. The caller holds the instance's lock, so
    /// that it can only be left over.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        // Born under another name, so that nobody connects before the permissions are right.
        let new = path.with_extension("new");
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, Permissions::from_mode(0o660))?;
        std::fs::rename(&new, path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            slots: Arc::new(Semaphore::new(CLIENTS_MAX as usize)),
            reader_slots: Arc::new(Semaphore::new(READERS_MAX as usize)),
            large: Arc::new(Semaphore::new(LARGE_MAX)),
            shared: false,
            refusals: Arc::new(Semaphore::new(CLIENTS_MAX as usize)),
            strangers: Arc::new(Semaphore::new(CLIENTS_MAX as usize)),
            closing: watch::Sender::new(false),
            next: 0,
        })
    }

    /// Waits for a client. May be cancelled.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Lets all users connect, to be told what they may do, or only root and our group.
    pub(super) fn open_to(&mut self, all: bool) {
        if self.shared != all {
            let mode = if all { 0o666 } else { 0o660 };
            if std::fs::set_permissions(&self.path, Permissions::from_mode(mode)).is_ok() {
                self.shared = all;
            }
        }
    }

    /// Serves a client in a task of its own, or turns it away.
    pub(super) fn serve(
        &mut self,
        stream: UnixStream,
        peer: Peer,
        role: Role,
        events: mpsc::Sender<Event>,
    ) {
        self.next += 1;
        // The core says it to each request again: what a user may do can change meanwhile.
        let (large, slots) = match role {
            Role::Operator => (Some(Arc::clone(&self.large)), Some(&self.slots)),
            Role::Reader => (None, Some(&self.reader_slots)),
            Role::Stranger => (None, None),
        };
        let mut client = Client { id: ClientId(self.next), peer, events, large };
        if let Some(Ok(slot)) = slots.map(|s| Arc::clone(s).try_acquire_owned()) {
            let mut closing = self.closing.subscribe();
            tokio::spawn(async move {
                client.run(stream, &mut closing).await;
                drop(slot);
            });
            return;
        }
        let stranger = role == Role::Stranger;
        let refusals = if stranger { &self.strangers } else { &self.refusals };
        if let Ok(refusal) = Arc::clone(refusals).try_acquire_owned() {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                if stranger {
                    client.send_away(&mut stream).await;
                } else {
                    let most = if role == Role::Reader { READERS_MAX } else { CLIENTS_MAX };
                    let message = format!("{most} clients are connected already; try again");
                    client.refuse(&mut stream, Code::Busy, message).await;
                }
                drop(refusal);
            });
        }
        // Else a flood: dropped without a word.
    }

    /// Lets clients have their last replies, and goes.
    pub(super) async fn close(self) {
        let _ = std::fs::remove_file(&self.path);
        self.closing.send_replace(true);
        let _ = timeout(Duration::from_millis(500), self.slots.acquire_many(CLIENTS_MAX)).await;
    }
}

struct Client {
    id: ClientId,
    peer: Peer,
    events: mpsc::Sender<Event>,
    /// Permits for long requests, if it may send any.
    large: Option<Arc<Semaphore>>,
}

impl Client {
    /// Requests and replies in turn, until either side has had enough.
    async fn run(&mut self, stream: UnixStream, closing: &mut watch::Receiver<bool>) {
        let mut stream = BufReader::new(stream);
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let begun = tokio::select! {
                begun = timeout(IDLE_MAX, stream.fill_buf()) => begun,
                _ = closing.wait_for(|closing| *closing) => return,
            };
            if !matches!(begun, Ok(Ok(chunk)) if !chunk.is_empty()) {
                return;
            }
            let large = self.large.clone();
            let read = async {
                let line = line::read(&mut stream, &mut buffer, REQUEST_MAX).await?;
                let permit = large.as_ref().and_then(|l| l.try_acquire().ok());
                if line == Line::TooLong && permit.is_some() {
                    return line::read(&mut stream, &mut buffer, PLAN_MAX).await;
                }
                Ok::<_, io::Error>(line)
            };
            let line = match timeout(TRANSFER_MAX, read).await {
                Ok(Ok(line)) => line,
                Ok(Err(_)) => return,
                Err(_) => {
                    let message =
                        format!("the request was not complete after {} s", TRANSFER_MAX.as_secs());
                    self.refuse(&mut stream, Code::Busy, message).await;
                    return;
                }
            };
            if line == Line::TooLong {
                let message = format!(
                    "request is longer than {REQUEST_MAX} bytes; as `plan`, than {PLAN_MAX}, or others send long ones now"
                );
                self.refuse(&mut stream, Code::BadRequest, message).await;
                return;
            }
            let request = std::mem::take(&mut buffer);
            // The last request may lack its newline; a half one after a cut is refused as no JSON.
            if request.is_empty() && line == Line::End {
                return;
            }
            let input = Input::Client(self.id, self.peer.clone(), request);
            if !self.answer(&mut stream, input).await || line == Line::End {
                return;
            }
        }
    }

    /// Tells somebody who may do nothing just that.
    async fn send_away(&mut self, stream: &mut BufReader<UnixStream>) {
        // Heard out first: what is left unread would reset the connection before the answer is read.
        let mut request = Vec::new();
        let _ = timeout(TRANSFER_MAX, line::read(stream, &mut request, REQUEST_MAX)).await;
        // Any request will do: the core refuses it for who asks.
        let input = Input::Client(self.id, self.peer.clone(), br#"{"verb":"hello"}"#.to_vec());
        let _ = self.answer(stream, input).await;
    }

    async fn refuse(&mut self, stream: &mut BufReader<UnixStream>, code: Code, message: String) {
        let input = Input::Unreadable(self.id, self.peer.clone(), Failure::new(code, message));
        let _ = self.answer(stream, input).await;
    }

    /// Asks the core and sends its reply; whether that worked.
    async fn answer(&mut self, stream: &mut BufReader<UnixStream>, input: Input) -> bool {
        let (reply, replied) = oneshot::channel();
        if self.events.send(Event::Request(self.id, reply, input)).await.is_err() {
            return false;
        }
        let Ok(mut line) = replied.await else { return false };
        line.push('\n');
        matches!(timeout(TRANSFER_MAX, stream.write_all(line.as_bytes())).await, Ok(Ok(())))
    }
}
