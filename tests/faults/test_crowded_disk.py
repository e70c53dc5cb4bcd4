"""A coffer on a disk that fills up: a clear failure, and always enough room left to delete backups; needs root."""

import os
import subprocess

import pytest

from helpers.disks import MIB, assert_same_bytes, make_raw
from helpers.lab import Lab
from helpers.wait import wait_for


@pytest.fixture
def small_disk(tmp_path):
    """An empty file system of 160 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    directory = tmp_path / "small"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160M,mode=700", "none", str(directory)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"cannot mount here: {result.stderr.strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk_fails_the_backup_and_deleting_makes_room_again(small_disk, start_daemon):
    lab = Lab(start_daemon(state_dir=small_disk / "state"))
    disks = [make_raw(lab.d.root / f"{n}.img", 40 * MIB, seed=n, density=1) for n in range(4)]
    instances = [lab.instance([disk]) for disk in disks]
    first = lab.backup(instances[0])
    outcomes = [lab.start_backup(instance) for instance in instances[1:]]

    def settled():
        now = [lab.get(backup) for backup in outcomes]
        return now if all(backup["state"] in ("Ready", "Erred") for backup in now) else None

    failed = [backup for backup in wait_for(settled, "all backups end", 60) if backup["state"] == "Erred"]
    assert failed and all("disk of the coffer is full" in backup["error_message"] for backup in failed), failed
    # Still good, and everything that needs a little room works.
    restored = lab.d.root / "restored.img"
    command = [lab.d.binary, "--config", str(lab.d.config_file), "restore", first["uuid"], "--to", str(restored)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert_same_bytes(restored, disks[0])
    for backup in [first, *outcomes]:
        lab.api.delete(backup["url"])
        lab.wait_gone(backup["url"])
    wait_for(lambda: lab.d.sql("SELECT count(*) FROM pack") == [(0,)], "the space is given back", 60)
    again = lab.backup(instances[2])
    assert again["state"] == "Ready"
    lab.d.restart()
    assert lab.get(f"/api/openstack-backups/{again['uuid']}/")["state"] == "Ready"
