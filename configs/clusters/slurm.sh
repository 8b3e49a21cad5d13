#!/usr/bin/env bash
# raysweep on a Slurm cluster: each job has its own Ray cluster, which ends with the job. docs/cluster.md explains each step.
#
#   export RAYSWEEP_ROOT=/shared/YOU/experiments      # a folder that all nodes see
#   sbatch configs/clusters/slurm.sh run configs/base.yaml --workers 2 scaling.use_gpu=true
#   sbatch configs/clusters/slurm.sh branch --from base@3 --weights-grid configs/grid.yaml --gpus-per-branch 1
#   sbatch configs/clusters/slurm.sh continue base
#
# The arguments after slurm.sh are raysweep's; this script adds --address and --root.
#SBATCH --job-name=raysweep
#SBATCH --output=raysweep-%j.log
#SBATCH --nodes=2                 # CHANGE
#SBATCH --gpus-per-node=1         # CHANGE; delete the line for nodes without GPUs
#SBATCH --cpus-per-task=8         # CHANGE: the CPUs of a node that Ray may use
#SBATCH --time=08:00:00           # CHANGE
#SBATCH --ntasks-per-node=1       # one Ray per node; Ray starts the worker processes
#SBATCH --exclusive               # Ray's ports are fixed; another job's Ray on this node would be mistaken for ours
#SBATCH --signal=B:USR1@300       # only to this script, five minutes before the end: see stop() below
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: sbatch slurm.sh run|branch|resume|continue …" >&2; exit 2; }
: "${RAYSWEEP_ROOT:?export RAYSWEEP_ROOT=FOLDER before sbatch: a folder that all nodes see}"
: "${SLURM_JOB_ID:?this is a script for sbatch}"

# The virtual environment is on a file system that all nodes see, so Python, Ray and torch are the same everywhere.
# shellcheck source=/dev/null
source "${RAYSWEEP_VENV:-$SLURM_SUBMIT_DIR/.venv}/bin/activate"

# Other users can reach the ports of these nodes. Without a token they could run programs as you. The token reaches all
# nodes through the environment.
umask 077
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(ray get-auth-token --generate 2>/dev/null)
export RAY_AUTH_TOKEN

# What you made is recorded in your home folder. Where the nodes have another one than the login node, export
#   RAYSWEEP_STATE=/shared/YOU/raysweep-state     a folder outside the root that all nodes see, or
#   RAYSWEEP_TRUST=$RAYSWEEP_ROOT                 if only you write to the root
# before sbatch; Slurm hands both on. Without them, `continue` asks for --trust where a configuration names code.

# Decoded images are memory-mapped, so they are stored on each node's own disk.
export RAYSWEEP_CACHE=${RAYSWEEP_CACHE:-${TMPDIR:-/tmp}/raysweep-cache-$USER}
# Seconds that the head waits for the other nodes. Imports from a shared file system can take longer than Ray's default of 30 s.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# Slurm runs this script on the first node, which becomes Ray's head. The address is numeric, because many
# clusters resolve a node's own name to 127.0.1.1, and then every node waits for another one to become the head.
head_ip=$(hostname -I | cut -d' ' -f1)   # CHANGE if the nodes communicate over another interface
pid_file=${TMPDIR:-/tmp}/raysweep-$SLURM_JOB_ID.pid

# Ray starts on all nodes, raysweep only on the head. When raysweep ends, Ray ends everywhere, and srun returns raysweep's exit
# code. The shell in between writes its process id and then executes raysweep in its place.
# shellcheck disable=SC2016
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 ray symmetric-run \
    --address "$head_ip:6379" \
    --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" \
    --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
    --dashboard-host 127.0.0.1 \
    -- bash -c 'echo $$ > "$0"; exec raysweep "$@"' "$pid_file" "$@" --address auto --root "$RAYSWEEP_ROOT" &
step=$!

# At the time limit Slurm ends all processes of a step together, including Ray's, and nothing can be saved. Therefore this script
# stops only raysweep before that: it saves after the current batch, prints how to continue, and exits with 130.
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
    # A signal also interrupts wait; then the step is still running.
    [ "$asked" = yes ] && [ "$status" -gt 128 ] || break
    asked=no
done
exit "$status"
