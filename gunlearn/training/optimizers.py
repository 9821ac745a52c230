"""Optimisers and schedulers by PyTorch's names, or from a caller's own function."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gunlearn.core.options import did_you_mean
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.training.resumed_optimizer import (
    check_one_optimizer,
    classes_of,
    goes_on,
    is_state_dict,
    resumed_optimizer,
)
from gunlearn.training.sophia import SophiaG
from gunlearn.training.training_state import TrainingState

#: A name of `torch.optim` or `"sophia_g"`, in any spelling, a class of optimisers, a function from parameters to an
#: optimiser, or what goes on from where it is: an optimiser, its `state_dict`, or a `TrainingState`.
OptimizerSpec = str | Callable[[Sequence[nn.Parameter]], Any] | Optimizer | Mapping[str, Any] | TrainingState
#: The same of `torch.optim.lr_scheduler`: a name, a class, or a function from an optimiser to a scheduler.
SchedulerSpec = str | Callable[[Any], Any]


def makes_its_own(spec: Any) -> TypeGuard[Callable[[Any], Any]]:
    """Return whether a function builds the optimiser or scheduler, or another one goes on: with its own settings."""
    return goes_on(spec) or (callable(spec) and not isinstance(spec, type))


def _find(name: Any, module: Any, base: type, what: str) -> Any:
    """Return the class of a module of torch with that name, in any spelling."""
    known = {called.lower(): cls for called, cls in classes_of(module, base).items()}
    if isinstance(name, type) and issubclass(name, base):
        return name
    if not isinstance(name, str):
        got = name.__name__ if isinstance(name, type) else type(name).__name__
        raise InvalidTypeError(f"Expected the name of {what}, its class, or a function (got {got})")
    key = _plain(name)
    if key not in known:
        raise InvalidInputError(f"Expected {what} (got {name!r}){did_you_mean(key, known)}")
    return known[key]


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def find_optimizer(name: Any) -> type[Optimizer]:
    """Return the class of `torch.optim`, or `SophiaG`, with that name in any spelling; a class stands for itself."""
    if isinstance(name, str) and _plain(name) == "sophiag":
        return SophiaG
    return _find(name, torch.optim, Optimizer, "an optimizer of torch.optim")


def find_scheduler(name: Any) -> type[LRScheduler]:
    """Return the class of `torch.optim.lr_scheduler` with that name, in any spelling."""
    found = _find(name, torch.optim.lr_scheduler, LRScheduler, "a scheduler of torch.optim.lr_scheduler")
    if found is ReduceLROnPlateau:
        raise InvalidInputError(f"Expected a scheduler that follows from the number of the step alone (got {name!r})")
    return found


def check_optimizer(spec: OptimizerSpec, options: Mapping[str, Any] | None) -> None:
    """Refuse unknown names, several optimisers, mappings that are no `state_dict`, and options beside a function."""
    check_one_optimizer(spec)
    if isinstance(spec, Mapping) and not is_state_dict(spec):
        raise InvalidInputError(
            f"Expected an 'optimizer' or its state_dict, with 'state' and 'param_groups' (got keys {sorted(spec)[:5]})"
        )
    if not makes_its_own(spec):
        find_optimizer(spec)
    elif options:
        raise InvalidInputError(f"Expected 'optimizer_options' with a name alone (got a function and {dict(options)})")


def check_scheduler(spec: SchedulerSpec | None, options: Mapping[str, Any] | None) -> None:
    """Refuse unknown names, and options beside a function or without a scheduler."""
    if spec is not None and not makes_its_own(spec):
        find_scheduler(spec)
    elif options:
        raise InvalidInputError(f"Expected 'scheduler_options' with a name alone (got {spec} and {dict(options)})")


def _built(cls: type, given: Any, arguments: Mapping[str, Any]) -> Any:
    """Return the optimiser or scheduler; refuse arguments that it does not take."""
    try:
        return cls(given, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(
            f"Expected arguments that {cls.__name__} takes (got {sorted(arguments)}: {error})"
        ) from error


def make_optimizer(
    spec: OptimizerSpec,
    parameters: Sequence[nn.Parameter],
    lr: float,
    weight_decay: float = 0.0,
    options: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
) -> Any:
    """Build an optimiser from its name or class, or by a function of the parameters alone that sets its own rates.

    One that is there already goes on over `parameters`, those of a copy of its model called `names`.

    `weight_decay` is what the optimiser means by it: an L2 penalty for Adam and SGD, decoupled for AdamW.

    Raises:
        InvalidInputError: an unknown name, `options` that the optimiser does not take, or SparseAdam.
        InvalidTypeError: a function that returns no optimiser.
    """
    check_optimizer(spec, options)
    if goes_on(spec):
        return _of_dense(resumed_optimizer(spec, parameters, names, may_be_new=True))
    if makes_its_own(spec):
        made = _of_dense(spec(parameters))
        if not (hasattr(made, "step") and hasattr(made, "zero_grad") and hasattr(made, "state_dict")):
            raise InvalidTypeError(f"Expected the optimizer factory to return an optimizer (got {type(made).__name__})")
        return made
    cls = find_optimizer(spec)
    arguments: dict[str, Any] = {"lr": lr, **(options or {})}
    if weight_decay or "weight_decay" in inspect.signature(cls).parameters:  # LBFGS and Rprop take no penalty
        arguments = {"weight_decay": weight_decay, **arguments}
    # One fused kernel, if there is one, is several times as fast.
    if (
        cls in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
        and not {"foreach", "fused", "differentiable"} & set(arguments)
        and all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    ):
        arguments["fused"] = True
    return _of_dense(_built(cls, parameters, arguments))


def _of_dense(optimizer: Any) -> Any:
    """Refuse the optimiser that takes sparse gradients alone: copies of a model have dense ones."""
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise InvalidInputError(
            "Expected an optimiser of dense gradients, which embeddings have here, those with sparse=True too (got "
            "SparseAdam); name another one, such as optimizer='adam'"
        )
    return optimizer


def make_scheduler(spec: SchedulerSpec | None, optimizer: Any, options: Mapping[str, Any] | None = None) -> Any | None:
    """Build a scheduler, to be stepped after each optimiser step, or return `None`; errors: see `make_optimizer`."""
    check_scheduler(spec, options)
    if spec is None or makes_its_own(spec):
        return None if spec is None else spec(optimizer)
    return _built(find_scheduler(spec), optimizer, options or {})


class PhasedOptimizer:
    """Several optimisers by phase over the same parameters, so that each phase keeps its own state.

    Set `phase` (at first the first of `optimizers`) before `step`. State dicts hold all optimisers.
    """

    def __init__(self, optimizers: Mapping[str, Any]) -> None:
        self.optimizers = dict(optimizers)
        self.phase = next(iter(self.optimizers))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizers[self.phase].param_groups

    def step(self) -> None:
        self.optimizers[self.phase].step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizers[self.phase].zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])
