"""Score targets for forgotten edges: where an edge is told apart, or where an unseen edge would score."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.core.modes import evaluating
from gunlearn.errors import UnsupportedMethodError
from gunlearn.losses import Prediction
from gunlearn.tasks.graph.pair_features import pair_features
from gunlearn.tasks.graph.reading import small_subgraph

MIN_HELD_OUT, NEIGHBORS = 30, 20


def held_out_edges(data: Data) -> int:
    """Return the number of validation edges."""
    return data.val_pos_edge_index.size(1) if "val_pos_edge_index" in data else 0


def check_held_out(data: Data) -> None:
    """Refuse data with too few held-out edges to compare with, fewer than `MIN_HELD_OUT`."""
    number = held_out_edges(data)
    if number < MIN_HELD_OUT:
        raise UnsupportedMethodError(
            f"Expected at least {MIN_HELD_OUT} validation edges ('val_pos_edge_index') for until='unseen' "
            f"(got {number})"
        )


def unseen_scores(task: Any, reference: nn.Module, partition: Any) -> Tensor:
    r"""Return the score that each forgotten edge would have if it were unseen, `[num_forget]`.

    Validation edges are true edges that the original model never saw. For a forgotten edge `e`, let `m_e` and `v_e` be
    mean and variance of the scores (original model, retained graph) of the validation edges most like it in degrees,
    common neighbours and feature similarity, and `s_e` its own score. Then

    .. math:: t_e = m_e + w (s_e - m_e - \overline{s - m}), \quad w = \min(1, \bar v / \mathrm{Var}(s - m))

    removes the mean of `s - m`, which all forgotten edges gained by being seen, and keeps of an edge's own deviation
    the share `w` that unseen edges show as well. Plain means mislead, because forgotten and validation edges differ in
    all these covariates. Test edges are not read.
    """
    data, forget = partition.retain_data, partition.forget_edge_index
    seen, unseen = scores(task, reference, data, forget, data.val_pos_edge_index)
    like = LikeUnseen(data, unseen)
    near = like.scores(like.place(data, forget))
    mean, gap = near.mean(dim=1), seen.double().cpu() - near.mean(dim=1)
    spread = float(gap.var(correction=0))
    share = min(1.0, float(near.var(dim=1).mean()) / spread) if spread > 0 else 1.0
    return (mean + share * (gap - gap.mean())).to(seen)


class LikeUnseen:
    """Finds the validation edges that are most like given pairs.

    Args:
        data: the graph, with `val_pos_edge_index`.
        scores: of these edges.
    """

    def __init__(self, data: Data, scores: Tensor) -> None:
        self._scores = scores.double().cpu()
        covariates = pair_features(data, data.val_pos_edge_index)
        self._scaler = StandardScaler().fit(covariates)
        self._matches = NearestNeighbors(n_neighbors=NEIGHBORS).fit(self._scaler.transform(covariates))

    def place(self, data: Data, pairs: Tensor) -> np.ndarray:
        """Return the scaled covariates of pairs on a graph, `[num_pairs, 6]`."""
        return self._scaler.transform(pair_features(data, pairs))

    def scores(self, place: np.ndarray) -> Tensor:
        """Return scores of the validation edges most like each pair at a `place`, `[num_pairs, NEIGHBORS]`."""
        index = self._matches.kneighbors(place, return_distance=False)
        return self._scores[torch.from_numpy(index)]


@torch.no_grad()
def scores(task: Any, model: nn.Module, data: Data, *pairs: Tensor) -> list[Tensor]:
    """Return a model's scores of some lists of pairs on a graph, `[num_pairs]` each."""
    outputs = task.encode(model, data)
    return [task.decode(model, outputs, task.edge_items(data, some)).logits for some in pairs]


def separated_scores(task: Any, reference: nn.Module, partition: Any, share: float = 0.05) -> Tensor:
    """Return the score below which `share` of the retained edges lie, on the retained graph, `[num_forget]`."""
    data = partition.retain_data
    with torch.no_grad():
        score = task.predict(reference, data, task.edge_items(data, partition.retain_edge_index)).logits
    quantile = np.quantile(score.double().cpu().numpy(), share)  # torch's own refuses large inputs
    return torch.full((partition.num_forget,), float(quantile), dtype=score.dtype, device=score.device)


#: Functions of the target scores by the value of `until`.
SCORE_TARGETS = {"separated": separated_scores, "unseen": unseen_scores}


class ScoreTarget:
    """Releases each forgotten edge once its score is at its target, and ends the run when nearly all are.

    The arguments are those of `Task.target`, and `done`, the share of edges that must have reached their target.
    """

    def __init__(
        self,
        until: str,
        task: Any,
        model: nn.Module,
        reference: nn.Module,
        partition: Any,
        done: float = 0.95,
        narrow: bool = True,
    ) -> None:
        self.task, self.model, self.done = task, model, done
        self.target = SCORE_TARGETS[until](task, reference, partition)
        self.data = partition.retain_data
        self.items = task.edge_items(self.data, partition.forget_edge_index)
        seeds = task.seeds(self.items)
        found = small_subgraph(model, task, self.data, seeds, training=False) if narrow else None
        if found is not None:
            self.data, self.items = found[0].data, task.relabel(self.items, found[0])

    @torch.no_grad()
    def above(self) -> Tensor:
        """Return which edges are above their target (plain messages, evaluation mode), bool `[num_forget]`."""
        with evaluating(self.model):
            return self.task.predict(self.model, self.data, self.items).logits > self.target

    def release(self, predictions: dict[str, Prediction], rows: Callable[[Tensor], Tensor]) -> dict[str, Prediction]:
        """Give weight 0 to forgotten edges that are at their target."""
        forget = predictions["forget"]
        weight = rows(self._active).to(forget.log_prob.dtype)
        return {**predictions, "forget": forget.replace(weight=weight)}

    def reached(self) -> bool:
        """Return whether enough edges are at their target; called before each step."""
        self._active = self.above()
        return bool((~self._active).double().mean() >= self.done)
