"""Whatever the processes are given, forwarding goes on, and what is wrong is said in words."""

import contextlib
import copy
import ctypes
import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

from .. import methods, net
from ..balancer import binary_directory
from .support import (Downloads, Group, Held, document, expect, method, own_balancer, topology, topology_cores, wait,
                      web)

MIB = 1 << 20
LINE_MAX = 4 * MIB
SYS_TGKILL = {"x86_64": 234, "aarch64": 131}[os.uname().machine]


class Session:
    """A session on a line-by-line socket."""

    def __init__(self, path, seconds=15, greet=True):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(seconds)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rb")
        if greet:
            self.ask({"request": "hello", "version": 1})

    def ask(self, request):
        """Sends an object, or bytes as they are; returns the reply, or None if there is none."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n")
        return self.reply()

    def reply(self):
        """The next reply, or None if the other side has ended the session."""
        try:
            line = self.file.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line else None

    def error(self, request):
        """The message of a refusal."""
        reply = self.ask(request)
        expect(reply is not None and reply["reply"] == "error", f"not refused: {str(reply)[:200]}")
        return reply["message"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()


def memory(process):
    """Resident memory in bytes."""
    text = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")) * 1024


def descriptors(process):
    """How many descriptors it has open."""
    return len(list(pathlib.Path(f"/proc/{process.pid}/fd").iterdir()))


class Base(Group):
    """What the groups below share; no tests of its own."""

    def text(self):
        return self._text(web({"a": 1, "b": 1, "c": 1}))

    @staticmethod
    def _text(*services, **more):
        return document(list(services), ["front0", "back0"], topology_cores(1), methods.LOCAL, lease="2s", **more)

    def _session(self, **options):
        return Session(self.balancer.run_dir / "agent.sock", **options)

    def _snapshot(self):
        return json.loads((self.balancer.run_dir / "state.json").read_text())["snapshot"]

    def _workers(self):
        return [w["tid"] for w in self.balancer.status()["workers"]]

    def _refused(self, words, seconds=20):
        """Waits until control's status tells that the data plane refused, in these words."""
        def told():
            return words in (self.balancer.ask("status")["agent"]["refused"] or "")
        wait.until(told, f"status tells `{words}`", seconds, 0.2)

    def _dataplane_command(self, run_dir=None):
        return [binary_directory() / "xvip-dataplane", "--instance", self.balancer.instance,
                "--run-dir", run_dir or self.balancer.run_dir]

    def _start_dataplane(self, *prefix):
        """Starts the data plane behind another command (prlimit, unshare, sh)."""
        self.balancer.starts += 1
        name = f"dataplane-{self.balancer.starts}"
        self.balancer.dataplane = self.net.start("balancer", name, [*prefix, *self._dataplane_command()])
        return self.balancer.dataplane

    def _fails_to_start(self, *words, prefix=(), run_dir=None):
        """The data plane ends by itself, says why, and leaves nothing."""
        self.balancer.starts += 1
        command = [*prefix, *self._dataplane_command(run_dir)]
        process = self.net.start("balancer", f"dataplane-{self.balancer.starts}", command)
        wait.until(lambda: not process.alive(), "the data plane gives up", 10)
        expect(process.popen.returncode == 1, f"exit {process.popen.returncode}: {process.tail()}")
        for word in words:
            expect(word in process.tail(), f"`{word}` is not in: {process.tail()}")
        self.net.processes.remove(process)


