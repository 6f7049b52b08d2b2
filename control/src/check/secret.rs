//! Passwords of checks: where they stand, never what they are.

use std::fmt;
use std::path::PathBuf;

/// A password, or the file that holds it. `Debug` shows no password.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Secret {
    /// In the configuration file.
    Inline(String),
    /// In this file, read for each check; others than its owner and group must not be able to.
    File(PathBuf),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline(not shown)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// Who a check logs in as.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// Name and password, as they are sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password; no control characters.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_password() {
        let password = Secret::Inline("hunter2".to_owned());
        let login = Login { user: "probe".to_owned(), password };
        let credentials = Credentials { user: "probe".to_owned(), password: "hunter2".to_owned() };
        let shown = format!("{login:?} {credentials:?}");
        assert!(shown.contains("probe") && !shown.contains("hunter2"), "{shown}");
    }
}
