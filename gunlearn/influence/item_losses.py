"""What an item adds to the training loss by itself, for estimators that follow gradients of it."""

from __future__ import annotations

from torch import Tensor

from gunlearn.errors import UnsupportedMethodError
from gunlearn.influence.base import InfluenceProblem
from gunlearn.influence.training_loss import own_terms, training_items
from gunlearn.tasks import LinkPrediction, NodeClassification


def require_item_losses(problem: InfluenceProblem) -> None:
    """Refuse items without a loss of their own.

    Raises:
        UnsupportedMethodError: edges or features of node classification, or another task.
    """
    labelled = isinstance(problem.task, NodeClassification) and problem.items.of == "nodes"
    if not (labelled or isinstance(problem.task, LinkPrediction)):
        raise UnsupportedMethodError(
            f"Expected items with a training loss of their own, edges or nodes of link prediction or nodes of node "
            f"classification (got {problem.items.of} under '{problem.task.name}')"
        )


def item_losses(problem: InfluenceProblem, outputs: Tensor) -> Tensor:
    """What each item adds to the mean training loss, given outputs `[num_nodes, dim]`: `[num_items]`.

    Link prediction: an edge adds its own term as a positive example, a node those of all its edges (random negatives,
    as many as edges, count in the mean but belong to nobody). Node classification: a node adds its label's term,
    nothing where it is not trained on.
    """
    task, training = problem.task, training_items(problem)
    item, term = own_terms(training, problem.items)
    ends = task.seeds(training).view(-1, training.num_items)[:, term]
    mine = task.reading(training, term, ends, outputs.size(0))
    values = -task.decode(problem.model, outputs, mine).log_prob / training.num_items
    return values.new_zeros(problem.items.num_items).index_add(0, item, values)
