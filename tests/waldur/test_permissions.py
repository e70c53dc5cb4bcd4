"""Who may see and do what: every role against every resource, 404 for what is invisible, 403 for what may only be seen."""

import threading
import time

import pytest

from helpers.api import DENIED, NOT_FOUND, Api, ok
from helpers.lab import (
    BACKUP, BACKUPS, FLAVORS, IMAGES, INSTANCES, NEVER, PASSWORD, PROJECTS, SCHEDULES, USERS, Lab,
)

WRITERS = ["staff", "owner", "admin", "manager"]


@pytest.fixture(scope="module")
def shared(daemon):
    lab = Lab(daemon)
    lab.vm = lab.instance()
    lab.one = lab.backup(lab.vm)
    lab.plan = lab.schedule(lab.vm)
    lab.users = {
        "staff": lab.user(staff=True), "owner": lab.user("owner"), "admin": lab.user("admin"), "manager": lab.user("manager"),
        "reader": lab.user("reader"), "stranger": lab.user(),
        "elsewhere": lab.user("admin", project=lab.new_project()), "anonymous": daemon.anonymous,
    }
    return lab


def seen(user, path, thing):
    return thing["uuid"] in [x["uuid"] for x in user.list(path)]


@pytest.mark.parametrize("role, visible", [(r, True) for r in [*WRITERS, "reader"]] + [("stranger", False), ("elsewhere", False)])
def test_seeing(shared, role, visible):
    user = shared.users[role]
    for path, thing in ((BACKUPS, shared.one), (BACKUP, shared.one), (SCHEDULES, shared.plan), (INSTANCES, shared.vm), (PROJECTS, shared.project)):
        assert seen(user, path, thing) is visible
        answer = user.get(f"{path}{thing['uuid']}/")
        if visible:
            assert ok(answer)["uuid"] == thing["uuid"]
        else:
            assert ok(answer, 404) == NOT_FOUND


WRITES = [
    ("POST", BACKUPS + "{backup}/restore/", {}, 400),
    ("POST", BACKUP + "{backup}/restore/", {}, 400),
    ("PATCH", BACKUPS + "{backup}/", {"description": 5 * "x"}, 200),
    ("PATCH", SCHEDULES + "{schedule}/", {"description": "x"}, 200),
    ("PUT", SCHEDULES + "{schedule}/", {}, 400),
    ("POST", SCHEDULES + "{schedule}/deactivate/", None, 409),
    ("PATCH", INSTANCES + "{instance}/", {"description": "x"}, 200),
]


@pytest.mark.parametrize("method, path, body, code", WRITES)
@pytest.mark.parametrize("role", WRITERS)
def test_writers_may_write(shared, role, method, path, body, code):
    """The codes show that the request came past the permission."""
    ok(shared.users[role].request(method, fill(shared, path), body), code)


@pytest.mark.parametrize("method, path, body, code", [
    *WRITES,
    ("POST", BACKUPS + "{backup}/delete/", None, 0), ("POST", BACKUP + "{backup}/delete/", None, 0),
    ("DELETE", BACKUPS + "{backup}/", None, 0), ("DELETE", SCHEDULES + "{schedule}/", None, 0),
    ("POST", SCHEDULES + "{schedule}/activate/", None, 0), ("DELETE", INSTANCES + "{instance}/", None, 0),
    ("POST", INSTANCES + "{instance}/start/", None, 0), ("POST", INSTANCES + "{instance}/unlink/", None, 0),
])
@pytest.mark.parametrize("role, wanted", [("reader", 403), ("stranger", 404), ("elsewhere", 404), ("anonymous", 401)])
def test_47_404_vs_403_vs_401(shared, role, wanted, method, path, body, code):
    before = [shared.get(x) for x in (shared.one, shared.plan, shared.vm)]
    answer = ok(shared.users[role].request(method, fill(shared, path), body), wanted)
    if wanted == 403:
        assert answer == DENIED
    if wanted == 404:
        assert answer == NOT_FOUND
    assert [shared.get(x) for x in (shared.one, shared.plan, shared.vm)] == before


def fill(lab, path):
    return path.format(backup=lab.one["uuid"], schedule=lab.plan["uuid"], instance=lab.vm["uuid"])


