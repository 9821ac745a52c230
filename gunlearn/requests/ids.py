"""Requests for things with numbers: named one by one, by a mask, or drawn among the training ones."""

import functools
import warnings
from collections.abc import Hashable, Iterator, Set, ValuesView
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from gunlearn.core.checks import check_choice, check_seed, check_size, the_one_given
from gunlearn.errors import SKIPS, EmptyForgetSetError, InvalidRequestError, InvalidTypeError
from gunlearn.requests.base import Request
from gunlearn.requests.graph_tensors import MASKS
from gunlearn.requests.names import Names, read_names

_INSTEAD = {
    **dict.fromkeys(("label", "labels", "classes", "y"), "mask=data.y == ... for the nodes of a class"),
    "mask": "edge_ids=mask.nonzero().view(-1) for the columns of edge_index where a mask is True",
    "edges": "edge_index=...",
    **dict.fromkeys(("nodes", "ids", "idx", "node_ids"), "index=..."),
}
#: What to pass in place of a boolean mask, by argument.
_OF_MASKS = {
    "index": "a boolean mask goes to 'mask='",
    "columns": "of a boolean mask of columns pass columns=mask.nonzero().view(-1)",
    "edge_ids": "of a boolean mask of columns of edge_index pass edge_ids=mask.nonzero().view(-1)",
    "edge_index": "of a boolean mask of columns of edge_index pass data.edge_index[:, mask]",
}
#: What to do about named things that are named twice, or are no longer there.
MISSING = ("error", "ignore")


_Class = TypeVar("_Class", bound=type)


def with_known_arguments(cls: _Class) -> _Class:
    """Return a dataclass that refuses arguments that it does not have in words: `InvalidTypeError`, a `TypeError`."""
    made: Any = cls
    init, known = made.__init__, [entry.name for entry in fields(cls)]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **arguments: Any) -> None:
        for name in arguments:
            if name not in known:
                instead = _INSTEAD.get(name, "")
                hint = f"; pass {instead}" if instead.partition("=")[0] in known else ""
                raise InvalidTypeError(f"Expected arguments of {cls.__name__} among {known} (got '{name}'){hint}")
        init(self, *args, **arguments)

    made.__init__ = checked
    return cls


