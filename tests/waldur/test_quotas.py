"""Quotas: what counts, what is refused and when, who may change a limit (cases B11, B12, K4 and 3.4)."""

import os
import threading

from pathlib import Path

import pytest

from helpers.api import DENIED, HEX32, Api, allowed, local, ok
from helpers.disks import MIB
from helpers.lab import BACKUPS, INSTANCES, PROJECTS, QUOTAS, Lab
from helpers.wait import wait_for

NAMES = {
    "storage", "ram", "vcpu", "instances", "volumes",
    # These are Cinder's; both dialects show and keep the same limits.
    "snapshots", "gigabytes", "backups", "backup_gigabytes", "per_volume_gigabytes", "groups",
}


def usage(lab, name):
    return lab.quota(name)["usage"]


def refusal(lab, answer, name, required, limit):
    """The text names the quota, what would be needed, and the limit."""
    messages = ok(answer, 400)["non_field_errors"]
    mine = [m for m in messages if f'"{name}"' in m]
    assert len(mine) == 1, messages
    assert mine[0] == f'{lab.project["name"]} "{name}" quota is over limit. Required: {int(required)}, limit: {int(limit)}.'


# -------------------------------------------------------------------- what counts


def test_representation(lab):
    for name in NAMES:
        quota = lab.quota(name)
        assert {"url", "uuid", "name", "limit", "usage", "scope"} <= set(quota)
        assert quota["url"] == f"{lab.d.url}{QUOTAS}{quota['uuid']}/" and HEX32.match(quota["uuid"])
        assert quota["limit"] == -1 and quota["usage"] == 0
        assert isinstance(quota["limit"], (int, float)) and isinstance(quota["usage"], (int, float))
        assert ok(lab.api.get(quota["url"])) == quota
    embedded = lab.get(lab.project)["quotas"]
    assert {q["name"] for q in embedded} >= NAMES
    assert all("scope" not in q and {"url", "name", "limit", "usage"} <= set(q) for q in embedded)


def test_usage_follows_what_exists(lab):
    flavor = lab.flavor(cores=2, ram=700)
    vm = lab.instance([2 * MIB, 3 * MIB], flavor=flavor["url"])
    assert [usage(lab, n) for n in ("storage", "ram", "vcpu", "instances", "volumes")] == [5, 700, 2, 1, 2]
    backup = lab.backup(vm)
    assert usage(lab, "storage") == 10
    new = lab.restore(backup, flavor=lab.flavor(cores=4, ram=1024)["url"])
    assert [usage(lab, n) for n in ("storage", "ram", "vcpu", "instances", "volumes")] == [15, 1724, 6, 2, 4]
    ok(lab.api.delete(new["url"]), 202)
    lab.wait_gone(new["url"])
    assert [usage(lab, n) for n in ("storage", "ram", "vcpu", "instances", "volumes")] == [10, 700, 2, 1, 2]
    ok(lab.api.post(backup["url"] + "delete/"))
    lab.wait_gone(backup["url"])
    wait_for(lambda: usage(lab, "storage") == 5, "the backup's storage is given back")


def test_the_virtual_size_counts_not_the_stored_one(lab):
    hole = lab.d.root / lab.unique("hole")
    with open(hole, "wb") as f:
        f.truncate(100 * MIB)
    backup = lab.backup(lab.instance([hole]))
    assert backup["size"] == 100
    assert usage(lab, "storage") == 200


def test_a_failed_backup_gives_its_quota_back(lab):
    disk = lab.disk(2 * MIB)
    vm = lab.instance([disk])
    disk.unlink()
    backup = lab.wait_state(lab.start_backup(vm)["url"], "Erred")
    wait_for(lambda: usage(lab, "storage") == 2, "the failed backup's storage is given back")
    assert lab.get(backup)["size"] == 2


# -------------------------------------------------------------------- refusals


def test_B11_backup_over_the_storage_quota(lab):
    """The limit is the system volume's size; the backup needs system and data."""
    vm = lab.instance([2 * MIB, MIB])
    lab.force_quota("storage", 2)
    refusal(lab, lab.api.post(BACKUPS, {"instance": vm["url"]}), "storage", 6, 2)
    assert lab.backups_of(vm) == [] and usage(lab, "storage") == 3


def test_47_exactly_at_the_limit(lab):
    vm = lab.instance([2 * MIB])
    lab.set_quota("storage", 4)
    backup = lab.backup(vm)  # 2 + 2: exactly full
    assert usage(lab, "storage") == 4
    refusal(lab, lab.api.post(BACKUPS, {"instance": vm["url"]}), "storage", 6, 4)
    assert [b["uuid"] for b in lab.backups_of(vm)] == [backup["uuid"]]
    lab.set_quota("storage", 5)
    refusal(lab, lab.api.post(BACKUPS, {"instance": vm["url"]}), "storage", 6, 5)
    ok(lab.api.post(backup["url"] + "delete/"))
    lab.wait_gone(backup["url"])
    wait_for(lambda: usage(lab, "storage") == 2, "the space is given back")
    lab.backup(vm)


