"""The bench of methods for language models: what is chosen on one half is reported on the other, and runs go on."""

import json
import random
from dataclasses import replace
from itertools import product

import pytest
import torch

pytest.importorskip("transformers")
from gunlearn.bench.llm import (
    Arm,
    ArmSetting,
    TextBench,
    TextProblem,
    arm_settings,
    arms_of,
    chosen,
    counted_seeds,
    halves,
    non_dominated,
    problem_from_files,
    read_bench,
    run_text_bench,
)
from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics import NotANumberError, evaluate_language_models
from gunlearn.metrics.alignment import Sampler
from gunlearn.report import frontier_markdown, frontier_plot
from gunlearn.report.frontier_table import at_equal_retention
from tests.conftest import REPOSITORY
from tests.llm import facts
from tests.llm.test_data import bpe
from tests.llm.tiny import tiny
from tests.test_readme import executed

RATES = (1e-4, 1e-3, 1e-2)
FORGET, RETAIN, UNSEEN = (facts.rows(people)[:8] for people in (facts.FORGET, facts.RETAIN, facts.UNSEEN))
SIZES = {"vocab_size": len(facts.VOCABULARY), "max_position_embeddings": 128}
REFERENCES = [lambda: tiny(seed=1, **SIZES), lambda: tiny(seed=2, **SIZES)]


def problem(references=REFERENCES, **more):
    given = {"holdout": UNSEEN, "training": {"use_cpu": True}} | more
    return TextProblem(
        lambda: tiny(seed=0, **SIZES), facts.tokenizer(), FORGET, RETAIN, RETAIN[:6], references, **given
    )


def bench(*arms, **more):
    given = {"epochs": 2, "batch_size": 4, "samples": 1, "max_new_tokens": 3} | more
    return TextBench(arms or (Arm("npo", (1e-3, 1e-2)), Arm("graddiff", (1e-3,))), **given)


def told(rows):
    """Rows without the time that they took."""
    return [
        {k: [{n: v for n, v in point.items() if n != "seconds"} for point in row["points"]] if k == "points" else v
         for k, v in row.items()}
        for row in rows
    ]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return folder, run_text_bench(problem(), bench(), folder)


def test_references_that_are_copies_are_refused(tmp_path, done):
    """Before any run. The control: the same call with models that differ, which has run."""
    for references, names, words in (
        ([REFERENCES[0], REFERENCES[0]], (), "retrained 0 and retrained 1"),
        ([REFERENCES[1], REFERENCES[1]], ("one", "two"), "one and two"),
        ([lambda: tiny(seed=0, **SIZES)], (), "the model before unlearning and retrained 0"),
    ):
        with pytest.raises(InvalidInputError, match=f"{words}: their weights are the same, bit for bit"):
            run_text_bench(problem(references, reference_names=names), bench(), tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InvalidInputError, match="a name for each of 2 references"):
        problem(reference_names=("one",))
    said = []
    assert run_text_bench(problem(), bench(), done[0], say=said.append) == done[1]
    assert said == [f"{len(done[1])} of {len(done[1])} runs are in {done[0] / 'rows.jsonl'}"]


def test_figures_are_those_of_the_evaluation(done):
    rows, models = done[1], [load() for load in REFERENCES]
    original = tiny(seed=0, **SIZES)
    expected = evaluate_language_models(
        {"original": original},
        facts.tokenizer(),
        FORGET,
        RETAIN[:6],
        models,
        UNSEEN,
        original,
        sampler=Sampler(1),
        max_new_tokens=3,
    )
    ends = {row["method"]: row["points"][0]["values"] for row in rows if "rate" not in row}
    assert list(ends) == ["original", "retrained 0", "retrained 1"]
    every = halves({"forget": 8, "retain": 6, "holdout": 8})
    whole = type(every[0])({n: tuple(range(size)) for n, size in (("forget", 8), ("retain", 6), ("holdout", 8))})
    names = {"forget_prob": "forget_prob", "forget_rouge": "forget_rougeL", "retain_prob": "retain_prob"}
    names |= {"forget_alignment": "forget_alignment", "mia_min_k": "mia_min_k", "retain_rouge": "retain_rougeL"}
    for model, values in ends.items():
        found, row = whole.figures(values, ends["original"]), expected.of(model)
        for name, known in names.items():
            assert found[name] == pytest.approx(row[known], rel=1e-4, abs=1e-6)
        if model == "retrained 0":
            assert found["gain"] == pytest.approx(row["forget_alignment_gain"], rel=1e-3, abs=1e-5)
            assert found["gain_low"] <= found["gain"] <= found["gain_high"]


