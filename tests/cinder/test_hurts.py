"""What hurts in stock Cinder and must not here (Cinder contract 7)."""

import os
import random
import threading
import time
import uuid

import pytest

from helpers.api import ok
from helpers.cinder import (
    assert_restored, assert_same_disk, decode, encode, fault, fill, keep,
)
from helpers.daemon import slow_reads
from helpers.disks import MIB, allocated
from helpers.wait import wait_for

SIZES = [1, 100]


# -------------------------------------------------------------------- room and time


@pytest.mark.parametrize("size", SIZES)
def test_holes_cost_nothing(own, size):
    """Neither room nor objects nor, to speak of, time; in the backup and in what is restored from it."""
    volume = own.admin.create_volume(size)
    begin = time.monotonic()
    full = own.member.backup(volume)
    child = own.member.backup(volume, incremental=True)
    new = own.member.restore(child)
    assert time.monotonic() - begin < 20
    assert own.stored() == 0 and (full["object_count"], child["object_count"]) == (0, 0)
    assert os.path.getsize(own.path(new)) == size << 30 and allocated(own.path(new)) < MIB
    assert own.d.coffer.stat().st_size < 16 * MIB


def test_written_zeros_cost_nothing_either(own):
    volume = own.admin.create_volume(1)
    with open(own.path(volume), "r+b") as f:
        f.write(bytes(16 * MIB))
    backup = own.member.backup(volume)
    assert own.stored() == 0 and backup["object_count"] == 0
    assert allocated(own.path(own.member.restore(backup))) < MIB


def test_what_is_unchanged_is_not_stored_again(own):
    """Between backups, between volumes, within a volume; full or incremental is the same."""
    volume = own.filled(1, [(0, 4 * MIB)])
    own.member.backup(volume)
    first = own.stored()
    assert first >= 4 * MIB
    own.member.backup(volume)
    own.member.backup(volume, incremental=True)
    twin = own.admin.create_volume(1)
    with open(own.path(volume), "rb") as f:
        content = f.read(4 * MIB)
    with open(own.path(twin), "r+b") as f:
        f.write(content)
        f.seek(512 * MIB)
        f.write(content)
    backup = own.member.backup(twin)
    assert own.stored() - first < MIB // 4
    assert_same_disk(own.path(twin), own.path(own.member.restore(backup)))


def test_a_small_change_costs_little(own):
    volume = own.filled(1, [(0, 8 * MIB)])
    own.member.backup(volume)
    before = own.stored()
    fill(own.path(volume), [(5 * MIB + 4096, 4096)])
    backup = own.member.backup(volume, incremental=True)
    assert own.stored() - before <= MIB
    assert_same_disk(own.path(volume), own.path(own.member.restore(backup)))


def test_old_points_can_be_pruned(own):
    """Stock keeps a chain for ever: here a chain goes from its end, and each point that is left is whole."""
    volume, copies = own.filled(1, [(0, 2 * MIB)]), []
    chain = []
    for n in range(4):
        fill(own.path(volume), [(n * MIB, MIB)])
        copies.append(keep(own.path(volume), own.d.base / f"copy{n}"))
        chain.append(own.member.backup(volume, incremental=n > 0))
    while chain:
        for backup, copy in zip(chain, copies, strict=False):
            new = own.member.restore(backup)
            assert_same_disk(copy, own.path(new))
            own.admin.remove_volume(new)
        own.member.remove(chain.pop())
        own.gc()
    assert own.stored() == 0


# -------------------------------------------------------------------- what is stored is verified


def flip(daemon, where):
    """Changes one bit in each pack of the coffer."""
    assert daemon.stop() == 0
    for (pack,) in daemon.sql("SELECT id FROM pack"):
        (data,), = daemon.sql("SELECT data FROM pack WHERE id = ?", (pack,))
        data = bytearray(data)
        data[int(where * (len(data) - 1))] ^= 16
        daemon.sql("UPDATE pack SET data = ? WHERE id = ?", (bytes(data), pack))
    daemon.start()


