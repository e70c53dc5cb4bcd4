"""Histories of random operations and faults, compared with a model after each step: see machine.py.

A failure prints the shortest history that was found to fail, with the seed; COFFERD_SEED=n repeats it. Everyday runs use the same
seed each time; the long run takes another for each turn and has hundreds of histories.
"""

import os
import random

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from faults.bench import LONG
from histories.machine import History, Stage

# Without shortening a failure comes sooner: COFFERD_SHRINK=0.
PHASES = [Phase.generate] + [Phase.shrink] * (os.environ.get("COFFERD_SHRINK") != "0")
SEEDS = [random.SystemRandom().randrange(1 << 32) for _ in range(20)] if LONG else [1]


@pytest.mark.timeout(3600 if LONG else 900)
@pytest.mark.parametrize("turn", range(len(SEEDS)))
def test_random_histories(start_daemon, ledger, tmp_path, turn):
    number = int(os.environ.get("COFFERD_SEED", SEEDS[turn]))
    print(f"COFFERD_SEED={number}")
    stage = Stage(start_daemon, tmp_path)

    @seed(number)
    class Here(History):
        pass

    Here.stage, Here.ledger = stage, ledger
    run_state_machine_as_test(Here, settings=settings(
        max_examples=int(os.environ.get("COFFERD_HISTORIES", 60 if LONG else 20)), stateful_step_count=80 if LONG else 40, deadline=None,
        database=None, phases=PHASES, suppress_health_check=list(HealthCheck), print_blob=False,
    ))
