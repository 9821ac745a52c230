"""One model at a time, with logs of the others, against all models in memory at once."""

import gc
import json

import pytest
import torch
from transformers import PreTrainedModel

from gunlearn.llm.metrics import EvalSettings, EvaluationLog, evaluate_language_models, evaluate_one, score_for
from gunlearn.llm.metrics import stored_answers as stored
from gunlearn.metrics import Sampler
from tests.llm import facts

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus", "reference", "gradient")
SAMPLER = Sampler(n_samples=3)
SETTINGS = EvalSettings(sampler=SAMPLER, max_new_tokens=12, kept=1000, relearn_steps=0, quantise=())


def with_answers(people, wrong=3):
    """Rows with the right answer in the other phrasing, and wrong values."""
    out = []
    for person in people:
        for kind, values in facts.VALUES.items():
            row = facts.row(person, kind, 0)
            others = [v for v in values if v != row["value"]][:wrong]
            perturbed = [facts.row(person, kind, 0, value) for value in others]
            out.append(row | {"perturbed": perturbed, "paraphrased": facts.row(person, kind, 1)})
    return out


FORGET, RETAIN, HOLDOUT = with_answers(range(3)), with_answers(range(4, 7)), facts.rows(range(20, 22))
SETS = {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT}


def log_of(folder, name, model, references=(), settings=SETTINGS, sets=SETS, **more):
    """The log of a model, in a file of its name."""
    paths = [folder / f"{other}.json" for other in references]
    return evaluate_one(
        model, facts.tokenizer(), sets, settings, references=paths, out=folder / f"{name}.json", name=name, **more
    )


@pytest.fixture(scope="module")
def models():
    """An "unlearned" model, the one before, and two retrained ones."""
    full, first, second = facts.full(), facts.retrained(0), facts.retrained(1)
    unlearned = facts.full()
    with torch.no_grad():
        for p, q in zip(unlearned.parameters(), second.parameters(), strict=True):
            p.lerp_(q, 0.3)
    return {"unlearned": unlearned, "original": full, "r0": first, "r1": second}


@pytest.fixture(scope="module")
def logs(tmp_path_factory, models):
    """A folder with the logs of all four, after both passes."""
    folder = tmp_path_factory.mktemp("logs")
    log_of(folder, "r0", models["r0"])
    log_of(folder, "r1", models["r1"], ["r0"])
    log_of(folder, "original", models["original"], ["r0", "r1"])
    log_of(folder, "unlearned", models["unlearned"], ["r0", "r1"], original_log=folder / "original.json")
    two = {name: SETS[name] for name in ("forget", "retain")}
    score_for(models["r0"], facts.tokenizer(), two, [folder / f"{n}.json" for n in ("r1", "original", "unlearned")])
    score_for(models["r1"], facts.tokenizer(), two, [folder / f"{n}.json" for n in ("original", "unlearned")])
    return folder


def test_figures_are_those_of_all_models_in_memory(logs, models):
    """The control: with another seed of the draws the alignment differs by more than the tolerance."""
    log = EvaluationLog.load(logs / "unlearned.json")
    table = evaluate_language_models(
        {"unlearned": models["unlearned"]},
        facts.tokenizer(),
        FORGET,
        RETAIN,
        references=[models["r0"], models["r1"]],
        holdout_rows=HOLDOUT,
        original=models["original"],
        sampler=SAMPLER,
        attacks=ATTACKS,
        max_new_tokens=12,
    )
    expected = {name: value for name, value in table.of("unlearned").items() if name != "model"}
    assert {"forget_alignment_floor", "retain_alignment_gain_low", "forget_quality", "mia_reference"} <= expected.keys()
    assert log.figures.keys() - expected.keys() == {"privleak"}
    for name, value in expected.items():
        assert log.figures[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    other = EvalSettings(sampler=Sampler(n_samples=3, seed=1), max_new_tokens=12, kept=1000)
    assert other.sampler != SAMPLER
