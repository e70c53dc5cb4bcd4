"""What the daemon really answers is what the OpenAPI document says: every operation, and every error a client can cause.

This is the Waldur dialect; test_openstack_answers.py is the other.
"""

import http.client
import json
import re

import pytest

from helpers.api import Api, local, ok
from helpers.daemon import slow_reads
from helpers.disks import MIB, make_raw
from helpers.lab import BACKUPS, FLAVORS, IMAGES, NEVER, PASSWORD, PROJECTS, QUOTAS, SCHEDULES, USERS, Lab
from helpers.wait import wait_for
from openapi.document import DOCUMENT as WHOLE, METHODS, WALDUR as DOCUMENT, Checked, example

ZERO = "0" * 32
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class World(Lab):
    """A daemon with objects of every kind, and users whose every exchange is compared with the document."""

    def __init__(self, daemon):
        super().__init__(daemon)
        self.seen = set()
        self.api = self.client(daemon.token)
        self.nobody = self.client(None)
        self.reader = self.client(self.user("reader").token)
        self.stranger = self.client(self.user().token)
        self.owner = self.client(self.user("owner").token)
        flavor, image = self.flavor(), self.image()
        self.vm = self.instance([2 * MIB, MIB], user_data="secret", tags=["a", "b"], flavor=flavor["url"], image=image["url"])
        self.kept = self.backup(self.vm, description="kept")
        self.cron = self.schedule(self.vm, timezone="Europe/Berlin")
        self.alone = self.back_up_volume()
        self.finished(self.api.post("/ops/replicate/", {"to": "here", "backups": [self.kept["uuid"]]}))

    def back_up_volume(self):
        """A backup of a volume alone, as OpenStack's clients make it; its uuid."""
        cinder, order = Api(self.d, self.d.token), {"backup": {"volume_id": self.vm["volumes"][0]["uuid"]}}
        uuid = ok(cinder.post(f"/v3/{self.project['uuid']}/backups", order), 202)["backup"]["id"].replace("-", "")
        wait_for(lambda: ok(self.api.get(f"/ops/volume-backups/{uuid}/"))["state"] == "Ready", "the volume is backed up")
        return uuid

    def client(self, token):
        return Checked(self.d, token, self.seen)

    def fill(self, path):
        """A documented path with the ids of objects that exist."""
        collection = "/" + path.removeprefix("/").split("/{")[0] + "/"
        if collection == "/ops/users/":
            return path.replace("{uuid}", self.api.list(USERS, username="admin")[0]["uuid"])
        if collection == "/ops/repositories/":
            return path.replace("{name}", "here")
        if collection == "/ops/tasks/":
            return path.replace("{id}", str(ok(self.api.post("/ops/gc/"), 202)["task"]))
        if collection == "/ops/tokens/":
            return path.replace("{id}", str(self.api.list("/ops/tokens/")[0]["id"]))
        kept = {BACKUPS: self.kept, "/api/openstack-instances/": self.vm, SCHEDULES: self.cron}
        if "{" not in path:
            return path
        return path.replace("{uuid}", (kept.get(collection) or self.api.list(collection)[0])["uuid"])

    def finished(self, answer):
        """The task that an answer announced, when it is over."""
        task = f"/ops/tasks/{ok(answer, 202)['task']}/"
        wait_for(lambda: ok(self.api.get(task))["state"] != "running", "the task ends")
        return ok(self.api.get(task))


QUERIES = [
    "page_size=1", "page=last&page_size=1", "page=99999", "page=x", "page=0", "page=9999&page_size=1", "o=-created,name", "uuid=x", "scope=x", "project=x",
    "instance=x", "user=x", "state=x", "role=x", "created_from=x", "is_active=true", "name=a", "count=x", "pack=x", "customer=x",
]


