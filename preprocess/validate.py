"""Look into the frames of a recording: unreadable images, wrong depth scale, wrong poses."""

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from scenerl.preprocess.scene_files import Problem

logger = logging.getLogger(__name__)

MIN_MEDIAN_DEPTH_M = 0.1
MAX_MEDIAN_DEPTH_M = 20.0
MIN_VALID_SHARE = 0.02
"""A depth image with a smaller share of valid pixels is useless."""
MIN_AGREEMENT = 0.5
"""Neighbouring frames of a good recording agree in more of the pixels that both see."""
CLEAR_AGREEMENT = 0.9
"""With more agreement than this between distant frames no other convention is tried."""
MIN_OVERLAP = 0.15
"""Share of pixels that must fall into the neighbour for the comparison to say anything."""
AGREE_SHARE = 0.03
"""Two depths agree when they differ by less than this share of the depth."""
CLEAR_MARGIN = 0.12
"""By so much more the frames must agree under another convention than under the stated one ..."""
MIN_EXPLAINED = 0.75
"""... and at least so much, before that convention is named."""
POINTS = 1500
UNEXPLAINED = "do they belong together?"
MIN_PAIRS = 5
MAX_PAIRS = 40
MAX_OFF_CENTRE = 0.05
"""A principal point farther from the middle of the image, as a share of the image, makes another
resolution of the intrinsics likely enough that a small gain in agreement proves it."""
DEPTH_MISTAKES = {
    0.001: "1000 times too large",
    0.01: "100 times too large",
    0.1: "10 times too large",
    0.2: "5 times too large",
    0.25: "4 times too large",
    0.5: "2 times too large",
    2.0: "2 times too small",
    4.0: "4 times too small",
    5.0: "5 times too small",
    10.0: "10 times too small",
    100.0: "100 times too small",
    1000.0: "1000 times too small",
}
"""Correcting factor -> what is wrong."""


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
    ahead = points[:, 2] > 1e-6
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
        valid = np.count_nonzero(depth > 0)
        if valid < MIN_VALID_SHARE * depth.size:
            share = 100 * valid / depth.size
            reason = f"only {share:.1f} % of the depth pixels are valid"
            problems.append(Problem(frame_index=index, code="depth_empty", reason=reason))
            continue
        depths[index] = depth
    return problems, depths


def check_range(scene: DepthFrames, depths: dict[int, np.ndarray]) -> list[Problem]:
    """Find frames whose median depth no room has; where all are, say which factor would fit."""
    medians = {index: float(np.median(depth[depth > 0])) for index, depth in depths.items()}
    outside = {
        index: median
        for index, median in medians.items()
        if not MIN_MEDIAN_DEPTH_M <= median <= MAX_MEDIAN_DEPTH_M
    }
    cause = "is depth_scale (units per metre) in scene.json right?"
    if len(outside) > len(depths) / 2:
        poses = {index: scene.camera_to_world(index) for index in depths}
        cause = _explain(scene, depths, poses, in_range=False) or cause
    return [
        Problem(
            frame_index=index,
            code="depth_scale",
            reason=f"median depth is {median:.3g} m, expected {MIN_MEDIAN_DEPTH_M} to "
            f"{MAX_MEDIAN_DEPTH_M:.0f} m; {cause}",
        )
        for index, median in outside.items()
    ]


def _pair_agreements(
    depths: dict[int, np.ndarray],
    poses: dict[int, np.ndarray],
    intrinsics: np.ndarray,
    pairs: list[tuple[int, int]],
) -> list[float]:
    """Return the agreement of each pair of frames that overlap."""
    shares = []
    for one, two in pairs:
        relative = np.linalg.inv(poses[two]) @ poses[one]
        share = agreement(depths[one], depths[two], intrinsics, relative)
        if share is not None:
            shares.append(share)
    return shares


def _neighbour_agreements(
    scene: DepthFrames, depths: dict[int, np.ndarray], poses: dict[int, np.ndarray]
) -> dict[int, float]:
    """Return each frame's best agreement with the frames before and after it."""
    best: dict[int, float] = {}
    for one, two in itertools.pairwise(sorted(depths)):
        for pair in ((one, two), (two, one)):
            for share in _pair_agreements(depths, poses, scene.intrinsics_depth, [pair]):
                best[pair[0]] = max(best.get(pair[0], 0.0), share)
    return best


def check_poses(scene: DepthFrames, depths: dict[int, np.ndarray]) -> list[Problem]:
    """Compare frames with each other through depth and poses.

    A frame that agrees with neither neighbour is a problem. When another convention of poses or
    depth would make the whole recording agree better, every frame is one, and the reason says
    which convention.
    """
    if not depths:
        return []
    poses = {index: scene.camera_to_world(index) for index in depths}
    best = _neighbour_agreements(scene, depths, poses)
    bad = [index for index, share in best.items() if share < MIN_AGREEMENT]
    hint = _explain(scene, depths, poses)
    if hint is not None:
        return [
            Problem(frame_index=index, code="wrong_convention", reason=hint)
            for index in sorted(depths)
        ]
    return [
        Problem(
            frame_index=index,
            code="frames_disagree",
            reason=f"{100 * best[index]:.0f} % of its depth pixels agree with its neighbours, "
            f"expected at least {100 * MIN_AGREEMENT:.0f} %",
        )
        for index in bad
    ]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Guess:
    """A usual mistake, put right."""

    text: str
    """What is wrong and what to do."""
    depths: dict[int, np.ndarray]
    poses: dict[int, np.ndarray]
    intrinsics: np.ndarray
    margin: float = CLEAR_MARGIN
    """How much more the frames must agree under the guess than as stated."""


