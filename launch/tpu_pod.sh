#!/usr/bin/env bash
# A TPU slice on Google Cloud: TPU VMs from a queued resource, one process per host.
#   launch/tpu_pod.sh run --name NAME --zone ZONE --type TYPE --version VERSION [OPTIONS] \
#     --config FILE.py --workdir FOLDER [FLAGS of jaxalign.train]
#   launch/tpu_pod.sh status|stop|delete --name NAME --zone ZONE [--project PROJECT]
# `run` asks for the slice unless it is there, waits for it, copies this checkout to every host (what git lists, as it is on disk),
# installs it, starts the same command on all hosts and shows what they print. After a pre-emption (exit code 75, or the slice is gone) and
# when a host cannot be reached (255) it does so again, and the run continues. Any other exit code ends it. When this shell ends or the connection is lost the run goes on; the same
# command shows it again.
# `stop` saves and ends the run (143), `delete` gives the slice back. From --config on, everything is for jaxalign.train.
#   --type TYPE        accelerator type, such as v5litepod-16, v5p-128, v6e-64
#   --version VERSION  runtime version, such as v2-alpha-tpuv5-lite, v2-alpha-tpuv5, v2-alpha-tpuv6e
#   --workdir FOLDER   all hosts see it
#   --prepare COMMAND  runs on every host before the training, for example to mount that folder
#   --create FLAG      a further flag of `gcloud compute tpus queued-resources create`, such as --create=--spot; may be given several times
#   --project PROJECT  otherwise gcloud's own
#   --restarts N       at most (100)
# Needs gcloud, logged in, and once `ssh-add ~/.ssh/google_compute_engine`.
set -euo pipefail
# shellcheck source=launch/shared.sh
source "$(dirname "$0")/shared.sh"
STOPPED=75 UNREACHABLE=255 POLL_S=${POLL_S:-30}
root=$(cd "$(dirname "$0")/.." && pwd)

action=${1:-}
[[ $action =~ ^(run|status|stop|delete)$ ]] || usage "the first word is run, status, stop or delete"
shift
name='' zone='' project='' type='' version='' prepare=true create=(--quiet) restarts=100
while (($#)) && [[ $1 != --config* ]]; do
  [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
  (($# > 1)) || usage "$1 has no value, or --config is missing"
  case $1 in
    --name) name=$2 ;;
    --zone) zone=$2 ;;
    --project) project=$2 ;;
    --type) type=$2 ;;
    --version) version=$2 ;;
    --prepare) prepare=$2 ;;
    --create) create+=("$2") ;;
    --restarts) restarts=$2 ;;
    *) usage "unknown option $1; the flags of jaxalign.train stand after --config" ;;
  esac
  shift 2
done
[[ $name ]] || usage "--name is missing"
[[ $zone ]] || usage "--zone is missing"
[[ $restarts =~ ^[0-9]+$ ]] || usage "--restarts $restarts is no whole number"
where=(--zone "$zone")
[[ ! $project ]] || where+=(--project "$project")
folder=.jaxalign/$name # of the run, in the home folder of every host

say() { echo "$name: $1" >&2; }
tpus() { gcloud compute tpus "$1" "$2" "$name" "${where[@]}" "${@:3}"; }
node_state() { tpus tpu-vm describe --format 'value(state)' 2>/dev/null || true; }
request_state() { tpus queued-resources describe --format 'value(state.state)' 2>/dev/null || true; }
on_hosts() { tpus tpu-vm ssh --worker all --command "$1"; }
give_back() { tpus queued-resources delete --force --quiet; }

ensure() { # waits until the slice is there
  local request shown=none
  until [[ $(node_state) == READY ]]; do
    request=$(request_state)
    [[ $request == "$shown" ]] || say "${request:-asks for $type}"
    shown=$request
    case $request in
      '')
        [[ $type && $version ]] || usage "there is no slice $name in $zone; --type and --version specify which to ask for"
        tpus queued-resources create --node-id "$name" --accelerator-type "$type" --runtime-version "$version" "${create[@]}"
        ;;
      SUSPENDED) give_back && continue ;;
      FAILED) say "the request failed: gcloud compute tpus queued-resources describe $name ${where[*]}" && return 1 ;;
    esac
    sleep "$POLL_S"
  done
  say "the slice is ready"
}

archive() { # FILE: what git lists, as it is on disk
  local file
  git -C "$root" ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do if [[ -e $root/$file ]]; then printf '%s\0' "$file"; fi; done |
    tar -C "$root" --null -T - -czf "$1"
}

install() { # FILE: copies the archive and installs it, except where a run is going on
  gcloud compute tpus tpu-vm scp "$1" "$name:jaxalign.tar.gz" "${where[@]}" --worker all &&
    on_hosts "set -e
if [ -x jaxalign/launch/on_host.sh ] && jaxalign/launch/on_host.sh running $(quoted "$folder"); then exit 0; fi
rm -rf jaxalign
mkdir jaxalign
tar -xzf jaxalign.tar.gz -C jaxalign
PATH=\$HOME/.local/bin:\$PATH
command -v uv || python3 -m pip install -q --user uv || python3 -m pip install -q --user --break-system-packages uv
[ -d jaxalign-python ] || uv venv -q --python 3.12 jaxalign-python
uv pip install -q --python jaxalign-python -e 'jaxalign[tpu]'
$prepare"
}

train() { # ID ARGUMENT of jaxalign.train...
  # shellcheck disable=SC2088
  on_hosts "cd jaxalign && launch/on_host.sh follow ~/$(quoted "$folder" "$1")~/jaxalign-python/bin/python -m jaxalign.train $(
    quoted "${@:2}" --coordinator auto --stopped-exit-code "$STOPPED"
  )"
}

run() { # ARGUMENT of jaxalign.train...
  local code restart
  temporary=$(mktemp -d)
  trap 'rm -rf "$temporary"' EXIT
  archive "$temporary/jaxalign.tar.gz"
  for ((restart = 0; restart <= restarts; restart++)); do
    ensure
    say "copies $(du -h "$temporary/jaxalign.tar.gz" | cut -f1) to all hosts and installs them"
    code=0
    { install "$temporary/jaxalign.tar.gz" && train "$(date +%s)-$$-$restart" "$@"; } || code=$?
    if ((code == STOPPED)); then
      say "the run saved and ended, as it was pre-empted; it continues"
    elif ((code)) && [[ $(node_state) != READY ]]; then
      say "the slice is gone (exit code $code); the run continues on a new one from its newest checkpoint"
    elif ((code == UNREACHABLE)); then
      say "a host cannot be reached; tries again"
    else
      ((code == 0)) || say "ended with exit code $code and is not started again"
      return "$code"
    fi
  done
  say "started again --restarts $restarts times; the same command continues"
  return "$STOPPED"
}

case $action in
  run)
    (($#)) || usage "--config is missing"
    [[ " $*" == *" --workdir"* ]] || usage "--workdir is missing: a folder that all hosts see"
    run "$@"
    ;;
  status) say "request: $(request_state), slice: $(node_state)" ;;
  stop) on_hosts "jaxalign/launch/on_host.sh stop $(quoted "$folder")" ;;
  delete) give_back ;;
esac
