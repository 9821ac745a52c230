"""Tasks of lm-eval, the usual harness for general knowledge, called where it is installed."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError, MissingExtraError


def check_harness() -> None:
    """Raise `MissingExtraError` where lm-eval is not installed."""
    if find_spec("lm_eval") is None:
        raise MissingExtraError("Expected lm_eval for --lm-eval (not installed); pip install lm_eval")


def harness_figures(model: nn.Module, tokenizer: Any, tasks: Sequence[str], batch_size: int = 16) -> dict[str, float]:
    """Return lm-eval's figures of tasks, `lm_eval_<task>_<metric>`, without their standard errors.

    Raises:
        MissingExtraError: lm-eval is not installed.
        InvalidInputError: lm-eval refuses a task, or cannot load its data; the message says what it said.
    """
    check_harness()
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    try:
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        found = lm_eval.simple_evaluate(model=wrapped, tasks=list(tasks))
    except (KeyError, ValueError, OSError) as error:
        raise InvalidInputError(
            f"Expected tasks of lm-eval (got {', '.join(tasks)}: {type(error).__name__}: {str(error)[:200]})"
        ) from error
    out = {}
    for task, values in found["results"].items():
        for metric, value in values.items():
            name = metric.partition(",")[0]
            if isinstance(value, int | float) and not isinstance(value, bool) and not name.endswith("_stderr"):
                out[f"lm_eval_{task}_{name}"] = float(value)
    return out
