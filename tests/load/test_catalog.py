"""Tens of thousands of backups in the catalog: what is asked and done costs as much as with a thousand, or as many times more as
there is more to do."""

import statistics
import time
import uuid
from datetime import timedelta

import pytest

from faults.bench import LONG, Bench
from helpers.api import ok
from helpers.cinder import Cinder
from helpers.disks import MIB
from helpers.lab import ms
from helpers.timed import fire, timed_lab
from helpers.wait import wait_for
from load.meter import Meter

FEW, MANY = 1_000, 100_000 if LONG else 20_000
# So many of them are a schedule's, and so many expire at once.
SCHEDULED, EXPIRED = 20_000, 15_000 if LONG else 1_000
START = "2026-11-21T12:00:30"
ROUNDS = 15
# A page of a list may cost this many times more; the machine is noisy, so what would grow with the backups must grow by far more.
MORE = 8
# These count the rows that match, or skip those before a page: a step in an index for each, in ms.
COUNTING, STEP = {"last page", "of the project", "of the schedule"}, 0.002


def make_backups(lab, instance, schedule, model, first, count):
    """Ready backups that share the data of `model`, each a minute younger than the one before; the oldest expire first."""
    columns = [c[1] for c in lab.d.sql("PRAGMA table_info(backup)")]
    parts = [c[1] for c in lab.d.sql("PRAGMA table_info(volume_backup)")]
    old, = lab.d.sql("SELECT * FROM backup WHERE uuid = ?", (model["uuid"],))
    old = dict(zip(columns, old))
    part, = lab.d.sql("SELECT * FROM volume_backup WHERE backup_id = ?", (old["id"],))
    part = dict(zip(parts, part))
    (schedule_id,), = lab.d.sql("SELECT id FROM schedule WHERE uuid = ?", (schedule["uuid"],))
    start = ms(lab.clock.now() - timedelta(days=300))
    connection = lab.d.connect()
    connection.execute("BEGIN IMMEDIATE")
    into = {table: f"INSERT INTO {table} ({','.join(names)}) VALUES ({','.join('?' * len(names))})"
            for table, names in (("backup", columns), ("volume_backup", parts))}
    for n in range(first, first + count):
        row = old | {"id": None, "uuid": uuid.uuid4().hex, "created_at": start + n * 60_000, "description": f"number {n}"}
        if n < SCHEDULED:
            row |= {"schedule_id": schedule_id, "trigger_at": n}
        backup_id = connection.execute(into["backup"], list(row.values())).lastrowid
        piece = part | {"id": None, "uuid": uuid.uuid4().hex, "backup_id": backup_id, "created": row["created_at"]}
        connection.execute(into["volume_backup"], list(piece.values()))
    connection.execute("COMMIT")
    connection.close()


def median_ms(request):
    def once():
        began = time.perf_counter()
        answer = request()
        assert answer.status_code == 200, answer.text
        return time.perf_counter() - began

    return statistics.median(once() for _ in range(ROUNDS)) * 1000


def questions(lab, some):
    """What clients ask; it may cost no more with more backups, but for COUNTING."""
    cinder = Cinder(lab.d, lab.project["uuid"], lab.d.token)
    api = lambda path: lambda: lab.api.get(path)
    volume = lab.d.sql("SELECT volume_uuid FROM volume_backup LIMIT 1")[0][0]
    part = lab.d.sql("SELECT uuid FROM volume_backup ORDER BY id LIMIT 1")[0][0]
    backups = "/api/openstack-backups/"
    return {
        "first page": api(backups),
        "last page": api(backups + "?page_size=100&page=last"),
        "of the project": api(f"{backups}?project={lab.project['uuid']}"),
        "of the schedule": api(f"{backups}?backup_schedule={some['schedule']['url']}"),
        "one": api(some["backup"]["url"]),
        "in no resting state": api(f"{backups}?state=Backing%20up"),
        "quotas": api("/api/quotas/"),
        "the instance": api(some["instance"]["url"]),
        "the schedule": api(some["schedule"]["url"]),
        "Cinder's first page": lambda: cinder.get("/backups/detail", limit=100),
        "Cinder's of a volume": lambda: cinder.get("/backups", volume_id=str(uuid.UUID(volume)), limit=10),
        "Cinder's next page": lambda: cinder.get("/backups", limit=10, marker=str(uuid.UUID(part))),
        "Cinder's one": lambda: cinder.get("/backups/" + str(uuid.UUID(part))),
        "Cinder's limits": lambda: cinder.get("/limits"),
        "Cinder's usage": lambda: cinder.get(f"/os-quota-sets/{lab.project['uuid']}", usage="True"),
        "status": api("/ops/status/"),
    }


