"""What each benchmark asks, word by word, and what it wants back.

Where a benchmark's own evaluation fixes the words, they stand here as it has them ("official");
the others were made for models that choose among answers or boxes and have no words for a video
model, so theirs are ours ("ours").
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from scenerl.configs.schema import ConfigError
from scenerl.preprocess.records import Sample

Payload: TypeAlias = Literal["answer", "box", "boxes", "span_s", "caption", "objects"]
"""The key of the prediction line that a reply becomes."""

Style: TypeAlias = Literal["benchmark", "api", "policy"]
"""Whose words are used: the benchmark's, its variant for models behind an API, or those that the
policy was trained on (`EnvConfig.template`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How a benchmark asks."""

    payload: Payload
    text: str
    """With {question}, {situation}, {options}, {box} and {label} where the benchmark has them."""
    max_tokens: int
    """New tokens of a reply."""
    words: Literal["official", "ours"] = "ours"
    choice: str | None = None
    """Asks a question with options; None asks all questions alike."""
    api: str | None = None
    """The text for models behind an API, where the benchmark has another one."""
    dataset: str | None = None
    """`Sample.dataset`, where `launch preprocess` has another name than `launch score`."""


_SHORT = "Answer the question with a single word or a short phrase."
_BOX = (
    "The frames come from a video of a room with known camera poses. Give the axis-aligned 3D box "
    "of the object described, in metres in the coordinates of the room, as two corners: "
    "<bbox>(x1, y1, z1, x2, y2, z2)</bbox>."
)
_REFER = Asking(payload="box", max_tokens=256, text=_BOX + "\nDescription: {question}")

ASKING: Final[dict[str, Asking]] = {
    "scanrefer": _REFER,
    "nr3d": _REFER,
    "sr3d": _REFER,
    "multi3drefer": Asking(
        payload="boxes",
        max_tokens=512,
        text=_BOX + " There may be several such objects, each with a box of its own, or none: then "
        "write <bbox></bbox>.\nDescription: {question}",
    ),
    "scanqa": Asking(payload="answer", max_tokens=32, text="{question}\n" + _SHORT),
    "sqa3d": Asking(payload="answer", max_tokens=32, text="{situation}\n{question}\n" + _SHORT),
    "scan2cap": Asking(
        payload="caption",
        max_tokens=128,
        text="Describe the object inside the 3D box {box} (metres, coordinates of the room) in one "
        "or two sentences: what it is, how it looks and where it stands among the objects around.",
    ),
    "vsibench": Asking(  # lmms_eval/tasks/vsibench/utils.py and vsibench.yaml
        payload="answer",
        max_tokens=16,
        words="official",
        text="These are frames of a video.\n{question}\n"
        "Please answer the question using a single word or phrase.",
        choice="These are frames of a video.\n{question}\nOptions:\n{options}\n"
        "Answer with the option's letter from the given choices directly.",
        api="These are frames of a video.\n{question}\n"
        "Do not response anything other than a single number!",
    ),
    "msqa": Asking(payload="answer", max_tokens=256, text="{situation}\n{question}\n" + _SHORT),
    "gqa3d": Asking(payload="answer", max_tokens=256, text="{question}\n" + _SHORT),
    "beacon3d-qa": Asking(
        payload="answer", max_tokens=128, dataset="beacon3d", text="{question}\n" + _SHORT
    ),
    "temporal": Asking(
        payload="span_s",
        max_tokens=1024,
        text='When can "{question}" be seen in this video? Reason about the video inside <think> '
        "</think>, naming what you see and at which second. Then write the start and the end of "
        "the period, in seconds, inside <answer> </answer>, for example:\n"
        "<think>your reasoning</think>\n<answer>5s to 10s</answer>",
    ),
    "sceneparser": Asking(
        payload="objects",
        max_tokens=2048,
        text="Return a single JSON object only.\nFind every {label} in the image, with its "
        "parts and, for each part, what can be done with it:\n"
        '{{"objects": [{{"name": "...", "bbox": [x0, y0, x1, y1], "parts": [{{"part_name": "...", '
        '"bbox": [x0, y0, x1, y1], "affordances": [{{"action": "...", "point": [x, y]}}]}}]}}]}}\n'
        "Coordinates are whole numbers from 0 to 999, relative to the width and the height.",
    ),
}
"""By the name that `launch score` has."""

_LETTER = re.compile(r"^\(?[A-Z][.):]\s")


def asking(benchmark: str) -> Asking:
    """Return how a benchmark asks.

    Raises:
        ConfigError: If it has no words here.
    """
    if benchmark not in ASKING:
        raise ConfigError(
            f"no prompt is known for {benchmark!r}; `launch eval` asks {', '.join(ASKING)}"
        )
    return ASKING[benchmark]


def benchmark_text(how: Asking, sample: Sample, style: Style = "benchmark") -> str:
    """Return the words of the question about a sample."""
    text = how.text
    if sample.options and how.choice is not None:
        text = how.choice
    elif style == "api" and how.api is not None:
        text = how.api
    filled = text.format(
        question=sample.question.strip(),
        situation=sample.situation.strip(),
        options=options_text(sample.options or ()),
        box=box_text(sample.target.box_world),
        label=sample.target.label or sample.question.strip(),
    )
    return filled.strip()


def options_text(options: Sequence[str]) -> str:
    """Return the options one a line, with the letters that they may already have."""
    lettered = all(_LETTER.match(option) for option in options)
    return "\n".join(
        option if lettered else f"{chr(ord('A') + at)}. {option}"
        for at, option in enumerate(options)
    )


def box_text(box_world: Sequence[float] | None) -> str:
    """Return a 3D box as GS-Reasoner writes it: two corners in metres, four decimals."""
    if box_world is None:
        return "<bbox></bbox>"
    return f"<bbox>({', '.join(f'{value:.4f}' for value in box_world)})</bbox>"
