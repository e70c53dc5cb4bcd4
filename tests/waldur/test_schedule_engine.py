"""The schedule engine: when a schedule fires, what it makes, what it prunes, when it is switched off (cases N1 to N20).

The wall clock of the daemon is driven by the test; its timer looks at it about once a second.
"""

import threading
from datetime import datetime, timedelta, timezone

import pytest

from helpers.api import DENIED, TIMESTAMP, ok
from helpers.disks import MIB
from helpers.lab import BACKUPS, SCHEDULES, Lab, ms, parse_time
from helpers.timed import fire, passes, timed_lab
from helpers.wait import wait_for

START = "2026-11-21T12:00:30"  # a Saturday
HOURLY = "0 * * * *"


@pytest.fixture
def timed(start_daemon):
    """A daemon whose clock stands at START, and a machine on it."""
    return make(start_daemon)


def make(start_daemon, config="", clock=START):
    return timed_lab(start_daemon, config, clock)


# -------------------------------------------------------------------- when


@pytest.mark.parametrize("expression, wanted", [
    ("0 2 * * 4", "2026-11-26T02:00:00.000Z"),
    ("0 2 * * *", "2026-11-22T02:00:00.000Z"),
    ("*/10 * * * *", "2026-11-21T12:10:00.000Z"),
    ("1 1 1 1 1", "2027-01-01T01:01:00.000Z"),
])
def test_N1_N2_N3_next_trigger_at_from_the_frozen_now(timed, expression, wanted):
    for active in (True, False):
        schedule = timed.schedule(timed.vm, schedule=expression, is_active=active)
        assert schedule["next_trigger_at"] == wanted
        assert parse_time(schedule["next_trigger_at"]) > timed.clock.now()


def test_N4_next_trigger_at_in_the_zone_of_the_schedule(start_daemon):
    lab = make(start_daemon, 'timezone = "Asia/Tokyo"', "2026-07-01T10:00:30")
    schedule = lab.schedule(lab.vm, schedule="0 11 * * *", timezone="America/New_York")
    assert schedule["next_trigger_at"] == "2026-07-01T15:00:00.000Z"
    assert schedule["next_trigger_at_local"] == "2026-07-01T11:00:00.000-04:00" or parse_time(
        schedule["next_trigger_at_local"]
    ).utcoffset() == timedelta(hours=-4)
    schedule = lab.schedule(lab.vm, schedule="0 11 * * *")  # the server's zone
    assert schedule["next_trigger_at"] == "2026-07-02T02:00:00.000Z"


def test_N5_changes_recompute(timed):
    schedule = timed.schedule(timed.vm, schedule="0 2 * * *")
    assert schedule["next_trigger_at"] == "2026-11-22T02:00:00.000Z"
    changed = ok(timed.api.patch(schedule["url"], {"schedule": "0 3 * * *"}))
    assert changed["next_trigger_at"] == "2026-11-22T03:00:00.000Z"
    assert changed["is_active"] is False
    timed.clock.set("2026-12-01T12:00:00")
    for body in ({"description": "x"}, {"retention_time": 9}, {"maximal_number_of_backups": 9}, {"schedule": "0 3 * * *"}):
        assert ok(timed.api.patch(schedule["url"], body))["next_trigger_at"] == "2026-11-22T03:00:00.000Z", body
    ok(timed.api.post(schedule["url"] + "activate/"))
    assert timed.get(schedule)["next_trigger_at"] == "2026-12-02T03:00:00.000Z"
    passes(timed)
    assert timed.backups_of(schedule) == []  # no run for the time it slept


def test_N5_activation_by_patch_recomputes_too(timed):
    schedule = timed.schedule(timed.vm, schedule="0 2 * * *")
    timed.clock.set("2026-12-01T12:00:00")
    assert ok(timed.api.patch(schedule["url"], {"is_active": True}))["next_trigger_at"] == "2026-12-02T02:00:00.000Z"


