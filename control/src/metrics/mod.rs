//! Everything that is measured, as text for Prometheus. Pure: what is known goes in, text comes out.
//!
//! [`ALL`] is the only list of metrics; `docs/operating.md` and the dashboard are held to it.

mod ha;
mod latency;
mod list;
mod text;

use std::collections::BTreeMap;

use dataplane_api::message::{InterfaceStatus, RealStatus, ServiceStatus, Status};

use crate::alert::TargetState;
use crate::event::Kind;
use crate::health::State;
use crate::spare::Spare;
use crate::verbs::ServiceHealth;
pub use ha::Pair;
use latency::BOUNDS_US;
pub use latency::Latency;
use list as m;
pub use list::ALL;
use text::Writer;
pub use text::{Format, Metric, Type};

/// What is known at one moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Version of the program.
    pub version: &'a str,
    /// Name of the node.
    pub node: &'a str,
    /// Name of the instance.
    pub instance: &'a str,
    /// Milliseconds since control started.
    pub uptime_ms: u64,
    /// Milliseconds since the configuration in force was accepted.
    pub config_age_ms: u64,
    /// Whether the last reload went well; `None` if there was none.
    pub reload_ok: Option<bool>,
    /// Settings that wait for a restart of the data plane.
    pub needs_restart: usize,
    /// Whether the data plane is connected.
    pub connected: bool,
    /// Whether it runs the configuration in force.
    pub applied: bool,
    /// What it last said of itself, and how many milliseconds ago.
    pub status: Option<(u64, &'a Status)>,
    /// What the checks say of the services in force.
    pub health: &'a [ServiceHealth],
    /// Distinct checks that are run.
    pub probes: usize,
    /// How long they take.
    pub latency: &'a Latency,
    /// What has happened since start.
    pub events: &'a BTreeMap<Kind, u64>,
    /// Who is told.
    pub alerts: &'a [TargetState],
    /// What the failure of one real server would do.
    pub spare: &'a Spare,
    /// The pair, if this node is one of two.
    pub pair: Option<Pair<'a>>,
}

/// All of it as text.
#[must_use]
pub fn render(view: &View<'_>, format: Format) -> String {
    let mut w = Writer::new(format);
    control(&mut w, view);
    alerts(&mut w, view);
    checks(&mut w, view);
    health(&mut w, view);
    if let Some((age_ms, status)) = view.status {
        data_plane(&mut w, age_ms, status);
        interfaces(&mut w, &status.interfaces);
        workers(&mut w, status);
        services(&mut w, &status.services);
    }
    if let Some(pair) = &view.pair {
        ha::render(&mut w, pair);
    }
    w.finish()
}

/// Counters beyond 2^53 lose their last digits, as everything in Prometheus does.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
const fn f(n: u64) -> f64 {
    n as f64
}

fn seconds(ms: u64) -> f64 {
    f(ms) / 1000.0
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// A metric without labels.
fn one(w: &mut Writer, metric: &Metric, value: f64) {
    w.metric(metric, [(Vec::new(), value)]);
}

fn control(w: &mut Writer, v: &View<'_>) {
    w.metric(&m::BUILD_INFO, [(vec![v.version, v.node, v.instance], 1.0)]);
    one(w, &m::CONTROL_UPTIME, seconds(v.uptime_ms));
    one(w, &m::CONFIG_AGE, seconds(v.config_age_ms));
    one(w, &m::CONFIG_RELOAD_OK, flag(v.reload_ok.unwrap_or(true)));
    one(w, &m::CONFIG_NEEDS_RESTART, f(v.needs_restart as u64));
    one(w, &m::DATA_PLANE_CONNECTED, flag(v.connected));
    one(w, &m::DATA_PLANE_APPLIED, flag(v.applied));
    let events = Kind::ALL.iter().map(|kind| {
        let count = v.events.get(kind).copied().unwrap_or(0);
        (vec![kind.name(), kind.severity().name()], f(count))
    });
    w.metric(&m::EVENTS, events);
}

fn alerts(w: &mut Writer, v: &View<'_>) {
    let mut all = |metric: &Metric, value: fn(&TargetState) -> u64| {
        w.metric(metric, v.alerts.iter().map(|t| (vec![t.name.as_str(), t.kind], f(value(t)))));
    };
    all(&m::ALERTS_PENDING, |t| t.pending);
    all(&m::ALERTS_DELIVERED, |t| t.delivered);
    all(&m::ALERTS_FAILED, |t| t.failures);
    all(&m::ALERTS_GIVEN_UP, |t| t.given_up);
}

fn checks(w: &mut Writer, v: &View<'_>) {
    one(w, &m::PROBES, f(v.probes as u64));
    let bounds = BOUNDS_US.map(|us| f(us) / 1e6);
    let types = v.latency.types.iter();
    let types = types.map(|(kind, b)| (vec![*kind], &b.counts[..], f(b.total_us) / 1e6));
    w.histogram(&m::CHECK_DURATION, &bounds, types);
    let each = || {
        v.health.iter().flat_map(|s| {
            s.reals.iter().flat_map(move |r| {
                r.checks.iter().map(move |c| {
                    let labels = vec![&*s.service, &*r.name, &*r.address, &*c.check];
                    (labels, c)
                })
            })
        })
    };
    let runs = each().flat_map(|(labels, c)| {
        let passed = c.runs.saturating_sub(c.failed).saturating_sub(c.cannot);
        [("up", passed), ("down", c.failed), ("cannot-check", c.cannot)]
            .map(|(outcome, n)| (with(&labels, outcome), f(n)))
    });
    w.metric(&m::CHECK_RUNS, runs);
    w.metric(&m::CHECK_SECONDS, each().map(|(labels, c)| (labels, f(c.took_total_us) / 1e6)));
}

/// One more label.
fn with<'a>(labels: &[&'a str], last: &'a str) -> Vec<&'a str> {
    [labels, &[last]].concat()
}

