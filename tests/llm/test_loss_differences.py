"""Losses beside their formulas in open-unlearning (arXiv 2506.12618): where they agree, and where we differ on purpose.

The framework's formulas are written anew on whole logits. Each test holds our loss to the formula read at the labelled
predictions, and shows that read as the framework does it is another number, or reaches what it should not.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gunlearn.llm import CausalLM, PartCollator
from gunlearn.losses import (
    DPO,
    NPO,
    RMU,
    UNDIAL,
    WGA,
    CrossEntropyUnlearning,
    FlatLogits,
    KLToReference,
    Loss,
    Prediction,
    SatImp,
    SimNPO,
)
from gunlearn.losses.functional import control_vector
from tests.llm.tiny import tiny

VOCABULARY, IGNORED = 120, -100
LENGTHS = ((3, 4), (5, 2), (2, 7))  # prompt and answer of each row: batches are padded


def models() -> tuple[nn.Module, nn.Module]:
    """The model and the one before, with predictions far from uniform."""
    out = [tiny("llama", seed, vocab_size=VOCABULARY).double() for seed in (0, 1)]
    with torch.no_grad():
        for model in out:
            for name, parameter in model.named_parameters():
                parameter.mul_(1.0 if "norm" in name else 25.0)
    return out[0], out[1]


def batch(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, VOCABULARY, (sum(pair),), generator=draw).tolist() for pair in LENGTHS]
    rows = [{"input_ids": i, "labels": [IGNORED] * p + i[p:]} for i, (p, _) in zip(ids, LENGTHS, strict=True)]
    return PartCollator()(rows)


BATCH, OTHER = batch(), batch(1)
LABEL = BATCH["labels"][:, 1:]
MASK = LABEL != IGNORED
NOW, BEFORE = models()


@torch.no_grad()
def logits(model: nn.Module, items: dict[str, Tensor] = BATCH) -> Tensor:
    """All of them, `[batch, tokens, vocabulary]`."""
    return model(input_ids=items["input_ids"], attention_mask=items["attention_mask"]).logits


Z, Z0 = logits(NOW)[:, :-1], logits(BEFORE)[:, :-1]
OWN = -F.cross_entropy(Z.transpose(1, 2), LABEL, ignore_index=IGNORED, reduction="none")


def read(model: nn.Module, items: dict[str, Tensor] = BATCH, **task: int) -> Prediction:
    with torch.no_grad():
        return CausalLM(("log_prob", "logits", "label", "embeddings"), **task).decode(model, None, items)


def ours(loss: Loss, **task: int) -> float:
    return float(loss(read(NOW, **task), read(BEFORE, **task)))


def nll(model: nn.Module, items: dict[str, Tensor]) -> Tensor:
    """Sum of each row, `[batch]`."""
    z, y = logits(model, items)[:, :-1], items["labels"][:, 1:]
    return F.cross_entropy(z.transpose(1, 2), y, ignore_index=IGNORED, reduction="none").sum(1)


def test_losses_of_log_likelihoods_are_the_frameworks() -> None:
    rows, rows0, n, p = nll(NOW, BATCH), nll(BEFORE, BATCH), MASK.sum(1), OWN.exp()[MASK]
    found = {
        NPO(beta=0.1): -2 / 0.1 * F.logsigmoid(0.1 * (rows - rows0)).mean(),
        SimNPO(beta=4.5): -2 / 4.5 * F.logsigmoid(4.5 * rows / n).mean(),
        WGA(beta=1.0): (p * OWN[MASK]).mean(),
        SatImp(beta1=5.0, beta2=1.0): (p**5 * (1 - p) * OWN[MASK]).mean(),
    }
    for loss, expected in found.items():
        assert ours(loss) == pytest.approx(float(expected), rel=1e-9), loss
    other, other0 = nll(NOW, OTHER), nll(BEFORE, OTHER)
    expected = -2 / 0.1 * F.logsigmoid(0.1 * ((other0 - other) - (rows0 - rows))).mean()
    pair = [{"forget": read(m), "alternative": read(m, OTHER)} for m in (NOW, BEFORE)]
    for scale, times in ((2.0, 1.0), (None, 0.1 / 2)):  # the framework's factor 2 / beta; by default 1, as in the paper
        loss = DPO(beta=0.1, scale=scale)
        assert float((1.0 * loss)(*pair).total) == pytest.approx(times * float(expected), rel=1e-9)


def test_kl_counts_labelled_predictions_alone() -> None:
    """The framework averages over all positions, prompt, padding and the one behind the end included."""
    each = F.kl_div(Z.log_softmax(-1), Z0.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    assert ours(KLToReference()) == pytest.approx(float(each[MASK].mean()), rel=1e-9)
    now, before = (logits(m).view(-1, VOCABULARY).log_softmax(-1) for m in (NOW, BEFORE))
    everywhere = F.kl_div(now, before, reduction="batchmean", log_target=True)
    assert ours(KLToReference()) != pytest.approx(float(everywhere), rel=1e-3)


def test_undial_leaves_ignored_labels_alone() -> None:
    """The framework's -100 is an index: at ignored places it lowers the logit of token V - 100, and teaches that."""
    label = LABEL.where(MASK, VOCABULARY + IGNORED)  # what -100 indexes
    aim = (Z0 - 10 * F.one_hot(label, VOCABULARY)).softmax(-1)
    each = -(aim * Z.log_softmax(-1)).sum(-1)
    plain = ours(UNDIAL(beta=10.0))
    assert plain == pytest.approx(float(each[MASK].mean()), rel=1e-9)
    assert plain != pytest.approx(float(each.mean()), rel=1e-3)


