"""The axis-aligned box around points."""

import torch
from jaxtyping import Float
from torch import Tensor


def fit_box(points: Float[Tensor, "n 3"], trim: float = 0.0) -> Float[Tensor, "6"]:
    """Bound points by their quantiles: lower_i = quantile(x_i, trim), upper_i = quantile(x_i, 1 - trim).

    Args:
        points: At least one point.
        trim: Share of the points to leave outside at each of the six sides, in [0, 0.5); 0 gives
            the exact bounds.

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
    ordered = points.sort(dim=0).values  # [n, 3]
    skip = min(int(trim * len(points)), (len(points) - 1) // 2)
    return torch.cat([ordered[skip], ordered[len(points) - 1 - skip]])
