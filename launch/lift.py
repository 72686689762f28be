"""`launch lift`: anybody's masks through depth and poses to points and 3D boxes."""

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scenerl.configs.load import load_config
from scenerl.configs.schema import ConfigError, LiftConfig
from scenerl.launch.exit_codes import DONE, exit_code
from scenerl.launch.logs import set_up_logging
from scenerl.preprocess.records import DataError

if TYPE_CHECKING:
    import numpy as np

    from scenerl.envs.lift import MaskedObject
    from scenerl.envs.records import LiftedObject
    from scenerl.preprocess.scene import Scene

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Lift masks to 3D: the masked pixels of all frames go through depth, intrinsics and poses, are fused,
cleaned and boxed. A mask is a single-channel PNG named as its frame (00012.png or 12.png), in the
size of the colour frames; the value of a pixel is the instance id, 0 is none. Writes one JSON with,
per id: box (world axes, min and max, metres), number of points and of frames."""
EPILOG = """\
examples:
  launch lift --scene recordings/kitchen --masks masks/ --json boxes.json
  launch lift --scene recordings/kitchen --masks masks/ --json boxes.json --ply clouds/
  launch lift --scene scans/scene0011_00 --masks m --json b.json lift.voxel_m=0.01 lift.box_trim=0
  launch lift --scene recordings/kitchen --masks masks/ --json boxes.json lift.recipe=open3d
"""


def main(argv: list[str], command: str) -> int:
    """Lift a folder of masks."""
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scene", type=Path, required=True, help="RGB-D recording (docs/data.md)")
    parser.add_argument("--masks", type=Path, required=True, help="folder of PNG masks")
    parser.add_argument("--json", type=Path, required=True, help="file to write the boxes to")
    parser.add_argument("--ply", type=Path, help="folder to write coloured clouds to")
    parser.add_argument("--device", default="cpu", help="torch device (default cpu)")
    parser.add_argument("overrides", nargs="*", metavar="lift.key=value", help="settings")
    arguments = parser.parse_intermixed_args(argv)
    set_up_logging()
    try:
        config = lift_settings(arguments.overrides)
        report = lift_folder(arguments, config)
    except Exception as error:
        code = exit_code(error)
        logger.error("%s: %s", type(error).__name__, error, exc_info=code == 70)
        return code
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(describe(report))
    print(f"boxes: {arguments.json}")
    return DONE


def lift_settings(overrides: list[str]) -> LiftConfig:
    """Return section `lift` from `lift.key=value` words.

    Raises:
        ConfigError: If a word sets something else.
    """
    for word in overrides:
        if not word.startswith("lift."):
            raise ConfigError(f"override {word!r}: this command knows only lift.key=value")
    return load_config(None, overrides).lift


def lift_folder(arguments: argparse.Namespace, config: LiftConfig) -> dict[str, Any]:
    """Lift every id of a mask folder and return the content of the JSON file.

    Raises:
        DataError: If there are no usable masks, or one has the wrong size or type.
    """
    from scenerl.envs.lift import MaskedObject, lift_objects
    from scenerl.preprocess.scene import Scene

    scene = Scene.open(arguments.scene)
    masks, skipped = read_masks(scene, arguments.masks)
    names = {item.object_id: item.label for item in scene.objects}
    ids = _ids(masks)
    targets = [
        MaskedObject(
            label=names.get(number, f"object {number}"),
            masks={n: mask == number for n, mask in masks.items() if (mask == number).any()},
        )
        for number in ids
    ]
    found = lift_objects(scene, targets, config, device=arguments.device)
    objects = [
        _row(number, target, lifted, arguments.ply)
        for number, target, lifted in zip(ids, targets, found, strict=True)
    ]
    return {
        "scene": scene.scene_id,
        "units": "m",
        "settings": asdict(config),
        "frames": len(masks),
        "skipped_frames": skipped,
        "objects": objects,
    }


def _row(
    object_id: int, target: "MaskedObject", lifted: "LiftedObject", ply: Path | None
) -> dict[str, Any]:
    from scenerl.launch.ply import write_ply

    box = lifted.box_world
    row: dict[str, Any] = {
        "id": object_id,
        "label": target.label,
        "box_min": None if box is None else [round(value, 4) for value in box[:3]],
        "box_max": None if box is None else [round(value, 4) for value in box[3:]],
        "num_points": len(lifted.points_world),
        "num_frames": len(lifted.frame_indices),
        "masked_frames": sorted(target.masks),
    }
    if box is None:
        row["reason"] = "no masked pixel has usable depth that enough views agree on"
    elif ply is not None:
        file = ply / f"{object_id}.ply"
        write_ply(file, lifted.points_world, lifted.colors)
        row["ply"] = str(file)
    return row


def read_masks(
    scene: "Scene", folder: Path
) -> tuple[dict[int, "np.ndarray"], list[dict[str, Any]]]:
    """Read the masks of a scene's usable frames.

    Args:
        scene: The recording.
        folder: PNG files named after frames.

    Returns:
        Frame -> ids [height, width] in colour size, and the files that were left out with reasons.

    Raises:
        DataError: If no mask can be used, or one is not single-channel or has another size.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected PNG masks named as their frames")
    problems = {p.frame_index: p.reason for p in scene.problems}
    usable = set(scene.frame_indices)
    masks: dict[int, np.ndarray] = {}
    skipped: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*.png")):
        frame = int(file.stem) if file.stem.isdecimal() else None
        if frame in usable and frame is not None:
            if frame in masks:
                raise DataError(f"{file}: frame {frame} has a second mask; keep one of the two")
            masks[frame] = _read_mask(file, scene.color_size)
            continue
        reason = (
            "the name is not a frame number" if frame is None else "the scene has no such frame"
        )
        skipped.append({"file": file.name, "reason": problems.get(frame, reason)})
    if not masks:
        found = f"{len(skipped)} PNG files, none of a usable frame" if skipped else "no PNG file"
        first, last = scene.frame_indices[0], scene.frame_indices[-1]
        raise DataError(
            f"{folder}: found {found}; name each mask after its frame ({first:05d}.png .. "
            f"{last:05d}.png)"
        )
    return masks, skipped


