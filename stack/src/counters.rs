//! What the shard counted: packets, bytes, drops by reason, TCP's events. Plain integers, written by one thread;
//! snapshots cross threads (`runtime::metrics`).

/// Why a packet was dropped. Every drop names one of these.
macro_rules! drop_reasons {
    ($($variant:ident $name:literal $help:literal,)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(usize)]
        pub enum DropReason {
            $(#[doc = $help] $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The reason's name in metrics: snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence on what happened.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

drop_reasons! {
    Truncated "truncated" "A header or the length it states does not fit the frame.",
    UnknownEtherType "unknown_ether_type" "Neither IPv4, IPv6 nor ARP.",
    VlanTagged "vlan_tagged" "The frame carries a VLAN tag; the stack's interfaces are untagged.",
    NotForUs "not_for_us" "The Ethernet or IP destination is not ours.",
    BadIpVersion "bad_ip_version" "The version or header length field is wrong.",
    BadIpChecksum "bad_ip_checksum" "The IPv4 header checksum is wrong.",
    BadIpOption "bad_ip_option" "An IPv4 option is malformed (answered with parameter problem where that is ours to do).",
    BadExtensionHeader "bad_extension_header" "IPv6 extension headers are malformed or too many.",
    Martian "martian" "A source or destination address that must not appear on the wire.",
    SpoofedSelf "spoofed_self" "The source address is our own.",
    SourceRoute "source_route" "An IPv4 source route or an IPv6 routing header that asks for more hops (RFC 5095).",
    BadFragment "bad_fragment" "A fragment with a length, offset or overlap that is not allowed.",
    FragmentTimeout "fragment_timeout" "A packet's fragments did not all arrive in time.",
    FragmentOverflow "fragment_overflow" "Too many packets or bytes under reassembly.",
    BadTcpChecksum "bad_tcp_checksum" "The TCP checksum is wrong.",
    PartialChecksum "partial_checksum" "The TCP or UDP checksum was left to a device, and such are not accepted: turn transmit checksum offload off at the neighbour (ethtool -K NAME tx off), or accept them where the way from it damages nothing (--partial-checksums trust).",
    BadTcpHeader "bad_tcp_header" "A TCP data offset, port or flag combination that is not allowed.",
    BadUdpChecksum "bad_udp_checksum" "The UDP checksum is wrong.",
    BadUdpHeader "bad_udp_header" "A UDP length or port that is not allowed.",
    UdpNoSocket "udp_no_socket" "A UDP datagram to a port without a socket (answered with port unreachable where that is ours to do).",
    UdpReceiveBufferFull "udp_receive_buffer_full" "A UDP datagram for which its socket had no room.",
    UnknownProtocol "unknown_protocol" "An IP protocol that nobody here handles.",
    NoFrame "no_frame" "The packet pool was empty.",
    TxQueueFull "tx_queue_full" "The transmit backlog was full.",
    NoRoute "no_route" "No route to the destination.",
    NeighborPendingFull "neighbor_pending_full" "Too many packets wait for a neighbour's address.",
    NeighborUnreachable "neighbor_unreachable" "The neighbour did not answer.",
    PacketTooBig "packet_too_big" "Longer than the device, or the link it should be forwarded to, can send.",
    HopLimitExceeded "hop_limit_exceeded" "A packet to be forwarded whose time to live or hop limit is used up.",
    ReversePath "reverse_path" "A packet to be forwarded from a source that is not reached by the link it came by.",
    ShardChannelFull "shard_channel_full" "The channel to the shard that needs the packet was full.",
    IcmpRateLimited "icmp_rate_limited" "An ICMP message was not sent because of the rate limit.",
    BadIcmp "bad_icmp" "An ICMP message that is malformed or quotes nothing of ours.",
    BadArp "bad_arp" "An ARP packet that is malformed or makes impossible claims.",
    BadNeighborDiscovery "bad_neighbor_discovery" "A neighbour discovery message that RFC 4861 section 7.1 refuses.",
    IcmpIgnored "icmp_ignored" "An ICMP message that calls for nothing here.",
    TcpNoConnection "tcp_no_connection" "A TCP segment that belongs to no connection (answered with RST where RFC 9293 says so).",
    TcpConnectionTableFull "tcp_connection_table_full" "A SYN for which the connection table had no room.",
    TcpSynQueueFull "tcp_syn_queue_full" "A SYN for which the listener's SYN queue had no room.",
    TcpAcceptQueueFull "tcp_accept_queue_full" "A handshake's ACK for which the listener's accept queue had no room.",
    TcpOutOfWindow "tcp_out_of_window" "A TCP segment outside the receive window.",
    TcpPaws "tcp_paws" "A TCP segment with an old timestamp (RFC 7323 section 5), such as an original that its retransmission overtook on another queue.",
    TcpBadAck "tcp_bad_ack" "A TCP segment that acknowledges what was never sent (RFC 5961 section 5).",
    TcpReceiveBufferFull "tcp_receive_buffer_full" "Payload for which the receive buffer had no room; the peer sends it again.",
    TcpBadReset "tcp_bad_reset" "A RST that RFC 5961 section 3 does not accept.",
    Filtered "filtered" "A rule or a chain's policy dropped or rejected the packet.",
    ConntrackTableFull "conntrack_table_full" "The first packet of a flow for which the connection tracking table had no room.",
    ConntrackClash "conntrack_clash" "The first packet of a flow whose addresses and ports are those of another.",
    NatNoFreePort "nat_no_free_port" "The first packet of a flow for which every port that may be translated to was taken.",
    NatNoAddress "nat_no_address" "The first packet of a flow for which there is no address of its IP version to translate to.",
    TcpBadSyn "tcp_bad_syn" "A SYN on a connection that is synchronised (RFC 5961 section 4).",
}

/// One count a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

macro_rules! counters {
    ($($name:ident $help:literal,)*) => {
        /// Everything one shard counts.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $(#[doc = $help] pub $name: u64,)*
            drops: Drops,
        }

        impl Counters {
            /// Every counter but the drops: name, help text, value.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), $help, self.$name),)*].into_iter()
            }

            const NOTHING: Self = Self { $($name: 0,)* drops: Drops([0; DropReason::ALL.len()]) };

            /// Whether nothing was counted. Without branches: it is asked after nearly every user call.
            fn is_nothing(&self) -> bool {
                self.drops.0.iter().fold(0 $(| self.$name)*, |any, count| any | count) == 0
            }

            /// Adds another shard's counts to these.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                for (sum, other) in self.drops.0.iter_mut().zip(&other.drops.0) {
                    *sum += other;
                }
            }
        }
    };
}