def test_a_disk_that_has_grown_is_reckoned_at_its_size_now(lab):
    """Whether it is refused at once or fails: the usage never goes over the limit."""
    disk = lab.disk(2 * MIB)
    vm = lab.instance([disk])
    lab.set_quota("storage", 5)
    with open(disk, "r+b") as f:
        f.truncate(6 * MIB)
    answer = lab.api.post(BACKUPS, {"instance": vm["url"]})
    if answer.status_code == 201:
        wait_for(lambda: lab.get(answer.json())["state"] != "Backing up", "the backup ends")
        assert lab.get(answer.json())["state"] == "Erred"
    else:
        ok(answer, 400)
    assert all(b["state"] == "Erred" for b in lab.backups_of(vm))


def test_quota_of_one_project_does_not_touch_another(lab):
    lab.instance()
    lab.set_quota("storage", 1)
    other = lab.new_project()
    lab.backup(lab.instance(project=other))


def test_47_concurrent_backups_share_the_last_room(start_daemon):
    """Check and reservation are one: of six at once exactly two fit."""
    lab = Lab(start_daemon())
    vm = lab.instance([MIB])
    lab.set_quota("storage", 3)
    answers = []

    def post():
        answers.append(Api(lab.d, lab.d.token).post(BACKUPS, {"instance": vm["url"]}).status_code)

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201, 201, 400, 400, 400, 400]
    assert usage(lab, "storage") == 3
    lab.wait_backups(vm, 2)


@pytest.mark.parametrize("name, room", [("ram", 1023), ("vcpu", 1), ("storage", 1), ("instances", 0), ("volumes", 0)])
def test_B12_restore_over_a_quota(lab, name, room):
    """Room is what is free; the restore needs one more (2 MiB storage, 1024 MiB ram, 2 cores, 1 machine, 1 volume)."""
    vm = lab.instance([2 * MIB], flavor=lab.flavor(cores=1, ram=512)["url"])
    backup = lab.backup(vm)
    given = {"image": lab.image()["url"], "flavor": lab.flavor(cores=2, ram=1024)["url"]}
    limit = usage(lab, name) + room
    lab.set_quota(name, limit)
    machines = len(lab.api.list(INSTANCES))
    needed = {"ram": 1024, "vcpu": 2, "storage": 2, "instances": 1, "volumes": 1}[name]
    refusal(lab, lab.api.post(backup["url"] + "restore/", given), name, limit - room + needed, limit)
    assert lab.get(backup)["state"] == "Ready" and lab.get(backup)["restorations"] == []
    assert len(lab.api.list(INSTANCES)) == machines
    lab.set_quota(name, limit - room + needed)  # exactly enough
    answer = ok(lab.api.post(backup["url"] + "restore/", given))
    lab.wait_state(answer["instance"], "Offline")


def test_B12_every_exceeded_quota_is_listed(lab):
    vm = lab.instance([2 * MIB], flavor=lab.flavor(cores=1, ram=512)["url"])
    backup = lab.backup(vm)
    touched = {"storage", "ram", "vcpu", "instances", "volumes", "gigabytes"}
    for name in touched:
        lab.set_quota(name, usage(lab, name))
    given = {"image": lab.image()["url"], "flavor": lab.flavor(cores=2, ram=1024)["url"]}
    messages = ok(lab.api.post(backup["url"] + "restore/", given), 400)["non_field_errors"]
    for name in touched:
        assert len([m for m in messages if f'"{name}"' in m]) == 1, messages


def test_registration_obeys_quotas(lab):
    lab.set_quota("storage", 1)
    lab.set_quota("instances", 1)
    body = {"name": "x", "project": lab.project["url"], "volumes": [{"path": str(lab.disk(2 * MIB)), "bootable": True}]}
    ok(lab.api.post(INSTANCES, body), 400)
    assert usage(lab, "instances") == 0
    lab.instance([MIB])
    body["volumes"][0]["path"] = str(lab.disk(MIB))
    ok(lab.api.post(INSTANCES, body), 400)
    assert usage(lab, "instances") == 1


# -------------------------------------------------------------------- the endpoint


