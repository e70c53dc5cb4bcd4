"""The gate against hostile and merely buggy clients, over real sockets.

After every test a normal request must be answered within a second, by the same process, and the threads,
descriptors and memory of the daemon must be back where they were.
"""

import os
import resource
import socket
import threading
import time

import pytest

from hostile.wire import Usage, Wire, get, post, unknown
from helpers.wait import wait_for

pytestmark = pytest.mark.alone

HEAD_S, BODY_S, IDLE_S, WRITE_S = 1, 1, 3, 2
LIMITS = f"[http]\nhead_timeout_s = {HEAD_S}\nbody_timeout_s = {BODY_S}\nidle_timeout_s = {IDLE_S}\nwrite_timeout_s = {WRITE_S}\n"
MIB = 1 << 20
MAX_BODY = MIB
MAX_CONNECTIONS = 512


def normal(daemon):
    """A normal request on a new connection, answered within a second."""
    start = time.monotonic()
    with Wire(daemon, timeout=1) as wire:
        answer = wire.send(get()).answer()
    assert answer.status == 200 and answer.json()["status"] == "ok", answer
    assert time.monotonic() - start < 1
    assert daemon.running()


@pytest.fixture(scope="module", autouse=True)
def _many_descriptors():
    """The clients of a test need some thousand descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def warmed(daemon):
    """Uses every worker a few times, then takes the measure."""
    wires = [Wire(daemon) for _ in range(16)]
    for _ in range(20):
        for wire in wires:
            wire.send(post("x" * 5000))
        assert all(unknown(wire.answer()) for wire in wires)
    for wire in wires:
        wire.close()
    time.sleep(0.3)
    return Usage(daemon.pid)


@pytest.fixture(scope="module")
def served(start_module_daemon):
    daemon = start_module_daemon(LIMITS)
    return daemon, warmed(daemon)


@pytest.fixture
def gate(served):
    """The daemon under attack; looked at after each test."""
    daemon, usage = served
    yield daemon
    normal(daemon)
    usage.back()


def refused(daemon, data, *statuses, head_only=False, path=None):
    """Sends bytes that must be refused: a JSON explanation, then the end of the connection, without a wait."""
    start = time.monotonic()
    with Wire(daemon, path=path) as wire:
        try:
            wire.send(data)
        except ConnectionError:
            pass  # refused before all of it was sent
        answer = wire.answer(head_only)
        assert answer.status in statuses, answer
        assert answer.fields["connection"] == "close"
        assert answer.fields["content-type"] == "application/json"
        assert head_only or answer.json()["detail"]
        assert wire.ended()
    assert time.monotonic() - start < HEAD_S, "it must not take a time-out to find this out"
    return answer


LINE_REFUSED = {
    "garbage": (b"GARBAGE\r\n\r\n", 400),
    "two blanks": (b"GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "tab": (b"GET\t/healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "word after the version": (b"GET /healthz HTTP/1.1 x\r\nHost: a\r\n\r\n", 400),
    "bare LF": (b"GET /healthz HTTP/1.1\nHost: a\n\n", 400),
    "bare LF after a field": (b"GET /healthz HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    "bare CR": (b"GET /healthz HTTP/1.1\rHost: a\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /healthz\r\n", None),
    "version 0.9": (b"GET /healthz HTTP/0.9\r\n\r\n", 505),
    "version 1.2": (b"GET /healthz HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "version 2.0": (b"GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "version 3.0": (b"GET /healthz HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 505),
    "TLS": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 400),
    "TRACE": (b"TRACE /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
    "authority form": (b"GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400),
    "other scheme": (b"GET ftp://a/healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "asterisk": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "fragment": (b"GET /healthz#a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no slash": (b"GET healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "bad host": (b"GET /healthz HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "script as host": (b"GET /healthz HTTP/1.1\r\nHost: <script>\r\n\r\n", 400),
    "user in host": (b"GET http://u@a/healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "blank first": (b" GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "continuation line": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    "blank before colon": (b"GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "no colon": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
    "no name": (b"GET /healthz HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
    "unknown expectation": (b"POST /a HTTP/1.1\r\nHost: a\r\nExpect: foo\r\nContent-Length: 1\r\n\r\n", 417),
    "two tokens": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nAuthorization: Token a\r\nAuthorization: Token b\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", LINE_REFUSED)
def test_malformed_head(gate, name):
    data, status = LINE_REFUSED[name]
    if status is None:  # no header may follow, so it takes the end of input to see that this is all
        with Wire(gate) as wire:
            wire.send(data)
            wire.socket.shutdown(socket.SHUT_WR)
            assert wire.answer().status == 400 and wire.ended()
    else:
        refused(gate, data, status)


@pytest.mark.parametrize("byte", [0x00, 0x01, 0x0B, 0x1B, 0x7F, 0x80, 0xC3, 0xFF])
def test_forbidden_byte_in_the_head(gate, byte):
    bad = bytes([byte])
    for before, after in [
        (b"GE", b"T /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
        (b"GET /heal", b"thz HTTP/1.1\r\nHost: a\r\n\r\n"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX", b": y\r\n\r\n"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nCookie: x", b"y\r\n\r\n"),
    ]:
        refused(gate, before + bad + after, 400)


# The hidden request would be answered as a second one if the framing were read in the other way.
HIDDEN = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = f"0\r\n\r\n{HIDDEN}"
FRAMING_REFUSED = {
    "duplicate length": ("Content-Length: 0\r\nContent-Length: 0", (400,)),
    "two lengths": (f"Content-Length: {len(HIDDEN)}\r\nContent-Length: 0", (400,)),
    "list of lengths": ("Content-Length: 0, 0", (400,)),
    "plus sign": ("Content-Length: +26", (400,)),
    "minus sign": ("Content-Length: -1", (400,)),
    "letters": ("Content-Length: abc", (400,)),
    "hexadecimal": ("Content-Length: 0x10", (400,)),
    "blank inside": ("Content-Length: 1 0", (400,)),
    "empty length": ("Content-Length:", (400,)),
    "4e10": ("Content-Length: 40000000000", (413,)),
    "1e12": ("Content-Length: 1000000000000", (413,)),
    "1e15": ("Content-Length: 1000000000000000", (413,)),
    "2^63-1": ("Content-Length: 9223372036854775807", (413,)),
    "2^64-1": ("Content-Length: 18446744073709551615", (413,)),
    "2^64": ("Content-Length: 18446744073709551616", (413,)),
    "one over the limit": (f"Content-Length: {MAX_BODY + 1}", (413,)),
    "chunked and length": ("Transfer-Encoding: chunked\r\nContent-Length: 5", (400,)),
    "length and chunked": ("Content-Length: 5\r\nTransfer-Encoding: chunked", (400,)),
    "identity": ("Transfer-Encoding: identity", (501,)),
    "xchunked": ("Transfer-Encoding: xchunked", (501,)),
    "gzip": ("Transfer-Encoding: gzip", (501,)),
    "gzip, chunked": ("Transfer-Encoding: gzip, chunked", (501,)),
    "chunked, identity": ("Transfer-Encoding: chunked, identity", (501,)),
    "chunked twice": ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", (400,)),
    "chunked in quotes": ('Transfer-Encoding: "chunked"', (501,)),
    "empty coding": ("Transfer-Encoding:", (501,)),
    "coding in a continuation line": ("X: y\r\n Transfer-Encoding: chunked", (400,)),
    "blank before colon": ("Transfer-Encoding : chunked", (400,)),
    "vertical tab": ("Transfer-Encoding: \vchunked", (400,)),
}


@pytest.mark.parametrize("name", FRAMING_REFUSED)
def test_ambiguous_framing(gate, name):
    fields, statuses = FRAMING_REFUSED[name]
    refused(gate, post(fields=fields + "\r\n") + CHUNKED, *statuses)


def test_chunked_with_http_1_0(gate):
    refused(gate, f"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKED}", 400)


CHUNKS_REFUSED = {
    "plus sign": ("+5\r\nabcde\r\n0\r\n\r\n", 400),
    "minus sign": ("-1\r\n", 400),
    "0x": ("0x5\r\nabcde\r\n0\r\n\r\n", 400),
    "blank first": (" 5\r\nabcde\r\n0\r\n\r\n", 400),
    "no size": ("\r\n", 400),
    "not hexadecimal": ("zz\r\n", 400),
    "bare LF after the size": ("5\nabcde\r\n0\r\n\r\n", 400),
    "bare LF after the data": ("5\r\nabcde\n0\r\n\r\n", 400),
    "longer than it says": ("5\r\nabcdef\r\n0\r\n\r\n", 400),
    "overflow": ("ffffffffffffffffff\r\n", 413),
    "2^64-1": ("ffffffffffffffff\r\n", 413),
    "one over the limit": (f"{MAX_BODY + 1:x}\r\n", 413),
    "sum over the limit": ("5\r\nabcde\r\n" + f"{MAX_BODY - 4:x}\r\n", 413),
    "NUL in the extension": ("5;\0\r\n", 400),
    "trailer without colon": ("0\r\nX\r\n\r\n", 400),
    "trailer with blank": ("0\r\nX : y\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", CHUNKS_REFUSED)
def test_malformed_chunks(gate, name):
    data, status = CHUNKS_REFUSED[name]
    refused(gate, post(data + HIDDEN, "Transfer-Encoding: chunked\r\n"), status)


def test_chunked_bodies_are_decoded(gate):
    with Wire(gate) as wire:
        for body in ["0\r\n\r\n", "5\r\nabcde\r\n0\r\n\r\n", "1;a=b\r\n\n\r\n00A\r\n0123456789\r\n0\r\nX: y\r\nContent-Length: 7\r\n\r\n"]:
            assert unknown(wire.send(post(body, "Transfer-Encoding: chunked\r\n")).answer())
            # The end of the body was found: the next request is read as one.
            assert wire.send(get()).answer().status == 200
        wire.send(post("", "Transfer-Encoding: Chunked\r\n"))
        for byte in "3\r\nabc\r\n0\r\n\r\n":
            wire.send(byte)
        assert unknown(wire.answer())


def test_a_body_is_never_read_as_a_request(gate):
    with Wire(gate) as wire:
        wire.send(post(HIDDEN) + get("/healthz"))
        assert unknown(wire.answer()) and wire.answer().status == 200
        chunk = f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n0\r\n\r\n"
        wire.send(post(chunk, "Transfer-Encoding: chunked\r\n") + get(fields="Connection: close\r\n"))
        assert unknown(wire.answer()) and wire.answer().status == 200
        assert wire.ended()
        # A GET may have a body too.
    with Wire(gate) as wire:
        wire.send(get(fields=f"Connection: close\r\nContent-Length: {len(HIDDEN)}\r\n") + HIDDEN)
        assert wire.answer().status == 200 and wire.ended()


def test_the_largest_body_is_read(gate):
    with Wire(gate) as wire:
        assert unknown(wire.send(post("x" * MAX_BODY)).answer())
        assert unknown(wire.send(post(f"{MAX_BODY:x}\r\n{'x' * MAX_BODY}\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n")).answer())
    # Too large, and all of it sent at once: the client can still read why.
    refused(gate, post("x" * (MAX_BODY + 1)), 413)


def test_a_json_body_reaches_the_application(gate):
    body = '{"username": "nobody", "password": "wrong"}'
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with Wire(gate) as wire:
        assert wire.send(post(body, fields, "/api-auth/password/")).answer().status == 401


def test_the_peer_cannot_be_forged(gate):
    for forged in ["X-Cofferd-Peer: unix 0", "x-cofferd-peer: unix 0", "X-COFFERD-PEER: unix 0\r\nX-Cofferd-Peer: proof"]:
        with Wire(gate) as wire:
            assert unknown(wire.send(get("/api/projects/", forged + "\r\n")).answer())


def test_expect_100_continue(gate):
    with Wire(gate) as wire:
        wire.send(post(fields="Expect: 100-continue\r\nContent-Length: 3\r\n"))
        assert wire.answer().status == 100
        assert unknown(wire.send("abc").answer())
        # A client that does not wait gets the final response only.
        assert unknown(wire.send(post("abc", "Expect: 100-continue\r\nContent-Length: 3\r\n")).answer())
        # Nothing to wait for.
        assert wire.send(get(fields="Expect: 100-continue\r\n")).answer().status == 200
        # HTTP/1.0 has no such expectation; it is ignored there.
        wire.send("POST /a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert unknown(wire.send("abc").answer()) and wire.ended()
    # No body is asked for that would be refused.
    refused(gate, post(fields=f"Expect: 100-continue\r\nContent-Length: {MAX_BODY + 1}\r\n"), 413)


def test_http_1_0(gate):
    for fields in ["", "Host: a\r\n", "Connection: keep-alive\r\n"]:
        with Wire(gate) as wire:
            answer = wire.send(f"GET /healthz HTTP/1.0\r\n{fields}\r\n").answer()
            assert answer.status == 200 and answer.fields["connection"] == "close"
            assert answer.json()["status"] == "ok" and wire.ended()


def test_head(gate):
    with Wire(gate) as wire:
        full = wire.send(get("/no-such-thing/")).answer()
        for _ in range(3):
            wire.send(get("/no-such-thing/").replace("GET", "HEAD"))
            answer = wire.answer(head_only=True)
            assert answer.status == full.status
            assert answer.fields["content-length"] == full.fields["content-length"]
        # No body came: the next response begins where it should.
        assert wire.send(get()).answer().status == 200
    refused(gate, "HEAD /healthz HTTP/2.0\r\n\r\n", 505, head_only=True)
    refused(gate, f"HEAD /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n", 413, head_only=True)


def test_targets_and_empty_lines(gate):
    with Wire(gate) as wire:
        assert wire.send("\r\n\r\n" + get()).answer().status == 200
        assert wire.send(get("http://example.org/healthz")).answer().status == 200
        assert wire.send(get("HTTP://[::1]:8776/healthz?a=b")).answer().status == 200
        assert unknown(wire.send(get("/" + "a" * 8000)).answer())
        assert unknown(wire.send(get("/%00%ff/..//?%")).answer())
    refused(gate, "\r\n" * 1000, 400)


def test_connection_close(gate):
    for fields in ["Connection: close\r\n", "Connection: x, CLOSE\r\n", "Connection: a\r\nConnection: close\r\n"]:
        with Wire(gate) as wire:
            answer = wire.send(get(fields=fields) + get()).answer()
            assert answer.status == 200 and answer.fields["connection"] == "close" and wire.ended()


def test_half_closed_client_gets_its_answer(gate):
    with Wire(gate) as wire:
        wire.send(get())
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.answer().status == 200 and wire.ended()
    for cut in [get()[:-2], post("abc", "Content-Length: 5\r\n"), post("5\r\nab", "Transfer-Encoding: chunked\r\n")]:
        with Wire(gate) as wire:
            wire.send(cut)
            wire.socket.shutdown(socket.SHUT_WR)
            assert wire.answer().status == 400 and wire.ended()


ENDLESS = {
    "method": ("", "A", (414,)),
    "target": ("GET /", "a", (414,)),
    "field": ("GET /healthz HTTP/1.1\r\nHost: a\r\nX: ", "a", (431,)),
    "field name": ("GET /healthz HTTP/1.1\r\nHost: a\r\n", "a", (431,)),
    "fields": ("GET /healthz HTTP/1.1\r\nHost: a\r\n", "X: y\r\n", (431,)),
    "empty lines": ("", "\r\n", (400,)),
    "chunk size": (post(fields="Transfer-Encoding: chunked\r\n"), "0", (400,)),
    "chunk extension": (post(fields="Transfer-Encoding: chunked\r\n"), "5;" + "x" * 1000, (400,)),
    "chunk extensions": (post(fields="Transfer-Encoding: chunked\r\n"), "1;" + "x" * 1000 + "\r\na\r\n", (413,)),
    "chunks": (post(fields="Transfer-Encoding: chunked\r\n"), "3e8\r\n" + "x" * 1000 + "\r\n", (413,)),
    "trailers": (post("0\r\n", "Transfer-Encoding: chunked\r\n"), "X: y\r\n", (413,)),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless(gate, name):
    """100 MB and more of one thing: the connection ends long before, and so does the daemon's memory."""
    before = Usage(gate.pid)
    start, again, statuses = ENDLESS[name]
    with Wire(gate) as wire:
        wire.send(start)
        assert wire.flood(again.encode(), 100 * MIB) < 100 * MIB
        assert wire.answer().status in statuses
    with Wire(gate) as wire:
        wire.send(start)
        assert wire.flood(again.encode(), 100 * MIB) < 100 * MIB
        assert Usage(gate.pid).rss_mib < before.rss_mib + 16


