"""A daemon that dies while it makes its coffer leaves something that the next start makes a whole coffer of."""

import pytest

from faults.bench import LONG, Bench, inject
from helpers.api import ok
from helpers.disks import MIB, assert_same_bytes


FAULT = "crash: killed while the coffer is made"


def killed_at_start(start_daemon, call, when):
    """Kills a first start at this call. False if there are fewer calls."""
    daemon = start_daemon(start=False, wrapper=inject(f"{call}:signal=KILL:when={when}"))
    try:
        daemon.start()
    except AssertionError:
        died = True
    else:
        died = False
        daemon.stop()
    daemon.kill()
    daemon.process, daemon.wrapper = None, []
    daemon.start()
    assert_is_made(daemon)
    daemon.close()
    return died


def assert_is_made(daemon):
    """The coffer, its first user and the token are as they shall be, and it can be worked with."""
    assert ok(daemon.staff.get("/api/users/"))[0]["username"] == "admin"
    assert daemon.sql("PRAGMA page_size") == [(65536,)] and daemon.sql("PRAGMA auto_vacuum") == [(2,)]
    assert daemon.sql("PRAGMA integrity_check") == [("ok",)]
    assert (daemon.state_dir / "admin.token").stat().st_mode & 0o777 == 0o600
    assert daemon.coffer.stat().st_mode & 0o777 == 0o600
    bench = Bench(daemon)
    disk = bench.disk(MIB)
    backup = bench.backup(bench.instance([disk]))
    assert_same_bytes(disk, bench.volume_files(bench.restore(backup))[0])


@pytest.mark.timeout(900 if LONG else 180)
@pytest.mark.parametrize("call", ["pwrite64", "fsync", "openat"])
def test_killed_while_the_coffer_is_made(start_daemon, ledger, call):
    steps = range(1, 400) if LONG else {"pwrite64": [1, 2, 3, 20, 70], "fsync": [1, 2, 3, 4], "openat": [12, 25]}[call]
    deaths = 0
    for when in steps:
        with ledger.fault(FAULT):
            if not killed_at_start(start_daemon, call, when):
                break
        deaths += 1
    assert deaths >= 2, "choose earlier calls"
