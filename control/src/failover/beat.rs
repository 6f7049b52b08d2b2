//! One heartbeat as bytes. All numbers big-endian; `docs/protocols.md` has the layout.
//!
//! Fixed in size but for the rows of groups, and bounded. A newer release may add fields at the end of the
//! fixed part and of a row, which say how long they are: what is not known is skipped. What cannot be
//! said so gets a new version.

use crate::failover::exchange::{Evidence, TESTIMONY_MACS, Testimony};
use crate::seal::{ECHOES, Echo, Refused};

/// First bytes.
const MAGIC: [u8; 4] = *b"xvHB";
/// Oldest and newest version that this release reads and writes.
pub const VERSIONS: std::ops::RangeInclusive<u8> = 1..=1;
/// Largest beat, sealed.
pub const BEAT_MAX: usize = 1200;
const HEAD: usize = 98;
/// Where the path stands in it.
const PATH: usize = 7;
const FIXED: usize = 54;
const ROW: usize = 62;
/// Most groups in a beat.
pub const ROWS_MAX: usize = dataplane_api::service::GROUPS_MAX;
const _: () = assert!(HEAD + FIXED + 2 + ROWS_MAX * ROW + crate::seal::OVERHEAD <= BEAT_MAX);

/// The version to write in for a peer that reads these: the newest that both read, and our oldest as
/// long as it has not said.
#[must_use]
pub fn version(peer: Option<(u8, u8)>) -> u8 {
    let (oldest, newest) = (*VERSIONS.start(), *VERSIONS.end());
    peer.map_or(oldest, |(_, peer)| newest.min(peer).max(oldest))
}

/// What can be read before the proof has been looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version that the message is written in.
    pub version: u8,
    /// Index of the path it was sent on.
    pub path: u8,
    /// Oldest version that the sender reads.
    pub oldest: u8,
    /// Newest.
    pub newest: u8,
    /// `tag` of the sender's name.
    pub from: u32,
    /// `tag` of the name of the node it is for.
    pub to: u32,
    /// The life of the sender, and the number of the beat in it: the same on all paths.
    pub sender: Echo,
    /// The lives that it has heard.
    pub echoes: [Echo; ECHOES],
}

/// A role as beats say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Owns nothing.
    #[default]
    Standby = 0,
    /// Has told its data plane, which has not answered yet.
    Taking = 1,
    /// Owns it.
    Active = 2,
    /// Owns it until the other node has taken it.
    Yielding = 3,
    /// Has told its data plane to give it up, which has not answered yet.
    Releasing = 4,
}

impl Role {
    /// Whether the data plane may be answering.
    #[must_use]
    pub const fn claims(self) -> bool {
        !matches!(self, Self::Standby)
    }

    /// Word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Taking => "taking",
            Self::Active => "active",
            Self::Yielding => "yielding",
            Self::Releasing => "releasing",
        }
    }

    const fn read(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Standby,
            1 => Self::Taking,
            2 => Self::Active,
            3 => Self::Yielding,
            4 => Self::Releasing,
            _ => return None,
        })
    }
}

/// A group, as the sender has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// `tag` of its name.
    pub tag: u32,
    /// The sender's role.
    pub role: Role,
    /// Whether it could take it now.
    pub able: bool,
    /// Whether an operator wants it there.
    pub wants: bool,
    /// Whether it is wanted even though not all connections are known.
    pub force: bool,
    /// Of an owner the number of its ownership, else the highest that the sender knows.
    pub epoch: u64,
    /// Number of the last ownership of the sender's own in this life; 0: none.
    pub last: u64,
    /// Packets a second that arrive for it.
    pub rate: u32,
    /// Number of a question to the receiver: who answers for it? 0: none.
    pub ask: u32,
    /// Number of the receiver's question that the testimony answers; 0: none.
    pub answer: u32,
    /// Who answers.
    pub testimony: Testimony,
}

