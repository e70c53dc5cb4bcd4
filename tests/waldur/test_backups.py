"""Backups over HTTP: the cases B1 to B22 that are about making, showing, listing and deleting, and their representation."""

import os

import pytest

from helpers.api import DENIED, HEX32, NOT_FOUND, TIMESTAMP, local, ok
from helpers.daemon import slow_reads
from helpers.disks import MIB
from helpers.lab import BACKUP, BACKUPS, INSTANCES, SCHEDULES, Lab, parse_time
from helpers.wait import wait_for

STATES = {"ready": "Ready", "backing_up": "Backing up", "restoring": "Restoring", "deleting": "Deleting", "erred": "Erred"}

FIELDS = {
    "url", "uuid", "description", "created_at", "kept_until", "instance", "instance_name", "state", "backup_schedule", "metadata",
    "error_message", "size", "stored_size", "finished_at", "restorations", "project", "project_uuid", "project_name",
    "instance_uuid", "backup_schedule_uuid", "progress",
}


@pytest.fixture
def slow(start_daemon):
    """A daemon that reads the disk `slow.img` so slowly that a backup of it lasts some seconds, and a machine on it."""
    daemon = start_daemon(start=False)
    daemon.wrapper = slow_reads(daemon.root / "slow.img", "1s")
    daemon.start()
    lab = Lab(daemon)
    lab.vm = lab.instance([lab.disk(4 * MIB, name="slow.img")])
    return lab


# -------------------------------------------------------------------- making


def test_B1_staff_backs_up_an_offline_instance(lab):
    vm = lab.instance()
    assert vm["state"] == "Offline"
    answer = lab.api.post(BACKUPS, {"instance": vm["url"], "description": "a new manual backup"})
    body = ok(answer, 201)
    assert body["state"] == "Backing up"
    assert answer.headers["Location"] == body["url"]
    assert lab.d.sql("SELECT count(*) FROM backup WHERE uuid = ?", (body["uuid"],)) == [(1,)]
    ready = lab.wait_state(body["url"], "Ready")
    assert ready["description"] == "a new manual backup"


def test_B1_online_instance_too(lab):
    vm = lab.instance()
    ok(lab.api.post(vm["url"] + "start/"), 202)
    lab.wait_state(vm["url"], "Online")
    lab.backup(vm)
    assert lab.get(vm)["state"] == "Online"  # a backup does not touch the machine


def test_B1_at_the_singular_path(lab):
    vm = lab.instance()
    body = ok(lab.api.post(BACKUP, {"instance": vm["url"]}), 201)
    assert local(body["url"]).startswith(BACKUPS)  # links are always plural
    assert lab.wait_state(f"{BACKUP}{body['uuid']}/", "Ready")["url"] == body["url"]


def test_representation(lab):
    vm = lab.instance([MIB, 2 * MIB], name="web1")
    backup = lab.backup(vm, description="before upgrade")
    assert FIELDS <= set(backup), FIELDS - set(backup)
    assert HEX32.match(backup["uuid"])
    assert backup["url"] == f"{lab.d.url}{BACKUPS}{backup['uuid']}/"
    assert backup["instance"] == vm["url"] and backup["instance_uuid"] == vm["uuid"]
    assert backup["instance_name"] == "web1"
    assert backup["description"] == "before upgrade"
    assert backup["state"] == "Ready"
    assert backup["kept_until"] is None
    assert backup["backup_schedule"] is None and backup["backup_schedule_uuid"] is None
    assert backup["error_message"] == ""
    assert backup["size"] == 3 and isinstance(backup["size"], int)
    assert isinstance(backup["stored_size"], (int, float)) and backup["stored_size"] >= 0
    assert backup["restorations"] == []
    assert backup["project"] == lab.project["url"]
    assert backup["project_uuid"] == lab.project["uuid"] and backup["project_name"] == lab.project["name"]
    assert TIMESTAMP.match(backup["created_at"]) and TIMESTAMP.match(backup["finished_at"])
    assert parse_time(backup["created_at"]) <= parse_time(backup["finished_at"])
    assert isinstance(backup["metadata"], dict)
    assert lab.api.list(BACKUPS, uuid=backup["uuid"]) == [backup]  # the list shows the same


