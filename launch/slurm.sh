#!/usr/bin/env bash
# GPUs under Slurm, one process a node, all GPUs of the node in it.
#   WORKDIR=<a folder that all nodes see> sbatch --nodes 4 launch/slurm.sh configs/NAME.py [--config.KEY=VALUE ...]
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
# The loop saves and ends cleanly on SIGTERM; ask for it two minutes before the time limit, and go back into the queue.
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
config=$1
shift
# jax reads the node list and the process number from Slurm's variables
code=0
srun python -m jaxalign.train --config "$config" --coordinator auto --workdir "$WORKDIR" --stopped-exit-code 75 "$@" || code=$?
if ((code == 75)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
