//! Reads what checks keep in files of their own: passwords and private keys. A file is read anew
//! for each run, so that a change counts at once, and on a helper thread, so that a disk that hangs
//! holds up no other check. What is wrong with a file says nothing of the server: "cannot check".

use std::path::Path;
use std::time::Duration;

use super::super::regular::{Problem, Regular};
use crate::check::Outcome;
use crate::check::secret::{Credentials, Login, Secret};

/// Longest password, in bytes.
const PASSWORD_MAX: u64 = 1024;
/// Longest time that reading files may take, before the check is given up.
const READING_MAX: Duration = Duration::from_millis(200);

/// Runs `work`, which reads files, on a helper thread.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Outcome> + Send + 'static,
) -> Result<T, Outcome> {
    let work = tokio::task::spawn_blocking(work);
    match tokio::time::timeout(READING_MAX, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(Outcome::cannot_run(format!("a file was not read: {error}"))),
        Err(_) => {
            let ms = READING_MAX.as_millis();
            Err(Outcome::cannot_run(format!("the files of the check were not read in {ms} ms")))
        }
    }
}

/// The name and the password of `login`, if there is one.
pub(super) async fn credentials(login: Option<&Login>) -> Result<Option<Credentials>, Outcome> {
    let Some(login) = login else { return Ok(None) };
    let password = reveal(Some(&login.password)).await?.unwrap_or_default();
    Ok(Some(Credentials { user: login.user.clone(), password }))
}

/// The password, if there is one.
pub(super) async fn reveal(secret: Option<&Secret>) -> Result<Option<String>, Outcome> {
    match secret {
        None => Ok(None),
        Some(Secret::Inline(password)) => Ok(Some(password.clone())),
        Some(Secret::File(path)) => {
            let path = path.clone();
            aside(move || password(&path)).await.map(Some)
        }
    }
}

/// The first line of a file that others cannot read.
pub(super) fn password(path: &Path) -> Result<String, Outcome> {
    let shown = path.display();
    let bytes = read(path, "the password", PASSWORD_MAX, Readers::Few)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Outcome::cannot_run(format!("the password in {shown} is not UTF-8")))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.contains(|c: char| c.is_control()) {
        let what = format!("{shown} does not hold one line with a password");
        return Err(Outcome::cannot_run(what));
    }
    Ok(line.to_owned())
}

/// Who may be able to read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// Its owner and its group.
    Few,
    /// Everybody.
    All,
}

/// Opens a regular file that only `readers` can read.
pub(super) fn open(path: &Path, what: &str, readers: Readers) -> Result<Regular, Outcome> {
    let file = Regular::open(path).map_err(|problem| cannot(path, what, &problem))?;
    if readers == Readers::Few
        && let Some(mode) = file.mode_for_others()
    {
        let shown = path.display();
        return Err(Outcome::cannot_run(format!(
            "{what}: everybody can read {shown} (mode {mode:04o}); run `chmod 640 {shown}`"
        )));
    }
    Ok(file)
}

/// A whole file of at most `max` bytes.
pub(super) fn read(path: &Path, what: &str, max: u64, who: Readers) -> Result<Vec<u8>, Outcome> {
    open(path, what, who)?.whole(max).map_err(|problem| cannot(path, what, &problem))
}

fn cannot(path: &Path, what: &str, problem: &Problem) -> Outcome {
    let shown = path.display();
    Outcome::cannot_run(match problem {
        Problem::Open(error) | Problem::Examine(error) | Problem::Read(error) => {
            format!("{what}: cannot read {shown}: {error}")
        }
        Problem::NotRegular | Problem::Larger(_) => format!("{what}: {shown} is {problem}"),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_password_file_holds_one_line_and_only_few_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let write = |bytes: &[u8], mode| {
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        let complaint = || password(&path).unwrap_err().reason().unwrap_or_default().to_owned();
        assert!(complaint().contains("No such file"));
        write(b"hunter2\n", 0o644);
        assert!(complaint().contains("mode 0644); run `chmod 640"), "{}", complaint());
        for bad in [&b""[..], b"\n", b"two\nlines\n", b"n\0l", b"\xff", &[b'x'; 2000]] {
            write(bad, 0o600);
            assert!(!complaint().contains("hunter2") && !complaint().is_empty());
        }
        for good in [&b"hunter2"[..], b"hunter2\n", b"hunter2\r\n"] {
            write(good, 0o640);
            assert_eq!(password(&path).unwrap(), "hunter2");
        }
        assert!(password(dir.path()).unwrap_err().reason().unwrap().contains("regular"));
    }
}
