#!/usr/bin/env bash
# A TPU slice on Google Cloud, or several: TPU VMs from a queued resource, one process per host.
#   launch/tpu_pod.sh run --name NAME --zone ZONE --type TYPE --version VERSION [OPTIONS] \
#     --config FILE.py --workdir FOLDER [FLAGS of jaxalign.train]
#   launch/tpu_pod.sh status|stop|delete --name NAME --zone ZONE [--slices N] [--project PROJECT] [--grace SECONDS]
# `run` asks for the slice unless it is there, waits for it, copies this checkout to every host (what git lists, as it is on disk),
# installs it, starts the same command on all hosts and shows what they print. After a pre-emption (exit code 75, or the slice is gone) it
# does so again, and the run continues. Any other exit code of the run ends it, and so does the end of the request (`delete`). When this shell
# ends or the connection is lost the run goes on; the same command shows it again. Where gcloud itself fails, as without a network or with an
# expired login, it is asked again for 21 minutes; what it does not tell is never taken for a slice that is gone, nor for the end of the run.
# `stop` saves and ends the run (143), `delete` gives the slice back. From --config on, everything is for jaxalign.train.
#   --type TYPE        accelerator type, such as v5litepod-16, v5p-128, v6e-64
#   --version VERSION  runtime version, such as v2-alpha-tpuv5-lite, v2-alpha-tpuv5, v2-alpha-tpuv6e
#   --slices N         so many slices of this type (1), which are called NAME-0, NAME-1, ...; with several also --config.mesh.data=N.
#                      Their hosts find each other by the metadata that the queued resource gives them; the lines of all but the
#                      first slice are marked with its number
#   --workdir FOLDER   all hosts see it; an absolute path. The disk of a TPU VM is lost with it: mount one that lasts with --prepare, or keep a
#                      copy in a bucket with --config.train.mirror
#   --env NAME=X       a variable of the run on all hosts, such as --env=HF_TOKEN=...; may be given several times
#   --grace SECONDS    of `stop`: for the save (600); what has not ended then is killed
#   --prepare COMMAND  runs on every host before the training, for example to mount that folder
#   --create FLAG      a further flag of `gcloud compute tpus queued-resources create`, such as --create=--spot; may be given several times
#   --project PROJECT  otherwise gcloud's own
#   --restarts N       at most (100)
# Needs gcloud, logged in, and once `ssh-add ~/.ssh/google_compute_engine`.
set -euo pipefail
# shellcheck source=launch/shared.sh
source "$(dirname "$0")/shared.sh"
STOPPED=75 UNREACHABLE=255 POLL_S=${POLL_S:-30}
FAILED=101 # what ran on a host ended with 1 or 255, the codes of gcloud and ssh for failures of their own
ATTEMPTS=9 PAUSE_S=${PAUSE_S:-5} # of a call of gcloud that fails; the pause doubles: 21 minutes in all
# what gcloud answers where it makes no sense to try again; it ends with 2 where it does not know a flag
FINAL='INVALID_ARGUMENT|PERMISSION_DENIED|FAILED_PRECONDITION|ALREADY_EXISTS|NOT_FOUND|OUT_OF_RANGE|UNIMPLEMENTED'
root=$(cd "$(dirname "$0")/.." && pwd)

action=${1:-}
[[ $action =~ ^(run|status|stop|delete)$ ]] || usage "the first word is run, status, stop or delete"
shift
name='' zone='' project='' type='' version='' slices=1 prepare=true create=(--quiet) restarts=100
environment=(env) grace=600
while (($#)) && [[ $1 != --config* ]]; do
  [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
  (($# > 1)) || usage "$1 has no value, or --config is missing"
  case $1 in
    --name) name=$2 ;;
    --zone) zone=$2 ;;
    --project) project=$2 ;;
    --type) type=$2 ;;
    --version) version=$2 ;;
    --slices) slices=$2 ;;
    --prepare) prepare=$2 ;;
    --create) create+=("$2") ;;
    --restarts) restarts=$2 ;;
    --env)
      [[ $2 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || usage "--env $2 is not NAME=VALUE"
      environment+=("$2")
      ;;
    --grace) grace=$2 ;;
    *) usage "unknown option $1; the flags of jaxalign.train stand after --config" ;;
  esac
  shift 2
