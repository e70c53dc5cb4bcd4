"""Records: what an exported one says, and what importing one does (Cinder contract 1.9, 1.10)."""

import base64
import json
import re
import uuid

import pytest

from helpers.api import ok
from helpers.cinder import (
    MAX, NOBODY, SUMMARY, Cinder, CinderLab, assert_same_disk, dashed, decode, encode, fault, fill, over_quota,
)
from helpers.disks import MIB

KEYS = {
    "id", "user_id", "project_id", "volume_id", "host", "availability_zone", "container", "parent_id", "status", "fail_reason", "size",
    "display_name", "display_description", "service_metadata", "service", "object_count", "temp_volume_id", "temp_snapshot_id",
    "num_dependent_backups", "snapshot_id", "data_timestamp", "restore_volume_id", "metadata", "encryption_key_id", "created_at",
    "updated_at", "deleted_at", "deleted", "driver_info",
}
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")


@pytest.fixture(scope="module")
def volume(shared):
    return shared.filled(1, [(0, 2 * MIB), (100 * MIB, 100_000)], name="v", metadata={"of": "volume"})


@pytest.fixture(scope="module")
def backup(shared, volume):
    return shared.member.backup(volume, name="n", description="d", container="c", metadata={"k": "v"})


def bring(lab, record, service, client=None):
    """Imports a record and waits until the row has come to rest."""
    made = ok((client or lab.admin).import_record(service, encode(record)), 201)["backup"]
    return (client or lab.admin).wait_rest(made)


# -------------------------------------------------------------------- export


def test_form_of_a_record(shared, volume, backup):
    """Cinder contract 1.9, 2.3, 0.4: Tempest demands the prefix, gophercloud's decoder the form of the times."""
    before = shared.admin.show(backup)
    exported = shared.admin.export(backup)
    assert set(exported) == {"backup_service", "backup_url"}
    assert exported["backup_service"].startswith("cinder.backup.drivers")
    record = decode(exported["backup_url"])
    assert set(record) == KEYS
    shown = shared.admin.show(backup)
    for key in ("id", "volume_id", "availability_zone", "container", "status", "fail_reason", "size", "object_count", "snapshot_id",
                "metadata"):
        assert record[key] == shown[key], key
    assert (record["display_name"], record["display_description"]) == ("n", "d")
    assert record["project_id"] == shown["os-backup-project-attr:project_id"] and record["user_id"] == shown["user_id"]
    assert record["service"] == exported["backup_service"] or record["service"].startswith("cinder.backup.drivers")
    assert record["deleted"] is False and record["deleted_at"] is None and record["parent_id"] is None
    assert record["num_dependent_backups"] == 0 and record["encryption_key_id"] is None and isinstance(record["driver_info"], dict)
    for key in ("created_at", "updated_at", "data_timestamp"):
        assert TIME.match(record[key]), (key, record[key])
        assert record[key][:-1] == shown[key][:19]
    assert shown == before  # exporting changes nothing (6.2)


def test_export_does_not_depend_on_the_version(shared, backup):
    """Cinder contract 4.1: the openstack client sends none."""
    assert shared.admin.at("3.0").export(backup) == shared.admin.at(MAX).export(backup)


def test_export_needs_an_available_backup(lab):
    backup = lab.member.backup(lab.admin.create_volume(1))
    lab.admin.reset(backup, "error")
    fault(lab.admin.get(f"/backups/{backup['id']}/export_record"), 400)
    fault(lab.admin.get(f"/backups/{NOBODY}/export_record"), 404)
    # Role before state (0.3).
    fault(lab.member.get(f"/backups/{backup['id']}/export_record"), 403)
    fault(lab.reader.get(f"/backups/{backup['id']}/export_record"), 403)
    fault(lab.member.get(f"/backups/{NOBODY}/export_record"), 404)


def test_record_of_an_incremental_backup(lab):
    volume = lab.filled()
    parent = lab.member.backup(volume)
    child = lab.member.backup(volume, incremental=True)
    assert lab.admin.record(child)["parent_id"] == parent["id"]
    assert lab.admin.record(parent)["num_dependent_backups"] == 1


