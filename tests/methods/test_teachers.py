"""Random labels, an incompetent teacher, a student of two teachers: what they are taught, and by whom."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gunlearn.errors import UnsupportedMethodError
from gunlearn.losses import Prediction
from gunlearn.methods import D2DGN, BadTeacher, NPOMethod, RandomLabel
from gunlearn.methods.any_task.teachers import other_log_prob
from gunlearn.methods.base import Problem
from tests.methods.cases import make_data, run, same_weights, seeded, trained_model, weights
from tests.methods.forgetting import LINKS, karate, karate_losses, on_karate


def test_other_labels_are_even_and_never_the_own() -> None:
    generator = torch.Generator().manual_seed(0)
    n, classes = 4000, 5
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    label, draw = torch.arange(n) % classes, torch.rand(n, generator=generator)
    draw[:classes] = 1 - 2**-24  # the largest number that can be drawn
    log_prob = logits.log_softmax(-1)
    found = other_log_prob(Prediction(log_prob=log_prob[torch.arange(n), label], logits=logits), label, draw)
    chosen = (log_prob - found[:, None]).abs().argmin(1)
    torch.testing.assert_close(found, log_prob[torch.arange(n), chosen])
    assert (chosen != label).all()
    counts = torch.bincount((chosen - label) % classes, minlength=classes)[1:]
    assert (counts - n / (classes - 1)).abs().max() < 5 * math.sqrt(n * 3 / 16)


def test_an_edge_gets_the_opposite_label() -> None:
    score = torch.tensor([-3.0, 0.0, 2.0, 200.0], dtype=torch.float64)
    for label in (torch.ones(4), torch.zeros(4)):
        own = nn.functional.logsigmoid((2 * label - 1) * score)
        found = other_log_prob(Prediction(log_prob=own, logits=score), label, torch.rand(4))
        np.testing.assert_allclose(found.numpy(), -np.logaddexp(0, (2 * label.numpy() - 1) * score.numpy()))


def test_one_class_has_no_other() -> None:
    one = Prediction(log_prob=torch.zeros(2), logits=torch.zeros(2, 1))
    with pytest.raises(UnsupportedMethodError, match="two classes"):
        other_log_prob(one, torch.zeros(2), torch.rand(2))


def test_random_labels_start_at_the_opposite_loss() -> None:
    model, partition = karate("edges")
    record = on_karate(RandomLabel(epochs=1), "edges").history[0]
    z = model(partition.retain_data.x, partition.retain_data.edge_index).detach().double().numpy()
    u, v = partition.forget_edge_index.numpy()
    assert record["nll(forget)"] == pytest.approx(np.logaddexp(0, (z[u] * z[v]).sum(1)).mean(), rel=1e-5)
    assert record["nll(forget)"] != pytest.approx(karate_losses(model, "edges")[0], rel=0.1)  # control: the own label


def test_kl_holds_the_retained_predictions() -> None:
    """NPO with the divergence stays nearer to the original on retained edges than NPO alone."""

    def moved(**options: Any) -> float:
        result = on_karate(NPOMethod(lr=5e-3, epochs=60, retain_weight=0.0, **options), "edges")
        graph, (u, v) = result.partition.retain_data, result.partition.retain_edge_index
        outputs = (model(graph.x, graph.edge_index).detach() for model in (result.model, result.original))
        now, before = ((z[u] * z[v]).sum(1).sigmoid() for z in outputs)
        return float((now - before).abs().mean())

    assert moved(kl_weight=5.0) < 0.7 * moved()
    objective = NPOMethod(retain_weight=0.0, kl_weight=2.0).objective()
    assert objective.labels == ("npo(forget)", "kl_to_reference(retain)")
    assert [weight for weight, _ in objective.terms] == [1.0, 2.0]
    assert NPOMethod().objective().labels == ("npo(forget)", "nll(retain)")


def teachers_of(method: Any, model: nn.Module, seed: int) -> nn.Module:
    problem = Problem(model=model, reference=copy.deepcopy(model).eval(), partition=None, task=LINKS)
    return seeded(lambda: method.teachers(problem)["forget"], seed=seed)


def test_the_incompetent_teacher_has_new_weights_under_the_seed() -> None:
    model = trained_model("pyg")
    one, again, other = (teachers_of(BadTeacher(), model, seed) for seed in (0, 0, 1))
    assert same_weights(one, again)
    assert not same_weights(one, other)
    assert not same_weights(one, model)
    assert not one.training
    assert not any(p.requires_grad for p in one.parameters())


def test_each_part_has_its_own_teacher() -> None:
    """At the start the student is the original: no distance to it on the retained part, some to the other teacher."""
    record = on_karate(BadTeacher(epochs=1), "edges").history[0]
    assert record["distillation(retain)"] == pytest.approx(0, abs=1e-6)
    assert record["distillation(forget)"] > 0.05
    near, far = (on_karate(BadTeacher(lr=1e-2, epochs=60, retain_weight=w), "edges") for w in (0.0, 100.0))
    assert near.history[-1]["distillation(forget)"] < 0.5 * record["distillation(forget)"]
    assert far.history[-1]["distillation(forget)"] > near.history[-1]["distillation(forget)"]


def test_the_student_does_not_start_from_the_original() -> None:
    student = run("d2dgn", trained_model("pyg"), make_data(), epochs=0).model
    before, after = weights(trained_model("pyg")), weights(student)
    assert all(not torch.equal(before[name], after[name]) for name in before if before[name].dim() == 2)


@pytest.mark.parametrize("task", ["edges", "nodes"])
def test_the_student_knows_the_retained_part(task: str) -> None:
    model, _ = karate(task)
    blank = on_karate(D2DGN(epochs=0), task).model
    student = on_karate(D2DGN(epochs=150), task)
    forget, retain = karate_losses(student.model, task)
    assert retain < 0.8 * karate_losses(blank, task)[1]  # control: the untrained student
    assert forget > karate_losses(model, task)[0] + 0.05
    assert forget > retain
    assert [weight for weight, _ in D2DGN(alpha=0.75).objective().terms] == [0.25, 0.75]  # forget, retain
    other = on_karate(D2DGN(epochs=150, alpha=1.0), task)  # control: without the random teacher
    assert karate_losses(other.model, task)[0] < forget
