"""The daemon as a process: its configuration, its wall clock, its file, its end."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import tomllib
from datetime import datetime, timezone
from pathlib import Path

from helpers.api import Api, LocalApi
from helpers.wait import wait_for

STOP_S = 40


def merge(base, extra):
    """`extra` over `base`, table by table."""
    out = dict(base)
    for key, value in extra.items():
        out[key] = merge(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def to_toml(config):
    """Enough TOML for a configuration: plain values, lists of them, and tables."""

    def value(v):
        if isinstance(v, bool):
            return "true" if v else "false"
        if isinstance(v, str):
            return '"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"'
        if isinstance(v, (list, tuple)):
            return "[" + ", ".join(value(x) for x in v) + "]"
        return repr(v)

    def table(config, above):
        lines = [f"{k} = {value(v)}" for k, v in config.items() if not isinstance(v, dict)]
        for name, inner in config.items():
            if isinstance(inner, dict):
                lines += [f"\n[{above}{name}]", *table(inner, f"{above}{name}.")]
        return lines

    return "\n".join(table(config, "")) + "\n"


def _is_gone(pid):
    """Whether no such process runs any more; one that nobody has asked after yet is gone too."""
    try:
        if pid is None:
            return True
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return True


class Clock:
    """The wall clock of one daemon, moved by the test. It runs on at normal speed from where it was set.

    libfaketime reads the offset from a file at every call; the monotonic clock stays true, so time-outs are real.
    """

    def __init__(self, directory, start):
        self.file = Path(directory) / "clock"
        self.set(start)

    def set(self, moment):
        """The wall clock shows `moment` (an aware datetime, or ISO-8601 text; without a zone it is UTC) from now on."""
        if isinstance(moment, str):
            moment = datetime.fromisoformat(moment)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        self.offset = moment.timestamp() - time.time()
        self._write()

    def advance(self, seconds):
        self.offset += seconds
        self._write()

    def now(self):
        return datetime.fromtimestamp(time.time() + self.offset, timezone.utc)

    def _write(self):
        new = self.file.with_suffix(".new")
        new.write_text(f"{self.offset:+.3f}\n")
        os.replace(new, self.file)

    def env(self):
        return {
            "LD_PRELOAD": faketime_library(),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }


def faketime_library():
    """The preload library for programs with threads."""
    for pattern in ("lib/*/faketime", "lib/faketime", "lib64/faketime"):
        for found in Path("/usr").glob(pattern + "/libfaketimeMT.so.1"):
            return str(found)
    raise AssertionError("libfaketimeMT.so.1 is missing: install the package faketime")


class Daemon:
    """One cofferd with its own state directory. `restart` keeps the directory; the port may change."""

    def __init__(self, binary, config_extra="", ulimit_n=None, env=None, state_dir=None, wrapper=(), clock=None, ready_s=20):
        self.binary = str(binary)
        self.base = Path(tempfile.mkdtemp(prefix="cofferd-t-"))
        self.state_dir = Path(state_dir) if state_dir else self.base / "state"
        self.state_dir.mkdir(exist_ok=True)
        self.root = self.base / "disks"
        self.root.mkdir()
        self.log_file = self.base / "log"
        self.config_file = self.base / "cofferd.toml"
        self.ready_s = ready_s
        self.ulimit_n = ulimit_n
        self.wrapper = [str(w) for w in wrapper]
        self.clock = Clock(self.base, clock) if clock else None
        self.extra_env = dict(env or {})
        self.configure(config_extra)
        self.process = None
        self.port = self.pid = self.url = self._token = self._staff = None

    def configure(self, config_extra=""):
        """Writes the configuration: the tests' own, with the TOML text `config_extra` over it. `{root}` is filled in."""
        base = {
            "state_directory": str(self.state_dir),
            "http": {"listen": ["127.0.0.1:0"]},
            "volumes": {"roots": [str(self.root)]},
        }
        text = config_extra.replace("{root}", str(self.root)).replace("{base}", str(self.base))
        self.config_file.write_text(to_toml(merge(base, tomllib.loads(text))))

    def start(self):
        assert self.process is None, "it runs already"
        # Both the wrapper and the daemon die with this process, even if it is killed.
        tied = ["setpriv", "--pdeathsig", "KILL", "--"]
        limit = ["prlimit", f"--nofile={self.ulimit_n}:{self.ulimit_n}", "--"] if self.ulimit_n else []
        command = tied + self.wrapper + (tied if self.wrapper else []) + limit
        command += [self.binary, "serve", "--config", str(self.config_file)]
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TZDIR", "TMPDIR", "LLVM_PROFILE_FILE")}
        env |= {"HOME": str(self.base), "RUST_BACKTRACE": "1"}
        if self.clock:
            env |= self.clock.env()
        env |= self.extra_env
        seen = self.log_file.stat().st_size if self.log_file.exists() else 0
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=self.base, start_new_session=True
            )

        def port():
            text = self.log_file.read_text(errors="replace")[seen:]
            match = re.search(r"listening on http://[^\s/]+:(\d+)", text)
            if not match and self.process.poll() is not None:
                raise AssertionError(f"cofferd ended with {self.process.returncode} at its start:\n{text[-4000:]}")
            return match and int(match[1])

        try:
            self.port = wait_for(port, "the line `listening on http://...`", self.ready_s, 0.01)
        except AssertionError as error:
            tail = self.log_file.read_text(errors="replace")[-4000:]
            self.kill()
            raise AssertionError(f"{error}\n--- log\n{tail}") from None
        self.url = f"http://127.0.0.1:{self.port}"
        self.pid = self._find_pid()
        return self

    def _find_pid(self):
        """The process of the daemon itself: behind a wrapper it is a descendant."""
        if not self.wrapper:
            return self.process.pid
        real = os.path.realpath(self.binary)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.readlink(entry / "exe") == real and os.getpgid(int(entry.name)) == self.process.pid:
                        return int(entry.name)
                except OSError:
                    continue
        raise AssertionError("the daemon's process is not there")

    @property
    def token(self):
        """The first staff token."""
        if self._token is None:
            self._token = (self.state_dir / "admin.token").read_text().strip()
        return self._token

    @property
    def staff(self):
        if self._staff is None:
            self._staff = Api(self, self.token)
        return self._staff

    @property
    def local(self):
        """As root of this host, over the Unix socket."""
        return LocalApi(self)

    @property
    def anonymous(self):
        return Api(self)

    @property
    def coffer(self):
        return self.state_dir / "coffer.db"

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, timeout=STOP_S):
        """SIGTERM, and wait for the end. The exit code."""
        if self.process is None:
            return None
        if self.running():
            os.kill(self.pid, signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"cofferd did not end within {timeout} s of SIGTERM") from None
        self._reap()
        return code

    def kill(self):
        """SIGKILL to the daemon and to everything started with it."""
        if self.process is not None:
            self._reap()

    def interrupt(self, how):
        """Ends it by `kill` or `term`, and starts it without a wrapper."""
        if how == "kill":
            self.kill()
        else:
            assert self.stop() == 0
        self.wrapper = []
        self.start()

    def _reap(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(20)
        # Behind a wrapper it is not our child, and it may still be in a system call that was made slow.
        wait_for(lambda: _is_gone(self.pid), "the killed daemon is gone", 20, 0.005)
        self.process = None

    def restart(self, kill=False):
        self.kill() if kill else self.stop()
        return self.start()

    def connect(self):
        """The coffer as SQLite sees it, beside the daemon."""
        return sqlite3.connect(self.coffer, timeout=10, isolation_level=None)

    def sql(self, statement, args=()):
        """Runs one statement on the coffer, also while the daemon runs, and returns its rows."""
        connection = self.connect()
        try:
            return connection.execute(statement, args).fetchall()
        finally:
            connection.close()

    def close(self, check=True):
        """Ends the daemon and removes its directories; then the coffer and the log must show nothing wrong."""
        problems = []
        try:
            if self.running():
                try:
                    self.stop()
                except AssertionError as error:
                    problems.append(str(error))
            if check and self.coffer.exists():
                problems += self.inspect()
            problems += [line for line in self.log().splitlines() if "panicked at" in line or "a request failed" in line]
        finally:
            self.kill()
            shutil.rmtree(self.base, ignore_errors=True)
        if check:
            assert not problems, "after the test:\n" + "\n".join(problems)

    def inspect(self):
        """What must be true of every coffer: SQLite finds it whole, and the running sums are the sums."""
        problems = [f"quick_check: {row[0]}" for row in self.sql("PRAGMA quick_check") if row[0] != "ok"]
        problems += [f"foreign key: {row}" for row in self.sql("PRAGMA foreign_key_check")]
        # A coffer of an older format has no such table as long as nobody has opened it.
        if self.sql("SELECT 1 FROM sqlite_schema WHERE name = 'verified'"):
            for packs in ("SELECT pack FROM verified EXCEPT SELECT id FROM pack_toc", "SELECT id FROM pack_toc EXCEPT SELECT pack FROM verified"):
                problems += [f"{packs}: {row[0]}" for row in self.sql(packs)]
        sums = """
            SELECT project_id, 'instances' AS name, count(*) AS value FROM instance GROUP BY 1
            UNION ALL SELECT project_id, 'vcpu', sum(cores) FROM instance GROUP BY 1
            UNION ALL SELECT project_id, 'ram', sum(ram) FROM instance GROUP BY 1
            UNION ALL SELECT project_id, 'volumes', count(*) FROM volume GROUP BY 1
            UNION ALL SELECT project_id, 'volume_bytes', sum(size) FROM volume GROUP BY 1
            UNION ALL SELECT project_id, 'volume_gib', sum((size + 1073741823) / 1073741824) FROM volume GROUP BY 1
            UNION ALL SELECT project_id, 'volume_backups', count(*) FROM volume_backup WHERE kind <> 'snapshot' GROUP BY 1
            UNION ALL SELECT project_id, 'volume_backup_gib', sum((size + 1073741823) / 1073741824) FROM volume_backup
                WHERE kind <> 'snapshot' GROUP BY 1
            UNION ALL SELECT project_id, 'snapshots', count(*) FROM volume_backup WHERE kind = 'snapshot' GROUP BY 1
            UNION ALL SELECT project_id, 'snapshot_gib', sum((size + 1073741823) / 1073741824) FROM volume_backup
                WHERE kind = 'snapshot' GROUP BY 1
            UNION ALL SELECT project_id, 'backups', count(*) FROM backup WHERE kind = 'instance' GROUP BY 1
            UNION ALL SELECT project_id, 'backup_bytes', sum(reserved) FROM backup GROUP BY 1"""
        wrong = self.sql(f"""
            SELECT p.id, n.name, ifnull(t.value, 0), ifnull(s.value, 0)
            FROM project p JOIN (SELECT DISTINCT name FROM tally) n
            LEFT JOIN tally t ON t.project_id = p.id AND t.name = n.name
            LEFT JOIN ({sums}) s ON s.project_id = p.id AND s.name = n.name
            WHERE ifnull(t.value, 0) <> ifnull(s.value, 0)""")
        problems += [f"tally of project {p}: {name} is {have}, the rows say {want}" for p, name, have, want in wrong]
        return problems


def slow_reads(path, delay="150ms"):
    """A wrapper that makes each read of the file at `path` take `delay` longer, so that a backup of it lasts."""
    return _strace(path, f"delay_enter={delay}")


def slow_writes(path, delay="150ms"):
    """A wrapper that makes each write to the file at `path` take `delay` longer, so that a restore to it lasts."""
    return _strace(path, f"delay_enter={delay}", calls="write,pwrite64,writev,pwritev,pwritev2")


def failing_reads(path, when="1+", error="EIO"):
    """A wrapper that makes reads of the file at `path` fail: `when` counts them, as strace(1) says."""
    return _strace(path, f"error={error}:when={when}")


def _strace(path, what, calls="read,pread64,readv,preadv,preadv2"):
    return [
        "strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-P", str(path),
        "-e", f"trace={calls}", "-e", f"inject={calls}:{what}",
    ]
