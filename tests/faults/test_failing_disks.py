"""Disks that fail: the coffer's, a source's, the target's of a restore. Nothing false is called Ready, the API says what it can, and when
the fault is over all goes on, without a restart but for one case: where a disk did not confirm what was written, cofferd ends itself."""

import errno
import os
import random
import subprocess

import pytest

from faults.bench import Bench, assert_integrity, copy_sparse, forget_log, inject, mutate, needs_root, write_disk
from faults.shim import FAIL, READ, SYNC, TRUNCATE, WRITE, Shim
from helpers.api import ok
from helpers.cinder_volumes import Cloud
from helpers.disks import MIB, allocated
from helpers.lab import BACKUPS
from helpers.wait import wait_for

WAL, COFFER = "coffer.db-wal", "coffer.db"
UNCONFIRMED = "the disk did not confirm"


class Failing(Bench):
    """A daemon with a Ready backup, whose calls on its coffer can be made to fail."""

    def __init__(self, start_daemon, seed):
        self.daemon = start_daemon("[engine]\nmaintenance_interval_s = 3600\n[scrub]\nbytes_per_second = 0", start=False)
        self.shim = Shim(self.daemon.state_dir, self.daemon.base)
        self.daemon.extra_env = self.shim.env()
        super().__init__(self.daemon.start())
        self.disk_file = write_disk(self.d.root / "a.img", 24 * MIB, 24 * MIB, seed)
        self.vm = self.instance([self.disk_file])
        self.first, self.first_bytes = self.backup(self.vm), copy_sparse(self.disk_file, self.d.base / "first")
        self.second = self.backup(self.vm)
        mutate(self.disk_file, random.Random(seed), 16 * MIB)

    def ask(self, url):
        """An answer, or None if the daemon has ended."""
        try:
            return self.api.get(url)
        except OSError:
            wait_for(lambda: not self.d.running(), "a daemon that does not answer has ended")
            return None

    def back_up(self):
        """Orders a backup and watches it until it ends, the daemon does, or nothing more can be told; the state it came to."""
        try:
            answer = self.api.post(BACKUPS, {"instance": self.vm["url"]})
        except OSError:
            wait_for(lambda: not self.d.running(), "a daemon that does not answer has ended")
            return None
        assert answer.status_code in (201, 400, 500, 503, 507), answer.text
        if answer.status_code != 201:
            assert answer.json(), "the dialect's shape"
            return None
        url = answer.json()["url"]

        def end():
            now = self.ask(url)
            if now is None or now.status_code != 200:
                assert now is None or now.status_code in (500, 503) and now.json()["detail"], now.text
                return "unknown"
            if now.json()["state"] == "Erred":
                assert now.json()["error_message"]
            # What has failed is written down as soon as that can be done.
            waits = "cannot record a failed backup" in self.d.log()
            return "waits" if waits and now.json()["state"] == "Backing up" else now.json()["state"] != "Backing up" and now.json()["state"]

        return wait_for(end, "the backup ends", 60)


# What fails: calls, error, file, the first of them, how many (0: all from there on), bytes of a write that are done.
CALLS = [
    (WRITE, errno.ENOSPC, WAL, 5, 0, 0), (WRITE, errno.EIO, WAL, 3, 1, 0), (WRITE, errno.EROFS, "", 1, 0, 0),
    (WRITE, errno.EDQUOT, COFFER, 2, 0, 0), (WRITE, errno.ENOSPC, WAL, 4, 3, 1000), (WRITE, errno.EIO, COFFER, 5, 2, 4096),
    (SYNC, errno.EIO, WAL, 1, 1, 0), (SYNC, errno.EIO, WAL, 3, 1, 0), (SYNC, errno.EIO, COFFER, 1, 1, 0),
    (READ, errno.EIO, COFFER, 1, 3, 0), (TRUNCATE, errno.EIO, "", 1, 0, 0),
]
MANY_CALLS = [
    (call, error, name, first, times, keep)
    for call, errors in ((WRITE, (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)), (SYNC, (errno.EIO, errno.ENOSPC)), (READ, (errno.EIO,)))
    for error in errors for name in (WAL, COFFER) for first in (1, 2, 7, 33, 90) for times in (1, 0)
    for keep in ((0, 5000) if call == WRITE else (0,))
]
NAMES = {WRITE: "write", SYNC: "sync", READ: "read", TRUNCATE: "truncation"}


def describe(case):
    call, error, name, first, times, keep = case
    return f"{NAMES[call]}-{errno.errorcode[error]}-{name or 'all'}-{first}x{times}-{keep}"


