"""MSQA (MSR3D), GQA3D and SceneCOT's copies of them: free answers of many types.

Sources: MSR3D/MSR3D evaluator/evaluate_msqa.py, utils.py (arXiv:2409.02389); SceneCOT/scenecot
evaluator/msqa_evaluator_offline.py, msqa_eval_cot.py, gqa3d_eval_cot.py and their _grounding
variants (arXiv:2510.16714).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from scenerl.envs.text_match import clean_answer, is_refined_match, official_match
from scenerl.rewards.benchmark import DEFAULT_BOOTSTRAP, Bootstrap, ItemScore, Report, Rule
from scenerl.rewards.bootstrap import Statistic, estimate, mean
from scenerl.rewards.judge import JudgeRecord, Verdict, percent, verdict_notes

Sums: TypeAlias = npt.NDArray[np.float64]
TYPES: Final = (
    *("counting", "existence", "attribute", "spatial relationship", "navigation", "refer"),
    *("affordance", "description", "room type"),
)
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "counting": ("counting",),
    "existence": ("existence",),
    "attribute_description": ("attribute", "description"),
    "spatial_refer": ("spatial relationship", "refer"),
    "navigation": ("navigation",),
    "others": ("affordance", "room type"),
}
GROUNDED_TYPES: Final = tuple(
    f"{kind} (grounded qa)" for kind in ("appearance", "existence", "spatial", "class", "geometry")
)
NO_EM: Final = frozenset({"attribute", "description", "spatial relationship"})
"""Types of which SceneCOT adds up no exact matches, and prints 0."""
NO_CONTENT: Final = "Empty content for this key!"
"""What SceneCOT's parser takes for the content of a tag that is not there."""
ANSWER_TOKENS: Final = {"\u03a5": "<answer>", "\ub3d9": "</answer>"}
"""The characters that SceneCOT writes for the tags in its texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TypedQuestion:
    """One question."""

    question: str
    answers: tuple[str, ...]
    type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbedAnswer:
    """One answer; SceneCOT's probabilities of objects where they are given."""

    text: str
    object_probs: tuple[float, ...] = ()
    true_objects: tuple[bool, ...] = ()
    valid_objects: tuple[bool, ...] = ()


def type_hits(kind: str) -> dict[str, int]:
    """Return how often a type counts in each group: once for every known type named inside it.

    Lower case, by substring, so "attribute and description" counts twice in one group and a type
    that names nothing known counts nowhere.
    """
    kind = kind.lower()
    return {group: sum(name in kind for name in names) for group, names in GROUPS.items()}


def cot_answer(text: str) -> str:
    """Return what stands in the first <answer> block of a reply, NO_CONTENT if there is none."""
    if not any(end in text for end in ("</answer>", *ANSWER_TOKENS)):
        return NO_CONTENT
    for token, tag in ANSWER_TOKENS.items():
        text = text.replace(token, tag)
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return found[1].strip() if found else NO_CONTENT


def read_answers(truth: TypedQuestion, text: str) -> tuple[str, tuple[str, ...]]:
    """Return (text, true answers) as SceneCOT compares them.

    Where the first true answer is a reply with thoughts, the answer blocks of both sides are
    compared, and a prediction without one is NO_CONTENT.
    """
    if cot_answer(truth.answers[0]) == NO_CONTENT:
        return text, truth.answers
    return cot_answer(text), tuple(cot_answer(answer) for answer in truth.answers)


def final_text(text: str) -> str:
    """Return the answer block of a text that has one, else the text."""
    answer = cot_answer(text)
    return text if answer == NO_CONTENT else answer


def judge_records(
    references: Mapping[str, TypedQuestion], predictions: Mapping[str, ProbedAnswer]
) -> list[JudgeRecord]:
    """Return what the judge is asked: the raw answer against the first true one.

    Of replies with thoughts, the answer blocks. SceneCOT's script then judges against the first
    letter of the truth, which is not reproduced.
    """
    return [
        JudgeRecord(
            item_id=item_id,
            question=truth.question,
            ground_truth=final_text(truth.answers[0]),
            prediction=final_text(predictions[item_id].text),
        )
        for item_id, truth in references.items()
        if item_id in predictions
    ]