def test_a_killed_run_goes_on_with_the_same_rows(done, tmp_path):
    folder, rows = done
    lines = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(lines[:4]) + lines[4][:200])  # killed in the middle of a line
    said = []
    again = run_text_bench(problem(), bench(), tmp_path, say=said.append)
    there = f"4 of 6 runs are in {tmp_path / 'rows.jsonl'}"
    assert said == [there, "npo at 0.01, seed 0", "graddiff at 0.001, seed 0"]  # control: the first four are read
    assert told(again) == told(rows)
    assert run_text_bench(problem(), bench(), tmp_path, say=said.append) == again
    assert len(said) == 4
    # another measure, another model or another option is another row; another list of rates is not
    assert run_text_bench(problem(), bench(Arm("npo", (1e-3,))), tmp_path, say=said.append) == again[:4]
    assert len(said) == 5
    run_text_bench(problem(identity="other"), bench(Arm("npo", (1e-3,))), tmp_path, 0.0, said.append)
    assert said[-1].startswith("the budget of 0 minutes is spent: 4 of 4 runs are left (original, ")


@pytest.mark.parametrize("changed", ["original", "references"])
def test_another_model_is_another_row(changed, tmp_path):
    """By its weights, where the caller names no identity; the control: the same models are read."""
    arms, before = bench(Arm("npo", (1e-3,)), rouge=False), problem(REFERENCES[:1])
    other = (lambda: tiny(seed=7, **SIZES)) if changed == "original" else [lambda: tiny(seed=7, **SIZES)]
    rows = run_text_bench(before, arms, tmp_path)
    assert run_text_bench(before, arms, tmp_path) == rows
    found = run_text_bench(replace(before, **{changed: other}), arms, tmp_path)
    assert not {row["key"] for row in rows} & {row["key"] for row in found}
    assert told([r | {"key": ""} for r in found]) != told([r | {"key": ""} for r in rows])


