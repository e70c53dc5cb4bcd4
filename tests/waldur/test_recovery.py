"""Starting again after the daemon was stopped or killed in the middle of its work (3.12)."""

import json
import os
import time
from datetime import timedelta

import pytest

from helpers.api import ok
from helpers.daemon import slow_reads
from helpers.disks import MIB, assert_same_bytes
from helpers.lab import Lab, parse_time
from helpers.wait import wait_for


@pytest.fixture
def slow(start_daemon):
    """A daemon with a clock of its own, on which a backup of slow.img lasts seconds."""
    daemon = start_daemon("shutdown_deadline_s = 1", start=False, clock="2026-11-21T12:00:30")
    daemon.wrapper = slow_reads(daemon.root / "slow.img", "1s")
    daemon.start()
    lab = Lab(daemon)
    lab.vm = lab.instance([lab.disk(8 * MIB, name="slow.img")])
    return lab


@pytest.mark.parametrize("how", ["kill", "term"])
def test_47_restart_while_backing_up(slow, how):
    backup = slow.start_backup(slow.vm)
    assert slow.get(backup)["state"] == "Backing up"
    before = slow.quota("storage")["usage"]
    assert before == 16
    slow.d.interrupt(how)
    after = slow.get(backup)
    assert after["state"] == "Erred"
    assert "interrupted" in after["error_message"].lower()
    wait_for(lambda: slow.quota("storage")["usage"] == 8, "the quota is given back")
    assert "resource_backup_creation_failed" in slow.event_types(backup)
    # The next one is good, and the failed one can be removed.
    good = slow.backup(slow.vm)
    assert_same_bytes(slow.d.root / "slow.img", slow.volume_files(slow.restore(good))[0])
    ok(slow.api.post(backup["url"] + "delete/"))
    slow.wait_gone(backup["url"])


@pytest.mark.parametrize("how", ["kill", "term"])
def test_47_restart_while_a_schedule_backs_up(slow, how):
    schedule = slow.schedule(slow.vm, schedule="0 * * * *", is_active=True)
    slow.d.clock.set(parse_time(schedule["next_trigger_at"]) + timedelta(seconds=1))
    backup = wait_for(lambda: slow.backups_of(schedule), "the run begins")[0]
    slow.d.interrupt(how)
    assert slow.get(backup)["state"] == "Erred"
    after = slow.get(schedule)
    assert after["is_active"] is False
    assert "interrupted" in after["error_message"].lower()
    assert "resource_backup_schedule_deactivated" in slow.event_types(schedule)


@pytest.mark.parametrize("how", ["kill", "term"])
def test_47_queued_backups_after_a_restart(slow, how):
    """What had not begun is not lost silently either: it is Erred, or it is made."""
    backups = [slow.start_backup(slow.vm) for _ in range(4)]
    slow.d.interrupt(how)
    for backup in backups:
        after = wait_for(lambda b=backup: (x := slow.get(b))["state"] != "Backing up" and x, "it comes to rest", 60)
        assert after["state"] in ("Erred", "Ready")
        assert after["state"] == "Ready" or after["error_message"]


def test_47_restart_while_restoring(start_daemon):
    lab = Lab(start_daemon())
    disk = lab.disk(256 * MIB)
    vm = lab.instance([disk])
    backup = lab.backup(vm)
    given = {"image": lab.image()["url"], "flavor": lab.flavor()["url"]}
    answer = ok(lab.api.post(backup["url"] + "restore/", given))
    lab.d.restart(kill=True)
    assert lab.get(backup)["state"] == "Ready"
    machine = ok(lab.api.get(answer["instance"]))
    assert machine["state"] == "Erred" and machine["error_message"]
    # Simply run again.
    new = lab.restore(backup)
    assert_same_bytes(disk, lab.volume_files(new)[0])
    ok(lab.api.delete(machine["url"]), 202)
    lab.wait_gone(machine["url"])
    left = [p for p in (lab.d.state_dir / "restored").rglob("*") if p.is_file()]
    assert left == lab.volume_files(new)


