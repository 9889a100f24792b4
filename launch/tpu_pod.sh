#!/usr/bin/env bash
# A TPU pod slice: the same command on every host; the hosts find each other.
#   TPU_NAME=... ZONE=... WORKDIR=<a folder that all hosts see> launch/tpu_pod.sh configs/NAME.py [--config.KEY=VALUE ...]
# Needs the gcloud command, and on every host this checkout in ~/jaxalign with `pip install -e '.[tpu]'` done.
set -euo pipefail
config=$1
shift
gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone "$ZONE" --worker all \
  --command "cd ~/jaxalign && python -m jaxalign.train --config $config --coordinator auto --workdir $WORKDIR $*"
