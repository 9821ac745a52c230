"""The models that `between.py` compares: original, retrained, and unlearned in several ways."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix, diags, identity
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from torch import nn
from torch_geometric.utils import homophily

import gunlearn as gu
from experiments.digits_scrub.problem import TASK, cnn, forgotten_class
from experiments.digits_scrub.settings import SCRUB
from gunlearn.errors import GunlearnError
from gunlearn.losses import NLL, NPO
from gunlearn.nn import backbone
from gunlearn.seed import isolated_rng
from gunlearn.training import with_curriculum


@dataclass
class Case:
    """A problem and its models.

    Attributes:
        data: what the original was trained on.
        request: what is forgotten.
        partition: the same, resolved.
        task: what the models predict.
        seed: of everything.
        train: trains a model on data, under a seed.
        training: what it returned of the original.
        base: the original model.
        references: models retrained from other initial weights.
        models: by name; `retrain` is the first reference, `same start` one from the original's initial weights.
        mapped: names of the models between all of which lines are drawn.
        refused: methods that refused the problem, with the reason.
        curve: settings of curves.
    """

    data: Any
    request: Any
    partition: Any
    task: Any
    seed: int
    train: Callable[[Any, int], gu.Result]
    training: gu.Result
    base: nn.Module
    references: list[nn.Module]
    models: dict[str, nn.Module]
    mapped: list[str]
    refused: dict[str, str]
    curve: dict[str, Any]


def unlearned(
    base: gu.Result, data: Any, request: Any, task: Any, seed: int, methods: dict[str, dict[str, Any]]
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Run methods, named `method` or `method, seed 1`; objectives stand under `objective` of their options."""
    models, refused = {}, {}
    for name, options in methods.items():
        method, _, other = name.partition(", seed ")
        options = dict(options)
        method = options.pop("objective", method)
        try:
            of = gu.unlearn(base.model, data, request, method, task, seed=seed + 50 * int(other or 0), **options)
            models[name] = of.model
        except GunlearnError as error:
            refused[name] = str(error)
    return models, refused


def conditions(steps: int, lr: float, lr_sophia: float) -> dict[str, dict[str, Any]]:
    """One objective plainly, with a curriculum and by SophiaG."""
    objective = NPO(beta=5) + NLL(on="retain")
    settings = {"objective": objective, "epochs": steps, "lr": lr}
    return {
        "plain": settings,
        "curriculum": {**settings, "objective": with_curriculum(objective, strength=10.0)},
        "sophia_g": {**settings, "optimizer": "sophia_g", "lr": lr_sophia},
    }


def case_of(
    train: Callable[[Any, int], gu.Result],
    data: Any,
    request: Any,
    task: Any,
    seed: int,
    methods: dict[str, dict[str, Any]],
    curve: dict[str, Any],
) -> Case:
    """Train the original and four retrained models, and unlearn."""
    base, partition = train(data, seed), request.resolve(data)
    same, *others = (train(partition.retain_data, s).model for s in (seed, *(100 + seed + k for k in range(3))))
    methods = {"continued_training": {"training": base}, **methods}
    models, refused = unlearned(base, data, request, task, seed, methods)
    names = [name for name in methods if ", seed" not in name and name not in ("gnndelete", "plain", *_CHANGED)]
    return Case(
        data=data,
        request=request,
        partition=partition,
        task=task,
        seed=seed,
        train=train,
        training=base,
        base=base.model,
        references=others,
        models={"original": base.model, **models, "same start": same, "retrain": others[0]},
        mapped=["original", *(name for name in names if name in models), "same start", "retrain"],
        refused=refused,
        curve=curve,
    )


_CHANGED = ("curriculum", "sophia_g")


def nodes(graph: str, kind: str, seed: int, root: Path | None, smoke: bool, device: torch.device) -> Case:
    """A class of the training nodes; two layers of 64 hidden units with dropout, trained for 200 steps."""
    data = gu.node_split(gu.load("digits" if smoke else graph, root), seed=seed).to(device)
    epochs, few = (20, {"epochs": 3}) if smoke else (200, {})

    def train(on: Any, at: int) -> gu.Result:
        with isolated_rng(at):
            model = backbone(kind, data.num_features, 64, int(data.y.max()) + 1, dropout=0.5).to(device)
        return gu.train(
            model, on, "node_classification", epochs=epochs, lr=1e-2, weight_decay=5e-4, eval_every=1000, seed=at
        )

    methods = {name: few for name in ("npo", "npo, seed 1", "scrub", "scrub, seed 1", "graddiff")}
    methods |= {"gif": {}, "gnndelete": few, "gnndelete, seed 1": few, **conditions(3 if smoke else 50, 1e-3, 1e-4)}
    request = gu.ForgetNodes((data.train_mask & (data.y == 3)).nonzero().view(-1))
    return case_of(train, data, request, gu.NodeClassification(), seed, methods, {"lr": 1e-2})


