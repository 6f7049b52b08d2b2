//! Real clients and real servers: wrk against nginx, through whatever balances.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::figures::Figure;
use super::offloads::Setting;
use super::package;
use super::place::Place;
use super::proxy::nginx_arguments;
use super::system::Running;
use super::usage::Usage;
use crate::lab::hosts::{CLIENT, SERVER};
use crate::lab::{Lab, Process, REAL_PORT, on_cores, wait_until};

/// Real servers. They are addresses of one nginx: what they cost is the same for all.
pub(crate) const REALS: u16 = 4;
/// Bytes of the small answer.
const SMALL: usize = 200;
/// Bytes of the big file.
const BIG: usize = 1 << 20;
/// How long wrk may take beyond what it was told.
const SPARE: Duration = Duration::from_secs(20);
/// How long it may take until a page comes through.
const READY: Duration = Duration::from_secs(20);

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// Small pages over connections that stay.
    KeepAlive,
    /// A connection for each small page.
    Close,
    /// One client that waits for each answer.
    Alone,
    /// Files of a mebibyte.
    Files,
}

impl Workload {
    /// Those that are run in a setting, in their order: small answers to one client are the same in both.
    pub(super) fn of(setting: Setting) -> &'static [Self] {
        match setting {
            Setting::Wire => &[Self::KeepAlive, Self::Close, Self::Alone, Self::Files],
            Setting::Veth => &[Self::KeepAlive, Self::Close, Self::Files],
        }
    }

    /// In words, as the head of a table.
    fn words(self) -> &'static str {
        match self {
            Self::KeepAlive => "HTTP requests of 200 bytes over 64 kept connections",
            Self::Close => "HTTP, a new connection for each request, 64 at once",
            Self::Alone => "HTTP, one client, one request at a time",
            Self::Files => "HTTP, files of 1 MiB over 8 connections",
        }
    }

    fn connections(self) -> usize {
        match self {
            Self::KeepAlive | Self::Close => 64,
            Self::Alone => 1,
            Self::Files => 8,
        }
    }

    fn is_files(self) -> bool {
        self == Self::Files
    }

    fn page(self) -> &'static str {
        if self.is_files() { "big" } else { "small" }
    }
}

/// TCP segments of a node until now: sent, and sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Segments {
    sent: f64,
    again: f64,
}

impl Segments {
    fn of(lab: &Lab, node: &str) -> anyhow::Result<Self> {
        Ok(Self::parse(&lab.node(node).run("cat", &["/proc/net/snmp"])?))
    }

    /// Two lines, names and numbers (proc(5)).
    fn parse(snmp: &str) -> Self {
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let pairs = names.split_whitespace().zip(numbers.split_whitespace());
        let of = |wanted: &str| {
            let found = pairs.clone().find(|(name, _)| *name == wanted);
            found.and_then(|(_, number)| number.parse().ok()).unwrap_or(0.0)
        };
        Self { sent: of("OutSegs"), again: of("RetransSegs") }
    }

    /// Share of those sent again since `before`, in percent.
    fn again_since(&self, before: &Self) -> f64 {
        100.0 * (self.again - before.again) / (self.sent - before.sent).max(1.0)
    }
}

/// What wrk says at its end, by the script below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
struct Said {
    /// Microseconds.
    duration: f64,
    requests: f64,
    bytes: f64,
    /// Of connecting, reading, writing, waiting, and answers other than 2xx.
    errors: f64,
    /// Microseconds.
    p50: f64,
    /// Microseconds.
    p99: f64,
}

/// Prints [`Said`]: wrk's own text rounds, and mixes units.
const SCRIPT: &str = r#"done = function(s, l, r)
  local e = s.errors
  io.write(string.format(
    '\nresult {"duration":%f,"requests":%f,"bytes":%f,"errors":%f,"p50":%f,"p99":%f}\n',
    s.duration, s.requests, s.bytes, e.connect + e.read + e.write + e.status + e.timeout,
    l:percentile(50), l:percentile(99)))
