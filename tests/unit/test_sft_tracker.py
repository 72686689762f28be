"""Training of the tracker: batches, losses worked by hand, gradients, the same seed twice."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from scenerl.configs.schema import DataConfig, RunConfig, TrackerSftConfig
from scenerl.envs.sam2_model import build_sam2
from scenerl.preprocess.rooms import RoomsConfig, make_rooms
from scenerl.rl.sft_tracker import (
    FrameOutput,
    draw_batch,
    learning_rate,
    run_clips,
    tracker_loss,
    train_tracker,
)
from scenerl.rl.tracker_clips import (
    ClipBatch,
    ClipSampler,
    ClipShape,
    draw_boxes,
    draw_shape,
    jittered_box,
    mask_box,
    sloppy_box,
)

SMALL = TrackerSftConfig(
    box_steps=1,
    image_steps=2,
    clip_steps=2,
    images_per_step=2,
    clips_per_step=1,
    clip_frames=3,
    objects_per_image=2,
    num_eval_objects=1,
)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms")
    make_rooms(root, RoomsConfig(rooms=(("train", 2), ("test", 1)), seed=77))
    return root


def test_a_batch_holds_boxes_around_its_targets(rooms: Path) -> None:
    sampler = ClipSampler(str(rooms), "train", SMALL, 224)
    shape = ClipShape(offsets=(0, 1, 2), prompted=(0, 2), stride=-1)
    batch = sampler.draw(np.random.default_rng(0), shape, 2, 3)
    objects = len(batch.clip_of)
    assert batch.images.shape == (2, 3, 3, 224, 224)
    assert batch.boxes.shape == (objects, 2, 4)
    assert batch.targets.shape == (objects, 3, 112, 112)
    assert bool((batch.pixels[:, [0, 2]] >= SMALL.min_pixels).all())
    for k in range(objects):
        x0, y0, x1, y1 = (batch.boxes[k, 0] / 2).tolist()
        inside = batch.targets[k, 0, int(y0) : int(y1) + 1, int(x0) : int(x1) + 1].sum()
        assert inside / batch.targets[k, 0].sum() > 0.5


def test_a_step_s_batch_depends_on_seed_and_step_alone(rooms: Path) -> None:
    one, two = (ClipSampler(str(rooms), "train", SMALL, 224) for _ in range(2))
    draw_batch(one, SMALL, 5, 0)
    first, second = draw_batch(one, SMALL, 5, 4), draw_batch(two, SMALL, 5, 4)
    assert first.shape == second.shape
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.boxes, second.boxes)
    assert not torch.equal(first.images, draw_batch(two, SMALL, 6, 4).images)


def test_drawn_boxes_come_with_their_filled_masks() -> None:
    batch = draw_boxes(np.random.default_rng(0), 50, 224)
    x0, y0, x1, y1 = batch.boxes[:, 0].T
    area = (x1 - x0) * (y1 - y0) / 4  # in cells of two by two pixels
    torch.testing.assert_close(batch.targets.sum(dim=(1, 2, 3)), area, rtol=1e-3, atol=0.1)


def test_clips_for_absence_show_an_object_that_leaves(rooms: Path) -> None:
    config = dataclasses.replace(SMALL, absent_share=1.0)
    sampler = ClipSampler(str(rooms), "train", config, 224)
    shape = ClipShape(offsets=(0, 8, 9), prompted=(0,))
    batch = sampler.draw(np.random.default_rng(0), shape, 3, 4)
    assert bool((batch.pixels == 0).any(dim=1).all())


def test_shapes_start_with_a_prompt_and_go_both_ways() -> None:
    rng = np.random.default_rng(0)
    shapes = [draw_shape(rng, 4) for _ in range(200)]
    assert all(shape.prompted[0] == 0 and len(shape.offsets) == 4 for shape in shapes)
    assert {shape.stride > 0 for shape in shapes} == {True, False}
    assert any(shape.offsets[1] > 1 for shape in shapes)
    assert any(len(shape.prompted) == 2 for shape in shapes)


def test_boxes_of_masks_are_tight_and_jitter_is_bounded() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:10, 6:16] = True
    assert mask_box(mask) == (6.0, 4.0, 16.0, 10.0)
    rng = np.random.default_rng(1)
    for _ in range(100):
        box = np.array(jittered_box(rng, (6, 4, 16, 10), 0.1, (30, 20)))
        assert (np.abs(box - (6, 4, 16, 10)) <= (1.0, 0.6, 1.0, 0.6)).all()
        x0, y0, x1, y1 = sloppy_box(rng, (0, 0, 30, 20), 0.3, (30, 20))
        assert 0 <= x0 < x1 <= 30
        assert 0 <= y0 < y1 <= 20


def _one_object(pixels: int, share: float) -> ClipBatch:
    return ClipBatch(
        shape=ClipShape(offsets=(0,), prompted=(0,)),
        images=torch.zeros(1, 1, 3, 8, 8),
        clip_of=torch.zeros(1, dtype=torch.int64),
        boxes=torch.zeros(1, 1, 4),
        targets=torch.full((1, 1, 4, 4), share),
        pixels=torch.full((1, 1), pixels),
    )


def test_loss_of_a_flat_guess_is_the_one_worked_by_hand() -> None:
    output = FrameOutput(
        frame=0,
        mask_logits=torch.zeros(1, 2, 2),
        iou=torch.tensor([0.25]),
        object_score=torch.tensor([0.0]),
    )
    loss, parts = tracker_loss([output], _one_object(16, 1.0))
    # Probability 0.5 on 16 cells that are all object: dice 1 - (2*8 + 1) / (8 + 16 + 1) = 0.32.
    mask = 5 * np.log(2) + 0.32
    # Logits of 0 are no mask: true IoU 0, estimate 0.25; score 0 costs log 2.
    assert loss.item() == pytest.approx(mask + 0.25**2 + 0.5 * np.log(2), abs=1e-5)
    assert parts["tracker/iou"] == 0.0
    balanced, _ = tracker_loss([output], _one_object(16, 1.0), balance=1.0)
    assert balanced.item() == pytest.approx(np.log(2) + 0.25**2 + 0.5 * np.log(2), abs=1e-5)


def test_rate_warms_up_and_ends_at_a_hundredth() -> None:
    config = TrackerSftConfig(
        box_steps=20, image_steps=40, clip_steps=40, warmup_steps=10, learning_rate=1.0
    )
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == pytest.approx(1.0)
    assert learning_rate(config, 55) == pytest.approx(0.505, abs=0.01)
    assert learning_rate(config, 99) == pytest.approx(0.01, abs=0.01)


def test_gradients_reach_encoder_and_memory_through_the_clip(rooms: Path) -> None:
    torch.manual_seed(0)
    model = build_sam2("tiny", "tiny").train()
    sampler = ClipSampler(str(rooms), "train", SMALL, 224)
    shape = ClipShape(offsets=(0, 1, 2), prompted=(0,))
    batch = sampler.draw(np.random.default_rng(3), shape, 1, 2)
    outputs = run_clips(model, batch)
    assert [output.frame for output in outputs] == [0, 1, 2]
    loss, _ = tracker_loss(outputs[1:], batch)
    loss.backward()
    for name in ("image_encoder.trunk.patch_embed.proj.weight", "memory_encoder.out_proj.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_the_same_seed_gives_the_same_weights(rooms: Path, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        config = RunConfig(
            name=name,
            output_dir=str(tmp_path),
            seed=3,
            data=DataConfig(path=str(rooms)),
            tracker_sft=SMALL,
        )
        scores = train_tracker(config)
        assert scores.num_objects == 1
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == 5


def test_an_empty_split_is_named(rooms: Path) -> None:
    with pytest.raises(ValueError, match=r"no split 'val'"):
        ClipSampler(str(rooms), "val", SMALL, 224)