def test_47_restart_while_deleting(start_daemon):
    lab = Lab(start_daemon())
    vm = lab.instance([64 * MIB])
    backup = lab.backup(vm)
    ok(lab.api.post(backup["url"] + "delete/"))
    lab.d.restart(kill=True)
    lab.wait_gone(backup["url"])
    assert lab.quota("storage")["usage"] == 64


@pytest.mark.parametrize("state, job, end", [
    ("backing_up", "create", "Erred"), ("backing_up", None, "Erred"),
    ("restoring", "restore", "Ready"), ("restoring", None, "Ready"),
    ("deleting", "delete", None), ("deleting", None, None),
])
def test_47_restart_in_each_transient_state(start_daemon, state, job, end):
    """The state as a kill leaves it, with its job or, in a damaged coffer, without."""
    lab = Lab(start_daemon())
    vm = lab.instance()
    backup, other = lab.backup(vm), lab.backup(vm)
    lab.d.kill()
    lab.force_backup(backup, state)
    if job:
        lab.d.sql(
            "INSERT INTO job (kind, backup_id, target, created) SELECT ?, id, '{}', created_at FROM backup WHERE uuid = ?",
            (job, backup["uuid"]),
        )
    lab.d.start()
    if end is None:
        lab.wait_gone(backup["url"])
    else:
        assert lab.wait_state(backup["url"], end)["state"] == end
        assert lab.d.sql("SELECT count(*) FROM job") == [(0,)]
    assert lab.get(other)["state"] == "Ready"
    lab.restore(other)


def test_everything_is_there_after_a_clean_restart(start_daemon):
    lab = Lab(start_daemon())
    vm = lab.instance()
    backup, schedule = lab.backup(vm), lab.schedule(vm, is_active=True)
    before = [lab.get(x) for x in (vm, backup, schedule)]
    port = lab.d.port
    assert lab.d.stop() == 0
    lab.d.start()
    after = [lab.get(x) for x in (vm, backup, schedule)]
    text = json.dumps(after).replace(f":{lab.d.port}/", f":{port}/")
    assert json.loads(text) == before
    ok(lab.api.get("/api/"))  # the token holds


def test_term_lets_a_short_job_finish(start_daemon):
    """Within the deadline: the backup is Ready, or cleanly Erred; the exit code is 0."""
    lab = Lab(start_daemon("shutdown_deadline_s = 30"))
    disk = lab.disk(16 * MIB)
    backup = lab.start_backup(lab.instance([disk]))
    assert lab.d.stop() == 0
    lab.d.start()
    after = lab.get(backup)
    assert after["state"] in ("Ready", "Erred")
    if after["state"] == "Ready":
        assert_same_bytes(disk, lab.volume_files(lab.restore(after))[0])


def test_kills_at_random_moments(start_daemon):
    """Whatever is Ready after a kill restores byte for byte."""
    rounds = 100 if os.environ.get("COFFERD_LONG") else 8
    lab = Lab(start_daemon("[engine]\nmaintenance_interval_s = 1"))
    disk = lab.disk(48 * MIB)
    vm = lab.instance([disk])
    content = {}
    for n in range(rounds):
        with open(disk, "r+b") as f:
            f.seek((n * 5 % 48) * MIB)
            f.write(os.urandom(MIB // 2))
        backup = lab.start_backup(vm)
        time.sleep((n * 37 % 100) / 400)
        lab.d.restart(kill=True)
        after = lab.get(backup)
        assert after["state"] in ("Ready", "Erred")
        if after["state"] == "Ready":
            content[after["uuid"]] = disk.read_bytes()
        elif n % 2:
            ok(lab.api.post(after["url"] + "delete/"))
        assert lab.d.sql("PRAGMA quick_check") == [("ok",)]
        if len(content) > 3:
            ok(lab.api.delete(f"/api/openstack-backups/{next(iter(content))}/"), 202)
            content.pop(next(iter(content)))
    content[lab.backup(vm)["uuid"]] = disk.read_bytes()
    for uuid, wanted in content.items():
        new = lab.restore(lab.get(f"/api/openstack-backups/{uuid}/"))
        assert lab.volume_files(new)[0].read_bytes() == wanted
