"""Look into the frames of a recording: unreadable images, wrong depth scale, wrong poses."""

import itertools
import logging
from typing import Protocol

import numpy as np

from scenerl.preprocess.scene_files import Problem

logger = logging.getLogger(__name__)

MIN_MEDIAN_DEPTH_M = 0.1
MAX_MEDIAN_DEPTH_M = 20.0
MIN_VALID_SHARE = 0.02
"""A depth image with a smaller share of valid pixels is useless."""
MIN_AGREEMENT = 0.35
"""Neighbouring frames of a good recording agree in more of the pixels that both see."""
MIN_OVERLAP = 0.15
"""Share of pixels that must fall into the neighbour for the comparison to say anything."""
AGREE_SHARE = 0.05
"""Two depths agree when they differ by less than this share of the depth."""
POINTS = 1500


class DepthFrames(Protocol):
    """What the checks need of a scene."""

    @property
    def frame_indices(self) -> tuple[int, ...]:
        """Frames to look at, in order."""
        ...

    @property
    def intrinsics_depth(self) -> np.ndarray:
        """float64 [3, 3]."""
        ...

    def color(self, index: int) -> np.ndarray:
        """Decode a colour frame."""
        ...

    def depth_m(self, index: int) -> np.ndarray:
        """Decode a depth frame."""
        ...

    def camera_to_world(self, index: int) -> np.ndarray:
        """Return the pose."""
        ...


def agreement(
    depth_m: np.ndarray,
    other_m: np.ndarray,
    intrinsics: np.ndarray,
    camera_to_other: np.ndarray,
) -> float | None:
    """Return the share of pixels whose depth, seen from another frame, is that frame's depth.

    Args:
        depth_m: float [h, w], 0 = invalid.
        other_m: float [h, w] of the other frame.
        intrinsics: float [3, 3] of both.
        camera_to_other: float [4, 4], camera axes of the first frame to those of the other.

    Returns:
        In [0, 1]; None when the frames overlap too little to tell.
    """
    height, width = depth_m.shape
    step = max(1, int(np.sqrt(height * width / POINTS)))
    v, u = np.mgrid[step // 2 : height : step, step // 2 : width : step].reshape(2, -1)
    z = depth_m[v, u]
    keep = z > 0
    u, v, z = u[keep], v[keep], z[keep]
    rays = np.stack([u, v, np.ones_like(u)], axis=1) @ np.linalg.inv(intrinsics).T
    points = (rays * z[:, None]) @ camera_to_other[:3, :3].T + camera_to_other[:3, 3]
    ahead = points[:, 2] > 1e-3
    image = points[ahead] @ intrinsics.T
    column, row = np.round(image[:, :2] / image[:, 2:]).astype(np.int64).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    seen = other_m[row[inside], column[inside]]
    expected = points[ahead][inside, 2]
    known = seen > 0
    if known.sum() < max(30, MIN_OVERLAP * len(z)):
        return None
    difference = np.abs(seen[known] - expected[known])
    return float((difference < AGREE_SHARE * expected[known]).mean())


def check_images(scene: DepthFrames) -> tuple[list[Problem], dict[int, np.ndarray]]:
    """Decode every frame.

    Returns:
        Problems, and the depth images of the frames without one.
    """
    problems, depths = [], {}
    for index in scene.frame_indices:
        try:
            scene.color(index)
            depth = scene.depth_m(index)
        except (OSError, ValueError, SyntaxError) as error:
            reason = f"an image of the frame cannot be decoded: {error}"
            problems.append(Problem(frame_index=index, code="image_unreadable", reason=reason))
            continue
        valid = depth[depth > 0]
        if valid.size < MIN_VALID_SHARE * depth.size:
            share = 100 * valid.size / depth.size
            reason = f"only {share:.1f} % of the depth pixels are valid"
            problems.append(Problem(frame_index=index, code="depth_empty", reason=reason))
            continue
        median = float(np.median(valid))
        if not MIN_MEDIAN_DEPTH_M <= median <= MAX_MEDIAN_DEPTH_M:
            reason = (
                f"median depth is {median:.3g} m, expected {MIN_MEDIAN_DEPTH_M} to "
                f"{MAX_MEDIAN_DEPTH_M:.0f} m; is depth_scale (units per metre) in scene.json right?"
            )
            problems.append(Problem(frame_index=index, code="depth_scale", reason=reason))
            continue
        depths[index] = depth
    return problems, depths


def _agreements(
    scene: DepthFrames, depths: dict[int, np.ndarray], poses: dict[int, np.ndarray]
) -> dict[int, float]:
    """Return each frame's best agreement with the frames before and after it."""
    order = sorted(depths)
    best: dict[int, float] = {}
    for one, two in itertools.pairwise(order):
        relative = np.linalg.inv(poses[two]) @ poses[one]
        for frame, other, motion in ((one, two, relative), (two, one, np.linalg.inv(relative))):
            share = agreement(depths[frame], depths[other], scene.intrinsics_depth, motion)
            if share is not None:
                best[frame] = max(best.get(frame, 0.0), share)
    return best


def check_poses(scene: DepthFrames, depths: dict[int, np.ndarray]) -> list[Problem]:
    """Compare every frame with its neighbours through depth and poses.

    A frame that agrees with neither neighbour is a problem; when most frames are, the reason says
    which other convention would agree.
    """
    poses = {index: scene.camera_to_world(index) for index in depths}
    best = _agreements(scene, depths, poses)
    bad = [index for index, share in best.items() if share < MIN_AGREEMENT]
    if not bad:
        return []
    hint = ""
    if len(bad) > len(best) / 2:
        found = _explain(scene, depths, poses)
        hint = f"; {found}" if found else "; do poses, depth and intrinsics belong together?"
    return [
        Problem(
            frame_index=index,
            code="frames_disagree",
            reason=f"{100 * best[index]:.0f} % of its depth pixels agree with its neighbours, "
            f"expected at least {100 * MIN_AGREEMENT:.0f} %{hint}",
        )
        for index in bad
    ]


def _explain(
    scene: DepthFrames, depths: dict[int, np.ndarray], poses: dict[int, np.ndarray]
) -> str | None:
    """Try the usual mistakes and name the one that makes the frames agree."""
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    guesses: list[tuple[str, dict[int, np.ndarray], float]] = [
        ("the poses are world-to-camera: invert them", _map(poses, np.linalg.inv), 1.0),
        (
            "the poses have OpenGL axes: negate their columns y and z",
            _map(poses, lambda p: p @ flip),
            1.0,
        ),
    ]
    for factor in (0.001, 0.1, 0.2, 0.25, 4.0, 5.0, 10.0, 1000.0):
        text = f"the depth is {factor:g} times too small: divide depth_scale by {factor:g}"
        guesses.append((text, poses, factor))
    for text, guess, factor in guesses:
        scaled = {index: depth * factor for index, depth in depths.items()}
        shares = list(_agreements(scene, scaled, guess).values())
        if shares and float(np.median(shares)) > 0.6:
            return text
    return None


def _map(poses: dict[int, np.ndarray], change: "Change") -> dict[int, np.ndarray]:
    return {index: change(pose) for index, pose in poses.items()}


class Change(Protocol):
    """Another reading of a pose."""

    def __call__(self, pose: np.ndarray, /) -> np.ndarray:
        """Return the pose in the usual convention."""
        ...


def check_content(scene: DepthFrames) -> list[Problem]:
    """Decode and compare all frames of a scene; slow, meant to run once, when data comes in.

    Returns:
        A problem for every frame that should not be used.
    """
    problems, depths = check_images(scene)
    return problems + check_poses(scene, depths)
