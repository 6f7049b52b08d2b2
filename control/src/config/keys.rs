//! Every key of the file, by table. `docs/config.md` explains each one; a test compares.

/// Tables at the top of the file.
pub const TOP: &[&str] = &[
    "node",
    "engine",
    "control",
    "interface",
    "timeouts",
    "fullnat",
    "reply",
    "alert",
    "metrics",
    "ha",
    "service",
];
/// `[node]`
pub const NODE: &[&str] = &["name"];
/// `[engine]`
pub const ENGINE: &[&str] = &["cores", "poll", "connections", "half_open_percent", "frames"];
/// `[control]`
pub const CONTROL: &[&str] = &["lease", "on_stop", "operators", "readers", "maintenance_dir"];
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
    "check",
    "health",
    "fallback",
    "sorry",
    "real",
];
/// `sorry` of a service, as a table
pub const SORRY: &[&str] = &["file", "retry_after"];
/// `persistence` of a service, as a table
pub const PERSISTENCE: &[&str] = &["timeout", "mask_v4", "mask_v6"];
/// `[[service.real]]`
pub const REAL: &[&str] =
    &["name", "address", "weight", "upper_threshold", "lower_threshold", "check"];
/// `health` of a service
pub const HEALTH: &[&str] = &["require", "start", "slow_start", "panic_floor", "dead", "passive"];
/// `passive` of `health`
pub const PASSIVE: &[&str] = &["unanswered", "resets"];
/// `[[service.check]]`, whatever its type
pub const CHECK: &[&str] = &["type", "address", "port", "interval", "timeout", "rise", "fall"];
/// `[[service.check]]` with `type = "tcp"`
pub const CHECK_TCP: &[&str] = &["tls", "send", "expect"];
/// `[[service.check]]` of `http` and `https`, beside those of login and TLS
pub const CHECK_HTTP: &[&str] =
    &["method", "path", "host", "headers", "data", "status", "expect_headers", "body"];
/// `[[service.check]]` with `type = "http_proxy"`, beside those of a login
pub const CHECK_HTTP_PROXY: &[&str] = &["url", "tunnel", "status", "expect_headers", "body"];
/// `[[service.check]]` of `smtp`, `smtps` and `submission`, beside those of login and TLS
pub const CHECK_SMTP: &[&str] = &["tls", "hello"];
/// `[[service.check]]` of `pop3` and `pop3s`, beside those of login and TLS
pub const CHECK_POP3: &[&str] = &["tls"];
/// `[[service.check]]` of `imap` and `imaps`, beside those of login and TLS
pub const CHECK_IMAP: &[&str] = &["tls"];
/// `[[service.check]]` of `ftp` and `ftps`, beside those of login and TLS
pub const CHECK_FTP: &[&str] = &["tls"];
/// `[[service.check]]` of `nntp` and `nntps`, beside those of login and TLS
pub const CHECK_NNTP: &[&str] = &["tls", "group"];
/// `[[service.check]]` with `type = "dns"`
pub const CHECK_DNS: &[&str] = &["name", "record", "transport", "rcode", "answer", "recursion"];
/// `[[service.check]]` of `ldap` and `ldaps`, beside those of TLS
pub const CHECK_LDAP: &[&str] =
    &["tls", "bind_dn", "password", "password_file", "base", "attribute", "expect"];
/// `[[service.check]]` of `mysql` and `pgsql`, beside those of login and TLS
pub const CHECK_SQL: &[&str] = &["tls", "database", "query", "expect"];
/// `[[service.check]]` of `redis` and `rediss`, beside those of login and TLS
pub const CHECK_REDIS: &[&str] = &["tls", "role", "get", "expect"];
/// `[[service.check]]` with `type = "ntp"`
pub const CHECK_NTP: &[&str] = &["stratum", "offset"];
/// `[[service.check]]` with `type = "sip"`
pub const CHECK_SIP: &[&str] = &["transport", "user", "host", "status"];
/// `[[service.check]]` with `type = "radius"`
pub const CHECK_RADIUS: &[&str] =
    &["secret", "secret_file", "user", "password", "password_file", "nas_identifier", "expect"];