@pytest.mark.parametrize("role, code", [
    ("staff", 201), ("owner", 201), ("admin", 201), ("manager", 201), ("reader", 403), ("stranger", 400), ("elsewhere", 400), ("anonymous", 401),
])
def test_creating(shared, role, code):
    user = shared.users[role]
    backup = ok(user.post(BACKUPS, {"instance": shared.vm["url"]}), code)
    schedule = ok(user.post(SCHEDULES, {
        "instance": shared.vm["url"], "schedule": NEVER, "retention_time": 1, "maximal_number_of_backups": 1,
    }), code)
    if code == 400:
        wanted = {"instance": ["Invalid hyperlink - Object does not exist."]}
        assert backup == wanted and schedule == wanted


@pytest.mark.parametrize("role", ["owner", "admin", "manager", "reader", "stranger"])
def test_only_staff_registers_machines(shared, role):
    """A path is read access to the whole host."""
    body = {"name": "x", "project": shared.project["url"], "volumes": [{"path": str(shared.disk()), "bootable": True}]}
    before = len(shared.api.list(INSTANCES))
    assert ok(shared.users[role].post(INSTANCES, body), 403) == DENIED
    assert len(shared.api.list(INSTANCES)) == before


def test_rights_end_with_the_role(shared):
    user = shared.user("admin")
    ok(user.get(shared.one["url"]))
    mine = [
        p for p in shared.api.list("/api/project-permissions/")
        if p["user"] == user.user["url"]
    ]
    assert len(mine) == 1 and mine[0]["role"] == "admin" and mine[0]["project"] == shared.project["url"]
    ok(shared.api.delete(mine[0]["url"]), 204)
    assert ok(user.get(shared.one["url"]), 404) == NOT_FOUND
    assert user.list(BACKUPS) == []


def test_project_permissions(shared):
    user = shared.user()
    body = {"project": shared.project["url"], "user": user.user["url"], "role": "manager"}
    made = ok(shared.api.post("/api/project-permissions/", body), 201)
    assert {"url", "project", "user", "role"} <= set(made)
    assert "role" in ok(shared.api.post("/api/project-permissions/", {**body, "role": "emperor"}), 400)
    ok(shared.api.post("/api/project-permissions/", body), 400)  # a duplicate
    assert set(ok(shared.api.post("/api/project-permissions/", {}), 400)) == {"project", "user", "role"}
    for role in ("admin", "manager", "reader", "stranger"):
        answer = shared.users[role].post("/api/project-permissions/", {**body, "role": "admin"})
        assert answer.status_code in (400, 403), role
    ok(user.get(shared.one["url"]))


@pytest.mark.parametrize("path, body", [
    (FLAVORS, {"name": "f", "cores": 1, "ram": 1, "disk": 0}), (IMAGES, {"name": "i"}), (PROJECTS, {"name": "p"}),
    (USERS, {"username": "u-by-nobody", "password": PASSWORD}),
])
@pytest.mark.parametrize("role", ["admin", "manager", "reader", "stranger"])
def test_only_staff_makes_records(shared, role, path, body):
    before = shared.api.list(path)
    assert ok(shared.users[role].post(path, body), 403) == DENIED
    assert shared.api.list(path) == before


def test_owner_makes_projects(shared):
    ok(shared.users["owner"].post(PROJECTS, {"name": shared.unique("p")}), 201)


@pytest.mark.parametrize("role", ["stranger", "reader", "staff"])
def test_flavors_and_images_are_for_everybody(shared, role):
    flavor, image = shared.flavor(), shared.image()
    user = shared.users[role]
    for path, thing in ((FLAVORS, flavor), (IMAGES, image)):
        assert seen(user, path, thing)
        assert ok(user.get(thing["url"]))["name"] == thing["name"]
        if role != "staff":
            ok(user.patch(thing["url"], {"name": "x"}), 403)
            ok(user.delete(thing["url"]), 403)


# -------------------------------------------------------------------- users


USER_FIELDS = {
    "url", "uuid", "username", "full_name", "native_name", "job_title", "email", "phone_number", "organization",
    "organization_approved", "civil_number", "description", "date_joined",
}


def test_K3_users(shared):
    ok(shared.d.anonymous.get(USERS), 401)
    user, other = shared.user(), shared.user()
    ok(user.get(USERS))
    assert ok(user.post(USERS, {"username": "x", "password": PASSWORD}), 403) == DENIED
    assert ok(user.patch(user.user["url"], {"email": "me@example.com"}))["email"] == "me@example.com"
    assert ok(user.patch(other.user["url"], {"email": "me@example.com"}), 403) == DENIED
    ok(user.delete(other.user["url"]), 403)
    ok(user.delete(user.user["url"]), 403)
    assert shared.get(other.user)["email"] == ""


