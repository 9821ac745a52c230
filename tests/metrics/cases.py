"""One row per registered figure, and a small problem of each task to compute it on."""

import functools
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import gunlearn as gu
from gunlearn.metrics import TokenScores, evaluator
from tests.tasks.cases import CASES as TASK_CASES


@dataclass(frozen=True)
class FigureCase:
    """What a figure may be.

    Args:
        figure: its name.
        high: the largest value that it can have.
        column: tables have a column of it.
        references: retrained models that it needs.
        low: the smallest value that it can have.
        whole_classes: it is `None` unless all items of a class are forgotten, as in none of these problems.
        too_few: the task whose problem has fewer items than it needs: it is `None` there.
    """

    figure: str
    high: float = 1.0
    column: bool = True
    references: int = 0
    low: float = 0.0
    whole_classes: bool = False
    too_few: str = ""

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
    FigureCase("test_r2", low=-math.inf),
    FigureCase("test_mse", math.inf),
    FigureCase("test_roc_auc"),
    FigureCase("test_f1"),
    FigureCase("retain_acc", column=False),
    FigureCase("forget_acc"),
    FigureCase("nearest_acc", whole_classes=True),
    FigureCase("rest_acc", whole_classes=True),
    FigureCase("mia_auc"),
    FigureCase("mia_acc", too_few="graph_classification"),
    FigureCase("mia_item_auc", references=1),
    FigureCase("ic_err"),
    FigureCase("ic_err_retain"),
    FigureCase("fgt_err", math.inf),
    FigureCase("fgt_err_retain", math.inf),
    FigureCase("relearn_steps", 300),
    FigureCase("js_forget", math.log(2), references=1),
    FigureCase("js_test", math.log(2), references=1),
    FigureCase("js_retain", math.log(2), references=1),
    FigureCase("js_floor_forget", math.log(2), column=False, references=2),
    FigureCase("js_floor_test", math.log(2), column=False, references=2),
    FigureCase("js_floor_retain", math.log(2), column=False, references=2),
    FigureCase("utility_floor", math.inf, column=False, references=2),
    FigureCase("alignment_forget", math.inf, references=1),
    FigureCase("alignment_test", math.inf, references=1),
    FigureCase("alignment_retain", math.inf, references=1),
    FigureCase("alignment_floor_forget", math.inf, column=False, references=2),
    FigureCase("alignment_floor_test", math.inf, column=False, references=2),
    FigureCase("alignment_floor_retain", math.inf, column=False, references=2),
    FigureCase("gain_forget", references=1, low=-math.inf),
    FigureCase("gain_low_forget", references=1, low=-math.inf),
    FigureCase("gain_high_forget", references=1, low=-math.inf),
    FigureCase("gain_test", references=1, low=-math.inf),
    FigureCase("gain_retain", references=1, low=-math.inf),
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
    FigureCase("fluency", math.inf),
    FigureCase("truth_ratio"),
]


@functools.cache
def problem(task: str) -> tuple[gu.Result, list[nn.Module]]:
    """An unlearned model of the task with the record of its run, and two others in place of retrained ones."""
    (case,) = [case for case in TASK_CASES if case.task == task]
    models = case.models(3)
    return gu.unlearn(models[0], case.data(), case.request, "finetune", task, epochs=2), models[1:]


def text_view() -> SimpleNamespace:
    """What a language model says of two rows of six and three tokens."""
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    log_prob = torch.where(mask, torch.tensor([[0.9, 0.8, 0.1, 0.5, 0.6, 0.9]]).log(), 0.0)
    scores = TokenScores(log_prob, mask, (log_prob > math.log(0.4)) & mask, torch.zeros(2, 6), torch.zeros(2, 6))
    likelihood = scores.mean_log_prob.exp()
    return SimpleNamespace(
        scores=scores,
        likelihood=likelihood,
        said=["a b c d", "a a a a"],
        rouge=torch.tensor([0.5, 1.0]),
        truth=0.4,
        in_full=True,
    )


def view_of(task: str, references: int = 2, metrics: Any = ()) -> Any:
    """The view of the unlearned model."""
    if task == "causal_lm":
        return text_view()
    result, others = problem(task)
    made = evaluator(result.task, result.partition, others[:references], metrics=metrics)
    made.original = result.original
    return made.view(result.model, result)
