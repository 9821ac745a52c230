"""The study on a pretrained model: it runs small, its figures are what they are called, and it is not run again."""

import copy
import json
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from io import StringIO

import pytest
import torch

pytest.importorskip("transformers")
from peft import get_peft_model

import gunlearn
from experiments.smollm import methods
from experiments.smollm.__main__ import Args, main, make_study
from experiments.smollm.base import tiny
from experiments.smollm.going_on import FACTORS, FRESH, LONGER, SHARES, SHRUNK, VECTOR, new_adapter, subtracted, went_on
from experiments.smollm.learned import learned
from experiments.smollm.measured import RELEARN, with_forget_quality
from experiments.smollm.methods import NAMES, SETTINGS, halved, nll, run
from experiments.smollm.pieces import FIRST, UNTOUCHED, Piece, Plan, share
from experiments.smollm.problem import Problem, Recipe
from experiments.smollm.table import general, tables
from experiments.smollm.upper_half import UpperHalf
from gunlearn.llm import CausalLM, PartCollator
from gunlearn.llm.metrics import shown_rows
from gunlearn.llm.metrics.membership import loss_score, membership_auc
from gunlearn.llm.metrics.row_figures import figures
from gunlearn.llm.metrics.scoring import token_scores
from gunlearn.llm.metrics.tofu_metrics import forget_quality
from gunlearn.report.frontier_table import three_digits
from tests.conftest import committed


@pytest.fixture(scope="module")
def smoke(tofu_root, tmp_path_factory):
    """How the study ran small, what it found for both requests, and what it printed."""
    args = Args(tofu_root, tmp_path_factory.mktemp("smollm"), methods=(SHRUNK, "idkdpo", VECTOR), smoke=True)
    with redirect_stdout(StringIO()) as printed, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no loss of .* reads the rows to retain")
        found = main(args)[0]
    return args, found, printed.getvalue()


@pytest.fixture(scope="module")
def study(smoke):
    """The same study, whose models are read from the disk."""
    return make_study(smoke[0])


def rows_of(smoke, number):
    return {row["model"]: row for row in smoke[1][f"request {number}"]["rows"]}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_smoke(smoke):
    """Both requests; a second run makes no model and measures nothing again."""
    args, found, out = smoke
    for number in (1, 2):
        rows = found[f"request {number}"]["rows"]
        assert [row["model"] for row in rows] == ["retrained 0", "retrained 1", "original", "pretrained", *args.methods]
        assert {(row["seed"], row["device"], row["precision"]) for row in rows} == {(0, "cpu", "float32")}
        for row in rows:
            assert {"forget_alignment", "forget_quality", "model_utility", "mia_min_k", "others_relearned"} <= set(row)
            assert row["model"] == "original" or "forget_alignment_gain_low" in row
    assert "request2" in out
    assert "| task vector | 0.5 |" in out
    assert tables(found)["request1"] in out
    stamps = {path: path.stat().st_mtime_ns for path in (args.out / "models").rglob("*")}
    assert main(args) == {0: found}
    assert {path: path.stat().st_mtime_ns for path in (args.out / "models").rglob("*")} == stamps


def test_what_figures_depend_on_is_not_mistaken_for_another(smoke, capsys, monkeypatch):
    """Another recipe, precision or attack in the same folder; control: the same ones measure nothing again."""
    args = smoke[0]

    def measured(**changes):
        study = make_study(args)
        study.problem = replace(study.problem, **changes)
        rows = [study.request(0, 1).row(name)["row"] for name in UNTOUCHED]
        times = capsys.readouterr().out.count(" measured")
        return rows, times, [study.file(Piece(0, 1, name)) for name in UNTOUCHED]

    first, times, files = measured()
    assert times == 0
    recipe = make_study(args).problem.recipe
    for change in ({"recipe": replace(recipe, epochs=2)}, {"bf16": True}):
        other, times, elsewhere = measured(**change)
        assert times == 6
        assert not set(elsewhere) & set(files)
        assert other[0]["forget_prob"] != first[0]["forget_prob"]
        assert other[1]["forget_alignment"] != first[1]["forget_alignment"]
        assert measured(**change)[:2] == (other, 0)
    digests = {make_study(replace(args, retrained=n)).request(0, 1).measured.digest for n in (1, 2)}
    assert len(digests) == 2
    monkeypatch.setitem(RELEARN, "steps", 1)
    other, times, elsewhere = measured()
    assert times == 6
    assert not set(elsewhere) & set(files)
    assert [other[0][key] == first[0][key] for key in ("others_before", "others_relearned")] == [True, False]


