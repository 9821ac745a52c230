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
from gunlearn.tasks.graph.retrained_scores import retrained_scores
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


def nearest(a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Rows of `a` in the order of their distance to each row of `b`, in standard deviations of `scale`."""
    std = scale.std(0)
    std[std == 0] = 1
    return np.argsort(((b[:, None] - a[None]) ** 2 / std**2).sum(-1), axis=1, kind="stable")


def test_unseen_scores_equal_a_literal_transcription(problem: Problem) -> None:
    data = problem.partition.retain_data
    forget, held_out = problem.partition.forget_edge_index, data.val_pos_edge_index
    seen, unseen = scores(problem, problem.reference, forget), scores(problem, problem.reference, held_out)
    a, b = pair_features(data, held_out), pair_features(data, forget)
    like = unseen[nearest(a, b, a)[:, :NEIGHBORS]]
    gap = seen - like.mean(1)
    share = min(1.0, like.var(1, ddof=1).mean() / gap.var())
    want = like.mean(1) + share * (gap - gap.mean())
    np.testing.assert_allclose(unseen_scores(*given(problem)).numpy(), want, rtol=1e-4, atol=1e-4)
    assert not np.allclose(want, seen, atol=1e-2)  # control: a target that is the present score would prove nothing


@pytest.mark.parametrize("kept", [200, 2])
def test_retrained_scores_equal_a_literal_transcription(
    problem: Problem, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gunlearn.tasks.graph.retrained_scores._SHARE", 0.2)
    monkeypatch.setattr("gunlearn.tasks.graph.retrained_scores._LIKE", kept)
    data, forget = problem.partition.retain_data, problem.partition.forget_edge_index
    held_out, count = data.val_pos_edge_index, int(0.2 * problem.partition.num_retain)
    assert 2 < count < 200
    control = gu.ForgetEdges(count=count, seed=0).resolve(data)
    drawn, without = control.forget_edge_index, control.retain_data
    with torch.no_grad():
        z = problem.reference(without.x, without.edge_index)
    a, b, c = pair_features(data, held_out), pair_features(without, drawn), pair_features(data, forget)
    like = scores(problem, problem.reference, held_out)[nearest(a, b, a)[:, :NEIGHBORS]]
    gap = (z[drawn[0]] * z[drawn[1]]).sum(-1).double().numpy() - like.mean(1)
    shift = gap[nearest(b, c, a)[:, :kept]].mean(1)
    want = scores(problem, problem.reference, forget) - 0.5 * shift
    np.testing.assert_allclose(retrained_scores(*given(problem)).numpy(), want, rtol=1e-4, atol=1e-4)
    assert shift.mean() > 0.05  # training edges are known
    assert (kept == 2) == (shift.std() > 1e-6)  # alike ones, where there are more than so many


@pytest.mark.parametrize("target", [unseen_scores, retrained_scores])
def test_targets_do_not_look_at_test_edges(problem: Problem, target: Any) -> None:
    partition, data = with_data(problem)
    data.test_pos_edge_index = data.test_pos_edge_index.flip(1)[:, :1]
    data.test_neg_edge_index = data.test_neg_edge_index[:, :1]
    other = Problem(problem.model, problem.reference, partition, problem.task)
    assert torch.equal(target(*given(other)), target(*given(problem)))
    data.val_pos_edge_index = data.val_neg_edge_index  # control: validation edges do matter
    assert not torch.equal(target(*given(other)), target(*given(problem)))


def test_a_graph_of_few_edges_has_none_to_compare_with(problem: Problem) -> None:
    partition, _ = with_data(problem)
    object.__setattr__(partition, "retain_edge_index", partition.retain_edge_index[:, :19])
    want = scores(problem, problem.reference, partition.forget_edge_index)
    got = retrained_scores(problem.task, problem.reference, partition)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-5)


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
