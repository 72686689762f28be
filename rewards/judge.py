"""A language model as judge of answers: what it is asked, what it said, and where that is kept.

A judge is never asked unless the user names one. Every verdict is kept as a line of JSON with the
question as it was put, the prompt's hash, the model and the raw reply; the same file can be given
back as recorded verdicts, and an interrupted run goes on where it stopped.
"""

import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from scenerl.preprocess.records import DataError
from scenerl.rewards.predictions import NAMED, read_json, read_json_lines

logger = logging.getLogger(__name__)

SCORES: Final = range(1, 6)
GIVE_UP_AFTER: Final = 5
"""Questions without a reply, one after the other, after which the judge counts as gone."""

Messages = tuple[Mapping[str, str], ...]

DEFAULT_MESSAGES: Final[Messages] = (
    {
        "role": "system",
        "content": (
            "You grade answers to questions about an indoor scene. You get a question, the answer "
            "of a candidate and the ground truth, which is right by definition. Grade how well the "
            "answer agrees with the ground truth in meaning: 5 means the same, wording aside; 4 "
            "the same up to a detail that does not matter for the question; 3 partly right; 2 "
            "mostly wrong with something in common; 1 wrong, empty or off the point. A wrong "
            "number, direction, colour or yes/no is 1. Things said beyond the ground truth do not "
            "lower the grade unless they contradict it; several alternatives at once count as "
            "wrong. Reply with the grade only, one digit from 1 to 5."
        ),
    },
)
"""The prompt used when none is given. Not the benchmarks' own: see docs/judge.md."""


class JudgeError(RuntimeError):
    """A judge that gave no verdict."""


