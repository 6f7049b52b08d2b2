//! Serves the sorry page: on a thread and an event loop of its own, so that no client of it can
//! delay the lease.
//!
//! While a service has nobody, its VIPs are put on `lo`, where the kernel takes the connections
//! that the data plane leaves to it, and we listen there. When it is over, listening ends at once,
//! and a VIP goes once the last client has been served. Clients are bounded in number, time and
//! bytes; one address cannot take all the places.

mod loopback;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::sorry::{Answer, HEAD_MAX, Heard, PORTS_MAX, Pages, heard};
use loopback::Loopback;

/// Clients served at a time.
pub(super) const CLIENTS_MAX: usize = 256;
/// Of them from one address.
const PER_ADDRESS_MAX: usize = 64;
/// Longest that a client takes for its request, and for our answer.
const TRANSFER_MAX: Duration = Duration::from_secs(5);
/// What is read and thrown away after the answer: a request's content, so that the client sees our
/// answer and not a reset.
const REST_MAX: usize = 1 << 20;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long a VIP stays on `lo` after its last client, for what is still on its way.
const LINGER: Duration = Duration::from_secs(3);

/// File descriptors that this may take.
pub(super) const DESCRIPTORS: u64 = (CLIENTS_MAX + 2 * PORTS_MAX) as u64;

/// Places of clients.
struct Room {
    all: Arc<Semaphore>,
    by_address: Mutex<BTreeMap<IpAddr, usize>>,
    /// Clients of each VIP.
    by_vip: Mutex<BTreeMap<IpAddr, usize>>,
}

/// One client's place.
struct Place {
    room: Arc<Room>,
    client: IpAddr,
    vip: IpAddr,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        release(&self.room.by_address, self.client);
        release(&self.room.by_vip, self.vip);
    }
}

fn release(counts: &Mutex<BTreeMap<IpAddr, usize>>, address: IpAddr) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(count) = counts.get_mut(&address) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&address);
        }
    }
}

impl Room {
    /// A place for a client, if it does not have too many.
    fn place(self: &Arc<Self>, client: IpAddr, vip: IpAddr) -> Option<Place> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        drop(counts);
        *self.by_vip.lock().unwrap_or_else(PoisonError::into_inner).entry(vip).or_default() += 1;
        Some(Place { room: Arc::clone(self), client, vip, _permit: permit })
    }

    fn serves(&self, vip: IpAddr) -> bool {
        self.by_vip.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&vip)
    }
}

/// A port that is listened at.
struct Listening {
    answer: Arc<Answer>,
    /// Another descriptor of the listener.
    socket: OwnedFd,
    task: JoinHandle<()>,
}

impl Listening {
    /// Listens no more when it returns, so that the port can be bound again at once. The task ends
    /// when its thread comes to it.
    fn end(self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        self.task.abort();
    }
}

/// The server. Its thread ends when it is dropped.
pub(super) struct Server {
    runtime: Handle,
    room: Arc<Room>,
    listeners: BTreeMap<SocketAddr, Listening>,
    loopback: Arc<Loopback>,
    /// VIPs that are to go from `lo`, unless they are needed again.
    leaving: Arc<Mutex<BTreeSet<IpAddr>>>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Server {
    /// Starts the thread, and takes from `lo` what a process before us has left there.
    ///
    /// # Errors
    /// The kernel has no thread or no event queue for us.
    pub(super) fn start(record: PathBuf) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the event loop of the sorry page")?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("sorry".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })
            .context("cannot start the thread of the sorry page")?;
        let room = Room {
            all: Arc::new(Semaphore::new(CLIENTS_MAX)),
            by_address: Mutex::default(),
            by_vip: Mutex::default(),
        };
        Ok(Self {
            runtime: handle,
            room: Arc::new(room),
            listeners: BTreeMap::new(),
            loopback: Arc::new(Loopback::new(record)),
            leaving: Arc::default(),
            _stop: stop,
        })
    }

