//! Every key of the file, by table. `docs/config.md` explains each one; a test compares.

/// Tables at the top of the file.
pub const TOP: &[&str] =
    &["node", "engine", "control", "interface", "timeouts", "fullnat", "reply", "service"];
/// `[node]`
pub const NODE: &[&str] = &["name"];
/// `[engine]`
pub const ENGINE: &[&str] = &["cores", "poll", "connections", "half_open_percent", "frames"];
/// `[control]`
pub const CONTROL: &[&str] = &["lease", "on_stop"];
/// `[[interface]]`
pub const INTERFACE: &[&str] = &["name", "mode", "copy"];
/// `[timeouts]` and `timeouts` of a service
pub const TIMEOUTS: &[&str] = &[
    "syn_received",
    "established",
    "fin_wait",
    "close_wait",
    "last_ack",
    "time_wait",
    "close",
    "udp_new",
    "udp",
];
/// `[fullnat]`
pub const FULLNAT: &[&str] = &["addresses", "ports"];
/// `[reply]`
pub const REPLY: &[&str] = &["path"];
/// `[[service]]`
pub const SERVICE: &[&str] = &[
    "name",
    "protocol",
    "listen",
    "forwarding",
    "scheduler",
    "scheduler_flags",
    "persistence",
    "timeouts",
    "real",
];
/// `persistence` of a service, as a table
pub const PERSISTENCE: &[&str] = &["timeout", "mask_v4", "mask_v6"];
/// `[[service.real]]`
pub const REAL: &[&str] = &["name", "address", "weight", "upper_threshold", "lower_threshold"];

/// All of it: the heading of the table in the documentation, and its keys.
pub const ALL: &[(&str, &[&str])] = &[
    ("[node]", NODE),
    ("[engine]", ENGINE),
    ("[control]", CONTROL),
    ("[[interface]]", INTERFACE),
    ("[timeouts]", TIMEOUTS),
    ("[fullnat]", FULLNAT),
    ("[reply]", REPLY),
    ("[[service]]", SERVICE),
    ("persistence", PERSISTENCE),
    ("[[service.real]]", REAL),
];
