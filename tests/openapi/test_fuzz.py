"""Schemathesis against the served document: no request that it can think of ends in a 5xx or in an undocumented answer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.api import ok
from helpers.disks import make_raw
from helpers.lab import BACKUPS, USERS, Lab
from helpers.wait import wait_for

# The path of a new file is the host's: these two are tested by hand. Without its token the rest of a run would be 401s.
LEFT_OUT = ["restoreToPath", "snapshot", "revokeToken"]
# Strings are taken for numbers and numbers for strings, filters of nonsense are ignored, links may lead nowhere; a schedule goes
# with its instance, and a deleted backup is there until its data is gone.
NOT_OURS = "negative_data_rejection,positive_data_acceptance,ensure_resource_availability,use_after_free"


def populate(lab):
    """Enough of everything, so that deleting does not end the run early."""
    for n in range(40):
        make_raw(lab.d.root / f"spare{n}.img", 64 << 10)
        vm = lab.instance([64 << 10])
        lab.start_backup(vm)
        lab.schedule(vm)
        if n % 4 == 0:
            lab.flavor(), lab.image(), lab.new_project()
            lab.user("reader")
    wait_for(lambda: lab.api.get(BACKUPS, params={"state": "Backing up"}).headers["X-Result-Count"] == "0", "the backups are made")


def fuzz(daemon, *arguments):
    lab = Lab(daemon)
    populate(lab)
    before = daemon.sql("SELECT max(id) FROM event")[0]
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{daemon.url}/api/openapi.json"]
    command += ["-H", f"Authorization: Token {daemon.token}", "--exclude-checks", NOT_OURS, "--warnings", "off", *arguments]
    for name in LEFT_OUT:
        command += ["--exclude-operation-id", name]
    environment = {
        **os.environ, "SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": str(Path(__file__).parent), "COFFERD_FUZZ_URL": daemon.url,
        "COFFERD_FUZZ_TOKEN": daemon.token, "COFFERD_FUZZ_DISKS": str(daemon.root),
        "COFFERD_FUZZ_ADMIN": ok(lab.api.get(USERS + "?current"))[0]["uuid"], "HYPOTHESIS_STORAGE_DIRECTORY": str(daemon.base / "h"),
    }
    run = subprocess.run(command, env=environment, cwd=daemon.base, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-4000:]
    assert ok(lab.api.get("/ops/status/"))["pid"] == daemon.pid
    wrong = [line for line in daemon.log().splitlines() if "panicked" in line or "a request failed" in line]
    assert not wrong, wrong
    # It has not only been refused: these are events of what it did.
    happened = {row[0] for row in daemon.sql("SELECT DISTINCT type FROM event WHERE id > ?", before)}
    assert happened >= {
        "resource_backup_creation_succeeded", "resource_backup_restoration_succeeded", "resource_backup_deletion_succeeded",
        "resource_backup_schedule_creation_succeeded", "resource_backup_schedule_activated", "resource_creation_succeeded",
    }, happened


@pytest.mark.timeout(300)
def test_a_short_run(start_daemon):
    fuzz(start_daemon(), "--phases", "coverage,stateful", "--max-examples", "5", "--seed", "1", "--no-shrink")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_long_run(start_daemon):
    fuzz(start_daemon(), "--max-examples", os.environ.get("COFFERD_FUZZ_EXAMPLES", "300"), "--workers", "2")
