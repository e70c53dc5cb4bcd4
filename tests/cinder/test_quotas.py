"""Quotas: what they are, who sets them, and that nothing gets past them (Cinder contract 0.2, 0.3, 1.1, 4.2)."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers.api import ok
from helpers.cinder import GIB
from helpers.cinder_volumes import LATEST, QUOTAS, Cloud, fault, over
from helpers.lab import QUOTAS as WALDUR_QUOTAS
from helpers.wait import wait_for

UNLIMITED = dict.fromkeys(QUOTAS, -1)


@pytest.fixture
def cloud(daemon):
    """A project of the test's own."""
    return Cloud(daemon)


@pytest.fixture
def url(cloud):
    return f"/os-quota-sets/{cloud.project['uuid']}"


# -------------------------------------------------------------------- looking


@pytest.mark.parametrize("role", ["member", "reader", "admin"])
@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_a_new_project_has_the_defaults(cloud, url, role, version):
    client = getattr(cloud, role).at(version)
    assert ok(client.get(url)) == {"quota_set": {"id": cloud.project["uuid"], **UNLIMITED}}
    assert ok(client.get(f"{url}/defaults")) == {"quota_set": {"id": cloud.project["uuid"], **UNLIMITED}}


@pytest.mark.parametrize("word, detailed", [("True", True), ("true", True), ("1", True), ("False", False), ("0", False)])
def test_usage_is_asked_for(cloud, url, word, detailed):
    found = ok(cloud.member.get(url, {"usage": word}))["quota_set"]
    assert found.pop("id") == cloud.project["uuid"]
    if detailed:
        assert found == {name: {"limit": -1, "in_use": 0, "reserved": 0} for name in QUOTAS}
    else:
        assert found == UNLIMITED


def test_usage_counts_what_there_is(cloud, url):
    volume, other = cloud.volume(2), cloud.volume(1)
    cloud.snapshot(volume)
    cloud.backup(volume), cloud.backup(volume, incremental=True)
    used = cloud.member.usage()
    assert (used["volumes"], used["snapshots"], used["backups"]) == (2, 1, 2)
    # Both backups count with the size of the volume (Cinder contract 1.1, 6.5).
    assert used["backup_gigabytes"] == 4
    assert used["gigabytes"] >= 3 and used["groups"] == 0 and used["per_volume_gigabytes"] == 0
    cloud.remove("volumes", other)
    assert cloud.member.usage()["gigabytes"] == used["gigabytes"] - 1


def test_what_other_projects_have_is_not_a_members_business(cloud):
    """A member sees the quotas of his own project only (Cinder contract 0.3)."""
    other = cloud.new_project()["uuid"]
    for path in (f"/os-quota-sets/{other}", f"/os-quota-sets/{other}/defaults"):
        answer = cloud.member.get(path)
        assert answer.status_code in (403, 404)
        fault(answer, answer.status_code)
    assert ok(cloud.admin.get(f"/os-quota-sets/{other}"))["quota_set"]["id"] == other


# -------------------------------------------------------------------- setting


def test_all_of_them_can_be_set(cloud, url):
    """The answer has no id: Tempest forbids it (Cinder contract 4.2)."""
    limits = {name: 10 + n for n, name in enumerate(QUOTAS)}
    assert ok(cloud.admin.put(url, {"quota_set": limits})) == {"quota_set": limits}
    assert cloud.member.quota() == {"id": cloud.project["uuid"], **limits}
    found = ok(cloud.member.get(url, {"usage": "True"}))["quota_set"]
    assert {name: found[name]["limit"] for name in QUOTAS} == limits
    # The defaults are still those of the class.
    assert ok(cloud.admin.get(f"{url}/defaults"))["quota_set"] == {"id": cloud.project["uuid"], **UNLIMITED}


@pytest.mark.parametrize("value", [0, 1, "7", -1, "-1", 2147483647])
@pytest.mark.parametrize("name", QUOTAS)
def test_one_of_them_is_set_and_the_others_stay(cloud, url, name, value):
    cloud.limit(**{other: 5 for other in QUOTAS})
    assert ok(cloud.admin.put(url, {"quota_set": {name: value}}))["quota_set"] == {**dict.fromkeys(QUOTAS, 5), name: int(value)}
    assert cloud.member.quota()[name] == int(value)


def test_clients_name_the_project_in_the_body_too(cloud, url):
    """The cinder client does."""
    body = {"quota_set": {"tenant_id": cloud.project["uuid"], "volumes": 3}}
    assert ok(cloud.admin.put(url, body))["quota_set"]["volumes"] == 3