def test_a_million_header_fields(gate):
    before = Usage(gate.pid)
    with Wire(gate) as wire:
        try:
            wire.send("GET /healthz HTTP/1.1\r\nHost: a\r\n" + "".join(f"X{i}: y\r\n" for i in range(1_000_000)) + "\r\n")
        except ConnectionError:
            pass
        assert wire.answer().status == 431
    refused(gate, get(fields="".join(f"X{i}: y\r\n" for i in range(101))), 431)
    with Wire(gate) as wire:
        assert wire.send(get(fields="".join(f"X{i}: y\r\n" for i in range(99)))).answer().status == 200
    assert Usage(gate.pid).rss_mib < before.rss_mib + 16


def test_many_http_2_clients(gate):
    """Each of them costs tiny_http a thread and two descriptors for ever."""
    for _ in range(500):
        with Wire(gate) as wire:
            wire.send("GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n")
            assert wire.answer().status == 505


def test_slow_head(gate):
    """A byte now and then does not stretch the deadline."""
    start = time.monotonic()
    wires = [Wire(gate) for _ in range(50)]
    for wire in wires:
        wire.send("GET /healthz HTTP/1.1\r\nHost: a\r\n")
    for _ in range(4):
        time.sleep(HEAD_S / 5)
        for wire in wires:
            wire.send("X")
        normal(gate)
    for wire in wires:
        assert wire.answer().status == 408 and wire.ended()
        wire.close()
    assert time.monotonic() - start < HEAD_S + 3


