"""The other resources: instances and their registration, flavors, images, projects (2.5 to 2.7, case K5)."""

import os

import pytest

from helpers.api import HEX32, NOT_FOUND, TIMESTAMP, ok
from helpers.disks import MIB
from helpers.lab import BACKUPS, FLAVORS, IMAGES, INSTANCES, PROJECTS, Lab

REQUIRED = "This field is required."


@pytest.fixture(scope="module")
def shared(daemon):
    return Lab(daemon)


INSTANCE_FIELDS = {
    "url", "uuid", "name", "description", "state", "error_message", "project", "project_name", "project_uuid", "created", "cores",
    "ram", "disk", "system_volume_size", "data_volume_size", "volumes", "flavor_name", "image_name", "tags", "resource_type",
    "backups", "backup_schedules", "internal_ips", "external_ips",
}


def test_instance_representation(shared):
    flavor, image = shared.flavor(cores=2, ram=900), shared.image()
    vm = shared.instance(
        [MIB, 2 * MIB, 3 * MIB], bootable=1, name="web1", description="d", tags=["a", "b"], flavor=flavor["url"], image=image["url"]
    )
    assert INSTANCE_FIELDS <= set(vm), INSTANCE_FIELDS - set(vm)
    assert HEX32.match(vm["uuid"]) and vm["url"] == f"{shared.d.url}{INSTANCES}{vm['uuid']}/"
    assert (vm["name"], vm["description"], vm["tags"], vm["state"]) == ("web1", "d", ["a", "b"], "Offline")
    assert (vm["cores"], vm["ram"], vm["flavor_name"], vm["image_name"]) == (2, 900, flavor["name"], image["name"])
    assert (vm["disk"], vm["system_volume_size"], vm["data_volume_size"]) == (6, 2, 4)
    assert vm["resource_type"] == "OpenStack.Instance"
    assert vm["error_message"] == "" and vm["backups"] == [] and vm["backup_schedules"] == []
    assert vm["internal_ips"] == [] and vm["external_ips"] == []
    assert (vm["project"], vm["project_name"], vm["project_uuid"]) == (
        shared.project["url"], shared.project["name"], shared.project["uuid"]
    )
    assert TIMESTAMP.match(vm["created"])
    assert [(v["size"], v["bootable"]) for v in vm["volumes"]] == [(1, False), (2, True), (3, False)]
    assert all(HEX32.match(v["uuid"]) for v in vm["volumes"])
    assert shared.get(vm) == vm


def test_backups_and_schedules_are_embedded(shared):
    vm = shared.instance()
    backup, schedule = shared.backup(vm), shared.schedule(vm)
    after = shared.get(vm)
    assert [b["url"] for b in after["backups"]] == [backup["url"]]
    assert after["backups"][0]["state"] == "Ready" and after["backups"][0]["instance"] == vm["url"]
    assert [s["url"] for s in after["backup_schedules"]] == [schedule["url"]]
    assert after["backup_schedules"][0]["schedule"] == schedule["schedule"]


# -------------------------------------------------------------------- registration


def register(lab, **changes):
    body = {
        "name": lab.unique("vm"), "project": lab.project["url"], "volumes": [{"path": str(lab.disk()), "bootable": True}], **changes,
    }
    return lab.api.post(INSTANCES, {k: v for k, v in body.items() if v is not ...})


def test_registration_answers_201_with_location(shared):
    answer = register(shared)
    body = ok(answer, 201)
    assert answer.headers["Location"] == body["url"]


@pytest.mark.parametrize("field", ["name", "project", "volumes"])
def test_registration_needs(shared, field):
    assert ok(register(shared, **{field: ...}), 400) == {field: [REQUIRED]}


def test_registration_with_bad_links(shared):
    vm = shared.instance()
    for field in ("project", "flavor", "image"):
        assert ok(register(shared, **{field: vm["url"]}), 400) == {field: ["Invalid hyperlink - Incorrect URL match."]}
    assert ok(register(shared, project=f"{PROJECTS}{'0' * 32}/"), 400) == {
        "project": ["Invalid hyperlink - Object does not exist."]
    }


