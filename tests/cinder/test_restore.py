"""Restore: to a new volume, to an existing one; every byte, and what travels with the bytes (Cinder contract 1.7)."""

import os
import random
import subprocess

import pytest

from helpers.api import ok
from helpers.cinder import (
    GIB, MAX, NOBODY, CinderLab, assert_restored, assert_same_disk, differs, fault, fill, keep, over_quota, plain,
    punch, zero,
)
from helpers.daemon import slow_writes
from helpers.disks import MIB, allocated, assert_same_bytes


def ask(client, backup, body=None, **fields):
    ident = backup if isinstance(backup, str) else backup["id"]
    return client.post(f"/backups/{ident}/restore", {"restore": fields} if body is None else body)


@pytest.fixture(scope="module")
def source(shared):
    return shared.filled(1, [(0, 2 * MIB), (700 * MIB, 300_000)], name="source", description="of the source")


@pytest.fixture(scope="module")
def backup(shared, source):
    return shared.member.backup(source)


# -------------------------------------------------------------------- the answer, and where it goes


def test_the_answer(shared, source, backup):
    """Cinder contract 1.7, 8: Tempest requires the name, which is that at the time of the request."""
    answer = ok(ask(shared.member, backup, name="copy"), 202)
    assert set(answer) == {"restore"} and set(answer["restore"]) == {"backup_id", "volume_id", "volume_name"}
    restore = answer["restore"]
    assert (restore["backup_id"], restore["volume_name"]) == (backup["id"], "copy")
    assert restore["volume_id"] not in (source["id"], backup["id"])
    volume = shared.member.wait_volume(restore["volume_id"])
    assert (volume["name"], volume["size"]) == ("copy", 1)
    assert_same_disk(shared.path(source), shared.path(volume))
    assert shared.member.wait(backup)["fail_reason"] is None


@pytest.mark.parametrize("body", [
    {"restore": {}}, {"restore": None}, {"restore": {"name": None}}, {"restore": {"volume_id": None}},
    {"restore": {"name": None, "volume_id": None}},
], ids=str)
def test_without_a_name_and_a_volume(shared, source, backup, body):
    """Cinder contract 1.7: a volume of that long name, which in the end is called as the source was."""
    restore = ok(ask(shared.member, backup, body), 202)["restore"]
    assert restore["volume_name"] == f"restore_backup_{backup['id']}"
    volume = shared.member.wait_volume(restore["volume_id"])
    shared.member.wait(backup)
    assert (volume["name"], volume["description"]) == ("source", "of the source")
    assert_same_disk(shared.path(source), shared.path(volume))
    shared.admin.remove_volume(volume)


def test_only_a_name(shared, source, backup):
    volume = shared.member.restore(backup, name="x" * 255)
    assert (volume["name"], volume["size"]) == ("x" * 255, 1)
    assert_same_disk(shared.path(source), shared.path(volume))
    assert shared.member.volume(source)["name"] == "source"


def test_the_volume_wins_over_the_name(shared, source, backup):
    """Cinder contract 1.7 and the seed: the UUID takes priority; an existing volume keeps its own name."""
    target = shared.filled(1, [(0, 5 * MIB), (900 * MIB, MIB)], name="target", description="mine")
    inode = os.stat(shared.path(target)).st_ino
    for ident in (target["id"], plain(target["id"])):
        fill(shared.path(target), [(4 * MIB, MIB)])
        restore = ok(ask(shared.member, backup, name="other", volume_id=ident), 202)["restore"]
        assert restore == {"backup_id": backup["id"], "volume_id": target["id"], "volume_name": "target"}
        after = shared.member.wait_volume(target)
        assert (after["name"], after["description"], after["size"]) == ("target", "mine", 1)
        assert_same_disk(shared.path(source), shared.path(target))
        shared.member.wait(backup)
    assert os.stat(shared.path(target)).st_ino == inode


def test_over_its_own_source(lab):
    volume = lab.filled(1, [(0, 2 * MIB)], name="own")
    then = keep(lab.path(volume), lab.d.base / lab.unique("then"))
    backup = lab.member.backup(volume)
    fill(lab.path(volume), [(MIB, 6 * MIB), (1000 * MIB, MIB)])
    after = lab.member.restore(backup, volume_id=volume["id"])
    assert_same_disk(then, lab.path(volume))
    assert after["name"] == "own" and "src_backup_id" not in after["metadata"]