counters! {
    rx_packets "Packets received from the driver.",
    rx_bytes "Bytes received from the driver, Ethernet headers included.",
    tx_packets "Packets given to the driver.",
    tx_bytes "Bytes given to the driver, Ethernet headers included.",
    rx_partial_checksums "Received packets whose checksum was left to the device by their sender.",
    rx_handed_over "Packets handed to another shard.",
    rx_taken_over "Packets taken over from another shard.",
    gro_packets "Packets that several TCP segments were merged into.",
    gro_merged "TCP segments merged into the one before.",
    gro_acks_thinned "Acknowledgments by themselves for which a later one of the same burst stood.",
    gro_flow_limit "Flows whose merging ended because others of the burst needed the place.",
    gro_flush_network "TCP segments not merged because the Ethernet or IP header differed: TTL, TOS, ECN field, identification.",
    gro_flush_header "TCP segments not merged because of flags, window or acknowledgment number.",
    gro_flush_options "TCP segments not merged because the options differed, timestamps included.",
    gro_flush_order "TCP segments not merged because they did not follow in the stream.",
    gro_flush_size "TCP segments not merged because they were longer than those before, or all together too long.",
    arp_rx "ARP packets received.",
    arp_requests_tx "ARP requests sent for packets of ours.",
    ndp_rx "Neighbour discovery messages received.",
    ndp_solicitations_tx "Neighbour solicitations sent for packets of ours.",
    router_solicitations_rx "Hosts' questions for routers on links that are advertised on.",
    router_advertisements_tx "Router advertisements sent.",
    neighbor_learned "Neighbour addresses learned or confirmed.",
    neighbor_evicted "Neighbours forgotten because the table was full.",
    address_probes_tx "Probes sent whether somebody else has an address of ours (RFC 5227, RFC 4862).",
    address_announcements_tx "Announcements sent of addresses of ours (RFC 5227, RFC 4861 section 7.2.6).",
    address_conflicts "Packets in which another station claimed an address of ours.",
    icmp_rx "ICMP messages received.",
    icmp_errors_rx "ICMP errors received about packets of ours.",
    icmp_tx "ICMP messages sent.",
    forwarded_packets "Packets forwarded to another link.",
    forwarded_bytes "Their bytes, from the IP header on.",
    fragments_rx "Fragments received.",
    fragments_tx "Fragments sent.",
    reassembled "Packets put together from fragments.",
    udp_rx "UDP datagrams received.",
    udp_tx "UDP datagrams sent.",
    tcp_segments_rx "TCP segments received.",
    tcp_segments_tx "TCP segments sent.",
    gso_super_segments "Super-segments cut into TCP segments.",
    gso_segments "TCP segments cut from them.",
    tcp_bytes_rx "TCP payload bytes received in order.",
    tcp_bytes_tx "TCP payload bytes sent, retransmissions included.",
    tcp_active_opens "Connections opened by us.",
    tcp_passive_opens "Connections accepted from peers.",
    tcp_attempt_fails "Connections that failed before they were established.",
    tcp_established_resets "Established connections that were reset.",
    tcp_closed "Connections closed.",
    tcp_retransmits "TCP segments sent again.",
    tcp_fast_retransmits "Of those, sent for duplicate ACKs.",
    tcp_timeouts "Retransmission timeouts.",
    tcp_tail_probes "Probes of a tail that nothing was heard of (RFC 8985 section 7).",
    tcp_ecn_echoes "ACKs that told of congestion marks (RFC 3168).",
    tcp_ecn_reductions "Reductions of the congestion window for marks.",
    tcp_undos "Reductions of the congestion window taken back: nothing had been lost.",
    tcp_dsacks_rx "Reports that something arrived twice at the peer (RFC 2883).",
    tcp_dsacks_tx "Such reports sent.",
    tcp_sack_reneging "Timeouts at which the peer was found to have dropped what it had SACKed.",
    tcp_mtu_black_holes "Connections whose full segments vanished and that went on with smaller ones (RFC 4821).",
    tcp_mtu_probes "Larger segments that arrived, so that the path's MTU is known to be larger.",
    tcp_zero_window_probes "Probes of a closed window.",
    tcp_keepalive_probes "Keepalive probes.",
    tcp_keepalive_drops "Connections dropped because keepalive had no answer.",
    tcp_timeout_drops "Connections given up after too many retransmissions or the user timeout.",
    tcp_out_of_order_rx "TCP segments that arrived ahead of a gap.",
    tcp_duplicate_rx "TCP segments that brought nothing new.",
    tcp_resets_tx "RSTs sent.",
    tcp_resets_rx "RSTs accepted.",
    tcp_challenge_acks "Challenge ACKs sent (RFC 5961).",
    tcp_challenge_acks_limited "Challenge ACKs not sent because of the rate limit.",
    tcp_time_wait "Connections that entered TIME-WAIT.",
    tcp_time_wait_recycled "TIME-WAIT entries ended early, by a new SYN or for want of room.",
    tcp_syn_cookies_tx "SYN-ACKs with a SYN cookie, sent because the SYN queue was full (RFC 4987).",
    tcp_syn_cookies_rx "ACKs with a good SYN cookie.",
    tcp_syn_cookies_failed "ACKs without one, while some were expected.",
    tcp_fastopen_active "Our SYNs whose data was acknowledged at once (RFC 7413).",
    tcp_fastopen_active_fails "Our SYNs whose data had to be sent again.",
    tcp_fastopen_passive "Connections that a SYN with a good Fast Open cookie opened at once.",
    tcp_fastopen_passive_old_key "Of those, with a cookie of the key before the current one.",
    tcp_fastopen_passive_fails "SYNs with a Fast Open cookie that is not good.",
    tcp_fastopen_cookie_requests "SYNs that asked a Fast Open listener for a cookie.",
    tcp_fastopen_listen_overflows "Fast Open SYNs treated as plain ones because too many such connections were pending.",
    tcp_accept_overflows "Connections dropped because an accept queue was full.",
}

