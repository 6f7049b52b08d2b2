//! Typed access to a TOML table that reports what is wrong and goes on.
//!
//! A getter returns `None` when the key is absent or wrong; when wrong, it has said so.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration;
use super::error::{Error, Sink, printable};
use super::suggest::nearest;

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// One table of the file.
pub(super) struct Section<'a> {
    /// How messages call it: `[engine]`.
    title: &'static str,
    /// Its heading, where errors about the whole table are shown.
    pub(super) span: Range<usize>,
    table: &'a DeTable<'a>,
}

impl<'a> Section<'a> {
    /// Opens `table` and reports every key that is not in `keys`.
    pub(super) fn open(
        table: &'a DeTable<'a>,
        span: Range<usize>,
        title: &'static str,
        keys: &[&str],
        sink: &mut Sink,
    ) -> Self {
        for key in table.keys().filter(|k| !keys.contains(&k.get_ref().as_ref())) {
            let name = key.get_ref();
            let error = Error::new(
                key.span(),
                format!("unknown key `{}` in {title}", printable(name)),
                format!("expected one of {}", keys.join(", ")),
            );
            sink.push(error.did_you_mean(nearest(name, keys)));
        }
        Self { title, span, table }
    }

    /// The table under `key`, if there is one.
    pub(super) fn section(
        &self,
        key: &str,
        title: &'static str,
        keys: &[&str],
        sink: &mut Sink,
    ) -> Option<Section<'a>> {
        let value = self.table.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section::open(table, value.span(), title, keys, sink)),
            other => {
                wrong_type(sink, value.span(), key, "a table", other);
                None
            }
        }
    }

    /// The tables of the array `key`, in the order of the file.
    pub(super) fn sections(
        &self,
        key: &str,
        title: &'static str,
        keys: &[&str],
        sink: &mut Sink,
    ) -> Vec<Section<'a>> {
        let tables = self.tables(key, title, sink);
        tables.into_iter().map(|(t, span)| Section::open(t, span, title, keys, sink)).collect()
    }

    /// The tables of the array `key`, not opened: for those whose keys depend on what they say.
    pub(super) fn tables(
        &self,
        key: &str,
        title: &'static str,
        sink: &mut Sink,
    ) -> Vec<(&'a DeTable<'a>, Range<usize>)> {
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            let (what, kind) = (describe(value.get_ref()), format!("`{key}`"));
            let error = Error::new(
                value.span(),
                format!("{kind} must be a list of tables, found {what}"),
                "",
            );
            sink.push(error.help(format!("write {title}, with two brackets")));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in array {
            match item.get_ref() {
                DeValue::Table(table) => tables.push((table, item.span())),
                other => wrong_type(sink, item.span(), key, "a list of tables", other),
            }
        }
        tables
    }

    /// Reports the absence of `key`.
    pub(super) fn require(&self, key: &str, example: &str, sink: &mut Sink) {
        if !self.table.contains_key(key) {
            let message = format!("{} has no `{key}`", self.title);
            sink.push(Error::new(self.span.clone(), message, "").help(format!("add {example}")));
        }
    }

    /// The place of the value under `key`, or of the heading.
    pub(super) fn place(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// The raw value.
    pub(super) fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    /// A string.
    pub(super) fn string(&self, key: &str, sink: &mut Sink) -> Option<At<&'a str>> {
        let value = self.table.get(key)?;
        as_string(value, key, "a string", sink)
    }

    /// A string or a list of strings.
    pub(super) fn strings(&self, key: &str, sink: &mut Sink) -> Vec<At<&'a str>> {
        const EXPECTED: &str = "a string or a list of strings";
        let Some(value) = self.table.get(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().filter_map(|i| as_string(i, key, EXPECTED, sink)).collect()
            }
            _ => as_string(value, key, EXPECTED, sink).into_iter().collect(),
        }
    }

    /// An integer in `range`.
    pub(super) fn integer(
        &self,
        key: &str,
        range: RangeInclusive<u32>,
        sink: &mut Sink,
    ) -> Option<u32> {
        as_integer(self.table.get(key)?, key, range, sink)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str, sink: &mut Sink) -> Option<bool> {
        let value = self.table.get(key)?;
        if let DeValue::Boolean(flag) = value.get_ref() {
            return Some(*flag);
        }
        wrong_type(sink, value.span(), key, "true or false", value.get_ref());
        None
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        choices: &[(&str, T)],
        sink: &mut Sink,
    ) -> Option<T> {
        let word = self.string(key, sink)?;
        let found = choices.iter().find(|(name, _)| *name == word.value);
        if found.is_none() {
            let error = unknown_word(&word, key, &names(choices));
            sink.push(error);
        }
        found.map(|(_, value)| *value)
    }

    /// A list of words, each at most once.
    pub(super) fn choices<T: Copy>(
        &self,
        key: &str,
        choices: &[(&str, T)],
        sink: &mut Sink,
    ) -> Vec<T> {
        let mut found = Vec::new();
        for word in self.strings(key, sink) {
            match choices.iter().find(|(name, _)| *name == word.value) {
                Some((_, value)) => found.push(*value),
                None => sink.push(unknown_word(&word, key, &names(choices))),
            }
        }
        found
    }

    /// A duration in `range`.
    pub(super) fn duration(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
        sink: &mut Sink,
    ) -> Option<Duration> {
        as_duration(self.table.get(key)?, key, range, sink)
    }

    /// A duration of whole seconds, 1 s to 365 days.
    pub(super) fn seconds(&self, key: &str, sink: &mut Sink) -> Option<u32> {
        const YEAR: Duration = Duration::from_secs(31_536_000);
        let value = self.table.get(key)?;
        let duration = as_duration(value, key, Duration::from_secs(1)..=YEAR, sink)?;
        if duration.subsec_millis() != 0 {
            let message = format!("`{key}` must be whole seconds");
            sink.push(Error::new(value.span(), message, "counted in seconds"));
            return None;
        }
        u32::try_from(duration.as_secs()).ok()
    }
}

