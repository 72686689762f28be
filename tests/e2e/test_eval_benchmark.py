"""`launch eval BENCHMARK` from the command line: endpoint, engines, shards, kills."""

import hashlib
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_server import Asked, chat_server
from tiny_checkpoint import tiny_checkpoint
from training_runs import run_child

from scenerl.launch.cli import main
from scenerl.preprocess.records import Media, Sample, Target
from scenerl.preprocess.store import read_samples, write_samples

ITEMS = 80
SMALL = ["env.num_frames=2", "env.video_total_pixels=20000", "env.video_min_pixels=784"]


def vsi_rows() -> list[dict[str, Any]]:
    """Choices on even places, numbers on odd ones; the right letter is always A, the number 4."""
    rows = []
    for number in range(ITEMS):
        row: dict[str, Any] = {"id": number, "dataset": "rooms", "scene_name": "room_test_00000"}
        if number % 2 == 0:
            row |= {"question_type": "route_planning", "ground_truth": "A"}
            row |= {"question": f"Which way, {number}?", "options": ["A. left", "B. right"]}
        else:
            row |= {"question_type": "object_counting", "ground_truth": "4", "options": None}
            row |= {"question": f"How many, {number}?"}
        rows.append(row)
    return rows


def vsi_sample(row: dict[str, Any], split: str = "test") -> Sample:
    options = row["options"]
    return Sample(
        sample_id=f"vsibench-{row['id']}",
        dataset="vsibench",
        split=split,
        question=row["question"],
        media=Media(kind="video", scene=f"scenes/{row['scene_name']}"),
        target=Target(answers=(row["ground_truth"],)),
        scene_id=row["scene_name"],
        kind=row["question_type"],
        item_id=str(row["id"]),
        options=None if options is None else tuple(options),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eval")
    command = ["preprocess", "rooms", "--output", str(root / "data"), "--train", "0", "--test", "1"]
    assert main([*command, "--frames", "6", "--width", "112", "--height", "84"]) == 0
    rows = vsi_rows()
    write_samples(root / "data", [vsi_sample(row) for row in rows])
    (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def command(world: Path, out: Path, *more: str) -> list[str]:
    data = ["--data", str(world / "data"), "--references", str(world / "test.jsonl")]
    return ["eval", "vsibench", *data, "--output", str(out), "--no-ray", *more, *SMALL]


def at(url: str) -> list[str]:
    return ["--model", url, "--model-name", "m", "--retries", "2"]


def perfect(asked: Asked) -> str:
    return "A" if "Options:" in asked.text else "4.0 chairs"


def score_of(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "score.json").read_text())
    return result


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_endpoint_that_is_always_right_has_the_full_score(world: Path, tmp_path: Path) -> None:
    with chat_server(perfect) as server:
        assert main(command(world, tmp_path, *at(server.url))) == 0
        texts = {asked.text for asked in server.asked}
        assert {len(asked.images) for asked in server.asked} == {2}
        assert {asked.body["max_tokens"] for asked in server.asked} == {16}
    assert (
        "These are frames of a video.\nWhich way, 0?\nOptions:\nA. left\nB. right\n"
        "Answer with the option's letter from the given choices directly." in texts
    )
    assert (
        "These are frames of a video.\nHow many, 1?\n"
        "Please answer the question using a single word or phrase." in texts
    )
    result = score_of(tmp_path)
    assert result["metrics"]["overall"]["value"] == 100.0
    assert result["evaluation"]["items"] == ITEMS
    traces = lines(tmp_path / "traces.jsonl")
    assert [row["id"] for row in traces] == [str(number) for number in range(ITEMS)]
    assert traces[1]["samples"][0]["output"] == "4.0 chairs"
    assert traces[1]["media"][0]["path"] == "scenes/room_test_00000"
    assert traces[1]["media"][0]["frame_indices"] == [0, 5]
    assert traces[1]["media"][0]["times_s"] == [0.0, 2.5]
    assert traces[1]["scores"][0]["score"] == 1.0


def test_launch_score_gives_the_same_numbers(world: Path, tmp_path: Path) -> None:
    with chat_server(lambda asked: "B" if "0?" in asked.text else perfect(asked)) as server:
        assert main(command(world, tmp_path, *at(server.url))) == 0
    scored = tmp_path / "again.json"
    files = ["--predictions", str(tmp_path / "predictions.jsonl"), "--json", str(scored)]
    assert main(["score", "vsibench", *files, "--references", str(world / "test.jsonl")]) == 0
    assert json.loads(scored.read_text())["metrics"] == score_of(tmp_path)["metrics"]
    assert score_of(tmp_path)["metrics"]["route_planning/accuracy"]["value"] == 80.0


def test_separate_shards_give_what_one_command_gives(world: Path, tmp_path: Path) -> None:
    with chat_server(perfect) as server:
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        assert main(command(world, whole, *at(server.url))) == 0
        for shard in ("2", "0"):
            some = ["--shards", "3", "--shard", shard]
            assert main(command(world, parts, *at(server.url), *some)) == 0
        merge = ["eval", "vsibench", "--merge", "--output", str(parts)]
        merge += ["--references", str(world / "test.jsonl")]
        assert main(merge) == 65  # one is missing
        assert main(command(world, parts, *at(server.url), "--shards", "3", "--shard", "1")) == 0
        assert main(merge) == 0
        assert main(command(world, parts, *at(server.url), "--shards", "4")) == 64
        asked = len(server.asked)
        assert main(command(world, parts, *at(server.url), "--shards", "3")) == 0
        assert len(server.asked) == asked == 2 * ITEMS  # nothing is asked twice
    for name in ("ids.txt", "predictions.jsonl", "traces.jsonl"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    assert score_of(whole)["metrics"] == score_of(parts)["metrics"]
    known = score_of(whole)["evaluation"]
    assert known["ids_sha256"] == hashlib.sha256((whole / "ids.txt").read_bytes()).hexdigest()


def test_a_kill_in_the_middle_changes_no_byte(world: Path, tmp_path: Path) -> None:
    def slowly(asked: Asked) -> str:
        time.sleep(0.02)
        return f"{perfect(asked)} {hashlib.sha256(asked.text.encode()).hexdigest()}"

    with chat_server(slowly) as server:
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        slow = [*at(server.url), "--concurrency", "2"]
        file = killed / "shards" / "0000-of-0001.answers.jsonl"
        stop_at = 5_000  # bytes: after the first chunk, before the last

        def now() -> bool:
            return file.is_file() and file.stat().st_size > stop_at

        log = tmp_path / "log"
        assert run_child(command(world, killed, *slow), log, kill_when=now) == -9
        kept = file.read_bytes()
        assert 0 < kept.count(b"\n") - 1 < ITEMS
        file.write_bytes(kept + b'{"id": "77", "sample_id": "vsib')  # as a power cut leaves it
        assert main(command(world, killed, *slow)) == 0
        assert main(command(world, whole, *slow)) == 0
    names = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert len(names) == 6
    for name in names:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    assert file.read_bytes().startswith(kept)


def test_samples_give_pass_at_k_and_the_oracle_its_own_row(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, int] = {}

    def once_of_four(asked: Asked) -> str:
        """Each question's first reply is right; the other three are not."""
        assert asked.body["temperature"] == 0.7
        seen[asked.text] = seen.get(asked.text, 0) + 1
        return perfect(asked) if seen[asked.text] == 1 else "no idea"

    several = ["--samples-per-question", "4", "--temperature", "0.7", "--limit", "10"]
    with chat_server(once_of_four) as server:
        assert main(command(world, tmp_path, *at(server.url), *several)) == 0
        assert len({asked.body["seed"] for asked in server.asked}) == 40
    result = score_of(tmp_path)
    assert result["metrics"]["overall"]["value"] == 25.0  # no oracle in the default row
    assert result["samples"]["metrics"]["score"] == {
        "mean_over_samples": 0.25,
        "pass@1": 0.25,
        "pass@2": 0.5,
        "pass@4": 1.0,
        "oracle_best_of_4": 1.0,
    }
    assert len(lines(tmp_path / "predictions_003.jsonl")) == 10
    assert "oracle_best_of_4" in capsys.readouterr().out


def test_a_list_of_ids_fixes_what_is_asked(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(world / "data")]
    ids = tmp_path / "ids.txt"
    assert main(["eval", "vsibench", *data, "--write-ids", str(ids), "--limit", "7"]) == 0
    chosen = ids.read_text().split()
    assert len(chosen) == 7
    assert hashlib.sha256(ids.read_bytes()).hexdigest() in capsys.readouterr().out
    with chat_server(perfect) as server:
        out = tmp_path / "out"
        assert main(command(world, out, *at(server.url), "--ids", str(ids))) == 0
        known = score_of(out)["evaluation"]
        assert known["ids_sha256"] == hashlib.sha256(ids.read_bytes()).hexdigest()
        assert [row["id"] for row in lines(out / "traces.jsonl")] == chosen
        ids.write_text("\n".join([*chosen, "4711"]))
        assert main(command(world, tmp_path / "no", *at(server.url), "--ids", str(ids))) == 65
        # The same folder is not continued with other items or settings.
        assert main(command(world, out, *at(server.url))) == 64
        same = ["--ids", str(out / "ids.txt"), "--max-tokens", "20"]
        assert main(command(world, out, *at(server.url), *same)) == 64
        assert len(server.asked) == 7


def test_what_cannot_be_asked_is_named_and_counts_as_wrong_only_when_allowed(
    world: Path, tmp_path: Path
) -> None:
    def reply(asked: Asked) -> str | tuple[int, str]:
        return (400, "too many images") if "Which way, 0?" in asked.text else perfect(asked)

    with chat_server(reply) as server:
        assert main(command(world, tmp_path, *at(server.url))) == 65
        assert score_of(tmp_path)["not_scored"] == "items could not be asked"
        assert main(command(world, tmp_path, *at(server.url), "--allow-missing")) == 0
    assert lines(tmp_path / "shards" / "0000-of-0001.errors.jsonl")[0]["id"] == "0"
    result = score_of(tmp_path)
    assert result["evaluation"]["could_not_be_asked"] == 1
    assert result["metrics"]["route_planning/accuracy"]["value"] == pytest.approx(100 * 39 / 40)


def test_data_and_references_must_fit_before_anything_is_asked(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = vsi_rows()
    more = tmp_path / "more.jsonl"
    extra = [{**rows[0], "id": 900 + number} for number in range(2)]
    more.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *extra]))
    data = ["--data", str(world / "data"), "--output", str(tmp_path / "out"), *SMALL]
    model = at("http://127.0.0.1:9/v1")  # nobody is there
    assert main(["eval", "vsibench", *model, *data, "--references", str(more)]) == 65
    assert "2 of 82 items" in capsys.readouterr().err
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(json.dumps(row) + "\n" for row in rows[3:]))
    assert main(["eval", "vsibench", *model, *data, "--references", str(fewer)]) == 65
    assert "3 of 80 items are not in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    good = ["--references", str(world / "test.jsonl"), "--retries", "0"]
    assert main(["eval", "vsibench", *model, *data, *good]) == 75
    assert "the same command continues" in capsys.readouterr().err
    assert main(["eval", "scanqa", *model, *data, *good]) == 65
    assert "no samples of 'scanqa', found {" in capsys.readouterr().err


