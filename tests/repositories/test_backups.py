"""Backups in repositories, from order to restore, in both dialects: what goes there, what comes back, what is shown of it."""

import pytest

from helpers import ext4
from helpers.api import ok
from helpers.cinder import assert_restored, dashed
from helpers.disks import MIB, assert_clean_ext4, assert_same_bytes
from helpers.lab import BACKUPS
from objects.conftest import s3_table, swift_table
from repositories.conftest import Bucket, Folder


def where(kind, request, tmp_path):
    """A repository of this kind, and what lies in it."""
    if kind == "directory":
        return {"kind": "directory", "directory": str(tmp_path), "prefix": "hosts/one"}, Folder(tmp_path / "hosts" / "one")
    if kind == "moto":
        return s3_table(request.getfixturevalue("moto").url, request.getfixturevalue("bucket_of_moto"), prefix=tmp_path.name, timeout_s=20), None
    if kind == "keystone":
        cloud = request.getfixturevalue("cloud")
        secret = "OS_APPLICATION_CREDENTIAL_ID={}\nOS_APPLICATION_CREDENTIAL_SECRET={}\n".format(*cloud.application)
        return {"kind": "swift", "auth_url": cloud.url, "container": "backups", "region": "RegionOne", "prefix": tmp_path.name,
                "secret": secret, "timeout_s": 20}, None
    swift, container = request.getfixturevalue("swift"), request.getfixturevalue("container")
    table = (swift_table if kind == "swift" else s3_table)(swift.url, container, prefix="hosts/one", timeout_s=20, patience_s=20)
    return table, Bucket(swift.url, container, "hosts/one/")


@pytest.mark.parametrize("kind", ["swift", "s3", "moto", "directory", pytest.param("keystone", marks=pytest.mark.long)])
def test_a_machine_with_two_disks_goes_there_and_comes_back(kind, request, site, tmp_path):
    table, place = where(kind, request, tmp_path)
    lab = site({"r": table})
    if kind == "keystone":
        lab.host.secrets.add(request.getfixturevalue("cloud").application[1])
    disks = [lab.d.root / "system.img", lab.d.root / "data.img"]
    for number, disk in enumerate(disks):
        disk.touch()
        with open(disk, "r+b") as f:
            f.truncate((24 + 8 * number) * MIB)
        ext4.make(disk, seed=number)
    machine = lab.instance(disks)
    first = lab.backup(machine, repository="r")
    saved = [lab.keep(disk) for disk in disks]
    assert first["repository"] == "r" and first["stored_bytes"] > 16 * MIB
    assert lab.d.sql("SELECT count(*) FROM pack") == [(0,)], "the data is not in the coffer as well"
    ext4.change(disks[0])
    second = lab.backup(machine, repository="r")
    changed = lab.keep(disks[0])
    assert 0 < second["stored_bytes"] < first["stored_bytes"] / 2

    if place:
        assert {name.split("/")[-2] for name in place.names()} == {"packs", "segments", "backups", "writer"}
        assert len(place.names("backups/")) == 2
    shown = {b["id"]: b for b in lab.everything()}
    parts = [[shown[dashed(v["uuid"])] for v in parts_of(lab, backup)] for backup in (first, second)]
    assert all(b["container"] == "r" and b["status"] == "available" for pair in parts for b in pair)
    assert all(b["object_count"] >= 1 for b in parts[0]) and parts[1][1]["object_count"] == 0
    if place:
        assert sum(b["object_count"] for pair in parts for b in pair) == len(place.names("packs/"))

    # A new machine, a new volume, and the volume itself.
    lab.assert_restores(first, *saved)
    lab.assert_restores(second, changed, saved[1])
    volumes = lab.volumes_of(machine)
    incremental = lab.admin.backup(volumes[0], container="r", incremental=True, force=True)
    assert incremental["container"] == "r" and incremental["is_incremental"] and incremental["object_count"] == 0
    fresh = lab.admin.restore(incremental)
    assert_restored(changed, lab.path(fresh))
    ext4.scribble(disks[0])
    lab.admin.restore(parts[0][0], volume_id=volumes[0]["id"])
    assert_same_bytes(saved[0], disks[0])
    assert_clean_ext4(disks[0])
    check = lab.run("check", second["uuid"])
    assert not check["result"]["corrupt"], check


