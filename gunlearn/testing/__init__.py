"""The tests that every method, figure and task of this package passes, for those of other packages.

>>> from gunlearn.testing import MethodCase, MethodContract
>>> class TestTheirs(MethodContract):
...     case = MethodCase("theirs", options={"epochs": 2})

pytest runs the functions of such a class. This room needs no pytest.
"""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.testing.figure_contract": ("FigureContract",),
    "gunlearn.testing.method_contract": ("MethodCase", "MethodContract"),
    "gunlearn.testing.small_problems": ("SmallProblem", "small_problem"),
    "gunlearn.testing.snapshots": ("data_snapshot", "equal", "model_snapshot", "random_snapshot", "untidy"),
    "gunlearn.testing.task_contract": ("TaskCase", "TaskContract"),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
