"""`cofferd salvage`: what is there comes out of a coffer that SQLite cannot read, and nothing else does."""

import json
import os
import random
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from faults.bench import CHUNK, LONG, QUICK, Bench, copy_sparse, mutate, write_disk
from faults.pages import PAGE, TABLE_LEAF, Pages, local_part, overwrite, varint
from helpers.cinder_volumes import Cloud, content
from helpers.disks import MIB, allocated, same_bytes

FIXTURES = Path(__file__).parents[1] / "format" / "fixtures"
MOST_MEMORY = 256 * MIB


def salvage(binary, coffer, *arguments, code=0, memory=None):
    """What the command reports."""
    limit = (lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))) if memory else None
    command = [binary, "salvage", str(coffer), "--json", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=limit)
    assert "panicked" not in result.stderr and result.returncode in (0, 1), result.stderr[-3000:]
    assert code is None or result.returncode == code, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return json.loads(result.stdout) if result.stdout else result.stderr


class Truth:
    """A coffer, closed, and what each volume of each backup held: {(uuid of the backup, name of the volume): file}."""

    def __init__(self, daemon):
        self.bench = bench = Bench(daemon)
        self.binary, self.coffer = daemon.binary, daemon.coffer
        self.volumes = {}
        disks = [write_disk(daemon.root / "system.img", 40 * MIB, 24 * MIB, 1), write_disk(daemon.root / "data.img", 1100 * MIB, 9 * MIB, 2)]
        vm = bench.instance(disks, name="web")
        for n in range(3):
            self.keep(bench.backup(vm), disks)
            mutate(disks[0], random.Random(n), 3 * MIB)
            with open(disks[1], "r+b") as f:  # little enough for deltas
                f.seek(2 * MIB + n * 9000)
                f.write(os.urandom(5000))
        other = write_disk(daemon.root / "other.img", 7 * MIB + 4097, 7 * MIB + 4097, 3)
        gone = bench.backup(bench.instance([other], name="gone"))
        # Of a volume alone, and a snapshot, as Cinder makes them.
        cloud = Cloud(daemon)
        volume = cloud.registered(size=5 * MIB, name="loose")
        cloud.backup(volume)
        cloud.snapshot(volume)
        rows = daemon.sql("SELECT b.uuid, vb.name FROM backup b JOIN volume_backup vb ON vb.backup_id = b.id WHERE b.kind <> 'instance'")
        assert len(rows) == 2
        for row in rows:
            self.volumes[row] = copy_sparse(cloud.path(volume), daemon.base / f"{row[0]}-loose")
        bench.delete(gone)
        bench.gc()
        self.size = {key: os.path.getsize(path) for key, path in self.volumes.items()}
        self.content = {key: content(path) for key, path in self.volumes.items()}

    def keep(self, backup, disks):
        for disk in disks:
            self.volumes[backup["uuid"], disk.name] = copy_sparse(disk, self.bench.d.base / f"{backup['uuid']}-{disk.name}")


@pytest.fixture(scope="module")
def truth(start_module_daemon):
    daemon = start_module_daemon("[engine]\nmaintenance_interval_s = 3600")
    truth = Truth(daemon)
    assert daemon.stop() == 0
    rows = daemon.sql("SELECT b.uuid, vb.name, vb.map_id FROM backup b JOIN volume_backup vb ON vb.backup_id = b.id")
    truth.maps = {(uuid, name): map_id for uuid, name, map_id in rows}
    # Free pages, in which there is what was valid once.
    connection = sqlite3.connect(daemon.coffer)
    connection.execute("PRAGMA secure_delete = OFF")
    gone = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1500)" \
        " INSERT INTO volume_map SELECT 7000 + n, randomblob(32), 1048576, 1048576, zeroblob(8), 0 FROM n"
    for sql in ("INSERT INTO pack SELECT id + 7000, data FROM pack", "DELETE FROM pack WHERE id > 7000", gone,
                "DELETE FROM volume_map WHERE id > 7000"):
        connection.execute(sql)
        connection.commit()
    connection.close()
    truth.pages = Pages(truth.coffer)
    assert len(truth.pages.kinds[None, "free"]) > 100 and truth.pages.kinds["pack", "table interior"]
    return truth


@pytest.fixture
def out(tmp_path):
    """Where files go that are compared and thrown away."""
    directory = Path(QUICK or tmp_path) / f"cofferd-salvage-{os.getpid()}"
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def broken(truth, tmp_path):
    """A copy of the coffer, to be damaged."""
    return copy_sparse(truth.coffer, tmp_path / "broken.db")


