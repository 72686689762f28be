"""Groups of rollouts for tests of scoring, made of the real records."""

from collections.abc import Sequence

import torch

from scenerl.configs.schema import EnvConfig
from scenerl.envs.family import ModelFamily
from scenerl.envs.records import Prompt
from scenerl.envs.tasks import make_env
from scenerl.rewards.canary import canary_prompt
from scenerl.rollout.records import Completion, EncodedPrompt, Group, Rollout

FAMILY = ModelFamily(name="qwen2_5_vl", patch_size=14, merge_size=2, relative_coordinates=False)


def completion(text: str) -> Completion:
    """A completion with one token per word."""
    ids = tuple(range(10, 10 + len(text.split())))
    return Completion(
        completion_ids=ids,
        rollout_logprobs=(-0.5,) * len(ids),
        text=text,
        finish_reason="stop",
        policy_version=0,
    )


def encoded_text(prompt: Prompt, content_hash: str) -> EncodedPrompt:
    """A prompt of three tokens without media."""
    return EncodedPrompt(
        prompt=prompt,
        prompt_ids=torch.tensor([1, 2, 3]),
        position_ids=torch.zeros(3, 3, dtype=torch.int64),
        pixel_values=None,
        grid_thw=None,
        media_kinds=(),
        second_per_grid_s=(),
        content_hash=content_hash,
        num_media_tokens=0,
    )


def group(texts: Sequence[str], prompt: Prompt | None = None, group_id: str = "g0") -> Group:
    """The group of these replies; the prompt asks for seconds 1 to 3 when none is given."""
    prompt = prompt or canary_prompt("temporal_grounding")
    env = make_env(EnvConfig(name=prompt.task), FAMILY)
    encoded = encoded_text(prompt, "test")
    rollouts = tuple(
        Rollout(index=at, completion=completion(text), answer=env.parse(text, prompt))
        for at, text in enumerate(texts)
    )
    return Group(group_id=group_id, encoded=encoded, rollouts=rollouts)


def reply(answer: str) -> str:
    """A well-formed reply."""
    return f"<think>because</think>\n<answer>{answer}</answer>"
