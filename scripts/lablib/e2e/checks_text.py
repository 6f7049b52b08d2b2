"""Checks of text protocols, by `xvip probe`, against the real servers of Debian: up, down, hung, slow, lying."""

import contextlib
import os
import pathlib
import pwd
import subprocess
import sys

from ..bench import ADDRESS, ADDRESS6, Bench, Certificates
from .support import Group, expect, own_balancer

PASSWORD = "hunter2 is no password"
INETD = """
import os, socket, sys
listener = socket.create_server(("%s", int(sys.argv[1])), backlog=64)
while True:
    connection, _ = listener.accept()
    if os.fork() == 0:
        for descriptor in (0, 1):
            os.dup2(connection.fileno(), descriptor)
        os.execv(sys.argv[2], sys.argv[2:])
    connection.close()
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""


@contextlib.contextmanager
def removed_after(name):
    """Shared memory of the service, in the end."""
    try:
        yield
    finally:
        for left in pathlib.Path("/dev/shm").glob(f"{name}-*"):
            left.unlink(missing_ok=True)


def tests(cls):
    """Every test of these groups starts its own servers."""
    for name in cls.tests():
        own_balancer(getattr(cls, name))
    return cls


class OnBench(Group):
    """A group whose lab is a bench."""

    @classmethod
    def make_lab(cls):
        return Bench()

    @property
    def certificates(self):
        """Made once for a bench."""
        if not hasattr(self.lab, "certificates"):
            self.lab.certificates = Certificates(self.lab)
        return self.lab.certificates

    @contextlib.contextmanager
    def serving(self, name, arguments, *ports):
        """A server, until the block ends."""
        process = self.lab.server(name, arguments, *ports)
        try:
            yield process
        finally:
            self.lab.end(process)

    def up(self, port, note=None, **keys):
        """A check with these keys passes."""
        check = self.lab.probe(port, keys, keys.pop("at", ADDRESS))
        expect(check["outcome"] == "up" and check["reason"] == note, f"{keys}: {check}")
        return check

    def down(self, port, reason, **keys):
        """A check with these keys fails, for a reason with these words."""
        check = self.lab.probe(port, keys, keys.pop("at", ADDRESS))
        expect(check["outcome"] == "down" and reason in (check["reason"] or ""), f"{keys}: {check}")
        return check

    def cannot(self, port, reason, **keys):
        """A check with these keys cannot be carried out."""
        check = self.lab.probe(port, keys)
        expect(check["outcome"] == "cannot-check" and reason in (check["reason"] or ""), f"{keys}: {check}")

    def hangs_and_is_slow(self, port, words="no answer within 400ms", **keys):
        """A hung server is down when the time is over; a slow one is up."""
        self.lab.freeze()
        check = self.down(port, words, timeout="400ms", **keys)
        expect(400_000 <= check["took_us"] < 900_000, f"{check}")
        timer = self.lab.thaw_after(0.3)
        check = self.up(port, timeout="5s", **keys)
        timer.join()
        expect(check["took_us"] > 100_000, f"it was not slow: {check}")

    def gone(self, port, **keys):
        """Nobody listens."""
        self.down(port, "connection refused", **keys)

    def password_file(self, text=PASSWORD, mode=0o600):
        """A file with a password."""
        return str(self.lab.file("password", f"{text}\n", mode))


@tests
class ChecksText(OnBench):
    """One kind after the other."""

    # -- HTTP --------------------------------------------------------------------------------------

    def _nginx(self, pair=None):
        """nginx with pages, redirects, errors, and TLS with a certificate of ours."""
        certificate, key = pair or self.certificates.good
        self.lab.file("www/page.html", "all systems fine\n")
        self.lab.file("htpasswd", f"probe:{{PLAIN}}{PASSWORD}\n")
        directory = self.lab.directory
        conf = self.lab.file("nginx.conf", f"""
            daemon off; master_process off; user root; pid {directory}/nginx.pid; error_log stderr;
            events {{ worker_connections 64; }}
            http {{
                access_log off; root {directory}/www;
                client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
                uwsgi_temp_path {directory}; scgi_temp_path {directory};
                server {{
                    listen {ADDRESS}:8080; listen [{ADDRESS6}]:8080;
                    listen {ADDRESS}:8443 ssl; listen [{ADDRESS6}]:8443 ssl;
                    ssl_certificate {certificate}; ssl_certificate_key {key};
                    add_header X-Host $host always;
                    location /moved {{ return 302 /page.html; }}
                    location /broken {{ return 503 "broken"; }}
                    location /private {{ auth_basic x; auth_basic_user_file {directory}/htpasswd; try_files /page.html =404; }}
                    location /echo {{ return 200 "$request_method $http_x_probe $http_user_agent"; }}
                }}
                server {{
                    listen {ADDRESS}:8444 ssl; ssl_certificate {certificate}; ssl_certificate_key {key};
                    ssl_client_certificate {self.certificates.ca}; ssl_verify_client on;
                }}
            }}""")
        return self.serving("nginx", ["/usr/sbin/nginx", "-c", conf, "-p", directory], 8080, 8443, 8444)

    def a_web_server_is_judged_by_status_headers_and_body(self):
        with self._nginx():
            self.up(8080, type="http", path="/page.html", body="systems (fine|good)")
            self.up(8080, type="http", path="/page.html", at=ADDRESS6)
            self.up(8080, type="http", path="/moved")
            self.down(8080, "status 302, expected 200-299", type="http", path="/moved", status="200-299")
            self.up(8080, type="http", path="/broken", status=[200, "500-503"], body="^broken$")
            self.down(8080, "status 503", type="http", path="/broken")
            self.down(8080, '"sick" is not in the body (17 bytes)', type="http", path="/page.html", body="sick")
            self.up(8080, type="http", path="/page.html", method="HEAD", expect_headers={"Content-Length": "^17$"})
            self.up(8080, type="http", path="/page.html", host="shop.test:80", expect_headers={"X-Host": "^shop.test$"})
            self.down(8080, "no header X-None", type="http", path="/page.html", expect_headers={"X-None": "."})
            self.up(8080, type="http", path="/echo", headers={"X-Probe": "seven"}, body="^GET seven xvip/")
            self.up(8080, type="http", path="/echo", method="POST", data="a=b", body="^POST ")
            self.down(8080, "status 400", type="http", path="/page.html", host="a..b")
            self.hangs_and_is_slow(8080, type="http", path="/page.html")
        self.gone(8080, type="http", path="/page.html")

    def a_login_at_a_web_server_takes_its_password_from_a_file(self):
        with self._nginx():
            login = {"type": "http", "path": "/private", "user": "probe"}
            self.down(8080, "status 401", type="http", path="/private")
            self.up(8080, password_file=self.password_file(), **login)
            self.up(8080, password=PASSWORD, **login)
            self.down(8080, "status 401", password_file=self.password_file("wrong"), **login)
            self.cannot(8080, "everybody can read", password_file=self.password_file(mode=0o644), **login)

    def a_web_servers_certificate_is_judged(self):
        ca = str(self.certificates.ca)
        https = {"type": "https", "path": "/page.html"}
        with self._nginx():
            self.up(8443, verify=ca, **https)
            self.up(8443, verify=ca, server_name="web.test", **https)
            self.up(8443, verify=ca, at=ADDRESS6, **https)
            self.down(8443, "not for other.test", verify=ca, server_name="other.test", **https)
            self.down(8443, "not signed by a known authority", **https)
            self.up(8443, verify="off", **https)
            self.cannot(8443, "cannot read /nowhere", verify="/nowhere", **https)
            self.down(8080, "not TLS", verify="off", **https)
            self.down(8443, "status 400", type="http")
            self.down(8444, "status 400", verify=ca, **https)
            certificate, key = self.certificates.make("client", 30)
            self.up(8444, verify=ca, certificate=str(certificate), key=str(key), **https)
            self.hangs_and_is_slow(8443, "no answer within 400ms to the start of TLS", verify=ca, **https)
        with self._nginx(self.certificates.expired):
            self.down(8443, "the certificate has expired", verify=ca, **https)
            self.up(8443, verify="off", **https)
        with self._nginx(self.certificates.stranger):
            self.down(8443, "not signed by an authority in", verify=ca, **https)
            self.up(8443, verify=str(self.certificates.stranger[0]), **https)
        with self._nginx(self.certificates.ending):
            self.up(8443, "the certificate ends in 4 days", verify=ca, expires="14d", **https)
            self.up(8443, verify=ca, expires="2d", **https)

    def openssl_s_server_speaks_every_version_of_tls_that_is_allowed(self):
        certificate, key = self.certificates.good
        common = ["/usr/bin/openssl", "s_server", "-accept", f"{ADDRESS}:4433", "-cert", certificate, "-key", key,
                  "-www", "-quiet"]
        https = {"type": "https", "verify": str(self.certificates.ca)}
        for version in ("-tls1_3", "-tls1_2"):
            with self.serving(f"s_server{version}", [*common, version], 4433):
                self.up(4433, **https)
        with self.serving("s_server-old", [*common, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], 4433):
            self.down(4433, "TLS", **https)

    # -- proxies -----------------------------------------------------------------------------------

    def a_proxy_must_fetch_a_page_or_open_a_tunnel(self):
        conf = self.lab.file("tinyproxy.conf", f"""
            User nobody\nGroup nogroup\nPort 8888\nListen {ADDRESS}\nTimeout 5\nMaxClients 20\nLogLevel Error
            Allow {ADDRESS}\nConnectPort 8443\n""".replace(" " * 12, ""))
        page = {"type": "http_proxy", "url": f"http://{ADDRESS}:8080/page.html"}
        web = self.lab.server("origin", ["/usr/bin/python3", "-m", "http.server", "8080", "--bind", ADDRESS,
                                         "--directory", self._pages()], 8080)
        with self.serving("tinyproxy", ["/usr/bin/tinyproxy", "-d", "-c", conf], 8888):
            self.up(8888, body="systems fine", **page)
            self.up(8080, type="http", path="/page.html")
            self.down(8888, "status 404", type="http_proxy", url=f"http://{ADDRESS}:8080/none")
            self.down(8888, "status 500", type="http_proxy", url="http://10.99.0.1:1/")
            self.down(8888, "status 403", type="http_proxy", tunnel=f"{ADDRESS}:22")
            listener = self.lab.server("tunnelled", ["/usr/bin/python3", "-m", "http.server", "8443", "--bind",
                                                     ADDRESS], 8443)
            self.up(8888, type="http_proxy", tunnel=f"{ADDRESS}:8443")
            listener.end()
            self.hangs_and_is_slow(8888, **page)
        self.gone(8888, **page)
        web.end()

    def squid_is_asked_with_a_login(self):
        if not pathlib.Path("/usr/lib/squid/basic_ncsa_auth").exists():
            raise AssertionError("squid's basic_ncsa_auth is missing")
        directory = self.lab.directory / "squid"
        directory.mkdir(exist_ok=True)
        proxy = pwd.getpwnam("proxy")
        os.chown(directory, proxy.pw_uid, proxy.pw_gid)
        digest = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True)
        users = self.lab.file("squid.users", f"probe:{digest.stdout.strip()}\n")
        conf = self.lab.file("squid.conf", f"""
