//! Outcomes of checks in, plans out.
//!
//! A change of health is sent as a whole plan, at most one on its way at a time: what changes
//! meanwhile goes with the next one, so that a thousand servers that die at once are not a thousand
//! plans.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dataplane_api::message::{Request, Status};
use dataplane_api::service::Snapshot;

use super::link::What;
use super::{Node, Output};
use crate::check::{Probe, ProbeSet, Report};
use crate::event::{Event, Kind};
use crate::failover::settings::Ping;
use crate::health::{Health, State, Tally, Verdict, label};
use crate::overrides::RealKey;
use crate::plan::{Plan, plan};
use crate::time::Instant;
use crate::verbs::{CheckHealth, HealthSummary, RealHealth, ServiceHealth, TROUBLES_MAX, Trouble};

/// Health, and what has been made of it.
#[derive(Debug, Default)]
pub(super) struct Care {
    pub(super) health: Health,
    /// What the shell was last told to run.
    probes: Option<(Arc<ProbeSet>, Vec<Ping>)>,
    /// The last plan's view of the services.
    plan: Option<Plan>,
    /// What the data plane was last sent in this session.
    pub(super) sent: Option<Snapshot>,
    /// Whether what it should have may differ from that.
    due: bool,
    /// Services that people were told to be below their panic floor, or without a real.
    panic: BTreeSet<String>,
    down: BTreeSet<String>,
}

impl Node {
    /// Runs of probes have ended.
    pub(super) fn probed(&mut self, runs: &[(Arc<Probe>, Report)], now: Instant) {
        for (probe, report) in runs {
            self.care.health.report(probe, report, now);
        }
    }

    /// Something that the plan depends on has changed.
    pub(super) fn replan(&mut self) {
        self.care.plan = None;
    }

    /// Whether the data plane has what it should have.
    pub(super) fn plan_is_settled(&self) -> bool {
        let quiet = self.candidate.is_none() && !self.link.applies();
        quiet && self.care.plan.is_some() && !self.care.due
    }

    /// Draws the consequences of what has changed.
    pub(super) fn health_tick(&mut self, now: Instant) {
        self.care.health.tick(now);
        for event in self.care.health.take_events() {
            self.event(event);
        }
        let wanted = Arc::clone(self.care.health.probes());
        let same = |(p, pings): &(Arc<ProbeSet>, Vec<Ping>)| {
            Arc::ptr_eq(p, &wanted) && *pings == self.pings()
        };
        if !self.care.probes.as_ref().is_some_and(same) {
            self.care.probes = Some((Arc::clone(&wanted), self.pings().to_vec()));
            self.out.push(Output::Probes(self.with_pings(&wanted)));
        }
        for probe in self.care.health.take_urgent() {
            self.out.push(Output::ProbeNow(probe));
        }
        if self.care.health.take_changed() || self.care.plan.is_none() {
            let plan = plan(&self.config, &self.care.health, &self.overrides);
            self.tell_services(&plan, now);
            self.care.plan = Some(plan);
            self.care.due = true;
        }
        // First who takes the clients, then the plan that gives them away.
        self.sorry_tick();
        self.weigh(now);
    }

    /// Reals of a service that get new connections, as last planned.
    pub(super) fn planned_serving(&self, service: &str) -> Option<usize> {
        let plan = self.care.plan.as_ref()?;
        plan.services.iter().find(|s| s.name == service).map(|s| s.serving)
    }

    /// Sends the plan, if the data plane has another one and no configuration is on its way.
    fn weigh(&mut self, now: Instant) {
        let busy = self.candidate.is_some() || self.stop_by.is_some() || !self.link.applied;
        if !self.care.due || busy || !self.link.is_up() || self.link.applies() {
            return;
        }
        self.care.due = false;
        let Some(plan) = &self.care.plan else { return };
        if self.care.sent.as_ref() == Some(&plan.snapshot) {
            return;
        }
        let snapshot = Box::new(plan.snapshot.clone());
        self.care.sent = Some(plan.snapshot.clone());
        self.send(What::Weigh(Arc::clone(&self.config)), Request::Apply { snapshot }, now);
    }

