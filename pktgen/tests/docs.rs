//! The manual is true: every option is in it with its default, and its example is read by the code.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pktgen::options::{self, Fallback, OPTIONS, Scenario, VERBS};

const MANUAL: &str = include_str!("../../docs/pktgen.md");

/// What stands in the first two columns of a table's row, backticks left out.
fn rows(text: &str) -> Vec<(String, String)> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `--"));
    rows.map(|row| {
        let mut columns = row.split('|').map(|column| column.trim().replace('`', ""));
        (columns.next().unwrap().replace('-', "_"), columns.next().unwrap())
    })
    .collect()
}

/// The part of the manual that is about one verb's options, or about all verbs'.
fn part(section: &str) -> &'static str {
    let options = MANUAL.split_once("\n## Options").unwrap().1.split("\n## ").next().unwrap();
    if section.is_empty() {
        return options.split("\nOnly for ").next().unwrap();
    }
    let heading = format!("\nOnly for `{section}`");
    options.split_once(&heading).unwrap().1.split("\nOnly for ").next().unwrap()
}

#[test]
fn every_option_is_in_the_manual_with_its_default_and_no_other() {
    let sections = ["", "cps", "flood", "ndr", "reflect"];
    assert!(OPTIONS.iter().all(|o| sections.contains(&o.section)));
    for section in sections {
        let mut found = rows(part(section));
        for option in OPTIONS.iter().filter(|o| o.section == section) {
            let at = found.iter().position(|(flag, _)| flag == option.key);
            let (_, default) = found.remove(at.unwrap_or_else(|| panic!("--{}", option.key)));
            let wanted = match option.default {
                Fallback::Text(text) => text.to_owned(),
                Fallback::Families(v4, v6) => format!("{v4} (IPv6: {v6})"),
                Fallback::Described(words) => words.to_owned(),
            };
            assert_eq!(default, wanted, "--{}", option.key);
        }
        let always = ["scenario", "json", "quiet"];
        found.retain(|(flag, _)| !(section.is_empty() && always.contains(&flag.as_str())));
        assert!(found.is_empty(), "options that do not exist: {found:?}");
    }
}

#[test]
fn every_verb_is_in_the_manual() {
    for (verb, _) in VERBS {
        assert!(MANUAL.contains(&format!("\n| `{verb}` |")), "{verb}");
    }
}

#[test]
fn the_example_of_a_scenario_serves_every_verb() {
    let text = MANUAL.split("```toml\n").nth(1).unwrap().split("\n```").next().unwrap();
    for (verb, _) in VERBS.iter().filter(|(verb, _)| *verb != "reflect") {
        let scenario = Scenario { text, name: "docs/pktgen.md" };
        let run = options::build(verb, &[], Some(scenario)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(run.spec.connections, 100_000);
    }
}

#[test]
fn every_command_of_the_manual_is_understood() {
    let mut count = 0;
    for line in MANUAL.lines().filter(|l| l.starts_with("xvip-pktgen ")) {
        let words = line.split(" > ").next().unwrap().split_whitespace();
        let matches = options::command().try_get_matches_from(words);
        let matches = matches.unwrap_or_else(|e| panic!("{line}: {e}"));
        let (_, own) = matches.subcommand().unwrap();
        if own.get_one::<String>("scenario").is_none() {
            options::from_matches(&matches).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        count += 1;
    }
    assert!(count >= 4, "{count} commands");
}
