"""Every measured table is what its committed rows give, marks included."""

import json

import pytest

from docs.fill_tables import filled
from experiments import tables as fill
from experiments.speed import report as speed
from gunlearn.report import markdown_table
from tests.conftest import REPOSITORY, committed

TABLES = {
    (file.relative_to(REPOSITORY).as_posix(), name): table
    for file, of in fill.tables().items()
    for name, table in of.items()
}


@pytest.mark.parametrize(("file", "name"), TABLES)
def test_measured_tables_are_not_stale(file: str, name: str) -> None:
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    assert text == filled(text, {name: TABLES[file, name]}), "run: python -m experiments.tables"


def test_a_row_that_fails_is_marked_and_another_row_changes_the_table() -> None:
    """The control: a table whose rows change is stale."""
    rows = committed("inpo_edges")["dblp"]
    assert r"| inpo \*! | paper |" in markdown_table(rows)
    for row in rows:
        row["retain_auc"] = 0.95
    assert "!" not in markdown_table(rows)
    assert markdown_table(rows) != TABLES["experiments/inpo_edges/README.md", "dblp"]


def test_tables_of_speed_are_not_stale() -> None:
    text = (REPOSITORY / "experiments" / "speed" / "README.md").read_text(encoding="utf-8")
    assert speed.fill(text, committed("speed")) == text, "run: python -m experiments.speed.report DIR"


def test_every_committed_file_of_rows_is_shown_by_a_table_that_is_tested() -> None:
    """A study that commits rows is in `experiments.tables`, or has a test of its own."""
    own = {"influence_in_inpo", "speed", "tofu_small"}
    shown = {file.parent.name for file in fill.tables()} | own
    found = {path.parent.name for path in (REPOSITORY / "experiments").glob("*/*.json")}
    assert found <= shown
    assert all(json.loads(path.read_text()) for path in (REPOSITORY / "experiments").glob("*/results.json"))
