"""The prepared data folder: samples as Parquet, scenes beside them, a manifest that says all.

manifest.json  samples/<split>.parquet  scenes/<scene_id>/...
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from scenerl.preprocess.records import DataError, Media, Sample, Target

FORMAT = "scenerl-samples"
VERSION = 2
READABLE = (1, 2)
"""Version 1 had no item_id, situation, options, object_ids, boxes_world and completion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """Something that did not become a sample, and why."""

    dataset: str
    scene_id: str
    item: str
    """Frame, object or query."""
    reason: str
    """Short and countable."""
    detail: str = ""
    split: str = ""
    """Where it was to go, for what is not of a scene."""
    broken: bool = False
    """True for what the owner of the data would call broken; False for documented properties."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneEntry:
    """A scene folder of the manifest."""

    scene_id: str
    dataset: str
    sha256: str
    frames: int
    """Usable frames."""


def sample_to_row(sample: Sample) -> dict[str, Any]:
    """Return the Parquet row of a sample."""
    media, target = sample.media, sample.target
    boxes = target.boxes_px
    return {
        "sample_id": sample.sample_id,
        "dataset": sample.dataset,
        "split": sample.split,
        "question": sample.question,
        "kind": sample.kind,
        "provenance": sample.provenance,
        "scene_id": sample.scene_id,
        "item_id": sample.item_id,
        "situation": sample.situation,
        "options": None if sample.options is None else list(sample.options),
        "media": {
            "kind": media.kind,
            "scene": media.scene,
            "video": media.video,
            "frame_indices": None if media.frame_indices is None else list(media.frame_indices),
        },
        "target": {
            "spans_s": None if target.spans_s is None else [list(span) for span in target.spans_s],
            "boxes_px": None
            if boxes is None
            else [{"frame": frame, "box": list(box)} for frame, box in boxes.items()],
            "box_world": None if target.box_world is None else list(target.box_world),
            "object_id": target.object_id,
            "object_ids": None if target.object_ids is None else list(target.object_ids),
            "boxes_world": None
            if target.boxes_world is None
            else [list(box) for box in target.boxes_world],
            "label": target.label,
            "answers": None if target.answers is None else list(target.answers),
            "completion": target.completion,
        },
    }


def row_to_sample(row: dict[str, Any]) -> Sample:
    """Return the sample of a Parquet row; the inverse of `sample_to_row`."""
    media, target = row["media"], row["target"]
    spans, boxes, worlds = target["spans_s"], target["boxes_px"], target["boxes_world"]
    return Sample(
        sample_id=row["sample_id"],
        dataset=row["dataset"],
        split=row["split"],
        question=row["question"],
        kind=row["kind"],
        provenance=row["provenance"],
        scene_id=row["scene_id"],
        item_id=row["item_id"] or "",
        situation=row["situation"] or "",
        options=_tuple(row["options"]),
        media=Media(
            kind=media["kind"],
            scene=media["scene"],
            video=media["video"],
            frame_indices=_tuple(media["frame_indices"]),
        ),
        target=Target(
            spans_s=None if spans is None else tuple((start, end) for start, end in spans),
            boxes_px=None if boxes is None else {b["frame"]: tuple(b["box"]) for b in boxes},
            box_world=_tuple(target["box_world"]),
            object_id=target["object_id"],
            object_ids=_tuple(target["object_ids"]),
            boxes_world=None if worlds is None else tuple(tuple(box) for box in worlds),
            label=target["label"],
            answers=_tuple(target["answers"]),
            completion=target["completion"],
        ),
    )


def _tuple(values: list[Any] | None) -> Any:
    return None if values is None else tuple(values)


def _schema() -> Any:
    import pyarrow as pa

    numbers = pa.list_(pa.float64())
    media = {"kind": pa.string(), "scene": pa.string(), "video": pa.string()}
    box = pa.struct({"frame": pa.int64(), "box": numbers})
    target = {
        "spans_s": pa.list_(numbers),
        "boxes_px": pa.list_(box),
        "box_world": numbers,
        "object_id": pa.int64(),
        "object_ids": pa.list_(pa.int64()),
        "boxes_world": pa.list_(numbers),
        "label": pa.string(),
        "answers": pa.list_(pa.string()),
        "completion": pa.string(),
    }
    texts = ("sample_id", "dataset", "split", "question", "kind", "provenance", "scene_id")
    return pa.schema(
        [
            *((name, pa.string()) for name in (*texts, "item_id", "situation")),
            ("options", pa.list_(pa.string())),
            ("media", pa.struct({**media, "frame_indices": pa.list_(pa.int64())})),
            ("target", pa.struct(target)),
        ]
    )


def _check_path(path: str, root: Path, where: str) -> None:
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path:
        raise DataError(
            f"{where}: media path {path!r} leaves the data folder; expected a path relative to "
            f"{root} without '..'"
        )
    if not (root / path).resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{where}: media path {path!r} is a link out of the data folder {root}; copy the "
            "files in, or prepare the data again"
        )


def check_sample(sample: Sample, root: Path) -> None:
    """Raise DataError unless the sample is complete and its media stay inside the folder."""
    where = f"sample {sample.sample_id!r}"
    media, target = sample.media, sample.target
    if not sample.sample_id or not sample.question:
        raise DataError(f"{where}: sample_id and question must not be empty")
    if (media.scene is None) == (media.video is None):
        raise DataError(
            f"{where}: needs either media.scene or media.video, found scene={media.scene!r}, "
            f"video={media.video!r}"
        )
    _check_path(media.scene or media.video or "", root, where)
    for start, end in target.spans_s or ():
        if not 0 <= start < end:
            raise DataError(f"{where}: span ({start}, {end}) must have 0 <= start < end")
    for frame, (x0, y0, x1, y1) in (target.boxes_px or {}).items():
        if not (x0 < x1 and y0 < y1):
            raise DataError(f"{where}: box of frame {frame} is empty: {(x0, y0, x1, y1)}")
    ids, worlds = target.object_ids, target.boxes_world
    if ids is not None and worlds is not None and len(ids) != len(worlds):
        raise DataError(
            f"{where}: {len(worlds)} boxes_world for {len(ids)} object_ids; give each object one, "
            "or none at all"
        )
    if target.answers is not None and not target.answers:
        raise DataError(f"{where}: answers is an empty list; give answers or none at all")


def read_manifest(root: str | Path) -> dict[str, Any]:
    """Return the manifest of a prepared folder.

    Raises:
        DataError: If the folder is not a prepared one.
    """
    path = Path(root) / "manifest.json"
    if not path.is_file():
        raise DataError(
            f"{root} holds no manifest.json, so it is not a prepared data folder; make one with "
            "`launch preprocess`"
        )
    manifest: dict[str, Any] = json.loads(path.read_text())
    found = (manifest.get("format"), manifest.get("version"))
    if found[0] != FORMAT or found[1] not in READABLE:
        raise DataError(
            f"{path}: found format {found[0]!r} version {found[1]!r}, expected {FORMAT!r} version "
            f"{' or '.join(map(str, READABLE))}; prepare the data again with this version"
        )
    return manifest


def read_samples(root: str | Path, split: str, *, kinds: Sequence[str] = ()) -> list[Sample]:
    """Read and check the samples of a split.

    Args:
        root: A prepared data folder; it may hold several data sets.
        split: For example "train".
        kinds: Only these kinds of queries; empty takes all.

    Returns:
        Samples in file order.

    Raises:
        DataError: If the split, a kind or a scene is missing, or a row is broken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = Path(root)
    manifest = read_manifest(root)
    if split not in manifest["splits"]:
        raise DataError(f"{root} has no split {split!r}; it has {sorted(manifest['splits'])}")
    path = root / manifest["splits"][split]["file"]
    if not path.is_file():
        raise DataError(f"{path} is named in manifest.json but is missing; prepare the data again")
    try:
        rows = pq.read_table(path, schema=_schema()).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as samples: {error}") from error
    samples = [row_to_sample(row) for row in rows]
    known = {sample.kind for sample in samples}
    unknown = sorted(set(kinds) - known)
    if unknown:
        raise DataError(f"{path} has no samples of kind {unknown}; it has {sorted(known)}")
    for sample in samples:
        check_sample(sample, root)
    for medium in sorted({s.media.scene or s.media.video or "" for s in samples}):
        if not (root / medium).exists():
            raise DataError(f"{root / medium} is missing, but samples of {split!r} refer to it")
    return [sample for sample in samples if not kinds or sample.kind in kinds]