def test_over_a_registered_disk(lab):
    """The file is written in place."""
    source, target = lab.registered(3 * MIB + 4096), lab.registered(3 * MIB + 4096)
    inode = os.stat(lab.path(target)).st_ino
    lab.member.restore(lab.member.backup(source), volume_id=target["id"])
    assert_same_bytes(lab.path(source), lab.path(target))
    assert os.stat(lab.path(target)).st_ino == inode


@pytest.mark.parametrize("size", [1, 511, 4097, MIB - 1, MIB + 1, 3 * MIB + 12_345], ids=str)
def test_every_byte_of_odd_sizes(lab, size):
    source = lab.registered(size)
    new = lab.member.restore(lab.member.backup(source))
    assert_restored(lab.path(source), lab.path(new))
    assert new["size"] == 1


def test_every_byte_by_cmp(lab):
    """As a user would look, with holes read as well."""
    source = lab.filled(1, [(n * 10 * MIB + n, 300_000) for n in range(15)])
    new = lab.member.restore(lab.member.backup(source))
    subprocess.run(["cmp", f"--bytes={160 * MIB}", lab.path(source), lab.path(new)], check=True)
    assert_same_disk(lab.path(source), lab.path(new))


# -------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("restore", [
    {"name": 7}, {"name": "x" * 256}, {"name": []}, {"volume_id": "name"}, {"volume_id": ""}, {"volume_id": 7}, {"volume_id": []},
    {"volume_id": "0" * 31}, {"size": 1}, {"name": "x", "volume": NOBODY}, {"backup_id": NOBODY}, [], "x", 1, True,
], ids=lambda r: str(r)[:30])
def test_bodies_that_break_the_schema(shared, backup, restore):
    def world():
        return shared.member.show(backup), [v["id"] for v in ok(shared.admin.get("/volumes"))["volumes"]]

    before = world()
    fault(ask(shared.member, backup, {"restore": restore}), 400)
    fault(ask(shared.reader, NOBODY, {"restore": restore}), 400)
    assert world() == before


@pytest.mark.parametrize("body", [{}, {"restore": {}, "other": 1}, {"Restore": {}}, {"name": "x"}], ids=str)
def test_the_wrapper(shared, backup, body):
    fault(ask(shared.member, backup, body), 400)


def test_unknown_things_are_404(lab):
    """Cinder contract 0.3, 1.7: also what is another project's."""
    backup = lab.member.backup(lab.admin.create_volume(1))
    other = CinderLab(lab.d)
    foreign = other.admin.create_volume(1)
    fault(ask(lab.member, NOBODY), 404)
    fault(ask(lab.member, backup, volume_id=NOBODY), 404)
    fault(ask(lab.member, backup, volume_id=foreign["id"]), 404)
    fault(ask(other.member, backup), 404)
    assert lab.member.show(backup) == backup


def test_order_of_checks(lab):
    """Cinder contract 0.3, 1.7: schema, backup, role, the backup's state, the volume, the volume's state, the size."""
    volume = lab.admin.create_volume(2)
    good, bad = lab.member.backup(volume), lab.member.backup(volume)
    lab.admin.reset(bad, "error")
    small, busy = lab.admin.create_volume(1), lab.online()
    fault(ask(lab.reader, NOBODY, volume_id=7), 400)
    fault(ask(lab.reader, NOBODY), 404)
    fault(ask(lab.reader, bad, volume_id=NOBODY), 403)
    fault(ask(lab.member, bad, volume_id=NOBODY), 400, "backup")
    fault(ask(lab.member, good, volume_id=NOBODY), 404)
    fault(ask(lab.member, good, volume_id=busy["id"]), 400)
    fault(ask(lab.member, good, volume_id=small["id"]), 400)
    lab.admin.set_quota(volumes=lab.admin.usage()[2])
    fault(ask(lab.member, bad), 400)
    over_quota(ask(lab.member, good))


@pytest.mark.parametrize("status", ["error", "in-use", "error_restoring", "creating"])
def test_the_target_must_be_available(lab, status):
    backup = lab.member.backup(lab.admin.create_volume(1))
    target = lab.filled()
    then = keep(lab.path(target), lab.d.base / lab.unique("then"))
    lab.admin.volume_action(target, "os-reset_status", {"status": status})
    fault(ask(lab.member, backup, volume_id=target["id"]), 400)
    assert lab.member.volume(target)["status"] == status and lab.member.show(backup) == backup
    assert_same_disk(then, lab.path(target))


def test_a_volume_of_a_running_machine_is_not_overwritten(lab):
    busy = lab.online()
    then = keep(lab.path(busy), lab.d.base / lab.unique("then"))
    backup = lab.member.backup(busy, force=True)
    fault(ask(lab.member, backup, volume_id=busy["id"]), 400)
    assert_same_bytes(then, lab.path(busy))