def test_double_item_ids_are_an_error(world: Path, tmp_path: Path) -> None:
    from scenerl.launch.eval_items import benchmark_samples
    from scenerl.preprocess.records import DataError

    [sample, *_] = [s for s in read_samples(world / "data", "test") if s.dataset == "vsibench"]
    twice = [sample, replace(sample, sample_id="other")]
    with pytest.raises(DataError, match="1 item ids are there twice: 0"):
        benchmark_samples(twice, "vsibench", "here")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples-per-question", "2"], "gives 2 equal replies"),
        (["--shards", "2", "--shard", "2"], "use 0..N-1"),
        (["--model", "http://localhost/v1"], "--model-name is missing"),
        (["--model", "http://u:p@localhost/v1", "--model-name", "m"], "a user or a password"),
        ([], "--model is missing"),
        (["--merge"], "--merge needs --output"),
    ],
)
def test_options_that_contradict_are_refused(
    world: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [] if "--merge" in options else ["--data", str(world / "data")]
    if options and "--model" not in options and "--merge" not in options:
        options = [*options, "--model", "m"]
    assert main(["eval", "vsibench", *data, *options]) == 64
    assert message in capsys.readouterr().err


def engine(world: Path, out: Path, name: str, *more: str) -> list[str]:
    if not (world / "model").exists():
        tiny_checkpoint(world / "model")
    settings = [f"rollout.engine={name}", "rollout.max_prompt_length=1024"]
    model = ["--model", str(world / "model"), "--limit", "6"]
    return [*command(world, out, *model, *more), *settings, "rollout.cpu_kv_cache_gib=0.25"]


def test_the_transformers_engine_answers_and_goes_on(world: Path, tmp_path: Path) -> None:
    assert main(engine(world, tmp_path, "transformers", "--shards", "2")) == 0
    known = score_of(tmp_path)["evaluation"]
    assert (known["engine"], known["replies"]) == ("transformers", 6)
    assert re.fullmatch("[0-9a-f]{12}", known["policy"])
    before = (tmp_path / "traces.jsonl").read_bytes()
    shard = tmp_path / "shards" / "0001-of-0002.answers.jsonl"
    shard.write_bytes(b"".join(shard.read_bytes().splitlines(keepends=True)[:-1]))
    assert main(engine(world, tmp_path, "transformers", "--shards", "2")) == 0
    assert (tmp_path / "traces.jsonl").read_bytes() == before
    other = ["--shards", "2", "--prompts", "policy"]
    assert main(engine(world, tmp_path, "transformers", *other)) == 64


@pytest.mark.slow  # two engines in Ray actors start for half a minute
def test_two_engines_in_one_command_give_what_one_gives(world: Path, tmp_path: Path) -> None:
    sampled = ["--temperature", "1.0", "--shards", "2"]
    with_ray = engine(world, tmp_path / "two", "transformers", *sampled)
    with_ray.remove("--no-ray")
    assert main(with_ray) == 0
    assert main(engine(world, tmp_path / "one", "transformers", *sampled)) == 0
    two, one = ((tmp_path / name / "traces.jsonl").read_bytes() for name in ("two", "one"))
    assert two == one
    assert len(one.splitlines()) == 6


@pytest.mark.slow  # vLLM starts for 20 s
def test_vllm_answers(world: Path, tmp_path: Path) -> None:
    several = ["--samples-per-question", "2", "--temperature", "1.0"]
    assert main(engine(world, tmp_path, "vllm", *several)) == 0
    traces = lines(tmp_path / "traces.jsonl")
    assert len(traces) == 6
    assert all(row["samples"][0]["output"] != row["samples"][1]["output"] for row in traces)
    assert {reply["num_tokens"] for row in traces for reply in row["samples"]} <= set(range(1, 17))
