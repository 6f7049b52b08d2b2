//! "Which machine do I need for my load?", answered from the records.

use dataplane_api::service::Forwarding;

use super::number::{bytes, median, percent, si, significant, time};
use super::throughput::GAP;
use super::{Charts, Table, bare, core, missing, sources};
use crate::packet_path::scene::Direction;
use crate::packet_path::traffic::Family;
use crate::record::{Measured, Record};

/// A core is not to be busier than this, so that bursts have room.
const BUSY: f64 = 0.7;
/// The table has room for an eighth more connections than there are.
const SPARE: f64 = 9.0 / 8.0;
/// Packets that only open and close a connection, both ways together: SYN, SYN-ACK, ACK, two FINs
/// with their ACKs. All but the first are charged as any other packet.
const HANDSHAKE: f64 = 7.0;

/// What is asked of a machine.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// In a word.
    name: &'static str,
    /// Bits a second on the wire, both ways together.
    bits: f64,
    /// Mean bytes of a frame.
    frame: f64,
    /// Connections alive.
    connections: f64,
    /// New connections a second.
    opened: f64,
}

/// Loads that the table answers for; the second is worked out step by step.
const LOADS: [Load; 4] = [
    Load { name: "an office", bits: 2e8, frame: 800.0, connections: 1e4, opened: 5e2 },
    Load { name: "a busy site", bits: 1e9, frame: 600.0, connections: 1e5, opened: 1e4 },
    Load { name: "a large site", bits: 1e10, frame: 900.0, connections: 1e6, opened: 1e5 },
    Load { name: "a provider", bits: 4e10, frame: 900.0, connections: 1e7, opened: 4e5 },
];

/// What things cost, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cost {
    /// Nanoseconds of a core for a packet: parse, look up, rewrite.
    path: f64,
    /// Nanoseconds of a core for a packet: kernel and devices.
    device: f64,
    /// Nanoseconds of a core to open a connection.
    open: f64,
    /// Bytes a connection.
    bytes: f64,
}

/// What a load takes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Need {
    /// Packets a second, both ways together, handshakes included.
    packets: f64,
    /// Cores' worth of work.
    work: f64,
    /// Cores, none of them busier than [`BUSY`].
    cores: f64,
    /// Bytes of the connection table.
    memory: f64,
}

fn need(load: &Load, cost: &Cost) -> Need {
    let packets = load.bits / 8.0 / (load.frame + GAP) + load.opened * HANDSHAKE;
    let work = (packets * (cost.path + cost.device) + load.opened * cost.open) / 1e9;
    let memory = load.connections * SPARE * cost.bytes;
    Need { packets, work, cores: (work / BUSY).ceil().max(1.0), memory }
}

/// The most that any recorded run of `nat` took a connection, with its record.
pub(super) fn bytes_per_connection(records: &[Record]) -> Option<(f64, &Record)> {
    let mut found: Vec<(f64, &Record)> = Vec::new();
    for record in records {
        match &record.measured {
            Measured::Core(rows) => {
                let nat = rows.iter().filter(|r| r.method == Forwarding::Nat);
                found.extend(nat.map(|r| (r.table_bytes_per_connection, record)));
            }
            Measured::Target(rows) => {
                found.extend(rows.iter().filter_map(|r| Some((r.bytes_per_connection?, record))));
            }
            Measured::Scaling(_)
            | Measured::Bare(_)
            | Measured::Peers(_)
            | Measured::Failover(_) => {}
        }
    }
    found.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))
}

pub(super) fn memory(records: &[Record], _: &mut Charts) -> anyhow::Result<String> {
    let Some((each, record)) = bytes_per_connection(records) else {
        return Ok(missing("xvip-perf core --record perf/records"));
    };
    let mut table = Table::new(&["connections", "room for (an eighth more)", "connection table"]);
    for connections in [1e4, 1e5, 1e6, 1e7] {
        let room = connections * SPARE;
        table.row([si(connections), si(room), bytes(room * each)]);
    }
    let head = format!("{} bytes for each connection there is room for:\n\n", significant(each));
    Ok(head + &table.text + &sources([record]))
}

