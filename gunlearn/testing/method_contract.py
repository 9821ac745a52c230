"""What every unlearning method keeps to."""

import random
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gunlearn as gu
from gunlearn.errors import GunlearnError
from gunlearn.methods import METHODS
from gunlearn.methods.published import build_method
from gunlearn.report.listing import listing
from gunlearn.tasks.named import as_task
from gunlearn.testing.small_problems import SmallProblem, small_problem
from gunlearn.testing.snapshots import data_snapshot, equal, model_snapshot, random_snapshot, same_state, untidy


@dataclass(frozen=True)
class MethodCase:
    """A method with options that make it short.

    Args:
        method: its name.
        variant: one of its variants.
        options: what to run it with.
        trains: it takes optimiser steps, so it can diverge, be killed and resumed.
        random: it draws random numbers even where the model has no dropout.
        from_scratch: it starts from new weights.
        moves: it changes the weights without optimiser steps.
        task: what the model is taken to predict.
        learns: the parts that it learns from; none where it learns from what layers return.
        reads_forgotten: the forgotten edges pass messages while it learns.
        validates: it looks at validation items.
        chooses: it may return another epoch than the last.
        head: the linear head that it takes, where it takes no other model.
        bad: options that it refuses.
        passes: of the loop, in one of its epochs.
    """

    method: str
    variant: str = "default"
    options: Mapping[str, Any] = field(default_factory=dict)
    trains: bool = True
    random: bool = True
    from_scratch: bool = False
    moves: bool = False
    task: str = "link_prediction"
    learns: tuple[str, ...] = ("forget", "retain")
    reads_forgotten: bool = False
    validates: bool = False
    chooses: bool = False
    head: str = ""
    bad: tuple[Mapping[str, Any], ...] = ()
    passes: int = 1

    @property
    def spec(self) -> str:
        return f"{self.method}:{self.variant}"

    def __str__(self) -> str:
        return self.spec


class _Broken(Exception):
    """Raised on purpose."""


class _Stop(gu.Callback):
    """Ends a run at its first step."""

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


