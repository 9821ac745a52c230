"""Methods beside the original model and three retrained ones: a class, confused classes, learned by heart."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

import gunlearn as gu
from experiments.digits_scrub.problem import TASK, A, by_heart, cnn, confused, forgotten_class, train
from experiments.digits_scrub.runs import Row, Run, error, refused, short, unlearned
from experiments.digits_scrub.settings import BY_HEART, CLASS, CONFUSION, PRIVACY, RECIPE
from gunlearn.metrics import evaluator


def compared(part: str, seed: int, smoke: bool) -> Iterator[Run]:
    """Rows of a part that compares methods with the original model and three retrained ones."""
    problem, methods, make, recipe = {
        "class": (forgotten_class, CLASS, cnn, RECIPE),
        "confusion": (confused, CONFUSION, cnn, RECIPE),
        "privacy": (by_heart, PRIVACY, partial(cnn, 32), BY_HEART),
    }[part]
    recipe = short(recipe, smoke)
    data, mask = problem(seed)
    partition = gu.ForgetItems(mask=mask).resolve(data)
    base = train(make, data, seed, **recipe).model
    references = [train(make, partition.retain_data, 100 + 10 * seed + k, **recipe).model for k in range(3)]
    judge = evaluator(TASK, partition, references, seed, ["ic_err", "ic_err_retain", "fgt_err", "mia_acc"])
    others = data.test_mask & (data.y != A) if part == "class" else data.test_mask

    def row(name: str, model: nn.Module, **more: Any) -> Row:
        errors = {"forget": mask, "retain": partition.retain_mask, "test": others, "val": data.val_mask}
        found = {f"{key}_error": error(model, data, rows) for key, rows in errors.items()}
        return {"part": part, "seed": seed, "method": name, **found, **judge.row(model), **more}

    yield "original", lambda: [row("original", base)]
    yield "retrain", lambda: [row("retrain", model) for model in references]
    for name, (method, options) in methods.items():

        def run(name: str = name, method: str = method, options: dict[str, Any] = options) -> list[Row]:
            result = unlearned(base, data, mask, method, short(options, smoke), seed)
            kept = ("direction", "chosen", "salient", "collapsed", "forget_divergence")
            notes = {key: result.notes[key] for key in kept if key in result.notes}
            return [row(name, result.model, seconds=result.seconds, **notes)]

        yield name, lambda run=run, name=name: refused(run, part, seed, name)
