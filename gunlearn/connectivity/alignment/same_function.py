"""Find out by running copies whether a symmetry of the weights leaves a model's function as it is."""

import torch
from torch import Tensor, nn

from gunlearn.connectivity.alignment.channel_structure import ChannelStructure
from gunlearn.connectivity.alignment.model_pair import ModelCall, outputs_of
from gunlearn.connectivity.alignment.symmetry import permuted_weights
from gunlearn.errors import InvalidInputError, UnsupportedModelError

#: Share of the largest output by which two equal functions may differ, in float32.
SAME_WITHIN = 1e-5


def check_structure(structure: ChannelStructure, model: nn.Module, run: ModelCall) -> None:
    """Refuse a structure under which random permutations and factors change what random weights compute.

    Trained weights may hide a mistake in channels that are dead on the data; perturbed ones do not.

    Args:
        structure: of the model.
        model: a copy; its weights are put back.
        run: calls it.
    """
    generator = torch.Generator().manual_seed(0)
    spaces = structure.spaces
    kept = {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    noisy = dict(model.state_dict())
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator).to(value)
        noisy[name] = value + 0.3 * noise * (value.std() if value.numel() > 1 else 0.1)
    for name in structure.axes:  # two names of one tensor have one value
        noisy[name] = noisy[_first_name(model, name)]
    orders = {}
    for space in spaces.free():
        heads = spaces.heads[space]
        size = spaces.sizes[space] // heads
        blocks = torch.randperm(heads, generator=generator)
        orders[space] = torch.cat([b * size + torch.randperm(size, generator=generator) for b in blocks])
    roots = {spaces.scale.find(s) for s in range(len(spaces.sizes)) if not spaces.scale.why(s)}
    factors = {r: torch.rand(spaces.sizes[r], generator=generator, dtype=torch.float64) + 0.5 for r in sorted(roots)}
    try:
        model.load_state_dict(noisy)
        expected = outputs_of(model, run)
        model.load_state_dict(permuted_weights(structure, noisy, orders, factors))
        got = difference(expected, outputs_of(model, run))
    finally:
        model.load_state_dict({**model.state_dict(), **kept})
    checked_difference(got, 10 * SAME_WITHIN)


def _first_name(model: nn.Module, name: str) -> str:
    held = model.state_dict(keep_vars=True)
    return next((key for key, value in model.named_parameters() if value is held[name]), name)


def checked_difference(found: float, tolerance: float = SAME_WITHIN) -> float:
    """Return a difference of outputs, or refuse one above the tolerance, and NaN."""
    if not found <= tolerance:
        raise UnsupportedModelError(
            f"Expected a permuted copy to compute what the model computes (got outputs that differ by {found:.1e} of "
            "the largest): it does something with its channels that was not seen"
        )
    return found


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    """Return the largest difference of outputs, as a share of the largest output."""
    if not any(t.numel() for t in one):
        raise InvalidInputError("Expected data on which models return something (got outputs without a value)")
    largest = max(float(t.abs().max()) for t in one if t.numel()) or 1.0
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True) if a.numel()) / largest
