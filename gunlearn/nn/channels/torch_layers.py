"""Rules of PyTorch's own layers."""

from typing import Any

from torch import nn

from gunlearn.nn.channels.channel_rules import AxesOf, LayerRule, LinearMap, register_layer


def _alone(layer: Any) -> list[LinearMap]:
    return [LinearMap("", ("weight",))]


def _of_conv(layer: Any) -> AxesOf:
    places = (None,) * (layer.weight.dim() - 2)
    return {"weight": ("out", "in", *places), "bias": ("out",)}


def _grouped(layer: Any) -> str:
    return f"it has {layer.groups} groups of channels" if layer.groups > 1 else ""


def _of_norm(layer: Any) -> AxesOf:
    # A factor on the input is taken out again, so `in` has no scale; running statistics are those of the input.
    return {"weight": ("out",), "bias": ("out",), "running_mean": ("in",), "running_var": ("in",)}


def _several_axes(layer: Any) -> str:
    several = len(layer.normalized_shape) > 1
    return f"it normalises over {len(layer.normalized_shape)} axes" if several else ""


register_layer(nn.Linear, LayerRule({"weight": ("out", "in"), "bias": ("out",)}, linear=_alone))
register_layer(nn.Embedding, LayerRule({"weight": (None, "out")}))
for _conv, _ndim in ((nn.Conv1d, 1), (nn.Conv2d, 2), (nn.Conv3d, 3)):
    register_layer(_conv, LayerRule(_of_conv, axis=-1 - _ndim, linear=_alone, refuse=_grouped))
for _batch_norm in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
    register_layer(_batch_norm, LayerRule(_of_norm, axis=1, output="permuted"))
register_layer(nn.LayerNorm, LayerRule(_of_norm, output="permuted", refuse=_several_axes))
