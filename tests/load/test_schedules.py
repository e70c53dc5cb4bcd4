"""Thousands of schedules are due in the same minute: each runs once, in order, and nobody else waits for that."""

import time
import uuid

import pytest

from faults.bench import LONG
from helpers.api import ok
from helpers.lab import ms, parse_time
from helpers.timed import timed_lab
from helpers.wait import wait_for
from load.meter import Meter

COUNT = 10_000 if LONG else 1_000
START = "2026-11-21T12:00:30"


def many_schedules(lab, count):
    """Machines with one disk and one schedule each, made as rows: they share a disk's content, so a backup takes no room."""
    disks = [lab.d.root / f"many{n}.img" for n in range(count)]
    for disk in disks:
        with open(disk, "wb") as f:
            f.truncate(1 << 20)
    (project,), = lab.d.sql("SELECT id FROM project WHERE uuid = ?", (lab.project["uuid"],))
    now, due = ms(lab.clock.now()), ms(parse_time("2026-11-21T13:00:00Z"))
    connection = lab.d.connect()
    connection.execute("BEGIN IMMEDIATE")
    for disk in disks:
        volume = connection.execute(
            "INSERT INTO volume (uuid, project_id, name, path, kind, size, state, created) VALUES (?, ?, 'v', ?, 'file', 1048576, 'available', ?)",
            (uuid.uuid4().hex, project, str(disk), now)).lastrowid
        instance = connection.execute(
            "INSERT INTO instance (uuid, project_id, name, state, created) VALUES (?, ?, ?, 'offline', ?)",
            (uuid.uuid4().hex, project, f"vm {volume}", now)).lastrowid
        connection.execute("INSERT INTO instance_volume VALUES (?, 0, ?, 1)", (instance, volume))
        connection.execute(
            "INSERT INTO schedule (uuid, instance_id, retention_time, maximal_number, cron, timezone, is_active, next_trigger_at, created)"
            " VALUES (?, ?, 1, 1, '0 13 * * *', 'UTC', 1, ?, ?)", (uuid.uuid4().hex, instance, due, now))
    connection.execute("COMMIT")
    connection.close()


def states(lab):
    return dict(lab.d.sql("SELECT state, count(*) FROM backup WHERE schedule_id IS NOT NULL GROUP BY 1"))


@pytest.mark.alone
@pytest.mark.timeout(1800)
@pytest.mark.fault("load: thousands of schedules due at once")
def test_thousands_of_schedules_due_at_once(start_daemon):
    lab = timed_lab(start_daemon, "[engine]\nexpiry_interval_s = 1", START)
    many_schedules(lab, COUNT)
    lab.d.restart()  # realigns all of them
    meter = Meter(lab.d)
    ages, slowest, began = [], 0.0, time.monotonic()
    lab.clock.set("2026-11-21T13:00:01")
    while (now := states(lab)).get("ready", 0) < COUNT:
        asked = time.monotonic()
        ages.append(ok(lab.api.get("/ops/status/"))["timer_age_s"])
        ok(lab.api.get("/api/openstack-backups/"))
        ok(lab.api.post("/api/projects/", {"name": lab.unique("p")}), 201)
        slowest = max(slowest, time.monotonic() - asked)
        meter.look()
        assert time.monotonic() - began < 1500, now
        time.sleep(0.1)
    print(f"{COUNT} runs in {time.monotonic() - began:.0f} s; slowest three requests together {slowest * 1000:.0f} ms; "
          f"oldest beat of the timer {max(ages)} s; {meter}")
    assert now == {"ready": COUNT}
    runs = lab.d.sql("SELECT schedule_id, trigger_at FROM backup WHERE schedule_id IS NOT NULL ORDER BY id")
    assert [run[0] for run in runs] == sorted({run[0] for run in runs}), "each once, in order"
    assert {run[1] for run in runs} == {ms(parse_time("2026-11-21T13:00:00Z"))}
    assert lab.d.sql("SELECT DISTINCT is_active, next_trigger_at, last_skip_reason FROM schedule") == [
        (1, ms(parse_time("2026-11-22T13:00:00Z")), "")]
    assert max(ages) < 10, "the timer went on beating (systemd would have ended it)"
    meter.assert_bounded(rss_mib=48)

    if LONG:
        # The next day they run again, and what they made the day before goes: pruned by number and out of date at once.
        lab.clock.set("2026-11-22T13:00:05")
        wait_for(lambda: lab.d.sql("SELECT count(*) FROM backup WHERE trigger_at = ?", (ms(parse_time("2026-11-22T13:00:00Z")),)) == [(COUNT,)],
                 "the second runs", 900, 0.5)
        wait_for(lambda: states(lab) == {"ready": COUNT}, "the first ones go", 900, 0.5)
        meter.look()
        meter.assert_bounded(rss_mib=48)
    meter.assert_at_rest()
