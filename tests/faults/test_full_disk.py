"""Full disks: never a wrong Ready, clear words, and a coffer that gets smaller again by deleting backups."""

import errno
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import zstandard

from faults.bench import Bench, forget_log, inject, needs_root, write_disk
from faults.shim import FAIL, WRITE, Shim
from helpers.api import ok
from helpers.cinder_volumes import Client
from helpers.disks import MIB, make_raw
from helpers.lab import BACKUPS
from helpers.wait import wait_for

FULL = "the disk of the coffer is full"
FIXTURES = Path(__file__).parents[1] / "format" / "fixtures"


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
@pytest.mark.fault("disk: a backup fills the coffer's disk")
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
@pytest.mark.fault("disk: somebody else fills the coffer's disk")
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
@pytest.mark.fault("disk: somebody else fills the coffer's disk")
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
@pytest.mark.fault("disk: full at the start after a crash")
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


@needs_root
@pytest.mark.fault("disk: full at every stage")
def test_every_stage_on_a_full_disk(start_daemon, small_disk):
    """Orders are refused in each dialect's words, what reads goes on, what frees is done, and the schedule says why it failed."""
    disk = small_disk()
    daemon = start_daemon("[engine]\nmaintenance_interval_s = 3600", state_dir=disk.path / "state", clock="2026-03-01T00:00:00")
    bench, path = Bench(daemon), write_disk(daemon.root / "a.img", 8 * MIB, 8 * MIB, "a")
    cinder = Client(daemon, daemon.token, bench.project["uuid"])
    vm = bench.instance([path])
    backups = [bench.backup(vm) for _ in range(3)]
    schedule = bench.schedule(vm, schedule="0 5 * * *", is_active=True)
    while bench.api.post("/api/projects/", {"name": bench.unique("x")}).status_code == 201:
        disk.fill()  # what the log has of its own is used up too
    refused = bench.api.post("/api/projects/", {"name": "waldur"})
    assert refused.status_code == 507 and "disk is full" in refused.json()["detail"]
    refused = bench.api.post(BACKUPS, {"instance": vm["url"]})
    assert refused.status_code in (400, 507) and "full" in refused.text
    refused = cinder.post("/snapshots", {"snapshot": {"volume_id": vm["volumes"][0]["uuid"]}})
    assert refused.status_code == 507 and "disk is full" in refused.json()["computeFault"]["message"], refused.text
    refused = daemon.anonymous.post("/identity/v3/auth/tokens", {"auth": {"identity": {"methods": ["token"], "token": {"id": daemon.token}}}})
    assert refused.status_code in (201, 507) and ("token" in refused.json() or refused.json()["error"]["code"] == 507), refused.text
    assert len(bench.backups_of(vm)) == 3 and ok(bench.api.get("/api/events/"))
    # A schedule is due. It cannot even be noted down, or the backup fails; either way there is no false one.
    daemon.clock.set("2026-03-01T05:00:05")
    wait_for(lambda: "cannot run a schedule" in daemon.log() or len(bench.backups_of(vm)) > 3, "the schedule was seen")
    assert {b["state"] for b in bench.backups_of(vm)[:3]} == {"Ready"}
    # Tasks end, and say why if they could not do all.
    for target, body in (("/ops/scrub/", {"older_than_days": 0}), ("/ops/gc/", {"dead_fraction": 0}), ("/ops/check/", {})):
        task = bench.task(target, body)
        assert task["state"] == "done" or "full" in task["error_message"], task
    # With the room that is left for this a backup can be deleted, and then all goes on by itself.
    disk.clear()
    wait_for(lambda: bench.api.post("/api/projects/", {"name": bench.unique("y")}).status_code == 201, "it can be written again")
    made = wait_for(lambda: [b for b in bench.backups_of(vm)[3:] if b["state"] in ("Ready", "Erred")], "the schedule is made up for")
    assert made[0]["state"] == "Ready" or "full" in bench.get(schedule)["error_message"]
    for backup in backups[:2]:
        bench.delete(backup)
    bench.gc()
    bench.assert_restores(backups[2], path)
    bench.assert_restores(bench.backup(vm), path)
    assert daemon.stop() == 0
    forget_log(daemon)


@needs_root
@pytest.mark.fault("disk: full while a coffer is made or upgraded")
@pytest.mark.parametrize("old", [False, True], ids=["first start", "upgrade"])
def test_a_full_disk_at_the_first_start_and_at_an_upgrade(start_daemon, small_disk, old):
    disk = small_disk("tmpfs", 64 * MIB)
    daemon = start_daemon(start=False, state_dir=disk.path / "state")
    if old:
        packed = (FIXTURES / "format-1.db.zst").read_bytes()
        daemon.coffer.write_bytes(zstandard.ZstdDecompressor().decompress(packed, max_output_size=64 * MIB))
    before = daemon.coffer.read_bytes() if old else None
    disk.fill(leave=256 << 10)
    with pytest.raises(AssertionError, match="(?s)ended with 1 .*full"):
        daemon.start()
    assert "panicked" not in daemon.log()
    daemon.kill()
    if old:
        assert daemon.coffer.read_bytes() == before, "the old coffer is as it was"
    disk.clear()
    daemon.start()
    assert ok(daemon.staff.get(BACKUPS)) == [] if not old else daemon.sql("SELECT count(*) FROM backup WHERE state = 'ready'") == [(2,)]
    daemon.close()


