"""A Trainer callback that holds the retain loss below a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import TrainerCallback, TrainerState

from gunlearn.errors import InvalidInputError
from gunlearn.losses import Objective, PrimalDual

if TYPE_CHECKING:
    from gunlearn.llm.training.trainer import UnlearnTrainer


# Key of the multiplier in the Trainer's saved state. An ExportableState would be built anew, without its trainer.
KEY = "primal_dual"


class PrimalDualCallback(TrainerCallback):
    """Set the weight of the retain term after each step, as `"PDU" <https://arxiv.org/abs/2506.05314>`_ does.

    The first weight is that of `dual`, not the objective's. The retain loss is that of whole steps, over micro-batches
    and processes. A run resumed from a checkpoint continues with its multiplier, a new run starts from the first
    weight. After training, and after an error, the trainer has its old objective.

    Args:
        trainer: the trainer whose objective it changes; the callback adds itself.
        on: the part whose loss is bounded; exactly one term of the objective must read it.

    Example:
        >>> objective = FlatLogits() + NLL(on="retain")  # doctest: +SKIP
        >>> trainer = UnlearnTrainer(model, objective, forget_dataset=f, retain_dataset=r)  # doctest: +SKIP
        >>> PrimalDualCallback(trainer, PrimalDual(epsilon=0.3, step=1.0, weight=50.0))  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    def __init__(self, trainer: UnlearnTrainer, dual: PrimalDual, on: str = "retain") -> None:
        found = [i for i, (_, loss) in enumerate(trainer.objective.terms) if loss.on == on]
        if len(found) != 1:
            raise InvalidInputError(f"Expected one term on '{on}' in {trainer.objective!r} (got {len(found)})")
        self.trainer, self.dual, self.index = trainer, dual, found[0]
        self.start = dual.state_dict()
        trainer.add_callback(self)

    def _weigh(self) -> None:
        terms = list(self.trainer.objective.terms)
        terms[self.index] = (self.dual.weight, terms[self.index][1])
        self.trainer.objective = Objective(tuple(terms))

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if KEY in _saved(state):
            self.dual.load_state_dict(_saved(state)[KEY])
        elif state.global_step == 0:
            self.dual.load_state_dict(self.start)
        self._weigh()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        label = self.trainer.objective.labels[self.index]
        seen = torch.stack([terms[label] for terms in self.trainer.step_terms])
        value = self.trainer.accelerator.reduce(seen.sum(), "sum")
        self.dual.update(float(value))
        _saved(state)[KEY] = self.dual.state_dict()
        self._weigh()

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        logs = kwargs.get("logs")
        if logs is not None and "loss" in logs:
            logs["retain_weight"] = state.log_history[-1]["retain_weight"] = self.dual.weight


def _saved(state: TrainerState) -> dict[str, Any]:
    return cast("dict[str, Any]", state.stateful_callbacks)  # a list only before the Trainer has begun
