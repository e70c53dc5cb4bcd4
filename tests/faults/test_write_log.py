"""The power fails at any moment, and of what was not synced anything may be lost, reordered or torn: what a client had been told holds.

A daemon's changes of files are written down while it works (shim.py). Afterwards the disk is built as a power cut at some position of the
record may have left it (replay.py), a daemon starts on that, and each `Fact` that a client had been told before that position is looked at.
"""

import itertools
import math
import random
from collections import namedtuple

import pytest

from faults.bench import LONG, Bench, assert_integrity, assert_whole, copy_sparse, forget_log, mixed_bytes
from faults.replay import WAYS, Disk
from faults.shim import RENAME, SYNC, Entry, Shim
from faults.stage import QUIET
from faults.test_crash_matrix import Bare, Upgrade
from helpers.api import ok
from helpers.cinder import CinderLab, dashed
from helpers.cinder_volumes import content
from helpers.daemon import faketime_library
from helpers.disks import MIB
from helpers.lab import INSTANCES
from helpers.wait import wait_for

IMAGES = 100 if LONG else 7  # besides those of the moments at which a client was told something
Fact = namedtuple("Fact", "name since until holds")
"""What was told at position `since` holds for cuts until the position at which a client asked for something else."""


class Log:
    """The record of a daemon, and what its clients were told."""

    def __init__(self, daemon, scratch, clock=None):
        self.d = daemon
        self.shim = Shim(daemon.base, scratch, recorded=True)
        daemon.extra_env = self.shim.env(others=faketime_library() if daemon.clock else "")
        self.facts = {}

    def told(self, name, holds):
        self.facts[name] = Fact(name, self.shim.position(), math.inf, holds)

    def asked(self, name):
        """What follows may end this fact."""
        self.facts[name] = self.facts[name]._replace(until=self.shim.position())

    def replay(self, ledger, rng, disk, verify):
        """Power cuts right after each fact, before syncs, and anywhere."""
        self.d.kill()
        self.d.extra_env = {}
        record = self.record()
        self.assert_complete(disk, record)
        for number, way in self.cuts(record, rng):
            while self.applied < number:
                disk.apply(record[self.applied][1])
                self.applied += 1
            position = record[number - 1][0] if number else 0
            facts = [fact for fact in self.facts.values() if fact.since <= position <= fact.until]
            print(f"cut at {number} of {len(record)}, {way} of the rest survives; told: {[fact.name for fact in facts]}")
            with ledger.fault(f"power: {way} of what was not synced is on the disk"):
                disk.put(disk.image(rng, way), self.d.state_dir)
                assert_integrity(self.d)
                self.d._token = self.d._staff = None
                self.d.start()
                verify(self.d, facts)
                self.d.kill()
            forget_log(self.d)

    applied = 0
    renamed = ()  # what is given its name by a call that the shim does not see, after its last sync: pairs of paths

    def record(self):
        record = self.shim.record()
        for old, new in self.renamed:
            at = max(n for n, (_, entry) in enumerate(record) if entry.op == SYNC and entry.path == old)
            record.insert(at + 1, (record[at][0], Entry(RENAME, old, 0, new.encode())))
        return record

    def cuts(self, record, rng):
        """Pairs of a number of calls and a way, in order."""
        numbers = range(len(record) + 1)
        syncs = [n for n, (_, entry) in enumerate(record) if entry.op == SYNC]
        told = [sum(position <= fact.since for position, _ in record) for fact in self.facts.values()]
        if LONG:
            chosen = [(n, way) for n in syncs for way in rng.sample(WAYS, 2)] + [(n, way) for n in told for way in WAYS]
        else:
            chosen = [(n, "none") for n in told]
        pools = itertools.cycle([syncs, numbers])
        return sorted(chosen + [(rng.choice(next(pools)), WAYS[n % len(WAYS)]) for n in range(IMAGES)])

    def assert_complete(self, disk, record):
        """The shim has seen every change: all of the record makes what is there."""
        whole = Disk(disk.base, disk.beginning)
        for _, entry in record:
            whole.apply(entry)
        disk.seen = whole.seen  # of what comes later, nothing is there at a cut
        image = whole.image(random.Random(0), "all")
        for path in (str(self.d.coffer), f"{self.d.coffer}-wal", *self.targets):
            with open(path, "rb") as f:
                assert image[path] == f.read(), f"the record does not lead to {path} as it is"

    targets = ()


