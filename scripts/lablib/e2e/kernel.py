"""Traffic that is not ours stays the kernel's, on the same interfaces, while we are attached."""

import socket
import threading

from .. import methods
from .support import (BACK, FRONT, HTTP_ALT, Group, address, expect, method, topology, url_host,
                      wait)


class Kernel(Group):
    """The balancer's own addresses work as if xvip were not there."""

    def every_method_serves_a_page(self):
        for m in self.methods:
            self.works(m)

    def a_tcp_connection_to_the_balancers_own_address_works(self):
        for family in topology.FAMILIES:
            own = address(1, 1, family)
            kind = socket.AF_INET if family == "ipv4" else socket.AF_INET6
            with self.net.inside("balancer"):
                server = socket.create_server((own, 22), family=kind)
            with server:
                server.settimeout(5)
                thread = threading.Thread(target=serve_once, args=(server,))
                thread.start()
                with self.net.inside("client"):
                    client = socket.create_connection((own, 22), timeout=5)
                with client:
                    client.sendall(b"x" * 200_000)
                    client.shutdown(socket.SHUT_WR)
                    total = b""
                    while piece := client.recv(65536):
                        total += piece
                thread.join(5)
                expect(total == b"200000", f"server counted {total}")

    def the_service_port_on_the_balancers_own_address_stays_the_kernels(self):
        own = address(1, 1, "ipv4")
        with self.net.inside("balancer"):
            server = socket.create_server((own, 80))
        with server:
            server.settimeout(5)
            thread = threading.Thread(target=serve_once, args=(server,))
            thread.start()
            with self.net.inside("client"):
                client = socket.create_connection((own, 80), timeout=5)
            with client:
                client.sendall(b"hello")
                client.shutdown(socket.SHUT_WR)
                expect(client.recv(100) == b"5", "the kernel's server did not answer")
            thread.join(5)

    def the_balancers_own_addresses_answer_ping(self):
        for family in topology.FAMILIES:
            self.net.exec("client", "ping", "-c", 3, "-i", 0.05, "-W", 2, address(1, 1, family))
            self.net.exec("real-a", "ping", "-c", 3, "-i", 0.05, "-W", 2, address(2, 1, family))

    def the_balancer_itself_can_ask_a_real_on_the_service_port(self):
        # The answer has a real's address and port as source, like a reply of a NAT connection.
        for family in topology.FAMILIES:
            host = url_host(address(2, 21, family))
            for _ in range(3):
                got = self.net.exec("balancer", "curl", "-sS", "--max-time", 5, f"http://{host}:{HTTP_ALT}/whoami")
                expect(got.strip() == "a", f"`{got}` from real a")

    def the_balancer_itself_can_ask_a_real_with_udp(self):
        for family in topology.FAMILIES:
            sock = methods.udp_socket(self.lab, family, node="balancer")
            real, _, _ = methods.echo(self.lab, address(2, 22, family), b"probe", sock=sock)
            sock.close()
            expect(real == "b", f"{real} answered")

    def clients_and_reals_reach_each_other_without_the_balancer(self):
        for family in topology.FAMILIES:
            self.net.exec("client", "ping", "-c", 1, "-W", 2, address(1, 22, family))

    def a_sender_that_leaves_its_checksums_to_the_interface_is_named(self):
        self._offload("tx on")
        try:
            # What the kernel says of such packets is nothing: the real drops them.
            self.net.exec("client", "curl", "-s", "-m", 1, f"http://{method('nat').vip}/whoami", check=False)
            wait.until(lambda: self._warned("tx off"), "the status names the remedy", 5, 0.1)
            expect(self.balancer.events()["partial_checksum"] > 0, "not counted")
        finally:
            self._offload("tx off")
        self.works(method("nat"))

    def a_sender_of_superframes_is_named(self):
        self._offload("tx on tso on gso on")
        try:
            # UDP_SEGMENT (include/uapi/linux/udp.h): 20 kB in one frame until an interface cuts it.
            sender = (f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
                      f"s.setsockopt(17, 103, 1000); s.connect(('{method('nat').vip}', 7)); "
                      f"[s.send(bytes(20000)) for _ in range(20)]")
            self.net.exec("client", "python3", "-c", sender)
            wait.until(lambda: self._warned("gso off"), "the status names the remedy", 5, 0.1)
        finally:
            self._offload("tx off tso off gso off")
        self.works(method("nat"))

    def _offload(self, words):
        self.net.shell("client", f"ethtool -K {FRONT} {words} >/dev/null")

    def _warned(self, words):
        return any(words in line for line in self.balancer.status()["warnings"])

    def both_interfaces_are_reported_with_what_was_chosen(self):
        for name in (FRONT, BACK):
            found = self.balancer.interface(name)
            expect(found["attached"] and found["link"] == "up", f"{found}")
            expect(found["mode"] in ("native", "generic") and found["copy"] == "copy", f"{found}")
            expect(found["mac"] == self.balancer_mac(name) and found["mtu"] == 1500, f"{found}")

    def live_connections_are_listed_with_their_state(self):
        from .support import Held
        m = method("nat")
        with Held(self.lab, m.vip) as held:
            mine = [c for c in self.balancer.conns() if c["client_port"] == held.port]
            expect(len(mine) == 1, f"{len(mine)} connections with port {held.port}")
            expect(mine[0]["state"] == "ESTABLISHED" and mine[0]["vip"] == m.vip, f"{mine[0]}")
            expect(mine[0]["service"] == m.service, f"{mine[0]}")

    def every_command_prints_json_when_asked(self):
        for command in ("status", "services", "conns", "counters"):
            expect(self.balancer.ask(command) is not None, command)
            expect(self.balancer.xvip(command).stdout.strip(), f"{command} prints no table")


def serve_once(server):
    """Counts what one connection sends and answers with the number."""
    try:
        connection, _ = server.accept()
    except OSError:
        return
    with connection:
        connection.settimeout(5)
        total = 0
        while piece := connection.recv(65536):
            total += len(piece)
        connection.sendall(str(total).encode())
