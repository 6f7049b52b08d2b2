"""Real servers of Debian's packages, each as one foreground process with everything it writes in a
directory of its own: nothing of the machine's configuration is read or changed."""

import os
import pathlib
import shlex
import shutil
import signal

from . import wait
from .bench import ADDRESS as HOST, ADDRESS6
from .net import run

PASSWORD = "correct horse"

NAMED = """
options {{ directory "{dir}"; listen-on port {port} {{ {host}; }}; listen-on-v6 port {port} {{ {host6}; }};
           pid-file none; session-keyfile none; recursion no; dnssec-validation no; allow-transfer {{ none; }}; }};
controls {{ }};
zone "example.com" {{ type primary; file "{dir}/zone"; }};
zone "0.0.10.in-addr.arpa" {{ type primary; file "{dir}/reverse"; }};
"""
ZONE = """$TTL 60
@ SOA ns1 admin 2024010101 60 60 600 60
@ NS ns1
@ MX 10 mail
@ TXT "v=spf1 " "-all"
ns1 A 10.0.0.1
mail A 10.0.0.2
www A 10.0.0.3
www A 10.0.0.4
www AAAA 2001:db8::3
alias CNAME www
_sip._udp SRV 0 5 5060 www
big TXT {big}
"""
REVERSE = """$TTL 60
@ SOA ns1.example.com. admin.example.com. 1 60 60 600 60
@ NS ns1.example.com.
3 PTR www.example.com.
"""
SLAPD = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
modulepath /usr/lib/ldap
moduleload back_ldif
pidfile {dir}/slapd.pid
TLSCACertificateFile {dir}/cert.pem
TLSCertificateFile {dir}/cert.pem
TLSCertificateKeyFile {dir}/key.pem
access to attrs=userPassword by anonymous auth by * none
access to dn.base="ou=secret,dc=example,dc=com" by users read by * none
access to * by * read
database ldif
directory {dir}/db
suffix dc=example,dc=com
rootdn cn=admin,dc=example,dc=com
rootpw "{password}"
"""
LDIF = """dn: dc=example,dc=com
objectClass: domain
dc: example
description: first
description: healthy

