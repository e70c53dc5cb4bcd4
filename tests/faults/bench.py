"""What the tests of faults share: disks that change between backups, the commands of the administrator, and looks at a coffer
that nobody has open."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path

import pytest

from helpers.api import Api, local, ok
from helpers.disks import MIB
from helpers.lab import INSTANCES, Lab
from helpers.wait import wait_for

LONG = bool(os.environ.get("COFFERD_LONG"))
CHUNK = MIB
# Where files go that are compared and thrown away: memory, if there is such a file system.
QUICK = "/dev/shm" if os.path.isdir("/dev/shm") else None

needs_root = pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="mounts and loop devices need root")


class Administrator(Api):
    """Staff, who names paths outside of the roots as root of this host."""

    def request(self, method, target, body=None, **kw):
        if method == "POST" and target in ("/ops/restores/", "/ops/snapshot/"):
            return self.daemon.local.request(method, target, body, **kw)
        return super().request(method, target, body, **kw)


class Bench(Lab):
    """A Lab with the administrator's tasks."""

    def __init__(self, daemon):
        super().__init__(daemon)
        self.api = Administrator(daemon, daemon.token)

    def task(self, target, body=None):
        """Runs a task under /ops/ to its end and returns it, whatever the end."""
        return self.wait_task(ok(self.api.post(target, body or {}), 202)["task"])

    def wait_task(self, number):
        def over():
            task = ok(self.api.get(f"/ops/tasks/{number}/"))
            return task if task["state"] != "running" else None

        return wait_for(over, f"task {number} ends", 120, 0.005)

    def restore_to(self, backup, path, position=0, mode="create"):
        uuid = backup["uuid"] if isinstance(backup, dict) else backup
        return self.task("/ops/restores/", {"backup": uuid, "position": position, "path": str(path), "mode": mode})

    def assert_restores(self, backup, wanted, position=0):
        """The backup's volume, restored to a new file, equals the file `wanted` in every byte."""
        with tempfile.TemporaryDirectory(prefix="cofferd-out-", dir=QUICK) as scratch:
            path = Path(scratch) / "out.img"
            task = self.restore_to(backup, path, position)
            assert task["state"] == "done", task
            compared = subprocess.run(["cmp", str(wanted), str(path)], capture_output=True, text=True)
            assert compared.returncode == 0, f"backup {backup}: {compared.stdout}{compared.stderr}"

    def gc(self):
        task = self.task("/ops/gc/", {"dead_fraction": 0})
        assert task["state"] == "done" and task["result"]["complete"], task
        return task["result"]

    def cli(self, *arguments, code=0):
        """Runs a command and returns what it printed, read as JSON if it is that. `code`: how it must end; None: in any way."""
        command = [self.d.binary, "--config", str(self.d.config_file), "--json", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert code is None or result.returncode == code, f"{arguments}: exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        try:
            return json.loads(result.stdout)
        except json.JSONDecodeError:
            return result.stdout + result.stderr

    def delete(self, backup):
        ok(self.api.post(backup["url"] + "delete/"))
        self.wait_gone(backup["url"])

    def delete_instance(self, instance):
        ok(self.api.delete(instance["url"]), 202)
        self.wait_gone(instance["url"])

    def wait_rest(self, url, timeout=60):
        """The backup when it is neither Backing up nor Restoring."""

        def look():
            now = ok(self.api.get(url))
            return now if now["state"] in ("Ready", "Erred") else None

        return wait_for(look, f"{local(url)} comes to rest", timeout)

    def progress(self, backup):
        """Bytes read so far by the running job of a backup."""
        return ((self.get(backup).get("progress") or {}).get("read")) or 0

    def usage(self):
        return self.quota("storage")["usage"]

    def assert_usage_is_true(self):
        """The storage quota of the Lab's project counts its volumes and the backups that have data, and nothing else."""
        (volumes,), = self.d.sql("SELECT ifnull(sum(size), 0) FROM volume WHERE project_id = ?", (self._project_id(),))
        (backups,), = self.d.sql(
            "SELECT ifnull(sum(vb.size), 0) FROM volume_backup vb JOIN backup b ON b.id = vb.backup_id"
            " WHERE b.project_id = ? AND vb.map_id IS NOT NULL",
            (self._project_id(),),
        )
        self.assert_usage(volumes + backups)

    def assert_usage(self, truth):
        shown = self.usage() * MIB
        assert round(shown) == truth, f"the storage quota counts {shown} bytes, volumes and backups have {truth}"

    def _project_id(self):
        return self.d.sql("SELECT id FROM project WHERE uuid = ?", (self.project["uuid"],))[0][0]

    def assert_store_is_empty(self):
        for table in ("pack", "pack_toc", "verified", "segment", "volume_map"):
            (count,), = self.d.sql(f"SELECT count(*) FROM {table}")
            assert count == 0, f"{count} rows are left in {table}"

    def restored_files(self):
        """All files below the restore directory."""
        directory = self.d.state_dir / "restored"
        return {path for path in directory.rglob("*") if not path.is_dir()} if directory.exists() else set()

    def known_restored_files(self):
        """Those that a registered instance owns."""
        return {path for i in self.api.list(INSTANCES) for path in self.volume_files(i) if path.exists()} & self.restored_files()


def mixed_bytes(rng, size):
    """Half random, half repetitive bytes, in runs of 256 KiB to 1 MiB; all different from each other."""
    parts, have = [], 0
    while have < size:
        run = min(CHUNK * rng.randrange(1, 5), size - have)
        if rng.random() < 0.5:
            parts.append(rng.randbytes(run))
        else:
            line = b"%016x the quick brown fox\n" % rng.getrandbits(64)
            parts.append((line * (run // len(line) + 1))[:run])
        have += run
    return b"".join(parts)


def write_disk(path, size, data, seed):
    """A sparse image of `size` bytes with `data` bytes of content at its beginning and, if there is room, one chunk at its end."""
    rng = random.Random(f"disk {seed}")
    with open(path, "wb") as f:
        f.truncate(size)
        f.write(mixed_bytes(rng, min(data, size)))
        if size > data + CHUNK:
            f.seek(size - CHUNK // 2)
            f.write(rng.randbytes(CHUNK // 2))
    return Path(path)


def mutate(path, rng, fresh):
    """Overwrites about `fresh` bytes in some places with new content, punches a hole, and turns a place into zeros."""
    size = os.path.getsize(path)
    with open(path, "r+b") as f:
        left = fresh
        while left > 0:
            run = min(left, size, rng.randrange(1, 64) * CHUNK + rng.choice([0, 0, 4096, 777]))
            f.seek(rng.randrange(0, size - run + 1))
            f.write(mixed_bytes(rng, run))
            left -= run
        if size > 8 * MIB:
            f.seek(rng.randrange(0, size - 2 * MIB))
            f.write(bytes(MIB))
            offset = rng.randrange(0, size // CHUNK - 4) * CHUNK
            subprocess.run(["fallocate", "--punch-hole", "--offset", str(offset), "--length", str(2 * CHUNK), str(path)], check=True)


def copy_sparse(source, target):
    subprocess.run(["cp", "--reflink=auto", "--sparse=auto", str(source), str(target)], check=True)
    return Path(target)


def assert_integrity(daemon):
    """`PRAGMA integrity_check` on a copy of the coffer as the dead daemon left it, so that its WAL is there for its next start."""
    assert not daemon.running()
    if not daemon.coffer.exists():
        return  # it had not come that far
    with tempfile.TemporaryDirectory(prefix="cofferd-i-", dir=QUICK) as scratch:
        copy = Path(scratch) / "coffer.db"
        for suffix in ("", "-wal"):
            source = Path(f"{daemon.coffer}{suffix}")
            if source.exists():
                shutil.copyfile(source, f"{copy}{suffix}")
        assert_whole(copy)


def assert_whole(coffer):
    """SQLite finds nothing wrong with this file, which it would make if it were not there."""
    assert os.path.getsize(coffer)
    connection = sqlite3.connect(coffer)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    finally:
        connection.close()


def forget_log(daemon):
    """What a dead daemon has said about injected faults is as it must be."""
    assert not daemon.running() and "panicked at" not in daemon.log(), daemon.log()[-4000:]
    daemon.log_file.write_text("")


def inject(rule, path=None, calls=None):
    """A wrapper for a daemon that makes system calls on `path` do something else: see `--inject` in strace(1).

    `when` counts the calls of each thread for itself. (With --seccomp-bpf strace 6.1 does not count at all.)
    """
    calls = calls or rule.split(":", 1)[0]
    paths = path if isinstance(path, (list, tuple)) else [path] if path else []
    return ["strace", "-f", "-qq", "-o", "/dev/null", *[x for p in paths for x in ("-P", str(p))],
            "-e", f"trace={calls}", "-e", f"inject={rule}"]
