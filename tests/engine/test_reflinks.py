"""Change detection: on XFS and Btrfs a backup reads only what has changed since the copy that the last one has kept."""

import os
import shutil
import signal
import subprocess

import pytest
import requests

from faults.bench import Bench, copy_sparse, inject, needs_root, write_disk
from helpers.disks import MIB, assert_same_bytes
from helpers.wait import wait_for

pytestmark = needs_root

SIZE = 48 * MIB
MKFS = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}


@pytest.fixture(params=MKFS)
def disks(request, tmp_path):
    """A directory on a file system that can share blocks."""
    image, place = tmp_path / "fs", tmp_path / "mnt"
    if not shutil.which(MKFS[request.param][0]):
        pytest.skip(f"no {MKFS[request.param][0]}")
    with open(image, "wb") as f:
        f.truncate(512 * MIB)
    subprocess.run([*MKFS[request.param], image], check=True)
    place.mkdir()
    if subprocess.run(["mount", "-o", "loop", image, place], capture_output=True).returncode:
        pytest.skip(f"{request.param} cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


class Tracked(Bench):
    """One machine with one disk, backed up from copies."""

    def __init__(self, start_daemon, disks):
        super().__init__(start_daemon(f'[volumes]\nroots = ["{disks}"]\nreflinks = true\n'))
        self.disk = disks / "disk.img"
        write_disk(self.disk, SIZE, SIZE, 1)
        self.vm = self.instance([self.disk])

    @property
    def copies(self):
        directory = self.disk.parent / ".cofferd"
        return sorted(directory.iterdir()) if directory.exists() else []

    def bytes_read(self):
        return int(dict(line.split(": ") for line in open(f"/proc/{self.d.pid}/io"))["read_bytes"])

    def back_up(self):
        """The backup, how the disk was then, and what was read for it."""
        os.sync()
        before = self.bytes_read()
        backup = self.backup(self.vm)
        state = self.d.base / backup["uuid"]
        copy_sparse(self.disk, state)
        return backup, state, self.bytes_read() - before


def change(disk, at, data):
    with open(disk, "r+b") as f:
        f.seek(at)
        f.write(data)


def test_only_what_has_changed_is_read(start_daemon, disks):
    lab = Tracked(start_daemon, disks)
    states = [lab.back_up()]
    assert states[0][2] > SIZE // 2 and len(lab.copies) == 1
    states.append(lab.back_up())
    assert states[1][2] <= 8 * MIB, "one chunk in a hundred may be audited"
    change(lab.disk, 5 * MIB + 777, b"changed" * 1000)
    subprocess.run(["fallocate", "--punch-hole", "--offset", str(9 * MIB), "--length", str(MIB), lab.disk], check=True)
    states.append(lab.back_up())
    assert states[2][2] <= 8 * MIB
    with open(lab.disk, "r+b") as f:
        f.truncate(SIZE + 3 * MIB + 5)
    change(lab.disk, SIZE + MIB, b"grown")
    states.append(lab.back_up())
    wait_for(lambda: len(lab.copies) == 1, "the older copies are gone")
    # A restore to the disk itself changes it like any other writer.
    lab.restore_to(states[0][0], lab.disk, mode="overwrite")
    states.append(lab.back_up())
    for backup, state, _ in states:
        (copy,) = lab.volume_files(lab.restore(backup))
        assert_same_bytes(state, copy)


def test_a_copy_that_somebody_has_written_to_is_not_believed(start_daemon, disks):
    """Its blocks are the image's no more, or the image is made from it: then equal places hold what was never backed up."""
    lab = Tracked(start_daemon, disks)
    lab.back_up()
    (kept,) = lab.copies
    change(kept, 7 * MIB, b"by somebody else")
    subprocess.run(["cp", "--reflink=always", kept, lab.disk], check=True)
    backup, state, read = lab.back_up()
    assert read > SIZE // 2
    assert_same_bytes(state, lab.volume_files(lab.restore(backup))[0])


def test_no_copy_outlives_its_use(start_daemon, disks):
    lab = Tracked(start_daemon, disks)
    first, state, _ = lab.back_up()
    assert len(lab.copies) == 1
    # Its backup is gone, so it tells nothing any more.
    lab.api.delete(first["url"])
    lab.wait_gone(first["url"])
    wait_for(lambda: not lab.copies, "the copy is removed with its backup")
    # A backup that fails.
    lab.back_up()
    wait_for(lambda: len(lab.copies) == 1, "a copy is kept")
    before = lab.copies
    lab.d.interrupt("kill")
    backup, state, _ = lab.back_up()
    wait_for(lambda: len(lab.copies) == 1 and lab.copies != before, "one copy is kept, also after a crash")
    assert_same_bytes(state, lab.volume_files(lab.restore(backup))[0])
    # Switched off, none is kept.
    lab.d.stop()
    config = lab.d.config_file.read_text()
    lab.d.config_file.write_text(config.replace("reflinks = true", "reflinks = false"))
    lab.d.start()
    lab.back_up()
    wait_for(lambda: not lab.copies, "no copy is kept")


def test_a_directory_that_others_may_write_to_holds_no_copies(start_daemon, disks):
    (disks / ".cofferd").mkdir()
    (disks / ".cofferd").chmod(0o777)
    lab = Tracked(start_daemon, disks)
    backup, state, _ = lab.back_up()
    assert lab.copies == [] and "no reflink copy" in lab.d.log()
    assert_same_bytes(state, lab.volume_files(lab.restore(backup))[0])


@pytest.mark.parametrize("switched_off", [False, True])
def test_a_running_backup_keeps_its_copy_whatever_ends_meanwhile(start_daemon, disks, switched_off):
    lab = Tracked(start_daemon, disks)
    large = lab.instance([write_disk(disks / "large.img", 256 * MIB, 256 * MIB, 2)])
    running = lab.start_backup(large)
    wait_for(lambda: lab.progress(running), "the large backup is under way")
    if switched_off:
        lab.d.config_file.write_text(lab.d.config_file.read_text().replace("reflinks = true", "reflinks = false"))
        os.kill(lab.d.pid, signal.SIGHUP)
    # Whoever ends removes the copies that are of no use any more.
    lab.backup(lab.vm)
    assert lab.wait_rest(running["url"])["state"] == "Ready"
    wait_for(lambda: len(lab.copies) == (0 if switched_off else 2), "only copies of use are kept")


@pytest.mark.parametrize("call", ["ioctl", "utimensat", "linkat", "fsync", "unlinkat"])
def test_killed_while_a_copy_is_made_or_removed(start_daemon, ledger, disks, call):
    """Whatever the crash has left of the copies: the next backup is right, and in the end there is one of them."""
    lab = Tracked(start_daemon, disks)
    first, state, _ = lab.back_up()
    change(lab.disk, 3 * MIB, b"changed" * 1000)
    assert lab.d.stop() == 0
    # Of the calls that others make too, only those on the image, on the copies and in their directory.
    paths = [lab.disk, lab.disk.parent / ".cofferd", *lab.copies] if call in ("ioctl", "fsync") else None
    lab.d.wrapper = inject(f"{call}:signal=KILL", paths)
    with ledger.fault("crash: killed while a reflink copy is made or removed"):
        lab.d.start()
        with pytest.raises(requests.ConnectionError):
            lab.backup(lab.vm)
            wait_for(lambda: lab.get("/ops/status/") and len(lab.copies) == 1, "the older copy is removed")
        lab.d.wrapper = []
        lab.d.kill()
        lab.d.start()
        second, now, _ = lab.back_up()
        lab.assert_restores(first, state)
        lab.assert_restores(second, now)
        wait_for(lambda: len(lab.copies) == 1, "one copy is left")
        assert lab.d.sql("SELECT path FROM reflink") == [(str(lab.copies[0]),)]
