#!/usr/bin/env bash
# raysweep on a Slurm cluster: one Ray cluster for one job, which ends with it. docs/cluster.md leads through it.
#
#   export RAYSWEEP_ROOT=/shared/YOU/experiments      # a folder that all nodes see
#   sbatch configs/clusters/slurm.sh run configs/base.yaml --workers 2 scaling.use_gpu=true
#   sbatch configs/clusters/slurm.sh branch --from base@3 --weights-grid configs/grid.yaml --gpus-per-branch 1
#   sbatch configs/clusters/slurm.sh continue base
#
# What stands after slurm.sh are raysweep's arguments; --address and --root are added here.
#SBATCH --job-name=raysweep
#SBATCH --output=raysweep-%j.log
#SBATCH --nodes=2                 # CHANGE
#SBATCH --gpus-per-node=1         # CHANGE; delete the line for nodes without GPUs
#SBATCH --cpus-per-task=8         # CHANGE: the CPUs of a node that Ray may use
#SBATCH --time=08:00:00           # CHANGE
#SBATCH --ntasks-per-node=1       # one Ray per node, which starts a process per worker itself
#SBATCH --exclusive               # Ray's ports are fixed, and a neighbour's Ray would be taken for ours
#SBATCH --signal=B:USR1@300       # to this script alone, five minutes before the end: see stop() below
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: sbatch slurm.sh run|branch|resume|continue …" >&2; exit 2; }
: "${RAYSWEEP_ROOT:?export RAYSWEEP_ROOT=FOLDER before sbatch: a folder that all nodes see}"
: "${SLURM_JOB_ID:?this is a script for sbatch}"

# The virtual environment lies on a file system that all nodes see, so Python, Ray and torch are the same everywhere.
# shellcheck source=/dev/null
source "${RAYSWEEP_VENV:-$SLURM_SUBMIT_DIR/.venv}/bin/activate"

# Other users can reach the ports of these nodes; without a token each of them could run programs as you. The token goes
# to all nodes with the environment.
umask 077
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(ray get-auth-token --generate 2>/dev/null)
export RAY_AUTH_TOKEN

# Decoded images are memory-mapped: on each node's own disk, not over the network.
export RAYSWEEP_CACHE=${RAYSWEEP_CACHE:-${TMPDIR:-/tmp}/raysweep-cache-$USER}
# How long the head waits for the others; importing from a shared file system can take longer than Ray's 30 s.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# Slurm runs this script on the first node, which becomes Ray's head. The address is a number: many clusters resolve a
# node's own name to 127.0.1.1, and then every node waits for another one to be the head.
head_ip=$(hostname -I | cut -d' ' -f1)   # CHANGE where the nodes talk over another interface than the first
pid_file=${TMPDIR:-/tmp}/raysweep-$SLURM_JOB_ID.pid

# Ray starts on all nodes, raysweep on the head alone; when raysweep ends, Ray ends everywhere, and srun with its exit code.
# The shell in between writes down its number and becomes raysweep.
# shellcheck disable=SC2016
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 ray symmetric-run \
    --address "$head_ip:6379" \
    --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" \
    --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
    --dashboard-host 127.0.0.1 \
    -- bash -c 'echo $$ > "$0"; exec raysweep "$@"' "$pid_file" "$@" --address auto --root "$RAYSWEEP_ROOT" &
step=$!

# At the time limit Slurm ends all processes of a step together, Ray's too, and nothing could be saved any more. So
# raysweep alone is asked before: it saves after the running batch, says how to go on, and ends with 130.
asked=no
# shellcheck disable=SC2329
stop() {
    asked=yes
    echo "slurm.sh: asking raysweep to save and to stop" >&2
    kill -TERM "$(cat "$pid_file")" || true
}
trap stop USR1 TERM
trap 'rm -f "$pid_file"' EXIT

status=0
while true; do
    wait "$step" && status=0 || status=$?
    # A signal ends the waiting, too; then the step still runs.
    [ "$asked" = yes ] && [ "$status" -gt 128 ] || break
    asked=no
done
exit "$status"