done
[[ $name ]] || usage "--name is missing"
[[ $zone ]] || usage "--zone is missing"
[[ $restarts =~ ^[0-9]+$ ]] || usage "--restarts $restarts is no whole number"
[[ $grace =~ ^[0-9]+$ ]] || usage "--grace $grace is no whole number"
[[ $slices =~ ^[1-9][0-9]*$ ]] || usage "--slices $slices is no number from 1"
where=(--zone "$zone")
[[ ! $project ]] || where+=(--project "$project")
folder=.jaxalign/$name # of the run, in the home folder of every host
temporary=$(mktemp -d) followers=() workdir=''
REPLACED="lies in the checkout on the hosts, which each start replaces; choose a folder on a disk that lasts, such as /mnt/runs/NAME"
if ((slices == 1)); then
  nodes=("$name") as=(--node-id "$name") kind="$type" all="the slice is" one="the slice"
else # gcloud counts from 2 on, and numbers the nodes from 0
  nodes=() as=(--node-count "$slices" --node-prefix "$name") kind="$slices x $type" all="all slices are" one="a slice"
  for ((number = 0; number < slices; number++)); do nodes+=("$name-$number"); done
fi

say() { echo "$name: $1" >&2; }

tried() { # COMMAND of gcloud...: again after a pause where the network or the login fails; what gcloud says of errors is then in `words`
  local attempt pause=$PAUSE_S status
  for ((attempt = 1; ; attempt++)); do
    status=0
    "$@" 2>"$temporary/words" || status=$?
    if ((!status || status == 2 || status == 127 || attempt == ATTEMPTS)); then break; fi
    # the answer to an attempt before was lost
    if ((attempt > 1)) && grep -q ALREADY_EXISTS "$temporary/words"; then status=0; fi
    if ((!status)) || grep -qE "$FINAL" "$temporary/words"; then break; fi
    say "gcloud fails: $(grep -m 1 . "$temporary/words" || echo "exit code $status"); tries again in $pause s"
    sleep "$pause"
    pause=$((pause * 2))
  done
  return "$status"
}

patiently() { # COMMAND of gcloud...: the same, with gcloud's own words at last
  local status=0
  tried "$@" || status=$?
  cat "$temporary/words" >&2
  return "$status"
}

described() { # COMMAND of gcloud...: the state that it prints; nothing where what it describes is not there
  local status=0
  tried "$@" || status=$?
  if ((!status)) || grep -q NOT_FOUND "$temporary/words"; then return 0; fi
  cat "$temporary/words" >&2
  return "$status"
}

request() { gcloud compute tpus queued-resources "$1" "$name" "${where[@]}" "${@:2}"; }
request_state() { described request describe --format 'value(state.state)'; }
give_back() { patiently request delete --force --quiet; }

node_states() { # a word per slice
  local node states=() state
  for node in "${nodes[@]}"; do
    state=$(described gcloud compute tpus tpu-vm describe "$node" "${where[@]}" --format 'value(state)') || return
    states+=("${state:-none}")
  done
  echo "${states[*]}"
}

lasting() { # ARGUMENT of jaxalign.train...: refuses a --workdir that `install` deletes, and warns of one that is lost with the VM
  local before='' word mirror=''
  for word in "$@"; do
    case $before in
      --workdir) workdir=$word ;;
      --config.*train.mirror) mirror=$word ;;
    esac
    case $word in
      --workdir=*) workdir=${word#*=} ;;
      --config.*train.mirror=*) mirror=${word#*=} ;;
    esac
    before=$word
  done
  # how the home folder is written here; the hosts look where it is theirs, see `install`
  [[ ! $workdir/ =~ ^("~"[^/]*|"$HOME"|/[^/]+/"${USER:-$(id -un)}")/+jaxalign/ ]] || usage "--workdir $workdir $REPLACED"
  if [[ ! $mirror && ! $prepare =~ mount|fuse ]]; then
    say "--workdir $workdir is lost with the TPU VM, as by a pre-emption, unless it lies on a disk that lasts and that a start of the VM mounts.
  Mount one with --prepare, or keep a copy in a bucket: --config.train.mirror=gs://BUCKET/RUN (launch/README.md, \"Without a disk that lasts\")"
  fi
}

