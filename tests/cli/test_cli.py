"""Every command of the program, once through the socket of a running daemon and once on the file itself."""

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import threading
import time

import pytest

from helpers.api import Api, ok
from helpers.daemon import slow_reads
from helpers.disks import MIB, assert_same_bytes, make_image, make_raw
from helpers.wait import wait_for

HEX32 = re.compile(r"[0-9a-f]{32}")


class Host:
    """The command line as the admin of one host uses it."""

    def __init__(self, daemon):
        self.d = daemon

    def start(self, *arguments, **kw):
        command = [self.d.binary, "--config", str(self.d.config_file), *map(str, arguments)]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.d.base), "TERM": "xterm", "RUST_BACKTRACE": "1"}
        kw = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.d.base} | kw
        return subprocess.Popen(command, text=True, env=env, **kw)

    def run(self, *arguments, code=0, input=None):
        """Runs a command that must end with `code`; its output, or what it complained of."""
        process = self.start(*arguments, stdin=subprocess.PIPE)
        out, err = process.communicate(input, timeout=120)
        assert process.returncode == code, f"{arguments} ended with {process.returncode}: {out}{err}"
        assert "panicked" not in err, err
        return out if code == 0 else err

    def json(self, *arguments, **kw):
        return json.loads(self.run("--json", *arguments, **kw))

    def disk(self, name, size=MIB, **kw):
        return make_raw(self.d.root / name, size, seed=name, **kw)

    def instance(self, name, size=MIB):
        self.disk(f"{name}.img", size)
        return self.json("instance", "add", name, "--volume", self.d.root / f"{name}.img", "--project", "default")

    def profiles(self):
        """An image and a flavor to restore with."""
        self.run("flavor", "add", "small", "--cores", 1, "--ram", "512M", "--disk", "1G")
        self.run("image", "add", "linux")


@pytest.fixture(params=["up", "down"])
def host(request, start_daemon):
    daemon = start_daemon(start=request.param == "up")
    host = Host(daemon)
    if request.param == "down":
        host.run("init")
    host.up = request.param == "up"
    return host


@pytest.fixture
def down(start_daemon):
    host = Host(start_daemon(start=False))
    host.run("init")
    return host


def table(text):
    """The rows of a printed table as dictionaries; columns are told apart by their places in the heading."""
    head, *rows = text.splitlines()
    starts = [m.start() for m in re.finditer(r"(?<!\S)\S+(?: \S+)*", head)]
    assert rows, text
    return [row.split() for row in rows], starts


# ------------------------------------------------------------------ people and places


def test_projects_users_and_roles(host):
    assert [p["name"] for p in host.json("project", "list")] == ["default"]
    project = host.json("project", "add", "web", "--description", "the web servers")
    assert HEX32.fullmatch(project["uuid"]) and project["description"] == "the web servers"
    assert "web" in host.run("project", "list")

    user = host.json("user", "add", "ann", "--password", "--full-name", "Ann A", input="secret horse 7\n")
    assert (user["username"], user["full_name"], user["is_staff"]) == ("ann", "Ann A", False)
    assert host.json("user", "add", "root2", "--staff")["is_staff"] is True
    rows, _ = table(host.run("user", "list"))
    assert {"admin", "ann", "root2"} <= {row[1] for row in rows}

    host.run("role", "add", "ann", "member", "--project", "web")
    host.run("role", "add", "ann", "reader", "--project", project["uuid"])
    host.run("role", "add", "root2", "owner")
    again = host.run("role", "add", "root2", "owner", code=1)
    assert again.startswith("error: ")
    roles = {(r["user_username"], r["role"]) for r in host.json("role", "list")}
    assert roles == {("ann", "manager"), ("ann", "reader"), ("root2", "owner")}
    assert "member" in host.run("role", "list")
    host.run("role", "remove", "ann", "reader", "--project", "web")
    host.run("role", "remove", "root2", "owner")
    assert [(r["user_username"], r["role"]) for r in host.json("role", "list")] == [("ann", "manager")]
    assert "does not have that role" in host.run("role", "remove", "ann", "reader", "--project", "web", code=1)


def test_passwords_and_disabling(host):
    host.run("user", "add", "ann", "--password", input="secret horse 7\n")
    assert "password" in host.run("user", "passwd", "ann", code=1, input="short\n")
    assert "no password was given" in host.run("user", "passwd", "ann", code=1, input="")
    host.run("user", "passwd", "ann", input="another horse 8\n")
    host.run("user", "disable", "ann")
    assert [u["is_active"] for u in host.json("user", "list") if u["username"] == "ann"] == [False]
    host.run("user", "enable", "ann")
    if not host.up:
        host.d.start()
    login = host.d.anonymous.post("/api-auth/password/", {"username": "ann", "password": "another horse 8"})
    assert login.status_code == 200


