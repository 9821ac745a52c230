import json
import re
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

from gunlearn.cli import main
from gunlearn.llm import LLMResult
from gunlearn.methods import PUBLISHED
from tests.command import call, help_alone, refusal
from tests.llm import facts
from tests.llm.test_data import bpe
from tests.llm.tiny import tiny
from tests.llm.training import logits

PAIRS = [{"question": f"where does {n} live?", "answer": f"{n} lives in the city of {c}."} for n, c in (
    ("Ada", "Oslo"), ("Bob", "Lima"), ("Cleo", "Rome"), ("Dan", "Bern"),
)]  # fmt: skip
FEW = ["--epochs", "1", "--lr", "0.01", "--device", "cpu"]


@pytest.fixture
def files(tmp_path):
    for name, pairs in (("forget", PAIRS[:2]), ("retain", PAIRS[2:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return ["--forget", str(tmp_path / "forget.jsonl"), "--retain", str(tmp_path / "retain.jsonl"), "--no-progress"]


def saved(folder, kind="llama", seed=0, **names):
    tokenizer = bpe(**names)
    sizes = {"vocab_size": len(tokenizer) + 8, "hidden_size": 32, "max_position_embeddings": 64}
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    tiny(kind, seed, **sizes, **special).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def renumbered(folder):
    """A model of the same size whose tokenizer gives two tokens each other's number."""
    file = Path(saved(folder, seed=1)) / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(content))
    return str(folder)


def prob_of(model, answer):
    tokens = torch.tensor([bpe()(answer, add_special_tokens=False)["input_ids"]])
    return float(logits(model, tokens)[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None]).mean().exp())


@pytest.mark.filterwarnings("ignore:no measurable effect")
@pytest.mark.parametrize(
    ("kind", "peft"), [("gpt2", ["--peft", "lora"]), ("qwen2", ["--peft", "bounded"]), ("phi", [])]
)
def test_any_architecture_is_unlearned_and_saved(kind, peft, tmp_path, files, capsys):
    model, out = saved(tmp_path / "model", kind), tmp_path / "out"
    argv = ["llm", "--model", model, *files, *peft, "--method", "graddiff", "--method-arg", "retain_weight=0.1"]
    assert call(*argv, "--epochs", "2", "--lr", "0.01", "--device", "cpu", "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == f"{'adapter' if peft else 'model'} and card: {out}"
    record = json.loads((out / "unlearning.json").read_text())
    assert record["settings"]["objective"] == "GradientAscent() + 0.1 * NLL(on='retain')"
    assert record["settings"]["base_model"] == model
    assert record["settings"]["training"]["use_cpu"] is True
    assert f"{record['after']['forget']['nll']:.4g}" in printed.out
    before = AutoModelForCausalLM.from_pretrained(model)
    text = f"Question: {PAIRS[0]['question']}\nAnswer: {PAIRS[0]['answer']}"
    known = prob_of(before, text)
    after = PeftModel.from_pretrained(before, out) if peft else AutoModelForCausalLM.from_pretrained(out)
    assert (out / "adapter_model.safetensors").exists() == bool(peft)
    assert prob_of(after, text) < known
    assert "Ada" not in (out / "README.md").read_text() + (out / "unlearning.json").read_text()


@pytest.mark.filterwarnings("ignore:no measurable effect")
def test_an_adapter_is_merged_and_a_retrained_model_compared(tmp_path, files, monkeypatch, capsys):
    model, first, second = saved(tmp_path / "model"), tmp_path / "first", tmp_path / "second"
    other = saved(tmp_path / "other", seed=1)
    results, save = [], LLMResult.save
    monkeypatch.setattr(LLMResult, "save", lambda self, folder: results.append(self) or save(self, folder))
    assert call("llm", "--model", model, *files, *FEW, "--peft", "bounded", "--out", str(first)) == 0
    argv = ["llm", "--model", str(first), *files, *FEW, "--peft", "lora", "--out", str(second)]
    capsys.readouterr()
    assert call(*argv, "--reference-model", other) == 0
    found, old = (json.loads((folder / "unlearning.json").read_text()) for folder in (second, first))
    for name, value in old["after"]["forget"].items():
        assert found["before"]["forget"][name] == pytest.approx(value, rel=1e-4)
    assert found["alignment"]["before"] > 0
    assert set(found["retrained"]) == {"forget", "retain"}
    first_table, _, second_table = capsys.readouterr().out.partition("retrained")
    assert "extraction_strength" in first_table  # before the comparison
    assert "alignment" in second_table
    card = (second / "README.md").read_text()
    assert "| forget | alignment |" in card
    # The second adapter is loaded with the fine-tuning below it.
    tokens = torch.tensor([[5, 6, 7, 8]])
    expected = logits(results[1].model, tokens)
    loaded = AutoPeftModelForCausalLM.from_pretrained(second)
    torch.testing.assert_close(logits(loaded, tokens), expected, atol=1e-5, rtol=1e-4)
    control = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), second)
    assert (logits(control, tokens) - expected).abs().max() > 1e-3  # the base alone, without the first adapter
    base = str(second / "base")
    assert json.loads((second / "adapter_config.json").read_text())["base_model_name_or_path"] == base
    assert found["settings"]["base_model"] == base
    assert json.dumps(base) in card


