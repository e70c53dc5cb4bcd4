"""Compares cofferd with other backup tools, side by side in one run, and writes the first part of RESULTS.md."""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import meter
import report
from daemon import Failed
from tools import BUILT, PEERS, Cofferd, Tool, install_packages
from volumes import Volumes

SOURCES = Path(__file__).resolve().parents[1]
REST_S = 8


@dataclass(frozen=True)
class Work:
    """One timed step: back up `volume`, put in place as the file `file`; or restore what was backed up last."""

    key: str
    title: str
    volume: str
    file: str
    needs: str = ""


# In the order in which every tool does them, in one repository. Of the first machine there is one disk, which changes.
WORKS = {work.key: work for work in (
    Work("full", "full v1", "v1", "disk.img"),
    Work("unchanged", "unchanged v1", "v1", "disk.img", "full"),
    Work("day", "changed day (v2)", "v2", "disk.img", "full"),
    Work("restore", "restore of v2", "v2", "disk.img", "day"),
    Work("rw1k", "1,000 random writes", "rw1k", "disk.img", "full"),
    Work("rw20k", "20,000 random writes", "rw20k", "disk.img", "full"),
    Work("clone", "diverged clone", "clone", "clone.img", "day"),
    Work("rnd", "incompressible 2 GiB", "rnd", "rnd.img"),
    Work("zero", "hole of 4 GiB", "zero", "zero.img"),
)}


class Comparison:
    """The run: what was measured is in `results`, and in a file after every step."""

    def __init__(self, directory: Path, scale: float, works: list[Work]):
        self.directory, self.works = directory, works
        self.volumes = Volumes(directory / ("volumes" if scale == 1 else f"volumes-{scale}"), scale)
        self.file = directory / "results.json"
        self.results = {"scale": scale, "works": {work.key: work.title for work in works}, "machine": machine(directory), "tools": {}, "steps": []}

    def save(self) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.results, indent=1))
        part.rename(self.file)

    def take_up(self, results: dict) -> None:
        """Goes on with what an earlier run has measured."""
        if results["scale"] != self.results["scale"]:
            raise SystemExit(f"that run had --scale {results['scale']}")
        measured = {step["work"] for step in results["steps"]} | {work.key for work in self.works}
        self.results = results | {"works": {key: work.title for key, work in WORKS.items() if key in measured}}

    def record(self, round_number: int, tool: str, work: str, **measured) -> None:
        self.results["steps"].append({"round": round_number, "tool": tool, "work": work} | measured)
        self.save()

    def done(self, round_number: int, tool: type[Tool]) -> bool:
        """Whether that was measured by the run that is resumed; what it left half done is forgotten."""
        mine = [step for step in self.results["steps"] if (step["round"], step["tool"]) == (round_number, tool.name)]
        if {work.key for work in self.works if work.key in tool.works} <= {step["work"] for step in mine}:
            return True
        self.results["steps"] = [step for step in self.results["steps"] if step not in mine]
        return False

    def measure(self, round_number: int, tool_class: type[Tool]) -> None:
        """All works of one tool in a new repository."""
        place = self.directory / "work"
        shutil.rmtree(place, ignore_errors=True)
        disks, restored = place / "disks", place / "restored"
        disks.mkdir(parents=True)
        works = [work for work in self.works if work.key in tool_class.works]
        try:
            tool = tool_class(place, disks)
        except (Failed, OSError) as error:
            for work in works:
                self.record(round_number, tool_class.name, work.key, failed=str(error))
            print(f"      {tool_class.name:9} cannot begin: {error}", flush=True)
            return
        try:
            idle = tool.resident()
            for work in works:
                restored.mkdir()
                try:
                    measured = self.step(tool, work, disks, restored)
                    line = f"{measured['wall']:8.2f} s  CPU {measured['cpu']:7.2f} s  RSS {measured['rss']:4.0f} MiB"
                except (Failed, OSError) as error:
                    measured, line = {"failed": str(error)}, f"failed: {error}"
                self.record(round_number, tool.name, work.key, **measured)
                shutil.rmtree(restored)
                print(f"      {tool.name:9} {work.title:22} {line}", flush=True)
            if idle is not None:
                time.sleep(REST_S)
                self.record(round_number, tool.name, "idle", rss=idle, rest=tool.resident())
        finally:
            tool.close()
            shutil.rmtree(place)

    def step(self, tool: Tool, work: Work, disks: Path, restored: Path) -> dict:
        volume, disk = self.volumes.path(work.volume), disks / work.file
        disk.unlink(missing_ok=True)
        os.link(volume, disk)
        before = tool.size()
        meter.settle()
        usage = tool.restore(restored) if work.key == "restore" else tool.back_up(work.file, work.key)
        synced = meter.settle()
        if work.key == "restore":
            compare(volume, restored)
        after = tool.size()
        return asdict(usage) | {"sync": synced, "volume": volume.stat().st_size, "repository": after, "stored": after - before}


