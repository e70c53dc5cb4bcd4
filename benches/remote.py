"""Compares cofferd's repositories with other tools on one S3 server, near and far, and writes the part `remote` of RESULTS.md."""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import compare
import report
from compare import WORKS, Comparison, Work
from meter import Usage
from places import KEY, REGION, SECRET, Line, Place
from tools import BUILT, EVERYTHING, Cofferd, Restic, Tool, allocated, build

# A quarter of the usual volumes: v1 has 2 GiB, of which 1.3 are data.
SCALE = 0.25
LINES = {
    "near": Line("the server on this machine"),
    "far": Line("20 ms and 50 MB/s away", latency_ms=20, bytes_per_second=50_000_000),
}
DONE = ("full", "unchanged", "day", "restore")
BUCKET = "benchmark"


class Remote(Tool):
    """What all have in common that lie in the one bucket of a place."""

    site: Place  # of the line that is measured now

    def size(self) -> int:
        return allocated(self.site.root / BUCKET)


class RemoteCofferd(Remote, Cofferd):
    def configuration(self) -> str:
        credentials = self.place / "credentials"
        credentials.write_text(f"aws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
        credentials.chmod(0o600)
        return (f'[repositories.s3]\nkind = "s3"\ndefault = true\nendpoint = "{self.site.url}"\nregion = "{REGION}"\nbucket = "{BUCKET}"\n'
                f'credentials = "{credentials}"\n')


class RemoteRestic(Remote, Restic):
    def environment(self) -> dict[str, str]:
        return super().environment() | {"RESTIC_REPOSITORY": f"s3:{self.site.url}/{BUCKET}", "AWS_ACCESS_KEY_ID": KEY,
                                        "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": REGION}


class Rclone(Remote):
    """Copies the image as it is: what a line carries without any thought."""

    name = program = "rclone"
    settings = "`copyto --ignore-times`; neither increments nor compression"
    packages = ("rclone",)
    works = EVERYTHING - {"unchanged"}
    version_argument = "version"

    def environment(self) -> dict[str, str]:
        return {"RCLONE_CONFIG_S3_TYPE": "s3", "RCLONE_CONFIG_S3_PROVIDER": "Other", "RCLONE_CONFIG_S3_ENDPOINT": self.site.url,
                "RCLONE_CONFIG_S3_ACCESS_KEY_ID": KEY, "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": SECRET, "RCLONE_CONFIG_S3_REGION": REGION,
                "RCLONE_CONFIG": "/dev/null", "RCLONE_S3_NO_CHECK_BUCKET": "true"}

    def back_up(self, file: str, label: str) -> Usage:
        return self.run("copyto", "--ignore-times", file, f"s3:{BUCKET}/{file}")

    def restore(self, directory: Path) -> Usage:
        return self.run("copyto", f"s3:{BUCKET}/disk.img", directory / "disk.img")


PEERS = {peer.name: peer for peer in (RemoteRestic, Rclone)}


class RemoteComparison(Comparison):
    """One line's run."""

    def __init__(self, directory: Path, scale: float, works: list[Work], line: str):
        super().__init__(directory, scale, works)
        self.line, self.file = LINES[line], directory / f"results-{line}.json"
        if self.file.exists():
            self.take_up(json.loads(self.file.read_text()))

    def measure(self, round_number: int, tool_class: type[Tool]) -> None:
        Remote.site = Place(self.directory / "place", self.line)
        Remote.site.bucket(BUCKET)
        try:
            super().measure(round_number, tool_class)
        finally:
            Remote.site.close()

    def step(self, tool: Tool, work: Work, disks: Path, restored: Path) -> dict:
        before = Remote.site.counts()
        measured = super().step(tool, work, disks, restored)
        return measured | {name: count - before[name] for name, count in Remote.site.counts().items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/remote", description=__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path, nargs="?",
                        help="where volumes and repositories go, 15 GiB free (default: a new directory in /var/tmp); the volumes and results stay "
                             "there, and a run that was interrupted goes on with what is there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lines", metavar="A,B", help=f"of {', '.join(LINES)}")
    parser.add_argument("--peers", metavar="A,B", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--work", metavar="A,B", help=f"of {', '.join(DONE)}; those that they need are done as well")
    parser.add_argument("--binary", type=Path, help="this cofferd, instead of building one")
    parser.add_argument("--scale", type=float, default=SCALE, help="size of the volumes; the results of other than the usual are only printed")
    parser.add_argument("--report", action="store_true", help="measure nothing, report what is in DIR")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that what runs is ended and removed
    for name in [name for name in os.environ if name.startswith(("AWS_", "RCLONE_", "RESTIC_"))]:
        del os.environ[name]  # it would lead elsewhere
    directory = (options.directory or Path(tempfile.mkdtemp(prefix="cofferd-bench.", dir="/var/tmp"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    print(f"everything lies in {directory}", flush=True)
    works = compare.selected(options.work, {key: WORKS[key] for key in DONE})
    lines = [key for key, line in LINES.items() if line in compare.selected(options.lines, LINES)]
    runs = {line: RemoteComparison(directory, options.scale, works, line) for line in lines}
    if not options.report:
        os.environ["PATH"] += f":{BUILT}/bin"
        if not shutil.which(Place.program):
            build(Place.crate)
        for run in runs.values():
            tools = compare.prepare(run, [RemoteCofferd, *compare.selected(options.peers, PEERS)], options.binary)
        for round_number in range(1, options.rounds + 1):
            for name, run in runs.items():
                print(f"round {round_number} of {options.rounds}, {name}", flush=True)
                for tool in tools:
                    if not run.done(round_number, tool):
                        run.measure(round_number, tool)
    text = report.remote({run.line.title: run.results for run in runs.values()})
    if options.scale == SCALE:
        report.replace_section("remote", text)
    print(text)


if __name__ == "__main__":
    main()
