// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only

// Copies what handshakes are made of to user space, before the kernel has made a socket buffer of it, and
// lets every packet pass. Segments are chosen as by src/capture/filter.rs and sampled by flow exactly as by
// crates/core/src/flow/rank.rs; user space is src/capture/xdp. Needs Linux 5.18 (bpf_xdp_load_bytes).

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// The part of the kernel's interface that is used (include/uapi/linux/bpf.h), written out so that the object
// does not depend on the headers that are installed where it is built.

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

enum { XDP_PASS = 2 };
enum { BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_RINGBUF = 27 };
enum { BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_RB_AVAIL_DATA = 0 };

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)125;
static void *(*const bpf_ringbuf_reserve)(void *ringbuf, u64 size, u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;
static void (*const bpf_ringbuf_discard)(void *data, u64 flags) = (void *)133;
static u64 (*const bpf_ringbuf_query)(void *ringbuf, u64 flags) = (void *)134;
static u64 (*const bpf_xdp_get_buff_len)(struct xdp_md *packet) = (void *)188;
static long (*const bpf_xdp_load_bytes)(struct xdp_md *packet, u32 offset, void *to, u64 len) = (void *)189;

#define SEC(name) __attribute__((section(name), used))
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, type) __typeof__(type) *name

// What user space reads and writes: src/capture/xdp/program.rs and record.rs have the same layouts.

// Octets copied of a usual frame: Ethernet, two VLAN tags, and IPv4 and TCP with all their options.
#define SNAP_LENGTH 144
// The same of a frame in which the TCP header is not found or ends later: what src/wire/fragments.rs keeps of a
// datagram, and 256 octets for what stands before that.
#define LONG_SNAP_LENGTH 1280

struct record {
	// Nanoseconds since boot, time asleep included.
	u64 time;
	u32 interface;
	// Octets on the wire; the first of them are in data.
	u32 length;
	u8 data[];
};

// Ends of flows with a mask of their own: Sampling::HEAVY.
#define MAX_HEAVY 16

struct heavy {
	u32 end;
	u32 mask;
};

struct rules {
	// The numbers of struct Ranks.
	u32 seed;
	u32 odd[4];
	// Bits that are zero in the ranks that are looked at.
	u32 mask;
	// Not 0: segments with data too.
	u32 data;
	// User space is woken when so many octets wait, and twice as many, and so on: a power of two.
	u32 wake;
	// How many of the array are in use.
	u32 heavy_count;
	// Not 0: only flows with a port of the map below at an end.
	u32 ports;
	struct heavy heavy[MAX_HEAVY];
};

struct counts {
	u64 packets;
	u64 segments;
	u64 syn;
	u64 syn_ack;
	u64 passed;
	u64 lost;
};

struct {
	UINT(type, BPF_MAP_TYPE_RINGBUF);
	UINT(max_entries, 8 << 20);
} frames SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct counts);
} counts SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct rules);
} rules SEC(".maps");

// A bit for each port.
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u32[65536 / 32]);
} ports SEC(".maps");

// The wire.

enum { ETHERNET = 14, VLAN_TAG = 4, MAX_VLAN_TAGS = 2, IPV4 = 20, IPV6 = 40, TCP = 20 };
enum { TYPE_IPV4 = 0x0800, TYPE_IPV6 = 0x86dd, TYPE_VLAN = 0x8100, TYPE_PROVIDER_VLAN = 0x88a8 };
enum { PROTOCOL_TCP = 6, AUTHENTICATION = 51 };
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, DESTINATION_OPTIONS = 60 };
enum { FIN = 0x01, SYN = 0x02, RST = 0x04, ACK = 0x10 };

// Longer chains of extension headers are not followed.
#define MAX_EXTENSION_HEADERS 4

ALWAYS_INLINE u16 u16_at(const u8 *at)
{
	return __builtin_bswap16(*(const u16 *)at);
}

ALWAYS_INLINE u32 u32_at(const u8 *at)
{
	return __builtin_bswap32(*(const u32 *)at);
}

// What is in a packet. What cannot be told (fragments, headers that are not followed) is left to user space.
enum content { OTHER, SEGMENT, UNCLEAR };

// A TCP segment and where it lies.
struct segment {
	const u8 *tcp;
	// Octets from there to the end of the IP packet.
	u32 length;
	// Source; the destination follows.
	const u8 *addresses;
	u8 is_ipv4;
};

