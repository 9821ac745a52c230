"""Models whose files lack weights, and weights that cannot be trained, are refused before work starts."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gunlearn.cli.language_models import load_language_model
from gunlearn.errors import InvalidInputError
from gunlearn.llm import unlearn
from tests.command import refusal
from tests.llm.test_llm_cli import saved
from tests.llm.tiny import tiny


def without(file, part):
    """Take weights whose names have `part` out of a file."""
    weights = load_file(file)
    kept = {name: value for name, value in weights.items() if part not in name}
    assert kept.keys() < weights.keys()
    save_file(kept, file, {"format": "pt"})


@pytest.mark.parametrize("kind", ["llama", "llama_tied", "gpt2"])
def test_a_file_without_some_weights_is_refused(kind, tmp_path):
    """The control: the whole file loads, also where the head is the embedding and is stored once."""
    name = saved(tmp_path / "model", kind)
    load_language_model(name)
    without(tmp_path / "model" / "model.safetensors", "mlp")
    with pytest.raises(InvalidInputError, match=r"Expected all weights of a \w+ in .*model \(got none of .*mlp"):
        load_language_model(name)


def test_an_adapter_without_some_weights_is_refused(tmp_path):
    """Of the adapter, or of the model below it."""
    name, folder = saved(tmp_path / "model"), tmp_path / "adapter"
    base = AutoModelForCausalLM.from_pretrained(name)
    get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(folder)
    for file in (tmp_path / "model").glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    whole = (folder / "adapter_model.safetensors").read_bytes()
    load_language_model(str(folder))  # control
    without(folder / "adapter_model.safetensors", "lora_A")
    with pytest.raises(InvalidInputError, match="all weights of the adapter"):
        load_language_model(str(folder))
    (folder / "adapter_model.safetensors").write_bytes(whole)
    without(tmp_path / "model" / "model.safetensors", "norm")
    with pytest.raises(InvalidInputError, match="all weights of a LlamaForCausalLM"):
        load_language_model(str(folder))


def test_a_gguf_file_is_no_model_to_train(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "a", "answer": "b"}))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    for name in (tmp_path / "m.gguf", tmp_path):
        said = refusal(capsys, "llm", "--model", str(name), "--forget", str(rows), "--out", str(tmp_path / "out"))
        assert "plain_folder" in said


FORGET, RETAIN = ([{"input_ids": ids, "labels": [-100, *ids[1:]]}] for ids in ([3, 4, 5, 6], [7, 8, 9, 6]))


def test_weights_that_are_not_finite_are_told_before_training():
    """A row of the embedding that no text reads."""
    model = tiny("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[50] = torch.nan
    with pytest.raises(InvalidInputError, match="finite weights to start from"):
        unlearn(model, None, FORGET, RETAIN, "graddiff", epochs=1, use_cpu=True)


@pytest.mark.filterwarnings("ignore")
def test_float16_is_refused_and_bfloat16_is_told():
    """AdamW's eps, 1e-8, is 0 in float16: the first step is no number, or many times as large as it should be."""
    with pytest.raises(InvalidInputError, match="float16, in which AdamW divides by 0"):
        unlearn(tiny("llama").half(), None, FORGET, RETAIN, "graddiff", epochs=1, use_cpu=True)
    result = unlearn(tiny("llama").bfloat16(), None, FORGET, RETAIN, "graddiff", epochs=1, use_cpu=True)
    assert result.settings["parameters"]["precision"] == "bfloat16"
    lora = unlearn(tiny("llama").half(), None, FORGET, RETAIN, "graddiff", epochs=1, use_cpu=True, peft="lora")
    assert lora.settings["parameters"]["precision"] == "float32"
