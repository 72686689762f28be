"""Where the time of the lift on a CPU goes, step by step: profile_lift_cpu.py [VOXEL_M]."""

import functools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from scenerl.configs.schema import LiftConfig
from scenerl.envs.lift import _consensus_recipe, fuse_settings
from scenerl.kernels import fuse_cpu
from scenerl.kernels.fuse import cut_patches
from scenerl.kernels.threads import share_out
from scenerl.launch.bench_lift import lift
from scenerl.launch.bench_lift_scene import make_recording


def say(what: str, run: Callable[[], object], rounds: int = 9) -> None:
    """Print the median and the least time of some runs."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - begin))
    sys.stdout.write(f"{what:32s} {statistics.median(times):7.1f} ms, least {min(times):7.1f}\n")


def main(voxel_m: float) -> None:
    recording = make_recording(400, (640, 480))
    masks, camera, views = dict(enumerate(recording.masks)), recording.camera, recording.views
    config = LiftConfig(voxel_m=voxel_m)
    settings = fuse_settings(config)
    lift(recording, config)  # compiled code is loaded
    patches = cut_patches(masks, camera)
    work = fuse_cpu._prepare(views, [patches], camera, settings)
    fuse = functools.partial(fuse_cpu._fuse_jobs, work)
    shares = [share[0] for share in share_out(fuse, work.jobs)]
    (cloud,) = fuse_cpu._fuse_objects(views, [patches], camera, settings)
    columns = [np.ascontiguousarray(cloud.points.T)]
    asked = replace(work, jobs=fuse_cpu._jobs([settings.voters(patches)]))
    vote = functools.partial(fuse_cpu._vote_jobs, asked, columns, config.surface_tolerance_m)
    sys.stdout.write(f"{100 * voxel_m:g} cm: {len(cloud.points)} voxels of 400 frames\n")
    say("masks to box", lambda: lift(recording, config))
    say("cut the masks", lambda: cut_patches(masks, camera))
    say("prepare", lambda: fuse_cpu._prepare(views, [patches], camera, settings))
    say("pixels to voxels", lambda: share_out(fuse, work.jobs))
    say("pixels to voxels, one thread", lambda: fuse(iter(work.jobs)))
    say("put tables together", lambda: fuse_cpu._join(shares, work))
    say(f"votes of {len(asked.jobs)} frames", lambda: share_out(vote, asked.jobs))
    say("clean, box", lambda: _consensus_recipe(cloud, config))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.02)
