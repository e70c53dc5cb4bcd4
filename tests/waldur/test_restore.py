"""Restore: its input, the new machine, and that every byte is the same (cases B4, B14, B18 to B22, and 3.11)."""

import os
import threading

import pytest

from helpers.api import NOT_FOUND, ok
from helpers.daemon import slow_reads
from helpers.disks import MIB, allocated, assert_clean_ext4, assert_same_bytes
from helpers.lab import BACKUP, BACKUPS, FLAVORS, IMAGES, INSTANCES, Lab
from helpers.wait import wait_for

REQUIRED = "This field is required."
STARTED = "Backup restoration process was started"
ZERO = "0" * 32


def body(lab, **changes):
    return {"image": lab.image()["url"], "flavor": lab.flavor()["url"], **changes}


def unchanged(lab, backup):
    """A refused restore leaves the backup, the machines and the volumes as they were."""
    before = (lab.get(backup), counts(lab))

    def check():
        assert (lab.get(backup), counts(lab)) == before
    return check


def counts(lab):
    return [lab.d.sql(f"SELECT count(*) FROM {table}")[0][0] for table in ("instance", "volume", "restoration", "job")]


# -------------------------------------------------------------------- the good case


@pytest.mark.parametrize("collection", [BACKUPS, BACKUP])
def test_B4_restore_of_ready_is_200(lab, collection):
    backup = lab.backup(lab.instance())
    answer = ok(lab.api.post(f"{collection}{backup['uuid']}/restore/", body(lab)))
    assert answer["status"] == STARTED
    assert set(answer) == {"status", "instance", "instance_uuid"}
    assert answer["instance"] == f"{lab.d.url}{INSTANCES}{answer['instance_uuid']}/"
    lab.wait_state(answer["instance"], "Offline")
    assert lab.wait_state(backup["url"], "Ready")["error_message"] == ""


def test_B4_restoring_is_shown_while_it_lasts(start_daemon):
    daemon = start_daemon()
    lab = Lab(daemon)
    vm = lab.instance([lab.disk(64 * MIB)])
    backup = lab.backup(vm)
    new = lab.restore(backup, wait=None)
    seen = set()
    wait_for(lambda: seen.add(s := lab.get(backup)["state"]) or s == "Ready", "the restore ends", 60, 0)
    assert seen <= {"Restoring", "Ready"}
    assert lab.wait_state(new["url"], "Offline")


def test_every_byte_of_an_ext4_disk(lab):
    disk = lab.disk(32 * MIB, ext4=True)
    original = disk.read_bytes()
    new = lab.restore(lab.backup(lab.instance([disk])))
    copy, = lab.volume_files(new)
    assert_same_bytes(disk, copy)
    assert_clean_ext4(copy)
    assert disk.read_bytes() == original
    assert copy != disk and lab.d.state_dir / "restored" in copy.parents
    assert allocated(copy) <= allocated(disk) + MIB  # holes stay holes


def test_every_byte_after_the_source_changed(lab):
    """Two backups with a change between them: each restores to its own moment."""
    disk = lab.disk(16 * MIB, ext4=True)
    vm = lab.instance([disk])
    first_bytes = disk.read_bytes()
    first = lab.backup(vm)
    with open(disk, "r+b") as f:
        for offset in (3 * MIB + 17, 9 * MIB, 16 * MIB - 4096):
            f.seek(offset)
            f.write(os.urandom(4096))
    second_bytes = disk.read_bytes()
    second = lab.backup(vm)
    with open(disk, "r+b") as f:
        f.write(b"\0" * 16 * MIB)
    assert lab.volume_files(lab.restore(first))[0].read_bytes() == first_bytes
    assert lab.volume_files(lab.restore(second))[0].read_bytes() == second_bytes


