/* The data phase of a run in the kernel: `transmit` makes the packets (run by user space on live
 * frames), `handed` counts which of them the interfaces took, `sink` judges what arrives. */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_core_read.h>
#include "data.h"

#define MAP(name, kind, count, k, v)                                                             \
	struct {                                                                                 \
		__uint(type, BPF_MAP_TYPE_##kind);                                               \
		__uint(max_entries, count);                                                      \
		__type(key, k);                                                                  \
		__type(value, v);                                                                \
	} name SEC(".maps")

#define LARGEST 2048                   /* bytes of an IP packet that is judged */
#define PIECE 512                      /* what bpf_csum_diff takes before Linux 6.13 */

struct scratch {
	__u8 bytes[LARGEST + 8];
	__u32 next[WAYS];              /* place of the flow that is expected next */
};

MAP(ports, DEVMAP, WAYS, __u32, __u32);
MAP(requests, ARRAY, 1, __u32, struct turn);             /* the loader sets the sizes */
MAP(replies, ARRAY, 1, __u32, struct turn);
MAP(places, ARRAY, 1, __u32, __u32);                     /* flow -> index in the next two */
MAP(request_flows, ARRAY, 1, __u32, struct flow);
MAP(reply_flows, ARRAY, 1, __u32, struct flow);
MAP(tallies, PERCPU_ARRAY, WAYS, __u32, struct tally);
MAP(scratches, PERCPU_ARRAY, 1, __u32, struct scratch);

const volatile struct config config SEC(".rodata.config");
struct state state SEC(".data.state");
volatile struct next_hop next_hops[WAYS] SEC(".data.hops");
volatile struct heard heards[WAYS] SEC(".data.heard");

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Writes a packet whose headers lie in `data`. */
static __always_inline void write(void *data, const struct turn *turn, struct stamp stamp,
				  __u32 way, const volatile struct size *size)
{
	__u32 at = ETH_HLEN + (config.v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__be32 flow = bpf_htonl(stamp.flow), sequence = bpf_htonl(stamp.sequence);
	__be32 time = bpf_htonl(stamp.time);
	__be16 check = bpf_htons(stamp_check(stamp, config.key, way));
	__u64 addresses = (__u64)turn->source + turn->destination;
	__u64 sum = addresses + turn->source_port + turn->destination_port + size->sum;

	sum += (__u64)flow + sequence + time + check;
	if (config.v6) {
		struct ipv6hdr *ip6 = data + ETH_HLEN;

		ip6->payload_len = size->ip;
		ip6->saddr.s6_addr32[3] = turn->source;
		ip6->daddr.s6_addr32[3] = turn->destination;
	} else {
		struct iphdr *ip = data + ETH_HLEN;

		ip->tot_len = size->ip;
		ip->saddr = turn->source;
		ip->daddr = turn->destination;
		ip->check = ~fold(addresses + size->ip_sum);
	}
	if (config.tcp) {
		struct tcphdr *tcp = data + at;
		__u8 *payload = (void *)(tcp + 1);

		tcp->source = turn->source_port;
		tcp->dest = turn->destination_port;
		tcp->seq = sequence;
		tcp->ack_seq = flow;
		tcp->check = ~fold(sum);
		*(__be32 *)payload = time;
		*(__be16 *)(payload + 4) = check;
	} else {
		struct udphdr *udp = data + at;
		__be32 *payload = (void *)(udp + 1);
		__u16 folded = ~fold(sum);

		udp->source = turn->source_port;
		udp->dest = turn->destination_port;
		udp->len = size->udp;
		udp->check = folded ? folded : 0xffff;
		payload[0] = flow;
		payload[1] = sequence;
		payload[2] = time;
		*(__be16 *)(payload + 3) = check;
	}
}

/* Whether a packet may leave now. The clock is read only if the last reading says no. */
static __always_inline int is_due(struct state *s)
{
	if (s->due > s->now || s->earliest > s->now + s->burst) {
		s->now = bpf_ktime_get_boot_ns();
		if (s->due > s->now || s->earliest > s->now + s->burst)
			return 0;
	}
	return s->due < s->end;
}

/* Sends a packet of this way. */
static __always_inline int send(struct xdp_md *ctx, struct state *s, __u32 way)
{
	const volatile struct route *route = &config.routes[way];
	__u32 at = s->next[way], kind = 0, length;
	struct turn *turn = way == REPLY ? bpf_map_lookup_elem(&replies, &at) :
					   bpf_map_lookup_elem(&requests, &at);

	if (!turn)
		return XDP_DROP;
	if (config.sizes > 1) {
		kind = s->size[way] & (SIZES - 1);
		s->size[way] = kind + 1 < config.sizes ? kind + 1 : 0;
		length = ctx->data_end - ctx->data;
		if (bpf_xdp_adjust_tail(ctx, (int)(route->sizes[kind].frame - length)))
			return XDP_DROP;
	}
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 *words = data;
	if (config.v6) {
		if (data + (config.tcp ? 80 : 76) > end)
			return XDP_DROP;
#pragma unroll
		for (int i = 14; i < 19; i++)
			words[i] = route->head[i];
	} else if (data + (config.tcp ? 60 : 56) > end) {
		return XDP_DROP;
	}
#pragma unroll
	for (int i = 0; i < 14; i++)
		words[i] = route->head[i];
	__u64 mac = next_hops[way].mac;
	__builtin_memcpy(data, &mac, ETH_ALEN);
	struct stamp stamp = { turn->flow, s->sequence[way], s->due / TIME_UNIT };
	write(data, turn, stamp, way, &route->sizes[kind]);
	if (bpf_redirect_map(&ports, way, 0) != XDP_REDIRECT)          /* the interface is gone */
		return XDP_DROP;
	s->sent[way] += 1;
	s->bytes[way] += end - data;
	if (at + 1 < route->turns) {
		s->next[way] = at + 1;
	} else {
		s->next[way] = 0;
		s->sequence[way] += 1;
	}
	__u64 fraction = (__u64)s->fraction + s->interval_fraction;
	s->due += s->interval + (fraction >> 32);
	s->fraction = fraction;
	s->earliest = (s->earliest > s->now ? s->earliest : s->now) + s->spacing;
	return XDP_REDIRECT;
}

/* One packet, if one is due. Frames come back with what was in them; behind the headers nobody
 * writes, so that is the payload the loader laid into every frame. */
SEC("xdp") int transmit(struct xdp_md *ctx)
{
	struct state *s = &state;

	if (!is_due(s))
		return XDP_DROP;
	s->share += config.replies;
	if (s->share >> 32 || config.replies == 0xffffffff) {
		s->share &= 0xffffffff;
		return send(ctx, s, REPLY);
	}
	return send(ctx, s, REQUEST);
}

/* As much of the kernel's structures as is needed; the loader finds the offsets. */
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

/* Frames that a device map has handed to an interface, a few at a time; anybody's. */
SEC("tp_btf/xdp_devmap_xmit") int handed(__u64 *ctx)
{
	const struct net_device *to = (void *)ctx[1];
	int taken = ctx[2], refused = ctx[3];

	if (to->nd_net.net->ns.inum != config.namespace)
		return 0;
	for (__u32 way = REQUEST; way < WAYS; way++) {
		if (to->ifindex == (int)config.ports[way]) {
			state.accepted[way] += taken;
			state.refused[way] += refused;
		}
	}
	return 0;
}

/* A received packet, without its tunnel. */
struct packet {
	__u8 *bytes;                   /* IP header and all behind it, in scratch memory */
	__u32 *next;                   /* place of the flow that is expected next */
	__u32 length;                  /* of the transport header and all behind it */
	__u32 frame;                   /* of the whole frame */
	__u64 peer;                    /* MAC address that it came from */
	__be32 outer;                  /* low word of the tunnel's destination */
	__be32 index;                  /* of the real server, of direct: in the MAC address */
	struct stamp stamp;
	__be16 source_port, destination_port;
};

enum verdict { OTHER, RECEIVED, DUPLICATED, REORDERED, OLD, CORRUPTED, STRAYED, EARLIER };

/* Copies the packet to where offsets are known. False: nothing of ours. */
static __always_inline int fetch(struct __sk_buff *skb, struct packet *p, __u32 way)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__be16 inner = bpf_htons(config.v6 ? ETH_P_IPV6 : ETH_P_IP);
	__u32 zero = 0, at = ETH_HLEN, length;
	struct ethhdr *eth = data;

	if (data + ETH_HLEN + sizeof(struct ipv6hdr) > end)
		return 0;
	p->index = *(__be32 *)&eth->h_dest[2];
	__builtin_memcpy(&p->peer, eth->h_source, ETH_ALEN);
	if (config.tunnel && way == REQUEST) {
		__u8 protocol = config.v6 ? IPPROTO_IPV6 : IPPROTO_IPIP, found;

		if (eth->h_proto == bpf_htons(ETH_P_IP)) {
			struct iphdr *ip = data + ETH_HLEN;

			p->outer = ip->daddr;
			found = ip->protocol;
			at += ip->ihl * 4;
		} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
			struct ipv6hdr *ip6 = data + ETH_HLEN;

			p->outer = ip6->daddr.s6_addr32[3];
			found = ip6->nexthdr;
			at += sizeof(*ip6);
		} else {
			return 0;
		}
		if (found != protocol)
			return 0;
	} else if (eth->h_proto != inner) {
		return 0;
	}
	struct scratch *scratch = bpf_map_lookup_elem(&scratches, &zero);
	p->frame = skb->len;
	length = skb->len - at;
	if (!scratch || skb->len < at + 42 || length < 1 || length > LARGEST)
		return 0;
	if (bpf_skb_load_bytes(skb, at, scratch->bytes, length))
		return 0;
	p->bytes = scratch->bytes;
	p->next = &scratch->next[way & 1];
	p->length = length;
	return 1;
}

