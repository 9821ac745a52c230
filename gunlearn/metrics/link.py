"""What an unlearned link predictor is worth: utility, forgetting, distance to retraining with its noise floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses.functional import js_divergence
from gunlearn.metrics.ranking import forget_separation, separation
from gunlearn.nn.attach import suspended_caches
from gunlearn.tasks import LinkPrediction

SETS = ("forget", "test", "retain")


@dataclass(frozen=True)
class EdgeProbabilities:
    """Probabilities a model gives: `forget` `[num_forget]`, `retain` `[num_retain]`, `test` `[num_test]`.

    Items are ranked by `logits`: probabilities above a logit of 37 are all 1.
    """

    forget: Tensor
    retain: Tensor
    test: Tensor | None
    logits: dict[str, Tensor | None]


class LinkEvaluator:
    """Compares models of one unlearning problem; every model reads the retained graph.

    Args:
        task: the link prediction task.
        partition: what was forgotten.
        references: models retrained without it, under different seeds; with none, distances are `None`, with one, the
            noise floor is `None`.
        draws: equal-size draws of retained edges for the forget AUC.
        seed: of the draws.
    """

    def __init__(
        self,
        task: LinkPrediction,
        partition: Any,
        references: Sequence[nn.Module] = (),
        draws: int = 5,
        seed: int = 0,
    ) -> None:
        """Score the references once."""
        if not isinstance(task, LinkPrediction):
            raise UnsupportedMethodError(f"Expected a link prediction task to evaluate (got '{task.name}')")
        self.task, self.partition, self.draws, self.seed = task, partition, draws, seed
        data = partition.retain_data
        self.forget = task.edge_items(data, partition.forget_edge_index)
        self.retain = task.edge_items(data, partition.retain_edge_index)
        self.test = task.held_out_items(data, "test")
        self.references = [(model, self.probabilities(model)) for model in references]
        for (_, p), (_, q) in combinations(self.references, 2):
            if torch.equal(p.retain, q.retain) and torch.equal(p.forget, q.forget):
                raise InvalidInputError(
                    "Expected references that were retrained under different seeds (got two that score every edge "
                    "alike); their distance would be no noise floor"
                )

    @torch.no_grad()
    def probabilities(self, model: nn.Module, full_graph: bool = False) -> EdgeProbabilities:
        """Probability of being an edge, for each set; on the retained graph unless `full_graph`.

        The order of test items is positives, then negatives.
        """
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with suspended_caches(model):
                outputs = self.task.encode(model, self.partition.data if full_graph else self.partition.retain_data)
            sets = {"forget": self.forget, "retain": self.retain, "test": self.test}
            logits = {k: None if s is None else self.task.decode(model, outputs, s).logits for k, s in sets.items()}
        finally:
            for module, mode in modes.items():
                module.training = mode
        probability = {k: None if score is None else score.double().sigmoid() for k, score in logits.items()}
        return EdgeProbabilities(**probability, logits=logits)

    def utility(self, p: EdgeProbabilities) -> dict[str, float | None]:
        """AUC and AP of test edges against their negatives: `retain_auc`, `retain_ap`."""
        auc = ap = None
        if p.test is not None:
            positive = self.test.label == 1
            auc, ap = separation(p.logits["test"][positive], p.logits["test"][~positive])
        return {"retain_auc": auc, "retain_ap": ap}

    def forgetting(self, p: EdgeProbabilities) -> dict[str, float | None]:
        """`forget_auc`, `forget_ap` and the mean probabilities `forget_prob`, `retain_prob`."""
        auc, ap = forget_separation(p.logits["forget"], p.logits["retain"], self.draws, self.seed)
        means = {"forget_prob": float(p.forget.mean()), "retain_prob": float(p.retain.mean())}
        return {"forget_auc": auc, "forget_ap": ap, **means}

    def distance(self, model: nn.Module, p: EdgeProbabilities) -> dict[str, float | None]:
        """Mean Jensen-Shannon divergence (nats per item) to the references and among them.

        `js_forget`, `js_test`, `js_retain` average over the references, leaving out `model` itself;
        `js_floor_*` average over pairs of references: what two honest retrainings differ by.

        Raises:
            InvalidInputError: NaN among the probabilities.
        """
        out: dict[str, float | None] = {}
        others = [q for reference, q in self.references if reference is not model]
        for name in SETS:
            out[f"js_{name}"] = _mean([_js(getattr(p, name), getattr(q, name)) for q in others])
            pairs = combinations([getattr(q, name) for _, q in self.references], 2)
            out[f"js_floor_{name}"] = _mean([_js(a, b) for a, b in pairs])
        return out

    def row(self, model: nn.Module) -> dict[str, float | None]:
        """All figures for one model."""
        p = self.probabilities(model)
        return {**self.utility(p), **self.forgetting(p), **self.distance(model, p)}


def _js(p: Tensor | None, q: Tensor | None) -> float | None:
    if p is None or q is None:
        return None
    divergence = float(js_divergence(p, q).mean())
    if divergence != divergence:
        raise InvalidInputError("Expected probabilities without NaN (got some); the model is broken")
    return divergence


def _mean(values: list[float | None]) -> float | None:
    return None if not values or any(v is None for v in values) else sum(values) / len(values)