@pytest.mark.parametrize("where", [0, 0.33, 0.5, 0.999, 1])
def test_a_flipped_byte_fails_the_restore(own, where):
    """Stock never looks at the checksums that it keeps. Here the backup is in error with the reason, the target
    error_restoring; another backup, and the next one of the same data, are good."""
    volume = own.filled(1, [(0, 4 * MIB)])
    backup, target = own.member.backup(volume), own.admin.create_volume(1)
    flip(own.d, where)
    other = own.filled(1, [(0, MIB)])
    good = own.member.backup(other)
    own.member.start_restore(backup, volume_id=target["id"])
    own.member.wait_volume(target, "error_restoring")
    failed = own.member.wait(backup, "error")
    assert failed["fail_reason"] and len(failed["fail_reason"]) <= 255
    fault(own.member.post(f"/backups/{backup['id']}/restore", {"restore": {}}), 400)
    assert_same_disk(own.path(other), own.path(own.member.restore(good)))
    again = own.member.backup(volume)
    assert_same_disk(own.path(volume), own.path(own.member.restore(again)))


def test_a_flipped_byte_fails_a_restore_to_a_new_volume(own):
    backup = own.member.backup(own.filled(1, [(0, 2 * MIB)]))
    flip(own.d, 0.5)
    made = own.member.start_restore(backup)
    own.member.wait_volume(made["volume_id"], "error_restoring")
    own.member.wait(backup, "error")
    own.member.remove_volume(made["volume_id"])
    second = own.member.backup(own.filled(1, [(0, MIB)]))
    flip(own.d, 0.5)
    created = ok(own.member.post("/volumes", {"volume": {"backup_id": second["id"]}}), 202)["volume"]
    own.member.wait_volume(created, "error")
    own.member.wait(second, "error")


def test_a_flipped_byte_is_not_hidden_by_an_imported_record(own):
    """The edited copy refers to the same bytes, so it fails as well."""
    backup = own.member.backup(own.filled(1, [(0, MIB)]))
    exported = own.admin.export(backup)
    record = decode(exported["backup_url"]) | {"id": str(uuid.uuid4())}
    copy = own.admin.wait(ok(own.admin.import_record(exported["backup_service"], encode(record)), 201)["backup"])
    flip(own.d, 0.5)
    target = own.admin.create_volume(1)
    own.member.start_restore(copy, volume_id=target["id"])
    own.member.wait_volume(target, "error_restoring")
    own.member.wait(copy, "error")


def test_a_flipped_byte_does_not_call_a_deletion_off(braked):
    """What is found while the deletion waits for a reader: the snapshot goes all the same."""
    lab = braked(slow_reads, "slow.img", config="[engine]\njobs = 1")
    snapshot = lab.member.snapshot(lab.filled(1, [(0, 4 * MIB)]))
    flip(lab.d, 0.5)
    lab.member.create(lab.registered(8 * MIB, "slow.img"))  # what comes after it waits
    made = ok(lab.member.post("/volumes", {"volume": {"size": 1, "snapshot_id": snapshot["id"]}}), 202)["volume"]
    ok(lab.member.delete(f"/snapshots/{snapshot['id']}"), 202)
    lab.member.wait_volume(made, "error")
    wait_for(lambda: lab.member.get(f"/snapshots/{snapshot['id']}").status_code == 404, "the snapshot goes")


# -------------------------------------------------------------------- accounts that stay true


def test_failing_incrementals_cost_no_quota(lab):
    """Stock leaks the reservation each time (contract 1.1)."""
    volume = lab.admin.create_volume(1)
    lab.admin.set_quota(backups=2, backup_gigabytes=2)
    for _ in range(5):
        fault(lab.member.post("/backups", {"backup": {"volume_id": volume["id"], "incremental": True}}), 400)
    assert lab.admin.usage()[:2] == (0, 0)
    lab.member.backup(volume)
    lab.member.backup(volume, incremental=True)
    assert lab.admin.usage()[:2] == (2, 2)