@pytest.mark.alone
@pytest.mark.timeout(1800)
@pytest.mark.fault("load: tens of thousands of backups in the catalog")
def test_tens_of_thousands_of_backups(start_daemon):
    lab = timed_lab(start_daemon, "[engine]\nexpiry_interval_s = 1\nclock_hold_s = 1", START, Bench)
    lab.vm = lab.instance([2 * MIB])
    backup = lab.backup(lab.vm)
    schedule = lab.schedule(lab.vm, schedule="0 13 * * *", is_active=True, retention_time=1, maximal_number_of_backups=SCHEDULED)
    some = {"backup": backup, "schedule": schedule, "instance": lab.vm}
    measured = {}
    for first, count in ((0, FEW), (FEW, MANY - FEW)):
        make_backups(lab, lab.vm, schedule, backup, first, count)
        began = time.monotonic()
        lab.d.restart()
        measured["start"] = [*measured.get("start", []), (time.monotonic() - began) * 1000]
        for what, request in questions(lab, some).items():
            measured[what] = [*measured.get(what, []), median_ms(request)]
    print(*(f"{what}: {few:.1f} ms of {FEW}, {many:.1f} ms of {MANY}" for what, (few, many) in measured.items()), sep="\n")
    allowed = {what: MORE * max(few, 2) + STEP * MANY * (what in COUNTING) for what, (few, _) in measured.items()}
    grown = {what: pair for what, pair in measured.items() if pair[1] > allowed[what]}
    assert not grown, grown

    # What has to look at all of them.
    meter = Meter(lab.d)
    for what, target in (("space", "/ops/space/?page_size=10"), ("stats", "/ops/stats/")):
        began = time.monotonic()
        ok(lab.api.get(target))
        print(f"{what}: {(time.monotonic() - began) * 1000:.0f} ms")
    meter.look()
    # One more run of the schedule than it may keep: the oldest goes.
    began = time.monotonic()
    fire(lab, schedule)
    wait_for(lambda: lab.d.sql("SELECT count(*) FROM backup WHERE schedule_id IS NOT NULL") == [(SCHEDULED,)]
             and lab.d.sql("SELECT min(trigger_at) FROM backup") == [(1,)], "a run, and the oldest is pruned", 120)
    print(f"a run that prunes one of {SCHEDULED}: {time.monotonic() - began:.1f} s")
    # Thousands expire at once. The clients are answered meanwhile.
    lab.d.sql("UPDATE backup SET kept_until = ? WHERE trigger_at <= ?", (ms(lab.clock.now() - timedelta(days=1)), EXPIRED))
    began, ages, asked = time.monotonic(), [], []
    while (left := lab.d.sql("SELECT count(*) FROM backup WHERE trigger_at <= ?", (EXPIRED,))[0][0]):
        at = time.perf_counter()
        ages.append(ok(lab.api.get("/ops/status/"))["timer_age_s"])
        ok(lab.api.get("/api/openstack-backups/"))
        asked.append(time.perf_counter() - at)
        meter.look()
        assert time.monotonic() - began < 900, left
        time.sleep(0.1)
    print(f"{EXPIRED} expired in {time.monotonic() - began:.1f} s; slowest answer {max(asked) * 1000:.0f} ms; "
          f"oldest beat {max(ages)} s; {meter}")
    assert max(ages) < 10
    meter.assert_bounded(rss_mib=64 if not LONG else 128)
    began = time.monotonic()
    lab.gc()
    print(f"gc: {time.monotonic() - began:.1f} s")
    assert lab.d.sql("SELECT count(*) FROM backup WHERE state <> 'ready'") == [(0,)]
    lab.assert_usage_is_true()
    lab.assert_restores(lab.backups_of(lab.vm)[-1], lab.volume_files(lab.vm)[0])
    meter.assert_at_rest(rss_mib=32)
