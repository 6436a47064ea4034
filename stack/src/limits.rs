//! Every bound of the stack, in one place: its value, why it is that, and what happens when it is hit.

use core::ops::RangeInclusive;

use crate::time::Duration;

/// Packets taken from or given to the driver at a time: large enough to spread the cost of a ring access, small
/// enough that a burst stays in the L1/L2 cache. Hitting it only ends the burst.
pub const BURST_PACKETS: usize = 64;

/// Bytes at the front of each packet of a burst that are asked of memory before the first is parsed: Ethernet, IPv4 and TCP
/// headers with timestamps, in two cache lines at most.
pub const PREFETCHED_HEADERS: usize = 66;

/// Flows of one burst whose last segment the next may be merged with: a burst seldom has more that send in bulk, and each
/// packet is compared with all of them. Beyond it the flow that began first is merged no further.
pub const GRO_FLOWS: usize = 8;
/// Longest IP packet that segments are merged into, in bytes: what IPv4's length field and IPv6's (without its header) can
/// say. A segment beyond it begins another one.
pub const GRO_BYTES: u32 = 65_535;
/// Segments merged into one packet: as many as a burst brings.
pub const GRO_SEGMENTS: u16 = BURST_PACKETS as u16;
/// Lists of frames that a pool keeps for the next packets of several frames: one for each packet of a burst. Beyond it they
/// are freed.
pub const POOL_CHAINS: usize = BURST_PACKETS;

/// Most frames behind read-only slices, as a fraction of the pool (1/`SHARED_FRAMES_FRACTION`). Beyond it receive queues
/// copy payload to the heap, and send queues chunks that are sent on, so that neither a slow reader nor a slow peer can starve
/// the NIC of frames.
pub const SHARED_FRAMES_FRACTION: u32 = 4;

/// Packets that the stack has built and the device has not taken yet. A full backlog stops TCP and the sockets (they keep
/// their data); packets that cannot wait elsewhere are dropped and counted.
pub const TX_BACKLOG_PACKETS: usize = 256;
/// Frames that TCP payload leaves free in the pool (at most an eighth of it), so that the NIC and short control packets
/// still find some while much is being sent.
pub const TX_RESERVE_FRAMES: u32 = 64;
/// How soon a shard that could not send (no frame, no room in the ring) tries again if the device does not wake it before.
pub const TX_RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// Time to live and hop limit of what is sent, unless a socket chooses another (RFC 1122 section 3.2.1.7, IANA's recommended
/// default).
pub const HOP_LIMIT: u8 = 64;

/// Extension headers in one IPv6 packet before the transport header (RFC 8504 section 5.3 allows such a bound); a packet
/// with more is dropped and counted.
pub const IPV6_EXTENSION_HEADERS: usize = 8;
/// Options in one IPv6 hop-by-hop or destination header (RFC 8504 section 5.3); a packet with more is dropped and counted.
pub const IPV6_OPTIONS: usize = 8;

/// Packets that wait for one neighbour's address; the oldest is dropped and counted beyond it (RFC 1122 section 2.3.2.2
/// asks for at least one, Linux keeps about 100 of 1500 bytes). Enough for all fragments of a packet of 64 KiB.
pub const NEIGHBOR_PENDING_PACKETS: usize = 64;
/// Packets that wait for any neighbour; further ones are dropped and counted.
pub const NEIGHBOR_PENDING_PACKETS_TOTAL: usize = 256;
/// Entries in the neighbour table; the least recently confirmed one goes first.
pub const NEIGHBOR_ENTRIES: usize = 1024;
/// Requests for one neighbour before its waiting packets are dropped (RFC 4861 section 10, MAX_MULTICAST_SOLICIT).
pub const NEIGHBOR_REQUESTS: u8 = 3;
/// Time between these requests (RFC 4861 section 10, RETRANS_TIMER).
pub const NEIGHBOR_REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// How long an entry is used without being confirmed again (RFC 4861 section 10, REACHABLE_TIME is 30 s; Linux's gc
/// threshold is 60 s).
pub const NEIGHBOR_LIFETIME: Duration = Duration::from_secs(60);

