"""Put the actors of a plan where the plan says: one placement group, every wait with a deadline.

Colocated on GPUs, an engine and a learner share one device, half each. An engine over several
GPUs shares those of as many learners. On a CPU every actor has a bundle of its own.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.util.placement_group import placement_group, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from scenerl.configs.schema import RunConfig
from scenerl.launch.actors import (
    ActorConfig,
    EncoderActor,
    EngineActor,
    LearnerActor,
    Rank,
    free_address,
)
from scenerl.launch.plan import Plan
from scenerl.launch.waits import PLACE_PATIENCE_S, PlacementError, ResourceError, wait_for

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """Where one actor goes."""

    bundle: int
    cpus: float
    gpus: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Bundles to reserve, and the slot of every actor."""

    bundles: tuple[dict[str, float], ...]
    learners: tuple[Slot, ...]
    engines: tuple[Slot, ...]
    encoders: tuple[Slot, ...] = ()
    engine_learners: tuple[tuple[int, ...], ...] = ()
    """Learners whose GPUs each engine uses, when it has several and shares them."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Started actors, not yet loaded, and where the engines go."""

    group: Any
    learners: list[Any]
    encoders: list[Any]
    num_engines: int
    start_engine: Callable[[int], Any]
    """Starts the engine of a place, for the first time or again."""
    missing: Callable[[float], str | None]
    """Waits so many seconds until nodes hold all bundles; the arithmetic, when they do not."""


def layout(config: RunConfig, plan: Plan, *, with_learner: bool) -> Layout:
    """Turn a plan into bundles and slots.

    Raises:
        ResourceError: If engines over several GPUs are to share more of them than learners have.
    """
    learners = plan.role("learner").count if with_learner else 0
    cpus = float(config.cluster.threads_per_actor)
    if not plan.total_gpus:
        where = _on_cpus(learners, plan.role("engine").count, cpus)
    elif plan.colocate and with_learner:
        where = _colocated(learners, plan.role("engine").count, config, cpus)
    else:
        where = _separate(learners, plan.role("engine").count, config, cpus)
    first, encoders = len(where.bundles), config.cluster.num_encoders
    return dataclasses.replace(
        where,
        bundles=(*where.bundles, *({"CPU": cpus} for _ in range(encoders))),
        encoders=tuple(Slot(bundle=first + i, cpus=cpus, gpus=0) for i in range(encoders)),
    )


def _on_cpus(learners: int, engines: int, cpus: float) -> Layout:
    slots = [Slot(bundle=i, cpus=cpus, gpus=0) for i in range(learners + engines)]
    return Layout(
        bundles=tuple({"CPU": cpus} for _ in slots),
        learners=tuple(slots[:learners]),
        engines=tuple(slots[learners:]),
    )


def _colocated(learners: int, engines: int, config: RunConfig, cpus: float) -> Layout:
    width = config.rollout.tensor_parallel_size
    if width > 1 and engines * width > learners:
        raise ResourceError(
            f"{engines} engines over {width} GPUs each share {engines * width} GPUs with "
            f"{learners} learners; set cluster.num_learners to {engines * width} or more, or "
            "cluster.colocate=false"
        )
    devices = max(learners, engines * width)
    share = 0.5 if width == 1 else 0
    return Layout(
        bundles=tuple({"GPU": 1.0, "CPU": 2 * cpus} for _ in range(devices)),
        learners=tuple(Slot(bundle=i, cpus=cpus, gpus=0.5) for i in range(learners)),
        engines=tuple(Slot(bundle=e * width, cpus=cpus, gpus=share) for e in range(engines)),
        engine_learners=tuple(
            tuple(range(e * width, (e + 1) * width)) for e in range(engines if width > 1 else 0)
        ),
    )


def _separate(learners: int, engines: int, config: RunConfig, cpus: float) -> Layout:
    width = config.rollout.tensor_parallel_size
    return Layout(
        bundles=(
            *({"GPU": 1.0, "CPU": cpus} for _ in range(learners)),
            *({"GPU": float(width), "CPU": cpus} for _ in range(engines)),
        ),
        learners=tuple(Slot(bundle=i, cpus=cpus, gpus=1) for i in range(learners)),
        engines=tuple(Slot(bundle=learners + e, cpus=cpus, gpus=width) for e in range(engines)),
    )


def seat_wide_engines(where: Layout, nodes: Mapping[int, str]) -> Layout:
    """Let each engine over several GPUs share those of learners on one node.

    Args:
        where: A layout with `engine_learners`.
        nodes: The node of each bundle, which is Ray's choice.

    Raises:
        ResourceError: If the learners' GPUs lie so that an engine would have to span nodes.
    """
    width = len(where.engine_learners[0])
    ranks: dict[str, list[int]] = {}
    for rank, slot in enumerate(where.learners):
        ranks.setdefault(nodes[slot.bundle], []).append(rank)
    teams = [
        tuple(here[first : first + width])
        for here in ranks.values()
        for first in range(0, len(here) - width + 1, width)
    ][: len(where.engines)]
    if len(teams) < len(where.engines):
        raise ResourceError(
            f"{len(where.engines)} engines over {width} GPUs of one node each, but the learners' "
            f"GPUs lie {' + '.join(str(len(here)) for here in ranks.values())} on "
            f"{len(ranks)} nodes; set rollout.tensor_parallel_size to a divisor of these, or "
            "lower rollout.num_engines"
        )
    engines = [
        dataclasses.replace(slot, bundle=where.learners[team[0]].bundle)
        for slot, team in zip(where.engines, teams, strict=True)
    ]
    return dataclasses.replace(where, engines=tuple(engines), engine_learners=tuple(teams))