class ResourceError(JudgeError):
    """A judge that cannot be reached; what it said so far is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeRecord:
    """One answer to be judged."""

    item_id: str
    question: str
    ground_truth: str
    """As the official script writes it into its message."""
    prediction: str

    @property
    def user_message(self) -> str:
        """Return the question as it is put, in the three lines of the official scripts."""
        return (
            f"Question: {self.question}\nAnswer: {self.prediction}\n"
            f"Ground Truth: {self.ground_truth}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the judge said about one answer."""

    item_id: str
    score: int | None
    """1 .. 5; None when the reply has no such number."""
    raw: str
    """The reply as it came."""
    model: str
    prompt_id: str
    user_message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePrompt:
    """The messages before the question, and their hash."""

    messages: Messages
    source: str

    @property
    def prompt_id(self) -> str:
        """Return the first 16 digits of the SHA-256 of the messages as JSON."""
        text = json.dumps([dict(m) for m in self.messages], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Judge(Protocol):
    """Something that replies to messages."""

    @property
    def model(self) -> str:
        """The name that its verdicts are kept under."""
        ...

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the reply.

        Raises:
            JudgeError: If there is none.
        """
        ...


def parse_score(raw: str) -> int | None:
    """Return the first run of digits of a reply if it is 1 .. 5, else None.

    The official scripts take any number ("10" would be 225 of 100) and stop without one.
    """
    found = re.search(r"\d+", raw)
    score = int(found[0]) if found and len(found[0]) < 5 else None
    return score if score in SCORES else None


def percent(score: int) -> float:
    """Return a score of 1 .. 5 as 0 .. 100: (s - 1) * 25."""
    return (score - 1) * 25.0


def read_prompt(path: Path | None) -> JudgePrompt:
    """Return the prompt of a file: a JSON list of {"role", "content"}, or an object of one list.

    Raises:
        DataError: If the file holds no such list.
    """
    if path is None:
        return JudgePrompt(messages=DEFAULT_MESSAGES, source="scenerl")
    value = read_json(path)
    if isinstance(value, dict) and "role" not in value and len(value) == 1:
        value = next(iter(value.values()))
    messages = [value] if isinstance(value, dict) else value
    if (
        not isinstance(messages, list)
        or not messages
        or any(
            not isinstance(m, dict)
            or not isinstance(m.get("role"), str)
            or not isinstance(m.get("content"), str)
            for m in messages
        )
    ):
        raise DataError(
            f'{path}: expected a JSON list of messages {{"role": "system", "content": "..."}}, as '
            "in the official repositories"
        )
    return JudgePrompt(
        messages=tuple({"role": m["role"], "content": m["content"]} for m in messages),
        source=str(path),
    )


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """Return recorded verdicts by item id, the last of several for one item.

    A line is {"id", "raw"} or {"id", "score"}, with "model", "prompt_id" and "user_message" where
    they are known; the head line of a file that `judge_all` wrote has no id and is passed over.

    Raises:
        DataError: If a line is anything else.
    """
    verdicts = {}
    for where, row in read_json_lines(path):
        if "id" not in row and "prompt" in row:
            continue
        raw, score = row.get("raw"), row.get("score")
        if raw is None and isinstance(score, int) and not isinstance(score, bool):
            raw = str(score)
        if not isinstance(row.get("id"), str | int) or not isinstance(raw, str):
            raise DataError(
                f'{where}: expected {{"id": ..., "raw": the reply}} or a "score" 1 to 5'
            )
        verdicts[str(row["id"])] = Verdict(
            item_id=str(row["id"]),
            score=parse_score(raw),
            raw=raw,
            model=str(row.get("model", "not recorded")),
            prompt_id=str(row.get("prompt_id", "not recorded")),
            user_message=str(row.get("user_message", "")),
        )
    return verdicts


def recorded(records: Sequence[JudgeRecord], path: Path) -> dict[str, Verdict]:
    """Return the verdicts of a file for the records.

    Raises:
        DataError: If one is missing, or was given for another question, answer or truth.
    """
    verdicts = read_verdicts(path)
    missing = [r.item_id for r in records if r.item_id not in verdicts]
    other = [
        r.item_id
        for r in records
        if r.item_id in verdicts and verdicts[r.item_id].user_message not in ("", r.user_message)
    ]
    for ids, what in ((missing, "have no verdict"), (other, "were judged with another text")):
        if ids:
            raise DataError(
                f"{path}: {len(ids)} of {len(records)} answers {what}: {', '.join(ids[:NAMED])}"
                f"{', ...' if len(ids) > NAMED else ''}; judge them, or give the predictions that "
                "these verdicts are about"
            )
    return {record.item_id: verdicts[record.item_id] for record in records}


def kept(
    records: Sequence[JudgeRecord], model: str, prompt: JudgePrompt, path: Path
) -> dict[str, Verdict]:
    """Return what the file holds of usable verdicts of a model on the records.

    Raises:
        DataError: If a line is no verdict.
    """
    _heal(path)
    known = read_verdicts(path) if path.exists() else {}
    return {
        r.item_id: known[r.item_id]
        for r in records
        if r.item_id in known and _answers(known[r.item_id], r, model, prompt)
    }


def judge_all(
    records: Sequence[JudgeRecord],
    judge: Judge,
    prompt: JudgePrompt,
    path: Path,
    *,
    concurrency: int = 8,
) -> dict[str, Verdict]:
    """Ask the judge about every record that the file has no usable verdict of, and return all.

    Every reply is appended at once. Replies without a score are asked for again in the next run.

    Args:
        records: What to judge.
        judge: Who is asked, by several threads at a time.
        prompt: What stands before each question.
        path: The verdicts, read first and then continued.
        concurrency: How many questions are open at a time.

    Raises:
        ResourceError: If the judge does not reply; says how many verdicts are kept.
    """
    verdicts = kept(records, judge.model, prompt, path)
    waiting = [r for r in records if r.item_id not in verdicts]
    if verdicts:
        logger.info("%s: %d verdicts are there, %d to ask", path, len(verdicts), len(waiting))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        if waiting:
            head = {"prompt": [dict(m) for m in prompt.messages], "prompt_id": prompt.prompt_id}
            file.write(json.dumps({**head, "model": judge.model}, ensure_ascii=False) + "\n")
        failures = _ask_waiting(waiting, judge, prompt, concurrency, verdicts, file)
    if failures:
        first = next(iter(failures))
        missing = sum(r.item_id not in verdicts for r in waiting)
        raise ResourceError(
            f"the judge gave no verdict on {missing}"
            f" of {len(records)} answers, first {first}: {failures[first]}; the others are kept in "
            f"{path}, run again to go on from there"
        )
    return {record.item_id: verdicts[record.item_id] for record in records}


def _answers(verdict: Verdict, record: JudgeRecord, model: str, prompt: JudgePrompt) -> bool:
    return (
        verdict.score is not None
        and verdict.model == model
        and verdict.prompt_id == prompt.prompt_id
        and verdict.user_message == record.user_message
    )


def _ask_waiting(
    waiting: Sequence[JudgeRecord],
    judge: Judge,
    prompt: JudgePrompt,
    concurrency: int,
    verdicts: dict[str, Verdict],
    file: Any,
) -> dict[str, str]:
    """Fill verdicts and the file; return why items have none, by id."""
    failures: dict[str, str] = {}
    in_a_row = 0
    queue, open_questions = iter(waiting), dict[Future[str], JudgeRecord]()
    stop = threading.Event()

    def ask(record: JudgeRecord) -> str:
        if stop.is_set():
            raise JudgeError("not asked, since the judge did not reply before")
        return judge.ask([*prompt.messages, {"role": "user", "content": record.user_message}])

    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        try:
            while True:
                while len(open_questions) < 2 * concurrency and not stop.is_set():
                    record = next(queue, None)
                    if record is None:
                        break
                    open_questions[pool.submit(ask, record)] = record
                if not open_questions:
                    return failures
                done, _ = wait(open_questions, return_when=FIRST_COMPLETED)
                for future in done:
                    record = open_questions.pop(future)
                    try:
                        raw = future.result()
                    except JudgeError as error:
                        failures[record.item_id] = str(error)
                        in_a_row += 1
                        if in_a_row >= GIVE_UP_AFTER:
                            stop.set()
                        continue
                    in_a_row = 0
                    verdicts[record.item_id] = _keep(record, raw, judge.model, prompt, file)
                    if len(verdicts) % 100 == 0:
                        logger.info("judged %d", len(verdicts))
        finally:
            stop.set()


def _keep(record: JudgeRecord, raw: str, model: str, prompt: JudgePrompt, file: Any) -> Verdict:
    verdict = Verdict(
        item_id=record.item_id,
        score=parse_score(raw),
        raw=raw,
        model=model,
        prompt_id=prompt.prompt_id,
        user_message=record.user_message,
    )
    row = asdict(verdict)
    file.write(json.dumps({"id": row.pop("item_id"), **row}, ensure_ascii=False) + "\n")
    file.flush()
    return verdict


def _heal(path: Path) -> None:
    """Cut a last line that a killed run left half written."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        kept = content.rfind(b"\n") + 1
        logger.warning("%s: the last line is cut off and is dropped", path)
        with path.open("r+b") as file:
            file.truncate(kept)


def verdict_notes(verdicts: Iterable[Verdict]) -> tuple[str, ...]:
    """Return who judged with which prompt, and which replies had no score."""
    verdicts = list(verdicts)
    judges = sorted({(v.model, v.prompt_id) for v in verdicts})
    notes = [
        f"judged by {model} with prompt {prompt_id}; only comparable with the same judge and prompt"
        for model, prompt_id in judges
    ]
    if len(judges) > 1:
        notes.append("the verdicts come from several judges or prompts, which do not compare")
    silent = [v.item_id for v in verdicts if v.score is None]
    if silent:
        notes.append(
            f"{len(silent)} replies of the judge have no score from 1 to 5 and count as 1: "
            f"{', '.join(silent[:NAMED])}{', ...' if len(silent) > NAMED else ''}"
        )
    return tuple(notes)
