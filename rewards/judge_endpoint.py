"""A judge behind an OpenAI-compatible endpoint: a hosted model, or vLLM on this machine."""

import http.client
import json
import logging
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scenerl.configs.schema import ConfigError
from scenerl.rewards.judge import JudgeError

logger = logging.getLogger(__name__)

_AGAIN: Final = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which asking again may help."""
_LONGEST_REPLY: Final = 4 * 2**20
_LONGEST_WAIT_S: Final = 60.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing, so that the key goes nowhere but to the endpoint."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Return no request."""
        return


_OPENER: Final = urllib.request.build_opener(_NoRedirect)
_DIRECT: Final = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
"""For this machine, which no proxy stands before."""


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
    first_delay_s: float = 1.0
    """Doubled after every try, up to a minute."""
    temperature: float | None = 0.0
    """None leaves it out, for models that refuse it."""

    def __post_init__(self) -> None:
        """Check the settings before anything is asked."""
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(
                f"the judge's address is {self.url!r}; expected http://HOST:PORT/v1 or https://..."
            )
        if parts.username or parts.password:
            raise ConfigError("the judge's address holds a password; use --judge-key VARIABLE")
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
        body: dict[str, Any] = {"model": self.model, "messages": [dict(m) for m in messages]}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        request = urllib.request.Request(
            self.url.rstrip("/") + "/chat/completions",
            data=json.dumps(body).encode(),
            headers=headers,
            method="POST",
        )
        host = urllib.parse.urlsplit(self.url).hostname
        opener = _DIRECT if host in ("127.0.0.1", "::1", "localhost") else _OPENER
        try:
            with opener.open(request, timeout=self.timeout_s) as response:
                raw = response.read(_LONGEST_REPLY + 1)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _TryAgain(f"{type(error).__name__}: {reason}") from None
        return _reply(raw)

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        try:
            detail = error.read(300).decode("utf-8", "replace").strip()
        except (OSError, http.client.HTTPException):
            detail = ""
        finally:
            error.close()
        key = os.environ.get(self.key_variable) if self.key_variable else None
        if key:
            detail = detail.replace(key, "***")
        reason = f"HTTP {error.code} {detail}".strip()
        if error.code in _AGAIN or error.code >= 500:
            after = error.headers.get("Retry-After", "")
            return _TryAgain(reason, float(after) if after.isascii() and after.isdigit() else None)
        return JudgeError(reason)


def _reply(raw: bytes) -> str:
    """Return the text of a completion; one that is no completion may be better next time."""
    try:
        if len(raw) > _LONGEST_REPLY:
            raise ValueError("longer than 4 MiB")
        content = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        shown = raw[:80].decode("utf-8", "replace")
        raise _TryAgain(f"no completion but {shown!r} ({type(error).__name__})") from None
    if not isinstance(content, str):
        raise _TryAgain(f"a completion without text ({type(content).__name__})")
    return content