    /// Tells of services that have come to nothing, or back from there.
    fn tell_services(&mut self, plan: &Plan, now: Instant) {
        let mut events = Vec::new();
        for service in &plan.services {
            let total = service.reals.len();
            let healthy =
                service.reals.iter().filter(|r| matches!(r.state, State::Up | State::SlowStart));
            let counts = format!("{} of {total} real servers healthy", healthy.count());
            let mut tell = |kind| {
                events.push(Event::new(kind, now, counts.clone()).service(&service.name));
            };
            if total > 0 && change(&mut self.care.down, &service.name, service.serving == 0) {
                tell(if service.serving == 0 { Kind::ServiceDown } else { Kind::ServiceUp });
            }
            if change(&mut self.care.panic, &service.name, service.panic) {
                tell(if service.panic { Kind::PanicBegun } else { Kind::PanicEnded });
            }
        }
        let there: BTreeSet<_> = plan.services.iter().map(|s| s.name.as_str()).collect();
        for (told, kind) in
            [(&mut self.care.down, Kind::ServiceUp), (&mut self.care.panic, Kind::PanicEnded)]
        {
            for name in told.extract_if(.., |name| !there.contains(name.as_str())) {
                events.push(Event::new(kind, now, "no longer configured").service(name));
            }
        }
        for event in events {
            self.event(event);
        }
    }

    /// Before the first configuration of this process goes out: what is dead stays so.
    pub(super) fn inherit(&mut self, status: &Status, now: Instant) {
        self.care.health.inherit(status, &self.config, &self.overrides, now);
    }

    /// Health of each real of the configuration in force.
    pub(super) fn service_health(&self, now: Instant) -> Vec<ServiceHealth> {
        let Some(plan) = &self.care.plan else { return Vec::new() };
        let services = plan.services.iter().zip(&self.config.services);
        services
            .map(|(planned, entry)| {
                let reals = planned.reals.iter().zip(&entry.service.reals);
                let reals = reals.map(|(planned, real)| {
                    let key = RealKey::new(&entry.service.name, real);
                    let known = self.care.health.real(&key);
                    RealHealth {
                        name: real.name.clone(),
                        address: key.text(),
                        state: planned.state.name().to_owned(),
                        since_ms: known.map_or(0, |k| now.since(k.since)),
                        reason: known.map_or_else(String::new, |k| k.reason.clone()),
                        percent: planned.percent,
                        flaps: known.map_or(0, |k| k.flaps(now)),
                        checks: known.map_or_else(Vec::new, |k| {
                            k.checks.iter().map(|c| check_health(c, now)).collect()
                        }),
                    }
                });
                let (service, panic) = (planned.name.clone(), planned.panic);
                ServiceHealth { service, panic, serving: planned.serving, reals: reals.collect() }
            })
            .collect()
    }

    /// Health in short.
    pub(super) fn health_summary(&self, now: Instant) -> HealthSummary {
        let mut summary = HealthSummary {
            probes: self.care.health.probes().len(),
            down: self.care.down.iter().cloned().collect(),
            panic: self.care.panic.iter().cloned().collect(),
            ..HealthSummary::default()
        };
        let mut states: BTreeMap<State, usize> = BTreeMap::new();
        let Some(plan) = &self.care.plan else { return summary };
        for (planned, entry) in plan.services.iter().zip(&self.config.services) {
            for (fact, real) in planned.reals.iter().zip(&entry.service.reals) {
                *states.entry(fact.state).or_default() += 1;
                let troubled =
                    matches!(fact.state, State::Unknown | State::CannotCheck | State::Down);
                let key = RealKey::new(&entry.service.name, real);
                if let Some(known) = self.care.health.real(&key)
                    && troubled
                    && summary.troubles.len() < TROUBLES_MAX
                {
                    summary.troubles.push(Trouble {
                        service: planned.name.clone(),
                        real: real.name.clone(),
                        state: fact.state.name().to_owned(),
                        since_ms: now.since(known.since),
                        reason: known.reason.clone(),
                    });
                }
            }
        }
        summary.reals = states.into_iter().map(|(s, n)| (s.name().to_owned(), n)).collect();
        summary
    }
}

/// Notes whether `name` is in the set now; whether that is new.
fn change(set: &mut BTreeSet<String>, name: &str, now: bool) -> bool {
    if now { set.insert(name.to_owned()) } else { set.remove(name) }
}

fn check_health(tally: &Tally, now: Instant) -> CheckHealth {
    let last = tally.last.as_ref();
    let verdict = match tally.verdict() {
        Verdict::Up => "up",
        Verdict::Down => "down",
        Verdict::Unknown => "unknown",
    };
    CheckHealth {
        check: label(tally),
        verdict: verdict.to_owned(),
        outcome: last.map(|(_, r)| r.outcome.name().to_owned()),
        reason: last.and_then(|(_, r)| r.outcome.reason().map(str::to_owned)),
        age_ms: last.map(|(at, _)| now.since(*at)),
        took_us: last.map(|(_, r)| u64::try_from(r.took.as_micros()).unwrap_or(u64::MAX)),
        runs: tally.counts.runs,
        failed: tally.counts.failed,
        cannot: tally.counts.cannot,
        took_total_us: tally.counts.took_us,
    }
}