# -------------------------------------------------------------------- import of an edited record


def test_an_edited_record_beside_the_original(lab):
    """Cinder contract 1.10, 9.8: what Tempest does. Both refer to the same data; each can be restored."""
    volume = lab.filled(1, [(0, 3 * MIB)], name="v", metadata={"of": "volume"})
    backup = lab.member.backup(volume, name="n", description="d", container="c", metadata={"k": "v"})
    exported = lab.admin.export(backup)
    record = decode(exported["backup_url"]) | {"id": str(uuid.uuid4())}
    stored = lab.stored()
    answer = ok(lab.admin.import_record(exported["backup_service"], encode(record)), 201)
    assert set(answer) == {"backup"} and set(answer["backup"]) == SUMMARY
    assert (answer["backup"]["id"], answer["backup"]["name"]) == (record["id"], None)
    copy = lab.admin.wait(record["id"])
    for key in ("name", "description", "container", "size", "object_count", "volume_id", "metadata", "availability_zone"):
        assert copy[key] == backup[key], key
    assert copy["os-backup-project-attr:project_id"] == lab.project["uuid"]
    assert lab.stored() == stored
    fill(lab.path(volume), [(MIB, MIB)])
    for one in (backup, copy, backup):
        new = lab.member.restore(one)
        assert (new["name"], new["metadata"]) == ("v", {"of": "volume", "src_backup_id": one["id"]})
        lab.admin.remove_volume(new)


@pytest.mark.parametrize("first", ["original", "copy"])
def test_deleting_either_leaves_the_other_whole(own, first):
    """Cinder contract 1.10: data is counted by who refers to it; the second deletion does not fail, and then the room is free."""
    volume = own.filled(1, [(0, 3 * MIB), (500 * MIB, MIB)])
    backup = own.member.backup(volume)
    exported = own.admin.export(backup)
    copy = bring(own, decode(exported["backup_url"]) | {"id": str(uuid.uuid4())}, exported["backup_service"])
    assert copy["status"] == "available" and own.admin.usage()[:2] == (2, 2)
    gone, left = (backup, copy) if first == "original" else (copy, backup)
    own.member.remove(gone)
    own.gc()
    assert own.member.ids() == [left["id"]]
    new = own.member.restore(left)
    assert_same_disk(own.path(volume), own.path(new))
    own.d.restart()
    own.member.restore(left, volume_id=new["id"])
    assert_same_disk(own.path(volume), own.path(new))
    own.member.remove(left)
    own.gc()
    assert own.stored() == 0 and own.admin.usage()[:2] == (0, 0)


def test_recorded_fields_are_taken_and_others_are_not(lab):
    """Cinder contract 1.10: the owner is who imports; status, times of deletion and the like are not believed."""
    backup = lab.member.backup(lab.filled(), name="n")
    exported = lab.admin.export(backup)
    stranger = uuid.uuid4().hex
    record = decode(exported["backup_url"]) | {
        "id": str(uuid.uuid4()), "display_name": "renamed", "display_description": "edited", "container": "other",
        "project_id": stranger, "user_id": stranger, "status": "error", "fail_reason": "made up", "deleted": True,
        "deleted_at": "2020-01-01T00:00:00Z", "name": "ignored", "metadata": {"x": "y"},
    }
    copy = bring(lab, record, exported["backup_service"])
    assert copy["status"] == "available"
    assert (copy["name"], copy["description"], copy["container"]) == ("renamed", "edited", "other")
    assert copy["os-backup-project-attr:project_id"] == lab.project["uuid"] and copy["user_id"] != stranger
    assert copy["fail_reason"] is None and copy["metadata"] in ({"x": "y"}, {})
    assert lab.member.show(backup)["name"] == "n"


