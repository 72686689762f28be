"""mRoPE positions of a prompt, as Qwen-VL was trained with and as vLLM computes them.

Text counts on by one in all three axes. A medium starts one behind the text before it and spreads
over (time, height, width); the text behind it starts at the largest position of any axis plus one.
transformers 5.19 instead continues behind a video at max(height, width), which loses the time axis
for long videos, so positions are always passed explicitly.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from scenerl.envs.family import FamilyName, model_family
from scenerl.rollout.records import EncodedPrompt

MediaKind = Literal["image", "video"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionTokens:
    """What a checkpoint's config says about media in its token sequence."""

    family: FamilyName
    image_id: int
    video_id: int
    vision_start_id: int
    vision_end_id: int
    merge_size: int
    patch_size: int
    temporal_patch_size: int
    tokens_per_second: float | None
    """Position steps per second of video (Qwen2.5-VL); None counts temporal patches."""

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that only a processor may write; a completion never contains them."""
        return tuple(
            sorted({self.image_id, self.video_id, self.vision_start_id, self.vision_end_id})
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceholderRun:
    """Consecutive placeholder tokens: one image, one video, or one frame group of Qwen3-VL."""

    medium: int
    """Which image or video of the prompt, from 0."""
    start: int
    """Index of its first token in the prompt."""
    grid: tuple[int, int, int]
    """Merged patches in time, height, width; their product is the length of the run."""

    @property
    def stop(self) -> int:
        """Index behind the last token."""
        t, h, w = self.grid
        return self.start + t * h * w


def vision_tokens(model_dir: str | Path) -> VisionTokens:
    """Read the media tokens of a checkpoint folder from its config.json."""
    path = Path(model_dir) / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    family = model_family(config)
    vision = config.get("vision_config") or {}
    per_second = vision.get("tokens_per_second", 4 if family.name == "qwen2_5_vl" else None)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    missing = [name for name in names if config.get(name) is None]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)}; expected the token ids of a Qwen-VL config.json, "
            "as save_pretrained writes them"
        )
    return VisionTokens(
        family=family.name,
        image_id=config["image_token_id"],
        video_id=config["video_token_id"],
        vision_start_id=config["vision_start_token_id"],
        vision_end_id=config["vision_end_token_id"],
        merge_size=family.merge_size,
        patch_size=family.patch_size,
        temporal_patch_size=int(vision.get("temporal_patch_size", 2)),
        tokens_per_second=per_second if family.name == "qwen2_5_vl" else None,
    )


def placeholder_runs(
    prompt_ids: Int[Tensor, " prompt"],
    kinds: Sequence[MediaKind],
    grid_thw: Int[Tensor, "media 3"] | None,
    tokens: VisionTokens,
) -> tuple[PlaceholderRun, ...]:
    """Find the placeholder tokens of every medium and check them against the grids.

    Args:
        prompt_ids: Placeholders expanded.
        kinds: Of each medium, in order.
        grid_thw: Patches (not merged) of each medium.
        tokens: Of the checkpoint. A Qwen3-VL video has one run per temporal patch.

    Raises:
        ValueError: If kind, number or length of the runs is not what the grids say.
    """
    expected: list[tuple[int, MediaKind, tuple[int, int, int]]] = []
    grids = [] if grid_thw is None else grid_thw.tolist()
    for medium, (kind, (t, h, w)) in enumerate(zip(kinds, grids, strict=True)):
        h, w = h // tokens.merge_size, w // tokens.merge_size
        if tokens.family == "qwen3_vl" and kind == "video":
            expected += [(medium, kind, (1, h, w))] * t
        else:
            expected.append((medium, kind, (t, h, w)))
    found = _runs(prompt_ids.tolist(), tokens)
    wanted = [(kind, t * h * w) for _, kind, (t, h, w) in expected]
    if [(kind, length) for kind, _, length in found] != wanted:
        raise ValueError(
            f"the prompt has placeholder runs {[(k, n) for k, _, n in found]}, but its media need "
            f"{wanted} (kind, merged patches); the processor does not belong to this model, or "
            "the question text contains media tokens"
        )
    return tuple(
        PlaceholderRun(medium=medium, start=start, grid=grid)
        for (medium, _, grid), (_, start, _) in zip(expected, found, strict=True)
    )


def _runs(ids: Sequence[int], tokens: VisionTokens) -> list[tuple[MediaKind, int, int]]:
    """Return (kind, start, length) of every run of placeholder tokens."""
    kinds: dict[int, MediaKind] = {tokens.image_id: "image", tokens.video_id: "video"}
    runs: list[tuple[MediaKind, int, int]] = []
    for index, token in enumerate(ids):
        kind = kinds.get(token)
        if kind is None:
            continue
        if runs and runs[-1][0] == kind and runs[-1][1] + runs[-1][2] == index:
            runs[-1] = (kind, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((kind, index, 1))
    return runs


def mrope_positions(
    num_tokens: int,
    runs: Sequence[PlaceholderRun],
    second_per_grid_s: Sequence[float],
    tokens_per_second: float | None,
) -> Int[Tensor, "3 prompt"]:
    """Return the positions (time, height, width) of every token of a prompt.

    The time index of temporal patch k of a Qwen2.5-VL video is
    floor(k * second_per_grid * tokens_per_second); elsewhere it is k.

    Args:
        num_tokens: Length of the prompt.
        runs: `placeholder_runs` of it.
        second_per_grid_s: Seconds between temporal patches of each medium; 0 for an image.
        tokens_per_second: Of the checkpoint.
    """
    parts: list[Tensor] = []
    done, start = 0, 0
    for run in runs:
        text = run.start - done
        parts.append((torch.arange(text) + start).expand(3, -1))
        start += text
        seconds = second_per_grid_s[run.medium]
        step = seconds * tokens_per_second if tokens_per_second and seconds > 0 else 1.0
        t, h, w = run.grid
        time = (torch.arange(t, dtype=torch.float64) * step).long()
        axes = torch.meshgrid(time, torch.arange(h), torch.arange(w), indexing="ij")
        parts.append(torch.stack(axes).reshape(3, -1) + start)
        start = int(parts[-1].max()) + 1
        done = run.stop
    parts.append((torch.arange(num_tokens - done) + start).expand(3, -1))
    return torch.cat(parts, dim=1)


def completion_positions(encoded: EncodedPrompt, length: int) -> Int[Tensor, "3 completion"]:
    """Return the positions of a completion's tokens: they count on from the prompt's maximum."""
    start = int(encoded.position_ids.max()) + 1
    return (torch.arange(length) + start).expand(3, -1)
