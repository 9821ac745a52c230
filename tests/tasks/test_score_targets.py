import copy
from typing import Any

import numpy as np
import pytest
import torch

import gunlearn as gu
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses import NPO, Prediction
from gunlearn.methods import INPO, FineTune, NPOMethod, Problem, run_method
from gunlearn.tasks import ImageClassification, LinkPrediction
from gunlearn.tasks.graph.pair_features import pair_features
from gunlearn.tasks.graph.score_targets import NEIGHBORS, ScoreTarget, separated_scores, unseen_scores


@pytest.fixture(scope="module")
def problem() -> Problem:
    data = gu.link_split(gu.load("lesmis"), val_ratio=0.15, test_ratio=0.1, seed=0)
    model = gu.train(gu.GCN(data.num_features, 32, 16), data, epochs=120, lr=1e-2, eval_every=200).model
    partition = gu.ForgetEdges(count=12, seed=0).resolve(data)
    return Problem(model, copy.deepcopy(model), partition, LinkPrediction())


def given(problem: Problem) -> tuple[LinkPrediction, torch.nn.Module, Any]:
    return problem.task, problem.reference, problem.partition


def with_data(problem: Problem) -> tuple[Any, Any]:
    """A copy of the partition and of its data, which may be changed."""
    partition, data = copy.copy(problem.partition), copy.copy(problem.partition.retain_data)
    for name in ("data", "retain_data"):
        object.__setattr__(partition, name, data)
    return partition, data


def target_of(problem: Problem, until: str) -> ScoreTarget:
    return ScoreTarget(until, problem.task, problem.model, problem.reference, problem.partition)


def scores(problem: Problem, model: torch.nn.Module, pairs: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        z = model.eval()(problem.partition.retain_data.x, problem.partition.retain_data.edge_index)
    return (z[pairs[0]] * z[pairs[1]]).sum(-1).double().numpy()


def test_unseen_scores_equal_a_literal_transcription(problem: Problem) -> None:
    data = problem.partition.retain_data
    forget, held_out = problem.partition.forget_edge_index, data.val_pos_edge_index
    seen, unseen = scores(problem, problem.reference, forget), scores(problem, problem.reference, held_out)
    a, b = pair_features(data, held_out), pair_features(data, forget)
    mean, std = a.mean(0), a.std(0)
    std[std == 0] = 1
    distance = (((b - mean) / std)[:, None] - ((a - mean) / std)[None]) ** 2
    nearest = np.argsort(distance.sum(-1), axis=1, kind="stable")[:, :NEIGHBORS]
    like = unseen[nearest]
    gap = seen - like.mean(1)
    share = min(1.0, like.var(1, ddof=1).mean() / gap.var())
    want = like.mean(1) + share * (gap - gap.mean())
    np.testing.assert_allclose(unseen_scores(*given(problem)).numpy(), want, rtol=1e-4, atol=1e-4)
    half = unseen_scores(*given(problem), kept=0.5).numpy()
    np.testing.assert_allclose(half, want + 0.5 * gap.mean(), rtol=1e-4, atol=1e-4)
    assert not np.allclose(want, seen, atol=1e-2)  # control: a target that is the present score would prove nothing


def test_unseen_scores_do_not_look_at_test_edges(problem: Problem) -> None:
    partition, data = with_data(problem)
    data.test_pos_edge_index = data.test_pos_edge_index.flip(1)[:, :1]
    data.test_neg_edge_index = data.test_neg_edge_index[:, :1]
    other = Problem(problem.model, problem.reference, partition, problem.task)
    assert torch.equal(unseen_scores(*given(other)), unseen_scores(*given(problem)))
    data.val_pos_edge_index = data.val_neg_edge_index  # control: validation edges do matter
    assert not torch.equal(unseen_scores(*given(other)), unseen_scores(*given(problem)))


@pytest.mark.parametrize(("kept", "match"), [(5, "at least 30 validation edges.*got 5"), (None, "val_pos_edge_index")])
def test_unseen_needs_validation_edges(problem: Problem, kept: int | None, match: str) -> None:
    partition, data = with_data(problem)
    if kept is None:
        del data.val_pos_edge_index
    else:
        data.val_pos_edge_index = data.val_pos_edge_index[:, :kept]
    with pytest.raises(UnsupportedMethodError, match=match):
        run_method(INPO(until="unseen"), problem.model, partition, problem.task)


def test_separated_score_is_the_quantile_of_retained_edges(problem: Problem) -> None:
    retained = scores(problem, problem.reference, problem.partition.retain_edge_index)
    target = separated_scores(*given(problem), share=0.2)
    assert target.shape == (problem.partition.num_forget,)
    np.testing.assert_allclose(target.numpy(), np.quantile(retained, 0.2), rtol=1e-5)


def test_an_edge_at_its_target_gets_exactly_no_forget_gradient(problem: Problem) -> None:
    target = target_of(problem, "unseen")
    now = torch.from_numpy(scores(problem, problem.model, problem.partition.forget_edge_index)).float()
    target.target = now + torch.where(torch.arange(12) % 2 == 0, 1.0, -1.0)  # every other edge is below already
    assert not target.reached()
    log_prob = now.sigmoid().log().requires_grad_()
    forget = target.release({"forget": Prediction(log_prob)}, lambda values: values)["forget"]
    NPO(beta=1.0)(forget, forget.detach()).backward()
    assert torch.equal(log_prob.grad[::2], torch.zeros(6))
    assert (log_prob.grad[1::2] > 0).all()
    target.target = now + 1.0
    assert target.reached()


@pytest.mark.parametrize("until", ["unseen", "separated"])
def test_a_target_holds_edges_back_that_would_be_pushed_far_below(problem: Problem, until: str) -> None:
    options = {"epochs": 150, "lr": 3e-3, "kl_weight": 1.0, "beta": 1.0}
    forget = problem.partition.forget_edge_index
    held_at = np.minimum(target_of(problem, until).target.numpy(), scores(problem, problem.model, forget))
    below = {}
    for stop in (until, "end"):
        result = run_method(INPO(until=stop, **options), problem.model, problem.partition, problem.task)
        below[stop] = np.maximum(held_at - scores(problem, result.model, forget), 0).mean()
    assert below["end"] > 0.5  # control: without a target they fall far below it
    assert below[until] < below["end"] / 2


def test_until_needs_a_forget_loss_and_link_prediction(problem: Problem) -> None:
    with pytest.raises(InvalidInputError, match="forget loss"):
        FineTune(until="unseen")
    with pytest.raises(InvalidInputError, match="'end' or one of"):
        NPOMethod(until="never")
    with pytest.raises(UnsupportedMethodError, match="link prediction"):
        NPOMethod(until="unseen").supports(
            ImageClassification(), type("P", (), {"data": None, "forgets": ("items",)})()
        )
