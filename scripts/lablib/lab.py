"""The command `scripts/lab`."""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time

from . import balancer, net, pair_lab, topology
from .balancer import ROOT
from .methods import LO_VIPS, METHODS, Checks, document
from .report import Report
from .topology import REALS, Lab

DESCRIPTION = """
Lays a lab of network namespaces (a client, the balancer, three nginx servers, switches), starts the
real processes, and fetches pages and a large file through every forwarding method over IPv4 and IPv6.

  scripts/lab                     the whole run: set up, check, report, clean up; then two balancers,
                                  one of which loses its power under a download
  scripts/lab --json              the same, one JSON object on standard output
  scripts/lab up                  leave a lab standing; `xvip`, curl and tcpdump at will
  scripts/lab up --pair           the same with two balancers
  scripts/lab status              which labs exist
  scripts/lab exec NODE CMD...    run a command in a node: client balancer real-a real-b real-c switch
                                  (with two balancers: client lb1 lb2 real-a real-b real-c switch-a switch-b cable)
  scripts/lab down                remove standing and left-over labs
"""


def main(arguments=None):
    """Entry point; returns the exit status."""
    options = parse(arguments)
    if os.geteuid() != 0:
        sys.exit("scripts/lab: needs root: it makes network namespaces and loads an XDP program")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a script had it ignored
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        return options.function(options)
    except KeyboardInterrupt:
        print("scripts/lab: interrupted", file=sys.stderr)
        return 130
    except (net.CommandFailed, AssertionError, RuntimeError) as error:
        print(f"scripts/lab: {error}", file=sys.stderr)
        return 1


def parse(arguments):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/lab", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else on standard output")
    parser.add_argument("--no-build", action="store_true", help="use the binaries as they are")
    parser.add_argument("--queues", type=int, default=1, metavar="N",
                        help="queues of every interface, and workers (default 1)")
    parser.add_argument("--size", type=int, default=32, metavar="MIB", help="size of the large file (default 32)")
    parser.add_argument("--method", action="append", metavar="NAME", choices=sorted({m.name for m in METHODS}),
                        help="only this method (may be repeated)")
    parser.add_argument("--verbose", action="store_true", help="tracebacks of failed checks")
    parser.set_defaults(function=run, id=None)
    verbs = parser.add_subparsers(metavar="")
    for name, function, text in (
            ("up", up, "leave a lab standing"), ("down", down, "remove labs"),
            ("status", status, "list labs"), ("exec", execute, "run a command in a node")):
        verb = verbs.add_parser(name, help=text)
        verb.set_defaults(function=function)
        if name == "up":
            verb.add_argument("--pair", action="store_true", help="with two balancers")
        if name != "status":
            verb.add_argument("--id", help="which lab (default: the one standing)")
        if name == "exec":
            verb.add_argument("node", metavar="NODE")
            verb.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD")
    return parser.parse_args(arguments)


