//! The documentation is true: its examples are read by the code, and every key is in it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use control::config::{self, keys};
use control::verbs::{self, Answer};
use dataplane_api::counter::{Event, Reason};
use dataplane_api::message::{Reply, Request};
use serde_json::Value;

const CONFIG: &str = include_str!("../../docs/config.md");
const PROTOCOLS: &str = include_str!("../../docs/protocols.md");
const OPERATING: &str = include_str!("../../docs/operating.md");
const TESTING: &str = include_str!("../../docs/testing.md");
const ARCHITECTURE: &str = include_str!("../../docs/architecture.md");
const MODULES: &str = include_str!("../../dataplane/src/lib.rs");

/// Fenced blocks whose opening line is exactly this one.
fn blocks<'a>(text: &'a str, fence: &str) -> Vec<&'a str> {
    let open = format!("```{fence}\n");
    text.split(&open).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

#[test]
fn every_example_of_a_configuration_is_valid() {
    let examples = blocks(CONFIG, "toml");
    assert!(examples.len() >= 5, "{} examples", examples.len());
    for example in examples {
        if let Err(errors) = config::parse(example, "docs/config.md") {
            panic!("{errors}\n{example}");
        }
    }
}

#[test]
fn every_key_is_explained_under_its_table() {
    for (heading, keys) in keys::ALL {
        let section = CONFIG
            .split("\n## ")
            .find(|s| s.lines().next().unwrap().contains(&format!("`{heading}`")))
            .unwrap_or_else(|| panic!("no section for {heading}"));
        for key in *keys {
            assert!(section.contains(&format!("\n| `{key}` |")), "{heading}: `{key}`");
        }
        // Tables under a heading of their own explain values, not keys.
        let table = section.split("\n### ").next().unwrap();
        let rows = table.lines().filter(|l| l.starts_with("| `")).count();
        assert_eq!(rows, keys.len(), "{heading}: a row for a key that does not exist");
    }
}

fn objects(fence: &str) -> Vec<Value> {
    let lines = blocks(PROTOCOLS, fence).into_iter().flat_map(str::lines);
    lines.map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

#[test]
fn examples_of_the_control_socket_are_what_is_spoken() {
    let (mut seen, mut replies) = (Vec::new(), 0);
    for message in objects("json control") {
        if let Some(verb) = message["verb"].as_str() {
            verbs::parse(message.to_string().as_bytes()).unwrap();
            seen.push(verb.to_owned());
            continue;
        }
        replies += 1;
        let verb = seen.last().unwrap();
        let result = message["result"].clone();
        let answer: Answer<Value> = serde_json::from_value(message.clone()).unwrap();
        assert_eq!(answer.envelope.ok, answer.error.is_none(), "{message}");
        if !answer.envelope.ok {
            continue;
        }
        // Read and written again, it is the same: no field is missing or invented.
        let again = match verb.as_str() {
            "hello" => round::<verbs::Hello>(&result),
            "status" => round::<verbs::StatusResult>(&result),
            "services" => round::<verbs::ServicesResult>(&result),
            "conns" => round::<verbs::ConnsResult>(&result),
            "counters" => round::<verbs::CountersResult>(&result),
            "reload" => round::<verbs::ReloadResult>(&result),
            "confirm" | "rollback" => round::<verbs::ConfirmResult>(&result),
            "plan" => round::<verbs::PlanResult>(&result),
            "drain" | "enable" | "disable" | "weight" => round::<verbs::ChangeResult>(&result),
            "overrides" => round::<verbs::OverridesResult>(&result),
            "why" => round::<dataplane_api::message::Why>(&result),
            "captured" => round::<dataplane_api::message::Captured>(&result),
            "capture" | "end-capture" => round::<verbs::CaptureResult>(&result),
            "events" => round::<verbs::EventsResult>(&result),
            "alert-test" => round::<verbs::AlertTestResult>(&result),
            "metrics" => round::<verbs::MetricsResult>(&result),
            "ha" => round::<verbs::HaResult>(&result),
            "switchover" | "ha-maintenance" => round::<verbs::HaDone>(&result),
            other => panic!("{other}"),
        };
        assert_eq!(again, result, "{verb}");
    }
    let told = ["events", "alert-test", "metrics", "ha", "switchover", "ha-maintenance"];
    let maintained = ["drain", "enable", "disable", "weight", "overrides"];
    let others = ["confirm", "rollback", "plan", "why", "capture", "captured", "end-capture"];
    let told = told.iter().chain(&maintained).chain(&others);
    for verb in ["hello", "status", "services", "conns", "counters", "reload"].iter().chain(told) {
        assert!(seen.iter().any(|s| s == *verb), "{verb} has no example");
    }
    assert!(replies >= seen.len());
}

fn round<T: serde::Serialize + serde::de::DeserializeOwned>(value: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<T>(value.clone()).unwrap()).unwrap()
}

#[test]
fn examples_of_the_agent_socket_are_what_is_spoken() {
    let mut requests = BTreeSet::new();
    let mut replies = BTreeSet::new();
    for message in objects("json agent") {
        let (set, again) = if message.get("request").is_some() {
            (&mut requests, round::<Request>(&message))
        } else {
            (&mut replies, round::<Reply>(&message))
        };
        assert_eq!(again, message);
        set.insert(message["request"].as_str().or(message["reply"].as_str()).unwrap().to_owned());
    }
    let all = [
        "apply",
        "capture",
        "captured",
        "conns",
        "end-capture",
        "end-conns",
        "hello",
        "lease",
        "path-probe",
        "resolve",
        "status",
        "why",
    ];
    assert!(requests.iter().eq(all), "{requests:?}");
    let all = [
        "applied",
        "capture-ended",
        "captured",
        "capturing",
        "conns",
        "ending",
        "error",
        "hello",
        "leased",
        "path-probed",
        "resolved",
        "status",
        "why",
    ];
    assert!(replies.iter().eq(all), "{replies:?}");
}