# -------------------------------------------------------------------- a life from the first start on


class Life(Bench, CinderLab):
    """What a client asks for and is told, and how that is looked at later, on another daemon of the same name."""

    def __init__(self, daemon, log, rng, lone):
        super().__init__(daemon)
        self.log, self.rng, self.lone = log, rng, lone
        self.keep = daemon.base / "kept"
        self.keep.mkdir()

    def live(self):
        token = self.d.token
        self.log.told("the token", lambda now: now.d.token == token)
        system, data = (self.new_disk(name, size) for name, size in (("system", 2 * MIB + 512), ("data", 20 * MIB)))
        vm = self.instance([system, data], name="vm")
        self.log.told("the machine", lambda now: now.get(vm)["name"] == "vm")
        first = self.back_up(vm, system, data)
        # A restore to an instance, and to a path.
        restored = self.restore(first)
        paths, wanted = self.volume_files(restored), [copy_sparse(path, self.keep / path.name) for path in self.volume_files(restored)]
        self.log.told("the restored instance", lambda now: now.get(restored)["state"] == "Offline" and same(paths, wanted))
        target = self.d.root / "out.img"
        assert self.restore_to(first, target)["state"] == "done"
        self.log.told("the restored file", lambda now: same([target], wanted[:1]))
        self.log.targets = [str(target), str(self.lone), *map(str, paths)]
        # A volume of its own is backed up and restored.
        other = self.lone.read_bytes()
        kept = copy_sparse(self.new_disk("lone", MIB), self.keep / "lone")
        volume = ok(self.api.post("/ops/volumes/", {"path": str(self.lone), "project": self.project["uuid"], "name": "lone"}), 201)
        volume["id"] = dashed(volume["uuid"])
        backup = self.admin.backup(volume)
        self.lone.write_bytes(other)
        self.admin.restore(backup, volume_id=volume["id"])
        self.log.told("the restored volume", lambda now: now.record(volume)["state"] == "available" and same([self.lone], [kept]))
        self.log.told("the volume's backup", lambda now: now.ready(self.plain(backup), [kept]))
        # Something changes, the schedule fires, the older backup and what was restored go.
        with open(system, "r+b") as f:
            f.write(self.rng.randbytes(MIB))
        schedule = self.schedule(vm, schedule="0 3 * * *", timezone="UTC", is_active=True, maximal_number_of_backups=2)
        self.log.told("the schedule", lambda now: now.is_active_or_says_why(schedule))
        self.d.clock.set("2031-05-01T03:00:01")
        timed, = self.wait_backups(schedule, 1)
        self.remember(timed, system, data)
        self.log.told("the run", lambda now: now.ran_once(timed))
        self.log.asked("ready " + first["uuid"])
        ok(self.api.post(first["url"] + "delete/"))
        self.log.told("the deletion", lambda now: now.wait_gone(first["url"]) is None)
        self.wait_gone(first["url"])
        self.gc()
        copy = self.d.root / "copy.db"
        self.log.renamed = [(f"{copy}.partial", str(copy))]
        assert self.task("/ops/snapshot/", {"path": str(copy)})["state"] == "done"
        self.log.told("the copy of the coffer", lambda now: assert_whole(copy) is None)
        self.log.asked("the restored instance")
        ok(self.api.delete(restored["url"]), 202)
        self.log.told("the instance's end", lambda now: now.is_gone(restored))
        self.wait_gone(restored["url"])
        wait_for(lambda: self.restored_files() == set(), "its files are gone")
        self.log.targets = [*self.log.targets[:2], str(copy)]
        self.d.restart()
        self.back_up(vm, system, data)

    def new_disk(self, name, size):
        path = self.d.root / f"{name}.img"
        path.write_bytes(mixed_bytes(self.rng, size))
        return path

    def back_up(self, vm, *disks):
        backup = self.backup(vm)
        self.remember(backup, *disks)
        return backup

    def remember(self, backup, *disks):
        copies = [copy_sparse(disk, self.keep / f"{len(list(self.keep.iterdir()))}") for disk in disks]
        self.log.told("ready " + backup["uuid"], lambda now: now.ready(backup["uuid"], copies))

    def plain(self, backup):
        """The uuid of the backup that has this part."""
        return self.d.sql("SELECT b.uuid FROM backup b JOIN volume_backup vb ON vb.backup_id = b.id WHERE vb.uuid = ?", (backup["id"].replace("-", ""),))[0][0]

    # ---- on the daemon that has started after the cut

    def ready(self, uuid, copies):
        assert self.d.sql("SELECT state FROM backup WHERE uuid = ?", (uuid,)) == [("ready",)], uuid
        for position, wanted in enumerate(copies):
            self.assert_restores(uuid, wanted, position)
        return True

    def ran_once(self, backup):
        runs = self.d.sql("SELECT uuid FROM backup WHERE trigger_at = (SELECT trigger_at FROM backup WHERE uuid = ?)", (backup["uuid"],))
        return runs == [(backup["uuid"],)]

    def is_active_or_says_why(self, schedule):
        """What it has begun may have been interrupted."""
        found = self.get(schedule)
        return found["is_active"] or "interrupted" in found["error_message"]

    def is_gone(self, instance):
        wait_for(lambda: self.restored_files() <= self.known_restored_files(), "files of an instance that is gone are removed")
        return self.api.get(instance["url"]).status_code == 404


