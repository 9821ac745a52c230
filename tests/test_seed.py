"""Seeding that the caller does not notice."""

import random

import numpy as np
import pytest
import torch

from gunlearn.seed import get_rng_state, isolated_rng, set_rng_state


def draw() -> tuple[float, float, float, float, float]:
    """From every generator; the odd numbers of normal draws leave a cached second one behind."""
    return random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn()), float(torch.randn(1))


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def fail(error: type[BaseException]) -> None:
    draw()
    raise error


def test_the_callers_state_goes_on_also_after_an_exception() -> None:
    seed_all(3)
    expected = [draw() for _ in range(5)]
    seed_all(3)
    got = [draw()]
    for seed in (5, None):
        with isolated_rng(seed):
            draw()
        got.append(draw())
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), isolated_rng(1):
            fail(error)
        got.append(draw())
    assert got == expected


@pytest.mark.parametrize("seed", [0, 42, 2**32 + 5, 2**63 - 1])
def test_the_block_runs_under_its_seed(seed: int) -> None:
    draws = []
    for outer, inner in ((1, seed), (2, seed), (2, seed - 1 if seed else 1)):
        seed_all(outer)
        with isolated_rng(inner):
            draws.append(draw())
    assert draws[0] == draws[1]
    assert all(a != b for a, b in zip(draws[2], draws[0], strict=True))


def test_all_three_are_seeded_as_by_hand() -> None:
    with isolated_rng(7):
        ours = draw()
    with isolated_rng():
        seed_all(7)
        assert draw() == ours


def test_without_a_seed_the_block_starts_where_the_caller_is() -> None:
    seed_all(9)
    with isolated_rng():
        inside = draw()
    assert draw() == inside


def test_a_state_can_be_put_back_more_than_once() -> None:
    with isolated_rng(4):
        state = get_rng_state()
        expected = draw()
        for _ in range(2):
            set_rng_state(state)
            assert draw() == expected
