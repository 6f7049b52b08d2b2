//! What a restarted data plane needs and the connection table does not hold: the last snapshot and
//! the numbers of its parts. Written by the steward, whole, before the numbers come into use.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use dataplane_api::service::Snapshot;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::ids::Ids;

/// Largest state file read.
const SIZE_MAX: u64 = 64 << 20;
/// Layout of the file.
const VERSION: u32 = 2;

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// Over the rest. One flipped bit may make another valid number, and packets go to the wrong real.
    checksum: u64,
    /// The connection table whose entries use these numbers.
    pub table_id: u64,
    /// Number of workers' cores and so on: all of it.
    pub snapshot: Snapshot,
    /// The numbers.
    pub ids: Ids,
}

/// What every layout has.
#[derive(Deserialize)]
struct Layout {
    version: u32,
}

impl State {
    /// What to write.
    #[must_use]
    pub fn new(table_id: u64, snapshot: Snapshot, ids: Ids) -> Self {
        let state = Self { version: VERSION, checksum: 0, table_id, snapshot, ids };
        Self { checksum: state.sum(), ..state }
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// If it is there and cannot be used; the message says why.
    pub fn read(path: &Path) -> Result<Option<Self>, String> {
        let fail = |why: String| format!("{}: {why}", path.display());
        let Some(bytes) = read_bytes(path).map_err(fail)? else { return Ok(None) };
        let damaged = |e: serde_json::Error| fail(format!("is damaged: {e}"));
        // Before the rest: another layout is no damage.
        let Layout { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(fail(format!("has layout {version}, this release writes {VERSION}")));
        }
        let state: Self = serde_json::from_slice(&bytes).map_err(damaged)?;
        if state.sum() != state.checksum {
            return Err(fail("is damaged: wrong check sum".to_owned()));
        }
        Ok(Some(state))
    }

    /// Replaces the file: a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// What failed; the old file stays.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        let written = self.write_to(&fresh).and_then(|()| fs::rename(&fresh, path));
        if written.is_err() {
            // Half a file helps nobody, least of all where there is no room.
            let _ = fs::remove_file(&fresh);
        }
        written
    }

    fn write_to(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = File::from(open(path, flags, Mode::RUSR | Mode::WUSR)?);
        let mut buffered = BufWriter::new(file);
        serde_json::to_writer(&mut buffered, self).map_err(io::Error::other)?;
        buffered.flush()?;
        buffered.get_ref().sync_all()
    }

    /// FNV-1a of everything else, as it would be written.
    fn sum(&self) -> u64 {
        struct Fnv(u64);
        impl Write for Fnv {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                for byte in bytes {
                    self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
                }
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut sum = Fnv(0xcbf2_9ce4_8422_2325);
        // Writing to memory cannot fail; a type that could not be written at all would show when it is.
        let _ = serde_json::to_writer(&mut sum, &(self.table_id, &self.snapshot, &self.ids));
        sum.0
    }
}

/// The whole file, if it is one and not too long. No link is followed: whoever can make one in place of
/// the file could have us read anything.
fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err("is a symbolic link; remove it".to_owned()),
        Err(e) => return Err(format!("cannot be opened: {e}")),
    };
    let metadata = file.metadata().map_err(|e| format!("cannot be examined: {e}"))?;
    if !metadata.is_file() {
        return Err("is not a regular file; remove it".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(SIZE_MAX + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(format!("is larger than {} MiB", SIZE_MAX >> 20));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn state() -> State {
        let snapshot = Snapshot {
            engine: dataplane_api::service::Engine::default(),
            interfaces: Vec::new(),
            timeouts: dataplane_api::service::Timeouts::default(),
            local: dataplane_api::service::LocalPool::default(),
            reply: dataplane_api::service::ReplyPath::default(),
            services: Vec::new(),
            groups: vec![dataplane_api::service::Group {
                name: "web".to_owned(),
                addresses: Vec::new(),
                gateways: vec!["10.0.0.254".parse().unwrap()],
            }],
        };
        State::new(7, snapshot, Ids::default())
    }

    #[test]
    fn a_damaged_state_file_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(State::read(&path).unwrap(), None);
        let refused = || State::read(&path).unwrap_err();
        fs::write(&path, "{\"version\":2,").unwrap();
        assert!(refused().contains("damaged"));
        fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
        assert!(refused().contains("damaged"));
        fs::write(&path, "{\"version\":9,\"all\":\"else\"}").unwrap();
        assert!(refused().contains("layout 9"));
        File::create(&path).unwrap().set_len(100 << 20).unwrap();
        assert!(refused().contains("larger than 64 MiB"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(refused().contains("not a regular file"));
        fs::remove_dir(&path).unwrap();
        state().write(&dir.path().join("other")).unwrap();
        symlink(dir.path().join("other"), &path).unwrap();
        assert!(refused().contains("symbolic link"));
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let state = state();
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap().as_ref(), Some(&state));
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            if let Ok(Some(read)) = State::read(&path) {
                assert_eq!(read, state, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_state_that_cannot_be_written_leaves_the_old_one_and_no_half() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::create_dir(&path).unwrap();
        assert!(state().write(&path).is_err());
        assert!(!path.with_extension("new").exists());
    }
}
