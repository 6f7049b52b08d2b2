use super::*;
use crate::config::{self, Config};

fn config() -> Config {
    let text = r#"
        [[interface]]
        name = "eth0"
        [[service]]
        name = "web"
        listen = "192.0.2.10:80"
        real = [
            { name = "web1", address = "10.0.1.1:80" },
            { name = "web2", address = "10.0.1.2:80" },
            { name = "web2b", address = "10.0.1.2:81" },
        ]
        [[service]]
        name = "shop"
        listen = "192.0.2.10:443"
        real = [{ name = "web1", address = "10.0.1.1:443" }]
        [[service]]
        name = "six"
        listen = "[2001:db8::10]:443"
        real = [{ address = "2001:db8:1::1" }]
    "#;
    config::parse(text, "x").unwrap()
}

fn key(service: &str, address: &str, port: Option<u16>) -> RealKey {
    RealKey { service: service.into(), address: address.parse().unwrap(), port }
}

fn web1() -> RealKey {
    key("web", "10.0.1.1", Some(80))
}

fn held<T>(value: T, until_ms: Option<u64>) -> Held<T> {
    Held { value, since_ms: 1000, until_ms, uid: 0 }
}

fn drained(deadline: Option<Deadline>) -> Standing {
    Standing::Drained { move_persistent: false, deadline }
}

fn found(word: &str, service: Option<&str>, all: bool) -> Result<Vec<String>, String> {
    let found = resolve(word, service, all, &config(), &Overrides::default());
    let shown = |c: &Candidate| format!("{}/{}", c.key.service, c.key.text());
    found.map(|f| f.iter().map(shown).collect()).map_err(|e| e.0)
}

#[test]
fn decisions_take_effect_and_are_taken_back() {
    let mut overrides = Overrides::default();
    assert_eq!(overrides.of(&web1()), Effect::default());
    overrides.stand(&web1(), "web1", Some(held(drained(None), None)));
    overrides.weigh(&web1(), "web1", Some(held(7, None)));
    let effect = overrides.of(&web1());
    assert!(effect.drained && !effect.disabled && !effect.move_persistent);
    assert_eq!(effect.weight, Some(Weight::new(7)));
    assert_eq!(overrides.of(&key("shop", "10.0.1.1", Some(443))), Effect::default());
    overrides.stand(&web1(), "web1", Some(held(Standing::Disabled, None)));
    assert!(overrides.of(&web1()).disabled && !overrides.of(&web1()).drained);
    overrides.stand(&web1(), "web1", None);
    assert_eq!(overrides.of(&web1()).weight, Some(Weight::new(7)), "the weight stays");
    overrides.weigh(&web1(), "web1", None);
    assert_eq!(overrides, Overrides::default(), "nothing is left behind");
}

#[test]
fn an_override_runs_out_when_it_should_and_is_reported_once() {
    let mut overrides = Overrides::default();
    overrides.stand(&web1(), "web1", Some(held(Standing::Disabled, Some(5000))));
    overrides.weigh(&web1(), "web1", Some(held(3, Some(9000))));
    assert_eq!(overrides.next_ms(), Some(5000));
    assert_eq!(overrides.due(4999), []);
    let expired = |what| Due::Expired { key: web1(), name: "web1".into(), what };
    assert_eq!(overrides.due(5000), [expired("disable")]);
    assert_eq!(overrides.due(5000), []);
    assert_eq!(overrides.next_ms(), Some(9000));
    assert_eq!(overrides.due(u64::MAX), [expired("weight")]);
    assert_eq!((overrides.next_ms(), overrides.iter().count()), (None, 0));
}

#[test]
fn the_deadline_of_a_drain_comes_once_even_over_a_restart_and_the_real_stays_drained() {
    let mut overrides = Overrides::default();
    let deadline = Deadline { at_ms: 5000, then: Then::Reset, done: false, begun: false };
    overrides.stand(&web1(), "web1", Some(held(drained(Some(deadline)), None)));
    assert_eq!(overrides.due(4999), []);
    let due = Due::Deadline { key: web1(), name: "web1".into(), then: Then::Reset };
    assert_eq!((overrides.due(5001), overrides.next_ms()), (vec![due], None));
    assert_eq!(overrides.due(5002), []);
    let mut again = decode(&encode(&overrides)).unwrap();
    assert_eq!(again.due(5003).len(), 1, "it was not acted upon before the restart");
    overrides.deadline_done(&web1());
    let mut again = decode(&encode(&overrides)).unwrap();
    assert_eq!((again.due(u64::MAX), again.next_ms()), (vec![], None));
    assert!(again.of(&web1()).drained);
}

