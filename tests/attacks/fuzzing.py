"""Random inputs: how many, from which seed, and how a function may respond to them.

The suites try the same inputs in every run, the nightly one 11,000 in all. To try others, and ten times as many:
ATTACK_SEED=1 ATTACK_TIMES=10 python -m pytest tests/attacks -m nightly -k any
"""

import os
import time

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings

from src.errors import UserError

SEED = os.environ.get("ATTACK_SEED")
TIMES = int(os.environ.get("ATTACK_TIMES", "1"))
LONGEST = 20  # CPU seconds that one input may take


def how_many(few, many):
    """Parametrize a test by num_inputs: a few for every run, many for the nightly one."""
    return pytest.mark.parametrize("num_inputs", [few, pytest.param(many * TIMES, marks=pytest.mark.nightly)])


def attack(check, strategy, num_inputs, found=()):
    """Call check(input) for inputs drawn from a strategy, and first for those that were found to do harm before."""

    def test(given_input):
        check(given_input)

    test = given(strategy)(test)
    for one in found:
        test = example(one)(test)
    test = settings(
        max_examples=num_inputs,
        derandomize=SEED is None,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )(test)
    (test if SEED is None else seed(int(SEED))(test))()


def attempt(function, *arguments):
    """Return the function's result, or None where it raised a UserError of one line; anything else is a fault."""
    began = time.process_time()
    try:
        return function(*arguments)
    except UserError as error:
        line = str(error)
        assert line.isprintable(), line
        assert 0 < len(line) <= 2000
        return None
    finally:
        assert time.process_time() - began < LONGEST
