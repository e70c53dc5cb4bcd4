"""The daemon dies before, after, or in the middle of each single call by which an operation changes a file, and at its next start nothing
is lost, nothing is left half done for ever, and the operation, asked for again, succeeds.

Each scene is run once to count the calls. Then every one of them (in everyday mode a sample) is made the last: `COFFERD_LONG=1` for all.
"""

import itertools
import random
from pathlib import Path

import pytest

from faults.bench import LONG, assert_whole, inject
from faults.shim import KILL_AFTER, KILL_BEFORE, MKDIR, RENAME, SYNC, TEAR, TRUNCATE, UNLINK, WRITE, Shim
from faults.stage import QUIET, Stage
from faults.test_first_start import assert_is_made
from format.test_upgrade import ADAS_TOKEN, DATA, FIRST, SECOND, SYSTEM, sha256, unpack
from helpers.api import Api, ok
from helpers.cinder_volumes import content
from helpers.lab import BACKUPS
from helpers.wait import wait_for

# What may be the last: calls, how the paths end, how the daemon dies there, and how many of them an everyday run tries.
BOUNDARIES = {
    "sync": (SYNC, "", (KILL_BEFORE, KILL_AFTER), 2),
    "truncation": (TRUNCATE, "", (KILL_BEFORE, KILL_AFTER), 1),
    "unlink": (UNLINK, "", (KILL_BEFORE, KILL_AFTER), 1),
    "rename": (RENAME, "", (KILL_BEFORE, KILL_AFTER), 1),
    "new directory": (MKDIR, "", (KILL_BEFORE, KILL_AFTER), 1),
    "write to the WAL": (WRITE, "coffer.db-wal", (KILL_BEFORE, TEAR), 2),
    "write to the coffer": (WRITE, "coffer.db", (KILL_BEFORE, TEAR), 1),
    "write to the journal": (WRITE, "coffer.db-journal", (KILL_BEFORE, TEAR), 1),
    "write to the token": (WRITE, "admin.token", (KILL_BEFORE, TEAR), 1),
    "write to a volume": (WRITE, ".raw", (KILL_BEFORE, TEAR), 1),
    "write to a disk": (WRITE, ".img", (KILL_BEFORE, TEAR), 1),
    "write to a copy": (WRITE, ".partial", (KILL_BEFORE, TEAR), 1),
}
KEEP = (0, 1, 511, 512, 4096, 24 + 4096, 65536)  # bytes of the write that TEAR lets through


class Scene:
    """An operation: what it needs, how it is asked for, and how once more after the crash. Each is about one `Stage`."""

    def prepare(self, s):
        pass

    def act(self, s):
        raise NotImplementedError

    def again(self, s):
        self.act(s)

    damaged = ()  # backups that cannot be restored before `again`
    at_start = False  # whether the daemon dies while it starts


class Backup(Scene):
    """a backup of several disks is made"""

    def act(self, s):
        s.last = s.wait_rest(s.start_backup(s.pair)["url"])

    def again(self, s):
        self.act(s)
        assert s.last["state"] == "Ready", s.last


class Incremental(Scene):
    """an incremental backup of a volume is made"""

    def act(self, s):
        s.last = s.admin.wait_rest(s.admin.create(s.lone, incremental=True))

    def again(self, s):
        self.act(s)
        assert s.last["status"] == "available" and s.last["is_incremental"], s.last


class Snapshot(Scene):
    """a snapshot is made"""

    def act(self, s):
        snapshot = ok(s.admin.post("/snapshots", {"snapshot": {"volume_id": s.lone["id"]}}), 202)["snapshot"]
        s.last = s.rest_of("snapshots", snapshot)

    def again(self, s):
        self.act(s)
        assert s.last == "available"