@pytest.mark.parametrize("own", [{"epochs": 3}, {"batch_size": 2}, {}])
def test_a_methods_own_budget_is_trained(own, tmp_path):
    """Epochs and rows per step of a method go before the bench's; the control has none of its own."""
    arms = bench(Arm("graddiff", (1e-3,), **own), rouge=False)
    row = run_text_bench(problem(()), arms, tmp_path)[-1]
    epochs, per_step = own.get("epochs", 2), own.get("batch_size", 4)
    assert (row["points"][-1]["epoch"], row["points"][-1]["steps"]) == (epochs, epochs * 8 // per_step)
    assert (
        run_text_bench(problem(()), bench(Arm("graddiff", (1e-3,)), rouge=False), tmp_path / "b")[-1] != row or not own
    )
    said = []
    run_text_bench(problem(()), bench(Arm("graddiff", (1e-3,)), rouge=False), tmp_path, 1e-9, said.append)
    assert (said[-1].startswith("the budget")) == bool(own)  # another budget is another row


def test_all_that_figures_depend_on_tells_rows_apart():
    """Controls: the device does not, nor do other kinds of sequences with the same numbers."""
    first, *rest = FORGET
    answer = {"input_ids": [1, 2], "labels": [-100, 2]}
    further = first | {"perturbed": [answer], "paraphrased": answer}
    swapped = first | {"perturbed": [answer | {"labels": [1, 2]}], "paraphrased": answer}
    masked = first | {"labels": [-100, *list(first["labels"])[1:-1], -100]}
    rows = [FORGET, [masked, *rest], [further, *rest], [swapped, *rest]]
    problems = [replace(problem(()), forget=found) for found in rows]
    problems += [problem((), training={"learning_rate": rate}) for rate in (0.1, 0.2)]
    problems += [problem((), utility={"facts": found}) for found in rows]
    assert len({p.told() for p in problems}) == len(problems)
    same = [{n: value if isinstance(value, str) else torch.as_tensor(value) for n, value in r.items()} for r in FORGET]
    assert replace(problem(()), forget=same).told() == problem((), training={}).told() == problem(()).told()


def fake_values(monkeypatch, error):
    """Measure nothing: the original has a figure, every other model raises an error."""
    calls = []

    def values(*args):
        calls.append(args)
        if len(calls) > 1:
            raise error
        return {"forget_prob": [0.5] * 8}

    monkeypatch.setattr("gunlearn.bench.llm.text_cells.values_of", values)
    return calls


def test_a_broken_model_is_a_result_and_another_error_is_tried_again(tmp_path, monkeypatch):
    how, given = bench(Arm("npo", (1e-3,)), epochs=1, rouge=False), problem(())
    for error, name in ((NotANumberError("NaN"), "points"), (InvalidInputError("too long"), "error")):
        calls = fake_values(monkeypatch, error)
        _, row = run_text_bench(given, how, tmp_path / name)
        assert row["points"] == [] if name == "error" else row["points"][0]["broken"] == "NaN"
        assert row.get("error") == {"error": "too long"}.get(name)
        assert len(calls) == 2
        run_text_bench(given, how, tmp_path / name)
        assert len(calls) == {"points": 2, "error": 3}[name]


@pytest.mark.parametrize("broken", ["original", "retrained"])
def test_a_broken_original_or_retrained_model_ends_the_bench(broken, tmp_path):
    """It is no row, so that the bench goes on once the model is repaired."""

    def load():
        model = tiny(seed=3, **SIZES)
        torch.nn.init.constant_(model.get_input_embeddings().weight, float("nan"))
        return model

    given = problem([load]) if broken == "retrained" else replace(problem(()), original=load)
    with pytest.raises(InvalidInputError, match="NaN"):
        run_text_bench(given, bench(rouge=False), tmp_path)
    assert not (tmp_path / "rows.jsonl").exists() or (tmp_path / "rows.jsonl").read_text() == ""


def test_seconds_of_training_are_without_loading(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("gunlearn.bench.llm.text_cells.time.perf_counter", lambda: clock[0])

    def load():
        clock[0] += 1000
        return tiny(seed=0, **SIZES)

    given = replace(problem((), identity="one"), original=load)
    rows = run_text_bench(given, bench(Arm("npo", (1e-3,)), epochs=1, rouge=False), tmp_path)
    assert clock == [2000]
    assert rows[1]["points"][0]["seconds"] == 0


def test_further_answers_of_any_form_are_rows(tmp_path):
    """One wrong answer is a list of one, and of paraphrases the first is taken, as in an evaluation."""
    pairs = [{"question": f"where does {n} live?", "answer": "in oslo", "perturbed_answer": "in rome",
              "paraphrased_answer": ["oslo", "at oslo"]} for n in ("ada", "bob", "cleo", "dan")]  # fmt: skip
    for name, found in (("retain", pairs), ("forget", [{"question": f"q {i}", "answer": "a"} for i in range(4)])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, found)))
    tokenizer = bpe()
    files = {name: tmp_path / f"{name}.jsonl" for name in ("forget", "retain")}
    found = problem_from_files(lambda: None, tokenizer, files, utility={"more": files["retain"]})
    for rows in (found.retain, found.utility["more"]):
        for row in rows:
            assert [set(wrong) >= {"input_ids", "labels"} for wrong in row["perturbed"]] == [True]
            assert "oslo" in tokenizer.decode(row["paraphrased"]["input_ids"])


def test_a_budget_ends_the_runs_and_says_what_is_left(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 61))  # each look takes a minute
    monkeypatch.setattr("gunlearn.bench.llm.text_cells.time.perf_counter", lambda: next(clock))
    said = []
    rows = run_text_bench(problem(()), bench(rouge=False), tmp_path, 1.5, said.append)
    assert [row["method"] for row in rows] == ["original"]
    left = "npo at 0.001, seed 0, npo at 0.01, seed 0, graddiff at 0.001, seed 0"
    assert said == ["original", f"the budget of 1.5 minutes is spent: 3 of 4 runs are left ({left})"]


def test_points_between_do_not_change_a_run(done, tmp_path):
    rows = run_text_bench(problem(), bench(every=9), tmp_path)
    for one, other in zip(told(rows), told(done[1]), strict=True):
        assert one["points"][-1] == other["points"][-1]
    numbers = [[point["epoch"] for point in row["points"]] for row in done[1] if "rate" in row]
    assert numbers == [[1, 2]] * 3  # control: there are points between
    assert done[1][3]["points"][0]["values"] != done[1][3]["points"][1]["values"]


