"""Where and when instance images show an object."""

from collections.abc import Sequence

import numpy as np

from scenerl.preprocess.records import Box2D, Span


def mask_box(mask: np.ndarray) -> Box2D | None:
    """Return the tight box of a mask in pixels, None for an empty one.

    Args:
        mask: bool [H, W].
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def instance_boxes(instance: np.ndarray, *, min_pixels: int = 1) -> dict[int, tuple[Box2D, int]]:
    """Return object id -> (tight box, number of pixels) of one instance image.

    Args:
        instance: Unsigned ids [H, W]; 0 is none.
        min_pixels: Objects with fewer pixels are left out.
    """
    found = {}
    if instance.dtype.itemsize <= 2:  # counting is far quicker than the sort in np.unique
        table = np.bincount(instance.reshape(-1))
        ids = np.flatnonzero(table)
        counts = table[ids]
    else:
        ids, counts = np.unique(instance, return_counts=True)
    for object_id, count in zip(ids.tolist(), counts.tolist(), strict=True):
        if object_id == 0 or count < min_pixels:
            continue
        box = mask_box(instance == object_id)
        if box is not None:
            found[object_id] = (box, count)
    return found


def visible_spans(
    visible: Sequence[bool], times_s: Sequence[float], *, merge_gap_s: float = 1.0
) -> tuple[Span, ...]:
    """Turn visible frames into time spans.

    A frame stands for the time from itself to the next one, so a span runs from the first visible
    frame to the one after the last; the last frame of a video lasts as long as the one before it.
    Spans apart by less than `merge_gap_s` become one.

    Args:
        visible: Whether each frame shows the object.
        times_s: Time of each frame, increasing.
        merge_gap_s: Shortest gap that separates two spans, seconds.

    Returns:
        Disjoint spans in order.
    """
    times = list(times_s)
    step = times[-1] - times[-2] if len(times) > 1 else 1.0
    edges = [*times, times[-1] + step]
    spans: list[Span] = []
    for number, shown in enumerate(visible):
        if not shown:
            continue
        start, end = edges[number], edges[number + 1]
        if spans and start - spans[-1][1] < merge_gap_s:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return tuple((round(start, 3), round(end, 3)) for start, end in spans)