@pytest.mark.parametrize("number", [1, 2])
def test_figures_are_of_rows_that_no_setting_was_chosen_on(smoke, study, number):
    """Relearning, of rows that were not shown; membership, against rows that nobody saw.

    Control: the chosen halves, the shown rows and the forgotten ones have other figures.
    """
    problem, row = study.problem, rows_of(smoke, number)["pretrained"]
    model, forget = problem.pretrained, problem.forget(number)
    gone, asked = [*(problem.forget(1) if number == 2 else []), *forget], problem.asked(4)
    shown = shown_rows(len(forget), RELEARN["share"])
    hidden = [i for i in range(len(forget)) if i not in shown]
    reported = {"forget": gone[1::2], "retain": asked[1::2], "others": [forget[i] for i in hidden]}
    chosen = {"forget": gone[::2], "retain": asked[::2], "others": [forget[i] for i in shown]}
    keys = {"forget": "forget_prob", "retain": "retain_prob", "others": "others_before"}
    right, wrong = figures(model, reported), figures(model, chosen)
    for part, key in keys.items():
        assert row[key] == pytest.approx(right[part]["prob"], rel=1e-5)
        assert row[key] != pytest.approx(wrong[part]["prob"], rel=1e-4)
    assert row["others_relearned"] > row["others_before"]
    auc = [
        membership_auc(*(loss_score(token_scores(model, rows)) for rows in (gone[1::2], others)))
        for others in (problem.unseen, gone[1::2])
    ]
    assert row["mia_loss"] == pytest.approx(auc[0])
    assert abs(row["mia_loss"] - auc[1]) > 0.05
    original, _ = study.origin(0)
    means = nll(original, {"unseen": problem.unseen, "forget": gone})
    assert smoke[1][f"request {number}"]["unseen"] == pytest.approx(means["unseen"], rel=1e-5)
    assert means["unseen"] != pytest.approx(means["forget"], rel=1e-4)


def test_the_best_setting_is_taken(smoke, study):
    """Control: the settings differ by more than rounding does."""
    for number in (1, 2):
        for name in (SHRUNK, "idkdpo", VECTOR):
            tried = smoke[1][f"request {number}"]["tried"][name]
            best, worst = sorted(tried, key=lambda one: one["judged"])
            assert worst["judged"] - best["judged"] > 2e-5
            assert rows_of(smoke, number)[name]["setting"] == best["setting"]
            if number == 1:
                request = study.request(0, 1).first
                assert request.judged(run(name, request)[0])["judged"] == pytest.approx(best["judged"], abs=1e-5)


def test_a_setting_is_judged_on_the_chosen_halves(study):
    """It pays for forgotten rows on both sides of the unseen ones, and for what retained rows lose; a gain is free.

    Control: the reported half has another mean.
    """
    request, model = copy.copy(study.request(0, 1).first), study.problem.pretrained
    forget, asked = study.problem.forget(1)[::2], study.problem.asked(4)
    known, other = (nll(request.original, {"retain": half})["retain"] for half in (asked[::2], asked[1::2]))
    assert request.known == pytest.approx(known, rel=1e-5)
    assert known != pytest.approx(other, rel=1e-4)
    at = nll(model, {"forget": forget, "retain": asked[::2]})
    for above, lost, judged in ((0, 1, 1), (0, -1, 0), (2, 1, 3), (-2, 1, 3)):
        request.unseen, request.known = at["forget"] - above, at["retain"] - lost
        assert request.judged(model)["judged"] == pytest.approx(judged, abs=1e-5)


