"""POST /volumes/{id}/action: each action, who may do it, in which state, with which body (Cinder contract 4.2)."""

import os

import pytest

from helpers.api import ok
from helpers.cinder import GIB, UUID, empty, moment
from helpers.cinder_volumes import ATTACHMENT_KEYS, FALSE, NOBODY, TRUE, content, fault, scribble
from helpers.disks import MIB


@pytest.fixture(scope="module")
def volume(cloud):
    """One that every test leaves as it was."""
    return cloud.volume(1)


# -------------------------------------------------------------------- the body


@pytest.mark.parametrize("body", [
    [], "os-reserve", {}, None, {"os-nothing": {}}, {"reserve": None}, {"": {}},
    # What the newest version would have besides (Cinder contract 3.3): never half done.
    {"os-retype": {"new_type": "x", "migration_policy": "never"}}, {"os-migrate_volume": {"host": "a@b#c"}}, {"os-unmanage": {}},
    {"os-volume_upload_image": {"image_name": "x"}}, {"os-set_image_metadata": {"metadata": {}}}, {"revert": {"snapshot_id": NOBODY}},
    {"os-reimage": {"image_id": NOBODY}}, {"os-extend_volume_completion": {"error": False}},
], ids=lambda body: str(body)[:30])
def test_unknown_actions_are_400(cloud, volume, body):
    answer = cloud.admin.post(f"/volumes/{volume['id']}/action", body, data=b"" if body is None else None)
    fault(answer, 400)
    assert cloud.member.show("volumes", volume) == volume


@pytest.mark.parametrize("name, value", [
    ("os-set_bootable", {"bootable": True}), ("os-extend", {"new_size": 2}), ("os-reserve", None), ("os-unreserve", None),
    ("os-attach", {"host_name": "h", "mountpoint": "/dev/vdb"}), ("os-detach", {}), ("os-update_readonly_flag", {"readonly": True}),
    ("os-reset_status", {"status": "error"}), ("os-force_delete", {}),
])
def test_actions_upon_what_is_not_there_are_404(cloud, volume, name, value):
    """For a member too where he may not: the look-up comes before the role (Cinder contract 0.3)."""
    for target in (NOBODY, "a name"):
        fault(cloud.member.action("volumes", target, name, value), 404)
    fault(cloud.stranger.action("volumes", volume, name, value), 404)


# -------------------------------------------------------------------- bootable, read only


@pytest.mark.parametrize("value", TRUE + FALSE)
def test_set_bootable(cloud, volume, value):
    """The booleans of Cinder contract 1.1. What is shown is a word."""
    assert cloud.member.action("volumes", volume, "os-set_bootable", {"bootable": value}).status_code == 200
    assert cloud.member.show("volumes", volume)["bootable"] == ("true" if value in TRUE else "false")
    ok(cloud.member.action("volumes", volume, "os-set_bootable", {"bootable": False}))


@pytest.mark.parametrize("value", [None, {}, [], {"bootable": None}, {"bootable": "maybe"}, {"bootable": 2}, {"bootable": []}], ids=str)
def test_set_bootable_wrongly(cloud, volume, value):
    fault(cloud.member.action("volumes", volume, "os-set_bootable", value), 400)


@pytest.mark.parametrize("value, word", [(True, "True"), (False, "False"), ("true", "True"), ("0", "False")])
def test_the_readonly_flag_is_seen_in_the_metadata(cloud, value, word):
    """Tempest looks for it there, written as Python writes a boolean."""
    volume = cloud.volume(1, metadata={"a": "b"})
    empty(cloud.member.action("volumes", volume, "os-update_readonly_flag", {"readonly": value}))
    assert cloud.member.show("volumes", volume)["metadata"] == {"a": "b", "readonly": word}


@pytest.mark.parametrize("value", [None, {}, {"readonly": "maybe"}, {"readonly": None}, {"readonly": {}}], ids=str)
def test_the_readonly_flag_wrongly(cloud, volume, value):
    fault(cloud.member.action("volumes", volume, "os-update_readonly_flag", value), 400)


