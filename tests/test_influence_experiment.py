"""`experiments/influence_in_inpo`: forget sets, paired differences, and that the study runs and resumes."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from torch_geometric.data import Data

import gunlearn as gu
from experiments.influence_in_inpo import __main__ as study
from experiments.influence_in_inpo import report
from experiments.influence_in_inpo.cases import CASES, PAPER_CASES, available, forget_set
from experiments.influence_in_inpo.cell import Curve
from gunlearn.methods import INPO
from tests.conftest import committed


def scored() -> tuple[Data, torch.Tensor]:
    data = gu.link_split(gu.load("karate"), val_ratio=0.1, test_ratio=0.1)
    u, v = data.edge_index
    noise = torch.rand(34 * 34, generator=torch.Generator().manual_seed(1))
    return data, noise[torch.minimum(u, v) * 34 + torch.maximum(u, v)]


def test_forget_sets_of_high_and_low_influence() -> None:
    data, score = scored()
    number = data.edge_index.size(1) // 2
    drawn = {name: forget_set(name, data, score, 0.05, seed=0) for name in ("high", "low", "random")}
    assert {p.num_forget for p in drawn.values()} == {int(0.05 * number)}
    rank = score.argsort().argsort()[drawn["high"].forget_mask]
    assert rank.min() >= 0.9 * 2 * number - 1
    assert score.argsort().argsort()[drawn["low"].forget_mask].max() <= 0.1 * 2 * number
    random = forget_set("random", data, score, 0.3, seed=0)
    assert score[random.forget_mask].max() > score.quantile(0.9) > score.quantile(0.1) > score[random.forget_mask].min()
    other = forget_set("high", data, score, 0.05, seed=1)
    assert other.request_hash != drawn["high"].request_hash  # drawn, not simply the highest


def rows(case: str, values: dict[tuple[int, str], float]) -> list[dict]:
    return [
        {"case": case, "seed": seed, "forget": forget, "js_forget": 3 * value, "js_floor_forget": 1.5}
        for (seed, forget), value in values.items()
    ]


def test_differences_are_paired_by_cell_and_averaged_by_seed() -> None:
    rng = np.random.default_rng(0)
    cells = [(seed, forget) for seed in range(5) for forget in ("high", "low")]
    one, two = rng.normal(1, 1, 10), rng.normal(0, 1, 10)
    ours = rows("a", dict(zip(cells, one, strict=True)))
    base = rows("b", dict(zip(cells, two, strict=True)))
    base += rows("b", {(9, "high"): 1e6})  # nobody to pair it with
    found = report.paired(ours, base, "floors_forget")
    # Divided by the floor: 3 / 1.5 times the values.
    per_seed = [2 * v.reshape(5, 2).mean(1) for v in (one, two)]
    test = ttest_rel(*per_seed)
    interval = test.confidence_interval(0.95)
    assert found[0] == pytest.approx((per_seed[0] - per_seed[1]).mean())
    assert found[1] == pytest.approx((interval.high - interval.low) / 2)
    assert found[2] == 5
    text = report.differences(ours + base, ("a", "b"), "b", {"JS": "floors_forget"})
    assert ("**" in text) == (test.pvalue < 0.05)
    shifted = rows("a", {cell: value + 9 for cell, value in zip(cells, two, strict=True)})
    assert "**+18.00 ± 0.00**" in report.differences(shifted + base, ("a", "b"), "b", {"JS": "floors_forget"})
    assert report.paired(ours[:2], base, "floors_forget") is None  # one seed has no spread
    base[0]["js_forget"] = None  # of seed 0 the other forget set is left
    per_seed[0][0], per_seed[1][0] = 2 * one[1], 2 * two[1]
    assert report.paired(ours, base, "floors_forget")[0] == pytest.approx((per_seed[0] - per_seed[1]).mean())


class Figures:
    """An evaluator whose forget AUC is told, its retain AUC a line in it."""

    def __init__(self, forget_auc: list[float]) -> None:
        self.forget_auc = iter(forget_auc)

    def row(self, model: None) -> dict[str, float]:
        f = next(self.forget_auc)
        return {"forget_auc": f, "retain_auc": 1 - f / 2, "js_forget": f, "js_test": 0.0, "js_retain": 0.0}


def test_figures_at_equal_forgetting() -> None:
    curve = Curve(Figures([0.4, 0.5, 0.45, 0.6, 0.9]), every=2)
    curve.on_train_begin(None, None, None, model=None)
    for epoch in range(1, 7):
        curve.on_epoch_end(None, SimpleNamespace(epoch=epoch), None, model=None)
    curve.on_train_end(None, None, None, model=None)
    for share in (0.25, 0.5):  # of the way from 0.4 to 1
        level = 0.4 + share * 0.6
        assert curve.at(share)["js_forget"] == pytest.approx(level)
        assert curve.at(share)["retain_auc"] == pytest.approx(1 - level / 2)
    assert curve.at(0.9)["retain_auc"] is None


def test_cases_are_what_inpo_takes() -> None:
    assert set(PAPER_CASES) <= set(CASES)
    assert {"none", "constant", "nora flipped", "exact min-max"} <= set(available(tuple(CASES)))
    for name in available(tuple(CASES)):
        INPO(**CASES[name])


def test_runs_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "available", lambda names: [n for n in names if n in ("none", "nora", "exact flipped")])
    args = study.Args(out=tmp_path, smoke=True, forget_sets=("high",))
    study.main(args)
    found = json.loads((tmp_path / "results.json").read_text())
    assert any(row.get("at_0.25_retain_auc") is not None for row in found)
    assert len(found) == 2 * (2 + 3 + 3)  # two seeds: two baselines, three scores in either mode
    for row in found:
        assert {"retain_auc", "forget_auc", "js_forget", "js_floor_forget", "seconds"} <= row.keys()
    first = {row["case"]: row for row in found if row["mode"] == "default" and row["seed"] == 0}
    for case in ("none", "nora"):  # scales in evaluation change the figures
        assert first[case]["scaled_js_retain"] != first[case]["js_retain"]
    assert first["none"]["js_retain"] != first["nora"]["js_retain"] != first["exact flipped"]["js_retain"]
    tables = (tmp_path / "tables.md").read_text()
    assert "minus none" in tables
    assert "scaled in training" in tables
    monkeypatch.setattr(study, "CellRun", None)  # a second run computes nothing
    study.main(args)
    assert (tmp_path / "tables.md").read_text() == tables
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(TypeError):  # control: what is missing is computed
        study.main(args)


def test_committed_tables_are_those_of_the_committed_rows() -> None:
    tables = report.summary(committed("influence_in_inpo"), tuple(CASES)).strip()
    assert "paired differences from none" in tables
    assert tables in Path(study.__file__).with_name("README.md").read_text()