class Agent(Base):
    """The agent socket."""

    def other_users_cannot_open_the_agent_socket(self):
        program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        done = subprocess.run([topology.PYTHON, "-c", program, str(self.balancer.run_dir / "agent.sock")],
                              user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False)
        expect("PermissionError" in done.stderr, f"exit {done.returncode}: {done.stderr}")

    def nonsense_is_refused_in_bounded_memory_and_no_download_notices(self):
        downloads, workers = Downloads(self, 20).all_begun(), self._workers()
        before = memory(self.balancer.dataplane)
        hello = {"request": "hello", "version": 1}
        for line, words in (
                (b"\x00\xff\xfe garbage\n", "not a request"),
                (b"[" * 100_000 + b"\n", "not a request"),
                (b'{"request":"lease","ttl_ms":1e999999999,"epoch":1}\n', "not a request"),
                (b'{"request":"lease","ttl_ms":' + b"9" * 1_000_000 + b',"epoch":1}\n', "not a request"),
                (b'{"request":"lease","ttl_ms":-1,"epoch":1}\n', "not a request"),
                ({"request": "conns", "cursor": 0, "limit": 0}, "limit"),
                ({"request": "conns", "cursor": 0, "limit": 1_000_000}, "limit"),
                ({"request": "frobnicate"}, "not a request")):
            with self._session() as session:
                expect(words in session.error(line), f"{str(line)[:40]} is not refused for what it is")
                expect(session.ask(hello)["reply"] == "hello", "the session ended")
        with self._session() as session:
            last = session.ask({"request": "conns", "cursor": 2**64 - 1, "limit": 1000})
            expect(last["reply"] == "conns" and not last["conns"], f"{last}")
        with self._session(greet=False) as session:
            session.ask({"request": "hello", "version": 99})
            expect("version 1" in session.error({"request": "status"}), "another version was served")
        with self._session() as session:  # a line without end
            with contextlib.suppress(OSError):
                for _ in range(1024):
                    session.socket.sendall(b"x" * MIB)
                raise AssertionError("a line of 1 GiB was taken")
        for _ in range(20):  # a client that dies in the middle of a line
            with self._session() as session:
                session.socket.sendall(b'{"request":"apply","snapshot":{')
        grown = memory(self.balancer.dataplane) - before
        expect(grown < 64 * MIB, f"memory grew by {grown >> 20} MiB")
        expect(self._workers() == workers, "workers were replaced")
        downloads.all_finished()

    def clients_that_stall_are_dropped_and_control_keeps_its_lease(self):
        lowest = [10**9]
        over = threading.Event()

        def watch():
            while not over.wait(0.2):
                with contextlib.suppress(net.CommandFailed):
                    lowest[0] = min(lowest[0], self.balancer.status()["lease_ms"])

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            crowd = [self._session(greet=False) for _ in range(100)]
            turned_away = sum("sessions are open" in str(s.reply()) for s in crowd[-80:])
            expect(turned_away == 80, f"only {turned_away} of 80 were turned away")
            for session in crowd[:4]:  # a byte now and then does not keep a place
                threading.Thread(target=self._drip, args=(session, over), daemon=True).start()

            def places():
                with contextlib.suppress(OSError, TypeError), self._session(seconds=2) as session:
                    return session.ask({"request": "status"})["reply"] == "status"
            wait.until(places, "there is a place again", 25, 0.5)
            with self._session() as session:  # asks, and never reads
                session.socket.settimeout(20)
                with contextlib.suppress(OSError):
                    for _ in range(1_000_000):
                        session.socket.sendall(b'{"request":"status"}\n' * 100)
                    raise AssertionError("a client that never reads was served for ever")
            for session in crowd:
                session.__exit__()
        finally:
            over.set()
            watcher.join()
        expect(lowest[0] > 0, "the lease ran out")
        self.works()

    @staticmethod
    def _drip(session, over):
        with contextlib.suppress(OSError):
            while not over.wait(1):
                session.socket.sendall(b" ")

    def snapshots_that_cannot_be_are_refused_and_change_nothing(self):
        good = self._snapshot()
        state = (self.balancer.run_dir / "state.json").read_bytes()
        downloads, workers = Downloads(self, 20).all_begun(), self._workers()

        def reals(count):
            return [{"name": "r", "address": f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"} for n in range(count)]
        service = good["services"][0]
        for words, change in (
                ("cores", lambda s: s["engine"].update(cores=[])),
                ("cores", lambda s: s["engine"].update(cores=list(range(1000)))),
                ("connections", lambda s: s["engine"].update(connections=0)),
                ("connections", lambda s: s["engine"].update(connections=2**32 - 1)),
                ("frames", lambda s: s["engine"].update(frames=0)),
                ("frames", lambda s: s["engine"].update(frames=2**32 - 1)),
                ("half_open_percent", lambda s: s["engine"].update(half_open_percent=255)),
                ("interfaces", lambda s: s.update(interfaces=[{"name": f"e{n}"} for n in range(1000)])),
                ("twice", lambda s: s.update(interfaces=[{"name": "front0"}] * 2)),
                ("interface", lambda s: s["interfaces"][0].update(name="../../etc")),
                ("name", lambda s: s["services"][0].update(name="")),
                ("name", lambda s: s["services"][0].update(name="x" * 100_000)),
                ("twice", lambda s: s["services"].append(copy.deepcopy(service))),
                ("real servers", lambda s: s["services"][0].update(reals=reals(70_000))),
                ("twice", lambda s: s["services"][0].update(reals=reals(1) * 2)),
                ("host", lambda s: s["services"][0].update(listen=["224.0.0.1:80"])),
                ("host", lambda s: s["services"][0].update(listen=["255.255.255.255:80"])),
                ("overlaps", lambda s: s["services"].append({**service, "name": "other"})),
                ("overlaps", lambda s: s["services"][0].update(listen=["10.9.9.9:1-9", "10.9.9.9:9-12"])),
                ("timeouts", lambda s: s["timeouts"].update(established=0)),
                ("timeouts", lambda s: s["timeouts"].update(established=2**32 - 1))):
            bad = copy.deepcopy(good)
            change(bad)
            with self._session() as session:
                line = json.dumps({"request": "apply", "snapshot": bad}, separators=(",", ":")).encode() + b"\n"
                message = session.error(line)
                expect(words in message or len(line) > LINE_MAX, f"{message[:200]} does not name {words}")
                expect(len(message) < 1000, f"a message of {len(message)} bytes")
        expect((self.balancer.run_dir / "state.json").read_bytes() == state, "the state file has changed")
        expect(self._workers() == workers, "workers were replaced")
        self.works()
        downloads.all_finished()

    def a_lease_of_weeks_is_refused_and_any_epoch_is_taken(self):
        with self._session() as session:
            for ttl in (2**32 - 1, 60_001):
                expect(str(ttl) in session.error({"request": "lease", "ttl_ms": ttl, "epoch": 1}), "not named")
            expect(session.ask({"request": "status"})["lease_ms"] <= 2000, "the lease was prolonged")
            for epoch in (2**64 - 1, 0, 1, 2**63, 5):
                expect(session.ask({"request": "lease", "ttl_ms": 1500, "epoch": epoch})["reply"] == "leased", "refused")
                self.works()
        wait.until(lambda: self.balancer.status()["epoch"] > 10**12, "control's epoch is back", 5)

    def two_sessions_that_apply_at_once_get_one_state_or_the_other(self):
        good = self._snapshot()
        downloads, failures = Downloads(self, 20).all_begun(), []

        def apply(weight):
            mine = copy.deepcopy(good)
            for r in mine["services"][0]["reals"]:
                r["weight"] = weight
            with self._session() as session:
                for _ in range(30):
                    reply = session.ask({"request": "apply", "snapshot": mine})
                    if reply["reply"] != "applied":
                        failures.append(reply)
        threads = [threading.Thread(target=apply, args=(w,)) for w in (5, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expect(not failures, f"{failures[:3]}")
        weights = {r["weight"] for r in self.balancer.service("web")["reals"]}
        expect(weights in ({5}, {9}), f"a mixture: {weights}")
        kept = {r["weight"] for r in self._snapshot()["services"][0]["reals"]}
        expect(kept == weights, f"state file {kept}, in force {weights}")
        downloads.all_finished()
        self.balancer.xvip("reload")

    @own_balancer
    def a_first_snapshot_that_cannot_start_is_refused_and_a_better_one_is_taken(self):
        self.start()
        good = self._snapshot()
        self.balancer.stop()
        self.balancer.start_dataplane()
        wait.until(lambda: self._session().__enter__(), "the agent socket is there", 10)
        with self._session() as session:
            many = [{"name": f"e{n}"} for n in range(16)]
            for words, change in (("cores", {"cores": []}), ("frames", {"frames": 3}),
                                  ("not enough memory", {"cores": list(range(64)), "frames": 65536})):
                bad = {**copy.deepcopy(good), "interfaces": many}  # 128 GiB
                bad["engine"].update(change)
                expect(words in session.error({"request": "apply", "snapshot": bad}), f"not for {words}")
                expect(not self.balancer.table.exists(), "half a start was left")
            for _ in range(1000):  # nobody takes notice of a wake-up yet
                expect("cores" in session.error({"request": "apply", "snapshot": {
                    **good, "engine": {**good["engine"], "cores": []}}}), "not refused")
        self.balancer.start_control()
        self.balancer.wait_ready()
        self.works()


class Files(Base):
    """State and table files that are not what they should be."""

    def _after(self, damage, words):
        """Damage, a restart, and a page; what the log says."""
        self.start()
        self.balancer.kill(self.balancer.dataplane)
        damage()
        process = self.balancer.start_dataplane()
        self.balancer.wait_ready()
        expect(self.balancer.status()["adopted"] == 0, "adopted what is damaged")
        expect("not-adopted" in process.log.read_text() and words in process.log.read_text(),
               f"`{words}` is not in the log: {process.tail()}")
        self.works()

    def _state(self, change):
        path = self.balancer.run_dir / "state.json"
        path.write_bytes(change(path.read_bytes()))

    @own_balancer
    def a_state_file_cut_short_means_a_cold_start(self):
        self._after(lambda: self._state(lambda b: b[:len(b) // 2]), "damaged")

    @own_balancer
    def a_state_file_with_a_flipped_bit_means_a_cold_start(self):
        # The weight 1 becomes 3: still a valid file, but for its check sum.
        self._after(lambda: self._state(lambda b: b.replace(b'"weight":1', b'"weight":3', 1)), "wrong check sum")

    @own_balancer
    def a_state_file_of_another_release_means_a_cold_start(self):
        self._after(lambda: self._state(lambda b: b'{"version":77,"content":"of tomorrow"}'), "layout 77")

    @own_balancer
    def a_state_file_of_a_hundred_megabytes_means_a_cold_start(self):
        self._after(lambda: os.truncate(self.balancer.run_dir / "state.json", 100 * MIB), "larger than 64 MiB")

    @own_balancer
    def a_state_file_that_is_a_link_is_not_followed(self):
        path, aside = self.balancer.run_dir / "state.json", self.lab.directory / "state.json"

        def damage():
            aside.write_bytes(path.read_bytes())
            path.unlink()
            path.symlink_to(aside)
        self._after(damage, "symbolic link")
        expect(not path.is_symlink(), "the link is still there")

    @own_balancer
    def a_state_file_that_is_a_fifo_holds_nobody_up(self):
        path = self.balancer.run_dir / "state.json"

        def damage():
            path.unlink()
            os.mkfifo(path)
        self._after(damage, "not a regular file")

    @own_balancer
    def a_directory_in_place_of_the_state_file_is_named_until_it_is_gone(self):
        path = self.balancer.run_dir / "state.json"
        self.start()
        self.balancer.kill(self.balancer.dataplane)
        path.unlink()
        path.mkdir()
        self.balancer.start_dataplane()
        self._refused("state.json")
        path.rmdir()
        self.balancer.wait_ready()
        self.works()

    @own_balancer
    def a_table_of_another_size_than_its_header_says_is_not_adopted(self):
        self._after(lambda: os.truncate(self.balancer.table, 8192), "another size")

    @own_balancer
    def an_empty_table_is_not_adopted(self):
        self._after(lambda: os.truncate(self.balancer.table, 0), "too short")

    @own_balancer
    def a_table_of_another_boot_is_not_adopted(self):
        def damage():
            with open(self.balancer.table, "r+b") as file:
                words = list(struct.unpack("<9Q", file.read(72)))
                words[5] ^= 1
                total, mask = 0x6a09_e667_f3bc_c909, 2**64 - 1
                for word in words[:8]:
                    mixed = (total ^ word) * 0xff51_afd7_ed55_8ccd & mask
                    total = mixed ^ mixed >> 32
                file.seek(0)
                file.write(struct.pack("<9Q", *words[:8], total))
        self._after(damage, "before the last reboot")

    @own_balancer
    def a_table_that_others_can_write_is_refused_until_it_is_gone(self):
        aside = self.lab.directory / "table"
        for spoil in (lambda t: t.chmod(0o666), lambda t: os.chown(t, 65534, 65534),
                      lambda t: (shutil.move(t, aside), t.symlink_to(aside))):
            self.start()
            self.balancer.kill(self.balancer.dataplane)
            spoil(self.balancer.table)
            self.balancer.start_dataplane()
            self._refused("remove it")
            self.balancer.table.unlink()
            self.balancer.wait_ready()
            self.works()
            self.balancer.stop()

    @own_balancer
    def a_table_of_another_capacity_is_adopted_as_it_is(self):
        self.start()
        downloads = Downloads(self, 40).all_begun()
        self.balancer.reload(self._text(web({"a": 1, "b": 1, "c": 1}), connections=4096))
        self.balancer.kill(self.balancer.dataplane)
        self.balancer.start_dataplane()
        self.balancer.wait_ready()
        status = self.balancer.status()
        expect(status["adopted"] >= 40 and status["table"]["capacity"] == 65536, f"{status['table']}")
        downloads.all_finished()

    @own_balancer
    def a_full_disk_refuses_a_reload_and_leaves_no_half_state(self):
        run_dir = self.balancer.run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        net.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", run_dir])
        try:
            self.start()
            before = (run_dir / "state.json").read_bytes()
            filler = run_dir / "filler"
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 512)
            many = [web({"a": 1}, name=f"s{n}", listen=f"{topology.vip(0, 'ipv4')}:{n}") for n in range(1000, 1020)]
            done = self.balancer.reload(self._text(web({"a": 9}), *many), check=False)
            expect(done.returncode == 1 and "No space left" in done.stderr, f"{done.returncode}: {done.stderr}")
            expect((run_dir / "state.json").read_bytes() == before, "the state has changed")
            expect(not (run_dir / "state.new").exists(), "half a state is left")
            expect([s["name"] for s in self.balancer.ask("services")["services"]] == ["web"], "half a reload")
            self.works()
            filler.unlink()
            self.balancer.xvip("reload")
            self.works()
        finally:
            self.balancer.stop()
            self.balancer.sweep()
            net.run(["umount", "-l", run_dir])


class Resources(Base):
    """Too little of everything."""

    @own_balancer
    def few_descriptors_and_little_locked_memory_are_enough(self):
        limits = ("prlimit", "--nofile=32", "--memlock=65536")
        self.balancer.configure(self.text())
        self._start_dataplane(*limits)
        self.balancer.control = self.net.start("balancer", "control-limited", [
            *limits, binary_directory() / "xvip-control", "--config", self.balancer.config,
            "--instance", self.balancer.instance, "--run-dir", self.balancer.run_dir])
        self.balancer.wait_ready()
        clients = [Session(self.balancer.run_dir / "control.sock", greet=False) for _ in range(60)]
        wait.never(lambda: not self.balancer.run_dir.joinpath("control.sock").exists(), "control dies", 0.5)
        self.works()
        for client in clients:
            client.__exit__()
        self.balancer.wait_ready()
        self.works()

    @own_balancer
    def without_descriptors_and_rights_to_more_a_start_fails_clearly(self):
        # Neither the unmounter's pipe nor the steering program's maps fit.
        prefix = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource", "prlimit", "--nofile=9")
        self._fails_to_start("xvip-dataplane: ", "Too many open files", prefix=prefix)
        expect(not self.balancer.traces(), "; ".join(self.balancer.traces()))

    @own_balancer
    def a_restart_without_locked_memory_keeps_the_connections_for_the_next_try(self):
        self.start()
        with Held(self.lab, method("nat").vip) as held:
            self.balancer.kill(self.balancer.dataplane)
            process = self._start_dataplane(
                "setpriv", "--bounding-set=-ipc_lock,-sys_resource", "--inh-caps=-ipc_lock,-sys_resource",
                "prlimit", f"--memlock={6 * MIB}")
            self._refused("engine.frames")
            expect(process.alive(), "the data plane has died")
            self.balancer.reload(self._text(web({"a": 1, "b": 1, "c": 1}), frames=1024))
            self.balancer.wait_ready()
            expect(self.balancer.status()["adopted"] == 1, f"adopted {self.balancer.status()['adopted']}")
            expect(held.ask() == held.real, "another real server")
        self.works()

    @own_balancer
    def a_shared_memory_too_small_for_the_table_is_named_until_it_is_larger(self):
        self.balancer.configure(self.text())
        script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm; exec "$@"'
        process = self._start_dataplane("unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh")
        self.balancer.start_control()
        wait.until(lambda: (self.balancer.run_dir / "control.sock").exists(), "control is there", 10)
        self._refused("/dev/shm")
        expect(process.alive(), "the data plane has died")
        left = list(pathlib.Path(f"/proc/{process.pid}/root/dev/shm").iterdir())
        expect(not left, f"left behind: {left}")
        net.run(["nsenter", f"--mount=/proc/{process.pid}/ns/mnt", "mount", "-o", "remount,size=64m", "/dev/shm"])
        self.balancer.wait_ready()
        self.works()

    @own_balancer
    def a_table_larger_than_memory_is_refused_before_it_is_taken(self):
        # Of a cgroup's or container's memory we know nothing; 130 GiB are more than a lab has.
        cores, interfaces = list(range(64)), ["front0", "back0", *(f"e{n}" for n in range(14))]
        self.balancer.configure(document([web({"a": 1})], interfaces, cores, methods.LOCAL, connections=16 * MIB,
                                         frames=65536))
        self.balancer.start_dataplane()
        self.balancer.start_control()
        wait.until(lambda: (self.balancer.run_dir / "control.sock").exists(), "control is there", 10)
        self._refused("not enough memory")
        expect(not self.balancer.table.exists(), "half a table is left")
        done = self.balancer.reload(self.text())
        expect(done.returncode == 0, done.stderr)
        self.balancer.wait_ready()
        self.works()

    @own_balancer
    def a_run_directory_that_cannot_be_used_is_named(self):
        place = self.lab.directory / "places"
        place.mkdir(exist_ok=True)
        (place / "file").write_text("not a directory")
        self._fails_to_start(str(place / "file"), run_dir=place / "file")
        self._fails_to_start(str(place / "file"), run_dir=place / "file" / "below")
        read_only = place / "read-only"
        read_only.mkdir(exist_ok=True)
        net.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", read_only])
        try:
            self._fails_to_start("Read-only file system", str(read_only), run_dir=read_only)
        finally:
            net.run(["umount", read_only])
        long = place / ("x" * 100)
        self._fails_to_start("agent.sock", run_dir=long)
        expect(not long.exists() or not list(long.iterdir()), f"left behind: {list(long.rglob('*'))}")

    @own_balancer
    def names_of_instances_that_leave_their_directory_are_refused(self):
        for name in ("", ".", "..", "../x", "a/b", "a b", "x" * 64):
            for program in ("xvip-dataplane", "xvip-control", "xvip"):
                verb = ["status"] if program == "xvip" else []
                done = subprocess.run([binary_directory() / program, "--instance", name, *verb],
                                      capture_output=True, text=True, timeout=10, check=False)
                expect(done.returncode in (1, 2) and "expected 1 to 63" in done.stderr,
                       f"{program} {name!r}: exit {done.returncode}: {done.stderr}")

    @own_balancer
    def a_log_that_nobody_reads_stops_neither_forwarding_nor_the_agent(self):
        fifo = self.lab.directory / "log.fifo"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writer, b"x" * 512)
            self.balancer.configure(self.text())
            self._start_dataplane("sh", "-c", f'exec "$@" 2>"{fifo}"', "sh")
            self.balancer.start_control()
            self.balancer.wait_ready()
            self._busy_log()
            os.close(writer)
            os.close(reader)
            reader = None
            self._busy_log()  # now a broken pipe
            problems = self.balancer.stop()
            expect(not problems, "; ".join(problems))
        finally:
            if reader is not None:
                os.close(reader)

    @own_balancer
    def a_closed_standard_error_is_no_reason_to_stop(self):
        self.balancer.configure(self.text())
        self._start_dataplane("sh", "-c", 'exec "$@" 2>&-', "sh")
        self.balancer.start_control()
        self.balancer.wait_ready()
        self._busy_log()

    def _busy_log(self):
        downloads = Downloads(self, 20).all_begun()
        for n in range(15):
            self.balancer.reload(self._text(web({"a": 1 + n % 2, "b": 1, "c": 1})))
        for _ in range(3):
            self.net.batch("switch", ["link set balancer.back down"])
            wait.until(lambda: self.balancer.interface("back0")["link"] != "up", "back0 is seen down", 5)
            self.net.batch("switch", ["link set balancer.back up"])
            wait.until(lambda: self.balancer.interface("back0")["link"] == "up", "back0 is seen up", 5)
        downloads.all_finished()
        self.works_again(method("nat"), "after all that")

    @own_balancer
    def signals_of_no_meaning_are_ignored_and_a_stop_is_orderly_on_any_thread(self):
        self.start()
        downloads, process = Downloads(self, 20).all_begun(), self.balancer.dataplane
        threads = [int(t.name) for t in pathlib.Path(f"/proc/{process.pid}/task").iterdir()]
        libc = ctypes.CDLL(None, use_errno=True)

        def send(number):
            for thread in threads:
                libc.syscall(SYS_TGKILL, process.pid, thread, number)
        for _ in range(50):
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
                send(number)
        downloads.all_finished()
        self.balancer.alive()
        self.works()
        self.balancer.control.end(10)
        for _ in range(3):
            send(signal.SIGTERM)
            send(signal.SIGINT)
        wait.until(lambda: not process.alive(), "the data plane stops", 10)
        expect(process.popen.returncode == 0, f"exit {process.popen.returncode}: {process.tail()}")
        self.balancer.dataplane = self.balancer.control = None
        expect(not self.balancer.traces(), "; ".join(self.balancer.traces()))


class Operators(Base):
    """Control, its file and the command."""

    prompt = True

    @own_balancer
    def files_that_are_no_configuration_are_refused_and_change_nothing(self):
        self.start()
        downloads, config = Downloads(self, 20).all_begun(), self.balancer.config

        def huge(path):
            path.touch()
            os.truncate(path, 100 * MIB)
        for make, words in ((huge, "larger than"), (lambda p: p.write_bytes(os.urandom(4096)), "UTF-8"),
                            (os.mkfifo, "not a regular file"), (lambda p: None, "No such file"),
                            (lambda p: p.mkdir(), "not a regular file"), (lambda p: p.write_text(""), "empty"),
                            (lambda p: p.write_text("[" * 100_000), "")):
            config.unlink()
            make(config)
            done = self.balancer.xvip("reload", check=False)
            expect(done.returncode == 2 and words in done.stderr, f"{done.returncode}: {done.stderr[:300]}")
            config.rmdir() if config.is_dir() else config.unlink(missing_ok=True)
            config.touch()
        self.works()
        self.balancer.reload(self.text())
        downloads.all_finished()

    def reloads_that_race_and_a_file_that_changes_end_in_a_state_of_the_file(self):
        over = threading.Event()

        def change():
            n = 0
            while not over.is_set():
                n += 1
                self.balancer.configure(self._text(web({"a": 1 + n % 7, "b": 1 + n % 7})))
        changer = threading.Thread(target=change)
        changer.start()
        results = []

        def reload():
            for _ in range(10):
                results.append(self.balancer.xvip("reload", check=False))
        threads = [threading.Thread(target=reload) for _ in range(3)]
        try:
            for thread in threads:
                thread.start()
        finally:
            for thread in threads:
                thread.join()
            over.set()
            changer.join()
        bad = [r.stderr for r in results if r.returncode != 0]
        expect(not bad, f"{len(bad)} reloads failed: {bad[:2]}")
        weights = {r["weight"] for r in self.balancer.service("web")["reals"] if not r["removed"]}
        expect(len(weights) == 1, f"a mixture of two files: {weights}")
        self.balancer.reload(self.text())

    def two_hundred_reloads_cost_no_download_memory_or_descriptor(self):
        both = (self.balancer.dataplane, self.balancer.control)

        def storm(count):
            for n in range(count):
                self.balancer.configure(self._text(web({"a": 1 + n % 5, "b": 1, "c": 1})))
                self.balancer.control.kill(signal.SIGHUP)
                if n % 10 == 0:
                    self.balancer.xvip("reload")
                time.sleep(0.01)
            self.balancer.xvip("reload")
        downloads = Downloads(self, 40).all_begun()
        storm(20)
        before = [(memory(p), descriptors(p)) for p in both]
        storm(200)
        after = [(memory(p), descriptors(p)) for p in both]
        for process, (mem, fds), (mem2, fds2) in zip(both, before, after):
            expect(mem2 < mem + 8 * MIB, f"{process.name} grew from {mem >> 10} to {mem2 >> 10} KiB")
            expect(fds2 <= fds + 4, f"{process.name} had {fds} descriptors, now {fds2}")
        downloads.all_finished()

    def the_command_says_what_it_lacks(self):
        place = self.lab.directory / "socket"
        place.unlink(missing_ok=True)

        def xvip(*verb):
            return subprocess.run([binary_directory() / "xvip", "--socket", place, *verb],
                                  capture_output=True, text=True, timeout=40, check=False)
        expect("no xvip-control at" in xvip("status").stderr, "absent")
        place.write_text("a file")
        expect("no xvip-control at" in xvip("status").stderr, "a regular file")
        place.unlink()
        hello = b'{"ok":true,"version":1,"boot_id":"x","epoch":1,"age_ms":null,"result":' \
                b'{"program":"1","instance":"x","node":"x"}}\n'
        for answer, words in ((b"garbage\n", "not understood"), (b"\xff\xfe\n", "not understood"),
                              (b"[" * 1_000_000 + b"\n", "not understood"), (b"", "closed the connection"),
                              (hello.replace(b'"version":1', b'"version":9'), "same release"),
                              (hello + b'{"ok":true}\n', "not understood"), (hello[:50], "middle of a reply"),
                              (b"x" * (65 * MIB), "64 MiB")):
            with Impostor(place, answer):
                done = xvip("status")
            expect(done.returncode == 1 and words in done.stderr and len(done.stderr) < 2000,
                   f"{answer[:30]}: exit {done.returncode}: {done.stderr[:300]}")
        with Impostor(place, b"x", drip=True):
            began = time.monotonic()
            done = xvip("status")
            expect(done.returncode == 1 and "did not answer" in done.stderr, f"{done.stderr}")
            expect(time.monotonic() - began < 20, "it waited for ever")

    @own_balancer
    def a_listing_of_a_hundred_thousand_connections_holds_up_no_packet(self):
        udp = [s for s in method("nat").services() if s["protocol"] == "udp"]
        self.start(self._text(web({"a": 1, "b": 1, "c": 1}), *udp, connections=262144))
        self._flood(100_000)
        wait.until(lambda: self.balancer.status()["table"]["used"] >= 95_000, "the table is full of them", 20)
        # As long as it takes on this machine without a listing, which other work on it may stall too.
        quiet = self._longest_gap(lambda: time.sleep(4))
        began, rows = time.monotonic(), []

        def listing():
            command = self.net.inside_command("balancer", [
                str(binary_directory() / "xvip"), "--socket", str(self.balancer.run_dir / "control.sock"),
                "conns", "--all"])
            rows.append(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
                        .stdout.count("\n"))
        gap = self._longest_gap(listing)
        expect(rows[0] >= 95_000, f"{rows[0]} lines")
        expect(time.monotonic() - began < 30, "the listing took for ever")
        expect(gap < max(0.1, 2 * quiet), f"forwarding stood still for {gap * 1000:.0f} ms ({quiet * 1000:.0f} without)")
        # Whoever reads only the first line ends it, without a complaint.
        pipe = f"{binary_directory()}/xvip --socket {self.balancer.run_dir}/control.sock conns --all | head -1"
        done = subprocess.run(["bash", "-o", "pipefail", "-c", pipe], capture_output=True, text=True,
                              timeout=20, check=False)
        expect(done.returncode == 0 and not done.stderr and done.stdout.count("\n") == 1, f"{done}")

    def _longest_gap(self, work):
        """Longest time between two pieces of downloads, one after the other, while `work` runs."""
        longest, done = 0.0, threading.Thread(target=work)
        done.start()
        while done.is_alive():
            with self.net.inside("client"):
                stream = socket.create_connection((method("nat").vip, 80), timeout=5)
            with stream:
                stream.sendall(b"GET /long.html HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
                last = time.monotonic()
                while stream.recv(16384):
                    now = time.monotonic()
                    longest, last = max(longest, now - last), now
        done.join()
        return longest

    def _flood(self, count):
        """As many UDP connections, one packet each, at a pace that loses none."""
        from ..packets import IP, UDP, Ether
        frame = bytearray(bytes(Ether(src=self.net.mac("client", "front0"), dst=self.balancer_mac())
                                / IP(src="198.18.0.0", dst=method("nat").vip) / UDP(sport=1, dport=7, chksum=0)))
        checksum = struct.unpack_from("!H", frame, 24)[0] ^ 0xffff
        with self.net.inside("client"):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        raw.bind(("front0", 0))
        with raw:
            for n in range(count):
                high, low = n >> 8, n & 255
                struct.pack_into("!H", frame, 28, high)  # the last two bytes of the source
                total = checksum + high
                struct.pack_into("!H", frame, 24, ((total & 0xffff) + (total >> 16)) ^ 0xffff)
                struct.pack_into("!H", frame, 34, 1024 + low)
                raw.send(frame)
                if n % 500 == 499:
                    time.sleep(0.01)


class Impostor:
    """Something that listens where control should."""

    def __init__(self, path, answer, drip=False):
        self.path, self.answer, self.drip = path, answer, drip
        self.over = threading.Event()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(path))
        self.socket.listen(4)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            client, _ = self.socket.accept()
            with client:
                client.recv(4096)
                client.sendall(self.answer)
                while self.drip and not self.over.wait(1):
                    client.sendall(self.answer)
                if self.answer and self.answer.endswith(b"\n"):
                    client.settimeout(2)
                    client.recv(4096)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.socket.close()
        self.path.unlink()
        self.thread.join(5)


GROUPS = (Agent, Files, Resources)
