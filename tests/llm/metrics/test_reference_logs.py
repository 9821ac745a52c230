"""Logs that do not fit are refused by the file's name, before any model is called."""

import json
import warnings
from dataclasses import replace

import pytest

from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics import EvaluationLog, score_for
from gunlearn.metrics import Sampler
from tests.llm import facts
from tests.llm.metrics.small_models import PROMPTED, SETS, SETTINGS, log_of, models

QUICK = replace(SETTINGS, attacks=(), generate=False, sampler=Sampler(n_samples=1), max_new_tokens=3)
PLAIN = {name: [{k: row[k] for k in ("input_ids", "labels")} for row in SETS[name]] for name in ("forget", "retain")}


@pytest.fixture
def folder(tmp_path):
    """A folder with the log of a retrained model."""
    log_of(tmp_path, "r0", sets=PLAIN, settings=QUICK)
    return tmp_path


def edited(folder, change, name="r0"):
    path = folder / f"{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def unlearned(folder, **more):
    return log_of(folder, "unlearned", ("r0",), **({"sets": PLAIN, "settings": QUICK} | more))


def test_a_log_that_fits_is_taken(folder):  # control of all below
    assert len(unlearned(folder).compared) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda log: log.update(complete=False), r"complete log \(got .*r0\.json, whose evaluation was interrupted"),
        (lambda log: log["tokenizer"].update(digest="x", size=7), r"r0\.json, made with another one, of 7\)"),
        (lambda log: log["model"].update(vocabulary=9), r"vocabulary of \d+ tokens in .*r0\.json \(got 9\)"),
        (lambda log: log["rows"]["retain"].pop(), r"same 9 rows of 'retain' in .*r0\.json \(got 8 rows, 8 of them"),
        (lambda log: log["settings"].update(answer_tokens=4), r"with answer_tokens 3, in .*r0\.json \(got 4\)"),
        (
            lambda log: log["settings"]["sampler"].update(seed=5),
            r"with sampler \{.*, in .*r0\.json \(got \{'n_samples'",
        ),
        (lambda log: log["settings"].update(ends=[7]), r"with ends \[\d+\], in .*r0\.json \(got \[7\]\)"),
        (lambda log: log["settings"]["aligned"]["forget"].pop(), r"with aligned \{.*, in .*r0\.json \(got \{'forget'"),
        (lambda log: log.update(schema="other/2"), r'"schema": "gunlearn.llm-eval/1" in .*r0\.json \(got \'other/2\''),
        (lambda log: log.pop("schema"), r"open-unlearning in .*r0\.json \(got neither"),
        (lambda log: log.update(more=1), r"entries of gunlearn.llm-eval/1 in .*r0\.json"),
        (lambda log: log.update(answers="0"), r"answers of .*r0\.json in .*r0\.answers \(got a file that has changed"),
    ],
)
def test_logs_that_do_not_fit_are_named(folder, change, said):
    edited(folder, change)
    with pytest.raises(InvalidInputError, match=said):
        unlearned(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda log: log["rows"]["forget"][2].update(avg_loss="NaN"),
            r"loss from 0 as 'avg_loss' in .*r0\.json \(got nan",
        ),
        (lambda log: log["rows"]["forget"][2].update(avg_loss=-3), r"'avg_loss' in .*r0\.json \(got -3\)"),
        (lambda log: log["rows"]["forget"][2].update(avg_loss=None), r"'avg_loss' in .*r0\.json \(got None\)"),
        (lambda log: log["rows"]["forget"][2].update(truth_ratio=-1), r"'truth_ratio' in .*r0\.json \(got -1\)"),
        (lambda log: log["rows"]["forget"][2].update(truth_ratio="NaN"), r"'truth_ratio' in .*r0\.json \(got nan\)"),
        (lambda log: log["rows"]["forget"][2].pop("digest"), r"rows with their digests as 'forget' in .*r0\.json"),
        (lambda log: log["rows"].update(forget="abc"), r"rows with their digests as 'forget' in .*r0\.json"),
        (lambda log: log["figures"].update(mia_min_k=7), r"AUC from 0 to 1 as 'mia_min_k' in .*r0\.json \(got 7\)"),
        (lambda log: log["figures"].update(mia_min_k="x"), r"'mia_min_k' in .*r0\.json \(got 'x'\)"),
        (lambda log: log.update(figures=None), r"dict as 'figures' in .*r0\.json \(got NoneType\)"),
        (lambda log: log.update(settings=None), r"dict as 'settings' in .*r0\.json \(got NoneType\)"),
        (lambda log: log.update(references={}), r"list as 'references' in .*r0\.json \(got dict\)"),
        (lambda log: log.update(rows={}), r"forgotten rows \(got .*r0\.json, of no rows alone\)"),
        (
            lambda log: log["model"].update(parameters=7),
            r"LlamaForCausalLM of [\d,]+ parameters in .*r0\.json \(got a Ll",
        ),
        (lambda log: log["model"].update(kind="Other"), r"LlamaForCausalLM of .* in .*r0\.json \(got a Other"),
    ],
)
def test_values_that_no_evaluation_writes_are_named(folder, change, said):
    """The control is the test of a log that fits."""
    edited(folder, change)
    with pytest.raises(InvalidInputError, match=said):
        unlearned(folder)


