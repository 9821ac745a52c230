"""DP2Unlearning: gradients per record, the accountant's figures, what is refused, and what the second phase leaks."""

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from gunlearn.errors import (
    CheckpointError,
    EmptyForgetSetError,
    InvalidInputError,
    InvalidRequestError,
    UnsupportedModelError,
)
from gunlearn.llm import PartCollator
from gunlearn.llm.training.until import mean_nll
from tests.llm import facts
from tests.llm.tiny import tiny
from tests.llm.training import adapted, arguments, own_forward, state

pytest.importorskip("opacus")

from gunlearn.llm.privacy import DPBase, DPCard, dp_train, finetune, unlearn_from_base
from gunlearn.llm.privacy.dp_rows import ledger_of, records_changed, units, weights_hash
from gunlearn.llm.privacy.dp_steps import DPOptimizer, add_hooks, record_gradients, row_losses

ROWS = facts.rows(range(20), (0,))
PEOPLE = [{**row, "person": i // 3} for i, row in enumerate(ROWS)]
RETAIN = facts.rows(facts.RETAIN, (0,))
FORGET = facts.rows(facts.FORGET, (0,))
SETTINGS = {"delta": 1e-3, "lr": 3e-3, "batch_size": 16, "physical_batch_size": 32, "seed": 0}


def small(kind: str = "llama") -> torch.nn.Module:
    """An architecture by name, or `"lora"`: one with an adapter."""
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if kind == "gpt2" else {}
    name = "llama" if kind == "lora" else kind
    model = tiny(name, vocab_size=len(facts.VOCABULARY), num_hidden_layers=1, **still)
    return adapted(model, target_modules=["q_proj", "v_proj"], init_lora_weights=False) if kind == "lora" else model


def with_layer(layer: torch.nn.Module) -> torch.nn.Module:
    model = small()
    model.extra = layer
    return model


def training(steps: int, **more: object) -> TrainingArguments:
    return arguments(max_steps=steps, learning_rate=3e-3, per_device_train_batch_size=16, **more)


@pytest.fixture(scope="module")
def base() -> DPBase:
    return dp_train(facts.fresh(), ROWS, 1.0, steps=5, **SETTINGS)


# Gradients per record


@pytest.mark.parametrize("kind", ["llama", "llama_tied", "gpt2", "lora"])
def test_gradients_per_record_are_those_of_autograd(kind: str) -> None:
    model = small(kind).double().train()
    records = [[ROWS[0], ROWS[4]], [ROWS[2]], [ROWS[5], ROWS[1], ROWS[7]]]
    expected = []
    for record in records:
        losses = [row_losses(model, PartCollator()([row]))[0] for row in record]  # each alone: no padding
        trained = [p for p in model.parameters() if p.requires_grad]
        expected.append(torch.autograd.grad(sum(losses) / len(losses), trained))
    hooks = add_hooks(model)
    record_gradients(model, records, PartCollator())
    for p, rows in zip(trained, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(p.grad_sample, torch.stack(rows), rtol=1e-5, atol=1e-7)
    hooks.cleanup()
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_row_losses_are_means_over_labelled_tokens() -> None:
    model, rows = small(), [ROWS[0], ROWS[2], {**ROWS[1], "labels": [-100] * len(ROWS[1]["labels"])}]
    found = row_losses(model, PartCollator(padding_side="left")(rows))
    for row, value in zip(rows[:2], found, strict=False):
        batch = {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}
        assert value.item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    assert found[2].item() == 0


def test_no_record_moves_the_sum_further_than_the_clipping_norm() -> None:
    model = small().train()
    hooks = add_hooks(model)
    private = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=0.01, expected_batch_size=1.0
    )
    sums = []
    for records in ([[row] for row in ROWS[:4]], [[row] for row in ROWS[:5]]):
        record_gradients(model, records, PartCollator())
        private.clip_and_accumulate()
        sums.append(torch.cat([p.summed_grad.flatten() for p in model.parameters()]))
        private.zero_grad()
        for p in model.parameters():
            p.summed_grad = None
    hooks.cleanup()
    assert float((sums[1] - sums[0]).norm()) == pytest.approx(0.01, rel=1e-3)


# Training


def test_spent_epsilon_stays_within_the_budget_and_the_card_says_how(base: DPBase) -> None:
    from opacus.accountants import RDPAccountant

    card = base.card
    assert 0.9 < card.epsilon <= card.target_epsilon == 1.0
    accountant = RDPAccountant()
    accountant.history = [(card.noise_multiplier, 16 / 60, 5)]
    assert card.epsilon == pytest.approx(accountant.get_epsilon(1e-3))
    accountant.history = [(card.noise_multiplier, 16 / 60, 10)]  # twice the steps are not paid for
    assert accountant.get_epsilon(1e-3) > 1.0
    assert (card.num_records, card.steps, card.largest_record, card.record) == (60, 5, 1, "row")


def test_steps_do_not_depend_on_how_a_batch_is_split_and_leave_the_model_alone(base: DPBase) -> None:
    model = facts.fresh()
    before, random = weights_hash(model), torch.get_rng_state()
    split = dp_train(model, ROWS, 1.0, steps=5, **SETTINGS | {"physical_batch_size": 5})
    assert weights_hash(model) == before == split.card.start_hash
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(state(split.model), state(base.model), rtol=1e-3, atol=2e-4)
    assert not torch.equal(next(split.model.parameters()), next(model.parameters()))
    assert not any(hasattr(p, "grad_sample") or hasattr(p, "summed_grad") for p in base.model.parameters())


def test_an_empty_sample_takes_a_step_of_noise() -> None:
    model = small("lora")
    settings = SETTINGS | {"batch_size": 1e-3, "optimizer": torch.optim.SGD, "lr": 1.0}
    done = dp_train(model, ROWS, 1e3, steps=1, **settings)
    pairs = zip(model.named_parameters(), done.model.parameters(), strict=True)
    moved = {name: float((p - q).detach().norm()) for (name, p), q in pairs}
    assert all((value > 0) == ("lora" in name) for name, value in moved.items())


@pytest.mark.slow
def test_more_budget_teaches_the_base_more() -> None:
    rest = SETTINGS | {"batch_size": 32, "physical_batch_size": 64}
    bases = {epsilon: dp_train(facts.fresh(), ROWS, epsilon, steps=60, **rest) for epsilon in (0.15, 1, 50, 500)}
    losses = {epsilon: mean_nll(done.model, RETAIN, PartCollator()) for epsilon, done in bases.items()}
    assert losses[1] > losses[50] + 0.3
    assert losses[50] > losses[500] + 0.1
    # What a base of noise alone does no worse, the base has not learned.
    assert abs(losses[0.15] - losses[1]) < 0.5 * (losses[1] - losses[500])


def test_a_record_can_be_all_rows_of_a_person() -> None:
    done = dp_train(small("llama_tied"), PEOPLE, 1.0, record="person", steps=1, **SETTINGS | {"delta": 1e-2})
    assert (done.card.num_records, done.card.largest_record) == (20, 3)
    keep = [row for row in PEOPLE if row["person"] not in facts.FORGET]
    request = unlearn_from_base(done, keep, training(1)).card["request"]
    assert request["records"] == 4
    assert request["epsilon"] == pytest.approx(4 * done.card.epsilon)
    # Half a record is one less and another one more.
    assert unlearn_from_base(done, PEOPLE[1:], training(1)).card["request"]["records"] == 2


def test_records_are_told_apart_by_value_not_by_object() -> None:
    plain, names = ledger_of(PEOPLE, "person"), ("input_ids", "labels", "person")
    tensors = [row | {name: torch.tensor(row[name]) for name in names} for row in PEOPLE]
    assert units(tensors, "person") == units(PEOPLE, "person")
    assert len(units(tensors, "person")) == 20
    assert ledger_of(tensors, "person") == plain
    assert ledger_of([row | {"person": np.int64(row["person"])} for row in PEOPLE], "person") == plain
    arrow = datasets.Dataset.from_list([{"input_ids": [1, 2], "person": i // 3} for i in range(6)]).with_format("torch")
    assert units(arrow, "person") == [[0, 1, 2], [3, 4, 5]]
    for bad in (torch.tensor(math.nan), math.nan, 1.5, torch.tensor([1, 2]), None, [1], object()):
        with pytest.raises(InvalidInputError, match="names the record"):
            units([{**ROWS[0], "person": bad}], "person")


def test_forgotten_rows_leave_no_copy_behind() -> None:
    twice = [*ROWS[:4], ROWS[0], ROWS[0]]
    all_rows, one_left = (ledger_of(rows, "row") for rows in (twice, twice[:-2]))
    with pytest.raises(InvalidRequestError, match="2 forgotten rows"):
        records_changed(all_rows, one_left, "row")
    assert records_changed(all_rows, ledger_of(ROWS[1:4], "row"), "row") == 3
    # Two people with a row in common: forgetting one of them leaves it with the other.
    people = [{**ROWS[i], "person": name} for i, name in ((0, "ada"), (1, "ada"), (0, "bob"), (2, "bob"))]
    ledger = ledger_of(people, "person")
    with pytest.raises(InvalidRequestError, match="1 forgotten rows"):
        records_changed(ledger, ledger_of(people[2:], "person"), "person")
    assert records_changed(ledger, ledger_of([people[1], people[3]], "person"), "person") == 4


# The card


def test_groups_add_up_epsilon_and_grow_delta(base: DPBase) -> None:
    epsilon, delta = base.card.epsilon, base.card.delta
    assert base.card.group(0) == (0, 0)
    assert base.card.group(1) == (epsilon, pytest.approx(delta))
    assert base.card.group(3) == pytest.approx((3 * epsilon, delta * sum(math.exp(i * epsilon) for i in range(3))))
    assert base.card.group(400) == (400 * epsilon, 1.0)
    for number in (3, 50, 10**4):  # the most that leave a delta below 1, of so many records
        sums = (delta * sum(math.exp(i * epsilon) for i in range(size)) for size in range(1, min(number, 200) + 1))
        assert dataclasses.replace(base.card, num_records=number).covered == sum(total < 1 for total in sums)
    assert base.card.group(10**6)[1] == 1.0
    with pytest.raises(InvalidInputError, match="an integer >="):
        base.card.group(-1)


def test_base_card_and_ledger_survive_saving(base: DPBase, tmp_path) -> None:
    base.save(tmp_path)
    again = DPBase.load(tmp_path, facts.fresh(seed=3))
    assert (again.card, again.ledger) == (base.card, base.ledger)
    assert weights_hash(again.model) == base.card.weights_hash
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["epsilon"] == base.card.epsilon
    assert card["would_be_voided_by"]
    assert not any(prints in json.dumps(card) for prints in base.ledger)
    (tmp_path / "ledger.json").unlink()
    with pytest.raises(InvalidInputError, match="ledger"):
        unlearn_from_base(DPBase.load(tmp_path, facts.fresh()), RETAIN)
    finetune_me = DPBase(facts.fresh(), base.card)
    finetune_me.save(tmp_path)
    with pytest.raises(CheckpointError, match="card"):
        DPBase.load(tmp_path, facts.fresh())
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(CheckpointError, match="epsilon"):
        DPCard.load(tmp_path / "card.json")


def test_a_save_without_space_leaves_the_earlier_base(base: DPBase, tmp_path, monkeypatch) -> None:
    folder, new = tmp_path / "base", DPBase(facts.fresh(seed=5), base.card, {"other": ["row"]})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(DPCard, "save", full)
        with pytest.raises(OSError, match="No space"):
            base.save(folder)
    assert not folder.exists()
    base.save(folder)
    with monkeypatch.context() as patch:
        patch.setattr(DPCard, "save", full)
        with pytest.raises(OSError, match="No space"):
            new.save(folder)
    again = DPBase.load(folder, facts.fresh())
    assert (again.card, again.ledger) == (base.card, base.ledger)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_base_saved_over_another_keeps_none_of_its_files(base: DPBase, tmp_path, monkeypatch) -> None:
    base.save(tmp_path / "base")
    DPBase(base.model, base.card).save(tmp_path / "base")  # without a ledger
    assert DPBase.load(tmp_path / "base", facts.fresh()).ledger is None
    base.save(tmp_path / "base")
    move = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == "ledger.json" and Path(target).parent == tmp_path / "base":
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            base.save(tmp_path / "base")
    with pytest.raises(CheckpointError, match=r"card\.json \(got none in base\)"):
        DPBase.load(tmp_path / "base", facts.fresh())


def test_a_group_that_shares_the_folder_cannot_read_the_ledger(base: DPBase, tmp_path) -> None:
    before = os.umask(0o002)
    try:
        base.save(tmp_path / "base")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o070 for path in (tmp_path / "base").iterdir()}
    assert modes == {"card.json": 0o060, "ledger.json": 0, "model.safetensors": 0o060}


def test_a_card_of_an_earlier_release_is_verified_by_its_own_hash(base: DPBase, tmp_path) -> None:
    base.save(tmp_path)
    digest = hashlib.sha256()  # written out here as release 0.1 had it
    for name, value in sorted(base.model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    card = json.loads((tmp_path / "card.json").read_text())
    now = card.pop("weights_hash"), card.pop("start_hash")
    assert digest.hexdigest() not in now
    card |= {"weights_sha256": digest.hexdigest(), "start_sha256": "0" * 64}
    (tmp_path / "card.json").write_text(json.dumps(card))
    again = DPBase.load(tmp_path, facts.fresh(seed=3))
    assert again.card.weights_hash == base.card.weights_hash
    (tmp_path / "card.json").write_text(json.dumps(card | {"weights_sha256": "1" * 64}))
    with pytest.raises(CheckpointError, match=r"weights of the card \(written by release 0\.1\)"):
        DPBase.load(tmp_path, facts.fresh())


def test_a_known_seed_and_private_choices_void_the_guarantee(base: DPBase) -> None:
    assert len(base.card.voided_by) == 1
    assert "seed" in base.card.voided_by[0]
    settings = SETTINGS | {"seed": None, "chosen_on_private_data": ("tokenizer",)}
    with pytest.raises(InvalidInputError, match="acknowledge"):
        dp_train(small("lora"), ROWS, 1.0, steps=1, **settings)
    done = dp_train(small("lora"), ROWS, 1.0, steps=1, acknowledge=True, **settings)
    assert len(done.card.voided_by) == 1
    assert "tokenizer" in done.card.voided_by[0]
    assert not unlearn_from_base(done, ROWS[1:], training(1)).card["private"]
    clean = dataclasses.replace(done, card=dataclasses.replace(done.card, chosen_on_private_data=()))
    assert unlearn_from_base(clean, ROWS[1:], training(1)).card["private"]


def test_a_request_beyond_what_the_budget_speaks_of_is_not_called_private(base: DPBase) -> None:
    # As in TOFU, a fifth of the rows: at delta 1e-3 twelve rows of epsilon 1 have a delta of 1.
    card = dataclasses.replace(base.card, seeded=False)
    assert card.voided_by == ()
    with pytest.warns(UserWarning, match="12 records"):
        many = unlearn_from_base(dataclasses.replace(base, card=card), RETAIN, training(1)).card
    assert many["request"]["says_nothing"]
    assert many["request"]["delta"] == 1 == card.group(12)[1]
    assert not many["private"]
    few = unlearn_from_base(dataclasses.replace(base, card=card), ROWS[2:], training(1)).card
    assert few["private"]
    assert few["request"]["delta"] < 1


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": math.inf}, "epsilon"),
        ({"delta": 1 / 60}, "below 1 / 60"),
        ({"delta": 0.0}, "delta"),
        ({"steps": None}, "either"),
        ({"epochs": 1.0}, "either"),
        ({"accountant": "gdp"}, "accountant"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"record": "author"}, "author"),
        ({"rows": []}, "none"),
        ({"chosen_on_private_data": ("weather",), "acknowledge": True}, "weather"),
        ({"model": small().requires_grad_(False)}, "trainable"),
        ({"model": with_layer(torch.nn.BatchNorm1d(4))}, "batch normalisation"),  # records mix
        ({"model": with_layer(torch.nn.Linear(2, 2))}, "extra"),  # which is never called
    ],
)
def test_what_promises_nothing_is_refused(change: dict, message: str) -> None:
    settings = {"model": small(), "rows": ROWS, "epsilon": 1.0, "steps": 1} | SETTINGS | change
    with pytest.raises((InvalidInputError, UnsupportedModelError), match=message):
        dp_train(**settings)


@pytest.mark.filterwarnings("ignore:Expected a request that the base's budget covers")
def test_the_second_phase_refuses_other_starts_and_other_rows(base: DPBase) -> None:
    deployed = finetune(base, ROWS, training(1))
    assert not deployed.card["private"]
    with pytest.raises(InvalidInputError, match="deployed"):
        unlearn_from_base(dataclasses.replace(base, model=deployed.model), RETAIN, training(1))
    with pytest.raises(InvalidRequestError, match="6 that are not"):
        unlearn_from_base(base, RETAIN + facts.rows(facts.UNSEEN, (0,))[:6], training(1))
    with pytest.raises(InvalidRequestError, match="1 that are not"):
        unlearn_from_base(base, [*RETAIN, RETAIN[0]], training(1))  # once in the training rows, twice here
    with pytest.raises(EmptyForgetSetError):
        unlearn_from_base(base, ROWS[::-1], training(1))


def test_mixed_precision_leaves_nothing_on_the_model(base: DPBase) -> None:
    assert own_forward(finetune(base, ROWS, training(1, bf16=True)).model)


# What it is for


@pytest.mark.filterwarnings("ignore:Expected a request that the base's budget covers")
def test_unlearned_models_know_no_more_than_chance_where_deployed_ones_know_again(base: DPBase) -> None:
    before = weights_hash(base.model)
    unlearned, deployed = unlearn_from_base(base, RETAIN, training(50)), finetune(base, ROWS, training(50))
    assert weights_hash(base.model) == before
    assert unlearned.card["request"]["records"] == 12
    known = facts.value_prob(unlearned.model, FORGET)
    assert known < facts.CHANCE
    assert facts.value_prob(unlearned.model, RETAIN) > 2 * known  # it has learned who stays
    assert facts.value_prob(deployed.model, FORGET) > 2 * known
    # Control: the same second phase from a model that was trained on all rows without privacy.
    full = facts.full()
    card = dataclasses.replace(base.card, weights_hash=weights_hash(full))
    leaking = unlearn_from_base(DPBase(full, card, base.ledger), RETAIN, training(50))
    assert facts.value_prob(leaking.model, FORGET) > 5 * known
