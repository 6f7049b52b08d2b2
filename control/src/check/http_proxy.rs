//! `type = "http_proxy"`: the real server is a proxy, which must fetch something or open a tunnel.

use super::http::Expect;
use super::secret::Login;

/// What the proxy is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// What to ask for.
    pub ask: Ask,
    /// Who to log in as at the proxy, with Basic authentication.
    pub login: Option<Login>,
    /// What must come back. A tunnel has no body.
    pub expect: Expect,
}

/// What a proxy is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ask {
    /// To fetch this URL (`http://…`): GET with the whole URL in the request line.
    Fetch(String),
    /// To open a tunnel to this host and port: CONNECT.
    Tunnel(String),
}