/// How long a neighbour that has not been confirmed for that long is used before it is asked (RFC 4861 section 10,
/// DELAY_FIRST_PROBE_TIME).
pub const NEIGHBOR_DELAY: Duration = Duration::from_secs(5);
/// ARP probes for an address before it is announced (RFC 5227 section 1.1, PROBE_NUM).
pub const ARP_PROBES: u8 = 3;
/// Neighbour solicitations for an address before it is announced (RFC 4862 section 5.1, DupAddrDetectTransmits).
pub const DAD_SOLICITATIONS: u8 = 1;
/// The first probe waits for a random time below this (RFC 5227 section 1.1, PROBE_WAIT; RFC 4862 section 5.4.2).
pub const ADDRESS_PROBE_DELAY: Duration = Duration::from_secs(1);
/// From one probe to the next, and to the first announcement (RFC 5227 section 1.1, PROBE_MIN; RFC 4861 section 10,
/// RETRANS_TIMER).
pub const ADDRESS_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Router advertisements' longest interval may be this (RFC 4861 section 6.2.1, MaxRtrAdvInterval).
pub const ADVERTISE_INTERVAL: RangeInclusive<Duration> = Duration::from_secs(4)..=Duration::from_secs(1800);
/// The longest time for which a router may be a default router without a word (RFC 4861 section 6.2.1, AdvDefaultLifetime).
pub const ADVERTISED_LIFETIME_MAX: Duration = Duration::from_secs(9000);
/// Prefixes in an advertisement: with all name servers it fits IPv6's least MTU.
pub const ADVERTISED_PREFIXES: usize = 16;
/// Name servers in an advertisement.
pub const ADVERTISED_DNS_SERVERS: usize = 8;
/// The first advertisements follow each other sooner (RFC 4861 section 10, MAX_INITIAL_RTR_ADVERTISEMENTS).
pub const FIRST_ADVERTISEMENTS: u8 = 3;
/// The longest time between these (MAX_INITIAL_RTR_ADVERT_INTERVAL).
pub const FIRST_ADVERTISEMENT_INTERVAL: Duration = Duration::from_secs(16);
/// The shortest time between two that are for all hosts (MIN_DELAY_BETWEEN_RAS).
pub const ADVERTISE_TO_ALL_INTERVAL: Duration = Duration::from_secs(3);
/// An answer to a solicitation waits for a random time below this (MAX_RA_DELAY_TIME).
pub const ADVERTISE_DELAY: Duration = Duration::from_millis(500);
/// Hosts that wait for an answer of their own at a time. Beyond it all are answered at once.
pub const ADVERTISE_ASKERS: usize = 64;
/// Announcements of an address (RFC 5227 section 1.1, ANNOUNCE_NUM; RFC 4861 section 10 allows 3).
pub const ADDRESS_ANNOUNCEMENTS: u8 = 2;
/// Time between these (RFC 5227 section 1.1, ANNOUNCE_INTERVAL).
pub const ADDRESS_ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// How often at most the log says that another station claims an address of ours (RFC 5227 section 2.4, DEFEND_INTERVAL).
pub const ADDRESS_CONFLICT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Destinations whose path's MTU a shard remembers, in about 100 KiB; the one learned longest ago goes first, and costs the
/// next connection there a packet to learn it again.
pub const PATH_MTU_ENTRIES: usize = 1024;
/// The least path MTU believed from ICMP over IPv4, bytes (Linux's `min_pmtu`); lower ones count as this.
pub const PATH_MTU_MIN_IPV4: u16 = 552;
/// How long it is remembered (RFC 1191 section 6.3, RFC 8201 section 5.3; Linux's `mtu_expires`).
pub const PATH_MTU_LIFETIME: Duration = Duration::from_secs(600);

/// Addresses on one interface: smoltcp's fixed table. More is a configuration error.
pub const INTERFACE_ADDRESSES: usize = 8;
/// Routes through gateways: a router with a regional table. More is a configuration error.
pub const INTERFACE_ROUTES: usize = 65_536;

/// Packets under reassembly at a time; the oldest is dropped and counted beyond it.
pub const REASSEMBLY_PACKETS: usize = 32;
/// Bytes that all packets under reassembly may hold (each at most 65,535).
pub const REASSEMBLY_BYTES: usize = 1 << 20;
/// How long fragments wait for the rest (RFC 8200 section 4.5: 60 s; RFC 1122 section 3.3.2: 60 to 120 s; Linux: 30 s).
pub const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Messages waiting from one shard to another; further ones are dropped and counted.
pub const SHARD_CHANNEL_MESSAGES: usize = 1024;
/// Empty buffers that the shards of an interface keep for packets handed from one to another; further ones are freed.
pub const SHARD_SPARE_BUFFERS: usize = 4 * BURST_PACKETS;
/// Largest of them, in bytes: a packet of MTU 9000.
pub const SHARD_SPARE_BUFFER_BYTES: usize = 16 << 10;
/// Messages a shard takes from its channel in one poll, so that neighbours' traffic cannot keep it from its own NIC queue.
pub const SHARD_MESSAGES_PER_POLL: usize = 64;

