//! `type = "http_proxy"`.

use hyper::http::Uri;

use super::{Context, common};
use crate::check::Kind;
use crate::check::http::StatusRange;
use crate::check::http_proxy::{Ask, Settings};
use crate::config::error::{Error, Sink, printable};
use crate::config::read::Section;

pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let url = url(s, sink);
    let tunnel = tunnel(s, sink);
    let mut expect = common::expect(s, sink);
    if tunnel.is_some() && s.value("status").is_none() {
        // A redirect is no tunnel (RFC 9110 section 9.3.6).
        expect.status = vec![StatusRange { first: 200, last: 299 }];
    }
    let login = common::login(s, sink);
    match (s.value("url"), s.value("tunnel")) {
        (None, None) => {
            let error = Error::new(s.span.clone(), "the proxy is asked for nothing", "");
            let help = "add url = \"http://www.example.com/\" or tunnel = \"www.example.com:443\"";
            sink.push(error.help(help));
        }
        (Some(_), Some(second)) => {
            let error = Error::new(second.span(), "`url` and `tunnel` in one check", "one of them");
            sink.push(error.other(s.place("url"), "first here"));
        }
        (None, Some(_)) if expect.body.is_some() => {
            let error = Error::new(s.place("body"), "a tunnel has no body", "");
            sink.push(error.help("remove `body`, or ask for a `url`"));
        }
        _ => {}
    }
    let ask = url.map(Ask::Fetch).or(tunnel.map(Ask::Tunnel))?;
    Some(Kind::HttpProxy(Settings { ask, login, expect }))
}

fn url(s: &Section<'_>, sink: &mut Sink) -> Option<String> {
    let text = s.string("url", sink)?;
    let uri = text.value.parse::<Uri>().ok();
    let valid = uri.is_some_and(|u| u.scheme_str() == Some("http") && u.host().is_some())
        && !text.value.contains(['@', '#']);
    if valid {
        return Some(text.value.to_owned());
    }
    let message = format!("`{}` is no URL that a proxy can be asked for", printable(text.value));
    let error = Error::new(text.span, message, "expected like http://www.example.com/ok");
    sink.push(error.help("for https ask for a tunnel: tunnel = \"www.example.com:443\""));
    None
}

fn tunnel(s: &Section<'_>, sink: &mut Sink) -> Option<String> {
    let text = s.string("tunnel", sink)?;
    let uri = text.value.parse::<Uri>().ok();
    let port = |u: &Uri| u.authority().and_then(|a| a.port_u16()).is_some_and(|p| p > 0);
    if uri.is_some_and(|u| u.scheme().is_none() && port(&u)) && !text.value.contains('@') {
        return Some(text.value.to_owned());
    }
    let message = format!("`{}` is no host with port", printable(text.value));
    sink.push(Error::new(text.span, message, "expected like www.example.com:443"));
    None
}
