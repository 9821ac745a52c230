"""SalUn's mask in a Trainer: only the weights that matter most to the rows to forget learn (arXiv 2310.12508)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import TrainerCallback

from gunlearn.core.modes import evaluating
from gunlearn.llm.data.collate import row_batches
from gunlearn.llm.model.token_prediction import token_log_probs
from gunlearn.methods.saliency import adapter_names, salient
from gunlearn.training.held_weights import HeldWeights

if TYPE_CHECKING:
    from gunlearn.llm.training.trainer import UnlearnTrainer


class HoldingCallback(TrainerCallback):
    """Restores held weights after each optimiser step; `UnlearnTrainer` clears their gradients."""

    def __init__(self, held: HeldWeights) -> None:
        self.held = held

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.held.restore()


def hold_in_trainer(trainer: UnlearnTrainer, rows: Any, share: float, batch_size: int) -> HeldWeights:
    """Let a share of a trainer's weights learn: those with the largest gradient of the loss of `rows`; see `salient`.

    Raises `UnsupportedMethodError` where no weight that learns has a gradient, and for a new adapter: see `salient`.
    """
    model, parameters = trainer.model, [p for p in trainer.model.parameters() if p.requires_grad]

    def losses(batch: dict[str, Tensor]) -> Tensor:
        return -token_log_probs(model, batch)

    batches = row_batches(model, rows, trainer.data_collator, batch_size)
    with evaluating(model):
        names = adapter_names(hasattr(model, "peft_config"), model)
        moving = salient((partial(losses, batch) for batch in batches), parameters, share, names)
    trainer.held = HeldWeights(parameters, moving)
    trainer.add_callback(HoldingCallback(trainer.held))
    return trainer.held
