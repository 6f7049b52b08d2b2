//! What the kinds with a wire format have in common: passwords under several names, yes or no.

use toml::de::DeValue;

use super::common::{path, secret, word};
use crate::check::secret::Secret;
use crate::config::error::{Error, Sink};
use crate::config::read::{Section, wrong_type};

/// A secret: in the file under `inline`, or in a file of its own under `file`.
pub(super) fn password(
    s: &Section<'_>,
    inline: &str,
    file: &str,
    sink: &mut Sink,
) -> Option<Secret> {
    let text = word(s, inline, sink);
    if text.is_some() {
        secret(s.place(inline), inline, sink);
    }
    let path = path(s, file, sink);
    if s.value(inline).is_some() && s.value(file).is_some() {
        let message = format!("`{inline}` and `{file}` in one check");
        let error = Error::new(s.place(file), message, "one of them");
        sink.push(error.other(s.place(inline), "first here"));
        return None;
    }
    text.map(Secret::Inline).or(path.map(Secret::File))
}

/// `true` or `false`.
pub(super) fn flag(s: &Section<'_>, key: &str, default: bool, sink: &mut Sink) -> bool {
    let Some(value) = s.value(key) else { return default };
    match value.get_ref() {
        DeValue::Boolean(value) => *value,
        other => {
            wrong_type(sink, value.span(), key, "true or false", other);
            default
        }
    }
}

/// Reports `key` if `needed`, without which it would have no effect, is not there.
pub(super) fn needs(s: &Section<'_>, key: &str, needed: &str, example: &str, sink: &mut Sink) {
    if s.value(key).is_some() && s.value(needed).is_none() {
        let message = format!("`{key}` without `{needed}`");
        let error = Error::new(s.place(key), message, "it would have no effect");
        sink.push(error.help(format!("add {example}")));
    }
}

/// Text of at most `max` bytes without a NUL: a query, a payload.
pub(super) fn text(s: &Section<'_>, key: &str, max: usize, sink: &mut Sink) -> Option<String> {
    let text = s.string(key, sink)?;
    if !text.value.is_empty() && text.value.len() <= max && !text.value.contains('\0') {
        return Some(text.value.to_owned());
    }
    let allowed = format!("expected 1 to {max} bytes without NUL");
    sink.push(Error::new(text.span, format!("`{key}` cannot be sent"), allowed));
    None
}