def test_representation_right_after_the_request(slow):
    body = slow.start_backup(slow.vm)
    assert FIELDS <= set(body)
    assert body["state"] == "Backing up"
    assert body["size"] == 4
    assert body["finished_at"] is None
    assert body["error_message"] == ""
    assert body["description"] == ""


def test_instance_name_is_the_current_one(lab):
    vm = lab.instance(name="old-name")
    backup = lab.backup(vm)
    ok(lab.api.patch(vm["url"], {"name": "new-name"}))
    assert lab.get(backup)["instance_name"] == "new-name"
    assert lab.get(backup)["metadata"]["name"] == "old-name"


def test_description_bounds(lab):
    vm = lab.instance()
    for text in ("", "x" * 500, "é" * 500, "🦀" * 500):
        assert lab.start_backup(vm, description=text)["description"] == text
    for body, message in [
        ({"description": "x" * 501}, "Ensure this field has no more than 500 characters."),
        ({"description": None}, "This field may not be null."),
    ]:
        before = len(lab.backups_of(vm))
        assert ok(lab.api.post(BACKUPS, {"instance": vm["url"], **body}), 400) == {"description": [message]}
        assert len(lab.backups_of(vm)) == before


def test_instance_is_required(lab):
    assert ok(lab.api.post(BACKUPS, {}), 400) == {"instance": ["This field is required."]}
    assert ok(lab.api.post(BACKUPS, {"description": "x"}), 400) == {"instance": ["This field is required."]}


def test_B2_random_url_is_400(lab):
    before = lab.d.sql("SELECT count(*) FROM backup")
    answer = ok(lab.api.post(BACKUPS, {"instance": "some_random_url"}), 400)
    assert answer == {"instance": ["Invalid hyperlink - No URL match."]}
    assert lab.d.sql("SELECT count(*) FROM backup") == before


@pytest.mark.parametrize("state", [
    "resizing", "erred", "provisioning", "starting", "deletion_scheduled", "stopping_scheduled", "restarting",
])
def test_B3_unstable_instance_is_409(lab, state):
    vm = lab.instance()
    lab.set_instance_state(vm, state)
    answer = ok(lab.api.post(BACKUPS, {"instance": vm["url"]}), 409)
    assert answer == {"detail": "Instance should be in stable state."}
    assert lab.backups_of(vm) == []
    lab.set_instance_state(vm, "offline")
    lab.backup(vm)


# -------------------------------------------------------------------- deleting


@pytest.mark.parametrize("collection", [BACKUPS, BACKUP])
def test_B5_post_delete_of_ready_is_200(lab, collection):
    backup = lab.backup(lab.instance())
    assert ok(lab.api.post(f"{collection}{backup['uuid']}/delete/")) == {"status": "Backup deletion was started"}
    seen = lab.api.get(backup["url"])
    assert seen.status_code == 404 or seen.json()["state"] == "Deleting"
    lab.wait_gone(backup["url"])
    assert ok(lab.api.get(f"{collection}{backup['uuid']}/"), 404) == NOT_FOUND
    assert lab.d.sql("SELECT count(*) FROM backup WHERE uuid = ?", (backup["uuid"],)) == [(0,)]


@pytest.mark.parametrize("collection", [BACKUPS, BACKUP])
def test_B5_delete_method_is_202(lab, collection):
    backup = lab.backup(lab.instance())
    assert ok(lab.api.delete(f"{collection}{backup['uuid']}/"), 202) == {"detail": "Deletion was scheduled."}
    lab.wait_gone(backup["url"])


def test_erred_backup_can_be_deleted(lab):
    for way in (lambda b: ok(lab.api.post(b["url"] + "delete/")), lambda b: ok(lab.api.delete(b["url"]), 202)):
        backup = lab.backup(lab.instance())
        lab.force_backup(backup, "erred")
        way(backup)
        lab.wait_gone(backup["url"])


