"""A SLURM batch script for a run: Ray over the job's nodes, requeued until the run is done."""

import argparse
from string import Template

from scenerl.launch.plan import RAY_ENVIRONMENT
from scenerl.launch.submit import Job, quoted

HEAD = Template(
    r"""#!/usr/bin/env bash
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --time=$time
#SBATCH --output=$log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
$directives# Five minutes before its end the job gets USR1: the run ends after a step, commits (75)
# and goes back into the queue. So does a run whose node failed, from its newest commit.
set -euo pipefail
umask 077
run=$run
mkdir -p "$$run/submit"
"""
)

CLUSTER = r"""
# Whoever talks to this job's Ray needs its token; the file goes with the job.
export RAY_AUTH_MODE=token $environment
export RAY_AUTH_TOKEN_PATH="$run/submit/token.$SLURM_JOB_ID"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH"
temp=$(mktemp -d "/tmp/scenerl-$SLURM_JOB_ID-XXXXXX")  # closed; Ray opens its folders to all users
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(head -n 1 <<< "$nodes")
export RAY_ADDRESS="$head:$((20000 + SLURM_JOB_ID % 20000))"
ray_pids=()
ray_on() {  # NODE, words of `ray start`
    srun --nodes=1 --ntasks=1 --overlap --nodelist="$1" \
        ray start "${@:2}" --disable-usage-stats --block &
    ray_pids+=($!)
}
clean() {
    kill "${ray_pids[@]}" 2> /dev/null || true
    wait "${ray_pids[@]}" 2> /dev/null || true
    rm -rf "$temp" "$RAY_AUTH_TOKEN_PATH"
}
trap clean EXIT
ray_on "$head" --head --port="${RAY_ADDRESS##*:}" --include-dashboard=false --temp-dir="$temp/ray"
for second in $(seq 180); do
    ray status > /dev/null 2>&1 && break
    if ! kill -0 "${ray_pids[0]}" 2> /dev/null || [ "$second" = 180 ]; then
        echo "Ray did not start on $head" >&2
        exit 69
    fi
    sleep 1
done
while read -r node; do
    [ "$node" = "$head" ] || ray_on "$node" --address="$RAY_ADDRESS"
done <<< "$nodes"
"""

DRIVER = Template(
    r"""
rm -f "$$run/exit.json"
stopped=0
trap 'stopped=1; touch "$$run/STOP"' USR1 TERM
$command &
driver=$$!
while kill -0 "$$driver" 2> /dev/null; do wait "$$driver" || true; done
# The run's own word counts; without one its process was ended, and the run can continue.
code=75 asked=0
if [ -f "$$run/exit.json" ]; then
    code=$$(sed -n 's/.*"code": *\([0-9]*\).*/\1/p' "$$run/exit.json" | head -n 1)
    grep -q 'STOP file' "$$run/exit.json" && asked=1
fi
# A person's `launch stop` stays stopped; all else that can continue goes back into the queue.
if [ "$$code" = 75 ] && { [ "$$stopped" = 1 ] || [ "$$asked" = 0 ]; }; then
    scontrol requeue "$$SLURM_JOB_ID"
fi
exit "$$code"
"""
)


def render_slurm(job: Job, arguments: argparse.Namespace) -> str:
    """Return the batch script of a job.

    A run that ends with 75 is put back into the queue, unless a person asked it to stop.
    """
    cluster = job.config.cluster
    directives = [
        (f"--gpus-per-node={cluster.gpus_per_node}", cluster.gpus_per_node),
        (f"--partition={arguments.partition}", arguments.partition),
        (f"--account={arguments.account}", arguments.account),
    ]
    head = HEAD.substitute(
        name=job.name,
        nodes=cluster.nnodes,
        time=arguments.time,
        log=quoted([str(job.run / "slurm-%j.log")]),
        run=quoted([str(job.run)]),
        directives="".join(f"#SBATCH {text}\n" for text, given in directives if given),
    )
    command = quoted(job.words(str(job.run / "submit" / "config.yaml")))
    environment = " ".join(f"{name}={value}" for name, value in RAY_ENVIRONMENT.items())
    ray = CLUSTER.replace("$environment", environment) if cluster.nnodes > 1 else ""
    return head + ray + DRIVER.substitute(command=command)
