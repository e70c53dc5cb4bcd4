"""FORMAT.md is exact enough to restore from: tests/format/extract.py knows nothing else, and shares no code with cofferd."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.disks import MIB, allocated, assert_same_bytes, make_image
from helpers.lab import Lab

EXTRACT = Path(__file__).with_name("extract.py")


def extract(coffer, map_id, out):
    return subprocess.run([sys.executable, EXTRACT, str(coffer), str(map_id), str(out)], capture_output=True, text=True)


def test_the_extractor_is_short():
    assert len(EXTRACT.read_text().splitlines()) <= 40


@pytest.fixture(scope="module")
def coffer(start_module_daemon):
    """A coffer that a daemon has filled and left, and what was backed up: {map id: copy of the volume}."""
    daemon = start_module_daemon()
    lab = Lab(daemon)
    text = daemon.root / "text.img"
    text.write_bytes(b"compressible " * 100_000)
    sparse = daemon.root / "sparse.img"
    with open(sparse, "wb") as file:  # the first and the third of four segments are zeros
        file.truncate(3072 * MIB + 4097)
        file.seek(1200 * MIB)
        file.write(b"\1" * 300_000)
        file.seek(3072 * MIB + 4096)
        file.write(b"x")
    one = daemon.root / "one.img"
    one.write_bytes(b"1")
    disks = [make_image(daemon.root / "system.img", 24 * MIB, seed=1), text, sparse, one]
    instance = lab.instance(disks)
    copies = {}

    def back_up(name):
        backup = lab.backup(instance)
        rows = daemon.sql(
            "SELECT map_id FROM volume_backup WHERE backup_id = (SELECT id FROM backup WHERE uuid = ?) ORDER BY position", (backup["uuid"],)
        )
        for (map_id,), disk in zip(rows, disks, strict=True):
            copies[map_id] = daemon.base / f"{name}-{disk.name}"
            subprocess.run(["cp", "--sparse=always", disk, copies[map_id]], check=True)
        return backup

    first = back_up("first")
    with open(disks[0], "r+b") as file:
        file.seek(12 * MIB)
        file.write(bytes(range(256)) * 2000)
    back_up("second")
    lab.api.delete(first["url"])
    lab.wait_gone(first["url"])
    copies = {map_id: copy for map_id, copy in copies.items() if copy.name.startswith("second")}
    daemon.stop()
    return daemon.coffer, copies, daemon.base


def test_every_volume_comes_back_without_cofferd(coffer):
    file, copies, directory = coffer
    assert len(copies) == 4
    for map_id, copy in copies.items():
        out = directory / f"extracted-{map_id}"
        result = extract(file, map_id, out)
        assert result.returncode == 0, result.stderr
        assert_same_bytes(copy, out)
        assert allocated(out) < allocated(copy) + 8 * MIB
        out.unlink()


def test_the_extractor_finds_damage(coffer):
    file, copies, directory = coffer
    broken = directory / "broken.db"
    shutil.copy(file, broken)
    content = bytearray(broken.read_bytes())
    # The text compresses to a few bytes; flip a bit in the stored form of its chunk.
    at = content.find(b"compressible ")
    assert at > 0
    content[at + 3] ^= 1
    broken.write_bytes(content)
    results = [extract(broken, map_id, directory / f"broken-{map_id}").returncode for map_id in copies]
    assert sorted(results) == [0, 0, 0, 1]
