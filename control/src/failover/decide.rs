//! Whether a group is to be taken, kept, or given away: the rules, and their reasons in words.
//!
//! `xvip ha` shows the same reasons that decide.

use crate::failover::beat::Role;
use crate::failover::exchange::Nanos;
use crate::failover::group::{Group, State};
use crate::failover::handover::{Cause, Handover};
use crate::failover::peer::{Claim, Liveness};
use crate::failover::world::{Fence, World};

/// Longest wait for the peer to know every connection before a group is handed over.
const DRAIN: Nanos = 2_000_000_000;
/// With `{peer}`, `{why}` and `{lag}` in it, which [`words`] fills in: it is needed seldom, and
/// decided often.
type Words = &'static str;

/// Of a group that is not ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standby {
    Take(String),
    /// Once the peer has been fenced.
    Fence(Words),
    Stay(Words),
}

/// Of a group that is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Active {
    Stay(Words),
    Release(Words),
}

/// The reason in full.
pub(super) fn words(template: Words, group: &Group, world: &World<'_>) -> String {
    let filled = template.replace("{peer}", world.peer_name);
    filled.replace("{lag}", &world.lag.to_string()).replace("{why}", &group.why)
}

/// Whether this node could take the group, if it were there to be had.
pub(super) fn is_able(group: &Group, world: &World<'_>) -> bool {
    unable(group, world).is_none()
}

fn unable(group: &Group, world: &World<'_>) -> Option<Words> {
    if world.leaving {
        return Some("this node is about to leave");
    }
    if !world.data_plane {
        return Some("our data plane does not answer");
    }
    if world.now < group.hold_until {
        return Some("waiting a moment after a failure: {why}");
    }
    if !world.settled {
        return Some("this node was not running for a while and listens first");
    }
    // Connections that nobody serves cannot be lost by taking them.
    let patience = world.initdead.saturating_add(group.unowned_since.unwrap_or(Nanos::MAX));
    if world.there && !world.synced && world.now < patience {
        return Some("this node does not know the peer's connections yet");
    }
    None
}

/// Rules for a group that is not ours.
pub(super) fn standby(group: &Group, world: &World<'_>, claim: &Claim) -> Standby {
    let forced = world.there && claim.row.role == Role::Yielding && claim.row.force;
    if let Some(why) = unable(group, world)
        && !(forced && world.data_plane && world.settled && !world.leaving)
    {
        return Standby::Stay(why);
    }
    if !claim.row.role.claims() && world.now < claim.claimed_until {
        return Standby::Stay("the peer's data plane may still be answering");
    }
    match world.liveness {
        Liveness::Never | Liveness::Dead => silent(world, claim),
        Liveness::Left if world.now < claim.claimed_until => {
            Standby::Stay("the peer's data plane may still be answering")
        }
        Liveness::Left => Standby::Take("the peer has left".to_owned()),
        Liveness::Alive | Liveness::Late => heard(group, world, claim),
    }
}

fn silent(world: &World<'_>, claim: &Claim) -> Standby {
    let never = world.liveness == Liveness::Never;
    let initdead = world.listening_since.saturating_add(world.initdead);
    if never && world.now < initdead {
        return Standby::Stay("waiting for the peer, as long as `initdead` says");
    }
    if world.now < claim.claimed_until {
        return Standby::Stay("the peer's data plane may still be answering");
    }
    if world.maintenance {
        return Standby::Stay("the peer is silent, but in maintenance nothing moves");
    }
    if world.blind {
        let why = "the peer is silent, but this node sees nothing of its network either";
        return Standby::Stay(why);
    }
    match world.fence {
        Fence::Needed => return Standby::Fence("the silent peer has to be fenced first"),
        Fence::Running => return Standby::Stay("the fencing command is running"),
        Fence::Failed(_) => {
            return Standby::Stay("the silent peer could not be fenced; it is tried again");
        }
        Fence::NotWanted | Fence::Done => {}
    }
    let span = if never { world.initdead } else { world.deadtime } / 1_000_000;
    Standby::Take(format!("{} has been silent on all paths for {span}ms", world.peer_name))
}

