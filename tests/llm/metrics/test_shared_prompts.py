"""Several answers behind one prompt, against each answer behind its own."""

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from gunlearn.llm.metrics import answer_log_probs
from gunlearn.llm.metrics import shared_prompts as shared
from tests.llm.tiny import ARCHITECTURES, GROUPED, SIZES, tiny


def group(prompt, *answers):
    return [{"input_ids": prompt + a, "labels": [-100] * len(prompt) + a} for a in answers]


GROUPS = [
    group([1, 5, 6], [7, 8, 2], [9, 2], [10, 11, 12, 2]),
    group([1, 20, 21, 22, 23], [24, 2], [25, 26, 2]),
    [*group([1, 5], [7, 2]), *group([1, 6], [7, 2])],  # prompts that differ
]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_means_are_those_of_each_answer_by_itself(kind):
    model = tiny(kind)
    expected, found = answer_log_probs(model, GROUPS), shared.grouped_log_probs(model, GROUPS, 4)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    assert not torch.allclose(expected[0][0], expected[0][1], atol=1e-3)  # control: answers differ


def test_prompts_are_read_once(monkeypatch):
    """The control: one by one, each answer brings its prompt along."""
    model, read, forward = tiny("llama"), [], type(tiny("llama")).forward

    def counted(self, input_ids, **more):
        read.append(input_ids.numel())
        return forward(self, input_ids, **more)

    groups = [group([1, *range(5, 15)], *([i, i + 1, 2] for i in range(20, 24)))] * 3
    shared.grouped_log_probs(model, groups)
    monkeypatch.setattr(type(model), "forward", counted)
    shared.grouped_log_probs(model, groups[1:])
    few, read[:] = sum(read), []
    answer_log_probs(model, groups[1:])
    assert few == 2 * (11 + 4 * 3)
    assert sum(read) == 2 * 4 * 14


def test_nan_is_refused():
    model = tiny("llama", 1)
    shared.grouped_log_probs(model, GROUPS)
    with torch.no_grad():
        model.lm_head.weight[7] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        shared.grouped_log_probs(model, GROUPS)


def windowed(window):
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SIZES | GROUPED, sliding_window=window)).eval()


def test_windows_of_attention_stay():
    """The short question comes first, which no window cuts; the control: without a window the long one differs."""
    long = [1, 20, 5, 22, 9, 24, 31, 7, 40, 12]
    groups = [group([1, 5], [7, 2], [8, 2]), group(long, [11, 12, 2], [13, 2])]
    model, whole = windowed(6), windowed(64)
    with torch.no_grad():
        for one in (model, whole):
            for name, weight in one.named_parameters():
                if "attn" in name and "weight" in name:
                    weight.mul_(20)
    expected, found = answer_log_probs(model, groups), shared.grouped_log_probs(model, groups)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    assert not torch.allclose(expected[1], answer_log_probs(whole, groups)[1], atol=1e-3)


def test_a_window_that_all_answers_fit_into_keeps_the_shared_path(monkeypatch):
    model, packed, pack = windowed(20), [], shared._packed
    monkeypatch.setattr(shared, "_packed", lambda rows: packed.append(rows) or pack(rows))
    expected, found = answer_log_probs(model, GROUPS[1:2]), shared.grouped_log_probs(model, GROUPS[1:2])
    torch.testing.assert_close(expected[0], found[0], atol=2e-5, rtol=1e-5)
    assert packed
