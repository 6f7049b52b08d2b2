//! One node's half of replication.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use dataplane_api::VERSION;
use dataplane_api::sync::{Frame, Standing, Stream};

use super::Guard;
use super::datagram::{BUCKET_BYTES, Item, buckets};
use super::event::{Ended, Event, FrameError};
use super::export::Export;
use super::import::Import;
use super::limits::{EVENTS_MAX, FRAMES_MAX, REPAIR_GAP_NS};
use super::link::{Change, Link};
use super::meter::{Mark, Meter};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataPlane {
    Gone,
    /// Connected; it has not said hello.
    Silent,
    Here,
}

/// See the [module](super).
pub struct Replication {
    pub(super) link: Link,
    pub(super) export: Export,
    pub(super) import: Import,
    pub(super) meter: Meter,
    digest_ns: u64,
    next_digest_ns: u64,
    data_plane: DataPlane,
    frames: VecDeque<Vec<u8>>,
    pass: u16,
    /// What the peer lacks, and when it may be sent again.
    wanted: [u8; BUCKET_BYTES],
    resend_ns: u64,
    pub(super) standing: Option<Standing>,
    /// Everything before this moment is acknowledged; 0: not known.
    pub(super) clean_ns: u64,
    drain_ns: Option<u64>,
    events: VecDeque<Event>,
    told: Told,
    pub(super) since_ns: u64,
    pub(super) ended: Option<Ended>,
    pub(super) sessions: u64,
}

/// What events have said last.
#[derive(Default)]
struct Told {
    synced: bool,
    version: Option<(u8, u8)>,
}

impl Replication {
    /// Not connected to anything. `digest`: time between comparisons; `random` yields numbers that
    /// nobody can guess.
    #[must_use]
    pub fn new(
        digest: Duration,
        guard: Guard,
        random: Box<dyn FnMut() -> u64 + Send>,
        now: u64,
    ) -> Self {
        let mut link = Link::new(guard, random, now);
        // Of a pass before a restart nothing must pass for part of one after it.
        let pass = link.session.random() as u16;
        Self {
            link,
            export: Export::default(),
            import: Import::default(),
            meter: Meter::new(now),
            digest_ns: u64::try_from(digest.as_nanos()).unwrap_or(u64::MAX),
            next_digest_ns: u64::MAX,
            data_plane: DataPlane::Gone,
            frames: VecDeque::new(),
            pass,
            wanted: [0; BUCKET_BYTES],
            resend_ns: 0,
            standing: None,
            clean_ns: 0,
            drain_ns: None,
            events: VecDeque::new(),
            told: Told::default(),
            since_ns: now,
            ended: None,
            sessions: 0,
        }
    }

    /// Another time between comparisons.
    pub fn set_digest(&mut self, digest: Duration) {
        self.digest_ns = u64::try_from(digest.as_nanos()).unwrap_or(u64::MAX);
    }

    /// Other keys, or another way of using them: the session is another one then.
    pub fn set_guard(&mut self, guard: Guard, now: u64) {
        self.link.set_guard(guard, now);
        self.changes(now);
    }

    /// The replication socket is connected.
    pub fn connected(&mut self) {
        self.data_plane = DataPlane::Silent;
        self.frames.clear();
        self.frames.push_back(Frame::Hello { version: VERSION }.encode());
        self.import.restart();
    }

    /// It is no more.
    pub fn disconnected(&mut self, now: u64) {
        self.link.stop(Ended::DataPlane);
        self.data_plane = DataPlane::Gone;
        self.changes(now);
        self.frames.clear();
        self.standing = None;
        self.export.reset();
        self.since_ns = now;
    }

    /// Ends the session; nothing is to be handed in after this, and what is to be sent is to be
    /// sent.
    pub fn stop(&mut self, now: u64) {
        self.link.stop(Ended::Stopped);
        self.changes(now);
    }

    /// Whether frames of the data plane would be taken. If not, it is to be left waiting: it marks
    /// what it cannot say, and says all again later.
    #[must_use]
    pub fn wants_frames(&self) -> bool {
        !self.link.session.is_open() || self.link.outbox.has_room()
    }