@needs_root
@pytest.mark.fault("disk: a backup fills the coffer's disk")
def test_several_backups_at_once_fill_the_disk(start_daemon, small_disk):
    disk = small_disk("tmpfs", 160 * MIB)
    bench = Bench(start_daemon(state_dir=disk.path / "state"))
    disks = [make_raw(bench.d.root / f"{n}.img", 40 * MIB, seed=n, density=1) for n in range(4)]
    machines = [bench.instance([path]) for path in disks]
    first = bench.backup(machines[0])
    ends = [bench.wait_rest(backup["url"]) for backup in [bench.start_backup(vm) for vm in machines[1:]]]
    failed = [backup for backup in ends if backup["state"] == "Erred"]
    assert failed and all(FULL in backup["error_message"] for backup in failed), failed
    bench.assert_restores(first, disks[0])
    for backup in [first, *ends]:
        bench.delete(backup)
    wait_for(lambda: bench.d.sql("SELECT count(*) FROM pack") == [(0,)], "the space is given back", 60)
    again = bench.backup(machines[2])
    bench.d.restart()
    bench.assert_restores(again, disks[2])
    bench.d.close()


@needs_root
@pytest.mark.fault("disk: damage is found while there is no room to mend it")
def test_damage_that_can_be_mended_is_not_called_lost_for_want_of_room(start_daemon, small_disk):
    """The volume still has the bytes; but with nowhere to put them, its backup became Erred."""
    disk = small_disk()
    bench = Bench(start_daemon("[scrub]\nbytes_per_second = 0", state_dir=disk.path / "state"))
    path = write_disk(bench.d.root / "a.img", 8 * MIB, 8 * MIB, "a")
    backup = bench.backup(bench.instance([path]))
    assert bench.d.stop() == 0
    bench.d.sql("UPDATE pack SET data = CAST(substr(data, 1, 1000) || zeroblob(100) || substr(data, 1101) AS BLOB) WHERE id = 1")
    bench.d.start()
    disk.fill(leave=8 * MIB)
    for _ in range(2):
        task = bench.task("/ops/scrub/", {"older_than_days": 0})
        assert task["state"] == "done" and task["result"]["unsettled"] and not task["result"]["corrupt"], task
        assert bench.get(backup)["state"] == "Ready"
    disk.clear()
    task = bench.task("/ops/scrub/", {"older_than_days": 0})
    assert task["state"] == "done" and task["result"]["healed"] and not task["result"]["unsettled"], task
    assert bench.get(backup)["state"] == "Ready"
    bench.assert_restores(backup, path)
    bench.d.close()


# -------------------------------------------------------------------- the disk of a restore


@needs_root
@pytest.mark.fault("disk: the target of a restore is full")
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
@pytest.mark.fault("disk: the target of a copy of the coffer is full")
def test_a_snapshot_to_a_full_disk_leaves_nothing(start_daemon, small_disk):
    disk = small_disk("ext4", 8 * MIB)
    bench = Bench(start_daemon())
    path = write_disk(bench.d.root / "a.img", 32 * MIB, 32 * MIB, "a")
    backup = bench.backup(bench.instance([path]))
    task = bench.task("/ops/snapshot/", {"path": str(disk.path / "copy.db")})
    assert task["state"] == "failed" and "full" in task["error_message"], task
    assert [p.name for p in disk.path.iterdir() if p.name != "lost+found"] == []
    bench.assert_restores(backup, path)


@pytest.mark.fault("disk: every write to the WAL fails")
def test_healthz_tells_that_nothing_can_be_written(start_daemon, tmp_path):
    """And that it can again, although nobody writes."""
    shim = Shim(tmp_path / "state", tmp_path)
    daemon = start_daemon(state_dir=tmp_path / "state", env=shim.env())
    bench = Bench(daemon)
    assert ok(daemon.anonymous.get("/healthz")) == {"status": "ok"}
    shim.arm(WRITE, FAIL, "-wal", error=errno.EIO)
    assert bench.api.post("/api/projects/", {"name": "p"}).status_code >= 500
    assert ok(daemon.anonymous.get("/healthz"), 503) == {"status": "the coffer cannot be written"}
    # A watchdog is not to restart it for that, and all that is there can be read.
    assert ok(daemon.anonymous.get("/healthz?reads")) == {"status": "ok"}
    assert bench.api.get("/api/projects/").status_code == 200
    # It tries by itself, and what it tries is written: else it would seem to be well.
    tried = shim.hits
    wait_for(lambda: shim.hits > tried, "it is tried again", 30)
    assert ok(daemon.anonymous.get("/healthz"), 503) == {"status": "the coffer cannot be written"}
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
