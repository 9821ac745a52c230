"""`gunlearn llm-bench` from the command line and from a file."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

import gunlearn
from gunlearn.cli.llm_bench import LLMBench, _weights
from tests.command import call, refusal
from tests.llm.test_llm_cli import renumbered, saved

CITIES = "Oslo Lima Rome Bern Kyiv Baku Doha Male Apia Suva Riga Bonn".split()
PAIRS = [{"question": f"where does {n} live?", "answer": f"{n} lives in the city of {c}."} for n, c in zip(
    "Ada Bob Cleo Dan Eva Finn Gus Hal Ida Jon Kay Leo".split(), CITIES, strict=True
)]  # fmt: skip
CHEAP = ["--epochs", "1", "--samples", "1", "--max-new-tokens", "3", "--no-progress", "--device", "cpu"]


@pytest.fixture
def files(tmp_path):
    for i, name in enumerate(("forget", "retain", "holdout")):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, PAIRS[4 * i : 4 * i + 4])))
    return tmp_path


def options(folder, *names):
    return [word for name in names for word in (f"--{name}", str(folder / f"{name}.jsonl"))]


def test_tables_and_picture_are_written_and_a_second_call_goes_on(files, capsys):
    model, other = saved(files / "model"), saved(files / "other", seed=1)
    third = saved(files / "third", seed=2)
    argv = ["llm-bench", "--model", model, "--references", other, third, *options(files, "forget", "retain", "holdout")]
    argv += [*CHEAP, "--out", str(files / "out")]
    chosen = ["--methods", "npo", "dpo", "--rates", "1e-4", "1e-3"]
    assert call(*argv, *chosen, "--method-arg", "npo.beta=0.5") == 0
    printed = capsys.readouterr()
    assert (files / "out" / "frontier.md").read_text().strip() in printed.out
    assert all(f"| `{name}` |" in printed.out for name in ("original", "retrained 0", "retrained 1", "npo", "dpo"))
    assert (files / "out" / "frontier.png").stat().st_size > 1000
    rows = (files / "out" / "rows.jsonl").read_text()
    assert len(rows.splitlines()) == 7
    assert "Ada" not in rows
    # The same from a file; an option goes before it, and nothing is run again.
    (files / "bench.yaml").write_text(
        "model: model\nreferences: [other, third]\nforget: forget.jsonl\nretain: retain.jsonl\nholdout: holdout.jsonl\n"
        "methods:\n  npo: {options: {beta: 0.5}}\n  dpo:\nrates: [1.0e-9]\nout: out\n"
    )
    again = ["llm-bench", "--config", str(files / "bench.yaml"), "--rates", "1e-4", "1e-3", *CHEAP]
    assert call(*again) == 0
    assert (files / "out" / "rows.jsonl").read_text() == rows
    assert call(*again[:3], *CHEAP) == 0  # control: the file's own rate is another run
    assert len((files / "out" / "rows.jsonl").read_text().splitlines()) == 9


def test_an_option_of_one_is_read(files):
    """Control: what is not given is not among the settings, and leaves the file's value."""
    whole = {"epochs": 1.0, "batch_size": 1, "every": 1, "samples": 1, "asked": 1, "half_seed": 1, "max_new_tokens": 1}
    whole |= {"measured_batch": 1, "tolerance": 1.0, "budget_minutes": 1.0, "rouge": False}
    given = {"model": "m", "forget": Path("f"), "retain": Path("r"), "methods": ("npo",)}
    assert LLMBench(**given, **whole).settings() == given | whole
    assert LLMBench(**given).settings() == given
    (files / "bench.yaml").write_text("model: m\nforget: f\nretain: r\nmethods: [npo]\nepochs: 5\nsamples: 3\n")
    found = LLMBench(config=files / "bench.yaml", epochs=1.0).settings()
    assert (found["epochs"], found["samples"]) == (1.0, 3)


#: A value for every option, none of them its default.
GIVEN = """
--model one --forget f --retain r --holdout h --utility authors=u --alternative a --references two three
--methods npo dpo --method-arg npo.beta=0.5 --rates 1e-4 2e-4 --seeds 3 4 --epochs 2 --batch-size 3 --every 2
--samples 5 --asked 7 --max-new-tokens 6 --measured-batch 9 --no-rouge --tolerance 0.2 --half-seed 8
--template Q:{question}A:{answer} --budget-minutes 1.5 --out out --dtype bfloat16 --device cpu --no-progress
""".split()