def test_tokens(host):
    host.run("user", "add", "bob")
    made = host.json("token", "add", "bob", "--name", "laptop", "--lifetime", 5)
    token = made["token"]
    assert re.fullmatch("[0-9a-f]{40}", token)
    shown = host.run("token", "list")
    assert token not in shown and "laptop" in shown
    entry, = [t for t in host.json("token", "list") if t["name"] == "laptop"]
    assert host.run("token", "add", "bob").strip() != token
    if not host.up:
        host.d.start()
    headers = {"Authorization": f"Token {token}"}
    assert host.d.anonymous.get("/api/projects/", headers=headers).status_code == 200
    host.run("token", "revoke", entry["id"])
    assert host.d.anonymous.get("/api/projects/", headers=headers).status_code == 401
    assert host.run("token", "revoke", entry["id"], code=1).startswith("error: ")
    assert "no id of a token" in host.run("token", "revoke", "../projects", code=1)


def test_flavors_and_images(host):
    flavor = host.json("flavor", "add", "big", "--cores", 4, "--ram", "8G", "--disk", "100G")
    assert (flavor["cores"], flavor["ram"], flavor["disk"]) == (4, 8192, 102400)
    assert "100 GiB" in host.run("flavor", "list")
    image = host.json("image", "add", "debian", "--min-disk", "2G", "--min-ram", 256)
    assert (image["min_disk"], image["min_ram"]) == (2048, 256)
    assert "debian" in host.run("image", "list")


# ------------------------------------------------------------------ machines


def test_volumes(host):
    path = host.disk("a.img", 3 * MIB)
    volume = host.json("volume", "add", path, "--name", "data")
    assert (volume["path"], volume["size"], volume["name"]) == (str(path), 3 * MIB, "data")
    assert "3 MiB" in host.run("volume", "list")
    assert host.run("volume", "add", path, code=1).startswith("error: path: ")
    # A relative path is meant from where the command is given.
    host.disk("b.img")
    assert host.json("volume", "add", "disks/b.img")["path"] == str(host.d.root / "b.img")
    host.run("volume", "remove", "data")
    host.run("volume", "remove", host.d.root / "b.img")
    assert host.json("volume", "list") == []
    assert path.exists()


def test_paths_outside_the_roots_are_refused(host):
    message = host.run("volume", "add", "/etc/passwd", code=1)
    assert message.startswith("error: path: ") and "root" in message
    assert host.json("volume", "list") == []


def test_instances(host):
    one, two, three = host.disk("one.img"), host.disk("two.img"), host.disk("three.img")
    host.run("volume", "add", three, "--name", "third")
    host.run("flavor", "add", "small", "--cores", 2, "--ram", 1024, "--disk", 10)
    instance = host.json(
        "instance", "add", "web", "-v", one, "-v", f"{two},boot", "-v", "third", "--flavor", "small", "--description", "front"
    )
    assert [v["bootable"] for v in instance["volumes"]] == [False, True, False]
    assert (instance["cores"], instance["ram"], instance["state"]) == (2, 1024, "Offline")
    assert [v["instance_name"] for v in host.json("volume", "list")] == ["web"] * 3
    assert "web" in host.run("instance", "list") and "front" in host.run("instance", "show", "web")
    host.run("instance", "start", "web")
    assert host.json("instance", "show", "web")["state"] == "Online"
    assert host.run("instance", "remove", "web", code=1).startswith("error: ")
    host.run("instance", "stop", "web")
    host.run("instance", "remove", "web")
    wait_for(lambda: host.json("instance", "list") == [], "the instance is gone")
    assert all(path.exists() for path in (one, two, three))


# ------------------------------------------------------------------ backups


