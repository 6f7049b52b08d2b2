//! What only this machine knows of a configuration: numbers of groups, what is in other files.
//! Looked up when the file is read, beside the loop, so that no directory service and no disk is
//! asked while somebody waits.

use std::path::Path;

use nix::unistd::Group;

use ring::digest::{Context, SHA256};
use zeroize::Zeroizing;

use super::regular::Regular;
use super::secret;
use crate::config::{Config, Errors, Keys, Machine};
use crate::failover::settings::Auth;
use crate::seal::Keyring;
use crate::sorry::PAGE_MAX;

/// This machine.
pub(super) const HERE: Machine = Machine { secret: secret::inspect, group, page };

/// Reads the keys that the file names.
///
/// # Errors
/// One of them is not a key.
pub(super) fn complete(mut config: Config, file: &str) -> Result<Config, Errors> {
    if let Some(ha) = &config.ha {
        config.keys = read_keys(&ha.auth).map_err(|why| {
            let message = format!("`key` of [ha]: {why}");
            let help = "`openssl rand -hex 32` makes one; both nodes have the same";
            Errors::unreadable(file, message, Some(help))
        })?;
    }
    Ok(config)
}

fn read_keys(auth: &Auth) -> Result<Keys, String> {
    let mut files = Vec::new();
    for key in &auth.keys {
        files.push((key.id, Zeroizing::new(secret::read(&key.file)?)));
    }
    let files: Vec<(u8, &str)> = files.iter().map(|(id, text)| (*id, text.as_str())).collect();
    let ring = Keyring::parse(auth.mode.into(), &files).map_err(|e| e.to_string())?;
    let mut digest = Context::new(&SHA256);
    for (id, text) in &files {
        digest.update(&[*id]);
        digest.update(text.as_bytes());
    }
    let digest = digest.finish().as_ref().try_into().unwrap_or_default();
    Ok(Keys { ring: Some(ring), digest })
}

fn group(name: &str) -> Result<Option<u32>, String> {
    let number = || name.parse().map_err(|_| format!("there is no group `{name}`"));
    match Group::from_name(name) {
        Ok(found) => found.map_or_else(number, |g| Ok(g.gid.as_raw())).map(Some),
        Err(error) => Err(format!("cannot look up the group `{name}`: {error}")),
    }
}

fn page(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let page = Regular::open(path).and_then(|file| file.whole(PAGE_MAX));
    page.map(Some).map_err(|problem| problem.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Config, Errors};

    fn completed(text: &str) -> Result<Config, Errors> {
        let text = format!("{text}\n[[interface]]\nname = \"e\"");
        config::parse_with(&text, "x.toml", false, HERE)
    }

    #[test]
    fn groups_are_found_by_name_or_number_and_a_missing_one_is_named() {
        let groups =
            |o, r| completed(&format!("[control]\noperators = \"{o}\"\nreaders = \"{r}\""));
        let control = groups("root", "54321").unwrap().control;
        let gid = |g: Option<config::Group>| g.unwrap().gid;
        assert_eq!((gid(control.operators), gid(control.readers)), (Some(0), Some(54_321)));
        let error = groups("root", "no-such-group").unwrap_err().summary();
        assert_eq!(error, "x.toml:3:11: there is no group `no-such-group`");
    }

    #[test]
    fn the_page_is_read_and_a_file_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sorry.html");
        let text = format!(
            "[[service]]\nname = \"w\"\nlisten = \"192.0.2.1:80\"\nsorry = {{ file = \"{}\" }}",
            path.display()
        );
        let error = completed(&text).unwrap_err().summary();
        assert!(error.starts_with("x.toml:4:18: ") && error.contains("No such file"), "{error}");
        std::fs::write(&path, "<p>sorry").unwrap();
        let page = completed(&text).unwrap().services[0].sorry.clone().unwrap().page.unwrap();
        assert_eq!(&*page, b"<p>sorry");
        std::fs::File::create(&path).unwrap().set_len(PAGE_MAX + 1).unwrap();
        assert!(completed(&text).unwrap_err().to_string().contains("larger than 256 KiB"));
    }
}
