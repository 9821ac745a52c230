"""What the task reads of a model: masks, padding, splits, precision, and both ways to the same numbers."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.llm import CausalLM, PartCollator
from gunlearn.llm.data.text_items import answer_tokens
from gunlearn.llm.model.token_prediction import model_inputs, token_loss
from gunlearn.llm.training.views import answer_mask
from gunlearn.losses import NLL, NPO, UNDIAL, CrossEntropyUnlearning, FlatLogits, KLToReference, Loss, Prediction
from tests.llm import facts

WAYS = [("log_prob",), ("log_prob", "logits", "label")]


def batch() -> dict[str, Tensor]:
    return PartCollator()(facts.rows(range(2)))


def predict(model: nn.Module, given: dict[str, Tensor], reads: tuple[str, ...] = WAYS[0]) -> Prediction:
    return CausalLM(reads).decode(model, None, given)


@pytest.mark.parametrize("reads", WAYS)
def test_a_first_token_is_predicted_from_nothing_on_either_side(reads: tuple[str, ...]) -> None:
    rows = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in facts.rows(range(2))]
    sides = [PartCollator(padding_side=side)(rows) for side in ("right", "left")]
    right, left = (predict(facts.full(), given, reads) for given in sides)
    assert left.mask.sum() == right.mask.sum() == sum(len(row["input_ids"]) - 1 for row in rows)
    torch.testing.assert_close(left.log_prob[left.mask], right.log_prob[right.mask], rtol=0, atol=1e-5)
    torch.testing.assert_close(NLL()(left), NLL()(right), rtol=1e-5, atol=0)
    for given, p in zip(sides, (right, left), strict=True):
        assert torch.equal(answer_mask(given), p.mask)
        assert torch.equal(answer_tokens(given), p.mask)
    # Control: labels alone would count the first tokens of the padded rows.
    assert (sides[1]["labels"][:, 1:] != -100).sum() > left.mask.sum()


class Shifted(nn.Module):
    """Adds a tensor to a model's logits, to ask for gradients there."""

    def __init__(self, model: nn.Module, shift: Tensor) -> None:
        super().__init__()
        self.inner, self.shift = model, shift

    def forward(self, **inputs: Tensor) -> object:
        out = self.inner(**inputs)
        out.logits = out.logits + self.shift
        return out


