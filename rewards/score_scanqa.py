"""ScanQA: a ranked list of short answers per question.

Sources: ATR-DBI/ScanQA scripts/score.py (arXiv:2112.10482); LaVi-Lab/Video-3D-LLM and
WU-CVGL/GS-Reasoner llava/eval/eval_scanqa.py; embodied-generalist evaluator/scanqa_eval.py (LEO).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scenerl.envs.text_match import clean_answer, is_refined_match, official_match
from scenerl.rewards.benchmark import DEFAULT_BOOTSTRAP, Bootstrap, ItemScore, Report
from scenerl.rewards.bootstrap import Statistic, estimate, mean
from scenerl.rewards.captions import NO_JAVA, has_java, ptb_tokenize, score_captions

_CLASS_MARKS: Final = (
    ("place", ("Where",)),
    ("number", ("How many",)),
    ("color", ("What color", "What is the color")),
    ("object_nature", ("What shape", "What type", "What kind")),
    ("object", ("What is",)),
)
QUESTION_CLASSES: Final = (*(name for name, _ in _CLASS_MARKS), "other")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanQAQuestion:
    """One question."""

    question: str
    answers: tuple[str, ...]


def question_class(question: str) -> str:
    """Return the class of a question: that of the first phrase of the list found anywhere in it.

    Case counts, so "where is it?" is "other", and "What is the color" is found before "What is".
    """
    for name, marks in _CLASS_MARKS:
        if any(mark in question for mark in marks):
            return name
    return "other"


def score_scanqa(
    references: Mapping[str, ScanQAQuestion],
    predictions: Mapping[str, Sequence[str]],
    *,
    captions_by_class: bool = False,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return three published ways to score the same answers, each under its own names.

    Without a prefix the official script, x 100: em@1 and em@10 are raw equality of strings, BLEU,
    METEOR, ROUGE-L and CIDEr of the first answer come after PTB tokenisation. ``plain/`` is what
    Video-3D-LLM and GS-Reasoner print: no tokenisation, full stops stripped from the end of the
    prediction only, em of the unstripped text (a fraction there). ``leo/`` compares texts cleaned
    by `clean_answer`, as fractions; its em-refined counts an empty answer as right, which
    ``sound/em-refined`` does not.

    Args:
        references: Item id -> question.
        predictions: Item id -> answers, best first; not there is wrong.
        captions_by_class: Also BLEU .. CIDEr of every class, each as a corpus of its own.
        bootstrap: How the intervals are drawn.
    """
    ids = list(references)
    truths = [references[i].answers for i in ids]
    ranked = [tuple(predictions.get(i) or ()) for i in ids]
    first = [answers[0] if answers else "" for answers in ranked]
    classes = [question_class(references[i].question) for i in ids]
    values = _item_values(truths, ranked)
    masks = {name: np.array([c == name for c in classes]) for name in QUESTION_CLASSES}
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    notes = []
    has_ranks = any(len(answers) > 1 for answers in ranked)
    names = ("em@1", "em@10") if has_ranks else ("em@1",)
    if not has_ranks:
        notes.append("no prediction has more than one answer, so there is no em@10")
    statistics = [mean(name, values[name], scale=100.0) for name in names]
    for kind, mask in masks.items():
        statistics += [mean(f"{kind}/{name}", values[name], mask, scale=100.0) for name in names]
    if has_java():
        statistics += _tokenized(truths, first, masks if captions_by_class else {})
    else:
        notes.append(NO_JAVA)
    stripped = [text.rstrip(".") for text in first]
    statistics.append(mean("plain/em", values["em@1"]))
    statistics += score_captions(truths, stripped).statistics("plain/", scale=100.0)
    cleaned = [[clean_answer(answer) for answer in answers] for answers in truths]
    statistics += [mean(f"leo/{name}", values[f"leo/{name}"]) for name in ("em", "em-refined")]
    statistics += score_captions(cleaned, [clean_answer(t) for t in first]).statistics("leo/")
    sound = values["sound/em-refined"]
    statistics.append(mean("sound/em-refined", sound, rule="sound"))
    return Report(
        benchmark="scanqa",
        metrics=estimate(statistics, ids, bootstrap),
        items=tuple(
            ItemScore(
                item_id=item_id,
                values={name: float(column[n]) for name, column in values.items()},
                groups=(classes[n],),
            )
            for n, item_id in enumerate(ids)
        ),
        notes=tuple(notes),
    )


def _item_values(
    truths: Sequence[Sequence[str]], ranked: Sequence[Sequence[str]]
) -> dict[str, npt.NDArray[np.float64]]:
    rows: list[tuple[bool, ...]] = []
    for true, answers in zip(truths, ranked, strict=True):
        if not answers:
            rows.append((False,) * 5)
            continue
        cleaned = [clean_answer(answer) for answer in true]
        exact, refined = official_match(clean_answer(answers[0]), cleaned)
        rows.append(
            (
                answers[0] in true,
                any(answer in true for answer in answers),
                exact,
                refined,
                is_refined_match(answers[0], true),
            )
        )
    table: Any = np.array(rows, dtype=np.float64).reshape(-1, 5).T.copy()
    names = ("em@1", "em@10", "leo/em", "leo/em-refined", "sound/em-refined")
    return dict(zip(names, table, strict=True))


def _tokenized(
    truths: Sequence[Sequence[str]],
    texts: Sequence[str],
    masks: Mapping[str, npt.NDArray[np.bool_]],
) -> list[Statistic]:
    """Return the official caption metrics, of everything and of every mask."""
    tokens = ptb_tokenize([*texts, *(answer for answers in truths for answer in answers)])
    text_tokens, rest = tokens[: len(texts)], iter(tokens[len(texts) :])
    true_tokens = [[next(rest) for _ in answers] for answers in truths]
    statistics = score_captions(true_tokens, text_tokens).statistics(scale=100.0)
    for kind, mask in masks.items():
        chosen = np.flatnonzero(mask)
        scores = score_captions([true_tokens[n] for n in chosen], [text_tokens[n] for n in chosen])
        # Counts of a part of the items are spread over all, so that one set of draws serves both.
        statistics += [spread(s, mask) for s in scores.statistics(f"{kind}/", scale=100.0)]
    return statistics


def spread(statistic: Statistic, mask: npt.NDArray[np.bool_]) -> Statistic:
    """Return a statistic of the items of a mask as one of all items, zero elsewhere."""
    columns = []
    for column in statistic.columns:
        whole = np.zeros(len(mask))
        whole[mask] = column
        columns.append(whole)
    return Statistic(
        name=statistic.name,
        columns=tuple(columns),
        compute=statistic.compute,
        count=statistic.count,
        rule=statistic.rule,
        scale=statistic.scale,
        value=statistic.value,
        empty=statistic.empty,
    )