def _read_mask(file: Path, size: tuple[int, int]) -> "np.ndarray":
    import numpy as np
    from PIL import Image

    try:
        with Image.open(file) as image:
            mode, mask = image.mode, np.asarray(image)
    except OSError as error:
        raise DataError(f"{file} is not an image: {error}") from error
    if mask.ndim != 2:
        raise DataError(
            f"{file} has {mask.shape[2]} channels ({mode}); expected one channel whose value is "
            "the instance id"
        )
    if mask.shape != (size[1], size[0]):
        raise DataError(
            f"{file} is {mask.shape[1]}x{mask.shape[0]}, but the colour frames are "
            f"{size[0]}x{size[1]}; resize it with nearest neighbour"
        )
    return mask.astype(np.int64)


def _ids(masks: dict[int, "np.ndarray"]) -> list[int]:
    import numpy as np

    found = sorted({int(value) for mask in masks.values() for value in np.unique(mask)} - {0})
    if not found:
        raise DataError(f"{len(masks)} masks, all empty; a pixel's value is its instance id")
    return found


def describe(report: dict[str, Any]) -> str:
    """Write the result as a table."""
    lines = [f"{'id':>5}  {'label':<20} {'points':>7} {'frames':>6}  size x, y, z in metres"]
    for row in report["objects"]:
        size = "no box: " + row["reason"] if row["box_min"] is None else ""
        if row["box_min"] is not None:
            sides = zip(row["box_min"], row["box_max"], strict=True)
            size = ", ".join(f"{upper - lower:.2f}" for lower, upper in sides)
        lines.append(
            f"{row['id']:>5}  {row['label']:<20} {row['num_points']:>7} {row['num_frames']:>6}  "
            f"{size}"
        )
    if report["skipped_frames"]:
        lines.append(f"{len(report['skipped_frames'])} mask files left out; reasons in the JSON")
    return "\n".join(lines)
