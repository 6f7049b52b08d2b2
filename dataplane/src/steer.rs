//! Loads, attaches and feeds the steering program (`bpf/steer.bpf.c`), which decides whether a
//! packet is ours or the kernel's.
//!
//! Used by the management thread. Program, maps and attachments outlive the process: they are
//! pinned in a BPF file system, and the next process takes them over without a moment in which an
//! interface has no program. What was attached keeps dropping service traffic in between, so that
//! the kernel cannot answer it with resets.
//!
//! [`Steer::open`] needs `CAP_BPF`, `CAP_NET_ADMIN`, `CAP_PERFMON` (the program compares packet
//! pointers) and write access to the directory; everything else gets by without `CAP_PERFMON`.

mod bpf;
mod rules;

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use dataplane_api::service::XdpMode;

use crate::address::DeviceId;
use crate::clock::Instant;
use crate::limits::{INTERFACES, WORKERS};
use bpf::{Map, Mode, Object};
pub use rules::{Action, PortAction, Rules, flag};
use rules::{Content, RULES, encode};

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));
/// Of `statfs(2)`, for a BPF file system (`include/uapi/linux/magic.h`).
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
/// XDP actions (`include/uapi/linux/bpf.h`).
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

const _: () = assert!(INTERFACES == 16 && WORKERS == 64, "SLOTS and QUEUES in bpf/steer.h");

/// What the program counted since its maps were made, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets for the data plane.
    pub ours: u64,
    /// Packets left to the kernel.
    pub kernel: u64,
    /// Packets for the data plane, dropped because there was no socket.
    pub no_socket: u64,
}

const XSKS: &CStr = c"xsks";
const SLOTS: &CStr = c"slots";
const STATS: &CStr = c"stats";
const FLOWS: &CStr = c"flows";
/// A connection of the kernel that has had no packet for so long is forgotten; as long as LVS keeps
/// an established one (`ip_vs_proto_tcp.c`).
const FLOW_IDLE: Duration = Duration::from_secs(900);
/// Connections of the kernel looked at in one call.
const FLOWS_STEP: usize = 1024;

/// The loaded program with its maps and attachments.
pub struct Steer {
    dir: PathBuf,
    program: OwnedFd,
    program_id: u32,
    rules: [Map; RULES.len()],
    xsks: Map,
    slots: Map,
    stats: Map,
    flows: Map,
    /// Where [`Self::kernel_flows`] goes on, and what it has counted so far.
    flow: (Option<Vec<u8>>, u64),
    /// Connections that the kernel had at the last whole count.
    flow_count: u64,
    /// What is in `rules`, as far as we know.
    shadow: Content,
    /// By interface index.
    links: BTreeMap<u32, OwnedFd>,
}

impl Steer {
    /// Loads the program, on the maps pinned in `pin_dir` if they have the shape it expects, else
    /// on new ones, which are pinned there. The directory is made if need be.
    ///
    /// Attachments found there stay as they are, with the program they have, until [`Self::attach`]
    /// is called for their interface; those of interfaces that are gone are removed.
    ///
    /// # Errors
    /// `pin_dir` is not on a BPF file system, or what the kernel refused, with the verifier's
    /// words.
    pub fn open(pin_dir: &Path) -> anyhow::Result<Self> {
        prepare(pin_dir)?;
        let mut object = Object::open(OBJECT)?;
        let names = RULES.iter().copied().chain([XSKS, SLOTS, STATS, FLOWS]);
        let mut fresh = Vec::new();
        for name in names {
            let path = pin_dir.join(name.to_string_lossy().as_ref());
            let found = match bpf::pinned(&path)? {
                Some(fd) => Some(Map::new(fd).with_context(|| path.display().to_string())?),
                None => None,
            };
            match found {
                Some(map) if map.shape() == object.shape(name)? => object.reuse(name, map.fd())?,
                other => fresh.push((name, path, other.is_some())),
            }
        }
        object.load()?;
        for (name, path, replaces) in fresh {
            if replaces {
                fs::remove_file(&path).with_context(|| path.display().to_string())?;
            }
            bpf::pin(object.map_fd(name)?.as_fd(), &path)?;
        }
        let map = |name| anyhow::Ok(Map::new(object.map_fd(name)?)?);
        let [endpoints, addresses] = RULES.map(map);
        let rules = [endpoints?, addresses?];
        let program = object.program_fd(c"steer")?;
        Ok(Self {
            shadow: read(&rules).context("reading the maps of the steering program")?,
            program_id: bpf::program_id(program.as_fd())?,
            links: links(pin_dir)?,
            dir: pin_dir.to_owned(),
            xsks: map(XSKS)?,
            slots: map(SLOTS)?,
            stats: map(STATS)?,
            flows: map(FLOWS)?,
            flow: (None, 0),
            flow_count: 0,
            program,
            rules,
        })
    }

