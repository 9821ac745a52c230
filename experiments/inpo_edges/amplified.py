"""Messages as the paper's abstract describes them: forgotten edges are read and amplified, retained ones damped.

INPO's default mode reads the retained graph, so no message of a forgotten edge is left to amplify, and its scales damp
what forgotten and retained edges read alike. `Amplified` reads the whole graph while it unlearns.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.common import markdown
from experiments.inpo_edges.controls import interval, spread
from gunlearn.attribution import estimate
from gunlearn.attribution.removal.nora import min_max, nora
from gunlearn.bench import ModelStore, Recipe, RowStore
from gunlearn.datasets import load
from gunlearn.methods import INPO, GradientMethod, Problem, UtU, run_method
from gunlearn.methods.gradient import freeze
from gunlearn.methods.graph.message_damping import damped, pair_scores
from gunlearn.metrics import LinkEvaluator
from gunlearn.nn.layers.influence_conv import MessageScale, influence_scale
from gunlearn.requests import ForgetEdges
from gunlearn.tasks import LinkPrediction, link_split

PARTS = ("forget", "test", "retain")
PLAIN = "no scaling, retained graph"


@dataclass(frozen=True)
class Amplified(INPO):
    """INPO with messages over the whole graph: those of forgotten edges times `amplify`, of retained ones damped.

    Retained edges get INPO's own scales in the order of their exact removal influence: the more an edge moves the
    outputs, the smaller its scale. Nothing is scaled in evaluation, nor where the stop rule looks.
    """

    message_graph: str = "full"
    influence: Any = "exact"
    amplify: float = 2.0

    name = "inpo_amplified"

    def surroundings(self, problem: Problem) -> Callable[[nn.Module], AbstractContextManager]:
        data, forgotten = problem.partition.data, problem.partition.forget_mask
        index = data.edge_index
        own = influence_scale(min_max(nora(problem.reference, data, task=problem.task)).detach(), index)
        score = pair_scores(problem, data, self.influence, index)
        scale = torch.full_like(own, self.amplify)
        scale[~forgotten] = damped(score[~forgotten], own[~forgotten], index[:, ~forgotten], self.damping)
        return lambda model: MessageScale(model, index, scale)


def cases(exact: Tensor) -> dict[str, GradientMethod]:
    """Row of the table -> method, all with the same stop rule; `exact` are removal influences of all edges."""
    whole = {"until": "unseen", "influence": exact}
    return {
        PLAIN: INPO(until="unseen", scale_messages=False),
        "INPO's scaling, retained graph": INPO(until="unseen"),
        "no scaling, whole graph": INPO(until="unseen", scale_messages=False, message_graph="full"),
        "retained damped by exact influence, whole graph": Amplified(**whole, amplify=1.0),
        "the same, forgotten times 2": Amplified(**whole),
        "the same, forgotten times 4": Amplified(**whole, amplify=4.0),
    }


def first_step(method: GradientMethod, problem: Problem) -> tuple[float, float]:
    """Return the norm of the forgotten edges' gradient over that of the retained ones', and their cosine.

    Gradients are those of the mean log-likelihood of each part's edges at the trained weights, under the method's
    messages. NPO's gradient at the first step is that of the forgotten edges.
    """
    model, partition, task = copy.deepcopy(problem.model), problem.partition, problem.task
    data = partition.data if method.message_graph == "full" else partition.retain_data
    around, found = method.surroundings(problem), []
    for edges in (partition.forget_edge_index, partition.retain_edge_index):
        with around(model):
            likelihood = task.predict(model, data, task.edge_items(data, edges)).log_prob.mean()
        grads = torch.autograd.grad(likelihood, list(model.parameters()))
        found.append(torch.cat([grad.flatten() for grad in grads]))
    forget, retain = found
    return float(forget.norm() / retain.norm()), float(torch.cosine_similarity(forget, retain, dim=0))


def run_amplified(
    out: Any, root: Any, models: Any, recipe: Recipe, seeds: tuple[int, ...], dataset: str, **draw: Any
) -> list[dict[str, Any]]:
    """Return a row per case and seed; finished ones are read from `amplified.jsonl`."""
    store, rows, task = RowStore(out / "amplified.jsonl"), [], LinkPrediction()
    for seed in seeds:
        data = link_split(load(dataset, root, sparse=True), seed=seed)
        held = ModelStore(models, recipe, task)
        base = held.base(data, seed).model
        partition = ForgetEdges(**draw, seed=seed).resolve(data)
        key = [dataset, seed, recipe.epochs, partition.request_hash]
        names = ["utu", *cases(torch.zeros(1))]
        finished = store.read()
        if any(f"{[*key, name]}" not in finished for name in names):
            references = [held.retrained(held.base(data, seed), partition, 1000 * k + seed).model for k in (1, 2, 3)]
            evaluator = LinkEvaluator(task, partition, references, seed=seed)
            methods = {"utu": UtU(), **cases(estimate(base, data, task).scores)}
            problem = Problem(base, freeze(copy.deepcopy(base)), partition, task, seed)
            for name, method in methods.items():
                if f"{[*key, name]}" in finished:
                    continue
                ratio, cosine = first_step(method, problem) if isinstance(method, INPO) else (None, None)
                result = run_method(method, base, partition, task, seed)
                figures = evaluator.row(result.model)
                kept = {k: v for k, v in figures.items() if k.startswith("js_") or k.endswith("_auc")}
                row = {"dataset": dataset, "seed": seed, "case": name, "ratio": ratio, "cosine": cosine, **kept}
                finished[f"{[*key, name]}"] = store.add({"key": f"{[*key, name]}", **row, "steps": result.epochs})
        rows += [finished[f"{[*key, name]}"] for name in names]
    return rows


def amplified_table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds; the difference to no scaling is paired by seed."""
    lines = []
    plain = {row["seed"]: floors(row, "forget") for row in rows if row["case"] == PLAIN}
    for name in dict.fromkeys(row["case"] for row in rows):
        of = [row for row in rows if row["case"] == name]
        first = [spread([row[f] for row in of], 3) if of[0][f] is not None else "" for f in ("ratio", "cosine")]
        gaps = [floors(row, "forget") - plain[row["seed"]] for row in of]
        ends = [spread([floors(row, part) for row in of]) for part in PARTS]
        auc = [spread([row[figure] for row in of], 3) for figure in ("retain_auc", "forget_auc")]
        steps = f"{sum(row['steps'] or 0 for row in of) / len(of):.0f}"
        lines.append([name, *first, ends[0], "" if name == PLAIN else interval(gaps), *ends[1:], *auc, steps])
    head = ["messages", "norm, forget over retain", "cosine", "forget, floors", "beside no scaling"]
    return markdown([*head, "test, floors", "retain, floors", "AUC retain", "AUC forget", "steps"], lines)


def floors(row: dict[str, Any], part: str) -> float:
    """Distance to the retrained models in noise floors."""
    return row[f"js_{part}"] / row[f"js_floor_{part}"]