def suffer(start_daemon, ledger, case):
    call, error, name, first, times, keep = case
    bench = Failing(start_daemon, describe(case))
    with ledger.fault(f"disk: a {NAMES[call]} of the coffer fails"):
        bench.shim.arm(call, FAIL, name, first=first, times=times, error=error, keep=keep)
        state = bench.back_up()
        if bench.d.running() and call != READ:
            assert bench.get(bench.first)["state"] == "Ready" and bench.backups_of(bench.vm)  # reads answer
            answer = bench.api.post("/api/projects/", {"name": bench.unique("p")}) if call != SYNC else None
            assert answer is None or answer.status_code in (201, 500, 507) and answer.json(), answer.text
        hit = bench.shim.hits
        bench.shim.disarm()
        bench.d.running() or assert_ended_for_want_of_a_sync(bench, call)
        if call == SYNC and hit:
            wait_for(lambda: not bench.d.running(), "it ends where nothing is confirmed")
            assert state != "Ready", "nobody is told what was not confirmed"
            assert_ended_for_want_of_a_sync(bench, call)
        if not bench.d.running():
            bench.d.kill()
            assert_integrity(bench.d)
            bench.d.start()
        # All goes on.
        wait_for(lambda: all(b["state"] in ("Ready", "Erred") for b in bench.backups_of(bench.vm)), "what was begun ends", 60)
        good = bench.backup(bench.vm)
        bench.assert_restores(good, bench.disk_file)
        bench.assert_restores(bench.first, bench.first_bytes)
        for backup in bench.backups_of(bench.vm):
            if backup["state"] == "Ready" and backup["uuid"] not in (bench.first["uuid"], bench.second["uuid"]):
                bench.assert_restores(backup, bench.disk_file)
        bench.d.kill()
        assert_integrity(bench.d)
        forget_log(bench.d)
        bench.d.start()
        bench.assert_usage_is_true()
        bench.assert_restores(good, bench.disk_file)
        for backup in bench.backups_of(bench.vm):
            bench.delete(backup)
        bench.gc()
        bench.assert_store_is_empty()


def assert_ended_for_want_of_a_sync(bench, call):
    assert call == SYNC and bench.d.process.poll() == 1 and UNCONFIRMED in bench.d.log(), bench.d.log()[-3000:]


@pytest.mark.parametrize("case", CALLS, ids=describe)
def test_calls_on_the_coffer_fail(start_daemon, ledger, case):
    suffer(start_daemon, ledger, case)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", MANY_CALLS, ids=describe)
def test_any_calls_on_the_coffer_fail(start_daemon, ledger, case):
    suffer(start_daemon, ledger, case)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_deletion_waits_for_the_disk_and_holds_up_no_other_quick_work(start_daemon, ledger, error):
    """A good backup was called Erred because of a moment's fault, and while a deletion waited for room, a volume whose file would
    have given it was not removed."""
    with ledger.fault("disk: a deletion cannot be written down"):
        bench = Failing(start_daemon, "deletion")
        cloud = Cloud(bench.d)
        volume = cloud.path(cloud.volume())
        assert bench.d.stop() == 0
        bench.force_backup(bench.first, "deleting")
        bench.d.sql("INSERT INTO job (kind, backup_id, created) SELECT 'delete', id, created_at FROM backup WHERE state = 'deleting'")
        bench.d.sql("UPDATE volume SET state = 'deleting' WHERE path = ?", (str(volume),))
        bench.d.sql("INSERT INTO job (kind, volume_id, created) SELECT 'erase', id, created FROM volume WHERE state = 'deleting'")
        bench.shim.arm(WRITE, FAIL, WAL, error=error)
        bench.d.start()
        wait_for(lambda: not volume.exists(), "the volume's file is removed")
        assert "cannot be deleted yet" in bench.d.log()
        assert bench.get(bench.first)["state"] == "Deleting"
        bench.shim.disarm()
        bench.wait_gone(bench.first["url"])
        wait_for(lambda: bench.d.sql("SELECT count(*) FROM job") == [(0,)], "both have been done")
        assert bench.get(bench.second)["state"] == "Ready"


@pytest.mark.fault("disk: a spot of the coffer cannot be written when the daemon starts")
def test_a_coffer_that_cannot_take_its_log_starts_and_restores(start_daemon):
    bench = Failing(start_daemon, "spot")
    ok(bench.api.post("/api/projects/", {"name": "in the log"}), 201)
    bench.d.kill()
    bench.shim.arm(WRITE, FAIL, "/coffer.db", error=errno.EIO)
    bench.d.start()
    assert bench.shim.hits and "cannot be moved into the coffer" in bench.d.log()
    bench.assert_restores(bench.first, bench.first_bytes)
    bench.shim.disarm()
    bench.assert_restores(bench.backup(bench.vm), bench.disk_file)
    assert bench.d.stop() == 0
    forget_log(bench.d)


