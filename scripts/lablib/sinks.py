"""Servers that take alerts and write down what they got: mail (aiosmtpd) and HTTP.

    python3 sinks.py mail PORT OUT CERT KEY USER PASSWORD   SMTP with STARTTLS and AUTH, both required
    python3 sinks.py http PORT OUT                          answers 204, or what the path says:
                                                            /status/503, /hang, /endless
"""

import http.server
import json
import socketserver
import ssl
import sys
import time


def note(path, record):
    """One JSON object a line, there when the server answers."""
    with open(path, "a", encoding="utf-8") as out:
        out.write(json.dumps(record) + "\n")


def mail(port, out, cert, key, user, password):
    """Takes mail from who logs in under TLS."""
    from aiosmtpd.controller import Controller
    from aiosmtpd.smtp import AuthResult, LoginPassword

    def login(_server, _session, _envelope, mechanism, data):
        good = isinstance(data, LoginPassword) and data == LoginPassword(user.encode(), password.encode())
        return AuthResult(success=good, handled=False, auth_data=mechanism)

    class Handler:
        """aiosmtpd calls it for each mail."""

        async def handle_DATA(self, _server, session, envelope):
            """A whole mail."""
            note(out, {"from": envelope.mail_from, "to": envelope.rcpt_tos, "tls": session.ssl is not None,
                       "login": session.auth_data is not None, "helo": session.host_name,
                       "text": envelope.content.decode("utf-8", "replace")})
            return "250 taken"

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    Controller(Handler(), hostname="127.0.0.1", port=int(port), tls_context=context, require_starttls=True,
               authenticator=login, auth_required=True).start()


class Hook(http.server.BaseHTTPRequestHandler):
    """Takes POSTs."""

    protocol_version = "HTTP/1.1"
    out = None

    def do_POST(self):
        """One alert."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/hang":
            time.sleep(3600)
        if self.path == "/endless":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                self.wfile.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        status = int(self.path.removeprefix("/status/")) if self.path.startswith("/status/") else 204
        note(self.out, {"path": self.path, "status": status, "headers": {k.lower(): v for k, v in self.headers.items()},
                        "body": json.loads(body)})
        self.send_response(status)
        text = b"" if status == 204 else b"not today\n"
        if text:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Quiet."""


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """One thread for each connection."""

    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *_):
        """Clients that go away are what is tested."""


def main():
    """Entry point."""
    kind, port, out, *more = sys.argv[1:]
    if kind == "mail":
        mail(port, out, *more)
        print("ready", flush=True)
        time.sleep(1 << 30)
    Hook.out = out
    server = Server(("127.0.0.1", int(port)), Hook)
    print("ready", flush=True)
    server.serve_forever()


main()
