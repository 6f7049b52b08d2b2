//! Holds connections through the balancer: opens them, sends on all of them, closes them.
//!
//! The steps are apart, so that a search for a rate opens its connections once and sends many times.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use dataplane::address::Mac;
use dataplane::clock;
use dataplane::kernel::Monitor;

use crate::engine::handshake::{self, Goal};
use crate::engine::kernel;
use crate::engine::next_hop::{Move, NextHop};
use crate::engine::sockets::{Go, Sockets};
use crate::engine::xsk::{self, Totals, connections};
use crate::engine::{Live, Phase, Plan, Scene, Side, Watch};
use crate::meter::{Rules, stage};
use crate::neighbors::Stations;
use crate::packet_socket::Neighbors;
use crate::report::{Connections, Share};
use crate::size;
use crate::spec::{Engine, Method, Protocol, Spec};

/// How often people are told.
const TICK: Duration = Duration::from_millis(100);

/// A generator in place: sockets open, the VIP's MAC address known.
pub struct Load {
    spec: Spec,
    scene: Scene,
    sockets: Sockets,
    /// Answers for our addresses as long as this lives.
    _neighbors: Neighbors,
    connections: Connections,
}

impl Load {
    /// Takes the interfaces and finds the VIP.
    ///
    /// # Errors
    /// An interface that is absent or down, what the kernel refused, a VIP that nobody answers for.
    pub fn start(spec: &Spec) -> anyhow::Result<Self> {
        let client = spec.client.as_deref().map(|name| side(name, spec)).transpose()?;
        let server = spec.server.as_deref().map(|name| side(name, spec)).transpose()?;
        ensure!(client.is_some() || server.is_some(), "neither clients nor servers are here");
        let mut stations = Vec::new();
        for (side, addresses, distinct) in [
            (&client, spec.clients.addresses, false),
            (&server, spec.reals, spec.method == Method::Direct),
        ] {
            if let Some(side) = side {
                let stand = Stations { addresses, mac: side.mac, distinct };
                stations.push((side.interface.clone(), side.index, stand));
            }
        }
        let neighbors = Neighbors::start(&stations)?;
        if let Some(client) = &client {
            neighbors
                .resolve(&client.interface, spec.vip.ip(), spec.patience)
                .context("the VIP: is the balancer up, and does it hold the VIP?")?;
            neighbors.follow(&client.interface, spec.vip.ip(), client.next_hop.clone());
        } else if let Some(server) = &server
            && !spec.method.replies_pass()
        {
            // Not waited for: the clients may come later.
            let target = spec.next_hop();
            neighbors.follow(&server.interface, target, server.next_hop.clone());
        }
        let rules = Rules {
            vip: spec.vip,
            protocol: spec.protocol,
            method: spec.method,
            clients: spec.clients,
            reals: spec.reals,
            real_port: spec.real_port,
            key: spec.key,
        };
        let scene = Scene::new(rules, client, server);
        let sockets = Sockets::open(spec, &scene)?;
        let connections =
            Connections { wanted: u64::from(spec.connections), ..Connections::default() };
        Ok(Self { spec: spec.clone(), scene, sockets, _neighbors: neighbors, connections })
    }

    /// What the workers share: addresses, flows, MAC addresses.
    #[must_use]
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// The sockets, for an engine that has to take the interfaces for itself.
    #[must_use]
    pub fn sockets(&mut self) -> (&mut Sockets, &Scene) {
        (&mut self.sockets, &self.scene)
    }

    /// How the generator sits on its interfaces.
    #[must_use]
    pub fn mode(&self) -> String {
        self.sockets.mode()
    }

