"""What one image adds to the sums of SceneParser-Bench's object script."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from scenerl.rewards.sceneparser_match import (
    Pairs,
    Rules,
    Thing,
    box_iou_px,
    common,
    count_points,
    count_points_in_parts,
    has_part_affordances,
    is_parsed,
    match_boxes,
    part_bbox,
    parts_of,
)

Counts: TypeAlias = defaultdict[str, float]


def count_object_sample(
    true: Sequence[Thing], predicted: Sequence[Thing], rules: Rules, is_answered: bool
) -> Counts:
    """Return the sums' columns of one (image, category), by name.

    Args:
        true: Objects of the truth.
        predicted: Objects of the prediction.
        rules: How names and points are compared.
        is_answered: False where there is no prediction at all.
    """
    counts = Counts(float, samples=1.0, json=float(is_answered))
    add_totals(counts, true, predicted, rules)
    for threshold in (0.5, 0.95):
        pairs = match_boxes(true, predicted, rules.object_name, threshold)
        add_macro(counts, f"object_{threshold}", [object_rates(pairs, true, predicted)])
        part_rates, aff_rates, exact = [], [], []
        for i, j in pairs:
            part_pairs = match_boxes(
                parts_of(true[i]), parts_of(predicted[j]), rules.part_name, threshold
            )
            part_rate = rates(len(part_pairs), parts_of(true[i]), parts_of(predicted[j]))
            part_rates += [part_rate] if part_rate else []
            if threshold == 0.5:
                aff_rate = _add_matched(counts, true[i], predicted[j], part_pairs, rules)
                aff_rates += [aff_rate] if aff_rate else []
                exact.append(part_rate == (1.0, 1.0) and aff_rate == (1.0, 1.0))
        add_macro(counts, f"part_{threshold}", _mean_of(part_rates))
        if threshold == 0.5:
            counts["L1/tp"] = len(pairs)
            add_macro(counts, "affordance_point_in_bbox", _mean_of(aff_rates))
            counts["exact_hits"] = sum(exact) / len(exact) if aff_rates else 0
    return counts


def add_totals(
    counts: Counts, true: Sequence[Thing], predicted: Sequence[Thing], rules: Rules
) -> None:
    """Add the denominators."""
    for side, things in (("true", true), ("predicted", predicted)):
        affordances = [rules.object_affordances(thing) for thing in things]
        counts[f"L1/{side}"] = len(things)
        counts[f"L2/{side}"] = sum(len(parts_of(thing)) for thing in things)
        counts[f"L3/{side}"] = sum(map(len, affordances))
        counts[f"{side}_with_parts"] = sum(bool(parts_of(thing)) for thing in things)
        counts[f"{side}_with_affs"] = sum(map(bool, affordances))
        if side == "true":
            counts["eligible"] = sum(
                bool(parts_of(thing)) or bool(own)
                for thing, own in zip(things, affordances, strict=True)
            )


def object_rates(
    pairs: Pairs, true: Sequence[Thing], predicted: Sequence[Thing]
) -> tuple[float, float]:
    """Return (precision, recall) of objects; nothing to find is found, nothing said is right."""
    recall = len(pairs) / len(true) if true else 1.0
    if not predicted:
        return (1.0 if not true else 0.0), recall
    return len(pairs) / len(predicted), recall


def rates(
    matched: int, true: Sequence[Thing], predicted: Sequence[Thing]
) -> tuple[float, float] | None:
    """Return (precision, recall), None when both sides are empty."""
    if not true and not predicted:
        return None
    return (
        matched / len(predicted) if predicted else 0.0,
        matched / len(true) if true else 0.0,
    )


def _mean_of(found: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the mean rates of an image's matched objects, none when there are none."""
    if not found:
        return []
    return [(sum(p for p, _ in found) / len(found), sum(r for _, r in found) / len(found))]


def add_macro(counts: Counts, name: str, found: Sequence[tuple[float, float]]) -> None:
    """Add (precision, recall) pairs to the sums of a macro mean."""
    for precision, recall in found:
        counts[f"{name}/p"] += precision
        counts[f"{name}/r"] += recall
        counts[f"{name}/n"] += 1


