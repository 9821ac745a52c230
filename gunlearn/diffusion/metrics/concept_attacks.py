"""Is a forgotten concept still in a denoiser? Attackers who hold images of it learn a condition, or the weights."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_integer
from gunlearn.core.modes import evaluating
from gunlearn.diffusion.noised_items import check_conditions, check_images, draw_items
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.losses import NLL, as_objective
from gunlearn.seed import isolated_rng
from gunlearn.tasks.trial import private_copy
from gunlearn.training.callbacks import Callback, TrainControl, TrainState
from gunlearn.training.loop import TrainArguments, fit

if TYPE_CHECKING:
    from gunlearn.diffusion.denoising import Denoising


def learned_condition(
    model: nn.Module,
    task: Denoising,
    images: Tensor,
    condition: int | Tensor,
    *,
    steps: int = 300,
    lr: float = 0.01,
    batch_size: int = 32,
    seed: int = 0,
) -> tuple[nn.Module, Tensor]:
    """Learn a condition under which the model draws a concept again; no weight of the model itself learns.

    For text embeddings it is textual inversion (`arXiv:2208.01618 <https://arxiv.org/abs/2208.01618>`_), for classes
    the class's row of the model's embedding of classes is learned. What it brings back was hidden, not gone.
    A model that never saw the concept may be led there as well: compare with retrained ones.

    Args:
        model: does not change.
        task: how it is called.
        images: of the concept, `[num_images, channels, height, width]`.
        condition: the class, or the text embedding `[num_tokens, dim]` to begin with.
        steps: of Adam.
        lr: its learning rate.
        batch_size: images per step.
        seed: of the draws; the global random state does not change.

    Returns:
        A model and a condition `[1, ...]` to sample with: for classes a copy with the learned row and the class, for
        embeddings a copy and the learned embedding.

    Raises:
        InvalidInputError: no image, or a class outside the embedding.
        UnsupportedModelError: a class-conditional model without an embedding of classes of its own.
    """
    check_images(images)
    with isolated_rng(seed):
        learner = private_copy(model, task).requires_grad_(False)
        if isinstance(condition, Tensor) and condition.is_floating_point():
            start = condition.detach().clone()
            hold = _Learned(start)
            asked = lambda count: hold.value.expand(count, *start.shape)  # noqa: E731
            hook = None
        else:
            label = int(condition)
            table = _class_table(learner, label)
            hold = _Learned(table.weight[label].detach().clone())
            asked = lambda count: torch.full((count,), label)  # noqa: E731

            def replaced(module: nn.Module, args: Any, output: Tensor) -> Tensor:
                return torch.where((args[0] == label).unsqueeze(-1), hold.value, output)

            hook = table.register_forward_hook(replaced)
        try:
            _fit(hold, learner, task, images, asked, steps, lr, batch_size)
        finally:
            if hook is not None:
                hook.remove()
        value = hold.value.detach()
        if hook is None:
            return learner, value.unsqueeze(0)
        with torch.no_grad():
            table.weight[label] = value
        return learner, torch.tensor([label])


def relearning_curve(
    model: nn.Module,
    task: Denoising,
    images: Tensor,
    conditions: Tensor,
    measure: Callable[[nn.Module], float],
    *,
    at: Collection[int] = (0, 5, 10, 20, 50),
    lr: float = 2e-4,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[int, float]:
    """Return a measure of a copy of the model after so many steps of Adam on the forgotten images alone.

    A model that only hides the concept takes fewer steps than a retrained one. All weights learn.

    Args:
        model: does not change.
        task: how it is called.
        images: the forgotten ones, `[num_images, channels, height, width]`.
        conditions: theirs, `[num_images, ...]`.
        measure: `measure(model)`, such as a judge's share of the concept among new images.
        at: numbers of steps; 0 is the model as it is.
        lr: learning rate.
        batch_size: images per step.
        seed: of the draws; the global random state does not change.

    Raises:
        InvalidInputError: no image, no condition for each, or no number of steps.
    """
    check_images(images)
    check_conditions(conditions, images.size(0))
    wanted = sorted(set(at))
    if not wanted:
        raise InvalidInputError("Expected numbers of steps in 'at' (got none)")
    check_integer("at", wanted[0], minimum=0)
    found: dict[int, float] = {}
    if wanted[0] == 0:
        with isolated_rng(seed):
            found[0] = float(measure(model))
    with isolated_rng(seed):
        learner = private_copy(model, task).requires_grad_()
        curve = _Measured(measure, wanted, found)
        if wanted[-1]:
            _fit(learner, learner, task, images, conditions, wanted[-1], lr, batch_size, [curve])
    return found


class _Learned(nn.Module):
    """One tensor to learn."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)


class _Measured(Callback):
    """Measures the model after some steps."""

    def __init__(self, measure: Callable[[nn.Module], float], at: Collection[int], found: dict[int, float]) -> None:
        self.measure, self.at, self.found = measure, set(at), found

    def on_step_end(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        if state.step in self.at:
            with evaluating(kwargs["model"]):
                self.found[state.step] = float(self.measure(kwargs["model"]))


def _fit(
    trained: nn.Module,
    model: nn.Module,
    task: Denoising,
    images: Tensor,
    conditions: Tensor | Callable[[int], Tensor],
    steps: int,
    lr: float,
    batch_size: int,
    callbacks: Collection[Callback] = (),
) -> None:
    """Minimise the usual loss of the images over the parameters of `trained`, with the model in evaluation mode."""
    if not images.size(0):
        raise InvalidInputError("Expected images of what was forgotten (got none)")
    objective = as_objective(NLL(on="forget"))

    def step() -> Any:
        rows = torch.randint(images.size(0), (min(batch_size, images.size(0)),)).to(images.device)
        y = conditions(len(rows)) if callable(conditions) else conditions[rows]
        items = draw_items(task.noise_schedule, images[rows], y, task.timesteps)
        return objective({"forget": task.decode(model, None, items)})

    with evaluating(model):
        fit(trained, step, TrainArguments(epochs=0, steps=steps, lr=lr, max_grad_norm=1.0), list(callbacks))


def _class_table(model: nn.Module, label: int) -> nn.Embedding:
    """Return the model's embedding of classes: diffusers' `class_embedding`, or the only embedding that there is."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    named = {name: part for name, part in found.items() if name.endswith("class_embedding")}
    tables = list((named or found).values())
    if len(tables) != 1:
        raise UnsupportedModelError(
            f"Expected one embedding of classes, 'class_embedding' (got {', '.join(found) or 'no nn.Embedding'})"
        )
    if not 0 <= label < tables[0].num_embeddings:
        raise InvalidInputError(f"Expected a class among 0 to {tables[0].num_embeddings - 1} (got {label})")
    return tables[0]