def assert_all_whole(truth, report):
    """Every volume of every backup came out, whole and equal, and nothing else."""
    got = {(v["backup"], v["volume"]): v for v in report["volumes"]}
    assert set(got) == set(truth.volumes) and len(got) == len(report["volumes"])
    for key, volume in got.items():
        assert volume["state"] == "whole", volume
        assert os.path.getsize(volume["file"]) == truth.size[key] and content(volume["file"]) == truth.content[key], volume


def assert_equal_where_not_listed(truth, report):
    """What is not listed as lost is as it was, and the rest are holes; returns the bytes that are lost."""
    by_map = {map_id: key for key, map_id in truth.maps.items()}
    total = 0
    for volume in report["volumes"]:
        key = (volume["backup"], volume["volume"]) if volume["backup"] else by_map[volume["map"]]
        if volume["state"] == "lost":
            total += truth.size[key]
            continue
        lost = [range(fault["offset"], fault["offset"] + fault["length"]) for fault in volume["lost"]]
        wanted = {at: block for at, block in truth.content[key].items() if not any(at in part for part in lost)}
        assert os.path.getsize(volume["file"]) == truth.size[key] and content(volume["file"]) == wanted, (volume["state"], key)
        assert (volume["state"] == "whole") == (not volume["lost"] and not volume["doubtful"])
        total += sum(map(len, lost))
    return total


def sqlite_is_content(coffer):
    """Whether SQLite finds nothing wrong."""
    connection = sqlite3.connect(f"file:{coffer}?mode=ro&immutable=1", uri=True)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()


# -------------------------------------------------------------------- a healthy coffer


def test_a_whole_coffer_gives_what_restores_give(truth, out):
    before = (truth.coffer.read_bytes(), truth.coffer.stat().st_mtime_ns)
    report = salvage(truth.binary, truth.coffer, "--to", out)
    assert report["remarks"] == []
    assert_all_whole(truth, report)
    for volume in report["volumes"]:
        assert allocated(volume["file"]) <= allocated(truth.volumes[volume["backup"], volume["volume"]]) + 4 * MIB
    assert (truth.coffer.read_bytes(), truth.coffer.stat().st_mtime_ns) == before
    names = {Path(volume["file"]).name for volume in report["volumes"]}
    assert any(name.startswith("web-20") and name.endswith("Z-system.img") for name in names), names
    assert not list(truth.coffer.parent.glob("coffer.db-*"))


def test_the_list_writes_nothing_and_one_backup_can_be_chosen(truth, out):
    (uuid, _), *_ = truth.volumes
    listed = salvage(truth.binary, truth.coffer, "--list")
    assert {(v["backup"], v["volume"], v["size"]) for v in listed["volumes"]} == {(*key, size) for key, size in truth.size.items()}
    assert not out.exists()
    report = salvage(truth.binary, truth.coffer, "--to", out, "--backup", uuid)
    assert sorted(v["volume"] for v in report["volumes"]) == ["data.img", "system.img"]
    assert "tells of a backup" in salvage(truth.binary, truth.coffer, "--list", "--backup", "0" * 32, code=1)


def test_nothing_is_overwritten(truth, out):
    (uuid, _), *_ = truth.volumes
    files = [[v["file"] for v in salvage(truth.binary, truth.coffer, "--to", out, "--backup", uuid)["volumes"]] for _ in range(2)]
    assert len(set(files[0] + files[1])) == 4 and all("-2.img" in name for name in files[1])
    assert same_bytes(files[0][0], files[1][0])