@pytest.mark.parametrize("rule", ["pwrite64:error=EIO:when=3", "fsync:error=EIO:when=1", "ftruncate:error=EFBIG:when=1"])
@pytest.mark.fault("disk: a call on a restored file fails")
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


@pytest.mark.fault("disk: a restore over a volume fails before its first write")
def test_a_restore_that_never_wrote_leaves_the_volume_as_it_was(start_daemon):
    """It was called error_restoring, and so no longer backed up, although nothing had touched it."""
    bench = Bench(start_daemon())
    path = write_disk(bench.d.root / "a.img", 4 * MIB, 4 * MIB, 1)
    vm = bench.instance([path])
    backup = bench.backup(vm)
    os.truncate(path, 2 * MIB)
    task = bench.restore_to(backup, path, mode="overwrite")
    assert task["state"] == "failed" and "too small" in task["error_message"], task
    assert bench.d.sql("SELECT state, error_message FROM volume") == [("available", "")]
    bench.backup(vm)
    bench.wait_rest(backup["url"])


# -------------------------------------------------------------------- file systems that break off


class Filesystem:
    """A file system in a file, which can be made to fail and be mended."""

    def __init__(self, directory, kind):
        self.image, self.path, self.kind = directory / f"{kind}.img", directory / f"mounted-{kind}", kind
        self.path.mkdir()
        with open(self.image, "wb") as f:
            f.truncate(320 * MIB)
        subprocess.run([f"mkfs.{kind}", "-q", self.image], check=True)
        self.mount()

    def mount(self):
        subprocess.run(["mount", "-o", "loop", self.image, self.path], check=True)

    def fail(self):
        """XFS answers every call with EIO from now on; ext4 becomes readable only, as after an error in its journal."""
        if self.kind == "xfs":
            subprocess.run(["xfs_io", "-x", "-c", "shutdown", self.path], check=True)
        else:
            subprocess.run(["mount", "-o", "remount,abort", self.path], check=True)
            subprocess.run(["touch", self.path / "x"], capture_output=True)

    def unmount(self, lazy=False):
        subprocess.run(["umount", *(["--lazy"] if lazy else []), self.path], check=True)

    def mend(self):
        self.unmount()
        if self.kind == "ext4":
            subprocess.run(["e2fsck", "-fy", self.image], capture_output=True)
        self.mount()


@pytest.fixture
def filesystem(tmp_path):
    made = []

    def make(kind):
        made.append(Filesystem(tmp_path, kind))
        return made[-1]

    yield make
    for one in made:
        one.unmount(lazy=True)


@needs_root
@pytest.mark.parametrize("kind", ["xfs", "ext4"])
@pytest.mark.fault("disk: the coffer's file system breaks off")
def test_the_coffers_file_system_breaks_off(start_daemon, filesystem, kind):
    fs = filesystem(kind)
    daemon = start_daemon("[engine]\nworkers = 1\nmaintenance_interval_s = 3600", start=False, state_dir=fs.path / "state")
    path = write_disk(daemon.root / "a.img", 48 * MIB, 48 * MIB, kind)
    bench = Bench(daemon.start())
    vm = bench.instance([path])
    first = bench.backup(vm)
    kept = copy_sparse(path, daemon.base / "kept")
    daemon.stop()
    mutate(path, random.Random(kind), 40 * MIB)
    daemon.wrapper = inject("pread64:delay_enter=30ms", path)
    daemon.start()
    backup = bench.start_backup(vm)
    wait_for(lambda: bench.progress(backup) > 4 * MIB, "its middle")
    fs.fail()

    def told():
        """It has ended, or says that it cannot go on; never that the backup is Ready."""
        if not daemon.running():
            return True
        try:
            answer = bench.api.get(backup["url"])
        except OSError:
            return False
        assert answer.status_code in (200, 500, 503), answer.text
        assert answer.status_code != 200 or answer.json()["state"] in ("Backing up", "Erred")
        return answer.status_code == 500 or "cannot record a failed backup" in daemon.log()

    wait_for(told, "it tells", 60)
    if daemon.running():
        answer = bench.api.post(BACKUPS, {"instance": vm["url"]})
        assert answer.status_code in (400, 500, 503, 507) and answer.json(), answer.text
    assert "panicked" not in daemon.log()
    daemon.kill()
    fs.mend()
    daemon.wrapper = []
    assert_integrity(daemon)
    forget_log(daemon)
    daemon.start()
    assert bench.get(backup)["state"] == "Erred"
    bench.assert_restores(first, kept)
    bench.assert_restores(bench.backup(vm), path)
    bench.cli("check")
    daemon.close()