@pytest.mark.parametrize("body", [
    [], "x", {}, {"quota_set": None}, {"quota_set": []}, {"volumes": 3}, {"quota_set": {"colour": 3}}, {"quota_set": {"volumes": 3, "colour": 3}},
    *({"quota_set": {"volumes": value}} for value in (-2, "x", "", 1.5, "1.5", None, True, [], {}, 2**31, 2**64)),
    {"quota_set": {"gigabytes": -2}}, {"quota_set": {"backup_gigabytes": "many"}}, {"quota_set": {"groups": -5}},
    {"quota_set": {"id": "x", "volumes": 3}},
], ids=str)
def test_wrong_keys_and_values_are_400(cloud, url, body):
    fault(cloud.admin.put(url, body), 400)
    assert cloud.member.quota() == {"id": cloud.project["uuid"], **UNLIMITED}


def test_below_what_is_used_is_400(cloud, url):
    """Cinder contract 4.2. All or nothing."""
    volume = cloud.volume(2)
    cloud.snapshot(volume), cloud.backup(volume), cloud.volume(1)
    used = cloud.member.usage()
    for name in ("volumes", "gigabytes", "snapshots", "backups", "backup_gigabytes"):
        fault(cloud.admin.put(url, {"quota_set": {name: used[name] - 1}}), 400)
        fault(cloud.admin.put(url, {"quota_set": {"groups": 3, name: used[name] - 1}}), 400)
    assert cloud.member.quota() == {"id": cloud.project["uuid"], **UNLIMITED}
    cloud.limit(**{name: used[name] for name in ("volumes", "gigabytes", "snapshots", "backups", "backup_gigabytes")})


def test_deleting_them_brings_the_defaults_back(cloud, url):
    cloud.limit(volumes=3, backups=4)
    answer = cloud.admin.delete(url)
    assert answer.status_code == 200
    assert cloud.member.quota() == {"id": cloud.project["uuid"], **UNLIMITED}
    assert cloud.admin.delete(url).status_code == 200


@pytest.mark.parametrize("role", ["manager", "reader", "admin"])
def test_only_an_admin_sets_them(cloud, url, role):
    """Cinder contract 0.3: the project's own admin is a member."""
    client = cloud.client(role)
    fault(client.put(url, {"quota_set": {"volumes": 3}}), 403)
    fault(client.delete(url), 403)
    fault(client.put("/os-quota-class-sets/default", {"quota_class_set": {"volumes": 3}}), 403)
    assert cloud.member.quota()["volumes"] == -1


def test_the_volumes_quota_is_the_one_that_waldur_shows(cloud):
    """One number with two faces."""
    cloud.limit(volumes=6)
    assert cloud.quota("volumes")["limit"] == 6
    cloud.set_quota("volumes", 4)
    assert cloud.member.quota()["volumes"] == 4
    cloud.volume(1), cloud.registered()
    assert cloud.quota("volumes")["usage"] == cloud.member.usage()["volumes"] == 2
    assert {q["name"] for q in ok(cloud.api.get(WALDUR_QUOTAS, params={"scope": cloud.project["url"]}))} >= {"volumes", "storage"}


# -------------------------------------------------------------------- the default class


@pytest.fixture(scope="module")
def other_daemon(start_module_daemon):
    """Defaults concern every project, so these tests have a daemon of their own."""
    return start_module_daemon()


@pytest.fixture
def classes(other_daemon):
    cloud = Cloud(other_daemon)
    yield cloud
    ok(cloud.admin.put("/os-quota-class-sets/default", {"quota_class_set": UNLIMITED}))


def test_the_default_class(classes):
    assert ok(classes.admin.get("/os-quota-class-sets/default")) == {"quota_class_set": {"id": "default", **UNLIMITED}}


def test_changing_the_default_class(classes):
    """The answer has no id (Cinder contract 4.2). It holds for every project that has no limit of its own."""
    limits = {name: 20 + n for n, name in enumerate(QUOTAS)}
    assert ok(classes.admin.put("/os-quota-class-sets/default", {"quota_class_set": limits})) == {"quota_class_set": limits}
    assert ok(classes.admin.get("/os-quota-class-sets/default"))["quota_class_set"] == {"id": "default", **limits}
    for project in (classes.project, classes.new_project()):
        for path in ("", "/defaults"):
            found = ok(classes.admin.get(f"/os-quota-sets/{project['uuid']}{path}"))["quota_set"]
            assert found == {"id": project["uuid"], **limits}
    classes.limit(volumes=3)
    assert classes.member.quota() == {"id": classes.project["uuid"], **limits, "volumes": 3}
    assert ok(classes.admin.put("/os-quota-class-sets/default", {"quota_class_set": {"volumes": 9}}))["quota_class_set"]["volumes"] == 9
    assert classes.member.quota()["volumes"] == 3
    ok(classes.admin.delete(f"/os-quota-sets/{classes.project['uuid']}"))
    assert classes.member.quota()["volumes"] == 9


