//! Proxies in user space: HAProxy in TCP mode, nginx with its stream module.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::package;
use crate::lab::{Lab, Plan, Process, REAL_PORT, on_cores};
use crate::packet_path::Family;

/// Connections to each proxy at once: more than any workload here opens, within usual bounds of file
/// descriptors.
const CONNECTIONS: u32 = 4000;

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proxy {
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
}

/// Where Debian puts nginx's module.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

impl Proxy {
    /// That it is installed.
    pub(super) fn need(self) -> anyhow::Result<PathBuf> {
        match self {
            Self::Haproxy => package::need("haproxy", "haproxy"),
            Self::Nginx => {
                package::need_file(Path::new(STREAM_MODULE), "libnginx-mod-stream")?;
                package::need("nginx", "nginx-light")
            }
        }
    }

    fn text(self, directory: &Path, reals: u16, threads: usize) -> String {
        match self {
            Self::Haproxy => haproxy(reals, threads),
            Self::Nginx => nginx(directory, reals, threads),
        }
    }

    /// Starts it in the node `lb`, with a thread (or a process) for each of its cores.
    pub(super) fn start(self, lab: &Lab, reals: u16, cores: &[usize]) -> anyhow::Result<Process> {
        let program = self.need()?;
        let directory = lab.directory();
        let name = match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "stream",
        };
        let file = directory.join(format!("{name}.conf"));
        fs::write(&file, self.text(directory, reals, cores.len()))
            .with_context(|| file.display().to_string())?;
        let mut command = lab.balancer().command(program);
        match self {
            Self::Haproxy => command.arg("-db").arg("-f").arg(&file),
            Self::Nginx => nginx_arguments(&mut command, &file, directory),
        };
        lab.start(name, on_cores(cores, &command))
    }
}

/// nginx with its own configuration, prefix and log, so that it never meets one of the system's.
pub(super) fn nginx_arguments<'a>(
    command: &'a mut Command,
    file: &Path,
    directory: &Path,
) -> &'a mut Command {
    let log = directory.join("nginx-error.log");
    command.arg("-c").arg(file).arg("-p").arg(directory).arg("-e").arg(log)
}

fn haproxy(reals: u16, threads: usize) -> String {
    let plan = Plan::new(Family::V4);
    let mut text = format!(
        "global
 maxconn {CONNECTIONS}
 nbthread {threads}
defaults
 mode tcp
 timeout connect 5s
 timeout client 5m
 timeout server 5m
 option splice-auto
listen web
 bind {} backlog 65535
 balance roundrobin
",
        plan.vip(0)
    );
    for real in 0..reals {
        // Writing to a string cannot fail.
        let _ = writeln!(text, " server r{real} {}:{REAL_PORT}", plan.real(real));
    }
    text
}

fn nginx(directory: &Path, reals: u16, processes: usize) -> String {
    let plan = Plan::new(Family::V4);
    let directory = directory.display();
    // Each process then has a queue of new connections of its own.
    let reuse = if processes > 1 { " reuseport" } else { "" };
    let mut text = format!(
        "load_module {STREAM_MODULE};
user root;
daemon off;
worker_processes {processes};
pid {directory}/stream.pid;
error_log {directory}/stream-error.log error;
worker_rlimit_nofile {limit};
events {{ worker_connections {limit}; }}
stream {{
 server {{ listen {vip} backlog=65535{reuse}; proxy_pass reals; }}
 upstream reals {{
",
        limit = 4 * CONNECTIONS,
        vip = plan.vip(0),
    );
    for real in 0..reals {
        let _ = writeln!(text, "  server {}:{REAL_PORT};", plan.real(real));
    }
    text + " }\n}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_told_all_real_servers() {
        let texts = [haproxy(3, 2), nginx(Path::new("/d"), 3, 2)];
        for text in texts {
            assert!(text.contains("198.18.255.1:80"), "{text}");
            let servers =
                text.lines().filter(|l| l.trim().starts_with("server ") && l.contains("198.19"));
            assert_eq!(servers.count(), 3, "{text}");
        }
    }

    #[test]
    fn both_accept_what_they_are_told() {
        let directory = tempfile::tempdir().unwrap();
        for proxy in [Proxy::Haproxy, Proxy::Nginx] {
            let Ok(program) = proxy.need() else {
                assert!(std::env::var_os("REQUIRE_NETNS").is_none(), "{proxy:?} is not installed");
                continue;
            };
            let file = directory.path().join("x.conf");
            fs::write(&file, proxy.text(directory.path(), 16, 2)).unwrap();
            let mut command = Command::new(program);
            match proxy {
                Proxy::Haproxy => command.arg("-c").arg("-f").arg(&file),
                Proxy::Nginx => nginx_arguments(&mut command, &file, directory.path()).arg("-t"),
            };
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            // It also looks whether it could listen there, which takes the address.
            assert!(output.status.success() || said.contains("bind()"), "{said}");
        }
    }
}