#[test]
fn what_is_written_is_read_back_and_damage_is_noticed() {
    let mut overrides = Overrides::default();
    let deadline = Deadline { at_ms: 5000, then: Then::Keep, done: false, begun: false };
    overrides.stand(&web1(), "web1", Some(held(drained(Some(deadline)), Some(9000))));
    overrides.weigh(&key("six", "2001:db8:1::1", None), "a", Some(held(65_535, None)));
    let bytes = encode(&overrides);
    assert_eq!(decode(&bytes).unwrap(), overrides);
    assert_eq!(decode(&encode(&Overrides::default())).unwrap(), Overrides::default());
    for at in 0..bytes.len() {
        // Cut anywhere but before the newline, or with any byte changed, it is not believed.
        if at < bytes.len() - 1 {
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        if let Ok(other) = decode(&flipped) {
            assert_eq!(other, overrides, "byte {at}: only a blank may differ");
        }
    }
    let newer = String::from_utf8(bytes).unwrap().replace("\"version\":1", "\"version\":2");
    assert!(decode(newer.as_bytes()).unwrap_err().contains("version 2"));
    assert!(decode(b"").is_err());
}

#[test]
fn files_of_the_maintenance_directory_are_kept_apart() {
    let mut overrides = Overrides::default();
    let names = ["10.0.1.1", "web2b", "[2001:DB8:1:0::1]", "wbe1", ".gitkeep", "10.0.1.9:80"];
    let names: Vec<String> = names.map(str::to_owned).into();
    let found = Maintenance::of(&names, &config());
    let keys: Vec<String> =
        found.drained.keys().map(|k| format!("{}/{}", k.service, k.text())).collect();
    let all = ["shop/10.0.1.1:443", "six/2001:db8:1::1", "web/10.0.1.1:80", "web/10.0.1.2:81"];
    assert_eq!(keys, all);
    assert_eq!(found.odd, ["wbe1", "10.0.1.9:80"]);
    assert!(overrides.set_files(found.drained.clone()));
    assert!(!overrides.set_files(found.drained), "nothing new");
    assert!(overrides.of(&web1()).drained);
    assert_eq!(decode(&encode(&overrides)).unwrap().iter().count(), 0, "the files are the state");
    overrides.stand(&web1(), "web1", None);
    assert!(overrides.of(&web1()).drained, "enable does not remove a file");
    overrides.set_files(BTreeMap::new());
    assert!(!overrides.of(&web1()).drained);
}

#[test]
fn a_real_is_found_by_name_address_or_address_and_port() {
    assert_eq!(found("web2", None, false).unwrap(), ["web/10.0.1.2:80"]);
    assert_eq!(found("10.0.1.2:81", None, false).unwrap(), ["web/10.0.1.2:81"]);
    assert_eq!(found("web1", Some("shop"), false).unwrap(), ["shop/10.0.1.1:443"]);
    assert_eq!(found("[2001:DB8:1::1]", None, false).unwrap(), ["six/2001:db8:1::1"]);
    assert_eq!(found("web1", None, true).unwrap().len(), 2);
}

#[test]
fn what_is_unknown_or_ambiguous_is_answered_with_a_suggestion() {
    assert!(found("wbe1", None, false).unwrap_err().contains("did you mean `web1`?"));
    let elsewhere = found("six1", Some("shop"), false).unwrap_err();
    assert!(elsewhere.contains("of service `shop`") && elsewhere.contains("there is `web1`"));
    assert!(found("web1", Some("shpo"), false).unwrap_err().contains("did you mean `shop`?"));
    assert!(found("web1", Some("nothing"), false).unwrap_err().contains("`web`, `shop`"));
    let several = found("web1", None, false).unwrap_err();
    assert!(several.contains("`shop`, `web`") && several.contains("--service"), "{several}");
    let twice = found("10.0.1.2", None, false).unwrap_err();
    assert!(twice.contains("`10.0.1.2:80`, `10.0.1.2:81`"), "{twice}");
}

#[test]
fn a_real_that_left_the_file_is_still_found_by_its_override() {
    let mut overrides = Overrides::default();
    let gone = key("web", "10.0.1.77", Some(80));
    overrides.stand(&gone, "old", Some(held(drained(None), None)));
    for word in ["old", "10.0.1.77", "10.0.1.77:80"] {
        let found = resolve(word, None, false, &config(), &overrides).unwrap();
        assert_eq!(found[0].key, gone, "{word}");
    }
}