ALWAYS_INLINE enum content find_in_ipv4(const u8 *ip, const u8 *end, struct segment *found)
{
	if (ip + IPV4 > end)
		return OTHER;
	if (ip[9] == AUTHENTICATION)
		return UNCLEAR;
	u32 header = (ip[0] & 0xf) * 4;
	if (ip[9] != PROTOCOL_TCP || header < IPV4)
		return OTHER;
	// More fragments, or an offset.
	if (u16_at(ip + 6) & 0x3fff)
		return UNCLEAR;
	found->tcp = ip + header;
	found->length = u16_at(ip + 2) - header;
	found->addresses = ip + 12;
	found->is_ipv4 = 1;
	return found->tcp + TCP <= end ? SEGMENT : OTHER;
}

ALWAYS_INLINE int is_followed(u8 protocol)
{
	return protocol == HOP_BY_HOP || protocol == ROUTING || protocol == DESTINATION_OPTIONS;
}

ALWAYS_INLINE enum content find_in_ipv6(const u8 *ip, const u8 *end, struct segment *found)
{
	if (ip + IPV6 > end)
		return OTHER;
	const u8 *next = ip + IPV6;
	u32 length = u16_at(ip + 4);
	u8 protocol = ip[6];
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		u32 header = 8;
		if (protocol == PROTOCOL_TCP)
			break;
		if (next + 8 > end)
			return OTHER;
		if (is_followed(protocol))
			header += next[1] * 8;
		else if (protocol != FRAGMENT)
			break;
		else if (u16_at(next + 2) & 0xfff9)
			return UNCLEAR;
		protocol = next[0];
		next += header;
		length -= header;
	}
	if (protocol == AUTHENTICATION || protocol == FRAGMENT || is_followed(protocol))
		return UNCLEAR;
	if (protocol != PROTOCOL_TCP)
		return OTHER;
	found->tcp = next;
	found->length = length;
	found->addresses = ip + 8;
	found->is_ipv4 = 0;
	return found->tcp + TCP <= end ? SEGMENT : OTHER;
}

// Finds the TCP header. Its first 20 octets and both addresses are inside the packet.
ALWAYS_INLINE enum content find(const u8 *data, const u8 *end, struct segment *found)
{
	const u8 *type = data + ETHERNET - 2;
	for (int i = 0; i <= MAX_VLAN_TAGS; i++) {
		if (type + 2 > end)
			return OTHER;
		switch (u16_at(type)) {
		case TYPE_IPV4:
			return find_in_ipv4(type + 2, end, found);
		case TYPE_IPV6:
			return find_in_ipv6(type + 2, end, found);
		case TYPE_VLAN:
		case TYPE_PROVIDER_VLAN:
			type += VLAN_TAG;
			break;
		default:
			return OTHER;
		}
	}
	return OTHER;
}

// A segment with SYN, FIN or RST, or without payload.
ALWAYS_INLINE int is_of_interest(const struct segment *segment)
{
	return segment->tcp[13] & (SYN | FIN | RST) || segment->length == (segment->tcp[12] >> 4) * 4;
}

ALWAYS_INLINE int has_wanted_port(const struct segment *segment)
{
	u32 zero = 0;
	const u32 *wanted = bpf_map_lookup_elem(&ports, &zero);
	if (!wanted)
		return 0;
	u32 from = u16_at(segment->tcp);
	u32 to = u16_at(segment->tcp + 2);
	return (wanted[from / 32] >> from % 32 | wanted[to / 32] >> to % 32) & 1;
}

// The rank of crates/core/src/flow/rank.rs.

ALWAYS_INLINE u32 hash_word(const struct rules *rules, u32 x, u32 word)
{
	x = (x ^ word) * rules->odd[0];
	return x ^ x >> 16;
}

ALWAYS_INLINE u32 hash_end(const struct rules *rules, const u8 *address, u8 is_ipv4, const u8 *port)
{
	u32 x = rules->seed;
	// An IPv4-mapped address (RFC 4291, section 2.5.5.2) is the IPv4 address.
	if (!is_ipv4 && !u32_at(address) && !u32_at(address + 4) && u32_at(address + 8) == 0xffff) {
		address += 12;
		is_ipv4 = 1;
	}
	x = hash_word(rules, x, u32_at(address));
	if (!is_ipv4) {
		x = hash_word(rules, x, u32_at(address + 4));
		x = hash_word(rules, x, u32_at(address + 8));
		x = hash_word(rules, x, u32_at(address + 12));
	}
	x = (x + u16_at(port)) * rules->odd[1];
	return x ^ x >> 15;
}