def _guesses(
    scene: DepthFrames, depths: dict[int, np.ndarray], poses: dict[int, np.ndarray]
) -> list[_Guess]:
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    stated = _Guess(text="", depths=depths, poses=poses, intrinsics=scene.intrinsics_depth)

    def turned(text: str, change: Callable[[np.ndarray], np.ndarray]) -> _Guess:
        return replace(stated, text=text, poses={n: change(pose) for n, pose in poses.items()})

    guesses = [
        turned("the poses seem to be world-to-camera; invert them", np.linalg.inv),
        turned(
            "the poses seem to have OpenGL axes; negate their columns y and z",
            lambda pose: pose @ flip,
        ),
        turned(
            "the poses seem to be world-to-camera with OpenGL axes; invert them, then negate their "
            "columns y and z",
            lambda pose: np.linalg.inv(pose) @ flip,
        ),
    ]
    for factor, mistake in DEPTH_MISTAKES.items():
        text = f"the depth seems {mistake}; correct depth_scale in scene.json"
        scaled = {index: depth * factor for index, depth in depths.items()}
        guesses.append(replace(stated, text=text, depths=scaled))
    other = _other_resolution(stated, next(iter(depths.values())).shape)
    return guesses if other is None else [*guesses, other]


def _other_resolution(stated: _Guess, shape: tuple[int, ...]) -> _Guess | None:
    """Guess the resolution that off-centre intrinsics belong to: its middle is their centre."""
    K, size = stated.intrinsics, np.array([shape[1], shape[0]])
    belongs = 2 * K[:2, 2] + 1  # (width, height) with the principal point in the middle
    if (np.abs(belongs / size - 1) < 2 * MAX_OFF_CENTRE).all():
        return None
    scaled = np.diag([*(size / belongs), 1.0]) @ K
    text = (
        f"the intrinsics seem to be of about {belongs[0]:.0f}x{belongs[1]:.0f} pixels, but the "
        f"depth frames are {size[0]}x{size[1]}; give the intrinsics of this resolution"
    )
    return replace(stated, text=text, intrinsics=scaled, margin=0.02)


def _explain(
    scene: DepthFrames,
    depths: dict[int, np.ndarray],
    poses: dict[int, np.ndarray],
    *,
    in_range: bool = True,
) -> str | None:
    """Name what is wrong when distant frames disagree; None when they do not.

    The farther two frames are apart, the better they show a wrong scale, but the fewer overlap.
    Depth that is known to be out of range may overlap nowhere as stated.
    """
    order, guesses, last = sorted(depths), _guesses(scene, depths, poses), None
    off_centre = any(guess.margin < CLEAR_MARGIN for guess in guesses)
    for distance in (6, 3, 1):
        pairs = list(zip(order, order[distance:], strict=False))
        pairs = pairs[:: max(1, len(pairs) // MAX_PAIRS)]
        stated = _pair_agreements(depths, poses, scene.intrinsics_depth, pairs)
        if len(stated) < MIN_PAIRS and in_range:
            continue
        stated_share = float(np.median(stated)) if len(stated) >= MIN_PAIRS else 0.0
        if stated_share > CLEAR_AGREEMENT and not off_centre:
            return None
        best_share, best_text = 0.0, UNEXPLAINED
        for guess in guesses:
            shares = _pair_agreements(guess.depths, guess.poses, guess.intrinsics, pairs)
            share = float(np.median(shares)) if len(shares) >= MIN_PAIRS else 0.0
            if share > max(best_share, stated_share + guess.margin, MIN_EXPLAINED):
                best_share = share
                best_text = f"{100 * share:.0f} % would agree if right: {guess.text}"
        found = f"frames {distance} apart agree in {100 * stated_share:.0f} % of their depth pixels"
        reason = f"depth and poses do not fit: {found}; {best_text}"
        if best_text != UNEXPLAINED:
            return reason
        if stated_share > CLEAR_AGREEMENT:
            return None
        if stated_share < MIN_AGREEMENT and last is None:
            last = reason
    return last


def check_content(scene: DepthFrames) -> list[Problem]:
    """Decode and compare all frames of a scene; slow, meant to run once, when data comes in.

    Returns:
        A problem for every frame that should not be used.
    """
    problems, depths = check_images(scene)
    problems += check_range(scene, depths)
    bad = {problem.frame_index for problem in problems}
    return problems + check_poses(scene, {n: d for n, d in depths.items() if n not in bad})