fn heard(group: &Group, world: &World<'_>, claim: &Claim) -> Standby {
    let (row, peer) = (&claim.row, world.peer_name);
    match row.role {
        Role::Active | Role::Taking => return Standby::Stay("{peer} owns it"),
        Role::Releasing => return Standby::Stay("{peer} is giving it up"),
        Role::Yielding if world.fresh => {
            return Standby::Take(format!("{peer} has handed it over"));
        }
        Role::Yielding => {
            return Standby::Stay("{peer} hands it over, or did so a while ago");
        }
        Role::Standby => {}
    }
    let quiet = |span: Nanos| {
        claim.unclaimed_since.is_some_and(|since| world.now >= since.saturating_add(span))
    };
    if !world.fresh && !quiet(2 * world.deadtime) {
        return Standby::Stay("{peer} has not said lately that it does not own it");
    }
    // Whoever had it is the last to be moved from; but not for ever.
    let unowned = group.unowned_since.map_or(0, |since| world.now - since);
    let was_theirs = group.known > group.owned_last && claim.claimed_until > 0;
    if world.maintenance && was_theirs && unowned < world.initdead {
        return Standby::Stay("nobody owns it; in maintenance it is left to {peer}, which had it");
    }
    if world.peer_leaving || !row.able {
        return Standby::Take(format!("nobody owns it, and {peer} cannot"));
    }
    // Whatever the peer thinks of it, somebody has to.
    if unowned >= 4 * world.deadtime {
        return Standby::Take("nobody has taken it".to_owned());
    }
    if group.want.is_some() || (!row.wants && fitness(group, world) > peer_fitness(group, world)) {
        return Standby::Take("nobody owned it, and this node is to have it".to_owned());
    }
    Standby::Stay("nobody owns it, and {peer} is to have it")
}

/// What decides between two nodes that could both take a group: greater wins, never equal.
fn fitness<'a>(
    group: &Group,
    world: &World<'a>,
) -> (super::evidence::Rank, bool, std::cmp::Reverse<&'a str>) {
    let preferred = group.prefer.as_deref() == Some(world.node);
    (world.rank, preferred, std::cmp::Reverse(world.node))
}

fn peer_fitness<'a>(
    group: &Group,
    world: &World<'a>,
) -> (super::evidence::Rank, bool, std::cmp::Reverse<&'a str>) {
    let preferred = group.prefer.as_deref() == Some(world.peer_name);
    (world.peer_rank, preferred, std::cmp::Reverse(world.peer_name))
}

/// When the peer, which owns nothing and does not hear us, is going to take the group: our lease must
/// have run out by then.
pub(super) fn limit(world: &World<'_>) -> Option<Nanos> {
    let concerned = world.there && world.peer_would_take && !world.maintenance;
    world.gives_up_at.filter(|_| concerned).map(|at| at.saturating_sub(world.keepalive / 2))
}

/// Rules for a group that is ours.
pub(super) fn active(group: &Group, world: &World<'_>, claim: &Claim) -> Active {
    if let Some(why) = data_plane_gone(group, world) {
        return Active::Release(why);
    }
    let row = &claim.row;
    let State::Active { handover, conflict_since } = group.state else {
        return taking(group, world, claim);
    };
    // Part of a lease that was cut short, or two beats, are missing: the peer may have taken it.
    let lapsed = if group.capped { 0 } else { world.keepalive };
    if group.lease_until.saturating_add(lapsed) <= world.now {
        return Active::Release(if group.capped {
            "{peer} does not hear us and is going to take it"
        } else {
            "its lease has run out"
        });
    }
    let offered = handover.is_some_and(|h| h.offered_until.is_some());
    let taken = match row.role {
        Role::Active | Role::Taking => true,
        // It has, and wants to be rid of it again.
        Role::Yielding => row.epoch > group.epoch,
        Role::Standby | Role::Releasing => false,
    };
    if world.there && offered && taken {
        return Active::Release("{peer} has taken it over");
    }
    if world.there && matches!(row.role, Role::Active | Role::Taking) {
        return conflict(group, world, claim, conflict_since);
    }
    if world.there && row.role == Role::Yielding {
        return Active::Stay("{peer} is giving it up");
    }
    if limit(world).is_some_and(|at| at <= world.now) {
        return Active::Release("{peer} does not hear us and is going to take it");
    }
    match handover {
        Some(_) if world.leaving && !world.there => {
            Active::Release("this node leaves, and there is no peer")
        }
        Some(Handover { offered_until: Some(_), .. }) => Active::Stay("offered to {peer}"),
        Some(_) => {
            Active::Stay("to be handed over to {peer}, once it knows the last {lag} changes")
        }
        None if world.leaving && !(world.there && row.able) => Active::Release("this node leaves"),
        None => Active::Stay(staying(group, world, claim)),
    }
}

