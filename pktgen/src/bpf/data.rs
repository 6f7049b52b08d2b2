//! The programs of the data phase (`bpf/data.bpf.c`): what they are told, and what they found.
//!
//! [`Data`] is made, read and dropped by one thread, in the namespace of its interfaces;
//! [`Data::transmitter`] gives the generating thread what it needs. Nothing of it outlives the
//! value.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, ensure};
use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, Object, OpenObject, TC_INGRESS, TcHook, TcHookBuilder,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::layout::{Config, Flow, Heard, State, Tally, Turn, WAYS};
use super::{Ready, load, map, program, run_live};

/// What is loaded into the kernel.
pub(crate) struct Setup<'a> {
    pub(crate) config: Config,
    /// What is sent, in this order, again and again; empty: nothing that way.
    pub(crate) turns: [&'a [Turn]; WAYS],
    /// Place of each flow, by number, in the next two; [`NOWHERE`] if it is not sent on.
    pub(crate) places: &'a [u32],
    /// What is expected, in the order of sending; empty: nothing is received that way.
    pub(crate) flows: [&'a [Flow]; WAYS],
    /// Interfaces where requests and replies arrive; none: somewhere else.
    pub(crate) sinks: [Option<u32>; WAYS],
}

/// The programs of one data phase.
pub struct Data {
    state: MapHandle,
    hops: MapHandle,
    heard: MapHandle,
    tallies: MapHandle,
    flows: [MapHandle; WAYS],
    /// Dropped in this order: the filters before the programs they run.
    _sinks: Vec<Sink>,
    _handed: Link,
    object: Object,
}

impl Data {
    /// Loads the programs and attaches the sinks.
    ///
    /// # Errors
    /// If the kernel refuses the programs or an interface is gone.
    pub(crate) fn new(setup: &Setup<'_>) -> anyhow::Result<Self> {
        let elf = include_bytes!(concat!(env!("OUT_DIR"), "/data.bpf.o"));
        let object = load(elf, |object| prepare(object, setup)).context(
            "the XDP engine needs Linux 5.18 or newer with BTF, CAP_BPF, CAP_NET_ADMIN and \
             CAP_PERFMON",
        )?;
        fill(&map(&object, PLACES)?, setup.places)?;
        for (way, turns) in setup.turns.into_iter().enumerate() {
            fill(&map(&object, TURNS[way])?, turns)?;
            fill(&map(&object, FLOWS[way])?, setup.flows[way])?;
            let port = setup.config.ports[way];
            if port != 0 {
                map(&object, "ports")?
                    .update(&(way as u32).to_ne_bytes(), &port.to_ne_bytes(), MapFlags::ANY)
                    .with_context(|| format!("sending on interface {port}"))?;
            }
        }
        let handed = program(&object, "handed")?.attach_trace().context("counting what leaves")?;
        let mut sinks = Vec::new();
        for (name, ifindex) in ["sink_requests", "sink_replies"].into_iter().zip(setup.sinks) {
            if let Some(ifindex) = ifindex {
                sinks.push(Sink::attach(&object, name, ifindex)?);
            }
        }
        let data = Self {
            state: map(&object, STATE)?,
            hops: map(&object, ".data.hops")?,
            heard: map(&object, ".data.heard")?,
            tallies: map(&object, "tallies")?,
            flows: [map(&object, FLOWS[0])?, map(&object, FLOWS[1])?],
            _sinks: sinks,
            _handed: handed,
            object,
        };
        data.send_to(setup.config.routes.map(|route| {
            let [a, b, c, d, e, f, ..] = route.head;
            [a, b, c, d, e, f]
        }))?;
        Ok(data)
    }

    /// Where the frames of each way go from now on.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn send_to(&self, macs: [[u8; 6]; WAYS]) -> anyhow::Result<()> {
        // Whole words, which the kernel copies whole: no packet goes to half of each.
        let words = macs.map(|[a, b, c, d, e, f]| [a, b, c, d, e, f, 0, 0]);
        let value = words.as_bytes();
        ensure!(self.hops.value_size() as usize == value.len(), "next hops of another size");
        Ok(self.hops.update(&0_u32.to_ne_bytes(), value, MapFlags::ANY)?)
    }

    /// When nothing came, each way.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn heard(&self) -> anyhow::Result<[Heard; WAYS]> {
        let value = self.heard.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)?.context("no times")?;
        <[Heard; WAYS]>::read_from_bytes(&value).ok().context("times of another size")
    }

    /// It is silent from `now` on.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn listen(&self, now: u64) -> anyhow::Result<()> {
        let heard = [Heard { last: now, since: now, ..Heard::default() }; WAYS];
        Ok(self.heard.update(&0_u32.to_ne_bytes(), heard.as_bytes(), MapFlags::ANY)?)
    }

    /// What the generating thread runs. `frame` is as long as the largest frame and holds the
    /// payload.
    pub(crate) fn transmitter(&self, frame: Vec<u8>) -> anyhow::Result<Transmitter> {
        let program = program(&self.object, "transmit")?;
        let program = program.as_fd().try_clone_to_owned()?;
        let ready = Ready::new(program.as_fd())?;
        Ok(Transmitter { program, _ready: ready, state: map(&self.object, STATE)?, frame })
    }

    /// Pace and progress. Written by the program meanwhile: counters may be a packet apart.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn state(&self) -> anyhow::Result<State> {
        read_state(&self.state)
    }

    /// What was received in one way so far.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn tally(&self, way: usize) -> anyhow::Result<Box<Tally>> {
        let values = self.tallies.lookup_percpu(&(way as u32).to_ne_bytes(), MapFlags::ANY)?;
        let mut sum = Box::new(Tally::new_zeroed());
        for value in values.context("no such way")? {
            let (tally, _) =
                Tally::ref_from_prefix(&value).ok().context("a tally of another size")?;
            sum.add(tally);
        }
        Ok(sum)
    }

    /// Highest number and count of the packets of each flow received in one way, in the order of
    /// sending.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn flows(&self, way: usize) -> anyhow::Result<Vec<(u32, u32)>> {
        let map = &self.flows[way];
        let mut flows = Vec::with_capacity(map.max_entries() as usize);
        for (_, value) in map.lookup_batch(4096, MapFlags::ANY, MapFlags::ANY)? {
            let flow = Flow::read_from_bytes(&value).ok().context("a flow of another size")?;
            flows.push(((flow.seen >> 32) as u32, flow.received));
        }
        ensure!(flows.len() == map.max_entries() as usize, "reading the flows failed midway");
        Ok(flows)
    }

    /// Runs one of the programs on a frame that goes nowhere: its verdict, and the frame after it.
    ///
    /// # Errors
    /// If there is no such program or it cannot run.
    pub fn trial(&self, name: &str, frame: &[u8]) -> anyhow::Result<(u32, Vec<u8>)> {
        let mut out = vec![0; frame.len() + 256];
        let output = program(&self.object, name)?.test_run(libbpf_rs::ProgramInput {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..Default::default()
        })?;
        let verdict = output.return_value;
        let frame = output.data.map(|data| data.to_vec()).unwrap_or_default();
        Ok((verdict, frame))
    }
}

