"""How a command ends: the exit code of every kind of error, in one place."""

import errno
import logging
import signal
from types import FrameType

from scenerl.configs.schema import ConfigError

logger = logging.getLogger(__name__)

DONE, BAD_CONFIG, BAD_DATA, NO_RESOURCES, BUG, STOPPED, REFUSED = 0, 64, 65, 69, 70, 75, 77

_CODES: dict[str, int] = {
    "ConfigError": BAD_CONFIG,
    "RewardError": BAD_CONFIG,
    "DataError": BAD_DATA,
    "LostCommitsError": BAD_DATA,
    "ResourceError": NO_RESOURCES,
    "DiskError": NO_RESOURCES,
    "ActorLostError": STOPPED,
    "EndpointError": STOPPED,
    "Interrupted": STOPPED,
    "CheckpointError": STOPPED,
    "RunBusyError": REFUSED,
}
"""By class name, so that nothing heavy is imported to end a command."""


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error: 70 unless it is of a known kind."""
    if isinstance(error, ConfigError):
        return BAD_CONFIG
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return STOPPED
    for kind in type(error).__mro__:
        if kind.__name__ in _CODES:
            return _CODES[kind.__name__]
    return BUG


class StopSignal:
    """Turns SIGTERM and the first SIGINT into a wish to stop after the step."""

    def __init__(self) -> None:
        """Install the handlers."""
        self.reason: str | None = None
        self.install()

    def install(self) -> None:
        """Install the handlers, again after Ray has installed its own."""
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason is not None:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        logger.warning("%s: stops after this step and commits", self.reason)
