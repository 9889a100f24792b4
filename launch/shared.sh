#!/usr/bin/env bash
# Sourced by local.sh, gpu_node.sh and tpu_pod.sh: their usage, and processes that begin together and end together.

usage() { # [MESSAGE]: shows the script's header after it, and ends with 2
  [[ ! ${1:-} ]] || printf '%s\n\n' "$1" >&2
  sed -n '2,/^[^#]/s/^# //p' "$0" >&2
  exit 2
}

quoted() { # WORD...: one line for another shell
  printf '%q ' "$@"
}

PATIENCE_S=${PATIENCE_S:-15} # between the first failure and the request to the others to end, who mostly notice by themselves
GRACE_S=${GRACE_S:-60}       # between the request and the kill

marked() { # NUMBER: the lines of standard input, each after this number
  sed -u "s/^/[$1] /"
}

begin() { # NUMBER COMMAND...: in the background; the lines of all but the first process are marked with their number
  local number=$1
  shift
  ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || usage "several processes need bash 5.1 or newer; this is $BASH_VERSION"
  declare -gA numbers # process id -> number of the process of the run
  if ((number)); then "$@" > >(marked "$number") 2> >(marked "$number" >&2) & else "$@" & fi
  numbers[$!]=$number
}

finish() { # REQUEST [UNREACHABLE]: waits for all, and returns the exit code of the first that fails; REQUEST asks those that are left to
  # save and end, except where one ended with UNREACHABLE: it only shows a process, which goes on
  local request=$1 unreachable=${2:-0} lost=0 code=0 status pid number watch=
  # shellcheck disable=SC2064
  trap "$request" INT TERM
  while ((${#numbers[@]})); do
    status=0
    wait -n -p pid "${!numbers[@]}" || status=$?
    [[ ${pid:-} ]] || continue # a signal came
    number=${numbers[$pid]}
    unset "numbers[$pid]"
    ((status)) || continue
    echo "process $number ended with exit code $status" >&2
    if ((status == unreachable)); then lost=$status && continue; fi
    ((code == 0)) || continue
    code=$status
    ((${#numbers[@]})) || continue
    { sleep "$PATIENCE_S" && "$request" && sleep "$GRACE_S" && kill -KILL "${!numbers[@]}"; } >/dev/null 2>&1 &
    watch=$!
  done
  [[ ! $watch ]] || kill "$watch" 2>/dev/null || true
  return $((code ? code : lost))
}