/* Reads headers and stamp. False: no packet of the data phase, whole or damaged. */
static __always_inline int parse(struct packet *p)
{
	__u32 total, at = config.v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u8 protocol;

	if (config.v6) {
		struct ipv6hdr *ip6 = (void *)p->bytes;

		total = at + bpf_ntohs(ip6->payload_len);
		protocol = ip6->nexthdr;
	} else {
		struct iphdr *ip = (void *)p->bytes;

		if (ip->ihl != 5 || ip->frag_off & bpf_htons(0x3fff))
			return 0;
		total = bpf_ntohs(ip->tot_len);
		protocol = ip->protocol;
	}
	if (total > p->length)
		return 0;
	if (config.tcp) {
		struct tcphdr *tcp = (void *)(p->bytes + at);
		__u8 *payload = (void *)(tcp + 1);

		if (protocol != IPPROTO_TCP || total < at + sizeof(*tcp) + TCP_PAYLOAD ||
		    tcp->doff != 5 || tcp->syn || tcp->fin || tcp->rst)
			return 0;
		p->source_port = tcp->source;
		p->destination_port = tcp->dest;
		p->stamp.sequence = bpf_ntohl(tcp->seq);
		p->stamp.flow = bpf_ntohl(tcp->ack_seq);
		p->stamp.time = bpf_ntohl(*(__be32 *)payload);
	} else {
		struct udphdr *udp = (void *)(p->bytes + at);
		__be32 *payload = (void *)(udp + 1);

		if (protocol != IPPROTO_UDP || total < at + sizeof(*udp) + UDP_PAYLOAD)
			return 0;
		p->source_port = udp->source;
		p->destination_port = udp->dest;
		p->stamp.flow = bpf_ntohl(payload[0]);
		p->stamp.sequence = bpf_ntohl(payload[1]);
		p->stamp.time = bpf_ntohl(payload[2]);
	}
	p->length = total - at;
	return 1;
}

