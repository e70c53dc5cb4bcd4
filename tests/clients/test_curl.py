"""A tour with curl, and the answers that the OpenStack clients look at before they get to backups."""

import base64
import json
import re
import subprocess
import uuid

import pytest

from helpers import ext4
from helpers.cloud import PASSWORD
from helpers.wait import wait_for

# No zone, and a fraction that may be short.
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?")
ZONED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


class Answer:
    def __init__(self, text):
        head, _, body = text.partition("\n\n")
        lines = head.splitlines()
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.text = body
        self.json = json.loads(body) if body.strip() else None


def curl(*arguments, code=None):
    """Runs curl; the answer, whose status is checked when `code` is given."""
    done = subprocess.run(["curl", "-sS", "-i", "--noproxy", "*", *arguments], capture_output=True, timeout=60, check=True)
    answer = Answer(done.stdout.decode().replace("\r\n", "\n"))
    assert code is None or answer.status == code, f"curl {' '.join(arguments)}: wanted {code}, got {answer.status}: {answer.text}"
    return answer


class Curl:
    """curl as one account: `call("POST", "/backups", {...})`."""

    def __init__(self, account):
        self.account = account
        self.url = account.cloud.volume
        body = json.dumps({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": account.username, "domain": {"name": "Default"}, "password": PASSWORD,
            }}},
            "scope": {"project": {"name": account.project, "domain": {"name": "Default"}}},
        }})
        answer = curl("-H", "Content-Type: application/json", "-d", body, account.cloud.identity + "/auth/tokens", code=201)
        self.login = answer.json["token"]
        self.token = answer.headers["x-subject-token"]

    def call(self, method, path, body=None, version=None, code=None):
        arguments = ["-X", method, "-H", f"X-Auth-Token: {self.token}"]
        if body is not None:
            arguments += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        if version:
            arguments += ["-H", f"OpenStack-API-Version: volume {version}"]
        answer = curl(*arguments, self.url + path, code=code)
        assert re.fullmatch(r"req-[0-9a-f-]{36}", answer.headers["x-openstack-request-id"])
        assert "OpenStack-API-Version" in answer.headers["vary"]
        if answer.status < 400:
            assert answer.headers["openstack-api-version"] == f"volume {version or '3.0'}".replace("latest", "3.71")
        return answer

    def get(self, path, **kw):
        return self.call("GET", path, code=200, **kw).json

    def wait(self, path, status="available"):
        """Polls until the object has the status (None: until it is gone)."""

        def look():
            answer = self.call("GET", path)
            if answer.status == 404:
                return status is None
            thing, = answer.json.values()
            assert not thing["status"].startswith("error") or thing["status"] == status, thing
            return thing["status"] == status and thing

        return wait_for(look, f"{path} becomes {status}", 60, 0.05)


@pytest.fixture
def member(cloud, project):
    return Curl(cloud.user(f"member-{project}", project, "member"))


@pytest.fixture
def admin(cloud, member):
    return Curl(cloud.user(f"admin-{member.account.project}", member.account.project, staff=True))


def new_volume(member, **fields):
    volume = member.call("POST", "/volumes", {"volume": {"size": 1, **fields}}, code=202).json["volume"]["id"]
    member.wait(f"/volumes/{volume}")
    return volume


def new_backup(member, volume, version=None, **fields):
    body = {"backup": {"volume_id": volume, **fields}}
    backup = member.call("POST", "/backups", body, version, code=202).json["backup"]["id"]
    member.wait(f"/backups/{backup}")
    return backup


def test_versions(cloud):
    """300 at the root and 200 below, both without a token; the same one version."""
    for url, code in ((cloud.d.url + "/", 300), (cloud.volume + "/", 200), (cloud.volume, 200)):
        version, = curl(url, code=code).json["versions"]
        assert set(version) == {"id", "status", "version", "min_version", "updated", "links", "media-types"}
        assert (version["id"], version["status"], version["min_version"], version["version"]) == ("v3.0", "CURRENT", "3.0", "3.71")
        assert {"rel": "self", "href": cloud.volume + "/"} in version["links"]
    assert curl(cloud.d.url + "/identity", code=300).json["versions"]["values"][0]["id"].startswith("v3")
    for url in (cloud.identity, cloud.identity + "/"):
        assert curl(url, code=200).json["version"]["status"] == "stable"


def test_microversions(member):
    """The version asked for is echoed; none is 3.0; what there is not is 406, what is none is 400."""
    for asked in ("3.0", "3.43", "3.71", "latest"):
        member.call("GET", "/backups", version=asked, code=200)
    for asked, code in (("3.72", 406), ("3.99", 406), ("4.0", 406), ("2.0", 406), ("3", 400), ("3.01", 400), ("x.y", 400)):
        arguments = ["-H", f"X-Auth-Token: {member.token}", "-H", f"OpenStack-API-Version: volume {asked}", member.url + "/backups"]
        curl(*arguments, code=code)
    for header in ("compute 2.1", "compute 2.1, volume 3.43", "block-storage 3.43", "volumev3 3.43"):
        answer = curl("-H", f"X-Auth-Token: {member.token}", "-H", f"openstack-api-version: {header}", member.url + "/backups", code=200)
        assert answer.headers["openstack-api-version"].endswith("3.43" if "3.43" in header else "3.0")


