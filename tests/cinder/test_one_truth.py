"""Both dialects are views of the same things: what one makes the other shows, counts, and logs."""

import pytest

from helpers.api import ok
from helpers.cinder import (
    MAX, Cinder, assert_restored, assert_same_disk, dashed, detail_keys, fault, fill, keep, over_quota, plain,
)
from helpers.daemon import slow_reads, slow_writes
from helpers.disks import MIB, assert_same_bytes
from helpers.lab import BACKUPS
from helpers.wait import wait_for


def of_volumes(lab, machine):
    """The Cinder backups of a machine's volumes, in the order of the volumes."""
    by_volume = {b["volume_id"]: b for b in lab.member.list()}
    return [by_volume[dashed(v["uuid"])] for v in lab.get(machine)["volumes"]]


# -------------------------------------------------------------------- made through Waldur, seen in Cinder


def test_parts_of_an_instance_backup_are_listed(lab):
    """One for each volume: full, of the volume's size rounded up, restorable here."""
    machine = lab.instance([MIB, 3 * MIB])
    backup = lab.backup(machine)
    parts = of_volumes(lab, machine)
    assert len(parts) == len(lab.member.list()) == 2
    assert [lab.member.show(p) for p in parts] == parts
    assert len({p["id"] for p in parts}) == 2 and dashed(backup["uuid"]) not in [p["id"] for p in parts]
    for part, disk in zip(parts, lab.volume_files(machine), strict=True):
        assert set(part) == detail_keys(MAX, admin=False)
        assert (part["status"], part["size"], part["is_incremental"], part["snapshot_id"]) == ("available", 1, False, None)
        assert_restored(disk, lab.path(lab.member.restore(part)))
    assert lab.get(backup)["state"] == "Ready"


@pytest.mark.parametrize("state, status", [
    ("ready", "available"), ("erred", "error"), ("backing_up", "creating"), ("restoring", "restoring"), ("deleting", "deleting"),
])
def test_parts_have_the_state_of_their_backup(lab, state, status):
    machine = lab.instance([MIB, MIB])
    backup = lab.backup(machine)
    lab.force_backup(backup, state)
    try:
        assert [p["status"] for p in of_volumes(lab, machine)] == [status] * 2
        assert lab.member.ids(status=status) and not lab.member.ids(status="available" if status != "available" else "error")
    finally:
        lab.force_backup(backup, "ready")


def test_a_failed_instance_backup_says_why_here_too(lab):
    disk = lab.disk()
    machine = lab.instance([disk])
    disk.unlink()
    lab.wait_state(lab.start_backup(machine)["url"], "Erred")
    part, = of_volumes(lab, machine)
    assert part["status"] == "error" and 0 < len(part["fail_reason"]) <= 255


def test_parts_go_with_their_instance_backup_only(lab):
    machine = lab.instance([MIB, MIB])
    backup = lab.backup(machine)
    for part in of_volumes(lab, machine):
        fault(lab.member.delete(f"/backups/{part['id']}"), 400)
        fault(lab.admin.action(part, "os-force_delete", {}), 400)
    assert lab.get(backup)["state"] == "Ready" and len(lab.member.ids()) == 2
    ok(lab.api.post(backup["url"] + "delete/"))
    lab.wait_gone(backup["url"])
    assert lab.member.ids() == [] and lab.admin.usage()[:2] == (0, 0)


def test_a_part_is_being_made_while_its_backup_is(braked):
    """The volume is backing-up: neither dialect begins a second backup of it in Cinder."""
    lab = braked(slow_reads, "slow.img")
    machine = lab.instance([lab.disk(8 * MIB, name="slow.img")])
    backup = lab.start_backup(machine)
    part, = of_volumes(lab, machine)
    assert (part["status"], part["object_count"]) == ("creating", 0)
    volume, = lab.volumes_of(machine)
    assert volume["status"] == "backing-up"
    fault(lab.member.post("/backups", {"backup": {"volume_id": volume["id"], "force": True}}), 400)
    lab.wait_state(backup["url"], "Ready")
    assert lab.member.wait(part) and lab.member.wait_volume(volume)


def test_state_of_the_machine_is_that_of_its_volumes(lab):
    machine = lab.instance([MIB, MIB])
    assert [v["status"] for v in lab.volumes_of(machine)] == ["available"] * 2
    ok(lab.api.post(machine["url"] + "start/"), 202)
    lab.wait_state(machine["url"], "Online")
    assert [v["status"] for v in lab.volumes_of(machine)] == ["in-use"] * 2
    ok(lab.api.post(machine["url"] + "stop/"), 202)
    lab.wait_state(machine["url"], "Offline")
    assert [v["status"] for v in lab.volumes_of(machine)] == ["available"] * 2