/// ICMP errors and echo replies sent a second by one shard (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)).
pub const ICMP_REPLIES_PER_SECOND: u32 = 1000;

/// UDP sockets of one shard: smoltcp looks at each for every datagram. More is an error to the caller.
pub const UDP_SOCKETS: usize = 256;
/// Datagrams a UDP socket holds in each direction; further received ones are dropped and counted.
pub const UDP_SOCKET_DATAGRAMS: usize = 256;
/// Bytes a UDP socket holds in each direction.
pub const UDP_SOCKET_BYTES: usize = 256 << 10;

/// Least memory a connection's receive buffer is held to, in bytes: a lower setting counts as this.
/// The window is then 2 KiB.
pub const TCP_RECEIVE_BUFFER_MIN: usize = 4 << 10;
/// Most memory a connection's receive buffer may be given, in bytes: a higher setting counts as this, so that every window
/// stays below 2^30 (RFC 7323 section 2.3).
pub const TCP_RECEIVE_BUFFER_MAX: usize = 1 << 30;
/// Bound of each of a connection's buffers when it begins, in bytes, where the application does not choose.
pub const TCP_BUFFER_START: usize = 256 << 10;
/// What a receive buffer that the application does not choose grows to, in bytes (Linux's `tcp_rmem`): faster or longer paths
/// are limited by the window then.
pub const TCP_RECEIVE_BUFFER_GROWTH: usize = 6 << 20;
/// The same for a send buffer (Linux's `tcp_wmem`): twice the congestion window up to here.
pub const TCP_SEND_BUFFER_GROWTH: usize = 4 << 20;

/// Bytes of buffers of one kind (blocks and books of send and receive queues) that a thread keeps for the next who needs one,
/// so that queues that fill and empty with every packet do not allocate: what the largest send buffer that grows by itself
/// takes. What is given back beyond it is freed.
pub const SPARE_BYTES: usize = 4 << 20;

/// Timers moved to a finer level of the wheel in one call: a long-lived crowd (keepalives of a million idle
/// connections) may reach the same coarse slot at once. Beyond it the rest waits for the next call, which is due at
/// once, so that packets are served in between; timers among the rest fire some milliseconds late.
pub const TIMER_CASCADE: usize = 4096;

