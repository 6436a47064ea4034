// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Decides, packet by packet, what of a NIC queue's traffic goes to the stack's AF_XDP socket, what the stack only gets
// a copy of, and what stays with the kernel. When in doubt (truncated, tagged, malformed) the kernel gets the packet.
// A queue is steered by destination addresses and open ports, or, for a stack that forwards, as a whole (QUEUE_WHOLE).
//
// Every map is keyed by the RX queue, so that several processes can each have queues of one NIC: a process only ever
// writes the entries of its own queues. A queue whose configuration is zero is the kernel's entirely.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// These constants and structures are mirrored in src/maps.rs; a change of any of them raises ABI_VERSION there.

// Queues a map has room for until the loader sets the NIC's real number.
#define QUEUES_DEFAULT 64
// Addresses of all queues together until the loader sets the real number.
#define ADDRESSES_DEFAULT 1024
// Longest packet that is copied. Longer ones (ARP and neighbour discovery hardly are) only go to the kernel.
#define COPY_BYTES_MAX 512
// Bytes of a queue's ring of copies until the loader sets it.
#define COPY_RING_BYTES (64 * 1024)
// IPv6 extension headers walked; a packet with more is the kernel's.
#define EXTENSION_HEADERS_MAX 8

// Flags of a queue; 0 means that all of it is the kernel's.
#define QUEUE_ACTIVE 1u
// The kernel has addresses here as well: ARP and neighbour discovery that concern both go to both.
#define QUEUE_SHARED 2u
// Open ports are the stack's at every unicast destination, not only at the addresses listed as shared.
#define QUEUE_ANY_ADDRESS 4u
// Everything is the stack's, whatever its destination, but for what concerns the kernel's addresses.
#define QUEUE_WHOLE 8u

// What an address in `bw_addrs` is.
#define ADDRESS_OWNED 1u
#define ADDRESS_SHARED 2u
// With QUEUE_WHOLE: the kernel's alone.
#define ADDRESS_KERNEL 3u

// First index of `struct ports.open`.
#define PORTS_TCP 0u
#define PORTS_UDP 1u
#define PORTS_ECHO 2u

#define DHCP_CLIENT_PORT 68

#define ARP_BYTES 28
#define ICMP_BYTES 8
#define ND_TARGET_BYTES 16

// Verdicts; each is also the index of its counter.
enum verdict {
	PASS,
	PASS_TRUNCATED,
	PASS_VLAN,
	PASS_FRAGMENT,
	NO_SOCKET,
	COPY,
	COPY_FAILED,
	// From here on: to the socket.
	TO_SOCKET,
	ARP_TO_SOCKET = TO_SOCKET,
	ND_TO_SOCKET,
	TCP_TO_SOCKET,
	UDP_TO_SOCKET,
	ICMP_TO_SOCKET,
	OTHER_TO_SOCKET,
	COUNTERS = 16, // a power of two, so that a mask bounds the index
};

struct queue_config {
	__u32 flags;
};

struct address {
	__u32 queue;
	__u8 bytes[16]; // IPv4 as ::ffff:a.b.c.d
};

struct ports {
	__u8 open[3 * 8192]; // one bit a port: TCP's 65,536, UDP's, then identifiers of echo requests
};

struct counters {
	__u64 count[COUNTERS];
};

struct copy {
	__u32 len;
	__u8 bytes[COPY_BYTES_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES_DEFAULT);
	__type(key, __u32);
	__type(value, __u32);
} bw_xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, QUEUES_DEFAULT);
	__type(key, __u32);
	__type(value, struct queue_config);
} bw_queues SEC(".maps");

// Mapped into the processes, which flip bits without a syscall.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, QUEUES_DEFAULT);
	__type(key, __u32);
	__type(value, struct ports);
} bw_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ADDRESSES_DEFAULT);
	__type(key, struct address);
	__type(value, __u32);
} bw_addrs SEC(".maps");

struct copy_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, COPY_RING_BYTES);
};

// One ring of copies a queue, made by the process that has the queue.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, QUEUES_DEFAULT);
	__type(key, __u32);
	__array(values, struct copy_ring);
} bw_copies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, QUEUES_DEFAULT);
	__type(key, __u32);
	__type(value, struct counters);
} bw_counters SEC(".maps");

