//! Recorded runs: what was measured, on what, how quietly, by which command. One JSON file a run,
//! kept in `perf/records/`; `xvip-perf report` draws from these files and from nothing else.
//!
//! A record is named after what it measures, so that a newer run of the same takes the place of an
//! older one; the repository's history keeps that.

mod bare;
mod failover;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use dataplane_api::service::Forwarding;
use pktgen::report::{Core, Direction, Latency, Limit};
use serde::{Deserialize, Serialize};

pub(crate) use bare::{BareRound, BareRow, Sample};
pub(crate) use failover::{
    BulkRound, Failover, FailoverRound, FailoverRow, ReplicationRound, Scenario, Spread,
};

use crate::machine::{Machine, Quiet};
use crate::packet_path::report::Row as CoreRow;
use crate::packet_path::traffic::Family;

/// Number of the JSON form; changes when a field goes or means something else.
pub(crate) const SCHEMA: u32 = 1;

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// Distinguishes records of one kind: lower-case letters, digits and `-`.
    pub(crate) name: String,
    /// When the run ended: RFC 3339, UTC, whole seconds.
    pub(crate) taken: String,
    /// The command that does it again.
    pub(crate) command: String,
    /// How the data plane sat on its interfaces, in words: `veth, native, copy`; `in memory`.
    pub(crate) mode: String,
    /// The machine, the kernel, the commit.
    pub(crate) machine: Machine,
    /// What else ran there.
    pub(crate) quiet: Quiet,
    /// What a reader has to know, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// The figures.
    pub(crate) measured: Measured,
}

/// Figures by kind of run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "rows", rename_all = "kebab-case")]
pub(crate) enum Measured {
    /// `xvip-perf core`: the packet path in memory.
    Core(Vec<CoreRow>),
    /// `xvip-perf scaling`: one axis changed, all else equal.
    Scaling(Vec<ScalingRow>),
    /// `xvip-perf target`: the real processes, held to what is promised.
    Target(Vec<TargetRow>),
    /// `xvip-perf bare`: beside a forwarder that looks at nothing.
    Bare(Vec<BareRow>),
    /// `xvip-perf peers`: beside what else a user would take.
    Peers(Vec<PeersRow>),
    /// `xvip-perf failover`: a pair of balancers, and what becomes of its clients.
    Failover(Failover),
}

impl Measured {
    /// The kind, as in the JSON and in names of files.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Core(_) => "core",
            Self::Scaling(_) => "scaling",
            Self::Target(_) => "target",
            Self::Bare(_) => "bare",
            Self::Peers(_) => "peers",
            Self::Failover(_) => "failover",
        }
    }
}

/// What a trial of `target` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Aim {
    /// The rate that is promised, without loss.
    Promise,
    /// A rate above what is promised.
    Beyond,
    /// Latency at half the promised rate.
    Latency,
    /// The highest rate without loss that a search found; `asked_pps` is that rate.
    Highest,
}

/// One trial of `target`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TargetRow {
    /// What it is for.
    pub(crate) aim: Aim,
    /// Forwarding method.
    pub(crate) method: Forwarding,
    /// Address family.
    pub(crate) family: Family,
    /// `tcp` or `udp`.
    pub(crate) protocol: String,
    /// Bytes of a frame on the wire, frame check sequence included; or `imix`.
    pub(crate) size: String,
    /// Connections asked for.
    pub(crate) connections: u64,
    /// Connections that carried packets both ways during the trial.
    pub(crate) alive: u64,
    /// Seconds of traffic.
    pub(crate) seconds: f64,
    /// Engine and mode of the generator: `xdp, native`.
    pub(crate) generator: String,
    /// Packets a second asked for, both ways together.
    pub(crate) asked_pps: f64,
    /// Bits a second on the wire asked for, both ways together.
    pub(crate) asked_bps: f64,
    /// Client to real server.
    pub(crate) requests: Direction,
    /// Real server to client.
    pub(crate) replies: Direction,
    /// Use of the machine's cores.
    pub(crate) cores: Vec<Core>,
    /// The core of the data plane.
    pub(crate) dataplane_core: u32,
    /// Bytes of memory for each connection the table has room for; none if not measured.
    pub(crate) bytes_per_connection: Option<f64>,
    /// Resident bytes of the data plane's process; none if not measured.
    pub(crate) resident_bytes: Option<u64>,
    /// Packets that no counter accounts for.
    pub(crate) unexplained: i64,
    /// Who set the limit.
    pub(crate) limit: Limit,
    /// Whether every criterion was met.
    pub(crate) passed: bool,
    /// Those that were not, in words.
    pub(crate) failures: Vec<String>,
    /// Whether others used its cores meanwhile.
    #[serde(default)]
    pub(crate) contended: bool,
    /// Latency of the same requests through a forwarder that looks at nothing; none if not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bare_requests: Option<Latency>,
    /// The same of replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bare_replies: Option<Latency>,
    /// Latency of the same requests from one end of a veth pair to the other; none if not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cable_requests: Option<Latency>,
    /// The same of replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cable_replies: Option<Latency>,
    /// How long threads that do nothing but look at the clock were kept from their cores beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) stalls: Vec<Stall>,
}

