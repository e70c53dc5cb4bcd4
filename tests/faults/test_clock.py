"""The wall clock changes its offset, is set, stands still, is nonsense: each instant of a schedule is run once, and nothing is
deleted or let in by a time that is not."""

import os
import re
import signal
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest

from faults.bench import LONG, Bench
from helpers.api import Api, ok
from helpers.cinder import Cinder, ident, moment
from helpers.daemon import slow_reads
from helpers.disks import MIB
from helpers.keystone import Keystone, by_credential, by_password, project_scope
from helpers.lab import PASSWORD, ms, parse_time
from helpers.timed import passes, timed_lab
from helpers.wait import wait_for

START = "2026-11-21T12:00:30"
HOURLY = "0 * * * *"
DAY = 86_400
FAST = "[engine]\nexpiry_interval_s = 1\nmaintenance_interval_s = 1\n"


def make(start_daemon, config="", clock=START, **kw):
    return timed_lab(start_daemon, config, clock, Bench, **kw)


def keep_until(lab, backup, when):
    lab.d.sql("UPDATE backup SET kept_until = ? WHERE uuid = ?", (ms(when), backup["uuid"]))


def dated(lab, count=3, days=7):
    """Backups that are kept for some days from now."""
    backups = [lab.backup(lab.vm) for _ in range(count)]
    for backup in backups:
        keep_until(lab, backup, lab.clock.now() + timedelta(days=days))
    return backups


def expiry_passes(lab, truth):
    """Returns when backups whose time is really over have gone twice: `truth` is a time that has passed whatever the clock shows."""
    for _ in range(2):
        sentinel = lab.backup(lab.vm)
        keep_until(lab, sentinel, truth)
        lab.wait_gone(sentinel["url"])


def assert_ready(lab, backups):
    assert [lab.get(b)["state"] for b in backups] == ["Ready"] * len(backups)


def doubted(lab):
    return ok(lab.api.get("/ops/status/"))["clock_doubted"]


# -------------------------------------------------------------------- daylight saving


@pytest.mark.fault("clock: daylight saving begins or ends")
@pytest.mark.parametrize("zone, cron, begin, runs", [
    # Set forward: what is skipped comes once, later by the length of the jump. Set back: what comes twice runs at the first.
    ("Europe/Berlin", "30 2 * * *", "2027-03-27T12:00", ["2027-03-28T01:30", "2027-03-29T00:30"]),
    ("America/New_York", "30 1 * * *", "2027-11-06T12:00", ["2027-11-07T05:30", "2027-11-08T06:30"]),
    # Intervals run both times.
    ("Europe/Berlin", "*/30 2 * * *", "2027-10-31T00:10", ["2027-10-31T00:30", "2027-10-31T01:00", "2027-10-31T01:30", "2027-11-01T01:00"]),
    # By half an hour.
    ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T10:00", ["2026-10-03T15:45", "2026-10-04T15:15"]),
    ("Australia/Lord_Howe", "45 1 * * *", "2027-04-03T10:00", ["2027-04-03T14:45", "2027-04-04T15:15"]),
    # At midnight, from the date's first hour or into the evening before.
    ("Africa/Cairo", "30 0 * * *", "2027-04-29T12:00", ["2027-04-29T22:30", "2027-04-30T21:30"]),
    ("America/Havana", "30 0 * * *", "2027-11-06T12:00", ["2027-11-07T04:30", "2027-11-08T05:30"]),
    # Three quarters of an hour off, and in the south.
    ("Pacific/Chatham", "0 3 * * *", "2027-09-25T10:00", ["2027-09-25T14:15", "2027-09-26T13:15"]),
    # A whole day is left out: its run would be the next day's.
    ("Pacific/Apia", "0 12 * * *", "2011-12-29T10:00", ["2011-12-29T22:00", "2011-12-30T22:00", "2011-12-31T22:00"]),
])
def test_one_run_for_each_instant_when_clocks_change(start_daemon, zone, cron, begin, runs):
    lab = make(start_daemon, clock=begin)
    schedule = lab.schedule(lab.vm, schedule=cron, timezone=zone, is_active=True, maximal_number_of_backups=99)
    for count, run in enumerate(runs):
        instant = datetime.fromisoformat(run).replace(tzinfo=timezone.utc)
        assert parse_time(lab.get(schedule)["next_trigger_at"]) == instant
        lab.clock.set(instant - timedelta(seconds=8))
        lab.backup(lab.vm)
        assert len(lab.backups_of(schedule)) == count, "it ran before its time"
        lab.clock.set(instant + timedelta(seconds=1))
        lab.wait_backups(schedule, count + 1)
    passes(lab)
    assert len(lab.backups_of(schedule)) == len(runs)
    assert parse_time(lab.get(schedule)["last_run_at"]) == instant