// Magic number and version of all of this, for processes that join (src/maps.rs). The loader binds it to the program.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} bw_abi SEC(".maps");

// A packet under inspection.
struct view {
	void *data;
	void *end;
	__u32 queue;
	__u32 flags;
};

// `len` bytes at `offset`, or NULL when they are not all there. `offset` must have a bound the verifier knows.
static __always_inline void *at(const struct view *view, __u32 offset, __u32 len)
{
	void *bytes = view->data + offset;

	return bytes + len > view->end ? NULL : bytes;
}

static __always_inline __u32 address_kind(const struct view *view, const struct address *address)
{
	__u32 *kind;

	// Everything is the stack's: no address is in the map.
	if ((view->flags & (QUEUE_WHOLE | QUEUE_SHARED)) == QUEUE_WHOLE)
		return 0;
	kind = bpf_map_lookup_elem(&bw_addrs, address);
	return kind ? *kind : 0;
}

static __always_inline __u32 ipv4_kind(const struct view *view, __be32 addr)
{
	struct address key = {.queue = view->queue};

	key.bytes[10] = 0xff;
	key.bytes[11] = 0xff;
	__builtin_memcpy(key.bytes + 12, &addr, 4);
	return address_kind(view, &key);
}

static __always_inline __u32 ipv6_kind(const struct view *view, const void *addr)
{
	struct address key = {.queue = view->queue};

	__builtin_memcpy(key.bytes, addr, 16);
	return address_kind(view, &key);
}

static __always_inline bool port_is_open(const struct view *view, __u32 protocol, __u16 port)
{
	__u32 queue = view->queue;
	struct ports *ports = bpf_map_lookup_elem(&bw_ports, &queue);

	return ports && (ports->open[protocol * 8192 + (port >> 3)] & (1 << (port & 7)));
}

// For packets that are the stack's without a look at their ports.
static __always_inline enum verdict owned_verdict(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return TCP_TO_SOCKET;
	case IPPROTO_UDP:
		return UDP_TO_SOCKET;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return ICMP_TO_SOCKET;
	default:
		return OTHER_TO_SOCKET;
	}
}

// ARP for IPv4 over Ethernet (RFC 826).
static __always_inline enum verdict arp(const struct view *view)
{
	const __u8 *arp = at(view, ETH_HLEN, ARP_BYTES);
	bool whole = view->flags & QUEUE_WHOLE;
	__be32 sender, target;
	__u32 kind;

	if (!arp)
		return PASS_TRUNCATED;
	if (arp[0] != 0 || arp[1] != 1 || arp[2] != 8 || arp[3] != 0 || arp[4] != 6 || arp[5] != 4)
		return PASS;
	__builtin_memcpy(&sender, arp + 14, 4);
	__builtin_memcpy(&target, arp + 24, 4);
	kind = ipv4_kind(view, target);
	if (kind == ADDRESS_OWNED)
		return ARP_TO_SOCKET;
	// Requests and replies to the kernel tell the stack as well who the sender is (RFC 826).
	if (whole && kind != ADDRESS_KERNEL && !((view->flags & QUEUE_SHARED) && sender == target))
		return ARP_TO_SOCKET;
	// An announcement (RFC 5227 section 3) renews the entry of whoever knows the sender.
	if ((view->flags & QUEUE_SHARED) || sender == target)
		return COPY;
	return PASS;
}

// TCP or UDP at `offset`, of a packet whose destination is not owned by the stack.
static __always_inline enum verdict transport(const struct view *view, __u32 offset, __u8 protocol, bool ours)
{
	const __be16 *ports = at(view, offset, 4);
	bool udp = protocol == IPPROTO_UDP;
	__u16 port;

	if (!ports)
		return PASS_TRUNCATED;
	port = bpf_ntohs(ports[1]);
	// A DHCP server may answer by broadcast, or to the address it only offers (RFC 2131 section 4.1).
	if (!ours && !(udp && port == DHCP_CLIENT_PORT))
		return PASS;
	if (!port_is_open(view, udp ? PORTS_UDP : PORTS_TCP, port))
		return PASS;
	return udp ? UDP_TO_SOCKET : TCP_TO_SOCKET;
}

