"""The words of the benchmarks, the choice of items, and what names a checkpoint."""

import hashlib
import shutil
from pathlib import Path

import pytest

from scenerl.configs.schema import ConfigError, EnvConfig
from scenerl.envs.benchmark_prompts import ASKING, asking, benchmark_text, box_text, options_text
from scenerl.envs.benchmark_task import BenchmarkTask
from scenerl.envs.family import ModelFamily
from scenerl.launch.eval_items import pick, read_ids, write_ids
from scenerl.launch.eval_model import policy_fingerprint
from scenerl.preprocess.records import DataError, Media, Sample, Target

FAMILY = ModelFamily(name="qwen2_5_vl", patch_size=14, merge_size=2, relative_coordinates=False)


def sample(question: str = "How many {chairs}?", **changes: object) -> Sample:
    values: dict[str, object] = {
        "sample_id": "s",
        "dataset": "d",
        "split": "val",
        "question": question,
        "media": Media(kind="video", scene="scenes/a"),
        "target": Target(box_world=(0.0, -1.25, 0.5, 1.0, 0.0, 1.00004)),
    }
    return Sample(**{**values, **changes})  # type: ignore[arg-type]


def test_vsibench_asks_for_a_number_word_by_word() -> None:
    assert benchmark_text(ASKING["vsibench"], sample()) == (
        "These are frames of a video.\nHow many {chairs}?\n"
        "Please answer the question using a single word or phrase."
    )
    assert benchmark_text(ASKING["vsibench"], sample(), "api") == (
        "These are frames of a video.\nHow many {chairs}?\n"
        "Do not response anything other than a single number!"
    )


@pytest.mark.parametrize("style", ["benchmark", "api"])
def test_vsibench_asks_for_a_letter_word_by_word(style) -> None:
    asked = sample("Which is nearest?", options=("A. table", "B. chair"))
    assert benchmark_text(ASKING["vsibench"], asked, style) == (
        "These are frames of a video.\nWhich is nearest?\nOptions:\nA. table\nB. chair\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_a_situation_comes_before_its_question() -> None:
    text = benchmark_text(ASKING["sqa3d"], sample("What is behind me?", situation="I face it."))
    assert text.startswith("I face it.\nWhat is behind me?\n")
    assert benchmark_text(ASKING["sqa3d"], sample("What?")).startswith("What?\n")


def test_the_other_texts_have_what_they_need() -> None:
    target = Target(label="mug", box_world=(0, 0, 0, 1, 1, 1))
    for how in ASKING.values():
        text = benchmark_text(how, sample("the red mug", target=target))
        assert "mug" in text or "(0.0000, 0.0000, 0.0000, 1.0000, 1.0000, 1.0000)" in text
        assert "{{" not in text


def test_options_get_letters_where_they_have_none() -> None:
    assert options_text(["table", "chair"]) == "A. table\nB. chair"
    assert options_text(["A. table", "B. chair"]) == "A. table\nB. chair"
    assert options_text(["A chair", "a table"]) == "A. A chair\nB. a table"


def test_a_box_has_four_decimals() -> None:
    assert box_text(sample().target.box_world) == (
        "<bbox>(0.0000, -1.2500, 0.5000, 1.0000, 0.0000, 1.0000)</bbox>"
    )
    assert box_text(None) == "<bbox></bbox>"


def test_a_benchmark_without_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="no prompt is known for 'nope'"):
        asking("nope")
    with pytest.raises(ConfigError, match="--chain"):
        BenchmarkTask(benchmark="scanrefer", config=EnvConfig(), family=FAMILY, style="policy")


def test_a_longer_list_contains_the_shorter_one_whatever_the_order() -> None:
    ids = [f"q{number}" for number in range(50)]
    few, many = pick(ids, 10, seed=0), pick(ids, 20, seed=0)
    assert set(few) < set(many)
    assert few == [item for item in ids if item in set(few)]
    assert set(pick(ids[::-1], 10, seed=0)) == set(few)
    assert set(pick(ids, 10, seed=1)) != set(few)
    # The first by hand: the smallest sha256 of "0|id".
    assert pick(ids, 1, 0) == [min(ids, key=lambda i: hashlib.sha256(f"0|{i}".encode()).digest())]
    for limit in (0, 51):
        with pytest.raises(ConfigError, match="expected 1 to 50"):
            pick(ids, limit, seed=0)


def test_a_list_of_ids_goes_round(tmp_path: Path) -> None:
    file = tmp_path / "lists" / "ids.txt"
    ids = ["scene|1|0", "x.jpg|büchse ", "  y", "a\u2028b"]
    assert write_ids(file, ids) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_ids(file) == ids
    file.write_bytes(b"\xef\xbb\xbfa\r\nb\r\n\r\n")
    assert read_ids(file) == ["a", "b"]
    for content, message in ((b"a\na\n", "ids twice: a"), (b"\n", "no ids"), (b"\xff", "UTF-8")):
        file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_ids(file)
    with pytest.raises(DataError, match="do not fit on one line"):
        write_ids(file, ["a\nb"])


def test_copies_of_a_checkpoint_have_one_name_and_other_weights_another(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    (one / "config.json").write_text("{}")
    (one / "model.safetensors").write_bytes(bytes(3_000_000))
    shutil.copytree(one, two)
    assert policy_fingerprint(str(one)) == policy_fingerprint(str(two))
    with (two / "model.safetensors").open("r+b") as file:
        file.seek(1_234_567)
        file.write(b"\x01")
    assert policy_fingerprint(str(one)) != policy_fingerprint(str(two))
