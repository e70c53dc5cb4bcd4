"""The paths that the administrator names: a restore or a copy never touches the coffer's own files."""

import os
import signal
import sqlite3

import pytest

from helpers.api import ok
from helpers.daemon import slow_writes
from helpers.disks import MIB, assert_same_bytes
from helpers.lab import INSTANCES, Lab
from helpers.wait import wait_for

ROOTS = '[volumes]\nroots = ["{base}"]\n'


@pytest.fixture
def own(start_daemon):
    """The roots include the state directory, as with `roots = ["/"]`."""
    return Lab(start_daemon(ROOTS))


def finished(lab, answer):
    task = f"/ops/tasks/{ok(answer, 202)['task']}/"
    wait_for(lambda: lab.get(task)["state"] != "running", "the task ends")
    return lab.get(task)


@pytest.mark.parametrize("name", ["coffer.db", "coffer.db-wal", "admin.token", "coffer.lock"])
def test_nothing_is_restored_over_the_coffer(own, name):
    disk = own.disk(64 << 10)
    own.disk(64 << 10)
    vm = own.instance([disk])
    backup = own.backup(vm)
    os.symlink(own.d.state_dir / name, own.d.root / "link")
    for target in (own.d.state_dir / name, own.d.root / "link", own.d.state_dir / "restored" / ".." / name):
        answer = own.api.post("/ops/restores/", {"backup": backup["uuid"], "path": str(target), "mode": "overwrite"})
        assert list(ok(answer, 400)) == ["path"]
    assert own.get(backup)["state"] == "Ready"
    own.d.restart()
    assert own.get(backup)["state"] == "Ready"
    assert_same_bytes(disk, restored(own, backup))


def restored(lab, backup):
    out = lab.d.root / "out.img"
    assert finished(lab, lab.api.post("/ops/restores/", {"backup": backup["uuid"], "path": str(out), "mode": "create"}))["state"] == "done"
    return out


def test_nothing_new_is_put_beside_the_coffer(own):
    backup = own.backup(own.instance([64 << 10]))
    target = str(own.d.state_dir / "coffer.db-journal")
    for path, body in (("/ops/restores/", {"backup": backup["uuid"], "path": target, "mode": "create"}), ("/ops/snapshot/", {"path": target})):
        assert list(ok(own.api.post(path, body), 400)) == ["path"]
    assert not os.path.exists(target)


def test_a_copy_may_lie_beside_the_coffer(own):
    """It is the one directory that the hardened service may write to."""
    own.backup(own.instance([64 << 10]))
    copy = own.d.state_dir / "copy.db"
    assert finished(own, own.api.post("/ops/snapshot/", {"path": str(copy)}))["result"]["bytes"] == copy.stat().st_size


def test_the_coffer_is_no_volume(own):
    for path in (own.d.coffer, own.d.state_dir / "admin.token"):
        body = {"name": "self", "project": own.project["url"], "volumes": [{"path": str(path)}]}
        assert list(ok(own.api.post(INSTANCES, body), 400)) == ["volumes"]
        assert list(ok(own.api.post("/ops/volumes/", {"path": str(path), "project": own.project["uuid"]}), 400)) == ["path"]


def test_another_name_of_the_coffer_is_the_coffer(own):
    backup = own.backup(own.instance([64 << 10]))
    link = own.d.root / "hard.img"
    os.link(own.d.coffer, link)
    assert list(ok(own.api.post("/ops/volumes/", {"path": str(link), "project": own.project["uuid"]}), 400)) == ["path"]
    order = {"backup": backup["uuid"], "path": str(link), "mode": "overwrite"}
    assert list(ok(own.api.post("/ops/restores/", order), 400)) == ["path"]


def test_a_refused_path_costs_the_coffer_no_lock(own):
    """A process that closes a file it has locked loses the locks (fcntl(2)), and the WAL is the next reader's to remove."""
    for name in ("coffer.db", "coffer.db-shm", "coffer.db-wal"):
        path = str(own.d.state_dir / name)
        ok(own.api.post("/ops/volumes/", {"path": path, "project": own.project["uuid"]}), 400)
        ok(own.api.post("/ops/snapshot/", {"path": path}), 400)
    sqlite3.connect(own.d.coffer).execute("SELECT count(*) FROM backup").connection.close()
    backup = own.backup(own.instance([64 << 10]))
    own.d.restart(kill=True)
    assert own.get(backup)["state"] == "Ready"


