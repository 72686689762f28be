"""Bring recordings of any data set into a data folder: one scene at a time, whole or not at all.

A format gives jobs and a function that converts one; what it cannot use it returns as faults. A
scene that is already there, from the same files with the same settings, is kept.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.annotations import derive_annotations, find_appearances
from scenerl.preprocess.recordings import RecordingsConfig, make_samples
from scenerl.preprocess.records import DataError, Sample
from scenerl.preprocess.safe_files import FileError, inside, open_image
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.scene_files import pose_problem
from scenerl.preprocess.scene_writer import SceneWriter, folder_hash
from scenerl.preprocess.store import SceneEntry, Skipped, write_samples
from scenerl.preprocess.validate import MIN_VALID_SHARE

logger = logging.getLogger(__name__)

RECORD = "prepared.json"
"""What a conversion was made from and what it left out; stands in the scene folder."""
VERSION = 1
MIN_FRAMES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneJob:
    """One recording to convert."""

    scene_id: str
    split: str
    folder: Path
    sources: tuple[Path, ...]
    """Files and folders whose change makes the scene a different one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something of a scene that was left out, or must be known."""

    item: str
    """Frame, object or file."""
    code: str
    """Short and countable."""
    detail: str = ""
    broken: bool = True
    """False for documented properties of a data set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneOutcome:
    """What one conversion yielded."""

    frames: int
    faults: tuple[Fault, ...]


Convert = Callable[[SceneJob, SceneWriter], SceneOutcome]


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedScene:
    """What became of one job."""

    scene_id: str
    split: str
    scene: SceneEntry | None
    """None when the recording could not be used."""
    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]
    kept: bool = False
    """Whether it was there already."""


def frame_fault(index: int, error: FileError, *, broken: bool = True) -> Fault:
    """Return the fault of a frame that raised an error."""
    return Fault(item=f"frame {index}", code=error.code, detail=str(error), broken=broken)


def pose_fault(index: int, matrix: np.ndarray) -> Fault | None:
    """Return what is wrong with a camera-to-world matrix.

    One that is not finite is a frame that was not registered, a documented property of the data
    sets; every other fault is not.
    """
    with np.errstate(all="ignore"):
        found = pose_problem(matrix)
    if found is None:
        return None
    return Fault(
        item=f"frame {index}", code=found[0], detail=found[1], broken=found[0] != "pose_not_finite"
    )


def checked_image(path: Path, root: Path) -> Any:
    """Return the decoded PIL image of a file inside a folder.

    Raises:
        FileError: link_outside, file_missing, image_size or image_unreadable.
    """
    inside(path, root)
    if not path.is_file():
        raise FileError("file_missing", f"{path} does not exist")
    return open_image(path, str(path))


def checked_depth(path: Path, root: Path) -> np.ndarray:
    """Return a depth image, uint16 [h, w].

    Raises:
        FileError: As `checked_image`; depth_format unless it is a 16-bit image of one channel.
    """
    image = checked_image(path, root)
    pixels = np.asarray(image)
    if pixels.ndim != 2 or image.mode not in ("I;16", "I;16B", "I"):
        raise FileError(
            "depth_format", f"{path} is {image.mode} {image.size}; expected 16 bits, one channel"
        )
    return pixels.astype(np.uint16)


def require_depth(depth: np.ndarray, where: str) -> np.ndarray:
    """Return the depth image unless hardly any of its pixels are valid.

    Raises:
        FileError: depth_empty.
    """
    valid = int(np.count_nonzero(depth))
    if valid < MIN_VALID_SHARE * depth.size:
        share = 100 * valid / depth.size
        raise FileError("depth_empty", f"{where}: only {share:.1f} % of the depth pixels are valid")
    return depth


def fingerprint(job: SceneJob, settings: object) -> str:
    """Return the hash of a job's settings and of the size and date of its sources."""
    rows = []
    for path in job.sources:
        status = path.stat() if path.exists() else None
        seen = (0, 0) if status is None else (status.st_size, status.st_mtime_ns)
        rows.append([str(path.resolve()), *seen])
    text = json.dumps([VERSION, repr(settings), job.split, rows])
    return hashlib.sha256(text.encode()).hexdigest()


def _read_record(folder: Path, key: str) -> SceneOutcome | None:
    """Return the outcome of an earlier, equal conversion; None when there is none."""
    try:
        content = json.loads((folder / RECORD).read_text())
        if content["key"] != key:
            return None
        faults = tuple(Fault(**row) for row in content["faults"])
        return SceneOutcome(frames=int(content["frames"]), faults=faults)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _derived_samples(folder: Path, job: SceneJob, dataset: str) -> tuple[Sample, ...]:
    """Return the queries that instance images give, if the scene has any."""
    if not (folder / "instance").is_dir():
        return ()
    scene = Scene.open(folder, check="files")
    objects = {item.object_id: item for item in scene.objects}
    appearances = find_appearances(scene, scene.frame_indices)
    annotations = derive_annotations(scene, objects, appearances)
    config = RecordingsConfig(dataset=dataset, split=job.split)
    return tuple(make_samples(annotations, job.scene_id, config, 0.0))


