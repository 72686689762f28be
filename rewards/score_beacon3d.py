"""Beacon3D: chains of expressions from coarse to fine for an object, and questions about it.

Source: beacon-3d/beacon-3d evaluate_grounding.py, evaluate_qa.py, utils.py (arXiv:2503.22420). Its
numbers, printed with two decimals, are percentages.

Every text is asked once per scene: of equal texts the first one counts, and of texts that differ
only in case the last one, for all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scenerl.envs.text_match import clean_answer, official_match
from scenerl.rewards.benchmark import DEFAULT_BOOTSTRAP, Bootstrap, ItemScore, Report
from scenerl.rewards.bootstrap import Statistic, estimate, mean
from scenerl.rewards.judge import JudgeRecord, Verdict, verdict_notes

GROUNDING_TAGS: Final = ("class", "appearance", "geometry", "spatial", "functionality")
QA_TAGS: Final = ("class", "appearance", "geometry", "spatial", "existence", "functionality")
PER_OBJECT: Final = 3
"""Chains, or questions, of an object; the official script counts them off, three by three."""
RIGHT: Final = 4
"""Score from which an answer counts as right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainText:
    """One level of one chain, or one question of an object."""

    scene_id: str
    object_key: str
    """Scene, class and object."""
    text: str
    tag: str
    chain: str = ""
    level: int = 0
    """0 is the finest."""
    target_ids: tuple[str, ...] = ()
    """All objects that the expression fits."""
    answer: str = ""
    """Of a question."""
    extra_knowledge: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What the official script finds its result by."""
        return self.scene_id, self.text.lower()


def asked_ids(references: Mapping[str, ChainText]) -> list[str]:
    """Return the ids of the texts that the official data lists hold: the first of equal ones."""
    seen: set[tuple[str, str]] = set()
    ids = []
    for item_id, text in references.items():
        if (text.scene_id, text.text) not in seen:
            seen.add((text.scene_id, text.text))
            ids.append(item_id)
    return ids


def effective_ids(references: Mapping[str, ChainText]) -> dict[tuple[str, str], str]:
    """Return lower-cased text of a scene -> id of the item whose result stands for it."""
    return {references[item_id].key: item_id for item_id in asked_ids(references)}


def grounded_objects(
    references: Mapping[str, ChainText], correct: Mapping[str, bool]
) -> list[list[bool]]:
    """Return the results of every chain, coarse to fine, in the order of the metadata."""
    source = effective_ids(references)
    chains: dict[tuple[str, str], list[bool]] = {}
    for text in references.values():
        chain = chains.setdefault((text.object_key, text.chain), [])
        chain.insert(0, bool(correct.get(source[text.key], False)))
    return list(chains.values())


def object_flags(chains: Sequence[Sequence[bool]]) -> list[bool]:
    """Return whether the finest level of all chains is right, three chains after the other."""
    return [
        all(chain[-1] for chain in chains[start : start + PER_OBJECT])
        for start in range(0, len(chains), PER_OBJECT)
    ]


def score_grounding(
    references: Mapping[str, ChainText],
    correct: Mapping[str, bool],
    *,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return case, chain and object accuracy and the four shares of chains, in percent.

    case: over the distinct lower-cased texts of a scene, overall and by member of the tag. chain:
    every level right. object: the finest level right in all chains of the object. The shares tell
    whether all coarser levels and the finest one are right; a chain of one level has no coarser
    one, which counts as right.
    """
    source = effective_ids(references)
    cases = {item_id: bool(correct.get(item_id, False)) for item_id in source.values()}
    case_ids = list(cases)
    hits = np.array([float(v) for v in cases.values()])
    statistics = [mean("case", hits, scale=100.0)]
    for tag in GROUNDING_TAGS:
        mask = np.array([tag in references[i].tag.lower().split("-") for i in case_ids])
        if mask.any():
            statistics.append(mean(f"case/{tag}", hits, mask, scale=100.0))
    metrics = list(estimate(statistics, case_ids, bootstrap))
    chains = grounded_objects(references, correct)
    chain_ids = [str(n) for n in range(len(chains))]
    shares = [("chain", [all(chain) for chain in chains])]
    for name, coarse, fine in (
        ("coarse1-fine1", True, True),
        ("coarse1-fine0", True, False),
        ("coarse0-fine1", False, True),
        ("coarse0-fine0", False, False),
    ):
        shares.append((name, [all(chain[:-1]) == coarse and chain[-1] == fine for chain in chains]))
    metrics += estimate([_percent(name, flags) for name, flags in shares], chain_ids, bootstrap)
    objects = object_flags(chains)
    metrics += estimate(
        [_percent("object", objects)], [str(n) for n in range(len(objects))], bootstrap
    )
    repeated = len(references) - len(source)
    return Report(
        benchmark="beacon3d-grounding",
        metrics=tuple(metrics),
        items=tuple(
            ItemScore(item_id=i, values={"correct": float(v)}, groups=(references[i].tag,))
            for i, v in cases.items()
        ),
        counts={"chains": len(chains), "objects": len(objects), "repeated_texts": repeated},
        notes=_uneven(references, chain=True),
    )


