//! `type = "path"`.

use std::net::SocketAddr;

use dataplane_api::service::{Forwarding, Protocol};

use super::Context;
use crate::check::Kind;
use crate::check::path::{Settings, TIMEOUT_MAX, VIPS_MAX};
use crate::config::error::{Error, Sink};
use crate::config::read::Section;

pub(super) fn read(s: &Section<'_>, context: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let forwards = matches!(context.forwarding, Forwarding::Direct | Forwarding::Tunnel);
    let complaint = if !forwards {
        Some("`path` checks need forwarding = \"direct\" or \"tunnel\"")
    } else if context.protocol != Protocol::Tcp {
        Some("`path` checks need protocol = \"tcp\"")
    } else {
        None
    };
    if let Some(message) = complaint {
        let why = if forwards { "a SYN is sent" } else { "the others see no VIP" };
        let help = format!("use type = \"{}\" here", if forwards { "udp" } else { "tcp" });
        sink.push(Error::new(s.place("type"), message, why).help(help));
        return None;
    }
    if s.value("address").is_some() {
        let why = "it goes to the VIP, by way of the real server";
        let error = Error::new(s.place("address"), "`path` checks have no `address`", why);
        sink.push(error.help("remove it"));
    }
    if context.timeout > TIMEOUT_MAX {
        let seconds = TIMEOUT_MAX.as_secs();
        let message = format!("`path` checks wait at most {seconds} s");
        sink.push(Error::new(s.place("timeout"), message, format!("expected 10ms to {seconds}s")));
    }
    let vips = vips(s, context, sink)?;
    Some(Kind::Path(Settings { vips }))
}

/// Every VIP that listens on the port.
fn vips(s: &Section<'_>, context: &Context<'_>, sink: &mut Sink) -> Option<Vec<SocketAddr>> {
    let port = match context.port {
        Some(port) => port,
        // What is wrong with it is reported already, with the keys of every check.
        None if s.value("port").is_some() => return None,
        None => {
            let first = context.listen.first()?.ports;
            let same = context.listen.iter().all(|l| l.ports == first);
            if !same || first.first != first.last {
                let error = Error::new(s.place("type"), "the check has no port to ask on", "");
                sink.push(error.help("add port = 80, one of those in `listen`"));
                return None;
            }
            first.first
        }
    };
    let mut vips = Vec::new();
    for listen in context.listen {
        let vip = SocketAddr::new(listen.address, port);
        if (listen.ports.first..=listen.ports.last).contains(&port) && !vips.contains(&vip) {
            vips.push(vip);
        }
    }
    if vips.is_empty() && !context.listen.is_empty() {
        let message = format!("the service does not listen on port {port}");
        sink.push(Error::new(s.place("port"), message, "expected a port of `listen`"));
        return None;
    }
    if vips.len() > VIPS_MAX {
        let message = format!("the check has {} VIPs to ask", vips.len());
        let error = Error::new(s.place("type"), message, format!("at most {VIPS_MAX}"));
        sink.push(error.help("make several services of this one"));
        return None;
    }
    Some(vips)
}

#[cfg(test)]
mod tests {
    use crate::check::Kind;
    use crate::config;

    /// The service's keys, the check's, the real server's.
    fn parse(service: &str, check: &str) -> Result<Vec<String>, String> {
        let text = format!(
            "[[interface]]\nname = \"e\"\n[[service]]\nname = \"w\"\n{service}\n\
             check = [{{ type = \"path\", {check} }}]\nreal = [{{ address = \"10.0.0.1\" }}]\n"
        );
        let config = config::parse(&text, "x.toml").map_err(|e| e.to_string())?;
        let entry = &config.services[0];
        let probe = entry.checks[0][0].probe(&entry.service, &entry.service.reals[0]);
        let Kind::Path(settings) = &probe.kind else { panic!("{probe:?}") };
        assert_eq!(probe.target.service, "w", "the data plane finds the real by it");
        Ok(settings.vips.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_vip_on_the_port_is_asked() {
        let direct = |listen| format!("forwarding = \"direct\"\nlisten = {listen}");
        let one = parse(&direct("\"192.0.2.1:80\""), "").unwrap();
        assert_eq!(one, ["192.0.2.1:80"]);
        let two = r#"["192.0.2.1:80", "192.0.2.2:80"]"#;
        assert_eq!(parse(&direct(two), "").unwrap(), ["192.0.2.1:80", "192.0.2.2:80"]);
        let ports = r#"["192.0.2.1:80", "192.0.2.2:400-500"]"#;
        assert_eq!(parse(&direct(ports), "port = 443").unwrap(), ["192.0.2.2:443"]);
        let error = parse(&direct(ports), "").unwrap_err();
        assert!(error.contains("no port to ask on") && error.contains("x.toml:7:"), "{error}");
        let error = parse(&direct(ports), "port = 81").unwrap_err();
        assert!(error.contains("does not listen on port 81"), "{error}");
    }

    #[test]
    fn where_it_cannot_work_it_is_refused_with_the_place_and_what_to_do() {
        let vip = "listen = \"192.0.2.1:80\"";
        for (service, check, words) in [
            (vip.to_owned(), "", "direct"),
            (format!("{vip}\nforwarding = \"nat\""), "", "type = \"tcp\""),
            (format!("{vip}\nforwarding = \"tunnel\"\nprotocol = \"udp\""), "", "type = \"udp\""),
            (format!("{vip}\nforwarding = \"tunnel\""), "address = \"10.9.9.9\"", "remove it"),
            (format!("{vip}\nforwarding = \"tunnel\""), "timeout = \"6s\"", "at most 5 s"),
            (format!("{vip}\nforwarding = \"tunnel\""), "port = 0", "1 to 65535"),
        ] {
            let error = parse(&service, check).unwrap_err();
            assert!(error.contains(words) && error.contains("x.toml:"), "{error}");
            assert!(error.contains("x.toml: 1 error"), "{error}");
        }
    }
}
