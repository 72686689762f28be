"""What the report reads and packs: files of a run that may be torn, pictures within a budget."""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MEDIA_BYTES = 6_000_000
"""Pictures and clouds of one report in all, as text; what does not fit is left out and said."""

JPEG_QUALITY = 78


@dataclass(kw_only=True)
class Packer:
    """Packs pixels and points as text and remembers what was left out or could not be read."""

    left: int = MEDIA_BYTES
    """Characters that may still be used."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the reader of the report."""

    def note(self, text: str) -> None:
        """Keep a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def pack(self, content: bytes) -> str | None:
        """Return bytes as base64, or None when the budget is used up."""
        size = -(-len(content) // 3) * 4
        if size > self.left:
            self.note("some pictures are left out: they would make this file too large")
            return None
        self.left -= size
        return base64.b64encode(content).decode("ascii")

    def picture(self, pixels: "np.ndarray", width: int) -> dict[str, Any]:
        """Encode an RGB array as a JPEG data URI of at most `width` pixels across.

        Returns:
            ``src`` (None when the budget is used up) and the size of the array.
        """
        from PIL import Image

        image = Image.fromarray(pixels)
        size = {"width": image.width, "height": image.height}
        if image.width > width:
            image = image.resize((width, max(1, round(image.height * width / image.width))))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        text = self.pack(buffer.getvalue())
        return {"src": None if text is None else f"data:image/jpeg;base64,{text}", **size}

    def lines(self, file: Path) -> list[dict[str, Any]]:
        """Read one JSON object per line; lines that are none (a killed run) are left out."""
        if not file.is_file():
            return []
        rows: list[dict[str, Any]] = []
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
            row = _parsed(line)
            if isinstance(row, dict):
                rows.append(row)
            elif line.strip():
                self.note(f"{file.name}: a line that is not complete is left out")
        return rows

    def values(self, file: Path) -> dict[str, Any]:
        """Read one JSON object; {} when the file is absent or damaged."""
        if not file.is_file():
            return {}
        value = _parsed(file.read_text(encoding="utf-8", errors="replace"))
        if isinstance(value, dict):
            return value
        self.note(f"{file.name} could not be read and is left out")
        return {}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (and no truth value)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def mean(values: Sequence[Any]) -> float | None:
    """Average the finite numbers among the values."""
    known = [value for value in values if is_number(value)]
    return sum(known) / len(known) if known else None


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Keep what is a finite number."""
    return {key: value for key, value in values.items() if is_number(value)}


def spread_over(count: int, limit: int) -> list[int]:
    """Choose at most `limit` of `count` positions, evenly, ends included."""
    if count <= limit:
        return list(range(count))
    return sorted({round(i * (count - 1) / max(limit - 1, 1)) for i in range(limit)})


def shortened(text: str, limit: int) -> str:
    """Cut a text and say by how much."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} more characters)"