def everything_that_can_be_read(world):
    for path in DOCUMENT.paths:
        if ("GET", path) not in DOCUMENT.operations:
            continue
        target = world.fill(path)
        answer = world.api.get(target)
        assert answer.status_code == 200
        assert answer.json() or not isinstance(answer.json(), list), f"{path}: an empty list shows nothing"
        for client in (world.api, world.owner, world.reader, world.stranger, world.nobody):
            for method in ("GET", "HEAD"):
                client.request(method, target)
        for query in QUERIES:
            world.api.get(f"{target}?{query}")
            world.reader.get(f"{target}?{query}")


def without_a_token(world):
    for (method, path), operation in DOCUMENT.operations.items():
        if operation.get("security") != []:
            ok(world.nobody.request(method, example(path)), 401)


def what_is_not_there(world):
    for method, path in DOCUMENT.operations:
        if "{" in path:
            for name in (ZERO, "nothing", "%00", "%ff", "-1", "a" * 300):
                target = re.sub(r"\{\w+\}", name, path)
                assert world.api.request(method, target).status_code == 404, f"{method} {target}"


def bodies_of_the_wrong_kind(world):
    for (method, path), operation in DOCUMENT.operations.items():
        if "requestBody" not in operation:
            continue
        target = world.fill(path)
        for kind, body in (
            ("application/json", b"{"), ("application/json", b"[]"), ("application/json", b'"x"'), ("application/json", b"\xff"),
            ("application/json", b'{"a": ' * 500), ("text/plain", b"x"), ("application/xml", b"<x/>"), ("", b"x"),
            ("application/x-www-form-urlencoded", b"\xff=1"),
        ):
            answer = world.api.request(method, target, data=body, headers={"Content-Type": kind})
            known = kind in ("application/json", FORM["Content-Type"])
            assert answer.status_code == (400 if known else 415), f"{method} {target} {kind!r} {body}: {answer.status_code}"
        names = DOCUMENT.resolve(operation["requestBody"]["content"]["application/json"]["schema"])["properties"]
        for value in ([], {}, "\0", "x" * 70000):
            wrong = dict.fromkeys(names, value)
            assert world.api.request(method, target, wrong).status_code == 400, f"{method} {target} {wrong}"[:300]
        for client in (world.nobody, world.stranger, world.reader, world.owner):
            assert client.request(method, target, {"limit": "x", "name": ""}).status_code in (200, 400, 401, 403, 404)


def the_life_of_a_backup(world):
    api, reader = world.api, world.reader
    backup = world.backup(world.vm, description="x")
    assert "user_data" in backup["metadata"]
    assert "user_data" not in ok(reader.get(backup["url"]))["metadata"]
    ok(reader.post(BACKUPS, {"instance": world.vm["url"]}), 403)
    ok(api.patch(backup["url"], {"kept_until": "2090-01-01T00:00:00Z"}))
    ok(api.patch(backup["url"], data="description=form", headers=FORM))
    for method, path in (("PATCH", ""), ("POST", "restore/"), ("POST", "delete/"), ("DELETE", "")):
        ok(reader.request(method, backup["url"] + path, {}), 403)
        ok(world.stranger.request(method, backup["url"] + path, {}), 404)
    ok(api.post(local(backup["url"]).replace("openstack-backups", "openstack-backup") + "restore/", {}), 400)
    new = world.restore(backup)
    assert ok(api.get(backup["url"]))["restorations"]
    the_life_of_an_instance(world, new)
    ok(api.post(backup["url"] + "delete/"))
    world.wait_gone(backup["url"])
    other = world.backup(world.vm)
    ok(api.delete(other["url"]), 202)
    world.wait_gone(other["url"])


def the_life_of_an_instance(world, vm):
    api, reader = world.api, world.reader
    ok(api.put(vm["url"], {"name": "renamed"}))
    ok(api.patch(vm["url"], {"description": "restored"}))
    for method, path in (("PUT", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "unlink/"), *(("POST", a) for a in ("start/", "stop/", "restart/"))):
        ok(reader.request(method, vm["url"] + path, {}), 403)
    ok(api.post(vm["url"] + "stop/"), 409)
    ok(api.post(vm["url"] + "restart/"), 409)
    ok(api.post(vm["url"] + "start/"), 202)
    ok(api.post(vm["url"] + "start/"), 409)
    ok(api.post(vm["url"] + "restart/"), 202)
    ok(api.delete(vm["url"]), 409)
    ok(api.post(vm["url"] + "stop/"), 202)
    ok(api.delete(vm["url"]), 202)
    ok(api.delete(world.vm["url"]), 409)
    ok(api.post(world.vm["url"] + "unlink/"), 409)
    ok(api.post(world.instance()["url"] + "unlink/"), 202)
    ok(reader.post("/api/openstack-instances/", {}), 403)


