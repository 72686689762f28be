"""Trackers: where the numbers of a run go besides metrics.jsonl. None is on by default."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from scenerl.configs.schema import ConfigError


class Tracker(Protocol):
    """Receives the numbers of each step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one step."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...


class TensorBoardTracker:
    """Writes event files into the run directory."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        """Open `folder`/tensorboard; events after `resume_step` are hidden by TensorBoard."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"log.trackers asks for tensorboard, which cannot be imported ({error}); "
                "`pip install tensorboard`, or take it out of log.trackers"
            ) from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one scalar per number."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class WandbTracker:
    """Sends the numbers to Weights & Biases; WANDB_MODE=offline keeps them in the run directory."""

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        """Start a run, or continue the one that this run directory started before."""
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                f"log.trackers asks for wandb, which cannot be imported ({error}); "
                "`pip install wandb`, or take it out of log.trackers"
            ) from error
        file = folder / "wandb.json"
        run_id = json.loads(file.read_text())["id"] if file.is_file() else wandb.util.generate_id()
        file.write_text(json.dumps({"id": run_id}))
        self._run: Any = wandb.init(
            project=project,
            name=folder.name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send one step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the upload."""
        self._run.finish()


def make_trackers(
    names: Sequence[str],
    folder: Path,
    *,
    project: str,
    config: Mapping[str, Any],
    resume_step: int = 0,
) -> list[Tracker]:
    """Build the trackers that `log.trackers` names.

    Raises:
        ConfigError: If one of them is not installed.
    """
    trackers: list[Tracker] = []
    for name in names:
        if name == "tensorboard":
            trackers.append(TensorBoardTracker(folder, resume_step))
        elif name == "wandb":
            trackers.append(WandbTracker(folder, project, config))
        else:
            raise ConfigError(f"log.trackers: found {name!r}, expected tensorboard or wandb")
    return trackers
