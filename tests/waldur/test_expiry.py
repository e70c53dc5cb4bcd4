"""Expiry: backups past their time are deleted, and nothing else is (cases X1 and X2)."""

from datetime import datetime, timedelta, timezone

import pytest

from helpers.api import ok
from helpers.lab import Lab, ms
from helpers.wait import wait_for

FAST = "[engine]\nexpiry_interval_s = 1"


@pytest.fixture
def fast(start_daemon):
    return Lab(start_daemon(FAST))


def keep_until(lab, backup, minutes):
    moment = datetime.now(timezone.utc) + timedelta(minutes=minutes)
    lab.d.sql("UPDATE backup SET kept_until = ? WHERE uuid = ?", (ms(moment), backup["uuid"]))


def test_X1_backups_past_their_time_are_deleted(fast):
    vm = fast.instance()
    one, ten = fast.backup(vm), fast.backup(vm)
    keep_until(fast, one, -1)
    keep_until(fast, ten, -10)
    for backup in (one, ten):
        fast.wait_gone(backup["url"])
        types = set(fast.event_types(backup))
        assert {"resource_backup_deletion_scheduled", "resource_backup_deletion_succeeded"} <= types
    assert fast.quota("storage")["usage"] == 1  # only the machine's disk is left


def test_X2_others_are_untouched(fast):
    vm = fast.instance()
    forever, future, restoring, working, sentinel = (fast.backup(vm) for _ in range(5))
    keep_until(fast, future, 5)
    fast.force_backup(restoring, "restoring")
    fast.force_backup(working, "backing_up")
    for backup in (restoring, working, sentinel):
        keep_until(fast, backup, -5)
    fast.wait_gone(sentinel["url"])  # a pass has been made
    another = fast.backup(vm)
    keep_until(fast, another, -5)
    fast.wait_gone(another["url"])  # and one more
    assert fast.get(forever)["state"] == "Ready"
    assert fast.get(future)["state"] == "Ready"
    assert fast.get(restoring)["state"] == "Restoring"
    assert fast.get(working)["state"] == "Backing up"
    # Taken on a later pass, when it has come to rest.
    fast.force_backup(restoring, "ready")
    fast.wait_gone(restoring["url"])
    fast.force_backup(working, "ready")


def test_X2_an_erred_backup_past_its_time_is_purged(fast):
    backup = fast.backup(fast.instance())
    fast.force_backup(backup, "erred")
    keep_until(fast, backup, -1)
    fast.wait_gone(backup["url"])


def test_X2_expiry_covers_schedules_that_are_gone_or_inactive(fast):
    vm = fast.instance()
    gone, inactive = fast.schedule(vm), fast.schedule(vm)
    first, second = fast.backup(vm), fast.backup(vm)
    fast.link(first, gone)
    fast.link(second, inactive)
    ok(fast.api.delete(gone["url"]), 204)
    for backup in (first, second):
        keep_until(fast, backup, -1)
        fast.wait_gone(backup["url"])


def test_a_date_set_by_patch_expires(start_daemon):
    lab = Lab(start_daemon(FAST + "\nclock_hold_s = 1", clock="2026-11-22T12:00:00"))
    backup = lab.backup(lab.instance())
    ok(lab.api.patch(backup["url"], {"kept_until": "2026-11-23T12:00:00Z"}))
    lab.d.clock.set("2026-11-23T11:59:00")
    other = lab.backup(lab.instance())
    ok(lab.api.patch(other["url"], {"kept_until": "2026-11-23T11:00:00Z"}))
    lab.wait_gone(other["url"])
    assert lab.get(backup)["state"] == "Ready"
    lab.d.clock.set("2026-11-23T12:00:01")
    lab.wait_gone(backup["url"])


def test_the_space_of_expired_backups_comes_back(start_daemon):
    lab = Lab(start_daemon("[engine]\nexpiry_interval_s = 1\nmaintenance_interval_s = 1"))
    vm = lab.instance([8 << 20])
    backup = lab.backup(vm)
    stored = lab.d.sql("SELECT ifnull(sum(length(data)), 0) FROM pack")[0][0]
    assert stored > 1 << 20
    keep_until(lab, backup, -1)
    lab.wait_gone(backup["url"])
    wait_for(lambda: lab.d.sql("SELECT ifnull(sum(length(data)), 0) FROM pack")[0][0] == 0, "the packs are emptied", 60)
