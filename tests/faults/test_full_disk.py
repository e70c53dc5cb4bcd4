"""Full and failing disks: never a wrong Ready, clear words, and a coffer that gets smaller again by deleting backups."""

import errno
import os
import random
import shutil
import subprocess
import threading
import time

import pytest

from faults.bench import Bench, assert_integrity, copy_sparse, forget_log, inject, mutate, needs_root, write_disk
from faults.shim import FAIL, SYNC, Shim
from helpers.api import ok
from helpers.disks import MIB
from helpers.lab import BACKUPS
from helpers.wait import wait_for

FULL = "the disk of the coffer is full"


class SmallDisk:
    """A mounted file system of a few MiB."""

    def __init__(self, directory, kind, size):
        self.path = directory / f"small-{kind}"
        self.path.mkdir()
        if kind == "tmpfs":
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(self.path)]
        else:
            image = directory / "small.img"
            with open(image, "wb") as f:
                f.truncate(size)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
            command = ["mount", "-o", "loop", str(image), str(self.path)]
        subprocess.run(command, check=True)

    def free(self):
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def fill(self, leave=0):
        """Somebody else takes all room but `leave` bytes."""
        with open(self.path / "filler", "wb", buffering=0) as f:
            try:
                while self.free() > leave:
                    f.write(b"\x55" * min(MIB, max(4096, self.free() - leave)))
            except OSError:
                pass

    def clear(self):
        (self.path / "filler").unlink()


@pytest.fixture
def small_disk(tmp_path):
    disks = []

    def make(kind="ext4", size=96 * MIB):
        disks.append(SmallDisk(tmp_path, kind, size))
        return disks[-1]

    yield make
    for disk in disks:
        subprocess.run(["umount", "--lazy", str(disk.path)], check=True)


def erred(bench, backup, *words):
    after = bench.wait_rest(backup["url"])
    assert after["state"] == "Erred", after
    for word in words:
        assert word in after["error_message"], after["error_message"]
    return after


# -------------------------------------------------------------------- the coffer's disk


@needs_root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_backup_fills_the_coffers_disk(start_daemon, small_disk, kind):
    disk = small_disk(kind)
    bench = Bench(start_daemon("[engine]\nmaintenance_interval_s = 3600", state_dir=disk.path / "state"))
    small = [write_disk(bench.d.root / f"small{n}.img", 7 * MIB, 7 * MIB, n) for n in range(2)]
    machines = [bench.instance([path]) for path in small]
    kept = [bench.backup(vm) for vm in machines]
    usage = bench.usage()
    large = bench.instance([write_disk(bench.d.root / "large.img", 200 * MIB, 200 * MIB, "large")])

    def begun():
        answer = bench.api.post(BACKUPS, {"instance": large["url"]})
        assert answer.status_code == 201 or "almost full" in answer.text, answer.text
        return answer.status_code == 201 and answer.json()

    for _ in range(3):
        backup = wait_for(begun, "what had been stored of the one before is given back", 30, 0.2)
        failed = erred(bench, backup, FULL, "delete backups or make room")
        assert bench.usage() == usage + 200
        bench.assert_usage_is_true()
        # It lives, answers, restores, and notes things down.
        for backup, path in zip(kept, small):
            bench.assert_restores(backup, path)
        bench.delete(failed)
    # Deleting makes room for the next.
    bench.delete(kept[0])
    bench.gc()
    kept[0] = bench.backup(machines[0])
    bench.assert_restores(kept[0], small[0])
    bench.cli("check")
    bench.d.restart()
    for backup, path in zip(kept, small):
        bench.assert_restores(backup, path)
        bench.delete(bench.get(f"{BACKUPS}{backup['uuid']}/"))
    bench.gc()
    bench.assert_store_is_empty()
    bench.d.close()


@needs_root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_somebody_else_fills_the_coffers_disk(start_daemon, small_disk, kind):
    disk = small_disk(kind)
    bench = Bench(start_daemon(state_dir=disk.path / "state"))
    path = write_disk(bench.d.root / "a.img", 8 * MIB, 8 * MIB, "a")
    vm = bench.instance([path])
    backup, other = bench.backup(vm), bench.backup(vm)
    disk.fill()
    answer = bench.api.post(BACKUPS, {"instance": vm["url"]})
    assert "almost full" in ok(answer, 400)["non_field_errors"][0]
    assert len(bench.backups_of(vm)) == 2
    bench.assert_restores(backup, path)
    # Deleting needs no new room, as what has been in use is used again.
    bench.delete(other)
    disk.clear()
    third = bench.backup(vm)
    bench.assert_restores(third, path)
    bench.d.close()