    /// Opens all connections; a few at first, so that the balancer finds its real servers, and a
    /// wrong VIP is noticed, before thousands are on their way. Fewer than wanted is no error, but a
    /// fault in words.
    ///
    /// # Errors
    /// If none at all can be opened, or threads cannot be started.
    pub fn open(&mut self, watch: &mut Watch<'_>) -> anyhow::Result<Vec<String>> {
        let wanted = u64::from(self.spec.connections);
        let mut faults = Vec::new();
        if self.scene.client.is_some() {
            let few = self.spec.connections.min(self.spec.reals.count().saturating_mul(4));
            faults = self.handshake(Goal::Open, few, watch)?;
            let [opened, ..] = connections(&self.scene);
            if opened == 0 && !watch.interrupted.load(Relaxed) && faults.is_empty() {
                self.unanswered(few)?;
            }
        }
        let start = clock::now();
        let before = Totals::of(&self.sockets.tallies());
        if faults.is_empty() {
            faults = self.handshake(Goal::Open, self.spec.connections, watch)?;
        }
        let took = clock::now().since(start).as_secs_f64();
        let [opened, refused, _] = connections(&self.scene);
        self.connections.opened = opened;
        self.connections.repeated = Totals::of(&self.sockets.tallies()).since(&before).repeated;
        self.connections.opened_per_second = opened as f64 / took.max(1e-9);
        self.connections.reals = self.shares();
        if opened < wanted {
            let silent = wanted.saturating_sub(opened + refused);
            faults.push(format!(
                "{opened} of {wanted} connections were opened; {refused} were reset, {silent} not \
                 answered"
            ));
        }
        Ok(faults)
    }

    /// Why none of the first `wanted` connections could be opened.
    pub(crate) fn unanswered(&self, wanted: u32) -> anyhow::Result<()> {
        let what = match self.spec.protocol {
            Protocol::Tcp => "SYNs",
            Protocol::Udp => "packets",
        };
        let vip = self.spec.vip;
        let [_, refused, _] = connections(&self.scene);
        if refused > 0 {
            bail!(
                "{vip} resets: {refused} of {wanted} {what} were answered with a reset; is this the \
                 address and port of a service with real servers to serve it?"
            );
        }
        let reached = self.scene.flows.iter().filter(|flow| flow.is(stage::REACHED)).count();
        match (&self.scene.server, reached) {
            (Some(_), 0) => bail!(
                "none of {wanted} {what} to {vip} came out at the real servers: is this the address \
                 and port of a {:?} service, forwarded by {:?} to {}:{}?",
                self.spec.protocol,
                self.spec.method,
                self.spec.reals.first(),
                self.spec.real_port
            ),
            (Some(_), _) => bail!(
                "{reached} of {wanted} {what} reached a real server, and no answer came back from \
                 {vip}: do the replies of the real servers pass the balancer?"
            ),
            (None, _) => bail!(
                "none of {wanted} {what} to {vip} was answered: is this the address and port of a \
                 service, and does the other side run (`reflect`)?"
            ),
        }
    }