# -------------------------------------------------------------------- extend


@pytest.mark.parametrize("size", [3, "3"])
def test_extend(cloud, size):
    volume = cloud.volume(1, seed="extend", metadata={"a": "b"}, name="grows")
    path, before = cloud.path(volume), content(cloud.path(volume))
    empty(cloud.member.action("volumes", volume, "os-extend", {"new_size": size}))
    seen, shown = cloud.member.watch("volumes", volume)
    assert seen in (["available"], ["extending", "available"])
    assert shown["size"] == 3 and os.path.getsize(path) == 3 * GIB
    assert content(path) == before
    assert (shown["name"], shown["metadata"]) == ("grows", {"a": "b"})


@pytest.mark.parametrize("value", [
    None, {}, [], {"new_size": None}, {"new_size": 0}, {"new_size": -1}, {"new_size": "abc"}, {"new_size": ""}, {"new_size": 1.5},
    {"new_size": "2.5"}, {"new_size": []}, {"new_size": True}, {"new_size": 2**63}, {"new_size": 2**64},
    # It must grow.
    {"new_size": 1}, {"new_size": 2}, {"new_size": "2"},
], ids=str)
def test_extend_wrongly(cloud, value):
    volume = cloud.volume(2)
    fault(cloud.member.action("volumes", volume, "os-extend", value), 400)
    assert cloud.member.show("volumes", volume) == volume
    assert os.path.getsize(cloud.path(volume)) == 2 * GIB


@pytest.mark.parametrize("status", ["error", "creating", "deleting", "attaching", "backing-up", "restoring-backup", "maintenance"])
def test_extend_needs_an_available_volume(cloud, status):
    volume = cloud.volume(1)
    cloud.reset(volume, status)
    fault(cloud.member.action("volumes", volume, "os-extend", {"new_size": 2}), 400)
    assert os.path.getsize(cloud.path(volume)) == GIB
    cloud.reset(volume, "available")


def test_a_registered_file_is_not_extended(cloud):
    """It is not cofferd's."""
    volume = cloud.registered(MIB)
    fault(cloud.member.action("volumes", volume, "os-extend", {"new_size": 2}), 400)
    assert os.path.getsize(cloud.path(volume)) == MIB
    assert cloud.member.show("volumes", volume) == cloud.member.show("volumes", volume) | {"size": 1, "status": "available"}


def test_an_incremental_backup_after_an_extension(cloud):
    """Stock Cinder fails it (Cinder contract 1.1, 7): here it works, and has the whole grown disk."""
    volume = cloud.volume(1, seed="first")
    cloud.backup(volume)
    empty(cloud.member.action("volumes", volume, "os-extend", {"new_size": 2}))
    cloud.member.wait("volumes", volume)
    scribble(cloud.path(volume), "second")
    backup = cloud.backup(volume, incremental=True)
    assert backup["is_incremental"] is True and backup["size"] == 2
    made = cloud.member.wait("volumes", cloud.member.create("volumes", backup_id=backup["id"]))
    assert made["size"] == 2
    assert content(cloud.path(made)) == content(cloud.path(volume))


def test_a_snapshot_keeps_its_size_when_the_volume_grows(cloud):
    volume = cloud.volume(1, seed="first")
    snapshot, before = cloud.snapshot(volume), content(cloud.path(volume))
    empty(cloud.member.action("volumes", volume, "os-extend", {"new_size": 2}))
    cloud.member.wait("volumes", volume)
    assert cloud.member.show("snapshots", snapshot)["size"] == 1
    made = cloud.member.wait("volumes", cloud.member.create("volumes", snapshot_id=snapshot["id"]))
    assert made["size"] == 1 and content(cloud.path(made)) == before


# -------------------------------------------------------------------- reserve, attach, detach


