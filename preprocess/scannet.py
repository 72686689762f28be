"""Prepare ScanNet v2 scans: `.sens`, mesh and annotation to scene folders and samples."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scenerl.preprocess.records import DataError, Media, Sample, Target
from scenerl.preprocess.scannet_files import (
    ORIGIN,
    ScanFiles,
    find_scans,
    read_nyu40,
    read_splits,
)
from scenerl.preprocess.scannet_frames import Stretch, convert_stretch
from scenerl.preprocess.scannet_objects import BOX_CLASSES
from scenerl.preprocess.scannet_scene import (
    PROVENANCE,
    OpenScan,
    conversion_key,
    finish_scan,
    open_scan,
    stored_conversion,
)
from scenerl.preprocess.scannet_settings import ORDINARY, ScannetConfig, skip
from scenerl.preprocess.scene_writer import folder_hash
from scenerl.preprocess.sens import SensError, read_header
from scenerl.preprocess.store import SceneEntry, Skipped, write_samples

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedScan:
    """What one scan yielded."""

    scan_id: str
    scene: SceneEntry | None
    """None when the scan could not be used."""
    samples: tuple[Sample, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def faults(self) -> dict[str, int]:
        """Reason -> how often, of what sound data does not have."""
        return dict(Counter(s.reason for s in self.skipped if s.reason not in ORDINARY))


def prepare_scans(
    inputs: Sequence[str | Path],
    output: str | Path,
    config: ScannetConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[PreparedScan]:
    """Prepare scans into a data folder, which may hold others already.

    Scans already there with the same files and settings are kept; unfinished ones go on where they
    stopped. A scan that cannot be used is listed and the others go on.

    Args:
        inputs: `.sens` files, scan folders, or folders of scan folders.
        output: The data folder.
        config: How.
        progress: Called with (frames done, frames in all).

    Returns:
        What each scan yielded, in order of their names.

    Raises:
        DataError: If there is no scan at all, or a list or table is missing or broken.
    """
    root = Path(output)
    scans, bare = find_scans(inputs)
    work = _Work(
        root=root,
        config=config,
        nyu40={} if config.labels is None else read_nyu40(config.labels),
        splits=read_splits(config.splits),
    )
    (root / "scenes").mkdir(parents=True, exist_ok=True)
    for folder in bare:
        detail = f"{folder} holds no .sens file. {ORIGIN} it with --type .sens"
        work.refuse(folder.name, "sens_missing", detail)
    work.convert(scans, progress or (lambda done, total: None))
    prepared = [work.results[name] for name in sorted(work.results)]
    write_samples(
        root,
        [sample for made in prepared for sample in made.samples],
        [item for made in prepared for item in made.skipped],
        [made.scene for made in prepared if made.scene is not None],
        replace="scenes",
    )
    return prepared


@dataclass(kw_only=True, slots=True)
class _Work:
    """Scans on their way through the processes."""

    root: Path
    config: ScannetConfig
    nyu40: Mapping[str, int]
    splits: Mapping[str, str]
    results: dict[str, PreparedScan] = field(default_factory=dict)
    scans: dict[str, OpenScan] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    """Scan id -> stretches that are not done."""
    frames: dict[str, int] = field(default_factory=dict)
    """Scan id -> frames that its header promises to give."""
    done: Counter[str] = field(default_factory=Counter)
    """Scan id -> frames that are done."""

    def refuse(self, scan_id: str, reason: str, detail: str) -> None:
        """List a scan that cannot be used."""
        logger.warning("%s is left out: %s", scan_id, detail or reason)
        skipped = skip(self.config, scan_id, "scan", reason, detail)
        self.results[scan_id] = PreparedScan(scan_id=scan_id, scene=None, skipped=(skipped,))
        self.scans.pop(scan_id, None)
        self.frames[scan_id] = self.done[scan_id] = 0

    def convert(self, scans: list[ScanFiles], progress: Callable[[int, int], None]) -> None:
        """Convert all scans; only a few are open at a time."""
        for scan in scans:
            try:
                count = read_header(scan.sens).num_frames
            except DataError:
                count = 0  # refused when its turn comes, with the reason
            self.frames[scan.scan_id] = -(-count // self.config.every)
        for stretch, error in self._run(self._stretches(scans)):
            scan_id = stretch.sens.stem
            if scan_id not in self.scans:
                continue
            if error is not None:
                self.refuse(scan_id, error_reason(error), str(error))
                continue
            self.missing[scan_id] -= 1
            self.done[scan_id] += len(stretch.indices)
            if not self.missing[scan_id]:
                self._finish(self.scans.pop(scan_id))
            progress(self.done.total(), max(1, sum(self.frames.values())))

    def _run(self, stretches: Iterator[Stretch]) -> Iterator[tuple[Stretch, DataError | None]]:
        """Yield every stretch when it is done, with the error that ended it."""
        if self.config.workers == 1:
            for stretch in stretches:
                yield stretch, _outcome(convert_stretch, stretch)
            return
        with ProcessPoolExecutor(self.config.workers, mp_context=get_context("spawn")) as pool:
            running: dict[Future[int], Stretch] = {}
            for stretch in stretches:
                running[pool.submit(convert_stretch, stretch)] = stretch
                while len(running) >= 2 * self.config.workers:
                    yield from _collect(running)
            while running:
                yield from _collect(running)

    def _stretches(self, scans: list[ScanFiles]) -> Iterator[Stretch]:
        """Open scan after scan and yield what of it is not done."""
        for files in scans:
            scan = self._open(files)
            if scan is None:
                continue
            self.frames[files.scan_id] = len(scan.indices)
            todo = [stretch for stretch in scan.stretches if not stretch.record.is_file()]
            self.done[files.scan_id] = len(scan.indices) - sum(len(s.indices) for s in todo)
            self.missing[files.scan_id] = len(todo)
            if todo:
                self.scans[files.scan_id] = scan
                yield from todo
            else:
                self._finish(scan)

    def _open(self, files: ScanFiles) -> OpenScan | None:
        """Open a scan; None when it is refused, or done already."""
        scan_id, config = files.scan_id, self.config
        if config.splits and scan_id not in self.splits:
            self.refuse(scan_id, "not in the splits", "no list names the scan")
            return None
        split = self.splits.get(scan_id, config.split)
        target = self.root / "scenes" / scan_id
        try:
            key = conversion_key(files, config, self.nyu40, split)
            stored = stored_conversion(target)
            if stored.get("key") == key:
                logger.info("%s is there already", scan_id)
                self._keep(scan_id, split, stored["skipped"])
                return None
            return open_scan(files, target.parent, config, self.nyu40, split)
        except (DataError, OSError) as error:
            self.refuse(scan_id, error_reason(error), str(error))
            return None

    def _finish(self, scan: OpenScan) -> None:
        scan_id = scan.files.scan_id
        try:
            entry, skipped = finish_scan(scan, self.config)
        except DataError as error:
            self.refuse(scan_id, error_reason(error), str(error))
            return
        self._add(entry, scan.split, skipped)

    def _keep(self, scan_id: str, split: str, skipped: list[dict[str, Any]]) -> None:
        """Take over a scan that an earlier call finished."""
        folder = self.root / "scenes" / scan_id
        times = json.loads((folder / "times.json").read_text())["times_s"]
        entry = SceneEntry(
            scene_id=scan_id,
            dataset=self.config.dataset,
            sha256=folder_hash(folder),
            frames=len(times),
        )
        self.frames[scan_id] = self.done[scan_id] = 0
        self._add(entry, split, [Skipped(**row) for row in skipped])

    def _add(self, entry: SceneEntry, split: str, skipped: list[Skipped]) -> None:
        folder = self.root / "scenes" / entry.scene_id
        self.results[entry.scene_id] = PreparedScan(
            scan_id=entry.scene_id,
            scene=entry,
            samples=tuple(label_samples(folder, split, self.config.dataset)),
            skipped=tuple(skipped),
        )


def error_reason(error: Exception) -> str:
    """Return the short reason of an error."""
    return error.code if isinstance(error, SensError) else "scan_unusable"


def _outcome(run: Callable[..., int], *arguments: Any) -> DataError | None:
    try:
        run(*arguments)
    except DataError as error:
        return error
    return None


def _collect(running: dict[Future[int], Stretch]) -> Iterator[tuple[Stretch, DataError | None]]:
    """Wait for at least one process and yield what is done."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        yield running.pop(future), _outcome(future.result)


