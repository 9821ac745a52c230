import copy
import dataclasses
import json
import os
import types
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel

import gunlearn.llm.model.bounded  # noqa: F401  # bounded adapters load once this is imported
from gunlearn.errors import DivergenceError, InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.llm import encode, evaluate_language_models, unlearn
from gunlearn.llm.training.progress import StepBar
from gunlearn.losses import NLL, NPO, GradientAscent
from gunlearn.seed import get_rng_state
from tests.llm import facts
from tests.llm.tiny import tiny
from tests.llm.training import FORGET, RETAIN, UNLABELLED, adapted, logits, same, state
from tests.llm.training import unlearned as run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*no measurable effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*no loss of:UserWarning"),
    pytest.mark.filterwarnings("ignore:Expected other rows:UserWarning"),
]

RECORDS = [{"question": row["prompt"], "answer": row["answer"]} for row in FORGET]
ENCODING = {"template": "{question} {answer}", "bos": True}


def test_a_copy_forgets_and_what_was_given_stays():
    model = facts.full().train()
    before, random, here = state(model), get_rng_state(), sorted(os.listdir())
    rows = copy.deepcopy(FORGET)
    result = run(model=model, epochs=3, figure_rows=24)
    assert same(before, state(model))
    assert model.training
    assert rows == FORGET
    assert torch.equal(random["torch"], get_rng_state()["torch"])
    assert random["python"] == get_rng_state()["python"]
    assert sorted(os.listdir()) == here
    model.eval()
    assert not result.model.training
    assert result.after["forget"]["prob"] < 0.7 < result.before["forget"]["prob"]
    assert facts.accuracy(result.model, FORGET) < 0.9 < facts.accuracy(model, FORGET)
    drop = {part: result.before[part]["prob"] - result.after[part]["prob"] for part in result.after}
    assert drop["retain"] < drop["forget"]
    assert result.settings["steps"] == len(result.history) == 9
    assert result.settings["rows"] == {"forget": 24, "retain": 96}
    assert {"loss", "npo(forget)", "nll(retain)"} <= result.history[0].keys()


@pytest.mark.filterwarnings("ignore:no measurable effect")
def test_controls_do_not_forget():
    still = run(lr=1e-30, figure_rows=24)  # rounded away
    assert still.after == still.before
    assert same(state(still.model), state(facts.full()))
    taught = run(method=NLL(on="forget"), retain=None, figure_rows=24)  # the sign of gradient ascent, flipped
    assert taught.after["forget"]["prob"] >= taught.before["forget"]["prob"] - 0.01


def test_the_seed_decides():
    first, again, other = (run(FORGET[:8], peft="lora", seed=seed) for seed in (0, 0, 1))
    assert same(state(first.model), state(again.model))
    assert not same(state(first.model), state(other.model))
    assert first.before == first.after == {}


