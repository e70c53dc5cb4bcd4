"""What the daemon really answers in the OpenStack dialect is what the OpenAPI document says, at every microversion that matters."""

import json
import re

import pytest
import requests

from helpers.api import ok
from helpers.cinder import empty
from helpers.cinder_volumes import LATEST, NOBODY, Client, Cloud, fault
from helpers.lab import PASSWORD
from openapi.document import METHODS, OPENSTACK

# Those in which an answer changes, and those before them.
VERSIONS = [0, 2, 3, 8, 9, 11, 12, 13, 14, 17, 18, 20, 21, 32, 33, 35, 36, 40, 41, 43, 44, 45, 47, 48, 50, 51, 55, 56, 60, 61, 62, 63, 64, 65, 69, 71]
FOR_ADMINS = {
    ("GET", "/os-services"), ("GET", "/backups/{id}/export_record"), ("POST", "/backups/import_record"), ("PUT", "/os-quota-sets/{id}"),
    ("DELETE", "/os-quota-sets/{id}"), ("PUT", "/os-quota-class-sets/{id}"),
}
PREFIX = "/v3/{project_id}"
CINDER = {key: op for key, op in OPENSTACK.operations.items() if key[1].startswith(PREFIX)}
KEYSTONE = {key: op for key, op in OPENSTACK.operations.items() if key[1].startswith("/identity")}
TEXT = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}


class Checked(Client):
    """A client whose every exchange is compared with the document."""

    seen = None

    def request(self, method, path, body=None, **kw):
        answer = super().request(method, path, body, **kw)
        self.seen.add(OPENSTACK.check(answer))
        return answer


class World(Cloud):
    """A project with something of every kind."""

    def __init__(self, daemon):
        super().__init__(daemon)
        self.seen = set()
        self.kept = self.volume(1, name="kept", metadata={"key": "value"})
        self.held = self.snapshot(self.kept, metadata={"key": "value"})
        self.saved = self.backup(self.kept, metadata={"key": "value"})
        self.attached = self.volume(1)
        self.attach(self.attached)
        self.failed = self.failed_backup()
        (message,) = ok(self.member.get("/messages"))["messages"]
        (kind,) = ok(self.member.get("/types"))["volume_types"]
        self.ids = {
            "volumes": self.kept["id"], "snapshots": self.held["id"], "backups": self.saved["id"], "types": kind["id"],
            "messages": message["id"], "extensions": "backups", "os-quota-sets": self.project["uuid"], "os-quota-class-sets": "default",
        }

    def connect(self, token, project):
        client = Checked(self.d, token, project)
        client.seen = self.seen
        return client

    def fill(self, path):
        """The path below the project, with ids of what exists."""
        path = path.removeprefix(PREFIX)
        return path.replace("{id}", self.ids.get(path.split("/")[1], "")).replace("{key}", "key")

    def nobody(self):
        return self.connect("", self.project["uuid"])


# -------------------------------------------------------------------- the volume API


def everything_that_can_be_read_at_each_version(world):
    first = {"/messages": 3, "/messages/{id}": 3, "/volumes/summary": 12, "/resource_filters": 33}
    for method, path in CINDER:
        short = path.removeprefix(PREFIX)
        for client in (world.admin, world.member, world.reader) if method == "GET" else ():
            hidden = (method, short) in FOR_ADMINS and client is not world.admin
            for minor in VERSIONS:
                code = client.at(f"3.{minor}").get(world.fill(path)).status_code
                assert code == (404 if minor < first.get(short, 0) else 403 if hidden else 200), f"3.{minor} {path}: {code}"


def lists_with_pages_and_counts(world):
    for kind in ("volumes", "snapshots", "backups"):
        for path in (f"/{kind}", f"/{kind}/detail"):
            body = ok(world.member.get(path, {"limit": "1", "with_count": "True"}))
            assert set(body) == {kind, f"{kind}_links", "count"}
            for params in ({"limit": "x"}, {"sort_key": "nothing"}, {"offset": "-1"}, {"colour": "red"}):
                fault(world.member.get(path, params), 400)
            fault(world.member.get(path, {"marker": NOBODY}), 404)
    ok(world.admin.get("/os-quota-sets/" + world.project["uuid"], {"usage": "True"}))


def without_a_token(world):
    for method, path in CINDER:
        assert world.nobody().request(method, world.fill(path)).status_code == 401, f"{method} {path}"


