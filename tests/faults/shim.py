"""The daemon's calls on files, made to fail, to be its last, or to be written down: see shim.c."""

import ctypes
import mmap
import os
import struct
import subprocess
import tempfile
from collections import namedtuple
from functools import cache
from pathlib import Path

READ, WRITE, SYNC, TRUNCATE, UNLINK, RENAME, OPEN, ALLOCATE, MKDIR = (1 << n for n in range(9))
CHANGES = WRITE | SYNC | TRUNCATE | UNLINK | RENAME | MKDIR
KILL_BEFORE, KILL_AFTER, TEAR, FAIL = 1, 2, 3, 4

_ENTRY = struct.Struct("=IIQQ")
Entry = namedtuple("Entry", "op path offset data")
"""One call of the record: `data` is what was written, or the new name; of a truncation `offset` is the new length."""


@cache
def library():
    """The shim, built once a session."""
    out = Path(tempfile.mkdtemp(prefix="cofferd-shim-")) / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(out), str(source), "-ldl", "-lpthread"], check=True)
    return out


class _Control(ctypes.Structure):
    _fields_ = [
        ("ops", ctypes.c_uint32), ("action", ctypes.c_uint32), ("error", ctypes.c_uint32), ("keep", ctypes.c_uint32),
        ("first", ctypes.c_uint64), ("times", ctypes.c_uint64), ("seen", ctypes.c_uint64), ("hits", ctypes.c_uint64),
        ("suffix", ctypes.c_char * 256), ("directory", ctypes.c_char * 4096),
    ]


class Shim:
    """Stands between a daemon and the files below `directory`: `start_daemon(env=shim.env())`.

    At first it does nothing; `arm` changes that at any time, also while the daemon runs.
    """

    def __init__(self, directory, scratch, recorded=False):
        self.file = Path(scratch) / "shim"
        self.file.write_bytes(bytes(ctypes.sizeof(_Control)))
        with open(self.file, "r+b") as f:
            self._map = mmap.mmap(f.fileno(), 0)
        self.control = _Control.from_buffer(self._map)
        self.control.directory = os.path.realpath(directory).encode()
        self.record_file = Path(scratch) / "record" if recorded else None
        if recorded:
            self.record_file.write_bytes(b"")

    def env(self, others="", recorded=True):
        """The environment for the daemon; `others` are further libraries to be loaded before it. One that is not `recorded` leaves the
        record as it is."""
        env = {"LD_PRELOAD": f"{others}:{library()}".lstrip(":"), "COFFERD_SHIM": str(self.file)}
        return env | ({"COFFERD_SHIM_RECORD": str(self.record_file)} if self.record_file and recorded else {})

    def arm(self, ops, action, suffix="", first=1, times=0, error=0, keep=0):
        """From now on the `first` and the following calls of the kinds `ops` on paths that end with `suffix` meet `action`."""
        self.disarm()
        c = self.control
        c.action, c.error, c.keep, c.first, c.times, c.seen, c.hits, c.suffix = action, error, keep, first, times, 0, 0, suffix.encode()
        c.ops = ops

    def count(self, ops, suffix=""):
        """Only counts such calls from now on: see `seen`."""
        self.arm(ops, FAIL, suffix, first=1 << 62)

    def disarm(self):
        self.control.ops = 0

    @property
    def seen(self):
        return self.control.seen

    @property
    def hits(self):
        return self.control.hits

    def position(self):
        """How far the record has come: what the daemon has told anybody by now is before it."""
        return self.record_file.stat().st_size

    def record(self):
        """Pairs of a position and the `Entry` that ends there."""
        data, at, out = self.record_file.read_bytes(), 0, []
        while at + _ENTRY.size <= len(data):
            op, path_length, offset, length = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            path = data[at:at + path_length].decode()
            at += path_length
            content = data[at:at + length]
            if len(content) < length:
                break  # the program died while it wrote this down
            at += length
            out.append((at, Entry(op, path, offset, content)))
        return out
