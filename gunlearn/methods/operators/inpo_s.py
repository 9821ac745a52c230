"""INPO's objective on GNNDelete's operators."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.methods.base import Outcome, Problem
from gunlearn.methods.gradient import only
from gunlearn.methods.graph.inpo import INPO
from gunlearn.methods.operators.layer_losses import Affected, layer_outputs
from gunlearn.nn.attach.operators import (
    OPERATOR_INITS,
    DeletionOperator,
    OperatorView,
    attach_operators,
    detach_operators,
    viewed,
)


@dataclass(frozen=True)
class INPOS(INPO):
    """INPO's objective on GNNDelete's operators: the weights stay, an operator after each layer learns.

    Objective and stop criterion are those of `INPO(mode="default")`; no paper mode. For the operators see `LayerWise`.

    Args:
        init: initial value of operators, see `DeletionOperator`.
    """

    epochs: int = 150
    lr: float = 5e-3
    beta: float = 0.5
    entropy_weight: float = 0.1
    kl_weight: float = 1.0
    scale_messages: bool = False
    init: str = "identity"

    name = "inpo_s"
    summary = "INPO's objective on GNNDelete's deletion operators"
    needs = "retained data, reference model, layer outputs, trainable layers"
    cost = "`epochs` passes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    def __post_init__(self) -> None:
        if self.mode != "default":
            raise InvalidInputError(f"Expected mode='default' for 'inpo_s' (got {self.mode!r})")
        check_choice("init", self.init, OPERATOR_INITS)
        super().__post_init__()

    def surroundings(self, problem: Problem) -> Callable[[nn.Module], AbstractContextManager]:
        # Only operators learn: the model is in evaluation mode, and all below the operators is computed once.
        around, keep = super().surroundings(problem), self.batch_size is None
        return lambda model: _Frozen(model, around(model), keep)

    def run(self, problem: Problem) -> Outcome:
        calls = layer_outputs(problem.reference, problem.task, problem.partition.retain_data)
        affected = Affected(problem, [name for name, _ in calls])
        with only(problem.model, ()):
            attached = attach_operators(problem.model, affected.operators(calls, self.init))
            outcome = super().run(problem)
            if outcome.state is not None and outcome.state.epoch == 0:
                detach_operators(attached)
        outcome.notes["affected"] = affected.sizes()
        return outcome


class _Frozen:
    """Context of a training pass over the whole graph in which only operators learn."""

    def __init__(self, model: nn.Module, around: AbstractContextManager, keep: bool) -> None:
        self.model, self.around, self.view = model, around, OperatorView(keep=keep)
        self.operators = [m for m in model.modules() if isinstance(m, DeletionOperator) and m.weight.requires_grad]
        self.stacks: list[ExitStack] = []

    def __enter__(self) -> None:
        self.model.eval()
        with ExitStack() as stack:
            stack.enter_context(self.around)
            stack.enter_context(viewed(self.operators, self.view))
            self.stacks.append(stack.pop_all())

    def __exit__(self, *exception: object) -> None:
        self.stacks.pop().close()
