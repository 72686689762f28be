"""Time and memory of `launch score` over predictions of every rule-based benchmark.

Each benchmark's files are made in the upstream layout, then scored by the command itself in a
process of its own, with 1,000 bootstrap resamples, reading and writing included.

    python tests/bench/bench_score.py --items 100000
    python tests/bench/bench_score.py --items 100000 --only vsibench
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Rows = Iterator[dict[str, Any]]


def box(random_: random.Random) -> list[float]:
    low = [round(random_.uniform(-3, 3), 4) for _ in range(3)]
    return [*low, *(round(value + random_.uniform(0.2, 1.5), 4) for value in low)]


def near(random_: random.Random, true: list[float]) -> list[float]:
    return [round(value + random_.gauss(0, 0.1), 4) for value in true]


def write_lines(path: Path, rows: Rows) -> Path:
    with path.open("w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    return path


def make_scanrefer(folder: Path, count: int, seed: random.Random) -> list[str]:
    rows = [
        {
            "scene_id": f"scene{i // 250:04d}_00",
            "object_id": str(i % 250 // 5),
            "object_name": seed.choice(["chair", "table", "lamp", "office_chair"]),
            "ann_id": str(i % 5),
            "description": "the chair next to the table, it is brown",
            "token": ["the", "chair", "next", "to", "the", "table", ",", "it", "is", "brown"],
        }
        for i in range(count)
    ]
    (folder / "references.json").write_text(json.dumps(rows))
    objects = {(row["scene_id"], row["object_id"]): box(seed) for row in rows}
    boxes = ({"scene_id": s, "object_id": o, "box": b} for (s, o), b in objects.items())
    write_lines(folder / "boxes.jsonl", boxes)
    labels = "".join(
        f"0\t{raw}\tx\t0\t0\tx\tx\t{cls}\n"
        for raw, cls in (("chair", "chair"), ("table", "table"), ("office chair", "chair"))
    )
    (folder / "labels.tsv").write_text("header\n" + labels)
    predictions = (
        {
            "id": f"{row['scene_id']}|{row['object_id']}|{row['ann_id']}",
            "box": near(seed, objects[row["scene_id"], row["object_id"]]),
        }
        for row in rows
    )
    write_lines(folder / "predictions.jsonl", predictions)
    return ["--boxes", str(folder / "boxes.jsonl"), "--labels", str(folder / "labels.tsv")]


def make_nr3d(folder: Path, count: int, seed: random.Random) -> list[str]:
    header = (
        "assignmentid,stimulus_id,utterance,correct_guess,speaker_id,listener_id,scan_id,"
        "instance_type,target_id,tokens,dataset,mentions_target_class"
    )
    with (folder / "references.csv").open("w") as file:
        file.write(header + "\n")
        for i in range(count):
            scene, target = f"scene{i // 200:04d}_00", i % 40
            file.write(
                f"{i},{scene}-chair-2-{target}-41,the left chair,True,1,2,{scene},chair,{target},"
                "\"['the', 'left', 'chair']\",nr3d,True\n"
            )
    rows = ({"id": str(i), "object_id": i % 40 + seed.randrange(2)} for i in range(count))
    write_lines(folder / "predictions.jsonl", rows)
    return []


def make_multi3drefer(folder: Path, count: int, seed: random.Random) -> list[str]:
    kinds = (("zt_w_d", 0), ("st_w_d", 1), ("st_wo_d", 1), ("mt", 2), ("mt", 5))
    objects = [box(seed) for _ in range(40)]
    rows, predictions = [], []
    for i in range(count):
        kind, number = kinds[i % len(kinds)]
        ids = seed.sample(range(40), number)
        scene = f"scene{i // 500:04d}_00"
        row = {"scene_id": scene, "object_ids": ids, "object_name": "chair", "ann_id": i}
        rows.append({**row, "eval_type": kind, "description": "the chairs"})
        found = [near(seed, objects[k]) for k in ids] + [box(seed)] * seed.randrange(2)
        predictions.append({"id": f"{scene}|{i}", "boxes": found})
    (folder / "references.json").write_text(json.dumps(rows))
    scenes = sorted({row["scene_id"] for row in rows})
    boxes = (
        {"scene_id": scene, "object_id": k, "box": b}
        for scene in scenes
        for k, b in enumerate(objects)
    )
    write_lines(folder / "boxes.jsonl", boxes)
    write_lines(folder / "predictions.jsonl", iter(predictions))
    return ["--boxes", str(folder / "boxes.jsonl")]


def make_vsibench(folder: Path, count: int, seed: random.Random) -> list[str]:
    letters = (
        *(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard")),
        *("object_rel_distance", "route_planning", "obj_appearance_order"),
    )
    numbers = ("object_abs_distance", "object_counting", "object_size_estimation")
    kinds = [*letters, *numbers, "room_size_estimation"]

    def references() -> Rows:
        for i in range(count):
            kind = kinds[i % len(kinds)]
            row = {"id": i, "dataset": "scannet", "scene_name": "scene0000_00"}
            row |= {"question_type": kind, "question": "Which is it?"}
            if kind in letters:
                yield row | {"ground_truth": "A", "options": ["A. x", "B. y"]}
            else:
                yield row | {"ground_truth": str(seed.randint(1, 9)), "options": None}

    def predictions() -> Rows:
        for i in range(count):
            is_letter = kinds[i % len(kinds)] in letters
            answer = seed.choice("AB") if is_letter else str(seed.randint(1, 90) / 10)
            yield {"id": str(i), "answer": answer}

    write_lines(folder / "references.jsonl", references())
    write_lines(folder / "predictions.jsonl", predictions())
    return []


def make_temporal(folder: Path, count: int, seed: random.Random) -> list[str]:
    videos: dict[str, Any] = {}
    predictions = []
    for i in range(count):
        video = videos.setdefault(
            f"v{i // 4}", {"duration": 40.0, "timestamps": [], "sentences": []}
        )
        start = seed.uniform(0, 30)
        predictions.append(
            {
                "id": f"v{i // 4}|{len(video['timestamps'])}",
                "response": f"<think>so</think><answer>{start + seed.gauss(0, 2):.2f} to "
                f"{start + 9:.2f}</answer>",
            }
        )
        video["timestamps"].append([start, start + 8])
        video["sentences"].append(f"a person opens door {i}")
    (folder / "references.json").write_text(json.dumps(videos))
    write_lines(folder / "predictions.jsonl", iter(predictions))
    return []


def make_sceneparser(folder: Path, count: int, seed: random.Random) -> list[str]:
    def pixels() -> list[int]:
        x, y = seed.randrange(500), seed.randrange(500)
        return [x, y, x + seed.randrange(20, 200), y + seed.randrange(20, 200)]

    def rows() -> Rows:
        for i in range(count):
            boxes = [pixels() for _ in range(seed.randrange(1, 4))]
            objects, found = [], []
            for place in boxes:
                action = {"action": "sit", "affordance_bbox": place, "point": place[:2]}
                part = {"part_name": "seat", "bbox": place, "affordances": [action]}
                objects.append({"name": "chair", "bbox": place, "parts": [part, part]})
                touched = {"action": "sit", "point": [place[0] + 1, place[1] + 1]}
                seat = {**part, "affordances": [touched]}
                found.append({"name": "chair", "bbox": place, "parts": [seat]})
            line = {"image_path": f"images/{i}.jpg", "category": "chair", "question": "Parse it."}
            yield {
                **line,
                "gt": {"objects": objects},
                "extracted_predictions": {"objects": found[: seed.randrange(1, 4)]},
                "raw_response": "",
            }

    write_lines(folder / "predictions.jsonl", rows())
    os.link(folder / "predictions.jsonl", folder / "references.jsonl")
    return []


WORDS = [
    *("the", "a", "red", "brown", "chair", "table", "left", "right", "two", "2", "yes", "no"),
    *("of", "next", "to", "is", "near", "wall"),
]


def phrase(random_: random.Random) -> str:
    return " ".join(random_.choices(WORDS, k=random_.randint(1, 4)))


def make_scanqa(folder: Path, count: int, seed: random.Random) -> list[str]:
    asked = ("Where is it?", "How many are there?", "What color is it?", "What is it?")
    rows, predictions = [], []
    for i in range(count):
        row = {"scene_id": "scene0000_00", "question_id": f"val-{i}", "question": asked[i % 4]}
        rows.append({**row, "answers": [phrase(seed) for _ in range(1 + i % 3)]})
        predictions.append({"id": f"val-{i}", "answers": [phrase(seed) for _ in range(10)]})
    (folder / "references.json").write_text(json.dumps(rows))
    write_lines(folder / "predictions.jsonl", iter(predictions))
    return []


def make_sqa3d(folder: Path, count: int, seed: random.Random) -> list[str]:
    kinds = ("What is it?", "Is it red?", "How many?", "Can I see it?", "Which way?", "Where?")
    asked, true = [], []
    for i in range(count):
        row = {"question_id": i, "scene_id": "scene0000_00"}
        asked.append({**row, "situation": "I sit.", "question": kinds[i % 6]})
        place = {"position": {"x": 0, "y": 0, "z": 0}, "rotation": None}
        true.append({**row, **place, "answers": [{"answer": phrase(seed)}]})
    (folder / "references.json").write_text(json.dumps({"questions": asked}))
    (folder / "answers").write_text(json.dumps({"annotations": true}))
    rows = ({"id": str(i), "answer": phrase(seed)} for i in range(count))
    write_lines(folder / "predictions.jsonl", rows)
    return ["--annotations", str(folder / "answers")]


def make_scan2cap(folder: Path, count: int, seed: random.Random) -> list[str]:
    def sentence() -> str:
        return f"{phrase(seed)} {phrase(seed)} {phrase(seed)}"

    keys = [f"scene{i // 100:04d}_00|{i}|chair" for i in range(count)]
    corpus = {key: [f"sos {sentence()} eos" for _ in range(5)] for key in keys}
    (folder / "references.json").write_text(json.dumps(corpus))
    rows = ({"id": key, "caption": sentence(), "iou": round(seed.random(), 3)} for key in keys)
    write_lines(folder / "predictions.jsonl", rows)
    return []


def make_msqa(folder: Path, count: int, seed: random.Random) -> list[str]:
    kinds = ("counting", "existence", "attribute", "spatial relationship", "navigation", "refer")
    rows = [
        {
            **{"index": i, "scan_id": "scene0000_00", "situation": "I sit.", "question": "What?"},
            **{"answers": [phrase(seed)], "type": kinds[i % 6], "raw_thought": ""},
        }
        for i in range(count)
    ]
    (folder / "references.json").write_text(json.dumps(rows))
    found = ({"id": str(i), "answer": phrase(seed)} for i in range(count))
    write_lines(folder / "predictions.jsonl", found)
    return []


def make_beacon3d(folder: Path, count: int, seed: random.Random) -> list[str]:
    scenes: dict[str, Any] = {}
    predictions, verdicts = [], []
    for i in range(count // 3):
        scene = f"scene{i // 300:04d}_00"
        asked = [
            {"question": f"{k} of {i}?", "answer": phrase(seed), "tag": "class"} for k in range(3)
        ]
        objects = scenes.setdefault(scene, {}).setdefault("box", {})
        objects[str(i)] = {"qa": [{**row, "extra_knowledge": 0} for row in asked]}
        for k in range(3):
            item = f"{scene}|box|{i}|{k}"
            predictions.append({"id": item, "answer": phrase(seed)})
            verdicts.append({"id": item, "score": seed.randint(1, 5)})
    (folder / "references.json").write_text(json.dumps(scenes))
    write_lines(folder / "predictions.jsonl", iter(predictions))
    write_lines(folder / "verdicts", iter(verdicts))
    return ["--judge", str(folder / "verdicts")]


MAKERS: dict[str, Callable[[Path, int, random.Random], list[str]]] = {
    "scanrefer": make_scanrefer,
    "nr3d": make_nr3d,
    "multi3drefer": make_multi3drefer,
    "vsibench": make_vsibench,
    "temporal": make_temporal,
    "sceneparser": make_sceneparser,
    "scanqa": make_scanqa,
    "sqa3d": make_sqa3d,
    "scan2cap": make_scan2cap,
    "msqa": make_msqa,
    "beacon3d-qa": make_beacon3d,
}


def measure(name: str, folder: Path, options: list[str]) -> tuple[float, float, float]:
    """Return seconds of the clock and of the processor, and peak MiB, of one run."""
    references = next(folder.glob("references.*"))
    command = [sys.executable, "-m", "scenerl.launch.cli", "score", name, *options]
    command += ["--predictions", str(folder / "predictions.jsonl"), "--references", str(references)]
    command += ["--json", str(folder / "out.json"), "--items", str(folder / "items.jsonl")]
    begin = time.monotonic()
    # Without Java: METEOR is a program of its own, which takes about a millisecond a text.
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": ""},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name}: exit status {os.waitstatus_to_exitcode(status)}: {command}")
    seconds = time.monotonic() - begin
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--only", choices=list(MAKERS))
    arguments = parser.parse_args()
    sys.stdout.write("| benchmark | items | seconds | CPU seconds | peak MiB |\n")
    sys.stdout.write("| --- | --- | --- | --- | --- |\n")
    for name in [arguments.only] if arguments.only else MAKERS:
        with tempfile.TemporaryDirectory() as folder:
            options = MAKERS[name](Path(folder), arguments.items, random.Random(0))
            wall, cpu, peak = measure(name, Path(folder), options)
        sys.stdout.write(
            f"| {name} | {arguments.items:,} | {wall:.1f} | {cpu:.1f} | {peak:.0f} |\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
