"""A small world that is put back as it was before each case: what the daemon dies in, and what must be true when it is there again."""

import os
import subprocess
from pathlib import Path

import requests

from faults.bench import Bench, assert_integrity, copy_sparse, mixed_bytes
from helpers.api import ok
from helpers.cinder import CinderLab, dashed
from helpers.cinder_volumes import content
from helpers.disks import MIB
from helpers.lab import BACKUPS, INSTANCES
from helpers.wait import wait_for

INTERRUPTED = "interrupted"
QUIET = "[engine]\nmaintenance_interval_s = 3600\n[scrub]\nbytes_per_second = 0"
# What may lie in the state directory of a daemon that runs.
FILES = {"coffer.db", "coffer.db-wal", "coffer.db-shm", "coffer.lock", "cofferd.sock", "admin.token"}
LASTING = {
    "backup": {"ready", "erred"},
    "volume": {"available", "in-use", "error", "error_restoring", "error_extending", "error_deleting"},
    "instance": {"online", "offline", "erred"},
}


def copy_tree(source, target):
    subprocess.run(["cp", "-a", "--sparse=always", "--reflink=auto", str(source), str(target)], check=True)


class Stage(Bench, CinderLab):
    """Two machines, one of them with a schedule, and a volume of its own, with backups of each.

    `expected` has what each backup that is or was Ready must restore to, `now` what is on the disks: by uuid, files.
    """

    def __init__(self, daemon, rng):
        super().__init__(daemon)
        self.rng = rng
        self.template, self.keep = daemon.base / "template", daemon.base / "kept"
        self.keep.mkdir()
        self.scratch = daemon.root / "scratch"
        self.scratch.mkdir()
        self.expected, self.now, self.doomed, self.instant = {}, {}, set(), 0
        self.started = None

    def build(self):
        self.disks = {name: self.new_disk(name, size) for name, size in
                      {"system": 2 * MIB + 12_800, "data": MIB, "timed": MIB, "lone": MIB + 512}.items()}
        self.pair = self.instance([self.disks["system"], self.disks["data"]], name="pair")
        self.timed = self.instance([self.disks["timed"]], name="timed")
        self.schedule_url = self.schedule(self.timed, maximal_number_of_backups=2, is_active=True)["url"]
        self.lone = ok(self.api.post("/ops/volumes/", {"path": str(self.disks["lone"]), "project": self.project["uuid"], "name": "lone"}), 201)
        self.lone["id"] = dashed(self.lone["uuid"])
        self.profile = {"image": self.image()["url"], "flavor": self.flavor()["url"]}
        self.snap()
        for _ in range(2):
            self.backup(self.pair)
            self.fire()
            self.admin.backup(self.lone, incremental=bool(self.expected))
            self.learn()
            self.change("system", "timed", "lone")
        return self

    # ---------------------------------------------------------------- disks

    def new_disk(self, name, size):
        path = self.d.root / f"{name}.img"
        path.write_bytes(mixed_bytes(self.rng, size))
        return path

    def change(self, *names):
        for name in names:
            with open(self.disks[name], "r+b") as f:
                for _ in range(3):
                    f.seek(self.rng.randrange(0, self.disks[name].stat().st_size - 4096))
                    f.write(self.rng.randbytes(4096))
        self.snap()

    def snap(self):
        """Keeps a copy of the registered disks: what a backup made from now on must hold."""
        paths = {path: uuid for uuid, path in self.d.sql("SELECT uuid, path FROM volume WHERE NOT managed")}
        for disk in self.disks.values():
            name = self.keep / f"{len(list(self.keep.iterdir()))}-{disk.name}"
            self.now[paths[str(disk)]] = copy_sparse(disk, name)

    def learn(self):
        """Takes in what has become Ready since the last look."""
        for uuid, volume, position in self.ready_parts():
            self.expected.setdefault(uuid, {}).setdefault(position, self.now[volume])

    def ready_parts(self):
        return self.d.sql("SELECT b.uuid, vb.volume_uuid, vb.position FROM backup b JOIN volume_backup vb ON vb.backup_id = b.id"
                          " WHERE b.state = 'ready' ORDER BY b.id, vb.position")

    # ---------------------------------------------------------------- the case

    def save(self):
        """From now on `reset` leads back to here."""
        if self.d.running():
            assert self.d.stop() == 0
        self.d.kill()
        self.template.mkdir()
        copy_tree(self.d.state_dir, self.template / "state")
        copy_tree(self.d.root, self.template / "disks")
        self.saved = {uuid: dict(parts) for uuid, parts in self.expected.items()}, dict(self.now), set(self.doomed), self.instant

    def reset(self):
        self.d.kill()
        for path in (self.d.state_dir, self.d.root):
            subprocess.run(["rm", "-rf", str(path)], check=True)
        copy_tree(self.template / "state", self.d.state_dir)
        copy_tree(self.template / "disks", self.d.root)
        expected, now, doomed, self.instant = self.saved
        self.expected, self.now, self.doomed = {uuid: dict(parts) for uuid, parts in expected.items()}, dict(now), set(doomed)

    def attempt(self, act):
        """True if nothing kills the daemon. `act` may know better whether that is so."""
        ended = None
        try:
            ended = act(self)
        except (requests.ConnectionError, requests.ReadTimeout):
            wait_for(lambda: not self.d.running(), "the daemon that does not answer is dead")
        return self.d.running() if ended is None else ended

    def lives(self):
        """For who waits for something that a dead daemon never does."""
        return ok(self.api.get("/ops/status/"))

    # ---------------------------------------------------------------- what must be true

    def come_back(self):
        """Starts the daemon that was killed, and waits until all that was promised is done."""
        self.d.kill()
        assert_integrity(self.d)
        self.d.start()
        self.rest()

    def rest(self):
        wait_for(lambda: self.d.sql("SELECT count(*) FROM schedule WHERE is_active AND next_trigger_at < 1000000") == [(0,)], "missed runs are made up for")
        wait_for(lambda: self.d.sql("SELECT count(*) FROM job") == [(0,)], "promised work ends", 60)

    def verify(self):
        self.verify_states()
        self.verify_files()
        self.verify_volumes()
        self.verify_runs()
        self.assert_usage_is_true()
        assert self.d.inspect() == []

    def verify_states(self):
        rows = self.d.sql(
            "SELECT 'backup', uuid, state, error_message FROM backup UNION ALL SELECT 'volume', uuid, state, error_message FROM volume"
            " UNION ALL SELECT 'instance', uuid, state, error_message FROM instance")
        for table, uuid, state, why in rows:
            assert state in LASTING[table], (table, uuid, state)
            if state.startswith("err"):
                assert INTERRUPTED in why, (table, uuid, state, why)
        there = {uuid: state for table, uuid, state, _ in rows if table == "backup"}
        for uuid in self.expected:
            assert there.get(uuid) == "ready" or (uuid in self.doomed and uuid not in there), f"backup {uuid} was Ready and is {there.get(uuid)}"
        self.learn()

    def verify_files(self):
        """Each file that cofferd has made is a volume's, and there is nothing else in its directory."""
        found = {path for path in self.d.state_dir.rglob("*") if not path.is_dir()}
        owned = {Path(path) for path, in self.d.sql("SELECT path FROM volume WHERE managed")}
        strange = {path for path in found - owned if path.parent != self.d.state_dir or path.name not in FILES}
        assert not strange, f"files that nobody owns: {strange}"

    def verify_volumes(self):
        for path, in self.d.sql("SELECT path FROM volume WHERE managed AND state IN ('available', 'error_extending')"):
            assert os.path.exists(path), f"{path} of an available volume is not there"

    def verify_runs(self):
        """The schedule ran once for each instant at which it was due, and fewer backups are there only because newer ones are Ready."""
        runs = [row[0] for row in self.d.sql("SELECT trigger_at FROM backup WHERE trigger_at IS NOT NULL")]
        assert len(runs) == len(set(runs)) and (self.instant == 0 or self.instant in runs), (runs, self.instant)
        (ready,), = self.d.sql("SELECT count(*) FROM backup WHERE trigger_at IS NOT NULL AND state = 'ready'")
        assert ready == min(2, self.instant), f"the schedule keeps {ready} backups"

    def verify_content(self, damaged=()):
        there = {uuid for uuid, _, _ in self.ready_parts()}
        for uuid in sorted(there & set(self.expected) - set(damaged)):
            for position, wanted in self.expected[uuid].items():
                self.assert_restores(uuid, wanted, position)

    def verify_check(self):
        task = self.task("/ops/check/")
        assert task["state"] == "done" and task["result"]["corrupt"] == [], task

    def assert_volume(self, path, backup, position=0):
        """The volume's file begins with what the backup holds, and has nothing after it."""
        assert content(path) == content(self.expected[backup][position]), path

    # ---------------------------------------------------------------- operations

    def fire(self):
        """Makes the schedule due and waits until what it makes has come to rest."""
        self.instant += 1
        self.d.sql("UPDATE schedule SET next_trigger_at = ?", (self.instant,))
        wait_for(lambda: not self.get(self.schedule_url)["next_trigger_at"].startswith("1970"), "the schedule fires")
        found = f"{BACKUPS}?page_size=300"
        wait_for(lambda: all(b["state"] in ("Ready", "Erred") for b in ok(self.api.get(found))), "its backups come to rest", 60)

    def backups_by(self, kind):
        """Uuids of the backups of the pair, the lone volume's backups or its snapshots, oldest first."""
        where = {"pair": "kind = 'instance' AND schedule_id IS NULL", "timed": "schedule_id IS NOT NULL"}.get(kind, f"kind = '{kind}'")
        return [uuid for uuid, in self.d.sql(f"SELECT uuid FROM backup WHERE {where} AND state = 'ready' ORDER BY id")]

    def part(self, uuid, position=0):
        """Cinder's id of a part of a backup."""
        return dashed(self.d.sql("SELECT vb.uuid FROM volume_backup vb JOIN backup b ON b.id = vb.backup_id WHERE b.uuid = ? AND vb.position = ?",
                                 (uuid, position))[0][0])

    def delete_promised(self, uuids):
        """Deletes those of these backups that are there and not being deleted, each through its own dialect."""
        for uuid in uuids:
            found = self.d.sql("SELECT kind, state FROM backup WHERE uuid = ?", (uuid,))
            if found and found[0][1] != "deleting":
                if found[0][0] == "instance":
                    ok(self.api.post(f"{BACKUPS}{uuid}/delete/"))
                else:
                    ok(self.admin.delete(f"/backups/{self.part(uuid)}"), 202)

        def gone():
            return self.lives() and not {uuid for uuid, in self.d.sql("SELECT uuid FROM backup")} & set(uuids)

        wait_for(gone, "the backups are gone", 60)

    def rest_of(self, kind, thing):
        """The status in which Cinder's object has come to rest; None: it is gone."""

        def look():
            answer = self.admin.get(f"/{kind}/{thing['id']}")
            if answer.status_code == 404:
                return "gone"
            status = ok(answer)[kind[:-1]]["status"]
            return None if status in ("creating", "deleting", "restoring", "restoring-backup", "backing-up", "extending") else status

        return wait_for(look, f"{kind} {thing['id']} comes to rest", 60)

    def new_instances(self):
        return [i for i in self.api.list(INSTANCES) if i["uuid"] not in (self.pair["uuid"], self.timed["uuid"])]
