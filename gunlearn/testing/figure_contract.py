"""What every figure keeps to."""

import math
from functools import cache

import gunlearn as gu
from gunlearn.metrics import FIGURES
from gunlearn.metrics.base import BETTER
from gunlearn.report.listing import listing
from gunlearn.testing.small_problems import small_problem
from gunlearn.testing.snapshots import equal, random_snapshot


class FigureContract:
    """Tests of one figure: subclass it in a test module as `class TestTheirs(FigureContract)`.

    Attributes:
        figure: its name.
        task: the small problem that it is computed on.
        low: the smallest value that it can have.
        high: the largest.
    """

    figure: str
    task: str = "node_classification"
    low: float = -math.inf
    high: float = math.inf

    def test_it_is_registered_and_explained(self) -> None:
        figure = FIGURES.find(self.figure)()
        assert figure.name == self.figure
        assert len(figure.legend) > 10
        assert figure.better in BETTER
        assert not figure.floor or figure.floor in FIGURES
        rows = [row for row in listing("figure")[1] if row[0].split(" ")[0] == self.figure]
        assert len(rows) == 1
        assert figure.legend in rows[0]

    def test_it_is_computed_and_the_same_again(self) -> None:
        result = _unlearned(self.task)
        problem = small_problem(self.task)
        references = [problem.model(seed) for seed in (1, 2)]
        before = random_snapshot()
        first, second = (gu.evaluate(result, references=references, metrics=[self.figure]) for _ in range(2))
        assert equal(before, random_snapshot()), "it drew from the caller's random state"
        value = first[self.figure]
        assert value is None or isinstance(value, int | float)
        assert value == second[self.figure]
        assert value is None or self.low <= value <= self.high
        assert any(row[self.figure] is not None for row in first.rows), "it is defined for no model"
        heading = FIGURES[self.figure].heading
        assert not heading or heading in str(first)


@cache
def _unlearned(task: str) -> gu.Result:
    problem = small_problem(task)
    return gu.unlearn(problem.model(), problem.data(), problem.request, "finetune", task, epochs=2)