def _percent(name: str, flags: Iterable[bool]) -> Statistic:
    return mean(name, np.array(list(flags), dtype=np.float64), scale=100.0)


def is_binary(answers: Iterable[str]) -> bool:
    """Say whether "yes" or "no" stands anywhere in an answer, as in "nothing"."""
    return any("yes" in answer.lower() or "no" in answer.lower() for answer in answers)


def rule_score(question: ChainText, prediction: str) -> tuple[bool, bool, int | None]:
    """Return (em, em-r, 5 where no judge is needed, else None).

    No judge is needed for an exact match, nor for a loose one of a `is_binary` question.
    """
    truth = [clean_answer(question.answer)]
    exact, refined = official_match(clean_answer(prediction), truth)
    decided = exact or (refined and is_binary(truth))
    return exact, refined, 5 if decided else None


def judge_records(
    references: Mapping[str, ChainText], predictions: Mapping[str, str]
) -> list[JudgeRecord]:
    """Return what the judge is asked: cleaned texts, the truth as a list of one."""
    return [
        JudgeRecord(
            item_id=item_id,
            question=references[item_id].text,
            ground_truth=str([clean_answer(references[item_id].answer)]),
            prediction=clean_answer(predictions[item_id]),
        )
        for item_id in effective_ids(references).values()
        if item_id in predictions
        and rule_score(references[item_id], predictions[item_id])[2] is None
    ]