@pytest.mark.parametrize("framing", ["Content-Length: 100000\r\n", "Transfer-Encoding: chunked\r\n"])
def test_slow_body(gate, framing):
    """Slow bodies hold no worker, and end at the deadline however they trickle."""
    start = time.monotonic()
    wires = [Wire(gate) for _ in range(50)]
    for wire in wires:
        wire.send(post(fields=framing))
    for _ in range(4):
        time.sleep(BODY_S / 5)
        for wire in wires:
            wire.send("1")
        normal(gate)
    for wire in wires:
        assert wire.answer().status == 408 and wire.ended()
        wire.close()
    assert time.monotonic() - start < BODY_S + 3


def pipeline_without_reading(wire, stop, stuck=None):
    """Keeps asking and takes no answer, until the server has had enough. Whether it has. `stuck` is set when all buffers are full."""
    block = get("/no-such-thing/").encode() * 100
    while not stop.is_set():
        try:
            wire.socket.send(block)
        except TimeoutError:
            if stuck:
                stuck.set()
        except ConnectionError:
            return True
    return False


def test_slow_reader(gate):
    """A client that takes no response is cut off; the response does not gather in memory, nor hold a worker."""
    before = Usage(gate.pid)
    wires = [Wire(gate, timeout=0.5, receive_buffer=4096) for _ in range(8)]
    stop, cut = threading.Event(), []
    threads = [threading.Thread(target=lambda w=w: cut.append(pipeline_without_reading(w, stop)), daemon=True) for w in wires]
    for thread in threads:
        thread.start()
    end = time.monotonic() + WRITE_S + 20
    while any(thread.is_alive() for thread in threads) and time.monotonic() < end:
        normal(gate)
        assert Usage(gate.pid).rss_mib < before.rss_mib + 16
        time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join(5)
    for wire in wires:
        wire.close()
    assert cut == [True] * len(wires)