impl Counters {
    /// Moves what `other` has counted here. Costs little when that is nothing, or packets sent.
    #[inline]
    pub(crate) fn take_over(&mut self, other: &mut Fresh) {
        self.tx_packets += core::mem::take(&mut other.counters.tx_packets);
        self.tx_bytes += core::mem::take(&mut other.counters.tx_bytes);
        if core::mem::take(&mut other.counted) && !other.counters.is_nothing() {
            self.add(&other.counters);
            other.counters = Self::NOTHING;
        }
    }

    /// Counts one dropped packet.
    #[inline]
    pub fn drop(&mut self, reason: DropReason) {
        self.drops.0[reason as usize] += 1;
    }

    /// Counts a packet that `packets` were merged into, dropped.
    #[inline]
    pub fn drop_merged(&mut self, reason: DropReason, packets: u16) {
        self.drops.0[reason as usize] += u64::from(packets);
    }

    /// Packets dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.0[reason as usize]
    }

    /// All drops: reason and count.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|&reason| (reason, self.dropped(reason)))
    }
}

/// Counters that are taken over after every burst, and know whether they are worth a look.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    counters: Counters,
    /// Somebody could have counted something since they were taken over.
    counted: bool,
}

impl Fresh {
    /// Counts what the device took, which is what happens nearly always.
    pub(crate) fn sent(&mut self, packets: u64, bytes: u64) {
        self.counters.tx_packets += packets;
        self.counters.tx_bytes += bytes;
    }
}

