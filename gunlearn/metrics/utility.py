"""How far retrained models are apart in utility."""

from functools import partial
from itertools import combinations

from gunlearn.metrics.base import Figure
from gunlearn.metrics.view import ModelView


class UtilityFloor(Figure):
    """Noise floor of utility (AUC of test edges, accuracy or fit on test items): how far apart retrained models are.

    The mean of the absolute differences between two of them; a method's own difference says little below it.
    """

    name = "utility_floor"

    def compute(self, view: ModelView) -> float | None:
        name = view.problem.headline[0]
        known = [other.once((self.name, name), partial(other.__getitem__, name)) for other in view.problem.references]
        gaps = [abs(a - b) for a, b in combinations(known, 2) if a is not None and b is not None]
        return sum(gaps) / len(gaps) if gaps else None
