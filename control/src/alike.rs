//! What the nodes are configured differently in, setting by setting. Pure.
//!
//! Beats carry one number for the whole file ([`Sheet::hash`]). While it differs from the peer's, each node
//! asks the other one for its settings, a page at a time: of each a hash of where it stands, a hash of
//! what it says, and its line. Nothing of this decides anything; a comparison that does not come
//! to an end costs a page now and then.
//!
//! A page answers one question: its nonce is in it, so that an old one counts for nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use ring::digest::{SHA256, digest};

use crate::config::{LINES_MAX, Line};
use crate::failover::exchange::Nanos;
use crate::seal::{Context, Keyring, Limiter, Opener, Purpose, Refused, Sealer};

/// First bytes of a message: those of a beat are others.
const MAGIC: [u8; 4] = *b"xvCF";
const VERSION: u8 = 1;
const ASK: u8 = 1;
const PAGE: u8 = 2;
/// Magic, version, kind, nonce, offset, total.
const HEAD: usize = 4 + 1 + 1 + 8 + 4 + 4;
const ENTRY: usize = 16;
/// Settings in a page: it fits into one datagram.
const PAGE_ENTRIES: usize = 64;
/// Differences that are named; the others are counted.
pub const NAMED_MAX: usize = 50;
/// How long a page is waited for before it is asked for again.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often the comparison is made again while the files differ: the peer's may have changed.
const AGAIN: Duration = Duration::from_secs(30);
/// Messages of the peer's that are looked at: a second, and at once.
const RATE: (u64, u64) = (200, 20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    path: u64,
    value: u32,
    line: u32,
}

/// The settings of a file.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    entries: Vec<Entry>,
    /// What the hashes of paths stand for, in words.
    names: BTreeMap<u64, String>,
    hash: u64,
}

fn hash(parts: &[&[u8]]) -> u64 {
    let bytes: Vec<u8> = parts.concat();
    let digest = digest(&SHA256, &bytes);
    digest.as_ref().iter().take(8).fold(0, |sum, b| sum << 8 | u64::from(*b))
}

impl Sheet {
    /// Of the file's lines.
    #[must_use]
    pub fn new(lines: &[Line]) -> Self {
        let mut sheet = Self::default();
        let mut whole = Vec::new();
        for line in lines {
            let path = hash(&[line.path.as_bytes()]);
            let value = hash(&[line.path.as_bytes(), b"=", line.value().as_bytes()]);
            whole.extend(value.to_be_bytes());
            sheet.entries.push(Entry { path, value: (value >> 32) as u32, line: line.number });
            sheet.names.insert(path, line.path.clone());
        }
        // 0 stands for "not known".
        sheet.hash = hash(&[&whole]).max(1);
        sheet
    }

    /// One number for all of it.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// What is different in `theirs`, in words, in the order of our lines.
    fn compare(&self, theirs: &[Entry], peer: &str) -> Vec<String> {
        let there: BTreeMap<u64, &Entry> = theirs.iter().map(|e| (e.path, e)).collect();
        let mut found = Vec::new();
        for ours in &self.entries {
            let name = self.names.get(&ours.path).map_or("?", String::as_str);
            match there.get(&ours.path) {
                Some(other) if other.value == ours.value => {}
                Some(other) => found.push((
                    ours.line,
                    format!("line {}: {name} differs (on {peer}: line {})", ours.line, other.line),
                )),
                None => found.push((
                    ours.line,
                    format!("line {}: {name} is not in the file of {peer}", ours.line),
                )),
            }
        }
        found.sort();
        let mut extra: Vec<u32> =
            theirs.iter().filter(|e| !self.names.contains_key(&e.path)).map(|e| e.line).collect();
        extra.sort_unstable();
        extra.dedup();
        let extra = extra.iter().map(|line| format!("line {line} of {peer} is not in our file"));
        let all: Vec<String> = found.into_iter().map(|(_, text)| text).chain(extra).collect();
        let more = all.len().saturating_sub(NAMED_MAX);
        let mut named: Vec<String> = all.into_iter().take(NAMED_MAX).collect();
        if more > 0 {
            named.push(format!("and {more} more"));
        }
        named
    }
}

/// A comparison under way.
#[derive(Debug)]
struct Asking {
    nonce: u64,
    got: Vec<Entry>,
    /// When the next page is asked for (again).
    due: Nanos,
    tries: u32,
}

/// Compares our file with the peer's.
#[derive(Debug)]
pub struct Alike {
    sheet: Sheet,
    peer: String,
    sealer: Sealer,
    opener: Opener,
    limiter: Limiter,
    /// Whether the beats say that the files differ.
    differs: bool,
    asking: Option<Asking>,
    again: Nanos,
    found: Vec<String>,
}

