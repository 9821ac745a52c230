"""Training influence of edges against the proximal Bregman response; see README.md in this folder.

python -m experiments.edge_training_influence --root DATA --out runs/edge_training_influence [--smoke]
"""

import json
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from scipy import stats
from torch import Tensor, nn
from torch_geometric.data import Data

import gunlearn as gu
from experiments.common import StudyArgs, markdown, write_results
from gunlearn.attribution import ESTIMATORS, InfluenceProblem, resolve_items
from gunlearn.attribution.targets import as_target
from gunlearn.attribution.training.pbrf import pbrf
from gunlearn.datasets import load
from gunlearn.errors import GunlearnError
from gunlearn.requests.training_graph import distinct_pairs
from gunlearn.tasks import as_task

WEIGHT_DECAY = 1e-3
CASES: dict[str, dict[str, Any]] = {
    "nodes, 2 layers": {"task": "node_classification", "layers": 2, "damping": 0.1, "edges": 200},
    "nodes, 2 layers, damping 0.01": {"task": "node_classification", "layers": 2, "damping": 0.01, "edges": 100},
    "nodes, 4 layers": {"task": "node_classification", "layers": 4, "damping": 0.1, "edges": 100},
    "links, 2 layers": {"task": "link_prediction", "layers": 2, "damping": 0.1, "edges": 100},
}
SHIFT = "parameter shift, against the response without its message term"
ESTIMATES: dict[str, tuple[str, dict[str, Any]]] = {
    "edge_edit": ("edge_edit", {}),
    "edge_edit, first order": ("edge_edit", {"edit": "first_order"}),
    "parameter shift alone": ("edge_edit", {"terms": "shift"}),
    "message term alone": ("edge_edit", {"terms": "message"}),
    "if (own loss term alone)": ("if", {}),
    "gif": ("gif", {}),
    "gif, paper mode": ("gif", {"mode": "paper"}),
    "tracin": ("tracin", {}),
    "gradient_similarity": ("gradient_similarity", {}),
    "random": ("random", {}),
}


@dataclass
class Args(StudyArgs):
    """What to run.

    Attributes:
        only: cases to run.
        edges: number of sampled edges, if not the case's own.
        progress: show a progress bar.
    """

    only: tuple[str, ...] = tuple(CASES)
    edges: int | None = None
    progress: bool = False


def prepared(args: Args, task: str) -> Data:
    """The graph in double precision, row-normalised sparse features, with held-out items."""
    if args.smoke:
        data = load("karate")
        data.y = (torch.arange(data.num_nodes) % 2).long() if "y" not in data else data.y
        data = Data(x=torch.eye(data.num_nodes), edge_index=data.edge_index, y=data.y)
    else:
        data = load("Cora", args.root)
    x = data.x.double()
    data.x = (x / x.sum(dim=1, keepdim=True).clamp(min=1)).to_sparse_csr()
    if task == "link_prediction":
        return gu.link_split(data, val_ratio=0.1, test_ratio=0.1, seed=0)
    return data if "train_mask" in data else gu.node_split(data, seed=0)  # Cora comes with the public split


def trained(data: Data, task: str, layers: int, epochs: int) -> nn.Module:
    """A GCN of 32 hidden channels after full-batch Adam with weight decay; Glorot weights, without dropout."""
    classes = int(data.y.max()) + 1 if task == "node_classification" else 32
    torch.manual_seed(0)
    model = gu.nn.GCN(data.num_features, 32, classes, layers).double()
    for p in model.parameters():
        nn.init.xavier_uniform_(p) if p.dim() == 2 else nn.init.zeros_(p)
    return gu.train(
        model, data, task, epochs=epochs, lr=0.01, weight_decay=WEIGHT_DECAY, eval_every=epochs
    ).model.eval()


