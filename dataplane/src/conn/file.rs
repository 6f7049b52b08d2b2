//! The table as a file in shared memory: created, and adopted by the next process.
//!
//! | words of the header | content |
//! |---|---|
//! | 0 | magic |
//! | 1 | layout version 32, bytes of an entry 32 |
//! | 2 | capacity |
//! | 3, 4 | seeds of the hash |
//! | 5, 6 | boot: times in the table are of its monotonic clock |
//! | 7 | table id |
//! | 8 | check sum of the words before |
//!
//! The header fills 4,096 bytes; the entries follow. A lock on the file (`flock`) says that a process
//! uses it; the kernel drops it when that dies, however it dies.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, ftruncate, open};
use rustix::io::Errno;

use super::entry::{self, Conn, FREE, Hot};
use super::index::Hash;
use super::memory::{self, HUGE, Region, Unavailable};
use super::sync::{Line, Ordering};
use super::table::Table;
use super::tcp::State;
use crate::clock::Tick;
use crate::limits;

/// Changes with every change of the layout of header or entry.
const VERSION: u32 = 1;
/// `xvipconn`.
const MAGIC: u64 = 0x7876_6970_636f_6e6e;
/// Lines of the header.
const HEADER: usize = 64;
const WORDS: usize = 9;
/// How far ahead buckets are asked for at adoption, which else waits for memory with each entry.
const AHEAD: u32 = 16;

