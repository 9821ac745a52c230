"""Train a linear head to the optimum of its convex problem, and record what certificates need."""

import copy

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.methods.linear_head.convex import Logistic, one_vs_rest, ridge_regression, rounding
from gunlearn.methods.linear_head.propagation import propagated
from gunlearn.nn.layers.linear_head import LinearHead, head_of
from gunlearn.tasks.graph.node_classification import training_nodes


@torch.no_grad()
def fit_linear_head(model: nn.Module, data: Data, lam: float = 1e-3, alpha: float = 1.0, seed: int = 0) -> LinearHead:
    """Return a head in evaluation mode, trained to the minimum of its strictly convex problem; `model` does not change.

    Logistic (Guo et al., arXiv 1911.03030, and CGU, arXiv 2206.09140): each class against the rest,
    `sum_i log(1 + exp(-y_i w z_i)) + lam n / 2 ||w||^2 + b w` over the `n` training nodes, with `b ~ N(0, alpha^2 I)`
    drawn once; without `b` no certificate holds. Least squares: `||Z W - Y||^2 + lam ||W||^2` with `Y` of 1 and -1.

    Args:
        model: a `LinearHead`, or one `SGConv`, which becomes a `LinearHead` of its depth without bias or `normalize`.
        data: with `x`, `edge_index`, `y`; the head learns from the training nodes.
        lam: ridge, above 0; per node in the logistic problem, as it is for least squares.
        alpha: standard deviation of `b`; more noise buys more removals and costs accuracy. Not for least squares.
        seed: seed of `b`. It reveals `b`: a certificate towards others needs a seed that they cannot guess.

    Raises:
        InvalidInputError: `lam` not above 0, or a negative `alpha`.
        UnsupportedModelError: no linear head, or one whose sizes do not fit the data.
        DivergenceError: the optimum was not reached.
    """
    if not lam > 0 or not alpha >= 0:
        raise InvalidInputError(f"Expected lam > 0 and alpha >= 0 (got {lam} and {alpha})")
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"Expected 'model' to be a torch module (got {type(model).__name__})")
    view = head_of(model)
    if view.record is None:
        old = view.lin.get_parameter("weight")
        head = LinearHead(old.size(1), old.size(0), len(view.hops) - 1, normalize=view.normalize)
        head = head.to(old.device, old.dtype)
    else:
        head = copy.deepcopy(view.record)
    items = training_nodes(data)
    if data.x.size(1) != head.lin.in_features or int(items.label.max()) >= head.lin.out_features:
        raise UnsupportedModelError(
            f"Expected a head for {data.x.size(1)} features and at least {int(items.label.max()) + 1} classes "
            f"(got {head.lin.in_features} and {head.lin.out_features})"
        )
    z, sign = propagated(data, items.index, head.hops, head.normalize), one_vs_rest(items.label, view.num_classes)
    if head.loss == "least_squares":
        weight, inverse = ridge_regression(z, sign, lam)
        head.lam.fill_(lam)
        head.inverse.copy_(inverse)
        head.solution.copy_(weight.t())
        head_of(head).put(weight)
    else:
        solve_head(head, z, sign, lam, alpha, seed)
    return head.eval()


def solve_head(head: LinearHead, z: Tensor, sign: Tensor, lam: float, alpha: float, seed: int) -> Logistic:
    """Draw a perturbation, find the optimum, record both on the head, and return the problem that was solved.

    Propagated features `z` are `[n, f]`, signs (see `one_vs_rest`) `[n, num_classes]`; see `fit_linear_head`.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = alpha * torch.randn(z.size(1), sign.size(1), generator=generator, dtype=torch.float64)
    head.perturbation.copy_(noise.t())
    head.lam.fill_(lam)
    head.alpha.fill_(alpha)
    problem = problem_of(head, z, sign)  # as recorded: buffers may be of lower precision
    weight = head_of(head).put(problem.minimise(torch.zeros_like(noise, device=z.device)))
    head.spent.copy_(problem.gradient(weight).norm(dim=0) + rounding(z.size(0)))
    head.gap.zero_()
    return problem


def problem_of(head: LinearHead, z: Tensor, sign: Tensor) -> Logistic:
    """Return the logistic problem of a head's record, on given rows."""
    return Logistic(z, sign, float(head.lam), head.perturbation.double().t())
