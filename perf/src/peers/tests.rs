//! These need root, the peers and, for xvip, the other binaries; run by hand or in CI:
//! `cargo test -p perf -- --ignored peers`.

use std::fs;
use std::net::SocketAddr;

use dataplane_api::service::Poll;

use super::offloads::Setting;
use super::place::Place;
use super::proxy::Proxy;
use super::system::System;
use super::web::{self, REALS, Workload};
use super::{nftables, usage};
use crate::lab::hosts::CLIENT;
use crate::lab::{Lab, Plan, REAL_PORT};
use crate::packet_path::Family;

const SYSTEMS: [System; 6] = [
    System::Routing,
    System::Xvip(Poll::Adaptive),
    System::XvipDirect(Poll::Adaptive),
    System::Nftables { flowtable: false },
    System::Proxy(Proxy::Haproxy),
    System::Proxy(Proxy::Nginx),
];

fn pages(lab: &Lab, to: SocketAddr) -> bool {
    let url = format!("http://{to}/small");
    lab.node(CLIENT).run("curl", &["-sf", "-o", "/dev/null", "--max-time", "1", &url]).is_ok()
}

#[test]
#[ignore = "needs root, the other binaries and the peers"]
fn pages_come_through_every_system_and_through_none_that_was_stopped() {
    let lab = Lab::hosts(REALS).unwrap();
    let place = Place::anywhere();
    let _server = web::serve(&lab, place.hosts()).unwrap();
    let plan = Plan::new(Family::V4);
    for (system, setting) in SYSTEMS.into_iter().flat_map(|s| Setting::ALL.map(|t| (s, t))) {
        let to = match system {
            System::Routing => SocketAddr::new(plan.real(0), REAL_PORT),
            _ => plan.vip(0),
        };
        place.steer(&lab, system).unwrap();
        setting.apply(&lab, system).unwrap();
        let mut running = system.start(&lab, 10_000, REALS, place.device()).unwrap();
        web::ready(&lab, to).unwrap_or_else(|e| panic!("{}: {e:#}", system.name()));
        let at = (setting, &place);
        let figures = web::measure(&lab, Workload::Close, to, 1, at, &mut running).unwrap();
        assert!(figures[0].value > 10.0, "{}: {figures:?}", system.name());
        running.check().unwrap();
        running.stop(&lab).unwrap();
        assert!(!pages(&lab, to), "{} still serves", system.name());
    }
    assert!(usage::running(&lab).unwrap() > std::time::Duration::ZERO);
}

#[test]
#[ignore = "needs root and nftables"]
fn what_the_kernel_says_of_flow_tables_is_the_truth() {
    let lab = Lab::hosts(1).unwrap();
    let missing = nftables::flowtable_missing(&lab).unwrap();
    let config = fs::read("/proc/config.gz").ok().and_then(|_| {
        let output = std::process::Command::new("zcat").arg("/proc/config.gz").output().ok()?;
        String::from_utf8(output.stdout).ok()
    });
    if let Some(config) = config {
        let has = config.lines().any(|l| l.starts_with("CONFIG_NF_FLOW_TABLE="));
        assert_eq!(missing.is_none(), has, "{missing:?}");
    }
    // Looking leaves nothing.
    assert_eq!(lab.balancer().run("nft", &["list", "ruleset"]).unwrap(), "");
}
