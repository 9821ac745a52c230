"""Tasks of lm-eval, run by lm-eval itself on files of our own, against likelihoods by hand."""

import json
from importlib.util import find_spec

import pytest
import torch

from gunlearn.errors import InvalidInputError, MissingExtraError
from gunlearn.llm.metrics import EvalSettings, evaluate_one
from gunlearn.llm.metrics.harness import check_harness, harness_figures
from gunlearn.seed import get_rng_state
from tests.command import call
from tests.llm.metrics.small_models import models
from tests.llm.metrics.test_llm_eval_command import saved
from tests.llm.test_data import bpe
from tests.llm.tiny import tiny

QUESTIONS = [
    {"question": "where does Ada live?", "choices": ["Oslo", "Rome", "in the city of Bern"], "right": 1},
    {"question": "what does Bob eat?", "choices": ["bread", "a fish", "Rome"], "right": 0},
    {"question": "who is Ada?", "choices": ["Bob", "a fish in the city of Oslo"], "right": 1},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
"""
CHOICE = (
    TASK
    + """
doc_to_choice: "{{{{choices}}}}"
doc_to_target: right
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
)
SAID = (
    TASK
    + """
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{max_gen_toks: 4, do_sample: false, until: ["\\n"]}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
filter_list:
  - {{name: all, filter: [{{function: take_first}}]}}
  - {{name: first, filter: [{{function: regex, regex_pattern: "(.)"}}, {{function: take_first}}]}}
"""
)
needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed")


def task(folder, text, name, kind, questions=QUESTIONS):
    """A file of a task, which lm-eval reads, beside its data."""
    data, path = folder / f"{name}.jsonl", folder / f"{name}.yaml"
    data.write_text("\n".join(map(json.dumps, questions)))
    path.write_text(text.format(name=name, data=data, kind=kind))
    return str(path)


def model_of(tokenizer):
    """A small model that has the tokenizer's tokens."""
    return tiny("llama", vocab_size=len(tokenizer) + 8, max_position_embeddings=128)


def best(model, tokenizer, question):
    """The likeliest of the choices of a question."""
    sums = []
    for text in question["choices"]:
        start = len(tokenizer(question["question"])["input_ids"])
        ids = torch.tensor([tokenizer(f"{question['question']} {text}")["input_ids"]])
        with torch.no_grad():
            log_p = model(input_ids=ids).logits[0].log_softmax(-1)
        sums.append(float(log_p[start - 1 : -1].gather(1, ids[0, start:, None]).sum()))
    return max(range(len(sums)), key=sums.__getitem__)


@needs_lm_eval
def test_a_task_of_ones_own_is_measured_and_nothing_is_changed(tmp_path):
    """The likeliest choice by hand; the control: with other answers marked as right the accuracy is another one."""
    tokenizer = bpe()
    model = model_of(tokenizer).eval()
    chosen = [best(model, tokenizer, question) for question in QUESTIONS]
    model.train()
    before, state = dict(tokenizer.special_tokens_map), get_rng_state()["torch"]
    for name, right in (("all", [True, True, True]), ("one", [True, False, False])):
        answers = [c if own else (c + 1) % 2 for c, own in zip(chosen, right, strict=True)]
        asked = [q | {"right": answer} for q, answer in zip(QUESTIONS, answers, strict=True)]
        path = task(tmp_path, CHOICE, f"ours_{name}", "multiple_choice", asked)
        found = harness_figures(model, tokenizer, [path], 2)
        assert found == {f"lm_eval_ours_{name}_acc": pytest.approx(sum(right) / 3)}
    assert model.training
    assert dict(tokenizer.special_tokens_map) == before
    assert torch.equal(get_rng_state()["torch"], state)


@needs_lm_eval
def test_each_filter_of_a_task_has_its_figure(tmp_path):
    """One metric by two filters are two figures, not the last one's."""
    path = task(tmp_path, SAID, "said", "generate_until")
    found = harness_figures(model_of(bpe()), bpe(), [path])
    assert set(found) == {"lm_eval_said_exact_match_all", "lm_eval_said_exact_match_first"}


@needs_lm_eval
def test_tasks_that_cannot_run_are_refused_before_work(tmp_path):
    """An unknown name, a file that is none, data that are not there; the control: a whole task is taken."""
    whole = task(tmp_path, CHOICE, "whole", "multiple_choice")
    check_harness([whole])
    broken, without = tmp_path / "broken.yaml", task(tmp_path, CHOICE, "without", "multiple_choice")
    broken.write_text("task: [")
    (tmp_path / "without.jsonl").unlink()
    for name in ("no_such_task", str(broken), without):
        with pytest.raises(InvalidInputError, match=f"Expected a task of lm-eval.*{name}"):
            check_harness([whole, name])
    rows = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}]
    settings = EvalSettings(harness=["no_such_task"])
    with pytest.raises(InvalidInputError, match="no_such_task"):
        evaluate_one(models()["r0"], bpe(), {"authors": rows}, settings)


@needs_lm_eval
def test_the_command_runs_tasks_without_rows(tmp_path):
    model, out = saved(tmp_path / "model"), tmp_path / "log.json"
    path = task(tmp_path, CHOICE, "alone", "multiple_choice")
    assert call("llm-eval", "--model", model, "--lm-eval", path, "--out", str(out)) == 0
    assert set(json.loads(out.read_text())["figures"]) == {"lm_eval_alone_acc"}


def test_lm_eval_is_asked_for_in_words(monkeypatch):
    monkeypatch.setattr("gunlearn.llm.metrics.harness.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gunlearn\[lm-eval\]'"):
        check_harness(["mmlu"])