/// A group that the data plane has not confirmed yet.
fn taking(group: &Group, world: &World<'_>, claim: &Claim) -> Active {
    if world.leaving {
        return Active::Release("this node leaves");
    }
    // The peer that yields says so until it has heard that we take.
    if world.there && matches!(claim.row.role, Role::Active | Role::Taking) {
        return conflict(group, world, claim, None);
    }
    Active::Stay("waiting for our data plane")
}

fn data_plane_gone(group: &Group, world: &World<'_>) -> Option<Words> {
    if world.maintenance && matches!(group.state, State::Active { .. }) {
        return None;
    }
    if !world.data_plane {
        return Some("our data plane does not answer");
    }
    let patience = group.acked_at.saturating_add(world.deadtime);
    (patience <= world.now).then_some("our data plane no longer takes leases")
}

/// Both nodes own it: who sees more keeps it; else the later ownership; else the first by name.
fn conflict(group: &Group, world: &World<'_>, claim: &Claim, since: Option<Nanos>) -> Active {
    let peer = world.peer_name;
    // A peer that does not hear us cannot give way.
    let deaf = world.hears_us_at.is_none_or(|at| at.saturating_add(world.deadtime) < world.now);
    let lasts = |from: Nanos| from.saturating_add(world.deadtime) <= world.now;
    if deaf && lasts(world.alive_since) && since.is_some_and(lasts) {
        return Active::Release("{peer} owns it too, and does not hear us");
    }
    let ours = (world.rank, group.epoch, std::cmp::Reverse(world.node));
    let theirs = (world.peer_rank, claim.row.epoch, std::cmp::Reverse(peer));
    if ours > theirs {
        return Active::Stay("{peer} owns it too, and has to give way");
    }
    Active::Release(if world.rank < world.peer_rank {
        "{peer} owns it too, and it sees more of the network"
    } else if group.epoch < claim.row.epoch {
        "{peer} owns it too, and its ownership is the later one"
    } else {
        "{peer} owns it too, and its name comes first"
    })
}

/// Whether an owned group should go to the peer.
pub(super) fn handover(group: &Group, world: &World<'_>, claim: &Claim) -> Option<Handover> {
    let row = &claim.row;
    let possible = row.able || row.wants && row.force;
    if !world.there || !possible {
        return None;
    }
    let (now, drain) = (world.now, if world.lag == 0 { 0 } else { DRAIN });
    let plan = |cause, force, drain| Handover {
        cause,
        force,
        drain_until: now.saturating_add(drain),
        offered_until: None,
    };
    if world.leaving {
        return Some(plan(Cause::Leave, true, drain));
    }
    if row.wants && world.fresh {
        return Some(plan(Cause::Operator, row.force, drain));
    }
    if world.maintenance || now < group.offer_after || !row.able {
        return None;
    }
    if evidence_moves(group, world) {
        // Whoever sees nothing serves nobody meanwhile.
        let drain = if world.blind { 0 } else { drain };
        return Some(plan(Cause::Evidence, false, drain));
    }
    let back = world.failback
        && !group.by_operator
        && group.prefer.as_deref() == Some(world.peer_name)
        && world.peer_rank >= world.rank
        && world.equal
        && now >= world.alive_since.saturating_add(world.initdead);
    back.then(|| plan(Cause::Failback, false, drain))
}

/// The peer has been seeing more for long enough; and where we see something at all, the group has been
/// here for long enough that it does not go to and fro.
fn evidence_moves(group: &Group, world: &World<'_>) -> bool {
    let holds = 3 * world.keepalive;
    let fitter = world.fitter_since.is_some_and(|at| world.now >= at.saturating_add(holds));
    let rests = world.now >= group.since.saturating_add(10 * world.deadtime);
    fitter && !group.pinned && (world.blind || rests && !group.by_operator)
}

/// Why an owned group stays.
fn staying(group: &Group, world: &World<'_>, claim: &Claim) -> Words {
    let peer = world.peer_name;
    if !world.there {
        return "{why}; {peer} is not there";
    }
    if world.maintenance {
        return "{why}; in maintenance nothing moves";
    }
    if group.prefer.as_deref() == Some(peer) {
        return if !world.failback {
            "{why}; it prefers {peer}, but fail-back is not automatic (`xvip switchover` does it)"
        } else if group.by_operator {
            "{why}; it prefers {peer}, but the operator has put it here"
        } else if !claim.row.able || !world.equal {
            "{why}; it prefers {peer}, which does not know every connection yet"
        } else if world.peer_rank < world.rank {
            "{why}; it prefers {peer}, which sees less of the network"
        } else {
            "{why}; it prefers {peer}, which has to be there for a while first"
        };
    }
    "{why}; {peer} sees no more of the network than this node"
}
