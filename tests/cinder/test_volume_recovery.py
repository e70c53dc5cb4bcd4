"""`kill -9` while a volume is being made: after the restart it is in error, can be deleted, and leaves nothing (contract 6.4)."""

import json
import os

import pytest

from helpers.api import ok
from helpers.cinder import dashed, empty
from helpers.cinder_volumes import Cloud, content, fault
from helpers.daemon import slow_reads
from helpers.disks import MIB, make_raw
from helpers.wait import wait_for

TRIES = 6


class Big(Cloud):
    """A volume with so much on it that a copy takes a while, a snapshot and a backup of it."""

    def __init__(self, daemon):
        super().__init__(daemon)
        self.source = self.volume(1)
        with open(self.path(self.source), "r+b") as f:
            for _ in range(50):
                f.write(os.urandom(4 * MIB))
        self.before = content(self.path(self.source))
        self.ways = {
            "backup": {"backup_id": self.backup(self.source)["id"]},
            "snapshot": {"snapshot_id": self.snapshot(self.source)["id"]},
            "clone": {"source_volid": self.source["id"]},
        }

    def restart(self):
        self.d.kill()
        self.d.start()


@pytest.mark.parametrize("way", ["backup", "snapshot", "clone"])
def test_a_volume_whose_making_was_interrupted(start_daemon, way):
    cloud = Big(start_daemon())
    used = cloud.member.usage()
    for _ in range(TRIES):
        made = cloud.member.create("volumes", **cloud.ways[way])
        path = cloud.path(made)
        # In the middle of the copy, if it is not over at once.
        wait_for(lambda: path.exists() or cloud.member.show("volumes", made)["status"] != "creating", "the copy begins", 10, 0.001)
        in_time = cloud.member.show("volumes", made)["status"] == "creating"
        cloud.restart()
        status = cloud.member.show("volumes", made)["status"]
        if in_time and status == "error":
            break
        # It was complete before the end: then it must be right.
        assert status == "available", status
        assert content(path) == cloud.before
        cloud.remove("volumes", made)
    else:
        pytest.fail(f"in {TRIES} attempts the volume was complete before the daemon was killed")
    assert cloud.member.usage()["volumes"] == used["volumes"] + 1
    cloud.remove("volumes", made)
    assert not path.exists()
    assert cloud.member.usage() == used
    # What it was to be made of is untouched and can be used again.
    assert cloud.member.show("volumes", cloud.source)["status"] == "available"
    for kind, key in (("backups", "backup_id"), ("snapshots", "snapshot_id")):
        if key in cloud.ways[way]:
            assert cloud.member.show(kind, cloud.ways[way][key])["status"] == "available"
    again = cloud.member.wait("volumes", cloud.member.create("volumes", **cloud.ways[way]))
    assert content(cloud.path(again)) == cloud.before
    # Nothing else lies in the pool.
    assert {p.name for p in cloud.path(again).parent.iterdir()} == {cloud.path(again).name, cloud.path(cloud.source).name}


def test_a_snapshot_whose_making_was_interrupted(start_daemon):
    d = start_daemon(start=False)
    path = make_raw(d.root / "slow.img", 8 * MIB, seed="slow")
    d.wrapper = [str(word) for word in slow_reads(path)]
    cloud = Cloud(d.start())
    made = ok(cloud.api.post("/ops/volumes/", {"path": str(path), "project": cloud.project["uuid"]}), 201)
    volume = cloud.member.show("volumes", dashed(made["uuid"]))
    snapshot = cloud.member.create("snapshots", volume_id=volume["id"])
    assert snapshot["status"] == "creating"
    d.kill()
    d.wrapper = []
    d.start()
    assert cloud.member.show("snapshots", snapshot)["status"] == "error"
    assert cloud.member.show("volumes", volume)["status"] == "available"
    cloud.remove("snapshots", snapshot)
    assert cloud.member.usage()["snapshots"] == 0
    cloud.snapshot(volume)


def test_a_deletion_that_was_interrupted_is_resumed(start_daemon):
    """Cinder contract 6.4."""
    cloud = Cloud(start_daemon())
    volumes = [cloud.volume(1, seed=n) for n in range(6)]
    paths = [cloud.path(v) for v in volumes]
    for volume in volumes:
        empty(cloud.member.delete(f"/volumes/{volume['id']}"))
    cloud.d.kill()
    cloud.d.start()
    for volume in volumes:
        cloud.member.gone("volumes", volume)
    assert not [path for path in paths if path.exists()]
    assert cloud.member.usage()["volumes"] == 0


def test_what_was_available_is_as_it_was(start_daemon):
    """Attachments, metadata, snapshots and bytes outlive the daemon."""
    cloud = Cloud(start_daemon())
    volume = cloud.volume(1, seed="kept", name="kept", metadata={"a": "b"})
    cloud.attach(volume)
    snapshot = cloud.snapshot(volume, force=True, metadata={"c": "d"})
    before = [cloud.member.show("volumes", volume), cloud.member.show("snapshots", snapshot), content(cloud.path(volume))]
    cloud.d.kill()
    cloud.d.start()
    after = [cloud.member.show("volumes", volume), cloud.member.show("snapshots", snapshot), content(cloud.path(volume))]
    port = before[0].pop("links"), after[0].pop("links")
    assert port and after == before


def test_a_volume_that_was_reset_while_its_deletion_waited_is_kept(start_daemon):
    """An administrator who resets it wants it back: a promised deletion must not take its file."""
    cloud = Cloud(start_daemon())
    volume = cloud.volume(1, seed="precious")
    path, before = cloud.path(volume), content(cloud.path(volume))
    cloud.d.stop()
    cloud.d.sql("INSERT INTO job (kind, volume_id, created) SELECT 'erase', id, created FROM volume")
    cloud.d.start()
    wait_for(lambda: cloud.d.sql("SELECT count(*) FROM job") == [(0,)], "the deletion is given up")
    assert cloud.member.show("volumes", volume)["status"] == "available"
    assert content(path) == before


def test_a_volume_that_is_only_called_deleting_can_be_deleted(start_daemon):
    """An administrator can put it into that state without anything being under way."""
    cloud = Cloud(start_daemon())
    volume = cloud.volume(1)
    cloud.reset(volume, "deleting")
    fault(cloud.member.delete(f"/volumes/{volume['id']}"), 400)
    empty(cloud.admin.action("volumes", volume, "os-force_delete", {}))
    cloud.member.gone("volumes", volume)


def test_odd_keys_in_a_filter_of_metadata(start_daemon):
    """What is no key of any volume finds none, and is no fault of the daemon's."""
    cloud = Cloud(start_daemon())
    cloud.volume(1, metadata={"a.b": "c"})
    for key, found in (("a.b", 1), ("", 0), ("\\", 0), ("a\\b", 0), ("]", 0), ("$", 0), ("\u0000", 0), ("ü", 0), ("x" * 5000, 0)):
        assert len(cloud.member.list("volumes", metadata=json.dumps({key: "c"}))) == found, key
