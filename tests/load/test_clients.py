"""64 clients of both dialects beside backups, restores and deletions: each answer is one that its request may have, and afterwards
the daemon has given back what it took."""

import time

import pytest

from faults.bench import LONG, Bench, write_disk
from helpers.api import ok
from helpers.disks import MIB
from helpers.lab import BACKUPS
from helpers.wait import wait_for
from load.clients import Crowd
from load.meter import Meter

SECONDS, CLIENTS = 600 if LONG else 10, 64
CONFIG = "[auth]\nlogin_attempts = 1000000"


def settled(bench):
    """Nothing is at work, and what was promised is done."""
    return not bench.d.sql("SELECT 1 FROM job LIMIT 1") and not bench.d.sql("SELECT 1 FROM backup WHERE state NOT IN ('ready', 'erred') LIMIT 1")


def place(bench):
    """Machines for the clients, and a larger one whose backups and restores go on beside them."""
    machines = [bench.instance([bench.disk(MIB)]) for _ in range(6)]
    volumes = [volume for machine in machines for volume, in bench.d.sql(
        "SELECT v.uuid FROM volume v JOIN instance_volume iv ON iv.volume_id = v.id JOIN instance i ON i.id = iv.instance_id WHERE i.uuid = ?",
        (machine["uuid"],))]
    return machines, volumes, bench.instance([write_disk(bench.d.root / "large.img", 64 * MIB, 64 * MIB, "large")])


def under_load(bench, seconds):
    """Keeps the crowd and the backups beside it at work for so long, and looks at all that must be so then and afterwards. Returns the
    figures, the meter, and how many backups and restores there were."""
    machines, volumes, large = place(bench)
    kept = bench.backup(large)
    # What the first requests of each kind take for good (threads, connections, caches) is there before it is measured.
    with Crowd(bench, CLIENTS, machines, volumes) as warm:
        time.sleep(2)
    assert not warm.figures.wrong, warm.figures.wrong[:5]
    wait_for(lambda: settled(bench), "it comes to rest", 120, 0.2)
    meter, rounds, began = Meter(bench.d), 0, time.monotonic()
    with Crowd(bench, CLIENTS, machines, volumes) as crowd:
        while time.monotonic() - began < seconds and not crowd.figures.wrong:
            backup = bench.backup(large)
            bench.assert_restores(backup, bench.d.root / "large.img")
            ok(bench.api.post(backup["url"] + "delete/"))
            meter.look()
            rounds += 1
    assert not crowd.figures.wrong, crowd.figures.wrong[:5]
    assert rounds and crowd.figures.count > CLIENTS * 5
    for kind, codes in crowd.figures.codes.items():
        assert kind.endswith("refused") or any(code < 300 for code in codes), f"{kind} never succeeded: {codes}"
    wait_for(lambda: settled(bench), "it comes to rest", 300, 0.2)
    assert bench.d.sql("SELECT count(*) FROM backup WHERE state <> 'ready'") == [(0,)], bench.d.sql("SELECT DISTINCT error_message FROM backup")
    meter.assert_bounded(rss_mib=160)
    meter.assert_at_rest()
    bench.assert_usage_is_true()
    bench.assert_restores(kept, bench.d.root / "large.img")
    bench.assert_restores(bench.api.list(BACKUPS, instance=machines[0]["url"])[-1], bench.volume_files(machines[0])[0])
    assert " ERROR " not in bench.d.log(), [line for line in bench.d.log().splitlines() if " ERROR " in line][:5]
    return crowd.figures, meter, rounds


@pytest.mark.alone
@pytest.mark.timeout(1200)
@pytest.mark.fault("load: 64 clients at once beside backups and restores")
def test_64_clients_at_once(start_daemon):
    figures, meter, rounds = under_load(Bench(start_daemon(CONFIG)), SECONDS)
    print(f"\n{figures}\n{figures.count} requests in {SECONDS} s beside {rounds} backups and restores; {meter}")
