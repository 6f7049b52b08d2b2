//! Who talks to whom: sessions by random numbers on both sides, so that nothing of an earlier one
//! counts.
//!
//! ```text
//! closed ── own data plane attached ──► greeting ── the peer knows our number ──► open
//!    ▲                                     ▲  hello each 50 ms to 1 s              │
//!    └── own data plane gone ──────────────┴── silence, bye, a datagram too much ──┘
//! ```
//!
//! A number is proved to be fresh by the peer's knowing ours, which no recording does. While a
//! session is open, strangers are offered another number than that of the session: a peer that has
//! started anew opens a new session by it, and a recording does not end the old one.

use super::datagram::{Greeting, Header, Kind};
use super::limits::{GREETING_GAP_NS, SILENCE_NS, VERSIONS, WINDOW};

/// Where a datagram belongs, by its header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belongs {
    /// To the open session.
    Session,
    /// It is a greeting; what it is worth is seen when it is opened.
    Greeting,
    /// To a session that the peer has already opened, and we will soon.
    Early,
    /// To none that there is.
    Nowhere,
}

/// What a greeting leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing.
    Nothing,
    /// To a welcome, to the session of this number.
    Answer { from: u64, to: u64 },
    /// To a new session; greet the peer in it, if it is an answer.
    Opened { hello: bool },
    /// It is of a session that there is no more.
    Stale,
    /// Its number is not newer than the last.
    Replayed,
    /// No version that both speak. A hello is answered by it, so that the peer sees it too.
    Version { answer: Option<(u64, u64)> },
}

#[derive(Clone, Copy, Debug)]
struct Open {
    theirs: u64,
    version: u8,
    /// Most datagrams on their way to the peer.
    window: u16,
    /// The peer is known to be in this session.
    confirmed: bool,
    heard_ns: u64,
    /// Highest number of what is not data.
    number: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    Greeting,
    Open(Open),
}

/// The state.
pub(super) struct Session {
    phase: Phase,
    /// Of the open session, or the one that is offered.
    mine: u64,
    /// Offered to strangers while one is open.
    spare: u64,
    hello_ns: u64,
    gap_ns: u64,
    versions: (u8, u8),
    random: Box<dyn FnMut() -> u64 + Send>,
}

impl Session {
    /// Closed. `random` yields numbers that nobody can guess.
    pub(super) fn new(random: Box<dyn FnMut() -> u64 + Send>) -> Self {
        let mut session = Self {
            phase: Phase::Closed,
            mine: 0,
            spare: 0,
            hello_ns: 0,
            gap_ns: GREETING_GAP_NS.0,
            versions: VERSIONS,
            random,
        };
        (session.mine, session.spare) = (session.fresh(), session.fresh());
        session
    }

    /// For tests: another release.
    pub(super) fn set_versions(&mut self, versions: (u8, u8)) {
        self.versions = versions;
    }

    fn fresh(&mut self) -> u64 {
        loop {
            let number = (self.random)();
            if number != 0 && number != self.mine && number != self.spare {
                return number;
            }
        }
    }

    /// Another random number, for whoever needs one.
    pub(super) fn random(&mut self) -> u64 {
        (self.random)()
    }

    /// Begins to greet, in a new session.
    pub(super) fn greet(&mut self, now: u64) {
        self.mine = self.fresh();
        self.phase = Phase::Greeting;
        (self.hello_ns, self.gap_ns) = (now, GREETING_GAP_NS.0);
    }