end
"#;

fn said(text: &str) -> anyhow::Result<Said> {
    let line = text.lines().find_map(|line| line.strip_prefix("result "));
    serde_json::from_str(line.context("wrk said no result")?).context("what wrk said")
}

/// That wrk and nginx are installed.
pub(crate) fn need() -> anyhow::Result<()> {
    package::need("wrk", "wrk")?;
    package::need("curl", "curl")?;
    package::need("nginx", "nginx-light").map(drop)
}

/// Starts the servers' nginx.
pub(crate) fn serve(lab: &Lab, cores: &[usize]) -> anyhow::Result<Process> {
    let directory = lab.directory();
    fs::write(directory.join("big"), vec![b'x'; BIG]).context("the big file")?;
    fs::write(directory.join("wrk.lua"), SCRIPT).context("wrk's script")?;
    let file = directory.join("web.conf");
    fs::write(&file, server(directory, cores.len())).context("nginx's configuration")?;
    let mut command = lab.node(SERVER).command(package::need("nginx", "nginx-light")?);
    nginx_arguments(&mut command, &file, directory);
    lab.start("web", on_cores(cores, &command))
}

fn server(directory: &Path, processes: usize) -> String {
    let directory = directory.display();
    let reuse = if processes > 1 { " reuseport" } else { "" };
    let mut text = format!(
        "user root;
daemon off;
worker_processes {processes};
pid {directory}/web.pid;
error_log {directory}/web-error.log error;
worker_rlimit_nofile 16384;
events {{ worker_connections 16000; }}
http {{
 access_log off;
 sendfile on;
 tcp_nopush on;
 open_file_cache max=16;
 keepalive_requests 1000000000;
 keepalive_timeout 10m;
"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, " {kind}_temp_path {directory}/{kind};");
    }
    let _ = write!(
        text,
        " server {{
  listen {REAL_PORT} backlog=65535{reuse};
  root {directory};
  location = /small {{ return 200 \"{}\"; }}
 }}
}}
",
        "x".repeat(SMALL)
    );
    text
}

/// Waits until pages come through.
pub(super) fn ready(lab: &Lab, to: SocketAddr) -> anyhow::Result<()> {
    let url = format!("http://{to}/small");
    let arguments = ["-sf", "-o", "/dev/null", "--max-time", "2", url.as_str()];
    // All real servers in turn, so that each of their neighbours is known.
    for _ in 0..2 * REALS {
        wait_until(&format!("a page comes from {url}"), READY, || {
            Ok(lab.node(CLIENT).run("curl", &arguments).ok())
        })?;
    }
    Ok(())
}

/// Runs one workload; what it found.
pub(super) fn measure(
    lab: &Lab,
    workload: Workload,
    to: SocketAddr,
    seconds: u32,
    (setting, place): (Setting, &Place),
    running: &mut Running,
) -> anyhow::Result<Vec<Figure>> {
    let cores = place.hosts();
    let threads = cores.len().min(workload.connections());
    let script = lab.directory().join("wrk.lua").display().to_string();
    let mut command = lab.node(CLIENT).command(package::need("wrk", "wrk")?);
    command.args(["-s", &script, "-d", &format!("{seconds}s")]);
    command.args(["-t", &threads.to_string(), "-c", &workload.connections().to_string()]);
    if workload == Workload::Close {
        command.args(["-H", "Connection: close"]);
    }
    command.arg(format!("http://{to}/{}", workload.page()));
    let path = lab.directory().join("wrk.out");
    let file = File::create(&path).context("wrk's output")?;
    let command = on_cores(cores, &command);
    let segments = Segments::of(lab, SERVER)?;
    let meter = if place.is_apart() { running.meter()? } else { None };
    let before = Usage::now();
    let mut process = Process::start("wrk", command, lab.directory(), Some(file))?;
    let status = process.wait(Duration::from_secs(seconds.into()) + SPARE)?;
    let cores = Usage::now().since(&before);
    // A worker that polls uses its core up whatever there is to do: what counts is what packets take.
    let cpu = running.metered(meter)?.map_or_else(|| place.cpu(&cores), |metered| metered.all);
    let text = fs::read_to_string(&path).context("wrk's output")?;
    ensure!(status.success(), "wrk ended with {status}: {}\n{text}", process.tail());
    let said = said(&text)?;
    // What was under way at the end may count as an error; of big files none need be whole by then.
    ensure!(
        said.bytes > 0.0
            && (said.requests > 0.0 || workload.is_files())
            && said.errors <= said.requests * 0.001 + workload.connections() as f64,
        "{} errors beside {} answers: {text}",
        said.errors,
        said.requests
    );
    let again = Segments::of(lab, SERVER)?.again_since(&segments);
    Ok(figures(workload, said, again, cpu * 1e6, (setting, place)))
}