def test_what_is_retained_is_learned_and_not_unlearned():
    """Control: what is unlearned by a loss of its own has the other sign."""
    for name in ("npo, said before", "finetune"):
        signs = {part: weight > 0 for weight, loss in SETTINGS[name].method.terms for part in loss.on_parts}
        assert signs.pop("retain")
        assert all(signs.values())
    assert (-1.0 * SETTINGS["finetune"].method).terms[0][0] < 0


def test_the_second_request_is_put_to_what_the_first_became(study, monkeypatch):
    """Methods train that model, too; control: it is not the original."""
    seen = []

    def stop(model, *_, **__):
        seen.append(model)
        raise ArithmeticError

    first, second = study.request(0, 1), study.request(0, 2)
    monkeypatch.setattr(methods, "unlearn", stop)
    monkeypatch.setattr(gunlearn, "unlearn", stop)
    for name, unknown in (("idkdpo", "npo"), (SHRUNK, LONGER)):
        request, (became, _) = second.put(name), run(name, first.first)
        torch.testing.assert_close(weights(request.base), weights(study.problem.merged(became)))
        assert not torch.allclose(weights(request.base), weights(request.original), atol=1e-6)
        with pytest.raises(ArithmeticError):
            run(unknown, request)  # not on the disk
        assert seen.pop() is (request.start if unknown == LONGER else request.base)


def test_a_task_vector_is_subtracted(study):
    """Control: it is not nothing."""
    request, problem = study.request(0, 2).put(VECTOR), study.problem
    model, _ = subtracted(VECTOR, request, 0.5)
    change = weights(problem.merged(model)) - weights(request.base)
    alone = weights(problem.merged(learned(problem, request.forget, 102)[0])) - weights(problem.pretrained)
    torch.testing.assert_close(change, -0.5 * alone, rtol=0, atol=1e-6)
    assert alone.abs().max() > 1e-4


def test_an_adapter_is_shrunk_by_the_factor(study):
    """Where the steps that follow are of length 0."""
    request, problem = copy.copy(study.request(0, 1).first), study.problem
    request.problem = replace(problem, recipe=replace(problem.recipe, lr=0.0))
    before = weights(problem.pretrained)
    change = weights(request.original) - before
    assert change.abs().max() > 1e-4
    for name, factor in ((SHRUNK, 0.25), (LONGER, 0.1)):
        model, _ = went_on(name, request, factor)
        torch.testing.assert_close(weights(problem.merged(model)) - before, factor * change, rtol=0, atol=1e-6)


def test_forget_quality_compares_with_another_model_that_was_retrained():
    """Control: against itself a model has a quality of 1."""
    ratios = {
        name: torch.linspace(low, low + 0.4, 10)
        for name, low in (("npo", 0.55), ("retrained 0", 0.0), ("retrained 1", 0.25))
    }
    rows = [{"model": name, "truth_ratios": ratio.tolist()} for name, ratio in ratios.items()]
    found = {row["model"]: row["forget_quality"] for row in with_forget_quality(rows)}
    for name, against in (("npo", "retrained 0"), ("retrained 0", "retrained 1"), ("retrained 1", "retrained 0")):
        assert found[name] == forget_quality(ratios[name], ratios[against]) < 0.9
        assert forget_quality(ratios[name], ratios[name]) == 1
    assert [row["forget_quality"] for row in with_forget_quality(rows[1:2])] == [None]