def test_import_into_another_project(lab):
    """The importer's project owns it; the original's does not see it."""
    abroad = Cinder(lab.d, lab.new_project()["uuid"], lab.d.token)
    volume = lab.filled()
    backup = lab.member.backup(volume)
    exported = lab.admin.export(backup)
    copy = bring(lab, decode(exported["backup_url"]) | {"id": str(uuid.uuid4())}, exported["backup_service"], abroad)
    assert copy["id"] in abroad.ids() and copy["id"] not in lab.admin.ids()
    fault(lab.member.get(f"/backups/{copy['id']}"), 404)
    lab.member.remove(backup)
    lab.gc()
    assert_same_disk(lab.path(volume), lab.path(abroad.restore(copy)))


def test_the_id_of_an_instance_backup_is_refused(lab, backup):
    """It is a live id as well, though Cinder does not list it: this was a 500."""
    exported = lab.admin.export(backup)
    whole = lab.backup(lab.instance([MIB]))
    record = decode(exported["backup_url"]) | {"id": dashed(whole["uuid"])}
    fault(lab.admin.import_record(exported["backup_service"], encode(record)), 400)
    assert lab.get(whole)["state"] == "Ready"


def test_a_live_id_is_refused(shared, backup):
    """Cinder contract 1.10: in whatever project it lives."""
    exported = shared.admin.export(backup)
    fault(shared.admin.import_record(exported["backup_service"], exported["backup_url"]), 400)
    abroad = Cinder(shared.d, shared.new_project()["uuid"], shared.d.token)
    fault(abroad.import_record(exported["backup_service"], exported["backup_url"]), 400)
    assert shared.admin.show(backup) == backup | {
        k: v for k, v in shared.admin.show(backup).items() if k.startswith("os-backup") or k == "user_id"
    }


@pytest.mark.parametrize("cleared", [False, True])
def test_a_deleted_id_may_come_back(lab, cleared):
    """Cinder contract 1.10: with its data if that is still there, else as a failure that says so; never as a good backup without."""
    volume = lab.filled(1, [(0, 3 * MIB)])
    backup = lab.member.backup(volume)
    exported = lab.admin.export(backup)
    lab.member.remove(backup)
    if cleared:
        lab.gc()
    answer = lab.admin.import_record(exported["backup_service"], exported["backup_url"])
    if answer.status_code == 400:
        fault(answer, 400)
        return
    again = lab.admin.wait_rest(ok(answer, 201)["backup"])
    assert again["id"] == backup["id"]
    if again["status"] == "available":
        assert_same_disk(lab.path(volume), lab.path(lab.member.restore(again)))
    else:
        assert again["fail_reason"]
        fault(lab.admin.action(again, "os-reset_status", {"status": "available"}), 400)
    lab.member.remove(again)


def test_import_of_an_incremental_backup(lab):
    """It is complete by itself; whether it shows a parent or not, it restores after all others are gone."""
    volume = lab.filled(1, [(0, 2 * MIB)])
    parent = lab.member.backup(volume)
    fill(lab.path(volume), [(MIB, 2 * MIB)])
    child = lab.member.backup(volume, incremental=True)
    exported = lab.admin.export(child)
    copy = bring(lab, decode(exported["backup_url"]) | {"id": str(uuid.uuid4())}, exported["backup_service"])
    lab.member.remove(child)
    if not copy["is_incremental"]:
        lab.member.remove(parent)
        lab.gc()
    assert_same_disk(lab.path(volume), lab.path(lab.member.restore(copy)))


@pytest.mark.parametrize("metadata", [{"a": {"b": "c"}}, {"a": 1}, {"a": "v" * 256}, {f"k{n}": "v" for n in range(129)}, "x"])
def test_metadata_that_is_none_is_not_imported(lab, metadata):
    """One nested value would hide all the other metadata of the volume that it is restored to."""
    volume = lab.filled(metadata={"mine": "1"})
    exported = lab.admin.export(lab.member.backup(volume))
    record = decode(exported["backup_url"])
    record["driver_info"]["volume"]["metadata"] = metadata
    record["id"] = str(uuid.uuid4())
    made = lab.admin.wait(ok(lab.admin.import_record(exported["backup_service"], encode(record)), 201)["backup"])
    restored = lab.member.restore(made)
    assert restored["metadata"] == {"src_backup_id": made["id"]}
    del record["driver_info"]
    record["id"] = str(uuid.uuid4())
    lab.admin.wait(ok(lab.admin.import_record(exported["backup_service"], encode(record)), 201)["backup"])


