//! Real clients and servers through every system in turn, pinned and not.

use std::time::Duration;

use anyhow::Context;
use dataplane_api::service::Poll;

use super::place::Place;
use super::proxy::Proxy;
use super::system::System;
use super::web::{self, REALS, Workload};
use super::{ATTEMPTS, Options, Peer, Sheet, nftables, package};
use crate::lab::{Lab, Plan, Process, REAL_PORT, say};
use crate::packet_path::Family;

/// Room for connections in xvip's table: more than a run opens within a timeout.
const CONNECTIONS: u32 = 1 << 20;
/// How long the servers may take to stop.
const STOP: Duration = Duration::from_secs(5);

/// Runs all of it.
///
/// # Errors
/// If something cannot be set up or measured.
pub(super) fn run(options: &Options, sheet: &mut Sheet) -> anyhow::Result<()> {
    web::need()?;
    let systems = systems(options, sheet)?;
    sheet.note(
        "wrk waits for each answer before it asks again (closed loop): its latencies are those of its own \
         pace. Clients and servers send packets of at most the MTU with their checksums, as on a wire. The \
         balancer's kernel may aggregate them (GRO) and, but for the workload that says otherwise, pass \
         aggregates on whole (TSO): on veth the client then gets them whole too, and saves work that a \
         client on a wire has",
    );
    sheet.note(
        "processor time, where the balancer has a core to itself: of xvip what its busy worker needed, turns \
         that found nothing left out; of the others all that was done on that core",
    );
    let lab = Lab::hosts(REALS)?;
    for place in [Place::apart(), Place::anywhere()] {
        let mut server = web::serve(&lab, place.hosts())?;
        for round in 1..=options.rounds {
            for &system in &systems {
                if !place.suits(system) {
                    continue;
                }
                let (rounds, words) = (options.rounds, place.words());
                say(&format!("http, {words}, round {round} of {rounds}: {}", system.name()));
                turn(&lab, options, sheet, &place, system).with_context(|| {
                    format!("{}, {words}; log of the servers: {}", system.name(), server.tail())
                })?;
            }
        }
        stop(&mut server);
    }
    Ok(())
}

fn stop(server: &mut Process) {
    if !server.end(STOP) {
        say("the servers' nginx did not stop and was killed");
    }
}

/// Those that were asked for and are installed.
fn systems(options: &Options, sheet: &mut Sheet) -> anyhow::Result<Vec<System>> {
    let mut systems = vec![System::Routing, System::Xvip(Poll::Busy), System::Xvip(Poll::Adaptive)];
    let peers = [
        (Peer::Nftables, System::Nftables { flowtable: false }),
        (Peer::Haproxy, System::Proxy(Proxy::Haproxy)),
        (Peer::Nginx, System::Proxy(Proxy::Nginx)),
    ];
    for (peer, system) in peers {
        if !options.against(peer) {
            continue;
        }
        let installed = match system {
            System::Proxy(proxy) => proxy.need().map(drop),
            _ => package::need("nft", "nftables").and_then(|_| nftables::room_for(65536)),
        };
        match installed {
            Ok(()) => systems.push(system),
            // It was asked for by name.
            Err(error) if !options.only.is_empty() => return Err(error),
            Err(error) => {
                say(&format!("{} is left out: {error:#}", system.name()));
                sheet.note(format!("{} was left out: {error:#}", system.name()));
            }
        }
    }
    Ok(systems)
}

/// One system's turn in a round.
fn turn(
    lab: &Lab,
    options: &Options,
    sheet: &mut Sheet,
    place: &Place,
    system: System,
) -> anyhow::Result<()> {
    let plan = Plan::new(Family::V4);
    let to = match system {
        System::Routing => std::net::SocketAddr::new(plan.real(0), REAL_PORT),
        _ => plan.vip(0),
    };
    place.steer(lab, system)?;
    let mut running = system.start(lab, CONNECTIONS, REALS, place.device())?;
    if let Some(mode) = running.mode()? {
        sheet.mode(mode);
    }
    web::ready(lab, to)?;
    for workload in Workload::ALL {
        if workload == Workload::FilesCut {
            System::cut(lab)?;
        }
        let measure = || web::measure(lab, workload, to, options.seconds, place, &mut running);
        let found = sheet.quietly(lab, measure).with_context(|| format!("{workload:?}"))?;
        sheet.figures.add(system.name(), found);
    }
    running.check()?;
    running.stop(lab)
}

/// The longest it may take, for the person who waits.
pub(super) fn estimate(options: &Options) -> Duration {
    let turns = options.rounds * 11;
    Duration::from_secs(u64::from(turns * (options.seconds * 5 + 3)) * ATTEMPTS as u64)
}
