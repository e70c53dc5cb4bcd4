"""States as an observer sees them, and after the daemon was stopped or killed in the middle (Cinder contract 6.2, 6.3, 6.4)."""

import os
import random

import pytest

from faults.bench import inject
from helpers.api import ok
from helpers.cinder import CinderLab, assert_restored, assert_same_disk, empty, fault, fill, keep
from helpers.daemon import slow_reads, slow_writes
from helpers.disks import MIB, assert_same_bytes
from helpers.wait import wait_for


@pytest.fixture
def slow(braked):
    """A daemon on which reading slow.img and writing to target.img takes seconds."""
    def start(wrapper, name, size=16 * MIB):
        lab = braked(wrapper, name, delay="500ms", config="shutdown_deadline_s = 1\n[engine]\njobs = 4")
        lab.slow = lab.registered(size, name) if size else None
        return lab
    return start


# -------------------------------------------------------------------- what an observer sees


def watch(lab, backup, volume):
    """The states of a backup and of a volume until the backup is at rest, each change once."""
    seen = []

    def look():
        now = lab.member.status(backup), lab.member.volume(volume)["status"]
        if not seen or seen[-1] != now:
            seen.append(now)
        return now[0] in ("available", "error")

    wait_for(look, "the backup is at rest", interval=0)
    return seen


def test_states_of_a_create(lab):
    volume = lab.filled(1, [(0, 16 * MIB)])
    seen = watch(lab, lab.member.create(volume), volume)
    assert {b for b, _ in seen} <= {"creating", "available"} and {v for _, v in seen} <= {"backing-up", "available"}
    assert seen[-1][0] == "available" and lab.member.wait_volume(volume)


def test_available_comes_after_the_volume_is_free(lab):
    """A client that waits for the backup uses the volume at once."""
    volume = lab.filled(1, [(0, 2 * MIB)])
    for n in range(5):
        lab.member.backup(volume, incremental=n > 0)
        assert lab.member.volume(volume)["status"] == "available"


def test_states_of_a_create_from_a_snapshot(lab):
    """The volume does not change, the snapshot is backing-up meanwhile."""
    volume = lab.filled(1, [(0, 16 * MIB)])
    snapshot = lab.admin.snapshot(volume)
    backup = lab.member.create(volume, snapshot_id=snapshot["id"])
    states = set()

    def look():
        states.add(lab.member.volume(volume)["status"])
        assert ok(lab.member.get(f"/snapshots/{snapshot['id']}"))["snapshot"]["status"] in ("available", "backing-up")
        return lab.member.status(backup) == "available"

    wait_for(look, "the backup is available", interval=0)
    assert states == {"available"}
    lab.admin.wait_snapshot(snapshot)


def test_states_of_a_restore(lab):
    source = lab.filled(1, [(0, 16 * MIB)])
    backup = lab.member.backup(source)
    target = lab.admin.create_volume(1)
    for fields in ({"volume_id": target["id"]}, {"name": "new"}):
        answer = lab.member.start_restore(backup, **fields)
        seen = watch(lab, backup, answer["volume_id"])
        assert {b for b, _ in seen} <= {"restoring", "available"}
        assert {v for _, v in seen} <= {"restoring-backup", "available"}
        lab.member.wait_volume(answer["volume_id"])
        assert lab.member.volume(source)["status"] == "available"


def test_states_of_a_failed_create(lab):
    volume = lab.registered()
    lab.path(volume).unlink()
    seen = watch(lab, lab.member.create(volume), volume)
    assert seen[-1][0] == "error" and lab.member.wait_volume(volume)
    assert {v for _, v in seen} <= {"backing-up", "available"}


