"""20,000 completions in one step through a plug-in: time for each, and memory that has a bound.

python -m pytest -s tests/unit/test_reward_load.py
"""

import os
import threading
import time
from pathlib import Path

import pytest
from rollouts import group, reply

from scenerl.configs.schema import RewardConfig
from scenerl.rewards.scorer import Scorer
from scenerl.rollout.records import Group

GROUP_SIZE = 8
MIB = 2**20


def memory_bytes(pid: int) -> int:
    """Return the memory of a process that is in RAM and its own."""
    words = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGE_SIZE")


class Watch:
    """The most memory that this process, or the plug-in, took meanwhile."""

    def __init__(self, pids: list[int]) -> None:
        self._pids, self._done = pids, threading.Event()
        self.most = dict.fromkeys(pids, 0)
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._done.is_set():
            for pid in self._pids:
                self.most[pid] = max(self.most[pid], memory_bytes(pid))
            self._done.wait(0.01)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(10)


def groups(count: int) -> list[Group]:
    words = " ".join(["thinking"] * 200)
    texts = [f"{words} {reply(f'{k % 3}s to 3s')}" for k in range(GROUP_SIZE)]
    return [group(texts, group_id=str(number)) for number in range(count)]


@pytest.mark.slow
def test_a_step_of_20_000_completions_is_scored_within_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / "counts.py").write_text(
        "import os\n"
        "def counts(completions, log_metric):\n"
        "    log_metric('pid', os.getpid())\n"
        "    return [float(len(text[0]['content'])) for text in completions]\n"
    )
    subject = Scorer([RewardConfig(path=f"{tmp_path / 'counts.py'}:counts")])
    subject.score(groups(125))
    pid = int(subject.drain_metrics()["counts/pid"])
    large = groups(2500)
    before = {each: memory_bytes(each) for each in (os.getpid(), pid)}
    with Watch([os.getpid(), pid]) as watch:
        begin = time.perf_counter()
        scores = subject.score(large)
        cost_us = (time.perf_counter() - begin) / 20_000 * 1e6
    subject.close()
    assert sum(len(row) for row in scores) == 20_000
    assert all(score.value is not None for row in scores for score in row)
    assert not subject.counters
    driver, plugin = ((watch.most[each] - before[each]) / MIB for each in before)
    print(  # noqa: T201
        f"{cost_us:.0f} us a completion; at most {driver:.0f} MiB more in the driver, {plugin:.0f} "
        "in the plug-in"
    )
    assert cost_us < 2000
    assert plugin < 30
    assert driver < 400
