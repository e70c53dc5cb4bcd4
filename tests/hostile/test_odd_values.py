"""Bad input of every kind, and many clients at once: a clear answer each time, never a 5xx, nothing lost."""

import os
import random
import threading
import time

import pytest

from helpers.api import Api, local, ok
from helpers.disks import MIB, assert_same_bytes
from helpers.lab import (
    BACKUPS, EVENTS, FLAVORS, IMAGES, INSTANCES, NEVER, PROJECTS, QUOTAS, SCHEDULES, USERS, Lab,
)

ODD = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**40, 1.5, 1e308, "", " ", "x", "\u0000", "a\u0000b", "x" * 70_000,
    "'; DROP TABLE backup; --", "%", "\\", "\ufffe", "🦀" * 300, "0", "-1", "1e5", "NaN", "2026-02-30T00:00:00Z", "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z", [], [[]], [None], {}, {"url": None}, {"a": {"b": []}}, "/api/", "http://", "http://[", "//", "/api/users/x/",
]


@pytest.fixture(scope="module")
def shared(daemon):
    lab = Lab(daemon)
    lab.vm = lab.instance()
    lab.one = lab.backup(lab.vm)
    lab.plan = lab.schedule(lab.vm)
    lab.target_user = lab.user()
    lab.bodies = {
        "backup": ("POST", BACKUPS, {"instance": lab.vm["url"], "description": "x"}),
        # A backup of its own, because dates in the past make it expire.
        "backup-patch": ("PATCH", lab.backup(lab.vm)["url"], {"description": "x", "kept_until": "2030-01-01T00:00:00Z"}),
        "restore": ("POST", lab.one["url"] + "restore/", {"image": None, "flavor": None, "name": "x", "start": False}),
        "schedule": ("POST", SCHEDULES, {
            "instance": lab.vm["url"], "schedule": NEVER, "retention_time": 1, "maximal_number_of_backups": 1, "timezone": "UTC",
            "is_active": False, "description": "x",
        }),
        "schedule-patch": ("PATCH", lab.plan["url"], {
            "schedule": NEVER, "retention_time": 1, "maximal_number_of_backups": 1, "timezone": "UTC", "is_active": False,
        }),
        "preview": ("POST", SCHEDULES + "preview/", {"schedule": NEVER, "timezone": "UTC", "count": 2, "now": "2026-01-01T00:00:00Z"}),
        "instance": ("POST", INSTANCES, {
            "name": "x", "project": lab.project["url"], "volumes": None, "flavor": None, "image": None, "description": "x",
            "tags": ["a"], "key_name": "k", "user_data": "u",
        }),
        "volume": ("POST", INSTANCES, {"name": "x", "project": lab.project["url"], "volumes": [{"path": "x", "bootable": 1, "name": 1}]}),
        "instance-patch": ("PATCH", lab.vm["url"], {"name": "x", "description": "x"}),
        "flavor": ("POST", FLAVORS, {"name": "x", "cores": 1, "ram": 1, "disk": 1}),
        "image": ("POST", IMAGES, {"name": "x", "min_ram": 1, "min_disk": 1}),
        "project": ("POST", PROJECTS, {"name": "x", "description": "x"}),
        "user": ("POST", USERS, {"username": "x", "password": "x", "email": "x", "is_staff": False}),
        "user-patch": ("PATCH", lab.target_user.user["url"], {"email": "x", "full_name": "x", "is_active": True}),
        "password": ("POST", lab.target_user.user["url"] + "password/", {"password": "x"}),
        "permission": ("POST", "/api/project-permissions/", {"project": lab.project["url"], "user": lab.target_user.user["url"], "role": "x"}),
        "quota": ("PATCH", lab.quota("storage")["url"], {"limit": -1}),
        "login": ("POST", "/api-auth/password/", {"username": "x", "password": "x"}),
    }
    return lab


