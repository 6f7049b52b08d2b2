//! States of a connection: a value in, a value out.
//!
//! The transitions are those of LVS (`net/netfilter/ipvs/ip_vs_proto_tcp.c`, `tcp_states`) with these
//! differences:
//!
//! * Where replies pass through us, a connection leaves `SYN_RECV` by a packet of the client only
//!   after the real's SYN-ACK went by, and not by a bare ACK of the real: a forged ACK or FIN
//!   behind a forged SYN does not make an entry that counts as established.
//! * A SYN changes nothing in `ESTABLISHED`. On a connection that is closing it asks for a new one
//!   ([`Step::Reopen`]); LVS would keep the old real.
//! * A real does not open connections, so there is no `SYN_SENT`: its SYN changes no state.
//! * A packet with none of RST, SYN, FIN and ACK changes nothing (in LVS it closes).
//!
//! As in LVS a reset does not delete the entry but leaves it ten seconds: its retransmission, or a
//! blind one that the receiver ignores, must not cut off the packets that follow.

use dataplane_api::service::Timeouts;

use crate::wire::packet::TcpFlags;

/// State of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// SYN seen; handshake not finished.
    SynReceived = 3,
    /// Data may flow.
    Established = 4,
    /// The real sent FIN (or the client did, where replies are not seen).
    FinWait = 5,
    /// The client sent FIN.
    CloseWait = 6,
    /// Waiting for the last ACK.
    LastAck = 7,
    /// Both sent FIN.
    TimeWait = 8,
    /// Reset.
    Close = 9,
    /// UDP, one packet seen.
    UdpNew = 10,
    /// UDP, more than one packet seen.
    Udp = 11,
    /// Not a connection, but a client's tie to its real (persistence).
    Template = 12,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::SynReceived,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Close,
        Self::UdpNew,
        Self::Udp,
        Self::Template,
    ];

    #[inline(always)]
    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            3 => Self::SynReceived,
            4 => Self::Established,
            5 => Self::FinWait,
            6 => Self::CloseWait,
            7 => Self::LastAck,
            8 => Self::TimeWait,
            9 => Self::Close,
            10 => Self::UdpNew,
            11 => Self::Udp,
            12 => Self::Template,
            _ => return None,
        })
    }

    /// From its number, as in a record.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Self::from_byte(number)
    }

    /// LVS's word for it (`ipvsadm -Lcn`); UDP has only one there.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynReceived => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::UdpNew => "UDP_NEW",
            Self::Udp => "UDP",
            Self::Template => "TEMPLATE",
        }
    }

    /// Whether one packet of a stranger suffices to get here: may be evicted under pressure.
    #[inline(always)]
    #[must_use]
    pub const fn is_half_open(self) -> bool {
        matches!(self, Self::SynReceived | Self::UdpNew)
    }

    /// Whether schedulers count it as an active connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Established | Self::Udp)
    }

    /// Whether it is past its end, and a SYN opens a new connection in its place.
    #[inline(always)]
    #[must_use]
    pub const fn is_closing(self) -> bool {
        use State::{Close, CloseWait, FinWait, LastAck, TimeWait};
        matches!(self, FinWait | CloseWait | LastAck | TimeWait | Close)
    }

    /// Seconds without a packet after which it ends; a template's come from its service.
    #[inline]
    #[must_use]
    pub const fn timeout(self, timeouts: &Timeouts, template: u32) -> u32 {
        match self {
            Self::SynReceived => timeouts.syn_received,
            Self::Established => timeouts.established,
            Self::FinWait => timeouts.fin_wait,
            Self::CloseWait => timeouts.close_wait,
            Self::LastAck => timeouts.last_ack,
            Self::TimeWait => timeouts.time_wait,
            Self::Close => timeouts.close,
            Self::UdpNew => timeouts.udp_new,
            Self::Udp => timeouts.udp,
            Self::Template => template,
        }
    }
}

/// Who sent a packet, and what we get to see of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The client; the real's packets pass us too (`nat`, `fullnat`).
    FromClient,
    /// The real.
    FromReal,
    /// The client; the real answers past us (`direct`, `tunnel`).
    FromClientOnly,
}

/// What a packet does to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is in this state now, and the real's SYN-ACK has been seen or not.
    To(State, bool),
    /// It is over: the SYN opens a new connection in its place.
    Reopen,
}