def test_reserve_and_unreserve(cloud):
    volume = cloud.volume(1)
    empty(cloud.member.action("volumes", volume, "os-reserve"))
    assert cloud.member.show("volumes", volume)["status"] == "attaching"
    # Once only: Tempest tries it twice.
    fault(cloud.member.action("volumes", volume, "os-reserve"), 400)
    fault(cloud.member.delete(f"/volumes/{volume['id']}"), 400)
    empty(cloud.member.action("volumes", volume, "os-unreserve", {}))
    assert cloud.member.show("volumes", volume)["status"] == "available"


@pytest.mark.parametrize("reserved", [False, True])
def test_a_host_attaches_and_detaches(cloud, reserved):
    """How a user marks a volume as in use."""
    volume = cloud.volume(1)
    if reserved:
        empty(cloud.member.action("volumes", volume, "os-reserve"))
    shown = cloud.attach(volume, host_name="hv7", mountpoint="/dev/vdc")
    (attachment,) = shown["attachments"]
    assert set(attachment) == ATTACHMENT_KEYS
    assert attachment["id"] == attachment["volume_id"] == volume["id"]
    assert (attachment["host_name"], attachment["device"], attachment["server_id"]) == ("hv7", "/dev/vdc", None)
    assert UUID.match(attachment["attachment_id"]) and moment(attachment["attached_at"])
    (listed,) = [v for v in cloud.member.list("volumes", detail=True) if v["id"] == volume["id"]]
    assert listed["attachments"] == shown["attachments"]
    empty(cloud.member.action("volumes", volume, "os-detach", {"attachment_id": attachment["attachment_id"]}))
    shown = cloud.member.show("volumes", volume)
    assert (shown["status"], shown["attachments"]) == ("available", [])


def test_a_server_attaches_and_detaches(cloud):
    volume = cloud.volume(1)
    empty(cloud.member.action("volumes", volume, "os-attach", {"instance_uuid": NOBODY, "mountpoint": "/dev/vdb"}))
    (attachment,) = cloud.member.wait("volumes", volume, "in-use")["attachments"]
    assert attachment["server_id"] == NOBODY and attachment["device"] == "/dev/vdb"
    empty(cloud.member.action("volumes", volume, "os-detach", {}))
    assert cloud.member.show("volumes", volume)["status"] == "available"


@pytest.mark.parametrize("value", [
    None, {}, [], {"mountpoint": "/dev/vdb"}, {"host_name": "h", "instance_uuid": NOBODY, "mountpoint": "/dev/vdb"},
    {"instance_uuid": "x", "mountpoint": "/dev/vdb"}, {"host_name": 7, "mountpoint": "/dev/vdb"},
    {"host_name": "h", "mountpoint": "/dev/vdb", "mode": "perhaps"}, {"host_name": "h" * 256, "mountpoint": "/dev/vdb"},
], ids=lambda value: str(value)[:40])
def test_attach_wrongly(cloud, volume, value):
    """Either a host or a server, and a mode that is `rw` or `ro`."""
    fault(cloud.member.action("volumes", volume, "os-attach", value), 400)
    assert cloud.member.show("volumes", volume)["status"] == "available"


def test_a_volume_in_use_is_not_attached_again_nor_reserved_deleted_or_extended(cloud):
    volume = cloud.volume(1)
    cloud.attach(volume)
    fault(cloud.member.action("volumes", volume, "os-attach", {"host_name": "other", "mountpoint": "/dev/vdc"}), 400)
    fault(cloud.member.action("volumes", volume, "os-reserve"), 400)
    fault(cloud.member.action("volumes", volume, "os-extend", {"new_size": 2}), 400)
    fault(cloud.member.delete(f"/volumes/{volume['id']}"), 400)
    assert len(cloud.member.show("volumes", volume)["attachments"]) == 1


def test_a_volume_in_use_is_backed_up_with_force_and_stays_in_use(cloud):
    """Cinder contract 1.1, 6.2."""
    volume = cloud.volume(1, seed="busy")
    cloud.attach(volume)
    cloud.member.create("backups", 400, volume_id=volume["id"])
    cloud.backup(volume, force=True)
    assert cloud.member.show("volumes", volume)["status"] == "in-use"


