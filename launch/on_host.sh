#!/usr/bin/env bash
# What tpu_pod.sh and gpu_node.sh run on every host: a process that goes on when the connection to the host is lost.
#   launch/on_host.sh follow FOLDER ID COMMAND...  shows what COMMAND prints and ends with its exit code, after starting it, unless it was
#                                                  started under this ID or something runs in FOLDER; with SHOW=N only the last N lines
#                                                  that are there, and all later ones
#   launch/on_host.sh stop FOLDER [SECONDS]        asks it to save and end (SIGTERM), and kills it if it has not after that time (1), else 0;
#                                                  `follow` ends with 143 where it saved, else with its exit code
#   launch/on_host.sh running FOLDER               ends with 0 if something runs in FOLDER
# FOLDER lies on a disk of the host. It keeps the files lock, id, pid, log, code and, after `stop`, stopped.
set -euo pipefail
STOPPED=143               # exit code of what saved and ended, as somebody asked
RESTART=75                # exit code of what may be started again
GRACE_S=${GRACE_S:-600}   # for the save
START_S=${START_S:-20}    # until what was started has written its process id
(($# >= 2)) || { sed -n '2,/^[^#]/s/^# //p' "$0" >&2 && exit 2; }
action=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
shift 2

say() { echo "$HOSTNAME: $1" >&2; }
running() { ! flock -n "$folder/lock" true; }

start() { # ID COMMAND...
  rm -f "$folder"/{code,stopped,pid}
  echo "$1" >"$folder/id"
  : >"$folder/log"
  # The shell that waits outlives a SIGTERM to all, as of a host that is shut down, to write the code; it holds the lock, the command does not.
  # shellcheck disable=SC2016
  setsid bash -c '
    exec 9>"$1/lock"
    flock -n 9 || exit 0
    trap : TERM
    "${@:2}" 9>&- &
    echo $! >"$1/pid" || { kill -KILL $!; exit 1; }
    while kill -0 $! 2>/dev/null; do wait $! || true; done
    code=0
    wait $! || code=$?
    echo "$code" >"$1/code"' start "$folder" "${@:2}" >"$folder/log" 2>&1 </dev/null &
  for ((tenths = 0; tenths < START_S * 10; tenths++)); do
    if [[ -s $folder/pid ]]; then return; fi
    sleep 0.1
  done
  rm -f "$folder/id"
  say "nothing was started, as its process id could not be written to $folder within $START_S s; is the disk full? $(df -h "$folder" | tail -n 1)"
  return 1
}

follow() { # ID COMMAND...
  if running; then
    [[ $(<"$folder/id") == "$1" ]] || say "follows the run that is going on"
  elif [[ ! -s $folder/id || $(<"$folder/id") != "$1" ]]; then
    start "$@"
  fi
  tail -n "${SHOW:-+1}" -s 0.2 --pid "$(<"$folder/pid")" -f "$folder/log"
  while running; do sleep 0.1; done
  if [[ ! -s $folder/code ]]; then say "the run ended without an exit code; was the host started anew?" && return "$RESTART"; fi
  code=$(<"$folder/code")
  if ((code == 255)); then code=1; fi # ssh itself ends with 255
  if [[ -e $folder/stopped && $code =~ ^(0|$RESTART)$ ]]; then return "$STOPPED"; fi
  return "$code"
}

stop() { # [SECONDS]
  local grace=${1:-$GRACE_S}
  if ! running; then say "nothing runs" && return; fi
  : >"$folder/stopped"
  kill -TERM "$(<"$folder/pid")" 2>/dev/null || true
  say "asked to save and end"
  for ((tenths = 0; tenths < grace * 10; tenths++)); do
    running || return 0
    sleep 0.1
  done
  kill -KILL "$(<"$folder/pid")" 2>/dev/null || true
  say "killed after $grace s, so the run continues from its newest checkpoint; --grace SECONDS gives the save more time"
  return 1
}

case $action in
  follow) follow "$@" ;;
  stop) stop "$@" ;;
  running) running ;;
  *) say "unknown: $action" && exit 2 ;;
esac
