"""Annotation files to samples: rows, drafts, scenes, and a manifest that says what was left out."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.annotated_samples import Places, make_sample
from scenerl.preprocess.annotated_scenes import PreparedScenes
from scenerl.preprocess.annotation_formats import Format
from scenerl.preprocess.drafts import REFERIT3D_FILTERS, Filtered, filter_referit3d
from scenerl.preprocess.records import DataError, Sample
from scenerl.preprocess.rows import Row, RowError, Rows
from scenerl.preprocess.rows_referit3d import Nr3DRow, Sr3DRow
from scenerl.preprocess.store import Skipped, check_sample, read_manifest, write_samples


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotationsConfig:
    """What to prepare."""

    input: Path
    output: Path
    scenes: Path | None = None
    """Prepared data folder with the scenes; None where only media files are used."""
    media: Path | None = None
    """Folder of videos or images."""
    split: str | None = None
    """None reads it off the file's name."""
    scene_list: Path | None = None
    """File of scene ids, one a line; other scenes are left out."""
    filter: str = "none"
    """Of REFERIT3D_FILTERS."""

    def __post_init__(self) -> None:
        """Refuse what cannot be prepared."""
        if self.split is not None and not re.fullmatch(r"[\w-]+", self.split):
            raise ValueError(f"split is {self.split!r}; expected letters, digits, _ and -")
        if self.filter not in REFERIT3D_FILTERS:
            raise ValueError(f"filter is {self.filter!r}; expected one of {REFERIT3D_FILTERS}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedAnnotations:
    """What an annotation file yielded."""

    split: str
    rows: int
    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]

    def reasons(self) -> dict[str, int]:
        """Return how much was left out, by reason."""
        return dict(Counter(item.reason for item in self.skipped).most_common())


def split_of(name: str) -> str:
    """Return the split that a file's name says: train, val or test; train when it says none."""
    found = re.findall(r"(?<![a-z])(train|val|test)(?![a-z])", name.lower())
    return str(found[-1]) if found else "train"


def prepare_annotations(
    kind: Format,
    config: AnnotationsConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedAnnotations:
    """Turn one annotation file into the samples of one split.

    Earlier samples of the same format and split are replaced; everything else in the output stays.

    Args:
        kind: The format.
        config: Files and folders.
        progress: Called with (rows done, rows in all).

    Raises:
        DataError: If a file is missing, or no row can be used; nothing is written then.
    """
    places = _places(kind, config)
    read, draft = kind.load()
    rows: Rows[Row] = read(config.input)
    split = config.split or split_of(config.input.name)
    taken = _taken_scenes(config.output, kind.name, split)
    wanted = _wanted_scenes(config.scene_list)
    samples: list[Sample] = []
    skipped = [
        _skip(kind, split, "", item.location, RowError(item.reason, item.detail))
        for item in rows.skipped
    ]
    for done, row in enumerate(rows.rows, start=1):
        scene = ""
        try:
            _filter(row, config)
            made = draft(row)
            scene = made.scene_id
            if wanted is not None and scene not in wanted:
                raise Filtered("filtered: not in the scene list", scene)
            _check_split(scene, taken)
            sample = make_sample(made, row.item_id, places, dataset=kind.name, split=split)
            _check(sample, places)
            samples.append(sample)
        except RowError as error:
            skipped.append(_skip(kind, split, scene, row.item_id, error))
        if progress is not None:
            progress(done, len(rows.rows))
    result = PreparedAnnotations(
        split=split,
        rows=len(rows.rows) + len(rows.skipped),
        samples=tuple(samples),
        skipped=tuple(skipped),
    )
    _require_samples(result, config.input)
    _write(result, places)
    return result


def _places(kind: Format, config: AnnotationsConfig) -> Places:
    if not config.input.is_file():
        raise DataError(
            f"{config.input} does not exist; expected {kind.files}, {kind.origin}; nothing is "
            "downloaded"
        )
    if config.scenes is None and config.media is None:
        either = f", or --media, a folder of {kind.media}" if kind.media else ""
        raise DataError(
            f"give --scenes, the data folder with the prepared scenes (launch preprocess scannet, "
            f"rooms, ...){either}"
        )
    if config.media is not None and not (kind.media and config.media.is_dir()):
        raise DataError(
            f"--media {config.media}: "
            + (
                f"no folder; expected {kind.media}"
                if kind.media
                else f"{kind.command} takes no media"
            )
        )
    scenes = None if config.scenes is None else PreparedScenes(config.scenes)
    return Places(output=config.output, scenes=scenes, media=config.media)


def _taken_scenes(output: Path, dataset: str, split: str) -> dict[str, str]:
    """Return scene -> split of what is in the output and stays there under another split."""
    if not (output / "manifest.json").is_file():
        return {}
    splits: dict[str, Any] = read_manifest(output)["splits"]
    return {scene: name for name, row in splits.items() if name != split for scene in row["scenes"]}


def _wanted_scenes(path: Path | None) -> frozenset[str] | None:
    if path is None:
        return None
    names = frozenset(path.read_text(encoding="utf-8", errors="replace").split())
    if not names:
        raise DataError(f"{path} is empty; expected one scene id a line")
    return names


def _filter(row: Row, config: AnnotationsConfig) -> None:
    if isinstance(row, Nr3DRow | Sr3DRow):
        filter_referit3d(row, config.filter)


def _check_split(scene: str, taken: dict[str, str]) -> None:
    if scene in taken:
        raise RowError(
            "scene of another split",
            f"{scene} is in split {taken[scene]!r} of this data folder; a scene may only be in one",
        )


def _check(sample: Sample, places: Places) -> None:
    try:
        check_sample(sample, places.output)
    except DataError as error:
        raise RowError("unusable", str(error)) from error


def _skip(kind: Format, split: str, scene: str, item: str, error: RowError) -> Skipped:
    return Skipped(
        dataset=kind.name,
        scene_id=scene.encode("utf-8", "replace").decode(),
        item=item,
        reason=error.reason,
        detail=error.detail.encode("utf-8", "replace").decode(),
        split=split,
        broken=not isinstance(error, Filtered),
    )


def _require_samples(result: PreparedAnnotations, path: Path) -> None:
    if result.samples:
        return
    first = [f"{item.item}: {item.reason}: {item.detail}" for item in result.skipped[:3]]
    raise DataError(
        f"{path}: none of {result.rows} rows gives a sample ({result.reasons()}); the first: "
        + "; ".join(first)
    )


def _write(result: PreparedAnnotations, places: Places) -> None:
    names = dict.fromkeys(s.scene_id for s in result.samples if s.media.scene is not None)
    scenes = places.scenes
    entries = []
    for name in names:
        assert scenes is not None
        assert name is not None
        scenes.bring(name, places.output)
        entry = scenes.entry(name)
        if entry is not None:
            entries.append(entry)
    write_samples(places.output, result.samples, result.skipped, entries, replace="splits")