def test_the_target_must_be_large_enough(lab):
    backup = lab.member.backup(lab.admin.create_volume(2))
    small = lab.filled(1)
    then = keep(lab.path(small), lab.d.base / lab.unique("then"))
    fault(ask(lab.member, backup, volume_id=small["id"]), 400)
    assert_same_disk(then, lab.path(small))
    assert lab.member.status(backup) == "available"


def test_nothing_is_cut_off_where_both_sizes_round_to_the_same(lab):
    """A registered disk may be smaller by bytes than what Cinder calls its size: refused, or a failure that is shown."""
    source, target = lab.registered(2 * MIB), lab.registered(MIB)
    backup = lab.member.backup(source)
    answer = ask(lab.member, backup, volume_id=target["id"])
    if answer.status_code == 202:
        lab.member.wait_volume(target, "error_restoring")
        lab.member.wait(backup)
    else:
        fault(answer, 400)
    assert os.path.getsize(lab.path(target)) == MIB


def test_quota_of_volumes(lab):
    """Cinder contract 1.7: `volumes` or `gigabytes`, for new volumes only."""
    volume = lab.admin.create_volume(2)
    backup = lab.member.backup(volume)
    for limits in ({"volumes": 1, "gigabytes": -1}, {"volumes": -1, "gigabytes": 3}):
        lab.admin.set_quota(**limits)
        over_quota(ask(lab.member, backup))
        over_quota(ask(lab.member, backup, name="x"))
        assert lab.member.status(backup) == "available" and lab.admin.usage()[2:] == (1, 2)
        lab.member.restore(backup, volume_id=volume["id"])
    lab.admin.set_quota(volumes=2, gigabytes=4)
    lab.member.restore(backup)
    assert lab.admin.usage()[2:] == (2, 4)


def test_one_restore_of_a_backup_at_a_time(braked):
    """Cinder contract 6.2, 6.3: restoring and restoring-backup meanwhile; a second one, a delete and an export are refused."""
    lab = braked(slow_writes, "target.img", delay="500ms", config="[engine]\njobs = 4")
    source, target = lab.registered(4 * MIB), lab.registered(4 * MIB, "target.img")
    backup = lab.member.backup(source)
    lab.member.start_restore(backup, volume_id=target["id"])
    assert lab.member.show(backup)["status"] == "restoring"
    assert lab.member.volume(target)["status"] == "restoring-backup"
    fault(ask(lab.member, backup), 400)
    fault(ask(lab.member, backup, volume_id=source["id"]), 400)
    fault(lab.member.delete(f"/backups/{backup['id']}"), 400)
    fault(lab.admin.get(f"/backups/{backup['id']}/export_record"), 400)
    fault(lab.member.delete(f"/volumes/{target['id']}"), 400)
    fault(lab.member.post("/backups", {"backup": {"volume_id": target["id"], "force": True}}), 400)
    lab.member.wait_volume(target)
    lab.member.wait(backup)
    assert_same_bytes(lab.path(source), lab.path(target))


# -------------------------------------------------------------------- incremental backups


@pytest.fixture(scope="module")
def chain(shared):
    """A full backup and two incremental ones, and the disk as it was at each. In between blocks are written, zeroed, punched."""
    volume = shared.filled(1, [(0, 8 * MIB), (512 * MIB, 4 * MIB), (GIB - MIB, MIB)], name="chain")
    path, moments = shared.path(volume), []

    def moment(**fields):
        backup = shared.member.backup(volume, **fields)
        moments.append((backup, keep(path, shared.d.base / shared.unique("moment"))))

    moment()
    zero(path, MIB, 2 * MIB)
    punch(path, 513 * MIB, MIB)
    fill(path, [(6 * MIB + 123, 200_000), (100 * MIB, MIB)])
    moment(incremental=True)
    zero(path, GIB - MIB, MIB)
    punch(path, 0, MIB)
    fill(path, [(2 * MIB, 4096)])
    moment(incremental=True)
    assert all(differs(moments[a][1], moments[b][1]) is not None for a, b in ((0, 1), (1, 2), (0, 2)))
    return volume, moments


@pytest.mark.parametrize("n", [0, 1, 2])
def test_blocks_zeroed_since_the_full_backup_are_zero_in_a_new_volume(shared, chain, n):
    """Cinder contract 7, 9.13: stock skipped zeros in every layer, and old bytes came back."""
    volume, moments = chain
    backup, then = moments[n]
    assert backup["is_incremental"] == (n > 0)
    new = shared.member.restore(backup)
    assert_same_disk(then, shared.path(new))
    assert allocated(shared.path(new)) <= allocated(then) + MIB


