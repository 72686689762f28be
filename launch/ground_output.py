"""Write the answers of `launch ground`: lines, clouds, boxes, pictures and the summary."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.envs.chain import PREDICTED, oracle_table
from scenerl.launch.grounding import GroundResult
from scenerl.launch.overview import (
    MASK_COLOR,
    PREDICTED_COLOR,
    TRUE_COLOR,
    draw_cloud,
    draw_frame,
    pick_frames,
    room_planes,
    scene_cloud,
    write_overview,
)
from scenerl.launch.ply import write_ply
from scenerl.preprocess.scene import Scene

FRAMES_SHOWN = 4
CLOUD_FRAMES = 24


def write_results(
    folder: Path,
    results: Sequence[GroundResult],
    skipped: Mapping[str, int],
    *,
    pictures: int,
) -> dict[str, Any]:
    """Write everything about the answers.

    Args:
        folder: Made if missing; holds answers.jsonl, summary.json and one PLY, JSON and PNG an
            answer.
        results: The answers.
        skipped: Reason -> samples that could not be asked.
        pictures: Most overview pictures.

    Returns:
        The content of summary.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rooms: dict[Path, Room] = {}
    rows = []
    for number, result in enumerate(results):
        row = answer_row(result)
        if number < pictures and result.scene_path not in rooms:
            rooms = {result.scene_path: open_room(result.scene_path)}  # answers come by scene
        name = file_name(result.sample.sample_id)
        if result.lifted is not None and result.box_world is not None:
            cloud = result.lifted.object
            write_ply(folder / f"{name}.ply", cloud.points_world, cloud.colors)
            row["ply"] = f"{name}.ply"
        if number < pictures:
            draw_answer(folder / f"{name}.png", result, rooms[result.scene_path])
            row["picture"] = f"{name}.png"
        (folder / f"{name}.json").write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
        rows.append(row)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "answers.jsonl").write_text(lines, encoding="utf-8")
    summary = summarize(results, skipped)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def summarize(results: Sequence[GroundResult], skipped: Mapping[str, int]) -> dict[str, Any]:
    """Average the answers: accuracies, the oracle table, and where answers are lost."""
    table = oracle_table([result.iou3d for result in results if result.iou3d])
    predicted = table.get(PREDICTED, {})
    blamed = Counter(result.blame for result in results if result.blame is not None)
    errors = Counter(error for result in results for error in _kinds(result.errors))
    return {
        "acc25": predicted.get("acc25"),
        "acc50": predicted.get("acc50"),
        "iou3d": predicted.get("iou3d"),
        "temporal_iou": _mean([result.temporal_iou for result in results]),
        "box_iou": _mean([result.box_iou for result in results]),
        "oracle": table,
        "lost_in": dict(blamed),
        "errors": dict(errors),
        "skipped": dict(skipped),
        "queries": len(results),
    }


def answer_row(result: GroundResult) -> dict[str, Any]:
    """Return one answer as plain values."""
    sample, lifted = result.sample, result.lifted
    return {
        "sample_id": sample.sample_id,
        "question": sample.question,
        "kind": sample.kind,
        "scene": result.scene_path.name,
        "scene_path": str(result.scene_path),
        "span_s": result.span.span_s,
        "true_spans_s": sample.target.spans_s,
        "temporal_iou": result.temporal_iou,
        "span_reply": result.span.text,
        "boxes": [asdict(reply) for reply in result.boxes],
        "box_iou": result.box_iou,
        "mask_pixels": {} if lifted is None else {n: int(m.sum()) for n, m in lifted.masks.items()},
        "box_world": result.box_world,
        "true_box_world": sample.target.box_world,
        "num_points": 0 if lifted is None else len(lifted.object.points_world),
        "num_frames": 0 if lifted is None else len(lifted.object.frame_indices),
        "iou3d": result.iou3d,
        "lost_in": result.blame,
        "errors": list(result.errors),
        "lift_seconds": round(result.seconds, 3),
    }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Room:
    """What the pictures of all answers in one scene share."""

    scene: Scene
    points: np.ndarray
    """float64 [n, 3], metres."""
    colors: np.ndarray
    """uint8 [n, 3]."""
    planes: np.ndarray
    """See `overview.room_planes`."""
    up: np.ndarray
    """float64 [3]."""


