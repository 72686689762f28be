"""Every annotation format by name: its reader, its draft, and where its files come from.

Nothing heavy is imported here, so that `launch preprocess --help` answers at once.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scenerl.preprocess.records import DataError

SCANNET = "the ScanNet scans are under the ScanNet Terms of Use"


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One annotation format. The name is the one that `launch score` and `launch eval` use."""

    name: str
    title: str
    reader: str
    """module:function, relative to scenerl.preprocess."""
    draft: str
    files: str
    """The files as their owners name them."""
    origin: str
    """From whom, and under which terms."""
    media: str = ""
    """What --media holds; empty where samples only come with prepared scenes."""
    other_command: str = ""

    @property
    def command(self) -> str:
        """The subcommand of `launch preprocess`."""
        return self.other_command or self.name

    def load(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the reader of files and the function that makes a draft of a row."""
        functions = []
        for place in (self.reader, self.draft):
            module, _, name = place.partition(":")
            functions.append(getattr(importlib.import_module(f"scenerl.preprocess.{module}"), name))
        return functions[0], functions[1]


FORMATS: dict[str, Format] = {
    item.name: item
    for item in (
        Format(
            name="scanrefer",
            title="ScanRefer: descriptions of one object",
            reader="rows_scanrefer:read_scanrefer",
            draft="drafts:draft_scanrefer",
            files="ScanRefer_filtered_train.json, ScanRefer_filtered_val.json",
            origin="from the ScanRefer authors after their form, CC BY-NC-SA 3.0; " + SCANNET,
        ),
        Format(
            name="scan2cap",
            title="Scan2Cap: objects to describe (ScanRefer's file)",
            reader="rows_scanrefer:read_scan2cap",
            draft="drafts:draft_scan2cap",
            files="ScanRefer_filtered_train.json, ScanRefer_filtered_val.json",
            origin="from the ScanRefer authors after their form, CC BY-NC-SA 3.0; " + SCANNET,
        ),
        Format(
            name="nr3d",
            title="Nr3D: what people say to tell an object from others of its class",
            reader="rows_referit3d:read_nr3d",
            draft="drafts:draft_referit3d",
            files="nr3d.csv",
            origin="from the ReferIt3D project page, under its terms of use; " + SCANNET,
        ),
        Format(
            name="sr3d",
            title="Sr3D: the same from templates",
            reader="rows_referit3d:read_sr3d",
            draft="drafts:draft_referit3d",
            files="sr3d.csv or sr3d+.csv",
            origin="from the ReferIt3D project page, under its terms of use; " + SCANNET,
        ),
        Format(
            name="multi3drefer",
            title="Multi3DRefer: descriptions of no, one or several objects",
            reader="rows_multi3drefer:read_multi3drefer",
            draft="drafts:draft_multi3drefer",
            files="multi3drefer_train.json, multi3drefer_val.json",
            origin="from the Multi3DRefer project page, under its terms (code: MIT); " + SCANNET,
        ),
        Format(
            name="scanqa",
            title="ScanQA: questions about a scene",
            reader="rows_scanqa:read_scanqa",
            draft="drafts:draft_scanqa",
            files="ScanQA_v1.0_train.json, ScanQA_v1.0_val.json, the two test files",
            origin="from the ScanQA repository (ATR-DBI), CC BY-NC-SA 3.0; " + SCANNET,
        ),
        Format(
            name="sqa3d",
            title="SQA3D: questions asked from a situation",
            reader="rows_sqa3d:read_sqa3d",
            draft="drafts:draft_sqa3d",
            files="v1_balanced_questions_SPLIT_scannetv2.json with "
            "v1_balanced_sqa_annotations_SPLIT_scannetv2.json beside it",
            origin="from the SQA3D authors, CC BY 4.0; " + SCANNET,
        ),
        Format(
            name="vsibench",
            title="VSI-Bench: sizes, distances, directions, counts, orders",
            reader="rows_vsibench:read_vsibench",
            draft="drafts:draft_vsibench",
            files="test.jsonl, or the Parquet file of the data set",
            origin="from the VSI-Bench data set page (repository: Apache-2.0); its videos are "
            "under the terms of ScanNet, ScanNet++ and ARKitScenes",
            media="DATASET/SCENE.mp4 of the release",
        ),
        Format(
            name="msqa",
            title="MSQA / MSR3D: situated questions",
            reader="rows_msqa:read_msqa",
            draft="drafts:draft_msqa",
            files="msqa_DATASET_SPLIT.json",
            origin="from the MSR3D project page after its form, CC BY-NC-SA 4.0; scans under the "
            "terms of ScanNet, 3RScan and ARKitScenes",
        ),
        Format(
            name="gqa3d",
            title="GQA3D: questions about objects, of SceneCOT",
            reader="rows_msqa:read_gqa3d",
            draft="drafts:draft_msqa",
            files="gqa3d_SPLIT.json",
            origin="from the SceneCOT authors' data release; " + SCANNET,
        ),
        Format(
            name="scenecot",
            title="SceneCOT: replies with thoughts, for `launch sft`",
            reader="rows_msqa:read_scenecot",
            draft="drafts:draft_scenecot",
            files="situated_qa_SPLIT_pure_txt.json, gqa3d_SPLIT.json, sqa_cot_SPLIT.json",
            origin="from the SceneCOT authors' data release; " + SCANNET,
        ),
        Format(
            name="beacon3d_grounding",
            title="Beacon3D: chains of expressions from fine to coarse",
            reader="rows_beacon3d:read_beacon3d_grounding",
            draft="drafts:draft_beacon3d_grounding",
            files="metadata_scannet_grounding.json",
            origin="from the Beacon3D repository, Apache-2.0; " + SCANNET,
        ),
        Format(
            name="beacon3d",
            title="Beacon3D: three questions for each object",
            reader="rows_beacon3d:read_beacon3d_qa",
            draft="drafts:draft_beacon3d",
            files="metadata_scannet_qa.json",
            origin="from the Beacon3D repository, Apache-2.0; " + SCANNET,
        ),
        Format(
            name="temporal",
            title="temporal grounding in TimeZero's layout (Charades-STA, ActivityNet)",
            reader="rows_temporal:read_temporal",
            draft="drafts:draft_temporal",
            files="train.json, val.json, charades_test.json and the like",
            origin="from the Time-R1 repository (no licence file); videos from the Charades and "
            "ActivityNet projects, under their terms",
            media="VIDEO.mp4, .mkv or .webm",
        ),
        Format(
            name="gsreasoner",
            title="GS-Reasoner: conversations with boxes or thoughts, for `launch sft`",
            reader="rows_gsreasoner:read_gsreasoner",
            draft="drafts:draft_gsreasoner",
            files="the conversation files of its data release",
            origin="from the GS-Reasoner data release, CC BY-NC 4.0; scans under the terms of "
            "ScanNet, ScanNet++ and ARKitScenes",
            media="DATASET/SCENE.mp4",
        ),
        Format(
            name="sceneparser",
            title="SceneParser-Bench: objects, parts and affordances in images",
            reader="rows_sceneparser:read_sceneparser",
            draft="drafts:draft_sceneparser",
            files="train.jsonl, val.jsonl",
            origin="from the SceneParser-Bench data set page, IDEA License 1.0 (non-commercial); "
            "images under the terms of their sources",
            media="the images, as image_path names them",
            other_command="sceneparser-samples",
        ),
    )
}


def find_format(name: str) -> Format:
    """Return the format of a name.

    Raises:
        DataError: If there is none.
    """
    if name not in FORMATS:
        raise DataError(f"{name!r} is no annotation format; known are {', '.join(FORMATS)}")
    return FORMATS[name]