impl Alike {
    /// For the file that is in force.
    #[must_use]
    pub fn new(lines: &[Line], node: &str, peer: &str, keyring: &Keyring, now: Nanos) -> Self {
        let context = |from, to| Context { purpose: Purpose::Config, from, to, session: &[] };
        Self {
            sheet: Sheet::new(lines),
            peer: peer.to_owned(),
            sealer: keyring.sealer(&context(node, peer)),
            opener: keyring.opener(&context(peer, node)),
            limiter: Limiter::new(RATE.0, RATE.1, now),
            differs: false,
            asking: None,
            again: 0,
            found: Vec::new(),
        }
    }

    /// One number for our whole file.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.sheet.hash()
    }

    /// The beats say whether the files differ. `nonce` is random.
    pub fn differs(&mut self, differs: bool, nonce: u64, now: Nanos) {
        self.differs = differs;
        self.asking = None;
        if differs {
            self.begin(nonce, now);
        } else {
            self.found.clear();
        }
    }

    /// Whether the beats say that the files differ.
    #[must_use]
    pub const fn is_different(&self) -> bool {
        self.differs
    }

    fn begin(&mut self, nonce: u64, now: Nanos) {
        self.asking = Some(Asking { nonce, got: Vec::new(), due: now, tries: 0 });
        self.again = now.saturating_add(nanos(AGAIN));
    }

    /// When [`Alike::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        match &self.asking {
            Some(asking) => Some(asking.due),
            None => self.differs.then_some(self.again),
        }
    }

    /// A question to be sent, if one is due; `nonce` is random. The number is that of the attempt, so
    /// that another path is taken each time.
    pub fn tick(&mut self, nonce: u64, now: Nanos) -> Option<(u32, Vec<u8>)> {
        if self.asking.is_none() && self.differs && self.again <= now {
            self.begin(nonce, now);
        }
        let asking = self.asking.as_mut().filter(|a| a.due <= now)?;
        asking.tries += 1;
        // A peer that does not know the question is asked less and less often.
        let patience = PATIENCE.saturating_mul(1 << asking.tries.saturating_sub(4).min(7));
        asking.due = now.saturating_add(nanos(patience));
        let offset = u32::try_from(asking.got.len()).unwrap_or(u32::MAX);
        Some((asking.tries, self.sealer.seal(&head(ASK, asking.nonce, offset, 0))))
    }

    /// Whether a datagram is one of ours and not a beat.
    #[must_use]
    pub fn is_mine(datagram: &[u8]) -> bool {
        datagram.get(2..6) == Some(&MAGIC)
    }

    /// Takes in a message; what is to be sent back on the same path.
    ///
    /// # Errors
    /// It is refused.
    pub fn message(&mut self, datagram: &[u8], now: Nanos) -> Result<Option<Vec<u8>>, Refused> {
        if !self.limiter.take(now) {
            return Err(Refused::Limited);
        }
        let opened = self.opener.open(datagram)?;
        let body: &[u8] = &opened.body;
        let (head, rest) = body.split_at_checked(HEAD).ok_or(Refused::Malformed)?;
        if head[..4] != MAGIC {
            return Err(Refused::Malformed);
        }
        if head[4] != VERSION {
            return Err(Refused::Version);
        }
        let nonce = number(&head[6..14]);
        let (offset, total) = (number(&head[14..18]) as usize, number(&head[18..22]) as usize);
        match head[5] {
            ASK if rest.is_empty() => Ok(Some(self.page(nonce, offset))),
            PAGE if rest.len().is_multiple_of(ENTRY) && total <= LINES_MAX => {
                self.take(nonce, offset, total, rest, now)
            }
            _ => Err(Refused::Malformed),
        }
    }

    fn page(&self, nonce: u64, offset: usize) -> Vec<u8> {
        let entries = &self.sheet.entries;
        let total = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let mut body = head(PAGE, nonce, u32::try_from(offset).unwrap_or(u32::MAX), total);
        for entry in entries.iter().skip(offset).take(PAGE_ENTRIES) {
            body.extend(entry.path.to_be_bytes());
            body.extend(entry.value.to_be_bytes());
            body.extend(entry.line.to_be_bytes());
        }
        self.sealer.seal(&body)
    }

    /// Takes in a page; the question for the next one.
    fn take(
        &mut self,
        nonce: u64,
        offset: usize,
        total: usize,
        rest: &[u8],
        now: Nanos,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let Some(asking) = &mut self.asking else { return Err(Refused::Unproved) };
        if asking.nonce != nonce {
            return Err(Refused::Replayed);
        }
        if asking.got.len() != offset {
            // It has come twice.
            return Ok(None);
        }
        let entries = rest.chunks_exact(ENTRY).map(|e| Entry {
            path: number(&e[..8]),
            value: number(&e[8..12]) as u32,
            line: number(&e[12..]) as u32,
        });
        asking.got.extend(entries.take(PAGE_ENTRIES));
        if asking.got.len() >= total || rest.is_empty() {
            let theirs = std::mem::take(&mut asking.got);
            self.asking = None;
            self.found = self.sheet.compare(&theirs, &self.peer);
            return Ok(None);
        }
        asking.tries = 0;
        asking.due = now;
        Ok(self.tick(nonce, now).map(|(_, bytes)| bytes))
    }

    /// The differences that were found, in words.
    #[must_use]
    pub fn found(&self) -> &[String] {
        &self.found
    }
}