def parts_of(lab, backup):
    rows = lab.d.sql("SELECT vb.uuid, vb.position FROM volume_backup vb JOIN backup b ON b.id = vb.backup_id WHERE b.uuid = ? ORDER BY 2", (backup["uuid"],))
    return [{"uuid": uuid} for uuid, _ in rows]


def test_an_unchanged_disk_costs_next_to_nothing(site, table, proxy, bucket):
    lab = site({"r": table()}, [proxy])
    machine, saved = lab.raw(64)
    first = lab.backup(machine, repository="r")
    assert proxy.received > 64 * MIB
    packs, before = bucket.names("packs/"), proxy.received
    again = lab.backup(machine, repository="r")
    assert proxy.received - before < MIB / 16
    assert bucket.names("packs/") == packs and again["stored_bytes"] == 0
    # The data of a disk that was never backed up is found all the same.
    copy = lab.instance([lab.keep(saved, lab.d.root)])
    before = proxy.received
    lab.backup(copy, repository="r")
    assert proxy.received - before < MIB / 16
    lab.assert_restores(first, saved)


def test_where_a_backup_goes(site, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    tables = {name: {"kind": "directory", "directory": str(tmp_path / name)} for name in ("first", "second")}
    lab = site({**tables, "first": {**tables["first"], "default": True}})
    machine = lab.instance([2 * MIB])
    volume, = lab.volumes_of(machine)
    for asked, got in {None: "first", "": "first", "coffer": "coffer", "first": "first", "second": "second"}.items():
        fields = {} if asked is None else {"repository": asked}
        assert lab.backup(machine, **fields)["repository"] == got, asked
    # What Cinder calls a container is a label unless it names a place; in the end it is where the data lies.
    for asked, got in {None: "first", "weekly": "first", "coffer": "coffer", "second": "second"}.items():
        assert lab.admin.backup(volume, container=asked, force=True)["container"] == got, asked
    refused = ok(lab.api.post(BACKUPS, {"instance": machine["url"], "repository": "third"}), 400)
    (message,) = refused["repository"]
    assert message.startswith('"third" is not a valid choice.') and "reloaded" in message
    refused = lab.schedule(machine, repository="third", code=400)
    assert refused == {"repository": [message]}
    assert lab.schedule(machine, repository="second")["repository"] == "second"

    # The default is taken away, then it is another.
    lab.host.reload(tables)
    assert lab.backup(machine)["repository"] == "coffer"
    assert lab.admin.backup(volume, container="weekly", force=True)["container"] == "weekly"
    lab.host.reload({**tables, "second": {**tables["second"], "default": True}})
    assert lab.backup(machine)["repository"] == "second"


def test_schedules_send_their_backups_there(site, tmp_path):
    lab = site({"r": {"kind": "directory", "directory": str(tmp_path)}}, clock="2026-11-21T12:00:30")
    machine = lab.instance([2 * MIB])
    saved = lab.keep(lab.volume_files(machine)[0])
    schedule = lab.schedule(machine, schedule="0 * * * *", maximal_number_of_backups=1, repository="r")
    ok(lab.api.post(schedule["url"] + "activate/"))
    place = Folder(tmp_path)
    lab.d.clock.set("2026-11-21T13:00:01")
    first, = lab.wait_backups(schedule, 1)
    assert first["repository"] == "r" and len(place.names("backups/")) == 1
    ok(lab.api.patch(schedule["url"], {"repository": "coffer"}))
    lab.d.clock.set("2026-11-21T14:00:01")
    lab.wait_gone(first["url"])
    second, = lab.wait_backups(schedule, 1)
    assert second["repository"] == "coffer"
    lab.assert_restores(second, saved)
    lab.collect()
    assert [name.split("/")[0] for name in place.names()] == ["writer"], "what a schedule has pruned leaves the repository"