def test_incremental_while_the_first_is_being_made(lab):
    """Stock answers a meaningless error and leaks (contract 1.1). It is 400, as the volume is backing-up."""
    volume = lab.filled(1, [(0, 16 * MIB)])
    first = lab.member.create(volume)
    answer = lab.member.post("/backups", {"backup": {"volume_id": volume["id"], "incremental": True}})
    lab.member.wait(first)
    if answer.status_code == 202:  # it had finished already
        assert lab.member.wait(answer.json()["backup"])["is_incremental"]
    else:
        fault(answer, 400)
        assert lab.admin.usage()[:2] == (1, 1)


def test_dependants_do_not_drift(lab):
    """Stock counts them and miscounts when several things happen at once (contract 6.5)."""
    volume = lab.admin.create_volume(1)
    base = lab.member.backup(volume)
    for _ in range(3):
        child = lab.member.backup(volume, incremental=True)
        lab.admin.reset(child, "error")
        answers = together(*[lambda: lab.client("manager").at().delete(f"/backups/{child['id']}") for _ in range(3)])
        assert sorted(a.status_code for a in answers)[0] == 202
        assert all(a.status_code in (202, 400, 404) for a in answers)
        lab.member.wait_gone(child)
        assert lab.member.show(base)["has_dependent_backups"] is False
    lab.member.remove(base)


# -------------------------------------------------------------------- at the same time


def together(*calls):
    """Makes the calls at once, each in its thread; what they returned, in the order of the calls."""
    barrier, results = threading.Barrier(len(calls)), [None] * len(calls)

    def run(n):
        barrier.wait()
        try:
            results[n] = calls[n]()
        except BaseException as error:  # handed to the test
            results[n] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def test_several_volumes_in_parallel(lab):
    """Tempest's concurrency test: five creates, backups and restores at once; and each gets its own bytes."""
    lab.member  # its user is made before the threads begin

    def one(n):
        client = lab.admin.at()
        volume = client.create_volume(1, name=f"p{n}")
        fill(lab.path(volume), [(n * MIB, 3 * MIB), (100 * n * MIB, 300_000)])
        full = client.backup(volume)
        fill(lab.path(volume), [(n * MIB + MIB, MIB)])
        child = client.backup(volume, incremental=True)
        new = client.restore(child, name=f"r{n}")
        assert_same_disk(lab.path(volume), lab.path(new))
        client.restore(full, volume_id=new["id"])
        client.remove(child)
        client.remove(full)
        return volume, new

    results = together(*[lambda n=n: one(n) for n in range(5)])
    assert len({v["id"] for pair in results for v in pair}) == 10
    assert lab.admin.usage() == (0, 0, 10, 10)


def test_restores_of_different_backups_in_parallel(lab):
    """Of one volume, to new volumes, to existing ones, and beside a running backup of it."""
    volume, copies, backups = lab.filled(1, [(0, 4 * MIB)]), [], []
    for n in range(4):
        fill(lab.path(volume), [(n * MIB, MIB)])
        copies.append(keep(lab.path(volume), lab.d.base / lab.unique("copy")))
        backups.append(lab.member.backup(volume, incremental=n > 0))
    target = lab.filled(1, [(0, 8 * MIB)])

    def restore(n, **fields):
        return lab.path(lab.member.at().restore(backups[n], **fields))

    *restored, last = together(
        lambda: restore(0), lambda: restore(1, volume_id=target["id"]), lambda: restore(2, name="x"), lambda: restore(3),
        lambda: lab.member.at().backup(volume),
    )
    for copy, new in zip(copies, restored, strict=True):
        assert_same_disk(copy, new)
    assert_same_disk(lab.path(volume), lab.path(lab.member.restore(last)))


def test_only_one_of_many_requests_begins(lab):
    """Backups of one volume, restores of one backup, restores to one volume: one is accepted, the others are refused."""
    volume = lab.filled(1, [(0, 24 * MIB)])
    member = lab.member
    made = together(*[lambda: member.at().post("/backups", {"backup": {"volume_id": volume["id"]}}) for _ in range(4)])
    accepted = [a.json()["backup"] for a in made if a.status_code == 202]
    assert accepted and all(a.status_code in (202, 400) for a in made)
    for backup in accepted:
        member.wait(backup)
    assert sorted(member.ids()) == sorted(b["id"] for b in accepted)
    one, two = accepted[0], member.backup(volume)
    target = lab.admin.create_volume(1)
    answers = together(*[
        lambda b=b: member.at().post(f"/backups/{b['id']}/restore", {"restore": {"volume_id": target["id"]}})
        for b in (one, two, one, two)
    ])
    assert any(a.status_code == 202 for a in answers) and all(a.status_code in (202, 400) for a in answers)
    for answer in answers:
        if answer.status_code == 400:
            fault(answer, 400)
    member.wait_volume(target)
    member.wait(one), member.wait(two)
    assert_same_disk(lab.path(volume), lab.path(target))


