"""The end-to-end tests: real processes, real kernels on both sides, independent judges."""

from . import (badpackets, behaviour, checks_text, checks_wire, fragments, health, hostile, icmp, interfaces,
               kernel, live, multiqueue, operate, pair, pair_faults, pktgen,
               privileges, reload, reply, restart, serving, telling)

# The longest first: with `--jobs` no long one is left for the end. But the operators before: they
# measure what a listing holds up, which the generator would too.
GROUPS = [hostile.Operators, pair.Pair, pair_faults.PairFaults, health.Health, pktgen.Pktgen,
          operate.Operate, restart.Restart, *hostile.GROUPS, telling.Telling, serving.Serving, reload.Reload,
          behaviour.Behaviour, checks_text.ChecksText, interfaces.Interfaces, reply.Reply, multiqueue.MultiQueue,
          badpackets.BadPackets, fragments.Fragments, checks_wire.ChecksWire, live.Live, kernel.Kernel,
          icmp.Icmp, privileges.Privileges]
