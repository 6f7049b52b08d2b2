/* What a packet carries (src/stamp.rs has the table), and its check. Numbers in host order. */
#pragma once
#include <linux/types.h>

#define TIME_UNIT 16                   /* nanoseconds of one unit of `time` */
#define TCP_PAYLOAD 6                  /* bytes of payload that hold a stamp */
#define UDP_PAYLOAD 14

enum way { REQUEST, REPLY, WAYS };

struct stamp {
	__u32 flow, sequence, time;
};

static __always_inline __u16 stamp_check(struct stamp s, __u32 key, __u32 way)
{
	__u32 mix = key ^ s.flow * 0x9e3779b1;

	mix = (mix ^ mix >> 15) * 0x85ebca77 ^ s.sequence;
	mix = (mix ^ mix >> 13) * 0xc2b2ae3d ^ s.time;
	mix = (mix ^ mix >> 16) * 0x27d4eb2f ^ way;
	mix = (mix ^ mix >> 15) * 0x165667b1;
	return mix >> 16 ^ mix;
}
