"""One small file of every annotation format, as its owners write it."""

import csv
import io
import json
from pathlib import Path
from typing import Any

SCENE = "scene0011_00"

SCANREFER = [
    {
        "scene_id": SCENE,
        "object_id": "0",
        "object_name": "brown_table",
        "ann_id": str(n),
        "description": words,
        "token": words.replace(".", " .").split(),
    }
    for n, words in enumerate(("the brown table.", "a table by the wall."))
]
MULTI3DREFER = [
    {
        "scene_id": SCENE,
        "object_ids": ids,
        "object_name": "chair",
        "ann_id": n,
        "eval_type": kind,
        "description": f"the chairs {n}",
    }
    for n, (ids, kind) in enumerate((([1, 2], "mt"), ([], "zt_wo_d"), ([1], "st_w_d")))
]
SCANQA = [
    {
        "scene_id": SCENE,
        "question_id": "val-scene0011-0",
        "question": "What color is the table?",
        "answers": ["brown", "dark brown"],
        "object_ids": [0],
        "object_names": ["table"],
    }
]
SQA3D_QUESTIONS = {
    "questions": [
        {
            "question_id": 220602000000,
            "scene_id": SCENE,
            "situation": "I face the window.",
            "alternative_situation": ["I opened the door."],
            "question": "What is behind me?",
        }
    ]
}
SQA3D_ANNOTATIONS = {
    "annotations": [
        {
            "question_id": 220602000000,
            "scene_id": SCENE,
            "answer_type": "other",
            "question_type": "N/A",
            "answers": [{"answer": "door", "answer_confidence": "yes", "answer_id": 1}],
            "position": {"x": 0.5, "y": -1.0, "z": 0},
            "rotation": {"_x": 0, "_y": 0, "_z": 1.0, "_w": 0.0},
        }
    ]
}
VSIBENCH = [
    {
        "id": 0,
        "dataset": "scannet",
        "scene_name": SCENE,
        "question_type": "object_rel_distance",
        "question": "Which of these is closest to the stove?",
        "ground_truth": "C",
        "options": ["A. table", "B. stool", "C. sofa", "D. tv"],
    },
    {
        "id": 1,
        "dataset": "scannet",
        "scene_name": SCENE,
        "question_type": "object_counting",
        "question": "How many chairs are there?",
        "ground_truth": "2",
        "options": None,
    },
]
MSQA = [
    {
        "index": 17,
        "scan_id": SCENE,
        "situation": "I sit on <chair-1-IMG>.",
        "location": [1.0, 0.5, 0.4],
        "orientation": [0.0, 1.0, 0.0],
        "question": "What is on my right?",
        "answers": ["a table"],
        "type": "spatial relationship",
        "raw_thought": "table-0, chair-1",
    }
]
SCENECOT = [
    {
        "scene_id": SCENE,
        "situation": ["You sit on a chair.", "You are seated."],
        "position": [1.0, 0.5, 0.4],
        "rotation": [0, 0, 0.7, 0.7],
        "orientation_angle": 0.0,
        "obj_ids": [1, 2],
        "labels": ["chair", "chair"],
        "question": "How many chairs are there?",
        "answers": ["two"],
        "type": "counting",
        "answer_with_cot": "<think_type>This is a counting question</think_type> "
        "<answer>two</answer>",
    }
]
BEACON3D_GROUNDING = {
    SCENE: {
        "chair": {
            "1": {
                "chain_1": [
                    {"text": "Red chair", "obj_id": ["1"], "tag": "class-appearance"},
                    {"text": "Chair", "obj_id": ["2", "1"], "tag": "class"},
                ]
            }
        }
    }
}
BEACON3D_QA = {
    SCENE: {
        "chair": {
            "1": {
                "grounding_text": ["Red chair"],
                "qa": [
                    {
                        "question": "What color is the chair?",
                        "answer": "Red",
                        "tag": "appearance",
                        "extra_knowledge": 0,
                    }
                ],
            }
        }
    }
}
TEMPORAL = {
    SCENE: {
        "duration": 4.0,
        "timestamps": [[0.0, 1.5], [1.0, 3.0]],
        "sentences": ["A person sits down.", "the lamp is on"],
    }
}
GSREASONER = [
    {
        "id": "scanrefer_12",
        "video": f"scannet/{SCENE}",
        "conversations": [
            {"from": "human", "value": "<image>\nLocate the brown table."},
            {"from": "gpt", "value": "<ground>"},
        ],
        "metadata": {
            "dataset": "scanrefer",
            "question_type": "unique",
            "object": [
                {
                    "object_id": [0],
                    "object_name": "brown table",
                    "object_bbox": [[1.0, 2.0, 0.5, 2.0, 1.0, 1.0]],
                }
            ],
        },
    },
    {
        "id": "gcot_0",
        "data_source": "scannet",
        "scene_name": SCENE,
        "conversations": [
            {"from": "human", "value": "How many chairs are there?"},
            {"from": "gpt", "value": "<think>chair 2</think><answer>2</answer>"},
        ],
        "metadata": {
            "dataset": "vsibench_cot",
            "question_type": "object_counting",
            "data_augmentation": {"rot_z": {"flag": False, "rot": 0.0}},
        },
    },
]
SCENEPARSER = [
    {
        "image_path": "images/a.jpg",
        "objects": [
            {
                "phrase": "mug",
                "object_bbox": [10, 20, 110, 120],
                "parts": [
                    {
                        "part_name": "handle",
                        "part_bbox": [90, 40, 110, 100],
                        "is_pseudo_part": False,
                        "affordances": [
                            {
                                "action": "grasp",
                                "affordance_bbox": [92, 45, 108, 95],
                                "sampled_points": [[100, 70]],
                            }
                        ],
                    }
                ],
            },
            {"phrase": "plate", "object_bbox": [0, 0, 5, 5], "parts": []},
        ],
    }
]
NR3D = [
    {
        "assignmentid": "10",
        "stimulus_id": f"{SCENE}-chair-2-1-2",
        "utterance": "The chair at the far right",
        "correct_guess": "True",
        "speaker_id": "3",
        "listener_id": "7",
        "scan_id": SCENE,
        "instance_type": "chair",
        "target_id": "1",
        "tokens": "['the', 'chair', 'at', 'the', 'far', 'right']",
        "dataset": "nr3d",
        "mentions_target_class": "True",
    }
]
SR3D = [
    {
        "scan_id": SCENE,
        "utterance": "select the chair that is near the table",
        "target_id": "1",
        "distractor_ids": "[2]",
        "stimulus_id": f"{SCENE}-chair-2-1-2",
        "coarse_reference_type": "horizontal",
        "reference_type": "closest",
        "instance_type": "chair",
        "anchors_types": "['table']",
        "anchor_ids": "[0]",
        "dataset": "sr3d",
        "mentions_target_class": "True",
        "tokens": "['select', 'the', 'chair']",
    }
]


