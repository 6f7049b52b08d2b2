//! `type = "path"`: a VIP answers when it is asked by the way that the service's connections take.
//!
//! The data plane sends a SYN to the VIP through the direct or tunnel path of one real. That finds
//! the server which is well by its own address, but has lost the VIP or drops what is for it.

use std::net::SocketAddr;
use std::time::Duration;

use dataplane_api::message::{PathAnswer, PathResult, PathTarget};

use super::{Outcome, Target};

/// Most VIPs of one check.
pub const VIPS_MAX: usize = 16;
/// Longest timeout: as long as the data plane waits.
pub const TIMEOUT_MAX: Duration =
    Duration::from_millis(dataplane_api::message::PATH_TIMEOUT_MAX as u64);

/// What is asked through the path of each real.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// VIPs of the service, with the port; all must answer. At most [`VIPS_MAX`].
    pub vips: Vec<SocketAddr>,
}

impl Settings {
    /// What the data plane is told to ask, one for each VIP.
    #[must_use]
    pub fn targets(&self, target: &Target) -> Vec<PathTarget> {
        let asked = self.vips.iter().map(|vip| PathTarget {
            service: target.service.clone(),
            real: target.address,
            vip: vip.ip(),
            vip_port: vip.port(),
        });
        asked.collect()
    }

    /// What came of it; one result for each VIP. An answer later than `timeout` is none.
    #[must_use]
    pub fn judge(&self, results: &[PathResult], timeout: Duration) -> Outcome {
        if results.len() != self.vips.len() {
            return Outcome::cannot_run("the data plane answered something else than was asked");
        }
        let late = |r: &PathResult| Duration::from_micros(r.after_us) > timeout;
        let answers = results.iter().map(|r| match r.answer {
            PathAnswer::Answered | PathAnswer::Refused if late(r) => PathAnswer::Silent,
            answer => answer,
        });
        // What is certain of the server goes before what could not be asked.
        let mut unsent = None;
        for (vip, answer) in self.vips.iter().zip(answers) {
            match answer {
                PathAnswer::Answered => {}
                PathAnswer::Silent => return Outcome::down(silent(vip)),
                PathAnswer::Refused => {
                    return Outcome::down(format!(
                        "refused: the server owns {vip}, nobody listens"
                    ));
                }
                PathAnswer::Unresolved => {
                    return Outcome::down(
                        "no way to the server: its next hop answers no ARP or neighbour request",
                    );
                }
                PathAnswer::NotSent => unsent = Some(vip),
            }
        }
        unsent.map_or_else(Outcome::up, |vip| Outcome::cannot_run(not_sent(vip)))
    }
}

fn silent(vip: &SocketAddr) -> String {
    let address = vip.ip();
    format!(
        "no answer from {vip} through the forwarding path: does the server own the VIP (on lo or \
         its tunnel device: ip address show to {address}) and not answer ARP for it?"
    )
}

fn not_sent(vip: &SocketAddr) -> String {
    let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
    format!(
        "not sent to {vip}: no route to the server, no {family} address on the interface towards \
         it, or the data plane does not have this service yet"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(vips: &[&str], answers: &[(PathAnswer, u64)]) -> Outcome {
        let vips = vips.iter().map(|v| v.parse().unwrap()).collect();
        let result = |(answer, after_us): &(PathAnswer, u64)| PathResult {
            answer: *answer,
            after_us: *after_us,
        };
        let results: Vec<_> = answers.iter().map(result).collect();
        Settings { vips }.judge(&results, Duration::from_millis(300))
    }

    #[test]
    fn each_answer_has_its_meaning_and_names_the_vip() {
        let one = |answer, after| judged(&["192.0.2.10:80"], &[(answer, after)]);
        assert_eq!(one(PathAnswer::Answered, 400), Outcome::up());
        for (answer, after, name, word) in [
            (PathAnswer::Silent, 300_000, "down", "own the VIP (on lo or"),
            (PathAnswer::Answered, 300_001, "down", "no answer from 192.0.2.10:80"),
            (PathAnswer::Refused, 400, "down", "refused"),
            (PathAnswer::Unresolved, 0, "down", "next hop"),
            (PathAnswer::NotSent, 0, "cannot-check", "no IPv4 address"),
        ] {
            let outcome = one(answer, after);
            assert_eq!(outcome.name(), name, "{answer:?}");
            let reason = outcome.reason().unwrap();
            assert!(reason.contains(word) && !reason.ends_with("..."), "{reason}");
        }
    }

    #[test]
    fn the_longest_reason_is_not_cut() {
        let vip = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        for answer in [PathAnswer::Silent, PathAnswer::NotSent] {
            let outcome = judged(&[vip], &[(answer, 0)]);
            assert!(!outcome.reason().unwrap().ends_with("..."), "{outcome:?}");
        }
    }

    #[test]
    fn every_vip_must_answer_and_a_silent_one_counts_although_another_was_not_asked() {
        let two = |a, b| judged(&["192.0.2.10:80", "192.0.2.11:80"], &[(a, 1), (b, 1)]);
        assert_eq!(two(PathAnswer::Answered, PathAnswer::Answered), Outcome::up());
        let outcome = two(PathAnswer::NotSent, PathAnswer::Silent);
        assert!(matches!(&outcome, Outcome::Down(r) if r.contains("192.0.2.11")), "{outcome:?}");
        let outcome = two(PathAnswer::Answered, PathAnswer::NotSent);
        assert!(matches!(outcome, Outcome::CannotRun(_)));
        let outcome = judged(&["192.0.2.10:80"], &[]);
        assert!(matches!(outcome, Outcome::CannotRun(_)), "results are missing");
    }
}
