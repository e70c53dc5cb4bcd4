"""DELETE /volumes/{id}: when it is allowed, what goes with it and what stays (Cinder contract 4.2, 6.3, 6.5)."""

import pytest

from helpers.api import ok
from helpers.cinder import empty
from helpers.cinder_volumes import LATEST, NOBODY, content, fault
from helpers.wait import wait_for


@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_a_volume_goes_and_its_file_too(cloud, version):
    volume = cloud.volume(1, seed=version)
    path = cloud.path(volume)
    client = cloud.member.at(version)
    empty(client.delete(f"/volumes/{volume['id']}"))
    answer = client.get(f"/volumes/{volume['id']}")
    assert answer.status_code == 404 or ok(answer)["volume"]["status"] == "deleting"
    client.gone("volumes", volume)
    assert not path.exists()
    assert volume["id"] not in client.ids("volumes")
    fault(client.delete(f"/volumes/{volume['id']}"), 404)


@pytest.mark.parametrize("params", [
    {"cascade": "False", "force": "False"}, {"cascade": "True"}, {"cascade": "true", "force": "false"}, {"cascade": "0"}, {"cascade": "1"},
])
def test_the_flags_that_clients_send(cloud, params):
    """The openstack client always sends both, as words."""
    volume = cloud.volume(1)
    empty(cloud.member.delete(f"/volumes/{volume['id']}", params))
    cloud.member.gone("volumes", volume)


@pytest.mark.parametrize("params", [{"cascade": "perhaps"}, {"force": "perhaps"}])
def test_flags_that_are_no_booleans_are_400(cloud, params):
    volume = cloud.volume(1)
    fault(cloud.admin.delete(f"/volumes/{volume['id']}", params), 400)
    assert cloud.member.show("volumes", volume)["status"] == "available"


@pytest.mark.parametrize("status", ["error", "error_restoring", "error_extending"])
def test_it_is_allowed_after_failures(cloud, status):
    volume = cloud.volume(1)
    path = cloud.path(volume)
    cloud.reset(volume, status)
    cloud.remove("volumes", volume)
    assert not path.exists()


@pytest.mark.parametrize("status", [
    "creating", "attaching", "detaching", "in-use", "backing-up", "restoring-backup", "maintenance", "deleting", "error_deleting",
])
def test_it_is_refused_in_other_states(cloud, status):
    volume = cloud.volume(1)
    cloud.reset(volume, status)
    fault(cloud.member.delete(f"/volumes/{volume['id']}"), 400)
    assert cloud.member.show("volumes", volume)["status"] == status
    assert cloud.path(volume).exists()
    cloud.reset(volume, "available")
    cloud.remove("volumes", volume)


def test_it_is_refused_while_a_host_uses_it(cloud):
    volume = cloud.volume(1)
    cloud.attach(volume)
    fault(cloud.member.delete(f"/volumes/{volume['id']}"), 400)
    empty(cloud.member.action("volumes", volume, "os-detach", {}))
    cloud.remove("volumes", volume)


def test_force_is_for_admins_from_3_23(cloud):
    """Cinder contract 3.3."""
    volume = cloud.volume(1)
    path = cloud.path(volume)
    cloud.reset(volume, "maintenance")
    url = f"/volumes/{volume['id']}"
    fault(cloud.member.at("3.22").delete(url, {"force": "True"}), 400)
    fault(cloud.member.at("3.23").delete(url, {"force": "True"}), 403)
    # Before, nobody knows the word.
    fault(cloud.admin.at("3.22").delete(url, {"force": "True"}), 400)
    empty(cloud.admin.at("3.23").delete(url, {"force": "True"}))
    cloud.member.gone("volumes", volume)
    assert not path.exists()


def test_snapshots_forbid_it_unless_they_go_too(cloud):
    volume = cloud.volume(1, seed="cascade")
    path = cloud.path(volume)
    snapshots = [cloud.snapshot(volume, name=f"s{n}") for n in range(2)]
    for params in (None, {"cascade": "False"}, {"cascade": "false", "force": "False"}):
        fault(cloud.member.delete(f"/volumes/{volume['id']}", params), 400)
    assert cloud.member.show("volumes", volume)["status"] == "available"
    assert len(cloud.member.list("snapshots", volume_id=volume["id"])) == 2
    empty(cloud.member.delete(f"/volumes/{volume['id']}", {"cascade": "True"}))
    cloud.member.gone("volumes", volume)
    for snapshot in snapshots:
        fault(cloud.member.get(f"/snapshots/{snapshot['id']}"), 404)
    assert not path.exists()
    assert cloud.member.usage()["snapshots"] == 0


