"""An encoded prompt as vLLM's own processed input: nothing is decoded or processed twice."""

from typing import Any

import torch
from torch import Tensor

from scenerl.rollout.encode import check_encoded
from scenerl.rollout.positions import PlaceholderRun, VisionTokens, placeholder_runs
from scenerl.rollout.records import EncodedPrompt


def engine_input(
    encoded: EncodedPrompt, tokens: VisionTokens, completion_ids: Tensor | None = None
) -> Any:
    """Make the input that vLLM's engine takes in place of a rendered prompt.

    Pixels are handed over by reference. Each medium is named by the hash of its pixels, so that
    the vision tower runs once for all completions of a group and for prompts about one video.

    Args:
        encoded: Checked against its content hash.
        tokens: Of the checkpoint.
        completion_ids: Appended to the prompt, for scoring.

    Raises:
        EncodingError: If the tensors are not those that were encoded.
    """
    from vllm.inputs.engine import mm_input, tokens_input

    hashes = check_encoded(encoded)
    ids = encoded.prompt_ids.tolist()
    if completion_ids is not None:
        ids += completion_ids.tolist()
    if encoded.pixel_values is None or encoded.grid_thw is None:
        return tokens_input(ids)
    runs = placeholder_runs(encoded.prompt_ids, encoded.media_kinds, encoded.grid_thw, tokens)
    by_kind: dict[str, list[int]] = {}
    for medium, kind in enumerate(encoded.media_kinds):
        by_kind.setdefault(kind, []).append(medium)
    ranges = _placeholder_ranges(encoded, runs, tokens.family == "qwen3_vl")
    return mm_input(
        ids,
        _kwargs_items(encoded, tokens, by_kind),
        {kind: [hashes[m] for m in media] for kind, media in by_kind.items()},
        {kind: [ranges[m] for m in media] for kind, media in by_kind.items()},
    )


def _placeholder_ranges(
    encoded: EncodedPrompt, runs: tuple[PlaceholderRun, ...], is_split_by_time: bool
) -> list[Any]:
    """One range per medium; that of a Qwen3-VL video covers the time stamps between its frames."""
    from vllm.multimodal.inputs import PlaceholderRange

    ranges = []
    for medium, kind in enumerate(encoded.media_kinds):
        own = [run for run in runs if run.medium == medium]
        if kind == "image" or not is_split_by_time:
            ranges.append(PlaceholderRange(offset=own[0].start, length=own[0].stop - own[0].start))
            continue
        # vLLM looks for the frame's vision_start token, which stands before the first run
        start, stop = own[0].start - 1, own[-1].stop + 1
        is_embed = torch.zeros(stop - start, dtype=torch.bool)
        for run in own:
            is_embed[run.start - start : run.stop - start] = True
        ranges.append(PlaceholderRange(offset=start, length=stop - start, is_embed=is_embed))
    return ranges


def _kwargs_items(
    encoded: EncodedPrompt, tokens: VisionTokens, by_kind: dict[str, list[int]]
) -> Any:
    from transformers import BatchFeature
    from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems

    assert encoded.pixel_values is not None
    assert encoded.grid_thw is not None
    pixels = torch.split(encoded.pixel_values, encoded.grid_thw.prod(1).tolist())
    names = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw"),
    }
    data: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for kind, media in by_kind.items():
        pixels_key, grid_key = names[kind]
        grids = encoded.grid_thw[media]
        first, last = media[0], media[-1]
        in_a_row = last - first + 1 == len(media)
        start = int(encoded.grid_thw[:first].prod(1).sum())
        count = int(grids.prod(1).sum())
        data[pixels_key] = (
            encoded.pixel_values[start : start + count]  # a view
            if in_a_row
            else torch.cat([pixels[m] for m in media])
        )
        data[grid_key] = grids
        fields[pixels_key] = MultiModalFieldConfig.flat_from_sizes(kind, grids.prod(1))
        fields[grid_key] = MultiModalFieldConfig.batched(kind, keep_on_cpu=True)
        if kind == "video" and tokens.tokens_per_second is not None:
            seconds = [encoded.second_per_grid_s[m] for m in media]
            data["second_per_grid_ts"] = torch.tensor(seconds, dtype=torch.float32)
            fields["second_per_grid_ts"] = MultiModalFieldConfig.batched(kind, keep_on_cpu=True)
    return MultiModalKwargsItems.from_hf_inputs(BatchFeature(data), fields)