// Whether the TCP or UDP header at `offset`, quoted by an ICMP error, was sent from an open port: then the error is
// about a packet of the stack's.
static __always_inline enum verdict quoted(const struct view *view, __u32 offset, __u8 protocol)
{
	const __be16 *ports = at(view, offset, 4);
	bool udp = protocol == IPPROTO_UDP;

	if (protocol != IPPROTO_TCP && !udp)
		return PASS;
	if (!ports)
		return PASS_TRUNCATED;
	return port_is_open(view, udp ? PORTS_UDP : PORTS_TCP, bpf_ntohs(ports[0])) ? ICMP_TO_SOCKET : PASS;
}

// An echo reply (RFC 792, RFC 4443 section 4.2) is the stack's when it asked with this identifier; should the kernel have
// drawn the same one of 65,536 for a ping of its own, that ping has to be started again.
static __always_inline enum verdict echo_reply(const struct view *view, const __u8 *icmp)
{
	__u16 ident = icmp[4] << 8 | icmp[5];

	return port_is_open(view, PORTS_ECHO, ident) ? ICMP_TO_SOCKET : PASS;
}

// ICMP to an address that the kernel has as well: errors about packets of the stack's are the stack's (RFC 792), and
// replies to its pings.
static __always_inline enum verdict shared_icmp(const struct view *view, __u32 offset)
{
	const __u8 *icmp = at(view, offset, ICMP_BYTES);
	const struct iphdr *ip;

	if (!icmp)
		return PASS_TRUNCATED;
	if (icmp[0] == 0)
		return echo_reply(view, icmp);
	if (icmp[0] != 3 && icmp[0] != 4 && icmp[0] != 5 && icmp[0] != 11 && icmp[0] != 12)
		return PASS;
	offset += ICMP_BYTES;
	ip = at(view, offset, sizeof(*ip));
	if (!ip)
		return PASS_TRUNCATED;
	if (ip->version != 4 || ip->ihl < 5 || (bpf_ntohs(ip->frag_off) & 0x1fff))
		return PASS;
	return quoted(view, offset + ip->ihl * 4, ip->protocol);
}

// Whether open ports count at this destination: a listed address, or any but multicast and broadcast.
static __always_inline bool ports_count(const struct view *view, __u32 kind)
{
	const __u8 *eth = view->data;

	return kind == ADDRESS_SHARED || ((view->flags & QUEUE_ANY_ADDRESS) && !(eth[0] & 1));
}

// Queries concern the groups of both (RFC 3376 section 4.1); `other` is the verdict on all else.
static __always_inline enum verdict igmp(const struct view *view, __u32 offset, enum verdict other)
{
	const __u8 *igmp = at(view, offset, ICMP_BYTES);

	if (!igmp)
		return PASS_TRUNCATED;
	return igmp[0] == 0x11 ? COPY : other;
}

static __always_inline enum verdict ipv4(const struct view *view)
{
	const struct iphdr *ip = at(view, ETH_HLEN, sizeof(*ip));
	__u32 kind, offset;
	bool ours;

	if (!ip)
		return PASS_TRUNCATED;
	if (ip->version != 4 || ip->ihl < 5)
		return PASS;
	offset = ETH_HLEN + ip->ihl * 4;
	if (!at(view, offset, 0))
		return PASS_TRUNCATED;
	kind = ipv4_kind(view, ip->daddr);
	// Fragments included: the stack reassembles.
	if (kind == ADDRESS_OWNED)
		return owned_verdict(ip->protocol);
	if (view->flags & QUEUE_WHOLE) {
		if (kind == ADDRESS_KERNEL)
			return PASS;
		if (ip->protocol == IPPROTO_IGMP && (view->flags & QUEUE_SHARED))
			return igmp(view, offset, ICMP_TO_SOCKET);
		return owned_verdict(ip->protocol);
	}
	ours = ports_count(view, kind);
	// Later fragments do not say their port, so that a shared address cannot have any of a packet's fragments.
	if (bpf_ntohs(ip->frag_off) & 0x3fff)
		return ours ? PASS_FRAGMENT : PASS;
	switch (ip->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		return transport(view, offset, ip->protocol, ours);
	case IPPROTO_ICMP:
		return ours ? shared_icmp(view, offset) : PASS;
	case IPPROTO_IGMP:
		return igmp(view, offset, PASS);
	default:
		return PASS;
	}
}

