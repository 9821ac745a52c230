"""Kinds of models that people bring: each cell is right, or refused in our own words, as the table in the docs says."""

import pytest

from docs.fill_models import MODELS, filled_table
from tests.model_kinds import CELLS, FORGET, KINDS, run

QUICK = ("model(data)", "adj_t @ x", "pairs in forward", "edge_time", "regression", "one logit", "GINE, edge_attr")


@pytest.mark.parametrize("cell", ["utu", "finetune", "gif", "influence"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name in QUICK], ids=str)
def test_a_few_cells(kind, cell):
    for forget in FORGET:
        said = run(kind, forget, cell)
        assert said == "yes" or (kind.name, cell) == ("adj_t @ x", "influence"), said


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_cell(kind):
    for forget in FORGET:
        for cell in CELLS:
            run(kind, forget, cell)


@pytest.mark.slow
def test_the_table_is_fresh():
    assert filled_table() == MODELS.read_text()


def test_the_table_names_every_kind():
    table = MODELS.read_text()
    assert all(f"| {kind.name} |" in table for kind in KINDS)
