//! `type = "dns"`.

use super::Context;
use super::wire::flag;
use crate::check::Kind;
use crate::check::dns::{ANSWERS_MAX, Rcode, Settings, Transport, Type, canonical};
use crate::config::error::{Error, Sink, printable};
use crate::config::read::Section;

const TRANSPORTS: &[(&str, Transport)] = &[("udp", Transport::Udp), ("tcp", Transport::Tcp)];

pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    s.require("name", "name = \"www.example.com\"", sink);
    let record = s.choice("record", Type::ALL, sink).unwrap_or_default();
    let name = s.string("name", sink).and_then(|text| match canonical(text.value, record) {
        Ok(name) => Some(name),
        Err(reason) => {
            let message = format!("`{}` is no name: {reason}", printable(text.value));
            sink.push(Error::new(text.span, message, "expected like www.example.com"));
            None
        }
    });
    let transport = s.choice("transport", TRANSPORTS, sink).unwrap_or_default();
    let rcode = s.choice("rcode", Rcode::ALL, sink).unwrap_or_default();
    let answer = s.strings("answer", sink);
    if let Some(extra) = answer.get(ANSWERS_MAX) {
        let message = format!("more than {ANSWERS_MAX} records in `answer`");
        sink.push(Error::new(extra.span.clone(), message, "one too many"));
    }
    if let (Some(first), true) = (answer.first(), rcode != Rcode::NoError) {
        let message = "`answer` with an `rcode` that leaves no room for one";
        sink.push(Error::new(first.span.clone(), message, "only with NOERROR"));
    }
    let answer = answer.into_iter().map(|a| a.value.to_owned()).collect();
    let recursion = flag(s, "recursion", true, sink);
    Some(Kind::Dns(Settings { name: name?, record, transport, rcode, answer, recursion }))
}