class RestoreInstance(Scene):
    """a restore makes an instance"""

    def act(self, s):
        s.source = s.backups_by("pair")[0]
        new = ok(s.api.post(f"{BACKUPS}{s.source}/restore/", s.profile))["instance"]
        s.last = wait_for(lambda: (now := s.get(new))["state"] in ("Offline", "Erred") and now, "the new machine is there", 60)

    def again(self, s):
        """What the crash has left of it is whole or gone, and goes with its record."""
        for instance in s.new_instances():
            self.compare(s, instance)
            s.delete_instance(instance)
        s.rest()
        assert s.restored_files() == set()
        self.act(s)
        assert s.last["state"] == "Offline", s.last
        self.compare(s, s.last)

    def compare(self, s, instance):
        for position, path in enumerate(s.volume_files(instance)):
            assert path.exists() == (instance["state"] == "Offline"), f"{path} of an instance that is {instance['state']}"
            if path.exists():
                s.assert_volume(path, s.source, position)


class RestoreNew(Scene):
    """a restore makes a volume"""

    def act(self, s):
        s.source = s.backups_by("volume")[0]
        answer = s.admin.start_restore(s.part(s.source))
        s.last = answer["volume_id"], s.rest_of("volumes", {"id": answer["volume_id"]})
        s.admin.wait_rest(s.part(s.source))

    def again(self, s):
        for path, state in s.d.sql("SELECT path, state FROM volume WHERE managed"):
            assert Path(path).exists() == (state == "available"), (path, state)
            if state == "available":
                s.assert_volume(path, s.source)
        self.act(s)
        volume, status = s.last
        assert status == "available"
        s.assert_volume(s.path(volume), s.source)


class RestoreOver(Scene):
    """a volume is restored"""

    def act(self, s):
        s.source = s.backups_by("volume")[0]
        s.admin.start_restore(s.part(s.source), volume_id=s.lone["id"])
        s.last = s.rest_of("volumes", s.lone)
        s.admin.wait_rest(s.part(s.source))

    def again(self, s):
        """What says that it is available is what it was before or what it shall be."""
        status = s.admin.volume(s.lone)["status"]
        is_now = content(s.disks["lone"])
        assert status == "error_restoring" or is_now in (content(s.now[s.lone["uuid"]]), content(s.expected[s.source][0])), status
        if status == "error_restoring":
            s.admin.volume_action(s.lone, "os-reset_status", {"status": "available"})
        self.act(s)
        assert s.last == "available"
        s.assert_volume(s.disks["lone"], s.source)
        s.snap()


class RestorePath(Scene):
    """a restore writes to a path"""

    def act(self, s, mode="create"):
        s.source, s.target = s.backups_by("pair")[1], s.scratch / "out.img"
        s.last = s.restore_to(s.source, s.target, mode=mode)

    def again(self, s):
        if s.target.exists() and s.target.stat().st_size == 0:
            s.target.unlink()  # as the message of the interrupted one says
        self.act(s, "overwrite" if s.target.exists() else "create")
        assert s.last["state"] == "done", s.last
        s.assert_volume(s.target, s.source)


class Delete(Scene):
    """backups are deleted"""

    def act(self, s):
        s.victims = [s.backups_by("pair")[0], s.backups_by("volume")[-1]]
        s.doomed |= set(s.victims)
        s.delete_promised(s.victims)

    def again(self, s):
        """What was not promised is asked for again."""
        s.delete_promised(s.victims)


class Prune(Scene):
    """a schedule fires and the oldest of its backups goes"""

    def act(self, s):
        s.doomed |= set(s.backups_by("timed")[:1])
        s.fire()

    def again(self, s):
        schedule = s.get(s.schedule_url)
        if not schedule["is_active"]:
            assert "interrupted" in schedule["error_message"], schedule
            ok(s.api.post(s.schedule_url + "activate/"))
        self.act(s)
        s.rest()
        assert s.get(s.schedule_url)["is_active"]


