"""Seeding that the caller does not notice."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

import gunlearn as gu
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


@pytest.mark.parametrize("door", ["train", "unlearn", "influence"])
def test_numbers_drawn_before_the_run_leave_the_caller_s_state(door: str) -> None:
    """A module that is imported on the way may draw some, as rich does."""

    class Drawing(gu.LinkPrediction):
        def check_data(self, data):
            draw()
            return super().check_data(data)

    data = gu.link_split(gu.load("karate"), 0.1, 0.1, seed=0)
    model, task = gu.GCN(data.num_features), Drawing()
    before = get_rng_state()
    if door == "train":
        gu.train(model, data, task, epochs=1)
    elif door == "unlearn":
        gu.unlearn(model, data, gu.ForgetEdges(count=1), "utu", task)
    else:
        gu.influence(model, data, task, items=data.edge_index[:, :1])
    after = get_rng_state()
    assert after["python"] == before["python"]
    assert str(after["numpy"]) == str(before["numpy"])
    assert torch.equal(after["torch"], before["torch"])


def test_names_that_load_on_first_use_leave_the_caller_s_state() -> None:
    said = "import random; s = random.getstate(); import gunlearn as gu; gu.unlearn; assert random.getstate() == s"
    subprocess.run([sys.executable, "-W", "ignore", "-c", said], check=True, timeout=120)
