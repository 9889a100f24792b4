#!/usr/bin/env bash
# One machine: every GPU or TPU chip that jax sees, or the CPU.
#   launch/local.sh configs/NAME.py [--workdir DIR] [--config.KEY=VALUE ...]
set -euo pipefail
exec python -m jaxalign.train --config "$@"
