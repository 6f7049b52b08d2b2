use proptest::prelude::*;

use super::*;

const OURS: u32 = 77;

fn seconds(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn wanted(names: &[&str]) -> Vec<Interface> {
    let interface = |name: &&str| Interface {
        name: (*name).into(),
        mode: Default::default(),
        copy: Default::default(),
    };
    names.iter().map(interface).collect()
}

fn link(name: &str, ifindex: u32) -> Link {
    Link {
        name: name.into(),
        ifindex,
        ethernet: true,
        mtu: 1500,
        up: true,
        running: true,
        rx_queues: 2,
        tx_queues: 2,
        ..Link::default()
    }
}

/// A kernel, a data plane that carries out plans, and what it was told to want.
struct World {
    interfaces: Vec<Interface>,
    kernel: KernelState,
    attached: BTreeMap<DeviceId, Attached>,
    reconciler: Reconciler,
    now: Instant,
    /// Interfaces whose driver refuses.
    stubborn: Vec<String>,
    log: Vec<Action>,
}

impl World {
    fn new(names: &[&str], links: &[Link]) -> Self {
        let kernel = KernelState {
            links: links.iter().map(|link| (link.ifindex, link.clone())).collect(),
            ..KernelState::default()
        };
        Self {
            interfaces: wanted(names),
            kernel,
            attached: BTreeMap::new(),
            reconciler: Reconciler::default(),
            now: seconds(1000),
            stubborn: Vec::new(),
            log: Vec::new(),
        }
    }

    fn plan(&self) -> Plan {
        self.reconciler.plan(
            self.now,
            &View {
                interfaces: &self.interfaces,
                workers: 2,
                kernel: &self.kernel,
                dumped: self.now,
                attached: &self.attached,
            },
        )
    }

    /// One turn: plan, and do.
    fn turn(&mut self) -> Vec<Action> {
        let plan = self.plan();
        for action in &plan.actions {
            self.carry_out(action);
        }
        self.now = self.now.after(Duration::from_millis(1));
        self.log.extend(plan.actions.clone());
        plan.actions
    }

    /// A second, in turns until there is nothing to do.
    fn settle(&mut self) {
        for _ in 0..8 {
            if self.turn().is_empty() {
                break;
            }
        }
        assert_eq!(self.plan().actions, [], "doing what is asked leaves nothing to ask");
        self.now = self.now.after(Duration::from_secs(1));
    }

    fn carry_out(&mut self, action: &Action) {
        match action {
            Action::Detach { slot, .. } => self.take_off(*slot),
            Action::MarkUp { slot } => self.attached.get_mut(slot).unwrap().up = true,
            Action::MarkDown { slot } => self.attached.get_mut(slot).unwrap().up = false,
            Action::Attach { slot, ifindex, queues } => {
                assert!(!self.attached.contains_key(slot), "{slot:?} is taken");
                self.put_on(*slot, *ifindex, *queues);
            }
            Action::Reattach { slot, ifindex, queues, .. } => {
                self.take_off(*slot);
                self.put_on(*slot, *ifindex, *queues);
            }
        }
    }

    fn take_off(&mut self, slot: DeviceId) {
        let have = self.attached.remove(&slot).expect("only what is attached is detached");
        if let Some(link) = self.kernel.links.get_mut(&have.ifindex)
            && link.xdp_program == Some(OURS)
        {
            link.xdp_program = None;
        }
    }

    fn put_on(&mut self, slot: DeviceId, ifindex: u32, queues: u32) {
        let other = self.attached.values().any(|other| other.ifindex == ifindex);
        assert!(!other, "interface #{ifindex} is still in another slot");
        let link = self.kernel.links.get_mut(&ifindex).expect("only what exists is attached");
        let problem = if self.stubborn.contains(&link.name) {
            Some("device busy".to_owned())
        } else if link.xdp_program.is_some_and(|id| id != OURS) {
            Some("another program".to_owned())
        } else {
            None
        };
        if problem.is_none() {
            link.xdp_program = Some(OURS);
            let have = Attached {
                name: link.name.clone(),
                ifindex,
                queues,
                program: OURS,
                since: self.now,
                up: false,
                error: None,
            };
            self.attached.insert(slot, have);
        }
        let link = link.clone();
        self.reconciler.attempted(self.now, slot, &link, problem);
    }

    fn link_mut(&mut self, name: &str) -> Option<&mut Link> {
        self.kernel.links.values_mut().find(|link| link.name == name)
    }

    fn delete(&mut self, name: &str) {
        self.kernel.links.retain(|_, link| link.name != name);
    }
}

#[test]
fn a_fresh_start_attaches_what_is_there_and_names_what_is_not() {
    let mut world = World::new(&["eth0", "eth1"], &[link("eth0", 3)]);
    let attach = Action::Attach { slot: DeviceId(0), ifindex: 3, queues: 2 };
    assert_eq!(world.turn(), [attach]);
    assert_eq!(world.turn(), [Action::MarkUp { slot: DeviceId(0) }]);
    let plan = world.plan();
    assert_eq!(plan.actions, []);
    assert!(plan.conditions[0].attached && plan.conditions[0].problem.is_none());
    assert_eq!(plan.conditions[1].link.name(), "absent");
    assert_eq!(plan.conditions[1].problem.as_deref(), Some("interface eth1 not found"));
}

#[test]
fn a_link_that_goes_down_stays_attached_and_comes_back_without_a_new_attachment() {
    let mut world = World::new(&["eth0"], &[link("eth0", 3)]);
    world.settle();
    world.link_mut("eth0").unwrap().running = false;
    assert_eq!(world.plan().conditions[0].link, LinkState::NoCarrier);
    assert_eq!(world.turn(), [Action::MarkDown { slot: DeviceId(0) }]);
    world.link_mut("eth0").unwrap().running = true;
    assert_eq!(world.turn(), [Action::MarkUp { slot: DeviceId(0) }]);
}

#[test]
fn an_interface_that_is_down_is_attached_all_the_same() {
    let mut world = World::new(&["eth0"], &[Link { up: false, ..link("eth0", 3) }]);
    world.settle();
    let condition = &world.plan().conditions[0];
    assert_eq!((condition.link.name(), condition.attached), ("down", true));
    assert!(!world.attached[&DeviceId(0)].up);
}

#[test]
fn a_recreated_interface_is_attached_again_and_a_deleted_one_given_up() {
    let mut world = World::new(&["eth0"], &[link("eth0", 3)]);
    world.settle();
    world.delete("eth0");
    assert!(matches!(&world.turn()[..], [Action::Detach { slot: DeviceId(0), .. }]));
    world.kernel.links.insert(8, link("eth0", 8));
    world.settle();
    assert_eq!(world.attached[&DeviceId(0)].ifindex, 8);
    // Both events lost: the picture jumps from one to the other.
    world.delete("eth0");
    world.kernel.links.insert(9, link("eth0", 9));
    assert!(!world.plan().conditions[0].attached, "the old sockets are dead");
    let actions = world.turn();
    assert!(matches!(&actions[..], [Action::Detach { .. }, Action::Attach { ifindex: 9, .. }]));
}

#[test]
fn interfaces_whose_names_moved_on_unseen_are_detached_before_any_is_attached() {
    let mut world = World::new(&["eth1", "eth2"], &[link("eth0", 3), link("eth1", 4)]);
    world.settle();
    world.link_mut("eth1").unwrap().name = "eth2".into();
    world.link_mut("eth0").unwrap().name = "eth1".into();
    // `put_on` of the world fails the test if the order is wrong.
    world.settle();
    assert_eq!(world.attached.values().map(|have| have.ifindex).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn a_renamed_interface_is_detached_and_the_message_says_its_new_name() {
    let mut world = World::new(&["eth0"], &[link("eth0", 3)]);
    world.settle();
    world.link_mut("eth0").unwrap().name = "wan0".into();
    let plan = world.plan();
    assert!(matches!(&plan.actions[..], [Action::Detach { .. }]));
    assert_eq!(plan.conditions[0].problem.as_deref(), Some("interface eth0 was renamed to wan0"));
}

#[test]
fn interfaces_that_swap_slots_are_all_detached_before_any_is_attached() {
    let mut world = World::new(&["eth0", "eth1"], &[link("eth0", 3), link("eth1", 4)]);
    world.settle();
    world.interfaces.swap(0, 1);
    // `put_on` of the world fails the test if the order is wrong.
    world.settle();
    assert_eq!(world.attached[&DeviceId(0)].ifindex, 4);
    world.interfaces.truncate(1);
    world.settle();
    assert_eq!(world.attached.keys().collect::<Vec<_>>(), [&DeviceId(0)]);
}

#[test]
fn another_number_of_queues_means_new_sockets_and_too_many_a_warning_with_the_remedy() {
    let mut world = World::new(&["eth0"], &[link("eth0", 3)]);
    world.settle();
    assert_eq!(world.plan().conditions[0].warning, None);
    world.link_mut("eth0").unwrap().rx_queues = 8;
    let plan = world.plan();
    assert_eq!(plan.actions, [], "two workers still serve queues 0 and 1");
    let warning = plan.conditions[0].warning.clone().unwrap();
    assert!(warning.contains("ethtool -L eth0 combined 2"), "{warning}");
    world.link_mut("eth0").unwrap().rx_queues = 1;
    assert!(matches!(&world.turn()[..], [Action::Reattach { queues: 1, .. }]));
}

#[test]
fn a_frame_that_does_not_fit_and_a_link_without_ethernet_are_refused_in_words() {
    let mut world = World::new(&["eth0"], &[link("eth0", 3)]);
    world.settle();
    world.link_mut("eth0").unwrap().mtu = 9000;
    let plan = world.plan();
    assert!(matches!(&plan.actions[..], [Action::Detach { .. }]));
    let problem = plan.conditions[0].problem.clone().unwrap();
    assert!(problem.contains("9000") && problem.contains("ip link set eth0 mtu 1500"), "{problem}");
    world.settle();
    world.link_mut("eth0").unwrap().mtu = limits::MTU_MAX;
    world.settle();
    assert!(world.plan().conditions[0].attached);
    world.link_mut("eth0").unwrap().ethernet = false;
    assert!(matches!(&world.turn()[..], [Action::Detach { .. }]));
}

#[test]
fn a_dead_socket_means_a_new_one() {
    let mut world = World::new(&["eth0", "eth1"], &[link("eth0", 3), link("eth1", 4)]);
    world.settle();
    world.attached.get_mut(&DeviceId(1)).unwrap().error = Some("socket is dead (ENXIO)".into());
    world.now = world.now.after(Duration::from_secs(5));
    let actions = world.turn();
    let [Action::Reattach { slot: DeviceId(1), reason, .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert!(reason.contains("ENXIO"));
}

#[test]
fn a_missing_program_is_put_back_and_a_foreign_one_reported() {
    let mut world = World::new(&["eth0"], &[link("eth0", 3)]);
    world.settle();
    world.link_mut("eth0").unwrap().xdp_program = None;
    assert!(matches!(&world.turn()[..], [Action::Reattach { .. }]));
    world.settle();
    world.link_mut("eth0").unwrap().xdp_program = Some(5);
    let problem = world.plan().conditions[0].problem.clone().unwrap();
    assert!(problem.contains("XDP program 5") && problem.contains("xdp off"), "{problem}");
    world.now = world.now.after(Duration::from_secs(40));
    world.turn();
    assert_eq!(world.plan().conditions[0].problem.as_deref(), Some("another program"));
}

#[test]
fn a_picture_older_than_the_attachment_says_nothing_about_its_program() {
    let mut world = World::new(&["eth0"], &[link("eth0", 3)]);
    world.settle();
    world.link_mut("eth0").unwrap().xdp_program = None;
    let plan = world.reconciler.plan(
        world.now,
        &View {
            interfaces: &world.interfaces,
            workers: 2,
            kernel: &world.kernel,
            dumped: world.attached[&DeviceId(0)].since,
            attached: &world.attached,
        },
    );
    assert_eq!(plan.actions, []);
}

#[test]
fn a_failure_is_retried_ever_more_slowly_and_never_holds_up_another_interface() {
    let mut world = World::new(&["bad0", "eth1"], &[link("bad0", 3), link("eth1", 4)]);
    world.stubborn = vec!["bad0".into()];
    let start = world.now;
    let mut attempts = Vec::new();
    while world.now.since(start) < Duration::from_secs(130) {
        let at = world.now.since(start).as_secs();
        if world.turn().iter().any(|a| matches!(a, Action::Attach { slot: DeviceId(0), .. })) {
            attempts.push(at);
        }
        world.now = world.now.after(Duration::from_millis(99));
    }
    let gaps: Vec<_> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() >= 7 && gaps.is_sorted() && gaps[0] <= 2, "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 31), "{gaps:?}");
    assert!(world.attached[&DeviceId(1)].up);
    assert_eq!(world.plan().conditions[0].problem.as_deref(), Some("device busy"));
    // The administrator has done something to the link: tried at once.
    world.stubborn.clear();
    world.link_mut("bad0").unwrap().mtu = 1400;
    assert!(matches!(&world.turn()[..], [Action::Attach { slot: DeviceId(0), .. }]));
}

/// What may happen between two plans.
#[derive(Clone, Debug)]
enum Incident {
    Create(u8, u32),
    Delete(u8),
    Rename(u8, u8),
    Up(u8, bool),
    Carrier(u8, bool),
    Mtu(u8, u32),
    Queues(u8, u32),
    Program(u8, Option<u32>),
    DeadSocket(u8),
    Want(Vec<u8>),
    Refuse(u8, bool),
    Wait(u64),
}

const NAMES: [&str; 4] = ["eth0", "eth1", "eth2", "eth3"];

fn incident() -> impl Strategy<Value = Incident> {
    let name = 0..4u8;
    let program = prop_oneof![Just(None), Just(Some(5)), Just(Some(OURS))];
    let some_names = prop::sample::subsequence(vec![0u8, 1, 2, 3], 0..=4).prop_shuffle();
    prop_oneof![
        (name.clone(), 1..9u32).prop_map(|(n, i)| Incident::Create(n, i)),
        name.clone().prop_map(Incident::Delete),
        (name.clone(), name.clone()).prop_map(|(a, b)| Incident::Rename(a, b)),
        (name.clone(), any::<bool>()).prop_map(|(n, up)| Incident::Up(n, up)),
        (name.clone(), any::<bool>()).prop_map(|(n, on)| Incident::Carrier(n, on)),
        (name.clone(), prop_oneof![Just(1500), Just(9000)]).prop_map(|(n, m)| Incident::Mtu(n, m)),
        (name.clone(), 1..5u32).prop_map(|(n, q)| Incident::Queues(n, q)),
        (name.clone(), program).prop_map(|(n, p)| Incident::Program(n, p)),
        name.clone().prop_map(Incident::DeadSocket),
        some_names.prop_map(Incident::Want),
        (name, any::<bool>()).prop_map(|(n, refuse)| Incident::Refuse(n, refuse)),
        (0..40u64).prop_map(Incident::Wait),
    ]
}

impl World {
    fn suffer(&mut self, incident: &Incident) {
        let name = |n: u8| NAMES[usize::from(n)];
        let exists = |world: &Self, n| world.kernel.link_named(name(n)).is_some();
        match incident {
            Incident::Create(n, i) => {
                if !exists(self, *n) && !self.kernel.links.contains_key(i) {
                    self.kernel.links.insert(*i, link(name(*n), *i));
                }
            }
            Incident::Delete(n) => self.delete(name(*n)),
            Incident::Rename(n, to) => {
                if !exists(self, *to)
                    && let Some(link) = self.link_mut(name(*n))
                {
                    link.name = name(*to).into();
                }
            }
            Incident::DeadSocket(n) => {
                if let Some(have) = self.attached.get_mut(&DeviceId(*n)) {
                    have.error = Some("socket is dead".into());
                }
            }
            Incident::Want(names) => {
                let names: Vec<_> = names.iter().map(|n| name(*n)).collect();
                self.interfaces = wanted(&names);
            }
            Incident::Refuse(n, refuse) => {
                self.stubborn.retain(|other| other != name(*n));
                self.stubborn.extend(refuse.then(|| name(*n).to_owned()));
            }
            Incident::Wait(time) => self.now = self.now.after(Duration::from_secs(*time)),
            Incident::Up(n, _)
            | Incident::Carrier(n, _)
            | Incident::Mtu(n, _)
            | Incident::Queues(n, _)
            | Incident::Program(n, _) => {
                if let Some(link) = self.link_mut(name(*n)) {
                    alter(link, incident);
                }
            }
        }
    }
}

fn alter(link: &mut Link, incident: &Incident) {
    match incident {
        Incident::Up(_, up) => link.up = *up,
        Incident::Carrier(_, on) => link.running = *on,
        Incident::Mtu(_, mtu) => link.mtu = *mtu,
        Incident::Queues(_, queues) => link.rx_queues = *queues,
        // Ours cannot be put there by others.
        Incident::Program(_, program) if *program != Some(OURS) => link.xdp_program = *program,
        _ => {}
    }
}

/// What matters in the end: everything but times.
fn outcome(world: &World) -> Vec<(DeviceId, String, u32, u32, bool, bool)> {
    let view = |(slot, have): (&DeviceId, &Attached)| {
        (*slot, have.name.clone(), have.ifindex, have.queues, have.up, have.error.is_some())
    };
    world.attached.iter().map(view).collect()
}

proptest! {
    #[test]
    fn whatever_happened_and_was_missed_the_end_is_that_of_a_fresh_start(
        story in prop::collection::vec((incident(), any::<bool>()), 0..50),
    ) {
        let links: Vec<_> = (0..3).map(|n| link(NAMES[n], n as u32 + 20)).collect();
        let mut world = World::new(&["eth0", "eth1", "eth2"], &links);
        for (incident, noticed) in &story {
            world.suffer(incident);
            // An event that is lost is an incident after which nobody looks.
            if *noticed {
                world.turn();
            }
        }
        // A driver that refuses only now has not refused what is attached already.
        world.stubborn.clear();
        // One look at the whole truth, then time for the longest wait.
        for _ in 0..4 {
            world.now = world.now.after(Duration::from_secs(61));
            world.settle();
        }
        let mut fresh = World::new(&[], &[]);
        fresh.interfaces = world.interfaces.clone();
        fresh.kernel = world.kernel.clone();
        for link in fresh.kernel.links.values_mut() {
            // Programs of a process that is gone are adopted; ours count as none.
            link.xdp_program = link.xdp_program.filter(|id| *id != OURS);
        }
        fresh.settle();
        prop_assert_eq!(outcome(&world), outcome(&fresh));
        let conditions = |world: &World| world.plan().conditions;
        prop_assert_eq!(conditions(&world), conditions(&fresh));
    }

    #[test]
    fn the_same_view_gives_the_same_plan(
        story in prop::collection::vec(incident(), 0..30),
    ) {
        let mut world = World::new(&["eth0", "eth1"], &[link("eth0", 3), link("eth1", 4)]);
        for incident in &story {
            world.suffer(incident);
            prop_assert_eq!(world.plan(), world.plan());
            world.turn();
        }
    }
}
