"""How ScanNet scans are prepared, and what counts as a fault of theirs."""

import re
from dataclasses import dataclass
from typing import Literal

from scenerl.preprocess.store import Skipped

ORDINARY = ("pose_not_finite", "depth_empty", "never visible", "not annotated", "not in the splits")
"""What is left out of sound ScanNet data as well; anything else means that a file is damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannetConfig:
    """How scans are prepared."""

    dataset: str = "scannet"
    split: str = "train"
    """Of scans that no list names; only used without lists."""
    splits: tuple[str, ...] = ()
    """Files of scan ids, whose names say train, val or test."""
    labels: str | None = None
    """scannetv2-labels.combined.tsv; None leaves classes open, and all boxes are kept."""
    every: int = 15
    """Keep frames 0, N, 2 N, ..."""
    resize: tuple[int, int] | None = None
    """(width, height) of colour frames; None copies them as they are."""
    axis_align: bool = True
    """Turn the world by a scan's axisAlignment; the benchmarks' boxes live there."""
    boxes: Literal["official", "sound"] = "official"
    workers: int = 1
    stretch: int = 100
    """Frames that one process converts before it records that they are done."""

    def __post_init__(self) -> None:
        """Refuse what cannot be prepared."""
        if self.every < 1 or self.workers < 1 or self.stretch < 1 or not self.dataset:
            raise ValueError(
                f"found every={self.every}, workers={self.workers}, stretch={self.stretch}, "
                f"dataset={self.dataset!r}; expected numbers of at least 1 and a name"
            )
        if not re.fullmatch(r"[\w-]+", self.split):
            raise ValueError(f"split is {self.split!r}; expected letters, digits, _ and -")
        if self.resize is not None and not all(16 <= side <= 8192 for side in self.resize):
            raise ValueError(f"resize is {self.resize}; expected sides of 16 to 8192 pixels")


def skip(config: ScannetConfig, scan_id: str, item: str, reason: str, detail: str = "") -> Skipped:
    """Return a row of the manifest about something left out."""
    return Skipped(
        dataset=config.dataset, scene_id=scan_id, item=item, reason=reason, detail=detail
    )
