/* Which packets are the data plane's? All else, and anything odd, is the kernel's. Ours goes to the
 * AF_XDP socket of its interface and queue. If that is gone (the data plane died), it is dropped,
 * never passed: the kernel would reset the connections that the next data plane adopts. */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "steer.h"

/* RESOLVE: ARP request, neighbour solicitation. CLAIM: ARP reply, neighbour advertisement. PIECE: a
 * fragment but the first. ODD: what follows the addresses is cut off or makes no sense. From ECHO on, all
 * that is sent to a VIP is ours. */
enum kind { OTHER, RESOLVE, CLAIM, PORTS, ECHO, ERROR, PIECE, ODD };

struct packet {
	struct endpoint from, to;      /* ports and protocol: of PORTS only; RESOLVE: to the target;
					* CLAIM: from what is claimed */
	enum kind kind;
	__u32 at;                      /* offset of the next header */
	__u8 protocol;                 /* of the next header */
};

/* `size` bytes at `at`, or 0 if the packet ends before. */
static __always_inline void *bytes(struct xdp_md *ctx, __u32 at, __u32 size)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (at > REACH)
		return 0;
	return data + at + size > end ? 0 : data + at;
}

/* Reads the packet of this Ethernet type at `p->at`. False if not even its addresses are there.
 * ARP: RFC 826. ICMP errors: RFC 792, RFC 4443 section 2.1. Neighbour solicitation: RFC 4861. */
static __noinline int parse(struct xdp_md *ctx, __be16 type, struct packet *p,
			    struct endpoint *from, struct endpoint *to)
{
	__u8 *next, icmp, error, fragment, v6 = type == bpf_htons(ETH_P_IPV6);
	struct iphdr *ip = bytes(ctx, p->at, sizeof(*ip));
	struct ipv6hdr *ip6 = v6 ? bytes(ctx, p->at, sizeof(*ip6)) : 0;
	__be16 *head = type == bpf_htons(ETH_P_ARP) ? bytes(ctx, p->at, 28) : 0;

	p->kind = OTHER;
	if (ip6 && ip6->version == 6) {
		from->address = *(struct address *)&ip6->saddr;
		to->address = *(struct address *)&ip6->daddr;
		p->protocol = ip6->nexthdr;
		p->at += sizeof(*ip6);
	} else if (type == bpf_htons(ETH_P_IP) && ip && ip->version == 4) {
		from->address = MAPPED(ip->saddr);
		to->address = MAPPED(ip->daddr);
		p->protocol = ip->protocol;
		p->at += ip->ihl * 4;
		p->kind = ip->ihl < 5 ? ODD : ip->frag_off & bpf_htons(0x1fff) ? PIECE : OTHER;
	} else if (head && head[0] == bpf_htons(1) && head[1] == bpf_htons(ETH_P_IP) &&
		   head[2] == bpf_htons(0x0604) &&
		   (head[3] == bpf_htons(1) || head[3] == bpf_htons(2))) {
		from->address = MAPPED(*(__be32 *)&head[7]);
		to->address = MAPPED(*(__be32 *)&head[12]);
		p->kind = head[3] == bpf_htons(1) ? RESOLVE : CLAIM;
	} else {
		return 0;
	}
	for (int i = 0; v6 && p->kind == OTHER; i++) {
		fragment = p->protocol == IPPROTO_FRAGMENT;
		if (!fragment && p->protocol != IPPROTO_HOPOPTS &&
		    p->protocol != IPPROTO_ROUTING && p->protocol != IPPROTO_DSTOPTS)
			break;
		next = bytes(ctx, p->at, 8);
		p->kind = ODD;
		if (!next || i == EXTENSIONS)
			return 1;
		p->kind = fragment && (next[2] || next[3] & 0xf8) ? PIECE : OTHER;
		p->at += fragment ? 8 : 8 + 8 * next[1];
		p->protocol = next[0];
	}
	if (p->kind != OTHER)
		return 1;
	head = bytes(ctx, p->at, 8);
	icmp = head ? *(__u8 *)head : 0;
	if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) {
		p->kind = head ? PORTS : ODD;
		from->protocol = to->protocol = p->protocol;
		from->port = head ? bpf_ntohs(head[0]) : 0;
		to->port = head ? bpf_ntohs(head[1]) : 0;
	} else if (p->protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		error = v6 ? icmp >= 1 && icmp <= 4 : icmp == 3 || icmp == 11 || icmp == 12;
		p->kind = !head ? ODD : error ? ERROR : icmp == (v6 ? 128 : 8) ? ECHO : OTHER;
		head = bytes(ctx, p->at + 8, sizeof(struct address));
		if (v6 && icmp == 135 && head) {
			to->address = *(struct address *)head;
			p->kind = RESOLVE;
		} else if (v6 && icmp == 136 && head) {
			from->address = *(struct address *)head;
			p->kind = CLAIM;
		}
	}
	return 1;
}

static __always_inline struct about about(const struct endpoint *endpoint)
{
	struct about *about = bpf_map_lookup_elem(&addresses, &endpoint->address);

	return about ? *about : (struct about){};
}

