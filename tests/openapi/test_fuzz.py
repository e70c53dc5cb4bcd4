"""Schemathesis against the served document: no request that it can think of ends in a 5xx or in an undocumented answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.api import ok
from helpers.cinder_volumes import Cloud
from helpers.disks import make_raw
from helpers.lab import BACKUPS, PASSWORD, USERS
from helpers.wait import wait_for
from openapi.document import FILE

# The path of a new file is the host's: these two are tested by hand. Without its token the rest of a run would be 401s.
LEFT_OUT = ["restoreToPath", "snapshot", "revokeToken"]
# A low quota for all projects would end the run early.
LEFT_OUT += ["cinderChangeQuotaClass"]
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


def populate_openstack(cloud):
    """The same in Cinder's words."""
    for n in range(12):
        volume = cloud.volume(1, name=f"v{n}", metadata={"key": "value"})
        cloud.backup(volume, metadata={"key": "value"})
        if n % 2:
            cloud.snapshot(volume, metadata={"key": "value"})
    for _ in range(3):
        cloud.failed_backup()


WALDUR = ("^/(api|api-auth|ops|healthz)", "Authorization: Token", NOT_OURS, {
    "resource_backup_creation_succeeded", "resource_backup_restoration_succeeded", "resource_backup_deletion_succeeded",
    "resource_backup_schedule_creation_succeeded", "resource_backup_schedule_activated", "resource_creation_succeeded",
})
# Methods that are not there are 404 in the volume API (Cinder contract 0.1).
OPENSTACK = ("^/(v3|identity|healthcheck|$)", "X-Auth-Token:", NOT_OURS + ",unsupported_method", {
    "resource_volume_creation_succeeded", "resource_volume_deletion_succeeded", "resource_snapshot_creation_succeeded",
    "resource_backup_creation_succeeded", "resource_backup_deletion_succeeded",
})
DIALECTS = pytest.mark.parametrize("dialect", [WALDUR, OPENSTACK], ids=["waldur", "openstack"])


def fuzz(daemon, dialect, *arguments):
    lab = Cloud(daemon)
    paths, header, exclude, wanted = dialect
    populate(lab) if dialect is WALDUR else populate_openstack(lab)
    before = daemon.sql("SELECT max(id) FROM event")[0]
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", without_passwords(daemon), "--url", daemon.url, "--include-path-regex", paths]
    command += ["-H", f"{header} {daemon.token}", "--exclude-checks", exclude, "--warnings", "off", *arguments]
    for name in LEFT_OUT:
        command += ["--exclude-operation-id", name]
    environment = {
        **os.environ, "SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": str(Path(__file__).parent), "COFFERD_FUZZ_URL": daemon.url,
        "COFFERD_FUZZ_TOKEN": daemon.token, "COFFERD_FUZZ_DISKS": str(daemon.root),
        "COFFERD_FUZZ_ADMIN": ok(lab.api.get(USERS + "?current"))[0]["uuid"], "HYPOTHESIS_STORAGE_DIRECTORY": str(daemon.base / "h"),
        "COFFERD_FUZZ_PROJECT": lab.project["uuid"], "COFFERD_FUZZ_OTHER_PROJECT": lab.new_project()["uuid"],
        "COFFERD_FUZZ_USER_TOKEN": keystone_token(lab),
    }
    run = subprocess.run(command, env=environment, cwd=daemon.base, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-4000:]
    assert ok(lab.api.get("/ops/status/"))["pid"] == daemon.pid
    wrong = [line for line in daemon.log().splitlines() if "panicked" in line or "a request failed" in line]
    assert not wrong, wrong
    # It has not only been refused: these are events of what it did.
    happened = {row[0] for row in daemon.sql("SELECT DISTINCT type FROM event WHERE id > ?", before)}
    assert happened >= wanted, happened


def without_passwords(daemon):
    """The document without HTTP Basic: with it, wrong logins are tried until they are throttled, as they should be."""
    document = json.loads(FILE.read_text())
    for item in document["paths"].values():
        for operation in item.values():
            if "security" in operation:
                operation["security"] = [way for way in operation["security"] if "basic" not in way]
    path = daemon.base / "openapi.json"
    path.write_text(json.dumps(document))
    return str(path)


def keystone_token(lab):
    """A token of the Identity API that the requests may look at and revoke."""
    user = lab.user("reader").user["username"]
    identity = {"methods": ["password"], "password": {"user": {"name": user, "domain": {"id": "default"}, "password": PASSWORD}}}
    answer = lab.d.anonymous.post("/identity/v3/auth/tokens", {"auth": {"identity": identity}})
    ok(answer, 201)
    return answer.headers["X-Subject-Token"]


@DIALECTS
@pytest.mark.timeout(300)
def test_a_short_run(start_daemon, dialect):
    fuzz(start_daemon(), dialect, "--phases", "coverage,stateful", "--max-examples", "5", "--seed", "1", "--no-shrink")


@DIALECTS
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_long_run(start_daemon, dialect):
    fuzz(start_daemon(), dialect, "--max-examples", os.environ.get("COFFERD_FUZZ_EXAMPLES", "300"), "--workers", "2")