def test_slow_reader_that_takes_a_little(gate):
    """Reading a few bytes now and then does not stretch the deadline of a response for ever."""
    with Wire(gate, timeout=0.2, receive_buffer=2048) as wire:
        stop, cut = threading.Event(), []
        thread = threading.Thread(target=lambda: cut.append(pipeline_without_reading(wire, stop)), daemon=True)
        thread.start()
        end = time.monotonic() + 40
        while thread.is_alive() and time.monotonic() < end:
            try:
                wire.socket.recv(16)
            except (TimeoutError, ConnectionError):
                pass
            time.sleep(0.1)
        stop.set()
        thread.join(5)
        assert cut == [True]


def test_idle_connections_end(gate):
    with Wire(gate) as fresh, Wire(gate) as used:
        assert used.send(get()).answer().status == 200
        start = time.monotonic()
        assert fresh.ended() and used.ended()
        assert time.monotonic() - start < IDLE_S + 3


HOLDERS = {"idle": "", "kept alive": get(), "in a head": "GET /healthz HTTP/1.1\r\nHo", "in a body": post("x", "Content-Length: 9\r\n")}


@pytest.mark.parametrize("holder", HOLDERS)
def test_two_thousand_connections(gate, holder):
    """More than the daemon takes, all at once: a normal client is still served, and resources stay bounded."""
    before = Usage(gate.pid)
    wires = []
    for _ in range(2000):
        wire = Wire(gate)
        wires.append(wire)
        try:
            wire.send(HOLDERS[holder])
        except ConnectionError:
            pass
    time.sleep(0.2)
    for _ in range(20):
        if holder in ("idle", "kept alive"):
            normal(gate)
    now = Usage(gate.pid)
    assert now.threads <= before.threads + MAX_CONNECTIONS + 8
    assert now.descriptors <= before.descriptors + MAX_CONNECTIONS + 8
    assert now.rss_mib < before.rss_mib + 48
    # Those who are slow to send are replaced once they have had a second.
    time.sleep(1)
    for _ in range(20):
        normal(gate)
    for wire in wires:
        wire.close()


