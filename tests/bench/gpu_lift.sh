#!/bin/sh
# The lift on a GPU, from the root of the tree: parity, figures and profile into the folder $OUT.
set -u
export PYTHONPATH="$PWD/typings"
python3 -m pytest -q -m gpu tests/parity/test_fuse.py 2>&1 | tail -n 30 | tee "$OUT/gpu_lift_tests.txt"
python3 -m scenerl.launch.cli bench lift --device cuda --rounds 15 --json "$OUT/lift_gpu.json" 2>&1 |
    tee "$OUT/gpu_lift_table.txt"
python3 tests/bench/profile_lift.py 400 cuda > "$OUT/gpu_lift_profile.txt" 2>&1
head -n 40 "$OUT/gpu_lift_profile.txt"