def test_the_default_class_is_enforced(classes):
    ok(classes.admin.put("/os-quota-class-sets/default", {"quota_class_set": {"volumes": 1}}))
    classes.volume(1)
    classes.member.create("volumes", 413, size=1)


@pytest.mark.parametrize("body", [
    [], {}, {"quota_class_set": None}, {"quota_set": {"volumes": 3}}, {"quota_class_set": {"colour": 3}}, {"quota_class_set": {"volumes": -2}},
    {"quota_class_set": {"volumes": "x"}}, {"quota_class_set": {"volumes": 1.5}},
], ids=str)
def test_wrong_defaults_are_400(classes, body):
    fault(classes.admin.put("/os-quota-class-sets/default", body), 400)
    assert ok(classes.admin.get("/os-quota-class-sets/default"))["quota_class_set"] == {"id": "default", **UNLIMITED}


# -------------------------------------------------------------------- enforcement


def test_volumes(cloud):
    cloud.limit(volumes=2)
    volume = cloud.volume(1)
    snapshot, backup = cloud.snapshot(volume), cloud.backup(volume)
    cloud.volume(1)
    before, used = cloud.member.ids("volumes"), cloud.member.usage()
    for source in ({"size": 1}, {"source_volid": volume["id"]}, {"snapshot_id": snapshot["id"]}, {"backup_id": backup["id"]}):
        cloud.member.create("volumes", 413, **source)
    # Restoring to a new volume as well (Cinder contract 1.7), to one that there is not.
    over(cloud.member.post(f"/backups/{backup['id']}/restore", {"restore": {}}))
    assert cloud.member.show("backups", backup)["status"] == "available"
    assert (cloud.member.ids("volumes"), cloud.member.usage()) == (before, used)
    ok(cloud.member.post(f"/backups/{backup['id']}/restore", {"restore": {"volume_id": volume["id"]}}), 202)
    cloud.member.wait("volumes", volume)
    cloud.limit(volumes=3)
    cloud.volume(1)


def test_gigabytes(cloud):
    volume = cloud.volume(2, seed="gigabytes")
    snapshot, backup = cloud.snapshot(volume), cloud.backup(volume)
    used = cloud.member.usage()
    cloud.limit(gigabytes=used["gigabytes"] + 1)
    for source in ({"size": 2}, {"source_volid": volume["id"]}, {"snapshot_id": snapshot["id"]}, {"backup_id": backup["id"]}):
        cloud.member.create("volumes", 413, **source)
    over(cloud.member.post(f"/backups/{backup['id']}/restore", {"restore": {}}))
    over(cloud.member.action("volumes", volume, "os-extend", {"new_size": 4}))
    assert os.path.getsize(cloud.path(volume)) == 2 * GIB
    shown = cloud.member.show("volumes", volume)
    assert (shown["size"], shown["status"]) == (2, "available")
    assert cloud.member.usage() == used
    cloud.volume(1)
    cloud.member.create("volumes", 413, size=1)


def test_extending_uses_gigabytes(cloud):
    cloud.limit(gigabytes=3)
    volume = cloud.volume(1)
    ok(cloud.member.action("volumes", volume, "os-extend", {"new_size": 3}), 202)
    cloud.member.wait("volumes", volume)
    assert cloud.member.usage()["gigabytes"] == 3
    over(cloud.member.action("volumes", volume, "os-extend", {"new_size": 4}))


def test_per_volume_gigabytes(cloud):
    cloud.limit(per_volume_gigabytes=2)
    volume = cloud.volume(2)
    cloud.member.create("volumes", 413, size=3)
    cloud.member.create("volumes", 413, size=3, source_volid=volume["id"])
    over(cloud.member.action("volumes", volume, "os-extend", {"new_size": 3}))
    assert cloud.member.show("volumes", volume)["size"] == 2
    # Each one, not all together.
    cloud.volume(2)


def test_snapshots(cloud):
    volume = cloud.volume(1)
    cloud.limit(snapshots=1)
    first = cloud.snapshot(volume)
    cloud.member.create("snapshots", 413, volume_id=volume["id"])
    assert len(cloud.member.list("snapshots")) == 1
    cloud.remove("snapshots", first)
    cloud.snapshot(volume)


