"""Methods written for any task unlearn token sequences, or say why they do not."""

import functools
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.llm import CausalLM, PartCollator
from gunlearn.llm.model.token_prediction import rows as rows_at
from gunlearn.methods.for_task import find_method, names_for
from gunlearn.tasks import as_task
from tests.llm import facts
from tests.llm.training import FORGET, RETAIN, adapted

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*no measurable effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*no loss of:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Expected other rows:UserWarning"),
]

TASK = CausalLM(batch_size=24)


@functools.cache
def problem() -> tuple[nn.Module, Data]:
    batch = PartCollator()([*FORGET, *RETAIN])
    return facts.full(), Data(x=batch["input_ids"], y=batch["labels"], attention_mask=batch["attention_mask"])


def unlearn(method: str, task: Any = TASK, **options: Any) -> gu.Result:
    model, data = problem()
    return gu.unlearn(model, data, gu.ForgetItems(torch.arange(len(FORGET))), method, task, **options)


@functools.cache
def kept_after_ascent() -> float:
    """The control: how much of the rest is still known where nothing holds it."""
    return facts.accuracy(unlearn("gradient_ascent", epochs=8, lr=1e-3).model, RETAIN)


@pytest.mark.filterwarnings("ignore:no loss of .* reads the rows to retain")
@pytest.mark.parametrize(
    ("method", "options"),
    [("gradient_ascent", {}), ("graddiff", {}), ("npo", {"beta": 0.1}), ("scrub", {"max_epochs": 1, "min_steps": 3})],
)
def test_sequences_are_unlearned(method: str, options: dict[str, Any]) -> None:
    model, data = problem()
    before = [p.clone() for p in model.parameters()], data.x.clone(), data.y.clone()
    options = {"lr": 1e-3, **options}
    result = unlearn(method, epochs=8, **options)
    assert facts.value_prob(model, FORGET) > 0.7
    assert facts.value_prob(result.model, FORGET) < 0.4
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before[0], strict=True))
    assert torch.equal(data.x, before[1])
    assert torch.equal(data.y, before[2])
    assert "forward" not in model.lm_head.__dict__
    if method == "graddiff":  # a retain term pays
        assert facts.accuracy(result.model, RETAIN) > kept_after_ascent()
    # Control: no steps, no change; a Trainer refuses to be run for nothing.
    if method == "scrub":
        still = unlearn(method, epochs=0, **options).model
        assert facts.value_prob(still, FORGET) == facts.value_prob(model, FORGET)
    else:
        with pytest.raises(InvalidInputError, match="at least one step"):
            unlearn(method, epochs=0, **options)


def test_going_on_with_the_retained_rows() -> None:
    model = unlearn("finetune", epochs=4).model
    assert facts.accuracy(model, RETAIN) == 1.0
    assert not torch.equal(model.lm_head.weight, problem()[0].lm_head.weight)


@pytest.mark.filterwarnings("ignore:no measurable effect")
def test_fewer_fields_are_enough() -> None:
    request, data = gu.ForgetItems(torch.arange(len(FORGET))), problem()[1]
    one, other = (
        gu.unlearn(facts.full().double(), data, request, "npo", task, epochs=1).model
        for task in ("causal_lm", CausalLM(("log_prob",)))
    )
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["random_label", "salun", "scrub_r"])
def test_labels_per_item_are_refused_and_not_offered(name: str) -> None:
    """Control: on one label per item the same methods are offered."""
    with pytest.raises(UnsupportedMethodError, match="labels per token"):
        unlearn(name, epochs=1)
    with pytest.raises(UnsupportedMethodError, match="one label of each item"):
        find_method(name, CausalLM())
    assert name not in names_for(CausalLM())
    assert name in names_for(as_task("node_classification"))


def test_a_method_that_looks_for_words_asks_for_the_tokenizer() -> None:
    with pytest.raises(InvalidInputError, match="tokenizer for 'obliviate'"):
        unlearn("obliviate", epochs=1)


def test_a_retrained_model_starts_from_new_weights() -> None:
    model = unlearn("retrain", epochs=0).model
    for (name, new), old in zip(model.named_parameters(), problem()[0].parameters(), strict=True):
        assert bool((new == 1).all()) if "norm" in name else not torch.equal(new, old)
    assert facts.accuracy(unlearn("retrain", epochs=30, lr=3e-3).model, RETAIN) > 2 * facts.CHANCE


@pytest.mark.filterwarnings("ignore:no loss of .* reads the rows to retain")
def test_a_bad_teacher_of_new_weights() -> None:
    model = unlearn("bad_teacher", epochs=8).model
    assert facts.value_prob(model, FORGET) < 0.4
    assert facts.accuracy(model, RETAIN) > kept_after_ascent()


def test_weights_that_matter_to_the_forgotten_shrink() -> None:
    """The share of forgotten sequences is that of the request, not of a batch, where both are as many."""
    result = unlearn("ssd", alpha=4.0, probes=4)  # a share of one half would refuse an alpha above 2
    assert 0 < result.notes["dampened"] < 0.5
    assert facts.value_prob(result.model, FORGET) < facts.value_prob(problem()[0], FORGET)


def test_sequences_weighted_by_influence() -> None:
    result = unlearn("imu", epochs=4, lr=1e-2, probes=2)
    changed = [n for (n, a), b in zip(result.model.named_parameters(), problem()[0].parameters(), strict=True)
               if not torch.equal(a, b)]  # fmt: skip
    assert changed == ["lm_head.weight"]
    assert facts.value_prob(result.model, FORGET) < facts.value_prob(problem()[0], FORGET)


