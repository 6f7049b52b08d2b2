//! Opens and reads files that a configuration names: regular ones, and no more of them than is
//! wanted. Whatever stands in the place of the file, opening it does not hold the caller.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Rights of others to read or write. To execute shows nothing of a file.
const OTHERS: u32 = 0o006;

/// Why a file is not read.
#[derive(Debug)]
pub(super) enum Problem {
    Open(io::Error),
    Examine(io::Error),
    NotRegular,
    Read(io::Error),
    /// It has more bytes than these.
    Larger(u64),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => write!(f, "cannot open: {error}"),
            Self::Examine(error) => write!(f, "cannot examine: {error}"),
            Self::NotRegular => f.write_str("not a regular file"),
            Self::Read(error) => write!(f, "cannot read: {error}"),
            Self::Larger(max) if max.is_multiple_of(1 << 20) => {
                write!(f, "larger than {} MiB", max >> 20)
            }
            Self::Larger(max) if max.is_multiple_of(1 << 10) => {
                write!(f, "larger than {} KiB", max >> 10)
            }
            Self::Larger(max) => write!(f, "larger than {max} bytes"),
        }
    }
}

impl Problem {
    /// Whether there is no such file.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Open(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// A regular file, opened before it is judged, so that what was judged is what is read.
#[derive(Debug)]
pub(super) struct Regular {
    file: File,
    metadata: Metadata,
}

impl Regular {
    /// Opens it.
    pub(super) fn open(path: &Path) -> Result<Self, Problem> {
        // Non-blocking, so that a FIFO put in the file's place cannot hold us.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path);
        let file = file.map_err(Problem::Open)?;
        let metadata = file.metadata().map_err(Problem::Examine)?;
        if metadata.is_file() { Ok(Self { file, metadata }) } else { Err(Problem::NotRegular) }
    }

    /// As `stat` has it.
    pub(super) const fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its mode, if that lets others read or write it: then it is no place for a secret.
    pub(super) fn mode_for_others(&self) -> Option<u32> {
        let mode = self.metadata.mode() & 0o7777;
        (mode & OTHERS != 0).then_some(mode)
    }

    /// At most its first `max` bytes.
    pub(super) fn beginning(&self, max: u64) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        (&self.file).take(max).read_to_end(&mut bytes).map_err(Problem::Read)?;
        Ok(bytes)
    }

    /// All of it, if that is at most `max` bytes.
    pub(super) fn whole(&self, max: u64) -> Result<Vec<u8>, Problem> {
        // One byte more than allowed tells a file that is too long from one that just fits.
        let bytes = self.beginning(max + 1)?;
        if bytes.len() as u64 > max { Err(Problem::Larger(max)) } else { Ok(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let problem = Regular::open(&path).unwrap_err();
        assert!(problem.is_absent() && problem.to_string().starts_with("cannot open: No such"));
        assert!(matches!(Regular::open(dir.path()), Err(Problem::NotRegular)));
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(Regular::open(&fifo).unwrap_err().to_string(), "not a regular file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(Regular::open(&path).unwrap().whole(5).unwrap(), b"12345");
        assert_eq!(Regular::open(&path).unwrap().beginning(2).unwrap(), b"12");
        let larger = Regular::open(&path).unwrap().whole(4).unwrap_err();
        assert_eq!(larger.to_string(), "larger than 4 bytes");
        assert_eq!(Problem::Larger(4 << 20).to_string(), "larger than 4 MiB");
        assert_eq!(Problem::Larger(256 << 10).to_string(), "larger than 256 KiB");
    }
}
