"""What outputs hide: how fast forgotten questions are known again."""

from collections.abc import Sequence

from torch import nn

from experiments.tofu_small.problem import Row
from gunlearn.llm.metrics import relearn, shown_rows
from gunlearn.llm.metrics.row_figures import figures

STEPS, EVERY, LR, BATCH = 40, 4, 1e-3, 16
KNOWN = 0.5


def relearned(model: nn.Module, forget: Sequence[Row]) -> dict[str, float | None]:
    """Steps until the forgotten questions are known again, and what a few of them bring back of the others.

    Returns:
        `relearn_steps`: steps of training on all forgotten rows (AdamW, rate 1e-3, 16 rows a step) until their mean
        probability is at least .5, to the next four; `None` where 40 are not enough. `relearn_others`: the mean
        probability of nine tenths of the rows after 20 steps on the other tenth.
    """
    others = set(shown_rows(len(forget))) ^ set(range(len(forget)))

    def known(rows: Sequence[Row], now: nn.Module) -> dict[str, float]:
        return {"prob": figures(now, {"forget": rows}, batch_size=40)["forget"]["prob"]}

    few = relearn(model, forget, lambda now: known([forget[i] for i in sorted(others)], now), 0.1, 20, LR, BATCH, 20)
    whole = relearn(model, forget, lambda now: known(forget, now), 1.0, STEPS, LR, BATCH, EVERY)
    steps = next((int(at["step"]) for at in whole if at["prob"] >= KNOWN), None)
    return {"relearn_steps": steps, "relearn_others": few[-1]["prob"]}
