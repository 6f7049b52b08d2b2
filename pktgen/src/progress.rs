//! What is going on, for people who wait: one line on standard error, rewritten.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use crate::engine::Live;
use crate::spec::Output;
use crate::trial::pps;

/// The line. Nothing is written if it is off.
pub struct Progress {
    on: bool,
    /// Length of the traffic and connections wanted, to compare with.
    duration: Duration,
    wanted: u64,
    /// For rates: what was last seen.
    last: Live,
    rates: [f64; 2],
    drawn: bool,
}

impl Progress {
    /// On if standard error is a terminal and the operator wants it.
    #[must_use]
    pub fn new(output: Output, duration: Duration, wanted: u64) -> Self {
        let on = stderr().is_terminal() && !output.quiet && !output.json;
        let last = Live::default();
        Self { on, duration, wanted, last, rates: [0.0; 2], drawn: false }
    }

    /// Draws the line anew.
    pub fn tick(&mut self, live: &Live) {
        if !self.on {
            return;
        }
        let line = self.line(live);
        // Cut at what fits on most terminals: a wrapped line could not be rewritten.
        let line: String = line.chars().take(79).collect();
        let _ = write!(stderr(), "\r{line}\x1b[K");
        let _ = stderr().flush();
        self.drawn = true;
    }

    /// A line that stays, above the one that is rewritten.
    pub fn say(&mut self, text: &str) {
        if self.on {
            self.clear();
            let _ = writeln!(stderr(), "{text}");
        }
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.drawn {
            let _ = write!(stderr(), "\r\x1b[K");
            let _ = stderr().flush();
            self.drawn = false;
        }
    }

    /// What it says.
    fn line(&mut self, live: &Live) -> String {
        let seconds = live.elapsed.as_secs_f64();
        let [open, refused, closed] = live.connections;
        let (sent, received) =
            (live.requests[0] + live.replies[0], live.requests[1] + live.replies[1]);
        if live.phase != self.last.phase || live.elapsed < self.last.elapsed {
            self.last = Live { phase: live.phase, ..Live::default() };
        }
        let passed = (live.elapsed - self.last.elapsed).as_secs_f64();
        if passed >= 0.05 {
            let before = [&self.last.requests, &self.last.replies];
            let rate = |now: u64, at: usize| {
                now.saturating_sub(before.iter().map(|way| way[at]).sum()) as f64 / passed
            };
            self.rates = [rate(sent, 0), rate(received, 1)];
            self.last = *live;
        }
        let refused = if refused > 0 { format!(", {refused} reset") } else { String::new() };
        match live.phase {
            "opening" => {
                format!("opening  {open} of {} connections{refused}  {seconds:.1} s", self.wanted)
            }
            "closing" => {
                format!("closing  {closed} of {open} connections{refused}  {seconds:.1} s")
            }
            phase => {
                let end = self.duration.as_secs_f64();
                let end = if end > 0.0 { format!(" of {end} s") } else { " s".to_owned() };
                let missing = sent.saturating_sub(received);
                let (rate, back) = (pps(self.rates[0]), pps(self.rates[1]));
                format!(
                    "{phase} {seconds:.1}{end}: sent {rate}, received {back}, {missing} under way{refused}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(phase: &'static str, tenths: u64, sent: u64, received: u64) -> Live {
        Live {
            phase,
            elapsed: Duration::from_millis(tenths * 100),
            connections: [50, 2, 7],
            requests: [sent, received],
            replies: [received, received],
        }
    }

    #[test]
    fn the_line_says_phase_rates_and_what_is_missing() {
        let output = Output { json: false, quiet: true };
        let mut progress = Progress::new(output, Duration::from_secs(10), 100);
        assert!(!progress.on, "quiet");
        progress.tick(&live("opening", 1, 0, 0));
        assert!(!progress.drawn);
        let text = progress.line(&live("opening", 3, 0, 0));
        assert_eq!(text, "opening  50 of 100 connections, 2 reset  0.3 s");
        progress.line(&live("traffic", 10, 1000, 900));
        let text = progress.line(&live("traffic", 20, 3000, 2900));
        assert!(text.starts_with("traffic 2.0 of 10 s: sent 4.000 kpps, received 4.000 kpps"));
        assert!(text.contains("100 under way"), "{text}");
        assert!(progress.line(&live("closing", 1, 0, 0)).starts_with("closing  7 of 50"));
    }
}