/// The state after a TCP packet. `synack` is what the connection knew before it.
#[inline]
#[must_use]
pub const fn next(state: State, synack: bool, from: Direction, flags: TcpFlags) -> Step {
    // Most packets, first.
    if matches!(state, State::Established)
        && flags.0 & (TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST) == 0
    {
        return Step::To(state, synack);
    }
    if flags.has(TcpFlags::RST) {
        return Step::To(reset(state, from), synack);
    }
    if flags.has(TcpFlags::SYN) {
        return syn(state, synack, from, flags.has(TcpFlags::ACK));
    }
    let state = if flags.has(TcpFlags::FIN) {
        fin(state, synack, from)
    } else if flags.has(TcpFlags::ACK) {
        ack(state, synack, from)
    } else {
        state
    };
    Step::To(state, synack)
}

/// The state after a UDP packet of either side.
#[inline]
#[must_use]
pub const fn next_udp(state: State) -> State {
    if matches!(state, State::UdpNew) { State::Udp } else { state }
}

const fn syn(state: State, synack: bool, from: Direction, ack: bool) -> Step {
    match from {
        Direction::FromReal => {
            Step::To(state, synack || (ack && matches!(state, State::SynReceived)))
        }
        Direction::FromClient | Direction::FromClientOnly => {
            if state.is_closing() && !ack {
                Step::Reopen
            } else {
                Step::To(state, synack)
            }
        }
    }
}

const fn fin(state: State, synack: bool, from: Direction) -> State {
    use Direction::{FromClient, FromClientOnly, FromReal};
    use State::{CloseWait, Established, FinWait, SynReceived, TimeWait};
    match (state, from) {
        (Established, FromClient) => CloseWait,
        (Established, FromReal | FromClientOnly) => FinWait,
        (SynReceived, FromClient) if !synack => SynReceived,
        (SynReceived, _) => TimeWait,
        (FinWait, FromClient) => TimeWait,
        (CloseWait, FromReal) => TimeWait,
        _ => state,
    }
}

const fn ack(state: State, synack: bool, from: Direction) -> State {
    use Direction::{FromClient, FromClientOnly, FromReal};
    use State::{Close, Established, LastAck, SynReceived};
    match (state, from) {
        (SynReceived, FromClient) if synack => Established,
        (SynReceived, FromClientOnly) => Established,
        (LastAck, FromClient | FromClientOnly) => Close,
        (SynReceived, FromClient | FromReal) => SynReceived,
        _ => state,
    }
}