def test_backups(cloud):
    volume = cloud.volume(1)
    cloud.limit(backups=1)
    first = cloud.backup(volume)
    cloud.member.create("backups", 413, volume_id=volume["id"])
    cloud.member.create("backups", 413, volume_id=volume["id"], incremental=True)
    shown = cloud.member.show("volumes", volume)
    assert shown["status"] == "available" and len(cloud.member.list("backups")) == 1
    cloud.remove("backups", first)
    cloud.backup(volume)


def test_backup_gigabytes(cloud):
    """The size of the volume counts, whatever is stored (Cinder contract 1.1)."""
    cloud.limit(backup_gigabytes=3)
    volume = cloud.volume(2)
    cloud.backup(volume)
    cloud.member.create("backups", 413, volume_id=volume["id"])
    cloud.member.create("backups", 413, volume_id=volume["id"], incremental=True)
    cloud.backup(cloud.volume(1))
    assert cloud.member.usage()["backup_gigabytes"] == 3
    assert cloud.member.show("volumes", volume)["status"] == "available"


def test_a_disk_that_grew_does_not_get_past_backup_gigabytes(cloud):
    """What is reserved for a backup follows the disk, and only `storage` was asked about it."""
    volume = cloud.registered(GIB)
    cloud.limit(backup_gigabytes=1)
    os.truncate(cloud.path(volume), GIB + 4096)
    backup = cloud.member.create("backups", volume_id=volume["id"])
    failed = wait_for(lambda: (b := cloud.member.show("backups", backup))["status"] == "error" and b, "the backup fails")
    assert "have grown" in failed["fail_reason"] and "backup_gigabytes" in failed["fail_reason"], failed
    cloud.limit(backup_gigabytes=3)  # the failed one counts too
    cloud.backup(volume)


def test_a_quota_of_nothing(cloud):
    cloud.limit(volumes=0)
    cloud.member.create("volumes", 413, size=1)
    # An admin is held to it as well: it is the project's.
    cloud.admin.create("volumes", 413, size=1)
    assert cloud.member.list("volumes") == []


def test_it_is_looked_at_last(cloud):
    """Cinder contract 0.3: the body, the object, the role and the state come first."""
    volume = cloud.volume(1)
    cloud.limit(volumes=1, snapshots=0, backups=0, gigabytes=1)
    cloud.reset(volume, "error")
    fault(cloud.member.post("/volumes", {"volume": {"size": 0}}), 400)
    fault(cloud.reader.post("/volumes", {"volume": {"size": 1}}), 403)
    fault(cloud.member.post("/volumes", {"volume": {"size": 1, "volume_type": "fast"}}), 404)
    fault(cloud.member.action("volumes", volume, "os-extend", {"new_size": 2}), 400)
    fault(cloud.member.post("/snapshots", {"snapshot": {"volume_id": volume["id"]}}), 400)
    fault(cloud.member.post("/backups", {"backup": {"volume_id": volume["id"]}}), 400)


def test_one_projects_quota_is_not_anothers(cloud):
    cloud.limit(volumes=0)
    cloud.stranger.wait("volumes", cloud.stranger.create("volumes", size=1))


def test_many_at_once_share_the_last_room(cloud):
    """Check and reservation are one."""
    cloud.limit(volumes=3, gigabytes=100)
    clients = [cloud.member.at(LATEST) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda c: c.post("/volumes", {"volume": {"size": 1}}).status_code, clients))
    assert sorted(codes) == [202] * 3 + [413] * 5
    assert cloud.member.usage()["volumes"] == len(cloud.member.list("volumes")) == 3


def test_what_failed_takes_no_room(cloud):
    """Stock Cinder leaks reservations (Cinder contract 1.1, 7)."""
    volume = cloud.volume(1)
    before = cloud.member.usage()
    cloud.member.create("backups", 400, volume_id=volume["id"], incremental=True)
    cloud.member.create("volumes", 404, size=1, volume_type="fast")
    cloud.member.create("snapshots", 400, volume_id=volume["id"], name="x" * 256)
    assert cloud.member.usage() == before


def test_what_cannot_be_counted_is_over_quota_too(cloud):
    """Sizes are only promised, so without a limit of the project's a sum comes near the end of all numbers."""
    volume = cloud.volume(1)
    size = "UPDATE volume SET size = ? WHERE uuid = ?"
    cloud.d.sql(size, ((1 << 63) - (1 << 40), volume["id"].replace("-", "")))
    over(cloud.member.post("/volumes", {"volume": {"size": 1 << 18}}))
    over(cloud.member.post("/backups", {"backup": {"volume_id": volume["id"]}}))
    cloud.d.sql(size, (GIB, volume["id"].replace("-", "")))
    cloud.remove("volumes", volume)
