//! What an operator reads about a wrong file, frozen: `tests/config/NAME.toml` gives `NAME.txt`.
//!
//! `UPDATE=1 cargo test -p control --test config` writes the reports anew; read the difference.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use control::config::{self, Errors, Machine, SHOWN_MAX};
use control::failover::settings::{Link, Settings};
use control::health::Health;
use control::overrides::Overrides;
use control::time::Instant;
use dataplane_api::service::Snapshot;
use proptest::prelude::*;

fn errors(text: &str) -> Errors {
    config::parse(text, "xvip.toml").unwrap_err()
}

fn plan(config: &config::Config) -> Snapshot {
    let mut health = Health::default();
    health.configure(config, Instant::default());
    control::plan::plan(config, &health, &Overrides::default()).snapshot
}

fn golden(name: &str) {
    golden_on(name, Machine::ANY);
}

fn golden_on(name: &str, machine: Machine) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let text = std::fs::read_to_string(dir.join(name).with_extension("toml")).unwrap();
    let report = config::parse_with(&text, "xvip.toml", false, machine).unwrap_err();
    let report = format!("{report}\n");
    let path = dir.join(name).with_extension("txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &report).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(report == expected, "{name}: the report is now\n{report}");
}

#[test]
fn errors_of_syntax_have_their_place() {
    golden("syntax");
}

#[test]
fn unknown_keys_and_words_come_with_a_suggestion() {
    golden("keys");
}

#[test]
fn wrong_types_and_values_out_of_range_say_what_is_allowed() {
    golden("types");
}

#[test]
fn errors_inside_a_service_are_all_shown_at_once() {
    golden("services");
}

#[test]
fn mistakes_in_checks_of_wire_protocols_are_all_shown_and_no_secret_is() {
    golden("checks_wire");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let text = std::fs::read_to_string(dir.join("checks_wire.toml")).unwrap();
    let report = errors(&text).to_string();
    assert!(!report.contains("hunter"), "{report}");
}

#[test]
fn mistakes_in_checks_of_text_protocols_are_all_shown_and_no_password_is() {
    golden("checks_text");
    let report = std::fs::read_to_string("tests/config/checks_text.txt").unwrap();
    assert!(!report.contains("hunter2"), "{report}");
}

#[test]
fn an_address_has_one_role_and_one_family() {
    golden("addresses");
}

#[test]
fn mistakes_in_checks_have_their_place_and_a_suggestion() {
    golden("checks");
}

#[test]
fn overlapping_ports_show_both_places() {
    golden("overlaps");
}

#[test]
fn maintenance_sorry_pages_and_fallbacks_are_read_with_care() {
    golden("operate");
}

#[test]
fn a_pair_is_read_with_care_even_before_it_is_clear_which_node_this_is() {
    golden("ha");
    golden("ha_pair");
}

#[test]
fn each_node_of_a_pair_reads_the_same_file_from_its_side() {
    let read = |name: &str| config::parse(&PAIR.replace("NAME", name), "x").unwrap();
    let [one, two] = ["lb1", "lb2"].map(read);
    assert_eq!(one.lines, two.lines, "only [node] differs");
    let [a, b] = [one.ha.clone().unwrap(), two.ha.unwrap()];
    assert_eq!((&*a.node, &*a.peer, &*b.node, &*b.peer), ("lb1", "lb2", "lb2", "lb1"));
    let ends = |settings: &Settings| match &settings.paths[0].link {
        Link::Unicast { local, remote, interface } => (*local, *remote, interface.clone()),
        other => panic!("{other:?}"),
    };
    let ((local, remote, near), (their_local, their_remote, far)) = (ends(&a), ends(&b));
    assert_eq!((local, remote), (their_remote, their_local));
    assert_eq!((near.as_deref(), far.as_deref()), (Some("eth2"), Some("ens3")));
    let times = [a.keepalive, a.warntime, a.deadtime, a.initdead].map(|d| d.as_millis());
    assert_eq!(times, [50, 100, 200, 3000]);
    let groups: Vec<_> = a.groups.iter().map(|g| (&*g.name, g.addresses.len())).collect();
    assert_eq!(groups, [("web", 2), ("mail", 1)], "what no group names belongs to the first");
    let asked = |s: &Settings| s.pings.iter().flat_map(|p| p.asked.clone()).collect::<Vec<_>>();
    let known: [IpAddr; 2] = [[192, 0, 2, 1].into(), [10, 9, 0, 2].into()];
    assert_eq!(asked(&a), known[..1], "no real server, not the other node, nobody who is excused");
    assert_eq!(asked(&b), known);
    let snapshot = plan(&one);
    assert_eq!(snapshot.groups.len(), 2);
    assert_eq!(snapshot.groups[0].gateways, a.groups[0].gateways);
}

