"""Delete: what is refused, and that the room comes back and nothing else goes (Cinder contract 1.6)."""

from helpers.api import ok
from helpers.cinder import NOBODY, CinderLab, assert_same_disk, empty, fault, fill, keep
from helpers.daemon import slow_reads
from helpers.disks import MIB
from helpers.wait import wait_for


def test_delete_is_202_without_a_body_and_then_404(lab):
    volume = lab.admin.create_volume(1)
    backup = lab.member.backup(volume)
    empty(lab.member.delete(f"/backups/{backup['id']}"))
    lab.member.wait_gone(backup)
    assert lab.member.ids() == [] and lab.admin.usage()[:2] == (0, 0)
    for answer in (
        lab.member.get(f"/backups/{backup['id']}"), lab.member.delete(f"/backups/{backup['id']}"),
        lab.member.put(f"/backups/{backup['id']}", {"backup": {"name": "x"}}),
        lab.member.post(f"/backups/{backup['id']}/restore", {"restore": {}}),
        lab.admin.action(backup, "os-reset_status", {"status": "available"}), lab.admin.action(backup, "os-force_delete", {}),
        lab.admin.get(f"/backups/{backup['id']}/export_record"),
    ):
        fault(answer, 404)
    assert lab.member.volume(volume)["status"] == "available"


def test_deleting_is_all_that_is_seen_in_between(lab):
    """Cinder contract 6.2."""
    backup = lab.member.backup(lab.filled(1, [(0, 8 * MIB)]))
    empty(lab.member.delete(f"/backups/{backup['id']}"))

    def look():
        answer = lab.member.get(f"/backups/{backup['id']}")
        if answer.status_code == 404:
            return True
        assert ok(answer)["backup"]["status"] == "deleting"
        return False

    wait_for(look, "the backup is gone", interval=0)


def test_unknown_and_of_another_project(lab):
    other = CinderLab(lab.d)
    backup = other.member.backup(other.admin.create_volume(1))
    fault(lab.member.delete(f"/backups/{NOBODY}"), 404)
    fault(lab.member.delete(f"/backups/{backup['id']}"), 404)
    fault(lab.reader.delete(f"/backups/{backup['id']}"), 404)
    assert other.member.show(backup) == backup


def test_a_failed_backup_can_be_deleted(lab):
    volume = lab.registered()
    lab.path(volume).unlink()
    failed = lab.member.wait(lab.member.create(volume), "error")
    lab.member.remove(failed)
    backup = lab.member.backup(lab.admin.create_volume(1))
    lab.admin.reset(backup, "error")
    lab.member.remove(backup)


def test_one_that_is_being_made_or_restored_cannot(braked):
    """Cinder contract 1.6, 6.3."""
    lab = braked(slow_reads, "slow.img")
    backup = lab.member.create(lab.registered(8 * MIB, "slow.img"))
    fault(lab.member.delete(f"/backups/{backup['id']}"), 400)
    assert lab.member.status(backup) == "creating"
    lab.member.wait(backup)
    lab.member.remove(backup)


def test_a_parent_cannot_be_deleted(lab):
    """Cinder contract 1.6, 7: whatever the state of the child; clients and the documentation expect it."""
    volume = lab.filled()
    base = lab.member.backup(volume)
    child = lab.member.backup(volume, incremental=True)
    for status in ("available", "error"):
        lab.admin.reset(child, status)
        fault(lab.member.delete(f"/backups/{base['id']}"), 400)
        fault(lab.admin.delete(f"/backups/{base['id']}"), 400)
        fault(lab.admin.action(base, "os-force_delete", {}), 400)
        assert lab.member.status(base) == "available"
    lab.admin.reset(base, "error")
    fault(lab.member.delete(f"/backups/{base['id']}"), 400)
    lab.member.remove(child)
    lab.member.remove(base)