/// Shorter `Bytes` than this that are handed over for sending are copied: that costs less than to keep them, and a few bytes
/// cannot keep a large allocation alive for long.
pub const TCP_BYTES_KEPT_MIN: usize = 4 << 10;
/// Shorter received chunks than this that are sent on are copied, and those that are less than a quarter of their frame.
pub const TCP_CHUNK_KEPT_MIN: usize = 1 << 10;
/// Most bytes a connection's send buffer may be given; a higher setting is an error to the caller.
pub const TCP_SEND_BUFFER_MAX: usize = 1 << 30;
/// Retransmissions in vain after which IP is told that the way to the peer may be wrong: RFC 9293 section 3.8.3's R1, Linux's
/// `tcp_retries1`.
pub const TCP_R1: u8 = 3;
/// What a shard tells the others at a time of Fast Open's servers; further news stays with it, and the others learn it by
/// themselves.
pub const TCP_FASTOPEN_NEWS: usize = 64;
/// Entries that any of TCP's tables may be configured for: indices are 30 bits wide.
pub const TCP_TABLE_MAX: usize = 1 << 30;
/// What a connection may still buffer in each direction when all connections together use what they may: enough to make
/// progress (Linux's least `tcp_rmem` and `tcp_wmem` are 4 KiB; a segment in a 4 KiB frame must fit).
pub const TCP_PRESSURE_BUFFER_BYTES: usize = 16 << 10;
/// RSTs and ACKs that belong to no connection and wait for the transmit queue; further ones are dropped and counted, as
/// they answer what will be sent again.
pub const TCP_REPLIES: usize = 1024;
/// Duplicate ACKs that a connection owes at most: a peer needs 3 to detect a loss, and one for each further segment
/// that arrives keeps it sending.
pub const TCP_DUPLICATE_ACKS: u8 = 64;
/// Payload that a connection sends before the next one has its turn, and so the longest super-segment, in bytes: Linux's
/// `gso_max_size`. Longer ones would spare little more, and the others would wait longer: 52 us at 10 Gbit/s.
pub const TCP_BYTES_PER_TURN: usize = 64 << 10;
/// Segments that a connection sends before the next one has its turn: enough for [`TCP_BYTES_PER_TURN`] at an MTU of 1500,
/// and the backlog still has room for five connections' turns.
pub const TCP_SEGMENTS_PER_TURN: usize = 48;
/// Most connections of one listener that SYNs with data opened and whose handshake is not over, whatever is asked for:
/// each is a whole connection that nobody has confirmed. Beyond it SYNs are answered without Fast Open (RFC 7413 section 4.2).
pub const TCP_FASTOPEN_QLEN: usize = 1 << 16;
/// Values of `TCP_MAXSEG`: Linux's `TCP_MIN_MSS` to `MAX_TCP_WINDOW`. Others are refused.
pub const TCP_MAXSEG: RangeInclusive<u16> = 88..=32_767;
/// Most of `TCP_SYNCNT`: Linux's `MAX_TCP_SYNCNT`. More is refused.
pub const TCP_SYN_COUNT_MAX: u8 = 127;
/// Least `TCP_WINDOW_CLAMP`: half of Linux's `SOCK_MIN_RCVBUF`. Less is refused.
pub const TCP_WINDOW_CLAMP_MIN: u32 = 1152;
/// Ends of records (`MSG_EOR`) that a connection remembers until they are acknowledged. Records beyond that are joined.
pub const TCP_RECORD_ENDS: usize = 1024;
/// How long such a connection counts as pending after it was reset (RFC 7413 section 5.1; Linux's 60 s): RSTs from the
/// spoofed clients of a flood would make room for further SYNs otherwise.
pub const TCP_FASTOPEN_RESET_MEMORY: Duration = Duration::from_secs(60);
/// Challenge ACKs, and answers to segments without payload outside the window, that one connection sends in
/// [`TCP_CHALLENGE_INTERVAL`] (RFC 5961 section 7); further ones are counted. It also ends ACK wars.
pub const TCP_CHALLENGE_ACKS: u8 = 10;
/// See [`TCP_CHALLENGE_ACKS`].
pub const TCP_CHALLENGE_INTERVAL: Duration = Duration::from_secs(5);

/// Ping sockets of one shard. More is an error to the caller.
pub const PING_SOCKETS: usize = 256;
/// Echo replies a ping socket holds; further ones are dropped and counted.
pub const PING_REPLIES: usize = 64;

