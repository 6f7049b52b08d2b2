"""What the processes may still do after set-up, read from /proc and the file system."""

import contextlib
import os
import pathlib
import stat

from .hostile import Session
from .support import Group, expect

# include/uapi/linux/capability.h
CAPABILITIES = {"dac_read_search": 2, "setgid": 6, "setuid": 7, "sys_module": 16, "sys_rawio": 17,
                "sys_ptrace": 19, "sys_boot": 22, "sys_time": 25, "mac_admin": 33}


def task_status(task):
    """A thread's /proc status as a dictionary."""
    pairs = (line.split(":", 1) for line in (task / "status").read_text().splitlines())
    return {key: value.strip() for key, value in pairs}


class Privileges(Group):
    """One running pair of processes."""

    def _tasks(self, process):
        tasks = {}
        for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
            # The thread of a session may end meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                tasks[int(task.name)] = {**task_status(task), "Policy": os.sched_getscheduler(int(task.name))}
        return tasks

    def _workers(self):
        return [w["tid"] for w in self.balancer.status()["workers"]]

    def workers_have_no_capability_at_all(self):
        tasks = self._tasks(self.balancer.dataplane)
        workers = self._workers()
        expect(workers and all(t in tasks for t in workers), f"workers {workers}, threads {sorted(tasks)}")
        for tid in workers:
            for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
                expect(int(tasks[tid][kind], 16) == 0, f"thread {tid} has {kind} {tasks[tid][kind]}")

    def every_thread_of_the_data_plane_is_under_seccomp(self):
        for tid, status in self._tasks(self.balancer.dataplane).items():
            expect(status["Seccomp"] == "2", f"thread {tid} ({status['Name']}): Seccomp {status['Seccomp']}")
            expect(status["NoNewPrivs"] == "1", f"thread {tid} ({status['Name']}): NoNewPrivs {status['NoNewPrivs']}")

    def no_thread_of_the_data_plane_keeps_a_capability_it_never_needs(self):
        for tid, status in self._tasks(self.balancer.dataplane).items():
            for name, bit in CAPABILITIES.items():
                for kind in ("CapEff", "CapPrm"):
                    expect(not int(status[kind], 16) >> bit & 1, f"thread {tid} ({status['Name']}) has CAP_{name.upper()}")

    def workers_are_pinned_to_their_cores(self):
        tasks = self._tasks(self.balancer.dataplane)
        workers = self.balancer.status()["workers"]
        expect(workers, "no workers")
        for worker in workers:
            allowed = tasks[worker["tid"]]["Cpus_allowed_list"]
            expect(worker["pinned"] and allowed == str(worker["core"]), f"{worker} may run on {allowed}")

    def a_session_that_only_leases_comes_before_poll_loops_and_no_other_does(self):
        def prompt():
            tasks = self._tasks(self.balancer.dataplane)
            return {tid: task["Name"] for tid, task in tasks.items() if task["Policy"] == os.SCHED_RR}
        before = prompt()
        # The thread that takes sessions: its sessions inherit what it has.
        expect("agent" in before.values() and not before.keys() & set(self._workers()), f"real-time: {before}")
        with Session(self.balancer.run_dir / "agent.sock") as session:
            new = prompt().keys() - before.keys()
            expect(len(new) == 1, f"{len(new)} threads got real-time priority for a session")
            session.ask({"request": "status"})
            expect(not prompt().keys() & new, "a session that asks for the status kept it")

    def sockets_and_table_are_closed_to_others(self):
        paths = [self.balancer.run_dir / "agent.sock", self.balancer.run_dir / "control.sock", self.balancer.table]
        for path in paths:
            mode = stat.S_IMODE(path.stat().st_mode)
            expect(not mode & 0o007, f"{path} has mode {mode:o}")