http_port {ADDRESS}:3128
auth_param basic program /usr/lib/squid/basic_ncsa_auth {users}
auth_param basic children 1 startup=1
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
cache deny all
access_log none
cache_log {directory}/cache.log
pid_filename {directory}/squid.pid
coredump_dir {directory}
pinger_enable off
shutdown_lifetime 0 seconds
visible_hostname lab
""")
        web = self.lab.server("origin", ["/usr/bin/python3", "-m", "http.server", "8080", "--bind", ADDRESS,
                                         "--directory", self._pages()], 8080)
        page = {"type": "http_proxy", "url": f"http://{ADDRESS}:8080/page.html"}
        # Its shared memory is named after the service: of its own here, since nobody else removes it.
        name = f"xve2e{os.getpid()}"
        with removed_after(name), self.serving("squid", ["/usr/sbin/squid", "-N", "-n", name, "-f", conf], 3128):
            self.down(3128, "status 407", **page)
            self.up(3128, user="probe", password_file=self.password_file(), body="systems fine", **page)
            self.down(3128, "status 407", user="probe", password_file=self.password_file("wrong"), **page)
            web.end()
            self.down(3128, "status 503", user="probe", password_file=self.password_file(), **page)
        self.gone(3128, **page)

    def _pages(self):
        return self.lab.file("www/page.html", "all systems fine\n").parent

    # -- mail --------------------------------------------------------------------------------------

    def _postfix(self, **settings):
        """Postfix with port 2525 (plain and STARTTLS), 2465 (TLS) and 2587 (submission with login)."""
        directory = self.lab.directory / "postfix"
        for name in ("etc", "spool", "data"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        user = pwd.getpwnam("postfix")
        os.chown(directory / "data", user.pw_uid, user.pw_gid)
        certificate, key = self.certificates.good
        self.lab.file("postfix/etc/sasl/smtpd.conf",
                      f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN\n"
                      f"sasldb_path: {directory}/sasldb2\n")
        subprocess.run(["saslpasswd2", "-p", "-c", "-f", f"{directory}/sasldb2", "-u", "lab", "probe"],
                       input=PASSWORD, text=True, check=True)
        os.chown(directory / "sasldb2", user.pw_uid, user.pw_gid)
        more = "\n".join(f"{key} = {value}" for key, value in settings.items())
        self.lab.file("postfix/etc/main.cf", f"""
