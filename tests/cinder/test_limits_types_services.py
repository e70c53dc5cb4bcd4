"""The small resources: limits, volume types, zones, services (Cinder contract 4.2)."""

import re
import socket
from datetime import datetime, timedelta, timezone

import pytest

from helpers.api import ok
from helpers.cinder import UUID, moment
from helpers.cinder_volumes import LATEST, NOBODY, Cloud, fault

ROLES = pytest.mark.parametrize("role", ["member", "reader", "admin"])


# -------------------------------------------------------------------- limits


@ROLES
@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_limits_of_an_empty_project(daemon, role, version):
    client = getattr(Cloud(daemon), role).at(version)
    assert ok(client.get("/limits")) == {"limits": {"rate": [], "absolute": {
        "maxTotalVolumes": -1, "maxTotalSnapshots": -1, "maxTotalBackups": -1, "maxTotalVolumeGigabytes": -1, "maxTotalBackupGigabytes": -1,
        "totalVolumesUsed": 0, "totalSnapshotsUsed": 0, "totalBackupsUsed": 0, "totalGigabytesUsed": 0, "totalBackupGigabytesUsed": 0,
    }}}


def test_limits_show_the_quotas_and_what_is_used_of_them(daemon):
    cloud = Cloud(daemon)
    cloud.limit(volumes=11, snapshots=12, backups=13, gigabytes=14, backup_gigabytes=15)
    volume = cloud.volume(2)
    cloud.snapshot(volume), cloud.backup(volume), cloud.volume(1)
    absolute = ok(cloud.reader.get("/limits"))["limits"]["absolute"]
    assert absolute.pop("totalGigabytesUsed") == cloud.member.usage()["gigabytes"]
    assert absolute == {
        "maxTotalVolumes": 11, "maxTotalSnapshots": 12, "maxTotalBackups": 13, "maxTotalVolumeGigabytes": 14, "maxTotalBackupGigabytes": 15,
        "totalVolumesUsed": 2, "totalSnapshotsUsed": 1, "totalBackupsUsed": 1, "totalBackupGigabytesUsed": 2,
    }


# -------------------------------------------------------------------- types


@ROLES
@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_there_is_one_type(cloud, role, version):
    client = getattr(cloud, role).at(version)
    body = ok(client.get("/types"))
    assert set(body) == {"volume_types"}
    (only,) = body["volume_types"]
    assert UUID.match(only["id"]) and (only["description"] is None or isinstance(only["description"], str))
    assert only == {
        "id": only["id"], "name": "__DEFAULT__", "description": only["description"], "is_public": True, "extra_specs": {},
        "os-volume-type-access:is_public": True,
        # Stock Cinder shows it to an admin; there is none.
        **({"qos_specs_id": None} if "qos_specs_id" in only and role == "admin" else {}),
    }
    for path in ("/types/default", f"/types/{only['id']}"):
        assert ok(client.get(path)) == {"volume_type": only}
    # As the clients ask for the list.
    for params in ({"is_public": "None"}, {"is_public": "True"}, {"limit": "10"}):
        assert ok(client.at("3.0").get("/types", params))["volume_types"] == [only]


@pytest.mark.parametrize("name", [NOBODY, "fast", "%00"])
def test_no_other_type_is_there(cloud, name):
    fault(cloud.member.get(f"/types/{name}"), 404)


def test_the_type_survives_a_restart(start_daemon):
    cloud = Cloud(start_daemon())
    before = ok(cloud.member.get("/types"))
    cloud.d.stop()
    cloud.d.start()
    assert ok(cloud.member.get("/types")) == before


@pytest.mark.parametrize("method, path", [("POST", "/types"), ("PUT", "/types/{id}"), ("DELETE", "/types/{id}"), ("GET", "/types/{id}/nothing")])
def test_types_cannot_be_changed(cloud, method, path):
    """There is nothing to choose between: these do not exist."""
    (only,) = ok(cloud.admin.get("/types"))["volume_types"]
    body = {"volume_type": {"name": "fast"}} if method in ("POST", "PUT") else None
    fault(cloud.admin.request(method, path.format(id=only["id"]), body), 404)


