#!/usr/bin/env bash
# GPUs under Slurm, one process per node with all GPUs of the node:
#   sbatch --nodes 4 --gpus-per-node 8 --time 12:00:00 launch/slurm.sh --config FILE.py --workdir FOLDER [FLAGS of jaxalign.train]
# sbatch's own options (--partition, --account, ...) stand before the script, those of jaxalign.train after it. Submit it from a folder that
# all nodes see, with the environment active in which jaxalign is installed; --workdir is a folder that all nodes see.
# Two minutes before the time limit Slurm sends SIGTERM to the processes, which save and end with 75; the job then goes back into the queue
# and continues. So it does where some processes end with 75 and others are killed, as those with 75 lost them. An error of the program (a code
# from 1 to 127 of any process) ends the job with that code, and so do processes that are killed where none ends with 75.
# `scancel JOB` ends it for good; `scancel --signal TERM JOB` saves and queues it again.
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
code=0 saved='' failed='' told=$(mktemp)
{
  srun --cpu-bind=none --wait=600 python -m jaxalign.train "$@" --coordinator auto --stopped-exit-code "$STOPPED" 2>&1 >&3 3>&- |
    tee "$told" >&2
} 3>&1 || code=$?
# srun ends with the highest code: 137 of a killed process hides the 75 of those that lost it
while read -r each; do
  if ((each == STOPPED)); then saved=yes; elif ((each < 128)); then failed=$each; fi
done < <(sed -En 's/^srun: error: .*: tasks? .*: Exited with exit code ([0-9]+)$/\1/p' "$told")
rm -f "$told"
if [[ $failed ]]; then code=$failed; elif [[ $saved ]]; then code=$STOPPED; fi
if ((code == STOPPED)); then
  echo "job $SLURM_JOB_ID can continue and goes back into the queue" >&2
  scontrol requeue "$SLURM_JOB_ID" || echo "job $SLURM_JOB_ID cannot go back into the queue; submit it again" >&2
elif ((code)); then
  echo "jaxalign.train ended with exit code $code; the job is not queued again" >&2
fi
exit "$code"