def test_backup_restore_delete(host):
    disk = make_image(host.d.root / "vm.img", 8 * MIB, seed="vm")
    instance = host.json("instance", "add", "vm", "-v", disk)
    first = host.json("backup", "vm", "--description", "before upgrade")
    assert (first["state"], first["description"], first["progress"]) == ("Ready", "before upgrade", None)
    said = host.run("backup", instance["uuid"])
    assert "8 MiB backed up" in said and "stored" in said

    backups = host.json("list")
    assert [b["uuid"] for b in backups][0] == first["uuid"] and len(backups) == 2
    assert host.json("list", "--instance", "vm") == backups
    rows, _ = table(host.run("list"))
    assert len(rows) == 2 and "Ready" in rows[0]
    assert "before upgrade" in host.run("show", "before upgrade")
    assert host.json("show", first["uuid"][:8])["uuid"] == first["uuid"]

    kept = host.d.root / "kept.img"
    kept.write_bytes(disk.read_bytes())
    disk.write_bytes(bytes(8 * MIB))
    copy = host.d.root / "copy.img"
    host.run("restore", "before upgrade", "--to", copy)
    assert_same_bytes(copy, kept)
    refused = host.run("restore", "before upgrade", "--to", copy, code=1)
    assert str(copy) in refused or "exist" in refused
    copy.write_bytes(b"\xff" * 8 * MIB)
    host.run("restore", "before upgrade", "--to", "disks/copy.img", "--overwrite")
    assert_same_bytes(copy, kept)
    small = host.disk("small.img", MIB)
    before = small.read_bytes()
    assert host.run("restore", first["uuid"], "--to", small, "--overwrite", code=1).startswith("error: ")
    assert small.read_bytes() == before

    host.profiles()
    made = host.json("restore", first["uuid"], "--new-instance", "vm2", "--image", "linux", "--flavor", "small")
    assert (made["name"], made["state"]) == ("vm2", "Offline")
    path = next(v["path"] for v in host.json("volume", "list") if v["uuid"] == made["volumes"][0]["uuid"])
    assert_same_bytes(path, kept)

    said = host.run("delete", "before upgrade")
    assert first["uuid"] in said
    assert host.run("show", first["uuid"], code=1) == f'error: there is no backup "{first["uuid"]}"\n'
    assert host.json("delete", backups[1]["uuid"])["status"] == "Backup deletion was started"
    assert host.json("list") == []


def test_what_backups_take_and_what_deleting_them_frees(host):
    """Two backups of a disk that changed, and one of a copy of it: what they share is freed with the last of them only."""
    disk = host.disk("vm.img", 8 * MIB)
    host.run("instance", "add", "vm", "-v", disk)
    first = host.json("backup", "vm", "--description", "first")
    with open(disk, "r+b") as file:
        file.seek(2 * MIB)
        file.write(os.urandom(2 * MIB))
    second = host.json("backup", "vm", "--description", "second")
    copy = host.d.root / "copy.img"
    copy.write_bytes(disk.read_bytes())
    host.run("instance", "add", "copy", "-v", copy)
    third = host.json("backup", "copy", "--description", "third")

    listed = {b["uuid"]: b["space"] for b in host.json("list", "--space")}
    assert all(space["logical_bytes"] == space["data_bytes"] == 8 * MIB for space in listed.values())
    exclusive = [listed[backup["uuid"]]["exclusive_bytes"] for backup in (first, second, third)]
    assert exclusive[0] > 0 and exclusive[1:] == [0, 0]
    rows, _ = table(host.run("list", "--space"))
    assert len(rows) == 3
    assert host.json("show", "first")["space"] == listed[first["uuid"]]

    stats = host.json("stats")
    assert (stats["logical_bytes"], stats["data_bytes"], stats["unique_bytes"], stats["dead_bytes"]) == (24 * MIB, 24 * MIB, 10 * MIB, 0)
    assert "2 backups together" in host.run("delete", "--dry-run", "second", "third")
    together = host.json("delete", "-n", "second", "third")["exclusive_bytes"]
    assert together > MIB
    assert host.run("delete", "-n", "second", "none", code=1) == 'error: there is no backup "none"\n'
    host.run("delete", "second", "third")
    host.run("gc")
    after = host.json("stats")
    assert (stats["stored_bytes"] - after["stored_bytes"], after["dead_bytes"]) == (together, 0)
    assert host.json("delete", "-n", "first")["exclusive_bytes"] == after["stored_bytes"]


def test_a_volume_of_several_must_be_named(host):
    one, two = host.disk("one.img", 2 * MIB), host.disk("two.img", MIB)
    host.run("instance", "add", "vm", "-v", one, "-v", two)
    backup = host.json("backup", "vm")
    target = host.d.root / "out.img"
    assert "--volume" in host.run("restore", backup["uuid"], "--to", target, code=1)
    assert not target.exists()
    host.run("restore", backup["uuid"], "--to", target, "--volume", 1)
    assert_same_bytes(target, two)
    other = host.d.root / "other.img"
    assert host.run("restore", backup["uuid"], "--to", other, "--volume", 2, code=1).startswith("error: ")
    assert not other.exists()


def test_a_failing_backup_says_why(host):
    host.instance("vm")
    (host.d.root / "vm.img").unlink()
    message = host.run("backup", "vm", code=1)
    assert "failed" in message and "vm.img" in message
    assert host.json("list")[0]["state"] == "Erred"
    host.run("delete", host.json("list")[0]["uuid"])


