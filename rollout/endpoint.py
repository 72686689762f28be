"""Any OpenAI-compatible endpoint as the model: chat completions with the frames in the request."""

import base64
import io
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from scenerl.configs.schema import ConfigError
from scenerl.envs.records import MediaRef, Prompt
from scenerl.rollout.chat_client import check_address, open_client
from scenerl.rollout.replies import Reply, Unanswered

logger = logging.getLogger(__name__)

JPEG_QUALITY = 90
REFUSED = frozenset({400, 404, 413, 415, 422})
"""Statuses that say something about this one request; a 404 only once another was answered."""


class EndpointError(RuntimeError):
    """The endpoint does not answer, or not to us; what is answered so far is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointSpec:
    """Where a model answers, and how it is asked."""

    url: str
    """Up to and with /v1."""
    model_name: str
    api_key_env: str | None = None
    """Environment variable that holds the key; None sends none."""
    media: Literal["frames", "video"] = "frames"
    """A video as one JPEG part a frame, or as one MP4 part."""
    max_tokens: int = 1024
    top_p: float = 1.0
    concurrency: int = 8
    timeout_s: float = 120.0
    """Of one request."""
    retries: int = 5
    """Further tries after a time-out, a lost connection, 408, 409, 429 and 5xx, with growing
    pauses."""

    def __post_init__(self) -> None:
        """Refuse addresses that cannot work or hold a secret."""
        check_address(self.url, key_option="--api-key-env")
        for name in ("max_tokens", "concurrency", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")

    def key(self) -> str | None:
        """Return the key.

        Raises:
            ConfigError: If the named variable is not set.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise ConfigError(
                f"environment variable {self.api_key_env} is not set; it should hold the key of "
                f"{self.url} (or leave out --api-key-env for an endpoint without one)"
            )
        return key


class EndpointAnswerer:
    """Asks an endpoint, several requests at a time. See `rollout.replies.Answerer`."""

    def __init__(self, spec: EndpointSpec) -> None:
        """Prepare the client; nothing is sent yet."""
        self._spec = spec
        self._secret = spec.key()
        self._client = open_client(
            spec.url, self._secret, timeout_s=spec.timeout_s, retries=spec.retries
        )
        self._limit_name = "max_tokens"
        self._has_answered = False

    def answer(
        self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]], *, temperature: float
    ) -> list[list[Reply] | Unanswered]:
        """Ask; a request that this endpoint refuses is that prompt's failure.

        Raises:
            EndpointError: If the endpoint cannot be reached or refuses the key.
        """

        def one(at: int) -> list[Reply] | Unanswered:
            try:
                messages = chat_messages(prompts[at], self._spec.media)
            except (OSError, ValueError) as error:
                return Unanswered(reason=f"{type(error).__name__}: {error}")
            replies = []
            for seed in seeds[at]:
                reply = self._ask(messages, seed, temperature)
                if isinstance(reply, Unanswered):
                    return reply
                replies.append(reply)
            return replies

        with ThreadPoolExecutor(max_workers=self._spec.concurrency) as pool:
            return list(pool.map(one, range(len(prompts))))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, messages: list[Any], seed: int, temperature: float) -> Reply | Unanswered:
        import openai

        arguments: dict[str, Any] = {"temperature": temperature}
        if temperature > 0:
            arguments |= {"seed": seed, "top_p": self._spec.top_p}
        limit_name = self._limit_name
        limit = {limit_name: self._spec.max_tokens}
        try:
            found = self._client.chat.completions.create(
                model=self._spec.model_name, messages=messages, **arguments, **limit
            )
        except openai.APIStatusError as error:
            if "max_completion_tokens" in str(error) and limit_name == "max_tokens":
                self._limit_name = "max_completion_tokens"  # the newer name of the same setting
                return self._ask(messages, seed, temperature)
            return self._refused(error.status_code, str(error))
        except openai.APIError as error:  # no connection, time-out, an answer that is no JSON
            raise EndpointError(self._said(f"{type(error).__name__}: {error}")) from None
        return self._reply(found)

    def _reply(self, found: Any) -> Reply:
        choices = getattr(found, "choices", None)
        if not choices:
            raise EndpointError(self._said("the answer has no choices"))
        self._has_answered = True
        usage = getattr(found, "usage", None)
        return Reply(
            text=choices[0].message.content or "",
            finish_reason=str(choices[0].finish_reason),
            num_tokens=None if usage is None else usage.completion_tokens,
        )

    def _refused(self, status: int, message: str) -> Unanswered:
        text = self._hidden(f"HTTP {status}: {message}")
        if status in REFUSED and (status != 404 or self._has_answered):
            return Unanswered(reason=text[:500])
        raise EndpointError(self._said(text))

    def _said(self, text: str) -> str:
        return (
            f"{self._spec.url}, model {self._spec.model_name}: {self._hidden(text)[:500]}; the "
            f"answers so far are kept, the same command continues (time-out "
            f"{self._spec.timeout_s:g} s, {self._spec.retries} retries)"
        )

    def _hidden(self, text: str) -> str:
        return text if self._secret is None else text.replace(self._secret, "***")


def chat_messages(prompt: Prompt, media: Literal["frames", "video"]) -> list[dict[str, Any]]:
    """Return the messages with every medium in them, as data URLs."""
    refs = iter(prompt.media)
    messages = []
    for message in prompt.messages:
        if isinstance(message["content"], str):
            messages.append(dict(message))
            continue
        parts: list[dict[str, Any]] = []
        for part in message["content"]:
            parts += [part] if part["type"] == "text" else media_parts(next(refs), media)
        messages.append({**message, "content": parts})
    return messages


def media_parts(ref: MediaRef, media: Literal["frames", "video"]) -> list[dict[str, Any]]:
    """Return the parts of one medium: its frames as JPEG, or the video as MP4."""
    from scenerl.rollout.encode import read_frames, resize_frames

    frames = resize_frames(read_frames(ref), ref.size)
    pixels = frames.permute(0, 2, 3, 1).numpy()  # [n, H, W, 3]
    if media == "video" and ref.kind == "video":
        return [_part("video_url", "video/mp4", mp4_bytes(pixels, ref.times_s))]
    return [_part("image_url", "image/jpeg", jpeg_bytes(frame)) for frame in pixels]


def _part(kind: str, mime: str, content: bytes) -> dict[str, Any]:
    data = base64.b64encode(content).decode("ascii")
    return {"type": kind, kind: {"url": f"data:{mime};base64,{data}"}}


def jpeg_bytes(frame: Any) -> bytes:
    """Return an RGB frame as JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def mp4_bytes(frames: Any, times_s: Sequence[float]) -> bytes:
    """Return RGB frames [n, H, W, 3] as an H.264 MP4 with their mean frame rate."""
    from fractions import Fraction

    import av

    length = times_s[-1] - times_s[0]
    rate = Fraction((len(frames) - 1) / length if length > 0 else 1.0).limit_denominator(1000)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
