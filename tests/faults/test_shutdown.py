"""SIGTERM in the middle of work: it is finished or cleanly interrupted within the deadline, the exit code is 0, and the next
start finds nothing to mend."""

import os
import signal
import sqlite3
import time

import pytest

from faults.bench import Bench, assert_integrity, inject, write_disk
from helpers.api import ok
from helpers.disks import MIB, assert_same_bytes
from helpers.lab import BACKUPS
from helpers.wait import wait_for

SIZE = 24 * MIB


def slow(start_daemon, deadline, delay="60ms", extra="", call="pread64"):
    """A daemon to which the disk slow.img is slow."""
    daemon = start_daemon(f"shutdown_deadline_s = {deadline}\n[engine]\nworkers = 1\n{extra}", start=False)
    disk = write_disk(daemon.root / "slow.img", SIZE, SIZE, "slow")
    daemon.wrapper = inject(f"{call}:delay_enter={delay}", disk)
    bench = Bench(daemon.start())
    bench.disk_file, bench.vm = disk, bench.instance([disk])
    return bench


def in_the_middle(bench, backup):
    wait_for(lambda: bench.progress(backup) >= 2 * MIB, "its middle")
    assert bench.get(backup)["state"] in ("Backing up", "Restoring")


def assert_left_clean(bench):
    """The daemon has ended in order: one file, no socket, nothing that the next start would have to settle."""
    assert_integrity(bench.d)
    wal = bench.d.state_dir / "coffer.db-wal"
    assert not wal.exists() or wal.stat().st_size == 0
    assert not (bench.d.state_dir / "cofferd.sock").exists()
    with sqlite3.connect(bench.d.coffer) as connection:
        transient = "SELECT count(*) FROM backup WHERE state IN ('backing_up', 'restoring')"
        assert connection.execute(transient).fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM job WHERE kind <> 'delete'").fetchone() == (0,)
    connection.close()


def start_again(bench):
    bench.d.wrapper = []
    bench.d.start()


def test_a_backup_is_finished_within_the_deadline(start_daemon):
    bench = slow(start_daemon, 30)
    backup = bench.start_backup(bench.vm)
    in_the_middle(bench, backup)
    assert bench.d.stop() == 0
    assert_left_clean(bench)
    start_again(bench)
    assert bench.get(backup)["state"] == "Ready"
    bench.assert_restores(backup, bench.disk_file)


def test_a_backup_is_interrupted_at_the_deadline(start_daemon):
    bench = slow(start_daemon, 1, delay="400ms")
    schedule = bench.schedule(bench.vm, is_active=True)
    backup = bench.start_backup(bench.vm)
    bench.link(backup, schedule)
    in_the_middle(bench, backup)
    begun = time.monotonic()
    assert bench.d.stop() == 0
    assert time.monotonic() - begun < 20
    assert_left_clean(bench)
    start_again(bench)
    after = bench.get(backup)
    assert after["state"] == "Erred" and "interrupted" in after["error_message"]
    after = bench.get(schedule)
    assert after["is_active"] is False and "interrupted" in after["error_message"]
    bench.assert_usage_is_true()
    good = bench.backup(bench.vm)
    bench.assert_restores(good, bench.disk_file)
    bench.delete(good)
    bench.delete(bench.get(backup))
    bench.gc()
    bench.assert_store_is_empty()


def slow_restore(start_daemon, deadline, delay):
    """A restore to a path, in its middle. The daemon, the backup and the path."""
    bench = slow(start_daemon, deadline)
    backup = bench.backup(bench.vm)
    assert bench.d.stop() == 0
    out = bench.d.root / "out.img"
    bench.d.wrapper = inject(f"pwrite64:delay_enter={delay}", out)
    bench.d.start()
    ok(bench.api.post("/ops/restores/", {"backup": backup["uuid"], "position": 0, "path": str(out), "mode": "create"}), 202)
    in_the_middle(bench, backup)
    return bench, backup, out


def test_a_restore_is_finished_within_the_deadline(start_daemon):
    bench, backup, out = slow_restore(start_daemon, 30, "300ms")
    assert bench.d.stop() == 0
    assert_left_clean(bench)
    assert_same_bytes(bench.disk_file, out)
    start_again(bench)
    assert bench.get(backup)["state"] == "Ready"


def test_a_restore_is_interrupted_at_the_deadline(start_daemon):
    bench, backup, out = slow_restore(start_daemon, 1, "1500ms")
    assert bench.d.stop() == 0
    assert_left_clean(bench)
    assert not out.exists()
    start_again(bench)
    after = bench.get(backup)
    assert after["state"] == "Ready" and after["error_message"] == ""
    assert "resource_backup_restoration_failed" in bench.event_types(backup)
    assert bench.restore_to(backup, out)["state"] == "done"
    assert_same_bytes(bench.disk_file, out)


