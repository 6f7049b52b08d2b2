//! The table, round by round.
#![allow(clippy::print_stdout)]

use super::{AIM, BareRound, BareRow, Context, Record, median};
use crate::record::Sample;

pub(super) struct Table {
    json: bool,
    begun: bool,
}

impl Table {
    pub(super) fn new(json: bool) -> Self {
        Self { json, begun: false }
    }

    pub(super) fn say(&mut self, size: u16, round: &BareRound) {
        if self.json {
            return;
        }
        if !self.begun {
            self.begun = true;
            println!(
                "{:>5} {:>12} {:>12} {:>7} {:>17} {:>11} {:>8} {:>8} {:>7}",
                "bytes",
                "NAT most",
                "bare most",
                "ratio",
                "limits",
                "equal rate",
                "NAT ns",
                "bare ns",
                "ratio"
            );
        }
        let (x, b) = (&round.xvip, &round.bare);
        let most = |s: &Sample| s.highest_pps.unwrap_or(f64::NAN);
        let ns = |s: &Sample| s.ns.unwrap_or(f64::NAN);
        let limit = |s: &Sample| s.limit.map_or_else(|| "?".into(), |l| format!("{l:?}"));
        println!(
            "{size:>5} {:>12.0} {:>12.0} {:>7.3} {:>17} {:>11.0} {:>8.0} {:>8.0} {:>7.3}",
            most(x),
            most(b),
            most(x) / most(b),
            format!("{}/{}", limit(x), limit(b)).to_lowercase(),
            x.offered_pps,
            ns(x),
            ns(b),
            ns(b) / ns(x)
        );
    }

    pub(super) fn sum_up(&self, row: &BareRow) {
        if self.json {
            return;
        }
        let share = |ratio: Option<f64>| ratio.map_or_else(|| "?".into(), |r| format!("{r:.3}"));
        let more: Vec<f64> =
            row.rounds.iter().filter_map(|r| Some(r.xvip.ns? - r.bare.ns?)).collect();
        println!(
            "{:>5} bytes, medians of {} rounds: NAT / bare by highest rate {}{}, aim {AIM}; by core a packet {}, {:.0} ns more",
            row.size,
            row.rounds.len(),
            share(row.rates()),
            if row.rates_count() { "" } else { " (the generator's limit: no comparison)" },
            share(row.costs()),
            median(&more).unwrap_or(f64::NAN),
        );
    }

    pub(super) fn finish(&self, record: &Record) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(record).context("JSON")?);
        } else {
            for note in &record.notes {
                println!("note: {note}");
            }
            if record.quiet.contended {
                println!("CONTENDED: others had {:.1} % of the core", record.quiet.lost * 100.0);
            }
        }
        Ok(())
    }
}
