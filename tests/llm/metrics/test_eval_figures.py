"""Figures of an evaluation of one model that its settings and rows decide, against values by hand."""

import copy
import math
from dataclasses import replace
from statistics import harmonic_mean

import pytest
import torch

from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics import EvalSettings, EvaluationLog, evaluate_one, quantized, token_scores
from gunlearn.llm.metrics.logged_comparisons import compared
from gunlearn.llm.metrics.row_passes import RowPasses
from gunlearn.metrics.texts import exact_memorization, extraction_strength
from tests.llm import facts
from tests.llm.metrics.small_models import SETS, log_of, models

#: Nothing but the figures of the rows themselves.
PLAIN = EvalSettings(attacks=(), align_on=(), relearn_steps=0, quantise=(), generate=False, max_new_tokens=5)
UTILITY = SETS | {"authors": facts.with_answers(range(8, 10), 3)}


def relearned(probs, rows=(0, 2), before=(0.2, 0.9, 0.6)):
    """The steps of relearning, from its curve and the log of the model before unlearning."""
    log = EvaluationLog({"name": "m"}, {}, {"align_on": [], "attacks": [], "relearn_others": list(rows)})
    log.rows["forget"] = [{} for _ in before]
    log.curves["relearn"] = [{"step": 5 * i, "prob": prob} for i, prob in enumerate(probs)]
    original = EvaluationLog({"name": "o"}, {}, {})
    original.rows = {"forget": [{"prob": prob} for prob in before], "retain": [{"prob": 0.01} for _ in before]}
    compared(log, [], original)
    return log.figures["relearn_steps"]


def test_relearning_takes_the_steps_until_the_rows_are_as_likely_as_before():
    """Means of the measured rows by hand. The controls: other rows, and a curve that never comes so far."""
    assert relearned([0.1, 0.3, 0.5, 0.45]) == 10  # the mean before is .4
    assert relearned([0.5, 0.3]) == 0
    assert relearned([0.1, 0.9], rows=(1,)) == 5  # just as likely
    assert relearned([0.1, 0.89], rows=(1,)) == math.inf
    assert relearned([0.1, 0.39, 0.2]) == math.inf


def test_relearning_measures_so_many_of_the_other_rows():
    """The control: by default all other rows of the nine are measured."""
    settings, given = replace(PLAIN, relearn_steps=1), (models()["unlearned"], facts.tokenizer(), SETS)
    every = evaluate_one(*given, settings).settings["relearn_others"]
    log = evaluate_one(*given, replace(settings, relearn_rows=3))
    assert len(every) == 8
    assert log.settings["relearn_others"] == [every[i] for i in (0, 2, 5)]
    chosen = [SETS["forget"][i] for i in log.settings["relearn_others"]]
    expected = token_scores(given[0], chosen).mean_log_prob.exp().mean()
    assert log.curves["relearn"][0]["prob"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kept", [True, False])
def test_relearning_leaves_the_model_as_it_is_unless_it_may_be_trained(kept):
    """The control: a model that need not be kept is trained itself."""
    model = copy.deepcopy(models()["unlearned"])
    evaluate_one(model, facts.tokenizer(), SETS, replace(PLAIN, relearn_steps=1), keep_model=kept)
    before = models()["unlearned"].parameters()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)) == kept


def test_model_utility_is_the_harmonic_mean_of_three_figures_of_each_set():
    """By hand. The control: without any of the figures it would be another."""
    plain = [[{n: v for n, v in row.items() if n != "paraphrased"} for row in SETS[p]] for p in ("forget", "retain")]
    sets = dict(zip(("authors", "facts"), plain, strict=True))
    figures = evaluate_one(models()["original"], facts.tokenizer(), sets, replace(PLAIN, generate=True)).figures
    found = {f"{part}_{name}": figures[f"{part}_{name}"] for part in sets for name in ("prob", "rougeL", "truth_ratio")}
    assert figures["model_utility"] == pytest.approx(harmonic_mean(found.values()))
    for left in found:
        others = [value for name, value in found.items() if name != left]
        assert abs(harmonic_mean(others) - figures["model_utility"]) > 1e-3


