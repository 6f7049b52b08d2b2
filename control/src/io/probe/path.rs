//! Probes that the data plane sends for us, by the way of a direct or tunnel real.
//!
//! A request keeps its session busy until its slowest target has answered, so there are sessions
//! for this alone: one for targets that answered last time, which is quick, and one for those that
//! did not, so that a dead server makes nobody else wait twice. What is due at the same time goes
//! in one request. A session begins with the first question and ends when there has been none for
//! a while.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use dataplane_api::message::{LINE_MAX, PathAnswer, PathResult, PathTarget, Reply, Request};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::prober::RUNS_MAX;
use crate::check::path::{Settings, TIMEOUT_MAX, VIPS_MAX};
use crate::check::{Outcome, Report, Target};
use crate::io::line::{self, Line};

/// Most targets of one request: both lanes together have as many as the data plane can send.
const TARGETS: usize = dataplane_api::message::PATH_PROBES_MAX / 2;
const _: () = assert!(VIPS_MAX <= TARGETS);
/// How long the data plane may take for anything but waiting for servers.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long a question may wait for its turn: two of the longest requests before it, and more.
const TURN_MAX: Duration = Duration::from_secs(15);
/// A session that is not used is closed before the data plane does so (120 s).
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Most targets that are remembered as silent; beyond it the memory begins anew, which costs time
/// only.
const SILENT_MAX: usize = RUNS_MAX;

/// The way to the data plane, for checks through its forwarding path.
#[derive(Debug)]
pub struct Paths {
    socket: Option<PathBuf>,
    quick: OnceLock<mpsc::Sender<Job>>,
    slow: OnceLock<mpsc::Sender<Job>>,
    silent: Mutex<HashSet<Target>>,
}

/// One check to be run.
#[derive(Debug)]
struct Job {
    targets: Vec<PathTarget>,
    timeout: Duration,
    done: oneshot::Sender<Result<Vec<PathResult>, String>>,
}

impl Paths {
    /// By the data plane that listens at `socket`, if there is one.
    #[must_use]
    pub fn new(socket: Option<PathBuf>) -> Self {
        let lane = OnceLock::new;
        Self { socket, quick: lane(), slow: lane(), silent: Mutex::default() }
    }

    /// Runs a check. Its time begins when its turn comes: others that are waited for say nothing of
    /// this server.
    pub(super) async fn probe(
        &self,
        settings: &Settings,
        target: &Target,
        wait: Duration,
    ) -> Report {
        let wait = wait.min(TIMEOUT_MAX);
        let start = tokio::time::Instant::now();
        let asked = timeout(TURN_MAX + wait, self.ask(settings.targets(target), target, wait));
        let cannot =
            |why: &str| Report { outcome: Outcome::cannot_run(why), took: start.elapsed() };
        let results = match asked.await {
            Ok(Ok(results)) => results,
            Ok(Err(why)) => return cannot(&why),
            Err(_) => return cannot("the data plane is busy with other `path` checks"),
        };
        let outcome = settings.judge(&results, wait);
        self.remember(target, results.iter().any(|r| r.answer == PathAnswer::Silent));
        let took = results.iter().map(|r| r.after_us).max().unwrap_or(0);
        Report { outcome, took: Duration::from_micros(took).min(wait) }
    }