// Neighbour discovery (RFC 4861 section 4), multicast listener queries (RFC 3810 section 5.1), and errors (RFC 4443).
static __always_inline enum verdict icmpv6(const struct view *view, __u32 offset, bool ours)
{
	const __u8 *icmp = at(view, offset, ICMP_BYTES);
	bool shared = view->flags & QUEUE_SHARED;

	if (!icmp)
		return PASS_TRUNCATED;
	switch (icmp[0]) {
	case 1 ... 4: { // errors
		const struct ipv6hdr *ip = at(view, offset + ICMP_BYTES, sizeof(*ip));

		if (!ours)
			return PASS;
		if (!ip)
			return PASS_TRUNCATED;
		return ip->version == 6 ? quoted(view, offset + ICMP_BYTES + sizeof(*ip), ip->nexthdr) : PASS;
	}
	case 129:
		return ours ? echo_reply(view, icmp) : PASS;
	case 130: // multicast listener query
	case 134: // router advertisement
	case 136: // neighbour advertisement, to all nodes or to a shared address
		return COPY;
	case 135: { // neighbour solicitation
		const void *target = at(view, offset + ICMP_BYTES, ND_TARGET_BYTES);

		if (!target)
			return PASS_TRUNCATED;
		if (ipv6_kind(view, target) == ADDRESS_OWNED)
			return ND_TO_SOCKET;
		return shared ? COPY : PASS;
	}
	case 137: // redirect
		return shared ? COPY : PASS;
	default:
		return PASS;
	}
}

// ICMPv6 on a link that is the stack's but for the kernel's addresses: what is for the kernel or about one of its addresses is
// its own, with copies of neighbour discovery; what is for all nodes is for both, if the kernel has addresses.
static __always_inline enum verdict whole_icmpv6(const struct view *view, __u32 offset, __u32 kind, bool multicast)
{
	const __u8 *icmp = at(view, offset, ICMP_BYTES);
	bool both = kind == ADDRESS_KERNEL || (multicast && (view->flags & QUEUE_SHARED));

	if (!icmp)
		return PASS_TRUNCATED;
	switch (icmp[0]) {
	case 130: // multicast listener query
	case 134: // router advertisement
	case 136: // neighbour advertisement
		return both ? COPY : ICMP_TO_SOCKET;
	case 135: { // neighbour solicitation
		const void *target = at(view, offset + ICMP_BYTES, ND_TARGET_BYTES);

		if (!target)
			return PASS_TRUNCATED;
		if (ipv6_kind(view, target) == ADDRESS_KERNEL)
			return COPY;
		return kind == ADDRESS_KERNEL ? PASS : ND_TO_SOCKET;
	}
	default:
		return kind == ADDRESS_KERNEL ? PASS : ICMP_TO_SOCKET;
	}
}

// Moves `offset` and `next` behind the extension headers (RFC 8200 section 4.1), or to the first one that is not
// walked. False when the packet ends before, or there are too many.
static __always_inline bool skip_extensions(const struct view *view, __u32 *offset, __u8 *next, bool *fragment)
{
	for (int i = 0; i <= EXTENSION_HEADERS_MAX; i++) {
		const __u8 *header;

		switch (*next) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
			header = at(view, *offset, 2);
			if (!header)
				return false;
			*next = header[0];
			*offset += (header[1] + 1) * 8;
			break;
		case IPPROTO_FRAGMENT:
			header = at(view, *offset, 8);
			if (!header)
				return false;
			// An atomic fragment (RFC 6946) is a whole packet.
			if (header[2] != 0 || (header[3] & 0xf9) != 0) {
				*fragment = true;
				return true;
			}
			*next = header[0];
			*offset += 8;
			break;
		default:
			return true;
		}
	}
	return false;
}