def test_registration_of_bad_names(shared):
    assert ok(register(shared, name=""), 400) == {"name": ["This field may not be blank."]}
    assert ok(register(shared, name="x" * 151), 400) == {"name": ["Ensure this field has no more than 150 characters."]}
    ok(register(shared, name="x" * 150), 201)


def bad_paths(lab):
    outside = lab.d.base / "outside.img"
    outside.write_bytes(b"x" * 4096)
    link = lab.d.root / lab.unique("link")
    os.symlink(outside, link)
    directory = lab.d.root / lab.unique("dir")
    directory.mkdir()
    fifo = lab.d.root / lab.unique("fifo")
    os.mkfifo(fifo)
    empty = lab.d.root / lab.unique("empty")
    empty.touch()
    taken = lab.volume_files(lab.instance())[0]
    return {
        "outside the roots": str(outside),
        "a link out of the roots": str(link),
        "up and out": f"{lab.d.root}/../outside.img",
        "a directory": str(directory),
        "a fifo": str(fifo),
        "an empty file": str(empty),
        "registered already": str(taken),
        "nothing there": str(lab.d.root / "nothing.img"),
        "relative": "nothing.img",
        "blank": "",
        "no text": 7,
        "null": None,
        "a NUL byte": str(lab.d.root / "a\0b"),
        "the coffer": str(lab.d.coffer),
        "etc": "/etc/shadow",
        "a character device": "/dev/zero",
        "too long": str(lab.d.root / ("x" * 5000)),
    }


def test_registration_of_bad_paths(own):
    for what, path in bad_paths(own).items():
        before = own.d.sql("SELECT (SELECT count(*) FROM instance), (SELECT count(*) FROM volume)")
        answer = register(own, volumes=[{"path": path, "bootable": True}])
        assert answer.status_code == 400, (what, answer.status_code, answer.text)
        assert list(answer.json()) == ["volumes"], (what, answer.text)
        assert own.d.sql("SELECT (SELECT count(*) FROM instance), (SELECT count(*) FROM volume)") == before, what


def test_a_link_inside_the_roots_is_followed_or_refused(own):
    """Either way it must not register the same disk twice."""
    disk = own.disk()
    link = own.d.root / "link.img"
    os.symlink(disk, link)
    own.instance([disk])
    assert list(ok(register(own, volumes=[{"path": str(link), "bootable": True}]), 400)) == ["volumes"]


@pytest.mark.parametrize("volumes", [[], "x", {}, [7], [None], [{}], [{"bootable": True}], None])
def test_registration_of_malformed_volumes(shared, volumes):
    assert list(ok(register(shared, volumes=volumes), 400)) == ["volumes"]


def test_registration_needs_exactly_one_bootable_volume(shared):
    a, b = str(shared.disk()), str(shared.disk())
    for flags in ((False, False), (True, True)):
        volumes = [{"path": p, "bootable": f} for p, f in zip((a, b), flags, strict=True)]
        assert list(ok(register(shared, volumes=volumes), 400)) == ["volumes"]
    ok(register(shared, volumes=[{"path": a, "bootable": False}, {"path": b, "bootable": True}]), 201)


def test_the_same_path_twice_in_one_request(shared):
    path = str(shared.disk())
    volumes = [{"path": path, "bootable": True}, {"path": path, "bootable": False}]
    assert list(ok(register(shared, volumes=volumes), 400)) == ["volumes"]


# -------------------------------------------------------------------- changing and removing


def test_patch_and_put(shared):
    vm = shared.instance()
    assert ok(shared.api.patch(vm["url"], {"name": "n1"}))["name"] == "n1"
    body = ok(shared.api.put(vm["url"], {"name": "n2", "description": "d2"}))
    assert (body["name"], body["description"]) == ("n2", "d2")
    ok(shared.api.patch(vm["url"], {"cores": 99, "state": "Online", "project": None}))
    after = shared.get(vm)
    assert (after["cores"], after["state"], after["project"]) == (vm["cores"], "Offline", vm["project"])
    assert ok(shared.api.patch(vm["url"], {"name": ""}), 400) == {"name": ["This field may not be blank."]}