class MethodContract:
    """Tests of one method: subclass it in a test module as `class TestTheirs(MethodContract)`, and set `case`.

    Attributes:
        case: the method, and what it does.
        problem: what it is run on; by default a small one of the case's task.

    Example:
        >>> from gunlearn.testing import MethodCase, MethodContract
        >>> class TestTheirs(MethodContract):
        ...     case = MethodCase("theirs", options={"epochs": 2}, random=False)
    """

    case: MethodCase
    problem: SmallProblem | None = None

    @property
    def _problem(self) -> SmallProblem:
        return self.problem or small_problem(self.case.task)

    def run(self, model: nn.Module, data: Any, **more: Any) -> gu.Result:
        """Run the case."""
        options = {"task": self.case.task, **self.case.options, **more}
        return gu.unlearn(model, data, self._problem.request, self.case.spec, **options)

    def untouched(self, run: Callable[[nn.Module, Any], None]) -> None:
        """Check that a run changes neither the caller's model, in an untidy state, nor data, nor random states."""
        model, data = untidy(self._problem.model()), self._problem.data()
        before = model_snapshot(model), data_snapshot(data), random_snapshot()
        run(model, data)
        after = model_snapshot(model), data_snapshot(data), random_snapshot()
        for what, one, other in zip(("model", "data", "random state"), before, after, strict=True):
            assert equal(one, other), f"{self.case} changed the caller's {what}"

    def test_it_is_registered_and_listed(self) -> None:
        cls, _ = METHODS.variant(self.case.spec)
        assert cls.name == self.case.method
        assert cls.summary, "a method needs a 'summary'"
        assert cls.cost, "a method needs a 'cost'"
        rows = [row for row in listing("method")[1] if row[0].split(" ")[0] == self.case.method]
        assert len(rows) == 1
        assert cls.summary in rows[0]

    def test_the_callers_model_data_and_random_state_are_untouched(self) -> None:
        def run(model: nn.Module, data: Any) -> None:
            result = self.run(model, data, seed=5)
            theirs = _memory(model)
            for copy in (result.model, result.original):
                assert copy is not None
                assert not theirs & _memory(copy), "the result shares memory with the caller's model"
            assert not any(module.training for module in result.model.modules())
            assert all(p.grad is None for p in result.model.parameters()), "the last gradient is left on the model"
            if not self.case.from_scratch:
                frozen = next(iter(model.state_dict()))
                assert torch.equal(result.model.state_dict()[frozen], model.state_dict()[frozen]), "a frozen weight"
            # Control: what is to change the weights does, unless a rewind chose the model as it was.
            rewound, changes = result.notes.get("chosen") == 0, self.case.trains or self.case.moves
            assert same_state(result.model, model) == (rewound or not changes)
            assert result.original is not None
            assert same_state(result.original, model)

        self.untouched(run)

    def test_untouched_when_the_method_raises(self) -> None:
        cls = METHODS[self.case.method]
        original = cls.run

        def broken(method: Any, problem: Any) -> None:
            original(method, problem)
            random.random(), np.random.rand(), torch.rand(1)
            raise _Broken

        def run(model: nn.Module, data: Any) -> None:
            own, cls.run = vars(cls).get("run"), broken  # type: ignore[method-assign]
            try:
                self.run(model, data)
            except _Broken:
                return
            finally:
                if own is None:
                    del cls.run
                else:
                    cls.run = own  # type: ignore[method-assign]
            raise AssertionError(f"{self.case} hid an error")

        self.untouched(run)

    def test_untouched_when_a_callback_raises(self) -> None:
        def run(model: nn.Module, data: Any) -> None:
            try:
                self.run(model, data, callbacks=[_Stop()])
            except KeyboardInterrupt:
                return
            raise AssertionError(f"{self.case} told no callback of its steps")

        if self.case.trains:
            self.untouched(run)

    def test_the_seed_alone_decides(self) -> None:
        results = []
        for seed, mode in ((1, True), (1, False), (2, False)):
            torch.manual_seed(11 + mode)  # neither the global state has a say, nor the mode that the model comes in
            random.seed(11 + mode)
            results.append(self.run(self._problem.model().train(mode), self._problem.data(), seed=seed))
        assert _alike(results[0], results[1]), "the same seed gave another model"
        draws = self.case.random or (self.case.trains and _has_dropout(self._problem.model()))
        assert _alike(results[1], results[2]) != draws

    def test_it_is_saved_and_loaded(self) -> None:
        result = self.run(self._problem.model(), self._problem.data(), seed=4)
        template = self._problem.model(seed=9, epochs=0)
        before = model_snapshot(template)
        with tempfile.TemporaryDirectory() as folder:
            loaded = gu.Result.load(result.save(Path(folder) / "deep" / "down"), template)
        assert equal(before, model_snapshot(template))
        assert same_state(loaded.model, result.model)
        assert loaded.record() == result.record()
        assert not any(module.training for module in loaded.model.modules())

    def test_the_record_is_complete(self) -> None:
        data = self._problem.data()
        result = self.run(self._problem.model(), data, seed=4)
        partition = self._problem.request.resolve(as_task(self.case.task).check_data(data))
        assert (result.method, result.seed) == (self.case.method, 4)
        assert (result.request_hash, result.num_forget) == (partition.request_hash, partition.num_forget)
        assert result.seconds > 0
        assert (result.seconds_per_epoch is None) == (not self.case.trains)
        assert {**self.case.options}.items() <= result.config.items()
        built = build_method(self.case.spec, self.case.options, as_task(self.case.task), result.model)
        assert result.mode == built.label

    def test_no_epochs_no_change(self) -> None:
        if self.case.trains and "epochs" in METHODS[self.case.method].options():
            model = self._problem.model()
            result = self.run(model, self._problem.data(), epochs=0)
            assert same_state(result.model, model) != self.case.from_scratch
            assert result.history == []

    def test_bad_options_are_refused_in_words(self) -> None:
        for options in ({"no_such_option": 1}, *self.case.bad):
            with suppress(GunlearnError):
                self.run(self._problem.model(), self._problem.data(), **options)
                raise AssertionError(f"{self.case} took {options}")


def _memory(model: nn.Module) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers()) if t.numel()}


def _alike(one: gu.Result, other: gu.Result) -> bool:
    """A rewind may return the untouched model whatever the seed; the losses on the way tell runs apart."""
    return same_state(one.model, other.model) and one.history == other.history


def _has_dropout(model: nn.Module) -> bool:
    rates = (m.p if isinstance(m, nn.Dropout) else getattr(m, "dropout", 0.0) for m in model.modules())
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