/// How long a thread that did nothing but look at the clock was kept from its core; times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stall {
    /// The core.
    pub(crate) core: u32,
    /// How long it was watched.
    pub(crate) seconds: f64,
    /// Share of that in which something else had the core.
    pub(crate) away: f64,
    /// How often.
    pub(crate) times: u64,
    /// What 99 % of packets that come evenly over the time would not have to wait longer than.
    pub(crate) p99: u64,
    /// The same of 99.9 %.
    pub(crate) p999: u64,
    /// Longest.
    pub(crate) longest: u64,
}

/// One system under one workload, in the rounds of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeersRow {
    /// The workload, in words: it heads a chart.
    pub(crate) workload: String,
    /// What is counted, as an axis says it: `packets/s`, `connections/s`, `µs (99th percentile)`.
    pub(crate) unit: String,
    /// Whether more is better.
    pub(crate) higher_is_better: bool,
    /// The system: `xvip nat`, `nftables`, `HAProxy`. Those of xvip begin with `xvip`; those that
    /// begin with `routing` balance nothing: what all others come on top of.
    pub(crate) system: String,
    /// Its figure in each round, in the order in which they were run.
    pub(crate) rounds: Vec<f64>,
}

/// What is changed in a series.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Axis {
    /// Connections alive in the table.
    Connections,
    /// Services, the connections shared out among them.
    Services,
    /// Real servers of the one service.
    Reals,
    /// Workers that share one table, each on a core of its own.
    Workers,
}

/// Where a series was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// The packet path in memory.
    Memory,
    /// The real processes, over veth.
    Veth,
}

/// One point of a series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScalingRow {
    /// Where.
    pub(crate) place: Place,
    /// What is changed.
    pub(crate) axis: Axis,
    /// To how many.
    pub(crate) value: u64,
    /// Forwarding method.
    pub(crate) method: Forwarding,
    /// Address family.
    pub(crate) family: Family,
    /// Connections alive.
    pub(crate) connections: u64,
    /// Million packets a second, of all workers together; over veth, what came out when more was
    /// offered than could be forwarded.
    pub(crate) mpps: f64,
    /// Nanoseconds a packet of one worker, median; none over veth.
    pub(crate) ns: Option<f64>,
    /// The same of the fastest tenth, which others disturb less; none over veth.
    pub(crate) best_ns: Option<f64>,
    /// A bare lookup in the same table, nanoseconds, median; none over veth.
    pub(crate) lookup_ns: Option<f64>,
    /// New connections a second, one worker; none if not measured.
    pub(crate) opened_per_second: Option<f64>,
    /// Bytes of memory for each connection the table has room for; none if not measured.
    pub(crate) bytes_per_connection: Option<f64>,
}

impl Record {
    /// A record of a run that ends now. `name` becomes part of the file's name: anything but
    /// letters and digits turns into `-`.
    pub(crate) fn new(
        name: &str,
        mode: impl Into<String>,
        machine: Machine,
        quiet: Quiet,
        measured: Measured,
    ) -> Self {
        Self {
            schema: SCHEMA,
            name: plain(name),
            taken: now(),
            command: command(std::env::args()),
            mode: mode.into(),
            machine,
            quiet,
            notes: Vec::new(),
            measured,
        }
    }

