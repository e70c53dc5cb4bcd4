"""Every operation that the daemon describes, by every kind of caller, on his own, on others' and on nobody's objects: access.py says what must
come of it. What is refused changes nothing, and nobody is told anything of a project that he has no part in.
"""

import http.client
import itertools
import json
import re
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.api import ok
from helpers.cinder import dashed
from helpers.cinder_volumes import Cloud
from helpers.keystone import Keystone, basic, by_credential, by_token, project_scope
from helpers.lab import PASSWORD, USERS
from helpers.wait import wait_for
from hostile import access
from hostile.access import ADMIN, ALLOWED, CINDER, KEYSTONE, NOWHERE, OTHER, OWN, READ, RULES, WRITE, Caller
from openapi.document import DOCUMENT

SOURCES = Path(__file__).resolve().parents[2] / "src" / "api"
# In names of what belongs to the other project.
MARK = "of-the-others"
ZERO = "0" * 32


class Half(Cloud):
    """One of the two projects, with one object of each kind, all in states that forbid to change them."""

    def __init__(self, daemon, name):
        super().__init__(daemon)
        self._project = self.new_project(self.unique(name))
        self.bystander = self.user("reader")
        self.vm = self.instance([64 << 10], name=self.unique(name))
        self.whole = self.backup_of_instance = Cloud.wait_state(self, self.start_backup(self.vm, description=name)["url"], "Ready")
        volume = self.volume(1, name=self.unique(name))
        parent = self.backup(volume, name=self.unique(name))
        self.backup(volume, name=self.unique(name), incremental=True)
        snapshot = self.snapshot(volume, name=self.unique(name))
        failed = self.failed_backup()
        message = next(m for m in self.admin.list("messages") if m["resource_uuid"] == failed["id"])
        permissions = self.api.list("/api/project-permissions/", project=self.project["url"])
        self.owner = self.user("owner")
        ownership = next(p for p in self.api.list("/api/customer-permissions/") if p["user_uuid"] == self.owner.user["uuid"])
        plain = lambda thing: thing["id"].replace("-", "")
        self.things = {
            "project": self.project["uuid"], "instance": self.vm["uuid"], "backup": self.whole["uuid"], "volume": plain(volume), "parent": plain(parent),
            "snapshot": plain(snapshot), "message": plain(message), "schedule": self.schedule(self.vm, description=name)["uuid"],
            "quota": self.quota("storage")["uuid"], "user": self.bystander.user["uuid"], "permission": permissions[0]["uuid"],
            "ownership": ownership["uuid"], "image": self.image()["uuid"], "flavor": self.flavor()["uuid"],
            "customer": ok(self.api.get("/api/customers/"))[0]["uuid"], "token": "1",
            "repository": "here",
            "task": str(ok(self.api.post("/ops/gc/", {}), 202)["task"]),
        }
        self.settle()

    def settle(self):
        """As it was, after what was allowed to change it."""
        backups = [self.things[kind] for kind in ("parent", "snapshot")]
        rows = "(SELECT backup_id FROM volume_backup WHERE uuid IN (?, ?))"
        self.d.sql("UPDATE volume SET state = 'maintenance', labels = '{\"k\": \"v\"}' WHERE uuid = ?", (self.things["volume"],))
        self.d.sql(f"UPDATE backup SET state = 'restoring' WHERE id IN {rows} OR uuid = ?", (*backups, self.things["backup"]))
        self.d.sql("UPDATE volume_backup SET labels = '{\"k\": \"v\"}' WHERE uuid IN (?, ?)", backups)
        self.d.sql("UPDATE instance SET state = 'starting' WHERE uuid = ?", (self.things["instance"],))

    def spare(self, kind):
        """Another one of a kind, to be lost."""
        if kind == "schedule":
            self.d.sql("UPDATE instance SET state = 'offline' WHERE uuid = ?", (self.things["instance"],))
            return self.schedule(self.vm)["uuid"]
        if kind in ("image", "flavor"):
            return getattr(self, kind)()["uuid"]
        if kind == "permission":
            role = {"project": self.project["url"], "user": self.bystander.user["url"], "role": "admin"}
            return self._role("/api/project-permissions/", role)
        if kind == "ownership":
            return self._role("/api/customer-permissions/", {"user": self.bystander.user["url"], "role": "owner"})
        if kind == "user":
            return ok(self.api.post(USERS, {"username": self.unique("spare")}), 201)["uuid"]
        assert kind == "token"
        return str(ok(self.api.post("/ops/tokens/", {"user": self.bystander.user["username"]}), 201)["id"])

    def _role(self, collection, order):
        for old in self.api.list(collection, user=order["user"]):
            if old["role"] == order["role"]:
                return old["uuid"]
        return ok(self.api.post(collection, order), 201)["uuid"]


