"""What is stored already is stored once more in another place: backups of snapshots in a repository, and copies of backups."""

import re
import shutil
import subprocess

import pytest

from helpers.api import ok
from helpers.cinder import CinderLab, fill
from helpers.cinder_volumes import content
from helpers.disks import MIB, assert_same_bytes
from helpers.wait import wait_for


REPOSITORY = """
[repositories.{name}]
kind = "directory"
directory = "{directory}"
patience_s = 0
"""


@pytest.fixture
def places(tmp_path):
    """Directories that are repositories, by name; a host that names one finds it there."""
    made = {}

    def place(name):
        if name not in made:
            made[name] = tmp_path / name
            made[name].mkdir()
        return made[name]

    return place


@pytest.fixture
def host(start_daemon, places):
    """Starts hosts that have these repositories, each with more lines of its table: `offsite={"copies": '"all"'}`."""

    def start(*names, **tables):
        config = ""
        for name in [*names, *tables]:
            config += REPOSITORY.format(name=name, directory=places(name))
            config += "".join(f"{key} = {value}\n" for key, value in tables.get(name, {}).items())
        return CinderLab(start_daemon(config))

    return start


def objects(directory, kind):
    """Names of objects; a file that begins with a dot is none, but was being written when a host was killed."""
    return sorted(path.name for path in (directory / kind).glob("[!.]*")) if (directory / kind).exists() else []


# -------------------------------------------------------------------- backups of snapshots


def test_a_backup_of_a_snapshot_in_a_repository_has_what_the_snapshot_has(host, places):
    """Not what the volume has by now."""
    lab = host("offsite")
    volume = lab.filled(extents=((0, 3 * MIB), (500 * MIB, MIB)))
    before = content(lab.path(volume))
    snapshot = lab.admin.snapshot(volume)
    fill(lab.path(volume), ((MIB, MIB), (700 * MIB, MIB)))
    backup = lab.admin.backup(volume, snapshot_id=snapshot["id"], container="offsite")
    assert (backup["container"], backup["snapshot_id"], backup["object_count"]) == ("offsite", snapshot["id"], 1)
    assert len(objects(places("offsite"), "packs")) == len(objects(places("offsite"), "backups")) == 1
    # It needs nothing of the snapshot or of the volume.
    assert lab.d.sql("SELECT count(*) FROM volume_map") == [(2,)]
    ok(lab.admin.delete(f"/snapshots/{snapshot['id']}"), 202)
    restored = lab.admin.restore(backup)
    assert content(lab.path(restored)) == before
    # And what is there is not sent again.
    packs = objects(places("offsite"), "packs")
    again = lab.admin.snapshot(restored)
    assert lab.admin.backup(restored, snapshot_id=again["id"], container="offsite")["object_count"] == 0
    assert objects(places("offsite"), "packs") == packs


def test_a_snapshot_may_go_before_its_backup_is_made(host, places):
    """What it has is kept for as long as the backup is promised, and no longer."""
    lab = host("offsite")
    volume = lab.filled(extents=((0, MIB),))
    before = content(lab.path(volume))
    snapshot = lab.admin.snapshot(volume)
    # The repository belongs to nobody yet, so that the first backup fails at once and the map must go all the same.
    shutil.rmtree(places("offsite"))
    lost = lab.admin.create(volume, snapshot_id=snapshot["id"], container="offsite")
    lab.admin.wait(lost, "error")
    places("offsite").mkdir()
    backup = lab.admin.create(volume, snapshot_id=snapshot["id"], container="offsite")
    ok(lab.admin.delete(f"/snapshots/{snapshot['id']}"), 202)
    backup = lab.admin.wait(backup)
    restored = lab.admin.restore(backup)
    assert content(lab.path(restored)) == before
    lab.admin.remove(backup)
    lab.admin.remove(lost)
    assert lab.d.sql("SELECT count(*) FROM volume_map") == [(0,)]
    lab.gc()
    assert lab.stored() == 0 and objects(places("offsite"), "packs") == []


# -------------------------------------------------------------------- copies of backups


