"""What holds for every text: bounds, order, and that the guarded rule is the stricter one."""

import string

from hypothesis import given, settings
from hypothesis import strategies as st

from scenerl.envs.text_match import clean_answer, is_refined_match, official_match
from scenerl.rewards.benchmark import Bootstrap
from scenerl.rewards.judge import parse_score
from scenerl.rewards.score_beacon3d import ChainText, score_qa
from scenerl.rewards.score_msqa import ProbedAnswer, TypedQuestion, score_msqa

TEXTS = st.text(max_size=30) | st.lists(
    st.sampled_from(
        [
            "a",
            "the",
            "no",
            "yes",
            "left",
            "2",
            "two",
            "none",
            "tv",
            "no1",
            "o'",
            "clock",
            "'",
            "-",
            ",",
            ".",
            "\n",
            "north",
        ]
    ),
    max_size=6,
).map(" ".join)


@given(TEXTS)
def test_cleaning_is_total_and_keeps_only_known_characters(text: str) -> None:
    kept = set(string.ascii_lowercase + string.digits + ",'-:TV")
    assert all(c in kept or c.isspace() for c in clean_answer(text))


@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_exact_implies_refined(text: str, answers: list[str]) -> None:
    exact, refined = official_match(text, answers)
    assert refined or not exact


@given(TEXTS)
def test_nothing_is_never_a_guarded_match(answer: str) -> None:
    assert official_match("", [answer])[1]
    assert not is_refined_match("", [answer])


@given(st.text())
def test_every_reply_has_a_score_from_one_to_five_or_none(raw: str) -> None:
    assert parse_score(raw) in (None, 1, 2, 3, 4, 5)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from(["counting", "refer", "x"])), min_size=1),
    st.randoms(),
)
def test_msqa_scores_are_shares_and_do_not_depend_on_the_order(
    rows: list[tuple[str, str, str]], random: object
) -> None:
    references = {
        str(n): TypedQuestion(question="q", answers=(answer,), type=kind)
        for n, (_, answer, kind) in enumerate(rows)
    }
    predictions = {str(n): ProbedAnswer(text=text) for n, (text, _, _) in enumerate(rows)}
    none = Bootstrap(resamples=0)
    report = score_msqa(references, predictions, bootstrap=none)
    turned = score_msqa(dict(reversed(references.items())), predictions, bootstrap=none)
    for metric in report.metrics:
        assert metric.value is None or 0 <= metric.value <= 1
        assert turned[metric.name].value == metric.value


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=6, max_size=6), st.lists(st.booleans(), min_size=2))
def test_the_four_shares_of_coherence_are_all_there_is(
    right: list[bool], grounded: list[bool]
) -> None:
    references = {
        str(n): ChainText(
            scene_id="s", object_key=f"s|{n // 3}", text=f"q{n}", tag="class", answer="white"
        )
        for n in range(6)
    }
    predictions = {str(n): "white" if ok else "black" for n, ok in enumerate(right)}
    report = score_qa(
        references,
        predictions,
        verdicts={},
        grounded=grounded,
        bootstrap=Bootstrap(resamples=0),
    )
    shares = [report[name].value for name in ("g1q1", "g1q0", "g0q1", "g0q0")]
    assert (
        sum(share or 0.0 for share in shares) == 100.0
        or abs(sum(filter(None, shares)) - 100) < 1e-9
    )
