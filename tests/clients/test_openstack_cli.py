"""A tour with `openstack`, logged in by password and by token. Application credentials are in test_openrc.py."""

import json

import pytest

from helpers import ext4


class Openstack:
    """The client as one account."""

    def __init__(self, account, **env):
        self.account = account
        self.cloud = account.cloud
        self.env = env or account.env()

    def __call__(self, *arguments, code=0):
        """Runs a command; what it complained of when it must fail, else what it printed."""
        return self.cloud.run("openstack", *arguments, env=self.env, code=code)

    def json(self, *arguments):
        return json.loads(self(*arguments, "-f", "json"))


@pytest.fixture
def member(cloud, project):
    return Openstack(cloud.user(f"member-{project}", project, "member"))


@pytest.fixture
def admin(cloud, project):
    return Openstack(cloud.user(f"admin-{project}", project, staff=True))


def test_backup_and_restore(member, tmp_path):
    """Full, incremental, restored to a new and over the old volume; a parent stays while its child is there."""
    openstack, account = member, member.account
    volume = openstack.json("volume", "create", "--size", "1", "--property", "room=cellar", "web1")
    account.wait("volume", volume["id"])
    disk = openstack.cloud.backing(volume["id"])
    ext4.make(disk)
    before = ext4.copy(disk, tmp_path / "before")

    full = openstack.json("volume", "backup", "create", "--name", "full", "--description", "before the upgrade", "web1")
    assert full["name"] == "full" and full["volume_id"] == volume["id"]
    account.wait("backup", full["id"])
    account.wait("volume", volume["id"])
    ext4.change(disk)
    after = ext4.copy(disk, tmp_path / "after")
    child = openstack.json("volume", "backup", "create", "--incremental", "--name", "child", "--property", "made by=tour", "web1")
    account.wait("backup", child["id"])

    listed = {b["Name"]: b for b in openstack.json("volume", "backup", "list", "--long", "--volume", "web1", "--status", "available")}
    assert set(listed) == {"full", "child"}
    assert (listed["full"]["Incremental"], listed["child"]["Incremental"]) == (False, True)
    assert all(b["Size"] == 1 and b["Status"] == "available" and b["Volume"] == volume["id"] for b in listed.values())
    shown = openstack.json("volume", "backup", "show", "child")
    assert shown["id"] == child["id"] and shown["is_incremental"] is True and shown["has_dependent_backups"] is False
    assert shown["metadata"] == {"made by": "tour"} and shown["fail_reason"] is None
    shown = openstack.json("volume", "backup", "show", full["id"])
    assert shown["has_dependent_backups"] is True and shown["description"] == "before the upgrade"

    restored = openstack.json("volume", "backup", "restore", "child", "web2")
    assert restored["volume_name"] == "web2"
    account.wait("volume", restored["volume_id"])
    account.wait("backup", child["id"])
    ext4.assert_restored(openstack.cloud.backing(restored["volume_id"]), after)
    assert openstack.json("volume", "show", "web2")["properties"]["room"] == "cellar"

    ext4.scribble(disk)
    refused = openstack("volume", "backup", "restore", "full", "web1", code=1)
    assert "--force" in refused
    openstack("volume", "backup", "restore", "full", "web1", "--force")
    account.wait("volume", volume["id"])
    account.wait("backup", full["id"])
    ext4.assert_restored(disk, before)

    assert "1 of 1 backups failed to delete" in openstack("volume", "backup", "delete", "full", code=1)
    openstack("volume", "backup", "delete", "child")
    account.wait("backup", child["id"], None)
    openstack("volume", "backup", "delete", "full")
    account.wait("backup", full["id"], None)
    # The restored volume does not need the backups any more.
    ext4.assert_restored(openstack.cloud.backing(restored["volume_id"]), after)
    openstack("volume", "delete", "web1", "web2")
    account.wait("volume", volume["id"], None)
    assert openstack.json("volume", "backup", "list") == [] == account.get("/backups")["backups"]
    assert not disk.exists(), "the file of a deleted volume is still there"


