"""Set the statistics of an interpolated model's messages to those interpolated between its parents."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.connectivity.alignment.aligned_model import traced
from gunlearn.connectivity.alignment.channel_structure import OUTPUT_CHANNELS, Call, ChannelStructure
from gunlearn.connectivity.alignment.followed_tensors import tensors_of
from gunlearn.connectivity.alignment.model_pair import called, check_pair, frozen_copy, runner
from gunlearn.connectivity.alignment.spaces import Block
from gunlearn.connectivity.alignment.symmetry import factor_of
from gunlearn.connectivity.alignment.tracing import layers_of_table
from gunlearn.core.checks import check_number
from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.trial import plain_copy

Moments = tuple[Tensor, Tensor]


class MessageCalibration:
    r"""Calibrates models between two parents (REPAIR, arXiv 2211.08403; on graphs GRAMA, NeurIPS 2024).

    Channels of an average of two networks vary less than those of either, from layer to layer more so. Each channel
    that a layer returns gets the mean and the standard deviation :math:`(1 - t) s_1 + t s_2` of its parents on the
    data, layer by layer in the order of one run, by a factor on its weights and a shift of its bias. Layers without a
    bias get the factor alone. No label is read.

    Args:
        first: the model at `t = 0`.
        second: the model at `t = 1`, aligned with the first.
        data: see `align_models`.
        inputs: see `align_models`.
        call: see `align_models`.
        outputs: calibrate what the model returns too, not its hidden channels alone.

    Attributes:
        notes: `calibrated`, names of layers; `factor_alone`, those without a bias, whose means stay; `left`, what was
            not calibrated, and why.

    Raises:
        InvalidInputError, InvalidTypeError, UnsupportedModelError: see `align_models`.
    """

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        data: Any = None,
        inputs: Any = None,
        call: Callable[[nn.Module, Any], Any] | None = None,
        outputs: bool = True,
    ) -> None:
        check_pair(first, second)
        layers_of_table(first)
        self._run = runner(data, inputs, call)
        self._parent = first
        self._structure, other = (traced(frozen_copy(model), self._run) for model in (first, second))
        self._moments: dict[str, tuple[Moments, Moments]] = {}
        self.notes: dict[str, Any] = {"calibrated": [], "factor_alone": [], "left": {}}
        for one, two in zip(self._structure.calls, other.calls, strict=True):
            why = self._why_not(one, outputs)
            if why:
                self.notes["left"][one.layer] = why
            elif one.new:
                self._moments[one.layer] = (_moments(one.outputs), _moments(two.outputs))
                held = first.get_submodule(one.layer).state_dict(keep_vars=True)
                shifted = bias_of(self._structure, held, one.layer, one.made[0].space) is not None
                self.notes["calibrated" if shifted else "factor_alone"].append(one.layer)
        _forget_rows(self._structure)

    def __call__(self, child: nn.Module, t: float) -> nn.Module:
        """Return a copy of `child`, the model at `t`, with calibrated channels.

        Raises:
            InvalidInputError: another architecture than the parents', or `t` outside [0, 1].
            DivergenceError: a layer of the child returned NaN or infinity.
        """
        check_number("t", t)
        if not 0 <= t <= 1:
            raise InvalidInputError(f"Expected 't' between 0 and 1 (got {t})")
        check_pair(self._parent, child, settings=False, data=False)  # what it keeps of its last pass differs
        model = plain_copy(child)
        modes = {module: module.training for module in model.modules()}
        handles = [
            model.get_submodule(name).register_forward_hook(self._hook(name, model, t)) for name in self._moments
        ]
        try:
            with torch.no_grad(), isolated_rng():
                called(model.eval(), self._run)
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in modes.items():
                module.training = mode
        return model

    def _why_not(self, call: Call, outputs: bool) -> str:
        names = [c.layer for c in self._structure.calls]
        rule, spaces = self._structure.rules[call.layer], self._structure.spaces
        if names.count(call.layer) > 1:
            return "it is called several times"
        own = [{id(p) for p in self._parent.get_submodule(name).parameters()} for name in (call.layer, *names)]
        if others := [name for name, ids in zip(names, own[1:], strict=True) if name != call.layer and own[0] & ids]:
            return f"'{others[0]}' has the same weights"
        if call.new and not rule.scales(self._parent.get_submodule(call.layer)):
            return "it normalises its channels"
        frozen = any(spaces.order.why(b.space) == OUTPUT_CHANNELS for b in call.made if b.space >= 0)
        return "outputs=False" if call.new and frozen and not outputs else ""

    def _hook(self, name: str, model: nn.Module, t: float) -> Callable[..., Any]:
        done: list[bool] = []

        def calibrate(module: nn.Module, args: Any, out: Any) -> Any:
            if done:
                return None
            done.append(True)
            result = next(tensors_of(out))
            axis = self._structure.rules[name].axis
            rows = result.movedim(axis, -1).reshape(-1, result.size(axis))
            (mean, std), (mean1, std1), (mean2, std2) = _moments(rows), *self._moments[name]
            if not torch.isfinite(mean).all() or not torch.isfinite(std).all():
                raise DivergenceError(f"Expected finite outputs of '{name}' (got NaN or infinity)")
            target = (1 - t) * std1 + t * std2
            factor = torch.where(std > 0, target / std.clamp(min=1e-300), 1.0)
            shift = (1 - t) * mean1 + t * mean2 - factor * mean
            shifted = _rescale(self._structure, module, name, factor, shift)
            shape = [1] * result.dim()
            shape[axis] = -1
            new = result.double() * factor.to(result.device).reshape(shape)
            new = (new + shift.to(result.device).reshape(shape)) if shifted else new
            return new.to(result.dtype) if out is result else None

        return calibrate


def _moments(rows: Tensor) -> Moments:
    rows = rows.detach().double()
    return rows.mean(0).cpu(), rows.std(0, correction=0).cpu()


def _rescale(structure: ChannelStructure, layer: nn.Module, name: str, factor: Tensor, shift: Tensor) -> bool:
    """Multiply a layer's output channels by `factor` and shift them; return whether it has a bias to do so."""
    space = next(call.made[0].space for call in structure.calls if call.layer == name)
    held = layer.state_dict(keep_vars=True)
    for key, value in held.items():
        full = f"{name}.{key}" if name else key
        axes = structure.axes.get(full)
        if axes is None:
            continue
        new = value.detach().double().reshape(structure.views.get(full, value.shape))
        for dim, entry in enumerate(axes):
            if entry is not None and entry[0] == (Block(space),):
                shape = [1] * new.dim()
                shape[dim] = -1
                root = structure.spaces.scale.find(space)
                by = factor_of(entry[0], structure.spaces, {root: factor}) ** entry[1]
                new = new * by.reshape(shape).to(new.device)
        value.data.copy_(new.reshape(value.shape))
    bias = bias_of(structure, held, name, space)
    if bias is not None:
        held[bias].data.add_(shift.to(held[bias]))
    return bias is not None


def bias_of(structure: ChannelStructure, held: dict[str, Any], name: str, space: int) -> str | None:
    """Return the name of the tensor that a layer adds to its output: its own bias, or that of its first map."""
    prefix = f"{name}." if name else ""
    found = [k for k in held if k.endswith("bias") and structure.axes.get(prefix + k) == (((Block(space),), 1),)]
    return min(found, key=lambda key: (key.count("."), found.index(key)), default=None)


def _forget_rows(structure: ChannelStructure) -> None:
    for call in structure.calls:
        call.inputs, call.outputs = None, torch.empty(0)
