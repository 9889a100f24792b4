#!/usr/bin/env bash
# This machine: one process with every GPU or TPU chip that jax sees, or the CPU.
#   launch/local.sh --config FILE.py [FLAGS of jaxalign.train]
# Several processes on its CPU that find each other over loopback, to try what several hosts would do:
#   launch/local.sh --processes 2 --config FILE.py [FLAGS of jaxalign.train]
# From --config on, everything is for jaxalign.train. Lines of all processes but the first begin with [NUMBER].
# Ctrl-C saves and ends; the same command continues. Exit code: that of the first process that fails, or 0.
set -euo pipefail
# shellcheck source=launch/shared.sh
source "$(dirname "$0")/shared.sh"

count=1
while (($#)) && [[ $1 != --config* ]]; do
  [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
  (($# > 1)) || usage "$1 has no value, or --config is missing"
  case $1 in
    --processes) count=$2 ;;
    *) usage "unknown option $1; the flags of jaxalign.train stand after --config" ;;
  esac
  shift 2
done
(($#)) || usage "--config is missing"
[[ $count =~ ^[1-9][0-9]*$ ]] || usage "--processes $count is no number from 1"
((count > 1)) || exec python -m jaxalign.train "$@"

export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} # each process would take all GPUs
port=$(python -c 'import socket; probe = socket.socket(); probe.bind(("127.0.0.1", 0)); print(probe.getsockname()[1])')
request() { kill -TERM "${!numbers[@]}" 2>/dev/null || true; }
for ((number = 0; number < count; number++)); do
  begin "$number" python -m jaxalign.train "$@" --coordinator "127.0.0.1:$port" --processes "$count" --process "$number"
done
finish request