def agreement(truth: Tensor, estimate: Tensor) -> dict[str, Any]:
    """Both correlations with 95 % bootstrap intervals over edges."""
    a, b = truth.numpy(), estimate.numpy()
    row: dict[str, Any] = {}
    for name, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        if a.std() == 0 or b.std() == 0:
            row |= {name: None, f"{name}_ci": None}
            continue
        generator = torch.Generator().manual_seed(0)
        draws = [torch.randint(len(a), (len(a),), generator=generator).numpy() for _ in range(1000)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.tensor([float(function(a[i], b[i]).statistic) for i in draws]).double().nan_to_num()
        ends = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        row |= {name: float(function(a, b).statistic), f"{name}_ci": ends}
    return row


def run_case(args: Args, name: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one case: the truth first, then every estimate that applies."""
    data = prepared(args, case["task"])
    model, task = trained(data, case["task"], case["layers"], 100 if args.smoke else 1000), as_task(case["task"])
    candidates = distinct_pairs(data)
    candidates = candidates[:, candidates[0] != candidates[1]]
    order = torch.randperm(candidates.size(1), generator=torch.Generator().manual_seed(1))
    number = 8 if args.smoke else args.edges or case["edges"]
    items, _ = resolve_items(data, "edges", candidates[:, order[:number]])

    def problem() -> InfluenceProblem:
        out = InfluenceProblem.of(model, data, task, items, seed=0)
        out.target = as_target("loss", out.model, out.data, task)
        return out

    given, start = problem(), time.perf_counter()
    truth = pbrf(given, case["damping"], progress=args.progress)
    seconds = time.perf_counter() - start
    common = {"case": name, **case, "edges": items.num_items}
    rows = [{**common, "estimate": "pbrf", "seconds": seconds, "std": float(truth.std()), **given.notes}]
    print(rows[0], flush=True)
    terms: dict[str, Tensor] = {}
    for label, (estimator, options) in ESTIMATES.items():
        cls = ESTIMATORS[estimator]
        if "damping" in cls.options() and options.get("mode") != "paper":
            options = {**options, "damping": case["damping"]}
        given, start = problem(), time.perf_counter()
        try:
            cls(**options).supports(given)
            scores = cls(**options).scores(given).detach()
        except GunlearnError as error:
            rows.append({**common, "estimate": label, "refused": str(error)})
            print(label, error, flush=True)
            continue
        seconds, terms[label] = time.perf_counter() - start, scores
        rows.append(
            {
                **common, "estimate": label, **agreement(truth, scores), "seconds": seconds, "std": float(scores.std()),
                **{k: v for k, v in given.notes.items() if isinstance(v, float | int | str)},
            }
        )  # fmt: skip
        print(label, rows[-1].get("pearson"), rows[-1].get("spearman"), round(seconds, 1), flush=True)
    # The truth holds the same change of messages as the estimate: without it, is the shift of the parameters right?
    shift = agreement(truth - terms["message term alone"], terms["parameter shift alone"])
    rows.append({**common, "estimate": SHIFT, **shift})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per case and estimate."""
    body = []
    for row in rows:
        seconds = "-" if "seconds" not in row else f"{row['seconds']:.1f}"
        body.append([row["case"], row["estimate"], _cell(row, "pearson"), _cell(row, "spearman"), seconds])
    return markdown(("case", "estimate", "Pearson", "Spearman", "seconds"), body, left=2)


def _cell(row: dict[str, Any], name: str) -> str:
    if row["estimate"] == "pbrf":
        return "truth"
    if row.get(name) is None:
        return "refused" if "refused" in row else "-"
    if row.get(f"{name}_ci") is None:
        return f"{row[name]:.3f}"
    low, high = row[f"{name}_ci"]
    return f"{row[name]:.3f} [{low:.2f}, {high:.2f}]"


def main(args: Args) -> None:
    """Run the cases asked for; finished ones are kept in `results.json` and replaced when run again."""
    # The response leaves weight decay out (it asks for no stationary point), and so must the estimates.
    warnings.filterwarnings("ignore", message="the model does not look trained")
    path = args.out / "results.json"
    for name in args.only:
        rows = run_case(args, name, CASES[name])
        kept = json.loads(path.read_text()) if path.is_file() else []
        kept = [row for row in kept if row["case"] != name] + rows
        kept.sort(key=lambda row: list(CASES).index(row["case"]))
        write_results(args.out, kept, table(kept))
    print(table(json.loads(path.read_text())))


if __name__ == "__main__":
    main(tyro.cli(Args))