def test_deleting_one_backup_leaves_the_others_whole(lab):
    """The second backup of an unchanged disk shares all its data with the first."""
    from helpers.disks import assert_same_bytes
    disk = lab.disk(4 * MIB)
    vm = lab.instance([disk])
    first, second = lab.backup(vm), lab.backup(vm)
    ok(lab.api.post(first["url"] + "delete/"))
    lab.wait_gone(first["url"])
    copy = lab.restore(second)
    assert_same_bytes(disk, lab.volume_files(copy)[0])


# -------------------------------------------------------------------- the state decides


@pytest.mark.parametrize("collection", [BACKUPS, BACKUP])
@pytest.mark.parametrize("action", ["restore", "delete"])
@pytest.mark.parametrize("state", ["backing_up", "restoring", "deleting", "erred"])
def test_47_409_names_the_state(lab, state, action, collection):
    backup = lab.backup(lab.instance())
    lab.force_backup(backup, state)
    path = f"{collection}{backup['uuid']}/{action}/"
    if (state, action) == ("erred", "delete"):
        ok(lab.api.post(path))
        return lab.wait_gone(backup["url"])
    for body in (None, {}, {"image": "x"}, {"flavor": 5, "name": ""}):
        answer = ok(lab.api.post(path, body), 409)
        assert answer == {"detail": f"Cannot {action} a backup in state '{STATES[state]}'"}
    assert lab.get(backup)["state"] == STATES[state]
    lab.force_backup(backup, "ready")
    return None


@pytest.mark.parametrize("state", ["backing_up", "restoring", "deleting"])
def test_delete_method_obeys_the_state_too(lab, state):
    backup = lab.backup(lab.instance())
    lab.force_backup(backup, state)
    answer = ok(lab.api.delete(backup["url"]), 409)
    assert answer == {"detail": f"Cannot delete a backup in state '{STATES[state]}'"}
    lab.force_backup(backup, "ready")


def test_409_while_really_backing_up(slow):
    backup = slow.start_backup(slow.vm)
    for action in ("restore", "delete"):
        answer = ok(slow.api.post(f"{BACKUP}{backup['uuid']}/{action}/", {}), 409)
        assert answer == {"detail": f"Cannot {action} a backup in state 'Backing up'"}
    assert ok(slow.api.patch(backup["url"], {"description": "x"}), 409) == {"detail": "Modification allowed in stable states only."}
    slow.wait_state(backup["url"], "Ready")


def test_B17_one_job_each(slow):
    backup = slow.start_backup(slow.vm)

    def jobs():
        return slow.d.sql(
            "SELECT kind FROM job WHERE backup_id = (SELECT id FROM backup WHERE uuid = ?)", (backup["uuid"],)
        )

    assert jobs() == [("create",)]
    assert slow.get(backup)["state"] == "Backing up"
    slow.wait_state(backup["url"], "Ready")
    wait_for(lambda: jobs() == [], "the job's row goes with its end")


def test_B17_restore_and_delete_change_the_state_at_once(lab):
    """E0: Restoring and Deleting are there right after the answer. With a fast disk they may be over already."""
    backup = lab.backup(lab.instance([8 * MIB]))
    lab.restore(backup, wait=None)
    assert lab.get(backup)["state"] in ("Restoring", "Ready")
    lab.wait_state(backup["url"], "Ready")
    restorations = lab.get(backup)["restorations"]
    assert len(restorations) == 1
    ok(lab.api.post(backup["url"] + "delete/"))
    answer = lab.api.get(backup["url"])
    assert answer.status_code == 404 or answer.json()["state"] == "Deleting"


def test_progress_while_backing_up(slow):
    backup = slow.start_backup(slow.vm)
    progress = wait_for(lambda: slow.get(backup)["progress"], "progress is shown while backing up")
    assert progress is not None
    slow.wait_state(backup["url"], "Ready")


def test_several_backups_of_one_instance_at_once(slow):
    """They are queued, not refused."""
    backups = [slow.start_backup(slow.vm) for _ in range(3)]
    assert [slow.get(b)["state"] for b in backups] == ["Backing up"] * 3
    for backup in backups:
        slow.wait_state(backup["url"], "Ready", 90)