def what_is_not_there(world):
    for (method, path), operation in CINDER.items():
        if "{id}" not in path or "os-quota" in path:
            continue
        body = right_body(world, method, path) if "requestBody" in operation else None
        for name in (NOBODY, "nothing", "%00", "%ff", "a" * 300):
            target = path.removeprefix(PREFIX).replace("{id}", name).replace("{key}", "key")
            assert world.admin.request(method, target, body).status_code == 404, f"{method} {target}"


def right_body(world, method, path):
    """A body that would be right for something that is there."""
    return {
        "/volumes/{id}": {"volume": {"name": "kept"}}, "/volumes/{id}/action": {"os-extend": {"new_size": 2}},
        "/snapshots/{id}": {"snapshot": {"name": "held"}}, "/snapshots/{id}/action": {"os-reset_status": {"status": "available"}},
        "/backups/{id}": {"backup": {"name": "saved"}}, "/backups/{id}/action": {"os-reset_status": {"status": "available"}},
        "/backups/{id}/restore": {"restore": {}}, "/volumes": {"volume": {"size": 1}}, "/snapshots": {"snapshot": {"volume_id": world.kept["id"]}},
        "/backups": {"backup": {"volume_id": world.kept["id"]}}, "/os-quota-sets/{id}": {"quota_set": {"volumes": 500}},
        "/os-quota-class-sets/{id}": {"quota_class_set": {"volumes": 500}},
        "/backups/import_record": {"backup-record": {"backup_service": "cinder.backup.drivers.x", "backup_url": "e30="}},
    }.get(path.removeprefix(PREFIX)) or ({"meta": {"key": "v"}} if path.endswith("{key}") else {"metadata": {"key": "v"}})


def versions_that_there_are_not(world):
    for method, path in CINDER:
        target = world.fill(path)
        for value, code in (("volume 3.99", 406), ("volume 2.0", 406), ("volume x", 400), ("volume 3.01", 400)):
            answer = world.admin.request(method, target, headers={"OpenStack-API-Version": value})
            assert answer.status_code == code, f"{method} {target} {value}: {answer.status_code}"


def bodies_of_the_wrong_kind(world):
    for (method, path), operation in CINDER.items():
        if "requestBody" not in operation:
            continue
        target = world.fill(path)
        for data in (b"", b"{", b"[]", b'"x"', b"\xff", b"{}", b'{"a": ' * 500, b"null"):
            answer = world.admin.request(method, target, data=data, headers=JSON)
            assert answer.status_code == 400, f"{method} {target} {data[:20]}: {answer.status_code} {answer.text}"
        for data in (b"x", b"a=b"):
            assert world.admin.request(method, target, data=data, headers=TEXT).status_code == 415, f"{method} {target}"
        large = world.admin.request(method, target, data=json.dumps({"x": "y" * 120_000}).encode(), headers=JSON)
        assert large.status_code == 413 and "Retry-After" not in large.headers


def who_may_not(world):
    for (method, path), operation in CINDER.items():
        short = path.removeprefix(PREFIX)
        if method == "GET" and (method, short) not in FOR_ADMINS:
            continue
        body = right_body(world, method, path) if "requestBody" in operation else None
        assert world.reader.request(method, world.fill(path), body).status_code == 403, f"{method} {path}"
        if (method, short) in FOR_ADMINS:
            assert world.member.request(method, world.fill(path), body).status_code == 403, f"{method} {path}"


def methods_that_are_not_there(world):
    """Each path has exactly the documented methods: any other is 404 though the object exists (Cinder contract 0.1)."""
    for path in {path for _, path in CINDER}:
        # `/backups/import_record` is also a backup of an impossible id.
        beside = path.rsplit("/", 1)[0] + "/{id}"
        for method in (*METHODS, "HEAD", "OPTIONS"):
            if (method.upper(), path) not in CINDER:
                body = right_body(world, method, beside) if method in ("put", "post", "patch") else None
                answer = world.admin.request(method.upper(), world.fill(path), body)
                assert answer.status_code == 404, f"{method} {path}: {answer.status_code}"
    assert world.member.show("volumes", world.kept)["status"] == "available"


def without_a_project_in_the_path(world):
    bare = world.member.at(LATEST)
    bare.project = None
    for method, path in CINDER:
        if method == "GET" and (method, path.removeprefix(PREFIX)) not in FOR_ADMINS:
            assert bare.get(world.fill(path)).status_code == 200, path


