"""Paths between two models in weight space: points, and their weights along the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gunlearn.connectivity.ends_of_paths import path_ends
from gunlearn.connectivity.same_architecture import listed
from gunlearn.core.checks import check_choice, check_integer, check_number
from gunlearn.errors import DivergenceError, GunlearnError, InvalidInputError, UnsupportedModelError
from gunlearn.tasks.trial import plain_copy

_Value = TypeVar("_Value")


class WeightPath(nn.Module):
    r"""A path :math:`\phi(t)` between two models of one architecture, :math:`0 \le t \le 1`.

    .. math:: \phi(t) = \sum_{k=0}^{K-1} w_k(t)\, P_k, \qquad P_0 = \theta_1, \; P_{K-1} = \theta_2

    The points between the ends, the bends, are the parameters of this module: one tensor per bend and parameter of the
    models that may move. Tied weights count once. At `t = 0` and `t = 1` all weights and buffers are those of the
    models, bit for bit. The models themselves do not change.

    Args:
        first: the module at `t = 0`, or a result with it.
        second: that at `t = 1`.
        num_bends: number of points between them.
        start: where bends begin: `"midpoint"`, on the straight line at equal distances, or a module whose weights all
            of them take (the model before unlearning, as Cheng and Amiri do).

    Raises:
        GunlearnError: see `path_ends`; `start` is checked as the ends are.

    Attributes:
        name: short name.
        ends: see `PathEnds`.
        child: turns the model at `t`, between the ends, into the one that stands there (`child(model, t)`); `None`
            leaves it as it is. Curves are trained without it.
    """

    name: ClassVar[str] = ""

    def __init__(self, first: Any, second: Any, num_bends: int = 0, start: str | Any = "midpoint") -> None:
        super().__init__()
        check_integer("num_bends", num_bends, minimum=0)
        self.num_bends, self.ends = num_bends, path_ends(first, second)
        self.child: Callable[[nn.Module, float], nn.Module] | None = None
        one, two = self.ends.weights
        if isinstance(start, str):
            check_choice("start", start, ("midpoint",))
            shares = [k / (num_bends + 1) for k in range(1, num_bends + 1)]
            points = [{n: torch.lerp(one[n], two[n], share) for n in self.moving} for share in shares]
        else:
            try:
                own = path_ends(self.ends.template, start, data=False).weights[1]
            except GunlearnError as error:
                raise type(error)(f"In the model where bends begin (second to the path's own): {error}") from error
            points = [{n: own[n].to(one[n]).clone() for n in self.moving} for _ in range(num_bends)]
        self.bends = nn.ParameterList(nn.Parameter(point[n]) for point in points for n in self.moving)

    @property
    def moving(self) -> tuple[str, ...]:
        """Names of the parameters that bends may move."""
        return self.ends.moving

    @property
    def template(self) -> nn.Module:
        """A module of the path's own, in which its weights are put to compute."""
        return self.ends.template

    def train(self, mode: bool = True) -> WeightPath:
        """Set the mode of the models on the path."""
        super().train(mode)
        if "ends" in vars(self):
            self.ends.template.train(mode)
        return self

    def coefficients(self, t: float) -> list[float]:
        """Return the weight of each point at `t`, the ends' first and last; they add up to 1."""
        raise NotImplementedError

    def point(self, number: int) -> dict[str, Tensor]:
        """Return the weights of a point by name: 0 is the first end, -1 the second."""
        size = self.num_bends + 2
        check_integer("number", number)
        if not -size <= number < size:
            raise InvalidInputError(f"Expected one of the path's {size} points (got number {number})")
        number = int(number) % size
        if number in (0, self.num_bends + 1):
            return self.ends.weights[number > 0]
        each = len(self.moving)
        own = self.bends[(number - 1) * each : number * each]
        return {**self.ends.weights[0], **dict(zip(self.moving, own, strict=True))}

    def bent(self) -> list[tuple[str, nn.Parameter]]:
        """Return all tensors of the bends, with the names of the parameters that they are of."""
        return list(zip(self.moving * self.num_bends, self.bends, strict=True))

    def mixed(self, shares: list[float]) -> dict[str, Tensor]:
        """Return a weighted sum of the points, by name of the parameter, differentiable in the bends."""
        points = [self.point(k) for k in range(self.num_bends + 2)]
        mixed = dict(self.ends.weights[0])
        for name in self.moving:
            mixed[name] = sum(
                (share * point[name] for share, point in zip(shares[1:], points[1:], strict=True)),
                start=shares[0] * points[0][name],
            )
        return mixed

    def weights(self, t: float) -> dict[str, Tensor]:
        """Return the weights at `t` by name: at the ends those of the models, bit for bit."""
        self._check(t)
        return self.ends.weights[int(t)] if t in (0, 1) else self.mixed(self.coefficients(t))

    def call(self, t: float, function: Callable[[nn.Module], _Value]) -> _Value:
        """Return `function(model)` of the model at `t`, differentiable in the bends, at the ends too.

        The module that the function gets is the path's own, and holds these weights inside the call alone. Its buffers
        are whatever the last call left: evaluate batch normalisation with `model_at`.
        """
        self._check(t)
        weights = {f"model.{name}": value for name, value in self.mixed(self.coefficients(t)).items()}
        return functional_call(_Calls(self.template, function), weights, ())

    @torch.no_grad()
    def put(
        self,
        model: nn.Module,
        t: float | dict[str, Tensor],
        anew: Callable[[nn.Module], object] | None = None,
        at_ends: bool = False,
    ) -> nn.Module:
        """Write the weights at `t` (or others, by name) and the buffers into `model`, in place, and return it.

        Args:
            model: of the same architecture, such as a copy of `template`.
            t: where.
            anew: computes the statistics of batch normalisation anew, in place; called between the ends.
            at_ends: call it at the ends, too.

        Raises:
            UnsupportedModelError: batch normalisation between the ends without `anew`: a mean of two statistics is not
                the statistics of the model in between.
            DivergenceError: NaN or infinity among the weights.
        """
        weights = t if isinstance(t, dict) else self.weights(t)
        end = None if isinstance(t, dict) or t not in (0, 1) else int(t)
        only = sorted({name for name, _ in model.named_parameters()} ^ weights.keys())
        if only:
            raise InvalidInputError(
                f"Expected the weights of the path's architecture (got {listed(only)} in one alone)"
            )
        for name, parameter in model.named_parameters():
            if weights[name].shape != parameter.shape:
                raise InvalidInputError(
                    f"Expected the weights of the path's architecture (got {tuple(weights[name].shape)} for '{name}', "
                    f"which has {tuple(parameter.shape)})"
                )
            if not torch.isfinite(weights[name]).all():
                raise DivergenceError(f"Expected finite weights on the path (got NaN or infinity in '{name}')")
            parameter.copy_(weights[name])
        own = self.ends.buffers[end or 0]
        for name, buffer in model.named_buffers():
            buffer.copy_(own[name])
        if self.ends.statistics and (end is None or at_ends):
            if anew is None:
                raise UnsupportedModelError(
                    "Expected data to compute the statistics of batch normalisation anew at every point between the "
                    "ends (got none)"
                )
            anew(model)
        if self.child is not None and end is None and not isinstance(t, dict):
            stands = self.child(model, t)
            if not isinstance(stands, nn.Module) or _shapes(stands) != _shapes(model):
                raise InvalidInputError(
                    f"Expected 'child' to return a model of the path's architecture (got {type(stands).__name__})"
                )
            model.load_state_dict(stands.state_dict())
            if self.ends.statistics and anew is not None:
                anew(model)
        return model

    def model_at(self, t: float | dict[str, Tensor], anew: Callable[[nn.Module], object] | None = None) -> nn.Module:
        """Return a new model with the weights at `t`, in evaluation mode; see `put`."""
        return self.put(plain_copy(self.template), t, anew).eval()

    def mean(self, low: float = 0.0, high: float = 1.0, points: int = 21) -> dict[str, Tensor]:
        """Return the mean of the weights at equally spaced points of `[low, high]`, for `put` and `model_at`."""
        check_integer("points", points, minimum=1)
        for t in (low, high):
            self._check(t)
        ts = [low + (high - low) * k / max(points - 1, 1) for k in range(points)]
        columns = zip(*(self.coefficients(t) for t in ts), strict=True)
        with torch.no_grad():
            return self.mixed([math.fsum(column) / points for column in columns])

    def _check(self, t: Any) -> None:
        check_number("t", t)
        if not 0 <= t <= 1:
            raise InvalidInputError(f"Expected 't' in [0, 1] (got {t!r})")

    def extra_repr(self) -> str:
        return f"{type(self.template).__name__}, bends={self.num_bends}, moving={len(self.moving)} tensors"


class _Calls(nn.Module):
    """Calls a function with its submodule, so that `functional_call` can put weights into it meanwhile."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self) -> Any:
        return self.function(self.model)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}