compatibility_level = 3.6
queue_directory = {directory}/spool
data_directory = {directory}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = /dev/stdout
inet_interfaces = {ADDRESS}
inet_protocols = ipv4
myhostname = lab
mydestination =
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
smtpd_tls_security_level = may
cyrus_sasl_config_path = {directory}/etc/sasl
smtpd_sasl_local_domain = lab
{more}
""")
        self.lab.file("postfix/etc/master.cf", """
2525 inet n - n - - smtpd
2465 inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
2587 inet n - n - - smtpd -o smtpd_sasl_auth_enable=yes -o smtpd_tls_auth_only=yes
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
cleanup unix n - n - 0 cleanup
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
""")
        return self.serving("postfix", ["/usr/sbin/postfix", "-c", directory / "etc", "start-fg"], 2525, 2465, 2587)

    def a_mail_server_is_greeted_in_clear_and_over_tls(self):
        ca = str(self.certificates.ca)
        login = {"user": "probe@lab", "password_file": self.password_file()}
        with self._postfix():
            self.up(2525, type="smtp", hello="lb1.test")
            self.up(2525, type="smtp", tls="starttls", verify=ca)
            self.up(2587, type="submission", verify=ca, **login)
            self.up(2465, type="smtps", verify=ca, server_name="web.test")
            self.down(2525, "not for other.test", type="smtp", tls="starttls", verify=ca, server_name="other.test")
            self.down(2525, "answer is not TLS", type="smtps", verify=ca)
            self.down(2465, "no answer", type="smtp", timeout="400ms")
            wrong = {"user": "probe@lab", "password_file": self.password_file("wrong")}
            self.down(2587, "the answer to the login: expected 235, got \"535", type="submission", verify=ca, **wrong)
            self.down(2525, "the answer to the login", type="smtp", user="probe", password="x")
            self.hangs_and_is_slow(2525, "(waiting for the greeting)", type="smtp")
        self.gone(2525, type="smtp")

    def a_mail_server_that_turns_us_away_is_down_and_quoted(self):
        with self._postfix(smtpd_client_restrictions="reject", smtpd_delay_reject="no"):
            self.down(2525, 'the greeting: expected 220, got "554', type="smtp")
        with self._postfix(smtpd_tls_security_level="none"):
            self.down(2525, "does not offer STARTTLS", type="smtp", tls="starttls", verify="off")

    def _dovecot(self, pair=None):
        """Dovecot with IMAP and POP3, in clear (with STARTTLS) and over TLS."""
        certificate, key = pair or self.certificates.good
        directory = self.lab.directory / "dovecot"
        directory.mkdir(exist_ok=True)
        users = self.lab.file("dovecot/users", f"probe:{{PLAIN}}{PASSWORD}\n")
        conf = self.lab.file("dovecot/dovecot.conf", f"""
