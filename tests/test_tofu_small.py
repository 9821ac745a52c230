"""The study on TOFU's authors: it runs small, and what is committed of it holds what its README says."""

from pathlib import Path

import pytest

pytest.importorskip("transformers")
from experiments.tofu_small.__main__ import Args, main
from experiments.tofu_small.methods import SETTINGS
from experiments.tofu_small.problem import Problem, Recipe
from experiments.tofu_small.table import markdown
from tests.conftest import REPOSITORY, committed


@pytest.fixture(scope="module")
def root(data_root) -> Path:
    if not (data_root / "TOFU").is_dir():
        pytest.skip(f"needs TOFU's files in {data_root / 'TOFU'}")
    return data_root


@pytest.mark.filterwarnings("ignore:no loss of .* reads the rows to retain")
def test_smoke(root, tmp_path, capsys):
    args = Args(root, tmp_path, methods=("npo", "graddiff lora", "ga until unseen"), smoke=True)
    (found,) = main(args).values()
    names = [row["model"] for row in found["rows"]]
    assert sorted(names) == ["ga until unseen", "graddiff lora", "npo", "original", "retrained 0", "retrained 1"]
    for row in found["rows"]:
        assert {"forget_alignment", "forget_quality", "model_utility", "mia_min_k", "seconds"} <= set(row)
    assert "| npo" in capsys.readouterr().out
    models = list((tmp_path / "models").glob("*.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in models]
    main(args)  # trained and unlearned models are read, not made again
    assert [path.stat().st_mtime_ns for path in models] == stamps


def test_forgotten_and_retained_questions_are_apart(root):
    problem = Problem(root, Recipe(authors=10, vocab_size=600))
    for percent, number in ((10, 20), (5, 10), (1, 2)):
        forget, retain = problem.forget(percent), problem.retain(percent)
        assert len(forget) == number
        asked = {row["question"] for row in forget}
        assert not asked & {row["question"] for row in retain}
        # Together, and with nothing else, they are what the full model learns.
        assert asked | {row["question"] for row in retain} == {
            row["question"] for row in problem.full + problem.general
        }
        assert not asked & {row["question"] for row in problem.unseen}
    row = problem.forget(10)[0]
    text = problem.tokenizer.decode([t for t, y in zip(row["input_ids"], row["labels"], strict=True) if y != -100])
    assert text.strip() == f"{row['answer']}<eos>"
    assert len(row["perturbed"]) == 5


def test_the_readme_shows_what_was_measured_of_every_method():
    text = (REPOSITORY / "experiments" / "tofu_small" / "README.md").read_text()
    for name, found in committed("tofu_small").items():
        assert markdown(found["rows"]) in text
        models = {row["model"] for row in found["rows"]}
        assert models >= set(SETTINGS) | {"original", "retrained 0", "retrained 1"}, name


def test_the_models_know_what_they_learned_and_not_what_they_did_not():
    for found in committed("tofu_small").values():
        by_name = {row["model"]: row for row in found["rows"]}
        assert by_name["original"]["forget_prob"] > 0.9
        for name in ("retrained 0", "retrained 1"):
            assert by_name[name]["forget_prob"] < 0.3
            assert by_name[name]["retain_prob"] > 0.9
            assert abs(by_name[name]["mia_min_k"] - 0.5) < 0.2
            assert by_name[name]["forget_alignment"] < by_name["original"]["forget_alignment"]
