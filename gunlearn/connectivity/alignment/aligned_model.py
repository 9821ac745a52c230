"""Align one model's channels with another's, so that a path between them says something."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.connectivity.alignment.channel_structure import OUTPUT_CHANNELS, ChannelStructure
from gunlearn.connectivity.alignment.feature_matching import match_features
from gunlearn.connectivity.alignment.model_pair import ModelCall, check_pair, frozen_copy, outputs_of, runner
from gunlearn.connectivity.alignment.same_function import SAME_WITHIN, check_structure, checked_difference, difference
from gunlearn.connectivity.alignment.symmetry import State, balancing_factors, permuted_weights
from gunlearn.connectivity.alignment.tracing import Tracer, layers_of_table
from gunlearn.connectivity.alignment.weight_matching import match_weights
from gunlearn.connectivity.ends_of_paths import with_weights_of
from gunlearn.connectivity.same_architecture import data_differences
from gunlearn.core.checks import check_choice
from gunlearn.errors import UnsupportedModelError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.trial import plain_copy

MATCHINGS = ("weights", "activations", "messages")


@dataclass(frozen=True, eq=False)
class AlignedModel:
    """The second of two models in the coordinates of the first.

    Attributes:
        model: a copy of the second that computes the same, its channels permuted and rescaled to match the first's.
        permutations: by layer, `[num_channels]`: channel `i` of `model` is channel `permutations[layer][i]` of the
            second.
        factors: by layer, `[num_channels]`, what the channels of `model` are multiplied by; empty without rescaling.
        notes: `by`, how channels were matched; `aligned`, channels that moved by layer; `left`, what was not aligned,
            and why; `rescaled` and `not_rescaled` likewise; `difference`, the largest between outputs of `model` and of
            the second, as a share of the largest output.
    """

    model: nn.Module
    permutations: dict[str, Tensor]
    factors: dict[str, Tensor]
    notes: dict[str, Any] = field(default_factory=dict)


def align_models(
    first: nn.Module,
    second: nn.Module,
    by: str = "weights",
    data: Any = None,
    inputs: Any = None,
    call: Callable[[nn.Module, Any], Any] | None = None,
    rescale: bool = True,
) -> AlignedModel:
    """Return a copy of `second` with its hidden channels permuted and rescaled to match those of `first`.

    The order of hidden channels means nothing, nor does a positive factor on a ReLU channel; a straight line between
    two models that differ in both crosses a barrier for no better reason. Channels are followed by running each model
    once: layers by the table (`register_layer`), what stands between them by the functions of tensors that it calls.
    Residual connections share one permutation, heads of attention move as wholes, biases, batch normalisation and
    vectors of attention are carried along. Channels that pass through what is not understood stay as they are, and
    `notes["left"]` says so. The result is always checked: it must compute what `second` computes.

    Args:
        first: a trained model; it is not changed, and neither is `second`.
        second: another one of the same architecture.
        by: `"weights"` (Git Re-Basin, arXiv 2209.04836), `"activations"` (what the next layers read) or `"messages"`
            (what layers return on the data: on a graph the aggregated messages `A h W`; GRAMA, NeurIPS 2024).
        data: a graph, or what `call` reads; all matchings need data or inputs to follow the channels.
        inputs: a tensor, a tuple or a dictionary of arguments, in place of `data`.
        call: `call(model, data)`, for other ways to call the model.
        rescale: remove the scaling of ReLU channels too.

    Raises:
        InvalidInputError: different architectures, lazy or non-finite weights, an unknown `by`, no data.
        InvalidTypeError: no module, or quantised or half-precision weights.
        UnsupportedModelError: a layer that the table does not have, or a model whose copy computes something else.

    Example:
        >>> first, second = (nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2))
        >>> found = align_models(first, second, inputs=torch.randn(10, 3))
        >>> torch.allclose(found.model(torch.ones(1, 3)), second(torch.ones(1, 3)), atol=1e-5)
        True
    """
    check_choice("by", by, MATCHINGS)
    check_pair(first, second, data=False)
    layers_of_table(first)
    run = runner(data, inputs, call)
    one, other = frozen_copy(first), frozen_copy(second)
    before = outputs_of(other, run)
    if found := data_differences(first, second):  # which a pass may have left there, or which decide what it computes
        said = outputs_of(frozen_copy(with_weights_of(first, second)), run)
        if not difference(before, said) <= SAME_WITHIN:
            raise UnsupportedModelError(f"Expected two models of one architecture (got: {'; '.join(found[:3])})")
    structure, beside = traced(one, run), traced(other, run)
    if not _same(structure, beside):
        raise UnsupportedModelError("Expected both models to take the same way through their layers (got two ways)")
    _check_something_free(structure)
    check_structure(structure, other, run)
    orders, factors, left = _matched(structure, beside, (one.state_dict(), other.state_dict()), by, rescale)
    result = plain_copy(second)
    result.load_state_dict(permuted_weights(structure, other.state_dict(), orders, factors))
    notes = {"by": by, **_said(structure, orders, left, rescale)}
    notes["difference"] = checked_difference(difference(before, outputs_of(frozen_copy(result), run)))  # it is not run
    order, scale = structure.spaces.order, structure.spaces.scale
    named = list(enumerate(structure.spaces.names))
    permutations = {name: orders[order.find(s)] for s, name in named if order.find(s) in orders}
    by_layer = {name: factors[scale.find(s)] for s, name in named if scale.find(s) in factors}
    return AlignedModel(result, permutations, by_layer, notes)


def _matched(
    first: ChannelStructure, second: ChannelStructure, states: tuple[State, State], by: str, rescale: bool
) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[int, str]]:
    """Return permutations by space, factors by space, and what was done where the data said nothing."""
    scales = [balancing_factors(first, state) if rescale else {} for state in states]
    one, other = (permuted_weights(first, state, {}, own) for state, own in zip(states, scales, strict=True))
    left: dict[int, str] = {}
    if by == "weights":
        orders = match_weights(first, one, other)
    else:
        orders, left = match_features(first, second, by, (one, other), (scales[0], scales[1]))
    factors = {}
    for root, own in scales[1].items():
        order = orders.get(first.spaces.order.find(root), torch.arange(len(own)))
        factors[root] = own[order] / scales[0][root]
    return orders, factors, left


def traced(model: nn.Module, run: ModelCall) -> ChannelStructure:
    """Return the structure of a copy in evaluation mode."""
    with isolated_rng():
        return Tracer(model, run).trace()


def _same(one: ChannelStructure, other: ChannelStructure) -> bool:
    a, b = one.spaces, other.spaces
    return (a.sizes, a.heads, one.axes, a.order.parent, a.scale.parent) == (
        *(b.sizes, b.heads, other.axes),
        *(b.order.parent, b.scale.parent),
    )


def _check_something_free(structure: ChannelStructure) -> None:
    """Refuse a model with hidden layers none of which can be aligned, and say why."""
    whys = {structure.spaces.order.why(s) for s in range(len(structure.spaces.sizes))} - {"", OUTPUT_CHANNELS}
    if whys and not structure.spaces.free():
        raise UnsupportedModelError(
            f"Expected hidden channels that can be aligned (got none: {'; '.join(sorted(whys))})"
        )


def _said(
    structure: ChannelStructure, orders: dict[int, Tensor], left: dict[int, str], rescale: bool
) -> dict[str, Any]:
    """Return in words, by layer, what was aligned and what not."""
    spaces = structure.spaces
    notes: dict[str, Any] = {"aligned": {}, "left": {}, "rescaled": [], "not_rescaled": {}}
    for s, name in enumerate(spaces.names):
        root, scale = spaces.order.find(s), spaces.scale.find(s)
        if root in orders:
            count = int((orders[root] != torch.arange(len(orders[root]))).sum())
            how = f" ({left[root]})" if root in left else ""
            notes["aligned"][name] = f"{count} of {spaces.sizes[s]} channels moved{how}"
        else:
            notes["left"][name] = spaces.order.why(s) or left.get(root, "a single channel")
        why = spaces.scale.why(scale) or ("" if rescale else "rescale=False")
        if why:
            notes["not_rescaled"][name] = why
        else:
            notes["rescaled"].append(name)
    notes["left"] |= {name: "the model did not call it" for name in structure.unused}
    if not notes["aligned"]:
        notes["why"] = "the model has no hidden channels"
    return notes
