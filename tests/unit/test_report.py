import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_inputs import NASTY, make_data, write_ground, write_run

from scenerl.configs.schema import ConfigError
from scenerl.launch import report_rollouts
from scenerl.launch.cli import main
from scenerl.launch.report import page, write_report
from scenerl.launch.report_chain import oracle_rows
from scenerl.launch.report_files import Packer, spread_over
from scenerl.launch.report_run import MAX_POINTS, run_section


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, two runs and the output of the chain."""
    root = tmp_path_factory.mktemp("demo")
    data = make_data(root / "data")
    write_run(root, "stage1", data)
    write_run(root, "stage2", data)
    write_ground(root / "ground", data)
    return root


@pytest.fixture
def run(demo: Path, tmp_path: Path) -> Path:
    """A copy of the stage 1 run, to be damaged."""
    return Path(shutil.copytree(demo / "stage1", tmp_path / "stage1"))


def read_data(file: Path) -> dict[str, Any]:
    """Return the data that a report carries."""
    text = file.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    data = json.loads(found[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert isinstance(data, dict)
    return data


def test_a_folder_of_runs_gives_one_page_with_all_of_them(demo: Path, tmp_path: Path) -> None:
    file = write_report(demo, tmp_path / "report.html")
    data = read_data(file)
    assert [item["name"] for item in data["runs"]] == ["stage1", "stage2"]
    assert [item["name"] for item in data["chains"]] == ["ground"]
    assert data["tiles"][0] == {
        "label": "stage1: mean temporal IoU",
        "before": 0.25,
        "value": 0.75,
    }
    assert data["notes"] == []
    assert file.stat().st_size < 4_000_000


def test_the_page_loads_nothing_from_elsewhere(demo: Path, tmp_path: Path) -> None:
    text = write_report(demo, tmp_path / "report.html").read_text(encoding="utf-8")
    markup = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.S)
    addresses = re.findall(r"https?://[^\s\"'`]+", markup)
    assert set(addresses) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|iframe)|src=\"(?!data:)|@import|url\(", markup)
    assert "default-src 'none'" in markup


def test_rollouts_come_with_frames_answers_and_rewards(demo: Path) -> None:
    group = run_section(demo / "stage1", 2, Packer())["groups"][0]
    assert group["kind"] == "video"
    assert group["step"] == 1
    assert len(group["frames"]) == 12
    assert group["frames"][0]["src"].startswith("data:image/jpeg;base64,")
    right, *_, mute, nasty = group["completions"]
    assert right["span_s"] == pytest.approx(group["true_spans"][0], abs=0.06)  # replies have 0.1 s
    assert right["advantage"] > 0 > mute["advantage"]
    assert set(right["rewards"]) == {"iou", "format"}
    assert mute["parse_error"]
    assert mute["span_s"] is None
    assert nasty["completion"] == NASTY


def test_an_image_rollout_has_the_true_box_of_its_frame(demo: Path) -> None:
    group = run_section(demo / "stage2", 1, Packer())["groups"][0]
    assert group["kind"] == "image"
    assert len(group["frames"]) == 1
    assert group["completions"][0]["box_px"] == pytest.approx(group["true_box"], abs=2.0)
    assert (group["frames"][0]["width"], group["frames"][0]["height"]) == (96, 72)


def test_a_dropped_group_says_so(demo: Path) -> None:
    groups = run_section(demo / "stage1", 2, Packer())["groups"]
    assert [group["dropped"] for group in groups] == [False, True]


def test_evaluations_become_before_after_and_change(demo: Path) -> None:
    evals = run_section(demo / "stage1", 0, Packer())["evals"]
    assert evals["columns"] == ["before", "after"]
    assert evals["rows"][0] == ["temporal_iou", 0.25, 0.75, 0.5]


def test_diagnostics_count_parse_errors_and_prompt_outcomes(demo: Path) -> None:
    found = run_section(demo / "stage1", 0, Packer())["diagnostics"]
    assert found["num_completions"] == 40  # 4 steps x 2 prompts x 5 replies
    unparsed = [row for row in found["completions"] if row[0].startswith("not parsed")]
    assert sum(row[1] for row in unparsed) == 16
    assert [row[1:] for row in found["prompts"]] == [[4, 0.5], [4, 0.5]]


def test_a_chain_shows_cloud_boxes_losses_and_what_was_not_answered(
    demo: Path, tmp_path: Path
) -> None:
    chain = read_data(write_report(demo / "ground", tmp_path / "report.html"))["chains"][0]
    right, silent = chain["answers"]
    cloud = right["cloud"]
    assert cloud["up"] == [0.0, 0.0, 1.0]
    assert sum(part["count"] for part in cloud["parts"]) * 8 == len(cloud["points"])
    assert any(part["normal"] for part in cloud["parts"])
    assert right["picture"].startswith("data:image/jpeg;base64,")
    assert right["box"]
    assert right["true_box"]
    assert right["span_s"]
    assert silent["box"] is None
    assert silent["verdict"] == "span"
    assert chain["num_unanswered"] == 1
    assert "no <answer> block" in chain["unanswered"][0][1]
    assert chain["skipped"] == [["no depth", 3]]
    assert next(row[0] for row in chain["oracle"]) == "everything predicted"


def test_the_cloud_unpacks_to_the_lifted_points(demo: Path) -> None:
    import base64

    from scenerl.launch.report_cloud import pack_cloud

    ply = next((demo / "ground").glob("*.ply"))
    cloud = pack_cloud(ply, None, Packer())
    assert cloud is not None
    codes = np.frombuffer(base64.b64decode(cloud["points"]), "<u2").reshape(-1, 3)
    points = np.array(cloud["low"]) + codes / 65535 * np.array(cloud["size"])
    row = json.loads((demo / "ground" / "answers.jsonl").read_text().splitlines()[0])
    box = np.array(row["box_world"])
    assert np.abs(np.concatenate([points.min(0), points.max(0)]) - box).max() < 0.3
    assert len(cloud["parts"]) == 1


def test_the_loss_of_a_stage_is_what_the_next_swap_wins() -> None:
    def row(iou: float) -> dict[str, float]:
        return {"iou3d": iou, "acc25": 1.0, "acc50": 0.5, "queries": 4}

    table = {"predicted": row(0.25), "true_span": row(0.5), "true_masks": row(0.875)}
    rows = oracle_rows(table)
    assert [item[5:] for item in rows] == [
        ["span", 0.25],
        ["box, tracking", 0.375],
        ["lifting", 0.125],
    ]


@pytest.mark.parametrize("overlapped", [False, True])
def test_the_parts_of_a_mean_step_are_a_whole_step(run: Path, overlapped: bool) -> None:
    seconds = {"sync": 0.5, "rollout": 3.0, "reward": 0.25, "forward_backward": 4.0, "step": 8.0}
    if overlapped:  # three of them passed beside the update
        seconds |= {"wait": 0.75, "step": 5.0}
    row = {"step": 1, **{f"time/{name}_s": value for name, value in seconds.items()}}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    parts = run_section(run, 0, Packer())["diagnostics"]["step_time"]
    assert sum(share for _, _, share in parts) == pytest.approx(1)
    assert {what: length for what, length, _ in parts}["everything else"] == 0.25
    assert any(what == "weights to the engines" for what, *_ in parts) != overlapped


def test_a_run_killed_in_the_middle_of_a_line_is_shown_up_to_there(
    run: Path, tmp_path: Path
) -> None:
    torn = '{"step": 5, "reward/mean": 0.5, "note": "é'.encode()[:-1]
    for name in ("metrics.jsonl", "ledger.jsonl", "rollouts/step_000004.jsonl"):
        with (run / name).open("ab") as file:
            file.write(torn)
    (run / "exit.json").unlink()
    data = read_data(write_report(run, tmp_path / "report.html"))
    assert data["runs"][0]["steps"] == [1, 2, 3, 4]
    assert "runs still, or was killed" in data["runs"][0]["about"]
    assert "metrics.jsonl: a line that is not complete is left out" in data["notes"]


def test_a_run_without_kept_rollouts_has_curves_only(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "rollouts")
    section = read_data(write_report(run, tmp_path / "report.html"))["runs"][0]
    assert section["groups"] == []
    assert section["diagnostics"]["completions"] == []
    assert len(section["series"]["reward/mean"]) == 4


def test_a_missing_media_folder_leaves_words_without_pictures(run: Path, tmp_path: Path) -> None:
    for file in (run / "rollouts").glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["media"][0]["path"] = str(tmp_path / "gone")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_data(write_report(run, tmp_path / "report.html"))
    assert data["runs"][0]["groups"][0]["frames"] == []
    assert data["runs"][0]["groups"][0]["completions"][0]["span_s"]
    assert "gone cannot be read any more" in data["notes"][0]


def test_a_run_that_has_just_started_has_a_page(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "eval")
    shutil.rmtree(run / "rollouts")
    for name in ("metrics.jsonl", "ledger.jsonl", "exit.json"):
        (run / name).unlink()
    data = read_data(write_report(run, tmp_path / "report.html"))
    assert data["tiles"] == []
    assert data["runs"][0]["evals"]["rows"] == []
    assert "no step yet" in data["runs"][0]["about"]


def test_numbers_that_json_does_not_have_are_gaps(run: Path, tmp_path: Path) -> None:
    line = '{"step": 5, "reward/mean": NaN, "policy/kl": Infinity, "reward/iou": 0.5}\n'
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line)
    (run / "eval" / "after.json").write_text('{"temporal_iou": NaN, "parsed": 1.0}')
    section = read_data(write_report(run, tmp_path / "report.html"))["runs"][0]
    assert section["series"]["reward/mean"][-1] is None
    assert section["series"]["policy/kl"][-1] is None
    assert section["series"]["reward/iou"][-1] == 0.5
    assert section["evals"]["rows"][:2] == [
        ["temporal_iou", 0.25, None, None],
        ["parsed", 1.0, 1.0, 0.0],
    ]


def test_a_line_separator_inside_a_completion_does_not_split_its_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"completion": "a\u2028b\x85c"}, ensure_ascii=False) + "\n", "utf-8")
    packer = Packer()
    assert packer.lines(file) == [{"completion": "a\u2028b\x85c"}]
    assert packer.notes == []


def test_markup_in_a_run_stays_text(tmp_path: Path) -> None:
    data = {"title": f"{NASTY}{{{{data}}}}", "text": f"{NASTY}\ud800 {{{{script}}}}"}
    text = page(data)
    assert text.count("</script>") == 2
    assert "<!-- " not in text
    file = tmp_path / "page.html"
    file.write_text(text, encoding="utf-8")
    assert read_data(file) == data


def test_a_long_run_is_averaged_to_a_bounded_number_of_points(tmp_path: Path) -> None:
    count = 2 * MAX_POINTS + 1
    rows = [{"step": n + 1, "reward/mean": float(n % 2)} for n in range(count)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = run_section(tmp_path, 1, Packer())
    assert section["per_point"] == 3
    assert len(section["steps"]) == 267
    assert section["series"]["reward/mean"][:2] == pytest.approx([1 / 3, 2 / 3])
    assert section["steps"][-1] == count


def test_pictures_beyond_the_budget_are_left_out_and_said() -> None:
    packer = Packer(left=12_000)
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    sources = [packer.picture(noise, 64)["src"] for _ in range(4)]
    assert sources[0] is not None
    assert sources[-1] is None
    assert packer.left >= 0
    assert "too large" in packer.notes[0]


def test_long_completions_are_cut_with_their_length_said(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_rollouts, "MAX_TEXT", 20)
    texts = [c["completion"] for c in run_section(run, 1, Packer())["groups"][0]["completions"]]
    assert texts[-1] == f"{NASTY[:20]} … ({len(NASTY) - 20} more characters)"


def test_positions_are_spread_with_both_ends() -> None:
    assert spread_over(3, 5) == [0, 1, 2]
    assert spread_over(10, 4) == [0, 3, 6, 9]
    assert spread_over(10, 1) == [0]
    assert spread_over(0, 4) == []


def test_the_summary_of_a_demo_gives_the_headline(demo: Path, tmp_path: Path) -> None:
    for name in ("stage1", "ground"):
        shutil.copytree(demo / name, tmp_path / name)
    summary = {
        "stage1": {"miou_before": 0.3, "miou_after": 0.6},
        "stage2": {"box_iou_before": 0.2, "box_iou_after": 0.4},
        "chain": {"acc25": 0.5, "acc50": 0.25, "oracle": {}},
        "queries": 120,
        "train_seconds": 300.4,
        "seed": 7,
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    data = read_data(write_report(tmp_path))
    assert [tile["value"] for tile in data["tiles"]] == [0.6, 0.4, 0.5, 0.25]
    assert data["about"] == ["120 held-out queries", "seed 7", "300 s of training"]


def test_a_folder_without_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"no metrics\.jsonl and no answers\.jsonl"):
        write_report(tmp_path)
    assert main(["report", str(tmp_path / "none")]) == 64
    assert "no run directory" in capsys.readouterr().err
