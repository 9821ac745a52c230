"""Whether a loop's calls are as many as the optimiser's steps."""

from collections.abc import Mapping
from typing import Any

from gunlearn.errors import InvalidInputError

#: Calls without a step that pass, as a share of all: a gradient scaler leaves out steps of infinite gradients.
_SKIPPED = 0.1


class CallsPerStep:
    """Compares the calls of a loop with the steps that its optimiser counts from the first look on.

    A resumed loop's optimiser has counted steps before, so that only the difference has to stay.
    """

    def __init__(self) -> None:
        self.first: tuple[int, int] | None = None

    def check(self, calls: int, states: Mapping[Any, Mapping[str, Any]]) -> None:
        """Refuse other numbers of calls than of steps since the first look at a state that counts.

        Where parameters count differently, since not every step reads all of them, the largest count is a lower bound.

        Args:
            calls: taken so far.
            states: what the optimiser keeps by parameter, of which some count their steps in `"step"`.

        Raises:
            InvalidInputError: fewer calls than steps, or many more.
        """
        counts = {int(entry["step"]) for entry in states.values() if "step" in entry}
        if not counts:
            return
        counted = max(counts)
        if self.first is None:
            self.first = calls, counted
        called, stepped = calls - self.first[0], counted - self.first[1]
        skipped = called - stepped
        if skipped < 0 or (len(counts) == 1 and skipped > 1 + _SKIPPED * called):
            raise InvalidInputError(
                f"Expected one call of 'step' after each step of the optimiser (got {called} calls while it counted "
                f"{stepped} steps); call 'keeping.step(model, optimizer)' after each 'optimizer.step()', and only there"
            )