def the_life_of_a_volume(world):
    member, admin = world.member, world.admin
    for fields in ({"size": 1}, {"snapshot_id": world.held["id"]}, {"source_volid": world.kept["id"]}, {"backup_id": world.saved["id"]}):
        made = member.wait("volumes", member.create("volumes", **fields))
        member.wait("backups", world.saved)
    url = f"/volumes/{made['id']}"
    ok(member.put(url, {"volume": {"name": "x", "metadata": {"a": "b"}}}))
    ok(member.post(f"{url}/metadata", {"metadata": {"c": "d"}}))
    tag = member.get(f"{url}/metadata").headers["Etag"]
    ok(member.put(f"{url}/metadata/c", {"meta": {"c": "e"}}))
    for path, body in (("", {"metadata": {"c": "f"}}), ("/c", {"meta": {"c": "f"}})):
        assert member.put(f"{url}/metadata{path}", body, headers={"If-Match": tag}).status_code == 412
    ok(member.put(f"{url}/metadata", {"metadata": {"a": "b"}}))
    empty(member.delete(f"{url}/metadata/a"), 200)
    fault(member.put(f"{url}/metadata/a", {"meta": {"b": "c"}}), 400)
    ok(member.action("volumes", made, "os-set_bootable", {"bootable": True}))
    for client, name, value in (
        (member, "os-update_readonly_flag", {"readonly": True}), (member, "os-reserve", None), (member, "os-unreserve", None),
        (member, "os-attach", {"host_name": "h", "mountpoint": "/dev/vdb"}), (member, "os-detach", {}), (member, "os-extend", {"new_size": 2}),
    ):
        empty(client.action("volumes", made, name, value))
        if name == "os-attach":
            assert member.show("volumes", made)["attachments"]
            fault(member.delete(url), 400)
    member.wait("volumes", made)
    empty(admin.action("volumes", made, "os-reset_status", {"status": "error"}))
    empty(member.delete(url, {"cascade": "False", "force": "False"}))
    member.gone("volumes", made)
    other = world.volume(1)
    empty(admin.action("volumes", other, "os-force_delete", {}))


def the_life_of_a_snapshot(world):
    member, admin = world.member, world.admin
    made = world.snapshot(world.attached, force=True)
    url = f"/snapshots/{made['id']}"
    ok(member.put(url, {"snapshot": {"name": "x"}}))
    ok(member.post(f"{url}/metadata", {"metadata": {"c": "d"}}))
    ok(member.put(f"{url}/metadata", {"metadata": {"a": "b"}}))
    ok(member.put(f"{url}/metadata/a", {"meta": {"a": "c"}}))
    empty(member.delete(f"{url}/metadata/a"), 200)
    fault(member.put(f"{url}/metadata/a", {"meta": {"b": "c"}}), 400)
    fault(member.delete(f"/volumes/{world.kept['id']}"), 400)
    empty(admin.action("snapshots", made, "os-reset_status", {"status": "error"}))
    empty(member.delete(url))
    member.gone("snapshots", made)


def the_life_of_a_backup(world):
    member, admin = world.member, world.admin
    made = world.backup(world.kept, incremental=True, name="x", description="y", container="z", metadata={"a": "b"})
    world.backup(world.kept, snapshot_id=world.held["id"])
    url = f"/backups/{made['id']}"
    ok(member.put(url, {"backup": {"name": "z"}}))
    fault(member.at("3.8").put(url, {"backup": {"name": "z"}}), 404)
    record = ok(admin.get(f"{url}/export_record"))
    fault(admin.post("/backups/import_record", record), 400)
    new = ok(member.post(f"{url}/restore", {"restore": {"name": "restored"}}), 202)["restore"]
    fault(member.post(f"{url}/restore", {"restore": {"volume_id": world.attached["id"]}}), 400)
    member.wait("volumes", new["volume_id"])
    member.wait("backups", made)
    empty(admin.action("backups", made, "os-reset_status", {"status": "error"}))
    empty(member.delete(url))
    member.gone("backups", made)
    made = ok(admin.post("/backups/import_record", record), 201)["backup"]
    admin.wait("backups", made)
    empty(admin.action("backups", made, "os-force_delete", {}))
    admin.gone("backups", made)