    async fn ask(
        &self,
        targets: Vec<PathTarget>,
        target: &Target,
        timeout: Duration,
    ) -> Result<Vec<PathResult>, String> {
        let Some(socket) = &self.socket else {
            return Err("a `path` check needs the data plane, which sends it".to_owned());
        };
        let silent = self.silent().contains(target);
        let lane = if silent { &self.slow } else { &self.quick };
        let lane = lane.get_or_init(|| {
            let (jobs, queue) = mpsc::channel(RUNS_MAX);
            tokio::spawn(Lane { socket: socket.clone(), session: None }.serve(queue));
            jobs
        });
        let (done, answer) = oneshot::channel();
        let ended = || "the event loop of the checks is ending".to_owned();
        lane.send(Job { targets, timeout, done }).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    fn remember(&self, target: &Target, silent: bool) {
        let mut memory = self.silent();
        if !silent {
            memory.remove(target);
            return;
        }
        if memory.len() >= SILENT_MAX {
            memory.clear();
        }
        memory.insert(target.clone());
    }

    fn silent(&self) -> std::sync::MutexGuard<'_, HashSet<Target>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session, and what it is asked.
struct Lane {
    socket: PathBuf,
    session: Option<BufReader<UnixStream>>,
}

impl Lane {
    async fn serve(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut next: Option<Job> = None;
        loop {
            let first = match next.take() {
                Some(job) => job,
                None => match timeout(IDLE_MAX, queue.recv()).await {
                    Ok(Some(job)) => job,
                    Ok(None) => return,
                    Err(_) => {
                        self.session = None;
                        continue;
                    }
                },
            };
            let (mut batch, mut count) = (Vec::new(), 0);
            let mut candidate = Some(first);
            while let Some(job) = candidate {
                if job.done.is_closed() {
                    // Given up meanwhile.
                } else if count + job.targets.len() > TARGETS {
                    next = Some(job);
                    break;
                } else {
                    count += job.targets.len();
                    batch.push(job);
                }
                candidate = queue.try_recv().ok();
            }
            if !batch.is_empty() {
                self.run(batch).await;
            }
        }
    }

    /// Asks for all of `batch` at once.
    async fn run(&mut self, mut batch: Vec<Job>) {
        let counts: Vec<_> = batch.iter().map(|job| job.targets.len()).collect();
        let longest = batch.iter().map(|job| job.timeout).max().unwrap_or(TIMEOUT_MAX);
        let timeout_ms = u32::try_from(longest.as_millis()).unwrap_or(u32::MAX).max(1);
        let targets: Vec<_> = batch.iter_mut().flat_map(|j| j.targets.drain(..)).collect();
        let expected = targets.len();
        let request = Request::PathProbe { targets, timeout_ms };
        let answer = match self.converse(&request, longest).await {
            Ok(Reply::PathProbed { results }) if results.len() == expected => Ok(results),
            Ok(Reply::Error { message }) => Err(format!("the data plane: {message}")),
            Ok(_) => Err("the data plane answered something else than was asked".to_owned()),
            Err(why) => Err(why),
        };
        match answer {
            Ok(results) => {
                let mut results = results.into_iter();
                for (job, count) in batch.into_iter().zip(counts) {
                    let _ = job.done.send(Ok(results.by_ref().take(count).collect()));
                }
            }
            Err(why) => {
                for job in batch {
                    let _ = job.done.send(Err(why.clone()));
                }
            }
        }
    }

    /// Asks, on a new session if the old one has ended: the data plane may have been started again.
    async fn converse(&mut self, request: &Request, wait: Duration) -> Result<Reply, String> {
        if let Some(mut session) = self.session.take()
            && let Ok(reply) = exchange(&mut session, request, wait).await
        {
            self.session = Some(session);
            return Ok(reply);
        }
        let mut session = connect(&self.socket).await?;
        let reply = exchange(&mut session, request, wait).await?;
        self.session = Some(session);
        Ok(reply)
    }
}

async fn connect(socket: &Path) -> Result<BufReader<UnixStream>, String> {
    let shown = socket.display();
    let stream = match timeout(ANSWER_MAX, UnixStream::connect(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(format!("cannot connect to the data plane at {shown}: {error}"));
        }
        Err(_) => return Err(format!("cannot connect to the data plane at {shown}: no answer")),
    };
    let mut session = BufReader::new(stream);
    let hello = Request::Hello { version: dataplane_api::VERSION };
    match exchange(&mut session, &hello, Duration::ZERO).await? {
        Reply::Hello { version, .. } if version == dataplane_api::VERSION => Ok(session),
        Reply::Hello { version, .. } => Err(format!("the data plane speaks version {version}")),
        Reply::Error { message } => Err(format!("the data plane: {message}")),
        _ => Err("the data plane answered something else than was asked".to_owned()),
    }
}

/// One request, one reply; `wait`: how long the data plane may wait for servers meanwhile.
async fn exchange(
    session: &mut BufReader<UnixStream>,
    request: &Request,
    wait: Duration,
) -> Result<Reply, String> {
    let asked = async {
        let mut line = serde_json::to_vec(request).map_err(|e| e.to_string())?;
        line.push(b'\n');
        let sent = session.get_mut().write_all(&line).await;
        sent.map_err(|e| format!("cannot write to the data plane: {e}"))?;
        let mut buffer = Vec::new();
        match line::read(session, &mut buffer, LINE_MAX).await {
            Ok(Line::Whole) => {}
            Ok(Line::End) => return Err("the data plane closed the connection".to_owned()),
            Ok(Line::TooLong) => return Err("the reply of the data plane is too long".to_owned()),
            Err(error) => return Err(format!("cannot read from the data plane: {error}")),
        }
        serde_json::from_slice(&buffer).map_err(|e| format!("a reply is not understood: {e}"))
    };
    let asked = timeout(wait + ANSWER_MAX, asked).await;
    asked.unwrap_or_else(|_| Err("no answer from the data plane".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use tokio::net::UnixListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::check::{Kind, Probe};
    use crate::io::probe::run;

    const SILENT: u16 = 1;
    const REFUSED: u16 = 2;
    const HASTY: u16 = 3;

    /// A data plane that answers as the port of each target says, and counts requests and targets.
    fn data_plane(socket: &Path, seen: &Arc<Mutex<Vec<usize>>>) -> JoinHandle<()> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let seen = Arc::clone(seen);
        tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                sessions.spawn(session(BufReader::new(stream), Arc::clone(&seen)));
            }
        })
    }

