"""The SAM2 tracker: one loading path for tiny and large, both directions, the shipped weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scenerl.configs.schema import ConfigError, TrackerConfig
from scenerl.envs.sam2_model import TINY_FOLDER, build_sam2, frame_tensor
from scenerl.envs.tracker_sam2 import Sam2Tracker
from scenerl.envs.tracking import make_tracker
from scenerl.preprocess.rooms import RoomsConfig, make_rooms
from scenerl.preprocess.scene import Scene
from scenerl.rl.sft_tracker import evaluate_tracker
from scenerl.rl.tracker_clips import eval_objects, mask_box

WEIGHTS = TINY_FOLDER / "model.safetensors"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    """Two rooms that no tracker was trained on."""
    root = tmp_path_factory.mktemp("rooms")
    make_rooms(root, RoomsConfig(rooms=(("test", 2),), seed=4242))
    return [Scene.open(path) for path in sorted((root / "scenes").iterdir())]


@pytest.fixture(scope="module")
def tracker() -> Sam2Tracker:
    tracker = make_tracker(TrackerConfig())
    assert isinstance(tracker, Sam2Tracker)
    return tracker


def test_shipped_weights_track_objects_of_unseen_rooms(
    tracker: Sam2Tracker, scenes: list[Scene]
) -> None:
    scores = evaluate_tracker(tracker, scenes, num_objects=6, min_pixels=60)
    assert scores.num_objects == 6
    assert scores.prompted_iou > 0.6
    assert scores.propagated_iou > 0.4


def test_masks_come_before_and_after_the_prompted_frame(
    tracker: Sam2Tracker, scenes: list[Scene]
) -> None:
    scene, _, frame, truth = next(eval_objects(scenes, 1, 60))
    found = tracker.track(scene, {frame: mask_box(truth[frame])}, scene.frame_indices)
    assert min(found) < frame < max(found)
    assert list(found) == sorted(found)
    width, height = scene.color_size
    assert all(mask.shape == (height, width) and mask.dtype == bool for mask in found.values())
    assert all(mask.any() for mask in found.values())


def test_tracking_twice_gives_the_same_masks(tracker: Sam2Tracker, scenes: list[Scene]) -> None:
    scene, _, frame, truth = next(eval_objects(scenes, 1, 60))
    boxes = {frame: mask_box(truth[frame])}
    first = tracker.track(scene, boxes, scene.frame_indices)
    fresh = Sam2Tracker(TrackerConfig()).track(scene, boxes, scene.frame_indices)
    again = tracker.track(scene, boxes, scene.frame_indices)
    assert first.keys() == fresh.keys() == again.keys()
    for index in first:
        np.testing.assert_array_equal(first[index], fresh[index])
        np.testing.assert_array_equal(first[index], again[index])


def test_a_given_mask_is_kept_and_prompts_the_others(
    tracker: Sam2Tracker, scenes: list[Scene]
) -> None:
    scene, _, frame, truth = next(eval_objects(scenes, 1, 60))
    found = tracker.track(scene, {}, scene.frame_indices, masks={frame: truth[frame]})
    np.testing.assert_array_equal(found[frame], truth[frame])
    assert len(found) > 1


def test_only_asked_frames_are_returned_and_at_most_max_frames_tracked(
    scenes: list[Scene],
) -> None:
    scene, _, frame, truth = next(eval_objects(scenes, 1, 60))
    near = Sam2Tracker(TrackerConfig(max_frames=3))
    found = near.track(scene, {frame: mask_box(truth[frame])}, scene.frame_indices)
    assert set(found) <= {frame - 1, frame, frame + 1}
    assert frame not in near.track(scene, {frame: mask_box(truth[frame])}, [frame + 1])


def test_segment_is_the_mask_of_the_prompted_frame(
    tracker: Sam2Tracker, scenes: list[Scene]
) -> None:
    scene, _, frame, truth = next(eval_objects(scenes, 1, 60))
    box = mask_box(truth[frame])
    alone = tracker.segment(scene, frame, box)
    np.testing.assert_array_equal(
        alone, tracker.track(scene, {frame: box}, scene.frame_indices)[frame]
    )


def test_large_features_are_left_to_sam2_and_the_masks_stay(
    tracker: Sam2Tracker, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, _, frame, truth = next(eval_objects(scenes, 1, 60))
    boxes = {frame: mask_box(truth[frame])}
    kept = tracker.track(scene, boxes, scene.frame_indices)
    monkeypatch.setattr("scenerl.envs.tracker_sam2.FEATURE_BYTES", 0)
    streamed = Sam2Tracker(TrackerConfig()).track(scene, boxes, scene.frame_indices)
    assert kept.keys() == streamed.keys()
    for index in kept:
        np.testing.assert_array_equal(kept[index], streamed[index])


def test_prompts_that_cannot_be_used_are_refused(tracker: Sam2Tracker, scenes: list[Scene]) -> None:
    with pytest.raises(ValueError, match="prompt at least one frame"):
        tracker.track(scenes[0], {}, scenes[0].frame_indices)
    with pytest.raises(ValueError, match="not usable frames"):
        tracker.track(scenes[0], {999: (0, 0, 10, 10)}, scenes[0].frame_indices)


def test_weights_of_another_model_are_refused_with_names_and_shapes(tmp_path: Path) -> None:
    weights = load_file(str(WEIGHTS))
    short = dict(weights)
    del short["no_mem_embed"]
    save_file(short, str(tmp_path / "short.safetensors"))
    with pytest.raises(ConfigError, match=r"1 weights missing \(no_mem_embed"):
        build_sam2("tiny", str(tmp_path / "short.safetensors"))
    wide = {**weights, "no_mem_embed": torch.zeros(1, 1, 256)}
    save_file(wide, str(tmp_path / "wide.safetensors"))
    with pytest.raises(ConfigError, match=r"found \[1, 1, 256\], expected \[1, 1, 96\]"):
        build_sam2("tiny", str(tmp_path / "wide.safetensors"))
    save_file({**weights, "extra": torch.zeros(1)}, str(tmp_path / "extra.safetensors"))
    with pytest.raises(ConfigError, match=r"1 unknown \(extra"):
        build_sam2("tiny", str(tmp_path / "extra.safetensors"))


def test_a_pt_file_as_sam2_ships_them_gives_the_same_model(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pt"
    torch.save({"model": load_file(str(WEIGHTS))}, path)
    from_pt = build_sam2("tiny", str(path)).state_dict()
    from_safetensors = build_sam2("tiny", "tiny").state_dict()
    assert all(torch.equal(from_pt[name], value) for name, value in from_safetensors.items())


def test_a_pickle_that_is_not_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    torch.save({"model": {"epoch": 3}}, path)
    with pytest.raises(ConfigError, match="found no weights"):
        build_sam2("tiny", str(path))


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"configs/sam2\.1/sam2\.1_hiera_l\.yaml"):
        build_sam2("sam2.1_hiera_huge.yaml", None)
    with pytest.raises(ConfigError, match=r"no file .*sam2\.1_hiera_large\.pt"):
        build_sam2("tiny", str(tmp_path / "sam2.1_hiera_large.pt"))
    with pytest.raises(ConfigError, match=r"tracker\.config is not set"):
        Sam2Tracker(TrackerConfig(checkpoint="sam2.1_hiera_large.pt"))


def test_a_config_may_only_name_modules_of_sam2(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        "model:\n  _target_: sam2.modeling.sam2_base.SAM2Base\n"
        "  image_encoder: {_target_: os.system, command: 'true'}\n"
    )
    with pytest.raises(ConfigError, match=r"os\.system"):
        build_sam2(str(path), None)
    path.write_text("trainer: {}\n")
    with pytest.raises(ConfigError, match="no `model:` section"):
        build_sam2(str(path), None)


def test_frames_are_squared_and_normalised() -> None:
    grey = np.full((30, 40, 3), 128, np.uint8)
    tensor = frame_tensor(grey, 16)
    assert tensor.shape == (3, 16, 16)
    expected = (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(tensor[:, 3, 5], expected)


@pytest.mark.slow
def test_the_package_s_own_model_goes_through_the_same_path(
    scenes: list[Scene], tmp_path: Path
) -> None:
    config = "configs/sam2.1/sam2.1_hiera_t.yaml"
    torch.manual_seed(0)
    model = build_sam2(config, None)
    assert model.image_size == 1024
    assert model.sam_mask_decoder.dynamic_multimask_via_stability
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": model.state_dict()}, path)
    large = Sam2Tracker(TrackerConfig(checkpoint=str(path), config=config))
    scene = scenes[0]
    found = large.track(scene, {3: (10, 10, 90, 90)}, [2, 3, 4])
    assert set(found) <= {2, 3, 4}
    with pytest.raises(ConfigError, match="does not fit"):
        build_sam2("tiny", str(path))
