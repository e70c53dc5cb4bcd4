"""Create: the limits of each field, what is checked in which order, and how a parent is chosen (Cinder contract 1.1)."""

import os

import pytest

from helpers.api import ok
from helpers.cinder import (
    MAX, NOBODY, SUMMARY, Cinder, CinderLab, assert_restored, assert_same_disk, dashed, fault, fill, keep, over_quota, plain,
)
from helpers.daemon import slow_reads
from helpers.disks import MIB

TRUE = [True, "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes", "y", "t"]
FALSE = [False, "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no", "n", "f"]
NO_BOOL = [None, 0, 1, 2, 1.0, "", "2", "tRUE", "Y", "T", "yES", "enable", " true", "true ", [], {}, [True]]


@pytest.fixture(scope="module")
def volume(shared):
    return shared.admin.create_volume(1)


@pytest.fixture(scope="module")
def busy(shared):
    return shared.online()


def passes(shared, **fields):
    """The schema has nothing against these fields: the next check is the look-up of the volume, which is not there."""
    body = {"volume_id": NOBODY, **fields}
    fault(shared.member.post("/backups", {"backup": {k: v for k, v in body.items() if v is not ...}}), 404)


def refused(shared, **fields):
    body = {"volume_id": NOBODY, **fields}
    return fault(shared.member.post("/backups", {"backup": {k: v for k, v in body.items() if v is not ...}}), 400)


# -------------------------------------------------------------------- the good case


def test_the_answer_is_the_summary(shared, volume):
    """Cinder contract 1.1, 2.1: 202, and nothing but id, name and links."""
    made = shared.member.create(volume, name="first")
    assert set(made) == SUMMARY and made["name"] == "first"
    shared.member.wait(made)
    assert shared.member.wait_volume(volume)["status"] == "available"


def test_all_fields_are_shown(shared, volume):
    given = {
        "name": "all", "description": "all fields", "container": "my-container_1.x", "incremental": False, "force": False,
        "snapshot_id": None, "metadata": {"key": "value", "a-b_c:d.e/f g": "x" * 255, "k" * 255: ""},
    }
    shown = shared.member.backup(volume, **given)
    for key in ("name", "description", "container", "metadata", "snapshot_id"):
        assert shown[key] == given[key], key
    assert (shown["size"], shown["is_incremental"], shown["has_dependent_backups"]) == (1, False, False)
    assert shown["volume_id"] == volume["id"] and shown["fail_reason"] is None


def test_only_the_volume_is_needed(shared, volume):
    shown = shared.member.backup(volume)
    assert (shown["name"], shown["description"], shown["metadata"]) == (None, None, {})
    assert shown["availability_zone"] and isinstance(shown["container"], (str, type(None)))


def test_nulls_are_as_good_as_nothing(shared, volume):
    """The clients send them (contract 4.1)."""
    shown = shared.member.backup(
        volume, name=None, description=None, container=None, snapshot_id=None, metadata=None, availability_zone=None
    )
    assert (shown["name"], shown["description"], shown["metadata"]) == (None, None, {})


def test_every_byte_is_taken(lab):
    volume = lab.filled(1, [(0, MIB), (300 * MIB + 17, 70_000), (1024 * MIB - 4096, 4096)])
    new = lab.admin.restore(lab.member.backup(volume))
    assert_same_disk(lab.path(volume), lab.path(new))


# -------------------------------------------------------------------- limits of each field


@pytest.mark.parametrize("fields", [
    {"volume_id": ...}, {"volume_id": None}, {"volume_id": ""}, {"volume_id": "name"}, {"volume_id": 7}, {"volume_id": [NOBODY]},
    {"volume_id": "0" * 31}, {"volume_id": NOBODY + "0"},
    {"name": "x" * 256}, {"name": " " * 256}, {"name": 7}, {"name": []}, {"name": True},
    {"description": "x" * 256}, {"description": 7}, {"description": "two\nlines"}, {"description": "a\tb"}, {"description": "\0"},
    {"description": "\x1b[1m"}, {"description": "\x7f"}, {"description": {}},
    {"container": "x" * 256}, {"container": 7}, {"container": []},
    {"snapshot_id": "name"}, {"snapshot_id": ""}, {"snapshot_id": 7}, {"snapshot_id": "0" * 31},
    {"metadata": []}, {"metadata": "a=b"}, {"metadata": 7}, {"metadata": {"": "x"}}, {"metadata": {"k" * 256: "x"}},
    {"metadata": {"a%b": "x"}}, {"metadata": {"a": None}}, {"metadata": {"a": 1}},
    {"metadata": {"a": "x" * 256}}, {"metadata": {"a": {}}}, {"metadata": {"a": True}}, {"metadata": {"good": "x", "a\nb": "x"}},
    {"availability_zone": "x" * 256}, {"availability_zone": 7}, {"availability_zone": []},
    {"size": 1}, {"id": NOBODY}, {"status": "available"}, {"Name": "x"}, {"": 1}, {"backup_id": NOBODY},
], ids=lambda f: str(f)[:40])
def test_fields_that_break_the_schema(shared, fields):
    refused(shared, **fields)


