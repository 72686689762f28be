"""Pixels with depth to points in metres, and back: the pinhole camera.

    x_camera = (u - cx) z / fx,  y_camera = (v - cy) z / fy,  x_world = R x_camera + t

OpenCV axes (x right, y down, z forward); integer (u, v) is the centre of a pixel; depth is z, not
the length of the ray. Memory: images are [frames, height, width], points [n, 3], float32 or
float64.
"""

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import max_pool2d, pad


def unproject(
    depth_m: Float[Tensor, "frames height width"],
    mask: Bool[Tensor, "frames height width"],
    intrinsics: Float[Tensor, "3 3"],
    camera_to_world: Float[Tensor, "frames 4 4"],
) -> tuple[Float[Tensor, "n 3"], Int[Tensor, "n 3"]]:
    """Lift the masked pixels that have depth; nothing else is touched.

    Args:
        depth_m: Depth along z in metres; 0 or less, or not finite, means none.
        mask: Pixels to lift.
        intrinsics: K of the depth images.
        camera_to_world: Pose of each frame.

    Returns:
        Points in world axes, in the dtype of `camera_to_world`, and for each its (frame, v, u), in
        row-major order.
    """
    usable = mask & (depth_m > 0) & torch.isfinite(depth_m)
    pixels = usable.nonzero()  # [n, 3]
    frame, v, u = pixels.unbind(dim=1)
    z = depth_m[frame, v, u].to(camera_to_world.dtype)
    K = intrinsics.to(camera_to_world.dtype)
    x = (u - K[0, 2]) / K[0, 0] * z
    y = (v - K[1, 2]) / K[1, 1] * z
    poses = camera_to_world[:, :3][frame]  # [n, 3, 4]
    turned = poses[:, :, 0] * x[:, None] + poses[:, :, 1] * y[:, None] + poses[:, :, 2] * z[:, None]
    return turned + poses[:, :, 3], pixels


def project(
    points_world: Float[Tensor, "n 3"],
    intrinsics: Float[Tensor, "3 3"],
    camera_to_world: Float[Tensor, "*frames 4 4"],
) -> tuple[Float[Tensor, "*frames n 2"], Float[Tensor, "*frames n"]]:
    """Project points into one camera or many.

    Returns:
        (u, v) in pixels and z in metres. Points with z <= 0 lie behind the camera; their (u, v) is
        far outside every image, never NaN.
    """
    rotation, centre = camera_to_world[..., :3, :3], camera_to_world[..., :3, 3]
    points_camera = (points_world - centre[..., None, :]) @ rotation  # [*frames, n, 3]
    z = points_camera[..., 2]
    in_front = z > 1e-9
    safe_z = torch.where(in_front, z, 1.0)
    K = intrinsics.to(points_camera.dtype)
    u = points_camera[..., 0] / safe_z * K[0, 0] + K[0, 2]
    v = points_camera[..., 1] / safe_z * K[1, 1] + K[1, 2]
    uv = torch.stack([u, v], dim=-1)
    return torch.where(in_front[..., None], uv, torch.full_like(uv, -1e6)), z


def nearest_pixels(
    uv: Float[Tensor, "*n 2"], height: int, width: int
) -> tuple[Int[Tensor, "*n"], Int[Tensor, "*n"], Bool[Tensor, "*n"]]:
    """Round to pixels: row, column (clamped into the image) and whether it was inside."""
    column, row = torch.floor(uv + 0.5).long().unbind(dim=-1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return row.clamp(0, height - 1), column.clamp(0, width - 1), inside


def grid_pixels(
    source_size: tuple[int, int],
    target_size: tuple[int, int],
    intrinsics_source: Float[Tensor, "3 3"],
    intrinsics_target: Float[Tensor, "3 3"],
) -> tuple[Int[Tensor, "height width"], Int[Tensor, "height width"], Bool[Tensor, "height width"]]:
    """Find where every pixel of one image lies in another image of the same camera.

    Depth and colour that share an optical centre differ only in K, so the map does not depend on
    depth: u' = fx' (u - cx) / fx + cx'.

    Args:
        source_size: (width, height) of the image whose pixels are asked about.
        target_size: (width, height) of the image they are looked up in.
        intrinsics_source: K of the source image.
        intrinsics_target: K of the target image.

    Returns:
        Row and column in the target for each source pixel, and whether it lies inside.
    """
    (width, height), (target_width, target_height) = source_size, target_size
    device = intrinsics_source.device
    v, u = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float64),
        torch.arange(width, device=device, dtype=torch.float64),
        indexing="ij",
    )
    a, b = intrinsics_source.double(), intrinsics_target.double()
    target_u = (u - a[0, 2]) / a[0, 0] * b[0, 0] + b[0, 2]
    target_v = (v - a[1, 2]) / a[1, 1] * b[1, 1] + b[1, 2]
    return nearest_pixels(torch.stack([target_u, target_v], dim=-1), target_height, target_width)


def flying_pixels(
    depth_m: Float[Tensor, "frames height width"], jump_m: float
) -> Bool[Tensor, "frames height width"]:
    """Mark pixels with one of their 8 neighbours nearer by more than `jump_m`.

    A sensor smears depth over an outline, and a mask bleeds over it: both put points behind the
    surface that ends there. The surface itself has only farther neighbours and keeps its outline.
    """
    valid = (depth_m > 0) & torch.isfinite(depth_m)
    nearness = torch.where(valid, -depth_m, torch.full_like(depth_m, -torch.inf))
    padded = pad(nearness[:, None], (1, 1, 1, 1), value=-torch.inf)
    nearest = -max_pool2d(padded, kernel_size=3, stride=1)[:, 0]  # [frames, height, width]
    return valid & (nearest < depth_m - jump_m)


def sample_colors(
    color: UInt8[Tensor, "height width 3"],
    row: Int[Tensor, "n"],
    column: Int[Tensor, "n"],
) -> UInt8[Tensor, "n 3"]:
    """Look up the colour of pixels."""
    return color[row, column]
