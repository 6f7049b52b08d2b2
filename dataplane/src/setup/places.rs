//! The files of an instance: run directory, lock, socket, pin directory; made at start, removed at an
//! orderly stop.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};

use anyhow::{Context, bail};
use dataplane::privilege;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

/// The files of an instance.
pub(super) struct Places {
    pub(super) run_dir: PathBuf,
    pub(super) bpf: PathBuf,
    pub(super) agent: PathBuf,
    pub(super) sync: PathBuf,
    pub(super) state: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) table: PathBuf,
}

impl Places {
    pub(super) fn new(instance: &str, run_dir: Option<PathBuf>) -> anyhow::Result<Self> {
        let valid = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let dots = matches!(instance, "." | "..");
        if dots || !(1..=63).contains(&instance.len()) || !instance.chars().all(valid) {
            bail!("instance `{instance}`: expected 1 to 63 of A-Z a-z 0-9 . _ -");
        }
        let run_dir = run_dir.unwrap_or_else(|| Path::new("/run").join(instance));
        Ok(Self {
            bpf: run_dir.join("bpf"),
            agent: run_dir.join("agent.sock"),
            sync: run_dir.join("sync.sock"),
            state: run_dir.join("state.json"),
            lock: run_dir.join("dataplane.lock"),
            table: Path::new("/dev/shm").join(format!("{instance}.table")),
            run_dir,
        })
    }
}

pub(super) fn make_directory(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .with_context(|| format!("cannot create {}", path.display()))
}

/// Two data planes of one name would fight over queues and table.
pub(super) fn lock(path: &Path) -> anyhow::Result<File> {
    loop {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.with_context(|| format!("cannot open {}", path.display()))?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                bail!("{} is locked: another data plane runs", path.display())
            }
            outcome => outcome.with_context(|| format!("cannot lock {}", path.display()))?,
        }
        // Whoever had it before may have removed it between our two steps.
        let ours = file.metadata().context("lock")?.ino();
        if fs::metadata(path).is_ok_and(|there| there.ino() == ours) {
            return Ok(file);
        }
    }
}

/// Undoes a start that failed, unless the files of a process before this one are there to be adopted.
pub(super) fn abandon(places: &Places, lock: File) {
    if places.state.exists() || places.table.exists() {
        return;
    }
    let _ = privilege::unmount_bpffs(&places.bpf);
    let _ = fs::remove_dir(&places.bpf);
    for file in [&places.agent, &places.sync, &places.lock] {
        let _ = fs::remove_file(file);
    }
    drop(lock);
    let _ = fs::remove_dir(&places.run_dir);
}

pub(super) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let _ = fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", path.display()))?;
    Ok(listener)
}

/// Unmounting needs a right that the data plane gives up. A child keeps it: it does nothing but wait,
/// and unmounts that one directory if told so; if its parent dies it leaves everything as it is.
pub(super) fn spawn_unmounter(directory: &Path) -> anyhow::Result<Child> {
    Process::new("/proc/self/exe")
        .arg("--unmounter")
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start the unmounter")
}

/// The child's side of [`spawn_unmounter`].
pub(crate) fn unmounter(directory: &Path) -> anyhow::Result<()> {
    // A terminal's Ctrl-C goes to the whole group; the parent decides.
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, std::sync::Arc::default()).context("signal handler")?;
    }
    let mut word = String::new();
    std::io::stdin().read_to_string(&mut word).context("standard input")?;
    if word == "unmount" {
        privilege::unmount_bpffs(directory)?;
        fs::remove_dir(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

/// Removes every file, and the directory if nobody else's are in it.
pub(super) fn clean_up(places: &Places, unmounter: &mut Child, lock: File) -> anyhow::Result<()> {
    if let Some(mut word) = unmounter.stdin.take() {
        word.write_all(b"unmount").context("unmounter")?;
    }
    let status = unmounter.wait().context("unmounter")?;
    if !status.success() {
        bail!("{} could not be unmounted", places.bpf.display());
    }
    for file in [&places.agent, &places.sync, &places.state, &places.table, &places.lock] {
        let _ = fs::remove_file(file);
    }
    drop(lock);
    let _ = fs::remove_dir(&places.run_dir);
    Ok(())
}
