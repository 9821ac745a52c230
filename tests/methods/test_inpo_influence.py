"""INPO's choice of influence score: what it leaves as it was, and what each score does to the message scales."""

import itertools
from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

import gunlearn as gu
from gunlearn.attribution import ESTIMATORS, min_max, nora
from gunlearn.errors import InvalidInputError
from gunlearn.methods import INPO, Problem
from gunlearn.methods.graph.message_damping import damped
from gunlearn.nn import MessageScale
from gunlearn.tasks import LinkPrediction
from tests.methods.cases import make_data, run, same_weights, trained_model

FORGET = gu.ForgetEdges(count=12, seed=3)
MODES = pytest.mark.parametrize("mode", ["default", "paper"])


def problem() -> Problem:
    model, data = trained_model(), make_data()
    return Problem(model, trained_model(), FORGET.resolve(data), LinkPrediction())


def scales(**options: object) -> MessageScale:
    one = problem()
    return INPO(**options).surroundings(one)(one.model)


def edges(scale: MessageScale) -> Tensor:
    """Scales of edges, self-loops left out."""
    index = scale.edge_index
    return scale.scale[index[0] != index[1]]


def column_scores(seed: int = 0) -> Tensor:
    """One score per column, alike in both directions."""
    u, v = make_data().edge_index
    noise = torch.rand(64 * 64, generator=torch.Generator().manual_seed(seed))
    return noise[torch.minimum(u, v) * 64 + torch.maximum(u, v)]


@MODES
def test_nora_is_the_default(mode: str) -> None:
    """Its scales are written out by hand in `test_inpo_modes.py`."""
    usual = scales(mode=mode)
    for same in ({"influence": "nora"}, {"influence": "nora", "damping": "min_max"}):
        assert torch.equal(scales(mode=mode, **same).scale, usual.scale)
    for other in ({"flip_influence": True}, {"influence": "degree"}):  # controls
        assert not torch.equal(scales(mode=mode, **other).scale, usual.scale)


@pytest.mark.parametrize(
    ("mode", "influence"),
    [("default", name) for name in (*sorted(ESTIMATORS), "constant", "degree:nodes")]
    + [("paper", name) for name in ("exact", "nora:nodes")],
)
def test_every_score_runs_and_restores_the_model(mode: str, influence: str) -> None:
    cls = ESTIMATORS.get(influence)
    if cls is not None and not (cls.question == "removal" and "edges" in cls.of and "distance" in cls.targets):
        with pytest.raises(InvalidInputError, match="removing edges"):
            INPO(influence=influence)
        return
    model, data = trained_model(), make_data()
    result = run("inpo", model, data, FORGET, mode=mode, influence=influence, epochs=2, until="end")
    assert all(vars(a).keys() == vars(b).keys() for a, b in zip(result.model.modules(), model.modules(), strict=True))
    assert not any("message" in vars(conv) for conv in result.model.convs)
    plain = run("inpo", model, data, FORGET, mode=mode, scale_messages=False, epochs=2, until="end")
    assert not same_weights(result.model, plain.model)  # control: it did something


@MODES
def test_none_is_no_scaling(mode: str) -> None:
    model, data = trained_model(), make_data()
    plain = run("inpo", model, data, FORGET, mode=mode, scale_messages=False, epochs=3)
    for influence in ("none", None):
        none = run("inpo", model, data, FORGET, mode=mode, influence=influence, epochs=3)
        assert same_weights(none.model, plain.model)


@MODES
@pytest.mark.parametrize("influence", ["nora", "degree", "scores"])
def test_rank_keeps_the_distribution_and_takes_the_order(mode: str, influence: str) -> None:
    given = column_scores() if influence == "scores" else influence
    usual, ours = scales(mode=mode), scales(mode=mode, influence=given)
    flipped = scales(mode=mode, influence=given, flip_influence=True)
    assert torch.equal(usual.edge_index, ours.edge_index)
    if influence != "degree":  # no ties beyond the two directions
        for one in (ours, flipped):
            torch.testing.assert_close(edges(one).sort().values, edges(usual).sort().values, rtol=0, atol=1e-6)
    assert float(edges(ours).mean()) == pytest.approx(float(edges(usual).mean()), rel=1e-5)
    assert float(edges(flipped).mean()) == pytest.approx(float(edges(usual).mean()), rel=1e-5)
    assert spearmanr(edges(ours), edges(flipped)).statistic == pytest.approx(-1)
    index = ours.edge_index[:, ours.edge_index[0] != ours.edge_index[1]]
    if influence == "degree" and mode == "default":  # paper mode scores the whole graph, and scales less of it
        degree = torch.bincount(index[1], minlength=64)
        assert spearmanr(1 / degree[index[0]] + 1 / degree[index[1]], edges(ours)).statistic == pytest.approx(-1)
    if influence == "scores":
        # Found by the pair: the retained graph has other columns than the whole one.
        by_pair = dict(zip(map(tuple, make_data().edge_index.t().tolist()), given.tolist(), strict=True))
        score = [by_pair[pair] for pair in map(tuple, index.t().tolist())]
        assert spearmanr(score, edges(ours)).statistic == pytest.approx(-1)
        assert abs(spearmanr(edges(usual), edges(ours)).statistic) < 0.5  # control