# -------------------------------------------------------------------- listing


def test_B6_list_in_creation_order_without_deleted_ones(own):
    vm = own.instance()
    first, gone, second = own.backup(vm), own.backup(vm), own.backup(vm)
    ok(own.api.post(gone["url"] + "delete/"))
    own.wait_gone(gone["url"])
    assert [b["uuid"] for b in own.api.list(BACKUPS)] == [first["uuid"], second["uuid"]]
    assert [b["uuid"] for b in own.api.list(BACKUP)] == [first["uuid"], second["uuid"]]
    assert own.user().list(BACKUPS) == []


def test_B8_filter_by_instance(own):
    one, two = own.instance(), own.instance()
    made = [own.backup(one), own.backup(two), own.backup(one)]
    found = own.api.list(BACKUPS, instance=one["url"])
    assert [b["uuid"] for b in found] == [made[0]["uuid"], made[2]["uuid"]]
    assert [b["instance"] for b in found] == [one["url"]] * 2


def test_no_state_outside_the_five_is_ever_shown(own):
    """Whatever is polled while backups come and go, the state is one of the five."""
    vm = own.instance([2 * MIB])
    seen = set()
    for _ in range(3):
        backup = own.start_backup(vm)
        while True:
            answer = own.api.get(backup["url"])
            seen.add(answer.json()["state"])
            if answer.json()["state"] == "Ready":
                break
        ok(own.api.post(backup["url"] + "delete/"))
        while (answer := own.api.get(backup["url"])).status_code == 200:
            seen.add(answer.json()["state"])
    assert seen <= set(STATES.values())
    assert "Backing up" in seen or "Ready" in seen


# -------------------------------------------------------------------- what is stored


@pytest.mark.parametrize("count", [1, 2, 3])
def test_B10_as_many_stored_volumes_as_the_instance_has(lab, count):
    sizes = [MIB * (n + 1) for n in range(count)]
    backup = lab.backup(lab.instance(sizes))
    rows = lab.d.sql(
        "SELECT size, bootable FROM volume_backup WHERE backup_id = (SELECT id FROM backup WHERE uuid = ?) ORDER BY position",
        (backup["uuid"],),
    )
    assert [size for size, _ in rows] == sizes
    assert [bootable for _, bootable in rows] == [1] + [0] * (count - 1)
    assert backup["size"] == sum(sizes) // MIB


def test_B13_metadata_is_the_recorded_instance(lab):
    flavor, image = lab.flavor(cores=2, ram=1024), lab.image(min_ram=256, min_disk=1)
    vm = lab.instance(
        [MIB, 2 * MIB], name="db1", description="the database", tags=["prod", "db"], key_name="ops",
        key_fingerprint="aa:bb:cc", user_data="#cloud-config\n", flavor=flavor["url"], image=image["url"],
    )
    metadata = lab.backup(vm)["metadata"]
    for key, value in {
        "name": "db1", "description": "the database", "tags": ["prod", "db"], "key_name": "ops", "key_fingerprint": "aa:bb:cc",
        "user_data": "#cloud-config\n", "flavor_name": flavor["name"], "image_name": image["name"], "min_ram": 256, "min_disk": 1,
    }.items():
        assert metadata[key] == value, key
    volumes = metadata["volumes"]
    assert [v["size"] for v in volumes] == [1, 2]
    assert [v["bootable"] for v in volumes] == [True, False]
    wanted = [v["uuid"] for v in lab.get(vm)["volumes"]]
    assert [v["uuid"] for v in volumes] == wanted


def test_metadata_shows_no_host_paths_to_users(lab):
    vm = lab.instance(user_data="#cloud-config secret")
    backup = lab.backup(vm)
    for role in ("admin", "manager", "reader"):
        user = lab.user(role)
        for path in (backup["url"], BACKUPS, vm["url"], INSTANCES, SCHEDULES):
            assert str(lab.d.root) not in user.get(path).text
            assert str(lab.d.state_dir) not in user.get(path).text


