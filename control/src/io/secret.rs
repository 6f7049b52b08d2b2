//! Files that hold a password or a token: short, and for nobody but owner and group.

use std::path::Path;

use super::regular::Regular;

/// Longest secret, in bytes.
const SECRET_MAX: u64 = 4096;

/// What is wrong with the file, if anything.
///
/// # Errors
/// It cannot be opened, is no regular file, or others have rights on it.
pub(super) fn inspect(path: &Path) -> Result<(), String> {
    open(path).map(|_| ())
}

/// The secret: the first line of the file.
///
/// # Errors
/// As [`inspect`]; and it is empty, too long or no printable text.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let file = open(path).map_err(|e| format!("{shown}: {e}"))?;
    let bytes = file.whole(SECRET_MAX).map_err(|e| format!("{shown}: {e}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown}: not UTF-8 text"))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() || line.contains(char::is_control) {
        return Err(format!("{shown}: the first line is no secret"));
    }
    Ok(line.to_owned())
}

fn open(path: &Path) -> Result<Regular, String> {
    let file = Regular::open(path).map_err(|problem| problem.to_string())?;
    match file.mode_for_others() {
        Some(mode) => Err(format!("others may use it (mode {mode:04o}); chmod o= it")),
        None => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        assert!(inspect(&path).unwrap_err().contains("cannot open"));
        std::fs::write(&path, "hunter2\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(read(&path).unwrap_err().contains("mode 0644"));
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read(&path).unwrap(), "hunter2");
        std::fs::write(&path, "\n").unwrap();
        assert!(read(&path).is_err());
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(read(&path).unwrap_err().contains("larger than"));
        assert!(inspect(dir.path()).unwrap_err().contains("not a regular file"));
    }
}
