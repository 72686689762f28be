"""SceneParser-Bench: objects, their parts and where to touch them, in one image.

Source: SceneParser/SceneParser evaluation/metrics/ (arXiv:2605.14923). The paper's numbers are L1,
L2, L3 and ParseRate of the filtered run: pseudo parts and none-actions left out on both sides.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scenerl.rewards.benchmark import DEFAULT_BOOTSTRAP, Bootstrap, ItemScore, Report
from scenerl.rewards.bootstrap import Statistic, estimate
from scenerl.rewards.sceneparser_counts import Counts, count_object_sample
from scenerl.rewards.sceneparser_match import Rules, Thing, normalized
from scenerl.rewards.sceneparser_scene import count_scene_sample

Sums = npt.NDArray[np.float64]
Names = tuple[str, ...]
Formula = tuple[Names, Callable[..., Sums]]

_EPS: Final = 1e-12
_PSEUDO_PART: Final = "__placeholder_part__"
_NO_ACTION: Final = frozenset({"__none__", "__placeholder_action__"})


def without_pseudo(objects: Sequence[Thing]) -> list[Thing]:
    """Return objects without pseudo parts and without affordances that stand for none."""

    def real(affordances: Any) -> list[Thing]:
        return [a for a in affordances or [] if normalized(a.get("action")) not in _NO_ACTION]

    kept: list[Thing] = []
    for thing in objects:
        parts = [
            {**part, "affordances": real(part.get("affordances"))}
            for part in thing.get("parts") or []
            if not part.get("is_pseudo_part") and normalized(part.get("part_name")) != _PSEUDO_PART
        ]
        own = {"affordances": real(thing["affordances"])} if "affordances" in thing else {}
        kept.append({**thing, "parts": parts, **own})
    return kept


def has_pseudo(objects: Sequence[Thing]) -> bool:
    """Say whether `without_pseudo` would leave something out."""
    return any(
        part.get("is_pseudo_part") or normalized(part.get("part_name")) == _PSEUDO_PART
        for thing in objects
        for part in thing.get("parts") or ()
    ) or any(
        normalized(affordance.get("action")) in _NO_ACTION
        for thing in objects
        for level in (thing, *(thing.get("parts") or ()))
        for affordance in level.get("affordances") or ()
    )


def score_sceneparser(
    references: Mapping[str, Sequence[Thing]],
    predictions: Mapping[str, Sequence[Thing]],
    *,
    rules: Rules | None = None,
    full: bool = False,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return L1, L2, L3, ParseRate and more, filtered and (``unfiltered/``) as they are.

    L1 is the micro F1 of objects (name and IoU >= 0.5), L2 of parts inside matched objects, L3 of
    affordance points inside matched parts; the denominators are all objects, parts and affordances.
    Two empty sides give 0, not 1.

    ``ParseRate`` asks only that a matched object *has* parts and affordances where the truth has
    them, so any part with any affordance on every object gets all of it: no reward. The object
    script's ``parse_rate_0.5`` asks for a correct part with a correct point and is the guarded one.

    Args:
        references: Item id -> true objects.
        predictions: Item id -> predicted objects; none and not there count alike.
        rules: Which script's rules, aliases and masks; the object script's when None.
        full: Also everything else that the script writes.
        bootstrap: How the intervals are drawn; a resample draws images.
    """
    rules = rules or Rules()
    formulas = {**_headline(rules.scene), **(_rest(rules.scene) if full else {})}
    ids = list(references)
    table: dict[str, list[Counts]] = {"": [], "unfiltered/": []}
    for item_id in ids:
        filtered, whole = _count(references[item_id], predictions.get(item_id), rules, full=full)
        table[""].append(filtered)
        table["unfiltered/"].append(whole)
    statistics: list[Statistic] = []
    for prefix, rows in table.items():
        needed = {column for columns, _ in formulas.values() for column in columns}
        column = {name: np.array([row.get(name, 0.0) for row in rows]) for name in needed}
        statistics += [
            Statistic(
                name=prefix + name,
                columns=tuple(column[part] for part in columns),
                compute=compute,
                count=len(ids),
            )
            for name, (columns, compute) in formulas.items()
        ]
    return Report(
        benchmark="sceneparser",
        metrics=estimate(statistics, ids, bootstrap),
        items=tuple(
            ItemScore(item_id=i, values={name: float(row.get(name, 0.0)) for name in _PER_ITEM})
            for i, row in zip(ids, table[""], strict=True)
        ),
        counts=_counts(table),
        notes=("ParseRate checks presence, not content: do not use it as a reward",),
    )


