"""A host that has lost everything but the configuration, and one that comes back: who may write, what each of them has, in both dialects."""

import uuid

import pytest

from helpers.api import ok
from helpers.cinder import assert_restored, decode, encode, fault
from helpers.disks import MIB
from helpers.lab import BACKUPS
from helpers.wait import wait_for
from objects.conftest import swift_table
from repositories.test_interrupted import held, release


@pytest.fixture
def pair(site, straight):
    """Two hosts with one configuration, of which the first has backups."""
    first, second = site({"r": straight}), site({"r": straight})
    return first, second


def test_a_bare_host_has_all_backups_in_both_dialects(pair):
    first, second = pair
    project = first.new_project("science")
    machine = first.instance([first.disk(12 * MIB, ext4=True), first.disk(3 * MIB)], project=project, name="web", tags=["blue"])
    saved = [first.keep(disk) for disk in first.volume_files(machine)]
    one = first.backup(machine, repository="r", description="before the upgrade")
    disk = first.volume_files(machine)[1]
    disk.write_bytes(b"\7" * disk.stat().st_size)
    changed = first.keep(disk)
    two = first.backup(machine, repository="r")
    here = first.backup(machine, repository="coffer")
    lone = first.filled(1, name="lone", metadata={"a": "b"})
    full = first.admin.backup(lone, container="r", name="full", description="of a volume", metadata={"k": "v"})
    child = first.admin.backup(lone, container="r", incremental=True)
    lone_saved = first.keep(first.path(lone))
    shown = {b["id"]: b for b in first.everything()}
    first.d.stop()

    done = second.attach()
    assert (done["added"], done["known"], done["incomplete"], done["unusable"]) == (4, 0, 0, [])
    assert second.attach()["known"] == 4
    # Waldur
    names = [b["uuid"] for b in second.api.list(BACKUPS)]
    assert sorted(names) == sorted(b["uuid"] for b in (one, two))
    for before in (one, two):
        now = second.waldur(before)
        assert (now["repository"], now["state"], now["instance_name"], now["project_name"]) == ("r", "Ready", "web", "science")
        for key in ("description", "created_at", "size_bytes", "stored_bytes", "metadata", "instance_uuid"):
            assert now[key] == before[key], key
    second.assert_restores(second.waldur(one), *saved)
    second.assert_restores(second.waldur(two), saved[0], changed)
    ok(second.api.get(f"/api/openstack-backups/{here['uuid']}/"), 404)
    # Cinder
    now = {b["id"]: b for b in second.everything()}
    assert set(now) == {id for id, b in shown.items() if b["container"] == "r"} and len(now) == 6
    for id, backup in now.items():
        for key in ("container", "object_count", "size", "status", "name", "description", "metadata", "created_at", "is_incremental", "volume_id"):
            assert backup[key] == shown[id][key], key
    assert now[child["id"]]["is_incremental"]
    restored = second.admin.restore(full)
    assert restored["metadata"]["a"] == "b"
    assert_restored(lone_saved, second.path(restored))
    # The next backups here go on where the lost host has ended.
    again = second.instance([second.keep(saved[0], second.d.root)])
    assert second.backup(again, repository="r")["stored_bytes"] == 0


def test_records_of_the_lost_host_can_be_imported(pair):
    first, second = pair
    volume = first.filled(1)
    backup = first.admin.backup(volume, container="r", name="n")
    exported, saved = first.admin.export(backup), first.keep(first.path(volume))
    first.d.stop()
    # Before the repository is attached its data is not known here; it says what to do.
    row = second.admin.wait_rest(ok(second.admin.import_record(exported["backup_service"], exported["backup_url"]), 201)["backup"])
    assert row["status"] == "error"
    assert "repository r" in row["fail_reason"] and "cofferd repository attach r" in row["fail_reason"]
    second.admin.remove(row)
    assert second.attach()["added"] == 1
    # The backup itself is there already, under its own id; a record of another id is one more of the same data.
    fault(second.admin.import_record(exported["backup_service"], exported["backup_url"]), 400)
    record = decode(exported["backup_url"]) | {"id": str(uuid.uuid4())}
    copy = second.admin.wait(ok(second.admin.import_record(exported["backup_service"], encode(record)), 201)["backup"])
    assert (copy["name"], copy["container"]) == ("n", "r")
    second.staff().remove(backup)
    second.collect()
    assert_restored(saved, second.path(second.admin.restore(copy)))
    second.d.stop()
    # It has a manifest of its own: the third host has it too.
    first.d.start()
    done = first.attach()
    assert (done["added"], done["gone"]) == (1, 1)
    assert_restored(saved, first.path(first.admin.restore(copy["id"])))


@pytest.mark.fault("store: another host writes to the same prefix")
def test_a_second_host_is_refused_and_harms_nothing(pair, bucket):
    first, second = pair
    machine, saved = first.raw(4)
    backup = first.backup(machine, repository="r")
    before = bucket.names()
    strange, _ = second.raw(4, seed=9)
    second.erred(second.start_backup(strange, repository="r"), "repository r: belongs to another coffer", "cofferd repository attach")
    second.collect()
    assert bucket.names() == before
    assert not second.api.list(BACKUPS, state="Ready")
    first.backup(machine, repository="r")
    first.assert_restores(backup, saved)