def test_K4_users_see_the_quotas_of_their_scopes(own):
    mine, other = own.project, own.new_project()
    for role in ("admin", "manager", "reader"):
        scopes = {local(q["scope"]) for q in ok(own.user(role, project=mine).get(QUOTAS))}
        assert scopes == {local(mine["url"])}
    everything = {local(q["scope"]) for q in ok(own.user("owner").get(QUOTAS))}
    assert {local(mine["url"]), local(other["url"])} <= everything
    assert ok(own.user().get(QUOTAS)) == []
    ok(own.user().get(own.quota("ram")["url"]), 404)


def test_only_staff_sets_limits(lab):
    quota = lab.quota("storage")
    for role in ("owner", "admin", "manager", "reader"):
        user = lab.user(role)
        for method in ("PUT", "PATCH"):
            assert ok(user.request(method, quota["url"], {"limit": 7}), 403) == DENIED
    assert ok(lab.user().request("PATCH", quota["url"], {"limit": 7}), 404)
    assert lab.quota("storage")["limit"] == -1
    assert ok(lab.api.put(quota["url"], {"limit": 7}))["limit"] == 7
    assert ok(lab.user(staff=True).patch(quota["url"], {"limit": 8}))["limit"] == 8
    assert lab.quota("storage")["limit"] == 8


@pytest.mark.parametrize("limit", ["x", None, [], {}, True, "", -2])
def test_bad_limits(lab, limit):
    quota = lab.quota("storage")
    assert list(ok(lab.api.patch(quota["url"], {"limit": limit}), 400)) == ["limit"]
    assert lab.quota("storage") == quota


@pytest.mark.parametrize("limit", [0, 5, "6", 7.0, -1])
def test_good_limits(lab, limit):
    lab.api.patch(lab.quota("storage")["url"], {"limit": 99})
    assert ok(lab.api.patch(lab.quota("storage")["url"], {"limit": limit}))["limit"] == float(limit)


def test_a_limit_below_the_usage_is_refused(lab):
    lab.instance([3 * MIB])
    quota = lab.quota("storage")
    answer = lab.api.patch(quota["url"], {"limit": 2})
    assert "Current quota usage exceeds new limit." in ok(answer, 400)["limit"] + ok(answer, 400).get("non_field_errors", [])
    assert lab.quota("storage") == quota
    assert ok(lab.api.patch(quota["url"], {"limit": 3}))["limit"] == 3


def test_methods_and_filter(lab):
    quota = lab.quota("ram")
    for method, path in (("POST", QUOTAS), ("DELETE", quota["url"]), ("POST", quota["url"])):
        answer = lab.api.request(method, path, {} if method == "POST" else None)
        ok(answer, 405)
        assert method not in allowed(answer)
    assert {q["name"] for q in ok(lab.api.get(QUOTAS, params={"name": "RA"}))} == {"ram", "storage"}


def test_quotas_go_with_their_project(lab):
    project = lab.new_project()
    quota = lab.quota("ram", project)
    ok(lab.api.delete(project["url"]), 204)
    ok(lab.api.get(quota["url"]), 404)
    assert ok(lab.api.get(PROJECTS, params={"name": project["name"]})) == []


# -------------------------------------------------------------------- room on the disk


def test_a_full_repository_is_never_a_wrong_ready(start_daemon):
    """On a state directory of 96 MiB a backup of 160 random MiB is refused, or ends Erred with its quota given back."""
    daemon = start_daemon(start=False)
    daemon.check = False  # the file system is in the daemon's own mount namespace
    daemon.wrapper = [
        "unshare", *([] if _is_root() else ["--map-root-user"]), "--mount", "sh", "-c",
        f"mount -t tmpfs -o size=96m tmpfs {daemon.state_dir} && exec \"$@\"", "sh",
    ]
    daemon.start()
    token = _read_inside(daemon, daemon.state_dir / "admin.token")
    daemon._token = token
    lab = Lab(daemon)
    disk = lab.d.root / "random.img"
    disk.write_bytes(os.urandom(160 * MIB))
    vm = lab.instance([disk])
    answer = lab.api.post(BACKUPS, {"instance": vm["url"]})
    if answer.status_code == 400:
        assert ok(answer, 400)["non_field_errors"][0]
        assert lab.backups_of(vm) == []
    else:
        failed = lab.wait_state(ok(answer, 201)["url"], "Erred")
        assert failed["error_message"]
        ok(lab.api.post(failed["url"] + "delete/"))
        lab.wait_gone(failed["url"])
    wait_for(lambda: usage(lab, "storage") == 160, "the quota is given back")
    small = lab.instance([MIB])
    wait_for(
        lambda: lab.api.post(BACKUPS, {"instance": small["url"]}).status_code == 201, "the room is given back", interval=0.5
    )
    lab.wait_backups(small, 1)


def _is_root():
    return os.geteuid() == 0


def _read_inside(daemon, path):
    """A file as the daemon sees it."""
    return Path(f"/proc/{daemon.pid}/root{path}").read_text().strip()
