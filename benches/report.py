"""Turns what was measured into the sections of RESULTS.md."""

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
RESULTS = Path(__file__).parent / "RESULTS.md"
NONE = "-"


def replace_section(name: str, text: str) -> None:
    """Puts the text between the markers of that name."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    changed, count = pattern.subn(lambda found: found[1] + "\n" + text.strip() + "\n\n" + found[2], RESULTS.read_text())
    if count != 1:
        raise SystemExit(f"{RESULTS} has no section {name}")
    RESULTS.write_text(changed)


def table(*rows: list[str]) -> list[str]:
    """Lines of a table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""]


class Medians:
    """Of each tool's rounds of each work, field by field. A field that was not measured is None."""

    def __init__(self, results: dict):
        self.steps: dict[tuple[str, str], list[dict]] = {}
        for step in results["steps"]:
            self.steps.setdefault((step["tool"], step["work"]), []).append(step)
        self.tools = [tool for tool, entry in results["tools"].items() if "missing" not in entry]
        self.peers = [tool for tool in self.tools if tool != "cofferd"]

    def rounds(self, tool: str) -> int:
        return max((len(steps) for (name, _), steps in self.steps.items() if name == tool), default=0)

    def failed(self, tool: str, work: str) -> list[str]:
        return [step["failed"] for step in self.steps.get((tool, work), []) if "failed" in step]

    def of(self, tool: str, work: str, field: str) -> float | None:
        """None also if a round failed: what is left is no fair median."""
        steps = self.steps.get((tool, work), [])
        if not steps or self.failed(tool, work):
            return None
        return statistics.median(step[field] for step in steps)

    def ratio(self, work: str, peer: str, field: str = "wall") -> float | None:
        ours, theirs = self.of("cofferd", work, field), self.of(peer, work, field)
        return None if ours is None or not theirs else ours / theirs

    def ratio_to_best(self, work: str) -> float | None:
        """Wall time against the fastest peer's."""
        return max((ratio for peer in self.peers if (ratio := self.ratio(work, peer)) is not None), default=None)

    def works(self) -> set[str]:
        return {work for _, work in self.steps}


def received(medians: Medians) -> float | None:
    down, repository = medians.of("cofferd", "restore", "down"), medians.of("cofferd", "restore", "repository")
    return None if down is None or not repository else down / repository


@dataclass
class Goal:
    what: str
    most: float
    value: Callable[[Medians], float | None]
    unit: str = ""
    decimals: int = 2

    def row(self, medians: Medians) -> list[str]:
        value = self.value(medians)
        if value is None:
            return [self.what, self.shown(self.most), NONE, NONE]
        return [self.what, self.shown(self.most), self.shown(value), "met" if value <= self.most else "**not met**"]

    def shown(self, value: float) -> str:
        return f"{value:.{self.decimals}f}{self.unit}"


def in_mib(value: float | None) -> float | None:
    return None if value is None else value / MIB


def peak(medians: Medians) -> float | None:
    works = medians.works() - {"idle"}
    return max((rss for work in works if (rss := medians.of("cofferd", work, "rss")) is not None), default=None)


def written_per_byte(medians: Medians) -> float | None:
    written, size = medians.of("cofferd", "rnd", "written"), medians.of("cofferd", "rnd", "volume")
    return None if written is None else written / size


REMOTE_GOALS = [
    Goal("full v1: wall, of restic's", 1, lambda m: m.ratio("full", "restic")),
    Goal("full v1: wall, of rclone's", 1, lambda m: m.ratio("full", "rclone")),
    Goal("restore of v2: wall, of restic's", 1, lambda m: m.ratio("restore", "restic")),
    Goal("restore of v2: wall, of rclone's", 1, lambda m: m.ratio("restore", "rclone")),
    Goal("unchanged v1: sent", 1, lambda m: in_mib(m.of("cofferd", "unchanged", "up")), " MiB"),
    Goal("restore of v2: received, of what the repository has", 1.05, received),
    Goal("peak RSS of the daemon in any of these", 200, peak, " MiB", 0),
    Goal("RSS of the idle daemon after its start", 20, lambda m: m.of("cofferd", "idle", "rss"), " MiB", 1),
    Goal("RSS of the daemon at rest after all this", 20, lambda m: m.of("cofferd", "idle", "rest"), " MiB", 1),
]