def csv_text(rows: list[dict[str, str]]) -> str:
    """Return rows as a CSV file with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


FILES: dict[str, tuple[str, Any]] = {
    "scanrefer": ("ScanRefer_filtered_val.json", SCANREFER),
    "scan2cap": ("ScanRefer_filtered_val.json", SCANREFER),
    "nr3d": ("nr3d.csv", NR3D),
    "sr3d": ("sr3d.csv", SR3D),
    "multi3drefer": ("multi3drefer_val.json", MULTI3DREFER),
    "scanqa": ("ScanQA_v1.0_val.json", SCANQA),
    "sqa3d": ("v1_balanced_questions_val_scannetv2.json", SQA3D_QUESTIONS),
    "vsibench": ("test.jsonl", VSIBENCH),
    "msqa": ("msqa_scannet_val.json", MSQA),
    "gqa3d": ("gqa3d_val.json", SCENECOT),
    "scenecot": ("situated_qa_train_pure_txt.json", SCENECOT),
    "beacon3d-grounding": ("metadata_scannet_grounding.json", BEACON3D_GROUNDING),
    "beacon3d-qa": ("metadata_scannet_qa.json", BEACON3D_QA),
    "temporal": ("train.json", TEMPORAL),
    "gsreasoner": ("scanrefer_train.json", GSREASONER),
    "sceneparser": ("val.jsonl", SCENEPARSER),
}
"""Format -> the file's name and its content."""


def write_file(folder: Path, name: str) -> Path:
    """Write the file of a format (and the second one of SQA3D); return its path."""
    file, content = FILES[name]
    path = folder / file
    if path.suffix == ".csv":
        path.write_text(csv_text(content))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(json.dumps(content))
    if name == "sqa3d":
        second = path.with_name("v1_balanced_sqa_annotations_val_scannetv2.json")
        second.write_text(json.dumps(SQA3D_ANNOTATIONS))
    return path
