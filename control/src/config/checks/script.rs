//! `type = "script"`.

use toml::de::DeValue;

use super::Context;
use super::common::path;
use super::wire::flag;
use crate::check::Kind;
use crate::check::script::{ARGUMENTS_MAX, Codes, Settings};
use crate::config::error::{Error, Sink, printable};
use crate::config::read::{Section, as_integer, as_string, wrong_type};

/// Longest argument or value of a variable, in bytes.
const TEXT_MAX: usize = 1024;

pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    s.require("command", "command = \"/etc/xvip/check-web\"", sink);
    let command = path(s, "command", sink);
    let arguments = s.strings("arguments", sink);
    if let Some(extra) = arguments.get(ARGUMENTS_MAX) {
        let message = format!("more than {ARGUMENTS_MAX} arguments");
        sink.push(Error::new(extra.span.clone(), message, "one too many"));
    }
    for argument in &arguments {
        if argument.value.len() > TEXT_MAX || argument.value.contains('\0') {
            let allowed = format!("expected at most {TEXT_MAX} bytes without NUL");
            sink.push(Error::new(argument.span.clone(), "no argument of a program", allowed));
        }
    }
    let arguments = arguments.into_iter().map(|a| a.value.to_owned()).collect();
    let environment = environment(s, sink);
    Some(Kind::Script(Settings {
        command: command?,
        arguments,
        environment,
        codes: codes(s, sink),
    }))
}

fn codes(s: &Section<'_>, sink: &mut Sink) -> Codes {
    let up = list(s, "up", sink);
    let unknown = list(s, "unknown", sink);
    if !flag(s, "weight", false, sink) {
        if let Some(both) = up.iter().find(|code| unknown.contains(code)) {
            let message = format!("code {both} means up and unknown");
            let error = Error::new(s.place("unknown"), message, "one of them");
            sink.push(error.other(s.place("up"), "first here"));
        }
        let up = if s.value("up").is_none() { vec![0] } else { up };
        return Codes::Fixed { up, unknown };
    }
    for key in ["up", "unknown"] {
        if s.value(key).is_some() {
            let message = format!("`{key}` with `weight = true`, which gives every code a meaning");
            sink.push(Error::new(s.place(key), message, "one of them"));
        }
    }
    Codes::Weight
}

/// Exit codes.
fn list(s: &Section<'_>, key: &str, sink: &mut Sink) -> Vec<u8> {
    let Some(value) = s.value(key) else { return Vec::new() };
    let items = match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        _ => vec![value],
    };
    let code = |item| as_integer(item, key, 0..=255, sink);
    items.into_iter().filter_map(code).filter_map(|c| u8::try_from(c).ok()).collect()
}

fn environment(s: &Section<'_>, sink: &mut Sink) -> Vec<(String, String)> {
    let Some(value) = s.value("environment") else { return Vec::new() };
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(sink, value.span(), "environment", "a table", value.get_ref());
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, value) in table.iter() {
        let word = name.get_ref();
        let good = word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !word.is_empty()
            && !word.starts_with("XVIP_");
        if !good || found.len() == ARGUMENTS_MAX {
            let message = format!("`{}` cannot be a variable of a check", printable(word));
            let allowed = "expected letters, digits and _, not beginning with XVIP_, at most 64";
            sink.push(Error::new(name.span(), message, allowed));
            continue;
        }
        let Some(text) = as_string(value, word, "a string", sink) else { continue };
        if text.value.len() > TEXT_MAX || text.value.contains('\0') {
            let allowed = format!("expected at most {TEXT_MAX} bytes without NUL");
            sink.push(Error::new(text.span, "no value of a variable", allowed));
            continue;
        }
        found.push((word.to_string(), text.value.to_owned()));
    }
    found.sort();
    found
}
