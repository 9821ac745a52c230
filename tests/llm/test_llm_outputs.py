"""What `unlearn` and `gunlearn llm` leave behind: folders, records, cards."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM

from gunlearn.errors import InvalidInputError
from gunlearn.llm import unlearn
from tests.llm import facts
from tests.llm.test_llm_cli import call, files, saved  # noqa: F401  # a fixture

FORGET, RETAIN = facts.rows(facts.FORGET), facts.rows(facts.RETAIN)


def run(forget=FORGET, retain=RETAIN, method="npo", **how):
    few = {"max_steps": 1, "lr": 1e-3, "figure_rows": 0}
    return unlearn(facts.full(), facts.tokenizer(), forget, retain, method, **(few | how))


def test_an_adapter_folder_is_trained_on_as_a_model(tmp_path, files, capsys):  # noqa: F811
    model, first, second = saved(tmp_path / "model"), tmp_path / "first", tmp_path / "second"
    few = [*files, "--epochs", "1", "--lr", "0.01", "--device", "cpu", "--method", "graddiff"]
    assert call("llm", "--model", model, *few, "--peft", "lora", "--out", str(first)) == 0
    assert call("llm", "--model", str(first), *few, "--out", str(second)) == 0
    parameters = json.loads((second / "unlearning.json").read_text())["settings"]["parameters"]
    whole = AutoModelForCausalLM.from_pretrained(second)
    assert parameters["trained"] == parameters["all"] == sum(p.numel() for p in whole.parameters())
    # A second run into the same folder would mix a model with an adapter.
    capsys.readouterr()
    assert call("llm", "--model", "none", *few, "--peft", "lora", "--out", str(second)) == 2
    assert "second" in (said := capsys.readouterr().err)
    assert "model.safetensors" in said
    (tmp_path / "file").write_text("")
    assert call("llm", "--model", "none", *few, "--out", str(tmp_path / "file")) == 2
    assert "is a file" in capsys.readouterr().err
    assert not (second / "adapter_config.json").exists()


def test_a_folder_is_saved_to_once(tmp_path):
    result = run()
    (tmp_path / "notes.txt").write_text("others may stay")
    result.save(tmp_path)
    with pytest.raises(InvalidInputError, match=tmp_path.name):
        result.save(tmp_path)
    result.write_record(tmp_path)
    with pytest.raises(InvalidInputError, match="a file"):
        result.save(tmp_path / "notes.txt")