ready() { [[ $1 =~ ^READY(\ READY)*$ ]]; } # STATES
copy() { gcloud compute tpus tpu-vm scp "$2" "$1:jaxalign.tar.gz" "${where[@]}" --worker all; }
execute() {
  gcloud compute tpus tpu-vm ssh "$1" "${where[@]}" --worker all --command "trap 'case \$? in 1 | $UNREACHABLE) exit $FAILED ;; esac' EXIT
$2"
}
lost() { (($1 == 1 || $1 == UNREACHABLE)); } # CODE of gcloud: what runs on the hosts goes on
told() { echo $(($1 == FAILED ? 1 : $1)); } # CODE of a host: as the command there ended

on_slices() { # copy FILE | execute COMMAND: on all hosts of all slices at once; the exit code of the first that fails, but rather one of a host
  local number code=0 status
  if ((slices == 1)); then
    "$1" "$name" "$2"
    return
  fi
  set -m # a group of processes per slice, for `leave`
  for ((number = 0; number < slices; number++)); do
    if ((number)); then
      "$1" "${nodes[number]}" "$2" </dev/null > >(marked "$number") 2> >(marked "$number" >&2) &
    else
      "$1" "${nodes[number]}" "$2" </dev/null &
    fi
    followers+=($!)
  done
  set +m
  for ((number = 0; number < slices; number++)); do
    status=0
    wait "${followers[number]}" || status=$?
    if ((status)) && { ((code == 0)) || lost "$code"; }; then code=$status; fi
  done
  followers=()
  return "$code"
}

leave() { # what shows the run ends with this shell
  local number
  for ((number = 0; number < ${#followers[@]}; number++)); do kill -- "-${followers[number]}" 2>/dev/null || true; done
  [[ ! $temporary ]] || rm -rf "$temporary"
}
trap leave EXIT

ensure() { # [KNOWN]: waits until all slices are there; KNOWN is not empty where they were there before
  local request states line shown='' known=${1:-}
  while true; do
    states=$(node_states) || return
    ! ready "$states" || break
    request=$(request_state) || return
    line=${request:-asks for $kind}
    ((slices == 1)) || line+=" ($states)"
    [[ $line == "$shown" ]] || say "$line"
    shown=$line
    case $request in
      '')
        if [[ $known && $states =~ ^none(\ none)*$ ]]; then
          say "its request is gone, as it was deleted; nothing is asked for anew" && return 1
        fi
        [[ $type && $version ]] || usage "there is no slice ${nodes[0]} in $zone; --type and --version specify which to ask for"
        patiently request create "${as[@]}" --accelerator-type "$type" --runtime-version "$version" "${create[@]}" || return
        ;;
      SUSPENDED)
        give_back || return
        known=''
        continue
        ;;
      FAILED) say "the request failed: gcloud compute tpus queued-resources describe $name ${where[*]}" && return 1 ;;
      *) known=yes ;;
    esac
    sleep "$POLL_S"
  done
  say "$all ready"
}

archive() { # FILE: what git lists, as it is on disk
  local file
  git -C "$root" ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do if [[ -e $root/$file ]]; then printf '%s\0' "$file"; fi; done |
    tar -C "$root" --null -T - -czf "$1"
}