fn health(w: &mut Writer, v: &View<'_>) {
    let services = || v.health.iter();
    w.metric(&m::SERVICE_SERVING, services().map(|s| (vec![&*s.service], f(s.serving as u64))));
    w.metric(&m::SERVICE_PANIC, services().map(|s| (vec![&*s.service], flag(s.panic))));
    let states = services().flat_map(|s| {
        State::ALL.map(|state| {
            let count = s.reals.iter().filter(|r| r.state == state.name()).count();
            (vec![&*s.service, state.name()], f(count as u64))
        })
    });
    w.metric(&m::SERVICE_REALS, states);
    let reals = || {
        services().flat_map(|s| {
            s.reals.iter().map(move |r| (vec![&*s.service, &*r.name, &*r.address], r))
        })
    };
    let up = |state: &str| state == State::Up.name() || state == State::SlowStart.name();
    w.metric(&m::REAL_UP, reals().map(|(labels, r)| (labels, flag(up(&r.state)))));
    w.metric(&m::REAL_SHARE, reals().map(|(l, r)| (l, f64::from(r.percent) / 100.0)));
    w.metric(&m::REAL_STATE_AGE, reals().map(|(l, r)| (l, seconds(r.since_ms))));
    let spare = || v.spare.services();
    let ratio = spare().map(|(s, _, worst)| (vec![s], f(worst.permille) / 1000.0));
    w.metric(&m::SPARE_RATIO, ratio);
    w.metric(&m::SPARE_SHORT, spare().map(|(s, short, _)| (vec![s], flag(short))));
}

fn data_plane(w: &mut Writer, age_ms: u64, s: &Status) {
    one(w, &m::STATUS_AGE, seconds(age_ms));
    one(w, &m::DATA_PLANE_UPTIME, seconds(s.uptime_ms));
    one(w, &m::LEASE, seconds(s.lease_ms.saturating_sub(age_ms)));
    one(w, &m::WARNINGS, f(s.warnings.len() as u64));
    one(w, &m::TABLE_CAPACITY, f(s.table.capacity));
    one(w, &m::TABLE_USED, f(s.table.used));
    one(w, &m::TABLE_HALF_OPEN, f(s.table.half_open));
    one(w, &m::TABLE_HALF_OPEN_MAX, f(s.table.half_open_max));
    one(w, &m::TABLE_TEMPLATES, f(s.table.templates));
    one(w, &m::TABLE_BYTES, f(s.table.bytes));
    let counters = crate::verbs::counters(s);
    w.metric(&m::DROPS, counters.drops.iter().map(|c| (vec![&*c.name], f(c.value))));
    w.metric(&m::PACKET_EVENTS, counters.events.iter().map(|c| (vec![&*c.name], f(c.value))));
}

