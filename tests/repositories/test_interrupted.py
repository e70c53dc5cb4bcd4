"""What is in the middle of an upload or a download when the daemon ends, when the backup is deleted, when the configuration changes."""

import time

import pytest

from helpers.api import ok
from helpers.cinder import empty
from helpers.disks import MIB, assert_same_bytes
from helpers.wait import wait_for
from objects import proxy as faults
from objects.proxy import Gate

PACK = 8 * MIB


def held(proxy, after, method="PUT", path="/packs/", how="before", times=100):
    """From the next request but so many on, those that fit are held until the gate is opened."""
    gate = Gate()
    if after:
        proxy.plan(faults.passes, method, path, after)
    proxy.plan(getattr(gate, how), method, path, times)
    return gate


def release(proxy, gate):
    proxy.plans.clear()
    gate.opened.set()


@pytest.mark.fault("daemon: killed while it sends a backup")
def test_what_was_sent_before_a_kill_is_not_sent_again(site, table, proxy, bucket, rescue):
    lab = site({"r": table(connections=1)}, [proxy])
    machine, saved = lab.raw(48)
    gate = held(proxy, 3)
    backup = lab.start_backup(machine, repository="r")
    assert gate.met.wait(60)
    lab.d.kill()
    release(proxy, gate)
    lab.d.start()
    lab.erred(backup, "interrupted: the daemon ended while this was running")
    # The collection that comes after a failure leaves what the next try can use.
    lab.tend()
    again = lab.backup(machine, repository="r")
    assert proxy.count("PUT", "/packs/") == 48 * MIB // PACK + 1, "each once, and the one that was held"
    # One that the server got although the daemon did not live to hear of it is swept up.
    lab.collect()
    assert len(bucket.names("packs/")) == 48 * MIB // PACK
    assert len(bucket.names("backups/")) == 1
    other = rescue()
    assert other.attached["added"] == 1
    other.assert_restores(other.waldur(again), saved)


@pytest.mark.fault("daemon: killed between the last object and the manifest")
@pytest.mark.parametrize("how", ["before", "after"])
def test_a_kill_at_the_manifest_leaves_no_half_backup(how, site, table, proxy, bucket, rescue):
    lab = site({"r": table()}, [proxy])
    machine, saved = lab.raw(10)
    gate = held(proxy, 0, path="/backups/", how=how)
    backup = lab.start_backup(machine, repository="r")
    assert gate.met.wait(60)
    lab.d.kill()
    release(proxy, gate)
    lab.d.start()
    lab.erred(backup, "interrupted")
    lab.collect()
    assert not bucket.names("backups/") and not bucket.names("packs/")
    again = lab.backup(machine, repository="r")
    other = rescue()
    assert other.attached["added"] == 1 and other.attached["incomplete"] == 0
    other.assert_restores(other.waldur(again), saved)


@pytest.mark.fault("daemon: killed while it brings a backup")
def test_a_restore_that_was_killed_is_done_once_more(site, table, proxy):
    lab = site({"r": table(connections=1)}, [proxy])
    machine, saved = lab.raw(40)
    backup = lab.backup(machine, repository="r")
    volume, = lab.volumes_of(machine)
    part = next(b for b in lab.everything() if b["volume_id"] == volume["id"])
    disk = lab.volume_files(machine)[0]
    disk.write_bytes(b"\1" * saved.stat().st_size)
    gate = held(proxy, 2, "GET")
    lab.admin.start_restore(part, volume_id=volume["id"])
    assert gate.met.wait(60)
    lab.d.kill()
    release(proxy, gate)
    lab.d.start()
    assert lab.admin.wait_volume(volume, "error_restoring")
    assert lab.waldur(backup)["state"] == "Ready"
    lab.admin.volume_action(volume, "os-reset_status", {"status": "available"})
    lab.admin.restore(part, volume_id=volume["id"])
    assert_same_bytes(saved, disk)


