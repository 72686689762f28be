"""A client of an OpenAI-compatible endpoint, for models and for judges."""

from typing import Any
from urllib.parse import urlsplit

from scenerl.configs.schema import ConfigError

LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})


def check_address(url: str, *, key_option: str) -> None:
    """Refuse an address that cannot work or that holds a secret.

    Args:
        url: Up to and with the version, such as http://localhost:8000/v1.
        key_option: The option that names the variable of the key, for the message.

    Raises:
        ConfigError: If it is refused.
    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ConfigError(
            "the endpoint's address holds a user or a password, which would end up in logs; "
            f"put the key into an environment variable and name it with {key_option}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"the endpoint's address is {url!r}, expected http(s)://host[:port]/v1")


def open_client(url: str, key: str | None, *, timeout_s: float, retries: int) -> Any:
    """Return an ``openai.OpenAI`` that sends the key nowhere else.

    It follows no redirect and asks this machine without a proxy.
    """
    import openai

    return openai.OpenAI(
        base_url=url,
        api_key=key or "none",  # never the key of somebody else's service
        timeout=timeout_s,
        max_retries=retries,
        http_client=openai.DefaultHttpxClient(
            follow_redirects=False, trust_env=urlsplit(url).hostname not in LOCAL
        ),
    )