def _skipped(job: SceneJob, dataset: str, faults: Iterable[Fault]) -> tuple[Skipped, ...]:
    return tuple(
        Skipped(
            dataset=dataset,
            scene_id=job.scene_id,
            item=fault.item,
            reason=fault.code,
            detail=fault.detail,
            broken=fault.broken,
        )
        for fault in faults
    )


def prepare_scene(
    job: SceneJob, root: Path, convert: Convert, *, dataset: str, settings: object
) -> PreparedScene:
    """Convert one recording into `root/scenes/NAME`, or keep what is there from an equal one.

    A recording that cannot be used is no error: the result says why.
    """
    folder = root / "scenes" / job.scene_id
    key = fingerprint(job, settings)
    outcome = _read_record(folder, key)
    kept = outcome is not None
    faults: list[Fault] = []
    try:
        if outcome is None:
            with SceneWriter(folder, scene_id=job.scene_id) as writer:
                outcome = convert(job, writer)
                faults += outcome.faults
                if outcome.frames < MIN_FRAMES:
                    raise FileError(
                        "too_few_frames",
                        f"{job.folder}: {outcome.frames} frames can be used, expected at least "
                        f"{MIN_FRAMES}",
                    )
                rows = [asdict(fault) for fault in outcome.faults]
                writer.write_json(RECORD, {"key": key, "frames": outcome.frames, "faults": rows})
        samples = _derived_samples(folder, job, dataset)
    except DataError as error:
        code = error.code if isinstance(error, FileError) else "scene_unusable"
        faults.append(Fault(item="scene", code=code, detail=str(error)))
        return PreparedScene(
            scene_id=job.scene_id,
            split=job.split,
            scene=None,
            samples=(),
            skipped=_skipped(job, dataset, faults),
        )
    entry = SceneEntry(
        scene_id=job.scene_id,
        dataset=dataset,
        sha256=folder_hash(folder),
        frames=outcome.frames,
    )
    return PreparedScene(
        scene_id=job.scene_id,
        split=job.split,
        scene=entry,
        samples=samples,
        skipped=_skipped(job, dataset, outcome.faults),
        kept=kept,
    )


def _run(
    jobs: Sequence[SceneJob], root: Path, convert: Convert, named: dict[str, Any], workers: int
) -> Iterator[PreparedScene]:
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield prepare_scene(job, root, convert, **named)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        calls = [pool.submit(prepare_scene, job, root, convert, **named) for job in jobs]
        for call in as_completed(calls):
            yield call.result()


def prepare_scenes(
    jobs: Sequence[SceneJob],
    output: str | Path,
    convert: Convert,
    *,
    dataset: str,
    settings: object,
    workers: int = 1,
    faults: Sequence[tuple[str, Fault]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[PreparedScene]:
    """Convert recordings into a data folder, which may hold others already.

    Args:
        jobs: The recordings; scene ids differ.
        output: The data folder.
        convert: Writes one; a module-level function or a partial of one.
        dataset: Name for the manifest.
        settings: What `convert` was set to; a scene made with others is made again.
        workers: Processes.
        faults: (scene id, fault) of what never became a job.
        progress: Called with (scenes done, scenes in all).

    Returns:
        What became of each, in order of the names.

    Raises:
        ValueError: If two jobs have one name, or `workers` is not positive.
    """
    names = [job.scene_id for job in jobs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or workers < 1:
        raise ValueError(
            f"found scenes twice: {repeated[:3]}, workers={workers}; expected every scene once and "
            "at least 1 worker"
        )
    root = Path(output)
    (root / "scenes").mkdir(parents=True, exist_ok=True)
    named = {"dataset": dataset, "settings": settings}
    prepared = [
        PreparedScene(
            scene_id=name,
            split="",
            scene=None,
            samples=(),
            skipped=(
                Skipped(
                    dataset=dataset,
                    scene_id=name,
                    item=fault.item,
                    reason=fault.code,
                    detail=fault.detail,
                    broken=fault.broken,
                ),
            ),
        )
        for name, fault in faults
    ]
    for done, made in enumerate(_run(jobs, root, convert, named, workers), start=1):
        prepared.append(made)
        if progress is not None:
            progress(done, len(jobs))
    prepared.sort(key=lambda made: made.scene_id)
    write_samples(
        root,
        [sample for made in prepared for sample in made.samples],
        [item for made in prepared for item in made.skipped],
        [made.scene for made in prepared if made.scene is not None],
        replace="scenes",
    )
    return prepared
