"""Measures the answers to many clients at once and writes the part `load` of RESULTS.md:

    target/venv/bin/python benches/crowd.py target/release/cofferd [SECONDS]

The clients, and what must be true of the daemon then and afterwards, are those of tests/load: 64 threads of one Python process, half of each dialect, whose own work is part of what is
measured; so is that of the backups and restores beside them."""

import os
import platform
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "tests"))

import report  # noqa: E402
from faults.bench import Bench  # noqa: E402
from helpers.daemon import Daemon  # noqa: E402
from load.test_clients import CLIENTS, CONFIG, under_load  # noqa: E402


def main():
    binary, seconds = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if sys.argv[2:] else 600
    daemon = Daemon(binary, CONFIG).start()
    try:
        figures, meter, rounds = under_load(Bench(daemon), seconds)
    finally:
        daemon.close()
    rows = [["request", "number", "p50 ms", "p99 ms", "longest ms"]]
    rows += [[kind, f"{number:,}", f"{p50:.0f}", f"{p99:.0f}", f"{most:.0f}"] for kind, number, p50, p99, most, _ in figures.rows()]
    lines = ["## Many clients", "", f"`benches/crowd.py` on {platform.system()} {platform.release()}, {os.cpu_count()} cores. {CLIENTS} clients in one "
             f"Python process, which takes most of the time: {figures.count:,} requests in {seconds} s, beside {rounds} backups and "
             f"restores of 64 MiB one after the other. Memory at most {meter.most['rss']:.0f} MiB, {meter.most['threads']} threads.", "",
             *report.table(*rows)]
    report.replace_section("load", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
