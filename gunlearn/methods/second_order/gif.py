"""GIF, the plain influence function and IDEA: one step of all weights by an inverse curvature."""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice
from gunlearn.curvature.solvers import lissa
from gunlearn.errors import DivergenceError, InvalidInputError, UnsupportedMethodError
from gunlearn.methods.second_order.influence_update import MAX_RISE, InfluenceUpdate, curvature_of
from gunlearn.methods.second_order.removal import Removal

NO_OP = 0.99  # relative residual above which LiSSA hardly moved
SHARES = (1.0, 0.3, 0.1, 0.03)  # lengths of the noise to try, as shares of the step's


@dataclass(frozen=True)
class GIF(InfluenceUpdate):
    r"""Graph influence function (arXiv 2304.02835): own terms leave, the others change by the missing messages.

    .. math:: \theta' = \theta + H^{-1} \Big(\sum_i \nabla \ell_i(\theta; G) - \sum_{i\ \mathrm{stays}}
              \nabla \ell_i(\theta; G_r)\Big)

    Sums run over all training items; those that no message of the request reaches cancel. Independent items (images)
    have no messages: :math:`\theta' = \theta + H^{-1} \sum_{forgotten} \nabla \ell_i`, as `IF`. Default mode: see
    `InfluenceUpdate`. `mode="paper"` follows the authors' code: the Hessian of the summed loss on the whole graph,
    inverted by `lissa` with a fixed number of steps (their README: 100, scale 500, no damping); of the other options it
    reads `max_distance` and `weight_decay`. Too small a scale diverges and raises an error; too large a one does
    nothing and warns. Not repeated: labels of items outside training in `v`; forgotten ids drawn among positions of
    training nodes; the link version's forgotten edges, which stayed positives on both sides.

    Args:
        damping: see `InfluenceUpdate`; in paper mode in units of `scale`, `None` for 0.
        iterations: number of LiSSA's steps.
        scale: LiSSA's scale, for the summed loss; it converges above half of its Hessian's largest eigenvalue.

    Raises:
        DivergenceError: no step can be trusted; in paper mode, LiSSA or the step diverged.
    """

    mode: str = "default"
    iterations: int = 100
    scale: float = 500.0

    name = "gif"
    summary = "one Newton step for the loss without the forgotten items and their messages"
    paper = "arXiv 2304.02835"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, ("default", "paper"))
        if not (self.iterations >= 1 and self.scale > 0):
            raise InvalidInputError(f"Expected iterations >= 1 and scale > 0 (got {self.iterations} and {self.scale})")

    def step(self, removal: Removal, notes: dict[str, Any]) -> Tensor:
        if self.mode == "default":
            return super().step(removal, notes)
        matrix, damping = curvature_of(removal.whole, "hessian", self.weight_decay), self.damping or 0.0
        # The mean loss has curvature H / n, so scale / n on it takes the same steps as scale on H.
        found = lissa(matrix, removal.push, self.iterations, self.scale / removal.whole.num_terms, damping)
        notes |= {"curvature": "hessian", "damping": damping, "scale": self.scale}
        notes |= {"residual": found.residual, "iterations": found.iterations}
        refused = self.refuse(found.x, removal, notes)
        if refused:
            raise DivergenceError(
                f"Expected a step that can be trusted from '{self.name}' in paper mode (got {refused}); raise 'scale', "
                "or use mode='default'"
            )
        if found.residual > NO_OP:
            warnings.warn(
                f"'{self.name}' hardly moved: {found.iterations} LiSSA steps at scale {self.scale:g} leave a relative "
                f"residual of {found.residual:.4f}, a parameter distance of {float(found.x.norm()):.3g}; lower 'scale' "
                "towards half the largest eigenvalue of the summed loss's Hessian, or use mode='default'",
                stacklevel=2,
            )
        return found.x


@dataclass(frozen=True)
class IF(GIF):
    """Influence function (Koh & Liang, arXiv 1703.04730): the forgotten items' own terms leave, the graph stays.

    It ignores their messages, so it refuses requests without own terms: features, edges under node classification.
    """

    name = "if"
    summary = "one Newton step for the loss without the forgotten items' own terms; messages left out"
    paper = "arXiv 1703.04730"
    requests: ClassVar[tuple[str, ...]] = ("edges", "nodes", "items")
    structural = False

    def supports(self, task: Any, partition: Any) -> None:
        super().supports(task, partition)
        own = {"nodes"} | ({"edges"} if task.name == "link_prediction" else set())
        without = [kind for kind in partition.forgets if kind not in own and kind != "items"]
        if without:
            raise UnsupportedMethodError(
                f"Expected a request for {' or '.join(sorted(own))} under task '{task.name}' for '{self.name}' (got "
                f"{' and '.join(without)}, without terms of their own); use 'gif', which follows messages"
            )


@dataclass(frozen=True)
class IDEA(GIF):
    """GIF's step, then noise `N(0, noise^2)` on every weight (arXiv 2407.19398); uncertified.

    The authors' bound assumes Lipschitz and convexity constants of the loss (.25, 1) that no network with a hidden
    layer meets, and they set the noise by hand; so `notes["certificate"]` says "uncertified". Default mode takes noise
    as long as the step, or the largest of `SHARES` of it with which the model still works. Paper mode takes the noise
    of their GCN, 0.6 (CS .1, GIN .005), and does not check the model. `max_distance` limits the step before the noise.

    Args:
        noise: standard deviation per weight; `None` chooses it, in paper mode 0.6.

    Raises:
        DivergenceError: as `GIF`; in default mode also if the noise spoils the retained loss.
    """

    noise: float | None = None

    name = "idea"
    summary = "GIF's step and Gaussian noise"
    paper = "arXiv 2407.19398"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise is not None and not 0 <= self.noise < float("inf"):
            raise InvalidInputError(f"Expected 'noise' >= 0 or None (got {self.noise})")

    def released(self, step: Tensor, removal: Removal, notes: dict[str, Any], seed: int) -> Tensor:
        size = float(step.norm())
        if self.noise is not None:
            stds = [self.noise]
        else:
            stds = [0.6] if self.mode == "paper" else [size / step.numel() ** 0.5 * share for share in SHARES]
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(step.numel(), generator=generator, dtype=torch.float64).to(step)
        for std in stds:
            noisy = step + std * drawn
            refused = self.refuse(noisy, removal, notes, 2 * MAX_RISE)  # updates the loss in notes
            if not refused or self.mode == "paper":
                notes |= {"noise": std, "step": size}
                return noisy
        raise DivergenceError(
            f"Expected noise that leaves the model working from '{self.name}' (got {refused} with a standard deviation "
            f"of {std:.3g}); lower 'noise'"
        )

    def remarks(self, removal: Removal, before: Tensor) -> dict[str, Any]:
        reason = "the bound's Lipschitz and convexity constants are assumed, not checked"
        return {"certificate": {"status": "uncertified", "reason": reason}}