def _count(
    true: Sequence[Thing], predicted: Sequence[Thing] | None, rules: Rules, *, full: bool
) -> tuple[Counts, Counts]:
    """Return one item's columns, filtered and as it is."""
    count = count_scene_sample if rules.scene else count_object_sample
    found = predicted or ()
    whole = filtered = count(true, found, rules, full=full)
    if has_pseudo(true) or has_pseudo(found):
        filtered = count(without_pseudo(true), without_pseudo(found), rules, full=full)
    for counts in (filtered, whole):
        counts["samples"] = 1.0
        counts["json"] = float(predicted is not None)
    return filtered, whole


def _counts(table: Mapping[str, Sequence[Counts]]) -> dict[str, int]:
    """Return the sums that the official scripts write beside the shares."""
    counts: dict[str, int] = {}
    for prefix, rows in table.items():
        for level in ("L1", "L2", "L3"):
            tp, predicted, true = (
                int(sum(row.get(name, 0.0) for row in rows)) for name in _level(level)
            )
            counts |= {f"{prefix}{level}/tp": tp, f"{prefix}{level}/fp": predicted - tp}
            counts[f"{prefix}{level}/fn"] = true - tp
        eligible = sum(row.get("eligible", 0.0) for row in rows)
        counts[f"{prefix}parse_eligible_gt_objects_0.5"] = int(eligible)
    return counts


_PER_ITEM: Final = tuple(
    f"{level}/{count}" for level in ("L1", "L2", "L3") for count in ("tp", "predicted", "true")
)


