"""One decode and one processor call per prompt: the tensors that engine and learner share."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from torch import Tensor

from scenerl.envs.records import MediaRef, Prompt
from scenerl.preprocess.decoding import decoder
from scenerl.preprocess.frame_cache import FrameCache
from scenerl.rollout.positions import (
    MediaKind,
    VisionTokens,
    mrope_positions,
    placeholder_runs,
    vision_tokens,
)
from scenerl.rollout.records import EncodedPrompt

logger = logging.getLogger(__name__)

ReadFrames = Callable[[MediaRef], np.ndarray]
"""Returns the frames of a medium, uint8 RGB [n, H, W, 3], in any size."""


class EncodingError(ValueError):
    """A prompt that cannot be encoded, or tensors that are not what they claim to be."""


class PromptTooLongError(EncodingError):
    """A prompt above the length limit. It is refused, never cut."""


def read_frames(ref: MediaRef) -> np.ndarray:
    """Decode the frames that a reference names, in the process that decodes."""
    return decoder().frames(ref.path, ref.frame_indices)


class Encoder:
    """Tokenizer, processor and chat template of one checkpoint."""

    def __init__(
        self,
        model_dir: str | Path,
        *,
        max_prompt_length: int | None = None,
        frames: ReadFrames = read_frames,
        frame_cache_bytes: int = 0,
    ) -> None:
        """Load them.

        Args:
            model_dir: Checkpoint folder with config, tokenizer, processor and chat template.
            max_prompt_length: Longer prompts are refused; None sets no limit.
            frames: Where decoded frames come from.
            frame_cache_bytes: Memory for resized frames that later prompts may show again.
        """
        from transformers import AutoProcessor

        self.tokens: VisionTokens = vision_tokens(model_dir)
        self._processor: Any = AutoProcessor.from_pretrained(str(model_dir))
        self.tokenizer: Any = self._processor.tokenizer
        self.eos_ids = eos_ids(model_dir, self.tokenizer)
        self._max_prompt_length = max_prompt_length
        self._frames = frames
        self._cache = FrameCache(frame_cache_bytes)

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """Decode the media, run the processor once and compute positions and hash.

        Raises:
            PromptTooLongError: If the prompt exceeds the limit.
            EncodingError: If placeholders and media do not fit together.
        """
        kinds: tuple[MediaKind, ...] = tuple(ref.kind for ref in prompt.media)
        self._check_parts(prompt, kinds)
        text = self._processor.apply_chat_template(
            list(prompt.messages), tokenize=False, add_generation_prompt=True
        )
        self._check_placeholders(prompt, text)
        seconds = tuple(self._second_per_grid(ref) for ref in prompt.media)
        outputs = self._process(text, prompt.media, seconds)
        ids = torch.as_tensor(outputs["input_ids"][0], dtype=torch.int64)
        self._check_length(prompt, len(ids))
        pixel_values, grid_thw = _in_prompt_order(outputs, kinds)
        try:
            runs = placeholder_runs(ids, kinds, grid_thw, self.tokens)
        except ValueError as error:
            raise EncodingError(f"prompt {prompt.prompt_id}: {error}") from error
        encoded = EncodedPrompt(
            prompt=prompt,
            prompt_ids=ids,
            position_ids=mrope_positions(len(ids), runs, seconds, self.tokens.tokens_per_second),
            pixel_values=pixel_values,
            grid_thw=grid_thw,
            media_kinds=kinds,
            second_per_grid_s=seconds,
            content_hash="",
            num_media_tokens=sum(run.stop - run.start for run in runs),
        )
        return dataclasses.replace(encoded, content_hash=content_hash(encoded))

    def encode_text(self, text: str, *, end_of_turn: bool = True) -> Tensor:
        """Return the ids of a reply, int64 [completion], with the end-of-turn token."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([*ids, self.eos_ids[0]] if end_of_turn else ids, dtype=torch.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a completion without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _check_parts(self, prompt: Prompt, kinds: Sequence[str]) -> None:
        parts = [
            part["type"]
            for message in prompt.messages
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part["type"] != "text"
        ]
        if parts != list(kinds):
            raise EncodingError(
                f"prompt {prompt.prompt_id} has media parts {parts} in its messages, but media "
                f"{list(kinds)}; expected one medium per part, in the same order"
            )

    def _check_placeholders(self, prompt: Prompt, text: str) -> None:
        for kind in ("image", "video"):
            token = getattr(self._processor, f"{kind}_token")
            media = sum(ref.kind == kind for ref in prompt.media)
            if text.count(token) != media:
                raise EncodingError(
                    f"prompt {prompt.prompt_id} shows {token} {text.count(token)} times in its "
                    f"text for {media} {kind} parts; remove media tokens from the question, or "
                    "use the chat template that belongs to the processor"
                )

    def _check_length(self, prompt: Prompt, length: int) -> None:
        if self._max_prompt_length is not None and length > self._max_prompt_length:
            raise PromptTooLongError(
                f"prompt {prompt.prompt_id} has {length} tokens, above the limit of "
                f"{self._max_prompt_length}; raise rollout.max_prompt_length, or lower "
                "env.video_total_pixels or env.num_frames"
            )

    def _second_per_grid(self, ref: MediaRef) -> float:
        """Seconds from one temporal patch to the next, from the true times of the frames.

        Rounded to 0.1 ms in float32, so that neither noise in the time stamps nor the precision
        of an engine's tensor can change a floor in the positions.
        """
        if ref.kind == "image":
            return 0.0
        interval = _frame_interval_s(ref.times_s)
        seconds = round(interval * self.tokens.temporal_patch_size, 4)
        return torch.tensor(seconds, dtype=torch.float32).item()

    def _process(self, text: str, media: Sequence[MediaRef], seconds: Sequence[float]) -> Any:
        images, videos, metadata = [], [], []
        for ref, second_per_grid in zip(media, seconds, strict=True):
            frames = self._read(ref)
            if ref.kind == "image":
                images.append(frames[0])
            else:
                videos.append(frames)
                metadata.append(self._video_metadata(ref, second_per_grid))
        arguments: dict[str, Any] = {}
        if images:
            arguments |= {"images": images, "images_kwargs": {"do_resize": False}}
        if videos:
            video_kwargs = {
                "do_resize": False,
                "do_sample_frames": False,
                "cap_pixels_per_frame": False,  # the env has decided the size
                "video_metadata": metadata,
            }
            arguments |= {"videos": videos, "videos_kwargs": video_kwargs}
        return self._processor(text=[text], return_tensors="pt", **arguments)

    def frame_counts(self) -> dict[str, float]:
        """Return how many frames were decoded, reused and evicted since the start."""
        counts = dataclasses.asdict(self._cache.counts)
        return {name: float(count) for name, count in counts.items()}

    def _read(self, ref: MediaRef) -> Tensor:
        def decode(indices: Sequence[int]) -> np.ndarray:
            part = dataclasses.replace(
                ref,
                frame_indices=tuple(indices),
                times_s=tuple(ref.times_s[ref.frame_indices.index(i)] for i in indices),
            )
            frames = self._frames(part)
            if len(frames) != len(indices):
                raise EncodingError(
                    f"{ref.path} gave {len(frames)} frames, expected {len(indices)}; "
                    "the file changed after the prompt was made: preprocess it again"
                )
            return resize_frames(frames, ref.size).numpy()

        return torch.from_numpy(self._cache.frames(ref.path, ref.frame_indices, ref.size, decode))

    def _video_metadata(self, ref: MediaRef, second_per_grid: float) -> Any:
        from transformers.video_utils import VideoMetadata

        width, height = ref.size
        count = len(ref.frame_indices)
        if self.tokens.family == "qwen3_vl":  # writes index / fps as text: give it true times
            indices, fps = list(ref.times_s), 1.0
        else:  # spaces positions by frames / fps
            indices = [float(index) for index in range(count)]
            fps = self.tokens.temporal_patch_size / second_per_grid
        return VideoMetadata(
            total_num_frames=count,
            fps=fps,
            width=width,
            height=height,
            duration=ref.duration_s,
            video_backend="scenerl",
            frames_indices=indices,
        )


