"""`gunlearn llm-eval`: from files to a log, bad input, and several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gunlearn.cli.eval_sets import encoded_sets, read_sets
from gunlearn.cli.language_models import load_for_evaluation
from gunlearn.cli.llm_eval import LLMEval
from gunlearn.llm.metrics import EvaluationLog, token_scores
from tests.command import call, help_alone, refusal
from tests.llm import facts
from tests.llm.metrics import eval_processes
from tests.llm.test_data import bpe
from tests.llm.tiny import tiny

REPOSITORY = Path(__file__).resolve().parents[3]
LAUNCH = """
accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no
--main_process_port 0
""".split()
NAMES = [("Ada", "Oslo"), ("Bob", "Lima"), ("Cleo", "Rome"), ("Dan", "Bern"), ("Eva", "Riga"), ("Finn", "Bonn")]
QUICK = "--device cpu --no-progress --samples 2 --max-new-tokens 4 --relearn-steps 0 --quantise int8".split()


def saved(folder, seed=0):
    tokenizer = bpe()
    sizes = {"vocab_size": len(tokenizer) + 8, "hidden_size": 32, "max_position_embeddings": 128}
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    tiny("llama", seed, **sizes, **special).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def pair(name, city):
    wrong = [f"{name} lives in {c}." for _, c in NAMES if c != city][:3]
    question, answer = f"where does {name} live?", f"{name} lives in {city}."
    return {"question": question, "answer": answer, "perturbed_answer": wrong, "paraphrased_answer": f"in {city}."}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Options of files, in a folder that is the current one: without --out the log is written below it."""
    monkeypatch.chdir(tmp_path)
    for i, part in enumerate(("forget", "retain", "holdout")):
        text = "\n".join(json.dumps(pair(*given)) for given in NAMES[2 * i : 2 * i + 2])
        (tmp_path / f"{part}.jsonl").write_text(text)
    return [word for part in ("forget", "retain") for word in (f"--{part}", str(tmp_path / f"{part}.jsonl"))]


def test_both_passes_from_the_command_line(tmp_path, files, capsys):
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two", 1)
    question = {"question": "who?", "choices": ["Ada", "Bob"], "answer": 0}
    (tmp_path / "choices.jsonl").write_text(json.dumps(question))
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "Ada lives in Oslo and eats bread every day."}))
    more = ["--choices", str(tmp_path / "choices.jsonl"), "--verbatim", str(tmp_path / "texts.jsonl")]
    more += ["--knowledge-forget", files[1], "--utility", f"authors={files[3]}"]
    held = ["--holdout-file", str(tmp_path / "holdout.jsonl")]
    first, out = str(tmp_path / "logs" / "first.json"), str(tmp_path / "logs" / "out.json")
    assert call("llm-eval", "--model", two, *files, *held, *QUICK, "--out", first) == 0
    argv = ["llm-eval", "--model", one, *files, *held, *QUICK, *more, "--references", first, "--out", out]
    assert call(*argv) == 0
    assert f"log: {out}" in capsys.readouterr().out
    assert "forget_alignment" in EvaluationLog.load(out).left_out
    assert call("llm-eval", "--model", two, *files, *QUICK, "--score-for", out) == 0
    printed = capsys.readouterr().out
    log = EvaluationLog.load(out)
    names = "forget_alignment forget_quality choices_acc verbatim_memory knowledge_forget_memory authors_prob"
    names += " mia_reference mia_gradient forget_prob_int8 retain_fluency model_utility"
    assert set(names.split()) <= log.figures.keys()
    assert ("privleak" in log.figures) != ("privleak" in log.left_out)
    assert "forget_alignment" in printed
    assert "Oslo" not in (tmp_path / "logs" / "out.json").read_text()
    assert call(*argv) == 0  # a complete log is shown again


def test_bad_input_is_refused_in_words(tmp_path, files, capsys):
    model = saved(tmp_path / "model")
    out, command = str(tmp_path / "out.json"), ("llm-eval", "--model", model, *QUICK)
    capsys.readouterr()
    assert "--tofu" in refusal(capsys, *command, "--out", out)
    assert "got both" in refusal(capsys, *command, *files, "--tofu", "forget01")
    assert "forget01" in refusal(capsys, *command, "--tofu", "forget02")
    assert "no.json, which is no file" in refusal(capsys, *command, *files, "--references", str(tmp_path / "no.json"))
    assert "bitsandbytes" in refusal(capsys, *command, *files, "--load-in", "4bit")
    (tmp_path / "log.json").write_text("{}")
    mixed = ["--score-for", str(tmp_path / "log.json"), "--out", out]
    assert "without --references" in refusal(capsys, *command, *files, *mixed)
    assert not Path(out).exists()


def test_a_gguf_file_that_cannot_be_read_is_named(tmp_path, files, capsys):
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "broken.gguf"
    path.write_bytes(b"GGUF and no more")
    for name in (path.parent, path):
        said = refusal(capsys, "llm-eval", "--model", str(name), *files, *QUICK)
        assert f"GGUF file of a causal language model that transformers reads (got {path}: " in said
    (tmp_path / "model" / "second.gguf").write_bytes(b"")
    assert "one GGUF file" in refusal(capsys, "llm-eval", "--model", str(path.parent), *files, *QUICK)