/* Whose packets of this endpoint in this role are. */
static __noinline int listed(const struct endpoint *endpoint, __u8 role)
{
	struct endpoint key = *endpoint;

	key.role = role;
	struct range *range = bpf_map_lookup_elem(&endpoints, &key);
	key.port = 0;
	if (!range)
		range = bpf_map_lookup_elem(&endpoints, &key);
	for (int i = 0; range && i < RANGES; i++, range++)
		if (range->first <= endpoint->port && endpoint->port <= range->last)
			return range->owner;
	return KERNEL;
}

/* Whether a packet of these ends belongs to a connection that the kernel has. */
static __noinline int with_kernel(const struct endpoint *client, const struct endpoint *vip)
{
	struct flow flow = { client->address, vip->address, client->port, vip->port };
	__u64 *seen = bpf_map_lookup_elem(&flows, &flow);

	if (seen)
		*seen = bpf_ktime_get_boot_ns();
	return !!seen;
}

/* Whether a packet to a port is the kernel's. Its first one decides where a connection stays. */
static __noinline int kernels(struct xdp_md *ctx, const struct packet *p, int owner)
{
	struct flow flow = { p->from.address, p->to.address, p->from.port, p->to.port };
	__u8 *tcp = bytes(ctx, p->at, 14);
	__u64 now = bpf_ktime_get_boot_ns();

	if (owner < SORRY)
		return owner == KERNEL;
	if (!tcp || (tcp[13] & 0x12) != 2)                             /* SYN, no ACK */
		return with_kernel(&p->from, &p->to);
	if (owner == SORRY)
		return !bpf_map_update_elem(&flows, &flow, &now, BPF_ANY);
	bpf_map_delete_elem(&flows, &flow);
	return 0;
}

static __always_inline int is_ours(struct xdp_md *ctx)
{
	struct packet p = { .at = ETH_HLEN };
	struct ethhdr *eth = bytes(ctx, 0, ETH_HLEN);
	__be16 type = eth ? eth->h_proto : 0;

	if (!parse(ctx, type, &p, &p.from, &p.to))
		return 0;
	struct about us = about(&p.to);
	/* An answer that the kernel has asked for is its own, whoever it is about. */
	if (p.kind == RESOLVE || p.kind == CLAIM)
		return (p.kind == RESOLVE && us.flags & OWNED) ||
		       (about(&p.from).flags & OWNED && (us.flags & OWNED || !(us.flags & HOST)));
	if (us.flags & GATEWAY && p.kind == ECHO)
		return 1;
	if (us.flags & VIP && p.kind == ERROR) {        /* goes with what it quotes */
		p.at += 8;
		return !parse(ctx, type, &p, &p.to, &p.from) || p.kind != PORTS ||
		       listed(&p.to, VIP) < SORRY || !with_kernel(&p.from, &p.to);
	}
	if (us.flags & VIP && (p.kind == PORTS ? !kernels(ctx, &p, listed(&p.to, VIP)) :
						 p.kind >= ECHO))
		return 1;
	int error = p.kind == ERROR, v6 = type == bpf_htons(ETH_P_IPV6);
	struct address to = p.to.address;
	if (bpf_ntohl(to.word[v6 ? 0 : 3]) >= (v6 ? 0xff000000 : 0xe0000000))   /* multicast */
		return 0;
	p.at += 8;             /* an error is judged as a reply to what it quotes */
	if (error && (!parse(ctx, type, &p, &p.to, &p.from) || !SAME(to, p.to.address)))
		return 0;
	if (error && (p.protocol == IPPROTO_IPIP || p.protocol == IPPROTO_IPV6))
		return us.flags & HOST && about(&p.from).flags & REAL;         /* our tunnel */
	if (us.flags & HOST && p.kind == PORTS && p.protocol == IPPROTO_TCP &&
	    p.to.port >= PROBE_FIRST && p.to.port <= PROBE_LAST)
		return about(&p.from).flags & VIP;              /* answers one of our probes */
	if ((p.kind != PORTS && (p.kind != PIECE || error)) ||
	    (us.flags & (VIP | HOST) && !(us.flags & LOCAL)) || !(about(&p.from).flags & REAL))
		return 0;
	if (us.flags & LOCAL)
		return p.kind == PIECE || (us.first <= p.to.port && p.to.port <= us.last);
	return listed(&p.from, REAL);
}

SEC("xdp") int steer(struct xdp_md *ctx)
{
	__u32 ifindex = ctx->ingress_ifindex, queue = ctx->rx_queue_index, action = XDP_PASS;

	if (is_ours(ctx)) {
		__u32 *slot = bpf_map_lookup_elem(&slots, &ifindex);
		action = slot && queue < QUEUES ?
			 bpf_redirect_map(&xsks, *slot * QUEUES + queue, XDP_DROP) : XDP_DROP;
	}
	__u64 *count = bpf_map_lookup_elem(&stats, &action);
	if (count)
		*count += 1;
	return action;
}
