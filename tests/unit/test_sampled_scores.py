"""pass@k and the other numbers over several replies, by hand."""

import itertools

import pytest

from scenerl.rl.sampled_scores import ks, over_samples, pass_at_k


@pytest.mark.parametrize(
    ("samples", "right", "k", "expected"),
    [
        (4, 0, 2, 0.0),
        (4, 4, 1, 1.0),
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),  # 1 - C(3, 2) / C(4, 2) = 1 - 3/6
        (4, 2, 2, 5 / 6),  # 1 - C(2, 2) / C(4, 2) = 1 - 1/6
        (4, 3, 2, 1.0),  # two wrong ones cannot be drawn
        (5, 2, 3, 9 / 10),  # 1 - C(3, 3) / C(5, 3) = 1 - 1/10
        (8, 3, 8, 1.0),
    ],
)
def test_pass_at_k_by_hand(samples: int, right: int, k: int, expected: float) -> None:
    assert pass_at_k(samples, right, k) == pytest.approx(expected, abs=1e-15)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one() -> None:
    for samples in range(1, 7):
        for right in range(samples + 1):
            replies = [True] * right + [False] * (samples - right)
            for k in range(1, samples + 1):
                drawn = list(itertools.combinations(replies, k))
                share = sum(map(any, drawn)) / len(drawn)
                assert pass_at_k(samples, right, k) == pytest.approx(share, abs=1e-12)


def test_what_is_not_defined_is_refused() -> None:
    for samples, right, k in ((4, 1, 0), (4, 1, 5), (4, 5, 1), (4, -1, 1)):
        with pytest.raises(ValueError, match="not defined"):
            pass_at_k(samples, right, k)


def test_the_reported_k_are_powers_of_two_and_the_number_itself() -> None:
    assert ks(1) == [1]
    assert ks(8) == [1, 2, 4, 8]
    assert ks(6) == [1, 2, 4, 6]


def test_right_and_wrong_gives_pass_at_k_and_the_oracle_under_its_name() -> None:
    found = over_samples({"a": [1.0, 0.0, 0.0, 0.0], "b": [0.0, 0.0, 0.0, 0.0]})
    assert found == {
        "mean_over_samples": 1 / 8,
        "pass@1": 1 / 8,
        "pass@2": 1 / 4,
        "pass@4": 1 / 2,
        "oracle_best_of_4": 1 / 2,
    }


def test_a_graded_score_has_no_pass_at_k() -> None:
    found = over_samples({"a": [0.25, 0.75], "b": [0.5, 0.0]})
    assert found == {"mean_over_samples": 0.375, "oracle_best_of_2": 0.625}
    assert over_samples({}) == {}
