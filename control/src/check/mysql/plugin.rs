//! How we prove to a MySQL server that we know the password: the plugins that do so without
//! showing it. What sends it in clear text would give it to whoever answers, and is not there.

use mysql_common::auth::plugins::caching_sha2_password::CachingSha2Password;
use mysql_common::auth::plugins::mysql_native_password::MysqlNativePassword;
use mysql_common::auth::plugins::{ChallengeResponsePlugin, Context};

use super::printable_bytes;

/// One that is supported.
#[derive(Debug)]
pub(super) enum Plugin {
    Native(MysqlNativePassword),
    Sha2(CachingSha2Password),
}

impl Plugin {
    /// The plugin that the server calls `name`.
    pub(super) fn named(name: &[u8]) -> Result<Self, String> {
        match name {
            b"mysql_native_password" => Ok(Self::Native(MysqlNativePassword::default())),
            b"caching_sha2_password" => Ok(Self::Sha2(CachingSha2Password::default())),
            other => {
                let name = printable_bytes(other.get(..40).unwrap_or(other));
                Err(format!("login by `{name}` is not supported"))
            }
        }
    }

    /// What the server gets for `challenge`; `None` if it wants nothing.
    pub(super) fn answer(
        &mut self,
        challenge: &[u8],
        secrets: Secrets<'_>,
    ) -> Result<Option<Vec<u8>>, String> {
        let response = match self {
            Self::Native(plugin) => plugin.run(secrets, challenge),
            Self::Sha2(plugin) => plugin.run(secrets, challenge),
        };
        let response = response.map_err(|e| format!("login: {e}"))?;
        Ok(response.data().map(<[u8]>::to_vec))
    }
}

/// What the plugins want to know.
pub(super) struct Secrets<'a> {
    pub(super) password: &'a [u8],
    pub(super) nonce: &'a [u8],
    pub(super) tls: bool,
}

impl Context for Secrets<'_> {
    fn pass(&self) -> &[u8] {
        self.password
    }
    fn is_ipc_transport(&self) -> bool {
        false
    }
    fn is_tls_transport(&self) -> bool {
        self.tls
    }
    fn scramble(&self) -> &[u8] {
        self.nonce
    }
    fn server_key_pem(&self) -> Option<&[u8]> {
        None
    }
}
