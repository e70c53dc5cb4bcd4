"""Measures the API, the start and the idle daemon, and writes the second part of RESULTS.md. See `benches/run`."""

import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import report
from daemon import Daemon
from volumes import MIB, Volumes

REST_S = 8

# Waldur's list as clients ask for it (ten to a page) and as long as Cinder's; Cinder's with a hundred to a page.
LISTS = {
    "Waldur's list, 10 of": "/api/openstack-backups/",
    "Waldur's list, 100 of": "/api/openstack-backups/?page_size=100",
    "Cinder's list in detail, 100 of": "/v3/default/backups/detail?limit=100",
}


def load(daemon: Daemon, path: str, seconds: int = 6, connections: int = 16) -> str:
    """Requests a second and the 99th percentile of a list."""
    text = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-H", f"Authorization: Token {daemon.token}",
                           daemon.url + path], check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in text, text
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    rate, p99 = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]), float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
    return f"{rate:.0f} a second, p99 {p99:.1f} ms"


def paced(daemon: Daemon, stop: threading.Event) -> list[float]:
    """Latencies in ms of one client that asks for the list fifty times a second."""
    taken = []
    while not stop.is_set():
        began = time.monotonic()
        daemon.call("GET", "/api/openstack-backups/")
        taken.append((time.monotonic() - began) * 1000)
        time.sleep(max(0, 0.02 - (time.monotonic() - began)))
    return taken


def api(binary: str, work: Path, v1: Path) -> dict[str, str]:
    """The list of backups with 1,000 and 10,000 backups in the coffer, at rest and while a backup runs; start and memory."""
    place = work / "api"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    small = v1.parent / "small.img"
    small.write_bytes(os.urandom(4 * MIB))
    daemon = Daemon(binary, place, v1.parent)
    instance, busy = daemon.instance("small", small), daemon.instance("v1", v1)
    results = {"idle after its first start": f"RSS {daemon.memory('VmRSS'):.1f} MiB"}
    for count in (1000, 10_000):
        while (have := int(daemon.call("GET", "/ops/stats/")["backups"])) < count:
            for _ in range(min(500, count - have)):
                last = daemon.call("POST", "/api/openstack-backups/", {"instance": instance})
            daemon.wait(last["url"])
        for what, path in LISTS.items():
            results[f"{what} {count}, 16 connections"] = load(daemon, path)
        daemon.stop()
        daemon = Daemon(binary, place, v1.parent)
        results[f"start with {count} backups"] = f"{daemon.start_seconds * 1000:.0f} ms, RSS {daemon.memory('VmRSS'):.1f} MiB"
        if count == 1000:
            stop, taken = threading.Event(), []
            thread = threading.Thread(target=lambda: taken.extend(paced(daemon, stop)))
            thread.start()
            daemon.back_up(busy)
            stop.set()
            thread.join()
            taken.sort()
            p50, p99 = statistics.median(taken), taken[int(len(taken) * 0.99)]
            results["list while a backup of v1 runs, 50 a second"] = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms ({len(taken)} requests)"
    time.sleep(REST_S)
    results["at rest after all this"] = f"RSS {daemon.memory('VmRSS'):.1f} MiB"
    daemon.stop()
    shutil.rmtree(place)
    return results


def main():
    binary, work = Path(sys.argv[1]), Path(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    measured = api(binary, work, Volumes(work / "volumes").path("v1"))
    lines = ["## The API", "", f"`benches/run` on {platform.system()} {platform.release()}, {os.cpu_count()} cores.", "",
             *report.table(["what", "measured"], *[list(row) for row in measured.items()])]
    report.replace_section("api", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
