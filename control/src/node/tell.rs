//! Telling: events for whoever follows them, results of tests, metrics.
//!
//! A follower of events asks again and again, and waits in the request ([`Verb::Events`]): whoever is
//! slow is told how many it missed, and costs nothing else.
//!
//! [`Verb::Events`]: crate::verbs::Verb::Events

use std::time::Duration;

use super::watch::{Follower, Tester};
use super::{ClientId, Node, Output};
use crate::metrics::{self, Format, View};
use crate::time::Instant;
use crate::verbs::{
    AlertStatus, AlertTestResult, AlertTested, Code, MetricsResult, MetricsStatus, SpareStatus,
};

/// How long a client waits for the results of tests.
const TEST_WAIT: Duration = Duration::from_secs(12);

impl Node {
    /// A client asks for events.
    pub(super) fn answer_events(
        &mut self,
        client: ClientId,
        (after, limit, wait_ms): (u64, u32, u32),
        max_age_ms: Option<u64>,
        now: Instant,
    ) {
        let mut page = self.watch.page(after, limit);
        if let Some(age) = max_age_ms {
            let oldest = self.watch.unix_ms(now).saturating_sub(age);
            let recent = self.watch.events.iter().find(|(_, unix_ms, _)| *unix_ms >= oldest);
            let first = recent.map_or(self.watch.number + 1, |(number, ..)| *number);
            if first > after + 1 {
                page = self.watch.page(first - 1, limit);
                page.missed = 0;
            }
        }
        if page.events.is_empty() && page.missed == 0 && wait_ms > 0 && self.stop_by.is_none() {
            let until = now.after(Duration::from_millis(u64::from(wait_ms)));
            self.watch.followers.push(Follower { client, after: page.next, limit, until });
        } else {
            self.succeed(client, Some(0), &page);
        }
    }

    pub(super) fn answer_followers(&mut self, now: Instant) {
        let (newest, stopping) = (self.watch.number, self.stop_by.is_some());
        let due = |f: &mut Follower| f.after < newest || f.until <= now || stopping;
        let due: Vec<_> = self.watch.followers.extract_if(.., due).collect();
        for follower in due {
            let page = self.watch.page(follower.after, follower.limit);
            self.succeed(follower.client, Some(0), &page);
        }
    }

    /// A client wants to know whether alerts arrive.
    pub(super) fn answer_alert_test(&mut self, client: ClientId, name: Option<&str>, now: Instant) {
        let (sender, unix_ms) = (self.sender(), self.watch.unix_ms(now));
        let deliveries = self.watch.alerts.test(name, &sender, unix_ms);
        if deliveries.is_empty() {
            let names: Vec<_> = self.watch.alerts.targets().into_iter().map(|t| t.name).collect();
            let message = match (name, names.is_empty()) {
                (_, true) => "the configuration in force has no targets of alerts".to_owned(),
                (Some(name), false) => {
                    format!("there is no target `{name}`: expected one of {}", names.join(", "))
                }
                (None, false) => "no target could be tried".to_owned(),
            };
            self.fail(client, Code::BadRequest, &message);
            return;
        }
        let waiting = deliveries.iter().map(|d| (d.id, d.target.name.clone())).collect();
        let until = now.after(TEST_WAIT);
        self.watch.testers.push(Tester { client, waiting, done: Vec::new(), until });
        self.out.extend(deliveries.into_iter().map(Output::Alert));
    }

    pub(super) fn answer_testers(&mut self, now: Instant) {
        let stopping = self.stop_by.is_some();
        let due = |t: &mut Tester| t.waiting.is_empty() || t.until <= now || stopping;
        let due: Vec<_> = self.watch.testers.extract_if(.., due).collect();
        for mut tester in due {
            for name in tester.waiting.into_values() {
                let error = Some("no result yet: see the log".to_owned());
                tester.done.push(AlertTested { name, delivered: false, error });
            }
            tester.done.sort_by(|a, b| a.name.cmp(&b.name));
            self.succeed(tester.client, Some(0), &AlertTestResult { targets: tester.done });
        }
    }

    /// A client asks for metrics.
    pub(super) fn answer_metrics(&mut self, client: ClientId, now: Instant) {
        let text = self.metrics_text(Format::Prometheus, now);
        self.succeed(client, Some(0), &MetricsResult { text });
    }

    /// Prometheus asks.
    pub(super) fn scraped(&mut self, client: ClientId, format: Format, now: Instant) {
        let text = self.metrics_text(format, now);
        self.out.push(Output::Reply(client, text));
    }

    fn metrics_text(&self, format: Format, now: Instant) -> String {
        let status = self.last_status.as_ref();
        let last_reload = self.reload.last.as_ref();
        let view = View {
            version: env!("CARGO_PKG_VERSION"),
            node: &self.name(),
            instance: &self.who.instance,
            uptime_ms: now.as_millis(),
            config_age_ms: now.since(self.config_since),
            reload_ok: last_reload.map(|(_, error)| error.is_none()),
            needs_restart: self.needs_restart.len(),
            connected: self.link.is_up(),
            applied: self.link.applied && self.candidate.is_none(),
            status: status.map(|(at, status)| (now.since(*at), &**status)),
            health: &self.service_health(now),
            probes: self.health_summary(now).probes,
            latency: &self.watch.latency,
            events: &self.watch.counts,
            alerts: &self.watch.alerts.targets(),
            spare: &self.watch.spare,
            pair: self.ha_metrics(),
        };
        metrics::render(&view, format)
    }

    pub(super) fn alert_status(&self, now: Instant) -> Vec<AlertStatus> {
        let targets = self.watch.alerts.targets().into_iter();
        targets
            .map(|t| AlertStatus {
                name: t.name,
                kind: t.kind.to_owned(),
                pending: t.pending,
                delivered: t.delivered,
                failures: t.failures,
                given_up: t.given_up,
                error: t.error,
                retry_ms: t.retry_at.map(|at| at.since(now)),
                delivered_age_ms: t.delivered_at.map(|at| now.since(at)),
            })
            .collect()
    }

    pub(super) fn spare_status(&self) -> Vec<SpareStatus> {
        let services = self.watch.spare.services();
        services
            .map(|(service, short, worst)| SpareStatus {
                service: service.to_owned(),
                short,
                text: worst.text(),
                permille: worst.permille,
            })
            .collect()
    }

    pub(super) fn metrics_status(&self) -> Option<MetricsStatus> {
        let listen = self.watch.listen?;
        Some(MetricsStatus { listen: listen.to_string(), error: self.watch.listen_error.clone() })
    }
}
