"""A network and servers that misbehave. What passes is tried again until it succeeds; what does not is told at once, with what to do; and
no token, signature or secret is told at all (each daemon's log, at trace, is searched for those that the proxy has seen)."""

import json

import pytest

from objects import proxy as faults
from objects.conftest import s3_table, swift_table
from objects.proxy import Proxy
from objects.test_places import STEPS


@pytest.fixture(params=["swift", "s3"])
def start(request, host, proxy, container):
    """A daemon whose repository is behind the proxy, as Swift and as S3."""
    make = {"swift": swift_table, "s3": s3_table}[request.param]

    def start(**more):
        return host({"r": make(proxy.url, container, **more)}, [proxy])

    start.kind = request.param
    return start


PASSING = {
    "answers of 503": (faults.says(503), ".*", 3),
    "an answer of 429": (faults.says(429, retry_after=1), "PUT", 1),
    "an answer of 500": (faults.says(500, b"<html><h1>Internal Error</h1></html>"), "GET", 1),
    "a server that hangs": (faults.hangs, "PUT|GET", 2),
    "a put that is cut": (faults.cuts_the_request, "PUT", 2),
    "an answer that is cut": (faults.cuts_the_answer, "GET", 2),
    "an answer that is lost": (faults.cuts_before_the_answer, "PUT|DELETE", 2),
    "a wrong tag": (faults.wrong_etag, "PUT|GET", 2),
    "a flipped bit": (faults.flips_a_bit, "GET", 1),
    "a truncated body": (faults.truncates, "GET", 1),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(name, start, proxy, ledger):
    fault, method, times = PASSING[name]
    host = start(patience_s=20)
    # Objects alone: a login or a list has no bytes of its own.
    proxy.plan(fault, method, "/test/", times)
    with ledger.fault(f"store: {name}"):
        assert host.works("r") == STEPS


@pytest.mark.fault("store: always out of order")
def test_what_does_not_pass_is_given_up_with_the_last_reason(start, proxy):
    proxy.plan(faults.says(503, b"<html><h1>Service Unavailable</h1></html>"), times=10**9)
    start(patience_s=1).fails("r", "out of order", "503", "Service Unavailable", "tried ")
    assert len(proxy.seen) >= 3


@pytest.mark.fault("store: other bytes are stored than were sent")
def test_a_put_whose_tag_is_always_wrong_is_no_put(start, proxy):
    proxy.plan(faults.wrong_etag, "PUT", "/test/", 10**9)
    start(patience_s=1).fails("r", "put: ", "changed on its way", "the server has stored other bytes (ETag)")


@pytest.mark.fault("store: a slow trickle")
def test_a_trickle_is_no_answer(host, proxy, container):
    """The whole takes too long although something comes in all the time."""
    proxy.plan(faults.trickles, "GET", "/test/")
    host = host({"r": s3_table(proxy.url, container, timeout_s=1)}, [proxy])
    assert host.works("r") == STEPS
    assert "no answer in time (global)" in host.daemon.log()


@pytest.mark.fault("store: an expired token")
def test_a_token_that_is_refused_is_renewed(host, proxy, container):
    proxy.plan(faults.says(401), "PUT|GET", "/test/", 1)
    host = host({"r": swift_table(proxy.url, container)}, [proxy])
    assert host.works("r") == STEPS
    assert proxy.count("GET", "/auth/v1.0") == 2 and proxy.count("PUT") == 2


@pytest.mark.fault("store: an expired token, told by a closed connection")
def test_a_put_that_is_cut_for_its_token_is_found_out(host, proxy, container):
    """Without a look at the reason the same token would be sent again and again."""
    proxy.plan(faults.knows_no_token_before_a_new_login, path="/test/", times=10**9)
    host = host({"r": swift_table(proxy.url, container)}, [proxy])
    assert host.works("r") == STEPS
    assert proxy.count("GET", "/auth/v1.0") == 2 and proxy.count("PUT") == 2


@pytest.mark.fault("store: refused before the body is read")
def test_a_put_that_is_refused_unread_is_told_as_refused(start, proxy):
    proxy.plan(faults.refuses_without_reading, "PUT|HEAD", "/test/", 10**9)
    start().fails("r", "put: ", "refuses access (status 403")
    assert proxy.count("PUT") == 1


@pytest.mark.fault("store: a token that is never good enough")
def test_a_new_token_that_is_refused_too_is_an_error(host, proxy, container):
    proxy.plan(faults.says(401), "PUT", "/test/", 10**9)
    host({"r": swift_table(proxy.url, container)}, [proxy]).fails("r", "put: ", "status 401", "check the user")
    assert proxy.count("GET", "/auth/v1.0") == 2 and proxy.count("PUT") == 2


@pytest.mark.fault("clock: the server's is another")
@pytest.mark.parametrize("seconds, part", [(3600, "3600 s behind the server's"), (-3600, "3600 s before the server's")])
def test_a_clock_that_is_off_is_named(start, proxy, seconds, part):
    proxy.plan(faults.is_elsewhere_in_time(seconds), "PUT", times=10**9)
    error = start().fails("r", "put: ", "RequestTimeTooSkewed")
    assert "clock" in error and (part in error or start.kind == "s3")


@pytest.mark.fault("store: a redirect to another host")
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(start, proxy, swift, status):
    other = Proxy(swift.port)
    try:
        proxy.plan(faults.says(status, location=f"{other.url}/v1/elsewhere?X-Amz-Signature=0123456789"), "PUT|GET", "/test/", 10**9)
        error = start().fails("r", "put: ", f"redirect to {other.url}", "not followed")
        assert "0123456789" not in error
        assert other.seen == [], "neither the token nor the signature went there"
    finally:
        other.close()


@pytest.mark.fault("store: a part of an object where another was asked for")
def test_a_server_that_ignores_ranges_is_found_out(start, proxy):
    proxy.plan(faults.ignores_the_range, "GET", "/test/", 2)
    # A range is not signed, so it can be taken away on the way; the answer is the whole then.
    start().fails("r", "get a range: ", "not expected", "status 200 to a request for a part")


@pytest.mark.fault("store: nobody listens")
def test_a_server_that_is_away_is_named(host, container):
    host = host({"s3": s3_table("http://127.0.0.1:1", container, patience_s=1), "swift": swift_table("http://127.0.0.1:1", container, patience_s=1)})
    host.fails("s3", "http://127.0.0.1:1 cannot be reached", "refused", "(tried ", " times in ")
    host.fails("swift", "http://127.0.0.1:1 cannot be reached")


@pytest.mark.fault("store: a certificate of an unknown authority")
@pytest.mark.parametrize("kind", ["swift", "s3"])
def test_only_a_trusted_certificate_will_do(kind, host, swift, container, certificates):
    proxy = Proxy(swift.port, certificates.host)
    try:
        make = {"swift": swift_table, "s3": s3_table}[kind]
        # Swift's own login names the account's address without https.
        more = {"endpoint": f"{proxy.url}/v1/AUTH_test"} if kind == "swift" else {}
        host = host({
            "right": make(proxy.url, container, ca_file=certificates.ca, **more),
            "wrong": make(proxy.url, container, ca_file=certificates.other, **more),
            "platform": make(proxy.url, container, **more),
            "name": make(proxy.url.replace("127.0.0.1", "localhost"), container, ca_file=certificates.ca, **more),
            "none": make(proxy.url, container, ca_file=certificates.host[1], **more),
        }, [proxy])
        assert host.works("right") == STEPS
        seen = len(proxy.seen)
        for name in ("wrong", "platform", "name"):
            error = host.fails(name, "does not prove that it is what it says", "ca_file")
            assert "tried" not in error, "trying again does not help"
        host.fails("none", "there is no certificate in it")
        assert len(proxy.seen) == seen, "no request was sent to whom is not trusted"
    finally:
        proxy.close()


def test_proxies_of_the_environment_are_not_asked(host, swift, container):
    env = {name: "http://127.0.0.1:1" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")}
    assert host({"r": swift_table(swift.url, container)}, env=env).works("r") == STEPS


def test_transfers_keep_to_their_limit(host, proxy, container):
    """A quarter of a MiB at 128 KiB a second takes some time each way; how long is only bounded from below."""
    host = host({"r": s3_table(proxy.url, container, upload_bytes_per_second=128 << 10, download_bytes_per_second=256 << 10, timeout_s=30)}, [proxy])
    done = host.run("--json", "repository", "test", "r")
    times = {step["step"]: step["seconds"] for step in json.loads(done.stdout)["steps"]}
    assert times["put"] > 1.5 and times["get"] > 0.6, times
