"""A volume that changes hands while work on it runs or waits: nothing is done to it that nobody wants any more, and nobody waits
for what will never be done."""

import pytest

from helpers.api import ok
from helpers.cinder import empty, fault, plain
from helpers.daemon import slow_reads, slow_writes
from helpers.disks import MIB, assert_same_bytes
from helpers.wait import wait_for


@pytest.fixture
def read(braked):
    """A volume that a slow copy reads. It stays available meanwhile, but what else concerns it waits."""
    lab = braked(slow_reads, "slow.img")
    lab.slow = lab.registered(8 * MIB, "slow.img")
    lab.copy = copy(lab)
    return lab


def copy(lab):
    return ok(lab.member.post("/volumes", {"volume": {"size": 1, "source_volid": lab.slow["id"]}}), 202)["volume"]


def test_a_reset_calls_a_deletion_off(read):
    """Else the volume would be shown available, take orders, and be erased."""
    other = read.registered(8 * MIB)
    backup = read.member.backup(other)
    empty(read.member.delete(f"/volumes/{read.slow['id']}"))
    assert read.member.volume(read.slow)["status"] == "deleting"
    read.admin.volume_action(read.slow, "os-reset_status", {"status": "available"})
    read.member.start_restore(backup, volume_id=read.slow["id"])
    read.member.wait_volume(read.copy)
    read.member.wait_volume(read.slow)
    read.member.wait(backup)
    assert_same_bytes(read.path(other), read.path(read.slow))
    read.member.remove_volume(read.slow)


def test_what_was_promised_on_a_volume_that_goes_is_settled(read):
    """Whatever has let it be promised: no backup stays restoring, no new volume creating, no task running."""
    backup = read.member.backup(read.registered())
    empty(read.member.delete(f"/volumes/{read.slow['id']}"))
    state = lambda state: read.d.sql("UPDATE volume SET state = ? WHERE uuid = ?", (state, plain(read.slow["id"])))  # noqa: E731
    state("available")
    second = copy(read)
    over = {"backup": plain(backup["id"]), "path": str(read.path(read.slow)), "mode": "overwrite"}
    task = f"/ops/tasks/{ok(read.api.post('/ops/restores/', over), 202)['task']}/"
    state("deleting")
    assert (read.member.status(backup), read.member.volume(second)["status"]) == ("restoring", "creating")
    read.member.wait_volume_gone(read.slow)
    assert read.member.volume(read.copy)["status"] == "available"
    assert read.member.volume(second)["status"] == "error"
    wait_for(lambda: read.get(task)["state"] == "failed", "the task ends")
    assert "has been deleted" in read.get(task)["error_message"] and "has been deleted" in read.member.wait(backup)["fail_reason"]
    read.member.remove_volume(second)
    read.member.remove(backup)


def test_a_volume_that_is_deleted_by_force_while_it_is_restored_goes(braked):
    """The end of the restore does not call it available, which would call the deletion off."""
    lab = braked(slow_writes, "target.img")
    target, backup = lab.registered(8 * MIB, "target.img"), lab.member.backup(lab.registered(8 * MIB))
    lab.member.start_restore(backup, volume_id=target["id"])
    lab.admin.volume_action(target, "os-force_delete")
    fault(lab.member.post("/volumes", {"volume": {"size": 1, "source_volid": target["id"]}}), 400)
    lab.admin.wait_volume_gone(target)
    lab.member.wait(backup)


def test_a_deletion_that_cannot_be_recorded_holds_up_no_other(own):
    """It used to be tried again for ever by the one worker that deletes."""
    volume, backup = own.admin.create_volume(1), own.member.backup(own.registered())
    own.d.sql(f"CREATE TRIGGER mine BEFORE DELETE ON volume WHEN old.uuid = '{plain(volume['id'])}' BEGIN SELECT raise(ABORT, 'mine'); END")
    empty(own.member.delete(f"/volumes/{volume['id']}"))
    own.member.wait_volume(volume, "error_deleting")
    own.member.remove(backup)
    own.d.sql("DROP TRIGGER mine")
    own.admin.volume_action(volume, "os-force_delete")
    own.admin.wait_volume_gone(volume)


@pytest.mark.parametrize("state, after", [("creating", "error"), ("extending", "error_extending")])
def test_a_volume_that_nobody_is_at_work_on_does_not_wait_for_ever(own, state, after):
    volume = own.admin.create_volume(1)
    own.d.stop()
    own.d.sql("UPDATE volume SET state = ?", (state,))
    own.d.start()
    assert own.member.volume(volume)["status"] == after
    own.member.remove_volume(volume)
