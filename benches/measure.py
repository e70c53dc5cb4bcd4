"""Runs every measurement in turn, cofferd and its peer side by side, and writes RESULTS.md. See `benches/run`."""

import json
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
import urllib.request
from pathlib import Path

import volumes

MIB = 1 << 20
ROUNDS = 3


class Daemon:
    """A running cofferd with its own state directory."""

    def __init__(self, binary: str, directory: Path, roots: Path):
        self.binary, self.state = binary, directory / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        config = directory / "cofferd.toml"
        config.write_text(f'state_directory = "{self.state}"\n[http]\nlisten = ["127.0.0.1:0"]\n[volumes]\nroots = ["{roots}"]\n')
        self.log = open(directory / "log", "w+")
        began = time.monotonic()
        self.process = subprocess.Popen([binary, "serve", "--config", config], stdout=self.log, stderr=self.log)
        while not (found := re.search(r"listening on (http://\S+)", (directory / "log").read_text())):
            if self.process.poll() is not None:
                raise SystemExit((directory / "log").read_text())
            time.sleep(0.005)
        self.start_seconds = time.monotonic() - began
        self.url = found[1]
        self.token = (self.state / "admin.token").read_text().strip()

    def call(self, method: str, path: str, body=None):
        url = path if path.startswith("http") else self.url + path
        request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode())
        request.add_header("Authorization", f"Token {self.token}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or b"null")

    def instance(self, name: str, path: Path) -> str:
        project = self.call("GET", "/api/projects/")[0]["url"]
        return self.call("POST", "/api/openstack-instances/", {"name": name, "project": project, "volumes": [{"path": str(path)}]})["url"]

    def back_up(self, instance: str) -> dict:
        backup = self.call("POST", "/api/openstack-backups/", {"instance": instance})
        return self.wait(backup["url"])

    def wait(self, url: str) -> dict:
        while (backup := self.call("GET", url))["state"] == "Backing up":
            time.sleep(0.005)
        if backup["state"] != "Ready":
            raise SystemExit(f"a backup failed: {backup['error_message']}")
        return backup

    def memory(self, field: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1024

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def size(self) -> int:
        return sum(f.stat().st_blocks * 512 for f in self.state.iterdir() if f.name.startswith("coffer.db"))

    def stop(self):
        self.process.terminate()
        self.process.wait()


def drop_caches():
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pass  # not root: the same for all


def timed(command, **options) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds, peak RSS in MiB of a command."""
    began = time.monotonic()
    process = subprocess.Popen(command, **options)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def borg(repository: Path, archive: str, volume: Path):
    environment = os.environ | {"BORG_BASE_DIR": str(repository.parent), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    return timed(["borg", "create", "-C", "zstd,1", "--chunker-params", "fixed,4194304", "--sparse", "--files-cache", "disabled",
                  f"{repository}::{archive}", str(volume)], env=environment, stderr=subprocess.DEVNULL)


def data_path(binary: str, work: Path, images: dict) -> dict:
    """Full, unchanged, zero and incompressible backups: cofferd and borg in turn."""
    ours, theirs = {}, {}
    for round_number in range(ROUNDS):
        place = work / f"round{round_number}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        repository = place / "borg" / "repository"
        repository.parent.mkdir()
        subprocess.run(["borg", "init", "-e", "none", repository], check=True, env=os.environ | {"BORG_BASE_DIR": str(place / "borg")},
                       stderr=subprocess.DEVNULL)
        daemon = Daemon(binary, place / "cofferd", images["v1"].parent)
        ours.setdefault("idle RSS MiB", []).append(daemon.memory("VmRSS"))
        instances = {name: daemon.instance(name, path) for name, path in images.items()}
        for what, name in [("full v1", "v1"), ("unchanged v1", "v1"), ("zero 4 GiB", "zero"), ("random 1 GiB", "rnd")]:
            drop_caches()
            began, cpu = time.monotonic(), daemon.cpu()
            daemon.back_up(instances[name])
            ours.setdefault(what, []).append((time.monotonic() - began, daemon.cpu() - cpu, daemon.memory("VmHWM")))
            drop_caches()
            theirs.setdefault(what, []).append(borg(repository, what.replace(" ", "-"), images[name]))
            if what == "full v1":
                ours.setdefault("repository MiB", []).append(daemon.size() / MIB)
                files = (f for f in repository.rglob("*") if f.is_file())
                theirs.setdefault("repository MiB", []).append(sum(f.stat().st_size for f in files) / MIB)
        time.sleep(8)
        ours.setdefault("RSS at rest after work MiB", []).append(daemon.memory("VmRSS"))
        daemon.stop()
        shutil.rmtree(place)
    return {"ours": ours, "theirs": theirs}


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


def api(binary: str, work: Path, images: dict) -> dict:
    """The list of backups with 1,000 and 10,000 backups in the coffer, at rest and while a backup runs; the start."""
    place = work / "api"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    small = images["v1"].parent / "small.img"
    small.write_bytes(os.urandom(4 * MIB))
    daemon = Daemon(binary, place, images["v1"].parent)
    instance, busy = daemon.instance("small", small), daemon.instance("v1", images["v1"])
    results = {}
    for count in (1000, 10_000):
        while (have := int(daemon.call("GET", "/ops/stats/")["backups"])) < count:
            for _ in range(min(500, count - have)):
                last = daemon.call("POST", "/api/openstack-backups/", {"instance": instance})
            daemon.wait(last["url"])
        for what, path in LISTS.items():
            results[f"{what} {count}, 16 connections"] = load(daemon, path)
        daemon.stop()
        daemon = Daemon(binary, place, images["v1"].parent)
        results[f"start with {count} backups"] = f"{daemon.start_seconds * 1000:.0f} ms, RSS {daemon.memory('VmRSS'):.1f} MiB"
        if count == 1000:
            stop, taken = threading.Event(), []
            thread = threading.Thread(target=lambda: taken.extend(paced(daemon, stop)))
            thread.start()
            daemon.back_up(busy)
            stop.set()
            thread.join()
            taken.sort()
            results["list while a backup of v1 runs, 50 a second"] = f"p50 {statistics.median(taken):.1f} ms, p99 {taken[int(len(taken) * 0.99)]:.1f} ms ({len(taken)} requests)"
    daemon.stop()
    shutil.rmtree(place)
    return results


def report(data: dict, lists: dict) -> str:
    def median(rows, column):
        return statistics.median(row[column] for row in rows)

    ours, theirs = data["ours"], data["theirs"]
    lines = [
        "# Measured", "",
        f"`benches/run` on {platform.system()} {platform.release()}, {os.cpu_count()} cores. Medians of {ROUNDS} rounds, each cofferd and then borg",
        "(`zstd,1`, fixed 4 MiB chunks, sparse, no encryption) on the same volume with dropped caches. Wall and CPU in seconds;",
        "peak RSS in MiB is that of the whole daemon since its start. Other machines give other numbers; the ratios move less.", "",
        "| work | cofferd wall | CPU | peak RSS | borg wall | CPU | peak RSS | wall ratio |", "|---|---|---|---|---|---|---|---|"]
    for what in ("full v1", "unchanged v1", "zero 4 GiB", "random 1 GiB"):
        us, them = ours[what], theirs[what]
        cells = [f"{median(us, 0):.2f}", f"{median(us, 1):.2f}", f"{median(us, 2):.0f}", f"{median(them, 0):.2f}", f"{median(them, 1):.2f}",
                 f"{median(them, 2):.0f}", f"{median(us, 0) / median(them, 0):.2f}"]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    lines += ["", f"Repository after full v1: cofferd {statistics.median(ours['repository MiB']):.0f} MiB, borg {statistics.median(theirs['repository MiB']):.0f} MiB.",
              f"Idle daemon: RSS {statistics.median(ours['idle RSS MiB']):.1f} MiB after its start, {statistics.median(ours['RSS at rest after work MiB']):.1f} MiB at rest after all this work.",
              "", "| the API | measured |", "|---|---|"]
    lines += [f"| {what} | {value} |" for what, value in lists.items()]
    return "\n".join(lines) + "\n"


def main():
    binary, work, only = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    images = volumes.make(work / "volumes")
    lists = api(binary, work, images)
    if only == ["api"]:
        return print("\n".join(f"{what}: {value}" for what, value in lists.items()))
    data = data_path(binary, work, images)
    text = report(data, lists)
    (Path(__file__).parent / "RESULTS.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
