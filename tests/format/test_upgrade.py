"""A coffer of an older format opens, upgraded, with everything that was in it."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard

from helpers.api import Api, ok
from helpers.lab import BACKUPS, INSTANCES, SCHEDULES, USERS
from helpers.wait import wait_for

FIXTURES = Path(__file__).parent / "fixtures"
# What is in format-1.db: two backups of machine `web` with two disks, made by user ada's project `shop`.
FIRST, SECOND = "512a1365f87b43899826e0b9c9aaad0e", "930bfd4083bd496b9eb53a7c0e043b17"
SYSTEM = "b2b937ede7d95908b3b3ae4ceb05964dc550a95dc57ae7b412c0404a90c7293a"
DATA = {
    FIRST: "504dcaa8ed1308272b5661fefba58adce0d696e92f6d900dc5f11bbf27aa381e",
    SECOND: "fbfbdb4325951fb6c8a314eab9162b399dff7f7b1a9f7527a4af0e333c0eced7",
}
ADAS_TOKEN = "9c74aaa74bb1df01b9f2c620c7b2722504d53be7"


def unpack(daemon, fixture):
    packed = (FIXTURES / fixture).read_bytes()
    daemon.coffer.write_bytes(zstandard.ZstdDecompressor().decompress(packed, max_output_size=64 << 20))


@pytest.fixture(params=[1, 2, 3])
def old(start_daemon, request):
    """A coffer of each older format. Those of formats 2 and 3 are the first as the first programs of these formats have upgraded it."""
    daemon = start_daemon(start=False)
    unpack(daemon, f"format-{request.param}.db.zst")
    daemon.format = request.param
    return daemon


def serve(daemon):
    """The fixture's own staff token was made somewhere else: the socket needs none."""
    daemon.start()
    return Api(daemon, ADAS_TOKEN)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_backup_of_format_1_restores(old):
    ada = serve(old)
    assert [b["uuid"] for b in ada.list(BACKUPS)] == [FIRST, SECOND]
    for uuid in DATA:
        for volume, wanted in enumerate((SYSTEM, DATA[uuid])):
            target = old.base / f"{uuid}-{volume}"
            command = [old.binary, "--config", str(old.config_file), "restore", uuid, "--volume", str(volume), "--to", str(target)]
            subprocess.run(command, check=True, capture_output=True)
            assert sha256(target) == wanted


def test_the_catalog_of_format_1_is_kept(old):
    ada = serve(old)
    assert old.sql("PRAGMA user_version") == [(4,)]
    assert sorted(i["name"] for i in ada.list(INSTANCES)) == ["copy", "gone", "web"]
    assert [s["description"] for s in ada.list(SCHEDULES)] == ["nightly"]
    assert [u["username"] for u in ada.list(USERS)] == ["ada"]
    quotas = {q["name"]: (q["limit"], q["usage"]) for q in ok(ada.get("/api/quotas/"))}
    assert quotas["storage"][0] == 512000 and quotas["backups"] == (-1, 4) and quotas["backup_gigabytes"] == (-1, 4)
    # Nothing of the old catalog is left, and what counts the new one counts right.
    assert old.sql("SELECT name FROM sqlite_schema WHERE name LIKE 'old_%'") == []
    assert old.inspect() == []


def test_the_projects_of_format_1_follow_the_defaults(old):
    """Format 1 knew no defaults, so that `unlimited` in it was nobody's decision. A limit that somebody has set stays."""
    if old.format > 1:
        pytest.skip("the first program of format 2 wrote `unlimited` down as if it had been one")
    ada = serve(old)
    assert {row[0] for row in old.sql('SELECT "limit" FROM quota')} == {None, 512000}
    assert {q["name"]: q["limit"] for q in ok(ada.get("/api/quotas/"))}["volumes"] == -1
    old.sql("INSERT INTO quota_default VALUES ('volumes', 7)")
    limits = {q["name"]: q["limit"] for q in ok(ada.get("/api/quotas/"))}
    assert (limits["volumes"], limits["storage"]) == (7, 512000)


def test_the_parts_of_old_backups_are_in_the_other_dialect_too(old):
    serve(old)
    headers = {"X-Auth-Token": ADAS_TOKEN}
    backups = ok(Api(old).get("/v3/backups/detail?sort=created_at:asc,name:desc", headers=headers | {"OpenStack-API-Version": "volume 3.37"}))["backups"]
    assert [(b["name"], b["status"], b["size"]) for b in backups] == [("system.img", "available", 1), ("data.img", "available", 1)] * 2
    restored = ok(Api(old).post(f"/v3/backups/{backups[3]['id']}/restore", {"restore": {"name": "r"}}, headers=headers), 202)["restore"]
    volume = f"/v3/volumes/{restored['volume_id']}"
    wait_for(lambda: ok(Api(old).get(volume, headers=headers))["volume"]["status"] == "available", "the volume is restored")
    assert sha256(next((old.state_dir / "volumes").iterdir())) == DATA[SECOND]


@pytest.mark.parametrize("write", [1, 5, 20])
def test_an_upgrade_that_is_killed_begins_again(old, write):
    """Killed at a write of the upgrade, the coffer is of the old format, and the next start does it."""
    if old.format > 1 and write > 5:
        pytest.skip("this upgrade writes less")
    whole = old.base / "old.db"
    shutil.copy(old.coffer, whole)
    old.wrapper = ["strace", "-f", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", f"inject=pwrite64:signal=KILL:when={write}",
                   "-P", f"{old.coffer}-wal"]
    with pytest.raises(AssertionError):
        old.start()
    old.kill()
    old.wrapper = []
    ada = serve(old)
    assert [b["uuid"] for b in ada.list(BACKUPS)] == [FIRST, SECOND]
    assert re.search(f"from format {old.format} to 4", old.log())
