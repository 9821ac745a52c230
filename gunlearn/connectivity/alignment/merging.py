"""Merge two models layer by layer in closed form (GNNMerge, arXiv 2503.03384)."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.connectivity.alignment.followed_tensors import tensors_of
from gunlearn.connectivity.alignment.model_pair import ModelCall, called, check_pair, frozen_copy, runner
from gunlearn.connectivity.alignment.tracing import layers_of_table
from gunlearn.core.checks import check_number
from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.nn.channels.channel_rules import LinearMap, rule_of
from gunlearn.seed import isolated_rng

_Seen = list[tuple[Any, Any, Tensor]]


def merge_in_closed_form(
    first: nn.Module,
    second: nn.Module,
    t: float = 0.5,
    data: Any = None,
    inputs: Any = None,
    call: Callable[[nn.Module, Any], Any] | None = None,
    ridge: float = 1e-6,
) -> tuple[nn.Module, dict[str, Any]]:
    r"""Return one model whose linear maps answer as both models' do, each on that model's own inputs, and notes.

    For each linear map

    .. math:: W = \arg\min_W \sum_m w_m |X_m W - Y_m|^2 + \lambda |W - \bar W|^2

    with :math:`X_m` what the map reads in model `m` (on a graph the aggregated features), :math:`Y_m` what it returns,
    weights :math:`w = (1 - t, t)` and :math:`\bar W` their average: directions that the data do not determine keep it.
    This is the faster of the paper's two forms: all maps are solved for from the models' own features, without a run of
    the merged model. Where both read the same, such as the features of a graph, the solution is the average. Weights
    that no linear map of the table holds are averaged, and `notes["averaged"]` names their layers. No label is read.

    Args:
        first: a trained model.
        second: another one of the same architecture, aligned or not.
        t: share of the second.
        data: see `align_models`.
        inputs: see `align_models`.
        call: see `align_models`.
        ridge: `lambda`, as a share of the mean square of the maps' inputs.

    Raises:
        InvalidInputError, InvalidTypeError, UnsupportedModelError: see `align_models`; `t` outside [0, 1].
        DivergenceError: a solution is NaN or infinite.
    """
    check_pair(first, second)
    check_number("t", t)
    check_number("ridge", ridge, positive=True)
    if not 0 <= t <= 1:
        raise InvalidInputError(f"Expected 't' between 0 and 1 (got {t})")
    layers_of_table(first)
    run = runner(data, inputs, call)
    one, other = frozen_copy(first), frozen_copy(second)
    merged = copy.deepcopy(first)
    state, beside = one.state_dict(), other.state_dict()
    merged.load_state_dict({k: torch.lerp(v, beside[k], t) if _is_float(v) else v for k, v in state.items()})
    maps = _maps_of(one)
    seen = [_watched(model, maps, run) for model in (one, other)]
    notes: dict[str, Any] = {"solved": [], "same_inputs": [], "averaged": _averaged(one, maps)}
    for name, linear in maps.items():
        calls = [_paired(w, found[name]) for w, found in zip((1 - t, t), seen, strict=True)]
        if _same_inputs(*(found[name] for found in seen)):
            notes["same_inputs"].append(name)
            continue
        _solve(merged.get_submodule(name), linear, [entry for found in calls for entry in found], ridge)
        notes["solved"].append(name)
    return merged, notes


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _maps_of(model: nn.Module) -> dict[str, LinearMap]:
    """Return the linear maps of the table by the name of the module that computes them."""
    found: dict[str, LinearMap] = {}
    for name, module in model.named_modules():
        rule = None if any(f"{name}.".startswith(f"{known}.") for known in found if known) else rule_of(module)
        for linear in rule.linear(module) if rule is not None else ():
            found[".".join(filter(None, (name, linear.owner)))] = linear
    return found


def _averaged(model: nn.Module, maps: dict[str, LinearMap]) -> list[str]:
    solved = {".".join(filter(None, (name, key))) for name, of in maps.items() for key in (*of.weights, of.bias)}
    return [name for name, _ in model.named_parameters() if name not in solved]


def _watched(model: nn.Module, maps: dict[str, LinearMap], run: ModelCall) -> dict[str, _Seen]:
    """Run a model; return arguments and output of each call of the modules."""
    seen: dict[str, _Seen] = {name: [] for name in maps}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            seen[name].append((args, kwargs, next(tensors_of(out)).clone()))

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name), with_kwargs=True) for name in maps]
    try:
        with torch.no_grad(), isolated_rng():
            called(model, run)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _paired(weight: float, found: _Seen) -> list[tuple[float, Any, Any, Tensor]]:
    return [(weight, *entry) for entry in found]


def _same_inputs(one: _Seen, other: _Seen) -> bool:
    """Whether a module read the same in both models."""
    for (args, kwargs, _), (args2, kwargs2, _) in zip(one, other, strict=True):
        pairs = list(zip(tensors_of((args, kwargs)), tensors_of((args2, kwargs2)), strict=True))
        if not all(a is b or (a.layout == b.layout == torch.strided and torch.equal(a, b)) for a, b in pairs):
            return False
    return True


@torch.no_grad()
def _solve(owner: nn.Module, linear: LinearMap, calls: list[tuple[float, Any, Any, Tensor]], ridge: float) -> None:
    """Set a map's weights to the solution; `owner` holds the average."""
    weights = [owner.get_parameter(name) for name in linear.weights]
    bias = dict(owner.named_parameters()).get(linear.bias)
    channels = weights[0].size(0)
    start = torch.cat([w.detach().double().reshape(channels, -1) for w in weights], dim=1).t()
    if bias is not None:
        start = torch.cat([start, bias.detach().double()[None]])
    gram, right = start.new_zeros(len(start), len(start)), torch.zeros_like(start)
    for weight, args, kwargs, out in calls:
        parts = [_inputs_of(owner, linear, name, args, kwargs) for name in linear.weights]
        rows = [_as_rows(part, out).double() for part in parts]
        if bias is not None:
            rows.append(rows[0].new_ones(len(rows[0]), 1))
        x, y = torch.cat(rows, dim=1), _as_rows(out, out).double()
        gram += weight * x.t() @ x
        right += weight * x.t() @ (y - x @ start)
    gram.diagonal().add_(ridge * gram.diagonal().mean().clamp(min=1e-300))
    found = start + torch.linalg.solve(gram, right)
    if not torch.isfinite(found).all():
        raise DivergenceError("Expected a finite solution of the merged map (got NaN or infinity)")
    begin = 0
    for w in weights:
        size = w[0].numel()
        w.data.copy_(found[begin : begin + size].t().reshape(w.shape))
        begin += size
    if bias is not None:
        bias.data.copy_(found[-1])


def _inputs_of(owner: nn.Module, linear: LinearMap, name: str, args: Any, kwargs: Any) -> Tensor:
    """Return what one map multiplies: what the module returns with the identity in place of its weights."""
    module = copy.deepcopy(owner)
    size = owner.get_parameter(name)[0].numel()
    for key in (*linear.weights, linear.bias):
        held = dict(module.named_parameters()).get(key)
        if held is not None:
            shape = (size, *held.shape[1:])
            new = torch.eye(size).reshape(shape) if key == name else torch.zeros(shape)
            place, _, attribute = key.rpartition(".")
            setattr(module.get_submodule(place), attribute, nn.Parameter(new.to(held), requires_grad=False))
    return next(tensors_of(module(*args, **kwargs)))


def _as_rows(value: Tensor, like: Tensor) -> Tensor:
    """Return `[rows, channels]`: images have channels before places, all else has them last."""
    axis = 1 if like.dim() == 4 else -1
    return value.movedim(axis, -1).reshape(-1, value.size(axis))