@pytest.mark.parametrize("what", [
    "backup", "backup-patch", "restore", "schedule", "schedule-patch", "preview", "instance", "volume", "instance-patch", "flavor",
    "image", "project", "user", "user-patch", "password", "permission", "quota", "login",
])
def test_odd_values_in_every_field(shared, what):
    method, path, body = shared.bodies[what]
    for field in body:
        for value in ODD:
            answer = shared.api.request(method, path, {**body, field: value})
            assert answer.status_code in (200, 201, 400, 401, 403, 404, 409, 413, 429), (field, value, answer.status_code, answer.text[:300])
            assert isinstance(answer.json(), dict)
            if answer.status_code == 200 and what == "restore":
                shared.wait_state(shared.one["url"], "Ready")
    if what == "volume":
        for field in ("path", "bootable", "name"):
            for value in ODD:
                volume = {"path": str(shared.d.root / "nothing"), "bootable": True, "name": "x", field: value}
                answer = shared.api.request(method, path, {**body, "volumes": [volume]})
                assert answer.status_code == 400, (field, value, answer.status_code, answer.text[:300])
                assert list(answer.json()) == ["volumes"]


@pytest.mark.parametrize("path", [BACKUPS, SCHEDULES, INSTANCES, FLAVORS, IMAGES, PROJECTS, USERS, QUOTAS, EVENTS, EVENTS + "count/"])
def test_odd_query_parameters(shared, path):
    names = [
        "description", "instance", "instance_uuid", "project", "project_uuid", "project_name", "backup_schedule",
        "backup_schedule_uuid", "state", "uuid", "name", "username", "is_active", "o", "page", "page_size", "cores", "ram",
        "disk__gte", "event_type", "scope", "created_from", "created_to", "message", "current", "count", "now",
    ]
    values = [v for v in ODD if isinstance(v, (str, int)) and len(str(v)) < 3000] + ["-", "--", "-x", "created_at", "-created_at;"]
    for name in names:
        for value in values:
            answer = shared.api.get(path, params={name: value})
            assert answer.status_code in (200, 400, 404), (name, value, answer.status_code, answer.text[:300])
    for raw in ("%ff=%fe", "description=%ff", "description=%", "description=%zz", "&&&=&", "=", "?" * 50, "a" * 3000, "description=+%2B+"):
        answer = shared.api.get(path + "?" + raw)
        assert answer.status_code in (200, 400), (raw, answer.status_code, answer.text[:300])


def test_lone_surrogates_in_json(shared):
    headers = {"Content-Type": "application/json"}
    data = ('{"instance": "%s", "description": "\\ud800"}' % shared.vm["url"]).encode()
    ok(shared.api.post(BACKUPS, data=data, headers=headers), 400)


def test_repeated_keys_and_deep_nesting(shared):
    headers = {"Content-Type": "application/json"}
    data = ('{"instance": "x", "instance": "%s"}' % shared.vm["url"]).encode()
    assert shared.api.post(BACKUPS, data=data, headers=headers).status_code in (201, 400)
    data = b'{"instance": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"
    ok(shared.api.post(BACKUPS, data=data, headers=headers), 400)


