"""Train a SAM2 tracker from scratch: what a box means, box to mask, then memory on clips."""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scenerl.configs.schema import RunConfig, TrackerConfig, TrackerSftConfig
from scenerl.configs.seeding import derive_seed
from scenerl.envs.sam2_model import Sam2Model, build_sam2
from scenerl.envs.tracker_sam2 import Sam2Tracker
from scenerl.envs.tracking import Tracker
from scenerl.rl.tracker_clips import (
    ClipBatch,
    ClipSampler,
    draw_boxes,
    draw_shape,
    eval_objects,
    jittered_box,
    mask_box,
    single_frame,
)

if TYPE_CHECKING:
    from scenerl.preprocess.scene import Scene

logger = logging.getLogger(__name__)

VISIBLE_PIXELS = 10
"""An object with fewer pixels is neither shown nor absent: its score is not trained."""

VIDEO_FRAMES = 32
"""Length of the video that a clip is said to be cut from; scales SAM2's temporal encoding."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FrameOutput:
    """What the mask decoder says about every object in one frame."""

    frame: int
    mask_logits: Tensor
    """float32 [objects, size / 4, size / 4]."""
    iou: Tensor
    """float32 [objects]: the decoder's estimate of its own IoU."""
    object_score: Tensor
    """float32 [objects]: logit of being in the frame at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackerScores:
    """Quality on held-out objects, each tracked through its whole room from one true box."""

    prompted_iou: float
    """Mean IoU of the mask in the prompted frame."""
    propagated_iou: float
    """Mean IoU (J) over the other frames that show the object."""
    false_positive_rate: float
    """Share of the frames without the object that get a mask."""
    num_objects: int
    num_frames: int
    """Frames tracked, over all objects."""


def run_clips(model: Sam2Model, batch: ClipBatch) -> list[FrameOutput]:
    """Track every object through its clip, prompted frames first, with gradients.

    Args:
        model: In training mode.
        batch: The clips.

    Returns:
        One output per frame of the clips, in the order they were computed.
    """
    features = model.forward_image(batch.images.flatten(0, 1))
    _, levels, positions, sizes = model._prepare_backbone_features(features)
    num_frames = len(batch.shape.offsets)
    memory: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    decoded: list[Any] = []
    hook = model.sam_mask_decoder.register_forward_hook(lambda _m, _i, out: decoded.append(out))
    rest = [n for n in range(num_frames) if n not in batch.shape.prompted]
    order = [*batch.shape.prompted, *rest]
    try:
        for n in order:
            is_prompted = n in batch.shape.prompted
            rows = batch.clip_of * num_frames + n
            memory[f"{'cond' if is_prompted else 'non_cond'}_frame_outputs"][
                batch.shape.offsets[n]
            ] = model.track_step(
                frame_idx=batch.shape.offsets[n],
                is_init_cond_frame=is_prompted,
                current_vision_feats=[level[:, rows] for level in levels],
                current_vision_pos_embeds=[position[:, rows] for position in positions],
                feat_sizes=sizes,
                point_inputs=_points(batch, n) if is_prompted else None,
                mask_inputs=None,
                output_dict=memory,
                num_frames=VIDEO_FRAMES,
                run_mem_encoder=num_frames > 1,
            )
    finally:
        hook.remove()
    return [
        FrameOutput(frame=n, mask_logits=masks[:, 0], iou=iou[:, 0], object_score=score[:, 0])
        for n, (masks, iou, _, score) in zip(order, decoded, strict=True)
    ]


def _points(batch: ClipBatch, n: int) -> dict[str, Tensor]:
    """A box is two points to SAM2: its corners, labelled 2 and 3."""
    corners = batch.boxes[:, batch.shape.prompted.index(n)].view(-1, 2, 2)
    labels = torch.tensor([[2, 3]], dtype=torch.int32, device=corners.device)
    return {"point_coords": corners, "point_labels": labels.expand(len(corners), 2)}


def run_boxes(model: Sam2Model, batch: ClipBatch) -> list[FrameOutput]:
    """Decode boxes over a blank feature map, with gradients: geometry without an image."""
    blank = batch.boxes.new_zeros(())
    side = model.sam_image_embedding_size
    objects, width = len(batch.boxes), model.hidden_dim
    points = _points(batch, 0)
    sparse, dense = model.sam_prompt_encoder(
        points=(points["point_coords"], points["point_labels"]), boxes=None, masks=None
    )
    masks, iou, _, score = model.sam_mask_decoder(
        image_embeddings=model.no_mem_embed.view(1, width, 1, 1).expand(objects, -1, side, side),
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        repeat_image=False,
        high_res_features=[
            blank.expand(objects, width // 8, 4 * side, 4 * side),
            blank.expand(objects, width // 4, 2 * side, 2 * side),
        ],
    )
    return [FrameOutput(frame=0, mask_logits=masks[:, 0], iou=iou[:, 0], object_score=score[:, 0])]


def tracker_loss(
    outputs: list[FrameOutput],
    batch: ClipBatch,
    *,
    balance: float = 0.0,
    score_weight: float = 0.5,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss and its parts, averaged over objects and frames.

    mask: 5 x binary cross-entropy + dice where the object is shown; iou: squared error of the
    decoder's own estimate; score: cross-entropy of being in the frame.

    Args:
        outputs: What the model said.
        batch: What is true.
        balance: Share of a mask loss in which object and background weigh the same.
        score_weight: Weight of the score's loss.
    """
    mask_parts, iou_parts, score_parts, ious = [], [], [], []
    for output in outputs:
        target = batch.targets[:, output.frame]
        pixels = batch.pixels[:, output.frame]
        shown = pixels >= VISIBLE_PIXELS
        known = shown | (pixels == 0)
        score = F.binary_cross_entropy_with_logits(
            output.object_score, shown.float(), reduction="none"
        )
        score_parts.append(score[known])
        if not shown.any():
            continue
        logits = F.interpolate(
            output.mask_logits[shown, None], size=target.shape[-2:], mode="bilinear"
        )[:, 0]
        part, iou = _mask_loss(logits, target[shown], balance)
        mask_parts.append(part)
        iou_parts.append((output.iou[shown] - iou).square())
        ious.append(iou)
    mask, iou_error = torch.cat(mask_parts).mean(), torch.cat(iou_parts).mean()
    score_loss = torch.cat(score_parts).mean()
    loss = mask + iou_error + score_weight * score_loss
    parts = {
        "tracker/loss": float(loss.detach()),
        "tracker/mask_loss": float(mask.detach()),
        "tracker/score_loss": float(score_loss.detach()),
        "tracker/iou": float(torch.cat(ious).mean()),
    }
    return loss, parts