@pytest.mark.filterwarnings("ignore:.*half precision")
def test_broken_weights_and_unknown_words_are_refused(tmp_path, files, capsys):
    model = saved(tmp_path / "model")
    broken = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        broken.lm_head.weight.fill_(torch.nan)
    broken.save_pretrained(tmp_path / "broken")
    bpe().save_pretrained(tmp_path / "broken")
    capsys.readouterr()
    said = refusal(
        capsys, "llm-eval", "--model", str(tmp_path / "broken"), *files, *QUICK, "--out", str(tmp_path / "o")
    )
    assert "NaN for 2 rows" in said
    assert "broken" in said
    facts.fresh().save_pretrained(tmp_path / "words")  # knows other words
    facts.tokenizer().save_pretrained(tmp_path / "words")
    capsys.readouterr()
    (tmp_path / "forget.jsonl").write_text(json.dumps({"question": "qui?", "answer": "personne ne le sait"}))
    said = refusal(capsys, "llm-eval", "--model", str(tmp_path / "words"), *files, *QUICK, "--out", str(tmp_path / "o"))
    assert "knows the words of" in said
    assert "forget.jsonl (got unknown tokens for" in said


def launched(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return EvaluationLog.load(folder / "second.json")


@pytest.mark.slow
def test_two_processes_have_the_figures_of_one(tmp_path):
    """The control: the log has figures of every kind, also those of drawn answers and of relearning."""
    (tmp_path / "two").mkdir()
    eval_processes.main(tmp_path)
    one = EvaluationLog.load(tmp_path / "second.json")
    two = launched(tmp_path / "two", *LAUNCH, str(Path(eval_processes.__file__)), str(tmp_path / "two"))
    names = {"forget_alignment", "mia_gradient", "mia_reference", "forget_prob_int8", "relearn_prob", "retain_fluency"}
    assert names <= one.figures.keys()
    assert two.figures == pytest.approx(one.figures, rel=1e-4, abs=1e-6)
    for mine, theirs in zip(one.rows["forget"], two.rows["forget"], strict=True):
        assert mine.pop("digest") == theirs.pop("digest")
        assert theirs == pytest.approx(mine, rel=1e-4)


def test_help_needs_neither_torch_nor_transformers():
    printed, loaded = help_alone("llm-eval")
    assert loaded == []
    assert "--forget-file FILE" in printed


def test_tofu_names_its_sets(tmp_path):
    """The control: without --tofu the sets are those of the files."""
    for split in ("forget01", "retain", "real_authors", "world_facts"):
        records = [pair(name if split == "forget01" else f"{name}a", city) for name, city in NAMES]
        (tmp_path / f"{split}_perturbed.json").write_text("\n".join(map(json.dumps, records)))
    command = LLMEval("none", tofu="forget01", root=tmp_path, rows=4)
    found = read_sets(command)
    assert list(found) == ["forget", "retain", "real_authors", "world_facts"]
    sets = encoded_sets(command, found, bpe(), tiny("llama", max_position_embeddings=128))
    assert [len(rows) for rows in sets.values()] == [4] * 4
    assert [len(row["perturbed"]) for row in sets["forget"]] == [3] * 4
    assert sets["forget"][1]["prompt"] == f"Question: where does {NAMES[1][0]} live?\nAnswer:"
    paths = {
        part: tmp_path / f"{split}_perturbed.json" for part, split in (("forget", "forget01"), ("retain", "retain"))
    }
    assert list(read_sets(LLMEval("none", **paths))) == ["forget", "retain"]


def test_fewer_choices_and_texts_are_evenly_spaced(tmp_path):
    """The control: without --rows all are taken."""
    for file, names in (("a", NAMES), ("b", [(f"{name}a", city) for name, city in NAMES])):
        (tmp_path / f"{file}.jsonl").write_text("\n".join(json.dumps(pair(*given)) for given in names))
    kinds = {"choices": [{"question": name, "choices": ["a", "b"], "answer": 0} for name, _ in NAMES]}
    kinds["verbatim"] = [{"text": f"{name} lives in {city} and eats bread every day."} for name, city in NAMES]
    for kind, records in kinds.items():
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, records)))
    paths = {"forget": "a", "retain": "b", "choices": "choices", "verbatim": "verbatim"}
    paths = {name: tmp_path / f"{file}.jsonl" for name, file in paths.items()}
    found = []
    for number in (None, 3):
        command = LLMEval("none", rows=number, verbatim_prompt=2, **paths)
        model = tiny("llama", max_position_embeddings=128)
        found.append(encoded_sets(command, read_sets(command), bpe(), model))
    for kind in kinds:
        assert len(found[0][kind]) == 6
        assert found[1][kind] == found[0][kind][::2]


def test_layers_may_be_put_by_a_map(tmp_path, monkeypatch):
    name, rows = saved(tmp_path / "model"), [{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}]
    plain, _ = load_for_evaluation(name, device="cpu")
    asked, load = [], AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: asked.append(k) or load(*a, **k))
    mapped, _ = load_for_evaluation(name, device_map="auto")
    assert asked[0]["device_map"] == "auto"
    torch.testing.assert_close(token_scores(mapped, rows).log_prob, token_scores(plain, rows).log_prob)