def test_schedules(host):
    host.instance("vm")
    added = host.json(
        "schedule", "add", "vm", "30 2 * * *", "--keep", 3, "--days", 14, "--timezone", "Europe/London", "--description", "nightly"
    )
    assert (added["schedule"], added["maximal_number_of_backups"], added["retention_time"]) == ("30 2 * * *", 3, 14)
    assert (added["timezone"], added["is_active"]) == ("Europe/London", True)
    assert host.json("schedule", "add", "vm", "0 0 29 2 *", "--inactive", "-d", "never")["is_active"] is False
    assert len(host.json("schedule", "list", "--instance", "vm")) == 2
    rows, _ = table(host.run("schedule", "list"))
    assert len(rows) == 2
    host.run("schedule", "activate", "never")
    assert "already activated" in host.run("schedule", "activate", "never", code=1)
    host.run("schedule", "deactivate", "never")
    assert [s["is_active"] for s in host.json("schedule", "list")] == [True, False]
    assert len(host.run("schedule", "next", "nightly", "--count", 3).splitlines()) == 1 + 3
    assert host.json("list", "--schedule", "nightly") == []
    host.run("schedule", "remove", "nightly")
    assert len(host.json("schedule", "list")) == 1
    assert "error: schedule: " in host.run("schedule", "add", "vm", "every day", code=1)
    assert "error: timezone: " in host.run("schedule", "add", "vm", "0 0 * * *", "--timezone", "Berlin", code=1)


def test_quotas(host):
    host.instance("vm", 2 * MIB)
    assert host.json("quota", "set", "storage", "3")["limit"] == 3
    rows, _ = table(host.run("quota", "list", "--project", "default"))
    assert ["default", "storage", "2", "3"] in rows
    assert "quota" in host.run("backup", "vm", code=1)
    assert host.json("list") == []
    assert host.json("quota", "set", "storage", "1G", "--project", "default")["limit"] == 1024
    assert host.json("quota", "set", "storage", "unlimited")["limit"] == -1
    assert host.json("quota", "set", "vcpu", "-1")["limit"] == -1
    host.run("backup", "vm")
    host.run("quota", "set", "money", "1", code=2)
    # Of Cinder's names only storage and ram have units.
    assert host.json("quota", "set", "backup_gigabytes", "500")["limit"] == 500
    assert "without a unit" in host.run("quota", "set", "gigabytes", "1G", code=1)


# ------------------------------------------------------------------ the file


def test_backups_of_volumes_alone(start_daemon):
    """What OpenStack clients made is there for the administrator's commands too."""
    host = Host(start_daemon())
    disk = make_image(host.d.root / "data.img", 4 * MIB, seed="data")
    volume = host.json("volume", "add", disk)
    cinder = Api(host.d, host.d.token)

    def make(collection, **fields):
        noun = collection.removesuffix("s")
        made = ok(cinder.post(f"/v3/{collection}", {noun: {"volume_id": volume["uuid"], **fields}}), 202)[noun]["id"]
        wait_for(lambda: ok(cinder.get(f"/v3/{collection}/{made}"))[noun]["status"] == "available", f"{noun} is made")
        return made.replace("-", "")

    backup, snapshot = make("backups", name="monday"), make("snapshots", name="before")
    child = make("backups", incremental=True)
    assert host.json("list") == []
    assert "--volumes" in host.start("list").communicate(timeout=60)[1]
    rows, _ = table(host.run("list", "--volumes"))
    assert [row[:3] for row in rows] == [[backup, "data.img", "backup"], [snapshot, "data.img", "snapshot"], [child, "data.img", "incremental"]]
    assert host.json("show", "monday")["uuid"] == backup
    rows, _ = table(host.run("list", "--volumes", "--space"))
    assert [row[0] for row in rows] == [backup, snapshot, child]
    # A backup of a volume that has not changed: all three have the same.
    assert host.json("delete", "-n", "monday", "before")["exclusive_bytes"] == 0
    assert host.json("delete", "-n", "monday", "before", child)["exclusive_bytes"] == host.json("stats")["stored_bytes"]
    assert "every chunk is as it was stored" in host.run("check", "monday")
    out = host.d.root / "out.img"
    host.run("restore", "monday", "--to", out)
    assert_same_bytes(disk, out)
    host.run("flavor", "add", "f", "--cores", 1, "--ram", 1, "--disk", 1), host.run("image", "add", "i")
    assert "volume alone" in host.run("restore", "monday", "--new-instance", "n", "--image", "i", "--flavor", "f", code=1)
    assert "Incremental backups depend on it" in host.run("delete", "monday", code=1)
    host.run("delete", child)
    host.run("delete", "monday")
    host.run("delete", "before")
    assert host.json("list", "--volumes") == []