class Collect(Scene):
    """backups are deleted and the coffer is compacted"""

    def prepare(self, s):
        s.doomed |= {s.backups_by("pair")[0], s.backups_by("volume")[-1]}

    def act(self, s):
        s.delete_promised(s.doomed)
        s.gc()


class Scrub(Scene):
    """a scrub mends what is damaged"""

    def prepare(self, s):
        """A chunk of the disk that did not change is damaged in the coffer."""
        (pack, toc), = s.d.sql(
            "SELECT t.id, t.entries FROM pack_toc t WHERE t.id = (SELECT min(id) FROM pack_toc)")
        offset = int.from_bytes(toc[-56 + 32:-56 + 36], "little")
        (data,), = s.d.sql("SELECT data FROM pack WHERE id = ?", (pack,))
        data = bytearray(data)
        data[offset + 100] ^= 4
        s.d.sql("UPDATE pack SET data = ? WHERE id = ?", (bytes(data), pack))
        s.d.sql("UPDATE verified SET at = 0")
        self.damaged = s.backups_by("pair")

    def act(self, s):
        s.last = s.task("/ops/scrub/")

    def again(self, s):
        self.act(s)
        assert s.last["state"] == "done" and s.last["result"]["corrupt"] == [], s.last
        s.d.restart()


class Copy(Scene):
    """a copy of the coffer is written"""

    def act(self, s):
        s.target = s.scratch / "copy.db"
        s.last = s.task("/ops/snapshot/", {"path": str(s.target)})

    def again(self, s):
        if s.target.exists():
            assert_whole(s.target)
            s.target.unlink()
        self.act(s)
        assert s.last["state"] == "done", s.last
        assert_whole(s.target)
        assert [path.name for path in s.scratch.iterdir()] == ["copy.db"]


class Destroy(Scene):
    """an instance that a restore has made is deleted"""

    def prepare(self, s):
        s.made = s.restore(s.get(f"{BACKUPS}{s.backups_by('pair')[0]}/"))

    def act(self, s):
        s.delete_instance(s.made)
        wait_for(lambda: s.lives() and s.restored_files() == set(), "its files are removed")

    def again(self, s):
        if s.api.get(s.made["url"]).status_code != 404:
            s.delete_instance(s.made)
        s.rest()
        assert s.restored_files() == set(), "files of an instance that is gone are left"


class NewVolume(Scene):
    """a volume is made"""

    def request(self, s):
        return {"size": 1}

    def act(self, s):
        volume = ok(s.admin.post("/volumes", {"volume": self.request(s)}), 202)["volume"]
        s.last = volume, s.rest_of("volumes", volume)

    def again(self, s):
        self.act(s)
        volume, status = s.last
        assert status == "available"
        self.compare(s, s.path(volume))

    def compare(self, s, path):
        assert content(path) == {} and path.stat().st_size == 1 << 30


class CloneVolume(NewVolume):
    """a volume is copied"""

    def request(self, s):
        return {"source_volid": s.lone["id"]}

    def compare(self, s, path):
        assert content(path) == content(s.disks["lone"])


class ExtendVolume(Scene):
    """a volume is extended"""

    def prepare(self, s):
        s.volume_made = s.filled()
        s.filled_with = content(s.path(s.volume_made))

    def act(self, s, size=2):
        s.admin.volume_action(s.volume_made, "os-extend", {"new_size": size})
        s.last = s.rest_of("volumes", s.volume_made)

    def again(self, s):
        shown = s.admin.volume(s.volume_made)
        assert shown["status"] == "available" and s.path(s.volume_made).stat().st_size == shown["size"] << 30
        self.act(s, 3)
        assert s.last == "available" and content(s.path(s.volume_made)) == s.filled_with
        assert s.path(s.volume_made).stat().st_size == 3 << 30


