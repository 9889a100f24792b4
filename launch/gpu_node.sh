#!/usr/bin/env bash
# GPUs without a scheduler. One node, one process with all its GPUs:
#   launch/gpu_node.sh --config FILE.py [FLAGS of jaxalign.train]
# Several nodes over ssh, one process per node; the first one is the coordinator:
#   launch/gpu_node.sh --hosts node1,node2 [OPTIONS] --config FILE.py --workdir FOLDER [FLAGS of jaxalign.train]
#   launch/gpu_node.sh stop --hosts node1,node2 [--name NAME] [--grace SECONDS]
# From --config on, everything is for jaxalign.train. --workdir is a folder that all nodes see.
#   --port PORT    of the coordinator, which the other nodes can reach (8476)
#   --dir FOLDER   this checkout on every node (where it is here)
#   --python FILE  python with jaxalign on every node (the one of this shell)
#   --name NAME    of the run on the nodes (jaxalign); two runs on the same nodes need two names
#   --env NAME=X   a variable of the run on every node, such as --env=HF_TOKEN=...; may be given several times
#   --grace SECONDS  for the save after a stop (600); what has not ended then is killed
# ssh must work without a password. Ctrl-C or `stop` saves and ends everywhere. When the connection is lost the run goes on; the same
# command shows it again. Exit code: that of the first process that fails, 143 after a stop, or 0.
set -euo pipefail
# shellcheck source=launch/shared.sh
source "$(dirname "$0")/shared.sh"

hosts=() port=8476 dir=$(cd "$(dirname "$0")/.." && pwd) python=$(command -v python || true) name=jaxalign action=run
environment=(env) grace=600
if [[ ${1:-} == stop ]]; then action=stop && shift; fi
while (($#)) && [[ $1 != --config* ]]; do
  [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
  (($# > 1)) || usage "$1 has no value, or --config is missing"
  case $1 in
    --hosts) IFS=, read -r -a hosts <<<"$2" ;;
    --port) port=$2 ;;
    --dir) dir=$2 ;;
    --python) python=$2 ;;
    --name) name=$2 ;;
    --env)
      [[ $2 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || usage "--env $2 is not NAME=VALUE"
      environment+=("$2")
      ;;
    --grace) grace=$2 ;;
    *) usage "unknown option $1; the flags of jaxalign.train stand after --config" ;;
  esac
  shift 2
done
count=${#hosts[@]}
[[ $grace =~ ^[0-9]+$ ]] || usage "--grace $grace is no whole number"
GRACE_S=$((grace + 60)) # on_host.sh kills before that
platforms=${JAX_PLATFORMS:-cuda,cpu} # a node without a working GPU is an error, and not a slow run
if [[ $action == run ]]; then
  (($#)) || usage "--config is missing"
  [[ $python ]] || usage "there is no python on this PATH; give --python FILE"
  ((count)) || exec "${environment[@]}" "JAX_PLATFORMS=$platforms" "$python" -m jaxalign.train "$@"
  [[ " $*" == *" --workdir"* ]] || usage "--workdir is missing: a folder that all nodes see"
fi
((count)) || usage "--hosts is missing"

on() { # HOST ACTION ARGUMENT...: runs on_host.sh there
  ssh -n -o BatchMode=yes "$1" "cd $(quoted "$dir") && $(quoted launch/on_host.sh "$2" "/tmp/jaxalign-$USER/$name" "${@:3}")"
}
request() {
  local host
  for host in "${hosts[@]}"; do on "$host" stop "$grace" & done
}
if [[ $action == stop ]]; then
  code=0
  for ((number = 0; number < count; number++)); do begin "$number" on "${hosts[number]}" stop "$grace"; done
  finish true || code=$?
  exit "$code"
fi

id=$(date +%s)-$$
train=("${environment[@]}" "JAX_PLATFORMS=$platforms" "$python" -m jaxalign.train "$@" --coordinator "${hosts[0]#*@}:$port" --processes "$count")
for ((number = 0; number < count; number++)); do
  begin "$number" on "${hosts[number]}" follow "$id" "${train[@]}" --process "$number"
done
finish request
