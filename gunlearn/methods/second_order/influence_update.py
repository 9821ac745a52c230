"""The base class of second-order methods: one step of the weights towards the minimum of the retained loss."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice, check_integer
from gunlearn.curvature.item_loss import AnyTrainingLoss, ItemCurvature, ItemTrainingLoss
from gunlearn.curvature.products import CURVATURES, Curvature, Products, SplitGaussNewton
from gunlearn.curvature.solvers import Krylov, krylov
from gunlearn.errors import DivergenceError, InvalidInputError, UnsupportedMethodError
from gunlearn.methods.base import Method, Outcome, Problem
from gunlearn.methods.second_order.removal import Removal
from gunlearn.tasks.base import Task
from gunlearn.tasks.items.statistics import statistics_note

SHARE = 1e-4  # first damping to try, as a share of the largest eigenvalue
ATTEMPTS = 10  # dampings to try, each three times the one before
MAX_RISE = 0.02  # largest rise of the retained loss, as a share of the loss of zero outputs, or of itself if larger


@dataclass(frozen=True)
class InfluenceUpdate(Method):
    r"""One step :math:`\theta' = \theta + (C + \lambda I)^{-1} v / n` that chooses its own damping.

    :math:`v` is the change of the summed training loss's gradient by the request, :math:`C` the curvature of the
    retained loss :math:`L_r`: from a minimum of the whole loss this is Newton's step on the retained one. Conjugate
    gradients solve it in one small Krylov space for every damping. Dampings of `SHARE` times the largest eigenvalue,
    three times that, and so on, are tried until the residual is at most `tolerance`, the step is no longer than
    `max_distance` times the weights, and the retained loss does not rise by more than `MAX_RISE`; `notes` hold all of
    these. The model runs in evaluation mode, so that batch normalisation computes with its running statistics and keeps
    them. Independent items (images) are read in batches, and :math:`v` is the sum of their own gradients.

    Args:
        curvature: `"gauss_newton"`, positive semi-definite, on the CSR kernels, or `"hessian"`.
        damping: `lambda`, for the mean loss; `None` chooses it.
        tolerance: relative residual of the solution.
        max_iterations: most products with the curvature.
        max_distance: length of the step, in units of the norm of the trained weights.
        weight_decay: L2 penalty of the training, `weight_decay / 2 ||theta||^2`; part of the curvature.
        batch_size: independent items in memory at a time; `None` is a loader's batch, or 256. A graph is read whole.

    Raises:
        DivergenceError: no damping gave a step that can be trusted.
    """

    curvature: str = "gauss_newton"
    damping: float | None = None
    tolerance: float = 0.2
    max_iterations: int = 12
    max_distance: float = 0.5
    weight_decay: float = 0.0
    batch_size: int | None = None

    requests: ClassVar[tuple[str, ...]] = ("edges", "nodes", "features", "items")
    tasks: ClassVar[tuple[str, ...]] = (
        "node_classification", "link_prediction", "node_regression", "node_multilabel", "image_classification"
    )  # fmt: skip
    needs = "retained data, second order"
    state = "last"
    cost = "two gradients and at most `max_iterations` curvature products"
    structural: ClassVar[bool] = True  # count how missing messages change the other terms

    def __post_init__(self) -> None:
        check_choice("curvature", self.curvature, CURVATURES)
        if self.damping is not None and not self.damping >= 0:
            raise InvalidInputError(f"Expected 'damping' >= 0 or None (got {self.damping})")
        if not (0 < self.tolerance < 1 and self.max_iterations >= 1):
            raise InvalidInputError(
                f"Expected 0 < tolerance < 1 and max_iterations >= 1 (got {self.tolerance}, {self.max_iterations})"
            )
        if not (self.max_distance > 0 and self.weight_decay >= 0):
            raise InvalidInputError(
                f"Expected max_distance > 0, weight_decay >= 0 (got {self.max_distance}, {self.weight_decay})"
            )

        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, minimum=1)

    def supports(self, task: Task, partition: Any) -> None:
        super().supports(task, partition)
        if self.batch_size is not None and partition.forgets != ("items",):
            raise UnsupportedMethodError(
                f"Expected independent items for 'batch_size' of '{self.name}', which reads a graph whole "
                f"(got {self.batch_size} for {' and '.join(partition.forgets)})"
            )

    def removal(self, problem: Problem) -> Removal:
        """Return the training loss with and without what the request names."""
        if problem.partition.forgets == ("items",):
            return Removal.of_items(problem, self.batch_size)
        return Removal.of(problem, self.structural)

    def run(self, problem: Problem) -> Outcome:
        with torch.enable_grad():
            removal = self.removal(problem)
            notes: dict[str, Any] = {"curvature": self.curvature, "distance": 0.0, "relative_distance": 0.0}
            theta = removal.weights()
            if removal.push.any():  # else no training term reads what is forgotten
                step = self.released(self.step(removal, notes), removal, notes, problem.seed)
                removal.put(theta + step)
                notes["distance"] = float(step.norm())
                notes["relative_distance"] = notes["distance"] / (float(theta.norm()) or 1.0)
            notes |= self.remarks(removal, theta)
        return Outcome(problem.model.eval(), notes=notes | statistics_note(problem.model))

    def released(self, step: Tensor, removal: Removal, notes: dict[str, Any], seed: int) -> Tensor:
        """Return the step `[num_params]` to publish: here the step itself."""
        return step

    def remarks(self, removal: Removal, before: Tensor) -> dict[str, Any]:
        """Return more notes once the model has moved from the parameters `before` `[num_params]`."""
        return {}

    def step(self, removal: Removal, notes: dict[str, Any]) -> Tensor:
        """Return the step with the first damping that can be trusted, `[num_params]`."""
        matrix = curvature_of(removal.rest, self.curvature, self.weight_decay)
        span = krylov(
            matrix, removal.push, self.max_iterations, lambda s: s.solve(self.first(s)).residual <= self.tolerance
        )
        first, refused = self.first(span), ""
        for damping in [first] if self.damping is not None else [first * 3.0**k for k in range(ATTEMPTS)]:
            found = span.solve(damping)
            if found.residual > self.tolerance:
                refused = f"a relative residual of {found.residual:.3g} after {found.iterations} iterations"
                continue
            refused = self.refuse(found.x, removal, notes)
            if not refused:
                notes |= {"damping": damping, "residual": found.residual, "iterations": found.iterations}
                notes["largest_eigenvalue"] = span.spectrum.largest
                return found.x
        raise DivergenceError(
            f"Expected a step that can be trusted from '{self.name}' (got {refused} with damping {damping:.3g}); leave "
            "'damping' to be chosen, raise 'max_iterations', or ask for less at a time"
        )

    def first(self, span: Krylov) -> float:
        """Return the option `damping`, or the smallest damping to try; 1 for a loss without curvature."""
        if self.damping is not None:
            return self.damping
        ends = span.spectrum
        # A Gauss-Newton matrix has no negative eigenvalue: ignore an unconverged bound below zero.
        found = SHARE * ends.bounds[1] if self.curvature == "gauss_newton" else ends.damping(SHARE)
        if found <= -ends.smallest and self.curvature == "gauss_newton":
            found = -2 * ends.smallest  # rounding (of half precision, say) took an eigenvalue of zero below zero
        return found if found > 0 else 1.0

    def refuse(self, step: Tensor, removal: Removal, notes: dict[str, Any], max_rise: float = MAX_RISE) -> str:
        """Return why a step cannot be trusted, empty if it can; the loss may rise by `max_rise`, see `MAX_RISE`."""
        theta = removal.weights()
        longest = self.max_distance * float(theta.norm())
        if not float(step.norm()) <= longest:
            return f"a step of length {float(step.norm()):.3g}, above {longest:.3g}"
        before, uninformed = removal.loss_before
        after = removal.retained_loss(theta + step)
        notes |= {"retained_loss_before": before, "retained_loss": after}
        rise = after - before + self.weight_decay / 2 * float((theta + step) @ (theta + step) - theta @ theta)
        if not rise <= max_rise * max(before, uninformed):
            return f"a retained loss of {after:.3g}, after {before:.3g}"
        return ""


def curvature_of(loss: AnyTrainingLoss, kind: str, weight_decay: float) -> Products:
    """Return products with the curvature, on the CSR kernels if these have the second order."""
    if isinstance(loss, ItemTrainingLoss):
        return ItemCurvature(loss, kind, weight_decay)
    # Without a decoder of the model's own, logits are the outputs themselves or inner products of them.
    decodes = hasattr(loss.model, "decode") or getattr(loss.task, "score", None) is not None
    plain = loss.task.name != "link_prediction" or not decodes
    if kind == "gauss_newton" and plain:
        return SplitGaussNewton(loss, weight_decay)
    return Curvature(replace(loss, kernels=False), kind, weight_decay)