def test_what_is_in_the_log_alone_comes_out_too(start_daemon, out):
    """The daemon is killed, so its last commits are in the WAL; SQLite's own files are opened for reading only."""
    daemon = start_daemon("[engine]\nmaintenance_interval_s = 3600")
    bench = Bench(daemon)
    disk = write_disk(daemon.root / "a.img", 12 * MIB, 12 * MIB, 1)
    backup = bench.backup(bench.instance([disk]))
    refused = salvage(daemon.binary, daemon.coffer, "--list", code=1)
    assert "in use by a cofferd" in refused
    daemon.kill()
    wal = Path(f"{daemon.coffer}-wal")
    assert wal.stat().st_size > 4 * MIB
    trace = daemon.base / "trace"
    traced = ["strace", "-f", "-qq", "-e", "trace=openat,open", "-o", trace, daemon.binary, "salvage", daemon.coffer, "--to", out, "--json"]
    report = json.loads(subprocess.run(traced, capture_output=True, text=True, check=True).stdout)
    assert [(v["backup"], v["state"]) for v in report["volumes"]] == [(backup["uuid"], "whole")]
    assert same_bytes(report["volumes"][0]["file"], disk)
    opened = [line for line in trace.read_text().splitlines() if "coffer." in line]
    assert opened and all("O_RDONLY" in line for line in opened), opened

    # One frame that was damaged is left out alone, and what it held is missing or was in the file before.
    frames = (wal.stat().st_size - 32) // (PAGE + 24)
    whole = wal.read_bytes()
    for frame in random.Random(7).sample(range(frames), 6):
        damaged = bytearray(whole)
        damaged[32 + frame * (PAGE + 24) + 24 + 30_000] ^= 16
        wal.write_bytes(damaged)
        shutil.rmtree(out)
        report = salvage(daemon.binary, daemon.coffer, "--to", out, code=None)
        for volume in report["volumes"]:
            if volume["state"] == "whole":
                assert same_bytes(volume["file"], disk), frame
    # Without a header that can be believed, all frames but the first can.
    wal.write_bytes(whole[:18] + bytes([whole[18] ^ 0xFF]) + whole[19:])
    shutil.rmtree(out)
    report = salvage(daemon.binary, daemon.coffer, "--to", out, code=None)
    assert report["remarks"] and any(v["state"] == "whole" and same_bytes(v["file"], disk) for v in report["volumes"]), report
    wal.write_bytes(whole)


@pytest.mark.parametrize("layout", [1, 2, 3])
def test_older_formats_come_out(binary, tmp_path, out, layout):
    coffer = tmp_path / "old.db"
    packed = (FIXTURES / f"format-{layout}.db.zst").read_bytes()
    coffer.write_bytes(zstandard.ZstdDecompressor().decompress(packed, max_output_size=64 * MIB))
    report = salvage(binary, coffer, "--to", out)
    assert [v["volume"] for v in report["volumes"]] == ["system.img", "data.img"] * 2
    assert all(v["instance"] == "web" and v["state"] == "whole" for v in report["volumes"])
    extract = Path(__file__).parents[1] / "format" / "extract.py"
    for volume in report["volumes"]:
        copy = tmp_path / f"{volume['map']}"
        if not copy.exists():
            subprocess.run([sys.executable, extract, coffer, str(volume["map"]), copy], check=True)
        assert same_bytes(copy, volume["file"])


# -------------------------------------------------------------------- trees that lead nowhere


def zero(*numbers):
    return lambda path, truth: [overwrite(path, number, bytes(PAGE)) for number in numbers]


def scramble_header(*numbers):
    return lambda path, truth: [overwrite(path, number, b"\xff") for number in numbers]


def of(truth, table, kind):
    return truth.pages.kinds[table, kind]


def lose_the_first_page(path, truth):
    overwrite(path, 1, bytes(PAGE))


def lose_the_file_header(path, truth):
    overwrite(path, 1, os.urandom(100))


def lose_the_pointer_map(path, truth):
    for number in of(truth, None, "pointer map"):
        overwrite(path, number, os.urandom(PAGE))


def lose_the_freelist(path, truth):
    for number in of(truth, None, "freelist trunk"):
        overwrite(path, number, b"\xff" * PAGE)


def lose_all_interior_pages(path, truth):
    for (_, kind), numbers in truth.pages.kinds.items():
        if kind.endswith("interior"):
            for number in numbers:
                overwrite(path, number, os.urandom(PAGE))


def lose_all_indexes(path, truth):
    for (_, kind), numbers in truth.pages.kinds.items():
        if kind.startswith("index"):
            for number in numbers:
                overwrite(path, number, bytes(PAGE))


def scramble_kinds(path, truth):
    """The first byte of each leaf of the store, which says that it is one. The trees are whole, else nobody could know."""
    for table in ("pack", "pack_toc", "segment", "volume_map"):
        for number in of(truth, table, "table leaf"):
            overwrite(path, number, b"\x77")


def break_all_chains(path, truth):
    """Each overflow page of the packs names a wrong next one; the pointer map still knows."""
    for number in of(truth, "pack", "overflow"):
        overwrite(path, number, struct.pack(">I", random.randrange(1 << 32)))


def close_all_chains(path, truth):
    """Each overflow page names itself."""
    for number in of(truth, "pack", "overflow"):
        overwrite(path, number, struct.pack(">I", number))


