"""Shortcuts to what a test needs on a daemon: users with roles, disks, machines, backups, schedules."""

import itertools
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

from helpers.api import Api, local, ok
from helpers.disks import MIB, make_image, make_raw
from helpers.wait import wait_for

BACKUPS = "/api/openstack-backups/"
BACKUP = "/api/openstack-backup/"
SCHEDULES = "/api/openstack-backup-schedules/"
INSTANCES = "/api/openstack-instances/"
FLAVORS = "/api/openstack-flavors/"
IMAGES = "/api/openstack-images/"
PROJECTS = "/api/projects/"
USERS = "/api/users/"
QUOTAS = "/api/quotas/"
EVENTS = "/api/events/"

PASSWORD = "correct horse 7"
# A schedule that does not fire while a test runs.
NEVER = "0 0 29 2 *"


def ms(moment):
    """A datetime as the coffer has it: milliseconds since the epoch."""
    return int(moment.timestamp() * 1000)


def parse_time(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


class Lab:
    def __init__(self, daemon):
        self.d = daemon
        self.api = daemon.staff
        self._count = itertools.count(1)
        self._project = None

    def unique(self, stem):
        return f"{stem}{next(self._count)}-{uuid.uuid4().hex[:6]}"

    # ---------------------------------------------------------------- people and places

    @property
    def project(self):
        """The project that registrations go to when none is named: one for each Lab."""
        if self._project is None:
            self._project = self.new_project()
        return self._project

    def new_project(self, name=None):
        return ok(self.api.post(PROJECTS, {"name": name or self.unique("project")}), 201)

    def user(self, role=None, project=None, staff=False, name=None, **fields):
        """A client for a new user: role is owner, admin, manager, reader or None."""
        name = name or self.unique(role or ("staff" if staff else "user"))
        body = {"username": name, "password": PASSWORD, **fields}
        if staff:
            body["is_staff"] = True
        user = ok(self.api.post(USERS, body), 201)
        if role == "owner":
            ok(self.api.post("/api/customer-permissions/", {"user": user["url"], "role": "owner"}), 201)
        elif role:
            project = project or self.project
            ok(self.api.post("/api/project-permissions/", {"project": project["url"], "user": user["url"], "role": role}), 201)
        token = ok(self.d.anonymous.post("/api-auth/password/", {"username": name, "password": PASSWORD}))["token"]
        return Api(self.d, token, user)

    def flavor(self, cores=1, ram=512, disk=0, **fields):
        body = {"name": self.unique("flavor"), "cores": cores, "ram": ram, "disk": disk, **fields}
        return ok(self.api.post(FLAVORS, body), 201)

    def image(self, **fields):
        return ok(self.api.post(IMAGES, {"name": self.unique("image"), **fields}), 201)

    # ---------------------------------------------------------------- machines

    def disk(self, size=MIB, seed=None, ext4=False, name=None):
        path = self.d.root / (name or self.unique("disk") + ".img")
        seed = str(path) if seed is None else seed
        return make_image(path, size, seed=seed) if ext4 else make_raw(path, size, seed=seed)

    def instance(self, volumes=(MIB,), project=None, bootable=0, **fields):
        """A registered machine. A volume is given by a size in bytes (a new raw disk) or by a path."""
        paths = [v if isinstance(v, (str, Path)) else self.disk(v) for v in volumes]
        body = {
            "name": self.unique("vm"),
            "project": (project or self.project)["url"],
            "volumes": [{"path": str(p), "bootable": n == bootable} for n, p in enumerate(paths)],
            **fields,
        }
        return ok(self.api.post(INSTANCES, body), 201)

    def volume_files(self, instance):
        """Where the volumes of a machine lie on this host, in their order."""
        rows = self.d.sql(
            "SELECT v.path FROM volume v JOIN instance_volume iv ON iv.volume_id = v.id"
            " JOIN instance i ON i.id = iv.instance_id WHERE i.uuid = ? ORDER BY iv.position",
            (instance["uuid"],),
        )
        return [Path(row[0]) for row in rows]

    def set_instance_state(self, instance, state):
        self.d.sql("UPDATE instance SET state = ? WHERE uuid = ?", (state, instance["uuid"]))

    # ---------------------------------------------------------------- backups

    def start_backup(self, instance, api=None, **fields):
        return ok((api or self.api).post(BACKUPS, {"instance": instance["url"], **fields}), 201)

    def backup(self, instance, api=None, **fields):
        """A backup that has reached Ready."""
        return self.wait_state(self.start_backup(instance, api, **fields)["url"], "Ready")

    def get(self, thing):
        return ok(self.api.get(thing if isinstance(thing, str) else thing["url"]))

    def wait_state(self, url, state, timeout=60):
        """Waits for the state; an object that ends in another resting state fails the test at once."""
        resting = {"Ready", "Erred", "Online", "Offline"}

        def look():
            now = ok(self.api.get(url))
            if now["state"] == state:
                return now
            assert now["state"] not in resting - {"Ready" if state in ("Restoring", "Deleting") else state}, (
                f"{local(url)} is {now['state']}, wanted {state}: {now.get('error_message')}"
            )
            return None

        return wait_for(look, f"{local(url)} becomes {state}", timeout)

    def wait_gone(self, url, timeout=60):
        wait_for(lambda: self.api.get(url).status_code == 404, f"{local(url)} goes away", timeout)

    def force_backup(self, backup, state):
        self.d.sql("UPDATE backup SET state = ? WHERE uuid = ?", (state, backup["uuid"]))

    def link(self, backup, schedule, kept_until=None):
        """Makes a backup one that the schedule made."""
        self.d.sql(
            "UPDATE backup SET schedule_id = (SELECT id FROM schedule WHERE uuid = ?), kept_until = ? WHERE uuid = ?",
            (schedule["uuid"], kept_until, backup["uuid"]),
        )

    def age(self, backup, seconds):
        """Moves the creation of a backup into the past."""
        self.d.sql("UPDATE backup SET created_at = created_at - ? WHERE uuid = ?", (int(seconds * 1000), backup["uuid"]))

    def insert_backups(self, instance, count, state="ready", description="made by the test"):
        """Rows without data, for lists: each a second younger than the one before. Their uuids in order."""
        (instance_id, project_id), = self.d.sql("SELECT id, project_id FROM instance WHERE uuid = ?", (instance["uuid"],))
        start = ms(datetime.now(timezone.utc) - timedelta(days=1))
        uuids = [uuid.uuid4().hex for _ in range(count)]
        rows = ",".join(
            f"('{u}','instance',{project_id},{instance_id},'{description} {n}','{state}',{start + 1000 * n},1048576,1048576)"
            for n, u in enumerate(uuids)
        )
        self.d.sql(
            "INSERT INTO backup (uuid, kind, project_id, instance_id, description, state, created_at, size, reserved) VALUES " + rows
        )
        return uuids

    def restore(self, backup, api=None, wait="Offline", **fields):
        """Restores to a new machine and returns it."""
        body = {"image": self.image()["url"], "flavor": self.flavor()["url"], **fields}
        answer = ok((api or self.api).post(backup["url"] + "restore/", body))
        if wait:
            return self.wait_state(answer["instance"], wait)
        return ok(self.api.get(answer["instance"]))

    # ---------------------------------------------------------------- schedules

    def schedule(self, instance, api=None, code=201, **fields):
        body = {
            "instance": instance["url"], "retention_time": 0, "maximal_number_of_backups": 10, "schedule": NEVER, **fields,
        }
        return ok((api or self.api).post(SCHEDULES, body), code)

    def backups_of(self, thing):
        """The backups of a schedule or of an instance, oldest first."""
        key = "backup_schedule" if "retention_time" in thing else "instance"
        return self.api.list(BACKUPS, **{key: thing["url"]})

    def wait_backups(self, thing, count, state="Ready", timeout=30):
        """Waits until the schedule (or the instance) has exactly `count` backups, all in `state`."""

        def look():
            found = self.backups_of(thing)
            return found if len(found) == count and all(b["state"] == state for b in found) else None

        try:
            return wait_for(look, f"{count} backups in {state}", timeout, 0.1)
        except AssertionError as error:
            have = [(b["state"], b["created_at"], b["error_message"]) for b in self.backups_of(thing)]
            raise AssertionError(f"{error}; there are {have}; {self.get(thing).get('error_message')}") from None

    # ---------------------------------------------------------------- quotas and events

    def quota(self, name, project=None):
        project = project or self.project
        found = [
            q for q in ok(self.api.get(QUOTAS, params={"name": name}))
            if q["name"] == name and local(q["scope"]) == local(project["url"])
        ]
        assert len(found) == 1, found
        return found[0]

    def set_quota(self, name, limit, project=None):
        return ok(self.api.patch(self.quota(name, project)["url"], {"limit": limit}))

    def force_quota(self, name, limit, project=None):
        """A limit below what is used already, which the API need not accept."""
        quota = self.quota(name, project)
        self.d.sql('UPDATE quota SET "limit" = ? WHERE uuid = ?', (limit, quota["uuid"]))

    def events(self, **params):
        """Oldest first, unless `o` says otherwise."""
        return self.api.list(EVENTS, **{"o": "created", **params})

    def event_types(self, scope):
        return [e["event_type"] for e in self.events(scope=scope["url"])]