class EraseVolume(Scene):
    """a volume is deleted"""

    def prepare(self, s):
        s.volume_made = s.filled()

    def act(self, s):
        ok(s.admin.delete(f"/volumes/{s.volume_made['id']}"), 202)
        s.rest_of("volumes", s.volume_made)

    def again(self, s):
        if s.admin.get(f"/volumes/{s.volume_made['id']}").status_code != 404:
            self.act(s)
        assert list((s.d.state_dir / "volumes").iterdir()) == []


class Stop(Scene):
    """a daemon that has work to finish stops"""

    def act(self, s):
        s.start_backup(s.pair)
        return s.d.stop() == 0

    def again(self, s):
        assert s.d.stop() == 0
        assert not Path(f"{s.d.coffer}-wal").exists()
        s.d.start()


class Recover(Scene):
    """the next start deals with a crash"""

    at_start = True

    def prepare(self, s):
        """A restore to an instance is complete but for the last word."""
        s.shim.arm(SYNC, KILL_AFTER, ".raw", first=2)
        assert not s.attempt(RestoreInstance().act)
        s.shim.disarm()
        assert len(s.restored_files()) == 2

    def act(self, s):
        s.rest()

    def again(self, s):
        assert s.restored_files() == set()
        RestoreInstance().again(s)


SCENES = [Backup, Incremental, Snapshot, RestoreInstance, RestoreNew, RestoreOver, RestorePath, Delete, Prune, Collect, Scrub, Copy, Destroy,
          NewVolume, CloneVolume, ExtendVolume, EraseVolume, Stop, Recover]


def start(s, arm, at_start):
    """Starts the daemon, armed before or after. False if it does not get there."""
    if at_start:
        arm()
    try:
        s.d.start()
    except AssertionError:
        assert s.shim.hits, s.d.log()[-4000:]
        return False
    if not at_start:
        arm()
    return True


def strike(s, scene, arm):
    """The scene, with the daemon dying in it. True if it died."""
    s.reset()
    s.shim.disarm()
    there = start(s, arm, scene.at_start) and s.attempt(scene.act)
    hit = s.shim.hits > 0
    s.shim.disarm()
    if hit:
        wait_for(lambda: not s.d.running(), "the daemon is dead")
    assert hit or there, s.d.log()[-4000:]
    s.come_back()
    s.verify()
    s.verify_content(scene.damaged)
    scene.again(s)
    s.rest()
    s.verify()
    s.verify_content()
    s.verify_check()
    return hit


def calls_of(s, scene):
    """A dry run that writes down all calls."""
    s.reset()
    s.shim.disarm()
    s.d.extra_env = s.shim.env()
    at = []
    assert start(s, lambda: at.append(s.shim.position()), scene.at_start) and s.attempt(scene.act)
    s.d.kill()
    s.d.extra_env = s.shim.env(recorded=False)
    return [entry for position, entry in s.shim.record() if position > at[0]]


def cases(rng, calls, ops, suffix, actions, most):
    """Which of the calls are struck, and how: some of them, or each one until there are no more."""
    if not LONG:
        count = sum(bool(entry.op & ops) and entry.path.endswith(suffix) for entry in calls)
        yield from ((number, rng.choice(actions)) for number in sorted(rng.sample(range(1, count + 1), min(count, most))))
        return
    for number in itertools.count(1):
        # Of the writes there are many.
        for action in actions if ops != WRITE else [actions[number % 2]]:
            yield number, action


def matrix(s, scene, ledger):
    rng, calls, struck = s.rng, calls_of(s, scene), 0
    for boundary, (ops, suffix, actions, most) in BOUNDARIES.items():
        missed = 0
        for number, action in cases(rng, calls, ops, suffix, actions, most):
            keep = rng.choice(KEEP)
            print(f"{scene.__doc__}: {boundary} {number}", {KILL_BEFORE: "before", KILL_AFTER: "after", TEAR: f"torn at {keep}"}[action])
            with ledger.fault(f"crash: killed while {scene.__doc__}"):
                died = strike(s, scene, lambda: s.shim.arm(ops, action, suffix, first=number, times=1, keep=keep))
            struck, missed = struck + died, 0 if died else missed + 1
            if missed == 2:
                break
    assert struck >= 3, "the calls of the dry run are not met again"