@pytest.mark.parametrize("n", [0, 1, 2])
def test_blocks_zeroed_since_the_full_backup_are_zero_in_an_existing_volume(shared, chain, n):
    """And so is everything that the volume had where the backup has nothing."""
    backup, then = chain[1][n]
    target = shared.filled(1, [(0, 12 * MIB), (300 * MIB, MIB), (511 * MIB, 6 * MIB), (GIB - 3 * MIB, 3 * MIB)])
    shared.member.restore(backup, volume_id=target["id"])
    assert_same_disk(then, shared.path(target))


def test_going_back_and_forth_on_the_source(shared, chain):
    volume, moments = chain
    for n in (0, 2, 1, 0):
        shared.member.restore(moments[n][0], volume_id=volume["id"])
        assert_same_disk(moments[n][1], shared.path(volume))


def test_incremental_backup_of_a_volume_that_was_extended(lab):
    """Cinder contract 1.1, 7: stock needs a full one."""
    volume = lab.filled(1, [(0, 2 * MIB), (GIB - 4096, 4096)])
    small = keep(lab.path(volume), lab.d.base / lab.unique("small"))
    full = lab.member.backup(volume)
    lab.admin.volume_action(volume, "os-extend", {"new_size": 2})
    lab.admin.wait_volume(volume)
    fill(lab.path(volume), [(GIB - 2048, MIB), (2 * GIB - MIB, MIB)])
    incremental = lab.member.backup(volume, incremental=True)
    assert (incremental["size"], incremental["is_incremental"]) == (2, True)
    new = lab.member.restore(incremental)
    assert new["size"] == 2
    assert_same_disk(lab.path(volume), lab.path(new))
    old = lab.member.restore(full)
    assert old["size"] == 1
    assert_same_disk(small, lab.path(old))


def test_a_larger_target_keeps_its_tail(lab):
    """Cinder contract 1.7."""
    source = lab.filled(1, [(0, MIB), (GIB - MIB, MIB)])
    target = lab.filled(2, [(0, 3 * MIB), (GIB - 2 * MIB, 4 * MIB), (2 * GIB - MIB, MIB)])
    before = keep(lab.path(target), lab.d.base / lab.unique("before"))
    after = lab.member.restore(lab.member.backup(source), volume_id=target["id"])
    assert after["size"] == 2 and os.path.getsize(lab.path(target)) == 2 * GIB
    assert_same_disk(lab.path(source), lab.path(target), length=GIB)
    with open(before, "rb") as x, open(lab.path(target), "rb") as y:
        for start, length in ((GIB, 3 * MIB), (2 * GIB - MIB, MIB)):
            x.seek(start), y.seek(start)
            assert x.read(length) == y.read(length)


