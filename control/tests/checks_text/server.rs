//! Servers that answer as a test says, and checks of them written as an operator would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use control::check::{Outcome, Report};
use control::config;
use control::io::probe;

/// Longest time that a test's server lives on a connection.
const LIFE: Duration = Duration::from_secs(10);

/// A server on the loopback; ends with the value.
pub(crate) struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Gives each connection to `answer`, in a thread of its own.
    pub(crate) fn start(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, answer) = (Arc::clone(&stop), Arc::new(answer));
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_read_timeout(Some(LIFE)).unwrap();
                stream.set_write_timeout(Some(LIFE)).unwrap();
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || answer(stream));
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    /// Says `first`, then one of `answers` to each line; then is silent until the other side ends.
    pub(crate) fn scripted(first: &'static str, answers: &'static [&'static str]) -> Self {
        Self::start(move |mut stream| {
            let _ = stream.write_all(first.as_bytes());
            for answer in answers {
                if read_line(&mut stream).is_none() {
                    return;
                }
                let _ = stream.write_all(answer.as_bytes());
            }
            hold(stream);
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Runs a check with these keys against it, as the prober would.
    pub(crate) fn check(&self, keys: &str) -> Report {
        check(self.port(), keys)
    }

    /// The reason why a check with these keys fails; it must fail in time.
    pub(crate) fn refused(&self, keys: &str) -> String {
        let report = self.check(keys);
        let Outcome::Down(reason) = &report.outcome else { panic!("{keys}: {report:?}") };
        assert!(report.took < Duration::from_secs(3), "{keys}: {report:?}");
        assert!(reason.len() <= 256 && !reason.is_empty(), "{reason}");
        assert!(reason.bytes().all(|b| (b' '..=b'~').contains(&b)), "{reason:?}");
        reason.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Runs a check with these keys on a port of the loopback.
pub(crate) fn check(port: u16, keys: &str) -> Report {
    check_at("127.0.0.1", port, keys)
}

/// Runs a check with these keys on an address.
pub(crate) fn check_at(address: &str, port: u16, keys: &str) -> Report {
    let text = format!(
        "[[interface]]\nname = \"eth0\"\n[[service]]\nname = \"s\"\nlisten = \"192.0.2.1:80\"\n\
         [[service.check]]\naddress = \"{address}\"\nport = {port}\n{keys}\n\
         [[service.real]]\naddress = \"10.0.0.1:80\"\n"
    );
    let config = config::parse(&text, "test").unwrap_or_else(|e| panic!("{e}"));
    let entry = &config.services[0];
    let probe = entry.checks[0][0].probe(&entry.service, &entry.service.reals[0]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(probe::run(&probe, &probe::Paths::new(None)));
    // What follows a passed check, such as the farewell, is given its time.
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
    report
}

/// One line, without its end; `None` at the end of the stream.
pub(crate) fn read_line(stream: &mut impl Read) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).ok()? == 1 {
        if byte[0] == b'\n' {
            return Some(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
        }
        line.push(byte[0]);
    }
    None
}

/// Says nothing until the other side ends.
pub(crate) fn hold(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Repeats `bytes` until the other side ends.
pub(crate) fn pour(mut stream: TcpStream, begin: &[u8], bytes: &[u8]) {
    let mut go = stream.write_all(begin);
    while go.is_ok() {
        go = stream.write_all(bytes);
    }
}

/// One byte each 20 ms, again and again.
pub(crate) fn drip(mut stream: TcpStream, text: &[u8]) {
    for byte in text.iter().cycle() {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "this server is slow on purpose")]
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends the connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}
