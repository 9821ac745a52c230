"""Which rows meet, epoch by epoch; rows that are in two parts; rows that make no batch."""

import warnings
from collections import Counter

import pytest
import torch
from datasets import Dataset

from gunlearn.errors import EmptyForgetSetError, InvalidInputError
from gunlearn.llm import PairedDataset, PartCollator
from gunlearn.llm.data.pairing import warn_of_overlap


def rows(*starts: int) -> list[dict]:
    return [{"input_ids": [1, start, 2], "labels": [-100, start, 2]} for start in starts]


def read(data: PairedDataset, part: str = "retain") -> list[int]:
    return [data[i][part]["input_ids"][1] for i in range(len(data))]


@pytest.mark.parametrize(("forget", "retain"), [(4, 10), (10, 4), (3, 1)])
def test_drawn_rows_are_all_read_before_one_is_read_again(forget: int, retain: int) -> None:
    data, seen = PairedDataset(rows(*range(5, 5 + forget)), {"retain": rows(*range(50, 50 + retain))}), []
    for epoch in range(5):
        data.set_epoch(epoch)
        seen += read(data)
    counts = Counter(seen)
    assert len(counts) == min(retain, 5 * forget)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert set(seen[:retain]) == set(range(50, 50 + retain)) or forget * 5 < retain


def test_epochs_and_parts_differ_and_can_be_drawn_again() -> None:
    forget, retain = rows(*range(5, 15)), {"retain": rows(*range(50, 80)), "other": rows(*range(50, 80))}
    state = torch.get_rng_state()
    data, again = (PairedDataset(forget, retain, seed=3) for _ in range(2))
    first = read(data)
    assert read(data, "other") != first
    data.set_epoch(4)
    assert read(data) != first
    again.set_epoch(4)  # straight to it, as a resumed run does
    assert read(again) == read(data)
    assert read(PairedDataset(forget, retain, seed=4)) != first
    data.set_epoch(0)
    assert read(data) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_paired_rows_stay_together() -> None:
    data = PairedDataset(rows(5, 6, 7), {"retain": rows(8, 9)}, {"alternative": rows(25, 26, 27)})
    for epoch in range(3):
        data.set_epoch(epoch)
        assert read(data, "forget") == [5, 6, 7]
        assert read(data, "alternative") == [25, 26, 27]


@pytest.mark.parametrize(
    ("forget", "drawn", "paired", "words"),
    [
        (rows(1), {"retain": []}, {}, "rows in part 'retain'"),
        (rows(1, 2), {}, {"alternative": rows(1)}, r"one row for each of 2 forgotten rows \(got 1\)"),
        (iter(rows(1)), {}, {}, "read into a list"),
        (rows(5), {"alternative": rows(7)}, {"alternative": rows(8)}, r"got \['alternative'\] twice"),
        (rows(5), {"forget": rows(7)}, {}, r"got \['forget'\] twice"),
        (rows(5), {}, {"forget": rows(7)}, r"got \['forget'\] twice"),
    ],
)
def test_refused_parts(forget: list, drawn: dict, paired: dict, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        PairedDataset(forget, drawn, paired)
    with pytest.raises(EmptyForgetSetError):
        PairedDataset([], {"retain": rows(1)})


def test_rows_of_both_parts_are_counted() -> None:
    forget, retain = rows(5, 6, 7), rows(7, 8, 5, 9)
    for others in (retain, Dataset.from_list(retain), [{k: torch.tensor(v) for k, v in r.items()} for r in retain]):
        with pytest.warns(UserWarning, match="got 2 of 3 in both"):
            warn_of_overlap(PairedDataset(forget, {"retain": others}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_overlap(PairedDataset(forget, {"retain": rows(8, 9)}, {"alternative": forget}))
        warn_of_overlap(PairedDataset(forget, {"retain": retain}), limit=3)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding(side: str) -> None:
    given = [
        {"input_ids": [1, 4], "labels": [-100, 4], "target_mask": [False, True], "text": "a"},
        {"input_ids": [1, 5, 6], "labels": [-100, 5, 6], "target_mask": [False, True, False], "text": "b"},
    ]
    batch = PartCollator(9, side)(given)
    pad = (lambda values, fill: [*values, fill]) if side == "right" else (lambda values, fill: [fill, *values])
    assert batch["input_ids"].tolist() == [pad([1, 4], 9), [1, 5, 6]]
    assert batch["labels"].tolist() == [pad([-100, 4], -100), [-100, 5, 6]]
    assert batch["attention_mask"].tolist() == [pad([1, 1], 0), [1, 1, 1]]
    assert batch["target_mask"].tolist() == [pad([False, True], False), [False, True, False]]
    assert sorted(batch) == ["attention_mask", "input_ids", "labels", "target_mask"]


def test_parts_are_padded_apart() -> None:
    batch = PartCollator()([{"forget": rows(5)[0], "retain": {"input_ids": [1] * 9, "labels": [1] * 9}}])
    assert {part: tuple(items["input_ids"].shape) for part, items in batch.items()} == {
        "forget": (1, 3),
        "retain": (1, 9),
    }


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "at least one row"),
        ([{"forget": {"input_ids": [1, 2]}}], "'labels'"),
        ([{"input_ids": [1, 2], "labels": [1]}], "one length"),
        ([{"input_ids": [1] * 9, "labels": [1] * 9}], "at most 8 tokens"),
        ([rows(5)[0], rows(6)[0] | {"target_mask": [False, True, True]}], "same columns"),
    ],
)
def test_refused_rows(given: list, text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        PartCollator(max_length=8)(given)
    with pytest.raises(InvalidInputError, match="'padding_side'"):
        PartCollator(padding_side="both")


def test_answers_in_another_order_are_refused():
    """The same questions, answered in another order; controls: their own order, and questions that differ."""
    forget, other = (
        [{"input_ids": [i], "labels": [i], "prompt": f"q{i}"} for i in order] for order in ((0, 1, 2), (0, 2, 1))
    )
    PairedDataset(forget, paired={"alternative": [dict(row) for row in forget]})
    PairedDataset(forget, paired={"alternative": [row | {"prompt": f"why {row['prompt']}"} for row in other]})
    with pytest.raises(InvalidInputError, match=r"order of the forgotten ones .* row 2\)"):
        PairedDataset(forget, paired={"alternative": other})
