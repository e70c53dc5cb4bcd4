"""The account of faults: how often each was tried and survived, and what was lost.

A test whose whole subject is one fault bears the mark `fault("group: what happens")`. One that tries many uses the fixture `ledger`:

    with ledger.fault("crash: killed at a sync of the WAL"):
        ...

Each session adds what it has seen to the file that COFFERD_LEDGER names. `python helpers/ledger.py FILE [--write DOCUMENT]` prints the
table of all of it, or puts it between the two marks of the document.
"""

import json
import os
import re
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

BEGIN, END = "<!-- ledger -->\n", "<!-- end of ledger -->"


class Ledger:
    """What one test tries."""

    def __init__(self, item):
        self.properties = item.user_properties

    @contextmanager
    def fault(self, name):
        """What is done within is one fault; it is lost if that ends with an exception."""
        assert re.fullmatch(r"[a-z ]+: .+", name), "a fault is named `group: what happens`"
        try:
            yield
        except BaseException:
            self.properties.append(("fault", [name, "lost"]))
            raise
        self.properties.append(("fault", [name, "survived"]))


class Account:
    """What a session has seen; one per process, and only the one that the others report to writes it down."""

    def __init__(self):
        self.outcomes = Counter()

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            self.outcomes.update((name, outcome) for kind, (name, outcome) in
                                 (p for p in report.user_properties if p[0] == "fault"))

    def pytest_terminal_summary(self, terminalreporter):
        if self.outcomes:
            terminalreporter.section("faults")
            terminalreporter.write(table(self.outcomes))

    def pytest_sessionfinish(self):
        path = os.environ.get("COFFERD_LEDGER")
        if path and self.outcomes:
            with open(path, "a") as f:
                f.writelines(json.dumps([*key, count]) + "\n" for key, count in self.outcomes.items())


def table(outcomes):
    """The table in Markdown."""
    rows = ["| fault | tried | survived | lost |", "|---|---:|---:|---:|"]
    names = sorted({name for name, _ in outcomes})
    for name in names:
        survived, lost = outcomes[name, "survived"], outcomes[name, "lost"]
        rows.append(f"| {name} | {survived + lost} | {survived} | {lost} |")
    totals = [sum(count for (_, outcome), count in outcomes.items() if outcome == kind) for kind in ("survived", "lost")]
    rows.append(f"| **all** | **{sum(totals)}** | **{totals[0]}** | **{totals[1]}** |")
    return "\n".join(rows) + "\n"


def main(file, *options):
    outcomes = Counter()
    for line in Path(file).read_text().splitlines() if Path(file).exists() else []:
        name, outcome, count = json.loads(line)
        outcomes[name, outcome] += count
    text = table(outcomes)
    print(text, end="")
    if options[:1] == ("--write",):
        document = Path(options[1])
        head, _, rest = document.read_text().partition(BEGIN)
        document.write_text(head + BEGIN + text + END + rest.partition(END)[2])


if __name__ == "__main__":
    main(*sys.argv[1:])
