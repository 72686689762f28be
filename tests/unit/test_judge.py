"""The judge against a real HTTP server that is slow, failing, talking nonsense or cut off."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scenerl.configs.schema import ConfigError
from scenerl.preprocess.records import DataError
from scenerl.rewards.judge import (
    DEFAULT_MESSAGES,
    JudgeError,
    JudgePrompt,
    JudgeRecord,
    ResourceError,
    Verdict,
    judge_all,
    parse_score,
    percent,
    read_prompt,
    read_verdicts,
    recorded,
    verdict_notes,
)
from scenerl.rewards.judge_endpoint import EndpointJudge

PROMPT = JudgePrompt(messages=DEFAULT_MESSAGES, source="scenerl")
KEY = "sk-very-secret"


class Server(ThreadingHTTPServer):
    """Answers by a script of replies; the last one is repeated."""

    script: list[Any]
    seen: list[dict[str, Any]]
    open_now = 0
    most_open = 0
    lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.open_now += 1
            self.server.most_open = max(self.server.most_open, self.server.open_now)
            self.server.seen.append(
                {"body": body, "path": self.path, "key": self.headers.get("Authorization")}
            )
            number = min(len(self.server.seen), len(self.server.script)) - 1
        step = self.server.script[number]
        try:
            step(self, body)
        finally:
            with self.server.lock:
                self.server.open_now -= 1

    def send(
        self, raw: bytes, status: int = 200, length: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(raw) if length is None else length))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        return


def says(text: Any) -> Any:
    raw = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})
    return lambda handler, body: handler.send(raw.encode())


def fails(status: int, text: bytes = b"{}", **headers: str) -> Any:
    return lambda handler, body: handler.send(text, status, **headers)


def junk(handler: Handler, body: Any) -> None:
    handler.send(b"<html>gateway</html>")


def cut_off(handler: Handler, body: Any) -> None:
    handler.send(b'{"choices": [{"mess', length=500)
    handler.close_connection = True


def slow(handler: Handler, body: Any) -> None:
    time.sleep(0.6)
    says("5")(handler, body)


@contextmanager
def serving(*script: Any) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.script, server.seen = list(script), []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def endpoint(server: Server, **settings: Any) -> EndpointJudge:
    settings = {"timeout_s": 5.0, "retries": 3, "first_delay_s": 0.01, **settings}
    return EndpointJudge(
        url=f"http://127.0.0.1:{server.server_address[1]}/v1", model="m", **settings
    )


def records(count: int = 3) -> list[JudgeRecord]:
    return [
        JudgeRecord(item_id=str(n), question=f"q{n}?", ground_truth="red", prediction="reddish")
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("raw", "score"),
    [
        *(("4", 4), ("Score: 5 (Correct match)", 5), ("1/5", 1)),
        *(("10", None), ("0", None), ("six", None), ("", None), ("9" * 5000, None)),
    ],
)
def test_the_first_number_of_a_reply_is_the_score(raw: str, score: int | None) -> None:
    assert parse_score(raw) == score


def test_scores_are_spread_over_a_hundred() -> None:
    assert [percent(score) for score in range(1, 6)] == [0.0, 25.0, 50.0, 75.0, 100.0]


@pytest.mark.parametrize("trouble", [junk, cut_off, fails(500), fails(429), says(None)])
def test_a_failure_that_passes_is_asked_again(trouble: Any, tmp_path: Path) -> None:
    with serving(trouble, says("4")) as server:
        verdicts = judge_all(records(1), endpoint(server), PROMPT, tmp_path / "v.jsonl")
        assert verdicts["0"].score == 4
        assert len(server.seen) == 2


def test_an_endpoint_slower_than_the_time_out_is_asked_again(tmp_path: Path) -> None:
    with serving(slow, says("2")) as server:
        judge = endpoint(server, timeout_s=0.2)
        assert judge_all(records(1), judge, PROMPT, tmp_path / "v.jsonl")["0"].score == 2


def test_a_refusal_is_not_asked_again_and_does_not_show_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with serving(fails(401, f"bad key {KEY}".encode())) as server:
        judge = endpoint(server, key_variable="JUDGE_KEY")
        with pytest.raises(JudgeError, match=r"HTTP 401 bad key \*\*\*") as caught:
            judge.ask([{"role": "user", "content": "?"}])
        assert KEY not in str(caught.value) + repr(judge)
        assert len(server.seen) == 1
        assert server.seen[0]["key"] == f"Bearer {KEY}"


def test_the_key_does_not_follow_a_redirect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with serving(says("5")) as other:
        place = f"http://127.0.0.1:{other.server_address[1]}/v1/chat/completions"
        with serving(fails(307, Location=place)) as server, pytest.raises(JudgeError, match="307"):
            endpoint(server, key_variable="JUDGE_KEY").ask([])
        assert not other.seen


def test_what_is_asked_and_said_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    with serving(says("Score: 3")) as server:
        judge_all(records(1), endpoint(server), PROMPT, path)
        asked = server.seen[0]
    assert asked["path"] == "/v1/chat/completions"
    assert asked["body"]["temperature"] == 0
    assert asked["body"]["messages"] == [
        *map(dict, DEFAULT_MESSAGES),
        {"role": "user", "content": "Question: q0?\nAnswer: reddish\nGround Truth: red"},
    ]
    head, line = map(json.loads, path.read_text().splitlines())
    assert head == {
        "prompt": [dict(m) for m in DEFAULT_MESSAGES],
        "prompt_id": PROMPT.prompt_id,
        "model": "m",
    }
    assert line == {
        "id": "0",
        "score": 3,
        "raw": "Score: 3",
        "model": "m",
        "prompt_id": PROMPT.prompt_id,
        "user_message": "Question: q0?\nAnswer: reddish\nGround Truth: red",
    }


def test_no_more_questions_are_open_than_allowed(tmp_path: Path) -> None:
    def waits(handler: Handler, body: Any) -> None:
        time.sleep(0.02)
        says("5")(handler, body)

    with serving(waits) as server:
        judge_all(records(20), endpoint(server), PROMPT, tmp_path / "v.jsonl", concurrency=3)
        assert len(server.seen) == 20
        assert 2 <= server.most_open <= 3


def test_a_run_that_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    message = r"no verdict on 3 of 5 .* HTTP 500 .* are kept in"
    with (
        serving(says("5"), says("4"), fails(500)) as server,
        pytest.raises(ResourceError, match=message),
    ):
        judge_all(records(5), endpoint(server, retries=0), PROMPT, path, concurrency=1)
    with path.open("a") as file:
        file.write('{"id": "4", "raw": "5", "sco')  # killed while it wrote
    with serving(says("3")) as server:
        verdicts = judge_all(records(5), endpoint(server), PROMPT, path)
        assert len(server.seen) == 3
    assert [verdicts[str(n)].score for n in range(5)] == [5, 4, 3, 3, 3]
    with serving(fails(500)) as server:
        assert judge_all(records(5), endpoint(server), PROMPT, path) == verdicts
        assert not server.seen


def test_an_endpoint_that_is_gone_is_not_asked_for_ever(tmp_path: Path) -> None:
    with serving(fails(503)) as server:
        with pytest.raises(ResourceError, match="no verdict on 300 of 300"):
            judge_all(
                records(300), endpoint(server, retries=0), PROMPT, tmp_path / "v", concurrency=2
            )
        assert len(server.seen) < 20


def test_another_prompt_model_or_answer_is_judged_anew(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    other = JudgePrompt(messages=({"role": "system", "content": "grade"},), source="x")
    assert other.prompt_id != PROMPT.prompt_id
    with serving(says("5")) as server:
        judge_all(records(1), endpoint(server), PROMPT, path)
        judge_all(records(1), endpoint(server), other, path)
        assert len(server.seen) == 2


def test_replies_without_a_score_are_named_and_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    with serving(says("I cannot say")) as server:
        verdicts = judge_all(records(2), endpoint(server), PROMPT, path)
    assert any("2 replies" in note and "0, 1" in note for note in verdict_notes(verdicts.values()))
    with serving(says("2")) as server:
        again = judge_all(records(2), endpoint(server), PROMPT, path)
    assert [again["0"].score, again["1"].score] == [2, 2]
    assert read_verdicts(path)["0"].score == 2


def test_recorded_verdicts_must_fit_the_answers(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text('{"id": "0", "score": 4}\n{"id": 1, "raw": "5", "user_message": "another"}\n')
    assert recorded(records(1), path)["0"].score == 4
    with pytest.raises(DataError, match=r"1 of 2 answers were judged with another text: 1"):
        recorded(records(2), path)
    with pytest.raises(DataError, match=r"1 of 3 answers have no verdict: 2"):
        recorded(records(3), path)


@pytest.mark.parametrize(
    "line", ["[1]", '{"id": "0"}', '{"score": 3}', '{"id": "0", "score": true}']
)
def test_a_line_that_is_no_verdict_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=r"v\.jsonl:1"):
        read_verdicts(path)


def test_mixed_judges_are_said() -> None:
    verdicts = [
        Verdict(item_id=m, score=1, raw="1", model=m, prompt_id="p") for m in ("one", "two")
    ]
    assert any("do not compare" in note for note in verdict_notes(verdicts))


def test_prompt_files_are_lists_of_messages(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    message = {"role": "system", "content": "grade"}
    for value in ([message], message, {"messages": [message]}):
        path.write_text(json.dumps(value))
        assert read_prompt(path).messages == (message,)
    path.write_text('[{"role": "system"}]')
    with pytest.raises(DataError, match="list of messages"):
        read_prompt(path)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://u:p@x/v1", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        EndpointJudge(url=url, model="m")


def test_a_key_that_is_not_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        EndpointJudge(url="http://x/v1", model="m", key_variable="NO_SUCH_KEY")
