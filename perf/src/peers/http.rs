//! Real clients and servers through every system in turn, pinned and not.

use std::time::Duration;

use anyhow::Context;
use dataplane_api::service::Poll;

use super::offloads::{self, Setting};
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
        "wrk waits for each answer before it asks again (closed loop): its latencies are those of its own pace",
    );
    options.settings().iter().for_each(|setting| sheet.note(setting.explained()));
    sheet.note(
        "xvip direct: requests pass the balancer, which changes the MAC address only; servers hold the VIP and answer on \
         a link of their own to the client. No peer here can do that (IPVS could); it is what one would take for files",
    );
    sheet.note(
        "processor time, where the balancer has a core to itself: of xvip what its busy worker needed, turns \
         that found nothing left out; of the others all that was done on that core",
    );
    let lab = Lab::hosts(REALS)?;
    for place in [Place::apart(), Place::anywhere()] {
        let mut server = web::serve(&lab, place.hosts())?;
        let suited: Vec<_> = systems.iter().copied().filter(|s| place.suits(*s)).collect();
        for round in 1..=options.rounds {
            for &setting in options.settings() {
                for &system in &suited {
                    let words = format!("{}, {}, {}", system.name(), setting.word(), place.words());
                    say(&format!("http, round {round} of {}: {words}", options.rounds));
                    turn(&lab, options, sheet, (setting, &place), system).with_context(|| {
                        format!("{words}; log of the servers: {}", server.tail())
                    })?;
                }
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
    let mut systems = vec![System::Routing];
    for poll in [Poll::Busy, Poll::Adaptive] {
        systems.extend([System::Xvip(poll), System::XvipDirect(poll)]);
    }
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
    (setting, place): (Setting, &Place),
    system: System,
) -> anyhow::Result<()> {
    let plan = Plan::new(Family::V4);
    let to = match system {
        System::Routing => std::net::SocketAddr::new(plan.real(0), REAL_PORT),
        _ => plan.vip(0),
    };
    place.steer(lab, system)?;
    setting.apply(lab, system)?;
    let side = if system.is_xvip() { "xvip" } else { "peers and routing" };
    sheet.note(format!(
        "offloads in the setting {}, {side}: {}",
        setting.word(),
        offloads::found(lab)?
    ));
    let mut running = system.start(lab, CONNECTIONS, REALS, place.device())?;
    if let Some(mode) = running.mode()? {
        sheet.mode(mode);
    }
    web::ready(lab, to)?;
    for &workload in Workload::of(setting) {
        let measure =
            || web::measure(lab, workload, to, options.seconds, (setting, place), &mut running);
        let found = sheet.quietly(lab, measure).with_context(|| format!("{workload:?}"))?;
        sheet.figures.add(system.name(), found);
    }
    running.check()?;
    running.stop(lab)
}

/// The longest it may take, for the person who waits.
pub(super) fn estimate(options: &Options) -> Duration {
    // Those of both places.
    let systems = 7 + 6;
    let workloads: usize = options.settings().iter().map(|s| Workload::of(*s).len()).sum();
    let turn = workloads as u32 * (options.seconds + 1) + 4 * options.settings().len() as u32;
    Duration::from_secs(u64::from(options.rounds * systems * turn) * ATTEMPTS as u64)
}
