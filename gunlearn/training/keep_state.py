"""A callback that keeps the state of a training, for `gunlearn.train` and for loops of one's own."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from gunlearn.core.checks import check_integer
from gunlearn.core.digest import state_hash
from gunlearn.errors import InvalidInputError
from gunlearn.training.callbacks import StatefulCallback, TrainState
from gunlearn.training.calls_per_step import CallsPerStep
from gunlearn.training.inner_model import inner_model
from gunlearn.training.kept_arguments import check_kept_state, check_step_arguments, check_trained_model
from gunlearn.training.optimizer_state import optimizer_kind, steps_counted, unwrapped
from gunlearn.training.training_state import READING, Moment, TrainingState, on_cpu

#: A checkpoint each twentieth of the steps; those of the last fifth are kept, at these distances from the end.
_PARTS, _KEPT = 20, (1, 2, 4)


class KeepState(StatefulCallback):
    """Keeps the optimiser's state and three checkpoints of a training; `state` returns them when it has ended.

    `gunlearn.train` does so by itself. In a loop of your own call `step` after each optimiser step::

        keeping = gunlearn.KeepState(steps=500)
        for _ in range(500):
            ...
            optimizer.step()
            keeping.step(model, optimizer)
        training = keeping.state(model)

    If you go back to the best weights at the end, call `settle` each time you take a copy of them.

    In Lightning call `self.keeping.step(self.model, self.optimizers())` at the end of `optimizer_step`; a Trainer of
    transformers takes `gunlearn.llm.as_trainer_callback(keeping)` among its callbacks.

    Checkpoints are taken 1/20, 1/10 and 1/5 of all steps before the end, since going back that far costs that share of
    a training; where nobody planned the steps, at most that far. Each holds weights, optimiser state and random state,
    three times the model's size with Adam, on the CPU; while training goes on there are up to five.

    Args:
        steps: that are planned, which say when checkpoints are due; `None` where the loop says so itself, or nobody
            knows. Budgets and prices count those that were taken.

    Raises:
        InvalidInputError: no steps.
    """

    draws_nothing = True

    def __init__(self, steps: int | None = None) -> None:
        if steps is not None:
            check_integer("steps", steps, minimum=1)
        self._plan(steps or 1)
        self.planned = steps is not None
        self.taken, self.kind = 0, ""
        self.names: tuple[str, ...] = ()
        self.moments: list[Moment] = []
        self.rates: list[list[float]] = []
        self.ended: tuple[int, dict[str, Any], list[Moment]] | None = None
        self._optimizer: Any = None
        self._versions: list[int] = []
        self._rate: list[float] | None = None
        self._calls = CallsPerStep()

    def _plan(self, steps: int) -> None:
        self.planned, self.every = True, max(1, steps // _PARTS)

    def step(self, model: nn.Module, optimizer: Any) -> None:
        """Note a step that was taken, and keep a checkpoint where one is due; call it before a scheduler's step.

        Raises:
            InvalidInputError: anything but a model and one optimiser, or the optimiser counts other numbers of steps.
        """
        check_step_arguments(model, optimizer)
        model = inner_model(model)
        self.taken += 1
        self.rates.append(self._rate or _rates(optimizer))
        self._rate = None
        optimizer = self._follow(model, optimizer)
        while not self.planned and self.taken >= 2 * _PARTS * self.every:
            self.every *= 2
            self.moments = [moment for moment in self.moments if moment.step % self.every == 0]
        if self.taken % self.every == 0:
            reach = self.taken - _KEPT[-1] * self.every
            self.moments = [moment for moment in self.moments if moment.step >= reach]
            weights, state = on_cpu(model.state_dict()), on_cpu(optimizer.state_dict())
            self._calls.check(self.taken, state["state"])
            self.moments.append(Moment(self.taken, weights, state, torch.get_rng_state()))

    def _follow(self, model: nn.Module, optimizer: Any) -> Any:
        """Note what the optimiser is and how its parameters are; return it without what wraps it."""
        optimizer = unwrapped(optimizer)
        self.kind = optimizer_kind(optimizer)
        if optimizer is not self._optimizer:
            called = {id(parameter): name for name, parameter in model.named_parameters()}
            self.names = tuple(called.get(id(p), "") for group in optimizer.param_groups for p in group["params"])
            self._calls = CallsPerStep()
            self._calls.check(self.taken, optimizer.state)
        self._optimizer, self._versions = optimizer, _versions(optimizer)
        return optimizer

    def settle(self) -> None:
        """Note that the weights as they are now may be the final ones: a copy was taken as the best so far.

        Raises:
            InvalidInputError: a resumed loop has taken no step yet, so that its optimiser is not known.
        """
        if self.taken and self._optimizer is None:
            raise InvalidInputError("Expected 'step(model, optimizer)' before 'settle()' in a resumed loop (got none)")
        self.ended = self._now()

    def _now(self) -> tuple[int, dict[str, Any], list[Moment]]:
        state = {} if self._optimizer is None else on_cpu(self._optimizer.state_dict())  # before the first step
        return self.taken, state, list(self.moments)

    def state(self, model: nn.Module, **reading: Any) -> TrainingState:
        """Return the state of the training, which ended in the weights of `model`.

        Args:
            model: as it was left.
            **reading: how items were read, see `TrainingState`.

        Raises:
            InvalidInputError: another name in `reading`; `step` was never called, or not after each step; `model` is
                not the one that it was called with; or the weights are not those of the last one and `settle` was not
                called, or before the first one alone.
        """
        unknown = sorted(reading.keys() - set(READING))
        if unknown:
            raise InvalidInputError(f"Expected how items were read by {list(READING)} (got {unknown})")
        if not self.taken or self._optimizer is None:
            part = "resumed part of the training" if self.taken else "training"
            raise InvalidInputError(f"Expected 'step(model, optimizer)' after each step of the {part} (got none)")
        whole, model = model, inner_model(model)
        check_trained_model(whole, model, self.names)
        unmoved = self._holds_the_last_step(model)
        if unmoved:
            self._calls.check(self.taken, self._optimizer.state)
        if not unmoved and self.ended is None:
            raise InvalidInputError(
                "Expected the weights that the last 'step' left (got others, such as those of an earlier epoch); call "
                "'settle()' each time the best weights are taken, so that the optimiser's state is theirs, and 'step' "
                "after all that changes weights in a step; for an average of weights (EMA, SWA) hand in "
                "optimizer=optimizer.state_dict()"
            )
        if not unmoved and self.ended is not None and not self.ended[0]:
            raise InvalidInputError(
                "Expected weights that a step left (got others than the last one's, and 'settle()' was called before "
                "the first step alone): of a model as it was before the training there is no state; call 'settle()' "
                "each time better weights are taken, too"
            )
        steps, optimizer, moments = self._now() if self.ended is None or unmoved else self.ended
        each = [torch.tensor(of_step) for of_step in self.rates]
        rates = pad_sequence(each, batch_first=True)  # a group that was added later had none before
        wanted = [steps - back * self.every for back in _KEPT]
        return TrainingState(
            steps=steps,
            total=max(self.taken, steps_counted(optimizer) or 0),  # not those planned; a resumed one took some before
            kind=self.kind,
            optimizer=optimizer,
            names=() if "" in self.names else self.names,
            weights=state_hash(model),
            reading=reading,
            rates=None if bool((rates == rates[:1]).all()) else rates,
            moments=tuple(m for m in moments if any(0 <= m.step - w < self.every and m.step < steps for w in wanted)),
        )

    def _holds_the_last_step(self, model: nn.Module) -> bool:
        """Return whether the weights of `model` are those that the last step left in the optimiser's parameters."""
        if _versions(self._optimizer) != self._versions:
            return False
        own = dict(model.named_parameters())
        last = self.moments[-1] if self.moments and self.moments[-1].step == self.taken else None
        if last is not None and not all(torch.equal(own[n].detach().cpu(), last.weights[n]) for n in own):
            return False  # written through .data, which no version counts
        held = (p for group in self._optimizer.param_groups for p in group["params"])
        return all(
            own[name] is p or torch.equal(own[name].detach().cpu(), p.detach().cpu())
            for name, p in zip(self.names, held, strict=False)  # groups may have been added
            if name in own
        )

    def on_train_begin(self, args: Any, state: TrainState, control: Any, **kwargs: Any) -> None:
        self._plan(max(1, state.max_steps))
        if kwargs.get("optimizer") is not None:
            self._follow(inner_model(kwargs["model"]), kwargs["optimizer"])  # a resumed run may have no step left

    def on_step_begin(self, args: Any, state: TrainState, control: Any, **kwargs: Any) -> None:
        self._rate = _rates(kwargs["optimizer"])  # at the end of a step the scheduler has moved on

    def on_step_end(self, args: Any, state: TrainState, control: Any, **kwargs: Any) -> None:
        self.step(kwargs["model"], kwargs["optimizer"])

    def on_evaluate(self, args: Any, state: TrainState, control: Any, **kwargs: Any) -> None:
        if getattr(args, "keep", "last") == "best" and state.best_epoch == kwargs["metrics"].get("epoch"):
            self.settle()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        best = getattr(args, "load_best_model_at_end", False)  # transformers loads it at the end of the training
        if best and getattr(state, "best_global_step", None) == state.global_step:
            self.settle()

    def on_train_end(self, args: Any, state: TrainState, control: Any, **kwargs: Any) -> None:
        own = hasattr(args, "keep")  # in gunlearn.train; nobody else hands the state on without `state`
        if own and self.ended is None and not self._holds_the_last_step(inner_model(kwargs["model"])):
            warnings.warn(
                "a callback changed the weights after the last step: the kept state is from before", stacklevel=2
            )
            self.settle()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on with."""
        ended = None if self.ended is None else [*self.ended[:2], [vars(m) for m in self.ended[2]]]
        return {"taken": self.taken, "moments": [vars(m) for m in self.moments], "rates": self.rates, "ended": ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_kept_state(state, ("taken", "moments", "rates", "ended"))
        self.taken, self.rates = state["taken"], state["rates"]
        self.moments = [Moment(**moment) for moment in state["moments"]]
        ended = state["ended"]
        self.ended = None if ended is None else (ended[0], ended[1], [Moment(**moment) for moment in ended[2]])


def _versions(optimizer: Any) -> list[int]:
    """Return how often each parameter was changed in place, which `.to`, `.eval` and new gradients do not."""
    return [p._version for group in optimizer.param_groups for p in group["params"]]


def _rates(optimizer: Any) -> list[float]:
    return [float(group["lr"] or 0.0) for group in optimizer.param_groups]  # transformers' Adafactor may have none
