"""Random histories of the real daemon beside the model: Hypothesis chooses what is done, and shortens what has gone wrong.

A history has a project of its own on a daemon that others have used before it, and leaves an empty store behind.
"""

import functools
import itertools
import os
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import requests
from hypothesis import note, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from faults.bench import Bench
from faults.shim import CHANGES, KILL_BEFORE, Shim
from helpers.api import ok
from helpers.cinder import Cinder, dashed, plain
from helpers.daemon import faketime_library
from helpers.disks import MIB
from helpers.lab import BACKUPS, INSTANCES, ms
from helpers.wait import wait_for
from histories.model import DAY, HOUR, Backup, Content, Model, Part, Schedule, Volume, bytes_of

START = datetime(2026, 11, 21, 12, 5, tzinfo=timezone.utc)
CONFIG = "[engine]\nexpiry_interval_s = 1\nmaintenance_interval_s = 2\n"
ORDERED = {200, 201, 202}
FLAWED = {400, 409, 413}  # how a dialect says no

picks = st.integers(0, 9)
steps = st.sampled_from([30, 60, 90, 300, 1440, 1470, 4320])  # minutes
instants = st.integers(1, 40)  # which change to the coffer is the last one


class Stage:
    """The daemon of all histories, until one of them has broken it."""

    def __init__(self, start_daemon, scratch):
        self.start_daemon, self.scratch, self.daemon, self.count, self.shown = start_daemon, scratch, None, itertools.count(), False

    def up(self):
        if self.daemon is None:
            scratch = self.scratch / str(next(self.count))
            scratch.mkdir()
            self.daemon = self.start_daemon(CONFIG, clock=START.isoformat(), start=False)
            self.shim = Shim(self.daemon.state_dir, scratch)
            self.daemon.extra_env = self.shim.env(faketime_library())
            self.daemon.start()
        return self.daemon

    def show(self, steps):
        """Prints the first history that fails: if it does not fail each time, Hypothesis tells of none."""
        if not self.shown:
            print("the first history that failed:", *steps, sep="\n    ")
        self.shown = True

    def abandon(self):
        self.daemon.check = False
        self.daemon.kill()
        self.daemon = None


class Nothing(Exception):
    """There is nothing yet with which this could be done. (Preconditions would do, if all that happens were the same each time.)"""


def operation(function):
    """A step that counts, and after whose failure the daemon is not used any more."""
    @functools.wraps(function)
    def step(self, **arguments):
        self.broken = True
        self.steps.append(f"{function.__name__}({', '.join(f'{key}={value!r}' for key, value in sorted(arguments.items()))})")
        fault = function.__doc__ or "a random operation"
        if arguments.get("die"):
            fault = "a random operation, in which it is killed at a change to its files"
        try:
            function(self, **arguments)
            self.compare()
        except Nothing:
            pass
        except BaseException:
            self.stage.show(self.steps)
            with self.ledger.fault(f"history: {fault}"):
                raise
        else:
            with self.ledger.fault(f"history: {fault}"):
                pass
        self.broken = False
    return step


