"""What a retrained model is expected to say of forgotten edges."""

from typing import Any

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from gunlearn.requests.edges import ForgetEdges
from gunlearn.tasks.graph.score_targets import LikeUnseen, scores

_CONTROLS, _SHARE, _LIKE = 1000, 0.05, 50  # control edges: at most, of the training edges; alike ones for each
_GONE = 0.5  # share of the gap that retraining takes away


def retrained_scores(task: Any, reference: nn.Module, partition: Any) -> Tensor:
    r"""Return the score that each forgotten edge is expected to get from a retrained model, `[num_forget]`.

    How much does a link predictor score an edge higher for having been trained on it? Other training edges tell: up to
    1000 of them, at most a twentieth, are drawn and taken out of the graph as if they were forgotten too. Of each, let
    `g` be its score on that graph minus the mean score of the validation edges most like it (`unseen_scores`). Then

    .. math:: t_e = s_e - \tfrac{1}{2} \overline{g}_e

    with `s_e` the forgotten edge's score on the retained graph and the mean over the 50 drawn edges most like it. Half
    of the gap, because that is what retraining takes away (measured in `experiments/nearest`). Test edges are not read.
    """
    data, forget = partition.retain_data, partition.forget_edge_index
    count = min(_CONTROLS, int(_SHARE * partition.num_retain))
    seen, unseen = scores(task, reference, data, forget, data.val_pos_edge_index)
    if count == 0:
        return seen
    control = ForgetEdges(count=count, seed=0).resolve(data)
    drawn, without = control.forget_edge_index, control.retain_data
    like = LikeUnseen(data, unseen)
    place = like.place(without, drawn)
    gap = scores(task, reference, without, drawn)[0].double().cpu() - like.scores(place).mean(dim=1)
    alike = NearestNeighbors(n_neighbors=min(_LIKE, drawn.size(1))).fit(place)
    index = alike.kneighbors(like.place(data, forget), return_distance=False)
    return seen - _GONE * gap[torch.from_numpy(index)].mean(dim=1).to(seen)
