//! Runs a program for an alert: JSON on its standard input, the most important in its environment. And
//! the fencing command, which gets neither.
//!
//! It runs in a process group of its own, which is killed when its time is up. A program that
//! reads nothing, or writes without end, holds up nothing but itself.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr};

use super::alert::printable;
use crate::alert::{Command, Message};
use crate::config::show_duration;
use crate::failover::settings::Fencing;

/// Bytes of its standard error that are looked at, for the reason of a failure.
const STDERR_MAX: usize = 2048;
/// Where programs are looked for by the program; it inherits nothing else of our environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kills the whole group unless it has ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Runs it; taken is what ends with status 0.
///
/// # Errors
/// In words: cannot be started, another status, killed.
pub(super) async fn run(command: &Command, message: &Message) -> Result<(), String> {
    let mut json = message.json().to_string();
    json.push('\n');
    execute(&command.argv, environment(message), json).await
}

/// Runs the fencing command; fenced is what ends with status 0.
///
/// # Errors
/// In words: cannot be started, another status, not done in time.
pub(super) async fn fence(fencing: &Fencing) -> Result<(), String> {
    let run = execute(&fencing.command, Vec::new(), String::new());
    match tokio::time::timeout(fencing.timeout, run).await {
        Ok(result) => result.map_err(|reason| printable(&reason)),
        Err(_) => Err(format!("not done within {}", show_duration(fencing.timeout))),
    }
}

async fn execute(
    argv: &[String],
    environment: Vec<(&'static str, String)>,
    input: String,
) -> Result<(), String> {
    let (program, arguments) = argv.split_first().ok_or("no program")?;
    let mut builder = tokio::process::Command::new(program);
    builder
        .args(arguments)
        .current_dir("/")
        .env_clear()
        .env("PATH", PATH)
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = builder.spawn().map_err(|e| format!("cannot start {program}: {e}"))?;
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut group = Group(pid);
    let result = talk(&mut child, &input, program).await;
    // Reaped: its number may be somebody else's now.
    group.0 = None;
    result
}

async fn talk(child: &mut Child, input: &str, program: &str) -> Result<(), String> {
    let stdin = child.stdin.take();
    let stderr = child.stderr.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // It need not read.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let mut said = Vec::new();
    let status = {
        let listen = listen(stderr, &mut said);
        tokio::pin!(feed, listen);
        let (mut fed, mut heard) = (false, false);
        let wait = child.wait();
        tokio::pin!(wait);
        let status = loop {
            tokio::select! {
                () = &mut feed, if !fed => fed = true,
                () = &mut listen, if !heard => heard = true,
                status = &mut wait => break status,
            }
        };
        // What it said last is in the pipe; a child of its own may hold that open for ever.
        if !heard {
            let _ = tokio::time::timeout(Duration::from_millis(100), listen).await;
        }
        status
    };
    let status = status.map_err(|e| format!("cannot wait for {program}: {e}"))?;
    if status.success() {
        return Ok(());
    }
    let said = printable(&String::from_utf8_lossy(&said));
    let colon = if said.is_empty() { "" } else { ": " };
    Err(format!("{program}: {status}{colon}{said}"))
}

/// Takes in what comes, keeps the beginning.
async fn listen(stderr: Option<ChildStderr>, said: &mut Vec<u8>) {
    let Some(mut stderr) = stderr else { return };
    let mut chunk = [0; 1024];
    while let Ok(count) = stderr.read(&mut chunk).await {
        if count == 0 {
            return;
        }
        let room = STDERR_MAX.saturating_sub(said.len());
        said.extend(chunk.iter().take(count.min(room)));
    }
}

/// For shell scripts that need no JSON.
fn environment(message: &Message) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("XVIP_NODE", message.sender.node.clone()),
        ("XVIP_INSTANCE", message.sender.instance.clone()),
        ("XVIP_SEVERITY", message.severity.name().to_owned()),
        ("XVIP_SUBJECT", message.subject()),
        ("XVIP_CHANGES", (message.lines.len() as u64 + message.more).to_string()),
        ("XVIP_TEST", if message.test.is_some() { "1" } else { "0" }.to_owned()),
    ];
    // One change is the usual case, and worth more words.
    if let ([line], 0) = (message.lines.as_slice(), message.more) {
        let event = &line.event;
        variables.push(("XVIP_KIND", event.kind.name().to_owned()));
        variables.push(("XVIP_REASON", event.reason.clone()));
        for (name, value) in [
            ("XVIP_SERVICE", &event.service),
            ("XVIP_REAL", &event.real),
            ("XVIP_ABOUT", &event.subject),
        ] {
            variables.extend(value.clone().map(|value| (name, value)));
        }
    }
    variables
}