def test_a_part_may_be_a_parent_and_leaves_its_child_full(lab):
    """Deleting through Waldur is not refused for a child's sake: the child is complete by itself and becomes a full one."""
    disk = lab.disk(4 * MIB)
    machine = lab.instance([disk])
    backup = lab.backup(machine)
    part, = of_volumes(lab, machine)
    fill(disk, [(MIB, MIB)])
    child = lab.member.backup(part["volume_id"], incremental=True)
    assert child["is_incremental"] and lab.admin.record(child)["parent_id"] == part["id"]
    assert lab.member.show(part)["has_dependent_backups"] is True
    ok(lab.api.post(backup["url"] + "delete/"))
    lab.wait_gone(backup["url"])
    lab.gc()
    orphan = lab.member.show(child)
    assert (orphan["status"], orphan["is_incremental"]) == ("available", False)
    assert lab.admin.record(child)["parent_id"] is None
    assert_restored(disk, lab.path(lab.member.restore(child)))
    lab.member.remove(child)


def test_an_instance_backup_is_never_a_child(lab):
    """So a Cinder backup of its volume can be deleted after it was made."""
    machine = lab.instance([MIB])
    first = lab.member.backup(lab.volumes_of(machine)[0])
    lab.backup(machine)
    assert lab.member.show(first)["has_dependent_backups"] is False
    lab.member.remove(first)


def test_a_scheduled_backup_is_seen(lab):
    schedule = lab.schedule(lab.instance())
    machine = lab.get(schedule["instance"])
    backup = lab.backup(machine)
    lab.link(backup, schedule)
    assert [p["status"] for p in of_volumes(lab, machine)] == ["available"]


# -------------------------------------------------------------------- made through Cinder, seen in Waldur


def test_a_cinder_backup_is_no_instance_backup(lab):
    """It is of a volume; Waldur lists backups of machines."""
    machine = lab.instance([MIB])
    backup = lab.member.backup(lab.volumes_of(machine)[0])
    ident = plain(backup["id"])
    assert ident not in [b["uuid"] for b in lab.api.list(BACKUPS)]
    assert lab.api.get(f"{BACKUPS}{ident}/").status_code == 404
    assert lab.api.post(f"{BACKUPS}{ident}/delete/").status_code == 404
    assert lab.backups_of(machine) == [] and lab.get(machine)["backups"] == []
    assert lab.member.show(backup)["status"] == "available"


def test_volumes_made_here_are_seen_by_the_administrator(lab):
    volume = lab.admin.create_volume(1, name="seen")
    shown = ok(lab.api.get(f"/ops/volumes/{plain(volume['id'])}/"))
    assert (shown["name"], shown["size"], shown["project_uuid"]) == ("seen", 1 << 30, lab.project["uuid"])
    restored = lab.member.restore(lab.member.backup(volume), name="back")
    assert ok(lab.api.get(f"/ops/volumes/{plain(restored['id'])}/"))["name"] == "back"


def test_both_dialects_back_up_one_volume_at_once(lab):
    """Work on one volume is one after the other; both are whole."""
    disk = lab.disk(16 * MIB)
    machine = lab.instance([disk])
    volume, = lab.volumes_of(machine)
    mine = lab.member.create(volume)
    answer = lab.api.post(BACKUPS, {"instance": machine["url"]})
    if answer.status_code != 201:
        assert answer.status_code in (400, 409), answer.text
    else:
        theirs = lab.wait_state(answer.json()["url"], "Ready")
        assert_same_bytes(disk, lab.volume_files(lab.restore(theirs))[0])
    lab.member.wait(mine)
    assert_restored(disk, lab.path(lab.member.restore(mine)))
    assert lab.member.wait_volume(volume)


def test_both_dialects_share_the_stored_bytes(own):
    """A backup of the same content through the other dialect adds next to nothing, and either may go first."""
    disk = own.disk(8 * MIB)
    then = keep(disk, own.d.base / "then")
    machine = own.instance([disk])
    theirs = own.backup(machine)
    stored = own.stored()
    mine = own.member.backup(own.volumes_of(machine)[0])
    assert own.stored() - stored < MIB
    ok(own.api.post(theirs["url"] + "delete/"))
    own.wait_gone(theirs["url"])
    own.gc()
    assert_restored(then, own.path(own.member.restore(mine)))
    theirs = own.backup(machine)
    own.member.remove(mine)
    own.gc()
    assert_same_bytes(then, own.volume_files(own.restore(theirs))[0])


