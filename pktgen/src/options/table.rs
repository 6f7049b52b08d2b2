//! The list of options: key, default, help.

/// What is taken if an option is given neither as a flag nor in the scenario file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This text.
    Text(&'static str),
    /// The first if the VIP is an IPv4 address, the second if IPv6.
    Families(&'static str, &'static str),
    /// What follows from other options, in words; nothing if empty.
    Described(&'static str),
}

/// An option.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Table of the scenario file: empty for the top, else that of the one verb it is for.
    pub section: &'static str,
    /// Key in the scenario file; the flag has `-` for `_`.
    pub key: &'static str,
    /// What stands for the value in help.
    pub value: &'static str,
    /// Fallback.
    pub default: Fallback,
    /// One line.
    pub help: &'static str,
}

/// The verbs and what they do.
pub const VERBS: &[(&str, &str)] = &[
    ("load", "Holds connections and sends through each of them at one rate"),
    ("cps", "Opens, uses and closes new connections, more a second with every step"),
    ("flood", "Sends good traffic beside a flood of SYNs or UDP from random sources"),
    ("ndr", "Searches the highest rate without loss for each frame size (RFC 2544)"),
    ("reflect", "Is the real servers for clients on another machine"),
];

const fn common(
    key: &'static str,
    value: &'static str,
    default: Fallback,
    help: &'static str,
) -> Opt {
    Opt { section: "", key, value, default, help }
}

const fn of(
    section: &'static str,
    key: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Opt {
    Opt { section, key, value, default: Fallback::Text(default), help }
}

use Fallback::{Described, Families, Text};

/// Every option, in the order of help and manual.
pub const OPTIONS: &[Opt] = &[
    common("client", "IFACE", Described(""), "Interface of the clients"),
    common("server", "IFACE", Described(""), "Interface of the real servers"),
    common("vip", "ADDR:PORT", Described("required"), "Address and port of the service"),
    common("protocol", "NAME", Text("tcp"), "tcp or udp"),
    common(
        "method",
        "NAME",
        Text("nat"),
        "How the balancer forwards: nat, fullnat, direct, tunnel",
    ),
    common(
        "clients",
        "ADDR+COUNT",
        Families("198.18.0.1+1000", "2001:db8:18::1+1000"),
        "Addresses of the clients",
    ),
    common("client_port", "PORT", Text("1024"), "Lowest port of the clients"),
    common(
        "reals",
        "ADDR+COUNT",
        Families("198.19.0.1+4", "2001:db8:19::1+4"),
        "Addresses of the real servers",
    ),
    common("real_port", "PORT", Described("the VIP's"), "Port of the real servers"),
    common("connections", "N", Text("100k"), "Connections held at once (cps: used in turn)"),
    common("open_rate", "N", Text("100k"), "Connections opened a second before the traffic"),
    common("rate", "RATE", Text("1gbit"), "Data packets or bits a second, both ways together"),
    common(
        "replies",
        "SHARE",
        Described("0.5; 0 with direct and tunnel in one process"),
        "Share of the data packets that are replies",
    ),
    common("size", "BYTES", Text("512"), "Frame size with check sequence, 64 to 1518, or imix"),
    common("seconds", "SECONDS", Text("10"), "Length of the traffic (reflect: until interrupted)"),
    common("engine", "NAME", Text("af_xdp"), "af_xdp (poll loops) or xdp (programs in the kernel)"),
    common("mode", "NAME", Text("auto"), "Driver mode: auto, native, generic"),
    common("copy", "NAME", Text("auto"), "Copy mode: auto, copy, zero-copy"),
    common("cores", "LIST", Text("0"), "Cores of the generator, one worker each"),
    common("queues", "N", Described("one a core"), "Queues of each interface to serve"),
    common("balancer", "PATH", Described(""), "Agent socket of the data plane, for its counters"),
    common("max_loss", "SHARE", Text("0"), "Share of packets that may be lost to pass"),
    common("patience", "SECONDS", Text("3"), "How long to wait for an answer or a late packet"),
    common(
        "key",
        "N",
        Described("random; 1 if one side is elsewhere"),
        "Key of the packets' checks, the same on both machines",
    ),
    common("seed", "N", Text("1"), "Seed of everything random"),
    Opt {
        section: "reflect",
        key: "next_hop",
        value: "ADDR",
        default: Described("the clients themselves"),
        help: "With direct and tunnel: the router to whom the answers to the clients go",
    },
    of("cps", "from", "N", "10k", "Connections a second of the first step"),
    of("cps", "to", "N", "200k", "Connections a second of the last step"),
    of("cps", "steps", "N", "10", "Number of steps"),
    of("cps", "step_seconds", "SECONDS", "2", "Length of a step"),
    of("flood", "syn_flood", "N", "0", "SYNs a second from random sources"),
    of("flood", "udp_flood", "N", "0", "UDP packets a second from random sources"),
    of("ndr", "sizes", "LIST", "64,128,256,512,1024,1280,1518", "Frame sizes to search for"),
    of("ndr", "allowance", "SHARE", "0", "Share of packets that may be lost in a good trial"),
    of("ndr", "from", "RATE", "10kpps", "Lowest rate"),
    of("ndr", "to", "RATE", "10gbit", "Highest rate"),
    of("ndr", "resolution", "SHARE", "0.01", "Width of the bracket at which the search ends"),
    of("ndr", "trial_seconds", "SECONDS", "5", "Length of a trial"),
];

/// The option of a verb under a key.
#[must_use]
pub(super) fn find(verb: &str, key: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|o| o.key == key && (o.section.is_empty() || o.section == verb))
}
