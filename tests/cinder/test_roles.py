"""Who may do what: each role against each call (Cinder contract 0.3)."""

import uuid

import pytest

from helpers.api import ok
from helpers.cinder import NOBODY, Cinder, CinderLab, decode, encode, fault

READER, MEMBER, ADMIN = 1, 2, 3
# What a call needs, its answer when it is allowed, and the call itself on a backup (or on its volume).
CALLS = {
    "list": (READER, 200, lambda c, b: c.get("/backups")),
    "list detail": (READER, 200, lambda c, b: c.get("/backups/detail")),
    "show": (READER, 200, lambda c, b: c.get(f"/backups/{b['id']}")),
    "create": (MEMBER, 202, lambda c, b: c.post("/backups", {"backup": {"volume_id": b["volume_id"]}})),
    "update": (MEMBER, 200, lambda c, b: c.put(f"/backups/{b['id']}", {"backup": {"name": "changed"}})),
    "delete": (MEMBER, 202, lambda c, b: c.delete(f"/backups/{b['id']}")),
    "restore": (MEMBER, 202, lambda c, b: c.post(f"/backups/{b['id']}/restore", {"restore": {"name": "r"}})),
    "reset": (ADMIN, 202, lambda c, b: c.action(b, "os-reset_status", {"status": "error"})),
    "force delete": (ADMIN, 202, lambda c, b: c.action(b, "os-force_delete", {})),
    "export": (ADMIN, 200, lambda c, b: c.get(f"/backups/{b['id']}/export_record")),
    "import": (ADMIN, 201, lambda c, b: c.import_record(b["service"], b["url"])),
}
ROLES = {"staff": ADMIN, "admin": MEMBER, "manager": MEMBER, "reader": READER}


@pytest.fixture(scope="module")
def world(shared):
    """Users of this project, of another, and of none."""
    other = CinderLab(shared.d)
    clients = {role: shared.client(role) for role in ("admin", "manager", "reader")} | {"staff": shared.admin}
    foreign, nobody = other.client("manager"), shared.user()
    clients["other, from his project"] = foreign
    clients["other, in this project"] = foreign.at(project=shared.project["uuid"])
    clients["other reader, from his project"] = other.client("reader")
    clients["nobody"] = Cinder(shared.d, shared.project["uuid"], nobody.token)
    clients["anonymous"] = Cinder(shared.d, shared.project["uuid"])
    clients["staff, from another project"] = Cinder(shared.d, other.project["uuid"], shared.d.token)
    return clients


@pytest.fixture
def backup(shared, world):
    """One of the project, with a record of it under another id."""
    backup = shared.admin.backup(shared.admin.create_volume(1), name="name")
    exported = shared.admin.export(backup)
    url = encode(decode(exported["backup_url"]) | {"id": str(uuid.uuid4())})
    return backup | {"service": exported["backup_service"], "url": url}


def untouched(shared, backup):
    shown = shared.admin.show(backup)
    assert shown == {k: backup[k] for k in shown}
    assert [v["id"] for v in ok(shared.admin.get("/volumes", name="r"))["volumes"]] == []
    assert shared.admin.ids(volume_id=backup["volume_id"]) == [backup["id"]]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("call", CALLS)
def test_roles_of_the_project(shared, world, backup, role, call):
    need, code, make = CALLS[call]
    answer = make(world[role], backup)
    if ROLES[role] < need:
        fault(answer, 403)
        untouched(shared, backup)
        return
    assert answer.status_code == code, answer.text
    if call == "restore":
        volume = shared.admin.wait_volume(answer.json()["restore"]["volume_id"])
        shared.admin.wait(backup)
        shared.admin.remove_volume(volume)
    elif call in ("create", "import"):
        shared.admin.wait(answer.json()["backup"])
    elif call in ("delete", "force delete"):
        shared.admin.wait_gone(backup)


@pytest.mark.parametrize("call", CALLS)
def test_another_project_s_backup_is_not_there(shared, world, backup, call):
    """404 whatever the role there; a list just does not have it. Import looks at the role first."""
    _, code, make = CALLS[call]
    for role in ("other, from his project", "other reader, from his project"):
        answer = make(world[role], backup)
        if call.startswith("list"):
            assert backup["id"] not in [b["id"] for b in ok(answer)["backups"]]
        else:
            fault(answer, 403 if call == "import" else 404)
    untouched(shared, backup)


@pytest.mark.parametrize("call", CALLS)
def test_without_a_role_on_the_project(shared, world, backup, call):
    """None of the three: 403 on everything. Whose project is another one may be told 400 instead (0.1)."""
    make = CALLS[call][2]
    fault(make(world["nobody"], backup), 403)
    answer = make(world["other, in this project"], backup)
    fault(answer, 400 if answer.status_code == 400 else 403)
    fault(make(world["anonymous"], backup), 401)
    untouched(shared, backup)


@pytest.mark.parametrize("call", [c for c in CALLS if c not in ("create", "import")])
def test_an_administrator_acts_on_any_project_s_backup(shared, world, backup, call):
    """By id, through his own project; his lists are of his own project."""
    _, code, make = CALLS[call]
    answer = make(world["staff, from another project"], backup)
    assert answer.status_code == code, answer.text
    if call.startswith("list"):
        assert backup["id"] not in [b["id"] for b in answer.json()["backups"]]
    elif "delete" in call:
        shared.admin.wait_gone(backup)
    elif call == "restore":
        abroad, ident = world["staff, from another project"], answer.json()["restore"]["volume_id"]
        abroad.wait_volume(ident)
        assert ident in [v["id"] for v in ok(abroad.get("/volumes"))["volumes"]]  # the new volume is his project's
        fault(shared.member.get(f"/volumes/{ident}"), 404)
        abroad.wait(backup)


@pytest.mark.parametrize("call", [c for c in CALLS if c not in ("list", "list detail", "create", "import")])
def test_look_up_comes_before_the_role(shared, world, call):
    """404 for an id that is not there, whoever asks in his project."""
    for role in ROLES:
        fault(CALLS[call][2](world[role], {"id": NOBODY}), 404)


def test_look_up_comes_before_the_role_in_create(shared, world):
    for role in ROLES:
        fault(CALLS["create"][2](world[role], {"volume_id": NOBODY}), 404)


def test_a_role_that_is_taken_away_is_gone(shared):
    """One user, one set of roles for both dialects."""
    user = shared.user("manager")
    client = Cinder(shared.d, shared.project["uuid"], user.token)
    ok(client.get("/backups"))
    permission = next(
        p for p in shared.api.list("/api/project-permissions/", user=user.user["uuid"]) if p["user_uuid"] == user.user["uuid"]
    )
    ok(shared.api.delete(permission["url"]), 204)
    fault(client.get("/backups"), 403)


def test_tokens_of_the_command_line(shared):
    """`cofferd token add` makes one that is good here as well."""
    import json
    import subprocess

    user = shared.user("reader")
    command = [shared.d.binary, "--config", str(shared.d.config_file), "--json", "token", "add", user.user["username"]]
    token = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)["token"]
    client = Cinder(shared.d, shared.project["uuid"], token)
    ok(client.get("/backups"))
    fault(client.delete(f"/backups/{NOBODY}"), 404)
