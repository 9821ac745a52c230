"""An optimiser that goes on where another one stopped."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gunlearn.errors import InvalidInputError
from gunlearn.training.optimizer_state import (
    has_stepped,
    is_of_torch,
    leaves_state,
    part_of_state,
    unwrapped,
    without_frozen,
)
from gunlearn.training.training_state import TrainingState
from gunlearn.training.usable_optimizer import (
    ESTIMATES,
    REMEDY,
    check_goes_on,
    check_memory,
    check_rates,
    densify,
    is_like_parameter,
)

_WHOLE = "; what it trains beside the model, such as a predictor, belongs into the model (torch.nn.ModuleDict)"
_SAME = 0.5  # share of a parameter's values
#: Keys of a group that are no settings of its class; the last five are those of schedulers.
_ADDED = {"params", "param_names", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"}


def classes_of(module: ModuleType, base: type) -> dict[str, Any]:
    """Return the public classes of a module that derive from `base`, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base and not name.startswith("_")
    }


def goes_on(source: Any) -> bool:
    """Return whether an optimiser can go on from this: another one, its `state_dict`, or a `TrainingState`."""
    return isinstance(source, Optimizer | Mapping | TrainingState)


def is_state_dict(source: Any) -> bool:
    """Return whether this is the `state_dict` of an optimiser."""
    return isinstance(source, Mapping) and {"state", "param_groups"} <= set(source)


def check_one_optimizer(source: Any) -> None:
    """Refuse a tuple, list or mapping of optimisers or of their `state_dict`s, one for each module.

    Raises:
        InvalidInputError: with code that makes one of them, where they are of one class.
    """
    whole = is_state_dict(source)
    each = list(source.values()) if isinstance(source, Mapping) else source
    if whole or not isinstance(each, list | tuple) or not each:
        return
    if all(map(is_state_dict, each)):
        raise InvalidInputError(
            f"Expected the state of one optimiser of all trained parameters (got those of {len(each)}); {ESTIMATES}"
        )
    each = [getattr(one, "optimizer", one) for one in each]  # Lightning wraps them
    if not all(isinstance(one, Optimizer) for one in each):
        return
    kinds = [type(one).__name__ for one in each]
    joined = ""
    if len(set(kinds)) == 1 and is_of_torch(each[0]) and len(each) <= len(ascii_lowercase):
        groups, states = (
            ", ".join(f"{stars}{name}.{part}" for name in ascii_lowercase[: len(each)])
            for stars, part in (("*", "param_groups"), ("**", "state"))
        )
        joined = f"join them: joint = torch.optim.{kinds[0]}([{groups}]), and joint.state.update({{{states}}}); or "
    raise InvalidInputError(
        f"Expected one optimiser of all trained parameters (got {len(each)}: {', '.join(kinds)}); {joined}{ESTIMATES}"
    )


def resumed_optimizer(
    source: Any, parameters: Sequence[nn.Parameter], names: Sequence[str] = (), may_be_new: bool = False
) -> Optimizer:
    """Return an optimiser over `parameters` with the class, settings and state of `source`, which does not change.

    Args:
        source: an optimiser, an optimiser's `state_dict`, or a `TrainingState`.
        parameters: those of a copy of the model that it trained.
        names: their names, where the state has some.
        may_be_new: `source` need not have taken a step.

    Raises:
        InvalidInputError: other parameters or none, a `state_dict` of no class of `torch.optim`, no step taken, or
            settings that no step goes on with (`maximize`, no learning rate).
    """
    if not parameters:
        raise InvalidInputError("Expected a model with trainable parameters (got none that require grad)")
    source = unwrapped(source)
    if isinstance(source, TrainingState):
        made = _loaded(source.optimizer, source.kind, list(parameters), names, source.names)
        may_be_new = may_be_new or not source.steps
    elif isinstance(source, Optimizer):
        made = _moved(source, list(parameters))
    else:
        made = _loaded(source, "", list(parameters), names)
    check_goes_on(made)
    densify(made)
    check_memory(made)
    if not may_be_new and not has_stepped(made) and leaves_state(made):
        raise InvalidInputError(
            f"Expected the optimiser's state after the training (got that of a new {type(made).__name__}, which has "
            f"taken no step); {REMEDY}, or {ESTIMATES}"
        )
    return made


