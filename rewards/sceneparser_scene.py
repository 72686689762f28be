"""What one image adds to the sums of SceneParser-Bench's scene script."""

from collections.abc import Sequence

from scenerl.rewards.sceneparser_counts import Counts, Rates, add_macro, object_rates, rates
from scenerl.rewards.sceneparser_match import (
    Pairs,
    Rules,
    Thing,
    count_points,
    count_points_in_parts,
    has_part_affordances,
    is_parsed,
    match_boxes,
    part_bbox,
    parts_of,
)


def count_scene_sample(
    true: Sequence[Thing], predicted: Sequence[Thing], rules: Rules, *, full: bool
) -> Counts:
    """Return the sums' columns of one image, by name; arguments as in `count_object_sample`."""
    counts = Counts(float)
    for threshold in (0.5, 0.95) if full else (0.5,):
        suffix = "" if threshold == 0.5 else "_0.95"
        pairs = match_boxes(true, predicted, rules.object_name, threshold)
        add_macro(counts, f"object_{threshold}", [object_rates(pairs, true, predicted)])
        part_rates: list[Rates | None] = []
        aff_rates: list[Rates | None] = []
        part_tp = aff_tp = 0
        for i, j in pairs:
            true_parts, parts = parts_of(true[i]), parts_of(predicted[j])
            part_pairs = match_boxes(true_parts, parts, rules.part_name, threshold)
            matched = count_points_in_parts(true[i], predicted[j], part_pairs, rules)
            part_tp += len(part_pairs)
            aff_tp += matched
            part_rates.append(rates(len(part_pairs), true_parts, parts))
            aff_rates.append(
                rates(matched, _of_parts(true[i], rules), _of_parts(predicted[j], rules))
            )
        add_macro(counts, f"part_{threshold}", part_rates)
        add_macro(counts, f"affordance_point_in_bbox{suffix}", aff_rates)
        for level, tp, side_counts in (
            ("L1", len(pairs), [len(true), len(predicted)]),
            ("L2", part_tp, [sum(len(parts_of(o)) for o in side) for side in (true, predicted)]),
            ("L3", aff_tp, [sum(len(_of_parts(o, rules)) for o in s) for s in (true, predicted)]),
        ):
            counts[f"{level}{suffix}/tp"] = tp
            counts[f"{level}{suffix}/true"], counts[f"{level}{suffix}/predicted"] = side_counts
        if threshold == 0.5:
            _add_parsing(counts, true, predicted, pairs, rules)
    recalls = [
        counts[f"{level}/tp"] / counts[f"{level}/true"] if counts[f"{level}/true"] else 1.0
        for level in ("L1", "L2", "L3")
    ]
    for name, recall in zip(("object", "part", "affordance"), recalls, strict=True):
        counts[f"recall/{name}"] = recall
    counts["scene_exact"] = int(recalls == [1.0, 1.0, 1.0])
    return counts


def _of_parts(thing: Thing, rules: Rules) -> list[Thing]:
    return [a for part in parts_of(thing) for a in rules.part_affordances(part)]


def _add_parsing(
    counts: Counts,
    true: Sequence[Thing],
    predicted: Sequence[Thing],
    pairs: Pairs,
    rules: Rules,
) -> None:
    """Add the objects that have something below them, and whether it is there and exact."""
    found = dict(pairs)
    for i, thing in enumerate(true):
        affordances = rules.object_affordances(thing)
        if not parts_of(thing) and not affordances:
            continue
        counts["eligible"] += 1
        if i not in found:
            continue
        other = predicted[found[i]]
        counts["loose"] += is_parsed(thing, other, rules)
        counts["strict"] += is_parsed(thing, other, rules, strict=True)
        counts["exact"] += _is_exact(thing, other, rules)


def _is_exact(true: Thing, predicted: Thing, rules: Rules) -> bool:
    """Say whether parts and affordances of a matched object are all right and none too many."""
    true_parts, parts = parts_of(true), parts_of(predicted)
    if not true_parts:
        true_affs, affs = rules.object_affordances(true), rules.object_affordances(predicted)
        matched = count_points(true_affs, affs, rules, part_bbox)
        return matched == len(true_affs) == len(affs)
    pairs = match_boxes(true_parts, parts, rules.part_name, 0.5)
    if rates(len(pairs), true_parts, parts) != (1.0, 1.0):
        return False
    if not has_part_affordances(true, rules):
        return True
    matched = count_points_in_parts(true, predicted, pairs, rules)
    return rates(matched, _of_parts(true, rules), _of_parts(predicted, rules)) == (1.0, 1.0)
