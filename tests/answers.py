"""Sentences of a study's page, held against what its committed rows say."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tests.conftest import REPOSITORY


def rows_of(study: str, name: str) -> Any:
    """Return the committed rows of a study."""
    return json.loads((REPOSITORY / "experiments" / study / f"{name}.json").read_text(encoding="utf-8"))


def page(study: str, name: str = "README") -> str:
    """Return the text of a study's page without line breaks and stars."""
    return re.sub(r"[\s*]+", " ", (REPOSITORY / "experiments" / study / f"{name}.md").read_text(encoding="utf-8"))


def check_said(sentences: Iterable[str], text: str) -> None:
    """Fail with the sentences that a page lacks: they are what its rows say now."""
    missing = [sentence for sentence in sentences if sentence not in text]
    assert not missing, "\n".join(missing)


def check_unsaid(sentences: Iterable[str], text: str) -> None:
    """The control: fail with the sentences that changed rows leave as they are."""
    left = [sentence for sentence in sentences if sentence in text]
    assert not left, "\n".join(left)


def check_ways(rows: Iterable[dict[str, Any]], names: Sequence[str], ways: Iterable[str], problems: int) -> None:
    """Fail unless there are so many problems, by these columns, and each has three seeds of every way."""
    found: dict[tuple[Any, ...], set[tuple[str, int]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), set()).add((row["way"], row["seed"]))
    whole = {(way, seed) for way in ways for seed in (0, 1, 2)}
    assert len(found) == problems
    assert all(there == whole for there in found.values())


def short(value: float, digits: int = 2) -> str:
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")


def ends(values: Iterable[float], digits: int) -> str:
    known = sorted(values)
    return f"{short(known[0], digits)} to {short(known[-1], digits)}"
