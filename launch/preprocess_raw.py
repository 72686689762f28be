"""`launch preprocess scannetpp | arkitscenes | gs-reasoner`."""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scenerl.launch.preprocess_options import (
    add_allow_skipped,
    add_preview,
    image_size,
    progress,
    report_skipped,
)

if TYPE_CHECKING:
    from scenerl.preprocess.raw_scenes import PreparedScene

SCANNETPP_EXAMPLES = """examples:
  the training and validation scenes of the official lists, two frames a second:
    launch preprocess scannetpp --input scannetpp --output data/scannetpp --workers 8 \\
      --splits nvs_sem_train nvs_sem_val --resize 640x480
  one scene, every frame, with COLMAP's poses instead of ARKit's aligned ones:
    launch preprocess scannetpp --input scannetpp --output data/one --scenes 036bce3393 \\
      --every 1 --poses colmap
  the same command again goes on where an interrupted one stopped, and keeps finished scenes.

Nothing is downloaded: ScanNet++ is handed out by its authors under their terms. Wanted of each
scene: iphone/{rgb.mkv or rgb/, depth.bin or depth/, pose_intrinsic_imu.json} and, for objects,
scans/{mesh_aligned_0.05.ply, segments.json, segments_anno.json}. docs/raw_data.md says what is
checked.
"""

ARKIT_EXAMPLES = """examples:
  launch preprocess arkitscenes --input arkitscenes/3dod --output data/arkitscenes --workers 8
  launch preprocess arkitscenes --input arkitscenes/3dod --output data/val --folds Validation \\
    --every 1 --videos 41069021 41069025

Nothing is downloaded: ARKitScenes' own download_data.py brings it (3dod, or raw with lowres_wide,
lowres_depth, lowres_wide_intrinsics, lowres_wide.traj, annotation). docs/raw_data.md says how
frames, poses and intrinsics are matched.
"""

GS_EXAMPLES = """examples:
  sensor depth and poses, as GS-Reasoner's preprocessing leaves them:
    launch preprocess gs-reasoner --input data/processed_data --output data/gs --splits val
  depth and poses estimated by VGGT-SLAM, scaled to metres by MoGe-2, with the sensor's colour:
    launch preprocess gs-reasoner --input data/vggt_slam_processed_data/scannetpp \\
      --color data/processed_data/scannetpp --output data/estimated

axis_align_matrix/ and global_scale/ are applied to poses and depth and recorded in scene.json. A
scene of scannetpp or arkitscenes without its alignment file is prepared unaligned, listed, and
makes the exit status 65.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommands."""
    parser = _add(
        commands,
        "scannetpp",
        "prepare ScanNet++ scenes from their iPhone recordings",
        "Turn ScanNet++ scenes into scene folders: colour from the video, depth from depth.bin in "
        "either encoding, aligned poses, and the mesh's objects projected into the frames.",
        SCANNETPP_EXAMPLES,
    )
    parser.add_argument(
        "--splits", nargs="+", default=(), metavar="LIST", help="lists of splits/, or files"
    )
    parser.add_argument("--scenes", nargs="+", default=(), metavar="ID", help="only these scenes")
    parser.add_argument(
        "--split", default="train", help="split of scenes that no list names (default train)"
    )
    _add_every(parser, 30, "frame that has a pose")
    parser.add_argument(
        "--poses",
        choices=("imu", "nerfstudio", "colmap"),
        default="imu",
        help="file of the poses: pose_intrinsic_imu.json (default), transforms.json or colmap/",
    )
    parser.add_argument(
        "--resize", type=image_size, metavar="WxH", help="size of the colour frames to write"
    )
    parser.add_argument("--no-objects", action="store_true", help="leave the mesh alone")
    parser.set_defaults(run=_run_scannetpp)
    parser = _add(
        commands,
        "arkitscenes",
        "prepare ARKitScenes recordings",
        "Turn ARKitScenes recordings into scene folders: low-resolution colour and depth as they "
        "are, the trajectory's poses, and the annotated boxes.",
        ARKIT_EXAMPLES,
    )
    parser.add_argument(
        "--folds", nargs="+", default=(), choices=("Training", "Validation"), help="default: both"
    )
    parser.add_argument("--videos", nargs="+", default=(), metavar="ID", help="only these")
    parser.add_argument(
        "--split", default="train", help="split of videos that stand in no fold (default train)"
    )
    _add_every(parser, 5, "frame that has depth")
    parser.set_defaults(run=_run_arkitscenes)
    parser = _add(
        commands,
        "gs-reasoner",
        "prepare GS-Reasoner's processed_data, with poses and scale from elsewhere",
        "Turn GS-Reasoner's processed_data tree into scene folders, with its axis alignment and "
        "global scale applied.",
        GS_EXAMPLES,
    )
    parser.add_argument("--datasets", nargs="+", default=(), metavar="NAME", help="only these")
    parser.add_argument("--splits", nargs="+", default=(), metavar="SPLIT", help="only these")
    parser.add_argument("--scenes", nargs="+", default=(), metavar="ID", help="only these scenes")
    parser.add_argument("--color", metavar="DIR", help="tree with color/, if --input has none")
    _add_every(parser, 1, "frame")
    parser.set_defaults(run=_run_gs_reasoner)


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    title: str,
    description: str,
    examples: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=title,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", required=True, metavar="DIR", help="the data set's folder")
    parser.add_argument("--output", required=True, help="data folder; may hold others already")
    parser.add_argument("--dataset", default=name, help=f"name in reports (default {name})")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    add_allow_skipped(parser)
    add_preview(parser)
    return parser