# -------------------------------------------------------------------- zones


@ROLES
def test_there_is_one_zone(cloud, role):
    assert ok(getattr(cloud, role).get("/os-availability-zone")) == {
        "availabilityZoneInfo": [{"zoneName": "nova", "zoneState": {"available": True}}],
    }


# -------------------------------------------------------------------- services

SERVICE_KEYS = {"binary", "host", "zone", "status", "state", "updated_at", "disabled_reason"}
# What stock Cinder shows besides: from the beginning, from 3.7 and from 3.49.
MORE_KEYS = {"frozen", "replication_status", "active_backend_id"}


@pytest.mark.parametrize("version, more", [("3.0", set()), (LATEST, {"cluster", "backend_state"})])
def test_services(cloud, version, more):
    services = ok(cloud.admin.at(version).get("/os-services"))["services"]
    assert sorted(s["binary"] for s in services) == ["cinder-backup", "cinder-scheduler", "cinder-volume"]
    for service in services:
        assert SERVICE_KEYS <= set(service) <= SERVICE_KEYS | MORE_KEYS | more
        assert (service["status"], service["state"], service["disabled_reason"], service["zone"]) == ("enabled", "up", None, "nova")
        assert abs(datetime.now(timezone.utc) - moment(service["updated_at"])) < timedelta(minutes=2)
        assert re.match(rf"^{re.escape(socket.gethostname())}(@cofferd)?$", service["host"])
    (volume,) = [s for s in services if s["binary"] == "cinder-volume"]
    # The pool is not a part of it; otherwise it is where the volumes are.
    assert volume["host"] == f"{socket.gethostname()}@cofferd"
    assert cloud.admin.show("volumes", cloud.volume(1))["os-vol-host-attr:host"] == volume["host"] + "#pool"


@pytest.mark.parametrize("params, binaries", [
    ({"binary": "cinder-backup"}, ["cinder-backup"]), ({"binary": "cinder-volume"}, ["cinder-volume"]), ({"binary": "nova-compute"}, []),
    ({"host": "elsewhere"}, []), ({"host": "{host}"}, ["cinder-backup", "cinder-scheduler", "cinder-volume"]),
    ({"host": "{host}@cofferd", "binary": "cinder-volume"}, ["cinder-volume"]), ({"host": "{host}", "binary": "cinder-volume"}, ["cinder-volume"]),
], ids=str)
def test_services_can_be_filtered(cloud, params, binaries):
    """A bare host finds what runs on it under any backend: Tempest asks so."""
    params = {key: value.format(host=socket.gethostname()) for key, value in params.items()}
    found = ok(cloud.admin.get("/os-services", params))["services"]
    assert sorted(s["binary"] for s in found) == binaries


@pytest.mark.parametrize("role", ["manager", "reader", "admin"])
def test_services_are_for_admins(cloud, role):
    fault(cloud.client(role).get("/os-services"), 403)


# -------------------------------------------------------------------- what is not there


@pytest.mark.parametrize("path", [
    "/os-hosts", "/scheduler-stats/get_pools", "/groups", "/group_types", "/consistencygroups", "/qos-specs", "/volume-transfers", "/attachments",
    "/clusters", "/workers/cleanup", "/os-volume-manage", "/os-snapshot-manage", "/capabilities/x", "/nothing",
])
def test_resources_that_cofferd_does_not_have_are_404(cloud, path):
    """Cinder contract 3.3: for all of them that is an answer that clients can deal with."""
    fault(cloud.admin.get(path), 404)


@ROLES
def test_small_resources_work_without_a_project_in_the_url(cloud, role):
    """Cinder contract 0.1."""
    client = getattr(cloud, role).at(LATEST)
    client.project = None
    for path in ("/types", "/limits", "/os-availability-zone", "/extensions", "/resource_filters", "/messages"):
        ok(client.get(path))