def compare(volume: Path, restored: Path) -> None:
    """The one file below the directory must be equal to the volume."""
    files = [path for path in restored.rglob("*") if path.is_file()]
    if len(files) != 1:
        raise Failed(f"{len(files)} files were restored")
    if subprocess.run(["cmp", "--silent", volume, files[0]]).returncode:
        raise Failed("what was restored differs from what was backed up")


def machine(directory: Path) -> str:
    """One line about where this was measured."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    file_system = subprocess.run(["stat", "-f", "-c", "%T", directory], check=True, capture_output=True, text=True).stdout.strip()
    return (f"{platform.system()} {platform.release()}, {os.cpu_count()} cores ({model[1] if model else platform.machine()}), "
            f"{memory:.0f} GiB of memory, {file_system}")


def version(tool: type[Tool], binary: Path | None) -> str:
    """Its own words; for a cofferd that was built here, which sources as well."""
    shown = tool.version()
    if issubclass(tool, Cofferd) and not binary:
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=SOURCES, capture_output=True, text=True).stdout.strip()
        shown += f" ({commit})" if commit else ""
    return shown


def selected(names: str | None, known: dict) -> list:
    """The values of a comma-separated list, in their own order; all without one. Works bring along those they need."""
    if names is None:
        return list(known.values())
    wanted = set(filter(None, names.split(",")))
    if unknown := wanted - known.keys():
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    while more := {known[name].needs for name in wanted if getattr(known[name], "needs", "")} - wanted:
        wanted |= more
    return [value for name, value in known.items() if name in wanted]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/compare", description=__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path, nargs="?",
                        help="where volumes and repositories go, 40 GiB free (default: a new directory in /var/tmp); "
                             "the volumes and results.json stay there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", metavar="A,B", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--work", metavar="A,B", help=f"of {', '.join(WORKS)}; those that they need are done as well")
    parser.add_argument("--binary", type=Path, help="this cofferd, instead of building one")
    parser.add_argument("--scale", type=float, default=1, help="size of the volumes; the results of other than 1 are only printed")
    parser.add_argument("--resume", action="store_true", help="go on with the run that was interrupted in DIR")
    parser.add_argument("--report", action="store_true", help="measure nothing, report what is in DIR")
    options = parser.parse_args()
    if options.binary and not os.access(options.binary, os.X_OK):
        parser.error(f"{options.binary} is no program")
    return options


def prepare(comparison: Comparison, tools: list[type[Tool]], binary: Path | None) -> list[type[Tool]]:
    """Builds, installs, makes the volumes. The tools that are there."""
    os.environ["PATH"] += f":{BUILT}/bin:/usr/sbin"
    if binary:
        Cofferd.program = str(binary.resolve())
    else:
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=SOURCES, check=True)
    there = []
    for tool in tools:
        entry = comparison.results["tools"][tool.name] = {"settings": tool.settings}
        try:
            tool.install()
            entry["version"] = version(tool, binary)
            there.append(tool)
        except (Failed, OSError, subprocess.CalledProcessError) as error:
            entry["missing"] = str(error)
            print(f"without {tool.name}: {error}", flush=True)
    if not shutil.which("mke2fs"):
        install_packages("e2fsprogs")
    for name in dict.fromkeys(work.volume for work in comparison.works):
        print(f"volume {name}", flush=True)
        comparison.volumes.path(name)
    return there


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that what runs is ended and removed
    directory = (options.directory or Path(tempfile.mkdtemp(prefix="cofferd-bench.", dir="/var/tmp"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(directory, options.scale, selected(options.work, WORKS))
    if options.resume or options.report:
        comparison.take_up(json.loads(comparison.file.read_text()))
    if not options.report:
        print(f"everything lies in {directory}", flush=True)
        tools = prepare(comparison, [Cofferd, *selected(options.peers, PEERS)], options.binary)
        for round_number in range(1, options.rounds + 1):
            print(f"round {round_number} of {options.rounds}", flush=True)
            for tool in tools:
                if not comparison.done(round_number, tool):
                    comparison.measure(round_number, tool)
    text = report.comparison(comparison.results)
    if comparison.results["scale"] == 1:
        report.replace_section("compare", text)
    print(text)


if __name__ == "__main__":
    main()