@pytest.mark.fault("store: the lost host comes back")
def test_the_old_host_is_fenced_and_told_and_can_take_over_again(pair, bucket):
    first, second = pair
    (a, a_saved), (b, b_saved) = first.raw(9, seed=1), first.raw(9, seed=2)
    of_a, of_b = first.backup(a, repository="r"), first.backup(b, repository="r")
    second.attach()
    told = "has been taken over by another coffer"
    first.erred(first.start_backup(a, repository="r"), "repository r: " + told, "stays readable")
    assert told in first.run("gc", code=1)
    first.assert_restores(first.waldur(of_a), a_saved)
    # The new one deletes a backup, with all that only that one needs, and makes one of its own.
    ok(second.api.delete(f"/api/openstack-backups/{of_a['uuid']}/"), 202)
    second.wait_gone(f"/api/openstack-backups/{of_a['uuid']}/")
    second.collect()
    mine, mine_saved = second.raw(9, seed=3)
    of_mine = second.backup(mine, repository="r")
    first.assert_restores(first.waldur(of_b), b_saved)
    # The old one comes back: what was deleted meanwhile is not Ready, and what is made now does not build upon it.
    done = first.attach()
    assert (done["added"], done["gone"]) == (1, 1) and done["lost"]
    first.erred(first.waldur(of_a), "another host has deleted this backup")
    first.assert_restores(first.waldur(of_mine), mine_saved)
    again = first.backup(a, repository="r")
    assert again["stored_bytes"] > 8 * MIB
    second.erred(second.start_backup(mine, repository="r"), told)
    first.collect()
    third = second
    done = third.attach()
    assert done["incomplete"] == 0
    for backup, saved in ((of_b, b_saved), (of_mine, mine_saved), (again, a_saved)):
        third.assert_restores(third.waldur(backup), saved)


def test_what_the_old_host_was_about_to_delete_stays_for_the_new_one(pair, bucket):
    """It had noted them as useless before it was replaced, and found that note again when it came back."""
    first, second = pair
    machine, saved = first.raw(9)
    backup = first.backup(machine, repository="r")
    ok(first.api.delete(backup["url"]), 202)
    first.wait_gone(backup["url"])
    wait_for(lambda: first.d.sql("SELECT count(*) FROM trash") > [(2,)], "the collection")
    second.attach()
    mine = second.instance([second.keep(saved, second.d.root)])
    of_mine = second.backup(mine, repository="r")
    assert of_mine["stored_bytes"] == 0, "it has found the data of the first host's backup"
    first.attach()
    first.collect()
    first.assert_restores(first.waldur(of_mine), saved)
    second.attach()
    second.assert_restores(second.waldur(of_mine), saved)


def test_a_host_that_is_replaced_in_the_middle_of_a_backup_makes_none(site, table, straight, proxy, bucket):
    first, second = site({"r": table(connections=1)}, [proxy]), site({"r": straight})
    machine, saved = first.raw(20)
    before = first.backup(machine, repository="r")
    other, _ = first.raw(20, seed=5)
    gate = held(proxy, 1)
    backup = first.start_backup(other, repository="r")
    assert gate.met.wait(60)
    second.attach()
    release(proxy, gate)
    first.erred(backup, "taken over by another coffer")
    second.collect()
    assert len(bucket.names("backups/")) == 1
    second.assert_restores(second.waldur(before), saved)


def test_a_coffer_that_is_older_than_its_repository_removes_nothing(site, straight, bucket, tmp_path):
    """A copy of the coffer that was put back knows nothing of the backups since: they are no garbage, and nothing is built upon what they may have removed."""
    lab = site({"r": straight})
    machine, saved = lab.raw(4)
    first = lab.backup(machine, repository="r")
    lab.run("snapshot", str(tmp_path / "old.db"))
    other, other_saved = lab.raw(4, seed=1)
    second = lab.backup(other, repository="r")
    lab.d.stop()
    for leftover in lab.d.state_dir.glob("coffer.db*"):
        leftover.unlink()
    (tmp_path / "old.db").rename(lab.d.coffer)
    lab.d.start()
    before = bucket.names()
    assert "has a backup that this coffer does not know" in lab.run("gc", code=1)
    lab.erred(lab.start_backup(machine, repository="r"), "has a backup that this coffer does not know", "cofferd repository attach r")
    assert bucket.names() == before
    assert lab.attach()["added"] == 1
    lab.collect()
    lab.assert_restores(lab.waldur(first), saved)
    lab.assert_restores(lab.waldur(second), other_saved)


def test_one_place_under_two_names_is_refused(site, straight):
    """The second name is another writer to the same prefix."""
    lab = site({"r": straight, "s": straight})
    machine, saved = lab.raw(2)
    backup = lab.backup(machine, repository="r")
    lab.erred(lab.start_backup(machine, repository="s"), "repository s: ", "belongs to another coffer")
    lab.collect()
    lab.assert_restores(backup, saved)


def test_hosts_with_prefixes_of_their_own_do_not_meet(site, swift, container):
    labs = [site({"r": swift_table(swift.url, container, prefix=name, timeout_s=20)}) for name in ("one", "two")]
    made = []
    for number, lab in enumerate(labs):
        machine, saved = lab.raw(3, seed=number)
        made.append((lab, lab.backup(machine, repository="r"), saved))
    for lab, backup, saved in made:
        lab.collect()
        lab.assert_restores(backup, saved)


def test_a_default_whose_credentials_cannot_be_read_is_no_reason_to_go_elsewhere(site, straight):
    lab = site({"r": {**straight, "default": True, "secret": "ST_KEE=testing\n"}})
    machine, _ = lab.raw(2)
    lab.erred(lab.start_backup(machine), "repository r: ", "credentials cannot be read")