@pytest.mark.parametrize("password", ["short7", "onlyletters", "12345678", "", "a1", None])
def test_K3_password_rules(shared, password):
    user = shared.user()
    path = user.user["url"] + "password/"
    assert list(ok(user.post(path, {"password": password}), 400)) == ["password"]
    ok(shared.d.anonymous.post("/api-auth/password/", {"username": user.user["username"], "password": PASSWORD}))
    name = shared.unique("u")
    assert list(ok(shared.api.post(USERS, {"username": name, "password": password}), 400)) == ["password"] or password is None
    assert ok(shared.api.get(USERS, params={"username": name})) == [] or password is None


def test_K3_password_change(shared):
    user, other = shared.user(), shared.user()
    assert ok(user.post(user.user["url"] + "password/", {}), 400) == {"password": ["This field is required."]}
    ok(other.post(user.user["url"] + "password/", {"password": "better one 9"}), 403)
    ok(user.post(user.user["url"] + "password/", {"password": "better one 9"}))
    name = user.user["username"]
    ok(shared.d.anonymous.post("/api-auth/password/", {"username": name, "password": PASSWORD}), 401)
    ok(shared.d.anonymous.post("/api-auth/password/", {"username": name, "password": "better one 9"}))
    ok(shared.api.post(user.user["url"] + "password/", {"password": "7 letters"}))


def test_user_fields(shared):
    user = shared.user(full_name="Ann Other", email="ann@example.com")
    mine = ok(user.get(user.user["url"]))
    assert USER_FIELDS <= set(mine), USER_FIELDS - set(mine)
    assert mine["full_name"] == "Ann Other"
    assert "password" not in mine and "token" not in mine
    assert not {"is_staff", "is_active"} & set(mine)
    theirs = ok(shared.api.get(user.user["url"]))
    assert theirs["is_staff"] is False and theirs["is_active"] is True


def test_user_filters(shared):
    user = shared.user()
    assert [u["uuid"] for u in ok(user.get(USERS + "?current"))] == [user.user["uuid"]]
    name = user.user["username"]
    assert [u["uuid"] for u in ok(user.get(USERS, params={"username": name}))] == [user.user["uuid"]]
    assert ok(user.get(USERS, params={"username": name[:-1]})) == []


def test_users_do_not_see_staff_or_inactive_ones(shared):
    user, sleeper = shared.user(), shared.user()
    ok(shared.api.patch(sleeper.user["url"], {"is_active": False}))
    names = [u["username"] for u in user.list(USERS)]
    assert "admin" not in names and sleeper.user["username"] not in names and user.user["username"] in names
    ok(user.get(sleeper.user["url"]), 404)
    assert {"admin", sleeper.user["username"]} <= {u["username"] for u in shared.api.list(USERS)}


def test_users_cannot_raise_themselves(shared):
    user = shared.user()
    user.patch(user.user["url"], {"is_staff": True, "is_active": False, "username": "admin2"})
    after = shared.get(user.user)
    assert after["is_staff"] is False and after["is_active"] is True
    ok(user.get(USERS))


def test_user_names_are_unique(shared):
    user = shared.user()
    assert list(ok(shared.api.post(USERS, {"username": user.user["username"], "password": PASSWORD}), 400)) == ["username"]
    assert list(ok(shared.api.post(USERS, {"password": PASSWORD}), 400)) == ["username"]


def test_deleting_a_user_ends_its_tokens_and_keeps_its_backups(shared):
    user = shared.user("admin")
    backup = shared.backup(shared.vm, api=user)
    ok(shared.api.delete(user.user["url"]), 204)
    ok(user.get(BACKUPS), 401)
    assert shared.get(backup)["state"] == "Ready"


def test_a_new_password_does_not_undo_what_staff_change_meanwhile(lab):
    """Hashing takes long enough for a deactivation to come in between."""
    user = lab.user()
    for _ in range(8):
        ok(lab.api.patch(user.user["url"], {"is_active": True}))
        change = threading.Thread(target=Api(lab.d, lab.api.token).post, args=(user.user["url"] + "password/", {"password": "another 8 words"}))
        change.start()
        time.sleep(0.02)
        ok(lab.api.patch(user.user["url"], {"is_active": False}))
        change.join()
        assert lab.get(user.user)["is_active"] is False
