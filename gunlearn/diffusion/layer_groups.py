"""Which layers of a denoiser learn, by the names that ESD gave them."""

from __future__ import annotations

import re

from torch import nn

from gunlearn.errors import UnsupportedModelError

#: Groups of parameters, and what a name must hold (`True`) or must not hold (`False`).
GROUPS: dict[str, tuple[str, bool]] = {
    "full": ("", True),
    "x": (r"attn2\.", True),
    "u": (r"attn2\.", False),
    "strict": (r"attn2\.to_[kv]\.", True),
}


def group_parameters(model: nn.Module, group: str) -> list[nn.Parameter] | None:
    """Return the parameters of a group that require a gradient; `None` for all of them.

    Raises:
        UnsupportedModelError: the model has none in that group.
    """
    if group == "full":
        return None
    pattern, held = GROUPS[group]
    found = [p for name, p in model.named_parameters() if p.requires_grad and bool(re.search(pattern, name)) is held]
    if not found:
        where = "without cross-attention ('attn2')" if held else "whose trainable weights are cross-attention alone"
        raise UnsupportedModelError(
            f"Expected a model with weights of group={group!r} (got {type(model).__name__} {where}); use group='full'"
        )
    return found