class World:
    def __init__(self, daemon):
        self.d = daemon
        self.key = Keystone(daemon)
        self.halves = {OWN: Half(daemon, "own"), OTHER: Half(daemon, MARK)}
        # Later ones only read, and in WAL mode nothing is locked for it.
        self.coffer = sqlite3.connect(daemon.coffer)
        self.links = {}
        self.callers = self.make_callers()
        for half in self.halves.values():
            wait_for(lambda: half.get(f"/ops/tasks/{half.things['task']}/")["state"] == "done", "the collection ends")

    def make_callers(self):
        own = self.halves[OWN]
        key, users = self.key, {role: own.user(role) for role in ("reader", "manager", "admin", "owner")}
        users |= {"nobody": own.user(), "staff": own.user(staff=True), "stranger": self.halves[OTHER].user("manager"), "gone": own.user("manager")}
        users |= {"expired": own.user("manager"), "dismissed": own.user("manager")}
        everywhere = {OWN: ADMIN, OTHER: ADMIN, NOWHERE: ADMIN}
        roles = {
            "reader": {OWN: READ}, "manager": {OWN: WRITE}, "admin": {OWN: WRITE}, "owner": {OWN: WRITE, OTHER: WRITE}, "nobody": {}, "staff": everywhere,
            "stranger": {OTHER: WRITE},
        }
        self.users = users
        session = lambda user, scope=None: key.login(by_token(users[user].token), scope)[0]
        in_own = project_scope(own.project)

        def credential(user, **fields):
            order = {"application_credential": {"name": own.unique("c"), **fields}}
            path = f"/users/{users[user].user['uuid']}/application_credentials"
            return ok(key.request("POST", path, session(user, in_own), order), 201)["application_credential"]

        self.credential = credential
        dismissed = session("dismissed", in_own)
        role, = own.api.list("/api/project-permissions/", user=users["dismissed"].user["url"])
        ok(own.api.delete(role["url"]), 204)
        old = session("expired", in_own)
        self.d.sql("UPDATE token SET expires = 1 WHERE user_id = (SELECT id FROM user WHERE uuid = ?)", (users["expired"].user["uuid"],))
        ended = session("manager", in_own)
        assert key.check(ended, method="DELETE").status_code == 204
        full, reading = credential("manager"), credential("manager", roles=[{"name": "reader"}])
        ok(own.api.patch(users["gone"].user["url"], {"is_active": False}))

        token = lambda value: {"Authorization": f"Token {value}"}
        openstack = lambda value: {"X-Auth-Token": value}
        nobodies = {
            "without anything": {}, "with the word Token": {"Authorization": "Token"}, "with a made-up token": token("f" * 40),
            "with another scheme": {"Authorization": f"Bearer {users['staff'].token}"}, "with an empty X-Auth-Token": openstack(""),
            "with a made-up X-Auth-Token": openstack("f" * 40), "disabled": token(users["gone"].token), "expired": token(users["expired"].token),
            "with an expired session": openstack(old), "with a session that was ended": openstack(ended),
            "whose role was taken away": openstack(dismissed), "with a session as Token": token(session("staff")),
            "with a wrong password": basic(users["manager"].user["username"], "wrong horse 8"),
            "with a hash of a token": token(self.d.sql("SELECT hex(hash) FROM token WHERE user_id = 1")[0][0][:40].lower()),
        }
        callers = {name: Caller(headers) for name, headers in nobodies.items()}
        for name, roles_of in roles.items():
            callers[name] = Caller(token(users[name].token), roles_of, name == "owner", waldur=True, openstack=True, user=name)
        as_openstack = {
            "manager, his token as X-Auth-Token": ("manager", openstack(users["manager"].token), {}),
            "manager, by password": ("manager", basic(users["manager"].user["username"], PASSWORD), {}),
            "manager, unscoped session": ("manager", openstack(session("manager")), {}),
            "manager, scoped session": ("manager", openstack(session("manager", in_own)), {"scope": OWN}),
            "reader, scoped session": ("reader", openstack(session("reader", in_own)), {"scope": OWN}),
            "owner, scoped session": ("owner", openstack(session("owner", in_own)), {"scope": OWN}),
            "stranger, scoped session": ("stranger", openstack(session("stranger", project_scope(self.halves[OTHER].project))), {"scope": OTHER}),
            "staff, scoped session": ("staff", openstack(session("staff", in_own)), {"scope": OWN}),
            "staff, unscoped session": ("staff", openstack(session("staff")), {}),
        }
        from_credential = {
            "manager's program": ("manager", full, ADMIN), "manager's reading program": ("manager", reading, READ),
            "staff's program": ("staff", credential("staff"), ADMIN), "staff's program for members": ("staff", credential("staff", roles=[{"name": "member"}]), WRITE),
        }
        for name, (user, made, ceiling) in from_credential.items():
            as_openstack[name] = (user, openstack(key.login(by_credential(made))[0]), {"scope": OWN, "ceiling": ceiling, "credential": True})
        for name, (user, headers, more) in as_openstack.items():
            callers[name] = Caller(headers, roles[user], user == "owner", openstack=True, user=user, **more)
        return callers

    # ---------------------------------------------------------------- what rules ask for

    def plain(self, place, kind):
        if kind in ("token", "task") and place == NOWHERE:
            return "999999"
        return ZERO if place == NOWHERE else self.halves[place].things[kind]

    def id(self, place, kind):
        return dashed(self.plain(place, kind))

    def url(self, place, kind):
        collection = {"instance": "openstack-instances", "image": "openstack-images", "flavor": "openstack-flavors"}[kind]
        return f"/api/{collection}/{self.plain(place, kind)}/"

    def session(self, place):
        """A session of whoever asks, or of a bystander."""
        if place == NOWHERE:
            return "f" * 43
        user = self.users[self.asking.user] if place == OWN and self.asking.user else self.halves[OTHER].bystander
        return self.key.login(by_token(user.token))[0]

    # ---------------------------------------------------------------- requests

    def path(self, operation, rule, place, through, lost):
        """The path that a rule's operation has for an object of this place, which will be lost or not."""
        path = operation.split(" ")[1]
        thing = ZERO
        if rule.thing == "credential" or "user_id" in path:
            mine = self.users[self.asking.user] if place == OWN and self.asking.user else self.halves[OTHER].bystander
            path = path.replace("{user_id}", ZERO if place == NOWHERE else mine.user["uuid"])
        if rule.thing == "credential":
            thing = ZERO if place == NOWHERE else self.credential_of(mine, rule.spare and lost)
        elif operation in KEYSTONE and rule.thing == "user":
            thing = ZERO if place == NOWHERE else (self.users[self.asking.user] if place == OWN and self.asking.user else self.halves[OTHER].bystander).user["uuid"]
        elif rule.thing and place != NOWHERE and rule.spare and lost:
            thing = self.halves[place].spare(rule.thing)
        elif rule.thing:
            thing = self.plain(place, rule.thing)
        elif "os-quota-sets" in path:
            thing = self.plain(place, "project")
        elif "os-quota-class-sets" in path:
            thing = "default"
        elif "/types/" in path:
            thing = self.volume_type
        elif "/extensions/" in path:
            thing = self.extension
        path = path.replace("{project_id}", self.halves[through].project["uuid"] if through else "")
        identifier = dashed(thing) if operation in CINDER and rule.thing else thing
        fixed = {"domains": "default", "roles": "member"}.get(path.split("/")[-2])
        return path.replace("{uuid}", thing).replace("{name}", thing).replace("{id}", fixed or identifier).replace("{key}", "k")

    def credential_of(self, user, spare):
        if not spare and user in self.links:
            return self.links[user]
        uuid = ok(self.d.staff.post(f"/ops/users/{user.user['uuid']}/credentials/", {"project": self.home(user)}), 201)["id"] if self.home(user) else ZERO
        return self.links.setdefault(user, uuid) if not spare else uuid

    def home(self, user):
        """A project of this user's, for there are no credentials without one."""
        projects = ok(self.key.get("/auth/projects", user.token))["projects"]
        return projects[0]["id"] if projects else None

    @property
    def volume_type(self):
        return self.link("type", lambda: ok(self.halves[OWN].admin.get("/types"))["volume_types"][0]["id"])

    @property
    def extension(self):
        return self.link("extension", lambda: ok(self.halves[OWN].admin.get("/extensions"))["extensions"][0]["alias"])

    def link(self, name, find):
        if name not in self.links:
            self.links[name] = find()
        return self.links[name]

    # ---------------------------------------------------------------- what changes

    def version(self):
        """Another number after each commit of the daemon's, whatever it changed; there are none but those of requests."""
        return self.coffer.execute("PRAGMA data_version").fetchone()[0]