def place(config: RunConfig, plan: Plan, *, with_learner: bool) -> Placed:
    """Reserve the bundles and start the actors.

    Raises:
        PlacementError: If the cluster does not have the bundles before the deadline.
        ResourceError: If they lie so that an engine would have to span nodes.
    """
    timeout_s = config.cluster.start_timeout_s
    where = layout(config, plan, with_learner=with_learner)
    group = _reserve(where, config.cluster.placement_timeout_s or timeout_s)
    if where.engine_learners:
        where = seat_wide_engines(where, placement_group_table(group)["bundles_to_node_id"])
    actor_config = ActorConfig(
        model=config.model,
        rollout=config.rollout,
        train=config.train,
        data=config.data,
        seed=config.seed,
        threads=config.cluster.threads_per_actor,
        frame_cache_bytes=int(config.cluster.frame_cache_gib * 2**30),
    )
    learner_class: Any = LearnerActor
    engine_class: Any = EngineActor
    encoder_class: Any = EncoderActor
    count, address = len(where.learners), None
    if count > 1:
        strategy = _options(group, where.learners[0])["scheduling_strategy"]
        call = free_address.options(scheduling_strategy=strategy).remote()
        address = wait_for(call, "an address for the learners", timeout_s)
    learners = [
        learner_class.options(**_options(group, slot)).remote(
            actor_config, Rank(rank=rank, world_size=count, address=address)
        )
        for rank, slot in enumerate(where.learners)
    ]
    devices = _shared_devices(where, learners, timeout_s)

    def start_engine(place: int) -> Any:
        options = _options(group, where.engines[place])
        return engine_class.options(**options).remote(actor_config, devices[place])

    encoders = [
        encoder_class.options(**_options(group, slot)).remote(actor_config)
        for slot in where.encoders
    ]
    return Placed(
        group=group,
        learners=learners,
        encoders=encoders,
        num_engines=len(where.engines),
        start_engine=start_engine,
        missing=lambda seconds: _missing(group, where, seconds),
    )


def _reserve(where: Layout, timeout_s: float) -> Any:
    """Return a placement group whose bundles are all there."""
    group = placement_group(list(where.bundles), strategy="PACK")
    patience_s = min(PLACE_PATIENCE_S, timeout_s)
    if not (why := _missing(group, where, patience_s)):
        return group
    logger.warning("waits up to %.0f s for a place: %s", timeout_s, why)
    if not (why := _missing(group, where, timeout_s - patience_s)):
        return group
    ray.util.remove_placement_group(group)
    raise PlacementError(
        f"no place for all actors within {timeout_s:.0f} s: {why}; add nodes, or lower "
        "cluster.num_learners, rollout.num_engines or cluster.num_encoders"
    )


def _missing(group: Any, where: Layout, timeout_s: float) -> str | None:
    """Wait until nodes hold all bundles; else say what is needed and what there is."""
    return None if group.wait(timeout_seconds=max(timeout_s, 1.0)) else arithmetic(where)


def arithmetic(where: Layout) -> str:
    """Say what the bundles of a run need, and what the nodes that live now have."""
    needed: Counter[str] = Counter()
    for bundle in where.bundles:
        needed.update(bundle)
    nodes = sum(node["Alive"] for node in ray.nodes())
    kinds = Counter(_amounts(bundle) for bundle in where.bundles)
    bundles = ", ".join(f"{count} x ({kind})" for kind, count in kinds.items())
    return (
        f"the run needs {_amounts(needed)} ({bundles}); the cluster's {nodes} nodes have "
        f"{_amounts(ray.cluster_resources())}, free are {_amounts(ray.available_resources())}"
    )


def _amounts(resources: Mapping[str, float]) -> str:
    """Write the CPUs and GPUs of some resources."""
    return ", ".join(
        f"{resources.get(name, 0):g} {name}"
        for name in ("GPU", "CPU")
        if name in resources or name == "CPU"
    )


def _options(group: Any, slot: Slot) -> dict[str, Any]:
    strategy = PlacementGroupSchedulingStrategy(
        placement_group=group, placement_group_bundle_index=slot.bundle
    )
    return {"num_cpus": slot.cpus, "num_gpus": slot.gpus, "scheduling_strategy": strategy}


def _shared_devices(
    where: Layout, learners: list[Any], timeout_s: float
) -> list[tuple[int, ...] | None]:
    """Ask the learners for the GPUs that engines over several of them share."""
    if not where.engine_learners:
        return [None] * len(where.engines)
    found = [
        wait_for(learner.devices.remote(), f"learner {rank}: its GPU", timeout_s)
        for rank, learner in enumerate(learners)
    ]
    return [tuple(found[rank][0] for rank in ranks) for ranks in where.engine_learners]
