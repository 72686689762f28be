"""Our use of pycocoevalcap against the library's own wrappers; needs Java."""

import shutil

import pytest

from scenerl.rewards.captions import ptb_tokenize, score_captions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="no Java on the PATH"),
]

TEXTS = [
    "It's on the table's left, near the T-shirt (brown).",
    "I can't see \u201cit\u201d; don't you?",
    "3.5 metres & 1/2 of $5 ... U.S. Mr. Smith!",
    "caf\u00e9 \u2013 d\u00e9j\u00e0 vu",
    "",
    "two\nlines",
]


def test_tokens_are_those_of_the_wrapper() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    theirs = PTBTokenizer().tokenize({n: [{"caption": t}] for n, t in enumerate(TEXTS)})
    assert ptb_tokenize(TEXTS) == [theirs[n][0] for n in range(len(TEXTS))]


def test_a_line_break_of_another_kind_does_not_shift_what_follows() -> None:
    assert ptb_tokenize(["a\rb", "c\u2028d", "e"]) == ["a b", "c d", "e"]


def test_scores_are_those_of_the_wrappers_and_meteor_survives_its_own_separators() -> None:
    from pycocoevalcap.meteor.meteor import Meteor

    texts = ["a red chair", "the brown table", "left"]
    truths = [["a red chair", "red chair"], ["a brown desk"], ["on the left"]]
    scores = score_captions(truths, texts)
    theirs = Meteor().compute_score(dict(enumerate(truths)), {n: [t] for n, t in enumerate(texts)})
    assert scores.corpus["meteor"] == theirs[0]
    assert list(scores.items["meteor"]) == theirs[1]
    odd = score_captions([["a ||| b", "c\nd"]], ["a ||| b\n"])
    assert odd.corpus["meteor"] is not None