fn names<'n, T>(choices: &[(&'n str, T)]) -> Vec<&'n str> {
    choices.iter().map(|(name, _)| *name).collect()
}

fn unknown_word(word: &At<&str>, key: &str, names: &[&str]) -> Error {
    let message = format!("unknown {} `{}`", key.replace('_', " "), printable(word.value));
    let error =
        Error::new(word.span.clone(), message, format!("expected one of {}", names.join(", ")));
    error.did_you_mean(nearest(word.value, names))
}

/// A string, or a report that `expected` was expected.
pub(super) fn as_string<'a>(
    value: &'a Spanned<DeValue<'a>>,
    key: &str,
    expected: &str,
    sink: &mut Sink,
) -> Option<At<&'a str>> {
    match value.get_ref() {
        DeValue::String(text) => Some(At { value: text.as_ref(), span: value.span() }),
        other => {
            wrong_type(sink, value.span(), key, expected, other);
            None
        }
    }
}

/// An integer in `range`, or a report.
pub(super) fn as_integer(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    range: RangeInclusive<u32>,
    sink: &mut Sink,
) -> Option<u32> {
    let allowed = format!("expected an integer from {} to {}", range.start(), range.end());
    let DeValue::Integer(integer) = value.get_ref() else {
        let message = format!("`{key}` must be an integer, found {}", describe(value.get_ref()));
        sink.push(Error::new(value.span(), message, allowed));
        return None;
    };
    let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
    if let Some(number) = number.filter(|n| range.contains(n)) {
        return Some(number);
    }
    sink.push(Error::new(value.span(), format!("`{key}` is out of range"), allowed));
    None
}

/// A duration in `range`, or a report.
pub(super) fn as_duration(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    range: RangeInclusive<Duration>,
    sink: &mut Sink,
) -> Option<Duration> {
    const FORM: &str = "expected a duration like \"90s\", \"15m\", \"1h30m\", or seconds";
    let (low, high) = (duration::show(*range.start()), duration::show(*range.end()));
    let duration = match value.get_ref() {
        DeValue::String(text) => duration::parse(text),
        DeValue::Integer(number) => {
            let number = u64::from_str_radix(number.as_str(), number.radix());
            // Negative, or beyond 64 bits: out of every range.
            Some(number.map_or(Duration::MAX, Duration::from_secs))
        }
        _ => None,
    };
    let error = match duration {
        Some(d) if range.contains(&d) => return Some(d),
        Some(_) => Error::new(
            value.span(),
            format!("`{key}` is out of range"),
            format!("expected {low} to {high}"),
        ),
        None => {
            let found = describe(value.get_ref());
            Error::new(value.span(), format!("`{key}` must be a duration, found {found}"), FORM)
        }
    };
    sink.push(error);
    None
}

/// A name, or a report.
pub(super) fn checked_name<'a>(
    section: &Section<'a>,
    key: &str,
    sink: &mut Sink,
) -> Option<At<&'a str>> {
    let name = section.string(key, sink)?;
    if super::is_name(name.value) {
        return Some(name);
    }
    let message = format!("`{}` is not a name", printable(name.value));
    sink.push(Error::new(name.span, message, "expected 1 to 63 of A-Z a-z 0-9 . _ -"));
    None
}

/// Reports a value of the wrong type.
pub(super) fn wrong_type(
    sink: &mut Sink,
    span: Range<usize>,
    key: &str,
    expected: &str,
    found: &DeValue<'_>,
) {
    let message = format!("`{key}` must be {expected}, found {}", describe(found));
    sink.push(Error::new(span, message, format!("expected {expected}")));
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string \"{}\"", printable(text)),
        DeValue::Integer(number) => format!("the integer {}", printable(number.as_str())),
        DeValue::Float(number) => format!("the number {}", printable(number.as_str())),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
