"""Bits that change in the coffer: never passed on, found by a restore and by a check, confined to the backups that need them,
and mended by the next backup of the same data."""

import json
import os
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from faults.bench import CHUNK, LONG, Bench, copy_sparse, inject, write_disk
from faults.pages import PAGE, Pages
from helpers.api import ok
from helpers.disks import MIB
from helpers.wait import wait_for

SEGMENT = 1024 * CHUNK
ENTRY = 56
BAD = 5  # number of the chunk that is damaged


class Coffer(Bench):
    """Two machines. `old` and `new` are backups of the first one, which differ in the chunk BAD; `other` is of the second."""

    def __init__(self, daemon, size=8 * MIB):
        super().__init__(daemon)
        self.disk = write_disk(daemon.root / "a.img", size, size, "a")
        self.vm = self.instance([self.disk])
        self.old, self.old_bytes = self.backup(self.vm), copy_sparse(self.disk, daemon.base / "old")
        with open(self.disk, "r+b") as f:
            f.seek(BAD * CHUNK)
            f.write(os.urandom(CHUNK))
        self.new, self.new_bytes = self.backup(self.vm), copy_sparse(self.disk, daemon.base / "new")
        self.second = write_disk(daemon.root / "b.img", 4 * MIB, 4 * MIB, "b")
        self.other = self.backup(self.instance([self.second]))
        copy_sparse(self.old_bytes, self.disk)

    # ---- finding the way through the tables

    def map_id(self):
        return self.d.sql(
            "SELECT map_id FROM volume_backup vb JOIN backup b ON b.id = vb.backup_id WHERE b.uuid = ?", (self.old["uuid"],)
        )[0][0]

    def segment_id(self, number=0):
        (segments,), = self.d.sql("SELECT segments FROM volume_map WHERE id = ?", (self.map_id(),))
        return struct.unpack_from("<q", segments, 8 * number)[0]

    def address(self):
        """Pack and slot of the chunk BAD."""
        (chunks,), = self.d.sql("SELECT chunks FROM segment WHERE id = ?", (self.segment_id(),))
        bits, = struct.unpack_from("<Q", chunks, 8 * BAD)
        return bits >> 12, bits & 4095

    def place(self):
        """Where the chunk BAD lies in the data of its pack."""
        pack, slot = self.address()
        (entries,), = self.d.sql("SELECT entries FROM pack_toc WHERE id = ?", (pack,))
        return struct.unpack_from("<II", entries, ENTRY * slot + 32)

    def flip(self, table, column, row, byte, bit=3):
        (value,), = self.d.sql(f"SELECT {column} FROM {table} WHERE id = ?", (row,))
        value = bytearray(value)
        value[byte] ^= 1 << bit
        self.d.sql(f"UPDATE {table} SET {column} = ? WHERE id = ?", (bytes(value), row))


def flip_entry(byte, bit=3):
    def damage(c):
        pack, slot = c.address()
        c.flip("pack_toc", "entries", pack, ENTRY * slot + byte, bit)
    return damage


