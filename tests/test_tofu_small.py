"""The study on TOFU's authors: it runs small, and what is committed of it holds what its README says."""

import json
from collections import Counter
from statistics import median

import pytest

pytest.importorskip("transformers")
from experiments.tofu_small import frontier, instead
from experiments.tofu_small.__main__ import Args, main
from experiments.tofu_small.continued import CONTINUED
from experiments.tofu_small.frontier_seeds import by_rate, table
from experiments.tofu_small.methods import SETTINGS
from experiments.tofu_small.problem import Problem, Recipe
from experiments.tofu_small.table import continued, markdown, reference
from gunlearn.bench.llm import arm_settings
from gunlearn.report.frontier_table import at_equal_retention, compared_models
from tests.conftest import REPOSITORY, committed


@pytest.mark.filterwarnings("ignore:no loss of .* reads the rows to retain")
def test_smoke(tofu_root, tmp_path, capsys):
    args = Args(tofu_root, tmp_path, methods=("npo", "graddiff lora", "ga until unseen", *CONTINUED), smoke=True)
    (found,) = main(args).values()
    names = [row["model"] for row in found["rows"]]
    assert sorted(names) == sorted([*args.methods, "original", "retrained 0", "retrained 1"])
    for row in found["rows"]:
        assert {"forget_alignment", "forget_quality", "model_utility", "mia_min_k", "seconds"} <= set(row)
        assert ("relearn_others" in row) == (row["model"] in CONTINUED or reference(row))
    out = capsys.readouterr().out
    assert "| npo" in out
    assert "| forget10 | continued, shrunk | 1 |" in out
    models = list((tmp_path / "models").glob("*.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in models]
    main(args)  # trained and unlearned models are read, not made again
    assert [path.stat().st_mtime_ns for path in models] == stamps


def test_the_frontier_runs_small_and_goes_on(tofu_root, tmp_path, capsys):
    args = frontier.Args(tofu_root, tmp_path, methods=("npo", "shrunk"), smoke=True)
    rows = frontier.main(args)
    assert [row["method"] for row in rows] == ["original", "retrained 0", "retrained 1", "npo", "shrunk"]
    assert "| `shrunk` | 0.001 | 1 |" in capsys.readouterr().out
    assert frontier.main(args) == rows
    assert (tmp_path / "frontier-seed0" / "frontier.png").exists()


def test_forgotten_and_retained_questions_are_apart(tofu_root):
    problem = Problem(tofu_root, Recipe(authors=10, vocab_size=600))
    for percent, number in ((10, 20), (5, 10), (1, 2)):
        forget, retain = problem.forget(percent), problem.retain(percent)
        assert len(forget) == number
        asked = {row["question"] for row in forget}
        assert not asked & {row["question"] for row in retain}
        # Together, and with nothing else, they are what the full model learns.
        assert asked | {row["question"] for row in retain} == {
            row["question"] for row in problem.full + problem.general
        }
        assert not asked & {row["question"] for row in problem.unseen}
    row = problem.forget(10)[0]
    text = problem.tokenizer.decode([t for t, y in zip(row["input_ids"], row["labels"], strict=True) if y != -100])
    assert text.strip() == f"{row['answer']}<eos>"
    assert len(row["perturbed"]) == 5


def test_the_readme_shows_what_was_measured_of_every_method():
    text = (REPOSITORY / "experiments" / "tofu_small" / "README.md").read_text()
    for name, found in committed("tofu_small").items():
        assert markdown(found["rows"]) in text
        models = {row["model"] for row in found["rows"]}
        assert models >= {*SETTINGS, *CONTINUED, "original", "retrained 0", "retrained 1"}, name
    assert continued(committed("tofu_small")) in text
    for line in (REPOSITORY / "experiments" / "tofu_small" / "search.jsonl").read_text().splitlines():
        assert f"| `{json.loads(line)['setting']}` | {json.loads(line)['forget_prob']:.3f} |" in text


def test_shrinking_ends_where_the_readme_says():
    """On seed 0, on which its setting was found."""
    rows = {row["model"]: row for row in committed("tofu_small")["forget10"]["rows"]}
    shrunk, retrained = rows["continued, shrunk"], rows["retrained 0"]
    assert retrained["forget_alignment_low"] <= shrunk["forget_alignment"] <= retrained["forget_alignment_high"]
    assert shrunk["retain_alignment"] <= 30
    assert shrunk["forget_prob"] <= 0.05
    assert shrunk["retain_prob"] >= 0.985


def test_the_medians_of_three_seeds_are_within_the_lines():
    folder = REPOSITORY / "experiments" / "tofu_small"
    more, text = json.loads((folder / "results_seeds.json").read_text()), (folder / "README.md").read_text()
    all_three = (committed("tofu_small")["forget10"], *more.values())
    seeds = [{row["model"]: row for row in found["rows"]} for found in all_three]
    for found in more.values():
        assert markdown(found["rows"]) in text
    names = ("forget_alignment", "retain_alignment", "forget_prob", "retain_prob")
    middle = {name: median(rows["continued, shrunk"][name] for rows in seeds) for name in names}
    low, high = (median(rows["retrained 0"][f"forget_alignment_{end}"] for rows in seeds) for end in ("low", "high"))
    assert len(seeds) == 3
    assert low <= middle["forget_alignment"] <= high
    assert middle["retain_alignment"] <= 30
    assert middle["forget_prob"] <= 0.05
    assert middle["retain_prob"] >= 0.985


def test_the_models_know_what_they_learned_and_not_what_they_did_not():
    for found in committed("tofu_small").values():
        by_name = {row["model"]: row for row in found["rows"]}
        assert by_name["original"]["forget_prob"] > 0.9
        for name in ("retrained 0", "retrained 1"):
            assert by_name[name]["forget_prob"] < 0.3
            assert by_name[name]["retain_prob"] > 0.9
            assert abs(by_name[name]["mia_min_k"] - 0.5) < 0.2
            assert by_name[name]["forget_alignment"] < by_name["original"]["forget_alignment"]


def test_the_frontiers_are_what_the_readme_says_of_them():
    rows = json.loads((REPOSITORY / "experiments" / "tofu_small" / "frontier.json").read_text())
    found = {(s.method, s.rate, s.epoch): s.reported for s in arm_settings(rows)}
    npo = found["npo", 3e-3, 10]
    assert npo["forget_prob"] < 0.06
    assert npo["gain_low"] > 0  # it looks forgotten and is nearer
    low = [(name, f) for (name, _, _), f in found.items() if f["forget_prob"] < 0.1]
    nearer, further = (
        Counter(name for name, f in low if f[key] * sign > 0) for key, sign in (("gain_low", 1), ("gain_high", -1))
    )
    of = Counter(name for name, _ in low)
    assert (len(found), of.total(), further.total(), nearer.total()) == (117, 54, 30, 12)
    for name in ("graddiff", "gradient_ascent", "influence_ascent", "ihl", "ce_unlearning"):
        assert further[name] == of[name], name
    assert [(further[name], of[name]) for name in ("wga", "pdu")] == [(4, 5), (4, 6)]
    assert set(nearer) == {"shrunk", "npo", "npo lora", "npo bounded", "kto", "rmu", "dto"}
    assert all(f["mia_min_k"] > 0.85 for f in found.values() if f["gain_low"] > 0)
    kept = {name: setting for name, setting in at_equal_retention(rows).items() if setting is not None}
    assert set(found_names(rows)) - kept.keys() == {"npo", "graddiff", "wga", "ihl", "pdu"}
    assert max(kept.values(), key=lambda s: s.reported["gain"]).method == "shrunk"
    rmu = kept["rmu"].reported
    assert rmu["forget_prob"] < 1e-3
    assert abs(rmu["mia_min_k"] - 0.5) < 0.05
    assert rmu["gain_low"] < 0 < rmu["gain_high"]
    ends = compared_models(rows, 0)
    first, second = (found["shrunk", rate, 8] for rate in (3e-3, 6e-3))
    untouched, other = ends["original"], ends["retrained 0"]
    assert all(other["gain_low"] <= f["gain"] <= other["gain_high"] for f in (first, second))
    assert all(f["mia_min_k"] > other["mia_min_k"] + 0.1 for f in (first, second))
    assert second["forget_prob"] < first["forget_prob"] / 2
    assert 10 * other["forget_prob"] < second["forget_prob"] < 12 * other["forget_prob"]
    assert second["retain_prob"] < untouched["retain_prob"] - 0.05


def test_what_seeds_say_of_the_frontiers():
    folder = REPOSITORY / "experiments" / "tofu_small"
    seeds = [
        json.loads((folder / f"{name}.json").read_text()) for name in ("frontier", "frontier-seed1", "frontier-seed2")
    ]
    assert len({frozenset(found_names(rows)) for rows in seeds}) == 1
    assert len(found_names(seeds[0])) == 21
    counts, always = Counter(), []
    for rows in seeds:
        kept = {n: s.reported for n, s in at_equal_retention(rows).items() if s is not None}
        assert max(kept, key=lambda name: kept[name]["gain"]) == "shrunk"
        assert not kept.keys() & {"npo", "graddiff", "wga", "ihl", "pdu"}
        assert kept["rmu"]["gain"] < 0
        assert 0.5 < kept["rmu"]["mia_min_k"] < 0.57
        found = {(s.method, s.rate, s.epoch): s.reported for s in arm_settings(rows)}
        assert found["npo", 3e-3, 10]["gain_low"] > 0
        assert 0.915 < found["npo", 3e-3, 10]["retain_prob"] < 0.945
        last, other = found["shrunk", 6e-3, 8], compared_models(rows, 0)["retrained 0"]
        assert other["gain_low"] <= last["gain"] <= other["gain_high"]
        assert 0.755 < last["mia_min_k"] < 0.89
        assert min(found["shrunk", rate, 8]["mia_min_k"] for rate in (1e-3, 3e-3)) > 0.98
        low = [(name, f) for (name, *_), f in found.items() if f["forget_prob"] < 0.1]
        nearer, further = ([n for n, f in low if f[k] * sign > 0] for k, sign in (("gain_low", 1), ("gain_high", -1)))
        counts.update(settings=len(found), low=len(low), nearer=len(nearer), further=len(further))
        of, away = Counter(name for name, _ in low), Counter(further)
        always.append((set(nearer), {name for name in of if of[name] == away[name]}))
    assert counts == {"settings": 351, "low": 162, "further": 95, "nearer": 44}
    nearer, further = (set.intersection(*(sides[i] for sides in always)) for i in (0, 1))
    assert nearer == {"shrunk", "npo", "npo lora", "npo bounded", "kto", "dto"}
    assert further == {"graddiff", "gradient_ascent", "influence_ascent", "ce_unlearning", "task_vector"}
    assert "| `shrunk` |" in table(seeds)
    assert by_rate(seeds, "npo").count("\n") == 7


def found_names(rows):
    """The methods of the frontier."""
    return {row["method"] for row in rows if "rate" in row}


@pytest.mark.filterwarnings("ignore:continued_training.*")
def test_what_to_say_instead_runs_small_and_goes_on(tofu_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(instead, "RATES", (1e-3,) * 2)
    monkeypatch.setattr(instead, "SHRUNK", (1e-3,))
    monkeypatch.setattr(instead, "LOSSES", {name: instead.LOSSES[name] for name in (instead.WRONG, instead.TEACHER)})
    args = instead.Args(tofu_root, tmp_path, seeds=(0,), smoke=True)
    rows = instead.main(args)
    names = {row["model"]: row for row in rows}
    assert len(names) == len(rows) == 8
    assert names["original"]["gain"] is None
    assert names["npo, wrong answers, then shrunk | 0.001"]["steps"] == sum(
        names[f"{name} | 0.001"]["steps"] for name in ("npo, wrong answers", "shrunk")
    )
    probs = {row["forget_prob"] for row in rows}
    assert len(probs) == 8  # each is another model
    assert "| teacher, then shrunk | 0.001 |" in capsys.readouterr().out
    assert instead.main(args) == rows


def test_what_the_readme_says_of_what_to_say_instead():
    folder = REPOSITORY / "experiments" / "tofu_small"
    rows = json.loads((folder / "instead.json").read_text())
    assert instead.table(rows) in (folder / "README.md").read_text()
    two = {(row["model"], row["seed"]): row for row in rows}
    for seed in (1, 2):
        end, again = two["teacher | 0.003", seed], two["retrained", seed]
        assert abs(end["gain"] - again["gain"]) < 0.03
        assert 9 < end["forget_prob"] / again["forget_prob"] < 16.5
        assert 0.89 < end["retain_prob"] < 0.92
        assert two["teacher itself", seed]["gain"] > 0.44
        assert two["teacher itself", seed]["retain_prob"] < 0.024
        said = {name: [two[f"{name} | {rate:g}", seed]["gain"] for rate in instead.RATES] for name in instead.LOSSES}
        assert min(said["npo, refusals"]) > 0.36 > 0.16 > max(said["npo, wrong answers"] + said["wrong answers"])
    for rate, least, most in ((1e-3, 0.09, 0.24), (3e-3, 0.0076, 0.011)):
        both, alone = (two[f"{name} | {rate:g}", 2] for name in ("teacher, then shrunk", "shrunk"))
        assert least <= both["forget_prob"] < alone["forget_prob"] < most
