"""What is stored already is stored once more in another place: backups of snapshots in a repository, and copies of backups."""

import shutil

import pytest

from helpers.api import ok
from helpers.cinder import CinderLab, fill
from helpers.cinder_volumes import content
from helpers.disks import MIB


REPOSITORY = """
[repositories.{name}]
kind = "directory"
directory = "{directory}"
patience_s = 0
"""


@pytest.fixture
def places(tmp_path):
    """Directories that are repositories, by name; a host that names one finds it there."""
    made = {}

    def place(name):
        if name not in made:
            made[name] = tmp_path / name
            made[name].mkdir()
        return made[name]

    return place


@pytest.fixture
def host(start_daemon, places):
    """Starts hosts that have these repositories, each with more lines of its table: `offsite={"copies": '"all"'}`."""

    def start(*names, **tables):
        config = ""
        for name in [*names, *tables]:
            config += REPOSITORY.format(name=name, directory=places(name))
            config += "".join(f"{key} = {value}\n" for key, value in tables.get(name, {}).items())
        return CinderLab(start_daemon(config))

    return start


def objects(directory, kind):
    return sorted(path.name for path in (directory / kind).glob("*")) if (directory / kind).exists() else []


# -------------------------------------------------------------------- backups of snapshots


def test_a_backup_of_a_snapshot_in_a_repository_has_what_the_snapshot_has(host, places):
    """Not what the volume has by now."""
    lab = host("offsite")
    volume = lab.filled(extents=((0, 3 * MIB), (500 * MIB, MIB)))
    before = content(lab.path(volume))
    snapshot = lab.admin.snapshot(volume)
    fill(lab.path(volume), ((MIB, MIB), (700 * MIB, MIB)))
    backup = lab.admin.backup(volume, snapshot_id=snapshot["id"], container="offsite")
    assert (backup["container"], backup["snapshot_id"], backup["object_count"]) == ("offsite", snapshot["id"], 4)
    assert len(objects(places("offsite"), "packs")) == len(objects(places("offsite"), "backups")) == 1
    # It needs nothing of the snapshot or of the volume.
    assert lab.d.sql("SELECT count(*) FROM volume_map") == [(2,)]
    ok(lab.admin.delete(f"/snapshots/{snapshot['id']}"), 202)
    restored = lab.admin.restore(backup)
    assert content(lab.path(restored)) == before
    # And what is there is not sent again.
    packs = objects(places("offsite"), "packs")
    again = lab.admin.snapshot(restored)
    assert lab.admin.backup(restored, snapshot_id=again["id"], container="offsite")["object_count"] == 0
    assert objects(places("offsite"), "packs") == packs


def test_a_snapshot_may_go_before_its_backup_is_made(host, places):
    """What it has is kept for as long as the backup is promised, and no longer."""
    lab = host("offsite")
    volume = lab.filled(extents=((0, MIB),))
    before = content(lab.path(volume))
    snapshot = lab.admin.snapshot(volume)
    # The repository belongs to nobody yet, so that the first backup fails at once and the map must go all the same.
    shutil.rmtree(places("offsite"))
    lost = lab.admin.create(volume, snapshot_id=snapshot["id"], container="offsite")
    lab.admin.wait(lost, "error")
    places("offsite").mkdir()
    backup = lab.admin.create(volume, snapshot_id=snapshot["id"], container="offsite")
    ok(lab.admin.delete(f"/snapshots/{snapshot['id']}"), 202)
    backup = lab.admin.wait(backup)
    restored = lab.admin.restore(backup)
    assert content(lab.path(restored)) == before
    lab.admin.remove(backup)
    lab.admin.remove(lost)
    assert lab.d.sql("SELECT count(*) FROM volume_map") == [(0,)]
    lab.gc()
    assert lab.stored() == 0 and objects(places("offsite"), "packs") == []
