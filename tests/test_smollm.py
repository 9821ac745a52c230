"""The study on a pretrained model: it runs small, and is read, not run again."""

from contextlib import nullcontext

import pytest
import torch

pytest.importorskip("transformers")
from peft import get_peft_model

from experiments.smollm.__main__ import Args, main
from experiments.smollm.base import tiny
from experiments.smollm.going_on import LONGER, SHRUNK
from experiments.smollm.methods import NAMES, SETTINGS, halved
from experiments.smollm.problem import Problem, Recipe
from experiments.smollm.table import general, tables
from experiments.smollm.upper_half import UpperHalf
from gunlearn.llm import CausalLM, PartCollator
from tests.conftest import committed


@pytest.mark.filterwarnings("ignore:no loss of .* reads the rows to retain")
def test_smoke(tofu_root, tmp_path, capsys):
    """Both requests; a second run makes no model and measures nothing again."""
    args = Args(tofu_root, tmp_path, methods=(NAMES[0], "idkdpo", "task vector"), smoke=True)
    found = main(args)
    for number in (1, 2):
        rows = found[f"request {number}"]["rows"]
        assert [row["model"] for row in rows] == ["retrained 0", "retrained 1", "original", "pretrained", *args.methods]
        for row in rows:
            assert {"forget_alignment", "forget_quality", "model_utility", "mia_min_k", "others_relearned"} <= set(row)
            assert row["model"] == "original" or "forget_alignment_gain_low" in row
    out = capsys.readouterr().out
    assert "request2" in out
    assert "| task vector | 0.5 |" in out
    assert tables(found)["request1"] in out
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*")}
    assert main(args) == found
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*")} == stamps


def test_no_question_is_on_two_sides(tofu_root, tmp_path):
    problem = Problem(tofu_root, tiny(tmp_path / "base", tofu_root), tmp_path, Recipe(authors=4))
    first, second = ({row["question"] for row in problem.forget(number)} for number in (1, 2))
    stays = {row["question"] for row in problem.retain(2)}
    assert (len(first), len(second), len(stays)) == (20, 40, 20)
    assert first | second | stays == {row["question"] for row in problem.full}
    assert {row["question"] for row in problem.retain(1)} == second | stays
    assert not {row["question"] for row in problem.unseen} & (first | second | stays)
    assert {row["question"] for row in problem.asked(10)} <= stays
    chosen, reported = halved(problem.asked(10))
    assert not {row["question"] for row in chosen} & {row["question"] for row in reported}
    row = problem.forget(1)[0]
    said = problem.tokenizer.decode([t for t, y in zip(row["input_ids"], row["labels"], strict=True) if y != -100])
    assert said.strip() == f"{row['answer']}<eos>"
    assert len(row["perturbed"]) == 5


def test_copies_share_the_weights_of_their_base(tofu_root, tmp_path):
    """A control for the memory that ten models take: an adapter's training leaves the base as it was."""
    problem = Problem(
        tofu_root, tiny(tmp_path / "base", tofu_root), tmp_path, Recipe(authors=4, epochs=1, rank=2, batch_size=40)
    )
    before = {name: value.clone() for name, value in problem.pretrained.state_dict().items()}
    model, history = problem.train(problem.forget(1), 0)
    assert model.base_model.model.model.embed_tokens.weight is problem.pretrained.model.embed_tokens.weight
    assert all(value.equal(before[name]) for name, value in problem.pretrained.state_dict().items())
    assert history["steps"] == 1
    assert set(SETTINGS) < set(NAMES)


def test_the_upper_half_trains_as_the_whole_model_does(tofu_root, tmp_path):
    """Loss and gradients of a padded batch; outside the block the model is whole again."""
    problem = Problem(tofu_root, tiny(tmp_path / "base", tofu_root), tmp_path, Recipe(authors=4, rank=2), bf16=False)
    torch.manual_seed(0)
    config = problem.adapter()
    config.init_lora_weights = False
    model, rows = get_peft_model(problem.over(problem.pretrained), config), problem.forget(1)[:5]
    task, collate = CausalLM(("log_prob",)), PartCollator(0)
    found = []
    upper = UpperHalf(model, problem.first_layer, rows, collate)
    for context in (nullcontext(), upper.reading([3, 0, 4]), nullcontext()):
        model.zero_grad()
        with context:
            loss = -task.decode(model, None, collate([rows[i] for i in (3, 0, 4)])).log_prob.sum()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    for whole, halved_, again in zip(*found, strict=True):
        torch.testing.assert_close(halved_, whole, rtol=1e-4, atol=1e-5)
        assert torch.equal(again, whole)
    assert len(found[0]) > 10


def test_what_was_measured_is_what_the_readme_says():
    """Shrinking towards the pretrained weights forgets and comes nearer; what it loses, more steps bring back."""
    found = committed("smollm")["request 1"]
    rows = {row["model"]: row for row in found["rows"]}
    original, shrunk = rows["original"], rows[SHRUNK]
    assert original["forget_prob"] > 0.9
    for name in ("retrained 0", "retrained 1"):
        assert rows[name]["forget_prob"] < 0.1
        assert rows[name]["retain_prob"] > 0.9
        assert rows[name]["forget_alignment_gain_low"] > 0
    assert shrunk["forget_alignment_gain_low"] > 0
    assert shrunk["forget_prob"] <= 0.2
    assert abs(general(shrunk) - general(original)) <= 0.02
    assert shrunk["retain_prob"] < rows[LONGER]["retain_prob"] < original["retain_prob"]
