"""Least squares of linear maps: one problem for all that share a weight."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gunlearn.connectivity.alignment.followed_tensors import tensors_of
from gunlearn.errors import DivergenceError
from gunlearn.nn.channels.channel_rules import LinearMap


class WatchedMap(NamedTuple):
    """A linear map and its calls.

    Attributes:
        owner: the module that computes it, whose weights are the average.
        linear: the map.
        calls: the weight of the model, arguments, keyword arguments and output of each call in both models.
    """

    owner: nn.Module
    linear: LinearMap
    calls: list[tuple[float, Any, Any, Tensor]]

    def parameters(self) -> dict[str, Tensor]:
        """Return the weights and the bias that it has, by name."""
        held = dict(self.owner.named_parameters(remove_duplicate=False))
        return {name: held[name] for name in (*self.linear.weights, self.linear.bias) if name in held}


@torch.no_grad()
def solve_jointly(maps: Sequence[WatchedMap], ridge: float) -> None:
    """Set the weights of maps to the solution of all their equations, a weight that several share once.

    Args:
        maps: that share weights, or a single one.
        ridge: weight of the distance to the average, as a share of the mean square of the inputs.

    Raises:
        DivergenceError: the solution is NaN or infinite.
    """
    unknown = {id(value): value for one in maps for value in one.parameters().values()}
    place, begin, start = {}, 0, []
    for key, value in unknown.items():
        rows = value.detach().double().reshape(len(value), -1).t()
        place[key], begin = slice(begin, begin + len(rows)), begin + len(rows)
        start.append(rows)
    first = torch.cat(start)
    gram, right = first.new_zeros(begin, begin), torch.zeros_like(first)
    for one in maps:
        for weight, args, kwargs, out in one.calls:
            y = rows_like(out, out).double()
            x = y.new_zeros(len(y), begin)
            for name, value in one.parameters().items():
                part = _inputs_of(one.owner, one.linear, name, args, kwargs) if name in one.linear.weights else None
                x[:, place[id(value)]] += 1.0 if part is None else rows_like(part, out).double()
            gram += weight * x.t() @ x
            right += weight * x.t() @ (y - x @ first)
    gram.diagonal().add_(ridge * gram.diagonal().mean().clamp(min=1e-300))
    found = first + torch.linalg.solve(gram, right)
    if not torch.isfinite(found).all():
        raise DivergenceError("Expected a finite solution of the merged map (got NaN or infinity)")
    for key, value in unknown.items():
        value.data.copy_(found[place[key]].t().reshape(value.shape))


def _inputs_of(owner: nn.Module, linear: LinearMap, name: str, args: Any, kwargs: Any) -> Tensor:
    """Return what one map multiplies: what the module returns with the identity in place of its weights."""
    module = copy.deepcopy(owner)
    size = owner.get_parameter(name)[0].numel()
    for key in (*linear.weights, linear.bias):
        held = dict(module.named_parameters(remove_duplicate=False)).get(key)
        if held is not None:
            shape = (size, *held.shape[1:])
            new = torch.eye(size).reshape(shape) if key == name else torch.zeros(shape)
            place, _, attribute = key.rpartition(".")
            setattr(module.get_submodule(place), attribute, nn.Parameter(new.to(held), requires_grad=False))
    return next(tensors_of(module(*args, **kwargs)))


def rows_like(value: Tensor, like: Tensor) -> Tensor:
    """Return `[rows, channels]`: images have channels before places, all else has them last."""
    axis = 1 if like.dim() == 4 else -1
    return value.movedim(axis, -1).reshape(-1, value.size(axis))