fn interfaces(w: &mut Writer, interfaces: &[InterfaceStatus]) {
    let info =
        interfaces.iter().map(|i| (vec![&*i.name, &*i.driver, &*i.mode, &*i.copy, &*i.mac], 1.0));
    w.metric(&m::INTERFACE_INFO, info);
    let mut all = |metric: &Metric, value: fn(&InterfaceStatus) -> f64| {
        w.metric(metric, interfaces.iter().map(|i| (vec![i.name.as_str()], value(i))));
    };
    all(&m::INTERFACE_UP, |i| flag(i.attached && i.link == "up"));
    all(&m::INTERFACE_QUEUES, |i| f64::from(i.queues));
    let mut both = |metric: &Metric, value: fn(&InterfaceStatus) -> [u64; 2]| {
        let samples = interfaces.iter().flat_map(|i| {
            let [received, sent] = value(i);
            [(vec![&*i.name, "receive"], f(received)), (vec![&*i.name, "transmit"], f(sent))]
        });
        w.metric(metric, samples);
    };
    both(&m::INTERFACE_PACKETS, |i| [i.rx_packets, i.tx_packets]);
    both(&m::INTERFACE_BYTES, |i| [i.rx_bytes, i.tx_bytes]);
    let drops = interfaces.iter().flat_map(|i| {
        i.kernel_drops.iter().map(|(reason, n)| (vec![&*i.name, reason.as_str()], f(*n)))
    });
    w.metric(&m::INTERFACE_KERNEL_DROPS, drops);
}

fn workers(w: &mut Writer, s: &Status) {
    let names: Vec<_> = (0..s.workers.len()).map(|n| n.to_string()).collect();
    let workers =
        || names.iter().zip(&s.workers).map(|(name, worker)| (vec![name.as_str()], worker));
    w.metric(&m::WORKER_POLLS, workers().map(|(l, k)| (l, f(k.polls))));
    w.metric(&m::WORKER_BUSY_POLLS, workers().map(|(l, k)| (l, f(k.busy_polls))));
    w.metric(&m::WORKER_CORE, workers().map(|(l, k)| (l, f64::from(k.core))));
    w.metric(&m::WORKER_PINNED, workers().map(|(l, k)| (l, flag(k.pinned))));
}

