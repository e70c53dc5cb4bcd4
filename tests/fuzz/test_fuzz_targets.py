"""Each fuzz target (fuzz/, src/fuzz.rs) for some seconds, with the parsers built to be watched; the long run takes an hour for all.

A finding fails the test and says where the input is; `cargo fuzz run TARGET FILE` repeats it. What is of interest is kept in
target/fuzz/corpus, so each run begins where the last one ended.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from faults.bench import LONG, QUICK
from fuzz.seeds import SEEDS

SOURCES = Path(__file__).resolve().parents[2]
BUILT = SOURCES / "target" / "fuzz"
SECONDS = int(os.environ.get("COFFERD_FUZZ_SECONDS", 3600 // len(SEEDS) if LONG else 5))
MEMORY = 512  # MiB; fuzz/src/lib.rs bounds each piece of it
# What a target is started through. A process begins with the peak memory of the one that became it (getrusage(2), ru_maxrss), and libFuzzer
# measures the peak: a target started by the tests themselves, which may hold more than MEMORY, would be out of memory before it began.
SMALL = ["sh", "-c", '"$@"; exit $?', "sh"]


def cargo_fuzz(*arguments):
    tools = f"{SOURCES / 'target' / 'tools' / 'bin'}:{os.environ.get('CARGO_HOME', Path.home() / '.cargo')}/bin"
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    return subprocess.run(["cargo", "fuzz", *arguments], cwd=SOURCES, env=env, capture_output=True, text=True)


def test_every_target_has_seeds_and_a_function():
    """So that none is left out of the runs below."""
    targets = {path.stem for path in (SOURCES / "fuzz" / "targets").glob("*.rs")}
    assert targets == set(SEEDS)
    for target in targets:
        assert f"cofferd::fuzz::{target})" in (SOURCES / "fuzz" / "targets" / f"{target}.rs").read_text()


def test_a_target_is_not_charged_with_the_memory_of_the_tests():
    held = b"x" * (MEMORY << 20)
    peak = [sys.executable, "-c", "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)"]
    measured = int(subprocess.run(SMALL + peak, capture_output=True, text=True, check=True).stdout)
    assert len(held) >> 20 == MEMORY and measured < MEMORY / 2, f"a new process begins with a peak of {measured} MiB"


@pytest.fixture(scope="module")
def built():
    """The directory of the targets' programs. Built here if tests/run has not done so."""
    result = cargo_fuzz("build", "--sanitizer", "none", "--target-dir", str(BUILT))
    assert result.returncode == 0, result.stderr[-4000:]
    (programs,) = (path for path in BUILT.glob("*/release") if (path / "head").exists())
    return programs


@pytest.mark.timeout(SECONDS + 1800)
@pytest.mark.parametrize("target", sorted(SEEDS))
def test_target(built, ledger, tmp_path, target):
    corpus, found = BUILT / "corpus" / target, tmp_path / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir()
    for number, seed in enumerate(SEEDS[target]):
        (corpus / f"seed{number}").write_bytes(seed)
    command = [
        built / target, corpus, f"-max_total_time={SECONDS}", f"-rss_limit_mb={MEMORY}", "-malloc_limit_mb=0", "-timeout=20",
        f"-artifact_prefix={found}/", "-print_final_stats=1", f"-seed={os.environ.get('COFFERD_SEED', 1)}",
    ]
    with ledger.fault(f"fuzz: {target}"), tempfile.TemporaryDirectory(prefix="cofferd-f-", dir=QUICK) as scratch:
        result = subprocess.run(SMALL + command, capture_output=True, text=True, errors="replace", env={**os.environ, "TMPDIR": scratch})
        inputs = [(path.name, path.read_bytes()[:200]) for path in found.iterdir()]
        assert result.returncode == 0 and not inputs, f"{inputs}\n{result.stderr[-6000:]}"
    runs = int(re.search(r"stat::number_of_executed_units:\s*(\d+)", result.stderr)[1])
    print(f"{target}: {runs} inputs in {SECONDS} s, corpus {len(list(corpus.iterdir()))}")
    assert runs > 2 * len(SEEDS[target])
