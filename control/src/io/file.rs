//! Reads the configuration file. The only place that opens it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::here::{self, HERE};
use super::regular::{Problem, Regular};
use crate::config::{self, Config, Errors, FILE_MAX};

/// Reads and validates the whole file.
///
/// # Errors
/// The file cannot be read, or what [`config::parse`] finds wrong with it, or it names what this
/// machine does not have.
pub fn load(path: &Path) -> Result<Config, Errors> {
    let name = path.display().to_string();
    let (bytes, public) =
        read(path).map_err(|problem| Errors::unreadable(&name, problem.to_string(), None))?;
    here::complete(config::parse_bytes(&bytes, &name, public, HERE)?, &name)
}

/// Its bytes, and whether everybody can read it.
fn read(path: &Path) -> Result<(Vec<u8>, bool), Problem> {
    let file = Regular::open(path)?;
    Ok((file.whole(FILE_MAX)?, file.metadata().mode() & 0o004 != 0))
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
