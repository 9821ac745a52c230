"""What every task keeps to."""

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import gunlearn as gu
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.requests.base import Request
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.named import TASKS, as_task


@dataclass(frozen=True)
class TaskCase:
    """A small problem of a task.

    Args:
        task: its name.
        data: what to learn.
        request: what to forget of it.
        model: a new model.
        build: makes the task, where its name alone does not.
    """

    task: str
    data: Callable[[], Any]
    request: Request
    model: Callable[[], nn.Module]
    build: Callable[[], Task] | None = None

    @property
    def called(self) -> str | Task:
        """Return what `task=` takes."""
        return self.task if self.build is None else self.build()

    def __str__(self) -> str:
        return self.task

    def models(self, count: int) -> list[nn.Module]:
        """Return so many models, the same at every call."""
        with isolated_rng(7):
            return [self.model() for _ in range(count)]


class TaskContract:
    """Tests of one task: subclass it in a test module as `class TestTheirs(TaskContract)`, and set `case`."""

    case: TaskCase

    def test_it_is_named_and_described(self) -> None:
        assert TASKS[self.case.task].name == self.case.task
        assert len(as_task(self.case.called).summary) > 10

    def test_training_forgets_nothing_and_an_unlearning_problem_does(self) -> None:
        task = as_task(self.case.called)
        partition = self.case.request.resolve(task.check_data(self.case.data()))
        parts = task.parts(partition, model=self.case.models(1)[0])
        assert parts.count("forget") == partition.num_forget > 0
        assert task.training_parts(partition.data).count("retain") > parts.count("retain") > 0

    def test_predictions_learn_and_leave_the_model_as_it_was(self) -> None:
        task, model = as_task(self.case.called), self.case.models(1)[0]
        partition = self.case.request.resolve(task.check_data(self.case.data()))
        before = copy.deepcopy(model.state_dict())
        parts = task.parts(partition, model=model)
        for name, items in parts.sample(["forget", "retain"]).items():
            found = task.predict(model, parts.data, items)
            kept = found.log_prob if found.mask is None else found.log_prob[found.mask]
            assert kept.max() <= 0, name
            assert found.log_prob.size(0) == items.num_items
            (gradient, *_) = torch.autograd.grad(kept.sum(), [next(model.parameters())])
            assert gradient.abs().sum() > 0
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_it_unlearns_by_methods_for_any_task(self) -> None:
        model, data = self.case.models(1)[0], self.case.data()
        how = {"steps": 2, "lr": 1e-2, "optimizer": "sgd"}
        result = gu.unlearn(model, data, self.case.request, "graddiff", self.case.called, **how)
        assert result.task is not None
        assert (result.task.name, len(result.history)) == (self.case.task, 2)
        assert any(not torch.equal(a, b) for a, b in zip(result.model.parameters(), model.parameters(), strict=True))
        forget = (self.case.request, "finetune", self.case.called)
        with suppress(InvalidInputError, UnsupportedMethodError):
            gu.unlearn(model, data, *forget, steps=2, batch_size=4, sampler="neighbour")
            raise AssertionError("an unknown sampler was ignored")