const TURNS: [&str; WAYS] = ["requests", "replies"];
const FLOWS: [&str; WAYS] = ["request_flows", "reply_flows"];
const PLACES: &str = "places";
const STATE: &str = ".data.state";

/// Gives the maps their sizes and the programs their constants.
fn prepare(object: &mut OpenObject, setup: &Setup<'_>) -> anyhow::Result<()> {
    let mut told = false;
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if name == PLACES {
            map.set_max_entries(setup.places.len().max(1) as u32)?;
        }
        for way in 0..WAYS {
            if name == TURNS[way] {
                map.set_max_entries(setup.turns[way].len().max(1) as u32)?;
            } else if name == FLOWS[way] {
                map.set_max_entries(setup.flows[way].len().max(1) as u32)?;
            }
        }
        if name == ".rodata.config" {
            let value = map.initial_value_mut().context("no constants")?;
            let mut config = setup.config;
            // The inode's number is the name of a namespace.
            config.namespace = std::fs::metadata("/proc/thread-self/ns/net")?.ino() as u32;
            let config = config.as_bytes();
            ensure!(value.len() >= config.len(), "constants of another size");
            value[..config.len()].copy_from_slice(config);
            told = true;
        }
    }
    ensure!(told, "the object has no constants");
    Ok(())
}

/// Fills an array.
fn fill<T: IntoBytes + Immutable>(map: &MapHandle, values: &[T]) -> anyhow::Result<()> {
    ensure!(map.value_size() as usize == size_of::<T>(), "a map of other values");
    for (chunk, part) in values.chunks(4096).enumerate() {
        let first = chunk as u32 * 4096;
        let keys: Vec<u8> =
            (0..part.len() as u32).flat_map(|n| (first + n).to_ne_bytes()).collect();
        let count = part.len() as u32;
        map.update_batch(&keys, part.as_bytes(), count, MapFlags::ANY, MapFlags::ANY)
            .context("telling the kernel the flows")?;
    }
    Ok(())
}

fn read_state(map: &MapHandle) -> anyhow::Result<State> {
    let value = map.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)?.context("no state")?;
    Ok(State::read_from_prefix(&value).ok().context("a state of another size")?.0)
}

/// Makes packets, on the thread that calls it.
pub(crate) struct Transmitter {
    program: OwnedFd,
    _ready: Ready,
    state: MapHandle,
    frame: Vec<u8>,
}

impl Transmitter {
    /// Sets the pace.
    pub(crate) fn start(&self, state: &State) -> anyhow::Result<()> {
        let value = state.as_bytes();
        ensure!(self.state.value_size() as usize == value.len(), "a state of another size");
        Ok(self.state.update(&0_u32.to_ne_bytes(), value, MapFlags::ANY)?)
    }

    /// Sends what is due, for `runs` runs of the program.
    pub(crate) fn run(&self, runs: u32, batch: u32) -> anyhow::Result<()> {
        run_live(self.program.as_fd(), &self.frame, runs, batch).context(
            "running the program on live frames, which needs Linux 5.18 or newer and \
             CAP_NET_ADMIN",
        )
    }
}

/// A filter at the ingress of an interface.
struct Sink {
    hook: TcHook,
}

impl Sink {
    fn attach(object: &Object, name: &str, ifindex: u32) -> anyhow::Result<Self> {
        let program = program(object, name)?;
        let mut hook = TcHookBuilder::new(program.as_fd())
            .ifindex(ifindex.cast_signed())
            .replace(true)
            .handle(1)
            .priority(1)
            .hook(TC_INGRESS);
        // What a killed generator left is replaced.
        hook.create()
            .and_then(|mut hook| hook.attach())
            .map(|hook| Self { hook })
            .with_context(|| format!("attaching to the ingress of interface {ifindex} (clsact)"))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // The interface may be gone.
        let _ = self.hook.detach();
    }
}