@pytest.mark.parametrize(("epochs", "numbers"), [(0.5, [0.5]), (1.5, [1, 1.5]), (2.0, [1, 2])])
def test_a_part_of_a_pass_is_no_whole_one(epochs, numbers, tmp_path):
    rows = run_text_bench(problem(()), bench(Arm("graddiff", (1e-3,), epochs=epochs), rouge=False), tmp_path)
    assert [point["epoch"] for point in rows[-1]["points"]] == numbers
    assert f"| {numbers[-1]} |" in frontier_markdown(rows)


def test_a_method_that_is_not_done_between_passes_has_one_point(tmp_path):
    arms = (
        Arm("task_vector", (1e-3,)),
        Arm("continued_training", (1e-2,), options={"optimizer": "adamw"}),
        Arm("ssd", (), options={"alpha": 1.5}),
    )
    rows = run_text_bench(problem(()), bench(*arms, rouge=False), tmp_path)
    by = {row["method"]: row for row in rows}
    assert all(len(by[arm.name]["points"]) == 1 for arm in arms)
    assert by["ssd"]["rate"] is None
    assert "alpha" in run_text_bench(problem(()), bench(Arm("ssd", ()), rouge=False), tmp_path)[-1]["error"]  # no end
    after, before = (sum(by[name]["points"][0]["values"]["forget_prob"]) for name in ("task_vector", "original"))
    assert after < before  # not the model that was fine-tuned on what is to be forgotten
    assert "no retrained models" in frontier_markdown(rows).lower()
    assert "gain" not in arm_settings(rows)[0].chosen


def synthetic(settings=30, size=20, seed=0):
    """Rows of one method whose settings all forget alike: what one of them is better by is chance."""
    draw = random.Random(seed)
    rows = [{"method": "original", "points": [point(draw, size, 0.9, 100.0, 0)]}]
    return rows + [
        {"method": "m", "rate": 1e-3 * (i + 1), "seed": 0, "points": [point(draw, size, 0.5, 50.0, 1)]}
        for i in range(settings)
    ]


def point(draw, size, prob, alignment, epoch):
    values = {
        "forget_prob": [prob * draw.uniform(0.5, 1) for _ in range(size)],
        "forget_alignment": [alignment * draw.uniform(0, 2) for _ in range(size)],
        "retain_prob": [0.9] * size,
    }
    return {"epoch": epoch, "values": values}


def test_halves_are_disjoint_and_whole():
    sizes = {"forget": 9, "retain": 40, "holdout": 8}
    one, other = halves(sizes)
    for name, size in sizes.items():
        assert not set(one.rows[name]) & set(other.rows[name])
        assert sorted(one.rows[name] + other.rows[name]) == list(range(size))
        assert abs(len(one.rows[name]) - len(other.rows[name])) <= 1
    assert halves(sizes) == (one, other)
    assert halves(sizes, seed=1) != (one, other)
    with pytest.raises(InvalidInputError, match="two rows of 'forget'"):
        halves({"forget": 1})


def test_what_is_chosen_on_the_reported_half_looks_better_than_it_is():
    honest, optimistic, middle = [], [], []
    for seed in range(20):
        settings = arm_settings(synthetic(seed=seed))
        best = chosen(settings, 0.8)
        honest.append(best.reported["gain"])
        assert best.chosen["gain"] == max(s.chosen["gain"] for s in settings)
        optimistic.append(max(s.reported["gain"] for s in settings))
        middle.append(sum(s.reported["gain"] for s in settings) / len(settings))
    assert sum(optimistic) / 20 > sum(honest) / 20 + 0.1  # the control: the other half's own best
    assert sum(honest) / 20 == pytest.approx(sum(middle) / 20, abs=0.08)


@pytest.mark.parametrize("moved", ["chosen", "reported"])
def test_each_half_has_one_use(moved):
    rows = synthetic()
    number = {"chosen": 0, "reported": 1}[moved]
    half = halves({"forget": 20, "retain": 20})[number]
    before = arm_settings(rows)
    for i in half.rows["forget"]:
        rows[3]["points"][0]["values"]["forget_alignment"][i] = 0.0
    after = arm_settings(rows)
    same = [getattr(s, {"chosen": "reported", "reported": "chosen"}[moved]) for s in before]
    assert same == [getattr(s, {"chosen": "reported", "reported": "chosen"}[moved]) for s in after]
    assert (chosen(after, 0.8).rate == rows[3]["rate"]) == (moved == "chosen")
    assert chosen(before, 0.8).rate != rows[3]["rate"]  # control


