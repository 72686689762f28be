"""The packed forward against the stock model, one padded sequence per completion."""

import pytest
import torch
from tiny_qwen import FAMILIES, IMAGE, MEDIA, VIDEO, encoded_prompt, random_completions, tiny_model

from scenerl.rl.forward import Pack, PackedPolicy, split_pack

LENGTHS = (5, 1, 9, 3)


def stock_scores(model, encoded, completions):
    """Right-padded batch through the stock forward, explicit positions, full vocabulary."""
    longest = max(len(ids) for ids in completions)
    prompt = len(encoded.prompt_ids)
    input_ids = torch.zeros(len(completions), prompt + longest, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    start = int(encoded.position_ids.max()) + 1
    tail = (torch.arange(longest) + start).expand(3, -1)
    positions = torch.cat([encoded.position_ids, tail], dim=1)
    for row, ids in enumerate(completions):
        input_ids[row, : prompt + len(ids)] = torch.cat([encoded.prompt_ids, ids])
        attention_mask[row, : prompt + len(ids)] = 1
    media = {}
    for kind, token, pixels, grid in (
        ("image", IMAGE, "pixel_values", "image_grid_thw"),
        ("video", VIDEO, "pixel_values_videos", "video_grid_thw"),
    ):
        rows = (
            [g for g, k in zip(encoded.grid_thw, encoded.media_kinds, strict=True) if k == kind]
            if encoded.grid_thw is not None
            else []
        )
        if not rows:
            continue
        offset, chosen = 0, []
        for g, k in zip(encoded.grid_thw, encoded.media_kinds, strict=True):
            size = int(g.prod())
            if k == kind:
                chosen.append(encoded.pixel_values[offset : offset + size])
            offset += size
        media[pixels] = torch.cat(chosen).repeat(len(completions), 1)
        media[grid] = torch.stack(rows).repeat(len(completions), 1)
        assert (encoded.prompt_ids == token).any()
    logits = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions[:, None].expand(3, len(completions), -1),
        **media,
    ).logits
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    scores, entropies = [], []
    for row, ids in enumerate(completions):
        chosen = logprobs[row, prompt - 1 : prompt - 1 + len(ids)]
        scores.append(chosen.gather(-1, ids[:, None])[:, 0])
        entropies.append(-(chosen.exp() * chosen).sum(-1))
    return torch.cat(scores), torch.cat(entropies)


def gradients(model, scores, entropies):
    model.zero_grad()
    weights = torch.linspace(-1, 1, len(scores))
    ((scores * weights).sum() + 0.1 * entropies.sum()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours, theirs):
    assert ours.keys() == theirs.keys()
    total = torch.cat([grad.flatten() for grad in theirs.values()]).norm()
    for name, grad in theirs.items():
        # float32 sums in another order; relative to the weight's own gradient, with a floor
        # for weights that get next to none
        scale = max(float(grad.norm()), 1e-3 * float(total))
        assert float((ours[name] - grad).norm()) / scale < 1e-4, name


@pytest.mark.parametrize("kind", MEDIA)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_group_scores_like_one_sequence_per_completion(family, kind):
    model = tiny_model(family)
    encoded = encoded_prompt(family, media=MEDIA[kind])
    completions = random_completions(LENGTHS)
    expected, expected_entropies = stock_scores(model, encoded, completions)
    expected_gradients = gradients(model, expected, expected_entropies)
    logprobs, entropies = PackedPolicy(model)([Pack(encoded=encoded, completion_ids=completions)])
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropies, expected_entropies, atol=1e-5, rtol=0)
    assert_same_gradients(gradients(model, logprobs, entropies), expected_gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_groups_at_once_score_like_each_alone(family):
    model = PackedPolicy(tiny_model(family))
    packs = [
        Pack(
            encoded=encoded_prompt(family, media=MEDIA[kind], num_text=4 + seed, seed=seed),
            completion_ids=random_completions(lengths, seed=seed),
        )
        for seed, (kind, lengths) in enumerate(
            [("video", (4, 2)), ("text", (7,)), ("image", (1, 1, 8))]
        )
    ]
    together, _ = model(packs)
    alone = torch.cat([model([pack])[0] for pack in packs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_splitting_a_group_changes_no_score():
    model = PackedPolicy(tiny_model())
    pack = Pack(
        encoded=encoded_prompt(media=MEDIA["video"]), completion_ids=random_completions(LENGTHS)
    )
    parts = split_pack(pack, max_tokens=len(pack.encoded.prompt_ids) + 6)
    assert [len(part.completion_ids) for part in parts] == [2, 1, 1]
    split = torch.cat([model([part])[0] for part in parts])
    torch.testing.assert_close(split, model([pack])[0], atol=1e-5, rtol=0)


def test_eager_attention_agrees_with_sdpa():
    model = tiny_model()
    pack = Pack(
        encoded=encoded_prompt(media=MEDIA["image"]), completion_ids=random_completions(LENGTHS)
    )
    expected, _ = PackedPolicy(model)([pack])
    model.set_attn_implementation("eager")
    scores, _ = PackedPolicy(model)([pack])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


def test_blank_vision_pass_changes_nothing_and_reaches_every_vision_weight():
    model = tiny_model("qwen3_vl")
    pack = Pack(encoded=encoded_prompt("qwen3_vl"), completion_ids=random_completions(LENGTHS))
    expected, _ = PackedPolicy(model)([pack])
    scores, _ = PackedPolicy(model)([pack], run_vision=True)
    assert torch.equal(scores, expected)
    scores.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if "visual" in name:
            assert float(parameter.grad.abs().max()) == 0.0


def test_wrong_number_of_placeholders_is_refused():
    import dataclasses

    encoded = encoded_prompt(media=MEDIA["image"])
    broken = dataclasses.replace(encoded, num_media_tokens=5)
    with pytest.raises(ValueError, match=r"has 6 media placeholders in its ids, but .* counted 5"):
        PackedPolicy(tiny_model())(
            [Pack(encoded=broken, completion_ids=random_completions(LENGTHS))]
        )


def test_gradient_checkpointing_changes_no_gradient():
    model = tiny_model().train()
    pack = Pack(
        encoded=encoded_prompt(media=MEDIA["video"]), completion_ids=random_completions(LENGTHS)
    )
    policy = PackedPolicy(model)
    expected = gradients(model, *policy([pack]))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same_gradients(gradients(model, *policy([pack])), expected)


def test_packed_attention_agrees_with_one_mask_of_all_tokens():
    model = tiny_model()
    policy = PackedPolicy(model)
    packs = [
        Pack(encoded=encoded_prompt(seed=1), completion_ids=random_completions(LENGTHS)),
        Pack(encoded=encoded_prompt(seed=2, num_text=9), completion_ids=random_completions((1, 1))),
    ]
    ours = policy(packs)
    ours_gradients = gradients(model, *ours)
    model.set_attn_implementation("sdpa")
    theirs = policy(packs)
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=0)
    assert_same_gradients(ours_gradients, gradients(model, *theirs))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_vision_tower_sees_each_prompt_once_and_changes_no_bit(family):
    model = tiny_model(family)
    model.model.visual.requires_grad_(False)
    policy = PackedPolicy(model)
    encoded = encoded_prompt(family, media=MEDIA["video"])
    pack = Pack(encoded=encoded, completion_ids=random_completions(LENGTHS))
    calls = []
    model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    first, again = policy([pack])[0], policy([pack])[0]
    assert torch.equal(first, again)
    assert len(calls) == 1
    in_step, _ = policy([pack], run_vision=True)
    assert len(calls) == 2
    assert torch.equal(in_step, first)