ALWAYS_INLINE int is_looked_at(const struct rules *rules, const struct segment *segment)
{
	u32 mask = rules->mask;
	if (!mask && !rules->heavy_count)
		return 1;
	u32 length = segment->is_ipv4 ? 4 : 16;
	u32 from = hash_end(rules, segment->addresses, segment->is_ipv4, segment->tcp);
	u32 to = hash_end(rules, segment->addresses + length, segment->is_ipv4, segment->tcp + 2);
	for (u32 i = 0; i < MAX_HEAVY && i < rules->heavy_count; i++) {
		const struct heavy *heavy = &rules->heavy[i];
		if (heavy->end == from || heavy->end == to) {
			mask = heavy->mask;
			break;
		}
	}
	u32 x = (from + to) * rules->odd[2];
	return !((x ^ x >> 16) * rules->odd[3] & mask);
}

// Whether a segment is to come up. Counts it, if it is one of those that are looked for.
ALWAYS_INLINE int is_chosen(const struct segment *segment, const struct rules *rules, struct counts *count)
{
	if (!rules->data && !is_of_interest(segment))
		return 0;
	if (rules->ports && !has_wanted_port(segment))
		return 0;
	u8 flags = segment->tcp[13] & (FIN | SYN | RST | ACK);
	count->segments++;
	if (flags == SYN)
		count->syn++;
	else if (flags == (SYN | ACK))
		count->syn_ack++;
	return is_looked_at(rules, segment);
}

// Whether a record with so many octets of the frame, a multiple of 8, went into the ring.
ALWAYS_INLINE int pass_up(struct xdp_md *packet, const struct rules *rules, u32 snap_length)
{
	// The ring puts a header of 8 octets before it.
	const u64 space = 8 + sizeof(struct record) + snap_length;
	u64 before = bpf_ringbuf_query(&frames, BPF_RB_AVAIL_DATA);
	struct record *record = bpf_ringbuf_reserve(&frames, sizeof(*record) + snap_length, 0);
	if (!record)
		return 0;
	u64 length = bpf_xdp_get_buff_len(packet);
	record->time = bpf_ktime_get_boot_ns();
	record->interface = packet->ingress_ifindex;
	record->length = length;
	// Not 0, which the verifier does not know.
	u64 captured = length - 1 < snap_length ? length : snap_length;
	if (bpf_xdp_load_bytes(packet, 0, record->data, captured)) {
		bpf_ringbuf_discard(record, 0);
		return 0;
	}
	// Without the flag user space is woken where it has read everything before this record: once, then
	// it lets records gather. The kernel does that without a race, so it is left to it.
	u64 crossed = (before ^ (before + space)) & -(u64)rules->wake;
	bpf_ringbuf_submit(record, crossed ? BPF_RB_FORCE_WAKEUP : 0);
	return 1;
}

SEC("xdp.frags") int handshakes(struct xdp_md *packet)
{
	const u8 *data = (const u8 *)(long)packet->data;
	const u8 *end = (const u8 *)(long)packet->data_end;
	u32 zero = 0;
	struct counts *count = bpf_map_lookup_elem(&counts, &zero);
	const struct rules *rule = bpf_map_lookup_elem(&rules, &zero);
	struct segment segment;

	if (!count || !rule)
		return XDP_PASS;
	count->packets++;
	enum content content = find(data, end, &segment);
	if (content == OTHER)
		return XDP_PASS;
	int is_long = content == UNCLEAR;
	if (content == SEGMENT) {
		if (!is_chosen(&segment, rule, count))
			return XDP_PASS;
		is_long = segment.tcp - data + (segment.tcp[12] >> 4) * 4 > SNAP_LENGTH;
	}
	is_long &= bpf_xdp_get_buff_len(packet) > SNAP_LENGTH;
	if (is_long ? pass_up(packet, rule, LONG_SNAP_LENGTH) : pass_up(packet, rule, SNAP_LENGTH))
		count->passed++;
	else
		count->lost++;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