def test_flat_logits_are_those_that_predict_the_labels() -> None:
    """The framework's PDU lays the labels' mask over logits that are not shifted: one place too late."""
    whole = (logits(NOW).amax(-1) - logits(NOW).mean(-1)) ** 2
    late, right = whole[BATCH["labels"] != IGNORED].mean(), whole[:, :-1][MASK].mean()
    assert ours(FlatLogits()) == pytest.approx(float(right), rel=1e-9)
    assert ours(FlatLogits()) != pytest.approx(float(late), rel=1e-3)


def test_ce_u_is_the_frameworks() -> None:
    """The first answer tokens are skipped by option; the framework's setting is one."""
    target = Z.scatter(2, LABEL.clamp_min(0)[..., None], -torch.inf).softmax(-1)
    each = -(target * Z.log_softmax(-1)).sum(-1)
    first = MASK & (MASK.cumsum(1) == 1)
    for skip, mask in ((0, MASK), (1, MASK & ~first)):
        assert ours(CrossEntropyUnlearning(skip_first=skip)) == pytest.approx(float(each[mask].mean()), rel=1e-9)


def test_rmu_averages_tokens_or_rows() -> None:
    """The framework takes a mean of rows' means; so does reduction="seq_mean". By default each token counts alike.

    The direction is drawn from a seed of its own, where the framework draws it from the run's.
    """
    with torch.no_grad():
        inputs = {name: BATCH[name] for name in ("input_ids", "attention_mask")}
        hidden = NOW(**inputs, output_hidden_states=True).hidden_states[1][:, :-1]
    loss = RMU(coefficient=2.0, seed=3)
    point = 2.0 * control_vector(hidden.size(-1), 3).double()
    each = ((hidden - point) ** 2).mean(-1)
    rows = torch.stack([each[i][MASK[i]].mean() for i in range(len(each))])
    assert ours(replace(loss, reduction="seq_mean"), layer=1) == pytest.approx(float(rows.mean()), rel=1e-6)
    assert ours(loss, layer=1) == pytest.approx(float(each[MASK].mean()), rel=1e-6)
    assert float(rows.mean()) != pytest.approx(float(each[MASK].mean()), rel=1e-4)
