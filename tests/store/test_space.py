"""Space that comes back: over many rounds of backups, deletions and collections the file stays as small as what is in it, without VACUUM,
and what is kept stays whole."""

import os
import random
import sqlite3
import subprocess

from helpers.api import ok
from helpers.disks import MIB, assert_same_bytes
from helpers.lab import Lab
from helpers.wait import wait_for

ROUNDS, SIZE = (60, 512 * MIB) if os.environ.get("COFFERD_LONG") else (10, 64 * MIB)
# A part of the file that may be free: it is for the next backups.
FREE = 0.3
# What an empty coffer takes, and packs that are not full.
ROOM = 24 * MIB


def change(disk, chance, part):
    """Overwrites this part of the disk, in pieces of 1 to 4 MiB at random places, with bytes that do not compress."""
    with open(disk, "r+b") as file:
        for _ in range(max(1, int(SIZE * part) // (2 * MIB))):
            length = chance.randrange(MIB, 4 * MIB)
            file.seek(chance.randrange(0, SIZE - length))
            file.write(chance.randbytes(length))


def test_the_file_shrinks_over_many_rounds_and_stays_whole(start_daemon, tmp_path):
    lab = Lab(start_daemon())
    chance = random.Random(7)
    disk = lab.d.root / "vm.img"
    disk.write_bytes(b"")
    os.truncate(disk, SIZE)
    instance = lab.instance([disk])
    coffer = lab.d.state_dir / "coffer.db"
    kept = []
    sizes = []

    def collect(fraction):
        task = ok(lab.api.post("/ops/gc/", {"dead_fraction": fraction}), 202)["task"]
        ended = wait_for(lambda: (t := lab.get(f"/ops/tasks/{task}/"))["state"] != "running" and t, "the collection ends", 120)
        assert ended["state"] == "done" and ended["result"]["complete"], ended

    for number in range(ROUNDS):
        change(disk, chance, chance.choice([0.05, 0.3, 0.9]))
        copy = tmp_path / f"{number}.img"
        copy.write_bytes(disk.read_bytes())
        kept.append((lab.backup(instance), copy))
        # Mostly one or two are kept; sometimes all but the newest go at once.
        while len(kept) > (1 if number % 4 == 3 else 2):
            backup, copy = kept.pop(chance.randrange(len(kept) - 1))
            lab.api.delete(backup["url"])
            lab.wait_gone(backup["url"])
            copy.unlink()
        collect(FREE)
        stats = ok(lab.api.get("/ops/stats/"))
        size = coffer.stat().st_size
        sizes.append(size)
        assert size <= stats["stored_bytes"] / (1 - FREE) + ROOM, (number, size, stats)
        restored = tmp_path / "restored.img"
        backup, copy = chance.choice(kept)
        command = [lab.d.binary, "--config", str(lab.d.config_file), "restore", backup["uuid"], "--to", str(restored)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        assert_same_bytes(restored, copy)
        restored.unlink()

    for backup, _ in kept:
        lab.api.delete(backup["url"])
        lab.wait_gone(backup["url"])
    collect(0.0)
    stats = ok(lab.api.get("/ops/stats/"))
    assert (stats["stored_bytes"], stats["dead_bytes"], stats["packs"]) == (0, 0, 0)
    assert coffer.stat().st_size <= ROOM < max(sizes)
    lab.d.stop()
    with sqlite3.connect(coffer) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA freelist_count").fetchall() == [(0,)]