static __always_inline enum verdict ipv6(const struct view *view)
{
	const struct ipv6hdr *ip = at(view, ETH_HLEN, sizeof(*ip));
	__u32 kind, offset = ETH_HLEN + sizeof(*ip);
	bool ours, fragment = false;
	__u8 next;

	if (!ip)
		return PASS_TRUNCATED;
	if (ip->version != 6)
		return PASS;
	next = ip->nexthdr;
	kind = ipv6_kind(view, &ip->daddr);
	if (kind == ADDRESS_OWNED)
		return owned_verdict(next);
	if (view->flags & QUEUE_WHOLE) {
		// Where the kernel has no addresses, nothing needs a closer look.
		bool shared = view->flags & QUEUE_SHARED;

		if (shared && skip_extensions(view, &offset, &next, &fragment) && !fragment && next == IPPROTO_ICMPV6)
			return whole_icmpv6(view, offset, kind, ip->daddr.s6_addr[0] == 0xff);
		return kind == ADDRESS_KERNEL ? PASS : owned_verdict(ip->nexthdr);
	}
	if (!skip_extensions(view, &offset, &next, &fragment))
		return PASS_TRUNCATED;
	ours = ports_count(view, kind);
	if (fragment)
		return ours ? PASS_FRAGMENT : PASS;
	switch (next) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		return ours ? transport(view, offset, next, true) : PASS;
	case IPPROTO_ICMPV6:
		return icmpv6(view, offset, ours);
	default:
		return PASS;
	}
}

static __always_inline enum verdict classify(const struct view *view)
{
	const struct ethhdr *eth = at(view, 0, sizeof(*eth));

	if (!eth)
		return PASS_TRUNCATED;
	switch (bpf_ntohs(eth->h_proto)) {
	case ETH_P_IP:
		return ipv4(view);
	case ETH_P_IPV6:
		return ipv6(view);
	case ETH_P_ARP:
		return arp(view);
	case ETH_P_8021Q:
	case ETH_P_8021AD:
	case 0x9100: // QinQ before 802.1ad
		return PASS_VLAN;
	default:
		return view->flags & QUEUE_WHOLE ? OTHER_TO_SOCKET : PASS;
	}
}

// Puts a copy of the packet into the queue's ring.
static __always_inline bool copy(struct xdp_md *ctx, __u32 queue)
{
	void *ring = bpf_map_lookup_elem(&bw_copies, &queue);
	__u64 len = bpf_xdp_get_buff_len(ctx);
	struct copy *copy;

	if (!ring || len < ETH_HLEN || len > COPY_BYTES_MAX)
		return false;
	copy = bpf_ringbuf_reserve(ring, sizeof(*copy), 0);
	if (!copy)
		return false;
	if (bpf_xdp_load_bytes(ctx, 0, copy->bytes, len) < 0) {
		bpf_ringbuf_discard(copy, 0);
		return false;
	}
	copy->len = len;
	bpf_ringbuf_submit(copy, 0);
	return true;
}

SEC("xdp.frags")
int bywash_steer(struct xdp_md *ctx)
{
	struct view view = {
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.queue = ctx->rx_queue_index,
	};
	struct queue_config *config = bpf_map_lookup_elem(&bw_queues, &view.queue);
	struct counters *counters;
	enum verdict verdict;
	int action = XDP_PASS;

	if (!config || !config->flags)
		return XDP_PASS;
	view.flags = config->flags;
	verdict = classify(&view);
	if (verdict >= TO_SOCKET) {
		action = bpf_redirect_map(&bw_xsks, view.queue, XDP_PASS);
		if (action != XDP_REDIRECT)
			verdict = NO_SOCKET;
	} else if (verdict == COPY && !copy(ctx, view.queue)) {
		verdict = COPY_FAILED;
	}
	counters = bpf_map_lookup_elem(&bw_counters, &view.queue);
	if (counters)
		counters->count[verdict & (COUNTERS - 1)]++;
	return action;
}

// No helper above asks for a GPL-compatible program.
char _license[] SEC("license") = "MIT OR Apache-2.0";