@pytest.mark.parametrize("state", ["erred", "resizing", "starting"])
def test_patch_needs_a_stable_state(shared, state):
    vm = shared.instance()
    shared.set_instance_state(vm, state)
    assert ok(shared.api.patch(vm["url"], {"name": "x"}), 409) == {"detail": "Modification allowed in stable states only"}
    assert shared.get(vm)["name"] == vm["name"]


def test_start_and_stop(shared):
    vm = shared.instance()
    assert ok(shared.api.post(vm["url"] + "start/"), 202) == {"status": "start was scheduled"}
    shared.wait_state(vm["url"], "Online")
    ok(shared.api.post(vm["url"] + "start/"), 409)
    assert ok(shared.api.post(vm["url"] + "stop/"), 202) == {"status": "stop was scheduled"}
    shared.wait_state(vm["url"], "Offline")
    ok(shared.api.post(vm["url"] + "stop/"), 409)
    ok(shared.api.get(vm["url"] + "start/"), 405)


@pytest.mark.parametrize("state, code", [
    ("online", 409), ("resizing", 409), ("provisioning", 409), ("offline", 202), ("erred", 202),
])
def test_destroy_depends_on_the_state(shared, state, code):
    disk = shared.disk()
    vm = shared.instance([disk])
    shared.set_instance_state(vm, state)
    answer = ok(shared.api.delete(vm["url"]), code)
    if code == 202:
        assert answer == {"status": "destroy was scheduled"}
        shared.wait_gone(vm["url"])
        shared.instance([disk])  # the disk is there and may be registered again
    else:
        assert answer == {"detail": "Performing destroy operation is not allowed for resource in its current state"}
        ok(shared.api.get(vm["url"]))
    assert disk.exists()


def test_K5_unlink_of_an_erred_machine_by_staff_is_202(shared):
    disk = shared.disk()
    vm = shared.instance([disk])
    shared.set_instance_state(vm, "erred")
    ok(shared.api.post(vm["url"] + "unlink/"), 202)
    shared.wait_gone(vm["url"])
    assert disk.exists()


def test_unlink_keeps_backups_safe(shared):
    """It must not lose backups silently: either it is refused, or they stay restorable."""
    vm = shared.instance()
    backup = shared.backup(vm)
    answer = shared.api.post(vm["url"] + "unlink/")
    assert answer.status_code in (202, 409)
    assert shared.get(backup)["state"] == "Ready"


def test_unlink_does_not_touch_restored_files(shared):
    backup = shared.backup(shared.instance())
    new = shared.restore(backup)
    files = shared.volume_files(new)
    ok(shared.api.post(new["url"] + "unlink/"), 202)
    shared.wait_gone(new["url"])
    assert all(f.exists() for f in files)


def test_instance_filters(own):
    one = own.instance(name="alpha", description="web server")
    two = own.instance(name="beta", description="database")
    own.set_instance_state(two, "erred")

    def found(**params):
        return [i["name"] for i in own.api.list(INSTANCES, **params)]

    assert found() == ["alpha", "beta"]
    assert found(name="LPH") == ["alpha"] and found(description="data") == ["beta"]
    assert found(state="Erred") == ["beta"] and found(state=["Erred", "Offline"]) == ["alpha", "beta"]
    assert found(uuid=one["uuid"]) == ["alpha"]
    assert found(project_name=own.project["name"]) == ["alpha", "beta"]
    assert found(o="-name") == ["beta", "alpha"]
    assert found(o="state")
    assert ok(own.api.get(INSTANCES, params={"state": "x"}), 400) == {"state": ['"x" is not a valid choice.']}


# -------------------------------------------------------------------- flavors and images