def test_N6_a_change_of_the_zone_recomputes(timed):
    schedule = timed.schedule(timed.vm, schedule="0 2 * * *", timezone="UTC", is_active=True)
    changed = ok(timed.api.patch(schedule["url"], {"timezone": "Asia/Tokyo"}))
    assert changed["next_trigger_at"] == "2026-11-21T17:00:00.000Z"
    assert changed["is_active"] is True


def test_a_run_at_its_time(timed):
    schedule = timed.schedule(timed.vm, schedule="5 12 * * *", is_active=True, retention_time=3)
    timed.clock.set("2026-11-21T12:04:50")
    passes(timed)
    assert timed.backups_of(schedule) == []
    timed.clock.set("2026-11-21T12:04:59.5")
    backup, = timed.wait_backups(schedule, 1)
    moment = parse_time(backup["created_at"])
    trigger = datetime(2026, 11, 21, 12, 5, tzinfo=timezone.utc)
    assert trigger <= moment <= trigger + timedelta(seconds=10)  # within seconds
    assert backup["backup_schedule"] == schedule["url"] and backup["backup_schedule_uuid"] == schedule["uuid"]
    assert backup["description"] == "scheduled backup"
    assert backup["instance"] == timed.vm["url"]
    after = timed.get(schedule)
    assert after["next_trigger_at"] == "2026-11-22T12:05:00.000Z"
    assert after["backups"] == [backup["url"]]
    assert after["is_active"] is True and after["error_message"] == ""


def test_scheduled_backups_are_counted_in_the_metadata(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    names = []
    for n in (1, 2):
        fire(timed, schedule)
        names.append(str(timed.wait_backups(schedule, n)[-1]["metadata"]))
    assert f"Backup#1 of {timed.vm['name']}" in names[0] or '"counter": 1' in names[0] or "'counter': 1" in names[0] or "'backup_counter': 1" in names[0]
    assert names[0] != names[1]


@pytest.mark.parametrize("days", [3, 1, 0])
def test_N7_kept_until(timed, days):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, retention_time=days)
    fire(timed, schedule)
    backup, = timed.wait_backups(schedule, 1)
    if days == 0:
        assert backup["kept_until"] is None
    else:
        kept = parse_time(backup["kept_until"]) - parse_time(backup["created_at"])
        assert abs(kept - timedelta(days=days)) < timedelta(seconds=2)
    assert timed.backup(timed.vm)["kept_until"] is None  # one made by hand is kept for ever


def test_retention_takes_scheduled_backups_away(start_daemon):
    lab = make(start_daemon, "[engine]\nexpiry_interval_s = 1\nclock_hold_s = 1")
    schedule = lab.schedule(lab.vm, schedule="0 2 * * 4", is_active=True, retention_time=2)
    fire(lab, schedule)
    backup, = lab.wait_backups(schedule, 1)
    manual = lab.backup(lab.vm)
    lab.clock.set(parse_time(backup["kept_until"]) + timedelta(seconds=1))
    lab.wait_gone(backup["url"])
    assert lab.get(manual)["state"] == "Ready"
    assert lab.get(schedule)["backups"] == []


def test_N9_inactive_overdue_future(timed):
    idle, overdue, future = (timed.schedule(timed.instance(), schedule=HOURLY, is_active=a) for a in (False, True, True))
    for schedule, minutes in ((idle, -10), (overdue, -10), (future, 2)):
        timed.d.sql(
            "UPDATE schedule SET next_trigger_at = ? WHERE uuid = ?",
            (ms(timed.clock.now() + timedelta(minutes=minutes)), schedule["uuid"]),
        )
    timed.wait_backups(overdue, 1)
    passes(timed)
    assert len(timed.backups_of(overdue)) == 1
    assert timed.backups_of(idle) == [] and timed.backups_of(future) == []
    assert parse_time(timed.get(overdue)["next_trigger_at"]) > timed.clock.now()