@dataclass(frozen=True, eq=False, repr=False)
class RequestByArguments(Request):
    """A request that equals another if all arguments are equal.

    Args:
        missing: `"ignore"` skips named things that are named twice or were deleted before, and the result's notes count
            them; `"error"` refuses them.
    """

    noun: ClassVar[str] = "node"
    missing: str = field(default="error", kw_only=True)

    def check_arguments(self, ways: tuple[str, ...]) -> str:
        """Refuse bad arguments; return the one of `ways` that was given, and store a copy of its value."""
        given = the_one_given(self, ways)
        check_choice("missing", self.missing, MISSING)
        if self.missing == "ignore" and given in ("ratio", "count"):
            raise InvalidRequestError(f"Expected missing='ignore' with named {self.noun}s only (got {given})")
        check_seed(getattr(self, "seed", 0))
        check_size(getattr(self, "ratio", None), getattr(self, "count", None), self.noun)
        value, by_id = _listed(getattr(self, given)), getattr(self, "by_id", None)
        nameable = given in ("index", "edge_index") and hasattr(self, "by_id")
        if by_id is not None and not nameable:
            raise InvalidRequestError(f"Expected 'by_id' with ids only (got by_id={by_id!r} with '{given}')")
        names = read_names(value, given, self.noun, by_id) if nameable else None
        if given not in ("ratio", "count"):  # a copy: the request must not change when the caller's tensor does
            read = _named_mask if given == "mask" else named_tensor
            object.__setattr__(self, given, names or read(value, given, self.noun))
        return given

    def content(self) -> Hashable:
        return tuple(_sorted_content(getattr(self, field.name)) for field in fields(self))

    def __repr__(self) -> str:
        """Show the arguments that differ from their defaults; of ids the first few."""
        shown = []
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Names):
                text = repr(value)
            elif not isinstance(value, Tensor):
                text = "" if value == entry.default else repr(value)
            elif value.dtype == torch.bool:
                text = f"<{int(value.sum())} of {value.numel()} {self.noun}s>"
            else:
                text = f"[{show_columns(value, 3)}]"
            if text:
                shown.append(text if entry.name in ("index", "edge_index") else f"{entry.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, eq=False, repr=False)
class RequestByIds(RequestByArguments):
    """A request for things with numbers; exactly one of `index`, `mask`, `ratio` and `count` says which."""

    index: Any = None
    _: KW_ONLY
    mask: Any = None
    ratio: float | None = None
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_arguments(("index", "mask", "ratio", "count"))

    @property
    def draws(self) -> bool:
        """Whether the things are drawn, not named."""
        return self.index is None and self.mask is None

    def ids(
        self, size: int, candidates: Tensor, rank: Tensor | None = None, gone: Tensor | None = None
    ) -> tuple[Tensor, str]:
        """Return the sorted ids to forget, `[k]` on the CPU, and which named ones were skipped, in words.

        Args:
            size: number of all things.
            candidates: ids that may be drawn. The draw is made on the CPU: one seed gives one set on every device.
            rank: `[size]`; the draw takes the largest first, ties at random.
            gone: boolean `[size]`, what was deleted before; `None` where nothing was.
        """
        if self.mask is not None:
            if self.mask.numel() != size:
                raise InvalidRequestError(f"Expected 'mask' of shape [{size}] (got [{self.mask.numel()}])")
            return self._kept(self.mask.nonzero().view(-1), gone)
        if self.index is not None:
            check_in_range(self.index, size, f"{self.noun}s")
            return self._kept(self.index, gone)
        total = candidates.numel()
        number = number_to_draw(self.ratio, self.count, total, self.noun)
        if number > total:
            raise InvalidRequestError(f"Expected at most the {total} training {self.noun}s (got a draw of {number})")
        drawn = candidates.cpu()[torch.randperm(total, generator=torch.Generator().manual_seed(int(self.seed)))]
        if rank is not None:
            drawn = drawn[rank.cpu()[drawn].sort(descending=True, stable=True).indices]
        return drawn[:number].sort().values, ""

    def _kept(self, named: Tensor, gone: Tensor | None) -> tuple[Tensor, str]:
        """Return the named ids without repeated and deleted ones, and these in words; refuse these by default."""
        if self.missing == "error":
            check_unique(named, self.noun)
        kept = named.unique()
        before = kept[:0] if gone is None else kept[gone.cpu()[kept]]
        if self.missing == "error" and before.numel():  # where they stand: what was forgotten belongs into no log
            raise InvalidRequestError(
                f"Expected {self.noun}s that are still there (got {before.numel()} of {kept.numel()} that were deleted "
                f"before: {places_of(torch.isin(named, before))}); {SKIPS}"
            )
        if gone is not None:
            kept = kept[~gone.cpu()[kept]]
        if not kept.numel():
            raise EmptyForgetSetError(f"Expected a {self.noun} that is still there (got none of {named.numel()} named)")
        return kept, skipped(named.numel(), self.noun, before.numel(), named.numel() - kept.numel() - before.numel())


def skipped(named: int, noun: str, missing: int, repeated: int) -> str:
    """Return in words how many of the named things were skipped; empty where none was."""
    parts = [f"{n} {how}" for n, how in ((missing, "no longer there"), (repeated, "named twice")) if n]
    return f"skipped of {named} named {noun}s: {', '.join(parts)}" if parts else ""


def named_tensor(value: Any, name: str, noun: str) -> Tensor:
    """Return a copy of named things as an int64 CPU tensor: `[F]`, or pairs `[2, F]` for `edge_index`."""
    value = _listed(value)
    is_list = isinstance(value, (list, tuple))
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"Expected '{name}' to hold integers (got {error})") from error
    if tensor.numel() == 0:
        raise EmptyForgetSetError(f"Expected '{name}' to name at least one {noun} (got none)")
    pairs = name == "edge_index"
    # A list is always one of pairs: two lists of two nodes each could be read either way.
    instead = f"; {_OF_MASKS[name]}" if tensor.dtype == torch.bool and tensor.dim() == 1 and name in _OF_MASKS else ""
    if tensor.dim() != 1 + pairs or (pairs and tensor.size(1 if is_list else 0) != 2):
        expected = "a list of pairs, or a tensor of shape [2, F]" if pairs else "of shape [F]"
        raise InvalidRequestError(f"Expected '{name}' to be {expected} (got shape {tuple(tensor.shape)}){instead}")
    if pairs and is_list:
        tensor = tensor.t()
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InvalidRequestError(f"Expected '{name}' to hold integers (got {tensor.dtype}){instead}")
    return torch.clone(tensor.to("cpu", torch.long)).contiguous()


def _listed(value: Any) -> Any:
    """Return a set, or what a generator yields, which is read once, as a list; other values as they are."""
    return list(value) if isinstance(value, Set | Iterator | ValuesView) else value


def number_to_draw(ratio: float | None, count: int | None, total: int, noun: str) -> int:
    """Return how many of `total` things to draw, by `ratio` or `count`."""
    number = int((ratio or 0) * total) if count is None else count
    if number == 0:
        raise EmptyForgetSetError(f"Expected a ratio of at least one {noun} (got {ratio} of {total} training {noun}s)")
    return number