    /// Serves these and no others. When it returns they are being listened to; what could not be
    /// done, in words.
    pub(super) fn serve(&mut self, pages: &Pages) -> Vec<String> {
        let mut problems = Vec::new();
        let ended: Vec<_> =
            self.listeners.keys().filter(|at| !pages.contains_key(at)).copied().collect();
        for at in ended {
            if let Some(listening) = self.listeners.remove(&at) {
                listening.end();
            }
        }
        for (at, answer) in pages {
            if self.listeners.get(at).is_some_and(|known| known.answer == *answer) {
                continue;
            }
            if let Some(listening) = self.listeners.remove(at) {
                listening.end();
            }
            match self.listen(*at, answer) {
                Ok(listening) => {
                    self.listeners.insert(*at, listening);
                }
                Err(error) => problems.push(format!("sorry page at {at}: {error:#}")),
            }
        }
        let needed: BTreeSet<IpAddr> = pages.keys().map(SocketAddr::ip).collect();
        for vip in self.loopback.ours().into_iter().filter(|vip| !needed.contains(vip)) {
            self.leave(vip);
        }
        problems
    }

    fn listen(&self, at: SocketAddr, answer: &Arc<Answer>) -> anyhow::Result<Listening> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).remove(&at.ip());
        self.loopback.add(at.ip())?;
        let _entered = self.runtime.enter();
        let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        if at.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        socket.bind(at).context("cannot bind")?;
        let listener = socket.listen(BACKLOG).context("cannot listen")?;
        let socket = listener.as_fd().try_clone_to_owned()?;
        let (room, answer) = (Arc::clone(&self.room), Arc::clone(answer));
        let work = accept(listener, at.ip(), room, Arc::clone(&answer));
        Ok(Listening { answer, socket, task: self.runtime.spawn(work) })
    }

    /// Takes a VIP from `lo` once nobody is served at it.
    fn leave(&self, vip: IpAddr) {
        let leaving = Arc::clone(&self.leaving);
        if !leaving.lock().unwrap_or_else(PoisonError::into_inner).insert(vip) {
            return;
        }
        let (room, loopback) = (Arc::clone(&self.room), Arc::clone(&self.loopback));
        self.runtime.spawn(async move {
            tokio::time::sleep(LINGER).await;
            while room.serves(vip) {
                tokio::time::sleep(LINGER).await;
            }
            // Under the lock, so that it is not taken away while it is being put there again.
            let mut leaving = leaving.lock().unwrap_or_else(PoisonError::into_inner);
            if leaving.remove(&vip) {
                loopback.remove(vip);
            }
        });
    }

    /// Takes everything from `lo`: the process ends.
    pub(super) fn end(mut self) {
        std::mem::take(&mut self.listeners).into_values().for_each(Listening::end);
        self.loopback.clear();
    }
}

async fn accept(listener: TcpListener, vip: IpAddr, room: Arc<Room>, answer: Arc<Answer>) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                // Without a place: closed without a word; the client tries again.
                if let Some(place) = room.place(client.ip(), vip) {
                    tokio::spawn(serve(stream, Arc::clone(&answer), place));
                }
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn serve(mut stream: TcpStream, answer: Arc<Answer>, _place: Place) {
    let mut request = Vec::new();
    let hear = async {
        loop {
            match heard(&request) {
                Heard::More => {}
                Heard::Request => return true,
                Heard::Nonsense => return false,
            }
            let mut piece = [0; 2048];
            let room = (HEAD_MAX - request.len().min(HEAD_MAX)).clamp(1, piece.len());
            match stream.read(&mut piece[..room]).await {
                Ok(read) if read > 0 => request.extend_from_slice(&piece[..read]),
                _ => return false,
            }
        }
    };
    if !matches!(timeout(TRANSFER_MAX, hear).await, Ok(true)) {
        return;
    }
    let answer = async {
        stream.write_all(&answer.bytes(&request)).await?;
        stream.shutdown().await?;
        let mut rest = (&mut stream).take(REST_MAX as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(TRANSFER_MAX, answer).await;
}

#[cfg(test)]
mod tests;
