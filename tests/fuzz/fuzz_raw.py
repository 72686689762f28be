"""Coverage-guided fuzzing of depth.bin, pose files, trajectories, boxes and SceneParser files.

    python tests/fuzz/fuzz_raw.py depth -max_total_time=300 CORPUS_FOLDER

The first word says what: depth, poses, trajectory, boxes, record or tsv. Anything but a DataError
stops it. Needs `atheris` (CPython 3.11 and later on Linux).
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import atheris
import lz4.block  # noqa: F401, before the instrumentation

with atheris.instrument_imports(include=["scenerl.preprocess", "json"]):
    from raw_inputs import BOXES, DEPTH, POSES, RECORD, TSV, write_tsv_files

    from scenerl.preprocess.arkitscenes import read_pincam, read_trajectory
    from scenerl.preprocess.arkitscenes_boxes import read_boxes
    from scenerl.preprocess.iphone_depth import DepthStream
    from scenerl.preprocess.records import DataError
    from scenerl.preprocess.scannetpp_poses import read_track
    from scenerl.preprocess.sceneparser_reader import check_tsv
    from scenerl.preprocess.sceneparser_records import parse_record, to_annotation, to_record

FOLDER = Path(tempfile.mkdtemp())


def depth(data: bytes) -> None:
    """Read some frames."""
    path = FOLDER / "depth.bin"
    path.write_bytes(data)
    list(DepthStream(path).frames([0, 1, 2, 5]))


def poses(data: bytes) -> None:
    """Read the three kinds of pose files; the first byte chooses."""
    kinds = (
        ("imu", "pose_intrinsic_imu.json"),
        ("nerfstudio", "nerfstudio/transforms.json"),
        ("colmap", "colmap/images.txt"),
    )
    source, name = kinds[data[0] % 3 if data else 0]
    path = FOLDER / name
    path.parent.mkdir(exist_ok=True)
    (FOLDER / "colmap").mkdir(exist_ok=True)
    (FOLDER / "colmap" / "cameras.txt").write_text("1 PINHOLE 4 4 1 1 2 2\n")
    path.write_bytes(data[1:])
    read_track(FOLDER, source)  # type: ignore[arg-type]


def trajectory(data: bytes) -> None:
    """Read a trajectory, and the same bytes as intrinsics."""
    path = FOLDER / "x.traj"
    path.write_bytes(data)
    read_trajectory(path)
    read_pincam(path)


def boxes(data: bytes) -> None:
    """Read an annotation of boxes."""
    path = FOLDER / "boxes.json"
    path.write_bytes(data)
    read_boxes(path)


def record(data: bytes) -> None:
    """Convert a line; its annotation must come back from the record made of it."""
    annotation = to_annotation(parse_record(data))
    again = to_annotation(to_record(annotation, "x"))
    assert json.dumps(again) == json.dumps(annotation)


def tsv(data: bytes) -> None:
    """Check three files, cut from the bytes at zero bytes."""
    write_tsv_files(FOLDER, data)
    check_tsv(FOLDER)


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "depth": (depth, DEPTH),
    "poses": (poses, POSES),
    "trajectory": (trajectory, [b"1.5 0 0 0 0 0 0\n", b"4 4 1 1 2 2"]),
    "boxes": (boxes, [BOXES]),
    "record": (record, [RECORD]),
    "tsv": (tsv, TSV),
}


def main() -> None:
    """Seed an empty corpus with whole files and start."""
    run, seeds = TARGETS[sys.argv.pop(1)]
    for folder in (Path(word) for word in sys.argv[1:] if not word.startswith("-")):
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            for number, content in enumerate(seeds):
                (folder / f"whole_{number}").write_bytes(content)

    def one_input(data: bytes) -> None:
        try:
            run(data)
        except (DataError, RecursionError):
            return

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
