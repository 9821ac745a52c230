"""The options of all optimised methods, and which of them exclude each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gunlearn.core.checks import check_integer
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses import Loss, Objective, as_objective
from gunlearn.methods.base import Method, check_interval
from gunlearn.tasks.base import STOP_TARGETS, Task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.loop import TrainArguments
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec, check_optimizer, check_scheduler, makes_its_own


@dataclass(frozen=True)
class GradientOptions(Method):
    """How a method trains that minimises an objective.

    Args:
        epochs: passes over the items; without `batch_size` a pass is one optimiser step.
        lr: learning rate.
        weight_decay: the optimiser's own; an L2 penalty for Adam and SGD.
        max_grad_norm: clip the gradient's norm; `None` does not.
        eval_every: epochs between evaluations on validation items, which `EarlyStopping` waits for; `None` never does.
        message_graph: what message passing reads while unlearning: `"retain"` or `"full"`.
        until: `"end"` pushes every forgotten item for all epochs. `"unseen"` lets each forgotten edge go where it
            scores like true edges that the model never saw, `"separated"` where it scores below 95 % of the retained
            edges; the run ends when nearly all are there (link prediction, objectives with a forget part; see
            `tasks/graph/score_targets.py`).
        retain_samples: each step reads so many retained items, stratified by their distance to the forget set and
            weighted so that losses are unbiased, and as many negatives; `None` reads them all.
        batch_size: each step reads the next so many items of each part, in the order of a random permutation; a pass
            is over the retained items where the objective reads any, else over the forgotten ones. `None` reads all.
        sampler: what the model reads for a batch: `"k_hop"`, all that the items' outputs depend on (exact);
            `"neighbor"`, `num_neighbors` random neighbours per layer (PyG's `NeighborLoader`; needs pyg-lib);
            `"random_node"`, random parts of the nodes without the edges between them (methods without a forget part).
        num_neighbors: neighbours per layer for `sampler="neighbor"`.
        subgraph: encode only the subgraph that the step's items depend on: `"auto"` where it has at most half of the
            edges and gives the outputs of the whole graph (tried once), `"always"` or `"never"`.
        steps: optimiser steps, at least one, in place of `epochs`.
        accumulate: read all forgotten items at each step, `batch_size` at a time, and add up their gradients. With
            `until` they are read whole in any case.
        optimizer: a name or class of `torch.optim`, or a function from parameters to an optimiser, which sets the rate.
        optimizer_options: further arguments of the named optimiser, `{"momentum": 0.9}`.
        scheduler: a name of `torch.optim.lr_scheduler`, or a function from the optimiser to a scheduler.
        scheduler_options: arguments of the named scheduler.
        saliency: share of the weights that learn, in (0, 1]: those with the largest gradient of the forgotten items'
            loss on the trained model, SalUn's mask (arXiv 2310.12508); all others, and those without a gradient, stay
            exactly as they are under any optimiser. `None` lets all learn.
    """

    epochs: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    message_graph: str = "retain"
    eval_every: int | None = None
    until: str = "end"
    retain_samples: int | None = None
    batch_size: int | None = None
    sampler: str = "k_hop"
    num_neighbors: tuple[int, ...] | None = None
    subgraph: str = "auto"
    steps: int | None = None
    accumulate: bool = False
    optimizer: OptimizerSpec = "adam"
    optimizer_options: Mapping[str, Any] | None = None
    scheduler: SchedulerSpec | None = None
    scheduler_options: Mapping[str, Any] | None = None
    saliency: float | None = None

    def __post_init__(self) -> None:
        """Refuse bad options at construction, not at the first step."""
        if self.steps is not None:
            check_integer("steps", self.steps, minimum=1)
        self.arguments()
        _ = self.reading
        if self.saliency is not None:
            check_interval(self, "in (0, 1]", "saliency")
        if self.message_graph not in ("retain", "full"):
            raise InvalidInputError(f"Expected 'message_graph' to be 'retain' or 'full' (got '{self.message_graph}')")
        objective = as_objective(self.objective())
        parts = objective.parts
        if self.until != "end" and self.until not in STOP_TARGETS:
            raise InvalidInputError(f"Expected 'until' to be 'end' or one of {STOP_TARGETS} (got {self.until!r})")
        if self.until != "end" and "forget" not in parts:
            raise InvalidInputError(f"Expected a method with a forget loss for 'until' (got '{self.name}')")
        if self.retain_samples is not None and not set(parts) - {"forget"}:
            raise InvalidInputError(
                f"Expected no 'retain_samples' for '{self.name}', which reads no retained items "
                f"(got {self.retain_samples})"
            )
        if self.accumulate and "forget" not in parts:
            raise InvalidInputError(f"Expected no 'accumulate' for '{self.name}', which reads no forgotten items")
        if self.accumulate and self.batch_size is None:
            raise InvalidInputError("Expected 'batch_size' with 'accumulate' (got None)")
        if self.accumulate and any(len(loss.on_parts) > 1 for _, loss in objective.terms):
            raise InvalidInputError(f"Expected losses of one part each with 'accumulate' (got {objective!r})")
        check_optimizer(self.optimizer, self.optimizer_options)
        check_scheduler(self.scheduler, self.scheduler_options)
        if makes_its_own(self.optimizer) and self.weight_decay:
            raise InvalidInputError(f"Expected no 'weight_decay' beside an optimizer's own (got {self.weight_decay})")

    @abstractmethod
    def objective(self) -> Loss | Objective:
        """Return the objective; losses read the parts that the task names."""

    def arguments(self, **more: Any) -> TrainArguments:
        """Return the loop's settings."""
        return TrainArguments(
            self.epochs, self.lr, self.weight_decay, self.max_grad_norm, self.eval_every, steps=self.steps, **more
        )

    @property
    def reading(self) -> BatchOptions:
        """Return how much a step reads."""
        return BatchOptions(self.batch_size, self.sampler, self.num_neighbors, self.retain_samples, self.subgraph)

    @property
    def label(self) -> str:
        """Return the mode, where there is one, the mask and the stop criterion, where they are not the usual ones."""
        mode = getattr(self, "mode", "default")
        masked = "" if self.saliency == type(self).saliency else f" saliency {self.saliency}"
        return mode + masked if self.until == "end" else f"{mode}{masked} until {self.until}"

    def supports(self, task: Task, partition: Any) -> None:
        super().supports(task, partition)
        if self.until != "end":
            task.check_target(self.until, partition.data)
        if not task.shared_pass:
            for name, usual in (("message_graph", "retain"), ("subgraph", "auto"), ("sampler", "k_hop")):
                if getattr(self, name) != usual:
                    raise UnsupportedMethodError(
                        f"Expected no '{name}' for task '{task.name}', which reads no graph "
                        f"(got {getattr(self, name)!r})"
                    )