def test_errors_are_one_line_and_exit_code_2(tmp_path, files, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    model, small = saved(tmp_path / "model", max_length=64), saved(tmp_path / "small")
    other = AutoModelForCausalLM.from_pretrained(small)
    other.resize_token_embeddings(len(bpe()))
    other.save_pretrained(small)
    (tmp_path / "bad.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": "a"}')
    (tmp_path / "nothing").mkdir()
    facts.full().save_pretrained(tmp_path / "facts")
    bpe().save_pretrained(tmp_path / "facts")
    nobody = ["llm", "--model", "none", *files]  # refused before a model is loaded
    base, alone = ["llm", "--model", model, *files], ["llm", "--model", model, "--no-progress"]
    cases = [
        (["llm", "--model", str(tmp_path / "nothing"), *files], "causal language model"),
        (["llm", "--model", str(tmp_path / "facts"), *files], "embeddings"),
        ([*alone, "--forget", "none.jsonl"], "none.jsonl"),
        ([*alone, "--forget", "bad.jsonl"], "line 2 of bad.jsonl"),
        ([*alone, "--forget", "forget.jsonl"], "retain_weight=0"),
        ([*base, "--method", "nope"], "simnpo"),
        ([*base, "--method", "npo", "--method-arg", "betta=1"], "'beta'"),
        ([*base, "--method-arg", "beta=1"], "options of 'auto'"),
        ([*base, "--method-arg", "beta"], "key=value"),
        ([*base, "--training-arg", "epoch=5"], "epoch"),
        ([*base, "--training-arg", "seed=5"], "--seed"),
        ([*nobody, "--training-arg", "save_strategy=steps"], "'output_dir', a folder of checkpoints"),
        ([*base, "--max-length", "8"], "fit into 8 tokens"),
        ([*base, "--template", "{question}"], "{answer}"),
        ([*base, "--system", "be kind"], "'system'"),
        ([*nobody, "--batch-size", "0"], "'--batch-size' to be an integer >= 1 (got 0)"),
        ([*nobody, "--max-length", "0"], "'--max-length'"),
        ([*nobody, "--epochs", "0"], "'--epochs'"),
        ([*nobody, "--training-arg", "learning_rate="], "--training-arg key=value (got 'learning_rate=')"),
        ([*nobody, "--training-arg", "learning_rate=1e-3"], "Expected --lr, an option of 'gunlearn llm'"),
        ([*nobody, "--training-arg", "num_train_epochs=2"], "Expected --epochs,"),
        ([*nobody, "--training-arg", "per_device_train_batch_size=2"], "Expected --batch-size,"),
        ([*nobody, "--training-arg", "max_length=2"], "Expected --max-length,"),
        ([*nobody, "--epochs", "1", "--training-arg", "max_steps=2"], "--epochs or --training-arg max_steps"),
        (
            [*nobody, "--training-arg", "max_grad_norm=a"],
            "'max_grad_norm' of 'TrainingArguments' to be a number",
        ),
        ([*nobody, "--device", "cpu", "--training-arg", "bf16=true"], "got none: no such folder"),  # these fit
        ([*nobody, "--training-arg", "lr_scheduler_type=cosin"], "cosin is not a valid"),
        ([*nobody, "--method", "npoo"], "did you mean 'npo'"),
        ([*nobody, "--method", "gnndelete"], "for 'causal_lm' (got 'gnndelete', which is for link_prediction"),
        ([*base, "--reference-model", small], "vocabulary"),
        ([*base, "--reference-model", renumbered(tmp_path / "renumbered")], "its tokens have other numbers"),
        ([*alone, "--forget", "forget.jsonl", "--method", "finetune"], "rows to retain for 'finetune'"),
        ([*base, "--alternative", "none.jsonl", "--method", "dpo"], "none.jsonl"),
    ]
    if not torch.cuda.is_available():
        cases.append(([*base, "--device", "cuda"], "CUDA"))
    capsys.readouterr()
    for argv, words in cases:
        assert words in refusal(capsys, *argv)
    listed = refusal(capsys, *nobody, "--method", "nothing")
    assert "'simnpo'" in listed
    assert not {"'gnndelete'", "'esd'", "'gif'"} & set(re.findall(r"'[a-z_]+'", listed))
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match="simnpo"):
        main([*base, "--method", "nope", "--debug"])