const fn reset(state: State, from: Direction) -> State {
    use Direction::{FromClient, FromClientOnly, FromReal};
    use State::{Close, LastAck, SynReceived, Template, TimeWait, Udp, UdpNew};
    match (state, from) {
        (Template | Udp | UdpNew, _) => state,
        // An attacker's SYN and RST must not turn a half-open entry into one that is not evicted.
        (SynReceived | LastAck, FromClient | FromClientOnly) => state,
        (TimeWait, FromReal) => state,
        _ => Close,
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    /// `tcp_states` of `ip_vs_proto_tcp.c` with the differences that the module lists: `RE` is
    /// reopen, `S+` is `SYN_RECV` after the SYN-ACK was seen.
    const TABLE: [(Direction, &str, [&str; 8]); 12] = {
        use Direction::{FromClient, FromClientOnly, FromReal};
        //                      SR    S+    ES    FW    CW    LA    TW    CL
        [
            (FromClient, "SYN", ["SR", "S+", "ES", "RE", "RE", "RE", "RE", "RE"]),
            (FromClient, "FIN", ["SR", "TW", "CW", "TW", "CW", "LA", "TW", "CL"]),
            (FromClient, "ACK", ["SR", "ES", "ES", "FW", "CW", "CL", "TW", "CL"]),
            (FromClient, "RST", ["SR", "S+", "CL", "CL", "CL", "LA", "CL", "CL"]),
            (FromReal, "SYN", ["SR", "S+", "ES", "FW", "CW", "LA", "TW", "CL"]),
            (FromReal, "FIN", ["TW", "TW", "FW", "FW", "TW", "LA", "TW", "CL"]),
            (FromReal, "ACK", ["SR", "S+", "ES", "FW", "CW", "LA", "TW", "CL"]),
            (FromReal, "RST", ["CL", "CL", "CL", "CL", "CL", "CL", "TW", "CL"]),
            (FromClientOnly, "SYN", ["SR", "S+", "ES", "RE", "RE", "RE", "RE", "RE"]),
            (FromClientOnly, "FIN", ["TW", "TW", "FW", "FW", "CW", "LA", "TW", "CL"]),
            (FromClientOnly, "ACK", ["ES", "ES", "ES", "FW", "CW", "CL", "TW", "CL"]),
            (FromClientOnly, "RST", ["SR", "S+", "CL", "CL", "CL", "LA", "CL", "CL"]),
        ]
    };
    const COLUMNS: [(State, bool); 8] = [
        (State::SynReceived, false),
        (State::SynReceived, true),
        (State::Established, false),
        (State::FinWait, false),
        (State::CloseWait, false),
        (State::LastAck, false),
        (State::TimeWait, false),
        (State::Close, false),
    ];

    fn state_of(word: &str) -> State {
        match word {
            "SR" | "S+" => State::SynReceived,
            "ES" => State::Established,
            "FW" => State::FinWait,
            "CW" => State::CloseWait,
            "LA" => State::LastAck,
            "TW" => State::TimeWait,
            "CL" => State::Close,
            _ => panic!("{word}"),
        }
    }

    /// What counts in a packet with several flags, as `tcp_state_idx` of LVS has it.
    fn event(flags: TcpFlags) -> Option<&'static str> {
        let order = [(TcpFlags::RST, "RST"), (TcpFlags::SYN, "SYN"), (TcpFlags::FIN, "FIN")];
        let first = order.iter().find(|(bit, _)| flags.has(*bit)).map(|(_, name)| *name);
        first.or(flags.has(TcpFlags::ACK).then_some("ACK"))
    }

    #[test]
    fn every_state_direction_and_combination_of_flags_does_what_the_table_says() {
        use Direction::{FromClient, FromClientOnly, FromReal};
        for from in [FromClient, FromReal, FromClientOnly] {
            for (column, (state, synack)) in COLUMNS.into_iter().enumerate() {
                for bits in 0..=255 {
                    let flags = TcpFlags(bits);
                    let case = format!("{state:?} {synack} {from:?} {bits:#04x}");
                    let got = next(state, synack, from, flags);
                    let Some(event) = event(flags) else {
                        assert_eq!(got, Step::To(state, synack), "{case}");
                        continue;
                    };
                    let row = TABLE.iter().find(|row| (row.0, row.1) == (from, event));
                    let word = row.unwrap().2[column];
                    let with_ack = event == "SYN" && flags.has(TcpFlags::ACK);
                    let learns = with_ack && from == FromReal && state == State::SynReceived;
                    let want = match word {
                        // A client's SYN-ACK is no way to open anything.
                        "RE" if with_ack => Step::To(state, synack),
                        "RE" => Step::Reopen,
                        word => Step::To(state_of(word), synack || learns),
                    };
                    assert_eq!(got, want, "{case}");
                }
            }
        }
    }

    #[test]
    fn a_handshake_through_us_needs_the_answer_of_the_real() {
        use Direction::{FromClient, FromReal};
        let (syn, ack) = (TcpFlags(TcpFlags::SYN), TcpFlags(TcpFlags::ACK));
        let synack = TcpFlags(TcpFlags::SYN | TcpFlags::ACK);
        let mut conn = (State::SynReceived, false);
        let mut step = |from, flags| match next(conn.0, conn.1, from, flags) {
            Step::To(state, synack) => {
                conn = (state, synack);
                state
            }
            Step::Reopen => panic!("reopened"),
        };
        assert_eq!(step(FromClient, ack), State::SynReceived, "forged");
        assert_eq!(step(FromReal, synack), State::SynReceived);
        assert_eq!(step(FromClient, syn), State::SynReceived, "retransmitted");
        assert_eq!(step(FromClient, ack), State::Established);
    }

    #[test]
    fn udp_and_templates_are_left_alone_by_tcp_flags() {
        for state in [State::UdpNew, State::Udp, State::Template] {
            for bits in 0..=255 {
                let step = next(state, false, Direction::FromClient, TcpFlags(bits));
                assert_eq!(step, Step::To(state, false));
            }
        }
        assert_eq!(next_udp(State::UdpNew), State::Udp);
        assert_eq!(next_udp(State::Udp), State::Udp);
    }

    #[test]
    fn states_keep_their_bytes_and_their_timeouts() {
        for (byte, state) in (3..).zip(State::ALL) {
            assert_eq!((state as u8, State::from_byte(byte)), (byte, Some(state)));
        }
        let timeouts = Timeouts::default();
        assert_eq!(State::Established.timeout(&timeouts, 1), 900);
        assert_eq!(State::Close.timeout(&timeouts, 1), 10);
        assert_eq!(State::Template.timeout(&timeouts, 77), 77);
    }
}
