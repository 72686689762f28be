import pytest
import torch
from tiny_qwen import encoded_prompt

from scenerl.rollout.positions import (
    PlaceholderRun,
    VisionTokens,
    completion_positions,
    mrope_positions,
    placeholder_runs,
)

TOKENS = VisionTokens(
    family="qwen2_5_vl",
    image_id=90,
    video_id=91,
    vision_start_id=92,
    vision_end_id=93,
    merge_size=2,
    patch_size=14,
    temporal_patch_size=2,
    tokens_per_second=2,
)


def test_positions_of_a_short_prompt_by_hand():
    # text a, start, image of 1 x 2 merged patches, end, b
    runs = placeholder_runs(
        torch.tensor([1, 92, 90, 90, 93, 2]), ("image",), torch.tensor([[1, 2, 4]]), TOKENS
    )
    assert runs == (PlaceholderRun(medium=0, start=2, grid=(1, 1, 2)),)
    positions = mrope_positions(6, runs, (0.0,), 2)
    assert positions.tolist() == [
        [0, 1, 2, 2, 4, 5],
        [0, 1, 2, 2, 4, 5],
        [0, 1, 2, 3, 4, 5],
    ]


def test_time_steps_are_floored_by_hand():
    # 4 temporal patches of one token, 0.7 s apart, 2 positions a second: 0, 1.4, 2.8, 4.2
    run = PlaceholderRun(medium=0, start=1, grid=(4, 1, 1))
    positions = mrope_positions(6, (run,), (0.7,), 2)
    assert positions[0].tolist() == [0, 1, 2, 3, 5, 6]
    assert positions[1].tolist() == [0, 1, 1, 1, 1, 6]


def test_text_only_counts_on():
    assert mrope_positions(3, (), (), 2).tolist() == [[0, 1, 2]] * 3


def test_completions_continue_behind_the_largest_position():
    encoded = encoded_prompt(media=(("image", (1, 4, 6)),))
    start = int(encoded.position_ids.max()) + 1
    assert completion_positions(encoded, 2).tolist() == [[start, start + 1]] * 3


@pytest.mark.parametrize(
    "ids",
    [
        [1, 92, 90, 93, 2],  # one placeholder too few
        [1, 92, 91, 91, 93, 2],  # a video where an image is expected
        [1, 92, 90, 90, 93, 90],  # one in the text
    ],
)
def test_placeholders_that_do_not_fit_the_media_are_refused(ids):
    with pytest.raises(ValueError, match="media need \\[\\('image', 2\\)\\]"):
        placeholder_runs(torch.tensor(ids), ("image",), torch.tensor([[1, 2, 4]]), TOKENS)


def test_completions_never_contain_vision_tokens():
    assert TOKENS.banned_ids == (90, 91, 92, 93)
