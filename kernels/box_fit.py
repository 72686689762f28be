"""The axis-aligned box around points."""

import torch
from jaxtyping import Float
from torch import Tensor


def fit_box(
    points: Float[Tensor, "n 3"],
    trim: float = 0.0,
    weights: Float[Tensor, "n"] | None = None,
) -> Float[Tensor, "6"]:
    """Bound points by weighted quantiles.

        lower_i = min {x : W(x_i <= x) > trim W},  upper_i = max {x : W(x_i >= x) > trim W}

    Args:
        points: At least one point.
        trim: Share of the weight that may lie outside at each of the six sides, in [0, 0.5); 0
            gives the exact bounds.
        weights: Non-negative weight of each point with a positive sum; None counts each once.

    Returns:
        (xmin, ymin, zmin, xmax, ymax, zmax).

    Raises:
        ValueError: If there is no point, or `trim` is out of range.
    """
    if len(points) == 0:
        raise ValueError("no points to fit a box to; check for an empty cloud first")
    if not 0.0 <= trim < 0.5:
        raise ValueError(f"trim is {trim}, expected a share in [0, 0.5)")
    if trim == 0.0:
        return torch.cat([points.amin(dim=0), points.amax(dim=0)])
    weights = torch.ones_like(points[:, 0]) if weights is None else weights
    ordered, order = points.sort(dim=0)  # [n, 3]
    below = weights.double()[order].cumsum(dim=0)  # [n, 3]
    total = below[-1, 0]
    above = total - below + weights.double()[order]
    lower = (below > trim * total).int().argmax(dim=0)
    upper = len(points) - 1 - (above > trim * total).flip(0).int().argmax(dim=0)
    axes = torch.arange(3, device=points.device)
    return torch.cat([ordered[lower, axes], ordered[upper, axes]])