    /// A frame of the data plane, without its length.
    ///
    /// # Errors
    /// The connection to it is to be ended.
    pub fn frame(&mut self, bytes: &[u8], now: u64) -> Result<(), FrameError> {
        if let ([0x11, _, _, _, _, _, _, _, _, item @ ..], DataPlane::Here) =
            (bytes, self.data_plane)
        {
            let stream = Stream::decode(item).map_err(FrameError::Malformed)?;
            self.export(item, &stream, now);
            return Ok(());
        }
        match (Frame::decode(bytes).map_err(FrameError::Malformed)?, self.data_plane) {
            (Frame::Hello { version: VERSION }, DataPlane::Silent) => {
                (self.data_plane, self.since_ns) = (DataPlane::Here, now);
                self.link.start(now);
            }
            (Frame::Hello { version }, DataPlane::Silent) => {
                return Err(FrameError::Version(version));
            }
            (Frame::Applied { number }, DataPlane::Here) => {
                let datagram = self.import.applied(number).map_err(|()| FrameError::Unexpected)?;
                if let Some(number) = datagram {
                    self.link.applied(number, now);
                }
                self.tell_synced();
            }
            (Frame::Differs { first, buckets }, DataPlane::Here) => {
                self.differs(first, &buckets, now);
            }
            (Frame::Standing(standing), DataPlane::Here) => {
                if self.export.stands(&standing, now)
                    && self.link.session.is_open()
                    && !self.link.outbox.clean_until(standing.now_ns)
                {
                    self.clean(standing.now_ns);
                }
                self.link.set_complete(self.export.is_complete(), now);
                self.standing = Some(standing);
            }
            _ => return Err(FrameError::Unexpected),
        }
        Ok(())
    }

    fn export(&mut self, bytes: &[u8], stream: &Stream, now: u64) {
        if !self.link.session.is_open() {
            return;
        }
        if let Some(mark) = self.export.look(stream, now) {
            self.push(Item::Stream(bytes), mark);
        }
    }

    fn push(&mut self, item: Item<'_>, mark: Mark) {
        let mut bytes = Vec::new();
        item.put(&mut bytes);
        self.meter.sent(u64::from(mark.records), 0);
        self.link.outbox.push(bytes, mark);
    }

    fn differs(&mut self, first: u16, buckets: &[u16], now: u64) {
        // Of the session before; it will be compared again.
        if !self.link.session.is_open() {
            return;
        }
        let Some(bits) = self.import.differs(first, buckets, now) else { return };
        if self.link.outbox.has_room() {
            self.import.repairs += buckets.len() as u64;
            self.push(Item::Resend(bits), Mark::default());
            self.event(Event::Repairing { buckets: buckets.len() as u32 });
        }
    }

    /// A datagram from the peer's address.
    pub fn datagram(&mut self, bytes: &[u8], now: u64) {
        let mut marks = Vec::new();
        if self.link.receive(bytes, now, &mut |mark| marks.push(mark)) {
            self.meter.received(0, bytes.len());
        }
        for mark in marks {
            self.applied(&mark, now);
        }
        self.changes(now);
        self.tell_synced();
    }

    /// The peer has applied an item of ours.
    fn applied(&mut self, mark: &Mark, now: u64) {
        self.meter.applied(mark, now);
        self.clean(mark.clean_ns);
        if mark.end.is_some() && self.export.ended() {
            self.link.set_complete(true, now);
            self.event(Event::PeerSynced);
            self.next_digest_ns = now;
        }
    }

    fn clean(&mut self, ns: u64) {
        self.clean_ns = self.clean_ns.max(ns);
        if self.drain_ns.is_some_and(|wanted| self.is_drained(wanted)) {
            self.drain_ns = None;
            self.event(Event::Drained);
        }
    }

    /// What became of the session.
    fn changes(&mut self, now: u64) {
        while let Some(change) = self.link.next_change() {
            match change {
                Change::Opened => {
                    self.begin(now);
                    let version = self.link.session.terms().map_or(0, |(version, _)| version);
                    self.event(Event::Opened { version });
                }
                Change::Closed(why) => {
                    self.forget(now);
                    self.ended = Some(why);
                    self.order(&Frame::Stop);
                    self.order(&Frame::Keep(false));
                    self.event(Event::Lost(why));
                }
                Change::Version(low, high) => {
                    if self.told.version.replace((low, high)) != Some((low, high)) {
                        self.event(Event::Version { low, high });
                    }
                }
            }
        }
    }

