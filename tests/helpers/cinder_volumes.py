"""A client for Cinder's volumes, snapshots and quotas, the views that the contract gives them, and shortcuts to what tests need."""

import copy
import hashlib
import os
import random

import requests

from helpers.api import local, ok
from helpers.cinder import RoleLab, dashed, empty, ident
from helpers.disks import MIB
from helpers.wait import wait_for

LATEST = "3.71"
NOBODY = "11111111-2222-4333-8444-555555555555"

# Cinder contract 0.2: the key of the error object follows from the code.
FAULTS = {
    400: "badRequest", 403: "forbidden", 404: "itemNotFound", 405: "badMethod", 409: "conflictingRequest", 413: "overLimit",
    415: "badMediaType", 501: "notImplemented", 503: "serviceUnavailable",
}
QUOTAS = ("volumes", "snapshots", "gigabytes", "backups", "backup_gigabytes", "per_volume_gigabytes", "groups")
TRUE = [True, "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes", "y", "t"]
FALSE = [False, "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no", "n", "f"]


# ---------------------------------------------------------------- views


def since(version, minor):
    return int(version.split(".")[1]) >= minor


def volume_keys(version="3.0", admin=False, shown=True):
    """The keys of the detail view (Cinder contract 3.3, 4.2). `shown` is false for the answers to a creation or a change."""
    keys = {
        "id", "status", "size", "availability_zone", "created_at", "updated_at", "name", "description", "volume_type", "snapshot_id",
        "source_volid", "metadata", "links", "user_id", "bootable", "encrypted", "replication_status", "consistencygroup_id",
        "multiattach", "attachments",
    }
    if shown:
        keys |= {"os-vol-tenant-attr:tenant_id"}
    if admin:
        keys |= {"migration_status"}
    if admin and shown:
        keys |= {"os-vol-host-attr:host", "os-vol-mig-status-attr:migstat", "os-vol-mig-status-attr:name_id"}
    for minor, added, who in (
        (13, {"group_id"}, "all"), (21, {"provider_id"}, "admin"), (48, {"shared_targets", "service_uuid"}, "all"),
        (61, {"cluster_name"}, "admin"), (63, {"volume_type_id"}, "all"), (65, {"consumes_quota"}, "all"),
    ):
        if since(version, minor) and (admin or who == "all"):
            keys |= added
    return keys


SNAPSHOT_SUMMARY = {"id", "name", "description", "volume_id", "status", "size", "created_at", "updated_at", "metadata"}


def snapshot_keys(version="3.0"):
    """The keys of a snapshot in detail (Cinder contract 4.2); the summary has none that depend on the version."""
    keys = SNAPSHOT_SUMMARY | {"os-extended-snapshot-attributes:project_id", "os-extended-snapshot-attributes:progress"}
    for minor, added in ((14, "group_snapshot_id"), (41, "user_id"), (65, "consumes_quota")):
        if since(version, minor):
            keys |= {added}
    return keys


ATTACHMENT_KEYS = {"id", "volume_id", "attachment_id", "server_id", "host_name", "device", "attached_at"}


# ---------------------------------------------------------------- answers


def fault(answer, code):
    """The message of an error, whose body must have the shape of Cinder contract 0.2."""
    body = ok(answer, code)
    key = FAULTS.get(code, "computeFault")
    assert set(body) == {key}, body
    assert set(body[key]) == {"code", "message"} | ({"retryAfter"} if code == 413 else set()), body
    assert body[key]["code"] == code and isinstance(body[key]["message"], str) and body[key]["message"], body
    return body[key]["message"]


def over(answer):
    """Over quota. Without all of this Tempest takes it for rate limiting, sleeps, and tries again (Cinder contract 0.2)."""
    message = fault(answer, 413)
    assert "exceed" in message.lower(), message
    assert answer.json()["overLimit"]["retryAfter"] == "0"
    assert answer.headers["Retry-After"] == "0"
    return message


# ---------------------------------------------------------------- bytes


