"""Checks of protocols with a wire format against the real servers of Debian's packages, through
`xvip probe`: up, down, refused, hung, slow, and other than it should be."""

import json
import os
import signal
import subprocess
import threading

from .. import bench, servers
from ..servers import HOST, PASSWORD
from .checks_text import tests
from .support import Group, expect


class Servers(bench.Bench):
    """A namespace with every server in it."""

    def up(self):
        """Starts them."""
        super().up()
        self.real = servers.Servers(self.net, bench.NODE, self.directory)
        self.real.start()


@tests
class ChecksWire(Group):
    """DNS, LDAP, SQL, Redis, NTP, SIP, RADIUS, UDP, ping."""

    @classmethod
    def make_lab(cls):
        """Real servers, no balancer."""
        return Servers()

    # -- helpers ------------------------------------------------------------------------------

    def _probe(self, *checks, timeout="3s"):
        """Runs checks, each (port name or number, keys); [(outcome, reason)] in their order."""
        lines = ['[[interface]]\nname = "lo"\n']
        for number, (port, keys) in enumerate(checks):
            port = self.lab.real.ports.get(port, port)
            # Each in a service of its own: equal checks of one real would be one.
            lines.append(f'[[service]]\nname = "s{number}"\nlisten = "192.0.2.1:{1000 + number}"\n'
                         f'[[service.real]]\naddress = "{HOST}:{port}"\n'
                         f'[[service.check]]\ntimeout = "{timeout}"\n{keys}\n')
        path = self.lab.directory / "probe.toml"
        path.write_text("".join(lines))
        path.chmod(0o600)
        command = [self.lab.xvip, "--json", "probe", path]
        done = subprocess.run(self.net.inside_command(bench.NODE, command), capture_output=True, text=True,
                              timeout=60, check=False)
        try:
            rows = json.loads(done.stdout)["checks"]
        except (ValueError, KeyError):
            raise AssertionError(f"exit {done.returncode}: {done.stdout}{done.stderr}") from None
        expect(len(rows) == len(checks), f"{len(rows)} results of {len(checks)} checks")
        return [(row["outcome"], row["reason"] or "") for row in rows]

    def _up(self, *checks, **options):
        """Every check passes."""
        for (port, keys), (outcome, reason) in zip(checks, self._probe(*checks, **options)):
            expect(outcome == "up", f"{port}: {keys!r}: {outcome}: {reason}")

    def _down(self, *checks, outcome="down", **options):
        """Every check, (port, keys, part of the reason), fails for its reason."""
        found = self._probe(*[c[:2] for c in checks], **options)
        for (port, keys, part), (got, reason) in zip(checks, found):
            expect(got == outcome and part in reason, f"{port}: {keys!r}: {got}: {reason}; not {part!r}")

    def _ca(self, name):
        return f'verify = "{self.lab.directory / name}/cert.pem"\n'

    # -- DNS ----------------------------------------------------------------------------------

    def a_name_server_answers_questions_of_every_type_over_both_transports(self):
        """bind9."""
        questions = [
            ("www.example.com", "A", '["10.0.0.4", "10.0.0.3"]'), ("www.example.com", "AAAA", '"2001:DB8::3"'),
            ("10.0.0.3", "PTR", '"www.example.com"'), ("alias.example.com", "CNAME", '"WWW.example.com."'),
            ("alias.example.com", "A", '"10.0.0.3"'), ("example.com", "MX", '"10 mail.example.com"'),
            ("example.com", "NS", '"ns1.example.com"'), ("_sip._udp.example.com", "SRV", '"0 5 5060 www.example.com"'),
            ("example.com", "TXT", '"v=spf1 -all"'), ("example.com", "SOA", '"ns1.example.com admin.example.com '
                                                      '2024010101 60 60 600 60"'),
        ]
        for transport in ("udp", "tcp"):
            self._up(*[("dns", f'type = "dns"\ntransport = "{transport}"\nname = "{name}"\nrecord = "{record}"\n'
                               f'answer = {answer}') for name, record, answer in questions])
        big = "".join(c * 250 for c in "abcdefgh")
        self._up(("dns", f'type = "dns"\nname = "big.example.com"\nrecord = "TXT"\nanswer = "{big}"'),
                 ("dns", 'type = "dns"\nname = "no.example.com"\nrcode = "NXDOMAIN"'),
                 ("dns", 'type = "dns"\nname = "example.org"\nrcode = "REFUSED"\nrecursion = false'))

    def a_name_server_that_answers_otherwise_is_down(self):
        """bind9."""
        self._down(("dns", 'type = "dns"\nname = "www.example.com"\nanswer = "10.0.0.9"', "10.0.0.9 is not in"),
                   ("dns", 'type = "dns"\nname = "no.example.com"', "expected"),
                   ("dns", 'type = "dns"\nname = "mail.example.com"\nrecord = "AAAA"', "no AAAA record"),
                   ("dns", 'type = "dns"\nname = "example.org"', "expected"),
                   ("dns", 'type = "dns"\nname = "www.example.com"\nrcode = "SERVFAIL"', "expected"))

    # -- LDAP ---------------------------------------------------------------------------------

    def a_directory_lets_us_in_and_answers_over_every_kind_of_tls(self):
        """slapd."""
        login = f'bind_dn = "cn=admin,dc=example,dc=com"\npassword = "{PASSWORD}"\n'
        search = 'base = "dc=example,dc=com"\nattribute = "description"\nexpect = "^healthy$"\n'
        ca = self._ca("ldap")
        self._up(("ldap", 'type = "ldap"'), ("ldap", 'type = "ldap"\n' + search),
                 ("ldap", 'type = "ldap"\n' + login + search),
                 ("ldap", 'type = "ldap"\ntls = "starttls"\n' + ca + login + search),
                 ("ldaps", 'type = "ldaps"\n' + ca + login + 'base = "ou=secret,dc=example,dc=com"'))

    def a_directory_that_refuses_or_holds_something_else_is_down(self):
        """slapd."""
        wrong = 'bind_dn = "cn=admin,dc=example,dc=com"\npassword = "wrong"\n'
        base = 'base = "dc=example,dc=com"\n'
        self._down(("ldap", 'type = "ldap"\n' + wrong, "invalidCredentials"),
                   ("ldap", 'type = "ldap"\nbase = "dc=example,dc=org"', "search refused"),
                   ("ldap", 'type = "ldap"\nbase = "ou=none,dc=example,dc=com"', "noSuchObject"),
                   ("ldap", 'type = "ldap"\nbase = "ou=secret,dc=example,dc=com"', "is not there"),
                   ("ldap", 'type = "ldap"\n' + base + 'attribute = "cn"', "has no cn"),
                   ("ldap", 'type = "ldap"\n' + base + 'attribute = "description"\nexpect = "sick"', "does not match"),
                   ("ldaps", 'type = "ldaps"', "not signed by"), ("ldap", 'type = "ldaps"\nverify = "off"', ""))

    # -- SQL ----------------------------------------------------------------------------------

    def mariadb_lets_us_in_and_answers(self):
        """MariaDB, with mysql_native_password, over TLS too."""
        user = f'type = "mysql"\nuser = "probe"\npassword = "{PASSWORD}"\n'
        tls = f'type = "mysql"\nuser = "tls"\npassword = "{PASSWORD}"\ntls = "on"\n' + self._ca("mysql")
        self._up(("mysql", 'type = "mysql"'), ("mysql", user), ("mysql", tls),
                 ("mysql", user + 'query = "SELECT 1, NULL"\nexpect = \'^1\\tNULL$\''),
                 ("mysql", user + 'query = "SHOW GLOBAL VARIABLES LIKE \'read_only\'"\nexpect = "OFF"'),
                 ("mysql", tls + 'query = "SHOW STATUS LIKE \'Ssl_cipher\'"\nexpect = \'\\tTLS_\''))

    def mariadb_that_refuses_or_answers_otherwise_is_down(self):
        """MariaDB."""
        user = f'type = "mysql"\nuser = "probe"\npassword = "{PASSWORD}"\n'
        self._down(("mysql", 'type = "mysql"\nuser = "probe"\npassword = "wrong"', "error 1045"),
                   ("mysql", 'type = "mysql"\nuser = "nobody"', "error 1045"),
                   ("mysql", f'type = "mysql"\nuser = "tls"\npassword = "{PASSWORD}"', "error 1045"),
                   ("mysql", user + 'database = "none"', "error 1044"),
                   ("mysql", user + 'query = "SELEC 1"', "error 1064"),
                   ("mysql", user + 'query = "SELECT 2"\nexpect = "^1$"', "\"2\""),
                   ("pgsql", 'type = "mysql"', ""), ("redis", 'type = "mysql"', ""), timeout="1s")

    def postgresql_lets_us_in_and_answers(self):
        """PostgreSQL, with every way of its to ask for a password."""
        self.lab.real.sql(f"SET password_encryption = 'md5'; CREATE ROLE md5user LOGIN PASSWORD '{PASSWORD}'; "
                          f"CREATE ROLE clear LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE trusted LOGIN")
        def user(name, more=""):
            return f'type = "pgsql"\nuser = "{name}"\npassword = "{PASSWORD}"\ndatabase = "postgres"\n{more}'
        recovery = 'query = "SELECT pg_is_in_recovery(), NULL"\nexpect = \'^f\\tNULL$\''
        tls = 'tls = "on"\n' + self._ca("pgsql")
        self._up(("pgsql", 'type = "pgsql"'), ("pgsql", user("probe")), ("pgsql", user("probe", recovery)),
                 ("pgsql", user("probe", tls + recovery)), ("pgsql", user("md5user")), ("pgsql", user("clear", tls)),
                 ("pgsql", user("trusted", recovery)), ("pgsql", 'type = "pgsql"\n' + tls))
        self._down(("pgsql", user("clear"), "clear text"),
                   ("pgsql", user("probe").replace(PASSWORD, "wrong"), "28P01"),
                   ("pgsql", user("md5user").replace(PASSWORD, "wrong"), "28P01"),
                   ("pgsql", user("probe").replace("postgres\"", "none\""), "3D000"),
                   ("pgsql", user("probe", 'query = "SELEC 1"'), "42601"),
                   ("pgsql", user("probe", 'query = "SELECT 1 WHERE false"\nexpect = "1"'), "no row"),
                   ("pgsql", user("probe", recovery.replace("^f", "^t")), "does not match"))

    # -- Redis --------------------------------------------------------------------------------

    def redis_is_asked_for_its_role(self):
        """A master and its replica."""
        login = f'password = "{PASSWORD}"\n'
        self._up(("redis", 'type = "redis"\nrole = "master"\n' + login),
                 ("redis", f'type = "redis"\nuser = "default"\n{login}'),
                 ("rediss", 'type = "rediss"\n' + self._ca("redis") + login),
                 ("replica", 'type = "redis"\nrole = "replica"'))
        self._down(("redis", 'type = "redis"', "NOAUTH"), ("redis", 'type = "redis"\npassword = "x"', "WRONGPASS"),
                   ("replica", 'type = "redis"\nrole = "master"', "its role is replica"),
                   ("redis", 'type = "redis"\nrole = "replica"\n' + login, "its role is master"),
                   ("redis", 'type = "redis"\nget = "health"\n' + login, "does not exist"))

    # -- NTP, SIP, RADIUS ---------------------------------------------------------------------

    def a_time_server_must_have_the_time(self):
        """chronyd with a clock, and one without."""
        self._up(("ntp", 'type = "ntp"\nstratum = 5\noffset = "100ms"'), ("ntp", 'type = "ntp"'))
        self._down(("ntp", 'type = "ntp"\nstratum = 4', "stratum 5, at most 4"),
                   ("nosync", 'type = "ntp"', "not synchronised"))

    def a_sip_server_answers_over_both_transports(self):
        """kamailio."""
        for transport in ("udp", "tcp"):
            keys = f'type = "sip"\ntransport = "{transport}"\n'
            self._up(("sip", keys), ("sip", keys + 'user = "broken"\nstatus = [200, 503]'))
            self._down(("sip", keys + 'user = "broken"', "answered 503 Broken"))

    def a_radius_server_knows_secret_and_user(self):
        """FreeRADIUS."""
        keys = f'type = "radius"\nsecret = "{PASSWORD}"\n'
        user = f'user = "probe"\npassword = "{PASSWORD}"\n'
        self._up(("radius", keys), ("radius", keys + user), ("radius", keys + user + 'expect = "any"'),
                 ("radius", keys + 'user = "probe"\npassword = "wrong"\nexpect = "reject"'))
        self._down(("radius", keys + 'user = "probe"\npassword = "wrong"', "Access-Reject"),
                   ("radius", 'type = "radius"\nsecret = "wrong"', "no answer"), timeout="1500ms")

    # -- UDP and ping -------------------------------------------------------------------------

    def datagrams_and_pings_are_answered(self):
        """Payloads to bind9 and chronyd, pings to the loopback."""
        question = "00 07 01 00 00 01 00 00 00 00 00 00 03 77 77 77 07 65 78 61 6d 70 6c 65 03 63 6f 6d 00 00 01 00 01"
        self._up(("dns", f'type = "udp"\nsend_hex = "{question}"\nexpect = \'(?-u)^\\x00\\x07\''),
                 (1, 'type = "icmp"'),
                 (1, 'type = "icmp"\naddress = "fd99::1"\nsize = 1400'))
        self._up(("ntp", 'type = "udp"\nsend = "nonsense"\nsilence = "up"'), timeout="500ms")
        self._down((9, 'type = "udp"\nsilence = "up"', "port unreachable"), (9, 'type = "udp"', "port unreachable"))
        self._down(("ntp", 'type = "udp"\nsend = "nonsense"', "no answer within 500ms"), timeout="500ms")

    # -- hung, slow, dead ---------------------------------------------------------------------

    def every_server_that_hangs_is_down_in_time(self):
        """All stopped (SIGSTOP): the kernel still accepts their connections."""
        with Stopped(self.net):
            self._down(*[(port, keys, "no answer within 500ms") for port, keys in self._simple()], timeout="500ms")
        self._up(*self._simple())

    def every_server_that_is_slow_but_in_time_is_up(self):
        """All stopped for half a second."""
        with Stopped(self.net) as stopped:
            timer = threading.Timer(0.5, stopped.go_on)
            timer.start()
            self._up(*self._simple(), timeout="5s")
            timer.join()

    def every_server_that_is_dead_is_down_at_once(self):
        """Killed, and started again."""
        names = ("dns", "ldap", "redis", "ntp", "sip", "radius")
        for name in names:
            self.lab.real.stop(name)
        checks = [c for c in self._simple() if c[0] in names]
        found = self._probe(*checks)
        for name in names:
            self.lab.real.again(name)
        for (port, _), (outcome, reason) in zip(checks, found):
            expect(outcome == "down" and ("refused" in reason or "unreachable" in reason), f"{port}: {reason}")

    @staticmethod
    def _simple():
        """A check of each server that it must answer itself."""
        password = f'password = "{PASSWORD}"'
        return [("dns", 'type = "dns"\nname = "www.example.com"'), ("ldap", 'type = "ldap"'),
                ("mysql", 'type = "mysql"'), ("pgsql", 'type = "pgsql"'), ("redis", f'type = "redis"\n{password}'),
                ("ntp", 'type = "ntp"'), ("sip", 'type = "sip"'),
                ("radius", f'type = "radius"\nsecret = "{PASSWORD}"')]


class Stopped:
    """Every process of the servers is stopped until the block ends."""

    def __init__(self, net):
        self.pids = net.pids(bench.NODE)

    def signal(self, number):
        """To each that is still there."""
        for pid in self.pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def go_on(self):
        """They run again."""
        self.signal(signal.SIGCONT)

    def __enter__(self):
        self.signal(signal.SIGSTOP)
        return self

    def __exit__(self, *_):
        self.go_on()
