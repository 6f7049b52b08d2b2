//! Reads the configuration file. The only place that opens it.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::{here, secret};
use crate::config::{self, Config, Errors, FILE_MAX};

/// Reads and validates the whole file.
///
/// # Errors
/// The file cannot be read, or what [`config::parse`] finds wrong with it, or it names what this
/// machine does not have.
pub fn load(path: &Path) -> Result<Config, Errors> {
    let name = path.display().to_string();
    let read = read(path).map_err(|message| Errors::unreadable(&name, message, None))?;
    here::complete(config::parse_bytes(&read.bytes, &name, read.public, &secret::inspect)?, &name)
}

struct Contents {
    bytes: Vec<u8>,
    /// Everybody can read it.
    public: bool,
}

fn read(path: &Path) -> Result<Contents, String> {
    // Non-blocking, so that a FIFO put in the file's place cannot hold us.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path);
    let file = file.map_err(|e| format!("cannot open: {e}"))?;
    let metadata = file.metadata().map_err(|e| format!("cannot examine: {e}"))?;
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long from one that just fits.
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot read: {e}"))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("file is larger than {} MiB", FILE_MAX >> 20));
    }
    Ok(Contents { bytes, public: metadata.mode() & 0o004 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(path: &Path) -> String {
        load(path).unwrap_err().summary()
    }

    #[test]
    fn what_is_no_readable_text_file_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xvip.toml");
        assert!(complaint(&path).contains("cannot open: No such file"));
        assert!(complaint(dir.path()).contains("not a regular file"));
        std::fs::write(&path, "").unwrap();
        assert!(complaint(&path).contains("file is empty"));
        std::fs::write(&path, b"[node]\nname = \"\xff\"").unwrap();
        assert!(complaint(&path).contains("line 2 is not UTF-8"));
        std::fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
        assert!(complaint(&path).contains("larger than 4 MiB"));
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        assert!(complaint(&fifo).contains("not a regular file"));
    }

    #[test]
    fn a_password_in_a_file_that_everybody_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xvip.toml");
        let text = "[[interface]]\nname = \"eth0\"\n[[service]]\nname = \"mail\"\n\
                    listen = \"192.0.2.10:143\"\n[[service.check]]\ntype = \"imaps\"\n\
                    user = \"probe\"\npassword = \"hunter2\"\n";
        std::fs::write(&path, text).unwrap();
        let chmod = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode));
        chmod(0o644).unwrap();
        let complaint = complaint(&path);
        assert!(complaint.contains(":9:12: `password` holds a secret"), "{complaint}");
        chmod(0o640).unwrap();
        assert!(!format!("{:?}", load(&path).unwrap()).contains("hunter2"));
    }

    #[test]
    fn a_symbolic_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&real, "[[interface]]\nname = \"eth0\"\n").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(load(&link).unwrap().interfaces[0].name, "eth0");
    }
}