def label_samples(folder: Path, split: str, dataset: str) -> list[Sample]:
    """Return a sample "the LABEL" for every visible object whose label occurs once.

    Walls, floors and ceilings are not asked for where the classes are known.
    """
    if not (folder / "appearances.json").is_file():
        return []
    appearances = json.loads((folder / "appearances.json").read_text())
    objects = json.loads((folder / "objects.json").read_text())
    labels = Counter(row["label"] for row in objects)
    has_classes = any("nyu40_id" in row["attributes"] for row in objects)
    samples = []
    for row in objects:
        seen = appearances.get(str(row["id"]))
        is_kept = not has_classes or int(row["attributes"].get("nyu40_id", 0)) in BOX_CLASSES
        if seen is None or labels[row["label"]] > 1 or not is_kept:
            continue
        target = Target(
            spans_s=tuple((start, end) for start, end in seen["spans_s"]),
            boxes_px={int(frame): tuple(box) for frame, box in seen["boxes_px"].items()},
            box_world=None if row["box_world"] is None else tuple(row["box_world"]),
            object_id=row["id"],
            label=row["label"],
        )
        samples.append(
            Sample(
                sample_id=f"{folder.name}-{row['id']:03d}",
                dataset=dataset,
                split=split,
                question=f"the {row['label']}",
                media=Media(kind="video", scene=f"scenes/{folder.name}"),
                target=target,
                scene_id=folder.name,
                kind="label",
                provenance=PROVENANCE,
            )
        )
    return samples