def open_room(path: Path) -> Room:
    """Open a scene and make a thin cloud of it."""
    scene = Scene.open(path, check="files")
    every = max(1, -(-len(scene.frame_indices) // CLOUD_FRAMES))
    step = max(3, scene.depth_size[0] // 100)
    points, colors = scene_cloud(scene, scene.frame_indices[::every], step)
    up = guess_up(scene) if scene.up is None else scene.up
    return Room(scene=scene, points=points, colors=colors, planes=room_planes(points), up=up)


def draw_answer(file: Path, result: GroundResult, room: Room) -> None:
    """Draw frames with boxes and mask, and the cloud from aside and from above."""
    scene = room.scene
    boxes = {r.frame: r.box_px for r in result.boxes}
    masks = {} if result.lifted is None else result.lifted.masks
    true_boxes = result.sample.target.boxes_px or {}
    shown = pick_frames(masks, list(boxes), scene.frame_indices, FRAMES_SHOWN)
    frames = [
        draw_frame(
            scene.color(n),
            masks.get(n),
            boxes.get(n),
            true_boxes.get(n),
            f"frame {n}, {scene.times_s(n):.1f} s" + (", asked" if n in boxes else ""),
        )
        for n in shown
    ]
    write_overview(file, title(result), [frames, _cloud_panels(result, room)], LEGEND)


LEGEND = "red: predicted box, green: true box, yellow: mask and lifted points"


def title(result: GroundResult) -> str:
    """Return the query with its headline numbers."""
    text = f"{result.sample.question}   span "
    span = result.span.span_s
    text += "none" if span is None else f"{span[0]:.1f}-{span[1]:.1f} s"
    if result.sample.target.spans_s:
        true = ", ".join(f"{a:.1f}-{b:.1f} s" for a, b in result.sample.target.spans_s)
        text += f" (true {true})"
    if result.iou3d:
        text += f"   3D IoU {result.iou3d[PREDICTED]:.2f}"
    elif result.box_world is not None:
        sides = zip(result.box_world[:3], result.box_world[3:], strict=True)
        text += "   box " + " x ".join(f"{upper - lower:.2f}" for lower, upper in sides) + " m"
    if result.blame not in (None, "right"):
        text += f"   lost in: {result.blame}"
    return text + ("" if not result.errors else f"   {result.errors[0]}")


def _cloud_panels(result: GroundResult, room: Room) -> list[np.ndarray]:
    points, colors = room.points, room.colors
    if result.lifted is not None:
        found = result.lifted.object.points_world
        points = np.concatenate([points, found])
        yellow = np.array([MASK_COLOR], np.uint8)
        colors = np.concatenate([colors, yellow.repeat(len(found), axis=0)])
    boxes = [
        (result.sample.target.box_world, TRUE_COLOR),
        (result.box_world, PREDICTED_COLOR),
    ]
    return [
        draw_cloud(points, colors, boxes, room.up, room.planes, from_above=above)
        for above in (False, True)
    ]


def guess_up(scene: Scene) -> np.ndarray:
    """Guess the world axis that points up from the cameras: they are held level on average."""
    down = np.mean([scene.camera_to_world(n)[:3, 1] for n in scene.frame_indices], axis=0)
    axis = np.zeros(3)
    largest = int(np.argmax(np.abs(down)))
    axis[largest] = -np.sign(down[largest])
    return axis


def file_name(sample_id: str) -> str:
    """Return a sample id as a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in sample_id)


def _kinds(errors: Sequence[str]) -> set[str]:
    """Shorten "box in frame 7: reason" to "box: reason" so that errors can be counted."""
    return {f"{e.split(' in frame')[0].split(':')[0]}: {e.split(': ', 1)[1]}" for e in errors}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
