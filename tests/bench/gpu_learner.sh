#!/bin/sh
# The learner on a GPU, from the root of the tree: parity and figures into the folder $OUT.
set -u
export PYTHONPATH="$PWD/typings${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
timeout 70 python3 -m pytest -q -m gpu tests/parity/test_head_scores.py \
    tests/unit/test_packed_attention.py 2>&1 | tail -n 60 > "$OUT/gpu_learner_tests.txt"
tail -n 25 "$OUT/gpu_learner_tests.txt"
timeout 80 python3 -m scenerl.launch.cli bench logprobs --rounds 7 --json "$OUT/logprobs_gpu.json" \
    > "$OUT/gpu_logprobs_table.txt" 2>&1
tail -n 45 "$OUT/gpu_logprobs_table.txt"
timeout 170 python3 -m scenerl.launch.cli bench learner --rounds 3 --json "$OUT/learner_gpu.json" \
    > "$OUT/gpu_learner_table.txt" 2>&1
tail -n 45 "$OUT/gpu_learner_table.txt"