def test_a_restore_to_a_new_machine_is_interrupted_at_the_deadline(start_daemon):
    bench = slow(start_daemon, 1)
    backup = bench.backup(bench.vm)
    assert bench.d.stop() == 0
    bench.d.wrapper = inject("pread64:delay_enter=20ms", bench.d.coffer)
    bench.d.start()
    new = bench.restore(backup, wait=None)
    in_the_middle(bench, backup)
    assert bench.d.stop() == 0
    assert_left_clean(bench)
    assert bench.restored_files() == set()
    start_again(bench)
    assert bench.get(backup)["state"] == "Ready"
    machine = bench.get(new)
    assert machine["state"] == "Erred" and "interrupted" in machine["error_message"]
    bench.delete_instance(machine)
    assert_same_bytes(bench.disk_file, bench.volume_files(bench.restore(backup))[0])


def test_what_had_not_begun_does_not_hold_up_the_end(start_daemon):
    """One job runs; a backup, a restore to a path and a restore to a machine wait behind it."""
    bench = slow(start_daemon, 30, extra="jobs = 1")
    backup = bench.backup(bench.vm)
    running = bench.start_backup(bench.vm)
    waiting = bench.start_backup(bench.vm)
    out = bench.d.root / "out.img"
    ok(bench.api.post("/ops/restores/", {"backup": backup["uuid"], "position": 0, "path": str(out), "mode": "create"}), 202)
    in_the_middle(bench, running)
    begun = time.monotonic()
    assert bench.d.stop() == 0
    assert time.monotonic() - begun < 20, "it waited for something that never comes"
    start_again(bench)
    assert bench.get(running)["state"] == "Ready"
    after = bench.wait_rest(waiting["url"])
    assert after["state"] == "Ready" or "interrupted" in after["error_message"]
    assert bench.get(backup)["state"] == "Ready"
    bench.assert_restores(running, bench.disk_file)


def test_a_second_signal_ends_it_at_once_and_the_next_start_settles(start_daemon):
    bench = slow(start_daemon, 60, delay="1s")
    backup = bench.start_backup(bench.vm)
    in_the_middle(bench, backup)
    os.kill(bench.d.pid, signal.SIGTERM)
    wait_for(lambda: "stopping; a second signal" in bench.d.log(), "the first signal is heard")
    assert bench.d.running()
    os.kill(bench.d.pid, signal.SIGTERM)
    assert bench.d.process.wait(10) == 1
    bench.d.kill()
    assert_integrity(bench.d)
    start_again(bench)
    after = bench.get(backup)
    assert after["state"] == "Erred" and "interrupted" in after["error_message"]
    bench.assert_usage_is_true()
    bench.assert_restores(bench.backup(bench.vm), bench.disk_file)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_an_idle_daemon_ends_at_once_and_restarts_clean(start_daemon, name):
    bench = Bench(start_daemon())
    backup = bench.backup(bench.instance())
    begun = time.monotonic()
    os.kill(bench.d.pid, getattr(signal, name))
    assert bench.d.process.wait(10) == 0
    assert time.monotonic() - begun < 10
    bench.d.kill()
    assert_left_clean(bench)
    bench.d.start()
    assert bench.get(backup)["state"] == "Ready"
    assert "interrupted" not in bench.d.log()


def test_requests_while_it_ends_are_answered_or_refused_and_never_half_done(start_daemon):
    bench = slow(start_daemon, 10, delay="100ms")
    backup = bench.start_backup(bench.vm)
    in_the_middle(bench, backup)
    os.kill(bench.d.pid, signal.SIGTERM)
    accepted = []
    while bench.d.running():
        try:
            answer = bench.api.post(BACKUPS, {"instance": bench.vm["url"]}, timeout=5)
        except Exception:
            time.sleep(0.05)
            continue
        assert answer.status_code in (201, 503), answer.text
        if answer.status_code == 201:
            accepted.append(answer.json()["uuid"])
    bench.d.kill()
    start_again(bench)
    assert bench.get(backup)["state"] == "Ready"
    for uuid in accepted:
        after = bench.wait_rest(f"{BACKUPS}{uuid}/")
        assert after["state"] == "Ready" or "interrupted" in after["error_message"]
    assert len(bench.backups_of(bench.vm)) == 1 + len(accepted)


def test_a_collection_and_a_check_stop_when_asked(start_daemon):
    bench = Bench(start_daemon("shutdown_deadline_s = 1"))
    backups = [bench.backup(bench.instance([write_disk(bench.d.root / f"{n}.img", 64 * MIB, 64 * MIB, n)])) for n in range(2)]
    ok(bench.api.post(backups[0]["url"] + "delete/"))
    ok(bench.api.post("/ops/check/", {"backup": backups[1]["uuid"]}), 202)
    ok(bench.api.post("/ops/gc/", {"dead_fraction": 0}), 202)
    assert bench.d.stop() == 0
    assert_integrity(bench.d)
    bench.d.start()
    bench.wait_gone(backups[0]["url"])
    bench.assert_restores(backups[1], bench.d.root / "1.img")
    bench.delete(backups[1])
    bench.gc()
    bench.assert_store_is_empty()