@pytest.mark.parametrize("peft", ["lora", "bounded", LoraConfig(r=2, target_modules=["up_proj"])])
def test_adapters_are_trained_and_saved_alone(peft, tmp_path):
    result = run(peft=peft, lr=5e-3, epochs=2, figure_rows=24)
    base = state(facts.full())
    inside = {k.replace(".base_layer", ""): v for k, v in state(result.model.get_base_model()).items()}
    assert same(base, {name: inside[name] for name in base})
    assert result.after["forget"]["prob"] < result.before["forget"]["prob"]
    assert 0 < result.settings["parameters"]["trained"] < result.settings["parameters"]["all"] / 2
    result.save(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    loaded = PeftModel.from_pretrained(facts.full(), tmp_path)
    tokens = torch.tensor([FORGET[0]["input_ids"]])
    torch.testing.assert_close(logits(loaded, tokens), logits(result.model, tokens))
    record = json.loads((tmp_path / "unlearning.json").read_text())
    assert record["settings"] == json.loads(json.dumps(result.settings))
    assert record["settings"]["adapter"]["r"] == (2 if isinstance(peft, LoraConfig) else 8)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: "peft"')
    assert f"| forget | prob | {result.before['forget']['prob']:.4g} | {result.after['forget']['prob']:.4g} |" in card


def test_rows_records_and_files_are_one(tmp_path):
    path = tmp_path / "forget.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)))
    how = {"max_steps": 1, "method": "gradient_ascent", "retain": None, "encoding": ENCODING}
    rows, records, file = (state(run(forget, **how).model) for forget in (FORGET, RECORDS, path))
    assert same(rows, records)
    assert same(rows, file)


def test_refusals_are_taught_where_no_other_answers_are_given():
    result = run(RECORDS, method="dpo", encoding=ENCODING)
    assert result.settings["rows"]["alternative"] == 24
    with pytest.raises(InvalidInputError, match="alternative"):
        run(method="dpo")
    with pytest.raises(InvalidInputError, match="24 forgotten rows"):
        run(method="dpo", alternative=FORGET[:3])
    with pytest.raises(InvalidInputError, match=r"\['alternative'\] twice"):
        run(RECORDS, method="dpo", encoding=ENCODING, parts={"alternative": RETAIN})
    given = run(method="dpo", alternative=[dict(row) for row in FORGET])
    assert given.settings["objective"] == "DPO(scale=2.0) + 1.0 * NLL(on='retain')"


def test_any_objective_and_further_parts_run():
    objective = NPO(beta=0.2) + 0.5 * NLL(on="world")
    result = run(method=objective, retain=None, parts={"world": RETAIN[:5]}, figure_rows=4)
    assert result.settings["objective"] == repr(objective)
    assert result.settings["rows"] == {"forget": 24, "world": 5}
    assert set(result.after) == {"forget"}


def test_in_place_trains_the_given_model():
    model = facts.full()
    assert run(model=model, in_place=True).model is model
    assert not same(state(model), state(facts.full()))


def test_a_retrained_model_is_a_third_column():
    result, retrained = run(figure_rows=24), facts.retrained(0)
    before = copy.deepcopy(retrained)
    before.lm_head.weight.data[0] += 1e-5
    compared = result.compared(before, retrained, most=6, max_new_tokens=10)
    head, body = compared.table()
    assert head == ["part", "figure", "before", "after", "retrained"]
    assert {len(row) for row in body} == {5}
    assert body[-1][:2] == ["forget", "alignment"]
    assert compared.retrained["forget"]["prob"] < result.before["forget"]["prob"]
    # The model before was taken to be nearly the retrained one itself.
    assert compared.alignment["before"] == pytest.approx(0, abs=1e-4)
    assert compared.alignment["after"] > 0.1
    assert "alignment" in compared.card()
    assert "alignment" not in result.card()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"retain": None}, "retain_weight=0"),
        ({"retain": RETAIN + FORGET[:2]}, "2 of them, rows 97, 98 of retain"),
        ({"forget": []}, "'forget'"),
        ({"forget": [*RECORDS[:2], {"question": "?", "answer": ""}]}, r"row 3\) of 'forget'"),
        ({"method": "nope"}, "npo"),
        ({"options": {"betta": 1}}, "beta"),
        ({"method": GradientAscent(), "options": {"beta": 1}}, "by name"),
        ({"peft": "qlora"}, "bounded"),
        ({"epoch": 3}, "epoch"),
        ({"overlap": "maybe"}, "drop"),
        ({"batch_size": 0}, "'batch_size' to be a positive"),
        ({"batch_size": 2.5}, "whole"),
        ({"lr": 0.0}, "'lr' to be a positive"),
        ({"lr": float("nan")}, "'lr' to be a positive"),
        ({"epochs": 0}, "'epochs' to be a positive"),
        ({"figure_rows": -1}, "'figure_rows'"),
        ({"learning_rate": -1.0}, "'learning_rate'"),
        ({"learning_rate": 1e-3, "lr": 1e-3}, "'lr' or 'learning_rate' .got both"),
        ({"learning_rate": None, "lr": 1e-3}, "'lr' or 'learning_rate' .got both, 0.001 and None"),
        ({"num_train_epochs": 1, "epochs": 2}, "'epochs' or 'num_train_epochs' .got both"),
        ({"max_grad_norm": ""}, "'max_grad_norm' of 'TrainingArguments' to be a number"),
        ({"forget": FORGET[0]}, "got dict of 'forget'"),
        ({"retain": [*RETAIN[:2], RECORDS[0]]}, "got both, row 3 of 'retain'"),
        ({"retain": [*RETAIN[:2], {"input_ids": [], "labels": []}]}, "row 3. of 'retain'"),
        ({"forget": [UNLABELLED] * 2}, "labelled.*'forget'"),
        ({"max_length": 5, "forget": RECORDS}, "fit into 5"),
        ({"reference": tiny(vocab_size=50)}, "vocabulary"),
        ({"seed": -1}, "'seed'"),
        ({"lr_scheduler_type": "nope"}, "nope"),
        ({"method": "rmu", "options": {"layer": 9}}, "of 2 layers"),
        ({"method": "rmu", "options": {"layer": "x"}}, "'layer' of 'rmu' to be an integer or None"),
        ({"max_steps": 0}, "at least"),
        ({"dataloader_drop_last": True, "batch_size": 32}, "at least"),
        ({"peft": "lora", "model": adapted(facts.fresh())}, "merge"),
        ({"model": facts.fresh().requires_grad_(False)}, r"frozen.*--peft lora"),
        ({"model": adapted(facts.fresh()).requires_grad_(False)}, r"is_trainable=True.*merge_and_unload"),
    ],
)
def test_what_does_not_fit_is_refused(how, words):
    with pytest.raises(InvalidInputError, match=words):
        run(**how)


