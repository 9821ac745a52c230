"""What every registered task keeps to; its rows are in `cases.py`."""

import copy

import pytest
import torch

import gunlearn as gu
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.tasks import TASKS, as_task
from tests.tasks.cases import CASES, TaskCase

EACH = pytest.mark.parametrize("case", CASES, ids=str)


def test_every_task_has_a_case() -> None:
    assert [case.task for case in CASES] == list(TASKS)


@EACH
def test_training_forgets_nothing_and_an_unlearning_problem_does(case: TaskCase) -> None:
    task, data = as_task(case.called), case.data()
    assert (TASKS[case.task].name, len(task.summary) > 10) == (case.task, True)
    partition = case.request.resolve(task.check_data(data))
    parts = task.parts(partition, model=case.models(1)[0])
    assert parts.count("forget") == partition.num_forget > 0
    assert task.training_parts(partition.data).count("retain") > parts.count("retain") > 0


@EACH
def test_predictions_learn_and_leave_the_model_as_it_was(case: TaskCase) -> None:
    task, model = as_task(case.called), case.models(1)[0]
    partition = case.request.resolve(task.check_data(case.data()))
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


@EACH
@pytest.mark.filterwarnings("ignore:no measurable effect")  # of two steps
def test_every_task_unlearns_by_methods_for_any_task(case: TaskCase) -> None:
    model, data = case.models(1)[0], case.data()
    result = gu.unlearn(model, data, case.request, "graddiff", case.called, steps=2, lr=1e-2, optimizer="sgd")
    assert (result.task.name, len(result.history)) == (case.task, 2)
    assert any(not torch.equal(a, b) for a, b in zip(result.model.parameters(), model.parameters(), strict=True))
    with pytest.raises((InvalidInputError, UnsupportedMethodError), match="sampler"):
        gu.unlearn(model, data, case.request, "finetune", case.called, steps=2, batch_size=4, sampler="neighbour")