def test_states_of_a_failed_restore(lab):
    """The backup is available, the target error_restoring: it can be reset, and deleted."""
    backup = lab.member.backup(lab.registered(2 * MIB))
    target = lab.registered(2 * MIB)
    disk = lab.path(target)
    away = disk.rename(disk.with_suffix(".away"))
    lab.member.start_restore(backup, volume_id=target["id"])
    lab.member.wait_volume(target, "error_restoring")
    assert lab.member.wait(backup)["fail_reason"]  # of the restore (contract 8)
    fault(lab.member.post(f"/backups/{backup['id']}/restore", {"restore": {"volume_id": target["id"]}}), 400)
    fault(lab.member.post("/backups", {"backup": {"volume_id": target["id"]}}), 400)
    away.rename(disk)
    lab.admin.volume_action(target, "os-reset_status", {"status": "available"})
    lab.member.restore(backup, volume_id=target["id"])
    disk.rename(away)
    lab.member.start_restore(backup, volume_id=target["id"])
    lab.member.wait_volume(target, "error_restoring")
    lab.member.remove_volume(target)


def test_what_is_allowed_in_error(lab):
    """Cinder contract 6.3."""
    volume = lab.filled()
    backup = lab.member.backup(volume)
    lab.admin.reset(backup, "error")
    path = f"/backups/{backup['id']}"
    fault(lab.member.post(f"{path}/restore", {"restore": {}}), 400)
    fault(lab.admin.get(f"{path}/export_record"), 400)
    fault(lab.member.post("/backups", {"backup": {"volume_id": volume["id"], "incremental": True}}), 400)
    ok(lab.member.put(path, {"backup": {"name": "x"}}))
    lab.admin.reset(backup, "error")
    empty(lab.member.delete(path))
    lab.member.wait_gone(backup)


def test_what_is_allowed_while_creating(slow):
    lab = slow(slow_reads, "slow.img", 8 * MIB)
    backup = lab.member.create(lab.slow)
    path = f"/backups/{backup['id']}"
    fault(lab.member.post(f"{path}/restore", {"restore": {}}), 400)
    fault(lab.admin.get(f"{path}/export_record"), 400)
    fault(lab.member.delete(path), 400)
    fault(lab.member.post("/backups", {"backup": {"volume_id": lab.slow["id"], "incremental": True}}), 400)
    for action in ("os-extend", "os-attach"):
        value = {"new_size": 2} if action == "os-extend" else {"host_name": "h", "mountpoint": "/m"}
        fault(lab.member.post(f"/volumes/{lab.slow['id']}/action", {action: value}), 400)
    assert lab.member.status(backup) == "creating"
    lab.member.wait(backup)


@pytest.mark.parametrize("status", ["available", "error"])
def test_a_reset_of_a_running_create(slow, status):
    """Contract 1.8 allows it in any state; but what has no data yet is not called available, and nothing is left half done."""
    lab = slow(slow_reads, "slow.img", 8 * MIB)
    backup = lab.member.create(lab.slow)
    answer = lab.admin.action(backup, "os-reset_status", {"status": status})
    if status == "available" and answer.status_code == 400:
        fault(answer, 400)
    else:
        empty(answer)
    after = lab.member.wait_rest(backup)
    if after["status"] == "available":
        assert_restored(lab.path(lab.slow), lab.path(lab.member.restore(after)))
    lab.member.wait_volume(lab.slow)
    lab.member.remove(after)
    lab.gc()
    assert lab.stored() == 0 and lab.member.ids() == []


# -------------------------------------------------------------------- restarts


@pytest.mark.parametrize("how", ["kill", "term"])
def test_restart_while_creating(slow, how):
    """Cinder contract 6.4, 9.11: error with a reason that says interrupted; the volume is what it was."""
    lab = slow(slow_reads, "slow.img")
    backup = lab.member.create(lab.slow)
    assert lab.member.status(backup) == "creating" and lab.member.volume(lab.slow)["status"] == "backing-up"
    lab.d.interrupt(how)
    after = lab.member.show(backup)
    assert after["status"] == "error" and "interrupt" in after["fail_reason"].lower()
    assert lab.member.volume(lab.slow)["status"] == "available"
    good = lab.member.backup(lab.slow)
    assert_restored(lab.path(lab.slow), lab.path(lab.member.restore(good)))
    lab.member.remove(after)
    lab.member.remove(good)
    lab.gc()
    assert lab.stored() == 0 and lab.admin.usage()[:2] == (0, 0)


