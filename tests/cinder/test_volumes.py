"""Volumes: what is shown of them, to whom, at which microversion, and what can be changed (Cinder contract 0.3, 3.3, 4.2)."""

import socket

import pytest

from helpers.api import HEX32, ok
from helpers.cinder import GIB, UUID, dashed, moment
from helpers.cinder_volumes import ATTACHMENT_KEYS, LATEST, NOBODY, fault, volume_keys
from helpers.disks import MIB

# The versions in which the view changes, and those before them (Cinder contract 3.3).
VERSIONS = ["3.0", "3.12", "3.13", "3.20", "3.21", "3.47", "3.48", "3.60", "3.61", "3.62", "3.63", "3.64", "3.65", "3.69", "3.71"]


@pytest.fixture(scope="module")
def volume(cloud):
    return cloud.volume(1, name="first", description="what it is for", metadata={"tier": "gold"})


# -------------------------------------------------------------------- views


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ["member", "reader", "admin"])
def test_the_detail_view_has_exactly_these_keys(cloud, volume, role, version):
    client = getattr(cloud, role).at(version)
    wanted = volume_keys(version, admin=role == "admin")
    assert set(client.show("volumes", volume)) == wanted
    (listed,) = client.list("volumes", detail=True, name="first")
    assert set(listed) == wanted


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ["member", "admin"])
def test_answers_to_changes_leave_out_what_only_a_look_shows(cloud, role, version):
    """The tenant, the host and the migration are in show and in the detailed list only."""
    client = getattr(cloud, role).at(version)
    wanted = volume_keys(version, admin=role == "admin", shown=False)
    made = client.create("volumes", size=1)
    assert set(made) == wanted
    assert set(ok(client.put(f"/volumes/{made['id']}", {"volume": {"name": "x"}}))["volume"]) == wanted
    client.wait("volumes", made)


@pytest.mark.parametrize("role", ["member", "reader", "admin"])
@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_the_plain_list_has_three_keys(cloud, volume, role, version):
    (entry,) = getattr(cloud, role).at(version).list("volumes", name="first")
    assert set(entry) == {"id", "name", "links"}
    assert (entry["id"], entry["name"]) == (volume["id"], "first")


def test_types_of_the_values(cloud, volume):
    shown = cloud.admin.show("volumes", volume)
    assert UUID.match(shown["id"])
    assert shown["status"] == "available"
    assert shown["size"] == 1 and isinstance(shown["size"], int)
    assert shown["availability_zone"] == "nova"
    assert shown["name"] == "first" and shown["description"] == "what it is for"
    assert shown["volume_type"] == "__DEFAULT__"
    assert shown["snapshot_id"] is None and shown["source_volid"] is None
    assert shown["metadata"] == {"tier": "gold"}
    assert isinstance(shown["user_id"], str) and shown["user_id"]
    # A word, not a boolean.
    assert shown["bootable"] == "false"
    assert shown["encrypted"] is False and shown["multiattach"] is False
    assert shown["replication_status"] is None or isinstance(shown["replication_status"], str)
    assert shown["consistencygroup_id"] is None and shown["attachments"] == []
    assert shown["os-vol-tenant-attr:tenant_id"] == cloud.project["uuid"]
    assert HEX32.match(shown["os-vol-tenant-attr:tenant_id"])


def test_constants_that_come_with_the_microversions(cloud, volume):
    """Cinder contract 3.3."""
    shown = cloud.admin.show("volumes", volume)
    (default,) = ok(cloud.admin.get("/types"))["volume_types"]
    assert shown["group_id"] is None and shown["provider_id"] is None and shown["cluster_name"] is None
    assert shown["service_uuid"] is None or UUID.match(shown["service_uuid"])
    assert shown["volume_type_id"] == default["id"]
    assert shown["consumes_quota"] is True
    # A boolean until 3.69, which allows null (Cinder contract 3.3).
    assert isinstance(cloud.member.at("3.68").show("volumes", volume)["shared_targets"], bool)
    assert shown["shared_targets"] in (True, False, None)


def test_an_admin_sees_the_host(cloud, volume):
    """Tempest checks the form `host@backend#pool`."""
    shown = cloud.admin.show("volumes", volume)
    assert shown["os-vol-host-attr:host"] == f"{socket.gethostname()}@cofferd#pool"
    assert shown["migration_status"] is None and shown["os-vol-mig-status-attr:migstat"] is None
    assert shown["os-vol-mig-status-attr:name_id"] is None


