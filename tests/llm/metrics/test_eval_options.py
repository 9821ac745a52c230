"""Every option of `gunlearn llm-eval` reaches what it is for."""

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

import gunlearn
from gunlearn.cli import eval_sets, language_models
from gunlearn.cli.llm_eval import LLMEval
from gunlearn.llm.metrics import EvalSettings, EvaluationLog
from gunlearn.metrics import Sampler
from tests.command import call, refusal
from tests.llm.metrics.test_eval_sets import others
from tests.llm.metrics.test_llm_eval_command import files, saved
from tests.llm.test_data import bpe
from tests.llm.tiny import tiny

__all__ = ["files", "others"]  # fixtures
#: A value for every option, none of them its default.
GIVEN = """
--model models/mine --forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl --utility authors=authors.jsonl
--knowledge-forget known.jsonl --knowledge-retain kept.jsonl --verbatim texts.jsonl --verbatim-prompt 3
--choices choices.jsonl --choice-style texts --rows 1 --references first.json --original-log before.json
--out logs/out.json --attacks zlib min_k --no-align --align-rows 5 --samples 3 --max-new-tokens 9 --gradient-rows 6
--relearn-steps 11 --quantise nf4 --lm-eval mmlu --end last --texts --template Q:{question}A:{answer} --no-chat
--system calm --turns last --max-length 77 --long-answers cut --dtype bfloat16 --device cpu --device-map auto
--load-in 4bit --batch-size 2 --seed 7 --no-progress
""".split()
#: Options that another test holds: they exclude some of those above, or belong to all commands.
ELSEWHERE = {"tofu", "root", "score_for", "debug"}


@pytest.fixture
def seen(files, others, tmp_path, monkeypatch):
    """What the command hands on, by the name of what takes it; no model is loaded, no row encoded."""
    seen = SimpleNamespace(rows={}, harness=[], loaded=[], evaluated=[], scored=[])
    for name in ("authors", "known", "kept"):
        (tmp_path / f"{name}.jsonl").write_text((tmp_path / "holdout.jsonl").read_text())
    for name in ("first", "before"):
        (tmp_path / f"{name}.json").write_text("{}")

    def rows(records, *given, **how):
        seen.rows[given[1] if how else given[1:]] = how
        return [{"input_ids": [1]} for _ in records]

    def load(*given):
        seen.loaded.append(given)
        return tiny("llama", max_position_embeddings=128), bpe()

    def evaluated(model, tokenizer, sets, settings, **how):
        seen.evaluated.append((sets, settings, how))
        return EvaluationLog({"name": "m"}, {}, {}, path=how["out"])

    def scored(*given):
        seen.scored.append(given[2:])
        return [EvaluationLog({"name": "m"}, {}, {}, path=path) for path in given[3]]

    for name in ("evaluation_rows", "choice_rows", "continuation_rows"):
        monkeypatch.setattr(eval_sets, name, rows)
    monkeypatch.setattr(eval_sets, "check_harness", seen.harness.append)
    monkeypatch.setattr(language_models, "load_for_evaluation", load)
    monkeypatch.setattr(gunlearn.llm.metrics, "evaluate_one", evaluated)
    monkeypatch.setattr(gunlearn.llm.metrics, "score_for", scored)
    return seen


def test_every_option_is_handed_on(seen):
    """The control: the words name every option, and nothing that is handed on is what it is without them."""
    flags = {"--" + f.name.replace("_", "-") for f in fields(LLMEval) if f.name not in ELSEWHERE}
    words = {word.replace("--no-", "--") for word in GIVEN if word.startswith("--")}
    assert words == flags
    assert call("llm-eval", *GIVEN) == 0
    ((sets, settings, how),) = seen.evaluated
    measured = {"attacks": ("zlib", "min_k"), "align_on": (), "align_rows": 5, "sampler": Sampler(n_samples=3, seed=7)}
    measured |= {"max_new_tokens": 9, "end": "last", "gradient_rows": 6, "relearn_steps": 11, "quantise": ("nf4",)}
    measured |= {"harness": ("mmlu",), "batch_size": 2}
    assert settings == EvalSettings(**measured)
    told = {"references": (Path("first.json"),), "original_log": Path("before.json"), "out": Path("logs/out.json")}
    told |= {"name": "mine", "keep_texts": True, "say": None}
    assert how == told | {"keep_model": False}
    assert seen.loaded == [("models/mine", "bfloat16", "cpu", "auto", "4bit")]
    assert seen.harness == [("mmlu",)]
    speech = {"chat": False, "system": "calm", "turns": "last", "long_answers": "cut", "max_length": 77}
    speech |= {"template": "Q:{question}A:{answer}"}
    read = [f"{name}.jsonl" for name in ("forget", "retain", "holdout", "known", "kept", "authors")]
    assert seen.rows == dict.fromkeys(read, speech) | {("texts", 77): {}, (3,): {}}
    names = ["forget", "retain", "holdout", "knowledge_forget", "knowledge_retain", "verbatim", "choices", "authors"]
    assert list(sets) == names
    assert [len(rows) for rows in sets.values()] == [1] * len(names)
    assert call("llm-eval", "--model", "models/other", *GIVEN[2:6]) == 0  # the control
    _, plain, plainly = seen.evaluated[1]
    assert [name for name, value in measured.items() if getattr(plain, name) == value] == []
    assert [name for name, value in told.items() if plainly[name] == value] == []
    assert plainly["keep_model"] is False
    assert not any(one == other for one, other in zip(seen.loaded[0][1:], seen.loaded[1][1:], strict=True))
    speech = {"chat": None, "system": None, "turns": "all", "long_answers": "error", "max_length": 128}
    assert seen.rows["forget.jsonl"] == speech