def links(graph: str, kind: str, seed: int, root: Path | None, smoke: bool, device: torch.device) -> Case:
    """2.5 % of the edges of a link predictor of two layers, trained for 400 steps."""
    data = gu.link_split(gu.load("karate" if smoke else graph, root), seed=seed).to(device)
    epochs, few = (20, {"epochs": 3}) if smoke else (400, {"epochs": 50})

    def train(on: Any, at: int) -> gu.Result:
        with isolated_rng(at):
            model = backbone(kind, data.num_features, 64, 32).to(device)
        return gu.train(model, on, "link_prediction", epochs=epochs, lr=5e-3, eval_every=1000, seed=at)

    methods = {name: few for name in ("inpo", "npo", "npo, seed 1", "scrub", "scrub, seed 1", "graddiff")}
    methods |= {"gif": {}, "gnndelete": few, "gnndelete, seed 1": few, **conditions(3 if smoke else 50, 1e-3, 1e-4)}
    request = gu.ForgetEdges(ratio=0.025, seed=seed)
    return case_of(train, data, request, gu.LinkPrediction(), seed, methods, {"lr": 5e-3})


def digits(graph: str, kind: str, seed: int, root: Path | None, smoke: bool, device: torch.device) -> Case:
    """A class of handwritten digits; three convolutions, on the CPU."""
    data, mask = forgotten_class(seed)
    epochs, few = (2, {"epochs": 2}) if smoke else (12, {})

    def train(on: Any, at: int) -> gu.Result:
        with isolated_rng(at):
            model = cnn(8)
        return gu.train(model, on, TASK, epochs=epochs, lr=3e-3, batch_size=64, seed=at)

    scrub = {**SCRUB, "epochs": 4 if smoke else 20, "temperature": 1.0, "forget_batch_size": 32}
    methods = {name: scrub if "scrub" in name else few for name in ("npo", "npo, seed 1", "scrub", "scrub, seed 1")}
    methods |= {"graddiff": few, **{name: {**of, "batch_size": 64} for name, of in conditions(3, 1e-3, 1e-4).items()}}
    return case_of(train, data, gu.ForgetItems(mask=mask), TASK, seed, methods, {"lr": 5e-3, "batch_size": 64})


PROBLEMS = {"nodes": nodes, "links": links, "digits": digits}


def separability(x: torch.Tensor, y: torch.Tensor) -> float:
    """Balanced accuracy of logistic regression on features alone, each divided by its largest value, in five folds."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    features, labels = csr_matrix(x.cpu().numpy()), y.cpu().numpy()
    model = make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=200))
    return float(cross_val_score(model, features, labels, cv=folds, scoring="balanced_accuracy").mean())


def graph_figures(data: Any) -> dict[str, float]:
    """Homophily of edges, density, the spectral gap of the largest component with self-loops, and separability.

    Classes are as separable by features as a linear classifier that sees no edge tells them apart on nodes that it was
    not fitted to: its balanced accuracy in five folds.
    """
    edge_index, size = data.edge_index, data.num_nodes
    rows, cols = edge_index.cpu().numpy()
    adjacency = coo_matrix((np.ones(len(rows)), (rows, cols)), (size, size)).tocsr()
    adjacency = ((adjacency + adjacency.T) > 0).astype(float)
    parts = connected_components(adjacency)[1]
    inside = np.flatnonzero(parts == np.bincount(parts).argmax())
    own = adjacency[inside][:, inside] + identity(len(inside))
    scale = diags(1 / np.sqrt(np.asarray(own.sum(1)).ravel()))
    largest = eigsh(scale @ own @ scale, k=2, which="LA", return_eigenvectors=False, v0=np.ones(len(inside)), tol=1e-6)
    return {
        "homophily": float(homophily(edge_index, data.y, method="edge")),
        "spectral_gap": float(abs(np.diff(np.sort(largest))[0])),
        "density": edge_index.size(1) / (size * (size - 1)),
        "mean_degree": edge_index.size(1) / size,
        "largest_component": len(inside) / size,
        "separability": separability(data.x, data.y),
    }