    /// Whether others used the cores so much that its figures are no record. Trials of `target` say so
    /// one by one.
    pub(crate) fn contended(&self) -> bool {
        match &self.measured {
            Measured::Target(rows) if !rows.is_empty() => rows.iter().all(|r| r.contended),
            _ => self.quiet.contended,
        }
    }

    /// Writes `<dir>/<kind>-<name>.json`, in place of an older record of that name; makes the
    /// directory if it is not there. Returns the path.
    ///
    /// # Errors
    /// If the file cannot be written; an older one is then left as it was.
    pub(crate) fn save(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(format!("{}-{}.json", self.measured.kind(), self.name));
        let mut text = serde_json::to_string_pretty(self).context("record as JSON")?;
        text.push('\n');
        let part = path.with_extension("json.part");
        fs::write(&part, text).with_context(|| format!("cannot write {}", part.display()))?;
        fs::rename(&part, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// The records of a directory, by name of file. A directory that is not there has none.
///
/// # Errors
/// If a `.json` file in it cannot be read or is not a record of this schema.
pub(crate) fn load(dir: &Path) -> anyhow::Result<Vec<Record>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", dir.display()))?.path();
        if path.extension().is_some_and(|e| e == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// One record.
fn read(path: &Path) -> anyhow::Result<Record> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{shown} is not JSON"))?;
    let schema = value.get("schema").and_then(serde_json::Value::as_u64);
    ensure!(
        schema == Some(u64::from(SCHEMA)),
        "{shown}: `schema` is {}, this program reads {SCHEMA}: record the run again",
        schema.map_or_else(|| "missing".to_owned(), |s| s.to_string())
    );
    serde_json::from_value(value).with_context(|| format!("{shown} is not a record"))
}

fn plain(name: &str) -> String {
    let letters = name.chars().map(|c| c.to_ascii_lowercase());
    let words: String = letters
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    words.split('-').filter(|w| !w.is_empty()).collect::<Vec<_>>().join("-")
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// The command without the directory of the program and without where the record went.
fn command(mut arguments: impl Iterator<Item = String>) -> String {
    let program = arguments.next().unwrap_or_default();
    let program = Path::new(&program).file_name().map(|n| n.to_string_lossy().into_owned());
    let mut words = vec![program.unwrap_or_else(|| "xvip-perf".to_owned())];
    while let Some(word) = arguments.next() {
        if word == "--record" {
            arguments.next();
        } else if !word.starts_with("--record=") {
            words.push(word);
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let row = PeersRow {
            workload: "64-byte packets".into(),
            unit: "packets/s".into(),
            higher_is_better: true,
            system: "xvip nat".into(),
            rounds: vec![1e6, 1.1e6],
        };
        let measured = Measured::Peers(vec![row]);
        Record::new("Packets / IPv4", "veth", Machine::here(), Quiet::default(), measured)
    }

    #[test]
    fn a_saved_record_is_loaded_as_it_was_and_replaced_by_the_next_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("records");
        assert_eq!(load(&inner).unwrap(), []);
        let mut record = record();
        let path = record.save(&inner).unwrap();
        assert_eq!(path.file_name().unwrap(), "peers-packets-ipv4.json");
        assert_eq!(load(&inner).unwrap(), [record.clone()]);
        record.notes.push("again".into());
        record.save(&inner).unwrap();
        assert_eq!(load(&inner).unwrap(), [record]);
    }

    #[test]
    fn a_file_that_is_no_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("core-x.json");
        for (text, expected) in
            [("{", "not JSON"), ("{}", "missing"), (r#"{"schema":9}"#, "`schema` is 9")]
        {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", load(dir.path()).unwrap_err());
            assert!(error.contains("core-x.json") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_command_is_kept_without_places_of_this_machine() {
        let words = ["/a/b/xvip-perf", "target", "--record", "/c", "--seconds", "3", "--record=/d"];
        assert_eq!(command(words.map(String::from).into_iter()), "xvip-perf target --seconds 3");
    }

    #[test]
    fn times_are_whole_seconds_of_utc() {
        let now = now();
        assert!(now.len() == 20 && now.ends_with('Z'), "{now}");
    }
}