@pytest.fixture(scope="module")
def world(start_module_daemon):
    # Nothing but requests changes the coffer meanwhile.
    quiet = "[auth]\nlogin_attempts = 1000000\n[scrub]\nbytes_per_second = 0\n[engine]\nmaintenance_interval_s = 86400\nexpiry_interval_s = 86400"
    # One that cannot be attached, because a collection or an attachment that goes on behind a request changes it too.
    repository = "[repositories.here]\nkind = 'directory'\ndirectory = '/nonexistent/of/tests'\npatience_s = 0"
    daemon = start_module_daemon(f"{quiet}\n{repository}")
    # What it does to the states of objects is no state that the daemon would leave behind.
    daemon.check = False
    return World(daemon)


def combinations(operation, rule, caller):
    """The places that an operation is tried in: where the object lies, and through which project's URLs."""
    if not caller.user:
        return [(OWN, OWN if "{project_id}" in operation else None)]
    places = (OWN, OTHER, NOWHERE) if rule.thing or rule.kind in ("into", "quotas of", "token of", "credentials of", "own credentials") else (OWN,)
    throughs = (OWN, OTHER) if "{project_id}" in operation else (None,)
    return itertools.product(places, throughs)


def test_there_is_a_rule_for_each_operation_and_for_nothing_else():
    described = {f"{method} {path}" for method, path in DOCUMENT.operations}
    assert {operation.split(" (")[0] for operation in RULES} == described


