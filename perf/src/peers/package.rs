//! Programs of others, and the Debian packages they come in.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where programs for administrators are, whatever the `PATH` of who runs this.
const MORE: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// Path of a program, if it is installed.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(MORE.iter().map(PathBuf::from));
    directories.map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// Whether a program is installed.
pub(super) fn has(program: &str) -> bool {
    find(program).is_some()
}

/// That a program is installed.
///
/// # Errors
/// With the package's name, if it is not.
pub(crate) fn need(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    find(program).with_context(|| missing(program, package))
}

/// That a file of a package is there.
///
/// # Errors
/// With the package's name, if it is not.
pub(super) fn need_file(file: &Path, package: &str) -> anyhow::Result<()> {
    file.is_file().then_some(()).with_context(|| missing(&file.display().to_string(), package))
}

fn missing(what: &str, package: &str) -> String {
    format!("{what} is not installed: `apt-get install {package}`, or scripts/setup")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_with_its_package() {
        assert!(has("sh"));
        let error = need("no-such-balancer", "libbalance").unwrap_err().to_string();
        assert!(error.contains("no-such-balancer") && error.contains("install libbalance"));
        assert!(need_file(Path::new("/nonesuch"), "x").is_err());
    }
}
