"""The end-to-end tests: real processes, real kernels on both sides, independent judges."""

from . import (badpackets, behaviour, checks_text, checks_wire, fragments, health, hostile, icmp, interfaces,
               kernel, live, multiqueue, operate, pair, pair_faults, pktgen,
               privileges, reload, reply, restart, serving, telling)

GROUPS = [kernel.Kernel, behaviour.Behaviour, badpackets.BadPackets, icmp.Icmp, fragments.Fragments,
          multiqueue.MultiQueue, reload.Reload, interfaces.Interfaces, reply.Reply, restart.Restart,
          serving.Serving, health.Health, operate.Operate, telling.Telling, live.Live, privileges.Privileges,
          pair.Pair, pair_faults.PairFaults,
          *hostile.GROUPS, pktgen.Pktgen, checks_text.ChecksText, checks_wire.ChecksWire]