def test_after_its_snapshots_are_deleted_it_goes(cloud):
    volume = cloud.volume(1)
    snapshot = cloud.snapshot(volume)
    fault(cloud.member.delete(f"/volumes/{volume['id']}"), 400)
    cloud.remove("snapshots", snapshot)
    cloud.remove("volumes", volume)


def test_backups_do_not_block_it_and_stay(cloud):
    """Cinder contract 6.5: they keep naming the volume, and restore to a new one."""
    volume = cloud.volume(1, seed="kept", name="precious", metadata={"a": "b"})
    before = content(cloud.path(volume))
    full, changed = cloud.backup(volume), cloud.backup(volume, incremental=True)
    cloud.remove("volumes", volume)
    for backup in (full, changed):
        shown = cloud.member.show("backups", backup)
        assert (shown["status"], shown["volume_id"]) == ("available", volume["id"])
    answer = ok(cloud.member.post(f"/backups/{changed['id']}/restore", {"restore": {}}), 202)["restore"]
    restored = cloud.member.wait("volumes", answer["volume_id"])
    assert content(cloud.path(restored)) == before
    cloud.member.wait("backups", changed)


def test_a_volume_made_of_a_snapshot_does_not_need_it_any_more(cloud):
    volume = cloud.volume(1, seed="grandparent")
    before = content(cloud.path(volume))
    snapshot = cloud.snapshot(volume)
    made = cloud.member.wait("volumes", cloud.member.create("volumes", snapshot_id=snapshot["id"]))
    clone = cloud.member.wait("volumes", cloud.member.create("volumes", source_volid=volume["id"]))
    empty(cloud.member.delete(f"/volumes/{volume['id']}", {"cascade": "True"}))
    cloud.member.gone("volumes", volume)
    assert content(cloud.path(made)) == before and content(cloud.path(clone)) == before
    cloud.remove("volumes", made)
    cloud.remove("volumes", clone)


def test_a_registered_file_is_forgotten_and_left_alone(cloud):
    volume = cloud.registered()
    path = cloud.path(volume)
    before = content(path)
    cloud.remove("volumes", volume)
    assert content(path) == before
    ok(cloud.api.get(f"/ops/volumes/{volume['id'].replace('-', '')}/"), 404)


@pytest.mark.parametrize("running", [True, False])
def test_a_machines_volume_is_not_taken_from_it(cloud, running):
    vm, (volume,) = cloud.online()
    if not running:
        ok(cloud.api.post(vm["url"] + "stop/"), 202)
        cloud.wait_state(vm["url"], "Offline")
    path = cloud.path(volume)
    for client, params in ((cloud.member, None), (cloud.member, {"cascade": "True"}), (cloud.admin, {"force": "True"})):
        fault(client.delete(f"/volumes/{volume['id']}", params), 400)
    assert path.exists() and len(cloud.get(vm)["volumes"]) == 1


def test_who_may(cloud):
    volume = cloud.volume(1)
    fault(cloud.reader.delete(f"/volumes/{volume['id']}"), 403)
    fault(cloud.stranger.delete(f"/volumes/{volume['id']}"), 404)
    fault(cloud.member.delete(f"/volumes/{NOBODY}"), 404)
    # An admin reaches it through the URL of another project (Cinder contract 0.3).
    empty(cloud.staff(cloud.new_project()).delete(f"/volumes/{volume['id']}"))
    cloud.member.gone("volumes", volume)


def test_the_room_is_given_back(cloud):
    before = cloud.member.usage()
    volume = cloud.volume(3)
    during = cloud.member.usage()
    assert (during["volumes"], during["gigabytes"]) == (before["volumes"] + 1, before["gigabytes"] + 3)
    cloud.remove("volumes", volume)
    assert cloud.member.usage() == before


def test_a_failed_creation_leaves_a_volume_that_can_be_deleted(cloud):
    """A clone of a disk that is gone."""
    source = cloud.broken()
    made = cloud.member.create("volumes", source_volid=source["id"])
    wait_for(lambda: cloud.member.show("volumes", made)["status"] == "error", "the clone fails")
    path = cloud.path(made)
    cloud.remove("volumes", made)
    assert not path.exists()