# -------------------------------------------------------------------- while the other one is at work


@pytest.fixture
def slow(braked):
    """A machine whose only disk is slow to read or to write."""
    def start(wrapper, size=16 * MIB, delay="300ms"):
        lab = braked(wrapper, "slow.img", delay, "[engine]\njobs = 4")
        lab.machine = lab.instance([lab.disk(size, name="slow.img")])
        lab.volume, = lab.volumes_of(lab.machine)
        return lab
    return start


def test_a_disk_that_is_being_overwritten_is_in_nobody_s_backup(slow):
    """An instance backup asked for during a restore through Cinder is refused, or it has what the restore has left."""
    lab = slow(slow_writes)
    source = lab.registered(16 * MIB)
    backup = lab.member.backup(source)
    lab.member.start_restore(backup, volume_id=lab.volume["id"])
    assert lab.member.volume(lab.volume)["status"] == "restoring-backup"
    answer = lab.api.post(BACKUPS, {"instance": lab.machine["url"]})
    lab.member.wait_volume(lab.volume)
    if answer.status_code == 201:
        theirs = lab.wait_state(answer.json()["url"], "Ready")
        assert_same_bytes(lab.path(source), lab.volume_files(lab.restore(theirs))[0])
    else:
        assert answer.status_code in (400, 409), answer.text
    assert_same_bytes(lab.path(source), lab.path(lab.volume))


def test_a_machine_does_not_start_on_a_disk_that_is_being_overwritten(slow):
    lab = slow(slow_writes)
    lab.member.start_restore(lab.member.backup(lab.registered(16 * MIB)), volume_id=lab.volume["id"])
    answer = lab.api.post(lab.machine["url"] + "start/")
    assert lab.member.volume(lab.volume)["status"] == "restoring-backup"
    assert answer.status_code in (400, 409), answer.text
    lab.member.wait_volume(lab.volume)
    ok(lab.api.post(lab.machine["url"] + "start/"), 202)


def test_a_machine_that_is_removed_while_its_disk_is_backed_up(slow):
    """Refused, or the backup comes to rest; it outlives the machine either way, or says why it failed."""
    lab = slow(slow_reads)
    backup = lab.member.create(lab.volume)
    answer = lab.api.delete(lab.machine["url"])
    assert answer.status_code in (202, 400, 409), answer.text
    after = lab.member.wait_rest(backup)
    if answer.status_code == 202:
        lab.wait_gone(lab.machine["url"])
    else:
        assert after["status"] == "available" and lab.member.wait_volume(lab.volume)
    if after["status"] == "available":
        assert_restored(lab.d.root / "slow.img", lab.path(lab.member.restore(after)))
    else:
        assert after["fail_reason"]
    lab.member.remove(after)


def test_a_machine_that_is_removed_while_its_disk_is_overwritten(slow):
    lab = slow(slow_writes)
    backup = lab.member.backup(lab.registered(16 * MIB))
    lab.member.start_restore(backup, volume_id=lab.volume["id"])
    answer = lab.api.delete(lab.machine["url"])
    assert answer.status_code in (202, 400, 409), answer.text
    assert lab.member.wait(backup)["status"] == "available"
    if answer.status_code != 202:
        lab.member.wait_volume(lab.volume)


def test_a_volume_at_work_is_not_forgotten(slow):
    """Through the administrator's list either."""
    lab = slow(slow_reads, 4 * MIB)
    alone = lab.registered()
    lab.member.backup(alone)
    mine = lab.member.create(lab.volume)
    assert lab.api.delete(f"/ops/volumes/{plain(lab.volume['id'])}/").status_code == 409
    lab.member.wait(mine)
    ok(lab.api.delete(f"/ops/volumes/{plain(alone['id'])}/"), 204)
    assert len(lab.member.ids()) == 2