    /// Ends all.
    pub(super) fn close(&mut self) {
        self.phase = Phase::Closed;
        (self.mine, self.spare) = (self.fresh(), self.fresh());
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Version and window of the open session.
    pub(super) fn terms(&self) -> Option<(u8, u16)> {
        match self.phase {
            Phase::Open(open) => Some((open.version, open.window)),
            Phase::Closed | Phase::Greeting => None,
        }
    }

    /// Our number and theirs (0: not known), and the version to write into a header.
    pub(super) fn names(&self) -> (u64, u64, u8) {
        match self.phase {
            Phase::Open(open) => (self.mine, open.theirs, open.version),
            Phase::Closed | Phase::Greeting => (self.mine, 0, self.versions.1),
        }
    }

    /// What a greeting of ours says.
    pub(super) fn greeting(&self, open: bool, encrypt: bool) -> Greeting {
        Greeting { versions: self.versions, window: WINDOW, open, encrypt }
    }

    /// The highest version that we speak.
    pub(super) fn newest(&self) -> u8 {
        self.versions.1
    }

    /// Whether a hello is due; if so it is taken as said.
    pub(super) fn hello(&mut self, now: u64) -> bool {
        let wanted = match self.phase {
            Phase::Closed => false,
            Phase::Greeting => true,
            Phase::Open(open) => !open.confirmed,
        };
        if !wanted || now < self.hello_ns {
            return false;
        }
        self.hello_ns = now + self.gap_ns;
        self.gap_ns = (self.gap_ns * 2).min(GREETING_GAP_NS.1);
        true
    }

    /// Whether the peer of an open session is silent for too long.
    pub(super) fn is_silent(&self, now: u64) -> bool {
        matches!(self.phase, Phase::Open(open) if now > open.heard_ns.saturating_add(SILENCE_NS))
    }

    /// When [`Self::hello`] or [`Self::is_silent`] may become true.
    pub(super) fn deadline(&self) -> u64 {
        match self.phase {
            Phase::Closed => u64::MAX,
            Phase::Greeting => self.hello_ns,
            Phase::Open(open) => {
                let silent = open.heard_ns.saturating_add(SILENCE_NS + 1);
                if open.confirmed { silent } else { silent.min(self.hello_ns) }
            }
        }
    }

    /// Where a datagram belongs; nothing in it has been proved.
    pub(super) fn belongs(&self, header: &Header) -> Belongs {
        match (header.kind, self.phase) {
            (_, Phase::Closed) => Belongs::Nowhere,
            (Kind::Hello, _) => Belongs::Greeting,
            (Kind::Welcome, _) if header.to == self.mine => Belongs::Greeting,
            (Kind::Welcome, _) => Belongs::Nowhere,
            (_, Phase::Greeting) if header.to == self.mine => Belongs::Early,
            (_, Phase::Open(open)) if header.to == self.mine && header.from == open.theirs => {
                Belongs::Session
            }
            (_, Phase::Open(_)) if header.to == self.spare => Belongs::Early,
            (_, Phase::Greeting | Phase::Open(_)) => Belongs::Nowhere,
        }
    }

    /// A proved acknowledgement or bye of the open session: `false` if it is an old one.
    pub(super) fn is_newer(&mut self, number: u64, now: u64) -> bool {
        let Phase::Open(open) = &mut self.phase else { return false };
        if number <= open.number {
            return false;
        }
        (open.number, open.heard_ns, open.confirmed) = (number, now, true);
        true
    }

    /// Data of the open session has come that had not come before.
    pub(super) fn heard(&mut self, now: u64) {
        if let Phase::Open(open) = &mut self.phase {
            (open.heard_ns, open.confirmed) = (now, true);
        }
    }

    /// A proved greeting.
    pub(super) fn greeted(&mut self, header: &Header, greeting: Greeting, now: u64) -> Outcome {
        let offer = match self.phase {
            Phase::Closed => return Outcome::Stale,
            Phase::Greeting => self.mine,
            Phase::Open(_) => self.spare,
        };
        let hello = header.kind == Kind::Hello;
        let common = greeting.versions.1.min(self.versions.1);
        if common < greeting.versions.0.max(self.versions.0) {
            let answer = (hello && header.to == 0).then_some((offer, header.from));
            return Outcome::Version { answer };
        }
        if let Phase::Open(open) = &mut self.phase
            && header.from == open.theirs
            && header.to == self.mine
        {
            if header.number <= open.number {
                return Outcome::Replayed;
            }
            (open.number, open.heard_ns) = (header.number, now);
            open.confirmed |= hello || greeting.open;
            return match hello {
                true => Outcome::Answer { from: self.mine, to: header.from },
                false => Outcome::Nothing,
            };
        }
        if header.to == offer {
            self.mine = offer;
            self.spare = self.fresh();
            self.phase = Phase::Open(Open {
                theirs: header.from,
                version: common,
                window: greeting.window.min(WINDOW),
                confirmed: hello,
                heard_ns: now,
                number: header.number,
            });
            (self.hello_ns, self.gap_ns) = (now, GREETING_GAP_NS.0);
            return Outcome::Opened { hello: !hello };
        }
        match (hello, header.to) {
            (true, 0) => Outcome::Answer { from: offer, to: header.from },
            _ => Outcome::Stale,
        }
    }
}
