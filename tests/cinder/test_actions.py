"""Actions of an administrator: reset the status, force the deletion, and by these stop what is running (Cinder contract 1.8)."""

import pytest

from faults.bench import inject
from helpers.api import ok
from helpers.cinder import NOBODY, CinderLab, assert_restored, assert_same_disk, empty, fault, fill
from helpers.daemon import slow_reads, slow_writes
from helpers.disks import MIB, assert_same_bytes
from helpers.wait import wait_for


@pytest.fixture(scope="module")
def volume(shared):
    return shared.filled()


@pytest.fixture(scope="module")
def backup(shared, volume):
    return shared.member.backup(volume)


def act(client, backup, body):
    return client.post(f"/backups/{backup if isinstance(backup, str) else backup['id']}/action", body)


# -------------------------------------------------------------------- bodies


@pytest.mark.parametrize("body", [
    {}, {"os-reset_status": {"status": "error"}, "os-force_delete": {}}, {"os-reset": {}}, {"reset_status": {"status": "error"}},
    {"os-reset_status": None}, {"os-reset_status": {}}, {"os-reset_status": "error"}, {"os-reset_status": []},
    {"os-reset_status": {"status": None}}, {"os-reset_status": {"status": ""}}, {"os-reset_status": {"status": 1}},
    {"os-reset_status": {"status": "creating"}}, {"os-reset_status": {"status": "deleting"}},
    {"os-reset_status": {"status": "restoring"}}, {"os-reset_status": {"status": "error_restoring"}},
    {"os-reset_status": {"status": "error_deleting"}}, {"os-reset_status": {"status": "error "}},
    {"os-reset_status": {"status": "error", "reason": "x"}}, {"os-reset_status": {"state": "error"}},
    {"os-reset_status": {"status": "error"}, "other": 1}, {"os-force_delete": {}, "x": 1}, {"OS-FORCE_DELETE": {}},
], ids=lambda b: str(b)[:60])
def test_bodies_that_break_the_schema(shared, backup, body):
    """Exactly one known key, and `available` or `error` in it. Before the id or the role is looked at (0.3)."""
    before = shared.member.show(backup)
    for client in (shared.admin, shared.member, shared.reader):
        fault(act(client, backup, body), 400)
        fault(act(client, NOBODY, body), 400)
    assert shared.member.show(backup) == before


@pytest.mark.parametrize("body", [{"os-reset_status": {"status": "error"}}, {"os-force_delete": {}}, {"os-force_delete": None}], ids=str)
def test_actions_are_for_administrators(shared, backup, body):
    """Cinder contract 0.3: 403 on one's own backup, 404 on an unknown one and on another project's."""
    other, before = CinderLab(shared.d), shared.member.show(backup)
    for client in (shared.member, shared.client("admin"), shared.reader):
        fault(act(client, backup, body), 403)
        fault(act(client, NOBODY, body), 404)
    fault(act(other.member, backup, body), 404)
    fault(act(shared.admin, NOBODY, body), 404)
    assert shared.member.show(backup) == before


# -------------------------------------------------------------------- reset


@pytest.mark.parametrize("status", ["error", "ERROR", "Error", "eRRoR"])
def test_reset_has_no_case(shared, backup, status):
    for given in (status, status.replace("r", "R")):
        empty(act(shared.admin, backup, {"os-reset_status": {"status": given}}))
        assert shared.member.status(backup) == "error"
    empty(act(shared.admin, backup, {"os-reset_status": {"status": "AvailAble"}}))
    assert shared.member.status(backup) == "available"


def test_reset_changes_the_status_only(lab):
    volume = lab.filled(1, [(0, 2 * MIB)])
    backup = lab.member.backup(volume, name="n", metadata={"a": "b"})
    lab.admin.reset(backup, "error")
    broken = lab.member.show(backup)
    assert {k: v for k, v in broken.items() if k not in ("status", "updated_at")} == {
        k: v for k, v in backup.items() if k not in ("status", "updated_at")
    }
    fault(lab.member.post(f"/backups/{backup['id']}/restore", {"restore": {}}), 400)
    lab.admin.reset(backup, "error")
    lab.admin.reset(backup, "available")
    lab.admin.reset(backup, "available")
    assert_same_disk(lab.path(volume), lab.path(lab.member.restore(backup)))