def test_a_reference_that_knows_the_forgotten_rows_is_told(folder):
    """The control: as the log is, its model knows neither."""

    def known(forget):
        return lambda log: log["figures"].update(forget_prob=forget, retain_prob=0.98)

    edited(folder, known(0.4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlearned(folder)
    edited(folder, known(0.95))
    with pytest.warns(
        UserWarning, match=r"without the rows to forget .*r0\.json.* 0\.95, those of the rows to retain 0\.98"
    ):
        unlearned(folder)


def test_a_reference_that_looks_untrained_is_told(folder):
    """The control: one that knows the retained rows nearly as well as the model before unlearning is not."""
    log_of(folder, "original", sets=PLAIN, settings=QUICK)
    edited(folder, lambda log: log["figures"].update(retain_prob=0.9, forget_prob=0.9), "original")
    edited(folder, lambda log: log["figures"].update(retain_prob=0.8, forget_prob=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlearned(folder, original_log=folder / "original.json")
    edited(folder, lambda log: log["figures"].update(retain_prob=0.05, forget_prob=0.1))
    with pytest.warns(UserWarning, match=r"to retain \(got .*r0\.json.* of 0\.05, the model before unlearning 0\.9"):
        unlearned(folder, original_log=folder / "original.json")


def test_privleak_needs_the_references_attack(tmp_path):
    """Without references it is relative to .5; with some that lack the attack it is left out."""
    attacked = replace(QUICK, attacks=("min_k",))
    sets = PLAIN | {"holdout": [{k: row[k] for k in ("input_ids", "labels")} for row in SETS["holdout"]]}
    log_of(tmp_path, "r0", sets=sets, settings=attacked)
    assert "privleak" in log_of(tmp_path, "original", sets=sets, settings=attacked).figures
    assert "privleak" in log_of(tmp_path, "r1", ("r0",), sets=sets, settings=attacked).figures
    edited(tmp_path, lambda log: log["figures"].pop("mia_min_k"))
    found = log_of(tmp_path, "unlearned", ("r0",), sets=sets, settings=attacked)
    assert "AUC of Min-K%" in found.left_out["privleak"]


def test_other_rows_and_another_key_are_told_apart(folder, monkeypatch, tmp_path_factory):
    other = PLAIN | {"forget": PLAIN["retain"], "retain": PLAIN["forget"]}
    with pytest.raises(InvalidInputError, match=r"rows of 'forget' in .*r0\.json \(got 9 rows, 0 of them"):
        unlearned(folder, sets=other)
    monkeypatch.setenv("GUNLEARN_KEY_FILE", str(tmp_path_factory.mktemp("keys") / "other"))
    with pytest.raises(InvalidInputError, match=r"r0\.json .*another owner's key"):
        unlearned(folder)


def test_other_wrong_and_paraphrased_answers_are_told_apart(tmp_path):
    """The control: the same answers, and rows without any, fit."""
    log_of(tmp_path, "r0", settings=QUICK)
    other = [row | {"paraphrased": row["perturbed"][0]} for row in SETS["forget"]]
    fewer = [row | {"perturbed": row["perturbed"][:2]} for row in SETS["forget"][:1]] + SETS["forget"][1:]
    for rows, number in ((other, 9), (fewer, 1)):
        with pytest.raises(InvalidInputError, match=rf"to .forget. in .*r0\.json \(got others for {number} of 9"):
            unlearned(tmp_path, sets=SETS | {"forget": rows})
    assert "forget_quality" in unlearned(tmp_path, sets=SETS).figures
    assert "forget_quality" in log_of(tmp_path, "original", ("r0",), sets=PLAIN, settings=QUICK).left_out


def test_attacks_with_other_ends_are_not_compared(tmp_path):
    """The control: with the same treatment of ends, privleak is there."""
    settings = replace(QUICK, attacks=("min_k",), align_on=())
    log_of(tmp_path, "r0", settings=settings)
    found = unlearned(tmp_path, sets=SETS, settings=replace(settings, end="keep"))
    assert "privleak" not in found.figures
    assert "r0.json was made with end, ends ('skip'" in found.left_out["privleak"]
    assert "forget_quality" in found.figures
    assert "privleak" in log_of(tmp_path, "original", ("r0",), settings=settings).figures


def test_rows_without_prompts_are_said_to_have_none(folder):
    """The control: the other set's answers have yet to be scored."""
    texts = [{"input_ids": row["input_ids"], "labels": list(row["input_ids"])} for row in PLAIN["retain"]]
    sets = PLAIN | {"retain": texts}
    log_of(folder, "r1", sets=sets, settings=QUICK)
    left_out = log_of(folder, "unlearned", ("r1",), sets=sets, settings=QUICK).left_out
    assert left_out["retain_alignment"] == "its rows have no prompts"
    assert "have yet to score" in left_out["forget_alignment"]
    log_of(folder, "silent", (), sets=PLAIN, settings=replace(QUICK, align_on=()), model="r0")
    left_out = log_of(folder, "original", ("silent",), sets=PLAIN, settings=QUICK).left_out
    assert "no answers to its rows are beside" in left_out["forget_alignment"]


def test_missing_and_broken_files_are_named(folder):
    (folder / "r0.answers").unlink()
    with pytest.raises(InvalidInputError, match=r"beside .*r0\.json \(got no .*r0\.answers"):
        unlearned(folder)
    path = folder / "r0.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(InvalidInputError, match=r"Expected JSON in .*r0\.json"):
        unlearned(folder)
    path.unlink()
    with pytest.raises(InvalidInputError, match=r"r0\.json, which is no file"):
        unlearned(folder)


def test_logs_of_one_model_are_no_references_of_each_other(folder):
    for kind in ("json", "answers"):
        (folder / f"copy.{kind}").write_bytes((folder / f"r0.{kind}").read_bytes())
    with pytest.raises(InvalidInputError, match=r"different seeds \(got .*copy\.json, whose weights are those of .*r0"):
        log_of(folder, "unlearned", ("r0", "copy"), sets=PLAIN, settings=QUICK)
    with pytest.raises(InvalidInputError, match="weights are those of the original model"):
        unlearned(folder, original_log=folder / "r0.json")
    assert not log_of(folder, "r0", ("r0", "copy"), sets=PLAIN, settings=QUICK).compared  # its own logs are left out


def test_a_second_pass_needs_a_log_of_another_model_with_answers(folder):
    path = folder / "r0.json"
    with pytest.raises(InvalidInputError, match=r"log of another model \(got .*r0\.json, of this one"):
        score_for(models()["r0"], facts.tokenizer(), PROMPTED, [path])
    score_for(models()["r1"], facts.tokenizer(), PROMPTED, [path])  # control
    assert "precision" in next(iter(EvaluationLog.load(path).compared.values()))["forget"]
    edited(folder, lambda log: log.update(answers=""))
    with pytest.raises(InvalidInputError, match=r"log with answers .*r0\.json"):
        score_for(models()["r1"], facts.tokenizer(), PROMPTED, [path])