def test_models_that_cannot_be_trained_ask_for_an_adapter():
    quantised = facts.full()
    quantised.is_quantized = True  # norms and embeddings of such a model do require gradients
    with pytest.raises(InvalidInputError, match=r"quantised.*--peft lora"):
        run(model=quantised)
    run(model=facts.full().requires_grad_(False), peft="lora", max_steps=1)
    with pytest.raises(InvalidTypeError, match="PeftConfig"):
        run(peft=8)
    with pytest.raises(InvalidTypeError, match="got str"):
        run(model="model")
    with pytest.raises(UnsupportedModelError, match="LlamaModel"):
        run(model=facts.full().model)


def test_overlap_can_be_dropped():
    assert run(retain=RETAIN[:4] + FORGET[:2], overlap="drop").settings["rows"]["retain"] == 4


def test_answers_too_long_for_the_context_are_refused_before_training():
    context = facts.full().config.max_position_embeddings
    long = {"question": "where does ada live ?", "answer": "oslo " * context}
    with pytest.raises(InvalidInputError, match=f"fit into {context}"):
        run([long], retain=None, method="gradient_ascent", encoding=ENCODING)


def test_records_tell_nothing_of_what_was_forgotten(tmp_path):
    options = {"words": [facts.NAMES[p] for p in facts.FORGET], "max_document_frequency": 1.0}
    result = run(method="obliviate", options=options, max_steps=1, figure_rows=24)
    folder = result.save(tmp_path)
    kept = (folder / "unlearning.json").read_text() + (folder / "README.md").read_text()
    assert not any(f'"{name}"' in kept for name in options["words"])
    assert "token_ids=..." in kept
    assert result.settings["options"]["words"] == 4
    shown = repr(result).splitlines()
    assert shown[1].split() == ["part", "figure", "before", "after"]
    assert len(shown) == 10


@pytest.mark.filterwarnings("ignore:no measurable effect")
def test_the_multiplier_of_pdu_follows_the_retain_loss():
    options = {"epsilon": -1.0, "step": 2.0, "retain_weight": 3.0}
    result = run(method="pdu", options=options, max_steps=2)
    seen = [entry["retain_weight"] for entry in result.history]
    assert seen[0] == pytest.approx(3 + 2 * (result.history[0]["nll(retain)"] + 1), rel=1e-4)
    assert seen[1] > seen[0]  # no loss is below -1
    own = run(method="pdu", max_steps=1, lr=1e-30, figure_rows=24)  # bound by what the retained rows had before
    assert own.settings["options"]["epsilon"] == pytest.approx(own.before["retain"]["nll"], abs=0.05)
    assert own.history[0]["retain_weight"] == pytest.approx(50, abs=0.5)


def test_the_bar_counts_steps(capsys):
    run(progress=True)
    printed = capsys.readouterr()
    assert "3/3" in printed.err
    assert "loss=" in printed.err
    assert printed.out == ""
    run()
    assert capsys.readouterr() == ("", "")
    assert StepBar().bar is None


