"""Runs the end-to-end tests; the command `scripts/e2e`."""

import argparse
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import sys
import time
import traceback

from .. import balancer, lab as lab_command
from . import GROUPS


def main():
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/e2e", description="End-to-end tests in network namespaces.")
    parser.add_argument("-k", metavar="PATTERN", default="",
                        help="only tests whose `group: name` matches this regular expression")
    parser.add_argument("--list", action="store_true", help="names of the tests")
    parser.add_argument("--no-build", action="store_true", help="use the binaries as they are")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="groups that run side by side (1)")
    parser.add_argument("--groups", choices=("all", "prompt", "patient"), default="all",
                        help="only groups that want a machine with nothing else to do, or only the others")
    parser.add_argument("--logs", action="store_true", help="keep each failed test's lab directory")
    options = parser.parse_args()
    chosen = [(g, [t for t in g.tests() if re.search(options.k, title(g, t))]) for g in GROUPS
              if options.groups in ("all", "prompt" if g.prompt else "patient")]
    chosen = [(g, tests) for g, tests in chosen if tests]
    if options.list:
        print("\n".join(title(g, t) for g, tests in chosen for t in tests))
        return 0
    if os.geteuid() != 0:
        sys.exit("scripts/e2e: needs root: it makes network namespaces and loads an XDP program")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    options.verbose = options.json = False
    try:
        lab_command.build(options, Progress)
    except RuntimeError as error:
        sys.exit(f"scripts/e2e: {error}")
    return report(chosen, max(1, options.jobs))


class Progress:
    """Lines of the build step."""

    @staticmethod
    def line(text):
        """Prints it."""
        print(text, flush=True)


def title(group, test):
    """A test's name for people."""
    return f"{group.__name__.lower()}: {test.replace('_', ' ')}"


def report(chosen, jobs):
    """Runs the groups and prints the closing lines."""
    began, passed, failed = time.monotonic(), 0, []
    try:
        for title_of_one, problem in side_by_side(chosen, jobs) if jobs > 1 else one_by_one(chosen):
            if problem is None:
                passed += 1
            else:
                failed.append(title_of_one)
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    print()
    for name in failed:
        print(f"FAILED {name}")
    print(f"{time.monotonic() - began:.0f} s")
    print(f"{passed} passed, {len(failed)} failed")
    return 0 if passed and not failed else 1


def one_by_one(chosen):
    """Yields (title, None or the problem) of each test."""
    for group, tests in chosen:
        for name, problem in run_group(group, tests):
            yield title(group, name), problem


def side_by_side(chosen, jobs):
    """The same, each group in a process of its own, so many at once: tests wait more than they work."""
    waiting, running = list(reversed(chosen)), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                group, tests = waiting.pop()
                ours, theirs = multiprocessing.Pipe(duplex=False)
                process = multiprocessing.Process(target=in_child, args=(group, tests, theirs))
                process.start()
                theirs.close()
                running[ours] = (group, list(tests), process)
            for pipe in multiprocessing.connection.wait(running):
                group, left, process = running[pipe]
                try:
                    name, problem = pipe.recv()
                    left.remove(name)
                    yield title(group, name), problem
                except EOFError:
                    del running[pipe]
                    process.join()
                    for name in left:
                        print(f"FAILED {title(group, name)}: its process ended with {process.exitcode}", flush=True)
                        yield title(group, name), "not run"
    finally:
        # Each cleans up behind itself.
        for _, _, process in running.values():
            process.terminate()
        for _, _, process in running.values():
            process.join()


def in_child(group, tests, pipe):
    """Runs a group and tells its results."""
    with pipe:
        for result in run_group(group, tests):
            pipe.send(result)


def run_group(group, tests):
    """Yields (test, None or the problem in words) for each test, all in one lab."""
    lab = group.make_lab()
    try:
        setup_problem = None
        try:
            lab.up()
            lab.save_state()
        except Exception:  # noqa: BLE001 - told for every test of the group
            setup_problem = traceback.format_exc()
        for name in tests:
            began = time.monotonic()
            problem = setup_problem or run_test(group(lab), name)
            mark = "ok    " if problem is None else "FAILED"
            text = f"{mark} {title(group, name)} ({time.monotonic() - began:.1f} s)\n"
            if problem is not None:
                text += "    " + problem.strip().replace("\n", "\n    ") + "\n"
            # In one piece: other groups may be writing too.
            print(text, end="", flush=True)
            yield name, problem
    finally:
        for problem in lab_command.clean_up(lab):
            print(f"clean-up: {problem}", file=sys.stderr)


def run_test(group, name):
    """Runs one test; leaves the lab as it was. Returns the problem in words, or None."""
    function = getattr(group, name)
    problem = None
    try:
        if getattr(function, "own_balancer", False):
            reset(group)
        elif not usable(group):
            reset(group)
            group.start()
        function()
        group.balancer.alive()
    except Exception as error:  # noqa: BLE001 - a failed test must not stop the others
        problem = explain(group, error)
    if problem is not None or getattr(function, "own_balancer", False):
        try:
            reset(group)
        except Exception as error:  # noqa: BLE001
            problem = (problem or "") + f"\nand the lab could not be put right: {error}"
    return problem


def usable(group):
    """Whether the balancer of the test before can serve this one."""
    if not group.balancer.processes():
        return False
    try:
        group.balancer.alive()
        return group.balancer.ready()
    except Exception:  # noqa: BLE001
        return False


def reset(group):
    """No balancer, no traces, both interfaces as they were at first, no cached neighbours."""
    group.balancer.stop()
    for problem in group.balancer.sweep():
        raise AssertionError(problem)
    group.lab.restore_links()
    for process in [p for p in group.net.processes if not p.alive()]:
        group.net.processes.remove(process)


def explain(group, error):
    """The failure, where it was, and the ends of the logs."""
    frames = traceback.extract_tb(error.__traceback__)
    here = next((f for f in reversed(frames) if "/e2e/" in f.filename and "runner" not in f.filename), None)
    place = f"{os.path.basename(here.filename)}:{here.lineno}: " if here else ""
    lines = [f"{place}{type(error).__name__}: {error}"]
    for process in group.balancer.processes():
        state = "alive" if process.alive() else f"ended with {process.popen.returncode}"
        lines += [f"--- {process.name} ({state})", process.tail(8)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