def test_a_backup_without_data_does_not_become_available(lab):
    """What is called available can be restored; that comes first."""
    volume = lab.registered()
    disk = lab.path(volume)
    disk.rename(disk.with_suffix(".away"))
    failed = lab.member.wait(lab.member.create(volume), "error")
    fault(act(lab.admin, failed, {"os-reset_status": {"status": "available"}}), 400)
    assert lab.member.show(failed)["status"] == "error"
    empty(act(lab.admin, failed, {"os-reset_status": {"status": "error"}}))
    assert lab.member.show(failed)["fail_reason"] == failed["fail_reason"]


def test_a_child_and_its_parent_can_be_reset(lab):
    volume = lab.filled()
    parent = lab.member.backup(volume)
    child = lab.member.backup(volume, incremental=True)
    lab.admin.reset(parent, "error")
    assert lab.member.status(child) == "available"
    assert_same_disk(lab.path(volume), lab.path(lab.member.restore(child)))
    lab.admin.reset(parent, "available")
    lab.admin.reset(child, "error")
    assert lab.member.show(parent)["has_dependent_backups"] is True


# -------------------------------------------------------------------- force delete


@pytest.mark.parametrize("value", [None, {}, "now", {"a": 1}, [], True], ids=str)
def test_force_delete_takes_any_value(shared, volume, value):
    backup = shared.member.backup(volume)
    empty(act(shared.admin, backup, {"os-force_delete": value}))
    shared.member.wait_gone(backup)


def test_force_delete_does_not_look_at_the_status(lab):
    volume = lab.admin.create_volume(1)
    for status in ("error", "available"):
        backup = lab.member.backup(volume)
        lab.admin.reset(backup, status)
        lab.admin.force_delete(backup)
        lab.member.wait_gone(backup)
    assert lab.admin.usage()[:2] == (0, 0)


def test_dependants_forbid_it(lab):
    """Cinder contract 1.8, 6.3."""
    volume = lab.admin.create_volume(1)
    base = lab.member.backup(volume)
    child = lab.member.backup(volume, incremental=True)
    lab.admin.reset(base, "error")
    fault(act(lab.admin, base, {"os-force_delete": {}}), 400)
    assert lab.member.status(base) == "error"
    lab.admin.force_delete(child)
    lab.member.wait_gone(child)
    lab.admin.force_delete(base)
    lab.member.wait_gone(base)


# -------------------------------------------------------------------- stopping what is running


@pytest.fixture
def slow(braked):
    """Reading slow.img and writing to target.img take seconds."""
    def start(wrapper, name, size=16 * MIB):
        lab = braked(wrapper, name, config="[engine]\njobs = 4")
        lab.slow = lab.registered(size, name)
        return lab
    return start


def test_force_delete_stops_a_running_create(slow):
    """Cinder contract 1.8, 6.2: the backup goes, and the volume becomes what it was."""
    lab = slow(slow_reads, "slow.img", 64 * MIB)
    backup = lab.member.create(lab.slow)
    lab.member.wait(backup, "creating")
    assert lab.member.volume(lab.slow)["status"] == "backing-up"
    lab.admin.force_delete(backup)
    answer = lab.member.get(f"/backups/{backup['id']}")
    assert answer.status_code == 404 or ok(answer)["backup"]["status"] == "deleting"
    lab.member.wait_gone(backup, timeout=15)
    lab.member.wait_volume(lab.slow, timeout=15)
    assert lab.admin.usage()[:2] == (0, 0) and lab.member.ids() == []
    lab.d.stop()
    lab.d.wrapper = []
    lab.d.start()
    assert lab.member.volume(lab.slow)["status"] == "available" and lab.member.ids() == []
    again = lab.member.backup(lab.slow)
    assert_restored(lab.path(lab.slow), lab.path(lab.member.restore(again)))
    lab.member.remove(again)
    lab.gc()
    assert lab.stored() == 0


