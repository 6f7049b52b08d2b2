//! Gathers the text of every option from flags, file and defaults.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Scenario;
use super::error::{Errors, Place, Problem, printable};
use super::table::{Fallback, OPTIONS, VERBS, find};

/// The text of an option and where it is from.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) text: String,
    pub(super) place: Place,
}

/// By key. Options without a text of their own are absent.
pub(super) type Values = BTreeMap<&'static str, Value>;

/// Flags over file over defaults.
pub(super) fn collect(
    verb: &str,
    flags: &[(&'static str, &str)],
    scenario: Option<Scenario<'_>>,
) -> Result<Values, Errors> {
    let mut values = Values::new();
    for option in OPTIONS.iter().filter(|o| o.section.is_empty() || o.section == verb) {
        if let Fallback::Text(text) = option.default {
            values.insert(option.key, Value { text: text.to_owned(), place: Place::Default });
        }
    }
    let mut problems = Vec::new();
    if let Some(scenario) = scenario {
        from_file(verb, scenario, &mut values, &mut problems);
    }
    for (key, text) in flags {
        match find(verb, key) {
            Some(option) => {
                let value = Value { text: (*text).to_owned(), place: Place::Flag };
                values.insert(option.key, value);
            }
            None => problems.push(unknown_flag(verb, key)),
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(Errors::of(problems, scenario)) }
}

/// A flag, by its key, that this verb does not have. A command line never has one: clap knows them.
fn unknown_flag(verb: &str, key: &str) -> Problem {
    let own = OPTIONS.iter().filter(|o| o.section.is_empty() || o.section == verb);
    let keys: Vec<_> = own.map(|o| o.key).collect();
    let message = format!("`{verb}` has no option `{}`", printable(key));
    let near = nearest(key, &keys).map(|near| format!("did you mean `{near}`?"));
    Problem {
        key: "",
        place: Place::Flag,
        message,
        allowed: format!("expected one of {}", keys.join(", ")),
        help: whose(key).or(near),
    }
}

/// Which verbs an option is for, if it is not for all.
pub(super) fn whose(key: &str) -> Option<String> {
    let sections = OPTIONS.iter().filter(|o| o.key == key && !o.section.is_empty());
    let verbs: Vec<_> = sections.map(|o| format!("`{}`", o.section)).collect();
    (!verbs.is_empty())
        .then(|| format!("`--{}` is an option of {}", key.replace('_', "-"), verbs.join(" and ")))
}

fn from_file(verb: &str, scenario: Scenario<'_>, values: &mut Values, problems: &mut Vec<Problem>) {
    let (table, syntax) = DeTable::parse_recoverable(scenario.text);
    for error in &syntax {
        let message = error.message().lines().map(printable).collect::<Vec<_>>().join("; ");
        problems.push(problem(error.span().unwrap_or_default(), message, String::new()));
    }
    if !problems.is_empty() {
        return;
    }
    let sections: Vec<_> = VERBS.iter().map(|(verb, _)| *verb).filter(|v| has_section(v)).collect();
    for (key, value) in table.get_ref() {
        match (value.get_ref(), key.get_ref().as_ref()) {
            (DeValue::Table(inner), name) if sections.contains(&name) => {
                for (key, value) in inner {
                    one(name, name == verb, key, value, values, problems);
                }
            }
            (other, name) if sections.contains(&name) => {
                let message = format!("`{name}` cannot be {}", describe(other));
                problems.push(problem(value.span(), message, format!("expected a table [{name}]")));
            }
            _ => one("", true, key, value, values, problems),
        }
    }
}

fn has_section(verb: &str) -> bool {
    OPTIONS.iter().any(|o| o.section == verb)
}

/// Takes one key; `wanted` is false for those of another verb, which are only looked at.
fn one(
    section: &str,
    wanted: bool,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    values: &mut Values,
    problems: &mut Vec<Problem>,
) {
    let name = key.get_ref().as_ref();
    let Some(option) = find(section, name).filter(|o| o.section == section) else {
        problems.push(unknown(section, name, key.span()));
        return;
    };
    match text(value.get_ref()) {
        Some(text) if wanted => {
            let place = Place::File(value.span());
            values.insert(option.key, Value { text, place });
        }
        Some(_) => {}
        None => {
            let message = format!("`{}` cannot be {}", option.key, describe(value.get_ref()));
            problems.push(problem(value.span(), message, format!("expected {}", option.value)));
        }
    }
}

fn unknown(section: &str, name: &str, span: Range<usize>) -> Problem {
    let heading = if section.is_empty() { "a scenario".to_owned() } else { format!("[{section}]") };
    let mut keys: Vec<_> = OPTIONS.iter().filter(|o| o.section == section).map(|o| o.key).collect();
    if section.is_empty() {
        keys.extend(VERBS.iter().map(|(verb, _)| *verb).filter(|v| has_section(v)));
    }
    let message = format!("unknown key `{}` in {heading}", printable(name));
    let mut problem = problem(span, message, format!("expected one of {}", keys.join(", ")));
    let other = OPTIONS.iter().find(|o| o.key == name && o.section != section);
    problem.help = match (other, nearest(name, &keys)) {
        (Some(o), _) if o.section.is_empty() => {
            Some(format!("`{name}` stands above the first table"))
        }
        (Some(o), _) => Some(format!("`{name}` belongs under [{}]", o.section)),
        (None, near) => near.map(|near| format!("did you mean `{near}`?")),
    };
    problem
}

fn problem(span: Range<usize>, message: String, allowed: String) -> Problem {
    Problem { key: "", place: Place::File(span), message, allowed, help: None }
}

/// A value as its flag would have it; none for what no flag can say.
fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => match number.radix() {
            10 => Some(number.as_str().to_owned()),
            radix => i64::from_str_radix(number.as_str(), radix).ok().map(|n| n.to_string()),
        },
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Array(items) => {
            let texts: Option<Vec<_>> = items
                .iter()
                .map(|i| text(i.get_ref()).filter(|_| !matches!(i.get_ref(), DeValue::Array(_))))
                .collect();
            texts.map(|t| t.join(","))
        }
        DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "this integer",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "this list",
        DeValue::Table(_) => "a table",
    }
}

/// The candidate that a typist most likely meant, if any is near enough.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    // A long word is garbage, not a slip; this also bounds the work.
    if word.len() > 40 {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    candidates
        .iter()
        .map(|c| (strsim::damerau_levenshtein(&word, &c.replace('-', "_")), *c))
        .filter(|(d, c)| *d <= 1.max(c.len().min(word.len()) / 3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}