def test_any_history_restores(lab):
    """Random writes, zeros, holes, extensions, full and incremental backups and deletions: each restores to its own moment."""
    seed = int(os.environ.get("COFFERD_SEED", random.randrange(10**6)))
    print(f"COFFERD_SEED={seed}")
    rng = random.Random(seed)
    volume = lab.filled(1, [(0, 4 * MIB)])
    path, size, moments = lab.path(volume), 1, []
    for step in range(8):
        for _ in range(4):
            at, length = rng.randrange(size * GIB // 4096 - 256) * 4096, rng.randrange(1, 256) * 4096
            rng.choice([lambda: fill(path, [(at, length)], rng.random()), lambda: zero(path, at, length), lambda: punch(path, at, length)])()
        if step == 4:
            size = 2
            lab.admin.volume_action(volume, "os-extend", {"new_size": size})
            lab.admin.wait_volume(volume)
        backup = lab.member.backup(volume, incremental=bool(moments) and rng.random() < 0.7)
        moments.append((backup, keep(path, lab.d.base / lab.unique("moment"))))
        if rng.random() < 0.3:
            victim = rng.choice(moments)
            if lab.member.show(victim[0])["has_dependent_backups"] is False:
                lab.member.remove(victim[0])
                moments.remove(victim)
                lab.gc()
    assert moments
    for backup, then in moments:
        new = lab.member.restore(backup)
        assert_same_disk(then, lab.path(new))
        lab.admin.remove_volume(new)


# -------------------------------------------------------------------- what travels with the bytes


def test_metadata_name_description_and_bootable_travel(lab):
    """Cinder contract 1.7: they are those at the time of the backup, in the backup itself."""
    volume = lab.filled(1, name="web root", description="the first", metadata={"a": "1", "b": "zwei"})
    lab.admin.volume_action(volume, "os-set_bootable", {"bootable": True}, 200)
    backup = lab.member.backup(volume)
    lab.admin.remove_volume(volume)
    new = lab.member.restore(backup)
    assert (new["name"], new["description"], new["bootable"]) == ("web root", "the first", "true")
    assert new["metadata"] == {"a": "1", "b": "zwei", "src_backup_id": backup["id"]}


def test_they_are_those_at_the_time_of_the_backup(lab):
    volume = lab.filled(1, name="before", metadata={"a": "1"})
    backup = lab.member.backup(volume)
    ok(lab.member.put(f"/volumes/{volume['id']}", {"volume": {"name": "after", "metadata": {"z": "9"}}}))
    lab.admin.volume_action(volume, "os-set_bootable", {"bootable": True}, 200)
    new = lab.member.restore(backup)
    assert (new["name"], new["bootable"]) == ("before", "false")
    assert new["metadata"] == {"a": "1", "src_backup_id": backup["id"]}
    assert lab.member.restore(backup, name="given")["name"] == "given"


def test_metadata_of_an_existing_target_is_replaced(lab):
    """Cinder contract 1.7: by the source's, if it had any; src_backup_id is added when the target is another volume."""
    source = lab.filled(1, metadata={"a": "1"})
    backup = lab.member.backup(source)
    target = lab.admin.create_volume(1, name="target", metadata={"mine": "x", "src_backup_id": NOBODY})
    after = lab.member.restore(backup, volume_id=target["id"])
    assert after["metadata"] == {"a": "1", "src_backup_id": backup["id"]}
    assert after["name"] == "target"
    ok(lab.member.put(f"/volumes/{source['id']}", {"volume": {"metadata": {"b": "2"}}}))
    assert lab.member.restore(backup, volume_id=source["id"])["metadata"] == {"a": "1"}
    again = lab.member.backup(target)
    assert lab.member.restore(again)["metadata"] == {"a": "1", "src_backup_id": again["id"]}


def test_a_target_without_a_name_of_its_own_gets_the_source_s(lab):
    """Cinder contract 1.7: empty, or one that an earlier restore gave."""
    backup = lab.member.backup(lab.admin.create_volume(1, name="source"))
    for name in (None, "", "restore_backup_x"):
        target = lab.admin.create_volume(1, name=name)
        assert lab.member.restore(backup, volume_id=target["id"])["name"] == "source"


def test_metadata_of_the_backup_is_not_the_volume_s(lab):
    volume = lab.admin.create_volume(1, metadata={"of": "volume"})
    backup = lab.member.backup(volume, metadata={"of": "backup"})
    assert backup["metadata"] == {"of": "backup"}
    assert lab.member.restore(backup)["metadata"] == {"of": "volume", "src_backup_id": backup["id"]}


# -------------------------------------------------------------------- by other ways


def test_a_volume_created_from_a_backup(lab):
    """Cinder contract 4.2, 6.2: from 3.47; it is never anything but creating before it is available."""
    source = lab.filled(1, [(0, 2 * MIB)])
    backup = lab.member.backup(source)
    made = ok(lab.member.post("/volumes", {"volume": {"backup_id": backup["id"], "name": "from backup"}}), 202)["volume"]
    seen = [made["status"]]
    while seen[-1] != "available":
        seen.append(lab.member.volume(made)["status"])
        assert seen[-1] in ("creating", "available")
    assert lab.member.volume(made)["size"] == 1
    assert_same_disk(lab.path(source), lab.path(made))
    lab.member.wait(backup)
    large = lab.member.create_volume(2, backup_id=backup["id"])
    assert_same_disk(lab.path(source), lab.path(large), length=2 * GIB)
    for code, body in ((404, {"backup_id": NOBODY, "size": 1}), (400, {"backup_id": "x", "size": 1})):
        fault(lab.member.post("/volumes", {"volume": body}), code)
    two = lab.member.backup(large)
    fault(lab.member.post("/volumes", {"volume": {"backup_id": two["id"], "size": 1}}), 400)
    lab.admin.reset(two, "error")
    fault(lab.member.post("/volumes", {"volume": {"backup_id": two["id"], "size": 2}}), 400)


@pytest.mark.parametrize("version", ["3.0", "3.43", MAX])
def test_a_restore_asks_no_version(shared, source, backup, version):
    """Cinder contract 4.1: the openstack client sends none."""
    client = shared.member.at(version)
    volume = client.restore(backup, name=f"at {version}")
    assert_same_disk(shared.path(source), shared.path(volume))
