"""Which object each pixel of a frame shows: rays into the mesh, checked by the sensor's depth."""

from typing import Any

import numpy as np

MAX_RAYS = 640 * 512
"""A larger frame is seen through every second (third, ...) pixel, and the ids repeated."""
NEAR_M = 0.1
SHARE = 0.05
"""Mesh and sensor agree when they differ by less than NEAR_M + SHARE * depth."""


class InstanceViews:
    """A scan's mesh with an object id on each triangle, to be looked at from its cameras."""

    def __init__(
        self, points: np.ndarray, triangles: np.ndarray, vertex_ids: np.ndarray, *, threads: int = 1
    ) -> None:
        """Build the ray caster.

        Args:
            points: float32 [n, 3] in the world of the cameras.
            triangles: int32 [m, 3].
            vertex_ids: uint32 [n], 0 is none. A triangle takes the id of most of its corners,
                of its first when all differ.
            threads: For casting; 0 takes all cores.
        """
        import open3d as o3d

        corners = vertex_ids[triangles]  # [m, 3]
        pair = corners[:, 1] == corners[:, 2]
        self._face_ids = np.where(pair, corners[:, 1], corners[:, 0]).astype(np.uint16)
        self._threads = threads
        self._caster: Any = o3d.t.geometry.RaycastingScene(nthreads=threads)
        self._caster.add_triangles(
            o3d.core.Tensor.from_numpy(np.ascontiguousarray(points, np.float32)),
            o3d.core.Tensor.from_numpy(np.ascontiguousarray(triangles, np.uint32)),
        )

    def cast(self, rays: np.ndarray, camera_to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the object ids, uint16, and depths, float32 metres (inf: nothing), of rays.

        Args:
            rays: float32 [..., 3] camera directions with z = 1.
            camera_to_world: float [4, 4].
        """
        import open3d as o3d

        pose = camera_to_world.astype(np.float32)
        beams = np.empty((*rays.shape[:-1], 6), np.float32)
        beams[..., :3] = pose[:3, 3]
        beams[..., 3:] = rays @ pose[:3, :3].T
        hits = self._caster.cast_rays(o3d.core.Tensor.from_numpy(beams), nthreads=self._threads)
        faces = hits["primitive_ids"].numpy()
        depth_m = hits["t_hit"].numpy()
        is_hit = np.isfinite(depth_m)
        ids = np.zeros(faces.shape, np.uint16)
        ids[is_hit] = self._face_ids[faces[is_hit]]
        return ids, depth_m


class FrameGrid:
    """The rays of a colour camera, and the depth pixel that each of them meets."""

    def __init__(
        self,
        intrinsics_color: np.ndarray,
        color_size: tuple[int, int],
        intrinsics_depth: np.ndarray,
        depth_size: tuple[int, int],
    ) -> None:
        """Lay out the grid.

        Colour and depth share one camera center and orientation, as ScanNet's calibration has it.

        Args:
            intrinsics_color: float [3, 3]; a pixel's center has whole-numbered coordinates.
            color_size: (width, height).
            intrinsics_depth: float [3, 3].
            depth_size: (width, height).
        """
        self.size = color_size
        width, height = color_size
        self.stride = 1
        while -(-width // self.stride) * -(-height // self.stride) > MAX_RAYS:
            self.stride += 1
        u = np.arange(width)[:: self.stride] + (self.stride - 1) / 2
        v = np.arange(height)[:: self.stride] + (self.stride - 1) / 2
        x = (u - intrinsics_color[0, 2]) / intrinsics_color[0, 0]
        y = (v - intrinsics_color[1, 2]) / intrinsics_color[1, 1]
        self.rays = np.ones((len(v), len(u), 3), np.float32)
        self.rays[..., 0], self.rays[..., 1] = x[None, :], y[:, None]
        column = np.round(x * intrinsics_depth[0, 0] + intrinsics_depth[0, 2]).astype(np.int64)
        row = np.round(y * intrinsics_depth[1, 1] + intrinsics_depth[1, 2]).astype(np.int64)
        self._inside = ((row >= 0) & (row < depth_size[1]))[:, None] & (
            (column >= 0) & (column < depth_size[0])
        )
        self._row = np.clip(row, 0, depth_size[1] - 1)
        self._column = np.clip(column, 0, depth_size[0] - 1)

    def see(
        self, views: InstanceViews, camera_to_world: np.ndarray, depth_m: np.ndarray
    ) -> np.ndarray:
        """Return the object that each pixel shows, uint16 [H, W]; 0 is none.

        A pixel whose measured depth is clearly in front of the mesh shows something that the mesh
        does not have; one clearly behind it does not show the object either. Where nothing was
        measured the mesh is believed.

        Args:
            views: The scan's mesh.
            camera_to_world: float [4, 4].
            depth_m: float32 [h, w] metres, 0 = not measured.
        """
        ids, mesh_m = views.cast(self.rays, camera_to_world)
        seen_m = depth_m[np.ix_(self._row, self._column)]
        known = self._inside & (seen_m > 0) & (ids > 0)
        apart = np.abs(seen_m[known] - mesh_m[known]) > NEAR_M + SHARE * mesh_m[known]
        ids[known] = np.where(apart, 0, ids[known])
        if self.stride == 1:
            return ids
        width, height = self.size
        wide = ids.repeat(self.stride, axis=0).repeat(self.stride, axis=1)
        return np.ascontiguousarray(wide[:height, :width])