def test_restart_while_creating_of_a_volume_in_use(slow):
    """Cinder contract 6.4: its previous status is in-use."""
    lab = slow(slow_reads, "slow.img")
    lab.admin.volume_action(lab.slow, "os-attach", {"host_name": "h", "mountpoint": "/m"})
    lab.member.create(lab.slow, force=True)
    assert lab.member.volume(lab.slow)["status"] == "backing-up"
    lab.d.interrupt("kill")
    assert lab.member.volume(lab.slow)["status"] == "in-use"


def test_restart_while_creating_of_a_running_machine_s_volume(slow):
    lab = slow(slow_reads, "vm.img", None)
    machine = lab.instance([lab.disk(8 * MIB, name="vm.img")])
    ok(lab.api.post(machine["url"] + "start/"), 202)
    lab.wait_state(machine["url"], "Online")
    volume, = lab.volumes_of(machine)
    assert volume["status"] == "in-use"
    lab.member.create(volume, force=True)
    assert lab.member.volume(volume)["status"] == "backing-up"
    lab.d.interrupt("kill")
    assert lab.member.volume(volume)["status"] == "in-use"
    assert lab.get(machine)["state"] == "Online"


def test_restart_while_an_incremental_one_is_made(slow):
    """The child failed and still is a child: its parent can be deleted after it only."""
    lab = slow(slow_reads, "slow.img", 4 * MIB)
    parent = lab.member.backup(lab.slow)
    fill(lab.path(lab.slow), [(0, 4 * MIB)])
    child = lab.member.create(lab.slow, incremental=True)
    lab.d.interrupt("kill")
    after = lab.member.show(child)
    assert (after["status"], after["is_incremental"]) == ("error", True)
    fault(lab.member.delete(f"/backups/{parent['id']}"), 400)
    lab.member.remove(child)
    again = lab.member.backup(lab.slow, incremental=True)
    assert_restored(lab.path(lab.slow), lab.path(lab.member.restore(again)))
    lab.member.remove(again)
    lab.member.remove(parent)


@pytest.mark.parametrize("how", ["kill", "term"])
def test_restart_while_restoring_to_an_existing_volume(slow, how):
    """Cinder contract 6.4, 9.11: the backup available, the target error_restoring."""
    lab = slow(slow_writes, "target.img", 64 * MIB)
    source = lab.registered(64 * MIB)
    backup = lab.member.backup(source)
    lab.member.start_restore(backup, volume_id=lab.slow["id"])
    lab.member.wait_volume(lab.slow, "restoring-backup")
    lab.d.interrupt(how)
    assert lab.member.status(backup) == "available"
    assert lab.member.volume(lab.slow)["status"] == "error_restoring"
    lab.admin.volume_action(lab.slow, "os-reset_status", {"status": "available"})
    lab.member.restore(backup, volume_id=lab.slow["id"])
    assert_same_bytes(lab.path(source), lab.path(lab.slow))


@pytest.mark.parametrize("way", ["restore", "volume from backup"])
def test_restart_while_restoring_to_a_new_volume(start_daemon, way):
    """Cinder contract 6.2, 6.4: error_restoring, or error if it was made by POST /volumes; deletable, and its file goes."""
    lab = CinderLab(start_daemon("shutdown_deadline_s = 1"))
    source = lab.filled(1, [(0, 32 * MIB)])
    backup = lab.member.backup(source)
    lab.d.stop()
    lab.d.wrapper = inject("pread64:delay_enter=30ms", lab.d.coffer)
    lab.d.start()
    if way == "restore":
        target = lab.member.start_restore(backup, name="new")["volume_id"]
    else:
        target = ok(lab.member.post("/volumes", {"volume": {"backup_id": backup["id"], "name": "new"}}), 202)["volume"]["id"]
    lab.d.kill()
    lab.d.wrapper = []
    lab.d.start()
    assert lab.member.status(backup) == "available"
    assert lab.member.volume(target)["status"] == ("error_restoring" if way == "restore" else "error")
    lab.member.remove_volume(target)
    assert_same_disk(lab.path(source), lab.path(lab.member.restore(backup)))
    assert lab.admin.usage()[2:] == (2, 2)