@pytest.mark.parametrize("data", [b"a", b"=", b"&&", b"%", b"%zz=%zz", b"instance=%ff", b"instance", b"instance=1&instance=2", b"\xff\xfe"])
def test_odd_urlencoded_bodies(shared, data):
    answer = shared.api.post(BACKUPS, data=data, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert list(ok(answer, 400)) in (["instance"], ["detail"])


def test_nobody_is_harmed(shared):
    """After all that, the ordinary day goes on."""
    backup = shared.backup(shared.instance())
    shared.restore(backup)
    assert ok(shared.api.get("/healthz")) == {"status": "ok"}


def test_a_new_machine_is_unstable_while_it_is_made(start_daemon):
    lab = Lab(start_daemon())
    backup = lab.backup(lab.instance([128 * MIB]))
    new = lab.restore(backup, wait=None)
    assert new["state"] in ("Provisioning Scheduled", "Provisioning")
    assert ok(lab.api.post(BACKUPS, {"instance": new["url"]}), 409) == {"detail": "Instance should be in stable state."}
    ok(lab.api.delete(new["url"]), 409)
    ok(lab.api.post(new["url"] + "start/"), 409)
    # It must not be forgotten while its volumes are being written.
    ok(lab.api.post(new["url"] + "unlink/"), 409)
    lab.wait_state(new["url"], "Offline")


def test_everything_at_once(start_daemon):
    """Clients that make, restore, delete, list, schedule and remove at random. Each answer is one of the contract's."""
    seconds = 120 if os.environ.get("COFFERD_LONG") else 6
    lab = Lab(start_daemon("[engine]\nmaintenance_interval_s = 1\nexpiry_interval_s = 1"))
    disks = [lab.disk(2 * MIB) for _ in range(3)]
    machines = [lab.instance([d]) for d in disks]
    image, flavor = lab.image()["url"], lab.flavor()["url"]
    wanted = {
        "create": {201}, "restore": {200, 404, 409}, "delete": {200, 202, 404, 409}, "list": {200}, "patch": {200, 404, 409},
        "schedule": {201}, "unschedule": {204, 404}, "switch": {200, 404, 409}, "remove": {202, 404, 409},
    }
    problems, end = [], time.monotonic() + seconds

    def client(seed):
        rng, api = random.Random(seed), Api(lab.d, lab.d.token)

        def pick(path, **params):
            found = api.list(path, **params)
            return rng.choice(found)["url"] if found else None

        def step(what):
            if what == "create":
                if len(api.list(BACKUPS)) > 30:
                    return None
                return api.post(BACKUPS, {"instance": rng.choice(machines)["url"]})
            if what == "schedule":
                return api.post(SCHEDULES, {
                    "instance": rng.choice(machines)["url"], "schedule": "* * * * *", "retention_time": 1,
                    "maximal_number_of_backups": 1, "is_active": True,
                })
            if what == "list":
                return api.get(rng.choice([BACKUPS, SCHEDULES, INSTANCES, QUOTAS]))
            path = {"restore": BACKUPS, "delete": BACKUPS, "patch": BACKUPS, "unschedule": SCHEDULES, "switch": SCHEDULES, "remove": INSTANCES}
            url = pick(path[what])
            if url is None or (what == "remove" and any(local(url) == local(m["url"]) for m in machines)):
                return None
            if what == "restore":
                return api.post(url + "restore/", {"image": image, "flavor": flavor, "name": "copy"})
            if what == "delete":
                return api.post(url + "delete/") if rng.random() < 0.5 else api.delete(url)
            if what == "patch":
                return api.patch(url, {"description": str(rng.random())})
            if what == "switch":
                return api.post(url + rng.choice(["activate/", "deactivate/"]))
            return api.delete(url)

        try:
            while time.monotonic() < end:
                what = rng.choice(list(wanted))
                answer = step(what)
                if answer is not None and answer.status_code not in wanted[what]:
                    problems.append((what, answer.status_code, answer.text[:300]))
        except Exception as error:
            problems.append(repr(error))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    for schedule in lab.api.list(SCHEDULES):
        ok(lab.api.delete(schedule["url"]), 204)
    for backup in lab.api.list(BACKUPS):
        answer = lab.api.get(backup["url"])
        if answer.status_code == 200 and answer.json()["state"] == "Backing up":
            lab.wait_state(backup["url"], "Ready")
    assert lab.api.list(BACKUPS, state="Erred") == []
    for disk, machine in zip(disks, machines, strict=True):
        found = lab.api.list(BACKUPS, instance=machine["url"], state="Ready")
        for backup in found[:3]:
            answer = lab.api.get(backup["url"])
            if answer.status_code == 200:
                assert_same_bytes(disk, lab.volume_files(lab.restore(backup, image=image, flavor=flavor))[0])


def test_tokens_may_have_a_lifetime(start_daemon):
    lab = Lab(start_daemon("[auth]\ntoken_lifetime_h = 2", clock="2026-11-21T12:00:30"))
    user = lab.user()
    lab.d.clock.advance(3600)
    ok(user.get(BACKUPS))
    lab.d.clock.advance(3 * 3600)
    assert user.get(BACKUPS).status_code == 401
    assert user.get(BACKUPS).headers["WWW-Authenticate"] == "Token"