def test_each_seed_has_models_and_results_of_its_own(tofu_root, tmp_path, capsys):
    """Also: the control that begins with new factors takes as many steps as the row that it is a control of."""
    args = Args(tofu_root, tmp_path, requests=(1,), methods=(FRESH,), seeds=(0, 1), device="auto", smoke=True)
    found = main(args)
    assert SHARES[FRESH] == SHARES[LONGER]
    assert (tmp_path / "models" / "request1").is_dir() == (not torch.cuda.is_available())
    files = [json.loads((tmp_path / name).read_text()) for name in ("results.json", "results-seed1.json")]
    assert files == [found[0], found[1]]
    first, second = ({row["model"]: row for row in one["request 1"]["rows"]} for one in files)
    for name in (*UNTOUCHED, "retrained 0", "retrained 1", FRESH):
        assert (first[name]["seed"], second[name]["seed"]) == (0, 1)
        assert (first[name]["forget_prob"] == second[name]["forget_prob"]) == (name == "pretrained")
    assert files[0]["recipe"]["nll"] != files[1]["recipe"]["nll"]
    low, high = sorted(row[FRESH]["others_before"] for row in (first, second))
    assert f"({three_digits(low)} to {three_digits(high)})" in capsys.readouterr().out


def test_other_factors_of_a_method_make_another_row(tofu_root, tmp_path, monkeypatch):
    """Control: a row found by budget and problem alone would be read as that of the new factors."""
    study = make_study(Args(tofu_root, tmp_path, requests=(1,), methods=(FRESH, "npo"), smoke=True))
    pieces = [Piece(0, 1, name) for name in (FRESH, "npo")]
    before = [study.file(piece) for piece in pieces]
    monkeypatch.setitem(FACTORS, FRESH, (0.5,))
    assert [study.file(piece) == file for piece, file in zip(pieces, before, strict=True)] == [False, True]


def test_new_factors_begin_at_the_pretrained_model(tofu_root, tmp_path):
    problem = Problem(tofu_root, tiny(tmp_path / "base", tofu_root), tmp_path, Recipe(authors=4, rank=2), bf16=False)
    ids = torch.tensor([problem.forget(1)[0]["input_ids"]])
    with torch.no_grad():
        assert torch.equal(new_adapter(problem, 1)(ids).logits, problem.pretrained(ids).logits)
    starts = [new_adapter(of, number).state_dict() for of in (problem, problem.with_seed(1)) for number in (1, 1, 2)]
    factors = [next(value for name, value in start.items() if "lora_A" in name) for start in starts]
    assert torch.equal(factors[0], factors[1])
    assert len({float(factor.sum()) for factor in factors}) == 4


def test_processes_share_the_pieces(tmp_path):
    """Each piece is done once, what it needs before it; one that failed takes with it only what needs it."""
    plan = Plan((0, 1), (1, 2), ("a", "b"), 2)
    done, order = set(), []

    def work(piece):
        assert set(plan.needs(piece)) <= done
        order.append(piece)
        if piece == Piece(0, 1, "a"):
            raise ArithmeticError("no")
        time.sleep(0.001)
        done.add(piece)

    def process(_):
        while True:  # as a driver that starts a process again
            try:
                return share(plan, done.__contains__, work, tmp_path, skip_failed=True)
            except ArithmeticError:
                pass

    with ThreadPoolExecutor(3) as pool:
        left = list(pool.map(process, range(3)))
    assert left == [[Piece(0, 1, "a"), Piece(0, 2, "a")]] * 3
    assert len(order) == len(set(order)) == len(plan.pieces()) - 1
    with pytest.raises(ArithmeticError):
        share(plan, done.__contains__, work, tmp_path)  # without the option it is tried again
    assert share(plan, done.__contains__, work, tmp_path, until=time.monotonic() - 1) == left[0]


def test_the_first_seed_comes_first():
    plan = Plan((0, 1, 2), (1, 2), NAMES, 2)
    rows = [piece for piece in plan.pieces() if not piece.trains]
    methods = [(piece.request, piece.seed, piece.name) for piece in rows if piece.name in NAMES]
    assert methods[: len(NAMES)] == [(1, 0, name) for name in NAMES]
    assert {name for _, _, name in methods[len(NAMES) : len(NAMES) + 2 * len(FIRST)]} == set(FIRST)
    assert [request for request, _, _ in methods] == [1] * 3 * len(NAMES) + [2] * 3 * len(NAMES)
    assert len(rows) == len(set(rows)) == 2 * 3 * (len(NAMES) + 4)