def test_flavor_representation_and_order(own):
    made = [own.flavor(cores=2, ram=1, disk=1), own.flavor(cores=1, ram=2, disk=1), own.flavor(cores=1, ram=1, disk=2), own.flavor(cores=1, ram=1, disk=1)]
    assert {"url", "uuid", "name", "cores", "ram", "disk"} <= set(made[0])
    assert made[0]["url"] == f"{own.d.url}{FLAVORS}{made[0]['uuid']}/"
    order = [f["uuid"] for f in own.api.list(FLAVORS) if f["uuid"] in [m["uuid"] for m in made]]
    assert order == [made[3]["uuid"], made[2]["uuid"], made[1]["uuid"], made[0]["uuid"]]
    assert [f["cores"] for f in own.api.list(FLAVORS, o="-cores")] == sorted((f["cores"] for f in own.api.list(FLAVORS)), reverse=True)


def test_flavor_filters(own):
    small, big = own.flavor(name="Small one", cores=1, ram=512, disk=10), own.flavor(name="big", cores=8, ram=4096, disk=100)

    def found(**params):
        return [f["uuid"] for f in own.api.list(FLAVORS, **params) if f["uuid"] in (small["uuid"], big["uuid"])]

    assert found(name="SMALL") == [small["uuid"]]
    for field, value in (("cores", 8), ("ram", 4096), ("disk", 100)):
        assert found(**{field: value}) == [big["uuid"]]
        assert found(**{field + "__gte": value}) == [big["uuid"]]
        assert found(**{field + "__lte": value - 1}) == [small["uuid"]]
        assert found(**{field + "__gte": value + 1}) == []


def test_flavor_values(shared):
    ok(shared.api.post(FLAVORS, {"name": "x", "cores": 0, "ram": -1, "disk": "many"}), 400)
    assert set(ok(shared.api.post(FLAVORS, {}), 400)) >= {"name", "cores", "ram"}
    flavor = shared.flavor()
    assert ok(shared.api.patch(flavor["url"], {"ram": 640}))["ram"] == 640
    ok(shared.api.delete(flavor["url"]), 204)
    assert ok(shared.api.get(flavor["url"]), 404) == NOT_FOUND


def test_image_representation(shared):
    image = shared.image(name="Debian 12")
    assert {"url", "uuid", "name", "min_disk", "min_ram"} <= set(image)
    assert image["min_disk"] == 0 and image["min_ram"] == 0
    assert image["url"] == f"{shared.d.url}{IMAGES}{image['uuid']}/"
    assert image["uuid"] in [i["uuid"] for i in shared.api.list(IMAGES, name="debian")]
    assert list(ok(shared.api.post(IMAGES, {"name": "x", "min_ram": -1}), 400)) == ["min_ram"]
    assert ok(shared.api.patch(image["url"], {"min_ram": 64}))["min_ram"] == 64


def test_changing_a_flavor_does_not_change_machines(shared):
    flavor = shared.flavor(cores=1, ram=100)
    vm = shared.instance(flavor=flavor["url"])
    ok(shared.api.patch(flavor["url"], {"ram": 900}))
    ok(shared.api.delete(flavor["url"]), 204)
    assert shared.get(vm)["ram"] == 100 and shared.get(vm)["flavor_name"] == flavor["name"]


# -------------------------------------------------------------------- projects


def test_project_representation(shared):
    project = ok(shared.api.post(PROJECTS, {"name": "named", "description": "d"}), 201)
    assert {"url", "uuid", "name", "description", "quotas", "created"} <= set(project)
    assert (project["name"], project["description"]) == ("named", "d")
    assert TIMESTAMP.match(project["created"])
    assert project["uuid"] in [p["uuid"] for p in shared.api.list(PROJECTS, name="NAME")]
    assert ok(shared.api.patch(project["url"], {"name": "renamed"}))["name"] == "renamed"
    ok(shared.api.delete(project["url"]), 204)
    ok(shared.api.get(project["url"]), 404)


def test_a_project_with_machines_is_not_deleted(shared):
    project = shared.new_project()
    vm = shared.instance(project=project)
    ok(shared.api.delete(project["url"]), 409)
    ok(shared.api.get(vm["url"]))
    ok(shared.api.delete(vm["url"]), 202)
    shared.wait_gone(vm["url"])
    ok(shared.api.delete(project["url"]), 204)


def test_the_default_project_is_there(own):
    assert [p["name"] for p in ok(own.api.get(PROJECTS))][0] == "default"
    assert ok(own.api.get(BACKUPS)) == []
