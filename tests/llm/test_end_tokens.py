"""The token that ends a row decides no figure of memorisation, unless it is asked to."""

import types

import pytest
import torch

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.end_tokens import blanks_of, end_mask, ends_of
from gunlearn.llm.metrics import exact_memorization, extraction_strength, gradient_score, min_k_score, token_scores
from tests.llm import facts
from tests.llm.tiny import tiny

END, CLOSE, BREAK = 2, 7, 8


def row(*answer: int, asked: int = 4) -> dict[str, list[int]]:
    return {"input_ids": [3, asked, *answer], "labels": [-100, -100, *answer]}


def reciting(rows: list[dict]) -> torch.nn.Module:
    """A model that knows all rows by heart, but never ends one."""
    model = tiny(vocab_size=60)
    optimizer, ids = torch.optim.Adam(model.parameters(), 3e-3), torch.tensor([r["input_ids"] for r in rows])
    labels = torch.tensor([r["labels"] for r in rows])
    for _ in range(200):
        optimizer.zero_grad()
        model(input_ids=ids, labels=torch.where(ids == END, -100, labels)).loss.backward()
        optimizer.step()
    return model.eval()


def of_open_unlearning(model: torch.nn.Module, row: dict) -> dict[str, float]:
    """Its figures, written anew: it leaves out the last labelled token, and extraction strength is at least 1/n."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
    at = (labels != -100).nonzero()[:-1, 0]
    with torch.no_grad():
        log_p = model(input_ids=ids).logits[0, at - 1].double().log_softmax(-1)
    own, right = log_p.gather(1, labels[at, None])[:, 0], log_p.argmax(1) == labels[at]
    k = next((k for k in range(len(at)) if bool(right[k:].all())), len(at) - 1)
    lowest = own.sort().values[: max(1, int(0.4 * len(at)))]
    return {"exact": float(right.double().mean()), "strength": 1 - k / len(at), "min_k": float(lowest.mean())}


ROWS = [row(20 + k, 30 + k, 40 + k, END, asked=10 + k) for k in range(4)]


def test_a_model_that_recites_everything_has_memorised_everything() -> None:
    model = reciting(ROWS)
    scores, kept = token_scores(model, ROWS), token_scores(model, ROWS, end="keep")
    assert exact_memorization(scores).tolist() == extraction_strength(scores).tolist() == [1.0] * 4
    assert exact_memorization(kept).tolist() == pytest.approx([0.75] * 4)
    assert extraction_strength(kept).tolist() == [0.0] * 4
    assert float(min_k_score(scores).min()) > -0.1 > float(min_k_score(kept).max())
    assert (gradient_score(model, ROWS) > 5 * gradient_score(model, ROWS, end="keep")).all()
    assert torch.equal(scores.mean_log_prob, kept.mean_log_prob)  # likelihoods count every labelled token


@pytest.mark.parametrize("rows", [ROWS, [row(20, 21, 22, 23, 24), row(9, 10, 11)]], ids=["ended", "not ended"])
def test_figures_are_those_of_open_unlearning_when_asked(rows: list[dict]) -> None:
    for model in (reciting(ROWS), tiny(seed=1)):
        scores = token_scores(model, rows, end="last")
        expected = [of_open_unlearning(model, r) for r in rows]
        found = {
            "exact": exact_memorization(scores),
            "strength": extraction_strength(scores, compat=True),
            "min_k": min_k_score(scores),
        }
        for name, values in found.items():
            assert values.tolist() == pytest.approx([e[name] for e in expected], abs=1e-5), name


@pytest.mark.parametrize(
    ("answer", "skipped"),
    [
        ([20, 21, END], 1),
        ([20, END, 21], 0),  # an end inside a row is no end of it
        ([20, END, 21, END], 1),
        ([20, CLOSE, END], 2),
        ([20, CLOSE, BREAK], 2),  # the line break behind a chat's closing token
        ([20, BREAK, END], 1),  # one of the answer itself
        ([20, 21, BREAK], 0),
        ([20, 21], 0),
        ([END], 0),  # nothing else to count
    ],
)
@pytest.mark.parametrize("padded", ["no", "left", "right"])
def test_which_tokens_only_end_their_row(answer: list[int], skipped: int, padded: str) -> None:
    given = row(*answer)
    before, after = (3 if padded == side else 0 for side in ("left", "right"))
    items = {
        "input_ids": torch.tensor([[END] * before + given["input_ids"] + [END] * after]),
        "labels": torch.tensor([[END] * before + given["labels"] + [-100] * after]),
        "attention_mask": torch.tensor([[0] * before + [1] * len(given["labels"]) + [0] * after]),
    }
    found = end_mask(items, "skip", (END, CLOSE), (BREAK,))[0]
    last = before + len(given["labels"]) - 1
    assert found.nonzero()[:, 0].tolist() == list(range(last - skipped, last))


def test_ends_come_from_the_tokenizer_or_the_models_configurations() -> None:
    model = tiny()
    assert ends_of(model) == (2,)
    model.generation_config.eos_token_id = [5, 2]
    assert ends_of(model) == (5, 2)
    assert ends_of(model, facts.tokenizer()) == (facts.VOCABULARY["<eos>"],)
    assert ends_of(model, 9) == (9,)
    assert ends_of(model, types.SimpleNamespace(eos_token_id=None)) == (5, 2)
    assert ends_of(torch.nn.Linear(2, 2)) == ()
    spoken = types.SimpleNamespace(decode=lambda ids: "\n" if ids == [BREAK] else "word")
    assert blanks_of(spoken, [row(20, CLOSE, BREAK), row(20, 21)]) == (BREAK,)


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="'end'"):
        token_scores(tiny(), ROWS, end="drop")
