"""INPO: influence-aware negative preference optimisation (arXiv 2510.19479)."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.utils import add_remaining_self_loops

from gunlearn.attribution.base import Estimator
from gunlearn.attribution.removal.nora import min_max, nora
from gunlearn.losses import NLL, NPO, KLToReference, Objective, SigmoidNLL, TopologicalEntropy, weighted
from gunlearn.methods.base import BY_MODE, Problem, check_interval, fill_in
from gunlearn.methods.gradient import GradientMethod
from gunlearn.methods.graph.message_damping import check_influence, damped, pair_scores
from gunlearn.nn.layers.influence_conv import MessageScale, influence_scale
from gunlearn.tasks.base import Parts

#: Epochs, learning rate and weights (retain : entropy) of the authors' settings table, by data set.
PRESETS: dict[str, dict[str, float]] = {
    "Cora": {"epochs": 300, "lr": 1e-3, "retain_weight": 1.0, "entropy_weight": 0.5},
    "DBLP": {"epochs": 330, "lr": 1e-3, "retain_weight": 1.0, "entropy_weight": 0.8},
    "PubMed": {"epochs": 800, "lr": 6e-4, "retain_weight": 2.0, "entropy_weight": 1.0},
    "CS": {"epochs": 800, "lr": 1e-3, "retain_weight": 1.0, "entropy_weight": 0.6},
    "ogbl-collab": {"epochs": 1000, "lr": 2e-3, "retain_weight": 2.0, "entropy_weight": 1.0},
}
PRESETS["CoraFull"] = PRESETS["Cora"]  # the "Cora" of the edge-unlearning literature

_DEFAULT = {
    "epochs": 120, "lr": 2e-3, "weight_decay": 0.0, "beta": 2.0, "retain_weight": 1.0, "entropy_weight": 0.5,
    "kl_weight": 5.0, "message_graph": "retain", "until": "separated",
}  # fmt: skip
# Small steps, so that edges do not overshoot their targets, and a tighter hold on everything else.
_UNSEEN = {**_DEFAULT, "epochs": 200, "lr": 3e-4, "kl_weight": 10.0}
_PAPER = {"weight_decay": 5e-7, "beta": 5.0, "kl_weight": 0.0, "message_graph": "full", "until": "end"}


@dataclass(frozen=True)
class INPO(GradientMethod):
    """NPO on the forgotten edges, damped messages on influential edges, a topological entropy loss.

    `mode="paper"` follows the authors' code, quirks included: probabilities in NPO with an offset of 1e-4 in the ratio;
    as retain term a cross-entropy of probabilities (a double sigmoid) without negatives; the full graph in message
    passing; messages scaled wherever *both end points* touch a retained edge (so nearly everywhere, self-loops and
    forgotten edges included); a reference with plain messages; Adam with weight decay 5e-7; the last epoch. The
    gradient that the authors' influence estimate leaves behind enters the first step: it is orders of magnitude larger
    than the objective's, and through Adam's second moment it lowers the effective learning rate for hundreds of epochs.

    `mode="default"` repairs what costs utility: messages over the retained graph, scaled on retained edges alone; a
    retain term with negatives; a KL term to the reference model on retained edges and non-edges; a forgotten edge
    leaves the objective once it scores below 95 % of the retained edges (`until="separated"`).

    `until="unseen"` comes nearest to retraining; scaled messages and entropy loss add nothing to it, and `npo` with the
    same rule ends as near (experiments/inpo_edges, with amplified messages as the paper's abstract describes them).

    Args:
        mode: `"default"` or `"paper"`; fills in every option that is `None`.
        dataset: take the paper's settings of this data set (`PRESETS`), Cora's if unknown; see `notes["preset"]`.
        beta: inverse temperature of NPO.
        scale_messages: damp messages by influence; `False` is `influence="none"`.
        influence: which messages to damp most. `"nora"` is INPO's own formula; another removal estimator's name
            (`gunlearn.attribution.ESTIMATORS`) takes its scores of edges, `"name:nodes"` the sum of both end points'
            scores; an `Estimator` brings its options; a tensor holds a score per column of `data.edge_index`.
            `"constant"` damps all messages alike, `"none"` (or `None`) none.
        flip_influence: damp the least influential messages most.
        damping: `"rank"` or `"min_max"`: how scores other than INPO's own become scales, see `message_damping.damped`.
    """

    mode: str = "default"
    dataset: str | None = None
    epochs: int = BY_MODE
    lr: float = BY_MODE
    weight_decay: float = BY_MODE
    message_graph: str = BY_MODE
    beta: float = BY_MODE
    retain_weight: float = BY_MODE
    entropy_weight: float = BY_MODE
    kl_weight: float = BY_MODE
    scale_messages: bool = True
    until: str = BY_MODE
    influence: str | Estimator | Tensor | None = "nora"
    flip_influence: bool = False
    damping: str = "rank"

    name = "inpo"
    summary = "influence-aware NPO with a topological entropy loss"
    paper = "arXiv 2510.19479"
    requests = ("edges",)
    tasks = ("link_prediction",)
    needs = "retained data, reference model"
    cost = "`epochs` passes and one influence estimate"
    compared = "experiments/inpo_edges"
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"mode": "paper"},
        "default": {},
        "unseen": {"until": "unseen"},
    }

    def __post_init__(self) -> None:
        default = _UNSEEN if self.until == "unseen" else _DEFAULT
        fill_in(self, {"default": default, "paper": {**_PAPER, **PRESETS[self.preset]}})
        check_interval(self, ">= 0", "retain_weight", "entropy_weight", "kl_weight")
        if self.influence is None:  # the command line reads "none" as None
            object.__setattr__(self, "influence", "none")
        check_influence(self.influence, self.damping)
        super().__post_init__()

    @property
    def preset(self) -> str:
        """Return the name of the data set whose settings paper mode takes."""
        return next((name for name in PRESETS if name.lower() == str(self.dataset).lower()), "Cora")

    @property
    def label(self) -> str:
        """Return the mode, and the stop criterion if it is not the mode's."""
        usual = (_PAPER if self.mode == "paper" else _DEFAULT)["until"]
        return self.mode if self.until == usual else f"{self.mode} until {self.until}"

    def config(self) -> dict[str, Any]:
        """Return the options; a tensor of scores by its hash, since its text omits most of them."""
        config = super().config()
        if isinstance(self.influence, Tensor):
            values = self.influence.detach().cpu().double().numpy().tobytes()
            config["influence"] = f"scores {hashlib.sha256(values).hexdigest()[:16]}"
        return config

    def objective(self) -> Objective:
        paper = self.mode == "paper"
        return weighted(
            (1.0, NPO(beta=self.beta, ratio_offset=1e-4 if paper else 0.0, on="forget")),
            (self.retain_weight, SigmoidNLL(on="retain_edges") if paper else NLL(on="retain")),
            (self.entropy_weight, TopologicalEntropy(on="forget")),
            (self.kl_weight, KLToReference(on="retain")),
        )

    def notes(self, problem: Problem, parts: Parts) -> dict[str, Any]:
        paper = {"preset": self.preset} if self.mode == "paper" else {}
        return {**super().notes(problem, parts), **paper}

    @torch.no_grad()
    def reference_outputs(self, problem: Problem, parts: Parts, around: AbstractContextManager) -> Any:
        """Return the original model's outputs; in paper mode with plain messages on the full graph."""
        if self.mode == "paper":
            return problem.task.encode(problem.reference, problem.partition.data)
        return super().reference_outputs(problem, parts, around)

    def prepare(self, problem: Problem) -> bool:
        """Leave the influence estimate's gradient, `sum(y * stop_gradient(y))`, on the parameters in paper mode."""
        if self.mode != "paper":
            return False
        # Evaluation mode: dropout and batch statistics must not depend on the mode that the caller left.
        outputs = problem.task.encode(problem.model.eval(), problem.partition.data).softmax(dim=-1)
        outputs.backward(gradient=outputs.detach())
        return True

    def surroundings(self, problem: Problem) -> Callable[[nn.Module], AbstractContextManager]:
        """Scale messages by influence, estimated once on the original model."""
        by_name = self.influence if isinstance(self.influence, str) else ""
        if not self.scale_messages or self.influence is None or by_name == "none":
            return super().surroundings(problem)
        paper, partition = self.mode == "paper", problem.partition
        data = partition.data if paper else partition.retain_data
        index: Tensor = data.edge_index
        named: slice | Tensor = slice(None)
        if paper:
            index, _ = add_remaining_self_loops(index, num_nodes=data.num_nodes)
            touched = torch.zeros(data.num_nodes, dtype=torch.bool, device=index.device)
            touched[partition.retain_edge_index.flatten()] = True
            named = touched[index[0]] & touched[index[1]]
        pairs = index[:, named]
        scale = influence_scale(min_max(nora(problem.reference, data, task=problem.task)).detach(), pairs)
        if by_name != "nora" or self.flip_influence:
            # INPO scores nodes, not pairs.
            by = "nora:nodes" if by_name == "nora" else self.influence
            score = pair_scores(problem, data, by, index)[named]
            scale = damped(-score if self.flip_influence else score, scale, pairs, self.damping)
        return lambda model: MessageScale(model, pairs, scale)