# -------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("body", [
    {}, {"backup-record": {}}, {"backup-record": None}, {"backup-record": []}, {"backup-record": {"backup_service": "x"}},
    {"backup-record": {"backup_url": "e30="}}, {"backup-record": {"backup_service": None, "backup_url": "e30="}},
    {"backup-record": {"backup_service": "x" * 256, "backup_url": "e30="}}, {"backup-record": {"backup_service": "x", "backup_url": ""}},
    {"backup-record": {"backup_service": "x", "backup_url": None}}, {"backup-record": {"backup_service": "x", "backup_url": 7}},
    {"backup-record": {"backup_service": 7, "backup_url": "e30="}},
    {"backup-record": {"backup_service": "x", "backup_url": "e30=", "other": 1}},
    {"backup-record": {"backup_service": "x", "backup_url": "e30="}, "other": 1},
    {"backup_service": "x", "backup_url": "e30="}, {"backup": {"backup_service": "x", "backup_url": "e30="}},
], ids=lambda b: str(b)[:60])
def test_bodies_that_break_the_schema(shared, body):
    """Cinder contract 1.10: for everybody, as the schema is looked at first (0.3)."""
    for client in (shared.admin, shared.member, shared.reader):
        fault(client.post("/backups/import_record", body), 400)


def b64(thing):
    return base64.b64encode(thing if isinstance(thing, bytes) else json.dumps(thing).encode()).decode()


