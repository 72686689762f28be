"""A judge behind an OpenAI-compatible endpoint: a hosted model, or vLLM on this machine."""

import logging
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from scenerl.configs.schema import ConfigError
from scenerl.rewards.judge import JudgeError
from scenerl.rollout.chat_client import check_address, open_client

logger = logging.getLogger(__name__)

_AGAIN: Final = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which asking again may help."""
_LONGEST_WAIT_S: Final = 60.0


class _TryAgain(Exception):
    """A failure that may pass; the delay that the server asks for."""

    def __init__(self, reason: str, delay_s: float | None = None) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointJudge:
    """Asks ``{url}/chat/completions``."""

    url: str
    """Up to and with the version, such as http://localhost:8000/v1."""
    model: str
    key_variable: str | None = None
    """Environment variable that holds the API key; the key itself is never stored or logged."""
    timeout_s: float = 60.0
    """For connecting, and for each read."""
    retries: int = 5
    """Also after a reply that is no completion, which the client itself takes for an answer."""
    first_delay_s: float = 1.0
    """Doubled after every try, up to a minute."""
    temperature: float | None = 0.0
    """None leaves it out, for models that refuse it."""

    def __post_init__(self) -> None:
        """Check the settings before anything is asked."""
        check_address(self.url, key_option="--judge-key")
        if self.key_variable is not None and not os.environ.get(self.key_variable):
            raise ConfigError(
                f"the environment variable {self.key_variable} is not set; expected the judge's "
                "API key in it"
            )

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the reply, after as many tries as are allowed.

        Raises:
            JudgeError: If there is none: what the last try met.
        """
        delay_s = self.first_delay_s
        for attempt in range(self.retries + 1):
            try:
                return self._try(messages)
            except _TryAgain as failure:
                if attempt == self.retries:
                    raise JudgeError(f"{failure} ({attempt + 1} tries)") from None
                asked_s = failure.delay_s or delay_s * random.uniform(1.0, 1.25)
                logger.debug("judge: %s; again in %.1f s", failure, asked_s)
                time.sleep(min(asked_s, _LONGEST_WAIT_S))
                delay_s = min(2 * delay_s, _LONGEST_WAIT_S)
        raise AssertionError("unreachable")

    def _try(self, messages: Sequence[Mapping[str, str]]) -> str:
        import openai

        key = os.environ[self.key_variable] if self.key_variable else None
        options = {} if self.temperature is None else {"temperature": self.temperature}
        client = _client(self.url, key, self.timeout_s)
        try:
            found = client.chat.completions.create(
                model=self.model, messages=[dict(message) for message in messages], **options
            )
        except openai.APIStatusError as error:
            raise _refused(error, key) from None
        except (openai.APIError, ValueError) as error:  # no connection, time-out, broken JSON
            raise _TryAgain(f"{type(error).__name__}: {error}") from None
        return _text(found)


@cache
def _client(url: str, key: str | None, timeout_s: float) -> Any:
    return open_client(url, key, timeout_s=timeout_s, retries=0)


def _refused(error: Any, key: str | None) -> Exception:
    detail = error.response.text[:300].strip()
    reason = f"HTTP {error.status_code} {detail.replace(key, '***') if key else detail}".strip()
    if error.status_code in _AGAIN or error.status_code >= 500:
        after = error.response.headers.get("Retry-After", "")
        return _TryAgain(reason, float(after) if after.isascii() and after.isdigit() else None)
    return JudgeError(reason)


def _text(found: Any) -> str:
    """Return the text of a completion; one that is no completion may be better next time."""
    try:
        content = found.choices[0].message.content
    except (AttributeError, IndexError, TypeError) as error:
        raise _TryAgain(f"no completion but {str(found)[:80]!r} ({type(error).__name__})") from None
    if not isinstance(content, str):
        raise _TryAgain(f"a completion without text ({type(content).__name__})")
    return content