def score_msqa(
    references: Mapping[str, TypedQuestion],
    predictions: Mapping[str, ProbedAnswer],
    *,
    verdicts: Mapping[str, Verdict] | None = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return MSR3D's group scores and SceneCOT's, and the judge's where there are verdicts.

    em-r and em-strict (fractions) compare with the first true answer only, as MSR3D's script does;
    em-strict cleans the texts twice. A group is the mean over its hits (`type_hits`), the overall
    number the mean over the hits of all groups. gpt-score is (s - 1) * 25, 0 .. 100, by the same
    groups. The ``scenecot/`` rows compare with all true answers, answer blocks of replies with
    thoughts, over all items and by exact type. ``sound/`` is the guarded match.

    Args:
        references: Item id -> question.
        predictions: Item id -> answer; not there is wrong.
        verdicts: Item id -> verdict of every predicted item.
        bootstrap: How the intervals are drawn.
    """
    ids = list(references)
    rows = [_matches(references[i], predictions.get(i)) for i in ids]
    values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    hits = [type_hits(references[i].type) for i in ids]
    counts = {group: np.array([float(hit[group]) for hit in hits]) for group in GROUPS}
    kinds = np.array([references[i].type for i in ids], dtype=object)
    statistics: list[Statistic] = []
    if verdicts is not None:
        values["gpt-score"] = judged(ids, verdicts)
        statistics += grouped("gpt-score", values["gpt-score"], counts)
    for name in ("em-r", "em-strict"):
        statistics += grouped(name, values[name], counts)
    statistics += grouped("em-r", values["sound/em-r"], counts, rule="sound")
    statistics += by_type(values, kinds, TYPES, "scenecot/")
    statistics += grounding_statistics([predictions.get(i) for i in ids])
    missed = int(sum(not any(hit.values()) for hit in hits))
    absent = [group for group, count in counts.items() if not count.any()]
    notes = [] if verdicts is None else list(verdict_notes(verdicts.values()))
    if verdicts is None:
        notes.append("gpt-score is absent: no judge was asked, see --judge")
    if missed:
        notes.append(f"{missed} items are of no known type and enter no group")
    if absent:
        notes.append(f"no item is of group {', '.join(absent)}; the official script stops there")
    return Report(
        benchmark="msqa",
        metrics=estimate(statistics, ids, bootstrap),
        items=_items(ids, values, kinds),
        counts={"untyped": missed},
        notes=tuple(notes),
    )


def score_gqa3d(
    references: Mapping[str, TypedQuestion],
    predictions: Mapping[str, ProbedAnswer],
    *,
    verdicts: Mapping[str, Verdict] | None = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return em and em-refined (fractions) over all items and by type, as SceneCOT does.

    Types are those of the data ("spatial (grounded qa)"); SceneCOT's table names appearance twice
    and leaves geometry out, so its rows are of rule "sound".
    """
    ids = list(references)
    rows = [_matches(references[i], predictions.get(i)) for i in ids]
    values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    kinds = np.array([references[i].type for i in ids], dtype=object)
    statistics = by_type(values, kinds, GROUNDED_TYPES, "")
    statistics.append(mean("sound/em-refined", values["sound/em-r"], rule="sound"))
    statistics += grounding_statistics([predictions.get(i) for i in ids])
    notes: tuple[str, ...] = ("gpt-score is absent: no judge was asked, see --judge",)
    if verdicts is not None:
        values["gpt-score"] = judged(ids, verdicts)
        statistics.append(mean("gpt-score", values["gpt-score"]))
        notes = verdict_notes(verdicts.values())
    return Report(
        benchmark="gqa3d",
        metrics=estimate(statistics, ids, bootstrap),
        items=_items(ids, values, kinds),
        notes=notes,
    )


def _matches(truth: TypedQuestion, guess: ProbedAnswer | None) -> dict[str, float]:
    names = ("em-r", "em-strict", "em", "em-refined", "sound/em-r")
    if guess is None:
        return dict.fromkeys(names, 0.0)
    once = clean_answer(guess.text)
    true_once = clean_answer(truth.answers[0])
    text, answers = read_answers(truth, guess.text)
    exact, refined = official_match(clean_answer(text), [clean_answer(a) for a in answers])
    flags = (
        official_match(once, [true_once])[1],
        clean_answer(once) == clean_answer(true_once),
        exact,
        refined,
        is_refined_match(final_text(guess.text), [final_text(a) for a in truth.answers]),
    )
    return dict(zip(names, map(float, flags), strict=True))


def judged(ids: Sequence[str], verdicts: Mapping[str, Verdict]) -> npt.NDArray[np.float64]:
    """Return (s - 1) * 25 per item; 0 for an item without a prediction or a reply without score."""
    scores = [verdicts[i].score if i in verdicts else None for i in ids]
    return np.array([0.0 if score is None else percent(score) for score in scores])


def grouped(
    name: str,
    values: npt.NDArray[np.float64],
    counts: Mapping[str, npt.NDArray[np.float64]],
    *,
    rule: Rule = "official",
) -> list[Statistic]:
    """Return the mean over the hits of all groups, and of every group that has any."""
    prefix = "" if rule == "official" else "sound/"
    every = np.sum(list(counts.values()), axis=0)
    found = {"": every, **{f"{group}/": count for group, count in counts.items() if count.any()}}
    return [
        Statistic(
            name=f"{prefix}{group}{name}",
            columns=(values * count, count),
            count=int(count.sum()),
            rule=rule,
        )
        for group, count in found.items()
    ]


def by_type(
    values: Mapping[str, npt.NDArray[np.float64]],
    kinds: npt.NDArray[np.object_],
    types: Sequence[str],
    prefix: str,
) -> list[Statistic]:
    """Return em and em-refined over all items, and by exact type where SceneCOT adds them up."""
    statistics = [mean(f"{prefix}{name}", values[name]) for name in ("em", "em-refined")]
    for kind in types:
        if not (mask := kinds == kind).any():
            continue
        rule: Rule = "sound" if kind == "geometry (grounded qa)" else "official"
        if kind not in NO_EM:
            statistics.append(mean(f"{prefix}{kind}/em", values["em"], mask, rule=rule))
        if kind != "description":
            statistics.append(
                mean(f"{prefix}{kind}/em-refined", values["em-refined"], mask, rule=rule)
            )
    return statistics


def grounding_counts(answer: ProbedAnswer) -> tuple[float, ...]:
    """Return (TP, FP, FN, TN among valid objects, right ones among all) at probability > 0.5."""
    counts = [0.0] * 5
    for prob, true, valid in zip(
        answer.object_probs, answer.true_objects, answer.valid_objects, strict=True
    ):
        said = prob > 0.5
        counts[4] += said and true
        if valid:
            counts[(0 if true else 1) if said else (2 if true else 3)] += 1
    return tuple(counts)


def grounding_statistics(answers: Sequence[ProbedAnswer | None]) -> list[Statistic]:
    """Return micro precision, recall, F1, false-positive rate and top-1 accuracy of objects.

    With 1e-7 in the denominators, over the items that have probabilities. The official evaluator
    averages them over batches, whose sizes the results do not tell: this is one batch.
    """
    probed = [a for a in answers if a is not None and a.object_probs]
    if not probed:
        return []
    table = np.array(
        [
            (*grounding_counts(a), 1.0) if a is not None and a.object_probs else (0.0,) * 6
            for a in answers
        ]
    ).T.copy()
    eps = 1e-7

    def f1(tp: Sums, fp: Sums, fn: Sums) -> Sums:
        precision, recall = tp / (tp + fp + eps), tp / (tp + fn + eps)
        return 2 * (precision * recall) / (precision + recall + eps)

    def share(top: Sums, other: Sums) -> Sums:
        return top / (top + other + eps)

    tp, fp, fn, tn, right, items = table
    parts: list[tuple[str, tuple[Sums, ...], Callable[..., Sums]]] = [
        ("precision", (tp, fp), share),
        ("recall", (tp, fn), share),
        ("f1", (tp, fp, fn), f1),
        ("fpr", (fp, tn), share),
    ]
    found = [
        Statistic(name=f"grounding/{name}", columns=columns, compute=compute, count=len(probed))
        for name, columns, compute in parts
    ]
    return [
        *found,
        Statistic(name="grounding/top1", columns=(right, items), count=len(probed)),
    ]


def _items(
    ids: Sequence[str],
    values: Mapping[str, npt.NDArray[np.float64]],
    kinds: npt.NDArray[np.object_],
) -> tuple[ItemScore, ...]:
    return tuple(
        ItemScore(
            item_id=item_id,
            values={name: float(column[n]) for name, column in values.items()},
            groups=(str(kinds[n]),),
        )
        for n, item_id in enumerate(ids)
    )
