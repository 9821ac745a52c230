"""Models along the way of a run, and the choice of the one to return."""

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.modes import evaluating
from gunlearn.errors import UnsupportedMethodError
from gunlearn.losses import Prediction
from gunlearn.methods.base import Problem
from gunlearn.methods.forget_part import forget_items, predict_forget
from gunlearn.tasks.base import Parts
from gunlearn.training.callbacks import StatefulCallback, TrainControl, TrainState


class Candidates(StatefulCallback):
    """Keeps a model per pass and restores the one whose forget error is nearest to a reference; see `ScrubR`.

    With `ends` it keeps one after each of these numbers of steps instead.

    Of models with the same error on the forget set it keeps one, the `"earliest"` or the `"latest"` by `tie_break`.
    Without validation items of the forgotten labels it raises `UnsupportedMethodError`.
    """

    def __init__(
        self,
        problem: Problem,
        parts: Parts,
        tie_break: str,
        size: int | None = None,
        ends: Collection[int] | None = None,
    ) -> None:
        self.ends = None if ends is None else sorted(ends)
        self.problem, self.parts, self.latest, self.size = problem, parts, tie_break == "latest", size
        self.kept: dict[int, dict[str, Any]] = {}  # number of wrong predictions -> the pass, and the weights after it
        self.held_out = problem.task.validation_items(problem.partition.retain_data)
        forgotten = forget_items(parts, "scrub_r")
        self.num_forget = forgotten.num_items
        self.notes: dict[str, Any] = {}
        self.same = torch.isin(labels_of(self.held_out), labels_of(forgotten).unique())
        if not bool(self.same.any()):
            raise UnsupportedMethodError(
                "Expected validation items of the forgotten classes for 'scrub_r' (got none); use 'scrub'"
            )

    def on_train_begin(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        if state.step == 0:
            self._add(kwargs["model"], 0)

    def on_epoch_end(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        if self.ends is None:
            self._add(kwargs["model"], state.epoch)

    def on_step_end(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        if self.ends is not None and state.step in self.ends:
            self._add(kwargs["model"], 1 + self.ends.index(state.step))

    @torch.no_grad()
    def on_train_end(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        """Load the chosen candidate's weights into the model; its pass becomes `state.best_epoch`."""
        model, data = kwargs["model"], self.problem.partition.retain_data
        reference = float(wrong(self.problem.task.predict(model, data, self.held_out))[self.same].double().mean())

        def rank(errors: int) -> tuple[float, int]:
            step = self.kept[errors]["epoch"]
            return abs(errors / self.num_forget - reference), -step if self.latest else step

        errors = min(self.kept, key=rank)
        model.load_state_dict(self.kept[errors]["model"])
        state.best_epoch, state.best_metric = self.kept[errors]["epoch"], rank(errors)[0]
        self.notes = {
            "chosen": state.best_epoch,
            "forget_error": errors / self.num_forget,
            "reference_error": reference,
            "candidates": len(self.kept),
        }

    @torch.no_grad()
    def _add(self, model: nn.Module, epoch: int) -> None:
        with evaluating(model):
            errors = int(wrong(predict_forget(self.problem.task, model, self.parts, self.size)).sum())
        if self.latest or errors not in self.kept:
            self.kept[errors] = {"epoch": epoch, "model": copy.deepcopy(model.state_dict())}

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = dict(state["kept"])


def labels_of(items: Any) -> Tensor:
    """Return the label of each item `[num_items]` of any task."""
    label = items.label if hasattr(items, "label") else items.y
    return label.squeeze(-1) if label.dim() > 1 else label


def wrong(prediction: Prediction) -> Tensor:
    """Return the mask `[num_items]` of items whose own label is not the most likely one; ties are right."""
    logits = prediction.require("logits")
    if prediction.gaussian or prediction.log_prob.dim() > 1:
        raise UnsupportedMethodError("Expected items of one label each to count errors (got several, or a regression)")
    if prediction.bernoulli:  # Bernoulli: less likely than not
        return prediction.log_prob.exp() < 0.5
    # Computed as the label's own log-probability is, so that equal logits compare equal.
    return prediction.log_prob < logits.log_softmax(-1).max(-1).values