def test_the_frontier_is_what_no_setting_beats_by_brute_force():
    draw = random.Random(0)
    grid = [
        {
            "forget_prob": round(draw.random(), 1),
            "gain": round(draw.random(), 1),
            "retain_prob": round(draw.random(), 1),
        }
        for _ in range(60)
    ]
    settings = [ArmSetting("m", 1e-3 * i, 1, figures, {}) for i, figures in enumerate(grid)]
    expected = set()
    for one in settings:
        beaten = False
        for other in settings:
            a, b = one.chosen, other.chosen
            as_good = (
                b["forget_prob"] <= a["forget_prob"] and b["gain"] >= a["gain"] and b["retain_prob"] >= a["retain_prob"]
            )
            beaten |= as_good and a != b
        if not beaten:
            expected.add(one.rate)
    found = non_dominated(settings)
    assert {s.rate for s in found} == expected
    assert 1 < len(found) < 60
    assert [s.chosen["forget_prob"] for s in found] == sorted(s.chosen["forget_prob"] for s in found)


def test_the_table_keeps_what_is_retained():
    rows = synthetic()
    for row, kept in zip(rows[1:], [0.85, 0.895, 0.5] * 10, strict=True):
        row["points"][0]["values"]["retain_prob"] = [kept] * 20
    found = at_equal_retention(rows, 0.01)["m"]
    kept = [s for s in arm_settings(rows) if s.chosen["retain_prob"] == pytest.approx(0.895)]
    assert found.chosen["gain"] == max(s.chosen["gain"] for s in kept)
    least = at_equal_retention(rows, 0.01, "forget_prob")["m"]
    assert least.chosen["forget_prob"] == min(s.chosen["forget_prob"] for s in kept)
    assert at_equal_retention(rows, 0.001) == {"m": None}
    assert "| `m !` |" in frontier_markdown(rows, 0.001)
    assert "| `m !` |" not in frontier_markdown(rows, 0.01)
    assert at_equal_retention(rows, 0.5)["m"].chosen["gain"] > found.chosen["gain"]  # control
    with pytest.raises(InvalidInputError, match="'by'"):
        at_equal_retention(rows, 0.01, "prob")


def test_a_setting_is_chosen_on_one_half_and_printed_of_the_other():
    """One setting keeps and is near on the half to choose on alone, another on the other half alone."""
    rows = synthetic(2)
    first, second = halves({"forget": 20, "retain": 20})
    for row, good in ((rows[1], first), (rows[2], second)):
        values = row["points"][0]["values"]
        for name, right, wrong in (("retain_prob", 0.9, 0.5), ("forget_alignment", 10.0, 90.0)):
            kind = name.partition("_")[0]
            values[name] = [right if i in good.rows[kind] else wrong for i in range(20)]
        values["forget_prob"] = [0.1 if i in good.rows["forget"] else 0.7 for i in range(20)]
    (found,) = at_equal_retention(rows, 0.01).values()
    assert found.rate == rows[1]["rate"]
    (line, *_) = [line for line in frontier_markdown(rows, 0.01).splitlines() if line.startswith("| `m` ")]
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["0.001", "1", "0.7"]
    assert line.split("|")[7].strip() == "0.5"
    assert at_equal_retention(rows, 0.41)["m"].rate == rows[1]["rate"]
    turned = [rows[0], rows[1] | {"points": rows[2]["points"]}, rows[2] | {"points": rows[1]["points"]}]
    assert at_equal_retention(turned, 0.01)["m"].rate == rows[2]["rate"]  # control


def test_several_seeds_show_how_far_they_are_apart():
    """Two seeds on either side of the original: no interval of one of them, nor the mean of both."""
    rows = synthetic(1)
    far = of_seed_1(rows[1])
    far["points"][0]["values"]["forget_alignment"] = [140.0] * 20
    rows[1]["points"][0]["values"]["forget_alignment"] = [60.0] * 20
    rows[0]["points"][0]["values"]["forget_alignment"] = [100.0] * 20
    text = frontier_markdown([*rows, far])
    assert "(-0.4 to 0.4)" in text
    assert "means over seeds, gains with the lowest and the highest" in text
    alone = frontier_markdown(rows)
    assert "over seeds" not in alone  # control
    assert "0.4 (" in alone