@pytest.fixture
def stage(start_daemon, tmp_path, request):
    s = with_shim(Stage, start_daemon, tmp_path, request, start=True)
    return s.build()


def with_shim(kind, start_daemon, tmp_path, request, start):
    daemon = start_daemon(QUIET, start=False, ready_s=60)
    shim = Shim(daemon.base, tmp_path, recorded=True)
    daemon.extra_env = shim.env(recorded=False)
    if start:
        daemon.start()
    s = kind(daemon, random.Random(request.node.name))
    s.shim = shim
    return s


@pytest.mark.timeout(7200 if LONG else 180)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_each_call_may_be_the_last(stage, ledger, scene):
    scene = scene()
    scene.prepare(stage)
    stage.save()
    matrix(stage, scene, ledger)


# -------------------------------------------------------------------- while there is no world yet


class FirstStart(Scene):
    """the coffer is made"""

    at_start = True

    def act(self, s):
        pass

    def again(self, s):
        assert_is_made(s.d)


class Upgrade(Scene):
    """a coffer of an older format is upgraded"""

    at_start = True

    def __init__(self, number):
        self.number = number

    def prepare(self, s):
        unpack(s.d, f"format-{self.number}.db.zst")

    def act(self, s):
        pass

    def again(self, s):
        """All that was in it is in it, and a further backup can be made."""
        ada = Api(s.d, ADAS_TOKEN)
        assert [b["uuid"] for b in ada.list(BACKUPS)] == [FIRST, SECOND]
        assert s.d.sql("PRAGMA user_version") == [(4,)] and s.d.sql("SELECT name FROM sqlite_schema WHERE name LIKE 'old_%'") == []
        for uuid in DATA:
            for volume, wanted in enumerate((SYSTEM, DATA[uuid])):
                target = s.scratch / f"{uuid}-{volume}"
                s.cli("restore", uuid, "--volume", volume, "--to", target)
                assert sha256(target) == wanted
        assert s.cli("check")["result"]["corrupt"] == []


class Bare(Stage):
    """A daemon that has not been started yet, so that nobody has a token for it."""

    def __init__(self, daemon, rng):
        self.d, self.rng = daemon, rng
        self.template, self.scratch = daemon.base / "template", daemon.root / "scratch"
        self.scratch.mkdir()
        self.expected, self.now, self.doomed, self.instant = {}, {}, set(), 0

    def reset(self):
        super().reset()
        self.d._token = self.d._staff = None

    def verify(self):
        self.verify_files()
        assert self.d.inspect() == []

    def verify_check(self):
        pass


@pytest.mark.timeout(7200 if LONG else 180)
@pytest.mark.parametrize("scene", [FirstStart(), Upgrade(1), Upgrade(2), Upgrade(3)], ids=["FirstStart", "Upgrade1", "Upgrade2", "Upgrade3"])
def test_each_call_of_a_start_may_be_the_last(start_daemon, tmp_path, request, ledger, scene):
    s = with_shim(Bare, start_daemon, tmp_path, request, start=False)
    scene.prepare(s)
    s.save()
    matrix(s, scene, ledger)


# -------------------------------------------------------------------- a call that does not go through the C library


@pytest.mark.fault(f"crash: killed while {Copy.__doc__}")
def test_killed_where_a_copy_of_the_coffer_gets_its_name(stage):
    scene = Copy()
    stage.save()
    stage.reset()
    stage.d.wrapper = inject("renameat2:signal=KILL")
    stage.d.start()
    assert not stage.attempt(scene.act), "it was not killed"
    assert [path.name for path in stage.scratch.iterdir()] == ["copy.db.partial"]
    stage.d.wrapper = []
    stage.come_back()
    scene.again(stage)
    stage.verify()
