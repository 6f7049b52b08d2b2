//! What the file says, setting by setting, whatever its layout: so that two nodes can name what they
//! were told differently. `[node]`, which must differ, is left out.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::printable;

/// Most settings that are compared; more than the largest file that makes sense has.
pub const LINES_MAX: usize = 65_536;

/// One setting.
#[derive(Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it stands in the structure: `service[web].real[10.0.1.1:80].weight`.
    pub path: String,
    /// On which line of the file.
    pub number: u32,
    /// What it says.
    value: String,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.number, self.path)
    }
}

impl Line {
    /// What it says; a word for all secrets.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }
}

/// Every setting, in the order of their paths. Of what stands in `secrets` nothing is kept but that it
/// is there: it could be guessed from what the nodes tell each other.
pub(super) fn read(table: &DeTable<'_>, text: &str, secrets: &[Range<usize>]) -> Vec<Line> {
    let starts = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
    let mut reader = Reader { starts: starts.collect(), secrets, lines: Vec::new() };
    for (key, value) in table.iter().filter(|(key, _)| key.get_ref() != "node") {
        reader.value(printable(key.get_ref()), value);
    }
    let mut lines = reader.lines;
    lines.sort_by(|a, b| a.path.cmp(&b.path));
    lines.truncate(LINES_MAX);
    lines
}

struct Reader<'a> {
    /// Where each line but the first begins.
    starts: Vec<usize>,
    secrets: &'a [Range<usize>],
    lines: Vec<Line>,
}

impl Reader<'_> {
    fn value(&mut self, path: String, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => {
                for (key, value) in table.iter() {
                    self.value(format!("{path}.{}", printable(key.get_ref())), value);
                }
            }
            DeValue::Array(items) if items.iter().any(|i| i.get_ref().is_table()) => {
                let mut seen: BTreeMap<String, usize> = BTreeMap::new();
                for item in items {
                    let label = label(item.get_ref());
                    let count = seen.entry(label.clone()).or_default();
                    *count += 1;
                    let again = if *count > 1 { format!("#{count}") } else { String::new() };
                    self.value(format!("{path}[{label}{again}]"), item);
                }
            }
            other => {
                let number = self.starts.partition_point(|s| *s <= value.span().start) + 1;
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                let span = value.span();
                let secret = self.secrets.iter().any(|s| s.start < span.end && span.start < s.end);
                let value = if secret { "hidden".to_owned() } else { text(other) };
                self.lines.push(Line { path, number, value });
            }
        }
    }
}

/// What tells one table of a list from the others, so that one more does not rename those after it.
fn label(item: &DeValue<'_>) -> String {
    let DeValue::Table(table) = item else { return text(item) };
    let keys = ["name", "address", "id", "type", "addresses", "url"];
    let found = keys.iter().find_map(|key| table.get(*key));
    found.map_or_else(String::new, |value| printable(text(value.get_ref()).trim_matches('"')))
}

/// The value, however it is written.
fn text(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => {
            let parsed = i128::from_str_radix(number.as_str(), number.radix());
            parsed.map_or_else(|_| number.as_str().to_owned(), |n| n.to_string())
        }
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(items) => {
            let items: Vec<_> = items.iter().map(|i| text(i.get_ref())).collect();
            format!("[{}]", items.join(","))
        }
        DeValue::Table(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        let secrets = text.match_indices("\"secret\"").map(|(at, s)| at..at + s.len());
        read(DeTable::parse(text).unwrap().get_ref(), text, &secrets.collect::<Vec<_>>())
    }

    #[test]
    fn layout_does_not_count_and_neither_does_the_name_of_the_node() {
        let a = "[node]\nname = \"lb1\"\n[control]\nlease = \"3s\"\n[[service]]\nname = \"w\"\n\
                 real = [{ address = \"a\", weight = 1_0 }, { address = \"b\" }]\n";
        let b = "# the other node\nnode = { name = \"lb2\" }\n\ncontrol.lease = '3s'\n[[service]]\n\
                 name = \"w\"\n[[service.real]]\naddress = \"a\"\nweight = 10\n[[service.real]]\n\
                 address = \"b\"\n";
        let strip = |l: Vec<Line>| -> Vec<_> { l.into_iter().map(|l| (l.path, l.value)).collect() };
        assert_eq!(strip(lines(a)), strip(lines(b)));
        let found = lines(a);
        let weight = found.iter().find(|l| l.path == "service[w].real[a].weight").unwrap();
        assert_eq!((weight.number, weight.value()), (7, "10"));
    }

    #[test]
    fn a_server_more_renames_no_other_and_no_value_is_shown() {
        let before = lines("s = [{ name = \"a\", p = \"secret\" }, { name = \"c\", p = 2 }]");
        let after = lines(
            "s = [{ name = \"a\", p = \"secret\" }, { name = \"b\", p = 3 }, \
                           { name = \"c\", p = 2 }]",
        );
        assert!(
            before.iter().all(|l| after.iter().any(|o| o.path == l.path && o.value == l.value))
        );
        assert!(before.iter().all(|l| !l.value.contains("secret")), "{before:?}");
        let twice = lines("s = [{ p = 1 }, { p = 1 }]");
        assert_ne!(twice[0].path, twice[1].path);
    }
}