def replicate(lab, to, *backups, state="done"):
    """The result of a task that copies these backups, or all."""
    order = {"to": to} | ({"backups": [backup["uuid"] for backup in backups]} if backups else {})
    number = ok(lab.api.post("/ops/replicate/", order), 202)["task"]
    task = wait_for(lambda: (t := ok(lab.api.get(f"/ops/tasks/{number}/")))["state"] != "running" and t, "the copies are made", 60)
    assert task["state"] == state, task
    return task["result"]


def wait_copies(lab, count=1, state="ready", **params):
    """The copies, when there are so many and all are in this state."""
    def look():
        found = lab.api.list("/ops/copies/", **params)
        return len(found) == count and all(copy["state"] == state for copy in found) and (found or True)

    return wait_for(look, f"{count} copies are {state}", 60)


def attach(lab, name):
    number = ok(lab.api.post(f"/ops/repositories/{name}/attach/"), 202)["task"]
    task = wait_for(lambda: (t := ok(lab.api.get(f"/ops/tasks/{number}/")))["state"] != "running" and t, f"{name} is attached", 60)
    assert task["state"] == "done", task
    return task["result"]


def restore_to(lab, backup, name, position=0):
    """The file that one volume of the backup was restored to."""
    path = lab.d.root / name
    order = {"backup": backup["uuid"], "position": position, "path": str(path), "mode": "create"}
    number = ok(lab.api.post("/ops/restores/", order), 202)["task"]
    task = wait_for(lambda: (t := ok(lab.api.get(f"/ops/tasks/{number}/")))["state"] != "running" and t, "the restore ends", 60)
    assert task["state"] == "done", task
    return path


def lose_packs(directory):
    for path in (directory / "packs").iterdir():
        path.unlink()


def test_the_copy_restores_everything_on_a_bare_host(host, places):
    lab = host("offsite")
    machine = lab.instance([6 * MIB, 3 * MIB])
    disks = lab.volume_files(machine)
    first = lab.backup(machine, description="monday")
    before = [shutil.copy(disk, disk.with_suffix(".monday")) for disk in disks]
    fill(disks[0], ((2 * MIB, MIB),))
    second = lab.backup(machine, description="tuesday")
    used = lab.quota("storage")["usage"]
    result = replicate(lab, "offsite")
    assert (result["copied"], result["failed"]) == (2, [])
    assert result["stored_bytes"] > 4 * MIB
    assert lab.quota("storage")["usage"] == used, "copies cost no quota"
    assert lab.get(second)["copies"] == [{"repository": "offsite", "state": "ready", "error_message": ""}]
    assert (lab.get(second)["repository"], lab.get(second)["state"]) == ("coffer", "Ready")
    assert replicate(lab, "offsite", first)["stored_bytes"] == 0, "all of it is there"
    # The host is lost with all that it has.
    keep = lab.d.base.parent / f"{lab.d.base.name}-kept"
    keep.mkdir()
    kept = [shutil.copy(path, keep) for path in (*before, *disks)]
    lab.d.close()
    try:
        other = host("offsite")
        assert attach(other, "offsite")["added"] == 2
        found = {b["description"]: b for b in other.api.list("/api/openstack-backups/")}
        assert {b["repository"] for b in found.values()} == {"offsite"}
        for name, files in (("monday", kept[:2]), ("tuesday", kept[2:])):
            for position, file in enumerate(files):
                assert_same_bytes(restore_to(other, found[name], f"{name}{position}.img", position), file)
    finally:
        shutil.rmtree(keep)


def test_one_line_of_configuration_keeps_copies_of_all(host, places):
    lab = host("plain", offsite={"copies": '"all"'})
    machine = lab.instance([3 * MIB])
    here, there = lab.backup(machine), lab.backup(machine, repository="plain")
    volume = lab.filled(extents=((0, MIB),))
    snapshot = lab.admin.snapshot(volume)
    lab.admin.backup(volume, snapshot_id=snapshot["id"])
    in_it = lab.backup(machine, repository="offsite")
    copies = wait_copies(lab, 3)
    assert {copy["repository"] for copy in copies} == {"offsite"} and all(copy["automatic"] for copy in copies)
    assert lab.get(in_it)["copies"] == [], "it lies there already"
    assert len(objects(places("offsite"), "backups")) == 4
    assert "resource_backup_copy_succeeded" in lab.event_types(here)
    # A copy goes with its backup, and only what nothing else needs.
    for backup in (here, there):
        ok(lab.api.delete(backup["url"]), 202)
        lab.wait_gone(backup["url"])
    lab.gc()
    assert len(objects(places("offsite"), "backups")) == 2
    assert_same_bytes(restore_to(lab, in_it, "restored.img"), lab.volume_files(machine)[0])


