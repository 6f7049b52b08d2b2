//! What only the machine knows on which a file is read: its groups, what is in other files.

use std::path::Path;

/// How to find it out. The reader asks, so that whatever is wrong is shown with its place.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// What is wrong with a file that holds a secret, if anything is.
    pub secret: fn(&Path) -> Result<(), String>,
    /// Number of the group of that name, or why there is none; `None` if nobody knows.
    pub group: fn(&str) -> Result<Option<u32>, String>,
    /// The page in a file, or why it cannot be used; `None` if nobody knows.
    pub page: fn(&Path) -> Result<Option<Vec<u8>>, String>,
}

impl Machine {
    /// Any machine: nothing is asked, and nothing found wrong.
    pub const ANY: Self = Self { secret: |_| Ok(()), group: |_| Ok(None), page: |_| Ok(None) };
}

impl Default for Machine {
    fn default() -> Self {
        Self::ANY
    }
}