def what_quotas_forbid(world):
    quotas = f"/os-quota-sets/{world.project['uuid']}"
    used = world.member.usage()
    world.limit(volumes=used["volumes"], snapshots=used["snapshots"], backups=used["backups"], gigabytes=used["gigabytes"])
    world.member.create("volumes", 413, size=1)
    world.member.create("snapshots", 413, volume_id=world.kept["id"])
    world.member.create("backups", 413, volume_id=world.kept["id"])
    answer = world.member.post(f"/backups/{world.saved['id']}/restore", {"restore": {}})
    assert answer.status_code == 413 and answer.headers["Retry-After"] == "0"
    assert world.member.action("volumes", world.kept, "os-extend", {"new_size": 9}).status_code == 413
    fault(world.admin.put(quotas, {"quota_set": {"volumes": 0}}), 400)
    assert world.admin.delete(quotas).status_code == 200
    ok(world.admin.put("/os-quota-class-sets/default", {"quota_class_set": {"groups": 10}}))


def test_every_operation_of_the_volume_api_and_every_error_of_it(start_daemon):
    """Each documented answer of each operation is brought about once, and each exchange on the way is as described."""
    world = World(start_daemon())
    for step in (
        everything_that_can_be_read_at_each_version, lists_with_pages_and_counts, without_a_token, what_is_not_there, versions_that_there_are_not,
        bodies_of_the_wrong_kind, who_may_not, methods_that_are_not_there, without_a_project_in_the_path, the_life_of_a_volume,
        the_life_of_a_snapshot, the_life_of_a_backup, what_quotas_forbid,
    ):
        step(world)
    missing = []
    for (method, path), operation in CINDER.items():
        documented = {int(code) for code in operation["responses"]}
        wanted = {code for code in documented if code < 300 or code == 412} | {400, 401, 406}
        wanted |= {404} if "{id}" in path and "os-quota" not in path else set()
        wanted |= {403} if method != "GET" or (method, path.removeprefix(PREFIX)) in FOR_ADMINS else set()
        wanted |= {413, 415} if "requestBody" in operation else set()
        missing += [f"{method} {path} {code}" for code in sorted(wanted) if (method, path, code) not in world.seen]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("path, code", [("/", 300), ("/v3/", 200), ("/v3", 200), ("/healthcheck", 200)])
def test_what_is_asked_before_logging_in(daemon, path, code):
    """Cinder contract 3.1."""
    answer = requests.get(daemon.url + path, timeout=10)
    assert OPENSTACK.check(answer)[2] == code


# -------------------------------------------------------------------- the Identity API


class Keystone:
    """Requests to the Identity API, each compared with the document."""

    def __init__(self, daemon):
        self.url = daemon.url + "/identity"
        self.seen = set()

    def __call__(self, method, path, token=None, body=None, code=None, **kw):
        headers = {"X-Auth-Token": token} if token else {}
        answer = requests.request(method, self.url + path, json=body, headers=headers | kw.pop("headers", {}), timeout=30, **kw)
        self.seen.add(OPENSTACK.check(answer))
        assert code is None or answer.status_code == code, f"{method} {path} {body}: {answer.status_code} {answer.text}"
        return answer

    def login(self, identity, scope=None, code=201):
        auth = {"identity": identity} | ({"scope": scope} if scope else {})
        return self("POST", "/v3/auth/tokens", body={"auth": auth}, code=code)


def password(name, word=PASSWORD):
    return {"methods": ["password"], "password": {"user": {"name": name, "domain": {"id": "default"}, "password": word}}}