def break_first_links(path, truth):
    """In one row of each leaf of the packs, the number of the page it goes on with."""
    for number in of(truth, "pack", "table leaf"):
        page = truth.pages.page(number)
        for at in truth.pages.cells(number)[:1]:
            length, body = varint(page, at)
            _, body = varint(page, body)
            if local_part(length) < length:
                overwrite(path, number, b"\xff\xff\xff\xff", body + local_part(length))


def loop_the_trees(path, truth):
    """Each interior page leads to itself."""
    for (_, kind), numbers in truth.pages.kinds.items():
        if kind == "table interior":
            for number in numbers:
                page = truth.pages.page(number)
                for at in truth.pages.cells(number):
                    overwrite(path, number, struct.pack(">I", number), at)
                overwrite(path, number, struct.pack(">I", number), 8)
                assert page[0] == 5


BROKEN_TREES = [
    lose_the_first_page, lose_the_file_header, lose_the_pointer_map, lose_the_freelist, lose_all_interior_pages, lose_all_indexes,
    scramble_kinds, break_all_chains, close_all_chains, break_first_links, loop_the_trees,
]


@pytest.mark.parametrize("damage", BROKEN_TREES, ids=lambda f: f.__name__)
def test_all_volumes_come_out_whatever_leads_to_their_rows(truth, broken, out, ledger, damage):
    with ledger.fault("rot: what leads to rows is lost; salvaged"):
        damage(broken, truth)
        assert not sqlite_is_content(broken)
        report = salvage(truth.binary, broken, "--to", out, code=None)
        if damage is lose_the_pointer_map:  # which alone tells what was deleted
            report["volumes"] = [v for v in report["volumes"] if v["map"] < 7000]
        assert_all_whole(truth, report)


def test_without_a_catalog_the_volumes_come_out_by_their_maps(truth, broken, out):
    for (table, kind), numbers in truth.pages.kinds.items():
        if table in ("backup", "volume_backup", "instance", "sqlite_schema", None) and kind != "overflow":
            for number in numbers:
                overwrite(broken, number, bytes(PAGE))
    report = salvage(truth.binary, broken, "--to", out)
    assert {v["map"] for v in report["volumes"]} == set(truth.maps.values())
    assert all(v["backup"] is None and f"-map{v['map']}-" in v["file"] for v in report["volumes"])
    assert assert_equal_where_not_listed(truth, report) == 0


def test_a_catalog_row_alone_says_what_is_lost(truth, broken, out):
    for number in of(truth, "volume_map", "table leaf"):
        overwrite(broken, number, bytes(PAGE))
    report = salvage(truth.binary, broken, "--to", out, code=1)
    assert {(v["backup"], v["volume"]) for v in report["volumes"]} == set(truth.volumes)
    assert all(v["state"] == "lost" for v in report["volumes"])
    assert list(out.iterdir()) == []


# -------------------------------------------------------------------- rows that are not what they were


def change(sql, *values):
    def damage(path, truth):
        connection = sqlite3.connect(path)
        connection.execute(sql, values)
        connection.commit()
        connection.close()
    return damage


def flip(table, column, row, byte, bit=3):
    def damage(path, truth):
        connection = sqlite3.connect(path)
        (value,), = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ({row})")
        value = bytearray(value)
        value[byte] ^= 1 << bit
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ({row})", (bytes(value),))
        connection.commit()
        connection.close()
    return damage


