"""Models in few bits or offloaded: what is left out, and whose weights they are."""

from dataclasses import replace

import pytest
import torch
from accelerate import cpu_offload
from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics import evaluate_one
from gunlearn.llm.metrics.row_digests import weights_digest
from gunlearn.llm.metrics.weight_storage import measurable
from tests.llm import facts
from tests.llm.metrics.small_models import SETS, SETTINGS

ASKED = replace(SETTINGS, attacks=("loss", "gradient"), quantise=("int8",), relearn_steps=2)


def test_what_few_bits_do_not_allow_is_left_out():
    """The control: of plain weights everything is measured."""
    model = facts.fresh()
    assert measurable(model, ASKED) == (ASKED, {})
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)  # as Int8Params
    settings, why = measurable(model, ASKED)
    assert (settings.attacks, settings.quantise, settings.relearn_steps) == (("loss",), (), 0)
    assert set(why) == {"int8", "relearn", "mia_gradient"}
    assert "few bits" in why["int8"]


def test_offloaded_models_are_measured_without_them_and_told_apart():
    """The control: another model's weights have another digest."""
    one, two = facts.fresh(1), facts.fresh(2)
    digests = [weights_digest(one), weights_digest(two)]
    cpu_offload(one, torch.device("cpu"))
    cpu_offload(two, torch.device("cpu"))
    assert next(one.parameters()).is_meta
    assert digests[0] != digests[1]
    assert [weights_digest(one), weights_digest(two)] == digests
    assert next(one.parameters()).is_meta
    assert "offloaded" in measurable(one, ASKED)[1]["relearn"]
    with pytest.raises(InvalidInputError, match="on the device meta"):
        weights_digest(facts.fresh().to("meta"))


def test_a_log_says_what_is_left_out_and_survives_another_name(tmp_path):
    """The control: a log of other weights is refused."""
    model, out = facts.fresh(), tmp_path / "log.json"
    model.is_quantized = True
    few = replace(ASKED, generate=False, align_on=())
    log = evaluate_one(model, facts.tokenizer(), SETS, few, out=out, name="old")
    assert {"int8", "relearn", "mia_gradient"} <= log.left_out.keys()
    assert not {"forget_prob_int8", "relearn_prob", "mia_gradient"} & log.figures.keys()
    assert evaluate_one(model, facts.tokenizer(), SETS, few, out=out, name="new").figures == log.figures
    with pytest.raises(InvalidInputError, match="of another evaluation"):
        evaluate_one(facts.fresh(1), facts.tokenizer(), SETS, few, out=out)