@pytest.mark.parametrize("fields", [
    {"volume_id": plain(NOBODY)}, {"name": "x" * 255}, {"name": None}, {"name": "línea\n\0🐄 \x7f"}, {"name": ""},
    {"name": " " * 255}, {"description": "x" * 255}, {"description": ""}, {"description": "größer als ￮"},
    {"container": "c" * 255}, {"snapshot_id": NOBODY}, {"snapshot_id": plain(NOBODY)}, {"metadata": {}},
    {"metadata": {"k" * 255: "v" * 255}}, {"metadata": {"0aZ-_:./ ": "ü🐄"}}, {"availability_zone": "z" * 255},
], ids=lambda f: str(f)[:40])
def test_fields_that_pass_the_schema(shared, fields):
    passes(shared, **fields)


@pytest.mark.parametrize("field", ["incremental", "force"])
def test_spellings_of_booleans(shared, field):
    for value in TRUE + FALSE:
        passes(shared, **{field: value})
    for value in NO_BOOL:
        refused(shared, **{field: value})


def test_spellings_of_true_mean_true_and_of_false_false(shared, volume, busy):
    """A volume in use needs force; an incremental backup needs a parent."""
    for value in FALSE:
        fault(shared.member.post("/backups", {"backup": {"volume_id": busy["id"], "force": value}}), 400)
    fresh = shared.admin.create_volume(1)
    for value in TRUE:
        fault(shared.member.post("/backups", {"backup": {"volume_id": fresh["id"], "incremental": value}}), 400)
    for value in TRUE:
        shared.member.remove(shared.member.backup(busy, force=value))
    for value in FALSE:
        assert shared.member.backup(fresh, incremental=value)["is_incremental"] is False


def test_names_are_trimmed_and_otherwise_free(shared, volume):
    for given, shown in (("  both ends \t\n", "both ends"), ("in  the\nmiddle 🐄", "in  the\nmiddle 🐄"), ("x" * 255, "x" * 255),
                         ("../../etc/passwd", "../../etc/passwd"), ("' OR 1=1 --", "' OR 1=1 --")):
        made = shared.member.create(volume, name=given)
        assert made["name"] == shown
        assert shared.member.wait(made)["name"] == shown


def test_nothing_stands_beside_or_inside_the_wrapper(shared, volume):
    good = {"volume_id": volume["id"]}
    before = shared.member.ids()
    for body in ({"backup": good, "other": 1}, {"backup": good, "volume_id": volume["id"]}, good, {}, {"backup": None},
                 {"backup": {}}, {"backup": {"backup": good}}, {"Backup": good}):
        fault(shared.member.post("/backups", body), 400)
    assert shared.member.ids() == before


# -------------------------------------------------------------------- the order of the checks


def test_order_of_checks(lab):
    """Cinder contract 0.3, 1.1: schema 400, volume 404, role 403, snapshot 404, state 400, quota 413."""
    admin, member, reader = lab.admin, lab.member, lab.reader
    volume, busy = admin.create_volume(1), lab.online()
    admin.set_quota(backups=0)

    def ask(client, **body):
        return client.post("/backups", {"backup": body})

    fault(ask(reader, volume_id=NOBODY, name=7), 400)
    fault(ask(reader, volume_id=NOBODY), 404)
    fault(ask(reader, volume_id=volume["id"], snapshot_id=NOBODY), 403)
    fault(ask(reader, volume_id=busy["id"]), 403)
    fault(ask(member, volume_id=busy["id"], snapshot_id=NOBODY), 404)
    fault(ask(member, volume_id=busy["id"]), 400)
    over_quota(ask(member, volume_id=volume["id"]))
    over_quota(ask(member, volume_id=volume["id"], incremental=True))
    admin.set_quota(backups=-1)
    fault(ask(member, volume_id=volume["id"], incremental=True), 400)
    assert admin.ids() == [] and admin.usage()[:2] == (0, 0)