def scribble(path, seed, size=None, where=(0, 0.37, 0.81, 1)):
    """Writes 192 KiB of random bytes at some places of a disk, the last block among them."""
    rng = random.Random(f"scribble {seed}")
    length = 192 << 10
    size = size or os.path.getsize(path)
    with open(path, "r+b") as f:
        for part in where:
            f.seek(int((size - length) * part) // 512 * 512)
            f.write(rng.randbytes(length))


def content(path):
    """What a disk holds: a hash of each 64 KiB that is not all zeros, by offset. A hole and zeros are the same."""
    found, block = {}, 64 << 10
    with open(path, "rb") as f:
        end, at = os.fstat(f.fileno()).st_size, 0
        while at < end:
            try:
                start = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:  # only a hole is left
                break
            at = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            for offset in range(start // block * block, at, block):
                data = os.pread(f.fileno(), block, offset)
                if data.strip(b"\0"):
                    found[offset] = hashlib.sha256(data.ljust(block, b"\0")).hexdigest()
    return found


# ---------------------------------------------------------------- the client


class Client:
    """Requests of one user to one project at one microversion. Paths are below `/v3/{project}`; absolute URLs are taken as they are."""

    def __init__(self, daemon, token, project, version=LATEST):
        self.daemon = daemon
        self.token = token
        self.project = project
        self.version = version
        self.session = requests.Session()
        self.session.trust_env = False

    def at(self, version):
        """The same user at another microversion."""
        other = copy.copy(self)
        other.version = version
        return other

    def request(self, method, path, body=None, headers=None, **kw):
        if path.startswith(("http://", "https://")):
            path = local(path)
        else:
            path = (f"/v3/{self.project}" if self.project else "/v3") + path
        headers = {"X-Auth-Token": self.token, "OpenStack-API-Version": f"volume {self.version}", **(headers or {})}
        if body is not None:
            kw["json"] = body
        kw.setdefault("timeout", 60)
        return self.session.request(method, self.daemon.url + path, headers=headers, allow_redirects=False, **kw)

    def get(self, path, params=None, **kw):
        return self.request("GET", path, params=params, **kw)

    def post(self, path, body=None, **kw):
        return self.request("POST", path, body, **kw)

    def put(self, path, body=None, **kw):
        return self.request("PUT", path, body, **kw)

    def delete(self, path, params=None, **kw):
        return self.request("DELETE", path, params=params, **kw)

    # ------------------------------------------------------------ shortcuts

    def show(self, kind, thing):
        return ok(self.get(f"/{kind}/{ident(thing)}"))[kind[:-1]]

    def list(self, kind, detail=False, **params):
        return ok(self.get(f"/{kind}/detail" if detail else f"/{kind}", params))[kind]

    def ids(self, kind, **params):
        return [entry["id"] for entry in self.list(kind, **params)]

    def action(self, kind, thing, name, value=None):
        return self.post(f"/{kind}/{ident(thing)}/action", {name: value})

    def wait(self, kind, thing, status="available", timeout=60):
        """Waits for the status. One that comes to rest in another fails the test at once."""

        def look():
            now = self.show(kind, thing)
            if now["status"] == status:
                return now
            assert not now["status"].startswith("error"), f"{kind} {now['id']} is {now['status']}: {now.get('fail_reason')}"
            return None

        return wait_for(look, f"{kind} {ident(thing)} becomes {status}", timeout)

    def watch(self, kind, thing, end="available", timeout=60):
        """Every status that is seen until `end`, without repetitions, and the last view."""
        seen = []

        def look():
            now = self.show(kind, thing)
            if now["status"] not in seen[-1:]:
                seen.append(now["status"])
            return now if now["status"] == end or now["status"].startswith("error") else None

        return seen, wait_for(look, f"{kind} {ident(thing)} becomes {end}", timeout, 0.002)

    def gone(self, kind, thing, timeout=60):
        wait_for(lambda: self.get(f"/{kind}/{ident(thing)}").status_code == 404, f"{kind} {ident(thing)} goes away", timeout)

    def create(self, kind, code=202, **fields):
        """The answer to a creation: the object, or the message of the error."""
        answer = self.post(f"/{kind}", {kind[:-1]: fields})
        if code == 413:
            return over(answer)
        return ok(answer, code)[kind[:-1]] if code < 300 else fault(answer, code)

    def quota(self, project=None):
        return ok(self.get(f"/os-quota-sets/{project or self.project}"))["quota_set"]

    def usage(self, project=None):
        """How much is used of each quota; nothing stays reserved."""
        found = ok(self.get(f"/os-quota-sets/{project or self.project}", {"usage": "True"}))["quota_set"]
        assert not [name for name in QUOTAS if found[name]["reserved"]], found
        return {name: found[name]["in_use"] for name in QUOTAS}


class Cloud(RoleLab):
    """Shortcuts for tests of volumes and snapshots."""

    def connect(self, token, project):
        return Client(self.d, token, project)

    @property
    def stranger(self):
        """A member of another project, through that project's URLs."""
        if "elsewhere" not in self._clients:
            self._clients["elsewhere"] = self.client("manager", self.new_project())
        return self._clients["elsewhere"]

    # ------------------------------------------------------------ volumes, snapshots, backups

    def volume(self, size=1, seed=None, client=None, **fields):
        """A volume that is available; with a seed there is something on it."""
        client = client or self.member
        made = client.wait("volumes", client.create("volumes", size=size, **fields))
        if seed is not None:
            scribble(self.path(made), seed)
        return made

    def snapshot(self, volume, client=None, **fields):
        client = client or self.member
        return client.wait("snapshots", client.create("snapshots", volume_id=ident(volume), **fields))

    def backup(self, volume, client=None, **fields):
        client = client or self.member
        return client.wait("backups", client.create("backups", volume_id=ident(volume), **fields))

    def remove(self, kind, thing, client=None):
        client = client or self.member
        empty(client.delete(f"/{kind}/{ident(thing)}"))
        client.gone(kind, thing)

    def reset(self, volume, status):
        """Puts a volume into a state as an administrator can."""
        empty(self.admin.action("volumes", volume, "os-reset_status", {"status": status}))
        assert self.admin.show("volumes", volume)["status"] == status

    def attach(self, volume, **fields):
        """Marks a volume as used by a host (Cinder contract 4.2)."""
        body = {"host_name": "hypervisor", "mountpoint": "/dev/vdb", "mode": "rw", **fields}
        empty(self.member.action("volumes", volume, "os-attach", body))
        return self.member.wait("volumes", volume, "in-use")

    def registered(self, size=MIB, project=None, name=None):
        """A file of the host that the administrator has registered, as Cinder shows it."""
        body = {"path": str(self.disk(size)), "project": (project or self.project)["uuid"], "name": name or self.unique("vol")}
        return self.admin.show("volumes", dashed(ok(self.api.post("/ops/volumes/", body), 201)["uuid"]))

    def machine_volumes(self, instance):
        return [self.admin.show("volumes", dashed(v["uuid"])) for v in self.get(instance)["volumes"]]

    def online(self, *sizes):
        """A running machine and its volumes."""
        vm = self.instance(sizes or [MIB])
        ok(self.api.post(vm["url"] + "start/"), 202)
        vm = self.wait_state(vm["url"], "Online")
        return vm, self.machine_volumes(vm)

    def broken(self):
        """A registered volume whose file is gone: every attempt to read it fails."""
        volume = self.registered()
        self.path(volume).unlink()
        return volume

    def lost_snapshot(self):
        """A snapshot in state error: what it was to be taken of is gone."""
        snapshot = self.member.create("snapshots", volume_id=self.broken()["id"])
        wait_for(lambda: self.member.show("snapshots", snapshot)["status"] == "error", "the snapshot fails")
        return snapshot

    def failed_backup(self):
        backup = self.member.create("backups", volume_id=self.broken()["id"])
        return wait_for(
            lambda: (b := self.member.show("backups", backup))["status"] == "error" and b, "the backup fails"
        )

    def limit(self, **limits):
        """Sets quotas of the project."""
        return ok(self.admin.put(f"/os-quota-sets/{self.project['uuid']}", {"quota_set": limits}))["quota_set"]
