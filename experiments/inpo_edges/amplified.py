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
from torch import nn

from gunlearn.attribution.removal.nora import min_max, nora
from gunlearn.methods import INPO, Problem
from gunlearn.methods.graph.message_damping import damped, pair_scores
from gunlearn.nn.layers.influence_conv import MessageScale, influence_scale


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


def first_step(method: INPO, problem: Problem) -> tuple[float, float]:
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
