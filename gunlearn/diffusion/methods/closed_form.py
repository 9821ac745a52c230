r"""Linear maps that send given inputs elsewhere and others where they went, by least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError


def edited_map(
    weight: Tensor,
    inputs: Tensor,
    values: Tensor,
    preserve: Tensor | None = None,
    *,
    ridge: float = 0.5,
    erase_weight: float = 1.0,
    preserve_weight: float = 1.0,
) -> Tensor:
    r"""Return the linear map that sends `inputs` to `values`, and otherwise stays near `weight`.

    With rows :math:`c_i` of `inputs`, :math:`v_i` of `values` and :math:`p_j` of `preserve`, it minimises

    .. math:: e \sum_i \| W c_i - v_i \|^2 + p \sum_j \| W p_j - W_0 p_j \|^2 + \lambda \| W - W_0 \|_F^2

    which is equation 7 of UCE (arXiv 2308.14761) and the refinement of MACE (arXiv 2403.06135). Solved in float64 for
    :math:`W - W_0`, so that a map that already does what is asked stays as it is. Without a ridge, of all minima the
    nearest to `weight`.

    Args:
        weight: :math:`W_0` `[d_out, d_in]`; never changed.
        inputs: `[num_inputs, d_in]`.
        values: `[num_inputs, d_out]`.
        preserve: `[num_preserved, d_in]`; `None` for none.
        ridge: :math:`\lambda`, at least 0.
        erase_weight: :math:`e`, above 0.
        preserve_weight: :math:`p`, at least 0.

    Returns:
        `[d_out, d_in]` in the type and on the device of `weight`.

    Raises:
        InvalidInputError: shapes that do not fit, a weight out of range, or NaN or infinity in a tensor.

    Example:
        >>> import torch
        >>> from gunlearn.diffusion.methods.closed_form import edited_map
        >>> edited_map(torch.eye(2), torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), ridge=0.0).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    check_number("ridge", ridge, minimum=0.0)
    check_number("erase_weight", erase_weight, positive=True)
    check_number("preserve_weight", preserve_weight, minimum=0.0)
    kept = weight.new_zeros(0, weight.size(-1)) if preserve is None else preserve
    wanted = ((inputs.shape[:1], weight.shape[1:]), (inputs.shape[:1], weight.shape[:1]))
    if weight.dim() != 2 or (inputs.shape[:1], inputs.shape[1:]) != wanted[0] or kept.shape[1:] != weight.shape[1:]:
        got = f"{tuple(inputs.shape)} and {tuple(kept.shape)}"
        raise InvalidInputError(f"Expected inputs [count, d_in] of a weight {tuple(weight.shape)} (got {got})")
    if (values.shape[:1], values.shape[1:]) != wanted[1]:
        raise InvalidInputError(
            f"Expected values {(inputs.size(0), weight.size(0))}, one per input (got {tuple(values.shape)})"
        )
    w, c, v, p = (t.detach().double() for t in (weight, inputs, values, kept))
    for name, tensor in (("weight", w), ("inputs", c), ("values", v), ("preserve", p)):
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInputError(f"Expected finite '{name}' (got NaN or infinity)")
    rows = torch.cat([erase_weight**0.5 * c, preserve_weight**0.5 * p])
    missing = torch.cat([erase_weight**0.5 * (v - c @ w.t()), w.new_zeros(p.size(0), w.size(0))])
    if ridge:
        normal = rows.t() @ rows + ridge * torch.eye(w.size(1), dtype=w.dtype, device=w.device)
        change = torch.linalg.solve(normal, rows.t() @ missing)
    else:
        change = torch.linalg.pinv(rows) @ missing
    return (w + change.t()).to(weight)
