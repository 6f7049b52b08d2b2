//! The state directory: overrides, written whole or not at all, and read back at a start.
//!
//! The directory is made when there is something to write. A disk that hangs holds up a thread of
//! its own and nobody else; only the newest state is waited with.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::Event;
use super::regular::{Problem, Regular};
use crate::node::Input;
use crate::overrides::{FILE_MAX, Overrides, decode};

/// Name of the file.
const FILE: &str = "overrides.json";
/// Longest wait for the last write when we stop.
const FINISH_MAX: Duration = Duration::from_millis(500);

/// What was saved, and why some of it could not be believed. A broken file is set aside.
pub(super) fn load(directory: &Path, unix_ms: u64) -> (Overrides, Option<String>) {
    let path = directory.join(FILE);
    let shown = path.display();
    let bytes = match read(&path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return (Overrides::default(), None),
        Err(error) => {
            let problem = format!("{shown}: {error}; the overrides in it are not in force");
            return (Overrides::default(), Some(problem));
        }
    };
    let error = match decode(&bytes) {
        Ok(overrides) => return (overrides, None),
        Err(error) => error,
    };
    let aside = directory.join(format!("{FILE}.broken-{}", unix_ms / 1000));
    let what = match std::fs::rename(&path, &aside) {
        Ok(()) => format!("set aside as {}", aside.display()),
        Err(error) => format!("and it cannot be set aside: {error}"),
    };
    let problem =
        format!("{shown} is broken ({error}), {what}; the overrides in it are not in force");
    (Overrides::default(), Some(problem))
}

/// The bytes of the file; `None` if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    let file = match Regular::open(path) {
        Ok(file) => file,
        Err(problem) if problem.is_absent() => return Ok(None),
        Err(problem) => return Err(problem),
    };
    // One that is too long is broken, and set aside like any other that is.
    file.beginning(FILE_MAX + 1).map(Some)
}

/// Writes the file so that after a crash it is the old or the new one.
fn save(directory: &Path, bytes: &[u8]) -> Result<(), String> {
    let shown = directory.display();
    DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(|e| {
        format!("cannot make the directory {shown}: {e}; make it, or see --state-dir")
    })?;
    let (path, new) = (directory.join(FILE), directory.join(format!("{FILE}.new")));
    let error = |e: std::io::Error| format!("cannot write {}: {e}", path.display());
    let mut file = OpenOptions::new();
    let file = file.write(true).create(true).truncate(true).mode(0o640).open(&new);
    let mut file = file.map_err(error)?;
    file.write_all(bytes).map_err(error)?;
    file.sync_all().map_err(error)?;
    std::fs::rename(&new, &path).map_err(error)?;
    File::open(directory).and_then(|d| d.sync_all()).map_err(error)
}

/// Writes one state after the other, the newest only.
pub(super) struct Writer {
    newest: watch::Sender<Option<(u64, Vec<u8>)>>,
    task: JoinHandle<()>,
}

impl Writer {
    pub(super) fn start(directory: PathBuf, events: mpsc::Sender<Event>) -> Self {
        let (newest, mut wanted) = watch::channel(None::<(u64, Vec<u8>)>);
        let task = tokio::spawn(async move {
            while wanted.changed().await.is_ok() {
                let Some((write, bytes)) = wanted.borrow_and_update().clone() else { continue };
                let directory = directory.clone();
                let saved = tokio::task::spawn_blocking(move || save(&directory, &bytes)).await;
                let saved = saved.unwrap_or_else(|e| Err(format!("cannot write: {e}")));
                let _ = events.send(Event::Input(Input::Stored(write, saved))).await;
            }
        });
        Self { newest, task }
    }

    pub(super) fn write(&self, write: u64, bytes: Vec<u8>) {
        self.newest.send_replace(Some((write, bytes)));
    }

    /// Waits, within reason, until the last state is written; nobody listens to events any more.
    pub(super) async fn finish(self) {
        drop(self.newest);
        let _ = tokio::time::timeout(FINISH_MAX, self.task).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overrides::{Held, RealKey, Standing, encode};

    fn overrides() -> Overrides {
        let mut overrides = Overrides::default();
        let key =
            RealKey { service: "web".into(), address: "10.0.1.1".parse().unwrap(), port: Some(80) };
        let held = Held { value: Standing::Disabled, since_ms: 1, until_ms: None, uid: 0 };
        overrides.stand(&key, "a", Some(held));
        overrides
    }

    #[test]
    fn what_is_saved_is_there_after_a_restart_and_a_directory_is_made_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        assert_eq!(load(&state, 0), (Overrides::default(), None), "nothing yet, and no complaint");
        assert!(!state.exists(), "looking leaves nothing behind");
        save(&state, &encode(&overrides())).unwrap();
        assert_eq!(load(&state, 0), (overrides(), None));
        save(&state, &encode(&Overrides::default())).unwrap();
        assert_eq!(load(&state, 0), (Overrides::default(), None));
    }

    #[test]
    fn a_broken_file_is_reported_and_set_aside_and_the_next_one_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = encode(&overrides());
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(dir.path().join(FILE), &bytes).unwrap();
        let (got, problem) = load(dir.path(), 77_000);
        let problem = problem.unwrap();
        assert_eq!(got, Overrides::default());
        assert!(problem.contains("broken-77") && problem.contains("broken ("), "{problem}");
        assert_eq!(std::fs::read(dir.path().join("overrides.json.broken-77")).unwrap(), bytes);
        assert_eq!(load(dir.path(), 0), (Overrides::default(), None));
    }

    #[test]
    fn what_is_no_file_or_no_directory_is_a_clear_message() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join(FILE);
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        assert!(load(dir.path(), 0).1.unwrap().contains("not a regular file"));
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = save(&dir.path().join("file/state"), b"").unwrap_err();
        assert!(error.contains("cannot make the directory") && error.contains("--state-dir"));
    }
}
