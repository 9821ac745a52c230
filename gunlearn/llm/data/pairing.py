"""Pair each forgotten row with a row of every other part."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import Dataset

from gunlearn.errors import EmptyForgetSetError, InvalidInputError


class PairedDataset(Dataset):
    """Map an index to a forgotten row and one row of every other part, by name.

    An epoch reads each forgotten row once. A drawn part is read in random order, in a new order after each pass; the
    order depends on seed and epoch alone, so that a resumed run reads the same pairs.

    Args:
        forget: rows to forget, anything with a length and integer indices.
        drawn: parts to draw rows from at random, by name (`{"retain": rows}`).
        paired: parts whose row `i` belongs to forgotten row `i`, by name (another answer to the same question).

    Raises:
        EmptyForgetSetError: no forgotten rows.
        InvalidInputError: an empty part, a paired part of another length or with the same prompts in another order, or
            two parts of one name.
    """

    def __init__(
        self,
        forget: Any,
        drawn: Mapping[str, Any] | None = None,
        paired: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.forget, self.drawn, self.paired, self.seed = forget, dict(drawn or {}), dict(paired or {}), seed
        if _length("forget", forget) == 0:
            raise EmptyForgetSetError("Expected forgotten rows (got an empty data set)")
        names = Counter(["forget", *self.drawn, *self.paired])
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise InvalidInputError(f"Expected each part once, drawn or paired, beside 'forget' (got {twice} twice)")
        for name, rows in self.drawn.items():
            if _length(name, rows) == 0:
                raise InvalidInputError(f"Expected rows in part '{name}' (got none)")
        for name, rows in self.paired.items():
            if _length(name, rows) != len(forget):
                each = f"one row for each of {len(forget)} forgotten rows"
                raise InvalidInputError(f"Expected part '{name}' with {each} (got {len(rows)})")
            _check_order(name, forget, rows)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the pairs of an epoch."""
        self.choice = {}
        for number, (name, rows) in enumerate(sorted(self.drawn.items())):
            total, before = len(self.forget), epoch * len(self.forget)
            first, last = before // len(rows), (before + total - 1) // len(rows)
            order = torch.cat([self._permutation(number, i, len(rows)) for i in range(first, last + 1)])
            start = before - first * len(rows)
            self.choice[name] = order[start : start + total]

    def _permutation(self, part: int, number: int, size: int) -> torch.Tensor:
        seed = hash((self.seed, part, number)) % 2**63  # integers hash to the same value in every process
        return torch.randperm(size, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        beside = {name: rows[index] for name, rows in self.paired.items()}
        drawn = {name: rows[int(self.choice[name][index])] for name, rows in self.drawn.items()}
        return {"forget": self.forget[index], **beside, **drawn}


def warn_of_overlap(rows: PairedDataset, limit: int = 100_000) -> None:
    """Warn where rows to forget are also in a drawn part of at most `limit` rows, token for token."""
    for name, others in rows.drawn.items():
        if len(others) <= limit:
            known = set(_tokens(others))
            shared = sum(tokens in known for tokens in _tokens(rows.forget))
            if shared:
                warnings.warn(
                    f"Expected other rows in part '{name}' than those to forget (got {shared} of {len(rows.forget)} "
                    "in both)",
                    stacklevel=3,
                )


def _tokens(rows: Any) -> Iterator[tuple[int, ...]]:
    # A column of `datasets` is read at once, other rows one by one.
    whole = "input_ids" in getattr(rows, "column_names", ())
    for values in rows["input_ids"] if whole else (rows[i]["input_ids"] for i in range(len(rows))):
        yield tuple(torch.as_tensor(values).tolist())


def _length(name: str, rows: Any) -> int:
    if not isinstance(rows, Sized) or not hasattr(rows, "__getitem__"):
        raise InvalidInputError(
            f"Expected part '{name}' with a length and integer indices (got {type(rows).__name__}); "
            "a stream can be read into a list first"
        )
    return len(rows)


def _check_order(name: str, forget: Any, rows: Any) -> None:
    """Refuse lists of rows with the same prompts in different orders: each row would be paired with another's."""
    if not all(isinstance(part, Sequence) for part in (forget, rows)):
        return
    prompts = [[row.get("prompt") if isinstance(row, Mapping) else None for row in part] for part in (forget, rows)]
    if None in prompts[0] + prompts[1] or Counter(prompts[0]) != Counter(prompts[1]):
        return
    wrong = [i for i, (one, other) in enumerate(zip(*prompts, strict=True), 1) if one != other]
    if wrong:
        raise InvalidInputError(
            f"Expected rows of '{name}' in the order of the forgotten ones (got the same prompts in another order, "
            f"first in row {wrong[0]})"
        )
