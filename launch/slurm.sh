#!/usr/bin/env bash
# GPUs under Slurm, one process per node with all GPUs of the node:
#   sbatch --nodes 4 --gpus-per-node 8 --time 12:00:00 launch/slurm.sh --config FILE.py --workdir FOLDER [FLAGS of jaxalign.train]
# sbatch's own options (--partition, --account, ...) stand before the script, those of jaxalign.train after it. Submit it from a folder that
# all nodes see, with the environment active in which jaxalign is installed; --workdir is a folder that all nodes see.
# Two minutes before the time limit Slurm sends SIGTERM to the processes, which save and end with 75; the job then goes back into the queue
# and continues. Any other exit code ends the job with it. `scancel JOB` ends it for good; `scancel --signal TERM JOB` saves and queues it
# again.
#SBATCH --job-name=jaxalign
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
STOPPED=75
if [[ ! ${SLURM_JOB_ID:-} || ${1:-} != --config* ]]; then
  sed -n '2,/^[^#]/s/^# //p' "$0" >&2
  exit 2
fi
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu} # a node without a working GPU is an error, and not a slow run

# --cpu-bind: the process uses all cores, and not the one that a task gets; --wait: nobody hangs for ever after the first process ended
code=0
srun --cpu-bind=none --wait=600 python -m jaxalign.train "$@" --coordinator auto --stopped-exit-code "$STOPPED" || code=$?
if ((code == STOPPED)); then
  echo "job $SLURM_JOB_ID saved and goes back into the queue" >&2
  scontrol requeue "$SLURM_JOB_ID" || echo "job $SLURM_JOB_ID cannot go back into the queue; submit it again" >&2
elif ((code)); then
  echo "jaxalign.train ended with exit code $code; the job is not queued again" >&2
fi
exit "$code"
