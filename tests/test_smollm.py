"""The study on a pretrained model: it runs small, and is read, not run again."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch

pytest.importorskip("transformers")
from peft import get_peft_model

from experiments.smollm.__main__ import Args, main, make_study
from experiments.smollm.base import tiny
from experiments.smollm.going_on import FACTORS, FRESH, LONGER, SHARES, SHRUNK, new_adapter
from experiments.smollm.learned import learned
from experiments.smollm.methods import NAMES, SETTINGS, halved
from experiments.smollm.pieces import FIRST, UNTOUCHED, Piece, Plan, share
from experiments.smollm.problem import Problem, Recipe
from experiments.smollm.table import general, tables
from experiments.smollm.upper_half import UpperHalf
from gunlearn.llm import CausalLM, PartCollator
from gunlearn.report.frontier_table import three_digits
from tests.conftest import committed


@pytest.mark.filterwarnings("ignore:no loss of .* reads the rows to retain")
def test_smoke(tofu_root, tmp_path, capsys):
    """Both requests; a second run makes no model and measures nothing again."""
    args = Args(tofu_root, tmp_path, methods=(NAMES[0], "idkdpo", "task vector"), smoke=True)
    found = main(args)[0]
    for number in (1, 2):
        rows = found[f"request {number}"]["rows"]
        assert [row["model"] for row in rows] == ["retrained 0", "retrained 1", "original", "pretrained", *args.methods]
        assert {(row["seed"], row["device"], row["precision"]) for row in rows} == {(0, "cpu", "float32")}
        for row in rows:
            assert {"forget_alignment", "forget_quality", "model_utility", "mia_min_k", "others_relearned"} <= set(row)
            assert row["model"] == "original" or "forget_alignment_gain_low" in row
    out = capsys.readouterr().out
    assert "request2" in out
    assert "| task vector | 0.5 |" in out
    assert tables(found)["request1"] in out
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*")}
    assert main(args) == {0: found}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*")} == stamps


def test_each_seed_has_models_and_results_of_its_own(tofu_root, tmp_path, capsys):
    """Also: the control that begins with new factors takes as many steps as the row that it is a control of."""
    args = Args(tofu_root, tmp_path, requests=(1,), methods=(FRESH,), seeds=(0, 1), device="auto", smoke=True)
    found = main(args)
    assert SHARES[FRESH] == SHARES[LONGER]
    assert (tmp_path / "models" / "request1").is_dir() == (not torch.cuda.is_available())
    files = [json.loads((tmp_path / name).read_text()) for name in ("results.json", "results-seed1.json")]
    assert files == [found[0], found[1]]
    first, second = ({row["model"]: row for row in one["request 1"]["rows"]} for one in files)
    for name in (*UNTOUCHED, "retrained 0", "retrained 1", FRESH):
        assert (first[name]["seed"], second[name]["seed"]) == (0, 1)
        assert (first[name]["forget_prob"] == second[name]["forget_prob"]) == (name == "pretrained")
    assert files[0]["recipe"]["nll"] != files[1]["recipe"]["nll"]
    low, high = sorted(row[FRESH]["others_before"] for row in (first, second))
    assert f"({three_digits(low)} to {three_digits(high)})" in capsys.readouterr().out


def test_other_factors_of_a_method_make_another_row(tofu_root, tmp_path, monkeypatch):
    """Control: a row found by budget and problem alone would be read as that of the new factors."""
    study = make_study(Args(tofu_root, tmp_path, requests=(1,), methods=(FRESH, "npo"), smoke=True))
    pieces = [Piece(0, 1, name) for name in (FRESH, "npo")]
    before = [study.file(piece) for piece in pieces]
    monkeypatch.setitem(FACTORS, FRESH, (0.5,))
    assert [study.file(piece) == file for piece, file in zip(pieces, before, strict=True)] == [False, True]


def test_new_factors_begin_at_the_pretrained_model(tofu_root, tmp_path):
    problem = Problem(tofu_root, tiny(tmp_path / "base", tofu_root), tmp_path, Recipe(authors=4, rank=2), bf16=False)
    ids = torch.tensor([problem.forget(1)[0]["input_ids"]])
    with torch.no_grad():
        assert torch.equal(new_adapter(problem, 1)(ids).logits, problem.pretrained(ids).logits)
    starts = [new_adapter(of, number).state_dict() for of in (problem, problem.with_seed(1)) for number in (1, 1, 2)]
    factors = [next(value for name, value in start.items() if "lora_A" in name) for start in starts]
    assert torch.equal(factors[0], factors[1])
    assert len({float(factor.sum()) for factor in factors}) == 4


def test_processes_share_the_pieces(tmp_path):
    """Each piece is done once, what it needs before it; one that failed takes with it only what needs it."""
    plan = Plan((0, 1), (1, 2), ("a", "b"), 2)
    done, order = set(), []

    def work(piece):
        assert set(plan.needs(piece)) <= done
        order.append(piece)
        if piece == Piece(0, 1, "a"):
            raise ArithmeticError("no")
        time.sleep(0.001)
        done.add(piece)

    def process(_):
        while True:  # as a driver that starts a process again
            try:
                return share(plan, done.__contains__, work, tmp_path, skip_failed=True)
            except ArithmeticError:
                pass

    with ThreadPoolExecutor(3) as pool:
        left = list(pool.map(process, range(3)))
    assert left == [[Piece(0, 1, "a"), Piece(0, 2, "a")]] * 3
    assert len(order) == len(set(order)) == len(plan.pieces()) - 1
    with pytest.raises(ArithmeticError):
        share(plan, done.__contains__, work, tmp_path)  # without the option it is tried again
    assert share(plan, done.__contains__, work, tmp_path, until=time.monotonic() - 1) == left[0]


def test_the_first_seed_comes_first():
    plan = Plan((0, 1, 2), (1, 2), NAMES, 2)
    rows = [piece for piece in plan.pieces() if not piece.trains]
    methods = [(piece.request, piece.seed, piece.name) for piece in rows if piece.name in NAMES]
    assert methods[: len(NAMES)] == [(1, 0, name) for name in NAMES]
    assert {name for _, _, name in methods[len(NAMES) : len(NAMES) + 2 * len(FIRST)]} == set(FIRST)
    assert [request for request, _, _ in methods] == [1] * 3 * len(NAMES) + [2] * 3 * len(NAMES)
    assert len(rows) == len(set(rows)) == 2 * 3 * (len(NAMES) + 4)


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
    model, history = learned(problem, problem.forget(1), 0)
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
