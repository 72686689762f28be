"""`launch ground`: answer queries with a span, boxes, masks and a 3D box."""

import argparse
import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scenerl.configs.load import load_config
from scenerl.configs.schema import ConfigError, RunConfig
from scenerl.launch.exit_codes import DONE, exit_code
from scenerl.launch.logs import set_up_logging
from scenerl.launch.plan import make_plan
from scenerl.preprocess.records import DataError, Media, Sample, Target

if TYPE_CHECKING:
    from scenerl.launch.grounding import GroundResult, Policy

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Run the whole chain: stage 1 says when the thing asked about can be seen, stage 2 draws boxes in
frames of that span, the tracker makes masks over the frames around it, and the masks are lifted
through depth and poses to a 3D box in metres. Writes answers.jsonl, summary.json and, per answer, a
coloured cloud (PLY), the box (JSON) and a picture. On a split with known answers it also swaps each
stage for the truth and says which one loses the rest."""
EPILOG = """\
examples:
  launch ground --config stage2_tiny --scene recordings/office --query "the red chair"
  launch ground --config stage2_tiny --scene recordings/office --query "the sofa" \\
      tracker.name=reproject
  launch ground --config stage2_tiny --split test --limit 100 ground.stage1=runs/stage1_tiny \\
      ground.stage2=runs/stage2_tiny --output runs/ground
  launch ground --config stage2_1gpu --split test ground.prompted_frames=5 \\
      tracker.checkpoint=sam2.1_hiera_large.pt tracker.config=configs/sam2.1/sam2.1_hiera_l.yaml
