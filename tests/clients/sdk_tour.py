"""A tour with openstacksdk in one process: `sdk_tour.py BINARY CONFIG DIRECTORY`. Runs in the venv that has the SDK.

The cloud `member` and the cloud `admin` are in the clouds.yaml that OS_CLIENT_CONFIG_FILE names.
"""

import os
import subprocess
import sys
from pathlib import Path

import openstack
from openstack import exceptions

from helpers import ext4
from helpers.cloud import backing

binary, config, directory = sys.argv[1:]
directory = Path(directory)
# Waits of the SDK poll every two seconds unless told otherwise.
QUICK = {"interval": 0.05, "wait": 60}


def refused(error, call, *arguments, **kw):
    try:
        call(*arguments, **kw)
    except error as caught:
        return caught
    raise AssertionError(f"{call} was not refused")


def data(member):
    """Full, incremental, restored to a new and over the old volume, and a volume made out of a backup."""
    storage = member.block_storage

    def ready(thing):
        return storage.wait_for_status(thing, **QUICK)

    volume = ready(storage.create_volume(size=1, name="web1", metadata={"room": "cellar"}))
    assert volume.size == 1 and volume.is_bootable is False and volume.metadata["room"] == "cellar"
    disk = backing(binary, config, volume.id)
    ext4.make(disk)
    before = ext4.copy(disk, directory / "before")
    full = member.create_volume_backup(volume.id, name="full", description="before the upgrade", timeout=60)
    assert (full.status, full.is_incremental, full.has_dependent_backups) == ("available", False, False)
    assert full.volume_id == volume.id and full.size == 1 and full.object_count > 0 and full.data_timestamp == full.created_at

    ext4.change(disk)
    after = ext4.copy(disk, directory / "after")
    child = ready(storage.create_backup(volume_id=volume.id, name="child", is_incremental=True, metadata={"a": "1"}))
    assert child.is_incremental is True and child.metadata == {"a": "1"}
    assert storage.get_backup(full.id).has_dependent_backups is True

    assert [b.id for b in storage.backups()] == [child.id, full.id], "the newest comes first"
    assert [b.id for b in storage.backups(limit=1, sort="created_at:asc")] == [full.id, child.id], "pages do not add up"
    assert [b.name for b in storage.backups(details=False, name="full")] == ["full"]
    assert storage.find_backup("child").id == child.id
    assert storage.find_backup("no such backup") is None
    assert member.get_volume_backup("full").id == full.id
    assert {b.id for b in member.list_volume_backups()} == {full.id, child.id}

    restored = storage.restore_backup(child, name="web2")
    assert restored.volume_name == "web2"
    ready(storage.get_volume(restored.volume_id))
    ready(storage.get_backup(child.id))
    new = backing(binary, config, restored.volume_id)
    ext4.assert_restored(new, after)
    if os.environ.get("COFFERD_LONG"):
        # Also with the tool that everybody has; it reads the holes too, which takes its time.
        subprocess.run(["cmp", str(new), str(after)], check=True)

    ext4.scribble(disk)
    storage.restore_backup(full.id, volume=volume.id)
    ready(storage.get_volume(volume.id))
    ready(storage.get_backup(full.id))
    ext4.assert_restored(disk, before)

    made = storage.create_volume(backup_id=child.id, size=2, name="larger")
    while made.status != "available":
        assert made.status == "creating", f"Terraform would give up at {made.status}"
        made = storage.get_volume(made.id)
    larger = backing(binary, config, made.id)
    assert larger.stat().st_size == 2 << 30
    first = ext4.copy(larger, directory / "first GiB")
    subprocess.run(["truncate", "--size=1G", str(first)], check=True)
    ext4.assert_restored(first, after)
    ready(storage.get_backup(child.id))

    refused(exceptions.BadRequestException, storage.delete_backup, full.id)
    assert member.delete_volume_backup("child", wait=True, timeout=60)
    storage.delete_backup(full.id, ignore_missing=False)
    storage.wait_for_delete(full, **QUICK)
    refused(exceptions.NotFoundException, storage.get_backup, full.id)
    assert list(storage.backups()) == []


def words(member, admin):
    """Names, metadata, states, the record, quotas and limits."""
    storage = member.block_storage
    volume = storage.wait_for_status(storage.create_volume(size=1), **QUICK)
    backup = storage.wait_for_status(storage.create_backup(volume_id=volume.id, metadata={"a": "1"}), **QUICK)
    assert backup.name is None and backup.project_id is None and backup.user_id is None

    storage.update_backup(backup, name="monday", description="a note")
    storage.update_backup(backup.id, metadata={"b": "2"})
    seen = storage.get_backup(backup.id)
    assert (seen.name, seen.description, seen.metadata) == ("monday", "a note", {"b": "2"})
    seen = admin.block_storage.get_backup(backup.id)
    assert (seen.project_id, seen.user_id) == (member.current_project_id, member.current_user_id)

    refused(exceptions.ForbiddenException, storage.reset_backup_status, backup.id, "error")
    admin.block_storage.reset_backup_status(backup.id, "error")
    assert storage.get_backup(backup.id).status == "error"
    admin.block_storage.reset_backup_status(backup.id, "available")
    refused(exceptions.ForbiddenException, storage.export_backup, backup.id)
    record = admin.block_storage.export_backup(backup.id)["backup-record"]
    assert record["backup_service"].startswith("cinder.backup.drivers")

    assert [b.id for b in admin.block_storage.backups(all_projects=True, project_id=member.current_project_id)] == [backup.id]
    quota = storage.get_quota_set(member.current_project_id, usage=True)
    assert quota.backups == -1 and quota.usage["backups"] == 1 and quota.usage["backup_gigabytes"] == 1
    limits = storage.get_limits().absolute
    assert limits.total_backups_used == 1
    assert "backups" in {e.alias for e in storage.extensions()}
    admin.block_storage.delete_backup(backup.id, force=True)
    storage.wait_for_delete(backup, **QUICK)


member = openstack.connect(cloud="member")
admin = openstack.connect(cloud="admin")
{"data": lambda: data(member), "words": lambda: words(member, admin)}[directory.name]()