def test_error_message_shows_no_host_paths_to_users(lab):
    disk = lab.disk()
    vm = lab.instance([disk])
    disk.unlink()
    backup = lab.wait_state(lab.start_backup(vm)["url"], "Erred")
    assert backup["error_message"]
    assert str(lab.d.root) not in lab.user("reader").get(backup["url"]).text


# -------------------------------------------------------------------- deleting machines with backups


def test_B15_instance_with_a_backup_is_not_deleted(lab):
    vm = lab.instance()
    backup = lab.backup(vm)
    assert ok(lab.api.delete(vm["url"]), 409) == {"detail": "Cannot delete instance that has backups."}
    assert lab.get(vm)["state"] == "Offline"
    assert lab.get(backup)["state"] == "Ready"
    ok(lab.api.post(backup["url"] + "delete/"))
    lab.wait_gone(backup["url"])
    assert ok(lab.api.delete(vm["url"]), 202) == {"status": "destroy was scheduled"}
    lab.wait_gone(vm["url"])


def test_B15_an_erred_backup_counts_too(lab):
    vm = lab.instance()
    lab.force_backup(lab.backup(vm), "erred")
    ok(lab.api.delete(vm["url"]), 409)


def test_B16_instance_with_only_a_schedule_is_deleted(lab):
    vm = lab.instance()
    schedule = lab.schedule(vm, is_active=True)
    ok(lab.api.delete(vm["url"]), 202)
    lab.wait_gone(vm["url"])
    assert ok(lab.api.get(schedule["url"]), 404) == NOT_FOUND


def test_B19_source_without_a_bootable_volume_is_400(lab):
    vm = lab.instance()
    lab.d.sql(
        "UPDATE instance_volume SET bootable = 0 WHERE instance_id = (SELECT id FROM instance WHERE uuid = ?)", (vm["uuid"],)
    )
    ok(lab.api.post(BACKUPS, {"instance": vm["url"]}), 400)
    assert lab.backups_of(vm) == []


# -------------------------------------------------------------------- permissions (see test_permissions.py for the rest)


def test_B7_permission_sweep(lab):
    vm = lab.instance()
    backup = lab.backup(vm)
    for user in (lab.api, lab.user("admin"), lab.user("owner"), lab.user("manager")):
        ok(user.get(backup["url"]))
        assert backup["uuid"] in [b["uuid"] for b in user.list(BACKUPS)]
        ok(user.post(backup["url"] + "restore/", {}), 400)  # may restore, but says nothing of how
        created = lab.backup(vm, api=user)
        ok(user.post(created["url"] + "delete/"))
        lab.wait_gone(created["url"])
    reader = lab.user("reader")
    ok(reader.get(backup["url"]))
    for path, body in ((backup["url"] + "restore/", {}), (backup["url"] + "delete/", None), (BACKUPS, {"instance": vm["url"]})):
        assert ok(reader.post(path, body), 403) == DENIED
    stranger = lab.user()
    assert ok(stranger.get(backup["url"]), 404) == NOT_FOUND
    assert lab.get(backup)["state"] == "Ready"


@pytest.mark.parametrize("role", ["owner", "admin", "manager"])
def test_B9_writers_delete(lab, role):
    backup = lab.backup(lab.instance())
    ok(lab.user(role).delete(backup["url"]), 202)
    lab.wait_gone(backup["url"])


def test_B9_readers_do_not_delete(lab):
    backup = lab.backup(lab.instance())
    reader = lab.user("reader")
    assert ok(reader.delete(backup["url"]), 403) == DENIED
    assert ok(reader.post(backup["url"] + "delete/"), 403) == DENIED
    assert lab.get(backup)["state"] == "Ready"


# -------------------------------------------------------------------- changing


