#!/bin/sh
# The learner on a GPU, from the root of the tree: parity tests and figures, into the folder $OUT.
set -u
export PYTHONPATH="$PWD/typings${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false
timeout 110 python3 -m scenerl.launch.cli bench learner --rounds 2 --json "$OUT/learner_gpu.json" \
    > "$OUT/learner_gpu.txt" 2>&1
grep -v "Warning" "$OUT/learner_gpu.txt" | tail -n 45
timeout 60 python3 -m pytest -q -m gpu tests/parity/test_head_scores.py \
    tests/unit/test_packed_attention.py > "$OUT/learner_tests_gpu.txt" 2>&1
tail -n 25 "$OUT/learner_tests_gpu.txt"
timeout 60 python3 -m scenerl.launch.cli bench logprobs --rounds 5 --json "$OUT/logprobs_gpu.json" \
    > "$OUT/logprobs_gpu.txt" 2>&1
grep -v "Warning" "$OUT/logprobs_gpu.txt" | tail -n 30