/// Everything that a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// On its way out.
    pub leaving: bool,
    /// Its data plane is attached and answers.
    pub data_plane: bool,
    /// It has all that the receiver has had to tell it.
    pub synced: bool,
    /// It says so of the receiver.
    pub peer_synced: bool,
    /// Nothing is to move by itself.
    pub maintenance: bool,
    /// Counts the changes of `maintenance`, on both nodes together.
    pub maintenance_version: u32,
    /// Microseconds since it last heard the receiver; `u32::MAX`: never, or longer.
    pub heard_us: u32,
    /// Its setting, in microseconds.
    pub keepalive_us: u32,
    /// Its setting, in microseconds.
    pub deadtime_us: u32,
    /// Longest lease that it gives its data plane, in microseconds.
    pub ttl_us: u32,
    /// Of its configuration; 0: not known.
    pub config_hash: u64,
    /// What it sees of its network.
    pub evidence: Evidence,
    /// Connections that the receiver ought to know.
    pub worth: u32,
    /// Of them, those that it would carry on.
    pub would_live: u32,
    /// Records that the receiver has not acknowledged.
    pub lag: u32,
    /// Records of the receiver's stream that have arrived here since control began.
    pub position: u64,
    /// Groups, at most [`ROWS_MAX`].
    pub rows: Vec<Row>,
}

/// Its bytes, not sealed.
#[must_use]
pub fn encode(header: &Header, beat: &Beat) -> Vec<u8> {
    let mut out = Vec::with_capacity(BEAT_MAX);
    out.extend(MAGIC);
    out.extend([header.version, header.oldest, header.newest, header.path]);
    out.extend(header.from.to_be_bytes());
    out.extend(header.to.to_be_bytes());
    for echo in [&header.sender].into_iter().chain(&header.echoes) {
        out.extend(echo.nonce.to_be_bytes());
        out.extend(echo.seq.to_be_bytes());
    }
    out.extend((FIXED as u16).to_be_bytes());
    let flags = [beat.leaving, beat.data_plane, beat.synced, beat.peer_synced, beat.maintenance];
    out.extend(bits(&flags).to_be_bytes());
    for number in [beat.heard_us, beat.keepalive_us, beat.deadtime_us, beat.ttl_us] {
        out.extend(number.to_be_bytes());
    }
    out.extend(beat.config_hash.to_be_bytes());
    let Evidence { interfaces, interfaces_wanted, pings, pings_wanted } = beat.evidence;
    out.extend([interfaces, interfaces_wanted, pings, pings_wanted]);
    for number in [beat.maintenance_version, beat.worth, beat.would_live, beat.lag] {
        out.extend(number.to_be_bytes());
    }
    out.extend(beat.position.to_be_bytes());
    let rows = &beat.rows[..beat.rows.len().min(ROWS_MAX)];
    out.extend([rows.len() as u8, ROW as u8]);
    rows.iter().for_each(|row| row.encode(&mut out));
    out
}

impl Row {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.tag.to_be_bytes());
        out.extend([self.role as u8, bits(&[self.able, self.wants, self.force]) as u8]);
        out.extend(self.epoch.to_be_bytes());
        out.extend(self.last.to_be_bytes());
        for number in [self.rate, self.ask, self.answer] {
            out.extend(number.to_be_bytes());
        }
        let macs = &self.testimony.macs[..self.testimony.macs.len().min(TESTIMONY_MACS)];
        out.extend([self.testimony.asked, self.testimony.silent, macs.len() as u8, 0]);
        macs.iter().for_each(|mac| out.extend(mac));
        out.resize(out.len() + 6 * (TESTIMONY_MACS - macs.len()), 0);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let (tag, role, flags) = (from.u32()?, Role::read(from.u8()?)?, u16::from(from.u8()?));
        let (epoch, last) = (from.u64()?, from.u64()?);
        let (rate, ask, answer) = (from.u32()?, from.u32()?, from.u32()?);
        let [asked, silent, count, _] = from.take()?;
        if usize::from(count) > TESTIMONY_MACS || from.0.len() < 6 * TESTIMONY_MACS {
            return None;
        }
        let mut macs = Vec::new();
        for _ in 0..count {
            macs.push(from.take()?);
        }
        Some(Self {
            tag,
            role,
            able: flags & 1 != 0,
            wants: flags & 2 != 0,
            force: flags & 4 != 0,
            epoch,
            last,
            rate,
            ask,
            answer,
            testimony: Testimony { macs, silent, asked },
        })
    }
}

