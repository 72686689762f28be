import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scenerl.rollout.tiny_policy import SPECIAL_TOKENS, make_tiny_policy, number_embeddings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_policy(tmp_path_factory.mktemp("policy"), seed=3)


@pytest.fixture(scope="module")
def tokenizer(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def test_numbers_and_tags_are_single_tokens(tokenizer) -> None:
    for word in ("0", "7", "224", "511", "<think>", "</answer>", *SPECIAL_TOKENS):
        assert len(tokenizer(word).input_ids) == 1, word


def test_any_text_survives_the_tokenizer(tokenizer) -> None:
    @given(st.text(max_size=40))
    def survives(text: str) -> None:
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=False) == text

    survives()


def test_a_box_reply_is_short(tokenizer) -> None:
    reply = '<think>red chair</think>\n<answer>{"bbox_2d": [1, 22, 133, 4], "label": "chair"}'
    assert len(tokenizer(reply).input_ids) <= 36


def test_neighbouring_numbers_look_alike() -> None:
    table = torch.nn.functional.normalize(number_embeddings(128), dim=1)
    near = (table[100] * table[101]).sum()
    far = (table[100] * table[160]).sum()
    assert near > 0.9 > far


def test_the_folder_loads_like_any_qwen_checkpoint(folder: Path) -> None:
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(str(folder), output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.model_type == "qwen2_5_vl"
    assert (
        model.config.text_config.hidden_size // model.config.text_config.num_attention_heads == 32
    )


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    def digest(path: Path) -> str:
        return hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()

    assert digest(make_tiny_policy(tmp_path / "same", seed=3)) == digest(folder)
    assert digest(make_tiny_policy(tmp_path / "other", seed=4)) != digest(folder)