@pytest.fixture
def seen(files, monkeypatch):
    """What the command hands on, by the name of what takes it; no model is loaded, no file of records read."""
    seen, room, report, loading = {}, gunlearn.bench.llm, gunlearn.report, gunlearn.cli.language_models

    def taken(name, result):
        return lambda *given, **how: seen.setdefault(name, []).append((given, how)) or result

    monkeypatch.chdir(files)
    monkeypatch.setattr(loading, "load_language_model", taken("loaded", (torch.nn.Linear(1, 1), "tokenizer")))
    monkeypatch.setattr(loading, "load_retrained", taken("retrained", None))
    monkeypatch.setattr(room, "problem_from_files", taken("problem", "problem"))
    monkeypatch.setattr(room, "run_text_bench", taken("run", [{"rate": 1.0}]))
    monkeypatch.setattr(report, "frontier_markdown", taken("table", "table"))
    monkeypatch.setattr(report, "save_frontier", taken("picture", "picture"))
    return seen


def test_every_option_is_handed_on(seen):
    """The control: the words name every option, and nothing that is handed on is what it is without them."""
    flags = {"--" + f.name.replace("_", "-") for f in fields(LLMBench)} - {"--config", "--debug"}
    assert {word.replace("--no-", "--") for word in GIVEN if word.startswith("--")} == flags
    assert call("llm-bench", *GIVEN) == 0
    assert call("llm-bench", *GIVEN[:6], "--methods", "npo") == 0
    (given, how), (_, plain) = seen["problem"]
    load, tokenizer, files, references, utility, template = given
    assert (tokenizer, utility, template) == ("tokenizer", {"authors": "u"}, {"template": "Q:{question}A:{answer}"})
    paths = {"forget": "f", "retain": "r", "holdout": "h", "alternative": "a"}
    assert files == {name: Path(path) for name, path in paths.items()}
    assert (how["asked"], how["training"], how["alternatives"]) == (7, {"use_cpu": True}, True)
    assert (how["reference_names"], how["identity"]) == (("two", "three"), str(["one", "two", "three", "bfloat16"]))
    assert (plain["asked"], plain["training"], plain["alternatives"]) == (100, {}, False)
    assert plain["identity"] == str(["one", "float32"])
    seen["loaded"].clear()
    for loader in (load, *references):
        loader()
    assert [given for given, _ in seen["loaded"]] == [(name, "bfloat16") for name in ("one", "two", "three")]
    assert [given[:2] for given, _ in seen["retrained"]] == [("two", "bfloat16"), ("three", "bfloat16")]
    (_, bench, out, budget, say), (_, default, *others) = (given for given, _ in seen["run"])
    told = {"seeds": (3, 4), "epochs": 2, "batch_size": 3, "every": 2, "samples": 5, "max_new_tokens": 6}
    told |= {"measured_batch": 9, "rouge": False}
    assert {name: getattr(bench, name) for name in told} == told
    assert [name for name, value in told.items() if getattr(default, name) == value] == []
    assert [(arm.name, tuple(arm.rates)) for arm in bench.arms] == [(name, (1e-4, 2e-4)) for name in ("npo", "dpo")]
    assert [dict(arm.options) for arm in bench.arms] == [{"beta": 0.5}, {}]
    assert (out, budget) == (Path("out"), 1.5)
    assert others[:2] == [Path("runs/llm-bench"), None]
    assert (say is gunlearn.cli.console.say, others[2] is gunlearn.cli.console.say) == (False, True)
    rows = [{"rate": 1.0}]
    assert [given for given, _ in seen["table"]] == [(rows, 0.2, 8), (rows, 0.01, 0)]
    pictures = [(rows, Path("out/frontier.png"), 8), (rows, Path("runs/llm-bench/frontier.png"), 0)]
    assert [given for given, _ in seen["picture"]] == pictures