def _add_every(parser: argparse.ArgumentParser, default: int, what: str) -> None:
    parser.add_argument(
        "--every", type=int, default=default, help=f"keep each N-th {what} (default {default})"
    )


def _run_scannetpp(arguments: argparse.Namespace) -> int:
    from scenerl.preprocess.raw_scenes import prepare_scenes
    from scenerl.preprocess.scannetpp import ScannetppConfig, convert, find_scenes

    config = ScannetppConfig(
        every=arguments.every,
        poses=arguments.poses,
        resize=arguments.resize,
        objects=not arguments.no_objects,
    )
    jobs, faults = find_scenes(
        Path(arguments.input),
        splits=arguments.splits,
        scenes=arguments.scenes,
        split=arguments.split,
    )
    prepared = prepare_scenes(
        jobs,
        arguments.output,
        functools.partial(convert, config=config),
        dataset=arguments.dataset,
        settings=config,
        workers=arguments.workers,
        faults=faults,
        progress=progress("scenes"),
    )
    return _finish(prepared, arguments)


def _run_arkitscenes(arguments: argparse.Namespace) -> int:
    from scenerl.preprocess.arkitscenes import ArkitConfig, convert, find_recordings
    from scenerl.preprocess.raw_scenes import prepare_scenes

    config = ArkitConfig(every=arguments.every)
    jobs, faults = find_recordings(
        Path(arguments.input),
        folds=arguments.folds,
        videos=arguments.videos,
        split=arguments.split,
    )
    prepared = prepare_scenes(
        jobs,
        arguments.output,
        functools.partial(convert, config=config),
        dataset=arguments.dataset,
        settings=config,
        workers=arguments.workers,
        faults=faults,
        progress=progress("recordings"),
    )
    return _finish(prepared, arguments)


def _run_gs_reasoner(arguments: argparse.Namespace) -> int:
    from scenerl.preprocess.gs_reasoner import GsReasonerConfig, convert, find_scenes
    from scenerl.preprocess.raw_scenes import prepare_scenes

    config = GsReasonerConfig(
        every=arguments.every,
        color_root=None if arguments.color is None else Path(arguments.color),
    )
    jobs, faults = find_scenes(
        Path(arguments.input),
        config,
        datasets=arguments.datasets,
        splits=arguments.splits,
        scenes=arguments.scenes,
    )
    prepared = prepare_scenes(
        jobs,
        arguments.output,
        functools.partial(convert, config=config),
        dataset=arguments.dataset,
        settings=config,
        workers=arguments.workers,
        faults=faults,
        progress=progress("scenes"),
    )
    return _finish(prepared, arguments)


def _finish(prepared: "Sequence[PreparedScene]", arguments: argparse.Namespace) -> int:
    for made in prepared:
        if made.scene is not None:
            state = ", there already" if made.kept else ""
            print(
                f"{made.scene_id}: {made.scene.frames} frames, {len(made.samples)} samples{state}"
            )
    if arguments.preview:
        _draw(Path(arguments.output), prepared, arguments.preview)
    done = sum(made.scene is not None for made in prepared)
    print(f"{done} of {len(prepared)} scenes in {arguments.output}")
    skipped = [item for made in prepared for item in made.skipped]
    return report_skipped(skipped, arguments, where="manifest.json", is_empty=done == 0)


def _draw(output: Path, prepared: "Sequence[PreparedScene]", num_scenes: int) -> None:
    from scenerl.preprocess.preview import write_preview

    folders = {
        f"scenes/{made.scene_id}": list(made.samples) for made in prepared if made.scene is not None
    }
    if folders:
        write_preview(output / "preview.png", output, folders, num_scenes=num_scenes)
        print(f"picture: {output / 'preview.png'}")