def test_no_question_is_on_two_sides(tofu_root, tmp_path):
    problem = Problem(tofu_root, tiny(tmp_path / "base", tofu_root), tmp_path, Recipe(authors=4))
    first, second = ({row["question"] for row in problem.forget(number)} for number in (1, 2))
    stays = {row["question"] for row in problem.retain(2)}
    assert (len(first), len(second), len(stays)) == (20, 40, 20)
    assert first | second | stays == {row["question"] for row in problem.full}
    assert {row["question"] for row in problem.retain(1)} == second | stays
    assert not {row["question"] for row in problem.unseen} & (first | second | stays)
    assert {row["question"] for row in problem.asked(10)} <= stays
    chosen, reported = halved(problem.asked(10))
    assert not {row["question"] for row in chosen} & {row["question"] for row in reported}
    row = problem.forget(1)[0]
    said = problem.tokenizer.decode([t for t, y in zip(row["input_ids"], row["labels"], strict=True) if y != -100])
    assert said.strip() == f"{row['answer']}<eos>"
    assert len(row["perturbed"]) == 5


def test_copies_share_the_weights_of_their_base(tofu_root, tmp_path):
    """A control for the memory that ten models take: an adapter's training leaves the base as it was."""
    problem = Problem(
        tofu_root, tiny(tmp_path / "base", tofu_root), tmp_path, Recipe(authors=4, epochs=1, rank=2, batch_size=40)
    )
    before = {name: value.clone() for name, value in problem.pretrained.state_dict().items()}
    model, history = learned(problem, problem.forget(1), 0)
    assert model.base_model.model.model.embed_tokens.weight is problem.pretrained.model.embed_tokens.weight
    assert all(value.equal(before[name]) for name, value in problem.pretrained.state_dict().items())
    assert history["steps"] == 1
    assert set(SETTINGS) < set(NAMES)


def test_the_upper_half_trains_as_the_whole_model_does(tofu_root, tmp_path):
    """Loss and gradients of a padded batch; outside the block the model is whole again."""
    problem = Problem(tofu_root, tiny(tmp_path / "base", tofu_root), tmp_path, Recipe(authors=4, rank=2), bf16=False)
    torch.manual_seed(0)
    config = problem.adapter()
    config.init_lora_weights = False
    model, rows = get_peft_model(problem.over(problem.pretrained), config), problem.forget(1)[:5]
    task, collate = CausalLM(("log_prob",)), PartCollator(0)
    found = []
    upper = UpperHalf(model, problem.first_layer, rows, collate)
    for context in (nullcontext(), upper.reading([3, 0, 4]), nullcontext()):
        model.zero_grad()
        with context:
            loss = -task.decode(model, None, collate([rows[i] for i in (3, 0, 4)])).log_prob.sum()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    for whole, halved_, again in zip(*found, strict=True):
        torch.testing.assert_close(halved_, whole, rtol=1e-4, atol=1e-5)
        assert torch.equal(again, whole)
    assert len(found[0]) > 10


def test_what_was_measured_is_what_the_readme_says():
    """Shrinking towards the pretrained weights forgets and comes nearer; what it loses, more steps bring back."""
    found = committed("smollm")["request 1"]
    rows = {row["model"]: row for row in found["rows"]}
    original, shrunk = rows["original"], rows[SHRUNK]
    assert original["forget_prob"] > 0.9
    for name in ("retrained 0", "retrained 1"):
        assert rows[name]["forget_prob"] < 0.1
        assert rows[name]["retain_prob"] > 0.9
        assert rows[name]["forget_alignment_gain_low"] > 0
    assert shrunk["forget_alignment_gain_low"] > 0
    assert shrunk["forget_prob"] <= 0.2
    assert abs(general(shrunk) - general(original)) <= 0.02
    assert shrunk["retain_prob"] < rows[LONGER]["retain_prob"] < original["retain_prob"]