def test_models_are_loaded_onto_the_device(files, monkeypatch):
    """`cpu:0` is where CPU models are as well, and tells a move that was asked for; control: none before loading."""
    loading, moved = gunlearn.cli.language_models, []
    monkeypatch.setattr(loading, "resolve_device", lambda name: torch.device(name, 0))
    to = PreTrainedModel.to
    monkeypatch.setattr(PreTrainedModel, "to", lambda self, *where: moved.append((id(self), where)) or to(self, *where))
    names = {"model": saved(files / "model"), "references": (saved(files / "other", seed=1),), "methods": ("npo",)}
    command = LLMBench(**names, forget=files / "forget.jsonl", retain=files / "retain.jsonl", device="cpu")
    found = command.settings()
    problem = command._problem(found, command._bench(found))
    assert moved == []
    for load in (problem.original, *problem.references):
        model = load()
        assert moved.pop() == (id(model), (torch.device("cpu", 0),))


def test_bad_input_is_one_line(files, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(files)
    model, other, twin = saved(files / "model"), saved(files / "other", seed=1), saved(files / "twin", seed=1)
    whole = ["llm-bench", "--model", model, *options(files, "forget", "retain"), *CHEAP]
    (files / "few.jsonl").write_text("\n".join(map(json.dumps, PAIRS[:3])))
    (files / "bad.yaml").write_text("methdos: [npo]")
    (files / "list.yaml").write_text("methods: {npo: {options: [beta]}}")
    nobody = ["llm-bench", "--model", "none", *whole[3:], "--methods", "npo"]  # refused before a model is loaded
    cases = [
        (whole, "--methods"),
        ([*whole, "--methods", "npoo"], "did you mean 'npo'"),
        ([*whole, "--methods", "inpo"], "for 'causal_lm' (got 'inpo', which is for link_prediction)"),
        ([*whole, "--methods", "npo", "--rates", "0"], "'rates'"),
        ([*whole, "--methods", "npo", "--rates", "-1"], "'rates'"),
        ([*whole, "--methods", "npo", "--method-arg", "betta=1"], "'beta'"),
        ([*whole, "--methods", "npo", "--holdout", "none.jsonl"], "none.jsonl"),
        ([*whole, "--methods", "npo", "--references", str(files / "nothing")], "nothing"),
        ([*whole, "--methods", "npo", "--references", model], "the same, bit for bit"),
        ([*whole, "--methods", "npo", "--references", other, twin], "twin: their weights are the same"),
        ([*whole, "--methods", "npo", "--references", other, other], "other: their weights are the same"),
        ([*whole, "--methods", "npo", "--references", renumbered(files / "new")], "its tokens have other numbers"),
        ([*whole, "--methods", "npo", "--budget-minutes", "0"], "'budget_minutes'"),
        ([*nobody, "--asked", "0"], "Expected 'asked' to be an integer >= 1 (got 0)"),
        ([*nobody, "--half-seed", "-1"], "'half_seed'"),
        ([*nobody, "--tolerance", "-1"], "'tolerance'"),
        ([*nobody, "--max-new-tokens", "-5"], "'max_new_tokens'"),
        ([*whole, "--methods", "npo", "--forget", "few.jsonl"], "at least 4 rows of 'forget'"),
        ([*whole, "--methods", "npo", "--forget", "retain.jsonl"], "common rows"),
        ([*whole, "--methods", "npo", "--utility", "ra"], "NAME=FILE"),
        ([*whole, "--methods", "npo", "--holdout", "forget.jsonl"], "other rows under --holdout than under --forget"),
        ([*whole, "--methods", "npo", "--utility", "retain=few.jsonl"], "other names of utility sets"),
        ([*nobody[:-2], "--config", "list.yaml"], "Expected options of 'npo' by name"),
        (["llm-bench", "--config", "bad.yaml"], "did you mean 'methods'"),
        (["llm-bench", "--config", "none.yaml"], "none.yaml"),
    ]
    capsys.readouterr()
    for argv, words in cases:
        assert words in refusal(capsys, *argv)
    assert "'gnndelete'" not in refusal(capsys, *whole, "--methods", "nothing")
    assert not (files / "runs").exists() or not list((files / "runs").rglob("rows.jsonl"))


def test_another_base_below_an_adapter_is_another_model(tmp_path):
    """Control: a copy of the base is the same one, and a folder without weights is known by its name."""
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    saved(model)
    base = AutoModelForCausalLM.from_pretrained(model)
    get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(adapter)

    def told(below):
        config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(below)}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        return _weights(str(adapter))

    saved(tmp_path / "other", seed=1)
    shutil.copytree(model, tmp_path / "copy")
    assert told(model) == told(tmp_path / "copy") != told(tmp_path / "other")
    assert told("owner/name").endswith(" owner/name")