@needs_root
def test_a_disk_that_is_filled_in_the_middle_of_a_backup_and_stays_full(start_daemon, small_disk):
    """Not even the failure can be written down: it is when there is room again, and until then nothing false is shown."""
    disk = small_disk("ext4", 160 * MIB)
    daemon = start_daemon("[engine]\nworkers = 1", start=False, state_dir=disk.path / "state")
    path = write_disk(daemon.root / "a.img", 60 * MIB, 60 * MIB, "a")
    daemon.wrapper = inject("pread64:delay_enter=50ms", path)
    bench = Bench(daemon.start())
    vm = bench.instance([path])
    backup = bench.start_backup(vm)
    wait_for(lambda: bench.progress(backup) > 12 * MIB, "its middle")
    disk.fill()
    time.sleep(3)
    assert bench.get(backup)["state"] in ("Backing up", "Erred")
    assert ok(bench.api.get(BACKUPS))
    disk.clear()
    erred(bench, backup, FULL)
    bench.assert_usage_is_true()
    good = bench.backup(vm)
    bench.assert_restores(good, path)
    daemon.close()


@needs_root
def test_a_start_on_a_full_disk_says_so_and_works_when_there_is_room(start_daemon, small_disk):
    disk = small_disk("ext4")
    bench = Bench(start_daemon(state_dir=disk.path / "state"))
    path = write_disk(bench.d.root / "a.img", 8 * MIB, 8 * MIB, "a")
    backup = bench.backup(bench.instance([path]))
    bench.d.kill()  # with something in the WAL
    disk.fill()
    try:
        bench.d.start()
    except AssertionError as error:
        assert "ended with 1 " in str(error) and "full" in str(error), error
        bench.d.kill()
    else:
        bench.assert_restores(backup, path)
        bench.d.kill()
    disk.clear()
    bench.d.start()
    bench.assert_restores(backup, path)
    bench.d.close()


@needs_root
def test_a_full_directory_for_temporary_files_is_nobodys_concern(start_daemon, small_disk):
    """SQLite kept what a statement may have to undo in /var/tmp."""
    disk = small_disk("tmpfs", MIB)
    disk.fill()
    bench = Bench(start_daemon(env={"SQLITE_TMPDIR": str(disk.path), "TMPDIR": str(disk.path)}))
    vm = bench.instance([8 * MIB, 4 * MIB])
    backup = bench.backup(vm)
    bench.restore(backup)
    bench.delete(backup)
    bench.gc()


def test_a_deletion_that_finds_no_room_waits_for_it(start_daemon):
    """A good backup is not called Erred because of a moment without room."""
    bench = Bench(start_daemon())
    vm = bench.instance([4 * MIB])
    kept, gone = bench.backup(vm), bench.backup(vm)
    assert bench.d.stop() == 0
    bench.force_backup(gone, "deleting")
    bench.d.sql("INSERT INTO job (kind, backup_id, created) SELECT 'delete', id, created_at FROM backup WHERE state = 'deleting'")
    bench.d.wrapper = inject("pwrite64:error=ENOSPC:when=1..2", bench.d.state_dir / "coffer.db-wal")
    bench.d.start()
    states = set()

    def look():
        answer = bench.api.get(gone["url"])
        if answer.status_code == 200:
            states.add(answer.json()["state"])
        return answer.status_code == 404

    wait_for(look, "it is deleted at last", 60)
    assert states <= {"Deleting"}
    assert "cannot be deleted yet" in bench.d.log()
    assert bench.get(kept)["state"] == "Ready"


# -------------------------------------------------------------------- the disk of a restore


@needs_root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_the_restore_directory_is_full(start_daemon, small_disk, kind):
    disk = small_disk(kind, 40 * MIB)
    (disk.path / "restored").mkdir()
    bench = Bench(start_daemon(f'[volumes]\nroots = ["{{root}}", "{disk.path}"]\nrestore_directory = "{disk.path}/restored"'))
    first, second = [write_disk(bench.d.root / f"{n}.img", 28 * MIB, 28 * MIB, n) for n in range(2)]
    backup = bench.backup(bench.instance([first, second]))
    free = disk.free()
    new = bench.restore(backup, wait=None)
    wait_for(lambda: bench.get(new)["state"] == "Erred", "the new machine is Erred")
    machine = bench.get(new)
    assert "is full" in machine["error_message"] and str(disk.path) not in machine["error_message"]
    assert any("is full" in line and str(disk.path) in line for line in bench.d.log().splitlines())
    after = bench.wait_rest(backup["url"])
    assert after["state"] == "Ready" and after["error_message"] == ""
    assert [p for p in (disk.path / "restored").rglob("*")] == []
    assert disk.free() >= free - MIB
    bench.delete_instance(machine)
    # To a path there.
    assert bench.restore_to(backup, disk.path / "fits.img", 0)["state"] == "done"
    task = bench.restore_to(backup, disk.path / "out.img", 1)
    assert task["state"] == "failed" and "is full" in task["error_message"]
    assert not (disk.path / "out.img").exists()
    bench.assert_usage_is_true()
    # With room, it works.
    (disk.path / "fits.img").unlink()
    assert bench.restore_to(backup, disk.path / "out.img", 1)["state"] == "done"
    assert bench.get(backup)["state"] == "Ready"


