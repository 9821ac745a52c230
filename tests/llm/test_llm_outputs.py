"""What `unlearn` and `gunlearn llm` leave behind: folders, records, cards."""

import dataclasses
import json
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from transformers import AutoModelForCausalLM

from gunlearn.errors import InvalidInputError
from gunlearn.llm.card import unchanged
from gunlearn.losses import NLL, NPO
from tests.llm import facts
from tests.llm.training import RETAIN, logits
from tests.llm.training import unlearned as run


def test_a_folder_is_saved_to_once(tmp_path):
    result = run(max_steps=1)
    (tmp_path / "notes.txt").write_text("others may stay")
    result.save(tmp_path)
    with pytest.raises(InvalidInputError, match=tmp_path.name):
        result.save(tmp_path)
    result.write_record(tmp_path)
    with pytest.raises(InvalidInputError, match="a file"):
        result.save(tmp_path / "notes.txt")


def test_an_interrupted_save_leaves_nothing_that_loads(tmp_path, monkeypatch):
    result = run(max_steps=1)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(result.tokenizer, "save_pretrained", full)
        with pytest.raises(OSError, match="No space left"):
            result.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())
    result.save(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "unlearning.json").read_text())
    assert "model.safetensors" in record["files"]
    assert repr((tmp_path / "out").as_posix()) in (tmp_path / "out" / "README.md").read_text()


def test_secrets_are_hidden_and_numbers_of_numpy_are_numbers(tmp_path):
    numbers = {"lr": np.float32(1e-3), "epochs": np.int64(1), "batch_size": np.int64(12)}
    run(hub_token="hf_secret", adam_beta1=0.8, **numbers).save(tmp_path)
    training = json.loads((tmp_path / "unlearning.json").read_text())["settings"]["training"]
    assert (training["hub_token"], training["adam_beta1"], training["num_train_epochs"]) == ("<hidden>", 0.8, 1)
    assert training["learning_rate"] == pytest.approx(1e-3)
    assert not any(b"hf_secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_no_effect_is_said():
    with pytest.warns(UserWarning, match="no measurable effect"):
        still = run(lr=1e-30, max_steps=1, figure_rows=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        moved = run(lr=3e-3, max_steps=4, figure_rows=8)
    for result, said in ((still, True), (moved, False)):
        assert ("No measurable effect" in result.card()) == said
        assert ("no measurable effect" in repr(result)) == said
        assert "unlearned with" not in result.card()
        assert result.unchanged == said == ("steps too small for the weights' floating point type" in repr(result))
    old, new = (f"{found['forget']['nll']:.4g}" for found in (moved.before, moved.after))
    assert f"nll {old} -> {new}" in moved.card()


def test_what_counts_as_an_effect():
    before = {"forget": {"nll": 1.0, "exact_memorization": 0.5, "extraction_strength": 0.5}}
    assert not unchanged({}, {})
    for changes, expected in (
        ({}, True),
        ({"nll": 1.009}, True),
        ({"nll": 0.5, "exact_memorization": 0.6}, True),
        ({"nll": 1.011}, False),
        ({"exact_memorization": 0.49}, False),
        ({"extraction_strength": 0.49}, False),
    ):
        assert unchanged(before, {"forget": before["forget"] | changes}) == expected


def test_the_record_holds_what_was_asked_for():
    with pytest.warns(UserWarning, match="reads the rows to retain"):
        result = run(
            method=NPO(beta=0.25) + 0.5 * NLL(on="world"),
            parts={"world": RETAIN[:5], "spare": RETAIN[:2]},
            encoding={"bos": True},
            max_length=100,
            peft="lora",
            max_steps=1,
        )
    settings = result.settings
    assert settings["losses"] == [
        {"weight": 1.0, "loss": "NPO"} | dataclasses.asdict(NPO(beta=0.25)),
        {"weight": 0.5, "loss": "NLL", "on": "world", "reduction": "mean"},
    ]
    assert settings["encoding"] == {"max_length": 100, "bos": True}
    assert (settings["overlap"], settings["reference"], settings["peft"]) == ("error", "auto", "lora")
    assert settings["in_no_loss"] == ["retain", "spare"]
    assert "No loss read the rows of retain, spare" in result.card()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        read = run(reference=facts.full(), max_steps=1)
    assert read.settings["in_no_loss"] == []
    assert read.settings["reference"] == "LlamaForCausalLM"
    hidden = run(method="obliviate", options={"words": ["oslo"], "max_document_frequency": 1.0}, max_steps=1)
    assert hidden.settings["losses"][0]["token_ids"] == "1 values"


def test_the_card_says_how_to_load(tmp_path, monkeypatch):
    facts.full().save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    model, ids = AutoModelForCausalLM.from_pretrained("base"), torch.tensor([[1, 4, 5, 6]])
    before = logits(model, ids)
    for peft in ("bounded", "lora", None):
        result = run(method="graddiff", model=model, peft=peft, max_steps=2, lr=1e-2)
        result.save(f"out-{peft}")
        (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / f"out-{peft}" / "README.md").read_text(), re.S)
        assert len(code.splitlines()) == (4 if peft == "bounded" else 3)
        with monkeypatch.context() as elsewhere:  # a process that knows nothing of bounded adapters
            for table in (PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING):
                elsewhere.delitem(table, "BOUNDED")
            elsewhere.delattr("gunlearn.llm.model.bounded")
            elsewhere.delitem(sys.modules, "gunlearn.llm.model.bounded")
            names = {}
            exec(compile(code, "README.md", "exec"), names)
        found = logits(names["model"], ids)
        torch.testing.assert_close(found, logits(result.model, ids), rtol=1e-4, atol=1e-4)
        assert (found - before).abs().max() > 1e-2  # or nothing was loaded over the base