def what_states_forbid(world):
    for state in ("backing_up", "restoring", "deleting"):
        backup = world.backup(world.vm)
        world.force_backup(backup, state)
        for method, path, body in (("POST", "restore/", {}), ("POST", "delete/", None), ("DELETE", "", None), ("PATCH", "", {})):
            ok(world.api.request(method, backup["url"] + path, body), 409)
        order = {"backup": backup["uuid"], "path": str(world.d.root / state), "mode": "create"}
        ok(world.api.post("/ops/restores/", order), 409)
        world.force_backup(backup, "ready")
        ok(world.api.delete(backup["url"]), 202)
    vm = world.instance()
    world.set_instance_state(vm, "resizing")
    ok(world.api.post(BACKUPS, {"instance": vm["url"]}), 409)
    ok(world.api.patch(vm["url"], {"name": "x"}), 409)
    ok(world.api.put(vm["url"], {"name": "x"}), 409)
    world.set_instance_state(vm, "deleting")
    world.schedule(vm, code=409)
    world.set_instance_state(vm, "offline")


def what_a_quota_forbids(world):
    project = world.new_project()
    vm = world.instance(project=project)
    world.set_quota("storage", 1, project)
    assert "non_field_errors" in ok(world.api.post(BACKUPS, {"instance": vm["url"]}), 400)


def the_life_of_a_schedule(world):
    api = world.api
    body = {"instance": world.vm["url"], "schedule": NEVER, "retention_time": 3, "maximal_number_of_backups": 2}
    url = ok(api.post(SCHEDULES, body), 201)["url"]
    ok(world.reader.post(SCHEDULES, body), 403)
    ok(api.post(url + "deactivate/"), 409)
    ok(api.post(url + "activate/"))
    ok(api.post(url + "activate/"), 409)
    for method, path in (("POST", "deactivate/"), ("POST", "activate/"), ("DELETE", ""), ("PUT", ""), ("PATCH", "")):
        ok(world.reader.request(method, url + path, body), 403)
    ok(api.put(url, body | {"maximal_number_of_backups": 1}))
    ok(api.patch(url, {"timezone": "Europe/London", "is_active": "false"}))
    ok(api.patch(url, {"is_active": True}))
    ok(api.post(url + "deactivate/"))
    ok(api.get(url + "next-runs/", params={"count": 1000, "now": "2026-03-01T00:00:00Z"}))
    ok(api.get(url + "next-runs/", params={"count": "x"}), 400)
    ok(api.post(SCHEDULES + "preview/", {"schedule": "*/5 * * * *", "count": 3}))
    ok(api.post(SCHEDULES + "preview/", {"schedule": "0 0 30 2 *"}), 400)
    ok(api.delete(url), 204)


def profiles_and_projects(world):
    api, reader = world.api, world.reader
    for collection, body in ((IMAGES, {"name": "i"}), (FLAVORS, {"name": "f", "cores": "2", "ram": 1})):
        made = ok(api.post(collection, body), 201)
        ok(reader.post(collection, body), 403)
        ok(api.patch(made["url"], {"name": "other"}))
        ok(reader.patch(made["url"], {}), 403)
        ok(reader.delete(made["url"]), 403)
        ok(api.delete(made["url"]), 204)
    project = ok(api.post(PROJECTS, {"name": world.unique("p")}), 201)
    ok(reader.post(PROJECTS, {"name": "p"}), 403)
    ok(api.put(project["url"], {"name": "q"}))
    ok(api.patch(project["url"], {"description": "d"}))
    for method in ("PUT", "PATCH", "DELETE"):
        ok(reader.request(method, world.project["url"], {"name": "q"}), 403)
    ok(api.delete(world.project["url"]), 409)
    quota = world.quota("ram", project)
    ok(api.put(quota["url"], {"limit": 5}))
    ok(api.patch(quota["url"], {"limit": "-1"}))
    visible = ok(reader.get(QUOTAS))[0]
    ok(reader.put(visible["url"], {"limit": 5}), 403)
    ok(reader.patch(visible["url"], {"limit": 5}), 403)
    ok(api.delete(project["url"]), 204)