def test_check_names_what_is_corrupt(host):
    host.instance("vm", 4 * MIB)
    backup = host.json("backup", "vm")
    assert host.json("check")["state"] == "done"
    assert "as it was stored" in host.run("check", backup["uuid"])
    if host.up:
        host.d.stop()
    # One byte in the middle of the stored data.
    (pack, data), = host.d.sql("SELECT id, data FROM pack ORDER BY length(data) DESC LIMIT 1")
    spoilt = bytearray(data)
    spoilt[len(spoilt) // 2] ^= 1
    host.d.sql("UPDATE pack SET data = ? WHERE id = ?", (bytes(spoilt), pack))
    if host.up:
        host.d.start()
    message = host.run("check", code=1)
    assert "corrupt" in message
    process = host.start("check", backup["uuid"])
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "OFFSET" in out and re.search(r"\d", out), out


def test_gc_stats_inspect_snapshot_events(host):
    host.instance("vm", 4 * MIB)
    one, two = host.json("backup", "vm"), host.json("backup", "vm")
    host.run("delete", one["uuid"])
    host.run("delete", two["uuid"])
    assert host.json("gc")["state"] == "done"
    host.run("gc")
    assert host.json("stats")
    assert host.run("stats")

    host.run("backup", "vm", "--description", "kept")
    seen = host.json("inspect")
    assert seen
    assert host.run("inspect")
    (pack,), = host.d.sql("SELECT max(id) FROM pack")
    (volume_map,), = host.d.sql("SELECT max(map_id) FROM volume_backup")
    assert host.json("inspect", "--pack", pack)
    assert host.run("inspect", "--map", volume_map)
    assert host.run("inspect", "--pack", 10**9, code=1).startswith("error: ")
    host.run("inspect", "--pack", 1, "--map", 1, code=2)

    copy = host.d.base / "copy.db"
    host.run("snapshot", copy)
    assert host.run("snapshot", copy, code=1).startswith("error: ")
    other = host.d.base / "other"
    other.mkdir()
    copy.rename(other / "coffer.db")
    config = host.d.base / "other.toml"
    config.write_text(f'state_directory = "{other}"\n')
    done = subprocess.run([host.d.binary, "--config", config, "--json", "list"], capture_output=True, text=True, timeout=60)
    assert [b["description"] for b in json.loads(done.stdout)] == ["kept"], done.stderr

    assert "resource_backup_creation_succeeded" in host.run("events")
    types = {e["event_type"] for e in host.json("events", "--type", "resource_backup_deletion_succeeded", "-n", 5)}
    assert types == {"resource_backup_deletion_succeeded"}


# ------------------------------------------------------------------ what users get wrong


def test_a_second_instance_of_a_name_needs_force(host):
    host.instance("vm")
    other = host.disk("other.img")
    message = host.run("instance", "add", "vm", "-v", other, code=1)
    assert "already" in message and "--force" in message
    assert len(host.json("instance", "list")) == 1
    host.run("instance", "add", "vm", "-v", other, "--force")
    assert len(host.json("instance", "list")) == 2


def test_a_file_given_like_a_volume_name_is_hinted_at(host):
    (host.d.base / "disk.img").touch()
    assert "./disk.img" in host.run("instance", "add", "vm", "-v", "disk.img", code=1)
    assert "./" not in host.run("instance", "add", "vm", "-v", "absent.img", code=1)


def test_names_must_be_clear(host):
    host.run("project", "add", "second")
    host.disk("a.img"), host.disk("b.img")
    one = host.json("instance", "add", "twin", "-v", host.d.root / "a.img", "-p", "default")
    two = host.json("instance", "add", "twin", "-v", host.d.root / "b.img", "-p", "second")
    message = host.run("instance", "show", "twin", code=1)
    for instance, project in ((one, "default"), (two, "second")):
        assert f"{instance['uuid']}  twin  {project}" in message
    assert host.json("instance", "show", one["uuid"].upper())["uuid"] == one["uuid"]
    dashed = f"{two['uuid'][:8]}-{two['uuid'][8:12]}-{two['uuid'][12:16]}-{two['uuid'][16:20]}-{two['uuid'][20:]}"
    assert host.json("instance", "show", dashed)["uuid"] == two["uuid"]
    assert host.run("backup", "nobody", code=1) == 'error: there is no instance "nobody"\n'
    assert "--project" in host.run("instance", "add", "x", "-v", host.d.root / "a.img", code=1)
    assert "default, second" in host.run("volume", "add", host.d.root / "a.img", code=1)


@pytest.mark.parametrize("arguments", [
    [], ["backup"], ["backup", "a", "b"], ["nonsense"], ["restore", "x"], ["restore", "x", "--to", "a", "--create", "--overwrite"],
    ["restore", "x", "--to", "a", "--new-instance", "b"], ["restore", "x", "--new-instance", "b"], ["instance", "add", "x"],
    ["role", "add", "u", "king"], ["flavor", "add", "f", "--ram", "lots"], ["quota", "set", "storage", "-2"], ["list", "--frobnicate"],
    ["events", "-n", "0"], ["events", "--type", "a&b"], ["completions", "tcsh"], ["schedule", "add", "vm"], ["token", "add", "u", "--lifetime", "-1"],
])
def test_wrong_usage_is_status_2(binary, arguments):
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage" in done.stderr or "invalid value" in done.stderr


def test_a_wrong_configuration_is_told(binary, tmp_path):
    config = tmp_path / "c.toml"
    for text, part in [("colour = 1", "colour"), ("[http]\nlisten = ['x']", "http.listen"), ("[engine]\njobs = 0", "from 1 to 16")]:
        config.write_text(text)
        for command in (["serve"], ["list"]):
            done = subprocess.run([binary, "--config", config, *command], capture_output=True, text=True, timeout=20)
            assert done.returncode == 1 and str(config) in done.stderr and part in done.stderr, done.stderr
    done = subprocess.run([binary, "--config", tmp_path / "none.toml", "list"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "none.toml" in done.stderr


def test_without_a_coffer_nothing_is_made(start_daemon):
    host = Host(start_daemon(start=False))
    assert "there is no coffer" in host.run("list", code=1)
    assert not host.d.coffer.exists()
    made = host.json("init")
    assert made["token"] == host.d.token and (host.d.state_dir / "admin.token").stat().st_mode & 0o777 == 0o600
    assert "already" in host.run("init", code=1)
    assert host.d.token == made["token"]


def test_names_cannot_steer_the_terminal(host):
    host.run("project", "add", "evil\x1b[2Jname")
    shown = host.run("project", "list")
    assert "\x1b" not in shown and "evil" in shown
    assert "\x1b" not in host.run("backup", "no\x1b[2J", code=1)


def test_output_that_nobody_reads_is_no_crash(host):
    reader, writer = os.pipe()
    os.close(reader)
    process = host.start("project", "list", stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=60)
    assert err == "" and process.returncode == 1


# ------------------------------------------------------------------ one writer


def test_there_is_never_a_second_writer(start_daemon):
    daemon = start_daemon()
    host = Host(daemon)
    # A second daemon on the same directory is refused and the first does not notice.
    second = subprocess.run(
        [daemon.binary, "serve", "--config", daemon.config_file], capture_output=True, text=True, timeout=30,
        env={"PATH": os.environ["PATH"], "HOME": str(daemon.base)},
    )
    assert second.returncode == 1 and str(daemon.pid) in second.stderr, second.stderr
    assert daemon.anonymous.get("/healthz").status_code == 200
    assert [p["name"] for p in host.json("project", "list")] == ["default"]
    # With the socket gone a command must not open the file behind the daemon's back.
    (daemon.state_dir / "cofferd.sock").unlink()
    message = host.run("project", "add", "behind", code=1)
    assert "in use" in message and str(daemon.pid) in message
    assert len(daemon.staff.list("/api/projects/")) == 1


def test_the_service_says_whom_it_waits_for(down):
    line = "waiting for process 4711, which has the coffer open"
    lock = open(down.d.state_dir / "coffer.lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.write("4711\n")
    lock.flush()

    def let_go():
        try:
            wait_for(lambda: line in down.d.log(), "the line in the log", 5)
        finally:
            lock.close()

    # The daemon dies with the thread that started it, so the other one lets go.
    holder = threading.Thread(target=let_go)
    holder.start()
    down.d.start()
    holder.join()
    assert down.d.log().count(line) == 1


def test_commands_at_once_take_turns(down):
    def add(n):
        down.run("project", "add", f"project-{n}")

    threads = [threading.Thread(target=add, args=(n,)) for n in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert {p["name"] for p in down.json("project", "list")} == {"default", *(f"project-{n}" for n in range(8))}


def test_commands_survive_a_restart_of_the_daemon(start_daemon):
    host = Host(start_daemon())
    stop = threading.Event()
    failures = []

    def hammer(n):
        count = 0
        while not stop.is_set():
            try:
                host.run("project", "add", f"p{n}-{count}")
            except AssertionError as error:
                failures.append(str(error))
                return
            count += 1

    threads = [threading.Thread(target=hammer, args=(n,)) for n in range(2)]
    [t.start() for t in threads]
    for _ in range(3):
        time.sleep(0.3)
        assert host.d.stop() == 0
        time.sleep(0.2)
        host.d.start()
    stop.set()
    [t.join() for t in threads]
    # A request that the stopping daemon cuts off may be told as such; everything else must work.
    assert all("daemon" in f or "shutting down" in f or "stopping" in f for f in failures), failures


def test_ctrl_c_ends_a_backup_of_its_own_cleanly(down):
    down.instance("vm", 16 * MIB)
    command = [*slow_reads(down.d.root / "vm.img", "600ms"), down.d.binary, "--config", str(down.d.config_file), "backup", "vm"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"], "HOME": str(down.d.base)})
    wait_for(lambda: down.d.sql("SELECT 1 FROM backup WHERE state = 'backing_up'"), "the backup runs", 20)
    child = int(subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()[0])
    os.kill(child, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not down.d.sql("SELECT 1 FROM backup WHERE state = 'backing_up'")
    assert not down.d.sql("SELECT 1 FROM job")
    assert [b["state"] for b in down.json("list")] == ["Erred"]


def on_a_terminal(host, *arguments, answers=()):
    """Runs a command on a terminal of its own; what it showed there, and its exit status."""
    master, slave = pty.openpty()
    process = host.start(*arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    shown, answers = b"", list(answers)
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the last one has closed it
            part = b""
        if not part:
            break
        shown += part
        if answers and shown.endswith(answers[0][0].encode()):
            os.write(master, answers.pop(0)[1].encode() + b"\n")
    os.close(master)
    assert not answers, shown
    return shown.decode(), process.wait(30)


def test_a_terminal_sees_the_progress(start_daemon):
    daemon = start_daemon(start=False)
    daemon.wrapper = slow_reads(daemon.root / "vm.img", "20ms")
    daemon.start()
    host = Host(daemon)
    host.instance("vm", 64 * MIB)
    shown, status = on_a_terminal(host, "backup", "vm")
    assert status == 0
    assert re.search(r"backing up vm .*\d+% .* of 64\.00 MiB, .*/s, ", shown), shown
    shown, _ = on_a_terminal(host, "--json", "backup", "vm")
    assert "%" not in shown and json.loads(shown)["state"] == "Ready"


def test_a_password_is_asked_for_twice_and_not_shown(down):
    down.run("user", "add", "ann")
    twice = [("New password: ", "secret horse 7"), ("Once more: ", "secret horse 7")]
    shown, status = on_a_terminal(down, "user", "passwd", "ann", answers=twice)
    assert status == 0 and "secret" not in shown
    different = [("New password: ", "secret horse 7"), ("Once more: ", "secret horse 8")]
    shown, status = on_a_terminal(down, "user", "passwd", "ann", answers=different)
    assert status == 1 and "differ" in shown and "secret" not in shown


def test_only_root_and_the_daemons_user_need_no_token(start_daemon):
    daemon = start_daemon()
    for directory in (daemon.base, daemon.state_dir):
        directory.chmod(0o755)
    (daemon.state_dir / "cofferd.sock").chmod(0o666)
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--", daemon.binary]
    done = subprocess.run(
        [*command, "--config", daemon.config_file, "project", "list"], capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 1 and "as root or as the user" in done.stderr, done.stdout + done.stderr
    (daemon.state_dir / "cofferd.sock").chmod(0o660)
    done = subprocess.run(
        [*command, "--config", daemon.config_file, "project", "list"], capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 1 and "as root or as the user" in done.stderr, done.stdout + done.stderr


def test_no_wait_returns_at_once_and_the_daemon_goes_on(start_daemon):
    host = Host(start_daemon())
    host.instance("vm", 4 * MIB)
    backup = host.json("backup", "vm", "--no-wait")
    assert backup["state"] == "Backing up"
    wait_for(lambda: host.json("show", backup["uuid"])["state"] == "Ready", "the backup is made")


# ------------------------------------------------------------------ the daemon's end


def test_sigterm_ends_with_0_and_a_second_one_at_once(start_daemon):
    daemon = start_daemon()
    assert daemon.stop() == 0
    assert not (daemon.state_dir / "cofferd.sock").exists()
    assert not (daemon.state_dir / "coffer.db-wal").exists() or (daemon.state_dir / "coffer.db-wal").stat().st_size == 0

    disk = make_raw(daemon.root / "slow.img", 64 * MIB)
    daemon.wrapper = slow_reads(disk, "2s")
    daemon.start()
    host = Host(daemon)
    host.run("instance", "add", "slow", "-v", disk)
    host.run("backup", "slow", "--no-wait")
    wait_for(lambda: host.json("list")[0]["progress"], "the backup runs")
    os.kill(daemon.pid, signal.SIGTERM)
    time.sleep(0.3)
    start = time.monotonic()
    os.kill(daemon.pid, signal.SIGTERM)
    assert daemon.process.wait(10) == 1
    assert time.monotonic() - start < 5
    daemon.kill()
    daemon.wrapper = []
    daemon.start()
    assert host.json("list")[0]["state"] == "Erred"


def test_sigterm_interrupts_what_does_not_end_in_time(start_daemon):
    daemon = start_daemon("shutdown_deadline_s = 1", start=False)
    disk = make_raw(daemon.root / "slow.img", 64 * MIB)
    daemon.wrapper = slow_reads(disk, "400ms")
    daemon.start()
    host = Host(daemon)
    host.run("instance", "add", "slow", "-v", disk)
    host.run("backup", "slow", "--no-wait")
    wait_for(lambda: host.json("list")[0]["progress"], "the backup runs")
    start = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - start < 15
    daemon.wrapper = []
    daemon.start()
    backup, = host.json("list")
    assert backup["state"] == "Erred" and backup["error_message"]


def test_hup_reloads(start_daemon):
    daemon = start_daemon()
    other = daemon.base / "elsewhere"
    other.mkdir()
    make_raw(other / "x.img")
    host = Host(daemon)
    host.run("volume", "add", other / "x.img", code=1)
    daemon.configure(f'[volumes]\nroots = ["{{root}}", "{other}"]')
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: "configuration reloaded" in daemon.log(), "the reload")
    host.run("volume", "add", other / "x.img")
    daemon.config_file.write_text("nonsense = 1\n")
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: "stays as it was" in daemon.log(), "the refusal")
    assert "nonsense" in daemon.log()
    assert daemon.anonymous.get("/healthz").status_code == 200


def test_the_log_has_one_line_a_record_and_a_first_token(start_daemon):
    daemon = start_daemon()
    lines = daemon.log().splitlines()
    assert sum(daemon.token in line for line in lines) == 1
    for line in lines:
        assert daemon.token in line or re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARN) ", line), line
    daemon.restart()
    assert daemon.log().count(daemon.token) == 1


# ------------------------------------------------------------------ the program itself


def test_demo_once(binary, tmp_path):
    done = subprocess.run([binary, "demo", "--once", "--dir", tmp_path / "d"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("identical") >= 2 and "stored" in done.stdout
    assert (tmp_path / "d" / "disk.img").exists()
    again = subprocess.run([binary, "demo", "--once", "--dir", tmp_path / "d"], capture_output=True, text=True, timeout=120)
    assert again.returncode == 1 and "not empty" in again.stderr


def test_demo_stays_up_with_lines_that_work(binary, tmp_path):
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([binary, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        said = ""
        for line in process.stdout:
            said += line
            if " list" in line and "--config" in line:
                break
        assert "URL=" in said, said + process.stderr.read()
        script = said[said.index("URL="):]
        done = subprocess.run(["bash", "-e", "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        for part in ('"Backing up"', "Backup restoration process was started", "Backup deletion was started", "*/5 * * * *"):
            assert part in done.stdout, done.stdout
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "panicked" not in err
    assert not list(tmp_path.glob("cofferd-demo-*"))


@pytest.mark.parametrize("shell", ["bash", "elvish", "fish", "powershell", "zsh"])
def test_completions(binary, shell):
    script = subprocess.run([binary, "completions", shell], capture_output=True, text=True, check=True).stdout
    assert "snapshot" in script and "overwrite" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def commands(binary, *path):
    """All commands the program has, with their subcommands, from its own help."""
    text = subprocess.run([binary, *path, "--help"], capture_output=True, text=True, check=True).stdout
    block = re.search(r"^Commands:\n((?:  .*\n)+)", text, re.M)
    names = re.findall(r"^  (\w+) ", block[1], re.M) if block else []
    found = []
    for name in names:
        if name != "help":
            found.append((*path, name))
            found += commands(binary, *path, name)
    return found


def test_every_command_has_a_manual_page(binary, tmp_path):
    page = subprocess.run([binary, "man"], capture_output=True, text=True, check=True).stdout
    subprocess.run([binary, "man", tmp_path], check=True)
    every = commands(binary)
    assert len(every) > 40
    for command in every:
        if len(command) == 1:
            assert f"cofferd\\-{command[0]}(1)" in page, command
        text = (tmp_path / f"cofferd-{'-'.join(command)}.1").read_text()
        assert ".SH SYNOPSIS" in text
    assert ".SH SYNOPSIS" in page


def test_install_below_a_root(binary, tmp_path):
    for _ in range(2):
        subprocess.run([binary, "install", "--root", tmp_path, "--prefix", "/usr"], check=True, capture_output=True)
        (tmp_path / "etc/cofferd/cofferd.toml").write_text("# mine\n")
    unit = (tmp_path / "usr/lib/systemd/system/cofferd.service").read_text()
    assert "ExecStart=/usr/bin/cofferd serve\n" in unit
    installed = tmp_path / "usr/bin/cofferd"
    assert installed.read_bytes() == binary.read_bytes() and installed.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "etc/cofferd/cofferd.toml").read_text() == "# mine\n"
    assert (tmp_path / "usr/share/man/man1/cofferd-backup.1").exists()
    assert not [p for p in tmp_path.rglob("*") if "new" in p.suffix]