def same(paths, wanted):
    """Files that are there, and of the same length and bytes."""
    return all(path.exists() and content(path) == content(copy) and path.stat().st_size == copy.stat().st_size
               for path, copy in zip(paths, wanted, strict=True))


class Afterwards(Life):
    """The daemon after the cut: it keeps no log."""

    def __init__(self, daemon):
        Bench.__init__(self, daemon)


def verify(daemon, facts):
    now = Afterwards(daemon)
    wait_for(lambda: daemon.sql("SELECT count(*) FROM job") == [(0,)], "what was promised is done", 60)
    for uuid, state, why in daemon.sql("SELECT uuid, state, error_message FROM backup"):
        assert state == "ready" or (state == "erred" and "interrupted" in why), (uuid, state, why)
    for fact in facts:
        assert fact.holds(now), f"told and no longer true: {fact.name}"
    owned = {path for path, in daemon.sql("SELECT path FROM volume WHERE managed")}
    assert {str(path) for path in now.restored_files()} <= owned, "files that nobody owns"
    doubles = daemon.sql("SELECT trigger_at FROM backup WHERE trigger_at IS NOT NULL GROUP BY schedule_id, trigger_at HAVING count(*) > 1")
    assert doubles == []
    assert now.task("/ops/check/")["result"]["corrupt"] == []
    assert daemon.inspect() == []
    for machine in now.api.list(INSTANCES):
        if machine["state"] != "Erred":
            now.backup(machine)


@pytest.mark.timeout(7200 if LONG else 180)
@pytest.mark.parametrize("seed", range(4 if LONG else 2))
def test_what_was_told_outlives_a_power_cut(start_daemon, tmp_path, ledger, seed):
    rng = random.Random(f"life {seed}")
    daemon = start_daemon(QUIET, start=False, clock="2031-04-30T12:00:00", ready_s=60)
    log = Log(daemon, tmp_path)
    daemon.state_dir.rmdir()
    lone = daemon.root / "lone.img"
    lone.write_bytes(mixed_bytes(rng, MIB))
    disk = Disk(daemon.base, [daemon.root, lone])
    daemon.start()
    Life(daemon, log, rng, lone).live()
    log.replay(ledger, rng, disk, verify)


# -------------------------------------------------------------------- the upgrade of an older format


@pytest.mark.timeout(7200 if LONG else 180)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_upgrade_outlives_a_power_cut(start_daemon, tmp_path, ledger, number):
    rng = random.Random(f"upgrade {number}")
    daemon = start_daemon(QUIET, start=False, ready_s=60)
    upgrade = Upgrade(number)
    stage = Bare(daemon, rng)
    upgrade.prepare(stage)
    log = Log(daemon, tmp_path)
    disk = Disk(daemon.base, [daemon.state_dir, daemon.coffer])
    daemon.start()
    stage.rest()

    def all_is_there(daemon, facts):
        upgrade.again(stage)
        for path in stage.scratch.iterdir():
            path.unlink()

    log.replay(ledger, rng, disk, all_is_there)