/// Why no table could be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The number of connections is not possible.
    #[error("a table of {0} connections is not possible: 1 to 67108864 are")]
    Capacity(u32),
    /// The file is in use or not usable.
    #[error(transparent)]
    File(#[from] FileError),
    /// No room.
    #[error("{path}: {source}; is the file system (often /dev/shm) large enough?")]
    Room {
        /// The file.
        path: PathBuf,
        /// How much was wanted, and why not.
        source: Unavailable,
    },
    /// The kernel did not answer.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Why a file cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Another process has it.
    #[error("{0} is in use by another process; is a data plane running already?")]
    InUse(PathBuf),
    /// Not a regular file of ours that nobody else can write.
    #[error("{0} is not a regular file that belongs to this user alone; remove it")]
    Untrusted(PathBuf),
    /// Not there, or not accessible.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Why the table of the last process was not adopted. All but [`FileError::InUse`] and
/// [`AdoptError::Create`] mean: start a fresh one.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// There is no table.
    #[error("there is no connection table to adopt")]
    Missing,
    /// The file is in use or not usable.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not a table.
    #[error("not a connection table of xvip")]
    Magic,
    /// Of another version.
    #[error("layout version {found}, this program has {VERSION}")]
    Version {
        /// What the file says.
        found: u32,
    },
    /// The header is damaged.
    #[error("header is damaged: {0}")]
    Damaged(&'static str),
    /// Of an earlier boot.
    #[error("written before the last reboot")]
    Boot,
    /// No memory, or no answer from the kernel.
    #[error(transparent)]
    Create(#[from] CreateError),
}

/// What was adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Adopted {
    /// Connections kept.
    pub kept: u32,
    /// Entries that the dead process left incomplete or damaged; they are free now.
    pub repaired: u32,
    /// Connections that `keep` refused.
    pub dropped: u32,
}

impl Table {
    /// An empty table in the file `path`; one that was there is overwritten.
    ///
    /// # Errors
    /// See [`CreateError`]; above all the file being in use, and no room.
    pub fn create(path: &Path, capacity: u32, half_open_max: u32) -> Result<Self, CreateError> {
        if !(1..=limits::CONNECTIONS).contains(&capacity) {
            return Err(CreateError::Capacity(capacity));
        }
        let file = open_table(path, OFlags::CREATE)?;
        let sized = ftruncate(&file, 0).and_then(|()| ftruncate(&file, file_bytes(capacity)));
        sized.map_err(|e| system("set the size of the connection table", e.into()))?;
        let [id, a, b] = memory::random().map_err(|e| system("get random numbers", e))?;
        let entries = map(path, file, capacity).inspect_err(|_| {
            // What was allocated of it helps nobody.
            let _ = std::fs::remove_file(path);
        })?;
        write_header(entries.header(), capacity, [a, b], boot_id()?, id);
        let table = Self::over(entries, [a, b], id, half_open_max).map_err(|e| room(path, e))?;
        table.free_all(|_| true);
        Ok(table)
    }

    /// The table that the last process left in the file `path`, with the connections that `keep`
    /// accepts (it knows services, reals and timeouts). It has the capacity it had. What was half
    /// written is freed; index, free list and counts are built anew. One pass.
    ///
    /// # Errors
    /// See [`AdoptError`]; the file is then unchanged.
    pub fn adopt(
        path: &Path,
        half_open_max: u32,
        now: Tick,
        keep: impl FnMut(&Conn) -> bool,
    ) -> Result<(Self, Adopted), AdoptError> {
        let file = match open_table(path, OFlags::empty()) {
            Err(FileError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(AdoptError::Missing);
            }
            file => file?,
        };
        let header = read_header(&file)?;
        let (capacity, seeds, id) = check_header(&header, &file)?;
        let entries = map(path, file, capacity)?;
        let table = Self::over(entries, seeds, id, half_open_max).map_err(|e| room(path, e))?;
        let adopted = table.rebuild(now, keep);
        Ok((table, adopted))
    }

    fn rebuild(&self, now: Tick, mut keep: impl FnMut(&Conn) -> bool) -> Adopted {
        let mut adopted = Adopted::default();
        for (index, line) in (0..).zip(self.entries.iter()) {
            if let Some((_, conn)) = self.line(index + AHEAD).and_then(entry::read) {
                self.finder().prefetch(self.hash_of(&conn.identity));
            }
            let hot = entry::hot(line);
            if hot.byte() == FREE {
                continue;
            }
            match self.readmit(index, line, hot, now, &mut keep) {
                Ok(true) => adopted.kept += 1,
                Ok(false) => adopted.dropped += 1,
                Err(Damaged) => adopted.repaired += 1,
            }
        }
        self.free_all(|index| entry::hot(&self.entries[index as usize]).byte() == FREE);
        adopted
    }

    /// Takes one entry into the index, or frees it.
    fn readmit(
        &self,
        index: u32,
        line: &Line,
        hot: Hot,
        now: Tick,
        keep: &mut impl FnMut(&Conn) -> bool,
    ) -> Result<bool, Damaged> {
        let verdict = match plausible(line, hot, now) {
            None => Err(Damaged),
            Some((conn, _)) if !keep(&conn) => Ok(false),
            Some((conn, state)) => {
                let hash = self.hash_of(&conn.identity);
                if self.is_duplicate(hash, &conn) {
                    Err(Damaged)
                } else if self.index.place(hash, index).is_some() {
                    self.count_start(state);
                    if entry::origin(line).is_imported() {
                        self.imported.add();
                    }
                    if state.is_half_open() {
                        self.half_open.add();
                    }
                    return Ok(true);
                } else {
                    Ok(false)
                }
            }
        };
        line.0[0].store(hot.ended(FREE).0, Ordering::Relaxed);
        verdict
    }

    fn is_duplicate(&self, hash: Hash, conn: &Conn) -> bool {
        let mut lines = self.index.candidates(hash).filter_map(|index| self.line(index));
        lines.any(|line| {
            entry::read(line).is_some_and(|(_, other)| super::insert::same_key(conn, &other))
        })
    }
}

/// An entry that cannot be what a live process wrote.
struct Damaged;

fn plausible(line: &Line, hot: Hot, now: Tick) -> Option<(Conn, State)> {
    let state = hot.state()?;
    let conn = entry::read_owned(line, state, hot);
    // Another worker of the dead process may have read its clock just after `now` was read.
    let past = |tick: Tick| now.0.wrapping_sub(tick.0).wrapping_add(16) < u32::MAX / 2;
    let ok = entry::is_intact(line)
        && hot.is_plausible()
        && past(conn.seen)
        && past(conn.created)
        && match state {
            State::Template => conn.identity.protocol == 0,
            _ => matches!(conn.identity.protocol, 6 | 17),
        };
    ok.then_some((conn, state))
}

fn open_table(path: &Path, more: OFlags) -> Result<File, FileError> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | more;
    let fail = |e: Errno| FileError::Open { path: path.to_owned(), source: e.into() };
    let file: File = match open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file.into(),
        // A symbolic link: not followed.
        Err(Errno::LOOP | Errno::ISDIR) => return Err(FileError::Untrusted(path.to_owned())),
        Err(e) => return Err(fail(e)),
    };
    let stat = fstat(&file).map_err(fail)?;
    let ours = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && stat.st_mode & 0o022 == 0
        && stat.st_nlink == 1;
    if !ours {
        return Err(FileError::Untrusted(path.to_owned()));
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(FileError::InUse(path.to_owned())),
        Err(e) => Err(fail(e)),
    }
}

