"""A hook for schemathesis: most made-up requests name things that do not exist, so some are made to name things that do.

What is replaced by what follows a fixed seed, so that a run with one worker can be repeated.
"""

import json
import os
import random
import urllib.parse
import urllib.request
from pathlib import Path

import schemathesis

URL = os.environ["COFFERD_FUZZ_URL"]
TOKEN = os.environ["COFFERD_FUZZ_TOKEN"]
DISKS = Path(os.environ["COFFERD_FUZZ_DISKS"])
ADMIN = os.environ["COFFERD_FUZZ_ADMIN"]
PROJECT = os.environ["COFFERD_FUZZ_PROJECT"]
OTHER_PROJECT = os.environ["COFFERD_FUZZ_OTHER_PROJECT"]
USER_TOKEN = os.environ["COFFERD_FUZZ_USER_TOKEN"]
LINKS = {
    "instance": "/api/openstack-instances/", "image": "/api/openstack-images/", "flavor": "/api/openstack-flavors/",
    "project": "/api/projects/", "user": "/api/users/", "backup_schedule": "/api/openstack-backup-schedules/",
    "scope": "/api/projects/", "customer": "/api/customers/",
}
CRONS = ["* * * * *", "0 2 * * *", "*/5 1-3 * * mon", "0 0 L * *", "@daily", "59 23 29 2 *"]
ZONES = ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca"]


dice = random.Random(1)


def choose(value, choices):
    """The value itself in one case of ten, else one of the choices."""
    return dice.choice(choices) if choices and dice.random() < 0.9 else value


known = {}


def uuids(collection):
    """Those that exist, looked up for every twentieth use."""
    uses, found = known.get(collection, (0, []))
    if uses % 20 == 0:
        found = fetch(collection)
    known[collection] = (uses + 1, found)
    return found


def get(path):
    request = urllib.request.Request(URL + path, headers={"Authorization": f"Token {TOKEN}", "OpenStack-API-Version": "volume latest"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def fetch(collection):
    entries = get(f"{collection}?page_size=300")
    # Of the profiles those that the test made: what is made up asks for more than a small disk has.
    fitting = [entry for entry in entries if str(entry.get("name", "")).startswith(("flavor", "image"))]
    return [entry["uuid"] for entry in fitting or entries]


def real(name, value):
    if name in LINKS:
        return choose(value, [f"{LINKS[name]}{uuid}/" for uuid in uuids(LINKS[name])])
    if name == "backup":
        return choose(value, uuids("/api/openstack-backups/"))
    if name == "schedule":
        return choose(value, CRONS)
    if name == "timezone":
        return choose(value, ZONES)
    if name == "path":
        return choose(value, [str(disk) for disk in sorted(DISKS.glob("spare*"))])
    if name == "volumes" and isinstance(value, list):
        return [{key: entry for key, entry in fill(item).items() if key != "volume"} if isinstance(item, dict) else item for item in value]
    return value


def fill(fields):
    return {name: real(name, value) for name, value in fields.items()} if isinstance(fields, dict) else fields


# ---------------------------------------------------------------- the OpenStack dialect


def ids(kind):
    """Those that exist of a resource of the volume API."""
    uses, found = known.get(kind, (0, []))
    if uses % 20 == 0:
        found = [entry["id"] for entry in get(f"/v3/{PROJECT}/{kind}")[kind.replace("types", "volume_types")]]
    known[kind] = (uses + 1, found)
    return found


REFERENCES = {"volume_id": "volumes", "source_volid": "volumes", "snapshot_id": "snapshots", "backup_id": "backups"}
PROJECTS = {"os-quota-sets": [OTHER_PROJECT], "os-quota-class-sets": ["default"], "extensions": ["backups"]}


def openstack(case):
    """The same for paths, bodies and headers of the OpenStack dialect, whose references are plain ids."""
    parts = case.operation.path.strip("/").split("/")
    path = case.path_parameters or {}
    if "project_id" in path:
        path["project_id"] = choose(path["project_id"], [PROJECT])
        if "id" in path:
            path["id"] = choose(path["id"], PROJECTS[parts[2]] if parts[2] in PROJECTS else ids(parts[2]))
        if "key" in path:
            path["key"] = choose(path["key"], ["key", "other"])
    elif "user_id" in path:
        path["user_id"] = choose(path["user_id"], [ADMIN])
    if case.headers and "X-Subject-Token" in case.headers:
        case.headers["X-Subject-Token"] = choose(case.headers["X-Subject-Token"], [USER_TOKEN])
    for inner in case.body.values() if isinstance(case.body, dict) else ():
        for name, kind in REFERENCES.items() if isinstance(inner, dict) else ():
            # Most new things are made of nothing, so that there is something for the others.
            if inner.get(name) is not None:
                inner[name] = choose(inner[name], ids(kind)) if name == "volume_id" or dice.random() < 0.5 else None
        if isinstance(inner, dict) and isinstance(inner.get("size"), int):
            inner["size"] = choose(inner["size"], [1, 1, 2, 3])


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.operation.path.startswith(("/v3", "/identity")):
        openstack(case)
        return
    case.body = fill(case.body)
    if case.query:
        case.query = fill(case.query)
    # The stateful phase follows an object from its making on, and must not lose it.
    if "uuid" in (case.path_parameters or {}) and case.meta.phase.name != "stateful":
        collection = case.operation.path.split("{")[0].replace("/ops/users/", "/api/users/")
        case.path_parameters["uuid"] = choose(case.path_parameters["uuid"], uuids(collection))
    # Whoever runs the test must stay staff.
    if case.operation.path.startswith("/api/users/{uuid}") and case.path_parameters["uuid"] == ADMIN:
        case.path_parameters["uuid"] = "0" * 32
