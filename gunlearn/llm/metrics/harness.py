"""Tasks of lm-eval, the usual harness for general knowledge, called where it is installed."""

import copy
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from torch import nn

from gunlearn.core.modes import evaluating
from gunlearn.errors import InvalidInputError, MissingExtraError
from gunlearn.seed import isolated_rng


def check_harness(tasks: Sequence[str] = ()) -> None:
    """Refuse tasks that cannot run, before anything is measured: their data are loaded.

    Raises:
        MissingExtraError: lm-eval is not installed.
        InvalidInputError: lm-eval does not know a task, or cannot load its data; the message says what it said.
    """
    if find_spec("lm_eval") is None:
        raise MissingExtraError("Expected lm_eval for --lm-eval (not installed); pip install 'gunlearn[lm-eval]'")
    for task in tasks:
        _load(task)


def harness_figures(model: nn.Module, tokenizer: Any, tasks: Sequence[str], batch_size: int = 16) -> dict[str, float]:
    """Return lm-eval's figures of tasks, `lm_eval_<task>_<metric>`, without their standard errors.

    Where a task reads answers through filters, their names follow (`lm_eval_gsm8k_exact_match_strict-match`).

    The model, its tokenizer and the random state are left as they were.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        tasks: names that lm-eval knows, of tasks or groups of tasks, or paths of YAML files of tasks.
        batch_size: rows at a time.

    Raises:
        MissingExtraError: lm-eval is not installed.
        InvalidInputError: see `check_harness`.
    """
    check_harness(tasks)
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    with isolated_rng(), evaluating(model):
        wrapped = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
        found = lm_eval.simple_evaluate(
            model=wrapped, tasks=list(tasks), task_manager=_tasks(), log_samples=False, bootstrap_iters=0
        )
    out = {}
    for task, values in found["results"].items():
        for figure, value in values.items():
            metric, of_filter, name = figure.partition(",")
            if of_filter and not metric.endswith("_stderr") and isinstance(value, int | float):
                out[f"lm_eval_{task}_{metric}" + ("" if name == "none" else f"_{name}")] = float(value)
    return out


@cache
def _tasks() -> Any:
    """All tasks that lm-eval knows; it takes seconds to find them."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


@cache
def _load(task: str) -> None:
    """Load a task and its data, once."""
    try:
        _tasks().load([task])
    except Exception as error:  # of a file of settings, of code beside it, or of a data set of any kind
        said = " ".join(str(error).split())[:200]
        raise InvalidInputError(
            f"Expected a task of lm-eval, or a YAML file of one (got {task}: {type(error).__name__}: {said})"
        ) from error
