/* What the steering program and its loader (src/steer.rs) both know: the maps. Addresses are 16
 * bytes in network order, IPv4 mapped (::ffff:a.b.c.d); ports and numbers are in host order. */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SLOTS 16               /* limits::INTERFACES */
#define QUEUES 64              /* limits::WORKERS */
#define EXTENSIONS 8           /* limits::EXTENSION_HEADERS */
#define REACH 1024             /* headers further into a packet are not looked for */
#define RANGES 8               /* port ranges of one endpoint */
#define PROBE_FIRST 960        /* ports that probes of a VIP are sent from: limits::PROBE_PORT */
#define PROBE_LAST 1023
#define FLOWS 65536            /* connections of the kernel that are remembered */

/* What an address is. */
#define VIP 1                  /* clients connect to it */
#define REAL 2                 /* a real server */
#define LOCAL 4                /* a source address of full NAT */
#define HOST 8                 /* the kernel's own */
#define GATEWAY 16             /* answered for; nobody connects to it */
#define OWNED (VIP | LOCAL | GATEWAY)

struct address {
	__be32 word[4];
};
#define MAPPED(v4) ((struct address){ { 0, 0, bpf_htonl(0xffff), v4 } })
#define SAME(a, b)                                                                               \
	((a).word[0] == (b).word[0] && (a).word[1] == (b).word[1] &&                             \
	 (a).word[2] == (b).word[2] && (a).word[3] == (b).word[3])

/* Value of `addresses`. */
struct about {
	__u32 flags;
	__u16 first, last;     /* ports of full NAT, of LOCAL */
};

/* Key of `endpoints`. Port 0 stands for the ports without an entry of their own, port and protocol
 * 0 for fragments, which tell neither. */
struct endpoint {
	struct address address;
	__u16 port;
	__u8 protocol;
	__u8 role;             /* VIP: packets to it; REAL: packets from it */
};

/* Part of a value in `endpoints`, where the first range that contains the port decides. */
struct range {
	__u16 first, last;     /* inclusive */
	__u16 owner;
};

/* Whose the packets to a port are. */
enum owner {
	KERNEL,
	OURS,
	SORRY,                 /* ours, but new connections of TCP are the kernel's */
	SHARED,                /* ours, but for connections that the kernel still has */
};

/* A connection that the kernel was given. */
struct flow {
	struct address client, vip;
	__u16 client_port, vip_port;
};

#define MAP(name, kind, count, k, v)                                                             \
	struct {                                                                                 \
		__uint(type, BPF_MAP_TYPE_##kind);                                               \
		__uint(max_entries, count);                                                      \
		__type(key, k);                                                                  \
		__type(value, v);                                                                \
	} name SEC(".maps")

MAP(xsks, XSKMAP, SLOTS *QUEUES, __u32, __u32);           /* slot * QUEUES + queue -> socket */
MAP(slots, HASH, 64, __u32, __u32);                       /* ifindex -> slot */
MAP(addresses, HASH, 16384, struct address, struct about);
MAP(endpoints, HASH, 40960, struct endpoint, struct range[RANGES]);
MAP(flows, LRU_HASH, FLOWS, struct flow, __u64);          /* last packet, in ns since boot */
MAP(stats, PERCPU_ARRAY, XDP_REDIRECT + 1, __u32, __u64); /* XDP action -> packets */

char LICENSE[] SEC("license") = "GPL";