# -------------------------------------------------------------------- steps while something is under way


@pytest.mark.fault("clock: set by a day while a backup runs")
def test_a_backup_goes_on_while_the_clock_is_set(start_daemon):
    daemon = start_daemon(FAST, clock=START, start=False)
    daemon.wrapper = slow_reads(daemon.root / "slow.img", "150ms")
    daemon.start()
    lab = Bench(daemon)
    vm = lab.instance([lab.disk(24 * MIB, name="slow.img")])
    backup = lab.start_backup(vm)
    for step in (DAY, -2 * DAY, DAY):
        before = wait_for(lambda: lab.progress(backup), "it reads")
        daemon.clock.advance(step)
        wait_for(lambda: lab.progress(backup) > before or lab.get(backup)["state"] == "Ready", "it reads on")
        shown = lab.get(backup)
        assert shown["state"] in ("Backing up", "Ready"), shown
    lab.wait_state(backup["url"], "Ready")
    lab.assert_restores(backup, daemon.root / "slow.img")
    assert abs(parse_time(lab.get(backup)["created_at"]) - datetime.fromisoformat(START + "+00:00")) < timedelta(minutes=2)


@pytest.mark.fault("clock: set by a day while tokens live")
def test_tokens_live_by_the_clock_and_a_false_future_ends_none_for_good(start_daemon):
    lab = make(start_daemon, "[auth]\ntoken_lifetime_h = 12\nkeystone_token_lifetime_h = 12")
    lab.vm  # a project
    user, key = lab.user("manager"), Keystone(lab.d)
    name, scope = user.user["username"], project_scope(lab.project)
    issued = lab.clock.now()
    token, shown = key.login(by_password(name, PASSWORD), scope)
    assert abs(parse_time(shown["expires_at"]) - issued - timedelta(hours=12)) < timedelta(seconds=20)
    credential = ok(key.request("POST", f"/users/{user.user['uuid']}/application_credentials", token, {"application_credential": {
        "name": "a", "expires_at": (issued + timedelta(hours=12)).strftime("%Y-%m-%dT%H:%M:%S.%f")}}), 201)["application_credential"]

    def good():
        """Which of the three are accepted."""
        return [user.get("/api/projects/").status_code == 200, key.works(token), key.post_login(by_credential(credential)).status_code == 201]

    assert good() == [True] * 3
    lab.clock.advance(11 * 3600)
    assert good() == [True] * 3
    lab.clock.advance(2 * 3600)
    assert good() == [False] * 3
    # A login in the false future sweeps up what is over, of everybody; its own token must not outlive the step back for long.
    late, _ = key.login(by_password(name, PASSWORD), scope)
    ok(lab.d.anonymous.post("/api-auth/password/", {"username": name, "password": PASSWORD}))
    lab.clock.advance(-13 * 3600)
    assert good() == [True] * 3, "the false future has ended them for good"
    assert key.works(late)
    lab.clock.advance(-DAY)
    assert good() == [True] * 3
    lab.clock.advance(DAY + 26 * 3600)
    assert good() == [False] * 3 and not key.works(late)


@pytest.mark.fault("clock: set by a day while failed logins are counted")
def test_the_throttle_of_logins_goes_by_no_clock_that_can_be_set(start_daemon):
    lab = make(start_daemon, "[auth]\nlogin_attempts = 3\nlogin_window_s = 5")
    name = lab.user().user["username"]

    def login(password):
        return lab.d.anonymous.post("/api-auth/password/", {"username": name, "password": password}).status_code

    began = time.monotonic()
    wrong = [login("wrong horse 7") for _ in range(3)]
    seen = []
    for step in (DAY, DAY, -3 * DAY, DAY):
        lab.clock.advance(step)
        seen.append(login(PASSWORD))
    if time.monotonic() - began < 4.5:  # else the machine was too slow to tell
        assert wrong == [401] * 3 and seen == [429] * 4, (wrong, seen)
    wait_for(lambda: login(PASSWORD) == 200, "the window ends", 20, 0.5)