def test_words_about_a_backup(member, admin, project):
    """Name, properties, state, record, quota: what is changed and shown beside the data."""
    account = member.account
    volume = account.call("POST", "/volumes", {"volume": {"size": 1, "name": "v"}}, code=202).json()["volume"]
    account.wait("volume", volume["id"])
    backup = member.json("volume", "backup", "create", "v")
    assert backup["name"] is None
    account.wait("backup", backup["id"])

    member("volume", "backup", "set", "--name", "monday", "--description", "a note", "--property", "a=1", "--property", "b=2", backup["id"])
    shown = member.json("volume", "backup", "show", "monday")
    assert (shown["name"], shown["description"], shown["metadata"]) == ("monday", "a note", {"a": "1", "b": "2"})
    # The client asks for the properties to keep to be deleted one by one; that these requests find nothing saves the data.
    member("volume", "backup", "unset", "--property", "a", "monday", code=None)
    assert account.get(f"/backups/{backup['id']}", version="3.43")["backup"]["metadata"] == {"a": "1", "b": "2"}

    assert "One or more of the set operations failed" in member("volume", "backup", "set", "--state", "error", "monday", code=1)
    admin("volume", "backup", "set", "--state", "error", "monday")
    assert account.get(f"/backups/{backup['id']}")["backup"]["status"] == "error"
    assert [b["ID"] for b in member.json("volume", "backup", "list", "--status", "error", "--name", "monday")] == [backup["id"]]
    admin("volume", "backup", "set", "--state", "available", "monday")

    record = admin.json("volume", "backup", "record", "export", "monday")
    assert record["backup_service"].startswith("cinder.backup.drivers") and record["backup_url"]
    assert "403" in member("volume", "backup", "record", "export", "monday", code=1)
    # The client posts the import to where records are exported, which goes nowhere: `cinder backup-import` does it.
    assert "404" in admin("volume", "backup", "record", "import", record["backup_service"], record["backup_url"], code=1)

    mine = [b["ID"] for b in admin.json("volume", "backup", "list", "--project", project)]
    assert mine == [backup["id"]]
    assert backup["id"] in [b["ID"] for b in admin.json("volume", "backup", "list", "--all-projects")]
    quota = {q["Resource"]: q["Limit"] for q in admin.json("quota", "show", "--volume", project)}
    assert {"volumes", "backups", "backup-gigabytes"} <= set(quota), quota


def test_a_volume_out_of_a_backup(member, tmp_path):
    """`volume create --backup`, and a backup of a snapshot, which is as the volume was then."""
    account, cloud = member.account, member.cloud
    volume = account.call("POST", "/volumes", {"volume": {"size": 1, "name": "v"}}, code=202).json()["volume"]
    account.wait("volume", volume["id"])
    disk = cloud.backing(volume["id"])
    ext4.make(disk, seed=1)
    before = ext4.copy(disk, tmp_path / "before")
    snapshot = member.json("volume", "snapshot", "create", "--volume", "v", "then")
    account.wait("snapshot", snapshot["id"])
    ext4.change(disk)
    backup = member.json("volume", "backup", "create", "--snapshot", "then", "--name", "of then", "v")
    account.wait("backup", backup["id"])
    made = member.json("volume", "create", "--backup", "of then", "again")
    account.wait("volume", made["id"])
    ext4.assert_restored(cloud.backing(made["id"]), before)


def test_a_token_is_enough(member):
    token = member("token", "issue", "-f", "value", "-c", "id").strip()
    environment = member.account.env(OS_AUTH_TYPE="v3token", OS_TOKEN=token)
    for name in ("OS_USERNAME", "OS_PASSWORD", "OS_USER_DOMAIN_NAME"):
        del environment[name]
    with_token = Openstack(member.account, **environment)
    assert with_token.json("volume", "backup", "list") == []
    member("token", "revoke", token)
    assert "HTTP 401" in with_token("volume", "backup", "list", code=1)


def test_a_wrong_password(member):
    stranger = Openstack(member.account, **member.account.env(OS_PASSWORD="wrong password 1"))
    assert "HTTP 401" in stranger("volume", "backup", "list", code=1)
