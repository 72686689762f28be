"""`launch preprocess`: raw RGB-D data or synthetic rooms to a prepared data folder."""

import argparse
import importlib
import logging
import sys

from scenerl.preprocess.records import DataError

SOURCES = (
    "scenerl.launch.preprocess_rooms",
    "scenerl.launch.preprocess_recordings",
    "scenerl.launch.preprocess_scannet",
    "scenerl.launch.preprocess_raw",
    "scenerl.launch.preprocess_sceneparser",
    "scenerl.launch.preprocess_annotations",
    "scenerl.launch.preprocess_export",
)
"""Modules with ``add_commands(commands)``; each adds its subcommands with ``run`` as default."""


def make_parser(command: str) -> argparse.ArgumentParser:
    """Return the parser of the command and its subcommands."""
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description="Turn raw RGB-D data, or nothing but a seed, into a prepared data folder: "
        "scenes, samples and a manifest.",
        epilog="Each has its own help with examples: launch preprocess rooms --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    for source in SOURCES:
        importlib.import_module(source).add_commands(commands)
    return parser


def main(argv: list[str], command: str = "preprocess") -> int:
    """Run `launch preprocess` and return its exit code."""
    try:
        arguments = make_parser(command).parse_args(argv)
    except SystemExit as stop:
        return 64 if stop.code else 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return int(arguments.run(arguments))
    except (ValueError, OSError) as error:
        print(f"launch {command}: {error}", file=sys.stderr)
        return 65 if isinstance(error, DataError | OSError) else 64
