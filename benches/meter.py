"""What a piece of work takes: of a command until it has ended, and of cofferd, which goes on."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from daemon import Daemon, Failed

MIB = 1 << 20
PATIENCE_S = 3600


@dataclass
class Usage:
    """Wall and CPU in seconds, peak RSS in MiB, bytes written.

    Written is the kernel's write_bytes, of commands with that of their children (ru_oublock is the same counter, in units
    of 512 bytes): pages that the process has made dirty, each once until it is on the disk, without the file system's journal.
    """

    wall: float = 0
    cpu: float = 0
    rss: float = 0
    written: int = 0


def settle() -> float:
    """Everything to the disk and out of the cache. Seconds until it was on the disk."""
    began = time.monotonic()
    os.sync()
    synced = time.monotonic() - began
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pass  # not root: the same for all
    return synced


def command(words: list, directory: Path, environment: dict[str, str], output: Path | None = None) -> Usage:
    """Runs a command and measures it with its children. Its output goes to a file, if one is given."""
    # A child's ru_maxrss begins with the peak of whoever starts it.
    Path("/proc/self/clear_refs").write_text("5")
    with tempfile.TemporaryFile() as stderr, open(output or os.devnull, "wb") as stdout:
        began = time.monotonic()
        process = subprocess.Popen(words, cwd=directory, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        timer = threading.Timer(PATIENCE_S, process.kill)
        timer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:  # the run is interrupted
            process.kill()
            raise
        finally:
            timer.cancel()
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            stderr.seek(0)
            raise Failed(f"{words[0]} ended with {process.returncode}: {stderr.read()[-500:].decode(errors='replace').strip()}")
    return Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, used.ru_oublock * 512)


@contextmanager
def working(daemon: Daemon) -> Iterator[Usage]:
    """Measures what the daemon does meanwhile; the figures are there at the end."""
    usage = Usage()
    daemon.forget_peak()
    cpu, written, began = daemon.cpu(), daemon.written(), time.monotonic()
    yield usage
    usage.wall = time.monotonic() - began
    usage.cpu, usage.rss, usage.written = daemon.cpu() - cpu, daemon.memory("VmHWM"), daemon.written() - written
