"""The plain PyG formulation of training from new weights and of the evaluation."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch_geometric.utils import negative_sampling

from experiments.speed.plain import PlainGCN, PlainGraph, decode


class PlainTraining:
    """Training from new weights on the retained graph; `step()` is one optimiser step, `validate()` the loss."""

    def __init__(
        self, model: PlainGCN, graph: PlainGraph, lr: float = 1e-3, negatives: Callable[[int], Tensor] | None = None
    ) -> None:
        self.model, self.graph, self.edges = model, graph, graph.kept
        self.negatives = negatives or (lambda n: negative_sampling(self.edges, graph.x.size(0), n))
        self.optimizer = torch.optim.Adam(model.parameters(), lr)

    def _loss(self, positive: Tensor, negative: Tensor) -> Tensor:
        score = decode(self.model(self.graph.x, self.edges), torch.cat([positive, negative], dim=1))
        label = torch.zeros_like(score)
        label[: positive.size(1)] = 1.0
        return F.binary_cross_entropy_with_logits(score, label)

    def step(self) -> float:
        loss = self._loss(self.graph.retain, self.negatives(self.graph.retain.size(1)))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    @torch.no_grad()
    def validate(self) -> float:
        return float(self._loss(self.graph.held_out["val_pos_edge_index"], self.graph.held_out["val_neg_edge_index"]))


@torch.no_grad()
def plain_evaluate(model: PlainGCN, graph: PlainGraph, seed: int = 0, draws: int = 5) -> dict[str, float]:
    """The figures of `LinkEvaluator.row` without references, each from scores over one direction."""
    z = model(graph.x, graph.kept)
    forget, retain = (decode(z, pairs).double() for pairs in (graph.forget_once, graph.retain_once))
    positive, negative = (decode(z, graph.held_out[f"test_{sign}_edge_index"]).double() for sign in ("pos", "neg"))
    retain_auc, retain_ap = _separation(positive, negative)
    generator = torch.Generator().manual_seed(seed)
    size = min(forget.numel(), retain.numel())
    order = [torch.randperm(retain.numel(), generator=generator)[:size] for _ in range(draws)]
    forget_auc, forget_ap = np.mean([_separation(retain[o.to(retain.device)], forget) for o in order], axis=0)
    return {
        "retain_auc": retain_auc, "retain_ap": retain_ap, "forget_auc": float(forget_auc),
        "forget_ap": float(forget_ap), "forget_prob": float(forget.sigmoid().mean()),
        "retain_prob": float(retain.sigmoid().mean()),
    }  # fmt: skip


def _separation(positive: Tensor, negative: Tensor) -> tuple[float, float]:
    score = torch.cat([positive, negative]).cpu().numpy()
    label = np.r_[np.ones(positive.numel()), np.zeros(negative.numel())]
    return float(roc_auc_score(label, score)), float(average_precision_score(label, score))
