"""Several queues and workers; on veth a reply may come in on any of them."""

from concurrent.futures import ThreadPoolExecutor

from .. import methods
from .support import Downloads, Fetch, Group, Held, expect, method, url_host, wait


class MultiQueue(Group):
    """Two queues on every interface, two workers."""

    queues = 2

    def every_interface_serves_both_queues(self):
        for interface in self.balancer.status()["interfaces"]:
            expect(interface["queues"] == 2, f"{interface}")
        expect(len(self.balancer.status()["workers"]) == 2, "not two workers")

    def every_method_serves_on_many_flows(self):
        for m in self.methods:
            for _ in range(12):
                self.works(m)

    def held_connections_answer_whatever_queue_they_come_by(self):
        held = [Held(self.lab, m.vip) for m in self.methods for _ in range(12)]
        for _ in range(3):
            for h in held:
                expect(h.ask() == h.real, "another real answered")
        for h in held:
            h.socket.close()

    def both_workers_forward(self):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda m: Held(self.lab, m.vip).socket.close(), list(self.methods) * 10))
        workers = self.balancer.status()["workers"]
        expect(all(w["busy_polls"] > 0 for w in workers), f"{workers}")

    def many_downloads_at_once_all_arrive(self):
        targets = [method("nat"), method("nat", "ipv6"), method("fullnat"), method("fullnat", "ipv6")]
        Downloads(self, 200, *targets).all_begun().all_finished()

    def a_large_file_arrives_both_ways(self):
        for m in (method("nat"), method("fullnat", "ipv6"), method("4in4")):
            checks = methods.Checks(self.lab, m)
            checks.download()
            checks.upload()

    def no_connection_is_opened_twice(self):
        before = self.balancer.events().get("conn_opened", 0)
        m = method("nat")
        for _ in range(50):
            Fetch(self.lab, f"http://{url_host(m.vip)}/one.html")

        def opened():
            return self.balancer.events().get("conn_opened", 0) - before
        wait.until(lambda: opened() >= 50, "50 connections are counted", 3)
        expect(opened() == 50, f"{opened()} connections opened by 50 requests")
