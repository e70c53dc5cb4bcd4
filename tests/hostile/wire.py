"""HTTP as bytes on a socket, and the daemon's resources as the kernel counts them."""

import json
import os
import socket
import struct
import time

PIECE = 65536


class Answer:
    """One response: status, header fields with names in lower case, body."""

    def __init__(self, status, fields, body):
        self.status, self.fields, self.body = status, fields, body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.fields} {self.body[:200]!r}>"


class Wire:
    """A client connection that sends what it is told."""

    def __init__(self, daemon, timeout=10, receive_buffer=None, path=None):
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path) if path else ("127.0.0.1", daemon.port))
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Closes with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data.encode() if isinstance(data, str) else data)
        return self

    def flood(self, data, most):
        """Sends `data` again and again until the server ends the connection, or `most` bytes are under way. The count."""
        block, sent = data * max(1, PIECE // len(data)), 0
        try:
            while sent < most:
                sent += self.socket.send(block)
        except (ConnectionError, TimeoutError):
            pass
        return sent

    def _more(self):
        piece = self.socket.recv(PIECE)
        self.buffer += piece
        return piece

    def answer(self, head_only=False):
        """The next response."""
        while b"\r\n\r\n" not in self.buffer:
            assert self._more(), f"the connection ended before a response: {self.buffer[:500]!r}"
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        line, *rest = head.decode("ascii").split("\r\n")
        version, status = line.split(" ")[:2]
        assert version == "HTTP/1.1", line
        fields = {}
        for field in rest:
            name, value = field.split(": ", 1)
            assert name.lower() not in fields, f"{name} twice"
            fields[name.lower()] = value
        status = int(status)
        assert "transfer-encoding" not in fields
        if status == 204 or status == 304 or status < 200:
            assert "content-length" not in fields
            return Answer(status, fields, b"")
        length = 0 if head_only else int(fields["content-length"])
        while len(self.buffer) < length:
            assert self._more(), "the connection ended inside a response"
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Answer(status, fields, body)

    def ended(self):
        """Waits for the end of the connection; nothing more may come before it."""
        try:
            while self._more():
                pass
        except ConnectionError:
            pass
        assert self.buffer == b"", f"unexpected: {self.buffer[:500]!r}"
        return True


def get(path="/healthz", fields=""):
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"


def post(body="", fields=None, path="/no-such-thing/"):
    fields = f"Content-Length: {len(body)}\r\n" if fields is None else fields
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}"


def unknown(answer):
    """What an anonymous client gets for a path that is not there."""
    return answer.status in (401, 404)


class Usage:
    """Threads, descriptors and resident memory of a process."""

    def __init__(self, pid):
        self.pid = pid
        self.threads = len(os.listdir(f"/proc/{pid}/task"))
        self.descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        self.rss_mib = int(status["VmRSS"].split()[0]) / 1024

    def __repr__(self):
        return f"{self.threads} threads, {self.descriptors} descriptors, {self.rss_mib:.1f} MiB"

    def back(self, rss_slack_mib=16, within_s=15):
        """Waits until the process uses no more than this again."""
        end = time.monotonic() + within_s
        while True:
            now = Usage(self.pid)
            fits = (
                now.threads <= self.threads + 2
                and now.descriptors <= self.descriptors + 8
                and now.rss_mib <= self.rss_mib + rss_slack_mib
            )
            if fits:
                return now
            assert time.monotonic() < end, f"before: {self}; now: {now}"
            time.sleep(0.05)