def test_time_stamps_have_no_zone(cloud, volume):
    """Cinder contract 0.4: with one, gophercloud can read no volume at all."""
    shown = cloud.member.show("volumes", volume)
    created = moment(shown["created_at"])
    updated = shown["updated_at"]
    assert updated is None or moment(updated) >= created
    cloud.member.put(f"/volumes/{volume['id']}", {"volume": {"description": volume["description"]}})
    assert moment(cloud.member.show("volumes", volume)["updated_at"]) >= created


@pytest.mark.parametrize("with_project", [True, False])
def test_links_repeat_the_form_of_the_request(cloud, volume, with_project):
    """Cinder contract 0.1, 2.1: with or without the project; the bookmark has no version."""
    client = cloud.member.at(LATEST)
    client.project = cloud.project["uuid"] if with_project else None
    middle = f"/{client.project}" if with_project else ""
    wanted = [
        {"rel": "self", "href": f"{cloud.d.url}/v3{middle}/volumes/{volume['id']}"},
        {"rel": "bookmark", "href": f"{cloud.d.url}{middle}/volumes/{volume['id']}"},
    ]
    assert client.show("volumes", volume)["links"] == wanted
    for detail in (False, True):
        (entry,) = client.list("volumes", detail, name="first")
        assert entry["links"] == wanted
    assert ok(client.get(wanted[0]["href"]))["volume"]["id"] == volume["id"]


def test_both_dialects_name_the_volume_by_the_same_value(cloud, volume):
    record = cloud.record(volume)
    assert dashed(record["uuid"]) == volume["id"]
    assert record["project_uuid"] == cloud.project["uuid"] and record["managed"] is True
    assert record["size"] == GIB


def test_a_json_suffix_is_accepted(cloud, volume):
    """Cinder contract 0.1."""
    assert ok(cloud.member.get(f"/volumes/{volume['id']}.json"))["volume"]["id"] == volume["id"]


@pytest.mark.parametrize("method, path", [
    ("GET", "/volumes/"), ("GET", "/volumes/detail/"), ("HEAD", "/volumes"), ("PATCH", "/volumes/{id}"), ("PUT", "/volumes"),
    ("DELETE", "/volumes"), ("GET", "/volumes/{id}/action"), ("GET", "/volumes/{id}/nothing"), ("POST", "/volumes/detail"),
])
def test_what_is_not_routed_is_404(cloud, volume, method, path):
    """Cinder contract 0.1, 0.2."""
    answer = cloud.member.request(method, path.format(id=volume["id"]), {"volume": {}} if method in ("PUT", "POST") else None)
    assert answer.status_code == 404
    if method != "HEAD":
        fault(answer, 404)


