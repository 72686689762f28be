"""A model behind an address: a real server in this process answers."""

import logging
from pathlib import Path

import numpy as np
import pytest
from chat_server import Asked, chat_server
from PIL import Image

from scenerl.configs.schema import ConfigError
from scenerl.envs.records import MediaRef, Prompt
from scenerl.preprocess.records import Media, Sample, Target
from scenerl.rollout.endpoint import EndpointAnswerer, EndpointError, EndpointSpec
from scenerl.rollout.replies import Reply, Unanswered

KEY = "sk-very-secret-0123456789"


def prompt(path: str, question: str, frames: int = 4) -> Prompt:
    indices = tuple(range(frames))
    ref = MediaRef(
        kind="video",
        path=path,
        frame_indices=indices,
        times_s=tuple(index / 2 for index in indices),
        native_size=(112, 84),
        size=(56, 28),
        duration_s=2.0,
    )
    sample = Sample(
        sample_id=question,
        dataset="d",
        split="test",
        question=question,
        media=Media(kind="video", scene="s"),
        target=Target(),
    )
    content = [{"type": "video"}, {"type": "text", "text": question}]
    return Prompt(
        prompt_id=question,
        sample=sample,
        messages=({"role": "user", "content": content},),
        media=(ref,),
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> str:
    from scenerl.launch.cli import main

    root = tmp_path_factory.mktemp("rooms")
    command = ["preprocess", "rooms", "--output", str(root), "--train", "0", "--test", "1"]
    assert main([*command, "--frames", "6", "--width", "112", "--height", "84"]) == 0
    [folder] = (root / "scenes").iterdir()
    return str(folder)


def spec(url: str, **changes: object) -> EndpointSpec:
    return EndpointSpec(url=url, model_name="m", retries=2, timeout_s=30.0, **changes)  # type: ignore[arg-type]


def ask(answerer: EndpointAnswerer, prompts: list[Prompt], seeds: list[list[int]], t: float = 0.0):
    try:
        return answerer.answer(prompts, seeds, temperature=t)
    finally:
        answerer.close()


def test_frames_and_words_arrive_and_replies_come_back_in_order(scene: str) -> None:
    with chat_server(lambda asked: asked.text.upper()) as server:
        prompts = [prompt(scene, f"q{number}") for number in range(20)]
        found = ask(EndpointAnswerer(spec(server.url)), prompts, [[0]] * 20)
        assert [replies[0].text for replies in found] == [f"Q{number}" for number in range(20)]
        assert found[0] == [Reply(text="Q0", finish_reason="stop", num_tokens=1)]
        assert {tuple(asked.images) for asked in server.asked} == {((56, 28),) * 4}
        body = server.asked[0].body
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 1024)
        assert "seed" not in body
        assert server.asked[0].key == "Bearer none"


def test_a_video_is_one_mp4_with_its_frames_and_their_rate(scene: str, tmp_path: Path) -> None:
    from scenerl.preprocess.video import probe, read_frames

    with chat_server(lambda asked: str(len(asked.videos))) as server:
        found = ask(EndpointAnswerer(spec(server.url, media="video")), [prompt(scene, "q")], [[0]])
        assert found[0][0].text == "1"
        file = tmp_path / "sent.mp4"
        file.write_bytes(server.asked[0].videos[0])
    info = probe(file)
    assert (info.num_frames, info.width, info.height) == (4, 56, 28)
    assert info.times_s == pytest.approx((0.0, 0.5, 1.0, 1.5), abs=1e-3)
    color = Image.open(f"{scene}/color/0.jpg").convert("RGB").resize((56, 28))
    difference = np.abs(read_frames(file, [0])[0].astype(float) - np.asarray(color, float))
    assert difference.mean() < 12  # compressed twice and resized differently


def test_each_sample_has_a_seed_of_its_own(scene: str) -> None:
    with chat_server(lambda asked: str(asked.body["seed"])) as server:
        found = ask(EndpointAnswerer(spec(server.url)), [prompt(scene, "q")], [[5, 7]], 0.7)
        assert [reply.text for reply in found[0]] == ["5", "7"]
        assert server.asked[0].body["temperature"] == 0.7


def test_trouble_that_passes_is_tried_again(scene: str) -> None:
    waiting = [(429, "slow down"), (503, "busy")]

    def reply(asked: Asked) -> str | tuple[int, str]:
        return waiting.pop() if waiting else "fine"

    with chat_server(reply) as server:
        found = ask(EndpointAnswerer(spec(server.url)), [prompt(scene, "q")], [[0]])
        assert found[0][0].text == "fine"
        assert len(server.asked) == 3


def test_trouble_that_stays_stops_with_what_to_do(scene: str) -> None:
    with (
        chat_server(lambda _: (500, "broken")) as server,
        pytest.raises(EndpointError, match=r"HTTP 500: .*the same command continues"),
    ):
        ask(EndpointAnswerer(spec(server.url)), [prompt(scene, "q")], [[0]])
    assert len(server.asked) == 3  # once, and two retries
    with pytest.raises(EndpointError, match="APIConnectionError"):
        ask(EndpointAnswerer(spec(server.url)), [prompt(scene, "q")], [[0]])


def test_a_refused_request_is_that_prompts_failure(scene: str) -> None:
    def reply(asked: Asked) -> str | tuple[int, str]:
        return (400, "the prompt is too long") if asked.text == "q1" else "fine"

    with chat_server(reply) as server:
        prompts = [prompt(scene, "q0"), prompt(scene, "q1"), prompt(f"{scene}x", "q2")]
        found = ask(EndpointAnswerer(spec(server.url)), prompts, [[0]] * 3)
    assert found[0][0].text == "fine"
    assert isinstance(found[1], Unanswered)
    assert "HTTP 400" in found[1].reason
    assert "too long" in found[1].reason
    assert isinstance(found[2], Unanswered)
    assert "does not exist" in found[2].reason


def test_the_newer_name_of_the_token_limit_is_found(scene: str) -> None:
    def reply(asked: Asked) -> str | tuple[int, str]:
        if "max_tokens" in asked.body:
            return 400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return str(asked.body["max_completion_tokens"])

    with chat_server(reply) as server:
        found = ask(
            EndpointAnswerer(spec(server.url, max_tokens=16)), [prompt(scene, "q")] * 3, [[0]] * 3
        )
    assert [replies[0].text for replies in found] == ["16"] * 3


def test_the_key_is_sent_and_never_shown(
    scene: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    with chat_server(lambda asked: (401, f"{asked.key} is not known")) as server:
        answerer = EndpointAnswerer(spec(server.url, api_key_env="MY_KEY"))
        with pytest.raises(EndpointError) as stopped:
            ask(answerer, [prompt(scene, "q")], [[0]])
    assert server.asked[0].key == f"Bearer {KEY}"
    assert "HTTP 401" in str(stopped.value)
    assert KEY not in str(stopped.value)
    assert KEY not in caplog.text
    assert KEY not in repr(spec(server.url, api_key_env="MY_KEY"))


def test_settings_that_cannot_work_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        spec("http://localhost/v1", api_key_env="NO_SUCH_KEY").key()
    with pytest.raises(ConfigError, match="a user or a password"):
        spec("http://me:secret@localhost/v1")
    with pytest.raises(ConfigError, match="expected http"):
        spec("ftp://localhost/v1")
    with pytest.raises(ConfigError, match="concurrency is 0"):
        spec("http://localhost/v1", concurrency=0)
