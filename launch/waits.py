"""Waiting for actors: every wait has a deadline, and what it waited for is in the error."""

import re
from typing import Any

_COLLECTIVE = re.compile(
    r"gloo[/:]|\bNCCL\b|ncclRemoteError|DistBackendError|DistNetworkError|DistStoreError|"
    r"Connection (reset|closed) by peer|Timed out waiting \d+ ?ms"
)
"""How torch says that another rank is gone or did not come."""

PLACE_PATIENCE_S = 20.0
"""After this long a wait for a place is said aloud; Ray needs 15 s to notice a dead node."""


class ResourceError(RuntimeError):
    """The machines do not have what the plan needs."""


class PlacementError(ResourceError):
    """The cluster did not have, or free, what the actors of a run need before the deadline."""


class ActorLostError(RuntimeError):
    """An actor died or did not answer in time; the run continues from its last commit."""


class PlaceLostError(ActorLostError):
    """The node of an actor is gone and none took its place before the deadline: the run ends."""


class ObjectsLostError(ActorLostError):
    """What an actor was to work on died with another process; asking again does not help."""


def wait_for(reference: Any, what: str, timeout_s: float) -> Any:
    """Return what an actor answers.

    Args:
        reference: Of the answer.
        what: Whom and what is waited for, for the error.
        timeout_s: Longest wait.

    Raises:
        ActorLostError: If it dies or the deadline passes; an error raised inside the actor comes
            as itself.
        ResourceError: If the shared memory for objects, or the disk behind it, is full.
    """
    import ray

    try:
        return ray.get(reference, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError as error:
        raise ActorLostError(
            f"{what}: no answer within {timeout_s:.0f} s; raise cluster.step_timeout_s or "
            "cluster.start_timeout_s if it is only slow, and look at the logs in "
            f"{_log_folder()}"
        ) from error
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        raise ResourceError(
            f"{what}: Ray's object store is full, and so is the disk that it falls back to "
            f"({_short(error)}); raise cluster.object_store_gib, free the disk of Ray's temporary "
            "folder, or lower train.prompts_per_step"
        ) from error
    except ray.exceptions.ObjectLostError as error:
        raise ObjectsLostError(f"{what}: its data are gone ({_short(error)})") from error
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
        raise ActorLostError(f"{what}: the process died ({_short(error)})") from error
    except _node_errors() as error:
        raise ActorLostError(f"{what}: its node is gone ({_short(error)})") from error
    except Exception as error:
        if not _COLLECTIVE.search(f"{type(error).__name__}: {error}"):
            raise
        raise ActorLostError(
            f"{what}: a collective failed, because another rank died or did not come in time "
            f"({_short(error)})"
        ) from error


def _node_errors() -> tuple[type[Exception], ...]:
    """What Ray raises when a node, or its place on one, is not there any more."""
    from ray import exceptions

    return (
        exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError,
        exceptions.WorkerCrashedError,
        exceptions.TaskUnschedulableError,
        exceptions.ActorUnschedulableError,
        exceptions.TaskPlacementGroupRemoved,
        exceptions.ActorPlacementGroupRemoved,
    )


def _short(error: BaseException) -> str:
    """The error, or what was raised inside the actor, without Ray's frame around it."""
    return " ".join(str(getattr(error, "cause", None) or error).split())[:600]


def _log_folder() -> str:
    import ray

    node = ray._private.worker.global_worker.node
    return str(node.get_logs_dir_path()) if node is not None else "Ray's session folder"
