"""What a daemon takes while it works, and that it gives it back."""

import os
import re
from pathlib import Path

from helpers.wait import wait_for

MIB = 1 << 20


class Meter:
    """Looks at the daemon's memory (MiB), descriptors and threads. What it is made with is what they are compared with."""

    def __init__(self, daemon):
        self.d = daemon
        self.begin = self.now()
        self.most = dict(self.begin)

    def now(self):
        status = Path(f"/proc/{self.d.pid}/status").read_text()
        return {
            "rss": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024,
            "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
            "descriptors": len(os.listdir(f"/proc/{self.d.pid}/fd")),
        }

    def look(self):
        now = self.now()
        for key, value in now.items():
            self.most[key] = max(self.most[key], value)
        return now

    def __str__(self):
        return "; ".join(f"{key} {self.begin[key]:.0f}, at most {self.most[key]:.0f}" for key in self.begin)

    def assert_bounded(self, rss_mib=64):
        assert self.most["rss"] - self.begin["rss"] < rss_mib, str(self)

    def assert_at_rest(self, rss_mib=24, timeout=60):
        """A while after the work everything is given back: memory but for a margin, each descriptor and thread but for a few of the
        pool, and the WAL's room."""

        def rests():
            now = self.now()
            return (
                now["rss"] - self.begin["rss"] < rss_mib and now["threads"] <= self.begin["threads"] + 2
                and now["descriptors"] <= self.begin["descriptors"] + 8 and self.wal() == 0
            )

        try:
            wait_for(rests, "what was taken is given back", timeout, 0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.now()}, WAL {self.wal()}; {self}") from None

    def wal(self):
        try:
            return os.path.getsize(f"{self.d.coffer}-wal")
        except FileNotFoundError:
            return 0


def percentiles(seconds):
    """Median, 99th percentile and maximum in ms."""
    taken = sorted(seconds)
    return tuple(taken[min(len(taken) - 1, int(len(taken) * part))] * 1000 for part in (0.5, 0.99, 1))
