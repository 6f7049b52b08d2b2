//! Looks into the maintenance directory each second, and says what is new.
//!
//! By looking rather than by inotify: that is as good on a network file system, and nothing that
//! was missed matters. One look at a time, on a thread of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Event;
use crate::node::Input;
use crate::overrides::{FILES_MAX, NAME_MAX};

/// Pause between looks.
const PERIOD: Duration = Duration::from_secs(1);

/// The task that looks; ends when dropped.
pub(super) struct Watcher(JoinHandle<()>);

impl Watcher {
    pub(super) fn start(directory: PathBuf, events: mpsc::Sender<Event>) -> Self {
        Self(tokio::spawn(async move {
            let mut last = Ok(Vec::new());
            loop {
                let path = directory.clone();
                let names = tokio::task::spawn_blocking(move || list(&path)).await;
                let names = names.unwrap_or_else(|e| Err(format!("cannot look: {e}")));
                if names != last {
                    last.clone_from(&names);
                    if events.send(Event::Input(Input::Maintenance(names))).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(PERIOD).await;
            }
        }))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Names of the files, in order.
fn list(directory: &Path) -> Result<Vec<String>, String> {
    let error = |e: std::io::Error| format!("cannot read {}: {e}", directory.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        names.push(name.to_string_lossy().chars().take(NAME_MAX).collect());
        if names.len() > FILES_MAX {
            return Err(format!("more than {FILES_MAX} files in {}", directory.display()));
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_and_a_missing_directory_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "a", "10.0.0.1:80"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(list(dir.path()).unwrap(), ["10.0.0.1:80", "a", "b"]);
        let error = list(&dir.path().join("gone")).unwrap_err();
        assert!(error.contains("/gone: No such file"), "{error}");
    }
}