impl core::ops::Deref for Fresh {
    type Target = Counters;
    fn deref(&self) -> &Counters {
        &self.counters
    }
}

impl core::ops::DerefMut for Fresh {
    fn deref_mut(&mut self) -> &mut Counters {
        self.counted = true;
        &mut self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let mut counters = Counters::default();
        let mut names = std::collections::BTreeSet::new();
        for (times, &reason) in DropReason::ALL.iter().enumerate() {
            (0..times).for_each(|_| counters.drop(reason));
            assert!(names.insert(reason.name()));
        }
        assert!(counters.drops().enumerate().all(|(times, (_, count))| count == times as u64));
    }

    #[test]
    fn sums_cover_every_counter() {
        let mut one = Counters { rx_packets: 1, tcp_time_wait: 3, ..Counters::default() };
        one.drop(DropReason::Martian);
        let mut sum = one.clone();
        sum.add(&one);
        assert_eq!((sum.rx_packets, sum.tcp_time_wait, sum.dropped(DropReason::Martian)), (2, 6, 2));
    }

    #[test]
    fn taking_over_moves_every_count_once() {
        let (mut sum, mut fresh) = (Counters::default(), Fresh::default());
        fresh.sent(2, 100);
        fresh.drop(DropReason::NoRoute);
        sum.take_over(&mut fresh);
        sum.take_over(&mut fresh);
        assert_eq!((sum.tx_packets, sum.tx_bytes, sum.dropped(DropReason::NoRoute)), (2, 100, 1));
        assert_eq!(*fresh, Counters::default());
    }
}