def _mask_loss(logits: Tensor, target: Tensor, balance: float) -> tuple[Tensor, Tensor]:
    """Return the loss [n] and the hard IoU [n] of mask logits [n, h, w] against shares."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    object_part = (entropy * target).sum(dim=(1, 2)) / target.sum(dim=(1, 2)).clamp(min=1)
    rest = 1 - target
    rest_part = (entropy * rest).sum(dim=(1, 2)) / rest.sum(dim=(1, 2)).clamp(min=1)
    share = logits.sigmoid()
    overlap, total = (share * target).sum(dim=(1, 2)), (share + target).sum(dim=(1, 2))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    with torch.no_grad():
        found, true = logits > 0, target > 0.5
        union = (found | true).sum(dim=(1, 2)).clamp(min=1)
        iou = (found & true).sum(dim=(1, 2)) / union
    plain = 5 * entropy.mean(dim=(1, 2)) + dice
    return balance * (object_part + rest_part) + (1 - balance) * plain, iou


def learning_rate(config: TrackerSftConfig, step: int) -> float:
    """Return the rate of a step: linear warm-up, then half a cosine down to a hundredth."""
    total = num_steps(config)
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def num_steps(config: TrackerSftConfig) -> int:
    """Return the number of steps of all three phases."""
    return config.box_steps + config.image_steps + config.clip_steps


def phase(config: TrackerSftConfig, step: int) -> str:
    """Return "box", "image" or "clip"."""
    if step < config.box_steps:
        return "box"
    return "image" if step < config.box_steps + config.image_steps else "clip"


def draw_batch(sampler: ClipSampler, config: TrackerSftConfig, seed: int, step: int) -> ClipBatch:
    """Draw the batch of a step; a function of seed and step alone."""
    rng = np.random.default_rng(derive_seed(seed, "tracker", step))
    if phase(config, step) == "box":
        return draw_boxes(rng, config.boxes_per_step, sampler.image_size)
    if phase(config, step) == "image":
        return sampler.draw(rng, single_frame(), config.images_per_step, config.objects_per_image)
    shape = draw_shape(rng, config.clip_frames)
    return sampler.draw(rng, shape, config.clips_per_step, config.objects_per_image)


def save_tracker(model: torch.nn.Module, path: Path) -> None:
    """Write the weights in half precision, a quarter of a policy's size and as good."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    part = path.with_suffix(".part")
    save_file(weights, str(part), metadata={"format": "pt"})
    part.replace(path)


