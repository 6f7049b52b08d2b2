//! `xvip why` and `xvip capture`: what becomes of packets.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use control::verbs::{CaptureResult, Verb};
use dataplane_api::message::{
    CAPTURED_PAGE_MAX, CaptureFilter, Captured, CapturedFrame, Why as Answer,
};
use dataplane_api::service::Protocol;
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};

use crate::client::{Client, Problem, Reply};
use crate::stop::Stop;
use crate::table::clean;
use crate::{Cli, End, plain};

/// Pause when nothing new has been captured.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct Why {
    /// Client, with or without port: 203.0.113.7, 203.0.113.7:4711, [2001:db8::7]:4711.
    #[arg(value_parser = end)]
    client: Peer,
    /// VIP and port.
    vip: SocketAddr,
    /// UDP instead of TCP.
    #[arg(long)]
    udp: bool,
}

#[derive(Args)]
pub(crate) struct Capture {
    /// File to write, pcapng.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Only this client, with or without port.
    #[arg(long, value_parser = end)]
    client: Option<Peer>,
    /// Only this VIP, with or without port.
    #[arg(long, value_parser = end)]
    vip: Option<Peer>,
    /// Only this real server's address.
    #[arg(long)]
    real: Option<IpAddr>,
    /// Only TCP or UDP.
    #[arg(long, value_parser = protocol)]
    protocol: Option<Protocol>,
    /// At most this many packets.
    #[arg(long, default_value_t = 1000)]
    packets: u32,
    /// At most this many seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Bytes kept of each packet.
    #[arg(long, default_value_t = 2048)]
    bytes: u16,
}

/// An address with or without port.
#[derive(Clone, Copy, Debug)]
struct Peer(IpAddr, Option<u16>);

fn end(text: &str) -> Result<Peer, String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse() {
        return Ok(Peer(address, None));
    }
    let socket: SocketAddr =
        text.parse().map_err(|_| "expected like 10.0.0.1, 10.0.0.1:80 or [::1]:80".to_owned())?;
    Ok(Peer(socket.ip(), Some(socket.port())))
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err("expected tcp or udp".to_owned()),
    }
}

pub(crate) fn why(
    cli: &Cli,
    args: &Why,
    client: &mut Client,
    out: &mut impl Write,
) -> Result<End, End> {
    let Peer(address, client_port) = args.client;
    let protocol = if args.udp { Protocol::Udp } else { Protocol::Tcp };
    let (vip, vip_port) = (args.vip.ip(), args.vip.port());
    let verb = Verb::Why { client: address, client_port, vip, vip_port, protocol };
    plain(cli, client, &verb, out, |reply: Reply<Answer>, out| {
        for step in &reply.result.steps {
            let mark = if step.ok { "ok" } else { "NO" };
            writeln!(out, "{mark}  {:<12} {}", clean(&step.stage), clean(&step.verdict))?;
        }
        match (&reply.result.real, &reply.result.failed) {
            (_, Some(stage)) => writeln!(out, "the packet ends at: {}", clean(stage)),
            (Some(real), None) => writeln!(out, "the packet goes to real server {}", clean(real)),
            (None, None) => Ok(()),
        }
    })
}

pub(crate) fn capture(
    cli: &Cli,
    args: &Capture,
    client: &mut Client,
    out: &mut impl Write,
) -> Result<End, End> {
    let path = args.write.display();
    let file =
        File::create(&args.write).map_err(|e| Problem::new(format!("cannot write {path}: {e}")))?;
    let failed = |e: String| End::from(Problem::new(format!("cannot write {path}: {e}")));
    let mut file = Pcap::new(BufWriter::new(file)).map_err(failed)?;
    let filter = CaptureFilter {
        client: args.client.map(|c| c.0),
        client_port: args.client.and_then(|c| c.1),
        vip: args.vip.map(|v| v.0),
        vip_port: args.vip.and_then(|v| v.1),
        real: args.real,
        protocol: args.protocol,
    };
    let (packets_max, seconds, bytes) = (args.packets, args.seconds, args.bytes);
    let mut stop = Stop::on_signals()?;
    client.ask::<CaptureResult>(&Verb::Capture { filter, packets_max, seconds, bytes })?;
    let (mut packets, mut lost, mut limited) = (0_u64, 0, 0);
    loop {
        // What was captured until then is still fetched.
        if stop.now() {
            client.ask::<CaptureResult>(&Verb::EndCapture {})?;
        }
        let page: Reply<Captured> = client.ask(&Verb::Captured { limit: CAPTURED_PAGE_MAX })?;
        let mut page = page.result;
        page.frames.sort_by_key(|f| f.unix_ns);
        for frame in &page.frames {
            packets += 1;
            file.frame(frame).map_err(failed)?;
        }
        (lost, limited) = (page.lost.max(lost), page.limited.max(limited));
        if !page.frames.is_empty() {
            // Whoever kills us has what was captured until then.
            file.flush().map_err(failed)?;
        } else if page.running {
            pause();
        } else {
            break;
        }
    }
    file.flush().map_err(failed)?;
    if cli.json {
        let told = serde_json::json!({ "packets": packets, "lost": lost, "limited": limited });
        writeln!(out, "{told}")?;
    } else {
        writeln!(out, "{packets} packets in {path}; {lost} lost, {limited} left out by the limit")?;
    }
    Ok(End::Done)
}

