"""Our positions against vLLM's own functions, and against transformers where it is right."""

import json

import pytest
import torch
from tiny_checkpoint import smooth_frames, tiny_checkpoint, tiny_prompts

from scenerl.rollout.encode import Encoder
from scenerl.rollout.positions import completion_positions
from scenerl.rollout.vllm_inputs import engine_input

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = tiny_checkpoint(tmp_path_factory.mktemp(request.param), request.param)
    encoder = Encoder(folder, frames=smooth_frames)
    prompts = tiny_prompts(32 if request.param == "qwen3_vl" else 28)
    encoded = {name: encoder.encode(prompt) for name, prompt in prompts.items()}
    return request.param, folder, encoder, encoded


def _vllm_positions(name, config, encoded, tokens):
    """Call the method of vLLM's model class on the very input that our engine hands over."""
    from types import SimpleNamespace

    from vllm.model_executor.models import qwen2_5_vl, qwen2_vl, qwen3_vl
    from vllm.multimodal.inputs import MultiModalFeatureSpec

    prompt = engine_input(encoded, tokens)
    features = [
        MultiModalFeatureSpec(
            data=prompt["mm_kwargs"][kind][index],
            modality=kind,
            identifier=prompt["mm_hashes"][kind][index],
            mm_position=position,
        )
        for kind, positions in prompt.get("mm_placeholders", {}).items()
        for index, position in enumerate(positions)
    ]
    model_class = {
        "qwen2_vl": qwen2_vl.Qwen2VLForConditionalGeneration,
        "qwen2_5_vl": qwen2_5_vl.Qwen2_5_VLForConditionalGeneration,
        "qwen3_vl": qwen3_vl.Qwen3VLForConditionalGeneration,
    }[name]
    model = SimpleNamespace(config=config)
    for method in ("iter_mm_grid_thw", "_get_mrope_input_positions"):
        if hasattr(model_class, method):
            own = getattr(model_class, method)
            is_static = method.startswith("_")
            setattr(model, method, own if is_static else own.__get__(model))
    return model_class.get_mrope_input_positions(model, prompt["prompt_token_ids"], features)


def test_positions_are_those_of_vllm(family):
    from transformers import AutoConfig

    name, folder, encoder, all_encoded = family
    config = AutoConfig.from_pretrained(folder)
    for label, encoded in all_encoded.items():
        expected, delta = _vllm_positions(name, config, encoded, encoder.tokens)
        assert torch.equal(encoded.position_ids, expected.long()), label
        start = completion_positions(encoded, 3)
        assert start.tolist() == [[len(encoded.prompt_ids) + delta + i for i in range(3)]] * 3


def test_positions_are_those_of_transformers_for_images_and_short_videos(family):
    import transformers

    name, folder, encoder, all_encoded = family
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    assert model_type == name
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).model
    for label in ("text", "image"):
        encoded = all_encoded[label]
        ids = encoded.prompt_ids[None]
        types = (ids == encoder.tokens.image_id).long()
        expected, _ = model.get_rope_index(
            ids, mm_token_type_ids=types, image_grid_thw=encoded.grid_thw
        )
        assert torch.equal(encoded.position_ids, expected[:, 0]), label


def test_a_long_video_pushes_the_text_behind_its_last_time_index(family):
    name, _, encoder, all_encoded = family
    encoded = all_encoded["long video"]  # 12 temporal patches of 2 s, 2 x 1 merged patches
    video = encoded.prompt_ids == encoder.tokens.video_id
    last = int(video.nonzero().max())
    behind = int(encoded.position_ids[0, last + 1])
    largest = int(encoded.position_ids[:, : last + 1].max())
    assert behind == largest + 1
    times = encoded.position_ids[0, video]
    if name == "qwen2_5_vl":  # floor(k x 2 s x 2 a second), two tokens each
        assert (times - times[0]).tolist() == [4 * k for k in range(12) for _ in range(2)]
    if name == "qwen2_vl":
        assert (times - times[0]).tolist() == [k for k in range(12) for _ in range(2)]
