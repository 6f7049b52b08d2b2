//! Options and what is collected; the rest needs root and two nodes: `xvip-perf failover --smoke`.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn options(words: &[&str]) -> Options {
    Line::try_parse_from(std::iter::once(&"x").chain(words)).unwrap().options
}

#[test]
fn records_are_named_after_what_was_measured() {
    assert_eq!(options(&[]).name(), "pair");
    assert_eq!(options(&["--load", "http"]).name(), "downloads");
    let beside = options(&["--beside", "keepalived", "--record-as", "x"]);
    assert_eq!((beside.name().as_str(), beside.measures_replication()), ("x", false));
    assert!(options(&[]).measures_replication());
    assert!(!options(&["--only", "power-off"]).measures_replication());
    assert_eq!(options(&["--load", "http"]).connections(), 64);
}

#[test]
fn rounds_of_one_case_come_into_one_row() {
    let options = options(&["--smoke"]);
    let cases = options.cases();
    let mut sheet = Sheet::default();
    for silence_ms in [1.0, 2.0] {
        for case in &cases {
            sheet.add(&options, case, FailoverRound { silence_ms, ..FailoverRound::default() });
        }
    }
    assert_eq!(sheet.found.rows.len(), cases.len());
    assert!(sheet.found.rows.iter().all(|row| row.rounds.len() == 2));
    let record = sheet.record(&options);
    assert_eq!((record.measured.kind(), record.name.as_str()), ("failover", "pair"));
    // Nothing lived.
    assert!(smoke(&record).is_err());
}

#[test]
fn a_smoke_fails_on_a_reset_whatever_lived() {
    let options = options(&["--smoke", "--only", "switchover"]);
    let round = FailoverRound { opened: 100, alive: 100, ..FailoverRound::default() };
    let record = |round| {
        let mut sheet = Sheet::default();
        sheet.add(&options, &options.cases()[0], round);
        sheet.record(&options)
    };
    assert!(smoke(&record(round)).is_ok());
    let error = smoke(&record(FailoverRound { resets: 1, ..round })).unwrap_err();
    assert!(error.to_string().contains("switchover: 1 resets"), "{error}");
}

/// By hand: `cargo test -p perf -- --ignored keepalived`.
#[test]
#[ignore = "needs root, the other binaries and the peers"]
fn connections_live_on_when_the_active_node_of_keepalived_dies() {
    let options = options(&["--smoke", "--beside", "keepalived"]);
    let lab = Lab::pair(Ends::Generator).unwrap();
    for case in options.cases().iter().filter(|c| c.contender.system() != "xvip") {
        let seen = turn::turn(&lab, &options, case).unwrap_or_else(|e| panic!("{e:#}"));
        let FailoverRound { opened, alive, silence_ms, moves, .. } = seen.round;
        assert_eq!((opened, moves), (2_000, 1), "{}: {:?}", case.name(), seen.round);
        assert!(alive >= 1_980 && silence_ms < 8_000.0, "{}: {:?}", case.name(), seen.round);
        println!("{}: {:?}", case.name(), seen.round);
    }
}