    /// Attaches to an interface, whose packets go to the sockets of `slot` from then on. An
    /// attachment of a previous process is taken over, without a gap if the mode stays the same.
    /// Repeating it changes nothing. Returns `native` or `generic`.
    ///
    /// # Errors
    /// The interface has a program that is not ours, or what the kernel refused.
    pub fn attach(
        &mut self,
        ifindex: u32,
        slot: DeviceId,
        mode: XdpMode,
        driver: &str,
    ) -> anyhow::Result<&'static str> {
        ensure!(slot.index() < INTERFACES, "more than {INTERFACES} interfaces");
        self.slots.set(&ifindex.to_ne_bytes(), &u32::from(slot.0).to_ne_bytes())?;
        let wanted = wanted(mode, driver);
        if let Some(mode) = self.adopt(ifindex, wanted)? {
            return Ok(mode.name());
        }
        if let Some((id, mode)) = bpf::attached(ifindex).context("asking for XDP programs")? {
            bail!(
                "XDP program {id} ({}), which is not ours, is on the interface; see \
                 `bpftool prog show id {id}`, and remove it with `ip link set ... xdp off`",
                mode.name()
            );
        }
        let mut tried = Err(anyhow::anyhow!("no mode to try"));
        for &mode in wanted {
            tried = match bpf::link(self.program.as_fd(), ifindex, mode) {
                Ok(link) => {
                    bpf::pin(link.as_fd(), &link_path(&self.dir, ifindex))?;
                    self.links.insert(ifindex, link);
                    return Ok(mode.name());
                }
                Err(error) => Err(anyhow::Error::new(error)
                    .context(format!("attaching the steering program, {} mode", mode.name()))),
            };
        }
        tried
    }

    /// Takes over the attachment of an interface, if it has one of ours in a mode that will do.
    fn adopt(&mut self, ifindex: u32, wanted: &[Mode]) -> anyhow::Result<Option<Mode>> {
        let Some(link) = self.links.get(&ifindex) else { return Ok(None) };
        let (target, program) = bpf::link_target(link.as_fd())?;
        let mode = match bpf::attached(ifindex) {
            Ok(Some((id, mode))) if target == ifindex && id == program => mode,
            _ => {
                self.forget(ifindex)?;
                return Ok(None);
            }
        };
        // With a choice, what runs is good enough: a change would leave a gap.
        if !wanted.contains(&mode) {
            self.forget(ifindex)?;
            return Ok(None);
        }
        if program != self.program_id {
            bpf::relink(link.as_fd(), self.program.as_fd())
                .context("replacing the steering program")?;
        }
        Ok(Some(mode))
    }

    /// Kernel id of the program of this process.
    #[must_use]
    pub fn program_id(&self) -> u32 {
        self.program_id
    }

    /// Interfaces with an attachment of ours, adopted ones included.
    #[must_use]
    pub fn attached(&self) -> Vec<u32> {
        self.links.keys().copied().collect()
    }

    /// Whether the program of this process is on the interface.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn is_attached(&self, ifindex: u32) -> anyhow::Result<bool> {
        if !self.links.contains_key(&ifindex) {
            return Ok(false);
        }
        match bpf::attached(ifindex) {
            Ok(found) => Ok(found.is_some_and(|(id, _)| id == self.program_id)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(error).context("asking for XDP programs"),
        }
    }

    /// Detaches from an interface, which may be gone; its traffic is the kernel's again.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn detach(&mut self, ifindex: u32) -> anyhow::Result<()> {
        self.forget(ifindex)?;
        Ok(self.slots.remove(&ifindex.to_ne_bytes())?)
    }

    fn forget(&mut self, ifindex: u32) -> anyhow::Result<()> {
        let Some(link) = self.links.remove(&ifindex) else { return Ok(()) };
        // Fails on an interface that is gone, which is detached enough.
        let _ = bpf::unlink(link.as_fd());
        remove(&link_path(&self.dir, ifindex))
    }

    /// Sends packets of `queue` of the interface in `slot` to this socket, which is bound to them.
    ///
    /// # Errors
    /// Slot or queue out of range, or what the kernel refused.
    pub fn set_socket(
        &mut self,
        slot: DeviceId,
        queue: u32,
        socket: BorrowedFd<'_>,
    ) -> anyhow::Result<()> {
        let key = socket_key(slot, queue)?;
        self.xsks
            .set(&key, &socket.as_raw_fd().to_ne_bytes())
            .with_context(|| format!("socket of slot {}, queue {queue}", slot.0))
    }

    /// Drops service traffic of a slot until it has sockets again.
    ///
    /// # Errors
    /// Slot out of range, or what the kernel refused.
    pub fn clear_slot(&mut self, slot: DeviceId) -> anyhow::Result<()> {
        for queue in 0..WORKERS as u32 {
            self.xsks.remove(&socket_key(slot, queue)?)?;
        }
        Ok(())
    }

    /// Makes `rules` what the program goes by. Only differences are written, additions first, so
    /// that no packet of a service that stays is misjudged. After an error, call it again.
    ///
    /// # Errors
    /// More entries than the maps hold (nothing is changed then), or what the kernel refused.
    pub fn apply(&mut self, rules: &Rules) -> anyhow::Result<()> {
        let wanted = encode(rules)?;
        for ((map, name), wanted) in self.rules.iter().zip(RULES).zip(&wanted) {
            let (count, most) = (wanted.len(), map.shape().entries);
            ensure!(count <= most, "{count} entries for map {name:?}, which holds {most}");
        }
        for ((map, shadow), wanted) in self.rules.iter().zip(&mut self.shadow).zip(&wanted) {
            for (key, value) in wanted {
                // Room first, should additions and removals together exceed the map.
                if shadow.get(key) != Some(value) {
                    if shadow.len() == map.shape().entries && !shadow.contains_key(key) {
                        sweep(map, shadow, wanted)?;
                    }
                    map.set(key, value).context("writing a rule of the steering program")?;
                    shadow.insert(key.clone(), value.clone());
                }
            }
        }
        for ((map, shadow), wanted) in self.rules.iter().zip(&mut self.shadow).zip(&wanted).rev() {
            sweep(map, shadow, wanted)?;
        }
        Ok(())
    }

    /// What the program counted.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn stats(&self) -> anyhow::Result<Stats> {
        let read = |action: u32| {
            let bytes = self.stats.get(&action.to_ne_bytes())?.unwrap_or_default();
            let cpus = bytes.as_chunks::<8>().0;
            anyhow::Ok(cpus.iter().map(|cpu| u64::from_ne_bytes(*cpu)).sum::<u64>())
        };
        let no_socket = read(XDP_DROP)?;
        Ok(Stats { ours: read(XDP_REDIRECT)? + no_socket, kernel: read(XDP_PASS)?, no_socket })
    }

    /// Connections that the kernel was given and may still have; forgets those that have been idle for
    /// long. Looks at some of them at each call: what it says is as old as one round through all.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn kernel_flows(&mut self, now: Instant) -> anyhow::Result<u64> {
        let (mut last, mut count) = std::mem::take(&mut self.flow);
        for _ in 0..FLOWS_STEP {
            // A key that is gone makes the kernel begin again; that miscounts one round at worst.
            let Some(key) = self.flows.next_key(last.as_deref())? else {
                self.flow_count = count;
                return Ok(count);
            };
            let seen = self.flows.get(&key)?.and_then(|v| Some(*v.first_chunk::<8>()?));
            let seen = seen.map_or(now, |ns| Instant::from_nanos(u64::from_ne_bytes(ns)));
            if now.since(seen) > FLOW_IDLE {
                self.flows.remove(&key)?;
            } else {
                count += 1;
                last = Some(key);
            }
        }
        self.flow_count = self.flow_count.max(count);
        self.flow = (last, count);
        Ok(self.flow_count)
    }

    /// What the program would do with a frame, which must have at least an Ethernet header.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn judge(&self, frame: &[u8]) -> anyhow::Result<Action> {
        let action = bpf::trial(self.program.as_fd(), frame).context("trying a frame")?;
        Ok(if action == XDP_PASS { Action::Kernel } else { Action::Ours })
    }

    /// Detaches everywhere and removes every pin: all traffic is the kernel's again.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest has been.
    pub fn shutdown(mut self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        for ifindex in self.attached() {
            outcome = outcome.and(self.forget(ifindex));
        }
        for name in RULES.iter().copied().chain([XSKS, SLOTS, STATS, FLOWS]) {
            outcome = outcome.and(remove(&self.dir.join(name.to_string_lossy().as_ref())));
        }
        outcome.and(fs::remove_dir(&self.dir).with_context(|| self.dir.display().to_string()))
    }
}