/// What stands between backticks in the first column of a table's rows.
fn first_column(text: &str) -> Vec<&str> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once("` |")).map(|(name, _)| name).collect()
}

#[test]
fn every_counter_is_explained_and_none_that_does_not_exist() {
    let section = |heading: &str| {
        let section = OPERATING.split_once(heading).unwrap().1;
        first_column(section.split("\n#").next().unwrap())
    };
    let drops: Vec<_> = Reason::ALL.iter().map(|r| r.name()).collect();
    let events: Vec<_> = Event::ALL.iter().map(|e| e.name()).collect();
    assert_eq!(section("\n### Drops\n"), drops);
    assert_eq!(section("\n### Events\n"), events);
}

#[test]
fn every_metric_and_every_kind_of_event_is_explained_and_none_that_does_not_exist() {
    let rows = |heading: &str| {
        let section = OPERATING.split_once(heading).unwrap().1;
        section.split("\n#").next().unwrap().to_owned()
    };
    let metrics = rows("\n### Metrics\n");
    let documented: Vec<_> = first_column(&metrics).into_iter().skip(1).collect();
    let names: Vec<_> = control::metrics::ALL.iter().map(|m| m.name).collect();
    assert_eq!(documented, names);
    for metric in control::metrics::ALL {
        let line = metrics.lines().find(|l| l.starts_with(&format!("| `{}` |", metric.name)));
        let line = line.unwrap();
        let kind = format!("| {} |", format!("{:?}", metric.kind).to_lowercase());
        assert!(line.contains(&kind) && line.contains(metric.help), "{line}");
        assert!(metric.labels.iter().all(|l| line.contains(&format!("`{l}`"))), "{line}");
    }
    let kinds = rows("\n### Kinds of events\n");
    let documented: Vec<_> = first_column(&kinds).into_iter().skip(1).collect();
    let names: Vec<_> = control::event::Kind::ALL.iter().map(|k| k.name()).collect();
    assert_eq!(documented, names);
    for kind in control::event::Kind::ALL {
        let start = format!("| `{}` | {} |", kind.name(), kind.severity());
        assert!(kinds.lines().any(|l| l.starts_with(&start)), "{start}");
    }
}

#[test]
fn every_metric_on_the_dashboard_exists() {
    let dashboard = include_str!("../../docs/grafana/xvip.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(target["expr"].as_str().unwrap());
        }
    }
    assert!(expressions.len() > 40, "{} expressions", expressions.len());
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        expressions.extend(variable["definition"].as_str());
    }
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    for expression in expressions {
        let named = expression.split(word).filter(|w| w.starts_with("xvip_"));
        let names: Vec<_> = named.collect();
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            let base = name.strip_suffix("_bucket").unwrap_or(name);
            let there = control::metrics::ALL.iter().any(|m| m.name == base);
            assert!(there, "{name}, in {expression}");
        }
    }
}

#[test]
fn every_module_of_the_data_plane_is_on_the_map_in_its_order() {
    let modules = MODULES.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';'));
    let map = ARCHITECTURE.split_once("\n## The modules").unwrap().1;
    assert!(first_column(map.split("\n## ").next().unwrap()).into_iter().eq(modules));
}

#[test]
fn every_module_of_control_is_on_the_map_in_its_order() {
    let modules = include_str!("../src/lib.rs");
    let modules = modules.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';'));
    let map = ARCHITECTURE.split_once("\n## Modules of `control").unwrap().1;
    assert!(first_column(map.split("\n## ").next().unwrap()).into_iter().eq(modules));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files below a directory of the repository whose names end like this, what is built left out.
fn files(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            files(&path, ending, found);
        } else if path.to_str().is_some_and(|p| p.ends_with(ending)) {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let mut sources = Vec::new();
    for (directory, ending) in [
        ("dataplane", ".rs"),
        ("control", ".rs"),
        ("pktgen", ".rs"),
        ("perf", ".rs"),
        ("scripts", ".py"),
    ] {
        files(&root().join(directory), ending, &mut sources);
    }
    let text: String = sources.iter().map(|p| std::fs::read_to_string(p).unwrap()).collect();
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let named = TESTING.split('`').skip(1).step_by(2);
    let tests = named.filter(|n| n.chars().all(word) && n.matches('_').count() >= 2);
    let tests: BTreeSet<_> = tests.collect();
    assert!(tests.len() > 100, "{} tests are named", tests.len());
    for test in tests {
        let there = ["fn ", "def "].iter().any(|how| text.contains(&format!("{how}{test}(")));
        assert!(there, "docs/testing.md names `{test}`, which does not exist");
    }
}

#[test]
fn every_link_leads_to_a_file() {
    let mut pages = vec![root().join("README.md")];
    files(&root().join("docs"), ".md", &mut pages);
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            let there = file.starts_with("http") || page.parent().unwrap().join(file).exists();
            assert!(there, "{}: {target}", page.display());
        }
    }
}