def _share(top: Sums, bottom: Sums) -> Sums:
    """Return top / bottom, 0 where the bottom is 0, as the official scripts have it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom == 0, 0.0, top / np.where(bottom == 0, 1, bottom))


def _f1(precision: Sums, recall: Sums) -> Sums:
    return _share(2 * precision * recall, precision + recall)


def _micro_f1(tp: Sums, predicted: Sums, true: Sums) -> Sums:
    return _f1(_share(tp, predicted), _share(tp, true))


def _macro_f1(precision: Sums, recall: Sums, samples: Sums) -> Sums:
    return _f1(_share(precision, samples), _share(recall, samples))


def _harmonic(*values: Sums) -> Sums:
    return np.asarray(3.0 / sum(1.0 / (value + _EPS) for value in values))


def _in_threes(value: Callable[..., Sums]) -> Callable[..., Sums]:
    """Return the harmonic mean of a value of three triples of sums."""
    return lambda *sums: _harmonic(*(value(*sums[i : i + 3]) for i in (0, 3, 6)))


def _level(name: str) -> Names:
    return (f"{name}/tp", f"{name}/predicted", f"{name}/true")


def _level_formulas(name: str, *, whole: bool) -> dict[str, Formula]:
    tp, predicted, true = _level(name)
    parts: dict[str, Formula] = {
        f"{name}/precision": ((tp, predicted), _share),
        f"{name}/recall": ((tp, true), _share),
    }
    return {name: (_level(name), _micro_f1), **(parts if whole else {})}


def _macro_formulas(name: str) -> dict[str, Formula]:
    columns = (f"{name}/p", f"{name}/r", f"{name}/n")
    return {
        f"{name}/precision": ((columns[0], columns[2]), _share),
        f"{name}/recall": ((columns[1], columns[2]), _share),
        f"{name}/f1": (columns, _macro_f1),
    }


def _headline(scene: bool) -> dict[str, Formula]:
    levels: dict[str, Formula] = {}
    for name in ("L1", "L2", "L3"):
        levels |= _level_formulas(name, whole=True)
    strict = "scene_strict_parse_rate_0.5" if scene else "strict_parse_rate_0.5"
    exact = "scene_hier_em_0.5" if scene else "hier_em_e2e_0.5"
    harmonic = "f_hier_scene_e2e" if scene else "hier_f1_e2e_0.5"
    rates: dict[str, Formula] = {
        "ParseRate": (("loose", "eligible"), _share),
        strict: (("strict", "eligible"), _share),
        exact: (("exact", "eligible"), _share),
    }
    if not scene:
        rates["parse_rate_0.5"] = (("parsed", "eligible"), _share)
    triples = tuple(column for name in ("L1", "L2", "L3") for column in _level(name))
    return {**levels, **rates, harmonic: (triples, _in_threes(_micro_f1))}


def _rest(scene: bool) -> dict[str, Formula]:
    macros = ("object_0.5", "object_0.95", "part_0.5", "part_0.95", "affordance_point_in_bbox")
    formulas: dict[str, Formula] = {}
    for name in (*macros, *(("affordance_point_in_bbox_0.95",) if scene else ())):
        formulas |= _macro_formulas(name)
    triples = tuple(
        f"{name}/{what}"
        for name in ("object_0.5", "part_0.5", "affordance_point_in_bbox")
        for what in ("p", "r", "n")
    )
    formulas["f_hier"] = (triples, _in_threes(_macro_f1))
    return {**formulas, **(_rest_scene() if scene else _rest_object())}


def _rest_scene() -> dict[str, Formula]:
    formulas: dict[str, Formula] = {}
    for name in ("L1_0.95", "L2_0.95", "L3_0.95"):
        formulas |= _level_formulas(name, whole=True)
    for name in ("object", "part", "affordance"):
        formulas[f"scene_average_recall_0.5/{name}"] = ((f"recall/{name}", "samples"), _share)
    formulas["scene_exact_success_rate_0.5"] = (("scene_exact", "samples"), _share)
    return formulas


def _rest_object() -> dict[str, Formula]:
    shares: dict[str, Names] = {
        "hierarchical_exact_match": ("exact_hits", "affordance_point_in_bbox/n"),
        "json_parse_success_rate": ("json", "samples"),
        "part_field_emission_rate": ("predicted_with_parts", "true_with_parts"),
        "affordance_field_emission_rate": ("predicted_with_affs", "true_with_affs"),
        "matched_object_part_emission_rate": ("expansion/part/predicted", "expansion/part/true"),
        "matched_object_affordance_emission_rate": ("matched_predicted_affs", "matched_true_affs"),
        "part_mismatch_rate": ("part_under", "expansion/part/true"),
        "affordance_mismatch_rate": ("aff_mismatch", "matched_true_affs"),
        "parse_rate_given_matched_object_0.5": ("parsed_conditional", "L1/tp"),
        "part_overexpansion_rate": ("part_over", "part_over_base"),
        "part_underexpansion_rate": ("part_under", "expansion/part/true"),
        "aff_overexpansion_rate": ("aff_over", "aff_over_base"),
        "aff_underexpansion_rate": ("aff_under", "expansion/aff/true"),
        "part_box_acc_given_semantic_0.5": ("part_box_0.5", "part_semantic_pairs"),
        "part_box_acc_given_semantic_0.95": ("part_box_0.95", "part_semantic_pairs"),
        "aff_point_acc_given_action": ("aff_point", "aff_action_pairs"),
        "avg_gt_parts_per_matched_object": ("matched_parts/true", "L1/tp"),
        "avg_pred_parts_per_matched_object": ("matched_parts/predicted", "L1/tp"),
        "part_overprediction_ratio": ("matched_parts/predicted", "matched_parts/true"),
        "avg_gt_affs_per_matched_object": ("matched_affs/true", "L1/tp"),
        "avg_pred_affs_per_matched_object": ("matched_affs/predicted", "L1/tp"),
        "aff_overprediction_ratio": ("matched_affs/predicted", "matched_affs/true"),
    }
    formulas: dict[str, Formula] = {name: (names, _share) for name, names in shares.items()}
    for name, columns in (
        ("part_expansion", "expansion/part"),
        ("aff_expansion", "expansion/aff"),
        ("part_semantic", "semantic/part"),
        ("aff_action", "semantic/aff"),
    ):
        tp, predicted, true = _level(columns)
        joint = "/" if name.endswith("expansion") else "_"
        formulas[f"{name}{joint}precision"] = ((tp, predicted), _share)
        formulas[f"{name}{joint}recall"] = ((tp, true), _share)
        formulas[f"{name}{joint}f1"] = ((tp, predicted, true), _micro_f1)
    return formulas
