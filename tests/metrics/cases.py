"""One row per registered figure, and a small problem of each task to compute it on."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.metrics import TokenScores, evaluator
from tests.tasks.test_graph_classification import Pooled, ego_graphs


@dataclass(frozen=True)
class FigureCase:
    """What a figure may be.

    Args:
        figure: its name.
        high: the largest value that it can have; the smallest is 0.
        column: tables have a column of it.
        references: retrained models that it needs.
    """

    figure: str
    high: float = 1.0
    column: bool = True
    references: int = 0

    def __str__(self) -> str:
        return self.figure


CASES = [
    FigureCase("retain_auc"),
    FigureCase("retain_ap", column=False),
    FigureCase("forget_auc"),
    FigureCase("forget_ap", column=False),
    FigureCase("forget_prob", column=False),
    FigureCase("retain_prob", column=False),
    FigureCase("test_acc"),
    FigureCase("retain_acc", column=False),
    FigureCase("forget_acc"),
    FigureCase("mia_auc"),
    FigureCase("js_forget", math.log(2), references=1),
    FigureCase("js_test", math.log(2), references=1),
    FigureCase("js_retain", math.log(2), references=1),
    FigureCase("js_floor_forget", math.log(2), column=False, references=2),
    FigureCase("js_floor_test", math.log(2), column=False, references=2),
    FigureCase("js_floor_retain", math.log(2), column=False, references=2),
    FigureCase("seconds", math.inf),
    FigureCase("seconds_per_epoch", math.inf, column=False),
    FigureCase("epochs", math.inf, column=False),
    FigureCase("peak_memory_mb", math.inf),
    FigureCase("prob"),
    FigureCase("nll", math.inf),
    FigureCase("exact_memorization"),
    FigureCase("extraction_strength"),
    FigureCase("drma", 6.0),
    FigureCase("drma_per_token"),
    FigureCase("rougeL"),
    FigureCase("truth_ratio"),
]


def _models(build: Any) -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [build() for _ in range(3)]


@functools.cache
def problem(task: str) -> tuple[gu.Result, list[nn.Module]]:
    """An unlearned model of the task with the record of its run, and two others in place of retrained ones."""
    karate = gu.load("karate")
    if task == "link_prediction":
        data, request = gu.link_split(karate, 0.1, 0.1), gu.ForgetEdges(count=5)
        models = _models(lambda: gu.GCN(data.num_features, 8, 4))
    elif task == "node_classification":
        data, request = gu.node_split(karate, 0.2, 0.3, seed=0), gu.ForgetNodes(count=5, seed=2)
        models = _models(lambda: gu.GCN(data.num_features, 8, 4))
    elif task == "graph_classification":
        data, request = ego_graphs(), gu.ForgetGraphs(count=4, seed=1)
        models = _models(Pooled)
    else:
        data, request = Data(x=torch.arange(160.0).view(40, 4).sin(), y=torch.arange(40) % 2), gu.ForgetItems(count=8)
        data.test_mask = torch.arange(40) >= 28
        models = _models(lambda: nn.Linear(4, 2))
    return gu.unlearn(models[0], data, request, "finetune", task, epochs=2), models[1:]


def text_view() -> SimpleNamespace:
    """What a language model says of two rows of six and three tokens."""
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    log_prob = torch.where(mask, torch.tensor([[0.9, 0.8, 0.1, 0.5, 0.6, 0.9]]).log(), 0.0)
    scores = TokenScores(log_prob, mask, (log_prob > math.log(0.4)) & mask, torch.zeros(2, 6), torch.zeros(2, 6))
    likelihood = scores.mean_log_prob.exp()
    return SimpleNamespace(
        scores=scores, likelihood=likelihood, rouge=torch.tensor([0.5, 1.0]), truth=0.4, in_full=True
    )


def view_of(task: str, references: int = 2, metrics: Any = ()) -> Any:
    """The view of the unlearned model."""
    if task == "causal_lm":
        return text_view()
    result, others = problem(task)
    return evaluator(result.task, result.partition, others[:references], metrics=metrics).view(result.model, result)