def _add_matched(
    counts: Counts, true: Thing, predicted: Thing, pairs: Pairs, rules: Rules
) -> tuple[float, float] | None:
    """Add one matched object; returns (precision, recall) of its affordances in matched parts."""
    true_parts, parts = parts_of(true), parts_of(predicted)
    true_affs, affs = rules.object_affordances(true), rules.object_affordances(predicted)
    of_parts = [a for part in true_parts for a in rules.part_affordances(part)]
    found_of_parts = [a for part in parts for a in rules.part_affordances(part)]
    matched = count_points_in_parts(true, predicted, pairs, rules)
    aff_rate = rates(matched, of_parts, found_of_parts)
    loose = matched if true_parts else count_points(true_affs, affs, rules, part_bbox)
    counts["L2/tp"] += len(pairs)
    counts["L3/tp"] += loose
    part_rate = rates(len(pairs), true_parts, parts)
    if true_parts and of_parts:
        parsed = bool(pairs) and matched > 0
        exact = part_rate == (1.0, 1.0) and aff_rate == (1.0, 1.0)
    elif true_parts:
        parsed, exact = bool(pairs), part_rate == (1.0, 1.0)
    else:
        parsed = loose > 0
        exact = bool(true_affs) and loose == len(true_affs) == len(affs)
    counts["parsed"] += parsed
    counts["exact"] += exact
    counts["parsed_conditional"] += bool(pairs) and matched > 0
    counts["loose"] += is_parsed(true, predicted, rules)
    counts["strict"] += is_parsed(true, predicted, rules, strict=True)
    for side, some_parts, some_affs in (
        ("true", true_parts, true_affs),
        ("predicted", parts, affs),
    ):
        counts[f"matched_parts/{side}"] += len(some_parts)
        counts[f"matched_affs/{side}"] += len(some_affs)
    _add_expansion(counts, true, predicted, pairs, rules)
    _add_semantics(counts, true, predicted, rules)
    return aff_rate


def _add_expansion(
    counts: Counts, true: Thing, predicted: Thing, pairs: Pairs, rules: Rules
) -> None:
    """Add whether levels are there where the truth has them, and where it has not."""
    true_parts, parts = bool(parts_of(true)), bool(parts_of(predicted))
    true_affs, affs = has_part_affordances(true, rules), has_part_affordances(predicted, rules)
    counts["expansion/part/true"] += true_parts
    counts["expansion/part/predicted"] += parts
    counts["expansion/part/tp"] += true_parts and parts
    counts["part_over_base"] += not true_parts
    counts["part_over"] += parts and not true_parts
    counts["part_under"] += true_parts and not parts
    counts["matched_true_affs"] += true_affs
    counts["matched_predicted_affs"] += affs
    counts["aff_mismatch"] += true_affs and not affs
    for i, j in pairs:
        true_has = bool(rules.part_affordances(parts_of(true)[i]))
        has = bool(rules.part_affordances(parts_of(predicted)[j]))
        counts["expansion/aff/true"] += true_has
        counts["expansion/aff/predicted"] += has
        counts["expansion/aff/tp"] += true_has and has
        counts["aff_over_base"] += not true_has
        counts["aff_over"] += has and not true_has
        counts["aff_under"] += true_has and not has


def _add_semantics(counts: Counts, true: Thing, predicted: Thing, rules: Rules) -> None:
    """Add how names and actions agree, and how boxes and points fit where they do."""
    true_parts, parts = parts_of(true), parts_of(predicted)
    names = [
        [rules.part_name(p) for p in side if p.get("part_name")] for side in (true_parts, parts)
    ]
    _add_common(counts, "semantic/part", *names)
    true_affs, affs = rules.object_affordances(true), rules.object_affordances(predicted)
    actions = [[rules.action(a) for a in side if a.get("action")] for side in (true_affs, affs)]
    _add_common(counts, "semantic/aff", *actions)

    named = [part for part in true_parts if rules.part_name(part)]
    pairs = match_boxes(named, parts, rules.part_name, -1.0, floor=-1.0)
    ious = [box_iou_px(named[i].get("bbox"), parts[j].get("bbox")) for i, j in pairs]
    counts["part_semantic_pairs"] += len(pairs)
    counts["part_box_0.5"] += sum(iou >= 0.5 for iou in ious)
    counts["part_box_0.95"] += sum(iou >= 0.95 for iou in ious)

    used: set[int] = set()
    for affordance in true_affs:
        action = rules.action(affordance)
        free = (j for j, a in enumerate(affs) if j not in used and rules.action(a) == action)
        j = next(free, None) if action else None
        if j is not None:
            used.add(j)
            counts["aff_point"] += rules.is_inside(affs[j], affordance, None)
    counts["aff_action_pairs"] += len(used)


def _add_common(counts: Counts, name: str, true: Sequence[str], predicted: Sequence[str]) -> None:
    counts[f"{name}/tp"] += common(true, predicted)
    counts[f"{name}/true"] += len(true)
    counts[f"{name}/predicted"] += len(predicted)