/// Name server queries of one shard at a time. More is an error to the caller.
pub const DNS_QUERIES: usize = 64;
/// Name servers: smoltcp's fixed table.
pub const DNS_SERVERS: usize = 4;
/// Connections that wait for `accept` at a listener that asks for no other backlog (Linux's `somaxconn`); further ones
/// are dropped and counted, and their peers try again.
pub const LISTEN_BACKLOG: usize = 4096;
/// Runs of bytes that a body gave away and that its stream looks for among what it is to write (hyper queues at most
/// 16); of more, the oldest are copied.
pub const HANDOVER_RUNS: usize = 16;
/// Commands waiting for one shard (`Handle::spawn_on`, blocking sockets, metrics). A thread that is not a shard's waits for
/// room; a shard gets an error, as two shards that wait for each other would never wake.
pub const CONTROL_MESSAGES: usize = 1024;
/// From as many connections on, those of a burst are prefetched: fewer stay in a cache of 1 MiB by themselves. (In tests nearly
/// all are.)
pub const TCP_PREFETCH_CONNECTIONS: usize = if cfg!(test) { 2 } else { 1000 };
/// Commands a shard runs between two bursts, so that they cannot hold up the packets. The rest waits for the next turn.
pub const CONTROL_MESSAGES_PER_TURN: usize = 64;
/// Ready tasks a shard runs between two bursts: a burst wakes at most as many as it has packets, the factor lets tasks
/// wake each other. The rest waits for the next turn.
pub const TASKS_PER_TURN: usize = 4 * BURST_PACKETS;
/// Bursts a shard sends at its end to get the last FINs, RSTs and ACKs out; what does not fit is lost, as on a crash.
pub const FINAL_TURNS: usize = 64;
/// How long a shard sleeps that has something to send but found no room in the device; the device ends the sleep when it has
/// room, so that the bound matters only with devices that cannot.
pub const STALLED_WAIT: Duration = Duration::from_millis(1);
/// Least time an idle shard spins that spins at all ([`crate::runtime::Spin::Adaptive`]): a few looks. Less is none.
pub const SPIN_MIN: Duration = Duration::from_micros(5);
/// Most time between two looks of a spinning shard: a hundred times what one takes. After more, another thread had the CPU.
pub const SPIN_LOOK_MAX: Duration = Duration::from_micros(100);
/// How long a shard then sleeps when it is idle, rather than spin: what spinning took from the other thread the scheduler takes
/// from the shard when packets wait, milliseconds at a time.
pub const SPIN_HOLD: Duration = Duration::from_secs(1);
/// A busy shard publishes its figures no more often than this (a snapshot costs microseconds and a system call); an idle
/// one not at all.
pub const METRICS_INTERVAL: Duration = Duration::from_millis(100);
/// How long a request for metrics waits for a busy shard before it takes the figures published last.
pub const METRICS_PATIENCE: Duration = Duration::from_millis(250);
/// Packets waiting to be written to the capture file; beyond it packets are missing from the file, and counted.
pub const CAPTURE_PACKETS: usize = 8192;
/// Pieces of data that wait in one direction between a blocking TCP stream and its shard; then the writer waits.
pub const BLOCKING_PIECES: usize = 32;
/// Bytes of one such piece: with [`BLOCKING_PIECES`] it bounds what waits to 512 KiB in each direction.
pub const BLOCKING_PIECE_BYTES: usize = 16 << 10;
/// Connections accepted by one shard that wait for a blocking listener's `accept`; further ones stay in the shard's accept
/// queue.
pub const BLOCKING_ACCEPTED: usize = 128;
/// Datagrams that wait in one direction between a blocking UDP socket and its shards; then senders wait and received
/// ones stay in the shard's socket until that is full.
pub const BLOCKING_DATAGRAMS: usize = 256;
/// Longest UDP payload: 65,535 bytes of IPv6 payload less the UDP header (an IPv4 packet holds 20 bytes less).
pub const UDP_PAYLOAD_BYTES: usize = 65_527;
/// Places in its tables that a shard looks at for one portion of a listing: some 50 us between two bursts at most, and the
/// next portion is asked for when this one was written.
pub const LISTING_PLACES: u32 = 256;
/// How long a request through the control socket waits for a shard's portion. A shard that does not answer in time is
/// named in the answer, and the others are listed.
pub const LISTING_PATIENCE: Duration = Duration::from_secs(2);
/// Clients of the control socket at a time, a thread each; further ones are told so.
pub const CONTROL_CLIENTS: usize = 8;
/// Longest request line of the control socket; the client of a longer one is told so and disconnected.
pub const CONTROL_REQUEST_BYTES: usize = 4096;
/// How long a client of the control socket may be silent, or not read what it asked for; then it is disconnected.
pub const CONTROL_CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// Flows that connection tracking remembers in one shard unless configured otherwise (Linux's `nf_conntrack_max` on machines
/// with 4 GiB or more). Beyond it the oldest flow that is not assured, or
/// is being closed, ends early; a new flow is refused when there is none.
pub const CONNTRACK_ENTRIES: usize = 1 << 18;
/// Most that it may be configured for: places have 31 bits.
pub const CONNTRACK_ENTRIES_MAX: usize = 1 << 30;
/// SYNs from outside that one shard of a NAT keeps for six seconds, in case the connection is being opened from inside, too (RFC 5382
/// REQ-4), in some 100 KiB; further ones are dropped without an answer.
pub const NAT_UNSOLICITED_SYNS: usize = 1024;
/// How long they wait, at least what RFC 5382 REQ-4 asks for.
pub const NAT_UNSOLICITED_SYN_WAIT: Duration = Duration::from_millis(6_500);
/// Events of connection tracking that wait for whoever follows them; further ones are lost, and counted.
pub const CONNTRACK_EVENTS: usize = 4096;
/// Events of one follower (`bywash ct -E`) that wait to be written to it, in about 1.5 MiB; further ones are lost to it, counted,
/// and it is told how many.
pub const FLOW_FOLLOWER_EVENTS: usize = 8192;
/// How long a follower hears nothing at most: by a line that says nothing the process learns that it has gone, and it learns
/// that the process has not. Losses are told as often.
pub const FLOW_FOLLOWER_HEARTBEAT: Duration = Duration::from_secs(1);
/// Chains that rules may lead through one another, the built-in one counted; deeper rule sets are refused.
pub const FILTER_CHAIN_DEPTH: usize = 16;
/// Networks that one `connlimit` counts flows for; packets of further ones count as over every limit.
pub const FILTER_COUNTED_NETWORKS: usize = 1 << 16;
