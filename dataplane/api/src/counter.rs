//! Why a packet was not forwarded, and what else is worth counting: the only list.

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($(#[$doc:meta])* $type:ident { $($(#[doc = $help:literal])+ $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum $type {
            $($(#[doc = $help])+ #[serde(rename = $name)] $variant,)+
        }

        impl $type {
            /// Every variant, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Name in metrics and JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// One line for the operator.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help),+)),+ }
            }
        }
    };
}

counters! {
    /// Why a packet was dropped. A drop without a reason does not compile.
    Reason {
        /// Frame ends inside a header, or a length field contradicts another.
        Malformed = "malformed",
        /// IPv4 header checksum is wrong.
        BadIpChecksum = "bad_ip_checksum",
        /// IPv6 UDP packet with checksum zero (RFC 8200 section 8.1).
        ZeroUdpChecksum = "zero_udp_checksum",
        /// IPv4 packet with options.
        IpOptions = "ip_options",
        /// More IPv6 extension headers than xvip walks, or one it does not know.
        ExtensionHeaders = "extension_headers",
        /// Source address that no client can have: multicast, broadcast, loopback, unspecified, a VIP, or equal to the destination.
        BadSource = "bad_source",
        /// Destination MAC address is not ours.
        NotOurMac = "not_our_mac",
        /// Ethernet type, or VLAN tag, that xvip does not forward.
        UnsupportedEthertype = "unsupported_ethertype",
        /// Transport protocol that xvip does not forward.
        UnsupportedProtocol = "unsupported_protocol",
        /// TTL or hop limit used up; a time-exceeded was sent or rate-limited.
        TtlExceeded = "ttl_exceeded",
        /// No service listens on this VIP and port.
        NoService = "no_service",
        /// The service has no real that takes new connections.
        NoReal = "no_real",
        /// TCP packet other than a SYN that belongs to no connection.
        NoConnection = "no_connection",
        /// Reply of a real that belongs to no connection.
        NoReplyConnection = "no_reply_connection",
        /// TCP flags that no stack sends (none, SYN with FIN, SYN with RST).
        BadTcpFlags = "bad_tcp_flags",
        /// Connection table full, nothing half-open to evict.
        TableFull = "table_full",
        /// Bound of half-open connections reached, none near enough to evict.
        HalfOpenLimit = "half_open_limit",
        /// Another connection already uses the same client, real and port; its replies could not be told apart.
        ReplyConflict = "reply_conflict",
        /// No free local port for full NAT.
        NoLocalPort = "no_local_port",
        /// Next hop is no known neighbour yet (resolution was asked for), or there is no route.
        NextHopUnresolved = "next_hop_unresolved",
        /// Interface of the next hop is down or not attached.
        DeviceDown = "device_down",
        /// Packet is larger than the path to the real; the sender was told or rate-limited.
        TooBig = "too_big",
        /// No room in the frame to put a header in front.
        NoHeadroom = "no_headroom",
        /// ICMP error that quotes no connection of ours.
        IcmpNoConnection = "icmp_no_connection",
        /// ICMP type that xvip neither answers nor forwards.
        IcmpUnsupported = "icmp_unsupported",
        /// Fragment whose first fragment did not come in time, or for which there was no room.
        FragmentTimeout = "fragment_timeout",
        /// Fragment that overlaps, or is too small to carry the ports.
        FragmentBad = "fragment_bad",
        /// ARP, neighbour or echo request for an address of a group whose lease is not fresh.
        NoLease = "no_lease",
        /// ARP or ND packet that is not a request for an address of ours; claims of others are among them.
        NeighborIgnored = "neighbor_ignored",
        /// Transmit ring full.
        TxFull = "tx_full",
        /// Kernel refused the frame (interface gone or down).
        TxError = "tx_error",
        /// Packet of a connection that was ended by order, or because its real is dead.
        ConnEnded = "conn_ended",
        /// Packet for us that found no socket of ours on its queue; dropped by the steering program.
        NoSocket = "no_socket",
    }
}

counters! {
    /// Things that happened and are no drop.
    Event {
        /// Connections opened.
        ConnOpened = "conn_opened",
        /// Connections that ended by timeout or were replaced.
        ConnExpired = "conn_expired",
        /// New connection took the place of a closing one in the same packet.
        ConnReused = "conn_reused",
        /// Half-open connection evicted to make room.
        HalfOpenEvicted = "half_open_evicted",
        /// Lost a race to open the same connection; the other worker's was used.
        OpenRace = "open_race",
        /// ARP or neighbour request for a VIP answered.
        NeighborAnswered = "neighbor_answered",
        /// Gratuitous ARP or unsolicited neighbour advertisement sent.
        Announced = "announced",
        /// Another host has claimed an address of ours while we own it (ARP or neighbour advertisement).
        ForeignClaim = "foreign_claim",
        /// Question sent to learn who answers for an address (ARP probe or neighbour solicitation).
        ResolveSent = "resolve_sent",
        /// Echo request to a VIP answered.
        EchoAnswered = "echo_answered",
        /// ICMP error forwarded with outer and inner packet translated.
        IcmpTranslated = "icmp_translated",
        /// ICMP error of our own sent (time exceeded, packet too big).
        IcmpSent = "icmp_sent",
        /// ICMP error of our own not sent because of the rate limit.
        IcmpRateLimited = "icmp_rate_limited",
        /// Fragment held until its first fragment came.
        FragmentHeld = "fragment_held",
        /// Held fragment forwarded after its first fragment came.
        FragmentReleased = "fragment_released",
        /// MSS option of a SYN lowered.
        MssClamped = "mss_clamped",
        /// New connection placed by a persistence template.
        PersistenceHit = "persistence_hit",
        /// Wake-ups of the kernel for transmission.
        TxKick = "tx_kick",
        /// First packet of a connection whose checksum its sender had left to an interface that does not fill it in.
        PartialChecksum = "partial_checksum",
        /// Connection of a real that is dead, or was told to go, reset: one RST to each side.
        ConnReset = "conn_reset",
        /// Connection of a real that was told to go, forgotten.
        ConnDropped = "conn_dropped",
        /// Connection of a dead or removed real that went on to another one.
        ConnMoved = "conn_moved",
        /// Packet sent to a side of an idle connection that is to be reset, to learn where it is.
        EndProbe = "end_probe",
        /// SYN sent to a VIP by the way of a real, to see whether it owns the VIP.
        PathProbe = "path_probe",
        /// New connection taken by a fallback.
        FallbackUsed = "fallback_used",
        /// Change of a connection that replication did not take in time; everything is sent again.
        SyncOverflow = "sync_overflow",
        /// Connection of the peer that was refused: service, VIP, real or local address is not known here.
        SyncUnknown = "sync_unknown",
        /// Connection of the peer that was refused: no room, or another connection in its place.
        SyncNoRoom = "sync_no_room",
        /// Record of the peer that was refused: the connection is our own.
        SyncOwn = "sync_own",
        /// Sleeps of a worker that had nothing to do.
        Sleep = "sleep",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_help_is_one_sentence() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        names.extend(Event::ALL.iter().map(|e| e.name()));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(Reason::ALL.iter().all(|r| r.help().trim().ends_with('.')));
        assert_eq!(Reason::ALL[Reason::NoSocket as usize], Reason::NoSocket);
    }
}