#[test]
fn what_this_machine_does_not_have_is_shown_where_it_is_named() {
    let machine = Machine {
        secret: |path| Err(format!("cannot open: {} is not there", path.display())),
        group: |name| match name {
            "xvip-operators" => Err(format!("there is no group `{name}`")),
            _ => Ok(Some(7)),
        },
        page: |path| match path.ends_with("good.html") {
            true => Ok(Some(b"<p>sorry".to_vec())),
            false => Err("larger than 256 KiB".to_owned()),
        },
    };
    golden_on("machine", machine);
}

#[test]
fn columns_count_characters_and_no_control_character_gets_out() {
    golden("unicode");
    let report = errors("\"a\u{1b}[2Jb\" = 1\n[[interface]]\nname = \"\\u001b\\n\"").to_string();
    assert!(!report.contains('\u{1b}'), "{report:?}");
}

fn with_services(count: usize, reals: usize) -> String {
    let mut text = "[[interface]]\nname = \"eth0\"\n".to_owned();
    for n in 0..count {
        let (a, b) = (n / 200, n % 200 + 1);
        writeln!(text, "[[service]]\nname = \"s{n}\"\nlisten = \"192.0.{a}.{b}:80\"").unwrap();
        for r in 0..reals {
            writeln!(text, "[[service.real]]\naddress = \"10.{a}.{b}.{}:80\"", r + 1).unwrap();
        }
    }
    text
}

#[test]
fn limits_are_those_of_the_data_plane_and_one_more_is_an_error() {
    assert!(config::parse(&with_services(1024, 8), "x").is_ok());
    let report = errors(&with_services(1025, 0)).to_string();
    assert!(report.contains("more than 1024 services"), "{report}");
    let report = errors(&with_services(911, 9)).to_string();
    assert!(report.contains("more than 8192 real servers"), "{report}");
    let mut text = String::new();
    for n in 0..17 {
        writeln!(text, "[[interface]]\nname = \"eth{n}\"").unwrap();
    }
    assert!(errors(&text).to_string().contains("more than 16 interfaces"));
    let addresses: Vec<_> = (1..=65).map(|n| format!("\"10.0.0.{n}\"")).collect();
    let text =
        format!("[fullnat]\naddresses = [{}]\n[[interface]]\nname = \"eth0\"", addresses.join(","));
    assert!(errors(&text).to_string().contains("more than 64 local addresses"));
    let cores: Vec<_> = (0..65).map(|n| n.to_string()).collect();
    let text = format!("[engine]\ncores = [{}]", cores.join(","));
    assert!(errors(&text).to_string().contains("lists 65 cores"));
}

#[test]
fn a_file_full_of_errors_is_reported_in_bounded_space_and_time() {
    let text = "x = 1\n".repeat(100_000);
    assert_eq!(errors(&text).list.len(), SHOWN_MAX);
    let line = format!("x = [{}]", "1,".repeat(1_000_000));
    let report = errors(&line).to_string();
    assert!(report.len() < 10_000, "{}", report.len());
    for nested in ["[".repeat(1 << 20), "a.".repeat(1 << 20), "a={".repeat(1 << 20)] {
        let errors = errors(&format!("x = {nested}"));
        assert!(errors.to_string().len() < 100_000);
    }
    let many = |count| {
        let listens: Vec<_> = (1..=count).map(|p| format!("\"192.0.2.1:{p}\"")).collect();
        format!(
            "[[interface]]\nname=\"e\"\n[[service]]\nname=\"s\"\nlisten=[{}]",
            listens.join(",")
        )
    };
    assert!(config::parse(&many(16_384), "x").is_ok());
    assert!(errors(&many(16_385)).to_string().contains("more than 16384 `listen` entries"));
}

