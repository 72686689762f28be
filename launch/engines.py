"""The rollout engines of a run: one that dies or hangs is replaced alone.

An engine counts as alive when it has answered within a deadline, which takes a pass through the
model. A replacement is admitted only when it runs the weights that the lost one ran: they come from
the learners, and its checksum has to be that of the others. It then makes the completions that are
missing, from the same seeds, so nothing of the run changes. Learners hold state that no replacement
has: their loss ends the generation (`launch/train.py`).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scenerl.configs.schema import ClusterConfig
from scenerl.launch.actors import EngineState, end_process
from scenerl.launch.placement import Placed
from scenerl.launch.waits import (
    PLACE_PATIENCE_S,
    ActorLostError,
    ObjectsLostError,
    PlaceLostError,
    wait_for,
)
from scenerl.rl.fleet import check_sync
from scenerl.rollout.records import Completion, EncodedPrompt

logger = logging.getLogger(__name__)

Weights = tuple[Sequence[Any], int]
"""References of weights in the object store, and the policy version that they are."""

_END_TIMEOUT_S = 30.0
"""For ending a process that does not hear Ray."""


class EnginePool:
    """Engines, each in its place of the plan."""

    def __init__(
        self,
        placed: Placed,
        cluster: ClusterConfig,
        weights: Callable[[], Weights] | None,
        on_loss: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """Start all engines; `admit` waits for them.

        Args:
            placed: Where they go, and what starts them.
            cluster: Deadlines, and how many replacements one call may cost.
            weights: Gives the weights that the engines run; None when they never change.
            on_loss: Is told of every engine that was lost.
        """
        self._placed, self._cluster = placed, cluster
        self._weights, self._on_loss = weights, on_loss
        self._actors: list[Any | None] = [
            placed.start_engine(place) for place in range(placed.num_engines)
        ]
        self._states: dict[int, EngineState] = {}
        self._checksum = ""
        self.version = 0

    @property
    def actors(self) -> list[Any]:
        """Those that are not lost."""
        return [actor for actor in self._actors if actor is not None]

    def admit(self) -> int:
        """Wait until every engine has loaded and answered a probe; return their version."""
        deadline = time.monotonic() + self._cluster.start_timeout_s
        for place, call in self._call("ready", range(len(self._actors))).items():
            what = f"engine {place}: loading, and the first probe"
            self._states[place] = wait_for(call, what, max(deadline - time.monotonic(), 1.0))
        states = list(self._states.values())
        self.version, self._checksum = states[0].version, states[0].checksum
        check_sync(
            [state.version for state in states], [state.checksum for state in states], self.version
        )
        return self.version

    def generate(
        self,
        encoded: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        temperature: float | None,
        pixels: Sequence[Any],
    ) -> list[list[Completion]]:
        """Spread prompts over the engines, longest first, and collect in order."""
        shares = spread_prompts([len(item.prompt_ids) for item in encoded], len(self._actors))
        completions: dict[int, list[Completion]] = {}
        timeout_s = self._cluster.rollout_timeout_s or self._cluster.step_timeout_s

        def ask(places: Sequence[int]) -> dict[int, Any]:
            self._replace_lost(places)
            return {
                place: self._actor(place).generate.remote(
                    [encoded[i] for i in shares[place]],
                    [list(seeds[i]) for i in shares[place]],
                    temperature,
                    *[pixels[i] for i in shares[place]],
                )
                for place in places
            }

        wanted = [place for place, share in enumerate(shares) if share]
        for place, made in self._until_all(ask, wanted, "completions of a step", timeout_s):
            completions |= dict(zip(shares[place], made, strict=True))
        return [completions[i] for i in range(len(encoded))]

    def load(self, chunks: Sequence[Any], version: int) -> None:
        """Bring weights into every engine, lost ones started anew, and check that all run them."""
        timeout_s = self._cluster.step_timeout_s

        def ask(places: Sequence[int]) -> dict[int, Any]:
            for place in places:
                if self._actors[place] is None:
                    self._begin_anew(place)
            return self._call("load_weights", places, chunks, version, timeout_s)

        places = range(len(self._actors))
        found = dict(self._until_all(ask, places, "taking weights", timeout_s))
        check_sync(
            [state.version for state in found.values()],
            [state.checksum for state in found.values()],
            version,
        )
        self.version, self._checksum = version, found[0].checksum

    def tell(self, method: str, what: str) -> None:
        """Call a method of all engines; one that is lost over it is replaced when next needed."""
        places = [place for place, actor in enumerate(self._actors) if actor is not None]
        self._collect(self._call(method, places), what, self._cluster.step_timeout_s)

    def _actor(self, place: int) -> Any:
        actor = self._actors[place]
        assert actor is not None
        return actor

    def _call(self, method: str, places: Sequence[int], *arguments: Any) -> dict[int, Any]:
        return {place: getattr(self._actor(place), method).remote(*arguments) for place in places}

    def _until_all(
        self,
        ask: Callable[[Sequence[int]], dict[int, Any]],
        places: Sequence[int],
        what: str,
        timeout_s: float,
    ) -> list[tuple[int, Any]]:
        """Ask, and ask again for what lost engines owe, at most `max_recoveries` times."""
        answers: dict[int, Any] = {}
        for attempt in range(self._cluster.max_recoveries + 1):
            missing = [place for place in places if place not in answers]
            if not missing:
                break
            found, error = self._collect(ask(missing), what, timeout_s)
            answers |= found
            if error is not None and attempt == self._cluster.max_recoveries:
                raise error
        return sorted(answers.items())

    def _collect(
        self, calls: Mapping[int, Any], what: str, timeout_s: float
    ) -> tuple[dict[int, Any], ActorLostError | None]:
        """Wait for answers under one deadline; engines that owe theirs are lost."""
        deadline = time.monotonic() + timeout_s
        answers, lost = {}, None
        for place, call in calls.items():
            left = max(deadline - time.monotonic(), 1.0)
            try:
                answers[place] = wait_for(call, f"engine {place}: {what}", left)
            except ObjectsLostError:
                raise
            except ActorLostError as error:
                self._lose(place, error)
                lost = error
        return answers, lost

    def _lose(self, place: int, error: ActorLostError) -> None:
        """Drop an engine, and end its process: a frozen one would keep its place and memory."""
        logger.warning("%s", error)
        self._on_loss({"engine": place, "lost": str(error)})
        ray.kill(self._actor(place), no_restart=True)
        self._actors[place] = None
        state = self._states.pop(place, None)
        if state is None:
            return
        node = NodeAffinitySchedulingStrategy(node_id=state.node, soft=False)
        call = end_process.options(scheduling_strategy=node).remote(state.pid)
        try:
            wait_for(call, f"the end of engine {place}", _END_TIMEOUT_S)
        except (ActorLostError, ray.exceptions.RayError) as trouble:  # its node is gone as well
            logger.debug("%s", trouble)

    def _begin_anew(self, place: int) -> EngineState:
        """Start an engine in a lost one's place; it has the weights of `model.path` yet.

        Raises:
            PlaceLostError: If the place went with its node, and no other comes free in time.
            ActorLostError: If it does not start.
        """
        logger.warning("engine %d is started anew, alone", place)
        actor = self._actors[place] = self._placed.start_engine(place)
        call = actor.ready.remote()
        try:
            self._wait_for_place(place, call)
            what = f"engine {place}: loading anew, and the first probe"
            state: EngineState = wait_for(call, what, self._cluster.start_timeout_s)
        except ActorLostError as error:
            self._lose(place, error)
            raise
        self._states[place] = state
        return state

    def _wait_for_place(self, place: int, call: Any) -> None:
        """Wait, when an engine does not come soon, for the node that it is to run on."""
        timeout_s = self._cluster.placement_timeout_s or self._cluster.start_timeout_s
        patience_s = min(PLACE_PATIENCE_S, timeout_s)
        if ray.wait([call], timeout=patience_s)[0] or not (why := self._placed.missing(1.0)):
            return
        logger.warning("engine %d waits up to %.0f s for a place: %s", place, timeout_s, why)
        if why := self._placed.missing(timeout_s - patience_s):
            raise PlaceLostError(
                f"engine {place} was lost with its node, and no place for another came free "
                f"within {timeout_s:.0f} s: {why}"
            )

    def _replace_lost(self, places: Sequence[int]) -> None:
        """Bring engines back that run what the others run; one that does not is refused.

        Raises:
            ActorLostError: If one does not start, the learners have other weights by now, or its
                checksum is another one.
        """
        for place in (place for place in places if self._actors[place] is None):
            state = self._begin_anew(place)
            weights = self._weights() if self._weights is not None else None
            try:
                self._check_newcomer(place, state, weights)
            except ActorLostError as error:
                self._lose(place, error)
                raise

    def _check_newcomer(self, place: int, state: EngineState, weights: Weights | None) -> None:
        """Give an engine the weights of the others, and see that it has them."""
        if weights is not None:
            chunks, version = weights
            if version != self.version:
                raise ActorLostError(
                    f"engine {place} was lost while it ran policy version {self.version}; the "
                    f"learners have version {version}, so it cannot be replaced alone"
                )
            timeout_s = self._cluster.step_timeout_s
            call = self._actor(place).load_weights.remote(chunks, version, timeout_s)
            state = wait_for(call, f"engine {place}: taking weights", timeout_s)
        if (state.version, state.checksum) != (self.version, self._checksum):
            raise ActorLostError(
                f"engine {place}, started anew, has version {state.version} and checksum "
                f"{state.checksum}; the lost one had {self.version} and {self._checksum}"
            )


def spread_prompts(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Give each engine about the same number of prompt tokens; indices stay in order."""
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        lightest = loads.index(min(loads))
        shares[lightest].append(index)
        loads[lightest] += lengths[index]
    return [sorted(share) for share in shares]