def test_creating_against_deleting_the_parent(lab):
    """Either the parent stays, or the incremental backup is refused; never a child without its parent."""
    volume = lab.filled()
    member = lab.member
    for _ in range(6):
        parent = member.backup(volume)
        created, deleted = together(
            lambda: member.at().post("/backups", {"backup": {"volume_id": volume["id"], "incremental": True}}),
            lambda: member.at().delete(f"/backups/{parent['id']}"),
        )
        if created.status_code == 202:
            child = member.wait(created.json()["backup"])
            assert child["is_incremental"]
            fault(deleted, 400)
            assert_same_disk(lab.path(volume), lab.path(lab.member.restore(child)))
            member.remove(child)
            member.remove(parent)
        else:
            fault(created, 400)
            assert deleted.status_code == 202
            member.wait_gone(parent)


def test_quota_under_a_race(lab):
    """Usage comes from rows, and the check is in the same transaction: never more than the limit."""
    volumes = [lab.admin.create_volume(1) for _ in range(6)]
    lab.admin.set_quota(backups=3)
    member = lab.member
    answers = together(*[lambda v=v: member.at().post("/backups", {"backup": {"volume_id": v["id"]}}) for v in volumes])
    assert sorted(a.status_code for a in answers) == [202] * 3 + [413] * 3
    for answer in answers:
        if answer.status_code == 202:
            member.wait(answer.json()["backup"])
    assert lab.admin.usage()[:2] == (3, 3)


def test_everything_at_once(own):
    """Backups, restores, deletions and listings of several volumes at random; what is left restores to its own moment."""
    seed = int(os.environ.get("COFFERD_SEED", random.randrange(10**6)))
    print(f"COFFERD_SEED={seed}")
    own.member  # its user is made before the threads begin
    known, lock = {}, threading.Lock()

    def worker(n):
        rng, client = random.Random(f"{seed}/{n}"), own.member.at()
        volume = own.admin.at().create_volume(1)
        path = own.path(volume)
        for step in range(8):
            fill(path, [(rng.randrange(8) * MIB, MIB)], rng.random())
            mine = [i for i, (owner, _) in known.items() if owner == n]
            backup = client.backup(volume, incremental=bool(mine) and rng.random() < 0.5)
            copy = keep(path, own.d.base / f"copy-{n}-{step}")
            with lock:
                known[backup["id"]] = n, copy
            client.list()
            if mine and rng.random() < 0.4:
                victim = rng.choice(mine)
                if client.delete(f"/backups/{victim}").status_code == 202:
                    client.wait_gone(victim)
                    with lock:
                        del known[victim]
            if rng.random() < 0.3:
                client.restore(backup, volume_id=volume["id"])
                assert_same_disk(copy, path)
        return volume

    together(*[lambda n=n: worker(n) for n in range(4)])
    own.gc()
    assert set(own.member.ids()) == set(known) and own.admin.usage()[0] == len(known)
    for ident, (_, copy) in known.items():
        new = own.member.restore(ident)
        assert_same_disk(copy, own.path(new))
        own.admin.remove_volume(new)


# -------------------------------------------------------------------- nothing stays locked


def test_a_lost_disk_does_not_lock_the_volume(lab):
    volume = lab.registered(2 * MIB)
    path = lab.path(volume)
    away = path.rename(path.with_suffix(".away"))
    for _ in range(2):
        lab.member.remove(lab.member.wait(lab.member.create(volume), "error"))
        assert lab.member.wait_volume(volume)
    away.rename(path)
    assert_restored(path, lab.path(lab.member.restore(lab.member.backup(volume))))