/// Makes of an encoded beat the copy for another path.
pub fn set_path(bytes: &mut [u8], path: u8) {
    if let Some(at) = bytes.get_mut(PATH) {
        *at = path;
    }
}

/// Reads what stands before everything else.
///
/// # Errors
/// Malformed; no common version.
pub fn header(bytes: &[u8]) -> Result<Header, Refused> {
    let mut from = Reader(bytes);
    if from.take() != Some(MAGIC) {
        return Err(Refused::Malformed);
    }
    let [version, oldest, newest, path] = from.take().ok_or(Refused::Malformed)?;
    if !VERSIONS.contains(&version) || newest < *VERSIONS.start() || oldest > *VERSIONS.end() {
        return Err(Refused::Version);
    }
    let rest = |from: &mut Reader<'_>| {
        let (sender_tag, to) = (from.u32()?, from.u32()?);
        let sender = from.echo()?;
        let mut echoes = [Echo::default(); ECHOES];
        for echo in &mut echoes {
            *echo = from.echo()?;
        }
        Some(Header { version, path, oldest, newest, from: sender_tag, to, sender, echoes })
    };
    rest(&mut from).ok_or(Refused::Malformed)
}

/// Reads what follows the header.
///
/// # Errors
/// Malformed.
pub fn decode(bytes: &[u8]) -> Result<Beat, Refused> {
    let body = bytes.get(HEAD - 2..).ok_or(Refused::Malformed)?;
    read(&mut Reader(body)).ok_or(Refused::Malformed)
}

fn read(from: &mut Reader<'_>) -> Option<Beat> {
    let length = usize::from(from.u16()?);
    let mut fixed = from.part(length)?;
    let flags = fixed.u16()?;
    let [heard_us, keepalive_us, deadtime_us, ttl_us] =
        [fixed.u32()?, fixed.u32()?, fixed.u32()?, fixed.u32()?];
    let config_hash = fixed.u64()?;
    let [interfaces, interfaces_wanted, pings, pings_wanted] = fixed.take()?;
    let [maintenance_version, worth, would_live, lag] =
        [fixed.u32()?, fixed.u32()?, fixed.u32()?, fixed.u32()?];
    let position = fixed.u64()?;
    let (count, length) = (usize::from(from.u8()?), usize::from(from.u8()?));
    if count > ROWS_MAX {
        return None;
    }
    let rows = (0..count).map(|_| Row::decode(&mut from.part(length)?)).collect::<Option<_>>()?;
    Some(Beat {
        leaving: flags & 1 != 0,
        data_plane: flags & 2 != 0,
        synced: flags & 4 != 0,
        peer_synced: flags & 8 != 0,
        maintenance: flags & 16 != 0,
        maintenance_version,
        heard_us,
        keepalive_us,
        deadtime_us,
        ttl_us,
        config_hash,
        evidence: Evidence { interfaces, interfaces_wanted, pings, pings_wanted },
        worth,
        would_live,
        lag,
        position,
        rows,
    })
}

/// The first one is the lowest bit.
fn bits(flags: &[bool]) -> u16 {
    flags.iter().enumerate().map(|(i, flag)| u16::from(*flag) << i).sum()
}

/// Takes numbers off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn part(&mut self, length: usize) -> Option<Self> {
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Self(part))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.part(N)?.0.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn echo(&mut self) -> Option<Echo> {
        Some(Echo { nonce: self.u64()?, seq: self.u64()? })
    }
}

#[cfg(test)]
mod tests;
