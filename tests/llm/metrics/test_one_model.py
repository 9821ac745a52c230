"""One model at a time, with logs of the others, against all models in memory at once."""

import gc
import json
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.spacing import spaced
from gunlearn.llm.metrics import (
    EvaluationLog,
    answer_exchange,
    compare_again,
    evaluate_language_models,
    evaluate_one,
    measured_sets,
    relearn,
    score_for,
    token_scores,
)
from gunlearn.llm.metrics.figure_legends import legends_of
from gunlearn.llm.metrics.logged_comparisons import compared
from gunlearn.llm.metrics.membership import privacy_leak
from gunlearn.llm.metrics.reference_logs import ReferenceLog
from gunlearn.llm.metrics.row_passes import RowPasses
from gunlearn.llm.metrics.scoring import NotANumberError
from tests.llm import facts
from tests.llm.metrics.small_models import PROMPTED, SAMPLER, SETS, SETTINGS, log_of, models

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus", "reference", "gradient")


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A folder with the logs of all four, after both passes."""
    folder = tmp_path_factory.mktemp("logs")
    log_of(folder, "r0")
    log_of(folder, "r1", ("r0",))
    log_of(folder, "original", ("r0", "r1"))
    log_of(folder, "unlearned", ("r0", "r1"), original_log=folder / "original.json")
    for name, others in (("r0", ("r1", "original", "unlearned")), ("r1", ("original", "unlearned"))):
        score_for(models()[name], facts.tokenizer(), PROMPTED, [folder / f"{other}.json" for other in others])
    return folder


def test_figures_are_those_of_all_models_in_memory(logs):
    """The control: drawn under another seed, the alignment is another by far more than the tolerance."""
    log, m = EvaluationLog.load(logs / "unlearned.json"), models()
    given = m["unlearned"], facts.tokenizer(), SETS["forget"], SETS["retain"]
    how = {"holdout_rows": SETS["holdout"], "original": m["original"], "attacks": ATTACKS, "max_new_tokens": 10}
    how["references"] = [m["r0"], m["r1"]]
    table = evaluate_language_models({"unlearned": given[0]}, *given[1:], sampler=SAMPLER, **how)
    expected = {name: value for name, value in table.of("unlearned").items() if name != "model"}
    assert {"forget_alignment_floor", "retain_alignment_gain_low", "forget_quality", "mia_reference"} <= expected.keys()
    assert log.figures.keys() - expected.keys() == {"privleak"}
    assert [name for name in log.figures if len(legends_of([name])) != 1] == []
    for name, value in expected.items():
        assert log.figures[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    other = evaluate_language_models({"unlearned": given[0]}, *given[1:], sampler=replace(SAMPLER, seed=1), **how)
    assert abs(other.of("unlearned")["forget_alignment"] / expected["forget_alignment"] - 1) > 1e-3


def test_privleak_is_relative_to_the_references(logs):
    """The control: an AUC below 1, of which privleak is another for each reference."""
    log = EvaluationLog.load(logs / "unlearned.json")
    aucs = [EvaluationLog.load(logs / f"{r}.json").figures["mia_min_k"] for r in ("r0", "r1")]
    assert log.figures["privleak"] == pytest.approx(privacy_leak(log.figures["mia_min_k"], sum(aucs) / 2))
    log.figures["mia_min_k"], found = 0.7, []
    for aucs in ((0.2, 0.6), (0.5,)):
        compared(log, [ReferenceLog(logs / "r0.json", None, auc) for auc in aucs], None)
        found.append(log.figures["privleak"])
    assert found == pytest.approx([(0.3 - 0.6) / 0.6 * 100, (0.3 - 0.5) / 0.5 * 100])


def test_each_row_has_its_values_and_no_text(logs):
    log = EvaluationLog.load(logs / "unlearned.json")
    for name in ("prob", "exact_memorization", "extraction_strength", "rougeL"):
        mean = sum(row[name] for row in log.rows["forget"]) / len(SETS["forget"])
        assert mean == pytest.approx(log.figures[f"forget_{name}"], abs=1e-6)
    assert [row["index"] for row in log.rows["holdout"]] == list(range(len(SETS["holdout"])))
    written = b"".join(path.read_bytes() for path in logs.iterdir())
    assert not any(word.encode() in written for word in ("oslo", *facts.VALUES["city"]))
    assert not list(logs.glob("*.passes"))


def test_texts_are_written_where_they_are_asked_for(tmp_path):
    settings = replace(SETTINGS, align_on=(), attacks=())
    log = log_of(tmp_path, "unlearned", settings=settings, keep_texts=True)
    assert len(log.texts["forget"]) == len(SETS["forget"])
    assert EvaluationLog.load(log.path).texts == log.texts
    assert set(" ".join(log.texts["forget"]).split()) & facts.VOCABULARY.keys()


def test_one_model_is_in_memory_beside_logs(logs, tmp_path, monkeypatch):
    """The control: a second model that is held while answers are scored is counted."""
    alive, terms = [], answer_exchange.step_terms
    models()

    def number():
        gc.collect()
        return sum(type(thing) is LlamaForCausalLM for thing in gc.get_objects())

    def counted(*args):
        alive.append(number())
        return terms(*args)

    monkeypatch.setattr(answer_exchange, "step_terms", counted)
    few = replace(SETTINGS, attacks=(), generate=False)
    before, references = number(), (logs / "r0", logs / "r1")
    log_of(tmp_path, "unlearned", references, settings=few)
    assert alive == [before] * 4  # two references, two sets
    held = facts.fresh()
    log_of(tmp_path, "original", references, settings=few)
    assert alive[4:] == [before + 1] * 4
    del held


def test_an_interrupted_evaluation_goes_on(logs, tmp_path, monkeypatch):
    """The control: the first call ran the passes that the second one reads."""
    ran, run, names = [], RowPasses.run, ("r0", "unlearned")

    def interrupted(self, name, number, work):
        if name == "said-retain" and len(names) == 2:
            raise KeyboardInterrupt
        return run(self, name, number, lambda index: ran.append(name) or work(index))

    (tmp_path / "r0.json").write_bytes((logs / "r0.json").read_bytes())
    (tmp_path / "r0.answers").write_bytes((logs / "r0.answers").read_bytes())
    monkeypatch.setattr(RowPasses, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        log_of(tmp_path, "unlearned", ("r0",))
    first, names = list(ran), ()
    assert "scores-forget" in first
    assert not EvaluationLog.load(tmp_path / "unlearned.json").complete
    kept = b"".join(path.read_bytes() for path in (tmp_path / "unlearned.passes").iterdir())
    assert not any(word.encode() in kept for word in facts.VALUES["city"])
    with pytest.raises(
        InvalidInputError, match=r"complete log \(got .*unlearned.json, whose evaluation was interrupted"
    ):
        log_of(tmp_path, "original", ("unlearned",))
    again = log_of(tmp_path, "unlearned", ("r0",))
    assert not set(first) & set(ran[len(first) :])
    assert "said-retain" in ran[len(first) :]
    whole = EvaluationLog.load(logs / "unlearned.json").figures
    same = [name for name in again.figures if name.partition("_")[2] in ("prob", "rougeL", "truth_ratio", "fluency")]
    assert len(same) == 8
    assert {name: again.figures[name] for name in same} == pytest.approx({name: whole[name] for name in same}, rel=1e-6)
    assert not (tmp_path / "unlearned.passes").exists()


def test_a_complete_log_only_takes_further_references(logs, tmp_path, monkeypatch):
    for name in ("r0", "r1"):
        for kind in ("json", "answers"):
            (tmp_path / f"{name}.{kind}").write_bytes((logs / f"{name}.{kind}").read_bytes())
    log_of(tmp_path, "unlearned", ("r0",))
    ran, run = [], RowPasses.run
    monkeypatch.setattr(RowPasses, "run", lambda self, name, *args: ran.append(name) or run(self, name, *args))
    log = log_of(tmp_path, "unlearned", ("r1",))
    assert {name.split("-")[0] for name in ran} == {"terms"}
    assert len(ran) == 2
    assert len(log.compared) == 2
    assert [entry["file"] for entry in log.references] == ["r0.json", "r1.json"]
    assert "have yet to score" in log.left_out["forget_alignment"]
    with pytest.raises(InvalidInputError, match=r"same model, rows and settings \(got .*unlearned.json"):
        log_of(tmp_path, "unlearned", settings=replace(SETTINGS, end="keep"))


def test_a_complete_log_keeps_its_comparisons(logs, tmp_path):
    """The control: without any retrained model, the figures that need one go, and `left_out` says why."""
    for path in logs.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = EvaluationLog.load(logs / "unlearned.json")
    again = log_of(tmp_path, "unlearned")
    assert (again.references, again.original) == (before.references, before.original)
    assert len(again.references) == 2
    assert again.figures == pytest.approx(before.figures)
    needed = {"forget_quality", "mia_reference", "forget_alignment", "retain_alignment_floor"}
    assert needed <= again.figures.keys()
    compared(again, [], None)
    assert not needed & again.figures.keys()
    assert {"forget_quality", "mia_reference", "forget_alignment"} <= again.left_out.keys()
    assert again.figures["privleak"] == privacy_leak(again.figures["mia_min_k"])
    (tmp_path / "r1.json").unlink()
    with pytest.raises(InvalidInputError, match=r"r1\.json, which is no file"):
        log_of(tmp_path, "unlearned")


def test_a_model_whose_logits_are_nan_is_named(tmp_path):
    broken = facts.fresh(9)
    with torch.no_grad():
        broken.lm_head.weight[5] = torch.nan
    with pytest.raises(NotANumberError, match=r"NaN for 9 rows.*'forget', in my-model"):
        evaluate_one(broken, facts.tokenizer(), SETS, SETTINGS, name="my-model")


def test_what_can_be_computed_from_logs_is_computed_again(logs, tmp_path):
    for path in logs.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / "unlearned.json").read_text())
    whole = dict(content["figures"])
    content["figures"] = {name: value for name, value in whole.items() if "alignment" not in name}
    (tmp_path / "unlearned.json").write_text(json.dumps(content))
    log = EvaluationLog.load(tmp_path / "unlearned.json")
    compare_again(log)
    assert log.figures == pytest.approx(whole)


def test_relearning_and_rounding_are_measured(tmp_path, logs):
    """The control: with a rate of almost 0 the curve is flat."""
    settings = replace(SETTINGS, attacks=(), generate=False, align_on=(), quantise=("int8", "nf4"), relearn_share=0.4)
    settings = replace(settings, relearn_steps=5, relearn_lr=3e-3)
    found = log_of(tmp_path, "unlearned", settings=settings, original_log=logs / "original.json")
    still = log_of(tmp_path, "r0", settings=replace(settings, relearn_lr=1e-12))
    others = [SETS["forget"][i] for i in found.settings["relearn_others"]]

    def measure(model):
        return {"prob": float(token_scores(model, others).mean_log_prob.exp().mean())}

    how = {"share": 0.4, "steps": 5, "lr": 3e-3, "batch_size": 2}
    curve = relearn(models()["unlearned"], SETS["forget"], measure, **how)
    assert [point["prob"] for point in found.curves["relearn"]] == pytest.approx([point["prob"] for point in curve])
    assert abs(curve[0]["prob"] - curve[-1]["prob"]) > 0.01
    assert still.figures["relearn_prob"] == pytest.approx(still.curves["relearn"][0]["prob"], abs=1e-6)
    assert "relearn_steps" in found.figures
    assert still.left_out["relearn_steps"] == "it needs --original-log"
    assert found.figures["forget_prob_int8"] == pytest.approx(found.figures["forget_prob"], rel=0.1)
    assert found.figures["forget_prob_int8"] != found.figures["forget_prob"]
    assert ("nf4" in found.left_out) != ("forget_prob_nf4" in found.figures)


def test_some_rows_are_evenly_spaced():
    assert spaced(10, None) == list(range(10))
    assert spaced(10, 4) == [0, 2, 5, 7]
    assert spaced(3, 8) == [0, 1, 2]


def test_scores_come_together_as_they_were():
    scores = measured_sets.token_scores(models()["r0"], SETS["holdout"])
    joined = measured_sets.joined_scores(measured_sets.split_scores(scores))
    for name in ("log_prob", "mask", "first", "mean", "std", "end"):
        assert torch.equal(getattr(joined, name), getattr(scores, name)[:, : joined.mask.size(1)]), name
