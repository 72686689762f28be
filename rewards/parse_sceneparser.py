"""SceneParser's replies as its scorer takes them: a malformed one and an empty one score alike."""

from typing import Any

from scenerl.envs.records import ParseError
from scenerl.envs.sceneparser_reply import parse_objects, to_pixels

__all__ = ["parse_reply", "to_pixels"]


def parse_reply(text: str, size: tuple[float, float]) -> list[dict[str, Any]]:
    """Return the objects of a reply in pixels, none for one that cannot be read."""
    found = parse_objects(text, size)
    return [] if isinstance(found, ParseError) else found
