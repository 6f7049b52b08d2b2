/* What the programs of the data phase and their loader (src/bpf/layout.rs) both know: the maps.
 * Sums are plain sums of 16-bit words as they lie in memory, not complemented. */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "stamp.h"

#define SIZES 16                       /* sizes of frames sent in turn */
#define HEAD 80                        /* headers and stamp, of any family and protocol */
#define GRAIN 100000                   /* nanoseconds; so seldom is shared memory written */
#define BUCKETS 1792                   /* of the histogram: 7 significant bits of 32 */

/* One size of frames. */
struct size {
	__u32 frame;                   /* bytes without the check sequence */
	__be16 ip, udp;                /* lengths in the headers */
	__u32 ip_sum, sum;             /* of what does not change from packet to packet */
};

/* One way of the traffic. */
struct route {
	__u32 head[HEAD / 4];          /* start of every frame; zero where a packet differs */
	struct size sizes[SIZES];
	__u32 turns;                   /* entries of its map of turns; 0: not sent from here */
	/* What the receiver expects in packets of all flows. */
	__be32 source[4], destination[4];      /* IPv4: in the last word; last word 0: any */
	__be16 source_port, destination_port;  /* 0: any */
};

/* Set before loading. */
struct config {
	struct route routes[WAYS];
	__u32 key;
	__u32 sizes;                   /* how many are used */
	__u32 base[WAYS];              /* highest sequence number of the phase before */
	__u32 replies;                 /* share of packets, in units of 2^-32; all ones: all */
	__u32 first_real;              /* low word of the first real server's address */
	__u8 v6, tcp;                  /* of the packets inside */
	__u8 tunnel, direct;           /* how requests arrive */
	__u32 ports[WAYS];             /* where frames leave; 0: nowhere */
	__u32 namespace;               /* in which these numbers are valid */
};

/* One flow in one way as it is sent: low words of the addresses, and ports. */
struct turn {
	__u32 flow;
	__be32 source, destination;
	__be16 source_port, destination_port;
};

/* One flow in one way as it is received; in the order in which the flows are sent, so that the next
 * packet's lies beside this one's. */
struct flow {
	__u64 seen;                    /* highest number << 32 | which of the 32 before it came */
	__u32 received;
	__be32 client, real;           /* low words: the far end as the real server sees it; its own */
	__u32 number;                  /* of the flow */
	__be16 port;                   /* of that far end */
	__u16 unused[3];
};

/* Pace and progress of the sender; times in nanoseconds of CLOCK_MONOTONIC. */
struct state {
	__u64 due;                     /* when the next packet is */
	__u64 end;                     /* nothing is due from then on */
	__u64 interval;
	__u64 earliest;                /* the next packet, if many wait: keeps off bursts */
	__u64 spacing, burst;          /* nanoseconds between such packets; of packets at once */
	__u64 now;                     /* as last read */
	__u32 fraction, interval_fraction;     /* of nanoseconds, in units of 2^-32 */
	__u32 next[WAYS], sequence[WAYS], size[WAYS];
	__u64 share;
	__u64 sent[WAYS];
	__u64 bytes[WAYS];             /* of frames without the check sequence */
	__u64 accepted[WAYS];          /* by the interface */
	__u64 refused[WAYS];
};

/* Where the frames of one way go: it may move meanwhile. In the first six bytes, as on the wire. */
struct next_hop {
	__u64 mac;
};

/* When nothing came, of one way; times in nanoseconds of CLOCK_MONOTONIC. */
struct heard {
	__u64 last;                    /* when something did, GRAIN late at most */
	__u64 longest, since;          /* silence, and when it began */
	__u64 peer;                    /* MAC address of who sent last, as in struct next_hop */
};

/* What was received in one way. */
struct tally {
	__u64 received, bytes, duplicated, reordered, corrupted, strayed;
	__u64 earlier;                 /* of an earlier phase */
	__u64 others;                  /* not ours: left to the kernel */
	__u64 sum, least, most;        /* of latency in units of TIME_UNIT */
	__u64 buckets[BUCKETS];
};