def test_large_bodies_are_bounded_together(gate):
    """200 clients that each send all but the last byte of the largest body: most are told to come back later."""
    before = Usage(gate.pid)
    wires = [Wire(gate) for _ in range(200)]
    body = b"x" * (MAX_BODY - 1)
    for wire in wires:
        try:
            wire.send(post(fields=f"Content-Length: {MAX_BODY}\r\n")).send(body)
        except ConnectionError:
            pass
    assert Usage(gate.pid).rss_mib < before.rss_mib + 48
    # Small bodies are not kept out.
    with Wire(gate, timeout=1) as wire:
        assert unknown(wire.send(post("x" * 10_000)).answer())
    statuses = {wire.answer().status for wire in wires}
    assert statuses <= {408, 503} and 503 in statuses
    for wire in wires:
        wire.close()


def test_many_parallel_clients_are_all_answered(gate):
    """tiny_http by itself leaves some of them waiting for another to go."""
    wires = [Wire(gate, timeout=5) for _ in range(300)]
    for _ in range(3):
        for wire in wires:
            wire.send(get())
        for wire in wires:
            assert wire.answer().status == 200
    for wire in wires:
        wire.close()


def test_pipelined_requests_are_answered_in_order(gate):
    with Wire(gate) as wire:
        wire.send((get() + post("abc") + get("/no-such-thing/").replace("GET", "HEAD") + get()) * 50)
        for _ in range(50):
            assert wire.answer().status == 200
            assert unknown(wire.answer())
            assert unknown(wire.answer(head_only=True))
            assert wire.answer().status == 200


