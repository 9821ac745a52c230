"""What functions of tensors do to channels: keep them, tie those of two tensors, or nothing that is understood."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from gunlearn.connectivity.alignment.followed_tensors import Followed, tensors_of
from gunlearn.connectivity.alignment.spaces import Block, Layout, Spaces

#: Keep channels, and pass on a positive factor.
HOMOGENEOUS = {
    *("relu", "leaky_relu", "rrelu", "prelu", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"),
    *("clone", "contiguous", "detach", "to", "float", "double", "cpu", "cuda", "type", "type_as", "neg", "abs", "data"),
}
#: Keep channels, each treated alone or all alike, without passing on a factor.
POINTWISE = {
    *("elu", "gelu", "silu", "sigmoid", "tanh", "softplus", "selu", "celu", "relu6", "exp", "expm1", "log", "log1p"),
    *("pow", "square", "sqrt", "rsqrt", "clamp", "clip", "nan_to_num", "hardswish", "hardsigmoid", "hardtanh", "mish"),
    *("logsigmoid", "softsign", "gt", "lt", "ge", "le", "eq", "ne", "isfinite", "isnan", "isinf", "sign", "softmax"),
    *("log_softmax", "normalize", "bool", "logical_not", "reciprocal"),
}
#: Take two tensors whose channels must then move alike.
TWO = {"add", "radd", "iadd", "sub", "rsub", "isub", "maximum", "minimum", "fmax", "fmin"}
PRODUCT = {"mul", "rmul", "imul", "div", "rdiv", "truediv", "rtruediv", "itruediv"}
FACTOR_KEPT = {"mean", "sum", "amax", "amin", "max", "min", "norm"}
_REDUCTIONS = {*FACTOR_KEPT, "std", "var", "logsumexp", "median", "nanmean", "all", "any"}
_POOLINGS = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
POOLS = {f"{kind}{n}d" for kind in _POOLINGS for n in "123"}
#: Read the size or kind of the second tensor alone.
LIKE_SECOND = {"expand_as", "view_as", "reshape_as", "type_as"}
#: Read sizes and kinds alone.
NOTHING_READ = ("new_", "is_", "has_")
#: Of a result in which no channel can be told from another.
NO_CHANNELS = Layout(0, ())
JOINS = {"cat", "concat", "concatenate"}


def _keep(followed: Followed, name: str, args: Any, kwargs: Any, out: Any) -> Layout | None:
    layout = followed.get(args[0])
    if layout is not None and name.rstrip("_") not in HOMOGENEOUS:
        followed.spaces.freeze(layout.blocks, f"they pass through '{name}'", order=False)
    return layout


def _two(followed: Followed, name: str, args: Any, kwargs: Any, out: Any) -> Layout | None:
    """Sums tie channels and scales of both sides; products with what is the same for all channels keep them."""
    pair = [value for value in (*args[:2], kwargs.get("other")) if isinstance(value, Tensor)]
    layouts = [followed.get(value) for value in pair]
    product, why = name.rstrip("_") in PRODUCT, f"they meet other values in '{name}'"
    from_end = [None if at is None else at.axis - value.dim() for value, at in zip(pair, layouts, strict=True)]
    known = [k for k, at in enumerate(layouts) if at is not None]
    first = layouts[known[0]]
    assert first is not None
    if len(known) == 2:
        other = layouts[known[1]]
        assert other is not None
        if from_end[0] != from_end[1]:
            return None
        followed.spaces.unify(first.blocks, other.blocks, why, scale=not product)
    else:
        alone = len(pair) == 1 or _same_for_all(pair[1 - known[0]], from_end[known[0]] or 0)
        inverse = name in ("rdiv", "rtruediv") or (name in ("div", "truediv") and args[0] is not pair[known[0]])
        if not alone:
            followed.spaces.freeze(first.blocks, why)
        elif not product or inverse:
            followed.spaces.freeze(first.blocks, why, order=False)
    return Layout(out.dim() + (from_end[known[0]] or 0), first.blocks)


def _same_for_all(value: Tensor, axis: int) -> bool:
    return value.dim() < -axis or value.size(axis) == 1 or value.stride(axis) == 0


def _reduce(followed: Followed, name: str, args: Any, kwargs: Any, out: Any) -> Layout | None:
    if len(args) > 1 and isinstance(args[1], Tensor):  # the larger of two
        return _two(followed, name, args, kwargs, out)
    layout = followed.get(args[0])
    if layout is None:
        return None
    after = args[2:] if name == "norm" else args[1:]  # the norm's kind comes first
    dims = kwargs.get("dim", kwargs.get("axis", next((a for a in after if isinstance(a, int | tuple | list)), None)))
    kept = kwargs.get("keepdim", next((a for a in args[1:] if isinstance(a, bool)), False))
    ndim = args[0].dim()
    over = range(ndim) if dims is None else [d % ndim for d in ([dims] if isinstance(dims, int) else dims)]
    if layout.axis in over:
        followed.spaces.freeze(layout.blocks, f"'{name}' reads all channels together", order=False)
        return NO_CHANNELS
    if name not in FACTOR_KEPT:
        followed.spaces.freeze(layout.blocks, f"they pass through '{name}'", order=False)
    return Layout(layout.axis - (0 if kept else sum(d < layout.axis for d in over)), layout.blocks)


def _pool(followed: Followed, name: str, args: Any, kwargs: Any, out: Any) -> Layout | None:
    layout = followed.get(args[0])
    places = int(name[-2])
    return layout if layout is not None and layout.axis == args[0].dim() - 1 - places else None


def _reshape(followed: Followed, name: str, args: Any, kwargs: Any, out: Any) -> Layout | None:
    """Keep an axis that stays as it is or takes in the axes behind it; those before may merge or split."""
    layout, shape = followed.get(args[0]), args[0].shape
    if layout is None:
        return None
    before, after = shape[: layout.axis].numel(), shape[layout.axis + 1 :].numel()
    for axis in range(out.dim()):
        if out.shape[:axis].numel() != before or out.size(axis) % shape[layout.axis]:
            continue
        inner = out.size(axis) // shape[layout.axis]
        if inner * out.shape[axis + 1 :].numel() == after:
            return Layout(axis, tuple(Block(b.space, b.inner * inner) for b in layout.blocks))
    return None


def _swap(followed: Followed, name: str, args: Any, kwargs: Any, out: Any) -> Layout | None:
    layout, ndim = followed.get(args[0]), args[0].dim()
    if layout is None:
        return None
    order = list(range(ndim))
    if name == "permute":
        given = args[1] if len(args) == 2 and not isinstance(args[1], int) else args[1:]
        order = [d % ndim for d in (given or kwargs["dims"])]
    else:
        a, b = (args[1] % ndim, args[2] % ndim) if len(args) > 2 else (ndim - 2, ndim - 1)
        order[a], order[b] = order[b], order[a]
    return Layout(order.index(layout.axis), layout.blocks)


def _join(followed: Followed, name: str, args: Any, kwargs: Any, out: Any) -> Layout | None:
    """Join along the channels: blocks beside one another; along another axis: all must have the same channels."""
    parts = list(args[0]) if args else list(kwargs["tensors"])
    dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0)) % out.dim()
    layouts = [followed.get(part) for part in parts]
    axes = {at.axis for at in layouts if at is not None}
    if len(axes) != 1:
        return None
    axis = axes.pop()
    if name != "stack" and dim == axis:
        fixed = [(Block(-1, part.size(axis)),) for part in parts]
        return Layout(axis, sum((f if at is None else at.blocks for f, at in zip(fixed, layouts, strict=True)), ()))
    if any(at is None for at in layouts):
        return None
    first = layouts[0]
    assert first is not None
    for at in layouts[1:]:
        assert at is not None
        followed.spaces.unify(first.blocks, at.blocks, f"they meet other values in '{name}'")
    return Layout(axis + (name == "stack" and dim <= axis), first.blocks)


def _rows(followed: Followed, name: str, args: Any, kwargs: Any, out: Any) -> Layout | None:
    """Choose rows: the axes behind the first stay."""
    layout = followed.get(args[0])
    if layout is None or layout.axis == 0:
        return None
    if name == "getitem":
        index = args[1]
        plain = isinstance(index, int | slice | list) or (isinstance(index, Tensor) and index.dim() == 1)
        return Layout(layout.axis - isinstance(index, int), layout.blocks) if plain else None
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return layout if isinstance(dim, int) and dim % args[0].dim() != layout.axis else None


def _scatter(followed: Followed, name: str, args: Any, kwargs: Any, out: Any) -> Layout | None:
    source = args[3] if len(args) > 3 else kwargs.get("src", kwargs.get("source"))
    layout, dim = followed.get(source), args[1] if len(args) > 1 else kwargs["dim"]
    if layout is None or dim % source.dim() == layout.axis or followed.get(args[0]) is not None:
        return None
    return layout


def _matmul(followed: Followed, name: str, args: Any, kwargs: Any, out: Any) -> Layout | None:
    """A matrix times rows of channels, such as an adjacency."""
    layout = followed.get(args[1])
    if followed.get(args[0]) is not None or layout is None or layout.axis != args[1].dim() - 1:
        return None
    return Layout(out.dim() - 1, layout.blocks)


_Rule = Callable[[Followed, str, Any, Any, Any], Layout | None]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys([*HOMOGENEOUS, *POINTWISE], _keep),
    **dict.fromkeys([*TWO, *PRODUCT], _two),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(
        ("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as", "expand_as"),
        _reshape,
    ),
    **dict.fromkeys(("t", "T", "mT", "transpose", "permute", "swapaxes"), _swap),
    **dict.fromkeys([*JOINS, "stack"], _join),
    **dict.fromkeys(("getitem", "index_select", "narrow"), _rows),
    **dict.fromkeys(("scatter_add", "scatter_reduce", "index_add"), _scatter),
    **dict.fromkeys(("matmul", "mm", "spmm"), _matmul),
}


def follow(followed: Followed, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Note which channels the result of a function has; `name` is the function's without underscores around it."""
    args = args[:1] if name in LIKE_SECOND else args
    given = [t for t in tensors_of((args, kwargs)) if followed.get(t) is not None]
    results = list(tensors_of(out))
    if name == "setitem":
        followed.freeze((args, kwargs), "some of their values are set")
    if not given or not results or name.startswith(NOTHING_READ) or name.endswith("_like"):
        return
    if name.endswith("_") and any(r is args[0] for r in results):
        name = name.rstrip("_")
    how = _RULES.get(name)
    layout = how(followed, name, args, kwargs, out) if how else None
    if layout is None or any(not _fits(followed.spaces, layout, result) for result in results):
        if layout is not NO_CHANNELS:
            followed.freeze((args, kwargs), f"they pass through '{name}', which is not understood")
        return
    for result in results:
        followed.put(result, layout)


def _fits(spaces: Spaces, layout: Layout, result: Tensor) -> bool:
    return layout.axis < result.dim() and result.size(layout.axis) == spaces.length(layout.blocks)