    fn begin(&mut self, now: u64) {
        self.forget(now);
        self.sessions += 1;
        self.told.version = None;
        self.order(&Frame::Keep(true));
        self.order_pass();
    }

    fn order_pass(&mut self) {
        let pass = self.next_pass();
        self.export.order(pass);
        self.order(&Frame::Start { pass });
    }

    fn forget(&mut self, now: u64) {
        self.import.reset();
        (self.wanted, self.resend_ns) = ([0; BUCKET_BYTES], now);
        (self.clean_ns, self.next_digest_ns, self.since_ns) = (0, u64::MAX, now);
        self.told.synced = false;
    }

    fn next_pass(&mut self) -> u16 {
        self.pass = self.pass.checked_add(1).unwrap_or(1);
        self.pass
    }

    /// Orders are few: some for each session, and one for each digest and repair.
    fn order(&mut self, frame: &Frame) {
        if self.data_plane == DataPlane::Here {
            self.frames.push_back(frame.encode());
        }
    }

    fn event(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn tell_synced(&mut self) {
        let synced = self.is_synced();
        if synced && !self.told.synced {
            self.event(Event::Synced);
        }
        self.told.synced = synced;
    }

    /// Does what is due.
    pub fn tick(&mut self, now: u64) {
        self.link.tick(now);
        self.changes(now);
        self.meter.tick(now);
        if !self.link.session.is_open() {
            return;
        }
        if now >= self.next_digest_ns {
            self.next_digest_ns = now.saturating_add(self.digest_ns);
            self.order(&Frame::Digest);
        }
        if now >= self.resend_ns && self.wanted != [0; BUCKET_BYTES] {
            self.resend_ns = now + REPAIR_GAP_NS;
            let buckets = buckets(&std::mem::take(&mut self.wanted));
            let pass = self.next_pass();
            self.order(&Frame::Resend { pass, buckets });
        }
        if now >= self.export.deadline() {
            self.order_pass();
        }
    }

    /// When [`Self::tick`] has something to do, and [`Self::next_datagram`] to be asked.
    #[must_use]
    pub fn next_deadline(&self) -> u64 {
        let link = self.link.deadline();
        if !self.link.session.is_open() {
            return link;
        }
        let wanted = self.wanted != [0; BUCKET_BYTES];
        let resend = if wanted { self.resend_ns } else { u64::MAX };
        link.min(self.next_digest_ns).min(resend).min(self.export.deadline())
    }

    /// The next frame to write to the data plane, its length before it.
    pub fn next_frame(&mut self, now: u64) -> Option<Vec<u8>> {
        while self.data_plane == DataPlane::Here
            && self.frames.len() < FRAMES_MAX
            && self.import.has_room()
            && let Some((number, body)) = self.link.take(now)
        {
            let contents = self.import.take(number, &body);
            self.meter.received(contents.records, 0);
            self.link.refused.nonsense += contents.nonsense;
            self.frames.extend(contents.frames);
            for (all, new) in self.wanted.iter_mut().zip(contents.resend.iter().flatten()) {
                *all |= new;
            }
        }
        self.frames.pop_front()
    }

    /// The next datagram to send to the peer.
    pub fn next_datagram(&mut self, now: u64) -> Option<Bytes> {
        let bytes = self.link.next(now)?;
        self.meter.sent(0, bytes.len());
        Some(bytes)
    }

    /// The next thing to be told.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Asks for [`Event::Drained`] as soon as everything up to now is in the peer's table.
    pub fn drain(&mut self, now: u64) {
        self.drain_ns = Some(now);
    }

    pub(super) fn data_plane(&self) -> DataPlane {
        self.data_plane
    }

    /// For tests: what is kept in each queue.
    #[cfg(test)]
    pub(super) fn kept(&self) -> [usize; 4] {
        let [inbox, control] = self.link.kept();
        [inbox, control, self.frames.len(), self.link.outbox.kept().max(self.import.kept())]
    }

    /// For tests: other versions than those of this release.
    #[doc(hidden)]
    pub fn set_versions(&mut self, versions: (u8, u8)) {
        self.link.session.set_versions(versions);
    }
}