def _write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def _parquet(samples: Sequence[Sample]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([sample_to_row(sample) for sample in samples], schema=_schema())
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _check_new(samples: Sequence[Sample], root: Path) -> None:
    for sample in samples:
        check_sample(sample, root)
    repeated = [name for name, n in Counter(s.sample_id for s in samples).items() if n > 1]
    if repeated:
        raise DataError(f"sample ids must be unique, but {repeated[:3]} occur more than once")
    splits: dict[str, str] = {}
    for sample in samples:
        if sample.scene_id is None:
            continue
        other = splits.setdefault(sample.scene_id, sample.split)
        if other != sample.split:
            raise DataError(
                f"scene {sample.scene_id!r} is in the splits {other!r} and {sample.split!r}; a "
                "scene may only be in one, or test questions leak into training"
            )


def write_samples(
    root: str | Path,
    samples: Sequence[Sample],
    skipped: Sequence[Skipped] = (),
    scenes: Sequence[SceneEntry] = (),
    *,
    replace: Literal["datasets", "scenes", "splits"] = "datasets",
) -> None:
    """Write samples and the manifest into a prepared folder.

    Args:
        root: The data folder.
        samples: Samples of any data sets and splits.
        skipped: What was left out and why; goes into the manifest.
        scenes: The scene folders, for the manifest.
        replace: What of the folder's earlier content goes: all of the same data sets, only
            what belongs to the same scenes, or only the same splits of the same data sets.
            Everything else stays; under "splits" all scenes do.

    Raises:
        DataError: If a sample is broken, an id repeats, or a scene is in two splits.
    """
    root = Path(root)
    (root / "samples").mkdir(parents=True, exist_ok=True)
    items: tuple[Sample | Skipped | SceneEntry, ...] = (*samples, *skipped, *scenes)
    written = {
        _place(_names(item) if isinstance(item, Sample) else asdict(item), replace)
        for item in items
    }
    kept = _kept(root, written, replace)
    merged = [*kept[0], *samples]
    _check_new(merged, root)
    rejected = [*kept[1], *(asdict(item) for item in skipped)]
    entries = {row["scene_id"]: row for row in (*kept[2], *(asdict(item) for item in scenes))}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "splits": {
            split: _write_split(root, split, [sample for sample in merged if sample.split == split])
            for split in sorted({sample.split for sample in merged})
        },
        "scenes": [entries[name] for name in sorted(entries)],
        "skipped_reasons": dict(sorted(Counter(row["reason"] for row in rejected).items())),
        "skipped": rejected,
    }
    text = json.dumps(manifest, indent=1) + "\n"
    _write_atomically(root / "manifest.json", text.encode())


