"""The clock of `launch bench`, its rows and its table."""

import json
import time
from pathlib import Path

import pytest

from scenerl.launch import bench
from scenerl.launch.cli import main
from scenerl.launch.measure import Comparison, Entry, measure, peak_memory_mb

ROW = [
    "case", "variant", "peer", "median_ms", "peer_median_ms", "ratio", "peak_mb", "peer_peak_mb",
    "floor_ms",
]  # fmt: skip


def test_rounds_are_interleaved_and_warm_up_and_memory_are_not_timed() -> None:
    calls: list[str] = []
    entries = [Entry(name=name, run=lambda name=name: calls.append(name)) for name in "ab"]
    measure(entries, rounds=3)
    assert "".join(calls) == "ab" + "ab" + "ab" + "ba" + "ab"


def test_a_sleep_takes_its_time_and_quantiles_are_ordered() -> None:
    (timing,) = measure([Entry(name="nap", run=lambda: time.sleep(0.02))], rounds=3)
    assert 20 <= timing.p20_ms <= timing.median_ms <= timing.p80_ms
    assert timing.median_ms < 500  # a busy machine oversleeps


def test_memory_is_what_a_call_adds_even_when_it_is_freed_again() -> None:
    peak = peak_memory_mb(lambda: bytearray(50_000_000))
    if peak is None:
        pytest.skip("this system does not tell the peak of a process")
    assert peak == pytest.approx(50, abs=5)


def test_a_row_compares_each_of_ours_with_each_peer() -> None:
    nap = Entry(name="ours", run=lambda: time.sleep(0.005), floor_ms=1.0)
    peers = tuple(Entry(name=n, run=lambda: time.sleep(0.02)) for n in ("one", "two"))
    rows = bench.run_comparisons([Comparison(case="nap", ours=(nap,), peers=peers)], rounds=3)
    assert [list(row) for row in rows] == [ROW, ROW]
    assert [row["peer"] for row in rows] == ["one", "two"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["peer_median_ms"] / row["median_ms"], rel=1e-3)
        assert row["ratio"] > 1.5  # the peer is ours four times over
        assert row["floor_ms"] == 1.0


def test_without_a_peer_the_row_says_so_and_the_reason_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = (Entry(name="ours", run=lambda: None),)
    (row,) = bench.run_comparisons(
        [Comparison(case="c", ours=ours, left_out=("rival: not installed",))], rounds=1
    )
    assert (row["peer"], row["peer_median_ms"], row["ratio"]) == (None, None, None)
    assert "left out: rival: not installed" in capsys.readouterr().out


def test_the_command_writes_rows_machine_and_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "decode.json"
    assert main(["bench", "decode", "--quick", "--rounds", "1", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert list(report) == ["rows", "machine", "versions"]
    assert all(list(row) == ROW for row in report["rows"])
    assert {row["peer"] for row in report["rows"]} >= {"decord", "PyAV"}
    assert report["machine"]["cpus"] >= 1
    assert report["versions"]["av"] is not None
    assert "median ms" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["nothing"], ["decode", "--rounds", "0"], []])
def test_what_cannot_be_measured_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *words])
    assert stop.value.code == 2