def score_qa(
    references: Mapping[str, ChainText],
    predictions: Mapping[str, str],
    *,
    verdicts: Mapping[str, Verdict] | None = None,
    grounded: Sequence[bool] | None = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return em, em-r and, with verdicts, case, object and (with grounding) the chain analysis.

    case is (mean score - 1) / 4, object the share of objects whose three questions all score at
    least 4. With g for a grounded object and q for a right answer, the shares g1q1 ("good
    coherence"), g1q0, g0q1, g0q0 are of all questions; R1 = g1q0 / (g1q0 + g0q0) of the questions
    without extra knowledge, R2 = g0q1 / (g1q1 + g0q1) of all. All in percent.

    Args:
        references: Item id -> question, in the order of the metadata.
        predictions: Item id -> answer; not there is wrong.
        verdicts: Item id -> verdict of every answer that the rules do not decide.
        grounded: Whether each object, in the same order, is grounded.
        bootstrap: How the intervals are drawn.
    """
    ids = list(references)
    source = effective_ids(references)
    rows = [_answer_row(source[references[i].key], references, predictions, verdicts) for i in ids]
    values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    statistics = [mean(name, values[name], scale=100.0) for name in ("em", "em-r")]
    notes = list(_uneven(references, chain=False))
    metrics = list(estimate(statistics, ids, bootstrap))
    if verdicts is None:
        notes.append("case, object and chain rows are absent: they need a judge, see --judge")
    else:
        notes += verdict_notes(verdicts.values())
        metrics += _judged_metrics(references, values["score"], grounded, bootstrap)
        if grounded is None:
            notes.append("R1, R2 and coherence are absent: they need --grounding")
    return Report(
        benchmark="beacon3d-qa",
        metrics=tuple(metrics),
        items=tuple(
            ItemScore(
                item_id=i,
                values={name: float(column[n]) for name, column in values.items()},
                groups=(references[i].tag,),
            )
            for n, i in enumerate(ids)
        ),
        counts={"repeated_texts": len(ids) - len(source)},
        notes=tuple(notes),
    )


def _answer_row(
    item_id: str,
    references: Mapping[str, ChainText],
    predictions: Mapping[str, str],
    verdicts: Mapping[str, Verdict] | None,
) -> dict[str, float]:
    if item_id not in predictions:
        return {"em": 0.0, "em-r": 0.0, "score": 1.0}
    exact, refined, score = rule_score(references[item_id], predictions[item_id])
    if score is None and verdicts is not None and item_id in verdicts:
        score = verdicts[item_id].score
    return {"em": float(exact), "em-r": float(refined), "score": float(score or 1)}


def _judged_metrics(
    references: Mapping[str, ChainText],
    scores: npt.NDArray[np.float64],
    grounded: Sequence[bool] | None,
    bootstrap: Bootstrap,
) -> list[Any]:
    ids = list(references)
    percent = (scores - 1) / 4
    statistics = [mean("case", percent, scale=100.0)]
    tags = np.array([text.tag.lower() for text in references.values()], dtype=object)
    for tag in QA_TAGS:
        if (mask := tags == tag).any():
            statistics.append(mean(f"case/{tag}", percent, mask, scale=100.0))
    right = scores >= RIGHT
    if grounded is not None:
        statistics += _chain_statistics(references, right, grounded)
    objects = [
        bool(right[start : start + PER_OBJECT].all()) for start in range(0, len(ids), PER_OBJECT)
    ]
    return [
        *estimate(statistics, ids, bootstrap),
        *estimate([_percent("object", objects)], [str(n) for n in range(len(objects))], bootstrap),
    ]


def _chain_statistics(
    references: Mapping[str, ChainText], right: npt.NDArray[np.bool_], grounded: Sequence[bool]
) -> list[Statistic]:
    g = np.array([grounded[n // PER_OBJECT] for n in range(len(right))])
    plain = np.array([not text.extra_knowledge for text in references.values()])
    boxes = {"g1q1": g & right, "g1q0": g & ~right, "g0q1": ~g & right, "g0q0": ~g & ~right}
    of_all = {name: box.astype(np.float64) for name, box in boxes.items()}
    of_plain = {name: (box & plain).astype(np.float64) for name, box in boxes.items()}
    statistics = [mean(name, column, scale=100.0) for name, column in of_all.items()]
    statistics += [
        mean(f"no-extra/{name}", column, plain, scale=100.0) for name, column in of_plain.items()
    ]
    for name, top, other in (
        ("R1", of_plain["g1q0"], of_plain["g0q0"]),
        ("R2", of_all["g0q1"], of_all["g1q1"]),
    ):
        both = top + other
        count = int(both.sum())
        statistics.append(Statistic(name=name, columns=(top, both), count=count, scale=100.0))
    return statistics


def _uneven(references: Mapping[str, ChainText], *, chain: bool) -> tuple[str, ...]:
    """Return a note where counting off by three mixes objects, as the official script then does."""
    parts: dict[str, set[str]] = {}
    for item_id, text in references.items():
        parts.setdefault(text.object_key, set()).add(text.chain if chain else item_id)
    uneven = [name for name, found in parts.items() if len(found) != PER_OBJECT]
    if not uneven:
        return ()
    return (
        f"{len(uneven)} objects do not have {PER_OBJECT} "
        f"{'chains' if chain else 'questions'}, first {uneven[0]}: the official script counts "
        "off by three and mixes the objects behind it",
    )