def test_N10_N11_N12_an_overdue_run_once_then_the_next(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    timed.clock.set("2026-11-21T13:10:00")
    timed.wait_backups(schedule, 1)
    assert timed.get(schedule)["next_trigger_at"] == "2026-11-21T14:00:00.000Z"
    passes(timed)
    passes(timed)
    assert len(timed.backups_of(schedule)) == 1
    timed.clock.set("2026-11-21T14:00:01")
    timed.wait_backups(schedule, 2)


def test_47_one_catch_up_after_a_jump_of_the_clock(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    timed.clock.advance(30 * 3600)
    timed.wait_backups(schedule, 1)
    passes(timed)
    assert len(timed.backups_of(schedule)) == 1
    assert timed.get(schedule)["next_trigger_at"] == "2026-11-22T19:00:00.000Z"


def test_47_one_catch_up_after_downtime(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    idle = timed.schedule(timed.instance(), schedule=HOURLY, is_active=False)
    assert timed.d.stop() == 0
    timed.clock.set("2026-11-25T09:30:00")
    timed.d.start()
    timed.wait_backups(schedule, 1)
    passes(timed)
    assert len(timed.backups_of(schedule)) == 1
    assert timed.get(schedule)["next_trigger_at"] == "2026-11-25T10:00:00.000Z"
    assert timed.backups_of(idle) == []


def test_a_clock_set_back_makes_no_second_run(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    timed.clock.set("2026-11-21T13:00:01")
    timed.wait_backups(schedule, 1)
    timed.clock.set("2026-11-21T12:30:00")
    passes(timed)
    timed.clock.set("2026-11-21T13:00:02")
    passes(timed)
    assert len(timed.backups_of(schedule)) == 1
    timed.clock.set("2026-11-21T14:00:01")
    timed.wait_backups(schedule, 2)


def test_runs_once_per_trigger_instant_across_kills(timed):
    """Killed right after the run began: the instant is not run a second time."""
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    timed.clock.set("2026-11-21T13:00:01")
    wait_for(lambda: timed.backups_of(schedule), "the run begins")
    timed.d.restart(kill=True)
    passes(timed)
    found = timed.backups_of(schedule)
    assert len(found) == 1 and found[0]["state"] in ("Ready", "Erred")
    if found[0]["state"] == "Erred":
        assert timed.get(schedule)["is_active"] is False


def test_two_schedules_of_one_instance_at_the_same_instant(timed):
    one = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    two = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    timed.clock.set("2026-11-21T13:00:01")
    timed.wait_backups(one, 1)
    timed.wait_backups(two, 1)


def test_47_dst_gap_runs_once_shifted(start_daemon):
    lab = make(start_daemon, clock="2027-03-27T12:00:00")
    schedule = lab.schedule(lab.vm, schedule="30 1 * * *", timezone="Europe/London", is_active=True)
    assert schedule["next_trigger_at"] == "2027-03-28T01:30:00.000Z"
    lab.clock.set("2027-03-28T01:29:50")
    passes(lab)
    assert lab.backups_of(schedule) == []
    lab.clock.set("2027-03-28T01:30:01")
    lab.wait_backups(schedule, 1)
    passes(lab)
    assert len(lab.backups_of(schedule)) == 1
    assert lab.get(schedule)["next_trigger_at"] == "2027-03-29T00:30:00.000Z"


def test_47_dst_repeated_hour_runs_once(start_daemon):
    lab = make(start_daemon, clock="2027-10-30T12:00:00")
    schedule = lab.schedule(lab.vm, schedule="30 1 * * *", timezone="Europe/London", is_active=True)
    assert schedule["next_trigger_at"] == "2027-10-31T00:30:00.000Z"
    lab.clock.set("2027-10-31T00:30:01")
    lab.wait_backups(schedule, 1)
    lab.clock.set("2027-10-31T01:30:01")
    passes(lab)
    assert len(lab.backups_of(schedule)) == 1
    assert lab.get(schedule)["next_trigger_at"] == "2027-11-01T01:30:00.000Z"


def test_a_new_schedule_re_arms_the_timer(timed):
    """Made while the timer sleeps towards a later one."""
    timed.schedule(timed.vm, schedule="0 2 * * 4", is_active=True)
    soon = timed.schedule(timed.instance(), schedule="2 12 * * *", is_active=True)
    timed.clock.set("2026-11-21T12:02:00.5")
    timed.wait_backups(soon, 1, timeout=15)


# -------------------------------------------------------------------- how many


def settle(lab, schedule, count):
    """Waits until the schedule has exactly `count` backups, all Ready."""
    return lab.wait_backups(schedule, count)


def old_backups(lab, schedule, ages, kept_until=None):
    """Ready backups of the schedule, made so many minutes ago."""
    made = []
    for minutes in ages:
        backup = lab.backup(lab.vm)
        lab.link(backup, schedule, kept_until)
        lab.age(backup, minutes * 60)
        made.append(backup)
    return made


def test_N8_prune_to_one(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=1)
    old = old_backups(timed, schedule, [20, 10])
    fire(timed, schedule)
    new, = wait_for(
        lambda: (f := timed.backups_of(schedule)) and len(f) == 1 and f[0]["uuid"] not in [b["uuid"] for b in old] and f,
        "only the new backup is left",
    )
    assert new["state"] == "Ready"
    for backup in old:
        assert timed.api.get(backup["url"]).status_code == 404
    assert parse_time(timed.get(schedule)["next_trigger_at"]) > timed.clock.now()
    assert "resource_backup_schedule_cleaned_up" in timed.event_types(schedule)


def test_N13_never_more_than_the_maximum_settled(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=3)
    seen = []
    for n in range(1, 6):
        fire(timed, schedule)
        wait_for(
            lambda: (f := timed.backups_of(schedule)) and len(f) == min(n, 3) and all(b["state"] == "Ready" for b in f)
            and f[-1]["uuid"] not in seen,
            f"run {n} has settled",
        )
        seen.append(timed.backups_of(schedule)[-1]["uuid"])
    assert [b["uuid"] for b in timed.backups_of(schedule)] == seen[-3:]


def test_the_old_one_stays_until_the_new_one_is_ready(start_daemon):
    """With a maximum of one there is always a Ready backup to restore from."""
    lab = make(start_daemon)
    lab.vm = lab.instance([16 * MIB])
    schedule = lab.schedule(lab.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=1)
    fire(lab, schedule)
    first, = lab.wait_backups(schedule, 1)
    stop, without = threading.Event(), []

    def watch():
        while not stop.is_set():
            states = [b["state"] for b in lab.backups_of(schedule)]
            if "Ready" not in states:
                without.append(states)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        fire(lab, schedule)
        lab.wait_gone(first["url"])
        settle(lab, schedule, 1)
    finally:
        stop.set()
        watcher.join()
    assert without == []


def test_N14_raising_the_maximum(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=2)
    old = old_backups(timed, schedule, [20, 10])
    ok(timed.api.patch(schedule["url"], {"maximal_number_of_backups": 3}))
    fire(timed, schedule)
    found = settle(timed, schedule, 3)
    assert [b["uuid"] for b in found[:2]] == [b["uuid"] for b in old]


def test_lowering_the_maximum_waits_for_the_next_run(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=5)
    old_backups(timed, schedule, [30, 20, 10])
    ok(timed.api.patch(schedule["url"], {"maximal_number_of_backups": 1}))
    passes(timed)
    assert len(timed.backups_of(schedule)) == 3
    fire(timed, schedule)
    settle(timed, schedule, 1)


def test_N15_the_count_wins_over_kept_until(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=1, retention_time=30)
    old = old_backups(timed, schedule, [30, 20, 10], kept_until=ms(timed.clock.now() + timedelta(days=30)))
    fire(timed, schedule)
    for backup in old:
        timed.wait_gone(backup["url"])
    settle(timed, schedule, 1)


def test_N16_only_the_oldest_goes(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=3)
    oldest, middle, newest = old_backups(timed, schedule, [30, 20, 10])
    fire(timed, schedule)
    timed.wait_gone(oldest["url"])
    found = settle(timed, schedule, 3)
    assert [b["uuid"] for b in found[:2]] == [middle["uuid"], newest["uuid"]]


def test_N17_what_is_already_going_is_not_counted(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=2)
    going, ready, erred = old_backups(timed, schedule, [30, 20, 10])
    timed.force_backup(going, "deleting")
    timed.force_backup(erred, "erred")
    fire(timed, schedule)
    wait_for(lambda: [b["state"] for b in timed.backups_of(schedule)].count("Ready") == 2, "the run is Ready")
    passes(timed)
    assert timed.get(ready)["state"] == "Ready"
    assert timed.get(erred)["state"] == "Erred"
    timed.force_backup(going, "ready")


def test_a_victim_that_is_being_restored_is_left_for_later(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=1)
    locked, = old_backups(timed, schedule, [10])
    timed.force_backup(locked, "restoring")
    fire(timed, schedule)
    wait_for(lambda: "Ready" in [b["state"] for b in timed.backups_of(schedule)], "the run is Ready")
    passes(timed)
    assert timed.get(locked)["state"] == "Restoring"
    timed.force_backup(locked, "ready")
    fire(timed, schedule)
    timed.wait_gone(locked["url"])
    settle(timed, schedule, 1)


def test_others_backups_never_count(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=1)
    other = timed.schedule(timed.vm, schedule="0 2 * * 4", maximal_number_of_backups=1)
    manual = timed.backup(timed.vm)
    others, = old_backups(timed, other, [10])
    for _ in range(2):
        fire(timed, schedule)
        settle(timed, schedule, 1)
    passes(timed)
    assert timed.get(manual)["state"] == "Ready" and timed.get(others)["state"] == "Ready"


# -------------------------------------------------------------------- failures and skips


def test_N18_quota_full(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    timed.set_quota("storage", timed.quota("storage")["usage"])
    fire(timed, schedule)
    after = wait_for(lambda: (s := timed.get(schedule))["is_active"] is False and s, "the schedule is switched off")
    assert after["error_message"].startswith("Failed to schedule")
    assert "storage" in after["error_message"]
    assert timed.backups_of(schedule) == []
    event = [e for e in timed.events(scope=schedule["url"]) if e["event_type"] == "resource_backup_schedule_deactivated"][-1]
    assert event.get("importance", event.get("severity")) == "warning"
    assert event["message"]
    # Never switched on again by itself, not when there is room again either.
    timed.set_quota("storage", -1)
    timed.clock.advance(2 * 3600)
    passes(timed)
    assert timed.get(schedule)["is_active"] is False and timed.backups_of(schedule) == []
    ok(timed.api.post(schedule["url"] + "activate/"))
    assert timed.get(schedule)["error_message"] == ""
    fire(timed, schedule)
    timed.wait_backups(schedule, 1)


def test_quota_that_pruning_would_make_room_for_still_refuses(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=1)
    old, = old_backups(timed, schedule, [10])
    timed.set_quota("storage", timed.quota("storage")["usage"])
    fire(timed, schedule)
    after = wait_for(lambda: (s := timed.get(schedule))["is_active"] is False and s, "the schedule is switched off")
    assert after["error_message"].startswith("Failed to schedule")
    assert timed.get(old)["state"] == "Ready"


@pytest.mark.parametrize("state", ["erred", "resizing", "starting"])
def test_N19_unstable_instance_is_skipped(timed, state):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    timed.set_instance_state(timed.vm, state)
    timed.clock.set("2026-11-21T13:00:01")
    wait_for(lambda: timed.get(schedule)["next_trigger_at"] == "2026-11-21T14:00:00.000Z", "the run is skipped")
    after = timed.get(schedule)
    assert after["is_active"] is True and timed.backups_of(schedule) == []
    assert after["last_skip_reason"]
    timed.set_instance_state(timed.vm, "offline")
    timed.clock.set("2026-11-21T14:00:01")
    timed.wait_backups(schedule, 1)


def test_a_run_is_skipped_while_the_previous_one_works(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    previous, = old_backups(timed, schedule, [10])
    timed.force_backup(previous, "backing_up")
    timed.clock.set("2026-11-21T13:00:01")
    wait_for(lambda: timed.get(schedule)["next_trigger_at"] == "2026-11-21T14:00:00.000Z", "the run is skipped")
    after = timed.get(schedule)
    assert after["is_active"] is True and len(timed.backups_of(schedule)) == 1
    assert after["last_skip_reason"]
    timed.force_backup(previous, "ready")
    timed.clock.set("2026-11-21T14:00:01")
    timed.wait_backups(schedule, 2)


def test_47_a_failing_backup_deactivates_and_does_not_prune(timed):
    disk = timed.disk()
    timed.vm = timed.instance([disk])
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=1)
    good = old_backups(timed, schedule, [20, 10])
    disk.unlink()
    fire(timed, schedule)
    after = wait_for(lambda: (s := timed.get(schedule))["is_active"] is False and s, "the schedule is switched off")
    assert after["error_message"].startswith("Failed to execute backup schedule for")
    assert timed.vm["name"] in after["error_message"]
    failed = [b for b in timed.backups_of(schedule) if b["state"] == "Erred"]
    assert len(failed) == 1 and failed[0]["error_message"]
    passes(timed)
    for backup in good:
        assert timed.get(backup)["state"] == "Ready"
    assert "resource_backup_creation_failed" in timed.event_types(failed[0])
    assert "resource_backup_schedule_deactivated" in timed.event_types(schedule)


def test_a_half_restored_disk_is_not_backed_up_and_costs_no_good_backup(timed):
    """The schedule is switched off and says why; by hand it is refused, too, until the disk is good again."""
    timed.vm = timed.instance()
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=1)
    good = old_backups(timed, schedule, [10])
    timed.d.sql("UPDATE volume SET state = 'error_restoring'")
    fire(timed, schedule)
    after = wait_for(lambda: (s := timed.get(schedule))["is_active"] is False and s, "the schedule is switched off")
    assert after["error_message"].startswith("Failed to schedule") and "error_restoring" in after["error_message"]
    passes(timed)
    assert [b["uuid"] for b in timed.backups_of(schedule)] == [b["uuid"] for b in good]
    assert "error_restoring" in ok(timed.api.post(BACKUPS, {"instance": timed.vm["url"]}), 409)["detail"]
    assert "error_restoring" in ok(timed.api.post(timed.vm["url"] + "start/"), 409)["detail"]
    timed.d.sql("UPDATE volume SET state = 'available'")
    timed.backup(timed.vm)
    ok(timed.api.post(timed.vm["url"] + "start/"), 202)


def test_other_failures_do_not_deactivate(timed):
    """A manual backup that fails, and one of another schedule, leave this schedule alone."""
    disk = timed.disk()
    timed.vm = timed.instance([disk])
    schedule = timed.schedule(timed.vm, schedule="0 2 * * 4", is_active=True)
    other = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    content = disk.read_bytes()
    disk.unlink()
    timed.wait_state(timed.start_backup(timed.vm)["url"], "Erred")
    fire(timed, other)
    wait_for(lambda: timed.get(other)["is_active"] is False, "the failing schedule is switched off")
    assert timed.get(schedule)["is_active"] is True
    disk.write_bytes(content)


def test_many_schedules_due_at_once(timed):
    """Each gets its run, also behind one that cannot have it."""
    machines = [timed.instance() for _ in range(12)]
    schedules = [timed.schedule(vm, schedule=HOURLY, is_active=True) for vm in machines]
    timed.set_instance_state(machines[0], "erred")
    timed.volume_files(machines[3])[0].unlink()
    full = timed.new_project()
    timed.set_quota("storage", 1, full)
    over = timed.schedule(timed.instance(project=full), schedule=HOURLY, is_active=True)
    timed.clock.set("2026-11-21T13:00:01")
    for n, schedule in enumerate(schedules):
        if n not in (0, 3):
            timed.wait_backups(schedule, 1)
    timed.wait_backups(schedules[3], 1, "Erred")
    passes(timed)
    assert timed.backups_of(schedules[0]) == [] and timed.backups_of(over) == []
    active = [timed.get(s)["is_active"] for s in [*schedules, over]]
    assert active == [True] * 3 + [False] + [True] * 8 + [False]


def test_deleting_the_schedule_of_a_running_backup(start_daemon):
    from helpers.daemon import slow_reads
    daemon = start_daemon(clock=START, start=False)
    daemon.wrapper = slow_reads(daemon.root / "slow.img", "700ms")
    daemon.start()
    lab = Lab(daemon)
    lab.clock = daemon.clock
    lab.vm = lab.instance([lab.disk(4 * MIB, name="slow.img")])
    schedule = lab.schedule(lab.vm, schedule=HOURLY, is_active=True)
    fire(lab, schedule)
    backup = wait_for(lambda: lab.backups_of(lab.vm), "the run begins")[0]
    ok(lab.api.delete(schedule["url"]), 204)
    after = lab.wait_state(backup["url"], "Ready")
    assert after["backup_schedule"] is None


def test_last_run_is_shown(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    assert schedule["last_run_at"] is None
    fire(timed, schedule)
    timed.wait_backups(schedule, 1)
    assert TIMESTAMP.match(timed.get(schedule)["last_run_at"])


def test_writers_only(timed):
    schedule = timed.schedule(timed.vm)
    assert ok(timed.user("reader").post(schedule["url"] + "activate/"), 403) == DENIED
    assert timed.api.list(SCHEDULES)[0]["is_active"] is False


def test_a_clock_that_was_years_ahead_for_a_moment_does_not_silence_a_schedule(timed):
    """The run that fires in the false future reckons the next one from there; the step back must take that back."""
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True)
    timed.clock.set("2036-01-01T00:00:30")
    wait_for(lambda: timed.get(schedule)["next_trigger_at"] == "2036-01-01T01:00:00.000Z", "it fires in the false future")
    timed.clock.set(START)
    wait_for(lambda: timed.get(schedule)["next_trigger_at"] == "2026-11-21T13:00:00.000Z", "it is due within the hour again")


def test_a_backup_from_a_false_future_does_not_push_out_the_new_ones(timed):
    schedule = timed.schedule(timed.vm, schedule=HOURLY, is_active=True, maximal_number_of_backups=1)
    timed.clock.set("2036-01-01T00:00:30")
    false, = settle(timed, schedule, 1)
    timed.clock.set(START)
    wait_for(lambda: timed.get(schedule)["next_trigger_at"] == "2026-11-21T13:00:00.000Z", "it is due within the hour again")
    fire(timed, schedule)  # skipped: the false future's backup was this instant's
    wait_for(lambda: timed.get(schedule)["next_trigger_at"] == "2026-11-21T14:00:00.000Z", "the next hour's turn")
    fire(timed, schedule)
    wait_for(
        lambda: [b["state"] for b in timed.backups_of(schedule) if b["uuid"] != false["uuid"]] == ["Ready"] == [b["state"] for b in timed.backups_of(schedule)],
        "only the new backup is left",
    )
