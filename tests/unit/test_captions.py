"""Caption scores of corpora small enough to count by hand."""

import math

import numpy as np
import pytest

from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import Bootstrap
from scenerl.rewards.bootstrap import estimate
from scenerl.rewards.captions import score_captions


@pytest.fixture(autouse=True)
def _without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


def test_bleu_counts_n_grams_over_the_corpus() -> None:
    # unigrams 3 + 1 of 3 + 2 right, bigrams 2 + 0 of 2 + 1; lengths 5 and 3 + 2 are equal
    scores = score_captions([["a red chair"], ["a bed"]], ["a red chair", "the bed"])
    assert scores.corpus["bleu-1"] == pytest.approx(4 / 5)
    assert scores.corpus["bleu-2"] == pytest.approx(math.sqrt(4 / 5 * 2 / 3))


def test_a_short_corpus_pays_the_brevity_penalty() -> None:
    scores = score_captions([["a red chair"]], ["chair"])
    assert scores.corpus["bleu-1"] == pytest.approx(math.exp(1 - 3))


def test_rouge_takes_precision_and_recall_from_different_references() -> None:
    # precision 1 by the first reference, recall 1 by the second: F is 1
    scores = score_captions([["red chair here", "red"]], ["red chair"])
    precision, recall, beta = 1.0, 1.0, 1.2
    f = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert scores.corpus["rouge-l"] == pytest.approx(f)


def test_one_item_alone_has_no_cider() -> None:
    assert score_captions([["a red chair"]], ["a red chair"]).corpus["cider"] == 0.0


def test_the_same_words_everywhere_are_worth_more_when_rare() -> None:
    scores = score_captions([["red chair"], ["blue bed"]], ["red chair", "blue bed"])
    assert scores.corpus["cider"] == pytest.approx(10 * 2 / 4)  # 1- and 2-grams of 1 .. 4


def test_intervals_are_those_of_the_corpus_score() -> None:
    scores = score_captions([["a b c d"]] * 20, ["a b c d"] * 10 + ["x y z w"] * 10)
    by_name = {
        m.name: m for m in estimate(scores.statistics(), [str(n) for n in range(20)], Bootstrap())
    }
    bleu = by_name["bleu-1"]
    assert bleu.value == pytest.approx(0.5)
    assert bleu.low is not None
    assert bleu.high is not None
    assert 0.2 < bleu.low < 0.5 < bleu.high < 0.8
    assert by_name["meteor"].value is None
    assert by_name["meteor"].low is None
    assert np.isnan(scores.items["meteor"]).all()


def test_an_item_without_a_reference_is_an_error() -> None:
    with pytest.raises(DataError, match="item 1 has no reference"):
        score_captions([["a"], []], ["a", "b"])
    with pytest.raises(DataError, match="no text"):
        score_captions([], [])
