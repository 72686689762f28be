"""What stage 2 takes from stage 1 besides the weights: the predicted spans."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from scenerl.configs.schema import RunConfig
from scenerl.launch.session import read_predictions
from scenerl.preprocess.records import DataError, Sample, Span
from scenerl.rl.durable import write_json

logger = logging.getLogger(__name__)


def stage_spans(config: RunConfig) -> dict[str, Span | None] | None:
    """Return the predicted spans of the training split; None when the true ones are used."""
    if config.env.name != "image_grounding":
        return None
    if config.from_run is None:
        logger.info("no --from RUN: frames are chosen from the true spans")
        return None
    return read_predictions(config.from_run, config, config.data.train_split)


def write_span_report(
    run: Path, samples: Sequence[Sample], spans_s: Mapping[str, Span | None]
) -> None:
    """Count and list the samples that cannot be trained on for want of a span.

    Raises:
        DataError: If no sample has a predicted span.
    """
    absent = [s.sample_id for s in samples if s.sample_id not in spans_s]
    unread = [s.sample_id for s in samples if spans_s.get(s.sample_id, ()) is None]
    usable = len(samples) - len(absent) - len(unread)
    write_json(
        run / "spans.json",
        {"usable": usable, "not_predicted": absent, "reply_not_readable": unread},
    )
    logger.info(
        "%d of %d samples have a predicted span (%d not predicted, %d replies not readable)",
        usable,
        len(samples),
        len(absent),
        len(unread),
    )
    if usable == 0:
        raise DataError(
            f"none of the {len(samples)} training samples has a predicted span; stage 1 saw other "
            "samples (data.kinds, data.max_train_samples) or its replies cannot be read"
        )