def test_a_login(member, cloud):
    """Token, roles and catalog; times with Z; a wrong password and no token are 401."""
    login = member.login
    assert ZONED.fullmatch(login["expires_at"]) and ZONED.fullmatch(login["issued_at"])
    assert login["project"]["name"] == member.account.project and login["user"]["name"] == member.account.username
    assert {"member", "reader"} == {role["name"] for role in login["roles"]}
    catalog = {service["type"]: service["endpoints"] for service in login["catalog"]}
    assert {"block-storage", "volumev3", "identity"} <= set(catalog)
    for kind in ("block-storage", "volumev3"):
        assert {e["interface"] for e in catalog[kind]} >= {"public", "internal", "admin"}
        assert all(e["url"] == f"{cloud.volume}/{login['project']['id']}" for e in catalog[kind])
    for arguments in (["-H", "X-Auth-Token: made-up"], []):
        answer = curl(*arguments, cloud.volume + "/backups", code=401)
        assert answer.json["error"]["code"] == 401 and answer.json["error"]["title"]
        assert answer.headers["www-authenticate"].lower().startswith("keystone uri=")


def test_backup_and_restore(member, cloud, tmp_path):
    """Full, incremental, restored in all ways; what travels with a backup; what is refused."""
    project = member.login["project"]["id"]
    volume = new_volume(member, name="web1", metadata={"room": "cellar"})
    disk = cloud.backing(volume)
    ext4.make(disk)
    before = ext4.copy(disk, tmp_path / "before")
    made = member.call("POST", f"/{project}/backups", {"backup": {"volume_id": volume, "name": "full", "container": "shelf"}}, code=202)
    full = made.json["backup"]
    assert set(full) == {"id", "name", "links"}
    assert [link["href"] for link in full["links"]] == [
        f"{cloud.volume}/{project}/backups/{full['id']}", f"{cloud.d.url}/{project}/backups/{full['id']}",
    ]
    full = full["id"]
    shown = member.wait(f"/backups/{full}")
    assert set(shown) == {
        "id", "status", "size", "object_count", "availability_zone", "container", "created_at", "updated_at", "name", "description",
        "fail_reason", "volume_id", "links", "is_incremental", "has_dependent_backups", "snapshot_id", "data_timestamp",
    }
    assert (shown["size"], shown["container"], shown["is_incremental"]) == (1, "shelf", False)
    assert TIME.fullmatch(shown["created_at"]) and TIME.fullmatch(shown["updated_at"]) and shown["data_timestamp"] == shown["created_at"]

    ext4.change(disk)
    after = ext4.copy(disk, tmp_path / "after")
    child = new_backup(member, volume, incremental=True)
    assert member.get(f"/backups/{full}")["backup"]["has_dependent_backups"] is True
    assert [b["id"] for b in member.get("/backups")["backups"]] == [child, full]

    # An empty restore, and both keys null as `cinder` sends them.
    for body, backup, saved in (({}, child, after), ({"name": None, "volume_id": None}, full, before)):
        restored = member.call("POST", f"/backups/{backup}/restore", {"restore": body}, code=202).json["restore"]
        assert restored["backup_id"] == backup and restored["volume_name"] == f"restore_backup_{backup}"
        new = member.wait(f"/volumes/{restored['volume_id']}")
        member.wait(f"/backups/{backup}")
        assert new["name"] == "web1" and new["metadata"] == {"room": "cellar", "src_backup_id": backup}
        ext4.assert_restored(cloud.backing(new["id"]), saved)
    ext4.scribble(disk)
    restored = member.call("POST", f"/backups/{child}/restore", {"restore": {"volume_id": volume, "name": "not this"}}, code=202)
    assert restored.json["restore"] == {"backup_id": child, "volume_id": volume, "volume_name": "web1"}
    member.wait(f"/volumes/{volume}")
    member.wait(f"/backups/{child}")
    ext4.assert_restored(disk, after)

    # A volume out of a backup shows no other status than `creating` until it is there.
    made = member.call("POST", "/volumes", {"volume": {"backup_id": child, "name": "out"}}, "3.47", code=202).json["volume"]
    assert made["size"] == 1
    while made["status"] != "available":
        assert made["status"] == "creating"
        made = member.get(f"/volumes/{made['id']}")["volume"]
    ext4.assert_restored(cloud.backing(made["id"]), after)
    member.wait(f"/backups/{child}")

    refused = member.call("DELETE", f"/backups/{full}", code=400).json["badRequest"]
    assert refused["code"] == 400 and refused["message"]
    member.call("DELETE", f"/volumes/{volume}", code=202)
    member.wait(f"/volumes/{volume}", None)
    assert member.get(f"/backups/{full}")["backup"]["volume_id"] == volume
    for backup in (child, full):
        gone = member.call("DELETE", f"/backups/{backup}", code=202)
        assert gone.text == "" and gone.headers["content-length"] == "0"
        member.wait(f"/backups/{backup}", None)
    assert member.get("/backups/detail") == {"backups": []}