@pytest.mark.parametrize("size", [1, 511, 512, 4095, 4097, MIB - 1, MIB, MIB + 1, 3 * MIB + 12_345], ids=str)
def test_every_byte_of_odd_sizes(lab, size):
    disk = lab.disk(size)
    backup = lab.backup(lab.instance([disk]))
    assert backup["size"] == -(-size // MIB)
    assert_same_bytes(disk, lab.volume_files(lab.restore(backup))[0])


def test_all_holes_and_all_zeroes(lab):
    hole, zeroes = lab.d.root / "hole.img", lab.d.root / "zero.img"
    with open(hole, "wb") as f:
        f.truncate(64 * MIB)
    zeroes.write_bytes(b"\0" * 8 * MIB)
    backup = lab.backup(lab.instance([hole, zeroes]))
    assert backup["stored_size"] < 1
    copies = lab.volume_files(lab.restore(backup))
    assert_same_bytes(hole, copies[0])
    assert_same_bytes(zeroes, copies[1])
    assert allocated(copies[0]) < MIB and allocated(copies[1]) < MIB


@pytest.mark.parametrize("count, bootable", [(1, 0), (2, 1), (3, 2), (3, 0)])
def test_B22_volumes_keep_order_size_and_bootable_flag(lab, count, bootable):
    disks = [lab.disk((n + 1) * MIB) for n in range(count)]
    vm = lab.instance(disks, bootable=bootable)
    new = lab.restore(lab.backup(vm))
    assert [v["size"] for v in new["volumes"]] == [n + 1 for n in range(count)]
    assert [v["bootable"] for v in new["volumes"]] == [n == bootable for n in range(count)]
    for disk, copy in zip(disks, lab.volume_files(new), strict=True):
        assert_same_bytes(disk, copy)
    assert not {v["uuid"] for v in new["volumes"]} & {v["uuid"] for v in vm["volumes"]}


def test_B14_B18_the_new_machine(lab):
    flavor = lab.flavor(cores=4, ram=2048)
    old_image = lab.image(min_ram=128)
    vm = lab.instance(
        [MIB, 2 * MIB], name="db1", description="the database", tags=["prod"], key_name="ops", key_fingerprint="aa:bb",
        user_data="#cloud-config", image=old_image["url"], flavor=lab.flavor(cores=1, ram=512)["url"],
    )
    before = lab.get(vm)
    backup = lab.backup(vm)
    new = lab.restore(backup, name="db1 copy", flavor=flavor["url"])
    assert new["uuid"] != vm["uuid"]
    assert new["name"] == "db1 copy"
    assert (new["cores"], new["ram"], new["flavor_name"]) == (4, 2048, flavor["name"])
    assert new["disk"] == 3 and new["system_volume_size"] == 1 and new["data_volume_size"] == 2
    assert new["description"] == "the database" and new["tags"] == ["prod"]
    assert new["image_name"] == old_image["name"]
    assert new["project"] == vm["project"]
    assert new["state"] == "Offline" and new["error_message"] == ""
    assert new["external_ips"] == []
    row = lab.d.sql("SELECT key_name, key_fingerprint, user_data FROM instance WHERE uuid = ?", (new["uuid"],))
    assert row == [("ops", "aa:bb", "#cloud-config")]
    after = lab.get(vm)
    assert {k: v for k, v in after.items() if k not in ("backups",)} == {k: v for k, v in before.items() if k not in ("backups",)}


def test_B21_a_restoration_record_exists(lab):
    backup = lab.backup(lab.instance())
    new = lab.restore(backup)
    record, = lab.get(backup)["restorations"]
    assert record["instance"] == new["url"] and record["instance_name"] == new["name"]
    assert record["instance_state"] == "Offline"
    assert record["created"].endswith("Z")


def test_name_defaults_to_the_name_at_backup_time(lab):
    vm = lab.instance(name="before")
    backup = lab.backup(vm)
    ok(lab.api.patch(vm["url"], {"name": "after"}))
    assert lab.restore(backup)["name"] == "before"
    assert lab.restore(backup, name=None)["name"] == "before"
    assert lab.restore(backup, name="x" * 150)["name"] == "x" * 150


def test_start_is_an_extension(lab):
    backup = lab.backup(lab.instance())
    assert lab.restore(backup)["state"] == "Offline"
    assert lab.restore(backup, wait="Online", start=True)["state"] == "Online"


def test_restore_of_a_running_source(lab):
    vm = lab.instance()
    ok(lab.api.post(vm["url"] + "start/"), 202)
    lab.wait_state(vm["url"], "Online")
    lab.restore(lab.backup(vm))
    assert lab.get(vm)["state"] == "Online"


def test_several_restores_one_after_another(lab):
    disk = lab.disk(2 * MIB)
    backup = lab.backup(lab.instance([disk]))
    machines = [lab.restore(backup) for _ in range(3)]
    assert len({m["uuid"] for m in machines}) == 3
    for machine in machines:
        assert_same_bytes(disk, lab.volume_files(machine)[0])
    assert len(lab.get(backup)["restorations"]) == 3


def test_a_restored_machine_is_a_machine(lab):
    """It can be backed up, restored again and removed, with its files; the registered disk of the source stays."""
    disk = lab.disk(2 * MIB)
    vm = lab.instance([disk])
    source = lab.backup(vm)
    new = lab.restore(source)
    again = lab.backup(new)
    third = lab.restore(again)
    copies = lab.volume_files(third)
    assert_same_bytes(disk, copies[0])
    ok(lab.api.delete(third["url"]), 202)
    lab.wait_gone(third["url"])
    wait_for(lambda: not copies[0].exists(), "the files that cofferd made go with the machine")
    for backup in (source, again):
        lab.wait_state(backup["url"], "Ready")
        ok(lab.api.post(backup["url"] + "delete/"))
        lab.wait_gone(backup["url"])
    ok(lab.api.delete(vm["url"]), 202)
    lab.wait_gone(vm["url"])
    assert disk.exists()


def test_urlencoded_input(lab):
    backup = lab.backup(lab.instance())
    ok(lab.api.request("POST", backup["url"] + "restore/", data=body(lab)))
    lab.wait_state(backup["url"], "Ready")


def test_unknown_inputs_are_ignored(lab):
    backup = lab.backup(lab.instance())
    lab.restore(backup, security_groups=[{"url": "x"}], floating_ips=[1], internal_ips_set={}, tenant=None)


# -------------------------------------------------------------------- bad input changes nothing


def test_image_and_flavor_are_mandatory(lab):
    backup = lab.backup(lab.instance())
    image, flavor = lab.image()["url"], lab.flavor()["url"]
    check = unchanged(lab, backup)
    path = backup["url"] + "restore/"
    for given, wanted in [
        (None, {"image": [REQUIRED], "flavor": [REQUIRED]}),
        ({}, {"image": [REQUIRED], "flavor": [REQUIRED]}),
        ({"flavor": flavor}, {"image": [REQUIRED]}),
        ({"image": image}, {"flavor": [REQUIRED]}),
        ({"image": None, "flavor": flavor}, {"image": [REQUIRED]}),
        ({"image": image, "flavor": None}, {"flavor": [REQUIRED]}),
    ]:
        assert ok(lab.api.post(path, given), 400) == wanted
        check()


def test_bad_links(lab):
    vm = lab.instance()
    backup = lab.backup(vm)
    image, flavor = lab.image()["url"], lab.flavor()["url"]
    check = unchanged(lab, backup)
    path = backup["url"] + "restore/"
    for value, message in [
        ("random", "Invalid hyperlink - No URL match."),
        (vm["url"], "Invalid hyperlink - Incorrect URL match."),
        (7, "Incorrect type. Expected URL string, received int."),
    ]:
        assert ok(lab.api.post(path, {"image": value, "flavor": flavor}), 400) == {"image": [message]}
        assert ok(lab.api.post(path, {"image": image, "flavor": value}), 400) == {"flavor": [message]}
        check()
    gone = "Invalid hyperlink - Object does not exist."
    assert ok(lab.api.post(path, {"image": f"{IMAGES}{ZERO}/", "flavor": f"{FLAVORS}{ZERO}/"}), 400) == {
        "image": [gone], "flavor": [gone],
    }
    assert ok(lab.api.post(path, {"image": flavor, "flavor": image}), 400) == {
        "image": ["Invalid hyperlink - Incorrect URL match."], "flavor": ["Invalid hyperlink - Incorrect URL match."],
    }
    check()


@pytest.mark.parametrize("name, message", [
    ("", "This field may not be blank."), ("x" * 151, "Ensure this field has no more than 150 characters."),
])
def test_bad_names(lab, name, message):
    backup = lab.backup(lab.instance())
    given = body(lab, name=name)
    check = unchanged(lab, backup)
    assert ok(lab.api.post(backup["url"] + "restore/", given), 400) == {"name": [message]}
    check()


def test_ram_of_the_flavor(lab):
    """It must reach the image's min_ram and the one recorded in the backup."""
    backup = lab.backup(lab.instance())
    flavor = lab.flavor(ram=512)["url"]
    given = {"image": lab.image(min_ram=513)["url"], "flavor": flavor}
    check = unchanged(lab, backup)
    wanted = {"flavor": ["RAM of flavor is not enough for selected image 513"]}
    assert ok(lab.api.post(backup["url"] + "restore/", given), 400) == wanted
    check()
    lab.restore(backup, image=lab.image(min_ram=512)["url"], flavor=flavor)
    recorded = lab.backup(lab.instance(image=lab.image(min_ram=1024)["url"]))
    given = {"image": lab.image(min_ram=1)["url"], "flavor": flavor}
    check = unchanged(lab, recorded)
    wanted = {"flavor": ["RAM of flavor is not enough for selected image 1024"]}
    assert ok(lab.api.post(recorded["url"] + "restore/", given), 400) == wanted
    check()


def test_min_disk_of_the_image(lab):
    backup = lab.backup(lab.instance([2 * MIB]))
    flavor = lab.flavor()["url"]
    given = {"image": lab.image(min_disk=3)["url"], "flavor": flavor}
    check = unchanged(lab, backup)
    answer = ok(lab.api.post(backup["url"] + "restore/", given), 400)
    assert set(answer) <= {"image", "flavor", "non_field_errors"} and len(answer) == 1
    check()
    lab.restore(backup, image=lab.image(min_disk=2)["url"], flavor=flavor)


def test_B20_flavor_disk_is_not_compared(lab):
    backup = lab.backup(lab.instance([4 * MIB]))
    assert lab.restore(backup, flavor=lab.flavor(disk=1)["url"])["disk"] == 4


@pytest.mark.parametrize("bootable", [[0, 0, 0], [1, 1, 0], [1, 1, 1]])
def test_B19_exactly_one_bootable_volume_is_needed(lab, bootable):
    backup = lab.backup(lab.instance([MIB, MIB, MIB]))
    for position, flag in enumerate(bootable):
        lab.d.sql(
            "UPDATE volume_backup SET bootable = ? WHERE position = ? AND backup_id = (SELECT id FROM backup WHERE uuid = ?)",
            (flag, position, backup["uuid"]),
        )
    given = body(lab)
    check = unchanged(lab, backup)
    answer = lab.api.post(backup["url"] + "restore/", given)
    ok(answer, 400)
    if sum(bootable):
        assert str(sum(bootable)) in answer.text
    check()


def test_image_and_flavor_may_be_deleted_later(lab):
    image, flavor = lab.image(), lab.flavor()
    vm = lab.instance(image=image["url"], flavor=flavor["url"])
    backup = lab.backup(vm)
    new = lab.restore(backup, image=image["url"], flavor=flavor["url"])
    ok(lab.api.delete(image["url"]), 204)
    ok(lab.api.delete(flavor["url"]), 204)
    assert ok(lab.api.get(flavor["url"]), 404) == NOT_FOUND
    assert lab.get(backup)["state"] == "Ready"
    assert lab.get(new)["flavor_name"] == flavor["name"]
    lab.restore(backup)


# -------------------------------------------------------------------- at the same time


def together(*calls):
    """Makes the calls at once, each in its thread; what they returned."""
    barrier, results = threading.Barrier(len(calls)), [None] * len(calls)

    def run(n):
        barrier.wait()
        results[n] = calls[n]()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_47_concurrent_restores(start_daemon):
    """One is 200, the other 409, each time; and one machine is made."""
    from helpers.api import Api
    lab = Lab(start_daemon())
    backup = lab.backup(lab.instance([64 * MIB]))
    given = body(lab)
    path = backup["url"] + "restore/"
    for n in range(1, 6):
        clients = [Api(lab.d, lab.d.token) for _ in range(2)]
        for client in clients:
            client.get("/api/version/")  # the connection is open before the race
        answers = together(*[lambda c=c: c.post(path, given) for c in clients])
        won, lost = sorted(answers, key=lambda a: a.status_code)
        assert ok(lost, 409) == {"detail": "Cannot restore a backup in state 'Restoring'"}
        lab.wait_state(ok(won)["instance"], "Offline")
        lab.wait_state(backup["url"], "Ready")
        assert len(lab.get(backup)["restorations"]) == n
        assert len(lab.api.list(INSTANCES)) == 1 + n


def test_47_restore_against_delete(start_daemon):
    from helpers.api import Api
    lab = Lab(start_daemon())
    for _ in range(5):
        backup = lab.backup(lab.instance([2 * MIB]))
        given = body(lab)
        one, two = Api(lab.d, lab.d.token), Api(lab.d, lab.d.token)
        restored, deleted = together(
            lambda: one.post(backup["url"] + "restore/", given), lambda: two.post(backup["url"] + "delete/")
        )
        if restored.status_code == 200:
            assert deleted.status_code in (200, 409)
            lab.wait_state(restored.json()["instance"], "Offline")
        else:
            assert restored.status_code in (404, 409) and deleted.status_code == 200
            lab.wait_gone(backup["url"])


# -------------------------------------------------------------------- failures


def test_a_failed_restore_keeps_the_backup_ready(start_daemon):
    lab = Lab(start_daemon('[volumes]\nrestore_directory = "{base}/out"'))
    vm = lab.instance([MIB])
    backup = lab.backup(vm)
    lab.restore(backup)
    out = lab.d.base / "out"
    out.rename(lab.d.base / "moved")
    out.write_text("a file where the directory was")
    new = ok(lab.api.post(backup["url"] + "restore/", body(lab)))
    failed = lab.wait_state(new["instance"], "Erred")
    assert failed["error_message"]
    after = lab.wait_state(backup["url"], "Ready")
    assert after["error_message"] == ""
    assert "resource_backup_restoration_failed" in lab.event_types(backup)
    out.unlink()
    out.mkdir()
    lab.restore(backup)
    # An Erred machine can be removed.
    ok(lab.api.delete(failed["url"]), 202)
    lab.wait_gone(failed["url"])


def test_corrupt_data_fails_the_restore_and_marks_the_backup(start_daemon):
    lab = Lab(start_daemon())
    disk = lab.d.root / "random.img"
    disk.write_bytes(os.urandom(4 * MIB))
    backup = lab.backup(lab.instance([disk]))
    lab.d.stop()
    (pack, data), = lab.d.sql("SELECT id, data FROM pack ORDER BY length(data) DESC LIMIT 1")
    middle = len(data) // 2
    broken = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]
    lab.d.sql("UPDATE pack SET data = ? WHERE id = ?", (broken, pack))
    lab.d.start()
    new = ok(lab.api.post(backup["url"] + "restore/", body(lab)))
    failed = lab.wait_state(new["instance"], "Erred")
    after = wait_for(lambda: (b := lab.get(backup))["state"] == "Erred" and b, "the backup is marked Erred")
    assert "offset" in after["error_message"].lower() or any(c.isdigit() for c in after["error_message"])
    assert failed["error_message"]
    assert ok(lab.api.post(backup["url"] + "restore/", {}), 409) == {"detail": "Cannot restore a backup in state 'Erred'"}
    # A file that could not be made whole is not left as if it were.
    for path in lab.volume_files(failed):
        assert not path.exists() or path.read_bytes() != disk.read_bytes()


