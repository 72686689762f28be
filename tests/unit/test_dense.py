from pathlib import Path

import numpy as np
import pytest
import torch

from scenerl.configs.schema import EnvConfig
from scenerl.envs.family import model_family
from scenerl.envs.tasks import make_env
from scenerl.preprocess.rooms import RoomsConfig, make_rooms
from scenerl.preprocess.scene import Scene
from scenerl.rl.dense import DenseHeads, Vocabulary, dense_target
from scenerl.rl.forward import Pack, PackedPolicy
from scenerl.rollout.encode import Encoder
from scenerl.rollout.tiny_policy import make_tiny_policy

ENVS = {
    "image_grounding": EnvConfig(
        name="image_grounding", template="short", image_min_pixels=784, image_max_pixels=37632
    ),
    "temporal_grounding": EnvConfig(
        name="temporal_grounding",
        template="short",
        num_frames=8,
        video_total_pixels=37632,
        video_min_pixels=784,
    ),
}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms")
    make_rooms(root, RoomsConfig(rooms=(("train", 1),), num_frames=16))
    return root


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_policy(tmp_path_factory.mktemp("policy"))


def first_prompt(name: str, rooms: Path, policy_dir: Path):
    from scenerl.preprocess.store import read_samples

    env = make_env(ENVS[name], model_family(str(policy_dir)))
    sample = read_samples(rooms, "train", kinds=("attribute",))[0]
    return env, env.prompts(sample, rooms, supervised=True)[0]


def test_image_targets_are_what_the_instance_image_shows(rooms: Path, policy_dir: Path) -> None:
    _, prompt = first_prompt("image_grounding", rooms, policy_dir)
    media, target = prompt.media[0], prompt.sample.target
    dense = dense_target(media, target.object_id, Vocabulary.of_rooms())
    frame = media.frame_indices[0]
    instances = Scene.open(media.path, check="files").instances(frame)
    assert dense.label.shape == (6 * 8,)
    for row, column in ((0, 0), (3, 4), (5, 7)):
        cell = instances[row * 28 : row * 28 + 28, column * 28 : column * 28 + 28]
        ids, counts = np.unique(cell[cell > 0], return_counts=True)
        best = int(ids[counts.argmax()]) if len(ids) and counts.max() >= 95 else 0
        assert bool(dense.is_object[row * 8 + column]) == (best == target.object_id)
        assert (dense.label[row * 8 + column] > 0) == (best > 0)
    assert dense.is_object.any()
    box = torch.tensor([round(value) for value in target.boxes_px[frame]])
    # The instance box holds every pixel of the object, specks included; the target's may not.
    assert (dense.box_px[dense.is_object][0] - box).abs().max() <= 8
    assert (dense.time_s == -1).all()


def test_video_targets_carry_the_time_of_their_frames(rooms: Path, policy_dir: Path) -> None:
    _, prompt = first_prompt("temporal_grounding", rooms, policy_dir)
    media = prompt.media[0]
    dense = dense_target(media, prompt.sample.target.object_id, Vocabulary.of_rooms())
    tokens = (media.size[0] // 28) * (media.size[1] // 28)
    assert dense.time_s.reshape(-1, tokens)[:, 0].tolist() == [round(t) for t in media.times_s[::2]]
    assert (dense.box_px == 0).all()


@pytest.mark.parametrize("name", sorted(ENVS))
def test_training_on_one_prompt_brings_the_dense_loss_down(
    name: str, rooms: Path, policy_dir: Path
) -> None:
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    env, prompt = first_prompt(name, rooms, policy_dir)
    encoder = Encoder(policy_dir)
    policy = AutoModelForImageTextToText.from_pretrained(str(policy_dir), dtype=torch.float32)
    heads = DenseHeads(policy, encoder.tokenizer, Vocabulary.of_rooms())
    packed = PackedPolicy(policy)
    reply = encoder.encode_text(env.reference_completion(prompt))
    pack = Pack(encoded=encoder.encode(prompt), completion_ids=(reply,))
    target = dense_target(prompt.media[0], prompt.sample.target.object_id, Vocabulary.of_rooms())
    optimizer = torch.optim.AdamW([*policy.parameters(), *heads.parameters()], lr=2e-3)
    losses = []
    for _ in range(15):
        logprobs, _ = packed([pack])
        dense = heads.loss([pack], [target])
        losses.append(float(dense.detach()))
        optimizer.zero_grad()
        (dense - logprobs.mean()).backward()
        optimizer.step()
    heads.detach()
    assert losses[-1] < 0.6 * losses[0]