GOALS = [
    Goal("full v1: CPU, of borg's", 0.85, lambda m: m.ratio("full", "borg", "cpu")),
    Goal("full v1: wall, of borg's", 0.75, lambda m: m.ratio("full", "borg")),
    Goal("full v1: wall, of restic's", 0.25, lambda m: m.ratio("full", "restic")),
    Goal("full v1: wall, of the fastest peer's", 1, lambda m: m.ratio_to_best("full")),
    Goal("repository after full v1, of borg's", 1, lambda m: m.ratio("full", "borg", "repository")),
    Goal("unchanged v1: wall, of borg's", 0.5, lambda m: m.ratio("unchanged", "borg")),
    Goal("unchanged v1: wall, of restic's", 0.1, lambda m: m.ratio("unchanged", "restic")),
    Goal("changed day: stored", 90, lambda m: in_mib(m.of("cofferd", "day", "stored")), " MiB", 1),
    Goal("changed day: wall, of borg's", 0.5, lambda m: m.ratio("day", "borg")),
    Goal("1,000 random writes: stored", 25, lambda m: in_mib(m.of("cofferd", "rw1k", "stored")), " MiB", 1),
    Goal("restore of v2: wall, of the fastest peer's", 0.35, lambda m: m.ratio_to_best("restore")),
    Goal("incompressible: wall, of borg's", 1, lambda m: m.ratio("rnd", "borg")),
    Goal("incompressible: bytes written for each byte", 1.1, written_per_byte),
    Goal("hole of 4 GiB: wall", 0.1, lambda m: m.of("cofferd", "zero", "wall"), " s"),
    Goal("peak RSS of the daemon in any of these", 200, peak, " MiB", 0),
    Goal("RSS of the idle daemon after its start", 20, lambda m: m.of("cofferd", "idle", "rss"), " MiB", 1),
    Goal("RSS of the daemon at rest after all this", 20, lambda m: m.of("cofferd", "idle", "rest"), " MiB", 1),
]

METHOD = """\
Every tool in turn does all of the work in a new repository, on files of the same names; the figures are medians. Before each step
everything is synced and the caches are dropped. Every restore is compared with the volume afterwards, untimed. No tool may skip a file for
its times or inode: all read the volume. `cofferd` is measured in its running daemon, from the request to the answer that it is done; the others
as commands. CPU is user and system time. Peak RSS is that of one process, the largest (cofferd: of the whole daemon during the step);
figures below 40 MiB may be those of the Python that starts the command. Written is the kernel's `write_bytes`, of cofferd's daemon or of the
command and its children: pages made dirty, those of files that are gone before they reach the disk as well. Stored is what the step added to
the repository on the disk; cofferd's is `coffer.db` without the WAL beside it, which is a buffer of about 64 MiB and empty after a stop. *Sync* is
how long it took after the step until everything was on the disk: cofferd syncs what it backs up and restores; who does not, pays here.

The volumes are those of [volumes.py](volumes.py). A tool without increments does a changed day as another full backup; `-` is what a tool cannot do.
Cinder's own backup driver for POSIX file systems is not among the peers: it needs a running Cinder, and it is slow."""


REMOTE_METHOD = """\
The server is s3s-fs, a real S3 server over a directory, which takes signatures and sums of MD5 like others; it has the same processor as who is
measured. Between the two is [gateway.py](gateway.py), which counts requests and bytes, heads included, and, for the server that is far, lets each
request wait 20 ms and gives each direction 50 MB/s. Each tool begins with an empty bucket and an empty server. All else is as above."""


def cell(value: float | None, decimals: int = 2) -> str:
    return NONE if value is None else f"{value:.{decimals}f}"