def test_scoring_for_others_takes_its_rows_and_logs(seen, capsys):
    """The control: by default the batch is another, and lines of progress are said."""
    command = ["llm-eval", "--model", "models/mine", *GIVEN[2:6], "--score-for", "first.json", "before.json"]
    assert call(*command, "--batch-size", "2", "--no-progress") == 0
    assert call(*command) == 0
    logs = Path("first.json"), Path("before.json")
    assert [given[1:4] for given in seen.scored] == [(logs, 2, "models/mine"), (logs, 16, "models/mine")]
    assert [given[4] is None for given in seen.scored] == [True, False]
    assert [list(given[0]) for given in seen.scored] == [["forget", "retain"]] * 2
    assert not seen.evaluated
    capsys.readouterr()
    for option in (["--texts"], ["--out", "out.json"], ["--references", "first.json"]):
        assert "without --references, --original-log, --out and --texts" in refusal(capsys, *command, *option)


@pytest.mark.parametrize(("bits", "four"), [("4bit", True), ("8bit", False)])
def test_weights_are_loaded_in_so_many_bits(bits, four, monkeypatch):
    """The control: without --load-in no setting of bits is handed to transformers."""
    asked, model = [], tiny("llama")
    monkeypatch.setattr(language_models, "find_spec", lambda name: name)
    monkeypatch.setattr(
        language_models, "load_language_model", lambda name, dtype, **how: asked.append(how) or (model, None)
    )
    language_models.load_for_evaluation("mine", load_in=bits)
    config = asked[0]["quantization_config"]
    assert (config.load_in_4bit, config.load_in_8bit) == (four, not four)
    language_models.load_for_evaluation("mine", device="cpu")
    assert asked[1] == {}


def test_a_run_does_what_its_options_say(tmp_path, files, others):
    """The control: with other options the same model has other figures, and no texts."""
    few = "--device cpu --no-progress --max-new-tokens 4 --rows 2".split()
    command = ["llm-eval", "--model", saved(tmp_path / "model"), *files, *others, *few]
    command += ["--holdout", str(tmp_path / "holdout.jsonl")]
    told = "--no-align --attacks loss --quantise int8 --relearn-steps 1 --end keep --texts --choice-style texts".split()
    other = "--samples 1 --align-rows 1 --seed 3 --attacks zlib --quantise nf4 --relearn-steps 0 --end last".split()
    logs = []
    for name, options in (("told", told), ("other", other)):
        assert call(*command, *options, "--out", f"{name}.json") == 0
        logs.append(EvaluationLog.load(tmp_path / f"{name}.json"))
    one, two = logs
    for names, log, not_in in ((("mia_loss", "forget_prob_int8", "relearn_prob"), one, two), (("mia_zlib",), two, one)):
        assert set(names) <= log.figures.keys()
        assert not {*names} & not_in.figures.keys()
    assert (one.settings["aligned"], two.settings["aligned"]) == ({}, {"forget": [0], "retain": [0]})
    assert (one.settings["end"], two.settings["end"]) == ("keep", "last")
    assert two.settings["sampler"]["seed"] == 3
    assert [len(one.texts[part]) for part in ("forget", "retain", "verbatim")] == [2] * 3
    assert not two.texts
    digests = [[row["digest"] for row in log.rows["choices"]] for log in logs]
    assert not {*digests[0]} & {*digests[1]}