static __always_inline __be16 check_of(const struct packet *p)
{
	return config.tcp ? *(__be16 *)(p->bytes + (config.v6 ? 64 : 44)) :
			    *(__be16 *)(p->bytes + (config.v6 ? 60 : 40));
}

/* Whether all checksums are right. */
static __always_inline int is_whole(struct packet *p)
{
	__u32 at = config.v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 rest = p->length, end = at + p->length;
	__be32 *words = (void *)p->bytes;
	__u64 sum = bpf_htons(config.tcp ? IPPROTO_TCP : IPPROTO_UDP);

	if (config.v6) {
		for (int i = 2; i < 10; i++)
			sum += words[i];
	} else {
		if (fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]) != 0xffff)
			return 0;
		sum += (__u64)words[3] + words[4];
	}
	sum += bpf_htons(rest);
	if (!config.tcp) {
		struct udphdr *udp = (void *)(p->bytes + at);

		if (bpf_ntohs(udp->len) != rest || !udp->check)
			return 0;
	}
	/* Summed in words of four bytes: what follows the end counts as zero. */
	if (end > LARGEST)
		return 0;
	*(__u16 *)(p->bytes + LARGEST) = 0;
	__builtin_memset(p->bytes + end, 0, 4);
	for (int i = 0; i < LARGEST / PIECE && rest; i++) {
		__u32 piece = rest < PIECE ? (rest + 3) & ~3U : PIECE;

		if (piece > PIECE || at > LARGEST - PIECE)
			return 0;
		sum += (__u32)bpf_csum_diff(0, 0, (__be32 *)(p->bytes + at), piece, 0);
		at += PIECE;
		rest -= rest < PIECE ? rest : PIECE;
	}
	return fold(sum) == 0xffff;
}

