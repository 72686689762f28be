"""The import order of the folders, and the habits that keep files readable."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scenerl.launch.cli import COMMANDS

ROOT = Path(__file__).parents[2]
ORDER = ["launch", "rl", "rewards", "rollout", "envs", "preprocess", "kernels", "configs"]
OWNERS = {
    "ray": {"launch"},
    "vllm": {"rollout"},
    "openai": {"rewards", "rollout"},
    "qwen_vl_utils": {"rollout"},
    "deepspeed": {"rl"},
    "sam2": {"envs"},
    "decord": {"preprocess"},
    "datasets": {"preprocess"},
    "open3d": {"preprocess", "launch"},
    "trl": {"launch"},  # a peer of `launch bench`
}
FILES = sorted(file for folder in ORDER for file in (ROOT / folder).glob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_a_folder_imports_only_itself_and_what_stands_below(file: Path) -> None:
    folder = file.parent.name
    below = ORDER[ORDER.index(folder) :]
    for name in imported(ast.parse(file.read_text())):
        parts = name.split(".")
        if parts[0] == "scenerl" and len(parts) > 1:
            assert parts[1] in below, f"{folder} must not import {name}"
        if parts[0] in OWNERS:
            assert folder in OWNERS[parts[0]], f"{name} belongs to {OWNERS[parts[0]] or 'tests'}"
        assert parts[0] not in ORDER, f"write scenerl.{name}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_files_and_functions_stay_readable(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 400, f"{file.name} is longer than 400 lines"
    assert file.stem not in {"utils", "helpers", "common", "misc"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
            docstring = ast.get_docstring(node, clean=False)
            length -= len(docstring.splitlines()) if docstring else 0
            assert length <= 50, f"{file.name}: {node.name} has {length} lines"


def test_the_folders_are_not_packages_of_their_own() -> None:
    assert not [folder for folder in ORDER if (ROOT / folder / "__init__.py").exists()]


def test_the_type_checkers_links_point_at_the_folders() -> None:
    for folder in ORDER:
        link = ROOT / "typings" / "scenerl" / folder
        assert link.is_symlink()
        assert link.resolve() == (ROOT / folder).resolve()


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from scenerl.launch.cli import main; main(['--help'])\n"
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'open3d', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    # A second is the promise; three leaves room for a busy machine.
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_teaches_by_example(command: str) -> None:
    code = (
        "import sys\nfrom scenerl.launch.cli import main\n"
        f"try:\n    main([{command!r}, '--help'])\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'ray', 'vllm', 'transformers', 'open3d'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "example" in done.stdout
    assert f"launch {command}" in done.stdout
