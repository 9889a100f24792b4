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
# ssh must work without a password. Ctrl-C or `stop` saves and ends everywhere. A host that cannot be reached at the start ends it with 255,
# before anything runs. When a connection is lost later the run goes on, and the host is asked again for 20 minutes; when this shell ends the
# same command shows the run again. Exit code: that of the first process that fails, 143 after a stop, 255 where no connection is left, or 0.
set -euo pipefail
# shellcheck source=launch/shared.sh
source "$(dirname "$0")/shared.sh"

hosts=() port=8476 dir=$(cd "$(dirname "$0")/.." && pwd) python=$(command -v python || true) name=jaxalign action=run
environment=(env) grace=600
UNREACHABLE=255 POLL_S=${POLL_S:-15} LOST_S=${LOST_S:-1200} # exit code of ssh itself; a lost host is asked so often, and for so long
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

in_checkout() { # HOST LINE: runs it there
  ssh -n -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30 "$1" "cd $(quoted "$dir") && $2"
}
on() { # HOST ACTION ARGUMENT...: runs on_host.sh there
  in_checkout "$1" "$(quoted env "SHOW=${show:-+1}" launch/on_host.sh "$2" "/tmp/jaxalign-$USER/$name" "${@:3}")"
}
follow() { # HOST ARGUMENT...: as on_host.sh; a connection that is lost is made again, as the process goes on without it
  local status began since='' show=+1
  while true; do
    status=0 began=$SECONDS
    on "$1" follow "${@:2}" || status=$?
    if ((status != UNREACHABLE)) || [[ -e $temporary/asked ]]; then return "$status"; fi
    if [[ ! $since ]] || ((SECONDS - began > 60)); then # it was there in between
      since=$SECONDS
      echo "$1: the connection is lost; what runs there goes on, and is shown again when the host answers" >&2
    elif ((SECONDS - since >= LOST_S)); then
      echo "$1: no answer for $LOST_S s; what runs there goes on, and the same command shows it again" >&2
      return "$status"
    fi
    sleep "$POLL_S"
    show=100
  done
}
request() {
  local host
  : >"$temporary/asked"
  for host in "${hosts[@]}"; do on "$host" stop "$grace" & done
}
if [[ $action == stop ]]; then
  code=0
  for ((number = 0; number < count; number++)); do begin "$number" on "${hosts[number]}" stop "$grace"; done
  finish true || code=$?
  exit "$code"
fi

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
for ((number = 0; number < count; number++)); do begin "$number" in_checkout "${hosts[number]}" "ls launch/on_host.sh >/dev/null"; done
finish true
id=$(date +%s)-$$
train=("${environment[@]}" "JAX_PLATFORMS=$platforms" "$python" -m jaxalign.train "$@" --coordinator "${hosts[0]#*@}:$port" --processes "$count")
for ((number = 0; number < count; number++)); do
  begin "$number" follow "${hosts[number]}" "$id" "${train[@]}" --process "$number"
done
finish request "$UNREACHABLE"