fn wanted(mode: XdpMode, driver: &str) -> &'static [Mode] {
    match mode {
        XdpMode::Native => &[Mode::Native],
        XdpMode::Generic => &[Mode::Generic],
        // Native veth turns each socket buffer into an XDP frame first: 14 to 19 % slower.
        XdpMode::Auto if driver == "veth" => &[Mode::Generic, Mode::Native],
        XdpMode::Auto => &[Mode::Native, Mode::Generic],
    }
}

fn prepare(dir: &Path) -> anyhow::Result<()> {
    let made = fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()));
    made?;
    let kind = rustix::fs::statfs(dir).with_context(|| dir.display().to_string())?.f_type;
    ensure!(
        kind as u32 == BPF_FS_MAGIC,
        "{} is not on a BPF file system; `mount -t bpf bpf {}` makes one",
        dir.display(),
        dir.display()
    );
    Ok(())
}

fn link_path(dir: &Path, ifindex: u32) -> PathBuf {
    dir.join(format!("link-{ifindex}"))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Pinned attachments; those of interfaces that are gone are removed.
fn links(dir: &Path) -> anyhow::Result<BTreeMap<u32, OwnedFd>> {
    let mut links = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let Some(index) = name.strip_prefix("link-").and_then(|i| i.parse::<u32>().ok()) else {
            continue;
        };
        let Some(link) = bpf::pinned(&path)? else { continue };
        if bpf::link_target(link.as_fd())?.0 == index {
            links.insert(index, link);
        } else {
            remove(&path)?;
        }
    }
    Ok(links)
}

fn socket_key(slot: DeviceId, queue: u32) -> anyhow::Result<[u8; 4]> {
    ensure!(slot.index() < INTERFACES, "slot {}: expected 0 to {}", slot.0, INTERFACES - 1);
    ensure!(queue < WORKERS as u32, "queue {queue}: expected 0 to {}", WORKERS - 1);
    Ok((u32::from(slot.0) * WORKERS as u32 + queue).to_ne_bytes())
}

/// Removes what is not wanted.
fn sweep(
    map: &Map,
    shadow: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    wanted: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> anyhow::Result<()> {
    let gone: Vec<_> = shadow.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
    for key in gone {
        map.remove(&key).context("removing a rule of the steering program")?;
        shadow.remove(&key);
    }
    Ok(())
}

fn read(maps: &[Map; RULES.len()]) -> anyhow::Result<Content> {
    let mut content = Content::default();
    for (map, content) in maps.iter().zip(&mut content) {
        for key in map.keys()? {
            if let Some(value) = map.get(&key)? {
                content.insert(key, value);
            }
        }
    }
    Ok(content)
}