@pytest.mark.parametrize("method", ["graddiff", "scrub"])  # a Trainer's and the loop's
def test_weights_beside_the_salient_ones_stay_bit_by_bit(method: str) -> None:
    model, data = problem()
    rows = rows_at(data, torch.arange(len(FORGET)))
    loss = -CausalLM(("log_prob",)).decode(model, None, rows).log_prob.sum()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    size = torch.cat([g.abs().flatten() for g in grads])
    least = size.sort(descending=True).values[size.numel() // 4 - 1]
    options = {"epochs": 2, "lr": 1e-3, "optimizer": "adamw", "weight_decay": 0.1}
    result = unlearn(method, saliency=0.25, **options)
    pairs = zip(result.model.parameters(), model.parameters(), grads, strict=True)
    # Sums of batches and of all rows round otherwise: entries near the threshold may be on either side.
    moved = [(a != b, g.abs()) for a, b, g in pairs]
    assert not any(change[size < 0.999 * least].any() for change, size in moved)
    assert torch.cat([change[size > 1.001 * least] for change, size in moved]).float().mean() > 0.9
    assert result.notes["salient"] == pytest.approx(0.25, abs=1e-3)
    free = unlearn(method, **options)  # control
    assert all((a != b).float().mean() > 0.5 for a, b in zip(free.model.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("method", ["graddiff", "scrub"])  # a Trainer's and the loop's
def test_a_mask_of_a_new_adapter_is_refused_and_of_a_trained_one_not(method: str) -> None:
    """While B is zero, A has no gradient: the mask held it for good. The control: both learn in a trained adapter."""

    def masked(model: nn.Module) -> nn.Module:
        forget = gu.ForgetItems(torch.arange(len(FORGET)))
        return gu.unlearn(model, problem()[1], forget, method, TASK, saliency=0.5, epochs=1, lr=1e-3).model

    def half(model: nn.Module, name: str) -> list[torch.Tensor]:
        return [p for n, p in model.named_parameters() if name in n]

    new = get_peft_model(facts.full(), LoraConfig(target_modules=["q_proj", "v_proj"], r=4))
    with pytest.raises(UnsupportedMethodError, match=r"'saliency' \(got none for .*lora_A"):
        masked(new)
    for b in half(new, "lora_B"):
        torch.nn.init.normal_(b, std=0.05)
    result = masked(new)
    for name in ("lora_A", "lora_B"):
        pairs = zip(half(result, name), half(new, name), strict=True)
        assert any((a != b).any() for a, b in pairs)


def test_models_without_a_way_to_new_weights_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="'reset_parameters'"):
        gu.unlearn(adapted(), problem()[1], gu.ForgetItems([0]), "retrain", TASK, epochs=1)


@pytest.mark.parametrize("method", ["cognac", "gnndelete", "inpo", "megu"])
def test_methods_of_graphs_are_refused(method: str) -> None:
    with pytest.raises(UnsupportedMethodError, match="'causal_lm'"):
        unlearn(method)


def test_requests_of_graphs_are_refused() -> None:
    model, data = problem()
    with pytest.raises(gu.errors.GunlearnError):
        gu.unlearn(model, data, gu.ForgetEdges(count=1), "npo", TASK)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"accumulate": True, "batch_size": 2}, "'accumulate'"),
        ({"eval_every": 2}, "'eval_every'"),
        ({"retain_samples": 2}, "'retain_samples'"),
        ({"checkpoint_dir": "somewhere"}, "save_strategy='steps' and output_dir"),
    ],
)
def test_options_that_the_trainer_does_not_read_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises((InvalidInputError, UnsupportedMethodError), match=words):
        unlearn("graddiff", epochs=1, **options)


@pytest.mark.parametrize("method", ["gradient_ascent", "finetune"])
def test_rows_are_data_too(method: str) -> None:
    rows, request, how = [*FORGET[:4], *RETAIN[:4]], gu.ForgetItems([0, 1]), {"epochs": 1, "seed": 3}
    items = PartCollator().pad(rows, marked=False)
    data = Data(x=items["input_ids"], y=items["labels"], attention_mask=items["attention_mask"])
    of_rows, of_data = (gu.unlearn(facts.full(), d, request, method, TASK, **how) for d in (rows, data))
    assert of_rows.request_hash == of_data.request_hash
    for a, b in zip(of_rows.model.parameters(), of_data.model.parameters(), strict=True):
        assert torch.equal(a, b)
    kept = of_rows.data
    assert [(r["input_ids"], r["labels"]) for r in kept] == [(r["input_ids"], r["labels"]) for r in rows[2:]]


@pytest.mark.parametrize(
    ("data", "error"), [("rows.jsonl", InvalidTypeError), ({"a": 1}, InvalidTypeError), ([], InvalidInputError),
                        ([1, 2], InvalidInputError), ([{"question": "who?"}], InvalidInputError)]
)  # fmt: skip
def test_what_are_no_rows_is_refused(data: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"rows (of|with)"):
        gu.unlearn(facts.full(), data, gu.ForgetItems([0]), "gradient_ascent", TASK)


def test_influences_of_a_share_of_the_forgotten_texts_are_not_given_to_others() -> None:
    rows, request = facts.rows(range(4)), gu.ForgetItems(index=[0, 1, 2])
    for task, size in ((CausalLM(), None), (CausalLM(), 2), (CausalLM(batch_size=3), None)):  # control: all are read
        gu.unlearn(facts.fresh(), rows, request, "imu", task, steps=1, batch_size=size)
    for size in (None, 2):
        with pytest.raises(InvalidInputError, match=r"all 3 forgotten items for their influence .*got one .* 2 at a"):
            gu.unlearn(facts.fresh(), rows, request, "imu", CausalLM(batch_size=2), steps=1, batch_size=size)