def test_a_model_utility_that_cannot_be_computed_is_said_to_lack_something():
    """The control: a set whose rows have wrong answers is not named."""
    bare = [{name: row[name] for name in ("input_ids", "labels")} for row in UTILITY["authors"]]
    given = models()["r0"], facts.tokenizer()
    log = evaluate_one(*given, UTILITY | {"authors": bare}, replace(PLAIN, generate=True))
    assert "model_utility" not in log.figures
    assert log.left_out["model_utility"] == "authors has no wrong answers"
    log = evaluate_one(*given, UTILITY, PLAIN)
    assert log.left_out["model_utility"] == "retain has no generated answers, authors has no generated answers"
    assert "model_utility" not in evaluate_one(*given, SETS, PLAIN).left_out  # no set of utility was given


def test_memorisation_under_rounded_weights_is_that_of_a_rounded_model():
    """The control: the two kinds of memorisation differ."""
    model = models()["unlearned"]
    figures = evaluate_one(model, facts.tokenizer(), SETS, replace(PLAIN, quantise=("int8",))).figures
    scores = token_scores(quantized(model, 8), SETS["forget"], tokenizer=facts.tokenizer())
    exact, extracted = (float(of(scores).double().mean()) for of in (exact_memorization, extraction_strength))
    assert abs(exact - extracted) > 0.01
    assert figures["forget_exact_memorization_int8"] == pytest.approx(exact)
    assert figures["forget_extraction_strength_int8"] == pytest.approx(extracted)


def test_fewer_rows_are_asked_and_attacked(monkeypatch):
    """The control: without a number all nine forgotten rows are."""
    ran, run = {}, RowPasses.run

    def counted(self, name, number, work):
        ran[name] = number
        return run(self, name, number, work)

    monkeypatch.setattr(RowPasses, "run", counted)
    settings = replace(PLAIN, attacks=("gradient",), align_on=("forget", "retain"), max_new_tokens=2)
    for align, gradient, numbers in ((None, None, (9, 9, 12)), (2, 3, (2, 3, 3))):
        fewer = replace(settings, align_rows=align, gradient_rows=gradient)
        log = evaluate_one(models()["r0"], facts.tokenizer(), SETS, fewer)
        assert tuple(ran[name] for name in ("drawn-forget", "gradient-forget", "gradient-holdout")) == numbers
    assert log.settings["aligned"] == {"forget": [0, 4], "retain": [0, 4]}


def changed(part, name, value):
    """The sets, with another value in one row."""
    return SETS | {part: [SETS[part][0] | {name: value}, *SETS[part][1:]]}


def test_an_evaluation_of_something_else_does_not_go_on(tmp_path):
    """The control: of the same model, rows, answers and tokenizer, under another name, it does."""
    path, tokenizer, r0 = tmp_path / "r0.json", facts.tokenizer(), models()["r0"]
    evaluate_one(r0, tokenizer, SETS, PLAIN, out=path, name="r0")
    assert evaluate_one(r0, tokenizer, SETS, PLAIN, out=path, name="renamed").model["name"] == "r0"
    spoken = copy.deepcopy(facts.tokenizer())
    spoken.chat_template = "{{ messages }}"
    row = SETS["forget"][0]
    sets = [changed("forget", "paraphrased", row["perturbed"][0])]
    sets += [changed(part, "perturbed", row["perturbed"][:2]) for part in ("forget", "retain")]
    sets += [changed("retain", "input_ids", [5, *SETS["retain"][0]["input_ids"][1:]])]
    for other in ((models()["r1"], tokenizer, SETS), (r0, spoken, SETS), *((r0, tokenizer, each) for each in sets)):
        with pytest.raises(InvalidInputError, match=r"same model, rows and settings \(got .*r0\.json"):
            evaluate_one(*other, PLAIN, out=path)


def test_texts_are_refused_of_a_complete_log_that_lacks_them(tmp_path):
    """The controls: a log that has them, and one without any generated answer, are shown again."""
    settings = replace(PLAIN, generate=True)
    log_of(tmp_path, "r0", settings=settings)
    said = r"new file for generated answers as text \(got .*r0\.json, which is complete and whose texts were not kept"
    with pytest.raises(InvalidInputError, match=said):
        log_of(tmp_path, "r0", settings=settings, keep_texts=True)
    for name, how in (("r1", settings), ("original", PLAIN)):
        first = log_of(tmp_path, name, settings=how, keep_texts=True)
        assert bool(first.texts) == how.generate
        assert log_of(tmp_path, name, settings=how, keep_texts=True).texts == first.texts