/// `[[service.check]]` with `type = "udp"`
pub const CHECK_UDP: &[&str] = &["send", "send_hex", "expect", "silence"];
/// `[[service.check]]` with `type = "icmp"`
pub const CHECK_ICMP: &[&str] = &["size"];
/// `[[service.check]]` with `type = "script"`
pub const CHECK_SCRIPT: &[&str] =
    &["command", "arguments", "environment", "weight", "up", "unknown"];
/// `[[service.check]]` with `type = "path"`: the common ones suffice
pub const CHECK_PATH: &[&str] = &[];
/// Of every check with TLS
pub const CHECK_TLS: &[&str] = &["verify", "server_name", "expires", "certificate", "key"];
/// Of every check that can log in
pub const CHECK_LOGIN: &[&str] = &["user", "password", "password_file"];

/// Several lists of keys as one.
const fn join<const N: usize>(parts: &[&[&'static str]]) -> [&'static str; N] {
    let mut joined = [""; N];
    let (mut part, mut at) = (0, 0);
    while part < parts.len() {
        let mut key = 0;
        while key < parts[part].len() {
            joined[at] = parts[part][key];
            at += 1;
            key += 1;
        }
        part += 1;
    }
    assert!(at == N, "N is the number of keys");
    joined
}

/// All of `tcp`
pub(super) const TCP: &[&str] = &join::<8>(&[CHECK_TCP, CHECK_TLS]);
/// All of `http`
pub(super) const HTTP: &[&str] = &join::<11>(&[CHECK_HTTP, CHECK_LOGIN]);
/// All of `https`
pub(super) const HTTPS: &[&str] = &join::<16>(&[CHECK_HTTP, CHECK_LOGIN, CHECK_TLS]);
/// All of `http_proxy`
pub(super) const HTTP_PROXY: &[&str] = &join::<8>(&[CHECK_HTTP_PROXY, CHECK_LOGIN]);
/// All of `smtp` and `submission`
pub(super) const SMTP: &[&str] = &join::<10>(&[CHECK_SMTP, CHECK_LOGIN, CHECK_TLS]);
/// All of `smtps`: TLS is there without a word
pub(super) const SMTPS: &[&str] = &join::<9>(&[&["hello"], CHECK_LOGIN, CHECK_TLS]);
/// All of `pop3`
pub(super) const POP3: &[&str] = &join::<9>(&[CHECK_POP3, CHECK_LOGIN, CHECK_TLS]);
/// All of `pop3s`
pub(super) const POP3S: &[&str] = &join::<8>(&[CHECK_LOGIN, CHECK_TLS]);
/// All of `imap`
pub(super) const IMAP: &[&str] = POP3;
/// All of `imaps`
pub(super) const IMAPS: &[&str] = POP3S;
/// All of `ftp`
pub(super) const FTP: &[&str] = POP3;
/// All of `ftps`
pub(super) const FTPS: &[&str] = POP3S;
/// All of `nntp`
pub(super) const NNTP: &[&str] = &join::<10>(&[CHECK_NNTP, CHECK_LOGIN, CHECK_TLS]);
/// All of `nntps`
pub(super) const NNTPS: &[&str] = &join::<9>(&[&["group"], CHECK_LOGIN, CHECK_TLS]);
/// All of `ldap`
pub(super) const LDAP: &[&str] = &join::<12>(&[CHECK_LDAP, CHECK_TLS]);
/// All of `ldaps`
pub(super) const LDAPS: &[&str] = &join::<11>(&[
    &["bind_dn", "password", "password_file", "base", "attribute", "expect"],
    CHECK_TLS,
]);
/// All of `mysql` and `pgsql`
pub(super) const SQL: &[&str] = &join::<12>(&[CHECK_SQL, CHECK_LOGIN, CHECK_TLS]);
/// All of `redis`
pub(super) const REDIS: &[&str] = &join::<12>(&[CHECK_REDIS, CHECK_LOGIN, CHECK_TLS]);
/// All of `rediss`
pub(super) const REDISS: &[&str] =
    &join::<11>(&[&["role", "get", "expect"], CHECK_LOGIN, CHECK_TLS]);
/// `[alert]`
pub const ALERT: &[&str] =
    &["digest", "per_hour", "give_up", "severity", "services", "mail", "webhook", "command"];
/// `[[alert.mail]]`
pub const ALERT_MAIL: &[&str] = &[
    "name",
    "server",
    "tls",
    "ca_file",
    "from",
    "to",
    "user",
    "password_file",
    "severity",
    "services",
    "timeout",
];
/// `[[alert.webhook]]`
pub const ALERT_WEBHOOK: &[&str] =
    &["name", "url", "ca_file", "token_file", "severity", "services", "timeout"];
/// `[[alert.command]]`
pub const ALERT_COMMAND: &[&str] = &["name", "argv", "severity", "services", "timeout"];
/// `[metrics]`
pub const METRICS: &[&str] = &["listen"];

/// `[ha]`
pub const HA: &[&str] = &[
    "nodes",
    "keepalive",
    "warntime",
    "deadtime",
    "initdead",
    "failback",
    "key",
    "auth",
    "path",
    "ping",
    "fencing",
    "replication",
    "group",
];
/// `[[ha.key]]`
pub const HA_KEY: &[&str] = &["id", "file"];
/// `[[ha.path]]`, beside the names of the nodes
pub const HA_PATH: &[&str] = &["type", "name", "interface", "group", "baud"];
/// `[[ha.ping]]`
pub const HA_PING: &[&str] = &["name", "addresses", "interval", "timeout", "fall", "answers_vips"];
/// `[ha.fencing]`
pub const HA_FENCING: &[&str] = &["command", "timeout"];
/// `[ha.replication]`, beside the names of the nodes
pub const HA_REPLICATION: &[&str] = &["encrypt", "digest"];
/// `[[ha.group]]`
pub const HA_GROUP: &[&str] = &["name", "prefer", "addresses", "gateways"];

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
    ("sorry", SORRY),
    ("persistence", PERSISTENCE),
    ("[[service.real]]", REAL),
    ("health", HEALTH),
    ("passive", PASSIVE),
    ("[[service.check]]", CHECK),
    ("type = \"tcp\"", CHECK_TCP),
    ("type = \"http\"", CHECK_HTTP),
    ("type = \"http_proxy\"", CHECK_HTTP_PROXY),
    ("type = \"smtp\"", CHECK_SMTP),
    ("type = \"pop3\"", CHECK_POP3),
    ("type = \"imap\"", CHECK_IMAP),
    ("type = \"ftp\"", CHECK_FTP),
    ("type = \"nntp\"", CHECK_NNTP),
    ("type = \"dns\"", CHECK_DNS),
    ("type = \"ldap\"", CHECK_LDAP),
    ("type = \"mysql\"", CHECK_SQL),
    ("type = \"redis\"", CHECK_REDIS),
    ("type = \"ntp\"", CHECK_NTP),
    ("type = \"sip\"", CHECK_SIP),
    ("type = \"radius\"", CHECK_RADIUS),
    ("type = \"udp\"", CHECK_UDP),
    ("type = \"icmp\"", CHECK_ICMP),
    ("type = \"script\"", CHECK_SCRIPT),
    ("type = \"path\"", CHECK_PATH),
    ("tls", CHECK_TLS),
    ("user", CHECK_LOGIN),
    ("[alert]", ALERT),
    ("[[alert.mail]]", ALERT_MAIL),
    ("[[alert.webhook]]", ALERT_WEBHOOK),
    ("[[alert.command]]", ALERT_COMMAND),
    ("[metrics]", METRICS),
    ("[ha]", HA),
    ("[[ha.key]]", HA_KEY),
    ("[[ha.path]]", HA_PATH),
    ("[[ha.ping]]", HA_PING),
    ("[ha.fencing]", HA_FENCING),
    ("[ha.replication]", HA_REPLICATION),
    ("[[ha.group]]", HA_GROUP),
];
