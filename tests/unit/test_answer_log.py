"""The answers of a shard: what a kill leaves, and what may be put together."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from scenerl.configs.schema import ConfigError
from scenerl.preprocess.records import DataError
from scenerl.rl.answer_log import (
    AnswerLog,
    ShardHeader,
    ids_sha256,
    merge_shards,
    shard_file,
    shard_ids,
)
from scenerl.rl.durable import file_sha256
from scenerl.rl.run_dir import RunBusyError

IDS = ["a", "b", "c", "d", "e"]


def header(shard: int = 0, shards: int = 2, **changes: object) -> ShardHeader:
    identity = {"ids_sha256": ids_sha256(IDS), "policy": "p", "temperature": 0.0, **changes}
    return ShardHeader(identity=identity, shard=shard, shards=shards, about={"model": "m"})


def open_log(folder: Path, shard: int = 0, shards: int = 2, **changes: object) -> AnswerLog:
    file = shard_file(folder, shard, shards)
    return AnswerLog(file, header(shard, shards, **changes), shard_ids(IDS, shard, shards))


def fill(folder: Path, shards: int = 2) -> None:
    for shard in range(shards):
        with closing(open_log(folder, shard, shards)) as log:
            log.append([{"id": item, "x": item.upper()} for item in shard_ids(IDS, shard, shards)])
            log.write_errors({})


def test_shards_divide_the_ids_without_rest() -> None:
    assert [shard_ids(IDS, shard, 2) for shard in range(2)] == [["a", "c", "e"], ["b", "d"]]
    assert shard_ids(IDS, 0, 1) == IDS


def test_the_hash_of_an_id_list_is_that_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("a\nb\n")
    # printf 'a\nb\n' | sha256sum
    known = "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2"
    assert ids_sha256(["a", "b"]) == known == file_sha256(file)


def test_an_answer_survives_and_is_not_asked_again(tmp_path: Path) -> None:
    with closing(open_log(tmp_path)) as log:
        log.append([{"id": "a", "x": 1.5}])
    with closing(open_log(tmp_path)) as log:
        assert log.rows == {"a": {"id": "a", "x": 1.5}}


@pytest.mark.parametrize("torn", ['{"id": "c", "x": "hal', '{"id": "c"}', "\xff", '{"id": "c\n'])
def test_a_torn_last_line_is_cut_off_and_the_file_goes_on(tmp_path: Path, torn: str) -> None:
    with closing(open_log(tmp_path)) as log:
        log.append([{"id": "a"}])
    file = shard_file(tmp_path, 0, 2)
    whole = file.read_bytes()
    file.write_bytes(whole + torn.encode("latin-1"))
    with closing(open_log(tmp_path)) as log:
        assert list(log.rows) == ["a"]
        assert file.read_bytes() == whole
        log.append([{"id": "c"}])
    assert [json.loads(line).get("id") for line in file.read_text().splitlines()] == [
        None,
        "a",
        "c",
    ]


def test_a_torn_first_line_starts_afresh(tmp_path: Path) -> None:
    file = shard_file(tmp_path, 0, 2)
    file.parent.mkdir(parents=True)
    file.write_text('{"format": "scenerl-ans')
    with closing(open_log(tmp_path)) as log:
        assert log.rows == {}
    assert json.loads(file.read_text())["identity"]["policy"] == "p"


def test_a_damaged_line_in_the_middle_is_an_error_with_its_place(tmp_path: Path) -> None:
    fill(tmp_path)
    file = shard_file(tmp_path, 0, 2)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], '{"id": "a', *lines[2:], ""]))
    with pytest.raises(ValueError, match=r"answers.jsonl:2: found"):
        open_log(tmp_path)


def test_other_settings_do_not_continue_a_file_and_are_named(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    with pytest.raises(ConfigError, match=r"temperature: 0.0 there, 0.7 here"):
        open_log(tmp_path, temperature=0.7)


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    with closing(open_log(tmp_path)), pytest.raises(RunBusyError, match="another process"):
        open_log(tmp_path)


def test_shards_come_together_in_the_order_of_the_ids(tmp_path: Path) -> None:
    fill(tmp_path)
    merged = merge_shards(tmp_path, IDS)
    assert list(merged.rows) == IDS
    assert merged.rows["d"]["x"] == "D"
    assert merged.errors == {}
    assert len(merged.about) == 2


def test_an_item_that_could_not_be_asked_is_known_by_its_reason(tmp_path: Path) -> None:
    fill(tmp_path)
    file = shard_file(tmp_path, 1, 2)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with closing(open_log(tmp_path, 1)) as log:
        log.write_errors({"d": "no such scene"})
    merged = merge_shards(tmp_path, IDS)
    assert merged.errors == {"d": "no such scene"}
    assert list(merged.rows) == ["a", "b", "c", "e"]


def line(file: Path, number: int) -> str:
    return file.read_text().splitlines(keepends=True)[number]


def test_what_is_missing_double_or_foreign_is_an_error(tmp_path: Path) -> None:
    zero, one = shard_file(tmp_path, 0, 2), shard_file(tmp_path, 1, 2)
    fill(tmp_path)
    good_zero, good_one = zero.read_text(), one.read_text()

    one.write_text("".join(good_one.splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"1 of 2 items are not answered yet: d"):
        merge_shards(tmp_path, IDS)
    one.write_text(good_one + line(one, 1))
    with pytest.raises(DataError, match=r"1 items answered more than once: b"):
        merge_shards(tmp_path, IDS)
    one.write_text(good_one + good_zero.splitlines(keepends=True)[1])
    with pytest.raises(DataError, match=r"1 items not of this shard: a"):
        merge_shards(tmp_path, IDS)
    one.write_text(good_one.replace('"policy": "p"', '"policy": "q"'))
    with pytest.raises(ConfigError, match=r'policy: "q" there, "p" here'):
        merge_shards(tmp_path, IDS)
    one.unlink()
    with pytest.raises(DataError, match=r"missing: 0001-of-0002"):
        merge_shards(tmp_path, IDS)
    one.write_text(good_one)
    shard_file(tmp_path, 2, 3).write_text(good_one)
    with pytest.raises(DataError, match=r"of another number of shards: 0002-of-0003"):
        merge_shards(tmp_path, IDS)
    shard_file(tmp_path, 2, 3).unlink()
    with pytest.raises(DataError, match="another id list"):
        merge_shards(tmp_path, [*IDS, "f"])
    one.write_text("")
    with pytest.raises(DataError, match="no header"):
        merge_shards(tmp_path, IDS)


def test_nothing_to_merge_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="launch eval"):
        merge_shards(tmp_path, IDS)
