"""A misbehaving proxy between cofferd and an object store: it passes requests on unchanged, except where a fault is planned."""

import http.client
import re
import socket
import ssl
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET_HEADERS = ("x-auth-token", "x-auth-key", "x-subject-token")


class Proxy:
    """`proxy.plan(fault, method, path, times)` makes the next requests that fit meet a fault: a function of the handler (below).

    `proxy.seen` has method, path and the status of the answer (or the fault's name) of each, `proxy.received` how many bytes of bodies came;
    `proxy.secrets` what must not turn up anywhere.
    """

    def __init__(self, upstream_port, certificate=None):
        self.upstream_port = upstream_port
        self.plans, self.seen, self.secrets = [], [], set()
        self.received = 0
        self.ended_at = None
        self.lock = threading.Lock()
        self.closing = threading.Event()
        proxy = self

        class Handler(_Handler):
            pass

        Handler.proxy = proxy
        self.server = _Server(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def plan(self, fault, method=".*", path=".*", times=1):
        self.plans.append([fault, re.compile(method), re.compile(path), times])

    def take(self, method, path):
        """The fault that this request meets."""
        with self.lock:
            for plan in self.plans:
                fault, wanted_method, wanted_path, times = plan
                if times and wanted_method.fullmatch(method) and wanted_path.search(path):
                    plan[3] -= 1
                    return fault
        return None

    def left(self):
        """Faults that nobody has met."""
        return [(plan[0].__name__, plan[3]) for plan in self.plans if plan[3] and plan[3] < 1000]

    def count(self, method, path=""):
        return sum(1 for m, p, _ in self.seen if m == method and re.search(path, p))

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Connections that end early are what is tested."""


class Refused(Exception):
    """The fault has answered, or cut the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy = None
    timeout = 120

    def log_message(self, *_):
        pass

    def do(self):
        path, _, query = self.path.partition("?")
        entry = [self.command, path, None]
        with self.proxy.lock:
            self.proxy.seen.append(entry)
            self.proxy.secrets |= {self.headers[name] for name in SECRET_HEADERS if self.headers[name]}
            self.proxy.secrets |= set(re.findall(r"X-Amz-Signature=([0-9a-f]+)", query))
        fault = self.proxy.take(self.command, path)
        self.fault = fault
        try:
            if fault:
                entry[2] = fault.__name__
                fault(self, "before", None)
            body = self.body()
            if fault:
                fault(self, "body", body)
            answer = self.forward(body)
            if fault:
                answer = fault(self, "answer", answer) or answer
            entry[2] = entry[2] or answer[0]
            self.answer(*answer)
        except Refused:
            pass

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do

    def body(self):
        length = int(self.headers.get("content-length") or 0)
        with self.proxy.lock:
            self.proxy.received += length
        return self.rfile.read(length)

    def forward(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream_port, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            headers = [(n, v) for n, v in response.getheaders() if n.lower() not in ("connection", "transfer-encoding", "keep-alive")]
            content = response.read()
        finally:
            connection.close()
        for name, value in headers:
            if name.lower() in SECRET_HEADERS:
                self.proxy.secrets.add(value)
        return response.status, headers, content

    def answer(self, status, headers, content):
        self.send_response_only(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def cut(self):
        """Ends the connection as a crash does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise Refused


# ---------------------------------------------------------------- faults


def says(status, body=b"", **headers):
    """Answers so; the server does not see the request."""

    def fault(handler, when, _):
        if when == "before":
            handler.body()
            handler.answer(status, [(name.replace("_", "-"), str(value)) for name, value in headers.items()], body)
            raise Refused

    fault.__name__ = f"says {status}"
    return fault


def passes(handler, when, _):
    """No fault: so a plan can begin later."""


class Gate:
    """Holds requests until it is opened: `gate.before` before the server sees them, `gate.after` when it has done what they ask for."""

    def __init__(self):
        self.met, self.opened = threading.Event(), threading.Event()

    def before(self, handler, when, _):
        if when == "before":
            self._hold()

    def after(self, handler, when, _):
        if when == "answer":
            self._hold()

    def _hold(self):
        self.met.set()
        self.opened.wait(60)


def knows_no_token_before_a_new_login(handler, when, _):
    """A server whose tokens have ended, and which reads no body to say so."""
    if when == "before":
        proxy = handler.proxy
        logins = proxy.count("GET", "/auth/v1.0")
        proxy.ended_at = proxy.ended_at or logins
        if logins == proxy.ended_at:
            if handler.command == "PUT":
                handler.rfile.read(1)
                handler.cut()
            says(401)(handler, when, None)


def refuses_without_reading(handler, when, _):
    """Says 403 and is gone: with so much unread, what it said is lost."""
    if when == "before":
        if handler.command == "PUT":
            handler.rfile.read(1)
        handler.answer(403, [], b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
        if handler.command == "PUT":
            handler.cut()
        raise Refused


def hangs(handler, when, _):
    """Takes the request and never answers."""
    if when == "answer":
        handler.proxy.closing.wait(60)
        handler.cut()


def cuts_the_request(handler, when, _):
    if when == "before":
        handler.rfile.read(int(handler.headers.get("content-length") or 0) // 2)
        handler.cut()


def sends_the_head(handler, answer):
    """Returns the body, of which nothing is sent yet."""
    status, headers, content = answer
    handler.send_response_only(status)
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    return content


def cuts_the_answer(handler, when, answer):
    """Half of the body, and no more."""
    if when == "answer":
        content = sends_the_head(handler, answer)
        handler.wfile.write(content[: len(content) // 2])
        handler.wfile.flush()
        handler.close_connection = True
        raise Refused


def cuts_before_the_answer(handler, when, _):
    """The server has done it, and the client does not learn of it."""
    if when == "answer":
        handler.cut()


def wrong_etag(handler, when, answer):
    if when == "answer":
        status, headers, content = answer
        return status, [(n, "0" * 32 if n.lower() == "etag" else v) for n, v in headers], content


def flips_a_bit(handler, when, answer):
    if when == "answer":
        status, headers, content = answer
        return status, headers, content[:-1] + bytes([content[-1] ^ 1])


def truncates(handler, when, answer):
    """A shorter body, and a head that says so."""
    if when == "answer":
        status, headers, content = answer
        half = content[: len(content) // 2]
        return status, [(n, str(len(half)) if n.lower() == "content-length" else v) for n, v in headers], half


def trickles(handler, when, answer):
    """A byte now and then: never silent, never done."""
    if when == "answer":
        content = sends_the_head(handler, answer)
        for byte in content:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if handler.proxy.closing.wait(0.2):
                break
        handler.cut()


def ignores_the_range(handler, when, answer):
    if when == "body":
        del handler.headers["range"]


def is_elsewhere_in_time(seconds):
    """A server whose clock is off refuses, as S3 does."""

    def fault(handler, when, _):
        if when == "before":
            date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + seconds))
            body = b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>"
            says(403, body, Date=date)(handler, when, None)

    return fault