def of_seed_1(row):
    return row | {"seed": 1, "points": [point(random.Random(5), 20, 0.5, 50.0, 1)]}


def test_a_seed_that_ran_with_some_rates_only_is_left_out_and_named():
    """Controls: a seed that all rates have counts, and nothing is named; no rate is lost to another one's seed."""
    rows = synthetic(2)
    part = [*rows, of_seed_1(rows[1])]
    assert arm_settings(part) == arm_settings(rows)
    assert counted_seeds(part) == {"m": ([0], [1])}
    assert "not every rate of the method has run with them: seeds 1 of m." in frontier_markdown(part)
    whole = [*part, of_seed_1(rows[2])]
    assert [(s.rate, s.seeds) for s in arm_settings(whole)] == [(1e-3, (0, 1)), (2e-3, (0, 1))]
    assert "Left out" not in frontier_markdown(whole)
    apart = [*rows[:2], of_seed_1(rows[2])]  # no seed in common
    assert arm_settings(apart) == []
    assert "seeds 0, 1 of m." in frontier_markdown(apart)
    assert "came out of" not in frontier_markdown(apart)


def test_figures_are_means_over_seeds_and_settings_that_a_seed_lacks_are_left_out():
    rows = synthetic(2)
    other = [of_seed_1(rows[1]), rows[2] | {"seed": 1, "points": []}]  # the second diverged
    found = arm_settings(rows + other)
    assert [s.rate for s in found] == [1e-3]
    one, two = arm_settings(rows)[0], arm_settings([rows[0], *other])[0]
    assert found[0].reported["gain"] == pytest.approx((one.reported["gain"] + two.reported["gain"]) / 2)
    assert found[0].seeds == (0, 1)
    assert found[0].spread["gain"] == tuple(sorted((one.reported["gain"], two.reported["gain"])))


def test_the_picture_has_a_line_per_method_and_the_retrained_models(done):
    upper, lower = frontier_plot(done[1]).axes
    for axes in (upper, lower):
        labels = [line.get_label() for line in axes.get_lines()]
        assert {"npo", "graddiff", "original", "retrained", "floor: 2 retrainings"} <= set(labels)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_the_picture_names_a_floor_of_as_many_models_as_there_are(number, done):
    original, first, _, *rest = done[1]
    rows = [original, *({**first, "method": f"retrained {k}"} for k in range(number)), *rest]
    for axes in frontier_plot(rows).axes:
        labels = {line.get_label() for line in axes.get_lines()}
        assert {name for name in labels if "floor" in name} == ({"floor: 3 retrainings"} if number == 3 else set())
        assert ("retrained" in labels) == (number > 0)
        assert "original" in labels


