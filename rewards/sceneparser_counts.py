"""What one image adds to the sums of SceneParser-Bench's object script."""

from collections import defaultdict
from collections.abc import Callable, Sequence
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
Rates: TypeAlias = tuple[float, float]
"""(precision, recall)."""
Sides: TypeAlias = tuple[Thing, Thing]
"""(true object, predicted object)."""
Levels: TypeAlias = tuple[Sequence[Thing], Sequence[Thing]]
"""Their affordances."""


def count_object_sample(
    true: Sequence[Thing], predicted: Sequence[Thing], rules: Rules, *, full: bool
) -> Counts:
    """Return the sums' columns of one (image, category), by name.

    Args:
        true: Objects of the truth.
        predicted: Objects of the prediction.
        rules: How names and points are compared.
        full: Also the columns that only the full report needs.
    """
    counts = Counts(float)
    true_affs = [rules.object_affordances(thing) for thing in true]
    affs = [rules.object_affordances(thing) for thing in predicted]
    add_totals(counts, "true", true, true_affs)
    add_totals(counts, "predicted", predicted, affs)
    counts["eligible"] = sum(
        bool(parts_of(thing)) or bool(own) for thing, own in zip(true, true_affs, strict=True)
    )
    for threshold in (0.5, 0.95) if full else (0.5,):
        pairs = match_boxes(true, predicted, rules.object_name, threshold)
        part_rates: list[Rates | None] = []
        aff_rates: list[Rates | None] = []
        for i, j in pairs:
            sides = (true[i], predicted[j])
            true_parts, parts = parts_of(true[i]), parts_of(predicted[j])
            part_pairs = match_boxes(true_parts, parts, rules.part_name, threshold)
            part_rates.append(rates(len(part_pairs), true_parts, parts))
            if threshold == 0.5:
                levels = (true_affs[i], affs[j])
                aff_rates.append(_add_matched(counts, sides, levels, part_pairs, rules))
                if full:
                    _add_expansion(counts, sides, part_pairs, rules)
                    _add_semantics(counts, sides, levels, rules)
        if threshold == 0.5:
            counts["L1/tp"] = len(pairs)
        if not full:
            continue
        add_macro(counts, f"object_{threshold}", [object_rates(pairs, true, predicted)])
        add_macro(counts, f"part_{threshold}", part_rates)
        if threshold == 0.5:
            add_macro(counts, "affordance_point_in_bbox", aff_rates)
            perfect = [
                part == aff == (1.0, 1.0) for part, aff in zip(part_rates, aff_rates, strict=True)
            ]
            if any(aff_rates):
                counts["exact_hits"] = sum(perfect) / len(perfect)
    return counts


def add_totals(
    counts: Counts, side: str, things: Sequence[Thing], affordances: Sequence[Sequence[Thing]]
) -> None:
    """Add the denominators of a side, "true" or "predicted"."""
    counts[f"L1/{side}"] = len(things)
    counts[f"L2/{side}"] = sum(len(parts_of(thing)) for thing in things)
    counts[f"L3/{side}"] = sum(map(len, affordances))
    counts[f"{side}_with_parts"] = sum(bool(parts_of(thing)) for thing in things)
    counts[f"{side}_with_affs"] = sum(map(bool, affordances))


def object_rates(
    pairs: Pairs, true: Sequence[Thing], predicted: Sequence[Thing]
) -> tuple[float, float]:
    """Return (precision, recall) of objects; nothing to find is found, nothing said is right."""
    recall = len(pairs) / len(true) if true else 1.0
    if not predicted:
        return (1.0 if not true else 0.0), recall
    return len(pairs) / len(predicted), recall


def rates(matched: int, true: Sequence[Thing], predicted: Sequence[Thing]) -> Rates | None:
    """Return (precision, recall), None when both sides are empty."""
    if not true and not predicted:
        return None
    return (
        matched / len(predicted) if predicted else 0.0,
        matched / len(true) if true else 0.0,
    )