def check_in_range(ids: Tensor, size: int, name: str) -> None:
    """Refuse ids outside `[0, size)`."""
    outside = ids[(ids < 0) | (ids >= size)]
    if outside.numel():
        raise InvalidRequestError(
            f"Expected {name} in [0, {size}) (got {outside.numel()} outside: {outside[:5].tolist()})"
        )


def check_unique(ids: Tensor, noun: str) -> None:
    """Refuse ids that are named twice; the message says where they stand, since it must not tell what is forgotten."""
    again = named_before(ids)
    if bool(again.any()):
        ones = int((ids == 1).sum())
        mask = f"; if these {ids.numel()} zeros and ones are a mask, of {ones} {noun}s, pass mask=....bool()"
        is_mask = ids.numel() > 2 and int(ids.min()) >= 0 and int(ids.max()) <= 1
        raise InvalidRequestError(
            f"Expected each {noun} once (got {int(again.sum())} repeated: {places_of(again)})"
            f"{mask if is_mask else ''}; {SKIPS}"
        )


def named_before(ids: Tensor) -> Tensor:
    """Return which of the numbers `[k]` stand at an earlier place, too, boolean `[k]`."""
    ordered, order = ids.sort(stable=True)
    again = torch.zeros_like(ids, dtype=torch.bool)
    again[order[1:]] = ordered[1:] == ordered[:-1]
    return again


def places_of(wrong: Tensor) -> str:
    """Return where a list of the caller's is wrong, boolean `[k]`, as `number 2, 5 of the request`."""
    return f"number {show_columns(wrong.nonzero().view(-1) + 1)} of the request"


def checked_masks(data: Any, size: int) -> dict[str, Tensor]:
    """Return the masks `[size]` of a split that `data` has, by name; items are trained on or held out, never both.

    Raises:
        InvalidRequestError: masks of another shape or type, or training items among the test items.
    """
    masks = {name: getattr(data, name) for name in MASKS if getattr(data, name, None) is not None}
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (size,):
            got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            several = isinstance(mask, Tensor) and mask.dim() == 2 and mask.size(0) == size
            one = f"; choose one of {mask.size(1)} splits, gunlearn.node_split(data, split=0)" if several else ""
            raise InvalidRequestError(f"Expected 'data.{name}' to be boolean of shape [{size}] (got {got}){one}")
    for one, other in (("train_mask", "test_mask"), ("train_mask", "val_mask"), ("val_mask", "test_mask")):
        both = int((masks[one] & masks[other].to(masks[one].device)).sum()) if {one, other} <= set(masks) else 0
        if both and one == "train_mask" and other == "test_mask":
            raise InvalidRequestError(f"Expected a split (got {both} items in both 'data.{one}' and 'data.{other}')")
        if both:
            warnings.warn(f"{both} items are both in 'data.{one}' and in 'data.{other}'", stacklevel=5)
    return masks


def trainable_mask(data: Any, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the mask `[size]` of what a model learned from: `train_mask`, or what `val_mask` and `test_mask` leave."""
    masks = checked_masks(data, size)
    if "train_mask" in masks:
        return masks["train_mask"].clone()
    free = torch.ones(size, dtype=torch.bool, device=device)
    for mask in masks.values():
        free &= ~mask.to(device)
    return free


def show_columns(ids: Tensor, limit: int = 5) -> str:
    """Return the first few ids or pairs as text: `4, 7, ...` or `(0, 1), (4, 2), ...`."""
    shown = [str(tuple(pair)) for pair in ids[:, :limit].t().tolist()] if ids.dim() == 2 else ids[:limit].tolist()
    return ", ".join(map(str, shown)) + (", ..." if ids.size(-1) > limit else "")


def _named_mask(value: Any, name: str, noun: str) -> Tensor:
    mask = torch.as_tensor(value)
    if mask.dtype != torch.bool or mask.dim() != 1:
        raise InvalidRequestError(
            f"Expected '{name}' to be boolean of shape [num_{noun}s] (got {mask.dtype} {tuple(mask.shape)})"
        )
    if not bool(mask.any()):
        raise EmptyForgetSetError(
            f"Expected '{name}' to name at least one {noun} (got none of {mask.numel()}: it is False everywhere)"
        )
    return mask.detach().cpu().clone()


def _sorted_content(value: Any) -> Hashable:
    """Return a tensor of ids as its sorted columns, a mask as its size and its ids, anything else unchanged."""
    if isinstance(value, Names):
        return tuple(sorted(value.entries)), value.whole_numbers
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.bool:
        return tuple(value.shape), value.nonzero().numpy().tobytes()
    array = np.atleast_2d(value.numpy())
    return array[:, np.lexsort(array[::-1])].tobytes()