/* Whether addresses and ports are those of the flow. */
static __always_inline int is_at_home(const struct packet *p, const struct flow *flow, __u32 way)
{
	const volatile struct route *route = &config.routes[way];
	const __be32 *from = (void *)(p->bytes + (config.v6 ? 8 : 12));
	const __be32 *to = from + (config.v6 ? 4 : 1);
	__be32 source, destination;

	for (int i = 0; config.v6 && i < 3; i++)
		if (from[i] != route->source[i] || to[i] != route->destination[i])
			return 0;
	source = from[config.v6 ? 3 : 0];
	destination = to[config.v6 ? 3 : 0];
	if (way == REPLY)
		return source == route->source[3] && p->source_port == route->source_port &&
		       destination == flow->client && p->destination_port == flow->port;
	if (source != flow->client || p->source_port != flow->port ||
	    p->destination_port != route->destination_port)
		return 0;
	if (config.tunnel)
		return destination == route->destination[3] && p->outer == flow->real;
	if (config.direct)
		return destination == route->destination[3] &&
		       bpf_ntohl(p->index) == bpf_ntohl(flow->real) - config.first_real;
	return destination == flow->real;
}

/* Order and repetition. What comes more than 32 packets of its flow late can no longer be told
 * from a repetition: it is counted as reordered, and not as received, which is not proved. */
static __always_inline enum verdict order(struct flow *flow, __u32 sequence, __u32 way)
{
	enum verdict verdict;
	__u64 old, new, before;

	if ((int)(sequence - config.base[way]) <= 0)
		return EARLIER;
	/* Packets of one flow may be judged on two processors; hardly ever, so the first try does. */
	before = *(volatile __u64 *)&flow->seen;
	for (int i = 0; i < 8; i++) {
		__u32 high = before >> 32, window = before, ahead = sequence - high;

		if ((int)ahead > 0) {
			window = ahead < 32 ? window << ahead : 0;
			window |= ahead <= 32 ? 1U << (ahead - 1) : 0;
			new = (__u64)sequence << 32 | window;
			verdict = RECEIVED;
		} else {
			__u32 behind = -ahead;

			if (behind > 32)
				return OLD;
			if (!behind || window >> (behind - 1) & 1)
				return DUPLICATED;
			new = before | 1U << (behind - 1);
			verdict = REORDERED;
		}
		old = __sync_val_compare_and_swap(&flow->seen, before, new);
		if (old == before)
			break;
		before = old;
	}
	/* Two at the same moment may count as one here; it only serves to find silent flows. */
	flow->received += 1;
	return verdict;
}

static __always_inline struct flow *flow_at(__u32 place, __u32 way)
{
	return way == REPLY ? bpf_map_lookup_elem(&reply_flows, &place) :
			      bpf_map_lookup_elem(&request_flows, &place);
}