def test_volume_of_another_project_is_not_there(lab):
    """Cinder contract 0.3: and its state or quota is not told either."""
    other = CinderLab(lab.d)
    foreign = other.admin.create_volume(1)
    fault(lab.member.post("/backups", {"backup": {"volume_id": foreign["id"]}}), 404)
    fault(lab.reader.post("/backups", {"backup": {"volume_id": foreign["id"]}}), 404)
    assert other.admin.ids() == lab.admin.ids() == []


@pytest.mark.parametrize("status", [
    "creating", "error", "error_restoring", "error_extending", "backing-up", "restoring-backup", "extending", "deleting",
    "maintenance",
])
def test_force_lifts_in_use_only(lab, status):
    """Cinder contract 1.1: every other state is refused with and without it."""
    volume = lab.admin.create_volume(1)
    reset = lab.admin.post(f"/volumes/{volume['id']}/action", {"os-reset_status": {"status": status}})
    if reset.status_code == 400:
        pytest.skip(f"volumes have no state {status} here")
    ok(reset, 202)
    for force in (False, True):
        fault(lab.member.post("/backups", {"backup": {"volume_id": volume["id"], "force": force}}), 400)
    assert lab.admin.ids() == [] and lab.admin.volume(volume)["status"] == status


def test_volume_in_use_needs_force(lab):
    """Cinder contract 1.1, 6.2: afterwards it is in use as before."""
    busy = lab.online()
    fault(lab.member.post("/backups", {"backup": {"volume_id": busy["id"]}}), 400)
    fault(lab.member.post("/backups", {"backup": {"volume_id": busy["id"], "force": False}}), 400)
    backup = lab.member.backup(busy, force=True)
    assert lab.admin.wait_volume(busy, "in-use")
    new = lab.admin.restore(backup)
    assert_restored(lab.path(busy), lab.path(new))


def test_force_does_no_harm_to_an_available_volume(shared, volume):
    shared.member.backup(volume, force=True)
    assert shared.member.volume(volume)["status"] == "available"


def test_host_attachment_is_in_use(lab):
    """Cinder contract 4.2: how users mark a volume."""
    volume = lab.admin.create_volume(1)
    ok(lab.admin.post(f"/volumes/{volume['id']}/action", {"os-attach": {"host_name": "here", "mountpoint": "/mnt"}}), 202)
    lab.admin.wait_volume(volume, "in-use")
    fault(lab.member.post("/backups", {"backup": {"volume_id": volume["id"]}}), 400)
    lab.member.backup(volume, force=True)
    assert lab.admin.wait_volume(volume, "in-use")
    ok(lab.admin.post(f"/volumes/{volume['id']}/action", {"os-detach": {}}), 202)
    lab.admin.wait_volume(volume)
    lab.member.backup(volume)


def test_one_backup_of_a_volume_at_a_time(braked):
    """Cinder contract 1.1, 6.2: it is backing-up meanwhile, and then what it was; force changes nothing."""
    lab = braked(slow_reads, "slow.img")
    volume = lab.registered(8 * MIB, "slow.img")
    first = lab.member.create(volume)
    shown = lab.member.show(first)
    assert (shown["status"], shown["object_count"], shown["size"]) == ("creating", 0, 1)
    assert lab.member.volume(volume)["status"] == "backing-up"
    for force in (False, True):
        fault(lab.member.post("/backups", {"backup": {"volume_id": volume["id"], "force": force}}), 400)
    fault(lab.member.delete(f"/volumes/{volume['id']}"), 400)
    lab.member.wait(first)
    assert lab.member.wait_volume(volume)
    assert lab.member.ids() == [first["id"]]


def test_snapshot_that_is_not_ready(braked):
    """Cinder contract 1.1: a snapshot in any state but available is refused; so is the volume that is being read for it."""
    lab = braked(slow_reads, "slow.img")
    volume = lab.registered(8 * MIB, "slow.img")
    snapshot = ok(lab.admin.post("/snapshots", {"snapshot": {"volume_id": volume["id"]}}), 202)["snapshot"]
    assert ok(lab.admin.get(f"/snapshots/{snapshot['id']}"))["snapshot"]["status"] == "creating"
    fault(lab.member.post("/backups", {"backup": {"volume_id": volume["id"], "snapshot_id": snapshot["id"]}}), 400)
    lab.admin.wait_snapshot(snapshot)
    lab.member.backup(volume, snapshot_id=snapshot["id"])