def test_force_delete_of_a_running_create_leaves_a_volume_in_use(slow):
    """Cinder contract 6.2: back to the previous status, in-use too."""
    lab = slow(slow_reads, "busy.img", 32 * MIB)
    lab.admin.volume_action(lab.slow, "os-attach", {"host_name": "here", "mountpoint": "/mnt"})
    lab.admin.wait_volume(lab.slow, "in-use")
    backup = lab.member.create(lab.slow, force=True)
    lab.admin.force_delete(backup)
    lab.member.wait_gone(backup, timeout=15)
    lab.member.wait_volume(lab.slow, "in-use", timeout=15)


def test_a_cancelled_child_frees_its_parent(slow):
    lab = slow(slow_reads, "slow.img", 8 * MIB)
    base = lab.member.backup(lab.slow)
    fill(lab.path(lab.slow), [(0, 8 * MIB)])
    child = lab.member.create(lab.slow, incremental=True)
    fault(act(lab.admin, base, {"os-force_delete": {}}), 400)
    lab.admin.force_delete(child)
    lab.member.wait_gone(child, timeout=15)
    lab.member.wait_volume(lab.slow, timeout=15)
    lab.member.remove(base)


@pytest.mark.parametrize("status", ["available", "error"])
def test_reset_stops_a_running_restore(slow, status):
    """Cinder contract 1.8, 6.2: the target is in error, the backup available at the end, and can be restored again."""
    lab = slow(slow_writes, "target.img")
    source = lab.registered(16 * MIB)
    backup = lab.member.backup(source)
    lab.member.start_restore(backup, volume_id=lab.slow["id"])
    lab.member.wait(backup, "restoring")
    lab.member.wait_volume(lab.slow, "restoring-backup")
    lab.admin.reset(backup, status)
    lab.member.wait_volume(lab.slow, "error", timeout=20)
    if status == "error":
        assert lab.member.status(backup) in ("error", "available")
        lab.admin.reset(backup, "available")
    lab.member.wait(backup)
    lab.d.stop()
    lab.d.wrapper = []
    lab.d.start()
    assert lab.member.volume(lab.slow)["status"] == "error"
    lab.admin.volume_action(lab.slow, "os-reset_status", {"status": "available"})
    lab.member.restore(backup, volume_id=lab.slow["id"])
    assert_same_bytes(lab.path(source), lab.path(lab.slow))


def test_a_stopped_restore_does_not_write_on(slow):
    """When the target is shown in error nobody writes to it any more: it may be reset and used at once."""
    lab = slow(slow_writes, "target.img")
    backup = lab.member.backup(lab.registered(16 * MIB))
    lab.member.start_restore(backup, volume_id=lab.slow["id"])
    lab.member.wait(backup, "restoring")
    lab.admin.reset(backup, "available")
    lab.member.wait_volume(lab.slow, "error", timeout=20)
    own = lab.path(lab.slow)
    fill(own, [(0, 16 * MIB)], seed="mine")
    wanted = own.read_bytes()
    wait_for(lambda: lab.member.status(backup) == "available", "the backup is at rest")
    lab.admin.volume_action(lab.slow, "os-reset_status", {"status": "available"})
    new = lab.member.restore(lab.member.backup(lab.slow))
    with open(lab.path(new), "rb") as f:
        assert f.read(16 * MIB) == wanted
    assert own.read_bytes() == wanted


