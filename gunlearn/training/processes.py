"""Several processes on one problem: each decodes a share of the items, and gradients are averaged.

`accelerate launch` starts the same unchanged script in every process. All processes keep the same model, random state
and history: each draws the same items, decodes every `world`-th of them, and steps by the mean gradient. The results
are those of one process, up to the order of sums.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gunlearn.errors import InvalidInputError, MissingExtraError, UnsupportedModelError
from gunlearn.losses import Objective, ObjectiveValue, Prediction
from gunlearn.seed import isolated_rng


def world_size() -> int:
    """Return the number of processes that a launcher (`accelerate launch`, `torchrun`) started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


@functools.cache
def processes() -> Processes:
    """Return the processes that train together; detected once.

    Raises:
        MissingExtraError: several were launched, and `accelerate` is not installed.
        InvalidInputError: several were launched, and `accelerate` joined another number of them.
    """
    if world_size() == 1:
        return Processes()
    try:
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env
    except ImportError as error:
        raise MissingExtraError(
            f"Expected 'accelerate' for {world_size()} processes (got none); pip install 'gunlearn[distributed]'"
        ) from error
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available())
    if state.num_processes != world_size():  # the script made an Accelerator without CUDA
        raise InvalidInputError(
            f"Expected accelerate to join {world_size()} processes (got {state.num_processes}); without CUDA set the "
            "environment variable ACCELERATE_USE_CPU=1"
        )
    return Processes(state.process_index, state.num_processes, state.device)


class Processes:
    """The processes that train together. In a single one every method returns its input.

    Args:
        device: where this process communicates; its model must be there.

    Attributes:
        turn: counts the uses of `apart`; the loop sets it at each step, so that a resumed run draws the same numbers.
    """

    def __init__(self, rank: int = 0, world: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.world, self.turn = rank, world, 0
        self.device = torch.device("cpu") if device is None else device

    @property
    def main(self) -> bool:
        """Return whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, items: Mapping[str, Any]) -> dict[str, Any]:
        """Return this process's items of each part: every `world`-th, from `rank` on."""
        return dict(items) if self.world == 1 else {k: v.share(self.rank, self.world) for k, v in items.items()}

    def rows(self, values: Tensor) -> Tensor:
        """Return this process's rows of `values` `[num_items, ...]`."""
        return values if self.world == 1 else values[self.rank :: self.world]

    @contextmanager
    def apart(self, model: nn.Module) -> Iterator[None]:
        """Let random numbers differ between processes inside the block, where each computes on its own share.

        Batch normalisation in training, which needs all items, raises `UnsupportedModelError`.
        """
        if self.world == 1:
            yield
            return
        with torch.random.fork_rng(devices=[]):
            seed = int(torch.randint(2**31, ()))
        hooks = [m.register_forward_pre_hook(_refuse) for m in model.modules() if isinstance(m, _BatchNorm)]
        try:
            # With the turn, a model that draws numbers only here draws other ones at each step.
            with isolated_rng(seed + self.turn * self.world + self.rank):
                yield
        finally:
            self.turn += 1
            for hook in hooks:
                hook.remove()

    def evaluate(
        self,
        objective: Objective,
        items: Mapping[str, Any],
        current: Mapping[str, Prediction],
        reference: Mapping[str, Prediction] | None = None,
    ) -> ObjectiveValue:
        """Return the objective on this process's share, weighted so that its mean over processes is that of all items.

        Predictions are of the share, `items` are all items of each part. Raises `InvalidInputError` for a prediction
        with a mask: the number of entries that count on all processes is unknown here.
        """
        if self.world == 1:
            return objective(current, reference)
        terms, factors = [], []
        for weight, loss in objective.terms:
            prediction = current[loss.on]
            if prediction.mask is not None:
                raise InvalidInputError(f"Expected predictions without a mask on several processes (got '{loss.on}')")
            share = 1.0 if loss.reduction == "sum" else prediction.num_items / max(items[loss.on].num_items, 1)
            factors.append(self.world * share)
            terms.append((weight * factors[-1], loss))
        value = Objective(tuple(terms))(current, reference)
        named = zip(value.terms.items(), factors, strict=True)
        return ObjectiveValue(value.total, {name: factor * term for (name, term), factor in named})

    def average(self, value: ObjectiveValue, parameters: Sequence[nn.Parameter] = ()) -> ObjectiveValue:
        """Return mean losses over processes, and replace the gradients of `parameters` by their means."""
        if self.world == 1:
            return value
        from accelerate.utils import reduce

        losses = torch.stack([value.total.detach(), *value.terms.values()])
        # A parameter without a gradient on any process keeps none, so that the optimiser skips it.
        present = losses.new_tensor([p.grad is not None for p in parameters])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        sizes = [len(losses), len(present), *(gradient.numel() for gradient in gradients)]
        mean = reduce(torch.cat([losses, present, *(g.reshape(-1) for g in gradients)]), "mean").split(sizes)
        for parameter, gradient, there in zip(parameters, mean[2:], mean[1].tolist(), strict=True):
            if there:
                # In the parameter's memory layout, which the fused optimiser assumes.
                parameter.grad = torch.empty_like(parameter).copy_(gradient.view_as(parameter))
        return ObjectiveValue(mean[0][0], dict(zip(value.terms, mean[0][1:], strict=True)))

    def agree(self, *numbers: float) -> list[float]:
        """Return the main process's numbers: rounding must not let processes decide differently."""
        if self.world == 1:
            return list(numbers)
        from accelerate.utils import broadcast

        return broadcast(torch.tensor(numbers, dtype=torch.float64, device=self.device)).tolist()

    def wait(self) -> None:
        if self.world > 1:
            from accelerate.utils import wait_for_everyone

            wait_for_everyone()

    def check_alike(self, model: nn.Module, step: int) -> None:
        """Refuse processes that differ in weights, random state or step, or a model on another device."""
        if self.world == 1:
            return
        from accelerate.utils import gather

        device = next(model.parameters()).device
        if device != (torch.device("cpu") if self.device.type == "cpu" else self.device):  # accelerate says "cpu:0"
            raise InvalidInputError(
                f"Expected the model and its data on this process's device, {self.device} (got {device}); move them to "
                "accelerate.PartialState().device, or set the environment variable ACCELERATE_USE_CPU=1"
            )
        digest = hashlib.sha256(str(step).encode())
        for value in (torch.get_rng_state(), *model.parameters(), *model.buffers()):
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        number = int.from_bytes(digest.digest()[:7], "big")
        if gather(torch.tensor([number], device=self.device)).unique().numel() > 1:
            raise InvalidInputError(
                "Expected the same weights, random state and checkpoint on every process (got different ones); draw "
                "the model's weights under one seed, and keep checkpoints in a folder that all processes see"
            )


def _refuse(module: nn.Module, args: Any) -> None:
    if module.training:
        raise UnsupportedModelError(
            f"Expected a model that treats items one by one on several processes (got {type(module).__name__}, which "
            "needs all of them at once); use group or layer normalisation, or one process"
        )