class History(RuleBasedStateMachine):
    stage = ledger = None  # set by the test

    def __init__(self):
        super().__init__()
        self.steps = []

    @initialize()
    def begin(self):
        self.broken = True
        self.d = self.stage.up()
        self.shim, self.clock = self.stage.shim, self.d.clock
        self.clock.set(START)
        self.bench = Bench(self.d)
        self.api, self.project = self.bench.api, self.bench.project
        self.cinder = Cinder(self.d, self.project["uuid"], self.d.token)
        self.model = Model()
        self.seen = False  # the timer has looked at the clock since it was set
        disks = [self.bench.disk(size, seed=n) for n, size in enumerate((2 * MIB + 777, MIB))]
        self.machine = self.bench.instance(disks)
        self.model.machine = [self.registered(v["uuid"], disk) for v, disk in zip(self.machine["volumes"], disks)]
        disk = self.bench.disk(3 * MIB, seed=2)
        volume = ok(self.api.post("/ops/volumes/", {"path": str(disk), "project": self.project["uuid"], "name": "single"}), 201)
        self.model.single = [self.registered(volume["uuid"], disk)]
        self.profile = {"image": self.bench.image()["url"], "flavor": self.bench.flavor()["url"]}
        self.broken = False

    @staticmethod
    def registered(uuid, path):
        content = Content.read(path)
        return Volume(dashed(uuid), str(path), content, content.size)

    @staticmethod
    def choose(things, pick):
        if not things:
            raise Nothing
        return things[pick % len(things)]

    def now(self):
        return ms(self.clock.now())

    # ---------------------------------------------------------------- what is on the disks

    @rule(pick=picks, kind=st.sampled_from(["noise", "text", "zeros", "hole"]), seed=st.integers(0, 5), place=st.integers(0, 31),
          shift=st.sampled_from([0, 1, 4096, 70_000]), length=st.sampled_from([1, 4096, 65_536, MIB, MIB + 777]))
    @operation
    def write(self, pick, kind, seed, place, shift, length):
        volume = self.choose(self.model.volumes, pick)
        offset = min(place * MIB // 4 + shift, volume.content.size - 1)
        data = bytes_of(kind, seed, min(length, volume.content.size - offset))
        if kind == "hole":
            subprocess.run(["fallocate", "-p", "-o", str(offset), "-l", str(len(data)), volume.path], check=True)
        else:
            with open(volume.path, "r+b") as f:
                os.pwrite(f.fileno(), data, offset)
        volume.content = volume.content.written(offset, data)

    @rule(pick=picks, by=st.sampled_from([512, MIB, 3 * MIB + 4096]))
    @operation
    def grow(self, pick, by):
        volume = self.choose(self.model.volumes, pick)
        if volume.content.size < 12 * MIB:
            volume.content = volume.content.grown(volume.content.size + by)
            os.truncate(volume.path, volume.content.size)

    # ---------------------------------------------------------------- orders

    def order(self, send, refused, done, die=None):
        """Gives an order that must be refused or must be carried out, and lets `done` look at what has come of it.

        `die`: the daemon is killed at this change to its files, counted from the order. Then `done(told)` is called: `told` says
        whether the order had been accepted; if not, it may have been carried out all the same, as a whole or not at all.
        """
        if die is None:
            answer = send()
            assert answer.status_code in (FLAWED if refused else ORDERED), f"{refused=}: {answer.request.path_url}: {answer.status_code} {answer.text}"
            self.settle()
            return None if refused else done(True, answer)
        answer = None
        self.shim.arm(CHANGES, KILL_BEFORE, "", first=die)
        try:
            answer = send()
            self.settle()
        except (requests.ConnectionError, requests.ReadTimeout):
            pass
        self.shim.disarm()
        died = self.shim.hits > 0
        note(f"# it {'died at' if died else 'outlived'} change {die}, order {'accepted' if answer is not None and answer.ok else 'not accepted'}")
        self.d.kill()
        self.d.start()
        self.realign()
        self.settle()
        if answer is not None:
            assert answer.status_code in (FLAWED if refused else ORDERED), f"{refused=}: {answer.status_code} {answer.text}"
        return None if refused else done(answer is not None, answer, died)

    def settle(self):
        """Waits until nothing is promised any more, or nobody is there to do it."""
        wait_for(lambda: not self.d.running() or self.d.sql("SELECT count(*) FROM job") == [(0,)], "the work ends", 60, 0.004)

    def rows(self, kind, schedule=None):
        """Backups of this kind that the model does not know: rows as dictionaries, oldest first."""
        known = {backup.row for backup in self.model.backups}
        names = "id", "uuid", "state", "created_at", "kept_until", "reserved", "trigger_at", "schedule"
        rows = self.d.sql(
            "SELECT b.id, b.uuid, b.state, b.created_at, b.kept_until, b.reserved, b.trigger_at, s.uuid FROM backup b"
            " LEFT JOIN schedule s ON s.id = b.schedule_id JOIN project p ON p.id = b.project_id"
            " WHERE p.uuid = ? AND b.kind = ? ORDER BY b.id", (self.project["uuid"], kind))
        return [row for row in (dict(zip(names, row)) for row in rows) if row["id"] not in known and row["schedule"] == (schedule and schedule.id)]

    def adopt(self, row, kind, sources, parent=None, died=False, ready=True, schedule=None, before=None):
        """Takes in a backup that has been made of these (volume, content)."""
        found = self.d.sql(
            "SELECT vb.uuid, vb.size, vb.data_timestamp, vb.id, parent.uuid, vb.map_id FROM volume_backup vb"
            " LEFT JOIN volume_backup parent ON parent.id = vb.parent_id WHERE vb.backup_id = ? ORDER BY vb.position", (row["id"],))
        assert len(found) == len(sources), (found, sources)
        # The daemon was killed while it made this one.
        if died and row["state"] == "erred":
            ready = False
        assert row["state"] == ("ready" if ready else "erred"), f"{row} must be {'ready' if ready else 'erred'}"
        parts = []
        for (uuid, size, timestamp, number, parent_uuid, map_id), (volume, content) in zip(found, sources):
            assert parent_uuid == (plain(parent.id) if parent else None), f"{row}: parent {parent_uuid}, wanted {parent}"
            assert (map_id is not None) == ready, row
            if ready:
                assert size == content.size, f"{row}: {size} bytes, wanted {content.size}"
            if volume and before is None:
                # It looks how large the disk is before it reads.
                known = self.d.sql("SELECT size FROM volume WHERE uuid = ?", (plain(volume.id),))[0][0]
                assert known in ({content.size} if ready else {volume.known, content.size}), (known, volume.known, content.size)
                volume.known = known
            parts.append(Part(dashed(uuid), volume, content if ready else None, size, timestamp, number, parent))
        backup = Backup(kind, row["uuid"], parts, row["created_at"], ready, schedule, row["trigger_at"], row["kept_until"], row["id"])
        self.model.backups.append(backup)
        assert row["reserved"] == backup.reserved, (row, backup.reserved)
        return backup

    def grows(self, volumes):
        """Whether the disks have room for what they have grown by, which is known only when they are read."""
        growth = sum(volume.content.size - volume.known for volume in volumes)
        return growth == 0 or self.model.fits(storage=2 * growth)

    def back_up(self, kind, send, sources, refused, die, parent=None):
        """An order for one new backup of what is on these volumes now."""
        wanted = [(volume, volume.content) for volume in sources]

        def done(told, answer, died=False):
            rows = self.rows(kind)
            assert len(rows) == 1 or died and not told and not rows, f"{len(rows)} backups where one was ordered: {rows}"
            # With the reservation made, growth is what must fit on top of it.
            for row in rows:
                fits = self.model.fits(storage=sum(v.known for v in sources) + 2 * sum(c.size - v.known for v, c in wanted))
                grown = any(volume.known != content.size for volume, content in wanted)
                self.adopt(row, kind, wanted, parent, died, ready=fits or not grown)

        self.order(send, refused, done, die)

    @rule(die=st.none() | instants)
    @operation
    def back_up_machine(self, die):
        volumes = self.model.machine
        refused = not all(volume.whole for volume in volumes) or not self.model.fits(
            storage=sum(volume.known for volume in volumes), backups=len(volumes))
        self.back_up("instance", lambda: self.api.post(BACKUPS, {"instance": self.machine["url"]}), volumes, refused, die)

    @rule(pick=picks, incremental=st.booleans(), die=st.none() | instants)
    @operation
    def back_up_volume(self, pick, incremental, die):
        volume = self.choose(self.model.volumes, pick)
        parent = self.model.parent(volume) if incremental else None
        refused = not volume.whole or incremental and not parent or not self.model.fits(storage=volume.known, backups=1)
        body = {"backup": {"volume_id": volume.id, "incremental": incremental}}
        self.back_up("volume", lambda: self.cinder.post("/backups", body), [volume], refused, die, parent)

    @rule(pick=picks, die=st.none() | instants)
    @operation
    def take_snapshot(self, pick, die):
        volume = self.choose(self.model.volumes, pick)
        refused = not volume.whole or not self.model.fits(storage=volume.known, snapshots=1, gigabytes=1)
        body = {"snapshot": {"volume_id": volume.id}}
        self.back_up("snapshot", lambda: self.cinder.post("/snapshots", body), [volume], refused, die)

    @rule(pick=picks, incremental=st.booleans(), die=st.none() | instants)
    @operation
    def back_up_snapshot(self, pick, incremental, die):
        snapshot = self.choose([b for b in self.model.of("snapshot") if b.ready and b.parts[0].volume], pick).parts[0]
        parent = self.model.parent(snapshot.volume, snapshot.timestamp) if incremental else None
        refused = incremental and not parent or not self.model.fits(storage=snapshot.size, backups=1)
        body = {"backup": {"volume_id": snapshot.volume.id, "snapshot_id": snapshot.id, "incremental": incremental}}

        def done(told, answer, died=False):
            rows = self.rows("volume")
            assert len(rows) == 1 or died and not told and not rows, rows
            for row in rows:
                self.adopt(row, "volume", [(snapshot.volume, snapshot.content)], parent, before=snapshot)

        self.order(lambda: self.cinder.post("/backups", body), refused, done, die)

    @rule(pick=picks, force=st.booleans(), die=st.none() | instants)
    @operation
    def delete(self, pick, force, die):
        self.delete_backup(self.choose(self.model.backups, pick), force, die)

    def delete_backup(self, backup, force=False, die=None):
        note(f"# {backup.kind} {backup.id}")
        kind, ident = ("snapshots" if backup.kind == "snapshot" else "backups"), dashed(backup.id)
        if backup.kind == "instance":
            send = functools.partial(self.api.post, f"{BACKUPS}{backup.id}/delete/")
        else:
            ident = backup.parts[0].id
            force_body = {"os-force_delete": {}}
            send = functools.partial(self.cinder.post, f"/{kind}/{ident}/action", force_body) if force else functools.partial(
                self.cinder.delete, f"/{kind}/{ident}")
        refused = backup.kind != "instance" and self.model.has_children(backup)

        def done(told, answer, died=False):
            left = self.d.sql("SELECT 1 FROM backup WHERE id = ?", (backup.row,))
            assert not left or not told, f"{backup.kind} {backup.id} is still there"
            if not left:
                self.model.remove(backup)

        self.order(send, refused, done, die)

    @rule(pick=picks, available=st.booleans())
    @operation
    def reset_status(self, pick, available):
        backup = self.choose(self.model.of("volume", "snapshot"), pick)
        kind = "snapshots" if backup.kind == "snapshot" else "backups"
        refused = available and backup.parts[0].content is None
        body = {"os-reset_status": {"status": "available" if available else "error"}}

        def done(told, answer):
            backup.ready = available

        self.order(lambda: self.cinder.post(f"/{kind}/{backup.parts[0].id}/action", body), refused, done)

    @rule(pick=picks, days=st.sampled_from([None, 1, 2]))
    @operation
    def keep(self, pick, days):
        backup = self.choose([b for b in self.model.of("instance") if b.schedule is None and b.ready], pick)
        until = None if days is None else self.clock.now() + timedelta(days=days)
        shown = ok(self.api.patch(f"{BACKUPS}{backup.id}/", {"kept_until": until and until.isoformat()}))["kept_until"]
        backup.kept_until = self.d.sql("SELECT kept_until FROM backup WHERE id = ?", (backup.row,))[0][0]
        assert (backup.kept_until is None) == (shown is None) == (until is None) and (until is None or abs(backup.kept_until - ms(until)) < 2)

    # ---------------------------------------------------------------- restores

    @rule(pick=picks, onto=picks, die=st.none() | instants)
    @operation
    def restore_over(self, pick, onto, die):
        backup, part = self.choose(self.model.restorable("instance", "volume"), pick)
        volume = self.choose(self.model.volumes, onto)
        before, after = volume.content, part.content.restored_over(volume.content) if part.content.size <= volume.content.size else None
        if volume.whole:
            body = {"restore": {"volume_id": volume.id}}
            send = functools.partial(self.cinder.post, f"/backups/{part.id}/restore", body)
            refused = part.size > volume.known
        else:
            body = {"backup": backup.id, "position": backup.parts.index(part), "path": volume.path, "mode": "overwrite"}
            send = functools.partial(self.api.post, "/ops/restores/", body)
            refused = False

        def done(told, answer, died=False):
            state, = self.d.sql("SELECT state FROM volume WHERE uuid = ?", (plain(volume.id),))[0]
            found = Content.read(volume.path)
            if died and state == "error_restoring" or after is None:
                assert state == "error_restoring", state
                assert found.size == before.size
                volume.whole = False
            else:
                assert state == ("available" if volume.whole or told or found == after else "error_restoring"), state
                assert found == after or died and not told and found == before, f"{volume.path}: {found.differs(after)}"
                volume.whole = state == "available"
            volume.content = found

        self.order(send, refused, done, die)

    @rule(pick=picks, die=st.none() | instants)
    @operation
    def restore_to_new_volume(self, pick, die):
        backup, part = self.choose(self.model.restorable() if len(self.model.single) < 4 else [], pick)
        if backup.kind == "snapshot":
            size = -(-part.size // 2**30) * 2**30
            send = functools.partial(self.cinder.post, "/volumes", {"volume": {"snapshot_id": part.id, "size": size >> 30}})
        else:
            size = part.size
            send = functools.partial(self.cinder.post, f"/backups/{part.id}/restore", {"restore": {"name": "new"}})
        refused = not self.model.fits(storage=size, volumes=1, gigabytes=1)

        def done(told, answer, died=False):
            found = self.new_volumes()
            assert len(found) == 1 or died and not told and not found, found
            for ident, path, state in found:
                assert state == "available" or died and state == ("error" if backup.kind == "snapshot" else "error_restoring"), state
                if state != "available":
                    assert not os.path.exists(path), f"{path} is left"
                    ok(self.cinder.delete(f"/volumes/{ident}"), 202)
                    self.settle()
                    continue
                content = Content.read(path)
                wanted = part.content.grown(size)
                assert content == wanted, f"{path}: {content.differs(wanted)}"
                self.model.single.append(Volume(ident, path, content, content.size, managed=True))

        self.order(send, refused, done, die)

    def new_volumes(self):
        known = {plain(volume.id) for volume in self.model.volumes}
        found = self.d.sql("SELECT v.uuid, v.path, v.state FROM volume v JOIN project p ON p.id = v.project_id WHERE p.uuid = ?",
                           (self.project["uuid"],))
        return [(dashed(uuid), path, state) for uuid, path, state in found if uuid not in known]

    @rule(pick=picks, die=st.none() | instants)
    @operation
    def restore_to_new_machine(self, pick, die):
        backup = self.choose([b for b in self.model.of("instance") if b.ready], pick)
        count = len(backup.parts)
        refused = not self.model.fits(storage=sum(part.size for part in backup.parts), volumes=count, gigabytes=count)

        def done(told, answer, died=False):
            found = [i for i in self.api.list(INSTANCES, project=self.project["url"]) if i["uuid"] != self.machine["uuid"]]
            assert len(found) == 1 or died and not told and not found, found
            for machine in found:
                assert machine["state"] == "Offline" or died and machine["state"] == "Erred", machine
                paths = self.bench.volume_files(machine)
                assert len(paths) == count
                if machine["state"] == "Erred":
                    assert not any(path.exists() for path in paths), paths
                else:
                    for path, part in zip(paths, backup.parts):
                        content = Content.read(path)
                        assert content == part.content, f"{path}: {content.differs(part.content)}"
                ok(self.api.delete(machine["url"]), 202)
                self.bench.wait_gone(machine["url"])
                assert not any(path.exists() for path in paths), paths

        self.order(lambda: self.api.post(f"{BACKUPS}{backup.id}/restore/", self.profile), refused, done, die)

    @rule(pick=picks)
    @operation
    def restore_to_path(self, pick):
        self.restores(*self.choose(self.model.restorable("instance", "volume"), pick))

    def restores(self, backup, part):
        path = self.d.base / "restored.img"
        task = self.bench.restore_to(backup.id, path, backup.parts.index(part))
        assert task["state"] == "done", task
        content = Content.read(path)
        path.unlink()
        assert content == part.content, f"{backup.kind} {backup.id}: {content.differs(part.content)}"

    @rule(pick=picks)
    @operation
    def reset_volume(self, pick):
        volume = self.choose([volume for volume in self.model.volumes if not volume.whole], pick)
        ok(self.cinder.post(f"/volumes/{volume.id}/action", {"os-reset_status": {"status": "available"}}), 202)
        volume.whole = True

    @rule(pick=picks, die=st.none() | instants)
    @operation
    def remove_volume(self, pick, die):
        volume = self.choose([volume for volume in self.model.single if volume.managed], pick)
        refused = any(part.volume is volume for backup in self.model.of("snapshot") for part in backup.parts)

        def done(told, answer, died=False):
            left = self.d.sql("SELECT state FROM volume WHERE uuid = ?", (plain(volume.id),))
            assert not left or not told, left
            assert bool(left) == os.path.exists(volume.path)
            if not left:
                self.model.remove_volume(volume)

        self.order(lambda: self.cinder.delete(f"/volumes/{volume.id}"), refused, done, die)

    # ---------------------------------------------------------------- the administrator

    @rule(name=st.sampled_from(["storage", "storage", "backups", "snapshots", "volumes"]), room=st.none() | st.integers(0, 6))
    @operation
    def limit(self, name, room):
        self.set_limit(name, room)

    def set_limit(self, name, room):
        usage = self.model.usage()[name]
        if room is None:
            limit = -1
            self.model.limits.pop(name, None)
        else:
            unit = MIB if name == "storage" else 1
            limit = -(-usage // unit) + room
            self.model.limits[name] = limit * unit
        self.bench.set_quota(name, limit)

    @rule(die=st.none() | instants)
    @operation
    def collect(self, die):
        if die is None:
            self.bench.gc()
        else:
            self.order(lambda: self.api.post("/ops/gc/", {"dead_fraction": 0}), False, lambda told, answer, died=False: None, die)

    @rule(what=st.sampled_from(["check", "scrub"]))
    @operation
    def look(self, what):
        task = self.bench.task(f"/ops/{what}/")
        found = {key: value for key, value in task["result"].items() if key not in ("packs", "chunks", "bytes") and value}
        assert (task["state"], found) == ("done", {}), task
        assert self.d.inspect() == []

    @rule(picks=st.lists(picks, min_size=2, max_size=4))
    @operation
    def many_at_once(self, picks):
        self.set_limit("storage", None)
        self.set_limit("backups", None)
        volumes = list(dict.fromkeys(self.choose(self.model.volumes, pick) for pick in picks))
        victims = [b for b in self.model.backups if b.kind == "instance" or not self.model.has_children(b)][:len(picks) // 2]
        whole = all(volume.whole for volume in self.model.machine)
        if whole:
            ok(self.api.post(BACKUPS, {"instance": self.machine["url"]}), 201)
        for backup in victims:
            if backup.kind == "instance":
                ok(self.api.post(f"{BACKUPS}{backup.id}/delete/"), 200)
            else:
                ok(self.cinder.delete(f"/{'snapshots' if backup.kind == 'snapshot' else 'backups'}/{backup.parts[0].id}"), 202)
        gc = ok(self.api.post("/ops/gc/", {"dead_fraction": 0}), 202)["task"]
        for volume in volumes:
            # What is being backed up already is refused a second time.
            answer = self.cinder.post("/backups", {"backup": {"volume_id": volume.id}})
            assert answer.status_code in (202, 400), answer.text
        self.settle()
        assert self.bench.wait_task(gc)["state"] == "done"
        for backup in victims:
            self.model.remove(backup)
        found = self.rows("instance")
        assert len(found) == whole, found
        for row in found:
            self.adopt(row, "instance", [(volume, volume.content) for volume in self.model.machine])
        for row in self.rows("volume"):
            (uuid,), = self.d.sql("SELECT volume_uuid FROM volume_backup WHERE backup_id = ?", (row["id"],))
            volume, = (volume for volume in volumes if plain(volume.id) == uuid)
            self.adopt(row, "volume", [(volume, volume.content)])

    # ---------------------------------------------------------------- ends and starts, time

    @rule(how=st.sampled_from(["kill", "term"]))
    @operation
    def interrupt(self, how):
        """killed or stopped at rest"""
        self.d.interrupt(how)
        self.realign()

    def realign(self):
        """What the first look at the clock does to schedules; the same is done after the clock went back."""
        self.seen = True
        now = self.now()
        for schedule in self.model.schedules:
            if schedule.active and schedule.next > now:
                schedule.next = min(schedule.next, schedule.next_after(now))

    @rule(maximal=st.integers(1, 2), days=st.integers(0, 2), runs=st.integers(0, 4))
    @operation
    def add_schedule(self, maximal, days, runs):
        if len(self.model.schedules) == 2:
            raise Nothing
        fields = {"schedule": "0 * * * *", "timezone": "UTC", "is_active": True, "retention_time": days, "maximal_number_of_backups": maximal}
        made = self.bench.schedule(self.machine, **fields)
        schedule = Schedule(made["url"], made["uuid"], maximal, days, 0)
        schedule.next = schedule.next_after(self.now())
        self.model.schedules.append(schedule)
        for _ in range(runs):
            self.set_clock_ahead(60, False, None)
            self.see_schedules()

    @rule(pick=picks)
    @operation
    def activate_schedule(self, pick):
        schedule = self.choose(self.model.schedules, pick)
        if not schedule.active:
            ok(self.api.post(schedule.url + "activate/"))
            schedule.active, schedule.next = True, schedule.next_after(self.now())

    @rule(pick=picks)
    @operation
    def remove_schedule(self, pick):
        schedule = self.choose(self.model.schedules, pick)
        ok(self.api.delete(schedule.url), 204)
        self.model.schedules.remove(schedule)
        for backup in self.model.backups:
            if backup.schedule is schedule:
                backup.schedule = None

    @rule(minutes=steps, back=st.booleans(), down=st.booleans(), die=st.none() | instants)
    @operation
    def step_clock(self, minutes, back, down, die):
        """the clock is set, ahead or back"""
        if back:
            # The timer looks once a second: it must have seen the time from which the clock goes back, or begin anew.
            self.set_clock(-minutes, down or not self.seen)
            self.realign()
        else:
            self.set_clock_ahead(minutes, down, die)
        self.see_schedules()

    def set_clock_ahead(self, minutes, down, die):
        due, expiring = self.due(minutes)
        if due and expiring:
            # Which of them comes first is anybody's guess, so both must be possible.
            self.set_limit("storage", None)
            self.set_limit("backups", None)
        if die is None:
            self.set_clock(minutes, down)
        else:
            self.shim.arm(CHANGES, KILL_BEFORE, "", first=die)
            self.clock.advance(minutes * 60)
            try:
                self.wait_fired(due, expiring)
            finally:
                self.shim.disarm()
            note(f"# it {'died' if self.shim.hits else 'was killed later'}")
            self.d.kill()
            self.d.start()
        self.wait_fired(due, expiring)
        self.seen = bool(due or expiring)
        self.fired(die is not None and self.shim.hits > 0)

    def due(self, minutes):
        now = self.now() + minutes * 60_000
        due = sorted((s for s in self.model.schedules if s.active and s.next <= now), key=lambda s: s.next)
        return due, self.model.expired(now)

    def set_clock(self, minutes, down):
        if down:
            assert self.d.stop() == 0
        self.clock.advance(minutes * 60)
        if down:
            self.d.start()

    def wait_fired(self, due, expiring):
        def over():
            if not self.d.running():
                return True
            state = {uuid: (next_at, active) for uuid, next_at, active in self.d.sql("SELECT uuid, next_trigger_at, is_active FROM schedule")}
            left = {row for row, in self.d.sql("SELECT id FROM backup")}
            return all(state[s.id][0] > s.next or not state[s.id][1] for s in due) and not any(b.row in left for b in expiring) \
                and self.d.sql("SELECT count(*) FROM job") == [(0,)]
        wait_for(over, "what is due is done", 20, 0.01)

    def fired(self, died):
        """What the schedules that are due must have done by now."""
        now = self.now()
        due, expiring = self.due(0)
        volumes = self.model.machine
        for schedule in due:
            instant, schedule.next = schedule.next, schedule.next_after(now)
            found = self.rows("instance", schedule)
            taken = any(b.schedule is schedule and b.instant == instant for b in self.model.backups)
            if taken:
                assert not found, found
            elif not all(v.whole for v in volumes) or not self.model.fits(storage=sum(v.known for v in volumes), backups=len(volumes)):
                assert not found, found
                schedule.active = False
            else:
                row, = found
                fits = self.model.fits(storage=sum(v.known for v in volumes) + 2 * sum(v.content.size - v.known for v in volumes))
                grown = any(volume.known != volume.content.size for volume in volumes)
                backup = self.adopt(row, "instance", [(v, v.content) for v in volumes], died=died, ready=fits or not grown, schedule=schedule)
                assert backup.instant == instant, (backup.instant, instant)
                assert backup.kept_until == (backup.created + schedule.days * DAY if schedule.days else None)
                assert 0 <= now - backup.created < HOUR
                schedule.active = backup.ready
                if backup.ready:
                    for victim in self.model.prune(backup):
                        self.model.remove(victim)
        for backup in expiring:
            if backup in self.model.backups:
                self.model.remove(backup)

    def see_schedules(self):
        wanted = {s.id: (s.next, s.active) for s in self.model.schedules if s.active}

        def same():
            return {uuid: (at, bool(active)) for uuid, at, active in self.d.sql("SELECT uuid, next_trigger_at, is_active FROM schedule WHERE is_active")} == wanted
        try:
            wait_for(same, "the schedules stand where they must", 10, 0.01)
        except AssertionError as error:
            raise AssertionError(f"{error}: {wanted}, but {self.d.sql('SELECT uuid, next_trigger_at, is_active FROM schedule')}") from None

    # ---------------------------------------------------------------- what must be true after each step

    def compare(self):
        states = {True: "available", False: "error"}
        shown = {b["uuid"]: b["state"] for b in self.api.list(BACKUPS, project_uuid=self.project["uuid"])
                 if b["project_uuid"] == self.project["uuid"]}
        self.same("backups in Waldur", shown, {b.id: "Ready" if b.ready else "Erred" for b in self.model.of("instance")})
        shown = {b["id"]: b["status"] for b in self.cinder.list(limit=300)}
        self.same("backups in Cinder", shown, {p.id: states[b.ready] for b in self.model.of("instance", "volume") for p in b.parts})
        shown = {s["id"]: s["status"] for s in ok(self.cinder.get("/snapshots/detail"))["snapshots"]}
        self.same("snapshots", shown, {b.parts[0].id: states[b.ready] for b in self.model.of("snapshot")})
        shown = {v["id"]: v["status"] for v in ok(self.cinder.get("/volumes/detail"))["volumes"]}
        self.same("volumes", shown, {volume.id: volume.status for volume in self.model.volumes})
        usage = self.model.usage()
        found = {q["name"]: q["usage"] for q in ok(self.api.get("/api/quotas/", params={"page_size": 300}))
                 if self.project["uuid"] in q["scope"] and q["name"] in usage}
        found["storage"] = round(found["storage"] * MIB)
        self.same("quotas", found, usage)

    @staticmethod
    def same(what, shown, wanted):
        assert shown == wanted, f"{what}: missing {dict(wanted.items() - shown.items())}, too many {dict(shown.items() - wanted.items())}"

    def teardown(self):
        if not hasattr(self, "model"):
            return
        if self.broken:
            self.shim.disarm()
            self.stage.abandon()
            return
        with self.ledger.fault("history: a whole one, after which everything is restored, then deleted, and the store is empty"):
            try:
                self.end()
            except BaseException:
                self.stage.show([*self.steps, "(the end)"])
                self.stage.abandon()
                raise

    def end(self):
        """Everything is there, byte for byte; then it goes, and nothing is left."""
        for backup, part in self.model.restorable("instance", "volume"):
            self.restores(backup, part)
        for volume in self.model.volumes:
            content = Content.read(volume.path)
            assert content == volume.content, f"{volume.path} was not to be touched: {content.differs(volume.content)}"
        for schedule in self.model.schedules:
            ok(self.api.delete(schedule.url), 204)
        while self.model.backups:
            self.delete_backup(next(b for b in self.model.backups if b.kind == "instance" or not self.model.has_children(b)))
        for volume in list(self.model.single):
            target = f"/ops/volumes/{plain(volume.id)}/"
            ok(self.api.delete(target), 204)
            assert os.path.exists(volume.path) != volume.managed
            Path(volume.path).unlink(missing_ok=True)
            self.model.remove_volume(volume)
        self.bench.delete_instance(self.machine)
        for volume in self.model.machine:
            Path(volume.path).unlink()
        self.model.machine = []
        self.compare()
        self.bench.gc()
        self.bench.assert_store_is_empty()
        assert self.d.inspect() == []
        assert self.bench.restored_files() == set()
        ok(self.api.delete(self.project["url"]), 204)