def test_rank_by_hand() -> None:
    index = torch.tensor([[0, 1, 2, 3, 0, 1], [1, 2, 3, 0, 0, 1]])
    score = torch.tensor([1.0, 3.0, 3.0, 2.0, 9.0, -9.0])
    scale = torch.tensor([0.1, 0.2, 0.4, 0.8, 1.0, 0.5])
    # The highest edges share the mean of the smallest scales; the two self-loops are dealt theirs.
    torch.testing.assert_close(damped(score, scale, index), torch.tensor([0.8, 0.15, 0.15, 0.4, 0.5, 1.0]))
    ranged = (-2 * (score + 9) / 18).exp()  # `scale` does not matter
    torch.testing.assert_close(damped(score, scale, index, "min_max"), ranged)
    torch.testing.assert_close(damped(torch.zeros(6), scale, index), torch.tensor([0.375] * 4 + [0.75] * 2))


@MODES
def test_constant_keeps_the_mean_scale(mode: str) -> None:
    usual, ours = scales(mode=mode), scales(mode=mode, influence="constant")
    assert edges(ours).unique().numel() == 1
    assert float(edges(ours)[0]) == pytest.approx(float(edges(usual).mean()), rel=1e-6)
    assert float(ours.scale.mean()) == pytest.approx(float(usual.scale.mean()), rel=1e-6)
    assert edges(usual).std() > 0.01  # control


def test_min_max_is_inpos_range() -> None:
    score = column_scores()
    partition = FORGET.resolve(make_data())
    ours = scales(influence=score, damping="min_max")
    kept = score[~partition.forget_mask].double()
    torch.testing.assert_close(ours.scale.double(), (-2 * min_max(kept)).exp())
    flipped = scales(influence=score, damping="min_max", flip_influence=True)
    torch.testing.assert_close(flipped.scale.double(), (-2 * (1 - min_max(kept))).exp())


def test_scores_of_nodes_are_summed_over_end_points() -> None:
    summed = nora(trained_model(), FORGET.resolve(make_data()).retain_data)
    ours = scales(influence="nora:nodes")
    torch.testing.assert_close(ours.scale, scales().scale)  # the order that INPO has anyway
    index = ours.edge_index
    assert spearmanr(summed[index].sum(0), ours.scale).statistic == pytest.approx(-1)


def test_self_loops_score_the_mean_of_their_nodes_edges() -> None:
    ours, score = scales(mode="paper", influence=column_scores()), column_scores().numpy()
    col = make_data().edge_index[1].numpy()
    loop = ours.edge_index[0] == ours.edge_index[1]
    nodes = ours.edge_index[0, loop].numpy()
    mean = [score[col == v].mean() for v in nodes]
    assert spearmanr(mean, ours.scale[loop]).statistic == pytest.approx(-1)
    assert len(nodes) > 50


def test_random_goes_by_the_seed() -> None:
    one = problem()
    drawn = [INPO(influence="random").surroundings(replace(one, seed=seed))(one.model).scale for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_record_tells_scores_apart() -> None:
    configs = [INPO(influence=column_scores(seed)).config()["influence"] for seed in (0, 0, 1)]
    assert configs[0] == configs[1] != configs[2]


def test_bad_scores_are_refused() -> None:
    model, data, score = trained_model(), make_data(), column_scores()
    bad = score.clone()
    bad[3] = float("nan")
    for wrong in (bad, score.long(), score.view(2, -1), bad.nan_to_num(float("inf"))):
        with pytest.raises(InvalidInputError, match="finite influence scores"):
            INPO(influence=wrong)
    for mode, wrong in itertools.product(("default", "paper"), (score[:-1], torch.cat([score, score]))):
        with pytest.raises(InvalidInputError, match="influence scores of shape"):
            run("inpo", model, data, FORGET, mode=mode, influence=wrong, epochs=1)
    for options in ({"influence": "nobody"}, {"influence": "degree:faces"}, {"influence": "brute:features"}):
        with pytest.raises(InvalidInputError, match="'none', 'constant'"):
            INPO(**options)
    run("inpo", model, data, FORGET, influence=score, epochs=1)  # control


def test_any_model_takes_scores_of_edges() -> None:
    for name in ("sage", "gat"):
        model = trained_model(name)
        result = run("inpo", model, make_data(), FORGET, influence=column_scores(), epochs=2, until="end")
        plain = run("inpo", model, make_data(), FORGET, influence="none", epochs=2, until="end")
        assert result.history[0] != plain.history[0]