@pytest.mark.parametrize("rule, wanted", [('"scheduled"', ["scheduled"]), ('["coffer"]', ["by hand", "scheduled"]), ('["plain"]', ["elsewhere"])])
def test_the_line_may_name_which(host, places, rule, wanted):
    lab = host("plain", offsite={"copies": rule})
    machine = lab.instance([MIB])
    made = {"by hand": lab.backup(machine), "elsewhere": lab.backup(machine, repository="plain"), "scheduled": lab.backup(machine)}
    schedule = lab.schedule(machine)
    # As the timer would have made it; what was there before the line is copied at the next start.
    lab.link(made["scheduled"], schedule)
    lab.d.sql("UPDATE backup SET trigger_at = created_at WHERE uuid = ?", (made["scheduled"]["uuid"],))
    lab.d.restart()
    found = wait_copies(lab, len(wanted))
    assert sorted(copy["backup"] for copy in found) == sorted(made[name]["uuid"] for name in wanted)


def test_what_cannot_be_copied_now_is_copied_later(host, places):
    """The repository is out of reach: the backup stays Ready, and one event tells of it."""
    lab = host(offsite={"copies": '"all"'})
    machine = lab.instance([2 * MIB])
    away = places("offsite").rename(places("offsite").with_name("away"))
    first, second = lab.backup(machine), lab.backup(machine)
    found = wait_copies(lab, 2, "failed")
    assert all(copy["next_try"] and "offsite" in copy["error_message"] for copy in found), found
    assert [lab.get(b)["state"] for b in (first, second)] == ["Ready", "Ready"]
    told = [lab.event_types(b).count("resource_backup_copy_failed") for b in (first, second)]
    assert told[0] == 1
    lab.d.restart(kill=True)
    wait_copies(lab, 2, "failed")
    assert [lab.event_types(b).count("resource_backup_copy_failed") for b in (first, second)] == told, "it is not told again and again"
    away.rename(places("offsite"))
    lab.d.restart()
    wait_copies(lab, 2, "ready")
    assert len(objects(places("offsite"), "backups")) == 2


def test_a_copy_that_was_killed_goes_on_and_sends_nothing_twice(host, places):
    lab = host(offsite={"copies": '"all"', "upload_bytes_per_second": 16 * MIB})
    disk = lab.disk(160 * MIB)
    backup = lab.backup(lab.instance([disk]))
    sent = "SELECT object FROM pack_toc WHERE repository <> 0 AND NOT staged"
    before = wait_for(lambda: (rows := lab.d.sql(sent)) and len(rows) >= 3 and rows, "some packs are there", interval=0.01)
    lab.d.kill()
    assert lab.d.sql("SELECT count(*) FROM copy_volume") == [(0,)], "it was too fast for this test"
    lab.d.start()
    wait_copies(lab)
    after = lab.d.sql(sent)
    assert set(before) < set(after)
    # Those that were being sent when it was killed may be there once more, under names that nobody knows.
    lab.gc()
    assert objects(places("offsite"), "packs") == sorted(name.removeprefix("packs/") for name, in after)
    assert sum((places("offsite") / name).stat().st_size for name, in after) < 90 * MIB, "half of the disk is holes"
    lab.d.sql("UPDATE pack SET data = zeroblob(length(data)) WHERE id IN (SELECT id FROM pack_toc WHERE repository = 0)")
    assert_same_bytes(restore_to(lab, backup, "restored.img"), disk)


def test_a_backup_may_go_while_it_is_copied(host, places):
    lab = host(offsite={"copies": '"all"', "upload_bytes_per_second": 4 * MIB})
    machine = lab.instance([60 * MIB])
    backup = lab.backup(machine)
    wait_copies(lab, 1, "copying")
    ok(lab.api.delete(backup["url"]), 202)
    lab.wait_gone(backup["url"])
    wait_copies(lab, 0)
    # The next one is not held up by it.
    small = lab.instance([MIB])
    lab.backup(small)
    wait_copies(lab, 1)
    lab.gc()
    assert len(objects(places("offsite"), "backups")) == 1
    assert sum(path.stat().st_size for path in (places("offsite") / "packs").iterdir()) < 2 * MIB
    assert "panicked" not in lab.d.log()