def test_a_backup_of_a_source_that_is_gone_restores(lab):
    disk = lab.disk(2 * MIB, ext4=True)
    content = disk.read_bytes()
    backup = lab.backup(lab.instance([disk]))
    disk.unlink()
    assert lab.volume_files(lab.restore(backup))[0].read_bytes() == content


def test_slow_sources_do_not_hold_up_restores(start_daemon):
    """Jobs of different machines run beside each other."""
    daemon = start_daemon(start=False)
    daemon.wrapper = slow_reads(daemon.root / "slow.img", "1s")
    daemon.start()
    lab = Lab(daemon)
    good = lab.backup(lab.instance([MIB]))
    slow = lab.start_backup(lab.instance([lab.disk(8 * MIB, name="slow.img")]))
    lab.restore(good)
    assert lab.get(slow)["state"] == "Backing up"
    lab.wait_state(slow["url"], "Ready", 90)


def test_a_backup_that_waited_for_a_restore_that_failed_has_not_its_leavings(start_daemon):
    """When it was ordered, nobody could know."""
    daemon = start_daemon("[engine]\njobs = 1", start=False)
    daemon.wrapper = slow_reads(daemon.root / "slow.img", "300ms")
    lab = Lab(daemon.start())
    disk = lab.disk()
    vm, slow = lab.instance([disk]), lab.instance([lab.disk(4 * MIB, name="slow.img")])
    backup = lab.backup(vm)
    lab.start_backup(slow)  # what comes after it waits
    ok(lab.api.post("/ops/restores/", {"backup": backup["uuid"], "path": str(disk), "mode": "overwrite"}), 202)
    late = lab.start_backup(vm)
    lab.d.sql("UPDATE pack SET data = zeroblob(length(data))")  # so that it fails when it has begun to write
    assert "error_restoring" in lab.wait_state(late["url"], "Erred")["error_message"]
    assert lab.get(backup)["state"] == "Erred"
