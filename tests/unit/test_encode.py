import dataclasses
import os

import numpy as np
import pytest
import torch
from recording import write_minimal
from tiny_checkpoint import media_ref, smooth_frames, tiny_checkpoint, tiny_prompt, tiny_prompts

from scenerl.configs.schema import DataConfig
from scenerl.preprocess.decoding import set_limits
from scenerl.rl.fleet import EncodeFailure, encode_one
from scenerl.rollout.encode import (
    Encoder,
    EncodingError,
    PromptTooLongError,
    check_encoded,
    resize_frames,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def encoder(folder):
    return Encoder(folder, frames=smooth_frames)


def test_each_prompt_takes_one_decode_per_medium_and_one_processor_call(folder):
    decoded, processed = [], []

    def frames(ref):
        decoded.append(ref.path)
        return smooth_frames(ref)

    counting = Encoder(folder, frames=frames)
    processor = counting._processor

    class Counting:
        def __getattr__(self, name):
            return getattr(processor, name)

        def __call__(self, **arguments):
            processed.append(sorted(arguments))
            return processor(**arguments)

    counting._processor = Counting()
    encoded = counting.encode(tiny_prompts()["video, image, image"])
    assert decoded == ["a", "b", "d"]
    assert len(processed) == 1
    assert encoded.num_media_tokens == 3 * 2 * 3 + 2 * 4 + 1


def test_pixels_stand_in_the_order_of_the_prompt(encoder):
    video, image = media_ref("video"), media_ref("image", path="b")
    both = encoder.encode(tiny_prompt("x", (image, video)))
    alone = [encoder.encode(tiny_prompt("y", (ref,))) for ref in (image, video)]
    assert torch.equal(both.pixel_values, torch.cat([one.pixel_values for one in alone]))
    assert torch.equal(both.grid_thw, torch.cat([one.grid_thw for one in alone]))


def test_an_odd_number_of_frames_repeats_the_last(encoder):
    odd = media_ref("video", num_frames=3)
    again = dataclasses.replace(odd, frame_indices=(0, 1, 2, 2), times_s=(0.0, 0.5, 1.0, 1.5))
    first, second = (encoder.encode(tiny_prompt("x", (ref,))) for ref in (odd, again))
    assert first.grid_thw.tolist() == [[2, 4, 4]]
    assert torch.equal(first.pixel_values, second.pixel_values)


def test_pixels_are_those_of_the_processors_own_resize(encoder):
    from transformers import Qwen2VLImageProcessor

    ref = dataclasses.replace(media_ref("image", (84, 56)), native_size=(168, 112))
    frame = smooth_frames(ref)[0]
    size = {"shortest_edge": 84 * 56, "longest_edge": 84 * 56}
    reference = Qwen2VLImageProcessor(size=size)(images=[frame], return_tensors="pt")
    encoded = encoder.encode(tiny_prompt("x", (ref,)))
    assert encoded.grid_thw.tolist() == reference["image_grid_thw"].tolist()
    assert torch.allclose(encoded.pixel_values, reference["pixel_values"], atol=1e-6)


def test_frames_that_fit_are_not_resampled():
    frames = np.random.default_rng(0).integers(0, 256, (2, 28, 56, 3), dtype=np.uint8)
    kept = resize_frames(frames, (56, 28))
    assert np.array_equal(kept.permute(0, 2, 3, 1).numpy(), frames)


def test_seconds_per_grid_follow_the_true_times(encoder):
    # frames at 0, 0.8, 1.6, 2.4 s: two per temporal patch make 1.6 s, 3.2 positions at 2 a second
    ref = media_ref("video", (28, 28), num_frames=4, fps=1.25)
    encoded = encoder.encode(tiny_prompt("x", (ref,)))
    assert encoded.second_per_grid_s == pytest.approx((1.6,))
    is_video = encoded.prompt_ids == encoder.tokens.video_id
    times = encoded.position_ids[0, is_video]
    assert (times - times[0]).tolist() == [0, 3]


def test_noise_in_time_stamps_does_not_move_positions(encoder):
    clean = media_ref("video", (28, 28), num_frames=8, fps=2.0)
    noisy = dataclasses.replace(clean, times_s=tuple(t * (1 - 1e-9) for t in clean.times_s))
    first, second = (encoder.encode(tiny_prompt("x", (ref,))) for ref in (clean, noisy))
    assert torch.equal(first.position_ids, second.position_ids)


def test_qwen3_vl_writes_the_true_times_into_the_prompt(tmp_path):
    encoder = Encoder(tiny_checkpoint(tmp_path, "qwen3_vl"), frames=smooth_frames)
    ref = media_ref("video", (64, 64), num_frames=5, fps=0.8)  # 0, 1.25, 2.5, 3.75, 5 s
    text = encoder.tokenizer.decode(encoder.encode(tiny_prompt("x", (ref,))).prompt_ids)
    assert [text.count(f"<{time} seconds>") for time in ("0.6", "3.1", "5.0")] == [1, 1, 1]


def test_a_medium_that_hangs_its_decoder_is_a_failure_that_names_it(folder, tmp_path):
    scene = write_minimal(tmp_path / "scene")
    (scene / "color" / "00003.jpg").unlink()
    os.mkfifo(scene / "color" / "00003.jpg")  # opening it waits for a writer
    prompt = tiny_prompt("x", (media_ref("video", path=str(scene)),))
    set_limits(DataConfig(decode_timeout_s=1.0))
    failure = encode_one(Encoder(folder), prompt, 1000)
    set_limits(DataConfig())
    assert isinstance(failure, EncodeFailure)
    assert failure.broken
    reason = f"DataError: {scene} was not decoded within 1 s (data.decode_timeout_s)"
    assert failure.reason == reason


def test_a_prompt_above_the_limit_is_refused_not_cut(folder):
    prompt = tiny_prompts()["video"]
    length = len(Encoder(folder, frames=smooth_frames).encode(prompt).prompt_ids)
    Encoder(folder, frames=smooth_frames, max_prompt_length=length).encode(prompt)
    short = Encoder(folder, frames=smooth_frames, max_prompt_length=length - 1)
    with pytest.raises(PromptTooLongError, match=f"video has {length} tokens"):
        short.encode(prompt)


def test_media_parts_and_media_must_match(encoder):
    prompt = dataclasses.replace(tiny_prompts()["video"], media=())
    with pytest.raises(EncodingError, match="media parts \\['video'\\]"):
        encoder.encode(prompt)


def test_a_question_with_placeholder_tokens_is_refused(encoder):
    prompt = tiny_prompt("x", (media_ref("image"),), "what is <|image_pad|> here?")
    with pytest.raises(EncodingError, match="2 times in its text for 1 image parts"):
        encoder.encode(prompt)


@pytest.mark.parametrize("part", ["prompt_ids", "position_ids", "pixel_values", "grid_thw"])
def test_changed_tensors_are_noticed(encoder, part):
    encoded = encoder.encode(tiny_prompts()["video"])
    check_encoded(encoded)
    changed = getattr(encoded, part).clone()
    changed.view(-1)[0] += 1
    with pytest.raises(EncodingError):
        check_encoded(dataclasses.replace(encoded, **{part: changed}))


def test_the_hash_is_the_same_in_another_encoder(folder, encoder):
    prompt = tiny_prompts()["image and video"]
    again = Encoder(folder, frames=smooth_frames).encode(prompt)
    assert again.content_hash == encoder.encode(prompt).content_hash


def test_a_reply_ends_with_the_end_of_turn_token(encoder):
    ids = encoder.encode_text("5s to 10s")
    assert ids[-1] == encoder.tokenizer.convert_tokens_to_ids("<|im_end|>") == encoder.eos_ids[0]
    assert encoder.decode(ids.tolist()) == "5s to 10s"