def test_a_restore_takes_the_copy_where_the_first_place_fails_and_mends_it(host, places):
    lab = host("first", offsite={"copies": '["first"]'})
    disk = lab.disk(20 * MIB)
    machine = lab.instance([disk])
    backup = lab.backup(machine, repository="first")
    wait_copies(lab)
    lose_packs(places("first"))
    lab.d.restart()
    assert_same_bytes(restore_to(lab, backup, "restored.img"), disk)
    assert "resource_backup_copy_used" in lab.event_types(backup)
    wait_for(lambda: "resource_backup_healed" in lab.event_types(backup), "it is mended")
    assert lab.get(backup)["state"] == "Ready"
    # From now on it does without the copy.
    shutil.rmtree(places("offsite"))
    lab.d.restart()
    assert_same_bytes(restore_to(lab, backup, "again.img"), disk)


def test_a_check_finds_damage_and_the_copy_mends_it(host, places):
    lab = host(offsite={"copies": '"all"'})
    disk = lab.disk(20 * MIB)
    backup = lab.backup(lab.instance([disk]))
    wait_copies(lab)
    lab.d.sql("UPDATE pack SET data = zeroblob(length(data)) WHERE id IN (SELECT id FROM pack_toc WHERE repository = 0)")
    number = ok(lab.api.post("/ops/check/"), 202)["task"]
    task = wait_for(lambda: (t := ok(lab.api.get(f"/ops/tasks/{number}/")))["state"] != "running" and t, "the check ends", 60)
    assert task["result"]["backups"] == [backup["uuid"]]
    wait_for(lambda: lab.get(backup)["state"] == "Ready", "it is mended")
    assert lab.event_types(backup).count("resource_backup_healed") == 1
    shutil.rmtree(places("offsite"))
    assert_same_bytes(restore_to(lab, backup, "restored.img"), disk)


def test_a_place_that_the_configuration_names_no_more_keeps_its_copies(host, places):
    lab = host(offsite={"copies": '"all"'})
    machine = lab.instance([2 * MIB])
    backup = lab.backup(machine)
    wait_copies(lab)
    config = lab.d.config_file.read_text()
    lab.d.configure()
    lab.d.restart()
    late = lab.backup(machine)
    assert lab.get(late)["copies"] == [] and lab.get(backup)["copies"][0]["state"] == "ready"
    refused = ok(lab.api.post("/ops/replicate/", {"to": "offsite"}), 400)
    assert "no repository" in refused["to"][0]
    # What is deleted meanwhile leaves it when it is back.
    ok(lab.api.delete(backup["url"]), 202)
    lab.wait_gone(backup["url"])
    lab.gc()
    assert len(objects(places("offsite"), "backups")) == 1
    lab.d.config_file.write_text(config)
    lab.d.restart()
    (copy,) = wait_copies(lab)
    assert copy["backup"] == late["uuid"]
    lab.gc()
    (manifest,) = objects(places("offsite"), "backups")
    assert manifest.startswith(late["uuid"])


def test_a_place_that_another_host_has_taken_gets_no_copies(host, places):
    lab = host(offsite={"copies": '"all"'})
    machine = lab.instance([2 * MIB])
    first = lab.backup(machine)
    wait_copies(lab)
    other = host("offsite")
    assert attach(other, "offsite")["added"] == 1
    second = lab.backup(machine)
    wait_for(lambda: lab.get(second)["copies"][0]["state"] == "failed", "the copy fails")
    assert "taken over by another coffer" in lab.get(second)["copies"][0]["error_message"]
    assert (lab.get(second)["state"], lab.get(first)["copies"][0]["state"]) == ("Ready", "ready")
    # Nor does the deletion here touch what the other has.
    ok(lab.api.delete(first["url"]), 202)
    lab.wait_gone(first["url"])
    number = ok(lab.api.post("/ops/gc/", {"dead_fraction": 0}), 202)["task"]
    wait_for(lambda: ok(lab.api.get(f"/ops/tasks/{number}/"))["state"] != "running", "the clearing up ends", 60)
    assert_same_bytes(restore_to(other, first, "restored.img"), lab.volume_files(machine)[0])


