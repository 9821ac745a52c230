"""The committed results of experiments hold what the project promises."""

import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest

from experiments.paper_modes.__main__ import AUTHORS
from tests.conftest import REPOSITORY, committed

#: Studies with a short form of at most a minute; graph_methods' takes ten, and llm_speed has none.
STUDIES = "edge_training_influence fuzz influence_in_inpo inpo_edges removal_influence retain_samples speed tofu_small"
STUDIES += " image_memory digits_text fade_graphs front_page paper_modes nearest.hard"
STUDIES += " nearest.one_after_another nearest.own_models nearest.push_then_settle digits_scrub fashion_scrub"
STUDIES += " nearest.large nearest.largest_gap nearest.settled mode_connectivity.basins"
STUDIES += " digits_diffusion fashion_diffusion mode_connectivity.alignment"
STUDIES += " mode_connectivity.between mode_connectivity.adapters mode_connectivity.uses nearest.optimizer_alone"


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES.split())
def test_the_short_form_runs(study: str, data_root: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        f"experiments.{study}",
        "--root",
        str(data_root),
        "--out",
        str(tmp_path),
        "--smoke",
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    assert (tmp_path / "results.json").is_file()


def average(part: str, figure: str, method: str, mode: str = "default") -> float:
    rows = committed("inpo_edges")[part]
    values = [r[figure] for r in rows if (r["method"], r["mode"]) == (method, mode)]
    assert values
    assert None not in values
    return mean(values)


@pytest.mark.parametrize("part", ["dblp", "cs", "cora"])
def test_default_mode_forgets_at_little_cost(part: str) -> None:
    assert average(part, "retain_auc", "inpo") >= average(part, "retain_auc", "retrain") - 0.01
    assert average(part, "forget_auc", "inpo") >= 0.90
    for figure in ("js_test", "js_retain", "seconds"):
        assert average(part, figure, "inpo") < average(part, figure, "inpo", "paper")


def test_until_unseen_ends_nearer_to_retraining_than_the_baselines() -> None:
    unseen = average("dblp", "js_forget", "inpo", "default until unseen")
    assert unseen < average("dblp", "js_forget", "utu")
    assert unseen < average("dblp", "js_forget", "finetune")
    assert unseen <= 2 * average("dblp", "js_floor_forget", "retrain")


@pytest.mark.parametrize(("part", "retain", "forget"), [("protocol_DBLP", 0.848, 0.906), ("protocol_CS", 0.852, 0.903)])
def test_paper_mode_repeats_the_official_code(part: str, retain: float, forget: float) -> None:
    assert average(part, "retain_auc", "inpo", "paper") == pytest.approx(retain, abs=0.03)
    assert average(part, "forget_auc", "inpo", "paper") == pytest.approx(forget, abs=0.03)


def test_order_of_the_ablation() -> None:
    at = {row["case"]: row for row in committed("inpo_edges")["ablation"]}
    for level in ("0.80", "0.85", "0.90"):
        full, without_scaling, plain = (at[c][f"retain_auc_at_{level}"] for c in ("INPO", "NPO+GD+TE", "NPO+GD"))
        assert full > without_scaling > plain


def speed(case: str) -> dict:
    row = {row["case"]: row for row in committed("speed")}[case]
    assert (row["smoke"], row["threads"]) == (False, 1)
    return row


@pytest.mark.parametrize(("case", "ratio"), [("step-CS", 10), ("step-DBLP", 9)])
def test_a_step_is_ten_times_as_fast_in_half_the_memory(case: str, ratio: float) -> None:
    row = speed(case)
    assert row["repeats"] >= 5
    assert row["ratio"] == pytest.approx(row["plain_s"] / row["ours_s"])
    assert row["ratio"] >= ratio  # DBLP's lies between 9 and 11 from run to run
    assert row["ours_mb"] <= row["plain_mb"] / 2


@pytest.mark.parametrize("mode", ["", "-default"])
@pytest.mark.parametrize("dataset", ["DBLP", "CS", "Photo"])
def test_a_step_takes_at_most_six_times_what_the_memory_needs(dataset: str, mode: str) -> None:
    row = speed(f"step-{dataset}{mode}")
    assert row["repeats"] >= 5
    assert row["ours_s"] <= 6 * row["bound_s"]
    for name in ("csr", "csr_one_way"):  # the other opponent stands in the same row
        assert row[f"{name}_ratio"] == pytest.approx(row[f"{name}_s"] / row["ours_s"])


def test_a_whole_run_and_retraining() -> None:
    assert speed("run-CS")["ratio"] >= 8
    assert speed("run-CS-default")["ratio"] >= 8
    assert speed("retrain-CS-default")["ratio"] >= 5


def test_ten_million_edges() -> None:
    large, small = speed("scale-1e7"), speed("scale-1e5")
    assert large["edges"] >= 0.99e7
    assert large["sizes"]["features"] == 128
    assert large["ours_mb"] + (large["ours_load_mb"] or 0) <= 20 * 1024
    assert large["ours_s"] / large["edges"] <= 4 * small["ours_s"] / small["edges"]
    assert large["ours_s"] <= 4 * large["bound_s"]


def removal(part: str, dataset: str, **which: str) -> dict:
    keys = {"part": part, "dataset": dataset, **which}
    (found,) = (row for row in committed("removal_influence") if keys.items() <= row.items())
    return found


@pytest.mark.parametrize("model", ["GCN", "SAGE", "GIN", "GAT"])
@pytest.mark.parametrize("dataset", ["Cora", "CiteSeer", "Photo"])
def test_exact_influence_equals_brute_force_and_is_faster(dataset: str, model: str) -> None:
    row = removal("speed", dataset, model=model)
    assert row["path"] == "changed rows"
    assert row["relative_error_float64"] <= 1e-5
    assert row["ratio"] >= 20


@pytest.mark.parametrize(("dataset", "minutes"), [("DBLP", 5), ("CS", 20)])
def test_exact_influence_of_all_edges_of_larger_graphs(dataset: str, minutes: float) -> None:
    assert removal("speed", dataset, model="GCN")["exact_s"] <= 60 * minutes
    assert removal("quality", dataset, estimator="exact")["peak_memory_mb"] < 4096


@pytest.mark.parametrize("dataset", ["Cora", "CiteSeer", "DBLP"])
def test_a_cheap_estimate_ranks_removals_right(dataset: str) -> None:
    local = removal("quality", dataset, estimator="local")
    assert local["spearman"] >= 0.85
    for control in ("random", "degree", "nora"):
        assert removal("quality", dataset, estimator=control)["spearman"] < 0.7


@pytest.mark.parametrize(("row", "task"), [("megu:paper", "nodes"), ("cognac:paper", "nodes"), ("etr:paper", "nodes")])
def test_paper_modes_are_within_two_deviations_of_their_authors_code(row: str, task: str) -> None:
    rows, authors = committed("paper_modes")[task], AUTHORS[task][row]
    for figure, quoted in authors["quoted"].items():
        ours = [one[figure] for one in rows if one["row"] == row]
        assert len(ours) == 5
        for theirs in (quoted, mean(authors["again"][figure])):
            assert abs(mean(ours) - theirs) <= 2 * stdev(ours)


def test_gnndeletes_paper_mode_is_its_authors_code_on_the_same_weights() -> None:
    """But not the quoted figure; see the study."""
    row = "gnndelete:paper, 500 epochs"
    rows, authors = committed("paper_modes")["links"], AUTHORS["links"][row]
    for figure, values in authors["again"].items():
        ours = [one[figure] for one in rows if one["row"] == row]
        assert len(ours) == len(values) == 5
        assert abs(mean(ours) - mean(values)) <= 2 * stdev(ours)


def test_looking_forgotten_is_not_being_nearer() -> None:
    """FADE's finding on a graph: the methods with the highest forget AUC moved away from retraining, in every seed."""
    rows = [row for row in committed("fade_graphs") if row["method"] not in ("original", "retrain", "utu")]
    looks = [row for row in rows if row["forget_auc"] > 0.9]
    assert {row["method"] for row in looks} >= {"inpo", "npo", "random_label"}
    assert all(row["gain_forget"] < row["gain_high_forget"] < 0 for row in looks)
    control = [row for row in rows if row["method"] in ("finetune", "continued_training")]
    assert all(row["gain_high_forget"] > 0 for row in control)
    assert mean(row["gain_forget"] for row in control) > 0


def test_forgetting_images_takes_little_more_memory_than_training_on_them() -> None:
    rows = {row["run"]: row for row in committed("image_memory")}
    assert len(rows) >= 12
    for name, row in rows.items():
        assert (row["images"], row["forgotten"], row["smoke"]) == (100_000, 0 if name == "train" else 10_000, False)
        assert row["peak_mb"] <= 1.5 * rows["train"]["peak_mb"]
