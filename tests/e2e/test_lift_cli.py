"""`launch lift` on a real room, and its answers to wrong input."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenerl.kernels.iou import box3d_iou
from scenerl.launch.lift import main
from scenerl.preprocess.scene_writer import SceneWriter

ROOM = Path(__file__).parents[2] / ".." / "shared" / "data" / "hololens_room"
WORST_IOU = 0.85


@pytest.fixture(scope="module")
def wall(tmp_path_factory) -> Path:
    """Write two frames of a wall 2 m ahead, seen by two cameras 0.1 m apart."""
    folder = tmp_path_factory.mktemp("scene") / "wall"
    K = np.array([[40.0, 0, 20], [0, 40, 15], [0, 0, 1]])
    with SceneWriter(folder, scene_id="wall") as writer:
        writer.write_intrinsics(K, K)
        for number in range(2):
            pose = np.eye(4)
            pose[0, 3] = 0.1 * number
            writer.write_frame(
                number,
                color=np.full((30, 40, 3), 90, np.uint8),
                depth=np.full((30, 40), 2000, np.uint16),
                camera_to_world=pose,
                time_s=0.5 * number,
            )
    return folder


def write_mask(folder: Path, name: str, mask: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(mask).save(folder / name)


def lift(scene: Path, masks: Path, out: Path, *more: str) -> int:
    return main(["--scene", str(scene), "--masks", str(masks), "--json", str(out), *more], "lift")


@pytest.mark.skipif(not ROOM.is_dir(), reason="../shared/data/hololens_room is not present")
def test_every_object_of_the_real_room_is_boxed_well(tmp_path):
    out = tmp_path / "boxes.json"
    assert lift(ROOM, ROOM / "masks", out, "--ply", str(tmp_path)) == 0
    found = {row["id"]: row for row in json.loads(out.read_text())["objects"]}
    truth = json.loads((ROOM / "instances.json").read_text())["instances"]
    assert set(found) == {item["id"] for item in truth}
    for item in truth:
        row = found[item["id"]]
        true = [*item["aabb_world"][0], *item["aabb_world"][1]]
        iou = box3d_iou([*row["box_min"], *row["box_max"]], true)
        assert iou >= WORST_IOU, item["label"]
        assert (tmp_path / f"{item['id']}.ply").stat().st_size > 15 * row["num_points"]


def test_a_patch_of_a_wall_gets_its_box_and_cloud(wall, tmp_path):
    masks, out = tmp_path / "masks", tmp_path / "out" / "boxes.json"
    mask = np.zeros((30, 40), np.uint8)
    mask[10:21, 10:31] = 7  # 20 x 10 pixels between centres, 0.05 m each: 1.0 m x 0.5 m
    write_mask(masks, "00000.png", mask)
    write_mask(masks, "nonsense.png", mask)
    write_mask(masks, "5.png", mask)
    words = ("lift.voxel_m=0.01", "lift.box_trim=0", "lift.outlier_neighbors=0")
    assert lift(wall, masks, out, "--ply", str(tmp_path), *words) == 0
    report = json.loads(out.read_text())
    (row,) = report["objects"]
    assert (row["id"], row["num_points"], row["num_frames"]) == (7, 231, 1)
    assert row["box_min"] == pytest.approx([-0.5, -0.25, 2.0], abs=1e-4)
    assert row["box_max"] == pytest.approx([0.5, 0.25, 2.0], abs=1e-4)
    assert {item["file"]: item["reason"] for item in report["skipped_frames"]} == {
        "5.png": "the scene has no such frame",
        "nonsense.png": "the name is not a frame number",
    }
    header = (tmp_path / "7.ply").read_bytes()[:60]
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 231")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((30, 41), np.uint8), "41x30, but the colour frames are 40x30"),
        (np.zeros((30, 40, 3), np.uint8), "3 channels"),
        (np.zeros((30, 40), np.uint8), "all empty"),
        (None, "no PNG file"),
    ],
)
def test_wrong_masks_are_refused_with_a_reason(wall, tmp_path, capsys, mask, said):
    masks = tmp_path / "masks"
    masks.mkdir()
    if mask is not None:
        write_mask(masks, "0.png", mask)
    assert lift(wall, masks, tmp_path / "out.json") == 65
    assert said in capsys.readouterr().err


def test_an_override_of_another_section_is_refused(wall, tmp_path, capsys):
    assert lift(wall, tmp_path, tmp_path / "out.json", "train.max_steps=1") == 64
    assert "lift.key=value" in capsys.readouterr().err
