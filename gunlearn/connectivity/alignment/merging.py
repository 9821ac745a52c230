"""Merge two models layer by layer in closed form (GNNMerge, arXiv 2503.03384)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.connectivity.alignment.followed_tensors import tensors_of
from gunlearn.connectivity.alignment.least_squares import WatchedMap, solve_jointly
from gunlearn.connectivity.alignment.model_pair import ModelCall, called, check_pair, frozen_copy, runner
from gunlearn.connectivity.alignment.tracing import layers_of_table
from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError
from gunlearn.nn.channels.channel_rules import LinearMap, rule_of
from gunlearn.seed import isolated_rng
from gunlearn.tasks.items.statistics import batch_norm_layers, settle_statistics
from gunlearn.tasks.trial import plain_copy

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
    the merged model. Where both read the same, such as the features of a graph, the solution is the average. Maps that
    share a weight are solved for together. Weights that no linear map of the table holds, or that a map shares with
    another kind of layer, are averaged, and `notes["averaged"]` names them. Statistics of batch normalisation are those
    of the merged model on the data. No label is read.

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
    merged = plain_copy(first)
    state, beside = one.state_dict(), other.state_dict()
    merged.load_state_dict({k: torch.lerp(v, beside[k], t) if _is_float(v) else v for k, v in state.items()})
    maps = _maps_of(one)
    seen = [_watched(model, maps, run) for model in (one, other)]
    notes: dict[str, Any] = {"solved": [], "same_inputs": [], "averaged": _averaged(one, maps)}
    for group in _groups(merged, maps):
        whole = [name for name in group if not _same_inputs(*(found[name] for found in seen))]
        if not whole:
            notes["same_inputs"] += group
            continue
        watched = []
        for name in group:
            calls = [(w, *entry) for w, found in zip((1 - t, t), seen, strict=True) for entry in found[name]]
            watched.append(WatchedMap(merged.get_submodule(name), maps[name], calls))
        solve_jointly(watched, ridge)
        notes["solved"] += group
    layers = batch_norm_layers(merged)
    if layers:
        with isolated_rng():
            settle_statistics(merged, layers, [(1, lambda: called(merged, run))])
        notes["statistics"] = "of batch normalisation: computed anew on the data"
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


def _groups(model: nn.Module, maps: dict[str, LinearMap]) -> list[list[str]]:
    """Return the names of maps in groups that share weights; a map that shares one with another layer is in none."""
    held = _ids(model)
    own = {name: {held[key] for key in _keys(name, of) if key in held} for name, of in maps.items()}
    groups: list[list[str]] = []
    for name in maps:
        joined = [group for group in groups if any(own[other] & own[name] for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([*(other for group in joined for other in group), name])
    left = _elsewhere(model, maps)
    return [group for group in groups if not any(own[name] & left for name in group)]


def _elsewhere(model: nn.Module, maps: dict[str, LinearMap]) -> set[int]:
    """Return the tensors that have a name outside the maps, too."""
    keys = {key for name, of in maps.items() for key in _keys(name, of)}
    return {held for key, held in _ids(model).items() if key not in keys}


def _ids(model: nn.Module) -> dict[str, int]:
    return {key: id(value) for key, value in model.named_parameters(remove_duplicate=False)}


def _keys(name: str, linear: LinearMap) -> list[str]:
    return [".".join(filter(None, (name, key))) for key in (*linear.weights, linear.bias)]


def _averaged(model: nn.Module, maps: dict[str, LinearMap]) -> list[str]:
    """Return the names of parameters that no solved map holds."""
    solved = {key for group in _groups(model, maps) for name in group for key in _keys(name, maps[name])}
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


def _same_inputs(one: _Seen, other: _Seen) -> bool:
    """Whether a module read the same in both models."""
    for (args, kwargs, _), (args2, kwargs2, _) in zip(one, other, strict=True):
        pairs = list(zip(tensors_of((args, kwargs)), tensors_of((args2, kwargs2)), strict=True))
        if not all(a is b or (a.layout == b.layout == torch.strided and torch.equal(a, b)) for a, b in pairs):
            return False
    return True