@pytest.mark.fault("clock: set back while maintenance and the scrub wait")
def test_maintenance_and_the_scrub_go_on_when_the_clock_is_set_back(start_daemon):
    """What was read in a false future would not be read again until then."""
    lab = make(start_daemon, FAST + "[scrub]\nevery_days = 1", "2036-01-01T12:00:00")
    backup = lab.backup(lab.vm)
    lab.clock.set(START)
    expiry_passes(lab, lab.clock.now() - timedelta(seconds=1))
    (latest,), = lab.d.sql("SELECT max(at) FROM verified")
    assert latest <= ms(lab.clock.now())
    lab.clock.advance(2 * DAY)
    wait_for(lambda: ok(lab.api.get("/ops/stats/"))["scrub_due_bytes"] > 0 or lab.d.sql(
        "SELECT min(at) FROM verified")[0][0] > latest, "it is due again")
    lab.delete(backup)
    wait_for(lambda: lab.d.sql("SELECT count(*) FROM pack")[0][0] == 0, "the packs go", 60)


# -------------------------------------------------------------------- set forward: nothing is deleted by a clock that is not believed


@pytest.mark.fault("clock: set far forward for a moment")
def test_a_jump_far_forward_deletes_nothing(start_daemon):
    lab = make(start_daemon, FAST)
    backups = dated(lab)
    truth = lab.clock.now() - timedelta(seconds=1)
    assert doubted(lab) is None
    schedule = lab.schedule(lab.vm, schedule=HOURLY, is_active=True, retention_time=7, maximal_number_of_backups=3)
    for backup in backups:
        lab.link(backup, schedule, ms(lab.clock.now() + timedelta(days=7)))
    lab.clock.advance(3650 * DAY)
    lab.wait_backups(schedule, 3)  # the run that was due pushes out one by number, and no more than that
    assert_ready(lab, backups[1:])
    expiry_passes(lab, truth)
    passes(lab)
    assert_ready(lab, backups[1:])
    shown = wait_for(lambda: doubted(lab), "the status tells")
    assert abs(shown["ahead_s"] - 3650 * DAY) < 60 and 3000 < shown["left_s"] <= 3600
    assert abs(parse_time(shown["confirmed"]) - truth) < timedelta(minutes=2)
    event, = lab.events(event_type="clock_doubted")
    assert event["importance"] == "warning" and re.search("36(50 d 0 h|49 d 23 h 59)", event["message"])
    assert re.search("WARN  The clock is 36(50 d 0 h|49 d 23 h 59)", lab.d.log())
    lab.clock.advance(-3650 * DAY)
    expiry_passes(lab, truth)
    assert doubted(lab) is None and len(lab.events(event_type="clock_confirmed")) == 1
    assert_ready(lab, backups[1:])


@pytest.mark.fault("clock: set far forward, and the daemon is killed")
def test_a_restart_does_not_confirm_a_clock_that_jumped(start_daemon):
    """All that is recorded last is of the false future then."""
    lab = make(start_daemon, FAST)
    backups, truth = dated(lab), lab.clock.now() - timedelta(seconds=1)
    lab.clock.advance(100 * DAY)
    expiry_passes(lab, truth)
    for kill in (True, False):
        lab.d.restart(kill=kill)
        assert doubted(lab)["ahead_s"] > 99 * DAY
        expiry_passes(lab, truth)
        assert_ready(lab, backups)
    lab.d.stop()
    lab.clock.advance(-100 * DAY)
    lab.d.start()
    wait_for(lambda: doubted(lab) is None, "it is as if nothing had been")
    expiry_passes(lab, truth)
    assert_ready(lab, backups)


