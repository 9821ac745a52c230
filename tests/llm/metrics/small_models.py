"""An original, an unlearned and two retrained models in seconds: none is good, all differ."""

from functools import cache
from pathlib import Path

import torch
from torch import nn

from gunlearn.llm import CausalLM, PartCollator
from gunlearn.llm.metrics import EvalSettings, EvaluationLog, evaluate_one
from gunlearn.metrics import Sampler
from tests.llm import facts

SAMPLER = Sampler(n_samples=3)
SETTINGS = EvalSettings(sampler=SAMPLER, max_new_tokens=10, kept=1000, relearn_steps=0, quantise=())


SETS = {
    "forget": facts.with_answers(range(3), 3),
    "retain": facts.with_answers(range(4, 7), 3),
    "holdout": facts.rows(range(20, 22)),
}
PROMPTED = {name: SETS[name] for name in ("forget", "retain")}


@cache
def models() -> dict[str, nn.Module]:
    """Models by name; the unlearned one lies between the original and new weights."""
    both, fresh = SETS["forget"] + SETS["retain"], facts.fresh(3)
    out = {"original": trained(both, 0), "r0": trained(SETS["retain"], 1), "r1": trained(SETS["retain"], 2)}
    with torch.no_grad():
        for p, q in zip(fresh.parameters(), out["original"].parameters(), strict=True):
            p.mul_(0.2).add_(q, alpha=0.8)
    return out | {"unlearned": fresh}


def trained(data: list[dict], seed: int, steps: int = 50) -> nn.Module:
    """A new model that has seen the rows for a few steps."""
    model, collate, task = facts.fresh(seed), PartCollator(), CausalLM(("log_prob",))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(steps):
        index = torch.randperm(len(data), generator=torch.Generator().manual_seed(step))[:9].tolist()
        p = task.decode(model, None, collate([data[i] for i in index]))
        (-p.log_prob.sum() / p.mask.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def log_of(folder: Path, name: str, references: tuple[str, ...] = (), **more) -> EvaluationLog:
    """The log of a model (of that name, or of `model`), in a file of its name."""
    model = models()[more.pop("model", name)]
    paths = [folder / f"{other}.json" for other in references]
    how = {"sets": SETS, "settings": SETTINGS, "out": folder / f"{name}.json", "name": name, "references": paths} | more
    return evaluate_one(model, facts.tokenizer(), **how)