def test_twenty_thousand_pipelined_requests(gate):
    before = Usage(gate.pid)
    count = 20_000
    with Wire(gate) as wire:
        sender = threading.Thread(target=lambda: wire.send(get() * count), daemon=True)
        sender.start()
        for done in range(count):
            assert wire.answer().status == 200
            if done % 4000 == 0:
                normal(gate)
                assert Usage(gate.pid).rss_mib < before.rss_mib + 8
        sender.join(5)


@pytest.mark.parametrize("sent", ["", get(), get()[:20], post("x" * 10, "Content-Length: 20\r\n")], ids=["nothing", "request", "head", "body"])
def test_reset_storm(gate, sent):
    """Clients that reset at once, 8000 in all: tiny_http panics at each, and keeps its sockets."""
    for done in range(2000):
        wire = Wire(gate)
        wire.send(sent)
        wire.reset()
        if done % 500 == 0:
            normal(gate)
    assert "panicked" not in gate.log()


def test_no_delayed_acknowledgements(gate):
    """With Nagle's algorithm each response waits 40 ms for the client's acknowledgement."""
    with Wire(gate) as wire:
        start = time.monotonic()
        for _ in range(200):
            assert unknown(wire.send(post("x" * 3000)).answer())
        assert time.monotonic() - start < 200 * 0.02