@pytest.mark.fault("clock: far ahead at the start")
def test_a_clock_that_is_far_ahead_at_the_start_deletes_nothing(start_daemon):
    """A battery that was empty, or a long time out of work: nobody can tell, so it waits an hour and says so."""
    lab = make(start_daemon, FAST)
    backups, truth = dated(lab), lab.clock.now() - timedelta(seconds=1)
    working = lab.start_backup(lab.vm)
    lab.d.kill()  # what the start has to settle is recorded at the wrong time, too
    lab.d.sql("UPDATE backup SET state = 'backing_up' WHERE uuid = ?", (working["uuid"],))
    lab.clock.advance(365 * DAY)
    lab.d.start()
    assert lab.get(working)["state"] == "Erred"
    expiry_passes(lab, truth)
    assert_ready(lab, backups)
    assert doubted(lab)["ahead_s"] > 364 * DAY
    # A command that opens the coffer alone counts as little as a start.
    lab.d.stop()
    lab.cli("list")
    lab.d.start()
    expiry_passes(lab, truth)
    assert_ready(lab, backups)


@pytest.mark.fault("clock: set forward and kept there")
def test_a_new_time_is_believed_after_the_hold(start_daemon):
    lab = make(start_daemon, FAST + "clock_hold_s = 4")
    backups = dated(lab)
    late, = dated(lab, 1, 30)
    lab.clock.advance(8 * DAY)
    wait_for(lambda: doubted(lab), "it is doubted")
    assert_ready(lab, [late])
    for backup in backups:
        lab.wait_gone(backup["url"])
    assert doubted(lab) is None
    assert_ready(lab, [late])


@pytest.mark.fault("clock: a short restart or a small correction")
def test_what_is_ordinary_is_not_doubted(start_daemon):
    lab = make(start_daemon, FAST)
    due, later = dated(lab, 2, 1)
    keep_until(lab, due, lab.clock.now() + timedelta(minutes=3))
    lab.clock.advance(200)
    lab.wait_gone(due["url"])
    lab.d.stop()
    lab.clock.advance(DAY - 600)
    lab.d.start()
    keep_until(lab, later, lab.clock.now() - timedelta(seconds=1))
    lab.wait_gone(later["url"])
    assert doubted(lab) is None and lab.events(event_type="clock_doubted") == []


# -------------------------------------------------------------------- suspend


@pytest.mark.fault("clock: stopped for hours")
def test_a_stop_of_hours_makes_one_run_and_breaks_nothing(start_daemon):
    """What a paused virtual machine sees: all of it stands still, and then the clock is corrected. (Of a suspend the steady clock
    knows; that is a unit test.)"""
    daemon = start_daemon(FAST, clock=START, start=False)
    daemon.wrapper = slow_reads(daemon.root / "slow.img", "150ms")
    daemon.start()
    lab = Bench(daemon)
    lab.clock = daemon.clock
    lab.vm = lab.instance()
    backups = dated(lab, 2)
    schedule = lab.schedule(lab.vm, schedule=HOURLY, is_active=True)
    working = lab.start_backup(lab.instance([lab.disk(24 * MIB, name="slow.img")]))
    wait_for(lambda: lab.progress(working), "it reads")
    os.kill(daemon.pid, signal.SIGSTOP)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(Api(daemon, daemon.token).get("/api/projects/").status_code))
    asking.start()
    lab.clock.advance(9 * 3600)
    time.sleep(2)  # what is tested
    os.kill(daemon.pid, signal.SIGCONT)
    asking.join()
    assert answers == [200]
    lab.wait_state(working["url"], "Ready")
    lab.wait_backups(schedule, 1)
    passes(lab)
    assert len(lab.backups_of(schedule)) == 1
    assert lab.get(schedule)["next_trigger_at"] == "2026-11-21T22:00:00.000Z"
    assert_ready(lab, backups)


# -------------------------------------------------------------------- years far off