# -------------------------------------------------------------------- snapshots


def test_backup_of_a_snapshot(lab):
    """Cinder contract 1.1, 2.2, 6.2: the snapshot's bytes and time stamp, and the volume is left alone."""
    volume = lab.filled(1, [(0, 2 * MIB)])
    then = keep(lab.path(volume), lab.d.base / lab.unique("then"))
    snapshot = lab.admin.snapshot(volume)
    fill(lab.path(volume), [(MIB, 2 * MIB)])
    backup = lab.member.backup(volume, snapshot_id=snapshot["id"])
    assert backup["snapshot_id"] == snapshot["id"] and backup["volume_id"] == volume["id"]
    assert backup["data_timestamp"][:19] == snapshot["created_at"][:19] and backup["created_at"] >= backup["data_timestamp"]
    assert_same_disk(then, lab.path(lab.admin.restore(backup)))
    assert ok(lab.admin.get(f"/snapshots/{snapshot['id']}"))["snapshot"]["status"] == "available"


def test_with_a_snapshot_the_state_of_the_volume_is_not_looked_at(lab):
    """Cinder contract 1.1: neither in-use without force, nor error."""
    volume = lab.filled()
    snapshot = lab.admin.snapshot(volume)
    for status in ("in-use", "error"):
        lab.admin.volume_action(volume, "os-reset_status", {"status": status})
        backup = lab.member.backup(volume, snapshot_id=snapshot["id"])
        assert lab.admin.volume(volume)["status"] == status
    lab.admin.volume_action(volume, "os-reset_status", {"status": "available"})
    assert_same_disk(lab.path(volume), lab.path(lab.admin.restore(backup)))


def test_snapshots_that_do_not_fit(lab):
    """Cinder contract 1.1: unknown or of another project 404, of another volume 400."""
    one, two = lab.admin.create_volume(1), lab.admin.create_volume(1)
    snapshot = lab.admin.snapshot(one)
    other = CinderLab(lab.d)
    foreign = other.admin.snapshot(other.admin.create_volume(1))
    fault(lab.member.post("/backups", {"backup": {"volume_id": two["id"], "snapshot_id": NOBODY}}), 404)
    fault(lab.member.post("/backups", {"backup": {"volume_id": two["id"], "snapshot_id": foreign["id"]}}), 404)
    fault(lab.member.post("/backups", {"backup": {"volume_id": two["id"], "snapshot_id": snapshot["id"]}}), 400)
    assert lab.admin.ids() == []


def test_incremental_and_forced_and_of_a_snapshot(lab):
    """Cinder contract 1.1: nothing forbids all of it together."""
    volume = lab.filled()
    parent = lab.member.backup(volume)
    fill(lab.path(volume), [(3 * MIB, MIB)])
    snapshot = lab.admin.snapshot(volume)
    backup = lab.member.backup(volume, incremental=True, force=True, snapshot_id=snapshot["id"])
    assert backup["is_incremental"] and lab.admin.record(backup)["parent_id"] == parent["id"]
    assert_same_disk(lab.path(volume), lab.path(lab.admin.restore(backup)))


def test_parents_of_a_snapshot_are_older_than_it(lab):
    """Cinder contract 1.1: a backup that is younger than the snapshot is no parent of it."""
    volume = lab.filled()
    snapshot = lab.admin.snapshot(volume)
    younger = lab.member.backup(volume)
    fault(lab.member.post("/backups", {"backup": {
        "volume_id": volume["id"], "incremental": True, "snapshot_id": snapshot["id"]}}), 400)
    assert lab.member.backup(volume, incremental=True)["is_incremental"]
    full = lab.member.backup(volume, snapshot_id=snapshot["id"])
    # And the backup of the old snapshot has old data: the next incremental one is not made on top of it.
    assert lab.admin.record(lab.member.backup(volume, incremental=True))["parent_id"] not in (full["id"], younger["id"])


# -------------------------------------------------------------------- quotas


