"""Nr3D and Sr3D as `launch score nr3d` and `launch score sr3d` run them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import (
    Benchmark,
    Bootstrap,
    Option,
    Options,
    Predictions,
    References,
    Report,
)
from scenerl.rewards.box_files import (
    BOXES_HELP,
    PREDICTIONS_HELP,
    box_of,
    is_result_file,
    open_boxes,
    read_box_predictions,
    result_boxes,
    result_lines,
)
from scenerl.rewards.grounding_records import ReferTarget
from scenerl.rewards.predictions import read_own_predictions
from scenerl.rewards.reference_rows import whole

if TYPE_CHECKING:
    from scenerl.preprocess.rows_referit3d import Nr3DRow, Sr3DRow

FILTERS = ("none", "mentions-target-class", "correct-guess", "both")


def read_references(name: str) -> Callable[[Path, Options], References]:
    """Return the reader of references of "nr3d" or "sr3d"."""

    def read(path: Path, options: Options) -> References:
        if is_result_file(path):
            note = "easy, hard and view are not in a result file: everything counts as hard"
            return References(by_id=dict(_truths_of_results(path)), notes=(note,))
        if path.suffix == ".jsonl":
            return References(by_id=dict(read_own_predictions(path, _own_truth)))
        from scenerl.preprocess.rows_referit3d import read_nr3d, read_sr3d

        rows = whole(read_nr3d(path), path) if name == "nr3d" else whole(read_sr3d(path), path)
        boxes = open_boxes(options["boxes"])
        scenes = _scenes(options["scenes"])
        by_id: dict[str, ReferTarget] = {}
        left_out: dict[str, int] = {}
        for where, row in rows:
            reason = _left_out(row, options["filter"], scenes)
            if reason is not None:
                left_out[reason] = left_out.get(reason, 0) + 1
                continue
            box = None
            if options["boxes"] is not None:
                box = boxes.find(row.scan_id, str(row.target_id), where)
            by_id[row.item_id] = _target(row, box)
        counts = {f"left out, {reason}": count for reason, count in sorted(left_out.items())}
        return References(by_id=by_id, counts=counts)

    return read


def _left_out(row: "Nr3DRow | Sr3DRow", rule: str, scenes: frozenset[str] | None) -> str | None:
    """Return why a row is not scored, None when it is."""
    if scenes is not None and row.scan_id not in scenes:
        return "scene not in --scenes"
    if rule in ("mentions-target-class", "both") and not row.mentions_target_class:
        return "does not mention the target's class"
    if rule in ("correct-guess", "both") and not getattr(row, "correct_guess", True):
        return "not understood by a person"
    return None


def _scenes(location: str | None) -> frozenset[str] | None:
    if location is None:
        return None
    lines = Path(location).read_text(encoding="utf-8").split()
    if not lines:
        raise DataError(f"{location} is empty; expected one scene id a line")
    return frozenset(lines)


def _target(row: "Nr3DRow | Sr3DRow", box: Any) -> ReferTarget:
    from scenerl.rewards.score_referit3d import is_view_dependent

    return ReferTarget(
        scene_id=row.scan_id,
        object_id=str(row.target_id),
        easy=row.stimulus.num_objects <= 2,
        view_dependent=is_view_dependent(row.tokens),
        box=box,
    )


def _own_truth(row: dict[str, Any], where: str) -> ReferTarget:
    if "object_id" not in row and "box" not in row:
        raise DataError(f'{where}: found neither "object_id" nor "box"')
    return ReferTarget(
        scene_id=str(row.get("scene_id", "")),
        object_id=str(row.get("object_id", "")),
        easy=bool(row.get("easy", False)),
        view_dependent=bool(row.get("view_dependent", False)),
        box=box_of(row["box"], where) if "box" in row else None,
    )


def _truths_of_results(path: Path) -> Iterator[tuple[str, ReferTarget]]:
    for where, sample_id, row in result_lines(path):
        boxes = result_boxes(row["gt_response"], where)
        yield (
            sample_id,
            ReferTarget(scene_id="", object_id="", easy=False, view_dependent=False, box=boxes[0]),
        )


def read_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> BoxAnswer; M3DRef-CLIP's rows are named by their count per target."""
    by_count: dict[tuple[str, str, int], str] = {}
    seen: dict[tuple[str, str], int] = {}
    for item_id, target in references.items():
        key = (target.scene_id, target.object_id)
        by_count[*key, seen.get(key, 0)] = item_id
        seen[key] = seen.get(key, 0) + 1

    def item_of(scene: str, object_id: str | None, ann_id: Any) -> str:
        named = f"{scene}|{object_id}|{ann_id}"
        try:
            return by_count.get((scene, str(object_id), int(ann_id)), named)
        except (TypeError, ValueError):
            return named

    return read_box_predictions(path, item_of)


def score(
    name: str,
) -> Callable[[Mapping[str, Any], Mapping[str, Any], Options, Bootstrap], Report]:
    """Return the scorer of "nr3d" or "sr3d"."""

    def run(
        references: Mapping[str, Any],
        predictions: Mapping[str, Any],
        options: Options,
        bootstrap: Bootstrap,
    ) -> Report:
        from scenerl.rewards.score_referit3d import score_referit3d

        if any(answer.boxes for answer in predictions.values()) and any(
            target.box is None for target in references.values()
        ):
            raise DataError("boxes are predicted, but the true boxes are not known; give --boxes")
        return score_referit3d(
            references,
            predictions,
            benchmark=name,
            oracle=options["oracle"],
            bootstrap=bootstrap,
        )

    return run


def make(name: str, title: str, item: str) -> Benchmark:
    """Return the benchmark of one of the two sets."""
    return Benchmark(
        name=name,
        title=title,
        source="referit3d/referit3d referit3d/analysis/deepnet_predictions.py; "
        "3dlg-hcvc/M3DRef-CLIP m3drefclip/evaluation/referit3d_evaluator.py",
        references_help=f"{name}.csv (with --boxes where boxes are predicted); or lines "
        '{"id", "object_id", "easy", "view_dependent", "box"}; or a GS-Reasoner result file',
        predictions_help=f'lines {{"id", "object_id"}} for a choice; {PREDICTIONS_HELP}; id is '
        f"{item}; M3DRef-CLIP's ann_id counts the rows of one target in the file",
        examples=(
            f"launch score {name} --predictions mine.jsonl --references {name}.csv "
            "--scenes scannetv2_val.txt --filter mentions-target-class",
            f"launch score {name} --predictions pred/ --references {name}.csv "
            "--scenes scannetv2_val.txt --boxes data/scannet",
        ),
        read_references=read_references(name),
        read_predictions=read_predictions,
        score=score(name),
        options=(
            Option(flag="--boxes", help=BOXES_HELP),
            Option(
                flag="--scenes",
                help="file of scene ids; the test set is ScanNet's validation scans",
            ),
            Option(
                flag="--filter",
                help="which utterances count: ReferIt3D's results are over those that mention the "
                "target's class; many add that the listener guessed right",
                default="none",
                choices=FILTERS,
            ),
            Option(
                flag="--oracle",
                help="also report the best of several boxes, chosen by looking at the truth",
                is_switch=True,
            ),
        ),
    )


BENCHMARKS = {
    "nr3d": make("nr3d", "one of several alike objects, as people say it", "the assignmentid"),
    "sr3d": make(
        "sr3d", "one of several alike objects, by template", "the row of the file, from 0"
    ),
}