def test_a_disk_of_a_restore_to_a_new_instance_takes_no_other_order(braked):
    """An administrator who resets it from `creating` does not make two restores write to it at once."""
    lab = braked(slow_reads, "slow.img", config="[engine]\njobs = 1")
    disk, other = lab.disk(4 * MIB), lab.member.backup(lab.registered())
    backup = lab.backup(lab.instance([disk]))
    lab.member.create(lab.registered(8 * MIB, "slow.img"))  # what comes after it waits
    new = lab.restore(backup, wait=None)
    volume, = lab.volumes_of(new)
    assert volume["status"] == "creating"
    lab.admin.volume_action(volume, "os-reset_status", {"status": "available"})
    assert lab.member.volume(volume)["status"] == "restoring-backup"
    fault(lab.member.post(f"/backups/{other['id']}/restore", {"restore": {"volume_id": volume["id"]}}), 400)
    fault(lab.member.post("/snapshots", {"snapshot": {"volume_id": volume["id"], "force": True}}), 400)
    fault(lab.member.post("/volumes", {"volume": {"size": 1, "source_volid": volume["id"]}}), 400)
    lab.wait_state(new["url"], "Offline")
    lab.member.wait_volume(volume)
    assert_same_bytes(disk, lab.path(volume))


def test_an_instance_backup_whose_part_is_being_restored(braked):
    """It is busy for Waldur, too: a deletion or another restore does not pull its data away."""
    lab = braked(slow_writes, "target.img", config="[engine]\njobs = 4")
    disk = lab.disk(16 * MIB)
    machine = lab.instance([disk, MIB])
    backup = lab.backup(machine)
    part = of_volumes(lab, machine)[0]
    target = lab.registered(16 * MIB, "target.img")
    lab.member.start_restore(part, volume_id=target["id"])
    assert lab.member.status(part) == "restoring"
    answer = lab.api.post(backup["url"] + "delete/")
    assert answer.status_code in (200, 409), answer.text
    lab.member.wait_volume(target)
    assert_same_bytes(disk, lab.path(target))
    if answer.status_code == 409:
        lab.wait_state(backup["url"], "Ready")
        lab.member.wait(part)
        ok(lab.api.post(backup["url"] + "delete/"))
    lab.wait_gone(backup["url"])
    assert lab.member.ids() == []


def test_a_project_with_backups_is_not_removed(lab):
    """They would belong to nobody."""
    volume = lab.filled()
    backup = lab.member.backup(volume)
    lab.admin.remove_volume(volume)
    answer = lab.api.delete(lab.project["url"])
    assert 400 <= answer.status_code < 500, answer.text
    assert lab.member.show(backup)["status"] == "available"


# -------------------------------------------------------------------- quotas


def test_usage_counts_what_is_listed(lab):
    """Parts of instance backups and backups of volumes alike, from rows (contract 1.1)."""
    machine = lab.instance([MIB, MIB])
    theirs = lab.backup(machine)
    mine = lab.member.backup(lab.admin.create_volume(2))
    assert lab.admin.usage() == (3, 4, 3, 4)
    ok(lab.api.post(theirs["url"] + "delete/"))
    lab.wait_gone(theirs["url"])
    assert lab.admin.usage()[:2] == (1, 2)
    lab.member.remove(mine)
    assert lab.admin.usage() == (0, 0, 3, 4)


def test_storage_of_the_project_counts_both(lab):
    """Waldur's quota `storage` is in MiB and counts bytes; it limits backups through either dialect."""
    volume = lab.admin.create_volume(1)
    assert lab.quota("storage")["usage"] == 1024
    backup = lab.member.backup(volume)
    assert lab.quota("storage")["usage"] == 2048
    lab.set_quota("storage", 2048 + 1023)
    over_quota(lab.member.post("/backups", {"backup": {"volume_id": volume["id"]}}))
    lab.member.remove(backup)
    assert lab.quota("storage")["usage"] == 1024
    lab.member.backup(volume)


# -------------------------------------------------------------------- events


def test_events_of_a_backup(lab):
    backup = lab.member.backup(lab.admin.create_volume(1))
    lab.admin.remove_volume(lab.member.restore(backup))
    lab.member.remove(backup)
    wanted = [
        "resource_backup_creation_scheduled", "resource_backup_creation_succeeded", "resource_backup_restoration_scheduled",
        "resource_backup_restoration_succeeded", "resource_backup_deletion_scheduled", "resource_backup_deletion_succeeded",
    ]
    found = wait_for(
        lambda: (e := [t for t in lab.events_about(backup["id"]) if t.startswith("resource_backup")]) and len(e) >= 6 and e,
        f"six events; there are {lab.events_about(backup['id'])}",
    )
    assert found == wanted