def test_a_reload_does_not_move_the_coffer(own):
    own.d.configure(f'state_directory = "{own.d.root}/elsewhere"\n' + ROOTS)
    os.kill(own.d.pid, signal.SIGHUP)
    wait_for(lambda: "configuration reloaded" in own.d.log(), "the reload")
    ok(own.api.post("/ops/volumes/", {"path": str(own.d.coffer), "project": own.project["uuid"]}), 400)


def test_restored_volumes_can_be_backed_up_and_restored_over(own):
    """They lie below the state directory, too."""
    disk = own.disk(64 << 10)
    backup = own.backup(own.instance([disk]))
    new = own.restore(backup)
    assert own.backup(new)["state"] == "Ready"
    (target,) = own.volume_files(new)
    assert target.is_relative_to(own.d.state_dir)
    order = {"backup": backup["uuid"], "path": str(target), "mode": "overwrite"}
    assert finished(own, own.api.post("/ops/restores/", order))["state"] == "done"
    assert_same_bytes(disk, target)


@pytest.mark.parametrize("how", ["kill", "term"])
def test_a_registered_disk_that_was_overwritten_by_half_is_in_error(start_daemon, how):
    """As after a restore through Cinder: it would be taken for good, and be in the next backup. Overwriting it again mends it."""
    daemon = start_daemon("shutdown_deadline_s = 1\n[engine]\nworkers = 1\n" + ROOTS, start=False)
    daemon.wrapper = slow_writes(daemon.root / "slow.img", "500ms")
    lab = Lab(daemon.start())
    disk, target = lab.disk(48 * MIB), lab.disk(48 * MIB, name="slow.img")
    vm, backup = lab.instance([target]), lab.backup(lab.instance([disk]))
    order = {"backup": backup["uuid"], "path": str(target), "mode": "overwrite"}
    before = target.read_bytes()
    ok(lab.api.post("/ops/restores/", order), 202)
    assert lab.get(vm)["volumes"][0]["state"] == "restoring-backup"
    wait_for(lambda: target.read_bytes() != before, "the restore has begun to write")
    daemon.interrupt(how)
    volume, = lab.get(vm)["volumes"]
    assert volume["state"] == "error_restoring" and "interrupted" in volume["error_message"] and str(target) not in volume["error_message"]
    assert finished(lab, lab.api.post("/ops/restores/", order))["state"] == "done"
    volume, = lab.get(vm)["volumes"]
    assert (volume["state"], volume["error_message"]) == ("available", "")
    assert_same_bytes(disk, target)


def test_two_restores_over_one_file_come_one_after_the_other(start_daemon):
    """Also where no volume is registered, which nobody can register meanwhile: it would hold some of the one and some of the other."""
    daemon = start_daemon("[engine]\njobs = 2\nworkers = 1\n" + ROOTS, start=False)
    daemon.wrapper = slow_writes(daemon.root / "slow.img", "100ms")
    lab = Lab(daemon.start())
    disks = [lab.disk(8 * MIB), lab.disk(8 * MIB)]
    backups = [lab.backup(lab.instance([disk])) for disk in disks]
    target = lab.disk(8 * MIB, name="slow.img")
    orders = [{"backup": b["uuid"], "path": str(target), "mode": "overwrite"} for b in backups]
    answers = [lab.api.post("/ops/restores/", order) for order in orders]
    refused = ok(lab.api.post("/ops/volumes/", {"path": str(target), "project": lab.project["uuid"]}), 400)
    assert "restored to" in refused["path"][0]
    assert [finished(lab, answer)["state"] for answer in answers] == ["done", "done"]
    assert_same_bytes(disks[1], target)
    ok(lab.api.post("/ops/volumes/", {"path": str(target), "project": lab.project["uuid"]}), 201)
