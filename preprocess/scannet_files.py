"""The files of a ScanNet v2 scan beside its `.sens`, and the lists that come with the data set.

scene0000_00/scene0000_00.sens                           frames
scene0000_00/scene0000_00.txt                            axisAlignment and other facts
scene0000_00/scene0000_00_vh_clean_2.ply                 mesh
scene0000_00/scene0000_00_vh_clean_2.0.010000.segs.json  segment of every vertex
scene0000_00/scene0000_00.aggregation.json               segments of every object
scannetv2-labels.combined.tsv                            nyu40 class of every label
scannetv2_train.txt  scannetv2_val.txt  scannetv2_test.txt   one scan a line
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scenerl.preprocess.records import DataError
from scenerl.preprocess.scene_files import pose_problem

ORIGIN = (
    "ScanNet is handed out by its authors under the ScanNet Terms of Use: sign them "
    "(www.scan-net.org), then their download script brings"
)
PARTS = {
    "mesh": "_vh_clean_2.ply",
    "segments": "_vh_clean_2.0.010000.segs.json",
    "aggregation": ".aggregation.json",
}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanFiles:
    """Where the files of one scan are; None where one is missing."""

    scan_id: str
    sens: Path
    facts: Path | None
    mesh: Path | None
    segments: Path | None
    aggregation: Path | None

    @property
    def is_annotated(self) -> bool:
        """Whether mesh, segments and aggregation are all there."""
        return None not in (self.mesh, self.segments, self.aggregation)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the annotation files that are missing."""
        found = {name: getattr(self, name) for name in PARTS}
        return tuple(f"{self.scan_id}{PARTS[name]}" for name in PARTS if found[name] is None)


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _scan(sens: Path) -> ScanFiles:
    name, folder = sens.stem, sens.parent
    return ScanFiles(
        scan_id=name,
        sens=sens,
        facts=_existing(folder / f"{name}.txt"),
        mesh=_existing(folder / f"{name}{PARTS['mesh']}"),
        segments=_existing(folder / f"{name}{PARTS['segments']}"),
        aggregation=_existing(folder / f"{name}{PARTS['aggregation']}"),
    )


def find_scans(inputs: Sequence[str | Path]) -> tuple[list[ScanFiles], list[Path]]:
    """Return the scans of the given places, and the scan folders that hold no `.sens`.

    Args:
        inputs: `.sens` files, scan folders (`NAME/NAME.sens`), or folders of scan folders.

    Raises:
        DataError: If a place holds no scan at all, or two scans have the same name.
    """
    scans: dict[str, ScanFiles] = {}
    bare: list[Path] = []
    for place in (Path(name) for name in inputs):
        found = _sens_files(place)
        if place.is_dir() and not list(place.glob("*.sens")):
            bare += [
                folder
                for folder in sorted(place.glob("scene*"))
                if folder.is_dir() and not list(folder.glob("*.sens"))
            ]
        if not found:
            raise DataError(
                f"{place} holds no .sens file; expected {place.name}/{place.stem}.sens, or a "
                f"folder of such scans. {ORIGIN} it with --type .sens"
            )
        for sens in found:
            if not re.fullmatch(r"[\w-][\w.-]*", sens.stem):
                raise DataError(f"{sens}: a scan is named by letters, digits, _ . and -; rename it")
            if sens.stem in scans and scans[sens.stem].sens.resolve() != sens.resolve():
                raise DataError(
                    f"{scans[sens.stem].sens} and {sens} have the same name; give only one"
                )
            scans[sens.stem] = _scan(sens)
    return [scans[name] for name in sorted(scans)], bare


def _sens_files(place: Path) -> list[Path]:
    if place.is_file() and place.suffix == ".sens":
        return [place]
    return sorted(place.glob("*.sens")) or sorted(place.glob("*/*.sens"))


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        DataError: If it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; copy the file again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def read_facts(path: Path) -> dict[str, str]:
    """Return the `key = value` lines of a scan's text file; the last one of a key counts."""
    pairs = (line.partition("=") for line in read_text(path).splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def axis_alignment(path: Path | None) -> np.ndarray | None:
    """Return the matrix that turns a scan upright and along the axes, float64 [4, 4].

    None when the scan has none, as those of the test split.

    Raises:
        DataError: If it is not 16 numbers of a rigid transform.
    """
    text = None if path is None else read_facts(path).get("axisAlignment")
    if text is None:
        return None
    try:
        matrix = np.array([float(value) for value in text.split()]).reshape(4, 4)
    except ValueError as error:
        raise DataError(
            f"{path}: axisAlignment is {text!r}, expected 16 numbers ({error})"
        ) from error
    wrong = pose_problem(matrix)
    if wrong is not None:
        raise DataError(f"{path}: axisAlignment is not a rigid transform: {wrong[1]}")
    return matrix


def read_nyu40(path: str | Path) -> dict[str, int]:
    """Return raw label -> nyu40 class, from `scannetv2-labels.combined.tsv`.

    Raises:
        DataError: If a column is missing or a class is not a number.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist. {ORIGIN} it with --label_map")
    rows = csv.DictReader(read_text(path).splitlines(), delimiter="\t")
    if not {"raw_category", "nyu40id"} <= set(rows.fieldnames or ()):
        raise DataError(
            f"{path}: found the columns {rows.fieldnames}, expected raw_category and nyu40id"
        )
    classes = {}
    for row in rows:
        try:
            classes[row["raw_category"]] = int(row["nyu40id"])
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: line {rows.line_num}: nyu40id is {row['nyu40id']!r}, expected a number"
            ) from error
    return classes


def read_splits(paths: Sequence[str | Path]) -> dict[str, str]:
    """Return scan id -> split, from lists whose names say train, val or test.

    Raises:
        DataError: If a name says none or several of these, or a scan is in two lists.
    """
    splits: dict[str, str] = {}
    for path in (Path(name) for name in paths):
        named = [split for split in SPLITS if split in path.stem.lower()]
        if len(named) != 1:
            raise DataError(
                f"{path}: the file's name must say train, val or test, as scannetv2_train.txt does"
            )
        if not path.is_file():
            raise DataError(
                f"{path} does not exist; the lists scannetv2_*.txt come with ScanNet's benchmark "
                "code (Tasks/Benchmark)"
            )
        for scan in read_text(path).split():
            other = splits.setdefault(scan, named[0])
            if other != named[0]:
                raise DataError(f"{path}: {scan} is in the list of {other} too; which is right?")
    return splits
