"""The forget sets and the variants of INPO that are compared on them."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.attribution import ESTIMATORS
from gunlearn.methods import Result
from gunlearn.requests import ForgetEdges, Partition

#: Share of the edges of highest and of lowest influence that such forget sets are drawn from.
TENTH = 0.1
#: Share of the edges to forget.
RATIO = {"Cora": 0.025, "DBLP": 0.005, "CS": 0.005, "karate": 0.1}
FORGET_SETS = ("high", "low", "random")
#: Score, and how it is used. Scores named in `SCORED` are computed once per base model, on its whole training graph.
CASES: dict[str, dict[str, Any]] = {
    "none": {"influence": "none"},
    "constant": {"influence": "constant"},
    "random": {"influence": "random"},
    "nora": {},
    "nora flipped": {"flip_influence": True},
    "degree": {"influence": "degree"},
    "first_order": {"influence": "first_order"},
    "local": {"influence": "local"},
    "exact": {"influence": "exact"},
    "exact flipped": {"influence": "exact", "flip_influence": True},
    "exact min-max": {"influence": "exact", "damping": "min_max"},
}
PAPER_CASES = ("none", "constant", "random", "nora", "nora flipped", "exact", "exact flipped")
SCORED = ("first_order", "local", "exact")


class Scores:
    """Influence of every edge on a base model, by estimator; kept on disk, since some take minutes.

    Args:
        directory: where they are kept.
        truth: the estimator that stands for `"exact"`.
    """

    def __init__(self, directory: Path, truth: str) -> None:
        self.directory, self.truth = directory, truth

    def of(self, name: str, base: Result, data: Data, key: str) -> tuple[Tensor, float]:
        """Scores of the columns of `data.edge_index`, and the seconds they took."""
        estimator = self.truth if name == "exact" else name
        path = self.directory / f"{key}-{name}.pt"
        if not path.is_file():
            start = time.perf_counter()
            scores = gu.influence(base.model, data, of="edges", estimator=estimator)
            kept = {"scores": scores, "seconds": time.perf_counter() - start}
            self.directory.mkdir(parents=True, exist_ok=True)
            torch.save(kept, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        kept = torch.load(path, weights_only=True)
        return kept["scores"], kept["seconds"]


def available(names: tuple[str, ...]) -> list[str]:
    """Cases whose estimator is registered."""
    known = {*ESTIMATORS, "none", "constant", "exact"}
    return [name for name in names if CASES[name].get("influence", "nora") in known]


def forget_set(name: str, data: Data, exact: Tensor, ratio: float, seed: int) -> Partition:
    """Edges drawn at random, from all of them or from the tenth of highest or lowest influence."""
    if name == "random":
        return ForgetEdges(ratio=ratio, seed=seed).resolve(data)
    once = (data.edge_index[0] < data.edge_index[1]).nonzero().view(-1)
    order = once[exact[once].argsort(descending=name == "high", stable=True)]
    candidates = order[: max(int(TENTH * order.numel()), int(ratio * order.numel()) + 1)]
    drawn = torch.randperm(candidates.numel(), generator=torch.Generator().manual_seed(seed))
    return ForgetEdges(edge_ids=candidates[drawn[: int(ratio * order.numel())]]).resolve(data)