def users_and_roles(world):
    api, reader = world.api, world.reader
    name = world.unique("u")
    user = ok(api.post(USERS, {"username": name, "password": PASSWORD}), 201)
    ok(reader.post(USERS, {"username": "x"}), 403)
    ok(api.put(user["url"], {"username": name, "email": "a@example.org", "civil_number": "1"}))
    ok(api.patch(user["url"], {"full_name": "A"}))
    for method in ("PUT", "PATCH", "DELETE"):
        ok(reader.request(method, user["url"], {"username": name}), 403)
    ok(api.post(user["url"] + "password/", {"password": PASSWORD}))
    ok(reader.post(user["url"] + "password/", {"password": PASSWORD}), 403)
    ok(world.nobody.post("/api-auth/password/", {"username": name, "password": PASSWORD}))
    ok(world.nobody.post("/api-auth/password/", data=f"username={name}&password=wrong", headers=FORM), 401)
    for kind, body in (("project", {"user": user["url"], "project": world.project["url"], "role": "manager"}),
                       ("customer", {"user": user["url"], "role": "owner"})):
        role = ok(api.post(f"/api/{kind}-permissions/", body), 201)
        ok(api.post(f"/api/{kind}-permissions/", body), 400)
        ok(reader.post(f"/api/{kind}-permissions/", body), 403)
        ok(api.get(role["url"]))
        ok(api.delete(role["url"]), 204)
    ok(reader.delete(ok(reader.get("/api/project-permissions/"))[0]["url"]), 403)
    ok(world.owner.delete(ok(world.owner.get("/api/customer-permissions/"))[0]["url"]), 403)
    ok(api.delete(user["url"]), 204)


def the_last_administrator(world):
    admin = ok(world.api.get(USERS + "?current"))[0]
    ok(world.api.put(admin["url"], {"username": "admin", "is_active": False}), 409)
    ok(world.api.patch(admin["url"], {"is_staff": False}), 409)
    ok(world.api.delete(admin["url"]), 409)


def too_many_failed_logins(world):
    body = {"username": world.unique("guess"), "password": "wrong horse 1"}
    codes = [world.nobody.post("/api-auth/password/", body).status_code for _ in range(12)]
    assert codes == [401] * 10 + [429] * 2
    assert int(world.nobody.post("/api-auth/password/", body).headers["Retry-After"]) > 0


