use proptest::prelude::*;

use super::*;
use crate::rate::Rate;
use crate::size::Size;
use crate::spec::{Method, Verb};

const BASE: &[(&str, &str)] =
    &[("client", "cli0"), ("server", "srv0"), ("vip", "198.18.255.1:80"), ("key", "7")];

/// The base with these on top.
fn with(verb: &str, more: &[(&'static str, &'static str)]) -> Result<Run, Errors> {
    let mut flags = BASE.to_vec();
    for flag in more {
        flags.retain(|(key, _)| *key != flag.0);
        flags.push(*flag);
    }
    build(verb, &flags, None)
}

fn refusal(verb: &str, more: &[(&'static str, &'static str)]) -> String {
    with(verb, more).expect_err(&format!("{verb} {more:?} was taken")).to_string()
}

fn file(verb: &str, text: &str) -> Result<Run, Errors> {
    build(verb, &[], Some(Scenario { text, name: "a.toml" }))
}

#[test]
fn the_command_line_is_sound_and_every_verb_has_its_options() {
    command().debug_assert();
    let line = ["xvip-pktgen", "ndr", "--client", "c", "--server", "s", "--vip", "10.0.0.1:80"];
    let run = from_matches(&command().get_matches_from(line)).unwrap();
    assert!(matches!(&run.spec.verb, Verb::Ndr(n) if n.sizes.len() == 7));
    assert!(command().try_get_matches_from(["xvip-pktgen", "load", "--sizes", "64"]).is_err());
}

#[test]
fn defaults_are_a_hundred_thousand_connections_at_a_gigabit() {
    let run = with("load", &[]).unwrap();
    assert_eq!((run.spec.connections, run.spec.rate), (100_000, Rate::Bits(1e9)));
    assert_eq!((run.spec.replies, run.spec.real_port), (0.5, 80));
    assert!((run.spec.pps() - 1e9 / 4256.0).abs() < 1.0 && run.notes.is_empty());
    assert_eq!(with("load", &[("method", "direct")]).unwrap().spec.replies, 0.0);
}

#[test]
fn a_flag_overrides_the_file_and_the_file_the_default() {
    let text = "vip = '10.0.0.1:80'\nclient = 'a'\nserver = 'b'\nconnections = 5\nsize = 128\n\
                [ndr]\nsizes = [64, 'imix']\nfrom = '1kpps'\n[cps]\nfrom = 7\n";
    let scenario = Scenario { text, name: "a.toml" };
    let run = build("ndr", &[("size", "imix")], Some(scenario)).unwrap();
    assert_eq!((run.spec.connections, run.spec.size), (5, Size::Imix));
    let Verb::Ndr(ndr) = run.spec.verb else { panic!() };
    assert_eq!(ndr.sizes, [Size::Fixed(64), Size::Imix]);
    assert_eq!(ndr.from, Rate::Packets(1e3));
    assert!(matches!(file("cps", text).unwrap().spec.verb, Verb::Cps(c) if c.from == 7.0));
}

