//! The client's end of the control socket: one request, one reply.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use control::verbs::{Answer, Code, Envelope, Failure, Hello, VERSION, Verb};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// Longest wait for a reply. Control answers within 3 s, a reload within 10 s.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Longest reply accepted, in bytes.
const REPLY_MAX: usize = 64 << 20;

/// Why there is no result.
#[derive(Debug)]
pub(crate) struct Problem(Failure);

impl Problem {
    /// A problem on our side of the socket.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(Failure::new(Code::NoDataPlane, message))
    }

    /// Whether the configuration file is at fault.
    pub(crate) fn is_config(&self) -> bool {
        self.0.code == Code::Config
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(report) = &self.0.report {
            writeln!(f, "{report}\n")?;
        }
        write!(f, "xvip: {}", self.0.message)
    }
}

/// A result and its age.
pub(crate) struct Reply<T> {
    pub(crate) age_ms: Option<u64>,
    pub(crate) epoch: u64,
    /// Of the xvip-control that answered.
    pub(crate) boot_id: String,
    pub(crate) result: T,
}

/// A connection to xvip-control.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects and compares versions.
    pub(crate) fn connect(path: &Path) -> Result<Self, Problem> {
        let stream = UnixStream::connect(path).map_err(|e| {
            let path = path.display();
            Problem::new(match e.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => format!(
                    "no xvip-control at {path} ({e}); is it running? see --instance and --socket"
                ),
                std::io::ErrorKind::PermissionDenied => {
                    format!("may not talk to xvip-control at {path}: run as root or as its group")
                }
                _ => format!("cannot talk to xvip-control at {path}: {e}"),
            })
        })?;
        let timeout = stream.set_write_timeout(Some(WAIT_MAX));
        timeout.map_err(|e| Problem::new(format!("cannot set a timeout: {e}")))?;
        let mut client = Self { stream: BufReader::new(stream) };
        client.ask::<Hello>(&Verb::Hello {})?;
        Ok(client)
    }

    /// The next line; `None` at the end. Bounded in bytes, and in time however slowly they drip in.
    fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let deadline = deadline();
        let mut line = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.get_ref().set_read_timeout(Some(left))?;
            let chunk = match self.stream.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if chunk.is_empty() {
                let cut = "the connection ended in the middle of a reply";
                return if line.is_empty() { Ok(None) } else { Err(io::Error::other(cut)) };
            }
            let newline = chunk.iter().position(|byte| *byte == b'\n');
            let take = newline.unwrap_or(chunk.len());
            if line.len() + take > REPLY_MAX {
                return Err(io::Error::other(format!("a reply is over {} MiB", REPLY_MAX >> 20)));
            }
            line.extend_from_slice(&chunk[..take]);
            self.stream.consume(take + usize::from(newline.is_some()));
            if newline.is_some() {
                return Ok(Some(line));
            }
        }
    }

    /// Asks and waits for the reply.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, verb: &Verb) -> Result<Reply<T>, Problem> {
        let lost = |e: std::io::Error| {
            Problem::new(match e.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                    format!("xvip-control did not answer for {} s", WAIT_MAX.as_secs())
                }
                _ => format!("lost xvip-control: {e}"),
            })
        };
        let bad = |e: serde_json::Error| Problem::new(format!("reply not understood: {e}"));
        let mut request = serde_json::to_value(verb).map_err(bad)?;
        request["version"] = VERSION.into();
        let mut line = request.to_string();
        line.push('\n');
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        // Even if sending failed: a server that turns us away says why before it closes.
        let reply = match self.read_line() {
            Ok(Some(reply)) => reply,
            outcome => {
                sent.map_err(lost)?;
                outcome.map_err(lost)?;
                return Err(Problem::new("xvip-control closed the connection"));
            }
        };
        let answer: Answer<Box<RawValue>> = parse(&reply).map_err(bad)?;
        if let Some(failure) = answer.error {
            return Err(Problem(failure));
        }
        if answer.envelope.version != VERSION {
            let theirs = answer.envelope.version;
            return Err(Problem::new(format!(
                "xvip-control speaks version {theirs} of the protocol, this xvip speaks {VERSION}: \
                 use the xvip of the same release"
            )));
        }
        let result = answer.result.ok_or_else(|| Problem::new("reply has no result"))?;
        let result = serde_json::from_str(result.get()).map_err(bad)?;
        let Envelope { age_ms, epoch, boot_id, .. } = answer.envelope;
        Ok(Reply { age_ms, epoch, boot_id, result })
    }
}

#[expect(clippy::disallowed_methods, reason = "the command is a shell; its core has no time")]
fn now() -> Instant {
    Instant::now()
}

fn deadline() -> Instant {
    now() + WAIT_MAX
}

/// Takes the result out raw: serde cannot keep raw values through a flattened struct.
fn parse(reply: &[u8]) -> serde_json::Result<Answer<Box<RawValue>>> {
    #[derive(serde::Deserialize)]
    struct Result {
        result: Option<Box<RawValue>>,
    }
    let answer: Answer<serde::de::IgnoredAny> = serde_json::from_slice(reply)?;
    let result = serde_json::from_slice::<Result>(reply)?.result;
    Ok(Answer { envelope: answer.envelope, result, error: answer.error })
}
