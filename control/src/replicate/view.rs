//! What `xvip ha` shows of replication.

use dataplane_api::sync::Standing;
use serde::{Deserialize, Serialize};

use super::replication::{DataPlane, Replication};

pub use super::meter::{Latency, Rates};

/// Where the session with the peer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Our own data plane does not talk to us.
    #[default]
    NoDataPlane,
    /// The peer's control has not answered.
    Greeting,
    /// Open.
    Open,
}

/// If this node died now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survival {
    /// Connections here that the peer ought to know.
    pub worth: u64,
    /// Of them, those that it knows as they are.
    pub would_live: u64,
    /// Records of which it is not known whether they are in the peer's table.
    pub unacknowledged: u64,
    /// Age of the oldest change among them, in milliseconds; `None` if there is none.
    pub oldest_ms: Option<u64>,
}

/// What our data plane says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Connections that the peer ought to know.
    pub worth: u32,
    /// Of them, those put into the stream.
    pub sent: u32,
    /// Changes not in the stream yet.
    pub waiting: u32,
    /// Connections that came from the peer.
    pub imported: u32,
    /// Times that changes were lost, and a full pass followed.
    pub overflows: u32,
    /// Records refused: service, VIP, real server or local address is not known here.
    pub unknown: u32,
    /// Records refused: no room.
    pub no_room: u32,
    /// Records refused: the connection is our own.
    pub own: u32,
}

/// Comparison of what we have of the peer with what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// Whether they were equal at the last comparison; `None`: none yet in this session.
    pub equal: Option<bool>,
    /// How old that is, in milliseconds.
    pub age_ms: Option<u64>,
    /// Parts of 256 that differed then.
    pub differing: u32,
    /// Parts that were asked for again, since the start.
    pub repairs: u64,
}

/// Datagrams that were not used, by the reason, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Not the bytes of a datagram, or too many of them.
    pub malformed: u64,
    /// A version that we do not speak, or not in this session.
    pub version: u64,
    /// A key that we do not have.
    pub unknown_key: u64,
    /// Not proved.
    pub bad_mac: u64,
    /// Of another session.
    pub old_session: u64,
    /// Of a session that the peer opened before us: comes again.
    pub early: u64,
    /// An acknowledgement or greeting older than the last.
    pub replayed: u64,
    /// Data that had come before.
    pub duplicate: u64,
    /// Data that nobody may send yet.
    pub out_of_window: u64,
    /// Too many at a time.
    pub limited: u64,
    /// Proved, and yet its content cannot be: items of the stream, or acknowledgements.
    pub nonsense: u64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Session.
    pub state: State,
    /// For how long it has been so, in milliseconds.
    pub for_ms: u64,
    /// Why the last session ended, or there is none.
    pub reason: Option<String>,
    /// Version agreed upon.
    pub version: Option<u8>,
    /// Sessions opened since the start.
    pub sessions: u64,
    /// The peer has all our connections.
    pub peer_synced: bool,
    /// We have all of the peer's.
    pub synced: bool,
    /// If this node died now; `None` without a session.
    pub survival: Option<Survival>,
    /// From change to acknowledgement.
    pub latency: Latency,
    /// All changes older than this are acknowledged, in milliseconds; `None`: not known.
    pub lag_ms: Option<u64>,
    /// Rates.
    pub rates: Rates,
    /// The same since the start.
    pub totals: Rates,
    /// Datagrams sent again since the start.
    pub resends: u64,
    /// Time of a round trip in microseconds.
    pub round_trip_us: Option<u64>,
    /// Datagrams on their way.
    pub in_flight: u32,
    /// How many may be.
    pub in_flight_max: u32,
    /// Comparison.
    pub digests: Digests,
    /// Our data plane.
    pub table: Option<Table>,
    /// Datagrams not used.
    pub refused: Refused,
    /// What is wrong at this end, for people: addresses, sockets.
    pub trouble: Option<String>,
}

impl Replication {
    /// The peer has all our connections.
    #[must_use]
    pub fn is_peer_synced(&self) -> bool {
        self.link.session.is_open() && self.export.is_complete()
    }

    /// We have all of the peer's.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.link.session.is_open() && self.import.is_whole() && self.link.is_complete()
    }

    /// Whether everything that happened here before this moment of the monotonic clock is in the
    /// peer's table.
    #[must_use]
    pub fn is_drained(&self, moment_ns: u64) -> bool {
        self.is_peer_synced() && self.clean_ns >= moment_ns
    }

    /// How it stands.
    #[must_use]
    pub fn view(&self, now: u64) -> View {
        let session = &self.link.session;
        let open = session.is_open();
        let ms = |since: u64| now.saturating_sub(since) / 1_000_000;
        let (in_flight, in_flight_max) = self.link.outbox.flight();
        let differing = self.import.differing();
        View {
            state: match (open, self.data_plane() == DataPlane::Here) {
                (true, _) => State::Open,
                (false, true) => State::Greeting,
                (false, false) => State::NoDataPlane,
            },
            for_ms: ms(self.since_ns),
            reason: self.ended.map(|ended| ended.to_string()),
            version: session.terms().map(|(version, _)| version),
            sessions: self.sessions,
            peer_synced: self.is_peer_synced(),
            synced: self.is_synced(),
            survival: self.standing.filter(|_| open).map(|standing| self.survival(&standing, now)),
            latency: self.meter.latency(),
            lag_ms: Some(self.clean_ns).filter(|ns| *ns > 0 && open).map(ms),
            rates: self.meter.rates(),
            totals: self.meter.totals,
            resends: self.link.outbox.resent(),
            round_trip_us: self.link.outbox.srtt_ns().map(|ns| ns / 1000),
            in_flight,
            in_flight_max,
            digests: Digests {
                equal: differing.map(|n| n == 0),
                age_ms: differing.map(|_| ms(self.import.compared_ns)),
                differing: differing.unwrap_or(0),
                repairs: self.import.repairs,
            },
            table: self.standing.map(|s| Table {
                worth: s.worth,
                sent: s.sent,
                waiting: s.waiting,
                imported: s.imported,
                overflows: s.overflows,
                unknown: s.unknown,
                no_room: s.no_room,
                own: s.own,
            }),
            refused: self.link.refused,
            trouble: None,
        }
    }

    /// What of `sent` has not been acknowledged is taken for lost, though the peer may know an
    /// earlier state of it that would do.
    fn survival(&self, standing: &Standing, now: u64) -> Survival {
        let (upserts, since) = self.link.outbox.unacknowledged();
        let sent = u64::from(standing.sent.min(standing.worth));
        Survival {
            worth: u64::from(standing.worth),
            would_live: sent.saturating_sub(upserts),
            unacknowledged: upserts,
            oldest_ms: since.map(|ns| now.saturating_sub(ns) / 1_000_000),
        }
    }
}
