"""Sources that change, fail or go away while they are read: such a backup is Erred and says what happened, never Ready.
And the shapes of disks: sparse, odd, many at once, block devices; several jobs at once; memory."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from faults.bench import CHUNK, Bench, copy_sparse, inject, needs_root, write_disk
from helpers.api import Api, ok
from helpers.daemon import slow_reads
from helpers.disks import MIB, allocated, assert_same_bytes
from helpers.lab import INSTANCES
from helpers.wait import wait_for


def in_the_middle(bench, backup, past=2 * MIB):
    """Waits until the backup has read a part of its volumes."""
    wait_for(lambda: bench.progress(backup) >= past or bench.get(backup)["state"] != "Backing up", "the backup is in its middle")
    assert bench.get(backup)["state"] == "Backing up"


def assert_erred(bench, backup, path, *words):
    """The backup is Erred with a message that names the volume and what happened, and took nothing of the quota.

    Where on the host the volume lies is for the log only.
    """
    after = bench.wait_rest(backup["url"])
    assert after["state"] == "Erred", after
    for word in (Path(path).name, *words):
        assert word in after["error_message"], after["error_message"]
    assert str(path) not in after["error_message"]
    assert any(" ERROR " in line and str(path) in line for line in bench.d.log().splitlines())
    bench.assert_usage_is_true()
    assert "resource_backup_creation_failed" in bench.event_types(backup)


def assert_good_again(bench, vm, *disks):
    """The next backup of the repaired source is Ready and restores, and nothing of the failed one stays."""
    good = bench.backup(vm)
    for position, disk in enumerate(disks):
        bench.assert_restores(good, disk, position)
    for backup in bench.backups_of(vm):
        bench.delete(backup)
    bench.gc()
    bench.assert_store_is_empty()


def shrink(path):
    os.truncate(path, 16 * MIB)


def shrink_a_little(path):
    os.truncate(path, os.path.getsize(path) - 1)


def grow(path):
    with open(path, "ab") as f:
        f.write(b"more")


def vanish(path):
    path.unlink()


def replace(path):
    fresh = path.with_suffix(".new")
    copy_sparse(path, fresh)
    os.rename(fresh, path)


def become_a_link(path):
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def move_the_directory(path):
    path.parent.rename(path.parent.with_suffix(".moved"))


CHANGES = [
    (shrink, ["became shorter", str(16 * MIB)]), (shrink_a_little, ["became shorter"]), (grow, ["became longer"]),
    (vanish, ["was removed"]), (replace, ["was replaced"]), (become_a_link, ["was replaced"]), (move_the_directory, ["was removed"]),
]


@pytest.mark.parametrize("change, words", CHANGES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_source_that_changes_while_it_is_read(start_daemon, change, words):
    daemon = start_daemon("[engine]\nworkers = 2", start=False)
    (daemon.root / "vm").mkdir()
    disk = write_disk(daemon.root / "vm" / "disk.img", 24 * MIB, 24 * MIB, change.__name__)
    kept = copy_sparse(disk, daemon.base / "kept")
    daemon.wrapper = slow_reads(disk, "200ms")
    bench = Bench(daemon.start())
    vm = bench.instance([disk])
    backup = bench.start_backup(vm)
    in_the_middle(bench, backup)
    change(disk)
    assert_erred(bench, backup, disk, *words)
    # Repaired.
    moved = daemon.root / "vm.moved"
    if moved.exists():
        moved.rename(disk.parent)
    if disk.is_symlink():
        disk.unlink()
    copy_sparse(kept, disk)
    daemon.stop()
    daemon.wrapper = []
    daemon.start()
    assert_good_again(bench, vm, disk)


@pytest.mark.parametrize("when", ["1", "3", "8"])
def test_a_file_with_an_unreadable_place(start_daemon, when):
    daemon = start_daemon("[engine]\nworkers = 1", start=False)
    disk = write_disk(daemon.root / "bad.img", 16 * MIB, 16 * MIB, 1)
    bench = Bench(daemon.start())
    vm = bench.instance([disk])  # which reads nothing of it
    daemon.stop()
    daemon.wrapper = inject(f"pread64:error=EIO:when={when}", disk)
    daemon.start()
    backup = bench.start_backup(vm)
    assert_erred(bench, backup, disk, "cannot be read at byte", "Input/output error")
    daemon.stop()
    daemon.wrapper = []
    daemon.start()
    assert_good_again(bench, vm, disk)


def test_a_source_that_was_removed_or_changed_kind_before_the_backup(start_daemon):
    bench = Bench(start_daemon())
    disk = bench.disk(4 * MIB)
    vm = bench.instance([disk])
    kept = disk.read_bytes()
    disk.unlink()
    assert_erred(bench, bench.start_backup(vm), disk, "does not exist")
    disk.mkdir()
    assert_erred(bench, bench.start_backup(vm), disk, "is a directory")
    disk.rmdir()
    os.mkfifo(disk)
    assert_erred(bench, bench.start_backup(vm), disk, "neither a regular file nor a block device")
    disk.unlink()
    disk.symlink_to("/etc/passwd")
    assert_erred(bench, bench.start_backup(vm), disk, "symbolic link")
    disk.unlink()
    disk.write_bytes(b"")
    assert_erred(bench, bench.start_backup(vm), disk, "is empty")
    disk.write_bytes(kept)
    assert_good_again(bench, vm, disk)


def test_one_bad_volume_of_three_spoils_the_backup_of_all(start_daemon):
    bench = Bench(start_daemon())
    disks = [bench.disk(3 * MIB) for _ in range(3)]
    vm = bench.instance(disks)
    hidden = disks[2].with_suffix(".away")
    disks[2].rename(hidden)
    assert_erred(bench, bench.start_backup(vm), disks[2], "does not exist")
    assert bench.d.sql("SELECT count(*) FROM volume_map") == [(0,)]
    hidden.rename(disks[2])
    assert_good_again(bench, vm, *disks)


def test_a_source_that_lost_its_permission(start_daemon):
    """The daemon runs as an ordinary user here, as it does under systemd."""
    daemon = start_daemon(start=False)
    if os.geteuid() == 0:
        for path in (daemon.base, daemon.state_dir, daemon.root):
            os.chown(path, 65534, 65534)
        daemon.wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
        daemon.log_file.touch()
    bench = Bench(daemon.start())
    disk = bench.disk(4 * MIB)
    disk.chmod(0o644)
    daemon.config_file.chmod(0o644)
    vm = bench.instance([disk])
    disk.chmod(0)
    assert_erred(bench, bench.start_backup(vm), disk, "may not open")
    disk.chmod(0o644)
    disk.parent.chmod(0)
    assert_erred(bench, bench.start_backup(vm), disk, "may not open")
    disk.parent.chmod(0o755)
    good = bench.backup(vm)
    assert_same_bytes(disk, bench.volume_files(bench.restore(good))[0])


def test_a_root_taken_out_of_the_configuration(start_daemon):
    bench = Bench(start_daemon())
    disk = bench.disk()
    vm = bench.instance([disk])
    other = bench.d.base / "other"
    other.mkdir()
    bench.d.configure(f'[volumes]\nroots = ["{other}"]')
    bench.d.restart()
    assert_erred(bench, bench.start_backup(vm), disk, "a root that the administrator has configured")


def test_a_file_written_to_while_it_is_read_is_still_one_readable_backup(start_daemon):
    """What the user is told about stopping the machine is another matter: each chunk is what the disk held at some moment."""
    daemon = start_daemon("[engine]\nworkers = 2", start=False)
    disk = write_disk(daemon.root / "busy.img", 16 * MIB, 16 * MIB, 5)
    before = disk.read_bytes()
    daemon.wrapper = slow_reads(disk, "100ms")
    bench = Bench(daemon.start())
    backup = bench.start_backup(bench.instance([disk]))
    in_the_middle(bench, backup)
    with open(disk, "r+b") as f:
        f.write(b"\xff" * 16 * MIB)
    after = bench.wait_rest(backup["url"])
    assert after["state"] == "Ready"
    out = bench.d.base / "out"
    assert bench.restore_to(after, out)["state"] == "done"
    copy = out.read_bytes()
    seen = set()
    for at in range(0, len(copy), 4096):
        block = copy[at : at + 4096]
        assert block in (before[at : at + 4096], b"\xff" * 4096)
        seen.add(block == b"\xff" * 4096)
    assert seen == {True, False}


# -------------------------------------------------------------------- shapes


def test_sparse_files_stay_sparse(start_daemon):
    bench = Bench(start_daemon())
    disks = []
    for name, size, data in [("hole", 600 * MIB, []), ("ends", 300 * MIB, [0, 300 * MIB - 4096]), ("spots", 260 * MIB + 4097, [
        CHUNK - 2048, 7 * MIB + 4096, 150 * MIB + 12_288, 259 * MIB]), ("tiny", 4096, [0])]:
        disk = bench.d.root / f"{name}.img"
        with open(disk, "wb") as f:
            f.truncate(size)
            for at in data:
                f.seek(at)
                f.write(os.urandom(4096))
        disks.append(disk)
    vm = bench.instance(disks)
    backup = bench.backup(vm)
    assert bench.d.coffer.stat().st_size < 8 * MIB
    for disk, copy in zip(disks, bench.volume_files(bench.restore(backup)), strict=True):
        assert_same_bytes(disk, copy)
        spots = allocated(disk) // 4096
        # Where there is data, some of what surrounds it is written too.
        assert allocated(copy) <= min(spots, 8) * 2 * (64 << 10), (disk, allocated(disk), allocated(copy))


def test_zero_blocks_within_data_are_not_stored_and_read_back_as_zeros(start_daemon):
    bench = Bench(start_daemon())
    disk = bench.d.root / "zeros.img"
    data = os.urandom(CHUNK)
    disk.write_bytes(b"".join(data if n % 4 == 0 else bytes(CHUNK) for n in range(64)) + bytes(77))
    backup = bench.backup(bench.instance([disk]))
    (stored,), = bench.d.sql("SELECT sum(stored) FROM pack_toc")
    assert CHUNK <= stored < CHUNK + 4096
    bench.assert_restores(backup, disk)
    # Over a file full of something else.
    target = bench.d.base / "full"
    target.write_bytes(b"\xee" * (disk.stat().st_size + 100))
    assert bench.restore_to(backup, target, mode="overwrite")["state"] == "done"
    got = target.read_bytes()
    assert got[: disk.stat().st_size] == disk.read_bytes() and got[disk.stat().st_size :] == b"\xee" * 100


@pytest.mark.parametrize("size", [1, 4096 + 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * MIB - 512, 257 * MIB + 3], ids=str)
def test_odd_sizes(daemon, size):
    bench = Bench(daemon)
    disk = daemon.root / bench.unique("odd")
    disk.write_bytes(os.urandom(size) if size < 16 * MIB else b"")
    if size >= 16 * MIB:
        write_disk(disk, size, 6 * MIB, size)
    backup = bench.backup(bench.instance([disk]))
    bench.assert_restores(backup, disk)
    path = daemon.base / bench.unique("out")
    bench.cli("restore", backup["uuid"], "--to", path)
    assert_same_bytes(disk, path)
    path.unlink()


def test_a_disk_that_was_resized_between_two_backups(start_daemon):
    bench = Bench(start_daemon())
    disk = bench.disk(6 * MIB)
    vm = bench.instance([disk])
    first, kept = bench.backup(vm), copy_sparse(disk, bench.d.base / "first")
    with open(disk, "ab") as f:
        f.write(os.urandom(3 * MIB + 5))
    larger, kept_larger = bench.backup(vm), copy_sparse(disk, bench.d.base / "larger")
    os.truncate(disk, MIB + 7)
    smaller = bench.backup(vm)
    bench.assert_restores(first, kept)
    bench.assert_restores(larger, kept_larger)
    bench.assert_restores(smaller, disk)
    assert [b["size"] for b in (first, larger, smaller)] == [6, 10, 2]
    bench.assert_usage_is_true()


# -------------------------------------------------------------------- block devices


class Loops:
    """Loop devices over files."""

    def __init__(self):
        self.devices = []

    def attach(self, path):
        device = subprocess.run(["losetup", "--find", "--show", str(path)], check=True, capture_output=True, text=True).stdout.strip()
        self.devices.append(device)
        return device

    def detach_all(self):
        for device in self.devices:
            subprocess.run(["losetup", "--detach", device], capture_output=True)


@pytest.fixture
def loops():
    made = Loops()
    yield made
    made.detach_all()


def with_devices(start_daemon):
    return Bench(start_daemon('[volumes]\nroots = ["{root}", "/dev"]'))


@needs_root
def test_a_block_device_there_and_back(start_daemon, loops):
    bench = with_devices(start_daemon)
    backing = write_disk(bench.d.base / "backing", 48 * MIB, 20 * MIB, 3)
    device, target_file = loops.attach(backing), bench.d.base / "target"
    vm = bench.instance([device])
    assert vm["volumes"][0]["type"] == "block"
    first = bench.backup(vm)
    kept = copy_sparse(backing, bench.d.base / "kept")
    with open(device, "r+b") as f:
        f.seek(5 * MIB + 512)
        f.write(os.urandom(700_000))
        f.flush()
        os.fsync(f.fileno())
    second = bench.backup(vm)
    bench.assert_restores(first, kept)
    bench.assert_restores(second, device)
    # To another device, which holds something else.
    target_file.write_bytes(b"\xaa" * 48 * MIB)
    target = loops.attach(target_file)
    assert bench.restore_to(first, target, mode="overwrite")["state"] == "done"
    assert_same_bytes(kept, target)
    # A smaller one is refused before anything is written.
    small_file = bench.d.base / "small"
    small_file.write_bytes(b"\xbb" * 47 * MIB)
    small = loops.attach(small_file)
    task = bench.restore_to(first, small, mode="overwrite")
    assert task["state"] == "failed" and "too small" in task["error_message"] and small in task["error_message"]
    assert small_file.read_bytes() == b"\xbb" * 47 * MIB


@needs_root
def test_a_mounted_device_is_no_target(start_daemon, loops, tmp_path):
    bench = with_devices(start_daemon)
    backup = bench.backup(bench.instance([4 * MIB]))
    image = tmp_path / "fs.img"
    with open(image, "wb") as f:
        f.truncate(16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    device = loops.attach(image)
    mount = tmp_path / "mnt"
    mount.mkdir()
    subprocess.run(["mount", device, str(mount)], check=True)
    try:
        task = bench.restore_to(backup, device, mode="overwrite")
        assert task["state"] == "failed" and "in use" in task["error_message"], task
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    assert bench.restore_to(backup, device, mode="overwrite")["state"] == "done"


@needs_root
def test_a_block_device_that_fails_in_its_middle(start_daemon, loops):
    """The file under a loop device is cut: beyond its end the kernel answers EIO."""
    bench = with_devices(start_daemon)
    backing = write_disk(bench.d.base / "backing", 32 * MIB, 32 * MIB, 4)
    kept = copy_sparse(backing, bench.d.base / "kept")
    device = loops.attach(backing)
    vm = bench.instance([device])
    os.truncate(backing, 20 * MIB)
    assert_erred(bench, bench.start_backup(vm), device, "cannot be read at byte", "Input/output error")
    with open(backing, "r+b") as f, open(kept, "rb") as g:
        f.seek(20 * MIB)
        g.seek(20 * MIB)
        f.write(g.read())
    assert_good_again(bench, vm, kept)


@needs_root
def test_a_block_device_that_is_gone(start_daemon, loops):
    bench = with_devices(start_daemon)
    backing = write_disk(bench.d.base / "backing", 8 * MIB, 8 * MIB, 4)
    device = loops.attach(backing)
    vm = bench.instance([device])
    subprocess.run(["losetup", "--detach", device], check=True)
    assert_erred(bench, bench.start_backup(vm), device)


# -------------------------------------------------------------------- several at once


def states(bench, backups):
    return [(bench.progress(b), bench.get(b)["state"]) for b in backups]


def overlap(bench, backups):
    """Whether both backups were seen at work at the same time before they ended."""
    seen = False
    while any(bench.get(b)["state"] == "Backing up" for b in backups):
        now = states(bench, backups)
        seen |= all(0 < read and state == "Backing up" for read, state in now)
        time.sleep(0.02)
    return seen


def two_slow_disks(start_daemon):
    daemon = start_daemon("[engine]\njobs = 2\nworkers = 1", start=False)
    disks = [write_disk(daemon.root / f"{n}.img", 12 * MIB, 12 * MIB, n) for n in range(2)]
    daemon.wrapper = inject("pread64:delay_enter=100ms", disks)
    return Bench(daemon.start()), disks


def test_two_jobs_run_at_once_on_different_instances(start_daemon):
    bench, disks = two_slow_disks(start_daemon)
    backups = [bench.start_backup(bench.instance([disk])) for disk in disks]
    assert overlap(bench, backups)
    for backup, disk in zip(backups, disks):
        bench.assert_restores(bench.wait_state(backup["url"], "Ready"), disk)


def test_jobs_on_one_instance_run_one_after_another(start_daemon):
    bench, disks = two_slow_disks(start_daemon)
    vm = bench.instance([disks[0]])
    backups = [bench.start_backup(vm) for _ in range(2)]
    assert not overlap(bench, backups)
    for backup in backups:
        bench.assert_restores(bench.wait_state(backup["url"], "Ready"), disks[0])


def test_equal_disks_at_once_are_stored_once(start_daemon):
    """Two jobs that meet the same new chunks; at worst a pack or two is stored twice."""
    bench = Bench(start_daemon("[engine]\njobs = 2"))
    one = write_disk(bench.d.root / "one.img", 96 * MIB, 96 * MIB, "same")
    other = copy_sparse(one, bench.d.root / "other.img")
    machines = [bench.instance([disk]) for disk in (one, other)]
    backups = [bench.start_backup(vm) for vm in machines]
    for backup, disk in zip(backups, (one, other)):
        bench.assert_restores(bench.wait_state(backup["url"], "Ready"), disk)
    for backup in backups:
        bench.delete(bench.get(backup))
    bench.gc()
    bench.assert_store_is_empty()


@pytest.mark.alone
def test_memory_stays_bounded_while_two_jobs_run(start_daemon):
    """With the settings that come with cofferd: two backups, then a backup and a restore."""
    bench = Bench(start_daemon())
    disks = [write_disk(bench.d.root / f"{n}.img", 320 * MIB, 320 * MIB, n) for n in range(3)]
    machines = [bench.instance([disk]) for disk in disks]
    most, done = [0], threading.Event()

    def watch():
        while not done.is_set():
            most[0] = max(most[0], resident(bench.d.pid))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        backups = [bench.start_backup(vm) for vm in machines[:2]]
        ready = [bench.wait_state(backup["url"], "Ready", 120) for backup in backups]
        last = bench.start_backup(machines[2])
        bench.restore_to(ready[0], bench.d.base / "out")
        bench.wait_state(last["url"], "Ready", 120)
    finally:
        done.set()
        watcher.join()
    print(f"{most[0] / MIB:.0f} MiB")
    assert most[0] < 200 * MIB


def resident(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * 4096


@pytest.mark.fault("host: a device hangs while it is looked at")
@pytest.mark.parametrize("order", ["instance", "volume", "restore"])
def test_a_path_that_hangs_holds_up_nobody_else(start_daemon, order):
    """It is looked at before the transaction that takes it in, not within."""
    daemon = start_daemon(start=False)
    slow = write_disk(daemon.root / "slow.img", MIB, MIB, "slow")
    daemon.wrapper = inject("fstat,statx,newfstatat:delay_enter=1500ms", slow)
    daemon.start()
    bench = Bench(daemon)
    backup, project = bench.backup(bench.instance()), bench.project
    target, body = {
        "instance": (INSTANCES, {"name": "slow", "project": project["url"], "volumes": [{"path": str(slow)}]}),
        "volume": ("/ops/volumes/", {"path": str(slow), "project": project["uuid"]}),
        "restore": ("/ops/restores/", {"backup": backup["uuid"], "position": 0, "path": str(slow), "mode": "overwrite"}),
    }[order]
    answers = []
    asking = threading.Thread(target=lambda: answers.append(Api(daemon, daemon.token).post(target, body)))
    asking.start()
    time.sleep(0.3)  # it is at it now
    others = 0
    while asking.is_alive() and others < 10:
        ok(bench.api.post("/api/projects/", {"name": bench.unique("p")}), 201)
        others += 1
    assert others == 10 and asking.is_alive(), f"{others} others were served while it hung"
    asking.join()
    assert answers[0].status_code in (201, 202), answers[0].text
