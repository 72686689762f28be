"""BLEU, METEOR, ROUGE-L and CIDEr of a whole set of texts, by pycocoevalcap, with their intervals.

None of them is a sum of independent item scores: BLEU counts n-grams over the corpus, CIDEr weighs
words by how many items mention them, and one item alone always has CIDEr 0. So they describe a
set of predictions and are no rewards.
"""

import functools
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import Rule
from scenerl.rewards.bootstrap import Statistic, mean

BLEU_NAMES: Final = ("bleu-1", "bleu-2", "bleu-3", "bleu-4")
NO_JAVA: Final = (
    "METEOR and the PTB tokeniser need Java, which is not on the PATH: their rows have no value; "
    "install a Java runtime (Debian: default-jre-headless) for them"
)
TOKENISER_TIMEOUT_S: Final = 600.0
"""Longest run of the tokeniser; 100,000 captions take seconds."""
_LINE_BREAK = re.compile(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


def has_java() -> bool:
    """Say whether METEOR and the PTB tokeniser can run."""
    return shutil.which("java") is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionScores:
    """Scores of a corpus and of its items, in [0, 1] (CIDEr in [0, 10])."""

    corpus: Mapping[str, float | None]
    """By "bleu-1" .. "bleu-4", "meteor", "rouge-l", "cider"; None for METEOR without Java."""
    items: Mapping[str, npt.NDArray[np.float64]]
    """By the same names, [items]. Their mean is the corpus score for ROUGE-L and CIDEr only."""
    bleu_counts: npt.NDArray[np.float64]
    """[10, items]: right n-grams (4), n-grams (4), length, length of the closest reference."""

    def statistics(
        self, prefix: str = "", suffix: str = "", *, scale: float = 1.0, rule: Rule = "official"
    ) -> list[Statistic]:
        """Return the metrics to report. METEOR, aggregated inside the jar, has no interval."""
        counts = tuple(self.bleu_counts)
        total = len(counts[0])
        found = [
            Statistic(
                name=f"{prefix}{name}{suffix}",
                columns=counts,
                compute=functools.partial(corpus_bleu, n=n),
                count=total,
                scale=scale,
                rule=rule,
            )
            for n, name in enumerate(BLEU_NAMES, start=1)
        ]
        meteor = self.corpus["meteor"]
        found.append(
            Statistic(
                name=f"{prefix}meteor{suffix}",
                columns=(counts[8],),
                compute=lambda sums: np.full(np.shape(sums), np.nan),
                count=total,
                rule=rule,
                value=None if meteor is None else meteor * scale,
            )
        )
        return found + [
            mean(f"{prefix}{name}{suffix}", self.items[name], scale=scale, rule=rule)
            for name in ("rouge-l", "cider")
        ]


def corpus_bleu(*sums: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.float64]:
    """Return BLEU-n of summed counts, with the smoothing of pycocoevalcap's bleu_scorer.

    Precisions are (right + 1e-15) / (all + 1e-9), so a corpus without a single right n-gram has a
    BLEU of about 1e-4 and not 0.
    """
    right, every = sums[:4], sums[4:8]
    ratio = (sums[8] + 1e-15) / (sums[9] + 1e-9)
    product = np.ones_like(ratio)
    for k in range(n):
        product = product * ((right[k] + 1e-15) / (every[k] + 1e-9))
    with np.errstate(over="ignore", divide="ignore"):
        penalty = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    return np.asarray(product ** (1.0 / n) * penalty)


def score_captions(truths: Sequence[Sequence[str]], texts: Sequence[str]) -> CaptionScores:
    """Return the scores of texts against their references, as they are: split at spaces, case kept.

    Args:
        truths: One or more references per item.
        texts: One text per item.

    Raises:
        DataError: If an item has no reference.
    """
    for number, references in enumerate(truths):
        if not references:
            raise DataError(f"item {number} has no reference text; expected at least one")
    if not texts:
        raise DataError("there is no text to score; expected at least one item")
    bleu, counts, bleu_items = _bleu(truths, texts)
    true_by_item = {i: list(references) for i, references in enumerate(truths)}
    text_by_item = {i: [text] for i, text in enumerate(texts)}
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    rouge_l, rouge_items = Rouge().compute_score(true_by_item, text_by_item)
    cider, cider_items = Cider().compute_score(true_by_item, text_by_item)
    meteor, meteor_items = _meteor(truths, texts)
    corpus = dict(zip(BLEU_NAMES, bleu, strict=True))
    items = dict(zip(BLEU_NAMES, bleu_items, strict=True))
    return CaptionScores(
        corpus={**corpus, "meteor": meteor, "rouge-l": float(rouge_l), "cider": float(cider)},
        items={**items, "meteor": meteor_items, "rouge-l": rouge_items, "cider": cider_items},
        bleu_counts=counts,
    )


def _bleu(
    truths: Sequence[Sequence[str]], texts: Sequence[str]
) -> tuple[list[float], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for references, text in zip(truths, texts, strict=True):
        scorer += (text, list(references))
    corpus, items = scorer.compute_score(option="closest", verbose=0)
    counts = np.array(
        [
            (
                *(*part["correct"], *part["guess"], part["testlen"]),
                min((abs(length - part["testlen"]), length) for length in part["reflen"])[1],
            )
            for part in scorer.ctest
        ],
        dtype=np.float64,
    )
    return corpus, counts.T.copy(), np.array(items)


def _meteor(
    truths: Sequence[Sequence[str]], texts: Sequence[str]
) -> tuple[float | None, npt.NDArray[np.float64]]:
    """Return METEOR of the corpus and of each item.

    The jar is asked line by line, its fields parted by "|||": both would desynchronise the official
    wrapper, which waits for ever, and become spaces here.
    """
    if not has_java():
        return None, np.full(len(texts), np.nan)
    from pycocoevalcap.meteor.meteor import Meteor

    def one_line(text: str) -> str:
        return _LINE_BREAK.sub(" ", text).replace("|||", "")

    scorer = Meteor()
    try:
        score, items = scorer.compute_score(
            {i: [one_line(text) for text in references] for i, references in enumerate(truths)},
            {i: [one_line(text)] for i, text in enumerate(texts)},
        )
    finally:
        for stream in (scorer.meteor_p.stdin, scorer.meteor_p.stdout, scorer.meteor_p.stderr):
            stream.close()
    return float(score), np.array(items)


def ptb_tokenize(texts: Sequence[str]) -> list[str]:
    """Return texts in lower case, in Penn-Treebank tokens parted by spaces, without punctuation.

    What pycocoevalcap's PTBTokenizer does with the same jar, in one call and without a file in
    the package's folder; other line breaks than the newline, which would shift all following texts,
    are spaces too.

    Raises:
        DataError: If the tokeniser fails.
    """
    if not texts:
        return []
    from pycocoevalcap.tokenizer import ptbtokenizer as library

    command = ["java", "-Dfile.encoding=UTF-8", "-cp", library.STANFORD_CORENLP_3_4_1_JAR]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = "\n".join(_LINE_BREAK.sub(" ", text) for text in texts)
    try:
        done = subprocess.run(
            command,
            cwd=Path(library.__file__).parent,
            input=lines.encode(),
            capture_output=True,
            timeout=TOKENISER_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"the PTB tokeniser did not end within {TOKENISER_TIMEOUT_S:g} s on {len(texts)} "
            "texts; does `java -version` work?"
        ) from error
    tokens = done.stdout.decode("utf-8", "replace").split("\n")
    if done.returncode or len(tokens) < len(texts):
        detail: Any = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise DataError(
            f"the PTB tokeniser gave {len(tokens)} lines for {len(texts)} texts: {detail}; "
            "does `java -version` work?"
        )
    return [
        " ".join(w for w in line.rstrip().split(" ") if w not in library.PUNCTUATIONS)
        for line in tokens[: len(texts)]
    ]
