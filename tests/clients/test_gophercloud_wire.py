"""What gophercloud (and with it Terraform) puts on the wire and insists on in answers, with plain requests."""

import base64
import json
import uuid
from datetime import datetime

import pytest

from helpers.cloud import plain

# The layouts of its decoders: a time of the API must have no zone, one inside a record must have one.
API_TIME = "%Y-%m-%dT%H:%M:%S.%f"


def api_time(text):
    """Fails as Go's time.Parse does with the layout `2006-01-02T15:04:05.999999`, whose fraction may be missing."""
    return datetime.strptime(text if "." in text else text + ".0", API_TIME)


@pytest.fixture(scope="module")
def member(cloud):
    return cloud.user("gopher", cloud.project("burrow"), "member")


@pytest.fixture(scope="module")
def backup(member):
    volume = member.call("POST", "/volumes", {"volume": {"size": 1, "name": "v"}}, code=202).json()["volume"]["id"]
    member.wait("volume", volume)
    backup = member.call("POST", "/backups", {"backup": {"volume_id": volume, "name": "full"}}, code=202).json()["backup"]["id"]
    return member.wait("backup", backup)


def test_times_have_no_zone(member, backup):
    for key in ("created_at", "updated_at", "data_timestamp"):
        api_time(backup[key])
    listed, = member.get("/backups/detail")["backups"]
    api_time(listed["created_at"])
    volume = member.get(f"/volumes/{backup['volume_id']}")["volume"]
    api_time(volume["created_at"])
    assert volume["bootable"] in ("true", "false"), "not a string"


def test_times_in_a_record_have_a_zone(cloud, member, backup):
    admin = cloud.user("chief", member.project, staff=True)
    record = admin.get(f"/backups/{backup['id']}/export_record")["backup-record"]
    inside = json.loads(base64.b64decode(record["backup_url"], validate=True))
    for key in ("created_at", "updated_at", "data_timestamp"):
        datetime.strptime(inside[key], "%Y-%m-%dT%H:%M:%SZ")
    assert inside["deleted_at"] is None and inside["deleted"] is False
    assert isinstance(inside["size"], int) and isinstance(inside["metadata"], dict) and isinstance(inside["driver_info"], dict)


def test_an_update_without_its_wrapper(member, backup):
    """backups.Update sends the bare fields, which stock Cinder refuses."""
    path = f"/backups/{backup['id']}"
    assert member.call("PUT", path, {"name": "renamed", "description": "bare"}, "3.9", code=200).json()["backup"]["name"] == "renamed"
    assert member.get(path)["backup"]["description"] == "bare"
    member.call("PUT", path, {"name": "renamed", "color": "red"}, "3.9", code=400)
    member.call("PUT", path, {"backup": {"color": "red"}}, "3.9", code=400)


def test_its_own_version_header_is_ignored(member):
    answer = member.call("GET", "/backups", version="3.43", code=200, headers={"X-OpenStack-Volume-API-Version": "3.9"})
    assert answer.headers["OpenStack-API-Version"] == "volume 3.43"


def test_the_project_in_the_url(member, cloud):
    """Its id, with or without dashes, or its name; another project's is refused."""
    ident = member.project_id
    for spelling in (ident, str(uuid.UUID(ident)), uuid.UUID(ident).hex, member.project):
        assert member.get(f"/{spelling}/backups")["backups"]
    other = cloud.user("stranger", cloud.project("elsewhere"), "member")
    for spelling in (other.project_id, other.project):
        assert "badRequest" in member.call("GET", f"/{spelling}/backups", code=400).json()


def test_pages_are_followed_by_their_links(member, backup):
    page = member.get(f"/{member.project_id}/backups/detail?limit=1")
    link, = page["backups_links"]
    assert link["href"].startswith(f"{member.cloud.volume}/{member.project_id}/backups/detail?") and "limit=1" in link["href"]
    assert f"marker={backup['id']}" in link["href"]
    assert member.session.get(link["href"]).json() == {"backups": []}


def test_a_ready_token_is_looked_up(member):
    """With a token instead of a password it asks what the token is."""
    token = member.session.headers["X-Auth-Token"]
    answer = member.session.get(member.cloud.identity + "/auth/tokens", headers={"X-Subject-Token": token})
    assert answer.status_code == 200 and answer.json()["token"]["project"]["id"] == member.project_id
    assert answer.headers["X-Subject-Token"] == token


def test_without_keystone(start_daemon):
    """Its noauth client: the token is `user:project`, the URL has the project's name."""
    daemon = start_daemon("[auth]\nnoauth = true")
    session = plain()
    session.headers["X-Auth-Token"] = "gopher:default"
    answer = session.get(f"{daemon.url}/v3/default/backups/detail")
    assert answer.status_code == 200 and answer.json() == {"backups": []}
    body = {"volume": {"size": 1, "name": "v"}}
    assert session.post(f"{daemon.url}/v3/default/volumes", json=body).status_code == 202
