"""The end-to-end tests: real processes, real kernels on both sides, independent judges."""

from . import (badpackets, behaviour, fragments, hostile, icmp, interfaces, kernel, multiqueue, pktgen,
               privileges, reload, reply, restart, serving)

GROUPS = [kernel.Kernel, behaviour.Behaviour, badpackets.BadPackets, icmp.Icmp, fragments.Fragments,
          multiqueue.MultiQueue, reload.Reload, interfaces.Interfaces, reply.Reply, restart.Restart,
          serving.Serving, privileges.Privileges, *hostile.GROUPS, pktgen.Pktgen]
