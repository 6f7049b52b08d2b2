//! `type = "http"` and `"https"`.

use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::uri::{Authority, PathAndQuery};

use super::{Context, common};
use crate::check::http::{Header, Settings};
use crate::check::{Kind, tls};
use crate::config::error::{Error, Sink, printable};
use crate::config::read::Section;

const METHODS: &[(&str, &str)] =
    &[("GET", "GET"), ("HEAD", "HEAD"), ("OPTIONS", "OPTIONS"), ("POST", "POST"), ("PUT", "PUT")];
/// Longest `data`, in bytes.
const DATA_MAX: usize = 4096;

pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    Some(Kind::Http(settings(s, None, sink)))
}

pub(super) fn read_tls(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let tls = common::settings(s, sink);
    Some(Kind::Http(settings(s, Some(tls), sink)))
}

fn settings(s: &Section<'_>, tls: Option<tls::Settings>, sink: &mut Sink) -> Settings {
    let method = s.choice("method", METHODS, sink).unwrap_or("GET");
    let expect = common::expect(s, sink);
    if method == "HEAD" && expect.body.is_some() {
        let error = Error::new(s.place("body"), "an answer to HEAD has no body", "");
        sink.push(error.help("remove `body`, or use method = \"GET\""));
    }
    Settings {
        tls,
        method: method.to_owned(),
        path: path(s, sink).unwrap_or_else(|| "/".to_owned()),
        host: host(s, sink),
        headers: headers(s, sink),
        data: data(s, sink),
        login: common::login(s, sink),
        expect,
    }
}

fn path(s: &Section<'_>, sink: &mut Sink) -> Option<String> {
    let text = s.string("path", sink)?;
    let plain = text.value.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if text.value.starts_with('/') && plain && text.value.parse::<PathAndQuery>().is_ok() {
        return Some(text.value.to_owned());
    }
    let message = format!("`{}` is not a path", printable(text.value));
    let error = Error::new(text.span, message, "expected like /health?full=1");
    sink.push(error.help("it begins with `/`; spaces and letters beyond ASCII are written as %20"));
    None
}

fn host(s: &Section<'_>, sink: &mut Sink) -> Option<String> {
    let text = s.string("host", sink)?;
    let plain = !text.value.contains('@') && text.value.len() <= 255;
    if plain && text.value.parse::<Authority>().is_ok() {
        return Some(text.value.to_owned());
    }
    let message = format!("`{}` is not the name of a host", printable(text.value));
    sink.push(Error::new(text.span, message, "expected like www.example.com"));
    None
}

fn headers(s: &Section<'_>, sink: &mut Sink) -> Vec<Header> {
    let mut headers = Vec::new();
    for (name, value) in common::named(s, "headers", sink) {
        let ours = [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];
        if ours.iter().any(|h| h.as_str().eq_ignore_ascii_case(name.value)) {
            let message = format!("header `{}` is made by xvip", printable(name.value));
            let error = Error::new(name.span, message, "not among `headers`");
            sink.push(error.help("the host has a key of its own: host = \"www.example.com\""));
            continue;
        }
        if HeaderValue::from_str(value.value).is_err() {
            let message = format!("header `{}` cannot be sent as it is", printable(name.value));
            sink.push(Error::new(value.span, message, "expected no control characters"));
            continue;
        }
        let header = Header { name: name.value.to_owned(), value: value.value.to_owned() };
        if header.is_secret() {
            common::secret(value.span, name.value, sink);
        }
        headers.push(header);
    }
    headers
}

fn data(s: &Section<'_>, sink: &mut Sink) -> Option<String> {
    let text = s.string("data", sink)?;
    if text.value.len() > DATA_MAX {
        let message = format!("`data` has {} bytes", text.value.len());
        sink.push(Error::new(text.span, message, format!("expected at most {DATA_MAX}")));
        return None;
    }
    Some(text.value.to_owned())
}