def test_descriptors_run_out(gate, served):
    """EMFILE in accept(): room is made, and service goes on; nothing is lost when the limit is lifted."""
    soft, hard = resource.prlimit(gate.pid, resource.RLIMIT_NOFILE)
    wires = []
    try:
        resource.prlimit(gate.pid, resource.RLIMIT_NOFILE, (Usage(gate.pid).descriptors + 5, hard))
        wires = [Wire(gate) for _ in range(50)]
        for _ in range(3):
            normal(gate)
    finally:
        resource.prlimit(gate.pid, resource.RLIMIT_NOFILE, (soft, hard))
    normal(gate)
    for wire in wires:
        wire.close()
    warnings = gate.log().count("cannot accept a connection")
    assert 1 <= warnings <= 30, "a warning, but not one for each attempt"


def test_few_descriptors_from_the_start(start_daemon):
    """`ulimit -n 64`."""
    daemon = start_daemon(LIMITS, ulimit_n=64)
    usage = warmed(daemon)
    for sent in ["", get(), "GET /heal", post("x", "Content-Length: 9\r\n")]:
        wires = []
        for _ in range(200):
            wires.append(Wire(daemon))
            try:
                wires[-1].send(sent)
            except ConnectionError:
                pass
        time.sleep(1.2)
        for _ in range(5):
            normal(daemon)
        for wire in wires:
            wire.close()
        normal(daemon)
    usage.back()


def test_a_full_house_answers_503(start_daemon):
    """When every connection is at work, a newcomer is told to come back, and can read it."""
    daemon = start_daemon("[http]\nmax_connections = 4\nwrite_timeout_s = 60\nidle_timeout_s = 60")
    normal(daemon)
    before = Usage(daemon.pid)
    stop = threading.Event()
    readers = [Wire(daemon, timeout=1, receive_buffer=4096) for _ in range(4)]
    stuck = [threading.Event() for _ in readers]
    threads = [threading.Thread(target=pipeline_without_reading, args=(w, stop, s), daemon=True) for w, s in zip(readers, stuck)]
    for thread in threads:
        thread.start()
    assert all(event.wait(60) for event in stuck)

    for sent in ["", get(), get()[:10], post("x" * 100_000)]:
        with Wire(daemon) as wire:
            if sent:
                wire.send(sent)
            answer = wire.answer()
            assert answer.status == 503 and answer.fields["connection"] == "close" and answer.json()["detail"]
            assert int(answer.fields["retry-after"]) >= 1
            assert wire.ended()
    stop.set()
    for wire, thread in zip(readers, threads):
        thread.join(5)
        wire.close()
    wait_for(lambda: Usage(daemon.pid).threads <= before.threads, "the ends of the connections", 10)
    normal(daemon)


