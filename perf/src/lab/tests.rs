//! Labs on a real kernel, as root: skipped loudly otherwise, failed under `REQUIRE_NETNS=1`.

use super::*;
use balancer::{Balancer, Config};
use dataplane_api::service::Forwarding;

/// Whether the test may go on.
fn may_run(also: bool) -> bool {
    if rustix::process::geteuid().is_root() && also {
        return true;
    }
    assert_ne!(std::env::var("REQUIRE_NETNS").as_deref(), Ok("1"), "needs root and all binaries");
    eprintln!("SKIPPED: needs root and all binaries");
    false
}

fn namespaces(prefix: &str) -> usize {
    let names = fs::read_dir(namespace::NETNS).into_iter().flatten().flatten();
    let begin = format!("{prefix}-");
    names.filter(|e| e.file_name().to_string_lossy().starts_with(&begin)).count()
}

#[test]
fn a_lab_is_gone_when_it_is_dropped_and_two_do_not_meet() {
    if !may_run(true) {
        return;
    }
    let one = Lab::standard(Links::default()).unwrap();
    let two = Lab::standard(Links { queues: 2, ..Links::default() }).unwrap();
    assert_ne!(one.prefix(), two.prefix());
    assert_ne!(
        one.node(GENERATOR).mac(CLIENT_LINK).unwrap(),
        two.node(GENERATOR).mac(CLIENT_LINK).unwrap()
    );
    let mut sleep = one.node(GENERATOR).command("sleep");
    sleep.arg("600");
    let _process = one.start("sleep", sleep).unwrap();
    two.balancer().forward(true).unwrap();
    two.node(GENERATOR).rps(SERVER_LINK, &[0]).unwrap();
    two.balancer().gro(FRONT, true).unwrap();
    let set = two.balancer().shell("cat /proc/sys/net/ipv4/ip_forward").unwrap();
    assert_eq!(set.trim(), "1");
    let (prefix, directory) = (one.prefix().to_owned(), one.directory().to_owned());
    assert_eq!(namespaces(&prefix), 2);
    drop(one);
    assert_eq!(namespaces(&prefix), 0);
    assert!(!directory.exists());
    assert_eq!(namespaces(two.prefix()), 2, "the other one stands");
}

#[test]
fn a_lab_that_cannot_be_made_leaves_nothing() {
    if !may_run(true) {
        return;
    }
    let prefix = {
        let mut lab = Lab::empty().unwrap();
        lab.add("one").unwrap();
        let error = lab.link(("one", "a-name-of-an-interface-too-long"), ("one", "b"), 1, 1500);
        assert!(error.unwrap_err().to_string().contains("ip -n"));
        assert!(lab.add("one").is_err(), "exists");
        lab.prefix().to_owned()
    };
    assert_eq!(namespaces(&prefix), 0);
}

#[test]
fn the_balancer_is_ready_when_start_returns_and_leaves_nothing() {
    if !may_run(["xvip-dataplane", "xvip-control"].iter().all(|b| balancer::binary(b).is_ok())) {
        return;
    }
    let lab = Lab::standard(Links::default()).unwrap();
    for method in [Forwarding::Nat, Forwarding::Fullnat] {
        let config =
            Config { method, connections: 10_000, reals: 3, services: 2, ..Config::default() };
        let mut balancer = Balancer::start(&lab, &config).unwrap();
        let status = balancer.status().unwrap();
        assert!(status.table.capacity >= 11_250 && status.services.len() == 2, "{status:?}");
        assert!(balancer.resident().unwrap() > 1 << 20);
        assert_eq!(balancer.stop(), Vec::<String>::new());
        assert!(!Path::new("/run").join(lab.prefix()).join("agent.sock").exists());
    }
    let wrong = Config { frames: 1000, ..Config::default() };
    let error = format!("{:#}", Balancer::start(&lab, &wrong).err().unwrap());
    assert!(error.contains("frames"), "{error}");
}