def _moved(source: Optimizer, parameters: list[nn.Parameter]) -> Optimizer:
    """Return a copy of an optimiser over other parameters, matched by their values.

    Rows of forgotten nodes may have new values already.
    """
    every = [p for group in source.param_groups for p in group["params"]]
    held = [p for p in every if p.requires_grad]  # frozen ones do not learn
    free, match = list(parameters), {}
    for own in held:
        alike = [(float((p == own.to(p.device)).float().mean()), k) for k, p in enumerate(free) if p.shape == own.shape]
        share, index = max(alike, default=(0.0, 0), key=lambda entry: (entry[0], -entry[1]))
        if share < _SAME:
            raise InvalidInputError(
                f"Expected an optimiser of this model's parameters as they are now (got one with a parameter of shape "
                f"{tuple(own.shape)} that has other values, or is not the model's); {REMEDY} (the latter where the "
                f"model is an average of the trained weights, such as EMA or SWA){_WHOLE}"
            )
        match[own] = free.pop(index)
    _check_none_left(free, held)
    if is_of_torch(source):
        learning = {number for number, p in enumerate(every) if p.requires_grad}  # as torch numbers them
        return _loaded(part_of_state(source.state_dict(), learning), type(source).__name__, [match[p] for p in held])
    made = _copied(source, match)
    made.param_groups = [
        {key: value if key == "params" else copy.deepcopy(value) for key, value in group.items()}
        for group in source.param_groups
    ]
    for group in made.param_groups:
        group["params"] = [match[p] for p in group["params"] if p in match]
    made.state = defaultdict(dict, {match[p]: copy.deepcopy(state) for p, state in source.state.items() if p in match})
    return made


def _loaded(
    state: Mapping[str, Any],
    kind: str,
    parameters: list[nn.Parameter],
    own_names: Sequence[str] = (),
    order_names: Sequence[str] = (),
) -> Optimizer:
    """Return an optimiser with a state dict; its entries belong to the parameters by name, else in their order."""
    names = list(order_names) or [name for group in state["param_groups"] for name in group.get("param_names", ())]
    state, names = without_frozen(state, names, own_names, len(parameters))
    groups, named = state["param_groups"], dict(zip(own_names, parameters, strict=False))
    count = sum(len(group["params"]) for group in groups)
    if named and sorted(names) == sorted(named):
        parameters = [named[name] for name in names]
    elif len(groups) > 1 and not kind and count == len(parameters):
        parameters = _by_shape(state, parameters)
    if count != len(parameters):
        raise InvalidInputError(
            f"Expected the state of an optimiser of this model's {len(parameters)} trained parameters "
            f"(got one of {count}); {REMEDY}{_WHOLE if count > len(parameters) else ''}"
        )
    _check_shapes(state, parameters)
    cls = _class_of(groups[0], kind)
    check_rates(groups, cls.__name__)
    left = iter(parameters)  # some classes want a rate at construction; loading the state sets all settings
    made = cls([{"params": [next(left) for _ in group["params"]]} for group in groups], lr=float(groups[0]["lr"]))
    made.load_state_dict(copy.deepcopy(dict(state)))
    return made


def _check_shapes(state: Mapping[str, Any], parameters: list[nn.Parameter]) -> None:
    """Refuse a state dict whose entries do not have the shapes of parameters in the same order."""
    order = [index for group in state["param_groups"] for index in group["params"]]
    held = [
        [(name, value.shape) for name, value in state["state"].get(index, {}).items() if is_like_parameter(name, value)]
        for index in order
    ]
    for entry, parameter in zip(held, parameters, strict=True):
        for name, shape in entry:
            if shape == parameter.shape:
                continue
            got = f"got '{name}' of shape {tuple(shape)} for a parameter of shape {tuple(parameter.shape)}"
            if all(held) and Counter(one[0][1] for one in held) == Counter(own.shape for own in parameters):
                raise InvalidInputError(
                    f"Expected the state of an optimiser of this model's parameters in the model's order ({got}: the "
                    "shapes are those of the model, but the order of the groups, or of the parameters in them, is "
                    "another one, and no names tell it); hand in the optimiser itself, whose order does not matter"
                )
            raise InvalidInputError(f"Expected the state of an optimiser of this model's parameters ({got}); {REMEDY}")


