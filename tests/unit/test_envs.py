"""From a sample to prompts and from a reply to an answer, on a small scene on disk."""

import json
from pathlib import Path

import numpy as np
import pytest

from scenerl.configs.schema import ConfigError, EnvConfig
from scenerl.envs.family import ModelFamily, model_family
from scenerl.envs.media_refs import MediaFacts, frames_in_spans, media_facts, spread
from scenerl.envs.records import BoxAnswer, ParseError, Prompt, SpanAnswer, TextAnswer
from scenerl.envs.tasks import Env, make_env
from scenerl.preprocess.records import DataError, Media, Sample, Target
from scenerl.preprocess.scene_writer import SceneWriter

QWEN25 = ModelFamily(name="qwen2_5_vl", patch_size=14, merge_size=2, relative_coordinates=False)
QWEN3 = ModelFamily(name="qwen3_vl", patch_size=16, merge_size=2, relative_coordinates=True)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of 112x84 at 2 fps."""
    root = tmp_path_factory.mktemp("data")
    (root / "scenes").mkdir()
    draw = np.random.default_rng(0)
    with SceneWriter(root / "scenes" / "room", scene_id="room") as writer:
        writer.write_intrinsics(*[np.array([[80.0, 0, 56], [0, 80, 42], [0, 0, 1]])] * 2)
        writer.write_labels((), provenance="test")
        for index in range(12):
            writer.write_frame(
                index,
                color=draw.integers(0, 255, (84, 112, 3), dtype=np.uint8),
                depth=np.full((84, 112), 2000, dtype=np.uint16),
                camera_to_world=np.eye(4),
                time_s=index / 2,
            )
    return root


def sample(**changes: object) -> Sample:
    target = Target(
        spans_s=((0.5, 1.0), (2.0, 4.0)),
        boxes_px=dict.fromkeys((1, 2, 4, 5, 6, 7), (28.0, 21.0, 84.0, 63.0)),
        label="chair",
        answers=("two", "2"),
    )
    fields: dict[str, object] = {
        "sample_id": "s1",
        "dataset": "test",
        "split": "train",
        "question": "the red chair",
        "media": Media(kind="video", scene="scenes/room"),
        "target": target,
    }
    return Sample(**(fields | changes))  # type: ignore[arg-type]


def env(name: str, family: ModelFamily = QWEN25, **settings: object) -> Env:
    return make_env(EnvConfig(name=name, **settings), family)  # type: ignore[arg-type]


def text_of(prompt: Prompt) -> str:
    return "".join(part.get("text", "") for part in prompt.messages[0]["content"])


def kinds_of(prompt: Prompt) -> list[str]:
    return [part["type"] for part in prompt.messages[0]["content"]]


def test_the_family_is_read_from_the_checkpoints_config(tmp_path: Path) -> None:
    config = {"model_type": "qwen3_vl", "vision_config": {"patch_size": 16}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_family(tmp_path) == QWEN3
    assert model_family({"model_type": "qwen2_5_vl"}) == QWEN25
    assert model_family({"model_type": "qwen2_vl"}).relative_coordinates
    assert (QWEN25.factor, QWEN3.factor) == (28, 32)


def test_an_unknown_model_type_is_named() -> None:
    with pytest.raises(ValueError, match=r"model_type is 'llama'.*qwen2_5_vl"):
        model_family({"model_type": "llama"})


def test_a_missing_checkpoint_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no/such/model.*set model\.path"):
        model_family("no/such/model")


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(ConfigError, match=r"env\.name is 'counting'"):
        env("counting")


def test_a_video_prompt_has_evenly_spread_frames_with_their_true_times(data_root: Path) -> None:
    (prompt,) = env("temporal_grounding", num_frames=4).prompts(sample(), data_root)
    media = prompt.media[0]
    assert media.frame_indices == (0, 4, 7, 11)
    assert media.times_s == (0.0, 2.0, 3.5, 5.5)
    assert media.duration_s == 6.0
    assert (media.native_size, media.kind) == ((112, 84), "video")
    assert prompt.prompt_id == "s1"


def test_fps_decides_the_number_of_frames(data_root: Path) -> None:
    (prompt,) = env("temporal_grounding", fps=1.0).prompts(sample(), data_root)
    assert len(prompt.media[0].frame_indices) == 6  # 6 s at 1 fps


def test_a_sample_can_name_its_frames(data_root: Path) -> None:
    media = Media(kind="video", scene="scenes/room", frame_indices=(2, 3, 4, 5))
    (prompt,) = env("temporal_grounding", num_frames=9).prompts(sample(media=media), data_root)
    assert prompt.media[0].frame_indices == (2, 3, 4, 5)
    with pytest.raises(DataError, match="no usable frame 99"):
        media_facts(Media(kind="video", scene="scenes/room", frame_indices=(99,)), data_root)
    with pytest.raises(DataError, match="neither a scene nor a video"):
        media_facts(Media(kind="video"), data_root)


def test_sizes_are_multiples_of_the_patch_grid_within_the_budget(data_root: Path) -> None:
    small = {"video_min_pixels": 28 * 28, "video_total_pixels": 4 * 56 * 56 // 2, "num_frames": 4}
    (prompt,) = env("temporal_grounding", **small).prompts(sample(), data_root)
    assert prompt.media[0].size == (56, 28)  # 4 frames in pairs: 56 x 56 pixels for each
    (prompt,) = env("image_grounding", QWEN3, image_min_pixels=1).prompts(sample(), data_root)
    assert prompt.media[0].size == (128, 96)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("temporal_grounding", ["text", "video"]), ("image_grounding", ["image", "text"])],
)
def test_the_reference_template_orders_text_and_medium_as_the_reference_systems_do(
    name: str, kinds: list[str], data_root: Path
) -> None:
    prompt = env(name).prompts(sample(), data_root)[0]
    assert kinds_of(prompt) == kinds
    assert '"the red chair"' in text_of(prompt)
    assert "<think>" in text_of(prompt)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("temporal_grounding", "when: red chair"),
        ("image_grounding", "where: red chair"),
        ("video_qa", "ask: red chair"),
    ],
)
def test_the_short_template_is_a_task_word_and_the_query(
    name: str, text: str, data_root: Path
) -> None:
    prompt = env(name, template="short").prompts(sample(), data_root)[0]
    assert text_of(prompt) == text
    assert kinds_of(prompt)[-1] == "text"
    assert prompt.task == name


def test_a_query_with_braces_is_only_text(data_root: Path) -> None:
    prompt = env("image_grounding").prompts(sample(question="the {red} chair"), data_root)[0]
    assert '"the {red} chair"' in text_of(prompt)


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("temporal_grounding", Target(), "no true span"),
        ("image_grounding", Target(), "no true box"),
        ("video_qa", Target(), "no true answer"),
    ],
)
def test_a_sample_without_the_truth_is_skipped_with_a_reason(
    name: str, target: Target, reason: str
) -> None:
    assert env(name).skip_reason(sample(target=target)) == reason
    assert env(name).skip_reason(sample()) is None


def test_a_still_image_has_no_span() -> None:
    still = sample(media=Media(kind="image", scene="scenes/room", frame_indices=(3,)))
    assert env("temporal_grounding").skip_reason(still) == "not a video"


def frames_of(prompts: list[Prompt]) -> list[int]:
    return [prompt.media[0].frame_indices[0] for prompt in prompts]


def test_image_prompts_show_frames_spread_over_the_true_spans(data_root: Path) -> None:
    # frames 1, 2 and 4..8 lie inside the spans; three equal parts, the middle of each
    prompts = env("image_grounding", frames_per_span=3).prompts(sample(), data_root)
    assert frames_of(prompts) == [2, 5, 7]
    assert [prompt.prompt_id for prompt in prompts] == ["s1@2", "s1@5", "s1@7"]
    assert prompts[0].media[0].times_s == (1.0,)


def test_a_predicted_span_goes_before_the_true_one(data_root: Path) -> None:
    task = env("image_grounding", frames_per_span=2)
    assert frames_of(task.prompts(sample(), data_root, span_s=(4.0, 5.5))) == [9, 11]
    assert frames_of(task.prompts(sample(), data_root, span_s=(50.0, 60.0))) == [11]
    assert frames_of(task.prompts(sample(), data_root, span_s=(2.1, 2.2))) == [4]


def test_only_training_leaves_out_frames_without_a_true_box(data_root: Path) -> None:
    task = env("image_grounding", frames_per_span=4)
    span_s = (3.0, 5.5)  # frames 6..11, true boxes in 6 and 7
    assert frames_of(task.prompts(sample(), data_root, span_s=span_s)) == [6, 8, 9, 11]
    assert frames_of(task.prompts(sample(), data_root, span_s=span_s, supervised=True)) == [6, 7]
    assert task.prompts(sample(), data_root, span_s=(5.0, 5.5), supervised=True) == []


def test_a_seed_draws_one_frame_from_each_part(data_root: Path) -> None:
    task = env("image_grounding", frames_per_span=2)
    drawn = {tuple(frames_of(task.prompts(sample(), data_root, seed=seed))) for seed in range(9)}
    assert len(drawn) > 1
    assert all(low in (1, 2, 4, 5) and high in (5, 6, 7, 8) for low, high in drawn)
    again = [frames_of(task.prompts(sample(), data_root, seed=3)) for _ in range(2)]
    assert again[0] == again[1]


def test_a_sample_without_spans_is_looked_at_whole() -> None:
    facts = MediaFacts(path="x", frame_indices=(0, 1), times_s=(0.0, 1.0), native_size=(9, 9))
    assert frames_in_spans(facts, ()) == []
    assert spread([1, 2], 5, [0.5] * 5) == [1, 2]


def test_boxes_are_absolute_for_25_and_relative_for_3(data_root: Path) -> None:
    reply = '<think>a</think>\n<answer>{"bbox_2d": [250, 250, 750, 750], "label": "c"}</answer>'
    prompt = env("image_grounding", QWEN3).prompts(sample(), data_root)[0]
    assert env("image_grounding", QWEN3).parse(reply, prompt) == BoxAnswer(
        box_px=(28.0, 21.0, 84.0, 63.0), label="c"
    )
    task = env("image_grounding", image_min_pixels=224 * 168)
    prompt = task.prompts(sample(), data_root)[0]
    assert prompt.media[0].size == (224, 168)
    reply = "<think>a</think><answer>[56, 42, 168, 126]</answer>"
    assert task.parse(reply, prompt) == BoxAnswer(box_px=(28.0, 21.0, 84.0, 63.0), label=None)
    outside = "<think>a</think><answer>[300, 42, 400, 126]</answer>"
    assert task.parse(outside, prompt) == ParseError(reason="box outside the image", text=outside)


def test_coordinates_can_be_set_by_hand(data_root: Path) -> None:
    task = env("image_grounding", coordinates="relative_1000")
    prompt = task.prompts(sample(), data_root)[0]
    reply = "<answer>[0, 0, 500, 1000]</answer>"
    assert task.parse(reply, prompt) == BoxAnswer(box_px=(0.0, 0.0, 56.0, 84.0))


@pytest.mark.parametrize("template", ["reference", "short"])
@pytest.mark.parametrize("family", [QWEN25, QWEN3])
def test_reference_completions_parse_to_the_truth(
    template: str, family: ModelFamily, data_root: Path
) -> None:
    span = env("temporal_grounding", family, template=template)
    (prompt,) = span.prompts(sample(), data_root)
    assert span.parse(span.reference_completion(prompt), prompt) == SpanAnswer(span_s=(2.0, 4.0))
    box = env("image_grounding", family, template=template)
    prompt = box.prompts(sample(), data_root)[0]
    answer = box.parse(box.reference_completion(prompt), prompt)
    assert isinstance(answer, BoxAnswer)
    assert answer.label == "chair"
    assert np.allclose(answer.box_px, (28, 21, 84, 63), atol=1.0)  # whole coordinates
    text = env("video_qa", family, template=template)
    (prompt,) = text.prompts(sample(), data_root)
    assert text.parse(text.reference_completion(prompt), prompt) == TextAnswer(text="two")


def test_the_short_reference_completion_is_short(data_root: Path) -> None:
    task = env("temporal_grounding", template="short")
    (prompt,) = task.prompts(sample(), data_root)
    expected = "<think>red chair</think>\n<answer>2s to 4s</answer>"
    assert task.reference_completion(prompt) == expected


def test_looseness_moves_the_truth_and_is_repeatable(data_root: Path) -> None:
    for name in ("temporal_grounding", "image_grounding"):
        task = env(name)
        prompt = task.prompts(sample(), data_root)[0]
        exact = task.reference_completion(prompt)
        noisy = [task.reference_completion(prompt, looseness=0.3, seed=seed) for seed in range(20)]
        assert len(set(noisy)) > 5
        assert noisy[3] == task.reference_completion(prompt, looseness=0.3, seed=3) != exact
        assert not any(isinstance(task.parse(text, prompt), ParseError) for text in noisy)


def test_a_reply_is_not_made_up_where_the_truth_is_unknown(data_root: Path) -> None:
    for name in ("temporal_grounding", "image_grounding", "video_qa"):
        task = env(name)
        prompt = task.prompts(sample(target=Target()), data_root)[0]
        with pytest.raises(ValueError, match="true"):
            task.reference_completion(prompt)