"""


def main(argv: list[str], command: str) -> int:
    """Ground queries and write what was found."""
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="YAML file, or the name of a recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--scene", type=Path, help="a recording of yours (docs/data.md)")
    what.add_argument("--split", help="samples of data.path with known answers")
    parser.add_argument("--query", action="append", default=[], help="with --scene; repeatable")
    parser.add_argument("--limit", type=int, help="samples of the split")
    parser.add_argument("--output", type=Path, help="folder; default: output_dir/NAME-ground")
    parser.add_argument("--pictures", type=int, default=24, help="overview pictures (default 24)")
    parser.add_argument("--device", default="cpu", help="torch device of tracker (default cpu)")
    parser.add_argument("--no-oracles", action="store_true", help="skip the swaps for the truth")
    parser.add_argument("--no-ray", action="store_true", help="everything in this process")
    arguments = parser.parse_intermixed_args(argv)
    set_up_logging()
    try:
        config = load_config(arguments.config, arguments.overrides)
        return ground(config, arguments)
    except Exception as error:
        code = exit_code(error)
        logger.error("%s: %s", type(error).__name__, error, exc_info=code == 70)
        return code


def ground(config: RunConfig, arguments: argparse.Namespace) -> int:
    """Ask both stages, lift, write and print."""
    from scenerl.envs.tracking import make_tracker
    from scenerl.launch.ground_output import write_results
    from scenerl.launch.grounding import ChainSettings, ask_boxes, ask_spans, lift_answers

    samples, root, skipped = query_samples(config, arguments)
    settings = ChainSettings(
        ground=config.ground, lift=config.lift, oracles=not arguments.no_oracles
    )
    tracker = make_tracker(config.tracker, device=arguments.device)
    with open_policy(config, 1, use_ray=not arguments.no_ray) as stage1:
        spans = ask_spans(samples, root, stage1)
    with open_policy(config, 2, use_ray=not arguments.no_ray) as stage2:
        boxes = ask_boxes(samples, root, spans, stage2, oracles=settings.oracles)
    results = lift_answers(samples, root, spans, boxes, tracker, settings)
    out = arguments.output or Path(config.output_dir) / f"{config.name}-ground"
    summary = write_results(out, results, skipped, pictures=arguments.pictures)
    print(describe(results, summary))
    print(f"answers: {out}")
    return DONE


def query_samples(
    config: RunConfig, arguments: argparse.Namespace
) -> tuple[list[Sample], Path, Counter[str]]:
    """Make samples of the user's queries, or read a split.

    Returns:
        Samples, the folder their media are relative to, and reason -> samples left out.
    """
    if arguments.scene is not None:
        return _user_samples(arguments.scene, arguments.query), Path("/"), Counter()
    if arguments.query:
        raise ConfigError("--query belongs to --scene; a split has its own queries")
    from scenerl.launch.session import read_split

    limit = config.data.max_eval_samples if arguments.limit is None else arguments.limit
    samples, skipped = [], Counter[str]()
    for sample in read_split(config, arguments.split, limit):
        reason = _skip_reason(sample)
        if reason is None:
            samples.append(sample)
        else:
            skipped[reason] += 1
    if not samples:
        raise DataError(f"{config.data.path}: nothing to ground in {arguments.split}: {skipped}")
    return samples, Path(config.data.path), skipped


def _user_samples(scene: Path, queries: Sequence[str]) -> list[Sample]:
    if not queries:
        raise ConfigError('--scene needs a --query, for example --query "the red chair"')
    if not scene.is_dir():
        raise DataError(f"{scene} is not a folder; expected an RGB-D recording (docs/data.md)")
    folder = scene.resolve()
    return [
        Sample(
            sample_id=f"{folder.name}-{number}",
            dataset="recording",
            split="user",
            question=query,
            media=Media(kind="video", scene=str(folder)),
            target=Target(),
            scene_id=folder.name,
        )
        for number, query in enumerate(queries)
    ]


def _skip_reason(sample: Sample) -> str | None:
    if sample.media.scene is None:
        return "no depth"
    if not sample.target.spans_s or not sample.target.boxes_px:
        return "not a grounding query"
    return None if sample.target.box_world is not None else "no true 3D box"


@contextmanager
def open_policy(config: RunConfig, stage: Literal[1, 2], *, use_ray: bool) -> "Iterator[Policy]":
    """Start the policy of a stage; it stops when the block ends.

    Its task settings come from its run directory; for a plain model they are section `env`.
    """
    from scenerl.envs.family import model_family
    from scenerl.envs.tasks import make_env
    from scenerl.launch.grounding import Policy
    from scenerl.launch.session import open_fleet, policy_folder

    mine = stage_config(config, stage)
    family = model_family(policy_folder(mine.model.path))
    fleet = open_fleet(mine, make_plan(mine), use_ray=use_ray, with_learner=False)
    try:
        yield Policy(fleet=fleet, env=make_env(mine.env, family))
    finally:
        fleet.close()


def stage_config(config: RunConfig, stage: Literal[1, 2]) -> RunConfig:
    """Return the settings under which the policy of a stage answers."""
    path = config.ground.stage1 if stage == 1 else config.ground.stage2
    env, rollout = config.env, config.rollout
    if path is not None and (Path(path) / "config.yaml").is_file():
        trained = load_config(str(Path(path) / "config.yaml"), [])
        limits = ("max_prompt_length", "max_completion_length")
        env = trained.env
        rollout = dataclasses.replace(
            rollout, **{name: getattr(trained.rollout, name) for name in limits}
        )
    name: Any = "temporal_grounding" if stage == 1 else "image_grounding"
    changes: dict[str, Any] = {"name": name}
    if stage == 2:
        changes["frames_per_span"] = config.ground.prompted_frames
    model = config.model if path is None else dataclasses.replace(config.model, path=path)
    return dataclasses.replace(
        config, env=dataclasses.replace(env, **changes), rollout=rollout, model=model
    )


def describe(results: "Sequence[GroundResult]", summary: dict[str, Any]) -> str:
    """Write the answers, or for many of them the table, as text."""
    lines = []
    for result in results if len(results) <= 8 else ():
        span, box = result.span.span_s, result.box_world
        when = "no span" if span is None else f"{span[0]:.1f} to {span[1]:.1f} s"
        where = "no box"
        if box is not None:
            where = "box " + " ".join(f"{value:.2f}" for value in box) + " m"
        lines.append(f"{result.sample.question}: {when}, {where}")
        lines += [f"  {error}" for error in result.errors]
    if summary["oracle"]:
        lines.append(f"{'':<14} {'3D IoU':>7} {'Acc@.25':>8} {'Acc@.5':>7} {'queries':>8}")
        lines += [
            f"{swap:<14} {row['iou3d']:>7.3f} {row['acc25']:>8.3f} {row['acc50']:>7.3f} "
            f"{row['queries']:>8.0f}"
            for swap, row in summary["oracle"].items()
        ]
        lost = ", ".join(f"{name} {count}" for name, count in summary["lost_in"].items())
        lines.append(f"lost in: {lost}" if lost else "")
    return "\n".join(lines)