NEWEST_SEGMENT = "SELECT max(id) FROM segment"
# What is damaged, and whether all bytes can still be proved to be right.
ROWS = {
    "a chunk's name": (flip("pack_toc", "entries", "SELECT min(id) FROM pack_toc", 56 * 3 + 5), True),
    "a segment's name": (flip("segment", "hash", NEWEST_SEGMENT, 9), True),
    "a segment's id": (change("UPDATE segment SET id = id + 1000 WHERE id = (SELECT max(id) FROM segment)"), True),
    "the size of a map's chunks": (change("UPDATE volume_map SET chunk_size = 4096 WHERE id = (SELECT min(id) FROM volume_map)"), True),
    "a map's name": (flip("volume_map", "hash", "SELECT min(id) FROM volume_map", 1), False),
    "an address": (flip("segment", "chunks", NEWEST_SEGMENT, 8 * 2, 0), False),
    "an address to nowhere": (flip("segment", "chunks", NEWEST_SEGMENT, 8 * 2 + 4, 6), False),
    "a chunk's place": (flip("pack_toc", "entries", "SELECT min(id) FROM pack_toc", 56 * 3 + 33), False),
    "a chunk's length": (flip("pack_toc", "entries", "SELECT min(id) FROM pack_toc", 56 * 3 + 37), False),
    "a chunk's bytes": (flip("pack", "data", "SELECT min(id) FROM pack", 1_500_000), False),
    "a table of contents": (change("DELETE FROM pack_toc WHERE id = (SELECT min(id) FROM pack_toc)"), False),
    "a pack": (change("DELETE FROM pack WHERE id = (SELECT min(id) FROM pack)"), False),
    "a segment": (change("DELETE FROM segment WHERE id = (SELECT max(id) FROM segment)"), False),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_is_damaged_takes_with_it_what_it_held(truth, broken, out, ledger, name):
    damage, whole = ROWS[name]
    with ledger.fault("rot: a row is not what it was; salvaged"):
        damage(broken, truth)
        report = salvage(truth.binary, broken, "--to", out, code=0 if whole else 1)
        if whole:
            assert_all_whole(truth, report)
            return
        states = [v["state"] for v in report["volumes"]]
        assert len(states) == len(truth.volumes) and set(states) >= {"whole"} and len(set(states)) > 1, states
        if name == "an address":  # to another chunk that was stored: there is no knowing which
            assert "doubtful" in states
            return
        lost = assert_equal_where_not_listed(truth, report)
        if name == "a chunk's bytes":
            assert 0 < lost <= 4 * CHUNK


def test_bytes_that_are_in_two_places_are_taken_from_the_good_one(truth, broken, out):
    """A pack is copied under another number, as a mending or a race of two backups leaves it, and then the first is damaged."""
    connection = sqlite3.connect(broken)
    connection.execute("INSERT INTO pack SELECT id + 5000, data FROM pack WHERE id = 1")
    connection.execute("INSERT INTO pack_toc SELECT id + 5000, format, slots, stored, entries, 0, NULL, 0 FROM pack_toc WHERE id = 1")
    connection.execute("UPDATE pack SET data = zeroblob(length(data)) WHERE id = 1")
    connection.commit()
    connection.close()
    assert_all_whole(truth, salvage(truth.binary, broken, "--to", out))


@pytest.mark.parametrize("seed", range(24 if LONG else 4))
def test_any_pages_are_overwritten(truth, broken, out, ledger, seed):
    """Whatever is hit: what comes out as whole is right, and what is not listed as lost is."""
    with ledger.fault("rot: any pages are overwritten; salvaged"):
        rng = random.Random(seed)
        for _ in range(rng.choice([1, 3, 12])):
            number = rng.randrange(1, truth.pages.count + 1)
            size = rng.choice([1, 512, 4096, PAGE])
            overwrite(broken, number, rng.choice([bytes(size), rng.randbytes(size)]), rng.randrange(PAGE - size + 1))
        report = salvage(truth.binary, broken, "--to", out, code=None)
        doubtful = {v["map"] for v in report["volumes"] if v["state"] == "doubtful"}
        report["volumes"] = [v for v in report["volumes"] if v["map"] not in doubtful and (v["backup"] or v["map"] in truth.maps.values())]
        assert_equal_where_not_listed(truth, report)


# -------------------------------------------------------------------- made to do harm


def names_of_evil(truth, path):
    change("UPDATE volume_backup SET name = '../../../evil' || char(10, 27) || '/x'")(path, truth)
    change("UPDATE backup SET metadata = '{\"name\": \"../../tmp/\\u0000\\u001b[2J\"}', created_at = 9223372036854775807")(path, truth)


def test_names_lead_nowhere_else(truth, broken, out):
    names_of_evil(truth, broken)
    report = salvage(truth.binary, broken, "--to", out)
    files = [Path(v["file"]) for v in report["volumes"]]
    assert len(set(files)) == len(truth.volumes)
    for file in files:
        assert file.parent == out.resolve() and file.name.isprintable() and not file.name.startswith("."), file
    shown = subprocess.run([truth.binary, "salvage", broken, "--list"], capture_output=True, check=True).stdout
    assert b"\x1b" not in shown and b"\0" not in shown


def lengths_of_evil(path, truth):
    """Rows that claim to be as long as anything can be, volumes of exabytes, lists of everything."""
    change("UPDATE volume_map SET size = 9223372036854775807, segments = zeroblob(8388608) WHERE id = 1")(path, truth)
    change("UPDATE volume_map SET size = 9007199254740992, chunk_size = 4194304, segments = zeroblob(16777216) WHERE id = 2")(path, truth)
    change("UPDATE pack_toc SET entries = zeroblob(56 * 1000000), slots = 1000000 WHERE id = 1")(path, truth)
    change("UPDATE segment SET chunks = zeroblob(80000000) WHERE id = 1")(path, truth)
    for number in of(truth, "pack", "table leaf"):
        for at in truth.pages.cells(number):
            overwrite(path, number, b"\x83\xff\xff\xff\x7f", at)


def a_log_of_evil(path, truth):
    """A valid WAL with pages whose numbers are as high as can be."""
    header = struct.pack(">6I", 0x377f0682, 3007000, PAGE, 0, 1, 2)

    def sums(data, one, two):
        for a, b in struct.iter_unpack("<II", data):
            one = (one + a + two) & 0xFFFFFFFF
            two = (two + b + one) & 0xFFFFFFFF
        return one, two

    state = sums(header, 0, 0)
    out = header + struct.pack(">II", *state)
    for number in (0xFFFFFFFF, 0xFFFFFFFE, 1):
        page = bytes([TABLE_LEAF]) + b"\xff" * (PAGE - 1)
        head = struct.pack(">II", number, 0xFFFFFFFF)
        state = sums(page, *sums(head, *state))
        out += head + struct.pack(">II", 1, 2) + struct.pack(">II", *state) + page
    Path(f"{path}-wal").write_bytes(out)


def pages_of_leaves(path, truth):
    """Every page says that it is a leaf of as many rows as can be, all at one place."""
    page = truth.pages.page(of(truth, "pack", "table leaf")[0])
    at = truth.pages.cells(of(truth, "pack", "table leaf")[0])[0]
    fake = bytearray(page)
    struct.pack_into(">H", fake, 3, 0xFFFF)
    for n in range((min(at, PAGE) - 8) // 2):
        struct.pack_into(">H", fake, 8 + 2 * n, at)
    for number in range(3, min(truth.pages.count, 60)):
        overwrite(path, number, bytes(fake))


@pytest.mark.parametrize("make", [lengths_of_evil, a_log_of_evil, pages_of_leaves], ids=lambda f: f.__name__)
def test_what_is_made_to_do_harm_does_none(truth, broken, out, make):
    make(broken, truth)
    salvage(truth.binary, broken, "--list", code=None, memory=MOST_MEMORY)
    salvage(truth.binary, broken, "--to", out, code=None, memory=MOST_MEMORY)


@pytest.mark.parametrize("content", [b"", b"x", bytes(PAGE * 3), b"\x0d" * (PAGE * 4), b"SQLite format 3\0" + bytes(84)], ids=range(5))
def test_a_file_that_is_no_coffer_is_no_success(binary, tmp_path, out, content):
    path = tmp_path / "x.db"
    path.write_bytes(content)
    Path(f"{path}-wal").write_bytes(content)
    for arguments in (["--to", out], ["--list"]):
        assert salvage(binary, path, *arguments, code=1, memory=MOST_MEMORY)["volumes"] == []
    said = subprocess.run([binary, "salvage", path, "--list"], capture_output=True, text=True)
    assert said.returncode == 1 and "is it a coffer?" in said.stderr and not any(out.iterdir())


def test_a_coffer_cut_anywhere_gives_what_is_left(truth, broken, out):
    for part in (0.9, 0.5, 0.1):
        os.truncate(broken, int(truth.coffer.stat().st_size * part) + 7)
        shutil.rmtree(out, ignore_errors=True)
        report = salvage(truth.binary, broken, "--to", out, code=None)
        assert_equal_where_not_listed(truth, report)


def test_a_full_target_is_said_and_leaves_no_half_file(truth, tmp_path):
    target = tmp_path / "small"
    target.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "none", target])
    if mounted.returncode:
        pytest.skip("needs root")
    try:
        said = salvage(truth.binary, truth.coffer, "--to", target, code=1)
        failed = [v for v in said["volumes"] if v["state"] == "failed"]
        assert failed and all("full" in v["reason"] for v in failed), said
        # Those that fit are there, and nothing of the others.
        assert {str(f) for f in target.iterdir() if f.stat().st_size} == {v["file"] for v in said["volumes"] if v["state"] == "whole"}
    finally:
        subprocess.run(["umount", target], check=True)