def test_patch_description_and_kept_until(lab):
    backup = lab.backup(lab.instance(), description="old")
    body = ok(lab.api.patch(backup["url"], {"description": "new"}))
    assert body["description"] == "new" and body["url"] == backup["url"]
    for given, shown in [
        ("2033-05-06T07:08:09.123456Z", "2033-05-06T07:08:09.123Z"),
        ("2033-05-06T07:08:09+02:00", "2033-05-06T05:08:09.000Z"),
        ("2033-05-06T07:08:09", "2033-05-06T07:08:09.000Z"),
        ("2033-05-06T07:08Z", "2033-05-06T07:08:00.000Z"),
        (None, None),
    ]:
        assert ok(lab.api.patch(backup["url"], {"kept_until": given}))["kept_until"] == shown
        assert lab.get(backup)["kept_until"] == shown
    assert lab.get(backup)["description"] == "new"
    assert ok(lab.api.patch(backup["url"], {}))["description"] == "new"


@pytest.mark.parametrize("body, key", [
    ({"kept_until": "tomorrow"}, "kept_until"),
    ({"kept_until": 7}, "kept_until"),
    ({"kept_until": "2033-13-01T00:00:00Z"}, "kept_until"),
    ({"kept_until": ""}, "kept_until"),
    ({"description": "x" * 501}, "description"),
    ({"description": None}, "description"),
])
def test_patch_with_bad_values_changes_nothing(lab, body, key):
    backup = lab.backup(lab.instance(), description="old")
    assert list(ok(lab.api.patch(backup["url"], body), 400)) == [key]
    assert lab.get(backup) == backup


def test_patch_leaves_read_only_fields_alone(lab):
    backup = lab.backup(lab.instance())
    other = lab.instance()
    ok(lab.api.patch(backup["url"], {"instance": other["url"], "state": "Erred", "size": 99, "created_at": None}))
    assert lab.get(backup) == backup


@pytest.mark.parametrize("state", ["backing_up", "restoring", "deleting", "erred"])
def test_patch_needs_ready(lab, state):
    backup = lab.backup(lab.instance())
    lab.force_backup(backup, state)
    answer = ok(lab.api.patch(backup["url"], {"description": "x"}), 409)
    assert answer == {"detail": "Modification allowed in stable states only."}
    lab.force_backup(backup, "ready")
    assert lab.get(backup)["description"] == backup["description"]


# -------------------------------------------------------------------- sources that misbehave


def test_a_vanished_source_makes_the_backup_erred(lab):
    disk = lab.disk()
    vm = lab.instance([disk])
    disk.unlink()
    backup = lab.wait_state(lab.start_backup(vm)["url"], "Erred")
    assert backup["error_message"]
    assert backup["finished_at"] is None or TIMESTAMP.match(backup["finished_at"])
    disk.write_bytes(b"x" * MIB)
    lab.backup(vm)


@pytest.mark.parametrize("change", ["shrinks", "vanishes", "grows"])
def test_a_source_that_changes_its_size_midway(slow, change):
    """Never a wrong Ready."""
    path = slow.volume_files(slow.vm)[0]
    backup = slow.start_backup(slow.vm)
    # The first read of the disk has begun: it is open, and most of it is still to come.
    wait_for(lambda: (slow.get(backup)["progress"] or {}).get("total"), "reading begins")
    if change == "vanishes":
        path.unlink()
    else:
        os.truncate(path, MIB if change == "shrinks" else 8 * MIB)
    failed = slow.wait_state(backup["url"], "Erred")
    assert failed["error_message"]
    assert failed["size"] == 4


def test_a_read_error_makes_the_backup_erred(start_daemon):
    from helpers.daemon import failing_reads
    daemon = start_daemon(start=False)
    daemon.wrapper = failing_reads(daemon.root / "bad.img", when="2+")
    daemon.start()
    lab = Lab(daemon)
    vm = lab.instance([MIB, lab.disk(32 * MIB, name="bad.img")])
    backup = lab.wait_state(lab.start_backup(vm)["url"], "Erred")
    assert "bad.img" in backup["error_message"] or "nput/output" in backup["error_message"]
    answer = ok(lab.api.post(backup["url"] + "restore/", {}), 409)
    assert answer == {"detail": "Cannot restore a backup in state 'Erred'"}
    healthy = lab.instance()
    lab.backup(healthy)