def test_a_restore_directory_that_cannot_be_made(start_daemon):
    bench = Bench(start_daemon('[volumes]\nroots = ["{root}"]\nrestore_directory = "{root}/file/restored"'))
    shutil.rmtree(bench.d.root / "file", ignore_errors=True)  # the daemon may have made it at its start
    (bench.d.root / "file").write_text("in the way")
    backup = bench.backup(bench.instance())
    new = bench.restore(backup, wait=None)
    machine = wait_for(lambda: (m := bench.get(new))["state"] == "Erred" and m, "the new machine is Erred")
    assert "directory for the new volumes cannot be made" in machine["error_message"]
    assert str(bench.d.root / "file/restored") in bench.d.log()
    assert bench.wait_rest(backup["url"])["state"] == "Ready"
    assert (bench.d.root / "file").read_text() == "in the way"


@needs_root
def test_a_snapshot_to_a_full_disk_leaves_nothing(start_daemon, small_disk):
    disk = small_disk("ext4", 8 * MIB)
    bench = Bench(start_daemon())
    path = write_disk(bench.d.root / "a.img", 32 * MIB, 32 * MIB, "a")
    backup = bench.backup(bench.instance([path]))
    task = bench.task("/ops/snapshot/", {"path": str(disk.path / "copy.db")})
    assert task["state"] == "failed" and "full" in task["error_message"], task
    assert [p.name for p in disk.path.iterdir() if p.name != "lost+found"] == []
    bench.assert_restores(backup, path)


# -------------------------------------------------------------------- errors at the n-th call


def with_errors(start_daemon, rule, when, target=None):
    """A daemon with a Ready backup, to whose coffer a system call fails from now on."""
    daemon = start_daemon("[engine]\nmaintenance_interval_s = 3600")
    bench = Bench(daemon)
    bench.disk_file = write_disk(daemon.root / "a.img", 40 * MIB, 40 * MIB, f"{rule} {when}")
    bench.vm = bench.instance([bench.disk_file])
    bench.first, bench.first_bytes = bench.backup(bench.vm), copy_sparse(bench.disk_file, daemon.base / "first")
    mutate(bench.disk_file, random.Random(when), 24 * MIB)
    assert daemon.stop() == 0
    names = ["coffer.db", "coffer.db-wal"] if target is None else [target]
    daemon.wrapper = inject(f"{rule}:when={when}", [daemon.state_dir / name for name in names])
    try:
        daemon.start()
    except AssertionError as error:
        assert "ended with 1 " in str(error), error
        daemon.kill()
    return bench


ERRORS = [
    ("pwrite64:error=ENOSPC", "40+", "coffer.db-wal"), ("pwrite64:error=ENOSPC", "3+", "coffer.db"),
    ("pwrite64:error=EIO", "200..202", None), ("fsync:error=EIO", "2", None), ("fsync:error=EIO", "4+", None),
    ("ftruncate:error=EIO", "1+", "coffer.db"),
]
MANY_ERRORS = [
    (f"{call}:error={error}", f"{when}{plus}", name)
    for call in ("pwrite64", "fsync") for error in ("ENOSPC", "EIO") for plus in ("", "+")
    for when in ((1, 2, 7, 33, 90, 180, 350) if call == "pwrite64" else (1, 2, 3, 4, 5)) for name in ("coffer.db-wal", "coffer.db")
]