def work_rows(medians: Medians, work: str) -> list[list[str]]:
    rows = [["", "wall s", "CPU s", "peak RSS MiB", "written MiB", "stored MiB", "repository MiB", "sync s", "cofferd's wall to it", "CPU"]]
    for tool in medians.tools:
        def of(field: str) -> float | None:
            return medians.of(tool, work, field)

        if medians.failed(tool, work):
            rows.append([tool, "failed", *[NONE] * 8])
            continue
        ratios = [NONE, NONE] if tool == "cofferd" else [cell(medians.ratio(work, tool)), cell(medians.ratio(work, tool, "cpu"))]
        rows.append([tool, cell(of("wall")), cell(of("cpu")), cell(of("rss"), 0), cell(in_mib(of("written")), 0), cell(in_mib(of("stored")), 1),
                     cell(in_mib(of("repository")), 0), cell(of("sync")), *ratios])
    return rows


def remote_rows(medians: Medians, works: dict[str, str]) -> list[list[str]]:
    rows = [["", "", "wall s", "CPU s", "peak RSS MiB", "sent MiB", "received MiB", "requests", "repository MiB", "cofferd's wall to it", "CPU"]]
    for work, title in works.items():
        for tool in medians.tools:
            if medians.failed(tool, work):
                rows.append([title, tool, "failed", *[NONE] * 8])
            elif (wall := medians.of(tool, work, "wall")) is not None:
                ratios = [NONE, NONE] if tool == "cofferd" else [cell(medians.ratio(work, tool)), cell(medians.ratio(work, tool, "cpu"))]
                rows.append([title, tool, cell(wall), cell(medians.of(tool, work, "cpu")), cell(medians.of(tool, work, "rss"), 0),
                             *[cell(in_mib(medians.of(tool, work, field)), 1) for field in ("up", "down")],
                             cell(medians.of(tool, work, "requests"), 0), cell(in_mib(medians.of(tool, work, "repository")), 0), *ratios])
    return rows


def remote(lines: dict[str, dict]) -> str:
    """The section of benches/remote, of the results of each line."""
    first = next(iter(lines.values()))
    text = ["## Repositories in an object store", "", f"`benches/remote` on {first['machine']}; volumes of {first['scale']} of their size.", ""]
    text += table(["tool", "version", "settings"], *[[tool, entry.get("version", f"not here: {entry.get('missing')}"), entry["settings"]]
                                                     for tool, entry in first["tools"].items()])
    for title, results in lines.items():
        medians = Medians(results)
        works = {work: title for work, title in results["works"].items() if work in medians.works()}
        text += [f"### {title[0].upper()}{title[1:]}", "", f"Medians of {medians.rounds('cofferd')} rounds.", ""]
        text += table(["what", "at most", "measured", ""], *[goal.row(medians) for goal in REMOTE_GOALS])
        text += table(*remote_rows(medians, works))
        text += [f"- {tool}, {works[work]}, failed: {' '.join(medians.failed(tool, work)[0].split())}" for tool, work in medians.steps if medians.failed(tool, work)]
    return "\n".join([*text, "", REMOTE_METHOD])


def comparison(results: dict) -> str:
    """The section of benches/compare."""
    medians = Medians(results)
    works = {work: title for work, title in results["works"].items() if work in medians.works()}
    lines = ["## Beside other tools", "", f"`benches/compare` on {results['machine']}.", ""]
    if results["scale"] != 1:
        lines += [f"Volumes of {results['scale']} of their size: a trial, the goals are not for these.", ""]
    versions = [[tool, entry.get("version", f"not here: {entry.get('missing')}"), str(medians.rounds(tool)), entry["settings"]]
                for tool, entry in results["tools"].items()]
    lines += table(["tool", "version", "rounds", "settings"], *versions)
    lines += ["### Goals", "", *table(["what", "at most", "measured", ""], *[goal.row(medians) for goal in GOALS])]
    lines += ["### Wall time of cofferd to that of each peer", ""]
    lines += table(["", *medians.peers], *[[title, *[cell(medians.ratio(work, peer)) for peer in medians.peers]] for work, title in works.items()])
    for work, title in works.items():
        lines += [f"### {title[0].upper()}{title[1:]}", "", *table(*work_rows(medians, work))]
    failures = [f"{tool}, {works[work]}: {medians.failed(tool, work)[0]}" for tool, work in medians.steps if medians.failed(tool, work)]
    if failures:
        lines += ["### What failed", "", *[f"- {' '.join(failure.split())}" for failure in failures], ""]
    return "\n".join([*lines, "### How", "", METHOD])
