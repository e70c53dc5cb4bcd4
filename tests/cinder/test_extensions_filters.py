"""/extensions and /resource_filters: what a client can learn of the service before it asks (Cinder contract 1.2, 3.3, 4.2)."""

import pytest

from helpers.api import ok
from helpers.cinder_volumes import LATEST, NOBODY, fault

ROLES = pytest.mark.parametrize("role", ["member", "reader", "admin"])


@ROLES
@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_extensions(cloud, role, version):
    body = ok(getattr(cloud, role).at(version).get("/extensions"))
    assert set(body) == {"extensions"}
    for extension in body["extensions"]:
        assert set(extension) - {"namespace"} == {"name", "alias", "updated", "description", "links"}
        assert isinstance(extension["links"], list)
    aliases = [e["alias"] for e in body["extensions"]]
    assert len(aliases) == len(set(aliases))
    (backups,) = [e for e in body["extensions"] if e["alias"] == "backups"]
    assert backups["name"] == "Backups"


@ROLES
@pytest.mark.parametrize("version", ["3.33", LATEST])
def test_resource_filters(cloud, role, version):
    body = ok(getattr(cloud, role).at(version).get("/resource_filters"))
    assert set(body) == {"resource_filters"}
    for entry in body["resource_filters"]:
        assert set(entry) == {"resource", "filters"} and isinstance(entry["resource"], str)
        assert all(isinstance(name, str) for name in entry["filters"])
    resources = [entry["resource"] for entry in body["resource_filters"]]
    assert len(resources) == len(set(resources)) and {"volume", "snapshot", "backup"} <= set(resources)


@pytest.mark.parametrize("version", ["3.0", "3.32"])
def test_before_3_33_there_are_none(cloud, version):
    fault(cloud.member.at(version).get("/resource_filters"), 404)


@pytest.mark.parametrize("resource", ["volume", "snapshot", "backup"])
def test_one_resource(cloud, resource):
    everything = {e["resource"]: e["filters"] for e in ok(cloud.member.get("/resource_filters"))["resource_filters"]}
    (only,) = ok(cloud.member.get("/resource_filters", {"resource": resource}))["resource_filters"]
    assert only == {"resource": resource, "filters": everything[resource]}


FOUND = {
    "volume": {"name", "status", "metadata", "bootable", "size", "availability_zone", "created_at", "updated_at", "name~"},
    "snapshot": {"name", "status", "volume_id", "name~"},
    # The four that members may use by a part (Cinder contract 1.2).
    "backup": {"name", "status", "volume_id", "name~", "status~", "volume_id~", "description~"},
}


@pytest.mark.parametrize("resource", FOUND)
def test_what_can_be_filtered_is_named(cloud, resource):
    (only,) = ok(cloud.member.get("/resource_filters", {"resource": resource}))["resource_filters"]
    assert FOUND[resource] <= set(only["filters"]), FOUND[resource] - set(only["filters"])


VALUES = {"bootable": "true", "created_at": "gt:2020-01-01T00:00:00", "updated_at": "gt:2020-01-01T00:00:00", "metadata": "{'a': 'b'}",
          "size": "1", "with_count": "True", "all_tenants": "False", "limit": "1", "marker": None}


@pytest.mark.parametrize("detail", ["", "/detail"])
@pytest.mark.parametrize("resource", FOUND)
def test_what_is_named_is_accepted(cloud, resource, detail):
    """From 3.31 a member may use exactly these."""
    (only,) = ok(cloud.member.get("/resource_filters", {"resource": resource}))["resource_filters"]
    for name in only["filters"]:
        value = VALUES.get(name, NOBODY if name.rstrip("~").endswith("_id") else "x")
        ok(cloud.member.get(f"/{resource}s{detail}", {name: value}))
    for name in ("colour", "deleted", "host", "path"):
        if name not in only["filters"]:
            fault(cloud.member.get(f"/{resource}s{detail}", {name: "x"}), 400)
