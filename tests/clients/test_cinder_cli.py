"""A tour with `cinder`."""

import base64
import json
import uuid

import pytest

from helpers import ext4


class Cinder:
    """The client as one account."""

    def __init__(self, account):
        self.account = account
        self.cloud = account.cloud

    def __call__(self, *arguments, code=0):
        return self.cloud.run("cinder", *arguments, env=self.account.env(), code=code)

    def properties(self, *arguments):
        """What a command shows of one object."""
        return {row["Property"]: row["Value"] for row in self.rows(*arguments)}

    def rows(self, *arguments):
        return table(self(*arguments))


def table(text):
    """The rows of a printed table as dictionaries."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


@pytest.fixture
def member(cloud, project):
    return Cinder(cloud.user(f"member-{project}", project, "member"))


@pytest.fixture
def admin(cloud, project):
    return Cinder(cloud.user(f"admin-{project}", project, staff=True))


def test_backup_and_restore(member, tmp_path):
    """Full, incremental, restored to a new and over the old volume; a parent stays while its child is there."""
    cinder, account = member, member.account
    volume = cinder.properties("create", "1", "--name", "web1", "--metadata", "room=cellar")["id"]
    account.wait("volume", volume)
    disk = cinder.cloud.backing(volume)
    ext4.make(disk)
    before = ext4.copy(disk, tmp_path / "before")

    full = cinder.properties("backup-create", "web1", "--name", "full", "--description", "before the upgrade")
    assert full["name"] == "full" and full["volume_id"] == volume
    full = full["id"]
    account.wait("backup", full)
    account.wait("volume", volume)
    ext4.change(disk)
    after = ext4.copy(disk, tmp_path / "after")
    child = cinder.properties("backup-create", volume, "--incremental", "--name", "child")["id"]
    account.wait("backup", child)

    listed = {b["Name"]: b for b in cinder.rows("backup-list", "--volume-id", volume, "--sort", "name:asc")}
    assert list(listed) == ["child", "full"]
    assert all((b["Status"], b["Size"], b["Volume ID"]) == ("available", "1", volume) for b in listed.values())
    shown = cinder.properties("backup-show", "child")
    assert (shown["id"], shown["is_incremental"], shown["has_dependent_backups"]) == (child, "True", "False")
    shown = cinder.properties("backup-show", full)
    assert (shown["description"], shown["has_dependent_backups"]) == ("before the upgrade", "True")

    restored = cinder.properties("backup-restore", "child", "--name", "web2")
    assert restored["volume_name"] == "web2" and restored["backup_id"] == child
    account.wait("volume", restored["volume_id"])
    account.wait("backup", child)
    ext4.assert_restored(cinder.cloud.backing(restored["volume_id"]), after)

    # Neither a volume nor a name: the new volume gets the name of the source in the end.
    unnamed = cinder.properties("backup-restore", full)
    assert unnamed["volume_name"] == f"restore_backup_{full}"
    made = account.wait("volume", unnamed["volume_id"])
    account.wait("backup", full)
    assert (made["name"], made["metadata"]["room"], made["metadata"]["src_backup_id"]) == ("web1", "cellar", full)
    ext4.assert_restored(cinder.cloud.backing(unnamed["volume_id"]), before)

    ext4.scribble(disk)
    cinder("backup-restore", "child", "--volume", volume)
    account.wait("volume", volume)
    account.wait("backup", child)
    ext4.assert_restored(disk, after)

    assert f"Delete for backup {full} failed" in cinder("backup-delete", full, code=1)
    cinder("backup-delete", "child")
    account.wait("backup", child, None)
    cinder("backup-delete", "full")
    account.wait("backup", full, None)
    assert cinder.rows("backup-list") == []
    cinder("delete", volume)
    account.wait("volume", volume, None)


def test_words_about_a_backup(member, admin, tmp_path):
    """Name, metadata, state, record, quota. A record outlives its backup only as long as another has the same data."""
    account, cloud = member.account, member.cloud
    volume = account.call("POST", "/volumes", {"volume": {"size": 1, "name": "v"}}, code=202).json()["volume"]["id"]
    account.wait("volume", volume)
    disk = cloud.backing(volume)
    ext4.make(disk, seed=2)
    saved = ext4.copy(disk, tmp_path / "saved")
    backup = member.properties("backup-create", "v", "--metadata", "a=1", "b=2")["id"]
    account.wait("backup", backup)

    member("backup-update", backup, "--name", "monday", "--description", "a note", "--metadata", "c=3")
    seen = account.get(f"/backups/{backup}", version="3.43")["backup"]
    assert (seen["name"], seen["description"], seen["metadata"]) == ("monday", "a note", {"c": "3"})

    # 403 for the member: it is his own backup, but not for him to say.
    assert "HTTP 403" in member("backup-reset-state", "--state", "error", "monday", code=1)
    admin("backup-reset-state", "--state", "error", "monday")
    assert account.get(f"/backups/{backup}")["backup"]["status"] == "error"
    assert [b["ID"] for b in member.rows("backup-list", "--status", "error")] == [backup]
    admin("backup-reset-state", backup)
    assert account.get(f"/backups/{backup}")["backup"]["status"] == "available"

    assert "HTTP 403" in member("backup-export", backup, code=1)
    record = admin.account.get(f"/backups/{backup}/export_record")["backup-record"]
    shown = admin.properties("backup-export", backup)
    assert shown["backup_service"] == record["backup_service"] and shown["backup_url"]
    assert "HTTP 400" in admin("backup-import", record["backup_service"], record["backup_url"], code=1)
    # Another id, as after the loss of one of two hosts: both then share the data, and the last one keeps it.
    inside = json.loads(base64.b64decode(record["backup_url"]))
    twin = str(uuid.uuid4())
    edited = base64.b64encode(json.dumps(inside | {"id": twin}).encode()).decode()
    imported = admin.properties("backup-import", record["backup_service"], edited)
    assert imported["id"] == twin
    seen = admin.account.wait("backup", twin)
    assert (seen["name"], seen["description"], seen["size"], seen["volume_id"]) == ("monday", "a note", 1, volume)
    member("backup-delete", backup)
    account.wait("backup", backup, None)
    restored = admin.properties("backup-restore", twin, "--name", "from the twin")["volume_id"]
    admin.account.wait("volume", restored)
    ext4.assert_restored(cloud.backing(restored), saved)
    admin("backup-delete", twin)
    admin.account.wait("backup", twin, None)

    usage = {row["Type"]: row for row in member.rows("quota-usage", account.project_id)}
    assert usage["volumes"]["In_use"] == "2" and usage["backups"]["In_use"] == "0"
    services = {row["Binary"]: row["State"] for row in admin.rows("service-list")}
    assert services["cinder-backup"] == "up"


def test_a_volume_out_of_a_backup(member, tmp_path):
    """A backup made with --force of a volume in use, and a new volume out of it."""
    account, cloud = member.account, member.cloud
    volume = account.call("POST", "/volumes", {"volume": {"size": 1, "name": "v"}}, code=202).json()["volume"]["id"]
    account.wait("volume", volume)
    disk = cloud.backing(volume)
    ext4.make(disk, seed=3)
    saved = ext4.copy(disk, tmp_path / "saved")
    attach = {"os-attach": {"host_name": "here", "mountpoint": "/dev/vdb", "mode": "rw"}}
    account.call("POST", f"/volumes/{volume}/action", attach, code=202)
    account.wait("volume", volume, "in-use")
    assert "HTTP 400" in member("backup-create", "v", code=1)
    backup = member.properties("backup-create", "v", "--force", "--name", "live")["id"]
    account.wait("backup", backup)
    account.wait("volume", volume, "in-use")
    made = member.properties("create", "--backup-id", backup, "--name", "again")
    assert made["status"] in ("creating", "available")
    account.wait("volume", made["id"])
    ext4.assert_restored(cloud.backing(made["id"]), saved)
