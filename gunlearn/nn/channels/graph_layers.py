"""Rules of PyG's layers and of this package's; loaded where PyG is."""

from collections.abc import Callable
from typing import Any

from torch_geometric import nn as pyg

from gunlearn.nn.channels.channel_rules import Axes, AxesOf, LayerRule, LinearMap, register_layer
from gunlearn.nn.layers.influence_conv import InfluenceAwareConv

#: Aggregations that treat channels alone and alike, and pass on positive factors.
CHANNELWISE = ("SumAggregation", "MeanAggregation", "MaxAggregation", "MinAggregation")
_LINEAR: AxesOf = {"weight": ("out", "in"), "bias": ("out",)}


def _lins(*names: str) -> AxesOf:
    return {
        **{f"{name}.weight": ("out", "in") for name in names},
        **{f"{name}.bias": ("out",) for name in names},
        "bias": ("out",),
    }


def _hops(layer: Any) -> AxesOf:
    return _lins(*(f"lins.{k}" for k in range(len(layer.lins))))


def _maps(*names: str, bias: str = "bias") -> Callable[[Any], list[LinearMap]]:
    def of(layer: Any) -> list[LinearMap]:
        held = [f"{name}.weight" for name in names if getattr(layer, name, None) is not None]
        return [LinearMap("", tuple(held), bias)]

    return of


def _aggregation(layer: Any) -> str:
    kind = type(layer.aggr_module).__name__
    return "" if kind in CHANNELWISE else f"its aggregation is {kind}; known are {', '.join(CHANNELWISE)}"


def _of_sage(layer: Any) -> str:
    return "it maps its input first (project=True)" if layer.project else _aggregation(layer)


def _of_gat(layer: Any) -> AxesOf:
    """Channels of each head stay together; where heads are averaged, their channels move alike and heads freely."""
    heads, size = layer.heads, layer.out_channels
    maps = [f"{name}.weight" for name in ("lin", "lin_src", "lin_dst", "lin_l", "lin_r")]
    out: dict[str, Axes | tuple[str | None, ...]] = {"bias": ("out",), "res.weight": ("out", "in")}
    if layer.concat:
        out |= {name: ("out", "in") for name in maps} | {"lin_edge.weight": ("out", None)}
        out |= {f"{name}.bias": ("out",) for name in ("lin_l", "lin_r")}
        out |= {name: Axes(("-out",), (heads * size,)) for name in ("att", "att_src", "att_dst", "att_edge")}
        return out
    out |= {name: Axes(("heads", "out", "in"), (heads, size, -1)) for name in maps}
    out["lin_edge.weight"] = Axes(("heads", "out", None), (heads, size, -1))
    out |= {f"{name}.bias": Axes(("heads", "out"), (heads, size)) for name in ("lin_l", "lin_r")}
    out |= {name: Axes(("heads", "-out"), (heads, size)) for name in ("att", "att_src", "att_dst", "att_edge")}
    return out


def _heads(layer: Any) -> int:
    return int(layer.heads) if layer.concat else 1


def _gat_maps(layer: Any) -> list[LinearMap]:
    held = [name for name in ("lin", "lin_src", "lin_dst", "lin_l", "lin_r") if getattr(layer, name, None) is not None]
    return [LinearMap(name, ("weight",)) for name in held]


def _of_gcn2(layer: Any) -> AxesOf:
    return {"weight1": ("in", "out"), "weight2": ("in", "out")}


register_layer(pyg.Linear, LayerRule(_LINEAR, linear=lambda layer: [LinearMap("", ("weight",))]))
register_layer(InfluenceAwareConv, LayerRule(_lins("lin"), linear=_maps("lin"), refuse=_aggregation))
register_layer(pyg.GCNConv, LayerRule(_lins("lin"), linear=_maps("lin"), refuse=_aggregation))
register_layer(pyg.SGConv, LayerRule(_lins("lin"), linear=_maps("lin", bias="lin.bias"), refuse=_aggregation))
register_layer(pyg.TAGConv, LayerRule(_hops, refuse=_aggregation))
register_layer(
    pyg.SAGEConv,
    LayerRule(
        _lins("lin_l", "lin_r"),
        linear=_maps("lin_l", "lin_r", bias="lin_l.bias"),
        scales=lambda layer: not layer.normalize,
        refuse=_of_sage,
    ),
)
register_layer(
    pyg.GraphConv,
    LayerRule(
        _lins("lin_rel", "lin_root"), linear=_maps("lin_rel", "lin_root", bias="lin_rel.bias"), refuse=_aggregation
    ),
)
register_layer(pyg.GINConv, LayerRule({}, inner="nn", refuse=_aggregation))
for _gat in (pyg.GATConv, pyg.GATv2Conv):
    register_layer(_gat, LayerRule(_of_gat, heads=_heads, linear=_gat_maps, refuse=_aggregation))
register_layer(pyg.APPNP, LayerRule({}, output="same", refuse=_aggregation))
register_layer(pyg.GCN2Conv, LayerRule(_of_gcn2, output="same", refuse=_aggregation))
register_layer(pyg.LayerNorm, LayerRule({"weight": ("out",), "bias": ("out",)}, output="permuted"))