@pytest.mark.filterwarnings("ignore:no loss of .* reads the rows to retain")
def test_divergence_is_exit_code_1(tmp_path, files, capsys):
    model = saved(tmp_path / "model")
    argv = ["llm", "--model", model, *files, "--lr", "1e30", "--method", "gradient_ascent", "--device", "cpu"]
    assert call(*argv, "--training-arg", "max_grad_norm=0", "--out", str(tmp_path / "out")) == 1
    assert "finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_methods_are_listed(capsys):
    assert call("llm-methods", "--markdown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == list(PUBLISHED["causal_lm"])


def test_help_needs_neither_torch_nor_transformers():
    printed, loaded = help_alone("llm")
    assert loaded == []
    assert "--forget FILE" in printed


@pytest.mark.filterwarnings("ignore:no loss of .* reads the rows to retain", "ignore:.*got bfloat16")
@pytest.mark.filterwarnings("ignore:no measurable effect")
@pytest.mark.parametrize(("dtype", "trained"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_half_precision_is_trained_in_float32_unless_told_otherwise(dtype, trained, tmp_path, files):
    model, out = saved(tmp_path / "model"), tmp_path / "out"
    AutoModelForCausalLM.from_pretrained(model).bfloat16().save_pretrained(model)
    assert call("llm", "--model", model, *files, *FEW, "--dtype", dtype, "--out", str(out)) == 0
    assert json.loads((out / "unlearning.json").read_text())["settings"]["parameters"]["precision"] == trained


@pytest.mark.filterwarnings("ignore:no measurable effect")
def test_an_adapter_folder_is_trained_on_as_a_model(tmp_path, files, capsys):
    model, first, second = saved(tmp_path / "model"), tmp_path / "first", tmp_path / "second"
    few = [*files, *FEW, "--method", "graddiff"]
    assert call("llm", "--model", model, *few, "--peft", "lora", "--out", str(first)) == 0
    assert call("llm", "--model", str(first), *few, "--out", str(second)) == 0
    parameters = json.loads((second / "unlearning.json").read_text())["settings"]["parameters"]
    whole = AutoModelForCausalLM.from_pretrained(second)
    assert parameters["trained"] == parameters["all"] == sum(p.numel() for p in whole.parameters())
    # A second run into the same folder would mix a model with an adapter.
    capsys.readouterr()
    said = refusal(capsys, "llm", "--model", "none", *few, "--peft", "lora", "--out", str(second))
    assert "second" in said
    assert "model.safetensors" in said
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(capsys, "llm", "--model", "none", *few, "--out", str(tmp_path / "file"))
    assert not (second / "adapter_config.json").exists()


def test_folders_that_are_none_are_named(tmp_path, files, capsys):
    for name in ("nowhere", str(tmp_path / "nowhere"), "./no/where", "a/b/c"):
        assert "no such folder" in refusal(capsys, "llm", "--model", name, *files, "--out", str(tmp_path / "out"))


@pytest.mark.filterwarnings("ignore")
def test_an_adapters_folder_that_is_shrunk_stays_an_adapter(tmp_path, files, capsys):
    """By auto and by name alike; the control: without an adapter all maps shrink."""
    model, adapter, out = saved(tmp_path / "model"), tmp_path / "adapter", tmp_path / "out"
    how = [*files, *FEW, "--method", "graddiff", "--peft", "lora"]
    assert call("llm", "--model", model, *how, "--out", str(adapter)) == 0
    shrunk = ["--method", "continued_training", "--method-arg", "shrink=0.1", "--method-arg", "optimizer=adamw"]
    capsys.readouterr()
    undoing = ["llm", "--model", str(adapter), *files, *shrunk, "--out", str(out / "undone")]
    assert "which unlearning made by 'graddiff'" in refusal(capsys, *undoing)
    (adapter / "unlearning.json").unlink()  # as if fine-tuning had made it
    few = [*files, "--epochs", "1", "--lr", "1e-9", "--device", "cpu"]
    before, name = AutoModelForCausalLM.from_pretrained(model).state_dict(), "model.layers.0.self_attn.q_proj.weight"

    def merged(folder):
        found = AutoPeftModelForCausalLM.from_pretrained(folder) if (folder / "adapter_config.json").exists() else None
        found = AutoModelForCausalLM.from_pretrained(folder) if found is None else found.merge_and_unload()
        return found.state_dict()[name]

    change = merged(adapter) - before[name]
    for own in (["--method-arg", "towards=base"], shrunk):
        given = out / str(len(own))
        argv = ["--model", str(adapter), *few, *own, "--reference-model", saved(tmp_path / "other", seed=1)]
        assert call("llm", *argv, "--out", str(given)) == 0
        assert ("auto chose continued_training" in (given / "README.md").read_text().replace("`", "")) == (
            own is not shrunk
        )
        assert f"adapter and card: {given}" in capsys.readouterr().out
        torch.testing.assert_close(merged(given), before[name] + 0.1 * change, atol=1e-6, rtol=1e-4)
        assert json.loads((given / "unlearning.json").read_text())["alignment"]["after"] > 0
    assert call("llm", "--model", model, *few, *shrunk, "--out", str(out / "control")) == 0
    torch.testing.assert_close(merged(out / "control"), 0.1 * before[name], atol=1e-6, rtol=1e-4)
    capsys.readouterr()
    argv = ["llm", "--model", str(adapter), *few, "--method-arg", "towards=base", "--out", str(out / "same")]
    argv += ["--reference-model", str(adapter)]
    assert "the model of" in refusal(capsys, *argv)
    config = json.loads((adapter / "adapter_config.json").read_text())
    for below, words in ((None, "no 'base_model_name_or_path'"), (str(tmp_path / "gone"), "gone, no folder here")):
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": below}))
        assert words in refusal(capsys, *argv)


@pytest.mark.filterwarnings("ignore:no measurable effect")
def test_auto_is_the_default_and_says_what_it_chose(tmp_path, files, capsys):
    model = saved(tmp_path / "model")
    assert call("llm", "--model", model, *files, *FEW, "--out", str(tmp_path / "out")) == 0
    assert "auto chose npo, because" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "unlearning.json").read_text())["settings"]["method"] == "npo"