def test_quota_of_backups(lab):
    """Cinder contract 1.1: 413, nothing is made, and room is there again when one is gone."""
    volume = lab.admin.create_volume(1)
    lab.admin.set_quota(backups=1)
    first = lab.member.backup(volume)
    over_quota(lab.member.post("/backups", {"backup": {"volume_id": volume["id"]}}))
    assert lab.member.ids() == [first["id"]] and lab.member.volume(volume)["status"] == "available"
    lab.member.remove(first)
    lab.member.backup(volume)


def test_quota_of_gigabytes_counts_the_size_of_the_volume(lab):
    """Cinder contract 1.1, 6.5: also for an incremental one, and for a volume of holes."""
    one, two = lab.admin.create_volume(1), lab.admin.create_volume(2)
    lab.admin.set_quota(backup_gigabytes=3)
    first = lab.member.backup(two)
    over_quota(lab.member.post("/backups", {"backup": {"volume_id": two["id"], "incremental": True}}))
    lab.member.backup(one)
    over_quota(lab.member.post("/backups", {"backup": {"volume_id": one["id"], "incremental": True}}))
    assert lab.admin.usage()[:2] == (2, 3)
    lab.member.remove(first)
    lab.member.backup(one, incremental=True)
    assert lab.admin.usage()[:2] == (2, 2)


def test_a_failed_backup_counts_until_it_is_deleted(lab):
    volume = lab.registered()
    lab.path(volume).unlink()
    failed = lab.member.wait(lab.member.create(volume), "error")
    assert lab.admin.usage()[0] == 1
    lab.member.remove(failed)
    assert lab.admin.usage()[:2] == (0, 0)


# -------------------------------------------------------------------- parents


def test_incremental_without_a_parent(lab):
    """Cinder contract 1.1: 400; a backup that failed, is of another volume or was deleted is no parent."""
    volume, other = lab.admin.create_volume(1), lab.admin.create_volume(1)
    lab.member.backup(other)
    fault(lab.member.post("/backups", {"backup": {"volume_id": volume["id"], "incremental": True}}), 400)
    parent = lab.member.backup(volume)
    lab.admin.reset(parent, "error")
    fault(lab.member.post("/backups", {"backup": {"volume_id": volume["id"], "incremental": True}}), 400)
    lab.admin.reset(parent, "available")
    child = lab.member.backup(volume, incremental=True)
    lab.member.remove(child)
    lab.member.remove(parent)
    fault(lab.member.post("/backups", {"backup": {"volume_id": volume["id"], "incremental": True}}), 400)


def test_the_newest_available_backup_is_the_parent(lab):
    """Cinder contract 1.1, 6.5: a full one in between begins a new chain; one in error is passed over."""
    volume = lab.filled()
    first = lab.member.backup(volume)
    assert first["has_dependent_backups"] is False
    second = lab.member.backup(volume, incremental=True)
    full = lab.member.backup(volume)
    third = lab.member.backup(volume, incremental=True)
    lab.admin.reset(third, "error")
    fourth = lab.member.backup(volume, incremental=True)
    parents = [lab.admin.record(b)["parent_id"] for b in (first, second, full, fourth)]
    assert parents == [None, first["id"], None, full["id"]]
    shown = [lab.member.show(b) for b in (first, second, full, third, fourth)]
    assert [b["is_incremental"] for b in shown] == [False, True, False, True, True]
    assert [b["has_dependent_backups"] for b in shown] == [True, False, True, False, False]


def test_has_dependent_backups_goes_with_the_last_child(lab):
    """Cinder contract 6.5: derived from what is there."""
    volume = lab.admin.create_volume(1)
    base = lab.member.backup(volume)
    child = lab.member.backup(volume, incremental=True)
    grandchild = lab.member.backup(volume, incremental=True)
    assert lab.member.show(base)["has_dependent_backups"] and lab.member.show(child)["has_dependent_backups"]
    lab.member.remove(grandchild)
    assert lab.member.show(child)["has_dependent_backups"] is False
    lab.member.remove(child)
    assert lab.member.show(base)["has_dependent_backups"] is False
    lab.member.remove(base)


def test_parents_are_of_the_same_project(lab):
    """Cinder contract 1.1: an administrator's backup of the volume, kept in his own project, is nobody's parent."""
    volume = lab.filled()
    abroad = Cinder(lab.d, lab.new_project()["uuid"], lab.d.token)
    fault(abroad.post("/backups", {"backup": {"volume_id": volume["id"], "incremental": True}}), 400)
    mine = lab.member.backup(volume)
    fault(abroad.post("/backups", {"backup": {"volume_id": volume["id"], "incremental": True}}), 400)
    his = abroad.backup(volume)
    assert lab.admin.record(lab.member.backup(volume, incremental=True))["parent_id"] == mine["id"]
    assert abroad.record(abroad.backup(volume, incremental=True))["parent_id"] == his["id"]
    fault(lab.member.get(f"/backups/{his['id']}"), 404)
    assert his["id"] not in lab.member.ids() and mine["id"] not in abroad.ids()


