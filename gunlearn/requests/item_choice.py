"""Items named by their class, or by their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from gunlearn.errors import InvalidRequestError
from gunlearn.requests.names import Names

#: Arguments that say which classes; each has a predicate of a class.
BY_LABEL = ("label", "labels", "where")


def checked_labels(name: str, value: Any) -> Any:
    """Return a class, distinct classes as a tuple, or a function of a class, as `name` takes it; classes by name too.

    Raises:
        InvalidRequestError: anything else.
    """
    if name == "where":
        if not callable(value):
            raise InvalidRequestError(
                f"Expected 'where' to be a function of a class, lambda label: label > 4 (got {type(value).__name__})"
            )
        return value
    given = value.tolist() if hasattr(value, "tolist") else value
    several = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [None]
    entries: list[Any] = [given] if name == "label" else several
    if not entries or any(isinstance(e, bool) or not isinstance(e, Integral | str) for e in entries):
        one = "an integer" if name == "label" else "a list of at least one integer"
        raise InvalidRequestError(f"Expected '{name}' to be {one} or name, a class or several (got {value!r})")
    entries = [entry if isinstance(entry, str) else int(entry) for entry in entries]
    return entries[0] if name == "label" else tuple(dict.fromkeys(entries))


def numbered(data: Any, labels: Iterable[int | str]) -> list[int]:
    """Return classes by their numbers, those that are named by what `data.classes` or its data set says.

    Raises:
        InvalidRequestError: a name that no class has, or data without names.
    """
    names, dataset = getattr(data, "classes", None), getattr(data.y, "dataset", None)
    while names is None and dataset is not None:  # a subset of, or several, data sets that know
        names = getattr(dataset, "classes", None)
        dataset = getattr(dataset, "dataset", next(iter(getattr(dataset, "datasets", ())), None))
    places = {} if names is None else {str(name).lower(): place for place, name in enumerate(names)}
    unknown = [label for label in labels if isinstance(label, str) and label.lower() not in places]
    if unknown:
        known = f"one of {', '.join(map(str, names[:20]))}" if names else "a number: the data have no 'classes'"
        raise InvalidRequestError(f"Expected a class to be {known} (got {', '.join(map(repr, unknown))})")
    return [places[label.lower()] if isinstance(label, str) else label for label in labels]


def rows_with_label(data: Any, train: Tensor, name: str, value: Any) -> Tensor:
    """Return the training rows of the classes that `label`, `labels` or `where` names, `[k]`.

    Args:
        data: with labels `y` `[num_items]`.
        train: which rows are for training, boolean `[num_items]`.
        name: the argument.
        value: what it says, see `checked_labels`.

    Raises:
        InvalidRequestError: labels that are no classes, a class without training items, or a function that chooses none
            or returns no truth value.
    """
    y = (data.y.labels() if hasattr(data.y, "dataset") else data.y).to(train.device)
    if y.dim() != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise InvalidRequestError(
            f"Expected one class per item, integers 'y' [num_items], for '{name}' (got {y.dtype} {tuple(y.shape)})"
        )
    there = y[train].unique().tolist()
    if name == "where":
        chosen = [c for c in there if _holds(value, c)]
    else:
        chosen = numbered(data, [value] if name == "label" else value)
    absent = sorted(set(chosen) - set(there))
    if absent or not chosen:
        got = f"{name}={value!r}; no training item has {', '.join(map(str, absent))}" if absent else "no class"
        raise InvalidRequestError(
            f"Expected '{name}' to name classes of training items, which are {_short(there)} (got {got})"
        )
    return (train & torch.isin(y, torch.tensor(chosen, dtype=y.dtype, device=y.device))).nonzero().view(-1)


def rows_of_files(data: Any, names: Names, missing: str) -> tuple[Tensor, int]:
    """Return the rows of items whose names are in `data.item_id`, `[k]`, and how many names were skipped.

    Raises:
        InvalidRequestError: a name that no item or more than one has, or data without names. Messages say where in the
            request it stands, not the name.
    """
    kept = getattr(data, "item_id", None)
    if not isinstance(kept, list | tuple):
        raise InvalidRequestError(
            "Expected data with 'item_id', a list of num_items texts, to look names up in (got none); data sets of "
            "torchvision that say the files of their images have it, 'class/file.png' below their root"
        )
    rows: dict[str, int] = {}
    for row, name in enumerate(map(str, kept)):
        rows[name] = -1 if name in rows else row
    found = [rows.get(str(name)) for name in names.entries]
    for wrong, why in ((None, "no item has"), (-1, "several items have")):
        at = [str(place) for place, row in enumerate(found, start=1) if row == wrong]
        if at and (wrong == -1 or missing == "error"):
            places = ", ".join(at[:5]) + (", ..." if len(at) > 5 else "")
            raise InvalidRequestError(
                f"Expected names that one item of data.item_id has (got {len(at)} of {len(names)} that {why}: number "
                f"{places} of the request)"
            )
    known = [row for row in found if row is not None]
    return torch.tensor(known, dtype=torch.long), len(names) - len(known)


def _holds(where: Callable[[int], Any], label: int) -> bool:
    said = where(label)
    said = said.item() if hasattr(said, "item") else said
    if not isinstance(said, bool):
        raise InvalidRequestError(f"Expected True or False from 'where' (got {type(said).__name__} for class {label})")
    return said


def _short(classes: list[int]) -> str:
    return ", ".join(map(str, classes[:10])) + (f", ... ({len(classes)} of them)" if len(classes) > 10 else "")
