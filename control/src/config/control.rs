//! Reads `[control]`: settings of control's own.

use std::path::PathBuf;
use std::time::Duration;

use super::error::{Error, Sink, printable};
use super::keys;
use super::read::Section;

/// `[control]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// How long the data plane answers for the VIPs without hearing from control.
    pub lease: Duration,
    /// What an orderly stop does with the VIPs.
    pub on_stop: OnStop,
    /// Who may do everything on the control socket, beside root and control's own user.
    pub operators: Option<Group>,
    /// Who may look.
    pub readers: Option<Group>,
    /// Directory whose files take reals out.
    pub maintenance_dir: Option<PathBuf>,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(3),
            on_stop: OnStop::Release,
            operators: None,
            readers: None,
            maintenance_dir: None,
        }
    }
}

/// A group of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name, or number as text.
    pub name: String,
    /// Number, if the machine was asked ([`Machine`](super::Machine)).
    pub gid: Option<u32>,
}

/// What an orderly stop of control does with the VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// Gives them up at once.
    Release,
    /// Lets the lease run out, so that a quick restart goes unnoticed.
    Keep,
}

/// Reads the section; what is wrong is left out and reported.
pub(super) fn read(top: &Section<'_>, sink: &mut Sink) -> Control {
    let mut control = Control::default();
    if let Some(s) = top.section("control", "[control]", keys::CONTROL, sink) {
        let range = Duration::from_millis(500)..=Duration::from_secs(60);
        control.lease = s.duration("lease", range, sink).unwrap_or(control.lease);
        let stops = [("release", OnStop::Release), ("keep", OnStop::Keep)];
        control.on_stop = s.choice("on_stop", &stops, sink).unwrap_or(control.on_stop);
        control.operators = group(&s, "operators", sink);
        control.readers = group(&s, "readers", sink);
        control.maintenance_dir = directory(&s, "maintenance_dir", sink);
    }
    control
}

fn group(section: &Section<'_>, key: &str, sink: &mut Sink) -> Option<Group> {
    let name = section.string(key, sink)?;
    // What groupadd(8) accepts, or a number.
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-$".contains(&b);
    if (1..=32).contains(&name.value.len()) && name.value.bytes().all(allowed) {
        let gid = match (sink.machine.group)(name.value) {
            Ok(gid) => gid,
            Err(why) => {
                let error = Error::new(name.span, why, "a group that this machine has");
                sink.push(error.help("make it with `groupadd`, or write the number of a group"));
                None
            }
        };
        return Some(Group { name: name.value.to_owned(), gid });
    }
    let message = format!("`{}` is not the name of a group", printable(name.value));
    sink.push(Error::new(name.span, message, "expected a name like \"xvip\", or a number"));
    None
}

fn directory(section: &Section<'_>, key: &str, sink: &mut Sink) -> Option<PathBuf> {
    let path = section.string(key, sink)?;
    if path.value.starts_with('/') && !path.value.contains('\0') && path.value.len() < 4096 {
        return Some(PathBuf::from(path.value));
    }
    let message = format!("`{}` is not an absolute path", printable(path.value));
    sink.push(Error::new(path.span, message, "expected like \"/etc/xvip/maintenance\""));
    None
}
