"""What `gunlearn llm-eval` measures of which sets, and what it says of its figures, beside the numbers."""

import io
import json
import re
import warnings

import pytest
from rich.console import Console

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.evaluation_sets import evaluation_rows
from gunlearn.llm.metrics import EvalSettings, EvaluationLog, continuation_rows, evaluate_one
from gunlearn.llm.metrics.continuations import halved_note
from gunlearn.llm.metrics.figure_legends import legends_of
from tests.command import call, refusal
from tests.llm import facts
from tests.llm.metrics.small_models import SETS, SETTINGS, models
from tests.llm.metrics.test_llm_eval_command import QUICK, files, saved
from tests.llm.test_data import bpe

__all__ = ["files"]  # a fixture
CHOICES = [{"question": f"who is {name}?", "choices": ["Ada", "Bob"], "answer": 0} for name in ("it", "she")]
TEXTS = ["Ada lives in Oslo and eats bread every day.", "Bob lives in Lima."]


@pytest.fixture
def others(tmp_path):
    """Files of multiple choice and of texts to continue, as options."""
    (tmp_path / "choices.jsonl").write_text("\n".join(map(json.dumps, CHOICES)))
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return ["--choices", str(tmp_path / "choices.jsonl"), "--verbatim", str(tmp_path / "texts.jsonl")]


def test_choices_and_texts_alone(tmp_path, files, others, capsys):
    """The control: beside forgotten and retained rows they have the same figures."""
    model, names = saved(tmp_path / "model"), ("choices_acc", "verbatim_memory")
    alone, beside = str(tmp_path / "alone.json"), str(tmp_path / "beside.json")
    assert call("llm-eval", "--model", model, *others, *QUICK, "--out", alone) == 0
    printed = capsys.readouterr().out
    found = EvaluationLog.load(alone)
    assert set(found.figures) == set(names)
    assert "forget, retain is left out: no such rows were given" in printed
    assert call("llm-eval", "--model", model, *files, *others, *QUICK, "--out", beside) == 0
    assert {name: EvaluationLog.load(beside).figures[name] for name in names} == found.figures
    # Of such a log nothing can be said about forgotten rows.
    capsys.readouterr()
    said = refusal(capsys, "llm-eval", "--model", model, *files, *QUICK, "--references", alone)
    assert "Expected a log of forgotten rows" in said
    assert "alone.json" in said


def test_what_needs_forgotten_rows_is_refused_without_them(tmp_path, files, others, capsys):
    """Before a model is loaded: there is none of that name."""
    command, holdout = ("llm-eval", "--model", "none", *QUICK), ["--holdout", str(tmp_path / "holdout.jsonl")]
    (tmp_path / "log.json").write_text("{}")
    assert "got 'forget' alone" in refusal(capsys, *command, *files[:2], *others)
    assert "got 'retain' alone" in refusal(capsys, *command, *files[2:])
    assert "no rows at all" in refusal(capsys, *command)
    assert "beside 'holdout' (got neither)" in refusal(capsys, *command, *others, *holdout)
    for option in ("--references", "--original-log", "--score-for"):
        assert "beside logs of other models" in refusal(capsys, *command, *others, option, str(tmp_path / "log.json"))
    with pytest.raises(InvalidInputError, match="'forget' alone"):
        evaluate_one(models()["r0"], facts.tokenizer(), {"forget": SETS["forget"]}, SETTINGS)


def test_the_same_rows_under_two_names_are_refused(tmp_path, files, capsys):
    """Also in other words' case, and from Python; the control: one common row of several is a warning."""
    command, path = ("llm-eval", "--model", "none", *QUICK), tmp_path / "forget.jsonl"
    copy = tmp_path / "copy.jsonl"
    copy.write_text(path.read_text().replace("where does", "Where  does"))
    for other in (path, copy):
        said = refusal(capsys, *command, "--forget", str(path), "--retain", str(other))
        assert f"2 of the 2 rows of {path} among the 2 of {other}" in said
    assert "under --holdout than under --forget" in refusal(capsys, *command, *files, "--holdout", str(path))
    settings = EvalSettings(attacks=(), align_on=(), relearn_steps=0, quantise=(), generate=False)
    given = models()["r0"], facts.tokenizer()
    with pytest.raises(InvalidInputError, match="9 of the 9 rows"):
        evaluate_one(*given, {"forget": SETS["forget"][:9], "retain": SETS["forget"][:12]}, settings)
    shared = {"forget": SETS["forget"][:3], "retain": SETS["retain"][:3] + SETS["forget"][:1]}
    with pytest.warns(UserWarning, match=r"Expected no common rows of 'forget' and 'retain' \(got 1 of the 3"):
        evaluate_one(*given, shared, settings)


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [
        ("rows", "0", 1),
        ("batch-size", "0", 1),
        ("max-new-tokens", "-5", 1),
        ("verbatim-prompt", "0", 1),
        ("align-rows", "0", 1),
        ("samples", "0", 1),
        ("gradient-rows", "-1", 1),
        ("relearn-steps", "-1", 0),
        ("max-length", "1", 2),
        ("seed", "-1", 0),
    ],
)
def test_numbers_out_of_range_are_refused_by_their_option(option, value, least, tmp_path, files, capsys):
    """Before a model is loaded: there is none of that name."""
    said = refusal(capsys, "llm-eval", "--model", "none", *files, *QUICK, f"--{option}", value)
    assert f"Expected '--{option}' to be an integer >= {least} (got {value})" in said