@pytest.mark.fault("daemon: stopped while the server is silent")
@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_a_stop_does_not_wait_for_the_server(method, site, table, proxy):
    lab = site({"r": table(connections=1, timeout_s=50)}, [proxy], extra="shutdown_deadline_s = 1\n")
    machine, saved = lab.raw(24)
    if method == "GET":
        backup = lab.backup(machine, repository="r")
    gate = held(proxy, 1, method)
    if method == "GET":
        restored = lab.restore(backup, wait=None)
    else:
        backup = lab.start_backup(machine, repository="r")
    assert gate.met.wait(60)
    assert lab.d.stop(timeout=20) == 0
    release(proxy, gate)
    lab.d.start()
    if method == "GET":
        assert "interrupted" in lab.get(restored)["error_message"]
        assert lab.waldur(backup)["state"] == "Ready"
        lab.assert_restores(lab.waldur(backup), saved)
    else:
        lab.erred(backup, "interrupted: the daemon was stopped while the backup was being made")
        lab.assert_restores(lab.backup(machine, repository="r"), saved)


@pytest.mark.parametrize("how", ["force delete", "reset and delete"])
def test_a_backup_that_is_deleted_while_it_is_sent_leaves_nothing(how, site, table, proxy, bucket):
    lab = site({"r": table(connections=1, timeout_s=50)}, [proxy])
    kept, saved = lab.raw(9, seed=1)
    other = lab.backup(kept, repository="r")
    there = bucket.names()
    machine, _ = lab.raw(24)
    volume, = lab.volumes_of(machine)
    gate = held(proxy, 1)
    backup = lab.admin.create(volume, container="r", force=True)
    assert gate.met.wait(60)
    if how == "force delete":
        lab.admin.force_delete(backup)
        # It ends before the server answers.
        lab.admin.wait_gone(backup)
    else:
        lab.admin.reset(backup, "error")
        empty(lab.admin.delete(f"/backups/{backup['id']}"))
        lab.admin.wait_gone(backup)
    release(proxy, gate)
    lab.collect()
    assert bucket.names() == there
    assert lab.d.sql("SELECT count(*) FROM pack") == [(0,)]
    lab.assert_restores(other, saved)


def test_a_pack_that_is_sent_during_a_reload_is_not_swept_up(site, table, proxy, bucket, rescue):
    """What is on its way was known only to the part of the daemon that the reload had replaced."""
    lab = site({"r": table(connections=1)}, [proxy])
    machine, saved = lab.raw(12)
    gate = held(proxy, 0, how="after", times=1)
    backup = lab.start_backup(machine, repository="r")
    assert gate.met.wait(60)
    lab.host.reload({"r": table(connections=1)})
    number = ok(lab.api.post("/ops/gc/", {"dead_fraction": 0}), 202)["task"]
    time.sleep(1)
    release(proxy, gate)
    wait_for(lambda: ok(lab.api.get(f"/ops/tasks/{number}/"))["state"] == "done", "the collection")
    lab.wait_state(backup["url"], "Ready")
    lab.collect()
    lab.assert_restores(lab.waldur(backup), saved)
    other = rescue()
    assert other.attached["incomplete"] == 0
    other.assert_restores(other.waldur(backup), saved)


def test_an_upload_goes_on_while_its_repository_is_taken_out_of_the_configuration(site, table, proxy):
    lab = site({"r": table(connections=1)}, [proxy])
    machine, saved = lab.raw(24)
    gate = held(proxy, 1)
    backup = lab.start_backup(machine, repository="r")
    assert gate.met.wait(60)
    lab.host.reload({})
    release(proxy, gate)
    backup = lab.wait_state(backup["url"], "Ready")
    # What is there can be seen, and nothing done with it, which is said with the name of the repository.
    reason = "repository r: is not in the configuration"
    machine_of = lab.restore(backup, wait="Erred")
    assert reason in machine_of["error_message"]
    assert lab.waldur(backup)["state"] == "Ready"
    lab.erred(lab.start_backup(machine, repository="r"), reason)
    lab.host.reload({"r": table()})
    lab.assert_restores(lab.waldur(backup), saved)