@pytest.mark.parametrize("name", [NOBODY, "first", "0", "x" * 300, "%00", "%2e%2e", "%ff"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_names_no_volume_is_404(cloud, volume, method, name):
    """A name too: the clients try it as an id first and fall back upon 404 (Cinder contract 0.1)."""
    body = {"volume": {"name": "x"}} if method == "PUT" else None
    fault(cloud.member.request(method, f"/volumes/{name}", body), 404)


# -------------------------------------------------------------------- roles


def test_a_volume_of_another_project_is_not_there(cloud, volume):
    """Cinder contract 0.3."""
    for method, body in (("GET", None), ("PUT", {"volume": {"name": "mine"}}), ("DELETE", None)):
        fault(cloud.stranger.request(method, f"/volumes/{volume['id']}", body), 404)
    assert volume["id"] not in cloud.stranger.ids("volumes", all_tenants="1")


def test_an_admin_reaches_every_projects_volume_through_his_own_url(cloud, volume):
    """By its id; his lists hold his own project only (Cinder contract 0.3)."""
    other = cloud.staff(cloud.new_project())
    assert other.show("volumes", volume)["os-vol-tenant-attr:tenant_id"] == cloud.project["uuid"]
    assert other.ids("volumes") == []
    ok(other.put(f"/volumes/{volume['id']}", {"volume": {"name": "first"}}))


@pytest.mark.parametrize("method, path, body", [
    ("POST", "/volumes", {"volume": {"size": 1}}),
    ("PUT", "/volumes/{id}", {"volume": {"name": "x"}}),
    ("DELETE", "/volumes/{id}", None),
    ("POST", "/volumes/{id}/metadata", {"metadata": {"a": "b"}}),
    ("PUT", "/volumes/{id}/metadata", {"metadata": {"a": "b"}}),
    ("PUT", "/volumes/{id}/metadata/tier", {"meta": {"tier": "b"}}),
    ("DELETE", "/volumes/{id}/metadata/tier", None),
    ("POST", "/volumes/{id}/action", {"os-set_bootable": {"bootable": True}}),
    ("POST", "/volumes/{id}/action", {"os-extend": {"new_size": 2}}),
    ("POST", "/volumes/{id}/action", {"os-reserve": None}),
    ("POST", "/volumes/{id}/action", {"os-unreserve": None}),
    ("POST", "/volumes/{id}/action", {"os-attach": {"host_name": "h", "mountpoint": "/dev/vdb"}}),
    ("POST", "/volumes/{id}/action", {"os-detach": {}}),
    ("POST", "/volumes/{id}/action", {"os-update_readonly_flag": {"readonly": True}}),
    ("POST", "/volumes/{id}/action", {"os-reset_status": {"status": "error"}}),
    ("POST", "/volumes/{id}/action", {"os-force_delete": {}}),
])
def test_a_reader_changes_nothing(cloud, volume, method, path, body):
    """Cinder contract 0.3: list and show, everything else is 403."""
    before = cloud.member.show("volumes", volume)
    fault(cloud.reader.request(method, path.format(id=volume["id"]), body), 403)
    assert cloud.member.show("volumes", volume) == before


def test_order_of_the_checks(cloud, volume):
    """Cinder contract 0.3: the body, then whether it is there, then the role."""
    reader = cloud.reader
    fault(reader.post("/volumes", {"volume": {"size": 0}}), 400)
    fault(reader.put(f"/volumes/{volume['id']}", {"volume": {"name": 7}}), 400)
    fault(reader.put(f"/volumes/{NOBODY}", {"volume": {"name": 7}}), 400)
    fault(reader.put(f"/volumes/{NOBODY}", {"volume": {"name": "x"}}), 404)
    fault(reader.delete(f"/volumes/{NOBODY}"), 404)
    fault(cloud.member.action("volumes", NOBODY, "os-reset_status", {"status": "error"}), 404)


# -------------------------------------------------------------------- changes


@pytest.mark.parametrize("fields", [
    {"name": "other"}, {"name": ""}, {"name": "x" * 255}, {"name": None}, {"description": "other"}, {"description": "x" * 255},
    {"description": None}, {"metadata": {"a": "b"}}, {"metadata": {}}, {"name": "n", "description": "d", "metadata": {"k": "v"}},
    {"name": "ünïcödé \u4e16"},
], ids=lambda fields: "-".join(f"{k}={str(v)[:8]}" for k, v in fields.items()))
@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_a_change_is_answered_and_kept(cloud, volume, fields, version):
    client = cloud.member.at(version)
    ok(client.put(f"/volumes/{volume['id']}", {"volume": {"name": "n0", "description": "d0", "metadata": {"m": "0"}}}))
    try:
        changed = ok(client.put(f"/volumes/{volume['id']}", {"volume": fields}))["volume"]
        shown = client.show("volumes", volume)
        wanted = {"name": "n0", "description": "d0", "metadata": {"m": "0"}} | fields
        for key, value in wanted.items():
            # An empty name may be kept as empty or as none.
            assert (changed[key], shown[key]) in ([(value, value)] if value != "" else [("", ""), (None, None)])
        assert shown["status"] == "available"
    finally:
        ok(client.put(f"/volumes/{volume['id']}", {
            "volume": {"name": "first", "description": volume["description"], "metadata": {"tier": "gold"}},
        }))


@pytest.mark.parametrize("body", [
    None, [], "x", {}, {"volume": None}, {"volume": []}, {"volume": "x"}, {"name": "x"},
    {"volume": {"name": "x" * 256}}, {"volume": {"name": 7}}, {"volume": {"name": ["x"]}},
    {"volume": {"description": "x" * 256}}, {"volume": {"description": {}}},
    {"volume": {"metadata": "x"}}, {"volume": {"metadata": []}}, {"volume": {"metadata": {"k": 7}}},
    {"volume": {"metadata": {"k": None}}}, {"volume": {"metadata": {"": "v"}}}, {"volume": {"metadata": {"k" * 256: "v"}}},
    {"volume": {"metadata": {"k": "v" * 256}}},
], ids=lambda body: str(body)[:40])
@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_a_wrong_change_is_400_and_changes_nothing(cloud, volume, body, version):
    before = cloud.member.show("volumes", volume)
    fault(cloud.member.at(version).put(f"/volumes/{volume['id']}", body, data=b"" if body is None else None), 400)
    assert cloud.member.show("volumes", volume) == before


@pytest.mark.parametrize("version, code", [("3.0", 200), ("3.52", 200), ("3.53", 400), (LATEST, 400)])
@pytest.mark.parametrize("fields", [{}, {"name": "first", "colour": "red"}, {"colour": "red"}], ids=str)
def test_unknown_keys_and_no_keys_are_refused_from_3_53(cloud, volume, fields, version, code):
    """Cinder contract 3.3."""
    answer = cloud.member.at(version).put(f"/volumes/{volume['id']}", {"volume": fields})
    if code == 200:
        assert "colour" not in ok(answer)["volume"]
    else:
        fault(answer, 400)


def test_a_body_of_another_type_is_415(cloud, volume):
    """Cinder contract 0.1."""
    for method, path in (("POST", "/volumes"), ("PUT", f"/volumes/{volume['id']}"), ("POST", f"/volumes/{volume['id']}/action")):
        fault(cloud.member.request(method, path, data=b"size=1", headers={"Content-Type": "application/x-www-form-urlencoded"}), 415)
        fault(cloud.member.request(method, path, data=b"{", headers={"Content-Type": "application/json"}), 400)


# -------------------------------------------------------------------- volumes that Cinder has not made


@pytest.mark.parametrize("size, gigabytes", [(64 << 10, 1), (MIB, 1), (GIB - 512, 1), (GIB, 1), (GIB + 512, 2), (3 * GIB, 3)])
def test_sizes_are_rounded_up_to_whole_gibibytes(cloud, size, gigabytes):
    path = cloud.d.root / f"odd-{size}.img"
    with open(path, "wb") as f:
        f.truncate(size)
    body = {"path": str(path), "project": cloud.project["uuid"]}
    made = ok(cloud.api.post("/ops/volumes/", body), 201)
    shown = cloud.member.show("volumes", dashed(made["uuid"]))
    assert shown["size"] == gigabytes
    assert shown["status"] == "available" and shown["attachments"] == []
    assert set(shown) == volume_keys(LATEST)


def test_the_volumes_of_a_running_machine_are_in_use(cloud):
    vm, volumes = cloud.online(MIB, 2 * MIB)
    assert len(volumes) == 2
    for shown in volumes:
        assert shown["status"] == "in-use"
        (attachment,) = shown["attachments"]
        assert set(attachment) == ATTACHMENT_KEYS
        # Both are the volume's id (Cinder contract 4.2).
        assert attachment["id"] == attachment["volume_id"] == shown["id"]
        assert UUID.match(attachment["attachment_id"])
        assert attachment["server_id"] == dashed(vm["uuid"])
        assert attachment["attached_at"] is None or moment(attachment["attached_at"])
    assert [v["bootable"] for v in volumes] == ["true", "false"]


def test_the_volumes_of_a_stopped_machine_are_available(cloud):
    vm, (running,) = cloud.online()
    ok(cloud.api.post(vm["url"] + "stop/"), 202)
    cloud.wait_state(vm["url"], "Offline")
    (stopped,) = cloud.machine_volumes(vm)
    assert (running["status"], stopped["status"]) == ("in-use", "available")


def test_a_volume_can_be_renamed_and_waldur_sees_it(cloud, volume):
    ok(cloud.member.put(f"/volumes/{volume['id']}", {"volume": {"name": "shared name"}}))
    assert cloud.record(volume)["name"] == "shared name"
    ok(cloud.member.put(f"/volumes/{volume['id']}", {"volume": {"name": "first"}}))