fn services(w: &mut Writer, services: &[ServiceStatus]) {
    let listens: Vec<_> = services.iter().map(|s| s.listen.join(" ")).collect();
    let info = services.iter().zip(&listens).map(|(s, listen)| {
        (vec![&*s.name, &*s.protocol, listen.as_str(), &*s.forwarding, &*s.scheduler], 1.0)
    });
    w.metric(&m::SERVICE_INFO, info);
    let reals = || {
        services
            .iter()
            .flat_map(|s| s.reals.iter().map(move |r| (vec![&*s.name, &*r.name, &*r.address], r)))
    };
    let mut all = |metric: &Metric, value: fn(&RealStatus) -> f64| {
        w.metric(metric, reals().map(|(labels, r)| (labels, value(r))));
    };
    all(&m::REAL_WEIGHT, |r| f64::from(r.weight));
    all(&m::REAL_NEXT_HOP, |r| flag(r.next_hop == "resolved"));
    all(&m::REAL_CONNS_OPENED, |r| f(r.opened));
    all(&m::REAL_TEMPLATES, |r| f(r.templates));
    all(&m::REAL_SYN_UNANSWERED, |r| f(r.syn_unanswered));
    all(&m::REAL_RESETS, |r| f(r.resets));
    let mut both =
        |metric: &Metric, names: [&'static str; 2], value: fn(&RealStatus) -> [u64; 2]| {
            let samples = reals().flat_map(|(labels, r)| {
                let [first, second] = value(r);
                [(names[0], first), (names[1], second)]
                    .map(|(name, n)| ([labels.as_slice(), &[name]].concat(), f(n)))
            });
            w.metric(metric, samples);
        };
    both(&m::REAL_CONNS, ["active", "inactive"], |r| [r.active, r.inactive]);
    both(&m::REAL_PACKETS, ["in", "out"], |r| [r.packets_in, r.packets_out]);
    both(&m::REAL_BYTES, ["in", "out"], |r| [r.bytes_in, r.bytes_out]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::{CheckHealth, RealHealth};

    fn status() -> Status {
        let real = RealStatus {
            name: "a\"b".to_owned(),
            address: "10.0.1.1:80".to_owned(),
            active: 7,
            ..RealStatus::default()
        };
        let reals = vec![real.clone(), real];
        let service = ServiceStatus { name: "web".to_owned(), reals, ..ServiceStatus::default() };
        let mut interface = InterfaceStatus { name: "eth0".to_owned(), ..Default::default() };
        interface.kernel_drops.insert("rx_ring_full".to_owned(), 3);
        Status {
            services: vec![service],
            interfaces: vec![interface],
            workers: vec![Default::default()],
            lease_ms: 3000,
            ..Status::default()
        }
    }

    fn check() -> CheckHealth {
        CheckHealth {
            check: "tcp 10.0.1.1:80".to_owned(),
            verdict: "up".to_owned(),
            outcome: None,
            reason: None,
            age_ms: None,
            took_us: None,
            runs: 10,
            failed: 3,
            cannot: 1,
            took_total_us: 2_500_000,
        }
    }

    fn paired() -> crate::failover::view::View {
        use crate::failover::view::{GroupView, PathView, PeerView, View};
        let (node, peer) = ("lb1".to_owned(), "lb2".to_owned());
        let role = "active".to_owned();
        View {
            node,
            groups: vec![GroupView { name: "web".to_owned(), role, ..GroupView::default() }],
            peer: PeerView { node: peer, state: "late".to_owned(), ..PeerView::default() },
            paths: vec![PathView {
                name: "p".to_owned(),
                gap_p99_us: 52_000,
                ..PathView::default()
            }],
            ..View::default()
        }
    }

    fn text(format: Format) -> String {
        let real = RealHealth {
            name: "a".to_owned(),
            address: "10.0.1.1:80".to_owned(),
            state: "slow-start".to_owned(),
            since_ms: 1500,
            reason: String::new(),
            percent: 30,
            flaps: 0,
            checks: vec![check()],
        };
        let (service, reals) = ("web".to_owned(), vec![real]);
        let health = [ServiceHealth { service, panic: false, serving: 1, reals }];
        let mut latency = Latency::default();
        latency.record("tcp", std::time::Duration::from_millis(3));
        let mut spare = Spare::default();
        let load = crate::spare::Load {
            weight: 1,
            active: 9,
            total: 9,
            upper: Some(10),
            ..Default::default()
        };
        spare.see("web", &[load.clone(), load]);
        let target = TargetState {
            name: "ops".to_owned(),
            kind: "mail",
            pending: 2,
            delivered: 1,
            failures: 0,
            given_up: 0,
            error: None,
            retry_at: None,
            delivered_at: None,
        };
        let view = View {
            version: "1",
            node: "lb1",
            instance: "xvip",
            uptime_ms: 1000,
            config_age_ms: 500,
            reload_ok: None,
            needs_restart: 0,
            connected: true,
            applied: true,
            status: Some((400, &status())),
            health: &health,
            probes: 1,
            latency: &latency,
            events: &BTreeMap::from([(Kind::RealDown, 4)]),
            alerts: &[target],
            spare: &spare,
            pair: Some(Pair {
                view: &paired(),
                late_max_us: 1500,
                replication: Some(&crate::replicate::View::default()),
            }),
        };
        render(&view, format)
    }

    #[test]
    fn every_metric_is_there_and_no_sample_twice() {
        let text = text(Format::Prometheus);
        for metric in ALL {
            assert!(text.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
        }
        let mut samples = std::collections::BTreeSet::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            assert!(samples.insert(line.rsplit_once(' ').unwrap().0), "{line}");
        }
        assert_eq!(text.matches("# TYPE ").count(), ALL.len());
    }

    #[test]
    fn numbers_are_in_base_units_and_names_say_which() {
        let text = text(Format::Prometheus);
        for line in [
            "xvip_events_total{kind=\"real_down\",severity=\"warning\"} 4",
            "xvip_lease_remaining_seconds 2.6",
            "xvip_check_runs_total{service=\"web\",real=\"a\",address=\"10.0.1.1:80\",\
             check=\"tcp 10.0.1.1:80\",outcome=\"up\"} 6",
            "xvip_real_connections{service=\"web\",real=\"a\\\"b\",address=\"10.0.1.1:80\",\
             state=\"active\"} 7",
            "xvip_interface_kernel_drops_total{interface=\"eth0\",reason=\"rx_ring_full\"} 3",
            "xvip_service_failure_load_ratio{service=\"web\"} 1.8",
            "xvip_ha_role{group=\"web\",role=\"active\"} 1",
            "xvip_ha_gap_seconds{path=\"p\",quantile=\"0.99\"} 0.052",
            "xvip_ha_peer_up 1",
            "xvip_alerts_pending{target=\"ops\",type=\"mail\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        for metric in ALL {
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Type::Counter);
            assert!(metric.name.starts_with("xvip_") && !metric.help.is_empty());
        }
    }
}