/* What is known of the packet's flow. Packets come in the order in which they are sent but for the
 * few that are late, and there the next flow lies beside this one: `places`, where any may lie
 * anywhere, would cost a wait for memory each time. */
static __always_inline struct flow *find(struct packet *p, __u32 way)
{
	struct flow *flow = flow_at(*p->next, way);

	if (!flow || flow->number != p->stamp.flow) {
		__u32 *place = bpf_map_lookup_elem(&places, &p->stamp.flow);

		if (!place)
			return 0;
		flow = flow_at(*place, way);
		*p->next = *place;
	}
	*p->next += 1;
	return flow;
}

static __always_inline enum verdict judge(struct __sk_buff *skb, struct packet *p, __u32 way)
{
	const volatile struct route *route = &config.routes[way];

	if (!fetch(skb, p, way) || !parse(p))
		return OTHER;
	if (check_of(p) != bpf_htons(stamp_check(p->stamp, config.key, way)))
		return way == REPLY ? (p->source_port == route->source_port ? CORRUPTED : OTHER) :
		       p->destination_port == route->destination_port ? CORRUPTED : OTHER;
	if (!is_whole(p))
		return CORRUPTED;
	struct flow *flow = find(p, way);
	if (!flow || !is_at_home(p, flow, way))
		return STRAYED;
	return order(flow, p->stamp.sequence, way);
}

/* Log-linear: 128 buckets for values below 128, then 64 for each power of two. */
static __always_inline __u32 bucket(__u32 value)
{
	__u32 shift = 0, top = value >> 7;

	if (top >> 16) { shift += 16; top >>= 16; }
	if (top >> 8) { shift += 8; top >>= 8; }
	if (top >> 4) { shift += 4; top >>= 4; }
	if (top >> 2) { shift += 2; top >>= 2; }
	if (top >> 1) { shift += 1; top >>= 1; }
	shift += top;
	return (shift << 6) + (value >> shift);
}

static __always_inline int sink(struct __sk_buff *skb, __u32 way)
{
	struct packet p = {};
	enum verdict verdict = judge(skb, &p, way);
	struct tally *t = bpf_map_lookup_elem(&tallies, &way);
	volatile struct heard *heard = &heards[way & 1];
	__u64 now;
	__u32 age, at;

	if (!t)
		return TC_ACT_OK;
	switch (verdict) {
	case OTHER:
		t->others += 1;
		return TC_ACT_OK;
	case DUPLICATED:
		t->duplicated += 1;
		return TC_ACT_STOLEN;
	case OLD:
		t->reordered += 1;
		return TC_ACT_STOLEN;
	case CORRUPTED:
		t->corrupted += 1;
		return TC_ACT_STOLEN;
	case STRAYED:
		t->strayed += 1;
		return TC_ACT_STOLEN;
	case EARLIER:
		t->earlier += 1;
		return TC_ACT_STOLEN;
	case REORDERED:
		t->reordered += 1;
	case RECEIVED:
		break;
	}
	now = bpf_ktime_get_boot_ns();
	if (now > heard->last + GRAIN) {
		if (now - heard->last > heard->longest) {
			heard->longest = now - heard->last;
			heard->since = heard->last;
		}
		heard->last = now;
	}
	if (heard->peer != p.peer)
		heard->peer = p.peer;
	age = (__u32)(now / TIME_UNIT) - p.stamp.time;
	if ((int)age < 0)
		age = 0;
	t->received += 1;
	t->bytes += p.frame;
	t->sum += age;
	if (t->received == 1 || age < t->least)
		t->least = age;
	if (age > t->most)
		t->most = age;
	at = bucket(age);
	if (at < BUCKETS)
		t->buckets[at] += 1;
	return TC_ACT_STOLEN;
}

/* On the real servers' side, */
SEC("tc") int sink_requests(struct __sk_buff *skb)
{
	return sink(skb, REQUEST);
}

/* and on the clients'. */
SEC("tc") int sink_replies(struct __sk_buff *skb)
{
	return sink(skb, REPLY);
}

char LICENSE[] SEC("license") = "GPL";
