"""Fixtures of the end-to-end tests: the real binary, over real sockets, on real disk images."""

import os
import time
from pathlib import Path

import pytest

from helpers.daemon import Daemon
from helpers.lab import Lab
from helpers.ledger import Account, Ledger

HERE = Path(__file__).resolve().parent
_running = []


@pytest.fixture(scope="session")
def binary():
    """The program under test: target/release/cofferd, or what COFFERD_BIN names."""
    path = Path(os.environ.get("COFFERD_BIN") or HERE.parent / "target" / "release" / "cofferd").resolve()
    if not os.access(path, os.X_OK):
        pytest.fail(f"{path} is missing: run `cargo build --release`, or set COFFERD_BIN", pytrace=False)
    return path


def _factory(binary):
    started = []

    def start(config_extra="", ulimit_n=None, env=None, state_dir=None, wrapper=(), clock=None, start=True, **kw):
        daemon = Daemon(binary, config_extra, ulimit_n, env, state_dir, wrapper, clock, **kw)
        started.append(daemon)
        _running.append(daemon)
        return daemon.start() if start else daemon

    def close():
        problems = []
        for daemon in started:
            try:
                daemon.close(check=getattr(daemon, "check", True))
            except AssertionError as error:
                problems.append(str(error))
            _running.remove(daemon)
        assert not problems, "\n".join(problems)

    return start, close


@pytest.fixture
def start_daemon(binary):
    """A factory of daemons that end with the test. `daemon.check = False` leaves out the look at the coffer afterwards."""
    start, close = _factory(binary)
    yield start
    close()


@pytest.fixture(scope="module")
def start_module_daemon(binary):
    """The same, for daemons that serve all tests of a file."""
    start, close = _factory(binary)
    yield start
    close()


@pytest.fixture(scope="module")
def daemon(start_module_daemon):
    """One daemon for all tests of a file that only add to it."""
    return start_module_daemon()


@pytest.fixture
def lab(daemon):
    """Shortcuts on the shared daemon, with a project of the test's own."""
    return Lab(daemon)


@pytest.fixture
def own(start_daemon):
    """Shortcuts on a daemon of the test's own."""
    return Lab(start_daemon())


@pytest.fixture
def ledger(request):
    """Takes down the faults that a test tries: `with ledger.fault("disk: ...")`."""
    return Ledger(request.node)


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Account())


def pytest_collection_modifyitems(items):
    if os.environ.get("COFFERD_LONG"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="long: set COFFERD_LONG=1 (tests/run --long)"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what the daemons said; one that is about a fault goes into the ledger."""
    mark = item.get_closest_marker("fault")
    if mark and call.when == "call" and not (call.excinfo and call.excinfo.errisinstance(pytest.skip.Exception)):
        item.user_properties.append(("fault", [mark.args[0], "lost" if call.excinfo else "survived"]))
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for daemon in _running:
            report.sections.append((f"log of {daemon.base}", daemon.log()[-6000:]))


@pytest.fixture(scope="session", autouse=True)
def _steady_environment():
    """Proxies of the machine must not stand between the tests and 127.0.0.1."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        os.environ.pop(name, None)
    os.environ["TZ"] = "UTC"
    time.tzset()