def test_every_operation_of_the_identity_api_and_every_error_of_it(start_daemon):
    cloud = Cloud(start_daemon())
    ask = Keystone(cloud.d)
    user = cloud.user("manager").user
    other = cloud.user("reader").user
    scope = {"project": {"id": cloud.project["uuid"]}}
    by_name = {"project": {"name": cloud.project["name"], "domain": {"name": "Default"}}}
    for path in ("", "/"):
        ask("GET", path, code=300)
        ask("GET", "/v3" + path, code=200)
    tokens = [ask.login(password(user["username"]), wanted).headers["X-Subject-Token"] for wanted in (scope, by_name, None)]
    token = tokens[0]
    ask.login({"methods": ["token"], "token": {"id": token}}, scope)
    ask.login(password(user["username"], "wrong horse 7"), scope, 401)
    ask.login(password("nobody"), None, 401)
    ask.login(password(user["username"]), {"project": {"id": "0" * 32}}, 401)
    for wrong in ({}, [], {"auth": {}}, {"auth": {"identity": {"methods": []}}}):
        ask("POST", "/v3/auth/tokens", body=wrong, code=400)
    ask("POST", "/v3/auth/tokens", data=b"{", code=400)

    staff = cloud.d.token
    credentials = f"/v3/users/{user['uuid']}/application_credentials"
    order = {"application_credential": {"name": "cron", "roles": [{"name": "reader"}], "expires_at": "2090-01-01T00:00:00Z"}}
    made = ask("POST", credentials, token, order, 201).json()["application_credential"]
    ask("POST", credentials, token, order, 409)
    ask("POST", credentials, token, {"application_credential": {}}, 400)
    ask("POST", credentials, token, data=b"[", code=400)
    ask("POST", credentials, token, {"application_credential": {"name": "king", "roles": [{"name": "admin"}]}}, 403)
    identity = {"methods": ["application_credential"], "application_credential": {"id": made["id"], "secret": made["secret"]}}
    restricted = ask.login(identity).headers["X-Subject-Token"]
    ask.login({"methods": ["application_credential"], "application_credential": {"id": made["id"], "secret": "wrong"}}, code=401)

    ids = {"projects": cloud.project["uuid"], "users": user["uuid"], "domains": "default", "roles": "member"}
    for method, path in KEYSTONE:
        short = path.removeprefix("/identity")
        if method == "GET" and short not in ("/", "/v3/", "/v3/auth/tokens"):
            kind = short.split("/")[2]
            target = short.replace("{user_id}", user["uuid"]).replace("{id}", made["id"] if "application" in short else ids.get(kind, ""))
            for who in (token, staff):
                if short != "/v3/auth/catalog" or who == token:
                    ask("GET", target, who, code=200)
                    ask("GET", target + "?name=x", who)
            ask("GET", target, code=401)
            ask("GET", target, "wrong", code=401)
            if "{id}" in short:
                for name in ("0" * 32, "nothing", "%00", "a" * 300):
                    ask("GET", short.replace("{user_id}", user["uuid"]).replace("{id}", name), staff, code=404)
        for wrong in ("PUT", "PATCH"):
            if (wrong, path) not in KEYSTONE:
                answer = ask(wrong, short.replace("{id}", "x").replace("{user_id}", "x"), staff, code=405)
                assert {m for m in re.split(", *", answer.headers["Allow"]) if m != "HEAD"} == {m for m, p in KEYSTONE if p == path}
    ask("GET", "/v3/auth/catalog", tokens[2])

    subject = {"X-Subject-Token": tokens[1]}
    ask("GET", "/v3/auth/tokens", token, headers=subject, code=200)
    ask("GET", "/v3/auth/tokens?nocatalog", staff, headers=subject, code=200)
    ask("GET", "/v3/auth/tokens", token, headers={"X-Subject-Token": tokens[2]}, code=200)
    ask("GET", "/v3/auth/tokens", token, headers={"X-Subject-Token": restricted}, code=200)
    foreign = ask.login(password(other["username"]), scope).headers["X-Subject-Token"]
    for method in ("GET", "DELETE"):
        ask(method, "/v3/auth/tokens", token, headers={"X-Subject-Token": "nothing"}, code=404)
        ask(method, "/v3/auth/tokens", token, headers={"X-Subject-Token": foreign}, code=403)
        ask(method, "/v3/auth/tokens", token, code=400)
        ask(method, "/v3/auth/tokens", headers=subject, code=401)
    ask("DELETE", "/v3/auth/tokens", token, headers=subject, code=204)
    ask("GET", "/v3/auth/tokens", token, headers=subject, code=404)

    for method, path, body in (("GET", "", None), ("POST", "", order), ("GET", f"/{made['id']}", None), ("DELETE", f"/{made['id']}", None)):
        ask(method, credentials + path, foreign, body, 403)
        ask(method, credentials + path, restricted, body, 403)
        ask(method, credentials + path, None, body, 401)
        ask(method, f"/v3/users/{'0' * 32}/application_credentials{path}", staff, body, 404)
    ask("DELETE", f"{credentials}/{made['id']}", token, code=204)
    ask("DELETE", f"{credentials}/{made['id']}", token, code=404)

    codes = [ask.login(password(user["username"], f"wrong horse {n}"), None, None).status_code for n in range(12)]
    assert set(codes) == {401, 429}, codes
    missing = []
    for (method, path), operation in KEYSTONE.items():
        wanted = {int(code) for code in operation["responses"]} - {400, 405, 408, 413, 414, 417, 429, 431, 500, 501, 503, 505, 507}
        if path == "/identity/v3/auth/catalog":
            wanted -= {403}
        missing += [f"{method} {path} {code}" for code in sorted(wanted) if (method, path, code) not in ask.seen]
    assert not missing, "\n".join(missing)