def test_slow_clients_are_replaced_when_all_connections_are_taken(start_daemon):
    daemon = start_daemon("[http]\nmax_connections = 4\nhead_timeout_s = 60\nbody_timeout_s = 60\nidle_timeout_s = 60")
    wires = []
    for sent in [get()[:10], post("x", "Content-Length: 9\r\n"), get()[:10], post("x", "Content-Length: 9\r\n")]:
        wires.append(Wire(daemon).send(sent))
        time.sleep(0.1)
    time.sleep(1.1)
    normal(daemon)
    assert wires[0].ended()
    # Only as many as necessary.
    assert wires[2].send(get()[10:]).answer().status == 200
    assert unknown(wires[1].send("x" * 8).answer()) and unknown(wires[3].send("x" * 8).answer())


def test_the_connection_idle_longest_is_replaced(start_daemon):
    daemon = start_daemon("[http]\nmax_connections = 4\nidle_timeout_s = 60")
    wires = []
    for _ in range(4):
        wires.append(Wire(daemon))
        assert wires[-1].send(get()).answer().status == 200
        time.sleep(0.05)
    assert wires[0].send(get()).answer().status == 200
    normal(daemon)
    assert wires[1].ended()
    for kept in (wires[0], wires[2], wires[3]):
        assert kept.send(get()).answer().status == 200


def test_the_unix_socket_has_the_same_gate(gate):
    path = gate.state_dir / "cofferd.sock"
    assert reachable_unix_sockets(gate) <= {str(path)}
    with Wire(gate, path=path) as wire:
        assert wire.send(get()).answer().status == 200
    refused(gate, post(fields="Content-Length: 40000000000\r\n"), 413, path=path)
    refused(gate, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, path=path)
    with Wire(gate, path=path) as wire:
        assert wire.send(get()[:10]).answer().status == 408 and wire.ended()
    # A slow reader of a Unix socket too.
    stop = threading.Event()
    with Wire(gate, path=path, timeout=0.5) as wire:
        threading.Timer(WRITE_S + 10, stop.set).start()
        assert pipeline_without_reading(wire, stop)


def reachable_unix_sockets(daemon):
    """Names through which others can reach the daemon's Unix sockets, by what the kernel says."""
    inodes = set()
    for descriptor in os.listdir(f"/proc/{daemon.pid}/fd"):
        target = os.readlink(f"/proc/{daemon.pid}/fd/{descriptor}")
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    with open("/proc/net/unix") as table:
        rows = [line.split() for line in table][1:]
    mine = [row for row in rows if row[6] in inodes]
    assert len(mine) >= 2, "the public one and the one behind the gate"
    names = {row[7] for row in mine if len(row) > 7}
    return {name for name in names if name.startswith("@") or os.path.exists(name)}


def test_stop_ends_idle_and_slow_connections(start_daemon):
    daemon = start_daemon("[http]\nhead_timeout_s = 2\nidle_timeout_s = 600")
    wires = [Wire(daemon) for _ in range(50)]
    for wire in wires[:25]:
        assert wire.send(get()).answer().status == 200
    late = Wire(daemon).send(get()[:10])
    time.sleep(0.1)
    start = time.monotonic()
    stopper = threading.Thread(target=daemon.stop)
    stopper.start()
    assert all(wire.ended() for wire in wires)
    # A request under way is still answered.
    late.send(get()[10:])
    answer = late.answer()
    assert answer.status == 200 and answer.fields["connection"] == "close" and late.ended()
    stopper.join(20)
    assert not stopper.is_alive() and time.monotonic() - start < 10