CALLERS = [
    "without anything", "with the word Token", "with a made-up token", "with another scheme", "with an empty X-Auth-Token", "with a made-up X-Auth-Token",
    "disabled", "expired", "with an expired session", "with a session that was ended", "whose role was taken away", "with a session as Token",
    "with a wrong password", "with a hash of a token", "nobody", "reader", "manager", "admin", "owner", "staff", "stranger",
    "manager, his token as X-Auth-Token", "manager, by password", "manager, unscoped session", "manager, scoped session", "reader, scoped session",
    "owner, scoped session", "stranger, scoped session", "staff, scoped session", "staff, unscoped session", "manager's program",
    "manager's reading program", "staff's program", "staff's program for members",
]


@pytest.mark.parametrize("name", CALLERS)
def test_everybody_gets_what_is_his_and_nothing_else(world, ledger, name):
    assert set(CALLERS) == set(world.callers)
    caller = world.asking = world.callers[name]
    connection = http.client.HTTPConnection("127.0.0.1", world.d.port, timeout=30)
    wrong, tried = [], 0
    for operation, rule in RULES.items():
        # A wrong password is hashed each time.
        if name == "with a wrong password" and tried > 120:
            break
        for place, through in combinations(operation, rule, caller):
            want = access.expected(operation, rule, caller, place, through)
            method, path = operation.split(" ")[0], world.path(operation, rule, place, through, want == ALLOWED)
            headers = dict(caller.headers) | (rule.headers(world, place) if rule.headers else {})
            if operation in CINDER:
                headers["OpenStack-API-Version"] = "volume 3.71"
            order = rule.order(world, place) if rule.order else None
            if order is not None:
                headers["Content-Type"] = "application/json"
            before = world.version()
            connection.request(method, path, json.dumps(order) if order is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            tried += 1
            # What is allowed is answered, or refused for the state of the object or for the body.
            refused = answer.status in (401, 403, 404, 405) or answer.status >= 500 or rule.kind in ("any", "see", "reader") and answer.status >= 400
            faults = ["another answer"] if (refused if want == ALLOWED else answer.status != want) else []
            if want != ALLOWED and world.version() != before:
                faults.append("something changed")
            if not caller.role(OTHER) and MARK in text:
                faults.append("told of what is others'")
            if not caller.staff and str(world.d.base) in text:
                faults.append("told a path of the host")
            wrong += [f"{fault}: {operation} ({place}, through {through}): {answer.status} instead of {want}: {text[:150]}" for fault in faults]
            if want != ALLOWED or faults:
                with suppress(AssertionError), ledger.fault("access: somebody asks for what is not his"):
                    assert not faults
            if answer.status < 300 and method != "GET":
                for half in world.halves.values():
                    half.settle()
    connection.close()
    assert not wrong, f"{len(wrong)} of {tried}:\n" + "\n".join(wrong)


# ---------------------------------------------------------------- what is routed is described


def words():
    """The words that the routers know, out of their sources."""
    found = {"nothing"}
    for file in SOURCES.rglob("*.rs"):
        for pattern in re.findall(r"\[[^\[\]=;]*\](?=[^\n]*=>)", file.read_text()):
            found |= set(re.findall(r'"([a-z0-9_.-]+)"', pattern))
    return sorted(found | set(re.findall(r'"([a-z-]+)"', (SOURCES / "waldur" / "links.rs").read_text())))


def test_nothing_is_routed_that_is_not_described(world):
    """Every word that a router knows, below every path that is described, by every method: what is there is in the document."""
    staff = world.asking = world.callers["staff"]
    connection = http.client.HTTPConnection("127.0.0.1", world.d.port, timeout=30)
    project = world.halves[OWN].project["uuid"]
    prefixes = {"/"}
    for path in DOCUMENT.paths:
        steps = path.strip("/").replace("{project_id}", project).replace("{uuid}", ZERO).replace("{id}", ZERO).replace("{user_id}", ZERO).split("/")
        prefixes |= {"/" + "".join(step + "/" for step in steps[:n]) for n in range(len(steps) + 1)}
    undescribed = []
    for prefix, word in itertools.product(sorted(prefixes), words()):
        openstack = prefix.startswith(("/v3", "/identity"))
        path = prefix + word + ("" if openstack else "/")
        for method in (["GET", "POST"] if openstack else ["OPTIONS"]):
            connection.request(method, path, "{}" if method == "POST" else None, staff.headers | {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
            allow = {m for m in answer.headers.get("Allow", "").split(", ") if m} - {"HEAD", "OPTIONS"}
            # What is no resource of the volume API is a project there, and of no such project is staff.
            there = answer.status not in (403, 404, 405) if method != "OPTIONS" else answer.status == 200
            template = DOCUMENT.template({"/healthz/": "/healthz", "/api/openapi.json/": "/api/openapi.json"}.get(path, path), method)
            if there and template is None or allow - {m for m in allow if (m, template) in DOCUMENT.operations}:
                undescribed.append(f"{method} {path}: {answer.status} {allow} {text[:100]}")
    assert not undescribed, "\n".join(undescribed)
    assert len(words()) > 60
