"""Do images that a generator draws repeat forgotten ones? Distances to the nearest forgotten and retained images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError


@dataclass(frozen=True)
class Memorised:
    """How near drawn images lie to training images; read it beside the values of retrained models.

    Args:
        to_forgotten: mean distance to the nearest forgotten image, as a root mean squared difference of values.
        to_retained: mean distance to the nearest retained image.
        nearer_forgotten: share of drawn images that lie nearer to a forgotten image than to any retained one.
        copies: share that lie much nearer: at most `ratio` times as far.
        recovered: share of the forgotten images that some copy lies nearest to.
    """

    to_forgotten: float
    to_retained: float
    nearer_forgotten: float
    copies: float
    recovered: float


def memorised_images(drawn: Tensor, forgotten: Tensor, retained: Tensor, ratio: float = 0.5) -> Memorised:
    """Return how near drawn images lie to forgotten and to retained ones.

    An absolute distance says little: smooth images lie near to everything. A copy is one that is near *for an image of
    its kind*, with the retained images as the measure (`arXiv:2301.13188 <https://arxiv.org/abs/2301.13188>`_ takes
    the nearest neighbours for it).

    Args:
        drawn: images `[num_drawn, ...]`, or features of them `[num_drawn, dim]`.
        forgotten: `[num_forgotten, ...]`, likewise.
        retained: `[num_retained, ...]`, likewise.
        ratio: a copy is at most so many times as far from a forgotten image as from all retained ones, in (0, 1].

    Raises:
        InvalidInputError: shapes differ, no images, NaN or infinity, or a ratio outside (0, 1].
    """
    check_number("ratio", ratio, positive=True)
    if ratio > 1:
        raise InvalidInputError(f"Expected 'ratio' of at most 1 (got {ratio:g})")
    shapes = [tuple(part.shape[1:]) for part in (drawn, forgotten, retained)]
    if len(set(shapes)) > 1 or not all(part.size(0) for part in (drawn, forgotten, retained)):
        counts = [part.size(0) for part in (drawn, forgotten, retained)]
        raise InvalidInputError(f"Expected images of one shape in every part (got {shapes} and {counts} images)")
    if not bool(torch.isfinite(drawn).all()):
        raise InvalidInputError("Expected finite images (got NaN or infinity); the generator may be broken")
    near, which = nearest_items(drawn, forgotten)
    far, _ = nearest_items(drawn, retained)
    copy = near <= ratio * far
    return Memorised(
        to_forgotten=float(near.mean()),
        to_retained=float(far.mean()),
        nearer_forgotten=float((near < far).double().mean()),
        copies=float(copy.double().mean()),
        recovered=which[copy].unique().numel() / forgotten.size(0),
    )


def nearest_items(items: Tensor, others: Tensor, chunk: int = 2**24) -> tuple[Tensor, Tensor]:
    """Return distance (a root mean squared difference) and index of the nearest of `others`, `[num_items]` each.

    Args:
        items: `[num_items, ...]`.
        others: `[num_others, ...]`.
        chunk: most distances held at a time.
    """
    x, y = items.detach().flatten(1).double(), others.detach().flatten(1).double()
    parts = []
    for rows in x.split(max(1, chunk // max(y.size(0), 1))):
        parts.append(torch.cdist(rows, y, compute_mode="donot_use_mm_for_euclid_dist").min(1))
    return (
        torch.cat([part.values for part in parts]) / x.size(1) ** 0.5,
        torch.cat([part.indices for part in parts]),
    )
