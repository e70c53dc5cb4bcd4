"""Snapshots: made of volumes, kept in the store, shown, listed, changed, deleted (Cinder contract 3.3, 4.2, 6.2)."""

import pytest

from helpers.api import HEX32, local, ok, query_of
from helpers.cinder import GIB, UUID, dashed, empty, moment
from helpers.cinder_volumes import (
    FALSE, LATEST, NOBODY, SNAPSHOT_SUMMARY, TRUE, Cloud, content, fault, scribble, snapshot_keys,
)
from helpers.daemon import slow_reads
from helpers.disks import MIB, make_raw
from helpers.wait import wait_for

VERSIONS = ["3.0", "3.13", "3.14", "3.40", "3.41", "3.64", "3.65", "3.71"]


@pytest.fixture(scope="module")
def volume(cloud):
    return cloud.volume(1, seed="snapshots", name="origin")


@pytest.fixture(scope="module")
def snapshot(cloud, volume):
    return cloud.snapshot(volume, name="first", description="before the change", metadata={"why": "test"})


# -------------------------------------------------------------------- views


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ["member", "reader", "admin"])
def test_the_detail_view_has_exactly_these_keys(cloud, snapshot, role, version):
    client = getattr(cloud, role).at(version)
    assert set(client.show("snapshots", snapshot)) == snapshot_keys(version)
    (listed,) = client.list("snapshots", detail=True, name="first")
    assert set(listed) == snapshot_keys(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_summary_has_the_same_nine_keys_at_every_version(cloud, volume, snapshot, version):
    """In the plain list and in the answers to a creation and to a change."""
    client = cloud.member.at(version)
    (entry,) = client.list("snapshots", name="first")
    made = client.create("snapshots", volume_id=volume["id"], force=True)
    changed = ok(client.put(f"/snapshots/{snapshot['id']}", {"snapshot": {"name": "first"}}))["snapshot"]
    assert [set(view) for view in (entry, made, changed)] == [SNAPSHOT_SUMMARY] * 3
    client.wait("snapshots", made)
    cloud.remove("snapshots", made)


def test_types_of_the_values(cloud, volume, snapshot):
    shown = cloud.member.show("snapshots", snapshot)
    assert UUID.match(shown["id"]) and shown["volume_id"] == volume["id"]
    assert (shown["name"], shown["description"], shown["metadata"]) == ("first", "before the change", {"why": "test"})
    assert (shown["status"], shown["size"]) == ("available", 1)
    assert moment(shown["created_at"]) and (shown["updated_at"] is None or moment(shown["updated_at"]))
    assert shown["os-extended-snapshot-attributes:project_id"] == cloud.project["uuid"]
    assert HEX32.match(shown["os-extended-snapshot-attributes:project_id"])
    assert shown["os-extended-snapshot-attributes:progress"] == "100%"
    assert shown["group_snapshot_id"] is None and isinstance(shown["user_id"], str) and shown["consumes_quota"] is True


@pytest.mark.parametrize("name", [NOBODY, "first", "x" * 300, "%00"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_names_no_snapshot_is_404(cloud, snapshot, method, name):
    body = {"snapshot": {"name": "x"}} if method == "PUT" else None
    fault(cloud.member.request(method, f"/snapshots/{name}", body), 404)


def test_a_snapshot_of_another_project_is_not_there(cloud, snapshot):
    """Cinder contract 0.3."""
    for method, body in (("GET", None), ("PUT", {"snapshot": {"name": "mine"}}), ("DELETE", None)):
        fault(cloud.stranger.request(method, f"/snapshots/{snapshot['id']}", body), 404)
    assert cloud.stranger.list("snapshots") == []
    other = cloud.staff(cloud.new_project())
    assert other.show("snapshots", snapshot)["id"] == snapshot["id"]
    assert other.list("snapshots") == []
    assert snapshot["id"] in other.ids("snapshots", all_tenants="1")


def test_a_reader_changes_nothing(cloud, volume, snapshot):
    """Cinder contract 0.3."""
    before = cloud.member.ids("snapshots")
    fault(cloud.reader.post("/snapshots", {"snapshot": {"volume_id": volume["id"]}}), 403)
    fault(cloud.reader.put(f"/snapshots/{snapshot['id']}", {"snapshot": {"name": "x"}}), 403)
    fault(cloud.reader.delete(f"/snapshots/{snapshot['id']}"), 403)
    assert cloud.member.ids("snapshots") == before


# -------------------------------------------------------------------- creation


@pytest.mark.parametrize("fields", [
    {}, {"name": None, "description": None, "metadata": {}}, {"name": "x" * 255, "description": "x" * 255}, {"name": "Größe \u4e16"},
    {"metadata": {"k" * 255: "v" * 255}}, {"force": False},
], ids=lambda fields: str(fields)[:30])
@pytest.mark.parametrize("version", ["3.0", "3.65"])
def test_creation(cloud, volume, fields, version):
    made = cloud.member.at(version).create("snapshots", volume_id=volume["id"], **fields)
    assert made["status"] in ("creating", "available") and made["size"] == 1 and made["volume_id"] == volume["id"]
    wanted = {"name": None, "description": None, "metadata": {}} | {k: v for k, v in fields.items() if k != "force"}
    assert {key: made[key] for key in wanted} == wanted
    shown = cloud.member.wait("snapshots", made)
    assert {key: shown[key] for key in wanted} == wanted
    cloud.remove("snapshots", made)


@pytest.mark.parametrize("value", TRUE + FALSE)
def test_force_is_a_boolean_in_many_spellings(cloud, volume, value):
    """Cinder contract 1.1."""
    made = cloud.member.at("3.0").create("snapshots", volume_id=volume["id"], force=value)
    cloud.member.wait("snapshots", made)
    cloud.remove("snapshots", made)


@pytest.mark.parametrize("fields", [
    {"name": "x" * 256}, {"name": 7}, {"description": "x" * 256}, {"description": []}, {"force": "perhaps"}, {"force": 2}, {"force": None},
    {"metadata": "x"}, {"metadata": []}, {"metadata": {"k": 7}}, {"metadata": {"": "v"}}, {"metadata": {"k" * 256: "v"}},
    {"metadata": {"k": "v" * 256}}, {"volume_id": 7}, {"volume_id": []},
], ids=lambda fields: str(fields)[:30])
def test_wrong_fields_are_400(cloud, volume, fields):
    before = cloud.member.ids("snapshots")
    fault(cloud.member.at("3.0").post("/snapshots", {"snapshot": {"volume_id": volume["id"], **fields}}), 400)
    assert cloud.member.ids("snapshots") == before


@pytest.mark.parametrize("body", [[], {}, {"snapshot": None}, {"snapshot": []}, {"snapshot": {}}, {"snapshot": {"name": "x"}}], ids=str)
def test_a_body_that_is_no_snapshot_is_400(cloud, body):
    fault(cloud.member.post("/snapshots", body), 400)


def test_of_a_volume_that_is_not_there(cloud, volume):
    """No volume at all is not found either, says Tempest."""
    for unknown in (NOBODY, None):
        cloud.member.create("snapshots", 404, volume_id=unknown)
    cloud.stranger.create("snapshots", 404, volume_id=volume["id"])


@pytest.mark.parametrize("status", ["error", "creating", "attaching", "deleting", "restoring-backup", "maintenance"])
@pytest.mark.parametrize("force", [True, False])
def test_of_a_volume_in_another_state(cloud, status, force):
    volume = cloud.volume(1)
    cloud.reset(volume, status)
    fault(cloud.member.at("3.0").post("/snapshots", {"snapshot": {"volume_id": volume["id"], "force": force}}), 400)
    cloud.reset(volume, "available")


@pytest.mark.parametrize("version, fields, code", [
    ("3.0", {}, 400), ("3.65", {}, 400), ("3.65", {"force": False}, 400), ("3.0", {"force": True}, 202), ("3.65", {"force": "true"}, 202),
    ("3.66", {}, 202), (LATEST, {}, 202), (LATEST, {"force": True}, 202),
])
def test_of_a_volume_in_use(cloud, version, fields, code):
    """Cinder contract 3.3: from 3.66 no force is needed."""
    volume = cloud.volume(1, seed="busy")
    cloud.attach(volume)
    made = cloud.member.at(version).create("snapshots", code, volume_id=volume["id"], **fields)
    if code == 202:
        cloud.member.wait("snapshots", made)
    assert cloud.member.show("volumes", volume)["status"] == "in-use"


def test_the_size_is_that_of_the_volume(cloud):
    assert cloud.snapshot(cloud.volume(3))["size"] == 3
    odd = make_raw(cloud.d.root / "odd.img", 5 * MIB)
    with open(odd, "r+b") as f:
        f.truncate(GIB + 512)
    made = ok(cloud.api.post("/ops/volumes/", {"path": str(odd), "project": cloud.project["uuid"]}), 201)
    assert cloud.snapshot(dashed(made["uuid"]))["size"] == 2


def test_of_a_disk_that_cannot_be_read_it_fails(cloud):
    snapshot = cloud.lost_snapshot()
    cloud.remove("snapshots", snapshot)


def test_it_is_creating_until_it_has_all_bytes(start_daemon):
    """And the volume is not locked meanwhile for anything but its deletion."""
    d = start_daemon(start=False)
    path = make_raw(d.root / "slow.img", 4 * MIB, seed="slow")
    d.wrapper = [str(word) for word in slow_reads(path, "100ms")]
    cloud = Cloud(d.start())
    made = ok(cloud.api.post("/ops/volumes/", {"path": str(path), "project": cloud.project["uuid"]}), 201)["uuid"]
    (volume,) = cloud.member.list("volumes", detail=True)
    assert volume["id"].replace("-", "") == made
    snapshot = cloud.member.create("snapshots", volume_id=volume["id"])
    assert snapshot["status"] == "creating"
    cloud.member.create("volumes", 400, snapshot_id=snapshot["id"])
    fault(cloud.member.post("/backups", {"backup": {"volume_id": volume["id"], "snapshot_id": snapshot["id"]}}), 400)
    fault(cloud.member.delete(f"/volumes/{volume['id']}"), 400)
    seen, _ = cloud.member.watch("snapshots", snapshot)
    assert seen == ["creating", "available"]


# -------------------------------------------------------------------- what it is good for


def test_a_backup_of_a_snapshot_has_the_bytes_of_that_instant(cloud):
    """Cinder contract 1.1, 2.2, 6.5: whatever has become of the volume since."""
    volume = cloud.volume(1, seed="then")
    path, before = cloud.path(volume), content(cloud.path(volume))
    snapshot = cloud.snapshot(volume)
    scribble(path, "now")
    backup = cloud.backup(volume, snapshot_id=snapshot["id"])
    assert backup["snapshot_id"] == snapshot["id"] and backup["volume_id"] == volume["id"] and backup["size"] == 1
    assert backup["data_timestamp"] == cloud.member.show("snapshots", snapshot)["created_at"]
    assert cloud.member.show("snapshots", snapshot)["status"] == "available"
    made = cloud.member.wait("volumes", cloud.member.create("volumes", backup_id=backup["id"]))
    assert content(cloud.path(made)) == before


def test_snapshots_of_one_volume_are_independent(cloud):
    volume = cloud.volume(1)
    path, kept = cloud.path(volume), []
    for n in range(3):
        scribble(path, f"state {n}", where=(n / 3, 1))
        kept.append((cloud.snapshot(volume, name=str(n)), content(path)))
    cloud.remove("snapshots", kept[1][0])
    scribble(path, "later")
    for snapshot, bytes_then in (kept[0], kept[2]):
        made = cloud.member.wait("volumes", cloud.member.create("volumes", snapshot_id=snapshot["id"]))
        assert content(cloud.path(made)) == bytes_then


def test_its_bytes_outlive_a_collection_of_garbage(cloud):
    volume = cloud.volume(1, seed="kept")
    before = content(cloud.path(volume))
    snapshot, backup = cloud.snapshot(volume), cloud.backup(volume)
    cloud.remove("backups", backup)
    with open(cloud.path(volume), "r+b") as f:
        f.truncate(0)
        f.truncate(GIB)
    task = ok(cloud.api.post("/ops/gc/", {"dead_fraction": 0}), 202)["task"]
    wait_for(lambda: ok(cloud.api.get(f"/ops/tasks/{task}/"))["state"] == "done", "the collection ends")
    made = cloud.member.wait("volumes", cloud.member.create("volumes", snapshot_id=snapshot["id"]))
    assert content(cloud.path(made)) == before


def test_a_snapshot_of_a_machines_volume(cloud):
    vm, (volume,) = cloud.online(2 * MIB)
    before = content(cloud.path(volume))
    snapshot = cloud.snapshot(volume, force=True)
    made = cloud.member.wait("volumes", cloud.member.create("volumes", snapshot_id=snapshot["id"]))
    assert content(cloud.path(made)) == before
    assert cloud.member.show("volumes", volume)["status"] == "in-use"


# -------------------------------------------------------------------- changes


@pytest.mark.parametrize("fields", [
    {"name": "other"}, {"name": None}, {"name": "x" * 255}, {"description": "other"}, {"description": None}, {"name": "n", "description": "d"},
], ids=lambda fields: str(fields)[:30])
def test_a_change_is_answered_and_kept(cloud, snapshot, fields):
    changed = ok(cloud.member.put(f"/snapshots/{snapshot['id']}", {"snapshot": fields}))["snapshot"]
    shown = cloud.member.show("snapshots", snapshot)
    for key, value in fields.items():
        assert changed[key] == shown[key] == value
    ok(cloud.member.put(f"/snapshots/{snapshot['id']}", {"snapshot": {"name": "first", "description": "before the change"}}))
    assert cloud.member.show("snapshots", snapshot) | {"updated_at": 0} == snapshot | {"updated_at": 0}


@pytest.mark.parametrize("body", [
    [], {}, {"name": "x"}, {"snapshot": None}, {"snapshot": []}, {"snapshot": {"name": "x" * 256}}, {"snapshot": {"name": 7}},
    {"snapshot": {"description": "x" * 256}}, {"snapshot": {"description": {}}},
], ids=lambda body: str(body)[:30])
def test_a_wrong_change_is_400(cloud, snapshot, body):
    before = cloud.member.show("snapshots", snapshot)
    fault(cloud.member.put(f"/snapshots/{snapshot['id']}", body), 400)
    assert cloud.member.show("snapshots", snapshot) == before


# -------------------------------------------------------------------- deletion


@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_deletion(cloud, volume, version):
    made = cloud.snapshot(volume)
    client = cloud.member.at(version)
    empty(client.delete(f"/snapshots/{made['id']}"))
    client.gone("snapshots", made)
    assert made["id"] not in client.ids("snapshots")
    fault(client.delete(f"/snapshots/{made['id']}"), 404)
    assert client.show("volumes", volume)["status"] == "available"


def test_what_was_made_of_it_stays(cloud):
    volume = cloud.volume(1, seed="descendants")
    before = content(cloud.path(volume))
    snapshot = cloud.snapshot(volume)
    made = cloud.member.wait("volumes", cloud.member.create("volumes", snapshot_id=snapshot["id"]))
    backup = cloud.backup(volume, snapshot_id=snapshot["id"])
    cloud.remove("snapshots", snapshot)
    assert cloud.member.show("backups", backup)["snapshot_id"] == snapshot["id"]
    again = cloud.member.wait("volumes", cloud.member.create("volumes", backup_id=backup["id"]))
    assert content(cloud.path(made)) == content(cloud.path(again)) == before


@pytest.mark.parametrize("name, value", [("os-reset_status", {"status": "error"}), ("os-force_delete", {})])
@pytest.mark.parametrize("role", ["manager", "reader", "admin"])
def test_resetting_and_forcing_are_for_admins(cloud, snapshot, name, value, role):
    """Cinder contract 0.3."""
    fault(cloud.client(role).action("snapshots", snapshot, name, value), 403)
    assert cloud.member.show("snapshots", snapshot)["status"] == "available"


def test_a_snapshot_that_was_reset_to_error_can_be_deleted(cloud, volume):
    made = cloud.snapshot(volume)
    empty(cloud.admin.action("snapshots", made, "os-reset_status", {"status": "error"}))
    assert cloud.member.show("snapshots", made)["status"] == "error"
    cloud.member.create("volumes", 400, snapshot_id=made["id"])
    cloud.remove("snapshots", made)
    other = cloud.snapshot(volume)
    empty(cloud.admin.action("snapshots", other, "os-force_delete", {}))
    cloud.member.gone("snapshots", other)


@pytest.mark.parametrize("body", [{}, {"os-nothing": {}}, {"os-reset_status": {"status": "fine"}}, {"os-reset_status": {}}, []], ids=str)
def test_wrong_actions_are_400(cloud, snapshot, body):
    fault(cloud.admin.post(f"/snapshots/{snapshot['id']}/action", body), 400)
    assert cloud.member.show("snapshots", snapshot)["status"] == "available"


# -------------------------------------------------------------------- lists


@pytest.fixture(scope="module")
def shelf(start_module_daemon):
    """A project with two volumes and four snapshots."""
    cloud = Cloud(start_module_daemon())
    one, two = cloud.volume(1), cloud.volume(2)
    cloud.one = one
    cloud.made = [
        cloud.snapshot(volume, name=name, metadata=metadata)
        for volume, name, metadata in ((one, "delta", {"k": "v"}), (two, "beta", {}), (one, "alpha", {}), (two, "gamma", {"k": "w"}))
    ]
    return cloud


def names(client, detail=False, **params):
    return [s["name"] for s in client.list("snapshots", detail, **params)]


@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("params, wanted", [
    ({}, "gamma alpha beta delta"), ({"name": "beta"}, "beta"), ({"name": "bet"}, ""), ({"status": "available"}, "gamma alpha beta delta"),
    ({"status": "error"}, ""), ({"volume_id": "{one}"}, "alpha delta"), ({"volume_id": NOBODY}, ""),
    ({"volume_id": "{one}", "name": "delta"}, "delta"), ({"status": "available", "name": "alpha"}, "alpha"),
    ({"sort": "name:asc"}, "alpha beta delta gamma"), ({"sort_key": "display_name", "sort_dir": "desc"}, "gamma delta beta alpha"),
    ({"sort_key": "created_at", "sort_dir": "asc"}, "delta beta alpha gamma"), ({"limit": "0"}, ""), ({"limit": "100000"}, "gamma alpha beta delta"),
    ({"offset": "2", "limit": "3"}, "beta delta"), ({"limit": "2"}, "gamma alpha"), ({"name~": "ta"}, "beta delta"),
], ids=lambda value: str(value)[:40])
def test_filters_order_and_pages(shelf, detail, params, wanted):
    """Cinder contract 1.2: as for backups."""
    params = {key: value.format(one=shelf.one["id"]) for key, value in params.items()}
    assert names(shelf.member, detail, **params) == wanted.split()


@pytest.mark.parametrize("params, code", [
    ({"limit": "x"}, 400), ({"limit": "-1"}, 400), ({"offset": "-1"}, 400), ({"sort_key": "invalid"}, 400), ({"sort": "name:up"}, 400),
    ({"sort": "name", "sort_key": "name"}, 400), ({"marker": NOBODY}, 404), ({"colour": "red"}, 400), ({"with_count": "perhaps"}, 400),
    ({"project_id": NOBODY}, 400),
], ids=str)
def test_wrong_parameters(shelf, params, code):
    fault(shelf.member.get("/snapshots", params), code)
    fault(shelf.member.get("/snapshots/detail", params), code)


def test_unknown_filters_before_3_31(shelf):
    assert len(shelf.member.at("3.30").list("snapshots", colour="red")) == 4
    assert shelf.admin.at("3.30").list("snapshots", colour="red") == []


@pytest.mark.parametrize("detail", ["", "/detail"])
def test_pages_by_link(shelf, detail):
    first = ok(shelf.member.get(f"/snapshots{detail}", {"limit": "3", "status": "available"}))
    (link,) = first["snapshots_links"]
    assert link["rel"] == "next" and local(link["href"]).startswith(f"/v3/{shelf.project['uuid']}/snapshots{detail}?")
    assert query_of(link["href"]) == {"limit": ["3"], "status": ["available"], "marker": [first["snapshots"][-1]["id"]]}
    second = ok(shelf.member.get(link["href"]))
    assert [s["name"] for s in second["snapshots"]] == ["delta"] and set(second) == {"snapshots"}


def test_with_count_from_3_45(shelf):
    assert ok(shelf.member.get("/snapshots", {"with_count": "True", "limit": "1"}))["count"] == 4
    assert ok(shelf.member.get("/snapshots/detail", {"with_count": "True", "name": "beta"}))["count"] == 1
    assert set(ok(shelf.member.get("/snapshots"))) == {"snapshots"}
    fault(shelf.member.at("3.44").get("/snapshots", {"with_count": "True"}), 400)


def test_marker(shelf):
    order = shelf.member.ids("snapshots")
    for n, marker in enumerate(order):
        assert shelf.member.ids("snapshots", marker=marker) == order[n + 1:]