    async fn session(mut stream: BufReader<UnixStream>, seen: Arc<Mutex<Vec<usize>>>) {
        let mut buffer = Vec::new();
        while let Ok(Line::Whole) = line::read(&mut stream, &mut buffer, LINE_MAX).await {
            let reply = match serde_json::from_slice(&buffer).unwrap() {
                Request::Hello { version } => {
                    Reply::Hello { version, pid: 1, boot_id: String::new() }
                }
                Request::PathProbe { targets, timeout_ms } => {
                    seen.lock().unwrap().push(targets.len());
                    if targets.iter().any(|t| t.vip_port == HASTY) {
                        return;
                    }
                    if targets.iter().any(|t| t.vip_port == SILENT) {
                        tokio::time::sleep(Duration::from_millis(timeout_ms.into())).await;
                    }
                    let result = |t: &PathTarget| match t.vip_port {
                        SILENT => PathResult { answer: PathAnswer::Silent, after_us: 1 },
                        REFUSED => PathResult { answer: PathAnswer::Refused, after_us: 1 },
                        _ => PathResult { answer: PathAnswer::Answered, after_us: 1 },
                    };
                    Reply::PathProbed { results: targets.iter().map(result).collect() }
                }
                other => panic!("{other:?}"),
            };
            buffer.clear();
            let text = serde_json::to_string(&reply).unwrap() + "\n";
            if stream.get_mut().write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn probe(number: u8, port: u16) -> Probe {
        let address = Ipv4Addr::new(10, 0, 0, number).into();
        let (service, real) = ("web".to_owned(), number.to_string());
        let target = Target { address, port: 0, vip: None, service, real };
        let vips = vec![(Ipv4Addr::new(192, 0, 2, 1), port).into()];
        let times = Duration::from_millis(300);
        Probe { target, kind: Kind::Path(Settings { vips }), interval: times, timeout: times }
    }

    fn seconds_since(start: tokio::time::Instant) -> f64 {
        start.elapsed().as_secs_f64()
    }

    #[tokio::test]
    async fn what_is_due_at_once_is_asked_at_once_and_each_gets_its_own_answer() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, seen) = (dir.path().join("agent.sock"), Arc::default());
        let server = data_plane(&socket, &seen);
        let paths = Arc::new(Paths::new(Some(socket)));
        let ports = [80, REFUSED, 80, 80, REFUSED].repeat(10);
        let mut runs = tokio::task::JoinSet::new();
        for (number, port) in (0..).zip(ports.clone()) {
            let paths = Arc::clone(&paths);
            runs.spawn(async move { (port, run(&probe(number, port), &paths).await) });
        }
        while let Some(run) = runs.join_next().await {
            let (port, report) = run.unwrap();
            let wanted = if port == REFUSED { "down" } else { "up" };
            assert_eq!(report.outcome.name(), wanted, "{report:?}");
        }
        let seen = seen.lock().unwrap().clone();
        assert!(seen.len() < 10 && seen.iter().all(|n| *n <= TARGETS), "requests: {seen:?}");
        assert_eq!(seen.iter().sum::<usize>(), ports.len());
        server.abort();
    }

    #[tokio::test]
    async fn a_silent_server_makes_the_others_wait_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, seen) = (dir.path().join("agent.sock"), Arc::default());
        let server = data_plane(&socket, &seen);
        let paths = Paths::new(Some(socket));
        let (good, bad) = (probe(1, 80), probe(2, SILENT));
        let start = tokio::time::Instant::now();
        let first = run(&bad, &paths).await;
        assert!(first.outcome.reason().unwrap().contains("does the server own the VIP"));
        assert!((0.25..1.0).contains(&seconds_since(start)), "{}", seconds_since(start));
        let again = async { run(&bad, &paths).await.outcome };
        let others = async {
            let start = tokio::time::Instant::now();
            for _ in 0..20 {
                assert_eq!(run(&good, &paths).await.outcome, Outcome::up());
            }
            seconds_since(start)
        };
        let (again, took) = tokio::join!(again, others);
        assert_eq!(again.name(), "down");
        assert!(took < 0.25, "{took}");
        server.abort();
    }

    #[tokio::test]
    async fn a_data_plane_that_is_away_or_starts_again_takes_no_server_down() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, seen) = (dir.path().join("agent.sock"), Arc::default());
        let good = probe(1, 80);
        let none = run(&good, &Paths::new(None)).await.outcome;
        assert!(matches!(&none, Outcome::CannotRun(why) if why.contains("data plane")), "{none:?}");
        let paths = Paths::new(Some(socket.clone()));
        let away = run(&good, &paths).await.outcome;
        assert!(matches!(&away, Outcome::CannotRun(why) if why.contains("agent.sock")), "{away:?}");
        let server = data_plane(&socket, &seen);
        assert_eq!(run(&good, &paths).await.outcome, Outcome::up());
        server.abort();
        let _ = server.await;
        let server = data_plane(&socket, &seen);
        assert_eq!(run(&good, &paths).await.outcome, Outcome::up(), "on a new session at once");
        let hasty = run(&probe(2, HASTY), &paths).await.outcome;
        assert!(matches!(&hasty, Outcome::CannotRun(why) if why.contains("closed")), "{hasty:?}");
        assert_eq!(run(&good, &paths).await.outcome, Outcome::up());
        server.abort();
    }
}