def test_a_parent_cannot_be_deleted_while_its_child_is_being_made(start_daemon):
    """Cinder contract 1.6: the child need not be finished."""
    daemon = start_daemon()
    lab = CinderLab(daemon)
    volume = lab.registered(8 * MIB, "slow.img")
    base = lab.member.backup(volume)
    daemon.stop()
    daemon.wrapper = slow_reads(daemon.root / "slow.img", "300ms")
    daemon.start()
    fill(lab.path(volume), [(0, 8 * MIB)])
    child = lab.member.create(volume, incremental=True)
    fault(lab.member.delete(f"/backups/{base['id']}"), 400)
    assert lab.member.status(child) == "creating"
    lab.member.wait(child)
    assert lab.member.show(base)["has_dependent_backups"] is True
    fault(lab.member.delete(f"/backups/{base['id']}"), 400)


def test_full_backups_of_one_volume_go_in_any_order(lab):
    """They share data; what one still needs stays."""
    volume = lab.filled(1, [(0, 2 * MIB), (5 * MIB, MIB)])
    copies, backups = [], []
    for n in range(3):
        fill(lab.path(volume), [(n * MIB, 100_000)])
        copies.append(keep(lab.path(volume), lab.d.base / lab.unique("copy")))
        backups.append(lab.member.backup(volume))
    for gone, left in ((1, (0, 2)), (0, (2,))):
        lab.member.remove(backups[gone])
        lab.gc()
        for n in left:
            new = lab.admin.restore(backups[n])
            assert_same_disk(copies[n], lab.path(new))
            lab.admin.remove_volume(new)


def test_room_comes_back(own):
    """Cinder contract 7: deleting gives back what nobody else needs."""
    backup = own.member.backup(own.filled(1, [(0, 4 * MIB)]))
    assert own.stored() >= 4 * MIB
    own.member.remove(backup)
    own.gc()
    assert own.stored() == 0


def test_backups_outlive_their_volume(lab):
    """Cinder contract 6.5: volume_id keeps pointing at it, restoring to a new volume works, so does deleting."""
    volume = lab.filled(name="short-lived")
    copy = keep(lab.path(volume), lab.d.base / lab.unique("copy"))
    backup = lab.member.backup(volume)
    lab.admin.remove_volume(volume)
    assert lab.member.show(backup)["volume_id"] == volume["id"]
    assert lab.member.ids(volume_id=volume["id"]) == [backup["id"]]
    new = lab.admin.restore(backup)
    assert_same_disk(copy, lab.path(new))
    assert lab.member.volume(new)["name"] == "short-lived"
    lab.member.remove(backup)


def test_backups_outlive_their_snapshot(lab):
    """Its id stays in the backup, and so do its bytes."""
    volume = lab.filled(1, [(0, 2 * MIB)])
    copy = keep(lab.path(volume), lab.d.base / lab.unique("copy"))
    snapshot = lab.admin.snapshot(volume)
    backup = lab.member.backup(volume, snapshot_id=snapshot["id"])
    fill(lab.path(volume), [(0, MIB)])
    empty(lab.admin.delete(f"/snapshots/{snapshot['id']}"))
    wait_for(lambda: lab.admin.get(f"/snapshots/{snapshot['id']}").status_code == 404, "the snapshot is gone")
    lab.gc()
    assert lab.member.show(backup) == backup
    assert_same_disk(copy, lab.path(lab.member.restore(backup)))


def test_order_of_checks(lab):
    """Cinder contract 0.3: look-up, role, state."""
    volume = lab.admin.create_volume(1)
    backup = lab.member.backup(volume)
    lab.member.backup(volume, incremental=True)
    fault(lab.reader.delete(f"/backups/{NOBODY}"), 404)
    fault(lab.reader.delete(f"/backups/{backup['id']}"), 403)
    fault(lab.member.delete(f"/backups/{backup['id']}"), 400)


def test_a_second_delete_is_refused_or_404(lab):
    """Cinder contract 1.6: `deleting` is neither available nor error."""
    backup = lab.member.backup(lab.filled(1, [(0, 4 * MIB)]))
    first, second = (lab.member.delete(f"/backups/{backup['id']}") for _ in range(2))
    empty(first)
    fault(second, 400 if second.status_code == 400 else 404)
    lab.member.wait_gone(backup)
