//! A data plane as replication sees it: a table of keys, with the passes and digests of the real
//! one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use dataplane_api::VERSION;
use dataplane_api::record::{Operation, Record};
use dataplane_api::sync::{ALL, BUCKETS, DIGEST_PART, Frame, RECORDS_MAX, Standing, Stream};

/// Changes that wait; more are lost.
const CHANGES_MAX: usize = 2000;
/// Frames that wait for control above which only answers are added.
const OUT_MAX: usize = 300;

/// The record of a key; the version is told by `origin`.
pub(crate) fn record(key: u32, version: u32, operation: Operation) -> Record {
    let vip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
    Record {
        operation,
        state: 4,
        synack: true,
        protocol: 6,
        mac: [2; 6],
        segment: 1,
        service: 2,
        client: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + key)),
        vip,
        real: vip,
        client_port: 1000,
        vip_port: 80,
        real_port: 80,
        local: None,
        origin: version,
    }
}

fn key_of(record: &Record) -> u32 {
    match record.client {
        IpAddr::V4(v4) => u32::from(v4) - 0x0a00_0000,
        IpAddr::V6(_) => panic!("not one of ours"),
    }
}

fn print(key: u32) -> u64 {
    (u64::from(key) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn bucket(key: u32) -> u16 {
    (print(key) >> 40) as u16 % BUCKETS as u16
}

/// A pass that is being made.
struct Pass {
    number: u16,
    buckets: Option<BTreeSet<u16>>,
    keys: VecDeque<u32>,
    sent: u32,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) own: BTreeMap<u32, u32>,
    pub(crate) imported: BTreeMap<u32, u32>,
    /// Highest version applied of each key, ever: what comes later must not be older.
    newest: BTreeMap<u32, u32>,
    versions: u32,
    active: bool,
    changes: VecDeque<(u64, Record)>,
    sent: BTreeSet<u32>,
    pass: Option<Pass>,
    next: Option<(u16, Option<BTreeSet<u16>>)>,
    last_order: u16,
    digest: bool,
    refreshed: BTreeMap<u16, BTreeSet<u32>>,
    pub(crate) out: VecDeque<Frame>,
    number: u64,
    applied: u64,
    said: u64,
    pub(crate) overflows: u32,
    passes: u32,
    pub(crate) keep: bool,
    pub(crate) imports: u64,
}

impl Table {
    /// Control has connected.
    pub(crate) fn connected(&mut self) {
        self.disconnected();
        self.out.push_back(Frame::Hello { version: VERSION });
    }

    /// Control has gone, or this is a new process that has adopted the table.
    pub(crate) fn disconnected(&mut self) {
        self.stop();
        self.out.clear();
        self.refreshed.clear();
        (self.number, self.applied, self.said, self.keep) = (0, 0, 0, false);
    }

    fn stop(&mut self) {
        self.active = false;
        self.changes.clear();
        self.sent.clear();
        (self.pass, self.next, self.digest, self.passes) = (None, None, false, 0);
    }

    /// A connection is opened or changes.
    pub(crate) fn upsert(&mut self, key: u32, now: u64) {
        self.versions += 1;
        self.own.insert(key, self.versions);
        self.change(record(key, self.versions, Operation::Upsert), now);
    }

    /// It ends.
    pub(crate) fn remove(&mut self, key: u32, now: u64) {
        self.versions += 1;
        if self.own.remove(&key).is_some() {
            self.change(record(key, self.versions, Operation::Remove), now);
        }
    }

    fn change(&mut self, record: Record, now: u64) {
        if !self.active {
            return;
        }
        if self.changes.len() < CHANGES_MAX {
            self.changes.push_back((now, record));
        } else {
            self.overflows += 1;
            self.next = Some((self.last_order, None));
        }
    }

    /// A frame of control.
    pub(crate) fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Hello { version } => assert_eq!(version, VERSION),
            Frame::Start { pass } => {
                self.stop();
                (self.active, self.last_order, self.next) = (true, pass, Some((pass, None)));
            }
            Frame::Stop => self.stop(),
            Frame::Resend { pass, buckets } => {
                self.last_order = pass;
                if self.next.is_none() && self.active {
                    self.next = Some((pass, Some(buckets.into_iter().collect())));
                }
            }
            Frame::Digest => self.digest = self.active,
            Frame::Keep(keep) => self.keep = keep,
            Frame::Stream { number, item } => {
                assert_eq!(number, self.applied + 1, "frames of the stream come in order, once");
                self.applied = number;
                self.import(item);
            }
            Frame::Applied { .. } | Frame::Differs { .. } | Frame::Standing(_) => {
                panic!("not ours")
            }
        }
    }

    fn import(&mut self, item: Stream) {
        match item {
            Stream::Changes { records, .. } => records.iter().for_each(|r| self.import_one(r)),
            Stream::Begin { bucket, .. } => {
                self.refreshed.insert(bucket, BTreeSet::new());
            }
            Stream::End { bucket: of, .. } => {
                if let Some(refreshed) = self.refreshed.remove(&of) {
                    let kept =
                        |key: &u32| of != ALL && bucket(*key) != of || refreshed.contains(key);
                    self.imported.retain(|key, _| kept(key));
                }
            }
            Stream::Digest { first, sums } => {
                let mine = sums_of(self.imported.keys());
                let differing = (first..).zip(&sums).filter(|(b, s)| mine[usize::from(*b)] != **s);
                let buckets = differing.map(|(b, _)| b).collect();
                self.out.push_back(Frame::Differs { first, buckets });
            }
        }
    }

    fn import_one(&mut self, record: &Record) {
        self.imports += 1;
        let key = key_of(record);
        let newest = self.newest.entry(key).or_default();
        assert!(record.origin >= *newest, "key {key}: {} after {newest}", record.origin);
        *newest = record.origin;
        for (of, refreshed) in &mut self.refreshed {
            if *of == ALL || *of == bucket(key) {
                refreshed.insert(key);
            }
        }
        match record.operation {
            Operation::Upsert => self.imported.insert(key, record.origin),
            Operation::Remove => self.imported.remove(&key),
        };
    }

    /// A bounded piece of what there is to say.
    pub(crate) fn round(&mut self, now: u64) {
        if self.applied > self.said {
            self.said = self.applied;
            self.out.push_back(Frame::Applied { number: self.applied });
        }
        while self.active && self.out.len() < OUT_MAX && self.step(now) {}
    }

    fn step(&mut self, now: u64) -> bool {
        if !self.changes.is_empty() {
            let count = self.changes.len().min(RECORDS_MAX);
            let since_ns = self.changes[0].0;
            let records: Vec<_> = self.changes.drain(..count).map(|(_, r)| r).collect();
            for record in &records {
                match record.operation {
                    Operation::Upsert => self.sent.insert(key_of(record)),
                    Operation::Remove => self.sent.remove(&key_of(record)),
                };
            }
            self.say(Stream::Changes { since_ns, records });
            return true;
        }
        if let Some(pass) = self.pass.take() {
            self.go_on(pass, now);
            return true;
        }
        if let Some((number, buckets)) = self.next.take() {
            for bucket in begun(&buckets) {
                self.say(Stream::Begin { pass: number, bucket });
            }
            let wanted = |key: &&u32| buckets.as_ref().is_none_or(|b| b.contains(&bucket(**key)));
            let keys = self.own.keys().filter(wanted).copied().collect();
            self.pass = Some(Pass { number, buckets, keys, sent: 0 });
            return true;
        }
        if std::mem::take(&mut self.digest) {
            let sums = sums_of(self.sent.iter());
            for first in [0, DIGEST_PART] {
                let part = sums[first..first + DIGEST_PART].to_vec();
                self.say(Stream::Digest { first: first as u16, sums: part });
            }
            return true;
        }
        false
    }

    fn go_on(&mut self, mut pass: Pass, now: u64) {
        let count = pass.keys.len().min(RECORDS_MAX);
        let keys: Vec<_> = pass.keys.drain(..count).collect();
        let there =
            keys.iter().filter_map(|k| Some(record(*k, *self.own.get(k)?, Operation::Upsert)));
        let records: Vec<_> = there.collect();
        self.sent.extend(records.iter().map(key_of));
        pass.sent += records.len() as u32;
        if !records.is_empty() {
            self.say(Stream::Changes { since_ns: now, records });
        }
        if !pass.keys.is_empty() {
            self.pass = Some(pass);
            return;
        }
        for bucket in begun(&pass.buckets) {
            self.say(Stream::End { pass: pass.number, bucket, sent: pass.sent, owned: vec![] });
        }
        let in_pass = |key: &u32| pass.buckets.as_ref().is_none_or(|b| b.contains(&bucket(*key)));
        self.sent.retain(|key| self.own.contains_key(key) || !in_pass(key));
        self.passes += u32::from(pass.buckets.is_none());
        self.stand(now);
    }

    fn say(&mut self, item: Stream) {
        self.number += 1;
        self.out.push_back(Frame::Stream { number: self.number, item });
    }

    /// The report.
    pub(crate) fn stand(&mut self, now_ns: u64) {
        self.out.push_back(Frame::Standing(Standing {
            now_ns,
            worth: self.own.len() as u32,
            sent: self.sent.len() as u32,
            waiting: self.changes.len() as u32,
            imported: self.imported.len() as u32,
            overflows: self.overflows,
            passes: self.passes,
            ..Standing::default()
        }));
    }
}

fn begun(buckets: &Option<BTreeSet<u16>>) -> Vec<u16> {
    buckets.as_ref().map_or(vec![ALL], |b| b.iter().copied().collect())
}

fn sums_of<'a>(keys: impl Iterator<Item = &'a u32>) -> [u64; BUCKETS] {
    let mut sums = [0; BUCKETS];
    for key in keys {
        sums[usize::from(bucket(*key))] ^= print(*key);
    }
    sums
}
