"""What every registered task keeps to; its rows are in `cases.py`."""

import pytest

from gunlearn.tasks import TASKS
from gunlearn.testing import TaskContract
from tests.tasks.cases import CASES


def test_every_task_has_a_case() -> None:
    assert [case.task for case in CASES] == list(TASKS)


@pytest.mark.filterwarnings("ignore:no measurable effect")  # of two steps
class TestContract(TaskContract):
    @pytest.fixture(autouse=True, params=CASES, ids=str)
    def _each(self, request: pytest.FixtureRequest) -> None:
        self.case = request.param