dn: ou=secret,dc=example,dc=com
objectClass: organizationalUnit
ou: secret
"""
KAMAILIO = """
debug=2
log_stderror=yes
children=1
auto_aliases=no
disable_sctp=yes
listen=udp:{host}:{port}
listen=tcp:{host}:{port}
loadmodule "sl.so"
loadmodule "pv.so"
request_route {{
    if (method == "OPTIONS" && $rU == "broken") {{ sl_send_reply("503", "Broken"); exit; }}
    if (method == "OPTIONS") {{ sl_send_reply("200", "OK"); exit; }}
    sl_send_reply("405", "Method Not Allowed");
}}
"""
RADIUSD = """
prefix = /usr
logdir = {dir}
raddbdir = {dir}
radacctdir = {dir}
run_dir = {dir}
libdir = /usr/lib/freeradius
security {{
    status_server = yes
}}
thread pool {{
    start_servers = 1
    max_servers = 2
    min_spare_servers = 1
    max_spare_servers = 1
}}
client local {{
    ipaddr = {host}
    secret = "{password}"
    require_message_authenticator = yes
}}
modules {{
    pap {{
    }}
}}
server default {{
    listen {{
        type = auth
        ipaddr = {host}
        port = {port}
    }}
    authorize {{
        if (&User-Name == "probe") {{
            update control {{
                Cleartext-Password := "{password}"
            }}
        }}
        pap
    }}
    authenticate {{
        Auth-Type PAP {{
            pap
        }}
    }}
}}
"""


class Servers:
    """Every server, started in a node of the lab."""

    def __init__(self, net, node, directory):
        self.net, self.node = net, node
        self.directory = pathlib.Path(directory)
        self.processes = {}
        self.commands = {}
        self.ports = {"dns": 5300, "ldap": 3389, "ldaps": 3636, "mysql": 3306, "pgsql": 5432,
                      "redis": 6379, "rediss": 6380, "replica": 6390, "ntp": 1123, "nosync": 1124,
                      "sip": 5060, "radius": 1812}

    def start(self):
        """Writes configurations, starts all, waits until each listens."""
        self.directory.chmod(0o755)
        for name in ("dns", "ldap", "mysql", "pgsql", "redis", "ntp", "sip", "radius"):
            (self.directory / name).mkdir()
            getattr(self, "_" + name)(self.directory / name)
        for name, port in self.ports.items():
            self.wait(name, port)
        wait.until(lambda: "master_link_status:up" in self.net.exec(
            self.node, "redis-cli", "-h", HOST, "-p", self.ports["replica"], "info", "replication"), "the replica follows", 20)

    def wait(self, name, port=None):
        """Waits until something listens on the port of `name`."""
        port = port or self.ports[name]
        def listens():
            dead = [n for n, p in self.processes.items() if not p.alive()]
            if dead:
                raise wait.Fatal(f"{dead[0]} has ended: {self.processes[dead[0]].tail()}")
            return f":{port} " in self.net.exec(self.node, "ss", "-Hlntu")
        wait.until(listens, f"{name} listens on port {port}", 60)

    def run(self, name, *command):
        """Starts a server and remembers how."""
        self.commands[name] = command
        self.processes[name] = self.net.start(self.node, f"server-{name}", command)

    def again(self, name):
        """Starts one that was stopped."""
        self.run(name, *self.commands[name])
        self.wait(name)

    def stop(self, name):
        """Kills one, with its children."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.popen.wait(5)
        self.net.processes.remove(process)

    # -- one for each -------------------------------------------------------------------------

    def certificate(self, directory):
        """A self-signed certificate for the bench's addresses."""
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
             "30", "-subj", "/CN=lab", "-addext", f"subjectAltName=IP:{HOST},IP:{ADDRESS6}", "-keyout",
             directory / "key.pem", "-out", directory / "cert.pem"])

    def _dns(self, d):
        big = " ".join(f'"{c * 250}"' for c in "abcdefgh")
        (d / "named.conf").write_text(NAMED.format(dir=d, host=HOST, host6=ADDRESS6, port=self.ports["dns"]))
        (d / "zone").write_text(ZONE.format(big=big))
        (d / "reverse").write_text(REVERSE)
        self.run("dns", "named", "-g", "-n", "1", "-c", d / "named.conf")

    def _ldap(self, d):
        (d / "db").mkdir()
        self.certificate(d)
        (d / "slapd.conf").write_text(SLAPD.format(dir=d, password=PASSWORD))
        run(["slapadd", "-f", d / "slapd.conf"], stdin=LDIF)
        urls = f"ldap://{HOST}:{self.ports['ldap']} ldaps://{HOST}:{self.ports['ldaps']}"
        self.run("ldap", "slapd", "-d", "0", "-f", d / "slapd.conf", "-h", urls)

    def _mysql(self, d):
        self.certificate(d)
        data = d / "data"
        run(["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
             "--auth-root-authentication-method=normal", "--skip-test-db"], timeout=120)
        (d / "init.sql").write_text(f"""
            CREATE OR REPLACE USER probe@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('{PASSWORD}');
            CREATE OR REPLACE USER tls@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;
            """.replace("\n", " ").replace("; ", ";\n"))
        self.run("mysql", "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={d}/socket",
                 f"--bind-address={HOST}", f"--port={self.ports['mysql']}", f"--init-file={d}/init.sql",
                 f"--ssl-cert={d}/cert.pem", f"--ssl-key={d}/key.pem", "--innodb-buffer-pool-size=8M")

    def _pgsql(self, d):
        self.certificate(d)
        bins = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        (d / "password").write_text(PASSWORD + "\n")
        shutil.chown(d, "postgres")
        for name in ("key.pem", "cert.pem", "password"):
            shutil.chown(d / name, "postgres")
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        run([*as_postgres, bins / "initdb", "-D", d / "data", "-U", "probe", "-A", "scram-sha-256",
             f"--pwfile={d}/password", "--no-sync"], timeout=120)
        (d / "data/pg_hba.conf").write_text(
            "host all md5user all md5\nhost all clear all password\nhost all trusted all trust\n"
            "host all all all scram-sha-256\n")
        self.run("pgsql", *as_postgres, bins / "postgres", "-D", d / "data", "-h", HOST, "-p", self.ports["pgsql"],
                 "-k", "", "-c", "ssl=on", "-c", f"ssl_cert_file={d}/cert.pem", "-c",
                 f"ssl_key_file={d}/key.pem", "-c", "fsync=off")

    def _redis(self, d):
        self.certificate(d)
        self.run("redis", "redis-server", "--port", self.ports["redis"], "--tls-port", self.ports["rediss"],
                 "--tls-cert-file", d / "cert.pem", "--tls-key-file", d / "key.pem", "--tls-auth-clients", "no",
                 "--bind", HOST, "--dir", d, "--save", "", "--requirepass", PASSWORD, "--repl-diskless-sync-delay", "0")
        (d / "two").mkdir()
        self.run("replica", "redis-server", "--port", self.ports["replica"], "--bind", HOST, "--dir", d / "two",
                 "--save", "", "--protected-mode", "no", "--replicaof", f"{HOST} {self.ports['redis']}", "--masterauth", PASSWORD)

    def _ntp(self, d):
        for name, more in (("ntp", "local stratum 5"), ("nosync", "")):
            (d / f"{name}.conf").write_text(
                f"port {self.ports[name]}\nallow\ncmdport 0\nbindcmdaddress /\npidfile {d}/{name}.pid\n{more}\n")
            self.run(name, "chronyd", "-d", "-x", "-u", "root", "-f", d / f"{name}.conf")

    def _sip(self, d):
        (d / "kamailio.cfg").write_text(KAMAILIO.format(host=HOST, port=self.ports["sip"]))
        self.run("sip", "kamailio", "-f", d / "kamailio.cfg", "-DD", "-E", "-m", "32", "-M", "4", "-Y", d)

    def _radius(self, d):
        (d / "radiusd.conf").write_text(RADIUSD.format(dir=d, host=HOST, port=self.ports["radius"], password=PASSWORD))
        shutil.copy("/etc/freeradius/3.0/dictionary", d / "dictionary")
        self.run("radius", "freeradius", "-f", "-l", "stdout", "-d", d)

    def sql(self, text):
        """Runs statements of PostgreSQL as its owner."""
        command = ["psql", "-h", HOST, "-p", self.ports["pgsql"], "-U", "probe", "-d", "postgres", "-qc", text]
        words = " ".join(shlex.quote(str(c)) for c in command)
        self.net.shell(self.node, f"PGPASSWORD={shlex.quote(PASSWORD)} {words}")
