"""A Lab whose daemon has a clock that the test sets."""

import time
from datetime import timedelta

from helpers.api import ok
from helpers.lab import Lab, ms, parse_time


def timed_lab(start_daemon, config="", clock="2026-11-21T12:00:30", lab=Lab, **kw):
    """`lab.clock` is the daemon's, `lab.vm` a machine with a small disk."""
    lab = lab(start_daemon(config, clock=clock, **kw))
    lab.clock = lab.d.clock
    lab.vm = lab.instance()
    return lab


def passes(lab):
    """Returns when the timer has made a full pass after this call: a fresh schedule that is due has fired."""
    vm = lab.instance()
    schedule = lab.schedule(vm, schedule="* * * * *", is_active=True)
    lab.d.sql("UPDATE schedule SET next_trigger_at = ? WHERE uuid = ?", (ms(lab.clock.now() - timedelta(seconds=1)), schedule["uuid"]))
    lab.wait_backups(vm, 1)
    ok(lab.api.post(schedule["url"] + "deactivate/"))
    time.sleep(0.3)


def fire(lab, schedule):
    """Moves the clock one second past the schedule's next run."""
    lab.clock.set(parse_time(lab.get(schedule)["next_trigger_at"]) + timedelta(seconds=1))
