//! `type = "script"`: runs a program in a process group of its own.
//!
//! However a run ends, the whole group is killed, and the program reaped: by us, or, if the run was
//! given up, by the event loop.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::process::{Child, Command};

use super::{net, secret};
use crate::check::script::{End, Node, OUTPUT_MAX, Settings, trusted};
use crate::check::{Outcome, Target};

/// How long output is still read once the program and its group are gone.
const DRAIN: Duration = Duration::from_millis(50);

pub(super) async fn probe(settings: &Settings, target: &Target) -> Outcome {
    net::settle(run(settings, target).await)
}

async fn run(settings: &Settings, target: &Target) -> Result<Outcome, Outcome> {
    let path = settings.command.clone();
    let path = secret::aside(move || vetted(&path).map_err(Outcome::cannot_run)).await?;
    let mut child = start(&path, settings, target)?;
    let group = Group::of(&child)?;
    let exited = group.exited()?;
    net::stage("from the script, which was killed");
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let mut output = Vec::new();
    loop {
        let (mut from_out, mut from_err) = ([0; 512], [0; 512]);
        tokio::select! {
            got = some(out.as_mut(), &mut from_out) => keep(&mut output, &from_out, got, &mut out),
            got = some(err.as_mut(), &mut from_err) => keep(&mut output, &from_err, got, &mut err),
            ready = exited.ready(Interest::READABLE) => {
                let _ready = ready.map_err(|e| cannot("wait for", &path, &e))?;
                break;
            }
        }
    }
    // Not reaped yet, so that the number of the group is still ours.
    group.kill();
    let _ = tokio::time::timeout(DRAIN, async {
        drain(out, &mut output).await;
        drain(err, &mut output).await;
    })
    .await;
    let status = child.wait().await.map_err(|e| cannot("wait for", &path, &e))?;
    group.reaped();
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => End::Code(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => End::Signal(signal.unwrap_or_default()),
    };
    Ok(settings.judge(end, &output))
}

fn start(path: &Path, settings: &Settings, target: &Target) -> Result<Child, Outcome> {
    let mut command = Command::new(path);
    command
        .arg0(&settings.command)
        .args(settings.arguments(target))
        .env_clear()
        .envs(settings.environment(target))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command.spawn().map_err(|e| cannot("start", path, &e))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Outcome {
    Outcome::cannot_run(format!("cannot {what} {}: {error}", path.display()))
}

/// The program behind `path`, links resolved, if none but root and ourselves can replace it.
fn vetted(path: &Path) -> Result<PathBuf, String> {
    let shown = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    let path = std::fs::canonicalize(path).map_err(|e| shown(path, e))?;
    let node = |path: &Path| {
        let metadata = std::fs::metadata(path).map_err(|e| shown(path, e))?;
        Ok::<_, String>(Node { mode: metadata.mode(), owner: metadata.uid() })
    };
    let file = node(&path)?;
    let mut way = Vec::new();
    for directory in path.ancestors().skip(1) {
        way.push((directory.display().to_string(), node(directory)?));
    }
    way.reverse();
    let us = rustix::process::geteuid().as_raw();
    trusted(&way, (&path.display().to_string(), file), us)?;
    Ok(path)
}

/// The process group of a program. Killed when this is dropped, unless the program was reaped.
struct Group {
    leader: Pid,
    alive: bool,
}

impl Group {
    fn of(child: &Child) -> Result<Self, Outcome> {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let leader = pid.ok_or_else(|| Outcome::cannot_run("the script has no process id"))?;
        Ok(Self { leader, alive: true })
    }

    /// Readable once the program has ended.
    #[allow(deprecated, reason = "what replaces it is unsafe; an OwnedFd keeps its promise")]
    fn exited(&self) -> Result<AsyncFd<std::os::fd::OwnedFd>, Outcome> {
        let fd = pidfd_open(self.leader, PidfdFlags::NONBLOCK);
        let fd = fd.map_err(|e| net::failed("watch the script", &e.into()))?;
        AsyncFd::with_interest(fd, Interest::READABLE)
            .map_err(|e| net::failed("watch the script", &e))
    }

    fn kill(&self) {
        // It fails if nobody is left, which is as good.
        let _ = kill_process_group(self.leader, Signal::KILL);
    }

    /// Its number may be another's now.
    fn reaped(mut self) {
        self.alive = false;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.alive {
            self.kill();
        }
    }
}

/// What comes next from a pipe; never, if it is closed.
async fn some(
    pipe: Option<&mut (impl AsyncRead + Unpin)>,
    piece: &mut [u8],
) -> std::io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.read(piece).await,
        None => std::future::pending().await,
    }
}

/// Keeps the start of the output; forgets a pipe that has ended.
fn keep<P>(output: &mut Vec<u8>, piece: &[u8], got: std::io::Result<usize>, pipe: &mut Option<P>) {
    match got {
        Ok(got) if got > 0 => {
            let room = OUTPUT_MAX.saturating_sub(output.len()).min(got);
            output.extend_from_slice(piece.get(..room).unwrap_or_default());
        }
        _ => *pipe = None,
    }
}

async fn drain(mut pipe: Option<impl AsyncRead + Unpin>, output: &mut Vec<u8>) {
    while pipe.is_some() && output.len() < OUTPUT_MAX {
        let mut piece = [0; 512];
        let got = some(pipe.as_mut(), &mut piece).await;
        keep(output, &piece, got, &mut pipe);
    }
}