def resize_frames(frames: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Resize uint8 frames as qwen-vl-utils and the processors do: bicubic with antialiasing.

    Args:
        frames: uint8 [n, H, W, 3].
        size: (width, height).

    Returns:
        uint8 [n, 3, height, width].
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as vision

    tensor = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    target = [size[1], size[0]]
    if list(tensor.shape[2:]) == target:
        return tensor.contiguous()
    resized: Tensor = vision.resize(
        tensor, target, interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return resized


def eos_ids(model_dir: str | Path, tokenizer: Any) -> tuple[int, ...]:
    """Return the ids that end a completion, the tokenizer's end-of-turn token first."""
    from transformers import GenerationConfig

    found = [tokenizer.eos_token_id]
    if (Path(model_dir) / "generation_config.json").is_file():
        declared = GenerationConfig.from_pretrained(str(model_dir)).eos_token_id
        found += declared if isinstance(declared, list) else [declared]
    ids = tuple(dict.fromkeys(token for token in found if token is not None))
    if not ids:
        raise EncodingError(
            f"{model_dir} names no end-of-turn token; expected eos_token in tokenizer_config.json"
        )
    return ids


def media_hashes(encoded: EncodedPrompt) -> tuple[str, ...]:
    """Return an XXH3 per medium over kind, grid and pixel bytes.

    It tells what was damaged or mixed up, not what somebody forged, at the speed of memory: ten
    times that of SHA-256, and encoder, engine and learner all read every pixel for it.
    """
    if encoded.pixel_values is None or encoded.grid_thw is None:
        return ()
    hashes, start = [], 0
    for kind, grid in zip(encoded.media_kinds, encoded.grid_thw.tolist(), strict=True):
        stop = start + grid[0] * grid[1] * grid[2]
        digest = xxhash.xxh3_128(f"{kind} {grid}".encode())
        digest.update(encoded.pixel_values[start:stop].contiguous().numpy().data)
        hashes.append(digest.hexdigest())
        start = stop
    return tuple(hashes)


def content_hash(encoded: EncodedPrompt, media: Sequence[str] | None = None) -> str:
    """Return an XXH3 of 128 bits over ids, positions, grids and pixel bytes.

    Args:
        encoded: The prompt; its own `content_hash` does not count.
        media: `media_hashes` of it when they are already known.
    """
    digest = xxhash.xxh3_128(encoded.prompt_ids.contiguous().numpy().tobytes())
    digest.update(encoded.position_ids.contiguous().numpy().tobytes())
    for name in media_hashes(encoded) if media is None else media:
        digest.update(name.encode())
    return digest.hexdigest()


def check_encoded(encoded: EncodedPrompt) -> tuple[str, ...]:
    """Check that the tensors are those that were encoded; return their `media_hashes`.

    Raises:
        EncodingError: If the content hash differs or pixels and grids do not fit.
    """
    name = encoded.prompt.prompt_id
    if encoded.pixel_values is not None and encoded.grid_thw is not None:
        patches = int(encoded.grid_thw.prod(1).sum())
        if len(encoded.pixel_values) != patches:
            raise EncodingError(
                f"prompt {name} has {len(encoded.pixel_values)} patches, but its grids say "
                f"{patches}; encode it again"
            )
    media = media_hashes(encoded)
    found = content_hash(encoded, media)
    if found != encoded.content_hash:
        raise EncodingError(
            f"prompt {name} arrived with content hash {found[:12]}, expected "
            f"{encoded.content_hash[:12]}: its tensors changed after encoding; encode it again"
        )
    return media


def _frame_interval_s(times_s: Sequence[float]) -> float:
    """Mean time between frames; half a second for a single frame, Qwen's default 2 fps."""
    if len(times_s) < 2:
        return 0.5
    interval = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
    if not interval > 0:
        raise EncodingError(
            f"frame times run from {times_s[0]} s to {times_s[-1]} s; expected increasing times"
        )
    return interval


def _in_prompt_order(
    outputs: Any, kinds: Sequence[Literal["image", "video"]]
) -> tuple[Tensor | None, Tensor | None]:
    """Put pixels and grids of images and videos into the order of the prompt."""
    if not kinds:
        return None, None
    queues: dict[str, list[tuple[Tensor, Tensor]]] = {}
    names = (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    )
    for kind, pixels_key, grid_key in names:
        if kind in kinds:
            grids = torch.as_tensor(outputs[grid_key], dtype=torch.int64)
            pixels = torch.as_tensor(outputs[pixels_key], dtype=torch.float32)
            split = torch.split(pixels, grids.prod(1).tolist())
            queues[kind] = list(zip(split, grids, strict=True))
    ordered = [queues[kind].pop(0) for kind in kinds]
    return (
        torch.cat([pixels for pixels, _ in ordered]).contiguous(),
        torch.stack([grid for _, grid in ordered]),
    )
