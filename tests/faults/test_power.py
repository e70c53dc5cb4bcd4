"""The power fails: what the file system had not been made to write is lost. What a client was told is Ready is Ready."""

import fcntl
import os
import random
import struct
import subprocess
import threading
import time

import pytest
import requests

from faults.bench import LONG, Bench, assert_integrity, copy_sparse, forget_log, mutate, needs_root, write_disk
from helpers.api import ok
from helpers.disks import MIB
from helpers.lab import BACKUPS
from helpers.wait import wait_for

EXT4_IOC_SHUTDOWN = 0x8004587D  # linux/fs/ext4: _IOR('X', 125, __u32)
NO_LOG_FLUSH = 2  # the journal's tail is lost too


@pytest.fixture
def disk_mount(tmp_path):
    """An ext4 file system in a file, mounted; `cut()` fails its power and mounts it again."""
    image, mount = tmp_path / "disk.img", tmp_path / "mount"
    mount.mkdir()
    with open(image, "wb") as f:
        f.truncate(1024 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)

    class Mounted:
        path = mount

        def attach(self):
            subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)

        def fail(self):
            directory = os.open(mount, os.O_RDONLY)
            try:
                fcntl.ioctl(directory, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
            finally:
                os.close(directory)

        def detach(self):
            wait_for(lambda: subprocess.run(["umount", str(mount)], capture_output=True).returncode == 0, "unmounted", 20, 0.2)

    disk = Mounted()
    disk.attach()
    yield disk
    subprocess.run(["umount", "-l", str(mount)], capture_output=True)


@needs_root
@pytest.mark.timeout(900 if LONG else 180)
@pytest.mark.parametrize("seed", range(1, 31 if LONG else 3))
def test_power_cuts(start_daemon, ledger, disk_mount, seed):
    rng = random.Random(int(os.environ.get("COFFERD_SEED", seed)))
    print(f"COFFERD_SEED={seed}")
    daemon = start_daemon("[engine]\nmaintenance_interval_s = 1", state_dir=disk_mount.path / "state")
    bench = Bench(daemon)
    disk = write_disk(daemon.root / "disk.img", 64 * MIB, 40 * MIB, seed)
    vm = bench.instance([disk])
    content = {}  # what a client has been told is Ready
    backup = bench.backup(vm)
    content[backup["uuid"]] = copy_sparse(disk, daemon.base / "kept-0")
    for cut in range(1, 5):
        mutate(disk, rng, 24 * MIB)
        kept = copy_sparse(disk, daemon.base / f"kept-{cut}")
        told, promised = {}, []

        def work():
            try:
                victim = next(iter(content)) if len(content) > 2 else None
                if victim:
                    promised.append(victim)
                    ok(bench.api.post(f"{BACKUPS}{victim}/delete/"))
                new = bench.start_backup(vm)
                while True:
                    state = bench.get(new)["state"]
                    if state == "Ready":
                        told[new["uuid"]] = kept
                    if state != "Backing up":
                        return
            except (requests.ConnectionError, requests.ReadTimeout, AssertionError):
                pass  # with the disk gone any answer is right, except Ready

        with ledger.fault("power: ext4 loses what its journal has not written"):
            thread = threading.Thread(target=work)
            thread.start()
            time.sleep(rng.random() * 0.8)
            disk_mount.fail()
            time.sleep(0.3)
            daemon.kill()
            thread.join(60)
            disk_mount.detach()
            disk_mount.attach()
            assert_integrity(daemon)
            forget_log(daemon)
            daemon.start()
            content |= told
            wait_for(lambda: all(b["state"] in ("Ready", "Erred") for b in bench.api.list(BACKUPS)), "deletions end", 60)
            found = {b["uuid"]: b for b in bench.api.list(BACKUPS)}
            for uuid in list(content):
                if uuid in promised and uuid not in found:
                    del content[uuid]
                    continue
                assert found[uuid]["state"] == "Ready", found[uuid]
                bench.assert_restores(uuid, content[uuid])
            for uuid, backup in found.items():
                if backup["state"] == "Ready" and uuid not in content:
                    content[uuid] = kept
                    bench.assert_restores(uuid, kept)
            bench.assert_usage_is_true()
    assert bench.cli("check")["result"]["corrupt"] == []
    daemon.stop()
    daemon.close()

