"""What INPO's ideas add to its stop rule: the same stop rule for other methods, and INPO without its ideas."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import negative_sampling

from experiments.common import markdown
from experiments.inpo_edges.amplified import Amplified, first_step
from gunlearn.attribution import estimate
from gunlearn.attribution.request_scores import resolve_for
from gunlearn.bench import Cell, ModelStore, Recipe, RowStore
from gunlearn.datasets import load
from gunlearn.methods import INPO, METHODS, Method, Problem, run_method
from gunlearn.methods.freezing import freeze
from gunlearn.metrics import LinkEvaluator
from gunlearn.requests import ForgetEdges
from gunlearn.seed import isolated_rng
from gunlearn.tasks import LinkPrediction

PARTS = ("forget", "test", "retain")
_UNSEEN = {"until": "unseen"}
#: INPO's bound on steps and its rate where edges end at the score of unseen ones.
_SAME = {**_UNSEEN, "epochs": 200, "lr": 3e-4}
_OWN = {**_UNSEEN, "epochs": 200}
OURS = "INPO until unseen"
PLAIN = "INPO without scaled messages"
#: Row of the table -> method and its options.
METHODS_OF_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "utu": ("utu", {}),
    "fine-tuning": ("finetune", {}),
    "fine-tuning, INPO's steps and rate": ("finetune", {"epochs": 200, "lr": 3e-4}),
    OURS: ("inpo", _UNSEEN),
    PLAIN: ("inpo", {**_UNSEEN, "scale_messages": False}),
    "INPO without entropy loss": ("inpo", {**_UNSEEN, "entropy_weight": 0.0}),
    "INPO without KL": ("inpo", {**_UNSEEN, "kl_weight": 0.0}),
    "INPO without all three": (
        "inpo",
        {**_UNSEEN, "scale_messages": False, "entropy_weight": 0.0, "kl_weight": 0.0},
    ),
    "NPO until unseen": ("npo", _SAME),
    "GradDiff until unseen": ("graddiff", _SAME),
    "gradient ascent until unseen": ("gradient_ascent", _SAME),
    "NPO until unseen, own rate": ("npo", _OWN),
    "GradDiff until unseen, own rate": ("graddiff", _OWN),
    "gradient ascent until unseen, own rate": ("gradient_ascent", _OWN),
    "INPO, whole graph, no scaling": ("inpo", {**_UNSEEN, "scale_messages": False, "message_graph": "full"}),
    "INPO, whole graph, retained damped": ("amplified", {**_UNSEEN, "amplify": 1.0}),
    "INPO, whole graph, retained damped, forgotten x 2": ("amplified", {**_UNSEEN, "amplify": 2.0}),
    "INPO, whole graph, retained damped, forgotten x 4": ("amplified", {**_UNSEEN, "amplify": 4.0}),
    "INPO's default": ("inpo", {}),
    "INPO's default without scaled messages": ("inpo", {"scale_messages": False}),
    "INPO's default without all three": ("inpo", {"scale_messages": False, "entropy_weight": 0.0, "kl_weight": 0.0}),
    "NPO until separated": ("npo", {"until": "separated", "epochs": 120, "lr": 2e-3}),
}
#: Rows that differ in their messages alone.
MESSAGES = (PLAIN, OURS, *(name for name in METHODS_OF_ROWS if "whole graph" in name))


@dataclass(frozen=True)
class Setting:
    """A problem.

    Args:
        ratio: share of the training edges to forget.
        region, by: how they are drawn, see `ForgetEdges`.
        backbone: of `gunlearn.nn.BACKBONES`.
        injected: forget as many edges that are not the graph's own, between nodes of different classes, which the base
            model was trained on: only memory explains their scores.
    """

    dataset: str
    ratio: float
    region: str = "any"
    by: str = "random"
    backbone: str = "gcn"
    injected: bool = False


def problem_of(setting: Setting, held: ModelStore, root: Path | None, seed: int) -> Problem:
    """Return the base model and the partition under a seed."""
    task = held.task
    cell = Cell(setting.dataset, "random", setting.ratio, None, setting.region, setting.by, seed)
    data = cell.split(load(setting.dataset, root, sparse=setting.backbone not in ("sage", "gin")))
    request = cell.request()
    if setting.injected:
        data, edges = inject(data, setting.ratio, seed)
        request = ForgetEdges(edges)
    base = held.base(data, seed).model
    return Problem(base, freeze(copy.deepcopy(base)), resolve_for(request, base, data, task), task, seed)


def inject(data: Data, ratio: float, seed: int) -> tuple[Data, Tensor]:
    """Return data with edges between nodes of different classes among its training edges, and these `[2, k]`."""
    number = int(ratio * data.edge_index.size(1) / 2)
    with isolated_rng(seed):
        pairs = negative_sampling(data.edge_index, data.num_nodes, 8 * number)
    pairs = pairs[:, data.y[pairs[0]] != data.y[pairs[1]]].sort(dim=0).values.unique(dim=1)
    held_out = torch.cat([data[f"{part}_{sign}_edge_index"] for part in ("val", "test") for sign in ("pos", "neg")], 1)
    key = [edges.sort(dim=0).values[0] * data.num_nodes + edges.sort(dim=0).values[1] for edges in (pairs, held_out)]
    pairs = pairs[:, ~torch.isin(*key)]
    chosen = pairs[:, torch.randperm(pairs.size(1), generator=torch.Generator().manual_seed(seed))[:number]]
    more = copy.copy(data)
    more.edge_index = torch.cat([data.edge_index, chosen, chosen.flip(0)], dim=1)
    if "train_pos_edge_index" in data:
        more.train_pos_edge_index = torch.cat([data.train_pos_edge_index, chosen], dim=1)
    return more, chosen


def run_controls(
    setting: Setting, seeds: Sequence[int], recipe: Recipe, out: Path, models: Path, root: Path | None
) -> list[dict[str, Any]]:
    """Return the rows of all methods under each seed; finished ones are read from `controls.jsonl`."""
    store, rows = RowStore(out / "controls.jsonl"), []
    recipe = replace(recipe, backbone=setting.backbone)
    for seed in seeds:
        keys = {name: repr((setting, seed, recipe, *given)) for name, given in METHODS_OF_ROWS.items()}
        finished = store.read()
        missing = [name for name, key in keys.items() if key not in finished]
        if missing:
            held = ModelStore(models, recipe, LinkPrediction())
            problem = problem_of(setting, held, root, seed)
            base, partition = held.base(problem.partition.data, seed), problem.partition
            references = [held.retrained(base, partition, 1000 * k + seed).model for k in (1, 2, 3)]
            evaluator = LinkEvaluator(problem.task, partition, references, seed=seed)
            methods = methods_of(missing, problem)
        for name in missing:
            method = methods[name]
            result = run_method(method, problem.model, partition, problem.task, seed)
            first = first_step(method, problem) if isinstance(method, INPO) else (None, None)
            row = {"dataset": setting.dataset, "seed": seed, "case": name, "ratio": first[0], "cosine": first[1]}
            kept = {k: v for k, v in evaluator.row(result.model).items() if k.startswith("js_") or k.endswith("_auc")}
            row |= {**kept, "steps": result.epochs or 0, "seconds": result.seconds}
            finished[keys[name]] = store.add({"key": keys[name], **row})
            print(f"{setting.dataset} seed {seed}: {name}: {floors(row, 'forget'):.2f} floors", flush=True)
        rows += [{k: v for k, v in finished[key].items() if k != "key"} for key in keys.values()]
    return rows


def methods_of(names: Sequence[str], problem: Problem) -> dict[str, Method]:
    """Return the methods of rows; removal influence is computed once for all that damp by it."""
    exact: Tensor | None = None
    if any(METHODS_OF_ROWS[name][0] == "amplified" for name in names):
        exact = estimate(problem.model, problem.partition.data, problem.task).scores
    found: dict[str, Method] = {}
    for name in names:
        kind, options = METHODS_OF_ROWS[name]
        found[name] = Amplified(**options, influence=exact) if kind == "amplified" else METHODS[kind](**options)
    return found


def control_table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds; the difference to INPO's own row is paired by seed, with a 95 % t interval."""
    lines = []
    for name, of in _by_case(rows).items():
        cells = [spread([floors(row, part) for row in of]) for part in PARTS]
        cells.insert(1, "" if name == OURS else interval(_gaps(of, rows, OURS)))
        cells += [f"{fmean(row[figure] for row in of):.3f}" for figure in ("retain_auc", "forget_auc")]
        cells += [f"{fmean(row['steps'] for row in of):.0f}", f"{fmean(row['seconds'] for row in of):.1f}"]
        lines.append([name, *cells])
    head = ["method", "forget, floors", "beside INPO", "test, floors", "retain, floors"]
    return markdown([*head, "AUC retain", "AUC forget", "steps", "s"], lines)