@pytest.mark.parametrize("way", ["restore", "volume from backup"])
def test_reset_stops_a_restore_to_a_new_volume(start_daemon, way):
    """Cinder contract 1.8, 6.2: the new volume is in error and can be deleted, its room comes back."""
    lab = CinderLab(start_daemon())
    source = lab.filled(1, [(0, 32 * MIB)])
    backup = lab.member.backup(source)
    lab.d.stop()
    lab.d.wrapper = inject("pread64:delay_enter=20ms", lab.d.coffer)
    lab.d.start()
    if way == "restore":
        target = lab.member.start_restore(backup, name="new")["volume_id"]
    else:
        target = ok(lab.member.post("/volumes", {"volume": {"backup_id": backup["id"]}}), 202)["volume"]["id"]
    assert lab.member.status(backup) == "restoring"
    lab.admin.reset(backup, "available")
    lab.member.wait_volume(target, "error", timeout=20)
    lab.member.wait(backup)
    path = lab.path(target)
    lab.member.remove_volume(target)
    assert not path.exists() and lab.admin.usage() == (1, 1, 1, 1)
    lab.d.stop()
    lab.d.wrapper = []
    lab.d.start()
    assert_same_disk(lab.path(source), lab.path(lab.member.restore(backup)))


def test_the_end_of_a_stopped_restore_is_not_that_of_the_next(slow):
    """A backup that was reset and is restored once more stays restoring until that one ends."""
    lab = slow(slow_writes, "target.img", 64 * MIB)
    backup = lab.member.backup(lab.registered(64 * MIB))
    lab.member.start_restore(backup, volume_id=lab.slow["id"])
    lab.admin.reset(backup, "available")
    second = lab.member.start_restore(backup, name="second")["volume_id"]
    lab.member.wait_volume(lab.slow, "error")
    while (status := lab.member.status(backup)) != "available":
        assert status == "restoring"
    assert lab.member.volume(second)["status"] == "available"


def test_what_waits_for_its_turn_can_be_stopped(braked):
    """A create and a restore that have not begun yet: they go at once, without waiting for the job before them."""
    lab = braked(slow_reads, "slow.img", delay="500ms", config="[engine]\njobs = 1")
    ready, volume, target = lab.member.backup(lab.filled()), lab.filled(), lab.filled()
    slow = lab.member.create(lab.registered(32 * MIB, "slow.img"))
    waiting = lab.member.create(volume)
    lab.member.start_restore(ready, volume_id=target["id"])
    assert (lab.member.status(waiting), lab.member.status(ready)) == ("creating", "restoring")
    lab.admin.force_delete(waiting)
    lab.admin.reset(ready, "available")
    lab.admin.force_delete(slow)
    for gone in (waiting, slow):
        lab.member.wait_gone(gone, timeout=15)
    assert lab.member.wait_volume(volume)
    lab.member.wait(ready)
    lab.member.wait_volume(target, "error")
    assert lab.member.ids() == [ready["id"]] and lab.admin.usage()[:2] == (1, 1)


def test_forced_deletions_at_once(slow):
    """Each is accepted or finds nothing any more; the backup goes once."""
    lab = slow(slow_reads, "slow.img", 32 * MIB)
    backup = lab.member.create(lab.slow)
    answers = [act(lab.admin, backup, {"os-force_delete": {}}) for _ in range(4)]
    empty(answers[0])
    assert all(a.status_code in (202, 400, 404) for a in answers)
    lab.member.wait_gone(backup, timeout=15)
    lab.member.wait_volume(lab.slow, timeout=15)
    assert lab.admin.usage()[:2] == (0, 0)


def test_force_delete_of_a_backup_that_is_being_restored(slow):
    """Cinder contract 6.3: any state. The target does not stay restoring-backup, and is not called good."""
    lab = slow(slow_writes, "target.img")
    source = lab.registered(16 * MIB)
    backup = lab.member.backup(source)
    lab.member.start_restore(backup, volume_id=lab.slow["id"])
    lab.member.wait(backup, "restoring")
    answer = act(lab.admin, backup, {"os-force_delete": {}})
    empty(answer)
    lab.member.wait_gone(backup, timeout=20)
    after = wait_for(
        lambda: (v := lab.member.volume(lab.slow))["status"] != "restoring-backup" and v, "the target comes to rest", 20
    )
    if after["status"] == "available":
        assert_same_bytes(lab.path(source), lab.path(lab.slow))
    else:
        assert after["status"] in ("error", "error_restoring")