def test_event_of_a_failed_backup(lab):
    volume = lab.registered()
    lab.path(volume).unlink()
    failed = lab.member.wait(lab.member.create(volume), "error")
    assert "resource_backup_creation_failed" in lab.events_about(failed["id"])


def test_a_backup_in_no_zone_fails_in_the_same_words(lab):
    """As one whose disk is gone: whoever looks for failed backups of a volume by their message finds both."""
    volume = lab.admin.volume(lab.filled(name="ledger"))
    lab.member.wait(lab.member.create(volume, availability_zone="far-away"), "error")
    lab.path(volume).unlink()
    lab.member.wait(lab.member.create(volume), "error")
    messages = [e["message"] for e in lab.events(event_type="resource_backup_creation_failed") if "ledger" in e["message"]]
    assert len(messages) == 2 and all(m.startswith("A backup of ledger has failed: ") for m in messages), messages


def test_event_of_a_failed_restore(lab):
    backup = lab.member.backup(lab.registered())
    target = lab.registered()
    lab.path(target).unlink()
    lab.member.start_restore(backup, volume_id=target["id"])
    lab.member.wait_volume(target, "error_restoring")
    lab.member.wait(backup)
    assert "resource_backup_restoration_failed" in lab.events_about(backup["id"])


def test_refused_requests_leave_no_event(lab):
    volume = lab.admin.create_volume(1)
    backup = lab.member.backup(volume)
    child = lab.member.backup(volume, incremental=True)
    before = lab.events_about([backup["id"], child["id"]])
    fault(lab.member.delete(f"/backups/{backup['id']}"), 400)
    fault(lab.reader.delete(f"/backups/{child['id']}"), 403)
    fault(lab.member.post(f"/backups/{backup['id']}/restore", {"restore": {"volume_id": "x"}}), 400)
    assert lab.events_about([backup["id"], child["id"]]) == before


def test_users_of_the_project_see_the_events(lab):
    """And those of other projects do not."""
    backup = lab.member.backup(lab.admin.create_volume(1))
    stranger = lab.user("manager", lab.new_project())
    member = lab.user("manager")
    scope = plain(backup["id"])
    assert "resource_backup_creation_succeeded" in [e["event_type"] for e in member.list("/api/events/", scope=scope)]
    assert scope not in plain(stranger.get("/api/events/", params={"scope": scope}).text)


# -------------------------------------------------------------------- people


def test_one_password_and_one_token_for_both(lab):
    user = lab.user("manager")
    client = Cinder(lab.d, lab.project["uuid"], user.token)
    assert client.ids() == []
    ok(user.get(BACKUPS))
    basic = Cinder(lab.d, lab.project["uuid"])
    ok(basic.request("GET", "/backups", auth=(user.user["username"], "correct horse 7")))
    volume = lab.filled()
    backup = client.backup(volume)
    assert_same_disk(lab.path(volume), lab.path(client.restore(backup)))


# -------------------------------------------------------------------- volumes made here that become disks of an instance


def attach(lab, volume, code=201):
    """A new instance whose one disk is this volume."""
    body = {"name": lab.unique("vm"), "project": lab.project["url"], "volumes": [{"volume": plain(volume["id"])}]}
    return ok(lab.api.post("/api/openstack-instances/", body), code)


def test_the_removal_of_an_instance_does_not_remove_a_volume_made_on_its_own(lab):
    volume = lab.filled()
    path, machine = lab.path(volume), attach(lab, volume)
    ok(lab.api.delete(machine["url"]), 202)
    assert path.is_file() and lab.admin.wait_volume(volume)["attachments"] == []


def test_a_volume_that_awaits_its_deletion_does_not_become_a_disk(braked):
    """It would lose its file, and the end of its deletion would hold up every later one. Nor is it restored to."""
    lab = braked(slow_reads, "slow.img")
    other = lab.backup(lab.instance([8 * MIB]))
    volume = lab.registered(8 * MIB, "slow.img")
    backup = lab.member.create(volume)
    lab.admin.volume_action(volume, "os-force_delete")
    assert "only an available volume" in str(attach(lab, volume, 400))
    over = {"backup": other["uuid"], "path": str(lab.d.root / "slow.img"), "mode": "overwrite"}
    assert "try again when it is available" in ok(lab.api.post("/ops/restores/", over), 409)["detail"]
    lab.admin.wait_volume_gone(volume)
    lab.member.wait_rest(backup)
    lab.admin.remove_volume(lab.admin.create_volume(1))
