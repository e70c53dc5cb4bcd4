"""`kill -9` at any moment: whatever was Ready is Ready and restores byte for byte, and nothing is left half done for ever (3.12).

A world of three machines is backed up, restored, pruned, deleted, compacted and copied. The daemon is killed in the middle, at
a moment chosen by a seeded generator or by strace at a chosen write, and after each start everything is compared with copies
of what was on the disks. A failure prints the seed; COFFERD_SEED=n repeats it.
"""

import os
import random
import threading
import time

import pytest
import requests

from faults.bench import Bench, assert_integrity, assert_whole, copy_sparse, inject, mutate, write_disk
from helpers.api import ok
from helpers.disks import MIB, assert_same_bytes
from helpers.lab import BACKUPS, INSTANCES, local, ms, parse_time
from helpers.wait import wait_for

INTERRUPTED = "interrupted"
KEEP = 2  # maximal number of the scheduled machine


class World(Bench):
    """Three machines, what was on their disks at each backup, and what may happen to them."""

    def __init__(self, daemon, seed, big=256 * MIB):
        super().__init__(daemon)
        self.rng = random.Random(seed)
        self.keep = daemon.base / "kept"
        self.keep.mkdir()
        self.scratch = daemon.base / "scratch"
        self.scratch.mkdir()
        self.fresh = {"big": big * 3 // 8, "trio": 6 * MIB, "timed": big // 4}
        sizes = {
            "big": [(big, big * 3 // 4)],
            "trio": [(MIB + 12_345, MIB), (24 * MIB, 9 * MIB), (8 * MIB - 512, 0)],
            "timed": [(big // 3, big // 4)],
        }
        self.disks, self.machines, self.now = {}, {}, {}
        self.content = {}  # uuid of a backup that is or was Ready -> copies of its volumes
        self.deleting = set()
        self.timed_before = set()  # those of them that the schedule has made
        self.durations = {}
        self.instant = 0  # the last one at which the schedule was made to fire
        self.profile = None
        for name, volumes in sizes.items():
            self.disks[name] = [
                write_disk(daemon.root / f"{name}{n}.img", size, data, f"{seed} {name} {n}") for n, (size, data) in enumerate(volumes)
            ]
            self.machines[name] = self.instance(self.disks[name], name=name)
        self.schedule_url = self.schedule(self.machines["timed"], maximal_number_of_backups=KEEP, is_active=True)["url"]
        self.profile = {"image": self.image()["url"], "flavor": self.flavor()["url"]}
        for name in sizes:
            self.snap(name)

    # ---------------------------------------------------------------- what is on the disks

    def change(self, name):
        for disk in self.disks[name]:
            mutate(disk, self.rng, min(self.fresh[name], os.path.getsize(disk) // 2))
        self.snap(name)

    def snap(self, name):
        """Keeps a copy of the disks as they are now: what a backup made from now on must hold."""
        count = len(list(self.keep.iterdir()))
        self.now[name] = [copy_sparse(disk, self.keep / f"{count}-{disk.name}") for disk in self.disks[name]]

    def forget_old_copies(self):
        used = {path for copies in [*self.content.values(), *self.now.values()] for path in copies}
        for path in self.keep.iterdir():
            if path not in used:
                path.write_bytes(b"")  # its name stays taken

    # ---------------------------------------------------------------- what is done when the daemon dies

    def do_backup(self, name="big"):
        self.wait_rest(self.start_backup(self.machines[name])["url"])

    def do_restore_instance(self):
        new = ok(self.api.post(f"{BACKUPS}{self.source}/restore/", self.profile))["instance"]
        wait_for(lambda: self.get(new)["state"] in ("Offline", "Erred"), "the new machine is there", 60)

    def do_restore_path(self):
        task = self.restore_to(self.path_source, self.path_target)
        assert task["state"] == "done", task

    def do_delete(self):
        for uuid in self.victims:
            self.deleting.add(uuid)
            ok(self.api.post(f"{BACKUPS}{uuid}/delete/"))
        for uuid in self.victims:
            self.wait_gone(f"{BACKUPS}{uuid}/")

    def do_gc(self):
        """Deletes, and compacts what is left thoroughly."""
        self.do_delete()
        self.gc()

    def do_prune(self):
        """The schedule fires, and the oldest of its backups goes."""
        wait_for(lambda: not self.get(self.schedule_url)["next_trigger_at"].startswith("1970"), "the schedule fires")
        wait_for(self.timed_rests, "the schedule's backups come to rest", 60)

    def do_snapshot(self):
        task = self.task("/ops/snapshot/", {"path": str(self.scratch / "copy.db")})
        assert task["state"] == "done", task

    def do_all(self):
        """Two backups, a restore, deletions and a collection beside each other."""
        jobs = [lambda: self.do_backup("big"), lambda: self.do_backup("trio"), self.do_gc]
        threads = [threading.Thread(target=self.attempt, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        self.attempt(self.do_restore_instance)
        for thread in threads:
            thread.join()

    def fired(self):
        return self.d.sql("SELECT next_trigger_at FROM schedule") != [(self.instant,)]

    def timed_rests(self):
        found = self.api.list(BACKUPS, backup_schedule=self.get(self.schedule_url)["url"])
        return all(b["state"] in ("Ready", "Erred") for b in found) or None

    def prepare(self, kind):
        """What an operation needs and what shall not be part of it."""
        self.victims = []
        if kind in ("backup", "all"):
            self.change("big")
        if kind in ("trio", "all"):
            self.change("trio")
        if kind == "prune":
            self.change("timed")
        if kind in ("delete", "gc", "all"):
            self.victims = self.oldest(1 if kind == "all" else 2)
        if kind in ("restore_instance", "all"):
            self.source = self.rng.choice(sorted(set(self.content) - set(self.victims)))
        if kind == "restore_path":
            self.path_source, self.path_target = self.choose_of("big"), self.scratch / "out.img"

    def arm(self, kind):
        """Makes the schedule due."""
        if kind == "prune":
            self.instant += 1
            self.d.sql("UPDATE schedule SET next_trigger_at = ?", (self.instant,))

    def oldest(self, count):
        """The oldest backups, never all of a machine."""
        found = []
        for name in ("big", "trio"):
            found += [uuid for uuid in self.of(name)][:-1]
        return found[:count]

    def of(self, name):
        """Uuids of the machine's Ready backups, oldest first."""
        return [b["uuid"] for b in self.api.list(BACKUPS, instance=self.machines[name]["url"]) if b["uuid"] in self.content]

    def choose_of(self, name):
        return self.rng.choice(self.of(name))

    OPERATIONS = {
        "backup": do_backup, "trio": lambda self: self.do_backup("trio"), "restore_instance": do_restore_instance,
        "restore_path": do_restore_path, "delete": do_delete, "gc": do_gc, "prune": do_prune, "snapshot": do_snapshot, "all": do_all,
    }

    def attempt(self, job):
        """The daemon may be gone in the middle of any request."""
        try:
            job()
        except (requests.ConnectionError, requests.ReadTimeout):
            self.lost = True
        except AssertionError as error:
            self.trouble.append(error)

    def run(self, kind):
        """The whole operation, undisturbed; remembers how long it takes."""
        self.prepare(kind)
        self.arm(kind)
        start = time.monotonic()
        self.OPERATIONS[kind](self)
        self.durations[kind] = time.monotonic() - start

    def run_and_kill(self, kind):
        """Kills the daemon at a random moment of the operation. Returns the fraction of its usual duration."""
        self.prepare(kind)
        self.trouble, self.lost = [], False
        fraction = self.rng.random() * 1.05
        thread = threading.Thread(target=self.attempt, args=(lambda: self.OPERATIONS[kind](self),))
        self.arm(kind)
        thread.start()
        time.sleep(fraction * self.durations.get(kind, 1.0))
        self.d.kill()
        thread.join(120)
        assert not thread.is_alive() and not self.trouble, self.trouble
        return fraction

    # ---------------------------------------------------------------- what must be true afterwards

    def restart_and_verify(self):
        if self.d.process is not None:
            self.d.kill()
        assert_integrity(self.d)
        self.d.start()
        self.verify_states()
        self.verify_instances()
        self.verify_path()
        self.verify_snapshot()
        self.verify_content()
        self.forget_old_copies()

    def verify_states(self):
        started = ok(self.api.get("/ops/status/"))["started"]
        for backup in self.api.list(BACKUPS):
            # A run of the schedule that was missed is made up for at once.
            if backup["created_at"] < started:
                assert backup["state"] in ("Ready", "Erred", "Deleting"), backup
        jobs = self.d.sql("SELECT j.kind FROM job j JOIN backup b ON b.id = j.backup_id WHERE b.created_at < ?", (ms(parse_time(started)),))
        assert {kind for kind, in jobs} <= {"delete"}, jobs
        wait_for(self.fired, "the missed run is made up for")
        wait_for(lambda: all(b["state"] in ("Ready", "Erred") for b in self.api.list(BACKUPS)), "deletions end", 60)
        wait_for(lambda: self.d.sql("SELECT count(*) FROM job") == [(0,)], "promised removals of files end")
        self.adopt(self.api.list(BACKUPS))
        self.verify_schedule()
        self.assert_usage_is_true()
        assert self.d.inspect() == []

    def adopt(self, found):
        """Compares the backups that are there with those that must be, and takes in what has become Ready."""
        there = {b["uuid"] for b in found}
        for uuid in list(self.content):
            if uuid in there:
                continue
            assert uuid in self.deleting or uuid in self.timed_before, f"backup {uuid} was Ready and is gone"
            del self.content[uuid]
        names = {local(machine["url"]): name for name, machine in self.machines.items()}
        for backup in found:
            if backup["state"] == "Erred":
                assert backup["uuid"] not in self.content, f"was Ready: {backup}"
                assert INTERRUPTED in backup["error_message"], backup
                ok(self.api.post(backup["url"] + "delete/"))
            elif backup["uuid"] not in self.content:
                self.content[backup["uuid"]] = self.now[names[local(backup["instance"])]]

    def verify_schedule(self):
        """Fewer backups than before only because a newer one is Ready."""
        schedule = self.get(self.schedule_url)
        ready = set(self.of("timed"))
        failed = "resource_backup_schedule_deactivated" in self.event_types(schedule)
        if not schedule["is_active"]:
            assert failed and INTERRUPTED in schedule["error_message"], schedule
            assert self.timed_before <= ready
            ok(self.api.post(self.schedule_url + "activate/"))
        assert len(ready) <= KEEP
        assert len(ready) >= min(KEEP, len(self.timed_before))
        self.timed_before = ready

    def verify_instances(self):
        mine = {local(machine["url"]) for machine in self.machines.values()}
        for new in self.api.list(INSTANCES):
            if local(new["url"]) in mine:
                continue
            assert new["state"] in ("Offline", "Erred"), new
            if new["state"] == "Erred":
                assert INTERRUPTED in new["error_message"], new
                assert not [p for p in self.volume_files(new) if p.exists()], "half-written files are left"
            else:
                origin = self.d.sql(
                    "SELECT b.uuid FROM restoration r JOIN backup b ON b.id = r.backup_id JOIN instance i ON i.id = r.instance_id"
                    " WHERE i.uuid = ?", (new["uuid"],))
                # Unless the backup was deleted meanwhile.
                for uuid, in origin:
                    for restored, wanted in zip(self.volume_files(new), self.content[uuid], strict=True):
                        assert_same_bytes(wanted, restored)
            self.delete_instance(new)
        wait_for(lambda: self.restored_files() == set(), "the files of instances that are gone are removed")

    def verify_path(self):
        """A restore to a file is finished by simply running it again."""
        target = self.scratch / "out.img"
        if not target.exists():
            return
        task = self.restore_to(self.path_source, target, mode="overwrite")
        assert task["state"] == "done", task
        wanted, = self.content[self.path_source]
        assert target.stat().st_size == wanted.stat().st_size
        assert target.read_bytes() == wanted.read_bytes()
        target.unlink()

    def verify_snapshot(self):
        """A copy of the coffer is whole if it is there, and an interrupted one is in nobody's way."""
        copy = self.scratch / "copy.db"
        if copy.exists():
            assert_whole(copy)
            copy.unlink()
        if list(self.scratch.glob("copy.db*")):
            task = self.task("/ops/snapshot/", {"path": str(copy)})
            assert task["state"] == "done", task
            assert_whole(copy)
            copy.unlink()
        assert list(self.scratch.iterdir()) == []

    def verify_content(self):
        for uuid, copies in self.content.items():
            for position, wanted in enumerate(copies):
                self.assert_restores(uuid, wanted, position)
        assert self.cli("check")["result"]["corrupt"] == []

    def verify_nothing_is_left_after_deleting_all(self):
        for backup in self.api.list(BACKUPS):
            if backup["state"] != "Deleting":
                ok(self.api.post(backup["url"] + "delete/"))
            self.wait_gone(backup["url"])
        self.cli("gc")
        self.assert_store_is_empty()
        self.assert_usage(sum(p.stat().st_size for disks in self.disks.values() for p in disks))


def build(start_daemon, seed, big):
    """A world with two backups of each machine."""
    world = World(start_daemon("[engine]\nmaintenance_interval_s = 3600"), seed, big)
    for kind in ("backup", "trio", "prune") * 2:
        world.run(kind)
        world.adopt(world.api.list(BACKUPS))
        world.timed_before = set(world.of("timed"))
    return world


def measure(world):
    """Finds out how long things take, to be able to hit their middle."""
    for kind in ("restore_instance", "restore_path", "snapshot"):
        world.run(kind)
        world.verify_instances()
        world.verify_path()
        world.verify_snapshot()
    world.durations |= {"delete": 0.15, "gc": 0.6, "all": sum(world.durations[k] for k in ("backup", "trio"))}


EVERY_RUN = ["backup", "restore_instance", "prune", "gc", "all", "restore_path", "backup", "snapshot", "delete", "prune", "all", "gc"]


FAULT = "crash: killed at any moment of anything"


def rounds(start_daemon, ledger, seed, kinds, big):
    seed = int(os.environ.get("COFFERD_SEED", seed))
    world = build(start_daemon, seed, big)
    measure(world)
    at = None
    try:
        for number, kind in enumerate(kinds(world)):
            at = (number, kind)
            with ledger.fault(FAULT):
                fraction = world.run_and_kill(kind)
                at = (number, kind, f"killed after {fraction:.3f} of {world.durations.get(kind, 1.0):.3f} s")
                print(at)
                world.restart_and_verify()
        at = "the end"
        world.verify_nothing_is_left_after_deleting_all()
    except BaseException:
        print(f"COFFERD_SEED={seed}, round {at}")
        raise


@pytest.mark.timeout(300)
def test_a_dozen_kills(start_daemon, ledger):
    rounds(start_daemon, ledger, 1, lambda world: EVERY_RUN, 192 * MIB)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 110))
def test_hundreds_of_kills(start_daemon, ledger, seed):
    def kinds(world):
        for _ in range(40):
            # Every machine keeps a backup that can be restored.
            poor = [kind for kind, name in (("backup", "big"), ("trio", "trio")) if len(world.of(name)) < 2]
            rich = [kind for kind in ("delete", "gc") if len(world.of("big")) > 3 or len(world.of("trio")) > 3]
            yield world.rng.choice(poor or rich or list(World.OPERATIONS))

    rounds(start_daemon, ledger, seed, kinds, world_size(seed))


def world_size(seed):
    return (96 if seed % 2 else 256) * MIB


# -------------------------------------------------------------------- at chosen system calls


def strike(start_daemon, kind, call, name, when):
    """Kills the daemon when a thread of it makes its `when`-th `call` on a file of the coffer, in the middle of an operation."""
    world = build(start_daemon, f"{kind} {call} {name} {when}", 64 * MIB)
    daemon = world.d
    world.prepare(kind)
    assert daemon.stop() == 0
    world.arm(kind)
    paths = [daemon.state_dir / n for n in ([name] if name else ["coffer.db", "coffer.db-wal"])]
    daemon.wrapper = inject(f"{call}:signal=KILL:when={when}", paths)
    daemon.start()
    world.trouble, world.lost = [], False
    world.attempt(lambda: world.OPERATIONS[kind](world))
    assert not world.trouble, world.trouble
    daemon.wrapper = []
    world.restart_and_verify()
    world.verify_nothing_is_left_after_deleting_all()
    return world.lost


CALLS = [
    ("backup", "pwrite64", "coffer.db-wal", 1), ("backup", "pwrite64", "coffer.db-wal", 201),
    ("backup", "pwrite64", "coffer.db", 3), ("backup", "fsync", None, 3),
    ("gc", "pwrite64", "coffer.db-wal", 131), ("prune", "fsync", None, 2),
]


@pytest.mark.parametrize("kind, call, name, when", CALLS)
@pytest.mark.fault(FAULT)
def test_killed_at_a_write(start_daemon, kind, call, name, when):
    assert strike(start_daemon, kind, call, name, when), "it was not killed: choose an earlier call"


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind, call, name", [
    (kind, call, name) for kind in ("backup", "delete", "gc", "prune", "all")
    for call, name in (("pwrite64", "coffer.db-wal"), ("pwrite64", "coffer.db"), ("fsync", None))
    if (kind, name) != ("delete", "coffer.db")  # it moves nothing there
])
def test_killed_at_each_of_many_writes(start_daemon, ledger, kind, call, name):
    whens = [1, 2, 3, 4, 5, 6, 7, 9, 11] if call == "fsync" else [1, 2, 5, 17, 60, 131, 200, 333, 520, 801]
    killed = []
    for when in whens:
        with ledger.fault(FAULT):
            killed.append(strike(start_daemon, kind, call, name, when))
    assert any(killed)