def evaluate_tracker(
    tracker: Tracker,
    scenes: "list[Scene]",
    num_objects: int,
    min_pixels: int,
    *,
    box_jitter: float = 0.0,
) -> TrackerScores:
    """Track held-out objects through their rooms from one box each.

    Args:
        tracker: What is measured.
        scenes: Held-out rooms; they take turns.
        num_objects: Objects in all.
        min_pixels: Frames that show less of the object are left out, unless they show nothing.
        box_jitter: Largest shift of the box's edges as a share of the box; 0 gives the true box.
    """
    rng = np.random.default_rng(derive_seed("evaluate tracker", num_objects))
    prompted: list[float] = []
    propagated: list[float] = []
    false: list[float] = []
    count = num_frames = 0
    for scene, _, frame, truth in eval_objects(scenes, num_objects, min_pixels):
        box = jittered_box(rng, mask_box(truth[frame]), box_jitter, scene.color_size)
        found = tracker.track(scene, {frame: box}, scene.frame_indices)
        count, num_frames = count + 1, num_frames + len(truth)
        for index, mask in truth.items():
            guess = found.get(index, np.zeros_like(mask))
            if not mask.any():
                false.append(float(guess.any()))
            elif mask.sum() >= min_pixels:
                iou = float((guess & mask).sum() / (guess | mask).sum())
                (prompted if index == frame else propagated).append(iou)
    return TrackerScores(
        prompted_iou=float(np.mean(prompted)),
        propagated_iou=float(np.mean(propagated)),
        false_positive_rate=float(np.mean(false)) if false else 0.0,
        num_objects=count,
        num_frames=num_frames,
    )


def train_tracker(config: RunConfig) -> TrackerScores:
    """Train a tracker as `tracker_sft` says and measure it on the held-out rooms.

    Writes ``model.safetensors``, ``metrics.jsonl`` and ``eval.json`` to output_dir/name.

    Returns:
        The scores on `data.eval_split`.
    """
    torch.set_num_threads(config.cluster.threads_per_actor)
    settings = config.tracker_sft
    folder = Path(config.output_dir) / config.name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(derive_seed(config.seed, "tracker weights"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_sam2(settings.config, settings.checkpoint, device=device).train()
    if settings.checkpoint is None:
        align_positions(model)
    sampler = ClipSampler(config.data.path, config.data.train_split, settings, model.image_size)
    held_out = ClipSampler(config.data.path, config.data.eval_split, settings, model.image_size)
    start = time.monotonic()
    _optimize(model, sampler, config, folder)
    seconds = time.monotonic() - start
    save_tracker(model, folder / "model.safetensors")
    tracker = Sam2Tracker(
        TrackerConfig(checkpoint=str(folder / "model.safetensors"), config=settings.config),
        device=device,
    )
    scenes = [held_out.scene(number) for number in range(len(held_out.paths))]
    scores = evaluate_tracker(tracker, scenes, settings.num_eval_objects, settings.min_pixels)
    summary = {**asdict(scores), "train_seconds": round(seconds), "seed": config.seed}
    (folder / "eval.json").write_text(json.dumps(summary, indent=1) + "\n")
    logger.info("held-out rooms: %s", summary)
    return scores


def align_positions(model: Sam2Model) -> None:
    """Give a fresh model position frequencies along x and y, from an eighth of a wave upwards.

    SAM draws them at random; slow waves along the axes make "inside the box" easy to learn.
    """
    frequencies = model.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix  # [2, n]
    half = frequencies.shape[1] // 2
    frequencies.zero_()
    frequencies[0, :half] = torch.logspace(-3, 1.5, half, base=2)
    frequencies[1, half:] = torch.logspace(-3, 1.5, frequencies.shape[1] - half, base=2)


def _optimize(model: Sam2Model, sampler: ClipSampler, config: RunConfig, folder: Path) -> None:
    settings = config.tracker_sft
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    start = time.monotonic()
    with (folder / "metrics.jsonl").open("w") as metrics:
        for step in range(num_steps(settings)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            name = phase(settings, step)
            batch = draw_batch(sampler, settings, config.seed, step).to(model.device)
            outputs = run_boxes(model, batch) if name == "box" else run_clips(model, batch)
            balance = max(0.0, 1 - step / max(1, settings.balance_steps))
            loss, parts = tracker_loss(
                outputs, batch, balance=balance, score_weight=settings.score_weight
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            metrics.write(json.dumps({"step": step, **parts}) + "\n")
            if step % settings.log_steps == 0:
                metrics.flush()
                spent = time.monotonic() - start
                logger.info("%s step %d, %.0f s: %s", name, step, spent, parts)
            if settings.save_steps and (step + 1) % settings.save_steps == 0:
                save_tracker(model, folder / "model.safetensors")