def _by_shape(state: Mapping[str, Any], parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Return parameters in the order of groups without names, each of which keeps the model's order.

    So do those of transformers' Trainer: matrices with weight decay, gains and biases without.

    Raises:
        InvalidInputError: two groups hold parameters of one shape, or their state shows no shapes.
    """
    groups, at = state["param_groups"], dict[Any, int]()
    for number, group in enumerate(groups):
        for index in group["params"]:
            kept = state["state"].get(index, {})
            shape = next((value.shape for name, value in kept.items() if is_like_parameter(name, value)), None)
            if shape is None or at.setdefault(shape, number) != number:
                raise InvalidInputError(
                    f"Expected one group of parameters in the state of an optimiser, names of all, or groups of "
                    f"different shapes (got {len(groups)} groups, and nothing tells which parameter an entry belongs "
                    "to: their order may be another one than the model's); build the optimiser of this model's "
                    "parameters with the same groups, load the state_dict, and hand the optimiser in"
                )
    return sorted(parameters, key=lambda parameter: at.get(parameter.shape, len(groups)))


def _class_of(group: Mapping[str, Any], kind: str) -> Any:
    """Return the class of `torch.optim` that has a group's settings."""
    known = classes_of(torch.optim, Optimizer)
    if kind:
        if kind not in known:
            raise InvalidInputError(f"Expected the state of an optimiser of torch.optim (got {kind}); {REMEDY}")
        return known[kind]
    settings = set(group) - _ADDED
    found = []
    for cls in known.values():
        defaults = cls([nn.Parameter(torch.zeros(1, 1))], lr=0.1).param_groups[0]
        same = settings == set(defaults) - _ADDED
        flag = "decoupled_weight_decay"  # AdamW's state has it set, Adam's not
        if same and group.get(flag) == defaults.get(flag):
            found.append(cls)
    if len(found) != 1:
        raise InvalidInputError(
            f"Expected the state_dict of one class of torch.optim (got settings {sorted(settings)}, of "
            f"{[cls.__name__ for cls in found] or 'none'}); hand in the optimiser itself"
        )
    return found[0]


def _check_none_left(free: list[nn.Parameter], held: list[Tensor]) -> None:
    if free:
        raise InvalidInputError(
            f"Expected an optimiser of all {len(held) + len(free)} trained parameters of the model "
            f"(got one of {len(held)}); freeze the others (requires_grad_(False)), or {REMEDY}"
        )


def started_anew(optimizer: Any, held: Sequence[nn.Parameter], parameters: Sequence[nn.Parameter]) -> Any:
    """Return an optimiser of the same class and settings over other parameters, without state.

    Args:
        optimizer: over `held`; it does not change.
        held: parameters.
        parameters: what takes their places, in the same order.
    """
    place = dict(zip(held, parameters, strict=True))
    made = _copied(optimizer, place)
    made.param_groups = []
    for group in optimizer.param_groups:
        settings = copy.deepcopy({key: value for key, value in group.items() if key != "params"})
        made.param_groups.append({**settings, "params": [place[own] for own in group["params"]]})
    made.state = defaultdict(dict)
    return made


def _copied(optimizer: Any, place: Mapping[Any, Any]) -> Any:
    """Return a copy with the attributes of the caller's own class, in which parameters change places.

    Torch copies groups and state alone. A scheduler replaces `step` by one of the optimiser that it was made for.
    """
    kind = type(optimizer).__name__
    inner = next((value for value in vars(optimizer).values() if isinstance(value, Optimizer)), None)
    if inner is not None:
        raise InvalidInputError(
            f"Expected an optimiser that takes its steps itself (got {kind}, which wraps {type(inner).__name__}); "
            f"hand in the one inside where it alone trained the model, or {ESTIMATES}"
        )
    made = copy.copy(optimizer)
    own = {name: value for name, value in vars(optimizer).items() if name != "step" and name not in vars(made)}
    memo = {id(old): new for old, new in place.items()}
    for name, value in own.items():
        try:
            vars(made)[name] = copy.deepcopy(value, memo)
        except (TypeError, RuntimeError) as error:  # a lock, an open file, a tensor inside of a graph
            raise InvalidInputError(
                f"Expected an optimiser whose attributes can be copied (got {kind} with '{name}': {error}); hand in "
                f"one without it, or {ESTIMATES}"
            ) from error
    return made