    /// Sends and judges.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn data(&mut self, plan: Plan, watch: &mut Watch<'_>) -> anyhow::Result<Phase> {
        let before = self.moves().0;
        // Answers are given by the sockets alone.
        let mut phase = if self.spec.engine == Engine::Xdp && self.scene.client.is_some() {
            kernel::data(&mut self.sockets, &self.scene, plan, &self.spec.cores, watch)?
        } else {
            xsk::data(&mut self.sockets, &self.scene, plan, watch)?
        };
        phase.moves = self.moves_since(before);
        Ok(phase)
    }

    /// How often the next hop has moved: the VIP's owner, or where answers go past the balancer.
    #[must_use]
    pub fn moves(&self) -> (u64, Vec<Move>) {
        let hop = self.scene.client.as_ref().map(|side| &*side.next_hop);
        hop.or(self.scene.straight()).map(NextHop::moves).unwrap_or_default()
    }

    /// The same without the first `before` moves.
    #[must_use]
    pub fn moves_since(&self, before: u64) -> (u64, Vec<Move>) {
        let (count, moves) = self.moves();
        let skipped = usize::try_from(before).unwrap_or(usize::MAX);
        (count.saturating_sub(before), moves.into_iter().skip(skipped).collect())
    }

    /// Closes all connections in order (TCP); returns how many were.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn close(&mut self, watch: &mut Watch<'_>) -> anyhow::Result<u64> {
        if self.spec.protocol == Protocol::Tcp && self.scene.client.is_some() {
            self.handshake(Goal::Close, self.spec.connections, watch)?;
        }
        self.connections.closed = self.scene.closed.load(Relaxed);
        Ok(self.connections.closed)
    }

    /// The connections so far. With the clients elsewhere: those that were opened here.
    #[must_use]
    pub fn connections(&self) -> Connections {
        let mut connections = self.connections.clone();
        if self.scene.client.is_none() {
            connections.opened = self.scene.opened.load(Relaxed);
            connections.closed = self.scene.closed.load(Relaxed);
            connections.reals = self.shares();
        }
        connections
    }

    /// Opens or closes the first `flows` connections; ends when that is done, when interrupted, in
    /// trouble or when patience ends. Returns what went wrong.
    fn handshake(
        &mut self,
        goal: Goal,
        flows: u32,
        watch: &mut Watch<'_>,
    ) -> anyhow::Result<Vec<String>> {
        let (scene, spec) = (&self.scene, &self.spec);
        let start = clock::now();
        let paced = Duration::from_secs_f64(f64::from(flows) / spec.open_rate.max(1.0));
        let opened = self.connections.opened;
        let done = |[open, refused, closed]: [u64; 3]| match goal {
            Goal::Open => open + refused >= u64::from(flows),
            Goal::Close => closed + refused >= opened,
        };
        let (mut told, mut before) = (Duration::ZERO, connections(scene));
        let mut changed = Duration::ZERO;
        let mut faults = Vec::new();
        let results = self.sockets.run(
            |worker, stop| handshake::run(worker, scene, (goal, flows), spec.open_rate, stop),
            |trouble| {
                let now = clock::now().since(start);
                let current = connections(scene);
                if current != before {
                    (before, changed) = (current, now);
                }
                if now >= told + TICK {
                    told = now;
                    let phase = if goal == Goal::Open { "opening" } else { "closing" };
                    let live =
                        Live { phase, elapsed: now, connections: current, ..Live::default() };
                    (watch.tick)(&live);
                }
                if let Some(trouble) = trouble {
                    let doing = if goal == Goal::Open { "opened" } else { "closed" };
                    faults.push(format!("{trouble}, while connections were being {doing}"));
                    return Go::Stop;
                }
                let late = now >= changed.max(paced) + spec.patience;
                let over = done(current) || late || watch.interrupted.load(Relaxed);
                if over { Go::Stop } else { Go::On }
            },
        )?;
        results.into_iter().collect::<anyhow::Result<()>>()?;
        Ok(faults)
    }

    /// Connections of each real server that was reached.
    fn shares(&self) -> Vec<Share> {
        let mut counts = vec![0_u64; self.spec.reals.count() as usize];
        for flow in self.scene.flows.iter().filter(|flow| flow.is(stage::REACHED)) {
            if let Some(count) = counts.get_mut(usize::from(flow.real.load(Relaxed))) {
                *count += 1;
            }
        }
        let reals = counts.into_iter().enumerate().filter(|(_, count)| *count > 0);
        reals
            .map(|(index, connections)| {
                let real: IpAddr = self.spec.reals.get(index as u32);
                Share { real: real.to_string(), connections }
            })
            .collect()
    }
}

/// An interface of this machine, up and with a MAC address.
fn side(interface: &str, spec: &Spec) -> anyhow::Result<Side> {
    let mut monitor = Monitor::open()?;
    monitor.follow([interface]);
    let kernel = monitor.dump()?;
    let Some(link) = kernel.link_named(interface) else {
        bail!("there is no interface {interface} here (in this network namespace)");
    };
    ensure!(link.ethernet && link.mac != Mac::default(), "{interface} is no Ethernet interface");
    ensure!(link.up, "{interface} is down: ip link set {interface} up");
    ensure!(link.running, "{interface} has no carrier: is its other end up?");
    let least = size::mtu(spec.size.largest().max(spec.least()));
    ensure!(
        link.mtu >= u32::from(least),
        "{interface} has an MTU of {}, and frames of {} bytes need {least}",
        link.mtu,
        spec.size
    );
    ensure!(
        link.rx_queues.min(link.tx_queues) >= spec.queues,
        "{interface} has {} queues, not {}",
        link.rx_queues.min(link.tx_queues),
        spec.queues
    );
    Ok(Side {
        interface: interface.to_owned(),
        index: link.ifindex,
        mac: link.mac.0,
        next_hop: Arc::default(),
        driver: link.driver.clone(),
    })
}
