//! What operators want, and what people are told.

use std::sync::Arc;

use crate::failover::beat::Role;
use crate::failover::decide::{self, Active, Standby};
use crate::failover::exchange::{Command, EventKind, Nanos, Output};
use crate::failover::group::{State, Want};
use crate::failover::handover::{Cause, Handover};
use crate::failover::machine::{CONFIG, Leaving, Machine, SELDOM, event};

/// Commands on their way at a time.
const JOBS_MAX: usize = 8;
/// Time that a switchover has: what the last changes may take, and two takeovers.
const PATIENCE: Nanos = 4_000_000_000;

/// A switchover on its way.
#[derive(Debug)]
pub(super) struct Job {
    ticket: u64,
    groups: Vec<Arc<str>>,
    /// To this node.
    here: bool,
    until: Nanos,
}

impl Machine {
    pub(super) fn command(
        &mut self,
        ticket: u64,
        command: Command,
        now: Nanos,
        out: &mut Vec<Output>,
    ) {
        let result = match command {
            Command::Maintenance(on) => {
                let version = self.maintenance.0.saturating_add(1);
                self.set_maintenance(version, on, now, out);
                let words =
                    if on { "nothing moves by itself" } else { "things move by themselves" };
                Ok(words.to_owned())
            }
            Command::Leave => {
                self.leaving.get_or_insert(Leaving { ticket, told: 0 });
                self.urgent.get_or_insert(now);
                return;
            }
            Command::Switchover { group, to, force } => {
                match self.switch_over(ticket, group.as_deref(), to.as_deref(), force, now) {
                    Ok(None) => return,
                    Ok(Some(done)) => Ok(done),
                    Err(why) => Err(why),
                }
            }
        };
        out.push(Output::Answer { ticket, result });
    }

    pub(super) fn set_maintenance(
        &mut self,
        version: u32,
        on: bool,
        now: Nanos,
        out: &mut Vec<Output>,
    ) {
        let was = std::mem::replace(&mut self.maintenance, (version, on)).1;
        if was == on {
            return;
        }
        self.groups.iter_mut().for_each(|g| g.acked_at = now);
        let (kind, reason) = if on {
            (EventKind::MaintenanceOn, "nothing moves by itself, on both nodes")
        } else {
            (EventKind::MaintenanceOff, "things move by themselves again")
        };
        event(out, kind, reason.to_owned());
    }

    /// Starts it. Some: there is nothing to do.
    fn switch_over(
        &mut self,
        ticket: u64,
        group: Option<&str>,
        to: Option<&str>,
        force: bool,
        now: Nanos,
    ) -> Result<Option<String>, String> {
        let (node, peer) = (self.settings.node.clone(), self.settings.peer.clone());
        let concerned: Vec<usize> = (0..self.groups.len())
            .filter(|at| group.is_none_or(|name| *self.groups[*at].name == *name))
            .collect();
        if concerned.is_empty() {
            return Err(format!("there is no group `{}`", group.unwrap_or_default()));
        }
        let owned = |at: &usize| self.groups[*at].is_owned();
        let here = match to {
            Some(to) if to == node => true,
            Some(to) if to == peer => false,
            Some(to) => return Err(format!("there is no node `{to}`: only {node} and {peer}")),
            None if concerned.iter().all(owned) => false,
            None if !concerned.iter().any(owned) => true,
            None => return Err("some groups are here and some are not: say --to NODE".to_owned()),
        };
        let moving: Vec<usize> = concerned.into_iter().filter(|at| owned(at) != here).collect();
        if moving.is_empty() {
            let owner = if here { node } else { peer };
            return Ok(Some(format!("nothing to move: {owner} owns it")));
        }
        if self.leaving.is_some() {
            return Err("this node is about to leave".to_owned());
        }
        if !self.peer.is_there() {
            return Err(format!("{peer} is not there"));
        }
        if self.jobs.len() >= JOBS_MAX {
            return Err("too many switchovers at a time".to_owned());
        }
        for at in &moving {
            self.begin(*at, here, force, now)?;
        }
        let groups = moving.iter().map(|at| Arc::clone(&self.groups[*at].name)).collect();
        let until = now.saturating_add(PATIENCE).saturating_add(4 * self.times.deadtime);
        self.jobs.push(Job { ticket, groups, here, until });
        Ok(None)
    }

    fn begin(&mut self, at: usize, here: bool, force: bool, now: Nanos) -> Result<(), String> {
        let names = Arc::clone(&self.names);
        let (world, claim) = (self.world(&names, now), self.claim(at));
        let (from, to, node) = if here {
            (world.peer_rank, world.rank, world.node)
        } else {
            (world.rank, world.peer_rank, world.peer_name)
        };
        let worse = (to < from && !force).then(|| {
            format!(
                "{}: {node} sees less of the network (`xvip ha`), and would give it back: --force \
                 moves it all the same",
                self.groups[at].name
            )
        });
        let group = &mut self.groups[at];
        if here {
            let forced = force && world.data_plane && world.settled;
            if !forced && !decide::is_able(group, &world) {
                let (Standby::Stay(why) | Standby::Fence(why)) =
                    decide::standby(group, &world, &claim)
                else {
                    return Ok(());
                };
                return Err(format!("{}: {}", group.name, decide::words(why, group, &world)));
            }
            worse.map_or(Ok(()), Err)?;
            let until = now.saturating_add(PATIENCE);
            group.want = Some(Want { until, force });
        } else {
            if !claim.row.able && !force {
                return Err(format!(
                    "{}: {} cannot take it now, or does not know every connection yet",
                    group.name, names.1
                ));
            }
            worse.map_or(Ok(()), Err)?;
            let State::Active { handover, .. } = &mut group.state else {
                return Err(format!("{}: it is just being taken", group.name));
            };
            let drain = if world.lag == 0 { 0 } else { 2_000_000_000 };
            *handover = Some(Handover {
                cause: Cause::Operator,
                force,
                drain_until: now.saturating_add(drain),
                offered_until: None,
            });
        }
        group.changed = true;
        Ok(())
    }

