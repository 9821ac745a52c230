"""Barriers between independently trained GNNs before and after alignment; see alignment.md in this folder.

python -m experiments.mode_connectivity.alignment --root DATA --out OUT [--smoke] [--datasets Cora ...]
    [--backbones gcn ...] [--seeds 0 1 2] [--points 21]
"""

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gunlearn as gu
from experiments.common import StudyArgs, markdown, write_results
from gunlearn.bench.store import atomic_write
from gunlearn.connectivity.alignment import (
    MATCHINGS,
    MessageCalibration,
    align_models,
    best_order,
    merge_in_closed_form,
)

TASK = gu.NodeClassification()
#: How a child is made of its parents: the straight line, calibrated lines, the closed form.
CHILDREN = ("line", "hidden calibrated", "all calibrated", "gnnmerge")


@dataclass
class Args(StudyArgs):
    """What to run; a pair whose rows are written is not run again.

    Attributes:
        datasets: names.
        backbones: names.
        seeds: of the split; the two models of a pair start from the seeds `2 * seed` and `2 * seed + 1`.
        points: of `t`, both ends included.
        epochs: steps of Adam, rate 1e-2; the last one counts.
        layers: convolutions.
        weight_decay: Adam's L2 penalty.
    """

    datasets: tuple[str, ...] = ("Cora", "DBLP", "CS")
    backbones: tuple[str, ...] = ("gcn", "sage")
    seeds: tuple[int, ...] = (0, 1, 2)
    points: int = 21
    epochs: int = 500
    layers: int = 2
    weight_decay: float = 5e-4


def encoded(model: nn.Module, data: Any) -> Tensor:
    """Return the logits of all nodes."""
    return TASK.encode(model, data)


def trained(args: Args, name: str, data: Any, start: int) -> nn.Module:
    """Train a model to the last step."""
    torch.manual_seed(start)
    classes = int(data.y.max()) + 1
    model = gu.backbone(name, data.x.size(1), 64, classes, num_layers=args.layers)
    seen = copy.copy(data)
    del seen.val_mask, seen.test_mask
    epochs = 40 if args.smoke else args.epochs
    rates = {"lr": 1e-2, "weight_decay": args.weight_decay}
    return gu.train(model, seen, TASK, epochs=epochs, seed=start, keep_state=False, **rates).model


@torch.no_grad()
def figures(model: nn.Module, data: Any) -> dict[str, float]:
    """Return losses and accuracies on training and test nodes."""
    logits = encoded(model.eval(), data)
    out = {}
    for part in ("train", "test"):
        mask = data[f"{part}_mask"]
        out[f"{part}_loss"] = float(cross_entropy(logits[mask], data.y[mask]))
        out[f"{part}_acc"] = float((logits[mask].argmax(1) == data.y[mask]).double().mean())
    return out


def between(first: nn.Module, second: nn.Module, t: float) -> nn.Module:
    """Return the model at `t` of the straight line."""
    child, other = copy.deepcopy(first), second.state_dict()
    child.load_state_dict(
        {k: torch.lerp(v, other[k], t) if v.is_floating_point() else v for k, v in first.state_dict().items()}
    )
    return child


def children(first: nn.Module, second: nn.Module, data: Any) -> dict[str, Callable[[float], nn.Module]]:
    """Return the ways to make a child of two parents."""
    some, full = (MessageCalibration(first, second, data=data, call=encoded, outputs=o) for o in (False, True))
    return {
        "line": lambda t: between(first, second, t),
        "hidden calibrated": lambda t: some(between(first, second, t), t),
        "all calibrated": lambda t: full(between(first, second, t), t),
        "gnnmerge": lambda t: merge_in_closed_form(first, second, t, data=data, call=encoded)[0],
    }


def barriers(make: Callable[[float], nn.Module], first: nn.Module, second: nn.Module, data: Any, points: int) -> Any:
    """Return barriers of losses (above the line between the ends) and falls of accuracies (below it)."""
    ends = figures(first, data), figures(second, data)
    grid = torch.linspace(0, 1, points).tolist()
    inner = [figures(make(t), data) for t in grid[1:-1]]
    out: dict[str, Any] = {}
    for name in ends[0]:
        chord = [(1 - t) * ends[0][name] + t * ends[1][name] for t in grid]
        values = [ends[0][name], *(row[name] for row in inner), ends[1][name]]
        sign = 1 if name.endswith("loss") else -1
        out[f"{name}_barrier"] = max(sign * (v - c) for v, c in zip(values, chord, strict=True))
        out[f"{name}_curve"] = [round(v, 5) for v in values]
    return out


@torch.no_grad()
def correlations(first: nn.Module, second: nn.Module, data: Any) -> dict[str, float]:
    """Return the mean correlation of the first layer's matched messages, and the most that a permutation gives."""
    seen: list[Tensor] = []
    for model in (first, second):
        layer = next(m for name, m in model.named_modules() if name == "convs.0")
        handle = layer.register_forward_hook(lambda module, args, out: seen.append(out.detach().double()))
        encoded(model.eval(), data)
        handle.remove()
    one, other = ((rows - rows.mean(0)) / rows.std(0, correction=0).clamp(min=1e-12) for rows in seen)
    both = one.t() @ other / len(one)
    best = both[torch.arange(len(both)), best_order(both)]
    return {"correlation": float(both.diagonal().mean()), "best_correlation": float(best.mean())}


