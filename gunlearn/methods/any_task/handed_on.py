"""The optimiser of a run, and the state that it leaves for the next request."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from gunlearn.training.inner_model import inner_model
from gunlearn.training.optimizer_state import is_of_torch, optimizer_kind
from gunlearn.training.second_moments import remember
from gunlearn.training.training_state import Moment, TrainingState, on_cpu


def group_settings(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the settings of each group of an optimiser."""
    return [{name: copy.copy(value) for name, value in group.items() if name != "params"} for group in groups]


class Making:
    """A function that makes an optimiser and changes it for a run; it keeps it, and its settings from before.

    Args:
        make: from parameters to an optimiser.
        changes: called with the optimiser, in order.
    """

    def __init__(self, make: Callable[[Sequence[nn.Parameter]], Any], *changes: Callable[[Any], None]) -> None:
        self.make, self.changes = make, changes
        self.made: Any = None
        self.settings: list[dict[str, Any]] = []

    def __call__(self, parameters: Sequence[nn.Parameter]) -> Any:
        self.made = self.make(parameters)
        self.settings = group_settings(self.made.param_groups)
        for change in self.changes:
            change(self.made)
        return self.made

    def state(
        self,
        model: nn.Module,
        before: TrainingState | None,
        taken: int,
        total: int,
        reading: Mapping[str, Any],
        moments: Sequence[Moment] = (),
        growth: float | None = None,
    ) -> TrainingState | None:
        """Return the state with which the next request goes on from `model`; the caller adds the hash of its weights.

        Rates and Adam's memory are those of the training again. `None` for an optimiser of no class of `torch.optim`,
        which nobody can make anew from its state.

        Args:
            model: after the run.
            before: the state that the run went on from, if any.
            taken: steps between its weights and those of `model`.
            total: steps of the whole training.
            reading: see `TrainingState`.
            moments: checkpoints that the next request may go back to.
            growth: see `TrainingState`, where there are none.
        """
        made = self.made
        if not is_of_torch(made):
            return None
        called = {id(parameter): name for name, parameter in inner_model(model).named_parameters()}
        names = tuple(called.get(id(p), "") for group in made.param_groups for p in group["params"])
        for group, settings in zip(made.param_groups, self.settings, strict=True):
            if "betas" in settings:
                remember(made, group, float(settings["betas"][1]))
        state = dict(made.state_dict())
        groups = zip(state["param_groups"], self.settings, strict=True)
        state["param_groups"] = [{"params": group["params"], **settings} for group, settings in groups]
        return TrainingState(
            steps=(total if before is None else before.steps) + taken,
            total=total,
            kind=optimizer_kind(made),
            optimizer=on_cpu(state, copied=False),
            names=() if "" in names else names,
            reading=dict(reading),
            rates=None if before is None else before.rates,
            moments=tuple(moments),
            growth=growth,
            known_loss=before is not None and before.known_loss,
        )