@pytest.mark.fault("clock: in 1970 at the start, and set later")
def test_a_host_without_a_clock(start_daemon):
    """At each start it is 1970 until the network is there: no run is due once more, and nothing is over."""
    lab = make(start_daemon, FAST)
    backups = dated(lab)
    schedule = lab.schedule(lab.vm, schedule="0 2 * * *", is_active=True, retention_time=1)
    next_run = lab.get(schedule)["next_trigger_at"]
    for _ in range(3 if LONG else 1):
        lab.d.stop()
        right = lab.clock.now()
        lab.clock.set("1970-01-01T00:00:05")
        lab.d.start()
        expiry_passes(lab, datetime(1970, 1, 1, tzinfo=timezone.utc))
        assert lab.get(schedule)["next_trigger_at"] == next_run
        lab.clock.set("1970-01-01T02:00:05")
        passes(lab)
        lab.clock.set(right)
        expiry_passes(lab, datetime(1970, 1, 1, tzinfo=timezone.utc))
        assert_ready(lab, backups)
        assert lab.get(schedule)["next_trigger_at"] == next_run and lab.backups_of(schedule) == []
    lab.clock.set(parse_time(next_run) + timedelta(seconds=1))
    backup, = lab.wait_backups(schedule, 1)
    assert backup["kept_until"] == (parse_time(backup["created_at"]) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@pytest.mark.fault("clock: in 1970 when a backup is made")
def test_a_scheduled_backup_of_1970_is_kept(start_daemon):
    """Its days would be over as soon as the clock is set."""
    lab = make(start_daemon, FAST + "clock_hold_s = 1", "1970-01-01T00:59:30")
    schedule = lab.schedule(lab.vm, schedule=HOURLY, is_active=True, retention_time=7, maximal_number_of_backups=5)
    lab.clock.set("1970-01-01T01:00:01")
    old, = lab.wait_backups(schedule, 1)
    assert old["kept_until"] is None
    lab.clock.set(START)
    lab.wait_backups(schedule, 2)
    wait_for(lambda: doubted(lab) is None, "the clock is believed")
    expiry_passes(lab, lab.clock.now() - timedelta(seconds=1))
    assert_ready(lab, [old])


@pytest.mark.fault("clock: years far off")
@pytest.mark.parametrize("clock, cron, runs", [
    ("1970-01-01T00:00:01", "0 * * * *", ["1970-01-01T01:00", "1970-01-01T02:00"]),
    ("2038-01-19T03:14:00", "*/15 * * * *", ["2038-01-19T03:15", "2038-01-19T03:30"]),  # 2^31 s end at 03:14:08
    ("2100-02-28T23:59:30", "0 0 29 2 *", ["2104-02-29T00:00", "2108-02-29T00:00"]),
    ("2106-02-07T06:28:00", "@daily", ["2106-02-08T00:00", "2106-02-09T00:00"]),  # 2^32 s end at 06:28:16
    ("2232-01-01T12:00:00", "@daily", ["2232-01-02T00:00"]),  # about the last that Linux lets be set
    ("9999-06-01T12:00:00", "@daily", ["9999-06-02T00:00"]),
])
def test_years_far_off(start_daemon, clock, cron, runs):
    lab = make(start_daemon, FAST, clock)
    cinder = Cinder(lab.d, lab.project["uuid"], lab.d.token)
    schedule = lab.schedule(lab.vm, schedule=cron, is_active=True, retention_time=1, maximal_number_of_backups=9)
    for count, run in enumerate(runs, 1):
        assert lab.get(schedule)["next_trigger_at"] == run + ":00.000Z"
        lab.clock.set(datetime.fromisoformat(run + "+00:00") + timedelta(seconds=1))
        backup = lab.wait_backups(schedule, count)[-1]
        assert abs(parse_time(backup["created_at"]) - lab.clock.now()) < timedelta(minutes=1)
    assert abs(parse_time(lab.events()[-1]["created"]) - lab.clock.now()) < timedelta(minutes=1)
    volume = cinder.create_volume()
    shown = ok(cinder.get(f"/volumes/{ident(volume)}"))["volume"]
    assert abs(moment(shown["created_at"]) - lab.clock.now()) < timedelta(minutes=1)
    user, key = lab.user("manager"), Keystone(lab.d)
    token, told = key.login(by_password(user.user["username"], PASSWORD), project_scope(lab.project))
    assert key.works(token)
    assert abs(parse_time(told["expires_at"]) - lab.clock.now() - timedelta(hours=24)) < timedelta(minutes=1)
    lab.d.restart()
    assert key.works(token)
    lab.assert_restores(backup, lab.volume_files(lab.vm)[0])