@needs_root
@pytest.mark.parametrize("kind", ["xfs", "ext4"])
@pytest.mark.fault("disk: the file system of a restore's target breaks off")
def test_the_targets_file_system_breaks_off(start_daemon, filesystem, kind):
    fs = filesystem(kind)
    daemon = start_daemon("[engine]\nworkers = 1", start=False)
    path = write_disk(daemon.root / "a.img", 64 * MIB, 64 * MIB, kind)
    bench = Bench(daemon.start())
    backup = bench.backup(bench.instance([path]))
    daemon.stop()
    out = fs.path / "out.img"
    daemon.wrapper = inject("pwrite64:delay_enter=50ms")
    daemon.start()
    number = ok(bench.api.post("/ops/restores/", {"backup": backup["uuid"], "position": 0, "path": str(out), "mode": "create"}), 202)["task"]
    wait_for(lambda: out.exists() and allocated(out) > 4 * MIB, "its middle")
    fs.fail()
    task = bench.wait_task(number)
    assert task["state"] == "failed" and "out.img" in task["error_message"], task
    after = bench.wait_rest(backup["url"])
    assert after["state"] == "Ready" and after["error_message"] == ""
    fs.mend()
    out.unlink(missing_ok=True)
    assert bench.restore_to(backup, out)["state"] == "done"  # the same daemon


@needs_root
@pytest.mark.fault("disk: a source's file system breaks off")
def test_the_sources_file_system_breaks_off(start_daemon, filesystem):
    fs = filesystem("xfs")
    daemon = start_daemon(f'[volumes]\nroots = ["{{root}}", "{fs.path}"]\n[engine]\nworkers = 1', start=False)
    path = write_disk(fs.path / "a.img", 48 * MIB, 48 * MIB, 1)
    subprocess.run(["sync", "-f", path], check=True)
    kept = copy_sparse(path, daemon.base / "kept")
    daemon.wrapper = inject("pread64:delay_enter=50ms", path)
    bench = Bench(daemon.start())
    vm = bench.instance([path])
    other = bench.instance()
    backup = bench.start_backup(vm)
    wait_for(lambda: bench.progress(backup) > 4 * MIB, "its middle")
    fs.fail()
    after = bench.wait_rest(backup["url"])
    assert after["state"] == "Erred" and "a.img" in after["error_message"] and str(fs.path) not in after["error_message"], after
    bench.backup(other)
    wait_for(lambda: bench.wait_rest(bench.start_backup(vm)["url"])["state"] == "Erred", "nothing is read from it")
    fs.mend()
    bench.assert_restores(bench.backup(vm), kept)  # the same daemon
    bench.assert_usage_is_true()


@needs_root
@pytest.mark.fault("disk: no inode is left")
def test_a_file_system_without_inodes(start_daemon, tmp_path):
    """For restored files, for new volumes, for copies of the coffer, and for a coffer that is to be made."""
    place = tmp_path / "few"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=8", "none", place], check=True)
    try:
        bench = Bench(start_daemon(f'[volumes]\nroots = ["{{root}}", "{place}"]\nrestore_directory = "{place}/restored"'))
        path = write_disk(bench.d.root / "a.img", 4 * MIB, 4 * MIB, 1)
        backup = bench.backup(bench.instance([path]))
        taken = []
        while True:
            try:
                taken.append(place / f"taken{len(taken)}")
                taken[-1].touch()
            except OSError:
                taken.pop()
                break
        task = bench.restore_to(backup, place / "out.img")
        assert task["state"] == "failed" and "is full" in task["error_message"], task
        task = bench.task("/ops/snapshot/", {"path": str(place / "copy.db")})
        assert task["state"] == "failed" and str(place / "copy.db") in task["error_message"], task
        new = bench.restore(backup, wait=None)
        machine = wait_for(lambda: (m := bench.get(new))["state"] == "Erred" and m, "the new machine is Erred")
        assert machine["error_message"]
        assert bench.wait_rest(backup["url"])["state"] == "Ready"
        with pytest.raises(AssertionError, match="ended with 1 .*"):
            start_daemon(state_dir=place)
        for file in taken:
            file.unlink()
        assert bench.restore_to(backup, place / "out.img")["state"] == "done"
        bench.restore(backup)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
