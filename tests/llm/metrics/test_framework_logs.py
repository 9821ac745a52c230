"""Logs in the shape of open-unlearning's, written from its definitions."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch
from scipy.stats import ks_2samp

from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics import EvaluationLog
from gunlearn.llm.metrics.logged_comparisons import compared
from gunlearn.llm.metrics.reference_logs import read_reference
from tests.llm.metrics.small_models import SETS, SETTINGS, log_of

QUICK = replace(SETTINGS, attacks=("min_k",), generate=False, align_on=(), end="last")
NUMBER = len(SETS["forget"])
NAMES = ("forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob", "forget_truth_ratio", "forget_Truth_Ratio")


def framework_log(number=NUMBER, seed=0):
    """Losses of right and wrong answers, their truth ratios, and a membership attack."""
    draw = random.Random(seed)
    right = {str(i): {"prob": None, "avg_loss": draw.uniform(0.5, 3)} for i in range(number)}
    wrong = {str(i): {"prob": [0.0] * 5, "avg_loss": [draw.uniform(0.5, 4) for _ in range(5)]} for i in range(number)}
    ratio = {}
    for i in right:
        mean = sum(wrong[i]["avg_loss"]) / 5
        ratio[i] = {"score": math.exp(-mean) / (math.exp(-right[i]["avg_loss"]) + 1e-10)}
    return {
        "forget_Q_A_PARA_Prob": {"agg_value": 0.1, "value_by_index": right},
        "forget_Q_A_PERT_Prob": {"agg_value": 0.1, "value_by_index": wrong},
        "forget_truth_ratio": {"agg_value": 0.6, "value_by_index": ratio},
        "mia_min_k": {"agg_value": 0.38, "forget": {}, "holdout": {}},
        "forget_quality": {"agg_value": None},
    }


def written(folder, content):
    (folder / "TOFU_EVAL.json").write_text(json.dumps(content))
    return ("TOFU_EVAL",)


@pytest.mark.parametrize("kept", ["losses", "ratios", "old name"])
def test_forget_quality_and_privleak_need_no_model(tmp_path, kept):
    content = framework_log()
    if kept != "losses":
        del content["forget_Q_A_PARA_Prob"]
    if kept == "old name":
        content["forget_Truth_Ratio"] = content.pop("forget_truth_ratio")
    log = log_of(tmp_path, "unlearned", written(tmp_path, content), settings=QUICK)
    theirs = [entry["score"] for entry in framework_log()["forget_truth_ratio"]["value_by_index"].values()]
    own = [row["truth_ratio"] for row in log.rows["forget"]]
    assert log.figures["forget_quality"] == pytest.approx(ks_2samp(own, theirs).pvalue)
    auc = log.figures["mia_min_k"]
    assert log.figures["privleak"] == pytest.approx(((1 - auc) - (1 - 0.38)) / (1 - 0.38) * 100)
    log.figures["mia_min_k"] = 0.7  # below 1, where privleak depends on the reference's
    compared(log, [read_reference(tmp_path / "TOFU_EVAL.json", log)], None)
    assert log.figures["privleak"] == pytest.approx((0.3 - 0.62) / 0.62 * 100)
    log.settings["end"] = "skip"
    compared(log, [read_reference(tmp_path / "TOFU_EVAL.json", log)], None)
    assert "privleak" not in log.figures
    assert "last token" in log.left_out["privleak"]
    alone = log_of(tmp_path, "r1", settings=QUICK)
    assert alone.figures["privleak"] == pytest.approx((1 - alone.figures["mia_min_k"] - 0.5) / 0.5 * 100)
    assert "forget_quality" in alone.left_out


def test_losses_give_ratios_without_the_small_number_in_their_denominators():
    """The control: the log's own ratios differ where the right answer is very unlikely."""
    from gunlearn.llm.metrics.framework_logs import framework_ratio

    content = framework_log(2)
    content["forget_Q_A_PARA_Prob"]["value_by_index"]["0"]["avg_loss"] = 22.0
    content["forget_Q_A_PERT_Prob"]["value_by_index"]["0"]["avg_loss"] = [21.0, 23.0]
    found = framework_ratio(content, "log", 2)
    assert float(found[0]) == pytest.approx(1.0)
    del content["forget_Q_A_PARA_Prob"]
    content["forget_truth_ratio"]["value_by_index"]["0"]["score"] = math.exp(-22) / (math.exp(-22) + 1e-10)
    assert float(framework_ratio(content, "log", 2)[0]) == pytest.approx(0.736, abs=1e-3)
    assert found.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(framework_log(4)), r"the 9 forgotten rows in .*TOFU_EVAL\.json \(got 4 rows"),
        (
            lambda c: c["mia_min_k"].update(agg_value=38),
            r"AUC as 'agg_value' of mia_min_k in .*TOFU_EVAL\.json \(got 38",
        ),
        (
            lambda c: c["forget_Q_A_PARA_Prob"]["value_by_index"].update({"0": None}),
            r"numbers as 'avg_loss' of forget_Q_A_PARA_Prob in .*TOFU_EVAL\.json \(got None at index 0",
        ),
        (
            lambda c: c["forget_Q_A_PERT_Prob"].update(value_by_index=None),
            r"values by index of forget_Q_A_PERT_Prob in .*TOFU_EVAL\.json \(got None",
        ),
        (
            lambda c: c["forget_Q_A_PERT_Prob"]["value_by_index"].update(a=c["forget_Q_A_PERT_Prob"].pop("agg_value")),
            r"whole numbers as indices of forget_Q_A_PERT_Prob in .*TOFU_EVAL\.json \(got 'a'",
        ),
        (
            lambda c: [c.pop("mia_min_k"), *map(c.update, [{name: None} for name in NAMES])],
            r"per row or mia_min_k in .*TOFU_EVAL\.json",
        ),
    ],
)
def test_logs_of_other_rows_or_without_numbers_are_named(tmp_path, change, said):
    content = framework_log()
    change(content)
    with pytest.raises(InvalidInputError, match=said):
        log_of(tmp_path, "unlearned", written(tmp_path, content), settings=QUICK)


def test_summaries_are_refused(tmp_path):
    content = {"forget_quality": 0.3, "model_utility": 0.6}
    with pytest.raises(InvalidInputError, match=r"open-unlearning in .*TOFU_EVAL\.json"):
        log_of(tmp_path, "unlearned", written(tmp_path, content), settings=QUICK)
    content = {"retain_Q_A_Prob": {"agg_value": 0.9}}
    with pytest.raises(InvalidInputError, match=r"per row or mia_min_k in .*TOFU_EVAL\.json"):
        log_of(tmp_path, "unlearned", written(tmp_path, content), settings=QUICK)
    assert not EvaluationLog.load(log_of(tmp_path, "r0", settings=QUICK).path).compared  # control: a run without it
