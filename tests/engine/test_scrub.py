"""The scrub: what is stored is read again, oldest-verified first; damage is mended from the live volume or named, and a restart goes
on where it was."""

import os
import re
import signal
import time

from faults.bench import CHUNK, Bench, copy_sparse
from faults.test_bit_rot import BAD, Coffer, flip_data
from helpers.api import ok
from helpers.disks import MIB
from helpers.wait import wait_for

OFF = "[scrub]\nbytes_per_second = 0"


def write_at(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def damage(c, *how):
    assert c.d.stop() == 0
    for change in how:
        change(c)
    c.d.start()


def never_verified(c):
    c.d.sql("UPDATE verified SET at = 0")


def verified(daemon):
    return dict(daemon.sql("SELECT pack, at FROM verified"))


def result(c, **order):
    task = c.task("/ops/scrub/", order)
    assert task["state"] == "done", task
    return task["result"]


def test_damage_is_named_and_confined_to_the_backups_that_need_it(start_daemon):
    c = Coffer(start_daemon(OFF))
    write_at(c.disk, BAD * CHUNK, os.urandom(CHUNK))
    damage(c, flip_data)
    shown = str(c.cli("scrub", code=1))
    assert c.old["uuid"] in shown and f"'offset': {BAD * CHUNK}," in shown, shown
    old = c.get(c.old)
    assert old["state"] == "Erred" and re.search(f"volume 0, byte {BAD * CHUNK}: ", old["error_message"]), old
    assert c.get(c.new)["state"] == c.get(c.other)["state"] == "Ready"
    c.assert_restores(c.new, c.new_bytes)
    c.assert_restores(c.other, c.second)

    # What is known is found again, but is no news.
    again = result(c)
    assert again["backups"] == [c.old["uuid"]] and again["healed"] == [] and again["unused"] == 0
    assert [(p["offset"], p["length"]) for p in again["corrupt"]] == [(BAD * CHUNK, CHUNK)]
    assert c.event_types(c.old).count("resource_backup_verification_failed") == 1

    # Once the same data is there again, in a volume of another shape, it is mended from there.
    longer = copy_sparse(c.old_bytes, c.d.root / "longer.img")
    os.truncate(longer, os.path.getsize(longer) + MIB)
    write_at(longer, os.path.getsize(longer) - MIB, os.urandom(MIB))
    c.backup(c.instance([longer]))
    mended = result(c)
    assert mended["corrupt"] == [] and [p["source"] for p in mended["healed"]] == ["another copy"]
    c.cli("check", c.old["uuid"])
    assert c.get(c.old)["state"] == "Ready"
    c.assert_restores(c.old, c.old_bytes)
    assert c.cli("scrub")["result"]["healed"] == []


def test_damage_is_mended_from_the_live_volume(start_daemon):
    c = Coffer(start_daemon(OFF))
    damage(c, flip_data)
    shown = str(c.cli("scrub", code=1))
    assert "the live volume 0 (a.img)" in shown and f"'offset': {BAD * CHUNK}," in shown, shown
    old = c.get(c.old)
    assert (old["state"], old["error_message"]) == ("Ready", "")
    event, = [e for e in c.events(scope=c.old["url"]) if e["event_type"] == "resource_backup_healed"]
    assert f"byte {BAD * CHUNK} of volume 0" in event["message"] and "the live volume 0 (a.img)" in event["message"], event
    assert str(c.disk) not in event["message"]
    for backup, content in ((c.old, c.old_bytes), (c.new, c.new_bytes), (c.other, c.second)):
        c.assert_restores(backup, content)
    assert c.cli("scrub")["result"]["corrupt"] == []
    c.cli("check")
    c.d.restart()
    c.gc()
    c.assert_restores(c.old, c.old_bytes)
    for backup in (c.old, c.new, c.other):
        c.delete(backup)
    c.gc()
    c.assert_store_is_empty()


def test_a_damaged_base_concerns_its_deltas_too(start_daemon):
    c = Bench(start_daemon(OFF))
    disk = c.d.root / "d.img"
    disk.write_bytes(os.urandom(4 * MIB))
    vm = c.instance([disk])
    first, first_bytes = c.backup(vm), copy_sparse(disk, c.d.base / "first")
    write_at(disk, CHUNK + 500, b"changed" * 100)
    second, second_bytes = c.backup(vm), copy_sparse(disk, c.d.base / "second")
    assert c.d.sql("SELECT format FROM pack_toc ORDER BY id") == [(1,), (2,)]
    write_at(disk, CHUNK, os.urandom(CHUNK))
    assert c.d.stop() == 0
    (data,), = c.d.sql("SELECT data FROM pack WHERE id = 1")
    (entries,), = c.d.sql("SELECT entries FROM pack_toc WHERE id = 1")
    data = bytearray(data)
    data[int.from_bytes(entries[56 + 32:56 + 36], "little") + 100] ^= 4
    c.d.sql("UPDATE pack SET data = ? WHERE id = 1", (bytes(data),))
    c.d.start()
    assert sorted(result(c)["backups"]) == sorted([first["uuid"], second["uuid"]])
    for backup in (first, second):
        assert f"byte {CHUNK}:" in c.get(backup)["error_message"]
    # The second's data comes back, and with it the second backup.
    copy_sparse(second_bytes, disk)
    after = result(c)
    assert after["backups"] == [first["uuid"]] and [p["backup"] for p in after["healed"]] == [second["uuid"]]
    c.cli("check", second["uuid"])
    c.assert_restores(second, second_bytes)
    copy_sparse(first_bytes, disk)
    assert result(c)["backups"] == []
    c.cli("check", first["uuid"])
    c.assert_restores(first, first_bytes)


def test_it_runs_by_itself_when_it_is_due(start_daemon):
    c = Coffer(start_daemon())
    young = verified(c.d)
    assert young and min(young.values()) > 0
    c.d.restart()
    time.sleep(1)
    assert verified(c.d) == young, "nothing is due"
    damage(c, flip_data, never_verified)
    wait_for(lambda: "resource_backup_healed" in c.event_types(c.old), "the scrub finds and mends it")
    wait_for(lambda: min(verified(c.d).values()) > 0, "all is verified")
    assert c.get(c.old)["state"] == "Ready"
    c.assert_restores(c.old, c.old_bytes)


def test_an_interrupted_one_goes_on_where_it_was(start_daemon):
    c = Bench(start_daemon("[scrub]\nbytes_per_second = 6000000"))
    disk = c.d.root / "noise.img"
    disk.write_bytes(os.urandom(48 * MIB))
    backup = c.backup(c.instance([disk]))
    damage(c, never_verified)
    time.sleep(4)
    began = time.monotonic()
    assert c.d.stop() == 0
    assert time.monotonic() - began < 5
    before = verified(c.d)
    done = {pack: at for pack, at in before.items() if at > 0}
    assert done and len(done) < len(before), before
    assert sorted(done) == sorted(before)[: len(done)], "oldest first"
    c.d.configure()
    c.d.start()
    wait_for(lambda: min(verified(c.d).values()) > 0, "the rest is verified")
    after = verified(c.d)
    assert {pack: after[pack] for pack in done} == done, "what was verified is not read again"
    c.assert_restores(backup, disk)


def test_a_rate_of_nothing_reads_nothing_until_it_is_asked_for(start_daemon):
    c = Coffer(start_daemon(OFF))
    damage(c, never_verified)
    time.sleep(1)
    assert set(verified(c.d).values()) == {0}
    stats = ok(c.api.get("/ops/stats/"))
    assert stats["scrub_oldest"] is None and stats["scrub_due_bytes"] == stats["stored_bytes"] > 0
    assert result(c, older_than_days=30)["packs"] == stats["packs"]
    assert min(verified(c.d).values()) > 0
    stats = ok(c.api.get("/ops/stats/"))
    assert stats["scrub_oldest"] and stats["scrub_due_bytes"] == 0
    assert c.cli("scrub", "--older-than", 1)["result"]["packs"] == 0
    assert c.cli("scrub", "--rate", "1G")["result"]["packs"] == stats["packs"]
    for refused in ({"older_than_days": -1}, {"bytes_per_second": 0}):
        ok(c.api.post("/ops/scrub/", refused), 400)

    # Another configuration is taken over at once.
    never_verified(c)
    c.d.configure()
    os.kill(c.d.pid, signal.SIGHUP)
    wait_for(lambda: min(verified(c.d).values()) > 0, "it begins")

    # A command does it without a daemon too.
    assert c.d.stop() == 0
    assert c.cli("scrub")["result"]["packs"] == stats["packs"]
    c.d.start()