def add_macro(counts: Counts, name: str, found: Sequence[Rates | None]) -> None:
    """Add the mean (precision, recall) of an image to the sums of a mean over images.

    None is left out; an image that has nothing else adds nothing.
    """
    kept = [rate for rate in found if rate is not None]
    if kept:
        counts[f"{name}/p"] += sum(precision for precision, _ in kept) / len(kept)
        counts[f"{name}/r"] += sum(recall for _, recall in kept) / len(kept)
        counts[f"{name}/n"] += 1


def _add_matched(
    counts: Counts, sides: Sides, levels: Levels, pairs: Pairs, rules: Rules
) -> Rates | None:
    """Add one matched object; returns (precision, recall) of its affordances in matched parts."""
    true_parts, parts = parts_of(sides[0]), parts_of(sides[1])
    true_affs, affs = levels
    of_parts, found_of_parts = (_of_parts(side, rules) for side in sides)
    matched = count_points_in_parts(*sides, pairs, rules)
    aff_rate = rates(matched, of_parts, found_of_parts)
    loose = matched if true_parts else count_points(true_affs, affs, rules, part_bbox)
    counts["L2/tp"] += len(pairs)
    counts["L3/tp"] += loose
    part_rate = rates(len(pairs), true_parts, parts)
    if true_parts and of_parts:
        parsed = bool(pairs) and matched > 0
        exact = part_rate == aff_rate == (1.0, 1.0)
    elif true_parts:
        parsed, exact = bool(pairs), part_rate == (1.0, 1.0)
    else:
        parsed = loose > 0
        exact = bool(true_affs) and loose == len(true_affs) == len(affs)
    counts["parsed"] += parsed
    counts["exact"] += exact
    counts["parsed_conditional"] += bool(pairs) and matched > 0
    counts["loose"] += is_parsed(*sides, rules)
    counts["strict"] += is_parsed(*sides, rules, strict=True)
    return aff_rate


def _of_parts(thing: Thing, rules: Rules) -> list[Thing]:
    return [a for part in parts_of(thing) for a in rules.part_affordances(part)]


def _add_expansion(counts: Counts, sides: Sides, pairs: Pairs, rules: Rules) -> None:
    """Add whether levels are there where the truth has them, and where it has not."""
    true_parts, parts = (bool(parts_of(side)) for side in sides)
    true_affs, affs = (has_part_affordances(side, rules) for side in sides)
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
        true_has = bool(rules.part_affordances(parts_of(sides[0])[i]))
        has = bool(rules.part_affordances(parts_of(sides[1])[j]))
        counts["expansion/aff/true"] += true_has
        counts["expansion/aff/predicted"] += has
        counts["expansion/aff/tp"] += true_has and has
        counts["aff_over_base"] += not true_has
        counts["aff_over"] += has and not true_has
        counts["aff_under"] += true_has and not has


def _add_semantics(counts: Counts, sides: Sides, levels: Levels, rules: Rules) -> None:
    """Add how names and actions agree, and how boxes and points fit where they do."""
    true_parts, parts = (parts_of(side) for side in sides)
    true_affs, affs = levels
    for side, some_parts, some_affs in (
        ("true", true_parts, true_affs),
        ("predicted", parts, affs),
    ):
        counts[f"matched_parts/{side}"] += len(some_parts)
        counts[f"matched_affs/{side}"] += len(some_affs)
    _add_common(counts, "semantic/part", sides_of(true_parts, parts, "part_name", rules.part_name))
    _add_common(counts, "semantic/aff", sides_of(true_affs, affs, "action", rules.action))

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
        match = next(free, None) if action else None
        if match is not None:
            used.add(match)
            counts["aff_point"] += rules.is_inside(affs[match], affordance, None)
    counts["aff_action_pairs"] += len(used)


def sides_of(
    true: Sequence[Thing], predicted: Sequence[Thing], key: str, name: Callable[[Thing], str]
) -> tuple[list[str], list[str]]:
    """Return the labels of both sides, of things that have one."""
    labels = [[name(thing) for thing in side if thing.get(key)] for side in (true, predicted)]
    return labels[0], labels[1]


def _add_common(counts: Counts, name: str, labels: tuple[list[str], list[str]]) -> None:
    counts[f"{name}/tp"] += common(*labels)
    counts[f"{name}/true"] += len(labels[0])
    counts[f"{name}/predicted"] += len(labels[1])