def test_nothing_is_restored_into_a_volume_in_use(cloud):
    """Cinder contract 6.3: the target must be available."""
    volume = cloud.volume(1, seed="busy")
    backup = cloud.backup(volume)
    cloud.attach(volume)
    scribble(cloud.path(volume), "written by the host")
    before = content(cloud.path(volume))
    fault(cloud.member.post(f"/backups/{backup['id']}/restore", {"restore": {"volume_id": volume["id"]}}), 400)
    assert content(cloud.path(volume)) == before


# -------------------------------------------------------------------- what an admin does


@pytest.mark.parametrize("status", [
    "error", "creating", "deleting", "error_deleting", "attaching", "detaching", "in-use", "maintenance", "backing-up",
    "restoring-backup", "error_restoring", "error_extending", "available",
])
def test_reset_status(cloud, volume, status):
    empty(cloud.admin.action("volumes", volume, "os-reset_status", {"status": status}))
    assert cloud.member.show("volumes", volume)["status"] == status
    assert volume["id"] in cloud.member.ids("volumes", status=status)
    cloud.reset(volume, "available")


@pytest.mark.parametrize("value", [
    {"attach_status": "detached"}, {"migration_status": "none"}, {"status": "available", "attach_status": "detached"},
    {"status": "AVAILABLE"},
], ids=str)
def test_reset_status_of_other_kinds(cloud, volume, value):
    empty(cloud.admin.action("volumes", volume, "os-reset_status", value))
    assert cloud.member.show("volumes", volume)["status"] == "available"


@pytest.mark.parametrize("value", [
    None, {}, [], "error", {"status": "fine"}, {"status": ""}, {"status": 7}, {"attach_status": "perhaps"}, {"state": "error"},
], ids=str)
def test_reset_status_wrongly(cloud, volume, value):
    fault(cloud.admin.action("volumes", volume, "os-reset_status", value), 400)
    assert cloud.member.show("volumes", volume)["status"] == "available"


def test_resetting_to_detached_ends_an_attachment(cloud):
    volume = cloud.volume(1)
    cloud.attach(volume)
    value = {"status": "available", "attach_status": "detached"}
    empty(cloud.admin.action("volumes", volume, "os-reset_status", value))
    shown = cloud.member.show("volumes", volume)
    assert (shown["status"], shown["attachments"]) == ("available", [])


@pytest.mark.parametrize("name, value", [("os-reset_status", {"status": "error"}), ("os-force_delete", {}), ("os-force_delete", None)])
@pytest.mark.parametrize("role", ["reader", "manager", "admin"])
def test_resetting_and_forcing_are_for_admins(cloud, volume, name, value, role):
    """An admin of the project in Waldur's words is a member here: the host's administrator is the admin."""
    fault(cloud.client(role).action("volumes", volume, name, value), 403)
    assert cloud.member.show("volumes", volume)["status"] == "available"


@pytest.mark.parametrize("status", ["available", "error", "creating", "attaching", "maintenance", "error_deleting", "restoring-backup"])
def test_force_delete_does_not_mind_the_status(cloud, status):
    volume = cloud.volume(1)
    path = cloud.path(volume)
    cloud.reset(volume, status)
    empty(cloud.admin.action("volumes", volume, "os-force_delete", {}))
    cloud.member.gone("volumes", volume)
    assert not path.exists()


@pytest.mark.parametrize("value", [None, {}])
def test_what_clients_send_to_force_delete(cloud, value):
    volume = cloud.volume(1)
    empty(cloud.admin.at("3.0").action("volumes", volume, "os-force_delete", value))
    cloud.member.gone("volumes", volume)


def test_a_machines_volume_is_not_taken_from_it_by_force(cloud):
    vm, (volume,) = cloud.online()
    fault(cloud.admin.action("volumes", volume, "os-force_delete", {}), 400)
    assert [v["uuid"] for v in cloud.get(vm)["volumes"]] == [volume["id"].replace("-", "")]
