//! Files that hold a password or a token: short, and for nobody but owner and group.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Longest secret, in bytes.
const SECRET_MAX: u64 = 4096;
/// Permission of others to read, write or execute.
const OTHERS: u32 = 0o007;

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
    let mut text = String::new();
    let read = file.take(SECRET_MAX + 1).read_to_string(&mut text);
    read.map_err(|e| format!("{shown}: cannot read: {e}"))?;
    if text.len() as u64 > SECRET_MAX {
        return Err(format!("{shown}: is longer than {SECRET_MAX} bytes"));
    }
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() || line.contains(char::is_control) {
        return Err(format!("{shown}: the first line is no secret"));
    }
    Ok(line.to_owned())
}

/// Opened before it is judged, so that what was judged is what is read.
fn open(path: &Path) -> Result<File, String> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path);
    let file = file.map_err(|e| format!("cannot open: {e}"))?;
    let metadata = file.metadata().map_err(|e| format!("cannot examine: {e}"))?;
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    if metadata.mode() & OTHERS != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(format!("others may use it (mode {mode:04o}); chmod o= it"));
    }
    Ok(file)
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
        assert!(read(&path).unwrap_err().contains("longer than"));
        assert!(inspect(dir.path()).unwrap_err().contains("not a regular file"));
    }
}
