//! Removal of a lab by its name alone: by its owner, by the owner's signal handler, or by a later
//! run.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::namespace::NETNS;
use super::{MAKING, say, wait_until};

/// Where locks and the run directories of instances are.
const RUN: &str = "/run";
/// Where connection tables are.
pub(super) const SHARED: &str = "/dev/shm";
/// What all names begin with.
const PREFIX: &str = "xvperf-";
/// How long killed processes may take to end.
const DEATH: Duration = Duration::from_secs(5);

/// The right to measure: one run on the machine has it at a time, since runs side by side would
/// measure each other. Labs may stand beside.
pub(super) fn alone() -> anyhow::Result<File> {
    let path = Path::new(RUN).join("xvperf.measuring");
    let shown = || format!("{}", path.display());
    let file = File::create(&path).with_context(shown)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            say("another measurement runs on this machine: waiting for its end");
            flock(&file, FlockOperation::LockExclusive).with_context(shown)?;
        }
        other => other.with_context(shown)?,
    }
    Ok(file)
}

/// The lock of a lab: as long as it is held, the lab is somebody's.
pub(super) fn lock(prefix: &str) -> anyhow::Result<File> {
    let path = lock_path(prefix);
    let shown = || format!("{}", path.display());
    // Another run that looks for left-overs may hold it for a moment, and remove it: what we hold
    // then has no name.
    wait_until(&format!("{} is ours", path.display()), DEATH, || {
        let file = File::create(&path).with_context(shown)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(has_name(&file, &path).then_some(file)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).with_context(shown),
        }
    })
}

fn has_name(file: &File, path: &Path) -> bool {
    let inode = |metadata: std::io::Result<fs::Metadata>| metadata.map(|m| m.ino()).ok();
    inode(file.metadata()) == inode(fs::metadata(path))
}

fn lock_path(prefix: &str) -> PathBuf {
    Path::new(RUN).join(format!("{prefix}.lock"))
}

/// From the first lab on, SIGINT and SIGTERM remove all labs of this process and end it.
pub(super) fn catch_signals() -> anyhow::Result<()> {
    static CAUGHT: OnceLock<Result<(), String>> = OnceLock::new();
    let caught = CAUGHT.get_or_init(|| {
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|e| e.to_string())?;
        let wait = move || {
            let Some(signal) = signals.forever().next() else { return };
            // Never given back: from here on nothing is made.
            let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
            let own = format!("{PREFIX}{}", std::process::id());
            for prefix in prefixes().into_iter().filter(|p| is_of(p, &own)) {
                sweep(&prefix);
            }
            std::process::exit(128 + signal);
        };
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(wait).map(drop).map_err(|e| e.to_string())
    });
    caught.clone().map_err(|e| anyhow!("catching signals: {e}"))
}

/// Whether a prefix is one of the process whose first prefix is `own`.
fn is_of(prefix: &str, own: &str) -> bool {
    prefix.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Prefixes that have a lock.
fn prefixes() -> Vec<String> {
    let names = fs::read_dir(RUN).into_iter().flatten().flatten().map(|e| e.file_name());
    names
        .filter_map(|name| {
            let prefix = name.to_str()?.strip_suffix(".lock")?.to_owned();
            prefix.starts_with(PREFIX).then_some(prefix)
        })
        .collect()
}

/// Removes the labs whose owners are dead; returns what went wrong, in words.
pub(super) fn left_overs() -> Vec<String> {
    let mut problems = Vec::new();
    for prefix in prefixes() {
        let Ok(file) = File::open(lock_path(&prefix)) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            problems.extend(sweep(&prefix));
        }
    }
    problems
}

/// Ends and removes everything of this name, however much there is; returns what went wrong, in
/// words.
pub(super) fn sweep(prefix: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for name in namespaces(prefix) {
        problems.extend(empty(&name));
        problems.extend(quietly(&["ip", "netns", "del", &name]));
    }
    problems.extend(unmount(&Path::new(RUN).join(prefix)));
    for table in tables(prefix) {
        let _ = fs::remove_file(table);
    }
    let _ = fs::remove_dir_all(std::env::temp_dir().join(prefix));
    if problems.is_empty() {
        let _ = fs::remove_file(lock_path(prefix));
    }
    problems
}

/// Connection tables of the instance of that name, and of those of a pair: `PREFIX-NODE`.
fn tables(prefix: &str) -> Vec<PathBuf> {
    let of_pair = format!("{prefix}-");
    let ours = |name: &str| {
        let instance = name.strip_suffix(".table");
        instance.is_some_and(|i| i == prefix || i.starts_with(&of_pair))
    };
    let entries = fs::read_dir(SHARED).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_str().is_some_and(ours)).map(|e| e.path()).collect()
}

/// Unmounts what is mounted below a directory and removes it; returns what went wrong, in words.
pub(super) fn unmount(directory: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let under = format!("{}/", directory.display());
    let points = mounts.lines().rev().filter_map(|l| l.split_whitespace().nth(1));
    let ours = points.filter(|point| point.starts_with(&under));
    let problems: Vec<String> = ours.filter_map(|point| quietly(&["umount", point])).collect();
    // Missing is what it should be.
    let _ = fs::remove_dir_all(directory);
    problems
}

fn namespaces(prefix: &str) -> Vec<String> {
    let begin = format!("{prefix}-");
    let names = fs::read_dir(NETNS).into_iter().flatten().flatten();
    names
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| name.starts_with(&begin))
        .collect()
}

/// Kills what runs in a namespace; says so if something does not die.
pub(super) fn empty(name: &str) -> Option<String> {
    let gone = || {
        let mut left = false;
        for pid in pids(name) {
            left = true;
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        Ok((!left).then_some(()))
    };
    wait_until(&format!("all processes in {name} end"), DEATH, gone).err().map(|e| e.to_string())
}

fn pids(name: &str) -> Vec<Pid> {
    let output = Command::new("ip").args(["netns", "pids", name]).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().filter_map(|p| Pid::from_raw(p.parse().ok()?)).collect()
}

/// Runs a command (not by way of `during`: whoever ends the run holds that lock).
fn quietly(words: &[&str]) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Some(format!("{}: {said}", words.join(" ")))
        }
        Err(error) => Some(format!("{}: {error}", words.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_removes_its_own_labs_only() {
        assert!(is_of("xvperf-12", "xvperf-12") && is_of("xvperf-12.3", "xvperf-12"));
        assert!(!is_of("xvperf-123", "xvperf-12") && !is_of("xvperf-1", "xvperf-12"));
    }
}