def test_restart_while_deleting(own):
    """Cinder contract 6.4: resumed."""
    volume = own.filled(1, [(0, 8 * MIB)])
    for _ in range(4):
        backup = own.member.backup(volume)
        empty(own.member.delete(f"/backups/{backup['id']}"))
        own.d.restart(kill=True)
        own.member.wait_gone(backup)
    own.gc()
    assert own.stored() == 0 and own.admin.usage()[:2] == (0, 0)


def test_restart_after_a_forced_deletion_of_a_running_create(slow):
    """The deletion was promised: it is kept, and the volume is free."""
    lab = slow(slow_reads, "slow.img")
    backup = lab.member.create(lab.slow)
    lab.admin.force_delete(backup)
    lab.d.interrupt("kill")
    lab.member.wait_gone(backup)
    lab.member.wait_volume(lab.slow)
    assert lab.admin.usage()[:2] == (0, 0)


def test_restart_after_a_reset_of_a_running_restore(slow):
    lab = slow(slow_writes, "target.img")
    backup = lab.member.backup(lab.registered(16 * MIB))
    lab.member.start_restore(backup, volume_id=lab.slow["id"])
    lab.member.wait(backup, "restoring")
    lab.admin.reset(backup, "available")
    lab.d.interrupt("kill")
    assert lab.member.status(backup) == "available"
    assert lab.member.volume(lab.slow)["status"] in ("error", "error_restoring")


def test_what_waits_for_its_turn_is_not_lost_silently(braked):
    """Backups that had not begun when the daemon was killed."""
    lab = braked(slow_reads, "slow.img", delay="500ms", config="[engine]\njobs = 1")
    volumes = [lab.registered(8 * MIB, "slow.img"), *(lab.filled() for _ in range(3))]
    backups = [lab.member.create(v) for v in volumes]
    lab.d.interrupt("kill")
    for backup, volume in zip(backups, volumes, strict=True):
        after = lab.member.wait_rest(backup)
        assert after["status"] == "available" or after["status"] == "error" and after["fail_reason"]
        assert lab.member.wait_volume(volume)
        if after["status"] == "available":
            assert_restored(lab.path(volume), lab.path(lab.member.restore(after)))


def test_everything_is_there_after_a_clean_restart(own):
    volume = own.filled(metadata={"a": "b"})
    parent = own.member.backup(volume, name="n", description="d", container="c", metadata={"k": "v"})
    own.member.backup(volume, incremental=True)
    own.admin.reset(own.member.backup(own.admin.create_volume(1)), "error")
    own.admin.set_quota(backups=7)

    def world():
        shown = own.admin.list()
        for backup in shown:
            del backup["links"]
        return shown, own.admin.usage(), ok(own.admin.get(f"/os-quota-sets/{own.project['uuid']}")), own.admin.record(parent)

    before = world()
    assert own.d.stop() == 0
    own.d.start()
    assert world() == before


def test_kills_at_random_moments(own):
    """Whatever is available after a kill restores byte for byte, and nothing stays in between."""
    rounds = 60 if os.environ.get("COFFERD_LONG") else 6
    seed = int(os.environ.get("COFFERD_SEED", random.randrange(10**6)))
    print(f"COFFERD_SEED={seed}")
    rng = random.Random(seed)
    volume = own.filled(1, [(0, 24 * MIB)])
    path, known = own.path(volume), {}
    for n in range(rounds):
        fill(path, [(rng.randrange(23) * MIB, MIB)], rng.random())
        incremental = any(own.member.status(i) == "available" for i in known)
        backup = own.member.create(volume, incremental=incremental)
        own.member.wait(backup) if rng.random() < 0.3 else None
        for _ in range(rng.randrange(8)):
            own.member.get("/backups/detail")
        own.d.restart(kill=True)
        after = own.member.show(backup)
        assert after["status"] in ("available", "error"), after
        assert own.member.volume(volume)["status"] == "available"
        if after["status"] == "available":
            known[backup["id"]] = keep(path, own.d.base / f"copy{n}")
        else:
            assert after["fail_reason"]
    for ident, copy in known.items():
        new = own.member.restore(ident)
        assert_same_disk(copy, own.path(new))
        own.member.remove_volume(new)
    assert own.admin.usage()[2:] == (1, 1)