def build(options, report):
    """Packages and binaries, unless told not to."""
    if options.no_build or "XVIP_BIN_DIR" in os.environ:
        missing = balancer.missing_binaries()
        if missing:
            raise RuntimeError(f"not built: {', '.join(missing)} in {balancer.binary_directory()}")
        return
    report.line("Packages and build (scripts/setup)")
    done = subprocess.run([ROOT / "scripts" / "setup"], stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise RuntimeError("scripts/setup failed; see above")


def cores(queues):
    """One core per queue, counted from the last CPU, which is the least busy one on most machines."""
    available = sorted(os.sched_getaffinity(0), reverse=True)
    if queues > len(available):
        raise RuntimeError(f"{queues} queues need as many CPUs; this machine has {len(available)}")
    return sorted(available[:queues])


def run(options):
    """The whole run."""
    report = Report(sys.stderr if options.json else sys.stdout, options.verbose)
    methods = [m for m in METHODS if not options.method or m.name in options.method]
    build(options, report)
    lab = Lab(queues=options.queues, lo_vips=LO_VIPS)
    try:
        began = time.monotonic()
        lab.up()
        report.line(f"Lab {lab.run_id}: client, balancer, {len(REALS)} nginx servers, 2 networks; "
                    f"up in {time.monotonic() - began:.1f} s")
        checks(lab, report, methods, options)
    finally:
        cleaned = clean_up(lab)
    if not options.method:
        cleaned += two(report)
    document_ = report.document(
        lab=lab.run_id, kernel=platform.release(), queues=options.queues, problems=cleaned)
    if cleaned:
        document_["ok"] = False
    summary(report, cleaned)
    if options.json:
        print(json.dumps(document_, indent=1))
    return 0 if document_["ok"] else 1


def two(report):
    """The lab with two balancers; returns problems of its clean-up."""
    lab = pair_lab.Pair()
    try:
        lab.up()
        pair_lab.checks(lab, report)
    finally:
        cleaned = clean_up(lab)
    return cleaned


def checks(lab, report, methods, options):
    """Every check, in order."""
    lab.make_pages(options.size << 20)
    report.group("The network, without the balancer")
    report.check("servers answer directly", lambda: direct(lab))
    report.group("The balancer")
    text = document(methods, cores(options.queues))
    if not report.check("starts and is ready", lambda: start(lab, text)):
        return
    for m in methods:
        report.group(f"{m.name} {m.family}  VIP {m.vip}", method=m.name, family=m.family, vip=m.vip)
        for name, function in Checks(lab, m, options.size).all():
            report.check(name, function)
    report.group("The end")
    report.check("counters add up", lambda: counters(lab))
    report.check("orderly stop", lambda: stop(lab))


def direct(lab):
    """Client to reals on front, balancer to reals on back, both families: the lab itself works."""
    count = 0
    for node, network, port in (("client", 1, topology.HTTP), ("balancer", 2, topology.HTTP_ALT)):
        for index, real in enumerate(REALS):
            for family in topology.FAMILIES:
                host = topology.url_host(topology.address(network, 21 + index, family))
                got = lab.net.exec(node, "curl", "-sS", "--max-time", 5, f"http://{host}:{port}/whoami").strip()
                assert got == real, f"{host}:{port} from {node}: `{got}` answered, expected {real}"
                count += 1
    return {"detail": f"{count} of {count} addresses"}


def start(lab, text):
    """Starts the processes; tells what the data plane chose."""
    lab.balancer.start(text)
    lab.save_state()
    found = lab.balancer.status()
    interfaces = [f"{i['name']} {i['mode']} {i['copy']} {i['queues']} queue(s)" for i in found["interfaces"]]
    return {"detail": "; ".join(interfaces), "interfaces": found["interfaces"], "table": found["table"]}


def counters(lab):
    """What was forwarded, and that nothing was dropped for a reason that the lab cannot explain."""
    drops = {k: v for k, v in lab.balancer.drops().items() if v}
    opened = lab.balancer.events().get("conn_opened", 0)
    # Uploads through a tunnel find the path MTU by a first packet that is too big.
    allowed = {"neighbor_ignored", "icmp_unsupported", "too_big"}
    odd = {k: v for k, v in drops.items() if k not in allowed}
    assert opened > 0, "no connection was opened"
    assert not odd, f"unexpected drops: {odd}"
    return {"detail": f"{opened} connections opened, no unexpected drop", "drops": drops, "opened": opened}


def stop(lab):
    """Both processes stop when asked, and leave nothing."""
    problems = lab.balancer.stop()
    assert not problems, "; ".join(problems)
    traces = lab.balancer.traces()
    assert not traces, f"left behind: {'; '.join(traces)}"
    return {"detail": "no program, pin, file or mount left"}


def clean_up(lab):
    """Removes the lab; a second Ctrl-C must not stop that half way."""
    previous = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return lab.close()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def summary(report, problems):
    """The last lines for people."""
    held, failed = report.counts()
    report.line()
    for problem in problems:
        report.line(f"clean-up: {problem}")
    for group in report.groups:
        for check in group["checks"]:
            if not check["ok"]:
                report.line(report.paint(f"failed: {group['title']}: {check['name']}", "31"))
    report.line(f"{held + failed} checks in {time.monotonic() - report.began:.1f} s")
    report.line(f"{held} passed, {failed} failed")


# -- a lab to explore ---------------------------------------------------------------------------


def up(options):
    """Leaves a lab standing."""
    report = Report()
    build(options, report)
    if options.pair:
        lab = pair_lab.Pair(keep=True, run_id=options.id)
    else:
        lab = Lab(queues=options.queues, keep=True, lo_vips=LO_VIPS, run_id=options.id)
    try:
        lab.up()
        if options.pair:
            lab.boot()
        else:
            lab.balancer.start(document(cores=cores(options.queues)))
        lab.save_state()
    except BaseException:
        clean_up(lab)
        raise
    print(pair_lab.guide(lab) if options.pair else guide(lab))
    return 0


def guide(lab):
    """What is where, and what to try."""
    b, lines = lab.balancer, [f"Lab {lab.run_id} is up.", "", "VIPs (port 80 HTTP, port 7 UDP echo):"]
    for m in METHODS:
        lines.append(f"  {m.name:<8} {m.family}  {m.vip:<14} reals {', '.join(m.real_address(i) for i in range(3))}")
    nat = METHODS[0].vip
    lines += [
        "", f"Files: {lab.directory} (xvip.toml, pages, logs); sockets: {b.run_dir}", "", "Try:",
        f"  scripts/lab exec client curl -s http://{nat}/whoami",
        f"  scripts/lab exec balancer {balancer.binary_directory()}/xvip --instance {b.instance} status",
        f"  scripts/lab exec balancer {balancer.binary_directory()}/xvip --instance {b.instance} conns",
        "  scripts/lab exec real-a tcpdump -ni any -c 10 port 8080",
        f"  $EDITOR {b.config} && kill -HUP {b.control.pid}",
        f"  kill -9 {b.dataplane.pid}   # the data plane; then start it again, and no connection breaks:",
        f"  scripts/lab exec balancer {balancer.binary_directory()}/xvip-dataplane "
        f"--instance {b.instance} --run-dir {b.run_dir} &",
        "  scripts/lab down",
    ]
    return "\n".join(lines)


def chosen(options):
    """The state of the lab that the user means."""
    if options.id:
        found = [s for s in topology.states() if s["prefix"].endswith(f"-{options.id}")]
    else:
        found = [s for s in topology.states() if s["standing"]]
    if not found:
        sys.exit("scripts/lab: no such lab; `scripts/lab up` makes one")
    if len(found) > 1:
        names = ", ".join(s["prefix"].split("-", 1)[1] for s in found)
        sys.exit(f"scripts/lab: several labs: {names}; say which one with --id")
    return found[0]


def owner_lives(state):
    """Whether the run that made a lab is still at work on it."""
    with contextlib.suppress(OSError):
        os.kill(state["owner"], 0)
        return True
    return False


def down(options):
    """Removes standing labs, and those whose run died; never one that a live run is using."""
    problems = []
    for state in topology.states():
        mine = not options.id or state["prefix"].endswith(f"-{options.id}")
        if mine and (state["standing"] or not owner_lives(state)):
            problems += topology.remove_left_over(state)
            print(f"removed {state['prefix']}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def status(_options):
    """Lists labs."""
    for state in topology.states():
        kind = "standing" if state["standing"] else "running" if owner_lives(state) else "left over"
        made = time.strftime("%H:%M:%S", time.localtime(state["made"]))
        print(f"{state['prefix']:<24} {kind:<10} since {made}  files {state['directory']}")
    return 0


def execute(options):
    """Runs a command in a node of a standing lab."""
    state = chosen(options)
    namespace = net.NETNS / f"{state['prefix']}-{options.node}"
    if not namespace.exists():
        nodes = [p.name.removeprefix(f"{state['prefix']}-") for p in net.NETNS.glob(f"{state['prefix']}-*")]
        sys.exit(f"scripts/lab: no node `{options.node}`; there are: {' '.join(sorted(nodes))}")
    command = options.command or ["bash"]
    os.execvp("nsenter", ["nsenter", f"--net={namespace}", *command])


if __name__ == "__main__":
    sys.exit(main())