def the_administrators_part(world):
    api = world.api
    for method, path in DOCUMENT.operations:
        if path.startswith("/ops/"):
            ok(world.reader.request(method, example(path)), 403)
    admin = api.list(USERS, username="admin")[0]["uuid"]
    assert world.project["uuid"] in [p["uuid"] for p in ok(api.get(f"/ops/users/{admin}/openstack/"))["projects"]]
    ok(api.post(f"/ops/users/{admin}/credentials/", {"project": world.project["uuid"]}), 201)
    ok(api.post(f"/ops/users/{admin}/credentials/", {"project": ZERO}), 400)
    token = ok(api.post("/ops/tokens/", {"user": "admin", "name": "n", "lifetime_h": 1}), 201)
    ok(api.delete(f"/ops/tokens/{token['id']}/"), 204)
    order = {"path": str(world.disk(MIB)), "project": world.project["uuid"]}
    volume = ok(api.post("/ops/volumes/", order), 201)
    ok(api.post("/ops/volumes/", order), 400)
    ok(api.delete(f"/ops/volumes/{volume['uuid']}/"), 204)
    ok(api.delete(f"/ops/volumes/{world.vm['volumes'][0]['uuid']}/"), 409)
    assert [b["uuid"] for b in ok(api.get(f"/ops/volume-backups/?volume={world.vm['volumes'][0]['uuid']}"))] == [world.alone]
    listed = ok(Api(world.d, world.d.token).get(f"/v3/{world.project['uuid']}/backups"))["backups"]
    part = next(b["id"].replace("-", "") for b in listed if b["id"].replace("-", "") != world.alone)
    assert world.kept["uuid"] in str(ok(api.get(f"/ops/volume-backups/{part}/"), 409))
    world.d.sql("UPDATE backup SET state = 'restoring' WHERE uuid = ?", (world.alone,))
    ok(api.delete(f"/ops/volume-backups/{world.alone}/"), 409)
    world.d.sql("UPDATE backup SET state = 'ready' WHERE uuid = ?", (world.alone,))
    ok(api.delete(f"/ops/volume-backups/{world.back_up_volume()}/"), 202)
    assert world.alone in [space["uuid"] for space in ok(api.get("/ops/space/"))]
    space = ok(api.get(f"/ops/space/{world.kept['uuid']}/"))
    assert ok(api.post("/ops/space/", {"backups": [world.kept["uuid"]]}))["exclusive_bytes"] == space["exclusive_bytes"]
    ok(api.post("/ops/space/", {"backups": [ZERO]}), 400)
    ok(api.post("/ops/space/", {"backups": "all"}), 400)
    assert [r["name"] for r in ok(api.get("/ops/repositories/"))] == ["here"]
    ok(api.get("/ops/repositories/here/"))
    assert len(world.finished(api.post("/ops/repositories/here/test/"))["result"]["steps"]) == 7
    assert world.finished(api.post("/ops/repositories/here/attach/"))["result"]["known"] == 1
    ok(api.post("/ops/replicate/", {"to": "nowhere"}), 400)
    ok(api.post("/ops/replicate/", {"to": "here", "backups": ["x"]}), 404)
    ok(api.post("/ops/replicate/", {"to": "coffer", "backups": [world.kept["uuid"]]}), 409)
    assert world.finished(api.post("/ops/replicate/", {"to": "here", "backups": [world.kept["uuid"]]}))["result"]["copied"] == 1
    (pack,), = world.d.sql("SELECT min(id) FROM pack")
    (volume_map,), = world.d.sql("SELECT min(id) FROM volume_map")
    ok(api.get(f"/ops/inspect/?pack={pack}"))
    ok(api.get(f"/ops/inspect/?map={volume_map}"))
    ok(api.get("/ops/inspect/?pack=999999"), 404)
    restore = {"backup": world.kept["uuid"], "path": str(world.d.root / "out.img"), "mode": "create"}
    assert world.finished(api.post("/ops/restores/", restore))["state"] == "done"
    ok(api.post("/ops/restores/", restore), 400)
    ok(api.post("/ops/restores/", restore | {"path": "relative"}), 400)
    ok(api.post("/ops/restores/", restore | {"backup": ZERO}), 404)
    assert world.finished(api.post("/ops/check/", {"backup": world.kept["uuid"]}))["result"]["corrupt"] == []
    assert world.finished(api.post("/ops/check/"))["state"] == "done"
    ok(api.post("/ops/check/", {"backup": ZERO}), 404)
    assert world.finished(api.post("/ops/scrub/", {"older_than_days": 0, "bytes_per_second": 1 << 30, "full": True}))["result"]["corrupt"] == []
    assert world.finished(api.post("/ops/gc/", {"dead_fraction": 0.5}))["result"]["complete"]
    copy = {"path": str(world.d.root / "copy.db")}
    assert world.finished(api.post("/ops/snapshot/", copy))["result"]["bytes"] > 0
    ok(api.post("/ops/snapshot/", copy), 400)


# Refusals of the gate are below; full disks and faults of the machine have tests of their own elsewhere.
NOT_HERE = {408, 413, 414, 417, 431, 500, 501, 503, 505, 507}