/// Costs of `nat` over IPv4 with so many connections, and the records they come from. `Err` says
/// which command is missing.
fn costs(records: &[Record], connections: f64) -> Result<(Cost, Vec<&Record>), &'static str> {
    const CORE: &str = "xvip-perf core --record perf/records";
    const BARE: &str = "xvip-perf bare --record perf/records";
    let at =
        |direction| core::at(records, (Forwarding::Nat, Family::V4, direction), connections as u64);
    let (from, request) = at(Direction::Request).ok_or(CORE)?;
    let (also, reply) = at(Direction::Reply).ok_or(CORE)?;
    let rows = bare::rows(records);
    let devices: Vec<_> =
        rows.iter().filter_map(|(record, row)| Some((*record, bare::device_cost(row)?))).collect();
    let each: Vec<f64> = devices.iter().map(|(_, cost)| *cost).collect();
    let cost = Cost {
        path: f64::midpoint(request.net_ns, reply.net_ns),
        device: median(&each).ok_or(BARE)?,
        open: 1e9 / request.opened_per_second,
        bytes: request.table_bytes_per_connection,
    };
    let mut sources = vec![from, also];
    sources.extend(devices.iter().map(|(record, _)| *record));
    Ok((cost, sources))
}

pub(super) fn section(records: &[Record], _: &mut Charts) -> anyhow::Result<String> {
    let mut table = Table::new(&[
        "load",
        "Gbit/s, both ways",
        "mean frame, bytes",
        "connections",
        "new a second",
        "packets a second",
        "cores' work",
        "cores of the data plane",
        "connection table",
    ]);
    let mut used: Vec<&Record> = Vec::new();
    let mut worked = String::new();
    for (number, load) in LOADS.iter().enumerate() {
        let (cost, from) = match costs(records, load.connections) {
            Ok(found) => found,
            Err(command) => return Ok(missing(command)),
        };
        used.extend(from);
        let need = need(load, &cost);
        if number == 1 {
            worked = work_out(load, &cost, &need);
        }
        table.row([
            load.name.to_owned(),
            significant(load.bits / 1e9),
            significant(load.frame),
            si(load.connections),
            si(load.opened),
            si(need.packets),
            significant(need.work),
            format!("{:.0}", need.cores),
            bytes(need.memory),
        ]);
    }
    Ok(worked + &table.text + &sources(used))
}

fn work_out(load: &Load, cost: &Cost, need: &Need) -> String {
    let each = cost.path + cost.device;
    format!(
        "Worked out for {name}: {bits} Gbit/s in frames of {frame} bytes, both ways together, \
         {connections} connections alive, {opened} new ones a second.\n\n\
         1. Packets: {bits} Gbit/s / 8 / ({frame} + {GAP} bytes of preamble and gap), and \
         {HANDSHAKE} to open and close each new connection: **{packets} a second**.\n\
         2. A packet: {path} in the path at so many connections, {device} in kernel and devices: \
         {each}. One core full: {rate} packets a second.\n\
         3. A new connection: {open} more.\n\
         4. Together {work} cores' work; no core busier than {busy}: **{cores} for the data \
         plane**, and one for the kernel, control and everything else.\n\
         5. Memory: {connections} connections × 9/8 × {bytes_each} bytes: **{memory}**.\n\n",
        name = load.name,
        bits = significant(load.bits / 1e9),
        frame = significant(load.frame),
        connections = si(load.connections),
        opened = si(load.opened),
        packets = si(need.packets),
        path = time(cost.path),
        device = time(cost.device),
        each = time(each),
        rate = si(1e9 / each),
        open = time(cost.open),
        work = significant(need.work),
        busy = percent(BUSY),
        cores = if need.cores > 1.0 { format!("{:.0} cores", need.cores) } else { "1 core".into() },
        bytes_each = significant(cost.bytes),
        memory = bytes(need.memory),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_takes_what_its_packets_connections_and_memory_take() {
        let load = Load { name: "x", bits: 1e9, frame: 605.0, connections: 1e6, opened: 1e4 };
        let cost = Cost { path: 50.0, device: 650.0, open: 500.0, bytes: 84.0 };
        let need = need(&load, &cost);
        assert_eq!(need.packets, 200_000.0 + 70_000.0);
        assert!((need.work - (0.189 + 0.005)).abs() < 1e-9);
        assert_eq!(need.cores, 1.0);
        assert_eq!(need.memory, 94_500_000.0);
        let heavy = Load { bits: 40e9, ..load };
        assert_eq!(super::need(&heavy, &cost).cores, 9.0);
    }
}
