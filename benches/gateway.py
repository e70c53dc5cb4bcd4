"""Passes connections on to an object store and counts what goes through: `python gateway.py UPSTREAM_PORT LATENCY_MS BYTES_PER_SECOND`.

Prints its port. Each line on standard input is answered with the counts so far; it ends when standard input does. Every request waits for the
latency before it is passed on; each direction has so many bytes a second, 0 for any number. The bytes themselves stay in the kernel (splice), so
that the one who is measured has the processor."""

import fcntl
import json
import os
import re
import socket
import sys
import threading
import time

PIPE = 1 << 20
HEAD = 64 << 10
counts = {"requests": 0, "up": 0, "down": 0}
lock = threading.Lock()


class Line:
    """One direction of the line to the store."""

    def __init__(self, name: str, rate: int):
        self.name, self.rate, self.paid = name, rate, time.monotonic()

    def passed(self, count: int) -> None:
        """Waits until so many bytes could have gone over it."""
        with lock:
            counts[self.name] += count
            if not self.rate:
                return
            self.paid = max(self.paid, time.monotonic() - 0.02) + count / self.rate
            delay = self.paid - time.monotonic()
        if delay > 0:
            time.sleep(delay)


class Direction:
    """What one end of a connection sends to the other."""

    def __init__(self, source: socket.socket, target: socket.socket, line: Line):
        self.source, self.target, self.line = source, target, line
        self.pipe = os.pipe()
        fcntl.fcntl(self.pipe[1], fcntl.F_SETPIPE_SZ, PIPE)

    def splice(self, most: int) -> int:
        """Passes on what is there; 0 at its end."""
        moved = os.splice(self.source.fileno(), self.pipe[1], min(most, PIPE))
        left = moved
        while left:
            left -= os.splice(self.pipe[0], self.target.fileno(), left)
        self.line.passed(moved)
        return moved

    def requests(self, latency: float) -> None:
        """Passes on one request after the other."""
        while head := self.head():
            with lock:
                counts["requests"] += 1
            time.sleep(latency)
            self.target.sendall(head)
            self.line.passed(len(head))
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            left = int(length[1]) if length else 0
            if b"\r\ntransfer-encoding:" in head.lower():
                raise SystemExit("a request of unknown length cannot be told from the next")
            while left:
                moved = self.splice(left)
                if not moved:
                    return
                left -= moved

    def head(self) -> bytes:
        """The head of the next request and no more; nothing at the end."""
        while True:
            seen = self.source.recv(HEAD, socket.MSG_PEEK)
            end = seen.find(b"\r\n\r\n")
            if end >= 0:
                return self.source.recv(end + 4, socket.MSG_WAITALL)
            if not seen or len(seen) == HEAD:
                return b""
            time.sleep(0.001)

    def answers(self) -> None:
        while self.splice(PIPE):
            pass

    def run(self, work) -> None:
        try:
            work()
        except OSError:
            pass  # somebody has hung up
        finally:
            for end in self.pipe:
                os.close(end)
            try:
                self.target.shutdown(socket.SHUT_WR)
            except OSError:
                pass


def serve(client: socket.socket, upstream: int, latency: float, up: Line, down: Line) -> None:
    with client, socket.create_connection(("127.0.0.1", upstream)) as server:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = Direction(server, client, down)
        thread = threading.Thread(target=answers.run, args=(answers.answers,))
        thread.start()
        requests = Direction(client, server, up)
        requests.run(lambda: requests.requests(latency))
        thread.join()


def accept(listener: socket.socket, *arguments) -> None:
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0], *arguments), daemon=True).start()


def main(upstream: str, latency_ms: str, rate: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    up, down = Line("up", int(rate)), Line("down", int(rate))
    threading.Thread(target=accept, args=(listener, int(upstream), int(latency_ms) / 1000, up, down), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    for _ in sys.stdin:
        with lock:
            print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
