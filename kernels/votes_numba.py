"""Which frames could see a point, and which of them mark it, compiled.

A loop for each step, in blocks of points that stay in the first cache: loops without branches
become wide instructions, and reads that do not wait for each other are under way at once. The torch
twin is in `kernels/fuse_torch.py`.
"""

import numba
import numpy as np

BLOCK = 512
"""Points that are projected before any pixel is looked up."""


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _find_pixels(px, py, pz, camera, cut, size, ahead, places):
    """Project a block of points without branches.

    Writes depth along z (infinite where a point falls on no pixel), and the place of its pixel in
    the depth image and in the patch (0 for none; then the last row is 0, else 1).
    """
    r, t = camera.rotation, camera.centre
    r00, r01, r02, r10, r11, r12 = r[0, 0], r[0, 1], r[0, 2], r[1, 0], r[1, 1], r[1, 2]
    r20, r21, r22, t0, t1, t2 = r[2, 0], r[2, 1], r[2, 2], t[0], t[1], t[2]
    fx, fy, u0, v0 = camera.fx, camera.fy, camera.cx, camera.cy
    height, width, top, left = float(size[0]), float(size[1]), float(cut.top), float(cut.left)
    bottom, right = top + cut.mask.shape[0], left + cut.mask.shape[1]
    line, cut_line = np.int32(size[1]), np.int32(cut.mask.shape[1])
    for k in range(len(px)):
        x, y, z = px[k] - t0, py[k] - t1, pz[k] - t2
        depth = x * r02 + y * r12 + z * r22
        front = depth > 1e-9
        over = depth if front else 1.0
        u = np.floor((x * r00 + y * r10 + z * r20) / over * fx + u0 + 0.5)
        v = np.floor((x * r01 + y * r11 + z * r21) / over * fy + v0 + 0.5)
        seen = front & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        u, v = (u if seen else 0.0), (v if seen else 0.0)
        ahead[k] = depth if seen else np.inf
        places[0, k] = np.int32(v) * line + np.int32(u)
        cut_in = seen & (u >= left) & (u < right) & (v >= top) & (v < bottom)
        u, v = (u - left if cut_in else 0.0), (v - top if cut_in else 0.0)
        places[1, k] = np.int32(v) * cut_line + np.int32(u)
        places[2, k] = np.uint32(1) if cut_in else np.uint32(0)


@numba.njit(cache=True, nogil=True)
def _look_up(values, places, out):
    """Read values at places: nothing waits for anything, so that many reads are under way.

    Places have no sign, so that nothing looks whether they count from the end.
    """
    for k in range(len(out)):
        out[k] = values[places[k]]


@numba.njit(cache=True, nogil=True)
def _judge(surface, ahead, marked, limits, tolerance, could_see, marks):
    """Count the points that could be seen, and those of them that are marked on the surface."""
    near, far = limits.near, limits.far
    for k in range(len(surface)):
        s, z = surface[k], ahead[k]
        usable = (s >= near) & (s <= far) & (s > 0) & (s < np.float32(np.inf))
        seen = usable & (z <= np.float64(s) + tolerance)
        could_see[k] += np.int32(1) if seen else np.int32(0)
        on_surface = seen & (z >= np.float64(s) - tolerance)
        marks[k] += marked[k] if on_surface else np.int32(0)


@numba.njit(cache=True, nogil=True)
def vote_cut(depth, cut, camera, limits, points, tolerance, votes):
    """Add to int32 [2, n] whether this frame could see and marks each of the points [3, n].

    A patch without rows says that the object is not seen in the frame.
    """
    flat, mask = depth.reshape(-1), cut.mask.reshape(-1)
    if len(mask) == 0:  # the object is not seen in this frame
        mask = np.zeros(1, np.uint8)
    ahead, places = np.empty(BLOCK), np.empty((3, BLOCK), np.uint32)
    px, py, pz = points[0], points[1], points[2]
    surface, marked = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    for begin in range(0, points.shape[1], BLOCK):
        end = min(begin + BLOCK, points.shape[1])
        count = end - begin
        x, y, z = px[begin:end], py[begin:end], pz[begin:end]
        _find_pixels(x, y, z, camera, cut, depth.shape, ahead, places)
        _look_up(flat, places[0], surface[:count])
        _look_up(mask, places[1], marked[:count])
        for k in range(count):
            marked[k] &= places[2, k]
        could_see, marks = votes[0, begin:end], votes[1, begin:end]
        _judge(surface[:count], ahead, marked, limits, tolerance, could_see, marks)
