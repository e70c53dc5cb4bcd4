"""The queue of promised work: what it costs when it is long."""

import os
from pathlib import Path

import pytest

from helpers.lab import Lab
from helpers.wait import wait_for


def cpu_seconds(daemon):
    """What it has cost so far. Unlike the time on the wall it does not depend on how fast the disk syncs."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.alone
def test_eight_times_the_deletions_cost_about_eight_times_as_much(start_daemon):
    """A project that is cleared away: no job of the many makes the workers look at all the others."""

    def deletions(count):
        lab = Lab(start_daemon())
        machine = lab.instance()
        lab.d.stop()
        lab.insert_backups(machine, count, state="deleting")
        lab.d.start()
        wait_for(lambda: lab.d.sql("SELECT count(*) FROM backup") == [(0,)], f"{count} deletions", 150, 0.05)
        return cpu_seconds(lab.d)

    few, many = deletions(500), deletions(4000)
    assert many < 16 * few, (few, many)