#[test]
fn the_scenario_of_a_report_gives_the_same_run_again() {
    for verb in ["load", "cps", "ndr", "flood"] {
        let run = match verb {
            "flood" => with(verb, &[("syn_flood", "1k"), ("max_loss", "0.1%")]),
            _ => with(verb, &[("cores", "0,1"), ("balancer", "/run/x/agent.sock")]),
        };
        let run = run.unwrap();
        let text = toml::to_string(&run.scenario).unwrap();
        let again = file(verb, &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(again.spec, run.spec, "{text}");
        assert_eq!(again.scenario, run.scenario);
    }
}

#[test]
fn rates_that_cannot_be_are_refused() {
    for (text, why) in [
        ("0pps", "above 0"),
        ("0gbit", "above 0"),
        ("101gbit", "100 Gbit/s"),
        ("2000mpps", "nanosecond"),
        ("100k", "no unit"),
        ("fast", "expected packets or bits"),
        ("-5gbit", "expected packets or bits"),
    ] {
        let refused = refusal("load", &[("rate", text)]);
        assert!(refused.starts_with("error: --rate: ") && refused.contains(why), "{refused}");
    }
    for flag in ["0", "0.5", "nan", "inf", "300m", "x"] {
        refusal("load", &[("open_rate", flag)]);
        refusal("cps", &[("from", flag), ("to", "400m")]);
    }
    assert!(refusal("cps", &[("from", "10k"), ("to", "5k")]).contains("below the first"));
    assert!(refusal("ndr", &[("from", "1gbit"), ("to", "1gbit")]).contains("--from"));
    assert!(refusal("flood", &[]).contains("flood of nothing"));
    assert!(refusal("flood", &[("syn_flood", "1g")]).contains("100 Gbit/s"));
}

#[test]
fn sizes_that_cannot_be_are_refused_and_small_ones_raised() {
    for size in ["63", "1519", "0", "big", "64.5", "70000"] {
        assert!(refusal("load", &[("size", size)]).contains("expected 64 to 1518 bytes or imix"));
        assert!(refusal("ndr", &[("sizes", size)]).contains("--sizes"));
    }
    let v6 = [("vip", "[2001:db8:18::ffff:1]:80"), ("size", "64"), ("sizes", "64,70,128")];
    let run = with("load", &v6[..2]).unwrap();
    assert_eq!(run.spec.size, Size::Fixed(84));
    assert!(run.notes[0].contains("84 bytes taken"), "{:?}", run.notes);
    let Verb::Ndr(ndr) = with("ndr", &v6).unwrap().spec.verb else { panic!() };
    assert_eq!(ndr.sizes, [Size::Fixed(84), Size::Fixed(128)]);
}

#[test]
fn more_connections_than_the_clients_have_ports_are_refused() {
    let one = [("clients", "198.18.0.1"), ("client_port", "60000"), ("connections", "5537")];
    let refused = refusal("load", &one);
    assert!(refused.contains("5537 connections do not fit 1 client address"), "{refused}");
    assert!(refused.contains("at most 5536"), "{refused}");
    assert!(with("load", &[one[0], one[1], ("connections", "5536")]).is_ok());
    for text in ["0", "-1", "1.5", "1e9", "", "68g"] {
        refusal("load", &[("connections", text)]);
    }
}

#[test]
fn addresses_have_one_role_and_one_family() {
    for (more, why) in [
        (vec![("vip", "198.18.0.5:80")], "among the clients' addresses"),
        (vec![("vip", "198.19.0.2:80")], "among the real servers' addresses"),
        (vec![("reals", "198.18.0.9")], "also clients' addresses"),
        (vec![("reals", "2001:db8::1")], "only a tunnel"),
        (vec![("clients", "2001:db8::1+10")], "family"),
        (vec![("vip", "198.18.255.1")], "expected like"),
        (vec![("vip", "198.18.255.1:0")], "a port"),
        (vec![("vip", "224.0.0.1:80")], "no address of a host"),
        (vec![("clients", "127.0.0.1+4")], "no address of a host"),
        (vec![("reals", "255.255.255.250+10")], "there are not 10"),
        (vec![("reals", "198.19.0.1+0")], "how many"),
        (vec![("reals", "")], "how many"),
        (vec![("method", "direct"), ("real_port", "8080")], "expected 80"),
        (vec![("method", "tunnel"), ("replies", "0.5")], "do not pass the balancer"),
        (vec![("server", "cli0")], "also the clients' interface"),
        (vec![("server", "a/b")], "name of an interface"),
        (vec![("client", "far-too-long-name")], "name of an interface"),
    ] {
        let refused = refusal("load", &more);
        assert!(refused.contains(why), "{more:?}: {refused}");
    }
    let tunnel = with("load", &[("method", "tunnel"), ("reals", "2001:db8::1+2")]).unwrap();
    assert_eq!(tunnel.spec.method, Method::Tunnel);
}

#[test]
fn each_verb_says_which_interface_it_lacks() {
    let without = |verb: &str, key: &str| {
        let flags: Vec<_> = BASE.iter().copied().filter(|(k, _)| *k != key).collect();
        build(verb, &flags, None)
    };
    assert!(without("load", "server").is_ok(), "the real servers are elsewhere");
    assert_eq!(without("load", "server").unwrap().spec.key, 7);
    assert!(without("load", "client").unwrap_err().to_string().contains("`reflect`"));
    assert!(without("reflect", "server").unwrap_err().to_string().contains("--server: missing"));
    let reflect = without("reflect", "client").unwrap();
    assert_eq!(reflect.spec.duration, std::time::Duration::ZERO, "until interrupted");
    assert!(without("load", "vip").unwrap_err().to_string().contains("--vip: missing"));
    let both = build("load", &BASE[..3], None).unwrap();
    assert_ne!(both.spec.key, build("load", &BASE[..3], None).unwrap().spec.key, "random");
}

#[test]
fn words_cores_and_shares_are_checked() {
    assert!(refusal("load", &[("method", "natt")]).contains("did you mean `nat`?"));
    assert!(refusal("load", &[("protocol", "sctp")]).contains("expected one of tcp, udp"));
    assert!(refusal("load", &[("copy", "zero_copy")]).contains("did you mean `zero-copy`?"));
    for (key, texts) in [
        ("cores", ["", "a", "3-1", "0,0"]),
        ("queues", ["0", "65", "-1", "1.5"]),
        ("max_loss", ["1", "-0.1", "nan", "101%"]),
        ("replies", ["1", "-0.1", "inf", "x"]),
        ("seconds", ["0", "-1", "nan", "1d"]),
        ("patience", ["0", "700", "", "5k"]),
        ("key", ["x", "-1", "0x1ffffffff", "4294967296"]),
        ("seed", ["x", "-1", "1.5", ""]),
    ] {
        for text in texts {
            let refused = refusal("load", &[(key, text)]);
            assert!(refused.contains(&format!("--{}", key.replace('_', "-"))), "{refused}");
        }
    }
    let run = with("load", &[("cores", "1-2,0"), ("max_loss", "0.1%"), ("seconds", "500ms")]);
    let spec = run.unwrap().spec;
    assert_eq!((spec.cores, spec.queues, spec.max_loss), (vec![1, 2, 0], 3, 0.001));
    assert_eq!(spec.duration.as_millis(), 500);
}

#[test]
fn every_error_is_told_at_once() {
    let refused = refusal("load", &[("rate", "0pps"), ("size", "9"), ("method", "x")]);
    assert_eq!(refused.matches("error: ").count(), 3, "{refused}");
}

#[test]
fn errors_of_a_file_have_their_place_and_a_suggestion() {
    let text = "vip = \"198.18.255.1:80\"\nclient = \"a\"\nserver = \"b\"\nconections = 5\n";
    let refused = file("load", text).unwrap_err().to_string();
    assert!(refused.contains("a.toml:4:1") && refused.contains("did you mean `connections`?"));
    let refused = file("load", "rate = 5\nvip = true\n[ndr]\nfron = 1\n").unwrap_err().to_string();
    assert!(refused.contains("a.toml:2:7") && refused.contains("cannot be a boolean"), "{refused}");
    assert!(
        refused.contains("a.toml:4:1") && refused.contains("did you mean `from`?"),
        "{refused}"
    );
    let refused = file("load", "sizes = [64]\n").unwrap_err().to_string();
    assert!(refused.contains("`sizes` belongs under [ndr]"), "{refused}");
    let refused = file("load", "[ndr]\nrate = '1gbit'\n").unwrap_err().to_string();
    assert!(refused.contains("stands above the first table"), "{refused}");
    let refused = file("load", "size = 64\nsize = 65\n").unwrap_err().to_string();
    assert!(refused.contains("a.toml:2:1") && refused.contains("duplicate key"), "{refused}");
    let text = "vip = '198.18.255.1:80'\nclient = 'a'\nserver = 'b'\n\nrate = '0pps'\n";
    let refused = file("load", text).unwrap_err().to_string();
    assert!(refused.contains("a.toml:5:8") && refused.contains("above 0"), "{refused}");
}

#[test]
fn an_option_that_a_verb_does_not_have_is_refused_and_never_ignored() {
    let refused = refusal("load", &[("conections", "5")]);
    assert!(refused.contains("`load` has no option `conections`"), "{refused}");
    assert!(refused.contains("did you mean `connections`?"), "{refused}");
    assert!(refused.contains("expected one of client, server, vip"), "{refused}");
    let refused = refusal("load", &[("sizes", "64")]);
    assert!(refused.contains("`--sizes` is an option of `ndr`"), "{refused}");
    let refused = refusal("flood", &[("from", "5"), ("syn_flood", "1k")]);
    assert!(refused.contains("`--from` is an option of `cps` and `ndr`"), "{refused}");
    let both = build("load", &[("sizes", "64")], Some(Scenario { text: "x = 1", name: "a.toml" }));
    let both = both.unwrap_err().to_string();
    assert!(both.contains("`sizes`") && both.contains("a.toml:1:1"), "all at once: {both}");

    let error = command().try_get_matches_from(["xvip-pktgen", "load", "--sizes", "64"]);
    assert_eq!(hint(&error.unwrap_err()).unwrap(), "`--sizes` is an option of `ndr`");
    let error = command().try_get_matches_from(["xvip-pktgen", "load", "--sises", "64"]);
    assert_eq!(hint(&error.unwrap_err()), None);
}

#[test]
fn a_name_of_a_table_is_no_key() {
    let refused = file("load", "ndr = 5\n").unwrap_err().to_string();
    assert!(refused.contains("a.toml:1:7") && refused.contains("expected a table [ndr]"));
    let refused = file("load", "[load]\nrate = '1gbit'\n").unwrap_err().to_string();
    assert!(refused.contains("unknown key `load` in a scenario"), "{refused}");
}

#[test]
fn what_is_no_readable_text_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.toml");
    let why = |path: &Path| file::read(path, "a.toml").unwrap_err().to_string();
    assert!(why(&path).contains("a.toml: cannot open: No such file"));
    assert!(why(dir.path()).contains("not a regular file"));
    std::fs::write(&path, b"vip = 1\nx = \"\xff\"").unwrap();
    assert!(why(&path).contains("line 2 is not UTF-8"));
    std::fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    assert!(why(&path).contains("larger than 1 MiB"));
    let fifo = std::process::Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap();
    assert!(fifo.success());
    assert!(why(&dir.path().join("fifo")).contains("not a regular file"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(
        text in "\\PC{0,40}", index in 0..OPTIONS.len(), verb in 0..VERBS.len(),
    ) {
        let (option, verb) = (&OPTIONS[index], VERBS[verb].0);
        if option.section.is_empty() || option.section == verb {
            let mut flags = BASE.to_vec();
            flags.push((option.key, &text));
            let _ = build(verb, &flags, None).map_err(|e| e.to_string());
        }
        let _ = file(verb, &text).map_err(|e| e.to_string());
        let _ = file(verb, &format!("{} = {text}\n", option.key)).map_err(|e| e.to_string());
    }
}