def suffer(start_daemon, rule, when, target):
    bench = with_errors(start_daemon, rule, when, target)
    daemon = bench.d
    told_ready = []
    if daemon.running():
        answer = bench.api.post(BACKUPS, {"instance": bench.vm["url"]})
        assert answer.status_code in (201, 500, 503, 507), answer.text
        deadline = time.monotonic() + 6
        while answer.status_code == 201 and time.monotonic() < deadline and daemon.running():
            now = bench.api.get(answer.json()["url"])
            assert now.status_code in (200, 500, 503), now.text
            if now.status_code == 200 and now.json()["state"] != "Backing up":
                if now.json()["state"] == "Ready":
                    told_ready.append(now.json()["uuid"])
                else:
                    assert now.json()["error_message"]
                break
            time.sleep(0.05)
        assert bench.get(bench.first)["state"] == "Ready"
        daemon.kill()
    assert_integrity(daemon)
    forget_log(daemon)
    daemon.wrapper = []
    daemon.start()
    bench.assert_restores(bench.first, bench.first_bytes)
    backups = bench.backups_of(bench.vm)
    for uuid in told_ready:
        assert uuid in [b["uuid"] for b in backups if b["state"] == "Ready"]
    for backup in backups:
        assert backup["state"] in ("Ready", "Erred")
        if backup["state"] == "Ready" and backup["uuid"] != bench.first["uuid"]:
            bench.assert_restores(backup, bench.disk_file)
    bench.assert_usage_is_true()
    good = bench.backup(bench.vm)
    bench.assert_restores(good, bench.disk_file)
    for backup in bench.backups_of(bench.vm):
        bench.delete(backup)
    bench.gc()
    bench.assert_store_is_empty()


@pytest.mark.parametrize("rule, when, target", ERRORS)
def test_a_call_on_the_coffer_fails(start_daemon, rule, when, target):
    suffer(start_daemon, rule, when, target)


@pytest.mark.long
@pytest.mark.parametrize("rule, when, target", MANY_ERRORS)
def test_any_call_on_the_coffer_fails(start_daemon, rule, when, target):
    suffer(start_daemon, rule, when, target)


@pytest.mark.parametrize("rule", ["pwrite64:error=EIO:when=3", "fsync:error=EIO:when=1", "ftruncate:error=EFBIG:when=1"])
def test_a_call_on_a_restored_file_fails(start_daemon, rule):
    """An error of the last fsync too: without it nobody knows what is on the disk."""
    daemon = start_daemon("[engine]\nworkers = 1")
    bench = Bench(daemon)
    path = write_disk(daemon.root / "a.img", 24 * MIB, 24 * MIB, rule)
    backup = bench.backup(bench.instance([path]))
    assert daemon.stop() == 0
    out = daemon.base / "out.img"
    daemon.wrapper = inject(rule, out)
    daemon.start()
    task = bench.restore_to(backup, out)
    assert task["state"] == "failed" and str(out) in task["error_message"], task
    assert not out.exists()
    after = bench.wait_rest(backup["url"])
    assert after["state"] == "Ready" and after["error_message"] == ""
    daemon.stop()
    daemon.wrapper = []
    daemon.start()
    bench.assert_restores(backup, path)



@pytest.mark.fault("disk: every sync of the WAL fails")
def test_healthz_tells_that_nothing_can_be_written(start_daemon, tmp_path):
    """And that it can again, although nobody writes."""
    shim = Shim(tmp_path / "state", tmp_path)
    daemon = start_daemon(state_dir=tmp_path / "state", env=shim.env())
    bench = Bench(daemon)
    assert ok(daemon.anonymous.get("/healthz")) == {"status": "ok"}
    shim.arm(SYNC, FAIL, "-wal", error=errno.EIO)
    assert bench.api.post("/api/projects/", {"name": "p"}).status_code >= 500
    assert ok(daemon.anonymous.get("/healthz"), 503) == {"status": "the coffer cannot be written"}
    # A watchdog is not to restart it for that, and all that is there can be read.
    assert ok(daemon.anonymous.get("/healthz?reads")) == {"status": "ok"}
    assert bench.api.get("/api/projects/").status_code == 200
    shim.disarm()
    wait_for(lambda: daemon.anonymous.get("/healthz").status_code == 200, "it is well again")
    assert daemon.stop() == 0
    forget_log(daemon)


@pytest.mark.long
@pytest.mark.fault("disk: a sync of the WAL lasts for minutes")
def test_healthz_tells_that_a_write_does_not_end(start_daemon, tmp_path):
    (tmp_path / "state").mkdir()
    daemon = start_daemon(state_dir=tmp_path / "state", start=False)
    daemon.start()
    daemon.stop()
    daemon.wrapper = inject("fsync,fdatasync:delay_enter=80s:when=1", tmp_path / "state" / "coffer.db-wal")
    daemon.start()
    threading.Thread(target=lambda: daemon.staff.post("/api/projects/", {"name": "p"}, timeout=200)).start()
    wait_for(lambda: daemon.anonymous.get("/healthz").status_code == 503, "it is noticed", 100, 1)
    assert "does not come to an end" in daemon.anonymous.get("/healthz").text
    assert ok(daemon.anonymous.get("/healthz?reads")) == {"status": "ok"}
    wait_for(lambda: daemon.anonymous.get("/healthz").status_code == 200, "it has come to its end", 100, 1)
    daemon.kill()  # its last checkpoint would last as long
