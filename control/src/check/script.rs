//! `type = "script"`: a program of the operator's says how the server is.
//!
//! It is started without a shell, with no input, an environment of its own, and no file of ours
//! open. Its exit code is the answer.

use std::path::PathBuf;

use super::outcome::printable_bytes;
use super::{Outcome, Passed, Target};

/// Most bytes of output that are kept; what is more is read and thrown away.
pub const OUTPUT_MAX: usize = 4096;
/// Most arguments.
pub const ARGUMENTS_MAX: usize = 64;
/// Where it looks for other programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is started, and what its exit codes mean.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// The program, with its whole path.
    pub command: PathBuf,
    /// Its arguments; see [`arguments`](Self::arguments).
    pub arguments: Vec<String>,
    /// Variables of its environment, beside those that say what is asked.
    pub environment: Vec<(String, String)>,
    /// What its exit codes mean.
    pub codes: Codes,
}

/// What exit codes mean.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codes {
    /// Up, down, or not to be told.
    Fixed {
        /// Codes that mean up: 0, if nothing else is said.
        up: Vec<u8>,
        /// Codes that mean that the question could not be put. All others mean down.
        unknown: Vec<u8>,
    },
    /// As keepalived's `misc_dynamic`: 0 is up, 1 is down, 2 to 255 is up with a share of the weight
    /// of the code less 2, in percent; from 102 on all of it.
    Weight,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with a code.
    Code(u8),
    /// By a signal.
    Signal(i32),
}

impl Settings {
    /// The arguments for a target: `{address}`, `{port}`, `{vip}`, `{vip_port}`, `{service}` and
    /// `{real}` in them are replaced.
    #[must_use]
    pub fn arguments(&self, target: &Target) -> Vec<String> {
        let values = values(target);
        let fill = |argument: &String| {
            let mut text = String::with_capacity(argument.len());
            let mut rest = argument.as_str();
            'next: while let Some(at) = rest.find('{') {
                text.push_str(&rest[..at]);
                rest = &rest[at..];
                for (name, value) in &values {
                    let inside = rest.strip_prefix('{').and_then(|r| r.strip_prefix(name));
                    if let Some(after) = inside.and_then(|r| r.strip_prefix('}')) {
                        text.push_str(value);
                        rest = after;
                        continue 'next;
                    }
                }
                text.push('{');
                rest = &rest[1..];
            }
            text + rest
        };
        self.arguments.iter().map(fill).collect()
    }

    /// The whole environment.
    #[must_use]
    pub fn environment(&self, target: &Target) -> Vec<(String, String)> {
        let mut all = vec![("PATH".to_owned(), PATH.to_owned())];
        for (name, value) in values(target) {
            all.push((format!("XVIP_{}", name.to_ascii_uppercase()), value));
        }
        all.extend(self.environment.iter().cloned());
        all
    }

    /// What the end of the program means; `output` is the start of what it wrote.
    #[must_use]
    pub fn judge(&self, end: End, output: &[u8]) -> Outcome {
        let code = match end {
            End::Code(code) => code,
            End::Signal(number) => {
                return Outcome::down(format!("killed by signal {number}{}", said(output)));
            }
        };
        let reason = || format!("exit code {code}{}", said(output));
        match &self.codes {
            Codes::Fixed { up, .. } if up.contains(&code) => Outcome::up(),
            Codes::Fixed { unknown, .. } if unknown.contains(&code) => {
                Outcome::cannot_run(reason())
            }
            Codes::Weight if code == 0 => Outcome::up(),
            Codes::Weight if code >= 2 => {
                let weight_percent = Some((code - 2).min(100));
                Outcome::Up(Passed { weight_percent, note: None })
            }
            Codes::Fixed { .. } | Codes::Weight => Outcome::down(reason()),
        }
    }
}

/// The first line that the program wrote, for people.
fn said(output: &[u8]) -> String {
    let line = output.split(|b| matches!(b, b'\n' | b'\r')).find(|l| !l.is_empty());
    line.map_or_else(String::new, |line| format!(": {}", printable_bytes(line)))
}

/// What is asked, by name.
fn values(target: &Target) -> Vec<(&'static str, String)> {
    let (vip, vip_port) = target
        .vip
        .map_or_else(Default::default, |vip| (vip.ip().to_string(), vip.port().to_string()));
    vec![
        ("address", target.address.to_string()),
        ("port", target.port.to_string()),
        ("vip", vip),
        ("vip_port", vip_port),
        ("service", target.service.clone()),
        ("real", target.real.clone()),
    ]
}

/// What is known of a file or directory on the way to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its mode, type included, as `stat` gives it.
    pub mode: u32,
    /// Its owner.
    pub owner: u32,
}