base_dir = {directory}/run
state_dir = {directory}/state
log_path = /dev/stderr
protocols = imap pop3
listen = {ADDRESS}
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
disable_plaintext_auth = no
auth_failure_delay = 0
mail_location = maildir:{directory}/mail
first_valid_uid = 1
service imap-login {{
  inet_listener imap {{
    port = 10143
  }}
  inet_listener imaps {{
    port = 10993
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = 10110
  }}
  inet_listener pop3s {{
    port = 10995
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = passwd-file
  args = {users}
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={directory}/home
}}
""")
        for name in ("home", "mail"):
            (directory / name).mkdir(exist_ok=True)
            os.chown(directory / name, pwd.getpwnam("nobody").pw_uid, -1)
        return self.serving("dovecot", ["/usr/sbin/dovecot", "-F", "-c", conf], 10143, 10993, 10110, 10995)

    def imap_and_pop3_servers_are_asked_in_clear_and_over_tls(self):
        ca = str(self.certificates.ca)
        with self._dovecot():
            for kind, port, secure in (("imap", 10143, 10993), ("pop3", 10110, 10995)):
                login = {"user": "probe", "password_file": self.password_file()}
                self.up(port, type=kind)
                self.up(port, type=kind, **login)
                self.up(port, type=kind, tls="starttls", verify=ca, **login)
                self.up(secure, type=f"{kind}s", verify=ca, **login)
                self.up(secure, type=f"{kind}s", verify="off")
                wrong = {"user": "probe", "password_file": self.password_file("wrong")}
                self.down(port, "the answer to the login: expected", timeout="5s", type=kind, **wrong)
                self.down(secure, "not for other.test", type=f"{kind}s", verify=ca, server_name="other.test")
                self.down(port, "not TLS", type=f"{kind}s", verify=ca)
                self.hangs_and_is_slow(port, "(waiting for the greeting)", type=kind)
            # One protocol's greeting is a lie in the other.
            self.down(10143, 'the greeting: expected +OK, got "* OK', type="pop3")
            self.down(10110, 'the greeting: expected * OK, got "+OK', type="imap")
            self.down(10143, "expected a reply of SMTP", type="smtp")
        self.gone(10143, type="imap")
        self.gone(10110, type="pop3")
        with self._dovecot(self.certificates.expired):
            self.down(10993, "expired", type="imaps", verify=ca)
            self.down(10110, "expired", type="pop3", tls="starttls", verify=ca)

    # -- files and news ----------------------------------------------------------------------------

    def an_ftp_server_is_greeted_and_takes_a_login(self):
        certificate, key = self.certificates.good
        empty = self.lab.directory / "empty"
        empty.mkdir(exist_ok=True)
        common = f"""listen=YES
background=NO
listen_address={ADDRESS}
anonymous_enable=YES
local_enable=NO
secure_chroot_dir={empty}
anon_root={empty}
seccomp_sandbox=NO
"""
        plain = self.lab.file("vsftpd.conf", common + "listen_port=2121\n")
        anonymous = {"user": "anonymous", "password": "probe@lab"}
        with self.serving("vsftpd", ["/usr/sbin/vsftpd", plain], 2121):
            self.up(2121, type="ftp")
            self.up(2121, type="ftp", **anonymous)
            self.down(2121, "the answer to", type="ftp", user="nobody", password="x", timeout="5s")
            self.down(2121, "the answer to AUTH TLS: expected 234, got", type="ftp", tls="starttls", verify="off")
            self.hangs_and_is_slow(2121, "(waiting for the greeting)", type="ftp")
        self.gone(2121, type="ftp")
        secure = common + (f"ssl_enable=YES\nallow_anon_ssl=YES\nrsa_cert_file={certificate}\n"
                           f"rsa_private_key_file={key}\nssl_ciphers=HIGH\n")
        ca = str(self.certificates.ca)
        with self.serving("vsftpd", ["/usr/sbin/vsftpd", self.lab.file("tls.conf", secure + "listen_port=2121\n")], 2121):
            self.up(2121, type="ftp", tls="starttls", verify=ca, **anonymous)
        implicit = self.lab.file("implicit.conf", secure + "listen_port=2990\nimplicit_ssl=YES\n")
        with self.serving("vsftpd", ["/usr/sbin/vsftpd", implicit], 2990):
            self.up(2990, type="ftps", verify=ca, **anonymous)
            self.down(2990, "no answer", type="ftp", timeout="400ms")

    def a_news_server_is_greeted_and_has_a_group(self):
        # leafnode insists on a name that is worldwide unique: it gets one in a namespace of its own.
        name = "news.xvip-lab.net"
        hosts = self.lab.file("hosts", f"{ADDRESS} {name} news\n127.0.0.1 localhost\n")
        conf = self.lab.file("leafnode.conf", f"server = news.invalid\nexpire = 20\nhostname = {name}\n"
                                              "allowSTRANGERS = 42\n")
        script = (f"hostname {name}; mount --bind {hosts} /etc/hosts; mount --bind {conf} /etc/news/leafnode/config; "
                  f'exec {sys.executable} -c "$0" 1119 /usr/sbin/leafnode')
        inetd = ["unshare", "--mount", "--uts", "sh", "-ec", script, INETD % ADDRESS]
        with self.serving("leafnode", inetd, 1119):
            self.up(1119, type="nntp", timeout="5s")
            self.down(1119, "the answer to GROUP: expected 211, got \"411", type="nntp", group="no.such", timeout="5s")
            self.down(1119, "expected +OK", type="pop3", timeout="5s")
            self.hangs_and_is_slow(1119, "(waiting for the greeting)", type="nntp")
        self.gone(1119, type="nntp")

    # -- anything ----------------------------------------------------------------------------------

    def any_server_of_lines_is_asked_by_send_and_expect(self):
        certificate, key = self.certificates.good
        ca = str(self.certificates.ca)
        with self._dovecot((certificate, key)):
            self.up(10143, type="tcp")
            self.up(10143, type="tcp", expect=r"^\* OK .*Dovecot")
            self.up(10143, type="tcp", send="a NOOP\r\n", expect=r"\na OK ")
            self.up(10993, type="tcp", tls="on", verify=ca, expect=r"^\* OK ")
            self.down(10143, 'expected "^220", got "* OK', type="tcp", expect="^220", timeout="400ms")
            self.down(10993, "not for other.test", type="tcp", tls="on", verify=ca, server_name="other.test")
