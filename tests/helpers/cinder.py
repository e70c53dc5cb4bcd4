"""A client for the Cinder dialect, readers for its answers, and shortcuts to volumes, backups and what is on their disks."""

import base64
import json
import os
import random
import re
import subprocess
import uuid
from datetime import datetime, timezone
from pathlib import Path

import requests

from helpers.api import local, ok
from helpers.disks import MIB
from helpers.lab import Lab
from helpers.wait import wait_for

MIN, MAX = "3.0", "3.71"
GIB = 1 << 30
NOBODY = "00000000-0000-0000-0000-000000000000"
UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
# Contract 0.4: no zone suffix; the fraction may be shorter.
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?$")
REQUEST_ID = re.compile(r"^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
# Contract 0.2: the top-level key is chosen by the status.
FAULTS = {
    400: "badRequest", 401: "error", 403: "forbidden", 404: "itemNotFound", 405: "badMethod", 406: "computeFault",
    409: "conflictingRequest", 413: "overLimit", 415: "badMediaType", 500: "computeFault", 501: "notImplemented",
    503: "serviceUnavailable",
}
SUMMARY = {"id", "name", "links"}
DETAIL = {
    "id", "status", "size", "object_count", "availability_zone", "container", "created_at", "updated_at", "name",
    "description", "fail_reason", "volume_id", "links", "is_incremental", "has_dependent_backups", "snapshot_id",
    "data_timestamp",
}
RESTING = {"available", "error", "error_deleting"}


def dashed(value):
    """The id as Cinder shows it, from Waldur's 32 hex digits."""
    return str(uuid.UUID(value))


def plain(value):
    """The id as Waldur shows it."""
    return value.replace("-", "")


def moment(text):
    """A time stamp of the API, which is UTC without saying so."""
    assert TIME.match(text), text
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def number(version):
    """A version in a form that can be compared."""
    return tuple(int(part) for part in version.split("."))


def detail_keys(version, admin):
    """Contract 2.2: exactly these keys, and no others, ever."""
    keys, at = set(DETAIL), number(version)
    if at >= (3, 43):
        keys.add("metadata")
    if admin and at >= (3, 18):
        keys.add("os-backup-project-attr:project_id")
    if admin and at >= (3, 56):
        keys.add("user_id")
    return keys


def fault(response, code, *words):
    """The error object of a response with this status; its shape, and that its message has `words` (contract 0.2)."""
    body = ok(response, code)
    assert list(body) == [FAULTS[code]], body
    inner = body[FAULTS[code]]
    assert inner["code"] == code and type(inner["code"]) is int, inner
    assert isinstance(inner["message"], str) and inner["message"], inner
    keys = {"code", "message"} | ({"title"} if code == 401 else set()) | ({"retryAfter"} if code == 413 else set())
    assert {"code", "message"} <= set(inner) <= keys, inner
    for word in words:
        assert word.lower() in inner["message"].lower(), f"{word!r} is not in {inner['message']!r}"
    return inner


def over_quota(response):
    """Contract 0.2: without all of this Tempest takes a quota for a rate limit, sleeps and tries again."""
    inner = fault(response, 413, "exceed")
    assert inner["retryAfter"] == "0", inner
    assert response.headers["Retry-After"] == "0"
    return inner


def empty(response, code=202):
    """A response without a body says so (contract 0.1)."""
    ok(response, code)
    assert response.content == b"" and response.headers["Content-Length"] == "0", response.headers
    return response


def assert_common_headers(response, version):
    """Contract 0.1 and 3.2: on every answer, errors among them."""
    what = f"{response.request.method} {response.request.path_url}: {response.status_code} {dict(response.headers)}"
    assert REQUEST_ID.match(response.headers.get("x-openstack-request-id", "")), what
    assert response.headers["x-openstack-request-id"] == response.headers.get("x-compute-request-id"), what
    assert response.headers.get("OpenStack-API-Version") == f"volume {version}", what
    assert "openstack-api-version" in response.headers.get("Vary", "").lower(), what
    if response.content:
        assert response.headers["Content-Type"].split(";")[0] == "application/json", what


class Cinder:
    """Requests as one user to one project. Targets begin after the project: `/backups`; absolute URLs are taken as they are."""

    def __init__(self, daemon, project=None, token=None, version=MAX):
        self.daemon = daemon
        self.project = project
        self.prefix = f"/v3/{project}" if project else "/v3"
        self.token = token
        self.version = version
        self.session = requests.Session()
        self.session.trust_env = False
        if token:
            self.session.headers["X-Auth-Token"] = token

    def at(self, version=MAX, project=None, token=None):
        """The same user at another microversion, or in another project."""
        return Cinder(self.daemon, project or self.project, token or self.token, version)

    def request(self, method, target, body=None, **kw):
        if body is not None:
            kw["json"] = body
        headers = dict(kw.pop("headers", {}))
        if self.version:
            headers = {"OpenStack-API-Version": f"volume {self.version}"} | headers
        kw.setdefault("timeout", 60)
        kw.setdefault("allow_redirects", False)
        path = local(target) if "://" in target else self.prefix + target
        return self.session.request(method, self.daemon.url + path, headers=headers, **kw)

    def get(self, target, **params):
        return self.request("GET", target, params=params or None)

    def post(self, target, body=None, **kw):
        return self.request("POST", target, body, **kw)

    def put(self, target, body=None, **kw):
        return self.request("PUT", target, body, **kw)

    def delete(self, target, **params):
        return self.request("DELETE", target, params=params or None)

    # ---------------------------------------------------------------- backups

    def create(self, volume, code=202, **fields):
        """The answer to a request for a backup; `volume` is a volume or the id of one."""
        body = {"volume_id": volume if isinstance(volume, str) else volume["id"], **fields}
        answer = self.post("/backups", {"backup": body})
        return ok(answer, code)["backup"] if code == 202 else fault(answer, code)

    def backup(self, volume, **fields):
        """A backup that has become available, in detail."""
        return self.wait(self.create(volume, **fields))

    def show(self, backup, code=200):
        answer = self.get(f"/backups/{ident(backup)}")
        return ok(answer)["backup"] if code == 200 else fault(answer, code)

    def list(self, detail=True, **params):
        return ok(self.get("/backups/detail" if detail else "/backups", **params))["backups"]

    def ids(self, **params):
        return [b["id"] for b in self.list(detail=False, **params)]

    def status(self, backup):
        return self.show(backup)["status"]

    def wait(self, backup, status="available", timeout=60):
        """Waits until the backup has this status; one that comes to rest in another fails the test at once."""
        path, moving = f"/backups/{ident(backup)}", status not in RESTING

        def look():
            now = ok(self.get(path))["backup"]
            if now["status"] == status:
                return now
            assert moving or now["status"] not in RESTING, f"wanted {status}, got {now['status']}: {now['fail_reason']}"
            return None

        return wait_for(look, f"backup {ident(backup)} becomes {status}", timeout)

    def wait_rest(self, backup, timeout=60):
        """The backup when nothing is being done with it."""

        def look():
            now = ok(self.get(f"/backups/{ident(backup)}"))["backup"]
            return now["status"] in RESTING and now

        return wait_for(look, f"backup {ident(backup)} comes to rest", timeout)

    def wait_gone(self, backup, timeout=60):
        path = f"/backups/{ident(backup)}"
        wait_for(lambda: self.get(path).status_code == 404, f"backup {ident(backup)} goes away", timeout)

    def remove(self, backup):
        """Deletes the backup and waits until it is gone."""
        empty(self.delete(f"/backups/{ident(backup)}"))
        self.wait_gone(backup)

    def action(self, backup, name, value=None):
        return self.post(f"/backups/{ident(backup)}/action", {name: value})

    def reset(self, backup, status):
        empty(self.action(backup, "os-reset_status", {"status": status}))

    def force_delete(self, backup):
        empty(self.action(backup, "os-force_delete", {}))

    def start_restore(self, backup, **fields):
        return ok(self.post(f"/backups/{ident(backup)}/restore", {"restore": fields}), 202)["restore"]

    def restore(self, backup, **fields):
        """The volume that a backup was restored to, when both are available again."""
        answer = self.start_restore(backup, **fields)
        volume = self.wait_volume(answer["volume_id"])
        self.wait(backup)
        return volume

    def export(self, backup):
        return ok(self.get(f"/backups/{ident(backup)}/export_record"))["backup-record"]

    def record(self, backup):
        """What an exported record says."""
        return decode(self.export(backup)["backup_url"])

    def import_record(self, service, url):
        return self.post("/backups/import_record", {"backup-record": {"backup_service": service, "backup_url": url}})

    # ---------------------------------------------------------------- volumes, snapshots, quotas

    def create_volume(self, size=1, **fields):
        volume = ok(self.post("/volumes", {"volume": {"size": size, **fields}}), 202)["volume"]
        return self.wait_volume(volume)

    def volume(self, volume):
        return ok(self.get(f"/volumes/{ident(volume)}"))["volume"]

    def wait_volume(self, volume, status="available", timeout=60):
        path = f"/volumes/{ident(volume)}"

        def look():
            now = ok(self.get(path))["volume"]
            if now["status"] == status:
                return now
            bad = now["status"].startswith("error") and not status.startswith("error")
            assert not bad, f"volume {now['id']} is {now['status']}, wanted {status}"
            return None

        return wait_for(look, f"volume {ident(volume)} becomes {status}", timeout)

    def wait_volume_gone(self, volume, timeout=60):
        path = f"/volumes/{ident(volume)}"
        wait_for(lambda: self.get(path).status_code == 404, f"volume {ident(volume)} goes away", timeout)

    def remove_volume(self, volume):
        empty(self.delete(f"/volumes/{ident(volume)}"))
        self.wait_volume_gone(volume)

    def volume_action(self, volume, name, value=None, code=202):
        ok(self.post(f"/volumes/{ident(volume)}/action", {name: value}), code)

    def snapshot(self, volume, **fields):
        snapshot = ok(self.post("/snapshots", {"snapshot": {"volume_id": ident(volume), **fields}}), 202)["snapshot"]
        return self.wait_snapshot(snapshot)

    def wait_snapshot(self, snapshot, status="available"):
        def look():
            now = ok(self.get(f"/snapshots/{snapshot['id']}"))["snapshot"]
            assert now["status"] == status or not now["status"].startswith("error"), now
            return now["status"] == status and now

        return wait_for(look, f"snapshot {snapshot['id']} becomes {status}")

    def set_quota(self, **limits):
        ok(self.put(f"/os-quota-sets/{self.project}", {"quota_set": limits}))

    def usage(self):
        """What the quota counts: (backups, backup_gigabytes, volumes, gigabytes). Nothing is ever only reserved."""
        quota = ok(self.get(f"/os-quota-sets/{self.project}", usage="True"))["quota_set"]
        names = ("backups", "backup_gigabytes", "volumes", "gigabytes")
        assert [quota[name]["reserved"] for name in names] == [0] * 4, quota
        return tuple(quota[name]["in_use"] for name in names)


def ident(thing):
    return thing if isinstance(thing, str) else thing["id"]


def decode(url):
    """The JSON object in a record: base64, padded, on one line (contract 1.9)."""
    assert re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", url) and len(url) % 4 == 0, url
    return json.loads(base64.b64decode(url, validate=True))


def encode(record):
    """As Tempest does: the order of the keys and the white space are not those of the original."""
    return base64.b64encode(json.dumps(record, indent=1, sort_keys=True).encode()).decode()


class RoleLab(Lab):
    """A Lab whose project has a Cinder face, and clients in the contract's three roles (0.3): `admin` is staff, `member` and
    `reader` are users of this project and of no other. `connect` makes a client of a token for a project."""

    def __init__(self, daemon):
        super().__init__(daemon)
        self._clients = {}

    def connect(self, token, project):
        raise NotImplementedError

    @property
    def admin(self):
        if "staff" not in self._clients:
            self._clients["staff"] = self.staff()
        return self._clients["staff"]

    @property
    def member(self):
        return self.client("manager")

    @property
    def reader(self):
        return self.client("reader")

    def staff(self, project=None):
        return self.connect(self.d.token, (project or self.project)["uuid"])

    def client(self, role, project=None):
        """A client for a user with a project role (Waldur's name: admin, manager, reader), one for each role and project."""
        project = project or self.project
        key = role, project["uuid"]
        if key not in self._clients:
            self._clients[key] = self.connect(self.user(role, project).token, project["uuid"])
        return self._clients[key]

    def record(self, volume):
        """What the administrator of the host sees of a volume."""
        return ok(self.api.get(f"/ops/volumes/{plain(ident(volume))}/"))

    def path(self, volume):
        """Where a volume lies on this host."""
        return Path(self.record(volume)["path"])


class CinderLab(RoleLab):
    """Shortcuts for tests of backups."""

    def connect(self, token, project):
        return Cinder(self.d, project, token)

    # ---------------------------------------------------------------- disks

    def filled(self, size=1, extents=((0, MIB),), **fields):
        """A new volume with random bytes in these (offset, length) places."""
        volume = self.admin.create_volume(size, **fields)
        fill(self.path(volume), extents)
        return volume

    def registered(self, size=MIB, name=None, project=None):
        """A volume that is a disk the administrator has registered: less than a GiB, which Cinder rounds up."""
        disk = self.disk(size, name=name)
        body = {"path": str(disk), "project": (project or self.project)["uuid"], "name": self.unique("vol")}
        volume = ok(self.api.post("/ops/volumes/", body), 201)
        return self.admin.volume(dashed(volume["uuid"]))

    def volumes_of(self, instance):
        """The volumes of a machine as Cinder shows them, in their order."""
        return [self.admin.volume(dashed(v["uuid"])) for v in self.get(instance)["volumes"]]

    def online(self, size=MIB, **fields):
        """The volume of a running machine: it is in use."""
        machine = self.instance([size], **fields)
        ok(self.api.post(machine["url"] + "start/"), 202)
        self.wait_state(machine["url"], "Online")
        return self.admin.wait_volume(dashed(machine["volumes"][0]["uuid"]), "in-use")

    # ---------------------------------------------------------------- what is true beside the API

    def gc(self):
        """Room that no backup needs any more is given back now."""
        number = ok(self.api.post("/ops/gc/", {"dead_fraction": 0}), 202)["task"]
        task = wait_for(
            lambda: (t := ok(self.api.get(f"/ops/tasks/{number}/")))["state"] != "running" and t, "the clearing up ends", 60,
        )
        assert task["state"] == "done", task

    def stored(self):
        """Bytes of backup data in the coffer."""
        return self.d.sql("SELECT ifnull(sum(stored), 0) FROM pack_toc")[0][0]

    def events_about(self, ids):
        """Types of all events that name one of these ids, oldest first."""
        wanted = {plain(i) for i in ([ids] if isinstance(ids, str) else ids)}
        return [e["event_type"] for e in self.events() if any(w in plain(json.dumps(e)) for w in wanted)]


def fill(path, extents=((0, MIB),), seed=None):
    """Writes random bytes in these (offset, length) places and leaves the rest as it is."""
    rng = random.Random(seed if seed is not None else os.urandom(8))
    with open(path, "r+b") as f:
        for offset, length in extents:
            f.seek(offset)
            f.write(rng.randbytes(length))
    return Path(path)


def zero(path, offset, length):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(bytes(length))


def punch(path, offset, length):
    subprocess.run(["fallocate", "--punch-hole", "--offset", str(offset), "--length", str(length), str(path)], check=True)


def keep(path, target):
    """A copy of a disk as it is now, with its holes."""
    subprocess.run(["cp", "--sparse=auto", str(path), str(target)], check=True)
    return Path(target)


def extents(file, end):
    """The (start, end) places before `end` where an open file has data. What lies between reads as zeros."""
    found, at = [], 0
    while at < end:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
        except OSError:
            break
        if start >= end:
            break
        at = min(os.lseek(file, start, os.SEEK_HOLE), end)
        found.append((start, at))
    return found


def differs(a, b, length=None):
    """The first byte in which two disks differ, or None. Places where both have holes are not read, as they are equal:
    `cmp` of two empty GiB takes seconds. `length` compares the beginnings only; the shorter one is followed by zeros."""
    one, two = os.open(a, os.O_RDONLY), os.open(b, os.O_RDONLY)
    try:
        end = length if length is not None else max(os.fstat(one).st_size, os.fstat(two).st_size)
        for start, stop in sorted(extents(one, end) + extents(two, end)):
            for at in range(start, stop, MIB):
                wanted = min(MIB, stop - at)
                x, y = (os.pread(f, wanted, at).ljust(wanted, b"\0") for f in (one, two))
                if x != y:
                    return at + next(n for n in range(wanted) if x[n] != y[n])
        return None
    finally:
        os.close(one)
        os.close(two)


def assert_same_disk(a, b, length=None):
    """Every byte is the same, and the length too unless only the first `length` bytes are compared."""
    if length is None:
        assert os.path.getsize(a) == os.path.getsize(b)
    at = differs(a, b, length)
    assert at is None, f"{a} and {b} differ at byte {at}"


def assert_restored(source, copy):
    """Every byte of the source is in the copy; what the copy has beyond it reads as zeros."""
    assert os.path.getsize(copy) >= os.path.getsize(source)
    at = differs(source, copy)
    assert at is None, f"{source} and {copy} differ at byte {at}"