def test_every_operation_and_every_error_of_it(start_daemon):
    """Each documented answer of each operation is brought about once, and each exchange on the way is as described."""
    world = World(start_daemon("[repositories.here]\nkind = 'directory'\ndirectory = '{base}'"))
    for step in (
        without_a_token, everything_that_can_be_read, what_is_not_there, bodies_of_the_wrong_kind, the_life_of_a_backup, what_states_forbid,
        what_a_quota_forbids, the_life_of_a_schedule, profiles_and_projects, users_and_roles, the_last_administrator,
        too_many_failed_logins, the_administrators_part, methods_that_are_not_there,
    ):
        step(world)
    missing = []
    for (method, path), operation in DOCUMENT.operations.items():
        codes = {int(code) for code in operation["responses"]} - NOT_HERE
        # A GET without a filter that can be wrong has 400 and 405 for malformed requests only.
        codes -= {400, 405} if method == "GET" or "requestBody" not in operation else {405}
        missing += [f"{method} {path} {code}" for code in sorted(codes) if (method, path, code) not in world.seen]
    assert not missing, "\n".join(missing)


def methods_that_are_not_there(world):
    for path in DOCUMENT.paths:
        for method in METHODS:
            if (method.upper(), path) not in DOCUMENT.operations:
                answer = world.api.request(method.upper(), example(path))
                assert answer.status_code == 405
                assert set(answer.json()) == {"detail"}


def test_progress_is_as_described(start_daemon):
    d = start_daemon(start=False)
    path = make_raw(d.root / "slow.img", 4 * MIB)
    d.wrapper = [str(word) for word in slow_reads(path)]
    lab = Lab(d.start())
    lab.api = Checked(d, d.token, set())
    backup = lab.start_backup(lab.instance([path]))
    wait_for(lambda: lab.get(backup)["progress"], "progress is shown")
    lab.wait_state(backup["url"], "Ready")


def test_damage_is_reported_as_described(start_daemon):
    d = start_daemon()
    world = Lab(d)
    backup = world.backup(world.instance())
    d.stop()
    d.sql("UPDATE pack SET data = zeroblob(length(data))")
    d.start()
    world.api = Checked(d, d.token, set())
    task = ok(world.api.post("/ops/check/"), 202)["task"]
    wait_for(lambda: world.get(f"/ops/tasks/{task}/")["state"] != "running", "the check ends")
    result = world.get(f"/ops/tasks/{task}/")["result"]
    assert result["corrupt"] and result["backups"] == [backup["uuid"]]
    assert world.get(backup)["state"] == "Erred"


@pytest.mark.parametrize("path", ["/api/projects/", "/ops/gc/", "/v3/x/volumes", "/identity/v3/auth/tokens"])
@pytest.mark.parametrize("head, code", [
    (b"GET PATH HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    (b"TRACE PATH HTTP/1.1\r\nHost: h\r\n\r\n", 405),
    (b"POST PATH HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n", 413),
    (b"GET PATH" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
    (b"POST PATH HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: tea\r\n\r\n", 417),
    (b"GET PATH HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    (b"CONNECT PATH HTTP/1.1\r\nHost: h\r\n\r\n", 501),
    (b"GET PATH HTTP/1.9\r\nHost: h\r\n\r\n", 505),
])
def test_refusals_of_the_gate_are_documented(daemon, head, code, path):
    """Each in the shape of the dialect that the path belongs to."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=10)
    connection.connect()
    connection.sock.sendall(head.replace(b"PATH", path.encode()))
    answer = http.client.HTTPResponse(connection.sock, method="GET")
    answer.begin()
    body = json.loads(answer.read())
    connection.close()
    assert (answer.status, answer.headers["Content-Type"]) == (code, "application/json")
    for (_, template), operation in WHOLE.operations.items():
        if template.split("/")[1] == path.split("/")[1]:
            described = WHOLE.resolve(operation["responses"][str(code)])
            assert not WHOLE.faults(body, described["content"]["application/json"]["schema"])
            assert set(described.get("headers", {})) - {"Retry-After"} <= set(answer.headers)
