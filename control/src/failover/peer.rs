//! What is known of the other node: only from beats that counted.

use crate::failover::beat::{Beat, Header, ROWS_MAX, Role, Row};
use crate::failover::evidence::{Rank, is_blind, rank};
use crate::failover::exchange::Nanos;
use crate::seal::{Guard, News};

/// Whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// Not heard since we started.
    Never,
    /// Its beats come.
    Alive,
    /// They are later than `warntime`.
    Late,
    /// None for `deadtime`.
    Dead,
    /// It has said goodbye.
    Left,
}

impl Liveness {
    /// Word for people.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Alive => "alive",
            Self::Late => "late",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }
}

/// A group, as the peer has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim {
    /// As last heard.
    pub(super) row: Row,
    /// The peer's data plane may answer until then, whatever we hear.
    pub(super) claimed_until: Nanos,
    /// Since when its beats have said, one after the other, that it owns nothing.
    pub(super) unclaimed_since: Option<Nanos>,
    /// Life of the peer that has claimed it last.
    claimed_by: u64,
}

/// The other node.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) guard: Guard,
    pub(super) liveness: Liveness,
    /// Of the liveness.
    pub(super) since: Nanos,
    pub(super) heard_at: Option<Nanos>,
    /// Since when it is there without having been dead in between.
    pub(super) alive_since: Nanos,
    /// The last beat.
    pub(super) beat: Beat,
    /// Whether that was made a short time ago: it answers to something that we had just sent.
    pub(super) fresh: bool,
    /// When it last heard us, by our clock.
    pub(super) hears_us_at: Option<Nanos>,
    /// When it will count us as dead, if it goes on hearing nothing; set while that is to come.
    pub(super) gives_up_at: Option<Nanos>,
    pub(super) restarts: u64,
    /// Oldest and newest version it reads.
    pub(super) versions: Option<(u8, u8)>,
    claims: Vec<Claim>,
}

impl Peer {
    pub(super) fn new(nonce: u64, now: Nanos) -> Self {
        Self {
            guard: Guard::new(nonce),
            liveness: Liveness::Never,
            since: now,
            heard_at: None,
            alive_since: now,
            beat: Beat::default(),
            fresh: false,
            hears_us_at: None,
            gives_up_at: None,
            restarts: 0,
            versions: None,
            claims: Vec::new(),
        }
    }

    /// Whether its beats come.
    pub(super) const fn is_there(&self) -> bool {
        matches!(self.liveness, Liveness::Alive | Liveness::Late)
    }

    pub(super) fn rank(&self) -> Rank {
        rank(&self.beat.evidence, self.beat.data_plane)
    }

    /// Whether it would take what a silent node owns.
    pub(super) const fn would_take(&self) -> bool {
        self.beat.data_plane && !self.beat.leaving && !is_blind(&self.beat.evidence)
    }

    pub(super) fn claim(&self, tag: u32) -> Option<&Claim> {
        self.claims.iter().find(|c| c.row.tag == tag)
    }

    /// Forgets what it says of groups that we do not have.
    pub(super) fn keep(&mut self, ours: impl Fn(u32) -> bool) {
        self.claims.retain(|c| ours(c.row.tag));
    }

    /// A beat that counts, with news. `fresh`: it was made a short time ago.
    pub(super) fn heard(
        &mut self,
        header: &Header,
        beat: Beat,
        fresh: bool,
        news: News,
        warntime: Nanos,
        now: Nanos,
    ) {
        if news == News::Born && self.versions.is_some() {
            self.restarts += 1;
            self.gives_up_at = None;
        }
        self.heard_at = Some(now);
        self.fresh = fresh;
        self.versions = Some((header.oldest, header.newest));
        let ago = u64::from(beat.heard_us) * 1000;
        let known = beat.heard_us != u32::MAX;
        self.hears_us_at = known.then(|| now.saturating_sub(ago));
        let deadtime = u64::from(beat.deadtime_us) * 1000;
        if known && ago <= warntime {
            self.gives_up_at = None;
        } else if known && ago < deadtime {
            self.gives_up_at = Some(now.saturating_sub(ago).saturating_add(deadtime));
        }
        let ttl = u64::from(beat.ttl_us) * 1000;
        for row in beat.rows.iter().take(ROWS_MAX) {
            self.row(row, header.sender.nonce, now, ttl);
        }
        // A group that it no longer speaks of, it does not own.
        let gone = Row { role: Role::Standby, able: false, wants: false, ..Row::default() };
        for claim in &mut self.claims {
            if !beat.rows.iter().any(|r| r.tag == claim.row.tag) {
                claim.row = Row { tag: claim.row.tag, epoch: claim.row.epoch, ..gone.clone() };
                claim.unclaimed_since.get_or_insert(now);
            }
        }
        self.beat = beat;
    }

    fn row(&mut self, row: &Row, nonce: u64, now: Nanos, ttl: Nanos) {
        let at = match self.claims.iter().position(|c| c.row.tag == row.tag) {
            Some(at) => at,
            None if self.claims.len() >= ROWS_MAX => return,
            None => {
                self.claims.push(Claim::default());
                self.claims.len() - 1
            }
        };
        let claim = &mut self.claims[at];
        if row.role.claims() {
            claim.claimed_until = now.saturating_add(ttl);
            claim.claimed_by = nonce;
            claim.unclaimed_since = None;
        } else {
            // Another life of the same node does not know what its data plane was told before.
            if claim.claimed_by == nonce {
                claim.claimed_until = 0;
            }
            claim.unclaimed_since.get_or_insert(now);
        }
        claim.row = row.clone();
    }
}