def gradient_table(rows: list[dict[str, Any]]) -> str:
    """What messages do to the gradients of the first step, and to the end."""
    lines = []
    for name, of in _by_case(rows).items():
        if name in MESSAGES:
            first = [spread([row[figure] for row in of], 3) for figure in ("ratio", "cosine")]
            gap = "" if name == PLAIN else interval(_gaps(of, rows, PLAIN))
            lines.append([name, *first, spread([floors(row, "forget") for row in of]), gap])
    return markdown(["messages", "norm, forget over retain", "cosine", "forget, floors", "beside no scaling"], lines)


def floors(row: dict[str, Any], part: str) -> float:
    """Distance to the retrained models in noise floors."""
    return row[f"js_{part}"] / row[f"js_floor_{part}"]


def spread(values: list[float], digits: int = 2) -> str:
    """Mean, and standard deviation where there are several."""
    return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def interval(gaps: list[float]) -> str:
    """Mean with a 95 % t interval; bold where it leaves out 0."""
    if len(gaps) < 2:
        return f"{gaps[0]:+.2f}" if gaps else ""
    mean, half = fmean(gaps), float(student.ppf(0.975, len(gaps) - 1)) * stdev(gaps) / math.sqrt(len(gaps))
    text = f"{mean:+.2f} ± {half:.2f}"
    return f"**{text}**" if abs(mean) > half else text


def _by_case(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {name: of for name in METHODS_OF_ROWS if (of := [row for row in rows if row["case"] == name])}


def _gaps(of: list[dict[str, Any]], rows: list[dict[str, Any]], name: str) -> list[float]:
    base = {row["seed"]: floors(row, "forget") for row in rows if row["case"] == name}
    return [floors(row, "forget") - base[row["seed"]] for row in of]
