"""Coverage-guided fuzzing of the `.sens` reader and its conversion.

    python tests/fuzz/fuzz_sens.py -max_total_time=300 CORPUS_FOLDER

Anything but a DataError stops it. Needs `atheris` (CPython 3.11 and later on Linux).
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import atheris

with atheris.instrument_imports():
    from sens_inputs import read_everything, small_sens

    from scenerl.preprocess import scannet_frames
    from scenerl.preprocess.records import DataError
    from scenerl.preprocess.sens import SensFile

FOLDER = Path(tempfile.mkdtemp())
SENS = FOLDER / "a.sens"
SCENE = FOLDER / "scene"
MOST_FRAMES = 8


def one_input(data: bytes) -> None:
    """Read and convert one file; damage must be named, never raised as anything else."""
    SENS.write_bytes(data)
    try:
        read_everything(SENS)
        with SensFile(SENS) as sens:
            count = min(len(sens), MOST_FRAMES)
    except DataError:
        return
    if count:
        scannet_frames.convert_stretch(
            scannet_frames.Stretch(sens=SENS, folder=SCENE, indices=tuple(range(count)))
        )


def main() -> None:
    """Seed an empty corpus with one whole file and start."""
    for name in ("color", "depth", "pose", scannet_frames.CHUNKS):
        (SCENE / name).mkdir(parents=True, exist_ok=True)
    for folder in (Path(word) for word in sys.argv[1:] if not word.startswith("-")):
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            (folder / "whole.sens").write_bytes(small_sens())
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