def test_words_about_a_backup(member, admin):
    """Name, metadata, state, record, quota, and who may do what."""
    volume = new_volume(member)
    backup = new_backup(member, volume, "3.43", metadata={"a": "1"})
    path = f"/backups/{backup}"
    member.call("PUT", path, {"backup": {"name": "monday"}}, "3.8", code=404)
    changed = member.call("PUT", path, {"backup": {"name": "monday", "metadata": {"b": "2"}}}, "3.43", code=200).json["backup"]
    assert set(changed) == {"id", "name", "links"} and changed["name"] == "monday"
    assert "metadata" not in member.get(path)["backup"]
    newest = member.get(path, version="latest")["backup"]
    assert newest["metadata"] == {"b": "2"} and "user_id" not in newest
    newest = admin.get(path, version="latest")["backup"]
    assert newest["user_id"] == member.login["user"]["id"]
    assert newest["os-backup-project-attr:project_id"] == member.login["project"]["id"]
    for method in ("GET", "DELETE"):
        assert "itemNotFound" in member.call(method, path + "/metadata/b", code=404).json
    assert "itemNotFound" in member.call("GET", "/backups/monday", code=404).json

    member.call("POST", path + "/action", {"os-reset_status": {"status": "error"}}, code=403)
    member.call("POST", f"/backups/{uuid.uuid4()}/action", {"os-reset_status": {"status": "error"}}, code=404)
    admin.call("POST", path + "/action", {"os-reset_status": {"status": "deleting"}}, code=400)
    assert admin.call("POST", path + "/action", {"os-reset_status": {"status": "error"}}, code=202).text == ""
    assert member.get(path)["backup"]["status"] == "error"
    admin.call("GET", path + "/export_record", code=400)
    member.call("POST", path + "/restore", {"restore": {}}, code=400)
    admin.call("POST", path + "/action", {"os-reset_status": {"status": "available"}}, code=202)

    member.call("GET", path + "/export_record", code=403)
    record = admin.get(path + "/export_record")["backup-record"]
    inside = json.loads(base64.b64decode(record["backup_url"], validate=True))
    assert inside["id"] == backup and inside["created_at"].endswith("Z")
    member.call("POST", "/backups/import_record", {"backup-record": record}, code=403)
    admin.call("POST", "/backups/import_record", {"backup-record": record}, code=400)
    admin.call("POST", "/backups/import_record", {"backup-record": {**record, "backup_url": "bm8gcmVjb3Jk"}}, code=400)

    project = member.login["project"]["id"]
    admin.call("PUT", f"/os-quota-sets/{project}", {"quota_set": {"backups": 1}}, code=200)
    over = member.call("POST", "/backups", {"backup": {"volume_id": volume}}, code=413)
    assert "exceed" in over.json["overLimit"]["message"].lower() and over.json["overLimit"]["retryAfter"] == "0"
    assert over.headers["retry-after"] == "0"
    usage = member.get(f"/os-quota-sets/{project}?usage=True")["quota_set"]
    assert usage["backups"] == {"limit": 1, "in_use": 1, "reserved": 0}
    admin.call("POST", path + "/action", {"os-force_delete": None}, code=202)
    member.wait(path, None)


def test_lists(member):
    """Filters and pages as every client puts them."""
    volume = new_volume(member)
    a, b, c = (new_backup(member, volume, name=name) for name in ("a", "b", "c"))
    page = member.get("/backups?limit=2&sort=created_at:asc")
    assert [x["id"] for x in page["backups"]] == [a, b]
    link, = page["backups_links"]
    assert link["rel"] == "next"
    page = member.get(link["href"].removeprefix(member.url))
    assert [x["id"] for x in page["backups"]] == [c] and set(page) == {"backups"}
    assert [x["id"] for x in member.get("/backups?all_tenants=1&name=b")["backups"]] == [b]
    assert member.get("/backups/detail?with_count=True&limit=1", version="3.45")["count"] == 3
    assert member.get("/backups?limit=0") == {"backups": []}
    for query, version, code in (
        ("limit=x", None, 400), ("limit=-1", None, 400), ("offset=-1", None, 400), ("sort_key=nonsense", None, 400),
        ("sort=name&sort_dir=asc", "3.37", 400), (f"marker={uuid.uuid4()}", None, 404),
        ("color=red", "3.30", 200), ("color=red", "3.31", 400), ("sort_key=display_name", None, 200), ("sort_key=name", "3.37", 200),
    ):
        member.call("GET", f"/backups?{query}", version=version, code=code)
