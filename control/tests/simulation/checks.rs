//! What must hold, whatever happens.

use crate::network::{MS, Network, Time};

/// What is watched of a group.
#[derive(Clone, Debug, Default)]
struct Watch {
    answers: [bool; 2],
    both_since: Option<Time>,
    /// When both had answered last.
    both_until: Time,
    /// The node that began to answer last.
    owner: Option<usize>,
    owner_since: Time,
    /// Since when each has had a lease, if it has one.
    held_since: [Time; 2],
    /// The last ownership at each data plane, by life of control: life, epoch, since.
    epochs: [(u64, u64, Time); 2],
    changes: u64,
}

/// Everything that is watched.
#[derive(Debug)]
pub struct Checks {
    groups: Vec<Watch>,
    deadtime: Time,
    /// An operator has ordered a switchover whatever it costs.
    pub forced: bool,
    /// Longest time that both may answer and hear each other.
    together: Time,
    /// Longest time that both may answer at all; none: the network is being cut.
    pub strict: Option<Time>,
    hear_since: Option<Time>,
    /// When something last happened that may move groups.
    disturbed: Time,
    /// Nothing may move from then on.
    pub still_from: Option<Time>,
    pub dual: Time,
}

impl Checks {
    pub fn new(groups: usize, keepalive: Time, deadtime: Time, network: &Network) -> Self {
        let slack = 2 * network.delay.1 + 5 * MS;
        let lossy = network.loss > 0;
        let together = if lossy { 6 * deadtime } else { deadtime + keepalive } + slack;
        Self {
            groups: vec![Watch::default(); groups],
            deadtime,
            forced: false,
            together,
            strict: None,
            hear_since: None,
            disturbed: 0,
            still_from: None,
            dual: 0,
        }
    }

    pub fn owner(&self, group: usize) -> [bool; 2] {
        self.groups[group].answers
    }

    pub fn disturbed(&mut self, now: Time) {
        self.disturbed = now;
    }

    pub fn started(&mut self, node: usize) {
        for watch in &mut self.groups {
            watch.epochs[node].1 = 0;
        }
    }

    /// The next data plane announces whatever it gets.
    pub fn plane_died(&mut self, node: usize) {
        self.groups.iter_mut().for_each(|watch| watch.epochs[node] = (0, 0, 0));
    }

    /// A data plane has taken a lease: epochs of one life of control only grow.
    pub fn leased(&mut self, node: usize, life: u64, group: usize, epoch: u64, now: Time) {
        let last = &mut self.groups[group].epochs[node];
        if last.0 == life {
            assert!(epoch >= last.1, "I5: epoch {epoch} after {} on node {node}", last.1);
        }
        if last.1 != epoch || last.0 != life {
            *last = (life, epoch, now);
        }
    }

    /// Who answers now: never both for long.
    pub fn both(&mut self, group: usize, answers: [bool; 2], hear: bool, now: Time) {
        self.hear_since = hear.then(|| self.hear_since.unwrap_or(now));
        let hear_since = self.hear_since;
        let watch = &mut self.groups[group];
        if answers == [true; 2] {
            let since = *watch.both_since.get_or_insert(now);
            watch.both_until = now;
            if let Some(longest) = self.strict {
                let both = now - since;
                assert!(both <= longest, "I1: both answer for {group} for {}us", both / 1000);
            }
            if let Some(heard) = hear_since {
                let both = now - since.max(heard);
                let longest = self.together;
                assert!(
                    both <= longest,
                    "I1: both hear each other and answer for {}us",
                    both / 1000
                );
            }
        } else if let Some(since) = watch.both_since.take() {
            self.dual += now - since;
        }
    }

    /// Who has a lease now, and whether it may.
    pub fn look(
        &mut self,
        group: usize,
        answers: [bool; 2],
        synced: [bool; 2],
        epochs: [u64; 2],
        now: Time,
    ) {
        let hear_since = self.hear_since;
        let watch = &mut self.groups[group];
        let before = std::mem::replace(&mut watch.answers, answers);
        for node in [0, 1] {
            if !answers[node] || before[node] {
                continue;
            }
            // It begins to answer.
            let other = 1 - node;
            if watch.owner == Some(other) {
                assert!(
                    watch.epochs[node].2 >= watch.owner_since || epochs[node] == 0,
                    "I5: node {node} answers again with its old epoch {}: nothing is announced",
                    epochs[node]
                );
                watch.changes += 1;
                if let Some(from) = self.still_from {
                    assert!(now < from, "group {group} moves to node {node} without a reason");
                }
            }
            // The other could have kept it: this one was given it, or took it, without need.
            let calm = hear_since.is_some_and(|at| now - at > 3 * self.deadtime)
                && now - watch.held_since[other] > 3 * self.deadtime;
            if before[other] && calm && !self.forced {
                assert!(
                    synced[node],
                    "I4: node {node} took {group} from one it had not learned of"
                );
            }
            watch.held_since[node] = now;
            if watch.owner != Some(node) {
                (watch.owner, watch.owner_since) = (Some(node), now);
            }
        }
    }

    /// Everything has been well for a while: exactly one answers, and has said so since.
    pub fn settled(&self, now: Time) {
        for (group, watch) in self.groups.iter().enumerate() {
            assert!(
                watch.answers[0] != watch.answers[1],
                "I2: group {group} is answered by {:?}",
                watch.answers
            );
            let owner = usize::from(watch.answers[1]);
            let announced = watch.epochs[owner].2;
            assert!(
                announced >= watch.both_until,
                "I5: both answered until {}us, the last announcement was at {}us, now {}us",
                watch.both_until / 1000,
                announced / 1000,
                now / 1000
            );
        }
    }

    /// Times that groups have moved.
    pub fn changes(&self) -> u64 {
        self.groups.iter().map(|w| w.changes).sum()
    }
}
