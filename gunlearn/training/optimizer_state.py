"""What the state of an optimiser says: whether it has stepped, and how often."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

#: Classes of `torch.optim` without the flag `decoupled_weight_decay`, which AdamW had not always.
_DECOUPLED = ("AdamW", "Adafactor", "Muon")


#: Packages whose optimisers only hand calls on to the one in their attribute `optimizer`.
_WRAPPERS = ("accelerate", "lightning", "lightning_fabric", "pytorch_lightning")


def unwrapped(optimizer: Any) -> Any:
    """Return the optimiser that accelerate or Lightning wrapped; anything else comes back as it is."""
    inner = getattr(optimizer, "optimizer", None)
    wraps = type(optimizer).__module__.partition(".")[0] in _WRAPPERS and isinstance(inner, Optimizer)
    return inner if wraps else optimizer


def is_adam(optimizer: Any) -> bool:
    """Return whether an optimiser is torch's own Adam or AdamW, whose memory is read and changed."""
    return type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)


def is_of_torch(optimizer: Any) -> bool:
    """Return whether an optimiser is of a class of `torch.optim` itself, not of one derived from it."""
    return vars(torch.optim).get(type(optimizer).__name__) is type(optimizer)


def optimizer_kind(optimizer: Any) -> str:
    """Return the name of a class of `torch.optim`; of another class its full name, which nothing is loaded into."""
    own = type(optimizer)
    return own.__name__ if is_of_torch(optimizer) else f"{own.__module__}.{own.__qualname__}"


def is_decoupled(group: Mapping[str, Any], kind: str) -> bool:
    """Return whether a group's weight decay shrinks weights apart from the loss, and is no L2 penalty.

    Args:
        group: of an optimiser, or of its `state_dict`.
        kind: name of its class; empty where it is not known.
    """
    return bool(group.get("decoupled_weight_decay")) or kind in _DECOUPLED or "beta2_decay" in group


def steps_counted(state: Mapping[str, Any]) -> int | None:
    """Return the steps that the state in an optimiser's `state_dict` counts; `None` where it counts none."""
    counts = [int(entry["step"]) for entry in state["state"].values() if "step" in entry]
    return max(counts, default=None)


def steps_taken(source: Any) -> int | None:
    """Return the steps that an optimiser or its `state_dict` counts; `None` where it counts none, and for others."""
    if isinstance(source, Optimizer):
        source = source.state_dict()
    return steps_counted(source) if isinstance(source, Mapping) else None


def has_stepped(optimizer: Optimizer) -> bool:
    """Return whether an optimiser has the state of a step; some classes have one of no step before."""
    return any(entry and ("step" not in entry or int(entry["step"]) > 0) for entry in optimizer.state.values())


def without_frozen(
    state: Mapping[str, Any], names: Sequence[str], learning: Sequence[str], count: int
) -> tuple[Mapping[str, Any], list[str]]:
    """Return a `state_dict` without parameters that do not learn, and the names of the others.

    An optimiser of all of a model's parameters holds frozen ones, too: those of other names than `learning`, or, where
    no names are known, those without state, if that leaves `count`. Else nothing changes.

    Args:
        state: of an optimiser.
        names: of its parameters in the order of its groups; empty where they are not known.
        learning: names of the model's parameters that learn; empty where they are not known.
        count: of these.
    """
    order = [index for group in state["param_groups"] for index in group["params"]]
    if names and learning:
        kept = {index for index, name in zip(order, names, strict=False) if name in learning}
    else:
        kept = {index for index in order if index in state["state"]}
    if len(order) <= count or len(kept) != count:
        return state, list(names)
    return part_of_state(state, kept), [name for index, name in zip(order, names, strict=False) if index in kept]


def part_of_state(state: Mapping[str, Any], kept: Collection[int]) -> dict[str, Any]:
    """Return a `state_dict` of some of its parameters, by their numbers in it."""
    groups = [
        {key: value for key, value in group.items() if key != "param_names"}
        | {"params": [index for index in group["params"] if index in kept]}
        for group in state["param_groups"]
    ]
    entries = {index: entry for index, entry in state["state"].items() if index in kept}
    return {**state, "state": entries, "param_groups": groups}


def leaves_state(optimizer: Optimizer) -> bool:
    """Return whether a step of such an optimiser leaves state, as of all in torch but SGD without momentum.

    Of other classes nothing is known: no step of theirs is tried.
    """
    if not is_of_torch(optimizer):
        return False
    if isinstance(optimizer, torch.optim.LBFGS | torch.optim.SparseAdam):  # which need more than a gradient to step
        return True
    group = next(group for group in optimizer.param_groups if group["params"])  # others hold what is frozen
    place = nn.Parameter(group["params"][0].new_zeros(1, 1))
    place.grad = torch.ones_like(place)
    probe = copy.copy(optimizer)
    probe.param_groups, probe.state = [{**group, "params": [place]}], defaultdict(dict)
    probe.step()
    return any(probe.state.values())
