from hypothesis import given
from hypothesis import strategies as st

from scenerl.rl.sampler import EpochSampler

ids = st.lists(st.text(max_size=8), min_size=1, max_size=40, unique=True)


@given(ids, st.integers(0, 2**31), st.integers(0, 5))
def test_every_sample_comes_exactly_once_per_epoch(names: list[str], seed: int, epoch: int) -> None:
    sampler = EpochSampler(names, seed)
    start = epoch * len(names)
    drawn = [sampler.index(position) for position in range(start, start + len(names))]
    assert sorted(drawn) == list(range(len(names)))
    assert {sampler.epoch(p) for p in range(start, start + len(names))} == {epoch}


@given(ids, st.integers(0, 2**31), st.lists(st.integers(0, 200), max_size=20))
def test_position_alone_decides_the_sample(
    names: list[str], seed: int, positions: list[int]
) -> None:
    whole = EpochSampler(names, seed)
    before = {position: whole.index(position) for position in range(201)}
    for position in positions:
        assert EpochSampler(names, seed).index(position) == before[position]
        assert whole.index(position) == before[position]


@given(ids, st.integers(0, 2**31), st.randoms())
def test_order_of_the_file_does_not_matter(names: list[str], seed: int, random: object) -> None:
    shuffled = sorted(names, reverse=True)
    first, second = EpochSampler(names, seed), EpochSampler(shuffled, seed)
    for position in range(2 * len(names)):
        assert names[first.index(position)] == shuffled[second.index(position)]


def test_epochs_and_seeds_have_different_orders() -> None:
    names = [f"s{i}" for i in range(50)]
    sampler, other = EpochSampler(names, 0), EpochSampler(names, 1)
    first = [sampler.index(p) for p in range(50)]
    assert first != [sampler.index(p) for p in range(50, 100)]
    assert first != [other.index(p) for p in range(50)]
