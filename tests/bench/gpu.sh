#!/bin/sh
# Everything that only a GPU can show, from the root of the tree: parity tests and figures, into the folder $OUT.
# Needs torch with CUDA, Triton, transformers and pytest; trl, datasets and liger-kernel for the peers.
set -u
export PYTHONPATH="$PWD/typings${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false
bench() { timeout 240 python3 -m scenerl.launch.cli bench "$@" --json "$OUT/$1_gpu.json" > "$OUT/$1_gpu.txt" 2>&1; }
timeout 120 python3 -m pytest -q -m gpu tests/parity/test_head_scores.py tests/parity/test_fuse.py \
    tests/unit/test_packed_attention.py > "$OUT/tests_gpu.txt" 2>&1
tail -n 25 "$OUT/tests_gpu.txt"
for name in logprobs learner; do
    bench "$name"
    grep -v "round\|warm-up\|Warning" "$OUT/${name}_gpu.txt" | tail -n 30
done
bench lift --device cuda --rounds 15
grep -v "round\|warm-up\|Warning" "$OUT/lift_gpu.txt" | tail -n 30
timeout 60 python3 tests/bench/profile_lift.py 400 cuda > "$OUT/profile_lift_gpu.txt" 2>&1
head -n 30 "$OUT/profile_lift_gpu.txt"