/// `cpu` is in microseconds, `again` in percent.
fn figures(
    workload: Workload,
    said: Said,
    again: f64,
    cpu: f64,
    (setting, place): (Setting, &Place),
) -> Vec<Figure> {
    let head = format!("{} ({}; {})", workload.words(), setting.word(), place.words());
    let seconds = said.duration / 1e6;
    let more = |unit: &str, value: f64| Figure::new(&head, unit, true, value);
    let less = |unit: &str, value: f64| Figure::new(&head, unit, false, value);
    let used = |of: &str| format!("µs of {} for {of}", place.cpu_words());
    let rate = said.requests / seconds;
    match workload {
        Workload::KeepAlive => vec![
            more("requests/s", rate),
            less(&used("a request"), cpu / said.requests),
            less("µs (median)", said.p50),
            less("µs (99th percentile)", said.p99),
        ],
        Workload::Close => vec![
            more("connections/s", rate),
            less(&used("a connection"), cpu / said.requests),
            less("µs (99th percentile)", said.p99),
        ],
        Workload::Alone => {
            vec![less("µs (median)", said.p50), less("µs (99th percentile)", said.p99)]
        }
        Workload::Files => {
            let megabits = said.bytes * 8.0 / 1e6;
            vec![
                more("Mbit/s", megabits / seconds),
                less(&used("a megabyte"), cpu / (said.bytes / 1e6)),
                less("% of segments that the servers sent again", again),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_read_whatever_stands_around_it() {
        let text = "Running 1s test\n  2 threads\n\nresult {\"duration\":2000000.000000,\"requests\":10,\
                    \"bytes\":1e6,\"errors\":0,\"p50\":21,\"p99\":40}\nbye\n";
        let said = said(text).unwrap();
        assert_eq!((said.requests, said.p99), (10.0, 40.0));
        assert!(super::said("Running").is_err());
        let place = Place::apart();
        let found = figures(Workload::Files, said, 0.5, 1e6, (Setting::Wire, &place));
        assert!(found[0].workload.contains("(wire; one core"), "{}", found[0].workload);
        assert!((found[0].value - 4.0).abs() < 1e-9, "1 MB in 2 s is 4 Mbit/s");
        assert!((found[1].value - 1e6).abs() < 1e-3, "a second of the device's core");
    }

    #[test]
    fn segments_sent_again_are_counted_from_the_kernels_table() {
        let snmp = |sent: u32, again: u32| {
            format!("Ip: A B\nIp: 1 2\nTcp: X OutSegs RetransSegs\nTcp: 9 {sent} {again}\nUdp: 1\n")
        };
        let (before, after) = (Segments::parse(&snmp(100, 3)), Segments::parse(&snmp(300, 5)));
        assert!((after.again_since(&before) - 1.0).abs() < 1e-9);
        assert_eq!(Segments::parse(""), Segments::default());
    }
}