BAD = [
    (lambda: Arm("npoo", RATES), "did you mean 'npo'"),
    (lambda: Arm("npo", (0.0,)), "'rates'"),
    (lambda: Arm("npo", (-1e-3,)), "'rates'"),
    (lambda: Arm("npo", (1e-3, 1e-3)), "each learning rate of 'npo' once"),
    (lambda: bench(seeds=(1, 1)), "each seed once"),
    (lambda: arms_of({"npo": {"options": [1]}}, RATES), "options of 'npo' by name"),
    (lambda: Arm("npo", ()), "learning rate"),
    (lambda: Arm("npo", RATES, batch_size=2.5), "'batch_size' to be an integer"),
    (lambda: Arm("npo", RATES, batch_size=0), "'batch_size'"),
    (lambda: Arm("ssd", RATES), "no learning rates"),
    (lambda: Arm("npo", RATES, peft="lorra"), "lora"),
    (lambda: Arm("npo", RATES, options={"betta": 1}), "did you mean 'beta'"),
    (lambda: Arm("npo", RATES, options={"lr": 1}), "'rates'"),
    (lambda: TextBench(()), "methods"),
    (lambda: bench(Arm("npo", RATES), Arm("npo", RATES)), "a name of its own"),
    (lambda: bench(every=0), "'every'"),
    (lambda: arms_of({"npo": {"rate": [1]}}, RATES), "did you mean 'rates'"),
    (lambda: arms_of({"npo": 3}, RATES), "settings of 'npo'"),
    (lambda: arms_of("npo", RATES), "methods to compare"),
    (lambda: arms_of(["npo"], ["fast"]), "as numbers"),
    (lambda: problem(holdout=UNSEEN[:3]), "4 rows of 'holdout'"),
    (lambda: TextProblem(lambda: None, None, FORGET[:3], RETAIN, RETAIN), "4 rows of 'forget'"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_what_does_not_fit_is_refused_before_anything_runs(make, words):
    with pytest.raises(InvalidInputError, match=words):
        make()


def test_a_yaml_file_is_read_whole(tmp_path):
    (tmp_path / "f.jsonl").touch()
    (tmp_path / "bench.yaml").write_text(
        "model: owner/name\nforget: f.jsonl\nrates: [1e-5, 3.0e-4]\n"
        "methods:\n  npo:\n  npo lora: {method: npo, peft: lora}"
    )
    found = read_bench(tmp_path / "bench.yaml")
    assert found["forget"] == str(tmp_path / "f.jsonl")
    assert found["model"] == "owner/name"
    arms = arms_of(found["methods"], found["rates"])
    assert [(arm.name, arm.peft, arm.rates) for arm in arms] == [
        (name, peft, (1e-5, 3e-4)) for name, peft in (("npo", None), ("npo lora", "lora"))
    ]
    (tmp_path / "bench.yaml").write_text("rates: 1.0e-4\nseeds: 3\nreferences: ret\nout: runs/x\nretain: data/r.jsonl")
    found = read_bench(tmp_path / "bench.yaml")
    assert (found["rates"], found["seeds"]) == ([1e-4], [3])
    assert found["references"] == [str(tmp_path / "ret")]
    assert (found["out"], found["retain"]) == (str(tmp_path / "runs/x"), str(tmp_path / "data/r.jsonl"))
    assert arms_of({"npo": {"rates": 1e-3}}, RATES)[0].rates == (1e-3,)
    wrong = [("[1]", "settings by name"), ("modell: x", "did you mean 'model'"), ("a: [", "YAML in")]
    wrong += [("utility: x", "'utility'"), ("template: 5", "a text as 'template'"), ("seeds: 1\nseeds: 2", "twice")]
    for text, words in (*wrong, ("model: [a]", "a text as 'model'")):
        (tmp_path / "bench.yaml").write_text(text)
        with pytest.raises(InvalidInputError, match=words):
            read_bench(tmp_path / "bench.yaml")
    with pytest.raises(InvalidInputError, match="No such file"):
        read_bench(tmp_path / "nothing.yaml")


def test_a_run_that_diverges_is_a_row_without_a_setting(tmp_path):
    arms = Arm("gradient_ascent", (1e-3, 1e30))
    rows = run_text_bench(
        problem((), training={"use_cpu": True, "max_grad_norm": 0}), bench(arms, rouge=False), tmp_path
    )
    assert "finite" in rows[-1]["diverged"]
    assert {s.rate for s in arm_settings(rows)} == {1e-3}
    assert "came out of gradient_ascent." in frontier_markdown([rows[0], rows[-1]])
    assert "came out of" not in frontier_markdown(rows)  # control
    assert (
        run_text_bench(problem((), training={"use_cpu": True, "max_grad_norm": 0}), bench(arms, rouge=False), tmp_path)
        == rows
    )


def test_cells_are_in_the_order_of_the_methods():
    arms = [Arm("npo", RATES), Arm("graddiff", RATES[:1])]
    assert [(s, a.name, r) for s, a, r in bench(*arms, seeds=(0, 1)).cells()] == [
        (seed, name, rate)
        for seed, (name, rates) in product((0, 1), (("npo", RATES), ("graddiff", RATES[:1])))
        for rate in rates
    ]
    assert json.dumps(bench(*arms).told(arms[0]))


def test_the_page_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {"load_original": lambda: tiny(seed=0, **SIZES), "tokenizer": facts.tokenizer(), "unseen": UNSEEN}
    given |= {"load_retrained_0": REFERENCES[0], "load_retrained_1": REFERENCES[1], "forget": FORGET, "retain": RETAIN}
    names = executed(REPOSITORY / "docs" / "llm_bench.md", **given)
    assert [row["method"] for row in names["rows"]][3:] == ["npo", "npo", "npo lora"]
    assert "At equal retention" in capsys.readouterr().out
    assert (tmp_path / "runs" / "llm-bench" / "frontier.png").exists()