#[expect(clippy::disallowed_methods, reason = "the command is a shell, and waits for packets")]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// A pcapng file: one interface for what comes in on an interface, one for what goes out.
struct Pcap<W: Write> {
    writer: PcapNgWriter<W>,
    interfaces: BTreeMap<String, u32>,
}

impl<W: Write> Pcap<W> {
    fn new(inner: W) -> Result<Self, String> {
        let writer = PcapNgWriter::new(inner).map_err(|e| e.to_string())?;
        Ok(Self { writer, interfaces: BTreeMap::new() })
    }

    fn flush(&mut self) -> Result<(), String> {
        self.writer.get_mut().flush().map_err(|e: io::Error| e.to_string())
    }

    fn interface(&mut self, name: String) -> Result<u32, String> {
        if let Some(number) = self.interfaces.get(&name) {
            return Ok(*number);
        }
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(name.clone().into()),
                // Time in nanoseconds.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        self.writer.write_pcapng_block(block).map_err(|e| e.to_string())?;
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(name, number);
        Ok(number)
    }

    /// The frame as it came and, if it was sent, as it went.
    fn frame(&mut self, frame: &CapturedFrame) -> Result<(), String> {
        let verdict = clean(&frame.verdict);
        let worker = frame.worker;
        if let Some(rx) = &frame.rx {
            let comment = match &frame.tx {
                Some(tx) => format!("in, worker {worker}: {verdict} by {}", clean(tx)),
                None => format!("in, worker {worker}: {verdict}"),
            };
            let packet = (frame.before.as_str(), frame.before_len);
            self.packet(format!("{} in", clean(rx)), frame.unix_ns, packet, comment)?;
        }
        if let Some(tx) = &frame.tx {
            let from = frame.rx.as_deref().unwrap_or("xvip itself");
            let comment = format!("out, worker {worker}: from {}", clean(from));
            let packet = (frame.after.as_str(), frame.after_len);
            self.packet(format!("{} out", clean(tx)), frame.unix_ns, packet, comment)?;
        }
        Ok(())
    }

    fn packet(
        &mut self,
        interface: String,
        unix_ns: u64,
        (bytes, original_len): (&str, u32),
        comment: String,
    ) -> Result<(), String> {
        let interface_id = self.interface(interface)?;
        let data = unhex(bytes).ok_or("a frame is not in hexadecimal digits")?;
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(unix_ns),
            original_len,
            data: data.into(),
            options: vec![EnhancedPacketOption::Comment(comment.into())],
        };
        self.writer.write_pcapng_block(block).map(|_| ()).map_err(|e| e.to_string())
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_and_anything_else_is_not() {
        assert_eq!(unhex("00fF10"), Some(vec![0, 255, 16]));
        assert_eq!((unhex("0"), unhex("0g"), unhex("é")), (None, None, None));
    }

    #[test]
    fn addresses_come_with_and_without_port() {
        let read = |text| end(text).map(|Peer(a, p)| (a.to_string(), p));
        assert_eq!(read("10.0.0.1"), Ok(("10.0.0.1".into(), None)));
        assert_eq!(read("[2001:db8::1]:443"), Ok(("2001:db8::1".into(), Some(443))));
        assert_eq!(read("2001:db8::1"), Ok(("2001:db8::1".into(), None)));
        assert!(read("web1").is_err());
    }
}