def test_a_host_that_attaches_both_places_knows_the_copy(host, places):
    """Else clearing up would take the copy for something that a crash has left."""
    lab = host("first", "second")
    machine = lab.instance([3 * MIB])
    disk = lab.volume_files(machine)[0]
    backup = lab.backup(machine, repository="first")
    replicate(lab, "second")
    kept = places("kept") / "disk"
    shutil.copy(disk, kept)
    lab.d.close()
    other = host("first", "second")
    assert [attach(other, name)["added"] for name in ("first", "second")] == [1, 0]
    assert other.get(backup["url"])["copies"] == [{"repository": "second", "state": "ready", "error_message": ""}]
    assert attach(other, "second")["known"] == 1
    other.gc()
    assert len(objects(places("second"), "packs")) == 1
    lose_packs(places("first"))
    other.d.restart()
    assert_same_bytes(restore_to(other, backup, "restored.img"), kept)


def test_a_backup_in_a_repository_is_copied_into_the_coffer(host, places):
    lab = host("offsite")
    machine = lab.instance([3 * MIB])
    backup = lab.backup(machine, repository="offsite")
    assert replicate(lab, "coffer", backup)["copied"] == 1
    shutil.rmtree(places("offsite"))
    lab.d.restart()
    assert_same_bytes(restore_to(lab, backup, "restored.img"), lab.volume_files(machine)[0])
    assert lab.get(backup)["state"] == "Ready"


def test_what_cannot_be_copied_is_refused(host, places):
    lab = host("offsite")
    machine = lab.instance([MIB])
    backup = lab.backup(machine, repository="offsite")
    volume = lab.filled(extents=((0, MIB),))
    snapshot = lab.admin.snapshot(volume)
    post = lambda **order: lab.api.post("/ops/replicate/", order)
    assert "lies in offsite already" in ok(post(to="offsite", backups=[backup["uuid"]]), 409)["detail"]
    assert "is a snapshot" in ok(post(to="offsite", backups=[snapshot["id"]]), 409)["detail"]
    assert ok(post(to="nowhere"), 400) == {"to": ['There is no repository "nowhere" in the configuration.']}
    assert ok(post(to="offsite", backups="all"), 400) == {"backups": ["A list of uuids is required."]}
    assert ok(post(to="offsite", backups=["0" * 32]), 400)
    assert ok(post(), 400)["to"] == ["This field is required."]
    member = lab.user("admin")
    ok(member.post("/ops/replicate/", {"to": "offsite"}), 403)
    ok(member.get("/ops/copies/"), 403)


@pytest.mark.parametrize("rule, told", [
    ('"most"', 'expected "all", "scheduled" or a list of places'), ("7", 'expected "all", "scheduled" or a list of places'),
    ('["offsite"]', "expected other places"), ('["nowhere"]', "expected other places"),
])
def test_a_wrong_line_is_refused_at_once(binary, places, tmp_path, rule, told):
    config = tmp_path / "cofferd.toml"
    config.write_text(REPOSITORY.format(name="offsite", directory=places("offsite")) + f"copies = {rule}\n")
    ended = subprocess.run([binary, "serve", "--config", config], capture_output=True, text=True, timeout=30)
    assert ended.returncode != 0 and told in ended.stderr, ended.stderr


def test_the_command_copies_and_shows_what_it_has_copied(host, places, binary):
    lab = host("offsite")
    backup = lab.backup(lab.instance([2 * MIB]), description="nightly")

    def run(*args):
        ended = subprocess.run([binary, "--config", lab.d.config_file, *args], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert re.match(r"1 of these backups are in offsite, [\d.]+ [KM]iB were sent", run("replicate", "nightly", "--to", "offsite"))
    line = run("replicate", "--list").splitlines()[1].split()
    assert line[:3] == [backup["uuid"], "offsite", "ready"]
    assert "offsite" in run("show", "nightly")
    # Without a daemon too: the command opens the coffer itself.
    lab.d.stop()
    assert run("replicate", "--to", "offsite").startswith("1 of these backups are in offsite, 0 B")
    lab.d.start()
