//! What only this machine knows of a configuration: numbers of groups, pages and keys in files. Looked up
//! when the file is read, beside the loop, so that no directory service and no disk is asked while
//! somebody waits.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::unistd::Group;
use rustix::fs::OFlags;

use zeroize::Zeroizing;

use super::secret;
use crate::config::{self, Config, Errors, Keys};
use crate::failover::settings::Auth;
use crate::seal::Keyring;
use crate::sorry::{PAGE_MAX, PORTS_MAX};

/// Fills in what the file only names.
///
/// # Errors
/// It does not exist, or cannot be used.
pub(super) fn complete(mut config: Config, file: &str) -> Result<Config, Errors> {
    let control = &mut config.control;
    let keys = [("operators", &mut control.operators), ("readers", &mut control.readers)];
    for (key, group) in keys {
        let Some(group) = group else { continue };
        group.gid = Some(look_up(group).map_err(|why| {
            let message = format!("`{key}` of [control]: {why}");
            let help = "make it with `groupadd`, or write the number of a group";
            Errors::unreadable(file, message, Some(help))
        })?);
    }
    if let Some(ha) = &config.ha {
        config.keys = Keys(Some(keyring(&ha.auth).map_err(|why| {
            let message = format!("`key` of [ha]: {why}");
            let help = "`openssl rand -hex 32` makes one; both nodes have the same";
            Errors::unreadable(file, message, Some(help))
        })?));
    }
    let mut ports = 0;
    for entry in &mut config.services {
        let Some(sorry) = &mut entry.sorry else { continue };
        ports += entry
            .service
            .listen
            .iter()
            .map(|l| usize::from(l.ports.last - l.ports.first) + 1)
            .sum::<usize>();
        let name = &entry.service.name;
        if let Some(path) = &sorry.file {
            let page = page(path).map_err(|why| {
                let message = format!("`sorry` of service `{name}`: {}: {why}", path.display());
                let help = "`sorry = true` takes the built-in page";
                Errors::unreadable(file, message, Some(help))
            })?;
            sorry.page = Some(page.into());
        }
    }
    if ports > PORTS_MAX {
        let message = format!("sorry pages at {ports} ports; at most {PORTS_MAX} are possible");
        return Err(Errors::unreadable(file, message, None));
    }
    Ok(config)
}

fn keyring(auth: &Auth) -> Result<Keyring, String> {
    let mut files = Vec::new();
    for key in &auth.keys {
        files.push((key.id, Zeroizing::new(secret::read(&key.file)?)));
    }
    let files: Vec<(u8, &str)> = files.iter().map(|(id, text)| (*id, text.as_str())).collect();
    Keyring::parse(auth.mode.into(), &files).map_err(|e| e.to_string())
}

fn look_up(group: &config::Group) -> Result<u32, String> {
    match Group::from_name(&group.name) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => group.name.parse().map_err(|_| format!("there is no group `{}`", group.name)),
        Err(error) => Err(format!("cannot look up the group `{}`: {error}", group.name)),
    }
}

fn page(path: &Path) -> Result<Vec<u8>, String> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path);
    let file = file.map_err(|e| format!("cannot open: {e}"))?;
    if !file.metadata().map_err(|e| format!("cannot examine: {e}"))?.is_file() {
        return Err("not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(PAGE_MAX + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot read: {e}"))?;
    if bytes.len() as u64 > PAGE_MAX {
        return Err(format!("larger than {} KiB", PAGE_MAX >> 10));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(text: &str) -> Result<Config, Errors> {
        let text = format!("{text}\n[[interface]]\nname = \"e\"");
        complete(config::parse(&text, "x.toml").unwrap(), "x.toml")
    }

    #[test]
    fn groups_are_found_by_name_or_number_and_a_missing_one_is_named() {
        let groups =
            |o, r| completed(&format!("[control]\noperators = \"{o}\"\nreaders = \"{r}\""));
        let control = groups("root", "54321").unwrap().control;
        let gid = |g: Option<config::Group>| g.unwrap().gid;
        assert_eq!((gid(control.operators), gid(control.readers)), (Some(0), Some(54_321)));
        let error = groups("root", "no-such-group").unwrap_err().to_string();
        assert!(error.contains("`readers`") && error.contains("no-such-group"), "{error}");
    }

    #[test]
    fn the_page_is_read_and_a_file_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sorry.html");
        let text = format!(
            "[[service]]\nname = \"w\"\nlisten = \"192.0.2.1:80\"\nsorry = {{ file = \"{}\" }}",
            path.display()
        );
        let error = completed(&text).unwrap_err().to_string();
        assert!(error.contains("service `w`") && error.contains("No such file"), "{error}");
        std::fs::write(&path, "<p>sorry").unwrap();
        let page = completed(&text).unwrap().services[0].sorry.clone().unwrap().page.unwrap();
        assert_eq!(&*page, b"<p>sorry");
        std::fs::File::create(&path).unwrap().set_len(PAGE_MAX + 1).unwrap();
        assert!(completed(&text).unwrap_err().to_string().contains("larger than 256 KiB"));
    }
}