def test_the_bar_is_closed_after_an_error(monkeypatch):
    bars = []
    monkeypatch.setattr(StepBar, "on_step_end", lambda self, *args, **kwargs: bars.append(self.bar) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(progress=True)
    assert bars[0].disable  # what tqdm sets when it closes


def bare(row):
    """The answer alone, without a prompt."""
    tokens = [t for t in row["labels"] if t != -100]
    return {"input_ids": tokens, "labels": tokens, "target_mask": [False] * len(tokens)}


def test_a_model_that_is_not_retrained_is_refused():
    result = run(max_steps=1, lr=1e-3)
    for given, name in ((facts.full(), "the model before unlearning"), (copy.deepcopy(result.model), "the unlearned")):
        with pytest.raises(InvalidInputError, match=f"got {name}.*bit for bit"):
            result.compared(facts.full(), given)
    full = facts.full()
    with pytest.raises(InvalidInputError, match="got the original model"):
        evaluate_language_models(
            {"mine": result.model},
            None,
            FORGET,
            RETAIN,
            references=[copy.deepcopy(full)],
            original=full,
            generate=False,
        )


@pytest.mark.parametrize("method", ["npo", "gradient_ascent"])
def test_a_run_that_loses_the_rows_to_retain_says_so(method):
    with pytest.warns(UserWarning, match=f"'{method}' collapsed: on retained items its mean loss"):
        result = run(method=method, lr=1e3, max_steps=6, figure_rows=8, retain=RETAIN)
    assert "collapsed" in result.notes["collapsed"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "collapsed" not in run(method="npo", max_steps=6, figure_rows=8, retain=RETAIN).notes


@pytest.mark.parametrize(("method", "error"), [("npo", True), ("gradient_ascent", False)])
def test_a_loss_of_hundreds_of_nats_is_an_error_where_retained_rows_were_read(method, error, monkeypatch):
    found = iter([{"retain": {"nll": 4.3}}, {"retain": {"nll": 7e7}}])
    monkeypatch.setattr("gunlearn.llm.training.backend.figures", lambda *given: next(found))
    with pytest.raises(DivergenceError, match=r"7e\+07") if error else pytest.warns(UserWarning, match=r"7e\+07"):
        run(method=method, max_steps=1, retain=RETAIN)


def test_what_cannot_be_asked_is_left_out_of_the_comparison(monkeypatch):
    measured, asked = [], []

    def alignment(model, retrained, rows, tokenizer, max_new_tokens, batch_size):
        asked.append((len(rows), max_new_tokens, batch_size))
        return types.SimpleNamespace(value=0.25)

    monkeypatch.setattr("gunlearn.llm.metrics.text_alignment.functional_alignment", alignment)
    monkeypatch.setattr("gunlearn.llm.record.figures", lambda model, parts, *how: measured.append(how) or {})
    result = run([*FORGET[:4], bare(FORGET[4])], max_steps=1, batch_size=3)
    full, other = facts.full(), facts.retrained(0)
    found = result.compared(full, other, max_new_tokens=1000)  # more than the context holds
    longest = max(row["labels"].count(-100) for row in FORGET[:4])
    assert asked == [(4, full.config.max_position_embeddings - longest, 3)] * 2
    assert [how[:2] for how in measured] == [(0, 3)]
    for text in (repr(found), found.card()):
        assert "alignment" in text
    assert "alignment" not in repr(result)
    none = dataclasses.replace(result, parts={"forget": [bare(FORGET[4])]}).compared(full, other)
    assert none.alignment == {}


def test_half_precision_hardly_moves_and_says_so():
    share = {}
    for model in (facts.full().bfloat16(), facts.full()):
        before = [p.detach().clone() for p in model.parameters()]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            result = run(method="gradient_ascent", model=model, lr=1e-5, use_cpu=True)
        warned = any("got bfloat16" in str(w.message) for w in said)
        changed = [(a != b).float().flatten() for a, b in zip(before, result.model.parameters(), strict=True)]
        kind = result.settings["parameters"]["precision"]
        assert warned == ("rounded away" in result.card()) == (kind == "bfloat16")
        share[kind] = float(torch.cat(changed).mean())
    assert share["bfloat16"] < 0.4
    assert share["float32"] > 0.8
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(model=facts.full().bfloat16(), peft="lora", max_steps=1)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, ["8 rows per step (32 there)", "0 steps of warm-up (there an epoch, 5 steps)"]),
        ({"batch_size": 32, "warmup_steps": 0.1}, []),
        (
            {"gradient_accumulation_steps": 4, "warmup_steps": 2, "lr": 3e-5},
            ["lr=3e-05 (1e-05 there)"],
        ),
        ({"batch_size": 32, "warmup_steps": 2, "epochs": 1}, ["epochs=1 (10 there)"]),
    ],
)
def test_a_run_says_what_it_does_otherwise_than_the_published_one(asked, told):
    rows = [{"input_ids": [3, 4, 5 + k, 2], "labels": [-100, -100, 5 + k, 2]} for k in range(40)]
    result = unlearn(tiny(), None, rows, rows[:4], "npo", overlap="keep", figure_rows=0, use_cpu=True, **asked)
    assert result.settings["published"]["differences"] == told
    assert result.notes["otherwise"] == "; ".join(told)
    assert "open-unlearning" in result.notes["settings_of"]


@pytest.mark.parametrize("given", ["gpt2", 7, facts.tokenizer().get_vocab()], ids=["text", "number", "vocabulary"])
def test_a_tokenizer_that_is_none_is_refused(given):
    record = [{"question": "who ?", "answer": "ada"}]
    for call in (
        lambda: unlearn(tiny(), given, FORGET, RETAIN, use_cpu=True),
        lambda: encode(record, given),
        lambda: evaluate_language_models({"a": tiny()}, given, FORGET, RETAIN),
    ):
        with pytest.raises(InvalidTypeError, match="tokenizer of transformers"):
            call()