install() { # FILE: copies the archive and installs it, except where a run is going on
  on_slices copy "$1" && on_slices execute "set -e
if [ -x jaxalign/launch/on_host.sh ] && jaxalign/launch/on_host.sh running $(quoted "$folder"); then exit 0; fi
case \$(realpath -m -- $(quoted "$workdir"))/ in
  \"\$(pwd -P)\"/jaxalign/*) echo $(quoted "--workdir $workdir $REPLACED") >&2 && exit 2 ;;
esac
rm -rf jaxalign
mkdir jaxalign
tar -xzf jaxalign.tar.gz -C jaxalign
PATH=\$HOME/.local/bin:\$PATH
command -v uv || python3 -m pip install -q --user uv || python3 -m pip install -q --user --break-system-packages uv
[ -d jaxalign-python ] || uv venv -q --python 3.12 jaxalign-python
uv pip install -q --python jaxalign-python -e 'jaxalign[tpu]'
$prepare"
}

train() { # LINES ID ARGUMENT of jaxalign.train...: see SHOW of on_host.sh
  # shellcheck disable=SC2088
  on_slices execute "cd jaxalign && SHOW=$1 launch/on_host.sh follow ~/$(quoted "$folder" "$2" "${environment[@]}")~/jaxalign-python/bin/python $(
    quoted -m jaxalign.train "${@:3}" --coordinator auto --stopped-exit-code "$STOPPED"
  )"
}

run() { # ARGUMENT of jaxalign.train...
  local code restart=0 states known='' kept="$all still there: launch/tpu_pod.sh delete --name $name ${where[*]} gives back what costs"
  local id='' failures=0 pause=$PAUSE_S show=+1 began # of connections, since the last one that was there
  archive "$temporary/jaxalign.tar.gz"
  while true; do
    ensure "$known" || return
    known=yes
    : "${id:=$(date +%s)-$$-$restart}" # the same one shows what was started, and a new one starts anew
    say "copies $(du -h "$temporary/jaxalign.tar.gz" | cut -f1) to all hosts and installs them"
    code=0 began=$SECONDS
    { install "$temporary/jaxalign.tar.gz" && train "$show" "$id" "$@"; } || code=$?
    ((code)) || { say "the run is at its end; $kept" && return 0; }
    if ((code == STOPPED)); then
      say "the run ended with $STOPPED, after a save or as it lost a process or a host, see above; it continues"
    else
      states=$(node_states) || return
      if ! ready "$states"; then
        say "$one is gone (exit code $(told "$code")); the run continues on a new one from its newest checkpoint"
      elif lost "$code"; then
        ((SECONDS - began < 600)) || failures=0 pause=$PAUSE_S # gcloud itself tries for some minutes
        failures=$((failures + 1))
        if ((failures == ATTEMPTS)); then
          say "no connection to all hosts; what runs there goes on, and the same command shows it again; $kept"
          return "$UNREACHABLE"
        fi
        say "a host cannot be reached (exit code $code of gcloud); what runs there goes on; tries again in $pause s"
        sleep "$pause"
        pause=$((pause * 2)) show=100
        continue
      else
        code=$(told "$code")
        say "ended with exit code $code and is not started again; $kept"
        return "$code"
      fi
    fi
    id='' failures=0 pause=$PAUSE_S show=+1 restart=$((restart + 1))
    ((restart <= restarts)) || break
  done
  say "started again --restarts $restarts times; the same command continues"
  return "$STOPPED"
}

case $action in
  run)
    (($#)) || usage "--config is missing"
    [[ " $*" == *" --workdir"* ]] || usage "--workdir is missing: a folder that all hosts see"
    [[ ! " $*" =~ " --workdir"[\ =][a-z0-9]+:// ]] || usage "--workdir is a folder that all hosts see; train.mirror keeps a copy in a bucket"
    # a path below the checkout on a host, which `install` deletes
    [[ " $*" =~ " --workdir"[\ =][/~] ]] || usage "--workdir is not absolute: write it as all hosts see it, such as /mnt/runs/NAME"
    lasting "$@"
    run "$@"
    ;;
  status)
    request=$(request_state)
    states=$(node_states)
    say "request: $request, slice$( ((slices == 1)) || echo s): $states"
    ;;
  stop)
    code=0
    on_slices execute "jaxalign/launch/on_host.sh stop $(quoted "$folder" "$grace")" || code=$?
    exit "$(told "$code")"
    ;;
  delete) give_back ;;
esac
