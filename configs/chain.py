"""The settings of the way from a reply to 3D: tracker, lift and the chain of them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackerConfig:
    """How a box becomes masks over frames."""

    name: Literal["sam2", "reproject"] = "sam2"
    checkpoint: str = "tiny"
    """SAM2 weights (.safetensors or .pt); "tiny" is the embedded tracker."""
    config: str | None = None
    """SAM2 model YAML (a file, or a name in the sam2 package); None for "tiny"."""
    max_frames: int = 64
    """Frames tracked around the prompted one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LiftConfig:
    """How masks become points and a box."""

    recipe: Literal["consensus", "open3d"] = "consensus"
    """"consensus" keeps voxels that several views agree on. "open3d" gives what the usual Open3D
    calls give (voxel_down_sample, remove_statistical_outlier, cluster_dbscan, the largest cluster),
    with outlier_neighbors, outlier_std_ratio, component_radius_m and cluster_min_points."""
    voxel_m: float = 0.02
    min_depth_m: float = 0.1
    max_depth_m: float = 10.0
    edge_jump_m: float = 0.1
    """A depth pixel beside a jump larger than this is a flying pixel and is left out; 0 keeps."""
    min_view_share: float = 0.5
    """A voxel stays when at least this share of the frames that could see it agree."""
    surface_tolerance_m: float = 0.05
    """Depth error under which a frame still sees a voxel on its surface."""
    max_vote_views: int = 64
    """At most so many of the object's frames, evenly chosen, are asked whether they agree."""
    outlier_neighbors: int = 16
    outlier_std_ratio: float = 2.0
    """Statistical outlier removal; 0 neighbours switches it off."""
    component_radius_m: float = 0.1
    """Points nearer than this are connected; the strongest component is the object; 0 keeps all."""
    component_min_share: float = 0.3
    """A further component stays with at least this share of the strongest one's evidence, so that
    a lamp keeps its foot when the pole is too thin to see; 1 keeps only the strongest."""
    cluster_min_points: int = 10
    """Recipe "open3d" only: min_points of DBSCAN."""
    box_trim: float = 0.001
    """Share of the object's pixels that may lie outside the box at each of its six sides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroundConfig:
    """The chain span -> box -> masks -> 3D."""

    stage1: str | None = None
    """Policy of the temporal step: a run directory or a model; None uses model.path."""
    stage2: str | None = None
    """Policy of the box step; None uses model.path."""
    prompted_frames: int = 3
    """Frames of the span that are asked for a box and prompt the tracker."""
    track_margin_s: float = 2.0
    """Frames within the span widened by this much at both ends are tracked and lifted."""