def test_size_of_an_incremental_backup_is_the_volume_s(lab):
    """Cinder contract 6.5: and it follows when the volume grows, which needs no full backup."""
    volume = lab.filled(1)
    lab.member.backup(volume)
    assert lab.member.backup(volume, incremental=True)["size"] == 1
    lab.admin.volume_action(volume, "os-extend", {"new_size": 3})
    assert lab.admin.wait_volume(volume)["size"] == 3
    assert lab.member.backup(volume, incremental=True)["size"] == 3


# -------------------------------------------------------------------- containers, zones, failures


def tree(lab):
    return {p for p in lab.d.base.rglob("*") if lab.d.root not in p.parents and not p.name.startswith("coffer")}


@pytest.mark.parametrize("name", ["..", ".", "../../escape", "/tmp/cofferd-escape", "a/b", "a\\b", "a\0b", "~", "$HOME", "a b", ""])
def test_containers_are_labels(lab, name):
    """Cinder contract 1.1: refused, a failed backup, or just a label; never a path."""
    volume = lab.admin.create_volume(1)
    before = tree(lab)
    answer = lab.member.post("/backups", {"backup": {"volume_id": volume["id"], "container": name}})
    if answer.status_code != 202:
        fault(answer, 400)
    else:
        backup = lab.member.wait_rest(answer.json()["backup"])
        assert backup["status"] == "available" and backup["container"] == name or backup["status"] == "error"
    assert tree(lab) == before and not os.path.exists("/tmp/cofferd-escape")


def test_the_zone_that_there_is(shared, volume):
    zones = [z["zoneName"] for z in ok(shared.member.get("/os-availability-zone"))["availabilityZoneInfo"]]
    assert shared.member.backup(volume)["availability_zone"] in zones
    for zone in zones:
        assert shared.member.backup(volume, availability_zone=zone)["availability_zone"] == zone


def test_a_zone_that_is_not_there_shows_later(lab):
    """Cinder contract 1.1: 202, and then error with the reason."""
    volume = lab.admin.create_volume(1)
    made = lab.member.create(volume, availability_zone="far-away")
    failed = lab.member.wait(made, "error")
    assert failed["fail_reason"] and len(failed["fail_reason"]) <= 255
    assert lab.member.wait_volume(volume)
    lab.member.remove(failed)


def test_failure_is_shown_with_its_reason(lab):
    """Cinder contract 6.2, 6.5: backup error, fail_reason of at most 255 characters, volume as before."""
    volume = lab.registered(name=lab.unique("gone-" + "x" * 150))
    lab.path(volume).unlink()
    failed = lab.member.wait(lab.member.create(volume), "error")
    assert 0 < len(failed["fail_reason"]) <= 255
    assert str(lab.d.root) not in failed["fail_reason"]  # where disks lie is for the administrator to know
    assert (failed["object_count"], failed["size"]) == (0, 1)
    assert lab.member.wait_volume(volume)
    fault(lab.member.post(f"/backups/{failed['id']}/restore", {"restore": {}}), 400)
    lab.member.remove(failed)


def test_registered_disks_are_rounded_up(lab):
    for size, gib in ((1, 1), (MIB, 1), ((1 << 30) - 1, 1), (1 << 30, 1), ((1 << 30) + 1, 2)):
        disk = lab.d.root / lab.unique("odd")
        with open(disk, "wb") as f:
            f.truncate(size)
        made = ok(lab.api.post("/ops/volumes/", {"path": str(disk), "project": lab.project["uuid"]}), 201)
        volume = lab.admin.volume(dashed(made["uuid"]))
        assert volume["size"] == gib
        assert lab.member.backup(volume)["size"] == gib


@pytest.mark.parametrize("version", ["3.0", MAX])
def test_the_oldest_and_the_newest_version_make_the_same(lab, version):
    volume = lab.filled()
    client = lab.member.at(version)
    backup = client.backup(volume, name="n", description="d")
    assert_same_disk(lab.path(volume), lab.path(client.restore(backup)))