/// Whether a program may be trusted to run with our rights, as keepalived's `script_security`: none
/// but root and ourselves (`us`) may be able to change it or to put another in its place. `way`
/// holds the directories from the root on, `file` is the program itself, links resolved.
///
/// # Errors
/// What is wrong, with the remedy.
pub fn trusted(way: &[(String, Node)], file: (&str, Node), us: u32) -> Result<(), String> {
    const DIRECTORY: u32 = 0o040_000;
    const REGULAR: u32 = 0o100_000;
    const STICKY: u32 = 0o1000;
    let strange = |owner| owner != 0 && owner != us;
    let (name, node) = file;
    if node.mode & 0o170_000 != REGULAR {
        return Err(format!("{name} is not a file"));
    }
    if node.mode & 0o111 == 0 {
        return Err(format!("{name} is not executable; run `chmod +x {name}`"));
    }
    if node.mode & 0o022 != 0 {
        return Err(format!("{name} can be changed by others; run `chmod go-w {name}`"));
    }
    if strange(node.owner) {
        return Err(format!("{name} belongs to user {}, neither root nor ours", node.owner));
    }
    for (name, node) in way {
        let open = node.mode & 0o022 != 0 && node.mode & STICKY == 0;
        if node.mode & 0o170_000 != DIRECTORY || open || strange(node.owner) {
            return Err(format!(
                "others can put another program in its place: see the owner and mode of {name}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(codes: Codes) -> Settings {
        let (command, environment) = ("/usr/lib/check".into(), vec![]);
        let arguments = vec!["-H{address}:{port}".to_owned(), "{{vip}}{x}{".to_owned()];
        Settings { command, arguments, environment, codes }
    }

    fn fixed(up: &[u8], unknown: &[u8]) -> Settings {
        settings(Codes::Fixed { up: up.to_vec(), unknown: unknown.to_vec() })
    }

    fn target() -> Target {
        Target {
            address: "10.0.0.1".parse().unwrap(),
            port: 80,
            vip: Some("[2001:db8::1]:443".parse().unwrap()),
            service: "web".to_owned(),
            real: "a".to_owned(),
        }
    }

    #[test]
    fn arguments_and_environment_say_what_is_asked() {
        let mut s = fixed(&[0], &[]);
        s.environment = vec![("LANG".to_owned(), "C".to_owned())];
        assert_eq!(s.arguments(&target()), ["-H10.0.0.1:80", "{2001:db8::1}{x}{"]);
        let all = s.environment(&target());
        let get = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(get("XVIP_ADDRESS"), Some("10.0.0.1"));
        assert_eq!(get("XVIP_VIP_PORT"), Some("443"));
        assert_eq!(get("XVIP_SERVICE").zip(get("LANG")), Some(("web", "C")));
    }

    #[test]
    fn exit_codes_mean_what_is_configured() {
        let s = fixed(&[0, 2], &[3]);
        assert_eq!(s.judge(End::Code(2), b"warning"), Outcome::up());
        let unknown = s.judge(End::Code(3), b"\n\nno \x1b route\nmore");
        assert_eq!(unknown, Outcome::CannotRun(r"exit code 3: no \x1b route".to_owned()));
        assert_eq!(s.judge(End::Code(1), b""), Outcome::Down("exit code 1".to_owned()));
        let killed = s.judge(End::Signal(11), b"");
        assert_eq!(killed, Outcome::Down("killed by signal 11".to_owned()));
    }

    #[test]
    fn a_code_may_set_the_weight_as_with_keepalived() {
        let s = settings(Codes::Weight);
        for (code, percent) in [(2, 0), (3, 1), (52, 50), (102, 100), (255, 100)] {
            let weight_percent = Some(percent);
            let expected = Outcome::Up(Passed { weight_percent, note: None });
            assert_eq!(s.judge(End::Code(code), b""), expected, "{code}");
        }
        assert_eq!(s.judge(End::Code(0), b""), Outcome::up());
        assert!(matches!(s.judge(End::Code(1), b""), Outcome::Down(_)));
    }

    #[test]
    fn a_program_that_others_can_replace_is_refused() {
        let directory = |mode: u32, owner| Node { mode: 0o040_000 | mode, owner };
        let file = |mode: u32, owner| ("/x/y", Node { mode: 0o100_000 | mode, owner });
        let way = |node| vec![("/".to_owned(), directory(0o755, 0)), ("/x".to_owned(), node)];
        let good = || way(directory(0o755, 0));
        assert_eq!(trusted(&good(), file(0o755, 0), 7), Ok(()));
        assert_eq!(trusted(&way(directory(0o1777, 0)), file(0o700, 7), 7), Ok(()));
        for (way, file, part) in [
            (good(), file(0o775, 0), "chmod go-w /x/y"),
            (good(), file(0o757, 0), "chmod go-w /x/y"),
            (good(), file(0o644, 0), "chmod +x"),
            (good(), file(0o755, 8), "user 8"),
            (good(), ("/x/y", directory(0o755, 0)), "not a file"),
            (way(directory(0o777, 0)), file(0o755, 0), "mode of /x"),
            (way(directory(0o775, 0)), file(0o755, 0), "mode of /x"),
            (way(directory(0o755, 8)), file(0o755, 0), "mode of /x"),
        ] {
            let error = trusted(&way, file, 7).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
