"""The problems to measure: the official protocol on named data sets, power-law graphs of any size."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data

from experiments.speed.bound import Sizes
from experiments.speed.plain import PlainGCN
from experiments.speed.synthetic import power_law_graph
from gunlearn.datasets import load
from gunlearn.nn import GCN
from gunlearn.requests import ForgetEdges
from gunlearn.seed import isolated_rng
from gunlearn.tasks import link_split

SEED = 42
FORGET_SHARE = 0.001


def official(
    dataset: str, root: str | None, ratio: float, device: str = "cpu", sparse: bool = False
) -> tuple[Data, ForgetEdges]:
    """Split and request of the official INPO code; bag-of-words features sparse, as the command line reads them."""
    data = link_split(load(dataset, root, sparse=sparse), seed=SEED, protocol="inpo").to(device)
    return data, ForgetEdges(ratio=ratio, seed=SEED, protocol="inpo")


def synthetic(edges: int, features: int, device: str = "cpu") -> tuple[Data, ForgetEdges]:
    """A power-law graph of which a thousandth of the edges is forgotten."""
    data = power_law_graph(edges, features, seed=SEED).to(device)
    return data, ForgetEdges(count=max(1, round(FORGET_SHARE * edges)), seed=SEED)


def cold(data: Data, request: ForgetEdges) -> Any:
    """A partition of a copy of the data: nothing that an earlier run remembered of its tensors can help."""
    return request.resolve(data.clone())


def new_model(features: int, hidden: int, device: str = "cpu") -> GCN:
    with isolated_rng(SEED):
        return GCN(features, hidden, 64).to(device)


def as_plain(model: nn.Module) -> PlainGCN:
    """The same weights in the plain model."""
    first, last = (model.convs[k].lin for k in (0, -1))
    plain = PlainGCN(first.in_features, first.out_features, last.out_features).to(first.weight)
    plain.load_state_dict(model.state_dict())
    return plain


def sizes(partition: Any, hidden: int, out: int = 64) -> dict[str, int]:
    """What `bound.Sizes` takes."""
    data, kept = partition.data, partition.retain_data
    x = data.x
    entries = x.values().numel() if x.layout == torch.sparse_csr else int(x.count_nonzero())
    return asdict(
        Sizes(
            nodes=data.num_nodes,
            features=x.size(1),
            feature_entries=entries,
            hidden=hidden,
            out=out,
            full_entries=data.edge_index.size(1) + data.num_nodes,
            retain_entries=kept.edge_index.size(1) + data.num_nodes,
            forget=partition.num_forget,
            retain=partition.num_retain,
        )
    )


def absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())
