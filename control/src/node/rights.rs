//! Who may do what on the control socket.

use super::{Node, Peer};
use crate::config::Group;
use crate::verbs::Verb;

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Operator,
    /// Look.
    Reader,
    /// Nothing.
    Stranger,
}

impl Node {
    /// What a client may do: root and our own user everything, others as `[control]` says of their
    /// groups.
    #[must_use]
    pub fn role(&self, peer: &Peer) -> Role {
        let control = &self.config.control;
        let is_in = |group: &Option<Group>| {
            let gid = group.as_ref().and_then(|g| g.gid);
            gid.is_some_and(|gid| peer.gid == gid || peer.groups.contains(&gid))
        };
        if peer.uid == 0 || peer.uid == self.who.uid || is_in(&control.operators) {
            Role::Operator
        } else if is_in(&control.readers) {
            Role::Reader
        } else {
            Role::Stranger
        }
    }

    /// Whether anybody but root and our own user may connect at all.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.config.control.operators.is_some() || self.config.control.readers.is_some()
    }

    /// Why `peer` may not ask this, if so.
    pub(super) fn may(&self, peer: &Peer, verb: &Verb) -> Result<(), String> {
        match self.role(peer) {
            Role::Operator => Ok(()),
            Role::Reader if !verb.operates() => Ok(()),
            Role::Reader => Err(format!(
                "user {} may look but not change anything: {}",
                peer.uid,
                self.who_operates()
            )),
            Role::Stranger => Err(self.stranger(peer)),
        }
    }

    /// What somebody is told who may do nothing.
    #[must_use]
    pub fn stranger(&self, peer: &Peer) -> String {
        let uid = peer.uid;
        format!("user {uid} may not talk to xvip-control: {}", self.who_operates())
    }

    fn who_operates(&self) -> String {
        match &self.config.control.operators {
            Some(group) => format!("operators are root and the members of group `{}`", group.name),
            None => "only root operates; `operators` in [control] of xvip.toml names a group that \
                     may too"
                .to_owned(),
        }
    }
}
