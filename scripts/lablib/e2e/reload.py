"""A changed configuration touches what it changes and nothing else."""

import re
import signal

from .support import (Downloads, Group, Held, document, expect, method, methods, own_balancer, topology,
                      topology_cores, wait, web)

VIP = topology.vip(0, "ipv4")
OTHER = topology.vip(1, "ipv4")


class Reload(Group):
    """One service, sometimes two."""

    def text(self):
        return self._text(web({"a": 1, "b": 1, "c": 1}))

    @staticmethod
    def _text(*services):
        return document(list(services), ["front0", "back0"], topology_cores(1), methods.LOCAL, lease="2s")

    def _picks(self, count):
        got = ""
        for _ in range(count):
            with Held(self.lab, VIP) as held:
                got += held.real
        return got

    @own_balancer
    def new_weights_break_no_download_and_hold_exactly(self):
        self.start()
        downloads = Downloads(self, 60).all_begun()
        for weights in ({"a": 4, "b": 3, "c": 2}, {"a": 1, "b": 9, "c": 1}, {"a": 4, "b": 3, "c": 2}):
            self.balancer.reload(self._text(web(weights)))
        got = self._picks(18)
        expect(sorted(got) == sorted(methods.SEQUENCE * 2), f"got {got}")
        downloads.all_finished()

    @own_balancer
    def a_service_added_and_removed_leaves_the_others_alone(self):
        self.start()
        downloads = Downloads(self, 40).all_begun()
        one = web({"a": 1, "b": 1, "c": 1})
        two = web({"b": 1}, name="other", number=1)
        self.balancer.reload(self._text(one, two))
        wait.until(lambda: Held(self.lab, OTHER, seconds=1).real == "b", "the new service serves", 5)
        self.balancer.reload(self._text(one))
        expect(self.balancer.service("other") is None or not self.balancer.service("other")["reals"]
               or all(r["removed"] for r in self.balancer.service("other")["reals"]), "still there")

        def gone():
            try:
                Held(self.lab, OTHER, seconds=0.3).socket.close()
                return False
            except OSError:
                return True
        wait.until(gone, "the removed service no longer serves", 10)
        downloads.all_finished()

    @own_balancer
    def a_removed_real_keeps_its_live_connections(self):
        self.start()
        held = [Held(self.lab, VIP) for _ in range(6)]
        self.balancer.reload(self._text(web({"b": 1, "c": 1})))
        wait.until(lambda: "a" not in self._picks(4), "a takes no new connection", 5)
        for h in held:
            expect(h.ask() == h.real, "a live connection moved")
        reals = {r["name"]: r for r in self.balancer.service("web")["reals"]}
        expect(reals["a"]["removed"], f"{reals.get('a')}")

    @own_balancer
    def a_drained_real_keeps_its_live_connections(self):
        self.start()
        held = [Held(self.lab, VIP) for _ in range(6)]
        self.balancer.reload(self._text(web({"a": 0, "b": 1, "c": 1})))
        wait.until(lambda: "a" not in self._picks(4), "a takes no new connection", 5)
        for h in held:
            expect(h.ask() == h.real, "a live connection moved")

    @own_balancer
    def a_bad_file_is_refused_with_its_place_and_changes_nothing(self):
        self.start()
        before = self.balancer.service("web")
        good = self.text()
        bad = {
            "a word that is no scheduler": good.replace('"wrr"', '"wwr"'),
            "a key that does not exist": good.replace("scheduler =", "schedular ="),
            "a weight out of range": good.replace("weight = 1", "weight = 70000", 1),
            "no TOML at all": "this is not [toml",
            "half a file": good[:len(good) // 2] + '"',
        }
        for what, text in bad.items():
            done = self.balancer.reload(text, check=False)
            said = done.stderr + done.stdout
            expect(done.returncode != 0, f"{what}: accepted")
            expect(re.search(r"xvip\.toml:\d+:\d+", said), f"{what}: no place in `{said.strip()[:300]}`")
        expect([r["weight"] for r in self.balancer.service("web")["reals"]]
               == [r["weight"] for r in before["reals"]], "weights changed")
        expect(sorted(self._picks(3)) == ["a", "b", "c"], "old state is not in force")
        # Also a start of control with a bad file is refused, and forwarding goes on meanwhile.
        expect("schedular" in self._check(bad["a key that does not exist"]).stderr
               + self._check(bad["a key that does not exist"]).stdout, "check does not name the key")

    def _check(self, text):
        file = self.lab.directory / "candidate.toml"
        file.write_text(text)
        return self.balancer.xvip("check", file, check=False)

    def check_accepts_a_good_file_and_refuses_a_bad_one(self):
        expect(self._check(self.text()).returncode == 0, "good file refused")
        done = self._check(self.text().replace('"wrr"', '"wwr"'))
        expect(done.returncode != 0, "bad file accepted")
        said = done.stdout + done.stderr
        expect(re.search(r"candidate\.toml:\d+:\d+", said) and "wrr" in said, f"`{said.strip()[:300]}`")

    @own_balancer
    def sighup_applies_the_file(self):
        self.start()
        self.balancer.configure(self._text(web({"c": 1})))
        self.balancer.control.kill(signal.SIGHUP)
        wait.until(lambda: self._picks(3) == "ccc", "the new file is in force", 5)

    @own_balancer
    def forty_reloads_in_a_row_break_nothing(self):
        self.start()
        downloads = Downloads(self, 60, method("nat")).all_begun()
        held = [Held(self.lab, VIP) for _ in range(9)]
        for number in range(40):
            self.balancer.reload(self._text(web({"a": 1 + number % 5, "b": number % 3, "c": 2})))
            expect(held[number % 9].ask() == held[number % 9].real, "a live connection moved")
        downloads.all_finished()