fn head(kind: u8, nonce: u64, offset: u32, total: u32) -> Vec<u8> {
    let mut body = MAGIC.to_vec();
    body.extend([VERSION, kind]);
    body.extend(nonce.to_be_bytes());
    body.extend(offset.to_be_bytes());
    body.extend(total.to_be_bytes());
    body
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b))
}

fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::seal::Mode;

    fn lines(services: usize, lease: &str, extra: &str) -> std::sync::Arc<[Line]> {
        let mut text = format!(
            "[node]\nname = \"lb1\"\n[[interface]]\nname = \"e\"\n[control]\nlease = \"{lease}\"\n\
             [ha]\nnodes = [\"lb1\", \"lb2\"]\nkey = [{{ id = 1, file = \"/k\" }}]\n\
             path = [{{ type = \"udp\", lb1 = \"10.9.0.1:1\", lb2 = \"10.9.0.2:1\" }}]\n{extra}"
        );
        for n in 1..=services {
            text += &format!("[[service]]\nname = \"s{n}\"\nlisten = \"192.0.2.1:{n}\"\n");
        }
        config::parse(&text, "x").unwrap_or_else(|e| panic!("{e}")).lines
    }

    fn pair(a: &[Line], b: &[Line]) -> [Alike; 2] {
        let key =
            |byte: &str| Keyring::parse(Mode::Enforce, &[(1, byte.repeat(32).as_str())]).unwrap();
        [Alike::new(a, "lb1", "lb2", &key("ab"), 0), Alike::new(b, "lb2", "lb1", &key("ab"), 0)]
    }

    /// Has `a` ask until nothing is due; how many datagrams it took.
    fn talk([a, b]: &mut [Alike; 2], loss: usize) -> usize {
        let (mut now, mut sent) = (1_000_000_000, 0);
        a.differs(true, 7, now);
        while a.asking.is_some() {
            now = a.next_deadline().unwrap().max(now) + 6_000_000;
            let mut message = a.tick(7, now).map(|(_, bytes)| bytes);
            let mut to_b = true;
            while let Some(bytes) = message.take() {
                sent += 1;
                assert!(bytes.len() <= 1200 && sent < 5000);
                if loss > 0 && sent % loss == 0 {
                    break;
                }
                now += 6_000_000;
                let end = if to_b { &mut *b } else { &mut *a };
                message = end.message(&bytes, now).unwrap();
                to_b = !to_b;
            }
        }
        sent
    }

    #[test]
    fn each_setting_that_differs_is_named_with_its_line_whatever_is_lost() {
        let (a, b) = (lines(300, "3s", "failback = \"off\"\n"), lines(302, "4s", "\n"));
        for loss in [0, 3] {
            let mut pair = pair(&a, &b);
            assert_ne!(pair[0].hash(), pair[1].hash());
            talk(&mut pair, loss);
            let found = pair[0].found();
            assert_eq!(found[0], "line 6: control.lease differs (on lb2: line 6)");
            assert_eq!(found[1], "line 11: ha.failback is not in the file of lb2");
            assert_eq!(found.len(), 2 + 4, "name and listen of two services: {found:?}");
            assert!(found[2].contains("of lb2 is not in our file"));
            pair[0].differs(false, 8, 0);
            assert!(pair[0].found().is_empty());
        }
    }

    #[test]
    fn equal_files_have_one_number_and_a_long_list_is_cut_short() {
        let (a, b) = (lines(2, "3s", ""), lines(100, "3s", ""));
        let mut pair = pair(&a, &b);
        assert_eq!(Sheet::new(&a).hash(), Sheet::new(&lines(2, "3s", "")).hash());
        talk(&mut pair, 0);
        assert_eq!(pair[0].found().len(), NAMED_MAX + 1);
        assert_eq!(pair[0].found()[NAMED_MAX], "and 146 more");
    }

    #[test]
    fn what_is_forged_replayed_or_nonsense_changes_nothing() {
        let (a, b) = (lines(2, "3s", ""), lines(3, "3s", ""));
        let [mut a, mut b] = pair(&a, &b);
        a.differs(true, 7, 0);
        let (_, ask) = a.tick(7, 0).unwrap();
        assert!(Alike::is_mine(&ask));
        assert_eq!(a.message(&ask, 0), Err(Refused::BadMac), "our own, reflected");
        let page = b.message(&ask, 0).unwrap().unwrap();
        a.differs(true, 8, 0);
        assert_eq!(a.message(&page, 0), Err(Refused::Replayed));
        for cut in 0..page.len() {
            let _ = a.message(&page[..cut], u64::MAX / 2 + cut as u64 * 10_000_000).unwrap_err();
        }
        assert!(a.asking.is_some() && a.found().is_empty());
        let refused = (0..1000).filter(|_| b.message(&ask, 1) == Err(Refused::Limited)).count();
        assert!(refused >= 980, "{refused}");
    }
}
