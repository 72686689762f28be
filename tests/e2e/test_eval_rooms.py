"""Rooms in the benchmarks' own formats, from export to score, and a model that knows the truth."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import Asked, chat_server

from scenerl.envs.benchmark_prompts import box_text
from scenerl.launch.cli import main

SMALL = ["env.num_frames=2", "env.video_total_pixels=20000", "env.video_min_pixels=784"]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms")
    command = ["preprocess", "rooms", "--output", str(root / "data"), "--train", "0", "--val", "1"]
    assert main([*command, "--test", "0", "--frames", "12"]) == 0
    return root


def load(file: Path) -> Any:
    return json.loads(file.read_text())


def by_words(answers: dict[str, str]) -> Callable[[Asked], str]:
    """Answer the question of `answers` that is a line of the prompt."""

    def reply(asked: Asked) -> str:
        lines = [line.split("escription: ")[-1] for line in asked.text.split("\n")]
        quoted = asked.text.split('"')[1:2]
        return next(answers[line] for line in (*lines, *quoted) if line in answers)

    return reply


def scanqa(bench: Path) -> tuple[Path, list[str], dict[str, str]]:
    file = bench / "ScanQA_v1.0_val.json"
    return file, [], {row["question"]: row["answers"][0] for row in load(file)}


def sqa3d(bench: Path) -> tuple[Path, list[str], dict[str, str]]:
    file = bench / "v1_balanced_questions_val_scannetv2.json"
    rows = load(bench / "v1_balanced_sqa_annotations_val_scannetv2.json")["annotations"]
    truth = {row["question_id"]: row["answers"][0]["answer"] for row in rows}
    questions = load(file)["questions"]
    return file, [], {row["question"]: truth[row["question_id"]] for row in questions}


def vsibench(bench: Path) -> tuple[Path, list[str], dict[str, str]]:
    file = bench / "val.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return file, [], {row["question"]: row["ground_truth"] for row in rows}


def scanrefer(bench: Path) -> tuple[Path, list[str], dict[str, str]]:
    file, boxes = bench / "ScanRefer_filtered_val.json", bench / "boxes_val.jsonl"
    rows = [json.loads(line) for line in boxes.read_text().splitlines()]
    known = {str(row["object_id"]): row["box"] for row in rows}
    truth = {row["description"]: box_text(known[str(row["object_id"])]) for row in load(file)}
    return file, ["--boxes", str(boxes)], truth


def multi3drefer(bench: Path) -> tuple[Path, list[str], dict[str, str]]:
    file, boxes = bench / "multi3drefer_val.json", bench / "boxes_val.jsonl"
    rows = [json.loads(line) for line in boxes.read_text().splitlines()]
    known = {str(row["object_id"]): row["box"] for row in rows}
    truth = {
        row["description"]: "".join(box_text(known[str(number)]) for number in row["object_ids"])
        or "<bbox></bbox>"
        for row in load(file)
    }
    return file, ["--boxes", str(boxes)], truth


def temporal(bench: Path) -> tuple[Path, list[str], dict[str, str]]:
    file = bench / "val.json"
    return (
        file,
        [],
        {
            sentence.rstrip("."): f"<think>x</think><answer>{start}s to {end}s</answer>"
            for video in load(file).values()
            for sentence, (start, end) in zip(video["sentences"], video["timestamps"], strict=True)
        },
    )


@pytest.mark.parametrize(
    ("make", "metric", "best"),
    [
        (scanqa, "em@1", 100.0),
        (sqa3d, "em", 100.0),
        (vsibench, "overall", 100.0),
        (scanrefer, "acc@0.5", 1.0),
        (multi3drefer, "F1@0.5", 1.0),
        (temporal, "mIoU", 1.0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_model_that_knows_the_truth_has_the_best_score(
    rooms: Path, tmp_path: Path, make: Any, metric: str, best: float
) -> None:
    name, bench, data = make.__name__, tmp_path / "bench", str(rooms / "data")
    export = ["preprocess", "rooms-export", "--input", data, "--format", name]
    assert main([*export, "--output", str(bench)]) == 0
    file, options, answers = make(bench)
    assert main(["preprocess", name, "--input", str(file), "--scenes", data, "--output", data]) == 0
    command = ["eval", name, "--data", data, "--references", str(file), *options, *SMALL]
    command += ["--bootstrap", "0", "--output", str(tmp_path / "out")]
    with chat_server(by_words(answers)) as server:
        assert main([*command, "--model", server.url, "--model-name", "m"]) == 0
        assert len(server.asked) == load(tmp_path / "out" / "score.json")["evaluation"]["items"]
    metrics = load(tmp_path / "out" / "score.json")["metrics"]
    assert metrics[metric]["value"] == pytest.approx(best, rel=1e-3), metrics


def test_sceneparser_is_asked_by_image_and_category(rooms: Path, tmp_path: Path) -> None:
    bench, data = tmp_path / "bench", str(tmp_path / "data")
    export = ["preprocess", "rooms-export", "--input", str(rooms / "data"), "--format"]
    assert main([*export, "sceneparser", "--output", str(bench)]) == 0
    file = bench / "val.jsonl"
    images = [json.loads(line) for line in file.read_text().splitlines()]
    prepare = ["preprocess", "sceneparser-samples", "--input", str(file), "--media", str(bench)]
    assert main([*prepare, "--output", data]) == 0

    def reply(asked: Asked) -> str:
        """Give the objects of the category in all images; only one image's are there."""
        name = asked.text.split("Find every ")[1].split(" in the image")[0]
        objects = [
            {"name": name, "bbox": item["object_bbox"], "parts": []}
            for image in images
            for item in image["objects"]
            if item["phrase"] == name
        ]
        assert objects
        for item in objects:
            x0, y0, x1, y1 = item["bbox"]
            item["bbox"] = [x0 / 224, y0 / 168, x1 / 224, y1 / 168]
        return json.dumps({"objects": objects})

    command = ["eval", "sceneparser", "--data", data, "--references", str(file), "--bootstrap", "0"]
    with chat_server(reply) as server:
        model = ["--model", server.url, "--model-name", "m", "--output", str(tmp_path / "out")]
        assert main([*command, *model]) == 0
        assert {len(asked.images) for asked in server.asked} == {1}
    metrics = load(tmp_path / "out" / "score.json")["metrics"]
    assert metrics["L1/recall"]["value"] == pytest.approx(1.0), metrics