def _write_split(root: Path, split: str, samples: list[Sample]) -> dict[str, Any]:
    """Write one Parquet file and return its row of the manifest."""
    content = _parquet(samples)
    file = f"samples/{split}.parquet"
    _write_atomically(root / file, content)
    return {
        "file": file,
        "sha256": hashlib.sha256(content).hexdigest(),
        "samples": len(samples),
        "datasets": dict(sorted(Counter(s.dataset for s in samples).items())),
        "kinds": dict(sorted(Counter(s.kind for s in samples).items())),
        "scenes": sorted({s.scene_id for s in samples if s.scene_id is not None}),
    }


def _place(row: dict[str, Any], replace: str) -> tuple[Any, ...]:
    """Return what a sample, skipped row or scene shares with those that it replaces."""
    if replace == "splits":
        return (row["dataset"], row.get("split", ""))
    return (row["dataset" if replace == "datasets" else "scene_id"],)


def _kept(
    root: Path, written: set[tuple[Any, ...]], replace: str
) -> tuple[list[Sample], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what stays of a folder: samples, skipped rows, scene rows."""
    if not (root / "manifest.json").is_file():
        return [], [], []
    manifest = read_manifest(root)
    samples = [
        sample
        for split in manifest["splits"]
        for sample in read_samples(root, split)
        if _place(_names(sample), replace) not in written
    ]
    skipped = [row for row in manifest["skipped"] if _place(row, replace) not in written]
    scenes = manifest.get("scenes", [])
    if replace != "splits":
        scenes = [row for row in scenes if _place(row, replace) not in written]
    return samples, skipped, scenes


def _names(sample: Sample) -> dict[str, Any]:
    return {"dataset": sample.dataset, "split": sample.split, "scene_id": sample.scene_id}