fn map(path: &Path, file: File, capacity: u32) -> Result<Region<Line>, CreateError> {
    let bytes = file_bytes(capacity) as usize;
    Region::file(file, bytes, HEADER, capacity as usize).map_err(|e| room(path, e))
}

fn file_bytes(capacity: u32) -> u64 {
    let bytes = (HEADER + capacity as usize) * size_of::<Line>();
    // Whole huge pages, so that the file may also lie on hugetlbfs.
    (if bytes < HUGE { bytes.next_multiple_of(4096) } else { bytes.next_multiple_of(HUGE) }) as u64
}

fn room(path: &Path, source: Unavailable) -> CreateError {
    CreateError::Room { path: path.to_owned(), source }
}

fn system(what: &'static str, source: io::Error) -> CreateError {
    CreateError::System { what, source }
}

fn write_header(header: &[Line], capacity: u32, seeds: [u64; 2], boot: [u64; 2], id: u64) {
    let layout = u64::from(VERSION) << 32 | size_of::<Line>() as u64;
    let [a, b] = seeds;
    let [c, d] = boot;
    let mut words = [MAGIC, layout, u64::from(capacity), a, b, c, d, id, 0];
    words[WORDS - 1] = checksum(&words);
    let to = header.iter().flat_map(|line| &line.0).zip(words);
    // The check sum last: a header cut short is none.
    to.for_each(|(to, word)| to.store(word, Ordering::Release));
}

fn read_header(file: &File) -> Result<[u64; WORDS], AdoptError> {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; WORDS * 8];
    file.read_exact_at(&mut bytes, 0).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => AdoptError::Damaged("file too short"),
        _ => system("read the connection table", e).into(),
    })?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(std::array::from_fn(|i| u64::from_ne_bytes(words[i])))
}

/// Capacity, seeds and id, if the header is one of ours.
fn check_header(header: &[u64; WORDS], file: &File) -> Result<(u32, [u64; 2], u64), AdoptError> {
    let [magic, layout, capacity, a, b, c, d, id, sum] = *header;
    if magic != MAGIC {
        return Err(AdoptError::Magic);
    }
    // The version before the sum: another version may have another header.
    let found = (layout >> 32) as u32;
    if found != VERSION {
        return Err(AdoptError::Version { found });
    }
    if sum != checksum(header) {
        return Err(AdoptError::Damaged("wrong check sum"));
    }
    if layout & 0xffff_ffff != size_of::<Line>() as u64 {
        return Err(AdoptError::Damaged("entries of another size"));
    }
    let capacity = match u32::try_from(capacity) {
        Ok(capacity) if (1..=limits::CONNECTIONS).contains(&capacity) => capacity,
        _ => return Err(AdoptError::Damaged("impossible capacity")),
    };
    let len =
        file.metadata().map_err(|e| system("read the size of the connection table", e))?.len();
    if len != file_bytes(capacity) {
        return Err(AdoptError::Damaged("file has another size than its header says"));
    }
    if [c, d] != boot_id()? {
        return Err(AdoptError::Boot);
    }
    Ok((capacity, [a, b], id))
}

fn boot_id() -> Result<[u64; 2], CreateError> {
    let what = "read /proc/sys/kernel/random/boot_id";
    let text =
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|e| system(what, e))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(id) if digits.len() == 32 => Ok([(id >> 64) as u64, id as u64]),
        _ => Err(system(what, io::Error::from(io::ErrorKind::InvalidData))),
    }
}

fn checksum(header: &[u64; WORDS]) -> u64 {
    header[..WORDS - 1].iter().fold(0x6a09_e667_f3bc_c909, |sum, word| {
        let mixed = (sum ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ mixed >> 32
    })
}

/// A table as another boot of this machine would have left it.
#[cfg(test)]
pub(super) fn create_of_boot(path: &Path, boot: [u64; 2]) {
    let table = Table::create(path, 64, 16).expect("a table");
    write_header(table.entries.header(), 64, [1, 2], boot, 3);
}
