//! The options of a run: flags, the same keys in a scenario file, and what follows from both.
//!
//! Pure but for [`file`]: texts in, [`Run`] or [`Errors`] out, every error with its place. A flag
//! overrides the file, the file overrides the default; [`OPTIONS`] is the only list of options and
//! of defaults. `docs/pktgen.md` explains each; a test compares.

mod error;
mod file;
mod parse;
mod read;
mod table;
mod values;
mod verbs;

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};

pub use error::Errors;
pub use table::{Fallback, OPTIONS, Opt, VERBS};

use crate::spec::{Output, Spec};

/// Longest scenario file in bytes.
pub const FILE_MAX: u64 = 1 << 20;

/// A run that is possible as far as options tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// What to do.
    pub spec: Spec,
    /// Every option in force, as a scenario file would have it.
    pub scenario: serde_json::Value,
    /// What was changed or is worth knowing, in words.
    pub notes: Vec<String>,
}

/// A scenario file that was read.
#[derive(Clone, Copy, Debug)]
pub struct Scenario<'a> {
    /// Its text.
    pub text: &'a str,
    /// Its name in messages.
    pub name: &'a str,
}

/// The command line.
#[must_use]
pub fn command() -> Command {
    let verbs = VERBS.iter().map(|(verb, about)| {
        let own = OPTIONS.iter().filter(|o| o.section.is_empty() || o.section == *verb);
        let command = Command::new(*verb).about(*about).args_override_self(true);
        command.args(own.map(argument)).args(always())
    });
    Command::new("xvip-pktgen")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Sends traffic through a load balancer and proves what became of each packet")
        .after_help(
            "Exit status: 0 all criteria met, 1 some were not, 2 wrong usage or set-up.\n\
             The manual is docs/pktgen.md.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(verbs)
}

/// What to say beside clap's own words: that a flag it does not know is another verb's.
#[must_use]
pub fn hint(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    values::whose(&flag.strip_prefix("--")?.replace('-', "_"))
}

fn argument(option: &Opt) -> Arg {
    let help = match option.default {
        Fallback::Text(text) => format!("{} [default: {text}]", option.help),
        Fallback::Families(v4, v6) => format!("{} [default: {v4}, or {v6}]", option.help),
        Fallback::Described("") => option.help.to_owned(),
        Fallback::Described(what) => format!("{} [{what}]", option.help),
    };
    // Some bytes for each option, once.
    let flag: &'static str = option.key.replace('_', "-").leak();
    // A value may begin with a minus sign: the reader says better what is wrong with it.
    Arg::new(option.key).long(flag).value_name(option.value).help(help).allow_hyphen_values(true)
}

fn always() -> [Arg; 3] {
    let flag = |name, help| Arg::new(name).long(name).help(help).action(ArgAction::SetTrue);
    [
        Arg::new("scenario")
            .long("scenario")
            .value_name("FILE")
            .help("TOML file with the same keys; flags override it"),
        flag("json", "The report as JSON on standard output"),
        flag("quiet", "No progress on standard error"),
    ]
}

/// Reads the options of a command line that clap took; opens the scenario file it names.
///
/// # Errors
/// Everything that is wrong with them.
pub fn from_matches(matches: &ArgMatches) -> Result<Run, Errors> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Err(Errors::plain("no verb given"));
    };
    let text = match matches.get_one::<String>("scenario") {
        Some(path) => Some((file::read(Path::new(path), path)?, path)),
        None => None,
    };
    let scenario = text.as_ref().map(|(text, name)| Scenario { text, name });
    let given = OPTIONS.iter().filter(|o| o.section.is_empty() || o.section == verb);
    let flags: Vec<_> =
        given.filter_map(|o| Some((o.key, matches.get_one::<String>(o.key)?.as_str()))).collect();
    let mut run = build(verb, &flags, scenario)?;
    run.spec.output = Output { json: matches.get_flag("json"), quiet: matches.get_flag("quiet") };
    Ok(run)
}

/// What the flags (key and text) and a scenario file say.
///
/// # Errors
/// Everything that is wrong with them.
pub fn build(
    verb: &str,
    flags: &[(&'static str, &str)],
    scenario: Option<Scenario<'_>>,
) -> Result<Run, Errors> {
    let values = values::collect(verb, flags, scenario)?;
    read::read(verb, values, scenario)
}

#[cfg(test)]
mod tests;
