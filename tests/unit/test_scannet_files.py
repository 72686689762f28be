"""The files beside a `.sens`: facts, labels, lists, and what is said when one is missing."""

from pathlib import Path

import numpy as np
import pytest

from scenerl.preprocess.records import DataError
from scenerl.preprocess.scannet_files import (
    axis_alignment,
    find_scans,
    read_facts,
    read_nyu40,
    read_splits,
)


def place(root: Path, *names: str) -> Path:
    for name in names:
        folder = root / name
        folder.mkdir(parents=True)
        (folder / f"{name}.sens").touch()
    return root


def test_scans_are_found_in_folders_of_folders_folders_and_files(tmp_path: Path) -> None:
    root = place(tmp_path, "scene0001_00", "scene0000_01")
    file = root / "scene0001_00" / "scene0001_00.sens"
    for inputs, expected in (
        ([root], ["scene0000_01", "scene0001_00"]),
        ([root / "scene0000_01"], ["scene0000_01"]),
        ([file], ["scene0001_00"]),
        ([file, root], ["scene0000_01", "scene0001_00"]),
    ):
        scans, bare = find_scans(inputs)
        assert [scan.scan_id for scan in scans] == expected
        assert bare == []
        assert not scans[0].is_annotated
    assert scans[0].missing == (
        "scene0000_01_vh_clean_2.ply",
        "scene0000_01_vh_clean_2.0.010000.segs.json",
        "scene0000_01.aggregation.json",
    )


def test_a_scan_folder_without_sens_is_named(tmp_path: Path) -> None:
    root = place(tmp_path, "scene0001_00")
    (root / "scene0002_00").mkdir()
    _, bare = find_scans([root])
    assert [folder.name for folder in bare] == ["scene0002_00"]
    with pytest.raises(DataError, match=r"Terms of Use.*type .sens"):
        find_scans([root / "scene0002_00"])
    with pytest.raises(DataError, match=r"holds no \.sens"):
        find_scans([root / "nowhere"])


def test_two_scans_of_one_name_are_refused(tmp_path: Path) -> None:
    place(tmp_path / "a", "scene0001_00")
    place(tmp_path / "b", "scene0001_00")
    with pytest.raises(DataError, match="have the same name"):
        find_scans([tmp_path / "a", tmp_path / "b"])


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "..sens.sens").touch()
    with pytest.raises(DataError, match="named by letters"):
        find_scans([tmp_path])


def test_the_alignment_is_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "scene.txt"
    path.write_text(
        "axisAlignment = 0.6 0.8 0 1 -0.8 0.6 0 2 0 0 1 3 0 0 0 1 \ncolorHeight = 968\n"
        "sceneType = Bedroom / Hotel\n"
    )
    assert read_facts(path)["sceneType"] == "Bedroom / Hotel"
    found = axis_alignment(path)
    np.testing.assert_array_equal(
        found, [[0.6, 0.8, 0, 1], [-0.8, 0.6, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    )


def test_a_scan_without_alignment_has_none(tmp_path: Path) -> None:
    (tmp_path / "scene.txt").write_text("colorHeight = 968\n")
    assert axis_alignment(tmp_path / "scene.txt") is None
    assert axis_alignment(None) is None


@pytest.mark.parametrize(
    "text", ["1 2 3", "a b", " ".join(["nan"] * 16), "2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1"]
)
def test_a_broken_alignment_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "scene.txt").write_text(f"axisAlignment = {text}\n")
    with pytest.raises(DataError, match="axisAlignment"):
        axis_alignment(tmp_path / "scene.txt")


def test_the_table_of_labels_gives_classes(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_text("id\traw_category\tnyu40id\n1\twall\t1\n2\toffice chair\t5\n3\twall\t2\n")
    assert read_nyu40(path) == {"wall": 2, "office chair": 5}
    path.write_text("id\traw_category\tnyu40id\n1\twall\tone\n")
    with pytest.raises(DataError, match=r"labels.tsv: line 2: nyu40id is 'one'"):
        read_nyu40(path)
    path.write_text("a,b\n")
    with pytest.raises(DataError, match="expected raw_category and nyu40id"):
        read_nyu40(path)
    with pytest.raises(DataError, match=r"Terms of Use.*label_map"):
        read_nyu40(tmp_path / "missing.tsv")


def test_lists_give_splits(tmp_path: Path) -> None:
    for split, names in (("train", "scene0000_00\nscene0000_01\n"), ("val", "scene0001_00\n")):
        (tmp_path / f"scannetv2_{split}.txt").write_text(names)
    lists = [tmp_path / "scannetv2_train.txt", tmp_path / "scannetv2_val.txt"]
    assert read_splits(lists) == {
        "scene0000_00": "train",
        "scene0000_01": "train",
        "scene0001_00": "val",
    }
    lists[1].write_text("scene0000_01\n")
    with pytest.raises(DataError, match="scene0000_01 is in the list of train too"):
        read_splits(lists)
    with pytest.raises(DataError, match="must say train, val or test"):
        read_splits([tmp_path / "list.txt"])
    with pytest.raises(DataError, match=r"does not exist.*benchmark"):
        read_splits([tmp_path / "scannetv2_test.txt"])