LOSSES = [
    NLL(),
    UNDIAL(),  # elsewhere a label of -100 is taken as an index, so that a token is lowered on prompt and padding
    KLToReference(),  # elsewhere a sum over all places, padding too
    FlatLogits(),  # elsewhere read from the place after the one that predicts
    CrossEntropyUnlearning(skip_first=1),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_prompt_and_padding_get_exactly_no_gradient(loss: Loss) -> None:
    model, given = facts.full(), batch()
    shift = torch.zeros(*given["input_ids"].shape, len(facts.VOCABULARY), requires_grad=True)
    before = predict(facts.retrained(0), given, WAYS[1])

    def touched(given: dict[str, Tensor]) -> Tensor:
        value = loss(predict(Shifted(model, shift), given, WAYS[1]), before.replace(mask=None))
        return torch.autograd.grad(value, shift)[0].abs().sum(-1) > 0

    answers = given["labels"][:, 1:] != -100
    assert torch.equal(touched(given)[:, :-1], loss.keep(answers))
    assert not touched(given)[:, -1].any()
    # Control: labels without the mask of the prompt are seen.
    assert touched({**given, "labels": given["input_ids"]}).sum() > answers.sum()


def test_hidden_states_behind_the_answer_get_exactly_no_gradient() -> None:
    model, given, seen = facts.full(), batch(), []
    predict(model, given)  # the head has been tried
    handle = model.model.norm.register_forward_hook(lambda _, __, out: seen.append(out))
    touched = torch.autograd.grad(NLL()(predict(model, given)), seen)[0].abs().sum(-1) > 0
    handle.remove()
    assert torch.equal(touched[:, :-1], given["labels"][:, 1:] != -100)
    assert not touched[:, -1].any()


@pytest.mark.parametrize("reads", WAYS)
def test_rows_without_labels_do_no_harm(reads: tuple[str, ...]) -> None:
    model, given = facts.full(), batch()
    expected = NLL()(predict(model, given, reads))
    empty = {name: torch.cat((value, value[:1])) for name, value in given.items()}
    empty["labels"][-1] = -100
    torch.testing.assert_close(NLL()(predict(model, empty, reads)), expected)
    nothing = {**given, "labels": torch.full_like(given["labels"], -100)}
    for loss in (NLL(), NPO()):
        p = predict(model, nothing, reads)
        value = loss(p, p)
        gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
        assert value.item() == 0
        assert all(g is None or not g.any() for g in gradients)


@pytest.mark.parametrize("reads", WAYS)
def test_bfloat16_is_finite_and_read_in_float32(reads: tuple[str, ...]) -> None:
    model, given = facts.full().bfloat16(), batch()
    p = predict(model, given, reads)
    NPO()(p, p).backward()
    assert p.log_prob.dtype == torch.float32
    assert all(x.grad.isfinite().all() for x in model.parameters())
    exact = predict(facts.full(), given, reads).log_prob
    assert (p.log_prob - exact).abs().max() < 0.3


def test_rows_go_where_the_model_is() -> None:
    """A model elsewhere (`meta` stands for a GPU) reads rows from the CPU; as they come they cannot be multiplied."""
    rows = PartCollator(padding_side="left")([{"input_ids": [1] * n, "labels": [1] * n} for n in (3, 5)])
    elsewhere = copy.deepcopy(facts.full()).to("meta")
    inputs, label = model_inputs(elsewhere, rows)
    assert {value.device.type for value in (*inputs.values(), label)} == {"meta"}
    assert set(inputs) == {"input_ids", "attention_mask", "position_ids"}
    assert elsewhere.model.embed_tokens(inputs["input_ids"]).device.type == "meta"
    assert {value.device.type for value in rows.values()} == {"cpu"}


def test_offloaded_weights_are_read_where_they_run() -> None:
    """Control: the first parameter of such a model is on `meta`, where rows would lose their values."""
    rows = PartCollator()([{"input_ids": list(range(n)), "labels": list(range(n))} for n in (3, 5)])
    expected = token_loss(facts.full(), rows)
    offloaded = cpu_offload(copy.deepcopy(facts.full()), execution_device=torch.device("cpu"))
    assert next(offloaded.parameters()).is_meta
    assert float(token_loss(offloaded, rows)) == pytest.approx(float(expected), rel=1e-6)


def test_embeddings_of_a_layer() -> None:
    model, given = facts.full(), batch()
    states = model(given["input_ids"], given["attention_mask"], output_hidden_states=True).hidden_states
    for layer in (0, 1, -1):
        p = CausalLM(("log_prob", "embeddings"), layer).decode(model, None, given)
        torch.testing.assert_close(p.embeddings, states[layer][:, :-1])
        assert p.logits is None


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ([1], InvalidTypeError, "mapping of tensors"),
        ({"input_ids": torch.ones(1, 3, dtype=torch.long)}, InvalidInputError, "'labels'"),
        ({"input_ids": torch.ones(1, 1).long(), "labels": torch.ones(1, 1).long()}, InvalidInputError, "two tokens"),
        ({"input_ids": torch.ones(1, 3).long(), "labels": torch.ones(1, 2).long()}, InvalidInputError, "shape of"),
    ],
)
def test_bad_batches_and_models(given: object, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        CausalLM().decode(facts.full(), None, given)
    with pytest.raises(UnsupportedModelError, match="head over its vocabulary"):
        CausalLM().decode(facts.full().model, None, batch())
    with pytest.raises(InvalidInputError, match="'reads'"):
        CausalLM(("logit",))
