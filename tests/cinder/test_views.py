"""The objects of answers: exactly these keys for each version and role, and their types (Cinder contract 2, 6.5)."""

import pytest

from helpers.api import ok
from helpers.cinder import MAX, SUMMARY, TIME, UUID, decode, detail_keys, encode
from helpers.daemon import slow_reads
from helpers.disks import MIB

VERSIONS = ["3.0", "3.9", "3.17", "3.18", "3.42", "3.43", "3.45", "3.51", "3.55", "3.56", "3.63", "3.64", "3.65", "3.70", MAX]


@pytest.fixture(scope="module")
def volume(shared):
    return shared.filled(1, [(0, MIB)])


@pytest.fixture(scope="module")
def backups(shared, volume):
    """One of each kind: full, incremental, of a snapshot, failed, imported."""
    full = shared.member.backup(volume, name="full", description="d", container="c", metadata={"a": "b"})
    incremental = shared.member.backup(volume, incremental=True)
    snapshot = shared.admin.snapshot(volume)
    of_snapshot = shared.member.backup(volume, snapshot_id=snapshot["id"])
    lost = shared.registered()
    shared.path(lost).unlink()
    failed = shared.member.wait(shared.member.create(lost), "error")
    exported = shared.admin.export(full)
    record = decode(exported["backup_url"]) | {"id": "11111111-2222-3333-4444-" + full["id"][-12:]}
    made = ok(shared.admin.import_record(exported["backup_service"], encode(record)), 201)["backup"]
    return {"full": full, "incremental": incremental, "snapshot": of_snapshot, "failed": failed, "imported": shared.admin.wait(made)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ["admin", "member", "reader"])
def test_keys_of_the_detail_view(shared, backups, version, role):
    """Cinder contract 2.2: Tempest refuses any key it does not know. encryption_key_id never appears (3.64)."""
    client = {"admin": shared.admin, "member": shared.member, "reader": shared.reader}[role].at(version)
    keys = detail_keys(version, role == "admin")
    listed = {b["id"]: b for b in client.list()}
    assert set(listed) >= {b["id"] for b in backups.values()}
    for backup in backups.values():
        answer = ok(client.get(f"/backups/{backup['id']}"))
        assert set(answer) == {"backup"}
        assert set(answer["backup"]) == keys
        assert listed[backup["id"]] == answer["backup"]


@pytest.mark.parametrize("version", VERSIONS)
def test_keys_of_the_summary_view(shared, volume, backups, version):
    """Cinder contract 2.1: in the list, and as the answer to create, update and import."""
    for client in (shared.admin.at(version), shared.reader.at(version)):
        assert all(set(b) == SUMMARY for b in client.list(detail=False))
    client = shared.admin.at(version)
    made = ok(client.post("/backups", {"backup": {"volume_id": volume["id"], "name": "n"}}), 202)
    assert set(made) == {"backup"} and set(made["backup"]) == SUMMARY
    backup = client.wait(made["backup"])
    if version != "3.0":
        updated = ok(client.put(f"/backups/{backup['id']}", {"backup": {"name": "m"}}))
        assert set(updated) == {"backup"} and set(updated["backup"]) == SUMMARY
    exported = ok(client.get(f"/backups/{backup['id']}/export_record"))
    assert set(exported) == {"backup-record"} and set(exported["backup-record"]) == {"backup_service", "backup_url"}
    restored = ok(client.post(f"/backups/{backup['id']}/restore", {"restore": {"name": "r"}}), 202)
    assert set(restored) == {"restore"} and set(restored["restore"]) == {"backup_id", "volume_id", "volume_name"}
    shared.admin.wait_volume(restored["restore"]["volume_id"])
    client.wait(backup)
    client.remove(backup)


@pytest.mark.parametrize("kind", ["full", "incremental", "snapshot", "failed", "imported"])
def test_types_of_the_detail_view(shared, backups, kind):
    """Cinder contract 2.2."""
    shown = shared.admin.show(backups[kind])
    text = (str,)
    perhaps = (str, type(None))
    types = {
        "id": text, "status": text, "availability_zone": perhaps, "container": perhaps, "created_at": text, "updated_at": perhaps,
        "name": perhaps, "description": perhaps, "fail_reason": perhaps, "volume_id": text, "links": (list,),
        "is_incremental": (bool,), "has_dependent_backups": (bool,), "snapshot_id": perhaps, "data_timestamp": perhaps,
        "metadata": (dict,), "os-backup-project-attr:project_id": text, "user_id": text, "size": (int,), "object_count": (int,),
    }
    assert set(types) == set(shown)
    for key, allowed in types.items():
        assert type(shown[key]) in allowed, (key, shown[key])
    for key in ("id", "volume_id", "snapshot_id"):
        assert shown[key] is None or UUID.match(shown[key]), (key, shown[key])
    for key in ("created_at", "updated_at", "data_timestamp"):
        assert shown[key] is None or TIME.match(shown[key]), (key, shown[key])
    for link, rel in zip(shown["links"], ("self", "bookmark"), strict=True):
        assert set(link) == {"rel", "href"} and link["rel"] == rel
    assert all(isinstance(v, str) for v in shown["metadata"].values())
    assert shown["os-backup-project-attr:project_id"] == shared.project["uuid"]
    assert shown["fail_reason"] is None or 0 < len(shown["fail_reason"]) <= 255
    assert (shown["fail_reason"] is not None) == (kind == "failed")


def test_values_of_each_kind(shared, volume, backups):
    """Cinder contract 6.5."""
    shown = {kind: shared.admin.show(b) for kind, b in backups.items()}
    assert {kind: b["is_incremental"] for kind, b in shown.items()} == {
        "full": False, "incremental": True, "snapshot": False, "failed": False, "imported": False,
    }
    assert shown["full"]["has_dependent_backups"] is True
    assert [kind for kind, b in shown.items() if b["snapshot_id"]] == ["snapshot"]
    assert {b["size"] for b in shown.values()} == {1}
    assert shown["full"]["object_count"] > 0 and shown["failed"]["object_count"] == 0
    assert shown["imported"]["object_count"] == shown["full"]["object_count"]
    assert all(b["volume_id"] == volume["id"] for kind, b in shown.items() if kind != "failed")


def test_user_is_who_made_it(shared, volume):
    """Cinder contract 2.2: shown to administrators only, from 3.56."""
    made = shared.member.backup(volume)
    users = {u["username"]: u["uuid"] for u in shared.api.list("/api/users/")}
    shown = shared.admin.show(made)
    assert shown["user_id"] in users.values()
    assert shown["user_id"] != shared.admin.show(shared.admin.backup(volume))["user_id"]


def test_view_while_creating(braked):
    """Cinder contract 2.2: sizes at once, objects when finished; no key is missing meanwhile."""
    lab = braked(slow_reads, "slow.img")
    backup = lab.member.create(lab.registered(8 * MIB, "slow.img"), name="n")
    shown = lab.admin.show(backup)
    assert set(shown) == detail_keys(MAX, admin=True)
    assert (shown["status"], shown["size"], shown["object_count"], shown["fail_reason"]) == ("creating", 1, 0, None)
    assert shown["data_timestamp"] == shown["created_at"]
    after = lab.admin.wait(backup)
    assert after["object_count"] > 0 and after["created_at"] == shown["created_at"]
    assert after["data_timestamp"] == shown["data_timestamp"]
