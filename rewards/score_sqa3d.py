"""SQA3D: questions asked from a place in the scene, and that place.

Sources: SilongYong/SQA3D LLM/eval_sqa3d_llm.py and utils/localization_metric.py (arXiv:2210.07474);
embodied-generalist evaluator/sqa3d_eval.py (LEO); Video-3D-LLM and GS-Reasoner
llava/eval/eval_sqa3d.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from scenerl.envs.text_match import clean_answer, is_refined_match, official_match
from scenerl.rewards.benchmark import DEFAULT_BOOTSTRAP, Bootstrap, ItemScore, Report
from scenerl.rewards.bootstrap import Statistic, estimate, mean
from scenerl.rewards.captions import NO_JAVA, has_java, score_captions

QUESTION_TYPES: Final = ("what", "is", "how", "can", "which", "others")
_LOCATION_LIMITS: Final = (
    ("acc@0.5m", "position", 0.5),
    ("acc@1.0m", "position", 1.0),
    ("acc@15deg", "rotation", 15.0),
    ("acc@30deg", "rotation", 30.0),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SituatedQuestion:
    """One question; where it was asked from, if that is known."""

    question: str
    answers: tuple[str, ...]
    position_m: tuple[float, ...] | None = None
    rotation: tuple[float, ...] | None = None
    """Quaternion (x, y, z, w)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SituatedAnswer:
    """One answer; up to three guesses of the place."""

    answer: str
    positions_m: tuple[tuple[float, ...], ...] = ()
    rotations: tuple[tuple[float, ...], ...] = ()


def question_type(question: str) -> str:
    """Return the type of a question by its first letters, so "Isn't" and "Island" are "is"."""
    start = question.lstrip().lower()
    return next((kind for kind in QUESTION_TYPES[:-1] if start.startswith(kind)), "others")


def loose_match(text: str, answer: str) -> bool:
    """Return the official rule for language models; the text is cleaned, the answer is not.

    Right are equal texts, a text that is a part of the answer (the empty one too), the same without
    white space, and a text that shares a word with it.
    """
    text = clean_answer(text)
    return (
        text in answer
        or "".join(text.split()) in "".join(answer.split())
        or not set(text.split()).isdisjoint(answer.split())
    )


def position_error_m(position: tuple[float, ...], true_position: tuple[float, ...]) -> float:
    """Return the distance in the ground plane."""
    return math.sqrt(
        sum((a - b) ** 2 for a, b in zip(position[:2], true_position[:2], strict=True))
    )


def rotation_error_deg(rotation: tuple[float, ...], true_rotation: tuple[float, ...]) -> float:
    """Return the angle between the z components of two rotation vectors, in degrees."""
    from scipy.spatial.transform import Rotation

    angles = [Rotation.from_quat(q).as_rotvec()[-1] for q in (rotation, true_rotation)]
    apart = abs(angles[0] - angles[1])
    return float(min(apart, 2 * math.pi - apart) / math.pi * 180)


def score_sqa3d(
    references: Mapping[str, SituatedQuestion],
    predictions: Mapping[str, SituatedAnswer],
    *,
    captions: bool = False,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return em and em-refined by type of question, x 100, and the looser official rules.

    em compares cleaned texts; em-refined (LEO) also accepts either inside the other, so an empty
    answer is right: ``sound/em-refined`` is the guarded rule. loose/accuracy is the official script
    for language models and the acc@ rows the official localisation, as fractions, strictly below
    the limit, best of up to three guesses, over the items with a known place.

    Args:
        references: Item id -> question.
        predictions: Item id -> answer; not there is wrong.
        captions: Also BLEU .. CIDEr of the cleaned texts, as LEO reports them.
        bootstrap: How the intervals are drawn.
    """
    ids = list(references)
    rows = [_answer_values(references[i], predictions.get(i)) for i in ids]
    values = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
    kinds = np.array([question_type(references[i].question) for i in ids], dtype=object)
    statistics: list[Statistic] = []
    for name in ("em", "em-refined"):
        statistics.append(mean(name, values[name], scale=100.0))
        for kind in QUESTION_TYPES:
            if (mask := kinds == kind).any():
                statistics.append(mean(f"{kind}/{name}", values[name], mask, scale=100.0))
    statistics.append(mean("loose/accuracy", values["loose"]))
    sound = values["sound/em-refined"]
    statistics.append(mean("sound/em-refined", sound, scale=100.0, rule="sound"))
    statistics += _location_statistics(references, predictions, ids)
    notes: tuple[str, ...] = ()
    if captions:
        texts = [clean_answer(predictions[i].answer) if i in predictions else "" for i in ids]
        true = [[clean_answer(answer) for answer in references[i].answers] for i in ids]
        statistics += score_captions(true, texts).statistics("leo/")
        notes = () if has_java() else (NO_JAVA,)
    return Report(
        benchmark="sqa3d",
        metrics=estimate(statistics, ids, bootstrap),
        items=tuple(
            ItemScore(item_id=item_id, values=dict(row), groups=(str(kind),))
            for item_id, row, kind in zip(ids, rows, kinds, strict=True)
        ),
        notes=notes,
    )


def _answer_values(truth: SituatedQuestion, guess: SituatedAnswer | None) -> dict[str, Any]:
    if guess is None:
        return dict.fromkeys(("em", "em-refined", "loose", "sound/em-refined"), 0.0)
    cleaned = [clean_answer(answer) for answer in truth.answers]
    exact, refined = official_match(clean_answer(guess.answer), cleaned)
    return {
        "em": float(exact),
        "em-refined": float(refined),
        "loose": float(loose_match(guess.answer, truth.answers[0])),
        "sound/em-refined": float(is_refined_match(guess.answer, truth.answers)),
    }


def _location_statistics(
    references: Mapping[str, SituatedQuestion],
    predictions: Mapping[str, SituatedAnswer],
    ids: list[str],
) -> list[Statistic]:
    guesses = [predictions.get(i) for i in ids]
    statistics = []
    for name, what, limit in _LOCATION_LIMITS:
        measure: Any = position_error_m if what == "position" else rotation_error_deg
        true_name, guess_name = {
            "position": ("position_m", "positions_m"),
            "rotation": ("rotation", "rotations"),
        }[what]
        if not any(guess is not None and getattr(guess, guess_name) for guess in guesses):
            continue
        known = np.array([getattr(references[i], true_name) is not None for i in ids])
        right = [
            any(
                measure(place, getattr(references[i], true_name)) < limit
                for place in getattr(guess, guess_name, ())
            )
            if is_known
            else False
            for i, guess, is_known in zip(ids, guesses, known, strict=True)
        ]
        statistics.append(mean(name, np.array(right, dtype=np.float64), known))
    return statistics