#[test]
fn the_largest_snapshot_fits_into_one_message() {
    let mut text = "[[interface]]\nname = \"eth0\"\n".to_owned();
    let name = "n".repeat(58);
    for n in 0..1024 {
        let listens: Vec<_> = (0..16)
            .map(|p| format!("\"[2001:db8:1111:2222:3333:4444:5555:{n:x}]:{}\"", 60_000 + p))
            .collect();
        writeln!(text, "[[service]]\nname = \"{name}{n}\"\nlisten = [{}]", listens.join(","))
            .unwrap();
        writeln!(
            text,
            "scheduler = \"lblcr\"\npersistence = \"365d\"\ntimeouts = {{ udp = \"365d\" }}"
        )
        .unwrap();
        for r in 0..8 {
            let address = format!("[2001:db8:1111:2222:3333:6666:{r:x}:{n:x}]:65535");
            writeln!(text, "[[service.real]]\nname = \"{name}{r}\"\naddress = \"{address}\"")
                .unwrap();
            writeln!(text, "upper_threshold = 4000000000\nlower_threshold = 4000000000").unwrap();
        }
    }
    let snapshot = plan(&config::parse(&text, "x").unwrap());
    let size = serde_json::to_string(&snapshot).unwrap().len();
    assert!(size + 100 < dataplane_api::message::LINE_MAX, "{size}");
}

#[test]
fn the_empty_file_says_what_is_missing() {
    for text in ["", " \n\t\n", "\u{feff}"] {
        assert!(errors(text).to_string().contains("file is empty"));
    }
    assert!(errors("# nothing\n").to_string().contains("no [[interface]]"));
}

const PAIR: &str = r#"
[node]
name = "NAME"
[[interface]]
name = "eth0"
[[service]]
name = "web"
listen = ["192.0.2.10:80", "192.0.2.11:80", "192.0.2.12:25"]
forwarding = "direct"
real = [{ address = "192.0.2.21" }]
[ha]
nodes = ["lb1", "lb2"]
key = [{ id = 1, file = "/etc/xvip/ha.key" }]
path = [
  { type = "udp", lb1 = "10.9.0.1:6940", lb2 = "10.9.0.2:6940", interface = { lb1 = "eth2", lb2 = "ens3" } },
  { type = "serial", lb1 = "/dev/ttyS0", lb2 = "/dev/ttyS1" },
]
group = [
  { name = "web", prefer = "lb1", addresses = "192.0.2.10", gateways = "10.0.1.254" },
  { name = "mail", prefer = "lb2", addresses = "192.0.2.12" },
]
ping = [
  { addresses = ["192.0.2.1", "192.0.2.21", "10.9.0.2"] },
  { addresses = "192.0.2.2", answers_vips = false },
]
"#;
const SEED: &str = include_str!("config/services.toml");
const GOOD: &str = r#"
[engine]
cores = [0, 1]
[[interface]]
name = "eth0"
[fullnat]
addresses = ["10.0.0.5"]
[[service]]
name = "web"
listen = ["192.0.2.10:80", "192.0.2.10:8000-8099"]
forwarding = "fullnat"
persistence = { timeout = "5m", mask_v4 = 24 }
timeouts = { udp = "10s" }
real = [{ address = "10.0.0.1:80", weight = 3, upper_threshold = 9, lower_threshold = 4 }]
"#;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ =
            config::parse_bytes(&bytes, "x", false, Machine::ANY).map_err(|e| e.to_string());
    }

    /// Files that are nearly right reach deeper than noise does.
    #[test]
    fn no_damage_to_a_file_makes_the_reader_panic(
        good in 0..3_usize,
        edits in proptest::collection::vec(
            (any::<prop::sample::Index>(), 0_usize..12, "[\\[\\]{}=\",.:0-9a-z\\n\\\\é-]{0,6}"),
            1..8,
        ),
    ) {
        let mut text: Vec<char> = [GOOD, SEED, PAIR][good].chars().collect();
        for (at, remove, insert) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        match config::parse(&text, "x") {
            Ok(config) => {
                let _ = plan(&config);
            }
            Err(errors) => {
                prop_assert!(errors.count() > 0 && !errors.to_string().is_empty());
                let lines = text.split('\n').count();
                prop_assert!(errors.list.iter().all(|f| f.line <= lines));
            }
        }
    }
}
