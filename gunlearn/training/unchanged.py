"""Runs that changed no weight say so, and why."""

import copy
from typing import Any

from torch import nn

from gunlearn.core.digest import same_weights
from gunlearn.training.callbacks import TrainState

#: Begins the sentence that says why.
KEPT_WEIGHTS = "The weights are unchanged"


def remark_unchanged(
    notes: dict[str, Any],
    before: nn.Module,
    after: nn.Module,
    state: TrainState | None,
    why: str = "",
    fresh: Any = None,
) -> dict[str, Any]:
    """Return notes that say so where `after` has the weights of `before`, bit for bit: `unchanged` and `why`.

    Args:
        notes: of the run; a sentence that stands under `why` already comes first.
        before: the model before the run.
        after: the model that the run returned.
        state: of the loop; `None` where the caller's function trained.
        why: the reason, where the method knows it; else it follows from the state.
        fresh: new values that were put in place of what the model kept of forgotten nodes; they do not count, and the
            sentence names them.
    """
    reset = notes.get("reset")
    if not same_weights(_reset(before, fresh) if reset else before, after):
        return notes
    beside = f", but for entries of what is forgotten in {', '.join(reset)} that were reset" if reset else ""
    sentence = f"{KEPT_WEIGHTS}{beside}: {why or _reason(notes, state)}."
    return {**notes, "unchanged": True, "why": " ".join(filter(None, [notes.get("why"), sentence]))}


def _reset(model: nn.Module, fresh: Any) -> nn.Module:
    model = copy.deepcopy(model)
    fresh.put(model)
    return model


def _reason(notes: dict[str, Any], state: TrainState | None) -> str:
    if state is None:
        return "the training function returned those of the original model"
    if not state.ended:
        return "the method computed a change of zero"
    if state.step == 0:
        return {
            "target": "the run ended before its first step, since what is to be forgotten is at its target already "
            f"(until='{notes.get('until')}')",
            "callback": "a callback ended the run before its first step",
        }.get(state.ended, "the settings allow no step")
    if state.best_epoch == 0:
        return f"of {state.epoch} passes the run kept none, but the model before the first"
    return (
        f"{state.step} steps moved none of them (gradients of zero, or steps too small for the weights' floating point "
        "type)"
    )
