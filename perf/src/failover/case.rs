//! What is tried: who balances, what happens to it, for how long.

use std::time::Duration;

use clap::ValueEnum;

use super::keepalived::Advert;
use crate::lab::pair::config::Pair;
use crate::record::Scenario;

/// Traffic before anything happens: every connection has carried packets, and the peer has had its time.
pub(super) const BEFORE: Duration = Duration::from_secs(2);

/// Times of the heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Times {
    /// As it comes.
    Default,
    /// keepalive 10 ms, deadtime 50 ms.
    Tuned,
    /// keepalive 10 ms, deadtime 30 ms: the least there is.
    Fastest,
}

/// Who balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// Two nodes of xvip.
    Xvip(Times),
    /// keepalived (VRRP) over nftables, with conntrackd.
    Keepalived(Advert),
}

impl Contender {
    /// As records call it.
    pub(super) const fn system(self) -> &'static str {
        match self {
            Self::Xvip(_) => "xvip",
            Self::Keepalived(_) => "keepalived, conntrackd, nftables",
        }
    }

    /// Its times, in words.
    pub(super) fn times(self) -> String {
        match self {
            Self::Xvip(times) => pair(times).words(),
            Self::Keepalived(advert) => advert.words(),
        }
    }
}

/// What `xvip.toml` says of the pair.
pub(super) fn pair(times: Times) -> Pair {
    match times {
        Times::Default => Pair::default_times(),
        Times::Tuned => Pair::tuned(),
        Times::Fastest => Pair::fastest(),
    }
}

/// One thing that is tried again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// Who balances.
    pub(super) contender: Contender,
    /// What happens.
    pub(super) scenario: Scenario,
}

impl Case {
    /// In words.
    pub(super) fn name(&self) -> String {
        let Self { contender, scenario } = self;
        format!("{}, {}: {}", contender.system(), contender.times(), scenario.words())
    }

    /// Time that service has to come back in, and to be seen to be back.
    pub(super) fn after(&self) -> Duration {
        let seconds = match (self.scenario, self.contender) {
            // Three lost advertisements of a second each, and more.
            (_, Contender::Keepalived(Advert::Default)) => 9,
            // The node has to boot, wait for its peer, and learn.
            (Scenario::FailBack, _) => 14,
            (Scenario::Upgrade, _) => 12,
            _ => 6,
        };
        Duration::from_secs(seconds)
    }
}

/// What is run, in the order of a round. Only a power-off depends on the times of the heartbeat.
pub(super) fn cases(only: &[Scenario], times: &[Times], beside_keepalived: bool) -> Vec<Case> {
    let usual = match beside_keepalived {
        true => [Times::Default, Times::Fastest],
        false => [Times::Default, Times::Tuned],
    };
    let all = if times.is_empty() { &usual[..] } else { times };
    let case = |contender, scenario| Case { contender, scenario };
    if beside_keepalived {
        let ours = all.iter().map(|t| Contender::Xvip(*t));
        let theirs = [Advert::Default, Advert::Fastest].map(Contender::Keepalived);
        return ours.chain(theirs).map(|c| case(c, Scenario::PowerOff)).collect();
    }
    let wanted = |s: &Scenario| only.is_empty() || only.contains(s);
    let mut cases = Vec::new();
    for scenario in Scenario::value_variants().iter().copied().filter(wanted) {
        match scenario {
            Scenario::PowerOff => {
                cases.extend(all.iter().map(|t| case(Contender::Xvip(*t), scenario)));
            }
            // With the times asked for, if these are others than those by default.
            _ => cases.push(case(Contender::Xvip(all[0]), scenario)),
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_tried_and_a_power_off_with_both_times() {
        let all = cases(&[], &[], false);
        assert_eq!(all.len(), Scenario::value_variants().len() + 1);
        let off = all.iter().filter(|c| c.scenario == Scenario::PowerOff);
        let times: Vec<_> = off.map(|c| c.contender.times()).collect();
        assert_eq!(times, ["default", "tuned (keepalive 10ms, warntime 20ms, deadtime 50ms)"]);
        let one = cases(&[Scenario::Upgrade], &[Times::Tuned], false);
        assert_eq!(
            one,
            [Case { contender: Contender::Xvip(Times::Tuned), scenario: Scenario::Upgrade }]
        );
    }

    #[test]
    fn beside_keepalived_each_has_its_default_and_its_fastest() {
        let all = cases(&[], &[], true);
        assert_eq!(all.len(), 4);
        assert!(all[1].name().contains("fastest") && all[3].name().contains("fastest"));
        assert!(all.iter().all(|c| c.scenario == Scenario::PowerOff));
        assert!(all[2].name().contains("advert_int 1:"), "{}", all[2].name());
        assert!(all[2].after() > all[0].after());
    }
}
