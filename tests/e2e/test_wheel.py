import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ["rl", "rewards", "rollout", "envs", "preprocess", "configs", "launch", "kernels"]


def test_the_wheel_holds_the_whole_tree_and_nothing_else(tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*build, "-w", str(tmp_path), str(copy)], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("scenerl-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    packed = {n.removeprefix("scenerl/") for n in names if n.startswith("scenerl/")}
    tracked = subprocess.run(
        ["git", "ls-files", *FOLDERS], check=True, capture_output=True, text=True, cwd=copy
    ).stdout.split()
    code = {n for n in tracked if not n.endswith((".md", ".sh"))}
    assert code - packed == set(), "missing from the wheel; see [tool.setuptools] in pyproject.toml"
    assert not {n.split("/")[0] for n in names} & set(FOLDERS), "bare top-level folders"