def pair_rows(args: Args, dataset: str, backbone: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of one pair."""
    data = gu.node_split(gu.load(dataset, args.root, sparse=not args.smoke), seed=seed)
    first, second = (trained(args, backbone, data, 2 * seed + k) for k in range(2))
    key = {"dataset": dataset, "backbone": backbone, "layers": args.layers, "seed": seed}
    for by in ("none", *MATCHINGS):
        for rescale in {"none": (False,), "weights": (False, True)}.get(by, (True,)):
            began = time.perf_counter()
            other, notes = second, {}
            if by != "none":
                found = align_models(first, second, by, data=data, call=encoded, rescale=rescale)
                other, notes = found.model, found.notes
            seconds = time.perf_counter() - began
            shared = {"rescale": rescale, "align_seconds": round(seconds, 3), "difference": notes.get("difference")}
            shared |= correlations(first, other, data)
            for name, make in children(first, other, data).items():
                row = barriers(make, first, other, data, 5 if args.smoke else args.points)
                yield {**key, "by": by, "child": name, **shared, **row}


def table(rows: list[dict[str, Any]]) -> str:
    """Barriers of the retained loss, medians over the seeds: matchings by children."""
    lines = []
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["dataset"], row["backbone"], row["layers"], row["by"], row["rescale"])
        cells.setdefault(key, []).append(row)
    for key, members in cells.items():
        shown = []
        for child in CHILDREN:
            found = sorted(r["train_loss_barrier"] for r in members if r["child"] == child)
            shown.append(f"{median(found):.3f} ({found[0]:.3f}, {found[-1]:.3f})" if found else "")
        line = [r for r in members if r["child"] == "line"]
        merged = [r for r in members if r["child"] == "gnnmerge"]
        fall = " / ".join(f"{abs(median(100 * r['test_acc_barrier'] for r in of)):.1f}" for of in (line, merged))
        same = " of ".join(f"{median(r[name] for r in line):.2f}" for name in ("correlation", "best_correlation"))
        rescaled = "yes" if key[4] else "no"
        lines.append((key[0], key[1], str(key[2]), key[3], rescaled, *shown, fall, same, str(len(line))))
    lost = "points lost: line / gnnmerge"
    head = ("graph", "model", "layers", "matched by", "rescaled", *CHILDREN, lost, "correlation", "pairs")
    return markdown(head, lines, 5)


def ratios(rows: list[dict[str, Any]]) -> str:
    """Barriers of the retained loss on the straight line as shares of that after plain weight matching."""
    lines = []
    for key in dict.fromkeys((r["dataset"], r["backbone"], r["layers"]) for r in rows):
        of = [r for r in rows if (r["dataset"], r["backbone"], r["layers"]) == key]

        def middle(by: str, rescale: bool, child: str = "line", of: list[dict[str, Any]] = of) -> float:
            found = [r for r in of if (r["by"], r["rescale"], r["child"]) == (by, rescale, child)]
            return median(r["train_loss_barrier"] for r in found)

        base = middle("weights", False)
        shown = [middle("none", False), middle("weights", True), middle("activations", True), middle("messages", True)]
        shown.append(middle("weights", False, "all calibrated"))
        shown.append(middle("messages", True, "all calibrated"))
        shares = [f"{value / base:.2f}" if base > 1e-3 else "-" for value in shown]
        lines.append((key[0], key[1], str(key[2]), f"{base:.3f}", *shares))
    head = ("weights: barrier", "none", "weights, rescaled", "activations", "messages")
    return markdown(("graph", "model", "layers", *head, "weights, calibrated", "messages, calibrated"), lines, 3)


def done(folder: Path) -> list[dict[str, Any]]:
    """Return all rows that are written."""
    return [row for file in sorted(folder.glob("*.json")) for row in json.loads(file.read_text(encoding="utf-8"))]


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without its curves, numbers to five digits."""
    short = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}
    return {k: v for k, v in short.items() if not k.endswith("_curve") and v is not None}


def main(args: Args) -> None:
    """Run all pairs; write `results.json` and `tables.md`."""
    folder = args.out / "pairs"
    folder.mkdir(parents=True, exist_ok=True)
    for dataset in ("digits",) if args.smoke else args.datasets:
        for backbone in args.backbones:
            for seed in args.seeds:
                file = folder / f"{dataset}-{backbone}-{args.layers}-{seed}.json"
                if not file.exists():
                    began = time.perf_counter()
                    rows = list(pair_rows(args, dataset, backbone, seed))
                    atomic_write(file, json.dumps(rows) + "\n")
                    print(f"{file.stem}: {time.perf_counter() - began:.0f} s", flush=True)
    rows = [kept(row) for row in done(folder)]
    text = ratios(rows) + "\n\n" + table(rows)
    write_results(args.out, rows, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