def flip_data(c):
    offset, stored = c.place()
    c.flip("pack", "data", c.address()[0], offset + stored // 2)


def cut_data(c):
    offset, _ = c.place()
    c.d.sql("UPDATE pack SET data = substr(data, 1, ?) WHERE id = ?", (offset + 10, c.address()[0]))


def flip_map(column, byte):
    return lambda c: c.flip("volume_map", column, c.map_id(), byte)


def flip_segment(column, byte, bit=3):
    return lambda c: c.flip("segment", column, c.segment_id(), byte, bit)


def lose(table, which):
    def damage(c):
        row = c.address()[0] if which == "pack" else c.segment_id()
        c.d.sql(f"DELETE FROM {table} WHERE id = ?", (row,))
    return damage


ONE, ALL = str(BAD * CHUNK), "0"  # the one chunk, or the whole segment
ANY = r"\d+"  # several are damaged; which one is met first depends on the threads
# What is damaged; the damaged byte of the volume that is named; whether `new` needs it too.
DAMAGES = {
    "pack data": (flip_data, ONE, False),
    "pack data cut": (cut_data, ANY, True),
    "toc hash": (flip_entry(7), ONE, False),
    "toc offset": (flip_entry(33), ONE, False),
    "toc offset far away": (flip_entry(35, 7), ONE, False),
    "toc stored length": (flip_entry(37), ONE, False),
    "toc raw length": (flip_entry(41), ONE, False),
    "toc encoding": (flip_entry(44, 0), ONE, False),
    "segment address to another slot": (flip_segment("chunks", 8 * BAD, 0), ALL, False),
    "segment address to nowhere": (flip_segment("chunks", 8 * BAD + 4, 6), ONE, False),
    "segment name": (flip_segment("hash", 3), ALL, False),
    "segment cut": (lambda c: c.d.sql("UPDATE segment SET chunks = substr(chunks, 1, 16) WHERE id = ?", (c.segment_id(),)), ALL, False),
    "segment lost": (lose("segment", "segment"), ALL, False),
    "map name": (flip_map("hash", 0), ALL, False),
    "map segments": (flip_map("segments", 1), ALL, False),
    "map size": (lambda c: c.d.sql("UPDATE volume_map SET size = size - 1 WHERE id = ?", (c.map_id(),)), ALL, False),
    "map chunk size": (lambda c: c.d.sql("UPDATE volume_map SET chunk_size = 12345 WHERE id = ?", (c.map_id(),)), ALL, False),
    "map lost": (lambda c: c.d.sql("DELETE FROM volume_map WHERE id = ?", (c.map_id(),)), ALL, False),
    "pack lost": (lose("pack", "pack"), ANY, True),
    "toc lost": (lose("pack_toc", "pack"), ALL, True),
}


@pytest.mark.fault("rot: in what is stored of a backup")
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_named_confined_and_mended(start_daemon, name):
    damage, offset, spreads = DAMAGES[name]
    c = Coffer(start_daemon())
    assert c.d.stop() == 0
    damage(c)
    c.d.start()

    # A restore to a new machine.
    given = {"image": c.image()["url"], "flavor": c.flavor()["url"]}
    new = ok(c.api.post(c.old["url"] + "restore/", given))["instance"]
    after = c.wait_rest(c.old["url"])
    named = re.compile(f"damaged at byte {offset}:")
    assert after["state"] == "Erred" and named.search(after["error_message"]), after
    machine = c.get(new)
    assert machine["state"] == "Erred" and named.search(machine["error_message"]), machine
    assert c.restored_files() == set()
    c.delete_instance(machine)
    ok(c.api.post(c.old["url"] + "restore/", given), 409)

    # A restore to a path, had it not been noticed before.
    c.force_backup(c.old, "ready")
    out = c.d.base / "out"
    task = c.restore_to(c.old, out)
    assert task["state"] == "failed" and named.search(task["error_message"]), task
    assert not out.exists()
    assert c.get(c.old)["state"] == "Erred"

    # A check.
    c.force_backup(c.old, "ready")
    found = c.cli("check", code=1)
    assert c.old["uuid"] in str(found) and re.search(f"'offset': {offset},", str(found)), found
    assert c.get(c.old)["state"] == "Erred"
    assert c.get(c.other)["state"] == "Ready"
    assert c.get(c.new)["state"] == ("Erred" if spreads else "Ready")

    # Who does not need it does not notice.
    c.assert_restores(c.other, c.second)
    if not spreads:
        c.assert_restores(c.new, c.new_bytes)

    # The next backup of the same data is whole, also if the daemon was restarted in between.
    if len(name) % 2:
        c.d.restart()
    again = c.backup(c.vm)
    c.assert_restores(again, c.old_bytes)
    c.cli("check", again["uuid"])
    # All: what is still damaged is named again, and nothing else.
    named = set(c.cli("check", code=None)["result"]["backups"])
    assert named == {b["uuid"] for b in (c.old, c.new) if c.get(b)["state"] == "Erred"}
    assert all(c.get(b)["state"] == "Ready" for b in (c.other, again))
    if name == "pack data":
        # What the new one has mended is found whole when it is named, and can be restored again.
        c.cli("check", c.old["uuid"])
        assert c.get(c.old)["state"] == "Ready" and c.get(c.old)["error_message"] == ""
        c.assert_restores(c.old, c.old_bytes)

    # And nothing of all this stays.
    for backup in (c.old, c.new, c.other, again):
        c.delete(backup)
    c.gc()
    c.assert_store_is_empty()


def test_damage_in_a_later_segment_is_named_by_its_offset(start_daemon):
    daemon = start_daemon()
    bench = Bench(daemon)
    disk = daemon.root / "long.img"
    with open(disk, "wb") as f:
        f.truncate(2 * SEGMENT + 5 * MIB)
        for at in (MIB, SEGMENT + 9 * MIB, 2 * SEGMENT + 4 * MIB):
            f.seek(at)
            f.write(os.urandom(MIB))
    backup = bench.backup(bench.instance([disk]))
    assert daemon.stop() == 0
    chunk, (segments,) = 9 * MIB // CHUNK, daemon.sql("SELECT segments FROM volume_map")[0]
    (chunks,), = daemon.sql("SELECT chunks FROM segment WHERE id = ?", (struct.unpack_from("<q", segments, 8)[0],))
    address, = struct.unpack_from("<Q", chunks, 8 * chunk)
    (entries,), = daemon.sql("SELECT entries FROM pack_toc WHERE id = ?", (address >> 12,))
    offset, = struct.unpack_from("<I", entries, ENTRY * (address & 4095) + 32)
    (data,), = daemon.sql("SELECT data FROM pack WHERE id = ?", (address >> 12,))
    data = bytearray(data)
    data[offset] ^= 1
    daemon.sql("UPDATE pack SET data = ? WHERE id = ?", (bytes(data), address >> 12))
    daemon.start()
    found = bench.cli("check", code=1)
    assert str(SEGMENT + chunk * CHUNK) in str(found)
    assert f"byte {SEGMENT + chunk * CHUNK}" in bench.get(backup)["error_message"]


@pytest.mark.parametrize("part", ["schema", "wal"])
def test_a_coffer_that_is_no_database_any_more_is_refused_with_a_reason(start_daemon, part):
    daemon = start_daemon()
    Bench(daemon).backup(Bench(daemon).instance())
    assert daemon.stop() == 0
    if part == "wal":
        # A WAL that belongs to nothing is ignored, as SQLite says.
        (daemon.state_dir / "coffer.db-wal").write_bytes(os.urandom(200_000))
        daemon.start()
        assert daemon.sql("SELECT state FROM backup") == [("ready",)]
        return
    with open(daemon.coffer, "r+b") as f:
        f.seek(100)
        f.write(b"\xff" * 4096)
    with pytest.raises(AssertionError, match="(?s)ended with 1 .*coffer"):
        daemon.start()
    assert "panicked" not in daemon.log()
    daemon.check = False


# -------------------------------------------------------------------- every kind of page

# Of these every day; of the others when there is time.
USUAL = {
    (None, "header and schema"), (None, "pointer map"), (None, "freelist trunk"), ("pack", "table interior"), ("pack", "table leaf"),
    ("pack", "overflow"), ("pack_toc", "table leaf"), ("segment", "table leaf"), ("segment", "index leaf"), ("volume_map", "table leaf"),
    ("backup", "table leaf"), ("backup", "index leaf"), ("volume_backup", "table leaf"), ("user", "table leaf"), ("job", "table leaf"),
}
# Kinds in which there are rows; all others only lead to them, and salvage does without.
ROWS = ("table leaf", "overflow", "header and schema")


def kinds_of(coffer):
    kinds = {kind: numbers for kind, numbers in Pages(coffer).kinds.items() if numbers}
    assert USUAL <= set(kinds), USUAL - set(kinds)
    return {kind: numbers for kind, numbers in kinds.items() if LONG or kind in USUAL}


def flip_at(at):
    def damage(page, rng):
        page[at] ^= 1 << rng.randrange(8)
    return damage


def flip_some(page, rng):
    for _ in range(20):
        page[rng.randrange(PAGE)] ^= 1 << rng.randrange(8)


def lose_it(page, rng):
    page[:] = bytes(PAGE)


def tear(page, rng):
    """A sector of something else."""
    at = rng.randrange(PAGE // 512) * 512
    page[at:at + 512] = rng.randbytes(512)


PAGE_DAMAGES = {"first byte": flip_at(0), "count": flip_at(4), "first pointer": flip_at(9), "bits": flip_some, "lost": lose_it, "torn": tear}


@pytest.fixture(scope="module")
def rotten(start_module_daemon):
    """A closed coffer with free pages, whose bytes can be put back."""
    daemon = start_module_daemon("[scrub]\nbytes_per_second = 0")
    daemon.check = False
    c = Coffer(daemon)
    assert daemon.stop() == 0
    # Enough packs for a tree of two levels, and some that were there.
    copies = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 4) INSERT INTO pack SELECT id + 5000 * n, data FROM pack, n"
    for sql in (copies, "DELETE FROM pack WHERE id > 15000"):
        daemon.sql(sql)
    c.whole, c.kinds = daemon.coffer.read_bytes(), kinds_of(daemon.coffer)
    c.wanted = [(c.old, c.old_bytes), (c.new, c.new_bytes), (c.other, c.second)]
    return c


def try_to_start(daemon):
    """Whether it starts; if not, it says that the coffer is damaged."""
    try:
        daemon.start()
        return True
    except AssertionError as error:
        assert "ended with 1 " in str(error) and re.search("coffer", str(error).split("at its start", 1)[1]), error
        daemon.kill()
        daemon.process = None
        return False


def assert_dialects_answer(daemon, project):
    """Whatever is damaged, each dialect says so in its own shape, and goes on."""
    for path, key in (("/api/openstack-backups/", "detail"), (f"/v3/{project}/backups/detail", None), ("/identity/v3/projects", "error"),
                      ("/api/events/", "detail")):
        answer = daemon.staff.get(path, headers={"X-Auth-Token": daemon.token} if key != "detail" else None)
        assert answer.status_code in (200, 401, 403, 404, 500), (path, answer.text)
        if answer.status_code == 500:
            fault = answer.json() if key == "detail" else answer.json().get(key or "computeFault")
            assert fault, answer.text


def assert_right_or_refused(c, number):
    """No restore gives other bytes than those that were backed up. How many were right."""
    right = 0
    for backup, content in c.wanted:
        out = c.d.base / f"out{number}"
        answer = c.api.post("/ops/restores/", {"backup": backup["uuid"], "position": 0, "path": str(out), "mode": "create"})
        if answer.status_code == 202:
            task = c.wait_task(answer.json()["task"])
            if task["state"] == "done":
                assert out.read_bytes() == content.read_bytes(), "wrong bytes"
                right += 1
            else:
                assert task["error_message"]
        else:
            assert answer.status_code in (400, 401, 404, 409, 500) and answer.json(), answer.text
        out.unlink(missing_ok=True)
    return right


def assert_salvaged(c, leads_only):
    """What salvage calls whole is; and where only the way to the rows was damaged, that is all of it."""
    out = c.d.base / "salvaged"
    shutil.rmtree(out, ignore_errors=True)
    copy = c.d.base / "copy.db"
    copy.write_bytes(c.damaged)
    result = subprocess.run([c.d.binary, "salvage", copy, "--to", out, "--json"], capture_output=True, text=True, timeout=120)
    assert result.returncode in (0, 1) and "panicked" not in result.stderr, result.stderr
    volumes = json.loads(result.stdout)["volumes"]
    contents = {backup["uuid"]: content.read_bytes() for backup, content in c.wanted}
    whole = [v for v in volumes if v["state"] == "whole"]
    assert all(Path(v["file"]).read_bytes() in contents.values() for v in whole), whole
    if leads_only:
        assert {v["backup"] for v in whole} == set(contents), volumes


@pytest.mark.timeout(3600 if LONG else 180)
@pytest.mark.parametrize("damage", PAGE_DAMAGES if LONG else ["first byte", "bits", "lost"])
def test_every_kind_of_page(rotten, ledger, damage):
    """What is found is reported, what is not found does no harm, and nothing wrong is ever given out."""
    c, rng = rotten, random.Random(damage)
    for number, ((table, kind), pages) in enumerate(sorted(c.kinds.items(), key=str)):
        with ledger.fault(f"rot: in a page that is {kind.replace(' and schema', '')}"):
            page = rng.choice(pages)
            c.damaged = bytearray(c.whole)
            one = c.damaged[(page - 1) * PAGE:page * PAGE]
            PAGE_DAMAGES[damage](one, rng)
            c.damaged[(page - 1) * PAGE:page * PAGE] = one
            c.d.coffer.write_bytes(c.damaged)
            for suffix in ("-wal", "-shm"):
                (c.d.state_dir / f"coffer.db{suffix}").unlink(missing_ok=True)
            assert_salvaged(c, kind not in ROWS)
            if try_to_start(c.d):
                assert_dialects_answer(c.d, c.project["uuid"])
                right = assert_right_or_refused(c, number)
                # (Without the pointer map SQLite reads no long rows. Salvage does.)
                if kind in ("freelist trunk", "free"):
                    assert right == 3, (table, kind, c.d.log()[-2000:])
                assert_dialects_answer(c.d, c.project["uuid"])
                c.d.kill()
            assert "panicked" not in c.d.log(), c.d.log()[-4000:]
            c.d.log_file.write_text("")


# -------------------------------------------------------------------- any bit of the file


@pytest.mark.timeout(3600 if LONG else 180)
@pytest.mark.parametrize("seed", range(1, 13 if LONG else 2))
def test_any_bits_of_the_file(start_daemon, seed):
    """Whatever bits change: a restore gives the right bytes or fails, and the daemon neither panics nor hangs."""
    seed = int(os.environ.get("COFFERD_SEED", seed))
    print(f"COFFERD_SEED={seed}")
    rng = random.Random(seed)
    daemon = start_daemon()
    daemon.check = False
    c = Coffer(daemon, 4 * MIB)
    c.wanted = [(c.old, c.old_bytes), (c.new, c.new_bytes), (c.other, c.second)]
    assert daemon.stop() == 0
    whole = daemon.coffer.read_bytes()
    outcomes = {"refused": 0, "failed": 0, "right": 0}
    for number in range(30 if LONG else 8):
        damaged = bytearray(whole)
        # Most of the file is data of packs; the first pages are catalog.
        reach = rng.choice([len(damaged), len(damaged) // 8, 65536])
        for _ in range(rng.choice([1, 1, 4, 60])):
            damaged[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        daemon.coffer.write_bytes(damaged)
        for suffix in ("-wal", "-shm"):
            (daemon.state_dir / f"coffer.db{suffix}").unlink(missing_ok=True)
        if not try_to_start(daemon):
            outcomes["refused"] += 1
            continue
        right = assert_right_or_refused(c, number)
        outcomes["right"] += right
        outcomes["failed"] += 3 - right
        daemon.kill()
    assert "panicked" not in daemon.log()
    print(outcomes)
    assert outcomes["right"]


# -------------------------------------------------------------------- a check beside other work


@pytest.mark.parametrize("past", [0, 16 * MIB], ids=["before its turn", "between its volumes"])
def test_a_backup_deleted_while_all_are_checked_is_no_finding(start_daemon, past):
    """The check knows of it from its beginning, and it goes."""
    daemon = start_daemon("[engine]\nworkers = 1")
    bench = Bench(daemon)
    vm = bench.instance([write_disk(daemon.root / f"{n}.img", 8 * MIB, 8 * MIB, n) for n in range(2)])
    first, second, third = (bench.backup(vm) for _ in range(3))
    assert daemon.stop() == 0
    daemon.wrapper = inject("pread64:delay_enter=20ms", daemon.coffer)
    daemon.start()
    number = ok(bench.api.post("/ops/check/", {}), 202)["task"]
    wait_for(lambda: ok(bench.api.get(f"/ops/tasks/{number}/"))["progress"]["read"] > past, "the check is there")
    bench.delete(second)
    task = bench.wait_task(number)
    assert task["state"] == "done" and task["result"]["corrupt"] == [], task
    assert [b["uuid"] for b in bench.backups_of(vm)] == [first["uuid"], third["uuid"]]


def test_a_damaged_backup_that_is_being_deleted_goes_though_a_check_finds_it(start_daemon):
    c = Coffer(start_daemon())
    assert c.d.stop() == 0
    flip_data(c)
    c.d.wrapper = inject("pread64:delay_enter=5ms", c.d.coffer)
    c.d.start()
    number = ok(c.api.post("/ops/check/", {}), 202)["task"]
    ok(c.api.post(c.old["url"] + "delete/"))
    c.wait_gone(c.old["url"])
    assert c.wait_task(number)["state"] == "done"
    assert c.d.sql("SELECT count(*) FROM job") == [(0,)]
