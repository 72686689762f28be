"""Temporal grounding as TimeZero / Time-R1 read it: sentences and when they are true of a video.

The start of Charades/charades_annotation/train.json:

    {"AO8RW": {"duration": 33.75, "timestamps": [[0.0, 6.9]],
               "sentences": ["a person is putting a book on a shelf."]}}

Source: www-Ye/Time-R1 preprocess_dataset.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scenerl.preprocess.records import Span
from scenerl.preprocess.row_sources import json_items
from scenerl.preprocess.rows import (
    Item,
    RowError,
    Rows,
    as_number,
    as_text,
    collect_rows,
    listing,
    mapping,
    need,
    numbers,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TemporalRow:
    """One sentence about one video."""

    video_id: str
    sentence_index: int
    duration_s: float
    span_s: Span
    """As in the file: it may be empty, reversed or end after the video."""
    sentence: str

    @property
    def item_id(self) -> str:
        """Return ``video|sentence index``."""
        return f"{self.video_id}|{self.sentence_index}"

    @property
    def query(self) -> str:
        """Return the sentence as the official script asks it: in lower case, no full stop."""
        return self.sentence.strip().lower().removesuffix(".")


def read_temporal(path: str | Path) -> Rows[TemporalRow]:
    """Return the rows of a temporal grounding file.

    Raises:
        DataError: If the file is missing or holds no object.
    """
    return collect_rows(json_items(path), _rows)


def _rows(item: Item) -> Iterator[TemporalRow]:
    video_id = as_text(item.key, "the video")
    raw = mapping(item.value, f"video {video_id!r:.80}")
    duration = as_number(need(raw, "duration"), f"duration of {video_id!r:.80}")
    if duration <= 0:
        raise RowError("wrong length", f"{video_id!r:.80} lasts {duration} s; expected more than 0")
    spans = listing(need(raw, "timestamps"), "timestamps")
    sentences = listing(need(raw, "sentences"), "sentences")
    for number, (span, sentence) in enumerate(zip(spans, sentences, strict=False)):
        start, end = numbers(span, 2, f"timestamps[{number}] of {video_id!r:.80}")
        yield TemporalRow(
            video_id=video_id,
            sentence_index=number,
            duration_s=duration,
            span_s=(start, end),
            sentence=as_text(sentence, f"sentences[{number}] of {video_id!r:.80}"),
        )
    if len(spans) != len(sentences):
        detail = f"{video_id!r:.80} has {len(spans)} timestamps for {len(sentences)} sentences"
        raise RowError("contradiction", detail)
