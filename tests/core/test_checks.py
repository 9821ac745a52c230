"""Arguments of the doors that are refused in words before work starts."""

from pathlib import Path
from typing import Any

import pytest
import torch

import gunlearn as gu
from gunlearn.errors import InvalidRequestError, InvalidTypeError

NODES, REQUEST = "node_classification", gu.ForgetNodes(count=2)


def problem() -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(0)
    graph = gu.load("karate")
    return gu.GCN(graph.num_features, 8, 4), graph


def evaluated(model: Any, graph: Any, seed: int) -> Any:
    result = gu.unlearn(model, graph, REQUEST, "utu", NODES)
    return gu.evaluate(result, seed=seed)


#: What takes a seed.
SEEDED = {
    "unlearn": lambda model, graph, seed: gu.unlearn(model, graph, REQUEST, "utu", NODES, seed=seed),
    "train": lambda model, graph, seed: gu.train(model, graph, NODES, epochs=1, seed=seed),
    "influence": lambda model, graph, seed: gu.influence(model, graph, NODES, estimator="degree", seed=seed),
    "evaluate": evaluated,
    "link_split": lambda model, graph, seed: gu.link_split(graph, 0.1, 0.1, seed=seed),
    "node_split": lambda model, graph, seed: gu.node_split(graph, seed=seed),
    "ForgetNodes": lambda model, graph, seed: gu.ForgetNodes(count=2, seed=seed).resolve(graph),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("door", SEEDED)
def test_a_seed_has_64_bits(door: str) -> None:
    """The largest seed and the smallest one are the controls."""
    model, graph = problem()
    for seed in (2**63 - 1, -(2**63)):
        SEEDED[door](model, graph, seed)
    for seed in (2**63, 2**70, -(2**63) - 1):
        with pytest.raises(InvalidRequestError, match=rf"Expected 'seed' .*64 bits.*\(got {seed}\)"):
            SEEDED[door](model, graph, seed)


@pytest.mark.parametrize("method", ["utu", "finetune"])
def test_a_checkpoint_folder_is_a_path(method: str, tmp_path: Path) -> None:
    model, graph = problem()
    for folder in (5, ["a"]):
        with pytest.raises(InvalidTypeError, match=r"Expected 'checkpoint_dir' to be the path of a folder or None \(g"):
            gu.unlearn(model, graph, REQUEST, method, NODES, checkpoint_dir=folder)
        with pytest.raises(InvalidTypeError, match="Expected 'checkpoint_dir'"):
            gu.train(model, graph, NODES, epochs=1, checkpoint_dir=folder)
    gu.train(model, graph, NODES, epochs=1, checkpoint_dir=tmp_path)