BROKEN = {
    "no base64": "%%%", "base64 cut": "eyJpZCI6", "base64url": "_-_-", "line breaks": "e30=\ne30=", "no JSON": b64(b"{"), "no UTF-8": b64(b"\xff\xfe"),
    "a list": b64([]), "text": b64("x"), "null": b64(None), "empty": b64({}), "deep": b64(b"[" * 20_000),
    "no id": b64({"size": 1}), "no size": b64({"id": str(uuid.uuid4())}), "id null": b64({"id": None, "size": 1}),
    "size null": b64({"id": str(uuid.uuid4()), "size": None}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_records(shared, backup, name):
    """Cinder contract 1.10: 400 for an administrator; a member does not even learn that (0.3)."""
    service = shared.admin.export(backup)["backup_service"]
    before = shared.admin.ids(), shared.admin.usage()
    fault(shared.admin.import_record(service, BROKEN[name]), 400)
    fault(shared.member.import_record(service, BROKEN[name]), 403)
    fault(shared.reader.import_record(service, BROKEN[name]), 403)
    assert (shared.admin.ids(), shared.admin.usage()) == before


FORGED = {
    "id no uuid": {"id": "../../x"}, "id a number": {"id": 7}, "size text": {"size": "big"}, "size negative": {"size": -1},
    "size huge": {"size": 10**18}, "size other": {"size": 2}, "name a list": {"display_name": []}, "count text": {"object_count": "many"},
    "count negative": {"object_count": -1}, "service_metadata gone": {"service_metadata": None}, "service_metadata other": {"service_metadata": "x"},
    "service_metadata a path": {"service_metadata": "../../../etc/passwd"}, "container a path": {"container": "../../etc"},
    "metadata text": {"metadata": "x"}, "metadata null": {"metadata": None}, "volume no uuid": {"volume_id": "x"},
    "parent unknown": {"parent_id": str(uuid.uuid4())}, "parent itself": {"parent_id": ...}, "times": {"created_at": "yesterday"},
    "data_timestamp": {"data_timestamp": 17}, "driver_info": {"driver_info": []}, "long name": {"display_name": "x" * 70_000}, "long description": {"display_description": "x" * 70_000},
    "description of lines": {"display_description": "a\nb"}, "metadata of numbers": {"metadata": {"a": 1}},
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_records(lab, name):
    """Cinder contract 1.10, 7 (stock trusts the content). Refused, or a row that either failed or restores the very bytes;
    never an answer 500, and it can be deleted without harm to the original."""
    volume = lab.filled(1, [(0, MIB)])
    backup = lab.member.backup(volume)
    exported = lab.admin.export(backup)
    ident = str(uuid.uuid4())
    record = decode(exported["backup_url"]) | {"id": ident}
    record |= {key: ident if value is ... else value for key, value in FORGED[name].items()}
    answer = lab.admin.import_record(exported["backup_service"], encode(record))
    if answer.status_code == 201:
        row = lab.admin.wait_rest(answer.json()["backup"])
        assert row["id"] == record["id"]
        # What creating one would not accept, or could not have, is not shown because a record says so (1.1, 2.2).
        assert len(row["name"] or "") <= 255 and len(row["description"] or "") <= 255 and row["object_count"] >= 0
        assert all(isinstance(v, str) for v in row["metadata"].values())
        if row["status"] == "available":
            new = lab.admin.restore(row)
            assert_same_disk(lab.path(volume), lab.path(new), length=new["size"] << 30)
        else:
            assert row["status"] == "error" and row["fail_reason"]
        lab.admin.remove(row)
    else:
        fault(answer, 400)
    assert lab.admin.ids() == [backup["id"]]
    lab.gc()
    assert_same_disk(lab.path(volume), lab.path(lab.member.restore(backup)))


def test_missing_fields(lab):
    """Cinder contract 1.10: what the record must have. Refused at once, or an error that says what is missing."""
    backup = lab.member.backup(lab.filled())
    exported = lab.admin.export(backup)
    for key in ("display_name", "display_description", "container", "service_metadata", "object_count"):
        record = decode(exported["backup_url"]) | {"id": str(uuid.uuid4())}
        del record[key]
        answer = lab.admin.import_record(exported["backup_service"], encode(record))
        if answer.status_code == 201:
            row = lab.admin.wait_rest(answer.json()["backup"])
            assert row["status"] == "available" or row["fail_reason"]
        else:
            fault(answer, 400)


def test_an_unknown_driver_shows_later(lab):
    """Cinder contract 1.10: 201, and the row becomes error."""
    exported = lab.admin.export(lab.member.backup(lab.filled()))
    record = decode(exported["backup_url"]) | {"id": str(uuid.uuid4())}
    for service in ("cinder.backup.drivers.tape.TapeDriver", "x"):
        record["id"] = str(uuid.uuid4())
        row = bring(lab, record, service)
        assert row["status"] == "error" and row["fail_reason"]
        fault(lab.admin.action(row, "os-reset_status", {"status": "available"}), 400)
        lab.admin.remove(row)


def test_import_consumes_quota(lab):
    """Cinder contract 1.10."""
    backup = lab.member.backup(lab.filled())
    exported = lab.admin.export(backup)
    url = encode(decode(exported["backup_url"]) | {"id": str(uuid.uuid4())})
    for limits in ({"backups": 1, "backup_gigabytes": -1}, {"backups": -1, "backup_gigabytes": 1}):
        lab.admin.set_quota(**limits)
        over_quota(lab.admin.import_record(exported["backup_service"], url))
    assert lab.admin.ids() == [backup["id"]] and lab.admin.usage()[:2] == (1, 1)
    lab.admin.set_quota(backups=2, backup_gigabytes=2)
    copy = lab.admin.wait(ok(lab.admin.import_record(exported["backup_service"], url), 201)["backup"])
    assert lab.admin.usage()[:2] == (2, 2)
    lab.admin.remove(copy)
    assert lab.admin.usage()[:2] == (1, 1)


def test_a_record_is_no_key_to_another_coffer(own, start_daemon):
    """A record whose data is not in this coffer must not become available."""
    backup = own.member.backup(own.filled())
    exported = own.admin.export(backup)
    other = CinderLab(start_daemon())
    answer = other.admin.import_record(exported["backup_service"], exported["backup_url"])
    if answer.status_code == 201:
        row = other.admin.wait_rest(answer.json()["backup"])
        assert row["status"] == "error" and row["fail_reason"]
        other.admin.remove(row)
    else:
        fault(answer, 400)