    /// Ends switchovers that have been carried out, or that have taken too long.
    pub(super) fn go_on_with_jobs(&mut self, now: Nanos, out: &mut Vec<Output>) {
        let mut jobs = std::mem::take(&mut self.jobs);
        jobs.retain(|job| {
            let pending = |name: &&Arc<str>| {
                let group = self.groups.iter().find(|g| g.name == **name);
                group.is_some_and(|group| {
                    let theirs = self.peer.claim(group.tag).map(|c| c.row.role);
                    if job.here {
                        // Whoever is gone gives nothing up any more.
                        let given_up = !self.peer.is_there() || theirs == Some(Role::Standby);
                        !matches!(group.state, State::Active { .. }) || !given_up
                    } else {
                        let taken = matches!(theirs, Some(Role::Active | Role::Taking));
                        !matches!(group.state, State::Standby) || !taken
                    }
                })
            };
            let waits: Vec<&Arc<str>> = job.groups.iter().filter(pending).collect();
            let result = match waits.first() {
                None => Ok(format!("moved: {}", job.groups.join(", "))),
                Some(_) if job.until > now && self.leaving.is_none() => return true,
                Some(name) => Err(format!("{name}: {}", self.explain(name, now))),
            };
            out.push(Output::Answer { ticket: job.ticket, result });
            false
        });
        self.jobs = jobs;
    }

    /// Why a group is where it is, in words.
    pub(super) fn explain(&self, name: &str, now: Nanos) -> String {
        let Some(at) = self.groups.iter().position(|g| *g.name == *name) else {
            return "there is no such group".to_owned();
        };
        let names = Arc::clone(&self.names);
        let (world, claim, group) = (self.world(&names, now), self.claim(at), &self.groups[at]);
        match group.state {
            State::Standby => match decide::standby(group, &world, &claim) {
                Standby::Take(why) => why,
                Standby::Fence(why) | Standby::Stay(why) => decide::words(why, group, &world),
            },
            State::Taking { .. } | State::Active { .. } => {
                let (Active::Stay(why) | Active::Release(why)) =
                    decide::active(group, &world, &claim);
                decide::words(why, group, &world)
            }
            State::Releasing { .. } => format!("being given up: {}", group.why),
        }
    }

    /// What is told now and then.
    pub(super) fn tell(&mut self, now: Nanos, out: &mut Vec<Output>) {
        let (told, at) = self.refused_told;
        if now >= at.saturating_add(SELDOM) {
            let list = self.refused.list();
            let bad = list.iter().filter(|(name, _)| *name != "unproved");
            let total: u64 = bad.clone().map(|(_, n)| n).sum();
            self.refused_told = (total, now);
            if total > told {
                let kinds: Vec<String> =
                    bad.filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect();
                let reason =
                    format!("{} messages; since start: {}", total - told, kinds.join(", "));
                event(out, EventKind::Refused, reason);
            }
        }
        let (at, before, told) = self.compared;
        if now >= at.saturating_add(CONFIG) && self.peer.is_there() {
            let differences = self.differences();
            let differ = !differences.is_empty();
            self.compared = (now, differ, told);
            if differ && before && !told {
                self.compared.2 = true;
                event(out, EventKind::ConfigDiffers, differences.join("; "));
            } else if !differ && told {
                self.compared.2 = false;
                event(out, EventKind::ConfigAgrees, "the nodes are configured alike".to_owned());
            }
        }
    }

    /// What is configured otherwise on the peer, one a line.
    pub(super) fn differences(&self) -> Vec<String> {
        let beat = &self.peer.beat;
        if self.peer.versions.is_none() {
            return Vec::new();
        }
        let (node, peer) = (&self.names.0, &self.names.1);
        let mut lines = Vec::new();
        let times = [
            ("keepalive", self.times.keepalive, beat.keepalive_us),
            ("deadtime", self.times.deadtime, beat.deadtime_us),
        ];
        for (name, ours, theirs) in times {
            if ours / 1000 != u64::from(theirs) {
                let (ours, theirs) = (ours as f64 / 1e6, f64::from(theirs) / 1e3);
                lines.push(format!("{name} is {ours}ms on {node} and {theirs}ms on {peer}"));
            }
        }
        for group in &self.groups {
            if !beat.rows.iter().any(|r| r.tag == group.tag) {
                lines.push(format!("group {} is on {node} only", group.name));
            }
        }
        let unknown = beat.rows.iter().filter(|r| !self.groups.iter().any(|g| g.tag == r.tag));
        match unknown.count() {
            0 => {}
            n => lines.push(format!("{n} groups are on {peer} only")),
        }
        let known = beat.config_hash != 0 && self.config_hash != 0;
        if known && beat.config_hash != self.config_hash && lines.is_empty() {
            lines.push("the configuration files differ in more than `[node]`".to_owned());
        }
        lines
    }
}