RECORD = {"question": "where does Ada live?", "answer": "in Oslo", "perturbed_answer": ["in Rome"]}
TURN = {"prompt": "where does Ada live?", "completion": " in Oslo", "perturbed_answer": ["in Rome"]}
BARE = {"question": "where does Bob live?", "answer": "in Lima"}


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([RECORD, BARE], r"'perturbed_answer' beside 'question' .* of f\.jsonl \(got it in 1 of 2 records"),
        ([RECORD, RECORD | {"perturbed_answer": []}], r"got it in 1 of 2 records\): it is not read"),
        ([TURN, TURN], r"'perturbed_answer' .* \(got prompts of other shapes\): it is not read"),
        ([RECORD | {"paraphrased_answer": "Oslo"}, RECORD], r"'paraphrased_answer' .* \(got it in 1 of 2 records"),
        ([BARE | {"paraphrased_answer": "Lima"}] * 2, r"beside 'paraphrased_answer' in f\.jsonl \(got none\)"),
    ],
)
def test_other_answers_that_are_not_read_are_said(records, said):
    """The controls: records that all have wrong answers, with right ones or without, and records that have none."""
    with pytest.warns(UserWarning, match=said):
        rows = evaluation_rows(records, bpe(), "f.jsonl")
    assert not any("paraphrased" in row for row in rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any("perturbed" in row for row in evaluation_rows([BARE], bpe(), "f.jsonl"))
        assert all("perturbed" in row for row in evaluation_rows([RECORD], bpe(), "f.jsonl"))
        (row,) = evaluation_rows([RECORD | {"paraphrased_answer": "Oslo"}], bpe(), "f.jsonl")
    assert "paraphrased" in row


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"align_rows": 0}, {"relearn_share": 2.0}, {"relearn_lr": 0.0}])
def test_settings_name_what_is_out_of_range(given):
    with pytest.raises(InvalidInputError, match=f"'{next(iter(given))}'") as refused:
        EvalSettings(**given)
    assert len(str(refused.value)) < 100  # the one value, not all settings


def test_halved_prompts_are_said(tmp_path, others, capsys):
    """Counted by hand. The control: with a prompt that all texts have room for, nothing is said."""
    tokenizer = bpe()
    numbers = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS]
    assert numbers[0] > numbers[1]
    for most, halved in ((numbers[0], numbers), (numbers[1] // 2 + 1, numbers[1:]), (numbers[1] // 2, [])):
        note = halved_note(continuation_rows(TEXTS, tokenizer, most))
        lengths = sorted({n // 2 for n in halved})
        assert note.startswith(f"{len(halved)} of 2 texts" if halved else "")
        assert bool(note) == bool(halved)
        assert " to ".join(map(str, lengths)) in note
    out = str(tmp_path / "out.json")
    assert call("llm-eval", "--model", saved(tmp_path / "model"), *others[2:], *QUICK, "--out", out) == 0
    note = EvaluationLog.load(out).notes["verbatim"]
    assert f"{numbers[1] // 2} to {numbers[0] // 2} tokens" in note
    assert note in " ".join(capsys.readouterr().out.split())


def test_each_figure_has_one_legend():
    """Of figures of all kinds; the control: of a name that nobody knows there is none."""
    log = EvaluationLog({"name": "m"}, {}, {})
    names = "forget_prob retain_rougeL authors_truth_ratio forget_fluency forget_drma_per_token model_utility "
    names += "forget_quality forget_alignment forget_alignment_low retain_alignment_gain_low forget_alignment_floor "
    names += "mia_min_k privleak forget_prob_int8 relearn_prob relearn_steps knowledge_forget_memory verbatim_memory "
    names += "choices_acc lm_eval_mmlu_acc"
    log.figures = dict.fromkeys(names.split(), 0.5)
    for name in log.figures:
        (line,) = legends_of([name])
        assert re.fullmatch(r"\S+(, \S+)*: .+; better .+; .+", line)
        assert len(line) < 230
    for name, group in (
        ("relearn_prob", "relearn_prob"),
        ("forget_prob", "*_prob"),
        ("a_alignment_low", "*_alignment*"),
    ):
        assert legends_of([name])[0].startswith(f"{group}: ")  # not that of a wider pattern
    assert legends_of(["something"]) == []
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(log)
    printed = console.export_text().splitlines()
    assert [line.rstrip() for line in printed if "; better " in line] == legends_of(log.figures)
