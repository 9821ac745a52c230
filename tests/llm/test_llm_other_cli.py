"""`gunlearn llm-release`, `gunlearn llm-dp`, and methods of the package's loop from the command line."""

import json
import math
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import gunlearn
from gunlearn import KeepState
from gunlearn.cli.llm_release import _REVEALS
from gunlearn.core.options import option_names
from gunlearn.llm import PartCollator, ReleaseOptions, unlearn
from gunlearn.llm.model.token_prediction import token_loss
from gunlearn.llm.training import by_loop
from tests.command import call, help_alone, refusal
from tests.llm import facts
from tests.llm.test_llm_cli import PAIRS, saved

pytestmark = pytest.mark.filterwarnings("ignore:no measurable effect")
QUIET = ["--no-progress", "--device", "cpu"]


@pytest.fixture
def files(tmp_path):
    for name, pairs in (("all", PAIRS), ("forget", PAIRS[:2]), ("retain", PAIRS[2:])):
        rows = [pair | {"author": pair["answer"].split()[0]} for pair in pairs]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def parted(folder):
    return ["--forget", str(folder / "forget.jsonl"), "--retain", str(folder / "retain.jsonl")]


@pytest.mark.parametrize("method", ["finetune", "task_vector", "imu", "scrub", "continued_training"])
def test_methods_of_the_loop_run_by_name(method, files, capsys):
    model = saved(files / "model")
    more = ["--epochs", "1"] if method != "continued_training" else ["--method-arg", "steps=2"]
    argv = ["llm", "--model", model, *parted(files), *QUIET, *more, "--lr", "0.001", "--method", method]
    if method == "continued_training":
        argv += ["--method-arg", "optimizer=adamw", "--method-arg", "shrink=0.9"]
    assert call(*argv, "--out", str(files / "out")) == 0
    record = json.loads((files / "out" / "unlearning.json").read_text())
    assert ("--method-arg training=FOLDER" in capsys.readouterr().err) == (method == "continued_training")
    started = "a new optimiser, its rate raised from 0" if method == "continued_training" else None
    assert record["settings"].get("start") == started
    assert record["settings"]["method"] == method
    assert record["settings"]["rows"] == {"forget": 2, "retain": 2}
    before, after = AutoModelForCausalLM.from_pretrained(model), AutoModelForCausalLM.from_pretrained(files / "out")
    moved = sum(float((a - b).norm()) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert moved > 0
    assert "Ada" not in (files / "out" / "README.md").read_text()


@pytest.mark.parametrize("compared", [False, True])
def test_the_loop_trains_on_the_device(compared, files, monkeypatch):
    """`cpu:0` tells a move that was asked for; the model that the method gets is one of those that moved."""
    loading, moved, trained = gunlearn.cli.language_models, [], []
    monkeypatch.setattr(loading, "resolve_device", lambda name: torch.device(name, 0))
    to, run = PreTrainedModel.to, by_loop.run_by_loop
    monkeypatch.setattr(PreTrainedModel, "to", lambda self, *where: moved.append((id(self), where)) or to(self, *where))
    monkeypatch.setattr(by_loop, "run_by_loop", lambda *args: trained.append(id(args[1])) or run(*args))
    more = ["--reference-model", saved(files / "other", seed=1)] if compared else []
    argv = ["llm", "--model", saved(files / "model"), *parted(files), *QUIET, *more, "--method", "finetune"]
    moved.clear()
    assert call(*argv, "--epochs", "1", "--lr", "1e-3", "--out", str(files / "out")) == 0
    asked = [number for number, where in moved if where == (torch.device("cpu", 0),)]
    assert len(trained) == 1
    assert trained[0] in asked
    assert len(asked) == 1 + compared  # the retrained model, to be compared with


def test_weights_are_shrunk_towards_a_folder_of_pretrained_ones(files, capsys):
    torch.manual_seed(5)
    pretrained, model = saved(files / "pretrained"), saved(files / "model")
    base = AutoModelForCausalLM.from_pretrained(pretrained)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    base.save_pretrained(pretrained)
    argv = ["llm", "--model", model, *parted(files), *QUIET, "--method", "continued_training"]
    argv += ["--method-arg", "epochs=0", "--method-arg", "optimizer=adamw", "--out", str(files / "out"), "--method-arg"]
    assert call(*argv, f"towards={files / 'nowhere'}", "--method-arg", "shrink=0.0") == 2
    assert "nowhere" in capsys.readouterr().err
    assert call(*argv, f"towards={pretrained}", "--method-arg", "shrink=0.0") == 0
    ends = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (files / "out", pretrained, model)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert any(not torch.equal(value, ends[2][name]) for name, value in ends[0].items())  # control: it has moved


def test_what_the_loop_does_not_read_is_refused(files, capsys):
    base = ["llm", "--model", saved(files / "model"), *parted(files), *QUIET, "--method"]
    capsys.readouterr()
    for more, words in (
        (["finetune", "--peft", "lora"], "no 'peft' for 'finetune'"),
        (["finetune", "--training-arg", "warmup_steps=3"], "no 'warmup_steps'"),
        (["finetune", "--epochs", "0.5"], "whole number of 'epochs'"),
        (["replay"], "'training'"),
        (["replay", "--lr", "0.1"], "'lr'"),
    ):
        assert words in refusal(capsys, *base, *more)
    assert call(*base, "continued_training", "--epochs", "1", "--method-arg", "steps=2") == 2
    assert "'epochs' beside 'steps'" in capsys.readouterr().err.splitlines()[-1]  # below what it does without a state


def test_reveal_and_release_takes_a_concept_away(files, capsys):
    facts.full().save_pretrained(files / "facts")
    facts.tokenizer().save_pretrained(files / "facts")
    questions = [row for row in facts.rows(facts.FORGET) if "live" in row["prompt"] or "home" in row["prompt"]]
    (files / "ask.txt").write_text("\n".join(row["prompt"] for row in questions))
    towns = sorted({row["value"] for row in questions})
    argv = ["llm-release", "--model", str(files / "facts"), "--words", *towns, "--instructions", str(files / "ask.txt")]
    few = [
        "--rounds",
        "3",
        "--option",
        "steps=20",
        "--option",
        "lr=0.01",
        "--option",
        "scale=2",
        "--reveal-arg",
        "samples=1",
    ]
    few += ["--reveal-arg", "max_new_tokens=10", "--reveal-arg", "bos=True", *QUIET]
    assert call(*argv, *few, "--out", str(files / "out")) == 0
    record = json.loads((files / "out" / "rounds.json").read_text())
    rates = [r["hit_rate"] for r in record["rounds"]]
    assert rates[record["best_round"]] < rates[0] == 1
    assert record["rounds"][1]["scale"] == 2
    assert "texts about it" in capsys.readouterr().out
    after = AutoModelForCausalLM.from_pretrained(files / "out")
    assert facts.value_prob(after, questions) < facts.value_prob(facts.full(), questions) - 0.2
    capsys.readouterr()
    (files / "bad.txt").write_text('{"texts": "a"}')
    for more, words in (
        (["--option", "stepps=3"], "did you mean 'steps'"),
        (["--option", "steps=many"], "'steps'"),
        (["--option", "steps=0"], "Expected --option steps to be an integer >= 1 (got 0)"),
        (["--option", "rank=0"], "Expected --option rank"),
        (["--option", "tolerance=0.1"], "Expected --retain beside --option tolerance=0.1"),
        (["--option", "target_modules=nothing"], "Expected --option target_modules of linear layers"),
        (["--reveal-arg", "temperature=0"], "Expected --reveal-arg temperature"),
        (["--reveal-arg", "max_new_tokens=0"], "Expected --reveal-arg max_new_tokens"),
        (
            ["--reveal-arg", "threshold=2", "--reveal-arg", "samples=1"],
            "--reveal-arg threshold or --option min_rows may",
        ),
        (["--reveal-arg", "score=1"], "--reveal-arg"),
        (["--rounds", "0"], "--rounds"),
        (["--instructions", "none.txt"], "none.txt"),
        (["--instructions", str(files / "bad.txt")], "line 1 of bad.txt"),
        (["--out", str(files / "out")], "without a model"),
    ):
        assert words in refusal(capsys, *argv, *QUIET, *more)


def test_rounds_that_take_nothing_away_are_said(files, capsys):
    """The control is the test above, in which the concept goes."""
    facts.full().save_pretrained(files / "facts")
    facts.tokenizer().save_pretrained(files / "facts")
    questions = [row for row in facts.rows(facts.FORGET) if "live" in row["prompt"]]
    (files / "ask.txt").write_text("\n".join(row["prompt"] for row in questions))
    towns = sorted({row["value"] for row in questions})
    argv = ["llm-release", "--model", str(files / "facts"), "--words", *towns, "--instructions", str(files / "ask.txt")]
    few = ["--rounds", "1", "--option", "lr=1e-9", "--reveal-arg", "samples=1", "--reveal-arg", "max_new_tokens=10"]
    assert call(*argv, *few, *QUIET, "--reveal-arg", "bos=True", "--out", str(files / "out")) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "all rounds are done (1); no round is better than the model before, which is saved as it was" in last
    assert "--option lr, steps or scale" in last


def test_help_names_every_option_of_a_release():
    """Those that errors advise, too."""
    printed, _ = help_alone("llm-release")
    words = set(re.findall(r"\w+", printed))
    assert {*option_names(ReleaseOptions), *_REVEALS} <= words


def test_a_private_base_is_trained_once_and_unlearning_starts_from_it(files, capsys):
    pytest.importorskip("opacus")
    model, base = saved(files / "model"), str(files / "base")
    start = ["--model", model, "--base", base, *QUIET, "--batch-size", "2", "--epochs", "1"]
    rows = lambda name: ["--rows", str(files / f"{name}.jsonl")]  # noqa: E731
    private = ["--epsilon", "2", "--delta", "1e-3", "--record", "author"]
    assert call("llm-dp", "base", *start, *rows("all"), *private) == 0
    printed = capsys.readouterr().out
    assert "each of 4 records (author)" in printed
    spent = json.loads((files / "base" / "card.json").read_text())
    sums = [spent["delta"] * sum(math.exp(i * spent["epsilon"]) for i in range(k)) for k in range(1, 5)]
    assert f"requests of up to {sum(total < 1 for total in sums)} of them are covered" in printed
    assert call("llm-dp", "deploy", *start, *rows("all"), "--out", str(files / "deployed")) == 0
    assert "not private" in capsys.readouterr().out
    assert call("llm-dp", "unlearn", *start, *rows("retain"), "--out", str(files / "out")) == 0
    card = json.loads((files / "out" / "privacy.json").read_text())
    assert card["request"]["records"] == 2
    assert card["request"]["epsilon"] == pytest.approx(2 * card["base"]["epsilon"])
    assert "2 records taken out" in capsys.readouterr().out
    AutoModelForCausalLM.from_pretrained(files / "out")
    capsys.readouterr()
    other = saved(files / "other", seed=1)
    capsys.readouterr()
    whole = ["llm-dp", "unlearn", *start, *rows("retain"), "--out", str(files / "new")]
    for argv, words in (
        ([*whole, "--epsilon", "1"], "--epsilon with step 'base'"),
        ([*whole, "--steps", "2"], "--steps or --epochs (got both, 2 and 1)"),
        ([*whole, "--training-arg", "learning_rate=1"], "--lr, an option of 'gunlearn llm-dp'"),
        ([*whole, "--training-arg", "max_steps=1"], "--steps, an option"),
        ([*whole, "--training-arg", "bf16=true", "--model", "none"], "got none: no such folder"),  # these fit
        ([*whole, "--training-arg", "warmup_steps=a"], "'warmup_steps' of 'TrainingArguments'"),
        ([*whole, "--model", other], f"Expected the model that {base} was trained from (got {other}"),
        ([*whole[:1], "deploy", *whole[2:], "--model", str(files / "deployed")], "whose weights are others"),
        ([*whole, "--batch-size", "0"], "'--batch-size'"),
        (["llm-dp", "base", *start, *rows("all"), *private, "--delta", "0"], "'--delta'"),
        (["llm-dp", "base", *start, *rows("all"), *private, "--steps", "2"], "--steps or --epochs"),
        (["llm-dp", "base", *start, *rows("all")], "--epsilon"),
        (["llm-dp", "base", *start, *rows("all"), *private], "without a base"),
        (["llm-dp", "unlearn", *start, *rows("all"), "--out", str(files / "new")], "rows to forget"),
        (["llm-dp", "unlearn", *start, *rows("retain"), "--out", str(files / "out")], "without a model"),
        ([*whole, "--base", str(files / "nothing")], "card.json"),
    ):
        assert words in refusal(capsys, *argv)


def test_help_of_each_command_loads_nothing_heavy():
    names = "llm-bench", "llm-release", "llm-dp"
    printed, loaded = help_alone(*names, heavy=("torch", "transformers", "peft", "yaml"))
    assert loaded == []
    assert all(f"usage: gunlearn {name}" in printed for name in names)


def test_going_on_reads_as_the_training_did():
    """The state's own batch size is taken, so that nothing is refused; without one the call's."""
    rows, model = [facts.rows(people) for people in (facts.FORGET, facts.RETAIN)], facts.fresh()
    keeping, optimizer = KeepState(10), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(10):
        loss = token_loss(model, PartCollator()(rows[1][5 * step : 5 * step + 5]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keeping.step(model, optimizer)
    for reading, steps in (({"batch_size": 6}, 16), ({}, 12)):
        state = keeping.state(model.eval(), **reading)
        how = {"options": {"training": state}, "epochs": 1, "batch_size": 8, "figure_rows": 8}
        result = unlearn(model, facts.tokenizer(), *rows, "continued_training", **how)
        assert abs(result.settings["steps"] - steps) <= 2  # a pass over 96 rows
